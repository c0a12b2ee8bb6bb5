// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that guests which overwrite pages of a RAM file do not wait for what was
 * in them, that nothing is lost or invented by that, and that registers are what
 * hardware makes them.
 *
 * Pages are made absent by reclaiming them: swapped out, or aliases of blocks of
 * an image that are dropped.  A guest then does one thing, and afterwards counters,
 * registers, and the content of all pages are compared with what they have to be.
 *
 * VSWAP_LOWER in the environment is a directory for an image, of a file system
 * that supports direct I/O.  The host needs swap.
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/swap.h>
#include <sys/uio.h>
#include <linux/bitmap.h>

#include "kselftest.h"
#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "ucall_common.h"
#include "vswap_util.h"

#define FLAGS_CF	BIT(0)
#define FLAGS_ZF	BIT(6)
#define FLAGS_DF	BIT(10)
#define FLAGS_STATUS	(BIT(0) | BIT(2) | BIT(4) | BIT(6) | BIT(7) | BIT(10) | BIT(11))

#define PAGES		64
#define SLOT		10
#define GPA		0x40000000ul
#define GVA		0x40000000ul
/* Selectors: what guests run with, and a descriptor of this test. */
#define CODE64		0x8
#define CODE32		0x800
/* Pages [0, ALIASES) of the image can be had as aliases. */
#define ALIASES		8
#define MAX_CPUS	2

#define MOUNT		"/run/vswap-preventer-test"
#define IMAGE		"preventer.img"
#define PARAMETERS	"/sys/module/kvm/parameters/"

/* What the guest does. */
enum guest_op {
	OP_NONE,
	OP_STOS,
	OP_MOVS,
	OP_STORE,
	OP_STORE_IMM,
	OP_STORE_VECTOR,
	OP_STORE_NT,
	OP_STREAM,
	OP_LOAD,
	OP_LOAD_HIGH,
	OP_READ_PAGES,
	OP_LOCKED,
	OP_CALL,
	OP_COPY_USER,
	OP_32BIT,
	OP_STRESS,
};

/* Prefixes of OP_STOS and OP_MOVS. */
#define OP_NO_REP	BIT(0)
#define OP_DOWN		BIT(1)
#define OP_ADDR32	BIT(2)
#define OP_REPNE	BIT(3)

struct guest_cmd {
	uint64_t op;
	uint64_t flags;
	uint64_t size;
	uint64_t dst;
	uint64_t src;
	uint64_t count;
	uint64_t value;
	/* Results. */
	uint64_t rdi;
	uint64_t rsi;
	uint64_t rcx;
	uint64_t rflags;
	uint64_t result;
	uint8_t code[16];
};

static struct guest_cmd cmds[MAX_CPUS];

/*
 * Execute code with RDI, RSI, RCX and RAX, which it may change.  RFLAGS have CF and
 * ZF set before, which nothing here changes.  Mind the red zone.
 */
static void guest_execute(struct guest_cmd *cmd, uint64_t flags)
{
	uint64_t rdi = cmd->dst, rsi = cmd->src, rcx = cmd->count;

	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "push %[flags]\n\t"
		     "popf\n\t"
		     "call *%[code]\n\t"
		     "pushf\n\t"
		     "cld\n\t"
		     "pop %[flags]\n\t"
		     "lea 128(%%rsp), %%rsp"
		     : "+D"(rdi), "+S"(rsi), "+c"(rcx), [flags]"+r"(flags)
		     : "a"(cmd->value), [code]"r"(cmd->code)
		     : "memory", "cc", "xmm3");
	cmd->rdi = rdi;
	cmd->rsi = rsi;
	cmd->rcx = rcx;
	cmd->rflags = flags;
}

static void guest_string(struct guest_cmd *cmd)
{
	uint64_t flags = 0x2 | FLAGS_CF | FLAGS_ZF;
	uint8_t *code = cmd->code;

	if (cmd->flags & OP_DOWN)
		flags |= FLAGS_DF;
	if (cmd->flags & OP_ADDR32)
		*code++ = 0x67;
	if (!(cmd->flags & OP_NO_REP))
		*code++ = cmd->flags & OP_REPNE ? 0xf2 : 0xf3;
	if (cmd->size == 2)
		*code++ = 0x66;
	else if (cmd->size == 8)
		*code++ = 0x48;
	*code++ = (cmd->op == OP_STOS ? 0xaa : 0xa4) | (cmd->size > 1);
	*code++ = 0xc3;
	guest_execute(cmd, flags);
}

static void guest_store(uint64_t dst, uint64_t value, unsigned int size)
{
	switch (size) {
	case 1:
		asm volatile("movb %b1, (%0)" : : "r"(dst), "r"(value) : "memory");
		break;
	case 2:
		asm volatile("movw %w1, (%0)" : : "r"(dst), "r"(value) : "memory");
		break;
	case 4:
		asm volatile("movl %k1, (%0)" : : "r"(dst), "r"(value) : "memory");
		break;
	case 8:
		asm volatile("movq %1, (%0)" : : "r"(dst), "r"(value) : "memory");
		break;
	}
}

static uint64_t guest_load(uint64_t src, uint64_t old, unsigned int size)
{
	switch (size) {
	case 1:
		asm volatile("movb (%1), %b0" : "+r"(old) : "r"(src) : "memory");
		break;
	case 2:
		asm volatile("movw (%1), %w0" : "+r"(old) : "r"(src) : "memory");
		break;
	case 4:
		asm volatile("movl (%1), %k0" : "+r"(old) : "r"(src) : "memory");
		break;
	case 8:
		asm volatile("movq (%1), %0" : "+r"(old) : "r"(src) : "memory");
		break;
	}
	return old;
}

/* Loads of XMM3 from RSI, then a store of it to RDI. */
static const uint8_t vector_stores[][8] = {
	{ 0x0f, 0x10, 0x1e, 0x0f, 0x11, 0x1f, 0xc3 },		/* MOVUPS */
	{ 0x0f, 0x10, 0x1e, 0x0f, 0x29, 0x1f, 0xc3 },		/* MOVAPS */
	{ 0x0f, 0x10, 0x1e, 0xf3, 0x0f, 0x7f, 0x1f, 0xc3 },	/* MOVDQU */
	{ 0x0f, 0x10, 0x1e, 0x66, 0x0f, 0x7f, 0x1f, 0xc3 },	/* MOVDQA */
	{ 0x0f, 0x10, 0x1e, 0x66, 0x0f, 0xe7, 0x1f, 0xc3 },	/* MOVNTDQ */
	{ 0x0f, 0x10, 0x1e, 0x0f, 0x2b, 0x1f, 0xc3 },		/* MOVNTPS */
	{ 0x0f, 0x10, 0x1e, 0x66, 0x0f, 0x11, 0x1f, 0xc3 },	/* MOVUPD */
};

static void guest_store_vector(struct guest_cmd *cmd)
{
	uint64_t value[2] = { cmd->value, ~cmd->value };

	memcpy(cmd->code, vector_stores[cmd->flags], 8);
	cmd->src = (uint64_t)value;
	guest_execute(cmd, 0x2);
}

/* As memory-bound code does it: a store after the other, in a loop. */
static void guest_stream(struct guest_cmd *cmd)
{
	uint64_t i;

	for (i = 0; i < cmd->count; i++)
		guest_store(cmd->dst + i * cmd->size, cmd->value + i, cmd->size);
}

/* The order of copy_to_user() on CPUs without ERMS: the first word, then the rest. */
static void guest_copy_user(struct guest_cmd *cmd)
{
	uint64_t rdi = cmd->dst, rsi = cmd->src, rcx = cmd->count / 8 - 1;

	asm volatile("movq (%%rsi), %%rax\n\t"
		     "movq %%rax, (%%rdi)\n\t"
		     "add $8, %%rsi\n\t"
		     "add $8, %%rdi\n\t"
		     "rep movsq"
		     : "+D"(rdi), "+S"(rsi), "+c"(rcx) : : "rax", "memory", "cc");
	cmd->rcx = rcx;
}

/* A store, a load of it, and the rest of a page, by code of 32 bits. */
static void guest_32bit(struct guest_cmd *cmd)
{
	uint64_t rdi = cmd->dst, rcx = cmd->count, rax = cmd->value, result;

	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "push %[code32]\n\t"
		     "push $1f\n\t"
		     "lretq\n\t"
		     ".code32\n"
		     "1: movl %%eax, (%%edi)\n\t"
		     "movl (%%edi), %%edx\n\t"
		     "add $4, %%edi\n\t"
		     "rep stosl\n\t"
		     "ljmp %[code64], $2f\n\t"
		     ".code64\n"
		     "2: lea 128(%%rsp), %%rsp"
		     : "+D"(rdi), "+c"(rcx), "=d"(result)
		     : "a"(rax), [code32]"i"(CODE32), [code64]"i"(CODE64)
		     : "memory", "cc");
	cmd->rdi = rdi;
	cmd->rcx = rcx;
	cmd->result = result;
}

/*
 * Each vCPU owns every second cache line of the first half of the pages, and
 * every second page of the rest.  It stores to, copies between and loads from what
 * it owns, and knows what is in there.
 */
#define LINE		64
#define STRESS_LINES	(PAGES / 2 * PAGE / LINE / MAX_CPUS)
#define STRESS_PAGES	(PAGES / 2 / MAX_CPUS)

