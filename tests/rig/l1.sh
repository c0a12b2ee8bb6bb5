# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Helpers for bash code that runs inside of L1; sourced by rig.py's
# L1.script() and by tests of kind "l1".  Variables set for it: TOP, BUILD,
# RIG_SHARE (writable, visible to the host), RIG_KERNEL and RIG_INITRD (the L2
# guest's), RIG_AGENT, RIG_ACCEL, RIG_MODULES, RIG_FLAVOUR, RIG_SLOW
# (factor on time limits), RIG_WIRE_MAC.

set -uo pipefail

TRACING=/sys/kernel/tracing

# shellcheck disable=SC2034 # for the scripts that source this file
declare -A DEVICE=([igb]=0000:00:06.0 [edu]=0000:00:07.0 [nvme]=0000:00:08.0)

fail()
{
	echo "FAIL: $*" >&2
	exit 1
}

skip()
{
	echo "SKIP: $*"
	exit 4
}

# assert EXPRESSION MESSAGE...: EXPRESSION is shell arithmetic
assert()
{
	(( $1 )) || fail "${*:2} (not true: $1)"
}

# load_kvm [OPTION...]: load the modules for this CPU with kvm's options
load_kvm()
{
	modprobe kvm "$@" || fail "modprobe kvm $*"
	modprobe "$(vendor_module)" || fail "modprobe $(vendor_module)"
}

vendor_module()
{
	if grep -qw svm /proc/cpuinfo; then
		echo kvm_amd
	else
		echo kvm_intel
	fi
}

unload_kvm()
{
	modprobe -r "$(vendor_module)" && modprobe -r kvm
}

# disk SERIAL: the block device of a scratch disk
disk()
{
	local s

	for s in /sys/block/*/serial; do
		if [[ $(<"$s") == "$1" ]]; then
			s=${s%/serial}
			echo "/dev/${s##*/}"
			return
		fi
	done
	fail "no disk with the serial $1"
}

# bind_vfio NAME|ADDRESS: give a device to vfio-pci; prints its address
bind_vfio()
{
	local bdf=${DEVICE[$1]:-$1} dev=/sys/bus/pci/devices/${DEVICE[$1]:-$1}

	modprobe vfio-pci
	if [[ -e $dev/driver ]]; then
		echo "$bdf" >"$dev/driver/unbind"
	fi
	echo vfio-pci >"$dev/driver_override"
	echo "$bdf" >/sys/bus/pci/drivers_probe
	[[ $(readlink "$dev/driver") == */vfio-pci ]] ||
		fail "$1 ($bdf) is not bound to vfio-pci"
	echo "$bdf"
}

# Guests.  A guest has a name, a console and an agent.  QEMU writes consoles a
# character at a time, which a 9p share makes very slow; so they are written
# to /run/rig/NAME.console and copied to the share every few seconds (for when
# L1 crashes) and when bash exits.
trap 'cp /run/rig/*.console "$RIG_SHARE" 2>/dev/null' EXIT

