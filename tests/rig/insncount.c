// SPDX-License-Identifier: GPL-2.0-only
/*
 * A plugin for QEMU's software emulation: instructions that each CPU of L1
 * executes, those of the guests that run on it included.
 *
 *	-plugin insncount.so,socket=PATH
 *
 * Who connects to the Unix socket gets, as of then, a line for each CPU:
 *
 *	KERNEL USER WAITING
 *
 * instructions at kernel addresses (L1's and its guests' kernels), those at user
 * addresses, and how many of both were spent waiting.  Then, if there are any
 * (insnmark.h), a line for each of the last MAX_MARKED pieces of code between
 * marks that have ended since somebody asked:
 *
 *	mark CPU INSTRUCTIONS WAITING
 *
 * and the connection is closed.
 *
 * Waiting is what a loop around a PAUSE executes: a PAUSE counts with all since
 * the one before, if that is not more than MAX_WAIT_LOOP instructions ago.
 *
 * Instructions are added up when a translated block is entered, so a block that
 * is left halfway, for a fault or an exit, counts in full, and one with a mark in
 * it on one of the mark's sides.  Each round of a repeated string instruction
 * counts as one.
 *
 * What is declared here is QEMU's plugin interface as of its version 3 (QEMU
 * 9.1) on, described in its manual, "QEMU TCG Plugins"; Debian packages no
 * header for it.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "insnmark.h"

#define PLUGIN_VERSION	3

/* CPUs for which QEMU allocates scoreboards at once: these do not move later. */
#define MAX_CPUS	16

#define MAX_WAIT_LOOP	100
#define MAX_MARKED	4096

struct qemu_plugin_tb;
struct qemu_plugin_insn;
struct qemu_plugin_scoreboard;
typedef struct {
	struct qemu_plugin_scoreboard *score;
	size_t offset;
} qemu_plugin_u64;

enum qemu_plugin_op { QEMU_PLUGIN_INLINE_ADD_U64 };
enum qemu_plugin_cb_flags { QEMU_PLUGIN_CB_NO_REGS };

typedef void (*tb_trans_cb)(uint64_t id, struct qemu_plugin_tb *tb);
typedef void (*vcpu_udata_cb)(unsigned int vcpu, void *userdata);

void qemu_plugin_register_vcpu_tb_trans_cb(uint64_t id, tb_trans_cb cb);
void qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(struct qemu_plugin_tb *tb,
						       enum qemu_plugin_op op,
						       qemu_plugin_u64 entry,
						       uint64_t imm);
void qemu_plugin_register_vcpu_insn_exec_cb(struct qemu_plugin_insn *insn,
					    vcpu_udata_cb cb,
					    enum qemu_plugin_cb_flags flags,
					    void *userdata);
size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *tb);
uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *tb);
struct qemu_plugin_insn *qemu_plugin_tb_get_insn(const struct qemu_plugin_tb *tb,
						 size_t i);
size_t qemu_plugin_insn_data(const struct qemu_plugin_insn *insn, void *dest,
			     size_t len);
struct qemu_plugin_scoreboard *qemu_plugin_scoreboard_new(size_t size);
uint64_t qemu_plugin_u64_get(qemu_plugin_u64 entry, unsigned int vcpu);
int qemu_plugin_num_vcpus(void);
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv);

__attribute__((visibility("default"))) int qemu_plugin_version = PLUGIN_VERSION;

struct counters {
	uint64_t kernel;
	uint64_t user;
};

static qemu_plugin_u64 kernel_insns, user_insns;

/* Each element is written by the thread of its CPU alone. */
static struct cpu {
	uint64_t at_pause;
	uint64_t at_mark, waiting_at_mark;
	_Atomic uint64_t waiting;
} cpus[MAX_CPUS];

static pthread_mutex_t marked_lock = PTHREAD_MUTEX_INITIALIZER;
/* Under marked_lock: the last ones, at number modulo MAX_MARKED. */
static struct {
	unsigned int cpu;
	uint64_t insns, waiting;
} marked[MAX_MARKED];
static uint64_t nr_marked;

static uint64_t executed(unsigned int cpu)
{
	return qemu_plugin_u64_get(kernel_insns, cpu) +
	       qemu_plugin_u64_get(user_insns, cpu);
}

static void pause_executed(unsigned int cpu, void *userdata)
{
	uint64_t now, since;

	(void)userdata;
	if (cpu >= MAX_CPUS)
		return;
	now = executed(cpu);
	since = now - cpus[cpu].at_pause;
	cpus[cpu].at_pause = now;
	if (since <= MAX_WAIT_LOOP)
		cpus[cpu].waiting += since;
}