static uint8_t stress_lines[MAX_CPUS][STRESS_LINES][LINE];
static uint8_t stress_pages[MAX_CPUS][STRESS_PAGES][PAGE];
static uint32_t stress_running;

static void rep_stosb(void *dst, uint8_t value, uint64_t n)
{
	asm volatile("rep stosb" : "+D"(dst), "+c"(n) : "a"(value) : "memory");
}

static void rep_stosq(void *dst, uint64_t value, uint64_t n)
{
	asm volatile("rep stosq" : "+D"(dst), "+c"(n) : "a"(value) : "memory");
}

static void rep_movsq(void *dst, const void *src, uint64_t n)
{
	asm volatile("rep movsq" : "+D"(dst), "+S"(src), "+c"(n) : : "memory");
}

static uint8_t *stress_line(unsigned int cpu, unsigned int n)
{
	return (uint8_t *)GVA + ((uint64_t)n * MAX_CPUS + cpu) * LINE;
}

static uint8_t *stress_page(unsigned int cpu, unsigned int n)
{
	return (uint8_t *)GVA + (PAGES / 2 + n * MAX_CPUS + cpu) * PAGE;
}

static uint32_t stress_random(uint64_t *state)
{
	*state = *state * 6364136223846793005ull + 1442695040888963407ull;
	return *state >> 33;
}

static void stress_check(const uint8_t *mem, const uint8_t *shadow, uint64_t len)
{
	uint64_t i;

	for (i = 0; i < len; i += 8)
		GUEST_ASSERT_EQ(guest_load((uint64_t)mem + i, 0, 8),
				*(uint64_t *)(shadow + i));
}

static void stress_on_line(unsigned int cpu, uint64_t *state)
{
	uint64_t n, i, size, value, from;
	uint8_t *line, *shadow;

	/* More often than not the first line of a page. */
	n = stress_random(state) % STRESS_LINES;
	if (stress_random(state) & 1)
		n -= n % (PAGE / LINE / MAX_CPUS);
	line = stress_line(cpu, n);
	shadow = stress_lines[cpu][n];
	value = *state * 0x9e3779b97f4a7c15ull;
	size = 1ul << (stress_random(state) % 4);
	i = stress_random(state) % LINE / size * size;

	switch (stress_random(state) % 6) {
	case 0:
	case 1:
		guest_store((uint64_t)line + i, value, size);
		guest_store((uint64_t)shadow + i, value, size);
		break;
	case 2:
		rep_stosb(line + i, value, LINE - i);
		rep_stosb(shadow + i, value, LINE - i);
		break;
	case 3:
		from = stress_random(state) % STRESS_LINES;
		rep_movsq(line, stress_line(cpu, from), LINE / 8);
		rep_movsq(shadow, stress_lines[cpu][from], LINE / 8);
		break;
	case 4:
		i &= ~7ul;
		asm volatile("lock addq %1, (%0)" : : "r"(line + i),
			     "r"(value) : "memory", "cc");
		asm volatile("addq %1, (%0)" : : "r"(shadow + i),
			     "r"(value) : "memory", "cc");
		break;
	case 5:
		stress_check(line, shadow, LINE);
		break;
	}
}

static void stress_on_page(unsigned int cpu, uint64_t *state)
{
	uint64_t n = stress_random(state) % STRESS_PAGES, i, len, from;
	uint8_t *page = stress_page(cpu, n), *shadow = stress_pages[cpu][n];
	uint64_t value = *state * 0x9e3779b97f4a7c15ull;

	i = stress_random(state) % 3 ? 0 : stress_random(state) % PAGE & ~7ul;
	len = PAGE - i;
	if (!(stress_random(state) % 3))
		len = stress_random(state) % len & ~7ul;

	switch (stress_random(state) % 5) {
	case 0:
	case 1:
		rep_stosq(page + i, value, len / 8);
		rep_stosq(shadow + i, value, len / 8);
		break;
	case 2:
		from = stress_random(state) % STRESS_PAGES;
		rep_movsq(page + i, stress_page(cpu, from), len / 8);
		rep_movsq(shadow + i, stress_pages[cpu][from], len / 8);
		break;
	case 3:
		for (; len; len -= 8, i += 8) {
			guest_store((uint64_t)page + i, value + i, 8);
			guest_store((uint64_t)shadow + i, value + i, 8);
		}
		break;
	case 4:
		stress_check(page + i, shadow + i, len);
		break;
	}
}

static void guest_stress(struct guest_cmd *cmd, unsigned int cpu)
{
	uint64_t state = cmd->value;
	unsigned int n;

	for (n = 0; n < STRESS_LINES; n++) {
		rep_stosb(stress_line(cpu, n), n, LINE);
		rep_stosb(stress_lines[cpu][n], n, LINE);
	}
	for (n = 0; n < STRESS_PAGES; n++) {
		rep_stosq(stress_page(cpu, n), n, PAGE / 8);
		rep_stosq(stress_pages[cpu][n], n, PAGE / 8);
	}

	while (READ_ONCE(stress_running)) {
		if (stress_random(&state) & 1)
			stress_on_line(cpu, &state);
		else
			stress_on_page(cpu, &state);
		cmd->result++;
	}

	for (n = 0; n < STRESS_LINES; n++)
		stress_check(stress_line(cpu, n), stress_lines[cpu][n], LINE);
	for (n = 0; n < STRESS_PAGES; n++)
		stress_check(stress_page(cpu, n), stress_pages[cpu][n], PAGE);
}

/* A byte of each of count pages, size bytes apart, which may be negative. */
static void guest_read_pages(struct guest_cmd *cmd)
{
	uint64_t i;

	cmd->result = 0;
	for (i = 0; i < cmd->count; i++)
		cmd->result += READ_ONCE(*(uint8_t *)(cmd->src + i * cmd->size));
}

static void guest_code(uint64_t cpu)
{
	struct guest_cmd *cmd = &cmds[cpu];
	uint64_t (*code)(void);

	for (;;) {
		switch (cmd->op) {
		case OP_STOS:
		case OP_MOVS:
			guest_string(cmd);
			break;
		case OP_STORE:
			guest_store(cmd->dst, cmd->value, cmd->size);
			break;
		case OP_STORE_IMM:
			asm volatile("movb $0x11, (%0)\n\t"
				     "movw $0x3322, 1(%0)\n\t"
				     "movl $0x77665544, 3(%0)\n\t"
				     "movq $-2, 7(%0)"
				     : : "r"(cmd->dst) : "memory");
			break;
		case OP_STORE_VECTOR:
			guest_store_vector(cmd);
			break;
		case OP_STORE_NT:
			asm volatile("movnti %k1, (%0)\n\t"
				     "movnti %1, 8(%0)\n\t"
				     "movb %h1, 16(%0)"
				     : : "r"(cmd->dst), "a"(cmd->value) : "memory");
			break;
		case OP_STREAM:
			guest_stream(cmd);
			break;
		case OP_LOAD:
			cmd->result = guest_load(cmd->src, cmd->value, cmd->size);
			break;
		case OP_LOAD_HIGH:
			asm volatile("movb (%1), %h0" : "=a"(cmd->result) :
				     "d"(cmd->src), "0"(cmd->value) : "memory");
			break;
		case OP_READ_PAGES:
			guest_read_pages(cmd);
			break;
		case OP_LOCKED:
			asm volatile("lock addq %1, (%0)"
				     : : "r"(cmd->dst), "r"(cmd->value)
				     : "memory", "cc");
			break;
		case OP_CALL:
			code = (void *)cmd->src;
			cmd->result = code();
			break;
		case OP_COPY_USER:
			guest_copy_user(cmd);
			break;
		case OP_32BIT:
			guest_32bit(cmd);
			break;
		case OP_STRESS:
			guest_stress(cmd, cpu);
			break;
		}
		GUEST_SYNC(cmd->op);
	}
}

/* The host's side */

struct vm_fixture {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpus[MAX_CPUS];
	int fd;
	int image;
	uint8_t *mem;
	/* What is to be in the pages; not a part of the guest's image. */
	uint8_t (*want)[PAGE];
	struct kvm_vswap_stats before;
	struct kvm_vswap_stats after;
};

static struct vm_fixture f;

static uint8_t image_byte(unsigned long offset)
{
	return 0x80 ^ (offset >> 12) * 3 ^ offset * 7;
}

static void get_stats(struct kvm_vswap_stats *stats)
{
	memset(stats, 0, sizeof(*stats));
	stats->size = sizeof(*stats);
	TEST_ASSERT(!ioctl(f.fd, KVM_VSWAP_GET_STATS, stats), "no statistics");
}

static uint8_t page_state(unsigned int page)
{
	uint8_t state;
	struct kvm_vswap_query query = {
		.offset = page * PAGE,
		.pages = 1,
		.states = (unsigned long)&state,
	};

	TEST_ASSERT(!ioctl(f.fd, KVM_VSWAP_QUERY, &query), "no state");
	return state;
}

