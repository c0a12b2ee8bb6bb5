// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that each page of RAM files, and each block of an image, of the file system
 * kvm_vswap has the content that it ought to have while several threads read, write,
 * overwrite, punch and truncate, and pages are reclaimed all the time.
 *
 * Each page and each block belongs to a thread, which knows what every sector of it
 * has to be.  They are dealt out in short runs, so that the threads' requests share
 * locks, regions, clusters and folios' neighbourhood all the time.  Blocks of other
 * threads are read as well, so that a block is overwritten under aliases of others,
 * and of the other RAM file.
 *
 * A second part compares an image, and what is returned for it, with a plain file
 * below on which the same is done.
 *
 * -n CHECKS	pages and blocks to be compared at least
 * -f COUNT	operations on an image and on a plain file
 * -s SEED	other random numbers
 * -t THREADS	threads of the first part
 *
 * It takes VSWAP_LOWER in the environment, see vswap_util.h.
 */
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <sys/uio.h>
#include <time.h>
#include <linux/compiler.h>
#include <linux/falloc.h>

#include "kselftest.h"
#include "vswap_util.h"

#define SECTOR		512ul
#define SECTORS		(PAGE / SECTOR)

#define NR_RAMS		2ul
#define RAM_PAGES	2048ul
#define BLOCKS		3072ul
#define MAX_PAGES	32u
#define MAX_THREADS	16u
#define HISTORY		12u
/* Comparisons that are worth a message. */
#define PROGRESS	1000000ul

static unsigned long nr_checks = 150000;
static unsigned long nr_fsx = 3000;
static unsigned long seed;
static unsigned int nr_threads = 4;

static struct vswap_mount m;
static struct vswap_ram rams[NR_RAMS];

/* What each sector of RAM files and of the image has to be. */
static uint64_t ram_model[NR_RAMS][RAM_PAGES * SECTORS];
static uint64_t image_model[BLOCKS * SECTORS];

/* Held for writing while what is in a block changes, if its owner does that. */
static pthread_rwlock_t block_locks[BLOCKS];
/* Held for writing by who changes what belongs to all. */
static pthread_rwlock_t all_lock;

static atomic_ulong next_seed = 1;
static atomic_ulong checks;
static atomic_bool stop;

/* Pages of a RAM file, or blocks of the image. */
struct run {
	unsigned int ram;
	unsigned int first;
	unsigned int nr;
};

struct thread {
	pthread_t thread;
	unsigned int id;
	uint64_t random;
	int direct;
	int buffered;
	char *buf;
	struct run *pages;
	unsigned int nr_pages;
	struct run *blocks;
	unsigned int nr_blocks;
	uint64_t ops;
	char history[HISTORY][96];
};

static struct thread threads[MAX_THREADS + 1];

static uint64_t next_random(uint64_t *state)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return *state;
}

static unsigned int below(struct thread *t, unsigned int limit)
{
	return (next_random(&t->random) >> 16) % limit;
}

static bool one_in(struct thread *t, unsigned int n)
{
	return !below(t, n);
}

static void __printf(2, 3) did(struct thread *t, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(t->history[t->ops++ % HISTORY], sizeof(t->history[0]), fmt, args);
	va_end(args);
}

/* ------------------------------------------------------------ content */

static void fill_sector(void *sector, uint64_t value, unsigned int in_page)
{
	uint64_t *p = sector;
	unsigned int i;

	for (i = 0; i < SECTOR / sizeof(*p); i++)
		p[i] = vswap_word(value, in_page * (SECTOR / sizeof(*p)) + i);
}

/* Something is wrong.  Look again, to tell what was so for a moment only. */
static void fail_word(struct thread *t, const char *what, unsigned int ram,
		      const uint64_t *p, uint64_t sector, uint64_t seen,
		      uint64_t expected)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	unsigned int n;

	/* One at a time, as the first one exits. */
	pthread_mutex_lock(&lock);
	ksft_print_msg("thread %u, random numbers %lu:\n", t->id, seed);
	for (n = t->ops < HISTORY ? t->ops : HISTORY; n; n--)
		ksft_print_msg("  %s\n", t->history[(t->ops - n) % HISTORY]);
	ksft_print_msg("0x%lx, again 0x%lx\n", seen, READ_ONCE(*p));
	if (ram < NR_RAMS) {
		ksft_print_msg("state %u\n", vswap_state(&rams[ram],
							 sector / SECTORS));
		madvise((void *)((uintptr_t)p & -PAGE), PAGE, MADV_PAGEOUT);
		ksft_print_msg("after reclaim 0x%lx\n", READ_ONCE(*p));
	}
	TEST_FAIL("%s %lu of file %u, sector %lu: 0x%lx, not 0x%lx", what,
		  sector / SECTORS, ram, sector % SECTORS, seen, expected);
}

