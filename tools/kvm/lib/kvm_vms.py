# SPDX-License-Identifier: GPL-2.0-only
"""What programs share that tell about VMs: KVM's directories in debugfs, the processes
they belong to, and reports as text, JSON and for Prometheus.

Nothing is changed, and nothing but debugfs, sysfs and /proc is read.  KVM_VMS_ROOT in the
environment is where these are, for tests.
"""

import argparse
import json
import os
import pathlib
import re
import signal
import sys
import time

ROOT = pathlib.Path(os.environ.get("KVM_VMS_ROOT", "/"))
DEBUGFS = ROOT / "sys/kernel/debug/kvm"


class Failure(Exception):
    """What ends the program, in a sentence."""


def read(path, default=None):
    """A file's text without white space around it, or default if it cannot be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except (OSError, ValueError):
        return default


def some(number, what):
    """A number of things in words."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def printable(text):
    """Without what a terminal would act upon: anybody can name a process."""
    return "".join(c if c.isprintable() else "?" for c in text)


def natural(text):
    """To sort 2 before 10."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", text)]


def cpus_of(text):
    """The CPUs of a list as 0-2,5."""
    cpus = set()
    for part in filter(None, (text or "").split(",")):
        first, _, last = part.partition("-")
        cpus.update(range(int(first), int(last or first) + 1))
    return cpus


def parameter(module, name):
    """A parameter's value, or None if the module or the parameter is not there."""
    return read(ROOT / "sys/module" / module / "parameters" / name)


def devices_of(pid):
    """Addresses of the devices that a process has open, by group or by device."""
    found = set()
    try:
        links = list((ROOT / f"proc/{pid}/fd").iterdir())
    except OSError:
        return []
    for link in links:
        try:
            target = os.readlink(link)
        except OSError:
            continue
        if m := re.fullmatch(r"/dev/vfio/(\d+)", target):
            group = ROOT / f"sys/kernel/iommu_groups/{m[1]}/devices"
            try:
                found.update(d.name for d in group.iterdir())
            except OSError:
                pass
        elif m := re.fullmatch(r"/dev/vfio/devices/(vfio\d+)", target):
            device = ROOT / f"sys/class/vfio-dev/{m[1]}/device"
            found.add(os.path.basename(os.path.realpath(device)))
    return sorted(found)


def assigned(pid):
    """(address, driver) of these without bridges, and what the host gives to nobody."""
    devices = []
    for address in devices_of(pid):
        driver = ROOT / f"sys/bus/pci/devices/{address}/driver"
        if driver.exists():
            driver = os.path.basename(os.path.realpath(driver))
            if driver != "pcieport":
                devices.append((address, driver))
    return devices


class Vm:
    """What is known of a VM, at one time.  Raises OSError if it has gone."""

    def __init__(self, directory, counted):
        """counted(name) is whether a counter of KVM is of interest."""
        self.name = directory.name
        self.pid = int(directory.name.partition("-")[0])
        self.command = printable(read(ROOT / f"proc/{self.pid}/comm", "?"))
        self.counters = {}
        self.threads = {}
        for path in directory.iterdir():
            if counted(path.name) and (value := read(path, "")).isdigit():
                self.counters[path.name] = int(value)
            if m := re.fullmatch(r"vcpu(\d+)", path.name):
                self.threads[int(m[1])] = int(read(path / "pid") or 0)

    def process(self, name, thread=None):
        """A file of the process, or of one of its threads, in /proc; or ''."""
        task = f"task/{thread}/" if thread is not None else ""
        return read(ROOT / f"proc/{self.pid}/{task}{name}", "")

    def cpus(self, thread):
        """The list of CPUs that a thread may run on, or None."""
        m = re.search(r"^Cpus_allowed_list:\s*(\S+)", self.process("status", thread),
                      re.MULTILINE)
        return m[1] if m else None

    def labels(self):
        """For Prometheus."""
        return {"pid": self.pid, "vm": self.name, "command": self.command}


def metric(name, kind, text, samples):
    """Print a metric of Prometheus with its samples, pairs of labels and a value."""
    print(f"# HELP {name} {text}.\n# TYPE {name} {kind}")
    for labels, value in samples:
        quoted = (str(v).replace("\\", r"\\").replace('"', r'\"').replace("\n", r"\n")
                  for v in labels.values())
        print(f"{name}{{" + ",".join(f'{k}="{v}"' for k, v in zip(labels, quoted)) +
              f"}} {value}")


def print_counters(vms, gauges=(), texts=None):
    """All counters of KVM for Prometheus."""
    for name in sorted({n for vm in vms for n in vm.counters}):
        gauge = name in gauges
        metric(f"kvm_{name}{'' if gauge else '_total'}", "gauge" if gauge else "counter",
               (texts or {}).get(name, f"KVM's counter {name}"),
               [(vm.labels(), vm.counters[name]) for vm in vms if name in vm.counters])


