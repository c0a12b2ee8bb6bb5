#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
# desc: the upstream series applies, builds at each step and is clean, and what is not is named
# kind: host
# tier: 2
# takes: 712
# timeout: 2400
#
# Verify that scripts/series.sh accepts this checkout's patches, and that it
# refuses, with the name of the culprit, a series that is not fit for mailing.
# The latter works on synthetic patches in a copy of scripts/; the checkout is
# only read, apart from its build directory.

# shellcheck disable=SC2015 # "A && B || fail" is meant: both must hold
. "$(dirname "$0")/../../scripts/common.sh"

unset SERIES_PREFIX MAX_PATCHES KDIR KSRC SOURCE_DATE_EPOCH
for tool in git patch perl gcc make; do
	command -v "$tool" >/dev/null || {
		echo "SKIP: $tool is not installed"
		exit 4
	}
done

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
log=$tmp/log

fail()
{
	printf 'FAIL: %s\n' "$*"
	if [[ -s $log ]]; then
		echo "----- output of the last step:"
		tail -n 40 "$log"
	fi
	exit 1
}

pass()
{
	printf 'ok: %s\n' "$*"
}

# --- The checkout itself.

"$TOP/scripts/series.sh" check >"$log" 2>&1 ||
	fail "series.sh check refuses the checkout"
grep -qE '^  OK +[0-9]+ series, [0-9]+ patches' "$log" ||
	fail "series.sh check does not end with its counts"
sed -n 's/^  OK *//p' "$log"
pass "the checkout's series"

# Same input, same mails.
mkdir "$tmp/again"
ln -s "$BUILD/kernel" "$tmp/again/kernel"
BUILD=$tmp/again "$TOP/scripts/series.sh" make >"$log" 2>&1 ||
	fail "series.sh make fails the second time"
for f in eli viommu vswap; do
	[[ -d $BUILD/series/$f || -d $tmp/again/series/$f ]] || continue
	diff -r "$BUILD/series/$f" "$tmp/again/series/$f" >"$log" ||
		fail "two runs made different mails of $f"
done
pass "the mails are reproducible"

# --- A small series of its own.

source=$BUILD/kernel/current/source
t=$tmp/t
irq=arch/x86/kvm/irq.c
new=arch/x86/kvm/series_test.h
me="A Tester <tester@example.org>"

