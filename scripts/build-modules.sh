#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the drop-in modules:
#
#	build-modules.sh "FEATURES" [OUT]
#
# OUT (default build/modules/FEATURES) receives a link to each *.ko.  The kernel is
# the one in build/kernel/current unless KDIR (a kernel build directory) is
# set; KSRC then names its source, by default the linux-source package's.
# A source that is not of the very version of KDIR is refused.

. "$(dirname "$0")/common.sh"

features=$(canonical_features "${1-eli viommu vswap}")
name=${features:-none}
name=${name// /+}

# "6.12.117" of a source tree or a build directory.
source_version()
{
	awk '/^(VERSION|PATCHLEVEL|SUBLEVEL) = / { v = v (v ? "." : "") $3 }
	     END { print v }' "$1/Makefile"
}

# Find the source of the kernel that $KDIR belongs to.
find_source()
{
	local tar=/usr/src/linux-source-$KERNEL_SERIES.tar.xz want have

	[[ -f $KDIR/Module.symvers && -f $KDIR/.config ]] ||
		die "$KDIR is not a kernel build directory; install the linux-headers package of that kernel or correct KDIR="
	want=$(make -s -C "$KDIR" kernelversion)
	[[ $want == "$KERNEL_SERIES".* ]] ||
		die "$KDIR is Linux $want; the drop-in modules exist for Linux $KERNEL_SERIES"
	if [[ -z ${KSRC:-} ]]; then
		KSRC=$BUILD/source-$want
		if [[ ! -f $KSRC/Makefile ]]; then
			[[ -f $tar ]] ||
				die "the source of Linux $want is needed: install the package linux-source-$KERNEL_SERIES or set KSRC="
			note UNPACK "$tar"
			rm -rf "$KSRC.tmp"
			mkdir -p "$KSRC.tmp"
			tar -xJf "$tar" -C "$KSRC.tmp" --strip-components=1
			have=$(source_version "$KSRC.tmp")
			[[ $have == "$want" ]] || {
				rm -rf "$KSRC.tmp"
				die "$tar is Linux $have but the kernel to build for is $want; install the linux-source and linux-headers packages of one version"
			}
			mv "$KSRC.tmp" "$KSRC"
		fi
	fi
	[[ -d $KSRC/arch/x86/kvm ]] ||
		die "$KSRC has no arch/x86/kvm; set KSRC= to the source of Linux $want"
	have=$(source_version "$KSRC")
	[[ $have == "$want" ]] ||
		die "$KSRC is Linux $have but the kernel to build for is $want; source and headers must be of one version"
}

if [[ -n ${KDIR:-} ]]; then
	find_source
	tree=$BUILD/tree/$(make -s -C "$KDIR" kernelrelease)/$name
else
	[[ -L $BUILD/kernel/current ]] || "$TOP/scripts/fetch-kernel.sh" >/dev/null
	abi=$(readlink "$BUILD/kernel/current")
	KDIR=$BUILD/kernel/$abi/kdir
	KSRC=$BUILD/kernel/$abi/source
	tree=$BUILD/tree/$abi-amd64/$name
fi
out=${2:-$BUILD/modules/$name}

# Two makes of one tree at a time would break it.
mkdir -p "$tree" "$out"
exec 9>"$tree/.lock"
flock 9

"$TOP/scripts/stage-tree.sh" "$KSRC" "$tree" "$features"

log=$tree/.build.log
args=(-C "$(realpath "$KDIR")" "M=$tree" "-j${JOBS:-$(nproc)}")
if [[ ${V:-0} == 1 ]]; then
	make "${args[@]}" V=1 modules 2>&1 | tee "$log"
else
	make "${args[@]}" modules >"$log" 2>&1 || {
		grep -E 'error:|Error|ERROR|undefined' "$log" >&2 || tail -n 30 "$log" >&2
		die "the modules ($name) do not build; the whole log is $log"
	}
fi
# The kernel's own code is warning-free here; so is ours.
if grep -E 'warning:|WARNING: modpost' "$log" >&2; then
	die "the modules ($name) build with warnings; the whole log is $log"
fi

rm -f "$out"/*.ko
find "$tree" -name '*.ko' -exec ln -s -t "$out" {} +
note MODULES "$name: $(cd "$out" && echo *.ko) -> ${out#"$TOP"/}"
