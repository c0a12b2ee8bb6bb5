# SPDX-License-Identifier: GPL-2.0-only
"""Swapping: a compile job in a guest that has less memory than it believes.

After the Kernbench experiment of the VSwapper paper: the guest, which believes in
GUEST_MIB, compiles FILES files, one after the other, with a compiler that is on its
disk.  Programs and sources are read from there, again if there is no memory to keep
them; the compiler needs memory of its own; and what it makes is written.  The VM has
less and less of the memory, named in percent by the metrics, and does it REPEATS times.
"""

import pathlib
import re
import shutil

import rig
import swapping

GUEST_MIB = 256
FILES = 5
FUNCTIONS = 60
PERCENT = (100, 50, 25)
REPEATS = 3
CONFIGS = ("stock", "mapper", "vswap", "balloon", "ample", "ample-vswap")

COMPILE = """echo 3 >/proc/sys/vm/drop_caches
start=$(cut -d' ' -f1 /proc/uptime)
failed=
for f in /mnt/src/*.c; do
	f=${f##*/}
	chroot /mnt /cc1 -quiet -ffreestanding -O2 /src/$f -o /out/$f.s &&
		chroot /mnt /as -o /out/$f.o /out/$f.s || failed=failed
done
sync
end=$(cut -d' ' -f1 /proc/uptime)
echo ${failed:-$(cat /mnt/out/*.o | md5sum | cut -d' ' -f1)} $start $end
rm /mnt/out/*
"""

FUNCTION = """
static unsigned f{n}(unsigned x, const unsigned *p, unsigned n)
{{
	unsigned i, s = x * {n}u;

	for (i = 0; i < n; i++) {{
		switch ((p[i] ^ s) % 5) {{
		case 0:
			s += p[i] * {n}u;
			break;
		case 1:
			s ^= s << {shift};
			break;
		case 2:
			s = s > p[i] ? s - p[i] : p[i] - s;
			break;
		case 3:
			s += {callee};
			break;
		default:
			s = (s >> {shift}) | (s << (32 - {shift}));
		}}
	}}
	return s;
}}
"""


def source(number):
    """A file of the compile job."""
    text = ""
    for n in range(1, FUNCTIONS + 1):
        callee = f"f{n - 1}(s, p, i)" if n > 1 else "x"
        text += FUNCTION.format(n=n, shift=1 + (n + number) % 31,
                                callee=callee)
    return text + (f"\nunsigned file{number}(unsigned x, const unsigned *p, "
                   f"unsigned n)\n{{\n\treturn f{FUNCTIONS}(x, p, n);\n}}\n")


def fill(root):
    """The compiler, the assembler, what they are linked with, the sources."""
    cc1 = rig.sh("gcc", "-print-prog-name=cc1").strip()
    for tool in (cc1, shutil.which("as")):
        shutil.copy(tool, root / pathlib.Path(tool).name)
        for library in re.findall(r"/\S+", rig.sh("ldd", tool)):
            copy = root / library.lstrip("/")
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(library, copy)
    # Of another number of files, before.
    shutil.rmtree(root / "src", ignore_errors=True)
    (root / "src").mkdir()
    (root / "out").mkdir(exist_ok=True)
    for n in range(FILES):
        (root / f"src/{n}.c").write_text(source(n), encoding="utf-8")


def configuration(name, percents=PERCENT):
    with swapping.Host("swap-compile", name, guest_mib=GUEST_MIB,
                       real_mib=GUEST_MIB, file_mib=1, extra_mib=128,
                       fill=fill) as host:
        result = swapping.run_by_percent(host, COMPILE, percents, REPEATS)
        host.stop()
    return result


def main():
    return swapping.compare("swap-compile", map(configuration,
                                              swapping.pick(CONFIGS)))
