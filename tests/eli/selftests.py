#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: a guest sees no difference with exitless interrupts on, without exitless completion and off, and the host loses no interrupt
# kind: host
# tier: 1
# takes: 120
# timeout: 1800
# cores: 2
"""Run the selftests of exitless interrupts: selftests.py [CONFIG|TEST...]

Each of TESTS runs with the feature on, the first also without exitless
completion and with the feature off; each has to pass, skipping is failing.
Arguments pick configurations and tests by name, and PROGRAM:CASE a case of
a program; "stock", which is KVM without the feature, runs only if it is picked.

Assigned devices are played by tests/modules/eliprod.c.  L1 has a CPU for each
of two vCPUs beside the first, which ELI needs for its guard; its own devices
interrupt the first alone.

SELFTESTS in the environment is a directory to take the programs from, instead
of building them.
"""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
# pylint: disable=wrong-import-position
import kselftest    # noqa: E402
import rig          # noqa: E402

# Name: modules as in rig.build_modroot(), options of kvm.
CONFIGS = {
    "on": ("eli", "eli=1"),
    "no-eoi": ("eli", "eli=1 eli_eoi=0"),
    "off": ("eli", "eli=0"),
    "stock": ("none", ""),
}
TESTS = ["eli_test", "eli_hostile_test", "eli_migrate_test"]
if kselftest.FAULTS:
    TESTS.append("eli_fail_test")

LIMIT = 500             # seconds for a program


def run_test(l1, config, test):
    """One program, or a case of it; returns why it failed, or []."""
    log = l1.dir / f"{test.replace(':', '.')}.tap"
    res = kselftest.run(l1, log, test, LIMIT,
                        f"ELI_STOCK={int(config == 'stock')} ELI_HOTPLUG=1")
    # A failure comes with what KVM says of the vCPU.
    return kselftest.report(config, test, res, res.passed, "^# (irq|vcpu) ")


def run_config(config, tests, directory, bad):
    """Boot, load, run; appends to bad what failed."""
    modules, options = CONFIGS[config]
    with rig.L1(f"eli.selftests/{config}", modules=modules, cpus=3,
                memory=3072, append="irqaffinity=0",
                expected=kselftest.FAULT_COMPLAINTS) as l1:
        rig.build_test_module(l1.kernel, "eliprod")
        kselftest.copy(l1, directory, tests)
        l1.script(f"""
load_kvm {options}
modprobe irqbypass
insmod "$RIG_MODULE_DIR/eliprod.ko" || fail "eliprod does not load"
mountpoint -q /sys/kernel/debug || mount -t debugfs none /sys/kernel/debug
""")
        if config != "stock":
            want = "Y" if "eli=1" in options else "N"
            l1.run(f"grep -qx {want} /sys/module/kvm/parameters/eli")
        for test in tests:
            bad += run_test(l1, config, test)
        # Whatever a test did, all of it can be unloaded.
        l1.script("rmmod eliprod && unload_kvm || fail 'does not unload'")


def main():
    """Pick, run, report."""
    named, picked = kselftest.pick(sys.argv[1:], CONFIGS, TESTS)
    configs = named or [c for c in CONFIGS if c != "stock"]
    directory = kselftest.programs("eli")

    def run_one(config, bad):
        tests = picked or (TESTS if named or config == "on" else TESTS[:1])
        run_config(config, tests, directory, bad)

    bad = kselftest.run_configs(configs, run_one, keep_on=True)
    if bad:
        return kselftest.fail(bad)
    print(f"all pass in {len(configs)} configurations")
    return 0


if __name__ == "__main__":
    rig.main(main)
