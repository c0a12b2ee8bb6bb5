#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: an unmodified guest protects itself by the in-kernel IOMMU: counts, traffic, a blocked DMA
# kind: host
# tier: 1
# takes: 400
# timeout: 1800
# cores: 2
"""What the in-kernel IOMMU is for, by counts, with unmodified Debian and QEMU.

By the vCPU (no sidecore), by a sidecore, and by a thread of QEMU, whose VFIO pins
nothing itself (--pin=mapped); on a host
with Intel's IOMMU and on one with AMD's.  Drivers of IOMMUs that tell the owner
of a domain about blocked DMA, as AMD's does, are played by tests/modules/
iommufault.c, because QEMU's IOMMUs do not make them: the guest finds what is
reported in its own log.

"qemu", which runs if it is named, is QEMU with patches/qemu/, whose intel-iommu is
KVM's unit: no viommu-run, and QEMU's own devices are behind the unit as well.
"make check-qemu" builds that first.
"""

import json
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "bench"), str(TOP / "tests/rig")]
# pylint: disable=wrong-import-position
import iommu    # noqa: E402
import rig      # noqa: E402
from counts import Counts   # noqa: E402
from load import Load       # noqa: E402

PAGES = 1024
SECONDS = 3
PACKETS = 200
IDLE = 5
# Pages that KVM accounts in advance.
SPARE = 64
# A guest uses more than that, so that it can be swapped, and QEMU itself half of it.
RECLAIM_MIB = 96

TOOL = TOP / "tools/kvm/viommu/viommu-stat"

# Nobody maps it.
STRAY = 0x7654321000

# virtio-serial is behind the unit, too.
X_KVM = ("-device intel-iommu,x-kvm=on,intremap=off "
         "-global virtio-serial-pci.disable-legacy=on "
         "-global virtio-serial-device.iommu_platform=on")
ACCESS_PLATFORM = 33    # VIRTIO_F_ACCESS_PLATFORM
# Machine, properties of intel-iommu (and options), and what QEMU says.
REFUSED = [
    ("accel=tcg", "intremap=off", "needs KVM"),
    ("accel=kvm,kernel-irqchip=split", "intremap=on", "no interrupt remapping"),
    ("accel=kvm", "intremap=off,x-scalable-mode=on", "scalable mode"),
    ("accel=kvm", "intremap=off,snoop-control=on", "snoop control"),
    ("accel=kvm", "intremap=off,device-iotlb=on", "device TLBs"),
    ("accel=kvm", "intremap=off -only-migratable", "not migrated"),
]

# edu in the guest writes where it must not: an address that is not mapped, and
# a page that it may only read.
EDU = f"""
dev=/sys/bus/pci/devices/{iommu.GUEST_EDU}
echo 1 >$dev/enable
# Bus master, too.
printf '\\007' | dd of=$dev/config bs=1 seek=4 conv=notrunc 2>/dev/null
bar=$(sed -n '1s/ .*//p' $dev/resource)
edu() {{ devmem $((bar + $1)) 64 $2; }}
read -r readonly intact <$dev/readonly
for addr in {STRAY:#x} $readonly; do
	edu 0x80 0x40000
	edu 0x88 $addr
	edu 0x90 64
	edu 0x98 3
	sleep 1
done
sleep 1
echo readonly $(cat $dev/readonly)
dmesg | grep -iE "dmar.*(fault|request)"
true
"""


def boot(l1, options, run, args=""):
    """A guest with igb and edu behind the unit; edu is dmaprobe's."""
    l1.script(f"""
load_kvm {options}
mkswap -q "$(disk swap)" && swapon "$(disk swap)" || fail "no swap"
igb=$(bind_vfio igb)
edu=$(bind_vfio edu)
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir -p /sys/fs/cgroup/g
echo $BASHPID >/sys/fs/cgroup/g/cgroup.procs
l2_start g -w last -x "{run}" -a "{iommu.STRICT}" -- {args} \
	-device vfio-pci,host=$igb,addr=0x10 -device vfio-pci,host=$edu,addr=0x11
echo $BASHPID >/sys/fs/cgroup/cgroup.procs
l2_wait g 400
""", timeout=500)
    return iommu.Prober(l1, "l2_run g", iommu.GUEST_EDU, "/lib/dmaprobe.ko")


