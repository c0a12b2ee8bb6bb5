# SPDX-License-Identifier: GPL-2.0-only
"""The Intel flavour of L1: the distribution's kernel in Bochs.

No other emulator of the distribution has VMX.  Bochs has no virtio and no
way to load a kernel, so the machine boots from a CD made for the run, stays
in its initramfs, runs one script there and is then switched off:

    machine = Bochs("name", modules="eli", files=[("bin/tool", path)])
    result = machine.run_script("tool --check", timeout=300)

The console is build/logs/NAME/console.  The script's output and status come
back over the second serial port; nothing is judged by the console, except that
a kernel which complains there fails the run.
"""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import subprocess
import time

import rig
from rig import LOGS, Kernel, Result, RigError, Skip

# The boot loader, as Debian installs it.
ISOLINUX = pathlib.Path("/usr/lib/ISOLINUX/isolinux.bin")
LDLINUX = pathlib.Path("/usr/lib/syslinux/modules/bios/ldlinux.c32")
SHARE = pathlib.Path("/usr/share/bochs")

# clearcpuid=ht: Bochs shows the four cores of the CPU's model in one CPUID
#	leaf and a single processor in another, at which the kernel WARNs.
# The others halve the number of instructions until the script starts: no
# self-test and no certificate check of ciphers, no walk of all page tables.
# KASLR is off so that addresses of two runs can be compared.
KERNEL_ARGS = """
    console=ttyS0,115200 loglevel=5 panic=-1 nokaslr mitigations=off
    rodata=off cryptomgr.notests
    initcall_blacklist=jent_mod_init,load_system_certificate_list
    rig.root=ram rig.script=/script
""".split()

# cpu: 50 M instructions are a second of the machine's time; far more would
#	keep the VMX preemption timer from ever expiring in a test.
# sound: the ALSA driver aborts on machines without a sound card.
# display_library: the only one that is part of the base package and needs
#	neither an X server nor a terminal.
BOCHSRC = """\
cpu: model=corei7_haswell_4770, count=1:{cpus}:1, ips=50000000, \
reset_on_triple_fault=0, ignore_bad_msrs=1
megs: {memory}
romimage: file={share}/BIOS-bochs-latest
vgaromimage: file={share}/VGABIOS-lgpl-latest
ata0: enabled=1, ioaddr1=0x1f0, ioaddr2=0x3f0, irq=14
ata0-master: type=cdrom, path={dir}/boot.iso, status=inserted
boot: cdrom
clock: sync=none
com1: enabled=1, mode=file, dev={dir}/console
com2: enabled=1, mode=file, dev={dir}/result
sound: driver=dummy
speaker: enabled=0
display_library: rfb, options="timeout=0"
log: {dir}/bochs.log
panic: action=fatal
error: action=report
info: action=ignore
debug: action=ignore
"""

# What each script can use.  The port comes up at 9600 baud, which Bochs obeys.
PROLOGUE = """\
stty -F /dev/ttyS1 115200 -opost -echo

# load_kvm MODSET [PARAMETER=VALUE]...: insert KVM's modules of a set
load_kvm()
{
	insmod "/modsets/$1/kvm.ko" || return
	set=$1
	shift
	insmod "/modsets/$set/kvm-intel.ko" "$@"
}

unload_kvm()
{
	rmmod kvm_intel && rmmod kvm
}

"""

STATUS = re.compile(rb"^rig-status: (\d+)\r?\n", re.MULTILINE)


def require():
    """Skip unless all that a run needs is installed."""
    missing = [p for p, there in (
        ("bochs", shutil.which("bochs")), ("bochsbios", SHARE.exists()),
        ("xorriso", shutil.which("xorriso")),
        ("isolinux", ISOLINUX.exists()),
        ("syslinux-common", LDLINUX.exists())) if not there]
    if missing:
        raise Skip("VMX needs Bochs to emulate it, and these packages are "
                   f"not installed: {' '.join(missing)}")


def kvm_modules(kernel, modset):
    """kvm.ko and kvm-intel.ko of a set, and what these need, in the order
    in which they can be loaded."""
    updates = rig.build_modroot(kernel, modset) / "updates"
    files = []
    for path in kernel.module_closure(["kvm-intel"]):
        ours = updates / (path.name.split(".ko")[0] + ".ko")
        files.append(ours if ours.exists() else path)
    return files


