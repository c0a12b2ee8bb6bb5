# SPDX-License-Identifier: GPL-2.0-only
"""The rig: virtual machines that tests and benchmarks run in.

L1 is a QEMU machine that runs the distribution's kernel with the KVM modules
under test; its root file system is the build machine's own, read-only, below
a tmpfs.  L2 guests are started inside of L1 by tests/rig/l1.sh.  Where this
machine really has nested KVM, L1 runs under it; elsewhere under QEMU's
software emulation.

    with L1("name", devices=["igb"]) as l1:
        l1.run("modprobe kvm-amd")

Leaving the block powers L1 off and raises RigError if the kernel complained
about anything on L1's console, or on that of any L2 guest.
"""

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import pathlib
import re
import secrets
import shlex
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time

TOP = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("BUILD") or TOP / "build").resolve()
RIG = TOP / "tests" / "rig"
LOGS = BUILD / "logs"

# Modules that the machines' initramfs loads, beside what these need.  KVM and
# VFIO are loaded later, from the root file system in L1.
INITRAMFS_MODULES = """
    9pnet_virtio 9p overlay virtio_pci virtio_blk virtio_net virtio_balloon
    crc32c_generic ext4 igb nvme
""".split()

# How much longer everything may take on the debug kernel.
DEBUG_SLOWDOWN = 6

AGENT_PORT = "alleviate.agent"
WIRE_MAC = "52:54:00:a1:1e:01"


class RigError(Exception):
    """A failure of the rig or a complaint of a kernel in it."""


class Skip(Exception):
    """This cannot be run here, for the reason given."""


def main(run, what=""):
    """The end of a test script: run it, and exit with the status of a test.

    what is said of a failure in front of its reason.
    """
    try:
        sys.exit(run())
    except Skip as e:
        print(f"SKIP: {e}")
        sys.exit(4)
    except (RigError, TimeoutError) as e:
        print(f"FAIL: {what}{': ' if what else ''}{e}")
        sys.exit(1)


# ---------------------------------------------------------------- consoles

# What no run may print.  The names are the kernel's own report headers.
COMPLAINTS = re.compile(
    r"""
    \bWARNING:\ (?!See\ https) | \bBUG: | \bOops[:\ ] | Kernel\ panic |
    general\ protection\ fault | unable\ to\ handle | Call\ Trace: |
    \bKASAN: | \bKCSAN: | \bUBSAN: | \bkmemleak:\ \d+\ new |
    rcu:\ INFO: | self-detected\ stall | detected\ stalls |
    INFO:\ task\ .*\ blocked | soft\ lockup | hard\ LOCKUP |
    possible\ (recursive|circular|irq)\ lock | inconsistent\ lock\ state |
    suspicious\ RCU\ usage | sleeping\ function\ called |
    scheduling\ while\ atomic | refcount_t: | list_(add|del)\ corruption |
    Bad\ (page|rss-counter|swap) | Out\ of\ memory | invoked\ oom-killer |
    nobody\ cared | NMI\ received\ for\ unknown | unexpected\ IRQ\ trap | rig:\ no\ |
    EXT4-fs\ error | I/O\ error,\ dev
    """, re.VERBOSE)


# Lines from what a kernel reports to "Call Trace:": who runs, on what hardware.
BEFORE_TRACE = 5


def complaints(text, expected=()):
    """Lines of a console log in which a kernel complains.

    With those that follow the first one, which say where that was.

    expected: regular expressions of complaints that a test provokes on
    purpose; give the narrowest possible.
    """
    lines = text.splitlines()

    def is_expected(i):
        # The call trace of something belongs to it.
        first = i - BEFORE_TRACE if "Call Trace:" in lines[i] else i
        return any(re.search(e, line) for e in expected
                   for line in lines[max(first, 0):i + 1])

    found = [i for i, line in enumerate(lines)
             if COMPLAINTS.search(line) and not is_expected(i)]
    shown = set(found)
    if found:
        shown.update(range(found[0], min(found[0] + 25, len(lines))))
    return [lines[i] for i in sorted(shown)]


# ------------------------------------------------------------------ images

def note(what, text):
    print(f"  {what:<8} {text}", flush=True)


