#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: "make demo" shows that interrupts cost no exits
# kind: host
# tier: 1
# takes: 200
# timeout: 900
# cores: 2

set -euo pipefail
out=$(bench/demo.py) || { echo "$out"; exit 1; }
echo "$out"
# Columns: metric, stock, eli, bare.
awk 'NF == 4 && $1 == "exits_per_irq" { found = 1; ok = ($2 > 1 && $3 < 0.1) }
     END { exit !(found && ok) }' <<<"$out" ||
	{ echo "FAIL: not what the demonstration is to show"; exit 1; }
