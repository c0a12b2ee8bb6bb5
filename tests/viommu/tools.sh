#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: viommu-run, viommu-dmar and the preloaded library do what they say, without KVM
# kind: host
# tier: 2
# takes: 6
# timeout: 300

set -euo pipefail

tools/kvm/viommu/selftest.sh >"${BUILD:-build}/viommu-tools.tap" 2>&1 || {
	grep -v '^ok' "${BUILD:-build}/viommu-tools.tap"
	exit 1
}
tail -n 1 "${BUILD:-build}/viommu-tools.tap"
