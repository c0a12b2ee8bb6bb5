// SPDX-License-Identifier: GPL-2.0-only
/*
 * Tell what VSwapper does with the memory of VMs, see vswap(8).
 *
 * RAM files of kvm_vswap are found as files that processes have open, so that those
 * are found as well which have no name any more, in whatever mount.
 */
#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <linux/kvm_vswap.h>

#define VERSION "1"

/* All of them, in the order in which they are printed as JSON. */
static const struct field {
	const char *name;
	size_t offset;
	/* A level, which can go down. */
	bool gauge;
	const char *help;
} fields[] = {
#define FIELD(name, gauge, help) \
	{ #name, offsetof(struct kvm_vswap_stats, name), gauge, help }
	FIELD(pages, true, "Size of the RAM file in pages"),
	FIELD(resident, true, "Pages in memory"),
	FIELD(swapped, true, "Pages in the swap of the host"),
	FIELD(aliases, true, "Pages that equal a block of an image"),
	FIELD(aliases_resident, true, "Aliases in memory"),
	FIELD(metadata_bytes, true, "Memory that knowing aliases takes"),
	FIELD(aliased_by_read, false, "Pages that became aliases when an image was read"),
	FIELD(aliased_by_write, false, "Pages that became aliases when an image was written"),
	FIELD(stale_reads_avoided, false, "Absent pages replaced by a read of an image"),
	FIELD(false_reads_avoided, false, "Absent pages that the guest overwrote as a whole"),
	FIELD(refaults, false, "Faults on dropped aliases"),
	FIELD(refault_pages, false, "Pages read from images by faults and ahead of them"),
	FIELD(readahead_pages, false, "Pages of these read ahead"),
	FIELD(cached_reads, false, "Reads for aliases that were not direct"),
	FIELD(swap_faults, false, "Faults on pages in swap"),
	FIELD(broken_by_guest, false, "Aliases that the guest wrote to"),
	FIELD(broken_by_write, false, "Aliases whose block changed"),
	FIELD(skipped_pinned, false, "Pages not aliased as they were pinned"),
	FIELD(skipped_conflict, false, "Pages not aliased as their block was written"),
	FIELD(skipped_shared, false, "Pages not aliased as their block has too many aliases"),
	FIELD(skipped_changed, false, "Pages not aliased as they were written to"),
	FIELD(skipped_busy, false, "Pages not aliased as they were in use"),
	FIELD(io_errors, false, "Failed reads on behalf of aliases"),
	FIELD(buffered_pages, false, "Absent pages that the guest wrote to in part"),
	FIELD(buffered_writes, false, "Emulated writes to these"),
	FIELD(buffer_merges, false, "Pages of these that had to be read"),
	FIELD(skipped_ample, false, "Pages not aliased as memory is ample"),
#undef FIELD
};

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define NR_FIELDS ARRAY_SIZE(fields)

struct vm {
	pid_t pid;
	char comm[32];
	/* As the process has it, "(deleted)" included. */
	char path[PATH_MAX];
	dev_t dev;
	ino_t ino;
	int fd;
	struct kvm_vswap_stats stats;
	struct kvm_vswap_stats before;
	bool fresh;
	bool gone;
};

static struct vm *vms;
static size_t nr_vms;

/* To sum up and sort by. */
static uint64_t page_size;
static bool quiet_errors;
static int denied;

static void __attribute__((format(printf, 1, 2), noreturn)) die(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	fprintf(stderr, "vswap: ");
	vfprintf(stderr, fmt, args);
	fprintf(stderr, "\n");
	va_end(args);
	exit(1);
}

static uint64_t value_of(const struct kvm_vswap_stats *stats, const struct field *f)
{
	return *(const uint64_t *)((const char *)stats + f->offset);
}

static bool get_stats(int fd, struct kvm_vswap_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	return !ioctl(fd, KVM_VSWAP_GET_STATS, stats);
}

/* A descriptor of a RAM file, if it is one; closed on exec. */
static int open_ram(const char *path, struct stat *st)
{
	struct kvm_vswap_stats stats;
	struct statfs fs;
	int fd;

	/* Nothing else is opened: that may wait, or have an effect. */
	if (statfs(path, &fs) || fs.f_type != KVM_VSWAP_MAGIC ||
	    stat(path, st) || !S_ISREG(st->st_mode))
		return -1;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0) {
		denied += errno == EACCES || errno == EPERM;
		return -1;
	}
	/* Images are no RAM files. */
	if (!get_stats(fd, &stats)) {
		close(fd);
		return -1;
	}
	return fd;
}

