// SPDX-License-Identifier: GPL-2.0-only
/*
 * What benchmarks of swapping run in guests:
 *
 *	memhog touch MIB	allocate memory and write to each page of it
 *	memhog phases MIB N	N times: build an index of MIB in memory from the
 *				standard input's data, walk it, and free it
 *
 * Prints seconds by the guest's clock.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static char *allocate(unsigned long size)
{
	char *p = mmap(NULL, size, PROT_READ | PROT_WRITE,
		       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED) {
		perror("mmap");
		exit(1);
	}
	return p;
}

static void touch(unsigned long size)
{
	char *p = allocate(size);
	unsigned long i;

	for (i = 0; i < size; i += PAGE)
		p[i] = 1 + i / PAGE % 255;
}

/*
 * Like the map and the reduce phase of a count: data passes by as page cache,
 * while a table in memory grows; then the table is read at random.
 */
static uint64_t phase(int fd, unsigned long size)
{
	uint64_t *table = (uint64_t *)allocate(size);
	unsigned long n = size / sizeof(*table), i;
	static uint64_t buf[32768];
	uint64_t sum = 0, key = 1;
	ssize_t len;

	if (lseek(fd, 0, SEEK_SET) < 0) {
		perror("lseek");
		exit(1);
	}
	while ((len = read(fd, buf, sizeof(buf))) > 0) {
		for (i = 0; i < len / sizeof(*buf); i += 16)
			table[buf[i] % n] += buf[i];
	}
	if (len < 0) {
		perror("read");
		exit(1);
	}
	for (i = 0; i < n / 64; i++) {
		key = key * 6364136223846793005ULL + 1442695040888963407ULL;
		sum += table[(key >> 20) % n];
	}
	munmap(table, size);
	return sum;
}

int main(int argc, char **argv)
{
	unsigned long size = argc > 2 ? strtoul(argv[2], NULL, 0) << 20 : 0;
	double start = now();
	uint64_t sum = 0;
	int n;

	if (argc == 3 && !strcmp(argv[1], "touch") && size) {
		touch(size);
	} else if (argc == 4 && !strcmp(argv[1], "phases") && size) {
		for (n = atoi(argv[3]); n > 0; n--)
			sum += phase(0, size);
	} else {
		fprintf(stderr, "usage: memhog touch MIB | phases MIB N\n");
		return 2;
	}
	printf("%.3f %llx\n", now() - start, (unsigned long long)sum);
	return 0;
}
