/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of the in-kernel IOMMU (KVM_DEV_TYPE_VIOMMU) have in common
 *
 * Registers, tables and descriptors are those of the "Intel Virtualization
 * Technology for Directed I/O Architecture Specification", rev 4.1, legacy mode.
 * They are defined here once more, rather than taken from the code under test.
 *
 * A guest has a pool of memory that is mapped one to one, so that an address in
 * it is the same for the guest's CPU and for tables and descriptors.  It begins
 * with struct viommu_shared, which host and guest share.
 *
 * Functions whose names begin with guest_ are for guests, all others are for the
 * host.  The guest has interrupts off but within guest_take_irqs().
 */
#ifndef SELFTEST_KVM_VIOMMU_UTIL_H
#define SELFTEST_KVM_VIOMMU_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <linux/compiler.h>
#include <linux/kvm_viommu.h>
#include <linux/types.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "apic.h"

/* ------------------------------------------------------------ registers */

#define VIOMMU_BASE		0xfed90000ul

#define VTD_VER			0x00
#define VTD_CAP			0x08
#define VTD_ECAP		0x10
#define VTD_GCMD		0x18
#define VTD_GSTS		0x1c
#define VTD_RTADDR		0x20
#define VTD_CCMD		0x28
#define VTD_FSTS		0x34
#define VTD_FECTL		0x38
#define VTD_FEDATA		0x3c
#define VTD_FEADDR		0x40
#define VTD_FEUADDR		0x44
#define VTD_IQH			0x80
#define VTD_IQT			0x88
#define VTD_IQA			0x90
#define VTD_ICS			0x9c
#define VTD_IECTL		0xa0
#define VTD_IEDATA		0xa4
#define VTD_IEADDR		0xa8
#define VTD_IEUADDR		0xac
#define VTD_IQERCD		0xb0
/* Where these are is in CAP and ECAP; verified by viommu_test. */
#define VTD_IVA			0xf0
#define VTD_IOTLB		0xf8
#define VTD_FRCD		0x200
#define VTD_NR_FRCD		8
#define VTD_FRCD_LO(i)		(VTD_FRCD + 16 * (i))
#define VTD_FRCD_HI(i)		(VTD_FRCD + 16 * (i) + 8)
/* The first offset without any register. */
#define VTD_END			(VTD_FRCD + 16 * VTD_NR_FRCD)

#define VTD_CAP_CM		BIT_ULL(7)
#define VTD_CAP_SAGAW_39	BIT_ULL(9)
#define VTD_CAP_SAGAW_48	BIT_ULL(10)
#define VTD_CAP_MGAW_SHIFT	16
#define VTD_CAP_MGAW		(0x3full << VTD_CAP_MGAW_SHIFT)
#define VTD_CAP_FRO_SHIFT	24
#define VTD_CAP_FRO		(0x3ffull << VTD_CAP_FRO_SHIFT)
#define VTD_CAP_SLLPS_2M	BIT_ULL(34)
#define VTD_CAP_SLLPS_1G	BIT_ULL(35)
#define VTD_CAP_PSI		BIT_ULL(39)
#define VTD_CAP_NFR_SHIFT	40
#define VTD_CAP_NFR		(0xffull << VTD_CAP_NFR_SHIFT)
#define VTD_CAP_MAMV_SHIFT	48
#define VTD_CAP_MAMV		(0x3full << VTD_CAP_MAMV_SHIFT)
#define VTD_CAP_DWD		BIT_ULL(54)
#define VTD_CAP_DRD		BIT_ULL(55)
#define VTD_CAP_ESRTPS		BIT_ULL(63)

#define VTD_ECAP_C		BIT_ULL(0)
#define VTD_ECAP_QI		BIT_ULL(1)
#define VTD_ECAP_PT		BIT_ULL(6)
#define VTD_ECAP_IRO_SHIFT	8
#define VTD_ECAP_IRO		(0x3ffull << VTD_ECAP_IRO_SHIFT)

#define VTD_GCMD_TE		BIT(31)
#define VTD_GCMD_SRTP		BIT(30)
#define VTD_GCMD_QIE		BIT(26)
#define VTD_GSTS_TES		BIT(31)
#define VTD_GSTS_RTPS		BIT(30)
#define VTD_GSTS_QIES		BIT(26)

