// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that whatever a guest does to the in-kernel IOMMU (KVM_DEV_TYPE_VIOMMU),
 * a device behind it reaches exactly what the guest's tables allow once the guest's
 * invalidations are complete, and that pages are pinned accordingly.
 *
 * Inputs are random: entries of root, context and paging tables, descriptors, and
 * writes of registers; valid, nearly valid, and none of that.  Tables refer to each
 * other without regard to levels, and so to themselves.  They, and the queue, lie in
 * memory which has nothing else, the arena, and may refer to other memory, holes,
 * MMIO and the registers themselves.
 *
 * The host makes up the inputs, and the guest carries them out, in batches.  A batch
 * ends with the guest setting up the queue and invalidating everything in one of
 * several ways.  Then the host walks the tables, by code of its own, and compares.
 *
 * "-s SEED" has other inputs, "-n COUNT" more of them; a number of inputs is for
 * each case.  With one vCPU and without another thread that emulates (the variant
 * "vcpu") the same seed has the same result.  Without a device (see viommu_vfio.h)
 * nothing is mapped, and only registers are compared.
 */
#include "kvm_test_harness.h"
#include "viommu_vfio.h"

#define SID		VTD_SID(0, 4, 0)
#define HAW		46

#define PAGE		4096ul
#define LARGE		(PAGE * 512)

/* Default number of inputs of a case, and those between two comparisons. */
#define INPUTS		30000
/* DMA takes long. */
#define PROBES		5
#define BATCH		256
/* A comparison with a VM set up from scratch, so to speak, every so often. */
#define GOOD_BATCHES	32

/*
 * The arena, in pages: a queue of all sizes, i.e. one that may run into tables, and
 * tables.  The rest, and all of it, is what tables point to.
 */
#define ARENA		0x100000000ul
#define ARENA_PAGES	1024ul
#define ARENA_SLOT	20
#define QUEUE		ARENA
#define QUEUE_QS	1
#define ROOTS		(ARENA + 16 * PAGE)
#define NR_ROOTS	2ul
#define CONTEXTS	(ARENA + 20 * PAGE)
#define NR_CONTEXTS	3ul
#define TABLES		(ARENA + 32 * PAGE)
#define NR_TABLES	24ul
#define TARGETS		(ARENA + 64 * PAGE)
/* Comes and goes; not all of a large page. */
#define NEXT		(ARENA + ARENA_PAGES * PAGE)
#define NEXT_PAGES	256ul
#define NEXT_SLOT	21
#define READ_ONLY	(ARENA + 4 * LARGE)
#define READ_ONLY_PAGES	512ul
#define READ_ONLY_SLOT	22
/* No memory behind that. */
#define HOLE		(ARENA + 8 * LARGE)

/* Pages that the unit may map: large pages in many places exceed it. */
#define MAX_PAGES	8000ul

#define NOTHING		(~0ul)

/* ---------------------------------------------------------- shared, guest */

enum {
	/* Write memory. */
	FUZZ_MEM,
	/* Write, read-modify-write, and read a register. */
	FUZZ_WRITE,
	FUZZ_XCHG,
	FUZZ_OR,
	FUZZ_READ,
	/* Acknowledge faults. */
	FUZZ_ACK,
	/* Append a descriptor to a queue that works. */
	FUZZ_DESC,
};

/* How a batch ends. */
enum {
	FINAL_QUEUE,
	FINAL_REGS,
	FINAL_ROOT,
	FINAL_TE,
	NR_FINALS,
	/* All of it, as a guest does that begins anew. */
	FINAL_GOOD = NR_FINALS,
	/* Just wait until descriptors are done. */
	FINAL_WAIT,
};

struct fuzz_op {
	u8 kind;
	u8 size;
	u64 addr;
	u64 val;
};

/* Some per input. */
#define MAX_OPS		(4 * BATCH)

struct fuzz {
	u32 nr_ops;
	u32 final;
	u64 root;
	/* What the guest sees at the end. */
	u64 regs[VTD_END / 8];
	/* For the second vCPU: to wait, and whether it does; to end. */
	u32 park;
	u32 parked;
	u32 stop;
	u64 seed;
	u64 hammered;
	struct fuzz_op ops[MAX_OPS];
};

#define FUZZ_PAGES	8ul
#define FUZZ_READY	0xf022

/*
 * Registers can be written in any way, but not with what would hurt the guest: no
 * interrupt other than one with a vector, which stays pending; and nothing that has
 * the root table, or the queue, in the first 4 GiB, where the guest itself is.
 */
static inline u64 harmless(u64 offset, unsigned int size, u64 val)
{
	unsigned int i;

	for (i = 0; i < size; i++) {
		switch (offset + i) {
		case VTD_FEDATA + 1:
		case VTD_IEDATA + 1:
			val &= ~(7ull << (8 * i));
			break;
		case VTD_RTADDR + 4:
		case VTD_IQA + 4:
			val |= 1ull << (8 * i);
			break;
		}
	}
	return val;
}

static void guest_reg(unsigned int kind, unsigned int size, u64 offset, u64 val)
{
	void *reg = (void *)(VIOMMU_BASE + offset);

	switch (kind) {
	case FUZZ_WRITE:
		if (size == 1)
			guest_write8(offset, val);
		else if (size == 2)
			guest_write16(offset, val);
		else if (size == 4)
			guest_write32(offset, val);
		else
			guest_write64(offset, val);
		break;
	case FUZZ_XCHG:
		if (size == 4)
			asm volatile("xchgl %k0, (%1)"
				     : "+r" (val) : "r" (reg) : "memory");
		else
			asm volatile("xchgq %0, (%1)"
				     : "+r" (val) : "r" (reg) : "memory");
		break;
	case FUZZ_OR:
		if (size == 4)
			asm volatile("orl %k0, (%1)"
				     : : "r" (val), "r" (reg) : "memory", "cc");
		else
			asm volatile("orq %0, (%1)"
				     : : "r" (val), "r" (reg) : "memory", "cc");
		break;
	default:
		if (size == 4)
			guest_read32(offset);
		else
			guest_read64(offset);
	}
}

static void guest_ack(void)
{
	guest_ack_faults();
	guest_write32(VTD_ICS, VTD_ICS_IWC);
}

static void guest_wait_register(unsigned int reg, u64 request)
{
	GUEST_WAIT(!(guest_read64(reg) & request));
}

/*
 * Where writes do not exit, whoever writes a read-only register reads that until it
 * is polled and put right.  Then all registers are, once those that were polled at
 * the same time are as well.
 */
static void guest_settle(void)
{
	unsigned int i;

	for (i = 0; i < 2; i++) {
		guest_write32(VTD_VER, ~0);
		GUEST_WAIT(guest_read32(VTD_VER) == 0x10);
	}
}