static void read_comm(pid_t pid, char *comm, size_t size)
{
	char path[64];
	FILE *f;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	f = fopen(path, "re");
	if (!f || !fgets(comm, size, f))
		snprintf(comm, size, "?");
	if (f)
		fclose(f);
	comm[strcspn(comm, "\n")] = '\0';
}

static void add_vm(pid_t pid, const char *path, int fd, const struct stat *st)
{
	ssize_t len = 0;
	struct vm *vm;
	size_t i;

	/* Of those that have it open, e.g. by inheritance, the first is told. */
	for (i = 0; i < nr_vms; i++) {
		if (vms[i].dev == st->st_dev && vms[i].ino == st->st_ino) {
			vms[i].gone = false;
			close(fd);
			return;
		}
	}
	vms = realloc(vms, (nr_vms + 1) * sizeof(*vms));
	if (!vms)
		die("out of memory");
	vm = &vms[nr_vms++];
	memset(vm, 0, sizeof(*vm));
	vm->pid = pid;
	vm->fd = fd;
	vm->dev = st->st_dev;
	vm->ino = st->st_ino;
	vm->fresh = true;
	if (pid) {
		read_comm(pid, vm->comm, sizeof(vm->comm));
		len = readlink(path, vm->path, sizeof(vm->path) - 1);
	} else {
		snprintf(vm->comm, sizeof(vm->comm), "-");
	}
	if (len <= 0)
		snprintf(vm->path, sizeof(vm->path), "%s", path);
}

static int compare_vms(const void *a, const void *b)
{
	const struct vm *x = a, *y = b;

	if (x->pid != y->pid)
		return x->pid < y->pid ? -1 : 1;
	return strcmp(x->path, y->path);
}

/* The RAM files that a process has open; false if there is no such process. */
static bool scan_process(pid_t pid)
{
	char path[PATH_MAX];
	struct dirent *entry;
	struct stat st;
	DIR *dir;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fd", pid);
	dir = opendir(path);
	if (!dir) {
		denied += errno == EACCES;
		return errno == EACCES;
	}
	while ((entry = readdir(dir))) {
		if (!isdigit((unsigned char)entry->d_name[0]))
			continue;
		snprintf(path, sizeof(path), "/proc/%d/fd/%s", pid,
			 entry->d_name);
		fd = open_ram(path, &st);
		if (fd >= 0)
			add_vm(pid, path, fd, &st);
	}
	closedir(dir);
	return true;
}

static void scan_all(void)
{
	struct dirent *entry;
	DIR *dir = opendir("/proc");

	if (!dir)
		die("/proc: %s", strerror(errno));
	while ((entry = readdir(dir))) {
		pid_t pid = atoi(entry->d_name);

		/* Not what is held here. */
		if (pid > 0 && pid != getpid())
			scan_process(pid);
	}
	closedir(dir);
}

static bool is_number(const char *text)
{
	return *text && strspn(text, "0123456789") == strlen(text);
}