static void page_out(unsigned int first, unsigned int nr)
{
	unsigned int i, tries;
	int resident = -1;
	uint8_t state;

	for (tries = 0; tries < 100; tries++) {
		resident = -1;
		vswap_drain_lru();
		TEST_ASSERT(!madvise(f.mem + first * PAGE, nr * PAGE,
				     MADV_PAGEOUT), "MADV_PAGEOUT failed");
		for (i = first; i < first + nr; i++) {
			state = page_state(i);
			if (state == KVM_VSWAP_PAGE_RESIDENT ||
			    state == KVM_VSWAP_PAGE_ALIAS) {
				/* What is not mapped is not reclaimed. */
				READ_ONCE(f.mem[i * PAGE]);
				resident = i;
			}
		}
		if (resident < 0)
			return;
		usleep(10000);
	}
	TEST_FAIL("page %d is not reclaimed", resident);
}

/* Pages [0, PAGES) have content and are in swap. */
static void swap_out_all(void)
{
	unsigned int i, j;

	for (i = 0; i < PAGES; i++) {
		for (j = 0; j < PAGE; j++)
			f.want[i][j] = i * 5 + j * 3 + (j >> 8);
		memcpy(f.mem + i * PAGE, f.want[i], PAGE);
	}
	page_out(0, PAGES);
}

static void check_page(unsigned int page)
{
	unsigned int j;

	for (j = 0; j < PAGE; j++)
		TEST_ASSERT(f.mem[page * PAGE + j] == f.want[page][j],
			    "page %u byte %u is 0x%02x, expected 0x%02x", page, j,
			    f.mem[page * PAGE + j], f.want[page][j]);
}

/* Pages become blocks of the image, in memory and not mapped anywhere. */
static void read_image(unsigned int first, unsigned int nr)
{
	const size_t size = nr * PAGE;
	unsigned long i;

	TEST_ASSERT(pread(f.image, f.mem + first * PAGE, size, 0) == size,
		    "the image cannot be read");
	for (i = 0; i < size; i++)
		f.want[first + i / PAGE][i % PAGE] = image_byte(i);
}

/* Pages [0, ALIASES) are blocks of the image, and dropped. */
static void alias_some(void)
{
	unsigned long i;

	read_image(0, ALIASES);
	/* What is not mapped is not reclaimed. */
	for (i = 0; i < ALIASES; i++)
		check_page(i);
	page_out(0, ALIASES);
	for (i = 0; i < ALIASES; i++)
		TEST_ASSERT_EQ(page_state(i), KVM_VSWAP_PAGE_ALIAS_DROPPED);
}

static void begin(void)
{
	get_stats(&f.before);
}

static void expect_counter(size_t offset, const char *name, uint64_t expected)
{
	uint64_t n;

	get_stats(&f.after);
	n = *(uint64_t *)((void *)&f.after + offset) -
	    *(uint64_t *)((void *)&f.before + offset);
	TEST_ASSERT(n == expected, "%s is %lu, expected %lu", name, n, expected);
}

/* A counter since begin(), without touching pages. */
#define expect(field, n)							\
	expect_counter(offsetof(struct kvm_vswap_stats, field), #field, n)

static void check_all(void)
{
	unsigned int i;

	for (i = 0; i < PAGES; i++)
		check_page(i);
}

static struct guest_cmd *guest_cmd(unsigned int cpu)
{
	return addr_gva2hva(f.vm, (vm_vaddr_t)&cmds[cpu]);
}

static void run_vcpu(unsigned int cpu)
{
	struct ucall uc;

	vcpu_run(f.vcpus[cpu]);
	switch (get_ucall(f.vcpus[cpu], &uc)) {
	case UCALL_SYNC:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
		break;
	default:
		TEST_FAIL("Unhandled ucall: %ld, exit %s", uc.cmd,
			  exit_reason_str(f.vcpus[cpu]->run->exit_reason));
	}
}

static struct guest_cmd *guest_on(unsigned int cpu, struct guest_cmd cmd)
{
	*guest_cmd(cpu) = cmd;
	run_vcpu(cpu);
	return guest_cmd(cpu);
}

#define guest(...)	guest_on(0, (struct guest_cmd){ __VA_ARGS__ })

static void setup(void)
{
	unsigned int i;

	f.fd = open(MOUNT "/ram", O_RDWR | O_CREAT | O_TRUNC | O_EXCL, 0600);
	TEST_ASSERT(f.fd >= 0, "no RAM file");
	TEST_ASSERT(!ftruncate(f.fd, PAGES * PAGE), "no size");
	f.mem = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED,
		     f.fd, 0);
	TEST_ASSERT(f.mem != MAP_FAILED, "no mapping");
	f.image = open(MOUNT "/" IMAGE, O_RDWR | O_DIRECT);
	TEST_ASSERT(f.image >= 0, "no image");

	f.vm = vm_create_with_vcpus(MAX_CPUS, guest_code, f.vcpus);
	for (i = 0; i < MAX_CPUS; i++)
		vcpu_args_set(f.vcpus[i], 1, i);
	vm_set_user_memory_region(f.vm, SLOT, 0, GPA, PAGES * PAGE, f.mem);
	virt_map(f.vm, GVA, GPA, PAGES);
	/* The vCPUs have run, and what they need but RAM pages is mapped. */
	for (i = 0; i < MAX_CPUS; i++)
		guest_on(i, (struct guest_cmd){ .op = OP_NONE });
	swap_out_all();
	/* Nothing expires by itself, unless a test wants that. */
	vswap_set_parameter("vswap_buffer_us", 60000000);
	vswap_set_parameter("vswap_buffer_pages", 32);
	vswap_set_parameter("vswap_buffer_backoff", 1024);
	vswap_set_parameter("vswap_preventer", 1);
	vswap_set_parameter("vswap_always", 1);
	vswap_set_parameter("vswap_map_ahead", 64);
	vswap_set_parameter("vswap_write_ahead", 16);
}

static void teardown(void)
{
	if (f.vm)
		kvm_vm_free(f.vm);
	munmap(f.mem, PAGES * PAGE);
	close(f.fd);
	close(f.image);
	unlink(MOUNT "/ram");
}

/* Registers after a string instruction, which has stored all. */
static void check_string(struct guest_cmd *cmd, uint64_t dst, uint64_t src,
			 uint64_t bytes)
{
	uint64_t flags = FLAGS_CF | FLAGS_ZF;

	TEST_ASSERT_EQ(cmd->rdi, dst + bytes);
	if (cmd->op == OP_MOVS)
		TEST_ASSERT_EQ(cmd->rsi, src + bytes);
	TEST_ASSERT_EQ(cmd->rcx, 0);
	TEST_ASSERT_EQ(cmd->rflags & FLAGS_STATUS, flags);
}

static void want_stos(uint64_t offset, uint64_t value, unsigned int size,
		      uint64_t count)
{
	uint64_t i;

	for (i = 0; i < count * size; i++)
		(&f.want[0][0])[offset + i] = value >> (i % size) * 8;
}

static void want_movs(uint64_t dst, uint64_t src, unsigned int size,
		      uint64_t count)
{
	uint8_t *want = &f.want[0][0];

	for (; count; count--, dst += size, src += size)
		memmove(want + dst, want + src, size);
}

static void test_stos(void)
{
	const uint64_t value = 0x8877665544332211;
	unsigned int size, page = 0;
	struct guest_cmd *cmd;

	for (size = 1; size <= 8; size *= 2, page++) {
		begin();
		cmd = guest(.op = OP_STOS, .size = size, .value = value,
			    .dst = GVA + page * PAGE, .count = PAGE / size);
		expect(swap_faults, 0);
		expect(false_reads_avoided, 1);
		expect(buffered_pages, 0);
		TEST_ASSERT_EQ(page_state(page), KVM_VSWAP_PAGE_RESIDENT);
		check_string(cmd, GVA + page * PAGE, 0, PAGE);
		want_stos(page * PAGE, value, size, PAGE / size);
	}
	/* Several pages. */
	begin();
	cmd = guest(.op = OP_STOS, .size = 8, .value = value,
		    .dst = GVA + page * PAGE, .count = 5 * PAGE / 8);
	expect(swap_faults, 0);
	expect(false_reads_avoided, 5);
	check_string(cmd, GVA + page * PAGE, 0, 5 * PAGE);
	want_stos(page * PAGE, value, 8, 5 * PAGE / 8);
	/* Nothing at all. */
	begin();
	cmd = guest(.op = OP_STOS, .size = 8, .dst = GVA + 20 * PAGE);
	expect(false_reads_avoided, 0);
	check_string(cmd, GVA + 20 * PAGE, 0, 0);
	TEST_ASSERT_EQ(page_state(20), KVM_VSWAP_PAGE_SWAPPED);
	check_all();
}

static void test_stos_alias(void)
{
	struct guest_cmd *cmd;

	alias_some();
	begin();
	cmd = guest(.op = OP_STOS, .size = 8, .value = 0, .dst = GVA,
		    .count = 3 * PAGE / 8);
	expect(refaults, 0);
	expect(false_reads_avoided, 3);
	expect(broken_by_guest, 3);
	TEST_ASSERT_EQ(f.after.aliases, ALIASES - 3);
	check_string(cmd, GVA, 0, 3 * PAGE);
	want_stos(0, 0, 8, 3 * PAGE / 8);
	check_all();
}

