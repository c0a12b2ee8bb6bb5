// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that a device behind the in-kernel IOMMU (KVM_DEV_TYPE_VIOMMU) reaches
 * what the guest's tables say and nothing else, that memory is pinned while a
 * device can reach it and not for longer, and that guests neither keep a unit
 * from going away nor a sidecore from serving others.
 *
 * The device is QEMU's edu, see viommu_vfio.h.  Nearly all cases run with each of
 * the three who may emulate: the vCPU, a sidecore, and a thread of the VMM.
 */
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/wait.h>

#include <linux/capability.h>

#include "fail_nth.h"
#include "kvm_test_harness.h"
#include "viommu_vfio.h"

#define SID		VTD_SID(0, 4, 0)
#define DID		5
#define OTHER_DID	6
#define WIDTH		48

#define PAGE		4096ul
#define LARGE_PAGES	512ul
#define LARGE		(PAGE * LARGE_PAGES)
#define HUGE		(LARGE * 512)

/* Memory for devices, of small pages; begins at a boundary of 1 GiB. */
#define DATA		0x100000000ul
#define DATA_SLOT	20
#define DATA_PAGES	(8 * LARGE_PAGES + 2 * LARGE_PAGES)
/* Memory of some cases. */
#define MORE		0x140000000ul
#define MORE_SLOT	21
#define MORE2_SLOT	22
/* No memory there, nor anything else. */
#define HOLE		0x1c0000000ul

/* Where the guest maps things: aligned to 1 GiB. */
#define IOVA		0x80000000ul
/* For the device's buffer to be looked at: first page of the data. */
#define BOUNCE		0x7fff0000ul
#define BOUNCE_PAGES	1

#define NOTHING		(~0ul)

/* Pages that may be accounted in advance. */
#define SPARE		64
/* Waiting pages at most, deferred and optimistic. */
#define DEFERRED	250
#define OPTIMISTIC	256

#define KILLS		20
#define CLOSES		10
#define VMS		16
#define FLOOD_S		4

/* For how long a busy guest is polled: some requests, but no DMA. */
#define POLL_US		50000ul

struct shadow {
	struct viommu_vm t;
	struct edu e;
	u64 worker;
	/* Tables of the domain DID. */
	u64 tables;
	/* Pins of the host before the test. */
	s64 pins;
};

/* ------------------------------------------------------------ memory, DMA */

static void *hva(struct shadow *s, u64 gpa)
{
	return viommu_hva(&s->t, gpa);
}

static u64 last_word;

/* Fill memory with words that are nowhere else. */
static void fill(void *mem, u64 size)
{
	u64 *word = mem;

	while (size) {
		*word++ = 0x5eed000000000000ull + ++last_word;
		size -= sizeof(*word);
	}
}

/* DMA in both directions gets to @mem. */
static void expect_works(struct shadow *s, u64 iova, void *mem, u64 size)
{
	u8 copy[EDU_BUFFER_SIZE];

	fill(mem, size);
	memcpy(copy, mem, size);
	edu_load(&s->e, iova, size);
	memset(mem, 0, size);
	edu_store(&s->e, iova, size);
	TEST_ASSERT(!memcmp(mem, copy, size),
		    "DMA to and from 0x%lx: is 0x%lx.., not 0x%lx..", iova,
		    *(u64 *)mem, *(u64 *)copy);
}

/* A device that writes to @iova does not change @mem. */
static void expect_no_write(struct shadow *s, u64 iova, void *mem, u64 size)
{
	u8 copy[EDU_BUFFER_SIZE];

	fill(mem, size);
	memcpy(copy, mem, size);
	edu_store(&s->e, iova, size);
	TEST_ASSERT(!memcmp(mem, copy, size), "DMA to 0x%lx was not blocked",
		    iova);
}

/* The device's buffer has nothing of @mem, which is all of fill(). */
static void expect_not_in_buffer(struct shadow *s, u64 iova, void *mem, u64 size)
{
	u64 *bounce = hva(s, DATA), *word = mem;
	unsigned int i;

	memset(bounce, 0xee, size);
	edu_store(&s->e, BOUNCE, size);
	TEST_ASSERT(bounce[0] != 0xeeeeeeeeeeeeeeeeull,
		    "The buffer cannot be read");
	for (i = 0; i < size / sizeof(*word); i++)
		TEST_ASSERT(bounce[i] - word[0] >= size / sizeof(*word),
			    "DMA from 0x%lx was not blocked", iova);
}

static void expect_no_read(struct shadow *s, u64 iova, void *mem, u64 size)
{
	fill(mem, size);
	edu_load(&s->e, iova, size);
	expect_not_in_buffer(s, iova, mem, size);
}

/* DMA in neither direction gets to @mem. */
static void expect_blocked(struct shadow *s, u64 iova, void *mem, u64 size)
{
	expect_no_write(s, iova, mem, size);
	expect_no_read(s, iova, mem, size);
}

/* ----------------------------------------------------------------- tables */

static u64 *entry(struct shadow *s, u64 iova, unsigned int level)
{
	return viommu_sl_entry(&s->t, s->tables, WIDTH, iova, level);
}

static void map_pages(struct shadow *s, u64 iova, u64 gpa, u64 n, u64 prot)
{
	u64 i;

	for (i = 0; i < n; i++)
		*entry(s, iova + i * PAGE, 1) = (gpa + i * PAGE) | prot;
}

static void unmap_pages(struct shadow *s, u64 iova, u64 n)
{
	u64 i;

	for (i = 0; i < n; i++)
		*entry(s, iova + i * PAGE, 1) = 0;
}

/* Announce that 2^am pages have changed. */
static void announce(struct shadow *s, u64 iova, unsigned int am)
{
	serve_desc(&s->t, VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
		   iova | VTD_QI_IOTLB_AM(am));
}

/* ... with as few descriptors as possible. */
static void announce_pages(struct shadow *s, u64 iova, u64 n)
{
	unsigned int am;

	while (n) {
		for (am = 0; 2ul << am <= n && !(iova & (PAGE << am)); am++)
			;
		announce(s, iova, am);
		iova += PAGE << am;
		n -= 1ul << am;
	}
}

/* ------------------------------------------------------- what is reachable */

static u64 pinned(struct shadow *s)
{
	return viommu_stat(&s->t, "viommu_pinned");
}

/* What the device reaches, and what the guest's tables say. */
static u64 reach(struct shadow *s, u64 iova, u32 *access)
{
	struct kvm_viommu_translate tr;
	int err = __viommu_translate(s->t.fd, SID, iova, KVM_VIOMMU_READ,
				     KVM_VIOMMU_TRANSLATE_SHADOW, &tr);

	*access = 0;
	if (err) {
		TEST_ASSERT(err == EFAULT, "Translation of 0x%lx: %s", iova,
			    strerror(err));
		return NOTHING;
	}
	*access = tr.access;
	return tr.gpa;
}

static u64 tables_say(struct shadow *s, u64 iova, u32 *access)
{
	struct kvm_viommu_translate tr;
	int err;

	err = __viommu_translate(s->t.fd, SID, iova, KVM_VIOMMU_READ,
				 KVM_VIOMMU_TRANSLATE_QUIET, &tr);
	if (err == EFAULT)
		err = __viommu_translate(s->t.fd, SID, iova, KVM_VIOMMU_WRITE,
					 KVM_VIOMMU_TRANSLATE_QUIET, &tr);
	*access = 0;
	if (err) {
		TEST_ASSERT(err == EFAULT, "Translation of 0x%lx: %s", iova,
			    strerror(err));
		return NOTHING;
	}
	*access = tr.access;
	return tr.gpa;
}

static void expect_reach(struct shadow *s, u64 iova, u64 gpa, u32 access)
{
	u32 got_access;
	u64 got;

	got = reach(s, iova, &got_access);
	TEST_ASSERT(got == gpa && got_access == access,
		    "At 0x%lx the device reaches 0x%lx (%u), not 0x%lx (%u)",
		    iova, got, got_access, gpa, access);
}

static void expect_nothing(struct shadow *s, u64 iova)
{
	expect_reach(s, iova, NOTHING, 0);
}

/* The device reaches what the tables say, in each of @n pages. */
static void expect_same(struct shadow *s, u64 iova, u64 n)
{
	u32 want_access, got_access;
	u64 want, got;

	for (; n--; iova += PAGE) {
		want = tables_say(s, iova, &want_access);
		got = reach(s, iova, &got_access);
		TEST_ASSERT(want == got && want_access == got_access,
			    "At 0x%lx the device reaches 0x%lx (%u), tables say 0x%lx (%u)",
			    iova, got, got_access, want, want_access);
	}
}

static void expect_pinned(struct shadow *s, u64 pages)
{
	TEST_ASSERT_EQ(pinned(s), pages);
}

/* A fault is recorded; it is acknowledged with all others. */
static void expect_fault(struct shadow *s, u64 iova, bool write, unsigned int reason)
{
	u64 want_hi = VTD_FRCD_F | (write ? 0 : VTD_FRCD_READ) |
		      VTD_FRCD_FR(reason) | VTD_FRCD_SID(SID);
	struct kvm_viommu_state state;
	bool found = false;
	u64 lo, hi;
	int i;

	viommu_get_state(s->t.fd, &state);
	for (i = 0; i < VTD_NR_FRCD; i++) {
		lo = state.regs[VTD_FRCD_LO(i) / 8];
		hi = state.regs[VTD_FRCD_HI(i) / 8];
		if (hi & VTD_FRCD_F)
			pr_debug("fault: 0x%lx 0x%lx\n", lo, hi);
		found |= lo == iova && hi == want_hi;
	}
	TEST_ASSERT(found, "No fault 0x%x is recorded for 0x%lx", reason, iova);
	serve(&s->t, SERVE_ACK, 0, 0);
}

static void expect_no_fault(struct shadow *s)
{
	struct kvm_viommu_state state;
	unsigned int i;
	u32 fsts;

	viommu_get_state(s->t.fd, &state);
	fsts = viommu_state32(&state, VTD_FSTS);
	/* FRI is valid with PPF only. */
	i = VTD_FSTS_FRI(fsts) % VTD_NR_FRCD;
	TEST_ASSERT(!(fsts & 0xff), "FSTS is 0x%x, FRCD 0x%llx 0x%llx", fsts,
		    state.regs[VTD_FRCD_LO(i) / 8], state.regs[VTD_FRCD_HI(i) / 8]);
}

/* --------------------------------------------------------------- machinery */

static void add_memory(struct shadow *s, enum vm_mem_backing_src_type type,
		       unsigned int slot, u64 gpa, u64 pages, u32 flags)
{
	vm_userspace_mem_region_add(s->t.vm, type, gpa, slot, pages, flags);
}

/* A VM, and the device in a container; no unit. */
static void shadow_create(struct shadow *s, u64 worker)
{
	s->worker = worker;
	s->pins = host_pins();
	viommu_vm_create(&s->t, guest_server);
	add_memory(s, VM_MEM_SRC_ANONYMOUS, DATA_SLOT, DATA, DATA_PAGES, 0);
	edu_open(&s->e);
}

static void shadow_add(struct shadow *s)
{
	int err = __viommu_add_device(s->t.fd, SID, s->e.group, s->e.name);

	TEST_ASSERT(!err, "Adding the device: %s", strerror(err));
}

static void shadow_del(struct shadow *s)
{
	int err = __viommu_del_device(s->t.fd, SID);

	TEST_ASSERT(!err, "Removing the device: %s", strerror(err));
}

/* A unit with the device. */
static void shadow_unit(struct shadow *s, u64 teardown, u64 max_pages)
{
	viommu_vm_add_unit(&s->t);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER, s->worker);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_TEARDOWN, teardown);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_MAX_PAGES, max_pages);
	viommu_init(s->t.fd);
	shadow_add(s);
}

/* Tables with the bounce page and nothing else. */
static void shadow_tables(struct shadow *s)
{
	s->tables = viommu_alloc(&s->t, 1);
	map_pages(s, BOUNCE, DATA, 1, VTD_SL_RW);
	viommu_set_context(&s->t, SID, DID, s->tables, WIDTH);
}

/* ... and a guest that translates. */
static void shadow_start(struct shadow *s, u64 teardown, u64 max_pages)
{
	shadow_unit(s, teardown, max_pages);
	shadow_tables(s);
	viommu_run_to(&s->t, SERVE_READY);
	serve(&s->t, SERVE_INIT, 0, 0);
	expect_pinned(s, BOUNCE_PAGES);
	expect_no_fault(s);
}

static void start(struct shadow *s)
{
	shadow_start(s, KVM_VIOMMU_TEARDOWN_STRICT, 0);
}

static void shadow_destroy(struct shadow *s)
{
	edu_close(&s->e);
	viommu_vm_destroy(&s->t);
	VIOMMU_ASSERT_WAIT(host_pins() == s->pins,
			   "%ld pages are pinned, %ld were before",
			   (long)host_pins(), (long)s->pins);
}

FIXTURE(shadow) {
	struct shadow s;
	long poll_us;
};

FIXTURE_VARIANT(shadow) {
	u64 worker;
};

FIXTURE_VARIANT_ADD(shadow, vcpu) {
	.worker = KVM_VIOMMU_WORKER_NONE,
};

FIXTURE_VARIANT_ADD(shadow, sidecore) {
	.worker = KVM_VIOMMU_WORKER_SIDECORE,
};

FIXTURE_VARIANT_ADD(shadow, task) {
	.worker = KVM_VIOMMU_WORKER_TASK,
};

FIXTURE_SETUP(shadow)
{
	const char *missing = edu_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (variant->worker == KVM_VIOMMU_WORKER_SIDECORE &&
	    !viommu_has_sidecores())
		SKIP(return, "kvm.sidecore_cpus is empty");
	self->poll_us = viommu_param("viommu_poll_us", 1000);
	viommu_set_param("viommu_poll_us", POLL_US);
	shadow_create(&self->s, variant->worker);
}

FIXTURE_TEARDOWN(shadow)
{
	shadow_destroy(&self->s);
	viommu_set_param("viommu_poll_us", self->poll_us);
}

#define SHADOW_TEST(name)						\
static void __shadow_##name(struct shadow *s);				\
									\
TEST_F_TIMEOUT(shadow, name, VIOMMU_CASE_TIMEOUT)			\
{									\
	__shadow_##name(&self->s);					\
}									\
static void __shadow_##name(struct shadow *s)

/* ------------------------------------------------------------- devices */

static int add(struct shadow *s, u16 sid, int group, const char *name)
{
	return __viommu_add_device(s->t.fd, sid, group, name);
}

