#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: the kernel's own KVM selftests give the same with the distribution's modules and with ours
# kind: host
# tier: 2
# takes: 800
# timeout: 7200
# cores: 2
"""Verify that stock KVM behaves as before: tests/kvm/stock.py [NAME...]

Every selftest of the kernel's source package, unchanged, runs in one L1 for
each of CONFIGS.  Outcomes must be identical.  What the emulator cannot do is
not written down anywhere: it is what passes in no configuration, and is
listed.  An outcome is

    status      pass, fail, skip, timeout, "signal N", or crash when L1 died
                or no longer answered (it is booted again then)
    summary     the TAP lines, and the assertion that failed, without
                addresses, process ids and other numbers
    complaints  what L1's kernel complained about meanwhile, likewise

A test whose outcomes differ runs up to RERUNS times more in all
configurations, alone and with twice the time.  If the sets of outcomes then
have one in common, the test is flaky and listed as such; else it is a
difference, and this test fails.  A test that runs out of time everywhere is
not compared, and listed.

The default run leaves out LEFT_OUT; ALL=1 runs everything.  NAMEs pick tests,
also of those.  Output is in build/logs/kvm.stock/, the outcomes of
all, without NAMEs, also in build/results/kvm-stock.json.
"""

import collections
import concurrent.futures
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import sys
import threading
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
import rig  # pylint: disable=wrong-import-position

# Name, modules as in rig.build_modroot(), options of kvm.  The first is what
# the others are compared with.
CONFIGS = [
    ("distro", "distro", ""),
    ("off", "eli+viommu+vswap", ""),
    ("on", "eli+viommu+vswap", "eli=1 viommu=1 sidecore_cpus=1 vswap=1"),
]

LIMIT = 180             # seconds for a test in the default run
LIMIT_ALL = 600         # and with ALL=1
RERUNS = 2
BUDGET = 1500           # seconds after which the default run is broken off
MEMORY = 4096

# Arguments that scale a test down in the default run.
ARGUMENTS = {
    # Memory of the guest, by default 1 GiB: each page is at least one exit.
    "demand_paging_test": "-b 64M",
    "dirty_log_perf_test": "-b 64M",
    "kvm_page_table_test": "-b 128M",
    "memslot_modification_stress_test": "-b 64M",
    # Rounds, 32 by default; three are the fewest that it takes.
    "dirty_log_test": "-i 3",
    # By default 128 GiB, every page of which is touched.
    "max_guest_memory_test": "-s 1 -m 1",
    # 32764 slots and 5 seconds a case by default.  Without the last case, RW,
    # which the test itself ends by SIGALRM when it is this slow.
    "memslot_perf_test": "-s 64 -l 1 -e 4",
}

# Not in the default run, because of their time under emulation.
LEFT_OUT = {
    "hardware_disable_test": "512 virtual machines with 68 threads each",
    "rseq_test": "100000 migrations between CPUs",
    # Minutes each, in three configurations.
    "set_memory_region_test": "32764 memslots, one by one",
    "x86_64/hyperv_tlb_flush": "a hundred loops of NOPs for each hypercall",
}

EVERYTHING = os.environ.get("ALL") == "1"
LOGS = rig.LOGS / "kvm.stock"
STATUS = "stock-status"
print_lock = threading.Lock()
stopping = threading.Event()


def say(text):
    """A line of output, from any thread."""
    with print_lock:
        print(text, flush=True)


class Outcome(collections.namedtuple("Outcome",
                                     "status summary complaints")):
    """What a test did; equal outcomes are identical results."""

    def __str__(self):
        text = self.status
        if self.summary and self.status not in ("pass", "skip"):
            text += f": {' | '.join(self.summary)}"
        if self.complaints:
            text += f" [kernel: {' | '.join(self.complaints)}]"
        return text


def without_numbers(line):
    """A line without what differs from run to run."""
    line = re.sub(r"^\[ *[\d.]+\] *", "", line.strip())
    line = re.sub(r"0x[0-9a-fA-F]+|\b[0-9a-f]{8,16}\b", "X", line)
    return re.sub(r"\d+", "N", line)


def summarize(text):
    """TAP lines and failed assertions of a test's output."""
    found = []
    lines = iter(text.splitlines())
    for line in lines:
        if re.match(r"\s*(not )?ok \d|# Totals:|\d+\.\.\d+", line):
            found.append(re.sub(r"0x[0-9a-fA-F]+", "X", line.strip()))
        elif "==== Test Assertion Failure ====" in line:
            # FILE:LINE: EXPRESSION, then pid, tid and errno, a stack dump,
            # and the message.
            found.append(next(lines, "").strip())
            m = re.search(r"errno=\d+ - .*", next(lines, ""))
            found.append(m[0] if m else "no errno")
            for line in lines:
                if not re.match(r"\s*(\d+\s+0x|\d+\t|\(stack trace)", line):
                    found.append(without_numbers(line))
                    break
    return tuple(found)