/* What arguments name, or all. */
static void scan(char **args, bool first)
{
	struct stat st;
	size_t i, k;
	int fd;

	for (i = 0; i < nr_vms; i++)
		vms[i].gone = true;
	if (!*args)
		scan_all();
	for (; *args; args++) {
		if (is_number(*args)) {
			k = nr_vms;
			if (!scan_process(atoi(*args)) && first)
				die("%s: no such process", *args);
			if (first && k == nr_vms && !denied)
				die("%s: the process has no RAM file open", *args);
			continue;
		}
		/* Opened once: the name may go, the file stays. */
		if (!first) {
			for (i = 0; i < nr_vms; i++)
				vms[i].gone &= vms[i].pid != 0;
			continue;
		}
		fd = open_ram(*args, &st);
		if (fd < 0 && access(*args, F_OK))
			die("%s: %s", *args, strerror(errno));
		if (fd < 0 && denied)
			die("%s: %s", *args, strerror(EACCES));
		if (fd < 0)
			die("%s: not a RAM file of kvm_vswap", *args);
		add_vm(0, *args, fd, &st);
	}

	for (i = 0, k = 0; i < nr_vms; i++) {
		struct vm *vm = &vms[i];

		if (!vm->gone) {
			vm->before = vm->stats;
			if (!get_stats(vm->fd, &vm->stats))
				vm->gone = true;
		}
		if (vm->gone) {
			close(vm->fd);
			continue;
		}
		vms[k++] = *vm;
	}
	nr_vms = k;
	if (nr_vms)
		qsort(vms, nr_vms, sizeof(*vms), compare_vms);
	if (denied && first && !quiet_errors)
		fprintf(stderr, "vswap: not all processes may be looked at; try as root\n");
}

/* ------------------------------------------------------------- output */

