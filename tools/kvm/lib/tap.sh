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

# Evaluate Python with the report "r" in $tmp/json, and its VMs "vm" by what KEY names.
check_json() # NAME EXPRESSION [KEY]
{
	check "$1" python3 -c '
import json, sys
r = json.load(open(sys.argv[1]))
vm = {v[sys.argv[3]]: v for v in r["vms"]}
if not eval("(" + sys.argv[2] + ")"):
    sys.exit(json.dumps(r, indent=1))' "$tmp/json" "$2" "${3-pid}"
}

# What is in $tmp/got has the text form of Prometheus, counters are named as such, and
# GAUGE is none.
check_prometheus() # GAUGE
{
	check "Prometheus: form" python3 -c '
import re, sys
types = {}
for line in open(sys.argv[1]):
    if line.startswith("# TYPE "):
        types[line.split()[2]] = line.split()[3]
        continue
    if line.startswith("# HELP "):
        continue
    label = r"\w+=\"(?:[^\"\\]|\\[\\n\"])*\""
    m = re.fullmatch(rf"(\w+)\{{{label}(?:,{label})*\}} \d+(?:\.\d+)?\n", line)
    assert m, line
    assert (types[m[1]] == "counter") == m[1].endswith("_total"), line
assert types[sys.argv[2]] == "gauge"' "$tmp/got" "$1"
}

# A file in place of one of the kernel's, below $tmp/fs.
put() # FILE TEXT
{
	mkdir -p "$(dirname "$tmp/fs/$1")"
	printf '%s\n' "$2" >"$tmp/fs/$1"
}

# The plan, and the exit status: 0 if all is well, 1 otherwise.
finish()
{
	echo "1..$count"
	exit "$failed"
}