SHADOW_TEST(device_errors)
{
	struct kvm_viommu_device dev = {
		.sid = SID,
		.name = (u64)s->e.name,
	};
	struct viommu_vm other;
	int null;

	edu_close(&s->e);
	viommu_vm_add_unit(&s->t);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER, s->worker);
	viommu_init(s->t.fd);

	TEST_ASSERT_EQ(add(s, SID, -1, s->e.name), EBADF);
	TEST_ASSERT_EQ(add(s, SID, 12345, s->e.name), EBADF);
	null = open("/dev/null", O_RDWR);
	TEST_ASSERT_EQ(add(s, SID, null, s->e.name), EINVAL);
	close(null);
	TEST_ASSERT_EQ(add(s, SID, s->t.vm->fd, s->e.name), EINVAL);
	TEST_ASSERT_EQ(add(s, SID, s->t.fd, s->e.name), EINVAL);

	edu_open_container(&s->e);
	TEST_ASSERT_EQ(add(s, SID, s->e.container, s->e.name), EINVAL);
	edu_open_group(&s->e);
	TEST_ASSERT_EQ(add(s, SID, s->e.group, s->e.name), EINVAL);
	TEST_ASSERT(!ioctl(s->e.group, VFIO_GROUP_SET_CONTAINER, &s->e.container),
		    "VFIO_GROUP_SET_CONTAINER");
	TEST_ASSERT_EQ(add(s, SID, s->e.group, s->e.name), EINVAL);
	TEST_ASSERT(!ioctl(s->e.group, VFIO_GROUP_UNSET_CONTAINER),
		    "VFIO_GROUP_UNSET_CONTAINER");
	edu_join_container(&s->e);

	/* Names of other devices, of no device, and not readable. */
	TEST_ASSERT_EQ(add(s, SID, s->e.group, "0000:00:00.0"), ENODEV);
	TEST_ASSERT_EQ(add(s, SID, s->e.group, "0000:00:1e.7"), ENODEV);
	TEST_ASSERT_EQ(add(s, SID, s->e.group, "edu"), ENODEV);
	TEST_ASSERT_EQ(add(s, SID, s->e.group, ""), ENODEV);
	TEST_ASSERT_EQ(add(s, SID, s->e.group, NULL), EFAULT);

	dev.group_fd = s->e.group;
#define add_with(field, value)						\
({									\
	struct kvm_viommu_device __dev = dev;				\
									\
	__dev.field = (value);						\
	__viommu_set(s->t.fd, KVM_DEV_VIOMMU_GRP_DEVICE,		\
		     KVM_DEV_VIOMMU_DEVICE_ADD, &__dev);		\
})
	for (int i = 0; i < 32; i++)
		TEST_ASSERT_EQ(add_with(flags, 1u << i), EINVAL);
	TEST_ASSERT_EQ(add_with(pad, 1), EINVAL);
	TEST_ASSERT_EQ(add_with(pad2, 1), EINVAL);
	TEST_ASSERT_EQ(__viommu_set(s->t.fd, KVM_DEV_VIOMMU_GRP_DEVICE,
				    KVM_DEV_VIOMMU_DEVICE_ADD, NULL), EFAULT);
	TEST_ASSERT_EQ(__viommu_set(s->t.fd, KVM_DEV_VIOMMU_GRP_DEVICE,
				    KVM_DEV_VIOMMU_DEVICE_DEL + 1, &dev), ENXIO);
	TEST_ASSERT_EQ(__viommu_del_device(s->t.fd, SID), ENOENT);

	/* None of these left anything behind. */
	TEST_ASSERT(!ioctl(s->e.group, VFIO_GROUP_UNSET_CONTAINER),
		    "VFIO_GROUP_UNSET_CONTAINER: %s", strerror(errno));
	edu_join_container(&s->e);

	shadow_add(s);
	TEST_ASSERT_EQ(add(s, SID, s->e.group, s->e.name), EEXIST);
	TEST_ASSERT_EQ(add(s, SID, -1, s->e.name), EEXIST);
	TEST_ASSERT_EQ(add(s, SID + 1, s->e.group, s->e.name), EEXIST);
	TEST_ASSERT_EQ(__viommu_del_device(s->t.fd, SID + 1), ENOENT);

	viommu_vm_create(&other, guest_server);
	viommu_vm_add_unit(&other);
	TEST_ASSERT_EQ(__viommu_add_device(other.fd, SID, s->e.group, s->e.name),
		       ENXIO);
	viommu_init(other.fd);
	TEST_ASSERT_EQ(__viommu_add_device(other.fd, SID, s->e.group, s->e.name),
		       EEXIST);
	viommu_vm_destroy(&other);

	/* The container cannot be taken away; that is all that keeps it. */
	TEST_ASSERT(ioctl(s->e.group, VFIO_GROUP_UNSET_CONTAINER) < 0 &&
		    errno == EBUSY, "VFIO_GROUP_UNSET_CONTAINER: %s",
		    strerror(errno));
	shadow_del(s);
	TEST_ASSERT_EQ(__viommu_del_device(s->t.fd, SID), ENOENT);
	TEST_ASSERT(!ioctl(s->e.group, VFIO_GROUP_UNSET_CONTAINER),
		    "VFIO_GROUP_UNSET_CONTAINER: %s", strerror(errno));
}

/* The VMM closes and opens the device before, while and after it is added. */
SHADOW_TEST(device_open_and_close)
{
	void *mem = hva(s, DATA + PAGE);

	edu_map(&s->e, IOVA, mem, PAGE);
	viommu_vm_add_unit(&s->t);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER, s->worker);
	viommu_init(s->t.fd);

	expect_works(s, IOVA, mem, PAGE);
	edu_close_device(&s->e);
	shadow_add(s);
	TEST_ASSERT(ioctl(s->e.group, VFIO_GROUP_UNSET_CONTAINER) < 0 &&
		    errno == EBUSY, "VFIO_GROUP_UNSET_CONTAINER: %s",
		    strerror(errno));
	edu_open_device(&s->e);
	expect_works(s, IOVA, mem, PAGE);
	shadow_del(s);
	expect_works(s, IOVA, mem, PAGE);
	shadow_add(s);
	edu_close_device(&s->e);
	shadow_del(s);
	edu_open_device(&s->e);
	expect_works(s, IOVA, mem, PAGE);

	/* Until the last close nobody gets the group; then all do. */
	shadow_add(s);
	edu_close(&s->e);
	s->e.group = open(s->e.path, O_RDWR | O_CLOEXEC);
	TEST_ASSERT(s->e.group < 0 && errno == EBUSY,
		    "The group could be opened: %s", strerror(errno));
	viommu_close(&s->t);
	edu_open(&s->e);
	edu_map(&s->e, IOVA, mem, PAGE);
	expect_works(s, IOVA, mem, PAGE);
}

/* A device is added, and removed, while the guest translates. */
SHADOW_TEST(device_hotplug)
{
	void *mine = hva(s, DATA + PAGE), *mapped = hva(s, DATA + 2 * PAGE);

	edu_map(&s->e, IOVA, mine, PAGE);
	shadow_unit(s, KVM_VIOMMU_TEARDOWN_STRICT, 0);
	shadow_del(s);
	shadow_tables(s);
	map_pages(s, IOVA, DATA + 2 * PAGE, 1, VTD_SL_RW);
	viommu_run_to(&s->t, SERVE_READY);
	serve(&s->t, SERVE_INIT, 0, 0);
	expect_works(s, IOVA, mine, PAGE);
	expect_pinned(s, 0);

	shadow_add(s);
	VIOMMU_ASSERT_WAIT(pinned(s) == 1 + BOUNCE_PAGES, "%lu pages are pinned",
			   (unsigned long)pinned(s));
	expect_reach(s, IOVA, DATA + 2 * PAGE, VTD_SL_RW);
	expect_works(s, IOVA, mapped, PAGE);
	shadow_del(s);
	expect_pinned(s, 0);
	expect_works(s, IOVA, mine, PAGE);
}

/* ---------------------------------------------------------- translation */

SHADOW_TEST(dma)
{
	void *mem = hva(s, DATA + PAGE), *next = hva(s, DATA + 2 * PAGE);
	u8 copy[PAGE];

	start(s);
	expect_blocked(s, IOVA, mem, PAGE);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_reach(s, IOVA, DATA + PAGE, VTD_SL_RW);
	expect_pinned(s, 1 + BOUNCE_PAGES);
	expect_works(s, IOVA, mem, PAGE);
	/* Its neighbours are not mapped, and DMA stops at the end of a page. */
	expect_blocked(s, IOVA + PAGE, mem, PAGE);
	expect_blocked(s, IOVA - PAGE, mem, PAGE);
	fill(next, PAGE);
	expect_blocked(s, IOVA + PAGE, next, PAGE);

	/* Two pages of memory in the reverse order. */
	map_pages(s, IOVA + PAGE, DATA, 1, VTD_SL_RW);
	map_pages(s, IOVA, DATA + 2 * PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 1);
	fill(hva(s, DATA), PAGE);
	fill(next, PAGE);
	memcpy(copy, next + 2048, 2048);
	memcpy(copy + 2048, hva(s, DATA), 2048);
	edu_load(&s->e, IOVA + 2048, PAGE);
	edu_store(&s->e, BOUNCE, PAGE);
	TEST_ASSERT(!memcmp(hva(s, DATA), copy, PAGE), "DMA across pages");

	unmap_pages(s, IOVA, 2);
	announce(s, IOVA, 1);
	expect_nothing(s, IOVA);
	expect_pinned(s, BOUNCE_PAGES);
	expect_blocked(s, IOVA, next, PAGE);
	expect_no_fault(s);
}

/* Permissions of the device; those of all levels count. */
SHADOW_TEST(permissions)
{
	void *mem = hva(s, DATA + PAGE);
	u64 *dir;

	start(s);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_R);
	announce(s, IOVA, 0);
	expect_reach(s, IOVA, DATA + PAGE, VTD_SL_R);
	expect_no_write(s, IOVA, mem, PAGE);
	/* What it may read, it does read. */
	fill(mem, PAGE);
	edu_load(&s->e, IOVA, PAGE);
	edu_store(&s->e, BOUNCE, PAGE);
	TEST_ASSERT(!memcmp(mem, hva(s, DATA), PAGE), "A read-only page");

	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_W);
	announce(s, IOVA, 0);
	expect_reach(s, IOVA, DATA + PAGE, VTD_SL_W);
	/* Whether it can be read is the host's: Intel's driver lets it be. */
	fill(hva(s, DATA), PAGE);
	edu_load(&s->e, BOUNCE, PAGE);
	edu_store(&s->e, IOVA, PAGE);
	TEST_ASSERT(!memcmp(mem, hva(s, DATA), PAGE), "A write-only page");

	/* Neither, as a level above is read-only. */
	dir = entry(s, IOVA, 2);
	*dir = (*dir & ~VTD_SL_W) | VTD_SL_R;
	announce(s, IOVA, 9);
	expect_same(s, IOVA, 2);
	expect_nothing(s, IOVA);
	expect_pinned(s, BOUNCE_PAGES);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_reach(s, IOVA, DATA + PAGE, VTD_SL_R);
	expect_no_write(s, IOVA, mem, PAGE);
	*dir |= VTD_SL_W;
	announce(s, IOVA, 9);
	expect_reach(s, IOVA, DATA + PAGE, VTD_SL_RW);
	expect_works(s, IOVA, mem, PAGE);
}

/* The device reaches what the VMM mapped, at the same address, or the guest. */
static void expect_container(struct shadow *s, void *mine, void *mapped)
{
	expect_works(s, IOVA, mine, PAGE);
	expect_no_write(s, IOVA, mapped, PAGE);
	expect_reach(s, IOVA, IOVA, VTD_SL_RW);
	expect_pinned(s, 0);
}

static void expect_guest(struct shadow *s, void *mine, void *mapped)
{
	expect_works(s, IOVA, mapped, PAGE);
	expect_no_write(s, IOVA, mine, PAGE);
	expect_reach(s, IOVA, DATA + 2 * PAGE, VTD_SL_RW);
	expect_pinned(s, 1 + BOUNCE_PAGES);
}

SHADOW_TEST(translation_off)
{
	void *mine = hva(s, DATA + PAGE), *mapped = hva(s, DATA + 2 * PAGE);
	unsigned int i;

	edu_map(&s->e, IOVA, mine, PAGE);
	shadow_unit(s, KVM_VIOMMU_TEARDOWN_STRICT, 0);
	expect_container(s, mine, mapped);
	shadow_tables(s);
	map_pages(s, IOVA, DATA + 2 * PAGE, 1, VTD_SL_RW);
	viommu_run_to(&s->t, SERVE_READY);
	expect_container(s, mine, mapped);
	serve(&s->t, SERVE_INIT, 0, 0);
	expect_guest(s, mine, mapped);
	for (i = 0; i < 2; i++) {
		serve(&s->t, SERVE_COMMAND, 0, VTD_GCMD_TE);
		expect_container(s, mine, mapped);
		serve(&s->t, SERVE_COMMAND, VTD_GCMD_TE, 0);
		expect_guest(s, mine, mapped);
	}
	shadow_del(s);
	expect_works(s, IOVA, mine, PAGE);
	expect_pinned(s, 0);
}

