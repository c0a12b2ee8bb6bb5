#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: "make report" draws and lists what benchmarks measured, and refuses what they did not write
# kind: host
# tier: 2
# takes: 5
# timeout: 60
"""Run bench/report.py on results whose page is known."""

import json
import pathlib
import subprocess
import sys
import tempfile
import xml.dom.minidom

TOP = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TOP / "tests/rig"))
import rig  # pylint: disable=wrong-import-position

HOST = {"cpu": "a CPU of <two & more> cores", "accel": "tcg (so it is)",
        "kernel": "6.12", "qemu": 'QEMU "10"'}
HEAD = {"date": "2026-01-31T12:00:00Z", "git": "0123456", "host": HOST}
CONFIGS = ("stock", "vswap-no$init")
# Lines for pass, bars for disk_ops; not drawn: a part, and what one has alone.
SWAP = [(c, m, v, u) for i, c in enumerate(CONFIGS) for m, v, u in (
    ("pass_1", 31.25 + i, "s"), ("pass_2", 77.5 + i, "s"), ("disk_ops", 4711 + i, ""),
    ("disk_ops_swap", -5.5, ""))] + [("stock", "alone", 12345, "")]
PLOTS = 2


def report(*args):
    return subprocess.run([TOP / "bench/report.py", *args], capture_output=True,
                          text=True, check=False)


def expect(condition, what):
    if not condition:
        raise rig.RigError(what)


def text_of(node):
    return "".join(getattr(child, "data", "") or text_of(child)
                   for child in node.childNodes)


def main():
    with tempfile.TemporaryDirectory() as tmp:
        tmp = pathlib.Path(tmp)
        swap, kvm, bad, out = (tmp / name for name in
                               ("swap.json", "kvm.json", "bad.json", "out.html"))
        rows = [dict(zip(("config", "metric", "value", "unit"), r)) for r in SWAP]
        swap.write_text(json.dumps({"name": "swap-read", **HEAD, "rows": rows}))
        tests = [{"config": "stock", "test": f"t{i}", "outcome": o, "seconds": 1}
                 for i, o in enumerate(("pass", "pass", "skip"))]
        kvm.write_text(json.dumps({"name": "kvm-stock", **HEAD, "rows": tests}))

        p = report("-o", out, swap, kvm)
        expect(not p.returncode, f"status {p.returncode}: {p.stdout}{p.stderr}")
        text = out.read_text(encoding="utf-8")
        page = xml.dom.minidom.parseString(text.removeprefix("<!DOCTYPE html>"))
        drawings = page.getElementsByTagName("svg")
        expect(len(drawings) == PLOTS, f"{len(drawings)} plots, not {PLOTS}")
        for what in ("pass [s, emulated]", "stock", "vswap-noinit"):
            expect(what in text_of(drawings[0]), f"{what} is not in the first plot")
        expect(drawings[0].toxml().count("#gpPt") >= 4, "points are missing")
        cells = [e.firstChild.data for e in page.getElementsByTagName("td")]
        for value in ("31.2", "77.5", "4,711", "4,712", "-5.5", "12,345", "2", "1"):
            expect(value in cells, f"{value} is in no table: {cells}")

        for content in ("[]", "{}", "no JSON", json.dumps(
                {"name": "x", **HEAD, "rows": [{"config": "a", "value": "b"}]})):
            bad.write_text(content)
            out.unlink(missing_ok=True)
            p = report("-o", out, bad)
            expect(p.returncode == 1 and "is no result" in p.stdout and
                   not out.exists(), f"{content!r}: {p.stdout}{p.stderr}")
    print(f"{PLOTS} plots, {len(cells)} numbers, and 4 files refused")


rig.main(main)