static void mark_executed(unsigned int cpu, void *begins)
{
	uint64_t now, i;

	if (cpu >= MAX_CPUS)
		return;
	now = executed(cpu);
	if (begins) {
		cpus[cpu].at_mark = now;
		cpus[cpu].waiting_at_mark = cpus[cpu].waiting;
		return;
	}
	pthread_mutex_lock(&marked_lock);
	i = nr_marked++ % MAX_MARKED;
	marked[i].cpu = cpu;
	marked[i].insns = now - cpus[cpu].at_mark;
	marked[i].waiting = cpus[cpu].waiting - cpus[cpu].waiting_at_mark;
	pthread_mutex_unlock(&marked_lock);
}

static void translated(uint64_t id, struct qemu_plugin_tb *tb)
{
	static const uint8_t pause[] = { 0xf3, 0x90 };
	static const uint8_t begin[] = { INSNMARK_BEGIN }, end[] = { INSNMARK_END };
	/* The upper half of the address space. */
	int kernel = (int64_t)qemu_plugin_tb_vaddr(tb) < 0;
	size_t i, n = qemu_plugin_tb_n_insns(tb);

	(void)id;
	qemu_plugin_register_vcpu_tb_exec_inline_per_vcpu(
		tb, QEMU_PLUGIN_INLINE_ADD_U64,
		kernel ? kernel_insns : user_insns, n);

	for (i = 0; i < n; i++) {
		struct qemu_plugin_insn *insn = qemu_plugin_tb_get_insn(tb, i);
		uint8_t code[sizeof(begin)];
		size_t len = qemu_plugin_insn_data(insn, code, sizeof(code));

		if (len == sizeof(pause) && !memcmp(code, pause, len))
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, pause_executed, QEMU_PLUGIN_CB_NO_REGS, NULL);
		else if (len == sizeof(begin) && (!memcmp(code, begin, len) ||
						  !memcmp(code, end, len)))
			qemu_plugin_register_vcpu_insn_exec_cb(
				insn, mark_executed, QEMU_PLUGIN_CB_NO_REGS,
				memcmp(code, begin, len) ? NULL : (void *)begin);
	}
}

/* Runs beside the CPUs: a counter is up to date but for the block it is in. */
static void answer(FILE *f)
{
	int i, n = qemu_plugin_num_vcpus();
	static uint64_t told;

	for (i = 0; i < n && i < MAX_CPUS; i++)
		fprintf(f, "%llu %llu %llu\n",
			(unsigned long long)qemu_plugin_u64_get(kernel_insns, i),
			(unsigned long long)qemu_plugin_u64_get(user_insns, i),
			(unsigned long long)cpus[i].waiting);

	pthread_mutex_lock(&marked_lock);
	if (nr_marked - told > MAX_MARKED)
		told = nr_marked - MAX_MARKED;
	for (; told < nr_marked; told++)
		fprintf(f, "mark %u %llu %llu\n", marked[told % MAX_MARKED].cpu,
			(unsigned long long)marked[told % MAX_MARKED].insns,
			(unsigned long long)marked[told % MAX_MARKED].waiting);
	pthread_mutex_unlock(&marked_lock);
}

static void *serve(void *arg)
{
	int listener = (int)(intptr_t)arg;

	for (;;) {
		int fd = accept(listener, NULL, NULL);
		FILE *f = fd < 0 ? NULL : fdopen(fd, "w");

		if (!f) {
			perror("insncount");
			return NULL;
		}
		answer(f);
		fclose(f);
	}
}

__attribute__((visibility("default")))
int qemu_plugin_install(uint64_t id, const void *info, int argc, char **argv)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	struct qemu_plugin_scoreboard *score;
	pthread_t thread;
	int listener;

	(void)info;
	if (argc != 1 || strncmp(argv[0], "socket=", 7) ||
	    strlen(argv[0] + 7) >= sizeof(addr.sun_path)) {
		fprintf(stderr, "insncount: usage: -plugin insncount.so,socket=PATH\n");
		return -1;
	}
	strcpy(addr.sun_path, argv[0] + 7);

	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (listener < 0 ||
	    bind(listener, (struct sockaddr *)&addr, sizeof(addr)) ||
	    listen(listener, 1)) {
		perror("insncount");
		return -1;
	}

	score = qemu_plugin_scoreboard_new(sizeof(struct counters));
	kernel_insns.score = score;
	kernel_insns.offset = offsetof(struct counters, kernel);
	user_insns.score = score;
	user_insns.offset = offsetof(struct counters, user);
	qemu_plugin_register_vcpu_tb_trans_cb(id, translated);

	if (pthread_create(&thread, NULL, serve, (void *)(intptr_t)listener)) {
		fprintf(stderr, "insncount: no thread\n");
		return -1;
	}
	return 0;
}
