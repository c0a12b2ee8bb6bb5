#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: the DKMS package builds, upgrades, skips, fails and goes without harm to apt or stock KVM
# kind: host
# tier: 2
# takes: 380
# timeout: 1500
#
# Verify that alleviate-dkms does what users of DKMS packages expect, in a
# throw-away Debian root of this machine's suite:
#  - modules are built for a kernel, and win over the stock ones;
#  - a newer kernel without its source is skipped with one line;
#  - the modules for it are built when its source arrives;
#  - a kernel of another series is skipped with one line;
#  - a build that fails is reported and does not fail apt;
#  - removing the package gives the stock modules back and leaves nothing.
#
# The root lives in mount and PID namespaces of its own, so that no mount and
# no process outlives the test.  It needs root and apt's network access; the
# empty root and the packages are kept in build/cache for the next run.  DKMS_DEB
# names a dkms package to test with in place of the suite's.

. "$(dirname "$0")/../../scripts/common.sh"

source_pkg=linux-source-$KERNEL_SERIES
cache=$BUILD/cache

skip()
{
	printf 'SKIP: %s\n' "$*"
	exit 4
}

fail()
{
	printf 'FAIL: %s\n' "$*"
	if [[ -f ${log:-} ]]; then
		echo "----- end of the log of the last step:"
		tail -n 60 "$log"
	fi
	exit 1
}

step()
{
	printf '[%4ds] %s\n' "$SECONDS" "$*"
}

### Outside of the namespaces

outer()
{
	local tool work child status=0

	[[ $(id -u) == 0 ]] || skip "needs root, for chroot and mount"
	[[ $(uname -m) == x86_64 ]] || skip "needs an x86-64 machine"
	for tool in debootstrap unshare apt-get dpkg-deb; do
		command -v "$tool" >/dev/null || skip "needs $tool"
	done
	unshare --mount --pid --fork true 2>/dev/null ||
		skip "cannot create mount and PID namespaces"
	[[ $(apt_entries) ]] ||
		skip "apt has no Debian package lists; run 'apt-get update'"

	mkdir -p "$cache"
	work=$(mktemp -d "$BUILD/dkms-test.XXXXXX")
	# shellcheck disable=SC2064 # expand now
	trap "cleanup '$work'" EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	unshare --mount --propagation private --pid --fork --kill-child \
		"$0" --inner "$work" &
	child=$!
	wait "$child" || status=$?
	exit "$status"
}

cleanup()
{
	local pid n

	# unshare ignores SIGTERM; its end is that of the namespaces.
	for pid in $(jobs -p); do
		kill -KILL "$pid" 2>/dev/null || true
	done
	wait
	for ((n = 0; n < 50; n++)); do
		grep -qs "$1" /proc/[0-9]*/mountinfo || break
		sleep 0.1
	done
	rm -rf --one-file-system "$1"
}

# "URI RELEASE COMPONENT SOURCES-FILE" of Debian's own package lists.
apt_entries()
{
	# shellcheck disable=SC2016 # apt's own variables
	apt-get indextargets 'Created-By: Packages' 'Origin: Debian' \
		'Architecture: amd64' \
		--format '$(REPO_URI) $(RELEASE) $(COMPONENT) $(SOURCESENTRY)' |
		sed 's/:[0-9]*$//' | sort -u
}

### Inside

in_root()
{
	chroot "$root" /usr/bin/env -i HOME=/root TERM=dumb LC_ALL=C \
		PATH=/usr/sbin:/usr/bin:/sbin:/bin \
		DEBIAN_FRONTEND=noninteractive "$@"
}

# Run a command in the root; its output is in $log, its status is returned.
run()
{
	printf '# %s\n' "$*" >"$log"
	in_root "$@" >>"$log" 2>&1
}

apt_get()
{
	run apt-get -q -y -o Dpkg::Options::=--force-unsafe-io \
		-o APT::Install-Recommends=false "$@"
}

must()
{
	"$@" || fail "'$*' exits with status $?, expected 0"
}

must_say()
{
	grep -qF -- "$1" "$log" || fail "expected a line with '$1'"
}

# Key ring of the apt sources file $1.
keyring()
{
	local key

	key=$(grep -Eio 'signed-by[:=][[:space:]]*/[^][[:space:]]+' "$1" |
		head -n 1 | grep -o '/.*' || true)
	echo "${key:-/usr/share/keyrings/debian-archive-keyring.gpg}"
}

