// SPDX-License-Identifier: GPL-2.0-only
/* Keep a CPU busy with what else wants to run: spin at SCHED_IDLE, for ever. */
#define _GNU_SOURCE
#include <sched.h>
#include <stdio.h>
#include <unistd.h>

int main(void)
{
	struct sched_param param = { 0 };

	if (daemon(0, 0) || sched_setscheduler(0, SCHED_IDLE, &param)) {
		perror("spin");
		return 1;
	}
	for (;;)
		__asm__ volatile("" ::: "memory");
}
