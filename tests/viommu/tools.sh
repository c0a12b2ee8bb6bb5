#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: viommu-run, viommu-dmar, the preloaded library and viommu-stat do what they say, without KVM
# kind: host
# tier: 2
# takes: 6
# timeout: 300

set -euo pipefail

tap=${BUILD:-build}/viommu-tools.tap
for test in tools/kvm/viommu/selftest*.sh; do
	"$test" >"$tap" 2>&1 || {
		grep -v '^ok' "$tap"
		exit 1
	}
	echo "${test##*/}: $(tail -n 1 "$tap")"
done
