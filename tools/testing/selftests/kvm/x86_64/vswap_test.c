// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that the memory of RAM files of the file system kvm_vswap, and the images
 * in it, have the content that they ought to have whatever happens to either; that
 * pages which equal a block are dropped instead of swapped out, and read from the
 * image; and what the interface is: ioctls, mount options, locks, errors.
 *
 * It takes VSWAP_LOWER in the environment, see vswap_util.h, and no VM.  Cases that
 * look at swap are skipped on a machine without any.  VSWAP_DEVICE is the name of a
 * device-mapper device that nobody uses, of which the content does not matter: I/O
 * to it is suspended while pages are pinned for it.
 */
#include <pthread.h>
#include <setjmp.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/statfs.h>
#include <sys/swap.h>
#include <sys/sysmacros.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <linux/aio_abi.h>
#include <linux/compiler.h>
#include <linux/dm-ioctl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <linux/io_uring.h>

#include "kvm_test_harness.h"
#include "vswap_util.h"

/* Under emulation, and with the kernel's debugging, all is slow. */
#define TIMEOUT		900
#define VSWAP_TEST(name)	TEST_F_TIMEOUT(vswap, name, TIMEOUT)

/* Seeds: of images' blocks, of what is written. */
#define IMAGE		1000000ul
#define OTHER		2000000ul
#define NEW		3000000ul

#define N		512ul

/* Pages of a huge page. */
#define HUGE		512ul

/* As much as clusters are by default. */
#define READAHEAD	32u

FIXTURE(vswap)
{
	struct vswap_mount m;
	struct vswap_ram ram;
	int image;
};

/* A RAM file and an image of twice as many pages each as most cases need. */
FIXTURE_SETUP(vswap)
{
	vswap_mount_setup(&self->m);
	vswap_ram_create(&self->m, "ram", 2 * N, &self->ram);
	vswap_image_create(&self->m, "image", 2 * N, IMAGE);
	self->image = vswap_image_open(&self->m, "image", O_RDWR | O_DIRECT);
	vswap_set_parameter("vswap_readahead", READAHEAD);
}

FIXTURE_TEARDOWN(vswap)
{
}

/* Pages that are not shmem's any more, after a read of an image to them. */
static void read_aliases(struct vswap_ram *ram, int image, uint64_t first,
			 uint64_t nr, uint64_t block)
{
	uint64_t before = vswap_stats(ram).aliased_by_read;

	vswap_pread(image, vswap_page(ram, first), nr, block);
	TEST_ASSERT_EQ(vswap_stats(ram).aliased_by_read - before, nr);
}

/* Of shmem, and in swap if there is any. */
static void expect_swapped(struct vswap_ram *ram, uint64_t first, uint64_t nr)
{
	if (!vswap_has_swap())
		return;
	vswap_pageout(ram, first, nr);
	vswap_expect_states(ram, first, nr, KVM_VSWAP_PAGE_SWAPPED);
}

/* ------------------------------------------------------------ aliases */

VSWAP_TEST(read)
{
	struct vswap_ram *ram = &self->ram;
	unsigned int cluster = vswap_parameter("vswap_cluster");
	struct kvm_vswap_stats stats;

	vswap_expect_states(ram, 0, 2 * N, KVM_VSWAP_PAGE_NONE);
	vswap_set_parameter("vswap_readahead", 0);
	read_aliases(ram, self->image, 0, N, 0);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS);
	vswap_expect_states(ram, N, N, KVM_VSWAP_PAGE_NONE);
	vswap_expect_pages(ram, 0, N, IMAGE);

	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.pages, 2 * N);
	TEST_ASSERT_EQ(stats.resident, N);
	TEST_ASSERT_EQ(stats.aliases, N);
	TEST_ASSERT_EQ(stats.aliases_resident, N);
	TEST_ASSERT_EQ(stats.swapped, 0);
	TEST_ASSERT_EQ(stats.refaults, 0);

	/* They are dropped, whether there is swap or not. */
	vswap_pageout(ram, 0, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS_DROPPED);
	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.resident, 0);
	TEST_ASSERT_EQ(stats.aliases, N);
	TEST_ASSERT_EQ(stats.aliases_resident, 0);
	TEST_ASSERT_EQ(stats.swapped, 0);

	/* Each is read once, and clusters of them at a time. */
	vswap_expect_pages(ram, 0, N, IMAGE);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS);
	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.refault_pages, N);
	TEST_ASSERT_EQ(stats.refaults, N / cluster);
	TEST_ASSERT_EQ(stats.readahead_pages, 0);
	TEST_ASSERT_EQ(stats.swap_faults, 0);
	TEST_ASSERT_EQ(stats.io_errors, 0);
}

/* Clusters are of the image, wherever their pages are, and not of others. */
VSWAP_TEST(refault_order)
{
	struct vswap_ram *ram = &self->ram;
	unsigned int cluster = vswap_parameter("vswap_cluster");
	struct kvm_vswap_stats before, after;
	uint64_t i, first;

	/* Every second block, in reverse order. */
	for (i = 0; i < N; i += 2)
		read_aliases(ram, self->image, 2 * N - 1 - i, 1, i);
	vswap_pageout(ram, N, N);
	before = vswap_stats(ram);
	/* One of its own, as the neighbour in the image is not known. */
	vswap_expect_page(vswap_page(ram, 2 * N - 1 - 64), IMAGE + 64);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.refaults - before.refaults, 1);
	TEST_ASSERT_EQ(after.refault_pages - before.refault_pages, 1);

	/* With the others between them, a cluster. */
	for (i = 1; i < N; i += 2)
		read_aliases(ram, self->image, i, 1, i);
	vswap_pageout(ram, 0, 2 * N);
	before = vswap_stats(ram);
	vswap_expect_page(vswap_page(ram, 65), IMAGE + 65);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.refaults - before.refaults, 1);
	TEST_ASSERT_EQ(after.refault_pages - before.refault_pages, cluster);
	first = 65 / cluster * cluster;
	for (i = first; i < first + cluster; i++)
		vswap_expect_states(ram, i % 2 ? i : 2 * N - 1 - i, 1,
				    KVM_VSWAP_PAGE_ALIAS);
	for (i = 0; i < N; i++)
		vswap_expect_page(vswap_page(ram, i % 2 ? i : 2 * N - 1 - i),
				  IMAGE + i);
}

/* What nobody waits for, within 10 s. */
#define EVENTUALLY(cond)						\
do {									\
	int __i;							\
									\
	for (__i = 0; !(cond); __i++) {					\
		TEST_ASSERT(__i < 10000, "not so in time");		\
		usleep(1000);						\
	}								\
} while (0)

/* In memory, and not about to be read to it. */
static bool is_uptodate(struct vswap_ram *ram, uint64_t index)
{
	unsigned char vec = 0;

	VSWAP_OK(mincore(vswap_page(ram, index), PAGE, &vec));
	return vec & 1;
}

/* Who needs blocks in sequence has the next ones read meanwhile. */
VSWAP_TEST(readahead)
{
	struct vswap_ram *ram = &self->ram;
	unsigned int cluster = vswap_parameter("vswap_cluster");
	static const uint64_t random[] = { 300, 100, 400, 8, 200 };
	struct kvm_vswap_stats before, after;
	uint64_t i, first, refaults, ahead;

	/* In the order of the image, which is not that of memory. */
	for (i = 0; i < N; i++)
		read_aliases(ram, self->image, N - 1 - i, 1, i);
	vswap_pageout(ram, 0, N);
	before = vswap_stats(ram);
	for (i = 0; i < ARRAY_SIZE(random); i++)
		vswap_expect_page(vswap_page(ram, N - 1 - random[i]),
				  IMAGE + random[i]);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.readahead_pages, before.readahead_pages);

	vswap_pageout(ram, 0, N);
	before = vswap_stats(ram);
	first = cluster == 1 ? 5 : 2 * cluster;
	for (i = 0; i < N; i++) {
		/* The begin of what was read ahead, and does so with more. */
		if (i == first || (i > first && !(i % READAHEAD)))
			EVENTUALLY(vswap_state(ram, N - 1 - i) ==
				   KVM_VSWAP_PAGE_ALIAS);
		vswap_expect_page(vswap_page(ram, N - 1 - i), IMAGE + i);
	}
	after = vswap_stats(ram);
	/* It takes four blocks to tell, and these are in the second cluster. */
	TEST_ASSERT_EQ(after.refault_pages - before.refault_pages, N);
	/* One can be cut short where a page is busy, or memory is short. */
	refaults = after.refaults - before.refaults;
	ahead = after.readahead_pages - before.readahead_pages;
	TEST_ASSERT(refaults >= first / cluster && refaults <= first / cluster + 4,
		    "%lu refaults", refaults);
	TEST_ASSERT(ahead <= N - first && ahead >= (N - first) * 3 / 4,
		    "%lu pages were read ahead", ahead);
	TEST_ASSERT_EQ(after.io_errors, 0);

	/* What is there is not read again, and does not end it. */
	vswap_pageout(ram, 0, N);
	vswap_touch(ram, N - 1 - 300, 1);
	before = vswap_stats(ram);
	for (i = 0; i < N; i++)
		vswap_expect_page(vswap_page(ram, N - 1 - i), IMAGE + i);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.refault_pages - before.refault_pages, N - cluster);
}

VSWAP_TEST(write_to_alias)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats stats;
	uint64_t i;

	read_aliases(ram, self->image, 0, N, 0);
	/* To dropped and to resident ones. */
	vswap_pageout(ram, 0, N / 2);
	for (i = 0; i < N; i += 2)
		vswap_fill(vswap_page(ram, i), NEW + i);

	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.broken_by_guest, N / 2);
	TEST_ASSERT_EQ(stats.aliases, N / 2);
	for (i = 0; i < N; i += 2) {
		vswap_expect_states(ram, i, 1, KVM_VSWAP_PAGE_RESIDENT);
		expect_swapped(ram, i, 1);
	}
	vswap_try_pageout(ram, 0, N);
	for (i = 0; i < N; i++)
		vswap_expect_page(vswap_page(ram, i), i % 2 ? IMAGE + i : NEW + i);
	vswap_expect_blocks(&self->m, "image", 0, 2 * N, IMAGE, false);

	/* What was not written is as it was. */
	read_aliases(ram, self->image, 0, N, N);
	for (i = 0; i < N; i++)
		*(uint64_t *)vswap_page(ram, i) = 1;
	for (i = 0; i < N; i++) {
		TEST_ASSERT_EQ(*(uint64_t *)vswap_page(ram, i), 1);
		*(uint64_t *)vswap_page(ram, i) = vswap_word(IMAGE + N + i, 0);
	}
	vswap_expect_pages(ram, 0, N, IMAGE + N);
}

/* Somebody else writes: the kernel, on behalf of another process. */
VSWAP_TEST(write_by_others)
{
	struct vswap_ram *ram = &self->ram;
	uint64_t word = 42, i;
	struct iovec local = { &word, sizeof(word) }, remote;
	int pipes[2], mem, status;
	pid_t pid;

	read_aliases(ram, self->image, 0, N, 0);
	vswap_pageout(ram, 0, N / 2);

	VSWAP_OK(pipe(pipes));
	pid = VSWAP_OK(fork());
	if (!pid) {
		/* Mapped, and may be written by the parent. */
		char c;

		prctl(PR_SET_PDEATHSIG, SIGKILL);
		close(pipes[1]);
		_exit(read(pipes[0], &c, 1));
	}
	mem = VSWAP_OK(open("/proc/self/mem", O_RDWR));
	for (i = 0; i < N; i += 2) {
		remote.iov_base = vswap_page(ram, i);
		remote.iov_len = sizeof(word);
		TEST_ASSERT_EQ(process_vm_writev(pid, &local, 1, &remote, 1, 0),
			       sizeof(word));
		TEST_ASSERT_EQ(pwrite(mem, &word, sizeof(word),
				      (uintptr_t)vswap_page(ram, i + 1)),
			       sizeof(word));
	}
	close(pipes[1]);
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);

	TEST_ASSERT_EQ(vswap_stats(ram).aliases, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_guest, N);
	for (i = 0; i < N; i++) {
		TEST_ASSERT_EQ(*(uint64_t *)vswap_page(ram, i), 42);
		*(uint64_t *)vswap_page(ram, i) = vswap_word(IMAGE + i, 0);
	}
	vswap_expect_pages(ram, 0, N, IMAGE);
	vswap_expect_blocks(&self->m, "image", 0, 2 * N, IMAGE, false);
}

VSWAP_TEST(written_pages)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats stats;

	vswap_fill_pages(ram, 0, N, NEW);
	vswap_drain_lru();
	vswap_pwrite(self->image, ram->mem, N, N);
	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.aliased_by_write, N);
	TEST_ASSERT_EQ(stats.aliases, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS);
	vswap_expect_blocks(&self->m, "image", N, N, NEW, false);
	vswap_expect_pages(ram, 0, N, NEW);

	vswap_pageout(ram, 0, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS_DROPPED);
	TEST_ASSERT_EQ(vswap_stats(ram).swapped, 0);
	vswap_expect_pages(ram, 0, N, NEW);

	/* Written where it is an alias already: it stays one. */
	vswap_pwrite(self->image, ram->mem, N, N);
	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.aliases, N);
	TEST_ASSERT_EQ(stats.broken_by_write, 0);
	vswap_expect_pages(ram, 0, N, NEW);

	/* To elsewhere: an alias of either, but not of nothing. */
	vswap_pwrite(self->image, ram->mem, N, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N);
	vswap_expect_blocks(&self->m, "image", 0, N, NEW, false);
	vswap_pageout(ram, 0, N);
	vswap_expect_pages(ram, 0, N, NEW);

	/* What it is an alias of is overwritten by its neighbour. */
	vswap_pwrite(self->image, vswap_page(ram, 1), 1, N);
	vswap_pwrite(self->image, vswap_page(ram, 0), 1, N + 1);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_expect_blocks(&self->m, "image", N, 1, NEW + 1, false);
	vswap_expect_blocks(&self->m, "image", N + 1, 1, NEW, false);
}

/* Pages swap blocks in one request. */
VSWAP_TEST(write_crosswise)
{
	struct vswap_ram *ram = &self->ram;
	struct iovec iov[4];
	uint64_t i;

	read_aliases(ram, self->image, 0, 4, 100);
	for (i = 0; i < 4; i++) {
		iov[i].iov_base = vswap_page(ram, 3 - i);
		iov[i].iov_len = PAGE;
	}
	TEST_ASSERT_EQ(pwritev(self->image, iov, 4, 100 * PAGE), 4 * PAGE);
	vswap_expect_pages(ram, 0, 4, IMAGE + 100);
	for (i = 0; i < 4; i++)
		vswap_expect_blocks(&self->m, "image", 100 + i, 1,
				    IMAGE + 103 - i, false);

	/* The same page to several blocks. */
	for (i = 0; i < 4; i++)
		iov[i].iov_base = vswap_page(ram, 0);
	TEST_ASSERT_EQ(pwritev(self->image, iov, 4, 100 * PAGE), 4 * PAGE);
	vswap_expect_pages(ram, 0, 4, IMAGE + 100);
	vswap_try_pageout(ram, 0, 4);
	vswap_expect_pages(ram, 0, 4, IMAGE + 100);
	for (i = 0; i < 4; i++)
		vswap_expect_blocks(&self->m, "image", 100 + i, 1, IMAGE + 100,
				    false);

	/* And a block to several pages, of which one remains. */
	for (i = 0; i < 4; i++)
		iov[i].iov_base = vswap_page(ram, 8);
	TEST_ASSERT_EQ(preadv(self->image, iov, 4, 200 * PAGE), 4 * PAGE);
	vswap_expect_page(vswap_page(ram, 8), IMAGE + 203);
}

/* ------------------------------------------- pages that change meanwhile */

struct counter {
	uint64_t *word;
	atomic_bool stop;
	uint64_t count;
};

/* Memory must never go back.  Idle at times, so that some writes succeed. */
static void *count_up(void *data)
{
	struct counter *c = data;
	uint64_t last = READ_ONCE(*c->word), seen;
	unsigned int i;

	while (!atomic_load(&c->stop)) {
		for (i = 0; i < 200; i++) {
			seen = READ_ONCE(*c->word);
			TEST_ASSERT(seen == last, "memory is %lu after %lu", seen,
				    last);
			WRITE_ONCE(*c->word, ++last);
		}
		seen = READ_ONCE(*c->word);
		TEST_ASSERT(seen == last, "memory is %lu after %lu", seen, last);
		usleep(300);
	}
	c->count = last;
	return NULL;
}

VSWAP_TEST(changed_in_flight)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats stats;
	struct counter counter = { .word = (void *)vswap_page(ram, 7) };
	pthread_t thread;
	unsigned int i;
	char *buf = vswap_buffer(1);
	uint64_t last = 0;

	pthread_create(&thread, NULL, count_up, &counter);
	for (i = 0; i < 100000; i++) {
		vswap_pwrite(self->image, vswap_page(ram, 7), 1, 7);
		/* What is on disk was in memory, and later than before. */
		vswap_pread(self->image, buf, 1, 7);
		TEST_ASSERT(*(uint64_t *)buf >= last &&
			    *(uint64_t *)buf <= READ_ONCE(*counter.word),
			    "%lu is on disk after %lu", *(uint64_t *)buf, last);
		last = *(uint64_t *)buf;
		if (i % 4 == 0)
			vswap_try_pageout(ram, 7, 1);
		stats = vswap_stats(ram);
		if (i >= 1000 && stats.skipped_changed >= 50 &&
		    stats.aliased_by_write >= 50 && stats.broken_by_guest >= 50)
			break;
	}
	atomic_store(&counter.stop, true);
	pthread_join(thread, NULL);
	TEST_ASSERT_EQ(*counter.word, counter.count);
	TEST_ASSERT(stats.skipped_changed >= 50 &&
		    stats.aliased_by_write >= 50 && stats.broken_by_guest >= 50,
		    "after %u writes: %llu changed, %llu aliases, of which %llu broken",
		    i, stats.skipped_changed, stats.aliased_by_write,
		    stats.broken_by_guest);
	ksft_print_msg("%u writes: %llu changed, %llu aliases, %llu broken\n", i,
		       stats.skipped_changed, stats.aliased_by_write,
		       stats.broken_by_guest);
}

/* ------------------------------------------------- blocks that change */

enum change {
	WRITE_DIRECT,
	WRITE_BUFFERED,
	WRITE_PART,
	WRITE_PAGES,
	WRITE_SPLICE,
	PUNCH,
	ZERO,
	TRUNCATE,
	FTRUNCATE,
	OPEN_TRUNCATE,
	NR_CHANGES,
};

static const char * const change_names[] = {
	"direct write", "buffered write", "write of a part", "write of pages",
	"splice", "punch", "zero range", "truncate", "ftruncate", "O_TRUNC",
};

/* Change blocks [first, first + nr), or from there to the end. */
static void change_blocks(struct vswap_mount *m, struct vswap_ram *ram,
			  enum change change, uint64_t first, uint64_t nr)
{
	const char *path = vswap_path(m->mnt, "image");
	int fd = VSWAP_OK(open(path, O_RDWR)), direct, pipes[2];
	char *buf = vswap_buffer(nr);
	uint64_t i;

	direct = VSWAP_OK(open(path, O_RDWR | O_DIRECT));
	for (i = 0; i < nr; i++)
		vswap_fill(buf + i * PAGE, NEW + i);

