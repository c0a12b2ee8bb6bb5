# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: bzip2 in a guest that has less memory than it believes.

The pbzip2 experiment of the VSwapper paper: as swap-compress, but with the paper's
compressor.  It computes nearly twenty times as long for a page as lzop, which
hardly does anything but use memory; so it is done once for each percentage.
"""

import swap_compress
import swapping

PERCENT = (100, 50, 25)
CONFIGS = ("stock", "vswap", "ample")


def configuration(name):
    return swap_compress.configuration(name, "bzip2", "swap-bzip2", PERCENT,
                                       repeats=1)


def main():
    return swapping.compare("swap-bzip2", map(configuration,
                                              swapping.pick(CONFIGS)))
