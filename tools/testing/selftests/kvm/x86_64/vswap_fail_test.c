// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that memory of RAM files of kvm_vswap and images have the content that they
 * ought to have when there is no memory for something: each allocation of whatever is
 * done fails, one after the other.  A call fails with ENOMEM or succeeds, in whole or in
 * part, and what it did not do did not happen.
 *
 * It takes VSWAP_LOWER in the environment, see vswap_util.h, a kernel with fault
 * injection, see fail_nth.h, and no VM.
 */
#include <sys/prctl.h>
#include <sys/uio.h>
#include <linux/aio_abi.h>
#include <linux/falloc.h>

#include "fail_nth.h"
#include "kvm_test_harness.h"
#include "vswap_util.h"

/* Each round takes a file and what is done to it, on a kernel that checks a lot. */
#define TIMEOUT		1800
#define FAIL_TEST(name)	TEST_F_TIMEOUT(fail, name, TIMEOUT)

/* Seeds: of images' blocks, of what is written. */
#define IMAGE		1000000ul
#define OTHER		2000000ul
#define NEW		3000000ul

/* Pages that something is done to, of RAM files and images with twice as many. */
#define N		24ul

FIXTURE(fail)
{
	struct vswap_mount m;
	struct vswap_ram ram;
	struct fail_nth f;
	/* Of the process's own. */
	char *buffer;
	int image;
};

FIXTURE_SETUP(fail)
{
	uint64_t i;

	vswap_mount_setup(&self->m);
	vswap_image_create(&self->m, "image", 2 * N, IMAGE);
	self->image = vswap_image_open(&self->m, "image", O_RDWR | O_DIRECT);
	/* What is read ahead is read by others. */
	vswap_set_parameter("vswap_readahead", 0);
	vswap_set_parameter("vswap_cluster", 32);
	self->buffer = vswap_buffer(2 * N);
	for (i = 0; i < 2 * N; i++)
		vswap_fill(self->buffer + i * PAGE, IMAGE + i);
	memset(&self->f, 0, sizeof(self->f));
	self->ram.mem = NULL;
}

FIXTURE_TEARDOWN(fail)
{
}

static void put_ram(struct vswap_mount *m, struct vswap_ram *ram)
{
	if (!ram->mem)
		return;
	VSWAP_OK(munmap(ram->mem, ram->pages * PAGE));
	VSWAP_OK(close(ram->fd));
	VSWAP_OK(unlink(vswap_path(m->mnt, "ram")));
	ram->mem = NULL;
}

/*
 * A RAM file that nothing is known of, and the image as it was: so all that is ever
 * allocated is allocated anew.
 */
#define PREPARE()									\
do {											\
	put_ram(&self->m, &self->ram);							\
	vswap_pwrite(self->image, self->buffer, 2 * N, 0);				\
	vswap_ram_create(&self->m, "ram", 2 * N, &self->ram);				\
} while (0)

/* Pages [0, N) are aliases of blocks from "block" on, and dropped. */
static void make_dropped(struct vswap_ram *ram, int image, uint64_t block)
{
	vswap_pread(image, ram->mem, N, block);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS);
	vswap_pageout(ram, 0, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS_DROPPED);
}

/* Pages [first, N) have one of two contents; seed 0 is zeroes. */
static void expect_either(const char *mem, uint64_t first, uint64_t seed, uint64_t other)
{
	uint64_t i;

	for (i = first; i < N; i++) {
		const char *page = mem + i * PAGE;

		TEST_ASSERT(vswap_equals(page, seed ? seed + i : 0) ||
			    vswap_equals(page, other ? other + i : 0),
			    "page %lu has neither content: 0x%lx...", i,
			    *(const uint64_t *)page);
	}
}

/*
 * Pages [first, end) are what could not be read, as a disk leaves what it could not: with
 * the content of the block, with what was there, or without any.
 */
static void expect_unread(const char *mem, uint64_t first, uint64_t end, uint64_t old)
{
	uint64_t i;

	for (i = first; i < end; i++) {
		const char *page = mem + i * PAGE;

		TEST_ASSERT(vswap_equals(page, IMAGE + i) || vswap_equals(page, old + i) ||
			    vswap_equals(page, 0),
			    "page %lu has none of its contents: 0x%lx...", i,
			    *(const uint64_t *)page);
	}
}

