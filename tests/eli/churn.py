#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: exitless interrupts survive migrating vCPUs, re-routed and unplugged devices, kills and reloads under load
# kind: host
# tier: 2
# takes: 180
# timeout: 900
# cores: 2
"""Random churn: tests/eli/churn.py [SECONDS [SEED]]

A guest with two vCPUs and an assigned NIC answers packets all the time, while
one thing after the other happens to it, in random order.  After each, the NIC
has to work; the vCPUs have to take its interrupts directly whenever the guest is
new, and again after all that has happened to it.  Else what counts is the console
of L1, and that all can be unloaded.
"""

import pathlib
import random
import re
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "bench"), str(TOP / "tests/rig")]
# pylint: disable=wrong-import-position
import rig                  # noqa: E402
from churning import LINK, PACKETS, Churn   # noqa: E402

SECONDS = int(sys.argv[1]) if len(sys.argv) > 1 else 120
SEED = int(sys.argv[2]) if len(sys.argv) > 2 else int(time.time())

START = """
load_kvm eli=1
l2_start g -c 2 -p 1 -- -overcommit cpu-pm=on \\
	-device pcie-root-port,id=rp0,chassis=1 \\
	-device vfio-pci,host=$(bind_vfio igb),bus=rp0,id=nic
l2_wait g
"""


class EliChurn(Churn):
    """A guest with exitless interrupts."""

    def start(self):
        self.l1.script(START + LINK)
        self.load.wait_link()
        self.is_direct()

    def is_direct(self):
        """Interrupts get to the guest without the host, after a while."""
        count = ("cat /sys/kernel/debug/kvm/eli_direct; awk '/vfio-msix/ "
                 "{ for (i = 2; i <= 4; i++) n += $i } END { print n + 0 }' "
                 "/proc/interrupts")
        for _ in range(15):
            before = [int(n) for n in self.l1.run(count).out.split()]
            got = self.load.exchange(PACKETS, 4)["answered"]
            after = [int(n) for n in self.l1.run(count).out.split()]
            direct, host = (b - a for a, b in zip(before, after))
            if direct > PACKETS / 2 and host < got / 10:
                return
            time.sleep(1)
        raise rig.RigError(f"not direct: {direct} entries, {host} interrupts "
                           f"of the host for {got} packets\n" +
                           self.l1.run("cat /sys/kernel/debug/kvm/*-*/eli").out)

    def works(self):
        """Packets come back."""
        try:
            self.load.exchange(PACKETS, 4)
            return
        except rig.RigError as e:
            why = e
        state = self.l1.script("l2_alive g || fail \"$(l2_ended g)\"; "
                               "cat /sys/kernel/debug/kvm/*-*/eli; "
                               "grep vfio /proc/interrupts || true; "
                               "l2_run g 'grep eth0 /proc/interrupts'",
                               check=False)
        raise rig.RigError(f"{why}\n{state.out}{state.err}")

    def migrate(self):
        """vCPU threads move between CPUs."""
        moves = " ".join(f"{self.rng.randrange(2)}:{self.rng.randrange(1, 4)}"
                         for _ in range(8))
        # And apart: in turns on one CPU, none has the interrupts for long.
        moves += " 0:1 1:2"
        self.l1.script(f"""
pid=$(l2_pid g)
for move in {moves}; do
	for task in /proc/$pid/task/*; do
		[ "$(cat $task/comm)" = "CPU ${{move%:*}}/KVM" ] || continue
		taskset -pc ${{move#*:}} ${{task##*/}} >/dev/null
	done
	sleep 0.2
done""")

    def share(self):
        """The vCPUs are on one CPU, so one of them has its vectors above those that
        the other one holds; then they part."""
        pin = """
for task in /proc/$(l2_pid g)/task/*; do
	case "$(cat $task/comm)" in
	"CPU 0/KVM") taskset -pc %d ${task##*/} >/dev/null ;;
	"CPU 1/KVM") taskset -pc %d ${task##*/} >/dev/null ;;
	esac
done"""
        self.l1.script(pin % (1, 1))
        direct, state = set(), ""
        end = time.monotonic() + 60 * self.l1.slow
        while len(direct) < 2:
            with self.load.background("window", 4):
                time.sleep(1)
            state = self.l1.run("cat /sys/kernel/debug/kvm/*-*/eli").out
            vectors = {v: [int(n) for n in re.findall(r"host vector (\d+) ->", text)]
                       for v, text in re.findall(
                           r"^vcpu (\d):.*not direct: none\n((?:  .*\n)*)", state,
                           re.MULTILINE)}
            direct |= {v for v in vectors if vectors[v]}
            if time.monotonic() > end:
                raise rig.RigError(f"not direct on one CPU: {state}")
        print(f"  on one CPU: {vectors}", flush=True)
        self.l1.script(pin % (1, 2))
        self.is_direct()

    def reroute(self):
        """The guest moves the interrupts between its CPUs."""
        masks = " ".join(str(self.rng.randrange(1, 3)) for _ in range(8))
        self.l1.script(f"""
l2_run g 'for mask in {masks}; do
	for irq in $(sed -n "s/^ *\\([0-9]*\\):.*eth0.*/\\1/p" /proc/interrupts); do
		echo $mask >/proc/irq/$irq/smp_affinity
	done
	sleep 1
done'""")

    def unplug(self):
        """The NIC goes and comes back."""
        self.l1.script("""
qmp g '{"execute": "device_del", "arguments": {"id": "nic"}}'
for i in {1..60}; do
	l2_run g '[ ! -e /sys/class/net/eth0 ]' && break
	sleep 0.5
done
sleep 2
for i in {1..20}; do
	qmp g '{"execute": "device_add", "arguments": {"driver": "vfio-pci",
	      "host": "0000:00:06.0", "bus": "rp0", "id": "nic"}}' && break
	sleep 1
done
""" + LINK)
        self.load.wait_link()

    def reload(self):
        """The modules are loaded again."""
        self.l1.script("l2_stop g; sleep 1; unload_kvm")
        self.start()

    def actions(self):
        return [self.migrate, self.reroute, self.migrate, self.reroute,
                self.unplug, self.kill, self.reload]


def main():
    print(f"seed {SEED}")
    with rig.L1("eli.churn.l1", modules="eli", devices=["igb"], cpus=3,
                spare=True, append="irqaffinity=0") as l1:
        l1.script("for i in /proc/irq/[0-9]*; do "
                  "echo 0 2>/dev/null >$i/smp_affinity_list || true; done")
        churn = EliChurn(l1, random.Random(SEED))
        churn.start()
        churn.works()
        churn.share()
        churn.run(SECONDS)
        churn.migrate()
        churn.is_direct()
        l1.script("l2_stop g; sleep 1; unload_kvm")
    print(f"done: {churn.done}")


rig.main(main, f"seed {SEED}")