#define VTD_CCMD_ICC		BIT_ULL(63)
#define VTD_CCMD_CIRG(g)	((u64)(g) << 61)
#define VTD_CCMD_CAIG(v)	(((v) >> 59) & 3)
#define VTD_CCMD_FM(fm)		((u64)(fm) << 32)
#define VTD_CCMD_SID(sid)	((u64)(sid) << 16)
#define VTD_CCMD_DID(did)	((u64)(did))

#define VTD_IOTLB_IVT		BIT_ULL(63)
#define VTD_IOTLB_IIRG(g)	((u64)(g) << 60)
#define VTD_IOTLB_IAIG(v)	(((v) >> 57) & 3)
#define VTD_IOTLB_DR		BIT_ULL(49)
#define VTD_IOTLB_DW		BIT_ULL(48)
#define VTD_IOTLB_DID(did)	((u64)(did) << 32)
#define VTD_IVA_IH		BIT_ULL(6)

/* Granularities, of registers and descriptors: of context entries, the IOTLB. */
#define VTD_GLOBAL		1
#define VTD_DOMAIN		2
#define VTD_DEVICE		3
#define VTD_PAGES		3

#define VTD_FSTS_PFO		BIT(0)
#define VTD_FSTS_PPF		BIT(1)
#define VTD_FSTS_IQE		BIT(4)
#define VTD_FSTS_ICE		BIT(5)
#define VTD_FSTS_ITE		BIT(6)
#define VTD_FSTS_FRI(v)		(((v) >> 8) & 0xff)

/* FECTL and IECTL */
#define VTD_CTL_IM		BIT(31)
#define VTD_CTL_IP		BIT(30)

#define VTD_ICS_IWC		BIT(0)

#define VTD_IQERCD_IQEI(v)	((v) & 0xf)
enum {
	VTD_IQEI_TAIL		= 1,
	VTD_IQEI_FETCH		= 2,
	VTD_IQEI_TYPE		= 3,
	VTD_IQEI_RSVD		= 4,
};

#define VTD_FRCD_F		BIT_ULL(63)
#define VTD_FRCD_READ		BIT_ULL(62)
#define VTD_FRCD_FR(fr)		((u64)(fr) << 32)
#define VTD_FRCD_SID(sid)	((u64)(sid))

/* "Fault conditions and remapping hardware behavior", legacy mode */
enum {
	VTD_FAULT_ROOT_NP	= 0x1,
	VTD_FAULT_CONTEXT_NP	= 0x2,
	VTD_FAULT_CONTEXT	= 0x3,
	VTD_FAULT_BEYOND	= 0x4,
	VTD_FAULT_WRITE		= 0x5,
	VTD_FAULT_READ		= 0x6,
	VTD_FAULT_TABLE		= 0x7,
	VTD_FAULT_ROOT_TABLE	= 0x8,
	VTD_FAULT_CONTEXT_TABLE	= 0x9,
	VTD_FAULT_ROOT_RSVD	= 0xa,
	VTD_FAULT_CONTEXT_RSVD	= 0xb,
	VTD_FAULT_PTE_RSVD	= 0xc,
};

/* --------------------------------------------------- tables, descriptors */

#define VTD_ROOT_P		BIT_ULL(0)

#define VTD_CTX_P		BIT_ULL(0)
#define VTD_CTX_FPD		BIT_ULL(1)
#define VTD_CTX_TT(tt)		((u64)(tt) << 2)
#define VTD_TT_TRANSLATED	0
#define VTD_TT_PASSTHROUGH	2
/* The second quadword. */
#define VTD_CTX_AW(aw)		((u64)(aw))
#define VTD_AW_39		1
#define VTD_AW_48		2
#define VTD_CTX_DID(did)	((u64)(did) << 8)

#define VTD_SL_R		BIT_ULL(0)
#define VTD_SL_W		BIT_ULL(1)
#define VTD_SL_RW		(VTD_SL_R | VTD_SL_W)
#define VTD_SL_PS		BIT_ULL(7)
#define VTD_SL_SNP		BIT_ULL(11)
#define VTD_SL_TM		BIT_ULL(62)
#define VTD_SL_ADDR		GENMASK_ULL(51, 12)
#define VTD_SL_SHIFT(level)	(12 + 9 * ((level) - 1))
#define VTD_SL_SIZE(level)	(1ull << VTD_SL_SHIFT(level))

#define VTD_SID(bus, dev, fn)	((bus) << 8 | (dev) << 3 | (fn))

