#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Verify that viommu-stat does what viommu-stat(8) says, with files in place of the
# kernel's.  Output is TAP; the exit status is 0 if all is well, 1 otherwise.

cd "$(dirname "$0")"
. ../lib/tap.sh
export PYTHONDONTWRITEBYTECODE=1 KVM_VMS_ROOT=$tmp/fs

# Run viommu-stat; it must have this exit status, and print exactly this.
stat_is() # NAME STATUS OUTPUT ARGUMENT...
{
	expect "$1" "$2" "$3" ./viommu-stat "${@:4}"
}

# What it prints must have this line.
tells() # NAME LINE ARGUMENT...
{
	./viommu-stat "${@:3}" >"$tmp/got" 2>&1 || :
	if grep -qxF -- "$2" "$tmp/got"; then
		result ok "$1"
	else
		result not "$1" "$tmp/got"
	fi
}

json() # NAME EXPRESSION ARGUMENT...
{
	./viommu-stat --json "${@:3}" >"$tmp/json" 2>"$tmp/err" || :
	check_json "$1" "$2"
}

kvm=sys/kernel/debug/kvm

# A VM with a vCPU of thread PID + 1.
make_vm() # PID CPUS
{
	put "proc/$1/comm" "qemu"
	put "proc/$1/status" "VmLck:	    2048 kB"
	put "proc/$1/limits" \
"Limit                     Soft Limit           Hard Limit           Units
Max locked memory         ${3-8388608}              8388608              bytes"
	put "proc/$1/task/$(($1 + 1))/status" "Cpus_allowed_list:	$2"
	put "$kvm/$1-9/vcpu0/pid" $(($1 + 1))
	put "$kvm/$1-9/exits" 77
	mkdir -p "$tmp/fs/proc/$1/fd"
}

### Stock KVM

stat_is "--version" 0 "viommu-stat 1" --version
check "--help tells all" grep -q -- --why <(./viommu-stat --help)
stat_is "no KVM" 1 "viommu-stat: $tmp/fs/$kvm: not there; is KVM loaded, and debugfs mounted?"
mkdir -p "$tmp/fs/$kvm"
stat_is "no VM" 0 "host: KVM does not emulate IOMMUs, these are stock modules
no VM runs" --why

mkdir -p "$tmp/fs/sys/bus/pci/drivers/vfio-pci" \
	"$tmp/fs/sys/bus/pci/devices/"0000:01:00.{0,1} \
	"$tmp/fs/sys/kernel/iommu_groups/7/devices/0000:01:00.0"
for fn in 0 1; do
	ln -s ../../drivers/vfio-pci "$tmp/fs/sys/bus/pci/devices/0000:01:00.$fn/driver"
done
make_vm 20 0-3 unlimited
make_vm 100 1
ln -s /dev/vfio/7 "$tmp/fs/proc/100/fd/5"
header="     pid command         mode        maps   unmaps    inval    exits busy% vain% mapped locked why"
stat_is "without units" 0 "$header
      20 qemu            -              0        0        0        0     -     -      0   2.0M no device
     100 qemu            -              0        0        0        0     -     -      0   2.0M no unit"
stat_is "without units, why" 0 "host: KVM does not emulate IOMMUs, these are stock modules
qemu, pid 100: 1 assigned device
  no unit: its devices reach all of its memory; viommu-run(1) starts QEMU with one" \
	--why 100
json "without units, JSON" "r['viommu'] is False and r['teardown'] is None and
	vm[100]['unit'] is None and vm[100]['devices'] == ['0000:01:00.0'] and
	vm[100]['locked_max'] == 8388608 and vm[20]['locked_max'] is None and
	vm[100]['counters'] == {}"
put sys/module/kvm/parameters/viommu N
tells "off is told" "host: the in-kernel IOMMU is off: load kvm with viommu=1" --why

### A unit

put sys/module/kvm/parameters/viommu Y
put sys/module/kvm/parameters/viommu_teardown strict
no_sidecore="host: there is no sidecore: a guest exits at each change of its tables; load kvm with sidecore_cpus=, or start VMs with viommu-run --worker=task"
tells "no sidecore is told" "$no_sidecore" --why
ticks=$(getconf CLK_TCK)
put proc/11/comm kvm-sidecore/3
put proc/11/stat "11 (kvm (x) y) S 2 0 0 0 -1 1 0 0 0 0 $ticks $((ticks / 2)) 0 0"
tells "a sidecore is told" \
	"host: a sidecore on CPU 3, thread 11, which has used 1.5 s of it" --why

