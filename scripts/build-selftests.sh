#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Build the KVM selftests of the kernel in build/kernel/current:
#
#	build-selftests.sh ["FEATURES"]
#
# FEATURES "none" (the default) builds them as the source package has them.
# Else the patches and overlay files of the features are applied before, as
# stage-tree.sh does it for the modules: changed and new selftests are built
# then, against the patched UAPI headers.
#
# The programs are static and lie at build/selftests/ABI/FEATURES/kvm/; what
# the selftests' Makefile counts as a test is listed, a line each, in "tests"
# beside that.  Nothing is written to the kernel source.

. "$(dirname "$0")/common.sh"

features=$(canonical_features "${1-none}")
name=${features:-none}
name=${name// /+}
read -ra feature_list <<<"$features"

[[ -L $BUILD/kernel/current ]] || "$TOP/scripts/fetch-kernel.sh" >/dev/null
abi=$(readlink "$BUILD/kernel/current")
source=$(realpath "$BUILD/kernel/$abi/source")
base=$BUILD/selftests/$abi
out=$base/$name
headers=$base/headers
log=$out/build.log

mkdir -p "$out"
exec 9>"$base/.lock"
flock 9

mapfile -t patches < <(feature_patches "${feature_list[@]}")
wait $!
overlay=()
for p in "${patches[@]}"; do
	mapfile -t -O ${#overlay[@]} overlay < <(patch_overlay "$p")
	wait $!
done

# All that the result depends on.
stamp=$({
	cat "$BUILD/kernel/$abi/version" "$0" "$TOP/scripts/common.sh"
	gcc --version
	for f in "${patches[@]}" "${overlay[@]/#/$TOP/}"; do
		printf '%s\n' "$f"
		cat "$f"
	done
} | sha256sum)
if [[ -f $out/stamp && $(<"$out/stamp") == "$stamp" ]]; then
	exit 0
fi
rm -f "$out/stamp"

# run COMMAND...: quiet, with its output in the log
run()
{
	if [[ ${V:-0} == 1 ]]; then
		"$@" 2>&1 | tee -a "$log"
	else
		"$@" >>"$log" 2>&1 || {
			grep -E 'error:|Error|ERROR|undefined' "$log" >&2 ||
				tail -n 30 "$log" >&2
			die "the selftests ($name) do not build; the whole log is $log"
		}
	fi
}

: >"$log"
note SELFTEST "building KVM's selftests ($name)"

# The kernel's UAPI headers, which are the same for all features.
if [[ ! -f $headers/stamp ]] ||
   ! cmp -s "$BUILD/kernel/$abi/version" "$headers/stamp"; then
	rm -rf "$headers"
	mkdir -p "$headers"
	run make -s -C "$source" "O=$headers" headers
	cp "$BUILD/kernel/$abi/version" "$headers/stamp"
fi

stage=$out/tree.stage
trap 'rm -rf "$stage"' EXIT
rm -rf "$stage"
mkdir -p "$stage" "$out/tree"
(
	cd "$source" || exit
	find scripts/subarch.include tools/build/Build.include tools/include \
		tools/arch/x86/include tools/lib/rbtree.c tools/scripts \
		tools/testing/selftests/{kvm,rseq,lib.mk} \
		tools/testing/selftests/kselftest*.h -type f
	if [[ ${#patches[@]} -gt 0 ]]; then
		while read -r target; do
			[[ -f $target ]] && echo "$target"
		done < <(patch_targets "${patches[@]}")
	fi
) | sort -u | rsync -a --files-from=- "$source/" "$stage/"

for p in "${patches[@]}"; do
	if grep -q '^diff --git' "$p"; then
		run patch -d "$stage" -p1 --no-backup-if-mismatch --fuzz=0 \
			--force --input="$p"
	fi
done
for f in "${overlay[@]}"; do
	mkdir -p "$stage/${f%/*}"
	cp -p "$TOP/$f" "$stage/$f"
done

# The UAPI headers as "make headers" would install them from this tree.
mkdir -p "$stage/usr"
cp -a "$headers/usr/include" "$stage/usr/include"
for d in include/uapi arch/x86/include/uapi; do
	[[ -d $stage/$d ]] || continue
	while read -r f; do
		mkdir -p "$stage/usr/include/$(dirname "$f")"
		(cd "$headers" && run sh "$source/scripts/headers_install.sh" \
			"$stage/$d/$f" "$stage/usr/include/$f")
	done < <(cd "$stage/$d" && find . -name '*.h' -type f)
done

# Times of files whose content is the same stay, for an incremental build.  The
# selftests' Makefile does not know which programs depend on which headers.
changed=$(rsync -rlp --checksum --delete --out-format=%n "$stage/" "$out/tree/")
if grep -q '\.h$' <<<"$changed"; then
	rm -rf "$out/obj"
fi

args=(-C "$out/tree/tools/testing/selftests/kvm" "OUTPUT=$out/obj" ARCH=x86
      LLVM= CROSS_COMPILE= "USERLDFLAGS=-static")
run make "-j${JOBS:-$(nproc)}" "${args[@]}" all

# What the programs say about a failure needs symbols, not debug information.
# shellcheck disable=SC2016 # these are make variables
list=$(make -s "${args[@]}" \
	--eval='list: ; @printf "%s\n" $(TEST_GEN_PROGS) $(TEST_PROGS)' list)
# shellcheck disable=SC2016
extended=$(make -s "${args[@]}" \
	--eval='list: ; @printf "%s\n" $(TEST_GEN_PROGS_EXTENDED)' list)
rm -rf "$out/kvm"
while read -r f; do
	f=${f#"$out/obj/"}
	mkdir -p "$out/kvm/$(dirname "$f")"
	if [[ $f == *.sh ]]; then
		cp "$out/tree/tools/testing/selftests/kvm/$f" "$out/kvm/$f"
	else
		strip -g -o "$out/kvm/$f" "$out/obj/$f"
	fi
done <<<"$list
$extended"
echo "${list//"$out/obj/"/}" >"$out/tests"

echo "$stamp" >"$out/stamp"
note SELFTEST "$(wc -l <"$out/tests") tests -> ${out#"$TOP"/}"