/* From a unit in any state to one that works, with all invalidated. */
static void guest_final(struct fuzz *f)
{
	if (f->final == FINAL_WAIT) {
		guest_queue_flush();
		return;
	}

	guest_settle();
	guest_ack();
	/* The queue may be stuck, and in any place. */
	guest_command(0, VTD_GCMD_QIE);
	guest_ack();

	switch (f->final) {
	case FINAL_REGS:
		guest_write64(VTD_CCMD, VTD_CCMD_ICC | VTD_CCMD_CIRG(VTD_GLOBAL));
		guest_wait_register(VTD_CCMD, VTD_CCMD_ICC);
		guest_write64(VTD_IOTLB, VTD_IOTLB_IVT |
			      VTD_IOTLB_IIRG(VTD_GLOBAL));
		guest_wait_register(VTD_IOTLB, VTD_IOTLB_IVT);
		guest_enable_queue(QUEUE, QUEUE_QS);
		break;
	case FINAL_ROOT:
		guest_set_root(f->root);
		guest_enable_queue(QUEUE, QUEUE_QS);
		break;
	case FINAL_GOOD:
		guest_command(0, VTD_GCMD_TE);
		guest_set_root(f->root);
		guest_enable_queue(QUEUE, QUEUE_QS);
		guest_queue_add(VTD_QI_CONTEXT(VTD_GLOBAL), 0);
		guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
		guest_queue_flush();
		guest_command(VTD_GCMD_TE, 0);
		break;
	case FINAL_TE:
		guest_command(0, VTD_GCMD_TE);
		guest_command(VTD_GCMD_TE, 0);
		guest_enable_queue(QUEUE, QUEUE_QS);
		break;
	default:
		guest_enable_queue(QUEUE, QUEUE_QS);
		guest_queue_add(VTD_QI_CONTEXT(VTD_GLOBAL), 0);
		guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
	}
	guest_queue_flush();
}

static void guest_park_other(struct fuzz *f, bool park)
{
	WRITE_ONCE(f->park, park);
	GUEST_WAIT(READ_ONCE(f->parked) == park);
}

static void guest_fuzz(void)
{
	struct fuzz *f = (void *)GUEST_SHARED->arg[0];
	bool other = GUEST_SHARED->arg[1];
	unsigned int i;

	for (;;) {
		GUEST_SYNC(FUZZ_READY);
		if (READ_ONCE(f->stop))
			GUEST_DONE();

		if (other)
			guest_park_other(f, false);
		for (i = 0; i < READ_ONCE(f->nr_ops); i++) {
			struct fuzz_op *op = &f->ops[i];

			if (op->kind == FUZZ_MEM)
				WRITE_ONCE(*(u64 *)op->addr, op->val);
			else if (op->kind == FUZZ_ACK)
				guest_ack();
			else if (op->kind == FUZZ_DESC)
				guest_queue_add(op->addr, op->val);
			else
				guest_reg(op->kind, op->size, op->addr, op->val);
		}
		if (other)
			guest_park_other(f, true);

		guest_final(f);
		for (i = 0; i < ARRAY_SIZE(f->regs); i++)
			WRITE_ONCE(f->regs[i], guest_read64(8 * i));
	}
}

static u64 next_random(u64 *state)
{
	u64 x = *state += 0x9e3779b97f4a7c15ull;

	x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
	x = (x ^ x >> 27) * 0x94d049bb133111ebull;
	return x ^ x >> 31;
}

/* The second vCPU: reads and writes registers, in particular those of one bit. */
static void guest_hammer(void)
{
	struct fuzz *f = (void *)GUEST_SHARED->arg[0];
	u64 seed = f->seed, offset, val, r;
	unsigned int size;

	while (!READ_ONCE(f->stop)) {
		if (READ_ONCE(f->park)) {
			WRITE_ONCE(f->parked, 1);
			cpu_relax();
			continue;
		}
		WRITE_ONCE(f->parked, 0);

		r = next_random(&seed);
		val = next_random(&seed);
		size = 4 << (r & 1);
		offset = (r >> 1) % VTD_END & ~(u64)(size - 1);
		/* Commands take time; leave some to the others. */
		if (offset < VTD_RTADDR && offset + size > VTD_GCMD && r >> 60)
			continue;
		guest_reg((r >> 56 & 15) < 10 ? FUZZ_READ :
			  (r >> 56 & 15) < 14 ? FUZZ_WRITE : FUZZ_XCHG,
			  size, offset, harmless(offset, size, val));
		WRITE_ONCE(f->hammered, f->hammered + 1);
	}
	WRITE_ONCE(f->parked, 1);
	GUEST_DONE();
}

/* ------------------------------------------------------------------ state */

struct slot {
	u64 gpa;
	u64 pages;
	bool read_only;
	bool present;
};

struct fuzzer {
	struct viommu_vm t;
	struct edu e;
	bool device;
	u64 worker;
	u64 teardown;
	u64 seed;
	unsigned int batch;

	/* Second vCPU. */
	struct kvm_vcpu *other;
	pthread_t thread;
	u32 other_exit;

	struct fuzz *f;
	/* Those of the arena, the guest's, and the pool. */
	struct slot slots[5];

	/* The next descriptor. */
	u64 tail;
	/* An entry for 1 GiB, which takes long and is not to stay. */
	u64 huge;
	/* As of the last comparison. */
	bool te;
	bool stray;
	u64 limit;
	/* The root table is not in the arena. */
	bool good;
	/* Of the current batch: with more that is invalid. */
	bool wild;
	/* Tables of a guest that behaves. */
	u64 good_tables;

	/* What was done. */
	u64 inputs;
	u64 compared;
	u64 pages;
	u64 translated;
	u64 blocked;
	u64 off;
	u64 limited;
};

static u64 option_seed = 0x5eed;
static u64 option_count = INPUTS;

#define FUZZ_ASSERT(z, cond, fmt, ...)					\
do {									\
	const struct fuzzer *__z = (z);					\
									\
	TEST_ASSERT(cond, "-s 0x%lx, batch %u (%u), %s: " fmt,		\
		    option_seed, __z->batch, __z->f->final, #cond,	\
		    ##__VA_ARGS__);					\
} while (0)

static u64 rnd(struct fuzzer *z)
{
	return next_random(&z->seed);
}

static u64 below(struct fuzzer *z, u64 n)
{
	return rnd(z) % n;
}

/* In so many of 1000 cases. */
static bool chance(struct fuzzer *z, unsigned int permille)
{
	return below(z, 1000) < permille;
}

static struct slot *find_slot(struct fuzzer *z, u64 gpa)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(z->slots); i++) {
		struct slot *s = &z->slots[i];

		if (s->present && gpa >= s->gpa && gpa - s->gpa < s->pages * PAGE)
			return s;
	}
	return NULL;
}

/* ------------------------------------------------------- reference walker */

#define MASK(from, to)	GENMASK_ULL(to, from)

static u64 *read_page(struct fuzzer *z, u64 gpa)
{
	return find_slot(z, gpa) ? viommu_hva(&z->t, gpa) : NULL;
}

static bool read64(struct fuzzer *z, u64 gpa, u64 *val)
{
	u64 *mem = read_page(z, gpa);

	if (mem)
		*val = READ_ONCE(*mem);
	return mem;
}

enum {
	/* Translation is off, or passed through. */
	TO_CONTAINER,
	TO_NOTHING,
	TO_DOMAIN,
};

struct context {
	unsigned int levels;
	u64 tables;
};

static int ref_context(struct fuzzer *z, struct kvm_viommu_state *state,
		       struct context *ctx)
{
	u64 root = state->root, lo, hi;

	if (!(viommu_state32(state, VTD_GSTS) & VTD_GSTS_TES))
		return TO_CONTAINER;

	/* Table type; address width. */
	if (root & (MASK(10, 11) | MASK(HAW, 63)))
		return TO_NOTHING;
	root = (root & ~(PAGE - 1)) + 16 * (SID >> 8);
	if (!read64(z, root, &lo) || !read64(z, root + 8, &hi))
		return TO_NOTHING;
	if (!(lo & 1) || (lo & (MASK(1, 11) | MASK(HAW, 63))) || hi)
		return TO_NOTHING;

