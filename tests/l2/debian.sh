#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: a full Debian guest boots systemd and runs commands
# kind: host
# tier: 2
# takes: 90
# timeout: 900
# cores: 2

set -euo pipefail
export RIG_GUEST
RIG_GUEST=$(scripts/debian-guest.sh)

exec python3 - <<'PY'
import os, sys
sys.path.insert(0, "tests/rig")
import rig

image = os.environ["RIG_GUEST"]
with rig.L1("l2.debian.l1", spare=True) as l1:
    out = l1.script(f"""
load_kvm
l2_start g -c 2 -m 768 -r /dev/vda -- \
	-drive if=none,id=root,file={image},format=raw,snapshot=on \
	-device virtio-blk-pci,drive=root
l2_wait g 600
l2_run g 'cat /etc/debian_version /proc/1/comm; uname -r'
""", timeout=800).out.split()
    assert out[1] == "systemd", out
    assert out[2] == rig.Kernel().release, out
PY
