#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the QEMU of this distribution with the patches of patches/qemu/:
#
#	build-qemu.sh		prints the path of the program
#
# The source is that of the installed QEMU, from the mirror that apt already uses.
# Only what tests/viommu/guest.py needs is built: an x86 machine with KVM and VFIO.
# Nothing is installed but packages to build with (make distclean-system).

. "$(dirname "$0")/common.sh"

"$TOP/scripts/setup.sh" install qemu >&2

package=$(dpkg-query -W -f '${source:Package}' qemu-system-x86)
version=$(dpkg-query -W -f '${source:Version}' qemu-system-x86)
upstream=${version#*:}
upstream=${upstream%%[-+]*}
series=${upstream%.*}
patches=$TOP/patches/qemu/$series
[[ -d $patches ]] ||
	die "the installed QEMU is $upstream, and patches/qemu/ has none for $series (only: $(ls "$TOP/patches/qemu"))"

out=$BUILD/qemu
log=$BUILD/logs/qemu.log
mkdir -p "$out" "$BUILD/logs"
exec 9>"$out/.lock"
flock 9

source=$("$TOP/scripts/fetch-kernel.sh" >/dev/null && realpath "$BUILD/kernel/current/source")
"$TOP/scripts/stage-tree.sh" "$source" "$out/tree" viommu >/dev/null
uapi=$out/tree/include/uapi/linux
stamp=$(cat "$patches"/*.patch "$uapi"/kvm{,_viommu}.h \
	"${BASH_SOURCE[0]}" | sha256sum | cut -c1-16)-$upstream
program=$out/bin/qemu-system-x86_64
if [[ -x $program && $(cat "$out/stamp" 2>/dev/null) == "$stamp" ]]; then
	printf '%s\n' "$program"
	exit 0
fi

# run WHAT COMMAND...: with its output in the log
run()
{
	"${@:2}" >>"$log" 2>&1 </dev/null ||
		die "$1 failed (log: $log): $(tail -n 1 "$log")"
}

# apt with the sources of this machine's suites instead of its packages
apt_source()
{
	apt-get -q -o Dir::Etc::sourcelist="$out/apt/sources.list" \
		-o Dir::Etc::sourceparts="$out/apt/parts" \
		-o Dir::State::lists="$out/apt/lists" \
		-o APT::Sandbox::User=root "$@"
}

note FETCH "the source of QEMU $upstream" >&2
rm -rf "$out"/{apt,src,build,python,stamp}
mkdir -p "$out"/{apt/parts,apt/lists/partial,src}
: >"$log"
for f in /etc/apt/sources.list /etc/apt/sources.list.d/*.{list,sources}; do
	[[ -f $f ]] || continue
	to=$out/apt/parts/${f##*/}
	case $f in
	*.sources) sed 's/^Types:.*/Types: deb-src/' "$f" >"$to" ;;
	*) sed -n 's/^deb /deb-src /p' "$f" >"$to" ;;
	esac
done
: >"$out/apt/sources.list"
# Another vendor's suite may have no source; what matters is whether QEMU's is there.
apt_source update >>"$log" 2>&1 || true
(cd "$out" && run "the download of QEMU's source" \
	apt_source source --tar-only "$package=$version")
run "the unpacking of QEMU's source" tar -C "$out/src" --strip-components=1 -xf \
	"$(ls "$out"/"${package}_$upstream"*.orig.tar.*)"
rm -f "$out"/"${package}_$upstream"*.orig.tar.*

for f in "$patches"/*.patch; do
	run "${f##*/}" patch -d "$out/src" -p1 --fuzz=0 -i "$f"
done
# The number of the device type is the kernel's, as it is not upstream.
printf '#include <stdio.h>\n#include "%s"\nint main(void) { printf("%%d\\n", KVM_DEV_TYPE_VIOMMU); }\n' \
	"$uapi/kvm.h" >"$out/type.c"
mkdir -p "$out/include/linux"
: >"$out/include/linux/compiler.h"
run "the number of KVM_DEV_TYPE_VIOMMU" \
	gcc -D__user= -I"$out/include" -o "$out/type" "$out/type.c"
cp "$uapi/kvm_viommu.h" "$out/src/linux-headers/linux/"
sed -i "\$i #define KVM_DEV_TYPE_VIOMMU $("$out/type")" "$out/src/linux-headers/linux/kvm.h"

# Python packages that the source brings along elsewhere, but not Debian's; the
# releases that QEMU wants may be in backports only.
for want in meson=1.5 python3-pycotap=1.1; do
	p=${want%=*}
	candidate=$(apt-cache madison "$p" | while read -r _ _ v _; do
		! dpkg --compare-versions "$v" ge "${want#*=}" || echo "$v"
	done)
	[[ $candidate ]] ||
		die "QEMU needs $p ${want#*=} or newer, and apt has none"
	(cd "$out" && run "the download of $p" apt-get -q \
		-o APT::Sandbox::User=root download "$p=${candidate%%$'\n'*}")
	run "the unpacking of $p" dpkg -x "$out/$p"_*.deb "$out/python"
	rm -f "$out/$p"_*.deb
done

# Debian's source is without the firmware that it packages elsewhere.
sed -i 's/^\( *unpack_edk2_blobs = \)bzip2.found()/\1false/' "$out/src/meson.build"

note BUILD "QEMU $upstream with patches/qemu/$series (12 minutes, log: $log)" >&2
mkdir -p "$out/build"
(
	cd "$out/build"
	export PYTHONPATH=$out/python/usr/lib/python3/dist-packages
	run "QEMU's configure" ../src/configure --python=/usr/bin/python3 \
		--target-list=x86_64-softmmu --without-default-features \
		--enable-kvm --enable-tcg --disable-docs --disable-werror --disable-fdt \
		--disable-install-blobs \
		--firmwarepath=/usr/share/qemu:/usr/share/seabios:/usr/lib/ipxe/qemu
	run "the build of QEMU" ninja -j "$(nproc)" qemu-system-x86_64
)
# From the directory that it is built in, it would look for its firmware there.
mkdir -p "$out/bin"
strip -o "$program" "$out/build/qemu-system-x86_64"
rm -rf "$out"/{apt,src,build,python,tree}
printf '%s\n' "$stamp" >"$out/stamp"
printf '%s\n' "$program"
