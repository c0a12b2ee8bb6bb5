# SPDX-License-Identifier: GPL-2.0-only
"""Guests short of memory, for the benchmarks swap-*.

A guest believes to have more memory than its VM really has: the cgroup
memory.max of QEMU is the latter plus QEMU_MIB, which QEMU itself needs here.
Image and swap are on disks of their own, which take DELAY_MS for each request and
up to DISK_DEPTH at a time.  The image is a file of an ext4 on the former.

These are null_blk's, in the memory of L1: a timer ends each request, and nothing else
does anything.  Not dm-delay's: with delays below 50 ms it has a thread that looks for
requests to end as long as there are any, and takes a CPU for that.

  stock    the host swaps, knowing nothing of the guest
  mapper   the Mapper of VSwapper alone
  vswap    VSwapper; vswap-low: with vm.swappiness=1
  balloon  the guest was told, and gave the memory up beforehand
  zram     as stock, but swap is compressed memory; not run by default
  ample    enough real memory; ample-vswap: with VSwapper; ample-small: without its
           huge pages (huge=never); ample-always: which tracks pages
           nevertheless (vswap_always=1)

NAME-noinit is NAME with guests that do not clear the memory that their kernel
allocates (init_on_alloc=0), as those of the paper.

DELAY_MS in the environment is the time of a request, and REQUEST_KIB how much one can
be; the results are named by them if they are not the defaults.  By default null_blk takes
255 sectors, a bit less than the 128 KiB that Linux reads ahead.

Before, the guest writes to the memory that it believes to have, as a guest that
has been up for a while did, and drops its caches.
"""

import math
import os

import rig
import vswap

QEMU_MIB = 48
# A guest that has given up more is left without the memory to run anything.
BALLOON_LEAST_MIB = 90
DEFAULT_DELAY_MS = 8
DISK_DEPTH = 32
NO_INIT = "-noinit"

# Name: modules, options of kvm, whether guests are in a mount of kvm_vswap.
CONFIGS = {
    "stock": ("distro", "", False),
    "mapper": ("vswap", "vswap=1 vswap_preventer=0", True),
    "vswap": ("vswap", "vswap=1", True),
    "vswap-low": ("vswap", "vswap=1", True),
    "balloon": ("distro", "", False),
    "zram": ("distro", "", False),
    "ample": ("distro", "", False),
    "ample-vswap": ("vswap", "vswap=1", True),
    "ample-small": ("vswap", "vswap=1", True),
    "ample-always": ("vswap", "vswap=1 vswap_always=1", True),
}

SETUP = """
set -e
modprobe null_blk nr_devices=0
mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
slow_disk()
{
	local attr dir=/sys/kernel/config/nullb/$1

	mkdir $dir
	for attr in size=$2 memory_backed=1 irqmode=2 hw_queue_depth=$depth \
			max_sectors=$((request_kib * 2)) \
			completion_nsec=$((delay * 1000000)) power=1; do
		echo ${attr#*=} >$dir/${attr%=*}
	done
	echo 1 >/sys/block/$1/queue/rotational
}
slow_disk image $image_mib
slow_disk swap $swap_mib
mkfs.ext4 -q -b 4096 /dev/image
mkdir -p /run/mnt /run/vswap
mount /dev/image /run/mnt
for ((g = 0; g < guests; g++)); do
	cp --sparse=always "$RIG_SHARE/image" /run/mnt/g$g.raw
done
rm "$RIG_SHARE/image"
sync
echo 3 >/proc/sys/vm/drop_caches
if [[ $config == zram ]]; then
	modprobe zram
	echo $((swap_mib << 20)) >/sys/block/zram0/disksize
	mkswap -q /dev/zram0
	swapon /dev/zram0
else
	mkswap -q /dev/swap
	swapon /dev/swap
fi
[[ $config != *-low ]] || echo 1 >/proc/sys/vm/swappiness
echo +memory >/sys/fs/cgroup/cgroup.subtree_control
load_kvm $options
huge=advise
[[ $config != *-small ]] || huge=never
[[ $vswap == 0 ]] ||
	mount -t kvm_vswap -o lower=/run/mnt,huge=$huge none /run/vswap
set +e
"""

# Memory is charged to the cgroup that a process is in when it touches it.  Guests have
# no HPET, as those of libvirt by default: while it ticks QEMU's main loop needs a tenth
# of the host's instructions.
START = """
set -e
vm=/sys/fs/cgroup/g$g
mkdir -p $vm
echo $BASHPID >$vm/cgroup.procs
dir=/run/mnt
memory=() machine=(-M hpet=off)
if [[ $vswap == 1 ]]; then
	dir=/run/vswap
	memory=(-object "memory-backend-file,id=m,size=${guest_mib}M,mem-path=/run/vswap/ram$g,share=on,align=2M")
	machine=(-M hpet=off,memory-backend=m)
fi
l2_start g$g -m $guest_mib -c $cpus -a "$append" "${machine[@]}" -- "${memory[@]}" \
	-drive if=none,id=d,file=$dir/g$g.raw,format=raw,cache=none,aio=threads \
	-device virtio-blk-pci,drive=d -device virtio-balloon-pci
echo $BASHPID >/sys/fs/cgroup/cgroup.procs
l2_wait g$g 400
l2_run g$g 'mkdir -p /mnt && mount -t ext4 -o noatime /dev/vda /mnt &&
	  /mnt/memhog touch '$((guest_mib - 150))' && echo 3 >/proc/sys/vm/drop_caches'
"""

