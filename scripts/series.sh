#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# The upstream form of the features, made from the overlay and patches/:
#
#	series.sh make    ["FEATURES"]	write what gets mailed to build/series/FEATURE
#	series.sh check   ["FEATURES"]	make, then prove that each patch of it applies,
#					builds and has the form that KVM asks for
#	series.sh refresh ["FEATURES"]	rewrite patches/ with the line numbers and
#					context of the kernel source at hand
#
# The kernel is the one in build/kernel/current; KDIR and KSRC do not matter.
# SERIES_PREFIX (default PATCH) goes into the brackets of the subjects, e.g.
# "RFC PATCH v2".  The result depends on nothing but the kernel source,
# patches/ and the overlay: the same input gives the same mails.

. "$(dirname "$0")/common.sh"

: "${SERIES_PREFIX:=PATCH}"
ALL_FEATURES="eli viommu vswap"

# Neither a user's settings nor a calling git may change the result.
unset KDIR KSRC GIT_DIR GIT_WORK_TREE GIT_INDEX_FILE
export GIT_CONFIG_GLOBAL=/dev/null GIT_CONFIG_NOSYSTEM=1

series=$BUILD/series
work=$series/work

[[ $# -ge 1 && $# -le 2 ]] ||
	die "usage: ${0##*/} make|check|refresh [\"FEATURES\"]"
command=$1
features=$(canonical_features "${2-$ALL_FEATURES}")

rel()
{
	printf '%s\n' "${1#"$TOP"/}"
}

find_source()
{
	local abi

	[[ -L $BUILD/kernel/current ]] || "$TOP/scripts/fetch-kernel.sh" >/dev/null
	abi=$(readlink "$BUILD/kernel/current")
	kdir=$BUILD/kernel/$abi/kdir
	source=$BUILD/kernel/$abi/source
	release=$(awk '/^(VERSION|PATCHLEVEL|SUBLEVEL) = / {
			v = v (v ? "." : "v") $3
		  } END { print v }' "$source/Makefile")
	package=$(<"$source/.debian-version")
	epoch=${SOURCE_DATE_EPOCH:-$(stat -c %Y "$source/Makefile")}
	export GIT_AUTHOR_DATE="@$epoch +0000" GIT_COMMITTER_DATE="@$epoch +0000"
}

# The value of a line of a patch's mail header.
patch_field()
{
	sed -n "/^\$/q; s/^$2:[[:space:]]*//p" "$1" | head -n 1
}

# What comes before the diff, less what only the overlay needs.
patch_message()
{
	patch_field "$1" Subject
	echo
	sed '/^diff --git/,$d' "$1" | sed '1,/^$/d' | sed '/^Overlay:/d'
}

# The patches of a feature, into the array "patches".  (A process substitution
# would lose the exit status.)
load_patches()
{
	local list

	list=$(feature_patches "$@")
	patches=()
	[[ -z $list ]] || mapfile -t patches <<<"$list"
}

# The overlay files of a patch, into the array "overlay".
load_overlay()
{
	local list

	list=$(patch_overlay "$1")
	overlay=()
	[[ -z $list ]] || mapfile -t overlay <<<"$list"
}

# Each overlay file belongs to one patch and each patch to a series.
check_claims()
{
	local -A owner=() used=()
	local p f d
	local -a patches overlay unclaimed=()

	# shellcheck disable=SC2086 # a list
	load_patches $ALL_FEATURES
	for p in "${patches[@]}"; do
		used[$p]=1
		load_overlay "$p"
		for f in "${overlay[@]}"; do
			[[ -f $TOP/$f ]] ||
				die "$(rel "$p") lists $f, which is not a file"
			[[ -z ${owner[$f]:-} ]] ||
				die "$f is claimed by both $(rel "${owner[$f]}") and $(rel "$p"); one patch adds a file"
			[[ ! -e $source/$f ]] ||
				die "$(rel "$p") adds $f, which Linux $release has already"
			owner[$f]=$p
		done
	done
	for p in "$TOP"/patches/*/*.patch; do
		[[ ! -f $p || ${used[$p]:-} ]] ||
			die "$(rel "$p") is in no series file"
	done
	for d in "${OVERLAY_DIRS[@]}"; do
		[[ -d $TOP/$d ]] || continue
		while read -r f; do
			[[ ${owner[$f]:-} ]] || unclaimed+=("$f")
		done < <(cd "$TOP" && find "$d" -type f | sort)
	done
	[[ ${#unclaimed[@]} == 0 ]] ||
		die "no patch adds ${unclaimed[*]}; name such files in an Overlay: line of the patch that introduces them"
}

# A repository of the pristine files that any patch changes.
make_work()
{
	local -a patches
	local f

	rm -rf "$work"
	mkdir -p "$work"
	# shellcheck disable=SC2086 # a list
	load_patches $ALL_FEATURES
	git -C "$work" init -q -b base
	if [[ ${#patches[@]} -gt 0 ]]; then
		while read -r f; do
			[[ -f $source/$f ]] || continue
			mkdir -p "$work/$(dirname "$f")"
			cp -p "$source/$f" "$work/$f"
		done < <(patch_targets "${patches[@]}")
	fi
	git -C "$work" add -A
	git -C "$work" -c user.name=linux -c user.email=linux@localhost \
		commit -q --allow-empty -m "Linux $release ($package)"
}

# Add a patch and its overlay files to the index of the work repository.
stage_patch()
{
	local p=$1 f
	local -a overlay

	if grep -q '^diff --git' "$p"; then
		git -C "$work" apply --index --whitespace=nowarn "$p" \
			2>"$series/log" || {
			cat "$series/log" >&2
			return 1
		}
	fi
	load_overlay "$p"
	for f in "${overlay[@]}"; do
		mkdir -p "$work/$(dirname "$f")"
		cp -p "$TOP/$f" "$work/$f"
		git -C "$work" add "$f"
	done
}

# Turn the index of the work repository into a commit, as the patch says.
commit_patch()
{
	local p=$1 from name email

	from=$(patch_field "$p" From)
	[[ $from =~ ^(.+)\ \<([^\<\>]+@[^\<\>]+)\>$ ]] ||
		die "$(rel "$p") has no valid \"From: NAME <ADDRESS>\" line"
	name=${BASH_REMATCH[1]} email=${BASH_REMATCH[2]}
	[[ $(patch_field "$p" Subject) ]] ||
		die "$(rel "$p") has no Subject: line"
	patch_message "$p" |
	GIT_AUTHOR_NAME=$name GIT_AUTHOR_EMAIL=$email \
	GIT_COMMITTER_NAME=$name GIT_COMMITTER_EMAIL=$email \
	git -C "$work" commit -q --cleanup=whitespace -F - ||
		die "$(rel "$p") changes nothing"
}

# One branch and one directory of mails a feature.
make_series()
{
	local f=$1 out=$series/$1 cover=$TOP/patches/$1/cover p author
	local -a patches

	rm -rf "$out"
	load_patches "$f"
	if [[ ${#patches[@]} == 0 ]]; then
		note SERIES "$f: no patches yet"
		return
	fi
	[[ -s $cover ]] ||
		die "patches/$f/cover is missing; it holds the cover letter: the subject on its first line, then the text"

	git -C "$work" checkout -q -b "$f" base
	for p in "${patches[@]}"; do
		stage_patch "$p" ||
			die "$(rel "$p") does not apply to Linux $release ($package); refresh it against this release"
		commit_patch "$p"
	done

	# The first paragraph of the description becomes the subject.
	git -C "$work" config "branch.$f.description" "$(
		head -n 1 "$cover"
		echo
		tail -n +2 "$cover" | sed '/./,$!d'
		echo
		echo "This series applies to Linux $release, as in Debian's package"
		echo "linux-source-$KERNEL_SERIES $package."
	)"
	author=$(git -C "$work" log -1 --format='%an <%ae>')
	GIT_COMMITTER_NAME=${author% <*} \
	GIT_COMMITTER_EMAIL=$(git -C "$work" log -1 --format=%ae) \
	git -C "$work" format-patch -q --cover-letter --no-signature --numbered \
		--cover-from-description=subject \
		--subject-prefix="$SERIES_PREFIX" -o "$out" base.."$f"
	printf 'base-commit: %s\n' "$release" >>"$out/0000-cover-letter.patch"
	note SERIES "$f: ${#patches[@]} patches -> $(rel "$out")"
}

# Checks report every problem of one class; the first class with any ends it.
problem()
{
	printf 'alleviate: %s\n' "$*" >&2
	problems=$((problems + 1))
}

end_class()
{
	[[ $problems == 0 ]] ||
		die "$1: $problems problem(s) with $2"
}

# Subject and sign-off, as KVM x86 and the style of this project want them.
check_form()
{
	local f=$1 k p subject from

	for k in "${!patches[@]}"; do
		p=$(rel "${patches[k]}")
		subject=$(git -C "$work" log -1 --format=%s "${commits[k]}")
		from=$(git -C "$work" log -1 --format='%an <%ae>' "${commits[k]}")
		[[ ${#subject} -le 75 ]] ||
			problem "$p: the subject has ${#subject} characters, more than 75"
		if [[ ! $subject =~ ^([A-Za-z0-9/_-]+:\ )+[A-Z] ||
		      $subject == *. || $subject =~ ^(x86/)?kvm: ]]; then
			problem "$p: the subject \"$subject\" is not of the form \"KVM: <topic>: Verb ...\""
		fi
		git -C "$work" log -1 --format=%b "${commits[k]}" |
			grep -qxF "Signed-off-by: $from" ||
			problem "$p: no \"Signed-off-by: $from\""
	done
	end_class "$f" "subjects and sign-offs"
}

# What arrives by mail is what was sent.
check_am()
{
	local f=$1 am=$series/am k p

	rm -rf "$am"
	git clone -q --shared --no-checkout "$work" "$am" 2>/dev/null
	git -C "$am" checkout -q --detach "$(git -C "$work" rev-parse base)"
	for k in "${!patches[@]}"; do
		p=$(rel "${patches[k]}")
		git -C "$am" -c user.name=linux -c user.email=linux@localhost \
			am -q "${mails[k]}" >"$series/log" 2>&1 || {
			cat "$series/log" >&2
			problem "$p: ${mails[k]##*/} does not apply with git am"
			break
		}
		[[ $(git -C "$am" rev-parse 'HEAD^{tree}') == \
		   $(git -C "$work" rev-parse "${commits[k]}^{tree}") ]] ||
			problem "$p: ${mails[k]##*/} differs from the patch after git am"
	done
	end_class "$f" "git am"
}

