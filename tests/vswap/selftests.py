#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: memory and images of kvm_vswap have the right content, with swap, without, with zram, and under errors
# kind: host
# tier: 1
# takes: 215
# timeout: 3600
# cores: 2
"""Run the selftests of VSwapper: selftests.py [CONFIG|TEST...]

Each of TESTS that exists runs in each configuration and has to pass; a case may
only be skipped for the reasons that the configuration names.  With the feature
off each program has to skip, and nothing can be mounted.  Arguments pick
configurations and tests by name, and PROGRAM:CASE a case of a program.  All
configurations share an L1, in which the modules are loaded anew for each.

SELFTESTS in the environment is a directory to take the programs from, instead
of building them, STRESS are arguments of vswap_stress_test, e.g. "-n 10000000
-s 7", and LIMIT is how many seconds a program may take.
"""

import os
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
# pylint: disable=wrong-import-position
import kselftest    # noqa: E402
import rig          # noqa: E402

DISK = 'swapon "$(disk swap)" || fail "no swap"'
# As many distributions set it up: swapping is compressing, and waits for no disk.
ZRAM = """
modprobe zram num_devices=1 &&
	echo 256M >/sys/block/zram0/disksize || fail "no zram"
mkswap -q /dev/zram0
swapon /dev/zram0
"""
# Name: options of kvm, how to get swap, reasons for which a case may skip.
CONFIGS = {
    "swap": ("vswap=1", DISK, None),
    "swapless": ("vswap=1", "", "no swap"),
    "zram": ("vswap=1", ZRAM, None),
    # The least and the most that is read at once.
    "single": ("vswap=1 vswap_cluster=1", DISK, None),
    "cluster": ("vswap=1 vswap_cluster=256", DISK, None),
    "off": ("vswap=0", "", None),
}
DEFAULT = ["swap", "swapless", "zram", "off"]
TESTS = ["vswap_test", "vswap_stress_test"]
# Of the kernel, whatever the configuration.
SKIPS = []
if kselftest.FAULTS:
    TESTS.append("vswap_fail_test")
    SKIPS.append("the kernel does not know broken memory")

LIMIT = int(os.environ.get("LIMIT", 1500))    # seconds for a program

SETUP = """
modprobe dm-mod && modprobe dm-flakey || fail "no device-mapper"
mkfs.ext4 -q "$(disk image)"
mkdir -p /run/lower
mount "$(disk image)" /run/lower
dmsetup create idle --table "0 $(blockdev --getsz "$(disk idle)") linear $(disk idle) 0"
dmsetup mknodes
mkswap -q "$(disk swap)"
"""


def run_test(l1, config, test):
    """One program, or a case of it; returns why it failed, or []."""
    args = os.environ.get("STRESS", "") if test == "vswap_stress_test" else ""
    log = l1.dir / f"{config}.{test.replace(':', '.')}.tap"
    res = kselftest.run(l1, log, test, LIMIT,
                        "VSWAP_LOWER=/run/lower VSWAP_DEVICE=idle", args)
    if config == "off":
        good = res.skipped
    else:
        good = (res.passed and
                all(s in (CONFIGS[config][2], *SKIPS) for s in res.skips))
    return kselftest.report(config, test, res, good, "^==|# SKIP")


def run_config(l1, config, tests, bad):
    """Load, run, unload; appends to bad what failed."""
    options, swap, _ = CONFIGS[config]
    want = "Y" if "vswap=1" in options else "N"
    l1.script(f"""
load_kvm {options}
grep -qx {want} /sys/module/kvm/parameters/vswap || fail "vswap is not {want}"
{swap}
""")
    if config == "off":
        res = l1.run("mkdir -p /run/vswap; LC_ALL=C mount -t kvm_vswap "
                     "-o lower=/run/lower none /run/vswap", check=False)
        if res.status == 0 or "unknown filesystem type" not in res.err:
            raise rig.RigError(f"mount although it is off: {res}")
    for test in tests:
        bad += run_test(l1, config, test)
    # Whatever a test did, all of it can be unloaded.
    l1.script("""
swapoff -a
! test -e /sys/block/zram0 || echo 1 >/sys/block/zram0/reset || fail "zram is in use"
unload_kvm || fail "kvm does not unload"
""")


def main():
    """Pick, run, report."""
    configs, tests = kselftest.pick(sys.argv[1:], CONFIGS, TESTS)
    directory = kselftest.programs("vswap")
    configs = configs or DEFAULT
    tests = tests or [t for t in TESTS if (directory / t).exists()]

    with rig.L1("vswap.selftests.l1", modules="vswap", memory=1536, spare=True,
                expected=kselftest.FAULT_COMPLAINTS,
                disks={"swap": 768, "image": 512, "idle": 16},
                sectors={"idle": 4096}) as l1:
        kselftest.copy(l1, directory, tests)
        l1.script(SETUP)
        bad = kselftest.run_configs(
            configs, lambda config, bad: run_config(l1, config, tests, bad))
    if bad:
        return kselftest.fail(bad)
    print(f"{len(tests)} programs are right in {len(configs)} configurations")
    return 0


if __name__ == "__main__":
    rig.main(main)
