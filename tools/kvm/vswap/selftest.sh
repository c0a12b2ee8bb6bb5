#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Verify that vswap does what vswap(8) says.  Without a mount of kvm_vswap that is
# what it refuses, and how it reports nothing.  With VSWAP_MOUNT, a mount with an
# image file "image" of 64 blocks or more, RAM files are made there, and reports
# are compared with what is done to them; this takes python3 and root.
#
# VSWAP in the environment is a program to test instead of building one.
# Output is TAP; the exit status is 0 if all is well, 1 otherwise.

cd "$(dirname "$0")"
. ../lib/tap.sh

holder=
# shellcheck disable=SC2317 # by the trap
cleanup()
{
	[[ ! $holder ]] || kill "$holder" 2>/dev/null || :
	rm -rf "$tmp"
}
trap cleanup EXIT

if [[ ! ${VSWAP:-} ]]; then
	check "builds without a warning" make -s O="$tmp/bin" CFLAGS="-O2 -Werror"
	check "installs" make -s O="$tmp/bin" DESTDIR="$tmp/dest" PREFIX=/usr install-tools
	check "is installed" test -x "$tmp/dest/usr/sbin/vswap"
	VSWAP=$tmp/bin/vswap
fi

### The command line

usage=$("$VSWAP" --help)
check "--help tells both commands" grep -q "vswap top" <<<"$usage"
expect "--version" 0 "vswap 1" "$VSWAP" --version
expect "no command" 2 "$usage" "$VSWAP"
expect "another command" 2 "$usage" "$VSWAP" show
expect "stat --help" 0 "$usage" "$VSWAP" stat --help
expect "an unknown option" 2 "vswap: unrecognized option '--csv'
$usage" "$VSWAP" stat --csv
for i in 0 -1 x 1x "" 1e9 nan; do
	expect "-i '$i'" 1 "vswap: -i $i: expected seconds, 0.01 to 86400" \
		"$VSWAP" stat -i "$i"
done
for n in 0 -1 x 1.5 "" 99999999999; do
	expect "-n '$n'" 1 "vswap: -n $n: expected a number, 1 or more" \
		"$VSWAP" stat -n "$n"
done
expect "top has one form" 1 "vswap: top has no other form" "$VSWAP" top --json
expect "no such process" 1 "vswap: 4194304: no such process" "$VSWAP" stat 4194304
expect "a process without RAM files" 1 \
	"vswap: $$: the process has no RAM file open" "$VSWAP" stat $$
expect "no such file" 1 "vswap: $tmp/none: No such file or directory" \
	"$VSWAP" stat "$tmp/none"
expect "another file" 1 "vswap: $tmp/got: not a RAM file of kvm_vswap" \
	"$VSWAP" stat "$tmp/got"
expect "a directory" 1 "vswap: $tmp: not a RAM file of kvm_vswap" \
	"$VSWAP" stat "$tmp"

if [[ ! -e /dev/full ]]; then
	result ok "a full disk # SKIP no /dev/full"
else
	# shellcheck disable=SC2016 # for the inner shell
	expect "a full disk" 1 "vswap: cannot write: No space left on device" \
		bash -c '"$1" stat --json >/dev/full' bash "$VSWAP"
fi

### RAM files

if [[ ! ${VSWAP_MOUNT:-} ]]; then
	result ok "RAM files # SKIP VSWAP_MOUNT is not set"
	echo "1..$count"
	exit "$failed"
fi

expect "an image" 1 "vswap: $VSWAP_MOUNT/image: not a RAM file of kvm_vswap" \
	"$VSWAP" stat "$VSWAP_MOUNT/image"

