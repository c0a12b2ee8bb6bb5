#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: eli-stat tells which interrupts are direct, what is not, and why
# kind: host
# tier: 2
# takes: 100
# timeout: 600
# cores: 2
"""Run the selftest of tools/kvm/eli, and the tool on an L1 with a real guest."""

import json
import pathlib
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/rig"))
# pylint: disable=wrong-import-position
import rig                  # noqa: E402
from churning import LINK, PACKETS   # noqa: E402
from load import Load       # noqa: E402

TOOL = TOP / "tools/kvm/eli/eli-stat"
NIC = "0000:00:06.0"

START = """
load_kvm eli=1
l2_start g -c 2 -p 1 -- -overcommit cpu-pm=on -device vfio-pci,host=$(bind_vfio igb)
l2_wait g
""" + LINK


def stat(l1):
    """The only VM by --json."""
    report = json.loads(l1.run(f"{TOOL} --json").out)
    if len(report["vms"]) != 1 or not report["eli"]:
        raise rig.RigError(f"not one VM with ELI: {report}")
    return report["vms"][0]


def why(l1, *sentences):
    """--why says all of these."""
    text = l1.run(f"{TOOL} --why").out
    for sentence in sentences:
        if sentence not in text:
            raise rig.RigError(f"--why does not say \"{sentence}\":\n{text}")
    return text


def until(l1, what, timeout=60):
    """A report for which what() is true."""
    end = time.monotonic() + timeout * l1.slow
    while True:
        vm = stat(l1)
        if what(vm):
            return vm
        if time.monotonic() > end:
            raise rig.RigError(f"never so: {vm}\n" + l1.run(
                "cat /sys/kernel/debug/kvm/*-*/eli").out)
        time.sleep(1)


def direct(l1, load):
    """Interrupts of a load are direct, and that is what is told of them."""
    until(l1, lambda vm: vm["wanting"] and vm["direct"] == vm["wanting"])
    for _ in range(15):
        before = stat(l1)["counters"]
        got = load.exchange(PACKETS, 4)["answered"]
        vm = stat(l1)
        entries, host = (vm["counters"][n] - before[n]
                         for n in ("eli_direct", "device_irqs"))
        if entries > PACKETS / 2 and host < got / 10:
            return vm
        time.sleep(1)
    raise rig.RigError(f"{entries} entries, {host} interrupts of the host for "
                       f"{got} packets: {vm}")


def main():
    """Here with made-up files, and there with a guest."""
    selftest = TOOL.parent / "selftest.sh"
    tap = rig.sh(str(selftest)).splitlines()
    print(f"  here: {sum(line.startswith('ok') for line in tap)} ok")

    with rig.L1("eli.tools.l1", modules="eli", devices=["igb"], cpus=3, spare=True,
                append="irqaffinity=0") as l1:
        l1.script("for i in /proc/irq/[0-9]*; do "
                  "echo 0 2>/dev/null >$i/smp_affinity_list || true; done; load_kvm")
        why(l1, "host: ELI is off", "no VM runs")
        l1.script("unload_kvm")
        l1.script(START)
        load = Load(l1)
        load.wait_link()

        vm = direct(l1, load)
        print(f"  direct: {vm['direct']} of {vm['wanting']} vCPUs, "
              f"{len(vm['irqs'])} interrupts, {vm['counters']['eli_direct']} entries")
        if [d["address"] for d in vm["devices"]] != [NIC] or vm["why"] != "direct":
            raise rig.RigError(f"told wrongly: {vm}")
        if [v["cpus"] for v in vm["vcpus"]] != ["1", "2"]:
            raise rig.RigError(f"not where the vCPUs are: {vm['vcpus']}")
        print(why(l1, "completed without exits", f"{NIC} (vfio-pci)", ", direct\n"))
        with load.background("window", 4):
            text = l1.run(f"{TOOL} -i 1 -n 3").out
        print(text)
        lines = [line.split() for line in text.splitlines()]
        entries = lines[0].index("entries")
        if len(lines) != 4 or not int(lines[-1][entries]):
            raise rig.RigError("no entries a second")
        text = l1.run(f"{TOOL} --prometheus").out
        if f"kvm_eli_vcpus_direct{{pid=\"{vm['pid']}\"" not in text:
            raise rig.RigError(f"not for Prometheus: {text}")

        # A vCPU that may move, and a guest that stops using the device.
        tid = vm["vcpus"][1]["tid"]
        l1.run(f"taskset -pc 1-2 {tid}")
        if len({i["vcpu"] for i in vm["irqs"]}) == 2:
            why(l1, f"thread {tid} may run on CPUs 1-2")
        l1.script("l2_run g 'd=$(readlink -f /sys/class/net/eth0/device); "
                  "echo ${d##*/} >$d/driver/unbind'")
        until(l1, lambda vm: vm["why"] == "no irqs")
        why(l1, "no interrupt can be direct")
        l1.script("l2_stop g; sleep 1; unload_kvm")
    return 0


rig.main(main)
