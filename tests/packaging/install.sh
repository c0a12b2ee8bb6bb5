#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: make install puts the modules before the stock ones, refuses what cannot work, and uninstall reverses it
# kind: host
# tier: 2
# takes: 93
# timeout: 600
#
# Verify "make install" and "make uninstall" in a DESTDIR with the downloaded
# kernel's own modules: what is installed wins over stock, signing works, every
# refusal is one sentence that changes nothing, and uninstall leaves the tree
# as it was.

. "$(dirname "$0")/../../scripts/common.sh"

: "${FEATURES=none}"
export FEATURES
PATH=$PATH:/usr/sbin:/sbin

fail()
{
	printf 'FAIL: %s\n' "$*"
	exit 1
}

# refused TEXT COMMAND...: fails with one sentence that has TEXT
refused()
{
	local text=$1 output

	shift
	if output=$("$@" 2>&1); then
		fail "'$*' succeeds, expected a refusal"
	fi
	[[ $(grep -c '^alleviate: ' <<<"$output") == 1 && $output == *"$text"* ]] ||
		fail "'$*' says '$output', expected '$text'"
	[[ $(snapshot) == "$expected" ]] || fail "'$*' changed files"
}

snapshot()
{
	(cd "$dest" && find . -printf '%p %y %m\n' | sort &&
	 find . -type f -not -name 'modules.*.bin' -print0 | sort -z |
	 xargs -0 sha256sum)
}

# copy_build DIR: a build directory of which the modules are copies
copy_build()
{
	local tree=$1/tree/$name/arch/x86/kvm

	mkdir -p "$tree" "$1/modules/$name"
	cp -L "$BUILD/modules/$name"/*.ko "$tree/"
	ln -s "$tree"/*.ko "$1/modules/$name/"
}

for tool in modinfo depmod openssl strip; do
	command -v "$tool" >/dev/null || {
		printf 'SKIP: needs %s\n' "$tool"
		exit 4
	}
done

make -s -C "$TOP" modules >/dev/null
features=$(canonical_features "$FEATURES")
name=${features:-none}
name=${name// /+}
stock=$BUILD/kernel/current/image/modules
release=$(basename "$(realpath "$BUILD/kernel/current")")-amd64
[[ $(modinfo -F vermagic "$BUILD/modules/$name/kvm.ko") == "$release "* ]] ||
	fail "the modules are not built for $release"

work=$(mktemp -d "$BUILD/install-test.XXXXXX")
trap 'rm -rf "$work"' EXIT
dest=$work/dest
dir=$dest/lib/modules/$release
mkdir -p "$dir" "$work/efi"
cp -r "$stock/." "$dir/"
depmod -b "$dest" "$release"
expected=$(snapshot)

install=(make -s -C "$TOP" install "DESTDIR=$dest")
uninstall=(make -s -C "$TOP" uninstall "DESTDIR=$dest")

# Nothing to remove, the wrong kernel, another one's module, a mixed build.
refused "nothing of 'make install'" "${uninstall[@]}"
refused "are built for Linux $release but the kernel" \
	env KDIR=/ "${install[@]}" KERNELRELEASE=6.12.1-other
mkdir -p "$dir/updates/dkms"
touch "$dir/updates/dkms/kvm.ko.xz"
expected=$(snapshot)
refused "a mixed set of modules would result" "${install[@]}"
rm -r "$dir/updates"
expected=$(snapshot)
copy_build "$work/mixed"
"${install[@]}" "BUILD=$work/mixed" >/dev/null
"${uninstall[@]}" >/dev/null
cp "$work/mixed/tree/$name/arch/x86/kvm/kvm-amd.ko" "$work/"
ln -sf "$work/kvm-amd.ko" "$work/mixed/modules/$name/kvm-amd.ko"
refused "mixes modules of several builds" "${install[@]}" "BUILD=$work/mixed"
rm "$work/mixed/modules/$name/kvm-amd.ko"
refused "kvm-amd.ko is not built" "${install[@]}" "BUILD=$work/mixed"

# Installing twice is installing once.
"${install[@]}" >/dev/null
"${install[@]}" >/dev/null
for m in kvm kvm-amd kvm-intel; do
	file=$(modinfo -b "$dest" -k "$release" -F filename "$m")
	[[ $file == "$dir/updates/$m.ko" ]] || fail "modinfo finds $file as $m"
done
# Every parameter in the example exists.
while read -r p; do
	modinfo -b "$dest" -k "$release" -p kvm | grep -q "^$p:" ||
		fail "the modprobe.d example sets $p, which kvm does not have"
done < <(sed -n 's/^#options kvm \([a-z_]*\)=.*/\1/p' \
	"$dest/usr/local/share/doc/alleviate/examples/alleviate.conf")
"${uninstall[@]}" >/dev/null
[[ $(snapshot) == "$expected" ]] || fail "uninstall does not reverse install"

# Signed with the user's key.
openssl req -new -x509 -newkey rsa:2048 -nodes -days 10 -subj "/CN=Test/" \
	-outform DER -keyout "$work/MOK.key" -out "$work/MOK.der" 2>/dev/null
"${install[@]}" "SIGN_KEY=$work/MOK.key" "SIGN_CERT=$work/MOK.der" >/dev/null
for m in kvm kvm-amd kvm-intel; do
	[[ $(modinfo -b "$dest" -k "$release" -F signer "$m") == Test ]] ||
		fail "$m is not signed with the key given"
done
# A file that was changed since stays.
echo changed >>"$dir/updates/kvm.ko"
output=$("${uninstall[@]}")
[[ $output == *"kvm.ko was changed"* && -f $dir/updates/kvm.ko &&
   ! -e $dir/updates/kvm-amd.ko ]] || fail "a changed file is removed"
