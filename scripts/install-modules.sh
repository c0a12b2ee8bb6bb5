#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Install the modules that build-modules.sh built, or remove them:
#
#	install-modules.sh install "FEATURES"
#	install-modules.sh uninstall
#
# They go to $DESTDIR/lib/modules/$KERNELRELEASE/updates, which modprobe
# prefers to the distribution's kernel/.  KERNELRELEASE is the running kernel's
# by default, and with a DESTDIR the one that the modules were built for.  With
# SIGN_KEY and SIGN_CERT they are signed (Secure Boot).
#
# What is installed is listed in updates/alleviate.list, with checksums;
# uninstall removes that, and nothing that was changed since.

. "$(dirname "$0")/common.sh"

: "${DESTDIR:=}" "${PREFIX:=/usr/local}" "${KERNELRELEASE:=}"
: "${SIGN_KEY:=}" "${SIGN_CERT:=}"
# Where the firmware's variables and the loaded modules' settings are seen.
: "${EFIVARS:=/sys/firmware/efi/efivars}"

required=(kvm kvm-amd kvm-intel)
PATH=$PATH:/usr/sbin:/sbin

module_release()
{
	local magic

	magic=$(modinfo -F vermagic "$1")
	echo "${magic%% *}"
}

# Depmod, if the kernel itself is there (a DESTDIR may hold our files only).
run_depmod()
{
	if [[ -f $modules_dir/modules.order ]]; then
		note DEPMOD "$release"
		depmod ${DESTDIR:+-b "$DESTDIR"} "$release"
	fi
}

# Remove what the list names, last things first; "-" marks a directory that
# installing created.
remove_installed()
{
	local sum path

	rm -f "$list"
	while read -r sum path; do
		path=$DESTDIR$path
		if [[ $sum == - ]]; then
			rmdir "$path" 2>/dev/null || true
		elif [[ ! -e $path || $(sha256sum <"$path") == "$sum "* ]]; then
			rm -f "$path"
		else
			note KEEP "$path was changed since it was installed"
		fi
	done < <(tac <<<"$1")
}

# Firmware of the running machine asks for signed modules.
secure_boot()
{
	local var=$EFIVARS/SecureBoot-8be4df61-93ca-11d2-aa0d-00e098032b8c

	# Four bytes of attributes, then the value.
	[[ -r $var && $(od -An -tu1 -j4 -N1 "$var" | tr -d ' ') == 1 ]]
}

is_signed()
{
	[[ $(modinfo -F signer "$1") ]]
}

check_modules()
{
	local m first="" dir=$BUILD/modules/$name

	for m in "${required[@]}"; do
		[[ -f $dir/$m.ko ]] ||
			die "$dir/$m.ko is not built; run 'make modules FEATURES=\"${features:-none}\"' first"
	done
	modules=("$dir"/*.ko)

	for m in "${modules[@]}"; do
		# The links name the build trees, one a kernel and feature set.
		: "${first:=$(realpath "${modules[0]}")}"
		[[ $(module_release "$m") == "$(module_release "$first")" &&
		   $(realpath "$m") == "${first%%/arch/x86/kvm/*}"/* ]] ||
			die "$dir mixes modules of several builds, which do not work together; remove it and run 'make modules'"
	done
	built_for=$(module_release "$first")
}

check_target()
{
	local m f stock ours=""

	if [[ -f $list ]]; then
		ours=$(<"$list")
	fi
	[[ $built_for == "$release" ]] ||
		die "the modules in $BUILD/modules/$name are built for Linux $built_for but the kernel to install for is $release; run 'make modules install KERNELRELEASE=$release'"
	[[ $DESTDIR || -d $modules_dir/kernel ]] ||
		die "kernel $release is not installed: there is no $modules_dir/kernel"

	stock=$(find "$modules_dir/kernel/arch/x86/kvm" -name 'kvm.ko*' \
		-print -quit 2>/dev/null || true)
	[[ ! $stock || $(modinfo -F vermagic "$stock") == \
	   "$(modinfo -F vermagic "${modules[0]}")" ]] ||
		die "the modules' vermagic differs from that of $stock, so kernel $release would refuse them; build with its own headers (KERNELRELEASE=$release)"

	# modprobe would take one of ours and one of theirs.
	for m in "${modules[@]}"; do
		m=$(basename "$m" .ko)
		f=$(find "$modules_dir" -path "$modules_dir/kernel" -prune -o \
			\( -name "$m.ko" -o -name "$m.ko.?z" -o -name "$m.ko.zst" \) \
			-print -quit 2>/dev/null || true)
		[[ ! $f || $ours == *" ${f#"$DESTDIR"}"* ]] ||
			die "$f is there already and a mixed set of modules would result; remove it first (a DKMS package: 'apt remove alleviate-dkms')"
	done
}

check_signing()
{
	local m

	[[ ! $DESTDIR ]] && secure_boot || return 0
	if [[ $SIGN_KEY && $SIGN_CERT ]]; then
		if command -v mokutil >/dev/null &&
		   mokutil --test-key "$SIGN_CERT" | grep -q 'is not enrolled'; then
			die "Secure Boot is on and $SIGN_CERT is not enrolled, so the modules would not load; run 'mokutil --import $SIGN_CERT', reboot, confirm in the firmware's dialogue, and install again"
		fi
		return
	fi
	for m in "${modules[@]}"; do
		is_signed "$m" || {
			cat >&2 <<-END
				Secure Boot takes modules signed with an enrolled key.  Once a machine:
				  openssl req -new -x509 -newkey rsa:2048 -nodes -days 36500 \\
				          -subj "/CN=KVM modules/" -outform DER -keyout MOK.key -out MOK.der
				  mokutil --import MOK.der	# then reboot and confirm
				and for every installation:
				  make install SIGN_KEY=MOK.key SIGN_CERT=MOK.der
			END
			die "Secure Boot is on and ${m##*/} is not signed, so it would not load; nothing was installed"
		}
	done
}

