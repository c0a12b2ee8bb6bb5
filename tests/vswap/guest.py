#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: a guest has the right memory and disk under reclaim, with all kinds of disks, snapshots, balloon, migration and kills
# kind: host
# tier: 1
# takes: 800
# timeout: 3000
# cores: 2
"""Unmodified guests and QEMU with VSwapper: guest.py [CASE...] [CHECKS]

A guest runs tests/vswap/checker.c, which knows what each page of its memory and
of its files is, while the host reclaims the VM's memory all the time and has less
for it than the guest uses.  The cases have different disks, and something else
happens to the VM in each.  CHECKS is the number of pages that are compared in
each; of the default, a few minutes.  Without arguments all are run.
"""

import json
import pathlib
import re
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
import rig  # pylint: disable=wrong-import-position

CHECKS = 40000
GUEST_MIB = 320
# What QEMU and the guest have: less than the guest and its page cache use.
LIMIT_MIB = 168
# To a guest whose memory is taken away all the time, time goes by in leaps.
GUEST_APPEND = "nowatchdog rcupdate.rcu_cpu_stall_suppress=1"
DISK_MIB = 256

# Options of QEMU, and what Linux calls the disk.
DISKS = {
    "virtio-blk": ("-device virtio-blk-pci,drive=d", "vda"),
    "virtio-scsi": ("-device virtio-scsi-pci -device scsi-hd,drive=d", "sda"),
    "nvme": ("-device nvme,serial=d,drive=d", "nvme0n1"),
    "ide": ("-device ide-hd,drive=d", "sda"),
}
DISK_MODULES = ("virtio_scsi", "ahci", "sd_mod")

SETUP = """
load_kvm vswap=1 vswap_always=1
mkswap -q "$(disk swap)"
swapon "$(disk swap)"
mkfs.ext4 -q "$(disk image)"
mkdir -p /run/lower /run/vswap /run/check
mount "$(disk image)" /run/lower
mount -t kvm_vswap -o lower=/run/lower none /run/vswap
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/vm
"""

# A file system of its own for each guest, in a file of its own.
IMAGE = """
truncate -s {mib}M /run/lower/raw.img
# By default, so small a one has blocks of 1 KiB, which are not tracked.
mkfs.ext4 -qF -b 4096 /run/lower/raw.img
case {format} in
raw) mv /run/lower/raw.img /run/lower/{name}.img ;;
*) qemu-img convert -f raw -O {format} /run/lower/raw.img /run/lower/{name}.img &&
	rm /run/lower/raw.img ;;
esac || fail "no image"
"""

# Memory is charged to the cgroup that a process is in when it touches it.
START = """
echo $BASHPID >/sys/fs/cgroup/vm/cgroup.procs
l2_start {guest} -c 2 -m {mib} -M memory-backend=m -a "{append}" -- \\
	-object memory-backend-file,id=m,size={mib}M,mem-path=/run/vswap,share=on,align=2M \\
	-drive if=none,id=d,file=/run/vswap/{name}.img,format={format},cache={cache},aio={aio},discard=unmap,detect-zeroes=unmap \\
	{device} -device virtio-balloon-pci {more}
echo $BASHPID >/sys/fs/cgroup/cgroup.procs
"""

BOOTED = """
l2_wait {guest} 500
l2_run {guest} 'mkdir -p /mnt && mount -t ext4 -o discard /dev/{node} /mnt' ||
	fail "the guest has no disk"
"""
SQUEEZE = """
cd /sys/fs/cgroup/vm
# What is above the limit goes to swap first, as it could not go as fast.
for i in {{1..200}}; do
	(( $(<memory.current) > {limit} )) || break
	echo 16M >memory.reclaim 2>/dev/null
done
echo {limit} >memory.max
touch /run/reclaim
(
	trap - EXIT
	# Less and less, until pages come back, and then as much as does: a fixed
	# pace leaves a slow machine nothing to do but swap.
	base=$(<memory.current)
	while [[ -e /run/reclaim ]]; do
		n=$(( $(<memory.current) - base ))
		(( n > 256 << 10 )) || n=$((2 << 20))
		(( n < 8 << 20 )) || n=$((8 << 20))
		echo $n >memory.reclaim
		base=$(<memory.current)
		sleep 0.5
	done
) >/dev/null 2>&1 &
"""