	root = (lo & ~(PAGE - 1)) + 16 * (SID & 0xff);
	if (!read64(z, root, &lo) || !read64(z, root + 8, &hi))
		return TO_NOTHING;
	if (!(lo & 1) || (lo & (MASK(4, 11) | MASK(HAW, 63))) ||
	    (hi & (BIT_ULL(7) | MASK(24, 63))))
		return TO_NOTHING;

	switch (hi & 7) {
	case 1:
		ctx->levels = 3;
		break;
	case 2:
		ctx->levels = 4;
		break;
	default:
		return TO_NOTHING;
	}
	ctx->tables = lo & ~(PAGE - 1);

	switch (lo >> 2 & 3) {
	case 0:
		return TO_DOMAIN;
	case 2:
		return TO_CONTAINER;
	default:
		return TO_NOTHING;
	}
}

enum {
	ENTRY_NONE,
	ENTRY_PAGE,
	ENTRY_TABLE,
};

/* What an entry of a paging table is, given what the levels above allow. */
static int ref_entry(u64 pte, unsigned int level, u32 *access)
{
	*access &= pte & 3;
	if (!*access || (pte & MASK(HAW, 51)))
		return ENTRY_NONE;
	if (level > 1 && !(pte & BIT_ULL(7)))
		return ENTRY_TABLE;
	if (level > 3 || (pte & (BIT_ULL(11) | BIT_ULL(62))))
		return ENTRY_NONE;
	if (level > 1 && (pte & MASK(12, 12 + 9 * (level - 1) - 1)))
		return ENTRY_NONE;
	return ENTRY_PAGE;
}

/* Can a page be mapped with that access? */
static bool ref_memory(struct fuzzer *z, u64 gpa, u32 access)
{
	struct slot *slot = find_slot(z, gpa);

	return slot && !((access & 2) && slot->read_only);
}

/* What the tables say about an address, whether there is memory or not. */
static u64 ref_translate(struct fuzzer *z, struct context *ctx, u64 iova,
			 u32 *access)
{
	unsigned int level = ctx->levels, shift;
	u64 table = ctx->tables, pte;

	*access = 3;
	if (iova >> (12 + 9 * level))
		return NOTHING;

	for (;; level--) {
		shift = 12 + 9 * (level - 1);
		if (!read64(z, table + 8 * (iova >> shift & 511), &pte))
			return NOTHING;
		switch (ref_entry(pte, level, access)) {
		case ENTRY_NONE:
			return NOTHING;
		case ENTRY_PAGE:
			return (pte & MASK(12, 51)) | (iova & ((1ul << shift) - 1));
		}
		table = pte & MASK(12, 51);
	}
}

/* Some of the pages that are mapped. */
#define NR_PICKED	24

struct picked {
	u64 pages;
	u64 iova[NR_PICKED];
};

static void ref_count(struct fuzzer *z, u64 table, unsigned int level, u64 iova,
		      u32 access, struct picked *p)
{
	u64 *ptes = read_page(z, table), here, addr, i, n;
	u32 allowed;
	int kind;

	if (!ptes)
		return;

	for (i = 0; i < 512; i++) {
		if (!ptes[i])
			continue;

		allowed = access;
		kind = ref_entry(ptes[i], level, &allowed);
		here = iova + (i << (12 + 9 * (level - 1)));
		addr = ptes[i] & MASK(12, 51);
		if (kind == ENTRY_TABLE)
			ref_count(z, addr, level - 1, here, allowed, p);
		if (kind != ENTRY_PAGE)
			continue;

		for (n = 1ul << (9 * (level - 1)); n; n--) {
			if (ref_memory(z, addr, allowed)) {
				/* Each with the same probability. */
				if (p->pages < NR_PICKED)
					p->iova[p->pages] = here;
				else if (below(z, p->pages) < NR_PICKED)
					p->iova[below(z, NR_PICKED)] = here;
				p->pages++;
			}
			here += PAGE;
			addr += PAGE;
		}
	}
}

/* --------------------------------------------------------------- inputs */

/* Entries that are used: few, as the pages behind them multiply. */
static const u16 indices[] = { 0, 1, 2, 3, 255, 511 };

static u64 some_index(struct fuzzer *z)
{
	return indices[below(z, ARRAY_SIZE(indices))];
}

static u64 some_iova(struct fuzzer *z)
{
	u64 iova = some_index(z) << 12 | some_index(z) << 21 | some_index(z) << 30;

	if (chance(z, 300))
		iova |= some_index(z) << 39;
	if (chance(z, 50))
		iova ^= below(z, 512) << 12;
	if (chance(z, 20))
		iova = rnd(z) >> below(z, 40);
	return iova & ~(PAGE - 1);
}

/*
 * Not the guest's own memory, wherever the unit may write, and not a queue that is
 * taken for tables.
 */
static u64 harmless_entry(struct fuzzer *z, u64 val)
{
	u64 gpa = val & MASK(12, 51);

	if (gpa < VIOMMU_HOLE || (gpa >= QUEUE && gpa < ROOTS))
		val = (val & ~MASK(12, 51)) | (TARGETS + below(z, 64) * PAGE);
	return val;
}

static u64 junk(struct fuzzer *z)
{
	u64 val;

	switch (below(z, 6)) {
	case 0:
		val = rnd(z);
		break;
	case 1:
		val = ~0ull;
		break;
	case 2:
		val = HOLE | below(z, PAGE);
		break;
	case 3:
		val = VIOMMU_BASE | below(z, PAGE);
		break;
	case 4:
		val = APIC_DEFAULT_GPA | below(z, PAGE);
		break;
	default:
		val = (ARENA + below(z, ARENA_PAGES) * PAGE) | below(z, PAGE);
	}
	if (chance(z, 200))
		val ^= 1ull << below(z, 64);
	return harmless_entry(z, val);
}

static void op(struct fuzzer *z, u8 kind, u8 size, u64 addr, u64 val)
{
	struct fuzz *f = z->f;

	FUZZ_ASSERT(z, f->nr_ops < MAX_OPS, "too many operations");
	f->ops[f->nr_ops++] = (struct fuzz_op) {
		.kind = kind,
		.size = size,
		.addr = addr,
		.val = val,
	};
}

static void op_mem(struct fuzzer *z, u64 addr, u64 val)
{
	op(z, FUZZ_MEM, 8, addr, val);
}

static u64 some_table(struct fuzzer *z)
{
	return TABLES + below(z, NR_TABLES) * PAGE;
}

static u64 some_root(struct fuzzer *z)
{
	return ROOTS + below(z, NR_ROOTS) * PAGE;
}

static u64 some_contexts(struct fuzzer *z)
{
	return CONTEXTS + below(z, NR_CONTEXTS) * PAGE;
}

