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
driving the same NIC itself, on the same CPU.
"""

import rig
from counts import X2APIC_EOI, Counts
from load import Load

SECONDS = 6
WINDOW = 8
# What a user of ELI gives to a host's command line.
ISOLATION = "isolcpus=managed_irq,domain,1 nohz_full=1 irqaffinity=0"

# Those of the host that were allocated before are moved by hand.
KEEP_CPU_FREE = """
for i in /proc/irq/[0-9]*; do
	echo 0 2>/dev/null >$i/smp_affinity_list || true
done
"""


def phase(l1, load, tag, mode=None, param=0, seconds=SECONDS):
    """One counted window."""
    l1.script(f"count_start {tag}")
    if mode:
        figures = load.run(mode, seconds, param)
    else:
        l1.run(f"sleep {seconds}", timeout=seconds + 60)
        figures = {}
    l1.script(f"count_stop {tag}")
    return Counts.read(l1, tag), figures


def guest_irqs(l1):
    """Interrupts of the NIC that the guest has counted."""
    return int(l1.script(r"""
l2_run g "grep -h eth0 /proc/interrupts" |
	awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n + 0 }'
""").out.split()[-1])


def measure(name, modules, options="", cpu="host", seconds=SECONDS):
    """Metrics, as a dict, of a configuration in which L2 drives the NIC."""
    with rig.L1(name, modules=modules, devices=["igb"],
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
        # ELI does so by itself, and then nobody else can.
        l1.script("""
for irq in $(sed -n 's/^ *\\([0-9]*\\):.*vfio-msix.*/\\1/p' /proc/interrupts); do
	echo 1 2>/dev/null >/proc/irq/$irq/smp_affinity_list || true
done
sleep 1""")
        rig.note(name, "counting")
        quiet, _ = phase(l1, load, "quiet", seconds=seconds)
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


def bare(name="bench.irq.bare", seconds=SECONDS):
    """L1 drives the NIC itself."""
    with rig.L1(name, modules="distro", devices=["igb"],
                append=ISOLATION) as l1:
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
        full, at_full = phase(l1, load, "window", "window", WINDOW, seconds)
        _, at_one = phase(l1, load, "latency", "window", 1, seconds)
        irqs = full.total("irq.eth0")
    return {"exits_per_irq": 0, "irqs_per_s": irqs / full.seconds,
            "packets_per_s": at_full["per_s"], "rtt": at_one["rtt_p50_us"]}


def main():
    res = rows("stock", measure("bench.irq.stock", "distro"))
    # Guests that do not know KVM's paravirtual EOI complete each interrupt
    # with an exit.
    res += rows("stock-no-pv-eoi", measure("bench.irq.stock-no-pv-eoi", "distro",
                                           cpu="host,-kvm-pv-eoi"))
    res += rows("eli-delivery", measure("bench.irq.eli-delivery", "eli",
                                        "eli=1 eli_eoi=0"))
    res += rows("eli", measure("bench.irq.eli", "eli", "eli=1"))
    res += rows("bare", bare())
    return rig.write_results("irq", res)
