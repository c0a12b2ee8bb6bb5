#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: an unmodified guest takes and completes the interrupts of an assigned NIC without exits
# kind: host
# tier: 1
# takes: 250
# timeout: 900
# cores: 2
"""What ELI is for, by counts: stock behavior, delivery alone, and both."""

import pathlib
import sys

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(TOP / "bench"), str(TOP / "tests/rig")]
# pylint: disable=wrong-import-position
import irq      # noqa: E402
import rig      # noqa: E402

SECONDS = 4


def check(name, metrics, **limits):
    """Compare metrics with (lowest, highest)."""
    print(f"{name}: " + ", ".join(f"{k} {v:.3g}" for k, v in metrics.items()
                                  if k not in ("counts", "state")))
    bad = [f"{k} is {metrics[k]:.4g}, not in {low}..{high}"
           for k, (low, high) in limits.items()
           if not low <= metrics[k] <= high]
    if bad:
        print(metrics["state"])
        raise rig.RigError(f"{name}: " + "; ".join(bad))


def main():
    # With the parameter off, the modules do what stock ones do.
    off = irq.measure("eli.igb.off", "eli", "", seconds=SECONDS, insns=True)
    check("eli=0", off, exits_per_irq=(1, 4), irqs_in_guest_percent=(0, 1),
          injections_per_irq=(0.8, 1.2))
    if off["counts"].total("kvm.eli_"):
        raise rig.RigError("counters of ELI moved with eli=0")

    # Only completion exits.
    some = irq.measure("eli.igb.delivery", "eli", "eli=1 eli_eoi=0",
                       seconds=SECONDS)
    # On a busy machine the guard takes the vCPU out of DIRECT mode for moments.
    check("eli_eoi=0", some, irqs_in_guest_percent=(99, 100),
          eoi_writes_per_irq=(0.95, 1.05), injections_per_irq=(-0.05, 0.1))

    full = irq.measure("eli.igb.full", "eli", "eli=1", seconds=SECONDS,
                       insns=True)
    check("eli=1", full, exits_per_irq=(-1, 0.02),
          irqs_in_guest_percent=(99, 100), eoi_writes_per_irq=(-1, 0.02),
          injections_per_irq=(-1, 0.02))
    if full["counts"]["kvm.eli_direct"] < 100:
        raise rig.RigError("the vCPU was not in DIRECT mode")

    # What a packet costs the CPU; a quarter was seen.
    for metric in ("instructions_per_packet", "instructions_per_round_trip"):
        if metric in off and not 0 < full[metric] < 0.4 * off[metric]:
            raise rig.RigError(f"{metric}: {full[metric]:.0f} with eli=1, "
                               f"{off[metric]:.0f} without")


rig.main(main)
