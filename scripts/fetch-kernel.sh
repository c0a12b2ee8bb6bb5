#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Download the distribution's kernel source, headers and image and unpack them
# under build/kernel/ABI/{source,headers,image}.  Nothing is installed: no boot
# entry, no initramfs and no module directory of this machine is touched.
#
#	fetch-kernel.sh [VERSION]	VERSION: Debian version of linux-source-SERIES
#					(default: apt's candidate)
#
# The last line printed is the ABI name, e.g. 6.12.117+deb12.

. "$(dirname "$0")/common.sh"

source_pkg=linux-source-$KERNEL_SERIES

# apt knows several point releases of a series at a time; source, headers and
# image must come from one and the same.
resolve()
{
	local re="^linux-headers-${KERNEL_SERIES//./\\.}\\.[0-9]+\\+deb[0-9]+-amd64\$"

	version=${1:-$(apt-cache policy "$source_pkg" |
		       sed -n 's/^ *Candidate: *//p')}
	[[ $version && $version != "(none)" ]] ||
		die "no package $source_pkg is known to apt; add the distribution's security suite to its sources and run 'apt-get update'"
	abi=$(apt-cache search --names-only "$re" | cut -d' ' -f1 | sort -V |
	while read -r pkg; do
		apt-cache madison "$pkg" | awk '{ print $3 }' |
			grep -qxF "$version" && echo "$pkg"
	done | tail -n 1)
	[[ $abi ]] ||
		die "no linux-headers package of version $version is known to apt, which offers $source_pkg of that version; run 'apt-get update'"
	abi=${abi#linux-headers-}
	abi=${abi%-amd64}
}

# fetch PACKAGE: download into build/deb and unpack into $tmp
fetch()
{
	local deb

	note FETCH "$1 $version"
	(cd "$BUILD/deb" && rm -f "$1"_*.deb &&
	 apt-get -qq -o APT::Sandbox::User=root download "$1=$version") ||
		die "downloading $1 $version failed; check the network and run 'apt-get update'"
	deb=$(echo "$BUILD/deb/$1"_*.deb)
	dpkg-deb -x "$deb" "$tmp"
	rm -f "$deb"
}

resolve "${1:-}"
dir=$BUILD/kernel/$abi
if [[ ! -f $dir/version || $(<"$dir/version") != "$version" ]]; then
	tmp=$BUILD/kernel/tmp.$$
	trap 'rm -rf "$tmp"' EXIT
	mkdir -p "$BUILD/deb" "$tmp"

	fetch "linux-headers-$abi-amd64"
	fetch "linux-headers-$abi-common"
	fetch "linux-kbuild-$abi"
	fetch "linux-image-$abi-amd64"
	fetch "$source_pkg"

	rm -rf "$dir"
	mkdir -p "$dir/headers" "$dir/image"
	mv "$tmp/boot/vmlinuz-$abi-amd64" "$dir/image/vmlinuz"
	mv "$tmp/boot/config-$abi-amd64" "$dir/image/config"
	if [[ -d $tmp/usr/lib/modules/$abi-amd64/kernel ]]; then
		mv "$tmp/usr/lib/modules/$abi-amd64" "$dir/image/modules"
	else
		mv "$tmp/lib/modules/$abi-amd64" "$dir/image/modules"
	fi
	rm -f "$dir/image/modules/"{build,source}
	mv "$tmp/usr/src" "$tmp/usr/lib" "$dir/headers/"
	# The one absolute path in the headers packages.
	sed -i "s,/usr/src/,$dir/headers/src/," \
		"$dir/headers/src/linux-headers-$abi-amd64/Makefile"
	note UNPACK "$source_pkg.tar.xz"
	tar -xJf "$dir/headers/src/$source_pkg.tar.xz" -C "$dir"
	mv "$dir/$source_pkg" "$dir/source"
	rm -f "$dir/headers/src/$source_pkg"*
	ln -s "headers/src/linux-headers-$abi-amd64" "$dir/kdir"
	printf '%s\n' "$version" >"$dir/source/.debian-version"
	printf '%s\n' "$version" >"$dir/version"
fi
[[ ${1:-} ]] || ln -sfn "$abi" "$BUILD/kernel/current"
printf '%s\n' "$abi"