def seconds_of(text):
    """For argparse."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 0.01 <= value <= 86400:
        raise argparse.ArgumentTypeError(f"{text}: expected seconds, 0.01 to 86400")
    return value


def positive(text):
    """For argparse."""
    if not text.isdigit() or not 0 < len(text) < 10 or not int(text):
        raise argparse.ArgumentTypeError(f"{text}: expected a number, 1 or more")
    return int(text)


class Tool:
    """A program that reports about VMs: once, or at intervals as vmstat(8)."""
    name = ""
    version = ""
    description = ""
    # What the options do, but for those that all have.
    why = ""
    # Makes a Vm of its directory.
    vm = None
    header = ""

    def line(self, vm, before, seconds):
        """Of text: events a second since before, or so far if that is None."""
        raise NotImplementedError

    def explain(self, vms):
        """Print all in words."""
        raise NotImplementedError

    def as_json(self, vms):
        """The object, but for the time."""
        raise NotImplementedError

    def print_prometheus(self, vms):
        """Print all metrics."""
        raise NotImplementedError

    def arguments(self):
        """The command line."""
        parser = argparse.ArgumentParser(
            prog=self.name, allow_abbrev=False,
            description=f"{self.description}  See {self.name}(8).")
        parser.add_argument("-i", "--interval", metavar="SECONDS", type=seconds_of,
                            help="go on, and wait so long in between; then events are per "
                            "second, from the second report on")
        parser.add_argument("-n", "--count", metavar="COUNT", type=positive,
                            help="end after so many reports")
        form = parser.add_mutually_exclusive_group()
        form.add_argument("--json", action="store_true",
                          help="one object a report, in a line, with all that is known")
        form.add_argument("--prometheus", action="store_true",
                          help="text for Prometheus, with all counters")
        form.add_argument("--why", action="store_true", help=self.why)
        parser.add_argument("--version", action="version",
                            version=f"{self.name} {self.version}")
        parser.add_argument("pid", metavar="PID", type=positive, nargs="*",
                            help="processes whose VMs are told; default: all")
        return parser.parse_args()

    def vms_now(self, pids):
        """All VMs, or those of the processes, sorted."""
        try:
            paths = [p for p in DEBUGFS.iterdir() if re.fullmatch(r"\d+-\d+", p.name)]
        except PermissionError:
            raise Failure(f"{DEBUGFS}: not permitted, try as root") from None
        except OSError:
            raise Failure(f"{DEBUGFS}: not there; is KVM loaded, and debugfs "
                          "mounted?") from None
        vms = []
        for path in sorted(paths, key=lambda p: natural(p.name)):
            if pids and int(path.name.partition("-")[0]) not in pids:
                continue
            try:
                vms.append(self.vm(path))
            except OSError:
                # It ended meanwhile.
                continue
        return vms

    def report(self, args, vms, before, seconds, number):
        """Print one."""
        if args.json:
            print(json.dumps({"time": int(time.time()), **self.as_json(vms)}))
        elif args.prometheus:
            self.print_prometheus(vms)
        elif args.why:
            self.explain(vms)
            if not vms:
                print("no VM runs")
        else:
            if number % 20 == 0:
                print(self.header)
            for vm in vms:
                print(self.line(vm, before.get(vm.name), seconds))
        sys.stdout.flush()

    def loop(self):
        """Reports, until it is to end.  Raises Failure."""
        args = self.arguments()
        count = args.count or (0 if args.interval else 1)
        interval = args.interval or 1
        before, last, number = {}, 0, 0
        while True:
            vms = self.vms_now(set(args.pid))
            for pid in args.pid if not number else ():
                if pid not in {vm.pid for vm in vms}:
                    raise Failure(f"{pid}: the process has no VM")
            now = time.monotonic()
            self.report(args, vms, before, now - last, number)
            before, last = {vm.name: vm for vm in vms}, now
            number += 1
            if number == count:
                return
            time.sleep(interval)

    def main(self):
        """The program.  Returns its exit status."""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        try:
            self.loop()
        except KeyboardInterrupt:
            pass
        except (Failure, OSError) as e:
            print(f"{self.name}: {e}", file=sys.stderr)
            return 1
        return 0


def rate(vm, before, seconds, *names):
    """Events a second of some counters since before, or so far if that is None."""
    new = sum(vm.counters.get(n, 0) for n in names)
    if not before:
        return new
    # Counters of debugfs can be cleared by hand.
    old = sum(before.counters.get(n, 0) for n in names)
    return round(max(new - old, 0) / seconds)