# What is above the limit goes to swap first: lowering memory.max at once kills
# when a slow disk cannot take it as fast.  Half of what is left goes, too: what the
# guest wrote before, and nobody needs, is in swap already in a VM that has been short
# of memory for a while.
LIMIT = """
cd /sys/fs/cgroup/g$g
limit=$((limit_mib << 20))
for i in {1..900}; do
	(( $(<memory.current) > limit / 2 )) || break
	echo 4M >memory.reclaim 2>/dev/null
done
echo $limit >memory.max
echo "memory $(<memory.current) swapped $(<memory.swap.current)"
"""


def build_image(out, file_mib, extra_mib=64, fill=None):
    """A guest's disk: random data, memhog, and what fill(root) adds."""
    root = rig.BUILD / "rig" / ("swap-image" if not fill else
                                f"swap-image-{fill.__module__}")
    root.mkdir(parents=True, exist_ok=True)
    if fill:
        fill(root)
    rig.sh("gcc", "-O2", "-static", "-o", str(root / "memhog"),
           str(rig.TOP / "bench/memhog.c"))
    data = root / "data"
    if not data.exists() or data.stat().st_size != file_mib << 20:
        with open(data, "wb") as f:
            for _ in range(file_mib):
                f.write(os.urandom(1 << 20))
    rig.sh("truncate", "-s", f"{file_mib + extra_mib}M", str(out))
    rig.sh("mkfs.ext4", "-q", "-F", "-b", "4096", "-O", "^has_journal",
           "-d", str(root), str(out))


def number(name, default, most):
    """A number from the environment, from 0 on."""
    value = os.environ.get(name, f"{default}")
    if not value.isdecimal() or int(value) > most:
        raise rig.RigError(f"{name}={value}: not a number from 0 to {most}")
    return int(value)


def delay_ms():
    """Delay of the disks; more than the most, and guests do not boot."""
    return number("DELAY_MS", DEFAULT_DELAY_MS, 1000)


def request_kib():
    """How much a disk is asked for at once; 0 is what null_blk has by default."""
    return number("REQUEST_KIB", 0, 4096)


def pick(default):
    """The configurations to run: C in the environment, or the default."""
    names = os.environ.get("C", "").split() or list(default)
    unknown = [n for n in names if n.removesuffix(NO_INIT) not in CONFIGS]
    if unknown:
        raise rig.RigError(f"no configuration {' '.join(unknown)}; there are: "
                           f"{' '.join(CONFIGS)}, and each with {NO_INIT}")
    return names