/* Blocks [first, N) on the disk have one of two contents. */
static void expect_either_block(struct vswap_mount *m, uint64_t first, uint64_t seed,
				uint64_t other)
{
	int fd = VSWAP_OK(open(vswap_path(m->lower, "image"), O_RDONLY));
	char *copy = vswap_buffer(N);

	VSWAP_OK(pread(fd, copy, N * PAGE, 0));
	expect_either(copy, first, seed, other);
	munmap(copy, N * PAGE);
	close(fd);
}

/* Whole pages that a call did. */
static uint64_t pages_of(ssize_t ret)
{
	TEST_ASSERT(ret <= (ssize_t)(N * PAGE) && (ret < 0 || !(ret % PAGE)),
		    "the call returned %zd", ret);
	return ret < 0 ? 0 : ret / PAGE;
}

/* What failed is possible now, and memory is memory. */
static void expect_works(struct vswap_mount *m, struct vswap_ram *ram, int image)
{
	vswap_pread(image, ram->mem, N, N);
	vswap_expect_states(ram, 0, N, KVM_VSWAP_PAGE_ALIAS);
	vswap_pageout(ram, 0, N);
	vswap_expect_pages(ram, 0, N, IMAGE + N);
	vswap_fill_pages(ram, 0, N, OTHER);
	vswap_expect_pages(ram, 0, N, OTHER);
	vswap_expect_blocks(m, "image", N, N, IMAGE + N, false);
}

#define DONE()										\
do {											\
	ksft_print_msg("%u allocations failed\n", self->f.failures);			\
	TEST_ASSERT(self->f.failures, "there were none to fail");			\
} while (0)

FAIL_TEST(mount)
{
	char other[PATH_MAX + 8];
	int ret;

	snprintf(other, sizeof(other), "%s2", self->m.mnt);
	if (mkdir(other, 0755))
		TEST_ASSERT_EQ(errno, EEXIST);
	while (fail_nth_next(&self->f)) {
		ret = FAIL_NTH(&self->f, vswap_try_mount(other, self->m.lower));
		if (!ret)
			VSWAP_OK(umount(other));
		VSWAP_FAILS(umount(other), EINVAL);
	}
	DONE();
}