/* Sectors of memory, as they lie in pages of a file, are as expected. */
static void expect_sectors(struct thread *t, const char *what, unsigned int ram,
			   const char *mem, uint64_t first, uint64_t nr,
			   const uint64_t *model)
{
	const uint64_t words = SECTOR / sizeof(uint64_t);
	uint64_t i, k, seen, expected;

	for (i = 0; i < nr; i++) {
		const uint64_t *p = (void *)(mem + i * SECTOR);

		for (k = 0; k < words; k++) {
			seen = READ_ONCE(p[k]);
			expected = vswap_word(model[i], (first + i) % SECTORS *
					      words + k);
			if (seen != expected)
				fail_word(t, what, ram, &p[k], first + i, seen,
					  expected);
		}
	}
	atomic_fetch_add(&checks, (nr + SECTORS - 1) / SECTORS);
}

static char *page_mem(unsigned int ram, unsigned int page)
{
	return rams[ram].mem + page * PAGE;
}

static uint64_t *page_model(unsigned int ram, unsigned int page)
{
	return &ram_model[ram][page * SECTORS];
}

static void check_pages(struct thread *t, unsigned int ram, unsigned int first,
			unsigned int nr)
{
	expect_sectors(t, "page", ram, page_mem(ram, first), first * SECTORS,
		       nr * SECTORS, page_model(ram, first));
}

static void check_blocks(struct thread *t, unsigned int first, unsigned int nr)
{
	int fd = one_in(t, 8) ? t->buffered : t->direct;

	vswap_pread(fd, t->buf, nr, first);
	expect_sectors(t, "block", NR_RAMS, t->buf, first * SECTORS,
		       nr * SECTORS, &image_model[first * SECTORS]);
}

/* ---------------------------------------------------------- selection */

/* Some of a thread's own, in a row. */
static struct run pick(struct thread *t, const struct run *runs, unsigned int nr,
		       unsigned int max)
{
	struct run r = runs[below(t, nr)];
	unsigned int offset = below(t, r.nr);

	r.first += offset;
	r.nr -= offset;
	if (r.nr > max)
		r.nr = max;
	r.nr = 1 + below(t, r.nr);
	return r;
}

static struct run pick_pages(struct thread *t, unsigned int max)
{
	return pick(t, t->pages, t->nr_pages, max);
}

static struct run pick_blocks(struct thread *t, unsigned int max)
{
	return pick(t, t->blocks, t->nr_blocks, max);
}

/*
 * As many pages from here and there, none of them twice if they are for reading
 * to.  Returns how many pieces these are.
 */
static unsigned int gather(struct thread *t, unsigned int nr, bool twice,
			   struct run *pieces, struct iovec *iov)
{
	unsigned int n = 0, k;

	while (nr) {
		struct run r = pick_pages(t, nr);

		for (k = 0; !twice && k < n; k++) {
			if (r.ram == pieces[k].ram &&
			    r.first < pieces[k].first + pieces[k].nr &&
			    pieces[k].first < r.first + r.nr)
				break;
		}
		if (!twice && k < n)
			continue;
		iov[n].iov_base = page_mem(r.ram, r.first);
		iov[n].iov_len = r.nr * PAGE;
		pieces[n++] = r;
		nr -= r.nr;
	}
	return n;
}

static void lock_blocks(unsigned int first, unsigned int nr, bool write)
{
	for (; nr; nr--, first++) {
		if (write)
			pthread_rwlock_wrlock(&block_locks[first]);
		else
			pthread_rwlock_rdlock(&block_locks[first]);
	}
}

static void unlock_blocks(unsigned int first, unsigned int nr)
{
	for (; nr; nr--, first++)
		pthread_rwlock_unlock(&block_locks[first]);
}

/* ------------------------------------------------------------- actions */

static void transferred(struct thread *t, ssize_t ret, unsigned int nr)
{
	TEST_ASSERT(ret == (ssize_t)(nr * PAGE),
		    "thread %u: %u pages, returned %zd (%s)", t->id, nr, ret,
		    strerror(errno));
}