/* Without what a terminal would act upon: anybody can name a process. */
static const char *printable(const char *text, char *buf, size_t size)
{
	size_t i;

	for (i = 0; i + 1 < size && text[i]; i++)
		buf[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
	buf[i] = '\0';
	return buf;
}

/* In five characters or less: 4.2M, 317M, 12G. */
static const char *human(uint64_t bytes, char *buf, size_t size)
{
	static const char units[] = "BKMGTPE";
	double value = bytes;
	unsigned int i = 0;

	for (; value >= 999.5 && units[i + 1]; i++)
		value /= 1024;
	snprintf(buf, size, i && value < 9.95 ? "%.1f%c" : "%.0f%c", value, units[i]);
	return buf;
}

/* Lines of text: levels in bytes, and events a second, or in all at first. */
static void print_header(void)
{
	printf("%7s %-15s %5s %5s %5s %5s %5s %5s %7s %7s %7s %7s %7s %7s %6s\n",
	       "pid", "command", "size", "res", "swap", "alias", "drop", "meta",
	       "refault", "r-pages", "swap-in", "avoided", "broken", "skipped",
	       "errors");
}

static uint64_t skipped(const struct kvm_vswap_stats *s)
{
	return s->skipped_pinned + s->skipped_conflict + s->skipped_shared +
	       s->skipped_changed + s->skipped_busy;
}

static uint64_t avoided(const struct kvm_vswap_stats *s)
{
	return s->stale_reads_avoided + s->false_reads_avoided;
}

static uint64_t broken(const struct kvm_vswap_stats *s)
{
	return s->broken_by_guest + s->broken_by_write;
}

static uint64_t rate(uint64_t now, uint64_t before, double seconds)
{
	return seconds ? (now - before) / seconds + 0.5 : now;
}

static void print_vm(const struct vm *vm, double seconds)
{
	const struct kvm_vswap_stats *s = &vm->stats, *b = &vm->before;
	char text[6][16], comm[sizeof(vm->comm)];

	/* What began meanwhile has counted from then on. */
	printf("%7d %-15.15s %5s %5s %5s %5s %5s %5s %7" PRIu64 " %7" PRIu64
	       " %7" PRIu64 " %7" PRIu64 " %7" PRIu64 " %7" PRIu64 " %6" PRIu64 "\n",
	       vm->pid, printable(vm->comm, comm, sizeof(comm)),
	       human(s->pages * page_size, text[0], sizeof(text[0])),
	       human(s->resident * page_size, text[1], sizeof(text[1])),
	       human(s->swapped * page_size, text[2], sizeof(text[2])),
	       human(s->aliases * page_size, text[3], sizeof(text[3])),
	       human((s->aliases - s->aliases_resident) * page_size, text[4],
		     sizeof(text[4])),
	       human(s->metadata_bytes, text[5], sizeof(text[5])),
	       rate(s->refaults, b->refaults, seconds),
	       rate(s->refault_pages, b->refault_pages, seconds),
	       rate(s->swap_faults, b->swap_faults, seconds),
	       rate(avoided(s), avoided(b), seconds),
	       rate(broken(s), broken(b), seconds),
	       rate(skipped(s), skipped(b), seconds),
	       rate(s->io_errors, b->io_errors, seconds));
}

/* As text of JSON or of Prometheus, which escape the same. */
static void print_escaped(const char *text)
{
	for (; *text; text++) {
		unsigned char c = *text;

		if (c == '"' || c == '\\')
			printf("\\%c", c);
		else if (c == '\n')
			printf("\\n");
		else if (c < ' ')
			printf("\\u%04x", c);
		else
			putchar(c);
	}
}

static void print_json(void)
{
	size_t i, k;

	/* One object a line, so that lines can be read one after the other. */
	printf("{\"time\": %ld, \"page_size\": %" PRIu64 ", \"vms\": [",
	       (long)time(NULL), page_size);
	for (i = 0; i < nr_vms; i++) {
		printf("%s{\"pid\": %d, \"command\": \"", i ? ", " : "", vms[i].pid);
		print_escaped(vms[i].comm);
		printf("\", \"file\": \"");
		print_escaped(vms[i].path);
		printf("\"");
		for (k = 0; k < NR_FIELDS; k++)
			printf(", \"%s\": %" PRIu64, fields[k].name,
			       value_of(&vms[i].stats, &fields[k]));
		printf("}");
	}
	printf("]}\n");
}

static void print_prometheus(void)
{
	size_t i, k;

	for (k = 0; k < NR_FIELDS; k++) {
		const char *suffix = fields[k].gauge ? "" : "_total";

		printf("# HELP kvm_vswap_%s%s %s.\n", fields[k].name, suffix,
		       fields[k].help);
		printf("# TYPE kvm_vswap_%s%s %s\n", fields[k].name, suffix,
		       fields[k].gauge ? "gauge" : "counter");
		for (i = 0; i < nr_vms; i++) {
			printf("kvm_vswap_%s%s{pid=\"%d\",command=\"",
			       fields[k].name, suffix, vms[i].pid);
			print_escaped(vms[i].comm);
			printf("\",file=\"");
			print_escaped(vms[i].path);
			printf("\"} %" PRIu64 "\n",
			       value_of(&vms[i].stats, &fields[k]));
		}
	}
}

/* ------------------------------------------------------------- commands */

/* Signals that end it are blocked, and waited for. */
static sigset_t end_signals;

static double now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

/* Returns false if it is to end. */
static bool wait_for(double seconds)
{
	struct timespec ts = {
		.tv_sec = seconds,
		.tv_nsec = (seconds - (long)seconds) * 1e9,
	};
	int ret;

	do {
		ret = sigtimedwait(&end_signals, NULL, &ts);
	} while (ret < 0 && errno == EINTR);
	return ret < 0;
}

static double parse_seconds(const char *text)
{
	char *tail;
	double value = strtod(text, &tail);

	if (!*text || *tail || !(value >= 0.01 && value <= 86400))
		die("-i %s: expected seconds, 0.01 to 86400", text);
	return value;
}

static unsigned long parse_count(const char *text)
{
	if (!is_number(text) || strlen(text) > 9 || !atol(text))
		die("-n %s: expected a number, 1 or more", text);
	return atol(text);
}

static void print_help(FILE *f)
{
	fprintf(f,
		"usage: vswap stat [-i SECONDS] [-n COUNT] [--json|--prometheus] [PID|FILE]...\n"
		"       vswap top [-i SECONDS] [-n COUNT] [PID|FILE]...\n"
		"       vswap --help | --version\n"
		"\n"
		"Tell what VSwapper does with the memory of VMs: of the processes PID, of RAM\n"
		"files FILE, or of all processes that have a RAM file open.  See vswap(8).\n"
		"\n"
		"  -i, --interval SECONDS   go on, and wait so long in between; then events\n"
		"                           are per second, from the second report on\n"
		"  -n, --count COUNT        end after so many reports\n"
		"  --json                   one object a report, in a line, with all counters\n"
		"  --prometheus             text for Prometheus, with all counters\n");
}

enum format { TEXT, JSON, PROMETHEUS };

static const struct option options[] = {
	{ "interval", required_argument, NULL, 'i' },
	{ "count", required_argument, NULL, 'n' },
	{ "json", no_argument, NULL, 'j' },
	{ "prometheus", no_argument, NULL, 'p' },
	{ "help", no_argument, NULL, 'h' },
	{}
};

int main(int argc, char **argv)
{
	enum format format = TEXT;
	unsigned long count = 0, n;
	double interval = 0, last = 0;
	bool top;
	int opt;
	size_t i;

	page_size = sysconf(_SC_PAGESIZE);
	if (argc > 1 && !strcmp(argv[1], "--help")) {
		print_help(stdout);
		return 0;
	}
	if (argc > 1 && !strcmp(argv[1], "--version")) {
		puts("vswap " VERSION);
		return 0;
	}
	if (argc < 2 || (strcmp(argv[1], "stat") && strcmp(argv[1], "top"))) {
		print_help(stderr);
		return 2;
	}
	top = !strcmp(argv[1], "top");
	/* How getopt_long() begins its messages. */
	argv[1] = (char *)"vswap";
	while ((opt = getopt_long(argc - 1, argv + 1, "i:n:h", options,
				  NULL)) != -1) {
		switch (opt) {
		case 'i':
			interval = parse_seconds(optarg);
			break;
		case 'n':
			count = parse_count(optarg);
			break;
		case 'j':
			format = JSON;
			break;
		case 'p':
			format = PROMETHEUS;
			break;
		case 'h':
			print_help(stdout);
			return 0;
		default:
			print_help(stderr);
			return 2;
		}
	}
	if (top && format != TEXT)
		die("top has no other form");
	if (!interval && (top || count > 1))
		interval = top ? 2 : 1;
	if (!interval)
		count = 1;
	quiet_errors = top;

	sigemptyset(&end_signals);
	sigaddset(&end_signals, SIGINT);
	sigaddset(&end_signals, SIGTERM);
	if (interval)
		sigprocmask(SIG_BLOCK, &end_signals, NULL);
	for (n = 0; !count || n < count; n++) {
		double seconds;

		if (n && !wait_for(interval))
			break;
		scan(argv + 1 + optind, !n);
		seconds = n ? now() - last : 0;
		last = now();
		if (format == JSON) {
			print_json();
		} else if (format == PROMETHEUS) {
			print_prometheus();
		} else {
			if (top)
				printf("\033[H\033[2J%zu RAM file%s, every %g s; ^C ends\n\n",
				       nr_vms, nr_vms == 1 ? "" : "s", interval);
			if (top || n % 20 == 0)
				print_header();
			for (i = 0; i < nr_vms; i++) {
				print_vm(&vms[i], vms[i].fresh ? 0 : seconds);
				vms[i].fresh = false;
			}
		}
		if (fflush(stdout) || ferror(stdout))
			die("cannot write: %s", strerror(errno));
	}
	return 0;
}
