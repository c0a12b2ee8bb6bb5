# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Which kernels the modules can be built for.  Sourced by dkms.conf, hence
# also by the dkms command itself: no shell option is set, nothing is changed.

ALLEVIATE_SERIES=@SERIES@
ALLEVIATE_VERSION=@VERSION@
ALLEVIATE_SOURCE=/usr/src/linux-source-$ALLEVIATE_SERIES.tar.xz
ALLEVIATE_STATE=/var/lib/alleviate-dkms

# Version of an unpacked Debian package, or nothing.
alleviate_package_version()
{
	# shellcheck disable=SC2016 # dpkg-query's own variables
	dpkg-query -W -f '${db:Status-Status} ${Version}\n' "$1" 2>/dev/null |
		sed -n -e '/^not-installed/d' -e '/^config-files/d' \
			-e '/^half-installed/d' -e 's/^[^ ]* //p'
}

# "6.12.117" of a kernel build directory.
alleviate_kernel_version()
{
	awk '$2 ~ /^LINUX_VERSION_(MAJOR|PATCHLEVEL|SUBLEVEL)$/ {
		v = v (v == "" ? "" : ".") $3 }
	     END { print v }' \
		"$1/include/generated/uapi/linux/version.h" 2>/dev/null
}

# Print why the modules cannot be built for kernel $1 with build directory $2,
# or nothing.
alleviate_unsupported()
{
	local kernel=$1 kdir=${2:-/lib/modules/$1/build}
	local pkg=linux-source-$ALLEVIATE_SERIES version want have symbol

	version=$(alleviate_kernel_version "$kdir")
	if [[ $version != "$ALLEVIATE_SERIES".* ]]; then
		echo "kernel $kernel is skipped: the modules exist for Linux $ALLEVIATE_SERIES only; it keeps its stock KVM"
		return
	fi
	for symbol in KVM KVM_AMD KVM_INTEL; do
		if ! grep -qx "CONFIG_$symbol=m" "$kdir/.config" 2>/dev/null; then
			echo "kernel $kernel is skipped: its configuration does not have $symbol as a module; it keeps its stock KVM"
			return
		fi
	done
	if [[ -e /lib/modules/$kernel/updates/kvm.ko ]]; then
		echo "kernel $kernel is skipped: its updates directory has KVM modules of 'make install'; remove them with 'make uninstall' first"
		return
	fi
	have=$(alleviate_package_version "$pkg")
	if [[ ! $have || ! -f $ALLEVIATE_SOURCE ]]; then
		echo "kernel $kernel is skipped: the package $pkg is not installed; it keeps its stock KVM"
		return
	fi
	# Kernels from elsewhere have no Debian version to compare.
	want=$(alleviate_package_version "linux-headers-$kernel")
	if [[ ! $want ]]; then
		want=$version
		have=${have%%-*}
	fi
	if [[ $have != "$want" ]]; then
		echo "kernel $kernel is skipped: it is version $want but $pkg is $have; it keeps what it has until both are of one version"
	fi
}

# What a failed build depends on; it is tried again when that changes.
alleviate_build_key()
{
	echo "$ALLEVIATE_VERSION" \
		"$(alleviate_package_version "linux-source-$ALLEVIATE_SERIES")" \
		"$(alleviate_package_version "linux-headers-$1")"
}

# Print that the build for kernel $1 has failed before, or nothing.
alleviate_failed()
{
	local mark=$ALLEVIATE_STATE/failed/$1

	if [[ -f $mark && $(<"$mark") == "$(alleviate_build_key "$1")" ]]; then
		echo "kernel $1 keeps its stock KVM: the build failed before and is not repeated; 'dkms install alleviate/$ALLEVIATE_VERSION -k $1' tries again"
	fi
}