/* Blocks of anybody, to pages of the thread's own. */
static void read_blocks(struct thread *t)
{
	struct run pieces[MAX_PAGES], blocks = pick_blocks(t, MAX_PAGES);
	bool foreign = one_in(t, 2), buffered = one_in(t, 10);
	struct iovec iov[MAX_PAGES];
	unsigned int n, i, block;

	if (foreign) {
		blocks.nr = 1 + below(t, MAX_PAGES);
		blocks.first = below(t, BLOCKS - blocks.nr);
		lock_blocks(blocks.first, blocks.nr, false);
	}
	n = gather(t, blocks.nr, false, pieces, iov);
	did(t, "read %u blocks at %u, %u pieces, first page %u/%u%s",
	    blocks.nr, blocks.first, n, pieces[0].ram, pieces[0].first,
	    buffered ? ", buffered" : "");
	if (n == 1 && one_in(t, 4)) {
		struct kvm_vswap_associate a = {
			.offset = pieces[0].first * PAGE,
			.size = blocks.nr * PAGE,
			.image_offset = blocks.first * PAGE,
			.image_fd = t->direct,
		};

		VSWAP_OK(ioctl(rams[pieces[0].ram].fd, KVM_VSWAP_ASSOCIATE, &a));
	} else {
		transferred(t, preadv(buffered ? t->buffered : t->direct, iov, n,
				      blocks.first * PAGE), blocks.nr);
	}
	for (i = 0, block = blocks.first; i < n; i++) {
		memcpy(page_model(pieces[i].ram, pieces[i].first),
		       &image_model[block * SECTORS],
		       pieces[i].nr * SECTORS * sizeof(uint64_t));
		block += pieces[i].nr;
	}
	if (foreign)
		unlock_blocks(blocks.first, blocks.nr);
	for (i = 0; i < n; i++)
		check_pages(t, pieces[i].ram, pieces[i].first, pieces[i].nr);
}

/*
 * Blocks that others are writing meanwhile: the content can be of before, after,
 * and in between; but it stays what it was, then.
 */
static void read_racing(struct thread *t)
{
	struct run r = pick_pages(t, MAX_PAGES);
	unsigned int block = below(t, BLOCKS - r.nr), i, k;
	char *mem = page_mem(r.ram, r.first);

	did(t, "read %u racing blocks at %u to page %u/%u", r.nr, block, r.ram,
	    r.first);
	vswap_pread(t->direct, mem, r.nr, block);
	memcpy(t->buf, mem, r.nr * PAGE);
	for (i = 0; i < 5; i++) {
		if (i % 2)
			madvise(mem, r.nr * PAGE, MADV_PAGEOUT);
		sched_yield();
		TEST_ASSERT(!memcmp(t->buf, mem, r.nr * PAGE),
			    "thread %u: pages %u/%u+%u changed", t->id, r.ram,
			    r.first, r.nr);
		atomic_fetch_add(&checks, r.nr);
	}
	for (i = 0; i < r.nr; i++) {
		for (k = 0; k < SECTORS; k++) {
			uint64_t value = atomic_fetch_add(&next_seed, 1);

			page_model(r.ram, r.first + i)[k] = value;
			fill_sector(mem + i * PAGE + k * SECTOR, value, k);
		}
	}
}

/* Pages to blocks, both of the thread's own. */
static void write_pages(struct thread *t)
{
	struct run pieces[MAX_PAGES], blocks = pick_blocks(t, MAX_PAGES);
	struct iovec iov[MAX_PAGES];
	bool buffered = one_in(t, 10);
	unsigned int n, i, block;

	n = gather(t, blocks.nr, true, pieces, iov);
	did(t, "write %u blocks at %u, %u pieces, first page %u/%u%s",
	    blocks.nr, blocks.first, n, pieces[0].ram, pieces[0].first,
	    buffered ? ", buffered" : "");
	lock_blocks(blocks.first, blocks.nr, true);
	transferred(t, pwritev(buffered ? t->buffered : t->direct, iov, n,
			       blocks.first * PAGE), blocks.nr);
	for (i = 0, block = blocks.first; i < n; i++) {
		memcpy(&image_model[block * SECTORS],
		       page_model(pieces[i].ram, pieces[i].first),
		       pieces[i].nr * SECTORS * sizeof(uint64_t));
		block += pieces[i].nr;
	}
	unlock_blocks(blocks.first, blocks.nr);
	for (i = 0; i < n; i++)
		check_pages(t, pieces[i].ram, pieces[i].first, pieces[i].nr);
	if (one_in(t, 4))
		check_blocks(t, blocks.first, blocks.nr);
}