@contextlib.contextmanager
def locked(path):
    """Serialize builders of one image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        yield


def sh(*args, **kwargs):
    """Run a host command; its output appears in the error if it fails."""
    p = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                       text=True, check=False, **kwargs)
    if p.returncode:
        raise RigError(f"{shlex.join(map(str, args))} failed:\n{p.stdout}")
    return p.stdout


class Kernel:
    """A kernel below build/kernel: what L1, or an L2 guest, boots."""

    def __init__(self, flavour="release"):
        base = BUILD / "kernel"
        if not (base / "current").exists():
            sh(str(TOP / "scripts/fetch-kernel.sh"))
        self.flavour = flavour
        name = os.readlink(base / "current")
        if flavour == "debug":
            name += "-debug"
            if not (base / name / "stamp").exists():
                raise RigError("the debug kernel is not built; "
                               "run 'make debug-kernel'")
        self.name = name
        self.dir = base / name
        self.vmlinuz = self.dir / "image/vmlinuz"
        self.modules = self.dir / "image/modules"
        self.version = (base / os.readlink(base / "current") /
                        "version").read_text().strip()
        self.kdir = (self.dir / "kdir").resolve()
        self.release = (self.kdir / "include/config/kernel.release"
                        ).read_text().strip()

    def module_closure(self, names):
        """Files of the named modules and of all that they need, in the order
        in which they can be loaded; what is built in is left out."""
        dep = build_modroot(self, "distro") / "modules.dep"
        needs = {}
        for line in dep.read_text().splitlines():
            path, _, rest = line.partition(":")
            needs[path] = rest.split()
        by_name = {pathlib.Path(p).name.split(".ko")[0].replace("-", "_"): p
                   for p in needs}
        order = []
        for name in names:
            path = by_name.get(name.replace("-", "_"))
            if path:
                # modules.dep lists what is needed last first.
                order += [*reversed(needs[path]), path]
        return [dep.parent / p for p in dict.fromkeys(order)]


def newer(target, *sources):
    """Whether target is missing or older than one of its sources."""
    if not target.exists():
        return True
    t = target.stat().st_mtime
    return any(pathlib.Path(s).stat().st_mtime > t for s in sources)


def _compile(name, suffix, *flags):
    """tests/rig/NAME.c, built with the given flags."""
    out = BUILD / "rig" / f"{name}{suffix}"
    with locked(BUILD / "rig" / f".{out.name}.lock"):
        if newer(out, RIG / f"{name}.c", *RIG.glob("*.h")):
            sh("gcc", "-O2", "-Wall", "-Wextra", "-Werror", *flags, "-o",
               str(out), str(RIG / f"{name}.c"))
    return out


def build_tool(name):
    """Compile tests/rig/NAME.c statically; it runs on the host and in guests."""
    return _compile(name, "", "-static")


def build_plugin(name):
    """Compile tests/rig/NAME.c as a plugin for QEMU."""
    return _compile(name, ".so", "-shared", "-fPIC", "-pthread")


def cpio_newc(entries):
    """A newc archive of (name, mode, data); directories have data None."""
    out = bytearray()

    def add(ino, name, mode, data):
        raw = name.encode() + b"\0"
        out.extend(b"070701" + b"".join(b"%08X" % v for v in (
            ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(raw), 0)))
        out.extend(raw)
        out.extend(b"\0" * (-len(out) % 4))
        out.extend(data)
        out.extend(b"\0" * (-len(out) % 4))

    for ino, (name, mode, data) in enumerate(entries, 1):
        add(ino, name, mode, data or b"")
    add(0, "TRAILER!!!", 0, b"")
    return bytes(out)


def build_initramfs(kernel, extra=(), tag="base", modules=(),
                    boot_modules=tuple(INITRAMFS_MODULES)):
    """The initramfs of L1 and L2: busybox, the agent, boot-time modules.

    extra: (name in the archive, host path) of further files.
    modules: further module files (paths), loaded last, in this order.
    boot_modules: names of modules that are loaded before these.
    """
    agent = build_tool("agent")
    spin = build_tool("spin")
    out = BUILD / "rig" / f"initramfs-{kernel.name}-{tag}.cpio"
    sources = [agent, spin, RIG / "init", __file__, kernel.vmlinuz,
               *(p for _, p in extra), *modules]
    with locked(BUILD / "rig" / f".{out.name}.lock"):
        if not newer(out, *sources):
            return out
        busybox = shutil.which("busybox") or "/bin/busybox"
        d = 0o040755
        entries = [(n, d, None) for n in (
            "bin", "sbin", "usr", "usr/bin", "usr/sbin", "proc", "sys", "dev",
            "tmp", "run", "root", "newroot", "modules", "etc")]
        entries.append(("init", 0o100755, (RIG / "init").read_bytes()))
        entries.append(("bin/agent", 0o100755, agent.read_bytes()))
        entries.append(("bin/spin", 0o100755, spin.read_bytes()))
        entries.append(("bin/busybox", 0o100755,
                        pathlib.Path(busybox).read_bytes()))
        entries.append(("bin/sh", 0o120777, b"busybox"))
        order = []

        def add_module(name, path):
            tmp = BUILD / "rig" / f".strip-{os.getpid()}.ko"
            if str(path).endswith(".xz"):
                with open(tmp, "wb") as f:
                    subprocess.run(["xz", "-dc", str(path)], stdout=f,
                                   check=True)
            else:
                shutil.copy(path, tmp)
            sh("strip", "-g", str(tmp))
            entries.append((f"modules/{name}.ko", 0o100644, tmp.read_bytes()))
            tmp.unlink()
            order.append(name)

        for path in kernel.module_closure(boot_modules):
            add_module(path.name.split(".ko")[0], path)
        for path in modules:
            add_module(pathlib.Path(path).name.split(".ko")[0], path)
        entries.append(("modules/order", 0o100644,
                        "".join(f"{n}\n" for n in order).encode()))
        seen = {e[0] for e in entries}
        for name, path in extra:
            parts = name.split("/")[:-1]
            for i in range(len(parts)):
                p = "/".join(parts[:i + 1])
                if p not in seen:
                    entries.append((p, d, None))
                    seen.add(p)
            path = pathlib.Path(path)
            mode = 0o100000 | (path.stat().st_mode & 0o777)
            entries.append((name, mode, path.read_bytes()))
        tmp = out.with_suffix(".tmp")
        tmp.write_bytes(cpio_newc(entries))
        tmp.rename(out)
    return out


def build_modroot(kernel, modset):
    """A /lib/modules/RELEASE for L1: the distribution's modules, and above
    them in updates/ the drop-in modules of modset, as on a user's machine.

    modset: "distro", or features joined by "+" ("none", "eli", "eli+vswap").
    """
    out = BUILD / "rig" / f"modroot-{kernel.name}" / modset
    dest = out / "lib/modules" / kernel.release
    with locked(BUILD / "rig" / f".modroot-{kernel.name}-{modset}.lock"):
        built = []
        if modset != "distro":
            env = dict(os.environ)
            env.pop("KSRC", None)
            env.pop("KDIR", None)
            target = BUILD / "modules" / modset
            if kernel.flavour == "debug":
                env["KDIR"] = str(kernel.kdir)
                env["KSRC"] = str(kernel.dir / "source")
                target = BUILD / "modules" / f"{modset}-debug"
            sh(str(TOP / "scripts/build-modules.sh"), modset.replace("+", " "),
               str(target), env=env)
            built = [p.resolve() for p in sorted(target.glob("*.ko"))]
        stamp = hashlib.sha256(kernel.version.encode())
        for p in built:
            st = p.stat()
            stamp.update(f"{p} {st.st_mtime_ns} {st.st_size}".encode())
        stamp_file = out / "stamp"
        if stamp_file.exists() and stamp_file.read_text() == stamp.hexdigest():
            return dest
        shutil.rmtree(out, ignore_errors=True)
        (dest / "updates").mkdir(parents=True)
        for p in kernel.modules.glob("modules.*"):
            if p.name.startswith(("modules.builtin", "modules.order")):
                shutil.copy(p, dest)
        (dest / "kernel").symlink_to(kernel.modules / "kernel")
        for p in built:
            shutil.copy(p, dest / "updates" / p.name)
            sh("strip", "-g", str(dest / "updates" / p.name))
        sh("depmod", "-b", str(out), kernel.release)
        stamp_file.write_text(stamp.hexdigest())
    return dest


def build_test_module(kernel, name):
    """tests/modules/NAME.c as a module for the given kernel."""
    src = TOP / "tests/modules"
    # What modules share with selftests that use them, and with the rig.
    shared = [TOP / "tools/testing/selftests/kvm/x86_64/eli_prod.h",
              RIG / "insnmark.h"]
    tree = BUILD / "rig" / f"modules-{kernel.name}"
    out = tree / f"{name}.ko"
    with locked(BUILD / "rig" / f".modules-{kernel.name}.lock"):
        if newer(out, src / f"{name}.c", src / "Kbuild", *shared):
            tree.mkdir(parents=True, exist_ok=True)
            for p in [*src.iterdir(), *shared]:
                shutil.copy2(p, tree)
            sh("make", "-C", str(kernel.kdir), f"M={tree}", "KCFLAGS=-Werror",
               "modules")
            sh("strip", "-g", str(out))
    return out


def build_viommu_tools():
    """tools/kvm/viommu, built; the directory that viommu-run lies in."""
    src = TOP / "tools/kvm/viommu"
    out = BUILD / "rig/viommu-tools"
    out.mkdir(parents=True, exist_ok=True)
    with locked(BUILD / "rig/.viommu-tools.lock"):
        sh("make", "-s", "-C", str(src), f"O={out}")
    return out


# --------------------------------------------------------------- processes

_libc = ctypes.CDLL(None, use_errno=True)


def _die_with_parent():
    os.setpgid(0, 0)
    _libc.prctl(1, signal.SIGKILL)      # PR_SET_PDEATHSIG


def spawn(args, **kwargs):
    """Start a process that does not outlive this one."""
    # pylint: disable=subprocess-popen-preexec-fn,consider-using-with
    return subprocess.Popen([str(a) for a in args],
                            preexec_fn=_die_with_parent, **kwargs)


def acceleration():
    """("kvm"|"tcg", why): how L1 runs on this machine.

    A /dev/kvm alone proves nothing; the CPU must have svm or vmx, a VM must
    be creatable, and kvm must offer nesting.
    """
    flags = re.search(r"^flags\s*:(.*)$", open("/proc/cpuinfo",
                      encoding="ascii").read(), re.MULTILINE)
    flags = flags.group(1).split() if flags else []
    if "svm" not in flags and "vmx" not in flags:
        return "tcg", "this CPU shows neither svm nor vmx"
    try:
        fd = os.open("/dev/kvm", os.O_RDWR | os.O_CLOEXEC)
    except OSError as e:
        return "tcg", f"/dev/kvm: {e.strerror}"
    try:
        os.close(fcntl.ioctl(fd, 0xAE01, 0))        # KVM_CREATE_VM
    except OSError as e:
        return "tcg", f"KVM_CREATE_VM: {e.strerror}"
    finally:
        os.close(fd)
    for vendor in ("kvm_amd", "kvm_intel"):
        try:
            nested = pathlib.Path(f"/sys/module/{vendor}/parameters/nested")
            if nested.read_text().strip() in ("1", "Y"):
                return "kvm", f"nested {vendor}"
        except OSError:
            pass
    return "tcg", "kvm has nesting switched off"


class Result:
    """What a command in a machine left: status, out, err (text)."""

    def __init__(self, status, out, err):
        self.status = status
        self.out = out
        self.err = err

    def __repr__(self):
        return f"Result({self.status}, {self.out!r}, {self.err!r})"


def agent_run(path, command, timeout, on_output=None):
    """Run a command through the agent behind a Unix socket."""
    deadline = time.monotonic() + timeout
    nonce = secrets.token_bytes(16)
    marker = b"RIGANS" + nonce
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as s:
        s.connect(str(path))
        raw = command.encode()
        s.sendall(b"RIGREQ" + nonce + struct.pack("<I", len(raw)) + raw)
        buf = bytearray()

        def more():
            s.settimeout(max(0.01, deadline - time.monotonic()))
            try:
                data = s.recv(65536)
            except TimeoutError:
                raise TimeoutError(
                    f"no end of '{command[:80]}' after {timeout} s") from None
            if not data:
                raise RigError(f"the machine went away during "
                               f"'{command[:80]}'")
            buf.extend(data)

        while marker not in buf:
            more()
        del buf[:buf.index(marker) + len(marker)]
        streams = {"o": bytearray(), "e": bytearray()}
        while True:
            while len(buf) < 5:
                more()
            kind, length = chr(buf[0]), struct.unpack_from("<I", buf, 1)[0]
            while len(buf) < 5 + length:
                more()
            data = bytes(buf[5:5 + length])
            del buf[:5 + length]
            if kind == "x":
                return Result(struct.unpack("<I", data)[0],
                              streams["o"].decode(errors="replace"),
                              streams["e"].decode(errors="replace"))
            streams[kind].extend(data)
            if on_output:
                on_output(kind, data)


class L1:
    """A host under test.

    modules   "distro" or a feature set of build_modroot()
    flavour   "release" (the distribution's kernel) or "debug"; by default
              the environment's FLAVOUR
    devices   of "igb", "edu", "nvme": PCI devices to assign to L2, at the
              addresses in DEVICES; igb's wire ends at self.wire
    disks     {serial: MiB}: scratch disks, /dev/disk/by-id is not there, the
              serial is in /sys/block/*/serial (l1.sh: disk SERIAL)
    sectors   {serial: bytes}: of disks whose sectors do not have 512 bytes
    append    more kernel command line
    icount    deterministic single-threaded emulation; one TSC tick is one
              executed instruction
    iommu     "intel", "amd" or None
    expected  regular expressions of complaints that the test provokes
    guest_modules   test modules (tests/modules/NAME.c) that L1 finds as
              $RIG_MODULE_DIR/NAME.ko, and L2 as /lib/NAME.ko
    insns     an emulated L1 counts instructions, see instructions(); it gets
              somewhat slower
    spare     an emulated L1 has one more CPU, 0, on which no program runs:
              guests on an emulated CPU 0 crash while another CPU loads FPU
              state (Documentation/rig.rst).  For tests that do not place
              their vCPUs themselves.
    edus      how many more edu devices there are, at the addresses in
              more_edus; bind_vfio takes an address as well as a name
    """

    DEVICES = {"igb": "0000:00:06.0", "edu": "0000:00:07.0",
               "nvme": "0000:00:08.0"}
    # Where nothing else is on the root bus.
    EDU_SLOTS = range(0x10, 0x1f)
    BOOT_TIMEOUT = 240

    def __init__(self, name, *, modules="none", flavour=None, devices=(),
                 disks=None, append="", cpus=2, memory=4096, icount=False,
                 expected=(), iommu="intel", guest_modules=(), edus=0,
                 insns=False, spare=False, sectors=None):
        self.name = name
        self.modset = modules
        self.kernel = Kernel(flavour or os.environ.get("FLAVOUR", "release"))
        self.guest_kernel = Kernel()
        self.devices = list(devices)
        self.more_edus = [f"0000:00:{slot:02x}.0"
                          for slot in self.EDU_SLOTS[:edus]]
        if len(self.more_edus) != edus:
            raise RigError(f"no room for {edus} more edu devices")
        self.disks = dict(disks or {})
        self.sectors = dict(sectors or {})
        self.append = append
        self.cpus = cpus
        self.memory = memory
        self.icount = icount
        self.iommu = iommu
        self.expected = list(expected)
        self.guest_modules = list(guest_modules)
        # Time limits are for the release kernel; the checkers are slow.
        self.slow = DEBUG_SLOWDOWN if self.kernel.flavour == "debug" else 1
        self.accel, self.accel_why = acceleration()
        if icount:
            self.accel = "tcg"
        self.insns = insns and self.accel == "tcg"
        # Single-threaded emulation has no such race.
        self.spare = spare and self.accel == "tcg" and not icount
        self.dir = LOGS / name
        self.share = self.dir / "share"
        self.lock = None
        self.process = None

    # Unix socket paths have 107 characters at most, so they live elsewhere.
    @property
    def wire(self):
        return (self.run_dir / "wire.peer", self.run_dir / "wire.qemu")

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.kill()
            raise
        return self

    def __exit__(self, kind, value, tb):
        if kind is None:
            self.stop()
        else:
            self.kill()
            bad = self.scan()
            if bad and kind is not KeyboardInterrupt:
                raise RigError("kernel complaints:\n  " +
                               "\n  ".join(bad)) from value

    def command_line(self):
        """QEMU's arguments."""
        if self.accel == "kvm":
            accel, cpu = "kvm", "host,+x2apic"
        elif self.icount:
            # x2APIC's timer registers are MSRs, at which QEMU 10.0 gives up
            # with "Bad icount read"; the xAPIC's are not.
            accel, cpu = "tcg,thread=single", "EPYC,+svm,+npt,-x2apic"
        else:
            accel, cpu = "tcg,thread=multi", "EPYC,+svm,+npt,+x2apic"
        # The kernel gives its timer some ticks' time to interrupt, and panics if
        # it does not.  An emulated one may be late on a busy machine.
        append = ["console=ttyS0", "panic=-1", "no_timer_check", "rig.root=9p",
                  f"rig.name={self.name[:60]}",
                  f"rig.modules={self.modroot}", f"rig.share={self.share}"]
        if self.spare:
            append.append(f"rig.cpus=1-{self.cpus}")
        if self.iommu:
            append += ["intel_iommu=on", "iommu=pt"]
        if self.iommu == "amd":
            # With QEMU's, Linux finds no timer behind the remapped I/O APIC.
            append += ["nointremap",
                       "vfio_iommu_type1.allow_unsafe_interrupts=1"]
        args = [
            "qemu-system-x86_64", "-name", self.name, "-nodefaults",
            "-no-user-config", "-no-reboot", "-display", "none",
            "-machine", "q35,kernel-irqchip=split" if self.iommu else "q35",
            "-accel", accel, "-cpu", cpu, "-smp",
            str(self.cpus + self.spare),
            "-m", f"{self.memory}M",
            "-kernel", self.kernel.vmlinuz, "-initrd", self.initramfs,
            "-append", " ".join(append) + " " + self.append,
            "-chardev", f"file,id=console,path={self.console}",
            "-serial", "chardev:console",
            "-chardev", f"socket,id=agent,path={self.agent},server=on,wait=off",
            "-device", "virtio-serial-pci",
            "-device", f"virtserialport,chardev=agent,name={AGENT_PORT}",
            "-fsdev", "local,id=root,path=/,readonly=on,security_model=none,"
                      "multidevs=remap",
            "-device", "virtio-9p-pci,fsdev=root,mount_tag=root",
            "-fsdev", f"local,id=share,path={self.share},security_model=none",
            "-device", "virtio-9p-pci,fsdev=share,mount_tag=share",
        ]
        if self.icount:
            args += ["-icount", "shift=0,sleep=off"]
        if self.insns:
            args += ["-plugin", f"{build_plugin('insncount')},"
                     f"socket={self.run_dir / 'insns'}"]
        if self.iommu == "intel":
            eim = "off" if self.icount else "on"
            args += ["-device", f"intel-iommu,intremap=on,eim={eim}"]
        elif self.iommu == "amd":
            # QEMU 10.0 translates either always or never.
            args += ["-device", "amd-iommu,intremap=on,pt=off"]
        if "igb" in self.devices:
            peer, local = self.wire
            args += ["-netdev", "dgram,id=wire,"
                     f"local.type=unix,local.path={local},"
                     f"remote.type=unix,remote.path={peer}",
                     "-device", f"igb,netdev=wire,addr=0x6,mac={WIRE_MAC}"]
        if "edu" in self.devices:
            args += ["-device", "edu,addr=0x7,dma_mask=0xffffffffffffffff"]
        for bdf in self.more_edus:
            args += ["-device", f"edu,addr=0x{bdf[8:10]},"
                     "dma_mask=0xffffffffffffffff"]
        if "nvme" in self.devices:
            path = self._image("nvme", 256)
            args += ["-drive", f"if=none,id=nvme,format=raw,file={path}",
                     "-device", "nvme,serial=nvme,drive=nvme,addr=0x8"]
        for serial, mib in self.disks.items():
            path = self._image(serial, mib)
            size = self.sectors.get(serial, 512)
            args += ["-drive", f"if=none,id={serial},format=raw,file={path},"
                     "cache=unsafe,discard=unmap",
                     "-device", f"virtio-blk-pci,drive={serial},"
                     f"serial={serial},logical_block_size={size},"
                     f"physical_block_size={size}"]
        return [str(a) for a in args]

    def _image(self, name, mib):
        path = self.run_dir / f"{name}.img"
        with open(path, "wb") as f:
            f.truncate(mib << 20)
        return path

    def start(self):
        """Boot, and wait until commands can be run."""
        digest = hashlib.sha256(str(self.dir).encode()).hexdigest()[:12]
        self.lock = self._only_one(BUILD / "run" / f"{digest}.lock")
        shutil.rmtree(self.dir, ignore_errors=True)
        self.share.mkdir(parents=True)
        self.run_dir = BUILD / "run" / digest
        if len(str(self.run_dir)) > 80:
            self.run_dir = pathlib.Path("/tmp") / f"rig-{digest}"
        shutil.rmtree(self.run_dir, ignore_errors=True)
        self.run_dir.mkdir(parents=True)
        self.console = self.dir / "console"
        self.agent = self.run_dir / "agent"
        self.modroot = build_modroot(self.kernel, self.modset)
        self.initramfs = build_initramfs(self.kernel)
        extra = [(f"lib/{m}.ko", build_test_module(self.guest_kernel, m))
                 for m in self.guest_modules]
        self.guest_initramfs = build_initramfs(
            self.guest_kernel, extra, "-".join(["base", *self.guest_modules]))
        for m in self.guest_modules:
            build_test_module(self.kernel, m)
        with open(self.dir / "qemu.log", "wb") as log:
            args = self.command_line()
            log.write((shlex.join(args) + "\n\n").encode())
            log.flush()
            self.process = spawn(args, stdin=subprocess.DEVNULL, stdout=log,
                                 stderr=log)
        deadline = time.monotonic() + self.BOOT_TIMEOUT * self.slow
        while True:
            if self.process.poll() is not None:
                raise RigError(f"L1 ended while booting; see {self.dir}")
            try:
                agent_run(self.agent, "true", 5)
                break
            except (OSError, TimeoutError, RigError):
                if time.monotonic() > deadline:
                    raise RigError(f"L1 did not boot within "
                                   f"{self.BOOT_TIMEOUT} s; see "
                                   f"{self.console}") from None
                time.sleep(0.2)
        if self.kernel.flavour == "debug":
            # stop() scans; more would keep a CPU busy.
            self.run("echo scan=off >/sys/kernel/debug/kmemleak")

    def _only_one(self, path):
        """A locked file.  What has the same name has the same files."""
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = open(path, "w", encoding="ascii")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise RigError(f"{self.name} is running, with logs in {self.dir}; "
                           "wait for it, or end it") from None
        return lock

    def environment(self):
        """Variables that l1.sh expects."""
        return {
            "TOP": TOP, "BUILD": BUILD, "RIG_SHARE": self.share,
            "RIG_KERNEL": self.guest_kernel.vmlinuz,
            "RIG_INITRD": self.guest_initramfs,
            "RIG_MODULE_DIR": BUILD / "rig" / f"modules-{self.kernel.name}",
            "RIG_AGENT": BUILD / "rig/agent",
            "RIG_ACCEL": self.accel, "RIG_MODULES": self.modset,
            "RIG_FLAVOUR": self.kernel.flavour, "RIG_SLOW": self.slow,
            "RIG_WIRE_MAC": WIRE_MAC,
        }

    def run(self, command, timeout=120, check=True, on_output=None):
        """Run a shell command in L1; RigError unless it succeeds."""
        env = " ".join(f"export {k}={shlex.quote(str(v))};"
                       for k, v in self.environment().items())
        res = agent_run(self.agent, f"{env} cd {shlex.quote(str(self.share))};"
                        f" {command}", timeout * self.slow, on_output)
        if check and res.status:
            raise RigError(f"'{command[:200]}' ended with {res.status}:\n"
                           f"{res.out}{res.err}")
        return res

    def script(self, text, timeout=300, check=True, on_output=None):
        """Run bash code in L1 with the helpers of tests/rig/l1.sh."""
        path = self.share / f".script-{secrets.token_hex(4)}"
        path.write_text(f". {shlex.quote(str(RIG / 'l1.sh'))}\n{text}\n")
        try:
            return self.run(f"bash {shlex.quote(str(path))}", timeout, check,
                            on_output)
        except TimeoutError as e:
            # The command says nothing, what it was to do does.
            raise TimeoutError(f"{e}; the script:\n{text}") from None

    def _insncount(self):
        if not self.insns:
            return []
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
            sock.settimeout(30)
            sock.connect(str(self.run_dir / "insns"))
            with sock.makefile() as f:
                return [line.split() for line in f]

    def instructions(self):
        """What each CPU has executed since it was switched on: a list of
        (instructions of kernels, of programs, how many of both were in loops
        that wait), those of L2 guests included.

        None if they are not counted (insns not set, or real nested KVM).
        """
        return [tuple(map(int, line)) for line in self._insncount()
                if line[0] != "mark"] or None

    def marked_instructions(self):
        """What was executed between marks (insnmark.h) since the last call of
        either: a list of (instructions, how many of these were in loops that
        wait).
        """
        return [(int(line[2]), int(line[3])) for line in self._insncount()
                if line[0] == "mark"]

    def scan(self):
        """Complaints on the consoles of L1 and its guests."""
        bad = []
        for path in [self.console, *sorted(self.share.glob("*.console"))]:
            if path.exists():
                text = path.read_text(errors="replace")
                bad += [f"{path.name}: {line}"
                        for line in complaints(text, self.expected)]
        return bad

    def alive(self):
        return self.process is not None and self.process.poll() is None

    def stop(self):
        """Power off; RigError on kernel complaints."""
        if self.alive():
            try:
                if self.kernel.flavour == "debug":
                    # What is found is reported on the console.  Pointers on
                    # the way between two places are not leaks: scan twice.
                    agent_run(self.agent, "f=/sys/kernel/debug/kmemleak; "
                              "echo scan >$f; sleep 6; echo scan >$f; cat $f"
                              " >/dev/console", 300)
                agent_run(self.agent, "sync; echo 1 >/proc/sys/kernel/sysrq;"
                          "(sleep 0.2; echo o >/proc/sysrq-trigger) &", 30)
                self.process.wait(60)
            except (OSError, TimeoutError, RigError,
                    subprocess.TimeoutExpired):
                pass
        self.kill()
        bad = self.scan()
        if bad:
            raise RigError("kernel complaints:\n  " + "\n  ".join(bad))

    def kill(self):
        """End L1 at once and drop its disks; logs stay."""
        if self.process is not None and self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
        if hasattr(self, "run_dir"):
            shutil.rmtree(self.run_dir, ignore_errors=True)
        if self.lock:
            self.lock.close()


# ----------------------------------------------------------------- results

def write_results(name, rows):
    """build/results/NAME.json: the vocabulary of Documentation/benchmarks."""
    accel, why = acceleration()
    kernel = Kernel()
    cpu = re.search(r"^model name\s*:\s*(.*)$", open(
        "/proc/cpuinfo", encoding="ascii").read(), re.MULTILINE)
    qemu = sh("qemu-system-x86_64", "--version").split("\n", 1)[0]
    git = subprocess.run(["git", "-C", str(TOP), "describe", "--always",
                          "--dirty"], capture_output=True, text=True,
                         check=False).stdout.strip()
    data = {
        "name": name,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "git": git,
        "host": {"cpu": cpu.group(1) if cpu else "unknown",
                 "accel": f"{accel} ({why})",
                 "kernel": kernel.version, "qemu": qemu},
        "rows": [dict(zip(("config", "metric", "value", "unit"), r))
                 for r in rows],
    }
    out = BUILD / "results" / f"{name}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(data, indent=1) + "\n")
    return data


def describe(data):
    """One line on how a result came about, for the head of its table."""
    host = data["host"]
    how = ("software emulation: counts are exact, times only compare within "
           "this table" if host["accel"].startswith("tcg") else "nested KVM")
    return f"Linux {host['kernel']}, {how}"


def table(data):
    """Rows of text: one line a metric, one column a configuration."""
    configs = list(dict.fromkeys(r["config"] for r in data["rows"]))
    metrics = list(dict.fromkeys((r["metric"], r["unit"])
                                 for r in data["rows"]))
    cell = {(r["config"], r["metric"]): r["value"] for r in data["rows"]}

    def fmt(v):
        if v is None:
            return "-"
        if isinstance(v, float):
            return f"{v:.3g}" if abs(v) < 100 else f"{v:,.0f}"
        return f"{v:,}" if isinstance(v, int) else str(v)

    lines = [["", *configs]]
    for metric, unit in metrics:
        lines.append([f"{metric} [{unit}]" if unit else metric,
                      *(fmt(cell.get((c, metric))) for c in configs)])
    return lines


def print_table(data, stream=sys.stdout):
    """The same as text."""
    lines = table(data)
    widths = [max(len(row[i]) for row in lines) for i in range(len(lines[0]))]
    for row in lines:
        print("  " + row[0].ljust(widths[0]) + "".join(
            "  " + c.rjust(w) for c, w in zip(row[1:], widths[1:])),
            file=stream)