FAIL_TEST(create)
{
	const char *name = vswap_path(self->m.mnt, "new");
	int fd;

	while (fail_nth_next(&self->f)) {
		fd = FAIL_NTH(&self->f, open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
		if (fd < 0)
			fd = VSWAP_OK(open(name, O_RDWR | O_CREAT | O_EXCL, 0600));
		VSWAP_OK(ftruncate(fd, PAGE));
		VSWAP_OK(close(fd));
		VSWAP_OK(unlink(name));
	}
	DONE();
}

FAIL_TEST(map)
{
	struct vswap_ram *ram = &self->ram;
	void *mem;
	int ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		fail_nth_begin(&self->f);
		ret = ftruncate(ram->fd, 4 * N * PAGE);
		mem = ret ? MAP_FAILED : mmap(NULL, 4 * N * PAGE, PROT_READ | PROT_WRITE,
					      MAP_SHARED, ram->fd, 0);
		fail_nth_end(&self->f);
		FAIL_NTH_OK(&self->f, ret);
		FAIL_NTH_OK(&self->f, (long)mem);
		if (mem != MAP_FAILED)
			VSWAP_OK(munmap(mem, 4 * N * PAGE));
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* The first time that an image is opened, which makes what is known of it. */
FAIL_TEST(open_image)
{
	char name[32];
	int fd;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		snprintf(name, sizeof(name), "image%u", self->f.nth);
		vswap_image_create(&self->m, name, N, NEW);
		fd = FAIL_NTH(&self->f,
			      open(vswap_path(self->m.mnt, name), O_RDWR | O_DIRECT));
		if (fd < 0)
			fd = vswap_image_open(&self->m, name, O_RDWR | O_DIRECT);
		make_dropped(&self->ram, fd, 0);
		VSWAP_OK(close(fd));
		vswap_expect_pages(&self->ram, 0, N, NEW);
		VSWAP_OK(unlink(vswap_path(self->m.lower, name)));
	}
	DONE();
}

/* Pages of which nothing is known, and some of which shmem has content. */
FAIL_TEST(read)
{
	struct vswap_ram *ram = &self->ram;
	uint64_t done;
	ssize_t ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		vswap_fill_pages(ram, 0, N, NEW);
		ret = FAIL_NTH(&self->f, pread(self->image, ram->mem, N * PAGE, 0));
		done = pages_of(ret);
		vswap_expect_pages(ram, 0, done, IMAGE);
		expect_unread(ram->mem, done, N, NEW);
		vswap_try_pageout(ram, 0, N);
		vswap_expect_pages(ram, 0, done, IMAGE);
		expect_unread(ram->mem, done, N, NEW);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* Pages that are aliases of other blocks, and dropped. */
FAIL_TEST(read_dropped)
{
	struct vswap_ram *ram = &self->ram;
	uint64_t done;
	ssize_t ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, N);
		ret = FAIL_NTH(&self->f, pread(self->image, ram->mem, N * PAGE, 0));
		done = pages_of(ret);
		vswap_expect_pages(ram, 0, done, IMAGE);
		expect_unread(ram->mem, done, N, IMAGE + N);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* What a worker returns, or -1 with errno. */
static ssize_t finish_async(aio_context_t aio)
{
	struct io_event event;

	TEST_ASSERT_EQ(syscall(SYS_io_getevents, aio, 1, 1, &event, NULL), 1);
	if ((long)event.res >= 0)
		return event.res;
	errno = -event.res;
	return -1;
}

/* There is no memory to give it to a worker, or for the worker. */
static void try_read_async(struct _test_data_fail *self, bool by_worker)
{
	struct vswap_ram *ram = &self->ram;
	aio_context_t aio = 0;
	struct iocb iocb = {
		.aio_lio_opcode = IOCB_CMD_PREAD,
		.aio_nbytes = N * PAGE,
	}, *iocbs = &iocb;
	uint64_t done;
	ssize_t ret;

	self->f.workers = by_worker;
	VSWAP_OK(syscall(SYS_io_setup, 4, &aio));
	while (fail_nth_next(&self->f)) {
		PREPARE();
		/* Some are what shmem has, some are dropped, and nothing is known of the rest. */
		vswap_fill_pages(ram, 0, N / 2, NEW);
		vswap_pread(self->image, vswap_page(ram, N / 2), N / 4, N + N / 2);
		vswap_pageout(ram, N / 2, N / 4);
		iocb.aio_fildes = self->image;
		iocb.aio_buf = (uintptr_t)ram->mem;
		fail_nth_begin(&self->f);
		ret = syscall(SYS_io_submit, aio, 1, &iocbs);
		if (ret == 1 && by_worker)
			ret = finish_async(aio);
		fail_nth_end(&self->f);
		if (ret == 1)
			ret = finish_async(aio);
		if (ret == -1)
			TEST_ASSERT(self->f.injected && (errno == ENOMEM || errno == EAGAIN),
				    "the read fails with errno %d", errno);
		done = pages_of(ret);
		vswap_expect_pages(ram, 0, done, IMAGE);
		expect_unread(ram->mem, done, N / 2, NEW);
		expect_unread(ram->mem, done > N / 2 ? done : N / 2, N, IMAGE + N);
		expect_works(&self->m, ram, self->image);
	}
	VSWAP_OK(syscall(SYS_io_destroy, aio));
	DONE();
}

FAIL_TEST(read_async)
{
	try_read_async(self, false);
}

FAIL_TEST(read_worker)
{
	try_read_async(self, true);
}

/*
 * A worker writes pages to blocks, of which it makes aliases; other pages are aliases of
 * what was there before, and dropped.
 */
FAIL_TEST(write_worker)
{
	struct vswap_ram *ram = &self->ram;
	aio_context_t aio = 0;
	struct iocb iocb = {
		.aio_lio_opcode = IOCB_CMD_PWRITE,
		.aio_nbytes = N * PAGE,
	}, *iocbs = &iocb;
	uint64_t done;

	self->f.workers = true;
	VSWAP_OK(syscall(SYS_io_setup, 4, &aio));
	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		vswap_fill_pages(ram, N, N, NEW);
		iocb.aio_fildes = self->image;
		iocb.aio_buf = (uintptr_t)vswap_page(ram, N);
		fail_nth_begin(&self->f);
		TEST_ASSERT_EQ(syscall(SYS_io_submit, aio, 1, &iocbs), 1);
		done = pages_of(finish_async(aio));
		fail_nth_end(&self->f);
		TEST_ASSERT(done == N || self->f.injected, "%lu pages were written", done);
		vswap_expect_pages(ram, 0, N, IMAGE);
		vswap_expect_pages(ram, N, N, NEW);
		vswap_expect_blocks(&self->m, "image", 0, done, NEW, false);
		expect_either_block(&self->m, done, NEW, IMAGE);
		vswap_try_pageout(ram, 0, 2 * N);
		vswap_expect_pages(ram, 0, N, IMAGE);
		vswap_expect_pages(ram, N, N, NEW);
		expect_works(&self->m, ram, self->image);
	}
	VSWAP_OK(syscall(SYS_io_destroy, aio));
	DONE();
}

/* What could not be read ahead is read when it is needed. */
FAIL_TEST(readahead)
{
	struct vswap_ram *ram = &self->ram;

	vswap_set_parameter("vswap_cluster", 4);
	vswap_set_parameter("vswap_readahead", 8);
	self->f.workers = true;
	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		fail_nth_begin(&self->f);
		vswap_touch(ram, 0, N);
		fail_nth_end(&self->f);
		TEST_ASSERT(self->f.nth || vswap_stats(ram).readahead_pages,
			    "nothing is read ahead");
		vswap_expect_pages(ram, 0, N, IMAGE);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* Memory stays as it is, whatever comes of the blocks. */
FAIL_TEST(write)
{
	struct vswap_ram *ram = &self->ram;
	uint64_t done;
	ssize_t ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		vswap_fill_pages(ram, 0, N, NEW);
		ret = FAIL_NTH(&self->f, pwrite(self->image, ram->mem, N * PAGE, 0));
		done = pages_of(ret);
		vswap_expect_blocks(&self->m, "image", 0, done, NEW, false);
		expect_either_block(&self->m, done, NEW, IMAGE);
		vswap_expect_pages(ram, 0, N, NEW);
		vswap_try_pageout(ram, 0, N);
		vswap_expect_pages(ram, 0, N, NEW);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* Blocks change whose aliases are dropped, so that they are read before. */
FAIL_TEST(overwrite)
{
	struct vswap_ram *ram = &self->ram;
	char *buffer = vswap_buffer(N);
	uint64_t i, done;
	ssize_t ret;

	for (i = 0; i < N; i++)
		vswap_fill(buffer + i * PAGE, OTHER + i);
	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		ret = FAIL_NTH(&self->f, pwrite(self->image, buffer, N * PAGE, 0));
		done = pages_of(ret);
		vswap_expect_pages(ram, 0, N, IMAGE);
		vswap_expect_blocks(&self->m, "image", 0, done, OTHER, false);
		expect_either_block(&self->m, done, OTHER, IMAGE);
		vswap_try_pageout(ram, 0, N);
		vswap_expect_pages(ram, 0, N, IMAGE);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

FAIL_TEST(punch)
{
	struct vswap_ram *ram = &self->ram;
	int ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		fail_nth_begin(&self->f);
		ret = fallocate(self->image, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
				N * PAGE);
		fail_nth_end(&self->f);
		FAIL_NTH_OK(&self->f, ret);
		vswap_expect_pages(ram, 0, N, IMAGE);
		expect_either_block(&self->m, 0, 0, ret ? IMAGE : 0);
		vswap_try_pageout(ram, 0, N);
		vswap_expect_pages(ram, 0, N, IMAGE);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

FAIL_TEST(truncate)
{
	struct vswap_ram *ram = &self->ram;
	int ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		ret = FAIL_NTH(&self->f, ftruncate(self->image, N / 2 * PAGE));
		vswap_expect_blocks(&self->m, "image", 0, N / 2, IMAGE, false);
		vswap_expect_pages(ram, 0, N, IMAGE);
		vswap_try_pageout(ram, 0, N);
		vswap_expect_pages(ram, 0, N, IMAGE);
		vswap_pwrite(self->image, self->buffer, 2 * N, 0);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* The process accesses memory itself: what fails is tried again. */
FAIL_TEST(touch)
{
	struct vswap_ram *ram = &self->ram;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		fail_nth_begin(&self->f);
		vswap_touch(ram, 0, N);
		fail_nth_end(&self->f);
		vswap_expect_pages(ram, 0, N, IMAGE);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

FAIL_TEST(change)
{
	struct vswap_ram *ram = &self->ram;
	uint64_t i;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		vswap_touch(ram, 0, N / 2);
		fail_nth_begin(&self->f);
		for (i = 0; i < N; i++)
			*(uint64_t *)vswap_page(ram, i) = vswap_word(NEW + i, 0);
		fail_nth_end(&self->f);
		for (i = 0; i < N; i++) {
			TEST_ASSERT_EQ(*(uint64_t *)vswap_page(ram, i),
				       vswap_word(NEW + i, 0));
			*(uint64_t *)vswap_page(ram, i) = vswap_word(IMAGE + i, 0);
		}
		vswap_expect_pages(ram, 0, N, IMAGE);
		vswap_expect_blocks(&self->m, "image", 0, N, IMAGE, false);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* The kernel does, on its behalf: a file past the mount is written from there. */
FAIL_TEST(pin)
{
	struct vswap_ram *ram = &self->ram;
	char *copy = vswap_buffer(N);
	ssize_t ret;
	int fd;

	fd = VSWAP_OK(open(vswap_path(self->m.lower, "plain"),
			   O_RDWR | O_CREAT | O_DIRECT, 0600));
	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		VSWAP_OK(ftruncate(fd, 0));
		fail_nth_begin(&self->f);
		ret = pwrite(fd, ram->mem, N * PAGE, 0);
		fail_nth_end(&self->f);
		/* Direct I/O tells what it cannot pin from what is not there. */
		if (ret == -1)
			TEST_ASSERT(self->f.injected && (errno == ENOMEM || errno == EFAULT),
				    "pwrite: errno %d", errno);
		VSWAP_OK(pread(fd, copy, N * PAGE, 0));
		if (ret > 0)
			expect_either(copy, 0, IMAGE, ret == N * PAGE ? IMAGE : 0);
		vswap_expect_pages(ram, 0, N, IMAGE);
		expect_works(&self->m, ram, self->image);
	}
	VSWAP_OK(close(fd));
	DONE();
}

/* Given back. */
FAIL_TEST(remove)
{
	struct vswap_ram *ram = &self->ram;
	int ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		vswap_touch(ram, 0, N / 2);
		ret = FAIL_NTH(&self->f, madvise(ram->mem, N * PAGE, MADV_REMOVE));
		expect_either(ram->mem, 0, 0, ret ? IMAGE : 0);
		expect_works(&self->m, ram, self->image);
	}
	/* It need not allocate anything. */
	ksft_print_msg("%u allocations failed\n", self->f.failures);
}

FAIL_TEST(ioctls)
{
	struct vswap_ram *ram = &self->ram;
	struct kvm_vswap_stats stats;
	struct kvm_vswap_associate a;
	struct kvm_vswap_query query;
	uint8_t states[N];
	int ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		vswap_fill_pages(ram, 0, N, NEW);
		stats = (struct kvm_vswap_stats) { .size = sizeof(stats) };
		query = (struct kvm_vswap_query) {
			.pages = N, .states = (uintptr_t)states,
		};
		a = (struct kvm_vswap_associate) {
			.size = N * PAGE, .image_fd = self->image,
		};
		fail_nth_begin(&self->f);
		ret = ioctl(ram->fd, KVM_VSWAP_GET_STATS, &stats) ?:
		      ioctl(ram->fd, KVM_VSWAP_QUERY, &query) ?:
		      ioctl(ram->fd, KVM_VSWAP_ASSOCIATE, &a);
		fail_nth_end(&self->f);
		FAIL_NTH_OK(&self->f, ret);
		if (ret)
			expect_unread(ram->mem, 0, N, NEW);
		else
			vswap_expect_pages(ram, 0, N, IMAGE);
		expect_works(&self->m, ram, self->image);
	}
	DONE();
}

/* What goes cannot fail. */
FAIL_TEST(close)
{
	struct vswap_ram *ram = &self->ram;
	int ret;

	while (fail_nth_next(&self->f)) {
		PREPARE();
		make_dropped(ram, self->image, 0);
		vswap_pwrite(self->image, ram->mem, N, N);
		vswap_touch(ram, 0, N / 2);
		fail_nth_begin(&self->f);
		ret = munmap(ram->mem, ram->pages * PAGE);
		VSWAP_OK(close(ram->fd));
		fail_nth_end(&self->f);
		/* It can have to split what is mapped, as far as Linux knows. */
		if (ret)
			VSWAP_OK(munmap(ram->mem, ram->pages * PAGE));
		VSWAP_OK(unlink(vswap_path(self->m.mnt, "ram")));
		ram->mem = NULL;
	}
	ksft_print_msg("%u allocations failed\n", self->f.failures);
}

int main(int argc, char *argv[])
{
	vswap_require();
	__TEST_REQUIRE(fail_nth_is_possible(), FAIL_NTH_IMPOSSIBLE);
	return test_harness_run(argc, argv);
}