/* Descriptors: the low quadword ... */
#define VTD_QI_CONTEXT(g)	(1ull | (u64)(g) << 4)
#define VTD_QI_CC_DID(did)	((u64)(did) << 16)
#define VTD_QI_CC_SID(sid)	((u64)(sid) << 32)
#define VTD_QI_CC_FM(fm)	((u64)(fm) << 48)
#define VTD_QI_IOTLB(g)		(2ull | (u64)(g) << 4)
#define VTD_QI_IOTLB_DW		BIT_ULL(6)
#define VTD_QI_IOTLB_DR		BIT_ULL(7)
#define VTD_QI_IOTLB_DID(did)	((u64)(did) << 16)
#define VTD_QI_WAIT		5ull
#define VTD_QI_WAIT_IF		BIT_ULL(4)
#define VTD_QI_WAIT_SW		BIT_ULL(5)
#define VTD_QI_WAIT_FN		BIT_ULL(6)
#define VTD_QI_WAIT_DATA(data)	((u64)(data) << 32)
/* ... and the high one of an IOTLB descriptor. */
#define VTD_QI_IOTLB_AM(am)	((u64)(am))
#define VTD_QI_IOTLB_IH		BIT_ULL(6)

/* ------------------------------------------------------ shared with guest */

/*
 * Memory of the pool.  It is followed by, and follows, a hole.  The guest's other
 * memory is below.
 */
#define VIOMMU_POOL		0x40000000ul
#define VIOMMU_POOL_SLOT	16
#define VIOMMU_POOL_PAGES	2048ul
#define VIOMMU_POOL_END		(VIOMMU_POOL + (VIOMMU_POOL_PAGES << 12))
/* No memory here, nor anything else. */
#define VIOMMU_HOLE		0x80000000ul

/* A queue as the guest uses it. */
struct viommu_queue {
	u64 base;
	/* In bytes. */
	u64 size;
	u64 tail;
	/* What the last wait descriptor writes. */
	u32 seq;
};

struct viommu_shared {
	struct viommu_queue queue;
	/* Where the queue's wait descriptors write to. */
	u32 status __aligned(64);
	/* Where the tables are, for guests that set up the unit. */
	u64 root;
	/* Interrupts that were handled, by vector. */
	u32 irqs[256];
	/* For whatever a test needs. */
	u32 stage __aligned(64);
	u32 go;
	u32 stop;
	u64 count;
	u64 arg[64];
};

/* The guest's view of it. */
#define GUEST_SHARED		((struct viommu_shared *)VIOMMU_POOL)

/* ---------------------------------------------------------------- guest */

/*
 * Limit for the guest to wait for anything, in cycles of its TSC: a minute and
 * more, as the machine may be an emulated one on a busy computer.
 */
#define GUEST_SPIN_CYCLES	BIT_ULL(37)

