#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the package of the features' tools, build/alleviate-tools_VERSION_ARCH.deb:
#
#	make-tools-deb.sh "FEATURES"
#
# It has what "make install" in tools/kvm/<feature> installs, and the features'
# documents.  Needs asciidoctor, which "make setup" installs, and no root.

. "$(dirname "$0")/common.sh"

features=$(canonical_features "${1-eli viommu vswap}")
version=$(<"$TOP/VERSION")
: "${SOURCE_DATE_EPOCH:=$(git -C "$TOP" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH
arch=$(dpkg --print-architecture)
deb=$BUILD/alleviate-tools_${version}_$arch.deb
if [[ ! $features ]]; then
	note DEB "no features, no tools"
	exit 0
fi

type -P asciidoctor >/dev/null ||
	die "asciidoctor is needed for manual pages; install it (\"make setup\" does)"
mkdir -p "$BUILD"
work=$(mktemp -d "$BUILD/deb-tools.XXXXXX")
trap 'rm -rf "$work"' EXIT
root=$work/root
doc=$root/usr/share/doc/alleviate-tools
install -d -m 755 "$root" "$doc"

for f in $features; do
	make -s -C "$TOP/tools/kvm/$f" O="$work/$f" DESTDIR="$root" PREFIX=/usr \
		CFLAGS="-O2 -g -ffile-prefix-map=$TOP=." install-tools install-man
	for file in "$TOP/Documentation/virt/kvm/$f.rst" \
		    "$TOP/Documentation/virt/kvm/x86/$f.rst"; do
		if [[ -f $file ]]; then
			install -m 644 "$file" "$doc/"
		fi
	done
done
# Its comment is on the patches of the other package.
sed '/^Comment:/,$d' "$TOP/packaging/debian/copyright" >"$doc/copyright"
chmod 644 "$doc/copyright"

# Which libraries, in which versions, those that are linked need.
mapfile -t linked < <(find "$root" -type f -print0 | sort -z |
	xargs -0 grep -laP '\A\x7fELF')
depends=python3
if [[ ${#linked[@]} -gt 0 ]]; then
	strip --strip-unneeded "${linked[@]}"
	mkdir "$work/debian"
	printf 'Source: alleviate\n\nPackage: alleviate-tools\nArchitecture: any\n' \
		>"$work/debian/control"
	libraries=$(cd "$work" && dpkg-shlibdeps -O "${linked[@]}" 2>"$work/log") ||
		die "dpkg-shlibdeps: $(tail -n 1 "$work/log")"
	depends+=", ${libraries#shlibs:Depends=}"
fi

find "$root/usr/share/man" -type f -exec gzip -9n {} +
size=$(du -sk "$root" | cut -f1)
mkdir "$root/DEBIAN"
cat >"$root/DEBIAN/control" <<EOF
Package: alleviate-tools
Version: $version
Architecture: $arch
Maintainer: The alleviate developers <alleviate@localhost>
Section: admin
Priority: optional
Depends: $depends
Suggests: alleviate-dkms, qemu-system-x86
Installed-Size: $size
Description: tools for the KVM modules of alleviate-dkms
 What the features of alleviate-dkms bring for user space: eli-stat(8) tells
 which VMs take interrupts of assigned devices without exits, and why others do
 not; viommu-run(1) runs an unmodified QEMU with its devices behind the IOMMU
 that KVM emulates, and viommu-stat(8) tells what they reach; vswap(8) tells what of a VM's memory is in swap or dropped.
 This package has those of: $features.
EOF
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) \
	>"$root/DEBIAN/md5sums"
find "$root" -exec touch -h -d "@$SOURCE_DATE_EPOCH" {} +
dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
note DEB "tools of $features -> ${deb#"$TOP"/}"
