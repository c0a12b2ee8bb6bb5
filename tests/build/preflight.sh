#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: what this machine lacks is said in one sentence, before anything changes
# kind: host
# tier: 2
# takes: 7
# timeout: 120

set -euo pipefail
unshare --mount true 2>/dev/null || {
	echo "SKIP: cannot create a mount namespace (in a chroot whose root is no mount point?)"
	exit 4
}
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

# refuse WHAT COMMAND...: COMMAND, in a mount namespace of its own, must fail
# with exactly one line on stderr that contains WHAT.
refuse()
{
	local what=$1

	shift
	if unshare --mount bash -c "$*" >"$tmp/out" 2>"$tmp/err"; then
		echo "not refused: $what"
		exit 1
	fi
	if [[ $(wc -l <"$tmp/err") != 1 ]] || ! grep -q -- "$what" "$tmp/err"; then
		echo "expected one line with '$what', got:"
		cat "$tmp/err"
		exit 1
	fi
}

before=$(dpkg-query -W | sha256sum; ls -l /etc/apt/sources.list.d)
# A copy that any user can read; BUILD is where the checkout's is.
chmod 755 "$tmp"
cp -r scripts "$tmp/scripts"
export BUILD=${BUILD:-$PWD/build}
setup="$tmp/scripts/setup.sh install tests"
as_nobody="HOME=$tmp setpriv --reuid=65534 --regid=65534 --clear-groups bash"

printf 'ID=fedora\nVERSION_ID=40\n' >"$tmp/fedora"
printf 'ID=debian\nVERSION_ID="11"\n' >"$tmp/bullseye"
refuse "this is fedora 40" "mount --bind $tmp/fedora /etc/os-release; $setup"
refuse "this is debian 11" "mount --bind $tmp/bullseye /etc/os-release; $setup"
refuse "KERNEL_SERIES=6.6 is not supported" "KERNEL_SERIES=6.6 $setup"

sed 's/^MemAvailable:.*/MemAvailable:    2000000 kB/' /proc/meminfo >"$tmp/meminfo"
refuse "MiB of memory are available" "mount --bind $tmp/meminfo /proc/meminfo; $setup"
# The same while somebody removes files below BUILD, at which du fails.
mkdir "$tmp/racy"
printf '#!/bin/sh\n/usr/bin/du "$@"\nexit 1\n' >"$tmp/racy/du"
chmod +x "$tmp/racy/du"
refuse "MiB of memory are available" \
	"mount --bind $tmp/meminfo /proc/meminfo; PATH=$tmp/racy:\$PATH $setup"

mkdir "$tmp/small"
refuse "of disk are free for $tmp/small" \
	"mount -t tmpfs -o size=64m t $tmp/small; BUILD=$tmp/small $setup"

# A package that is missing: nothing is, as far as a fake dpkg-query knows.
mkdir "$tmp/bin"
printf '#!/bin/sh\nexit 1\n' >"$tmp/bin/dpkg-query"
chmod +x "$tmp/bin/dpkg-query"
refuse "only root may install them" \
	"PATH=$tmp/bin:\$PATH $as_nobody $setup"
refuse "the tests export this machine's root" \
	"$as_nobody $setup"

# No mirror that knows the packages.
printf '#!/bin/sh\nexit 0\n' >"$tmp/bin/apt-cache"
printf '#!/bin/sh\nexit 0\n' >"$tmp/bin/apt-get"
chmod +x "$tmp/bin/"*
refuse "apt knows no package" "PATH=$tmp/bin:\$PATH $setup"

[[ $before == "$(dpkg-query -W | sha256sum; ls -l /etc/apt/sources.list.d)" ]] || {
	echo "a refusal changed the machine"
	exit 1
}
