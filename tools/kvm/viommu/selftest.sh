#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Verify that the DMAR table, the launcher and the preload library do what
# viommu-run(1) says, without KVM, VFIO, QEMU and root: QEMU is a script, and
# KVM and VFIO are a second preloaded library that records what it is asked for.
#
# Output is TAP; the exit status is 0 if all is well, 1 otherwise.

cd "$(dirname "$0")"
. ../lib/tap.sh
unset "${!VIOMMU_@}" "${!MOCK_@}" LD_PRELOAD

bin=$tmp/bin
: "${CC:=cc}"

# The files must be the same.
same() # NAME FILE FILE
{
	check "$1" diff -u "$2" "$3"
}

# There must be nothing.
nothing() # NAME TEXT
{
	check "$1" diff -u <(:) <(printf '%s' "$2")
}

### Build

if ! {
	make -s O="$bin" CC="$CC" CFLAGS="-O2 -g -Werror" &&
	"$CC" -std=gnu11 -Wall -Wextra -Werror -D_GNU_SOURCE \
		-idirafter ../../../include/uapi -fPIC -shared -pthread \
		-o "$tmp/mock.so" selftest-mock.c -ldl &&
	"$CC" -std=gnu11 -Wall -Wextra -Werror -D_GNU_SOURCE -pthread \
		-o "$tmp/client" selftest-client.c
} >"$tmp/why" 2>&1; then
	result not "build" "$tmp/why"
	finish
fi
result ok "build"

touch "$tmp/mark"
make -s O="$bin" CC="$CC" >/dev/null
rebuilt=$(find "$bin" -newer "$tmp/mark" -type f)
nothing "nothing is rebuilt without need" "$rebuilt"

make -s O="$bin" CC="$CC" A2X=/nonexistent \
	ASCIIDOCTOR=/nonexistent DESTDIR="$tmp/dest" PREFIX=/usr install
(cd "$tmp/dest" && find . -type f | sort) >"$tmp/got"
printf './usr/%s\n' bin/viommu-dmar bin/viommu-run lib/libviommu.so sbin/viommu-stat \
	share/kvm-tools/kvm_vms.py >"$tmp/want"
same "install" "$tmp/want" "$tmp/got"

nm -D --defined-only "$bin/libviommu.so" | sed 's/.* //' >"$tmp/got"
printf '%s\n' close ioctl >"$tmp/want"
same "the library interposes ioctl and close alone" "$tmp/want" "$tmp/got"

### viommu-dmar

dmar=$bin/viommu-dmar
t=$tmp/table

expect "a table is written" 0 "" \
	"$dmar" --base 0xfed91000 --haw 39 --device 03.0 --device 00:1f.7 \
	--device=1c.0/00.1 --output "$t"
expect "and decoded" 0 "DMAR: 90 bytes, revision 1, checksum 0xb1
host address width 39, flags 0x00
DRHD: base 0xfed91000, 4096 bytes, segment 0, flags 0x00
  endpoint 00:03.0
  endpoint 00:1f.7
  endpoint 00:1c.0/00.1" "$dmar" --dump "$t"

# Against the specification, not against the decoder.
od -An -v -tx1 -w16 "$t" | sed 's/^ //' >"$tmp/got"
cat >"$tmp/want" <<'END'
44 4d 41 52 5a 00 00 00 01 b1 4c 49 4e 55 58 20
4b 56 4d 56 49 4f 4d 4d 01 00 00 00 4b 56 4d 20
01 00 00 00 26 00 00 00 00 00 00 00 00 00 00 00
00 00 2a 00 00 00 00 00 00 10 d9 fe 00 00 00 00
01 08 00 00 00 00 03 00 01 08 00 00 00 00 1f 07
01 0a 00 00 00 00 1c 00 00 01
END
same "byte by byte" "$tmp/want" "$tmp/got"

sum=$(($(od -An -v -tu1 -w1 "$t" | paste -sd+)))
check "the bytes add up to 0" test $((sum % 256)) = 0

if type -P iasl >/dev/null; then
	cp "$t" "$tmp/t.dat"
	iasl -d "$tmp/t.dat" >"$tmp/got" 2>&1 || :
	nothing "iasl decodes it" \
		"$(grep -iE 'invalid|error|unknown' "$tmp/t.dsl" 2>&1)"
else
	result ok "iasl decodes it # SKIP no iasl"
fi

"$dmar" -d 3.0 -o "$t"
expect "the defaults" 0 "DMAR: 72 bytes, revision 1, checksum 0x35
host address width 46, flags 0x00
DRHD: base 0xfed90000, 4096 bytes, segment 0, flags 0x00
  endpoint 00:03.0" "$dmar" --dump "$t"