for c in maps=50 unmaps=40 iotlb_invalidations=90 traps=7 waits=90 busy_ns=5 pinned=512 \
	 limit=0 map_errors=0 faults=0 dma_faults=0 queue_errors=0; do
	put "$kvm/100-9/viommu_${c%=*}" "${c#*=}"
done
unit() # MODE WORKER TEARDOWN GSTS DEVICE-STATE...
{
	local state fn=0

	put "$kvm/100-9/viommu" "base 0xfed91000 mode $1 worker $2
root 0x1000 teardown $3 mapped 512 of 9000 pages
VER      0x10
GSTS     $4
FSTS     0x2
IQH      0x0"
	for state in "${@:5}"; do
		echo "device 00:10.$fn: $state" >>"$tmp/fs/$kvm/100-9/viommu"
		fn=$((fn + 1))
	done
	printf '%s\n' "domain 1: width 39 tables 0x2000 devices 1" \
		"  0x000000001000 -> gfn 0x5 4K rw" >>"$tmp/fs/$kvm/100-9/viommu"
}

unit direct "sidecore of CPU 3" strict 0xc4000000 "translated, domain 1"
stat_is "protected" 0 "$header
     100 qemu            direct        50       40       90        7     -     -   2.0M   2.0M protected" 100
on="host: the in-kernel IOMMU is on
host: a sidecore on CPU 3, thread 11, which has used 1.5 s of it
qemu, pid 100: 1 assigned device"
stat_is "protected, why" 0 "$on
  unit at 0xfed91000, mode direct, worker: sidecore of CPU 3
  00:10.0 of the guest reaches what the guest has mapped in domain 1
  what the guest has unmapped is out of reach when it is told so
  512 of 9000 pages mapped, 2.0M pinned; its process has locked 2.0M of 8.0M allowed" \
	--why 100
json "protected, JSON" "vm[100]['unit'] == {'base': 0xfed91000, 'mode': 'direct',
		'worker': 'sidecore of CPU 3', 'teardown': 'strict', 'enabled': True,
		'mapped_pages': 512, 'max_pages': 9000,
		'devices': [{'address': '00:10.0', 'state': 'translated', 'domain': 1}]} and
	r['sidecores'] == [{'cpu': 3, 'tid': 11, 'cpu_seconds': 1.5}] and
	vm[100]['pinned'] == 2 << 20 and vm[100]['counters']['viommu_maps'] == 50 and
	vm[20]['unit'] is None"

put "proc/101/x" ""
put "proc/100/task/101/status" "Cpus_allowed_list:	0,2-3"
tells "a vCPU on the sidecore's CPU" \
	"  vcpu 0, thread 101, may run on the sidecore's CPU 3: keep it off" --why 100

unit trapped none strict 0x44000000 "given back to the VMM"
json "translation is off" "vm[100]['why'] == 'off' and not vm[100]['unit']['enabled']"
tells "translation is off, why" \
	"  NOT PROTECTED: the guest has not turned translation on, its devices reach what their VMM has mapped, which is all of its memory as a rule" \
	--why 100
tells "no worker" "  each change of its tables is an exit, as there is no sidecore" --why 100

unit direct "sidecore of CPU 3" strict 0xc4000000 "given back to the VMM" "blocked" \
	"translated, domain 12"
json "some are not" "vm[100]['why'] == 'bypassed,blocked'"
tells "bypassed" "  00:10.0 of the guest NOT PROTECTED: reaches what its VMM has mapped, all of the guest's memory as a rule, as the guest wants it (Linux: iommu=pt)" --why
tells "blocked" "  00:10.1 of the guest reaches nothing: the guest has no valid context entry for it, as before its driver is loaded" --why