# In the background there: the agent does one thing at a time.
RUN = """
l2_run {guest} 'touch /tmp/go-on
	(/bin/checker run /mnt {checks} {seed}; echo status $?) \
		>/tmp/out 2>&1 </dev/null &' || fail "the checker does not start"
"""


class Vm:
    """A guest with its disk, and the checker in it."""

    def __init__(self, l1, name, *, fmt, aio, cache="none",
                 disk="virtio-blk", short=True):
        self.l1 = l1
        self.name = name
        self.guest = name
        self.options = {"name": name, "format": fmt, "aio": aio, "cache": cache,
                        "mib": GUEST_MIB, "limit": LIMIT_MIB << 20,
                        "append": GUEST_APPEND,
                        "device": DISKS[disk][0], "node": DISKS[disk][1]}
        self.seed = 0
        self.seen = ""
        l1.script(IMAGE.format(**{**self.options, "mib": DISK_MIB}))
        self.start(name)
        self.booted()
        if short:
            self.squeeze()

    def start(self, guest, more=""):
        self.l1.script(START.format(guest=guest, more=more, **self.options))

    def booted(self):
        """The guest is up, and has its disk."""
        self.l1.script(BOOTED.format(guest=self.guest, **self.options),
                       timeout=700)

    def squeeze(self):
        """From now on, memory is short."""
        self.l1.script(SQUEEZE.format(**self.options), timeout=700)

    def stat(self):
        """What the tool tells of the VM."""
        out = self.l1.script(f"/run/check/vswap stat --json $(l2_pid {self.guest})"
                             ).out
        vms = json.loads(out)["vms"]
        # The guest's memory, not ROMs and the like.
        return max(vms, key=lambda v: v["pages"])

    def huge_mib(self):
        """How much of RAM files is mapped by huge entries of page tables."""
        out = self.l1.script(f"""awk '/^ShmemPmdMapped/ {{ print $2 }}' \
/proc/$(l2_pid {self.guest})/smaps_rollup""").out
        return int(out) >> 10

    def run(self, checks):
        """Start the checker, which goes on until it is waited for."""
        self.seed += 1
        self.seen = ""
        self.l1.script(RUN.format(guest=self.guest, checks=checks,
                                  seed=self.seed))

    def output(self):
        """What the checker has printed until now."""
        res = self.l1.script(f"l2_run {self.guest} 'cat /tmp/out'", timeout=600)
        self.seen = res.out
        return res.out

    def progress(self, checks, timeout=900):
        """Until so many pages were compared."""
        end = time.monotonic() + timeout * self.l1.slow
        while True:
            out = self.output()
            if "MISMATCH" in out or "checker:" in out:
                raise rig.RigError(f"{self.name}: {out[-2000:]}")
            numbers = [int(n) for n in
                       re.findall(r"^(?:progress|checks) (\d+)$", out,
                                  re.MULTILINE)]
            if numbers and numbers[-1] >= checks:
                return numbers[-1]
            if "\nstatus" in out or time.monotonic() > end:
                raise rig.RigError(f"{self.name}: the checker is not done: "
                                   f"{out[-2000:]}")
            time.sleep(1)

    def keep(self):
        """From now on, what is durable by the checker's output stays so."""
        self.l1.script(f"l2_run {self.guest} 'touch /tmp/keep'", timeout=600)
        end = time.monotonic() + 300 * self.l1.slow
        while "\nkept\n" not in self.output():
            if time.monotonic() > end:
                raise rig.RigError(f"{self.name}: files are still removed")
            time.sleep(1)

    def wait(self):
        """Let the checker end, and see that it does so well."""
        self.l1.script(f"l2_run {self.guest} 'rm -f /tmp/go-on'", timeout=600)
        end = time.monotonic() + 900 * self.l1.slow
        while "\nstatus " not in self.output():
            if time.monotonic() > end:
                raise rig.RigError(f"{self.name}: the checker does not end: "
                                   f"{self.seen[-2000:]}")
            time.sleep(1)
        # The thread that tells of progress may do so once more.
        m = re.search(r"^checks (\d+)\n(?:progress \d+\n|kept\n)*status 0$",
                      self.seen, re.MULTILINE)
        if not m:
            raise rig.RigError(f"{self.name}: {self.seen[-2000:]}")
        return int(m[1])

    def exercise(self, before):
        """Until all has happened that is to be tested, or this tests nothing."""
        end = time.monotonic() + 900 * self.l1.slow
        while True:
            after = self.stat()
            delta = {k: after[k] - before.get(k, 0) for k in after
                     if isinstance(after[k], int)}
            # What is only in the page cache of the lower file is no alias.
            cached = self.options["cache"] == "writeback"
            wanted = [] if cached else ["aliased_by_write"]
            few = [k for k in (*wanted, "aliased_by_read", "refault_pages",
                               "broken_by_guest", "broken_by_write")
                   if delta[k] < 50]
            if not few or time.monotonic() > end:
                break
            self.progress(self.progress(0) + 100)
        print(f"  {self.name}: " + ", ".join(
            f"{delta[k]} {k}" for k in (
                "aliased_by_read", "aliased_by_write", "refault_pages",
                "swap_faults", "stale_reads_avoided", "broken_by_guest",
                "broken_by_write", "skipped_busy", "skipped_changed",
                "skipped_conflict")), flush=True)
        if few:
            raise rig.RigError(f"{self.name}: too few {' '.join(few)}")
        if not wanted and delta["aliased_by_write"]:
            raise rig.RigError(f"{self.name}: {delta['aliased_by_write']} pages "
                               "equal what is not on disk")
        if delta["io_errors"]:
            raise rig.RigError(f"{self.name}: {delta['io_errors']} errors")

    def check(self, checks, meanwhile=None):
        """Run the checker, and do something while it runs."""
        before = self.stat()
        self.run(checks)
        if meanwhile:
            self.progress(checks // 4)
            meanwhile(self)
        self.progress(checks)
        self.exercise(before)
        n = self.wait()
        print(f"  {self.name}: {n} pages compared", flush=True)
        return n

    def relax(self):
        """No more pressure."""
        self.l1.script("rm -f /run/reclaim; echo max >/sys/fs/cgroup/vm/memory.max")

    def stop(self):
        """End the guest properly, and look at its disk."""
        self.l1.script(f"l2_run {self.guest} 'umount /mnt'")
        self.relax()
        self.l1.script(f"l2_stop {self.guest}")
        self.fsck("-fn")

    def fsck(self, how):
        """The guest's file system, by the host; how: options of e2fsck."""
        fmt = self.options["format"]
        self.l1.script(f"""
image=/run/lower/{self.name}.img
if [[ {fmt} != raw ]]; then
	qemu-img check -q -f {fmt} $image || fail "qemu-img check"
	qemu-img convert -f {fmt} -O raw $image /run/lower/raw.img || fail "convert"
	mv /run/lower/raw.img $image
fi
e2fsck {how} $image >/run/check/fsck 2>&1 || (( $? == 1 )) ||
	fail "the guest's file system: $(cat /run/check/fsck)"
e2fsck -fn $image >/run/check/fsck 2>&1 ||
	fail "the guest's file system: $(cat /run/check/fsck)"
""", timeout=400)

    def durable(self):
        """What was synchronized is there, after a crash."""
        (self.l1.share / "out").write_text(self.seen)
        out = self.l1.script(f"""
modprobe loop
mkdir -p /run/crashed
mount -o loop,ro /run/lower/{self.name}.img /run/crashed || fail "mount"
/run/check/checker verify /run/crashed <"$RIG_SHARE/out" || fail "what was durable is not there"
umount /run/crashed
""", timeout=300).out
        n = int(re.search(r"durable pages (\d+)", out)[1])
        print(f"  {self.name}: {n} durable pages after the crash", flush=True)
        if not n:
            raise rig.RigError("nothing was durable")

    def remove(self):
        self.l1.script(f"rm /run/lower/{self.name}.img")


def balloon(vm):
    """The guest gives up memory, and gets it back."""
    for mib in (GUEST_MIB - 96, GUEST_MIB, GUEST_MIB - 64, GUEST_MIB):
        vm.l1.script(f"""
qmp {vm.guest} '{{"execute": "balloon", "arguments": {{"value": {mib << 20}}}}}'
""")
        vm.progress(vm.progress(0) + 300)


def snapshot(vm):
    """Of the disk, and of the whole machine."""
    vm.l1.script(f"""
qmp {vm.guest} '{{"execute": "blockdev-snapshot-internal-sync",
	"arguments": {{"device": "d", "name": "one"}}}}' || fail "snapshot"
""")
    vm.progress(vm.progress(0) + 300)
    vm.l1.script(f"""
qmp {vm.guest} '{{"execute": "blockdev-snapshot-internal-sync",
	"arguments": {{"device": "d", "name": "two"}}}}' || fail "snapshot"
qmp {vm.guest} '{{"execute": "blockdev-snapshot-delete-internal-sync",
	"arguments": {{"device": "d", "name": "one"}}}}' || fail "deletion"
""")


def migrate(vm):
    """To another QEMU, with a RAM file of its own, and the same disk."""
    vm.start("moved", "-incoming unix:/run/migrate")
    vm.l1.script(f"""
qmp {vm.guest} '{{"execute": "migrate-set-parameters",
	"arguments": {{"max-bandwidth": 1000000000, "downtime-limit": 5000}}}}' &&
qmp {vm.guest} '{{"execute": "migrate", "arguments": {{"uri": "unix:/run/migrate"}}}}' ||
	fail "migrate"
for i in {{1..600}}; do
	status=$(python3 - /run/rig/{vm.guest}.qmp <<'END'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw")
f.readline()
for c in "qmp_capabilities", "query-migrate":
    f.write(json.dumps({{"execute": c}}) + "\\n")
    f.flush()
    while True:
        r = json.loads(f.readline())
        if "return" in r or "error" in r:
            break
print(r["return"].get("status"), r["return"].get("error-desc", ""))
END
)
	case $status in
	completed*) break ;;
	failed* | cancelled*) fail "migration: $status" ;;
	esac
	sleep 1
done
[[ $status == completed* ]] || fail "migration: $status"
l2_stop {vm.guest}
l2_wait moved 200
""", timeout=900)
    vm.guest = "moved"


def case_sequential(l1, checks):
    """Raw, Linux AIO, NVMe; a file that does not fit is read again and again."""
    vm = Vm(l1, "g-sequential", fmt="raw", aio="native", disk="nvme")
    n = vm.check(checks // 4)
    mib = 160
    sums = l1.script(f"""
l2_run {vm.guest} 'rm -rf /mnt/*; dd if=/dev/urandom of=/mnt/file bs=1M count={mib} 2>/dev/null
	echo 3 >/proc/sys/vm/drop_caches; sha256sum /mnt/file; sha256sum /mnt/file'
""", timeout=900).out
    before = vm.stat()
    sums += l1.script(f"""
l2_run {vm.guest} 'sha256sum /mnt/file; sha256sum /mnt/file'
""", timeout=900).out
    after = vm.stat()
    delta = {k: after[k] - before[k] for k in (
        "refaults", "refault_pages", "readahead_pages", "broken_by_guest",
        "io_errors")}
    print(f"  {vm.name}: " + ", ".join(f"{v} {k}" for k, v in delta.items()),
          flush=True)
    if len(set(sums.split())) != 2 or len(sums.split()) != 8:
        raise rig.RigError(f"{vm.name}: not always the same: {sums}")
    if delta["io_errors"] or delta["refault_pages"] < mib << 8:
        raise rig.RigError(f"{vm.name}: {delta}")
    # Most of it was there when the guest wanted it, and equals the disk still,
    # also what the guest has waited for.
    if (delta["readahead_pages"] < delta["refault_pages"] // 2 or
            delta["broken_by_guest"] > delta["refault_pages"] // 100):
        raise rig.RigError(f"{vm.name}: {delta}")
    vm.stop()
    vm.remove()
    return n + delta["refault_pages"]


def case_ide(l1, checks):
    """Raw, threads, page cache of the host; AHCI; ample memory, then short."""
    l1.script("echo N >/sys/module/kvm/parameters/vswap_always")
    vm = Vm(l1, "g-ide", fmt="raw", aio="threads", cache="writeback", disk="ide",
            short=False)
    vm.run(checks // 4)
    vm.progress(checks // 8)
    stat = vm.stat()
    print(f"  {vm.name}: {stat['skipped_ample']} skipped_ample, "
          f"{stat['aliases']} aliases", flush=True)
    if stat["aliases"] or stat["skipped_ample"] < 1000:
        raise rig.RigError(f"{vm.name}: memory is not ample")
    before = vm.huge_mib()
    vm.squeeze()
    vm.progress(vm.progress(0) + checks // 8)
    vm.exercise(stat)
    after = vm.huge_mib()
    print(f"  {vm.name}: {before} MiB in huge pages, {after} later", flush=True)
    if before < GUEST_MIB // 4 or after >= before:
        raise rig.RigError(f"{vm.name}: huge pages are not made or not split")
    n = vm.wait()
    print(f"  {vm.name}: {n} pages compared", flush=True)
    l1.script("echo Y >/sys/module/kvm/parameters/vswap_always")
    n += vm.check(checks // 4)
    vm.stop()
    vm.remove()
    return n


def case_raw_native(l1, checks):
    """Raw, Linux AIO; balloon."""
    vm = Vm(l1, "g-raw-native", fmt="raw", aio="native")
    n = vm.check(checks, balloon)
    vm.stop()
    vm.remove()
    return n


def case_qcow2_threads(l1, checks):
    """qcow2, threads, virtio-scsi; snapshots."""
    vm = Vm(l1, "g-qcow2-threads", fmt="qcow2", aio="threads",
            disk="virtio-scsi")
    n = vm.check(checks, snapshot)
    vm.stop()
    vm.remove()
    return n


def case_migrate(l1, checks):
    """Raw, io_uring; to a second QEMU."""
    vm = Vm(l1, "g-migrate", fmt="raw", aio="io_uring")
    vm.run(checks)
    vm.progress(checks // 4)
    vm.exercise({})
    migrate(vm)
    n = vm.wait()
    after = vm.stat()
    print(f"  moved: {after['refault_pages']} refault_pages, "
          f"{after['swap_faults']} swap_faults, {n} pages compared", flush=True)
    vm.stop()
    vm.remove()
    return n


def case_kill(l1, checks):
    """Raw, page cache; QEMU gets SIGKILL, twice; what is synchronized stays."""
    vm = Vm(l1, "g-kill", fmt="raw", aio="threads", cache="writeback")
    n = 0
    for i in range(2):
        if i:
            vm.start(vm.guest)
            vm.booted()
            vm.squeeze()
        vm.run(1 << 40)
        vm.progress(checks // 2)
        vm.exercise({})
        vm.keep()
        n += vm.progress(0)
        l1.script(f"""
kill -KILL $(l2_pid {vm.guest})
while kill -0 $(l2_pid {vm.guest}) 2>/dev/null; do sleep 0.1; done
rm -f /run/rig/{vm.guest}.pid /run/rig/{vm.guest}.agent
""")
        vm.relax()
        vm.fsck("-fp")
        vm.durable()
    vm.remove()
    return n


CASES = {
    "sequential": case_sequential,
    "ide": case_ide,
    "raw-native": case_raw_native,
    "qcow2-threads": case_qcow2_threads,
    "migrate": case_migrate,
    "kill": case_kill,
}


def main():
    names = sys.argv[1:]
    checks = int(names.pop()) if names and names[-1].isdigit() else CHECKS
    unknown = [n for n in names if n not in CASES]
    if unknown:
        print(f"no case {' '.join(unknown)}; there are {' '.join(CASES)}")
        return 2

    tools = rig.BUILD / "rig/vswap-tools"
    tools.mkdir(parents=True, exist_ok=True)
    rig.sh("make", "-s", "-C", str(rig.TOP / "tools/kvm/vswap"), f"O={tools}")
    checker = rig.BUILD / "rig/checker"
    rig.sh("gcc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror",
           "-D_GNU_SOURCE", "-static", "-pthread", "-o", str(checker),
           str(rig.TOP / "tests/vswap/checker.c"))
    total = 0
    with rig.L1("vswap.guest.l1", modules="vswap", memory=1536, spare=True,
                disks={"swap": 768, "image": 768}) as l1:
        l1.guest_initramfs = rig.build_initramfs(
            l1.guest_kernel, [("bin/checker", checker)], "vswap",
            boot_modules=(*rig.INITRAMFS_MODULES, *DISK_MODULES))
        l1.script(SETUP)
        l1.run(f"cp {checker} {tools}/vswap /run/check")
        for name in names or CASES:
            start = time.monotonic()
            total += CASES[name](l1, checks)
            print(f"  {name}: {time.monotonic() - start:.0f} s", flush=True)
        left = l1.script("/run/check/vswap stat --json").out
        if json.loads(left)["vms"]:
            raise rig.RigError(f"RAM files are left: {left}")
        l1.script("""
umount /run/vswap || fail "the mount is busy"
unload_kvm || fail "kvm does not unload"
""")
    print(f"{total} pages compared, no mismatch")
    return 0


rig.main(main)
