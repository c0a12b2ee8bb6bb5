#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Prepare this machine for building and testing:
#
#	setup.sh [check|install|undo|list] [tests|qemu]
#
# check		say in one sentence what is wrong, if anything; change nothing
# install	check, then install the missing packages (the default)
# list		print what an earlier install added
# undo		take back what an earlier install added ("make distclean-system")
#
# tests		what only the tests need is checked, too
# qemu		with what QEMU is built with
#
# Only tools are installed, as packages.  Kernel source, headers and image are
# downloaded and unpacked below build/ by fetch-kernel.sh.  QEMU must be 9.0 or
# newer (software emulation of x2APIC); where the distribution's own is older,
# QEMU alone is taken from its backports suite, from the mirror and with the
# key that apt already uses, at a priority that touches no other package.

. "$(dirname "$0")/common.sh"

STATE=/var/lib/alleviate
APT_SOURCE=/etc/apt/sources.list.d/alleviate-backports.sources
APT_PIN=/etc/apt/preferences.d/alleviate-backports
QEMU_MIN=9.0
# What "make check" needs at its peak, in MiB.
MIN_DISK=12000
MIN_DISK_SYSTEM=1500
MIN_MEMORY=9000

PACKAGES=(
	# to build
	make gcc libc6-dev bc bison flex libelf-dev libssl-dev patch rsync kmod
	xz-utils cpio pahole python3 git perl dpkg-dev
	# kernel and selftests at their point release, from apt
	ca-certificates
	# to test
	busybox-static e2fsprogs dmsetup iproute2 iputils-ping procps util-linux
	debootstrap fio shellcheck libcap-dev libnuma-dev
	# to draw results
	gnuplot-nox
	# manual pages
	asciidoctor
	# the Intel flavour of L1
	bochs bochs-term xorriso isolinux syslinux-common
)
# to build a patched QEMU, see build-qemu.sh
QEMU_BUILD_PACKAGES=(libglib2.0-dev ninja-build pkgconf python3-venv)
QEMU_PACKAGES=(qemu-system-x86 qemu-system-common qemu-system-data qemu-utils
	       seabios ipxe-qemu)

installed()
{
	[[ $(dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null) == installed ]]
}

qemu_version()
{
	dpkg-query -W -f '${Version}' qemu-system-x86 2>/dev/null || true
}

qemu_is_new_enough()
{
	installed qemu-system-x86 && installed qemu-utils &&
		dpkg --compare-versions "$(qemu_version)" ge "1:$QEMU_MIN"
}

candidate()
{
	apt-cache policy "$1" 2>/dev/null | sed -n 's/^ *Candidate: *//p' |
		grep -v '^(none)$' || true
}

find_missing()
{
	local p

	missing=()
	for p in "${PACKAGES[@]}"; do
		installed "$p" || missing+=("$p")
	done
	need_qemu=
	qemu_is_new_enough || need_qemu=1
}