def check(what, value, low, high):
    print(f"  {what}: {value:.4g}")
    if not low <= value <= high:
        raise rig.RigError(f"{what} is {value:.4g}, not in {low}..{high}")


def stat(l1, name):
    return int(l1.script(f"cat /sys/kernel/debug/kvm/*-*/viommu_{name}").out)


def shadow_memory(l1):
    """Bytes of what the shadow keeps for each mapped page, with its cgroup."""
    active, _, size = map(int, l1.script("""
echo 1 >/sys/kernel/slab/viommu_shadow_leaf/shrink
awk '$1 == "viommu_shadow_leaf" { print $2, $3, $4 }' /proc/slabinfo
""").out.split())
    return active * (size + 8)


def locked_pages(l1, pin):
    """What QEMU has locked, with PAGES mapped: that, or all of its memory besides."""
    vm = report(l1)
    mapped = vm["unit"]["mapped_pages"]
    check("pages that are locked, of those that are mapped",
          vm["locked"] / 4096 / mapped, *((1, 1 + SPARE / mapped) if pin == "mapped" else
                                          (10, 1e6)))


def map_and_unmap(l1, prober, polled, others=0.01, pin="all"):
    """Exits and pins of PAGES single-page mappings.

    others is how many mappings of other devices there may be for each.
    """
    # In its stride: a guest that just started to map exits a few times.
    prober.do("pairs", 200)
    before, memory = stat(l1, "pinned"), shadow_memory(l1)
    _, maps, _ = prober.counted("map", PAGES)
    check("pinned pages for mapped pages",
          (stat(l1, "pinned") - before) / PAGES, 1, 1)
    # A debug kernel has red zones around each object.
    check("bytes of shadow state for a mapped page",
          (shadow_memory(l1) - memory) / PAGES, 1,
          64 if l1.kernel.flavour == "release" else 128)
    locked_pages(l1, pin)
    _, unmaps, _ = prober.counted("unmap", PAGES)
    check("pinned pages left", stat(l1, "pinned") - before, 0, 0)
    for what, counts in (("map", maps), ("unmap", unmaps)):
        mmio = sum(counts.exits().get(r, 0) for r in iommu.MMIO_REASONS)
        check(f"register exits per {what}", mmio / PAGES, 0,
              0.1 if polled else 2)
        check(f"trapped writes per {what}",
              counts["kvm.viommu_traps"] / PAGES, 0 if polled else 1,
              0.06 if polled else 1.01)
        check(f"exits to user space per {what}",
              counts["kvm.mmio_exits"] / PAGES, 0, 0)
        check(f"invalidations per {what}",
              counts["kvm.viommu_iotlb_invalidations"] / PAGES,
              1, 1 + others)


def traffic(l1):
    up = "ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up"
    l1.script(f"l2_run g '{up}'")
    load = Load(l1)
    load.wait_link()
    l1.script("count_start load")
    r = load.exchange(PACKETS, 8, SECONDS)
    l1.script("count_stop load")
    counts = Counts.read(l1, "load")
    print(f"  packets: {r['answered']} of {r['sent']}, {r['late']} late")
    check("packets lost of all", r["lost"] / r["sent"], 0, 0.05)
    check("invalidations per packet",
          counts["kvm.viommu_iotlb_invalidations"] / r["answered"],
          0.5, 10)
    check("faults", counts["kvm.viommu_faults"], 0, 0)
    return load