SHADOW_TEST(passthrough)
{
	void *mine = hva(s, DATA + PAGE), *mapped = hva(s, DATA + 2 * PAGE);
	u64 *ctx, old;

	edu_map(&s->e, IOVA, mine, PAGE);
	start(s);
	map_pages(s, IOVA, DATA + 2 * PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_guest(s, mine, mapped);

	ctx = viommu_context(&s->t, SID);
	old = ctx[0];
	ctx[0] = VTD_CTX_TT(VTD_TT_PASSTHROUGH) | VTD_CTX_P;
	/* Not announced yet. */
	expect_guest(s, mine, mapped);
	serve_new_context(&s->t);
	expect_container(s, mine, mapped);
	ctx[0] = old;
	serve_new_context(&s->t);
	expect_guest(s, mine, mapped);
}

/* A device without a context entry, or one that is invalid, reaches nothing. */
SHADOW_TEST(context_absent)
{
	void *mem = hva(s, DATA + PAGE);
	u64 *ctx, *root, old[2];

	edu_map(&s->e, IOVA, mem, PAGE);
	start(s);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_works(s, IOVA, mem, PAGE);

	ctx = viommu_context(&s->t, SID);
	old[0] = ctx[0];
	old[1] = ctx[1];
	root = hva(s, s->t.root);

	ctx[0] &= ~VTD_CTX_P;
	serve_new_context(&s->t);
	expect_nothing(s, IOVA);
	expect_pinned(s, 0);
	expect_no_write(s, IOVA, mem, PAGE);
	fill(mem, PAGE);
	edu_load(&s->e, IOVA, PAGE);
	/* Usual; it is a fault if the device uses it, of which the host tells. */
	expect_no_fault(s);
	ctx[0] = old[0];
	serve_new_context(&s->t);
	expect_not_in_buffer(s, IOVA, mem, PAGE);
	expect_works(s, IOVA, mem, PAGE);

	/* Reserved translation type, address width, bits. */
	ctx[0] = old[0] | VTD_CTX_TT(3);
	serve_new_context(&s->t);
	expect_fault(s, 0, false, VTD_FAULT_CONTEXT);
	expect_no_write(s, IOVA, mem, PAGE);
	expect_pinned(s, 0);
	ctx[0] = old[0];
	ctx[1] = (old[1] & ~7ull) | 3;
	serve_new_context(&s->t);
	expect_fault(s, 0, false, VTD_FAULT_CONTEXT);
	expect_nothing(s, IOVA);
	ctx[1] = old[1] | BIT_ULL(24);
	serve_new_context(&s->t);
	expect_fault(s, 0, false, VTD_FAULT_CONTEXT_RSVD);
	expect_nothing(s, IOVA);
	ctx[1] = old[1];
	serve_new_context(&s->t);
	expect_works(s, IOVA, mem, PAGE);

	/* The same of the root entry. */
	old[0] = root[0];
	root[0] = 0;
	serve_new_context(&s->t);
	expect_nothing(s, IOVA);
	expect_no_fault(s);
	expect_no_write(s, IOVA, mem, PAGE);
	root[0] = old[0] | BIT_ULL(1);
	serve_new_context(&s->t);
	expect_fault(s, 0, false, VTD_FAULT_ROOT_RSVD);
	expect_nothing(s, IOVA);
	root[0] = HOLE | VTD_ROOT_P;
	serve_new_context(&s->t);
	expect_fault(s, 0, false, VTD_FAULT_CONTEXT_TABLE);
	expect_nothing(s, IOVA);
	root[0] = old[0];

	/* Another root table, which is not memory. */
	serve(&s->t, SERVE_ROOT, HOLE, 0);
	expect_fault(s, 0, false, VTD_FAULT_ROOT_TABLE);
	expect_nothing(s, IOVA);
	expect_no_write(s, IOVA, mem, PAGE);
	serve(&s->t, SERVE_ROOT, s->t.root, 0);
	expect_works(s, IOVA, mem, PAGE);
	expect_pinned(s, 1 + BOUNCE_PAGES);
}

/* Other tables with one page; returns the former ones. */
static u64 other_tables(struct shadow *s, u64 gpa)
{
	u64 old = s->tables;

	s->tables = viommu_alloc(&s->t, 1);
	map_pages(s, BOUNCE, DATA, 1, VTD_SL_RW);
	map_pages(s, IOVA, gpa, 1, VTD_SL_RW);
	return old;
}

/* The device moves to another domain, and back; a domain gets other tables. */
SHADOW_TEST(context_moved)
{
	void *mem = hva(s, DATA + PAGE), *other = hva(s, DATA + 2 * PAGE);
	u64 tables;

	start(s);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	map_pages(s, IOVA + PAGE, DATA + 3 * PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 1);
	expect_works(s, IOVA, mem, PAGE);
	expect_pinned(s, 2 + BOUNCE_PAGES);
	tables = other_tables(s, DATA + 2 * PAGE);

	viommu_set_context(&s->t, SID, OTHER_DID, s->tables, WIDTH);
	serve_new_context(&s->t);
	expect_works(s, IOVA, other, PAGE);
	expect_no_write(s, IOVA, mem, PAGE);
	expect_nothing(s, IOVA + PAGE);
	expect_pinned(s, 1 + BOUNCE_PAGES);

	/* Invalidations of the domain that it has left make no difference. */
	map_pages(s, IOVA + 2 * PAGE, DATA + 3 * PAGE, 1, VTD_SL_RW);
	announce(s, IOVA + 2 * PAGE, 0);
	expect_nothing(s, IOVA + 2 * PAGE);
	serve_desc(&s->t, VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(OTHER_DID), 0);
	expect_reach(s, IOVA + 2 * PAGE, DATA + 3 * PAGE, VTD_SL_RW);

	/* The id stays, the tables do not. */
	viommu_set_context(&s->t, SID, OTHER_DID, tables, WIDTH);
	serve_new_context(&s->t);
	expect_same(s, IOVA, 3);
	expect_works(s, IOVA, mem, PAGE);
	expect_no_write(s, IOVA, other, PAGE);
	expect_pinned(s, 2 + BOUNCE_PAGES);

	viommu_set_context(&s->t, SID, DID, tables, WIDTH);
	serve_new_context(&s->t);
	expect_works(s, IOVA, mem, PAGE);
	expect_pinned(s, 2 + BOUNCE_PAGES);
}

/* Root tables are changed by a guest that is busy, e.g. whose writes do not exit. */
SHADOW_TEST(root_moved)
{
	u64 roots[2], *root, modes, i;

	start(s);
	roots[0] = s->t.root;
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);

	/* Other contexts, in another root table. */
	roots[1] = viommu_alloc(&s->t, 1);
	s->t.root = roots[1];
	other_tables(s, DATA + 2 * PAGE);
	viommu_set_context(&s->t, SID, OTHER_DID, s->tables, WIDTH);
	root = hva(s, roots[1]);
	TEST_ASSERT(root[0] & VTD_ROOT_P, "A root table without entry");

	modes = viommu_stat(&s->t, "viommu_to_direct");
	for (i = 1; i <= 100; i++) {
		serve(&s->t, SERVE_ROOT_BUSY, roots[i & 1], 0);
		expect_reach(s, IOVA, DATA + (1 + (i & 1)) * PAGE, VTD_SL_RW);
	}
	modes = viommu_stat(&s->t, "viommu_to_direct") - modes;
	TEST_ASSERT(s->worker == KVM_VIOMMU_WORKER_NONE ? !modes : modes >= 10,
		    "Writes ceased to exit %lu times", modes);
	expect_works(s, IOVA, hva(s, DATA + PAGE), PAGE);
	expect_no_fault(s);
}

/* The same domain id, with tables of another width. */
SHADOW_TEST(context_width)
{
	const u64 high = 1ul << 40;
	u64 *root4 = NULL;

	start(s);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	map_pages(s, high, DATA + 2 * PAGE, 1, VTD_SL_RW);
	serve_iotlb(&s->t);
	expect_reach(s, high, DATA + 2 * PAGE, VTD_SL_RW);
	expect_pinned(s, 2 + BOUNCE_PAGES);
	expect_works(s, high, hva(s, DATA + 2 * PAGE), PAGE);

	/* The first 512 GiB stay as they are. */
	root4 = hva(s, s->tables);
	viommu_set_context(&s->t, SID, DID, root4[0] & VTD_SL_ADDR, 39);
	serve_new_context(&s->t);
	expect_same(s, IOVA, 2);
	expect_same(s, high, 2);
	expect_nothing(s, high);
	expect_pinned(s, 1 + BOUNCE_PAGES);
	expect_works(s, IOVA, hva(s, DATA + PAGE), PAGE);
	expect_blocked(s, high, hva(s, DATA + 2 * PAGE), PAGE);

	viommu_set_context(&s->t, SID, DID, s->tables, WIDTH);
	serve_new_context(&s->t);
	expect_same(s, IOVA, 2);
	expect_same(s, high, 2);
	expect_pinned(s, 2 + BOUNCE_PAGES);
}

/* ---------------------------------------------------------- large pages */

/* A page of 2 MiB, and what is around it. */
static void large_page(struct shadow *s, u64 gpa)
{
	unsigned int i;

	*entry(s, IOVA, 2) = gpa | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 9);
	expect_same(s, IOVA - PAGE, LARGE_PAGES + 2);
	expect_pinned(s, LARGE_PAGES + BOUNCE_PAGES);
	expect_works(s, IOVA, hva(s, gpa), PAGE);
	expect_works(s, IOVA + LARGE - PAGE, hva(s, gpa + LARGE - PAGE), PAGE);
	for (i = 0; i < 3; i++) {
		/* Across small pages. */
		u64 offset = (1 + rand() % (LARGE_PAGES - 2)) * PAGE + 8 * (rand() % 512);

		expect_works(s, IOVA + offset, hva(s, gpa + offset), PAGE);
	}
	expect_no_write(s, IOVA + LARGE, hva(s, gpa), PAGE);

	*entry(s, IOVA, 2) = gpa | VTD_SL_R | VTD_SL_PS;
	announce(s, IOVA, 9);
	expect_same(s, IOVA - PAGE, LARGE_PAGES + 2);
	expect_no_write(s, IOVA + 5 * PAGE, hva(s, gpa + 5 * PAGE), PAGE);

	*entry(s, IOVA, 2) = 0;
	announce(s, IOVA, 9);
	expect_same(s, IOVA - PAGE, LARGE_PAGES + 2);
	expect_pinned(s, BOUNCE_PAGES);
	expect_no_write(s, IOVA + 5 * PAGE, hva(s, gpa + 5 * PAGE), PAGE);
}

SHADOW_TEST(large_page_in_small)
{
	start(s);
	large_page(s, DATA + LARGE);
}

/* Returns how many there were. */
static u64 reserve_huge_pages(u64 n)
{
	unsigned long old = 0;
	FILE *f;

	f = fopen("/proc/sys/vm/nr_hugepages", "r+");
	TEST_ASSERT(f, "/proc/sys/vm/nr_hugepages");
	TEST_ASSERT_EQ(fscanf(f, "%lu", &old), 1);
	rewind(f);
	fprintf(f, "%lu\n", (unsigned long)(n == NOTHING ? 0 : n));
	fclose(f);
	return old;
}

SHADOW_TEST(large_page_in_large)
{
	u64 old = reserve_huge_pages(8);

	add_memory(s, VM_MEM_SRC_ANONYMOUS_HUGETLB_2MB, MORE_SLOT, MORE,
		   2 * LARGE_PAGES, 0);
	start(s);
	large_page(s, MORE);
	/* And parts of it. */
	map_pages(s, IOVA, MORE + LARGE + 7 * PAGE, 4, VTD_SL_RW);
	announce(s, IOVA, 2);
	expect_same(s, IOVA, 6);
	expect_pinned(s, 4 + BOUNCE_PAGES);
	expect_works(s, IOVA + 2048, hva(s, MORE + LARGE + 7 * PAGE + 2048), PAGE);
	/* Until the memory is gone, so that it can be given back. */
	unmap_pages(s, IOVA, 4);
	announce(s, IOVA, 2);
	expect_pinned(s, BOUNCE_PAGES);
	vm_mem_region_delete(s->t.vm, MORE_SLOT);
	reserve_huge_pages(old);
}

/* Small pages become a large one, and the other way round. */
SHADOW_TEST(size_changes)
{
	const u64 gpa = DATA + LARGE;
	u64 small, *dir;

	start(s);
	map_pages(s, IOVA, gpa, LARGE_PAGES, VTD_SL_RW);
	announce(s, IOVA, 9);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_pinned(s, LARGE_PAGES + BOUNCE_PAGES);
	dir = entry(s, IOVA, 2);
	small = *dir;

	/* The same memory. */
	*dir = gpa | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 9);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_pinned(s, LARGE_PAGES + BOUNCE_PAGES);
	expect_works(s, IOVA + 2048, hva(s, gpa + 2048), PAGE);
	/* Other memory. */
	*dir = (gpa + LARGE) | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 9);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_no_write(s, IOVA, hva(s, gpa), PAGE);
	expect_works(s, IOVA + 2048, hva(s, gpa + LARGE + 2048), PAGE);
	/* Small pages again, not all of them. */
	*dir = small;
	unmap_pages(s, IOVA + PAGE, LARGE_PAGES - 2);
	announce(s, IOVA, 9);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_pinned(s, 2 + BOUNCE_PAGES);
	expect_works(s, IOVA + LARGE - PAGE, hva(s, gpa + LARGE - PAGE), PAGE);
	expect_no_write(s, IOVA + PAGE, hva(s, gpa + LARGE + PAGE), PAGE);
	/* Large, among small ones that are not announced, but covered. */
	*dir = (gpa + LARGE) | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 10);
	expect_same(s, IOVA - PAGE, LARGE_PAGES + 2);
	/* Of a large page that is gone nothing may be left, wherever that began. */
	*dir = 0;
	announce(s, IOVA + 8 * PAGE, 0);
	expect_nothing(s, IOVA + 8 * PAGE);
	announce(s, IOVA, 9);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_pinned(s, BOUNCE_PAGES);
}

/* 1 GiB; the tables may say so whatever memory there is. */
SHADOW_TEST(huge_page)
{
	u64 *dir, i;

	add_memory(s, VM_MEM_SRC_ANONYMOUS_THP, MORE_SLOT, MORE, HUGE / PAGE, 0);
	start(s);
	dir = entry(s, IOVA, 3);
	*dir = MORE | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 18);
	expect_pinned(s, HUGE / PAGE + BOUNCE_PAGES);
	for (i = 0; i < HUGE; i += 37 * PAGE)
		expect_same(s, IOVA + i, 1);
	expect_works(s, IOVA, hva(s, MORE), PAGE);
	expect_works(s, IOVA + HUGE - PAGE, hva(s, MORE + HUGE - PAGE), PAGE);
	expect_works(s, IOVA + 3 * LARGE - 2048, hva(s, MORE + 3 * LARGE - 2048), PAGE);
	expect_same(s, IOVA - PAGE, 2);
	expect_same(s, IOVA + HUGE - PAGE, 2);

	/* A table, with one page of the same that there was, and another. */
	*dir = 0;
	*entry(s, IOVA + LARGE, 2) = (MORE + LARGE) | VTD_SL_RW | VTD_SL_PS;
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 18);
	expect_pinned(s, LARGE_PAGES + 1 + BOUNCE_PAGES);
	expect_same(s, IOVA, 3 * LARGE_PAGES);
	expect_no_fault(s);
	*dir = 0;
	announce(s, IOVA, 18);
	expect_pinned(s, BOUNCE_PAGES);
}

/* A page of 1 GiB that is mostly a hole: what is memory is mapped. */
SHADOW_TEST(huge_page_with_hole)
{
	u64 *dir;

	start(s);
	dir = entry(s, IOVA, 3);
	*dir = DATA | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 18);
	expect_pinned(s, DATA_PAGES + BOUNCE_PAGES);
	expect_same(s, IOVA, DATA_PAGES);
	expect_nothing(s, IOVA + DATA_PAGES * PAGE);
	expect_nothing(s, IOVA + HUGE - PAGE);
	expect_fault(s, IOVA + DATA_PAGES * PAGE, true, VTD_FAULT_WRITE);
	expect_works(s, IOVA + (DATA_PAGES - 1) * PAGE,
		     hva(s, DATA + (DATA_PAGES - 1) * PAGE), PAGE);
	expect_no_write(s, IOVA + DATA_PAGES * PAGE, hva(s, DATA + PAGE), PAGE);
	*dir = 0;
	announce(s, IOVA, 18);
	expect_pinned(s, BOUNCE_PAGES);
}

/* A large page of the guest is memory of two memslots. */
SHADOW_TEST(large_page_in_two_slots)
{
	const u64 half = LARGE_PAGES / 2;
	u64 middle = MORE + half * PAGE;
	void *low, *high;
	u8 copy[PAGE];

	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, half, 0);
	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE2_SLOT, middle, half, 0);
	start(s);
	*entry(s, IOVA, 2) = MORE | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA, 9);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_pinned(s, LARGE_PAGES + BOUNCE_PAGES);
	low = hva(s, middle - PAGE) + 2048;
	high = hva(s, middle);
	fill(low, 2048);
	fill(high, 2048);
	memcpy(copy, low, 2048);
	memcpy(copy + 2048, high, 2048);
	edu_load(&s->e, IOVA + half * PAGE - 2048, PAGE);
	memset(low, 0, 2048);
	memset(high, 0, 2048);
	edu_store(&s->e, IOVA + half * PAGE - 2048, PAGE);
	TEST_ASSERT(!memcmp(low, copy, 2048) && !memcmp(high, copy + 2048, 2048),
		    "DMA across memslots");

	vm_mem_region_delete(s->t.vm, MORE2_SLOT);
	expect_pinned(s, half + BOUNCE_PAGES);
	expect_reach(s, IOVA + (half - 1) * PAGE, middle - PAGE, VTD_SL_RW);
	expect_nothing(s, IOVA + half * PAGE);
	expect_works(s, IOVA, hva(s, MORE), PAGE);
}

/* ------------------------------------------------------------ at any time */

/*
 * Small and large pages come, go and change at random, and are announced in all
 * ways that there are.  When an invalidation is complete the device reaches what
 * the tables say.
 */