class Machine:
    """L1 in one configuration; booted again when a test brings it down.

    Everything is called from one thread, because L1 ends with the thread that
    started it.
    """

    def __init__(self, config, programs):
        self.name, self.modset, self.options = config
        self.programs = programs
        self.boots = 0
        self.l1 = None
        self.seen = 0
        # test: [(Outcome, seconds)]
        self.tries = collections.defaultdict(list)

    def boot(self):
        """L1 with KVM loaded."""
        start = time.monotonic()
        self.seen = 0
        # Complaints are compared, hence all of them are "expected".
        self.l1 = rig.L1(f"kvm.stock/{self.name}-{self.boots}",
                         modules=self.modset, memory=MEMORY, spare=True,
                         expected=["^"])
        self.boots += 1
        self.l1.start()
        self.l1.script(f"load_kvm {self.options}; "
                       "modprobe msr 2>/dev/null; true")
        where = self.l1.run("modinfo -F filename kvm").out
        if ("/updates/" in where) == (self.modset == "distro"):
            raise rig.RigError(f"L1 ({self.name}) has the wrong kvm: {where}")
        self.record("(boot)", "pass", "", start)

    def shut_down(self):
        """Unload KVM, which is a result as any other, and power off."""
        if self.l1 is None:
            self.boot()
        start = time.monotonic()
        try:
            res = self.l1.script("unload_kvm", timeout=60, check=False)
            self.record("(unload)", "fail" if res.status else "pass",
                        res.out + res.err, start)
        except (rig.RigError, TimeoutError, OSError):
            self.record("(unload)", "crash", "", start)
        self.l1.stop()
        self.l1 = None

    def complaints(self):
        """What appeared on the console since the last call."""
        text = self.l1.console.read_bytes()
        new, self.seen = text[self.seen:], len(text)
        return tuple(dict.fromkeys(without_numbers(line) for line in
                                   rig.complaints(new.decode(
                                       errors="replace"))))

    def record(self, test, status, text, start):
        """Keep an outcome; returns it."""
        seconds = time.monotonic() - start
        # Progress that overwrites itself
        text = re.sub(r"[^\r\n]*\r+(?!\n)", "", text)
        outcome = Outcome(status, summarize(text), self.complaints())
        self.tries[test].append((outcome, round(seconds, 1)))
        out = LOGS / f"output-{self.name}" / (
            f"{test.replace('/', '.')}.{len(self.tries[test])}")
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(f"{outcome} ({seconds:.1f} s)\n{text}")
        say(f"{self.name:>8} {test} {status} ({seconds:.1f} s)")
        return outcome

    def run(self, test, limit):
        """Run one selftest."""
        if self.l1 is None:
            self.boot()
        path = self.programs / test
        args = "" if EVERYTHING else ARGUMENTS.get(test, "")
        command = (f"echo 'stock: {test}' >/dev/kmsg; ulimit -c 0; "
                   f"cd {shlex.quote(str(path.parent))} && "
                   f"timeout -s KILL {limit} ./{path.name} {args} 2>&1; "
                   f"s=$?; echo; echo {STATUS} $s")
        for last in (False, False, True):
            start = time.monotonic()
            chunks = []
            try:
                text = self.l1.run(command, limit + 60, False,
                                   lambda _, data: chunks.append(data)).out
            except (rig.RigError, TimeoutError, OSError) as e:
                text = b"".join(chunks).decode(errors="replace")
                self.record(test, "crash", f"{text}\n{e}\n", start)
                self.l1.kill()
                self.l1 = None
                return
            text, found, code = text.rpartition(f"\n{STATUS} ")
            if found:
                break
            # The agent took the client before this one for gone.
            say(f"{self.name:>8} {test}: the command was lost")
            if last:
                raise rig.RigError(f"the agent in {self.l1.dir} loses "
                                   "commands")
        code = int(code)
        if code == 0:
            status = "pass"
        elif code == 4:
            status = "skip"
        elif code == 137 and time.monotonic() - start >= limit:
            status = "timeout"
        elif 128 < code < 128 + 64:
            status = f"signal {code - 128}"
        else:
            status = "fail"
        self.record(test, status, text, start)

    def run_all(self, tests, limit, slots, deadline):
        """All tests once, each as soon as there is a CPU for it."""
        for test in tests:
            if stopping.is_set() or time.monotonic() > deadline:
                return
            with slots:
                self.run(test, limit)
            # For whoever waits for it; whose turn it is is not said otherwise.
            time.sleep(0.1)

    def outcomes(self, test):
        """The different outcomes so far."""
        return {outcome for outcome, _ in self.tries[test]}


def agree(machines, test):
    """Whether some outcome of the test was seen in all configurations."""
    return bool(set.intersection(*(m.outcomes(test) for m in machines)))