/* Sectors between a block and a page, at different places in these. */
static void transfer_sectors(struct thread *t)
{
	struct run r = pick_pages(t, 4), blocks = pick_blocks(t, 4);
	unsigned int from = below(t, SECTORS), to = below(t, SECTORS);
	unsigned int nr = blocks.nr * SECTORS - from, max = r.nr * SECTORS - to;
	uint64_t *model = page_model(r.ram, r.first) + to;
	uint64_t *image = &image_model[blocks.first * SECTORS + from];
	char *mem = page_mem(r.ram, r.first) + to * SECTOR;
	off_t pos = blocks.first * PAGE + from * SECTOR;
	bool write = one_in(t, 2);
	unsigned int i;
	ssize_t ret;

	/* Content tells its place in the page. */
	if (nr > max)
		nr = max;
	nr = 1 + below(t, nr);
	did(t, "%s %u sectors at %u.%u, page %u/%u.%u", write ? "write" : "read",
	    nr, blocks.first, from, r.ram, r.first, to);
	if (write)
		lock_blocks(blocks.first, blocks.nr, true);
	/* Otherwise from elsewhere, or to there. */
	if (from != to)
		mem = t->buf;
	for (i = 0; write && from != to && i < nr; i++) {
		image[i] = atomic_fetch_add(&next_seed, 1);
		fill_sector(mem + i * SECTOR, image[i], (from + i) % SECTORS);
	}

	if (write) {
		ret = pwrite(t->direct, mem, nr * SECTOR, pos);
		if (from == to)
			memcpy(image, model, nr * sizeof(*image));
		unlock_blocks(blocks.first, blocks.nr);
	} else {
		ret = pread(t->direct, mem, nr * SECTOR, pos);
		if (from == to)
			memcpy(model, image, nr * sizeof(*image));
		else
			expect_sectors(t, "block", NR_RAMS, mem,
				       blocks.first * SECTORS + from, nr, image);
	}
	TEST_ASSERT(ret == (ssize_t)(nr * SECTOR),
		    "thread %u: %u sectors, returned %zd (%s)", t->id, nr, ret,
		    strerror(errno));
	check_pages(t, r.ram, r.first, r.nr);
	check_blocks(t, blocks.first, blocks.nr);
}

/* The guest writes to its memory: pages, or a part of one. */
static void modify_pages(struct thread *t)
{
	struct run r = pick_pages(t, 8);
	bool part = one_in(t, 2);
	unsigned int i, k;

	did(t, "modify %s%u pages at %u/%u", part ? "a part of " : "", r.nr, r.ram,
	    r.first);
	for (i = 0; i < r.nr; i++) {
		for (k = 0; k < SECTORS; k++) {
			uint64_t value;

			if (part && one_in(t, 2))
				continue;
			value = atomic_fetch_add(&next_seed, 1);
			page_model(r.ram, r.first + i)[k] = value;
			fill_sector(page_mem(r.ram, r.first + i) + k * SECTOR,
				    value, k);
		}
	}
	check_pages(t, r.ram, r.first, r.nr);
}

/* Blocks get content from elsewhere. */
static void overwrite_blocks(struct thread *t)
{
	struct run blocks = pick_blocks(t, MAX_PAGES);
	bool buffered = one_in(t, 10);
	unsigned int i;

	did(t, "overwrite %u blocks at %u", blocks.nr, blocks.first);
	lock_blocks(blocks.first, blocks.nr, true);
	for (i = 0; i < blocks.nr * SECTORS; i++) {
		uint64_t value = atomic_fetch_add(&next_seed, 1);

		image_model[blocks.first * SECTORS + i] = value;
		fill_sector(t->buf + i * SECTOR, value, i % SECTORS);
	}
	vswap_pwrite(buffered ? t->buffered : t->direct, t->buf, blocks.nr,
		     blocks.first);
	unlock_blocks(blocks.first, blocks.nr);
}

/* Blocks are discarded, or zeroed. */
static void punch_blocks(struct thread *t)
{
	struct run blocks = pick_blocks(t, MAX_PAGES);
	bool zero = one_in(t, 2);

	did(t, "%s %u blocks at %u", zero ? "zero" : "punch", blocks.nr,
	    blocks.first);
	lock_blocks(blocks.first, blocks.nr, true);
	VSWAP_OK(fallocate(t->direct, FALLOC_FL_KEEP_SIZE |
			   (zero ? FALLOC_FL_ZERO_RANGE : FALLOC_FL_PUNCH_HOLE),
			   blocks.first * PAGE, blocks.nr * PAGE));
	memset(&image_model[blocks.first * SECTORS], 0,
	       blocks.nr * SECTORS * sizeof(uint64_t));
	unlock_blocks(blocks.first, blocks.nr);
	check_blocks(t, blocks.first, blocks.nr);
}