def stray_dma(l1, host):
    """Blocked DMA: what the host says, and what the guest is told."""
    (l1.share / "edu.sh").write_text(EDU)
    res = l1.script("""
l2_run g "$(cat "$RIG_SHARE/edu.sh")" || fail "edu"
echo HOST
dmesg | grep -iE "dmar.*fault|AMD-Vi.*fault|IO_PAGE_FAULT"
true
""", timeout=120)
    print(res.out)
    guest, _, kernel = res.out.partition("HOST")
    where, intact = guest.split("readonly ")[1].split()[:2]
    if intact != "1":
        raise rig.RigError("a page was written that may only be read")
    # QEMU's AMD IOMMU blocks without a word.
    if host == "intel" and not all(f"addr {addr}" in kernel
                                   for addr in (where, f"{STRAY:#x}")):
        raise rig.RigError("the host's IOMMU did not say that it blocked")
    if "fault addr" in guest:
        raise rig.RigError("the guest was told what the host did not tell")

    # The same, reported.
    res = l1.script(f"""
insmod "$RIG_MODULE_DIR/iommufault.ko"
report=/sys/module/iommufault/parameters/report
echo "{l1.DEVICES["edu"]} {STRAY:#x} 1" >$report || fail "report"
sleep 2
echo "{l1.DEVICES["edu"]} {where} 1" >$report || fail "report"
sleep 2
rmmod iommufault
l2_run g 'dmesg | grep -iE "dmar.*(fault|request)"'
""", timeout=120).out
    print(res)
    for addr in (f"{STRAY:#x}", where):
        if f"[DMA Write NO_PASID] Request device [00:11.0] fault addr {addr} " \
           not in res:
            raise rig.RigError(f"the guest was not told about {addr}")
    check("blocked DMA that the host told of", stat(l1, "dma_faults"), 2, 2)


def overcommit(l1, load, pin):
    """Memory that is not pinned is swapped, and packets go on."""
    # What is in the host's page cache goes first.
    swapped = int(l1.script(f"""
cd /sys/fs/cgroup/g
for i in {{1..30}}; do
	(( $(<memory.swap.current) < {RECLAIM_MIB} << 20 )) || break
	echo 16M >memory.reclaim 2>/dev/null
done
cat memory.swap.current
""", timeout=120).out) >> 20
    check("swapped, MB", swapped, *((RECLAIM_MIB, 1000) if pin == "mapped" else
                                    (0, RECLAIM_MIB / 2)))
    r = load.exchange(PACKETS, 8, SECONDS)
    print(f"  packets: {r['answered']} of {r['sent']}, {r['late']} late")
    check("packets lost of all", r["lost"] / r["sent"], 0, 0.05)


def report(l1):
    """What viommu-stat tells of the only VM."""
    vm, = json.loads(l1.run(f"{TOOL} --json").out)["vms"]
    return vm


def told(l1, worker, why, *sentences):
    """viommu-stat says this, and these of the unit and its devices."""
    vm = report(l1)
    unit = vm["unit"]
    if vm["why"] != why or unit["worker"] != worker or len(vm["devices"]) != 2 or \
       {d["address"] for d in unit["devices"]} != {"00:10.0", "00:11.0"} or \
       vm["pinned"] != 4096 * unit["mapped_pages"]:
        raise rig.RigError(f"viommu-stat tells {vm}")
    text = l1.run(f"{TOOL} --why").out
    print(text)
    for sentence in ("00:10.0 of the guest reaches what the guest has mapped",
                     "out of reach when it is told so", *sentences):
        if sentence not in text:
            raise rig.RigError(f"viommu-stat does not say \"{sentence}\"")


def told_of_traffic(l1, load, polled):
    """Its columns, of a guest that has something to do."""
    with load.background("window", 6):
        text = l1.run(f"{TOOL} -i 1 -n 4").out
    print(text)
    lines = [line.split() for line in text.splitlines()]
    maps, exits, busy = map(lines[0].index, ("maps", "exits", "busy%"))
    if len(lines) != 5 or not any(int(l[maps]) for l in lines[2:]) or \
       polled != any(float(l[busy]) for l in lines[2:]) or \
       not polled and not any(int(l[exits]) for l in lines[2:]):
        raise rig.RigError("viommu-stat does not tell what the guest does")


def idle(l1):
    """Of a guest that does nothing the sidecore need not know."""
    stats = """
cat /sys/kernel/debug/kvm/*-*/viommu_{busy,wasted}_ns
for task in /proc/[0-9]*/task/[0-9]*; do
	case $(cat "$task/comm" 2>/dev/null) in
	kvm-sidecore*) cut -d " " -f 1 "$task/schedstat" ;;
	esac
done
"""
    out = l1.script(f"sleep 2; {stats} echo; sleep {IDLE}; {stats}").out
    before, after = (list(map(int, part.split()))
                     for part in out.split("\n\n"))
    if len(before) != 3 or len(after) != 3:
        raise rig.RigError(f"there is not one sidecore: {out}")
    scale = IDLE * 1e9 / 100
    check("sidecore time for an idle guest, %",
          (sum(after[:2]) - sum(before[:2])) / scale, 0, 1)
    check("CPU time of the sidecore's thread, %",
          (after[2] - before[2]) / scale, 0, 1)