static void test_stos_partial(void)
{
	struct guest_cmd *cmd;

	/* All but the last byte. */
	begin();
	cmd = guest(.op = OP_STOS, .size = 1, .value = 0x5a, .dst = GVA,
		    .count = PAGE - 1);
	expect(false_reads_avoided, 0);
	expect(swap_faults, 0);
	expect(buffered_pages, 1);
	check_string(cmd, GVA, 0, PAGE - 1);
	want_stos(0, 0x5a, 1, PAGE - 1);
	/* The last byte. */
	guest(.op = OP_STORE, .size = 1, .value = 0xa5, .dst = GVA + PAGE - 1);
	expect(false_reads_avoided, 1);
	expect(swap_faults, 0);
	f.want[0][PAGE - 1] = 0xa5;

	/* From the middle of a page to that of the next but one. */
	begin();
	cmd = guest(.op = OP_STOS, .size = 8, .value = 0x77,
		    .dst = GVA + 2 * PAGE + 1024, .count = 2 * PAGE / 8);
	check_string(cmd, GVA + 2 * PAGE + 1024, 0, 2 * PAGE);
	expect(false_reads_avoided, 1);
	want_stos(2 * PAGE + 1024, 0x77, 8, 2 * PAGE / 8);

	/* Elements that cross pages. */
	begin();
	cmd = guest(.op = OP_STOS, .size = 8, .value = 0x0123456789abcdef,
		    .dst = GVA + 8 * PAGE + 5, .count = 3 * PAGE / 8);
	check_string(cmd, GVA + 8 * PAGE + 5, 0, 3 * PAGE);
	expect(false_reads_avoided, 0);
	want_stos(8 * PAGE + 5, 0x0123456789abcdef, 8, 3 * PAGE / 8);
	check_all();
}

static void test_movs(void)
{
	unsigned int size, page = 0;
	struct guest_cmd *cmd;
	uint64_t dst, src;

	/* The source is there, and absent. */
	for (size = 1; size <= 8; size *= 2, page += 2) {
		begin();
		dst = page * PAGE;
		src = 40 * PAGE;
		cmd = guest(.op = OP_MOVS, .size = size, .dst = GVA + dst,
			    .src = GVA + src, .count = PAGE / size);
		expect(swap_faults, size == 1);
		expect(false_reads_avoided, 1);
		check_string(cmd, GVA + dst, GVA + src, PAGE);
		want_movs(dst, src, size, PAGE / size);
	}
	/* The source is on two pages. */
	begin();
	dst = 10 * PAGE;
	src = 41 * PAGE + 100;
	cmd = guest(.op = OP_MOVS, .size = 4, .dst = GVA + dst,
		    .src = GVA + src, .count = 3 * PAGE / 4);
	expect(swap_faults, 4);
	expect(false_reads_avoided, 3);
	check_string(cmd, GVA + dst, GVA + src, 3 * PAGE);
	want_movs(dst, src, 4, 3 * PAGE / 4);
	check_all();
}

static void test_movs_overlap(void)
{
	struct guest_cmd *cmd;
	uint64_t dst, src;

	/* A byte is repeated: what is stored is read again. */
	dst = 4 * PAGE;
	src = dst - 1;
	cmd = guest(.op = OP_MOVS, .size = 1, .dst = GVA + dst,
		    .src = GVA + src, .count = PAGE);
	check_string(cmd, GVA + dst, GVA + src, PAGE);
	want_movs(dst, src, 1, PAGE);

	dst = 8 * PAGE;
	src = dst - 24;
	cmd = guest(.op = OP_MOVS, .size = 8, .dst = GVA + dst,
		    .src = GVA + src, .count = 2 * PAGE / 8);
	check_string(cmd, GVA + dst, GVA + src, 2 * PAGE);
	want_movs(dst, src, 8, 2 * PAGE / 8);

	/* Down by a little, and in place. */
	dst = 16 * PAGE;
	src = dst + 16;
	cmd = guest(.op = OP_MOVS, .size = 8, .dst = GVA + dst,
		    .src = GVA + src, .count = PAGE / 8);
	check_string(cmd, GVA + dst, GVA + src, PAGE);
	want_movs(dst, src, 8, PAGE / 8);
	dst = 20 * PAGE;
	cmd = guest(.op = OP_MOVS, .size = 8, .dst = GVA + dst,
		    .src = GVA + dst, .count = PAGE / 8);
	check_string(cmd, GVA + dst, GVA + dst, PAGE);
	check_all();
}

static void test_prefixes(void)
{
	struct guest_cmd *cmd;
	unsigned int i;

	/* Down: from the last byte of a page. */
	begin();
	cmd = guest(.op = OP_STOS, .flags = OP_DOWN, .size = 1, .value = 0x42,
		    .dst = GVA + PAGE - 1, .count = PAGE);
	TEST_ASSERT_EQ(cmd->rdi, GVA - 1);
	TEST_ASSERT_EQ(cmd->rcx, 0);
	expect(false_reads_avoided, 0);
	want_stos(0, 0x42, 1, PAGE);
	/* Down: from a begin of a page. */
	cmd = guest(.op = OP_STOS, .flags = OP_DOWN, .size = 8, .value = 0x43,
		    .dst = GVA + 4 * PAGE, .count = PAGE / 8);
	TEST_ASSERT_EQ(cmd->rdi, GVA + 3 * PAGE);
	want_stos(3 * PAGE + 8, 0x43, 8, PAGE / 8);

	cmd = guest(.op = OP_STOS, .flags = OP_ADDR32, .size = 8, .value = 0x44,
		    .dst = GVA + 6 * PAGE, .count = PAGE / 8);
	check_string(cmd, GVA + 6 * PAGE, 0, PAGE);
	want_stos(6 * PAGE, 0x44, 8, PAGE / 8);

	cmd = guest(.op = OP_STOS, .flags = OP_REPNE, .size = 4, .value = 0x45,
		    .dst = GVA + 8 * PAGE, .count = PAGE / 4);
	check_string(cmd, GVA + 8 * PAGE, 0, PAGE);
	want_stos(8 * PAGE, 0x45, 4, PAGE / 4);

	/* One element at a time. */
	begin();
	for (i = 0; i < PAGE / 8; i++) {
		cmd = guest(.op = OP_STOS, .flags = OP_NO_REP, .size = 8,
			    .value = i, .dst = GVA + 10 * PAGE + i * 8, .count = 7);
		TEST_ASSERT_EQ(cmd->rdi, GVA + 10 * PAGE + i * 8 + 8);
		TEST_ASSERT_EQ(cmd->rcx, 7);
		want_stos(10 * PAGE + i * 8, i, 8, 1);
		if (i == 3)
			expect(buffered_writes, 4);
	}
	expect(swap_faults, 0);
	expect(false_reads_avoided, 1);
	check_all();
}

static void test_stores(void)
{
	const uint64_t value = 0xf1e2d3c4b5a69788;
	unsigned int size, i, page = 0;

	for (size = 1; size <= 8; size *= 2, page++) {
		begin();
		guest(.op = OP_STREAM, .size = size, .value = value,
		      .dst = GVA + page * PAGE, .count = PAGE / size);
		expect(swap_faults, 0);
		expect(buffered_pages, 1);
		expect(buffered_writes, PAGE / size);
		expect(buffer_merges, 0);
		expect(false_reads_avoided, 1);
		for (i = 0; i < PAGE / size; i++)
			want_stos(page * PAGE + i * size, value + i, size, 1);
	}

	/* Vectors, from the end down. */
	begin();
	for (i = PAGE; i; i -= 16) {
		unsigned int insn = (i / 16) % 7, at = page * PAGE + i - 16;

		guest(.op = OP_STORE_VECTOR, .flags = insn, .value = value + i,
		      .dst = GVA + at);
		want_stos(at, value + i, 8, 1);
		want_stos(at + 8, ~(value + i), 8, 1);
	}
	expect(swap_faults, 0);
	expect(buffered_writes, PAGE / 16);
	expect(false_reads_avoided, 1);
	page++;

	/* Constants. */
	begin();
	guest(.op = OP_STORE_IMM, .dst = GVA + page * PAGE);
	for (i = 0; i < 7; i++)
		f.want[page][i] = 0x11 * (i + 1);
	want_stos(page * PAGE + 7, -2ull, 8, 1);
	expect(buffered_writes, 4);
	guest(.op = OP_STOS, .size = 1, .dst = GVA + page * PAGE + 15,
	      .count = PAGE - 15);
	want_stos(page * PAGE + 15, 0, 1, PAGE - 15);
	expect(false_reads_avoided, 1);
	page++;

	/* MOVNTI, and a high byte. */
	begin();
	guest(.op = OP_STORE_NT, .dst = GVA + page * PAGE, .value = value);
	want_stos(page * PAGE, value, 4, 1);
	want_stos(page * PAGE + 8, value, 8, 1);
	f.want[page][16] = value >> 8;
	expect(buffered_writes, 3);
	expect(buffer_merges, 0);
	check_page(page);
	expect(buffer_merges, 1);
	check_all();
}

static void test_copy_user(void)
{
	begin();
	guest(.op = OP_COPY_USER, .dst = GVA, .src = GVA + 40 * PAGE, .count = PAGE);
	want_movs(0, 40 * PAGE, 8, PAGE / 8);
	expect(swap_faults, 1);
	expect(buffered_writes, 2);
	expect(buffer_merges, 0);
	expect(false_reads_avoided, 1);
	check_all();
}