static void random_changes(struct shadow *s, bool strict, unsigned int rounds)
{
	const u64 window = 4 * LARGE_PAGES;
	u64 first, n, i, iova, want, got, traps, *dir;
	u32 want_access, got_access;
	unsigned int round;

	for (i = 0; i < 4; i++)
		entry(s, IOVA + i * LARGE, 1);
	traps = viommu_stat(&s->t, "viommu_traps");

	for (round = 0; round < rounds; round++) {
		n = 1ul << (rand() % 5);
		first = rand() % window & ~(n - 1);
		if (rand() % 8 == 0) {
			n = LARGE_PAGES;
			first &= ~(n - 1);
			dir = entry(s, IOVA + first * PAGE, 2);
			if (*dir & VTD_SL_PS)
				*dir = viommu_alloc(&s->t, 1) | VTD_SL_RW;
			else
				*dir = (DATA + (1 + rand() % 8) * LARGE) |
				       VTD_SL_RW | VTD_SL_PS;
		}
		for (i = first; i < first + n; i++) {
			iova = IOVA + i * PAGE;
			dir = entry(s, iova, 2);
			if (*dir & VTD_SL_PS) {
				/* Some of it: all of it is to be announced. */
				n = LARGE_PAGES;
				first &= ~(n - 1);
				break;
			}
			*entry(s, iova, 1) = rand() % 3 ? 0 :
					     (DATA + rand() % DATA_PAGES * PAGE) |
					     (1 + rand() % 3);
		}
		switch (rand() % 8) {
		case 0:
			serve_iotlb(&s->t);
			break;
		case 1:
			serve_desc(&s->t, VTD_QI_IOTLB(VTD_DOMAIN) |
					  VTD_QI_IOTLB_DID(DID), 0);
			break;
		case 2:
			serve_new_context(&s->t);
			break;
		case 3:
			/* More than what has changed. */
			announce(s, IOVA, 11);
			break;
		default:
			announce_pages(s, IOVA + first * PAGE, n);
		}
		for (i = 0; i < window; i += (i & 511) < 480 && rand() % 4 ? 9 : 1) {
			iova = IOVA + i * PAGE;
			want = tables_say(s, iova, &want_access);
			got = reach(s, iova, &got_access);
			/* What is unmapped may be there for a while. */
			if (!strict && want == NOTHING)
				continue;
			TEST_ASSERT(want == got && want_access == got_access,
				    "Round %u: at 0x%lx the device reaches 0x%lx (%u), tables say 0x%lx (%u)",
				    round, iova, got, got_access, want, want_access);
		}
		for (i = first; i < first + n; i++) {
			iova = IOVA + i * PAGE;
			want = tables_say(s, iova, &want_access);
			got = reach(s, iova, &got_access);
			if (!strict && want == NOTHING)
				continue;
			TEST_ASSERT(want == got && want_access == got_access,
				    "Round %u: at 0x%lx, announced, the device reaches 0x%lx (%u), tables say 0x%lx (%u)",
				    round, iova, got, got_access, want, want_access);
		}
	}
	expect_no_fault(s);

	traps = viommu_stat(&s->t, "viommu_traps") - traps;
	if (s->worker != KVM_VIOMMU_WORKER_NONE) {
		TEST_ASSERT(traps < rounds && viommu_stat(&s->t, "viommu_hits"),
			    "%lu of %u requests exited", traps, rounds);
	} else {
		TEST_ASSERT(traps >= rounds, "Only %lu of %u requests exited",
			    traps, rounds);
	}
}

SHADOW_TEST(random_strict)
{
	start(s);
	random_changes(s, true, 200);
}

SHADOW_TEST(random_deferred)
{
	shadow_start(s, KVM_VIOMMU_TEARDOWN_DEFERRED, 0);
	random_changes(s, false, 100);
}

SHADOW_TEST(random_optimistic)
{
	shadow_start(s, KVM_VIOMMU_TEARDOWN_OPTIMISTIC, 0);
	random_changes(s, false, 100);
}

/* -------------------------------------------------------------------- pins */

SHADOW_TEST(pins)
{
	static const u64 counts[] = { 1, 2, LARGE_PAGES, 8 * LARGE_PAGES };
	u64 before = locked_pages(), locked, n, i;

	start(s);
	for (i = 0; i < ARRAY_SIZE(counts); i++) {
		n = counts[i];
		map_pages(s, IOVA, DATA + LARGE, n, VTD_SL_RW);
		announce_pages(s, IOVA, n);
		expect_pinned(s, n + BOUNCE_PAGES);
		TEST_ASSERT_EQ(host_pins() - s->pins, n + BOUNCE_PAGES);
		locked = locked_pages() - before;
		TEST_ASSERT(locked >= n + BOUNCE_PAGES &&
			    locked <= n + BOUNCE_PAGES + SPARE,
			    "VmLck is %lu pages, of which %lu are mapped", locked,
			    n + BOUNCE_PAGES);
		/* Again makes no difference, nor does a second mapping of others. */
		serve_iotlb(&s->t);
		expect_pinned(s, n + BOUNCE_PAGES);
		/* Pages that are mapped twice are pinned twice. */
		map_pages(s, IOVA + HUGE, DATA + LARGE, 1, VTD_SL_R);
		announce_pages(s, IOVA + HUGE, 1);
		expect_pinned(s, n + 1 + BOUNCE_PAGES);
		unmap_pages(s, IOVA + HUGE, 1);
		announce_pages(s, IOVA + HUGE, 1);

		unmap_pages(s, IOVA, n);
		/* Not announced: still there. */
		expect_pinned(s, n + BOUNCE_PAGES);
		announce_pages(s, IOVA, n);
		expect_pinned(s, BOUNCE_PAGES);
		TEST_ASSERT_EQ(host_pins() - s->pins, BOUNCE_PAGES);
		locked = locked_pages() - before;
		TEST_ASSERT(locked >= BOUNCE_PAGES && locked <= BOUNCE_PAGES + SPARE,
			    "VmLck is %lu pages", locked);
	}
	viommu_close(&s->t);
	TEST_ASSERT_EQ(locked_pages(), before);
	TEST_ASSERT_EQ(host_pins(), s->pins);
}

/* No matter what the limit is, for this process. */
static void drop_ipc_lock(void)
{
	struct __user_cap_header_struct header = {
		.version = _LINUX_CAPABILITY_VERSION_3,
	};
	struct __user_cap_data_struct data[2];

	TEST_ASSERT(!syscall(SYS_capget, &header, data), "capget(): %s",
		    strerror(errno));
	data[CAP_IPC_LOCK / 32].effective &= ~(1u << CAP_IPC_LOCK % 32);
	data[CAP_IPC_LOCK / 32].permitted &= ~(1u << CAP_IPC_LOCK % 32);
	TEST_ASSERT(!syscall(SYS_capset, &header, data), "capset(): %s",
		    strerror(errno));
}

/* The VMM may not lock more than so much. */
SHADOW_TEST(memlock)
{
	const u64 limit = 100, excess = 3;
	struct rlimit rlim = {
		.rlim_cur = (limit + locked_pages()) * PAGE,
		.rlim_max = (limit + locked_pages()) * PAGE,
	};
	u64 errors, i;

	drop_ipc_lock();
	TEST_ASSERT(!setrlimit(RLIMIT_MEMLOCK, &rlim), "setrlimit(): %s",
		    strerror(errno));
	start(s);
	map_pages(s, IOVA, DATA + LARGE, limit - BOUNCE_PAGES, VTD_SL_RW);
	announce_pages(s, IOVA, limit - BOUNCE_PAGES);
	expect_pinned(s, limit);
	expect_no_fault(s);
	TEST_ASSERT_EQ(viommu_stat(&s->t, "viommu_map_errors"), 0);

	map_pages(s, IOVA + LARGE, DATA, excess, VTD_SL_RW);
	announce(s, IOVA + LARGE, 2);
	expect_pinned(s, limit);
	errors = viommu_stat(&s->t, "viommu_map_errors");
	TEST_ASSERT_EQ(errors, excess);
	for (i = 0; i < excess; i++)
		expect_nothing(s, IOVA + LARGE + i * PAGE);
	expect_fault(s, IOVA + LARGE + PAGE, true, VTD_FAULT_WRITE);
	expect_no_write(s, IOVA + LARGE, hva(s, DATA), PAGE);
	/* All or nothing of a large page. */
	*entry(s, IOVA + 2 * LARGE, 2) = (DATA + LARGE) | VTD_SL_R | VTD_SL_PS;
	announce(s, IOVA + 2 * LARGE, 9);
	expect_pinned(s, limit);
	expect_nothing(s, IOVA + 2 * LARGE);
	expect_fault(s, IOVA + 2 * LARGE, false, VTD_FAULT_READ);
	*entry(s, IOVA + 2 * LARGE, 2) = 0;
	announce(s, IOVA + 2 * LARGE, 9);
	/* What was mapped is. */
	expect_works(s, IOVA + PAGE, hva(s, DATA + LARGE + PAGE), PAGE);

	/* The limit is not exceeded for a moment, but what goes makes room. */
	unmap_pages(s, IOVA + 10 * PAGE, excess);
	announce_pages(s, IOVA + 10 * PAGE, excess);
	expect_pinned(s, limit - excess);
	announce(s, IOVA + LARGE, 2);
	expect_pinned(s, limit);
	expect_no_fault(s);
	expect_same(s, IOVA, LARGE_PAGES + 4);
	expect_works(s, IOVA + LARGE + PAGE, hva(s, DATA + PAGE), PAGE);
	TEST_ASSERT(locked_pages() * PAGE <= rlim.rlim_cur, "VmLck is %lu pages",
		    (unsigned long)locked_pages());
}

/* What waits to be unpinned is given up for what is to be mapped. */
SHADOW_TEST(memlock_optimistic)
{
	const u64 limit = 100;
	struct rlimit rlim = {
		.rlim_cur = (limit + locked_pages()) * PAGE,
		.rlim_max = (limit + locked_pages()) * PAGE,
	};
	u64 i;

	drop_ipc_lock();
	TEST_ASSERT(!setrlimit(RLIMIT_MEMLOCK, &rlim), "setrlimit(): %s",
		    strerror(errno));
	shadow_start(s, KVM_VIOMMU_TEARDOWN_OPTIMISTIC, 0);
	for (i = 0; i < 10; i++) {
		map_pages(s, IOVA + i * LARGE, DATA + i * 16 * PAGE, 80, VTD_SL_RW);
		announce_pages(s, IOVA + i * LARGE, 80);
		expect_no_fault(s);
		expect_same(s, IOVA + i * LARGE, 80);
		unmap_pages(s, IOVA + i * LARGE, 80);
		announce_pages(s, IOVA + i * LARGE, 80);
	}
	TEST_ASSERT_EQ(viommu_stat(&s->t, "viommu_map_errors"), 0);
}

/* The VMM sets a limit of its own. */
SHADOW_TEST(max_pages)
{
	const u64 limit = 20, excess = 5;
	u64 i;

	shadow_start(s, KVM_VIOMMU_TEARDOWN_STRICT, limit);
	map_pages(s, IOVA, DATA + PAGE, limit + excess - BOUNCE_PAGES, VTD_SL_RW);
	announce_pages(s, IOVA, limit + excess - BOUNCE_PAGES);
	expect_pinned(s, limit);
	TEST_ASSERT_EQ(viommu_stat(&s->t, "viommu_limit"), excess);
	expect_same(s, IOVA, limit - BOUNCE_PAGES);
	for (i = limit - BOUNCE_PAGES; i < limit + excess - BOUNCE_PAGES; i++)
		expect_nothing(s, IOVA + i * PAGE);
	expect_fault(s, IOVA + limit * PAGE, true, VTD_FAULT_WRITE);
	/* A large page exceeds it as well. */
	*entry(s, IOVA + LARGE, 2) = (DATA + LARGE) | VTD_SL_RW | VTD_SL_PS;
	announce(s, IOVA + LARGE, 9);
	expect_nothing(s, IOVA + LARGE);
	expect_fault(s, IOVA + LARGE, true, VTD_FAULT_WRITE);
	expect_pinned(s, limit);
	*entry(s, IOVA + LARGE, 2) = 0;

	unmap_pages(s, IOVA, excess);
	serve_iotlb(&s->t);
	expect_pinned(s, limit);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_no_fault(s);
	/* A page that replaces another needs no room. */
	map_pages(s, IOVA + excess * PAGE, DATA + 100 * PAGE, 2, VTD_SL_RW);
	announce_pages(s, IOVA + excess * PAGE, 2);
	expect_same(s, IOVA, LARGE_PAGES);
	expect_no_fault(s);
	expect_pinned(s, limit);
}

/*
 * One page, mapped as often as it can be: a pin is 1024 references, and half of those
 * that there may be are the limit.
 */
SHADOW_TEST(page_mapped_often)
{
	const u64 limit = (1ul << 20) - 1, excess = 1;
	u64 *dir, table, i;

	shadow_start(s, KVM_VIOMMU_TEARDOWN_STRICT, 2 * limit);
	dir = entry(s, IOVA, 2);
	table = viommu_alloc(&s->t, 1);
	for (i = 0; i < LARGE_PAGES; i++) {
		dir[i] = table | VTD_SL_RW;
		((u64 *)hva(s, table))[i] = (DATA + PAGE) | VTD_SL_RW;
	}
	/* All of 4 GiB. */
	dir = entry(s, IOVA, 3);
	for (i = 1; i < 4; i++)
		dir[i] = dir[0];
	serve_desc(&s->t, VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(DID), 0);
	expect_pinned(s, limit + BOUNCE_PAGES);
	TEST_ASSERT_EQ(viommu_stat(&s->t, "viommu_map_errors"), excess);
	expect_works(s, IOVA, hva(s, DATA + PAGE), PAGE);
	expect_fault(s, IOVA + limit * PAGE, true, VTD_FAULT_WRITE);

	for (i = 0; i < 4; i++)
		dir[i] = 0;
	serve_desc(&s->t, VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(DID), 0);
	expect_pinned(s, BOUNCE_PAGES);
}

/* Pages of I/O page tables, of all domains of the host. */
static s64 iommu_pages(void)
{
	unsigned long pages = 0;
	bool found = false;
	char line[128];
	FILE *f;

	/* As for host_pins(). */
	f = fopen("/proc/sys/vm/stat_refresh", "w");
	TEST_ASSERT(f, "/proc/sys/vm/stat_refresh");
	fputs("1\n", f);
	fclose(f);

	f = fopen("/proc/vmstat", "r");
	TEST_ASSERT(f, "/proc/vmstat");
	while (fgets(line, sizeof(line), f))
		found |= sscanf(line, "nr_iommu_pages %lu", &pages) == 1;
	fclose(f);
	TEST_ASSERT(found, "There is no nr_iommu_pages in /proc/vmstat");
	return pages;
}

#define SWEEP		300ul
/* Tables that may be left: of 64 blocks, and those above. */
#define SWEEP_LEFT	(64 + 8)

/* Move one page through many tables, beside others that stay. */
static void sweep(struct shadow *s, unsigned int level)
{
	const u64 size = PAGE << 9 * (level - 1);
	u64 tables[3], iova, i, l;
	s64 before, most = 0;

	for (l = 1; l < level; l++) {
		tables[l] = viommu_alloc(&s->t, 1);
		*(u64 *)hva(s, tables[l]) = VTD_SL_RW | (l == 1 ? DATA + PAGE :
								  tables[l - 1]);
	}
	for (i = 0; i < SWEEP; i += 100)
		map_pages(s, IOVA + i * size + 2 * PAGE, DATA + 2 * PAGE, 1, VTD_SL_RW);
	serve_iotlb(&s->t);
	before = iommu_pages();
	for (i = 0; i < SWEEP; i++) {
		iova = IOVA + i * size;
		if (i % 100)
			*entry(s, iova, level) = tables[level - 1] | VTD_SL_RW;
		else
			map_pages(s, iova, DATA + PAGE, 1, VTD_SL_RW);
		announce(s, iova, 0);
		expect_reach(s, iova, DATA + PAGE, VTD_SL_RW);
		if (i == SWEEP / 2)
			expect_works(s, iova, hva(s, DATA + PAGE), PAGE);
		if (i % 100)
			*entry(s, iova, level) = 0;
		else
			unmap_pages(s, iova, 1);
		announce(s, iova, 0);
		if (i % 10 == 0)
			most = max(most, iommu_pages() - before);
	}
	pr_info("# %ld pages of tables at most for %lu\n", most, SWEEP);
	TEST_ASSERT(most <= SWEEP_LEFT, "%ld pages of tables are left", most);
	for (i = 0; i < SWEEP; i += 300)
		expect_works(s, IOVA + i * size + 2 * PAGE, hva(s, DATA + 2 * PAGE),
			     PAGE);
}