# checkpatch, and for added files kernel-doc and MAINTAINERS.  The latter
# replaces checkpatch's question about added files, which has no answer.
check_style()
{
	local f=$1 k p file mpath
	local -a args=(--strict --quiet --no-summary --show-types --terse --showfile
		       --ignore FILE_PATH_CHANGES)
	# The form that all headers with trace events have.
	local trace='/trace\.h:[0-9]*: CHECK:(OPEN_ENDED_LINE|PARENTHESIS_ALIGNMENT|SPACING):'
	# What user space is made of: names of its libraries, and scripts.
	local user='^tools/kvm/.*:(CAMELCASE|LONG_LINE[A-Z_]*|EXECUTE_PERMISSIONS|PREFER_DEFINED_ATTRIBUTE_MACRO):'

	if [[ -f /usr/share/codespell/dictionary.txt ]] ||
	   python3 -c 'import codespell_lib' 2>/dev/null; then
		args+=(--codespell)
	fi
	for k in "${!patches[@]}"; do
		p=$(rel "${patches[k]}")
		(cd "$source" && scripts/checkpatch.pl "${args[@]}" "${mails[k]}") \
			>"$series/log" 2>&1 || true
		if grep -vE "$trace|$user" "$series/log" >&2; then
			problem "$p: checkpatch.pl --strict is not clean"
		fi
		# A missing newline at the end, conflict markers and the like,
		# also where checkpatch does not look.
		git -C "$work" diff --check "${commits[k]}^" "${commits[k]}" \
			>"$series/log" 2>&1 || {
			cat "$series/log" >&2
			problem "$p: whitespace errors"
		}
	done
	end_class "$f" "checkpatch.pl"

	git -C "$series/am" checkout -q "${commits[-1]}"
	mpath=$series/am/MAINTAINERS
	[[ -f $mpath ]] || mpath=$source/MAINTAINERS
	for k in "${!patches[@]}"; do
		p=$(rel "${patches[k]}")
		while read -r file; do
			if [[ $file == *.[ch] ]]; then
				"$source/scripts/kernel-doc" -none -Werror \
					"$series/am/$file" >"$series/log" 2>&1 || {
					cat "$series/log" >&2
					problem "$p: kernel-doc comments of $file do not parse"
				}
			fi
			printf -- '--- /dev/null\n+++ b/%s\n@@ -0,0 +1 @@\n+\n' \
				"$file" >"$series/log"
			(cd "$source" && scripts/get_maintainer.pl --no-git \
			 --no-git-fallback --no-rolestats --no-n --no-r --no-l \
			 --no-fixes --subsystem --mpath="$mpath" "$series/log") |
				grep -qvE '@|^THE REST$' ||
				problem "$p: $file has no entry in MAINTAINERS"
		done < <(git -C "$work" diff --diff-filter=A --name-only \
			 --no-renames "${commits[k]}^" "${commits[k]}")
	done
	end_class "$f" "added files"
}

