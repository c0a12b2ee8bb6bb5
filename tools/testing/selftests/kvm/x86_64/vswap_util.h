/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of VSwapper (file system kvm_vswap) share: a mount of their own,
 * RAM files, images, and pages whose content tells which they are.
 *
 * VSWAP_LOWER in the environment is a directory to have images in, of a file
 * system that supports direct I/O.  Everything in its subdirectory "vswap-test" is
 * removed, and "vswap-mnt" is where the tests mount.
 */
#ifndef SELFTEST_KVM_VSWAP_UTIL_H
#define SELFTEST_KVM_VSWAP_UTIL_H

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <linux/compiler.h>
#include <linux/kvm_vswap.h>
#include <linux/mempolicy.h>

#include "test_util.h"

#define PAGE		4096ul

#ifndef MADV_PAGEOUT
#define MADV_PAGEOUT	21
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE	25
#endif

/* An error of a system call that a test depends on. */
#define VSWAP_OK(call)								\
({										\
	__typeof__(call) __ret = (call);					\
										\
	TEST_ASSERT(__ret != (__typeof__(call))-1, #call " failed");		\
	__ret;									\
})

/* A system call that has to fail, and how. */
#define VSWAP_FAILS(call, error)						\
do {										\
	const int __expected = (error);						\
	long __ret;								\
	int __errno;								\
										\
	errno = 0;								\
	__ret = (long)(call);							\
	__errno = errno;							\
	TEST_ASSERT(__ret == -1 && __errno == __expected,			\
		    #call " returned %ld with errno %d (%s), not -1 with %d (%s)", \
		    __ret, __errno, strerror(__errno), __expected,		\
		    strerror(__expected));					\
} while (0)

/*
 * Content of pages.  Each word of a page tells the page's seed and the word's
 * place, and 0 is a page of zeroes.
 */
static inline uint64_t vswap_word(uint64_t seed, unsigned int i)
{
	return seed ? seed * 0x9e3779b97f4a7c15ull + i * 0x100000001b3ull : 0;
}

static inline void vswap_fill(void *page, uint64_t seed)
{
	uint64_t *p = page;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(*p); i++)
		p[i] = vswap_word(seed, i);
}

static inline bool vswap_equals(const void *page, uint64_t seed)
{
	const uint64_t *p = page;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(*p); i++) {
		if (p[i] != vswap_word(seed, i))
			return false;
	}
	return true;
}

/* A mount, below a directory that no other process sees. */
struct vswap_mount {
	char lower[PATH_MAX];
	char mnt[PATH_MAX];
	/* The namespace that was left. */
	int ns;
};

static inline const char *vswap_lower(void)
{
	return getenv("VSWAP_LOWER");
}

static inline bool vswap_is_supported(void)
{
	char line[128];
	bool found = false;
	FILE *f = fopen("/proc/filesystems", "r");

	TEST_ASSERT(f, "no /proc/filesystems");
	while (fgets(line, sizeof(line), f))
		found |= !strcmp(line, "nodev\tkvm_vswap\n");
	fclose(f);
	return found;
}

/* One that there is room in. */
static inline bool vswap_has_swap(void)
{
	char line[256];
	int lines = 0;
	FILE *f = fopen("/proc/swaps", "r");

	while (f && fgets(line, sizeof(line), f))
		lines++;
	if (f)
		fclose(f);
	return lines > 1;
}

static inline const char *vswap_path(const char *dir, const char *name)
{
	static __thread char path[4][PATH_MAX + 64];
	static __thread unsigned int i;

	i = (i + 1) % ARRAY_SIZE(path);
	snprintf(path[i], sizeof(path[i]), "%s/%s", dir, name);
	return path[i];
}

static inline void vswap_remove_tree(const char *path)
{
	struct dirent *entry;
	DIR *dir = opendir(path);
	char name[PATH_MAX];

	if (!dir)
		return;
	while ((entry = readdir(dir))) {
		if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
			continue;
		TEST_ASSERT(snprintf(name, sizeof(name), "%s/%s", path,
				     entry->d_name) < (int)sizeof(name),
			    "the name is too long");
		if (unlink(name) && errno == EISDIR)
			vswap_remove_tree(name);
	}
	closedir(dir);
	rmdir(path);
}

static inline int vswap_try_mount(const char *mnt, const char *lower)
{
	char options[PATH_MAX + 16];

	snprintf(options, sizeof(options), "lower=%s", lower);
	return mount("none", mnt, "kvm_vswap", 0, options);
}