# l2_start NAME [-m MIB] [-c CPUS] [-C CPU-MODEL] [-a "KERNEL PARAMETERS"] [-r ROOT]
#	   [-M MACHINE-OPTIONS] [-w CPULIST] [-p CPU] [-x "COMMAND"] [-- QEMU ARGUMENTS]
# -w pins all of QEMU to CPUs of L1 ("last": the highest), -p vCPU i alone to CPU + i,
# before it runs for the first time;
# -r is the guest's rig.root (default ram); -x is run with QEMU's command line.
#
# A character on the console is two exits to user space and more, and looking for devices
# on buses that are not there 8,000: a third of the time of booting.  What is no warning
# is in the guest's dmesg alone.
l2_start()
{
	local name=$1 mem=512 cpus=1 cpu=host append="" root=ram machine="" pin=() wrap=() opt
	local first="" paused=() pid task vcpu
	local OPTIND=1 OPTARG

	shift
	while getopts m:c:C:a:r:M:w:p:x: opt; do
		case $opt in
		m) mem=$OPTARG ;;
		c) cpus=$OPTARG ;;
		C) cpu=$OPTARG ;;
		a) append=$OPTARG ;;
		r) root=$OPTARG ;;
		M) machine=,$OPTARG ;;
		w) pin=(taskset -c "${OPTARG/last/$(($(nproc --all) - 1))}") ;;
		p) first=$OPTARG paused=(-S) ;;
		x) read -ra wrap <<<"$OPTARG" ;;
		*) fail "l2_start: bad option" ;;
		esac
	done
	shift $((OPTIND - 1))
	[[ ${1:-} == -- ]] && shift
	# On a slow host a guest is done with no tick before the next one is due; KVM
	# limits periodic ones, to 25 a second here.
	if (( RIG_SLOW > 1 )); then
		append+=" highres=off nohz=off lapic=notscdeadline"
		echo 40000 >/sys/module/kvm/parameters/min_timer_period_us
	fi
	mkdir -p /run/rig
	"${pin[@]}" "${wrap[@]}" qemu-system-x86_64 -name "$name,debug-threads=on" -nodefaults -no-user-config \
		-display none -machine "q35$machine" -accel kvm -cpu "$cpu" \
		-smp "$cpus" -m "${mem}M" -kernel "$RIG_KERNEL" \
		-initrd "$RIG_INITRD" -append \
		"console=ttyS0 loglevel=5 pci=lastbus=0 panic=-1 no_timer_check rig.root=$root rig.name=$name $append" \
		-no-reboot -serial "file:/run/rig/$name.console" \
		-chardev "socket,id=agent,path=/run/rig/$name.agent,server=on,wait=off" \
		-device virtio-serial-pci \
		-device virtserialport,chardev=agent,name=alleviate.agent \
		-chardev "socket,id=qmp,path=/run/rig/$name.qmp,server=on,wait=off" \
		-mon chardev=qmp,mode=control \
		-D "/run/rig/$name.stderr" \
		-pidfile "/run/rig/$name.pid" -daemonize "${paused[@]}" "$@" \
		2>"$RIG_SHARE/$name.qemu" || {
		cat "$RIG_SHARE/$name.qemu" >&2
		fail "QEMU did not start guest $name"
	}
	if [[ $first ]]; then
		pid=$(<"/run/rig/$name.pid")
		for task in "/proc/$pid/task/"*; do
			vcpu=$(sed -n 's,^CPU \([0-9]*\)/KVM$,\1,p' "$task/comm")
			[[ -z $vcpu ]] ||
				taskset -pc $((first + vcpu)) "${task##*/}" >/dev/null
		done
		qmp "$name" '{"execute": "cont"}' || fail "guest $name does not start"
	fi
	(
		trap - EXIT
		exec >/dev/null 2>&1
		while l2_alive "$name"; do
			cp "/run/rig/$name.console" "$RIG_SHARE"
			sleep 5
		done
	) &
}

# l2_wait NAME [SECONDS]: until its agent answers
l2_wait()
{
	local name=$1 end=$((SECONDS + ${2:-180} * RIG_SLOW))

	until timeout $((5 * RIG_SLOW)) "$RIG_AGENT" run "/run/rig/$name.agent" true 2>/dev/null; do
		l2_alive "$name" || fail "while booting: $(l2_ended "$name")"
		(( SECONDS < end )) || fail "guest $name did not boot in time, $(l2_autopsy "$name"); at the end: $(tail -n 1 "/run/rig/$name.console")"
		sleep $((RIG_SLOW / 2)).5
	done
}