# Build the modules after each patch, with the symbols that stage-tree.sh sets.
# A step whose content built before is not built again.
check_build()
{
	local f=$1 build=$series/build k p key step staged file abi
	local -a out=()

	abi=$(readlink "$BUILD/kernel/current")
	mkdir -p "$build/built"
	ln -sfn "$(realpath "$BUILD/kernel")" "$build/kernel"
	staged=$build/tree/$abi-amd64/$f
	for k in "${!patches[@]}"; do
		p=$(rel "${patches[k]}")
		step="$f $((k + 1))/${#patches[@]}"
		key=$({
			echo "$f $package"
			git -C "$work" rev-parse "${commits[k]}^{tree}"
			"${CC:-gcc}" --version | head -n 1
			cat "$kdir/.config" "$TOP/scripts/"{common,stage-tree,build-modules}.sh
		} | sha256sum | cut -d' ' -f1)
		if [[ -f $build/built/$key ]]; then
			note STEP "$step built before: $p"
			continue
		fi
		note STEP "$step: $p"
		MAX_PATCHES=$((k + 1)) BUILD=$build \
			"$TOP/scripts/build-modules.sh" "$f" >"$series/log" || {
			problem "$p: the modules do not build cleanly after this patch"
			break
		}
		# What was built is what gets mailed.  KVM's makefile is
		# adjusted to its place outside of the kernel tree.
		git -C "$series/am" checkout -q "${commits[k]}"
		mapfile -t out < <(git -C "$work" diff --name-only \
				   --no-renames --diff-filter=d base "${commits[k]}")
		for file in "${out[@]}"; do
			[[ $file == arch/x86/kvm/Makefile ]] ||
				cmp -s "$series/am/$file" "$staged/$file" ||
				problem "$p: $file as built differs from $file as mailed"
		done
		[[ $problems == 0 ]] || break
		touch "$build/built/$key"
	done
	end_class "$f" "the build"
}

