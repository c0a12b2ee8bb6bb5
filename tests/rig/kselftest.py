# SPDX-License-Identifier: GPL-2.0-only
"""Programs of the KVM selftests in an L1: run them, judge and report.

A script has an L1 with the programs in /run, and for each calls run() and then
report(), which returns why it failed, or nothing.  fail() ends the output with
all of that: what follows the last "FAIL" is all that a summary shows of a test
(tests/run), so that it tells which case failed, and how.
"""

import os
import pathlib
import re
import shlex
import shutil
import time

import rig

SKIPPED = 4             # status of a selftest that cannot run
GRACE = 60              # seconds for a program to be killed, in L1

# Whether L1's kernel can make allocations fail, which some tests are about.
FAULTS = os.environ.get("FLAVOUR") == "debug"
# What a kernel says then.
FAULT_COMPLAINTS = [r"vmalloc error: size",
                    r"Huh VM_FAULT_OOM leaked out",
                    r"pagefault_out_of_memory: \d+ callb",
                    r"EXT4-fs error .*: Out of memory"] if FAULTS else []

# The assertion without the stack, and what a program says of it.
WANTED = r"^not ok|^# \w+: Test|^  \S"


def programs(feature):
    """The directory of a feature's selftests, which are built.

    SELFTESTS in the environment is a directory to take them from instead.
    """
    if os.environ.get("SELFTESTS"):
        return pathlib.Path(os.environ["SELFTESTS"])
    rig.sh(str(rig.TOP / "scripts/build-selftests.sh"), feature)
    return (rig.BUILD / "selftests" / rig.Kernel().name / feature /
            "kvm/x86_64")


def pick(names, configs, tests):
    """The configurations and the tests, PROGRAM or PROGRAM:CASE, among names."""
    unknown = [n for n in names if n not in configs and
               n.partition(":")[0] not in tests]
    if unknown:
        raise rig.RigError(f"neither a configuration ({' '.join(configs)}) nor a "
                           f"test ({' '.join(tests)}): {' '.join(unknown)}")
    return ([n for n in names if n in configs],
            [n for n in names if n not in configs])


def copy(l1, directory, tests):
    """The programs of tests to /run of L1."""
    for name in {t.partition(":")[0] for t in tests}:
        shutil.copy(directory / name, l1.share)
        l1.run(f'cp "$RIG_SHARE/{name}" /run')


def run_configs(configs, run_config, keep_on=False):
    """Call run_config(config, bad) for each.  Returns its bad, with what it raised.

    It ends with the first one that raises, unless the others do not depend on it.
    """
    bad = []
    for config in configs:
        try:
            run_config(config, bad)
        except (rig.RigError, TimeoutError) as e:
            print(f"  {config:<9} {e}")
            bad.append(f"{config}/(L1): {e}")
            if not keep_on:
                break
    return bad


def last(text):
    """What a program said last."""
    lines = text.strip().splitlines()
    return f"last: {lines[-1] if lines else 'nothing'}"


class Result:
    """How a program ended, and what it printed."""

    def __init__(self, status, text, seconds=None):
        self.status = status
        self.text = text
        self.seconds = seconds
        self.last = last(text)
        match = re.search(r"^# Totals: (pass:(\d+).*)$", text, re.MULTILINE)
        self.totals = match and match[1]
        self.cases = int(match[2]) if match else 0
        self.passed = status == 0 and self.cases > 0
        self.skipped = status == SKIPPED and not match
        self.skips = re.findall(r"^ok .*# SKIP\s*(.*)$", text, re.MULTILINE)


def run(l1, log, test, limit, env="", args=""):
    """PROGRAM, PROGRAM:CASE or PROGRAM:FIXTURE. within limit seconds; output to log."""
    start = time.monotonic()
    program, _, case = test.partition(":")
    # A limit inside of L1, too: nothing is left running for the next.
    command = f"cd /run; {env} timeout -k 10 {limit * l1.slow} ./{program} {args}"
    if case:
        # "FIXTURE." is all of its cases.
        option = "-f" if case.endswith(".") else "-t"
        command += f" {option} {shlex.quote(case.removesuffix('.'))}"
    with open(log, "wb") as f:
        def save(_, data):
            f.write(data)
            f.flush()
        try:
            res = l1.run(command, limit + GRACE, check=False, on_output=save)
        except TimeoutError as e:
            text = log.read_text(errors="replace")
            raise TimeoutError(f"{test}: {e}; {last(text)}") from None
    return Result(res.status, log.read_text(errors="replace"),
                  time.monotonic() - start)


def report(config, test, res, good, more=None):
    """Print a line on a result; returns why it is not good, or [].

    more is a pattern of further lines that tell of a failure.
    """
    took = "" if res.seconds is None else f" ({res.seconds:.0f} s)"
    print(f"  {config:<9} {test:<28} {'pass' if good else 'FAIL'}{took} "
          f"{res.totals or f'status {res.status}'}", flush=True)
    if good:
        return []
    wanted = re.compile(WANTED + (f"|{more}" if more else ""))
    lines = [f"{config}/{test}: status {res.status}, {res.totals}"]
    lines += [f"    {line}" for line in res.text.splitlines()
              if wanted.search(line)]
    if not res.totals:
        lines.append(f"    {res.last}")
    for line in lines[1:]:
        print(f"        {line}", flush=True)
    return lines


def fail(lines):
    """The end of a script of which something failed: its exit status."""
    print("\n".join(["FAIL:"] + [f"  {line}" for line in lines]))
    return 1