unit direct "a thread of the VM's own" optimistic 0xc4000000 "translated, domain 1"
put sys/module/kvm/parameters/viommu_teardown optimistic
json "late" "vm[100]['why'] == 'protected,optimistic' and r['teardown'] == 'optimistic'"
tells "late, why" "  teardown is optimistic: a device may reach a page for up to about 10 ms after the guest was told that it cannot" --why
tells "late, host" "host: viommu_teardown is optimistic: VMs are not protected strictly, unless their VMM asks for it" --why
put sys/module/kvm/parameters/viommu_teardown strict

for c in limit=1 map_errors=2 faults=5 dma_faults=4 queue_errors=3; do
	put "$kvm/100-9/viommu_${c%=*}" "${c#*=}"
done
json "trouble" "vm[100]['why'] == 'protected,optimistic,limit,map_errors,faults'"
tells "limit" "  1 page could not be mapped: limit of mapped pages" --why
tells "map errors" "  2 pages could not be mapped: no memory of the guest there, or it cannot be pinned, as RLIMIT_MEMLOCK (libvirt: hard_limit)" --why
tells "faults" "  5 faults told to the guest, whose log has them" --why
tells "blocked DMA" "    4 of these by the host's IOMMU, which blocked the access" --why
tells "queue errors" "  3 requests not understood: an error of the guest's driver, or something that the unit does not have" --why

unit trapped "sidecore of CPU 3" strict 0xc0000000 "translated, domain 1"
put "$kvm/100-9/viommu_traps" 2000
put "$kvm/100-9/viommu_waits" 2001
tells "not busy for long" "  2000 of its requests have exited, 2001 were waited for: it is not busy for long enough to be polled (kvm.viommu_poll_us)" --why
tells "no queue" "    the guest does not use the invalidation queue" --why
tells "pending faults" "    the guest leaves faults alone (FSTS 0x2)" --why

# What it looks for is what the kernel prints, where its source is at hand.
source=../../../arch/x86/kvm/viommu/debugfs.c
if [[ -e $source ]]; then
	for text in '"base 0x%llx mode %s worker "' '"sidecore of CPU %d\n"' \
		    '"root 0x%llx teardown %s mapped %llu of %llu pages\n"' \
		    '"given back to the VMM"' '"blocked"' '"translated"' \
		    '"device %02x:%02x.%x: %s"' '", domain %u"' '"%-8s 0x%llx\n"'; do
		check "the kernel prints $text" grep -qF -- "$text" "$source"
	done
else
	result ok "what the kernel prints # SKIP no source of the kernel"
fi

### Rates and Prometheus

mkfifo "$tmp/pipe"
PYTHONUNBUFFERED=1 ./viommu-stat -i 1 -n 2 100 >"$tmp/pipe" &
pid=$!
{
	read -r _
	read -r _
	put "$kvm/100-9/viommu_maps" 1050
	put "$kvm/100-9/viommu_unmaps" 3
	put "$kvm/100-9/viommu_busy_ns" 500000005
	cat >"$tmp/rest"
} <"$tmp/pipe"
wait "$pid"
# shellcheck disable=SC2016 # for awk
check "events per second, and shares of a CPU" awk '
	{ exit !($4 > 300 && $4 <= 1000 && $5 == 0 && $8 > 15 && $8 <= 50 && $9 == "0.0") }' \
	"$tmp/rest"
./viommu-stat --prometheus >"$tmp/got"
check_prometheus kvm_viommu_pinned
vm='{pid="100",vm="100-9",command="qemu"}'
for line in "kvm_viommu_devices$vm 1" "kvm_viommu_devices_translated$vm 1" \
	    "kvm_viommu_strict$vm 1" "kvm_viommu_direct$vm 0" \
	    "kvm_viommu_mapped_pages$vm 512" "kvm_viommu_max_pages$vm 9000" \
	    "kvm_viommu_locked_bytes$vm 2097152" "kvm_viommu_maps_total$vm 1050" \
	    'kvm_sidecore_cpu_seconds_total{cpu="3"} 1.5'; do
	check "Prometheus: ${line%%\{*}" grep -qxF "$line" "$tmp/got"
done
unit direct "sidecore of CPU 3" strict 0x40000000 "translated, domain 1"
./viommu-stat --prometheus >"$tmp/got"
check "Prometheus: nothing is translated when off" \
	grep -qxF "kvm_viommu_devices_translated$vm 0" "$tmp/got"

finish
