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
 * thread count.  It takes a kernel with CONFIG_FAILSLAB and
 * CONFIG_FAIL_PAGE_ALLOC, and root.
 */
#ifndef SELFTEST_KVM_FAIL_NTH_H
#define SELFTEST_KVM_FAIL_NTH_H

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

struct fail_nth {
	unsigned int nth;
	/* Of this round; a failure need not have an effect. */
	bool injected;
	/* So far, in all rounds. */
	unsigned int failures;
	/* The thread whose allocations count; 0 is the calling one. */
	pid_t tid;
	/* Private. */
	bool started;
	int fd;
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
	if (f->started && f->nth++ && !f->injected)
		return false;
	TEST_ASSERT(f->nth <= FAIL_NTH_MAX, "no end after %u failures", f->failures);
	f->started = true;
	f->injected = false;
	return true;
}

static inline void __fail_nth_write(struct fail_nth *f, unsigned int nth)
{
	char text[16];
	int len = snprintf(text, sizeof(text), "%u", nth);

	TEST_ASSERT(pwrite(f->fd, text, len, 0) == len, "fail-nth cannot be set");
}

/* From here on, the nth allocation fails. */
static inline void fail_nth_begin(struct fail_nth *f)
{
	char path[64];

	if (!f->nth)
		return;
	snprintf(path, sizeof(path), "/proc/self/task/%d/fail-nth",
		 f->tid ?: (pid_t)syscall(SYS_gettid));
	f->fd = open(path, O_RDWR | O_CLOEXEC);
	TEST_ASSERT(f->fd >= 0, "%s cannot be opened", path);
	__fail_nth_write(f, f->nth);
}

/* None does any more.  Errno stays as it is. */
static inline void fail_nth_end(struct fail_nth *f)
{
	int error = errno;
	char text[16] = "";

	if (f->nth) {
		TEST_ASSERT(pread(f->fd, text, sizeof(text) - 1, 0) > 0,
			    "fail-nth cannot be read");
		if (!atoi(text)) {
			f->injected = true;
			f->failures++;
		}
		__fail_nth_write(f, 0);
		close(f->fd);
	}
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
