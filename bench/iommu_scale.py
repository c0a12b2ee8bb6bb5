# SPDX-License-Identifier: GPL-2.0-only
"""One sidecore for many VMs: how long each waits for its IOMMU.

VMs of the selftest viommu_perf_test, each with an edu device behind KVM's unit,
map and unmap pages all the time, and share one sidecore, CPU 0 of L1.  Their
vCPUs share CPU 1, so time in which a vCPU was not running does not count.

  1-vm, 4-vms, 16-vms, and 1-vm-2-vcpus, 4-vms-2-vcpus
  samecore   one VM, whose vCPU emulates the unit itself
"""

import rig

SECONDS = 10
CONFIGS = {
    # name: (VMs, vCPUs of each, more options)
    "samecore": (1, 1, "-t"),
    "1-vm": (1, 1, ""),
    "4-vms": (4, 1, ""),
    "16-vms": (16, 1, ""),
    "1-vm-2-vcpus": (1, 2, ""),
    "4-vms-2-vcpus": (4, 2, ""),
}


def program():
    rig.sh(str(rig.TOP / "scripts/build-selftests.sh"), "viommu")
    return (rig.BUILD / "selftests" / rig.Kernel().name /
            "viommu/kvm/x86_64/viommu_perf_test")


def main():
    tool = program()
    rows = []
    with rig.L1("bench.iommu-scale", modules="viommu", devices=["edu"],
                edus=15) as l1:
        devices = " ".join(["edu", *l1.more_edus])
        named = l1.script(f"""
load_kvm viommu=1 sidecore_cpus=0
for device in {devices}; do
	bdf=$(bind_vfio "$device")
	group=$(readlink "/sys/bus/pci/devices/$bdf/iommu_group")
	echo "/dev/vfio/${{group##*/}}:$bdf"
done
cp {tool} /run
""").out.split()
        for name, (vms, vcpus, options) in CONFIGS.items():
            rig.note(name, "mapping and unmapping")
            out = l1.script(f"""
export VIOMMU_VFIO_DEVICES={",".join(named)}
taskset -c 1 /run/viommu_perf_test -n {vms} -c {vcpus} -s {SECONDS} {options} ||
	fail "viommu_perf_test: $?"
""", timeout=300).out
            got = dict(line.split() for line in out.splitlines()
                       if len(line.split()) == 2)
            got = {k: int(v) for k, v in got.items() if v.isdigit()}
            if (got["vms"], got["vcpus"]) != (vms, vcpus):
                raise rig.RigError(f"{name} was not run:\n{out}")
            rows += [
                (name, "wait_p50", got["wait_p50_ns"] / 1e3, "us"),
                (name, "wait_p99", got["wait_p99_ns"] / 1e3, "us"),
                (name, "wait_worst", got["wait_max_ns"] / 1e3, "us"),
                (name, "vm_mean_worst_over_median",
                 got["vm_mean_max_ns"] / got["vm_mean_median_ns"], ""),
                (name, "waits", got["waits"], ""),
                (name, "trapped_per_wait", got["trapped"] / got["waits"], ""),
            ]
    return rig.write_results("iommu-scale", rows)