# Each byte matters: a table with one changed must be refused.
accepted=
for ((i = 0; i < 72; i++)); do
	byte=$(od -An -tu1 -j "$i" -N 1 "$t")
	cp "$t" "$t.bad"
	printf -v octal '\\%03o' $((byte ^ 1))
	# shellcheck disable=SC2059 # an escape sequence
	printf "$octal" | dd of="$t.bad" bs=1 seek="$i" conv=notrunc status=none
	status=0
	"$dmar" --dump "$t.bad" >/dev/null 2>&1 || status=$?
	[[ $status == 1 ]] || accepted+=" $i"
done
nothing "one changed byte is found, wherever it is" "$accepted"

# A table that is right but for what is given: OFFSET:HEX, with a good checksum.
patched() # OFFSET:HEX...
{
	local patch total

	cp "$t" "$t.bad"
	for patch in "$@" 9:00; do
		printf '%b' "\\x${patch#*:}" |
			dd of="$t.bad" bs=1 seek="${patch%:*}" conv=notrunc status=none
	done
	total=$(($(od -An -v -tu1 -w1 "$t.bad" | paste -sd+)))
	printf '%b' "\\x$(printf %02x $(((256 - total % 256) % 256)))" |
		dd of="$t.bad" bs=1 seek=9 conv=notrunc status=none
}

bad_table() # MESSAGE OFFSET:HEX...
{
	local message=$1

	shift
	patched "$@"
	"$dmar" --dump "$t.bad" >/dev/null 2>"$tmp/got" && echo accepted >>"$tmp/got"
	echo "viommu-dmar: $t.bad: $message" >"$tmp/want"
	same "table refused: $message" "$tmp/want" "$tmp/got"
}

bad_table "not a DMAR table" 0:45
bad_table "length is 73, but the file has 72 bytes" 4:49
bad_table "unknown revision 0" 8:00
bad_table "impossible host address width 65" 36:40
bad_table "reserved field of the header is not 0" 47:01
bad_table "structure with impossible length 3" 50:03
bad_table "structure with impossible length 25" 50:19
bad_table "DRHD is too short" 50:0f
bad_table "truncated device scope" 50:15
bad_table "impossible register base 0xfed90001" 56:01
bad_table "device scope of unknown type 0" 64:00
bad_table "device scope of unknown type 6" 64:06
bad_table "device scope with impossible length 6" 65:06
bad_table "device scope with impossible length 10" 65:0a
bad_table "reserved field of a device scope is not 0" 66:01
bad_table "device scope with impossible path" 70:20
bad_table "no remapping unit" 48:01
patched
expect "a table that was changed to the same is accepted" 0 \
	"$("$dmar" --dump "$t")" "$dmar" --dump "$t.bad"
head -c 71 "$t" >"$t.bad"
expect "a truncated table is refused" 1 \
	"viommu-dmar: $t.bad: length is 72, but the file has 71 bytes" \
	"$dmar" --dump "$t.bad"
: >"$t.bad"
expect "an empty file is refused" 1 "viommu-dmar: $t.bad: not a DMAR table" \
	"$dmar" --dump "$t.bad"
expect "a directory is refused" 1 "viommu-dmar: $tmp: cannot be read" \
	"$dmar" --dump "$tmp"

rm -f "$tmp/none"
refused() # MESSAGE ARGUMENT...
{
	expect "refused: $1" 2 "viommu-dmar: $1" "$dmar" "${@:2}" --output="$tmp/none"
}

dev="expected [00:]DEV.FN or DEV.FN/DEV.FN, e.g. 03.0"
base="expected the address of a page, e.g. 0xfed90000"
refused "no --device is given"
refused "device 01:00.0: the guest gives bus 01 its number; tell the path from bus 0, as in 1c.0/00.0" \
	--device 01:00.0
for arg in '' 3 3. .0 20.0 3.8 3.0x 3.0/ /3.0 00:3 00:00:3.0 0x3.0 ' 3.0' -3.0 100:3.0; do
	refused "device $arg: $dev" "--device=$arg"
done
refused "device 00:03.0 is given twice" --device 3.0 --device 00:03.0
for arg in '' 0 0xfed90800 x 0xfed9g000 -4096 +4096 ' 4096' 0x -0x1000 \
	0x0x1000 0x10000000000000000; do
	refused "base $arg: $base" --device 3.0 "--base=$arg"
done
for arg in 31 53 x '' 0x 4294967328; do
	refused "haw $arg: expected a number of bits, 32 to 52" -d 3.0 "--haw=$arg"