# l2_autopsy NAME: what a guest that does not answer is doing.  Prints a line; details
# are in $RIG_SHARE/NAME.autopsy.
l2_autopsy()
{
	local name=$1 out=$RIG_SHARE/$1.autopsy pid task first second

	pid=$(l2_pid "$name")
	first=$(kvm_counters | awk '$1 == "kvm.exits" { print $2 }')
	{
		for _ in 1 2 3; do
			sleep 1
			echo "== vCPUs"
			timeout 20 bash -c "$(declare -f qmp); qmp \"\$@\"" - "$name" '{"execute":
				"human-monitor-command", "arguments":
				{"command-line": "info registers -a"}}'
		done
		echo "== counters"
		kvm_counters | sort
		for task in "/proc/$pid/task/"*; do
			echo "== $(<"$task/comm")"
			cat "$task/stat" "$task/wchan" "$task/stack"
		done
		echo "== L1"
		cat /proc/loadavg /proc/interrupts
	} >"$out" 2>&1
	second=$(kvm_counters | awk '$1 == "kvm.exits" { print $2 }')
	echo "$((second - first)) exits in the last seconds," \
		"$(grep -oE '\b[RE]IP=[0-9a-f]+|HLT=[01]' "$out" | sort | uniq -c |
			awk '{ printf "%s%sx%d", n++ ? " " : "", $2, $1 }')"
}

l2_pid()
{
	cat "/run/rig/$1.pid"
}

l2_alive()
{
	[[ -e /run/rig/$1.pid ]] && kill -0 "$(l2_pid "$1")" 2>/dev/null
}

# l2_ended NAME: why a QEMU is gone that nobody has told to go, as far as it is known.
# A guest that panics says so on its console, QEMU when it gives up, and L1 when it
# kills QEMU (print-fatal-signals of tests/rig/init); what is left is a triple fault.
l2_ended()
{
	echo "guest $1 ended;" \
		"console: $(tail -n 3 "/run/rig/$1.console" 2>&1);" \
		"QEMU: $(cat "$RIG_SHARE/$1.qemu" "/run/rig/$1.stderr" 2>&1);" \
		"L1: $(dmesg | tail -n 3)"
}

# l2_run NAME COMMAND...: in the guest, with its output and status
l2_run()
{
	local status

	timeout "$((${L2_TIMEOUT:-300} * RIG_SLOW))" "$RIG_AGENT" run "/run/rig/$1.agent" "${*:2}"
	status=$?
	# The agent's way to say that the other end is gone.
	if (( status == 255 )); then
		sleep 1
		if l2_alive "$1"; then
			echo "guest $1 runs, but its agent hung up" >&2
		else
			l2_ended "$1" >&2
		fi
	fi
	return "$status"
}

# l2_stop NAME: end the guest; waits until QEMU is gone
l2_stop()
{
	local pid

	pid=$(l2_pid "$1" 2>/dev/null) || return 0
	kill "$pid" 2>/dev/null
	for _ in {1..100}; do
		kill -0 "$pid" 2>/dev/null || break
		sleep 0.1
	done
	kill -KILL "$pid" 2>/dev/null
	rm -f "/run/rig/$1.pid" "/run/rig/$1.agent"
}

# qmp NAME COMMAND: tell the guest's QEMU something; its errors are ours
qmp()
{
	python3 - "/run/rig/$1.qmp" "$2" <<'END'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw")
f.readline()
for command in ('{"execute": "qmp_capabilities"}', sys.argv[2]):
    f.write(command + "\n")
    f.flush()
    while True:
        reply = json.loads(f.readline())
        if "error" in reply:
            sys.exit(str(reply["error"]))
        if "return" in reply:
            break
# What a command of the human monitor says.
if isinstance(reply["return"], str):
    print(reply["return"])
END
}

# Counting.  A region is bracketed by count_start and count_stop; what happened
# in it is then read from $RIG_SHARE/TAG.counts, one "name value" a line.

# kvm's per-VM counters, summed over VMs
kvm_counters()
{
	local f

	for f in /sys/kernel/debug/kvm/*-*/; do
		[[ -d $f ]] || continue
		(cd "$f" && grep -s . -- * | sed 's/:/ /')
	done | awk 'NF == 2 && $2 ~ /^[0-9]+$/ { n[$1] += $2 }
		    END { for (i in n) print "kvm." i, n[i] }'
}

