# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: repeated sequential read of a file by a guest short of memory.

The first experiment of the VSwapper paper, scaled: a guest that believes to
have GUEST_MIB reads a file of FILE_MIB PASSES times, while its VM has only
REAL_MIB of real memory (a fifth).  See swapping.py for the configurations.
"""

import rig
import swapping

GUEST_MIB = 512
FILE_MIB = 144
REAL_MIB = 104
PASSES = 4
CONFIGS = ("stock", "mapper", "vswap", "balloon", "ample", "ample-vswap")

# dd, because busybox's cat sends the file to /dev/null without touching it.
PASS = """faults=$(awk '/^pgmajfault/ { print $2 }' /proc/vmstat)
start=$(cut -d' ' -f1 /proc/uptime)
dd if=/mnt/data of=/dev/null bs=256k 2>/dev/null || exit 1
end=$(cut -d' ' -f1 /proc/uptime)
echo $start $end $(($(awk '/^pgmajfault/ { print $2 }' /proc/vmstat) - faults))
"""


def configuration(name, bench="swap-read", passes=PASSES):
    rows = []
    with swapping.Host(bench, name, guest_mib=GUEST_MIB,
                       real_mib=REAL_MIB, file_mib=FILE_MIB) as host:
        for i in range(1, passes + 1):
            before = host.stats()
            out, counts = host.counted(lambda: host.guest(PASS).split())
            values = [(f"pass_{i}", float(out[1]) - float(out[0]), "s")]
            values += [(f"{metric}_{i}", counts[metric], "") for metric in
                       ("swap_sectors_written", "swap_sectors_read",
                        "image_sectors_read", "disk_ops", "host_faults",
                        "exits", "pages_scanned")]
            values.append((f"guest_faults_{i}", int(out[2]), ""))
            if before:
                # Pages that were known to be on disk, and are not any more.
                values.append((f"broken_by_guest_{i}",
                               host.stats()["broken_by_guest"] -
                               before["broken_by_guest"], ""))
            rig.note(name, "  ".join(f"{m}={v:.6g}" for m, v, _ in values))
            rows += [(name, *v) for v in values]
        if name.startswith("stock") and not rows[2][2]:
            raise rig.RigError("the guest was not swapped at all")
        host.stop()
    return rows


def main():
    rows = []
    for name in swapping.pick(CONFIGS):
        rows += configuration(name)
    rows.sort(key=lambda r: (r[1].rsplit("_", 1)[0] != "pass", r[1]))
    return swapping.results("swap-read", rows)
