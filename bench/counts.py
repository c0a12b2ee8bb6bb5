# SPDX-License-Identifier: GPL-2.0-only
"""What a counted region of tests/rig/l1.sh (count_start/count_stop) left."""

# SVM exit codes: APM volume 2, "SVM Intercept Codes"; VMX basic exit reasons:
# SDM volume 3, "Basic Exit Reasons".
EXIT_NAMES = {
    "svm": {0x60: "intr", 0x61: "nmi", 0x64: "irq_window", 0x65: "cr0_sel",
            0x4b: "np", 0x4d: "gp", 0x66: "idtr_read", 0x6a: "idtr_write",
            0x72: "cpuid", 0x77: "pause", 0x78: "hlt", 0x7b: "ioio",
            0x7c: "msr", 0x400: "npf"},
    "vmx": {0: "nmi", 1: "intr", 7: "irq_window", 10: "cpuid", 12: "hlt",
            30: "ioio", 31: "msr", 32: "msr", 40: "pause", 48: "ept",
            49: "ept_misconfig"},
}
X2APIC_EOI = 0x80b


class Counts(dict):
    """Name to difference over the region."""

    @classmethod
    def read(cls, l1, tag):
        out = cls()
        out.vendor = l1.run("grep -qw svm /proc/cpuinfo && echo svm || "
                            "echo vmx").out.strip()
        for line in (l1.share / f"{tag}.counts").read_text().splitlines():
            name, _, value = line.rpartition(" ")
            out[name] = out.get(name, 0) + float(value)
        return out

    def total(self, prefix):
        return sum(v for k, v in self.items() if k.startswith(prefix))

    @property
    def seconds(self):
        return self["time.ns"] / 1e9

    def exits(self):
        """{reason name: count} of the exit histogram."""
        names = EXIT_NAMES[self.vendor]
        out = {}
        for key, n in self.items():
            if key.startswith("hist.kvm_exit."):
                code = int(key.rsplit("=", 1)[1], 0)
                name = names.get(code, f"exit_{code:#x}")
                out[name] = out.get(name, 0) + n
        return out

    def msr_writes(self, index):
        return sum(n for key, n in self.items()
                   if key.startswith("hist.kvm_msr.") and
                   "write=1" in key and
                   int(key.rsplit("ecx=", 1)[1], 0) == index)
