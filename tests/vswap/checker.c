// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify, in a guest, that its memory and its disk have the content that they ought
 * to have:
 *
 *	checker run DIR CHECKS [SEED]	until so many pages have been compared, and
					there is no /tmp/go-on
 *	checker verify DIR		by lines that "run" printed
 *
 * One thread for each CPU has files in DIR and memory of its own, and knows what each
 * page of these is.  It reads and writes by the page cache, past it, and by mappings,
 * truncates, punches holes, trims the file system and drops caches.
 *
 * Now and then a file is written, synchronized, and reported, "durable NUMBER"; and
 * reported as "removed NUMBER" before it is removed.  What is durable and not removed
 * is there with its content after a crash, which "verify" verifies.  Lines that nobody
 * has read are lost with a crash: once /tmp/keep is there, "kept" is printed, and no
 * file is removed after that.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <pthread.h>
#include <sched.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define PAGE		4096ul
#define FILES		2u
#define FILE_PAGES	3072u
#define ARENA_PAGES	4096u
#define RUN		64u
#define THREADS		8u
#define DURABLE		8u

static const char *dir;
static uint64_t wanted;
static _Atomic uint64_t checks;
static _Atomic uint64_t next_seed = 1;
static _Atomic uint64_t next_durable = 1;
/* Protects kept; held from reporting a file as removed to its removal. */
static pthread_mutex_t removal = PTHREAD_MUTEX_INITIALIZER;
static bool kept;

struct thread {
	pthread_t thread;
	unsigned int id;
	uint64_t random;
	int cached[FILES];
	int direct[FILES];
	uint64_t file_model[FILES][FILE_PAGES];
	uint64_t arena_model[ARENA_PAGES];
	char *arena;
	char *buf;
	uint64_t durable[DURABLE];
	unsigned int nr_durable;
	uint64_t ops[16];
};

static void __attribute__((format(printf, 1, 2), noreturn)) die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	printf("checker: ");
	vprintf(fmt, args);
	printf("\n");
	fflush(stdout);
	_exit(1);
}