	switch (change) {
	case WRITE_DIRECT:
		vswap_pwrite(direct, buf, nr, first);
		break;
	case WRITE_BUFFERED:
		vswap_pwrite(fd, buf, nr, first);
		break;
	case WRITE_PART:
		/* A word of each block. */
		for (i = 0; i < nr; i++)
			TEST_ASSERT_EQ(pwrite(fd, buf + i * PAGE + 8, 8,
					      (first + i) * PAGE + 8), 8);
		break;
	case WRITE_PAGES:
		vswap_fill_pages(ram, N, nr, NEW);
		vswap_pwrite(direct, vswap_page(ram, N), nr, first);
		break;
	case WRITE_SPLICE:
		VSWAP_OK(pipe(pipes));
		VSWAP_OK(lseek(fd, first * PAGE, SEEK_SET));
		for (i = 0; i < nr; i++) {
			TEST_ASSERT_EQ(write(pipes[1], buf + i * PAGE, PAGE),
				       PAGE);
			TEST_ASSERT_EQ(splice(pipes[0], NULL, fd, NULL, PAGE, 0),
				       PAGE);
		}
		close(pipes[0]);
		close(pipes[1]);
		break;
	case PUNCH:
		VSWAP_OK(fallocate(direct, FALLOC_FL_PUNCH_HOLE |
				   FALLOC_FL_KEEP_SIZE, first * PAGE, nr * PAGE));
		break;
	case ZERO:
		VSWAP_OK(fallocate(direct, FALLOC_FL_ZERO_RANGE, first * PAGE,
				   nr * PAGE));
		break;
	case TRUNCATE:
		VSWAP_OK(truncate(path, first * PAGE + 8));
		break;
	case FTRUNCATE:
		VSWAP_OK(ftruncate(fd, first * PAGE));
		VSWAP_OK(ftruncate(fd, 2 * N * PAGE));
		break;
	case OPEN_TRUNCATE:
		VSWAP_OK(close(VSWAP_OK(open(path, O_WRONLY | O_TRUNC))));
		break;
	default:
		TEST_FAIL("unknown change");
	}
	munmap(buf, nr * PAGE);
	close(direct);
	close(fd);
}

/* What the first of the blocks is then. */
static void expect_changed(struct vswap_mount *m, enum change change,
			   uint64_t first, uint64_t nr)
{
	struct stat st;
	char *buf;
	int fd;

	VSWAP_OK(stat(vswap_path(m->lower, "image"), &st));
	switch (change) {
	case WRITE_DIRECT:
	case WRITE_BUFFERED:
	case WRITE_PAGES:
	case WRITE_SPLICE:
		TEST_ASSERT_EQ(st.st_size, 2 * N * PAGE);
		vswap_expect_blocks(m, "image", first, nr, NEW, false);
		break;
	case PUNCH:
	case ZERO:
	case FTRUNCATE:
		TEST_ASSERT_EQ(st.st_size, 2 * N * PAGE);
		vswap_expect_blocks(m, "image", first, nr, 0, true);
		break;
	case WRITE_PART:
		buf = vswap_buffer(1);
		fd = VSWAP_OK(open(vswap_path(m->lower, "image"), O_RDONLY));
		vswap_pread(fd, buf, 1, first);
		close(fd);
		TEST_ASSERT_EQ(((uint64_t *)buf)[0], vswap_word(IMAGE + first, 0));
		TEST_ASSERT_EQ(((uint64_t *)buf)[1], vswap_word(NEW, 1));
		TEST_ASSERT_EQ(((uint64_t *)buf)[2], vswap_word(IMAGE + first, 2));
		munmap(buf, PAGE);
		break;
	case TRUNCATE:
		TEST_ASSERT_EQ(st.st_size, first * PAGE + 8);
		return;
	case OPEN_TRUNCATE:
		TEST_ASSERT_EQ(st.st_size, 0);
		return;
	default:
		TEST_FAIL("unknown change");
	}
	if (change != FTRUNCATE)
		vswap_expect_blocks(m, "image", first + nr, 1,
				    IMAGE + first + nr, false);
	vswap_expect_blocks(m, "image", first - 1, 1, IMAGE + first - 1, false);
}

/* Aliases have the old content, whether they were in memory or not. */
VSWAP_TEST(block_changes)
{
	const uint64_t first = 37, nr = 70, all = 128, dropped = 20;
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats before, after;
	uint64_t broken;
	int change;

	for (change = 0; change < NR_CHANGES; change++) {
		ksft_print_msg("%s\n", change_names[change]);
		vswap_image_create(&self->m, "image", 2 * N, IMAGE);
		read_aliases(ram, self->image, 0, all, 0);
		vswap_pageout(ram, 50, dropped);
		before = vswap_stats(ram);

		change_blocks(&self->m, ram, change, first, nr);
		after = vswap_stats(ram);
		switch (change) {
		case TRUNCATE:
		case FTRUNCATE:
			broken = all - first;
			break;
		case OPEN_TRUNCATE:
			broken = all;
			break;
		default:
			broken = nr;
		}
		TEST_ASSERT_EQ(after.broken_by_write - before.broken_by_write,
			       broken);
		/* They were read at once: one by one does not count. */
		TEST_ASSERT_EQ(after.refault_pages - before.refault_pages,
			       dropped);
		vswap_try_pageout(ram, 0, all);
		vswap_expect_pages(ram, 0, all, IMAGE);
		expect_changed(&self->m, change, first, nr);
		if (change == WRITE_PAGES)
			vswap_expect_pages(ram, N, nr, NEW);

		/* Nothing is an alias of what is not there. */
		TEST_ASSERT_EQ(vswap_stats(ram).aliases, all - broken +
			       (change == WRITE_PAGES ?
				after.aliased_by_write - before.aliased_by_write :
				0));
		VSWAP_OK(fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE |
				   FALLOC_FL_KEEP_SIZE, 0, 2 * N * PAGE));
	}
}

/* A change that does not touch the blocks leaves aliases alone. */
VSWAP_TEST(block_stays)
{
	struct vswap_ram *ram = &self->ram;

	read_aliases(ram, self->image, 0, N, 0);
	VSWAP_OK(fallocate(self->image, 0, 0, 3 * N * PAGE));
	VSWAP_OK(fallocate(self->image, FALLOC_FL_KEEP_SIZE, 0, 4 * N * PAGE));
	VSWAP_OK(ftruncate(self->image, 5 * N * PAGE));
	VSWAP_OK(ftruncate(self->image, N * PAGE));
	VSWAP_FAILS(fallocate(self->image, FALLOC_FL_COLLAPSE_RANGE, 0, PAGE),
		    EOPNOTSUPP);
	VSWAP_FAILS(fallocate(self->image, FALLOC_FL_INSERT_RANGE, 0, PAGE),
		    EOPNOTSUPP);
	VSWAP_OK(fsync(self->image));
	VSWAP_OK(fdatasync(self->image));
	VSWAP_OK(syncfs(self->image));
	VSWAP_OK(posix_fadvise(self->image, 0, 0, POSIX_FADV_DONTNEED));
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N);
	vswap_pageout(ram, 0, N);
	vswap_expect_pages(ram, 0, N, IMAGE);
}

/* ------------------------------------------------------ given back */

VSWAP_TEST(punch_ram)
{
	struct vswap_ram *ram = &self->ram;
	const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
	const uint64_t part = N / 4;
	struct kvm_vswap_stats stats;
	int remove;

	for (remove = 0; remove < 2; remove++) {
		/* Aliases, dropped aliases, written pages, swapped out pages. */
		read_aliases(ram, self->image, 0, 2 * part, 0);
		vswap_pageout(ram, part, part);
		vswap_fill_pages(ram, 2 * part, 2 * part, NEW);
		expect_swapped(ram, 3 * part, part);
		vswap_fill(vswap_page(ram, N), OTHER);

		if (remove)
			VSWAP_OK(madvise(ram->mem, N * PAGE, MADV_REMOVE));
		else
			VSWAP_OK(fallocate(ram->fd, mode, 0, N * PAGE));
		vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_NONE);
		stats = vswap_stats(ram);
		TEST_ASSERT_EQ(stats.aliases, 0);
		TEST_ASSERT_EQ(stats.swapped, 0);
		TEST_ASSERT_EQ(stats.resident, 1);
		vswap_expect_zeroes(ram, 0, N);
		vswap_expect_page(vswap_page(ram, N), OTHER);
		vswap_expect_blocks(&self->m, "image", 0, 2 * N, IMAGE, false);
	}

	/* Only whole pages, and nothing else. */
	VSWAP_FAILS(fallocate(ram->fd, mode, 1, PAGE), EINVAL);
	VSWAP_FAILS(fallocate(ram->fd, mode, 0, PAGE - 1), EINVAL);
	VSWAP_FAILS(fallocate(ram->fd, 0, 0, PAGE), EOPNOTSUPP);
	VSWAP_FAILS(fallocate(ram->fd, FALLOC_FL_ZERO_RANGE, 0, PAGE),
		    EOPNOTSUPP);
	VSWAP_FAILS(fallocate(ram->fd, FALLOC_FL_KEEP_SIZE, 0, PAGE),
		    EOPNOTSUPP);
}

static sigjmp_buf fault_env;

static void fault_handler(int sig)
{
	siglongjmp(fault_env, sig);
}

/* The signal that an access to memory gets, or 0. */
static int touch_signal(void *p, bool write)
{
	struct sigaction action = { .sa_handler = fault_handler };
	int sig;

	sigaction(SIGBUS, &action, NULL);
	sigaction(SIGSEGV, &action, NULL);
	sig = sigsetjmp(fault_env, 1);
	if (!sig) {
		if (write)
			WRITE_ONCE(*(uint64_t *)p, 1);
		else
			(void)READ_ONCE(*(uint64_t *)p);
	}
	signal(SIGBUS, SIG_DFL);
	signal(SIGSEGV, SIG_DFL);
	return sig;
}

VSWAP_TEST(truncate_ram)
{
	struct vswap_ram *ram = &self->ram;

	read_aliases(ram, self->image, 0, N, 0);
	vswap_pageout(ram, 0, N / 2);
	VSWAP_FAILS(ftruncate(ram->fd, N * PAGE - 1), EINVAL);
	VSWAP_OK(ftruncate(ram->fd, N / 4 * PAGE));
	TEST_ASSERT_EQ(vswap_stats(ram).pages, N / 4);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N / 4);
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, N / 4), false), SIGBUS);
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, N / 2), true), SIGBUS);

	/* Nor is there anything to read to. */
	VSWAP_FAILS(pread(self->image, vswap_page(ram, N / 4), PAGE, 0), EFAULT);
	TEST_ASSERT_EQ(pread(self->image, vswap_page(ram, N / 4 - 2), 4 * PAGE,
			     PAGE), 2 * PAGE);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N / 4);
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, N / 4), false), SIGBUS);
	VSWAP_FAILS(pwrite(self->image, vswap_page(ram, N / 4), PAGE, 0), EFAULT);

	VSWAP_OK(ftruncate(ram->fd, 2 * N * PAGE));
	vswap_expect_pages(ram, 0, N / 4 - 2, IMAGE);
	vswap_expect_pages(ram, N / 4 - 2, 2, IMAGE + 1);
	vswap_expect_zeroes(ram, N / 4, 2 * N - N / 4);
}

/* --------------------------------------------------------------- swap */

VSWAP_TEST(stale_reads)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats before, after;

	if (!vswap_has_swap())
		SKIP(return, "no swap");

	/* In swap. */
	vswap_fill_pages(ram, 0, N, NEW);
	vswap_pageout(ram, 0, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_SWAPPED);
	before = vswap_stats(ram);
	TEST_ASSERT_EQ(before.swapped, N);
	read_aliases(ram, self->image, 0, N, 0);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.swapped, 0);
	TEST_ASSERT_EQ(after.swap_faults - before.swap_faults, 0);
	TEST_ASSERT_EQ(after.stale_reads_avoided - before.stale_reads_avoided, N);
	vswap_expect_pages(ram, 0, N, IMAGE);

	/* Dropped. */
	vswap_pageout(ram, 0, N);
	before = vswap_stats(ram);
	read_aliases(ram, self->image, 0, N, N);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.refaults - before.refaults, 0);
	TEST_ASSERT_EQ(after.stale_reads_avoided - before.stale_reads_avoided, N);
	vswap_expect_pages(ram, 0, N, IMAGE + N);

	/* Neither. */
	before = vswap_stats(ram);
	read_aliases(ram, self->image, 0, N, 0);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.stale_reads_avoided - before.stale_reads_avoided, 0);
}

VSWAP_TEST(swap_in)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats before, after;

	if (!vswap_has_swap())
		SKIP(return, "no swap");

	vswap_fill_pages(ram, 0, N, NEW);
	vswap_pageout(ram, 0, N);
	before = vswap_stats(ram);
	vswap_expect_pages(ram, 0, N, NEW);
	after = vswap_stats(ram);
	TEST_ASSERT(after.swap_faults > before.swap_faults,
		    "faults on swapped out pages are not counted");
	TEST_ASSERT_EQ(after.swapped, 0);
	TEST_ASSERT_EQ(after.refaults, 0);

	/* Written to an image from swap. */
	vswap_pageout(ram, 0, N);
	vswap_pwrite(self->image, ram->mem, N, 0);
	vswap_expect_blocks(&self->m, "image", 0, N, NEW, false);
	vswap_try_pageout(ram, 0, N);
	vswap_expect_pages(ram, 0, N, NEW);
}

/*
 * Swap off and on again, where the machine's other processes are: an area is known
 * by its name, which is not to be that of a namespace which is about to go.
 */
