#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Verify that eli-stat does what eli-stat(8) says, with files in place of the
# kernel's.  Output is TAP; the exit status is 0 if all is well, 1 otherwise.

cd "$(dirname "$0")"
. ../lib/tap.sh
export PYTHONDONTWRITEBYTECODE=1 KVM_VMS_ROOT=$tmp/fs

# Run eli-stat; it must have this exit status, and print exactly this.
stat_is() # NAME STATUS OUTPUT ARGUMENT...
{
	expect "$1" "$2" "$3" ./eli-stat "${@:4}"
}

json() # NAME EXPRESSION ARGUMENT...
{
	./eli-stat --json "${@:3}" >"$tmp/json" 2>"$tmp/err" || :
	check_json "$1" "$2"
}

# A VM with two vCPUs, threads PID + 1 and PID + 2.
make_vm() # PID CPUS-OF-VCPU-0 CPUS-OF-VCPU-1
{
	local pid=$1 vm=sys/kernel/debug/kvm/$1-12 i cpus=("${@:2}")

	put "proc/$pid/comm" "qemu \"$pid\""
	for i in 0 1; do
		put "$vm/vcpu$i/pid" $((pid + 1 + i))
		put "proc/$pid/task/$((pid + 1 + i))/status" \
			"Name: x"$'\n'"Cpus_allowed_list:	${cpus[i]}"
	done
	put "$vm/exits" 1000
	put "$vm/irq_exits" 100
	put "$vm/irq_injections" 50
	put "$vm/halt_exits" 10
	put "$vm/pages_4k" 7
	mkdir -p "$tmp/fs/proc/$pid/fd"
}

check "installs" make -s DESTDIR="$tmp/dest" PREFIX=/usr install-tools
check "is installed, and runs from there" "$tmp/dest/usr/sbin/eli-stat" --version

### The command line

stat_is "--version" 0 "eli-stat 1" --version
check "--help tells all" grep -q -- --why <(./eli-stat --help)
for i in 0 -1 x nan 1e9 ""; do
	check "-i '$i' is refused" grep -q "expected seconds, 0.01 to 86400" \
		<(./eli-stat "-i=$i" 2>&1; ./eli-stat "--interval=$i" 2>&1 || :)
done
for n in 0 x 1.5 99999999999; do
	check "-n '$n' is refused" grep -q "expected a number, 1 or more" \
		<(./eli-stat "--count=$n" 2>&1)
done
check "one form only" grep -q "not allowed with" <(./eli-stat --json --why 2>&1)
stat_is "no KVM" 1 "eli-stat: $tmp/fs/sys/kernel/debug/kvm: not there; is KVM loaded, and debugfs mounted?"
mkdir -p "$tmp/fs/sys/kernel/debug/kvm"

### Stock KVM

stock="host: KVM has no ELI, these are stock modules
host: the CPU does not deliver interrupts to guests by itself (AVIC and APICv are off), so each of an assigned device costs two exits or so"
stat_is "no VM" 0 "     pid command         vcpus direct   dev-irq     exits  irq-exit    inject   entries  host-irq why"
stat_is "no VM, why" 0 "$stock
no VM runs" --why
json "no VM, JSON" "r['vms'] == [] and r['eli'] is False and r['hardware'] is None"

put proc/interrupts \
"           CPU0       CPU1
  4:          5          7   IO-APIC   4-edge      ttyS0
 24:         70         30   PCI-MSIX-0000:00:06.0   0-edge      vfio-msix[0](0000:00:06.0)
 25:          0         11   PCI-MSIX-0000:00:06.0   1-edge      vfio-msix[1](0000:00:06.0)
 26:          0          3   PCI-MSIX-0000:00:07.0   0-edge      nvme0q0
NMI:          0          9   Non-maskable interrupts"
mkdir -p "$tmp/fs/sys/kernel/iommu_groups/9/devices/"{0000:00:06.0,0000:00:01.0} \
	"$tmp/fs/sys/bus/pci/drivers/"{vfio-pci,pcieport} \
	"$tmp/fs/sys/bus/pci/devices/"{0000:00:06.0,0000:00:01.0}