def refusals(l1, qemu, options):
    """What the patched QEMU cannot do is refused by one sentence."""
    l1.script(f"load_kvm {options}")
    for machine, properties, words in REFUSED:
        res = l1.run(f"timeout 60 {qemu} -nodefaults -display none -S "
                     f"-machine q35,{machine} "
                     f"-device intel-iommu,x-kvm=on,{properties}", check=False)
        said = res.err.strip().splitlines()
        if res.status != 1 or not said or words not in said[0]:
            raise rig.RigError(f"x-kvm=on,{properties} with {machine}: status "
                               f"{res.status}, {res.err}")
    print(f"  refused: {len(REFUSED)} configurations")


def own_devices(l1):
    """Devices that QEMU emulates translate: the agent's answers come that way."""
    features = l1.script("l2_run g 'cat /sys/bus/virtio/devices/virtio0/features'"
                         ).out.strip()
    if features[ACCESS_PLATFORM] != "1":
        raise rig.RigError("virtio-serial does not use the platform's IOMMU: "
                           f"{features}")
    data = l1.script(f"l2_run g 'dmesg | head -c {1 << 16}'").out
    print(f"  virtio-serial is behind the unit; {len(data)} bytes")


# See "A CPU whose timer stops" in Documentation/rig.rst.
PERIODIC = " nohz=off highres=off"


def run(name, options, run_options="", *, polled, host="intel", qemu=None,
        worker="sidecore of CPU 0", pin="all"):
    print(f"{name}:", flush=True)
    run_qemu = (f"env PATH={qemu.parent}:/usr/bin:/bin" if qemu else
                f"{rig.build_viommu_tools()}/viommu-run {run_options}")
    with rig.L1(f"viommu.guest.{name}", modules="viommu", iommu=host,
                devices=["igb", "edu"], disks={"swap": 256},
                append="iommu.strict=1 slab_nomerge" +
                       (PERIODIC if host == "amd" else ""),
                guest_modules=["dmaprobe", "iommufault"]) as l1:
        if qemu:
            refusals(l1, qemu, options)
        prober = boot(l1, options, run_qemu, X_KVM if qemu else "")
        map_and_unmap(l1, prober, polled, 0.1 if qemu else 0.01, pin)
        load = traffic(l1)
        told(l1, worker, "protected", *() if polled else (
            "each change of its tables is an exit", "there is no sidecore"))
        told_of_traffic(l1, load, polled)
        overcommit(l1, load, pin)
        stray_dma(l1, host)
        told(l1, worker, "protected,faults", "  2 faults told to the guest",
             "    2 of these by the host's IOMMU")
        if qemu:
            own_devices(l1)
        if polled:
            l1.script("l2_run g 'ip link set eth0 down'")
            idle(l1)
        l1.script("""
l2_stop g
unload_kvm || fail "kvm does not unload"
modprobe -r viommu-shadow || fail "viommu-shadow does not unload"
""")


def main():
    wanted = sys.argv[1:]
    runs = {
        "samecore": (("viommu=1",), {"polled": False, "worker": "none"}),
        "sidecore": (("viommu=1 sidecore_cpus=0 viommu_poll_us=100000",),
                     {"polled": True}),
        "task": (("viommu=1 viommu_poll_us=100000", "--worker=task --pin=mapped"),
                 {"polled": True, "worker": "a thread of the VM's own",
                  "pin": "mapped"}),
        "amd": (("viommu=1 sidecore_cpus=0 viommu_poll_us=100000",),
                {"polled": True, "host": "amd"}),
    }
    if "qemu" in wanted:
        qemu = rig.sh(str(TOP / "scripts/build-qemu.sh")).splitlines()[-1]
        runs["qemu"] = runs["sidecore"][0], {"polled": True,
                                             "qemu": pathlib.Path(qemu)}
    for name, (args, kwargs) in runs.items():
        if not wanted or name in wanted:
            run(name, *args, **kwargs)


rig.main(main)
