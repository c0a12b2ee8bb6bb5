# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: repeated sequential read of a file by a guest short of memory.

The first experiment of the VSwapper paper, scaled: a guest that believes to
have GUEST_MIB reads a file of FILE_MIB PASSES times, while its VM has only
REAL_MIB of real memory (a fifth): the cgroup memory.max of QEMU is that plus QEMU_MIB,
which is what QEMU itself needs here.  Image and swap are disks of their own, each slowed by dm-delay.

  stock    the host swaps, knowing nothing of the guest
  balloon  the guest was told, and gave the memory up beforehand
  ample    enough real memory

Before the passes the guest touches all memory that it believes to have, as a
guest that has been up for a while did, and drops its caches.  Not with zeroes:
the host frees zero-filled pages of huge pages instead of swapping them.
"""

import rig

GUEST_MIB = 512
FILE_MIB = 144
REAL_MIB = 104
QEMU_MIB = 48
PASSES = 4
DELAY_MS = 2

SETUP = f"""
set -e
modprobe dm-delay
slow()
{{
	dmsetup create $1 --table \\
		"0 $(blockdev --getsz $(disk $1)) delay $(disk $1) 0 {DELAY_MS}"
	dmsetup mknodes $1
}}
slow image
slow swap
mkfs.ext4 -q -O ^has_journal /dev/mapper/image
mkdir -p /run/mnt
mount /dev/mapper/image /run/mnt
head -c {FILE_MIB}M /dev/urandom >/run/mnt/data
umount /run/mnt
mkswap -q /dev/mapper/swap
swapon /dev/mapper/swap
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
load_kvm
mkdir /sys/fs/cgroup/vm
# Memory is charged to the cgroup that a process is in when it touches it.
echo $BASHPID >/sys/fs/cgroup/vm/cgroup.procs
l2_start g -m {GUEST_MIB} -- \\
	-drive if=none,id=d,file=/dev/mapper/image,format=raw,cache=none,aio=native \\
	-device virtio-blk-pci,drive=d -device virtio-balloon-pci
echo $BASHPID >/sys/fs/cgroup/cgroup.procs
l2_wait g
l2_run g 'mkdir -p /mnt && mount -t ext4 /dev/vda /mnt &&
	  mount -t tmpfs -o size={GUEST_MIB}m t /tmp &&
	  yes "not a page of zeroes" | head -c {GUEST_MIB - 150}m >/tmp/fill &&
	  rm /tmp/fill && umount /tmp && echo 3 >/proc/sys/vm/drop_caches'
"""

# What is above the limit goes to swap first: lowering memory.max at once kills
# when a slow disk cannot take it as fast.
LIMIT = """
cd /sys/fs/cgroup/vm
limit=$((%d << 20))
for i in {1..400}; do
	(( $(<memory.current) > limit )) || break
	echo 8M >memory.reclaim 2>/dev/null
done
echo $limit >memory.max
echo "memory $(<memory.current) swapped $(<memory.swap.current)"
"""

# dd, because busybox's cat sends the file to /dev/null without touching it.
PASS = """
scanned=$(awk '$1 == "pgscan" { print $2 }' /sys/fs/cgroup/vm/memory.stat)
count_start pass
l2_run g 'faults=$(awk "/^pgmajfault/ { print \\$2 }" /proc/vmstat)
	  start=$(cut -d" " -f1 /proc/uptime)
	  dd if=/mnt/data of=/dev/null bs=256k 2>/dev/null || exit 1
	  end=$(cut -d" " -f1 /proc/uptime)
	  echo $start $end $(($(awk "/^pgmajfault/ { print \\$2 }" /proc/vmstat) - faults))'
count_stop pass
awk -v a="$scanned" '$1 == "pgscan" { print $2 - a }' /sys/fs/cgroup/vm/memory.stat
"""


def qmp(l1, command):
    """One QMP command to the guest's QEMU."""
    code = ("import json,socket;s=socket.socket(socket.AF_UNIX);"
            "s.connect('/run/rig/g.qmp');f=s.makefile('rw');f.readline();"
            "f.write('{\"execute\":\"qmp_capabilities\"}');f.flush();"
            f"f.readline();f.write('''{command}''');f.flush();"
            "print(f.readline())")
    l1.run(f"/usr/bin/python3 -c {rig.shlex.quote(code)}")


def configuration(name):
    with rig.L1(f"bench.swap-read.{name}", modules="distro",
                disks={"image": FILE_MIB + 64, "swap": 1024}) as l1:
        rig.note(name, "starting the guest")
        l1.script(SETUP, timeout=400)
        if name == "balloon":
            # What the guest is left with is what the others' VM really has.
            qmp(l1, '{"execute":"balloon","arguments":{"value":%d}}' %
                (REAL_MIB << 20))
            l1.run("sleep 15")
        if name != "ample":
            rig.note(name, l1.script(LIMIT % (REAL_MIB + QEMU_MIB), timeout=400)
                     .out.replace("\n", " "))
        dev = l1.script("for d in image swap; do basename $(disk $d); done"
                        ).out.split()
        rows = []
        for i in range(1, PASSES + 1):
            out = l1.script(PASS, timeout=1200).out.split()
            seconds = float(out[1]) - float(out[0])
            counts = {}
            for line in (l1.share / "pass.counts").read_text().splitlines():
                k, _, v = line.rpartition(" ")
                counts[k] = float(v)
            values = (
                (f"pass_{i}", seconds, "s"),
                (f"swap_sectors_written_{i}",
                 int(counts.get(f"disk.{dev[1]}.write_sectors", 0)), ""),
                (f"swap_sectors_read_{i}",
                 int(counts.get(f"disk.{dev[1]}.read_sectors", 0)), ""),
                (f"image_sectors_read_{i}",
                 int(counts.get(f"disk.{dev[0]}.read_sectors", 0)), ""),
                (f"host_faults_{i}",
                 int(counts.get("vmstat.pgmajfault", 0)), ""),
                (f"pages_scanned_{i}",
                 int(out[3]), ""),
                (f"guest_faults_{i}", int(out[2]), ""),
            )
            rig.note(name, "  ".join(f"{m}={v}" for m, v, _ in values))
            rows += [(name, *v) for v in values]
        if name == "stock" and not rows[-6][2]:
            raise rig.RigError("the guest was not swapped at all")
        l1.script("l2_stop g; swapoff -a; dmsetup remove_all")
    return rows


def main():
    rows = []
    for name in ("stock", "balloon", "ample"):
        rows += configuration(name)
    order = {}
    for row in rows:
        order.setdefault(row[1], []).append(row)
    rows = [r for metric in sorted(order, key=lambda m: (m.rsplit("_", 1)[0]
            != "pass", m)) for r in order[metric]]
    return rig.write_results("swap-read", rows)