/* Spin until COND; what is read in it has to be volatile or READ_ONCE(). */
#define GUEST_WAIT(cond)						\
do {									\
	u64 __end = rdtsc() + GUEST_SPIN_CYCLES;			\
									\
	while (!(cond)) {						\
		__GUEST_ASSERT(rdtsc() < __end, "never: " #cond);	\
		cpu_relax();						\
	}								\
} while (0)

/* Plain moves, whatever the compiler thinks: they may have to be emulated. */
static inline u32 guest_read32(unsigned int reg)
{
	u32 val;

	asm volatile("movl (%1), %0"
		     : "=r" (val) : "r" (VIOMMU_BASE + reg) : "memory");
	return val;
}

static inline u64 guest_read64(unsigned int reg)
{
	u64 val;

	asm volatile("movq (%1), %0"
		     : "=r" (val) : "r" (VIOMMU_BASE + reg) : "memory");
	return val;
}

static inline void guest_write32(unsigned int reg, u32 val)
{
	asm volatile("movl %0, (%1)"
		     : : "r" (val), "r" (VIOMMU_BASE + reg) : "memory");
}

static inline void guest_write64(unsigned int reg, u64 val)
{
	asm volatile("movq %0, (%1)"
		     : : "r" (val), "r" (VIOMMU_BASE + reg) : "memory");
}

static inline void guest_write16(unsigned int reg, u16 val)
{
	asm volatile("movw %0, (%1)"
		     : : "r" (val), "r" (VIOMMU_BASE + reg) : "memory");
}

static inline void guest_write8(unsigned int reg, u8 val)
{
	asm volatile("movb %0, (%1)"
		     : : "r" (val), "r" (VIOMMU_BASE + reg) : "memory");
}

/*
 * Set and clear bits of GSTS by a command, as software has to: one command at a
 * time, repeating what is on, and waiting until the status is right.
 */
static inline void guest_command(u32 set, u32 clear)
{
	const u32 states = VTD_GSTS_TES | VTD_GSTS_QIES;
	u32 on = guest_read32(VTD_GSTS) & states;

	guest_write32(VTD_GCMD, (on & ~clear) | set);
	GUEST_WAIT((guest_read32(VTD_GSTS) & (set | clear)) == set);
}

static inline void guest_set_root(u64 root)
{
	guest_write64(VTD_RTADDR, root);
	guest_command(VTD_GCMD_SRTP, 0);
}

static inline void guest_enable_translation(void)
{
	guest_command(VTD_GCMD_TE, 0);
}

static inline void guest_disable_translation(void)
{
	guest_command(0, VTD_GCMD_TE);
}

/* A queue of 256 << @qs descriptors, in the pool and aligned to its size. */
static inline void guest_enable_queue(u64 base, unsigned int qs)
{
	struct viommu_queue *q = &GUEST_SHARED->queue;

	q->base = base;
	q->size = 4096ul << qs;
	q->tail = 0;
	guest_write64(VTD_IQT, 0);
	guest_write64(VTD_IQA, base | qs);
	guest_command(VTD_GCMD_QIE, 0);
}

static inline void guest_disable_queue(void)
{
	guest_command(0, VTD_GCMD_QIE);
}

/* Append a descriptor; nobody looks at it before guest_queue_submit(). */
static inline void guest_queue_add(u64 lo, u64 hi)
{
	struct viommu_queue *q = &GUEST_SHARED->queue;
	u64 *desc = (u64 *)(q->base + q->tail);

	WRITE_ONCE(desc[0], lo);
	WRITE_ONCE(desc[1], hi);
	q->tail = (q->tail + 16) & (q->size - 1);
}

/* As Linux does it; the upper half has no bits. */
static inline void guest_queue_submit(void)
{
	guest_write32(VTD_IQT, GUEST_SHARED->queue.tail);
}

/* Append a wait descriptor whose status guest_queue_completed() recognizes. */
static inline void guest_queue_add_wait(void)
{
	struct viommu_queue *q = &GUEST_SHARED->queue;

	q->seq++;
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(q->seq),
			(u64)&GUEST_SHARED->status);
}

static inline bool guest_queue_completed(void)
{
	return READ_ONCE(GUEST_SHARED->status) == GUEST_SHARED->queue.seq;
}

/* Submit, and wait until all that is in the queue has been done. */
static inline void guest_queue_flush(void)
{
	guest_queue_add_wait();
	guest_queue_submit();
	GUEST_WAIT(guest_queue_completed());
}

static inline void guest_invalidate_contexts(void)
{
	guest_queue_add(VTD_QI_CONTEXT(VTD_GLOBAL), 0);
	guest_queue_flush();
}

static inline void guest_invalidate_iotlb(void)
{
	guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
	guest_queue_flush();
}

/* 2^am pages at iova, of one domain. */
static inline void guest_invalidate_pages(u16 did, u64 iova, unsigned int am)
{
	guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(did),
			iova | VTD_QI_IOTLB_AM(am));
	guest_queue_flush();
}

/*
 * What an operating system does: root table, queue, invalidate all, translate.
 * The host has set viommu_shared.root and .queue (viommu_vm_create()).
 */
static inline void guest_init(void)
{
	struct viommu_shared *sh = GUEST_SHARED;

	guest_set_root(sh->root);
	guest_enable_queue(sh->queue.base, 0);
	guest_invalidate_contexts();
	guest_invalidate_iotlb();
	guest_enable_translation();
}

/* Install with vm_install_exception_handler(), at most for one vCPU. */
static void __attribute__((target("general-regs-only"), unused))
guest_irq_handler(struct ex_regs *regs)
{
	GUEST_SHARED->irqs[regs->vector]++;
	/* End of interrupt, of an x2APIC. */
	asm volatile("wrmsr" : : "a" (0), "d" (0), "c" (0x80b) : "memory");
}

/* Take interrupts that are pending.  Handlers may run over a red zone. */
static inline void guest_take_irqs(void)
{
	asm volatile("lea -128(%%rsp), %%rsp\n\t"
		     "sti\n\t"
		     "nop\n\t"
		     "nop\n\t"
		     "cli\n\t"
		     "lea 128(%%rsp), %%rsp\n\t"
		     : : : "memory");
}

/* Registers of the message of FECTL or IECTL: to the vCPU with APIC id 0. */
static inline void guest_set_message(unsigned int ctl, u8 vector)
{
	guest_write32(ctl + 4, vector);
	guest_write32(ctl + 8, APIC_DEFAULT_GPA);
	guest_write32(ctl + 12, 0);
}

