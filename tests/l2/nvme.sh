#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: an assigned NVMe disk is read by an unmodified guest, with MSI-X
# kind: l1
# tier: 2
# takes: 40
# timeout: 300
# l1: modules=none devices=nvme

load_kvm
l2_start g -w last -- -device "vfio-pci,host=$(bind_vfio nvme)"
l2_wait g
# shellcheck disable=SC2016 # expands in the guest
l2_run g 'n=0; until [ -b /dev/nvme0n1 ]; do
		n=$((n + 1)); [ $n -lt 30 ] || exit 1; sleep 1; done
	  dd if=/dev/nvme0n1 of=/dev/null bs=64k count=16' ||
	fail "the guest cannot read the disk"
interrupts=$(l2_run g 'grep nvme0q1 /proc/interrupts' | awk '{ print $2 }')
assert "${interrupts:-0} > 0" "interrupts of the disk's queue in the guest"
l2_stop g
