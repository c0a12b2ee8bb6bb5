#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: on VMX, assigned interrupts reach a guest without exits, a guest sees no other difference, and the host loses no interrupt
# kind: host
# tier: 1
# takes: 600
# timeout: 1200
"""Run the selftests of exitless interrupts on VMX: eli.py [PROGRAM:CASE...]

These are the programs that tests/eli/selftests.py runs on SVM, on an emulated
Intel CPU.  Assigned devices are played by tests/modules/eliprod.c.  The machine
has two CPUs, of which the first is the guard.

The host is in xAPIC mode there, so each interrupt is delivered without an exit,
and its completion exits.

SELFTESTS in the environment is a directory to take the programs from, instead
of building them.
"""

import pathlib
import re
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "rig"))
# pylint: disable=wrong-import-position
import rig          # noqa: E402
import bochs        # noqa: E402
import kselftest    # noqa: E402

# Programs and what is left out of each.
#
# device_priorities: there is no interrupt remapping, so an IRQ cannot be given
# another vector at will, and the second device may have the higher priority.
#
# The others: on entry with IF=0, Bochs 2.7 has no interrupt of the host exit,
# whatever the controls are; see spin.c.  These guests would keep their CPU for
# good.  Guests that are left run with IF=0 in DIRECT mode, which the guard ends,
# or not for long.
PROGRAMS = {
    "eli_test": ["device_priorities"],
    "eli_hostile_test": """
        cli cli_hlt idt_remapped_cli idt_unmapped_cli lidt_straddling
        handler_never_ends eoi_flood_cli
    """.split(),
}

LIMIT = 400             # seconds of the machine's time for a program

SCRIPT = """
insmod /eliprod.ko || { echo "eliprod does not load"; exit 1; }
grep -qx Y /sys/module/kvm/parameters/eli ||
	{ echo "exitless interrupts are off"; dmesg | grep kvm; exit 1; }
while read -r program args; do
	echo "program $program"
	# shellcheck disable=SC2086
	/bin/timeout -k 5 $LIMIT "/selftests/$program" $args 2>&1
	echo "status $?"
done </programs
rmmod eliprod && unload_kvm || { echo "does not unload"; exit 1; }
"""


def stripped(path, directory):
    """A copy without debug information, which is most of the program."""
    directory.mkdir(parents=True, exist_ok=True)
    out = directory / path.name
    rig.sh("strip", "-g", "-o", str(out), str(path))
    return out


def command_lines(names):
    """What to run: a line with program and arguments each."""
    lines = []
    for program, left_out in PROGRAMS.items():
        cases = [c for p, _, c in (n.partition(":") for n in names)
                 if p == program]
        if names and not cases:
            continue
        if cases and all(cases):
            lines.append(" ".join([program] + [f"-t {c}" for c in cases]))
        else:
            lines.append(" ".join([program] + [f"-T {c}" for c in left_out]))
    return lines


def judge(out):
    """Why programs failed, [] if all passed.  A skipped case is none that passed."""
    bad = []
    parts = re.split(r"^program (\S+)$", out, flags=re.MULTILINE)
    for program, text in zip(parts[1::2], parts[2::2]):
        status = re.search(r"^status (\d+)$", text, re.MULTILINE)
        res = kselftest.Result(int(status[1]) if status else None, text)
        bad += kselftest.report("on", program, res,
                                res.passed and not res.skips,
                                "^# (irq|vcpu) |# SKIP")
        for line in re.findall(r"^# \d+ interrupts, .*$|^# of .*$", text,
                               re.MULTILINE):
            print(f"    {line[2:]}")
    if len(parts) < 3:
        bad.append("no program ran")
    return bad


def main():
    """Build, boot, run, report."""
    lines = command_lines(sys.argv[1:])
    if not lines:
        print(f"the programs are {' '.join(PROGRAMS)}")
        return 2
    try:
        bochs.require()
    except rig.Skip as e:
        print(f"SKIP: {e}")
        return 4
    directory = kselftest.programs("eli")
    scratch = rig.BUILD / "vmx/eli"
    files = [(f"selftests/{p}", stripped(directory / p, scratch))
             for p in PROGRAMS]
    listing = scratch / "programs"
    listing.write_text("".join(f"{line}\n" for line in lines),
                       encoding="utf-8")
    files.append(("programs", listing))
    machine = bochs.Bochs("vmx.eli/bochs", modules=None, modsets=["eli"],
                          files=files, cpus=2, memory=1024,
                          append="irqaffinity=0")
    files.append(("eliprod.ko",
                  rig.build_test_module(machine.kernel, "eliprod")))
    machine.files = files
    start = time.monotonic()
    result = machine.run_script(
        f"LIMIT={LIMIT}\ninsmod /modsets/eli/kvm.ko eli=1 &&\n"
        f"insmod /modsets/eli/kvm-intel.ko || exit 1\n{SCRIPT}", timeout=1100)
    (machine.dir / "out").write_text(result.out, encoding="utf-8")
    bad = judge(result.out)
    if result.status:
        bad += [f"status {result.status}"] + result.out[-1000:].splitlines()
    print(f"{time.monotonic() - start:.0f} s")
    return kselftest.fail(bad) if bad else 0


if __name__ == "__main__":
    rig.main(main)
