#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: a guest's IOMMU does what the VT-d specification says, and is not there if off
# kind: host
# tier: 1
# takes: 380
# timeout: 3600
# cores: 2
"""Run the selftests of the in-kernel IOMMU: selftests.py [CONFIG|TEST...]

Each of TESTS that exists runs with a sidecore and has to pass; skipping is
failing, but for cases that take a kernel that can make allocations fail.  With the
feature off each has to skip.  Arguments pick configurations and tests by name, and
PROGRAM:CASE a case of a program.  "trapped", without any sidecore, has to be picked, as
the tests have cases for that as well.

All configurations share an L1, in which the modules are loaded anew for each.
The programs that need a device get QEMU's edu, by VFIO.

SELFTESTS in the environment is a directory to take the programs from, instead
of building them.  FUZZ_INPUTS and FUZZ_SEED are for viommu_fuzz_test: inputs of
each of its cases, and another sequence of them.
"""

import os
import pathlib
import re
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
# pylint: disable=wrong-import-position
import kselftest    # noqa: E402
import rig          # noqa: E402

# Name: options of kvm.
CONFIGS = {
    "sidecore": "viommu=1 sidecore_cpus=2",
    "trapped": "viommu=1",
    "off": "viommu=0",
}
DEFAULT = ["sidecore", "off"]
TESTS = ["viommu_test", "viommu_shadow_test", "viommu_fuzz_test",
         "viommu_perf_test"]

LIMIT = 900             # seconds for a program ...
INPUTS_PER_S = 100      # ... and for inputs of a case beyond the default


def run_test(l1, config, test, env):
    """One program, or a case of it; returns why it failed, or []."""
    limit = LIMIT
    args = ""
    if test.startswith("viommu_fuzz_test"):
        for option, name in (("-n", "FUZZ_INPUTS"), ("-s", "FUZZ_SEED")):
            if os.environ.get(name):
                args += f" {option} {int(os.environ[name], 0)}"
        limit += int(os.environ.get("FUZZ_INPUTS") or "0", 0) // INPUTS_PER_S
    log = l1.dir / f"{config}.{test.replace(':', '.')}.tap"
    res = kselftest.run(l1, log, test, limit, env, args)
    # A program without cases says what it measured.
    waits = re.search(r"^waits [1-9]\d*$", res.text, re.MULTILINE)
    if waits:
        res.totals = waits[0]
    if config == "off":
        good = res.skipped and not waits
    else:
        good = res.passed or (res.status == 0 and waits)
    return kselftest.report(config, test, res, good)


def run_config(l1, config, tests, bad):
    """Load, run, unload; appends to bad what failed."""
    group = l1.script(f"""
load_kvm {CONFIGS[config]}
bdf=$(bind_vfio edu)
group=$(readlink "/sys/bus/pci/devices/$bdf/iommu_group") || fail "no IOMMU group"
[[ -e /dev/vfio/${{group##*/}} ]] || fail "no /dev/vfio/${{group##*/}}"
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
echo "${{group##*/}}"
""").out.split()[-1]
    want = "Y" if "viommu=1" in CONFIGS[config] else "N"
    l1.run(f"grep -qx {want} /sys/module/kvm/parameters/viommu")
    env = (f"VIOMMU_VFIO_GROUP=/dev/vfio/{group} "
           f"VIOMMU_VFIO_NAME={l1.DEVICES['edu']}")
    for test in tests:
        bad += run_test(l1, config, test, env)
    # Whatever a test did, all of it can be unloaded.
    l1.script("""
unload_kvm || fail "kvm does not unload"
[[ ! -d /sys/module/viommu_shadow ]] || rmmod viommu_shadow ||
	fail "viommu-shadow does not unload"
""")


def main():
    """Pick, run, report."""
    configs, tests = kselftest.pick(sys.argv[1:], CONFIGS, TESTS)
    directory = kselftest.programs("viommu")
    configs = configs or DEFAULT
    tests = tests or [t for t in TESTS if (directory / t).exists()]

    with rig.L1("viommu.selftests.l1", modules="viommu", cpus=3, spare=True,
                expected=kselftest.FAULT_COMPLAINTS,
                memory=3072, devices=["edu"]) as l1:
        kselftest.copy(l1, directory, tests)
        bad = kselftest.run_configs(
            configs, lambda config, bad: run_config(l1, config, tests, bad))
    if bad:
        return kselftest.fail(bad)
    print(f"{len(tests)} programs are right in {len(configs)} configurations")
    return 0


if __name__ == "__main__":
    rig.main(main)