static u64 paging_entry(struct fuzzer *z)
{
	unsigned int r = below(z, 1000);
	u64 val;

	if (r < 150)
		return 0;
	if (z->wild && r < 200)
		return junk(z);

	if (r < 550)
		val = some_table(z);
	else if (r < 800)
		val = TARGETS + below(z, 900) * PAGE;
	else if (r < 850 && z->slots[1].present)
		val = NEXT + below(z, NEXT_PAGES + 8 * z->wild) * PAGE;
	else if (r < 900 && z->wild)
		val = READ_ONLY + below(z, READ_ONLY_PAGES + 8) * PAGE;
	else if (r < 930 && z->wild)
		val = HOLE + below(z, 1 << 20) * PAGE;
	else if (r < 970)
		val = (ARENA + LARGE) | VTD_SL_PS;
	else if (!z->wild)
		return READ_ONLY | VTD_SL_PS | VTD_SL_R;
	else if (r < 980)
		val = NEXT | VTD_SL_PS;
	else if (r < 996)
		val = READ_ONLY | VTD_SL_PS;
	else
		val = (HOLE + below(z, 1 << 10) * LARGE + LARGE) | VTD_SL_PS;

	r = below(z, 100);
	val |= r < 70 ? VTD_SL_RW : r < 85 ? VTD_SL_R : VTD_SL_W;
	/* Reserved, ignored, or an address that is too large. */
	if (z->wild && chance(z, 30))
		val ^= 1ull << below(z, 12);
	if (z->wild && chance(z, 20))
		val ^= 1ull << (HAW + below(z, 64 - HAW));
	return val;
}

static void input_entry(struct fuzzer *z)
{
	u64 addr = some_table(z) + 8 * some_index(z), val = paging_entry(z);

	/* Rarely; it is 1 GiB if it is an entry of level 3. */
	if (!z->huge && chance(z, 1)) {
		val = ARENA | VTD_SL_PS | VTD_SL_RW;
		z->huge = addr;
	}
	op_mem(z, addr, val);
}

static void input_root(struct fuzzer *z, bool valid)
{
	u64 addr = some_root(z) + 16 * (SID >> 8);

	if (!valid && chance(z, 200))
		addr = some_root(z) + 16 * below(z, 256);
	op_mem(z, addr, !valid && chance(z, 300) ? junk(z) :
			some_contexts(z) | VTD_ROOT_P);
	op_mem(z, addr + 8, !valid && chance(z, 100) ? junk(z) : 0);
}

static void input_context(struct fuzzer *z, bool valid)
{
	u64 addr = some_contexts(z) + 16 * (SID & 0xff), lo, hi;

	lo = some_table(z) | VTD_CTX_P;
	hi = VTD_CTX_AW(chance(z, 700) ? VTD_AW_39 : VTD_AW_48) |
	     VTD_CTX_DID(1 + below(z, 3));
	if (!valid) {
		if (chance(z, 200))
			addr = some_contexts(z) + 16 * below(z, 256);
		if (chance(z, 150))
			lo = junk(z);
		if (chance(z, 150))
			lo |= VTD_CTX_TT(below(z, 4));
		if (chance(z, 100))
			lo ^= 1ull << below(z, 64);
		if (chance(z, 100))
			hi = rnd(z);
		if (chance(z, 100))
			hi ^= 1ull << below(z, 64);
		lo = harmless_entry(z, lo);
	}
	op_mem(z, addr, lo);
	op_mem(z, addr + 8, hi);
}

/* Where a wait descriptor writes to: anywhere but where it would hurt. */
static u64 some_status(struct fuzzer *z)
{
	u64 addr;

	switch (below(z, 8)) {
	case 0:
		addr = HOLE;
		break;
	case 1:
		addr = VIOMMU_BASE;
		break;
	case 2:
		addr = READ_ONLY;
		break;
	case 3:
		addr = some_table(z);
		break;
	case 4:
		addr = NEXT + below(z, NEXT_PAGES) * PAGE;
		break;
	case 5:
		return harmless_entry(z, rnd(z));
	default:
		addr = TARGETS;
	}
	return addr + (below(z, PAGE) & ~3ul);
}

static void input_descriptor(struct fuzzer *z)
{
	unsigned int r = below(z, 100);
	u64 lo, hi = 0;

	if (r < 55) {
		r = below(z, 100);
		lo = VTD_QI_IOTLB(r < 85 ? VTD_PAGES : r < 92 ? VTD_DOMAIN :
				  r < 95 || !z->wild ? VTD_GLOBAL : 0);
		lo |= VTD_QI_IOTLB_DID(chance(z, 900) ? 1 + below(z, 3) : rnd(z) & 0xffff);
		if (chance(z, 500))
			lo |= VTD_QI_IOTLB_DW | VTD_QI_IOTLB_DR;
		r = below(z, 100);
		hi = some_iova(z) | VTD_QI_IOTLB_AM(r < 60 ? 0 : r < 94 ? below(z, 10) :
						    r < 98 || !z->wild ? below(z, 19) :
						    below(z, 64));
		if (chance(z, 200))
			hi |= VTD_QI_IOTLB_IH;
	} else if (r < 70) {
		lo = VTD_QI_CONTEXT(z->wild ? below(z, 4) : 1 + below(z, 3)) |
		     VTD_QI_CC_DID(below(z, 4)) |
		     VTD_QI_CC_SID(chance(z, 700) ? SID : rnd(z) & 0xffff) |
		     VTD_QI_CC_FM(below(z, 4));
	} else if (r < 92 || !z->wild) {
		/* What is written is not an entry that points to the guest. */
		lo = VTD_QI_WAIT | VTD_QI_WAIT_DATA(rnd(z) | BIT(31));
		if (chance(z, 700)) {
			lo |= VTD_QI_WAIT_SW;
			hi = some_status(z);
		}
		if (chance(z, z->wild ? 200 : 20))
			lo |= VTD_QI_WAIT_IF;
		if (chance(z, 200))
			lo |= VTD_QI_WAIT_FN;
	} else {
		lo = chance(z, 500) ? below(z, 32) : rnd(z);
		hi = chance(z, 500) ? 0 : rnd(z);
	}
	if (z->wild && chance(z, 15))
		lo ^= 1ull << below(z, 64);
	if (z->wild && chance(z, 15))
		hi ^= 1ull << below(z, 64);
	/* A wait descriptor again, or others in a queue that is read as such. */
	if ((lo & 0xf) == VTD_QI_WAIT)
		hi = harmless_entry(z, hi);

	op_mem(z, QUEUE + z->tail, lo);
	op_mem(z, QUEUE + z->tail + 8, hi);
	z->tail = (z->tail + 16) & ((PAGE << QUEUE_QS) - 1);
	if (chance(z, 500))
		op(z, FUZZ_WRITE, 8, VTD_IQT, z->tail);
}

/* A value that makes sense for a register. */
static u64 some_value(struct fuzzer *z, u64 offset)
{
	switch (offset) {
	case VTD_GCMD:
		return (chance(z, 900) ? VTD_GCMD_TE : 0) |
		       (chance(z, 900) ? VTD_GCMD_QIE : 0) |
		       (chance(z, 200) ? VTD_GCMD_SRTP : 0);
	case VTD_RTADDR:
		return some_root(z);
	case VTD_CCMD:
		return VTD_CCMD_ICC | VTD_CCMD_CIRG(below(z, 4)) |
		       VTD_CCMD_SID(SID) | below(z, 4);
	case VTD_IOTLB:
		return VTD_IOTLB_IVT | VTD_IOTLB_IIRG(below(z, 4)) |
		       VTD_IOTLB_DID(below(z, 4));
	case VTD_IVA:
		return some_iova(z) | below(z, 20);
	case VTD_IQT:
		return chance(z, 800) || !z->wild ? z->tail : below(z, 1024) * 16;
	case VTD_IQA:
		return QUEUE | QUEUE_QS;
	case VTD_FECTL:
	case VTD_IECTL:
		return below(z, 4) << 30;
	default:
		return chance(z, 500) ? ~0ull : 0;
	}
}

