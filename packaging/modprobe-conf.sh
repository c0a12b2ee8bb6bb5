#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Write the modprobe.d example for modules whose features have the parameters
# given:
#
#	modprobe-conf.sh [PARAMETER]...

. "$(dirname "$0")/../scripts/common.sh"

declare -A title=(
	[eli]="Interrupts of assigned devices without exits"
	[viommu]="An emulated IOMMU served by a sidecore"
	[vswap]="No superfluous swap I/O of overcommitted guests"
)

cat <<-'END'
	# Parameters of the alleviate KVM modules.  Copy this file to
	# /etc/modprobe.d/alleviate.conf and remove the "#" before an option; it
	# takes effect when kvm is loaded the next time.  Everything is off by
	# default, and /sys/module/kvm/parameters shows what is in effect.
END
if [[ $# == 0 ]]; then
	cat <<-'END'
		#
		# These modules have no feature with a parameter, so there is nothing to
		# set here.
	END
fi
for p in "$@"; do
	[[ ${title[$p]:-} ]] || die "there is no feature '$p'"
	printf '\n# %s.\n#options kvm %s=1\n' "${title[$p]}" "$p"
done