static void swap_areas(struct vswap_mount *m, char (*area)[128], unsigned int nr,
		       bool on)
{
	pid_t pid = VSWAP_OK(fork());
	unsigned int i;
	int status;

	if (!pid) {
		VSWAP_OK(setns(m->ns, CLONE_NEWNS));
		for (i = 0; i < nr; i++) {
			if (on)
				VSWAP_OK(swapon(area[i], 0));
			else
				VSWAP_OK(swapoff(area[i]));
		}
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_EQ(status, 0);
}

/* All swap areas go, and what is in them with it. */
VSWAP_TEST(swapoff)
{
	struct vswap_ram *ram = &self->ram;
	char line[256], area[8][128];
	unsigned int nr = 0;
	FILE *f;

	if (!vswap_has_swap())
		SKIP(return, "no swap");

	f = fopen("/proc/swaps", "r");
	TEST_ASSERT(f && fgets(line, sizeof(line), f), "no /proc/swaps");
	while (nr < ARRAY_SIZE(area) && fgets(line, sizeof(line), f))
		TEST_ASSERT_EQ(sscanf(line, "%127s", area[nr++]), 1);
	fclose(f);

	vswap_fill_pages(ram, 0, N, NEW);
	vswap_pageout(ram, 0, N);
	read_aliases(ram, self->image, N, N, 0);
	read_aliases(ram, self->image, 0, N / 2, 0);
	vswap_pageout(ram, N, N / 2);
	swap_areas(&self->m, area, nr, false);
	TEST_ASSERT_EQ(vswap_stats(ram).swapped, 0);
	vswap_expect_states(ram, 0, N / 2, KVM_VSWAP_PAGE_ALIAS);
	vswap_expect_states(ram, N / 2, N / 2, KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_states(ram, N, N / 2, KVM_VSWAP_PAGE_ALIAS_DROPPED);
	swap_areas(&self->m, area, nr, true);
	vswap_expect_pages(ram, 0, N / 2, IMAGE);
	vswap_expect_pages(ram, N / 2, N / 2, NEW + N / 2);
	vswap_expect_pages(ram, N, N, IMAGE);
}

/* Nothing is locked in memory: the mapping is special. */
VSWAP_TEST(mlock)
{
	struct vswap_ram *ram = &self->ram;
	const uint64_t nr = 64;

	read_aliases(ram, self->image, 0, nr, 0);
	VSWAP_OK(mlock(ram->mem, nr * PAGE));
	vswap_pageout(ram, 0, nr);
	vswap_expect_states(ram, 0, nr, KVM_VSWAP_PAGE_ALIAS_DROPPED);
	vswap_fill_pages(ram, 0, nr / 2, NEW);
	VSWAP_OK(fallocate(self->image, FALLOC_FL_PUNCH_HOLE |
			   FALLOC_FL_KEEP_SIZE, 0, nr * PAGE));
	vswap_expect_pages(ram, 0, nr / 2, NEW);
	vswap_expect_pages(ram, nr / 2, nr / 2, IMAGE + nr / 2);
	VSWAP_OK(munlock(ram->mem, nr * PAGE));
	vswap_try_pageout(ram, 0, nr);
	vswap_expect_pages(ram, 0, nr / 2, NEW);
}

/* A huge page would cover aliases that were dropped. */
VSWAP_TEST(no_huge_pages)
{
	const uint64_t nr = HUGE;
	struct vswap_ram big;

	vswap_ram_create(&self->m, "big", 4 * nr, &big);
	read_aliases(&big, self->image, nr, nr, 0);
	vswap_pageout(&big, nr, nr / 2);
	/* As QEMU does. */
	VSWAP_OK(madvise(big.mem, 4 * nr * PAGE, MADV_HUGEPAGE));
	VSWAP_FAILS(madvise(big.mem, 4 * nr * PAGE, MADV_COLLAPSE), EINVAL);
	vswap_fill_pages(&big, 2 * nr, 1, NEW);
	TEST_ASSERT_EQ(vswap_stats(&big).resident, nr / 2 + 1);
	vswap_expect_pages(&big, nr, nr, IMAGE);
	vswap_expect_zeroes(&big, 2 * nr + 1, nr - 1);
}

/* ------------------------------------------------------------ requests */

/* The file as it is below, for comparison. */
static char *plain_content(struct vswap_mount *m, const char *name, size_t *size)
{
	int fd = VSWAP_OK(open(vswap_path(m->lower, name), O_RDONLY));
	struct stat st;
	char *buf;

	VSWAP_OK(fstat(fd, &st));
	*size = st.st_size;
	buf = malloc(*size + 1);
	TEST_ASSERT_EQ(pread(fd, buf, *size, 0), *size);
	close(fd);
	return buf;
}

/*
 * Requests of all forms: "iov" is made of parts of RAM files (at a page, offset in
 * it, length) and of other memory.
 */
struct part {
	bool other;
	unsigned int page;
	unsigned int offset;
	unsigned int len;
};

static const struct request {
	off_t pos;
	bool direct;
	struct part parts[6];
} requests[] = {
	/* Aligned to sectors, not to pages: position, memory, length. */
	{ 512,   true, { { false, 3, 0, 4 * PAGE } } },
	{ PAGE,  true, { { false, 3, 512, 4 * PAGE } } },
	{ PAGE,  true, { { false, 3, 0, 4 * PAGE - 512 } } },
	{ 1536,  true, { { false, 3, 1536, 3 * PAGE } } },
	{ PAGE,  true, { { false, 3, 0, 512 } } },
	/* In part. */
	{ PAGE,  true, { { true, 0, 0, PAGE }, { false, 3, 0, 2 * PAGE },
			 { true, 1, 0, 512 }, { false, 6, 512, PAGE - 512 },
			 { false, 8, 0, PAGE }, { true, 4, 0, 2 * PAGE } } },
	{ 0,     true, { { false, 1, 0, PAGE }, { false, 2, 0, 512 },
			 { false, 2, 512, PAGE - 512 }, { false, 3, 0, PAGE },
			 { true, 0, 0, 512 }, { false, 9, 0, PAGE } } },
	{ 3584,  true, { { true, 0, 0, 512 }, { false, 3, 0, 8 * PAGE } } },
	{ PAGE,  true, { { true, 0, 0, 0 }, { false, 3, 0, PAGE },
			 { false, 4, 0, 0 }, { false, 7, 0, PAGE } } },
	/* Page cache: bytes. */
	{ 1,     false, { { false, 3, 0, 4 * PAGE } } },
	{ PAGE,  false, { { false, 3, 1, 4 * PAGE } } },
	{ PAGE,  false, { { false, 3, 0, 3 * PAGE + 1 } } },
	{ PAGE,  false, { { false, 3, 0, PAGE }, { true, 0, 7, 13 },
			  { false, 5, 3, 2 * PAGE }, { false, 9, 0, PAGE } } },
	{ PAGE - 13, false, { { true, 0, 0, 13 }, { false, 3, 0, 2 * PAGE } } },
	{ 0,     false, { { false, 3, 0, 8 * PAGE } } },
	{ 1000,  false, { { false, 3, 1000, 5 } } },
	/* More than is done at once. */
	{ 0,     true, { { false, 0, 0, 600 * PAGE } } },
	{ 512,   true, { { false, 0, 0, 600 * PAGE } } },
	{ 0,     true, { { false, 0, 512, 600 * PAGE }, { true, 0, 0, 512 },
			 { false, 700, 0, 3584 } } },
};

#define OTHER_PAGES	16ul

static size_t make_iov(const struct request *r, struct vswap_ram *ram,
		       char *other, struct iovec *iov, int *nr)
{
	size_t size = 0;
	int i;

	for (i = 0; i < 6; i++) {
		const struct part *p = &r->parts[i];

		iov[i].iov_base = (p->other ? other : ram->mem) +
				  p->page * PAGE + p->offset;
		iov[i].iov_len = p->len;
		size += p->len;
		if (p->len)
			*nr = i + 1;
	}
	return size;
}

VSWAP_TEST(read_requests)
{
	struct vswap_ram *ram = &self->ram;
	int buffered = vswap_image_open(&self->m, "image", O_RDONLY);
	char *other = vswap_buffer(OTHER_PAGES), *expected, *plain;
	size_t size, image_size, pos, k;
	struct iovec iov[6];
	unsigned int i, round;
	int nr, j;

	plain = plain_content(&self->m, "image", &image_size);
	expected = vswap_buffer(2 * N);
	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		for (round = 0; round < 2; round++) {
			const struct request *r = &requests[i];

			/* Over aliases of other blocks, and over written pages. */
			if (round)
				vswap_fill_pages(ram, 0, 2 * N, NEW);
			else
				read_aliases(ram, self->image, 0, 2 * N, 0);
			if (round && vswap_has_swap())
				vswap_pageout(ram, 4, 4);
			memcpy(expected, ram->mem, 2 * N * PAGE);
			memset(other, 0xaa, OTHER_PAGES * PAGE);

			size = make_iov(r, ram, other, iov, &nr);
			TEST_ASSERT(preadv(r->direct ? self->image : buffered,
					   iov, nr, r->pos) == (ssize_t)size,
				    "request %u", i);
			for (j = 0, pos = r->pos; j < nr; j++) {
				char *p = iov[j].iov_base;

				for (k = 0; k < iov[j].iov_len; k++, pos++) {
					if (r->parts[j].other)
						TEST_ASSERT(p[k] == plain[pos],
							    "request %u part %d byte %lu",
							    i, j, k);
					else
						expected[p + k - ram->mem] = plain[pos];
				}
			}
			TEST_ASSERT(!memcmp(expected, ram->mem, 2 * N * PAGE),
				    "request %u: memory differs", i);
			vswap_try_pageout(ram, 0, 2 * N);
			TEST_ASSERT(!memcmp(expected, ram->mem, 2 * N * PAGE),
				    "request %u: memory differs after reclaim", i);
		}
	}
	TEST_ASSERT_EQ(vswap_stats(ram).io_errors, 0);
}

VSWAP_TEST(write_requests)
{
	struct vswap_ram *ram = &self->ram;
	int buffered = vswap_image_open(&self->m, "image", O_RDWR);
	char *other = vswap_buffer(OTHER_PAGES), *expected, *plain;
	size_t size, image_size, pos;
	struct iovec iov[6];
	unsigned int i, round;
	int nr, j;

	expected = vswap_buffer(2 * N);
	vswap_fill_pages(ram, 0, 2 * N, NEW);
	for (i = 0; i < OTHER_PAGES; i++)
		vswap_fill(other + i * PAGE, OTHER + i);
	for (i = 0; i < ARRAY_SIZE(requests); i++) {
		for (round = 0; round < 2; round++) {
			const struct request *r = &requests[i];

			plain = plain_content(&self->m, "image", &image_size);
			TEST_ASSERT_EQ(image_size, 2 * N * PAGE);
			/* From aliases of what is overwritten, or from others. */
			if (round)
				read_aliases(ram, self->image, 0, N, 0);
			memcpy(expected, ram->mem, 2 * N * PAGE);

			size = make_iov(r, ram, other, iov, &nr);
			for (j = 0, pos = r->pos; j < nr; j++) {
				memcpy(plain + pos, iov[j].iov_base, iov[j].iov_len);
				pos += iov[j].iov_len;
			}
			TEST_ASSERT(pwritev(r->direct ? self->image : buffered,
					    iov, nr, r->pos) == (ssize_t)size,
				    "request %u", i);
			TEST_ASSERT(!memcmp(expected, ram->mem, 2 * N * PAGE),
				    "request %u: memory differs", i);
			vswap_try_pageout(ram, 0, 2 * N);
			TEST_ASSERT(!memcmp(expected, ram->mem, 2 * N * PAGE),
				    "request %u: memory differs after reclaim", i);
			memcpy(expected, plain, image_size);
			free(plain);
			plain = plain_content(&self->m, "image", &image_size);
			TEST_ASSERT(!memcmp(expected, plain, 2 * N * PAGE),
				    "request %u: image differs", i);
			free(plain);
			if (round)
				vswap_fill_pages(ram, 0, 2 * N, NEW + i);
		}
	}
}

VSWAP_TEST(end_of_file)
{
	struct vswap_ram *ram = &self->ram;
	const size_t size = 10 * PAGE + 1000;
	int fd, direct;
	uint64_t i;

	vswap_image_create(&self->m, "odd", 11, OTHER);
	VSWAP_OK(truncate(vswap_path(self->m.lower, "odd"), size));
	for (direct = 0; direct < 2; direct++) {
		fd = vswap_image_open(&self->m, "odd",
				      O_RDWR | (direct ? O_DIRECT : 0));
		vswap_fill_pages(ram, 0, 16, NEW);
		TEST_ASSERT_EQ(pread(fd, ram->mem, 16 * PAGE, 0), size);
		vswap_expect_pages(ram, 0, 10, OTHER);
		vswap_expect_states(ram, 0, 10, KVM_VSWAP_PAGE_ALIAS);
		vswap_expect_states(ram, 10, 1, KVM_VSWAP_PAGE_RESIDENT);
		for (i = 0; i < PAGE / 8; i++)
			TEST_ASSERT_EQ(((uint64_t *)vswap_page(ram, 10))[i],
				       vswap_word(i < 125 ? OTHER + 10 : NEW + 10, i));
		vswap_expect_pages(ram, 11, 5, NEW + 11);

		/* At the end, and beyond. */
		TEST_ASSERT_EQ(pread(fd, ram->mem, PAGE, 10 * PAGE), 1000);
		TEST_ASSERT_EQ(pread(fd, ram->mem, PAGE, 11 * PAGE), 0);
		TEST_ASSERT_EQ(pread(fd, ram->mem, PAGE, 1ul << 40), 0);
		TEST_ASSERT_EQ(pread(fd, ram->mem, 0, 0), 0);
		TEST_ASSERT_EQ(pwrite(fd, ram->mem, 0, 0), 0);
		VSWAP_FAILS(pread(fd, ram->mem, PAGE, -PAGE), EINVAL);
		close(fd);
	}

	/* What is written there makes it longer. */
	fd = vswap_image_open(&self->m, "odd", O_RDWR | O_DIRECT);
	vswap_fill_pages(ram, 0, 8, NEW);
	vswap_pwrite(fd, ram->mem, 8, 20);
	vswap_expect_blocks(&self->m, "odd", 20, 8, NEW, false);
	vswap_expect_blocks(&self->m, "odd", 11, 9, 0, true);
	TEST_ASSERT_EQ(lseek(fd, 0, SEEK_END), 28 * PAGE);
	close(fd);
	fd = vswap_image_open(&self->m, "odd", O_WRONLY | O_APPEND | O_DIRECT);
	vswap_pwrite(fd, vswap_page(ram, 4), 1, 0);
	vswap_expect_blocks(&self->m, "odd", 28, 1, NEW + 4, false);
	vswap_expect_blocks(&self->m, "odd", 0, 1, OTHER, false);
	close(fd);
}

/* What a process may not do with its memory, the kernel does not do for it. */
VSWAP_TEST(access)
{
	struct vswap_ram *ram = &self->ram;
	char *mem;
	int fd;

	vswap_fill_pages(ram, 0, 8, NEW);
	mem = VSWAP_OK(mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, ram->fd, 0));
	VSWAP_FAILS(pread(self->image, mem, 4 * PAGE, 0), EFAULT);
	vswap_expect_pages(ram, 0, 8, NEW);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, 0);
	vswap_pwrite(self->image, mem, 4, 0);
	vswap_expect_blocks(&self->m, "image", 0, 4, NEW, false);
	VSWAP_OK(mprotect(mem, 8 * PAGE, PROT_NONE));
	VSWAP_FAILS(pread(self->image, mem, 4 * PAGE, 0), EFAULT);
	VSWAP_FAILS(pwrite(self->image, mem, 4 * PAGE, 0), EFAULT);
	munmap(mem, 8 * PAGE);
	VSWAP_FAILS(pread(self->image, mem, PAGE, 0), EFAULT);

	/* Nor with its descriptors. */
	fd = VSWAP_OK(open(vswap_path(self->m.mnt, "ram"), O_RDONLY));
	VSWAP_FAILS(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0),
		    EACCES);
	VSWAP_FAILS(ftruncate(fd, 0), EINVAL);
	VSWAP_FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      PAGE), EBADF);
	mem = VSWAP_OK(mmap(NULL, 8 * PAGE, PROT_READ, MAP_SHARED, fd, 0));
	VSWAP_FAILS(mprotect(mem, PAGE, PROT_READ | PROT_WRITE), EACCES);
	VSWAP_FAILS(pread(self->image, mem, 4 * PAGE, 0), EFAULT);
	VSWAP_FAILS(madvise(mem, PAGE, MADV_REMOVE), EACCES);
	munmap(mem, 8 * PAGE);
	close(fd);

	fd = vswap_image_open(&self->m, "image", O_RDONLY);
	VSWAP_FAILS(pwrite(fd, ram->mem, PAGE, 0), EBADF);
	VSWAP_FAILS(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			      PAGE), EBADF);
	close(fd);
	fd = vswap_image_open(&self->m, "image", O_WRONLY);
	VSWAP_FAILS(pread(fd, ram->mem, PAGE, 0), EBADF);
	close(fd);

	VSWAP_FAILS(mmap(NULL, PAGE, PROT_READ, MAP_SHARED, self->image, 0),
		    ENODEV);
	VSWAP_FAILS(mmap(NULL, PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE, ram->fd,
			 0), EINVAL);
	VSWAP_FAILS(read(ram->fd, &fd, 1), EINVAL);
	VSWAP_FAILS(write(ram->fd, &fd, 1), EINVAL);
	vswap_expect_pages(ram, 0, 8, NEW);

	/* The copy of whom it is not shared with, by fork(), is not there. */
	VSWAP_FAILS(mremap(ram->mem, PAGE, 2 * PAGE, MREMAP_MAYMOVE), EFAULT);
}

static int setup_aio(aio_context_t *ctx)
{
	*ctx = 0;
	return syscall(SYS_io_setup, 64, ctx);
}

/* Eight runs of eight pages, which are 128 blocks apart. */
static void expect_spread(struct vswap_ram *ram, bool written)
{
	unsigned int i;

	for (i = 0; i < 8; i++)
		vswap_expect_pages(ram, i * 8, 8,
				   written ? NEW + i * 8 : IMAGE + i * 128);
}

/*
 * Several requests at once, at a distance: those of neighbours may keep each other
 * from making aliases.
 */
VSWAP_TEST(linux_aio)
{
	struct vswap_ram *ram = &self->ram;
	struct io_event events[8];
	struct iocb iocb[8], *list[8];
	struct iovec iov[8];
	aio_context_t ctx;
	unsigned int i, write;

	VSWAP_OK(setup_aio(&ctx));
	for (write = 0; write < 2; write++) {
		for (i = 0; i < 8; i++) {
			iov[i].iov_base = vswap_page(ram, i * 8);
			iov[i].iov_len = 8 * PAGE;
			iocb[i] = (struct iocb) {
				.aio_data = i,
				.aio_fildes = self->image,
				.aio_offset = i * 128 * PAGE,
				.aio_lio_opcode = write ? IOCB_CMD_PWRITE :
						  IOCB_CMD_PREAD,
				.aio_buf = (uintptr_t)iov[i].iov_base,
				.aio_nbytes = 8 * PAGE,
			};
			if (i % 2) {
				iocb[i].aio_lio_opcode = write ?
					IOCB_CMD_PWRITEV : IOCB_CMD_PREADV;
				iocb[i].aio_buf = (uintptr_t)&iov[i];
				iocb[i].aio_nbytes = 1;
			}
			list[i] = &iocb[i];
		}
		if (write) {
			vswap_fill_pages(ram, 0, 64, NEW);
			vswap_drain_lru();
		}
		TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 8, list), 8);
		TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 8, 8, events, NULL),
			       8);
		for (i = 0; i < 8; i++)
			TEST_ASSERT_EQ(events[i].res, 8 * PAGE);
		expect_spread(ram, write);
		if (!write) {
			vswap_expect_states(ram, 0, 64, KVM_VSWAP_PAGE_ALIAS);
			vswap_pageout(ram, 0, 64);
		} else {
			vswap_try_pageout(ram, 0, 64);
		}
		expect_spread(ram, write);
	}
	TEST_ASSERT(vswap_stats(ram).aliased_by_write, "none became an alias");
	for (i = 0; i < 8; i++)
		vswap_expect_blocks(&self->m, "image", i * 128, 8, NEW + i * 8,
				    false);
}

/* No more of io_uring than it takes to have a few requests in flight. */
struct ring {
	int fd;
	struct io_uring_params p;
	char *sq, *cq;
	struct io_uring_sqe *sqes;
};

static bool setup_ring(struct ring *ring)
{
	memset(ring, 0, sizeof(*ring));
	ring->fd = syscall(SYS_io_uring_setup, 16, &ring->p);
	if (ring->fd < 0)
		return false;
	ring->sq = VSWAP_OK(mmap(NULL, ring->p.sq_off.array +
				 ring->p.sq_entries * sizeof(__u32),
				 PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_POPULATE, ring->fd,
				 IORING_OFF_SQ_RING));
	ring->cq = VSWAP_OK(mmap(NULL, ring->p.cq_off.cqes +
				 ring->p.cq_entries * sizeof(struct io_uring_cqe),
				 PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_POPULATE, ring->fd,
				 IORING_OFF_CQ_RING));
	ring->sqes = VSWAP_OK(mmap(NULL, ring->p.sq_entries *
				   sizeof(struct io_uring_sqe),
				   PROT_READ | PROT_WRITE,
				   MAP_SHARED | MAP_POPULATE, ring->fd,
				   IORING_OFF_SQES));
	return true;
}

static void queue_sqe(struct ring *ring, struct io_uring_sqe sqe)
{
	__u32 *tail = (__u32 *)(ring->sq + ring->p.sq_off.tail);
	__u32 mask = *(__u32 *)(ring->sq + ring->p.sq_off.ring_mask);
	__u32 i = *tail & mask;

	ring->sqes[i] = sqe;
	((__u32 *)(ring->sq + ring->p.sq_off.array))[i] = i;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
}

static void expect_cqes(struct ring *ring, unsigned int nr, int res)
{
	__u32 *head = (__u32 *)(ring->cq + ring->p.cq_off.head);
	__u32 *tail = (__u32 *)(ring->cq + ring->p.cq_off.tail);
	__u32 mask = *(__u32 *)(ring->cq + ring->p.cq_off.ring_mask);
	struct io_uring_cqe *cqes = (void *)(ring->cq + ring->p.cq_off.cqes);

	TEST_ASSERT_EQ(syscall(SYS_io_uring_enter, ring->fd, nr, nr,
			       IORING_ENTER_GETEVENTS, NULL, 0), nr);
	TEST_ASSERT_EQ(__atomic_load_n(tail, __ATOMIC_ACQUIRE) - *head, nr);
	for (; nr; nr--) {
		TEST_ASSERT(cqes[*head & mask].res == res,
			    "request %llu returned %d, not %d",
			    cqes[*head & mask].user_data, cqes[*head & mask].res,
			    res);
		__atomic_store_n(head, *head + 1, __ATOMIC_RELEASE);
	}
}

VSWAP_TEST(io_uring)
{
	struct vswap_ram *ram = &self->ram;
	struct iovec iov[8], fixed = { ram->mem, 64 * PAGE };
	unsigned int i, write;
	struct ring ring;

	if (!setup_ring(&ring))
		SKIP(return, "no io_uring: %s", strerror(errno));

	for (write = 0; write < 2; write++) {
		if (write) {
			vswap_fill_pages(ram, 0, 64, NEW);
			vswap_drain_lru();
		}
		for (i = 0; i < 8; i++) {
			struct io_uring_sqe sqe = {
				.opcode = write ? IORING_OP_WRITE : IORING_OP_READ,
				.fd = self->image,
				.off = i * 128 * PAGE,
				.addr = (uintptr_t)vswap_page(ram, i * 8),
				.len = 8 * PAGE,
				.user_data = i,
			};

			if (i % 2) {
				iov[i].iov_base = vswap_page(ram, i * 8);
				iov[i].iov_len = 8 * PAGE;
				sqe.opcode = write ? IORING_OP_WRITEV :
					     IORING_OP_READV;
				sqe.addr = (uintptr_t)&iov[i];
				sqe.len = 1;
			}
			queue_sqe(&ring, sqe);
		}
		expect_cqes(&ring, 8, 8 * PAGE);
		expect_spread(ram, write);
		if (!write) {
			vswap_expect_states(ram, 0, 64, KVM_VSWAP_PAGE_ALIAS);
			vswap_pageout(ram, 0, 64);
		} else {
			vswap_try_pageout(ram, 0, 64);
		}
		expect_spread(ram, write);
	}
	for (i = 0; i < 8; i++)
		vswap_expect_blocks(&self->m, "image", i * 128, 8, NEW + i * 8,
				    false);
	TEST_ASSERT(vswap_stats(ram).aliased_by_write, "none became an alias");

	/* Pins for good are refused, as for files of other disks. */
	VSWAP_FAILS(syscall(SYS_io_uring_register, ring.fd,
			    IORING_REGISTER_BUFFERS, &fixed, 1), EFAULT);
	vswap_expect_pages(ram, 0, 64, NEW);
}

/* ----------------------------------------------------- several of them */

VSWAP_TEST(two_ram_files)
{
	struct vswap_ram *ram = &self->ram, other;
	uint64_t i;

	vswap_ram_create(&self->m, "other", N, &other);
	read_aliases(ram, self->image, 0, N, 0);
	read_aliases(&other, self->image, 0, N, 0);
	vswap_pageout(ram, 0, N / 2);
	vswap_pageout(&other, N / 4, N / 2);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N);
	TEST_ASSERT_EQ(vswap_stats(&other).aliases, N);

	/* One writes to its memory; the other is not disturbed. */
	for (i = 0; i < N; i += 4)
		vswap_fill(vswap_page(ram, i), NEW + i);
	TEST_ASSERT_EQ(vswap_stats(&other).broken_by_guest, 0);
	/* And then what it wrote to a block of both. */
	for (i = 0; i < N; i += 4)
		vswap_pwrite(self->image, vswap_page(ram, i), 1, i + 1);

	for (i = 0; i < N; i++)
		vswap_expect_page(vswap_page(ram, i), i % 4 ? IMAGE + i : NEW + i);
	vswap_expect_pages(&other, 0, N, IMAGE);
	TEST_ASSERT_EQ(vswap_stats(&other).broken_by_write, N / 4);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, N / 4);

	/* One goes. */
	munmap(other.mem, N * PAGE);
	close(other.fd);
	VSWAP_OK(unlink(vswap_path(self->m.mnt, "other")));
	VSWAP_OK(fallocate(self->image, FALLOC_FL_PUNCH_HOLE |
			   FALLOC_FL_KEEP_SIZE, 0, N * PAGE));
	for (i = 0; i < N; i++)
		vswap_expect_page(vswap_page(ram, i), i % 4 ? IMAGE + i : NEW + i);
}

