#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the DKMS package build/alleviate-dkms_VERSION_all.deb:
#
#	make-deb.sh "FEATURES"
#
# It carries patches and overlay files, and no kernel source.  Needs no root;
# the result depends on the files' contents and SOURCE_DATE_EPOCH only.

. "$(dirname "$0")/common.sh"

features=$(canonical_features "${1-eli viommu vswap}")
read -ra feature_list <<<"$features"
version=$(<"$TOP/VERSION")
[[ $version =~ ^[0-9][0-9a-z.+~]*$ ]] ||
	die "VERSION has '$version', which is not a version number"
: "${SOURCE_DATE_EPOCH:=$(git -C "$TOP" log -1 --format=%ct 2>/dev/null || date +%s)}"
export SOURCE_DATE_EPOCH

deb=$BUILD/alleviate-dkms_${version}_all.deb
mkdir -p "$BUILD"
root=$(mktemp -d "$BUILD/deb-root.XXXXXX")
trap 'rm -rf "$root"' EXIT
chmod 755 "$root"
src=usr/src/alleviate-$version
doc=usr/share/doc/alleviate-dkms

# Relative to the top; feature_patches prints physical paths.
mapfile -t patches < <(feature_patches "${feature_list[@]}" |
	sed "s,^$(realpath "$TOP")/,,")
cd "$TOP"

# BUILT_MODULE_NAME etc. of every module, and their names.
names=()
module_lines()
{
	local n=0 m location

	for m in "${modules[@]}"; do
		location=tree/${m%/*}
		printf 'BUILT_MODULE_NAME[%d]="%s"\n' "$n" "${m##*/}"
		printf 'BUILT_MODULE_LOCATION[%d]="%s"\n' "$n" "$location"
		printf 'DEST_MODULE_LOCATION[%d]="/updates/dkms"\n' "$n"
		n=$((n + 1))
	done
}

# fill IN OUT [MODE]: IN with its @NAMES@ replaced, as OUT in the package
fill()
{
	local text

	text=$(<"$TOP/packaging/$1")
	text=${text//@VERSION@/$version}
	text=${text//@SERIES@/$KERNEL_SERIES}
	text=${text//@SERIES_RE@/${KERNEL_SERIES//./\\.}}
	text=${text//@FEATURES@/\"${features:-none}\"}
	text=${text//@MODULES@/$(module_lines)}
	text=${text//@MODULE_NAMES@/${names[*]}}
	text=${text//@SIZE@/$(du -sk "$root/usr" 2>/dev/null | cut -f1)}
	mkdir -p "$root/${2%/*}"
	printf '%s\n' "$text" >"$root/$2"
	chmod "${3:-644}" "$root/$2"
}

# copy FILE...: files of this repository to the same path below $src
copy()
{
	local f

	for f in "$@"; do
		mkdir -p "$root/$src/${f%/*}"
		cp "$TOP/$f" "$root/$src/$f"
		chmod "$(if [[ -x $TOP/$f ]]; then echo 755; else echo 644; fi)" \
			"$root/$src/$f"
	done
}

# What of the overlay is compiled.
overlay=()
for p in "${patches[@]}"; do
	patch_overlay "$p" >/dev/null
	mapfile -t -O "${#overlay[@]}" overlay < <(patch_overlay "$p" |
		grep -Ev '^(Documentation|tools)/')
done

modules=(arch/x86/kvm/kvm arch/x86/kvm/kvm-amd arch/x86/kvm/kvm-intel)
for f in "${overlay[@]}"; do
	if [[ $f == drivers/*.c ]]; then
		modules+=("${f%.c}")
	fi
done
names=("${modules[@]##*/}")

copy scripts/common.sh scripts/stage-tree.sh "${patches[@]}" "${overlay[@]}"
for p in "${patches[@]}"; do
	# The overlay files of tests and documentation stay here.
	sed -i -E '/^diff --git/q; /^Overlay:[[:space:]]*(Documentation|tools)\//d' \
		"$root/$src/$p"
	sed -n '/^diff --git/,$p' "$p" | tail -n +2 \
		>>"$root/$src/$p"
done
for f in "${feature_list[@]}"; do
	if [[ -f $TOP/patches/$f/series ]]; then
		copy "patches/$f/series"
	fi
done
fill dkms/dkms.conf.in "$src/dkms.conf"
fill dkms/supported.sh "$src/packaging/dkms/supported.sh"
fill dkms/stage "$src/packaging/dkms/stage" 755

fill debian/autoinstall.in usr/lib/alleviate-dkms/autoinstall 755
fill debian/kernel-hook etc/kernel/postinst.d/alleviate-dkms 755
fill debian/kernel-hook etc/kernel/header_postinst.d/alleviate-dkms 755

fill debian/copyright "$doc/copyright"
fill debian/README.Debian "$doc/README.Debian"
install -m 644 "$TOP/Documentation/admin-guide/install.rst" "$root/$doc/"
mkdir -p "$root/$doc/examples"
parameters=()
for f in "${feature_list[@]}"; do
	mapfile -t list < <(feature_patches "$f")
	if [[ ${#list[@]} -gt 0 ]] &&
	   cat "${list[@]}" "${overlay[@]}" |
	   grep -Eq "^\+?module_param(_named)?\($f,"; then
		parameters+=("$f")
	fi
done
"$TOP/packaging/modprobe-conf.sh" "${parameters[@]}" \
	>"$root/$doc/examples/alleviate.conf"
chmod 644 "$root/$doc/examples/alleviate.conf"
printf 'alleviate-dkms (%s) unstable; urgency=medium\n\n  * See the git history.\n\n -- The alleviate developers <alleviate@localhost>  %s\n' \
	"$version" "$(date -u -R -d "@$SOURCE_DATE_EPOCH")" |
	gzip -9n >"$root/$doc/changelog.gz"

fill debian/control.in DEBIAN/control
fill debian/triggers.in DEBIAN/triggers
fill debian/postinst.in DEBIAN/postinst 755
fill debian/prerm.in DEBIAN/prerm 755
fill debian/postrm DEBIAN/postrm 755
printf '%s\n' /etc/kernel/{postinst,header_postinst}.d/alleviate-dkms \
	>"$root/DEBIAN/conffiles"
(cd "$root" && find usr -type f -print0 | sort -z | xargs -0 md5sum) \
	>"$root/DEBIAN/md5sums"

dpkg-deb --root-owner-group -Zxz --build "$root" "$deb" >/dev/null
note DEB "${features:-none} -> ${deb#"$TOP"/}"