/* The balloon takes pages. */
static void punch_pages(struct thread *t)
{
	struct run r = pick_pages(t, MAX_PAGES);
	bool remove = one_in(t, 2);

	did(t, "punch %u pages at %u/%u", r.nr, r.ram, r.first);
	if (remove)
		VSWAP_OK(madvise(page_mem(r.ram, r.first), r.nr * PAGE,
				 MADV_REMOVE));
	else
		VSWAP_OK(fallocate(rams[r.ram].fd, FALLOC_FL_PUNCH_HOLE |
				   FALLOC_FL_KEEP_SIZE, r.first * PAGE,
				   r.nr * PAGE));
	memset(page_model(r.ram, r.first), 0, r.nr * SECTORS * sizeof(uint64_t));
	check_pages(t, r.ram, r.first, r.nr);
}

/* The image, or a RAM file, becomes shorter and then as long as it was. */
static void truncate_file(struct thread *t)
{
	unsigned int ram = below(t, 2 * NR_RAMS);
	uint64_t size, n;

	pthread_rwlock_unlock(&all_lock);
	pthread_rwlock_wrlock(&all_lock);
	if (ram < NR_RAMS) {
		size = RAM_PAGES - below(t, RAM_PAGES / 8);
		did(t, "truncate file %u to %lu pages", ram, size);
		VSWAP_OK(ftruncate(rams[ram].fd, size * PAGE));
		VSWAP_OK(ftruncate(rams[ram].fd, RAM_PAGES * PAGE));
		memset(page_model(ram, size), 0,
		       (RAM_PAGES - size) * SECTORS * sizeof(uint64_t));
	} else {
		n = BLOCKS * SECTORS - below(t, BLOCKS * SECTORS / 8);
		did(t, "truncate the image to %lu sectors", n);
		VSWAP_OK(ftruncate(t->direct, n * SECTOR));
		VSWAP_OK(ftruncate(t->direct, BLOCKS * PAGE));
		memset(&image_model[n], 0,
		       (BLOCKS * SECTORS - n) * sizeof(uint64_t));
	}
	pthread_rwlock_unlock(&all_lock);
	pthread_rwlock_rdlock(&all_lock);
}

static void reclaim_pages(struct thread *t)
{
	struct run r = pick_pages(t, MAX_PAGES);

	did(t, "reclaim %u pages at %u/%u", r.nr, r.ram, r.first);
	VSWAP_OK(madvise(page_mem(r.ram, r.first), r.nr * PAGE, MADV_PAGEOUT));
	check_pages(t, r.ram, r.first, r.nr);
}

static void check_some(struct thread *t)
{
	struct run r, blocks;
	unsigned int i;

	for (i = 0; i < 24; i++) {
		r = pick_pages(t, MAX_PAGES);
		check_pages(t, r.ram, r.first, r.nr);
	}
	blocks = pick_blocks(t, MAX_PAGES);
	check_blocks(t, blocks.first, blocks.nr);
}

static void open_image(struct thread *t)
{
	t->direct = vswap_image_open(&m, "image", O_RDWR | O_DIRECT);
	t->buffered = vswap_image_open(&m, "image", O_RDWR);
}

static void reopen_image(struct thread *t)
{
	did(t, "reopen");
	VSWAP_OK(fsync(t->direct));
	close(t->direct);
	close(t->buffered);
	open_image(t);
}

static const struct {
	void (*act)(struct thread *t);
	unsigned int weight;
} actions[] = {
	{ read_blocks, 24 },
	{ read_racing, 4 },
	{ write_pages, 16 },
	{ transfer_sectors, 6 },
	{ modify_pages, 14 },
	{ overwrite_blocks, 8 },
	{ punch_blocks, 4 },
	{ punch_pages, 5 },
	{ truncate_file, 1 },
	{ reclaim_pages, 14 },
	{ check_some, 20 },
	{ reopen_image, 1 },
};

static void *act(void *data)
{
	unsigned long next = PROGRESS;
	unsigned int i, n, sum = 0;
	struct thread *t = data;

	for (i = 0; i < ARRAY_SIZE(actions); i++)
		sum += actions[i].weight;

	while (atomic_load(&checks) < nr_checks) {
		n = below(t, sum);
		for (i = 0; n >= actions[i].weight; i++)
			n -= actions[i].weight;
		pthread_rwlock_rdlock(&all_lock);
		actions[i].act(t);
		pthread_rwlock_unlock(&all_lock);
		if (t == threads && atomic_load(&checks) >= next) {
			ksft_print_msg("%lu compared\n", next);
			next += PROGRESS;
		}
	}
	return NULL;
}