static void sweeps(struct shadow *s, u64 teardown)
{
	const u64 last = IOVA + (SWEEP - 1) * LARGE;
	u64 i;

	shadow_start(s, teardown, 0);
	if (access("/sys/class/iommu/dmar0", F_OK)) {
		pr_info("# Not an Intel IOMMU: it keeps tables\n");
		return;
	}
	sweep(s, 2);
	/* Where tables may be left a large page is mapped, and small ones again. */
	for (i = 0; i < 3; i++) {
		*entry(s, last, 2) = (DATA + LARGE) | VTD_SL_RW | VTD_SL_PS;
		announce(s, last, 9);
		expect_same(s, last, LARGE_PAGES);
		expect_works(s, last + 3 * PAGE, hva(s, DATA + LARGE + 3 * PAGE), PAGE);
		*entry(s, last, 2) = 0;
		map_pages(s, last + 3 * PAGE, DATA + PAGE, 1, VTD_SL_RW);
		announce(s, last, 9);
		expect_works(s, last + 3 * PAGE, hva(s, DATA + PAGE), PAGE);
		unmap_pages(s, last + 3 * PAGE, 1);
		announce(s, last, 9);
	}
	expect_no_write(s, last + 3 * PAGE, hva(s, DATA + LARGE + 3 * PAGE), PAGE);
	/* And tables of these tables. */
	sweep(s, 3);
}

SHADOW_TEST(host_tables)
{
	sweeps(s, KVM_VIOMMU_TEARDOWN_STRICT);
}

SHADOW_TEST(host_tables_deferred)
{
	sweeps(s, KVM_VIOMMU_TEARDOWN_DEFERRED);
}

/* --------------------------------------------------------------- no memory */

static void expect_not_mapped(struct shadow *s, u64 gpa, u64 prot, bool large)
{
	u64 errors = viommu_stat(&s->t, "viommu_map_errors");
	u64 iova = IOVA + LARGE, *pte = entry(s, iova, large ? 2 : 1);
	u64 old = *pte;

	*pte = gpa | prot | (large ? VTD_SL_PS : 0);
	announce(s, iova, large ? 9 : 0);
	expect_nothing(s, iova);
	expect_pinned(s, BOUNCE_PAGES);
	TEST_ASSERT(viommu_stat(&s->t, "viommu_map_errors") > errors,
		    "viommu_map_errors does not count");
	expect_fault(s, iova, prot & VTD_SL_W, prot & VTD_SL_W ?
		     VTD_FAULT_WRITE : VTD_FAULT_READ);
	*pte = old;
	announce(s, iova, large ? 9 : 0);
	expect_no_fault(s);
}

SHADOW_TEST(no_memory)
{
	static const u64 targets[] = {
		HOLE, VIOMMU_BASE, APIC_DEFAULT_GPA, VIOMMU_HOLE, VIOMMU_POOL_END,
		/* The last of the guest's host address width. */
		(1ul << 46) - LARGE,
	};
	u64 i, prot;

	start(s);
	for (i = 0; i < ARRAY_SIZE(targets); i++) {
		for (prot = VTD_SL_R; prot <= VTD_SL_RW; prot++)
			expect_not_mapped(s, targets[i], prot, false);
		expect_not_mapped(s, targets[i] & ~(LARGE - 1), VTD_SL_RW, true);
	}
}

/* A memslot that the guest cannot write. */
SHADOW_TEST(read_only_memory)
{
	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, LARGE_PAGES,
		   KVM_MEM_READONLY);
	start(s);
	expect_not_mapped(s, MORE, VTD_SL_RW, false);
	expect_not_mapped(s, MORE, VTD_SL_W, false);
	expect_not_mapped(s, MORE, VTD_SL_RW, true);

	map_pages(s, IOVA, MORE + PAGE, 1, VTD_SL_R);
	announce(s, IOVA, 0);
	expect_reach(s, IOVA, MORE + PAGE, VTD_SL_R);
	expect_no_fault(s);
	fill(hva(s, MORE + PAGE), PAGE);
	edu_load(&s->e, IOVA, PAGE);
	edu_store(&s->e, BOUNCE, PAGE);
	TEST_ASSERT(!memcmp(hva(s, DATA), hva(s, MORE + PAGE), PAGE),
		    "DMA from a read-only memslot");
	expect_no_write(s, IOVA, hva(s, MORE + PAGE), PAGE);
}

/* Memory that the VMM itself cannot access. */
SHADOW_TEST(inaccessible_memory)
{
	start(s);
	TEST_ASSERT(!mprotect(hva(s, DATA + LARGE + PAGE), PAGE, PROT_NONE),
		    "mprotect()");
	TEST_ASSERT(!mprotect(hva(s, DATA + LARGE + 2 * PAGE), PAGE, PROT_READ),
		    "mprotect()");
	expect_not_mapped(s, DATA + LARGE + PAGE, VTD_SL_R, false);
	expect_not_mapped(s, DATA + LARGE + 2 * PAGE, VTD_SL_RW, false);
	expect_not_mapped(s, DATA + LARGE, VTD_SL_RW, true);
	/* Next to it. */
	map_pages(s, IOVA, DATA + LARGE, 4, VTD_SL_R);
	announce(s, IOVA, 2);
	expect_reach(s, IOVA, DATA + LARGE, VTD_SL_R);
	expect_nothing(s, IOVA + PAGE);
	expect_reach(s, IOVA + 2 * PAGE, DATA + LARGE + 2 * PAGE, VTD_SL_R);
	expect_reach(s, IOVA + 3 * PAGE, DATA + LARGE + 3 * PAGE, VTD_SL_R);
	expect_pinned(s, 3 + BOUNCE_PAGES);
}

static int write_state(int block, const char *state)
{
	char path[64];
	int fd, ret;

	snprintf(path, sizeof(path), "/sys/devices/system/memory/memory%d/state", block);
	fd = open(path, O_WRONLY);
	if (fd < 0)
		return -1;
	ret = write(fd, state, strlen(state)) < 0 ? -1 : 0;
	close(fd);
	return ret;
}

/* Make some memory movable: user space gets it first, and it is not to be pinned. */
static int make_movable_memory(void)
{
	int block;

	for (block = 255; block > 0; block--) {
		if (write_state(block, "offline"))
			continue;
		if (!write_state(block, "online_movable"))
			return block;
		write_state(block, "online");
	}
	return -1;
}

/*
 * Memory that cannot be pinned for the time being: it has to be migrated before, which
 * the reference of a pipe prevents.  The guest asks for it once.
 */
SHADOW_TEST(memory_busy)
{
	u64 errors = viommu_stat(&s->t, "viommu_map_errors"), more, i;
	int block = make_movable_memory(), fds[2];
	struct iovec iov = { .iov_len = PAGE };

	if (block < 0) {
		pr_info("# No block of memory can be made movable\n");
		return;
	}
	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, LARGE_PAGES, 0);
	start(s);
	TEST_ASSERT(!pipe(fds), "pipe()");
	iov.iov_base = hva(s, MORE);
	fill(iov.iov_base, PAGE);
	TEST_ASSERT(vmsplice(fds[1], &iov, 1, 0) == PAGE, "vmsplice(): %s",
		    strerror(errno));

	for (i = 0; i < 2; i++) {
		map_pages(s, IOVA + i * PAGE, MORE, 1, VTD_SL_RW);
		if (i)
			serve_contexts(&s->t);
		else
			announce(s, IOVA, 0);
		more = viommu_stat(&s->t, "viommu_map_errors");
		TEST_ASSERT(more > errors, "No mapping failed");
		errors = more;
		expect_nothing(s, IOVA + i * PAGE);
	}
	expect_fault(s, IOVA, true, VTD_FAULT_WRITE);
	close(fds[0]);
	close(fds[1]);
	announce(s, BOUNCE, 0);
	expect_same(s, IOVA, 2);
	expect_pinned(s, 2 + BOUNCE_PAGES);
	expect_works(s, IOVA, hva(s, MORE), PAGE);
	expect_no_fault(s);
	TEST_ASSERT_EQ(viommu_stat(&s->t, "viommu_map_errors"), errors);
	vm_mem_region_delete(s->t.vm, MORE_SLOT);
	if (!write_state(block, "offline"))
		write_state(block, "online");
}

/* ---------------------------------------------------------------- memslots */

static void memslot_deleted(struct shadow *s, u64 teardown)
{
	u64 locked = locked_pages(), errors;
	void *mem;
	int i;

	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, 2 * LARGE_PAGES, 0);
	shadow_start(s, teardown, 0);
	for (i = 0; i < 3; i++) {
		*entry(s, IOVA, 2) = MORE | VTD_SL_RW | VTD_SL_PS;
		map_pages(s, IOVA + LARGE, MORE + LARGE, 16, VTD_SL_RW);
		map_pages(s, IOVA + LARGE + 16 * PAGE, DATA + PAGE, 16, VTD_SL_RW);
		announce(s, IOVA, 10);
		expect_same(s, IOVA, 2 * LARGE_PAGES);
		expect_pinned(s, LARGE_PAGES + 32 + BOUNCE_PAGES);
		mem = hva(s, MORE + PAGE);
		expect_works(s, IOVA + PAGE, mem, PAGE);
		/* Some wait in other policies than strict; not afterwards. */
		unmap_pages(s, IOVA + LARGE, 4);
		announce(s, IOVA + LARGE, 2);

		errors = viommu_stat(&s->t, "viommu_map_errors");
		vm_mem_region_delete(s->t.vm, MORE_SLOT);
		expect_pinned(s, 16 + BOUNCE_PAGES);
		TEST_ASSERT_EQ(host_pins() - s->pins, 16 + BOUNCE_PAGES);
		TEST_ASSERT(locked_pages() - locked <= 16 + BOUNCE_PAGES + SPARE,
			    "VmLck is %lu pages", (unsigned long)locked_pages());
		expect_nothing(s, IOVA);
		expect_nothing(s, IOVA + LARGE + 4 * PAGE);
		expect_reach(s, IOVA + LARGE + 16 * PAGE, DATA + PAGE, VTD_SL_RW);
		/* The guest is told, as it was not the guest that did that. */
		errors += LARGE_PAGES + 12;
		VIOMMU_ASSERT_WAIT(viommu_stat(&s->t, "viommu_map_errors") == errors,
				   "%lu mappings failed in all, not %lu",
				   (unsigned long)viommu_stat(&s->t, "viommu_map_errors"),
				   errors);
		expect_fault(s, IOVA, true, VTD_FAULT_WRITE);

		/* Without any request of the guest. */
		add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE,
			   2 * LARGE_PAGES, 0);
		VIOMMU_ASSERT_WAIT(pinned(s) == LARGE_PAGES + 28 + BOUNCE_PAGES,
				   "%lu pages are pinned", (unsigned long)pinned(s));
		expect_same(s, IOVA, 2 * LARGE_PAGES);
		mem = hva(s, MORE + PAGE);
		expect_works(s, IOVA + PAGE, mem, PAGE);
		expect_works(s, IOVA + LARGE + 5 * PAGE,
			     hva(s, MORE + LARGE + 5 * PAGE), PAGE);
		expect_no_fault(s);
	}
}

SHADOW_TEST(memslot_deleted)
{
	memslot_deleted(s, KVM_VIOMMU_TEARDOWN_STRICT);
}

SHADOW_TEST(memslot_deleted_optimistic)
{
	memslot_deleted(s, KVM_VIOMMU_TEARDOWN_OPTIMISTIC);
}

/* A memslot moves to other guest addresses. */
SHADOW_TEST(memslot_moved)
{
	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, LARGE_PAGES, 0);
	start(s);
	map_pages(s, IOVA, MORE + PAGE, 1, VTD_SL_RW);
	map_pages(s, IOVA + PAGE, MORE + LARGE + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 1);
	expect_pinned(s, 1 + BOUNCE_PAGES);
	expect_works(s, IOVA, hva(s, MORE + PAGE), PAGE);
	vm_mem_region_move(s->t.vm, MORE_SLOT, MORE + LARGE);
	expect_nothing(s, IOVA);
	VIOMMU_ASSERT_WAIT(pinned(s) == 1 + BOUNCE_PAGES, "%lu pages are pinned",
			   (unsigned long)pinned(s));
	expect_reach(s, IOVA + PAGE, MORE + LARGE + PAGE, VTD_SL_RW);
	serve(&s->t, SERVE_ACK, 0, 0);
}

/* ---------------------------------------------------------------- policies */

SHADOW_TEST(deferred)
{
	const u64 n = 2 * LARGE_PAGES;
	u64 flushes;
	int i;

	shadow_start(s, KVM_VIOMMU_TEARDOWN_DEFERRED, 0);
	for (i = 0; i < 5; i++) {
		map_pages(s, IOVA, DATA + LARGE, n, VTD_SL_RW);
		announce(s, IOVA, 10);
		expect_same(s, IOVA, n);
		expect_pinned(s, n + BOUNCE_PAGES);

		flushes = viommu_stat(&s->t, "viommu_flushes");
		unmap_pages(s, IOVA, n);
		announce(s, IOVA, 10);
		TEST_ASSERT(pinned(s) <= DEFERRED + BOUNCE_PAGES,
			    "%lu pages are pinned", (unsigned long)pinned(s));
		flushes = viommu_stat(&s->t, "viommu_flushes") - flushes;
		TEST_ASSERT(flushes >= n / DEFERRED && flushes <= n / 8,
			    "%lu flushes for %lu pages", flushes, n);
		/* 10 ms are over some time. */
		usleep(50000);
		VIOMMU_ASSERT_WAIT(pinned(s) == BOUNCE_PAGES,
				   "%lu pages stay pinned", (unsigned long)pinned(s));
		expect_nothing(s, IOVA);
		expect_nothing(s, IOVA + (n - 1) * PAGE);
	}
	expect_no_write(s, IOVA, hva(s, DATA + LARGE), PAGE);

	/* Another page at the same address is there at once. */
	for (i = 0; i < 20; i++) {
		map_pages(s, IOVA, DATA + (1 + i) * PAGE, 1, VTD_SL_RW);
		announce(s, IOVA, 0);
		expect_reach(s, IOVA, DATA + (1 + i) * PAGE, VTD_SL_RW);
	}
	expect_works(s, IOVA, hva(s, DATA + i * PAGE), PAGE);
	expect_no_write(s, IOVA, hva(s, DATA + (i - 1) * PAGE), PAGE);
}