VSWAP_TEST(sharers)
{
	struct vswap_ram *ram = &self->ram;
	const unsigned int max = 16, nr = 20;
	unsigned int i;

	for (i = 0; i < nr; i++)
		vswap_pread(self->image, vswap_page(ram, i), 1, 5);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, max);
	TEST_ASSERT_EQ(vswap_stats(ram).skipped_shared, nr - max);
	for (i = 0; i < nr; i++)
		vswap_expect_page(vswap_page(ram, i), IMAGE + 5);

	/* If one goes another can come. */
	*(uint64_t *)vswap_page(ram, 3) = vswap_word(IMAGE + 5, 0);
	vswap_pread(self->image, vswap_page(ram, nr), 1, 5);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, max);
	TEST_ASSERT_EQ(vswap_stats(ram).skipped_shared, nr - max);

	vswap_try_pageout(ram, 0, nr / 2);
	vswap_fill(vswap_page(ram, 100), NEW);
	vswap_pwrite(self->image, vswap_page(ram, 100), 1, 5);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, max);
	for (i = 0; i <= nr; i++)
		vswap_expect_page(vswap_page(ram, i), IMAGE + 5);
}

VSWAP_TEST(fork)
{
	struct vswap_ram *ram = &self->ram;
	uint64_t round, i;
	int status;
	pid_t pid;

	read_aliases(ram, self->image, 0, N, 0);
	vswap_pageout(ram, 0, N / 2);
	for (round = 0; round < 4; round++) {
		pid = VSWAP_OK(fork());
		if (!pid) {
			for (i = 0; i < N; i++)
				vswap_expect_page(vswap_page(ram, i), i % 4 < round ?
						  NEW + i : IMAGE + i);
			for (i = round; i < N; i += 4)
				vswap_fill(vswap_page(ram, i), NEW + i);
			vswap_pread(self->image, vswap_page(ram, N), N, 0);
			_exit(0);
		}
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT_EQ(status, 0);
		for (i = 0; i < N; i++)
			vswap_expect_page(vswap_page(ram, i), i % 4 <= round ?
					  NEW + i : IMAGE + i);
		vswap_expect_pages(ram, N, N, IMAGE);
		vswap_try_pageout(ram, 0, 2 * N);
	}
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N);
}

/* Memory remains, with its content, until the last mapping goes. */
VSWAP_TEST(outlives_mount)
{
	struct vswap_ram *ram = &self->ram;
	int lower;

	read_aliases(ram, self->image, 0, N, 0);
	vswap_fill_pages(ram, N, N / 2, NEW);
	vswap_pageout(ram, 0, N / 2);
	VSWAP_OK(close(self->image));
	VSWAP_OK(unlink(vswap_path(self->m.mnt, "ram")));
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, N);
	VSWAP_OK(close(ram->fd));
	VSWAP_OK(umount(self->m.mnt));

	/* No states any more, but what reclaim gets it gets. */
	vswap_try_pageout(ram, 0, 2 * N);
	vswap_expect_pages(ram, 0, N, IMAGE);
	vswap_fill_pages(ram, 0, N / 4, OTHER);
	vswap_try_pageout(ram, 0, 2 * N);
	vswap_expect_pages(ram, 0, N / 4, OTHER);
	vswap_expect_pages(ram, N / 4, N - N / 4, IMAGE + N / 4);
	vswap_expect_pages(ram, N, N / 2, NEW);
	VSWAP_OK(madvise(ram->mem, N * PAGE, MADV_REMOVE));
	vswap_expect_zeroes(ram, 0, N);

	/* The image is not its own any more, then. */
	munmap(ram->mem, 2 * N * PAGE);
	lower = VSWAP_OK(open(vswap_path(self->m.lower, "image"), O_RDWR));
	VSWAP_OK(vswap_try_mount(self->m.mnt, self->m.lower));
	VSWAP_FAILS(open(vswap_path(self->m.mnt, "ram"), O_RDWR), ENOENT);
	close(lower);
}

/* --------------------------------------------------- what goes wrong */

VSWAP_TEST(image_shrinks)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats before, after;
	const char *lower;
	uint64_t i;

	read_aliases(ram, self->image, 0, N, 0);
	vswap_fill_pages(ram, N, N, NEW);
	vswap_pageout(ram, 0, N);
	before = vswap_stats(ram);

	/* In the middle of a cluster, and past the mount. */
	lower = vswap_path(self->m.lower, "image");
	VSWAP_OK(truncate(lower, 201 * PAGE));
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, 201), false), SIGBUS);
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, 300), true), SIGBUS);
	after = vswap_stats(ram);
	TEST_ASSERT(after.io_errors > before.io_errors, "no error is counted");
	TEST_ASSERT_EQ(after.broken_by_guest, 0);

	/* All else is as it was. */
	vswap_expect_pages(ram, 0, 201, IMAGE);
	vswap_expect_pages(ram, N, N, NEW);
	TEST_ASSERT_EQ(pread(self->image, vswap_page(ram, 400), PAGE, 300 * PAGE),
		       0);

	/* What is written there would replace what is gone for good. */
	VSWAP_FAILS(pwrite(self->image, vswap_page(ram, N), PAGE, 300 * PAGE), EIO);
	vswap_expect_pages(ram, N, N, NEW);
	/* Not so elsewhere. */
	vswap_pwrite(self->image, vswap_page(ram, N), 1, 100);
	vswap_expect_page(vswap_page(ram, 100), IMAGE + 100);

	/* Who gives the pages up can use memory and blocks. */
	VSWAP_OK(fallocate(ram->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			   201 * PAGE, (N - 201) * PAGE));
	vswap_expect_zeroes(ram, 201, N - 201);
	for (i = 201; i < N; i++)
		vswap_pwrite(self->image, vswap_page(ram, N + i), 1, i);
	read_aliases(ram, self->image, 201, N - 201, 201);
	vswap_pageout(ram, 201, N - 201);
	vswap_expect_pages(ram, 201, N - 201, NEW + 201);
}

/* As much as there is room for is written, and the rest is an error. */
VSWAP_TEST(no_space)
{
	struct vswap_ram *ram = &self->ram;
	const char *small = vswap_path(vswap_lower(), "vswap-test/small");
	const char *mnt = vswap_path(vswap_lower(), "vswap-test/mnt");
	struct vswap_mount m;
	ssize_t ret;
	int fd;

	VSWAP_OK(mkdir(small, 0700));
	VSWAP_OK(mkdir(mnt, 0700));
	snprintf(m.lower, sizeof(m.lower), "%s", small);
	snprintf(m.mnt, sizeof(m.mnt), "%s", mnt);
	VSWAP_OK(mount("none", m.lower, "tmpfs", 0, "size=1m"));
	fd = VSWAP_OK(open(vswap_path(m.lower, "image"), O_RDWR | O_CREAT, 0600));
	VSWAP_OK(ftruncate(fd, N * PAGE));
	close(fd);
	VSWAP_OK(vswap_try_mount(m.mnt, m.lower));

	vswap_ram_create(&m, "r", N, ram);
	vswap_fill_pages(ram, 0, N, NEW);
	vswap_drain_lru();
	fd = vswap_image_open(&m, "image", O_RDWR);
	ret = pwrite(fd, ram->mem, N * PAGE, 0);
	TEST_ASSERT(ret >= 128 * (ssize_t)PAGE && ret < 257 * (ssize_t)PAGE,
		    "%zd bytes of 1 MiB are written", ret);
	VSWAP_FAILS(pwrite(fd, vswap_page(ram, 300), PAGE, 300 * PAGE), ENOSPC);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_try_pageout(ram, 0, N);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_expect_blocks(&m, "image", 0, ret / PAGE, NEW, false);
	TEST_ASSERT_EQ(vswap_state(ram, 300) == KVM_VSWAP_PAGE_ALIAS, false);
}

/* Files that know no direct I/O are images, too; their content is cached twice. */
VSWAP_TEST(no_direct_io)
{
	struct vswap_ram *ram = &self->ram;
	const char *mnt = vswap_path(vswap_lower(), "vswap-test/mnt");
	struct vswap_mount m;
	int fd;

	snprintf(m.lower, sizeof(m.lower), "%s/vswap-test/ramfs", vswap_lower());
	snprintf(m.mnt, sizeof(m.mnt), "%s", mnt);
	VSWAP_OK(mkdir(m.lower, 0700));
	VSWAP_OK(mkdir(m.mnt, 0700));
	VSWAP_OK(mount("none", m.lower, "ramfs", 0, NULL));
	vswap_image_create(&m, "image", N, OTHER);
	VSWAP_OK(vswap_try_mount(m.mnt, m.lower));
	vswap_ram_create(&m, "r", 2 * N, ram);
	VSWAP_FAILS(open(vswap_path(m.mnt, "image"), O_RDWR | O_DIRECT), EINVAL);
	fd = vswap_image_open(&m, "image", O_RDWR);
	read_aliases(ram, fd, 0, N, 0);
	vswap_pageout(ram, 0, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS_DROPPED);
	vswap_expect_pages(ram, 0, N, OTHER);
	TEST_ASSERT(vswap_stats(ram).cached_reads, "reads are direct");
	vswap_fill_pages(ram, N, N, NEW);
	vswap_drain_lru();
	vswap_pwrite(fd, vswap_page(ram, N), N, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).aliased_by_write, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, N);
	fd = vswap_image_open(&m, "image", O_RDWR | O_SYNC);
	vswap_pwrite(fd, vswap_page(ram, N), N, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).aliased_by_write, N);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, N);
	vswap_try_pageout(ram, 0, 2 * N);
	vswap_expect_pages(ram, 0, N, OTHER);
	vswap_expect_pages(ram, N, N, NEW);
}

/*
 * Direct I/O to the file below, past the mount, has its inode locked while it faults
 * on pages that are read from the same file, or are copied as it is overwritten.
 */
VSWAP_TEST(locked_below)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats before, after;
	unsigned char vec[N];
	void *map;
	int fd;

	fd = VSWAP_OK(open(vswap_path(self->m.lower, "image"),
			   O_RDWR | O_DIRECT));
	TEST_ASSERT_EQ(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
	read_aliases(ram, self->image, 0, N, 0);
	read_aliases(ram, self->image, N, N, N);
	vswap_pageout(ram, 0, 2 * N);

	/* What makes the file longer locks it for everybody else. */
	before = vswap_stats(ram);
	vswap_pwrite(fd, vswap_page(ram, 0), N, 2 * N);
	after = vswap_stats(ram);
	TEST_ASSERT(after.cached_reads > before.cached_reads,
		    "the file was not locked");
	TEST_ASSERT_EQ(after.io_errors, 0);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS);
	vswap_expect_pages(ram, 0, N, IMAGE);
	vswap_expect_blocks(&self->m, "image", 2 * N, N, IMAGE, false);

	/* What was read through the page cache does not stay there. */
	map = VSWAP_OK(mmap(NULL, N * PAGE, PROT_READ, MAP_SHARED, fd, 0));
	VSWAP_OK(mincore(map, N * PAGE, vec));
	TEST_ASSERT(!memchr(vec, 1, N), "a block is cached twice");

	/* Others lock it, too, but all at a time. */
	before = after;
	vswap_pread(fd, vswap_page(ram, N), N, 0);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.cached_reads, before.cached_reads);
	TEST_ASSERT_EQ(after.broken_by_guest - before.broken_by_guest, N);
	vswap_expect_pages(ram, N, N, IMAGE);

	/* The end is where the file ends, and an error below is one. */
	vswap_pageout(ram, 0, N);
	VSWAP_OK(ftruncate(fd, (N - 1) * PAGE));
	VSWAP_FAILS(pwrite(fd, vswap_page(ram, N - 1), PAGE, (N - 1) * PAGE),
		    EFAULT);
	TEST_ASSERT(vswap_stats(ram).io_errors, "no error is counted");
	vswap_pwrite(fd, vswap_page(ram, N - 2), 1, N - 1);
	vswap_expect_blocks(&self->m, "image", N - 1, 1, IMAGE + N - 2, false);
}

static void suspend_device(const char *name, bool suspend)
{
	struct dm_ioctl dm = {
		.version = { DM_VERSION_MAJOR, 0, 0 },
		.data_size = sizeof(dm),
		.flags = suspend ? DM_SUSPEND_FLAG | DM_SKIP_LOCKFS_FLAG : 0,
	};
	int fd = VSWAP_OK(open("/dev/mapper/control", O_RDWR));

	snprintf(dm.name, sizeof(dm.name), "%s", name);
	VSWAP_OK(ioctl(fd, DM_DEV_SUSPEND, &dm));
	close(fd);
}

struct dm_table {
	unsigned int nr;
	struct {
		struct dm_ioctl dm;
		struct {
			struct dm_target_spec spec;
			char params[1024];
		} target[2];
	} all;
};

/* What a device is made of, and that it be made of something else. */
static void get_table(const char *name, struct dm_table *table)
{
	int fd = VSWAP_OK(open("/dev/mapper/control", O_RDWR));

	memset(table, 0, sizeof(*table));
	table->all.dm = (struct dm_ioctl) {
		.version = { DM_VERSION_MAJOR, 0, 0 },
		.data_size = sizeof(table->all),
		.data_start = offsetof(struct dm_table, all.target) -
			      offsetof(struct dm_table, all),
		.flags = DM_STATUS_TABLE_FLAG,
	};
	snprintf(table->all.dm.name, sizeof(table->all.dm.name), "%s", name);
	VSWAP_OK(ioctl(fd, DM_TABLE_STATUS, &table->all));
	table->nr = table->all.dm.target_count;
	TEST_ASSERT_EQ(table->nr, 1);
	close(fd);
}

static void set_table(const char *name, const struct dm_table *table)
{
	int fd = VSWAP_OK(open("/dev/mapper/control", O_RDWR));
	struct dm_table copy = *table;

	copy.all.dm = (struct dm_ioctl) {
		.version = { DM_VERSION_MAJOR, 0, 0 },
		.data_size = sizeof(copy.all),
		.data_start = table->all.dm.data_start,
		.target_count = table->nr,
	};
	copy.all.target[0].spec.next = sizeof(copy.all.target[0]);
	copy.all.target[1].spec.next = 0;
	snprintf(copy.all.dm.name, sizeof(copy.all.dm.name), "%s", name);
	VSWAP_OK(ioctl(fd, DM_TABLE_LOAD, &copy.all));
	close(fd);
	suspend_device(name, true);
	suspend_device(name, false);
}

/*
 * Have I/O to a device fail from a block on; what it was made of is for
 * set_table().
 */
static void break_device_from(const char *name, uint64_t block,
			      struct dm_table *good)
{
	struct dm_target_spec *spec;
	struct dm_table bad;

	get_table(name, good);
	bad = *good;
	if (block) {
		bad.nr = 2;
		bad.all.target[1] = bad.all.target[0];
		bad.all.target[0].spec.length = block * PAGE / 512;
	}
	spec = &bad.all.target[bad.nr - 1].spec;
	spec->sector_start = block * PAGE / 512;
	spec->length -= block * PAGE / 512;
	snprintf(spec->target_type, sizeof(spec->target_type), "error");
	bad.all.target[bad.nr - 1].params[0] = '\0';
	set_table(name, &bad);
}

static void break_device(const char *name, struct dm_table *good)
{
	break_device_from(name, 0, good);
}

/* A device as an image of the mount. */
static int open_disk(const struct vswap_mount *m, const char *name)
{
	struct stat st;

	VSWAP_OK(stat(vswap_path("/dev/mapper", name), &st));
	VSWAP_OK(mknod(vswap_path(m->lower, "disk"), S_IFBLK | 0600, st.st_rdev));
	return vswap_image_open(m, "disk", O_RDWR | O_DIRECT);
}

/* A disk that fails: who reads it is told, and all else is as it was. */
VSWAP_TEST(disk_errors)
{
	struct vswap_ram *ram = &self->ram;
	const char *name = getenv("VSWAP_DEVICE");
	struct kvm_vswap_stats before, after;
	struct dm_table good;
	int fd;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	fd = open_disk(&self->m, name);
	vswap_fill_pages(ram, 0, N, NEW);
	vswap_pwrite(fd, ram->mem, N, 0);
	read_aliases(ram, fd, 0, N, 0);
	read_aliases(ram, self->image, N, N, 0);
	vswap_pageout(ram, 0, N / 2);
	vswap_pageout(ram, N, N);

	break_device(name, &good);

	/* Reads and writes fail, and change nothing. */
	before = vswap_stats(ram);
	VSWAP_FAILS(pread(fd, vswap_page(ram, N), PAGE, 0), EIO);
	VSWAP_FAILS(pwrite(fd, vswap_page(ram, N), PAGE, (N - 1) * PAGE), EIO);
	/* Pages that were dropped are not there. */
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, 0), false), SIGBUS);
	TEST_ASSERT_EQ(touch_signal(vswap_page(ram, 1), true), SIGBUS);
	/* Their blocks cannot be replaced, as their content would be lost. */
	VSWAP_FAILS(pwrite(fd, vswap_page(ram, N), PAGE, 2 * PAGE), EIO);
	VSWAP_FAILS(fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
			      2 * PAGE, PAGE), EIO);
	after = vswap_stats(ram);
	TEST_ASSERT(after.io_errors - before.io_errors >= 4, "%llu errors",
		    after.io_errors - before.io_errors);
	TEST_ASSERT_EQ(after.broken_by_guest, before.broken_by_guest);
	/* The pages in memory are, and those of another disk. */
	vswap_expect_pages(ram, N / 2, N / 2, NEW + N / 2);
	vswap_expect_pages(ram, N, N, IMAGE);

	/* It was a cable. */
	set_table(name, &good);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_pwrite(fd, vswap_page(ram, N), 1, 2);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_expect_pages(ram, N, N, IMAGE);
}

/* One asynchronous request; what it returned. */
static long long do_aio(unsigned int opcode, int fd, void *mem, size_t size, off_t pos)
{
	struct iocb iocb = {
		.aio_fildes = fd,
		.aio_lio_opcode = opcode,
		.aio_buf = (uintptr_t)mem,
		.aio_nbytes = size,
		.aio_offset = pos,
	}, *list = &iocb;
	struct io_event event;
	aio_context_t ctx;

	VSWAP_OK(setup_aio(&ctx));
	TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 1, &list), 1);
	TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL), 1);
	VSWAP_OK(syscall(SYS_io_destroy, ctx));
	return event.res;
}

/*
 * A request that is more than what is passed on at once fails if a part of it does:
 * VMMs would take what is short for the end of the image.
 */
VSWAP_TEST(late_errors)
{
	const uint64_t good_blocks = N - 100;
	struct vswap_ram *ram = &self->ram;
	const char *name = getenv("VSWAP_DEVICE");
	char *buf = vswap_buffer(N), *mem[] = { ram->mem, buf };
	struct dm_table good;
	unsigned int i;
	ssize_t ret;
	int fd;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	fd = open_disk(&self->m, name);
	vswap_fill_pages(ram, 0, N, NEW);
	vswap_pwrite(fd, ram->mem, N, 0);
	break_device_from(name, good_blocks, &good);

	for (i = 0; i < ARRAY_SIZE(mem); i++) {
		TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, fd, mem[i],
				      good_blocks * PAGE, 0), good_blocks * PAGE);
		TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, fd, mem[i], N * PAGE, 0), -EIO);
		TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, fd, mem[i], N * PAGE, 0), -EIO);

		/* Who reads on is told, too. */
		ret = pread(fd, mem[i], N * PAGE, 0);
		TEST_ASSERT(ret > 0 && ret < (ssize_t)(N * PAGE), "read %zd", ret);
		VSWAP_FAILS(pread(fd, mem[i] + ret, N * PAGE - ret, ret), EIO);
	}
	set_table(name, &good);
	vswap_expect_pages(ram, 0, good_blocks, NEW);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, fd, ram->mem, N * PAGE, 0), N * PAGE);
	vswap_expect_pages(ram, 0, N, NEW);
}

/*
 * Disks with large sectors take whole ones, of memory that is aligned to as much, from
 * which QEMU finds out that it has to be.
 */