/* Reclaims whatever there is, as a host does that is short of memory. */
static void *reclaim(void *data)
{
	struct thread *t = data;
	unsigned int ram, first, nr;

	while (!atomic_load(&stop)) {
		ram = below(t, NR_RAMS);
		first = below(t, RAM_PAGES);
		nr = 1 + below(t, RAM_PAGES - first);
		if (nr > 256)
			nr = 256;
		if (one_in(t, 16))
			vswap_drain_lru();
		pthread_rwlock_rdlock(&all_lock);
		VSWAP_OK(madvise(page_mem(ram, first), nr * PAGE, MADV_PAGEOUT));
		pthread_rwlock_unlock(&all_lock);
		usleep(2000);
	}
	return NULL;
}

/* Deal out pages or blocks in runs. */
static void deal(unsigned int ram, unsigned int nr, uint64_t *random, bool pages)
{
	static const unsigned int sizes[] = { 1, 1, 1, 2, 3, 4, 8, 16, 33 };
	unsigned int first, n;

	for (first = 0; first < nr; first += n) {
		struct thread *t = &threads[(next_random(random) >> 20) % nr_threads];
		struct run **runs = pages ? &t->pages : &t->blocks;
		unsigned int *count = pages ? &t->nr_pages : &t->nr_blocks;

		n = sizes[(next_random(random) >> 20) % ARRAY_SIZE(sizes)];
		if (n > nr - first)
			n = nr - first;
		*runs = realloc(*runs, (*count + 1) * sizeof(**runs));
		(*runs)[(*count)++] = (struct run) { ram, first, n };
	}
}

/* As if memory had been ample until now: it is in huge pages, if there are any. */
static void begin_huge(struct vswap_ram *ram)
{
	uint64_t i;

	vswap_set_parameter("vswap_always", 0);
	usleep(300000);
	madvise(ram->mem, ram->pages * PAGE, MADV_HUGEPAGE);
	for (i = 0; i < ram->pages; i += 512)
		WRITE_ONCE(*vswap_page(ram, i), 0);
	ksft_print_msg("%llu pages in memory\n", vswap_stats(ram).resident);
	vswap_set_parameter("vswap_always", 1);
	usleep(300000);
}

static void run_threads(void)
{
	struct kvm_vswap_stats s, sum = {};
	pthread_rwlockattr_t attr;
	uint64_t random = seed * 2 + 1;
	unsigned int i;

	/* All begins as zeroes. */
	close(VSWAP_OK(open(vswap_path(m.lower, "image"), O_RDWR | O_CREAT, 0600)));
	VSWAP_OK(truncate(vswap_path(m.lower, "image"), BLOCKS * PAGE));
	vswap_ram_create(&m, "ram-0", RAM_PAGES, &rams[0]);
	vswap_ram_create(&m, "ram-1", RAM_PAGES, &rams[1]);
	begin_huge(&rams[1]);
	pthread_rwlockattr_init(&attr);
	pthread_rwlockattr_setkind_np(&attr,
				      PTHREAD_RWLOCK_PREFER_WRITER_NONRECURSIVE_NP);
	pthread_rwlock_init(&all_lock, &attr);
	for (i = 0; i < BLOCKS; i++)
		pthread_rwlock_init(&block_locks[i], NULL);
	deal(0, RAM_PAGES, &random, true);
	deal(1, RAM_PAGES, &random, true);
	deal(0, BLOCKS, &random, false);

	for (i = 0; i <= nr_threads; i++) {
		struct thread *t = &threads[i];

		t->id = i;
		t->random = next_random(&random);
		t->buf = vswap_buffer(MAX_PAGES);
		open_image(t);
	}
	for (i = 0; i < nr_threads; i++)
		TEST_ASSERT(!pthread_create(&threads[i].thread, NULL, act,
					    &threads[i]), "no thread");
	TEST_ASSERT(!pthread_create(&threads[i].thread, NULL, reclaim,
				    &threads[i]), "no thread");
	for (i = 0; i < nr_threads; i++)
		pthread_join(threads[i].thread, NULL);
	atomic_store(&stop, true);
	pthread_join(threads[i].thread, NULL);

	/* All of it, whoever it belongs to, after the last of it is gone. */
	for (i = 0; i < NR_RAMS; i++) {
		vswap_try_pageout(&rams[i], 0, RAM_PAGES);
		check_pages(&threads[0], i, 0, RAM_PAGES);
	}
	for (i = 0; i < BLOCKS; i += MAX_PAGES)
		check_blocks(&threads[0], i, MAX_PAGES);

	for (i = 0; i < NR_RAMS; i++) {
		s = vswap_stats(&rams[i]);
		ksft_print_msg("file %u: aliased %llu by read, %llu by write\n", i,
			       s.aliased_by_read, s.aliased_by_write);
		ksft_print_msg("refaults %llu of %llu pages, swap faults %llu\n",
			       s.refaults, s.refault_pages, s.swap_faults);
		ksft_print_msg("broken %llu by memory, %llu by blocks, avoided %llu\n",
			       s.broken_by_guest, s.broken_by_write,
			       s.stale_reads_avoided);
		ksft_print_msg("skipped %llu conflict, %llu changed, %llu busy\n",
			       s.skipped_conflict, s.skipped_changed,
			       s.skipped_busy);
		TEST_ASSERT_EQ(s.io_errors, 0);
		sum.aliased_by_read += s.aliased_by_read;
		sum.aliased_by_write += s.aliased_by_write;
		sum.refault_pages += s.refault_pages;
		sum.broken_by_guest += s.broken_by_guest;
		sum.broken_by_write += s.broken_by_write;
		sum.swap_faults += s.swap_faults;
		sum.stale_reads_avoided += s.stale_reads_avoided;
	}
	/* A test in which nothing of that happened has tested nothing. */
	TEST_ASSERT(sum.aliased_by_read > nr_checks / 300, "few aliases by reads");
	TEST_ASSERT(sum.aliased_by_write > nr_checks / 3000,
		    "few aliases by writes");
	TEST_ASSERT(sum.refault_pages > nr_checks / 3000, "few refaults");
	TEST_ASSERT(sum.broken_by_guest > nr_checks / 3000,
		    "few aliases were written to");
	TEST_ASSERT(sum.broken_by_write > nr_checks / 3000,
		    "few blocks with aliases changed");
	if (vswap_has_swap()) {
		TEST_ASSERT(sum.swap_faults > nr_checks / 3000, "little swapping");
		TEST_ASSERT(sum.stale_reads_avoided > nr_checks / 3000,
			    "few reads over swapped out pages");
	}
	for (i = 0; i <= nr_threads; i++) {
		close(threads[i].direct);
		close(threads[i].buffered);
	}
	ksft_test_result_pass("stress: %lu pages and blocks compared\n",
			      atomic_load(&checks));
}