SHADOW_TEST(optimistic_reuse)
{
	const u64 n = 64;
	u64 reused, i;

	shadow_start(s, KVM_VIOMMU_TEARDOWN_OPTIMISTIC, 0);
	for (i = 0; i < 5 * n; i++) {
		map_pages(s, IOVA + i % n * PAGE, DATA + LARGE + i % n * PAGE, 1,
			  VTD_SL_RW);
		announce(s, IOVA + i % n * PAGE, 0);
		expect_reach(s, IOVA + i % n * PAGE, DATA + LARGE + i % n * PAGE,
			     VTD_SL_RW);
		unmap_pages(s, IOVA + i % n * PAGE, 1);
		announce(s, IOVA + i % n * PAGE, 0);
		TEST_ASSERT(pinned(s) <= n + BOUNCE_PAGES, "%lu pages are pinned",
			    (unsigned long)pinned(s));
	}

	/* All at once, and some of it within 10 ms, however slow the machine. */
	map_pages(s, IOVA, DATA + LARGE, n, VTD_SL_RW);
	announce(s, IOVA, 6);
	reused = viommu_stat(&s->t, "viommu_reused");
	for (i = 0; i < 50; i++) {
		unmap_pages(s, IOVA, n);
		announce(s, IOVA, 6);
		map_pages(s, IOVA, DATA + LARGE, n, VTD_SL_RW);
		announce(s, IOVA, 6);
		expect_same(s, IOVA, n);
		expect_pinned(s, n + BOUNCE_PAGES);
	}
	reused = viommu_stat(&s->t, "viommu_reused") - reused;
	TEST_ASSERT(reused, "Nothing was reused");
	pr_info("# %lu of %lu pages were reused\n", reused, 50 * n);
	expect_works(s, IOVA, hva(s, DATA + LARGE), PAGE);

	/* Other permissions are another mapping. */
	unmap_pages(s, IOVA, n);
	announce(s, IOVA, 6);
	reused = viommu_stat(&s->t, "viommu_reused");
	map_pages(s, IOVA, DATA + LARGE, n, VTD_SL_R);
	announce(s, IOVA, 6);
	TEST_ASSERT_EQ(viommu_stat(&s->t, "viommu_reused"), reused);
	expect_same(s, IOVA, n);
	expect_no_write(s, IOVA, hva(s, DATA + LARGE), PAGE);

	/* No more than so many, and none for long. */
	map_pages(s, IOVA, DATA + LARGE, 4 * LARGE_PAGES, VTD_SL_RW);
	announce(s, IOVA, 11);
	unmap_pages(s, IOVA + LARGE, 3 * LARGE_PAGES);
	announce(s, IOVA, 11);
	TEST_ASSERT(pinned(s) <= LARGE_PAGES + OPTIMISTIC + BOUNCE_PAGES,
		    "%lu pages are pinned", (unsigned long)pinned(s));
	usleep(50000);
	VIOMMU_ASSERT_WAIT(pinned(s) == LARGE_PAGES + BOUNCE_PAGES,
			   "%lu pages stay pinned", (unsigned long)pinned(s));
	expect_same(s, IOVA, 4 * LARGE_PAGES);
}

/* The same address is mapped to another page each time. */
SHADOW_TEST(optimistic_remap)
{
	u64 old = DATA + LARGE, new = DATA + LARGE + PAGE, swap, pins;
	unsigned int i;

	shadow_start(s, KVM_VIOMMU_TEARDOWN_OPTIMISTIC, 0);
	for (i = 0; i < 200; i++) {
		/* With and without being unmapped in between. */
		if (i & 1) {
			unmap_pages(s, IOVA, 1);
			announce(s, IOVA, 0);
		}
		map_pages(s, IOVA, new, 1, VTD_SL_RW);
		announce(s, IOVA, 0);
		expect_reach(s, IOVA, new, VTD_SL_RW);
		/* The old page cannot be reached, so it is not pinned. */
		pins = pinned(s);
		TEST_ASSERT(pins == 1 + BOUNCE_PAGES, "%lu pages are pinned", pins);
		if (i % 40 == 1) {
			expect_no_write(s, IOVA, hva(s, old), PAGE);
			expect_works(s, IOVA, hva(s, new), PAGE);
		}
		swap = old;
		old = new;
		new = swap;
	}

	/* Parts of a large page that waits. */
	for (i = 0; i < 4; i++) {
		*entry(s, IOVA + LARGE, 2) = (DATA + 2 * LARGE) | VTD_SL_RW | VTD_SL_PS;
		announce(s, IOVA + LARGE, 9);
		*entry(s, IOVA + LARGE, 2) = 0;
		map_pages(s, IOVA + LARGE, DATA + PAGE, 1 << i, VTD_SL_RW);
		announce(s, IOVA + LARGE, 9);
		expect_same(s, IOVA + LARGE, 1 << i);
		expect_nothing(s, IOVA + LARGE + (PAGE << i));
		expect_pinned(s, 1 + (1 << i) + BOUNCE_PAGES);
		unmap_pages(s, IOVA + LARGE, 1 << i);
		announce(s, IOVA + LARGE, 9);
	}
}

/* ----------------------------------------------------------- save, restore */

SHADOW_TEST(state)
{
	void *mine = hva(s, DATA + PAGE), *mapped = hva(s, DATA + 2 * PAGE);
	struct kvm_viommu_state state, again;
	struct kvm_viommu_state reset;
	unsigned int i;

	edu_map(&s->e, IOVA, mine, PAGE);
	shadow_unit(s, KVM_VIOMMU_TEARDOWN_STRICT, 0);
	viommu_get_state(s->t.fd, &reset);
	shadow_tables(s);
	viommu_run_to(&s->t, SERVE_READY);
	serve(&s->t, SERVE_INIT, 0, 0);
	map_pages(s, IOVA, DATA + 2 * PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_guest(s, mine, mapped);

	for (i = 0; i < 3; i++) {
		viommu_get_state(s->t.fd, &state);
		expect_guest(s, mine, mapped);
		if (i == 0) {
			/* The same unit: a reset, and what there was. */
			viommu_set_state(s->t.fd, &reset);
			expect_container(s, mine, mapped);
			viommu_set_state(s->t.fd, &state);
			expect_guest(s, mine, mapped);
			TEST_ASSERT_EQ(__viommu_reset(s->t.fd), 0);
			expect_container(s, mine, mapped);
			viommu_get_state(s->t.fd, &again);
			TEST_ASSERT(!memcmp(&reset, &again, sizeof(reset)),
				    "The state after a reset is another");
			viommu_set_state(s->t.fd, &state);
		} else {
			viommu_close(&s->t);
			expect_works(s, IOVA, mine, PAGE);
			viommu_vm_add_unit(&s->t);
			viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER,
					  s->worker);
			viommu_init(s->t.fd);
			/* The device first, or the registers. */
			if (i == 1) {
				shadow_add(s);
				viommu_set_state(s->t.fd, &state);
			} else {
				viommu_set_state(s->t.fd, &state);
				shadow_add(s);
				VIOMMU_ASSERT_WAIT(pinned(s) == 1 + BOUNCE_PAGES,
						   "%lu pages are pinned",
						   (unsigned long)pinned(s));
			}
		}
		expect_guest(s, mine, mapped);
		viommu_get_state(s->t.fd, &again);
		TEST_ASSERT(!memcmp(&state, &again, sizeof(state)),
			    "The state is not what was set");
		/* The guest did not notice. */
		map_pages(s, IOVA + PAGE, DATA + 3 * PAGE, 1, VTD_SL_RW);
		announce(s, IOVA + PAGE, 0);
		expect_works(s, IOVA + PAGE, hva(s, DATA + 3 * PAGE), PAGE);
		unmap_pages(s, IOVA + PAGE, 1);
		announce(s, IOVA + PAGE, 0);
		expect_nothing(s, IOVA + PAGE);
	}
}

/* ------------------------------------------------------------ under load */

/*
 * Map and unmap pages until the host says stop, or the unit is gone: arg[0] is the
 * address of the first entry, arg[1] their number, arg[2] the first IOVA, and
 * arg[3] the first page.
 */
static void guest_churn(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	u64 *ptes = (u64 *)sh->arg[0], n = sh->arg[1], i, round;

	guest_init();
	WRITE_ONCE(sh->stage, 1);
	for (round = 0; !READ_ONCE(sh->stop); round++) {
		i = round % n;
		WRITE_ONCE(ptes[i], ptes[i] ? 0 : (sh->arg[3] + i * PAGE) | VTD_SL_RW);
		guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
				sh->arg[2] + i * PAGE);
		if (round & 1)
			continue;
		guest_queue_add_wait();
		guest_queue_submit();
		/* Reads exit if the unit is closed, which may be at any time. */
		GUEST_WAIT(guest_queue_completed() || !guest_read32(VTD_VER));
		WRITE_ONCE(sh->count, sh->count + 1);
	}
	GUEST_DONE();
}

#define CHURN_PAGES	128ul

static void start_churn(struct shadow *s, u64 teardown)
{
	vcpu_arch_set_entry_point(s->t.vcpu, guest_churn);
	shadow_unit(s, teardown, 0);
	shadow_tables(s);
	map_pages(s, IOVA + LARGE, DATA + LARGE, LARGE_PAGES, VTD_SL_RW);
	*entry(s, IOVA + 2 * LARGE, 2) = (DATA + LARGE) | VTD_SL_RW | VTD_SL_PS;
	s->t.sh->arg[1] = CHURN_PAGES;
	s->t.sh->arg[2] = IOVA;
	s->t.sh->arg[3] = DATA + PAGE;
	entry(s, IOVA, 1);
	s->t.sh->arg[0] = *entry(s, IOVA, 2) & VTD_SL_ADDR;
	viommu_thread_start(&s->t);
	viommu_wait_stage(&s->t, 1);
}

static void wait_churn(struct shadow *s, u64 rounds)
{
	u64 count = READ_ONCE(s->t.sh->count);

	VIOMMU_ASSERT_WAIT(READ_ONCE(s->t.sh->count) >= count + rounds ||
			   READ_ONCE(s->t.done), "The guest does not get on");
	TEST_ASSERT(!s->t.done, "The vCPU ended: %ld", s->t.end);
}

/* The unit is closed while the guest and the device use it. */
SHADOW_TEST(close_under_load)
{
	void *mine = hva(s, DATA + PAGE);
	unsigned int i;
	long end;

	edu_map(&s->e, IOVA, mine, PAGE);
	shadow_destroy(s);
	for (i = 0; i < CLOSES; i++) {
		shadow_create(s, s->worker);
		mine = hva(s, DATA + PAGE);
		edu_map(&s->e, IOVA, mine, PAGE);
		start_churn(s, i % 3);
		edu_begin(&s->e, IOVA + LARGE, PAGE, i & 1);
		wait_churn(s, 20 + rand() % 200);
		if (!edu_is_busy(&s->e))
			edu_begin(&s->e, IOVA + LARGE, PAGE, i & 1);
		usleep(rand() % 2000);
		if (i % 3 == 2) {
			/* The device first. */
			shadow_del(s);
			usleep(rand() % 2000);
		}
		viommu_close(&s->t);
		TEST_ASSERT_EQ(pinned(s), 0);
		/* Registers are like any other hole now. */
		end = viommu_thread_join(&s->t);
		TEST_ASSERT_EQ(end, KVM_EXIT_MMIO);
		edu_end(&s->e);
		expect_works(s, IOVA, mine, PAGE);
		if (i < CLOSES - 1)
			shadow_destroy(s);
	}
}

/* Pages of a VM that is killed: it churns, and the device is at work. */
static void victim(u64 worker, u64 teardown, int ready)
{
	struct shadow s = {};

	shadow_create(&s, worker);
	start_churn(&s, teardown);
	edu_load(&s.e, IOVA + LARGE + PAGE, PAGE);
	expect_works(&s, IOVA + 2 * LARGE, hva(&s, DATA + LARGE), PAGE);
	wait_churn(&s, 50);
	TEST_ASSERT_EQ(write(ready, "", 1), 1);
	for (;;) {
		edu_store(&s.e, IOVA + LARGE, PAGE);
		wait_churn(&s, 1);
	}
}

static u64 free_kib(void)
{
	unsigned long kib = 0;
	char line[128];
	FILE *f;

	f = fopen("/proc/meminfo", "r");
	TEST_ASSERT(f, "/proc/meminfo");
	while (fgets(line, sizeof(line), f) &&
	       sscanf(line, "MemAvailable: %lu kB", &kib) != 1)
		;
	fclose(f);
	return kib;
}

/* Wherever it is when it is killed, nothing stays behind. */
SHADOW_TEST(kill)
{
	unsigned int i, gone = 0;
	int fds[2], status;
	u64 before = 0, after;
	pid_t pid;
	char c;

	shadow_destroy(s);
	for (i = 0; i < KILLS; i++) {
		TEST_ASSERT(!pipe(fds), "pipe()");
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork()");
		if (!pid) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			victim(s->worker, i % 3, fds[1]);
			_exit(0);
		}
		close(fds[1]);
		TEST_ASSERT(read(fds[0], &c, 1) == 1, "The VM %u did not start", i);
		close(fds[0]);
		usleep(rand() % 200000);
		TEST_ASSERT(host_pins() > s->pins, "Nothing is pinned");
		kill(pid, SIGKILL);
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
			    "The VM %u ended by itself: 0x%x", i, status);
		VIOMMU_ASSERT_WAIT(host_pins() == s->pins,
				   "%ld pages stay pinned",
				   (long)(host_pins() - s->pins));
		gone++;
		if (i == 1)
			before = free_kib();
	}
	TEST_ASSERT_EQ(gone, KILLS);
	after = free_kib();
	/* A VM that stays would be 8 MiB and more each time. */
	TEST_ASSERT(after + 64 * 1024 > before, "Of %lu KiB, %lu are left",
		    before, after);

	shadow_create(s, s->worker);
	start(s);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_works(s, IOVA, hva(s, DATA + PAGE), PAGE);
}

/* -------------------------------------------------------------- hostile */

/* Tables in which walking takes forever: 2^27 entries of 2 MiB at least. */
static void set_loop(struct shadow *s, bool silent)
{
	u64 *table = hva(s, s->tables), next[4];
	unsigned int i, l;

	if (!silent) {
		/* All entries of all levels are the table itself. */
		for (i = 0; i < 512; i++)
			table[i] = s->tables | VTD_SL_RW;
		return;
	}

	/* Read-only above write-only: there is nothing to map, nor a fault. */
	for (l = 1; l < 4; l++)
		next[l] = viommu_alloc(&s->t, 1);
	for (i = 0; i < 512; i++) {
		table[i] = next[3] | VTD_SL_RW;
		((u64 *)hva(s, next[3]))[i] = next[2] | VTD_SL_R;
		((u64 *)hva(s, next[2]))[i] = next[1] | VTD_SL_W;
	}
}

/* Have the guest ask for something that takes forever, and not wait. */
static void start_loop(struct shadow *s, bool silent)
{
	u64 *desc = hva(s, s->t.sh->queue.base + s->t.sh->queue.tail);

	set_loop(s, silent);
	desc[0] = VTD_QI_IOTLB(VTD_GLOBAL);
	desc[1] = 0;
	serve(&s->t, SERVE_WRITE64, VTD_IQT, s->t.sh->queue.tail + 16);
}

/* A guest that begins anew. */
static void start_again(struct shadow *s)
{
	shadow_tables(s);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	serve(&s->t, SERVE_INIT, 0, 0);
	expect_works(s, IOVA, hva(s, DATA + PAGE), PAGE);
	expect_pinned(s, 1 + BOUNCE_PAGES);
}

struct state_reader {
	int fd;
	int err;
	bool done;
};

static void *read_state(void *arg)
{
	struct state_reader *r = arg;
	struct kvm_viommu_state state;

	r->err = __viommu_get(r->fd, KVM_DEV_VIOMMU_GRP_STATE, 0, &state);
	WRITE_ONCE(r->done, true);
	return NULL;
}