make_base()
{
	local entries uri release component file key packages suite mirror
	local -a options=()

	entries=$(apt_entries)
	# The suite proper is the release that the others are derived from.
	suite=$(awk '{ print $2 }' <<<"$entries" | awk -F- '{ print $1 }' |
		sort | uniq -c | sort -rn | awk 'NR == 1 { print $2 }')
	read -r mirror _ _ file < <(awk -v s="$suite" '$2 == s' <<<"$entries")
	[[ ${mirror:-} ]] || skip "apt's sources do not have the suite $suite"
	packages="dkms gcc make patch rsync xz-utils kmod openssl initramfs-tools"
	if grep -q '^https:' <<<"$entries"; then
		packages+=" ca-certificates"
		options+=(--include=ca-certificates)
	fi

	base=$cache/dkms-root-$suite-$(cksum <<<"$packages" | cut -d' ' -f1).tar.gz
	if [[ ! -f $base ]]; then
		step "debootstrap $suite"
		log=$work/debootstrap.log
		debootstrap --variant=minbase --keyring="$(keyring "$file")" \
			"${options[@]}" "$suite" "$root" "$mirror" \
			>"$log" 2>&1 || fail "debootstrap of $suite"
		log=$work/log
	else
		tar -xf "$base" -C "$root"
	fi

	# apt's configuration is this machine's, Debian's entries only.
	while read -r uri release component file; do
		key=$(keyring "$file")
		if [[ ! -f $root$key ]]; then
			install -D -m 644 "$key" "$root$key"
		fi
		echo "deb [signed-by=$key] $uri $release $component"
	done <<<"$entries" >"$root/etc/apt/sources.list"
	apt-config dump | grep -E \
		'^Acquire::(https?::|Check-|ForceIPv|Retries)' \
		>"$root/etc/apt/apt.conf.d/50host" || true
	cat /etc/resolv.conf >"$root/etc/resolv.conf"
	printf '#!/bin/sh\nexit 101\n' >"$root/usr/sbin/policy-rc.d"
	chmod 755 "$root/usr/sbin/policy-rc.d"

	mount -t proc proc "$root/proc"
	mount -t sysfs -o ro sysfs "$root/sys"
	mount --bind /dev "$root/dev"
	mount -t devpts devpts "$root/dev/pts"
	mkdir -p "$cache/apt/partial"
	mount --bind "$cache/apt" "$root/var/cache/apt/archives"

	must apt_get update
	if [[ ! -f $base ]]; then
		step "installing $packages"
		# No kernel boots here, so none needs an initramfs.
		run dpkg-divert --local --rename /usr/sbin/update-initramfs
		ln -s /bin/true "$root/usr/sbin/update-initramfs"
		# shellcheck disable=SC2086 # a list
		must apt_get install $packages
		tar -C "$root" --one-file-system --exclude=./var/lib/apt/lists/* \
			-I 'gzip -1' -cf "$base.tmp" .
		mv "$base.tmp" "$base"
	fi
}

# Newest two kernels whose source and headers are offered, "VERSION ABI" each
# and the older one first.
find_kernels()
{
	local re="^linux-headers-${KERNEL_SERIES//./\\.}\\.[0-9]+\\+deb[0-9]+-amd64\$"
	local names sources

	sources=$(in_root apt-cache madison "$source_pkg" | awk '{ print $3 }')
	names=$(in_root apt-cache search --names-only "$re" | cut -d' ' -f1)
	# shellcheck disable=SC2086 # a list
	in_root apt-cache madison $names | awk '{ print $3, $1 }' |
	while read -r v name; do
		if grep -qxF "$v" <<<"$sources"; then
			echo "$v ${name#linux-headers-}"
		fi
	done | sort -V | awk '{ v[$2] = $1; if (!n[$2]++) k[++m] = $2 }
		END { for (i = m > 1 ? m - 1 : 1; i <= m; i++)
			print v[k[i]], k[i] }'
}

# check_ours KERNEL: our modules are built for KERNEL, and modprobe takes them.
check_ours()
{
	local m file

	must run dkms status alleviate -k "$1"
	must_say "alleviate/$version, $1, x86_64: installed"
	for m in kvm kvm-amd kvm-intel; do
		file=$(in_root modinfo -F filename -k "$1" "$m")
		[[ $file == "/lib/modules/$1/updates/dkms/$m.ko"* ]] ||
			fail "modinfo finds $file as $m of $1"
		[[ $(in_root modinfo -F version -k "$1" "$m") == "$version" ]] ||
			fail "$m of $1 does not have the version $version"
		[[ $(in_root modinfo -F vermagic -k "$1" "$m") == "$1 "* ]] ||
			fail "$m of $1 was built for another kernel"
		# DKMS signs with a key of its own when openssl is there.
		[[ $(in_root modinfo -F signer -k "$1" "$m") ]] ||
			fail "$m of $1 is not signed"
	done
	must run modprobe -S "$1" --show-depends kvm-amd
	must_say "insmod /lib/modules/$1/updates/dkms/kvm.ko"
	must_say "insmod /lib/modules/$1/updates/dkms/kvm-amd.ko"
}

# check_stock KERNEL: nothing of ours is in KERNEL's module directory.
check_stock()
{
	local m file

	for m in kvm kvm-amd kvm-intel; do
		file=$(in_root modinfo -F filename -k "$1" "$m")
		[[ $file == "/lib/modules/$1/kernel/arch/x86/kvm/$m.ko"* ]] ||
			fail "modinfo finds $file as $m of $1, expected the stock one"
	done
	[[ ! -e $root/lib/modules/$1/updates ]] ||
		fail "the updates directory of $1 exists"
	if grep -q '^updates/' "$root/lib/modules/$1/modules.dep"; then
		fail "modules.dep of $1 names modules in updates"
	fi
}

inner()
{
	local kernels old_v old new_v new other

	work=$1
	root=$work/root
	log=$work/log
	mkdir "$root"

	must "$TOP/scripts/make-deb.sh" "${FEATURES-eli viommu vswap}"
	version=$(<"$TOP/VERSION")
	make_base
	cp "$BUILD/alleviate-dkms_${version}_all.deb" "$root/"
	if [[ ${DKMS_DEB:-} ]]; then
		cp "$DKMS_DEB" "$root/dkms.deb"
		must apt_get install /dkms.deb
		step "$(in_root dkms --version)"
	fi

	kernels=$(find_kernels)
	[[ $kernels ]] ||
		skip "apt offers no $source_pkg with headers of its version"
	read -r old_v old <<<"$kernels"
	read -r new_v new < <(tail -n 1 <<<"$kernels")

	step "kernel $old ($old_v)"
	must apt_get install "$source_pkg=$old_v" "linux-headers-$old=$old_v" \
		"linux-image-$old=$old_v"
	check_stock "$old"

	step "install the package: modules for $old"
	must apt_get install "/alleviate-dkms_${version}_all.deb"
	must_say "alleviate-dkms: kernel $old has the modules"
	check_ours "$old"

	if [[ $new == "$old" ]]; then
		step "no second kernel is offered: upgrades are not tested"
	else
		step "kernel $new ($new_v) while $source_pkg is held: skipped"
		must run apt-mark hold "$source_pkg"
		must apt_get install "linux-headers-$new=$new_v" \
			"linux-image-$new=$new_v"
		must_say "alleviate-dkms: kernel $new is skipped: it is version $new_v but $source_pkg is $old_v"
		check_stock "$new"
		must run dkms autoinstall -k "$new"
		check_ours "$old"
		run dkms build "alleviate/$version" -k "$new" || [[ $? == 77 ]] ||
			fail "dkms build does not exit with 77 for an excluded kernel"
		must_say "alleviate: kernel $new is skipped"

		step "$source_pkg $new_v arrives: modules for $new"
		must run apt-mark unhold "$source_pkg"
		must apt_get install "$source_pkg=$new_v"
		must_say "alleviate-dkms: kernel $new has the modules"
		check_ours "$new"
		check_ours "$old"
	fi

	# Another series, if the suite has one.
	other=$(in_root apt-cache depends linux-headers-amd64 |
		sed -n 's/.*Depends: linux-headers-//p' | head -n 1)
	if [[ $other && $other != "$KERNEL_SERIES".* ]]; then
		step "kernel $other: skipped"
		must apt_get install "linux-headers-$other"
		must_say "alleviate-dkms: kernel $other is skipped: the modules exist for Linux $KERNEL_SERIES only"
		[[ ! -e $root/lib/modules/$other/updates ]] ||
			fail "the updates directory of $other exists"
		must run dkms autoinstall -k "$other"
	else
		step "the suite has no kernel of another series: not tested"
	fi

	step "a build that fails: reported, apt goes on"
	must run dkms remove "alleviate/$version" -k "$new"
	mv "$root/usr/bin/rsync" "$root/usr/bin/rsync.away"
	must apt_get install --reinstall "linux-headers-$new=$new_v"
	must_say "alleviate-dkms: the modules for kernel $new could not be built, it keeps its stock KVM"
	check_stock "$new"
	must run dkms autoinstall -k "$new"
	must run /usr/lib/alleviate-dkms/autoinstall "$new"
	must_say "alleviate-dkms: kernel $new keeps its stock KVM: the build failed before"
	mv "$root/usr/bin/rsync.away" "$root/usr/bin/rsync"

	step "remove the package: stock modules again"
	must apt_get purge alleviate-dkms
	check_stock "$old"
	check_stock "$new"
	[[ ! -e $root/var/lib/dkms/alleviate ]] ||
		fail "/var/lib/dkms/alleviate is left"
	[[ ! -e $root/var/lib/alleviate-dkms ]] ||
		fail "/var/lib/alleviate-dkms is left"
	must run find / -xdev -name '*alleviate*' -not -path '/proc/*' \
		-not -name "alleviate-dkms_${version}_all.deb" \
		-not -path '/var/log/*' -not -path '/var/cache/*'
	if tail -n +2 "$log" | grep -q .; then
		fail "files are left: $(tail -n +2 "$log" | tr '\n' ' ')"
	fi
	apt_get autoclean || true
	step "done"
}

if [[ ${1:-} == --inner ]]; then
	inner "$2"
else
	outer
fi