/* What is mounted goes with the process, whatever becomes of it. */
static inline int vswap_private_mounts(void)
{
	int ns = VSWAP_OK(open("/proc/self/ns/mnt", O_RDONLY | O_CLOEXEC));

	VSWAP_OK(unshare(CLONE_NEWNS));
	VSWAP_OK(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	return ns;
}

static inline unsigned int vswap_parameter(const char *name)
{
	char path[128], text[32] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	f = fopen(path, "r");
	TEST_ASSERT(f && fgets(text, sizeof(text), f), "cannot read %s", path);
	fclose(f);
	return strtoul(text, NULL, 0);
}

static inline void vswap_set_parameter(const char *name, unsigned int value)
{
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	f = fopen(path, "w");
	TEST_ASSERT(f && fprintf(f, "%u", value) > 0 && !fclose(f),
		    "%s cannot be set to %u", name, value);
}

static inline void vswap_mount_setup(struct vswap_mount *m)
{
	/* Pages are tracked, however much memory there is. */
	vswap_set_parameter("vswap_always", 1);
	m->ns = vswap_private_mounts();
	snprintf(m->lower, sizeof(m->lower), "%s/vswap-test", vswap_lower());
	vswap_remove_tree(m->lower);
	VSWAP_OK(mkdir(m->lower, 0755));
	snprintf(m->mnt, sizeof(m->mnt), "%s/vswap-mnt", vswap_lower());
	if (mkdir(m->mnt, 0755))
		TEST_ASSERT_EQ(errno, EEXIST);
	VSWAP_OK(vswap_try_mount(m->mnt, m->lower));
}

/* A RAM file, mapped. */
struct vswap_ram {
	int fd;
	uint64_t pages;
	char *mem;
};

static inline void vswap_ram_create(struct vswap_mount *m, const char *name,
				    uint64_t pages, struct vswap_ram *ram)
{
	ram->fd = VSWAP_OK(open(vswap_path(m->mnt, name),
				O_RDWR | O_CREAT | O_EXCL, 0600));
	ram->pages = pages;
	VSWAP_OK(ftruncate(ram->fd, pages * PAGE));
	ram->mem = VSWAP_OK(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
				 MAP_SHARED, ram->fd, 0));
}

static inline char *vswap_page(struct vswap_ram *ram, uint64_t page)
{
	return ram->mem + page * PAGE;
}

static inline struct kvm_vswap_stats vswap_stats(struct vswap_ram *ram)
{
	struct kvm_vswap_stats stats = { .size = sizeof(stats) };

	VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_GET_STATS, &stats));
	TEST_ASSERT_EQ(stats.size, sizeof(stats));
	return stats;
}

static inline uint8_t vswap_state(struct vswap_ram *ram, uint64_t page)
{
	uint8_t state = 0xff;
	struct kvm_vswap_query query = {
		.offset = page * PAGE,
		.pages = 1,
		.states = (uintptr_t)&state,
	};

	VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_QUERY, &query));
	return state;
}

static inline void vswap_expect_states(struct vswap_ram *ram, uint64_t first,
				       uint64_t nr, uint8_t expected)
{
	uint64_t i;

	for (i = first; i < first + nr; i++) {
		uint8_t state = vswap_state(ram, i);

		TEST_ASSERT(state == expected, "page %lu has state %u, not %u",
			    i, state, expected);
	}
}

/* Pages [first, first + nr) have seeds from "seed" on. */
static inline void vswap_fill_pages(struct vswap_ram *ram, uint64_t first,
				    uint64_t nr, uint64_t seed)
{
	uint64_t i;

	for (i = 0; i < nr; i++)
		vswap_fill(vswap_page(ram, first + i), seed + i);
}

static inline void __vswap_expect_page(const char *file, int line,
				       const void *page, uint64_t seed,
				       uint64_t nr)
{
	const uint64_t *p = page;
	unsigned int i;

	for (i = 0; i < PAGE / sizeof(*p); i++)
		TEST_ASSERT(p[i] == vswap_word(seed, i),
			    "%s:%d: word %u of page %lu is 0x%lx, expected 0x%lx of seed 0x%lx",
			    file, line, i, nr, p[i], vswap_word(seed, i), seed);
}

/* A copy of the page may be looked at, as it may change or fault. */
#define vswap_expect_page(page, seed) \
	__vswap_expect_page(__FILE__, __LINE__, page, seed, 0)

static inline void __vswap_expect_pages(const char *file, int line,
					struct vswap_ram *ram, uint64_t first,
					uint64_t nr, uint64_t seed, bool zeroes)
{
	uint64_t i;

	for (i = 0; i < nr; i++)
		__vswap_expect_page(file, line, vswap_page(ram, first + i),
				    zeroes ? 0 : seed + i, first + i);
}

/* Pages [first, first + nr) have seeds from "seed" on, or are zeroes. */
#define vswap_expect_pages(ram, first, nr, seed) \
	__vswap_expect_pages(__FILE__, __LINE__, ram, first, nr, seed, false)

#define vswap_expect_zeroes(ram, first, nr) \
	__vswap_expect_pages(__FILE__, __LINE__, ram, first, nr, 0, true)

/* Memory of the process's own, for direct I/O. */
static inline char *vswap_buffer(uint64_t pages)
{
	return VSWAP_OK(mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0));
}