/* ----------------------------------------------------------------- host */

#define VIOMMU_TIMEOUT_S	60
/* of one test case, in seconds */
#define VIOMMU_CASE_TIMEOUT	300

/* Wait with a limit, in small steps: guests and sidecores need the CPUs. */
#define VIOMMU_ASSERT_WAIT(cond, fmt, ...)				\
do {									\
	time_t __end = time(NULL) + VIOMMU_TIMEOUT_S;			\
									\
	while (!(cond)) {						\
		TEST_ASSERT(time(NULL) < __end, fmt, ##__VA_ARGS__);	\
		usleep(1000);						\
	}								\
} while (0)

/* As a number; "Y" is 1.  Lists are no numbers, see viommu_has_sidecores(). */
static inline long viommu_param(const char *name, long absent)
{
	char path[128], value[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	f = fopen(path, "r");
	if (!f)
		return absent;
	if (!fgets(value, sizeof(value), f))
		value[0] = 0;
	fclose(f);
	if (value[0] == 'Y' || value[0] == 'N')
		return value[0] == 'Y';
	return strtol(value, NULL, 0);
}

static inline int __viommu_set_param(const char *name, const char *value)
{
	char path[128];
	int fd, ret = 0;

	snprintf(path, sizeof(path), "/sys/module/kvm/parameters/%s", name);
	fd = open(path, O_WRONLY);
	TEST_ASSERT(fd >= 0, "open(%s)", path);
	if (write(fd, value, strlen(value)) < 0)
		ret = -errno;
	close(fd);
	return ret;
}

static inline void viommu_set_param(const char *name, unsigned long value)
{
	char text[32];

	snprintf(text, sizeof(text), "%lu", value);
	TEST_ASSERT(!__viommu_set_param(name, text), "%s=%lu", name, value);
}

/* Is there a shared sidecore (kvm.sidecore_cpus)? */
static inline bool viommu_has_sidecores(void)
{
	char value[256] = "";
	FILE *f;

	f = fopen("/sys/module/kvm/parameters/sidecore_cpus", "r");
	if (!f)
		return false;
	if (!fgets(value, sizeof(value), f))
		value[0] = 0;
	fclose(f);
	return value[0] && value[0] != '\n';
}

/*
 * Called by main().  Reads do not exit, and there is a direct mode, only if page
 * tables of the guest are those of the TDP MMU.
 */
static inline void viommu_require(void)
{
	__TEST_REQUIRE(viommu_param("viommu", 0) == 1, "kvm.viommu is not on");
	TEST_REQUIRE(kvm_is_tdp_enabled());
	TEST_REQUIRE(viommu_param("tdp_mmu", 1));
	pr_info("# viommu_poll_us=%ld sidecores=%s\n",
		viommu_param("viommu_poll_us", -1),
		viommu_has_sidecores() ? "yes" : "no");
}

/* A statistic of a VM or vCPU by its name, from its statistics fd. */
static inline u64 viommu_read_stat(int stats_fd, const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs, *d;
	bool found = false;
	u64 value = 0;
	int i;

	read_stats_header(stats_fd, &header);
	descs = read_stats_descriptors(stats_fd, &header);
	for (i = 0; i < header.num_desc && !found; i++) {
		d = get_stats_descriptor(descs, i, &header);
		if (!strcmp(d->name, name)) {
			read_stat_data(stats_fd, &header, d, &value, 1);
			found = true;
		}
	}
	free(descs);
	TEST_ASSERT(found, "No statistic is called %s", name);
	return value;
}

/* The unit's attributes; those that begin with __ return an errno, or 0. */
static inline int viommu_create(struct kvm_vm *vm)
{
	return kvm_create_device(vm, KVM_DEV_TYPE_VIOMMU);
}

static inline int __viommu_set(int fd, u32 group, u64 attr, void *val)
{
	return __kvm_device_attr_set(fd, group, attr, val) ? errno : 0;
}

static inline int __viommu_get(int fd, u32 group, u64 attr, void *val)
{
	return __kvm_device_attr_get(fd, group, attr, val) ? errno : 0;
}

static inline int __viommu_set_config(int fd, u64 attr, u64 val)
{
	return __viommu_set(fd, KVM_DEV_VIOMMU_GRP_CONFIG, attr, &val);
}

static inline void viommu_set_config(int fd, u64 attr, u64 val)
{
	int err = __viommu_set_config(fd, attr, val);

	TEST_ASSERT(!err, "Setting attribute %lu to 0x%lx: %s", attr, val,
		    strerror(err));
}

static inline u64 viommu_get_config(int fd, u64 attr)
{
	u64 val;

	kvm_device_attr_get(fd, KVM_DEV_VIOMMU_GRP_CONFIG, attr, &val);
	return val;
}

static inline int __viommu_init(int fd)
{
	return __viommu_set(fd, KVM_DEV_VIOMMU_GRP_CTRL,
			    KVM_DEV_VIOMMU_CTRL_INIT, NULL);
}

static inline void viommu_init(int fd)
{
	int err = __viommu_init(fd);

	TEST_ASSERT(!err, "KVM_DEV_VIOMMU_CTRL_INIT: %s", strerror(err));
}

static inline int __viommu_reset(int fd)
{
	return __viommu_set(fd, KVM_DEV_VIOMMU_GRP_CTRL,
			    KVM_DEV_VIOMMU_CTRL_RESET, NULL);
}

static inline int __viommu_add_device(int fd, u16 sid, int group_fd,
				      const char *name)
{
	struct kvm_viommu_device dev = {
		.sid = sid,
		.group_fd = group_fd,
		.name = (u64)name,
	};

	return __viommu_set(fd, KVM_DEV_VIOMMU_GRP_DEVICE,
			    KVM_DEV_VIOMMU_DEVICE_ADD, &dev);
}

static inline int __viommu_del_device(int fd, u16 sid)
{
	struct kvm_viommu_device dev = { .sid = sid };

	return __viommu_set(fd, KVM_DEV_VIOMMU_GRP_DEVICE,
			    KVM_DEV_VIOMMU_DEVICE_DEL, &dev);
}

static inline void viommu_get_state(int fd, struct kvm_viommu_state *state)
{
	int err = __viommu_get(fd, KVM_DEV_VIOMMU_GRP_STATE, 0, state);

	TEST_ASSERT(!err, "Getting the state: %s", strerror(err));
}

static inline int __viommu_set_state(int fd, struct kvm_viommu_state *state)
{
	return __viommu_set(fd, KVM_DEV_VIOMMU_GRP_STATE, 0, state);
}

static inline void viommu_set_state(int fd, struct kvm_viommu_state *state)
{
	int err = __viommu_set_state(fd, state);

	TEST_ASSERT(!err, "Setting the state: %s", strerror(err));
}

/* A register, as it is saved. */
static inline u32 viommu_state32(struct kvm_viommu_state *state,
				 unsigned int reg)
{
	return state->regs[reg / 8] >> (reg & 4 ? 32 : 0);
}

/* Returns an errno or 0; the result is in *t. */
static inline int __viommu_translate(int fd, u16 sid, u64 iova, u32 access,
				     u32 flags, struct kvm_viommu_translate *t)
{
	*t = (struct kvm_viommu_translate) {
		.iova = iova,
		.sid = sid,
		.access = access,
		.flags = flags,
	};
	return ioctl(fd, KVM_VIOMMU_TRANSLATE, t) ? errno : 0;
}

/* A VM with a pool and, once viommu_start() was called, a unit. */
struct viommu_vm {
	struct kvm_vm *vm;
	struct kvm_vcpu *vcpu;
	int vm_stats_fd;
	int vcpu_stats_fd;
	/* The unit, or -1. */
	int fd;
	/* The pool: what is shared, and the first page that is free. */
	struct viommu_shared *sh;
	u64 next;
	/* The root table, which is empty at first. */
	u64 root;

	/* If the vCPU has a thread. */
	pthread_t thread;
	bool started;
	bool want_stop;
	bool done;
	/* How it ended: VIOMMU_END_*, an exit reason or -errno. */
	long end;
};

#define VIOMMU_END_DONE		1000
#define VIOMMU_END_STOPPED	1001

static inline u64 viommu_stat(struct viommu_vm *t, const char *name)
{
	return viommu_read_stat(t->vm_stats_fd, name);
}

static inline u64 viommu_vcpu_stat(struct viommu_vm *t, const char *name)
{
	return viommu_read_stat(t->vcpu_stats_fd, name);
}

static inline void *viommu_hva(struct viommu_vm *t, u64 gpa)
{
	return addr_gpa2hva(t->vm, gpa);
}

/* Pages of the pool, a power of two and aligned to that, zeroed. */
static inline u64 viommu_alloc(struct viommu_vm *t, u64 pages)
{
	u64 gpa = (t->next + (pages << 12) - 1) & ~((pages << 12) - 1);

	t->next = gpa + (pages << 12);
	TEST_ASSERT(t->next <= VIOMMU_POOL_END, "The pool is used up");
	memset(viommu_hva(t, gpa), 0, pages << 12);
	return gpa;
}

/* Map the register page as an operating system would: uncached. */
static inline void viommu_map_regs(struct kvm_vm *vm)
{
	int level = PG_LEVEL_4K;

	virt_map(vm, VIOMMU_BASE, VIOMMU_BASE, 1);
	*__vm_get_page_table_entry(vm, VIOMMU_BASE, &level) |= BIT_ULL(3) |
							       BIT_ULL(4);
}

static inline void viommu_add_pool(struct viommu_vm *t)
{
	vm_userspace_mem_region_add(t->vm, VM_MEM_SRC_ANONYMOUS, VIOMMU_POOL,
				    VIOMMU_POOL_SLOT, VIOMMU_POOL_PAGES, 0);
	virt_map(t->vm, VIOMMU_POOL, VIOMMU_POOL, VIOMMU_POOL_PAGES);
	t->next = VIOMMU_POOL;
	t->sh = viommu_hva(t, viommu_alloc(t, 1));
	t->root = viommu_alloc(t, 1);
	t->sh->root = t->root;
	t->sh->queue.base = viommu_alloc(t, 1);
}

/* No unit yet. */
static inline void viommu_vm_create(struct viommu_vm *t, void *guest_code)
{
	memset(t, 0, sizeof(*t));
	t->fd = -1;
	t->vm = vm_create_with_one_vcpu(&t->vcpu, guest_code);
	viommu_add_pool(t);
	viommu_map_regs(t->vm);
	t->vm_stats_fd = vm_get_stats_fd(t->vm);
	t->vcpu_stats_fd = vcpu_get_stats_fd(t->vcpu);
}

/* Create the unit, not yet initialized: to be configured by the caller. */
static inline void viommu_vm_add_unit(struct viommu_vm *t)
{
	t->fd = viommu_create(t->vm);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_BASE, VIOMMU_BASE);
}

/* ... and one that is ready. */
static inline void viommu_start(struct viommu_vm *t, u64 worker)
{
	viommu_vm_add_unit(t);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_WORKER, worker);
	viommu_init(t->fd);
}

