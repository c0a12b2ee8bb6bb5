#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the image of a full Debian guest, once, from packages:
#
#	debian-guest.sh		prints the path of the image, build/cache/guest-*.img
#
# The guest boots systemd, has udev, and runs the rig's agent as a service.  Use
# it with "snapshot=on", so that it stays as it is.

. "$(dirname "$0")/common.sh"

# shellcheck disable=SC1091
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
image=$BUILD/cache/guest-$codename.img
agent=$BUILD/rig/agent
include=systemd-sysv,udev,kmod,iproute2,procps,e2fsprogs

mkdir -p "$BUILD/cache" "$BUILD/logs"
PYTHONPATH=$TOP/tests/rig python3 -c 'import rig; rig.build_tool("agent")'
exec 9>"$BUILD/cache/.guest.lock"
flock 9

if [[ ! -f $image || $agent -nt $image || ${BASH_SOURCE[0]} -nt $image ]]; then
	[[ $(id -u) == 0 ]] || die "only root can build the Debian guest; run with sudo"
	# shellcheck disable=SC2016 # apt-get expands it
	mirror=$(apt-get indextargets --format '$(REPO_URI)' \
		 'Created-By: Packages' "Codename: $codename" \
		 'Component: main' | head -n 1)
	[[ $mirror ]] || die "apt has no entry for Debian's main suite to build the guest from"
	root=$(mktemp -d "$BUILD/cache/guest.XXXXXX")
	trap 'rm -rf "$root" "$image.tmp"' EXIT
	note BUILD "Debian guest ($codename)" >&2
	debootstrap --variant=minbase --include="$include" "$codename" \
		"$root" "$mirror" >"$BUILD/logs/debian-guest.log" 2>&1 ||
		die "debootstrap failed; see $BUILD/logs/debian-guest.log"
	install -m 755 "$agent" "$root/usr/local/sbin/rig-agent"
	cat >"$root/etc/systemd/system/rig-agent.service" <<-'UNIT'
	[Unit]
	Description=Runs commands for the rig
	After=multi-user.target
	[Service]
	ExecStart=/usr/local/sbin/rig-agent serve
	Restart=always
	[Install]
	WantedBy=multi-user.target
	UNIT
	ln -s ../rig-agent.service \
		"$root/etc/systemd/system/multi-user.target.wants/rig-agent.service"
	echo "/dev/vda / ext4 defaults 0 1" >"$root/etc/fstab"
	echo guest >"$root/etc/hostname"
	rm -rf "$root/var/cache/apt/archives/"*.deb "$root/var/lib/apt/lists/"*
	truncate -s 1500M "$image.tmp"
	mke2fs -q -t ext4 -d "$root" "$image.tmp"
	mv "$image.tmp" "$image"
fi
printf '%s\n' "$image"
