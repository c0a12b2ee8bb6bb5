#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: a kernel complaint on a console, and a crash of L1, fail the run
# kind: host
# tier: 1
# takes: 100
# timeout: 400
# cores: 2

exec python3 - <<'PY'
import sys
sys.path.insert(0, "tests/rig")
import rig

# The classifier, on report headers as the kernel prints them.
for line in ("WARNING: CPU: 1 PID: 7 at kernel/x.c:12 f+0x1/0x2",
             "WARNING: possible circular locking dependency detected",
             "BUG: KASAN: slab-use-after-free in f+0x1/0x2",
             "BUG: unable to handle page fault for address: 00000000",
             "rcu: INFO: rcu_preempt self-detected stall on CPU",
             "INFO: task qemu:12 blocked for more than 120 seconds.",
             "watchdog: BUG: soft lockup - CPU#0 stuck for 26s!",
             "kmemleak: 3 new suspected memory leaks",
             "Kernel panic - not syncing: x"):
    assert rig.complaints(line), line
for line in ("Speculative Return Stack Overflow: WARNING: See https://k.org",
             "kvm: loading out-of-tree module taints kernel."):
    assert not rig.complaints(line), line

def expect_error(what, action):
    try:
        with rig.L1("selftest.complaints.l1") as l1:
            action(l1)
    except rig.RigError as e:
        assert what in str(e), (what, str(e))
        return
    raise SystemExit(f"{what}: the rig did not notice")

# One that a real oops prints: a NULL dereference in a kernel thread of ours is
# not to be had without a module, so sysrq crashes the machine for real.
expect_error("Kernel panic", lambda l1: l1.run(
    "echo 1 >/proc/sys/kernel/sysrq; echo c >/proc/sysrq-trigger", timeout=60))
# A complaint of a live machine, in a guest's console.
expect_error("g.console", lambda l1: l1.run(
    "echo 'WARNING: CPU: 0 PID: 1 at x' >$RIG_SHARE/g.console"))
PY