static void test_32bit(void)
{
	uint64_t *gdt = addr_gva2hva(f.vm, f.vm->arch.gdt);
	struct guest_cmd *cmd;

	/* Flat code of 32 bits, accessed. */
	gdt[CODE32 / 8] = 0x00cf9b000000ffff;
	begin();
	cmd = guest(.op = OP_32BIT, .dst = GVA, .count = PAGE / 4 - 1,
		    .value = 0x98765432);
	want_stos(0, 0x98765432, 4, PAGE / 4);
	TEST_ASSERT_EQ(cmd->result, 0x98765432);
	TEST_ASSERT_EQ(cmd->rdi, GVA + PAGE);
	TEST_ASSERT_EQ(cmd->rcx, 0);
	expect(swap_faults, 0);
	expect(buffered_writes, 2);
	expect(false_reads_avoided, 1);
	check_all();
}

static void test_loads(void)
{
	const uint64_t value = 0x0807060504030201, old = 0xaaaaaaaaaaaaaaaa;
	struct guest_cmd *cmd;

	begin();
	guest(.op = OP_STORE, .size = 8, .value = value, .dst = GVA);
	want_stos(0, value, 8, 1);
	cmd = guest(.op = OP_LOAD, .size = 8, .src = GVA, .value = old);
	TEST_ASSERT_EQ(cmd->result, value);
	cmd = guest(.op = OP_LOAD, .size = 4, .src = GVA + 2, .value = old);
	TEST_ASSERT_EQ(cmd->result, 0x06050403);
	cmd = guest(.op = OP_LOAD, .size = 2, .src = GVA + 3, .value = old);
	TEST_ASSERT_EQ(cmd->result, 0xaaaaaaaaaaaa0504);
	cmd = guest(.op = OP_LOAD, .size = 1, .src = GVA + 7, .value = old);
	TEST_ASSERT_EQ(cmd->result, 0xaaaaaaaaaaaaaa08);
	cmd = guest(.op = OP_LOAD_HIGH, .src = GVA + 1, .value = old);
	TEST_ASSERT_EQ(cmd->result, 0xaaaaaaaaaaaa02aa);
	expect(buffer_merges, 0);
	expect(swap_faults, 0);

	/* A byte that is not buffered. */
	cmd = guest(.op = OP_LOAD, .size = 8, .src = GVA + 1, .value = old);
	TEST_ASSERT_EQ(cmd->result, *(uint64_t *)(&f.want[0][1]));
	expect(buffer_merges, 1);
	expect(swap_faults, 1);
	check_all();
}

static void test_timeout(void)
{
	unsigned int i;

	vswap_set_parameter("vswap_buffer_us", 1000);
	begin();
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA);
	expect(buffered_pages, 1);
	want_stos(0, 1, 8, 1);
	/* Nobody touches it. */
	for (i = 0; i < 500; i++) {
		usleep(10000);
		get_stats(&f.after);
		if (f.after.buffer_merges != f.before.buffer_merges)
			break;
	}
	expect(buffer_merges, 1);
	expect(swap_faults, 1);
	TEST_ASSERT_EQ(page_state(0), KVM_VSWAP_PAGE_RESIDENT);
	check_all();
}

static void test_no_patience(void)
{
	vswap_set_parameter("vswap_buffer_us", 0);
	begin();
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA);
	want_stos(0, 1, 8, 1);
	expect(buffered_pages, 0);
	expect(swap_faults, 1);
	/* Whole pages are still replaced. */
	guest(.op = OP_STOS, .size = 8, .dst = GVA + PAGE, .count = PAGE / 8);
	want_stos(PAGE, 0, 8, PAGE / 8);
	expect(false_reads_avoided, 1);
	vswap_set_parameter("vswap_preventer", 0);
	guest(.op = OP_STOS, .size = 8, .dst = GVA + 2 * PAGE, .count = PAGE / 8);
	want_stos(2 * PAGE, 0, 8, PAGE / 8);
	expect(false_reads_avoided, 1);
	expect(swap_faults, 2);
	check_all();
}

static void test_random_order(void)
{
	unsigned int i;

	begin();
	for (i = 0; i < 64; i++) {
		unsigned int at = (i * 37 % 64) * 64;

		guest(.op = OP_STORE, .size = 8, .value = i, .dst = GVA + at);
		want_stos(at, i, 8, 1);
	}
	expect(buffer_merges, 1);
	expect(false_reads_avoided, 0);
	/* A write that does not look as if it was one of many. */
	begin();
	guest(.op = OP_STORE, .size = 8, .value = 3, .dst = GVA + PAGE + 2048);
	want_stos(PAGE + 2048, 3, 8, 1);
	expect(buffered_pages, 0);
	expect(swap_faults, 1);
	check_all();
}

static void test_limit(void)
{
	unsigned int i;

	vswap_set_parameter("vswap_buffer_pages", 3);
	begin();
	for (i = 0; i < 5; i++) {
		guest(.op = OP_STORE, .size = 8, .value = i, .dst = GVA + i * PAGE);
		want_stos(i * PAGE, i, 8, 1);
	}
	expect(buffered_pages, 3);
	expect(swap_faults, 2);
	/* As there is a limit, one after the other. */
	guest(.op = OP_STOS, .size = 8, .value = 9, .dst = GVA + 8,
	      .count = PAGE / 8 - 1);
	want_stos(8, 9, 8, PAGE / 8 - 1);
	expect(false_reads_avoided, 1);
	guest(.op = OP_STORE, .size = 8, .value = 7, .dst = GVA + 6 * PAGE);
	want_stos(6 * PAGE, 7, 8, 1);
	expect(buffered_pages, 4);
	check_all();
}

static void test_backoff(void)
{
	unsigned int i;

	begin();
	/* Buffers that are merged at once; pages are used once each. */
	for (i = 0; i < 40; i++) {
		guest(.op = OP_STORE, .size = 8, .value = i, .dst = GVA + i * PAGE);
		want_stos(i * PAGE, i, 8, 1);
		check_page(i);
	}
	/* The 1st, 3rd, 6th, 11th, 20th and 37th. */
	expect(buffered_pages, 6);
	expect(buffer_merges, 6);
	check_all();
}

static void test_locked(void)
{
	uint64_t value;

	begin();
	guest(.op = OP_STORE, .size = 8, .value = 100, .dst = GVA);
	guest(.op = OP_LOCKED, .value = 11, .dst = GVA);
	want_stos(0, 111, 8, 1);
	expect(buffer_merges, 1);

	/* Of a page that is not buffered. */
	memcpy(&value, f.want[1], 8);
	guest(.op = OP_LOCKED, .value = 5, .dst = GVA + PAGE);
	want_stos(PAGE, value + 5, 8, 1);
	expect(buffered_pages, 1);
	check_all();
}

static void test_crossing(void)
{
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA);
	guest(.op = OP_STORE, .size = 8, .value = 2, .dst = GVA + PAGE);
	want_stos(0, 1, 8, 1);
	want_stos(PAGE, 2, 8, 1);
	begin();
	guest(.op = OP_STORE, .size = 8, .value = 0x1122334455667788,
	      .dst = GVA + PAGE - 3);
	want_stos(PAGE - 3, 0x1122334455667788, 8, 1);
	expect(buffer_merges, 2);
	check_all();
}

static void test_code(void)
{
	/* mov $0x12345678, %eax; ret; and something else where the page was. */
	uint8_t code[] = { 0xb8, 0x78, 0x56, 0x34, 0x12, 0xc3, 0x90, 0x90 };
	struct guest_cmd *cmd;

	begin();
	guest(.op = OP_STORE, .size = 8, .value = *(uint64_t *)code, .dst = GVA);
	memcpy(f.want[0], code, 8);
	expect(buffer_merges, 0);
	cmd = guest(.op = OP_CALL, .src = GVA);
	TEST_ASSERT_EQ(cmd->result, 0x12345678);
	expect(buffer_merges, 1);
	check_all();
}

static void test_page_table(void)
{
	/* In 2 MiB of its own; the table moves to page 5. */
	const uint64_t gva = GVA + (512ul << 20), table = GPA + 5 * PAGE;
	int level = PG_LEVEL_2M;
	struct guest_cmd *cmd;
	uint64_t *pde, pte;

	virt_map(f.vm, gva, GPA + 7 * PAGE, 1);
	pde = __vm_get_page_table_entry(f.vm, gva, &level);
	pte = *vm_get_page_table_entry(f.vm, gva);
	*pde = (*pde & ~GENMASK_ULL(51, 12)) | table;
	begin();
	/* What is in swap there is no page table. */
	guest(.op = OP_STORE, .size = 8, .value = pte, .dst = GVA + 5 * PAGE);
	expect(buffered_pages, 1);
	expect(buffer_merges, 0);
	cmd = guest(.op = OP_LOAD, .size = 8, .src = gva + 8);
	TEST_ASSERT_EQ(cmd->result, *(uint64_t *)(&f.want[7][8]));
	expect(buffer_merges, 1);
	/* With the accessed bit. */
	want_stos(5 * PAGE, pte | BIT(5), 8, 1);
	check_all();
}

