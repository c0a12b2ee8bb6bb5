#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: a guest with a sidecore maps pages for hardly more instructions than the host itself
# kind: host
# tier: 2
# takes: 160
# timeout: 900
# cores: 2
"""What mapping and unmapping a page costs the guest's CPU, by instructions."""

import os
import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "bench"), str(TOP / "tests/rig")]
# pylint: disable=wrong-import-position
import iommu    # noqa: E402
import rig      # noqa: E402


def main():
    if rig.acceleration()[0] != "tcg":
        raise rig.Skip("instructions are counted under emulation only")
    if os.environ.get("FLAVOUR", "release") != "release":
        raise rig.Skip("it is about the distribution's kernel")
    insns = {}
    for name in ("bare", "samecore", "sidecore"):
        rows = iommu.count(name, *iommu.configurations()[name], tag="viommu.insns.",
                           with_packets=False)
        insns[name] = rows[0][2]
        print(", ".join(f"{metric} {value}" for _, metric, value, _ in rows))
    # A guest without an IOMMU maps for a sixteenth of what the host does.
    if min(insns["samecore"], insns["sidecore"]) < insns["bare"]:
        raise rig.RigError("less than the host's own: nothing was protected")
    if insns["sidecore"] > 1.3 * insns["bare"]:
        raise rig.RigError("more than 1.3 times the host's own")
    if insns["sidecore"] > insns["samecore"] / 4:
        raise rig.RigError("more than a quarter of the trapping unit's")


rig.main(main)
