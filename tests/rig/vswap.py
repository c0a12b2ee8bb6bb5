# SPDX-License-Identifier: GPL-2.0-only
"""What L1 tells of RAM files of kvm_vswap."""

import re

import rig


def ram_stats(l1, path):
    """The counters of a RAM file, by name."""
    # struct kvm_vswap_stats and KVM_VSWAP_GET_STATS of linux/kvm_vswap.h
    names = re.findall(r"__u64 (\w+);", re.search(
        r"struct kvm_vswap_stats {(.*?)}",
        (rig.TOP / "include/uapi/linux/kvm_vswap.h").read_text(),
        re.DOTALL)[1])
    size = 8 + 8 * len(names)
    out = l1.run(f"""python3 -c '
import fcntl, struct
b = bytearray(struct.pack("II", {size}, 0) + bytes({size - 8}))
with open("{path}", "rb") as f:
    fcntl.ioctl(f, 0xae << 8 | 0xf0, b)
print(*struct.unpack_from("{len(names)}Q", b, 8))
'""").out.split()
    return dict(zip(names, map(int, out)))