/* Memslots can change while the state is asked for, and the guest's work has no end. */
static void expect_memslots_change(struct shadow *s)
{
	struct state_reader r = { .fd = s->t.fd };
	sigset_t alarms;
	pthread_t thread;

	TEST_ASSERT(!pthread_create(&thread, NULL, read_state, &r), "pthread_create()");
	/* If they cannot, then it is that thread which has to be interrupted. */
	sigemptyset(&alarms);
	sigaddset(&alarms, SIGALRM);
	pthread_sigmask(SIG_BLOCK, &alarms, NULL);
	alarm(30);
	usleep(100000);
	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, 16, 0);
	vm_mem_region_delete(s->t.vm, MORE_SLOT);
	TEST_ASSERT(!READ_ONCE(r.done), "Memslots do not change: %s", strerror(r.err));
	pthread_kill(thread, SIGALRM);
	pthread_join(thread, NULL);
	TEST_ASSERT_EQ(r.err, EINTR);
	alarm(0);
	pthread_sigmask(SIG_UNBLOCK, &alarms, NULL);
}

/* The VMM resets the unit, reads or sets its state, or closes it, meanwhile. */
static void expect_not_stuck(struct shadow *s, bool silent)
{
	struct kvm_viommu_state reset, state;

	signal(SIGALRM, viommu_signal);
	shadow_unit(s, KVM_VIOMMU_TEARDOWN_STRICT, 3000);
	viommu_get_state(s->t.fd, &reset);
	viommu_run_to(&s->t, SERVE_READY);
	start_again(s);
	viommu_get_state(s->t.fd, &state);

	start_loop(s, silent);
	/* Both want the guest's commands done, unless they are interrupted. */
	alarm(2);
	TEST_ASSERT_EQ(__viommu_get(s->t.fd, KVM_DEV_VIOMMU_GRP_STATE, 0, &state),
		       EINTR);
	alarm(2);
	TEST_ASSERT_EQ(__viommu_set_state(s->t.fd, &state), EINTR);
	TEST_ASSERT(pinned(s) <= 3000, "%lu pages are pinned",
		    (unsigned long)pinned(s));
	expect_memslots_change(s);
	/* Or if nobody asks for it. */
	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, 16, 0);
	vm_mem_region_delete(s->t.vm, MORE_SLOT);

	viommu_set_state(s->t.fd, &reset);
	expect_pinned(s, 0);
	TEST_ASSERT_EQ(serve_read(&s->t, VTD_GSTS), 0);
	start_again(s);

	start_loop(s, silent);
	TEST_ASSERT_EQ(__viommu_reset(s->t.fd), 0);
	expect_pinned(s, 0);
	TEST_ASSERT_EQ(serve_read(&s->t, VTD_GSTS), 0);
	start_again(s);

	start_loop(s, silent);
	shadow_del(s);
	expect_pinned(s, 0);
	TEST_ASSERT_EQ(__viommu_reset(s->t.fd), 0);
	shadow_add(s);
	start_again(s);

	start_loop(s, silent);
	viommu_close(&s->t);
	expect_pinned(s, 0);
}

SHADOW_TEST(loop)
{
	expect_not_stuck(s, false);
}

SHADOW_TEST(silent_loop)
{
	expect_not_stuck(s, true);
}

/*
 * Memory goes while a device is in a domain that has lost its id to another, which
 * takes forever to be brought up to date.
 */
SHADOW_TEST(memslot_of_former_domain)
{
	u64 *desc;

	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, LARGE_PAGES, 0);
	start(s);
	map_pages(s, IOVA, MORE + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_pinned(s, 1 + BOUNCE_PAGES);

	s->tables = viommu_alloc(&s->t, 1);
	set_loop(s, true);
	viommu_set_context(&s->t, SID, DID, s->tables, WIDTH);
	desc = hva(s, s->t.sh->queue.base + s->t.sh->queue.tail);
	desc[0] = VTD_QI_CONTEXT(VTD_GLOBAL);
	desc[1] = 0;
	serve(&s->t, SERVE_WRITE64, VTD_IQT, s->t.sh->queue.tail + 16);
	/* A poll, or the write itself, has begun with it. */
	VIOMMU_ASSERT_WAIT(viommu_stat(&s->t, "viommu_context_invalidations") > 1,
			   "The context is not looked at");
	expect_reach(s, IOVA, MORE + PAGE, VTD_SL_RW);

	vm_mem_region_delete(s->t.vm, MORE_SLOT);
	expect_nothing(s, IOVA);
	expect_pinned(s, BOUNCE_PAGES);
	TEST_ASSERT_EQ(host_pins() - s->pins, BOUNCE_PAGES);
	TEST_ASSERT_EQ(__viommu_reset(s->t.fd), 0);
	expect_pinned(s, 0);
}

/* -------------------------------------------------------------- neighbours */

/* Invalidate as fast as possible. */
static void guest_flood(void)
{
	struct viommu_shared *sh = GUEST_SHARED;

	guest_init();
	WRITE_ONCE(sh->stage, 1);
	while (!READ_ONCE(sh->stop)) {
		guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
		guest_queue_flush();
		WRITE_ONCE(sh->count, sh->count + 1);
	}
	GUEST_DONE();
}

/* Never wait.  What is submitted is in arg[0] and arg[1]. */
static void guest_busy(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	struct viommu_queue *q = &sh->queue;

	guest_init();
	WRITE_ONCE(sh->stage, 1);
	while (!READ_ONCE(sh->stop)) {
		if (((q->tail + 16) & (q->size - 1)) != guest_read64(VTD_IQH))
			guest_queue_add(READ_ONCE(sh->arg[0]),
					READ_ONCE(sh->arg[1]));
		guest_queue_submit();
		WRITE_ONCE(sh->count, sh->count + 1);
	}
	GUEST_DONE();
}

/*
 * Never wait, and have the context entry at arg[0] name another domain each time: it
 * is made, brought up to date, and left.
 */
static void guest_restless(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	struct viommu_queue *q = &sh->queue;
	u64 *ctx = (u64 *)sh->arg[0], did = 0;

	guest_init();
	WRITE_ONCE(sh->stage, 1);
	while (!READ_ONCE(sh->stop)) {
		did = (did + 1) & 0xffff;
		WRITE_ONCE(ctx[1], VTD_CTX_AW(VTD_AW_48) | VTD_CTX_DID(did));
		if (((q->tail + 16) & (q->size - 1)) != guest_read64(VTD_IQH))
			guest_queue_add(VTD_QI_CONTEXT(VTD_GLOBAL), 0);
		guest_queue_submit();
		WRITE_ONCE(sh->count, sh->count + 1);
	}
	GUEST_DONE();
}

#define RESTLESS_PAGES	64ul
/* Domains that are waiting to be taken apart, and one that is, and two in use. */
#define RESTLESS_DOMAINS	(16 + 3)

/* Domains that a guest has left do not pile up, though there is always work. */
SHADOW_TEST(domains_left)
{
	u64 most = 0, n, i;

	vcpu_arch_set_entry_point(s->t.vcpu, guest_restless);
	shadow_unit(s, KVM_VIOMMU_TEARDOWN_STRICT, 1 << 20);
	shadow_tables(s);
	map_pages(s, IOVA, DATA, RESTLESS_PAGES, VTD_SL_RW);
	s->t.sh->arg[0] = (*(u64 *)hva(s, s->t.root) & VTD_SL_ADDR) + 16 * SID;
	viommu_thread_start(&s->t);
	viommu_wait_stage(&s->t, 1);

	n = viommu_stat(&s->t, "viommu_maps");
	for (i = 0; i < FLOOD_S * 100; i++) {
		usleep(10000);
		most = max(most, pinned(s));
	}
	n = (viommu_stat(&s->t, "viommu_maps") - n) / RESTLESS_PAGES;
	pr_info("# %lu domains were made, %lu pages were pinned at most\n", n, most);
	TEST_ASSERT(n > 2 * RESTLESS_DOMAINS, "Only %lu domains were made", n);
	TEST_ASSERT(most <= RESTLESS_DOMAINS * (RESTLESS_PAGES + BOUNCE_PAGES),
		    "%lu pages were pinned", most);
	WRITE_ONCE(s->t.sh->stop, 1);
	TEST_ASSERT_EQ(viommu_thread_join(&s->t), VIOMMU_END_DONE);
}

/* The CPUs that the test may use. */
static cpu_set_t allowed;

/*
 * The nth CPU without a sidecore, for this thread and those that it creates.  Who
 * shares a CPU with a sidecore would measure the scheduler.
 */
static void leave_sidecores(unsigned int nth)
{
	char list[256] = "", *p = list;
	unsigned long first, last;
	cpu_set_t cpus, one;
	int cpu;
	FILE *f;

	f = fopen("/sys/module/kvm/parameters/sidecore_cpus", "r");
	TEST_ASSERT(f && fgets(list, sizeof(list), f), "sidecore_cpus");
	fclose(f);
	cpus = allowed;
	while (*p && *p != '\n') {
		first = strtoul(p, &p, 10);
		last = *p == '-' ? strtoul(p + 1, &p, 10) : first;
		for (; first <= last; first++)
			CPU_CLR(first, &cpus);
		p += *p == ',';
	}
	if (!CPU_COUNT(&cpus))
		return;

	nth %= CPU_COUNT(&cpus);
	for (cpu = 0; !CPU_ISSET(cpu, &cpus) || nth; cpu++)
		nth -= CPU_ISSET(cpu, &cpus);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(one), &one), "sched_setaffinity()");
}

FIXTURE(neighbours) {
	long poll_us;
};

FIXTURE_SETUP(neighbours)
{
	if (!viommu_has_sidecores())
		SKIP(return, "kvm.sidecore_cpus is empty");
	self->poll_us = viommu_param("viommu_poll_us", 1000);
	viommu_set_param("viommu_poll_us", POLL_US);
}

FIXTURE_TEARDOWN(neighbours)
{
	viommu_set_param("viommu_poll_us", self->poll_us);
}

static int compare(const void *a, const void *b)
{
	u64 x = *(u64 *)a, y = *(u64 *)b;

	return x < y ? -1 : x > y;
}

struct flood {
	/* VMs that are ready, and whether all are to go on, or to end. */
	u32 ready;
	u32 go;
	u32 stop;
	u64 count[VMS];
	u64 hits[VMS];
};

static void flood_vm(struct flood *f, unsigned int i)
{
	struct viommu_vm t;

	viommu_vm_create(&t, guest_flood);
	viommu_start(&t, KVM_VIOMMU_WORKER_SIDECORE);
	leave_sidecores(i);
	viommu_thread_start(&t);
	viommu_wait_stage(&t, 1);
	__atomic_fetch_add(&f->ready, 1, __ATOMIC_RELAXED);
	while (!READ_ONCE(f->go))
		usleep(1000);
	f->count[i] = READ_ONCE(t.sh->count);
	while (!READ_ONCE(f->stop))
		usleep(10000);
	f->count[i] = READ_ONCE(t.sh->count) - f->count[i];
	f->hits[i] = viommu_stat(&t, "viommu_hits");
	WRITE_ONCE(t.sh->stop, 1);
	TEST_ASSERT_EQ(viommu_thread_join(&t), VIOMMU_END_DONE);
	viommu_vm_destroy(&t);
}

/* Many VMs of as many processes on one sidecore: it serves all of them. */
TEST_F_TIMEOUT(neighbours, many, VIOMMU_CASE_TIMEOUT)
{
	u64 sorted[VMS], sum = 0;
	pid_t pids[VMS];
	struct flood *f;
	int i, status;

	f = mmap(NULL, sizeof(*f), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(f != MAP_FAILED, "mmap()");
	for (i = 0; i < VMS; i++) {
		pids[i] = fork();
		TEST_ASSERT(pids[i] >= 0, "fork()");
		if (!pids[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			flood_vm(f, i);
			_exit(0);
		}
	}
	VIOMMU_ASSERT_WAIT(READ_ONCE(f->ready) == VMS, "Only %u VMs started",
			   READ_ONCE(f->ready));
	WRITE_ONCE(f->go, 1);
	sleep(2 * FLOOD_S);
	WRITE_ONCE(f->stop, 1);
	for (i = 0; i < VMS; i++) {
		TEST_ASSERT_EQ(waitpid(pids[i], &status, 0), pids[i]);
		TEST_ASSERT(!status, "VM %d: 0x%x", i, status);
		TEST_ASSERT(f->hits[i], "VM %d was not polled", i);
		sorted[i] = f->count[i];
		sum += f->count[i];
	}
	qsort(sorted, VMS, sizeof(sorted[0]), compare);
	pr_info("# %lu completions in %d s: least %lu, median %lu, most %lu\n",
		sum, 2 * FLOOD_S, sorted[0], sorted[VMS / 2], sorted[VMS - 1]);
	TEST_ASSERT(sorted[0] && sorted[0] >= sorted[VMS / 2] / 10,
		    "A VM is starved: %lu, the median is %lu", sorted[0],
		    sorted[VMS / 2]);
	munmap(f, sizeof(*f));
}

/* Completions while time passes. */
static u64 completions(struct viommu_vm *t)
{
	u64 count = READ_ONCE(t->sh->count);

	sleep(FLOOD_S);
	TEST_ASSERT(!READ_ONCE(t->done), "The vCPU ended: %ld", t->end);
	return READ_ONCE(t->sh->count) - count;
}

/*
 * Completions of @t beside a guest whose invalidations never end.  Compare to those
 * beside a guest that has as many, but small ones: it needs a CPU as well.
 */
static void beside_hostile(struct viommu_vm *t, bool silent, u64 *beside,
			   u64 *hostile)
{
	struct shadow s = {};
	u64 count;

	leave_sidecores(1);
	shadow_create(&s, KVM_VIOMMU_WORKER_SIDECORE);
	vcpu_arch_set_entry_point(s.t.vcpu, guest_busy);
	shadow_unit(&s, KVM_VIOMMU_TEARDOWN_STRICT, 0);
	shadow_tables(&s);
	s.t.sh->arg[0] = VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID);
	s.t.sh->arg[1] = BOUNCE;
	viommu_thread_start(&s.t);
	viommu_wait_stage(&s.t, 1);
	*beside = completions(t);

	set_loop(&s, silent);
	WRITE_ONCE(s.t.sh->arg[0], VTD_QI_IOTLB(VTD_GLOBAL));
	WRITE_ONCE(s.t.sh->arg[1], 0);
	/* All that was submitted before is done, as the queue has room for 255. */
	count = READ_ONCE(s.t.sh->count) + 1000;
	VIOMMU_ASSERT_WAIT(READ_ONCE(s.t.sh->count) > count,
			   "The hostile guest does not get on");
	*hostile = completions(t);
	TEST_ASSERT(!READ_ONCE(s.t.done), "The vCPU ended: %ld", s.t.end);
	WRITE_ONCE(s.t.sh->stop, 1);
	TEST_ASSERT_EQ(viommu_thread_join(&s.t), VIOMMU_END_DONE);
	shadow_destroy(&s);
}

static void hostile_neighbour(bool silent)
{
	u64 alone, beside, hostile;
	struct viommu_vm t;
	unsigned int i;

	viommu_vm_create(&t, guest_flood);
	viommu_start(&t, KVM_VIOMMU_WORKER_SIDECORE);
	leave_sidecores(0);
	viommu_thread_start(&t);
	leave_sidecores(1);
	viommu_wait_stage(&t, 1);
	alone = completions(&t);

	/* Once is enough: the host may have been busy with something else. */
	for (i = 0;; i++) {
		beside_hostile(&t, silent, &beside, &hostile);
		pr_info("# %lu completions alone, %lu beside a busy guest, %lu beside a hostile one\n",
			alone, beside, hostile);
		if (beside && hostile >= beside / 10)
			break;
		TEST_ASSERT(i < 2, "Only %lu of %lu completions are left",
			    hostile, beside);
	}
	WRITE_ONCE(t.sh->stop, 1);
	TEST_ASSERT_EQ(viommu_thread_join(&t), VIOMMU_END_DONE);
	viommu_vm_destroy(&t);
}

TEST_F_TIMEOUT(neighbours, loop, VIOMMU_CASE_TIMEOUT)
{
	const char *missing = edu_missing();

	if (missing)
		SKIP(return, "%s", missing);
	hostile_neighbour(false);
}

TEST_F_TIMEOUT(neighbours, silent_loop, VIOMMU_CASE_TIMEOUT)
{
	const char *missing = edu_missing();

	if (missing)
		SKIP(return, "%s", missing);
	hostile_neighbour(true);
}

/* --------------------------------------------------------------- no memory */

/*
 * Each allocation of what a unit does fails, one after the other.  The vCPU emulates,
 * as only allocations of the thread that runs it can be made to fail.
 */
FIXTURE(fail) {
	struct shadow s;
	struct fail_nth f;
};

FIXTURE_VARIANT(fail) {
	u64 teardown;
};

FIXTURE_VARIANT_ADD(fail, strict) {
	.teardown = KVM_VIOMMU_TEARDOWN_STRICT,
};

FIXTURE_VARIANT_ADD(fail, deferred) {
	.teardown = KVM_VIOMMU_TEARDOWN_DEFERRED,
};

FIXTURE_VARIANT_ADD(fail, optimistic) {
	.teardown = KVM_VIOMMU_TEARDOWN_OPTIMISTIC,
};

FIXTURE_SETUP(fail)
{
	const char *missing = edu_missing();

	if (missing)
		SKIP(return, "%s", missing);
	if (!fail_nth_is_possible())
		SKIP(return, FAIL_NTH_IMPOSSIBLE);
	memset(&self->f, 0, sizeof(self->f));
	shadow_create(&self->s, KVM_VIOMMU_WORKER_NONE);
}

FIXTURE_TEARDOWN(fail)
{
	ksft_print_msg("%u allocations failed\n", self->f.failures);
	shadow_destroy(&self->s);
}

#define FAIL_TEST(name)							\
static void __fail_##name(struct shadow *s, struct fail_nth *f, u64 teardown);	\
									\
TEST_F_TIMEOUT(fail, name, VIOMMU_CASE_TIMEOUT * 4)			\
{									\
	__fail_##name(&self->s, &self->f, variant->teardown);		\
}									\
static void __fail_##name(struct shadow *s, struct fail_nth *f, u64 teardown)

#define FAIL_PAGES	40ul

static void expect_failures(struct fail_nth *f)
{
	TEST_ASSERT(f->failures, "There was no allocation to fail");
}

/* An attribute was set, or that failed for lack of memory. */
static void expect_enomem(struct fail_nth *f, int err)
{
	TEST_ASSERT(!err || (f->injected && err == ENOMEM),
		    "Failure %u%s: error %d (%s)", f->nth,
		    f->injected ? "" : " was not injected", err, strerror(err));
}

/* Run the server, for which something fails.  KVM has allocations of its own. */
static void run_failing(struct shadow *s, struct fail_nth *f)
{
	struct ucall uc;
	int ret, tries = 0;

	fail_nth_begin(f);
	do {
		ret = __vcpu_run(s->t.vcpu);
	} while (ret && (errno == ENOMEM || errno == EFAULT) && ++tries < 3);
	fail_nth_end(f);
	TEST_ASSERT(!ret && (f->injected || !tries), "KVM_RUN: %s", strerror(errno));
	switch (get_ucall(s->t.vcpu, &uc)) {
	case UCALL_SYNC:
		TEST_ASSERT_EQ(uc.args[1], SERVE_READY);
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Exit to user space: %s",
			  exit_reason_str(s->t.vcpu->run->exit_reason));
	}
}

