# SPDX-License-Identifier: GPL-2.0-only
# shellcheck shell=bash
#
# What selftests of tools share: tests, as TAP, and a directory for their files, $tmp.
# To be sourced by bash; "set -e" is on then.  Ends with "finish".

set -euo pipefail
export LC_ALL=C
unset MAKEFLAGS MFLAGS MAKELEVEL O OUTPUT DESTDIR

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

count=0
failed=0

echo "TAP version 13"

# Tell the result of a test, with FILE as the reason if it is not ok.
result() # ok|not NAME [FILE]
{
	count=$((count + 1))
	if [[ $1 == ok ]]; then
		printf 'ok %d - %s\n' "$count" "$2"
		return
	fi
	failed=1
	printf 'not ok %d - %s\n' "$count" "$2"
	[[ ! -s ${3-} ]] || sed 's/^/# /' "$3"
}

# Run a command; it must have this exit status and print exactly this.
expect() # NAME STATUS OUTPUT COMMAND...
{
	local name=$1 status=$2 output=$3 got=0

	shift 3
	"$@" >"$tmp/got" 2>&1 || got=$?
	printf '%s' "${output:+$output$'\n'}" >"$tmp/want"
	if [[ $got == "$status" ]] && cmp -s "$tmp/want" "$tmp/got"; then
		result ok "$name"
		return
	fi
	{
		echo "status $got, expected $status; output (- expected, + got):"
		diff -U 99 "$tmp/want" "$tmp/got" | tail -n +4 || :
	} >"$tmp/why"
	result not "$name" "$tmp/why"
}

# A command must succeed; what it prints is the reason if it does not.
check() # NAME COMMAND...
{
	if "${@:2}" >"$tmp/why" 2>&1; then
		result ok "$1"
	else
		result not "$1" "$tmp/why"
	fi
}

# The plan, and the exit status: 0 if all is well, 1 otherwise.
finish()
{
	echo "1..$count"
	exit "$failed"
}