/* The guest's interrupt handler, for one vector. */
static inline void viommu_handle_irq(struct viommu_vm *t, u8 vector)
{
	vm_install_exception_handler(t->vm, vector, guest_irq_handler);
}

/*
 * Run the guest until GUEST_SYNC(), whose argument is returned, or GUEST_DONE(),
 * for which VIOMMU_END_DONE is.  Anything else fails the test, in particular an
 * access of a register that got to user space.
 */
static inline u64 viommu_run(struct viommu_vm *t)
{
	struct ucall uc;

	for (;;) {
		vcpu_run(t->vcpu);
		switch (get_ucall(t->vcpu, &uc)) {
		case UCALL_SYNC:
			return uc.args[1];
		case UCALL_DONE:
			return VIOMMU_END_DONE;
		case UCALL_PRINTF:
			REPORT_GUEST_PRINTF(uc);
			break;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
		default:
			TEST_FAIL("Exit to user space: %s, address 0x%llx",
				  exit_reason_str(t->vcpu->run->exit_reason),
				  t->vcpu->run->mmio.phys_addr);
		}
	}
}

static inline void viommu_run_to(struct viommu_vm *t, u64 stage)
{
	TEST_ASSERT_EQ(viommu_run(t), stage);
}

static void viommu_signal(int sig)
{
}