# Holds a RAM file of 100 pages of which 64 are aliases and 10 written, and another
# that has no name, and does one thing for each line that it is given.
cat >"$tmp/holder.py" <<'END'
import mmap, os, sys
PAGE = 4096
mount = sys.argv[1]
ram = os.open(mount + "/a \"b\"\\c", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(ram, 100 * PAGE)
memory = mmap.mmap(ram, 100 * PAGE)
image = os.open(mount + "/image", os.O_RDWR | os.O_DIRECT)
unnamed = os.open(mount + "/unnamed", os.O_RDWR | os.O_CREAT, 0o600)
os.ftruncate(unnamed, 7 * PAGE)
os.unlink(mount + "/unnamed")
assert os.preadv(image, [memoryview(memory)[:64 * PAGE]], 0) == 64 * PAGE
for i in range(64, 74):
    memory[i * PAGE] = 1
print("ready", flush=True)
for line in sys.stdin:
    if line == "pageout\n":
        # What lies on a CPU's list of pages to be added stays; try again.
        for _ in range(100):
            for i in range(74):
                memory[i * PAGE]
            with open("/proc/sys/vm/compact_memory", "w") as f:
                f.write("1")
            memory.madvise(21)
    elif line == "write\n":
        for i in range(5):
            memory[i * PAGE] = 1
    print("done", flush=True)
END
mkfifo "$tmp/in" "$tmp/out"
python3 "$tmp/holder.py" "$VSWAP_MOUNT" <"$tmp/in" >"$tmp/out" &
holder=$!
exec 3>"$tmp/in" 4<"$tmp/out"
answer=
read -r -t 60 answer <&4 || :
[[ $answer == ready ]] || { echo "Bail out! no RAM files: $answer"; exit 1; }

tell() # WHAT
{
	echo "$1" >&3
	read -r -t 60 answer <&4
}

# Evaluate Python with the report "r", its VMs by size "vm", and the first one "a".
json() # NAME EXPRESSION ARGUMENT...
{
	"$VSWAP" stat --json "${@:3}" >"$tmp/json" 2>"$tmp/err" || :
	check_json "$1" "(lambda a: $2)(vm.get(100))" pages
}

json "both are found" "len(vm) == len(r['vms']) == 2"
json "by process" "len(vm) == 2 and a['pid'] == $holder" "$holder"
json "the process and the file are told" \
	"a['command'].startswith('python3') and a['file'] == '$VSWAP_MOUNT/a \"b\"\\\\c'"
json "the unnamed one is told" "'deleted' in vm[7]['file']"
json "levels" "r['page_size'] == 4096 and a['resident'] == 74 and
	a['aliases'] == a['aliases_resident'] == 64 and
	a['aliased_by_read'] == 64 and a['swapped'] == 0 and
	vm[7]['resident'] == 0" "$holder"
json "by name" "len(vm) == 1 and a['aliases'] == 64 and a['pid'] == 0" \
	"$VSWAP_MOUNT/a \"b\"\\c"
json "by name and process" "len(r['vms']) == 2" "$holder" "$VSWAP_MOUNT/a \"b\"\\c"
tell pageout
json "dropped ones" "a['aliases'] == 64 and a['aliases_resident'] == 0" "$holder"
tell write
json "written ones" "a['aliases'] == 59 and a['broken_by_guest'] == 5" "$holder"

"$VSWAP" stat "$holder" >"$tmp/got"
check "text: a line each, below a header" test "$(wc -l <"$tmp/got")" == 3
# shellcheck disable=SC2016 # for awk
check "text: columns" awk -v pid="$holder" '
	NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i; n = NF }
	NF != n { exit 1 }
	NR > 1 && $column["size"] == "400K" && $column["pid"] == pid &&
	$column["alias"] == "236K" && $column["broken"] == 5 { found = 1 }
	END { exit !found }' "$tmp/got"

# Rates: nothing more happens between the first and the second.
"$VSWAP" stat -i 0.1 -n 2 "$holder" >"$tmp/got"
# shellcheck disable=SC2016 # for awk
check "text: events per second" awk '
	NR == 1 { for (i = 1; i <= NF; i++) column[$i] = i }
	$column["size"] == "400K" { broken[n++] = $column["broken"] }
	END { exit !(n == 2 && broken[0] == 5 && broken[1] == 0) }' "$tmp/got"
"$VSWAP" stat -n 3 -i 0.01 --json >"$tmp/got"
check "a JSON object a line" test "$(grep -c '^{.*}$' "$tmp/got")" == 3
"$VSWAP" top -n 2 -i 0.01 >"$tmp/got"
check "top clears the screen" test "$(grep -c $'\e\\[2J2 RAM files' "$tmp/got")" == 2

"$VSWAP" stat --prometheus "$holder" >"$tmp/got"
check_prometheus kvm_vswap_swapped
check "Prometheus: a value" grep -q '^kvm_vswap_broken_by_guest_total{.*} 5$' "$tmp/got"

# Not as everybody.
if setpriv --reuid 65534 --clear-groups true 2>/dev/null; then
	cp "$VSWAP" "$tmp/vswap"
	chmod 755 "$tmp" "$tmp/vswap"
	expect "without permission" 1 \
		"vswap: $VSWAP_MOUNT/a \"b\"\\c: Permission denied" \
		setpriv --reuid 65534 --clear-groups "$tmp/vswap" stat \
		"$VSWAP_MOUNT/a \"b\"\\c"
else
	result ok "without permission # SKIP no setpriv"
fi

kill "$holder"
wait "$holder" 2>/dev/null || :
holder=
json "they are gone with the process" "not vm"
json "but for what has a name" "len(vm) == 1 and a['aliases'] == 59" \
	"$VSWAP_MOUNT/a \"b\"\\c"
rm "$VSWAP_MOUNT/a \"b\"\\c"

finish
