#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
# desc: on VMX, guests overwrite swapped out pages without reading them, and nothing is lost by that
# kind: host
# tier: 2
# takes: 150
# timeout: 900
"""Run the selftest of VSwapper's Preventer on EPT: preventer.py [CASE...]

Swap is a RAM disk, and the image is in a tmpfs.  Cases that wait for time to pass,
or run for some, are left out: simulated time is slow.
"""

import lzma
import pathlib
import re
import shutil
import sys

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "rig"))
# pylint: disable=wrong-import-position
import rig      # noqa: E402
import bochs    # noqa: E402

TEST = "vswap_preventer_test"
CASES = """stos stos_alias stos_partial movs movs_overlap prefixes stores
    copy_user 32bit loads locked crossing code page_table dirty_log read_only
    punch image_read fault_around swapoff two_vcpus""".split()

SCRIPT = """
for m in /modsets/vswap/*.ko; do
	case $m in
	*/kvm.ko|*/kvm-intel.ko) ;;
	*) insmod "$m" 2>/dev/null ;;
	esac
done
insmod /modsets/vswap/kvm.ko vswap=1 && insmod /modsets/vswap/kvm-intel.ko &&
	insmod /brd.ko rd_nr=1 rd_size=32768 || exit 1
mkdir -p /run /lower
mount -t tmpfs none /lower || exit 1
[ -e /dev/ram0 ] || mknod /dev/ram0 b 1 0
mkswap /dev/ram0 >/dev/null && swapon /dev/ram0 || exit 1
for t in $CASES; do
	VSWAP_LOWER=/lower /bin/timeout 120 /bin/vswap_preventer_test -t $t >/tmp/out 2>&1
	status=$?
	echo "result $t $status"
	[ $status = 0 ] || {
		grep -v "pte\\|pde" /tmp/out | tail -n 20
		umount /run/vswap-preventer-test
	}
done
"""


def files(machine_dir):
    """The selftest, and the module of RAM disks."""
    rig.sh(str(rig.TOP / "scripts/build-selftests.sh"), "vswap")
    built = (rig.BUILD / "selftests" / rig.Kernel().name /
             "vswap/kvm/x86_64" / TEST)
    work = machine_dir.parent / (machine_dir.name + ".files")
    work.mkdir(parents=True, exist_ok=True)
    shutil.copy(built, work / TEST)
    brd = rig.Kernel().module_closure(["brd"])[-1]
    if brd.suffix == ".xz":
        (work / "brd.ko").write_bytes(lzma.decompress(brd.read_bytes()))
    else:
        shutil.copy(brd, work / "brd.ko")
    rig.sh("strip", "-g", str(work / TEST), str(work / "brd.ko"))
    return [(f"bin/{TEST}", work / TEST), ("brd.ko", work / "brd.ko")]


def main():
    """Boot, run, judge."""
    cases = sys.argv[1:] or CASES
    try:
        bochs.require()
    except rig.Skip as e:
        print(f"SKIP: {e}")
        return 4
    name = "vmx.preventer/bochs"
    machine = bochs.Bochs(name, modules=None, modsets=["vswap"],
                          files=files(bochs.LOGS / name))
    result = machine.run_script(f"CASES='{' '.join(cases)}'\n{SCRIPT}",
                                timeout=800)
    print(result.out, end="")
    if result.status:
        print(f"FAIL: the script ended with {result.status}")
        return 1
    status = dict(re.findall(r"^result (\S+) (\d+)$", result.out,
                             re.MULTILINE))
    bad = [c for c in cases if status.get(c) != "0"]
    if bad:
        print(f"FAIL: {' '.join(bad)}")
        return 1
    print(f"{len(cases)} cases are right")
    return 0


if __name__ == "__main__":
    rig.main(main)
