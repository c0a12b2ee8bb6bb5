#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: our kvm-intel loads on VMX with EPT, unrestricted guest and VPID, unloads and loads again
# kind: host
# tier: 1
# takes: 100
# timeout: 900
"""Verify that the rebuilt modules find VMX and use what it offers."""

import pathlib
import sys
import time

TESTS = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTS / "rig"))
# pylint: disable=wrong-import-position
import rig      # noqa: E402
import bochs    # noqa: E402

WANT = "ept unrestricted_guest vpid flexpriority vnmi preemption_timer nested"

SCRIPT = f"""
cd /sys/module/kvm_intel/parameters || exit 1
grep . *
for p in {WANT}; do
	[ "$(cat $p)" = Y ] || {{ echo "$p is off"; exit 1; }}
done
cd /
for round in 1 2; do
	[ -c /dev/kvm ] || {{ echo "no /dev/kvm"; exit 1; }}
	spin 1 || {{ echo "no guest runs"; exit 1; }}
	unload_kvm || {{ echo "the modules do not unload"; exit 1; }}
	[ ! -e /sys/module/kvm ] || exit 1
	load_kvm "$(ls /modsets)" || {{ echo "no second load"; exit 1; }}
done
"""


def modset():
    """The feature with patches to VMX if there are any, or none."""
    series = (rig.TOP / "patches/eli/series").read_text(encoding="utf-8")
    lines = (line.split("#")[0].strip() for line in series.splitlines())
    return "eli" if any(lines) else "none"


def build_spin():
    """tests/vmx/spin.c, static."""
    out = rig.BUILD / "vmx/spin"
    source = TESTS / "vmx/spin.c"
    with rig.locked(out.parent / ".spin.lock"):
        if rig.newer(out, source):
            rig.sh("gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-static",
                   "-s", "-o", str(out), str(source))
    return out


def main():
    which = modset()
    try:
        machine = bochs.Bochs("vmx.boot/bochs", modules=which,
                              modsets=[which],
                              files=[("bin/spin", build_spin())])
    except rig.Skip as e:
        print(f"SKIP: {e}")
        return 4
    start = time.monotonic()
    result = machine.run_script(SCRIPT, timeout=600)
    print(result.out, end="")
    print(f"modules {which}: status {result.status} after "
          f"{time.monotonic() - start:.0f} s")
    return 1 if result.status else 0


if __name__ == "__main__":
    rig.main(main)
