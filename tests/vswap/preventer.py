#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: guests overwrite swapped out pages without reading them, and nothing is lost by that
# kind: host
# tier: 2
# takes: 35
# timeout: 1800
# cores: 2
"""Run the selftest of the Preventer: preventer.py [-s SECONDS] [CASE...]

All cases run, or those that are named.  Parameters that are out of range have
to be refused, and with vswap=0 the test has to skip.

SELFTESTS in the environment is a directory to take the program from, instead of
building it.  SECONDS is how long the stress lasts, 10 by default.
"""

import argparse
import pathlib
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
# pylint: disable=wrong-import-position
import kselftest    # noqa: E402
import rig          # noqa: E402

TEST = "vswap_preventer_test"
LIMIT = 600             # seconds for all cases but the stress
ENV = "VSWAP_LOWER=/run/lower"

SETUP = """
mkfs.ext4 -q "$(disk image)"
mkdir -p /run/lower
mount "$(disk image)" /run/lower
mkswap -q "$(disk swap)"
swapon "$(disk swap)"
"""

BAD = ["vswap_buffer_us=60000001", "vswap_buffer_us=-1",
       "vswap_buffer_pages=1025", "vswap_buffer_pages=x",
       "vswap_buffer_backoff=65537", "vswap_preventer=2",
       "vswap_map_ahead=65", "vswap_cluster=0", "vswap_cluster=257",
       "vswap_readahead=257", "vswap_write_ahead=65",
       "vswap_always=2"]

PARAMETERS = """
for option in %s; do
	error=$(modprobe kvm vswap=1 "$option" 2>&1) &&
		fail "kvm was loaded with $option"
	[[ $error == *"Invalid argument"* ]] || fail "$option: $error"
done
load_kvm vswap=1
cd /sys/module/kvm/parameters
got=$(echo $(cat vswap_{preventer,buffer_us,buffer_pages,cluster,readahead,{map,write}_ahead,always}))
[[ $got == "Y 1000 32 32 128 64 16 N" ]] || fail "defaults are $got"
"""


def main():
    """Run all, report."""
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", type=int, default=10)
    parser.add_argument("cases", nargs="*")
    args = parser.parse_args()

    directory = kselftest.programs("vswap")
    bad = []
    passed = 0
    with rig.L1("vswap.preventer.l1", modules="vswap", memory=2048, spare=True,
                disks={"swap": 512, "image": 256}) as l1:
        kselftest.copy(l1, directory, [TEST])
        l1.script(SETUP + PARAMETERS % " ".join(BAD))
        for case in args.cases or [None]:
            test = f"{TEST}:{case}" if case else TEST
            res = kselftest.run(l1, l1.dir / f"{test.replace(':', '.')}.tap",
                                test, LIMIT + args.s, ENV, f"-s {args.s}")
            failed = kselftest.report("on", test, res,
                                      res.passed and not res.skips, "# SKIP")
            bad += failed
            if failed:
                l1.run("umount /run/vswap-preventer-test", check=False)
            else:
                passed += res.cases
        l1.script("unload_kvm || fail 'kvm does not unload'\nload_kvm")
        res = kselftest.run(l1, l1.dir / "off.tap", TEST, 60, ENV)
        bad += kselftest.report("off", TEST, res, res.skipped)
    if bad:
        return kselftest.fail(bad)
    print(f"{passed} cases are right")
    return 0


if __name__ == "__main__":
    rig.main(main)
