# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: several guests with phases share a host's memory.

After the last experiment of the VSwapper paper: GUESTS guests, started one after
the other, read their disk while they build a table in memory, PHASES times.  Each
believes in GUEST_MIB, and each VM has REAL_MIB.  Reported are the mean and the
longest time to completion.
"""

import concurrent.futures
import statistics

import rig
import swapping

GUESTS = 3
GUEST_MIB = 256
REAL_MIB = 88
FILE_MIB = 72
TABLE_MIB = 40
PHASES = 3
CONFIGS = ("stock", "mapper", "vswap", "balloon", "ample")


def configuration(name):
    with swapping.Host("swap-phased", name, guests=GUESTS, memory=4096,
                       guest_mib=GUEST_MIB, real_mib=REAL_MIB,
                       file_mib=FILE_MIB) as host:
        command = (f"/mnt/memhog phases {TABLE_MIB} {PHASES} </mnt/data || "
                   "echo killed")

        def all_guests():
            with concurrent.futures.ThreadPoolExecutor(GUESTS) as pool:
                return list(pool.map(lambda g: host.guest(command, g).split(),
                                     range(GUESTS)))
        out, counts = host.counted(all_guests)
        if any("killed" in o for o in out) and not host.balloon:
            raise rig.RigError(f"{name}: a program did not end: {out}")
        times = [float("nan") if "killed" in o else float(o[0]) for o in out]
        if len({o[1] for o in out if len(o) == 2}) > 1:
            raise rig.RigError(f"{name}: guests computed different sums")
        rows = [("time_mean", statistics.mean(times), "s"),
                ("time_max", max(times), "s")]
        rows += [(m, counts[m], "") for m in
                 ("disk_ops", "swap_sectors_written", "swap_sectors_read",
                  "image_sectors_read")]
        rig.note(name, "  ".join(f"{m}={v:.6g}" for m, v, _ in rows))
        host.stop()
    return [(name, *r) for r in rows]


def main():
    rows = []
    for name in swapping.pick(CONFIGS):
        rows += configuration(name)
    return swapping.results("swap-phased", rows)
