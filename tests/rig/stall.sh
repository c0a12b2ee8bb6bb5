#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
#
# Have the rig's machines stand still now and then, as on a build machine that is
# a guest of a busy host:
#
#	tests/rig/stall.sh SECONDS EVERY COMMAND...
#
# While the command runs, each emulator of this user stops for SECONDS, every EVERY
# seconds.  A test that fails then takes a time for a fact.  Exits with the status
# of the command.

set -euo pipefail

# As the kernel has them, of 15 characters at the most.
EMULATORS=(qemu-system-x86 bochs-bin bochs)

[[ $# -ge 3 && $1 =~ ^[0-9.]+$ && $2 =~ ^[0-9.]+$ ]] || {
	sed -n '4,/^$/s/^# \{0,1\}//p' "$0" >&2
	exit 2
}
seconds=$1 every=$2

signal()
{
	local name

	for name in "${EMULATORS[@]}"; do
		pkill "-$1" -u "$EUID" -x "$name" || true
	done
}

stall()
{
	while sleep "$every"; do
		signal STOP
		sleep "$seconds"
		signal CONT
	done
}

stall &
trap 'kill $!; signal CONT' EXIT
"${@:3}"
