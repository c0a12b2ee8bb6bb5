#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Turn results of benchmarks into a page: bench/report.py [-o FILE] [JSON...]

Without arguments, all of build/results/ become build/results/report.html.  The page
stands alone: for each result where and how it came about, plots by gnuplot as inline
SVG, and all numbers.  Metrics that end with a number (pass_1, pass_2, ...; time_100,
time_50, ...) become lines over it, others bars; parts of another metric
(exits_per_irq_msr) and what only one configuration has are in the table alone.

Exit status 1, and a sentence, if a file is no result or gnuplot fails.
"""

import argparse
import collections
import html
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

TOP = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TOP / "tests/rig"))
import rig  # pylint: disable=wrong-import-position

STYLE = """
body { font: 15px/1.4 sans-serif; margin: 2em auto; max-width: 80em; padding: 0 1em }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { border-bottom: 1px solid #ddd; padding: .15em .7em; text-align: right }
th:first-child { text-align: left; font-weight: normal }
thead th { font-weight: bold }
.plots { display: flex; flex-wrap: wrap; gap: 1em }
.plots svg { width: 26em; height: auto }
.how { color: #555 }
"""

# The terminal names what it draws by numbers, which are unique within a page only
# with a name of the plot's own.
PLOT = """
set terminal svg size 520,320 dynamic font 'sans-serif,13' name 'p{number}'
set output '{path}'
set title "{title}" noenhanced
set yrange [{bottom}:*]
set grid y
{how}
"""
BARS = """
unset key
set style fill solid 0.8 border
set boxwidth 0.7
set xtics rotate by -25 noenhanced
set xrange [-0.6:{last}.6]
plot $data using 0:2:xtic(1) with boxes linecolor rgb '#4477aa'
"""
LINES = """
set key outside noenhanced
set xtics ({tics})
set xrange [{first}:{last}]
plot for [i=0:{configs}-1] $data index i using 1:2 with linespoints \\
	linetype i+1 pointtype 7 linewidth 2 title columnheader(1)
"""
# Percentages of memory; passes are counted upwards.
DOWNWARDS = ("swap-compress", "swap-bzip2", "swap-compile")


def quoted(text):
    """For a string of gnuplot in double quotes."""
    return re.sub(r'[\\"`$]', "", text)


def load(path):
    """A result, or RigError.  The stock selftests become numbers of outcomes."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
        if data["rows"] and "outcome" in data["rows"][0]:
            number = collections.Counter((r["config"], r["outcome"])
                                         for r in data["rows"])
            data["rows"] = [{"config": config, "metric": outcome, "value": n,
                             "unit": ""} for (config, outcome), n in number.items()]
        for row in data["rows"]:
            # What the rest relies on.
            if not isinstance(row["value"], (int, float, type(None))) or \
               not {"config", "metric", "unit"} <= set(row):
                raise ValueError(row)
        rig.describe(data)
        return data
    except (OSError, ValueError, KeyError, TypeError) as e:
        raise rig.RigError(f"{path} is no result of a benchmark: {e!r}") from e


def label(metric, unit, emulated):
    how = [unit] if unit else []
    if unit in ("s", "us", "1/s") and emulated:
        how.append("emulated")
    return f"{metric} [{', '.join(how)}]" if how else metric


def families(data):
    """What is drawn together: {name: {number: metric}}, for bars {name: {None: it}}."""
    metrics = {r["metric"]: None for r in data["rows"]}
    lines = {}
    for metric in metrics:
        found = re.fullmatch(r"(.+)_(\d+)", metric)
        if found:
            lines.setdefault(found[1], {})[int(found[2])] = metric
    lines = {name: dict(sorted(of.items())) for name, of in lines.items()
             if len(of) > 1}
    taken = {metric for of in lines.values() for metric in of.values()}
    bars = {metric: {None: metric} for metric in metrics if metric not in taken and
            not any(metric.startswith(f"{other}_") for other in metrics)}
    return lines | bars


def plots(data):
    """Of each plot gnuplot's data, and what PLOT needs but its name and path."""
    emulated = data["host"]["accel"].startswith("tcg")
    value = {(r["config"], r["metric"]): r["value"] for r in data["rows"]
             if r["value"] is not None}
    unit = {r["metric"]: r["unit"] for r in data["rows"]}
    for name, of in families(data).items():
        points = {}
        for (config, metric), v in value.items():
            points.setdefault(config, []).extend(
                (x, v) for x, m in of.items() if m == metric)
        points = {config: p for config, p in points.items() if p}
        if len(points) < 2:
            continue
        if None in of:
            text = "\n".join(f'"{quoted(c)}" {p[0][1]}' for c, p in points.items())
            how = BARS.format(last=len(points) - 1)
        else:
            text = "\n\n\n".join(f'"{quoted(c)}"\n' + "\n".join(
                f"{x} {v}" for x, v in p) for c, p in points.items())
            ends = (min(of), max(of))[::-1 if data["name"].startswith(DOWNWARDS) else 1]
            how = LINES.format(tics=", ".join(map(str, of)), configs=len(points),
                               first=ends[0], last=ends[1])
        lowest = min(v for p in points.values() for _, v in p)
        yield f"$data <<EOD\n{text}\nEOD\n", {
            "title": quoted(label(name, unit[next(iter(of.values()))], emulated)),
            "how": how, "bottom": "*" if lowest < 0 else 0}


def draw(results):
    """The SVG of each plot of each result."""
    with tempfile.TemporaryDirectory() as tmp:
        script, paths = "", []
        for data in results:
            paths.append([])
            for number, (text, how) in enumerate(plots(data)):
                path = pathlib.Path(tmp, f"{len(paths)}.{number}.svg")
                paths[-1].append(path)
                script += f"reset\n{text}" + PLOT.format(
                    path=path, number=f"{len(paths)}_{number}", **how)
        p = subprocess.run(["gnuplot"], input=script, capture_output=True, text=True,
                           check=False)
        if p.returncode:
            raise rig.RigError(f"gnuplot: {p.stderr.strip()}")
        # Without what only a file of its own has in front.
        return [[re.sub(r"^.*?(?=<svg)", "", path.read_text(encoding="utf-8"),
                        flags=re.DOTALL) for path in of] for of in paths]


def section(data, drawings):
    def row(cells, tag="td"):
        first, *others = map(html.escape, cells)
        return (f"<tr><th>{first}</th>" +
                "".join(f"<{tag}>{c}</{tag}>" for c in others) + "</tr>")

    head, *lines = rig.table(data)
    host = data["host"]
    how = (f"{data['date']}, {data['git'] or 'no commit'}; {rig.describe(data)}; "
           f"{host['qemu']}; {host['cpu']}")
    newline = "\n"
    return f"""<h2 id="{html.escape(data['name'])}">{html.escape(data['name'])}</h2>
<p class="how">{html.escape(how)}</p>
<div class="plots">{''.join(drawings)}</div>
<table><thead>{row(head, "th")}</thead><tbody>
{newline.join(map(row, lines))}
</tbody></table>
"""


def page(results, drawings):
    names = " · ".join(f'<a href="#{html.escape(d["name"])}">'
                       f'{html.escape(d["name"])}</a>' for d in results)
    return f"""<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"/><title>alleviate: benchmarks</title>
<style>{STYLE}</style></head><body>
<h1>alleviate: benchmarks</h1>
<p>{names}</p>
{''.join(map(section, results, drawings))}</body></html>
"""


def main():
    parser = argparse.ArgumentParser(description="Results of benchmarks as a page.")
    parser.add_argument("-o", "--output", type=pathlib.Path,
                        default=rig.BUILD / "results/report.html")
    parser.add_argument("json", nargs="*", type=pathlib.Path)
    args = parser.parse_args()
    paths = args.json or sorted((rig.BUILD / "results").glob("*.json"))
    if not paths:
        raise rig.RigError("no results yet; make bench measures")
    if not shutil.which("gnuplot"):
        raise rig.RigError("gnuplot is missing; make report installs it")
    results = [load(path) for path in paths]
    args.output.write_text(page(results, draw(results)), encoding="utf-8")
    print(args.output)


rig.main(main)