def run(machines, tests, limit, deadline):
    """Everything once, then reruns of what differs."""
    slots = threading.Semaphore(os.cpu_count())
    pools = [concurrent.futures.ThreadPoolExecutor(1) for _ in machines]

    def everywhere(method, *args):
        jobs = [p.submit(getattr(m, method), *args)
                for p, m in zip(pools, machines)]
        for job in concurrent.futures.as_completed(jobs):
            job.result()

    try:
        everywhere("run_all", tests, limit, slots, deadline)
        for test in tests:
            for _ in range(RERUNS):
                if agree(machines, test) or time.monotonic() > deadline:
                    break
                say(f"  differs: {test}, again")
                everywhere("run", test, 2 * limit)
        everywhere("shut_down")
    finally:
        # After an error, nothing is waited for.
        stopping.set()
        for p, m in zip(pools, machines):
            l1 = m.l1
            if l1:
                l1.kill()
            p.shutdown()


def report(machines, tests, left_out):
    """Print what was found; returns the number of differences."""
    statuses = ("pass", "fail", "skip", "timeout", "signal", "crash")
    say("\n" + " " * 12 + "".join(f"{s:>9}" for s in statuses))
    for m in machines:
        count = collections.Counter(m.tries[t][0][0].status.split()[0]
                                    for t in tests if m.tries[t])
        say(f"{m.name:>12}" + "".join(f"{count[s]:>9}" for s in statuses))

    different, flaky, late, limits, noisy, missing = [], [], [], [], [], []
    for test in ("(boot)", *tests, "(unload)"):
        if not all(m.tries[test] for m in machines):
            missing.append(test)
            continue
        sets = [m.outcomes(test) for m in machines]
        seen = set.union(*sets)
        if not agree(machines, test):
            different.append(test)
        elif len(seen) > 1:
            flaky.append(test)
        elif {o.status for o in seen} == {"timeout"}:
            late.append(test)
        elif {o.status for o in seen}.isdisjoint({"pass", "skip"}):
            limits.append(test)
        if any(o.complaints for o in seen):
            noisy.append(test)

    def table(title, names, show):
        if names:
            say(f"\n{title}")
            for n in names:
                say(f"  {n}{show(n)}")

    def tries(test):
        return "".join(f"\n    {m.name}: {o} ({s} s)" for m in machines
                       for o, s in m.tries[test])

    def one(test):
        return f": {machines[0].tries[test][0][0]}"

    table("Left out of the default run (ALL=1 runs them):", left_out,
          lambda n: f": {LEFT_OUT[n]}")
    table("Pass in no configuration, identically (limits of the emulator):",
          limits, one)
    table("Out of time everywhere, not compared:", late, lambda n: "")
    table("Flaky, with an outcome that all configurations have:", flaky,
          tries)
    table("The kernel complained, in the same way unless listed as a "
          "difference:", noisy, tries)
    table("Not run, the time is over:", missing, lambda n: "")
    table("DIFFERENT:", different, tries)
    return different, missing


def save(machines):
    """build/results/kvm-stock.json"""
    data = rig.write_results("kvm-stock", [])
    data["rows"] = [{"config": m.name, "test": test,
                     "outcome": str(outcome), "seconds": seconds}
                    for m in machines for test, tries in m.tries.items()
                    for outcome, seconds in tries]
    (rig.BUILD / "results/kvm-stock.json").write_text(
        json.dumps(data, indent=1) + "\n")


def main():
    """Build, run, compare."""
    if LOGS.exists():
        for path in LOGS.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    rig.sh(str(rig.TOP / "scripts/build-selftests.sh"), "none")
    base = (rig.BUILD / "selftests" /
            os.readlink(rig.BUILD / "kernel/current") / "none")
    tests = (base / "tests").read_text().split()
    left_out = [] if EVERYTHING else [t for t in tests if t in LEFT_OUT]
    if len(sys.argv) > 1:
        tests = [t for t in tests if t in sys.argv[1:] or
                 pathlib.Path(t).name in sys.argv[1:]]
        left_out = []
        if not tests:
            print(f"FAIL: no selftest has the name {' '.join(sys.argv[1:])}")
            return 1
    tests = [t for t in tests if t not in left_out]

    start = time.monotonic()
    machines = [Machine(c, base / "kvm") for c in CONFIGS]
    run(machines, tests, LIMIT_ALL if EVERYTHING else LIMIT,
        start + (100 * BUDGET if EVERYTHING else BUDGET))
    if len(sys.argv) == 1:
        save(machines)
    different, missing = report(machines, tests, left_out)
    passed = min(sum(m.tries[t][0][0].status == "pass" for t in tests
                     if m.tries[t]) for m in machines)
    say(f"\n{len(tests)} selftests, {len(machines)} configurations, "
        f"{passed} pass in each, {time.monotonic() - start:.0f} s")
    if different:
        say(f"FAIL: {len(different)} differ: {' '.join(different)}")
        return 1
    if missing or not passed:
        say(f"FAIL: {len(missing)} were not run, {passed} pass")
        return 1
    return 0


if __name__ == "__main__":
    rig.main(main)
