# SPDX-License-Identifier: GPL-2.0-only
"""Interrupts of an assigned NIC: exits they cause, packets and latency.

An unmodified guest with an assigned igb answers echo requests that come in
from outside of L1.  QEMU is pinned to L1's CPU 1 and so are the NIC's
interrupts.  Three phases, each in a window of its own:

  quiet     no packets: what exits anyhow (ticks of host and guest)
  rate      RATE requests a second; exits_per_irq is what this adds to quiet,
            divided by the interrupts that L1 took from the NIC
  window    WINDOW requests on the way: throughput
  latency   one request on the way: round-trip time

The guest is kept busy at the lowest priority, so that halting does not blur
the counts.  "bare" is L1 driving the same NIC itself.
"""

import rig
from counts import X2APIC_EOI, Counts
from load import Load

SECONDS = 6
RATE = 250
WINDOW = 8

def phase(l1, load, tag, mode=None, param=0):
    """One counted window."""
    l1.script(f"count_start {tag}")
    if mode:
        figures = load.run(mode, SECONDS, param)
    else:
        l1.run(f"sleep {SECONDS}", timeout=SECONDS + 60)
        figures = {}
    l1.script(f"count_stop {tag}")
    return Counts.read(l1, tag), figures


def guest(name, modules, options="", cpu="host"):
    """Rows of a configuration in which L2 drives the NIC."""
    with rig.L1(f"bench.irq.{name}", modules=modules, devices=["igb"]) as l1:
        rig.note(name, "starting the guest")
        l1.script(f"""
load_kvm {options}
l2_start g -w last -C {cpu} -- -device vfio-pci,host=$(bind_vfio igb)
l2_wait g
for irq in $(sed -n 's/^ *\\([0-9]*\\):.*vfio-msix.*/\\1/p' /proc/interrupts); do
	echo 1 >/proc/irq/$irq/smp_affinity_list
done
l2_run g 'ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up; spin'
""")
        load = Load(l1)
        load.wait_link()
        l1.script("""
for irq in $(sed -n 's/^ *\\([0-9]*\\):.*vfio-msix.*/\\1/p' /proc/interrupts); do
	echo 1 >/proc/irq/$irq/smp_affinity_list
done""")
        rig.note(name, "counting")
        quiet, _ = phase(l1, load, "quiet")
        rate, at_rate = phase(l1, load, "rate", "rate", RATE)
        full, at_full = phase(l1, load, "window", "window", WINDOW)
        _, at_one = phase(l1, load, "latency", "window", 1)
        l1.script("l2_stop g")

    irqs = rate.total("irq.vfio-msix")
    if irqs < RATE or at_rate["received"] < at_rate["sent"] * 0.9:
        raise rig.RigError(f"the NIC took {irqs:.0f} interrupts and answered "
                           f"{at_rate['received']} of {at_rate['sent']}")
    if rate.exits().get("hlt", 0) > irqs / 20:
        raise rig.RigError("the guest was not busy")
    scale = rate.seconds / quiet.seconds

    def added(key):
        return (rate.get(key, 0) - scale * quiet.get(key, 0)) / irqs

    rows = [("exits_per_irq", added("kvm.exits"), "")]
    base = quiet.exits()
    for reason, n in sorted(rate.exits().items(), key=lambda kv: -kv[1]):
        per = (n - scale * base.get(reason, 0)) / irqs
        if abs(per) >= 0.005:
            rows.append((f"exits_per_irq_{reason}", per, ""))
    rows += [
        ("eoi_writes_per_irq", (rate.msr_writes(X2APIC_EOI) -
                                scale * quiet.msr_writes(X2APIC_EOI)) / irqs,
         ""),
        ("irq_windows_per_irq", added("kvm.irq_window_exits"), ""),
        ("injections_per_irq", added("kvm.irq_injections"), ""),
        ("irqs", int(irqs), ""),
        ("exits_per_s_quiet", quiet["kvm.exits"] / quiet.seconds, "1/s"),
        ("exits_per_s", full["kvm.exits"] / full.seconds, "1/s"),
        ("irqs_per_s", full.total("irq.vfio-msix") / full.seconds, "1/s"),
        ("packets_per_s", at_full["per_s"], "1/s"),
        ("rtt", at_one["rtt_p50_us"], "us"),
    ]
    return [(name, *r) for r in rows]


def bare():
    """L1 drives the NIC itself."""
    with rig.L1("bench.irq.bare", modules="distro", devices=["igb"]) as l1:
        rig.note("bare", "counting")
        l1.script("""
ip addr add 10.9.9.2/24 dev eth0
ip link set eth0 up
for irq in $(sed -n 's/^ *\\([0-9]*\\):.*eth0.*/\\1/p' /proc/interrupts); do
	echo 1 >/proc/irq/$irq/smp_affinity_list
done
taskset -c 1 "$BUILD/rig/spin"
""")
        load = Load(l1)
        load.wait_link()
        full, at_full = phase(l1, load, "window", "window", WINDOW)
        _, at_one = phase(l1, load, "latency", "window", 1)
        irqs = full.total("irq.eth0")
    return [("bare", m, v, u) for m, v, u in (
        ("exits_per_irq", 0, ""),
        ("irqs_per_s", irqs / full.seconds, "1/s"),
        ("packets_per_s", at_full["per_s"], "1/s"),
        ("rtt", at_one["rtt_p50_us"], "us"))]


def main():
    rows = guest("stock", "distro")
    # Guests that do not know KVM's paravirtual EOI complete each interrupt
    # with an exit.
    rows += guest("stock-no-pv-eoi", "distro", cpu="host,-kvm-pv-eoi")
    rows += bare()
    return rig.write_results("irq", rows)
