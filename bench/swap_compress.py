# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: lzop in a guest that has less memory than it believes.

After the pbzip2 experiment of the VSwapper paper, with a compressor that is fast:
the guest, which believes in GUEST_MIB, compresses a file of FILE_MIB, and writes the
result to its disk.  The VM has less and less of the memory, named in percent by the
metrics, and does it REPEATS times.
"""

import swapping

GUEST_MIB = 256
FILE_MIB = 64
PERCENT = (100, 50, 37, 25)
REPEATS = 3
CONFIGS = ("stock", "mapper", "vswap", "balloon", "ample", "ample-vswap",
           "ample-small", "ample-always")

# Data that was not read yet each time; what was written is on disk at the end.
COMPRESS = """echo 3 >/proc/sys/vm/drop_caches
start=$(cut -d' ' -f1 /proc/uptime)
{compressor} -c /mnt/data >/mnt/out && sync && made=$(stat -c %s /mnt/out) || made=failed
end=$(cut -d' ' -f1 /proc/uptime)
rm /mnt/out
echo $made $start $end
"""


def configuration(name, compressor="lzop", bench="swap-compress", percents=PERCENT,
                  repeats=REPEATS):
    with swapping.Host(bench, name, guest_mib=GUEST_MIB,
                       real_mib=GUEST_MIB, file_mib=FILE_MIB,
                       extra_mib=96) as host:
        result = swapping.run_by_percent(
            host, COMPRESS.format(compressor=compressor), percents, repeats)
        host.stop()
    return result


def main():
    return swapping.compare("swap-compress", map(configuration,
                                              swapping.pick(CONFIGS)))