# write_patch FILE SUBJECT OVERLAY [SED-EXPRESSION...]: the changelog stays
# the same, the diff is what the expressions do to $irq, one after the other;
# all but the last are what earlier patches did.
write_patch()
{
	local out=$t/$1 subject=$2 overlay=$3 old=$tmp/old/$irq cur=$tmp/new/$irq

	shift 3
	rm -rf "$tmp/old" "$tmp/new"
	mkdir -p "${out%/*}" "${old%/*}" "${cur%/*}"
	cp "$source/$irq" "$cur"
	{
		printf 'From: %s\nSubject: %s\n\n' "$me" "$subject"
		printf 'Change nothing of interest, for the sake of a test.\n\n'
		printf 'Signed-off-by: %s\n' "$me"
		[[ -z $overlay ]] || printf 'Overlay: %s\n' "$overlay"
		printf '\n'
		if [[ $# -gt 0 ]]; then
			while [[ $# -gt 0 ]]; do
				cp "$cur" "$old"
				sed -i "$1" "$cur"
				shift
			done
			git -C "$tmp" diff --no-index --no-color --no-prefix \
				old/$irq new/$irq |
				sed -e 's,old/arch,a/arch,g; s,new/arch,b/arch,g' || true
		fi
	} >"$out"
}

declare_fn='/^#include "xen.h"/a #include "series_test.h"'
call_fn='/^void kvm_inject_pending_timer_irqs/,/^{/s/^{/{\n\tkvm_series_test();/'

reset()
{
	rm -rf "$t"
	mkdir -p "$t"/patches/{eli,viommu,vswap} "$t/arch/x86/kvm" "$t/build"
	cp -r "$TOP/scripts" "$t/"
	ln -s "$BUILD/kernel" "$t/build/kernel"
	: >"$t/patches/viommu/series"
	: >"$t/patches/vswap/series"
	printf '%s\n' '# A comment' 1.patch '2.patch # another' \
		>"$t/patches/eli/series"
	printf '%s\n' "KVM: x86: Test the series" "" "Nothing to see." \
		>"$t/patches/eli/cover"
	cat >"$t/$new" <<-'E'
	/* SPDX-License-Identifier: GPL-2.0-only */
	#ifndef __KVM_X86_SERIES_TEST_H
	#define __KVM_X86_SERIES_TEST_H

	static inline void kvm_series_test(void) { }

	#endif /* __KVM_X86_SERIES_TEST_H */
	E
	write_patch patches/eli/1.patch "KVM: x86: Add a helper" "$new" "$declare_fn"
	write_patch patches/eli/2.patch "KVM: x86: Use the helper" "" \
		"$declare_fn" "$call_fn"
}

series()
{
	BUILD=$t/build "$t/scripts/series.sh" "$@" >"$log" 2>&1
}

# refused COMMAND WHAT PATTERN...: it fails and says each of the patterns.
refused()
{
	local command=$1 what=$2 pattern

	! series "$command" || fail "$what is accepted"
	for pattern in "${@:3}"; do
		grep -qE -- "$pattern" "$log" ||
			fail "$what is not reported as /$pattern/"
	done
	! grep -q '^  STEP' "$log" || [[ $pattern == *build* ]] ||
		fail "$what is only found after a build"
	pass "refused: $what"
}

reset
series make || fail "series.sh make fails for a good series"
grep -q '^  SERIES *vswap: no patches yet' "$log" ||
	fail "an empty series is not mentioned"
mails=("$t"/build/series/eli/*)
[[ ${#mails[@]} == 3 && ${mails[0]##*/} == 0000-cover-letter.patch ]] ||
	fail "two patches became the mails ${mails[*]##*/}"
grep -q '^Subject: \[PATCH 0/2\] KVM: x86: Test the series$' "${mails[0]}" &&
	grep -q '^base-commit: v6' "${mails[0]}" ||
	fail "the cover letter lacks its subject or base"
grep -q "^+++ b/$new\$" "${mails[1]}" ||
	fail "an overlay file is not part of the patch that adds it"
! grep -q '^Overlay:' "${mails[@]}" || fail "an Overlay: line was mailed"
pass "make: cover letter, overlay file and empty series"

SERIES_PREFIX="RFC PATCH v2" series make &&
	grep -q '^Subject: \[RFC PATCH v2 1/2\] KVM: x86: Add a helper$' \
		"$t/build/series/eli/"0001-*.patch ||
	fail "SERIES_PREFIX does not end up in the subject"
pass "SERIES_PREFIX"

# Line numbers and fuzz.
cp "$t/patches/eli/2.patch" "$tmp/2.patch"
perl -pi -e 's/^@@ -(\d+),(\d+) \+(\d+),/sprintf("@@ -%d,%d +%d,", $1 + 3, $2, $3 + 3)/e' \
	"$t/patches/eli/2.patch"
! cmp -s "$tmp/2.patch" "$t/patches/eli/2.patch" || fail "test bug: no hunk"
series refresh || fail "refresh fails for a patch with an offset"
diff <(grep -v ^index "$tmp/2.patch") <(grep -v ^index "$t/patches/eli/2.patch") \
	>"$log" || fail "refresh does not restore a patch with an offset"
cp "$t/patches/eli/1.patch" "$tmp/1.patch"
series refresh && cmp -s "$tmp/1.patch" "$t/patches/eli/1.patch" ||
	fail "refresh changes a patch that is up to date"
pass "refresh"

sed -i 's/^ void kvm_inject_pending/ void kvm_inject_no_pending/; s/^ {/ {;/' \
	"$t/patches/eli/2.patch"
refused make "a patch with wrong context" 'patches/eli/2\.patch does not apply'
refused refresh "a patch with wrong context" 'patches/eli/2\.patch does not apply'

reset
sed -i 's/^+\tkvm_series_test();/& /' "$t/patches/eli/2.patch"
refused check "a trailing space" 'TRAILING_WHITESPACE' \
	'patches/eli/2\.patch: checkpatch\.pl'

reset
mkdir -p "$t/virt/kvm/foo"
echo >"$t/virt/kvm/foo/bar.c"
refused make "an overlay file that no patch adds" 'virt/kvm/foo/bar\.c'

reset
write_patch patches/eli/2.patch "KVM: x86: Use the helper" "$new" \
	"$declare_fn" "$call_fn"
refused make "an overlay file that two patches add" \
	"$new is claimed by both patches/eli/1\.patch and patches/eli/2\.patch"

reset
rm "$t/$new"
refused make "an overlay file that is missing" "patches/eli/1\.patch lists .*$new"

reset
echo ../common/gone.patch >>"$t/patches/vswap/series"
refused make "a missing patch" 'patches/vswap/series names \.\./common/gone\.patch'

reset
cp "$t/patches/eli/1.patch" "$t/patches/eli/3.patch"
refused make "a patch in no series" 'patches/eli/3\.patch is in no series'

reset
rm "$t/patches/eli/cover"
refused make "a series without a cover letter" 'patches/eli/cover is missing'

reset
sed -i "s/^Subject: .*/Subject: x86\/kvm: add a helper./" "$t/patches/eli/1.patch"
sed -i '/^Signed-off-by/d' "$t/patches/eli/2.patch"
refused check "a bad subject and a missing sign-off" \
	'patches/eli/1\.patch: the subject .* is not of the form' \
	'patches/eli/2\.patch: no "Signed-off-by'

reset
sed -i "s/^Subject: .*/& for the sole purpose of having a subject that is too long to be read/" \
	"$t/patches/eli/2.patch"
refused check "a long subject" 'patches/eli/2\.patch: the subject has'

reset
sed -i "s,^static inline,/**\n * not kernel-doc\n */\n&," "$t/$new"
refused check "a comment that is no kernel-doc" \
	"patches/eli/1\.patch: kernel-doc comments of $new do not parse"

reset
mkdir -p "$t/virt/kvm/foo"
printf '// SPDX-License-Identifier: GPL-2.0-only\n' >"$t/virt/kvm/foo/bar.c"
sed -i "s,^Overlay:.*,&\nOverlay: virt/kvm/foo/*.c," "$t/patches/eli/1.patch"
refused check "a new directory without a maintainer" \
	'patches/eli/1\.patch: virt/kvm/foo/bar\.c has no entry in MAINTAINERS'

# Builds at its end only: the first patch calls what the second one declares.
# (The compiler stops early, so this costs little.)
reset
write_patch patches/eli/1.patch "KVM: x86: Use the helper" "" "$call_fn"
write_patch patches/eli/2.patch "KVM: x86: Add a helper" "$new" \
	"$call_fn" "$declare_fn"
refused check "a series that builds at its end only" \
	'patches/eli/1\.patch: the modules do not build'

# stage-tree.sh by itself.
reset
BUILD=$t/build MAX_PATCHES=1 "$t/scripts/stage-tree.sh" "$source" "$tmp/out" eli \
	>"$log" 2>&1 || fail "stage-tree.sh fails with MAX_PATCHES=1"
[[ -f $tmp/out/$new ]] && ! grep -q kvm_series_test "$tmp/out/$irq" ||
	fail "MAX_PATCHES=1 does not stage exactly the first patch"
BUILD=$t/build "$t/scripts/stage-tree.sh" "$source" "$tmp/out" eli \
	>"$log" 2>&1 || fail "stage-tree.sh fails"
grep -q kvm_series_test "$tmp/out/$irq" ||
	fail "stage-tree.sh without MAX_PATCHES does not stage all patches"
rm "$t/$new"
! BUILD=$t/build "$t/scripts/stage-tree.sh" "$source" "$tmp/out" eli \
	>"$log" 2>&1 || fail "stage-tree.sh ignores that an overlay file is missing"
pass "stage-tree.sh: MAX_PATCHES and a missing overlay file"