static void input_register(struct fuzzer *z)
{
	static const u16 often[] = {
		VTD_RTADDR, VTD_CCMD, VTD_FSTS, VTD_FECTL, VTD_FEDATA,
		VTD_FEADDR, VTD_FEUADDR, VTD_IQT, VTD_IQT, VTD_IQT, VTD_ICS,
		VTD_IECTL, VTD_IEDATA, VTD_IEADDR, VTD_IVA, VTD_IOTLB,
		VTD_FRCD_HI(0), VTD_FRCD_HI(1), VTD_FRCD_HI(5),
	};
	u64 offset, val, size = 8;
	unsigned int kind = FUZZ_WRITE;

	if (!z->wild)
		offset = chance(z, 800) ? VTD_IQT : chance(z, 900) ? VTD_IVA : VTD_GCMD;
	else if (chance(z, 40))
		offset = chance(z, 700) ? VTD_GCMD : VTD_IQA;
	else if (chance(z, 800))
		offset = often[below(z, ARRAY_SIZE(often))];
	else if (chance(z, 700))
		offset = below(z, VTD_END);
	else
		offset = below(z, PAGE);
	/* Of eight bytes, but those of four. */
	if (offset == VTD_GCMD || (offset >= VTD_FSTS && offset < VTD_IQH) ||
	    (offset >= VTD_ICS && offset < VTD_IQERCD))
		size = 4;

	val = chance(z, 600) || !z->wild ? some_value(z, offset) :
	      chance(z, 500) ? rnd(z) : junk(z);
	if (z->wild && chance(z, 100))
		size = 1 << below(z, 4);
	if (z->wild && chance(z, 50))
		offset += below(z, 8);
	if (chance(z, 100))
		kind = FUZZ_XCHG + below(z, 3);
	if (kind != FUZZ_WRITE && size < 4)
		size = 4;
	if (offset + size > PAGE)
		offset = PAGE - size;
	if (kind == FUZZ_OR)
		/* What it makes of it depends on what is there. */
		val &= ~0x0700000007000000ull;
	op(z, kind, size, offset, harmless(offset, size, val));
}

static void make_batch(struct fuzzer *z)
{
	struct fuzz *f = z->f;
	unsigned int i, r;

	f->nr_ops = 0;
	z->tail = 0;
	z->wild = chance(z, 500);
	if (z->huge) {
		op_mem(z, z->huge, 0);
		z->huge = 0;
	}
	if (!z->wild || chance(z, 800))
		op(z, FUZZ_ACK, 0, 0, 0);

	for (i = 0; i < BATCH; i++) {
		r = below(z, 1000);
		if (r < 400)
			input_entry(z);
		else if (r < 430)
			input_context(z, !z->wild);
		else if (r < 450)
			input_root(z, !z->wild);
		else if (r < 750)
			input_descriptor(z);
		else if (r < 980)
			input_register(z);
		else
			op(z, FUZZ_ACK, 0, 0, 0);
		z->inputs++;
	}

	/* Let there be something to compare, most of the time. */
	if (!z->wild || chance(z, 500)) {
		for (i = 0; i < NR_ROOTS; i++) {
			op_mem(z, ROOTS + i * PAGE, some_contexts(z) | VTD_ROOT_P);
			op_mem(z, ROOTS + i * PAGE + 8, 0);
		}
		for (i = 0; i < NR_CONTEXTS; i++)
			input_context(z, true);
	}
	f->final = below(z, NR_FINALS);
	if (!z->te && chance(z, 700))
		f->final = FINAL_TE;
	f->root = chance(z, 950) ? some_root(z) : harmless(VTD_RTADDR, 8, junk(z));
	/* The root table is anywhere. */
	if (z->good || (z->stray && chance(z, 700)))
		f->final = FINAL_ROOT;
	z->good = false;
}

/* ------------------------------------------------------------- comparison */

static u64 reach(struct fuzzer *z, u64 iova, u32 *access)
{
	struct kvm_viommu_translate tr;
	int err = __viommu_translate(z->t.fd, SID, iova, KVM_VIOMMU_READ,
				     KVM_VIOMMU_TRANSLATE_SHADOW, &tr);

	*access = 0;
	if (err) {
		FUZZ_ASSERT(z, err == EFAULT, "%s", strerror(err));
		return NOTHING;
	}
	*access = tr.access;
	return tr.gpa;
}

enum {
	/* All that the tables say is mapped, and nothing else. */
	EXACT,
	/* ... not all, as there are too many pages. */
	LIMITED,
	/* ... but what was there before may be there still. */
	LAZY,
};

static void compare_reach(struct fuzzer *z, int where, struct context *ctx, u64 iova,
			  int mode, u64 got, u32 got_access)
{
	u64 want = iova;
	u32 access = 3;

	if (where == TO_NOTHING) {
		want = NOTHING;
	} else if (where == TO_DOMAIN) {
		want = ref_translate(z, ctx, iova, &access);
		if (want != NOTHING && !ref_memory(z, want, access))
			want = NOTHING;
	}
	if (want == NOTHING)
		access = 0;
	z->compared++;
	if (got == want && got_access == access)
		return;
	if ((mode == LIMITED && got == NOTHING) || (mode == LAZY && want == NOTHING))
		return;
	FUZZ_ASSERT(z, false,
		    "at 0x%lx the device reaches 0x%lx (%u), tables say 0x%lx (%u)",
		    iova, got, got_access, want, access);
}

/* What the unit itself makes of the tables, as opposed to what is mapped. */
static void compare_tables(struct fuzzer *z, int where, struct context *ctx, u64 iova,
			   bool te)
{
	struct kvm_viommu_translate tr;
	u64 want = iova;
	u32 access = 3;
	int i, err;

	if (where == TO_DOMAIN)
		want = ref_translate(z, ctx, iova, &access);
	else if (where == TO_NOTHING || (te && iova >> HAW))
		want = NOTHING;

	for (i = KVM_VIOMMU_READ; i <= KVM_VIOMMU_WRITE; i++) {
		err = __viommu_translate(z->t.fd, SID, iova, i,
					 KVM_VIOMMU_TRANSLATE_QUIET, &tr);
		if (want == NOTHING || !(access & i))
			FUZZ_ASSERT(z, err == EFAULT && tr.fault &&
				    tr.fault <= VTD_FAULT_PTE_RSVD,
				    "at 0x%lx (%u): %s, fault 0x%x", iova, i,
				    strerror(err), tr.fault);
		else
			FUZZ_ASSERT(z, !err && tr.gpa == want && tr.access == access,
				    "at 0x%lx: %s, 0x%llx (%u), not 0x%lx (%u)", iova,
				    strerror(err), tr.gpa, tr.access, want, access);
	}
	z->compared++;
}

