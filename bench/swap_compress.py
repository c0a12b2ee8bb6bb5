# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: a compressor in a guest that has less memory than it believes.

After the pbzip2 experiment of the VSwapper paper: the guest, which believes in
GUEST_MIB, compresses a file of FILE_MIB, and writes the result to its disk.  The
VM has a part of the memory, named in percent by the metrics.
"""

import rig
import swapping

GUEST_MIB = 256
FILE_MIB = 64
PERCENT = (100, 50, 37)
CONFIGS = ("stock", "mapper", "vswap", "balloon", "ample")

# Data that was not read yet each time; what was written is on disk at the end.
COMPRESS = """echo 3 >/proc/sys/vm/drop_caches
start=$(cut -d' ' -f1 /proc/uptime)
lzop -c /mnt/data >/mnt/out || exit 1
sync
end=$(cut -d' ' -f1 /proc/uptime)
rm /mnt/out
echo $start $end
"""


def configuration(name, percent):
    with swapping.Host("swap-compress", name, guest_mib=GUEST_MIB,
                       real_mib=GUEST_MIB * percent // 100,
                       file_mib=FILE_MIB, extra_mib=96) as host:
        _, rows = swapping.run_timed(host, COMPRESS, percent)
        host.stop()
    return rows


def main():
    rows = []
    for percent in PERCENT:
        for name in CONFIGS:
            # Enough memory is one figure, in all rows.
            rows += configuration(name, percent)
    return rig.write_results("swap-compress", swapping.by_metric(rows))