static void test_dirty_log(void)
{
	unsigned long *log = bitmap_zalloc(PAGES);
	unsigned int i;

	vm_set_user_memory_region(f.vm, SLOT, KVM_MEM_LOG_DIRTY_PAGES, GPA,
				  PAGES * PAGE, f.mem);
	kvm_vm_get_dirty_log(f.vm, SLOT, log);
	for (i = 0; i < PAGES; i++)
		TEST_ASSERT(!test_bit(i, log), "page %u is dirty", i);

	begin();
	guest(.op = OP_STOS, .size = 8, .value = 3, .dst = GVA + 3 * PAGE,
	      .count = PAGE / 8);
	want_stos(3 * PAGE, 3, 8, PAGE / 8);
	guest(.op = OP_STORE, .size = 8, .value = 4, .dst = GVA + 8 * PAGE);
	want_stos(8 * PAGE, 4, 8, 1);
	expect(false_reads_avoided, 1);
	expect(buffered_pages, 1);
	kvm_vm_get_dirty_log(f.vm, SLOT, log);
	for (i = 0; i < PAGES; i++)
		TEST_ASSERT(!!test_bit(i, log) == (i == 3 || i == 8),
			    "page %u is%s dirty", i, test_bit(i, log) ? "" : " not");

	/* The buffer goes on, and is not read by who looks at the log. */
	guest(.op = OP_STORE, .size = 8, .value = 5, .dst = GVA + 8 * PAGE + 8);
	want_stos(8 * PAGE + 8, 5, 8, 1);
	expect(buffered_writes, 2);
	kvm_vm_get_dirty_log(f.vm, SLOT, log);
	for (i = 0; i < PAGES; i++)
		TEST_ASSERT(!!test_bit(i, log) == (i == 8), "page %u is%s dirty",
			    i, test_bit(i, log) ? "" : " not");
	check_all();
	/* And merged, the page is written to in the normal way. */
	guest(.op = OP_STORE, .size = 8, .value = 6, .dst = GVA + 8 * PAGE + 16);
	want_stos(8 * PAGE + 16, 6, 8, 1);
	kvm_vm_get_dirty_log(f.vm, SLOT, log);
	TEST_ASSERT(test_bit(8, log), "page 8 is not dirty");
	check_all();
	free(log);
}

static void test_read_only(void)
{
	vm_set_user_memory_region(f.vm, SLOT, 0, GPA, 0, f.mem);
	vm_set_user_memory_region(f.vm, SLOT, KVM_MEM_READONLY, GPA,
				  PAGES * PAGE, f.mem);
	begin();
	*guest_cmd(0) = (struct guest_cmd) {
		.op = OP_STOS, .size = 8, .dst = GVA, .count = PAGE / 8 };
	vcpu_run(f.vcpus[0]);
	TEST_ASSERT_KVM_EXIT_REASON(f.vcpus[0], KVM_EXIT_MMIO);
	expect(false_reads_avoided, 0);
	check_all();
}

static void test_punch(void)
{
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA);
	begin();
	TEST_ASSERT(!madvise(f.mem, PAGE, MADV_REMOVE), "MADV_REMOVE failed");
	memset(f.want[0], 0, PAGE);
	check_page(0);
	expect(buffer_merges, 0);

	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA + PAGE);
	TEST_ASSERT(!fallocate(f.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
			       PAGE, PAGE), "fallocate() failed");
	memset(f.want[1], 0, PAGE);
	check_page(1);
	expect(buffer_merges, 0);

	/* The same with an alias. */
	alias_some();
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA + 2 * PAGE);
	TEST_ASSERT(!madvise(f.mem + 2 * PAGE, PAGE, MADV_REMOVE),
		    "MADV_REMOVE failed");
	memset(f.want[2], 0, PAGE);
	check_all();
	expect(buffer_merges, 0);
}

static void test_truncate(void)
{
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA + 60 * PAGE);
	guest(.op = OP_STORE, .size = 8, .value = 2, .dst = GVA + 59 * PAGE);
	begin();
	TEST_ASSERT(!ftruncate(f.fd, 60 * PAGE), "ftruncate() failed");
	TEST_ASSERT(!ftruncate(f.fd, PAGES * PAGE), "ftruncate() failed");
	memset(f.want[60], 0, 4 * PAGE);
	want_stos(59 * PAGE, 2, 8, 1);
	expect(buffer_merges, 0);
	check_all();
	expect(buffer_merges, 1);
}

/* What is read from an image takes the place of what was buffered. */
static void test_image_read(void)
{
	unsigned long i;

	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA + 2 * PAGE);
	begin();
	alias_some();
	expect(buffer_merges, 0);
	check_all();

	/* And an image that is written has what was buffered. */
	alias_some();
	guest(.op = OP_STORE, .size = 8, .value = 5, .dst = GVA + PAGE);
	want_stos(PAGE, 5, 8, 1);
	TEST_ASSERT(pwrite(f.image, f.mem + PAGE, PAGE, 100 * PAGE) == PAGE,
		    "the image cannot be written");
	TEST_ASSERT(pread(f.image, f.mem + 30 * PAGE, PAGE, 100 * PAGE) == PAGE,
		    "the image cannot be read");
	memcpy(f.want[30], f.want[1], PAGE);
	check_all();

	/* A block that is overwritten leaves its aliases what they were. */
	alias_some();
	guest(.op = OP_STORE, .size = 8, .value = 6, .dst = GVA + 3 * PAGE);
	want_stos(3 * PAGE, 6, 8, 1);
	TEST_ASSERT(pwrite(f.image, f.mem + 30 * PAGE, PAGE, 3 * PAGE) == PAGE,
		    "the image cannot be written");
	guest(.op = OP_STORE, .size = 8, .value = 7, .dst = GVA + 3 * PAGE + 8);
	want_stos(3 * PAGE + 8, 7, 8, 1);
	check_all();

	/* Restore the image. */
	for (i = 0; i < PAGE; i++)
		f.mem[i] = image_byte(3 * PAGE + i);
	TEST_ASSERT(pwrite(f.image, f.mem, PAGE, 3 * PAGE) == PAGE,
		    "the image cannot be written");
}

static void test_alias_buffer(void)
{
	alias_some();
	begin();
	guest(.op = OP_STREAM, .size = 8, .value = 1, .dst = GVA, .count = PAGE / 8);
	want_stos(0, 0, 8, 0);
	for (unsigned int i = 0; i < PAGE / 8; i++)
		want_stos(i * 8, i + 1, 8, 1);
	expect(false_reads_avoided, 1);
	expect(refaults, 0);
	/* Neighbours in the image are read at once, but not what is buffered. */
	guest(.op = OP_STORE, .size = 8, .value = 6, .dst = GVA + 3 * PAGE);
	want_stos(3 * PAGE, 6, 8, 1);
	check_page(2);
	expect(buffer_merges, 0);
	check_all();
	expect(buffer_merges, 1);
}

/* What is below a buffer can be in the page cache; it must not be mapped. */
static void test_fault_around(void)
{
	alias_some();
	guest(.op = OP_STORE, .size = 8, .value = 6, .dst = GVA + 3 * PAGE);
	want_stos(3 * PAGE, 6, 8, 1);
	TEST_ASSERT(f.mem[2 * PAGE] == f.want[2][0], "page 2 is wrong");
	TEST_ASSERT(f.mem[4 * PAGE] == f.want[4][0], "page 4 is wrong");
	check_all();
}

/* A counter of a vCPU or of the VM; takes the file descriptor. */
static uint64_t read_counter(int fd, const char *name)
{
	struct kvm_stats_desc *descs, *desc;
	struct kvm_stats_header header;
	uint64_t value = 0;
	bool found = false;
	unsigned int i;

	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);
	for (i = 0; i < header.num_desc && !found; i++) {
		desc = get_stats_descriptor(descs, i, &header);
		found = !strcmp(desc->name, name);
		if (found)
			read_stat_data(fd, &header, desc, &value, 1);
	}
	TEST_ASSERT(found, "KVM has no counter %s", name);
	free(descs);
	close(fd);
	return value;
}

static uint64_t vcpu_faults(void)
{
	return read_counter(vcpu_get_stats_fd(f.vcpus[0]), "pf_taken");
}

static uint64_t vm_flushes(void)
{
	return read_counter(vm_get_stats_fd(f.vm), "remote_tlb_flush_requests");
}

static void clear_page(unsigned int page)
{
	guest(.op = OP_STOS, .size = 8, .value = 0, .dst = GVA + page * PAGE,
	      .count = PAGE / 8);
	want_stos(page * PAGE, 0, 8, PAGE / 8);
}