ln -s ../../drivers/vfio-pci "$tmp/fs/sys/bus/pci/devices/0000:00:06.0/driver"
ln -s ../../drivers/pcieport "$tmp/fs/sys/bus/pci/devices/0000:00:01.0/driver"
make_vm 100 1 0-1
make_vm 20 0-1 0-1
ln -s /dev/vfio/vfio "$tmp/fs/proc/100/fd/8"
ln -s /dev/vfio/9 "$tmp/fs/proc/100/fd/9"

stat_is "stock, text" 0 \
"     pid command         vcpus direct   dev-irq     exits  irq-exit    inject   entries  host-irq why
      20 qemu \"20\"           2    0/0         0      1000       100        50         0         0 no ELI
     100 qemu \"100\"          2    0/0       111      1000       100        50         0         0 no ELI"
stat_is "stock, why" 0 "$stock
qemu \"100\", pid 100: 2 vCPUs, 1 assigned device
  0000:00:06.0 (vfio-pci): the host has handled 111 of its interrupts
  each of its interrupts goes through the host" --why 100
stat_is "another process" 1 "eli-stat: 7: the process has no VM" 7
put sys/module/kvm_amd/parameters/avic Y
check "AVIC is told" grep -q "KVM uses AVIC" <(./eli-stat --why)
json "AVIC, JSON" "r['hardware'] == 'AVIC'"
put sys/module/kvm_amd/parameters/avic N

### ELI

put sys/module/kvm/parameters/eli N
check "off is told" grep -q "ELI is off: load kvm with eli=1" <(./eli-stat --why)
put sys/module/kvm/parameters/eli Y
put sys/module/kvm/parameters/eli_eoi Y
vm=sys/kernel/debug/kvm/100-12
put sys/kernel/debug/kvm/20-12/eli "no IRQ is assigned to this VM"
put "$vm/eli_direct" 500
put "$vm/eli_reflect_limit" 3
put "$vm/eli_reflect_gate" 4
state() # VCPU-0 VCPU-1 [IRQ]
{
	put "$vm/eli" "irq 24: gsi 27, cpu 1, host vector 36, vcpu 0, guest vector 39
irq 25: gsi 28, cpu 0, host vector 37, ${3:-vcpu 1, guest vector 40}
view 1: gfn 1e02, 1 vcpus, 37 gates
vcpu 0: mode direct, cpu 1, view 1, gates 0+37, holds back: yes, why not direct: $1
  host vector 36 -> guest vector 39
vcpu 1: mode off, cpu 0, view 0, gates 0+0, holds back: no, why not direct: $2"
}
on="host: ELI is on; interrupts are completed without exits
qemu \"100\", pid 100: 2 vCPUs, 1 assigned device
  0000:00:06.0 (vfio-pci): the host has handled 111 of its interrupts"

state none affinity
stat_is "text" 0 \
"     pid command         vcpus direct   dev-irq     exits  irq-exit    inject   entries  host-irq why
     100 qemu \"100\"          2    1/2       111      1000       100        50       500         7 affinity" 100
stat_is "why: affinity" 0 "$on
  vcpu 0: 1 interrupt, direct
  vcpu 1: 1 interrupt, not direct: affinity: an interrupt is not, or not yet, on the vCPU's CPU
    pin the vCPU to a CPU
    thread 102 may run on CPUs 0-1: pin it to one, or its interrupts follow it late" \
	--why 100
json "JSON" "vm[100]['direct'] == 1 and vm[100]['wanting'] == 2 and
	vm[100]['counters']['device_irqs'] == 111 and
	'pages_4k' not in vm[100]['counters'] and
	vm[100]['irqs'][0] == {'irq': 24, 'cpu': 1, 'host_vector': 36, 'vcpu': 0,
			       'guest_vector': 39} and
	vm[100]['vcpus'][0] == {'id': 0, 'tid': 101, 'cpus': '1', 'mode': 'direct',
				'reason': 'none', 'irqs': 1, 'note': ''} and
	vm[100]['devices'] == [{'address': '0000:00:06.0', 'driver': 'vfio-pci',
				'irqs': 111}] and
	vm[20]['why'] == 'no irqs' and vm[20]['vcpus'][0]['mode'] is None"