class Bochs:
    """One boot of the emulated Intel machine.

    modules   modset whose KVM modules are loaded before the script runs;
              None for none
    modsets   sets that the script can load with load_kvm
    files     (name in the initramfs, host path) of further files
    append    more kernel command line
    expected  regular expressions of complaints that the test provokes
    """

    def __init__(self, name, *, modules="none", modsets=(), files=(),
                 append="", cpus=1, memory=512, expected=()):
        require()
        self.name = name
        self.kernel = Kernel()
        self.modules = modules
        self.modsets = list(modsets)
        self.files = list(files)
        self.append = append
        self.cpus = cpus
        self.memory = memory
        self.expected = list(expected)
        self.dir = LOGS / name
        self.console = self.dir / "console"
        self.result = self.dir / "result"
        self.process = None

    def _modset_files(self, modset):
        """Initramfs entries of a set, without debug information: it, and the
        signature that goes with it, cost seconds of each insmod."""
        out = []
        for path in kvm_modules(self.kernel, modset):
            name = path.name.split(".ko")[0]
            copy = self.dir / "modsets" / modset / f"{name}.ko"
            copy.parent.mkdir(parents=True, exist_ok=True)
            if path.suffix == ".xz":
                with open(copy, "wb") as f:
                    subprocess.run(["xz", "-dc", str(path)], stdout=f,
                                   check=True)
            else:
                shutil.copy(path, copy)
            rig.sh("strip", "-g", str(copy))
            out.append((f"modsets/{modset}/{name}.ko", copy))
        return out

    def _make_iso(self, script):
        """boot.iso: boot loader, kernel, initramfs with the script."""
        path = self.dir / "script"
        path.write_text(PROLOGUE + script + "\n")
        files = [("script", path), *self.files]
        for modset in self.modsets:
            files += self._modset_files(modset)
        if self.modules:
            modules = kvm_modules(self.kernel, self.modules)
        else:
            modules = [p for p in kvm_modules(self.kernel, "distro")
                       if not p.name.startswith("kvm")]
        tag = "bochs-" + self.name.replace("/", "-")
        # The script is newer than any earlier archive of that name.
        initrd = rig.build_initramfs(self.kernel, files, tag, modules,
                                     boot_modules=())
        iso = self.dir / "iso"
        iso.mkdir()
        shutil.copy(self.kernel.vmlinuz, iso / "vmlinuz")
        # Not compressed: reading it costs less than unpacking it.
        shutil.move(initrd, iso / "initrd")
        shutil.copy(ISOLINUX, iso)
        shutil.copy(LDLINUX, iso)
        args = [*KERNEL_ARGS, f"rig.name={self.name.replace('/', '-')[:60]}"]
        if self.cpus == 1:
            args.append("clearcpuid=ht")
        (iso / "isolinux.cfg").write_text(
            "default rig\nprompt 0\nlabel rig\n\tkernel vmlinuz\n"
            "\tinitrd initrd\n"
            f"\tappend {' '.join(args)} {self.append}\n")
        rig.sh("xorriso", "-as", "mkisofs", "-quiet", "-o",
               str(self.dir / "boot.iso"), "-b", "isolinux.bin", "-c",
               "boot.cat", "-no-emul-boot", "-boot-load-size", "4",
               "-boot-info-table", str(iso))
        shutil.rmtree(iso)
        shutil.rmtree(self.dir / "modsets", ignore_errors=True)

    def _start(self):
        (self.dir / "bochsrc").write_text(BOCHSRC.format(
            cpus=self.cpus, memory=self.memory, share=SHARE, dir=self.dir))
        args = ["bochs", "-q", "-f", self.dir / "bochsrc"]
        usage = subprocess.run(["bochs", "--help"], capture_output=True,
                               text=True, check=False)
        # A build with Bochs' debugger waits for a command before it starts.
        if "-rc " in usage.stdout + usage.stderr:
            (self.dir / "debugger").write_text("c\n")
            args += ["-rc", self.dir / "debugger"]
        with open(self.dir / "bochs.out", "wb") as log:
            self.process = rig.spawn(args, stdin=subprocess.DEVNULL,
                                     stdout=log, stderr=log)

    def _read(self, path):
        try:
            return path.read_bytes()
        except FileNotFoundError:
            return b""

    def _wait(self, timeout):
        """The bytes on the result port and the status at their end."""
        deadline = time.monotonic() + timeout
        bad = False
        while True:
            ended = self.process.poll() is not None
            data = self._read(self.result)
            found = STATUS.search(data)
            if found:
                return data[:found.start()], int(found.group(1))
            console = self._read(self.console)
            if not bad and rig.complaints(console.decode(errors="replace"),
                                          self.expected):
                # Let it say all, but do not wait for what may never end.
                bad = True
                deadline = min(deadline, time.monotonic() + 20)
            # Bochs calls it a panic of its own if the guest powers off.
            if ended:
                raise RigError("Bochs ended before the script did; see "
                               f"{self.dir}")
            if time.monotonic() > deadline:
                raise RigError(self._where(console, data, timeout))
            time.sleep(0.2)

    def _where(self, console, data, timeout):
        if data:
            last = data.decode(errors="replace").splitlines()[-1]
            return (f"the script in Bochs did not end within {timeout} s; "
                    f"its last line is '{last}'; see {self.dir}")
        if console:
            return (f"Bochs' kernel did not get to the script within "
                    f"{timeout} s; see {self.console}")
        return (f"no kernel started in Bochs within {timeout} s; see "
                f"{self.dir / 'bochs.log'}")

    def run_script(self, text, timeout=300):
        """Boot, run shell code, switch off; the result has its output.

        timeout is for the boot as well.  RigError on a failure of the
        machine and on kernel complaints; the status is the caller's to judge.
        """
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        self._make_iso(text)
        try:
            self._start()
            out, status = self._wait(timeout)
        finally:
            self.kill()
            bad = rig.complaints(
                self._read(self.console).decode(errors="replace"),
                self.expected)
            if bad:
                # Replaces the error on its way, which is kept as its context.
                # pylint: disable=lost-exception
                raise RigError("kernel complaints:\n  " + "\n  ".join(bad))
        return Result(status, out.decode(errors="replace"), "")

    def kill(self):
        """Switch off at once; logs stay, the CD does not."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        (self.dir / "boot.iso").unlink(missing_ok=True)