VSWAP_TEST(large_sectors)
{
	struct vswap_ram *ram = &self->ram;
	char *buf = vswap_buffer(2 * N + 1);
	const char *name = getenv("VSWAP_DEVICE");
	unsigned int size;
	uint64_t i;
	int fd;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	fd = VSWAP_OK(open(vswap_path("/dev/mapper", name), O_RDWR | O_DIRECT));
	VSWAP_OK(ioctl(fd, BLKSSZGET, &size));
	TEST_ASSERT_EQ(size, PAGE);
	close(fd);

	fd = open_disk(&self->m, name);
	for (i = 0; i < 2 * N; i++)
		vswap_fill(buf + i * PAGE, NEW + i);
	vswap_pwrite(fd, buf, 2 * N, 0);
	memset(buf, 0, (2 * N + 1) * PAGE);
	vswap_pread(fd, buf, 2 * N, 0);
	for (i = 0; i < 2 * N; i++)
		vswap_expect_page(buf + i * PAGE, NEW + i);
	read_aliases(ram, fd, 0, N, N);
	vswap_expect_pages(ram, 0, N, NEW + N);

	VSWAP_FAILS(pread(fd, buf, 512, 0), EINVAL);
	VSWAP_FAILS(pread(fd, buf, PAGE, 512), EINVAL);
	VSWAP_FAILS(pread(fd, buf + 512, PAGE, 0), EINVAL);
	VSWAP_FAILS(pwrite(fd, buf + 512, 2 * N * PAGE, 0), EINVAL);
}

/*
 * What is read ahead and fails is as if it had not been read; and a RAM file does
 * not go before what is read to it has been.
 */
VSWAP_TEST(readahead_errors)
{
	struct vswap_ram *ram = &self->ram;
	const char *name = getenv("VSWAP_DEVICE");
	unsigned int cluster = vswap_parameter("vswap_cluster");
	const uint64_t first = 2 * READAHEAD;
	struct kvm_vswap_stats before, after;
	int fd, status, pipes[2];
	struct dm_table good;
	pid_t pid, exited;
	char c;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	fd = open_disk(&self->m, name);
	vswap_fill_pages(ram, 0, N, NEW);
	vswap_pwrite(fd, ram->mem, N, 0);
	read_aliases(ram, fd, 0, N, 0);
	vswap_pageout(ram, 0, N);

	/* Up to what was read ahead; its first page tells to go on. */
	vswap_set_parameter("vswap_cluster", READAHEAD);
	vswap_expect_pages(ram, 0, first, NEW);
	EVENTUALLY(is_uptodate(ram, first + READAHEAD - 1));
	break_device(name, &good);
	before = vswap_stats(ram);
	TEST_ASSERT_EQ(before.readahead_pages, READAHEAD);
	vswap_expect_pages(ram, first, READAHEAD, NEW + first);
	EVENTUALLY(vswap_stats(ram).io_errors != before.io_errors);
	EVENTUALLY(vswap_stats(ram).resident == first + READAHEAD);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.readahead_pages, 2 * READAHEAD);
	TEST_ASSERT_EQ(after.io_errors - before.io_errors, 1);
	TEST_ASSERT_EQ(after.refaults, before.refaults);
	vswap_expect_states(ram, first + READAHEAD, READAHEAD,
			    KVM_VSWAP_PAGE_ALIAS_DROPPED);
	set_table(name, &good);
	vswap_expect_pages(ram, 0, N, NEW);

	VSWAP_OK(pipe(pipes));
	pid = VSWAP_OK(fork());
	if (!pid) {
		struct vswap_ram other;

		vswap_ram_create(&self->m, "other", N, &other);
		VSWAP_OK(unlink(vswap_path(self->m.mnt, "other")));
		vswap_pread(fd, other.mem, N, 0);
		vswap_pageout(&other, 0, N);
		vswap_expect_pages(&other, 0, first, NEW);
		EVENTUALLY(is_uptodate(&other, first + READAHEAD - 1));
		suspend_device(name, true);
		vswap_touch(&other, first, 1);
		EVENTUALLY(vswap_stats(&other).readahead_pages == 2 * READAHEAD);
		VSWAP_OK(write(pipes[1], "", 1));
		_exit(0);
	}
	close(pipes[1]);
	VSWAP_OK(read(pipes[0], &c, 1));
	usleep(300000);
	exited = waitpid(pid, &status, WNOHANG);
	suspend_device(name, false);
	TEST_ASSERT_EQ(exited, 0);
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_EQ(status, 0);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_set_parameter("vswap_cluster", cluster);
}

/* Of an alias whose memory is broken, the image has the content. */
VSWAP_TEST(hwpoison)
{
	struct vswap_ram *ram = &self->ram;
	int lower;
	char *mem;

	if (access("/proc/sys/vm/memory_failure_recovery", F_OK))
		SKIP(return, "the kernel does not know broken memory");
	read_aliases(ram, self->image, 0, 4, 0);
	vswap_touch(ram, 0, 4);
	vswap_drain_lru();
	VSWAP_OK(madvise(vswap_page(ram, 1), PAGE, MADV_HWPOISON));

	/* Past the mount, which is wrong, but tells where a copy was made from. */
	lower = VSWAP_OK(open(vswap_path(self->m.lower, "image"), O_RDWR));
	vswap_fill(vswap_page(ram, N), OTHER);
	vswap_pwrite(lower, vswap_page(ram, N), 1, 1);
	VSWAP_OK(fsync(lower));

	vswap_fill(vswap_page(ram, N), NEW);
	vswap_pwrite(self->image, vswap_page(ram, N), 1, 1);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, 1);
	mem = VSWAP_OK(mmap(NULL, 4 * PAGE, PROT_READ, MAP_SHARED, ram->fd, 0));
	vswap_expect_page(mem, IMAGE);
	vswap_expect_page(mem + PAGE, OTHER);
	vswap_expect_page(mem + 2 * PAGE, IMAGE + 2);
	vswap_expect_blocks(&self->m, "image", 1, 1, NEW, false);
}

/* A device that has been told to write to a page does so whatever happens. */
VSWAP_TEST(pinned)
{
	struct vswap_ram *ram = &self->ram;
	const char *name = getenv("VSWAP_DEVICE");
	char path[PATH_MAX], *buf = vswap_buffer(8);
	struct iocb iocb, *list = &iocb;
	struct kvm_vswap_stats stats;
	struct io_event event;
	aio_context_t ctx;
	int fd;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	fd = VSWAP_OK(open(path, O_RDWR | O_DIRECT));
	VSWAP_OK(setup_aio(&ctx));
	vswap_fill_pages(ram, 0, 8, OTHER);
	vswap_pwrite(fd, ram->mem, 8, 0);

	/* Read from the device to pages that are aliases, and to some that are not. */
	read_aliases(ram, self->image, 0, 4, 0);
	vswap_fill_pages(ram, 4, 4, NEW);
	suspend_device(name, true);
	iocb = (struct iocb) {
		.aio_fildes = fd,
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_buf = (uintptr_t)ram->mem,
		.aio_nbytes = 8 * PAGE,
	};
	TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 1, &list), 1);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, 0);

	/* Meanwhile blocks are read there, and written from there. */
	vswap_pread(self->image, vswap_page(ram, 2), 4, 100);
	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.skipped_pinned, 4);
	TEST_ASSERT_EQ(stats.aliases, 0);
	vswap_expect_pages(ram, 2, 4, IMAGE + 100);
	vswap_pwrite(self->image, ram->mem, 8, 200);
	stats = vswap_stats(ram);
	TEST_ASSERT_EQ(stats.aliases, 0);
	TEST_ASSERT_EQ(stats.skipped_busy, 8);
	vswap_try_pageout(ram, 0, 8);
	vswap_expect_states(ram, 0, 8, KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_pages(ram, 2, 4, IMAGE + 100);

	suspend_device(name, false);
	TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL), 1);
	TEST_ASSERT_EQ(event.res, 8 * PAGE);
	vswap_expect_pages(ram, 0, 8, OTHER);
	vswap_try_pageout(ram, 0, 8);
	vswap_expect_pages(ram, 0, 8, OTHER);

	/* Nothing is pinned any more. */
	vswap_drain_lru();
	read_aliases(ram, self->image, 0, 8, 0);
	vswap_expect_pages(ram, 0, 8, IMAGE);

	/* The other way: what a device reads does not change under its hands. */
	suspend_device(name, true);
	iocb.aio_lio_opcode = IOCB_CMD_PWRITE;
	TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 1, &list), 1);
	vswap_pwrite(self->image, vswap_page(ram, 7), 1, 0);
	vswap_expect_page(vswap_page(ram, 0), IMAGE);
	suspend_device(name, false);
	TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 1, 1, &event, NULL), 1);
	TEST_ASSERT_EQ(event.res, 8 * PAGE);
	vswap_pread(fd, buf, 8, 0);
	for (fd = 0; fd < 8; fd++)
		vswap_expect_page(buf + fd * PAGE, IMAGE + fd);
}

static bool is_mapped(struct vswap_ram *ram, uint64_t index)
{
	off_t pos = (uintptr_t)vswap_page(ram, index) / PAGE * sizeof(uint64_t);
	int fd = VSWAP_OK(open("/proc/self/pagemap", O_RDONLY));
	uint64_t entry;

	TEST_ASSERT_EQ(pread(fd, &entry, sizeof(entry), pos), sizeof(entry));
	close(fd);
	return entry >> 63;
}

static int frozen = -1;

/* However the test ends, its file system does not stay frozen. */
static void thaw(void)
{
	ioctl(frozen, FITHAW, 0);
}

/* Pages that are being written to an image are written to a device as well. */
VSWAP_TEST(pinned_meanwhile)
{
	struct vswap_ram *ram = &self->ram;
	const char *name = getenv("VSWAP_DEVICE");
	struct iocb iocbs[2], *list[] = { &iocbs[0], &iocbs[1] };
	struct kvm_vswap_stats before, after;
	struct io_event events[2];
	char path[PATH_MAX];
	aio_context_t ctx;
	int fd, lower, i;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	snprintf(path, sizeof(path), "/dev/mapper/%s", name);
	fd = VSWAP_OK(open(path, O_RDWR | O_DIRECT));
	lower = VSWAP_OK(open(self->m.lower, O_RDONLY | O_DIRECTORY));
	VSWAP_OK(setup_aio(&ctx));
	vswap_fill_pages(ram, 0, 8, NEW);
	vswap_drain_lru();
	for (i = 0; i < 2; i++)
		iocbs[i] = (struct iocb) {
			.aio_fildes = i ? fd : self->image,
			.aio_lio_opcode = IOCB_CMD_PWRITE,
			.aio_buf = (uintptr_t)ram->mem,
			.aio_nbytes = 8 * PAGE,
		};

	/* The one cannot go on when it has unmapped the pages, nor can the other. */
	before = vswap_stats(ram);
	frozen = lower;
	atexit(thaw);
	VSWAP_OK(ioctl(lower, FIFREEZE, 0));
	TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 1, &list[0]), 1);
	for (i = 0; i < 8; i++)
		EVENTUALLY(!is_mapped(ram, i));
	/* That they have been looked at for references cannot be seen. */
	usleep(100000);
	suspend_device(name, true);
	TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 1, &list[1]), 1);

	VSWAP_OK(ioctl(lower, FITHAW, 0));
	TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 1, 1, events, NULL), 1);
	TEST_ASSERT_EQ(events[0].res, 8 * PAGE);
	after = vswap_stats(ram);
	suspend_device(name, false);
	TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 1, 1, events, NULL), 1);
	TEST_ASSERT_EQ(events[0].res, 8 * PAGE);
	close(lower);

	/* They could not become aliases, and are as usable as before. */
	TEST_ASSERT_EQ(after.aliases, 0);
	TEST_ASSERT_EQ(after.skipped_changed, before.skipped_changed);
	TEST_ASSERT_EQ(after.skipped_busy - before.skipped_busy, 8);
	vswap_expect_pages(ram, 0, 8, NEW);
	vswap_fill_pages(ram, 0, 8, OTHER);
	vswap_pwrite(self->image, ram->mem, 8, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).aliases, 8);
	vswap_pageout(ram, 0, 8);
	vswap_expect_pages(ram, 0, 8, OTHER);
}

/* ------------------------------------------------------------- interface */

VSWAP_TEST(stats_ioctl)
{
	struct {
		struct kvm_vswap_stats stats;
		uint64_t tail;
	} s;
	struct vswap_ram *ram = &self->ram;
	unsigned int size, i;

	read_aliases(ram, self->image, 0, N, 0);

	/* What fits is filled in, and no more. */
	for (size = 8; size <= sizeof(s); size += 8) {
		unsigned int known = size < sizeof(s.stats) ? size :
				     sizeof(s.stats);

		memset(&s, 0xee, sizeof(s));
		s.stats.size = size;
		s.stats.flags = 0;
		VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_GET_STATS, &s));
		TEST_ASSERT_EQ(s.stats.size, known);
		for (i = known; i < sizeof(s); i++)
			TEST_ASSERT_EQ(((unsigned char *)&s)[i], 0xee);
		if (size >= 16)
			TEST_ASSERT_EQ(s.stats.pages, 2 * N);
		if (size >= offsetof(struct kvm_vswap_stats, metadata_bytes))
			TEST_ASSERT_EQ(s.stats.aliases_resident, N);
	}
	for (size = 0; size < 8; size++) {
		s.stats.size = size;
		s.stats.flags = 0;
		VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_GET_STATS, &s), EINVAL);
	}
	for (i = 0; i < 32; i++) {
		s.stats.size = sizeof(s.stats);
		s.stats.flags = 1u << i;
		VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_GET_STATS, &s), EINVAL);
	}
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_GET_STATS, NULL), EFAULT);
	s.stats.size = sizeof(s.stats);
	s.stats.flags = 0;
	VSWAP_FAILS(ioctl(self->image, KVM_VSWAP_GET_STATS, &s), ENOTTY);
	VSWAP_FAILS(ioctl(ram->fd, _IO(KVMIO, 0xff), &s), ENOTTY);
	VSWAP_FAILS(ioctl(ram->fd, _IOW(KVMIO, 0xff, uint64_t), &s), ENOTTY);
}

VSWAP_TEST(query_ioctl)
{
	struct vswap_ram *ram = &self->ram;
	unsigned char states[2 * N + 1];
	struct kvm_vswap_query query;
	unsigned int i;
	static const struct {
		uint64_t offset, pages;
	} bad[] = {
		{ 0, 0 }, { 1, 1 }, { PAGE - 1, 1 }, { 512, 1 },
		{ 0, 2 * N + 1 }, { 2 * N * PAGE, 1 }, { PAGE, 2 * N },
		{ 1ul << 63, 1 }, { -PAGE, 1 }, { -PAGE, 2 }, { 0, ~0ul },
		{ 0, 1ul << 52 }, { PAGE, (1ul << 52) - 1 }, { 0, 1ul << 63 },
		{ PAGE, ~0ul },
	};

	read_aliases(ram, self->image, 0, 4, 0);
	vswap_pageout(ram, 0, 2);
	vswap_fill_pages(ram, 4, 2, NEW);
	expect_swapped(ram, 4, 1);
	memset(states, 0xee, sizeof(states));
	query = (struct kvm_vswap_query) {
		.pages = 2 * N,
		.states = (uintptr_t)states,
	};
	VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_QUERY, &query));
	TEST_ASSERT_EQ(states[0], KVM_VSWAP_PAGE_ALIAS_DROPPED);
	TEST_ASSERT_EQ(states[1], KVM_VSWAP_PAGE_ALIAS_DROPPED);
	TEST_ASSERT_EQ(states[2], KVM_VSWAP_PAGE_ALIAS);
	TEST_ASSERT_EQ(states[3], KVM_VSWAP_PAGE_ALIAS);
	TEST_ASSERT_EQ(states[4], vswap_has_swap() ? KVM_VSWAP_PAGE_SWAPPED :
		       KVM_VSWAP_PAGE_RESIDENT);
	TEST_ASSERT_EQ(states[5], KVM_VSWAP_PAGE_RESIDENT);
	for (i = 6; i < 2 * N; i++)
		TEST_ASSERT_EQ(states[i], KVM_VSWAP_PAGE_NONE);
	TEST_ASSERT_EQ(states[2 * N], 0xee);

	/* A part. */
	memset(states, 0xee, sizeof(states));
	query.offset = 3 * PAGE;
	query.pages = 1;
	VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_QUERY, &query));
	TEST_ASSERT_EQ(states[0], KVM_VSWAP_PAGE_ALIAS);
	TEST_ASSERT_EQ(states[1], 0xee);

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		query.offset = bad[i].offset;
		query.pages = bad[i].pages;
		VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_QUERY, &query), EINVAL);
	}
	query.offset = 0;
	query.pages = 1;
	for (i = 0; i < 64; i++) {
		query.flags = 1ul << i;
		VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_QUERY, &query), EINVAL);
	}
	query.flags = 0;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_QUERY, NULL), EFAULT);
	VSWAP_FAILS(ioctl(self->image, KVM_VSWAP_QUERY, &query), ENOTTY);
	query.states = 0;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_QUERY, &query), EFAULT);
}

VSWAP_TEST(associate_ioctl)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_associate a, good;
	const char *mnt = vswap_path(vswap_lower(), "vswap-test/mnt");
	struct vswap_mount m;
	unsigned int i;
	int fd;
	static const struct {
		uint64_t offset, size, image_offset;
	} bad[] = {
		{ 0, 0, 0 }, { 1, PAGE, 0 }, { 0, 1, 0 }, { 0, PAGE, 1 },
		{ 0, PAGE - 1, 0 }, { 0, PAGE, 512 }, { 0, 2 * N * PAGE + PAGE, 0 },
		{ 2 * N * PAGE, PAGE, 0 }, { -PAGE, PAGE, 0 }, { -PAGE, 2 * PAGE, 0 },
		{ 0, -PAGE, 0 }, { PAGE, -PAGE, 0 }, { 0, PAGE, 1ul << 63 },
		{ 0, PAGE, -PAGE },
	};

	good = (struct kvm_vswap_associate) {
		.offset = 10 * PAGE,
		.size = 300 * PAGE,
		.image_offset = 20 * PAGE,
		.image_fd = self->image,
	};
	vswap_fill_pages(ram, 0, N, NEW);
	VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &good));
	vswap_expect_states(ram, 10, 300, KVM_VSWAP_PAGE_ALIAS);
	vswap_pageout(ram, 10, 300);
	vswap_expect_pages(ram, 10, 300, IMAGE + 20);
	vswap_expect_pages(ram, 0, 10, NEW);
	vswap_expect_pages(ram, 310, 10, NEW + 310);

	for (i = 0; i < ARRAY_SIZE(bad); i++) {
		a = good;
		a.offset = bad[i].offset;
		a.size = bad[i].size;
		a.image_offset = bad[i].image_offset;
		VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EINVAL);
	}
	for (i = 0; i < 32; i++) {
		a = good;
		a.flags = 1u << i;
		VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EINVAL);
	}
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, NULL), EFAULT);
	VSWAP_FAILS(ioctl(self->image, KVM_VSWAP_ASSOCIATE, &good), ENOTTY);

	/* Beyond the end, or in part. */
	a = good;
	a.image_offset = 2 * N * PAGE;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), ENXIO);
	a.image_offset = 1ul << 50;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), ENXIO);

	/* Descriptors: none, of something else, not for reading. */
	a = good;
	a.image_fd = -1;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EBADF);
	a.image_fd = ram->fd;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EINVAL);
	a.image_fd = VSWAP_OK(open(vswap_path(self->m.lower, "image"), O_RDWR));
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EINVAL);
	a.image_fd = VSWAP_OK(open(self->m.mnt, O_RDONLY));
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EINVAL);
	a.image_fd = vswap_image_open(&self->m, "image", O_WRONLY);
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EBADF);
	a.image_fd = VSWAP_OK(open(vswap_path(self->m.mnt, "image"), O_PATH));
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EBADF);
	/* Of another mount. */
	snprintf(m.mnt, sizeof(m.mnt), "%s", mnt);
	VSWAP_OK(mkdir(m.mnt, 0700));
	VSWAP_OK(vswap_try_mount(m.mnt, self->m.lower));
	a.image_fd = vswap_image_open(&m, "image", O_RDONLY);
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), EINVAL);
	/* Of a RAM file that is not open for writing. */
	fd = VSWAP_OK(open(vswap_path(self->m.mnt, "ram"), O_RDONLY));
	VSWAP_FAILS(ioctl(fd, KVM_VSWAP_ASSOCIATE, &good), EBADF);

	vswap_expect_pages(ram, 10, 300, IMAGE + 20);
	/* Up to the end, if that is within. */
	a = good;
	a.image_offset = (2 * N - 1) * PAGE;
	VSWAP_FAILS(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a), ENXIO);
	vswap_expect_page(vswap_page(ram, 10), IMAGE + 2 * N - 1);
	vswap_expect_pages(ram, 11, 299, IMAGE + 21);
	vswap_expect_pages(ram, 310, 10, NEW + 310);
	vswap_expect_blocks(&self->m, "image", 0, 2 * N, IMAGE, false);
}