static void announce_failing(struct shadow *s, struct fail_nth *f, u64 iova,
			     unsigned int am)
{
	s->t.sh->arg[0] = SERVE_QUEUE;
	s->t.sh->arg[1] = 1;
	s->t.sh->arg[2] = VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID);
	s->t.sh->arg[3] = iova | VTD_QI_IOTLB_AM(am);
	run_failing(s, f);
}

/*
 * The device reaches what the tables say, or nothing, in each of @n pages.  Returns
 * how many it does not reach although the tables have them.
 */
static u64 expect_same_or_nothing(struct shadow *s, u64 iova, u64 n)
{
	u32 want_access, got_access;
	u64 want, got, missing = 0;

	for (; n--; iova += PAGE) {
		want = tables_say(s, iova, &want_access);
		got = reach(s, iova, &got_access);
		TEST_ASSERT(got == NOTHING || (want == got && want_access == got_access),
			    "At 0x%lx the device reaches 0x%lx (%u), tables say 0x%lx (%u)",
			    iova, got, got_access, want, want_access);
		missing += got != want;
	}
	return missing;
}

/* All but the bounce page goes; with other policies than strict, in a while. */
static void expect_gone(struct shadow *s, u64 teardown)
{
	if (teardown == KVM_VIOMMU_TEARDOWN_STRICT)
		expect_pinned(s, BOUNCE_PAGES);
	VIOMMU_ASSERT_WAIT(pinned(s) == BOUNCE_PAGES, "%lu pages stay pinned",
			   (unsigned long)pinned(s));
}

FAIL_TEST(create)
{
	struct kvm_create_device create = { .type = KVM_DEV_TYPE_VIOMMU };
	int ret;

	while (fail_nth_next(f)) {
		fail_nth_begin(f);
		ret = __vm_ioctl(s->t.vm, KVM_CREATE_DEVICE, &create);
		fail_nth_end(f);
		expect_enomem(f, ret ? errno : 0);
		if (!ret)
			close(create.fd);
	}
	expect_failures(f);
	start(s);
}

FAIL_TEST(init)
{
	int err;

	while (fail_nth_next(f)) {
		viommu_vm_add_unit(&s->t);
		viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER,
				  KVM_VIOMMU_WORKER_TASK);
		fail_nth_begin(f);
		err = __viommu_init(s->t.fd);
		fail_nth_end(f);
		expect_enomem(f, err);
		/* What failed can be repeated. */
		if (err)
			viommu_init(s->t.fd);
		viommu_close(&s->t);
	}
	expect_failures(f);
	start(s);
}

FAIL_TEST(device)
{
	int err;

	viommu_vm_add_unit(&s->t);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_WORKER, s->worker);
	viommu_set_config(s->t.fd, KVM_DEV_VIOMMU_CONFIG_TEARDOWN, teardown);
	viommu_init(s->t.fd);
	shadow_tables(s);
	viommu_run_to(&s->t, SERVE_READY);
	serve(&s->t, SERVE_INIT, 0, 0);
	while (fail_nth_next(f)) {
		fail_nth_begin(f);
		err = __viommu_add_device(s->t.fd, SID, s->e.group, s->e.name);
		fail_nth_end(f);
		expect_enomem(f, err);
		if (err) {
			TEST_ASSERT_EQ(host_pins(), s->pins);
			shadow_add(s);
		}
		/* It can be there, and blocked as there was no domain for it yet. */
		if (expect_same_or_nothing(s, BOUNCE, 1)) {
			serve(&s->t, SERVE_ACK, 0, 0);
			announce(s, BOUNCE, 0);
		}
		expect_same(s, BOUNCE, 1);
		expect_pinned(s, BOUNCE_PAGES);

		/* What goes cannot fail. */
		fail_nth_begin(f);
		err = __viommu_del_device(s->t.fd, SID);
		fail_nth_end(f);
		TEST_ASSERT(!err, "Removing the device: %s", strerror(err));
		TEST_ASSERT_EQ(host_pins(), s->pins);
	}
	expect_failures(f);
	shadow_add(s);
}

FAIL_TEST(map)
{
	u64 iova, missing, errors;

	shadow_start(s, teardown, 0);
	while (fail_nth_next(f)) {
		/* Tables of the host's are new, too. */
		iova = IOVA + f->nth * HUGE;
		map_pages(s, iova, DATA + PAGE, FAIL_PAGES, VTD_SL_RW);
		*entry(s, iova + LARGE, 2) = DATA | VTD_SL_RW | VTD_SL_PS;
		errors = viommu_stat(&s->t, "viommu_map_errors");
		announce_failing(s, f, iova, 10);
		errors = viommu_stat(&s->t, "viommu_map_errors") - errors;
		missing = expect_same_or_nothing(s, iova, FAIL_PAGES + 2) +
			  expect_same_or_nothing(s, iova + LARGE, LARGE_PAGES);
		/* A large page that cannot be may be small ones. */
		TEST_ASSERT(f->injected || !missing, "%lu pages are missing", missing);
		TEST_ASSERT(!missing == !errors, "%lu pages are missing, with %lu errors",
			    missing, errors);
		if (missing)
			serve(&s->t, SERVE_ACK, 0, 0);
		else
			expect_no_fault(s);

		/* The guest has asked for it once, and does something else. */
		announce(s, BOUNCE, 0);
		expect_same(s, iova, 2 * LARGE_PAGES);
		expect_no_fault(s);
		unmap_pages(s, iova, FAIL_PAGES);
		*entry(s, iova + LARGE, 2) = 0;
		announce(s, iova, 10);
		expect_gone(s, teardown);
		expect_same(s, iova, 2 * LARGE_PAGES);
	}
	expect_failures(f);
	map_pages(s, IOVA, DATA + PAGE, 1, VTD_SL_RW);
	announce(s, IOVA, 0);
	expect_works(s, IOVA, hva(s, DATA + PAGE), PAGE);
}

/* What the guest takes away goes, memory or not. */
FAIL_TEST(unmap)
{
	u64 iova;

	shadow_start(s, teardown, 0);
	while (fail_nth_next(f)) {
		iova = IOVA + f->nth * HUGE;
		map_pages(s, iova, DATA + PAGE, FAIL_PAGES, VTD_SL_RW);
		*entry(s, iova + LARGE, 2) = DATA | VTD_SL_RW | VTD_SL_PS;
		announce(s, iova, 10);
		expect_same(s, iova, 2 * LARGE_PAGES);

		unmap_pages(s, iova, FAIL_PAGES);
		*entry(s, iova + LARGE, 2) = 0;
		announce_failing(s, f, iova, 10);
		expect_gone(s, teardown);
		expect_same(s, iova, 2 * LARGE_PAGES);
		expect_no_fault(s);
	}
}

/* A large page becomes some small ones, half of them others, and large again. */
FAIL_TEST(sizes)
{
	u64 iova, i;

	shadow_start(s, teardown, 0);
	while (fail_nth_next(f)) {
		iova = IOVA + f->nth * HUGE;
		*entry(s, iova, 2) = (DATA + LARGE) | VTD_SL_RW | VTD_SL_PS;
		announce(s, iova, 9);
		expect_same(s, iova, FAIL_PAGES);

		*entry(s, iova, 2) = 0;
		for (i = 0; i < FAIL_PAGES; i++)
			map_pages(s, iova + i * PAGE,
				  DATA + (i % 2 ? 2 : 1) * LARGE + i * PAGE, 1, VTD_SL_RW);
		announce_failing(s, f, iova, 9);
		if (teardown == KVM_VIOMMU_TEARDOWN_STRICT) {
			expect_same_or_nothing(s, iova, FAIL_PAGES + 2);
			expect_nothing(s, iova + (LARGE_PAGES - 1) * PAGE);
		}
		serve(&s->t, SERVE_ACK, 0, 0);
		announce(s, iova, 9);
		expect_same(s, iova, FAIL_PAGES + 2);

		*entry(s, iova, 2) = (DATA + 2 * LARGE) | VTD_SL_RW | VTD_SL_PS;
		announce_failing(s, f, iova, 9);
		if (teardown == KVM_VIOMMU_TEARDOWN_STRICT)
			expect_same_or_nothing(s, iova, FAIL_PAGES + 2);
		serve(&s->t, SERVE_ACK, 0, 0);
		announce(s, iova, 9);
		expect_same(s, iova, FAIL_PAGES + 2);
		*entry(s, iova, 2) = 0;
		announce(s, iova, 9);
		expect_gone(s, teardown);
	}
	expect_failures(f);
}

/*
 * Of two domains, the device is in the new one or in none, and in the latter case not
 * for longer than until the next invalidation.
 */
FAIL_TEST(context)
{
	u64 tables[2];

	shadow_start(s, teardown, 0);
	tables[0] = s->tables;
	tables[1] = viommu_alloc(&s->t, 1);
	map_pages(s, IOVA, DATA + PAGE, FAIL_PAGES, VTD_SL_RW);
	s->tables = tables[1];
	map_pages(s, IOVA, DATA + LARGE, FAIL_PAGES, VTD_SL_RW);
	map_pages(s, BOUNCE, DATA, 1, VTD_SL_RW);
	while (fail_nth_next(f)) {
		viommu_set_context(&s->t, SID, f->nth % 2 ? DID : OTHER_DID,
				   tables[f->nth % 2], WIDTH);
		s->t.sh->arg[0] = SERVE_QUEUE;
		s->t.sh->arg[1] = 1;
		s->t.sh->arg[2] = VTD_QI_CONTEXT(VTD_GLOBAL);
		s->t.sh->arg[3] = 0;
		run_failing(s, f);
		expect_same_or_nothing(s, IOVA, FAIL_PAGES);
		serve(&s->t, SERVE_ACK, 0, 0);
		serve_desc(&s->t, VTD_QI_IOTLB(VTD_GLOBAL), 0);
		expect_same(s, IOVA, FAIL_PAGES);
		expect_no_fault(s);
	}
	expect_failures(f);
}

/* Memory of the guest goes, and is there again. */
FAIL_TEST(memslot)
{
	struct kvm_userspace_memory_region region = {
		.slot = MORE_SLOT,
		.guest_phys_addr = MORE,
	};
	int ret;

	add_memory(s, VM_MEM_SRC_ANONYMOUS, MORE_SLOT, MORE, LARGE_PAGES, 0);
	region.userspace_addr = (u64)hva(s, MORE);
	shadow_start(s, teardown, 0);
	map_pages(s, IOVA, MORE, FAIL_PAGES, VTD_SL_RW);
	announce(s, IOVA, 6);
	while (fail_nth_next(f)) {
		expect_same(s, IOVA, FAIL_PAGES);
		region.memory_size = 0;
		fail_nth_begin(f);
		ret = __vm_ioctl(s->t.vm, KVM_SET_USER_MEMORY_REGION, &region);
		fail_nth_end(f);
		expect_enomem(f, ret ? errno : 0);
		if (ret)
			vm_ioctl(s->t.vm, KVM_SET_USER_MEMORY_REGION, &region);
		expect_nothing(s, IOVA);
		expect_nothing(s, IOVA + (FAIL_PAGES - 1) * PAGE);
		expect_pinned(s, BOUNCE_PAGES);

		region.memory_size = LARGE;
		fail_nth_begin(f);
		ret = __vm_ioctl(s->t.vm, KVM_SET_USER_MEMORY_REGION, &region);
		fail_nth_end(f);
		expect_enomem(f, ret ? errno : 0);
		if (ret)
			vm_ioctl(s->t.vm, KVM_SET_USER_MEMORY_REGION, &region);
		VIOMMU_ASSERT_WAIT(pinned(s) == FAIL_PAGES + BOUNCE_PAGES,
				   "%lu pages are pinned", (unsigned long)pinned(s));
		serve(&s->t, SERVE_ACK, 0, 0);
	}
	expect_failures(f);
}

int main(int argc, char *argv[])
{
	TEST_ASSERT(!sched_getaffinity(0, sizeof(allowed), &allowed),
		    "sched_getaffinity()");
	viommu_require();
	return test_harness_run(argc, argv);
}
