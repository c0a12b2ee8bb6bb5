#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0-only
"""Exitless interrupts in a few minutes: make demo

Boots the distribution's kernel, in it an unmodified guest with an assigned NIC,
sends it packets, and shows what each interrupt costs: with the distribution's
KVM, with our modules and eli=1, and where the host drives the NIC itself.
"""

import os
import pathlib
import sys

HERE = pathlib.Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests/rig")]
import irq  # pylint: disable=wrong-import-position
import rig  # pylint: disable=wrong-import-position


# What is worth a look; "make bench B=irq" has the rest.
METRICS = ("exits_per_irq", "irqs_in_guest_percent", "exits_per_s",
           "irqs_per_s", "packets_per_s", "rtt")
SECONDS = 4


def main():
    accel, why = rig.acceleration()
    kernel = rig.Kernel()
    print(f"L1 runs under {'nested KVM' if accel == 'kvm' else 'software emulation'}"
          f" ({why}).")
    features = os.environ.get("FEATURES", "eli viommu vswap").split()
    rows = irq.rows("stock", irq.measure("demo.stock", "distro",
                                         seconds=SECONDS))
    if "eli" in features:
        rows += irq.rows("eli", irq.measure("demo.eli", "+".join(features),
                                            "eli=1", seconds=SECONDS))
    rows += irq.rows("bare", irq.bare("demo.bare", seconds=SECONDS))
    data = rig.write_results("demo", [r for r in rows if r[1] in METRICS])
    print(f"""
An unmodified Linux {kernel.release} guest under unmodified QEMU, with an
assigned igb NIC, on the stock Debian kernel: with its own KVM, and with our
kvm.ko and vendor module.  {rig.describe(data)}.
""")
    rig.print_table(data)
    print("""
exits_per_irq is what one interrupt of the NIC costs in VM exits.  "make bench"
measures the other two features, IOMMU mappings and swapping, as well.""")
    return 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (rig.RigError, rig.Skip) as e:
        print(f"alleviate: {e}", file=sys.stderr)
        sys.exit(1)