check_series()
{
	local f=$1
	local -a patches commits mails

	load_patches "$f"
	[[ ${#patches[@]} -gt 0 ]] || return 0
	mapfile -t commits < <(git -C "$work" rev-list --reverse base.."$f")
	mails=("$series/$f"/0*.patch)
	mails=("${mails[@]:1}")
	[[ ${#commits[@]} == "${#patches[@]}" &&
	   ${#mails[@]} == "${#patches[@]}" ]] ||
		die "$f: ${#patches[@]} patches became ${#mails[@]} mails"

	problems=0
	check_form "$f"
	check_am "$f"
	check_style "$f"
	check_build "$f"
	nseries=$((nseries + 1))
	npatches=$((npatches + ${#patches[@]}))
	note CHECKED "$f: ${#patches[@]} patches"
}

# Rewrite the diff of each patch of a feature.  A patch is only touched if its
# context or line numbers changed.
refresh_series()
{
	local f=$1 p old new
	local -a patches overlay

	load_patches "$f"
	[[ ${#patches[@]} -gt 0 ]] || return 0
	git -C "$work" checkout -q -b "$f" base
	for p in "${patches[@]}"; do
		if ! stage_patch "$p" 2>/dev/null; then
			git -C "$work" reset -q --hard
			patch -d "$work" -p1 --no-backup-if-mismatch --force \
				--input="$p" >"$series/log" 2>&1 || {
				cat "$series/log" >&2
				die "$(rel "$p") does not apply to Linux $release ($package) even with fuzz; port it by hand"
			}
			git -C "$work" add -A
			load_overlay "$p"
		else
			load_overlay "$p"
			[[ ${#overlay[@]} == 0 ]] ||
				git -C "$work" rm -q -f --cached "${overlay[@]}"
		fi
		new=$(git -C "$work" diff --cached --no-renames)
		old=$(sed -n '/^diff --git/,$p' "$p")
		if [[ $(grep -v '^index ' <<<"$new") != "$(grep -v '^index ' <<<"$old")" ]]; then
			{
				sed '/^diff --git/,$d' "$p"
				printf '%s\n' "$new"
			} >"$p.tmp"
			mv "$p.tmp" "$p"
			note REFRESH "$(rel "$p")"
		fi
		# Overlay files are not part of the diff but of what follows.
		for old in "${overlay[@]}"; do
			mkdir -p "$work/$(dirname "$old")"
			cp -p "$TOP/$old" "$work/$old"
		done
		git -C "$work" add -A
		commit_patch "$p"
	done
}

[[ $command == @(make|check|refresh) ]] ||
	die "unknown command '$command'; known are: make check refresh"

# One at a time; build-modules.sh uses descriptor 9 for its own lock.
mkdir -p "$series"
exec 8>"$series/.lock"
flock 8
trap 'rm -f "$series/log"' EXIT

find_source
check_claims
make_work

if [[ $command == refresh ]]; then
	for feature in $features; do
		refresh_series "$feature"
	done
	exit 0
fi

for feature in $features; do
	make_series "$feature"
done
[[ $command == check ]] || exit 0

nseries=0
npatches=0
for feature in $features; do
	check_series "$feature"
done
if [[ $npatches == 0 ]]; then
	note OK "0 series, 0 patches: nothing to check"
	exit 0
fi
note OK "$nseries series, $npatches patches: each applies, builds without warnings and is checkpatch.pl --strict clean on Linux $release"