static void *viommu_thread(void *arg)
{
	struct viommu_vm *t = arg;
	struct ucall uc;

	while (!t->end) {
		if (__vcpu_run(t->vcpu)) {
			if (errno != EINTR) {
				t->end = -errno;
				break;
			}
			t->vcpu->run->immediate_exit = 0;
			if (READ_ONCE(t->want_stop))
				t->end = VIOMMU_END_STOPPED;
			continue;
		}
		switch (get_ucall(t->vcpu, &uc)) {
		case UCALL_SYNC:
			break;
		case UCALL_DONE:
			t->end = VIOMMU_END_DONE;
			break;
		case UCALL_PRINTF:
			REPORT_GUEST_PRINTF(uc);
			break;
		case UCALL_ABORT:
			REPORT_GUEST_ASSERT(uc);
		default:
			t->end = t->vcpu->run->exit_reason;
		}
	}
	WRITE_ONCE(t->done, true);
	return NULL;
}

/* Run the vCPU in a thread.  GUEST_SYNC() does not stop it. */
static inline void viommu_thread_start(struct viommu_vm *t)
{
	signal(SIGUSR1, viommu_signal);
	t->want_stop = false;
	t->done = false;
	t->end = 0;
	TEST_ASSERT(!pthread_create(&t->thread, NULL, viommu_thread, t),
		    "pthread_create()");
	t->started = true;
}