done
refused "base 0x4000000000 has more bits than haw 38" -d 3.0 --haw 38 \
	--base 0x4000000000
refused "unexpected argument x" -d 3.0 x
refused "--dump goes with no other option" --dump "$t"
expect "refused: no output" 2 "viommu-dmar: no --output is given" "$dmar" -d 3.0
check "no file after a refusal" test ! -e "$tmp/none"
expect "an output that cannot be written" 1 \
	"viommu-dmar: $tmp/no/such: No such file or directory" \
	"$dmar" -d 3.0 -o "$tmp/no/such"
expect "an output that is full" 1 \
	"viommu-dmar: /dev/full: No space left on device" "$dmar" -d 3.0 -o /dev/full

### libviommu.so

# Run the client with these variables and commands; compare what it prints and,
# then, what it asks KVM and VFIO for.
client() # NAME OUTPUT LOG [VAR=VALUE]... COMMAND...
{
	local name=$1 output=$2 log=$3 vars=()

	shift 3
	while [[ $1 == [A-Z]* ]]; do
		vars+=("$1")
		shift
	done
	: >"$tmp/log"
	expect "$name" 0 "$output" env "${vars[@]}" MOCK_LOG="$tmp/log" \
		LD_PRELOAD="$bin/libviommu.so:$tmp/mock.so" timeout 20 "$tmp/client" "$@"
	printf '%s' "${log:+$log$'\n'}" >"$tmp/want"
	same "$name: calls" "$tmp/want" "$tmp/log"
}

dev1=0000:00:06.0
dev2=0000:00:07.0
devices=VIOMMU_DEVICES=$dev1=03.0,00:07.0=00:04.1
started="TEST vm1 type=12
CREATE vm1 type=12
HAS 0/0
HAS_STATE 0
BASE 0xfed90000
INIT"
added="ADD sid=0x18 name=$dev1 group=same"

client "a device" "$dev1: open
close: 0 0" "VM 0
GET $dev1
$started
$added
DEL sid=0x18
CLOSE $dev1" "$devices" vm get=$dev1 put=$dev1

client "two devices share the unit" "$dev1: open
$dev2: open
close: 0 0
close: 0 0" "VM 0
GET $dev1
$started
$added
GET $dev2
ADD sid=0x21 name=$dev2 group=same
DEL sid=0x18
CLOSE $dev1
DEL sid=0x21
CLOSE $dev2" "$devices" vm get=$dev1 get=$dev2 put=$dev1 put=$dev2

client "a device comes back" "$dev1: open
close: 0 0
$dev1: open" "VM 0
GET $dev1
$started
$added
DEL sid=0x18
CLOSE $dev1
GET $dev1
$added" "$devices" vm get=$dev1 put=$dev1 get=$dev1

client "all settings" "$dev1: open" "VM 0
GET $dev1
TEST vm1 type=12
CREATE vm1 type=12
HAS 0/0
HAS_STATE 0
BASE 0xfed80000
HAW 0x27
WORKER 0x2
TEARDOWN 0x1
MAX_PAGES 0x1000
INIT
ADD sid=0xff18 name=$dev1 group=same" "VIOMMU_DEVICES=$dev1=ff:03.0" \
	VIOMMU_BASE=0xfed80000 VIOMMU_HAW=39 VIOMMU_WORKER=task \
	VIOMMU_TEARDOWN=deferred VIOMMU_MAX_PAGES=4096 vm get=$dev1

for set in WORKER=none:0 WORKER=sidecore:1 TEARDOWN=strict:0 TEARDOWN=optimistic:2; do
	client "VIOMMU_${set%:*}" "$dev1: open" "VM 0