/* Bits that can be other than 0; undefined registers have none. */
static u64 defined_bits(unsigned int reg)
{
	switch (reg) {
	case VTD_VER:
		return 0xff;
	case VTD_CAP:
	case VTD_ECAP:
	case VTD_FEADDR:
		return ~(reg == VTD_FEADDR ? 3ull : 0);
	case VTD_GCMD:
		/* And GSTS; what can be read of GCMD is not defined. */
		return (u64)(VTD_GSTS_TES | VTD_GSTS_RTPS | VTD_GSTS_QIES) << 32 |
		       0xffffffff;
	case VTD_RTADDR:
		return MASK(10, 63);
	case VTD_CCMD:
		return ~(u64)MASK(34, 58);
	case VTD_FSTS & ~7:
		return (u64)(MASK(8, 15) | VTD_FSTS_PFO | VTD_FSTS_PPF |
			     VTD_FSTS_IQE) << 32;
	case VTD_FECTL:
		return 0xffffffffull << 32 | VTD_CTL_IM | VTD_CTL_IP;
	case VTD_IQH:
	case VTD_IQT:
		return MASK(4, 18);
	case VTD_IQA:
		return MASK(12, 63) | 7;
	case VTD_ICS & ~7:
		return (u64)VTD_ICS_IWC << 32;
	case VTD_IECTL:
		return 0xffffffffull << 32 | VTD_CTL_IM | VTD_CTL_IP;
	case VTD_IEADDR:
		return ~3ull;
	case VTD_IQERCD:
		return 0xf;
	case VTD_IVA:
		return MASK(12, 63) | 0x7f;
	case VTD_IOTLB:
		return BIT_ULL(63) | MASK(60, 61) | MASK(57, 58) | MASK(32, 49);
	case VTD_FRCD_LO(0) ... VTD_END - 1:
		return reg & 8 ? BIT_ULL(63) | BIT_ULL(62) | MASK(32, 39) | 0xffff :
				 MASK(12, 63);
	default:
		return 0;
	}
}

static void compare_registers(struct fuzzer *z, struct kvm_viommu_state *state)
{
	u64 bits;
	int i;

	for (i = 0; i < VTD_END / 8; i++) {
		bits = defined_bits(8 * i);
		FUZZ_ASSERT(z, !(state->regs[i] & ~bits), "register 0x%x is 0x%llx",
			    8 * i, state->regs[i]);
		/*
		 * What is not a register is memory if a guest's writes do not exit,
		 * or did not before.
		 */
		if (z->worker != KVM_VIOMMU_WORKER_NONE) {
			if (!(bits & MASK(0, 31)))
				bits |= MASK(0, 31);
			if (!(bits & MASK(32, 63)))
				bits |= MASK(32, 63);
		}
		FUZZ_ASSERT(z, !(z->f->regs[i] & ~bits),
			    "register 0x%x is read as 0x%lx", 8 * i, z->f->regs[i]);
	}
	for (; i < KVM_VIOMMU_NR_REGS; i++)
		FUZZ_ASSERT(z, !state->regs[i], "register 0x%x is 0x%llx", 8 * i,
			    state->regs[i]);

	FUZZ_ASSERT(z, state->regs[VTD_VER / 8] == 0x10, "VER is 0x%llx",
		    state->regs[VTD_VER / 8]);
	FUZZ_ASSERT(z, state->regs[VTD_CAP / 8] ==
		    viommu_get_config(z->t.fd, KVM_DEV_VIOMMU_CONFIG_CAP),
		    "CAP is 0x%llx", state->regs[VTD_CAP / 8]);
	FUZZ_ASSERT(z, viommu_state32(state, VTD_GSTS) & VTD_GSTS_QIES,
		    "GSTS is 0x%x", viommu_state32(state, VTD_GSTS));
	FUZZ_ASSERT(z, state->regs[VTD_IQH / 8] == state->regs[VTD_IQT / 8],
		    "IQH is 0x%llx, IQT is 0x%llx", state->regs[VTD_IQH / 8],
		    state->regs[VTD_IQT / 8]);
}

#define NR_EARLY	16
#define NR_SAMPLES	48

/* All that is to hold when invalidations are complete. */
static void compare(struct fuzzer *z)
{
	bool te, root = z->f->final == FINAL_ROOT ||
			       z->f->final == FINAL_GOOD;
	struct kvm_viommu_state state;
	u64 iova[NR_EARLY], got[NR_EARLY], i, pins, limit;
	u32 access[NR_EARLY], acc;
	struct picked picked = {};
	struct context ctx;
	int where, mode;

	/*
	 * Getting the state has the unit finish what is to be done, which must not
	 * make a difference.
	 */
	for (i = 0; z->device && i < NR_EARLY; i++) {
		iova[i] = some_iova(z);
		got[i] = reach(z, iova[i], &access[i]);
	}

	viommu_get_state(z->t.fd, &state);
	compare_registers(z, &state);
	if (root)
		FUZZ_ASSERT(z, state.root == (z->f->root & MASK(10, 63)),
			    "the root table is 0x%llx, not 0x%lx", state.root,
			    z->f->root);
	te = viommu_state32(&state, VTD_GSTS) & VTD_GSTS_TES;
	z->te = te;
	where = ref_context(z, &state, &ctx);
	if (where == TO_DOMAIN)
		ref_count(z, ctx.tables, ctx.levels, 0, 3, &picked);
	z->stray = where == TO_NOTHING;
	z->translated += where == TO_DOMAIN;
	z->blocked += where == TO_NOTHING;
	z->off += where == TO_CONTAINER;
	for (i = 0; i < 8; i++)
		compare_tables(z, where, &ctx, some_iova(z), te);
	if (!z->device)
		return;

	/* What is about to be unmapped counts as well when others are mapped. */
	limit = viommu_stat(&z->t, "viommu_limit");
	mode = limit != z->limit ? LIMITED : EXACT;
	z->limit = limit;
	FUZZ_ASSERT(z, mode == LIMITED || picked.pages <= MAX_PAGES,
		    "the limit was not noticed");
	if (mode == EXACT && z->teardown != KVM_VIOMMU_TEARDOWN_STRICT)
		mode = LAZY;
	for (i = 0; i < NR_EARLY; i++)
		compare_reach(z, where, &ctx, iova[i], mode, got[i], access[i]);
	/* What was unmapped goes away while nothing happens. */
	if (mode == LAZY && chance(z, 300)) {
		VIOMMU_ASSERT_WAIT(viommu_stat(&z->t, "viommu_pinned") == picked.pages,
				   "-s 0x%lx, batch %u: %lu pages stay pinned, tables map %lu",
				   option_seed, z->batch,
				   (unsigned long)viommu_stat(&z->t, "viommu_pinned"),
				   picked.pages);
		mode = EXACT;
	}
	for (i = 0; i < NR_SAMPLES; i++) {
		iova[0] = some_iova(z);
		got[0] = reach(z, iova[0], &acc);
		compare_reach(z, where, &ctx, iova[0], mode, got[0], acc);
	}
	for (i = 0; i < picked.pages && i < NR_PICKED; i++) {
		got[0] = reach(z, picked.iova[i], &acc);
		compare_reach(z, where, &ctx, picked.iova[i], mode, got[0], acc);
	}

	pins = viommu_stat(&z->t, "viommu_pinned");
	if (mode == LIMITED) {
		/* Large pages wait, too. */
		FUZZ_ASSERT(z, z->teardown != KVM_VIOMMU_TEARDOWN_STRICT ||
			    pins <= MAX_PAGES, "%lu pages are pinned", pins);
		z->limited++;
		return;
	}
	FUZZ_ASSERT(z, mode == EXACT ? pins == picked.pages : pins >= picked.pages,
		    "%lu pages are pinned, tables map %lu", pins, picked.pages);
	z->pages += picked.pages;
}

/* ------------------------------------------------------------- machinery */

static void *hammer_thread(void *arg)
{
	struct fuzzer *z = arg;
	struct ucall uc;

	vcpu_run(z->other);
	if (get_ucall(z->other, &uc) == UCALL_ABORT)
		REPORT_GUEST_ASSERT(uc);
	z->other_exit = uc.cmd == UCALL_DONE ? 0 : z->other->run->exit_reason;
	return NULL;
}

