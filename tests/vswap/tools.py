#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: vswap reports what processes do with RAM files, as text, JSON and for Prometheus
# kind: host
# tier: 2
# takes: 45
# timeout: 600
"""Run the selftest of tools/kvm/vswap, here and with RAM files in an L1."""

import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
import rig  # pylint: disable=wrong-import-position

SELFTEST = rig.TOP / "tools/kvm/vswap/selftest.sh"


def report(where, res):
    """Print what failed; returns whether all is well."""
    lines = res.out.splitlines()
    bad = [l for l in lines if l.startswith(("not ok", "# ", "Bail"))]
    good = sum(l.startswith("ok") for l in lines)
    print(f"  {where}: {good} ok, status {res.status}")
    if res.status or not good or f"1..{good}" not in lines:
        print("\n".join(bad) or res.out + res.err)
        return False
    return True


def main():
    """Build, and test without and with a mount."""
    out = rig.BUILD / "rig/vswap-tools"
    out.mkdir(parents=True, exist_ok=True)
    rig.sh("make", "-s", "-C", str(SELFTEST.parent), f"O={out}")
    ok = report("here", rig.Result(0, rig.sh(str(SELFTEST)), ""))
    with rig.L1("vswap.tools.l1", modules="vswap", memory=1024, spare=True,
                disks={"image": 64}) as l1:
        l1.script("""
load_kvm vswap=1 vswap_always=1
mkfs.ext4 -q "$(disk image)"
mkdir -p /run/lower /run/vswap
mount "$(disk image)" /run/lower
head -c 256K /dev/urandom >/run/lower/image
mount -t kvm_vswap -o lower=/run/lower none /run/vswap
""")
        res = l1.run(f"VSWAP={out}/vswap VSWAP_MOUNT=/run/vswap {SELFTEST}",
                     300, check=False)
        ok = report("with RAM files", res) and ok
        if "SKIP" in res.out:
            print(f"FAIL: skipped: {res.out}")
            ok = False
        l1.script('umount /run/vswap && unload_kvm || fail "still in use"')
    return 0 if ok else 1


rig.main(main)
