#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: fio reads back what it wrote to an image from RAM files, and leaves what it leaves in a plain file
# kind: host
# tier: 2
# takes: 45
# timeout: 900
# cores: 2
"""fio on an image of kvm_vswap, with its buffers in RAM files: fio.py [SEED]

Four jobs at a time, each with an engine and a RAM file of its own, write to a part
of the image each, so that the parts' blocks and the buffers' pages are aliases of
each other all the time, which the host reclaims meanwhile.

 - What they wrote they read back and verify, and so does another fio that reads
   the file below, when nothing is mounted or cached any more.
 - The same jobs, with the same random numbers, are run on the image and on a plain
   file; both have to be equal then.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
# pylint: disable=wrong-import-position
import rig      # noqa: E402
import vswap    # noqa: E402

SEED = int(sys.argv[1], 0) if len(sys.argv) > 1 else 7

PART_MIB = 32
# Name, which is the RAM file's, too: options.
JOBS = {
    "psync": "ioengine=psync direct=1 bsrange=4k-256k blockalign=4k",
    "libaio": "ioengine=libaio iodepth=32 direct=1 bsrange=4k-128k "
              "blockalign=4k",
    "io_uring": "ioengine=io_uring iodepth=32 direct=1 bsrange=4k-128k "
                "blockalign=4k",
    # Some of it is whole blocks, and most is not.
    "buffered": "ioengine=psync direct=0 bsrange=512-16k blockalign=512",
}
RAM_MIB = 8             # what buffers take at most

VERIFY = "rw=randwrite verify=crc32c verify_backlog=256"
VERIFY_ONLY = "rw=randwrite verify=crc32c verify_only=1"
WRITE = "rw=randrw refill_buffers=1"

SETUP = """
load_kvm vswap=1 vswap_always=1
mkswap -q "$(disk swap)"
swapon "$(disk swap)"
mkfs.ext4 -q -b 4096 "$(disk image)"
mkdir -p /run/lower /run/vswap
mount "$(disk image)" /run/lower
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
mkdir /sys/fs/cgroup/fio
"""

MOUNT = "mount -t kvm_vswap -o lower=/run/lower none /run/vswap\n"
UMOUNT = """
umount /run/vswap
sync
echo 3 >/proc/sys/vm/drop_caches
"""

# Reclaimed all the time; nothing is left behind when fio has ended.
RUN = """
touch /run/reclaim
(
	trap - EXIT
	while [[ -e /run/reclaim ]]; do
		echo 1M >/sys/fs/cgroup/fio/memory.reclaim
		sleep 0.05
	done
) >/dev/null 2>&1 &
(
	trap - EXIT
	echo $BASHPID >/sys/fs/cgroup/fio/cgroup.procs
	exec fio --aux-path=/run --verify_state_save=0 /run/jobs
) >/run/fio.out 2>&1
status=$?
rm /run/reclaim
wait
(( status == 0 )) || { grep -v '^ ' /run/fio.out; exit $status; }
"""


def jobs(what, image, ram):
    """fio's job file; buffers are in RAM files or in memory of fio's."""
    lines = ["[global]", f"filename={image}", f"size={PART_MIB}m",
             f"randseed={SEED}", *what.split()]
    for i, (name, options) in enumerate(JOBS.items()):
        lines += [f"[{name}]", *options.split(), f"offset={i * PART_MIB}m"]
        if ram:
            lines.append(f"iomem=mmapshared:/run/vswap/{name}")
    return "\n".join(lines) + "\n"


def fio(l1, what, image, ram=False, check=True):
    """Run all jobs; returns what fio printed if it failed."""
    files = "".join(f"truncate -s {RAM_MIB}M /run/vswap/{name}\n"
                    for name in JOBS) if ram else ""
    return l1.script(f"""
truncate -s {PART_MIB * len(JOBS)}M /run/lower/{pathlib.Path(image).name}
{files}
cat >/run/jobs <<'END'
{jobs(what, image, ram)}END
{RUN}""", timeout=600, check=check)


def see(l1, what, *more):
    """Counters of all RAM files, which have to move, or this tested nothing."""
    total = {}
    for name in JOBS:
        for k, v in vswap.ram_stats(l1, f"/run/vswap/{name}").items():
            total[k] = total.get(k, 0) + v
    print(f"  {what}: " + ", ".join(
        f"{total[k]} {k}" for k in
        ("aliased_by_read", "aliased_by_write", "refault_pages", "swap_faults",
         "stale_reads_avoided", "broken_by_guest",
         "skipped_busy", "skipped_conflict")), flush=True)
    few = [k for k in ("aliased_by_read", "aliased_by_write",
                       "broken_by_guest", *more) if total[k] < 50]
    if few or total["io_errors"]:
        raise rig.RigError(f"{what}: too few {' '.join(few)}, "
                           f"{total['io_errors']} errors")


def main():
    with rig.L1("vswap.fio.l1", modules="vswap", memory=2048, spare=True,
                disks={"image": 512, "swap": 512}) as l1:
        l1.script(SETUP + MOUNT)
        fio(l1, VERIFY, "/run/vswap/image", ram=True)
        see(l1, "verify", "refault_pages", "stale_reads_avoided")
        l1.script(UMOUNT)
        fio(l1, VERIFY_ONLY, "/run/lower/image")
        # A block that is not what was written has to be found.
        l1.run(f"""dd if=/dev/zero of=/run/lower/image bs=4096 count=1 \
seek={PART_MIB * 256 // 2} conv=notrunc 2>/dev/null""")
        res = fio(l1, VERIFY_ONLY, "/run/lower/image", check=False)
        if not res.status or "verify" not in res.out:
            raise rig.RigError(f"a wrong block was not found: {res}")

        l1.script("rm /run/lower/image\n" + MOUNT)
        fio(l1, WRITE, "/run/vswap/image", ram=True)
        see(l1, "write")
        l1.script(UMOUNT)
        fio(l1, WRITE, "/run/lower/plain")
        l1.script("cmp /run/lower/image /run/lower/plain")
        print("  image and plain file are equal")
        l1.script('umount /run/lower && unload_kvm || fail "still in use"')
    return 0


rig.main(main)
