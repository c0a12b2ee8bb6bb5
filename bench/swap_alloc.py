# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: a guest short of memory reads a file, then allocates memory.

The second experiment of the VSwapper paper, scaled: after it has read a file of
FILE_MIB, a program in the guest allocates TOUCH_MIB and writes to each page.  The
guest believes that it only has to give up page cache; for the host each page is
one that has to be read from swap, to be overwritten.

``balloon`` may lose: the guest kills the program if the balloon does not give
memory back in time; its time is then reported as nan.
"""

import rig
import swapping

GUEST_MIB = 512
FILE_MIB = 144
REAL_MIB = 104
TOUCH_MIB = 144
CONFIGS = ("stock", "mapper", "vswap", "balloon", "ample")

READ = "dd if=/mnt/data of=/dev/null bs=256k 2>/dev/null"


def configuration(name):
    with swapping.Host("swap-alloc", name, guest_mib=GUEST_MIB,
                       real_mib=REAL_MIB, file_mib=FILE_MIB) as host:
        host.guest(READ)
        before = host.stats()
        out, counts = host.counted(lambda: host.guest(
            f"/mnt/memhog touch {TOUCH_MIB} || echo killed").split())
        after = host.stats()
        killed = "killed" in out
        if killed and not host.balloon:
            raise rig.RigError(f"{name}: the program did not end: {out}")
        rows = [("time", float("nan") if killed else float(out[0]), "s")]
        rows += [(m, counts[m], "") for m in
                 ("disk_ops", "swap_sectors_written", "swap_sectors_read",
                  "image_sectors_read", "host_faults", "exits")]
        if after:
            rows += [(m, after[m] - before[m], "") for m in
                     ("false_reads_avoided", "buffer_merges", "swap_faults")]
        rig.note(name, "  ".join(f"{m}={v:.6g}" for m, v, _ in rows))
        host.stop()
    return [(name, *r) for r in rows]


def main():
    rows = []
    for name in swapping.pick(CONFIGS):
        rows += configuration(name)
    return swapping.results("swap-alloc", rows)