static void add_slot(struct fuzzer *z, unsigned int slot)
{
	struct slot *s = &z->slots[slot - ARENA_SLOT];

	vm_userspace_mem_region_add(z->t.vm, VM_MEM_SRC_ANONYMOUS, s->gpa, slot,
				    s->pages, s->read_only ? KVM_MEM_READONLY : 0);
	s->present = true;
}

/* What a guest that behaves well has, in memory that is not the arena. */
#define GOOD_IOVA	0x12345000ul
#define GOOD_PAGE	(TARGETS + 7 * PAGE)
#define GOOD_DID	9

static void good_tables(struct fuzzer *z)
{
	z->good_tables = viommu_alloc(&z->t, 1);
	viommu_sl_map(&z->t, z->good_tables, 48, GOOD_IOVA, GOOD_PAGE, 1, VTD_SL_RW);
	viommu_set_context(&z->t, SID, GOOD_DID, z->good_tables, 48);
}

static void fuzz_create(struct fuzzer *z, u64 worker, u64 teardown, bool other)
{
	u64 gpa;

	z->worker = worker;
	z->teardown = teardown;
	z->device = !edu_missing();
	z->seed = option_seed + (worker * 3 + teardown) * 2 + other;
	viommu_vm_create(&z->t, guest_fuzz);
	if (other)
		z->other = vm_vcpu_add(z->t.vm, 1, guest_hammer);

	z->slots[0] = (struct slot) { .gpa = ARENA, .pages = ARENA_PAGES };
	z->slots[1] = (struct slot) { .gpa = NEXT, .pages = NEXT_PAGES };
	z->slots[2] = (struct slot) { .gpa = READ_ONLY, .pages = READ_ONLY_PAGES,
				      .read_only = true };
	add_slot(z, ARENA_SLOT);
	add_slot(z, NEXT_SLOT);
	add_slot(z, READ_ONLY_SLOT);
	z->slots[3] = (struct slot) {
		.pages = memslot2region(z->t.vm, 0)->region.memory_size / PAGE,
		.present = true,
	};
	z->slots[4] = (struct slot) {
		.gpa = VIOMMU_POOL,
		.pages = VIOMMU_POOL_PAGES,
		.present = true,
	};
	virt_map(z->t.vm, ARENA, ARENA, ARENA_PAGES);

	TEST_ASSERT(sizeof(*z->f) <= FUZZ_PAGES * PAGE, "%zu", sizeof(*z->f));
	gpa = viommu_alloc(&z->t, FUZZ_PAGES);
	z->f = viommu_hva(&z->t, gpa);
	z->t.sh->arg[0] = gpa;
	z->t.sh->arg[1] = other;

	viommu_vm_add_unit(&z->t);
	viommu_set_config(z->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER, worker);
	viommu_set_config(z->t.fd, KVM_DEV_VIOMMU_CONFIG_MAX_PAGES, MAX_PAGES);
	viommu_set_config(z->t.fd, KVM_DEV_VIOMMU_CONFIG_TEARDOWN,
			  teardown);
	viommu_init(z->t.fd);
	if (z->device) {
		edu_open(&z->e);
		TEST_ASSERT_EQ(__viommu_add_device(z->t.fd, SID, z->e.group,
						   z->e.name), 0);
	}
	good_tables(z);
	z->good = true;

	z->f->seed = rnd(z);
	if (other) {
		z->f->park = 1;
		TEST_ASSERT(!pthread_create(&z->thread, NULL, hammer_thread, z),
			    "pthread_create()");
	}
	viommu_run_to(&z->t, FUZZ_READY);
}

static void fuzz_destroy(struct fuzzer *z)
{
	if (z->device)
		edu_close(&z->e);
	viommu_vm_destroy(&z->t);
}

/* A unit that all that was done to it does not keep from working. */
static void check_good(struct fuzzer *z)
{
	u32 access;
	u64 got;

	z->f->nr_ops = 0;
	z->f->final = FINAL_GOOD;
	z->f->root = z->t.root;
	viommu_run_to(&z->t, FUZZ_READY);
	compare(z);
	z->good = true;
	if (!z->device)
		return;

	got = reach(z, GOOD_IOVA, &access);
	FUZZ_ASSERT(z, got == GOOD_PAGE && access == VTD_SL_RW,
		    "the device reaches 0x%lx (%u)", got, access);
	VIOMMU_ASSERT_WAIT(viommu_stat(&z->t, "viommu_pinned") == 1,
			   "%lu pages stay pinned",
			   (unsigned long)viommu_stat(&z->t, "viommu_pinned"));
}

/* Where pages come and go for DMA, and what they are. */
#define PROBE_IOVA	0x80000000ul
#define PROBE_PAGES	16ul

static void fill(struct fuzzer *z, u64 *mem, u64 pages)
{
	u64 i;

	for (i = 0; i < pages * PAGE / sizeof(*mem); i++)
		mem[i] = rnd(z);
}

static u64 *probe_entry(struct fuzzer *z, u64 page)
{
	return viommu_sl_entry(&z->t, z->good_tables, 48,
			       PROBE_IOVA + page * PAGE, 1);
}

/*
 * DMA to and from a page: it changes that and nothing else, or nothing, and it
 * reads that, or nothing of it, as the entry says.
 */
static void probe(struct fuzzer *z, u64 page)
{
	u64 *bounce = viommu_hva(&z->t, GOOD_PAGE), pte = *probe_entry(z, page), i;
	u64 gpa = pte & VTD_SL_ADDR, want[PROBE_PAGES * 512];
	u64 *mem = viommu_hva(&z->t, TARGETS + 16 * PAGE);
	u64 *target = (void *)mem + (gpa - (TARGETS + 16 * PAGE));
	u64 copy[512];

	fill(z, bounce, 1);
	fill(z, mem, PROBE_PAGES);
	memcpy(want, mem, sizeof(want));
	if (pte & VTD_SL_W)
		memcpy((void *)want + ((void *)target - (void *)mem), bounce, PAGE);
	edu_load(&z->e, GOOD_IOVA, PAGE);
	edu_store(&z->e, PROBE_IOVA + page * PAGE, PAGE);
	FUZZ_ASSERT(z, !memcmp(want, mem, sizeof(want)),
		    "DMA to page %lu with entry 0x%lx", page, pte);

	fill(z, mem, PROBE_PAGES);
	memset(bounce, 0xee, PAGE);
	edu_load(&z->e, PROBE_IOVA + page * PAGE, PAGE);
	edu_store(&z->e, GOOD_IOVA, PAGE);
	if (pte & VTD_SL_R) {
		FUZZ_ASSERT(z, !memcmp(target, bounce, PAGE),
			    "DMA from page %lu with entry 0x%lx", page, pte);
	} else if (!pte) {
		memcpy(copy, bounce, PAGE);
		for (i = 0; i < PROBE_PAGES * 512; i++)
			FUZZ_ASSERT(z, copy[i % 512] != mem[i],
				    "DMA from page %lu, which is not mapped", page);
	}
	/* If only writes are allowed then reads are up to the host. */
}

