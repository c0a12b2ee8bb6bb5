/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Make each allocation of something that a test does fail, one after the other, see
 * "fail-nth" in Documentation/fault-injection/fault-injection.rst:
 *
 *	struct fail_nth f = {};
 *
 *	while (fail_nth_next(&f)) {
 *		prepare;
 *		fail_nth_begin(&f);
 *		do something;
 *		fail_nth_end(&f);
 *		verify that it was done, or failed for lack of memory and did nothing;
 *	}
 *
 * The loop ends when nothing failed, because there are not as many allocations.  Several
 * things can be done in a round, of each of which one fails then.  Only allocations of one
 * thread count, or those of whatever worker of the kernel's unbound workqueues does
 * something.  It takes a kernel with CONFIG_FAILSLAB and
 * CONFIG_FAIL_PAGE_ALLOC, and root.
 */
#ifndef SELFTEST_KVM_FAIL_NTH_H
#define SELFTEST_KVM_FAIL_NTH_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/syscall.h>

#include "test_util.h"

/* What has more allocations than that does not end. */
#define FAIL_NTH_MAX	2000

#define FAIL_NTH_WORKERS	64

/* The work can be done by a worker that was not there when the round began. */
#define FAIL_NTH_IDLE_ROUNDS	8

struct fail_nth {
	unsigned int nth;
	/* Of this round; a failure need not have an effect. */
	bool injected;
	/* So far, in all rounds. */
	unsigned int failures;
	/* The thread whose allocations count; 0 is the calling one. */
	pid_t tid;
	/* Those of the workers count instead, of each for itself. */
	bool workers;
	/* Private. */
	bool started;
	unsigned int idle;
	unsigned int nr_fds;
	int fds[FAIL_NTH_WORKERS];
};

static inline bool __fail_nth_set(const char *attr, const char *name, const char *value)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), "/sys/kernel/debug/%s/%s", attr, name);
	file = fopen(path, "w");
	return file && fputs(value, file) >= 0 && !fclose(file);
}

/*
 * Whether allocations can be made to fail.  From here on what can wait for memory
 * fails, too, and the kernel's log does not tell.
 */
static inline bool fail_nth_is_possible(void)
{
	static const char * const attrs[] = { "failslab", "fail_page_alloc" };
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(attrs); i++) {
		if (!__fail_nth_set(attrs[i], "ignore-gfp-wait", "N") ||
		    !__fail_nth_set(attrs[i], "verbose", "0"))
			return false;
	}
	return __fail_nth_set("fail_page_alloc", "min-order", "0") &&
	       __fail_nth_set("fail_page_alloc", "ignore-gfp-highmem", "N") &&
	       !access("/proc/thread-self/fail-nth", W_OK);
}

#define FAIL_NTH_IMPOSSIBLE	"the kernel has no fault injection"

/* Another round?  The first one is without a failure, so it shows that all works. */
static inline bool fail_nth_next(struct fail_nth *f)
{
	/* Nothing is to fail in the first one. */
	f->idle = f->injected || !f->nth ? 0 : f->idle + 1;
	if (f->started && f->nth++ &&
	    f->idle >= (f->workers ? FAIL_NTH_IDLE_ROUNDS : 1))
		return false;
	TEST_ASSERT(f->nth <= FAIL_NTH_MAX, "no end after %u failures", f->failures);
	f->started = true;
	f->injected = false;
	return true;
}

static inline bool __fail_nth_write(int fd, unsigned int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	return pwrite(fd, text, len, 0) == len;
}

static inline bool __fail_nth_open(struct fail_nth *f, pid_t tid)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fail-nth", tid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return false;
	if (!__fail_nth_write(fd, f->nth)) {
		close(fd);
		return false;
	}
	f->fds[f->nr_fds++] = fd;
	return true;
}

static inline bool __fail_nth_is_worker(pid_t pid)
{
	char path[64], name[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	file = fopen(path, "r");
	if (!file)
		return false;
	if (!fgets(name, sizeof(name), file))
		name[0] = '\0';
	fclose(file);
	return !strncmp(name, "kworker/u", 9);
}

/* From here on, the nth allocation fails. */
static inline void fail_nth_begin(struct fail_nth *f)
{
	struct dirent *entry;
	pid_t pid;
	DIR *proc;

	f->nr_fds = 0;
	if (!f->nth)
		return;
	if (!f->workers) {
		pid = f->tid ?: (pid_t)syscall(SYS_gettid);
		TEST_ASSERT(__fail_nth_open(f, pid), "fail-nth of %d cannot be opened", pid);
		return;
	}
	proc = opendir("/proc");
	TEST_ASSERT(proc, "/proc cannot be read");
	while ((entry = readdir(proc)) && f->nr_fds < FAIL_NTH_WORKERS) {
		pid = atoi(entry->d_name);
		/* It may have gone. */
		if (pid && __fail_nth_is_worker(pid))
			__fail_nth_open(f, pid);
	}
	closedir(proc);
}

/* None does any more.  Errno stays as it is. */
static inline void fail_nth_end(struct fail_nth *f)
{
	int error = errno;
	unsigned int i;

	for (i = 0; i < f->nr_fds; i++) {
		char text[16] = "";
		ssize_t len = pread(f->fds[i], text, sizeof(text) - 1, 0);

		if (len > 0 && !atoi(text))
			f->injected = true;
		/* A worker may have gone. */
		TEST_ASSERT((len > 0 && __fail_nth_write(f->fds[i], 0)) || f->workers,
			    "fail-nth cannot be read or set");
		close(f->fds[i]);
	}
	f->failures += f->injected;
	errno = error;
}

/* A system call that returns -1 did so because of the failure. */
#define FAIL_NTH_OK(f, ret)								\
do {											\
	const struct fail_nth *__f = (f);						\
											\
	TEST_ASSERT((ret) != -1 || (__f->injected && errno == ENOMEM),			\
		    "failure %u%s: %s is -1 with errno %d (%s)", __f->nth,		\
		    __f->injected ? "" : " was not injected", #ret, errno,		\
		    strerror(errno));							\
} while (0)

/* Do one, of which an allocation fails; its result. */
#define FAIL_NTH(f, call)								\
({											\
	struct fail_nth *__n = (f);							\
	__typeof__(call) __ret;								\
											\
	fail_nth_begin(__n);								\
	__ret = (call);									\
	fail_nth_end(__n);								\
	FAIL_NTH_OK(__n, __ret);							\
	__ret;										\
})

#endif /* SELFTEST_KVM_FAIL_NTH_H */