put proc/20/comm $'qemu\e[31m\xc2\x9b31m'
check "names of processes do nothing to a terminal" grep -q '^ *20 qemu?\[31m?31m ' \
	<(./eli-stat 20)
check "why: no device" grep -q "  no device is assigned" <(./eli-stat --why 20)

put proc/irq/26/effective_affinity_list 1
put proc/irq/4/effective_affinity_list 0
put proc/irq/24/effective_affinity_list 1
state "vector, the host uses vector 35" none
stat_is "why: vector" 0 "$on
  vcpu 0: 1 interrupt, not direct: vector: another device of the host has a vector below the guest's (the host uses vector 35)
    keep interrupts of other devices off this CPU (irqaffinity=, /proc/irq/*/smp_affinity_list)
    on CPU 1 are: 26 (nvme0q0)
  vcpu 1: 1 interrupt, direct
    thread 102 may run on CPUs 0-1: pin it to one, or its interrupts follow it late" \
	--why 100

state "none" none "no single vcpu"
json "an unrouted one" "vm[100]['why'] == 'unrouted' and vm[100]['wanting'] == 1"
check "why: unrouted" grep -q "  1 interrupt through the host: masked" \
	<(./eli-stat --why 100)
state "none" none
json "all are direct" "vm[100]['why'] == 'direct' and vm[100]['direct'] == 2"
put "$vm/halt_exits" 400
check "why: halts" grep -q "  40 % of its exits are for halting" <(./eli-stat --why 100)
put "$vm/eli" "off for good: remapped
$(cat "$tmp/fs/$vm/eli")"
check "why: off for good" grep -q "  off for good: the guest maps its IDT elsewhere" \
	<(./eli-stat --why 100)

# Each reason that the kernel knows is explained, where its source is at hand.
source=../../../arch/x86/kvm/eli/eli.c
if [[ -e $source ]]; then
	check "all reasons" python3 -c '
import re, sys
source, tool = (open(name).read() for name in sys.argv[1:])
kernel = set(re.findall(r"\bELI_REASON\([A-Z_]+, (\w+)\)|\.name = \"(\w+)\"", source))
kernel = {a or b for a, b in kernel}
known = set(re.findall(r"^    \"(\w+)\": \(", tool, re.MULTILINE)) | {"none"}
assert len(kernel) > 5 and kernel == known, kernel ^ known' "$source" eli-stat
else
	result ok "all reasons # SKIP no source of the kernel"
fi

### Rates and Prometheus

mkfifo "$tmp/pipe"
PYTHONUNBUFFERED=1 ./eli-stat -i 1 -n 2 100 >"$tmp/pipe" &
pid=$!
{
	read -r _
	read -r _
	put "$vm/exits" 3000
	put "$vm/irq_exits" 3
	cat >"$tmp/rest"
} <"$tmp/pipe"
wait "$pid"
# shellcheck disable=SC2016 # for awk
check "events per second" awk '{ exit !($7 > 300 && $7 <= 2000 && $8 == 0 && $6 == 0) }' \
	"$tmp/rest"
check "one object a line" test "$(./eli-stat --json -n 3 -i 0.01 | grep -c '^{.*}$')" == 3
./eli-stat --prometheus >"$tmp/got"
check_prometheus kvm_eli_vcpus_direct
check "Prometheus: values" grep -qx \
	'kvm_eli_vcpus_direct{pid="100",vm="100-12",command="qemu \\"100\\""} 2' "$tmp/got"
check "Prometheus: counters" grep -q '^kvm_device_irqs_total{pid="100".* 111$' "$tmp/got"
if [[ -e /dev/full ]]; then
	check "a full disk" grep -q "No space left on device" \
		<(./eli-stat 2>&1 >/dev/full)
else
	result ok "a full disk # SKIP no /dev/full"
fi

finish