static inline void vswap_pread(int fd, void *buf, uint64_t nr, uint64_t block)
{
	ssize_t ret = pread(fd, buf, nr * PAGE, block * PAGE);

	TEST_ASSERT(ret == (ssize_t)(nr * PAGE),
		    "read of %lu blocks at %lu returned %zd (%s)", nr, block,
		    ret, strerror(errno));
}

static inline void vswap_pwrite(int fd, const void *buf, uint64_t nr,
				uint64_t block)
{
	ssize_t ret = pwrite(fd, buf, nr * PAGE, block * PAGE);

	TEST_ASSERT(ret == (ssize_t)(nr * PAGE),
		    "write of %lu blocks at %lu returned %zd (%s)", nr, block,
		    ret, strerror(errno));
}

/* An image in the lower directory, whose blocks have seeds from "seed" on. */
static inline void vswap_image_create(struct vswap_mount *m, const char *name,
				      uint64_t blocks, uint64_t seed)
{
	int fd = VSWAP_OK(open(vswap_path(m->lower, name),
			       O_RDWR | O_CREAT | O_TRUNC, 0600));
	char *page = vswap_buffer(256);
	uint64_t i, n, k;

	for (i = 0; i < blocks; i += n) {
		n = blocks - i < 256 ? blocks - i : 256;
		for (k = 0; k < n; k++)
			vswap_fill(page + k * PAGE, seed + i + k);
		vswap_pwrite(fd, page, n, i);
	}
	VSWAP_OK(fsync(fd));
	munmap(page, 256 * PAGE);
	close(fd);
}

static inline int vswap_image_open(struct vswap_mount *m, const char *name,
				   int flags)
{
	return VSWAP_OK(open(vswap_path(m->mnt, name), flags));
}

/* What is on the disk, past the mount. */
static inline void vswap_expect_blocks(struct vswap_mount *m, const char *name,
				       uint64_t first, uint64_t nr,
				       uint64_t seed, bool zeroes)
{
	int fd = VSWAP_OK(open(vswap_path(m->lower, name), O_RDONLY));
	char *page = vswap_buffer(1);
	uint64_t i;

	for (i = 0; i < nr; i++) {
		vswap_pread(fd, page, 1, first + i);
		__vswap_expect_page("block of", __LINE__, page,
				    zeroes ? 0 : seed + i, first + i);
	}
	munmap(page, PAGE);
	close(fd);
}

/*
 * Empty the lists of pages that each CPU is about to put on an LRU list: pages
 * on them cannot be reclaimed, and have a reference more.  Nothing is moved.
 */
static inline void vswap_drain_lru(void)
{
	void *page = NULL;
	int node = 0, status = 0;

	VSWAP_OK(syscall(SYS_move_pages, 0, 0ul, &page, &node, &status,
			 MPOL_MF_MOVE));
}

static inline uint64_t vswap_touch(struct vswap_ram *ram, uint64_t first,
				   uint64_t nr)
{
	uint64_t i, sum = 0;

	for (i = first; i < first + nr; i++)
		sum += READ_ONCE(*(uint64_t *)vswap_page(ram, i));
	return sum;
}

/* Reclaim all of the pages; what is touched but in use otherwise stays. */
static inline void vswap_try_pageout(struct vswap_ram *ram, uint64_t first,
				     uint64_t nr)
{
	vswap_touch(ram, first, nr);
	vswap_drain_lru();
	VSWAP_OK(madvise(vswap_page(ram, first), nr * PAGE, MADV_PAGEOUT));
}

static inline bool vswap_is_resident(uint8_t state)
{
	return state == KVM_VSWAP_PAGE_RESIDENT || state == KVM_VSWAP_PAGE_ALIAS;
}

/* Until all of them are gone; a busy page can take a few attempts. */
static inline void vswap_pageout(struct vswap_ram *ram, uint64_t first,
				 uint64_t nr)
{
	uint64_t i, left;
	int round;

	for (round = 0; round < 100; round++) {
		left = 0;
		for (i = first; i < first + nr; i++) {
			if (!vswap_is_resident(vswap_state(ram, i)))
				continue;
			vswap_touch(ram, i, 1);
			left++;
		}
		if (!left)
			return;
		vswap_drain_lru();
		VSWAP_OK(madvise(vswap_page(ram, first), nr * PAGE,
				 MADV_PAGEOUT));
	}
	TEST_FAIL("%lu of %lu pages cannot be reclaimed", left, nr);
}

/* Exits with the status of a skipped test unless there is all that it takes. */
static inline void vswap_require(void)
{
	__TEST_REQUIRE(vswap_is_supported(),
		       "the file system kvm_vswap is not there (kvm.vswap=1)");
	__TEST_REQUIRE(vswap_lower(), "VSWAP_LOWER is not set");
}

#endif /* SELFTEST_KVM_VSWAP_UTIL_H */
