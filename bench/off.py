# SPDX-License-Identifier: GPL-2.0-only
"""Features off: exits and instructions of a fixed workload, against stock.

tests/rig/exitcost.c runs loops of VM exits straight on the KVM API, in an L1
with one CPU under deterministic emulation (icount), where the time stamp
counter counts executed instructions: those of the guest, of KVM and of the
program.  "stock" are the distribution's modules, "off" ours with no feature
switched on.  Host ticks fall into the loops, so the least of RUNS is taken.
"""

import os

import rig

ROUNDS = 2000
RUNS = 5


def configuration(name, modules):
    tool = rig.build_tool("exitcost")
    with rig.L1(f"bench.off.{name}", modules=modules, cpus=1,
                icount=True) as l1:
        rig.note(name, "counting")
        out = l1.script(f"""
load_kvm
for i in {{1..{RUNS}}}; do
	{tool} {ROUNDS} || fail exitcost
done
""", timeout=900).out
    best = {}
    for line in out.splitlines():
        kind, exits, cycles = line.split()
        value = (int(cycles), int(exits))
        best[kind] = min(best.get(kind, value), value)
    rows = []
    for kind, (cycles, exits) in best.items():
        rows.append((name, f"exits_{kind}", exits, ""))
    for kind, (cycles, exits) in best.items():
        rows.append((name, f"instructions_{kind}", cycles / ROUNDS, ""))
    return rows


def main():
    if rig.acceleration()[0] != "tcg":
        raise rig.Skip("instructions are counted under emulation only")
    features = os.environ.get("FEATURES", "eli viommu vswap").split()
    rows = configuration("stock", "distro")
    rows += configuration("rebuilt", "none")
    rows += configuration("off", "+".join(features) or "none")
    return rig.write_results("off", rows)