/* ------------------------------------------------------ image and file */

#define FSX_SIZE	(600 * PAGE)

/* The same on an image and on a file below, with the same result. */
static void compare_files(void)
{
	static const int modes[] = {
		FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_ZERO_RANGE,
		FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE,
		FALLOC_FL_KEEP_SIZE,
		0,
		FALLOC_FL_PUNCH_HOLE,
	};
	struct thread *t = &threads[0];
	char *plain_buf = vswap_buffer(FSX_SIZE / PAGE + 1), *buf;
	char *image_buf = vswap_buffer(FSX_SIZE / PAGE + 1);
	int image[2], plain[2], align, kind, i, mode;
	unsigned long n, done[8] = {};
	struct vswap_ram ram;
	struct stat st[2];
	off_t pos, len;

	t->random = seed * 2 + 3;
	vswap_ram_create(&m, "fsx", FSX_SIZE / PAGE + 1, &ram);
	close(VSWAP_OK(open(vswap_path(m.lower, "a"), O_RDWR | O_CREAT, 0600)));
	for (i = 0; i < 2; i++) {
		int flags = O_RDWR | (i ? O_DIRECT : 0);

		image[i] = vswap_image_open(&m, "a", flags);
		plain[i] = VSWAP_OK(open(vswap_path(m.lower, "b"), flags | O_CREAT,
					 0600));
	}

	for (n = 0; n < nr_fsx; n++) {
		bool direct = one_in(t, 2);
		ssize_t ret[2];
		int error[2];

		align = direct ? one_in(t, 3) ? SECTOR : PAGE : 1;
		pos = below(t, FSX_SIZE) / align * align;
		len = below(t, one_in(t, 4) ? FSX_SIZE - pos :
				16 * PAGE < FSX_SIZE - pos ? 16 * PAGE :
				FSX_SIZE - pos);
		len = len / align * align;
		/* Half of the time in a RAM file, elsewhere otherwise. */
		buf = one_in(t, 2) ? ram.mem : image_buf;
		buf += one_in(t, 3) && align < (int)PAGE ? align : 0;
		kind = below(t, 7);
		switch (kind) {
		case 0:
		case 1:
			memset(buf, 0x55, len);
			memset(plain_buf, 0x55, len);
			errno = 0;
			ret[0] = pread(image[direct], buf, len, pos);
			error[0] = errno;
			errno = 0;
			ret[1] = pread(plain[direct], plain_buf, len, pos);
			error[1] = errno;
			if (buf != image_buf)
				madvise(ram.mem, FSX_SIZE, MADV_PAGEOUT);
			/* Direct I/O may write beyond the end, too. */
			for (i = 0; i < ret[0]; i++)
				TEST_ASSERT(buf[i] == plain_buf[i],
					    "operation %lu: byte %ld is 0x%x, in the file 0x%x",
					    n, pos + i, buf[i], plain_buf[i]);
			atomic_fetch_add(&checks, len / PAGE);
			break;
		case 2:
		case 3:
			for (i = 0; i < len; i++)
				plain_buf[i] = (n * 31 + i) ^ i >> 8;
			/* Aliases of what is about to be overwritten, in part. */
			if (one_in(t, 2) && pread(image[1], ram.mem, 64 * PAGE,
						  pos / PAGE * PAGE) < 0)
				TEST_FAIL("read: %s", strerror(errno));
			memcpy(buf, plain_buf, len);
			errno = 0;
			ret[0] = pwrite(image[direct], buf, len, pos);
			error[0] = errno;
			errno = 0;
			ret[1] = pwrite(plain[direct], plain_buf, len, pos);
			error[1] = errno;
			break;
		case 4:
			errno = 0;
			ret[0] = ftruncate(image[0], pos);
			error[0] = errno;
			errno = 0;
			ret[1] = ftruncate(plain[0], pos);
			error[1] = errno;
			break;
		case 5:
			mode = modes[below(t, ARRAY_SIZE(modes))];
			errno = 0;
			ret[0] = fallocate(image[direct], mode, pos, len);
			error[0] = errno;
			errno = 0;
			ret[1] = fallocate(plain[direct], mode, pos, len);
			error[1] = errno;
			break;
		default:
			errno = 0;
			ret[0] = lseek(image[0], pos, one_in(t, 2) ? SEEK_END :
				       SEEK_SET);
			ret[1] = ret[0];
			error[0] = 0;
			error[1] = 0;
			VSWAP_OK(fdatasync(image[direct]));
		}
		done[kind]++;
		TEST_ASSERT(ret[0] == ret[1] && error[0] == error[1],
			    "operation %lu (%d at %ld, %ld): %zd (%s), of the file %zd (%s)",
			    n, kind, pos, len, ret[0], strerror(error[0]), ret[1],
			    strerror(error[1]));
		VSWAP_OK(fstat(image[0], &st[0]));
		VSWAP_OK(fstat(plain[0], &st[1]));
		TEST_ASSERT(st[0].st_size == st[1].st_size,
			    "operation %lu (%d at %ld, %ld): the size is %ld, that of the file %ld",
			    n, kind, pos, len, st[0].st_size, st[1].st_size);
	}

	/* As others see them. */
	i = VSWAP_OK(open(vswap_path(m.lower, "a"), O_RDONLY));
	TEST_ASSERT_EQ(pread(i, image_buf, FSX_SIZE, 0), st[0].st_size);
	TEST_ASSERT_EQ(pread(plain[0], plain_buf, FSX_SIZE, 0), st[0].st_size);
	TEST_ASSERT(!memcmp(image_buf, plain_buf, st[0].st_size),
		    "the image differs from the file at the end");
	for (kind = 0; kind < 6; kind++)
		TEST_ASSERT(done[kind] > nr_fsx / 20, "few operations %d", kind);
	TEST_ASSERT(vswap_stats(&ram).aliased_by_read &&
		    vswap_stats(&ram).broken_by_write, "there were no aliases");
	ksft_test_result_pass("fsx: %lu operations\n", n);
}