# Interrupts in /proc/interrupts by name of line, summed over CPUs
host_interrupts()
{
	awk 'NR > 1 { n = 0; for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i
	     if ($1 ~ /^[0-9]+:$/) print "irq." $NF, n; else {
	     sub(":", "", $1); print "irq." $1, n } }' /proc/interrupts |
		awk '{ n[$1] += $2 } END { for (i in n) print i, n[i] }'
}

vm_counters()
{
	sed 's/^/vmstat./' /proc/vmstat
}

# sectors read and written by disk
disk_counters()
{
	awk '{ print "disk." $3 ".reads", $4; print "disk." $3 ".read_sectors", $6
	       print "disk." $3 ".writes", $8; print "disk." $3 ".write_sectors", $10 }' \
		/proc/diskstats
}

all_counters()
{
	kvm_counters
	host_interrupts
	vm_counters
	disk_counters
	echo "time.ns $(date +%s%N)"
}

HISTOGRAMS=("kvm_exit:exit_reason" "kvm_inj_virq:vector" "kvm_msr:write,ecx"
	    "kvm_apic_accept_irq:vec")

# Histograms count in the kernel: exact, and no trace buffer can overflow.
hist_on()
{
	local h event

	for h in "${HISTOGRAMS[@]}"; do
		event=$TRACING/events/kvm/${h%%:*}
		[[ -d $event ]] || continue
		echo "hist:keys=${h#*:}:size=4096:pause" >"$event/trigger" ||
			fail "no histogram of $h"
	done
}

hist_write()
{
	local h event

	for h in "${HISTOGRAMS[@]}"; do
		event=$TRACING/events/kvm/${h%%:*}
		[[ -d $event ]] || continue
		echo "hist:keys=${h#*:}:size=4096:$1" >>"$event/trigger"
	done
}

hist_off()
{
	local h event

	for h in "${HISTOGRAMS[@]}"; do
		event=$TRACING/events/kvm/${h%%:*}
		[[ -d $event ]] || continue
		echo "!hist:keys=${h#*:}:size=4096" >"$event/trigger"
	done
}

# "kvm_exit.exit_reason=96 1234"
hist_read()
{
	local h event

	for h in "${HISTOGRAMS[@]}"; do
		event=${h%%:*}
		sed -n "s/^{ \(.*\) } hitcount: *\([0-9]*\).*/\1 \2/p" \
			"$TRACING/events/kvm/$event/hist" 2>/dev/null |
		sed 's/: */=/g; s/, */,/g; s/  */ /g; s/^ *//' |
		while read -r line; do
			echo "hist.$event.${line% *} ${line##* }"
		done | sed 's/ \([^ ]*\)$/\t\1/; s/ //g; s/\t/ /'
	done
}

count_start()
{
	all_counters >"$RIG_SHARE/$1.before"
	if [[ -e $TRACING/events/kvm/kvm_exit/trigger ]]; then
		hist_on
		hist_write continue
	fi
}

count_stop()
{
	if [[ -e $TRACING/events/kvm/kvm_exit/trigger ]]; then
		hist_write pause
	fi
	all_counters >"$RIG_SHARE/$1.after"
	{
		awk 'NR == FNR { n[$1] = $2; next } { print $1, $2 - n[$1] }' \
			"$RIG_SHARE/$1.before" "$RIG_SHARE/$1.after"
		if [[ -e $TRACING/events/kvm/kvm_exit/trigger ]]; then
			hist_read
			hist_off
		fi
	} >"$RIG_SHARE/$1.counts"
	rm -f "$RIG_SHARE/$1."{before,after}
}

# counted TAG NAME: a value of a counted region; 0 when it never happened
counted()
{
	awk -v n="$2" '$1 == n { v += $2 } END { print v + 0 }' \
		"$RIG_SHARE/$1.counts"
}
