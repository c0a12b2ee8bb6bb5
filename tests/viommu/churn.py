#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: the in-kernel IOMMU survives kills, unbound devices, rebound drivers and reloads under load
# kind: host
# tier: 2
# takes: 150
# timeout: 900
# cores: 2
"""Random churn: tests/viommu/churn.py [SECONDS [SEED]]

A guest whose NIC is behind the in-kernel IOMMU answers packets all the time, and
maps and unmaps for another device, while one thing after the other happens to
it, in random order, with a random emulating thread and teardown policy.  After
each, the NIC has to work, and nothing may be left of a guest that is gone.
"""

import pathlib
import random
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "bench"), str(TOP / "tests/rig")]
# pylint: disable=wrong-import-position
import iommu                # noqa: E402
import rig                  # noqa: E402
from churning import LINK, PACKETS, Churn   # noqa: E402

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 120
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())

BIND = """
igb=$(bind_vfio igb)
edu=$(bind_vfio edu)
"""
MAPPER = f"""
l2_run g 'insmod /lib/dmaprobe.ko; cd /sys/bus/pci/devices/{iommu.GUEST_EDU}
	echo dmaprobe >driver_override; echo {iommu.GUEST_EDU} >../../drivers_probe
	cat >/tmp/mapper <<END
while :; do
	echo 64 >map; echo 1 >unmap; echo 50 >pairs; sleep 0.05
done
END
	sh /tmp/mapper >/dev/null 2>&1 &'
"""


class ViommuChurn(Churn):
    """A guest behind the in-kernel IOMMU."""

    def start(self, options="", log=True):
        worker = self.rng.choice(["none", "sidecore", "sidecore", "task"])
        teardown = self.rng.choice(["strict", "deferred", "optimistic"])
        poll = self.rng.choice([1, 200, 5000, 100000])
        cpus = self.rng.choice([1, 2])
        if log:
            print(f"  {worker} {teardown} poll {poll} us, {cpus} vCPUs")
        self.l1.script(f"""
load_kvm viommu=1 sidecore_cpus=0 {options}
echo {poll} >/sys/module/kvm/parameters/viommu_poll_us
{BIND}
l2_start g -c {cpus} -p 1 -a "{iommu.STRICT}" \\
	-x "{rig.build_viommu_tools()}/viommu-run --worker={worker} --teardown={teardown}" \\
	-- -device vfio-pci,host=$igb,addr=0x10 -device vfio-pci,host=$edu,addr=0x11
l2_wait g 400
""" + LINK + MAPPER, timeout=600)
        self.load.wait_link()

    def works(self):
        """Packets come back, and the unit has nothing to complain about."""
        why = ""
        try:
            self.load.exchange(PACKETS, 4)
        except rig.RigError as e:
            why = e
        state = self.l1.script("""
l2_alive g || fail "$(l2_ended g)"
cd /sys/kernel/debug/kvm/*-*/
grep . viommu_faults viommu_queue_errors viommu_map_errors viommu_limit |
	grep -v ":0$" && cat viommu
true""")
        if why or state.out:
            raise rig.RigError(f"{why or 'the unit complains'}\n{state.out}")

    def is_gone(self):
        """Neither a VM nor a mapping is left."""
        self.l1.script("""
for i in {1..50}; do
	[[ -d $(echo /sys/kernel/debug/kvm/*-*/) ]] || break
	sleep 0.2
done
[[ ! -d $(echo /sys/kernel/debug/kvm/*-*/) ]] || fail "a VM is left"
# Free objects may be counted as long as their slab is a CPU's.
echo 1 >/sys/kernel/slab/viommu_shadow_leaf/shrink
left=$(awk '$1 == "viommu_shadow_leaf" { print $2 }' /proc/slabinfo)
[[ $left == 0 ]] || fail "${left:-unknown} mappings are left"
""")

    def rebind(self):
        """The guest gives its NIC to no driver, and to its driver again."""
        self.l1.script("""
l2_run g 'cd /sys/bus/pci/drivers/igb; echo 0000:00:10.0 >unbind; sleep 1
	echo 0000:00:10.0 >bind'
""" + LINK)
        self.load.wait_link()

    def migrate(self):
        """vCPU threads, and the thread that emulates, move between CPUs."""
        moves = " ".join(str(self.rng.randrange(1, 4)) for _ in range(8))
        self.l1.script(f"""
pid=$(l2_pid g)
for cpu in {moves}; do
	for task in /proc/$pid/task/*; do
		case $(cat $task/comm) in
		*KVM|kvm-sidecore*) taskset -pc $cpu ${{task##*/}} >/dev/null ;;
		esac
	done
	sleep 0.2
done""")

    def pause(self):
        """The machine is paused while packets arrive."""
        self.l1.script("""
qmp g '{"execute": "stop"}'
sleep 0.3
qmp g '{"execute": "cont"}'
""")

    def unbind(self):
        """The host takes the NIC away from QEMU, which has to be killed for it."""
        self.l1.script("""
echo ${DEVICE[igb]} >/sys/bus/pci/drivers/vfio-pci/unbind &
sleep 1
kill -KILL $(l2_pid g)
wait $!
rm -f /run/rig/g.*
""")
        self.is_gone()
        self.start()

    def reload(self):
        """The modules are loaded again."""
        self.l1.script("""
l2_stop g
sleep 1
unload_kvm || fail "kvm does not unload"
modprobe -r viommu-shadow || fail "viommu-shadow does not unload"
""")
        self.start()

    def actions(self):
        return [self.rebind, self.migrate, self.rebind, self.pause,
                self.kill, self.unbind, self.reload]


def main():
    print(f"seed {SEED}")
    with rig.L1("viommu.churn.l1", modules="viommu", devices=["igb", "edu"],
                cpus=3, spare=True, append="iommu.strict=1 slab_nomerge",
                guest_modules=["dmaprobe"]) as l1:
        churn = ViommuChurn(l1, random.Random(SEED))
        churn.start()
        churn.works()
        churn.run(SECONDS)
        l1.script("l2_stop g; sleep 1")
        churn.is_gone()
        l1.script("unload_kvm && modprobe -r viommu-shadow")
    print(f"done: {churn.done}")


rig.main(main, f"seed {SEED}")
