// SPDX-License-Identifier: GPL-2.0-only
/*
 * A known number of instructions between marks, for tests/selftest/insns.py:
 *
 *	marked ROUNDS	two of them a round: of work, then of a loop that waits
 */
#include <stdlib.h>

#include "insnmark.h"

int main(int argc, char **argv)
{
	unsigned long rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
	unsigned long n = rounds;

	insnmark_begin();
	__asm__ volatile("1: dec %0; jnz 1b" : "+r"(n) :: "cc");
	insnmark_end();

	n = rounds / 100;	/* a PAUSE takes long */
	insnmark_begin();
	__asm__ volatile("1: pause; nop; dec %0; jnz 1b" : "+r"(n) :: "cc");
	insnmark_end();
	return 0;
}