VSWAP_TEST(mount_options)
{
	const char *mnt = vswap_path(vswap_lower(), "vswap-test/mnt");
	char options[3 * PATH_MAX], dir[PATH_MAX], deep[PATH_MAX];
	struct statfs st;
	int status;
	pid_t pid;

	snprintf(dir, sizeof(dir), "%s", mnt);
	VSWAP_OK(mkdir(dir, 0755));
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, NULL), EINVAL);
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, ""), EINVAL);
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, "lower"), EINVAL);
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, "lower="), EINVAL);
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, "upper=/"), EINVAL);
	VSWAP_FAILS(vswap_try_mount(dir, "/nonexistent"), ENOENT);
	VSWAP_FAILS(vswap_try_mount(dir, vswap_path(self->m.lower, "image")),
		    ENOTDIR);
	snprintf(options, sizeof(options), "lower=%s,lower=%s", self->m.lower,
		 self->m.lower);
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, options), EINVAL);
	snprintf(options, sizeof(options), "lower=%s,size=1m", self->m.lower);
	VSWAP_FAILS(mount("none", dir, "kvm_vswap", 0, options), EINVAL);

	/* Not by everybody. */
	pid = VSWAP_OK(fork());
	if (!pid) {
		VSWAP_OK(syscall(SYS_setresuid, 65534, 65534, 65534));
		VSWAP_FAILS(vswap_try_mount(dir, self->m.lower), EPERM);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_EQ(status, 0);

	/* On another, but not on and on. */
	VSWAP_OK(vswap_try_mount(dir, self->m.mnt));
	VSWAP_OK(statfs(dir, &st));
	TEST_ASSERT_EQ(st.f_type, KVM_VSWAP_MAGIC);
	snprintf(deep, sizeof(deep), "%s/deep", vswap_lower());
	if (mkdir(deep, 0755))
		TEST_ASSERT_EQ(errno, EEXIST);
	VSWAP_FAILS(vswap_try_mount(deep, dir), EINVAL);
	rmdir(deep);
	VSWAP_OK(umount(dir));

	/* Read-only. */
	snprintf(options, sizeof(options), "lower=%s", self->m.lower);
	VSWAP_OK(mount("none", dir, "kvm_vswap", MS_RDONLY, options));
	VSWAP_FAILS(open(vswap_path(dir, "image"), O_RDWR), EROFS);
	VSWAP_FAILS(open(vswap_path(dir, "new"), O_RDWR | O_CREAT, 0600), EROFS);
	VSWAP_FAILS(truncate(vswap_path(dir, "image"), 0), EROFS);
	VSWAP_OK(umount(dir));
}

static void init_lock(struct flock *lock, short type)
{
	*lock = (struct flock) {
		.l_type = type,
		.l_whence = SEEK_SET,
		.l_start = 100,
		.l_len = 1,
	};
}

static void *unlock_later(void *data)
{
	atomic_int *holder = data;

	/* The waiter is waiting, or it will be: either way it gets the lock. */
	while (!atomic_load(holder))
		sched_yield();
	close(atomic_load(holder));
	return NULL;
}

/* Locks are those of the file below: who does not use the mount sees them. */
VSWAP_TEST(locks)
{
	atomic_int holder = 0;
	struct flock lock;
	int lower, fd, status;
	pthread_t thread;
	pid_t pid;

	lower = VSWAP_OK(open(vswap_path(self->m.lower, "image"), O_RDWR));

	/* As QEMU does. */
	init_lock(&lock, F_WRLCK);
	VSWAP_OK(fcntl(self->image, F_OFD_SETLK, &lock));
	init_lock(&lock, F_RDLCK);
	VSWAP_FAILS(fcntl(lower, F_OFD_SETLK, &lock), EAGAIN);
	VSWAP_OK(fcntl(lower, F_OFD_GETLK, &lock));
	TEST_ASSERT_EQ(lock.l_type, F_WRLCK);
	TEST_ASSERT_EQ(lock.l_pid, -1);
	/* Another user of the mount sees it, too. */
	fd = vswap_image_open(&self->m, "image", O_RDWR);
	init_lock(&lock, F_WRLCK);
	VSWAP_FAILS(fcntl(fd, F_OFD_SETLK, &lock), EAGAIN);
	lock.l_start = 101;
	VSWAP_OK(fcntl(fd, F_OFD_SETLK, &lock));
	close(fd);
	init_lock(&lock, F_WRLCK);
	lock.l_start = 101;
	VSWAP_OK(fcntl(lower, F_OFD_SETLK, &lock));
	lock.l_type = F_UNLCK;
	VSWAP_OK(fcntl(lower, F_OFD_SETLK, &lock));
	/* Released with the description, not with a descriptor. */
	fd = VSWAP_OK(dup(self->image));
	close(self->image);
	init_lock(&lock, F_WRLCK);
	VSWAP_FAILS(fcntl(lower, F_OFD_SETLK, &lock), EAGAIN);
	close(fd);
	VSWAP_OK(fcntl(lower, F_OFD_SETLK, &lock));

	/* The other way. */
	fd = vswap_image_open(&self->m, "image", O_RDWR);
	init_lock(&lock, F_RDLCK);
	VSWAP_FAILS(fcntl(fd, F_OFD_SETLK, &lock), EAGAIN);
	VSWAP_OK(fcntl(fd, F_OFD_GETLK, &lock));
	TEST_ASSERT_EQ(lock.l_type, F_WRLCK);
	pthread_create(&thread, NULL, unlock_later, &holder);
	atomic_store(&holder, lower);
	init_lock(&lock, F_WRLCK);
	VSWAP_OK(fcntl(fd, F_OFD_SETLKW, &lock));
	pthread_join(thread, NULL);

	/* And among users of the mount. */
	lower = vswap_image_open(&self->m, "image", O_RDWR);
	VSWAP_FAILS(fcntl(lower, F_OFD_SETLK, &lock), EAGAIN);
	atomic_store(&holder, 0);
	pthread_create(&thread, NULL, unlock_later, &holder);
	atomic_store(&holder, fd);
	VSWAP_OK(fcntl(lower, F_OFD_SETLKW, &lock));
	pthread_join(thread, NULL);
	close(lower);

	/* Of processes. */
	fd = vswap_image_open(&self->m, "image", O_RDWR);
	init_lock(&lock, F_WRLCK);
	VSWAP_OK(fcntl(fd, F_SETLK, &lock));
	pid = VSWAP_OK(fork());
	if (!pid) {
		lower = VSWAP_OK(open(vswap_path(self->m.lower, "image"), O_RDWR));
		VSWAP_FAILS(fcntl(lower, F_SETLK, &lock), EAGAIN);
		VSWAP_OK(fcntl(lower, F_GETLK, &lock));
		TEST_ASSERT_EQ(lock.l_pid, getppid());
		/* The child's copy of the descriptor does not matter. */
		close(fd);
		init_lock(&lock, F_WRLCK);
		VSWAP_FAILS(fcntl(lower, F_SETLK, &lock), EAGAIN);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT_EQ(status, 0);
	close(VSWAP_OK(dup(fd)));
	lower = VSWAP_OK(open(vswap_path(self->m.lower, "image"), O_RDWR));
	init_lock(&lock, F_WRLCK);
	VSWAP_OK(fcntl(lower, F_OFD_SETLK, &lock));
}

VSWAP_TEST(seek)
{
	int lower, fd, i;
	static const struct {
		int whence;
		off_t offset;
	} seeks[] = {
		{ SEEK_DATA, 0 }, { SEEK_HOLE, 0 }, { SEEK_DATA, 300 * PAGE },
		{ SEEK_HOLE, 300 * PAGE }, { SEEK_HOLE, 256 * PAGE },
		{ SEEK_DATA, 400 * PAGE }, { SEEK_END, 0 }, { SEEK_END, -1 },
		{ SEEK_SET, 5 }, { SEEK_CUR, 7 }, { SEEK_HOLE, N * PAGE - 1 },
		{ SEEK_DATA, N * PAGE }, { SEEK_HOLE, N * PAGE },
		{ SEEK_DATA, -1 }, { SEEK_SET, -1 }, { SEEK_SET, N * PAGE * 2 },
		{ 77, 0 },
	};

	lower = VSWAP_OK(open(vswap_path(self->m.lower, "sparse"),
			      O_RDWR | O_CREAT, 0600));
	VSWAP_OK(ftruncate(lower, N * PAGE));
	vswap_pwrite(lower, self->ram.mem, 64, 256);
	VSWAP_OK(fsync(lower));
	fd = vswap_image_open(&self->m, "sparse", O_RDWR);
	for (i = 0; i < ARRAY_SIZE(seeks); i++) {
		off_t ours, theirs;
		int error;

		errno = 0;
		ours = lseek(fd, seeks[i].offset, seeks[i].whence);
		error = errno;
		errno = 0;
		theirs = lseek(lower, seeks[i].offset, seeks[i].whence);
		TEST_ASSERT(ours == theirs && error == errno,
			    "seek %d: %ld (%s), below %ld (%s)", i, ours,
			    strerror(error), theirs, strerror(errno));
	}
	/* Here the position is that of the descriptor. */
	TEST_ASSERT_EQ(lseek(fd, 256 * PAGE, SEEK_SET), 256 * PAGE);
	vswap_fill(self->ram.mem, NEW);
	TEST_ASSERT_EQ(write(fd, self->ram.mem, PAGE), PAGE);
	TEST_ASSERT_EQ(lseek(fd, 0, SEEK_CUR), 257 * PAGE);
	vswap_expect_blocks(&self->m, "sparse", 256, 1, NEW, false);
	TEST_ASSERT_EQ(lseek(self->ram.fd, 0, SEEK_END), 2 * N * PAGE);
}

/* Whether a directory lists a name, by reads of a few entries at a time. */
static unsigned int count_names(const char *path, const char *name,
				unsigned int *total, size_t size)
{
	struct entry {
		uint64_t ino, off;
		unsigned short reclen;
		unsigned char type;
		char name[];
	} *e;
	int fd = VSWAP_OK(open(path, O_RDONLY | O_DIRECTORY));
	char buf[32768];
	unsigned int found = 0;
	long n, pos;

	*total = 0;
	while ((n = VSWAP_OK(syscall(SYS_getdents64, fd, buf, size)))) {
		for (pos = 0; pos < n; pos += e->reclen) {
			e = (void *)(buf + pos);
			found += !strcmp(e->name, name);
			(*total)++;
		}
	}
	close(fd);
	return found;
}

VSWAP_TEST(listing)
{
	const char *mnt = self->m.mnt;
	char name[32], sub[PATH_MAX + 8];
	unsigned int total, i, size;
	const unsigned int nr = 100;

	for (i = 0; i < nr; i++) {
		snprintf(name, sizeof(name), "image-%u", i);
		close(VSWAP_OK(open(vswap_path(self->m.lower, name),
				    O_RDWR | O_CREAT, 0600)));
		snprintf(name, sizeof(name), "ram-%u", i);
		close(VSWAP_OK(open(vswap_path(mnt, name), O_RDWR | O_CREAT,
				    0600)));
	}
	snprintf(sub, sizeof(sub), "%s/sub", self->m.lower);
	VSWAP_OK(mkdir(sub, 0755));
	close(VSWAP_OK(open(vswap_path(sub, "image"), O_RDWR | O_CREAT, 0600)));
	VSWAP_OK(mkdir(vswap_path(mnt, "own"), 0755));
	close(VSWAP_OK(open(vswap_path(mnt, "own/ram"), O_RDWR | O_CREAT, 0600)));
	close(VSWAP_OK(open(vswap_path(mnt, "sub/ram"), O_RDWR | O_CREAT, 0600)));
	/* What is no file is not there. */
	VSWAP_OK(mkfifo(vswap_path(self->m.lower, "fifo"), 0600));
	VSWAP_OK(symlink("image", vswap_path(self->m.lower, "link")));
	VSWAP_FAILS(open(vswap_path(mnt, "fifo"), O_RDONLY | O_NONBLOCK), ENOENT);
	VSWAP_FAILS(open(vswap_path(mnt, "link"), O_RDONLY), ENOENT);

	for (size = 64; size <= 32768; size *= 8) {
		for (i = 0; i < nr; i++) {
			snprintf(name, sizeof(name), "image-%u", i);
			TEST_ASSERT(count_names(mnt, name, &total, size) == 1,
				    "%s by %u bytes", name, size);
			snprintf(name, sizeof(name), "ram-%u", i);
			TEST_ASSERT(count_names(mnt, name, &total, size) == 1,
				    "%s by %u bytes", name, size);
			/* Each with "." and "..", "image", "ram", "own", "sub". */
			TEST_ASSERT_EQ(total, 2 * nr + 6);
			/* All are read each time; a few will do. */
			if (size == 64)
				i += 23;
		}
		TEST_ASSERT_EQ(count_names(vswap_path(mnt, "sub"), "image", &total,
					   size), 1);
		TEST_ASSERT_EQ(total, 4);
		TEST_ASSERT_EQ(count_names(vswap_path(mnt, "sub"), "ram", &total,
					   size), 1);
		TEST_ASSERT_EQ(count_names(vswap_path(mnt, "own"), "ram", &total,
					   size), 1);
		TEST_ASSERT_EQ(total, 3);
	}
}

VSWAP_TEST(names)
{
	const char *mnt = self->m.mnt;
	struct stat st, lower;
	int fd;

	/* What is below is not removed, moved or linked here. */
	VSWAP_FAILS(unlink(vswap_path(mnt, "image")), EPERM);
	VSWAP_FAILS(rename(vswap_path(mnt, "image"), vswap_path(mnt, "x")), EPERM);
	VSWAP_FAILS(rename(vswap_path(mnt, "ram"), vswap_path(mnt, "image")),
		    EPERM);
	VSWAP_FAILS(rename(vswap_path(mnt, "ram"), vswap_path(mnt, "x")), EPERM);
	VSWAP_FAILS(link(vswap_path(mnt, "ram"), vswap_path(mnt, "x")), EPERM);
	VSWAP_FAILS(symlink("ram", vswap_path(mnt, "x")), EPERM);
	VSWAP_FAILS(mknod(vswap_path(mnt, "x"), S_IFIFO | 0600, 0), EPERM);
	VSWAP_FAILS(rename(vswap_path(mnt, "image"),
			   vswap_path(self->m.lower, "x")), EXDEV);
	VSWAP_OK(mkdir(vswap_path(self->m.lower, "dir"), 0755));
	VSWAP_FAILS(rmdir(vswap_path(mnt, "dir")), EPERM);
	TEST_ASSERT_EQ(access(vswap_path(self->m.lower, "image"), F_OK), 0);

	/* RAM files and directories of the mount's own are not below. */
	VSWAP_FAILS(stat(vswap_path(self->m.lower, "ram"), &st), ENOENT);
	VSWAP_FAILS(open(vswap_path(mnt, "ram"), O_RDWR | O_CREAT | O_EXCL, 0600),
		    EEXIST);
	VSWAP_OK(mkdir(vswap_path(mnt, "own"), 0755));
	VSWAP_FAILS(mkdir(vswap_path(mnt, "own"), 0755), EEXIST);
	VSWAP_FAILS(stat(vswap_path(self->m.lower, "own"), &st), ENOENT);
	fd = VSWAP_OK(open(vswap_path(mnt, "own/ram"), O_RDWR | O_CREAT, 0640));
	VSWAP_FAILS(rmdir(vswap_path(mnt, "own")), ENOTEMPTY);
	VSWAP_OK(fstat(fd, &st));
	TEST_ASSERT_EQ(st.st_mode & 07777, 0640);
	VSWAP_OK(fchmod(fd, 0600));
	VSWAP_OK(unlink(vswap_path(mnt, "own/ram")));
	VSWAP_OK(rmdir(vswap_path(mnt, "own")));
	VSWAP_FAILS(stat(vswap_path(mnt, "own"), &st), ENOENT);
	close(fd);
	fd = VSWAP_OK(open(mnt, O_RDWR | O_TMPFILE, 0600));
	VSWAP_OK(ftruncate(fd, PAGE));
	VSWAP_OK(mmap(NULL, PAGE, PROT_WRITE, MAP_SHARED, fd, 0));

	/* Attributes are those below. */
	VSWAP_OK(chmod(vswap_path(self->m.lower, "image"), 0644));
	VSWAP_OK(stat(vswap_path(mnt, "image"), &st));
	VSWAP_OK(stat(vswap_path(self->m.lower, "image"), &lower));
	TEST_ASSERT_EQ(st.st_size, lower.st_size);
	TEST_ASSERT_EQ(st.st_mode, lower.st_mode);
	TEST_ASSERT_EQ(st.st_blocks, lower.st_blocks);
	TEST_ASSERT_EQ(st.st_mtime, lower.st_mtime);
	TEST_ASSERT(st.st_dev != lower.st_dev, "image and file are the same");
	VSWAP_OK(chmod(vswap_path(mnt, "image"), 0600));
	VSWAP_OK(stat(vswap_path(self->m.lower, "image"), &lower));
	TEST_ASSERT_EQ(lower.st_mode & 07777, 0600);

	/* What comes, goes and changes below does so here. */
	vswap_image_create(&self->m, "new", 4, OTHER);
	VSWAP_OK(stat(vswap_path(mnt, "new"), &st));
	TEST_ASSERT_EQ(st.st_size, 4 * PAGE);
	fd = vswap_image_open(&self->m, "new", O_RDWR);
	VSWAP_OK(unlink(vswap_path(self->m.lower, "new")));
	VSWAP_FAILS(stat(vswap_path(mnt, "new"), &st), ENOENT);
	read_aliases(&self->ram, fd, 0, 4, 0);
	vswap_pageout(&self->ram, 0, 4);
	vswap_image_create(&self->m, "new", 4, NEW);
	vswap_expect_pages(&self->ram, 0, 4, OTHER);
	close(fd);
	vswap_expect_pages(&self->ram, 0, 4, OTHER);
	fd = vswap_image_open(&self->m, "new", O_RDWR);
	read_aliases(&self->ram, fd, 2, 2, 0);
	vswap_expect_pages(&self->ram, 0, 2, OTHER);
	vswap_expect_pages(&self->ram, 2, 2, NEW);
}

static ino_t inode_of(const char *path)
{
	struct stat st;

	VSWAP_OK(stat(path, &st));
	return st.st_ino;
}

static void expect_image(struct vswap_mount *m, const char *name, uint64_t seed)
{
	int fd = vswap_image_open(m, name, O_RDONLY);
	char *buf = vswap_buffer(1);

	vswap_pread(fd, buf, 1, 0);
	vswap_expect_page(buf, seed);
	munmap(buf, PAGE);
	close(fd);
}

/* A name is that of the file that has it below, also if another one had it here. */
VSWAP_TEST(renamed)
{
	const char *mnt = self->m.mnt, *lower = self->m.lower;

	expect_image(&self->m, "image", IMAGE);
	VSWAP_OK(rename(vswap_path(lower, "image"), vswap_path(lower, "old")));
	VSWAP_FAILS(access(vswap_path(mnt, "image"), F_OK), ENOENT);
	vswap_image_create(&self->m, "image", 1, OTHER);
	expect_image(&self->m, "image", OTHER);
	expect_image(&self->m, "old", IMAGE);

	/* To another directory, and with it. */
	VSWAP_OK(mkdir(vswap_path(lower, "dir"), 0755));
	expect_image(&self->m, "image", OTHER);
	VSWAP_OK(rename(vswap_path(lower, "image"), vswap_path(lower, "dir/image")));
	VSWAP_FAILS(access(vswap_path(mnt, "image"), F_OK), ENOENT);
	expect_image(&self->m, "dir/image", OTHER);
	VSWAP_OK(rename(vswap_path(lower, "dir"), vswap_path(lower, "moved")));
	VSWAP_FAILS(access(vswap_path(mnt, "dir/image"), F_OK), ENOENT);
	expect_image(&self->m, "moved/image", OTHER);

	/* Of a file with two names, both are, and it is one image. */
	VSWAP_OK(link(vswap_path(lower, "old"), vswap_path(lower, "hard")));
	expect_image(&self->m, "hard", IMAGE);
	TEST_ASSERT_EQ(inode_of(vswap_path(mnt, "old")),
		       inode_of(vswap_path(mnt, "hard")));
	VSWAP_OK(rename(vswap_path(lower, "moved/image"), vswap_path(lower, "old")));
	expect_image(&self->m, "old", OTHER);
	expect_image(&self->m, "hard", IMAGE);
}

#define USER	1000

/* An unprivileged user's, with the bit that the user's writes are to clear. */
static void give_image(struct vswap_mount *m, const char *name)
{
	VSWAP_OK(chown(vswap_path(m->lower, name), USER, USER));
	VSWAP_OK(chmod(vswap_path(m->lower, name), 04755));
}

static bool is_setuid(struct vswap_mount *m, const char *name)
{
	struct stat st;

	VSWAP_OK(stat(vswap_path(m->lower, name), &st));
	return st.st_mode & S_ISUID;
}

/*
 * Who changes an image has that one's rights and limits, also if somebody else does it
 * on its behalf.
 */
VSWAP_TEST(credentials)
{
	const struct rlimit limit = { N * PAGE, N * PAGE };
	const char *image = vswap_path(self->m.mnt, "image");
	char *buf = vswap_buffer(2);
	struct stat st;
	int fd;

	/* Changes of attributes, by which the bit goes. */
	give_image(&self->m, "image");
	VSWAP_OK(chown(image, -1, USER));
	TEST_ASSERT(!is_setuid(&self->m, "image"), "chown() keeps S_ISUID");

	VSWAP_OK(setresgid(USER, USER, -1));
	VSWAP_OK(setresuid(USER, USER, 0));
	fd = VSWAP_OK(open(image, O_RDWR | O_DIRECT));
	VSWAP_OK(chmod(image, 04755));
	VSWAP_OK(ftruncate(fd, (2 * N - 1) * PAGE));
	TEST_ASSERT(!is_setuid(&self->m, "image"), "ftruncate() keeps S_ISUID");

	/* Asynchronous writes. */
	vswap_fill(buf, NEW);
	vswap_fill(buf + PAGE, NEW + 1);
	VSWAP_OK(chmod(image, 04755));
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, fd, buf, PAGE, 0), PAGE);
	TEST_ASSERT(!is_setuid(&self->m, "image"), "writing keeps S_ISUID");
	signal(SIGXFSZ, SIG_IGN);
	VSWAP_OK(setrlimit(RLIMIT_FSIZE, &limit));
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, fd, buf, PAGE, N * PAGE), -EFBIG);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, fd, buf, 2 * PAGE, (N - 1) * PAGE),
		       PAGE);
	VSWAP_FAILS(pwrite(fd, buf, PAGE, N * PAGE), EFBIG);
	VSWAP_OK(fstat(fd, &st));
	TEST_ASSERT_EQ(st.st_size, (2 * N - 1) * PAGE);

	/* The right to change a file that is open was asked for when it was opened. */
	VSWAP_OK(chmod(image, 0444));
	VSWAP_FAILS(truncate(image, PAGE), EACCES);
	VSWAP_OK(ftruncate(fd, PAGE));
	VSWAP_OK(fstat(fd, &st));
	TEST_ASSERT_EQ(st.st_size, PAGE);

	VSWAP_OK(setresuid(0, 0, 0));
	vswap_expect_blocks(&self->m, "image", 0, 1, NEW, false);
}

