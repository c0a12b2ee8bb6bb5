#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: the emulator's plugin counts the instructions that were executed
# kind: host
# tier: 2
# takes: 14
# timeout: 300
# cores: 2

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
import rig  # pylint: disable=wrong-import-position

ROUNDS = 100000
# A translated block counts on one side of a mark that is in it, and a tick may
# come in between (it is not part of a loop that waits).
SLACK = 40


def main():
    tool = rig.build_tool("marked")
    with rig.L1("selftest.insns.l1", insns=True) as l1:
        if not l1.insns:
            print("SKIP: L1 is not emulated")
            return 4
        before = l1.instructions()
        assert len(before) == l1.cpus, before
        l1.marked_instructions()
        l1.run(f"for i in 1 2 3 4 5; do taskset -c 1 {tool} {ROUNDS}; done")
        marked = l1.marked_instructions()
        # Told once.
        assert l1.marked_instructions() == [], "the same marks again"
        after = l1.instructions()
    assert len(marked) == 10, marked
    insns, waiting = min(marked[0::2])
    assert abs(insns - 2 * ROUNDS) <= SLACK and waiting <= SLACK, marked
    insns, waiting = min(marked[1::2])
    assert abs(insns - ROUNDS / 25) <= SLACK, marked
    assert abs(waiting - ROUNDS / 25) <= SLACK, marked
    user = after[1][1] - before[1][1]
    assert user >= 5 * 2 * ROUNDS, (before, after)
    print(f"{2 * ROUNDS} and {ROUNDS // 25} instructions between marks: {marked}")
    return 0


rig.main(main)
