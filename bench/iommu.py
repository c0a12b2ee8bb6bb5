# SPDX-License-Identifier: GPL-2.0-only
"""IOMMU of a guest: exits and time of mapping and unmapping a page for DMA.

An unmodified guest with an assigned igb and an assigned edu device.  A test
driver (tests/modules/dmaprobe.c) maps and unmaps single pages on edu's behalf
through the DMA API; igb answers a packet load with the same protection.

  none   no IOMMU in the guest: no protection, all of its memory is pinned
  qemu   QEMU's own "-device intel-iommu,caching-mode=on", iommu.strict=1
  samecore   KVM's unit (viommu=1), emulated by the vCPU itself
  sidecore   the same with sidecore_cpus=0; -deferred and -optimistic: the
         host's teardown policy
  bare   L1 driving the devices itself, strict; bare-deferred: lazy flush
  none-eli, sidecore-eli   with exitless interrupts (eli=1) as well, on an
         isolated CPU: what is left of the packets' cost without these

A guest with caching mode on is always strict: Linux refuses to batch
invalidations then, so there is no qemu-deferred, and what -deferred and
-optimistic defer is the host's part alone.

Under emulation, the instructions for it that the guest's CPU executes are counted
as well, by a plugin that makes it slower and therefore in runs of their own: those
of guest, KVM and QEMU.  Those that wait, by a loop around a PAUSE, are shown for
themselves: their number is a matter of time.
"""

import statistics

import rig
from counts import Counts
from irq import ISOLATION, KEEP_CPU_FREE, instructions, phase, pin_irqs
from load import Load

PAGES = 1024
# Times are medians of many runs, which are so short that the build machine seldom
# does something else meanwhile.
PAIRS = 10
PAIR_RUNS = 400
# For runs of a single pair, with a shell in between.
POLL_US = 1000000
SECONDS = 2
LOAD_RUNS = 5
WINDOW = 8
# An access to a device register: nested page fault (SVM), EPT (VMX).
MMIO_REASONS = ("npf", "ept", "ept_misconfig")

GUEST_EDU = "0000:00:11.0"
STRICT = "intel_iommu=on iommu.strict=1"
SIDECORE = "viommu=1 sidecore_cpus=0 viommu_poll_us=20000"
GUESTS = {
    # name: (options of kvm, or None for stock KVM; the guest's kernel command
    #        line; QEMU arguments before the devices)
    "none": (None, "", ""),
    "qemu": (None, STRICT, "-device intel-iommu,caching-mode=on,intremap=off"),
    "samecore": ("viommu=1", STRICT, ""),
    "sidecore": (SIDECORE, STRICT, ""),
    "sidecore-deferred": (SIDECORE + " viommu_teardown=deferred", STRICT, ""),
    "sidecore-optimistic": (SIDECORE + " viommu_teardown=optimistic", STRICT,
                            ""),
    "none-eli": ("eli=1", "", "-overcommit cpu-pm=on"),
    "sidecore-eli": (SIDECORE + " eli=1", STRICT, "-overcommit cpu-pm=on"),
}


def features(name):
    """What of ours a guest's configuration is about."""
    return [f for f in ("eli", "viommu") if f"{f}=1" in (GUESTS[name][0] or "")]


