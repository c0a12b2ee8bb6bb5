#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""The project in three minutes: make demo

Boots the distribution's kernel with our modules, in it an unmodified guest
with an assigned NIC, sends it packets, and shows what each interrupt costs.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/rig")]
import irq  # pylint: disable=wrong-import-position
import rig  # pylint: disable=wrong-import-position


def main():
    accel, why = rig.acceleration()
    kernel = rig.Kernel()
    features = os.environ.get("FEATURES", "eli viommu vswap").split()
    modset = "+".join(f for f in features if f != "none") or "none"
    print(f"L1 runs under {'nested KVM' if accel == 'kvm' else 'software emulation'}"
          f" ({why}).")
    rig.note("MODULES", f"building for Linux {kernel.release} ({modset})")
    rows = irq.guest("demo", modset)
    with_bare = irq.bare()
    data = rig.write_results("demo", rows + with_bare)
    print(f"""
An unmodified Linux {kernel.release} guest under unmodified QEMU, with an
assigned igb NIC, on the stock Debian kernel with our kvm.ko and vendor module.
"bare" is the host driving the NIC itself.  {rig.describe(data)}.
""")
    rig.print_table(data)
    print("""
exits_per_irq is what one interrupt of the NIC costs in VM exits today; taking
it to zero is what exitless interrupts (eli) are for.  "make bench" measures
the other two bottlenecks, IOMMU mappings and swapping.""")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (rig.RigError, rig.Skip) as e:
        print(f"alleviate: {e}", file=sys.stderr)
        sys.exit(1)