/* After each completion the device itself sees what the tables say. */
static void probe_dma(struct fuzzer *z, unsigned int probes)
{
	u64 first, n, i, mapped;
	unsigned int am;

	check_good(z);
	while (probes--) {
		z->batch++;
		z->f->nr_ops = 0;
		z->f->final = FINAL_WAIT;
		am = below(z, 5);
		n = 1 << am;
		first = below(z, PROBE_PAGES) & ~(n - 1);
		for (i = first; i < first + n; i++) {
			u64 gpa = TARGETS + (16 + below(z, PROBE_PAGES)) * PAGE;

			*probe_entry(z, i) = chance(z, 500) ? 0 :
					     gpa | (1 + below(z, 3));
			z->inputs++;
		}
		if (chance(z, 800))
			op(z, FUZZ_DESC, 0,
			   VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(GOOD_DID),
			   (PROBE_IOVA + first * PAGE) | VTD_QI_IOTLB_AM(am));
		else
			op(z, FUZZ_DESC, 0, VTD_QI_IOTLB(VTD_DOMAIN) |
					    VTD_QI_IOTLB_DID(GOOD_DID), 0);
		viommu_run_to(&z->t, FUZZ_READY);

		for (mapped = 1, i = 0; i < PROBE_PAGES; i++)
			mapped += *probe_entry(z, i) != 0;
		if (z->teardown == KVM_VIOMMU_TEARDOWN_STRICT)
			FUZZ_ASSERT(z, viommu_stat(&z->t, "viommu_pinned") == mapped,
				    "%lu pages are pinned, %lu mapped",
				    (unsigned long)viommu_stat(&z->t, "viommu_pinned"),
				    mapped);
		else
			VIOMMU_ASSERT_WAIT(viommu_stat(&z->t, "viommu_pinned") == mapped,
					   "Not %lu pages are pinned", mapped);
		/* Within what has changed. */
		probe(z, first + below(z, n));
	}
}

static void save_and_restore(struct fuzzer *z)
{
	struct kvm_viommu_state state;

	viommu_get_state(z->t.fd, &state);
	viommu_set_state(z->t.fd, &state);
	compare(z);
}

static void fuzz(struct fuzzer *z, u64 count)
{
	struct slot *next = &z->slots[1];

	while (z->inputs < count) {
		z->batch++;
		if (next->present && chance(z, 60)) {
			vm_mem_region_delete(z->t.vm, NEXT_SLOT);
			next->present = false;
		} else if (!next->present && chance(z, 300)) {
			add_slot(z, NEXT_SLOT);
		}

		make_batch(z);
		viommu_run_to(&z->t, FUZZ_READY);
		compare(z);
		if (chance(z, 60))
			save_and_restore(z);
		if (z->batch % GOOD_BATCHES == 0)
			check_good(z);
	}
	check_good(z);
	if (z->device && !z->other)
		probe_dma(z, 1);

	if (z->other) {
		WRITE_ONCE(z->f->stop, 1);
		pthread_join(z->thread, NULL);
		TEST_ASSERT(!z->other_exit, "The second vCPU: %s",
			    exit_reason_str(z->other_exit));
		TEST_ASSERT(z->f->hammered, "The second vCPU did nothing");
	}
}

static void report(struct fuzzer *z)
{
	u64 traps = viommu_stat(&z->t, "viommu_traps");
	u64 hits = viommu_stat(&z->t, "viommu_hits");
	u64 errors = viommu_stat(&z->t, "viommu_queue_errors");
	u64 faults = viommu_stat(&z->t, "viommu_faults");

	pr_info("# %lu inputs, %lu by the second vCPU, %u batches: %lu translated, %lu blocked, %lu off, %lu beyond the limit\n",
		z->inputs, z->f->hammered, z->batch, z->translated, z->blocked,
		z->off, z->limited);
	pr_info("# %lu addresses and %lu mapped pages compared; %lu exits, %lu polls with something, %lu queue errors, %lu faults\n",
		z->compared, z->pages, traps, hits, errors, faults);
	/* It all happened. */
	TEST_ASSERT(errors && traps, "Nothing happened");
	if (z->worker != KVM_VIOMMU_WORKER_NONE)
		TEST_ASSERT(hits, "Nothing was polled");
	if (z->device)
		TEST_ASSERT(z->translated > z->batch / 4 && z->pages && faults,
			    "Hardly anything was translated");
}

FIXTURE(fuzz) {
	struct fuzzer z;
	s64 pins;
	long poll_us;
};

FIXTURE_VARIANT(fuzz) {
	u64 worker;
	u64 teardown;
};

FIXTURE_VARIANT_ADD(fuzz, vcpu) {
	.worker = KVM_VIOMMU_WORKER_NONE,
};

FIXTURE_VARIANT_ADD(fuzz, sidecore) {
	.worker = KVM_VIOMMU_WORKER_SIDECORE,
};

FIXTURE_VARIANT_ADD(fuzz, task) {
	.worker = KVM_VIOMMU_WORKER_TASK,
};

FIXTURE_VARIANT_ADD(fuzz, deferred) {
	.worker = KVM_VIOMMU_WORKER_TASK,
	.teardown = KVM_VIOMMU_TEARDOWN_DEFERRED,
};

FIXTURE_VARIANT_ADD(fuzz, optimistic) {
	.worker = KVM_VIOMMU_WORKER_TASK,
	.teardown = KVM_VIOMMU_TEARDOWN_OPTIMISTIC,
};

FIXTURE_SETUP(fuzz)
{
	if (variant->worker == KVM_VIOMMU_WORKER_SIDECORE &&
	    !viommu_has_sidecores())
		SKIP(return, "kvm.sidecore_cpus is empty");
	self->pins = host_pins();
	self->poll_us = viommu_param("viommu_poll_us", 1000);
	/* Stay in direct mode while the host compares. */
	viommu_set_param("viommu_poll_us", 50000);
}

FIXTURE_TEARDOWN(fuzz)
{
	fuzz_destroy(&self->z);
	viommu_set_param("viommu_poll_us", self->poll_us);
	VIOMMU_ASSERT_WAIT(host_pins() == self->pins, "%ld pages stay pinned",
			   (long)(host_pins() - self->pins));
}

/* The limit is for what is done in a run of many inputs. */
#define FUZZ_TIMEOUT	36000

TEST_F_TIMEOUT(fuzz, one_vcpu, FUZZ_TIMEOUT)
{
	fuzz_create(&self->z, variant->worker, variant->teardown, false);
	fuzz(&self->z, option_count);
	report(&self->z);
}

TEST_F_TIMEOUT(fuzz, two_vcpus, FUZZ_TIMEOUT)
{
	fuzz_create(&self->z, variant->worker, variant->teardown, true);
	fuzz(&self->z, option_count);
	report(&self->z);
}

TEST_F_TIMEOUT(fuzz, dma, FUZZ_TIMEOUT)
{
	const char *missing = edu_missing();

	fuzz_create(&self->z, variant->worker, variant->teardown, false);
	if (missing)
		SKIP(return, "%s", missing);
	probe_dma(&self->z, PROBES + option_count / 20000);
}

/* "-s SEED" and "-n COUNT"; others are the harness's. */
static void take_options(int *argc, char *argv[])
{
	int i, n = 1;

	for (i = 1; i < *argc; i++) {
		if (!strcmp(argv[i], "-s") && i + 1 < *argc)
			option_seed = strtoull(argv[++i], NULL, 0);
		else if (!strcmp(argv[i], "-n") && i + 1 < *argc)
			option_count = strtoull(argv[++i], NULL, 0);
		else
			argv[n++] = argv[i];
	}
	argv[n] = NULL;
	*argc = n;
}

int main(int argc, char *argv[])
{
	const char *missing = edu_missing();

	take_options(&argc, argv);
	viommu_require();
	pr_info("# -s 0x%lx -n %lu%s%s\n", option_seed, option_count,
		missing ? ", without a device: " : "", missing ?: "");
	return test_harness_run(argc, argv);
}
