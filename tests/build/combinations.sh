#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: the patches of every combination of features apply, and pairs of them build
# kind: host
# tier: 2
# takes: 284
# timeout: 1800
# cores: 2

# Other tests build and run none, each feature alone, and all of them.

set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
kernel=$(realpath build/kernel/current)

for features in "" eli viommu vswap "eli viommu" "eli vswap" "viommu vswap" \
		"eli viommu vswap"; do
	scripts/stage-tree.sh "$kernel/source" "$tmp/tree" "${features:-none}"
	# What was staged is what was asked for.
	for f in eli viommu vswap; do
		if [[ " $features " == *" $f "* ]]; then
			grep -q "CONFIG_KVM_${f^^} := y" "$tmp/tree/Kbuild" ||
				{ echo "'$features' lacks $f"; exit 1; }
		elif grep -rlq "kvm_${f}_" "$tmp/tree/arch" "$tmp/tree/virt"; then
			echo "'$features' has code of $f"
			exit 1
		fi
	done
done

for features in "eli viommu" "eli vswap" "viommu vswap"; do
	make -s FEATURES="$features"
	for m in kvm kvm-amd kvm-intel; do
		[[ -s build/modules/${features// /+}/$m.ko ]] ||
			{ echo "no $m.ko of $features"; exit 1; }
	done
done