static unsigned long parse_number(const char *text)
{
	char *end;
	unsigned long n = strtoul(text, &end, 0);

	TEST_ASSERT(*text && !*end, "%s is not a number", text);
	return n;
}

int main(int argc, char *argv[])
{
	int opt;

	seed = time(NULL);
	while ((opt = getopt(argc, argv, "n:f:s:t:")) != -1) {
		switch (opt) {
		case 'n':
			nr_checks = parse_number(optarg);
			break;
		case 'f':
			nr_fsx = parse_number(optarg);
			break;
		case 's':
			seed = parse_number(optarg);
			break;
		case 't':
			nr_threads = parse_number(optarg);
			TEST_ASSERT(nr_threads && nr_threads <= MAX_THREADS,
				    "1 to %u threads", MAX_THREADS);
			break;
		default:
			fprintf(stderr, "usage: %s [-n checks] [-f count] [-s seed] [-t threads]\n",
				argv[0]);
			return KSFT_FAIL;
		}
	}
	vswap_require();
	setvbuf(stdout, NULL, _IOLBF, 0);
	ksft_print_header();
	ksft_set_plan(2);
	ksft_print_msg("%lu checks, %lu operations, %u threads, random numbers %lu\n",
		       nr_checks, nr_fsx, nr_threads, seed);
	vswap_mount_setup(&m);
	run_threads();
	compare_files();
	ksft_finished();
}
