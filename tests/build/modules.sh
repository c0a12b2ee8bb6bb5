#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: the modules build, are not rebuilt without need, and mismatches are named
# kind: host
# tier: 1
# takes: 20
# timeout: 1800
# cores: 2

set -euo pipefail
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

refuse()
{
	if make -s "${@:2}" >"$tmp/out" 2>&1; then
		echo "not refused: ${*:2}"
		exit 1
	fi
	grep -q -- "$1" "$tmp/out" || {
		echo "expected '$1', got:"
		cat "$tmp/out"
		exit 1
	}
}

kernel=build/kernel/$(readlink build/kernel/current)
tree=build/tree/$(readlink build/kernel/current)-amd64/none
make -s FEATURES=none
for m in kvm kvm-amd kvm-intel; do
	[[ $(modinfo -F vermagic "build/modules/none/$m.ko") == \
	   "$(readlink build/kernel/current)-amd64 "* ]] || {
		echo "$m.ko is not for the distribution's kernel"
		exit 1
	}
done

# Nothing changed: no object is newer than this.
touch "$tmp/mark"
make -s FEATURES=none
rebuilt=$(find "$tree" -name '*.o' -newer "$tmp/mark" -o -name '*.ko' -newer "$tmp/mark")
[[ ! $rebuilt ]] || { echo "rebuilt without need: $rebuilt"; exit 1; }

# One file changed: it alone is compiled again, and what it is linked into.
echo "/* changed */" >>"$tree/arch/x86/kvm/debugfs.c"
touch "$tmp/mark"
make -s FEATURES=none
rebuilt=$(cd "$tree" && find . -name '*.o' -newer "$tmp/mark" ! -name '*.mod.o' \
	! -name 'kvm*.o' ! -name .module-common.o)
[[ $rebuilt == ./arch/x86/kvm/debugfs.o ]] ||
	{ echo "a changed debugfs.c rebuilt: $rebuilt"; exit 1; }
! grep -q 'changed \*/' "$tree/arch/x86/kvm/debugfs.c" ||
	{ echo "staging left a changed file"; exit 1; }

refuse "unknown feature 'elli'" FEATURES=elli
refuse "is not a kernel build directory" KDIR="$tmp"
mkdir -p "$tmp/src/arch/x86/kvm"
printf 'VERSION = 6\nPATCHLEVEL = 12\nSUBLEVEL = 1\n' >"$tmp/src/Makefile"
refuse "source and headers must be of one version" \
	KDIR="$(realpath "$kernel/kdir")" KSRC="$tmp/src"
