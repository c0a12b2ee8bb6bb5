#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: L1 boots, and commands in it give back output, status and files
# kind: host
# tier: 1
# takes: 17
# timeout: 300
# cores: 2

exec python3 - <<'PY'
import sys
sys.path.insert(0, "tests/rig")
import rig

with rig.L1("selftest.agent.l1") as l1:
    r = l1.run("echo out; echo err >&2; exit 7", check=False)
    assert (r.status, r.out, r.err) == (7, "out\n", "err\n"), r
    r = l1.run("kill -9 $$", check=False)
    assert r.status == 137, r
    r = l1.run("head -c 3000000 /dev/zero | tr '\\0' x")
    assert len(r.out) == 3000000, len(r.out)
    # What a command left in the background does not hold up its end.
    r = l1.run("sleep 1000 & echo done", timeout=20)
    assert r.out == "done\n", r
    # A client that gives up does not disturb the next, and its command ends.
    try:
        l1.run("echo begin; exec sleep 998", timeout=2)
        raise SystemExit("the time limit did not hold")
    except TimeoutError:
        pass
    r = l1.run("sleep 1; pgrep -f '[s]leep 998' || echo gone")
    assert r.out == "gone\n", r
    l1.run("echo from-l1 >file")
    assert (l1.share / "file").read_text() == "from-l1\n"
    # The build machine's files are there, and cannot be written.
    l1.run(f"test -f {rig.TOP}/Makefile; touch /etc/rig-was-here")
    import os
    assert not os.path.exists("/etc/rig-was-here")
    pid = l1.process.pid
try:
    os.kill(pid, 0)
    raise SystemExit("QEMU is still there")
except ProcessLookupError:
    pass
PY
