#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: an assigned igb carries packets to an unmodified guest and is given back
# kind: host
# tier: 1
# takes: 65
# timeout: 400
# cores: 2

exec python3 - <<'PY'
import sys
sys.path.insert(0, "tests/rig")
import rig
from load import Load

with rig.L1("l2.igb.l1", devices=["igb"]) as l1:
    l1.script("""
load_kvm
l2_start g -w last -- -device vfio-pci,host=$(bind_vfio igb)
l2_wait g
l2_run g 'ip addr add 10.9.9.2/24 dev eth0; ip link set eth0 up'
count_start run
""")
    load = Load(l1)
    load.wait_link()
    r = load.run("window", 3, 4)
    assert r["received"] > 100 and r["received"] <= r["sent"], r
    l1.script("""
count_stop run
guest=$(l2_run g "grep eth0- /proc/interrupts" |
        awk '{ for (i = 2; $i ~ /^[0-9]+$/; i++) n += $i } END { print n }')
host=$(awk '/^irq.vfio-msix/ { n += $2 } END { print n }' $RIG_SHARE/run.counts)
(( guest > 100 )) || fail "the guest took $guest interrupts of its NIC"
(( host > 100 )) || fail "L1 forwarded $host interrupts of the NIC"
(( $(counted run kvm.exits) > host )) || fail "no exits were counted"
sum=$(awk '/^hist.kvm_exit/ { n += $2 } END { print n }' $RIG_SHARE/run.counts)
(( sum > host )) || fail "the exit histogram has $sum entries"
l2_stop g
# The device goes back to its driver in L1, which then answers itself.
dev=/sys/bus/pci/devices/${DEVICE[igb]}
echo ${DEVICE[igb]} >$dev/driver/unbind
echo igb >$dev/driver_override
echo ${DEVICE[igb]} >/sys/bus/pci/drivers_probe
if=$(basename $dev/net/*)
ip addr add 10.9.9.2/24 dev $if
ip link set $if up
""")
    load.wait_link()
    r = load.run("window", 2, 4)
    assert r["received"] > 100, r
PY