class Prober:
    """dmaprobe in L2 (run is "l2_run g") or in L1 (run is "bash -c")."""

    def __init__(self, l1, run, bdf, module):
        self.l1 = l1
        self.run = run
        self.dev = f"/sys/bus/pci/devices/{bdf}"
        l1.script(f"""
{run} 'insmod {module} && echo dmaprobe >{self.dev}/driver_override &&
	echo {bdf} >/sys/bus/pci/drivers_probe && test -e {self.dev}/pairs' ||
	fail "dmaprobe is not bound"
""")

    def do(self, what, n, then=""):
        """One operation: (calls, ns, cycles, output of then)."""
        out = self.l1.script(
            f"{self.run} 'echo {n} >{self.dev}/{what} && "
            f"cat {self.dev}/result' || fail {what}\n{then}", timeout=600).out
        first, _, rest = out.partition("\n")
        calls, ns, cycles = map(int, first.split())
        if calls != n:
            raise rig.RigError(f"{what}: {calls} calls instead of {n}")
        return calls, ns, cycles, rest

    def pairs(self, n, runs):
        """ns for mapping and unmapping a page: the median of runs of n.

        Nothing is printed before the end: QEMU would handle that on the guest's
        CPU in the next run.
        """
        out = self.l1.script(
            f"{self.run} 'i=0; rm -f /tmp/pairs; while [ $i -lt {runs} ]; do "
            f"echo {n} >{self.dev}/pairs && read -r r <{self.dev}/result && "
            f"echo $r >>/tmp/pairs || "
            f"exit; i=$((i+1)); done; cat /tmp/pairs' || fail pairs",
            timeout=600).out
        results = [tuple(map(int, line.split())) for line in out.splitlines()]
        if len(results) != runs or any(calls != n for calls, _, _ in results):
            raise rig.RigError(f"pairs: not {runs} times {n} calls:\n{out}")
        return statistics.median(ns / calls for calls, ns, _ in results)

    def instructions(self, runs):
        """Those for mapping and unmapping a page: all but those that wait, and
        those that wait.

        The least of the former in runs, because ticks come in between, and the
        median of the latter.
        """
        self.l1.marked_instructions()
        self.pairs(1, runs)
        marked = self.l1.marked_instructions()
        if len(marked) != runs:
            raise rig.RigError(f"{len(marked)} of {runs} runs were counted")
        return (min(insns - waiting for insns, waiting in marked),
                int(statistics.median(waiting for _, waiting in marked)))

    def counted(self, what, n, then=""):
        """The same in a counted region: (ns a call, counts, output)."""
        self.l1.script(f"count_start {what}")
        _, ns, _, rest = self.do(what, n, then)
        self.l1.script(f"count_stop {what}")
        return ns / n, Counts.read(self.l1, what), rest


def boot_guest(l1, name, cpus=1, more_args="", poll_us=None):
    options, append, args = GUESTS[name]
    args += " " + more_args
    if poll_us and "sidecore_cpus" in (options or ""):
        options += f" viommu_poll_us={poll_us}"
    wrap = (f'-x "{rig.build_viommu_tools()}/viommu-run"'
            if "viommu" in features(name) else "")
    pin = "-p 1" if "eli" in features(name) else "-w last"
    l1.script(("" if pin == "-w last" else KEEP_CPU_FREE) + f"""
load_kvm {options or ""}
igb=$(bind_vfio igb)
edu=$(bind_vfio edu)
l2_start g {pin} -c {cpus} {wrap} -a "{append}" -- {args} \
	-device vfio-pci,host=$igb,addr=0x10 \
	-device vfio-pci,host=$edu,addr=0x11
l2_wait g 400
""", timeout=500)
    return Prober(l1, "l2_run g", GUEST_EDU, "/lib/dmaprobe.ko")


def boot_bare(l1, domain):
    """domain: type of L1's IOMMU groups, DMA (strict) or DMA-FQ (lazy)."""
    l1.script(f"""
for name in igb edu; do
	dev=/sys/bus/pci/devices/${{DEVICE[$name]}}
	if [[ -e $dev/driver ]]; then
		echo ${{DEVICE[$name]}} >$dev/driver/unbind
	fi
	echo {domain} >$dev/iommu_group/type || fail "no {domain} for $name"
done
echo ${{DEVICE[igb]}} >/sys/bus/pci/drivers/igb/bind
""")
    return Prober(l1, "bash -c", l1.DEVICES["edu"],
                  "$RIG_MODULE_DIR/dmaprobe.ko")


# QEMU pins all of the guest's memory by its VFIO container, whatever the unit
# pins in addition.
LOCKED = """
awk '/^VmLck:/ { print $2 / 4 }' /proc/$(l2_pid g)/status
cat /sys/kernel/debug/kvm/*-*/viommu_pinned 2>/dev/null || true
"""


def machine(name, is_guest, tag="bench.iommu.", **kwargs):
    """L1 for one configuration."""
    have = features(name) if is_guest else []
    return rig.L1(tag + name, modules="+".join(have) or "distro",
                  devices=["igb", "edu"], guest_modules=["dmaprobe"],
                  append="iommu.strict=1 " +
                  (ISOLATION if "eli" in have else ""), **kwargs)


def packets(l1, prober):
    """The NIC comes up: the load that it answers."""
    up = "ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up"
    l1.script(f"{prober.run} '{up}'")
    load = Load(l1)
    load.wait_link()
    return load