GET $dev1
${started%INIT}${set%%=*} 0x${set#*:}
INIT
$added" "$devices" "VIOMMU_${set%:*}" vm get=$dev1
done

client "a device with a token" "$dev1 vf_token=x: open" "VM 0
GET $dev1 vf_token=x
$started
ADD sid=0x18 name=$dev1 vf_token=x group=same" "$devices" vm "get=$dev1 vf_token=x"

client "another device is left alone" "0000:00:08.0: open
0000:00:06.00: open
close: 0 0" "VM 0
GET 0000:00:08.0
GET 0000:00:06.00
CLOSE 0000:00:08.0" "$devices" vm get=0000:00:08.0 get=0000:00:06.00 put=0000:00:08.0

client "no configuration" "$dev1: open
other: 7
close: 0 0" "VM 0
GET $dev1
OTHER 0xae03 42
CLOSE $dev1" vm get=$dev1 other put=$dev1

client "VFIO's own error" "$dev1: Device or resource busy" "VM 0
GET $dev1" "$devices" MOCK_FAIL=GET:16 vm get=$dev1

client "no VM" "viommu: cannot protect $dev1, as there is no VM of KVM yet: No such device
$dev1: No such device" "GET $dev1
CLOSE $dev1" "$devices" get=$dev1

client "the VM failed" "viommu: cannot protect $dev1, as there is no VM of KVM yet: No such device
$dev1: No such device" "VM 0
GET $dev1
CLOSE $dev1" "$devices" MOCK_FAIL=VM:16 vm get=$dev1

client "a VM that is gone" "viommu: cannot protect $dev1, as there is no VM of KVM yet: No such device
$dev1: No such device" "VM 0
CLOSE vm1
GET $dev1
CLOSE $dev1" "$devices" vm endvm get=$dev1

client "the VM that is in use" "$dev1: open" "VM 0
CLOSE vm1
VM 0
GET $dev1
${started//vm1/vm2}
$added" "$devices" vm endvm vm get=$dev1

client "the unit does not outlive its VM" "$dev1: open
close: 0 0
0000:00:09.0: open
close: 0 0
$dev1: open" "VM 0
GET $dev1
$started
$added
DEL sid=0x18
CLOSE $dev1
CLOSE unit
CLOSE vm1
VM 0
GET 0000:00:09.0
CLOSE 0000:00:09.0
GET $dev1
${started//vm1/vm2}
$added" "$devices" vm get=$dev1 put=$dev1 endvm vm get=0000:00:09.0 put=0000:00:09.0 get=$dev1

# What fails, at each step: the message, the errno, and what was done before.
step() # NAME CALL MESSAGE CALLS-UP-TO-IT CLEAN-UP [VAR=VALUE]
{
	client "$1 fails" "viommu: cannot $3: Operation not permitted
$dev1: Operation not permitted" "VM 0
GET $dev1
$4
${5:+$5
}CLOSE $dev1" "$devices" "MOCK_FAIL=$2:1" "${@:6}" vm get=$dev1
}

step "the test for the device type" TEST \
	"create the unit, is KVM loaded with viommu=1?" "TEST vm1 type=12" ""
step "creation" CREATE "create the unit" "TEST vm1 type=12
CREATE vm1 type=12" ""
step "the base" BASE "set up the unit with VIOMMU_BASE=(default)" "${started%?INIT}" \
	"CLOSE unit"
step "a setting" HAW "set up the unit with VIOMMU_HAW=39" "${started%INIT}HAW 0x27" \
	"CLOSE unit" VIOMMU_HAW=39
step "the start" INIT "start the unit" "$started" "CLOSE unit"
step "adding" ADD "put $dev1 behind the unit as 00:03.0" "$started
$added" ""

for fail in HAS HAS_STATE; do
	calls="TEST vm1 type=12
CREATE vm1 type=12
HAS 0/0"
	[[ $fail == HAS ]] || calls+=$'\nHAS_STATE 0'
	client "another device of that type ($fail)" \
		"viommu: cannot create the unit, type 12 is another device: No such device
$dev1: No such device" "VM 0
GET $dev1
$calls
CLOSE unit
CLOSE $dev1" "$devices" "MOCK_FAIL=$fail:6" vm get=$dev1
done

client "adding fails for the second device only" \
	"$dev1: open
viommu: cannot put $dev2 behind the unit as 00:04.1: File exists
$dev2: File exists
close: 0 0" "VM 0
GET $dev1
$started
$added
GET $dev2
ADD sid=0x21 name=$dev2 group=same
CLOSE $dev2
DEL sid=0x18
CLOSE $dev1" "$devices" "MOCK_FAIL=ADD sid=0x21:17" vm get=$dev1 get=$dev2 put=$dev1

client "taking away fails" "$dev1: open
viommu: cannot take $dev1 away from the unit: Operation not permitted
close: 0 0" "VM 0
GET $dev1
$started
$added
DEL sid=0x18
CLOSE $dev1" "$devices" MOCK_FAIL=DEL:1 vm get=$dev1 put=$dev1

client "VIOMMU_OPTIONAL=1 goes on" \
	"viommu: cannot create the unit, is KVM loaded with viommu=1?: No such device
$dev1: open
close: 0 0" "VM 0
GET $dev1
TEST vm1 type=12
CLOSE $dev1" "$devices" MOCK_FAIL=TEST:19 VIOMMU_OPTIONAL=1 vm get=$dev1 put=$dev1

client "VFIO gets the guest's memory" "map: 0
unmap: 0 4096
$dev1: open
map: 0
unmap: 0 4096
reset: 0
close: 0 0" "VM 0
MAP
UNMAP
GET $dev1
$started
$added
MAP
UNMAP
RESET $dev1
DEL sid=0x18
CLOSE $dev1" "$devices" vm map get=$dev1 map put=$dev1
client "VFIO does not with VIOMMU_PIN=mapped" "map: 0
unmap: 0 4096
$dev1: open
map: 0
unmap: 0 4096
reset: 0
viommu: cannot give 0000:00:09.0 to the guest, it would reach nothing (VIOMMU_PIN): Operation not permitted
0000:00:09.0: Operation not permitted
close: 0 0" "VM 0
GET $dev1
$started
$added
RESET $dev1
GET 0000:00:09.0
CLOSE 0000:00:09.0
DEL sid=0x18
CLOSE $dev1" "$devices" VIOMMU_PIN=mapped vm map get=$dev1 map get=0000:00:09.0 put=$dev1
client "which excludes VIOMMU_OPTIONAL=1" \
	"viommu: cannot create the unit, is KVM loaded with viommu=1?: No such device
$dev1: No such device" "VM 0
GET $dev1
TEST vm1 type=12
CLOSE $dev1" "$devices" MOCK_FAIL=TEST:19 VIOMMU_OPTIONAL=1 VIOMMU_PIN=mapped vm get=$dev1

for list in "$dev1" "$dev1=" "$dev1=3" "$dev1=03.8" "$dev1=20.0" "$dev1=03.0," \
	"$dev1=03.0;" "00:06=03.0" "x=03.0" ",$dev1=03.0" "$dev1=100:03.0" \
	"0:0:0:06.0=03.0" "$dev1 =03.0" "100:06.0=03.0" "00000:00:06.0=03.0"; do
	client "malformed: $list" \
		"viommu: cannot use VIOMMU_DEVICES=\"$list\": Invalid argument
$dev1: Invalid argument" "VM 0
GET $dev1
CLOSE $dev1" "VIOMMU_DEVICES=$list" vm get=$dev1
done
for list in "$dev1=03.0,00:06.0=04.0" "$dev1=03.0,$dev2=00:03.0"; do
	client "twice the same: $list" \
		"viommu: cannot use VIOMMU_DEVICES=\"$list\": File exists
$dev1: File exists" "VM 0
GET $dev1
CLOSE $dev1" "VIOMMU_DEVICES=$list" vm get=$dev1
done
for set in WORKER=x WORKER=Task TEARDOWN=0 BASE=x HAW=46x MAX_PAGES=-1; do
	before=${started%INIT}
	[[ $set != BASE=* ]] || before=${before%BASE*}
	client "malformed: VIOMMU_$set" \
		"viommu: cannot use VIOMMU_${set%%=*}=\"${set#*=}\": Invalid argument
$dev1: Invalid argument" "VM 0
GET $dev1
${before}CLOSE unit
CLOSE $dev1" "$devices" "VIOMMU_$set" vm get=$dev1
done

client "a child that closes everything" "$dev1: open
close: 0 0" "VM 0
GET $dev1
$started
$added
child CLOSE vm1
child CLOSE $dev1
child CLOSE unit
DEL sid=0x18
CLOSE $dev1" "$devices" vm get=$dev1 fork put=$dev1

client "a child that shares the memory" "$dev1: open
close: 0 0" "VM 0
GET $dev1
$started
$added
child CLOSE $dev1
DEL sid=0x18
CLOSE $dev1" "$devices" vm get=$dev1 vfork put=$dev1

client "a child that is forked while a device is added" "$dev1: open
close: 0 0" "VM 0
GET $dev1
$started
$added
child CLOSE vm1
child CLOSE $dev1
child CLOSE unit
DEL sid=0x18
CLOSE $dev1" "$devices" MOCK_DELAY=ADD:400 vm race=$dev1 put=$dev1

client "a VMM that goes to the background" "$dev1: open
close: 0 0" "child VM 0
child GET $dev1
child ${started//$'\n'/$'\n'child }
child $added
child DEL sid=0x18
child CLOSE $dev1" "$devices" daemon vm get=$dev1 put=$dev1

second=${started//vm1/vm2}
client "a child with a VM of its own" "$dev1: open
$dev1: open" "VM 0
GET $dev1
$started
$added
child VM 0
child GET $dev1
child ${second//$'\n'/$'\n'child }
child $added" "$devices" vm get=$dev1 daemon vm get=$dev1

# Of threads, the order is open: all are to get their device, and one unit.
: >"$tmp/log"
list=
all=
for i in 1 2 3 4 5 6; do
	list+=",0000:00:0$i.0=0$i.0"
	all+="+0000:00:0$i.0"
done
expect "devices in parallel" 0 "$(tr + '\n' <<<"${all#+}" | sed 's/$/: open/')" \
	env "VIOMMU_DEVICES=${list#,}" MOCK_LOG="$tmp/log" MOCK_DELAY=CREATE:50 \
	LD_PRELOAD="$bin/libviommu.so:$tmp/mock.so" timeout 20 "$tmp/client" \
	vm "par=${all#+}"
grep -cE '^(CREATE|INIT)' "$tmp/log" >"$tmp/got" || :
grep -c '^ADD' "$tmp/log" >>"$tmp/got" || :
printf '2\n6\n' >"$tmp/want"
same "devices in parallel: one unit" "$tmp/want" "$tmp/got"

# That the above can fail: without the library there is none of it.
: >"$tmp/log"
MOCK_LOG=$tmp/log LD_PRELOAD=$tmp/mock.so env "$devices" "$tmp/client" vm \
	get=$dev1 put=$dev1 >/dev/null
printf '%s\n' "VM 0" "GET $dev1" "CLOSE $dev1" >"$tmp/want"
same "without the library nothing is added" "$tmp/want" "$tmp/log"

### viommu-run

cat >"$tmp/qemu" <<'END'
#!/bin/bash
# Tell what QEMU would see; read the table as it does.
printf '<%s>\n' "$@"
env | grep '^VIOMMU_' | grep -v '^VIOMMU_PARAMETER=' | sort
env | grep '^LD_PRELOAD='
ls "$TMPDIR"
for arg in "$@"; do
	[[ $arg != file=/dev/fd/* ]] || cat "${arg#file=}" >"$TABLE"
done
exit 42
END
chmod +x "$tmp/qemu"
mkdir "$tmp/empty"
echo Y >"$tmp/Y"
echo N >"$tmp/N"

# Run the launcher; descriptors are compared without their number.
launch() # NAME STATUS OUTPUT ARGUMENT...
{
	local name=$1 status=$2 output=$3

	shift 3
	rm -f "$tmp/qemu.table"
	# shellcheck disable=SC2016 # for the inner shell
	expect "$name" "$status" "$output" env PATH="${path-$PATH}" VIOMMU_PARAMETER="${parameter-$tmp/Y}" \
		TMPDIR="$tmp/empty" TABLE="$tmp/qemu.table" bash -c \
		'"$@" 2>&1 | sed "s,/dev/fd/[0-9]*,/dev/fd/N,"; exit "${PIPESTATUS[0]}"' \
		bash "${launcher-$bin/viommu-run}" "$@"
}

# What QEMU sees: its arguments, the table's, and the environment.
seen() # DEVICES EXTRA ARGUMENT...
{
	printf '<%s>\n' "${@:3}" -acpitable file=/dev/fd/N
	{
		grep -q VIOMMU_BASE <<<"$2" || echo "VIOMMU_BASE=0xfed90000"
		grep -q VIOMMU_HAW <<<"$2" || echo "VIOMMU_HAW=46"
		echo "VIOMMU_DEVICES=$1"
		[[ ! $2 ]] || echo "$2"
	} | sort
	printf 'LD_PRELOAD=%s' "${preloaded-$bin/libviommu.so}"
}

table() # NAME OUTPUT
{
	"$dmar" --dump "$tmp/qemu.table" | tail -n +2 >"$tmp/got" || :
	echo "$2" >"$tmp/want"
	same "$1: table" "$tmp/want" "$tmp/got"
}

q=$tmp/qemu
args=(-m 1G -device "vfio-pci,host=01:00.0,addr=3" -name "a b" disk.img)
launch "one device" 42 "$(seen 0000:01:00.0=00:03.0 "" "${args[@]}")" "$q" "${args[@]}"
table "one device" "host address width 46, flags 0x00
DRHD: base 0xfed90000, 4096 bytes, segment 0, flags 0x00
  endpoint 00:03.0"
nothing "no file stays" "$(ls "$tmp/empty")"

args=(-device "vfio-pci,addr=0x1f.0x7,bus=pcie.0,id=n,host=abcd:EF:1f.7"
	--device "driver=vfio-pci,rombar=0,,x,addr=05.1,host=00:7.0,bus=pci.0"
	-device "virtio-net-pci,addr=4" -device e1000
	-device "vfio-pci-nohotplug,sysfsdev=/sys/bus/pci/devices/0000:02:00.0,addr=10")
launch "options in any order, and all of ours" 42 "$(seen \
	abcd:ef:1f.7=00:1f.7,0000:00:07.0=00:05.1,0000:02:00.0=00:10.0 \
	"VIOMMU_BASE=0xfed80000
VIOMMU_HAW=39
VIOMMU_MAX_PAGES=1000
VIOMMU_OPTIONAL=1
VIOMMU_PIN=mapped
VIOMMU_TEARDOWN=optimistic
VIOMMU_WORKER=none" "${args[@]}")" --base=0xfed80000 --haw=39 --worker=none \
	--teardown=optimistic --max-pages=1000 --pin=mapped --optional -- "$q" "${args[@]}"
table "options in any order" "host address width 39, flags 0x00
DRHD: base 0xfed80000, 4096 bytes, segment 0, flags 0x00
  endpoint 00:1f.7
  endpoint 00:05.1
  endpoint 00:10.0"

args=(-device "vfio-pci,host=01:00.0,addr=3" -device "vfio-pci,host=02:00.0,bus=rp1")
launch "an excluded device may be anywhere" 42 \
	"$(seen 0000:01:00.0=00:03.0 "" "${args[@]}")" --exclude=0000:02:00.0 "$q" "${args[@]}"

if type -P python3 >/dev/null; then
	args=(-device '{"driver":"vfio-pci","host":"0000:01:00.0","id":"hostdev0","bus":"pci.0","addr":"0x3"}'
		-device '{"driver": "virtio-net-pci", "bus": "pci.1", "rx": {"a": [1]}}'
		-device '{"addr": 41, "host": "02:00.0", "driver": "vfio-pci", "x": "a,host=,b"}'
		-device "vfio-pci,host=03:00.0,addr=6")
	launch "JSON" 42 "$(seen \
		0000:03:00.0=00:06.0,0000:01:00.0=00:03.0,0000:02:00.0=00:05.1 "" \
		"${args[@]}")" "$q" "${args[@]}"
	launch "JSON that is none" 1 \
		"viommu-run: cannot read -device {x: Expecting property name enclosed in double quotes: line 1 column 2 (char 1)" \
		"$q" -device "{x"
	launch "JSON on another bus" 1 \
		"viommu-run: vfio-pci device 01:00.0: bus=pci.1 is not the root bus; the guest numbers other buses itself, so put the device on pcie.0 (or pci.0), or use --exclude=0000:01:00.0" \
		"$q" -device '{"driver":"vfio-pci","host":"01:00.0","bus":"pci.1","addr":"0x0"}'
else
	result ok "JSON # SKIP no python3"
fi
mkdir "$tmp/nopython"
for tool in bash env dirname realpath mktemp rm grep true sed; do
	ln -s "$(type -P "$tool")" "$tmp/nopython/"
done
path=$tmp/nopython launch "JSON without python3" 1 \
	"viommu-run: -device {...} takes python3 to be read" "$q" -device "{}"

LD_PRELOAD=$tmp/mock.so preloaded=$bin/libviommu.so:$tmp/mock.so launch \
	"what else is preloaded stays" 42 "$(preloaded=$bin/libviommu.so:$tmp/mock.so \
	seen 0000:01:00.0=00:03.0 "" -device vfio-pci,host=01:00.0,addr=3)" \
	"$q" -device vfio-pci,host=01:00.0,addr=3
VIOMMU_WORKER=x VIOMMU_OPTIONAL=1 VIOMMU_BASE=1 launch \
	"the environment is not taken for options" 42 \
	"$(seen 0000:01:00.0=00:03.0 "" -device vfio-pci,host=01:00.0,addr=3)" \
	"$q" -device vfio-pci,host=01:00.0,addr=3
launcher=$tmp/dest/usr/bin/viommu-run launch "from where it is installed" 42 \
	"$(preloaded=$tmp/dest/usr/lib/libviommu.so seen 0000:01:00.0=00:03.0 "" \
	-device vfio-pci,host=01:00.0,addr=3)" \
	"$q" -device vfio-pci,host=01:00.0,addr=3

refuse() # MESSAGE ARGUMENT...
{
	launch "refused: $1" 1 "viommu-run: $1" "${@:2}"
}

dev="vfio-pci device 01:00.0"
refuse "$dev: no addr=; the guest is told at which SLOT[.FN] its protected devices are, so add e.g. addr=3, or use --exclude=0000:01:00.0" \
	"$q" -device vfio-pci,host=01:00.0
refuse "$dev: bus=rp1 is not the root bus; the guest numbers other buses itself, so put the device on pcie.0 (or pci.0), or use --exclude=0000:01:00.0" \
	"$q" -device vfio-pci,host=01:00.0,bus=rp1,addr=0
for addr in 20 3.8 3. x 3.0.0 -1 003; do
	refuse "$dev: addr=$addr is no SLOT[.FN]" "$q" -device "vfio-pci,host=01:00.0,addr=$addr"
done
refuse "$dev: iommufd= is not supported, only VFIO groups and containers are" \
	"$q" -device vfio-pci,host=01:00.0,addr=3,iommufd=i0
refuse "vfio-pci device n: devices that QEMU gets as fd= are not supported" \
	"$q" -device vfio-pci,fd=4,addr=3,id=n
for host in 01:00 01:20.0 01:00.8 x 1:2:3:4.0; do
	refuse "vfio-pci device $host: no PCI address of the host in host= or sysfsdev=" \
		"$q" -device "vfio-pci,host=$host,addr=3"
done
refuse "vfio-pci device /sys/bus/mdev/devices/83b8f4f2: no PCI address of the host in host= or sysfsdev=" \
	"$q" -device vfio-pci,sysfsdev=/sys/bus/mdev/devices/83b8f4f2,addr=3
for driver in intel-iommu virtio-iommu-pci; do
	refuse "$driver is an IOMMU of QEMU's own: a guest can have that or KVM's" \
		"$q" -device "$driver,caching-mode=on" -device vfio-pci,host=01:00.0,addr=3
done
refuse "--exclude=0000:02:00.0: there is no such vfio-pci device" \
	--exclude=02:00.0 "$q" -device vfio-pci,host=01:00.0,addr=3
refuse "there is no vfio-pci device to protect (or use --optional)" "$q" -m 1G
refuse "no-such-qemu: not found" no-such-qemu
VIOMMU_LIB=$tmp/Y refuse "$tmp/Y cannot be preloaded" \
	"$q" -device vfio-pci,host=01:00.0,addr=3
mkdir "$tmp/a b"
cp "$bin/libviommu.so" "$tmp/a b/"
VIOMMU_LIB="$tmp/a b/libviommu.so" refuse \
	"$tmp/a b/libviommu.so: LD_PRELOAD takes no path with a colon or space" \
	"$q" -device vfio-pci,host=01:00.0,addr=3
for parameter in "$tmp/N" "$tmp/none"; do
	refuse "KVM emulates no IOMMU; load it by: modprobe kvm viommu=1 (or use --optional)" \
		"$q" -device vfio-pci,host=01:00.0,addr=3
	launch "--optional runs without (${parameter##*/})" 42 \
		"viommu-run: KVM emulates no IOMMU; load it by: modprobe kvm viommu=1; continuing without
<-device>
<vfio-pci,host=01:00.0,addr=3>
VIOMMU_OPTIONAL=1" --optional "$q" -device vfio-pci,host=01:00.0,addr=3
done
unset parameter
launch "refused: two devices at one address" 2 \
	"viommu-dmar: device 03.0 is given twice" \
	"$q" -device vfio-pci,host=01:00.0,addr=3 -device vfio-pci,host=02:00.0,addr=3
launch "refused: a base that is none" 2 "viommu-dmar: base 5: $base" \
	--base=5 "$q" -device vfio-pci,host=01:00.0,addr=3
nothing "no file stays after a refusal" "$(ls "$tmp/empty")"
for arg in --worker=x:"expected none, sidecore or task" \
	--teardown=:"expected strict, deferred or optimistic" \
	--max-pages=x:"expected a number" --pin=x:"expected all or mapped" \
	--exclude=x:"expected a PCI address of the host, e.g. 0000:01:00.0"; do
	launch "refused: ${arg%%:*}" 2 "viommu-run: ${arg/:/: }" "${arg%%:*}" "$q"
done
launch "refused: an unknown option" 2 "viommu-run: unknown option --bases=1 (see --help)" \
	--bases=1 "$q"
launch "refused: a device that would reach nothing" 2 \
	"viommu-run: --pin=mapped: a device that is excluded would reach nothing" \
	--pin=mapped --exclude=02:00.0 "$q" -device vfio-pci,host=02:00.0
launch "refused: no QEMU" 2 "viommu-run: no QEMU to run (see --help)" --haw=46
launch "refused: no QEMU after --" 2 "viommu-run: no QEMU to run (see --help)" --
"$bin/viommu-run" --help >"$tmp/got"
check "--help tells what the guest needs" grep -q intel_iommu=on "$tmp/got"

finish
