#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: our modules load, run an unmodified guest, unload and load again
# kind: l1
# tier: 1
# takes: 60
# timeout: 400
# l1: modules=none spare=1

[[ $(modinfo -F filename kvm) == */updates/kvm.ko ]] ||
	fail "modprobe would not take the drop-in kvm.ko"
for round in 1 2; do
	load_kvm
	l2_start "g$round" -c 2
	l2_wait "g$round"
	[[ $(l2_run "g$round" uname -r) == $(uname -r) ]] ||
		fail "the guest does not run the distribution's kernel"
	l2_run "g$round" "grep -q KVMKVMKVM /proc/cpuinfo || dmesg | grep -q 'Hypervisor detected: KVM'" ||
		fail "the guest does not see KVM"
	(( $(l2_run "g$round" nproc) == 2 )) || fail "not two CPUs"
	l2_run "g$round" "exit 9"
	(( $? == 9 )) || fail "status of a guest's command was lost"
	l2_stop "g$round"
	unload_kvm || fail "the modules do not unload"
done