class Host:
    """An L1 in one configuration, and its guests; a context manager."""

    def __init__(self, bench, config, *, guest_mib, real_mib, file_mib,
                 extra_mib=64, fill=None, guests=1, cpus=1, swap_mib=1024,
                 memory=4096):
        base = config.removesuffix(NO_INIT)
        modules, options, mounted = CONFIGS[base]
        self.config = config
        self.balloon = base == "balloon"
        self.guests = guests
        self.real_mib = real_mib
        self.guest_mib = guest_mib
        self.file_mib = file_mib
        self.extra_mib = extra_mib
        self.fill = fill
        self.variables = {
            "config": base, "options": f"'{options}'",
            "append": "" if base == config else "init_on_alloc=0",
            "vswap": int(mounted), "guests": guests, "cpus": cpus,
            "guest_mib": guest_mib, "swap_mib": swap_mib, "delay": delay_ms(),
            "request_kib": request_kib(),
            "image_mib": guests * (file_mib + extra_mib) + 128,
            "depth": DISK_DEPTH,
        }
        self.l1 = rig.L1(f"bench.{bench}.{config}", modules=modules,
                         memory=memory, spare=True)

    def script(self, text, timeout=400, **more):
        values = {**self.variables, **more}
        head = "".join(f"{k}={v}\n" for k, v in values.items())
        return self.l1.script(head + text, timeout=timeout)

    def __enter__(self):
        self.l1.__enter__()
        try:
            self._set_up()
        except BaseException as e:
            self.l1.__exit__(type(e), e, None)
            raise
        return self

    def __exit__(self, *args):
        return self.l1.__exit__(*args)

    def _set_up(self):
        rig.note(self.config, "starting")
        build_image(self.l1.share / "image", self.file_mib, self.extra_mib,
                    self.fill)
        self.script(SETUP)
        for g in range(self.guests):
            self.script(START, timeout=600, g=g)
        self.limit(self.real_mib)

    def limit(self, real_mib):
        """Leave each VM that much memory, which is not more than it has."""
        if self.balloon:
            # What a guest is left with is what the others' VMs really have.
            for g in range(self.guests):
                self.script(f"""qmp g{g} '{{"execute": "balloon", "arguments":
                    {{"value": {real_mib << 20}}}}}'""")
            self.l1.run("sleep 15")
        if not self.config.startswith("ample"):
            for g in range(self.guests):
                out = self.script(LIMIT, timeout=600, g=g,
                                  limit_mib=real_mib + QEMU_MIB).out
                rig.note(self.config, f"g{g} {out.strip()}")

    def guest(self, command, g=0, timeout=1800):
        """Run a command in a guest; its output."""
        return self.script(f"L2_TIMEOUT={timeout} l2_run g{g} "
                           f"{rig.shlex.quote(command)}",
                           timeout=timeout + 30).out

    def counted(self, function):
        """What function returns, and counters of the time that it took."""
        scanned = """awk '$1 == "pgscan" { n += $2 } END { print n }' \
/sys/fs/cgroup/g*/memory.stat"""
        before = int(self.l1.run(scanned).out)
        self.l1.script("count_start region")
        result = function()
        self.l1.script("count_stop region")
        counts = {}
        for line in (self.l1.share / "region.counts").read_text().splitlines():
            k, _, v = line.rpartition(" ")
            counts[k] = float(v)

        def disk(dev, what):
            return int(counts.get(f"disk.{dev}.{what}", 0))
        return result, {
            "swap_sectors_written": disk("swap", "write_sectors"),
            "swap_sectors_read": disk("swap", "read_sectors"),
            "image_sectors_read": disk("image", "read_sectors"),
            "image_sectors_written": disk("image", "write_sectors"),
            "disk_ops": sum(disk(d, w) for d in ("image", "swap")
                            for w in ("reads", "writes")),
            "host_faults": int(counts.get("vmstat.pgmajfault", 0)),
            "exits": int(counts.get("kvm.exits", 0)),
            "pages_scanned": int(self.l1.run(scanned).out) - before,
        }

    def stats(self, g=0):
        """Counters of the RAM file of a guest; nothing without VSwapper."""
        if not self.variables["vswap"]:
            return {}
        return vswap.ram_stats(self.l1, f"/run/vswap/ram{g}")

    def stop(self):
        """All can be given back; a limit may keep QEMU from ending soon."""
        self.script("""
for ((g = 0; g < guests; g++)); do
	echo max >/sys/fs/cgroup/g$g/memory.max
	l2_stop g$g
done
mountpoint -q /run/vswap && { umount /run/vswap || fail "umount"; }
umount /run/mnt || fail "umount of the lower file system"
swapoff -a
rmdir /sys/kernel/config/nullb/image /sys/kernel/config/nullb/swap
modprobe -r null_blk
""")


def run_by_percent(host, command, percents, repeats):
    """Rows of a command in a VM that has less and less memory, in percent.

    It says when it started and when it ended last, and before that what it made,
    which has to be the same each time, or that it failed, which only a guest may
    that was told how little it has.  Of several repeats the one is reported that
    took the median time.  Returns what it made as well.
    """
    rows, made = [], set()
    for percent in percents:
        real_mib = host.guest_mib * percent // 100
        if host.balloon and real_mib < BALLOON_LEAST_MIB:
            break
        runs = []
        for _ in range(repeats):
            host.limit(real_mib)
            (*what, start, end), counts = host.counted(
                lambda: host.guest(command).split())
            failed = what == ["failed"]
            if failed and not host.balloon:
                raise rig.RigError(f"{host.config} fails with {percent} %")
            if not failed:
                made.add(" ".join(what))
            time = math.nan if failed else float(end) - float(start)
            runs.append((time, counts))
            rig.note(host.config, f"{percent} %: {time:.4g} s  " + "  ".join(
                f"{m}={v:.6g}" for m, v in counts.items()))
        # Those that failed took longest.
        runs.sort(key=lambda run: (math.isnan(run[0]), run[0]))
        time, counts = runs[len(runs) // 2]
        rows += [(host.config, f"time_{percent}", time, "s"),
                 (host.config, f"time_least_{percent}", runs[0][0], "s"),
                 (host.config, f"time_most_{percent}", runs[-1][0], "s")]
        rows += [(host.config, f"{m}_{percent}", counts[m], "") for m in
                 ("swap_sectors_written", "swap_sectors_read",
                  "image_sectors_read", "disk_ops", "exits")]
    return rows, made


def compare(bench, runs):
    """Write the results of run_by_percent() in several configurations."""
    rows, made = [], set()
    for more, what in runs:
        rows += more
        made |= what
    if len(made) != 1:
        raise rig.RigError(f"guests made different things: {made}")
    return results(bench, rows)


def results(bench, rows):
    """Write the results of several configurations, a metric after the other."""
    order = {}
    for row in rows:
        order.setdefault(row[1], []).append(row)
    if delay_ms() != DEFAULT_DELAY_MS:
        bench += f"-{delay_ms()}ms"
    if request_kib():
        bench += f"-{request_kib()}k"
    return rig.write_results(bench, [r for metric in order
                                     for r in order[metric]])
