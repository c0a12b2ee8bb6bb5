# SPDX-License-Identifier: GPL-2.0-only
"""Interrupts of an assigned NIC: exits they cause, packets and latency.

An unmodified guest with an assigned igb answers echo requests that come in
from outside of L1.  Its vCPU has L1's CPU 1 for itself: that CPU is isolated
and without a tick (nohz_full), the other threads of QEMU and the host's other
interrupts are on CPU 0.  Three phases, each in a window of its own:

  quiet     no packets: what exits anyhow, for the guest's timer above all
  window    WINDOW requests on the way: throughput; exits_per_irq is what this
            adds to quiet, divided by the interrupts that the guest took
  latency   one request on the way: round-trip time

The guest is kept busy at the lowest priority and halts without exits (QEMU's
-overcommit cpu-pm=on), so that halting does not blur the counts.  "bare" is L1
driving the same NIC itself, on the same CPU, which has a tick then, as guests have.

Under emulation, this is done once more with a plugin that makes it slower and
counts instructions: those of kernels on CPU 1, the guest's and L1's, in the
latter two phases, less what quiet has of them.  That is what a packet costs the
CPU that handles it, however long the emulator takes.  What keeps this CPU busy
is a program, so it does not count.
"""

import time

import rig
from counts import X2APIC_EOI, Counts
from load import Load

SECONDS = 6
WINDOW = 8
# L1's, where the guest's only one runs.
CPU = 1
# What a user of ELI gives to a host's command line, and what serves a host that
# drives the NIC itself: nohz_full accounts for time at each entry of the kernel.
BARE_ISOLATION = "isolcpus=managed_irq,domain,1 irqaffinity=0"
ISOLATION = BARE_ISOLATION + " nohz_full=1"

# Those of the host that were allocated before are moved by hand.
KEEP_CPU_FREE = """
for i in /proc/irq/[0-9]*; do
	echo 0 2>/dev/null >$i/smp_affinity_list || true
done
"""


def phase(l1, load, tag, mode=None, param=0, seconds=SECONDS):
    """One counted window."""
    l1.script(f"count_start {tag}")
    start, before = time.monotonic(), l1.instructions()
    if mode:
        figures = load.run(mode, seconds, param)
    else:
        l1.run(f"sleep {seconds}", timeout=seconds + 60)
        figures = {}
    end, after = time.monotonic(), l1.instructions()
    l1.script(f"count_stop {tag}")
    if before:
        figures["insns"] = [b - a for a, b in zip(before[CPU], after[CPU])]
        figures["insns_seconds"] = end - start
    return Counts.read(l1, tag), figures


def instructions(quiet, at_full, at_one, programs=False):
    """Metrics: instructions for a packet at full load and alone, those that wait
    left out; of kernels, or of programs as well.

    Empty where they were not counted.
    """
    if "insns" not in quiet:
        return {}

    def work(figures):
        kernel, user, waiting = figures["insns"]
        return kernel - waiting + (user if programs else 0)

    rate = work(quiet) / quiet["insns_seconds"]
    return {f"instructions_per_{what}":
            (work(at) - rate * at["insns_seconds"]) / at["received"]
            for what, at in (("packet", at_full), ("round_trip", at_one))}


def pin_irqs(l1, name):
    """Interrupts whose name has this in it go to CPU; with ELI nobody but KVM can
    tell where, and it does."""
    l1.script(f"""
for irq in $(sed -n 's/^ *\\([0-9]*\\):.*{name}.*/\\1/p' /proc/interrupts); do
	echo {CPU} 2>/dev/null >/proc/irq/$irq/smp_affinity_list || true
done
sleep 1""")


def guest_irqs(l1):
    """Interrupts of the NIC that the guest has counted."""
    return int(l1.script(r"""
l2_run g "grep -h eth0 /proc/interrupts" |
	awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }'
""").out.split()[-1])