/* What appends does so one after the other. */
static void *append_pages(void *data)
{
	char *buf = vswap_buffer(1);
	int fd = *(int *)data, i;

	for (i = 0; i < 64; i++) {
		vswap_fill(buf, NEW + i);
		TEST_ASSERT_EQ(write(fd, buf, PAGE), PAGE);
	}
	munmap(buf, PAGE);
	return NULL;
}

/* Flags of an open image can change. */
VSWAP_TEST(file_flags)
{
	char *buf = vswap_buffer(2), other[100];
	pthread_t thread[4];
	unsigned int i;
	struct stat st;
	int fd, flags;

	flags = VSWAP_OK(fcntl(self->image, F_GETFL));
	TEST_ASSERT(flags & O_DIRECT, "the file was opened otherwise");
	VSWAP_FAILS(pread(self->image, buf + 1, 100, PAGE), EINVAL);
	VSWAP_OK(fcntl(self->image, F_SETFL, flags & ~O_DIRECT));
	TEST_ASSERT_EQ(pread(self->image, other, 100, PAGE + 8), 100);
	for (i = 0; i < 100 / 8; i++)
		TEST_ASSERT_EQ(((uint64_t *)other)[i], vswap_word(IMAGE + 1, i + 1));
	TEST_ASSERT_EQ(pwrite(self->image, other, 100, 2 * PAGE + 1), 100);
	VSWAP_OK(fcntl(self->image, F_SETFL, flags));
	VSWAP_FAILS(pread(self->image, buf + 1, 100, PAGE), EINVAL);
	VSWAP_FAILS(pwrite(self->image, buf + 1, 100, PAGE), EINVAL);
	TEST_ASSERT_EQ(pread(self->image, buf, PAGE, 2 * PAGE), PAGE);
	TEST_ASSERT(!memcmp(buf + 1, other, 100), "what was cached is not there");

	fd = vswap_image_open(&self->m, "image", O_WRONLY | O_APPEND);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		TEST_ASSERT_EQ(pthread_create(&thread[i], NULL, append_pages, &fd), 0);
	for (i = 0; i < ARRAY_SIZE(thread); i++)
		pthread_join(thread[i], NULL);
	VSWAP_OK(fstat(fd, &st));
	TEST_ASSERT_EQ(st.st_size, (2 * N + ARRAY_SIZE(thread) * 64) * PAGE);
}

/*
 * What was written is an alias if the disk has it, since what is only to be written to
 * it can be lost.
 */
VSWAP_TEST(cached_writes)
{
	static const int flags[] = { 0, O_DSYNC, O_SYNC, O_DIRECT };
	struct vswap_ram *ram = &self->ram;
	unsigned int i;
	uint64_t made;
	int fd;

	for (i = 0; i < ARRAY_SIZE(flags); i++) {
		uint64_t first = i * 64;

		fd = vswap_image_open(&self->m, "image", O_RDWR | flags[i]);
		vswap_fill_pages(ram, first, 64, NEW + first);
		vswap_drain_lru();
		vswap_pwrite(fd, vswap_page(ram, first), 64, first);
		made = vswap_stats(ram).aliased_by_write;
		TEST_ASSERT(flags[i] ? made : !made, "%lu pages for flags 0%o", made,
			    flags[i]);
		vswap_try_pageout(ram, first, 64);
		vswap_expect_pages(ram, first, 64, NEW + first);
		close(fd);
	}
	vswap_expect_blocks(&self->m, "image", 0, ARRAY_SIZE(flags) * 64, NEW, false);
}

/* By sendfile(2) and copy_file_range(2), of which the kernel provides memory. */
VSWAP_TEST(kernel_memory)
{
	struct vswap_ram *ram = &self->ram;
	char *buf = vswap_buffer(8);
	int fd, sockets[2];
	off_t offset = 5 * PAGE, to;
	unsigned int i;

	VSWAP_OK(socketpair(AF_UNIX, SOCK_STREAM, 0, sockets));
	fd = vswap_image_open(&self->m, "image", O_RDWR);
	TEST_ASSERT_EQ(sendfile(sockets[0], fd, &offset, 4 * PAGE), 4 * PAGE);
	TEST_ASSERT_EQ(recv(sockets[1], buf, 4 * PAGE, MSG_WAITALL), 4 * PAGE);
	for (i = 0; i < 4; i++)
		vswap_expect_page(buf + i * PAGE, IMAGE + 5 + i);

	/* To memory of a RAM file, by a socket. */
	offset = 5 * PAGE;
	TEST_ASSERT_EQ(sendfile(sockets[0], fd, &offset, 4 * PAGE), 4 * PAGE);
	TEST_ASSERT_EQ(recv(sockets[1], ram->mem, 4 * PAGE, MSG_WAITALL),
		       4 * PAGE);
	vswap_expect_pages(ram, 0, 4, IMAGE + 5);

	/* From one block to another, of which there is an alias. */
	read_aliases(ram, self->image, 8, 8, 100);
	offset = 5 * PAGE;
	to = 102 * PAGE;
	for (i = 0; i < 2 * PAGE;)
		i += VSWAP_OK(copy_file_range(fd, &offset, fd, &to,
					      2 * PAGE - i, 0));
	vswap_expect_pages(ram, 8, 8, IMAGE + 100);
	vswap_expect_blocks(&self->m, "image", 102, 2, IMAGE + 5, false);
	vswap_expect_blocks(&self->m, "image", 104, 2, IMAGE + 104, false);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, 2);
}

/* A disk, not a file. */
VSWAP_TEST(block_device)
{
	struct vswap_ram *ram = &self->ram;
	const char *name = getenv("VSWAP_DEVICE");
	struct stat st;
	int fd;

	if (!name)
		SKIP(return, "VSWAP_DEVICE is not set");
	VSWAP_OK(stat(vswap_path("/dev/mapper", name), &st));
	VSWAP_OK(mknod(vswap_path(self->m.lower, "disk"), S_IFBLK | 0600,
		       st.st_rdev));
	fd = vswap_image_open(&self->m, "disk", O_RDWR | O_DIRECT);
	TEST_ASSERT(lseek(fd, 0, SEEK_END) >= N * PAGE, "the device is too small");
	VSWAP_OK(fstat(fd, &st));
	TEST_ASSERT_EQ(st.st_mode & S_IFMT, S_IFREG);
	TEST_ASSERT_EQ(st.st_size, lseek(fd, 0, SEEK_END));

	vswap_fill_pages(ram, 0, N, NEW);
	vswap_drain_lru();
	vswap_pwrite(fd, ram->mem, N, 0);
	TEST_ASSERT_EQ(vswap_stats(ram).aliased_by_write, N);
	vswap_pageout(ram, 0, N);
	vswap_expect_pages(ram, 0, N, NEW);
	read_aliases(ram, fd, N, N, 0);
	VSWAP_OK(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			   N / 2 * PAGE));
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write, N);
	vswap_pageout(ram, N / 2, N / 2);
	vswap_pageout(ram, N + N / 2, N / 2);
	vswap_expect_pages(ram, 0, N, NEW);
	vswap_expect_pages(ram, N, N, NEW);
	VSWAP_FAILS(truncate(vswap_path(self->m.mnt, "disk"), 0), EINVAL);
	VSWAP_OK(fsync(fd));
}

/* --------------------------------------------------------------- costs */

VSWAP_TEST(metadata)
{
	const uint64_t nr = 16384;
	struct vswap_ram ram;
	uint64_t before, bytes;
	int fd;

	vswap_image_create(&self->m, "big", nr, OTHER);
	fd = vswap_image_open(&self->m, "big", O_RDWR | O_DIRECT);
	vswap_ram_create(&self->m, "big-ram", nr, &ram);
	before = vswap_stats(&ram).metadata_bytes;
	read_aliases(&ram, fd, 0, nr, 0);
	TEST_ASSERT_EQ(vswap_stats(&ram).aliases, nr);
	bytes = vswap_stats(&ram).metadata_bytes - before;
	ksft_print_msg("%.2f bytes a page, and %lu\n", (double)bytes / nr, before);
	TEST_ASSERT(bytes > 4 * nr && bytes <= 20 * nr,
		    "%lu bytes for %lu pages", bytes, nr);

	/* And given back, but for what is kept for pages that come back. */
	VSWAP_OK(fallocate(ram.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
			   nr * PAGE));
	TEST_ASSERT(vswap_stats(&ram).metadata_bytes - before <= 13 * nr,
		    "%llu bytes for nothing",
		    vswap_stats(&ram).metadata_bytes - before);
}

#define CGROUP	"/sys/fs/cgroup"

static void write_text(const char *path, const char *text)
{
	int fd = VSWAP_OK(open(path, O_WRONLY));

	VSWAP_OK(write(fd, text, strlen(text)));
	close(fd);
}

static uint64_t read_number(const char *path)
{
	char text[64] = "";
	int fd = VSWAP_OK(open(path, O_RDONLY));

	VSWAP_OK(read(fd, text, sizeof(text) - 1));
	close(fd);
	return strtoul(text, NULL, 10);
}

static bool make_group(const char *group)
{
	if (access(CGROUP "/cgroup.subtree_control", W_OK))
		return false;
	write_text(CGROUP "/cgroup.subtree_control", "+memory");
	if (mkdir(group, 0755))
		TEST_ASSERT_EQ(errno, EEXIST);
	return true;
}

static void enter_group(const char *group)
{
	char text[64];

	snprintf(text, sizeof(text), "%d", getpid());
	write_text(vswap_path(group, "cgroup.procs"), text);
}

/* More than the limit, of a group without swap: read and read again. */
VSWAP_TEST(memcg)
{
	const uint64_t nr = 8192, limit = 12ul << 20;
	const char *group = CGROUP "/vswap-test";
	char text[64];
	int status, fd;
	unsigned int round;
	struct vswap_ram ram;
	uint64_t current;
	pid_t pid;

	if (!make_group(group))
		SKIP(return, "no cgroup v2 at %s", CGROUP);
	snprintf(text, sizeof(text), "%lu", limit);
	write_text(vswap_path(group, "memory.max"), text);
	if (!access(vswap_path(group, "memory.swap.max"), W_OK))
		write_text(vswap_path(group, "memory.swap.max"), "0");

	vswap_image_create(&self->m, "big", nr, OTHER);
	pid = VSWAP_OK(fork());
	if (!pid) {
		enter_group(group);
		vswap_ram_create(&self->m, "big-ram", nr, &ram);
		fd = vswap_image_open(&self->m, "big", O_RDWR | O_DIRECT);
		vswap_pread(fd, ram.mem, nr, 0);
		for (round = 0; round < 3; round++)
			vswap_expect_pages(&ram, 0, nr, OTHER);
		TEST_ASSERT_EQ(vswap_stats(&ram).aliases, nr);
		TEST_ASSERT_EQ(vswap_stats(&ram).swapped, 0);
		TEST_ASSERT(vswap_stats(&ram).resident * PAGE <= limit,
			    "%llu pages are not charged",
			    vswap_stats(&ram).resident);
		TEST_ASSERT(vswap_stats(&ram).refault_pages >= nr,
			    "%llu pages came back", vswap_stats(&ram).refault_pages);

		/* Written, they would not fit; of half the limit there is room. */
		vswap_fill_pages(&ram, 0, limit / PAGE / 2, NEW);
		vswap_expect_pages(&ram, limit / PAGE / 2, nr - limit / PAGE / 2,
				   OTHER + limit / PAGE / 2);
		vswap_expect_pages(&ram, 0, limit / PAGE / 2, NEW);

		/* What is not written goes when it is asked for. */
		current = read_number(vswap_path(group, "memory.current"));
		TEST_ASSERT(current > limit / 2, "only %lu bytes are charged",
			    current);
		for (round = 0; round < 100 &&
		     vswap_stats(&ram).aliases_resident; round++) {
			fd = open(vswap_path(group, "memory.reclaim"), O_WRONLY);
			if (write(fd, "12M", 3) < 0)
				TEST_ASSERT_EQ(errno, EAGAIN);
			close(fd);
		}
		TEST_ASSERT_EQ(vswap_stats(&ram).aliases_resident, 0);
		vswap_expect_pages(&ram, 0, limit / PAGE / 2, NEW);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT(status == 0, "the process in the group ended with 0x%x", status);
	VSWAP_OK(unlink(vswap_path(self->m.mnt, "big-ram")));
	TEST_ASSERT_EQ(rmdir(group), 0);
}

/* Whether memory is ample is asked every 100 ms. */
static void set_always(bool always)
{
	vswap_set_parameter("vswap_always", always);
	usleep(300000);
}

#define AMPLE	16ul

/* Pages that are in memory are read to and written from: how many were tracked? */
static void expect_tracked(struct vswap_ram *ram, int image, bool tracked)
{
	struct kvm_vswap_stats before, after;

	vswap_fill_pages(ram, 0, 2 * AMPLE, NEW);
	vswap_drain_lru();
	vswap_expect_states(ram, 0, 2 * AMPLE, KVM_VSWAP_PAGE_RESIDENT);
	before = vswap_stats(ram);
	vswap_pread(image, vswap_page(ram, 0), AMPLE, 0);
	vswap_pwrite(image, vswap_page(ram, AMPLE), AMPLE, 2 * AMPLE);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.aliased_by_read - before.aliased_by_read,
		       tracked ? AMPLE : 0);
	TEST_ASSERT_EQ(after.aliased_by_write - before.aliased_by_write,
		       tracked ? AMPLE : 0);
	TEST_ASSERT_EQ(after.skipped_ample - before.skipped_ample,
		       tracked ? 0 : 2 * AMPLE);
	vswap_expect_states(ram, 0, 2 * AMPLE, tracked ? KVM_VSWAP_PAGE_ALIAS :
							 KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_pages(ram, 0, AMPLE, IMAGE);
	vswap_expect_pages(ram, AMPLE, AMPLE, NEW + AMPLE);
}

/* Nothing new is tracked while all that guests may use fits into memory. */
VSWAP_TEST(ample)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats before, after;
	uint64_t absent = 1;
	int fd;

	set_always(false);
	vswap_pread(self->image, ram->mem, AMPLE, 0);
	vswap_expect_states(ram, 0, AMPLE, KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_pages(ram, 0, AMPLE, IMAGE);
	expect_tracked(ram, self->image, false);

	/* What is tracked already, or in swap, is replaced. */
	set_always(true);
	expect_tracked(ram, self->image, true);
	if (vswap_has_swap()) {
		vswap_fill_pages(ram, 1, 1, NEW);
		expect_swapped(ram, 1, 1);
		absent++;
	}
	vswap_pageout(ram, 0, 1);
	set_always(false);
	before = vswap_stats(ram);
	/* Dropped, swapped or an alias, an alias: one of these is enough. */
	vswap_pread(self->image, ram->mem, 3, 100);
	after = vswap_stats(ram);
	TEST_ASSERT_EQ(after.aliased_by_read - before.aliased_by_read, 3);
	TEST_ASSERT_EQ(after.stale_reads_avoided - before.stale_reads_avoided,
		       absent);
	TEST_ASSERT_EQ(after.skipped_ample, before.skipped_ample);
	vswap_expect_pages(ram, 0, 3, IMAGE + 100);

	/* Blocks that change are watched as ever. */
	vswap_fill_pages(ram, 2 * N - 1, 1, NEW);
	vswap_pwrite(self->image, vswap_page(ram, 2 * N - 1), 1, 101);
	vswap_expect_states(ram, 1, 1, KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_pages(ram, 0, 3, IMAGE + 100);
	expect_tracked(ram, self->image, false);

	/* Another guest believes in more than there is, and goes. */
	fd = VSWAP_OK(open(vswap_path(self->m.mnt, "huge"), O_RDWR | O_CREAT, 0600));
	VSWAP_OK(ftruncate(fd, 1ul << 40));
	set_always(false);
	expect_tracked(ram, self->image, true);
	close(fd);
	VSWAP_OK(unlink(vswap_path(self->m.mnt, "huge")));
	set_always(false);
	expect_tracked(ram, self->image, false);
}

/* Requests to the disk of a file system so far. */
static uint64_t disk_requests(const char *path, bool write)
{
	unsigned long reads, merged, sectors, ms, writes;
	char name[128];
	struct stat st;
	FILE *f;

	VSWAP_OK(stat(path, &st));
	snprintf(name, sizeof(name), "/sys/dev/block/%u:%u/stat", major(st.st_dev),
		 minor(st.st_dev));
	f = fopen(name, "r");
	TEST_ASSERT(f && fscanf(f, "%lu %lu %lu %lu %lu", &reads, &merged, &sectors,
				&ms, &writes) == 5, "cannot read %s", name);
	fclose(f);
	return write ? writes : reads;
}

/* Eight at once, which are next to each other, of 64 pages of memory. */
static void expect_merged(struct vswap_mount *m, int image, char *mem, bool write)
{
	struct iocb iocb[8], *list[8];
	struct io_event events[8];
	aio_context_t ctx;
	uint64_t before;
	unsigned int i;

	for (i = 0; i < 8; i++) {
		iocb[i] = (struct iocb) {
			.aio_fildes = image,
			.aio_offset = i * 8 * PAGE,
			.aio_lio_opcode = write ? IOCB_CMD_PWRITE : IOCB_CMD_PREAD,
			.aio_buf = (uintptr_t)mem + i * 8 * PAGE,
			.aio_nbytes = 8 * PAGE,
		};
		list[i] = &iocb[i];
	}
	VSWAP_OK(setup_aio(&ctx));
	before = disk_requests(m->lower, write);
	TEST_ASSERT_EQ(syscall(SYS_io_submit, ctx, 8, list), 8);
	TEST_ASSERT_EQ(syscall(SYS_io_getevents, ctx, 8, 8, events, NULL), 8);
	for (i = 0; i < 8; i++)
		TEST_ASSERT_EQ(events[i].res, 8 * PAGE);
	before = disk_requests(m->lower, write) - before;
	TEST_ASSERT(before && before <= 4, "%lu %s for what is one request", before,
		    write ? "writes" : "reads");
	VSWAP_OK(syscall(SYS_io_destroy, ctx));
}

/*
 * What is not to be tracked is passed on as it was submitted: it can be merged, it has
 * ended when it is told to have, and it leaves nothing behind.
 */
VSWAP_TEST(ample_async)
{
	const char *name = getenv("VSWAP_DEVICE");
	struct vswap_ram *ram = &self->ram;
	char *buf = vswap_buffer(64);
	struct kvm_vswap_stats before;
	struct io_uring_sqe sqe;
	struct dm_table good;
	struct ring ring;
	unsigned int i;
	int fd;

	set_always(false);
	vswap_fill_pages(ram, 0, 64, NEW);
	expect_merged(&self->m, self->image, ram->mem, false);
	vswap_expect_states(ram, 0, 64, KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_pages(ram, 0, 64, IMAGE);
	vswap_fill_pages(ram, 0, 64, NEW);
	before = vswap_stats(ram);
	expect_merged(&self->m, self->image, ram->mem, true);
	TEST_ASSERT_EQ(vswap_stats(ram).skipped_ample - before.skipped_ample, 64);
	vswap_expect_pages(ram, 0, 64, NEW);
	vswap_expect_blocks(&self->m, "image", 0, 64, NEW, false);

	/* Memory that is none of a RAM file's is never tracked. */
	set_always(true);
	expect_merged(&self->m, self->image, buf, false);
	for (i = 0; i < 64; i++)
		vswap_expect_page(buf + i * PAGE, NEW + i);

	/* A block that has an alias changes. */
	read_aliases(ram, self->image, 0, 8, 0);
	vswap_pageout(ram, 0, 4);
	set_always(false);
	vswap_fill_pages(ram, 64, 8, OTHER);
	before = vswap_stats(ram);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, self->image, vswap_page(ram, 64),
			      8 * PAGE, 0), 8 * PAGE);
	TEST_ASSERT_EQ(vswap_stats(ram).broken_by_write - before.broken_by_write, 8);
	vswap_expect_pages(ram, 0, 8, NEW);
	vswap_expect_blocks(&self->m, "image", 0, 8, OTHER, false);

	if (setup_ring(&ring)) {
		sqe = (struct io_uring_sqe) {
			.opcode = IORING_OP_READ,
			.fd = self->image,
			.off = 64 * PAGE,
			.addr = (uintptr_t)vswap_page(ram, 64),
			.len = 8 * PAGE,
		};
		queue_sqe(&ring, sqe);
		expect_cqes(&ring, 1, 8 * PAGE);
		vswap_expect_pages(ram, 64, 8, IMAGE + 64);
		sqe.opcode = IORING_OP_WRITE;
		sqe.off = 0;
		queue_sqe(&ring, sqe);
		expect_cqes(&ring, 1, 8 * PAGE);
		vswap_expect_blocks(&self->m, "image", 0, 8, IMAGE + 64, false);
	}

	/* The end of the file, and what is beyond. */
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, self->image, ram->mem, 8 * PAGE,
			      (2 * N - 4) * PAGE), 4 * PAGE);
	vswap_expect_pages(ram, 0, 4, IMAGE + 2 * N - 4);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, self->image, ram->mem, 8 * PAGE,
			      2 * N * PAGE), 0);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, self->image, ram->mem, 0, 0), 0);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, self->image, ram->mem, 0, 0), 0);
	TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, self->image, ram->mem, PAGE,
			      2 * N * PAGE), PAGE);
	TEST_ASSERT_EQ(lseek(self->image, 0, SEEK_END), (2 * N + 1) * PAGE);

	/* Errors; and nothing keeps pages or blocks from being tracked later. */
	if (name) {
		fd = open_disk(&self->m, name);
		vswap_fill_pages(ram, 0, 8, NEW);
		break_device(name, &good);
		TEST_ASSERT_EQ(do_aio(IOCB_CMD_PREAD, fd, vswap_page(ram, 64), 8 * PAGE,
				      0), -EIO);
		TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, fd, ram->mem, 8 * PAGE, 0),
			       -EIO);
		set_table(name, &good);
		TEST_ASSERT_EQ(do_aio(IOCB_CMD_PWRITE, fd, ram->mem, 8 * PAGE, 0),
			       8 * PAGE);
		set_always(true);
		read_aliases(ram, fd, 64, 8, 0);
		vswap_expect_pages(ram, 64, 8, NEW);
	}
	set_always(true);
	vswap_drain_lru();
	read_aliases(ram, self->image, 0, 64, 64);
	vswap_expect_pages(ram, 0, 64, IMAGE + 64);
}