/* Pages that are clear take memory if the last one was used at once. */
static void test_cleared(void)
{
	uint64_t before;

	begin();
	clear_page(0);
	TEST_ASSERT_EQ(page_state(0), KVM_VSWAP_PAGE_NONE);
	clear_page(1);
	TEST_ASSERT_EQ(page_state(1), KVM_VSWAP_PAGE_NONE);
	/* Not the last one. */
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA);
	want_stos(0, 1, 8, 1);
	clear_page(2);
	TEST_ASSERT_EQ(page_state(2), KVM_VSWAP_PAGE_NONE);
	guest(.op = OP_STORE, .size = 8, .value = 2, .dst = GVA + 2 * PAGE);
	want_stos(2 * PAGE, 2, 8, 1);

	before = vcpu_faults();
	clear_page(3);
	TEST_ASSERT_EQ(page_state(3), KVM_VSWAP_PAGE_RESIDENT);
	guest(.op = OP_STORE, .size = 8, .value = 3, .dst = GVA + 3 * PAGE);
	want_stos(3 * PAGE, 3, 8, 1);
	TEST_ASSERT_EQ(vcpu_faults() - before, 1);

	/* The disk takes the place of the last one. */
	clear_page(4);
	TEST_ASSERT_EQ(page_state(4), KVM_VSWAP_PAGE_RESIDENT);
	read_image(4, 1);
	TEST_ASSERT_EQ(page_state(4), KVM_VSWAP_PAGE_ALIAS);
	clear_page(5);
	TEST_ASSERT_EQ(page_state(5), KVM_VSWAP_PAGE_NONE);
	expect(false_reads_avoided, 6);
	expect(buffer_merges, 0);
	check_all();
}

/* Faults of a guest that reads pages, from the first on or from the last. */
static uint64_t faults_of_reads(unsigned int map_ahead, int step)
{
	unsigned int i, page, count = PAGES / abs(step);
	uint64_t before, sum = 0;
	struct guest_cmd *cmd;

	vswap_set_parameter("vswap_map_ahead", map_ahead);
	for (i = 0; i < count; i++) {
		page = step > 0 ? i * step : PAGES - 1 + i * step;
		sum += f.want[page][0];
	}

	before = vcpu_faults();
	cmd = guest(.op = OP_READ_PAGES, .count = count,
		    .src = GVA + (step < 0 ? (PAGES - 1) * PAGE : 0),
		    .size = step * PAGE);
	TEST_ASSERT_EQ(cmd->result, sum);
	return vcpu_faults() - before;
}

/* The same, of pages that only the host has mapped. */
static uint64_t faults_of_mapped(unsigned int map_ahead, int step)
{
	page_out(0, PAGES);
	check_all();
	return faults_of_reads(map_ahead, step);
}

/*
 * Not for each page if it is in sequence.  Mapping ahead stops when somebody else
 * wants the CPU, so there may be some more faults than necessary.
 */
static void test_map_ahead(void)
{
	uint64_t up, down, some, none, apart, cached;

	up = faults_of_mapped(64, 1);
	down = faults_of_mapped(64, -1);
	some = faults_of_mapped(7, 1);
	none = faults_of_mapped(0, 1);
	apart = faults_of_mapped(64, 4);
	read_image(0, PAGES);
	cached = faults_of_reads(64, 1);
	ksft_print_msg("faults: %lu up, %lu down, %lu by 7, %lu off, %lu apart, %lu not mapped\n",
		       up, down, some, none, apart, cached);
	/* 0, 1 to 5, 6 to 14, 15 to 31, 32 to 63 */
	TEST_ASSERT(up >= 5 && up <= 10, "%lu faults up", up);
	TEST_ASSERT(down >= 5 && down <= 10, "%lu faults down", down);
	TEST_ASSERT(some >= 9 && some <= 16, "%lu faults by 7", some);
	TEST_ASSERT(none >= PAGES, "%lu faults when off", none);
	TEST_ASSERT(apart >= PAGES / 4, "%lu faults apart", apart);
	/* The host maps 16 pages at once, which does not matter. */
	TEST_ASSERT(cached >= 5 && cached <= 10, "%lu faults if not mapped",
		    cached);
	check_all();
}

/*
 * Faults of a guest that clears pages which are aliases and in memory, each @step
 * pages from the one before, around at the end; after it has read them, or not.
 */
static uint64_t faults_of_clears(unsigned int write_ahead, unsigned int step,
				 bool mapped)
{
	uint64_t before;
	unsigned int i;

	vswap_set_parameter("vswap_write_ahead", write_ahead);
	read_image(0, PAGES);
	if (mapped)
		faults_of_reads(64, 1);
	begin();
	before = vcpu_faults();
	for (i = 0; i < PAGES; i++)
		clear_page(i * step % PAGES);
	before = vcpu_faults() - before;
	expect(broken_by_guest, PAGES);
	check_all();
	return before;
}

/*
 * Clear pages which are aliases, or of which the first 16 are absent, upwards or
 * downwards, and see that so many after them are no aliases then.  Mapping ahead
 * stops when somebody else wants the CPU, so there may be less at times, but there
 * must never be more.
 */
static void want_ahead(int first, int nr, int step, int ahead, bool absent)
{
	int i, got, tries;

	for (tries = 0; tries < 20; tries++) {
		read_image(0, PAGES);
		if (absent) {
			check_all();
			page_out(0, 16);
		}
		for (i = 0; i < nr; i++)
			clear_page(first + i * step);
		for (got = 0; got <= ahead; got++) {
			if (page_state(first + (nr + got) * step) !=
			    KVM_VSWAP_PAGE_RESIDENT)
				break;
		}
		check_all();
		TEST_ASSERT(got <= ahead, "more than %d pages ahead of %d",
			    ahead, nr);
		if (got == ahead)
			return;
	}
	TEST_FAIL("never %d pages ahead of %d", ahead, nr);
}

/*
 * Pages that are cleared in sequence do not fault each, also if they were mapped
 * before, and no more are taken from the disk than half of those.
 */
static void test_write_ahead(void)
{
	uint64_t fresh, mapped, some, none, apart;

	fresh = faults_of_clears(16, 1, false);
	mapped = faults_of_clears(16, 1, true);
	some = faults_of_clears(3, 1, true);
	none = faults_of_clears(0, 1, true);
	apart = faults_of_clears(16, 5, true);
	ksft_print_msg("faults: %lu fresh, %lu mapped, %lu by 3, %lu off, %lu apart\n",
		       fresh, mapped, some, none, apart);
	/* 0 to 2, 3 to 5, 6 to 9, 10 to 15, 16 to 24, 25 to 38, 39 to 55 ... */
	TEST_ASSERT(fresh >= 10 && fresh <= 20, "%lu faults", fresh);
	TEST_ASSERT(mapped >= 10 && mapped <= 20, "%lu faults if mapped",
		    mapped);
	TEST_ASSERT(some >= 18 && some <= 30, "%lu faults by 3", some);
	TEST_ASSERT(none == PAGES, "%lu faults when off", none);
	TEST_ASSERT(apart == PAGES, "%lu faults apart", apart);

	vswap_set_parameter("vswap_write_ahead", 16);
	want_ahead(30, 3, 1, 0, false);
	want_ahead(50, 4, -1, 2, false);
	/* Those that the Preventer clears count, but are no reason to end aliases. */
	want_ahead(8, 8, 1, 0, true);
	want_ahead(8, 9, 1, 4, true);

	/* Nothing is dirty that the guest has not written to. */
	vm_set_user_memory_region(f.vm, SLOT, KVM_MEM_LOG_DIRTY_PAGES, GPA,
				  PAGES * PAGE, f.mem);
	TEST_ASSERT_EQ(faults_of_clears(16, 1, true), PAGES);
}

/*
 * TLB flushes of a read of blocks to pages that the guest has mapped: of the first
 * block to the first page or to the last one, and so on, around at the end.
 */
static uint64_t flushes_of_read(int step)
{
	struct iovec iov[PAGES];
	unsigned int i, page;
	uint64_t before;

	faults_of_reads(64, 1);
	for (i = 0; i < PAGES; i++) {
		page = (step > 0 ? i * step : PAGES - 1 + i * step) % PAGES;
		iov[i].iov_base = f.mem + page * PAGE;
		iov[i].iov_len = PAGE;
	}

	before = vm_flushes();
	TEST_ASSERT(preadv(f.image, iov, PAGES, 0) == PAGES * PAGE,
		    "the image cannot be read");
	before = vm_flushes() - before;
	for (i = 0; i < PAGES * PAGE; i++) {
		page = (iov[i / PAGE].iov_base - (void *)f.mem) / PAGE;
		f.want[page][i % PAGE] = image_byte(i);
	}
	check_all();
	return before;
}

/*
 * The same of a write to blocks that pages which the guest has mapped equal; of what
 * is there, for the other cases.
 */
static uint64_t flushes_of_write(void)
{
	uint8_t *buf = aligned_alloc(PAGE, PAGES * PAGE);
	uint64_t before;
	unsigned int i;

	for (i = 0; i < PAGES * PAGE; i++)
		buf[i] = image_byte(i);
	read_image(0, PAGES);
	faults_of_reads(64, 1);
	before = vm_flushes();
	TEST_ASSERT(pwrite(f.image, buf, PAGES * PAGE, 0) == PAGES * PAGE,
		    "the image cannot be written");
	before = vm_flushes() - before;
	for (i = 0; i < PAGES; i++)
		TEST_ASSERT_EQ(page_state(i), KVM_VSWAP_PAGE_RESIDENT);
	check_all();
	free(buf);
	return before;
}

/*
 * Pages next to each other are unmapped at once when the disk overwrites them, or
 * when what they equal is overwritten.
 */
