#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: memory and images of kvm_vswap have the right content, with swap, without, and under errors
# kind: host
# timeout: 3600
# cores: 2
"""Run the selftests of VSwapper: selftests.py [CONFIG|TEST...]

Each of TESTS that exists runs in each configuration and has to pass; a case may
only be skipped for the reasons that the configuration names.  With the feature
off each program has to skip, and nothing can be mounted.  Arguments pick
configurations and tests by name, and PROGRAM:CASE a case of a program.  All
configurations share an L1, in which the modules are loaded anew for each.

SELFTESTS in the environment is a directory to take the programs from, instead
of building them, and STRESS are arguments of vswap_stress_test, e.g. "-n
10000000 -s 7".
"""

import os
import pathlib
import re
import shlex
import shutil
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
import rig  # pylint: disable=wrong-import-position

# Name: options of kvm, whether there is swap, reasons for which a case may skip.
CONFIGS = {
    "swap": ("vswap=1", True, None),
    "swapless": ("vswap=1", False, "no swap"),
    # The least and the most that is read at once.
    "single": ("vswap=1 vswap_cluster=1", True, None),
    "cluster": ("vswap=1 vswap_cluster=256", True, None),
    "off": ("vswap=0", False, None),
}
DEFAULT = ["swap", "swapless", "off"]
TESTS = ["vswap_test", "vswap_stress_test"]

LIMIT = 1500            # seconds for a program
SKIPPED = 4             # status of a selftest that cannot run

SETUP = """
modprobe dm-mod && modprobe dm-flakey || fail "no device-mapper"
mkfs.ext4 -q "$(disk image)"
mkdir -p /run/lower
mount "$(disk image)" /run/lower
dmsetup create idle --table "0 $(blockdev --getsz "$(disk idle)") linear $(disk idle) 0"
dmsetup mknodes
mkswap -q "$(disk swap)"
"""


def programs():
    """The directory of the selftests."""
    if os.environ.get("SELFTESTS"):
        return pathlib.Path(os.environ["SELFTESTS"])
    rig.sh(str(rig.TOP / "scripts/build-selftests.sh"), "vswap")
    return (rig.BUILD / "selftests" / rig.Kernel().name /
            "vswap/kvm/x86_64")


def run_test(l1, config, test):
    """One program, or a case of it; returns whether it did what it should."""
    start = time.monotonic()
    program, _, case = test.partition(":")
    log = l1.dir / f"{config}.{test.replace(':', '.')}.tap"
    # A limit inside of L1, too: nothing is left running for the next.
    command = f"timeout -k 10 {LIMIT * l1.slow} /run/{program}"
    if case:
        command += f" -t {shlex.quote(case)}"
    elif program == "vswap_stress_test":
        command += " " + os.environ.get("STRESS", "")
    with open(log, "wb") as f:
        def save(_, data):
            f.write(data)
            f.flush()
        res = l1.run("export VSWAP_LOWER=/run/lower VSWAP_DEVICE=idle; cd /run;"
                     f" {command}", LIMIT + 60, check=False, on_output=save)
    text = log.read_text(errors="replace")
    totals = re.search(r"^# Totals: (pass:(\d+) fail:(\d+).*)$", text,
                       re.MULTILINE)
    if config == "off":
        good = res.status == SKIPPED and not totals
    else:
        skips = re.findall(r"^ok .*# SKIP\s*(.*)$", text, re.MULTILINE)
        bad_skips = [s for s in skips if s != CONFIGS[config][2]]
        good = (res.status == 0 and totals and int(totals[2]) and
                not bad_skips)
    print(f"  {config:<9} {test:<28} {'pass' if good else 'FAIL'} "
          f"({time.monotonic() - start:.0f} s) "
          f"{totals[1] if totals else f'status {res.status}'}", flush=True)
    if not good:
        # The assertion, without the stack.
        wanted = re.compile(r"^not ok|^# \w+: Test|^  \S|^==|# SKIP")
        for line in text.splitlines():
            if wanted.search(line):
                print(f"            {line}")
    return bool(good)


def run_config(l1, config, tests):
    """Load, run, unload; returns the tests that failed."""
    options, swap, _ = CONFIGS[config]
    want = "Y" if "vswap=1" in options else "N"
    l1.script(f"""
load_kvm {options}
grep -qx {want} /sys/module/kvm/parameters/vswap || fail "vswap is not {want}"
{'swapon "$(disk swap)" || fail "no swap"' if swap else ""}
""")
    if config == "off":
        res = l1.run("mkdir -p /run/vswap; LC_ALL=C mount -t kvm_vswap "
                     "-o lower=/run/lower none /run/vswap", check=False)
        if res.status == 0 or "unknown filesystem type" not in res.err:
            raise rig.RigError(f"mount although it is off: {res}")
    failed = [t for t in tests if not run_test(l1, config, t)]
    # Whatever a test did, all of it can be unloaded.
    l1.script("""
swapoff -a
unload_kvm || fail "kvm does not unload"
""")
    return failed


def main():
    """Pick, run, report."""
    names = sys.argv[1:]
    unknown = [n for n in names if n not in CONFIGS and
               n.partition(":")[0] not in TESTS]
    if unknown:
        print(f"neither a configuration ({' '.join(CONFIGS)}) nor a test "
              f"({' '.join(TESTS)}): {' '.join(unknown)}")
        return 2
    directory = programs()
    configs = [n for n in names if n in CONFIGS] or DEFAULT
    tests = ([n for n in names if n not in CONFIGS] or
             [t for t in TESTS if (directory / t).exists()])

    bad = []
    with rig.L1("vswap.selftests.l1", modules="vswap", memory=1536, spare=True,
                disks={"swap": 768, "image": 512, "idle": 16}) as l1:
        for name in {t.partition(":")[0] for t in tests}:
            shutil.copy(directory / name, l1.share)
        l1.run('cp "$RIG_SHARE"/vswap_*test /run')
        l1.script(SETUP)
        for config in configs:
            try:
                failed = run_config(l1, config, tests)
            except (rig.RigError, TimeoutError) as e:
                print(f"  {config:<9} {e}")
                bad.append(f"{config}/(L1)")
                break
            bad += [f"{config}/{t}" for t in failed]
    if bad:
        print(f"FAIL: {' '.join(bad)}")
        return 1
    print(f"{len(tests)} programs are right in {len(configs)} configurations")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except rig.RigError as error:
        sys.exit(f"FAIL: {error}")