/* The memory that there is, is that of the cgroup, and shared by its VMs. */
VSWAP_TEST(ample_memcg)
{
	const char *group = CGROUP "/vswap-test";
	struct vswap_ram *ram = &self->ram;
	struct vswap_ram other;
	int status;
	pid_t pid;

	if (!make_group(group))
		SKIP(return, "no cgroup v2 at %s", CGROUP);

	pid = VSWAP_OK(fork());
	if (!pid) {
		enter_group(group);
		set_always(false);
		expect_tracked(ram, self->image, false);

		/* The RAM file has 4 MiB, and there is a process as well. */
		write_text(vswap_path(group, "memory.max"), "4M");
		set_always(false);
		expect_tracked(ram, self->image, true);
		write_text(vswap_path(group, "memory.max"), "64M");
		set_always(false);
		expect_tracked(ram, self->image, false);
		write_text(vswap_path(group, "memory.high"), "4M");
		set_always(false);
		expect_tracked(ram, self->image, true);
		write_text(vswap_path(group, "memory.high"), "max");

		/* Each fits, but both do not. */
		vswap_ram_create(&self->m, "other", 60 << (20 - 12), &other);
		set_always(false);
		expect_tracked(ram, self->image, false);
		vswap_pread(self->image, other.mem, 1, 0);
		set_always(false);
		expect_tracked(ram, self->image, true);
		_exit(0);
	}
	TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
	TEST_ASSERT(status == 0, "the process in the group ended with 0x%x", status);
	VSWAP_OK(unlink(vswap_path(self->m.mnt, "other")));
	TEST_ASSERT_EQ(rmdir(group), 0);
}

/* --------------------------------------------------------- huge pages */

/* A RAM file, advised to have huge pages as QEMU does; false: there are none. */
static bool create_huge(struct vswap_mount *m, uint64_t pages,
			struct vswap_ram *ram)
{
	char text[128] = "";
	FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/shmem_enabled", "r");

	if (!f)
		return false;
	TEST_ASSERT(fgets(text, sizeof(text), f), "nothing is enabled");
	fclose(f);
	if (strstr(text, "[deny]"))
		return false;
	vswap_ram_create(m, "big", pages, ram);
	VSWAP_OK(madvise(ram->mem, pages * PAGE, MADV_HUGEPAGE));
	return true;
}

/* Pages of the process that huge entries of its page tables map. */
static uint64_t huge_mapped(void)
{
	FILE *f = fopen("/proc/self/smaps_rollup", "r");
	uint64_t kib = ~0ul;
	char line[128];

	TEST_ASSERT(f, "no smaps_rollup");
	while (fgets(line, sizeof(line), f))
		sscanf(line, "ShmemPmdMapped: %lu kB", &kib);
	fclose(f);
	TEST_ASSERT(kib != ~0ul, "ShmemPmdMapped is not told");
	return kib * 1024 / PAGE;
}

static void associate(struct vswap_ram *ram, int image, uint64_t first, uint64_t nr,
		      uint64_t block)
{
	struct kvm_vswap_associate a = {
		.offset = first * PAGE,
		.size = nr * PAGE,
		.image_offset = block * PAGE,
		.image_fd = image,
	};

	VSWAP_OK(ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a));
}

/* They are made where memory is ample, and nothing was ever tracked. */
VSWAP_TEST(huge_pages)
{
	struct vswap_ram big;

	set_always(false);
	if (!create_huge(&self->m, 3 * HUGE + 100, &big))
		SKIP(return, "no huge pages");

	vswap_fill_pages(&big, HUGE + 7, 1, NEW);
	TEST_ASSERT_EQ(vswap_stats(&big).resident, HUGE);
	TEST_ASSERT_EQ(huge_mapped(), HUGE);
	vswap_expect_zeroes(&big, HUGE, 7);
	vswap_expect_page(vswap_page(&big, HUGE + 7), NEW);
	vswap_expect_zeroes(&big, HUGE + 8, HUGE - 8);

	/* The guest's disk is read to it as it is. */
	vswap_pread(self->image, vswap_page(&big, HUGE + 16), 16, 0);
	vswap_pwrite(self->image, vswap_page(&big, HUGE + 7), 1, 1);
	TEST_ASSERT_EQ(huge_mapped(), HUGE);
	TEST_ASSERT_EQ(vswap_stats(&big).aliases, 0);
	vswap_expect_pages(&big, HUGE + 16, 16, IMAGE);
	vswap_expect_blocks(&self->m, "image", 1, 1, NEW, false);

	/* Neither next to an alias, nor across the end. */
	associate(&big, self->image, 5, 1, 5);
	vswap_pageout(&big, 5, 1);
	vswap_fill_pages(&big, 6, 1, NEW);
	TEST_ASSERT_EQ(vswap_stats(&big).resident, HUGE + 1);
	vswap_fill_pages(&big, 3 * HUGE + 5, 1, NEW);
	TEST_ASSERT_EQ(vswap_stats(&big).resident, HUGE + 2);
	vswap_expect_page(vswap_page(&big, 5), IMAGE + 5);
	vswap_expect_zeroes(&big, 0, 5);
	vswap_expect_zeroes(&big, 7, HUGE - 7);

	/* Nor any if it was not asked for them. */
	VSWAP_OK(madvise(big.mem, big.pages * PAGE, MADV_NOHUGEPAGE));
	vswap_fill_pages(&big, 2 * HUGE + 5, 1, NEW);
	vswap_expect_states(&big, 2 * HUGE + 6, 1, KVM_VSWAP_PAGE_NONE);
}

VSWAP_TEST(huge_never)
{
	const char *dir = vswap_path(vswap_lower(), "vswap-never");
	struct vswap_mount m;
	char options[PATH_MAX + 32];
	struct vswap_ram big;

	set_always(false);
	snprintf(m.mnt, sizeof(m.mnt), "%s", dir);
	if (mkdir(m.mnt, 0755))
		TEST_ASSERT_EQ(errno, EEXIST);
	snprintf(options, sizeof(options), "lower=%s,huge=always", self->m.lower);
	VSWAP_FAILS(mount("none", m.mnt, "kvm_vswap", 0, options), EINVAL);
	snprintf(options, sizeof(options), "lower=%s,huge=never", self->m.lower);
	VSWAP_OK(mount("none", m.mnt, "kvm_vswap", 0, options));
	if (!create_huge(&m, 2 * HUGE, &big))
		SKIP(return, "no huge pages");
	vswap_fill_pages(&big, HUGE + 7, 1, NEW);
	TEST_ASSERT_EQ(vswap_stats(&big).resident, 1);
	munmap(big.mem, big.pages * PAGE);
	close(big.fd);
	VSWAP_OK(umount(m.mnt));
	VSWAP_OK(rmdir(m.mnt));
}

/* When memory is not ample any more, they are split by what is read to them. */
VSWAP_TEST(huge_split)
{
	struct kvm_vswap_stats before;
	struct vswap_ram big;
	int pipes[2];
	struct iovec iov;

	set_always(false);
	if (!create_huge(&self->m, 4 * HUGE, &big))
		SKIP(return, "no huge pages");
	vswap_fill_pages(&big, 0, 3 * HUGE, NEW);
	TEST_ASSERT_EQ(huge_mapped(), 3 * HUGE);

	set_always(true);
	read_aliases(&big, self->image, HUGE + 5, 20, 5);
	vswap_expect_states(&big, HUGE + 5, 20, KVM_VSWAP_PAGE_ALIAS);
	vswap_expect_pages(&big, HUGE, 5, NEW + HUGE);
	vswap_expect_pages(&big, HUGE + 5, 20, IMAGE + 5);
	vswap_expect_pages(&big, HUGE + 25, HUGE - 25, NEW + HUGE + 25);
	TEST_ASSERT_EQ(huge_mapped(), 2 * HUGE);
	vswap_pageout(&big, HUGE + 5, 20);
	vswap_expect_pages(&big, HUGE + 5, 20, IMAGE + 5);

	/* Somebody has a page of it, so it cannot be split: that is a copy. */
	VSWAP_OK(pipe(pipes));
	iov.iov_base = vswap_page(&big, 300);
	iov.iov_len = PAGE;
	TEST_ASSERT_EQ(vmsplice(pipes[1], &iov, 1, 0), (ssize_t)PAGE);
	before = vswap_stats(&big);
	vswap_pread(self->image, vswap_page(&big, 5), 20, 5);
	TEST_ASSERT_EQ(vswap_stats(&big).aliased_by_read, before.aliased_by_read);
	TEST_ASSERT_EQ(vswap_stats(&big).skipped_pinned, before.skipped_pinned + 20);
	vswap_expect_states(&big, 5, 20, KVM_VSWAP_PAGE_RESIDENT);
	vswap_expect_pages(&big, 0, 5, NEW);
	vswap_expect_pages(&big, 5, 20, IMAGE + 5);
	vswap_expect_pages(&big, 25, HUGE - 25, NEW + 25);
	close(pipes[0]);
	close(pipes[1]);
	read_aliases(&big, self->image, 5, 20, 5);
	vswap_expect_pages(&big, 0, 5, NEW);
	vswap_expect_pages(&big, 5, 20, IMAGE + 5);
	vswap_expect_pages(&big, 25, HUGE - 25, NEW + 25);

	/* Written from there, pages stay as they are. */
	vswap_pwrite(self->image, vswap_page(&big, 2 * HUGE), 16, 100);
	vswap_expect_blocks(&self->m, "image", 100, 16, NEW + 2 * HUGE, false);
	vswap_expect_pages(&big, 2 * HUGE, HUGE, NEW + 2 * HUGE);

	/* Given back, in parts. */
	VSWAP_OK(madvise(vswap_page(&big, 2 * HUGE + 7), 9 * PAGE, MADV_REMOVE));
	vswap_expect_pages(&big, 2 * HUGE, 7, NEW + 2 * HUGE);
	vswap_expect_zeroes(&big, 2 * HUGE + 7, 9);
	vswap_expect_pages(&big, 2 * HUGE + 16, HUGE - 16, NEW + 2 * HUGE + 16);
}

/* They are swapped out, and what is there then is replaced as any page in swap. */
VSWAP_TEST(huge_swapped)
{
	struct vswap_ram big;
	uint64_t i;

	if (!vswap_has_swap())
		SKIP(return, "no swap");
	set_always(false);
	if (!create_huge(&self->m, 3 * HUGE, &big))
		SKIP(return, "no huge pages");
	vswap_fill_pages(&big, 0, 3 * HUGE, NEW);
	TEST_ASSERT_EQ(huge_mapped(), 3 * HUGE);

	set_always(true);
	expect_swapped(&big, 0, 3 * HUGE);
	read_aliases(&big, self->image, HUGE + 100, 50, 0);
	vswap_expect_pages(&big, HUGE, 100, NEW + HUGE);
	vswap_expect_pages(&big, HUGE + 100, 50, IMAGE);
	vswap_expect_pages(&big, HUGE + 150, HUGE - 150, NEW + HUGE + 150);
	VSWAP_OK(madvise(vswap_page(&big, 7), 9 * PAGE, MADV_REMOVE));
	vswap_expect_pages(&big, 0, 7, NEW);
	vswap_expect_zeroes(&big, 7, 9);
	vswap_expect_pages(&big, 16, HUGE - 16, NEW + 16);

	/* While they are on their way out and in. */
	for (i = 0; i < 20; i++) {
		vswap_try_pageout(&big, 2 * HUGE, HUGE);
		vswap_expect_page(vswap_page(&big, 2 * HUGE + i), NEW + 2 * HUGE + i);
		read_aliases(&big, self->image, 2 * HUGE + 20 + i, 1, i);
		vswap_expect_page(vswap_page(&big, 2 * HUGE + 20 + i), IMAGE + i);
	}
	vswap_expect_pages(&big, 2 * HUGE, 20, NEW + 2 * HUGE);
	vswap_expect_pages(&big, 2 * HUGE + 20, 20, IMAGE);
	vswap_expect_pages(&big, 2 * HUGE + 40, HUGE - 40, NEW + 2 * HUGE + 40);
}

#define HUGE_RACES	48ul

struct huge_race {
	struct vswap_ram ram;
	int image;
	pthread_barrier_t barrier;
};

/* Pages become aliases, and are dropped, while another is touched first. */
static void *huge_racer(void *data)
{
	struct huge_race *r = data;
	uint64_t i;

	for (i = 0; i < HUGE_RACES; i++) {
		pthread_barrier_wait(&r->barrier);
		associate(&r->ram, r->image, i * HUGE + i, 4, i);
		VSWAP_OK(madvise(vswap_page(&r->ram, i * HUGE + i), 4 * PAGE,
				 MADV_PAGEOUT));
	}
	return NULL;
}

VSWAP_TEST(huge_race)
{
	struct huge_race r = { .image = self->image };
	uint64_t i, round, huge = 0, small = 0;
	pthread_t thread;

	set_always(false);
	pthread_barrier_init(&r.barrier, NULL, 2);
	for (round = 0; round < 8 || ((!huge || !small) && round < 100); round++) {
		if (!create_huge(&self->m, HUGE_RACES * HUGE, &r.ram))
			SKIP(return, "no huge pages");
		pthread_create(&thread, NULL, huge_racer, &r);
		for (i = 0; i < HUGE_RACES; i++) {
			pthread_barrier_wait(&r.barrier);
			/* At times before, at times after the other. */
			usleep(i * round % 16 * 20);
			vswap_fill(vswap_page(&r.ram, i * HUGE + HUGE - 1), NEW + i);
		}
		pthread_join(thread, NULL);
		for (i = 0; i < HUGE_RACES; i++) {
			if (vswap_state(&r.ram, i * HUGE + HUGE - 2) ==
			    KVM_VSWAP_PAGE_NONE)
				small++;
			else
				huge++;
			vswap_expect_pages(&r.ram, i * HUGE + i, 4, IMAGE + i);
			vswap_expect_page(vswap_page(&r.ram, i * HUGE + HUGE - 1),
					  NEW + i);
			vswap_expect_zeroes(&r.ram, i * HUGE + i + 4, 16);
		}
		munmap(r.ram.mem, r.ram.pages * PAGE);
		close(r.ram.fd);
		VSWAP_OK(unlink(vswap_path(self->m.mnt, "big")));
	}
	ksft_print_msg("%lu huge pages, and %lu small ones as there was an alias\n",
		       huge, small);
	TEST_ASSERT(huge && small, "there was no race: %lu huge, %lu small", huge,
		    small);
}

int main(int argc, char *argv[])
{
	vswap_require();
	return test_harness_run(argc, argv);
}