# install_file FROM PATH: and add it to the list, after the directories that it
# needs to be created
install_file()
{
	local dir=${2%/*}
	local -a new=()

	while [[ $dir && ! -d $DESTDIR$dir ]]; do
		new=("- $dir" "${new[@]}")
		dir=${dir%/*}
	done
	install -D -m 644 "$1" "$DESTDIR$2"
	note INSTALL "$DESTDIR$2"
	if [[ ${#new[@]} -gt 0 ]]; then
		printf '%s\n' "${new[@]}" >>"$tmp/list"
	fi
	printf '%s %s\n' "$(sha256sum <"$1" | cut -d' ' -f1)" "$2" >>"$tmp/list"
}

do_install()
{
	local m p sign hash example=$PREFIX/share/doc/alleviate/examples/alleviate.conf
	local -a parameters=()

	check_target
	check_signing

	tmp=$(mktemp -d)
	trap 'rm -rf "$tmp"' EXIT
	if [[ $SIGN_KEY && $SIGN_CERT ]]; then
		sign=$modules_dir/build/scripts/sign-file
		[[ -x $sign ]] || sign=$BUILD/kernel/${release%-*}/kdir/scripts/sign-file
		[[ -x $sign ]] ||
			die "there is no scripts/sign-file in the headers of $release; install linux-headers-$release"
	fi

	# Finish every file before the first is installed.
	for m in "${modules[@]}"; do
		cp -L "$m" "$tmp/"
		m=$tmp/${m##*/}
		if ! is_signed "$m"; then
			strip --strip-debug "$m"
		fi
		if [[ ${sign:-} ]]; then
			hash=$(sed -n 's/^CONFIG_MODULE_SIG_HASH="\(.*\)"/\1/p' \
				"$modules_dir/build/.config" \
				"/boot/config-$release" 2>/dev/null |
				head -n 1 || true)
			"$sign" "${hash:-sha256}" "$SIGN_KEY" "$SIGN_CERT" "$m" ||
				die "signing ${m##*/} with $SIGN_KEY failed; nothing was installed"
		fi
	done
	for p in eli viommu vswap; do
		if modinfo -p "$tmp/kvm.ko" | grep -q "^$p:"; then
			parameters+=("$p")
		fi
	done
	"$TOP/packaging/modprobe-conf.sh" "${parameters[@]}" >"$tmp/alleviate.conf"

	if [[ -f $list ]]; then
		remove_installed "$(<"$list")"
	fi
	for m in "$tmp"/*.ko; do
		install_file "$m" "/lib/modules/$release/updates/${m##*/}"
	done
	install_file "$tmp/alleviate.conf" "$example"
	install -m 644 "$tmp/list" "$list"
	run_depmod

	if [[ -f $modules_dir/modules.dep ]]; then
		for m in "${required[@]}"; do
			grep -q "^updates/$m\.ko:" "$modules_dir/modules.dep" ||
				die "depmod prefers another $m to the one installed; see the 'search' lines in depmod.d, and run 'make uninstall' to undo"
		done
	fi
}

do_uninstall()
{
	[[ -f $list ]] ||
		die "'make install' has not installed modules for $release: there is no $list"
	note REMOVE "$updates"
	remove_installed "$(<"$list")"
	run_depmod
}

action=${1:-}
case $action in
install)
	features=$(canonical_features "${2-eli viommu vswap}")
	name=${features:-none}
	name=${name// /+}
	check_modules
	release=${KERNELRELEASE:-$(if [[ $DESTDIR ]]; then echo "$built_for"; else uname -r; fi)}
	;;
uninstall)
	release=$KERNELRELEASE
	if [[ ! $release && $DESTDIR ]]; then
		for f in "$DESTDIR"/lib/modules/*/updates/alleviate.list; do
			[[ -f $f ]] ||
				die "there is nothing of 'make install' in $DESTDIR"
			[[ ! $release ]] ||
				die "$DESTDIR has modules for several kernels; set KERNELRELEASE= to one of them"
			f=${f%/updates/*}
			release=${f##*/}
		done
	fi
	: "${release:=$(uname -r)}"
	;;
*)
	die "usage: ${0##*/} install \"FEATURES\" | uninstall"
	;;
esac
modules_dir=$DESTDIR/lib/modules/$release
updates=$modules_dir/updates
list=$updates/alleviate.list
if [[ ! $DESTDIR && $(id -u) != 0 ]]; then
	die "'make $action' writes to /lib/modules and needs root; or set DESTDIR="
fi
"do_$action"