#define OK(call)								\
({										\
	__typeof__(call) __ret = (call);					\
										\
	if (__ret == (__typeof__(call))-1)					\
		die("%s: %s", #call, strerror(errno));				\
	__ret;									\
})

static uint64_t next_random(struct thread *t)
{
	t->random ^= t->random << 13;
	t->random ^= t->random >> 7;
	t->random ^= t->random << 17;
	return t->random >> 12;
}

static unsigned int below(struct thread *t, unsigned int n)
{
	return next_random(t) % n;
}

static uint64_t word(uint64_t seed, unsigned int i)
{
	return seed ? seed * 0x9e3779b97f4a7c15ull + i * 0x100000001b3ull : 0;
}

static void fill(char *page, uint64_t seed)
{
	uint64_t *p = (void *)page;
	unsigned int i;

	for (i = 0; i < PAGE / 8; i++)
		p[i] = word(seed, i);
}

static void check(const char *what, unsigned int id, unsigned int page,
		  const char *mem, uint64_t seed)
{
	const volatile uint64_t *p = (const void *)mem;
	unsigned int i;

	for (i = 0; i < PAGE / 8; i++) {
		uint64_t seen = p[i];

		if (seen != word(seed, i))
			die("MISMATCH: %s %u page %u word %u: 0x%lx, then 0x%lx, expected 0x%lx of %lu",
			    what, id, page, i, seen, p[i], word(seed, i), seed);
	}
	atomic_fetch_add(&checks, 1);
}

static void write_file(struct thread *t)
{
	unsigned int f = below(t, FILES), nr = 1 + below(t, RUN), i;
	unsigned int first = below(t, FILE_PAGES - nr);

	for (i = 0; i < nr; i++) {
		t->file_model[f][first + i] = atomic_fetch_add(&next_seed, 1);
		fill(t->buf + i * PAGE, t->file_model[f][first + i]);
	}
	if (OK(pwrite(below(t, 3) ? t->cached[f] : t->direct[f], t->buf, nr * PAGE,
		      first * PAGE)) != (ssize_t)(nr * PAGE))
		die("short write");
}

static void read_file(struct thread *t)
{
	unsigned int f = below(t, FILES), nr = 1 + below(t, RUN), i;
	unsigned int first = below(t, FILE_PAGES - nr);

	if (OK(pread(below(t, 4) ? t->cached[f] : t->direct[f], t->buf, nr * PAGE,
		     first * PAGE)) != (ssize_t)(nr * PAGE))
		die("short read");
	for (i = 0; i < nr; i++)
		check("file", t->id * FILES + f, first + i, t->buf + i * PAGE,
		      t->file_model[f][first + i]);
}

static void map_file(struct thread *t)
{
	unsigned int f = below(t, FILES), nr = 1 + below(t, RUN), i;
	unsigned int first = below(t, FILE_PAGES - nr);
	char *mem = OK(mmap(NULL, nr * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
			    t->cached[f], first * PAGE));

	for (i = 0; i < nr; i++) {
		check("mapping", t->id * FILES + f, first + i, mem + i * PAGE,
		      t->file_model[f][first + i]);
		if (below(t, 2))
			continue;
		t->file_model[f][first + i] = atomic_fetch_add(&next_seed, 1);
		fill(mem + i * PAGE, t->file_model[f][first + i]);
	}
	if (!below(t, 4))
		OK(msync(mem, nr * PAGE, MS_SYNC));
	OK(munmap(mem, nr * PAGE));
}

static void write_arena(struct thread *t)
{
	unsigned int nr = 1 + below(t, RUN), first = below(t, ARENA_PAGES - nr), i;
	bool drop = !below(t, 8);

	if (drop)
		OK(madvise(t->arena + first * PAGE, nr * PAGE, MADV_DONTNEED));
	for (i = first; i < first + nr; i++) {
		t->arena_model[i] = drop ? 0 : atomic_fetch_add(&next_seed, 1);
		if (!drop)
			fill(t->arena + i * PAGE, t->arena_model[i]);
	}
}

static void check_arena(struct thread *t)
{
	unsigned int nr = 1 + below(t, 4 * RUN);
	unsigned int first = below(t, ARENA_PAGES - nr), i;

	for (i = first; i < first + nr; i++)
		check("memory", t->id, i, t->arena + i * PAGE, t->arena_model[i]);
}

/* Between disk, page cache and memory, as programs do. */
static void copy_to_arena(struct thread *t)
{
	unsigned int f = below(t, FILES), nr = 1 + below(t, RUN);
	unsigned int first = below(t, FILE_PAGES - nr);
	unsigned int to = below(t, ARENA_PAGES - nr);

	if (OK(pread(t->direct[f], t->arena + to * PAGE, nr * PAGE,
		     first * PAGE)) != (ssize_t)(nr * PAGE))
		die("short read");
	memcpy(&t->arena_model[to], &t->file_model[f][first], nr * sizeof(uint64_t));
}

static void copy_to_file(struct thread *t)
{
	unsigned int f = below(t, FILES), nr = 1 + below(t, RUN);
	unsigned int first = below(t, FILE_PAGES - nr);
	unsigned int from = below(t, ARENA_PAGES - nr);

	if (OK(pwrite(t->direct[f], t->arena + from * PAGE, nr * PAGE,
		      first * PAGE)) != (ssize_t)(nr * PAGE))
		die("short write");
	memcpy(&t->file_model[f][first], &t->arena_model[from],
	       nr * sizeof(uint64_t));
}

static void drop(struct thread *t)
{
	unsigned int f = below(t, FILES);
	int fd;

	OK(fdatasync(t->cached[f]));
	posix_fadvise(t->cached[f], 0, 0, POSIX_FADV_DONTNEED);
	if (below(t, 8))
		return;
	fd = open("/proc/sys/vm/drop_caches", O_WRONLY);
	if (fd >= 0) {
		OK(write(fd, "3", 1));
		close(fd);
	}
}

static void shrink(struct thread *t)
{
	unsigned int f = below(t, FILES), i;
	unsigned int size = FILE_PAGES - below(t, FILE_PAGES / 4);

	OK(ftruncate(t->cached[f], size * PAGE));
	OK(ftruncate(t->cached[f], FILE_PAGES * PAGE));
	for (i = size; i < FILE_PAGES; i++)
		t->file_model[f][i] = 0;
}

static void punch(struct thread *t)
{
	unsigned int f = below(t, FILES), nr = 1 + below(t, RUN), i;
	unsigned int first = below(t, FILE_PAGES - nr);

	OK(fallocate(t->cached[f], FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
		     first * PAGE, nr * PAGE));
	for (i = first; i < first + nr; i++)
		t->file_model[f][i] = 0;
}

static void trim(struct thread *t)
{
	struct fstrim_range range = { .len = ~0ull };

	(void)t;
	if (!below(t, 2))
		return;
	int fd = OK(open(dir, O_RDONLY));

	if (ioctl(fd, FITRIM, &range) && errno != EOPNOTSUPP && errno != ENOTTY)
		die("FITRIM: %s", strerror(errno));
	close(fd);
}

static unsigned int durable_pages(uint64_t number)
{
	return 1 + number * 7919 % RUN;
}

static uint64_t durable_seed(uint64_t number, unsigned int page)
{
	return (number << 20 | page) + (1ull << 50);
}

static void make_durable(struct thread *t)
{
	uint64_t number = atomic_fetch_add(&next_durable, 1);
	unsigned int nr = durable_pages(number), i, k;
	char path[4096];
	int fd, d;

	k = t->nr_durable++ % DURABLE;
	if (t->durable[k]) {
		pthread_mutex_lock(&removal);
		if (!kept) {
			printf("removed %lu\n", t->durable[k]);
			fflush(stdout);
			snprintf(path, sizeof(path), "%s/d-%lu", dir,
				 t->durable[k]);
			OK(unlink(path));
			t->durable[k] = 0;
		}
		pthread_mutex_unlock(&removal);
		if (t->durable[k])
			return;
	}
	snprintf(path, sizeof(path), "%s/d-%lu", dir, number);
	fd = OK(open(path, O_RDWR | O_CREAT | O_TRUNC |
		     (number % 2 ? O_DIRECT : 0), 0600));
	for (i = 0; i < nr; i++)
		fill(t->buf + i * PAGE, durable_seed(number, i));
	if (OK(pwrite(fd, t->buf, nr * PAGE, 0)) != (ssize_t)(nr * PAGE))
		die("short write");
	OK(fsync(fd));
	close(fd);
	d = OK(open(dir, O_RDONLY));
	OK(fsync(d));
	close(d);
	printf("durable %lu\n", number);
	fflush(stdout);
	t->durable[k] = number;
}

static const struct {
	void (*act)(struct thread *t);
	unsigned int weight;
} actions[] = {
	{ write_file, 12 }, { read_file, 30 }, { map_file, 8 }, { write_arena, 8 },
	{ check_arena, 20 }, { copy_to_arena, 8 }, { copy_to_file, 6 }, { drop, 4 },
	{ shrink, 1 }, { punch, 2 }, { trim, 1 }, { make_durable, 3 },
};

#define ACTIONS (sizeof(actions) / sizeof(actions[0]))

static void *act(void *data)
{
	unsigned int sum = 0, i, n;
	struct thread *t = data;

	for (i = 0; i < ACTIONS; i++)
		sum += actions[i].weight;
	while (atomic_load(&checks) < wanted || !access("/tmp/go-on", F_OK)) {
		n = below(t, sum);
		for (i = 0; n >= actions[i].weight; i++)
			n -= actions[i].weight;
		actions[i].act(t);
		t->ops[i]++;
	}
	return NULL;
}

static void *tell(void *data)
{
	(void)data;
	for (;;) {
		sleep(2);
		if (!kept && !access("/tmp/keep", F_OK)) {
			pthread_mutex_lock(&removal);
			kept = true;
			pthread_mutex_unlock(&removal);
			printf("kept\n");
		}
		printf("progress %lu\n", atomic_load(&checks));
		fflush(stdout);
	}
	return NULL;
}

static int run(uint64_t seed)
{
	unsigned int nr = sysconf(_SC_NPROCESSORS_ONLN), i, f, k;
	struct thread *threads;
	char path[4096];
	pthread_t teller;

	if (nr < 2)
		nr = 2;
	if (nr > THREADS)
		nr = THREADS;
	threads = calloc(nr, sizeof(*threads));
	for (i = 0; i < nr; i++) {
		struct thread *t = &threads[i];

		t->id = i;
		t->random = seed * 1000003 + i + 1;
		for (k = 0; k < 8; k++)
			next_random(t);
		t->arena = OK(mmap(NULL, ARENA_PAGES * PAGE, PROT_READ | PROT_WRITE,
				   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		t->buf = OK(mmap(NULL, RUN * PAGE, PROT_READ | PROT_WRITE,
				 MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
		for (f = 0; f < FILES; f++) {
			snprintf(path, sizeof(path), "%s/f-%u-%u", dir, i, f);
			t->cached[f] = OK(open(path, O_RDWR | O_CREAT | O_TRUNC,
					       0600));
			t->direct[f] = OK(open(path, O_RDWR | O_DIRECT));
			OK(ftruncate(t->cached[f], FILE_PAGES * PAGE));
		}
	}
	/* Not to be taken for those of an earlier run. */
	next_durable = (seed & 0xffff) << 20 | 1;
	for (i = 0; i < nr; i++)
		pthread_create(&threads[i].thread, NULL, act, &threads[i]);
	pthread_create(&teller, NULL, tell, NULL);
	for (i = 0; i < nr; i++)
		pthread_join(threads[i].thread, NULL);
	for (k = 0; k < ACTIONS; k++) {
		for (f = 0, i = 0; i < nr; i++)
			f += threads[i].ops[k];
		printf("%s%u", k ? " " : "operations ", f);
	}
	printf("\nchecks %lu\n", atomic_load(&checks));
	return 0;
}

/* Lines of one or more runs, on standard input. */
static int verify(void)
{
	static char line[256], page[PAGE] __attribute__((aligned(4096)));
	uint64_t *numbers = NULL, number;
	unsigned int nr = 0, i, k;
	char path[4096];
	int fd;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "durable %lu\n", &number) == 1 &&
		    strchr(line, '\n')) {
			numbers = realloc(numbers, (nr + 1) * sizeof(*numbers));
			numbers[nr++] = number;
		} else if (sscanf(line, "removed %lu", &number) == 1) {
			for (i = 0; i < nr; i++) {
				if (numbers[i] == number)
					numbers[i] = 0;
			}
		}
	}
	for (i = 0; i < nr; i++) {
		if (!numbers[i])
			continue;
		snprintf(path, sizeof(path), "%s/d-%lu", dir, numbers[i]);
		fd = open(path, O_RDONLY);
		if (fd < 0)
			die("%s was durable: %s", path, strerror(errno));
		for (k = 0; k < durable_pages(numbers[i]); k++) {
			if (OK(pread(fd, page, PAGE, k * PAGE)) != (ssize_t)PAGE)
				die("%s was durable, and is short", path);
			check("durable", numbers[i], k, page,
			      durable_seed(numbers[i], k));
		}
		close(fd);
	}
	printf("durable pages %lu\n", atomic_load(&checks));
	return 0;
}

int main(int argc, char **argv)
{
	if (argc >= 3)
		dir = argv[2];
	if (argc >= 4 && !strcmp(argv[1], "run")) {
		wanted = strtoul(argv[3], NULL, 0);
		return run(argc > 4 ? strtoul(argv[4], NULL, 0) : 1);
	}
	if (argc == 3 && !strcmp(argv[1], "verify"))
		return verify();
	fprintf(stderr, "usage: checker run DIR CHECKS [SEED] | verify DIR\n");
	return 2;
}
