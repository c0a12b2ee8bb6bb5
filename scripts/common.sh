# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# Shared by the build and test scripts: paths and messages.  Source it first.

set -euo pipefail
export LC_ALL=C

TOP=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
: "${BUILD:=$TOP/build}"
: "${KERNEL_SERIES:=6.12}"

# Top-level directories of the overlay; a file below one of them has the path
# that it would have in the kernel tree.
# shellcheck disable=SC2034 # used by the scripts that source this file
OVERLAY_DIRS=(arch virt drivers include tools/kvm tools/testing/selftests
	      Documentation/virt)

note()
{
	printf '  %-8s %s\n' "$1" "${*:2}"
}

# One clear sentence on what is wrong and what to do, nothing changed.
die()
{
	printf 'alleviate: %s\n' "$*" >&2
	exit 1
}

# The features asked for, in their canonical order, each checked to exist.
# "none" (or an empty string) selects the stock modules rebuilt unchanged.
canonical_features()
{
	local want=" ${1//[,+]/ } " all="eli viommu vswap" f out=""

	for f in $want; do
		[[ $f == none || " $all " == *" $f "* ]] ||
			die "unknown feature '$f' in FEATURES; known are: $all (or none)"
	done
	for f in $all; do
		[[ $want == *" $f "* ]] && out+="${out:+ }$f"
	done
	printf '%s\n' "$out"
}

# Patches of the given features in the order in which they apply, each once.
# A series line is a path relative to the directory of the series file, so a
# feature names a shared prerequisite as "../common/NAME.patch".
feature_patches()
{
	local f line path seen=" "

	for f in "$@"; do
		[[ -f $TOP/patches/$f/series ]] || continue
		while read -r line; do
			line=${line%%#*}
			line=${line// /}
			[[ $line ]] || continue
			path=$(realpath -m "$TOP/patches/$f/$line")
			[[ -f $path ]] ||
				die "patches/$f/series names $line, which does not exist"
			[[ $seen == *" $path "* ]] && continue
			seen+="$path "
			printf '%s\n' "$path"
		done <"$TOP/patches/$f/series"
	done
}

# Overlay files that a patch adds: its "Overlay:" header lines, which are shell
# globs relative to the top of the tree.
patch_overlay()
{
	local glob

	sed -n '/^diff --git/q; s/^Overlay:[[:space:]]*//p' "$1" |
	while read -r glob; do
		(cd "$TOP" && compgen -G "$glob") ||
			die "${1#"$TOP"/} lists overlay file $glob, which does not exist"
	done
}

# The configuration symbols of features, and the bool ones that they select.
feature_symbols()
{
	local f

	for f in $1; do
		echo "KVM_${f^^}"
		[[ $f != viommu ]] || echo KVM_SIDECORE
	done
}

# Files that exist before a patch and are changed by it.
patch_targets()
{
	sed -n 's,^--- a/\([^[:space:]]*\).*,\1,p' "$@" | sort -u
}