/* Until it has ended by itself; returns how. */
static inline long viommu_thread_join(struct viommu_vm *t)
{
	VIOMMU_ASSERT_WAIT(READ_ONCE(t->done), "The vCPU runs on");
	pthread_join(t->thread, NULL);
	t->started = false;
	return t->end;
}

/* End it, whatever the guest does. */
static inline long viommu_thread_stop(struct viommu_vm *t)
{
	if (!t->started)
		return t->end;
	if (!READ_ONCE(t->done)) {
		WRITE_ONCE(t->want_stop, true);
		WRITE_ONCE(t->vcpu->run->immediate_exit, 1);
		pthread_kill(t->thread, SIGUSR1);
	}
	return viommu_thread_join(t);
}

static inline void viommu_wait_stage(struct viommu_vm *t, u32 stage)
{
	VIOMMU_ASSERT_WAIT(READ_ONCE(t->sh->stage) == stage ||
			   READ_ONCE(t->done),
			   "The guest is at stage %u, not %u",
			   READ_ONCE(t->sh->stage), stage);
	TEST_ASSERT(READ_ONCE(t->sh->stage) == stage,
		    "The vCPU ended (%ld) at stage %u, not %u", t->end,
		    t->sh->stage, stage);
}

static inline void viommu_close(struct viommu_vm *t)
{
	if (t->fd >= 0)
		close(t->fd);
	t->fd = -1;
}

static inline void viommu_vm_destroy(struct viommu_vm *t)
{
	viommu_thread_stop(t);
	viommu_close(t);
	close(t->vcpu_stats_fd);
	close(t->vm_stats_fd);
	kvm_vm_free(t->vm);
}

/*
 * The context entry of a device in the root table, whose context table is
 * allocated if there is none.
 */
static inline u64 *viommu_context(struct viommu_vm *t, u16 sid)
{
	u64 *root = viommu_hva(t, t->root + 16 * (sid >> 8));

	if (!(root[0] & VTD_ROOT_P))
		root[0] = viommu_alloc(t, 1) | VTD_ROOT_P;
	return viommu_hva(t, (root[0] & VTD_SL_ADDR) + 16 * (sid & 0xff));
}

/* @width is 39 or 48; @tables is viommu_alloc(t, 1). */
static inline void viommu_set_context(struct viommu_vm *t, u16 sid, u16 did,
				      u64 tables, unsigned int width)
{
	u64 *ctx = viommu_context(t, sid);

	ctx[1] = VTD_CTX_AW(width == 39 ? VTD_AW_39 : VTD_AW_48) |
		 VTD_CTX_DID(did);
	ctx[0] = tables | VTD_CTX_TT(VTD_TT_TRANSLATED) | VTD_CTX_P;
}

/*
 * The entry for @iova at @level (1 for 4 KiB pages) of the tables at @tables.
 * Tables on the way there are allocated, and allow reads and writes.
 */
static inline u64 *viommu_sl_entry(struct viommu_vm *t, u64 tables,
				   unsigned int width, u64 iova,
				   unsigned int level)
{
	unsigned int l;
	u64 *entry;

	for (l = (width - 12) / 9;; l--) {
		entry = viommu_hva(t, tables +
				      8 * ((iova >> VTD_SL_SHIFT(l)) & 511));
		if (l == level)
			return entry;
		if (!(*entry & VTD_SL_RW))
			*entry = viommu_alloc(t, 1) | VTD_SL_RW;
		tables = *entry & VTD_SL_ADDR;
	}
}

/* Map one page, of level 1, 2 or 3. */
static inline void viommu_sl_map(struct viommu_vm *t, u64 tables,
				 unsigned int width, u64 iova, u64 gpa,
				 unsigned int level, u64 prot)
{
	*viommu_sl_entry(t, tables, width, iova, level) =
		gpa | prot | (level > 1 ? VTD_SL_PS : 0);
}

#endif /* SELFTEST_KVM_VIOMMU_UTIL_H */
