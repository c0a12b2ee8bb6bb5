#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: the package of tools can be installed, and its programs run
# kind: host
# tier: 2
# takes: 20
# timeout: 200
#
# Verify alleviate-tools: apt finds what it depends on, what it has runs from where it
# is installed, it is the same when built again, and each feature has its own part.

. "$(dirname "$0")/../../scripts/common.sh"

fail()
{
	printf 'FAIL: %s\n' "$*"
	exit 1
}

# package DIR FEATURES: build it, print its name
package()
{
	mkdir -p "$1"
	BUILD=$1 "$TOP/scripts/make-tools-deb.sh" "$2" >/dev/null
	echo "$1"/alleviate-tools_*.deb
}

work=$(mktemp -d "$BUILD/tools-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
export SOURCE_DATE_EPOCH=1700000000

deb=$(package "$work/1" "eli viommu vswap")
[[ $(sha256sum <"$deb") == $(sha256sum <"$(package "$work/2" "vswap eli viommu")") ]] ||
	fail "it differs when built again"
apt-get -s -o Debug::NoLocking=1 install "$deb" >"$work/apt" 2>&1 ||
	fail "apt would not install it: $(tail -n 3 "$work/apt")"
grep -q '^Inst alleviate-tools ' "$work/apt" || fail "apt does not install it"

dpkg-deb -x "$deb" "$work/unpacked"
export PATH=$work/unpacked/usr/bin:$work/unpacked/usr/sbin:$PATH
for tool in eli-stat viommu-stat; do
	[[ $("$tool" --version) == "$tool "* ]] || fail "$tool does not run"
done
[[ ! -e $work/unpacked/usr/share/kvm-tools/__pycache__ ]] ||
	fail "what is run leaves files"
[[ $(vswap --version) == "vswap "* ]] || fail "vswap does not run"
[[ $(viommu-run --help) == *"--optional"* ]] || fail "viommu-run does not run"
# It finds its library, and gets as far as asking for devices.
output=$(viommu-run qemu-system-x86_64 -M q35 2>&1) && fail "nothing to protect: $output"
[[ $output != *libviommu* ]] || fail "viommu-run does not find its library: $output"
ldd "$work/unpacked/usr/lib/libviommu.so" | grep -q "not found" &&
	fail "libviommu.so lacks libraries"
for file in eli.rst viommu.rst vswap.rst copyright; do
	[[ -s $work/unpacked/usr/share/doc/alleviate-tools/$file ]] || fail "it has no $file"
done
for page in man8/eli-stat.8 man1/viommu-run.1 man8/viommu-stat.8 man8/vswap.8; do
	name=${page#*/}
	# What the page itself says that it is of.
	zcat "$work/unpacked/usr/share/man/$page.gz" | grep -qxF "${name%.*} \\- $(
		sed -n "s/^${name%.*} - //p" "$TOP"/tools/kvm/*/"${name%.*}.txt")" ||
		fail "it has no manual page $name"
done

for f in eli viommu vswap; do
	dpkg-deb -c "$(package "$work/$f" "$f")" >"$work/list"
	case $f in
	eli) yes=/eli-stat$ no='/(vswap|viommu-(run|stat))$' ;;
	viommu) yes=/viommu-stat$ no='/(vswap|eli-stat)$' ;;
	vswap) yes=/vswap$ no='/(eli-stat|viommu-(run|stat)|kvm_vms.py)$' ;;
	esac
	grep -qE "$yes" "$work/list" || fail "$f alone has not what is its own"
	grep -qE "$no" "$work/list" && fail "$f alone has what is another's"
done
BUILD=$work/none "$TOP/scripts/make-tools-deb.sh" none >/dev/null || fail "none is an error"
make -s -C "$TOP" BUILD="$work/b" FEATURES="vswap,eli,viommu" DESTDIR="$work/dest" \
	PREFIX=/usr install-tools >/dev/null
[[ -x $work/dest/usr/sbin/vswap && -x $work/dest/usr/sbin/eli-stat &&
   -x $work/dest/usr/bin/viommu-run ]] || fail "make install-tools does not install"
exit 0