# Free MiB of the file system that will hold $1
free_mib()
{
	local dir=$1

	while [[ ! -d $dir ]]; do
		dir=${dir%/*}
		dir=${dir:-/}
	done
	df -Pm "$dir" | awk 'NR == 2 { print $4 }'
}

check()
{
	local id version mem free used

	[[ $(uname -m) == x86_64 ]] ||
		die "this machine is $(uname -m); alleviate is for x86_64"
	[[ $(uname -s) == Linux && -r /etc/os-release ]] ||
		die "this is not a Linux distribution that is supported; use Debian 12 or 13"
	# shellcheck disable=SC1091
	id=$(. /etc/os-release && echo "${ID:-}")
	# shellcheck disable=SC1091
	version=$(. /etc/os-release && echo "${VERSION_ID:-}")
	[[ $id == debian && ( $version == 12 || $version == 13 ) ]] ||
		die "this is ${id:-unknown} ${version:-(no version)}; the tests run on Debian 12 and 13 (use one, or a chroot of one made with debootstrap)"
	command -v apt-get >/dev/null ||
		die "apt-get is missing; use a complete Debian 12 or 13 system"
	case $KERNEL_SERIES in
	6.12) ;;
	*) die "KERNEL_SERIES=$KERNEL_SERIES is not supported; the modules exist for Linux 6.12" ;;
	esac

	find_missing
	if [[ ( ${#missing[@]} -gt 0 || $need_qemu ) && $(id -u) != 0 ]]; then
		die "packages are missing and only root may install them; run 'sudo make setup' (missing: ${missing[*]}${need_qemu:+ QEMU >= $QEMU_MIN})"
	fi
	if [[ $(id -u) != 0 && ${1:-} == tests ]]; then
		die "the tests export this machine's root file system to the virtual machine and so need root; run 'sudo make ...'"
	fi

	free=$(free_mib "$BUILD")
	if [[ -d $BUILD/kernel/current/source ]]; then
		# du fails if a file goes away meanwhile, and still has the sum.
		used=$( (du -sm "$BUILD" 2>/dev/null || true) | cut -f1)
		free=$((free + ${used:-0}))
	fi
	(( free >= MIN_DISK )) ||
		die "only $free MiB of disk are free for $BUILD and $MIN_DISK are needed; make room or set BUILD= to a larger disk"
	if [[ ${#missing[@]} -gt 0 || $need_qemu ]]; then
		free=$(free_mib /usr)
		(( free >= MIN_DISK_SYSTEM )) ||
			die "only $free MiB of disk are free in /usr and $MIN_DISK_SYSTEM are needed for packages; make room"
	fi
	mem=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
	(( mem >= MIN_MEMORY )) ||
		die "only $mem MiB of memory are available and $MIN_MEMORY are needed for the virtual machines; stop something or use a larger machine"

	if [[ -e /dev/kvm ]] && ! grep -qwE '^flags.*(svm|vmx)' /proc/cpuinfo; then
		note KVM "/dev/kvm exists but this CPU shows neither svm nor vmx: using software emulation"
	fi
}

# The apt source that the distribution's main suite comes from, as
# "URI CODENAME SIGNED-BY".
main_source()
{
	local codename=$1 uri entry file line key

	# shellcheck disable=SC2016 # apt-get expands these
	read -r uri entry < <(apt-get indextargets \
		--format '$(REPO_URI) $(SOURCESENTRY)' 'Created-By: Packages' \
		"Codename: $codename" 'Component: main' 2>/dev/null) || return 1
	file=${entry%:*}
	line=${entry##*:}
	key=
	if [[ $file == *.sources ]]; then
		# The entry is the stanza's number, counted from 1.
		key=$(grep -v '^#' "$file" | awk -v n="$line" -v RS= \
			'NR == n' | sed -n 's/^Signed-By: *//p')
	elif [[ -f $file ]]; then
		key=$(sed -n "${line}s/.*signed-by=\([^] ]*\).*/\1/p" "$file")
	fi
	printf '%s %s %s\n' "$uri" "$codename" "$key"
}

add_backports()
{
	local codename=$1 uri key

	read -r uri codename key < <(main_source "$codename") ||
		die "apt has no entry for Debian's main suite, so no mirror is known that could have QEMU >= $QEMU_MIN; add one to /etc/apt/sources.list.d"
	note APT "adding $codename-backports for QEMU alone ($APT_SOURCE)"
	mkdir -p "$STATE"
	printf '%s\n' "$APT_SOURCE" "$APT_PIN" >>"$STATE/files"
	{
		echo "# Added by alleviate's setup; removed by 'make distclean-system'."
		echo "Types: deb"
		echo "URIs: $uri"
		echo "Suites: $codename-backports"
		echo "Components: main"
		[[ -z $key ]] || echo "Signed-By: $key"
	} >"$APT_SOURCE"
	{
		echo "# Added by alleviate's setup; removed by 'make distclean-system'."
		echo "Package: *"
		echo "Pin: release n=$codename-backports"
		echo "Pin-Priority: 1"
		echo
		echo "Package: ${QEMU_PACKAGES[*]}"
		echo "Pin: release n=$codename-backports"
		echo "Pin-Priority: 500"
	} >"$APT_PIN"
	apt-get -qq -o Dir::Etc::sourcelist="$APT_SOURCE" \
		-o Dir::Etc::sourceparts=- -o APT::Get::List-Cleanup=0 update ||
		die "the mirror has no usable $codename-backports suite, so QEMU >= $QEMU_MIN cannot be had; run 'make distclean-system' to take the entry back"
}

# apt_install PACKAGE...: install, and remember what was not there before
apt_install()
{
	local before log=$BUILD/logs/setup.log

	mkdir -p "$STATE" "$BUILD/logs"
	before=$(dpkg-query -W -f '${db:Status-Status} ${Package}\n' |
		 sed -n 's/^installed //p' | sort -u)
	note INSTALL "$*"
	DEBIAN_FRONTEND=noninteractive apt-get -q -y --no-install-recommends \
		-o Dpkg::Options::=--force-confold install "$@" >>"$log" 2>&1 || {
		tail -n 5 "$log" >&2
		die "apt-get could not install the packages above (log: $log); check the network and that no other package manager runs"
	}
	dpkg-query -W -f '${db:Status-Status} ${Package}\n' |
		sed -n 's/^installed //p' | sort -u |
		comm -13 <(printf '%s\n' "$before") - >>"$STATE/packages"
}

install_all()
{
	local codename p unknown=()

	find_missing
	[[ ${#missing[@]} -gt 0 || $need_qemu ]] || return 0

	# A machine that never ran "apt-get update" knows no package.
	for p in "linux-source-$KERNEL_SERIES" "${missing[@]}"; do
		[[ $(candidate "$p") ]] || unknown+=("$p")
	done
	if [[ ${#unknown[@]} -gt 0 ]]; then
		note APT "updating the package lists"
		apt-get -qq update 2>&1 | grep -v '^W:' >&2 || true
		for p in "${unknown[@]}"; do
			[[ $(candidate "$p") ]] ||
				die "apt knows no package $p: its mirror cannot be reached or lacks a suite (Debian 12 has Linux $KERNEL_SERIES in its security suite); check /etc/apt/sources.list.d and run 'apt-get update'"
		done
	fi
	[[ ${#missing[@]} -eq 0 ]] || apt_install "${missing[@]}"

	if [[ $need_qemu ]]; then
		# shellcheck disable=SC1091
		codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
		dpkg --compare-versions "$(candidate qemu-system-x86)" ge \
			"1:$QEMU_MIN" || add_backports "$codename"
		apt_install qemu-system-x86 qemu-utils
		qemu_is_new_enough ||
			die "QEMU $(qemu_version) was installed but $QEMU_MIN is needed; see 'apt-cache policy qemu-system-x86'"
	fi
}

list()
{
	if [[ ! -d $STATE ]]; then
		echo "alleviate's setup added nothing to this machine."
		return
	fi
	[[ ! -f $STATE/packages ]] || sed 's/^/package /' "$STATE/packages"
	[[ ! -f $STATE/files ]] || sed 's/^/file /' "$STATE/files"
}

undo()
{
	local p f remove=()

	[[ -d $STATE ]] || { list; return; }
	[[ $(id -u) == 0 ]] || die "only root may remove packages; run 'sudo make distclean-system'"
	list
	if [[ -f $STATE/packages ]]; then
		while read -r p; do
			! installed "$p" || remove+=("$p")
		done <"$STATE/packages"
	fi
	if [[ ${#remove[@]} -gt 0 ]]; then
		# Refuse rather than take along what came to need them since.
		mapfile -t extra < <(apt-get -s -qq purge "${remove[@]}" |
			sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p' | sort -u |
			comm -13 <(printf '%s\n' "${remove[@]}" | sort -u) -)
		[[ ${#extra[@]} -eq 0 ]] ||
			die "these packages came to need what was installed: ${extra[*]}; remove them first, or keep the packages and delete $STATE"
		DEBIAN_FRONTEND=noninteractive apt-get -q -y purge "${remove[@]}"
	fi
	if [[ -f $STATE/files ]]; then
		while read -r f; do
			rm -f "$f"
		done <"$STATE/files"
		apt-get -qq update || true
	fi
	rm -rf "$STATE"
}

[[ ${2:-} != qemu ]] || PACKAGES+=("${QEMU_BUILD_PACKAGES[@]}")
case ${1:-install} in
check) check "${2:-}" ;;
install) check "${2:-}"; install_all ;;
list) list ;;
undo) undo ;;
*) die "usage: ${0##*/} [check|install|list|undo]" ;;
esac