def measure(name, modules, options="", cpu="host", seconds=SECONDS, insns=False):
    """Metrics, as a dict, of a configuration in which L2 drives the NIC."""
    with rig.L1(name, modules=modules, devices=["igb"], insns=insns,
                append=ISOLATION) as l1:
        rig.note(name, "starting the guest")
        l1.script(KEEP_CPU_FREE + f"""
load_kvm {options}
l2_start g -p 1 -C {cpu} -- -overcommit cpu-pm=on \\
	-device vfio-pci,host=$(bind_vfio igb)
l2_wait g
l2_run g 'ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up; spin'
""")
        load = Load(l1)
        load.wait_link()
        pin_irqs(l1, "vfio-msix")
        rig.note(name, "counting")
        quiet, at_rest = phase(l1, load, "quiet", seconds=seconds)
        before = guest_irqs(l1)
        full, at_full = phase(l1, load, "window", "window", WINDOW, seconds)
        irqs = guest_irqs(l1) - before
        _, at_one = phase(l1, load, "latency", "window", 1, seconds)
        state = l1.script("cat /sys/kernel/debug/kvm/*-*/eli 2>/dev/null || true")
        l1.script("l2_stop g; unload_kvm")

    if irqs < 100 * seconds or at_full["received"] < at_full["sent"] * 0.9:
        raise rig.RigError(f"the guest took {irqs:.0f} interrupts and answered "
                           f"{at_full['received']} of {at_full['sent']}\n"
                           f"{state.out}")
    scale = full.seconds / quiet.seconds

    def added(n, base):
        return (n - scale * base) / irqs

    by_host = full.total("irq.vfio-msix")
    res = {"exits_per_irq": added(full["kvm.exits"], quiet["kvm.exits"])}
    base = quiet.exits()
    for reason, n in sorted(full.exits().items(), key=lambda kv: -kv[1]):
        per = added(n, base.get(reason, 0))
        if abs(per) >= 0.005:
            res[f"exits_per_irq_{reason}"] = per
    res.update({
        "eoi_writes_per_irq": added(full.msr_writes(X2APIC_EOI),
                                    quiet.msr_writes(X2APIC_EOI)),
        "irqs_in_guest_percent": max(0, 100 * (1 - by_host / irqs)),
        "injections_per_irq": added(full["kvm.irq_injections"],
                                    quiet["kvm.irq_injections"]),
        "irqs": irqs,
        "exits_per_s_quiet": quiet["kvm.exits"] / quiet.seconds,
        "exits_per_s": full["kvm.exits"] / full.seconds,
    })
    for reason, n in sorted(full.exits().items(), key=lambda kv: -kv[1]):
        if n / full.seconds >= 1:
            res[f"exits_per_s_{reason}"] = n / full.seconds
    res.update({
        "irqs_per_s": irqs / full.seconds,
        "packets_per_s": at_full["per_s"],
        "rtt": at_one["rtt_p50_us"],
    })
    res.update(instructions(at_rest, at_full, at_one))
    res["counts"] = full
    res["state"] = state.out
    return res


def unit(metric):
    if metric == "rtt":
        return "us"
    if metric.endswith("_percent"):
        return "%"
    return "1/s" if "_per_s" in metric else ""


def rows(config, metrics):
    return [(config, m, v, unit(m)) for m, v in metrics.items()
            if m not in ("counts", "state")]


def bare(name="bench.irq.bare", seconds=SECONDS, insns=False):
    """L1 drives the NIC itself."""
    with rig.L1(name, modules="distro", devices=["igb"], insns=insns,
                append=BARE_ISOLATION) as l1:
        rig.note("bare", "counting")
        l1.script(f"""
ip addr add 10.9.9.2/24 dev eth0
ip link set eth0 up
taskset -c {CPU} "$BUILD/rig/spin"
""")
        pin_irqs(l1, "eth0")
        load = Load(l1)
        load.wait_link()
        _, at_rest = phase(l1, load, "quiet", seconds=seconds)
        full, at_full = phase(l1, load, "window", "window", WINDOW, seconds)
        _, at_one = phase(l1, load, "latency", "window", 1, seconds)
        irqs = full.total("irq.eth0")
    return {"exits_per_irq": 0, "irqs_per_s": irqs / full.seconds,
            "packets_per_s": at_full["per_s"], "rtt": at_one["rtt_p50_us"],
            **instructions(at_rest, at_full, at_one)}


CONFIGS = {
    "stock": lambda name, **kw: measure(name, "distro", **kw),
    # Guests that do not know KVM's paravirtual EOI complete each interrupt with
    # an exit.
    "stock-no-pv-eoi": lambda name, **kw: measure(name, "distro",
                                                  cpu="host,-kvm-pv-eoi", **kw),
    "eli-delivery": lambda name, **kw: measure(name, "eli", "eli=1 eli_eoi=0",
                                               **kw),
    "eli": lambda name, **kw: measure(name, "eli", "eli=1", **kw),
    "bare": bare,
}


def main():
    res = []
    for config, run in CONFIGS.items():
        res += rows(config, run(f"bench.irq.{config}"))
    if rig.acceleration()[0] == "tcg":
        for config, run in CONFIGS.items():
            rig.note(config, "once more, for its instructions")
            res += [r for r in rows(config, run(f"bench.irq.insns.{config}",
                                                insns=True))
                    if r[1].startswith("instructions_")]
    return rig.write_results("irq", res)