static void test_unmap_at_once(void)
{
	uint64_t up, down, apart, write;

	up = flushes_of_read(1);
	down = flushes_of_read(-1);
	apart = flushes_of_read(5);
	write = flushes_of_write();
	ksft_print_msg("flushes: %lu up, %lu down, %lu apart, %lu by a write\n",
		       up, down, apart, write);
	TEST_ASSERT(up >= 1 && up <= 4, "%lu flushes up", up);
	TEST_ASSERT(down >= 1 && down <= 4, "%lu flushes down", down);
	TEST_ASSERT(apart >= PAGES, "%lu flushes apart", apart);
	TEST_ASSERT(write >= 1 && write <= 4, "%lu flushes by a write", write);
}

/* swapoff reads pages without asking. */
static void test_swapoff(void)
{
	char line[512], path[256];
	FILE *swaps;

	guest(.op = OP_STORE, .size = 8, .value = 6, .dst = GVA + 3 * PAGE);
	want_stos(3 * PAGE, 6, 8, 1);

	swaps = fopen("/proc/swaps", "r");
	TEST_ASSERT(swaps && fgets(line, sizeof(line), swaps) &&
		    fscanf(swaps, "%255s", path) == 1, "no swap");
	fclose(swaps);
	TEST_ASSERT(!swapoff(path), "swapoff(%s) failed", path);
	TEST_ASSERT_EQ(page_state(3), KVM_VSWAP_PAGE_RESIDENT);
	begin();
	/* Maps those around as well. */
	TEST_ASSERT(f.mem[2 * PAGE] == f.want[2][0], "page 2 is wrong");
	expect(buffer_merges, 0);
	guest(.op = OP_STORE, .size = 8, .value = 7, .dst = GVA + 3 * PAGE + 8);
	want_stos(3 * PAGE + 8, 7, 8, 1);
	expect(buffer_merges, 1);
	check_all();
	TEST_ASSERT(!swapon(path, 0), "swapon(%s) failed", path);
}

static void test_vm_death(void)
{
	guest(.op = OP_STORE, .size = 8, .value = 1, .dst = GVA);
	guest(.op = OP_STORE, .size = 8, .value = 2, .dst = GVA + PAGE);
	want_stos(0, 1, 8, 1);
	want_stos(PAGE, 2, 8, 1);
	kvm_vm_free(f.vm);
	f.vm = NULL;
	check_page(0);
	/* The other one is still buffered when the file goes; or goes in time. */
}

static void *vcpu_thread(void *cpu)
{
	run_vcpu((unsigned long)cpu);
	return NULL;
}

/* Halves of the same pages by two vCPUs at a time. */
static void test_two_vcpus(void)
{
	pthread_t threads[MAX_CPUS];
	unsigned long cpu;
	unsigned int page;

	begin();
	for (page = 0; page < PAGES; page++) {
		for (cpu = 0; cpu < MAX_CPUS; cpu++) {
			*guest_cmd(cpu) = (struct guest_cmd) {
				.op = OP_STREAM, .size = 8, .value = page * 3 + cpu,
				.dst = GVA + page * PAGE + cpu * PAGE / 2,
				.count = PAGE / 16,
			};
			pthread_create(&threads[cpu], NULL, vcpu_thread,
				       (void *)cpu);
		}
		for (cpu = 0; cpu < MAX_CPUS; cpu++) {
			pthread_join(threads[cpu], NULL);
			for (unsigned int i = 0; i < PAGE / 16; i++)
				want_stos(page * PAGE + cpu * PAGE / 2 + i * 8,
					  page * 3 + cpu + i, 8, 1);
		}
	}
	check_all();
}

static unsigned int stress_seconds = 10;

/* Random accesses by two vCPUs while pages are reclaimed, read, and time out. */
static void test_stress(void)
{
	uint32_t *running = addr_gva2hva(f.vm, (vm_vaddr_t)&stress_running);
	uint64_t seed = time(NULL), ops = 0;
	struct timespec start, now;
	pthread_t threads[MAX_CPUS];
	unsigned long cpu;
	unsigned int n;

	vswap_set_parameter("vswap_buffer_us", 20000);
	vswap_set_parameter("vswap_buffer_backoff", 0);
	begin();
	WRITE_ONCE(*running, 1);
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		*guest_cmd(cpu) = (struct guest_cmd) {
			.op = OP_STRESS, .value = seed * 7919 + cpu };
		pthread_create(&threads[cpu], NULL, vcpu_thread, (void *)cpu);
	}
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (n = 0;; n++) {
		madvise(f.mem, PAGES * PAGE, MADV_PAGEOUT);
		READ_ONCE(f.mem[n * 7919 % PAGES * PAGE]);
		usleep(1000);
		clock_gettime(CLOCK_MONOTONIC, &now);
		if (now.tv_sec - start.tv_sec >= stress_seconds)
			break;
	}
	WRITE_ONCE(*running, 0);
	for (cpu = 0; cpu < MAX_CPUS; cpu++) {
		pthread_join(threads[cpu], NULL);
		ops += guest_cmd(cpu)->result;
	}
	get_stats(&f.after);
	ksft_print_msg("seed %lu: %lu accesses, reclaimed %u times\n", seed, ops, n);
	ksft_print_msg("%llu buffered, %llu merged, %llu completed\n",
		       f.after.buffered_pages - f.before.buffered_pages,
		       f.after.buffer_merges - f.before.buffer_merges,
		       f.after.false_reads_avoided - f.before.false_reads_avoided);
	TEST_ASSERT(ops && f.after.buffered_pages > f.before.buffered_pages &&
		    f.after.false_reads_avoided > f.before.false_reads_avoided,
		    "nothing was buffered");
}

static const struct {
	const char *name;
	void (*run)(void);
} tests[] = {
	{ "stos", test_stos },
	{ "stos_alias", test_stos_alias },
	{ "stos_partial", test_stos_partial },
	{ "movs", test_movs },
	{ "movs_overlap", test_movs_overlap },
	{ "prefixes", test_prefixes },
	{ "stores", test_stores },
	{ "copy_user", test_copy_user },
	{ "32bit", test_32bit },
	{ "loads", test_loads },
	{ "timeout", test_timeout },
	{ "no_patience", test_no_patience },
	{ "random_order", test_random_order },
	{ "limit", test_limit },
	{ "backoff", test_backoff },
	{ "locked", test_locked },
	{ "crossing", test_crossing },
	{ "code", test_code },
	{ "page_table", test_page_table },
	{ "dirty_log", test_dirty_log },
	{ "read_only", test_read_only },
	{ "punch", test_punch },
	{ "truncate", test_truncate },
	{ "image_read", test_image_read },
	{ "alias_buffer", test_alias_buffer },
	{ "fault_around", test_fault_around },
	{ "cleared", test_cleared },
	{ "map_ahead", test_map_ahead },
	{ "write_ahead", test_write_ahead },
	{ "unmap_at_once", test_unmap_at_once },
	{ "swapoff", test_swapoff },
	{ "vm_death", test_vm_death },
	{ "two_vcpus", test_two_vcpus },
	{ "stress", test_stress },
};

static void make_image(const char *lower)
{
	const unsigned long size = 256 * PAGE;
	uint8_t *buf = malloc(size);
	char path[PATH_MAX];
	unsigned long i;
	int fd;

	TEST_ASSERT(buf, "no memory");
	for (i = 0; i < size; i++)
		buf[i] = image_byte(i);
	snprintf(path, sizeof(path), "%s/" IMAGE, lower);
	fd = open(path, O_RDWR | O_CREAT | O_TRUNC, 0600);
	TEST_ASSERT(fd >= 0, "%s cannot be created", path);
	TEST_ASSERT(write(fd, buf, size) == size && !fsync(fd),
		    "%s cannot be written", path);
	close(fd);
	free(buf);
}

int main(int argc, char *argv[])
{
	const char *lower = getenv("VSWAP_LOWER"), *only = NULL;
	char options[PATH_MAX];
	unsigned int i;
	int opt;

	while ((opt = getopt(argc, argv, "t:s:")) != -1) {
		if (opt == 't') {
			only = optarg;
		} else if (opt == 's') {
			stress_seconds = atoi_positive("seconds", optarg);
		} else {
			printf("usage: %s [-t CASE] [-s SECONDS-OF-STRESS]\n",
			       argv[0]);
			return 1;
		}
	}

	setbuf(stdout, NULL);
	TEST_REQUIRE(!access(PARAMETERS "vswap", R_OK) &&
		     get_kvm_param_bool("vswap"));
	__TEST_REQUIRE(lower, "VSWAP_LOWER is not set");

	f.want = malloc(PAGES * PAGE);
	TEST_ASSERT(f.want, "no memory");
	make_image(lower);
	mkdir(MOUNT, 0700);
	snprintf(options, sizeof(options), "lower=%s", lower);
	TEST_ASSERT(!mount("none", MOUNT, "kvm_vswap", 0, options),
		    "cannot mount kvm_vswap");

	ksft_print_header();
	ksft_set_plan(only ? 1 : ARRAY_SIZE(tests));
	for (i = 0; i < ARRAY_SIZE(tests); i++) {
		if (only && strcmp(only, tests[i].name))
			continue;
		setup();
		ksft_print_msg("%s\n", tests[i].name);
		tests[i].run();
		teardown();
		ksft_test_result_pass("%s\n", tests[i].name);
	}
	TEST_ASSERT(!umount(MOUNT), "cannot unmount");
	rmdir(MOUNT);
	vswap_set_parameter("vswap_buffer_us", 1000);
	ksft_finished();
}
