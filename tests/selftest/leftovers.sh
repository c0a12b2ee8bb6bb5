#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: a second L1 of the same name is refused, and a killed harness leaves none behind
# kind: host
# tier: 2
# takes: 30
# timeout: 200
# cores: 2

set -euo pipefail

python3 - <<'PY' &
import sys, time
sys.path.insert(0, "tests/rig")
import rig
with rig.L1("selftest.leftovers.l1") as l1:
    time.sleep(1000)
PY
pid=$!
pattern='name selftest.leftovers.l1'
for _ in {1..100}; do
	pgrep -f "$pattern" >/dev/null && break
	sleep 0.3
done
pgrep -f "$pattern" >/dev/null || { echo "L1 did not start"; exit 1; }
python3 - <<'PY'
import sys
sys.path.insert(0, "tests/rig")
import rig
try:
    with rig.L1("selftest.leftovers.l1"):
        sys.exit("a second L1 of the same name started")
except rig.RigError as e:
    if "is running" not in str(e):
        raise
PY
pgrep -f "$pattern" >/dev/null || { echo "it ended another L1"; exit 1; }
kill -KILL $pid
for _ in {1..50}; do
	pgrep -f "$pattern" >/dev/null || exit 0
	sleep 0.2
done
echo "QEMU outlived the harness"
exit 1