def count(name, boot, is_guest, tag="bench.iommu.insns.", with_packets=True):
    """Rows of one configuration, by a plugin that makes it slower."""
    with machine(name, is_guest, tag, insns=True) as l1:
        rig.note(name, "once more, for its instructions")
        # Waiting for something to do is not counted if the guest halts by itself,
        # and a sidecore polls on from one run to the next.
        how = {"more_args": "-overcommit cpu-pm=on", "poll_us": POLL_US}
        prober = boot(l1, **(how if is_guest else {}))
        work, waiting = prober.instructions(PAIR_RUNS)
        per_packet = {}
        if with_packets:
            load = packets(l1, prober)
            pin_irqs(l1, "vfio-msix" if is_guest else "eth0")
            _, quiet = phase(l1, load, "quiet", seconds=SECONDS)
            _, full = phase(l1, load, "window", "window", WINDOW, SECONDS)
            _, one = phase(l1, load, "latency", "window", 1, SECONDS)
            per_packet = instructions(quiet, full, one, programs=True)
    return [(name, "instructions_per_map_unmap", work, ""),
            (name, "waiting_instructions", waiting, ""),
            *((name, metric, value, "") for metric, value in per_packet.items())]


def measure(name, boot, is_guest):
    """Rows of one configuration in real time."""
    ours = is_guest and "viommu" in features(name)
    with machine(name, is_guest) as l1:
        rig.note(name, "booting")
        prober = boot(l1)
        rig.note(name, "mapping and unmapping")
        rows = []
        then = LOCKED if is_guest else ""
        # What the commands themselves cost: the same with one page.
        _, one_map, _ = prober.counted("map", 1, then)
        _, one_unmap, _ = prober.counted("unmap", 1)
        map_ns, many_maps, locked = prober.counted("map", PAGES, then)
        unmap_ns, many_unmaps, _ = prober.counted("unmap", PAGES)
        pair_ns = prober.pairs(PAIRS, PAIR_RUNS)
        if is_guest:
            # Ticks of host and guest come with time: shown beside.
            for what, one, many in (("map", one_map, many_maps),
                                    ("unmap", one_unmap, many_unmaps)):
                calls = PAGES - 1
                by = {reason: (n - one.exits().get(reason, 0)) / calls
                      for reason, n in many.exits().items()}
                mmio = sum(by.get(r, 0) for r in MMIO_REASONS)
                rows += [
                    (f"exits_per_{what}",
                     (many["kvm.exits"] - one["kvm.exits"]) / calls, ""),
                    (f"mmio_exits_per_{what}", mmio, ""),
                    (f"tick_exits_per_{what}", by.get("intr", 0), ""),
                ]
            pinned, _, by_unit = locked.partition("\n")
            rows.append(("pinned_pages", int(float(pinned)), ""))
            if ours:
                rows.append(("pinned_pages_by_unit", int(by_unit), ""))
        rows += [
            ("map", map_ns / 1e3, "us"),
            ("unmap", unmap_ns / 1e3, "us"),
            ("map_unmap", pair_ns / 1e3, "us"),
        ]
        rig.note(name, "packets")
        load = packets(l1, prober)
        l1.script("count_start load")
        per_s = statistics.median(
            load.run("window", SECONDS, WINDOW)["per_s"]
            for _ in range(LOAD_RUNS))
        l1.script("count_stop load")
        rows.append(("packets_per_s", per_s, "1/s"))
        if ours:
            counts = Counts.read(l1, "load")
            for stat in ("busy", "wasted"):
                ns = counts[f"kvm.viommu_{stat}_ns"]
                rows.append((f"sidecore_{stat}",
                             100 * ns / counts["time.ns"], "%"))
            rows.append(("trapped_writes_per_invalidation",
                         counts["kvm.viommu_traps"] /
                         max(1, counts["kvm.viommu_iotlb_invalidations"]), ""))
    return [(name, *r) for r in rows]


def configurations():
    """{name: (boot, is_guest)}"""
    configs = {name: (lambda l1, n=name, **kw: boot_guest(l1, n, **kw), True)
               for name in GUESTS}
    configs["bare"] = (lambda l1: boot_bare(l1, "DMA"), False)
    configs["bare-deferred"] = (lambda l1: boot_bare(l1, "DMA-FQ"), False)
    return configs


def main():
    configs = configurations()
    rows = []
    for name, how in configs.items():
        rows += measure(name, *how)
    if rig.acceleration()[0] == "tcg":
        for name, how in configs.items():
            rows += count(name, *how)
    # What it is all about, relative to L1 itself.
    for metric, short in (("map_unmap", "map_unmap"),
                          ("instructions_per_map_unmap", "instructions"),
                          ("instructions_per_packet", "instructions_per_packet"),
                          ("packets_per_s", "packets_per_s")):
        values = {config: value for config, m, value, _ in rows if m == metric}
        rows += [(config, f"{short}_by_bare", value / values["bare"], "")
                 for config, value in values.items()]
    return rig.write_results("iommu", rows)
