// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that the in-kernel IOMMU (KVM_DEV_TYPE_VIOMMU) is a remapping unit as
 * the VT-d specification has it, that it does not matter to a guest whether its
 * writes exit or are polled for, and that the VMM's interface does what it says.
 *
 * No assigned device is needed: translations are asked for by
 * KVM_VIOMMU_TRANSLATE, as a VMM does for devices that it emulates.
 *
 * Cases of the fixture "trapped" are about the unit without a worker, i.e. all
 * writes of the guest are trapped.  Those of "modes" are run that way and
 * with workers; with a worker the guest is busy enough that its writes are
 * polled for, and the host checks that they were.
 */
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kvm_test_harness.h"
#include "viommu_util.h"

#define FAULT_VECTOR	0x61
#define INV_VECTOR	0x71

#define SID		VTD_SID(3, 5, 1)
#define DID		0x1234

/* What the unit offers if the VMM does not ask for less. */
#define MAX_CAP								\
	(6 | VTD_CAP_CM | VTD_CAP_SAGAW_39 | VTD_CAP_SAGAW_48 |		\
	 47ull << VTD_CAP_MGAW_SHIFT |					\
	 (u64)VTD_FRCD / 16 << VTD_CAP_FRO_SHIFT |			\
	 VTD_CAP_SLLPS_2M | VTD_CAP_SLLPS_1G | VTD_CAP_PSI |		\
	 (VTD_NR_FRCD - 1ull) << VTD_CAP_NFR_SHIFT |			\
	 18ull << VTD_CAP_MAMV_SHIFT | VTD_CAP_DWD | VTD_CAP_DRD |	\
	 VTD_CAP_ESRTPS)
#define MAX_ECAP							\
	(VTD_ECAP_C | VTD_ECAP_QI | VTD_ECAP_PT |			\
	 (u64)VTD_IVA / 16 << VTD_ECAP_IRO_SHIFT)
#define MAMV		18
#define DEFAULT_HAW	46

FIXTURE(trapped) {
	struct viommu_vm t;
};

FIXTURE_SETUP(trapped)
{
	memset(&self->t, 0, sizeof(self->t));
}

FIXTURE_TEARDOWN(trapped)
{
	if (self->t.vm)
		viommu_vm_destroy(&self->t);
}

#define VIOMMU_TEST(name)						\
static void viommu_test_##name(struct viommu_vm *t);			\
									\
TEST_F_TIMEOUT(trapped, name, VIOMMU_CASE_TIMEOUT)			\
{									\
	viommu_test_##name(&self->t);					\
}									\
static void viommu_test_##name(struct viommu_vm *t)

/* Long enough for a guest to stay in direct mode whatever the machine does. */
#define LONG_POLL_US	1000000ul

FIXTURE(modes) {
	struct viommu_vm t;
};

FIXTURE_VARIANT(modes) {
	u64 worker;
};

FIXTURE_VARIANT_ADD(modes, none) {
	.worker = KVM_VIOMMU_WORKER_NONE,
};

FIXTURE_VARIANT_ADD(modes, task) {
	.worker = KVM_VIOMMU_WORKER_TASK,
};

FIXTURE_VARIANT_ADD(modes, sidecore) {
	.worker = KVM_VIOMMU_WORKER_SIDECORE,
};

FIXTURE_SETUP(modes)
{
	memset(&self->t, 0, sizeof(self->t));
	if (variant->worker == KVM_VIOMMU_WORKER_SIDECORE &&
	    !viommu_has_sidecores())
		SKIP(return, "kvm.sidecore_cpus is empty");
	viommu_set_param("viommu_poll_us", LONG_POLL_US);
}

FIXTURE_TEARDOWN(modes)
{
	if (self->t.vm)
		viommu_vm_destroy(&self->t);
}

#define VIOMMU_MODE_TEST(name)						\
static void viommu_mode_##name(struct viommu_vm *t, u64 worker);	\
									\
TEST_F_TIMEOUT(modes, name, VIOMMU_CASE_TIMEOUT)			\
{									\
	viommu_mode_##name(&self->t, variant->worker);			\
}									\
static void viommu_mode_##name(struct viommu_vm *t, u64 worker)

/* ---------------------------------------------------------- both modes */

/* viommu_shared.go: writes may be polled for, so their effect may take time. */
static bool guest_is_direct(void)
{
	return READ_ONCE(GUEST_SHARED->go);
}

static void guest_check32(unsigned int reg, u32 mask, u32 want)
{
	if (guest_is_direct())
		GUEST_WAIT((guest_read32(reg) & mask) == want);
	else
		__GUEST_ASSERT((guest_read32(reg) & mask) == want,
			       "register 0x%x is 0x%x, mask 0x%x, not 0x%x",
			       reg, guest_read32(reg), mask, want);
}

static void guest_check64(unsigned int reg, u64 want)
{
	if (guest_is_direct())
		GUEST_WAIT(guest_read64(reg) == want);
	else
		__GUEST_ASSERT(guest_read64(reg) == want,
			       "register 0x%x is 0x%lx, not 0x%lx", reg,
			       guest_read64(reg), want);
}

/*
 * Write often enough to be polled, if anybody does.  Only what may be done in any
 * state of the unit in which it can be polled.
 */
static void guest_get_busy(void)
{
	int i;

	for (i = 0; guest_is_direct() && i < 8; i++)
		guest_queue_flush();
}

/* Exactly @n interrupts, ever; none is taken at other times. */
static void guest_check_irqs(u8 vector, u32 n)
{
	if (guest_is_direct())
		GUEST_WAIT(({ guest_take_irqs();
			      READ_ONCE(GUEST_SHARED->irqs[vector]) >= n; }));
	guest_take_irqs();
	__GUEST_ASSERT(GUEST_SHARED->irqs[vector] == n,
		       "%u interrupts of vector 0x%x, not %u",
		       GUEST_SHARED->irqs[vector], vector, n);
}

/* A VM with a unit that has a worker, or none. */
static void mode_create(struct viommu_vm *t, u64 worker, void *guest_code)
{
	viommu_vm_create(t, guest_code);
	viommu_start(t, worker);
	t->sh->go = worker != KVM_VIOMMU_WORKER_NONE;
}

/* The guest was in direct mode that often, if it could be. */
static void mode_check(struct viommu_vm *t, u64 worker, u64 least)
{
	u64 n = viommu_stat(t, "viommu_to_direct");

	if (worker == KVM_VIOMMU_WORKER_NONE)
		TEST_ASSERT(!n, "%lu times in direct mode without worker", n);
	else
		TEST_ASSERT(n >= least, "%lu times in direct mode, not %lu", n,
			    least);
}

/* ----------------------------------------------------------- interface */

static int attr_ioctl(int fd, unsigned long cmd, u32 flags, u32 group, u64 attr,
		      void *addr)
{
	struct kvm_device_attr args = {
		.flags = flags,
		.group = group,
		.attr = attr,
		.addr = (u64)addr,
	};

	return ioctl(fd, cmd, &args) ? errno : 0;
}

#define ASSERT_ERRNO(call, want)					\
do {									\
	int __want = (want), __err = (call);				\
									\
	TEST_ASSERT(__err == __want, "%s: %d (%s), not %d (%s)", #call,	\
		    __err, strerror(__err), __want, strerror(__want));	\
} while (0)

VIOMMU_TEST(create)
{
	int a, b;

	viommu_vm_create(t, NULL);
	TEST_ASSERT(!__kvm_test_create_device(t->vm, KVM_DEV_TYPE_VIOMMU),
		    "KVM_CREATE_DEVICE_TEST: %s", strerror(errno));
	a = viommu_create(t->vm);
	b = viommu_create(t->vm);
	TEST_ASSERT(a != b, "Two units have one fd");
	close(b);
	close(a);
}

VIOMMU_TEST(has_attr)
{
	static const struct {
		u32 group;
		u64 nr;
	} groups[] = {
		{ KVM_DEV_VIOMMU_GRP_CONFIG, 7 },
		{ KVM_DEV_VIOMMU_GRP_CTRL, 2 },
		{ KVM_DEV_VIOMMU_GRP_DEVICE, 2 },
		{ KVM_DEV_VIOMMU_GRP_STATE, 1 },
		{ KVM_DEV_VIOMMU_GRP_NOTIFY, 1 },
	};
	u64 attr, high;
	u32 i;

	viommu_vm_create(t, NULL);
	viommu_vm_add_unit(t);
	for (i = 0; i < ARRAY_SIZE(groups); i++) {
		TEST_ASSERT_EQ(groups[i].group, i);
		for (attr = 0; attr < groups[i].nr; attr++)
			kvm_has_device_attr(t->fd, i, attr);
		for (high = groups[i].nr; high; high <<= 1) {
			ASSERT_ERRNO(attr_ioctl(t->fd, KVM_HAS_DEVICE_ATTR, 0, i,
						high, NULL), ENXIO);
			ASSERT_ERRNO(attr_ioctl(t->fd, KVM_SET_DEVICE_ATTR, 0, i,
						high, NULL), ENXIO);
			ASSERT_ERRNO(attr_ioctl(t->fd, KVM_GET_DEVICE_ATTR, 0, i,
						high, NULL), ENXIO);
		}
	}
	for (i = ARRAY_SIZE(groups); i; i <<= 1) {
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_HAS_DEVICE_ATTR, 0, i, 0,
					NULL), ENXIO);
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_SET_DEVICE_ATTR, 0, i, 0,
					NULL), ENXIO);
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_GET_DEVICE_ATTR, 0, i, 0,
					NULL), ENXIO);
	}
	/* What cannot be read. */
	for (attr = 0; attr < 2; attr++) {
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_GET_DEVICE_ATTR, 0,
					KVM_DEV_VIOMMU_GRP_CTRL, attr, NULL),
			     ENXIO);
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_GET_DEVICE_ATTR, 0,
					KVM_DEV_VIOMMU_GRP_DEVICE, attr, NULL),
			     ENXIO);
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_GET_DEVICE_ATTR, 0,
					KVM_DEV_VIOMMU_GRP_NOTIFY, attr, NULL),
			     ENXIO);
	}
}

VIOMMU_TEST(attr_flags)
{
	u64 val = 40;
	u32 flag;

	viommu_vm_create(t, NULL);
	viommu_vm_add_unit(t);
	for (flag = 1; flag; flag <<= 1) {
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_SET_DEVICE_ATTR, flag,
					KVM_DEV_VIOMMU_GRP_CONFIG,
					KVM_DEV_VIOMMU_CONFIG_HAW, &val), EINVAL);
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_GET_DEVICE_ATTR, flag,
					KVM_DEV_VIOMMU_GRP_CONFIG,
					KVM_DEV_VIOMMU_CONFIG_HAW, &val), EINVAL);
		ASSERT_ERRNO(attr_ioctl(t->fd, KVM_SET_DEVICE_ATTR, flag,
					KVM_DEV_VIOMMU_GRP_CTRL,
					KVM_DEV_VIOMMU_CTRL_INIT, NULL), EINVAL);
	}
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_HAW),
		       DEFAULT_HAW);
}

VIOMMU_TEST(config_defaults)
{
	viommu_vm_create(t, NULL);
	t->fd = viommu_create(t->vm);
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_BASE), 0);
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_CAP),
		       MAX_CAP);
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_ECAP),
		       MAX_ECAP);
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_HAW),
		       DEFAULT_HAW);
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_WORKER),
		       KVM_VIOMMU_WORKER_SIDECORE);
	TEST_ASSERT_EQ(viommu_get_config(t->fd, KVM_DEV_VIOMMU_CONFIG_MAX_PAGES),
		       0);
}

/* A valid value is read back; one that is not changes nothing. */
static void config_try(int fd, u64 attr, u64 val, bool valid)
{
	u64 old = viommu_get_config(fd, attr);
	int err = __viommu_set_config(fd, attr, val);

	TEST_ASSERT(err == (valid ? 0 : EINVAL), "Attribute %lu, value 0x%lx: %s",
		    attr, val, strerror(err));
	TEST_ASSERT_EQ(viommu_get_config(fd, attr), valid ? val : old);
}

VIOMMU_TEST(config_values)
{
	const u64 flags = VTD_CAP_PSI | VTD_CAP_SLLPS_2M | VTD_CAP_SLLPS_1G |
			  VTD_CAP_DWD | VTD_CAP_DRD | VTD_CAP_ESRTPS;
	u64 saved = MAX_CAP & ~(VTD_CAP_MGAW | VTD_CAP_MAMV | 7);
	int fd, i;

	viommu_vm_create(t, NULL);
	t->fd = viommu_create(t->vm);
	fd = t->fd;

	config_try(fd, KVM_DEV_VIOMMU_CONFIG_BASE, 0, false);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_BASE, VIOMMU_BASE, true);
	for (i = 0; i < 12; i++)
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_BASE,
			   VIOMMU_BASE | BIT_ULL(i), false);
	for (i = 12; i < 52; i++)
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_BASE, BIT_ULL(i), true);
	for (i = 52; i < 64; i++)
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_BASE,
			   VIOMMU_BASE | BIT_ULL(i), false);

	/* No flag more than there is. */
	for (i = 3; i < 64; i++) {
		if (BIT_ULL(i) & (VTD_CAP_MGAW | VTD_CAP_MAMV | MAX_CAP))
			continue;
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP, MAX_CAP | BIT_ULL(i),
			   false);
	}
	/* Flags can be left out, what others depend on cannot. */
	for (i = 3; i < 64; i++) {
		if (BIT_ULL(i) & flags)
			config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP,
				   MAX_CAP & ~BIT_ULL(i), true);
		if (BIT_ULL(i) & MAX_CAP & (VTD_CAP_CM | VTD_CAP_FRO | VTD_CAP_NFR))
			config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP,
				   MAX_CAP & ~BIT_ULL(i), false);
	}
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP, MAX_CAP & ~flags, true);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP, MAX_CAP & ~VTD_CAP_SAGAW_39, true);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP, MAX_CAP & ~VTD_CAP_SAGAW_48, true);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP,
		   MAX_CAP & ~(VTD_CAP_SAGAW_39 | VTD_CAP_SAGAW_48), false);
	/* Numbers can be lower. */
	for (i = 0; i < 64; i++) {
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP, saved | 6 |
			   18ull << VTD_CAP_MAMV_SHIFT |
			   (u64)i << VTD_CAP_MGAW_SHIFT, i >= 31 && i <= 47);
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP, saved | 6 |
			   (u64)i << VTD_CAP_MAMV_SHIFT |
			   47ull << VTD_CAP_MGAW_SHIFT, i <= MAMV);
	}
	for (i = 0; i < 8; i++)
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_CAP,
			   (MAX_CAP & ~7ull) | i, i <= 6);

	for (i = 0; i < 64; i++) {
		if (BIT_ULL(i) & (VTD_ECAP_C | VTD_ECAP_QI | VTD_ECAP_PT))
			config_try(fd, KVM_DEV_VIOMMU_CONFIG_ECAP,
				   MAX_ECAP & ~BIT_ULL(i), true);
		else
			config_try(fd, KVM_DEV_VIOMMU_CONFIG_ECAP,
				   MAX_ECAP ^ BIT_ULL(i), false);
	}

	for (i = 0; i < 64; i++)
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_HAW, i, i >= 32 && i <= 52);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_HAW, BIT_ULL(32) + 40, false);
	for (i = 0; i < 8; i++) {
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_WORKER, i, i <= 2);
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_TEARDOWN, i, i <= 2);
	}
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_WORKER, BIT_ULL(32), false);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_TEARDOWN, BIT_ULL(32), false);
	for (i = 0; i < 64; i++)
		config_try(fd, KVM_DEV_VIOMMU_CONFIG_MAX_PAGES, BIT_ULL(i), true);
	config_try(fd, KVM_DEV_VIOMMU_CONFIG_MAX_PAGES, 0, true);
}

VIOMMU_TEST(before_init)
{
	struct kvm_viommu_invalidations inv = { };
	struct kvm_viommu_translate tr;
	struct kvm_viommu_state state;
	s32 fd = eventfd(0, 0);

	viommu_vm_create(t, NULL);
	viommu_vm_add_unit(t);
	ASSERT_ERRNO(__viommu_get(t->fd, KVM_DEV_VIOMMU_GRP_STATE, 0, &state),
		     ENXIO);
	memset(&state, 0, sizeof(state));
	state.version = KVM_VIOMMU_STATE_VERSION;
	ASSERT_ERRNO(__viommu_set_state(t->fd, &state), ENXIO);
	ASSERT_ERRNO(__viommu_reset(t->fd), ENXIO);
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, &fd),
		     ENXIO);
	ASSERT_ERRNO(__viommu_add_device(t->fd, SID, fd, "0000:00:00.0"), ENXIO);
	ASSERT_ERRNO(__viommu_del_device(t->fd, SID), ENOENT);
	ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, KVM_VIOMMU_READ, 0, &tr),
		     ENXIO);
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv) ? errno : 0,
		     ENXIO);
	close(fd);
}

static void read_cap_guest(void)
{
	for (;;) {
		GUEST_SHARED->arg[0] = guest_read64(VTD_CAP);
		GUEST_SHARED->arg[1] = guest_read64(VTD_RTADDR);
		guest_write64(VTD_RTADDR, GUEST_SHARED->arg[2]);
		GUEST_SHARED->arg[3] = guest_read64(VTD_RTADDR);
		GUEST_SYNC(1);
	}
}

VIOMMU_TEST(init)
{
	int second, i;
	u64 val;

	viommu_vm_create(t, read_cap_guest);
	t->fd = viommu_create(t->vm);
	/* Without a base. */
	ASSERT_ERRNO(__viommu_init(t->fd), EINVAL);
	/* Over memory; the first page of it, and the last. */
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_BASE, VIOMMU_POOL);
	ASSERT_ERRNO(__viommu_init(t->fd), EEXIST);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_BASE,
			  VIOMMU_POOL_END - 4096);
	ASSERT_ERRNO(__viommu_init(t->fd), EEXIST);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_BASE, VIOMMU_BASE);
	ASSERT_ERRNO(__viommu_init(t->fd), 0);

	ASSERT_ERRNO(__viommu_init(t->fd), EBUSY);
	for (i = KVM_DEV_VIOMMU_CONFIG_BASE;
	     i <= KVM_DEV_VIOMMU_CONFIG_MAX_PAGES; i++) {
		val = viommu_get_config(t->fd, i);
		ASSERT_ERRNO(__viommu_set_config(t->fd, i, val), EBUSY);
		ASSERT_ERRNO(__viommu_set_config(t->fd, i, ~0ull), EBUSY);
		TEST_ASSERT_EQ(viommu_get_config(t->fd, i), val);
	}

	t->sh->arg[2] = 0xabc000;
	viommu_run_to(t, 1);
	TEST_ASSERT_EQ(t->sh->arg[0], MAX_CAP);
	TEST_ASSERT_EQ(t->sh->arg[3], 0xabc000);

	/* One unit for each VM, and the attempt does it no harm. */
	second = viommu_create(t->vm);
	viommu_set_config(second, KVM_DEV_VIOMMU_CONFIG_CAP,
			  MAX_CAP & ~VTD_CAP_PSI);
	for (i = 0; i < 3; i++) {
		viommu_set_config(second, KVM_DEV_VIOMMU_CONFIG_WORKER, i);
		viommu_set_config(second, KVM_DEV_VIOMMU_CONFIG_BASE,
				  VIOMMU_BASE);
		ASSERT_ERRNO(__viommu_init(second), EBUSY);
		viommu_set_config(second, KVM_DEV_VIOMMU_CONFIG_BASE,
				  VIOMMU_BASE + 4096);
		ASSERT_ERRNO(__viommu_init(second), EBUSY);
	}
	t->sh->arg[2] = 0xdef000;
	viommu_run_to(t, 1);
	TEST_ASSERT_EQ(t->sh->arg[0], MAX_CAP);
	TEST_ASSERT_EQ(t->sh->arg[1], 0xabc000);
	TEST_ASSERT_EQ(t->sh->arg[3], 0xdef000);

	/* Once the first is gone the second can be. */
	viommu_close(t);
	t->fd = second;
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_BASE, VIOMMU_BASE);
	ASSERT_ERRNO(__viommu_init(t->fd), 0);
	viommu_run_to(t, 1);
	TEST_ASSERT_EQ(t->sh->arg[0], MAX_CAP & ~VTD_CAP_PSI);
	TEST_ASSERT_EQ(t->sh->arg[1], 0);
	TEST_ASSERT_EQ(t->sh->arg[3], 0xdef000);
}

static void init_barebones(int err, void (*setup)(struct kvm_vm *vm))
{
	struct kvm_vm *vm = vm_create_barebones();
	int fd;

	setup(vm);
	fd = viommu_create(vm);
	viommu_set_config(fd, KVM_DEV_VIOMMU_CONFIG_BASE, VIOMMU_BASE);
	ASSERT_ERRNO(__viommu_init(fd), err);
	/* Nothing was left behind. */
	if (err)
		ASSERT_ERRNO(__viommu_init(fd), err);
	close(fd);
	kvm_vm_free(vm);
}

static void setup_nothing(struct kvm_vm *vm)
{
}

static void setup_irqchip(struct kvm_vm *vm)
{
	vm_create_irqchip(vm);
}

static void setup_split_irqchip(struct kvm_vm *vm)
{
	vm_enable_cap(vm, KVM_CAP_SPLIT_IRQCHIP, 24);
}

static void setup_dirty_ring(struct kvm_vm *vm)
{
	vm_create_irqchip(vm);
	vm_enable_dirty_ring(vm, 4096 * sizeof(struct kvm_dirty_gfn));
}

VIOMMU_TEST(init_vm)
{
	init_barebones(0, setup_irqchip);
	init_barebones(0, setup_split_irqchip);
	init_barebones(ENXIO, setup_nothing);
	if (kvm_has_cap(KVM_CAP_DIRTY_LOG_RING) ||
	    kvm_has_cap(KVM_CAP_DIRTY_LOG_RING_ACQ_REL))
		init_barebones(EOPNOTSUPP, setup_dirty_ring);
}

VIOMMU_TEST(bad_pointers)
{
	void *bad = (void *)-4096ul, *ro;
	struct kvm_viommu_translate *tr;
	struct kvm_viommu_invalidations inv = { };
	int i;

	viommu_vm_create(t, NULL);
	viommu_vm_add_unit(t);
	for (i = KVM_DEV_VIOMMU_CONFIG_BASE;
	     i <= KVM_DEV_VIOMMU_CONFIG_MAX_PAGES; i++) {
		ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_CONFIG, i,
					  bad), EFAULT);
		ASSERT_ERRNO(__viommu_get(t->fd, KVM_DEV_VIOMMU_GRP_CONFIG, i,
					  bad), EFAULT);
	}
	viommu_init(t->fd);
	for (i = 0; i < 2; i++)
		ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_DEVICE, i,
					  bad), EFAULT);
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_STATE, 0, bad), EFAULT);
	ASSERT_ERRNO(__viommu_get(t->fd, KVM_DEV_VIOMMU_GRP_STATE, 0, bad), EFAULT);
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, bad), EFAULT);
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_TRANSLATE, bad) ? errno : 0, EFAULT);
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, bad) ? errno : 0,
		     EFAULT);
	/* Half of the state is there. */
	ro = mmap(NULL, 8192, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(ro != MAP_FAILED, "mmap()");
	TEST_ASSERT(!munmap(ro + 4096, 4096), "munmap()");
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_STATE, 0,
				  ro + 4096 - 512), EFAULT);
	ASSERT_ERRNO(__viommu_get(t->fd, KVM_DEV_VIOMMU_GRP_STATE, 0,
				  ro + 4096 - 512), EFAULT);
	/* The argument can be read, but the result not be written. */
	TEST_ASSERT(!mprotect(ro, 4096, PROT_READ | PROT_WRITE), "mprotect()");
	tr = ro;
	memset(tr, 0, sizeof(*tr));
	tr->access = KVM_VIOMMU_READ;
	TEST_ASSERT(!mprotect(ro, 4096, PROT_READ), "mprotect()");
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_TRANSLATE, tr) ? errno : 0, EFAULT);
	munmap(ro, 4096);
	/* Nothing is to be told, so nothing is written to the array. */
	inv.nr = 5;
	inv.entries = (u64)bad;
	TEST_ASSERT(!ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv),
		    "KVM_VIOMMU_INVALIDATIONS: %s", strerror(errno));
	TEST_ASSERT_EQ(inv.nr, 0);
}

VIOMMU_TEST(device_errors)
{
	struct kvm_viommu_device dev = { .sid = SID, .name = (u64)"0000:00:00.0" };
	int fd = eventfd(0, 0), other = open("/dev/null", O_RDWR), err, i;

	viommu_vm_create(t, NULL);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	dev.group_fd = fd;
#define TRY_ADD(want)							\
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_DEVICE,	\
				  KVM_DEV_VIOMMU_DEVICE_ADD, &dev), want)
	for (i = 0; i < 32; i++) {
		dev.flags = BIT(i);
		TRY_ADD(EINVAL);
		dev.flags = 0;
		dev.pad = BIT(i % 16);
		TRY_ADD(EINVAL);
		dev.pad = 0;
		dev.pad2 = BIT(i);
		TRY_ADD(EINVAL);
		dev.pad2 = 0;
	}
	ASSERT_ERRNO(__viommu_del_device(t->fd, SID), ENOENT);

	/* What follows needs the module that does the host's side. */
	err = __viommu_add_device(t->fd, SID, -1, "0000:00:00.0");
	if (err == ENODEV) {
		pr_info("# no module viommu-shadow\n");
	} else {
		TEST_ASSERT_EQ(err, EBADF);
		ASSERT_ERRNO(__viommu_add_device(t->fd, SID, 1000, ""), EBADF);
		/* Not files of VFIO. */
		ASSERT_ERRNO(__viommu_add_device(t->fd, SID, fd, ""), EINVAL);
		ASSERT_ERRNO(__viommu_add_device(t->fd, SID, other, ""), EINVAL);
		ASSERT_ERRNO(__viommu_add_device(t->fd, SID, t->fd, ""), EINVAL);
		ASSERT_ERRNO(__viommu_del_device(t->fd, SID), ENOENT);
	}
	close(other);
	close(fd);
}

VIOMMU_TEST(notify_errors)
{
	struct kvm_viommu_invalidations inv = { };
	int fds[2];
	s32 fd;

	viommu_vm_create(t, NULL);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
#define TRY_NOTIFY(_fd, want)						\
do {									\
	fd = (_fd);							\
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0,	\
				  &fd), want);				\
} while (0)
	TRY_NOTIFY(-1, 0);
	TRY_NOTIFY(-2, EINVAL);
	TRY_NOTIFY(INT_MIN, EINVAL);
	TRY_NOTIFY(1000, EBADF);
	TEST_ASSERT(!pipe(fds), "pipe()");
	TRY_NOTIFY(fds[0], EINVAL);
	TRY_NOTIFY(t->fd, EINVAL);
	close(fds[0]);
	close(fds[1]);

	fds[0] = eventfd(0, 0);
	TRY_NOTIFY(fds[0], 0);
	TRY_NOTIFY(fds[0], 0);
	close(fds[0]);

	for (inv.flags = 1; inv.flags; inv.flags <<= 1)
		ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv) ? errno : 0,
			     EINVAL);
	inv.ack = 1;
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv) ? errno : 0,
		     EINVAL);
	inv.ack = ~0ull;
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv) ? errno : 0,
		     EINVAL);
	inv.ack = 0;
	inv.next = 5;
	inv.nr = 5;
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv) ? errno : 0, 0);
	TEST_ASSERT_EQ(inv.next, 0);
	TEST_ASSERT_EQ(inv.nr, 0);
	TRY_NOTIFY(-1, 0);
}

VIOMMU_TEST(ioctl_errors)
{
	struct kvm_viommu_translate tr;
	u32 i;

	viommu_vm_create(t, NULL);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	for (i = 0xf2; i <= 0xff; i++)
		ASSERT_ERRNO(ioctl(t->fd, _IOWR(KVMIO, i, u64), &tr) ? errno : 0,
			     ENOTTY);
	ASSERT_ERRNO(ioctl(t->fd, KVM_RUN, 0) ? errno : 0, ENOTTY);
	/* Of another size. */
	ASSERT_ERRNO(ioctl(t->fd, _IOWR(KVMIO, 0xf0, u64), &tr) ? errno : 0,
		     ENOTTY);

	ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, 0, 0, &tr), EINVAL);
	for (i = BIT(2); i; i <<= 1) {
		ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, i, 0, &tr), EINVAL);
		ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, KVM_VIOMMU_READ, i,
						&tr), EINVAL);
	}
	for (i = 0; i < 16; i++) {
		tr = (struct kvm_viommu_translate) {
			.access = KVM_VIOMMU_READ,
			.pad = BIT(i),
		};
		ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_TRANSLATE, &tr) ? errno : 0,
			     EINVAL);
	}
	/* There is no such device that could reach anything. */
	ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, KVM_VIOMMU_READ,
					KVM_VIOMMU_TRANSLATE_SHADOW, &tr), ENOENT);
}

/* ----------------------------------------------------------- registers */

struct vtd_reg {
	u16 offset;
	u8 len;
	u64 reset;
	/* Bits that can be written and read back. */
	u64 rw;
	/* Bits that start something, or stop it: not to be written here. */
	u64 command;
};

static const struct vtd_reg vtd_regs[] = {
	{ VTD_VER, 4, 0x10 },
	{ VTD_CAP, 8, MAX_CAP },
	{ VTD_ECAP, 8, MAX_ECAP },
	/* Write-only. */
	{ VTD_GCMD, 4, 0, 0, ~0ull },
	{ VTD_GSTS, 4 },
	{ VTD_RTADDR, 8, 0, GENMASK_ULL(63, 10) },
	{ VTD_CCMD, 8, 0, GENMASK_ULL(62, 61) | GENMASK_ULL(33, 0),
	  VTD_CCMD_ICC },
	{ VTD_FSTS, 4 },
	{ VTD_FECTL, 4, VTD_CTL_IM, VTD_CTL_IM },
	{ VTD_FEDATA, 4, 0, GENMASK_ULL(31, 0) },
	{ VTD_FEADDR, 4, 0, GENMASK_ULL(31, 2) },
	{ VTD_FEUADDR, 4, 0, GENMASK_ULL(31, 0) },
	{ VTD_IQH, 8 },
	{ VTD_IQT, 8, 0, GENMASK_ULL(18, 4) },
	{ VTD_IQA, 8, 0, GENMASK_ULL(63, 12) | GENMASK_ULL(2, 0) },
	{ VTD_ICS, 4 },
	{ VTD_IECTL, 4, VTD_CTL_IM, VTD_CTL_IM },
	{ VTD_IEDATA, 4, 0, GENMASK_ULL(31, 0) },
	{ VTD_IEADDR, 4, 0, GENMASK_ULL(31, 2) },
	{ VTD_IEUADDR, 4, 0, GENMASK_ULL(31, 0) },
	{ VTD_IQERCD, 8 },
	{ VTD_IVA, 8, 0, GENMASK_ULL(63, 12) | GENMASK_ULL(6, 0) },
	{ VTD_IOTLB, 8, 0, GENMASK_ULL(61, 60) | GENMASK_ULL(49, 32),
	  VTD_IOTLB_IVT },
	{ VTD_FRCD_LO(0), 8 }, { VTD_FRCD_HI(0), 8 },
	{ VTD_FRCD_LO(1), 8 }, { VTD_FRCD_HI(1), 8 },
	{ VTD_FRCD_LO(2), 8 }, { VTD_FRCD_HI(2), 8 },
	{ VTD_FRCD_LO(3), 8 }, { VTD_FRCD_HI(3), 8 },
	{ VTD_FRCD_LO(4), 8 }, { VTD_FRCD_HI(4), 8 },
	{ VTD_FRCD_LO(5), 8 }, { VTD_FRCD_HI(5), 8 },
	{ VTD_FRCD_LO(6), 8 }, { VTD_FRCD_HI(6), 8 },
	{ VTD_FRCD_LO(7), 8 }, { VTD_FRCD_HI(7), 8 },
};

/* The register that has the four bytes at @offset, or NULL. */
static const struct vtd_reg *guest_find_reg(unsigned int offset)
{
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(vtd_regs); i++) {
		if (offset >= vtd_regs[i].offset &&
		    offset < vtd_regs[i].offset + vtd_regs[i].len)
			return &vtd_regs[i];
	}
	return NULL;
}

/* All registers have their reset values, and there is nothing else. */
static void guest_check_reset(void)
{
	const struct vtd_reg *reg;
	unsigned int i;
	u64 want, got;
	u32 half;

	for (i = 0; i < 4096; i += 4) {
		if (i == VTD_GCMD)
			continue;
		reg = guest_find_reg(i);
		half = reg ? reg->reset >> (8 * (i - reg->offset)) : 0;
		__GUEST_ASSERT(guest_read32(i) == half,
			       "0x%x is 0x%x, not 0x%x", i, guest_read32(i), half);
	}
	for (i = 0; i < 4096; i += 8) {
		if (i == VTD_GCMD)
			continue;
		got = guest_read64(i);
		want = guest_read32(i) | (u64)guest_read32(i + 4) << 32;
		__GUEST_ASSERT(got == want, "0x%x is 0x%lx, not 0x%lx", i, got,
			       want);
	}
}

static void reset_guest(void)
{
	guest_check_reset();
	GUEST_DONE();
}

VIOMMU_TEST(reset_values)
{
	viommu_vm_create(t, reset_guest);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	viommu_run_to(t, VIOMMU_END_DONE);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_traps"), 0);
}

static u64 guest_read_reg(const struct vtd_reg *reg)
{
	return reg->len == 4 ? guest_read32(reg->offset) :
			       guest_read64(reg->offset);
}

static void guest_write_reg(const struct vtd_reg *reg, u64 val)
{
	if (reg->len == 4)
		guest_write32(reg->offset, val);
	else
		guest_write64(reg->offset, val);
}

static const u64 patterns[] = {
	~0ull, 0, 0x5555555555555555, 0xaaaaaaaaaaaaaaaa, 0x0123456789abcdef,
	0xfedcba9876543210,
};

static void masks_guest(void)
{
	const struct vtd_reg *reg;
	unsigned int i, j;
	u64 val, want;

	for (reg = vtd_regs; reg < vtd_regs + ARRAY_SIZE(vtd_regs); reg++) {
		if (reg->offset == VTD_GCMD)
			continue;
		for (j = 0; j < ARRAY_SIZE(patterns); j++) {
			val = patterns[j] & ~reg->command;
			want = (val & reg->rw) | (reg->reset & ~reg->rw);
			if (reg->len == 4)
				want = (u32)want;
			guest_write_reg(reg, val);
			__GUEST_ASSERT(guest_read_reg(reg) == want,
				       "0x%x: wrote 0x%lx, is 0x%lx, not 0x%lx",
				       reg->offset, val, guest_read_reg(reg),
				       want);
		}
		guest_write_reg(reg, reg->reset);
		if (reg->len == 4)
			continue;

		/* The halves, which do not touch each other. */
		for (j = 0; j < ARRAY_SIZE(patterns); j++) {
			val = patterns[j] & ~reg->command;
			want = (val & reg->rw) | (reg->reset & ~reg->rw);
			guest_write32(reg->offset, val);
			GUEST_ASSERT_EQ(guest_read64(reg->offset),
					(u32)want | (reg->reset & ~0xffffffffull));
			guest_write32(reg->offset + 4, val >> 32);
			GUEST_ASSERT_EQ(guest_read64(reg->offset), want);
			guest_write32(reg->offset, reg->reset);
			GUEST_ASSERT_EQ(guest_read64(reg->offset),
					(want & ~0xffffffffull) | (u32)reg->reset);
			guest_write32(reg->offset + 4, reg->reset >> 32);
			GUEST_ASSERT_EQ(guest_read64(reg->offset), reg->reset);
		}
	}

	/* Where there is nothing. */
	for (i = 0; i < 4096; i += 4) {
		if (guest_find_reg(i))
			continue;
		guest_write32(i, ~0);
		GUEST_ASSERT_EQ(guest_read32(i), 0);
		if (i % 8 || guest_find_reg(i + 4))
			continue;
		guest_write64(i, ~0ull);
		GUEST_ASSERT_EQ(guest_read64(i), 0);
	}
	guest_check_reset();
	GUEST_DONE();
}

VIOMMU_TEST(register_masks)
{
	struct kvm_viommu_state state;
	unsigned int i;

	viommu_vm_create(t, masks_guest);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	viommu_run_to(t, VIOMMU_END_DONE);
	viommu_get_state(t->fd, &state);
	for (i = 0; i < ARRAY_SIZE(vtd_regs); i++)
		TEST_ASSERT((vtd_regs[i].len == 4 ?
			     viommu_state32(&state, vtd_regs[i].offset) :
			     state.regs[vtd_regs[i].offset / 8]) ==
			    vtd_regs[i].reset, "Register 0x%x",
			    vtd_regs[i].offset);
}

/* "Software Access to Registers": others than of 4 and 8 bytes, aligned. */
static void odd_guest(void)
{
	const u64 old = 0x123456789000, base = VIOMMU_BASE;
	unsigned int i;
	u16 w;
	u8 b;

	guest_write64(VTD_RTADDR, old);
	for (i = 0; i < 8; i++) {
		guest_write8(VTD_RTADDR + i, 0xff);
		GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), old);
		guest_write16(VTD_RTADDR + i, 0xffff);
		GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), old);
		if (i % 4) {
			guest_write32(VTD_RTADDR + i, ~0);
			GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), old);
		}
		if (i) {
			guest_write64(VTD_RTADDR + i, ~0ull);
			GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), old);
		}
		asm volatile("movb (%1), %0" : "=q" (b)
			     : "r" (base + VTD_RTADDR + i) : "memory");
		GUEST_ASSERT_EQ(b, (u8)(old >> (8 * i)));
		if (i > 6)
			continue;
		asm volatile("movw (%1), %0" : "=r" (w)
			     : "r" (base + VTD_RTADDR + i) : "memory");
		GUEST_ASSERT_EQ(w, (u16)(old >> (8 * i)));
	}
	guest_write64(VTD_RTADDR, 0);
	guest_check_reset();
	/* Instructions that read, modify and write are two accesses. */
	asm volatile("orl %0, (%1)" : : "r" (0x5000), "r" (base + VTD_RTADDR)
		     : "memory");
	GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), 0x5000);
	asm volatile("andl %0, (%1)" : : "r" (0x4000), "r" (base + VTD_RTADDR)
		     : "memory");
	GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), 0x4000);
	GUEST_DONE();
}

VIOMMU_TEST(odd_accesses)
{
	viommu_vm_create(t, odd_guest);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	viommu_run_to(t, VIOMMU_END_DONE);
}

static void touching_guest(void)
{
	u64 cap;

	/* Nothing is there yet. */
	cap = guest_read64(VTD_CAP);
	GUEST_SHARED->arg[0] = cap;
	guest_write32(VTD_FECTL, 0);
	GUEST_SYNC(1);
	GUEST_ASSERT_EQ(guest_read64(VTD_CAP), MAX_CAP);
	GUEST_ASSERT_EQ(guest_read32(VTD_FECTL), VTD_CTL_IM);
	guest_check_reset();
	guest_write64(VTD_IVA, 0x1000);
	GUEST_ASSERT_EQ(guest_read64(VTD_IVA), 0x1000);
	GUEST_DONE();
}

/* A guest that looked before there was a unit finds it nevertheless. */
VIOMMU_TEST(touched_before)
{
	struct kvm_run *run;

	viommu_vm_create(t, touching_guest);
	run = t->vcpu->run;
	vcpu_run(t->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(t->vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.phys_addr, VIOMMU_BASE + VTD_CAP);
	TEST_ASSERT_EQ(run->mmio.is_write, 0);
	memset(run->mmio.data, 0xff, 8);
	vcpu_run(t->vcpu);
	TEST_ASSERT_KVM_EXIT_REASON(t->vcpu, KVM_EXIT_MMIO);
	TEST_ASSERT_EQ(run->mmio.phys_addr, VIOMMU_BASE + VTD_FECTL);
	TEST_ASSERT_EQ(run->mmio.is_write, 1);
	viommu_run_to(t, 1);
	TEST_ASSERT_EQ(t->sh->arg[0], ~0ull);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	viommu_run_to(t, VIOMMU_END_DONE);
	pr_info("# %lu exits\n", viommu_vcpu_stat(t, "exits"));
}

#define NR_READS	10000
#define NR_WRITES	1000

static void exits_guest(void)
{
	u64 start;
	int i;

	/* The page is mapped now. */
	guest_read32(VTD_FSTS);
	GUEST_SYNC(1);
	for (i = 0; i < NR_READS; i++) {
		GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
		GUEST_ASSERT_EQ(guest_read32(VTD_GSTS), 0);
	}
	GUEST_SYNC(2);
	for (i = 0; i < NR_WRITES; i++)
		guest_write64(VTD_IVA, (u64)i << 12);
	GUEST_SYNC(3);
	start = rdtsc();
	for (i = 0; i < NR_READS; i++)
		GUEST_ASSERT_EQ(guest_read64(VTD_IVA), (u64)(NR_WRITES - 1) << 12);
	GUEST_SHARED->arg[0] = rdtsc() - start;
	GUEST_DONE();
}

VIOMMU_TEST(reads_do_not_exit)
{
	u64 exits[4], traps[4];
	int i;

	viommu_vm_create(t, exits_guest);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	for (i = 0; i < 4; i++) {
		viommu_run_to(t, i < 3 ? i + 1 : VIOMMU_END_DONE);
		exits[i] = viommu_vcpu_stat(t, "exits");
		traps[i] = viommu_stat(t, "viommu_traps");
	}
	/* The host has interrupts, and there is the one of GUEST_SYNC(). */
	pr_info("# exits: %lu reads %lu, %u writes %lu, %u reads %lu\n",
		2ul * NR_READS, exits[1] - exits[0], NR_WRITES,
		exits[2] - exits[1], NR_READS, exits[3] - exits[2]);
	TEST_ASSERT(exits[1] - exits[0] < NR_READS / 50, "%lu exits, %u reads",
		    exits[1] - exits[0], 2 * NR_READS);
	TEST_ASSERT(exits[3] - exits[2] < NR_READS / 50, "%lu exits, %u reads",
		    exits[3] - exits[2], NR_READS);
	TEST_ASSERT(exits[2] - exits[1] >= NR_WRITES, "%lu exits, %u writes",
		    exits[2] - exits[1], NR_WRITES);
	TEST_ASSERT_EQ(traps[1], 0);
	TEST_ASSERT_EQ(traps[2], NR_WRITES);
	TEST_ASSERT_EQ(traps[3], NR_WRITES);
	TEST_ASSERT_EQ(viommu_vcpu_stat(t, "mmio_exits"), 0);
}

/* ------------------------------------------------------------ commands */

#define GSTS_ALL	(VTD_GSTS_TES | VTD_GSTS_RTPS | VTD_GSTS_QIES)

/*
 * GSTS once a root table pointer was set.  RTPS is not to be seen in direct mode, so
 * that a guest that sets another one can wait for it.
 */
static u32 guest_gsts(void)
{
	return guest_read32(VTD_GSTS) | (guest_is_direct() ? VTD_GSTS_RTPS : 0);
}

static void commands_guest(void)
{
	const u32 on = VTD_GCMD_TE | VTD_GCMD_QIE;
	struct viommu_shared *sh = GUEST_SHARED;
	int i;

	GUEST_ASSERT_EQ(guest_read32(VTD_GSTS), 0);
	/* One by one. */
	guest_write64(VTD_RTADDR, sh->root);
	GUEST_ASSERT_EQ(guest_read32(VTD_GSTS), 0);
	guest_write32(VTD_GCMD, VTD_GCMD_SRTP);
	GUEST_WAIT(guest_read32(VTD_GSTS) == VTD_GSTS_RTPS);
	guest_write64(VTD_IQA, sh->queue.base);
	guest_write32(VTD_GCMD, VTD_GCMD_QIE);
	GUEST_WAIT(guest_read32(VTD_GSTS) == (VTD_GSTS_RTPS | VTD_GSTS_QIES));
	guest_write32(VTD_GCMD, on);
	GUEST_WAIT(guest_read32(VTD_GSTS) == GSTS_ALL);
	guest_write32(VTD_GCMD, VTD_GCMD_TE);
	GUEST_WAIT(guest_read32(VTD_GSTS) == (VTD_GSTS_TES | VTD_GSTS_RTPS));
	guest_write32(VTD_GCMD, 0);
	GUEST_WAIT(guest_read32(VTD_GSTS) == VTD_GSTS_RTPS);
	guest_write32(VTD_GCMD, VTD_GCMD_TE);
	GUEST_WAIT(guest_read32(VTD_GSTS) == (VTD_GSTS_TES | VTD_GSTS_RTPS));
	guest_write32(VTD_GCMD, 0);
	GUEST_WAIT(guest_read32(VTD_GSTS) == VTD_GSTS_RTPS);

	/* At once. */
	guest_enable_queue(sh->queue.base, 0);
	guest_enable_translation();
	guest_get_busy();
	guest_write32(VTD_GCMD, 0);
	GUEST_WAIT(guest_gsts() == VTD_GSTS_RTPS);
	GUEST_ASSERT_EQ(guest_read64(VTD_IQH), 0);
	sh->queue.tail = 0;
	guest_write64(VTD_IQT, 0);
	guest_write32(VTD_GCMD, on | VTD_GCMD_SRTP);
	GUEST_WAIT(guest_read32(VTD_GSTS) == GSTS_ALL);
	guest_get_busy();
	guest_queue_flush();

	/* What is on stays on; a root table pointer can be set at any time. */
	guest_write32(VTD_GCMD, on | VTD_GCMD_SRTP);
	GUEST_WAIT(guest_read32(VTD_GSTS) == GSTS_ALL);
	guest_queue_flush();
	GUEST_ASSERT_EQ(guest_gsts(), GSTS_ALL);

	/* No such commands. */
	for (i = 0; i < 32; i++) {
		if (BIT(i) & (on | VTD_GCMD_SRTP))
			continue;
		guest_get_busy();
		guest_write32(VTD_GCMD, on | BIT(i));
		guest_queue_flush();
		/* Without a worker this is the first read; else the second. */
		guest_queue_flush();
		__GUEST_ASSERT(guest_gsts() == GSTS_ALL,
			       "command bit %u: status 0x%x", i, guest_gsts());
	}

	/* The status is not for the guest to write. */
	guest_get_busy();
	guest_write32(VTD_GSTS, 0);
	GUEST_WAIT(guest_gsts() == GSTS_ALL);
	guest_write32(VTD_GSTS, ~0);
	GUEST_WAIT(guest_gsts() == GSTS_ALL);
	guest_queue_flush();

	for (i = 0; i < 50; i++) {
		guest_get_busy();
		guest_disable_translation();
		guest_queue_flush();
		guest_enable_translation();
		guest_queue_flush();
		guest_get_busy();
		guest_disable_queue();
		GUEST_ASSERT_EQ(guest_read64(VTD_IQH), 0);
		guest_enable_queue(sh->queue.base, 0);
		guest_queue_flush();
		guest_set_root(sh->root);
		guest_queue_flush();
	}
	GUEST_ASSERT_EQ(guest_gsts(), GSTS_ALL);
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
	GUEST_DONE();
}

VIOMMU_MODE_TEST(commands)
{
	mode_create(t, worker, commands_guest);
	viommu_run_to(t, VIOMMU_END_DONE);
	mode_check(t, worker, 1);
}

/* RTPS is there until who waited for it has gone on, however busy others are. */
static void root_seen_guest(void)
{
	int i;

	guest_init();
	for (i = 0; i < 5; i++) {
		guest_get_busy();
		guest_set_root(GUEST_SHARED->root);
		guest_get_busy();
		__GUEST_ASSERT(guest_read32(VTD_GSTS) == GSTS_ALL, "Status 0x%x",
			       guest_read32(VTD_GSTS));
		guest_enable_translation();
		guest_get_busy();
		__GUEST_ASSERT((guest_read32(VTD_GSTS) | VTD_GSTS_RTPS) == GSTS_ALL,
			       "Status 0x%x", guest_read32(VTD_GSTS));
	}
	GUEST_DONE();
}

VIOMMU_MODE_TEST(root_seen)
{
	mode_create(t, worker, root_seen_guest);
	viommu_run_to(t, VIOMMU_END_DONE);
	mode_check(t, worker, 5);
}

static void roots_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	int i;

	guest_init();
	for (i = 1;; i++) {
		guest_get_busy();
		guest_set_root(sh->arg[i & 1]);
		GUEST_SYNC(i);
		/* Else the unit does not know that this has been seen. */
		guest_enable_translation();
	}
}

/* A guest that sets the root table pointer once more has to see when it is set. */
VIOMMU_MODE_TEST(roots)
{
	struct kvm_viommu_translate tr;
	int i;

	mode_create(t, worker, roots_guest);
	/* With and without a context table for the device. */
	t->sh->arg[0] = t->root;
	viommu_context(t, SID);
	t->sh->arg[1] = viommu_alloc(t, 1);
	for (i = 1; i <= 200; i++) {
		viommu_run_to(t, i);
		ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, KVM_VIOMMU_READ,
						KVM_VIOMMU_TRANSLATE_QUIET, &tr),
			     EFAULT);
		TEST_ASSERT(tr.fault == (i & 1 ? VTD_FAULT_ROOT_NP :
						 VTD_FAULT_CONTEXT_NP),
			    "The root table is not the one that was set last");
	}
	mode_check(t, worker, 100);
}

static void no_queue_guest(void)
{
	guest_write64(VTD_IQA, GUEST_SHARED->queue.base);
	guest_write32(VTD_GCMD, VTD_GCMD_QIE);
	GUEST_ASSERT_EQ(guest_read32(VTD_GSTS), 0);
	guest_write32(VTD_GCMD, VTD_GCMD_QIE | VTD_GCMD_TE);
	GUEST_ASSERT_EQ(guest_read32(VTD_GSTS), VTD_GSTS_TES);
	guest_write64(VTD_CCMD, VTD_CCMD_ICC | VTD_CCMD_CIRG(VTD_GLOBAL));
	GUEST_ASSERT_EQ(VTD_CCMD_CAIG(guest_read64(VTD_CCMD)), VTD_GLOBAL);
	GUEST_DONE();
}

/* A unit that does not offer queued invalidation cannot be made to do it. */
VIOMMU_TEST(no_queue)
{
	viommu_vm_create(t, no_queue_guest);
	viommu_vm_add_unit(t);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_ECAP,
			  MAX_ECAP & ~VTD_ECAP_QI);
	viommu_init(t->fd);
	viommu_run_to(t, VIOMMU_END_DONE);
}

/* --------------------------------------------------------------- queue */

#define STATUS_CANARY	0x5ca1ab1e

/* Writes a status to each of 16 words in turn, other words stay. */
static void guest_check_status(u64 page, unsigned int i, u32 data, u64 flags)
{
	u32 *words = (u32 *)page;
	unsigned int j;

	for (j = 0; j < 1024; j++)
		WRITE_ONCE(words[j], STATUS_CANARY);
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | flags |
			VTD_QI_WAIT_DATA(data), (u64)&words[i]);
	guest_queue_flush();
	for (j = 0; j < 1024; j++)
		__GUEST_ASSERT(READ_ONCE(words[j]) ==
			       (i == j ? data : STATUS_CANARY),
			       "status of word %u: word %u is 0x%x", i, j,
			       READ_ONCE(words[j]));
}

struct descriptor {
	u64 lo;
	u64 hi;
};

static const struct descriptor valid_contexts[] = {
	{ VTD_QI_CONTEXT(VTD_GLOBAL) },
	{ VTD_QI_CONTEXT(VTD_GLOBAL) | VTD_QI_CC_DID(0xffff) |
	  VTD_QI_CC_SID(0xffff) | VTD_QI_CC_FM(3) },
	{ VTD_QI_CONTEXT(VTD_DOMAIN) | VTD_QI_CC_DID(DID) },
	{ VTD_QI_CONTEXT(VTD_DOMAIN) | VTD_QI_CC_DID(0xffff) },
	{ VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_DID(DID) | VTD_QI_CC_SID(SID) },
	{ VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_SID(SID) | VTD_QI_CC_FM(1) },
	{ VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_SID(SID) | VTD_QI_CC_FM(2) },
	{ VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_SID(0xffff) | VTD_QI_CC_FM(3) },
};

static const struct descriptor valid_iotlbs[] = {
	{ VTD_QI_IOTLB(VTD_GLOBAL) },
	{ VTD_QI_IOTLB(VTD_GLOBAL) | VTD_QI_IOTLB_DR | VTD_QI_IOTLB_DW },
	{ VTD_QI_IOTLB(VTD_GLOBAL) | VTD_QI_IOTLB_DID(0xffff) },
	{ VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(DID) },
	{ VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(0xffff) | VTD_QI_IOTLB_DR },
	{ VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID), 0 },
	{ VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
	  0x12345000 | VTD_QI_IOTLB_IH },
	{ VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID) | VTD_QI_IOTLB_DW,
	  0x12346000 | VTD_QI_IOTLB_AM(1) },
	/* The address need not be aligned to the mask. */
	{ VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
	  0x12347000 | VTD_QI_IOTLB_AM(9) },
	{ VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
	  VTD_QI_IOTLB_AM(MAMV) },
	{ VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
	  0xfffffffffffff000 | VTD_QI_IOTLB_AM(MAMV) },
	/* Of no relevance to the granularity. */
	{ VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(DID),
	  0xfffffffffffff000 | VTD_QI_IOTLB_IH | VTD_QI_IOTLB_AM(63) },
	{ VTD_QI_IOTLB(VTD_GLOBAL),
	  0xfffffffffffff000 | VTD_QI_IOTLB_IH | VTD_QI_IOTLB_AM(63) },
};

static void guest_check_descriptors(const struct descriptor *descs,
				    unsigned int nr)
{
	struct viommu_queue *q = &GUEST_SHARED->queue;
	unsigned int i;

	for (i = 0; i < nr; i++) {
		guest_get_busy();
		guest_queue_add(descs[i].lo, descs[i].hi);
		guest_queue_flush();
		guest_check64(VTD_IQH, q->tail);
		GUEST_ASSERT_EQ(guest_read64(VTD_IQT), q->tail);
		GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
		GUEST_ASSERT_EQ(guest_read32(VTD_ICS), 0);
	}
}

static void descriptors_guest(void)
{
	static const u32 data[] = { 0, 1, 0x80000000, 0xffffffff, 0x12345678 };
	struct viommu_queue *q = &GUEST_SHARED->queue;
	u64 page = GUEST_SHARED->arg[0];
	unsigned int i;

	guest_init();
	guest_get_busy();
	GUEST_SYNC(1);
	guest_check_descriptors(valid_contexts, ARRAY_SIZE(valid_contexts));
	GUEST_SYNC(2);
	guest_check_descriptors(valid_iotlbs, ARRAY_SIZE(valid_iotlbs));
	GUEST_SYNC(3);
	/* Many at once, and none. */
	for (i = 0; i < ARRAY_SIZE(valid_contexts); i++)
		guest_queue_add(valid_contexts[i].lo, valid_contexts[i].hi);
	for (i = 0; i < ARRAY_SIZE(valid_iotlbs); i++)
		guest_queue_add(valid_iotlbs[i].lo, valid_iotlbs[i].hi);
	guest_queue_flush();
	guest_check64(VTD_IQH, q->tail);
	guest_queue_submit();
	guest_queue_submit();
	GUEST_ASSERT_EQ(guest_read64(VTD_IQH), q->tail);
	/* A write of eight bytes. */
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(8), page);
	guest_write64(VTD_IQT, q->tail);
	GUEST_WAIT(READ_ONCE(*(u32 *)page) == 8);
	guest_check64(VTD_IQH, q->tail);
	GUEST_SYNC(4);

	/* Wait descriptors: 4 bytes exactly, at any aligned address. */
	for (i = 0; i < 8; i++) {
		guest_check_status(page, i, data[i % ARRAY_SIZE(data)], 0);
		guest_check_status(page, 1023 - i, data[i % ARRAY_SIZE(data)],
				   VTD_QI_WAIT_FN);
	}
	/* The last one wins, in order. */
	for (i = 0; i < 20; i++)
		guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW |
				VTD_QI_WAIT_DATA(i), page);
	guest_queue_flush();
	GUEST_ASSERT_EQ(READ_ONCE(*(u32 *)page), 19);
	/* Without a status there is none. */
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_DATA(77), page);
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_FN | VTD_QI_WAIT_DATA(78), page);
	guest_queue_flush();
	GUEST_ASSERT_EQ(READ_ONCE(*(u32 *)page), 19);
	/* Nor is one where there is no memory, or none to be written. */
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(1),
			VIOMMU_HOLE);
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(2),
			VIOMMU_BASE + VTD_RTADDR);
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(3),
			~3ull);
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(4),
			GUEST_SHARED->arg[1]);
	guest_queue_flush();
	GUEST_ASSERT_EQ(guest_read64(VTD_RTADDR), GUEST_SHARED->root);
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
	GUEST_DONE();
}

#define RO_SLOT		(VIOMMU_POOL_SLOT + 1)
#define RO_GPA		0x70000000ul

VIOMMU_MODE_TEST(descriptors)
{
	const u64 nr_contexts = ARRAY_SIZE(valid_contexts);
	const u64 nr_iotlbs = ARRAY_SIZE(valid_iotlbs);
	u64 descs[5], waits[5], contexts[5], iotlbs[5];
	int i;

	mode_create(t, worker, descriptors_guest);
	t->sh->arg[0] = viommu_alloc(t, 1);
	vm_userspace_mem_region_add(t->vm, VM_MEM_SRC_ANONYMOUS, RO_GPA, RO_SLOT,
				    1, KVM_MEM_READONLY);
	t->sh->arg[1] = RO_GPA + 8;
	for (i = 0; i < 5; i++) {
		viommu_run_to(t, i < 4 ? i + 1 : VIOMMU_END_DONE);
		descs[i] = viommu_stat(t, "viommu_descriptors");
		waits[i] = viommu_stat(t, "viommu_waits");
		contexts[i] = viommu_stat(t, "viommu_context_invalidations");
		iotlbs[i] = viommu_stat(t, "viommu_iotlb_invalidations");
	}
	TEST_ASSERT_EQ(contexts[1] - contexts[0], nr_contexts);
	TEST_ASSERT_EQ(iotlbs[1] - iotlbs[0], 0);
	TEST_ASSERT_EQ(contexts[2] - contexts[1], 0);
	TEST_ASSERT_EQ(iotlbs[2] - iotlbs[1], nr_iotlbs);
	TEST_ASSERT_EQ(contexts[3] - contexts[2], nr_contexts);
	TEST_ASSERT_EQ(iotlbs[3] - iotlbs[2], nr_iotlbs);
	TEST_ASSERT_EQ(waits[3] - waits[2], 2);
	TEST_ASSERT_EQ(descs[3] - descs[2], nr_contexts + nr_iotlbs + 2);
	for (i = 1; i < 5; i++)
		TEST_ASSERT_EQ(descs[i] - descs[i - 1],
			       contexts[i] - contexts[i - 1] +
			       iotlbs[i] - iotlbs[i - 1] +
			       waits[i] - waits[i - 1]);
	TEST_ASSERT_EQ(*(u64 *)viommu_hva(t, RO_GPA + 8), 0);
	mode_check(t, worker, 1);
	if (worker) {
		/* Only what it takes to get busy, and where it goes direct. */
		TEST_ASSERT(viommu_stat(t, "viommu_traps") < 100, "%lu traps",
			    viommu_stat(t, "viommu_traps"));
		TEST_ASSERT(viommu_stat(t, "viommu_hits") > 0, "No hits");
	}
}

static void sizes_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	struct viommu_queue *q = &sh->queue;
	u64 base = sh->arg[0], size;
	unsigned int qs, i, nr;

	guest_init();
	for (qs = 0; qs <= 7; qs++) {
		size = 4096ul << qs;
		guest_disable_queue();
		guest_enable_queue(base, qs);
		GUEST_ASSERT_EQ(guest_read64(VTD_IQH), 0);
		guest_get_busy();
		/* As full as it can be; twice, from an odd place. */
		for (i = 0; i < 2; i++) {
			for (nr = 0; nr < size / 16 - 2; nr++)
				guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) |
						VTD_QI_IOTLB_DID(nr & 0xffff),
						(u64)nr << 12);
			guest_queue_flush();
			/* A vCPU leaves so much to somebody else. */
			GUEST_WAIT(guest_read64(VTD_IQH) == q->tail);
			guest_queue_flush();
			guest_queue_flush();
			GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
		}
		/* Around it, in steps that do not divide it. */
		for (i = 0; i < 2 * size / 16; i += 37) {
			for (nr = 0; nr < 36; nr++)
				guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
			guest_queue_flush();
		}
		GUEST_WAIT(guest_read64(VTD_IQH) == q->tail);
		sh->arg[1] += 2 * (size / 16 - 2) + 36 * ((2 * size / 16 + 36) / 37);
	}
	GUEST_DONE();
}

VIOMMU_MODE_TEST(queue_sizes)
{
	mode_create(t, worker, sizes_guest);
	t->sh->arg[0] = viommu_alloc(t, 128);
	viommu_run_to(t, VIOMMU_END_DONE);
	/* Another one for guest_init(). */
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"),
		       t->sh->arg[1] + 1);
	mode_check(t, worker, 1);
}

static void guest_wait_if(u64 flags)
{
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_IF | flags |
			VTD_QI_WAIT_DATA(0x900d), GUEST_SHARED->arg[0]);
	guest_queue_flush();
}

static void wait_irq_guest(void)
{
	u32 *status = (u32 *)GUEST_SHARED->arg[0];
	int i;

	x2apic_enable();
	guest_init();
	guest_set_message(VTD_IECTL, INV_VECTOR);
	GUEST_ASSERT_EQ(guest_read32(VTD_IECTL), VTD_CTL_IM);

	/* Masked: pending, until it gets unmasked. */
	guest_get_busy();
	guest_wait_if(VTD_QI_WAIT_SW);
	GUEST_ASSERT_EQ(READ_ONCE(*status), 0x900d);
	guest_check32(VTD_ICS, ~0, VTD_ICS_IWC);
	guest_check32(VTD_IECTL, ~0, VTD_CTL_IM | VTD_CTL_IP);
	guest_check_irqs(INV_VECTOR, 0);
	guest_write32(VTD_IECTL, 0);
	guest_check32(VTD_IECTL, ~0, 0);
	guest_check_irqs(INV_VECTOR, 1);
	/* No event while one is pending. */
	guest_wait_if(0);
	guest_wait_if(VTD_QI_WAIT_FN);
	GUEST_ASSERT_EQ(guest_read32(VTD_ICS), VTD_ICS_IWC);
	GUEST_ASSERT_EQ(guest_read32(VTD_IECTL), 0);
	guest_check_irqs(INV_VECTOR, 1);
	/* It is cleared by writing 1. */
	guest_write32(VTD_ICS, 0);
	guest_write32(VTD_ICS, (u32)~VTD_ICS_IWC);
	GUEST_ASSERT_EQ(guest_read32(VTD_ICS), VTD_ICS_IWC);
	guest_write32(VTD_ICS, VTD_ICS_IWC);
	GUEST_ASSERT_EQ(guest_read32(VTD_ICS), 0);

	/* Not masked; what is written to IP does not matter. */
	for (i = 0; i < 20; i++) {
		guest_write32(VTD_IECTL, i & 1 ? VTD_CTL_IP : 0);
		guest_get_busy();
		guest_wait_if(i & 2 ? VTD_QI_WAIT_FN : 0);
		guest_check32(VTD_ICS, ~0, VTD_ICS_IWC);
		guest_check_irqs(INV_VECTOR, 2 + i);
		GUEST_ASSERT_EQ(guest_read32(VTD_IECTL), 0);
		guest_write32(VTD_ICS, VTD_ICS_IWC);
		GUEST_ASSERT_EQ(guest_read32(VTD_ICS), 0);
	}

	/* A pending one is gone when its reason is. */
	guest_write32(VTD_IECTL, VTD_CTL_IM);
	guest_check32(VTD_IECTL, ~0, VTD_CTL_IM);
	guest_get_busy();
	guest_wait_if(0);
	guest_check32(VTD_IECTL, ~0, VTD_CTL_IM | VTD_CTL_IP);
	guest_write32(VTD_ICS, VTD_ICS_IWC);
	GUEST_ASSERT_EQ(guest_read32(VTD_ICS), 0);
	GUEST_ASSERT_EQ(guest_read32(VTD_IECTL), VTD_CTL_IM);
	guest_write32(VTD_IECTL, 0);
	guest_check32(VTD_IECTL, ~0, 0);
	guest_queue_flush();
	guest_check_irqs(INV_VECTOR, 21);

	/* A message to nowhere. */
	guest_write32(VTD_IEADDR, 0x12345678);
	guest_write32(VTD_IEUADDR, 0x12345);
	guest_wait_if(0);
	guest_check32(VTD_ICS, ~0, VTD_ICS_IWC);
	guest_write32(VTD_ICS, VTD_ICS_IWC);
	guest_set_message(VTD_IECTL, INV_VECTOR);
	guest_wait_if(0);
	guest_check_irqs(INV_VECTOR, 22);
	GUEST_DONE();
}

VIOMMU_MODE_TEST(wait_interrupt)
{
	mode_create(t, worker, wait_irq_guest);
	viommu_handle_irq(t, INV_VECTOR);
	t->sh->arg[0] = viommu_alloc(t, 1);
	viommu_run_to(t, VIOMMU_END_DONE);
	mode_check(t, worker, 20);
}

static void dirty_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;

	guest_init();
	guest_get_busy();
	GUEST_SYNC(1);
	/* Nobody but the unit writes there. */
	guest_queue_add(VTD_QI_WAIT | VTD_QI_WAIT_SW | VTD_QI_WAIT_DATA(1),
			sh->arg[0]);
	guest_queue_flush();
	GUEST_SYNC(2);
	guest_queue_flush();
	GUEST_SYNC(3);
}

VIOMMU_MODE_TEST(dirty_log)
{
	unsigned long bitmap[BITS_TO_LONGS(VIOMMU_POOL_PAGES)];
	u64 i, dirty[3] = { };
	int stage;

	mode_create(t, worker, dirty_guest);
	t->sh->arg[0] = viommu_alloc(t, 1);
	i = (t->sh->arg[0] - VIOMMU_POOL) >> 12;
	viommu_run_to(t, 1);
	vm_mem_region_set_flags(t->vm, VIOMMU_POOL_SLOT, KVM_MEM_LOG_DIRTY_PAGES);
	for (stage = 1; stage <= 3; stage++) {
		kvm_vm_get_dirty_log(t->vm, VIOMMU_POOL_SLOT, bitmap);
		dirty[stage - 1] = test_bit(i, bitmap);
		if (stage < 3)
			viommu_run_to(t, stage + 1);
	}
	TEST_ASSERT_EQ(dirty[0], 0);
	TEST_ASSERT_EQ(dirty[1], 1);
	TEST_ASSERT_EQ(dirty[2], 0);
	TEST_ASSERT_EQ(*(u32 *)viommu_hva(t, t->sh->arg[0]), 1);
}

/* -------------------------------------------------------- queue errors */

/*
 * What was submitted is not understood: the unit stays at @head until that is put
 * right and FSTS.IQE is cleared.
 */
static void guest_check_queue_error(u64 head, unsigned int info)
{
	struct viommu_shared *sh = GUEST_SHARED;
	struct viommu_queue *q = &sh->queue;
	u64 lo = 0, hi = 0;

	if (info == VTD_IQEI_TYPE || info == VTD_IQEI_RSVD) {
		lo = *(u64 *)(q->base + head);
		hi = *(u64 *)(q->base + head + 8);
	}
	sh->count++;
	GUEST_WAIT(guest_read32(VTD_FSTS) & VTD_FSTS_IQE);
	__GUEST_ASSERT(guest_read32(VTD_FSTS) == VTD_FSTS_IQE,
		       "descriptor %lx %lx: FSTS 0x%x", lo, hi,
		       guest_read32(VTD_FSTS));
	__GUEST_ASSERT(VTD_IQERCD_IQEI(guest_read64(VTD_IQERCD)) == info,
		       "descriptor %lx %lx: IQERCD 0x%lx, not %u", lo, hi,
		       guest_read64(VTD_IQERCD), info);
	GUEST_ASSERT_EQ(guest_read64(VTD_IQH), head);
	guest_check_irqs(FAULT_VECTOR, sh->count);

	/* Nothing goes on, whatever is submitted; 0 clears nothing. */
	guest_queue_submit();
	guest_write32(VTD_FSTS, 0);
	guest_write32(VTD_FSTS, (u32)~VTD_FSTS_IQE);
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), VTD_FSTS_IQE);
	GUEST_ASSERT_EQ(guest_read64(VTD_IQH), head);
	GUEST_ASSERT(!guest_queue_completed());
	guest_check_irqs(FAULT_VECTOR, sh->count);
}

/* Clear the error, whose reason is gone. */
static void guest_clear_queue_error(void)
{
	struct viommu_shared *sh = GUEST_SHARED;

	guest_write32(VTD_FSTS, VTD_FSTS_IQE);
	GUEST_WAIT(!guest_read32(VTD_FSTS));
	GUEST_WAIT(guest_queue_completed());
	guest_check64(VTD_IQH, sh->queue.tail);
	guest_check_irqs(FAULT_VECTOR, sh->count);
}

/* Its reason is still there, so there is another. */
static void guest_repeat_queue_error(u64 head, unsigned int info)
{
	guest_write32(VTD_FSTS, VTD_FSTS_IQE);
	guest_check_queue_error(head, info);
}

static void guest_bad_descriptor(u64 lo, u64 hi, unsigned int info)
{
	struct viommu_shared *sh = GUEST_SHARED;
	struct viommu_queue *q = &sh->queue;
	u64 head;
	u64 *desc;

	guest_get_busy();
	/* One that is done before it. */
	guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
	head = q->tail;
	guest_queue_add(lo, hi);
	guest_queue_add_wait();
	guest_queue_submit();
	guest_check_queue_error(head, info);
	guest_repeat_queue_error(head, info);

	desc = (u64 *)(q->base + head);
	WRITE_ONCE(desc[1], 0);
	WRITE_ONCE(desc[0], VTD_QI_IOTLB(VTD_GLOBAL));
	guest_clear_queue_error();
}

/* Each bit of a range in turn. */
static void guest_bad_bits(u64 lo, u64 hi, int which, int first, int last)
{
	int i;

	for (i = first; i <= last; i++)
		guest_bad_descriptor(lo | (which ? 0 : BIT_ULL(i)),
				     hi | (which ? BIT_ULL(i) : 0),
				     !which && i >= 9 && i <= 11 ?
				     VTD_IQEI_TYPE : VTD_IQEI_RSVD);
}

static void queue_errors_guest(void)
{
	const u64 context = VTD_QI_CONTEXT(VTD_GLOBAL);
	const u64 iotlb = VTD_QI_IOTLB(VTD_GLOBAL);
	const u64 pages = VTD_QI_IOTLB(VTD_PAGES);
	const u64 wait = VTD_QI_WAIT | VTD_QI_WAIT_SW;
	u64 status = (u64)&GUEST_SHARED->arg[1];
	int i;

	x2apic_enable();
	guest_init();
	guest_set_message(VTD_FECTL, FAULT_VECTOR);
	guest_write32(VTD_FECTL, 0);

	for (i = 0; i < 16; i++) {
		if (i != 1 && i != 2 && i != 5)
			guest_bad_descriptor(i, 0, VTD_IQEI_TYPE);
	}
	guest_bad_descriptor(~0ull, ~0ull, VTD_IQEI_TYPE);

	guest_bad_bits(context, 0, 0, 6, 15);
	guest_bad_bits(context, 0, 0, 50, 63);
	guest_bad_bits(context, 0, 1, 0, 63);
	guest_bad_bits(iotlb, 0, 0, 8, 15);
	guest_bad_bits(iotlb, 0, 0, 32, 63);
	guest_bad_bits(iotlb, 0, 1, 7, 11);
	guest_bad_bits(pages, 0x1000, 1, 7, 11);
	guest_bad_bits(wait, status, 0, 8, 31);
	guest_bad_bits(wait, status, 1, 0, 1);
	/* A reserved granularity; it does not have an error of its own. */
	guest_bad_descriptor(VTD_QI_CONTEXT(0), 0, VTD_IQEI_RSVD);
	guest_bad_descriptor(VTD_QI_IOTLB(0), 0, VTD_IQEI_RSVD);
	for (i = MAMV + 1; i < 64; i++)
		guest_bad_descriptor(pages, VTD_QI_IOTLB_AM(i), VTD_IQEI_RSVD);
	GUEST_ASSERT_EQ(GUEST_SHARED->arg[1], 0);
	GUEST_DONE();
}

VIOMMU_MODE_TEST(queue_errors)
{
	u64 errors;

	mode_create(t, worker, queue_errors_guest);
	viommu_handle_irq(t, FAULT_VECTOR);
	viommu_run_to(t, VIOMMU_END_DONE);
	errors = viommu_stat(t, "viommu_queue_errors");
	TEST_ASSERT_EQ(errors, t->sh->count);
	TEST_ASSERT_EQ(t->sh->irqs[FAULT_VECTOR], errors);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_faults"), 0);
	/* The first of two is in direct mode. */
	mode_check(t, worker, errors / 2);
	if (worker)
		TEST_ASSERT(viommu_stat(t, "viommu_to_trapped") >= errors / 2,
			    "%lu times back from direct mode, not %lu",
			    viommu_stat(t, "viommu_to_trapped"), errors / 2);
}

/* Queues that are not what a queue has to be. */
static void queue_bad_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	struct viommu_queue *q = &sh->queue;
	u64 tail, head;
	int qs, i;

	x2apic_enable();
	guest_init();
	guest_set_message(VTD_FECTL, FAULT_VECTOR);
	guest_write32(VTD_FECTL, 0);

	/* The tail is beyond the end. */
	for (qs = 0; qs < 7; qs++) {
		guest_disable_queue();
		guest_enable_queue(sh->arg[0], qs);
		guest_get_busy();
		tail = q->tail;
		for (i = 12 + qs; i < 19; i++) {
			guest_queue_add_wait();
			/* What guest_check_queue_error() submits is as bad. */
			head = tail;
			tail = q->tail;
			q->tail = BIT_ULL(i);
			guest_queue_submit();
			guest_check_queue_error(head, VTD_IQEI_TAIL);
			guest_repeat_queue_error(head, VTD_IQEI_TAIL);
			q->tail = tail;
			guest_queue_submit();
			GUEST_ASSERT_EQ(guest_read64(VTD_IQH), head);
			guest_clear_queue_error();
		}
	}

	/* There is no memory. */
	guest_disable_queue();
	guest_write64(VTD_IQT, 0);
	guest_write64(VTD_IQA, VIOMMU_HOLE);
	guest_command(VTD_GCMD_QIE, 0);
	q->tail = 16;
	q->seq++;
	guest_queue_submit();
	guest_check_queue_error(0, VTD_IQEI_FETCH);
	guest_repeat_queue_error(0, VTD_IQEI_FETCH);
	/* Put it right, the way software has to. */
	guest_disable_queue();
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), VTD_FSTS_IQE);
	guest_write32(VTD_FSTS, VTD_FSTS_IQE);
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
	guest_enable_queue(sh->arg[0], 0);
	guest_queue_flush();

	/* There is memory for the first half only. */
	guest_disable_queue();
	guest_enable_queue(VIOMMU_POOL_END - 4096, 1);
	guest_get_busy();
	while (q->tail < 4096 - 16)
		guest_queue_add(VTD_QI_IOTLB(VTD_GLOBAL), 0);
	guest_queue_flush();
	q->tail = 4096 + 32;
	q->seq++;
	guest_queue_submit();
	guest_check_queue_error(4096, VTD_IQEI_FETCH);
	guest_disable_queue();
	guest_write32(VTD_FSTS, VTD_FSTS_IQE);
	guest_enable_queue(sh->arg[0], 0);
	guest_queue_flush();

	/* An error while the queue is off has to wait for nothing. */
	guest_bad_descriptor(3, 0, VTD_IQEI_TYPE);
	guest_queue_add(3, 0);
	q->seq++;
	head = (q->tail - 16) & 0xfff;
	guest_queue_submit();
	guest_check_queue_error(head, VTD_IQEI_TYPE);
	guest_disable_queue();
	GUEST_ASSERT_EQ(guest_read64(VTD_IQH), 0);
	guest_write64(VTD_IQT, 0);
	guest_command(VTD_GCMD_QIE, 0);
	q->tail = 0;
	guest_queue_add_wait();
	guest_queue_submit();
	/* Still not cleared. */
	GUEST_ASSERT_EQ(guest_read64(VTD_IQH), 0);
	GUEST_ASSERT(!guest_queue_completed());
	guest_clear_queue_error();
	GUEST_DONE();
}

VIOMMU_MODE_TEST(queue_bad)
{
	mode_create(t, worker, queue_bad_guest);
	viommu_handle_irq(t, FAULT_VECTOR);
	t->sh->arg[0] = viommu_alloc(t, 64);
	viommu_run_to(t, VIOMMU_END_DONE);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_queue_errors"),
		       t->sh->irqs[FAULT_VECTOR]);
	mode_check(t, worker, 8);
}

/* ---------------------------------------- register-based invalidation */

/* Returns what the unit says it did; 0 is nothing. */
static unsigned int guest_ccmd(u64 val, bool halves)
{
	u64 got;

	if (halves) {
		guest_write32(VTD_CCMD, val);
		guest_write32(VTD_CCMD + 4, (val | VTD_CCMD_ICC) >> 32);
	} else {
		guest_write64(VTD_CCMD, val | VTD_CCMD_ICC);
	}
	GUEST_WAIT(!(guest_read64(VTD_CCMD) & VTD_CCMD_ICC));
	got = guest_read64(VTD_CCMD);
	GUEST_ASSERT_EQ(got & ~(3ull << 59), val);
	return VTD_CCMD_CAIG(got);
}

static unsigned int guest_iotlb(u64 iva, u64 val, bool halves)
{
	u64 got;

	guest_write64(VTD_IVA, iva);
	if (halves) {
		guest_write32(VTD_IOTLB, val);
		guest_write32(VTD_IOTLB + 4, (val | VTD_IOTLB_IVT) >> 32);
	} else {
		guest_write64(VTD_IOTLB, val | VTD_IOTLB_IVT);
	}
	GUEST_WAIT(!(guest_read64(VTD_IOTLB) & VTD_IOTLB_IVT));
	got = guest_read64(VTD_IOTLB);
	GUEST_ASSERT_EQ(got & ~(3ull << 57), val);
	return VTD_IOTLB_IAIG(got);
}

/* @on: the queue is not, so that registers can be used. */
static void guest_check_by_register(bool on)
{
	u64 val;
	int g, i;

	for (g = 0; g < 4; g++) {
		for (i = 0; i < 4; i++) {
			guest_get_busy();
			val = VTD_CCMD_CIRG(g) | VTD_CCMD_DID(DID + i) |
			      VTD_CCMD_SID(SID) | VTD_CCMD_FM(i);
			GUEST_ASSERT_EQ(guest_ccmd(val, i & 1), on ? g : 0);
			guest_get_busy();
			val = VTD_IOTLB_IIRG(g) | VTD_IOTLB_DID(DID + i) |
			      (i & 1 ? VTD_IOTLB_DR : 0) |
			      (i & 2 ? VTD_IOTLB_DW : 0);
			GUEST_ASSERT_EQ(guest_iotlb(0x123456000 + 3 * i +
						    (i & 1 ? VTD_IVA_IH : 0),
						    val, i & 2), on ? g : 0);
		}
	}
	/* A mask that the unit does not have; it matters for pages alone. */
	for (i = 0; i < 64; i++) {
		GUEST_ASSERT_EQ(guest_iotlb(i, VTD_IOTLB_IIRG(VTD_PAGES), false),
				on && i <= MAMV ? VTD_PAGES : 0);
		GUEST_ASSERT_EQ(guest_iotlb(i, VTD_IOTLB_IIRG(VTD_DOMAIN), false),
				on ? VTD_DOMAIN : 0);
		GUEST_ASSERT_EQ(guest_iotlb(i, VTD_IOTLB_IIRG(VTD_GLOBAL), false),
				on ? VTD_GLOBAL : 0);
	}
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
}

static void by_register_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	u32 go = sh->go;

	/* Is not polled for without a queue. */
	sh->go = 0;
	guest_set_root(sh->root);
	guest_check_by_register(true);
	guest_enable_translation();
	guest_check_by_register(true);
	GUEST_SYNC(1);
	sh->go = go;
	guest_enable_queue(sh->queue.base, 0);
	guest_get_busy();
	guest_check_by_register(false);
	guest_queue_flush();
	GUEST_SYNC(2);
	guest_disable_queue();
	sh->go = 0;
	guest_check_by_register(true);
	GUEST_DONE();
}

VIOMMU_MODE_TEST(by_register)
{
	/* 4 of each granularity but 0. */
	const u64 contexts = 3 * 4, iotlbs = 3 * 4 + 64 + 64 + MAMV + 1;

	mode_create(t, worker, by_register_guest);
	viommu_run_to(t, 1);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_context_invalidations"),
		       2 * contexts);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"), 2 * iotlbs);
	viommu_run_to(t, 2);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_context_invalidations"),
		       2 * contexts);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"), 2 * iotlbs);
	viommu_run_to(t, VIOMMU_END_DONE);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_context_invalidations"),
		       3 * contexts);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"), 3 * iotlbs);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_descriptors"),
		       viommu_stat(t, "viommu_waits"));
	mode_check(t, worker, 1);
}

/* -------------------------------------------------------- remote control */

/* A guest that does what the host asks for, one thing for each GUEST_SYNC(). */
enum {
	REMOTE_WRITE32,
	REMOTE_WRITE64,
	/* Copy all registers to the page at viommu_shared.arg[REMOTE_PAGE]. */
	REMOTE_READ,
	REMOTE_ADD,
	REMOTE_SUBMIT,
	/* Append a wait descriptor and submit, but do not wait. */
	REMOTE_ADD_WAIT,
	REMOTE_FLUSH,
	REMOTE_SET_ROOT,
	REMOTE_COMMAND,
	REMOTE_BUSY,
	REMOTE_IRQS,
};

#define REMOTE_SYNC	0x4e30
#define REMOTE_PAGE	8

static void remote_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	unsigned int i;
	u64 a, b;

	x2apic_enable();
	for (;;) {
		GUEST_SYNC(REMOTE_SYNC);
		a = READ_ONCE(sh->arg[1]);
		b = READ_ONCE(sh->arg[2]);
		switch (READ_ONCE(sh->arg[0])) {
		case REMOTE_WRITE32:
			guest_write32(a, b);
			break;
		case REMOTE_WRITE64:
			guest_write64(a, b);
			break;
		case REMOTE_READ:
			for (i = 0; i < 4096; i += 4)
				*(u32 *)(sh->arg[REMOTE_PAGE] + i) = guest_read32(i);
			break;
		case REMOTE_ADD:
			guest_queue_add(a, b);
			break;
		case REMOTE_SUBMIT:
			guest_queue_submit();
			break;
		case REMOTE_ADD_WAIT:
			guest_queue_add_wait();
			guest_queue_submit();
			break;
		case REMOTE_FLUSH:
			guest_queue_flush();
			break;
		case REMOTE_SET_ROOT:
			guest_set_root(a);
			break;
		case REMOTE_COMMAND:
			guest_command(a, b);
			break;
		case REMOTE_BUSY:
			guest_get_busy();
			break;
		case REMOTE_IRQS:
			guest_take_irqs();
			break;
		default:
			GUEST_FAIL("No such request");
		}
	}
}

static void remote(struct viommu_vm *t, int request, u64 a, u64 b)
{
	t->sh->arg[0] = request;
	t->sh->arg[1] = a;
	t->sh->arg[2] = b;
	viommu_run_to(t, REMOTE_SYNC);
}

/* All registers at once; reg32() and reg64() are for the last time. */
static void remote_read(struct viommu_vm *t)
{
	remote(t, REMOTE_READ, 0, 0);
}

static u32 reg32(struct viommu_vm *t, unsigned int reg)
{
	return *(u32 *)viommu_hva(t, t->sh->arg[REMOTE_PAGE] + reg);
}

static u64 reg64(struct viommu_vm *t, unsigned int reg)
{
	return *(u64 *)viommu_hva(t, t->sh->arg[REMOTE_PAGE] + reg);
}

static u32 irqs(struct viommu_vm *t, u8 vector)
{
	remote(t, REMOTE_IRQS, 0, 0);
	return t->sh->irqs[vector];
}

static void remote_message(struct viommu_vm *t, unsigned int ctl, u8 vector)
{
	remote(t, REMOTE_WRITE32, ctl + 4, vector);
	remote(t, REMOTE_WRITE32, ctl + 8, APIC_DEFAULT_GPA);
	remote(t, REMOTE_WRITE32, ctl + 12, 0);
}

/* Get into direct mode; a slow machine may have left it when this returns. */
static void remote_busy(struct viommu_vm *t)
{
	int i;

	for (i = 0; i < 10; i++) {
		remote(t, REMOTE_BUSY, 0, 0);
		if (viommu_stat(t, "viommu_to_direct") >
		    viommu_stat(t, "viommu_to_trapped"))
			return;
	}
	TEST_FAIL("Not in direct mode");
}

/* Without a unit: that is for the caller, then comes remote_start(). */
static void remote_create(struct viommu_vm *t)
{
	viommu_vm_create(t, remote_guest);
	t->sh->arg[REMOTE_PAGE] = viommu_alloc(t, 1);
	viommu_handle_irq(t, FAULT_VECTOR);
	viommu_handle_irq(t, INV_VECTOR);
}

static void remote_start(struct viommu_vm *t)
{
	viommu_run_to(t, REMOTE_SYNC);
	remote_message(t, VTD_FECTL, FAULT_VECTOR);
	remote_message(t, VTD_IECTL, INV_VECTOR);
	remote(t, REMOTE_WRITE32, VTD_FECTL, 0);
	remote(t, REMOTE_WRITE32, VTD_IECTL, 0);
}

static void remote_enable_queue(struct viommu_vm *t)
{
	t->sh->queue.size = 4096;
	t->sh->queue.tail = 0;
	remote(t, REMOTE_WRITE64, VTD_IQT, 0);
	remote(t, REMOTE_WRITE64, VTD_IQA, t->sh->queue.base);
	remote(t, REMOTE_COMMAND, VTD_GCMD_QIE, 0);
}

/* With translation on and no tables. */
static void remote_create_unit(struct viommu_vm *t, u64 cap, u64 ecap, u64 haw)
{
	remote_create(t);
	viommu_vm_add_unit(t);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_CAP, cap);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_ECAP, ecap);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_HAW, haw);
	viommu_set_config(t->fd, KVM_DEV_VIOMMU_CONFIG_WORKER,
			  KVM_VIOMMU_WORKER_NONE);
	viommu_init(t->fd);
	remote_start(t);
	remote(t, REMOTE_SET_ROOT, t->root, 0);
	remote(t, REMOTE_COMMAND, VTD_GCMD_TE, 0);
}

/* -------------------------------------------------------------- faults */

/* Clear fault records by their numbers in @mask, and bits of FSTS. */
static void clear_faults(struct viommu_vm *t, u32 mask, u32 fsts)
{
	int i;

	for (i = 0; i < VTD_NR_FRCD; i++) {
		if (!(mask & BIT(i)))
			continue;
		/* All of it, or only where the bit is. */
		if (i & 1)
			remote(t, REMOTE_WRITE64, VTD_FRCD_HI(i), VTD_FRCD_F);
		else
			remote(t, REMOTE_WRITE32, VTD_FRCD_HI(i) + 4, BIT(31));
	}
	if (fsts)
		remote(t, REMOTE_WRITE32, VTD_FSTS, fsts);
	remote_read(t);
}

static void try_fault(struct viommu_vm *t, u16 sid, u64 iova, u32 access,
		      u32 flags, u32 reason)
{
	struct kvm_viommu_translate tr;
	int err = __viommu_translate(t->fd, sid, iova, access, flags, &tr);

	TEST_ASSERT(err == EFAULT && tr.fault == reason,
		    "0x%lx by 0x%x for %u: error %d, fault 0x%x, not 0x%x", iova,
		    sid, access, err, tr.fault, reason);
}

static void check_record(struct viommu_vm *t, int i, u16 sid, u64 iova, bool write,
			 u32 reason)
{
	u64 hi = VTD_FRCD_F | (write ? 0 : VTD_FRCD_READ) | VTD_FRCD_FR(reason) |
		 VTD_FRCD_SID(sid);

	TEST_ASSERT(reg64(t, VTD_FRCD_LO(i)) == (iova & ~0xfffull) &&
		    reg64(t, VTD_FRCD_HI(i)) == hi,
		    "record %d is %lx %lx, not %lx, 0x%lx", i,
		    reg64(t, VTD_FRCD_HI(i)), reg64(t, VTD_FRCD_LO(i)), hi, iova);
}

/* The records in @mask are of pending faults, others are not. */
static void check_pending(struct viommu_vm *t, u32 mask)
{
	u32 got = 0;
	int i;

	for (i = 0; i < VTD_NR_FRCD; i++) {
		if (reg64(t, VTD_FRCD_HI(i)) & VTD_FRCD_F)
			got |= BIT(i);
	}
	TEST_ASSERT(got == mask, "Pending records are 0x%x, not 0x%x", got, mask);
}

/*
 * An access faults, which is recorded and told by an interrupt, unless the VMM
 * wants it otherwise.  No other fault is pending.
 */
static void check_fault_access(struct viommu_vm *t, u16 sid, u64 iova, u32 access,
			       u32 reason, bool recorded)
{
	bool write = reason == VTD_FAULT_WRITE || !(access & KVM_VIOMMU_READ);
	u64 faults = viommu_stat(t, "viommu_faults");
	u32 before = irqs(t, FAULT_VECTOR);
	u32 fri;

	try_fault(t, sid, iova, access, KVM_VIOMMU_TRANSLATE_QUIET, reason);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_faults"), faults);
	remote_read(t);
	check_pending(t, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), before);

	try_fault(t, sid, iova, access, 0, reason);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), before + recorded);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_faults"), faults + recorded);
	remote_read(t);
	fri = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
	if (!recorded) {
		check_pending(t, 0);
		TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);
		return;
	}
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_PPF);
	TEST_ASSERT(fri < VTD_NR_FRCD, "FRI %u", fri);
	check_pending(t, BIT(fri));
	check_record(t, fri, sid, iova, write, reason);

	clear_faults(t, BIT(fri), 0);
	check_pending(t, 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), before + 1);
}

static void __check_fault(struct viommu_vm *t, u16 sid, u64 iova, u32 reason,
			  bool recorded)
{
	if (reason != VTD_FAULT_WRITE)
		check_fault_access(t, sid, iova, KVM_VIOMMU_READ, reason,
				   recorded);
	if (reason != VTD_FAULT_READ)
		check_fault_access(t, sid, iova, KVM_VIOMMU_WRITE, reason,
				   recorded);
}

static void check_fault(struct viommu_vm *t, u16 sid, u64 iova, u32 reason)
{
	__check_fault(t, sid, iova, reason, true);
}

static void __check_translation(struct viommu_vm *t, u16 sid, u64 iova, u32 access,
				u64 gpa, u64 size, u32 allowed)
{
	struct kvm_viommu_translate tr;
	int err = __viommu_translate(t->fd, sid, iova, access, 0, &tr);

	TEST_ASSERT(!err && tr.gpa == gpa && tr.size == size &&
		    tr.access == allowed && !tr.fault,
		    "0x%lx for %u: error %d fault 0x%x, 0x%lx size 0x%lx for %u; not 0x%lx size 0x%lx for %u",
		    iova, access, err, tr.fault, (u64)tr.gpa, (u64)tr.size,
		    tr.access, gpa, size, allowed);
}

static void check_translation(struct viommu_vm *t, u16 sid, u64 iova, u64 gpa,
			      u64 size)
{
	const u32 rw = KVM_VIOMMU_READ | KVM_VIOMMU_WRITE;
	u32 access;

	for (access = 1; access <= rw; access++)
		__check_translation(t, sid, iova, access, gpa, size, rw);
}

VIOMMU_TEST(fault_reasons)
{
	const u64 iova = 0x123456789abc, low = 0x3456789abc;
	u64 *root, *ctx, *pte, saved[2], t48, t39;
	int i, level;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	root = viommu_hva(t, t->root + 16 * (SID >> 8));

	/* 1: the root entry is not present, whatever else it has. */
	check_fault(t, SID, iova, VTD_FAULT_ROOT_NP);
	root[0] = ~VTD_ROOT_P;
	root[1] = ~0ull;
	check_fault(t, SID, iova, VTD_FAULT_ROOT_NP);
	root[0] = 0;
	root[1] = 0;

	/* 2: nor is the context entry. */
	ctx = viommu_context(t, SID);
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT_NP);
	ctx[0] = ~(VTD_CTX_P | VTD_CTX_FPD);
	ctx[1] = ~0ull;
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT_NP);

	t48 = viommu_alloc(t, 1);
	t39 = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, t48, 48);
	viommu_sl_map(t, t48, 48, iova & ~0xfffull, 0x5000, 1, VTD_SL_RW);
	viommu_sl_map(t, t39, 39, low & ~0xfffull, 0x6000, 1, VTD_SL_RW);
	check_translation(t, SID, iova, 0x5abc, 4096);

	/* A, 9 and 8: the root entry and the root table. */
	for (i = 1; i < 12; i++) {
		root[0] ^= BIT_ULL(i);
		check_fault(t, SID, iova, VTD_FAULT_ROOT_RSVD);
		root[0] ^= BIT_ULL(i);
	}
	for (i = DEFAULT_HAW; i < 64; i++) {
		root[0] ^= BIT_ULL(i);
		check_fault(t, SID, iova, VTD_FAULT_ROOT_RSVD);
		root[0] ^= BIT_ULL(i);
	}
	for (i = 0; i < 64; i++) {
		root[1] ^= BIT_ULL(i);
		check_fault(t, SID, iova, VTD_FAULT_ROOT_RSVD);
		root[1] ^= BIT_ULL(i);
	}
	saved[0] = root[0];
	root[0] = VIOMMU_HOLE | VTD_ROOT_P;
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT_TABLE);
	root[0] = (BIT_ULL(DEFAULT_HAW) - 4096) | VTD_ROOT_P;
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT_TABLE);
	root[0] = saved[0];
	remote(t, REMOTE_SET_ROOT, VIOMMU_HOLE, 0);
	check_fault(t, SID, iova, VTD_FAULT_ROOT_TABLE);
	for (i = DEFAULT_HAW; i < 64; i++) {
		remote(t, REMOTE_SET_ROOT, t->root | BIT_ULL(i), 0);
		check_fault(t, SID, iova, VTD_FAULT_ROOT_TABLE);
	}
	remote(t, REMOTE_SET_ROOT, t->root, 0);
	check_translation(t, SID, iova, 0x5abc, 4096);

	/* B: reserved bits of the context entry. */
	for (i = 4; i < 64; i++) {
		if (i >= 12 && i < DEFAULT_HAW)
			continue;
		ctx[0] ^= BIT_ULL(i);
		check_fault(t, SID, iova, VTD_FAULT_CONTEXT_RSVD);
		ctx[0] ^= BIT_ULL(i);
	}
	for (i = 7; i < 64; i++) {
		if (i >= 8 && i <= 23)
			continue;
		ctx[1] ^= BIT_ULL(i);
		check_fault(t, SID, iova, VTD_FAULT_CONTEXT_RSVD);
		ctx[1] ^= BIT_ULL(i);
	}
	/* These are for software, and the domain id can be any. */
	for (i = 3; i < 24; i++) {
		if (i == 7)
			continue;
		ctx[1] ^= BIT_ULL(i);
		check_translation(t, SID, iova, 0x5abc, 4096);
		ctx[1] ^= BIT_ULL(i);
	}

	/* 3: widths and types that are not offered. */
	for (i = 0; i < 8; i++) {
		if (i == VTD_AW_39 || i == VTD_AW_48)
			continue;
		ctx[1] = VTD_CTX_DID(DID) | i;
		check_fault(t, SID, iova, VTD_FAULT_CONTEXT);
	}
	ctx[1] = VTD_CTX_DID(DID) | VTD_AW_48;
	ctx[0] ^= VTD_CTX_TT(1);
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT);
	ctx[0] ^= VTD_CTX_TT(1) ^ VTD_CTX_TT(3);
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT);
	ctx[0] ^= VTD_CTX_TT(3);

	/* 4: addresses beyond what the tables can translate. */
	for (i = 48; i < 64; i++)
		check_fault(t, SID, iova | BIT_ULL(i), VTD_FAULT_BEYOND);
	viommu_set_context(t, SID, DID, t39, 39);
	check_translation(t, SID, low, 0x6abc, 4096);
	for (i = 39; i < 64; i++)
		check_fault(t, SID, low | BIT_ULL(i), VTD_FAULT_BEYOND);
	viommu_set_context(t, SID, DID, t48, 48);

	/* 7: there is no table. */
	ctx[0] = VIOMMU_HOLE | VTD_CTX_P;
	check_fault(t, SID, iova, VTD_FAULT_TABLE);
	ctx[0] = t48 | VTD_CTX_P;
	for (level = 2; level <= 4; level++) {
		pte = viommu_sl_entry(t, t48, 48, iova, level);
		saved[0] = *pte;
		*pte = VIOMMU_HOLE | VTD_SL_RW;
		check_fault(t, SID, iova, VTD_FAULT_TABLE);
		*pte = saved[0];
	}

	/* 5 and 6, at each level; entries that allow nothing have nothing else. */
	for (level = 1; level <= 4; level++) {
		pte = viommu_sl_entry(t, t48, 48, iova, level);
		saved[0] = *pte;
		*pte = saved[0] & ~VTD_SL_W;
		check_fault(t, SID, iova, VTD_FAULT_WRITE);
		check_fault_access(t, SID, iova, KVM_VIOMMU_READ | KVM_VIOMMU_WRITE,
				   VTD_FAULT_WRITE, true);
		__check_translation(t, SID, iova, KVM_VIOMMU_READ, 0x5abc, 4096,
				    KVM_VIOMMU_READ);
		*pte = saved[0] & ~VTD_SL_R;
		check_fault(t, SID, iova, VTD_FAULT_READ);
		check_fault_access(t, SID, iova, KVM_VIOMMU_READ | KVM_VIOMMU_WRITE,
				   VTD_FAULT_READ, true);
		__check_translation(t, SID, iova, KVM_VIOMMU_WRITE, 0x5abc, 4096,
				    KVM_VIOMMU_WRITE);
		*pte = 0;
		check_fault(t, SID, iova, VTD_FAULT_WRITE);
		check_fault(t, SID, iova, VTD_FAULT_READ);
		*pte = ~VTD_SL_RW;
		check_fault(t, SID, iova, VTD_FAULT_WRITE);
		check_fault(t, SID, iova, VTD_FAULT_READ);
		*pte = saved[0];
	}

	/* C: reserved bits of paging entries. */
	for (level = 1; level <= 4; level++) {
		pte = viommu_sl_entry(t, t48, 48, iova, level);
		for (i = DEFAULT_HAW; i < 52; i++) {
			*pte ^= BIT_ULL(i);
			check_fault(t, SID, iova, VTD_FAULT_PTE_RSVD);
			*pte ^= BIT_ULL(i);
		}
	}
	pte = viommu_sl_entry(t, t48, 48, iova, 1);
	for (i = 0; i < 64; i++) {
		if (BIT_ULL(i) & (VTD_SL_SNP | VTD_SL_TM)) {
			*pte ^= BIT_ULL(i);
			check_fault(t, SID, iova, VTD_FAULT_PTE_RSVD);
			*pte ^= BIT_ULL(i);
		}
	}
	/* No pages of 512 GiB; large ones are aligned. */
	pte = viommu_sl_entry(t, t48, 48, iova, 4);
	*pte ^= VTD_SL_PS;
	check_fault(t, SID, iova, VTD_FAULT_PTE_RSVD);
	*pte ^= VTD_SL_PS;
	for (level = 2; level <= 3; level++) {
		pte = viommu_sl_entry(t, t48, 48, iova, level);
		saved[0] = *pte;
		*pte = VTD_SL_SIZE(level) | VTD_SL_PS | VTD_SL_RW;
		check_translation(t, SID, iova, VTD_SL_SIZE(level) +
				  (iova & (VTD_SL_SIZE(level) - 1)),
				  VTD_SL_SIZE(level));
		for (i = 11; i < 64; i++) {
			if (i >= VTD_SL_SHIFT(level) && i < DEFAULT_HAW)
				continue;
			if (i >= 52 && i != 62)
				continue;
			*pte ^= BIT_ULL(i);
			check_fault(t, SID, iova, VTD_FAULT_PTE_RSVD);
			*pte ^= BIT_ULL(i);
		}
		*pte = saved[0];
	}
	check_translation(t, SID, iova, 0x5abc, 4096);
}

/* What a unit does not offer is an error, or reserved. */
VIOMMU_TEST(fault_capabilities)
{
	const u64 iova = 0x40200000;
	struct viommu_vm *first = t, second, third;
	u64 *ctx, tables;

	remote_create_unit(first, MAX_CAP & ~(VTD_CAP_SAGAW_39 | VTD_CAP_SLLPS_2M),
			   MAX_ECAP & ~VTD_ECAP_PT, 36);
	tables = viommu_alloc(first, 1);
	viommu_set_context(first, SID, DID, tables, 39);
	check_fault(first, SID, iova, VTD_FAULT_CONTEXT);
	viommu_set_context(first, SID, DID, tables, 48);
	viommu_sl_map(first, tables, 48, iova, 0, 2, VTD_SL_RW);
	check_fault(first, SID, iova, VTD_FAULT_PTE_RSVD);
	viommu_sl_map(first, tables, 48, iova, 0, 3, VTD_SL_RW);
	check_translation(first, SID, iova, iova & (VTD_SL_SIZE(3) - 1),
			  VTD_SL_SIZE(3));
	/* A narrow host address width. */
	viommu_sl_map(first, tables, 48, iova, BIT_ULL(35), 3, VTD_SL_RW);
	check_translation(first, SID, iova, BIT_ULL(35) | 0x200000,
			  VTD_SL_SIZE(3));
	viommu_sl_map(first, tables, 48, iova, BIT_ULL(36), 3, VTD_SL_RW);
	check_fault(first, SID, iova, VTD_FAULT_PTE_RSVD);
	ctx = viommu_context(first, SID);
	ctx[0] = BIT_ULL(36) | VTD_CTX_P;
	check_fault(first, SID, iova, VTD_FAULT_CONTEXT_RSVD);
	ctx[0] = VTD_CTX_TT(VTD_TT_PASSTHROUGH) | VTD_CTX_P;
	check_fault(first, SID, iova, VTD_FAULT_CONTEXT);

	remote_create_unit(&second, (MAX_CAP & ~(VTD_CAP_MGAW | VTD_CAP_SAGAW_48 |
						 VTD_CAP_SLLPS_1G)) |
			   31ull << VTD_CAP_MGAW_SHIFT, MAX_ECAP, 32);
	tables = viommu_alloc(&second, 1);
	viommu_set_context(&second, SID, DID, tables, 48);
	check_fault(&second, SID, iova, VTD_FAULT_CONTEXT);
	viommu_set_context(&second, SID, DID, tables, 39);
	viommu_sl_map(&second, tables, 39, iova, 0, 3, VTD_SL_RW);
	check_fault(&second, SID, iova, VTD_FAULT_PTE_RSVD);
	*viommu_sl_entry(&second, tables, 39, iova, 3) = 0;
	viommu_sl_map(&second, tables, 39, iova, 0x600000, 2, VTD_SL_RW);
	check_translation(&second, SID, iova + 5, 0x600005, VTD_SL_SIZE(2));
	/* The maximum guest address width. */
	viommu_sl_map(&second, tables, 39, 0xfffff000, 0x7000, 1, VTD_SL_RW);
	viommu_sl_map(&second, tables, 39, BIT_ULL(32), 0x8000, 1, VTD_SL_RW);
	check_translation(&second, SID, 0xffffffff, 0x7fff, 4096);
	check_fault(&second, SID, BIT_ULL(32), VTD_FAULT_BEYOND);
	viommu_vm_destroy(&second);

	remote_create_unit(&third, (MAX_CAP & ~VTD_CAP_MGAW) |
			   38ull << VTD_CAP_MGAW_SHIFT, MAX_ECAP, 52);
	tables = viommu_alloc(&third, 1);
	viommu_set_context(&third, SID, DID, tables, 48);
	viommu_sl_map(&third, tables, 48, BIT_ULL(39) - 4096, BIT_ULL(51), 1,
		      VTD_SL_RW);
	viommu_sl_map(&third, tables, 48, BIT_ULL(39), 0x8000, 1, VTD_SL_RW);
	check_translation(&third, SID, BIT_ULL(39) - 1, BIT_ULL(51) + 0xfff, 4096);
	check_fault(&third, SID, BIT_ULL(39), VTD_FAULT_BEYOND);
	viommu_vm_destroy(&third);
}

/*
 * Faults of a device without context entry, which differ in the address.  The
 * context table is there, as viommu_context(t, SID) was called.
 */
#define FAULT_SID	(SID ^ 8)

static void record_fault(struct viommu_vm *t, u64 page)
{
	try_fault(t, FAULT_SID, page << 12, KVM_VIOMMU_WRITE, 0,
		  VTD_FAULT_CONTEXT_NP);
}

static void check_recorded(struct viommu_vm *t, int i, u64 page)
{
	check_record(t, i % VTD_NR_FRCD, FAULT_SID, page << 12, true,
		     VTD_FAULT_CONTEXT_NP);
}

VIOMMU_TEST(fault_recording)
{
	u32 fri, n;
	int i;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	viommu_context(t, SID);

	/* One after the other; identical ones need no record. */
	n = irqs(t, FAULT_VECTOR);
	record_fault(t, 0);
	remote_read(t);
	fri = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);
	for (i = 1; i < VTD_NR_FRCD; i++) {
		record_fault(t, i);
		record_fault(t, 0);
		record_fault(t, i);
		remote_read(t);
		TEST_ASSERT_EQ(reg32(t, VTD_FSTS), VTD_FSTS_PPF | fri << 8);
		check_recorded(t, fri, 0);
		check_recorded(t, fri + i, i);
	}
	check_pending(t, 0xff);
	/* Another device, or kind of access, is another fault. */
	record_fault(t, 8);
	remote_read(t);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS),
		       VTD_FSTS_PFO | VTD_FSTS_PPF | fri << 8);
	for (i = 0; i < VTD_NR_FRCD; i++)
		check_recorded(t, fri + i, i);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);

	/* None is recorded until the overflow is cleared. */
	clear_faults(t, BIT(fri), 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_PFO | VTD_FSTS_PPF);
	record_fault(t, 9);
	remote_read(t);
	check_pending(t, 0xff & ~BIT(fri));
	clear_faults(t, 0xff & ~BIT(fri), 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_PFO);
	check_pending(t, 0);
	record_fault(t, 10);
	remote_read(t);
	check_pending(t, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);
	/* PPF cannot be cleared, nor is PFO by writing 0. */
	clear_faults(t, 0, VTD_FSTS_PPF);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_PFO);
	clear_faults(t, 0, VTD_FSTS_PFO);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);
	record_fault(t, 11);
	remote_read(t);
	fri = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS), VTD_FSTS_PPF | fri << 8);
	check_recorded(t, fri, 11);
	check_pending(t, BIT(fri));
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 2);
	clear_faults(t, 0, VTD_FSTS_PPF | VTD_FSTS_PFO);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS), VTD_FSTS_PPF | fri << 8);
	clear_faults(t, BIT(fri), 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);
}

/*
 * Software deals with records in order, from FSTS.FRI until one is not pending,
 * and then waits for an interrupt.  A fault that is recorded meanwhile must come
 * after those that are pending: in a record that software has passed it would not
 * be found, and there would be no interrupt either.
 */
VIOMMU_TEST(fault_order)
{
	u32 first, i, n;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	viommu_context(t, SID);
	for (n = 0; n < 3 * VTD_NR_FRCD; n++) {
		/* Two, of which the first is dealt with. */
		record_fault(t, 100 * n);
		record_fault(t, 100 * n + 1);
		remote_read(t);
		first = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
		check_recorded(t, first, 100 * n);
		check_recorded(t, first + 1, 100 * n + 1);
		clear_faults(t, BIT(first), 0);
		for (i = 2; i < VTD_NR_FRCD + n % 3; i++) {
			record_fault(t, 100 * n + i);
			remote_read(t);
			check_recorded(t, first + i, 100 * n + i);
			check_recorded(t, first + i - 1, 100 * n + i - 1);
			check_pending(t, BIT((first + i) % VTD_NR_FRCD) |
				      BIT((first + i - 1) % VTD_NR_FRCD));
			clear_faults(t, BIT((first + i - 1) % VTD_NR_FRCD), 0);
		}
		TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_PPF);
		clear_faults(t, BIT((first + i - 1) % VTD_NR_FRCD), 0);
		TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);
		check_pending(t, 0);
	}
}

VIOMMU_TEST(fault_interrupts)
{
	u32 n, i;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	viommu_context(t, SID);
	n = irqs(t, FAULT_VECTOR);

	/* Masked: pending, once, and sent when it gets unmasked. */
	remote(t, REMOTE_WRITE32, VTD_FECTL, VTD_CTL_IM);
	for (i = 0; i < 3; i++) {
		record_fault(t, i);
		remote_read(t);
		TEST_ASSERT_EQ(reg32(t, VTD_FECTL), VTD_CTL_IM | VTD_CTL_IP);
	}
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n);
	/* IP is not for the guest to write. */
	remote(t, REMOTE_WRITE32, VTD_FECTL, VTD_CTL_IM);
	remote_read(t);
	TEST_ASSERT_EQ(reg32(t, VTD_FECTL), VTD_CTL_IM | VTD_CTL_IP);
	remote(t, REMOTE_WRITE32, VTD_FECTL, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);
	remote_read(t);
	TEST_ASSERT_EQ(reg32(t, VTD_FECTL), 0);
	/* Masking once more does not bring it back. */
	remote(t, REMOTE_WRITE32, VTD_FECTL, VTD_CTL_IM);
	remote(t, REMOTE_WRITE32, VTD_FECTL, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);
	/* No other while faults are pending. */
	record_fault(t, 3);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);
	clear_faults(t, 0x7f, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);
	clear_faults(t, 0xff, 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);

	/* One that is pending goes away with its reason, not before. */
	remote(t, REMOTE_WRITE32, VTD_FECTL, VTD_CTL_IM);
	record_fault(t, 4);
	record_fault(t, 5);
	remote_read(t);
	i = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
	TEST_ASSERT_EQ(reg32(t, VTD_FECTL), VTD_CTL_IM | VTD_CTL_IP);
	clear_faults(t, BIT(i), 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FECTL), VTD_CTL_IM | VTD_CTL_IP);
	clear_faults(t, 0xff, 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FECTL), VTD_CTL_IM);
	remote(t, REMOTE_WRITE32, VTD_FECTL, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 1);

	/* A queue error is another reason. */
	remote_enable_queue(t);
	remote(t, REMOTE_ADD, 3, 0);
	remote(t, REMOTE_SUBMIT, 0, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 2);
	record_fault(t, 6);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 2);
	remote_read(t);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_IQE | VTD_FSTS_PPF);
	*(u64 *)viommu_hva(t, t->sh->queue.base) = VTD_QI_IOTLB(VTD_GLOBAL);
	clear_faults(t, 0, VTD_FSTS_IQE);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, VTD_FSTS_PPF);
	TEST_ASSERT_EQ(reg64(t, VTD_IQH), 16);
	clear_faults(t, 0xff, 0);
	TEST_ASSERT_EQ(reg32(t, VTD_FSTS) & 0xff, 0);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 2);
	record_fault(t, 7);
	TEST_ASSERT_EQ(irqs(t, FAULT_VECTOR), n + 3);
}

/* "Fault processing disable": of faults that are found past the context entry. */
VIOMMU_TEST(fault_disabled)
{
	const u64 iova = 0x12345678;
	u64 *root, *ctx, *pte, tables, saved;
	int i;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	root = viommu_hva(t, t->root + 16 * (SID >> 8));
	ctx = viommu_context(t, SID);
	tables = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, tables, 48);
	viommu_sl_map(t, tables, 48, iova & ~0xfffull, 0x5000, 1, VTD_SL_RW);
	ctx[0] |= VTD_CTX_FPD;
	check_translation(t, SID, iova, 0x5678, 4096);

	ctx[0] ^= VTD_CTX_P;
	__check_fault(t, SID, iova, VTD_FAULT_CONTEXT_NP, false);
	ctx[0] ^= VTD_CTX_P | VTD_CTX_TT(3);
	__check_fault(t, SID, iova, VTD_FAULT_CONTEXT, false);
	ctx[0] ^= VTD_CTX_TT(3) | BIT_ULL(11);
	__check_fault(t, SID, iova, VTD_FAULT_CONTEXT_RSVD, false);
	ctx[0] ^= BIT_ULL(11);
	__check_fault(t, SID, BIT_ULL(48), VTD_FAULT_BEYOND, false);
	pte = viommu_sl_entry(t, tables, 48, iova, 1);
	*pte ^= VTD_SL_SNP;
	__check_fault(t, SID, iova, VTD_FAULT_PTE_RSVD, false);
	*pte ^= VTD_SL_SNP ^ VTD_SL_W;
	__check_fault(t, SID, iova, VTD_FAULT_WRITE, false);
	*pte ^= VTD_SL_RW;
	__check_fault(t, SID, iova, VTD_FAULT_READ, false);
	pte = viommu_sl_entry(t, tables, 48, iova, 3);
	saved = *pte;
	*pte = VIOMMU_HOLE | VTD_SL_RW;
	__check_fault(t, SID, iova, VTD_FAULT_TABLE, false);
	*pte = saved;

	/* Those that are found before are recorded anyway. */
	saved = root[0];
	root[0] = 0;
	check_fault(t, SID, iova, VTD_FAULT_ROOT_NP);
	root[0] = saved | 2;
	check_fault(t, SID, iova, VTD_FAULT_ROOT_RSVD);
	root[0] = VIOMMU_HOLE | VTD_ROOT_P;
	check_fault(t, SID, iova, VTD_FAULT_CONTEXT_TABLE);
	root[0] = saved;
	remote(t, REMOTE_SET_ROOT, VIOMMU_HOLE, 0);
	check_fault(t, SID, iova, VTD_FAULT_ROOT_TABLE);

	/* With translation off there is none. */
	remote(t, REMOTE_COMMAND, 0, VTD_GCMD_TE);
	for (i = 0; i < 64; i++)
		check_translation(t, SID, BIT_ULL(i) | 5, BIT_ULL(i) | 5, 4096);
}

/* A fault while writes are polled for. */
VIOMMU_MODE_TEST(fault)
{
	u64 tables;
	int i;

	remote_create(t);
	viommu_start(t, worker);
	t->sh->go = worker != KVM_VIOMMU_WORKER_NONE;
	remote_start(t);
	tables = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, tables, 48);
	viommu_sl_map(t, tables, 48, 0x1000, 0x5000, 1, VTD_SL_R);
	remote(t, REMOTE_SET_ROOT, t->root, 0);
	remote_enable_queue(t);
	remote(t, REMOTE_FLUSH, 0, 0);
	remote(t, REMOTE_COMMAND, VTD_GCMD_TE, 0);
	for (i = 0; i < 20; i++) {
		if (worker)
			remote_busy(t);
		__check_translation(t, SID, 0x1234, KVM_VIOMMU_READ, 0x5234, 4096,
				    KVM_VIOMMU_READ);
		check_fault(t, SID, 0x1234, VTD_FAULT_WRITE);
		if (worker)
			TEST_ASSERT_EQ(viommu_stat(t, "viommu_to_direct"),
				       viommu_stat(t, "viommu_to_trapped"));
		remote(t, REMOTE_FLUSH, 0, 0);
	}
	mode_check(t, worker, 20);
}

/* ----------------------------------------------------------- translate */

VIOMMU_TEST(translate)
{
	static const unsigned int widths[] = { 39, 48 };
	const u64 iovas[] = {
		0, 0x1000, 0x12345000, 0x3ffff000, 0x40000000, 0x7fc0000000,
		0x7fffe00000, 0x7ffffff000, 0x8000000000, 0xffffc0000000,
		0xfffffffff000,
	};
	u64 tables, iova, gpa, size, offset;
	unsigned int w, i, level;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	for (w = 0; w < ARRAY_SIZE(widths); w++) {
		for (level = 1; level <= 3; level++) {
			tables = viommu_alloc(t, 1);
			viommu_set_context(t, SID, DID, tables, widths[w]);
			size = VTD_SL_SIZE(level);
			for (i = 0; i < ARRAY_SIZE(iovas); i++) {
				iova = iovas[i] & ~(size - 1);
				if (iova >> widths[w])
					continue;
				gpa = (i * 0x123457ull << VTD_SL_SHIFT(level)) &
				      (BIT_ULL(DEFAULT_HAW) - 1);
				viommu_sl_map(t, tables, widths[w], iova, gpa,
					      level, VTD_SL_RW);
				offset = (0x123456789ull * (i + 1)) & (size - 1);
				check_translation(t, SID, iova, gpa, size);
				check_translation(t, SID, iova + offset,
						  gpa + offset, size);
				check_translation(t, SID, iova + size - 1,
						  gpa + size - 1, size);
			}
		}
	}
	/* Other devices are others. */
	try_fault(t, SID ^ 1, iovas[0], KVM_VIOMMU_READ, 0, VTD_FAULT_CONTEXT_NP);
	try_fault(t, SID ^ 0x100, iovas[0], KVM_VIOMMU_READ, 0, VTD_FAULT_ROOT_NP);
	viommu_sl_map(t, tables, 48, 0, 0, 3, VTD_SL_RW);
	viommu_set_context(t, 0, DID, tables, 48);
	viommu_set_context(t, 0xffff, DID, tables, 48);
	check_translation(t, 0, 0, 0, VTD_SL_SIZE(3));
	check_translation(t, 0xffff, 0, 0, VTD_SL_SIZE(3));
}

/* What is allowed is what all levels allow. */
VIOMMU_TEST(translate_permissions)
{
	const u64 iova = 0x123456789000, gpa = 0x9000;
	struct kvm_viommu_translate tr;
	u32 prot[5], allowed, access, reason;
	u64 tables, *pte[5], saved;
	int n, level, err, i;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	tables = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, tables, 48);
	viommu_sl_map(t, tables, 48, iova, gpa, 1, VTD_SL_RW);
	for (level = 1; level <= 4; level++)
		pte[level] = viommu_sl_entry(t, tables, 48, iova, level);
	for (n = 0; n < 4 * 4 * 4 * 4; n++) {
		allowed = VTD_SL_RW;
		for (level = 1; level <= 4; level++) {
			prot[level] = (n >> (2 * (level - 1))) & 3;
			*pte[level] = (*pte[level] & ~VTD_SL_RW) | prot[level];
			allowed &= prot[level];
		}
		for (access = 1; access <= VTD_SL_RW; access++) {
			err = __viommu_translate(t->fd, SID, iova, access,
						 KVM_VIOMMU_TRANSLATE_QUIET, &tr);
			reason = 0;
			if (access & KVM_VIOMMU_READ & ~allowed)
				reason = VTD_FAULT_READ;
			if (access & KVM_VIOMMU_WRITE & ~allowed)
				reason = VTD_FAULT_WRITE;
			TEST_ASSERT(err == (reason ? EFAULT : 0) &&
				    tr.fault == reason,
				    "%u at level 1, %u, %u, %u, for %u: error %d, fault 0x%x, not 0x%x",
				    prot[1], prot[2], prot[3], prot[4], access,
				    err, tr.fault, reason);
			if (reason)
				continue;
			TEST_ASSERT_EQ(tr.gpa, gpa);
			TEST_ASSERT_EQ(tr.size, 4096);
			TEST_ASSERT_EQ(tr.access, allowed);
		}
	}

	/* What hardware ignores. */
	for (level = 1; level <= 4; level++) {
		*pte[level] |= VTD_SL_RW;
		saved = *pte[level];
		for (i = 0; i < 64; i++) {
			if (i == 7 || (i >= 12 && i < 52) ||
			    (level == 1 && (i == 11 || i == 62)))
				continue;
			*pte[level] = saved | BIT_ULL(i);
			check_translation(t, SID, iova, gpa, 4096);
		}
		*pte[level] = saved;
	}
	/* Not a page size at level 1. */
	*pte[1] |= VTD_SL_PS;
	check_translation(t, SID, iova, gpa, 4096);
}

VIOMMU_TEST(translate_passthrough)
{
	u64 *ctx;
	int i;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	ctx = viommu_context(t, SID);
	ctx[1] = VTD_CTX_AW(VTD_AW_48) | VTD_CTX_DID(DID);
	/* There need not be any table. */
	ctx[0] = VIOMMU_HOLE | VTD_CTX_TT(VTD_TT_PASSTHROUGH) | VTD_CTX_P;
	for (i = 0; i < DEFAULT_HAW; i++)
		check_translation(t, SID, BIT_ULL(i), BIT_ULL(i), 4096);
	check_translation(t, SID, BIT_ULL(DEFAULT_HAW) - 1,
			  BIT_ULL(DEFAULT_HAW) - 1, 4096);
	for (; i < 64; i++)
		check_fault(t, SID, BIT_ULL(i), VTD_FAULT_BEYOND);
}

/* The root table is the one that was set by a command. */
VIOMMU_TEST(translate_root)
{
	u64 tables, other, old;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	tables = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, tables, 48);
	viommu_sl_map(t, tables, 48, 0, 0x1000, 1, VTD_SL_RW);
	old = t->root;
	other = viommu_alloc(t, 1);
	t->root = other;
	tables = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, tables, 48);
	viommu_sl_map(t, tables, 48, 0, 0x2000, 1, VTD_SL_RW);

	check_translation(t, SID, 0, 0x1000, 4096);
	remote(t, REMOTE_WRITE64, VTD_RTADDR, other);
	check_translation(t, SID, 0, 0x1000, 4096);
	remote(t, REMOTE_COMMAND, 0, VTD_GCMD_TE);
	check_translation(t, SID, 0, 0, 4096);
	remote(t, REMOTE_COMMAND, VTD_GCMD_TE, 0);
	check_translation(t, SID, 0, 0x1000, 4096);
	remote(t, REMOTE_COMMAND, VTD_GCMD_SRTP, 0);
	check_translation(t, SID, 0, 0x2000, 4096);
	remote(t, REMOTE_SET_ROOT, old, 0);
	check_translation(t, SID, 0, 0x1000, 4096);
}

/* A unit that masks fewer pages than it could; CAP says so. */
VIOMMU_TEST(lower_mamv)
{
	unsigned int am, info;

	remote_create_unit(t, (MAX_CAP & ~VTD_CAP_MAMV) |
			   9ull << VTD_CAP_MAMV_SHIFT, MAX_ECAP, DEFAULT_HAW);
	for (am = 8; am <= MAMV; am++) {
		remote(t, REMOTE_WRITE64, VTD_IVA, VTD_QI_IOTLB_AM(am));
		remote(t, REMOTE_WRITE64, VTD_IOTLB,
		       VTD_IOTLB_IVT | VTD_IOTLB_IIRG(VTD_PAGES));
		remote_read(t);
		TEST_ASSERT_EQ(VTD_IOTLB_IAIG(reg64(t, VTD_IOTLB)),
			       am <= 9 ? VTD_PAGES : 0);

		remote_enable_queue(t);
		remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_PAGES),
		       VTD_QI_IOTLB_AM(am));
		remote(t, REMOTE_SUBMIT, 0, 0);
		remote_read(t);
		info = VTD_IQERCD_IQEI(reg64(t, VTD_IQERCD));
		TEST_ASSERT_EQ(reg32(t, VTD_FSTS), am <= 9 ? 0 : VTD_FSTS_IQE);
		TEST_ASSERT_EQ(reg64(t, VTD_IQH), am <= 9 ? 16 : 0);
		TEST_ASSERT(am <= 9 || info == VTD_IQEI_RSVD, "IQEI %u", info);
		remote(t, REMOTE_COMMAND, 0, VTD_GCMD_QIE);
		remote(t, REMOTE_WRITE32, VTD_FSTS, VTD_FSTS_IQE);
	}
}

/* --------------------------------------------------------------- state */

/* A VM in the state of another: its memory, and its unit if it has one. */
static void clone_vm(struct viommu_vm *to, struct viommu_vm *from,
		     struct kvm_viommu_state *state)
{
	remote_create(to);
	viommu_start(to, KVM_VIOMMU_WORKER_NONE);
	viommu_run_to(to, REMOTE_SYNC);
	memcpy(to->sh, from->sh, VIOMMU_POOL_PAGES << 12);
	memset(to->sh->irqs, 0, sizeof(to->sh->irqs));
	viommu_set_state(to->fd, state);
}

/* What the guest reads is what was read by that of another VM. */
static void compare_regs(struct viommu_vm *a, struct viommu_vm *b)
{
	unsigned int i;

	remote_read(a);
	remote_read(b);
	for (i = 0; i < 4096; i += 4)
		TEST_ASSERT(reg32(a, i) == reg32(b, i),
			    "Register 0x%x was 0x%x, is 0x%x", i, reg32(a, i),
			    reg32(b, i));
}

VIOMMU_TEST(state)
{
	struct kvm_viommu_state state, again;
	struct viommu_vm u;
	u64 tables;
	u32 fri, i;

	remote_create(t);
	viommu_start(t, KVM_VIOMMU_WORKER_NONE);
	remote_start(t);
	tables = viommu_alloc(t, 1);
	viommu_set_context(t, SID, DID, tables, 39);
	viommu_sl_map(t, tables, 39, 0x1000, 0x7000, 1, VTD_SL_RW);
	remote(t, REMOTE_SET_ROOT, t->root, 0);
	remote_enable_queue(t);
	remote(t, REMOTE_COMMAND, VTD_GCMD_TE, 0);
	for (i = 0; i < 10; i++)
		remote(t, REMOTE_FLUSH, 0, 0);

	/* Events that are pending, and data that is not used yet. */
	remote(t, REMOTE_WRITE32, VTD_FECTL, VTD_CTL_IM);
	remote(t, REMOTE_WRITE32, VTD_IECTL, VTD_CTL_IM);
	record_fault(t, 1);
	record_fault(t, 2);
	remote_read(t);
	fri = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
	clear_faults(t, BIT(fri), 0);
	record_fault(t, 3);
	remote(t, REMOTE_ADD, VTD_QI_WAIT | VTD_QI_WAIT_IF, 0);
	remote(t, REMOTE_FLUSH, 0, 0);
	remote(t, REMOTE_WRITE64, VTD_IVA, 0x123456789000 | 0x47);
	remote(t, REMOTE_WRITE64, VTD_RTADDR, 0xabcdef000);
	remote(t, REMOTE_WRITE64, VTD_CCMD, 0x123456789 & ~VTD_CCMD_ICC);

	viommu_get_state(t->fd, &state);
	TEST_ASSERT_EQ(state.version, KVM_VIOMMU_STATE_VERSION);
	TEST_ASSERT_EQ(state.flags, 0);
	TEST_ASSERT_EQ(state.root, t->root);
	for (i = 0; i < ARRAY_SIZE(state.reserved); i++)
		TEST_ASSERT_EQ(state.reserved[i], 0);
	remote_read(t);
	for (i = 0; i < KVM_VIOMMU_NR_REGS; i++) {
		if (8 * i == VTD_GCMD)
			TEST_ASSERT_EQ(state.regs[i] >> 32, reg32(t, VTD_GSTS));
		else
			TEST_ASSERT(state.regs[i] == reg64(t, 8 * i),
				    "Register 0x%x is 0x%lx, saved as 0x%lx",
				    8 * i, reg64(t, 8 * i), (u64)state.regs[i]);
	}

	clone_vm(&u, t, &state);
	viommu_get_state(u.fd, &again);
	TEST_ASSERT(!memcmp(&state, &again, sizeof(state)),
		    "Saved and restored state differ");
	compare_regs(t, &u);

	/* Both go on from there, in the same way. */
	u.root = t->root;
	TEST_ASSERT_EQ(irqs(&u, FAULT_VECTOR), 0);
	TEST_ASSERT_EQ(irqs(&u, INV_VECTOR), 0);
	check_translation(&u, SID, 0x1234, 0x7234, 4096);
	try_fault(&u, SID, BIT_ULL(39), KVM_VIOMMU_READ, 0, VTD_FAULT_BEYOND);
	try_fault(t, SID, BIT_ULL(39), KVM_VIOMMU_READ, 0, VTD_FAULT_BEYOND);
	compare_regs(t, &u);
	check_pending(&u, BIT((fri + 1) % 8) | BIT((fri + 2) % 8) |
		      BIT((fri + 3) % 8));
	remote(&u, REMOTE_WRITE32, VTD_FECTL, 0);
	remote(&u, REMOTE_WRITE32, VTD_IECTL, 0);
	TEST_ASSERT_EQ(irqs(&u, FAULT_VECTOR), 1);
	TEST_ASSERT_EQ(irqs(&u, INV_VECTOR), 1);
	clear_faults(&u, 0xff, 0);
	TEST_ASSERT_EQ(reg32(&u, VTD_FSTS) & 0xff, 0);
	remote(&u, REMOTE_WRITE32, VTD_ICS, VTD_ICS_IWC);
	for (i = 0; i < 300; i++)
		remote(&u, REMOTE_FLUSH, 0, 0);
	remote_read(&u);
	TEST_ASSERT_EQ(reg64(&u, VTD_IQH), u.sh->queue.tail);
	/* The root that was written is taken over by the command only. */
	remote(&u, REMOTE_COMMAND, VTD_GCMD_SRTP, 0);
	try_fault(&u, SID, 0x1000, KVM_VIOMMU_READ, 0, VTD_FAULT_ROOT_TABLE);
	remote(&u, REMOTE_SET_ROOT, u.root, 0);
	check_translation(&u, SID, 0x1234, 0x7234, 4096);

	/* Back in time, over what is there. */
	memcpy(u.sh, t->sh, VIOMMU_POOL_PAGES << 12);
	viommu_set_state(u.fd, &state);
	viommu_get_state(u.fd, &again);
	TEST_ASSERT(!memcmp(&state, &again, sizeof(state)),
		    "Saved and restored state differ");
	viommu_vm_destroy(&u);
}

/* All records are pending, and the one after the last is the first. */
VIOMMU_TEST(state_faults)
{
	struct kvm_viommu_state state;
	struct viommu_vm u;
	u32 first;
	int i, n;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	viommu_context(t, SID);
	for (n = 0; n <= VTD_NR_FRCD + 1; n++) {
		for (i = 0; i < n; i++)
			record_fault(t, i);
		remote_read(t);
		first = VTD_FSTS_FRI(reg32(t, VTD_FSTS));
		viommu_get_state(t->fd, &state);
		clone_vm(&u, t, &state);
		record_fault(&u, n);
		remote_read(&u);
		TEST_ASSERT_EQ(reg32(&u, VTD_FSTS) & 0xff,
			       VTD_FSTS_PPF |
			       (n >= VTD_NR_FRCD ? VTD_FSTS_PFO : 0));
		if (n)
			TEST_ASSERT_EQ(VTD_FSTS_FRI(reg32(&u, VTD_FSTS)), first);
		first = VTD_FSTS_FRI(reg32(&u, VTD_FSTS));
		for (i = 0; i < VTD_NR_FRCD && i <= n; i++)
			check_recorded(&u, first + i, i);
		TEST_ASSERT_EQ(irqs(&u, FAULT_VECTOR), n ? 0 : 1);
		viommu_vm_destroy(&u);
		clear_faults(t, 0xff, VTD_FSTS_PFO);
	}
}

/* The queue stands at an error; the guest mends it after the move. */
VIOMMU_TEST(state_queue_error)
{
	struct kvm_viommu_state state;
	struct viommu_vm u;
	u64 *desc;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	remote_enable_queue(t);
	remote(t, REMOTE_FLUSH, 0, 0);
	desc = viommu_hva(t, t->sh->queue.base + t->sh->queue.tail);
	remote(t, REMOTE_ADD, 3, 0);
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	viommu_get_state(t->fd, &state);
	clone_vm(&u, t, &state);
	compare_regs(t, &u);
	TEST_ASSERT_EQ(reg32(&u, VTD_FSTS) & 0xff, VTD_FSTS_IQE);
	TEST_ASSERT_EQ(reg64(&u, VTD_IQH), 16);
	TEST_ASSERT_EQ(VTD_IQERCD_IQEI(reg64(&u, VTD_IQERCD)), VTD_IQEI_TYPE);
	TEST_ASSERT(u.sh->status != u.sh->queue.seq, "Completed in spite of it");
	desc = viommu_hva(&u, u.sh->queue.base + 16);
	TEST_ASSERT_EQ(desc[0], 3);
	desc[0] = VTD_QI_IOTLB(VTD_GLOBAL);
	remote(&u, REMOTE_WRITE32, VTD_FSTS, VTD_FSTS_IQE);
	TEST_ASSERT_EQ(u.sh->status, u.sh->queue.seq);
	remote(&u, REMOTE_FLUSH, 0, 0);
	viommu_vm_destroy(&u);
}

/* What is in the queue is done by whoever has it then. */
VIOMMU_TEST(state_pending_queue)
{
	struct kvm_viommu_state state;
	s32 fd = eventfd(0, 0);
	struct viommu_vm u;
	int i;

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	remote_enable_queue(t);
	remote(t, REMOTE_FLUSH, 0, 0);
	/* Nobody acknowledges. */
	TEST_ASSERT(!__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, &fd),
		    "KVM_DEV_VIOMMU_GRP_NOTIFY");
	for (i = 0; i < 5; i++)
		remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_GLOBAL), 0);
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_GLOBAL), 0);
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	viommu_get_state(t->fd, &state);
	TEST_ASSERT_EQ(state.regs[VTD_IQH / 8], 6 * 16);
	TEST_ASSERT_EQ(state.regs[VTD_IQT / 8], 9 * 16);
	TEST_ASSERT(t->sh->status != t->sh->queue.seq, "Completed");

	clone_vm(&u, t, &state);
	TEST_ASSERT_EQ(u.sh->status, u.sh->queue.seq);
	viommu_get_state(u.fd, &state);
	TEST_ASSERT_EQ(state.regs[VTD_IQH / 8], 9 * 16);
	TEST_ASSERT_EQ(viommu_stat(&u, "viommu_iotlb_invalidations"), 1);
	TEST_ASSERT_EQ(viommu_stat(&u, "viommu_waits"), 2);
	remote(&u, REMOTE_FLUSH, 0, 0);
	viommu_vm_destroy(&u);
	close(fd);
}

VIOMMU_TEST(state_errors)
{
	struct kvm_viommu_state state, bad;
	int i;

#define TRY_STATE(change)						\
do {									\
	bad = state;							\
	change;								\
	ASSERT_ERRNO(__viommu_set_state(t->fd, &bad), EINVAL);		\
} while (0)
	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	remote_enable_queue(t);
	viommu_get_state(t->fd, &state);
	TRY_STATE(bad.version = 0);
	TRY_STATE(bad.version = KVM_VIOMMU_STATE_VERSION + 1);
	for (i = 0; i < 32; i++)
		TRY_STATE(bad.flags = BIT(i));
	for (i = 0; i < 6 * 64; i++)
		TRY_STATE(bad.reserved[i / 64] = BIT_ULL(i % 64));
	for (i = 0; i < 64; i++) {
		TRY_STATE(bad.regs[VTD_CAP / 8] ^= BIT_ULL(i));
		TRY_STATE(bad.regs[VTD_ECAP / 8] ^= BIT_ULL(i));
		if (i < 4 || i > 18) {
			TRY_STATE(bad.regs[VTD_IQH / 8] |= BIT_ULL(i));
			TRY_STATE(bad.regs[VTD_IQT / 8] |= BIT_ULL(i));
		}
		if (i < 32 && !(BIT(i) & GSTS_ALL))
			TRY_STATE(bad.regs[VTD_GSTS / 8] |= BIT_ULL(32 + i));
	}
	/* None of them did anything. */
	viommu_get_state(t->fd, &bad);
	TEST_ASSERT(!memcmp(&state, &bad, sizeof(state)), "The state changed");
	remote(t, REMOTE_FLUSH, 0, 0);
	try_fault(t, SID, 0, KVM_VIOMMU_READ, 0, VTD_FAULT_ROOT_NP);
}

VIOMMU_TEST(reset)
{
	struct kvm_viommu_state fresh, state;
	struct viommu_vm u;
	u64 tables;
	int i;

	viommu_vm_create(&u, NULL);
	viommu_start(&u, KVM_VIOMMU_WORKER_NONE);
	viommu_get_state(u.fd, &fresh);
	viommu_vm_destroy(&u);

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	tables = viommu_alloc(t, 1);
	for (i = 0; i < 3; i++) {
		remote_start(t);
		remote(t, REMOTE_SET_ROOT, t->root, 0);
		remote_enable_queue(t);
		remote(t, REMOTE_COMMAND, VTD_GCMD_TE, 0);
		viommu_set_context(t, SID, DID, tables, 48);
		try_fault(t, SID, 0, KVM_VIOMMU_READ, 0, VTD_FAULT_READ);
		remote(t, REMOTE_ADD, VTD_QI_WAIT | VTD_QI_WAIT_IF, 0);
		remote(t, REMOTE_ADD, 3, 0);
		remote(t, REMOTE_SUBMIT, 0, 0);
		remote(t, REMOTE_IRQS, 0, 0);
		ASSERT_ERRNO(__viommu_reset(t->fd), 0);
		viommu_get_state(t->fd, &state);
		TEST_ASSERT(!memcmp(&state, &fresh, sizeof(state)),
			    "After a reset the state is another");
		check_translation(t, SID, 0x1234567, 0x1234567, 4096);
		vcpu_arch_set_entry_point(t->vcpu, reset_guest);
		viommu_run_to(t, VIOMMU_END_DONE);
		vcpu_arch_set_entry_point(t->vcpu, remote_guest);
		TEST_ASSERT_EQ(t->sh->irqs[FAULT_VECTOR], i + 1);
		TEST_ASSERT_EQ(t->sh->irqs[INV_VECTOR], i + 1);
	}
}

/* --------------------------------------------------------- notifications */

static struct kvm_viommu_invalidation notes[1024];

/* What there is, from number @ack on; it was told by the eventfd. */
static int get_notes(struct viommu_vm *t, u64 ack, u32 room, u32 nr, u64 *next)
{
	struct kvm_viommu_invalidations inv = {
		.ack = ack,
		.nr = room,
		.entries = (u64)notes,
	};

	memset(notes, 0xee, sizeof(notes));
	if (ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv))
		return errno;
	TEST_ASSERT(inv.nr == nr, "%u records, not %u", inv.nr, nr);
	if (next)
		*next = inv.next;
	return 0;
}

static void check_note(struct kvm_viommu_invalidation *n, u64 iova, u64 last,
		       int domain, int sid)
{
	u32 flags = (domain >= 0 ? KVM_VIOMMU_INV_DOMAIN : 0) |
		    (sid >= 0 ? KVM_VIOMMU_INV_DEVICE : 0);

	TEST_ASSERT(n->iova == iova && n->last == last && n->flags == flags &&
		    (domain < 0 || n->domain == domain) &&
		    (sid < 0 || n->sid == sid),
		    "0x%lx to 0x%lx domain 0x%x device 0x%x flags %u; not 0x%lx to 0x%lx domain %d device %d",
		    (u64)n->iova, (u64)n->last, n->domain, n->sid, n->flags,
		    iova, last, domain, sid);
}

static bool event_is_set(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	u64 count;

	if (poll(&p, 1, 0) != 1)
		return false;
	TEST_ASSERT_EQ(read(fd, &count, 8), 8);
	return true;
}

/* A unit with a queue and translation, and a VMM that wants to be told. */
static int notify_create(struct viommu_vm *t)
{
	s32 fd = eventfd(0, EFD_NONBLOCK);

	remote_create_unit(t, MAX_CAP, MAX_ECAP, DEFAULT_HAW);
	remote_enable_queue(t);
	remote(t, REMOTE_FLUSH, 0, 0);
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, &fd), 0);
	return fd;
}

VIOMMU_TEST(notify_records)
{
	const u64 size = 4096ull << MAMV;
	u64 next, ack = 0;
	int fd, i;

	fd = notify_create(t);
	TEST_ASSERT(!event_is_set(fd), "Told of nothing");

#define CHECK_NOTE(iova, last, domain, sid)				\
do {									\
	TEST_ASSERT(event_is_set(fd), "Not told");			\
	ASSERT_ERRNO(get_notes(t, ack, 10, 1, &next), 0);		\
	TEST_ASSERT_EQ(next, ack + 1);					\
	check_note(notes, iova, last, domain, sid);			\
	ack = next;							\
	ASSERT_ERRNO(get_notes(t, ack, 10, 0, &next), 0);		\
	TEST_ASSERT_EQ(next, ack);					\
	TEST_ASSERT(!event_is_set(fd), "Told of nothing");		\
} while (0)
#define CHECK_DESCRIPTOR(lo, hi, ...)					\
do {									\
	remote(t, REMOTE_ADD, lo, hi);					\
	remote(t, REMOTE_SUBMIT, 0, 0);					\
	CHECK_NOTE(__VA_ARGS__);					\
} while (0)
	CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_GLOBAL), 0, 0, ~0ull, -1, -1);
	CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_GLOBAL) | VTD_QI_IOTLB_DID(5),
			 0x5000, 0, ~0ull, -1, -1);
	CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(5),
			 0x5000, 0, ~0ull, 5, -1);
	CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(0xffff),
			 0, 0, ~0ull, 0xffff, -1);
	for (i = 0; i <= MAMV; i++) {
		CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(i),
				 size | i, size, size + (4096ull << i) - 1, i, -1);
		/* What the mask covers is not looked at. */
		CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(i),
				 (2 * size - 4096) | VTD_QI_IOTLB_IH | i,
				 2 * size - (4096ull << i), 2 * size - 1, i, -1);
		CHECK_DESCRIPTOR(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(i),
				 (~0xfffull) | i, -(4096ull << i), ~0ull, i, -1);
	}
	CHECK_DESCRIPTOR(VTD_QI_CONTEXT(VTD_GLOBAL), 0, 0, ~0ull, -1, -1);
	/* Devices may have been in the domain before. */
	CHECK_DESCRIPTOR(VTD_QI_CONTEXT(VTD_DOMAIN) | VTD_QI_CC_DID(7), 0,
			 0, ~0ull, -1, -1);
	CHECK_DESCRIPTOR(VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_DID(7) |
			 VTD_QI_CC_SID(SID), 0, 0, ~0ull, -1, SID);
	CHECK_DESCRIPTOR(VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_SID(0xffff), 0,
			 0, ~0ull, -1, 0xffff);
	/* A function mask: several devices, which one record cannot name. */
	for (i = 1; i <= 3; i++)
		CHECK_DESCRIPTOR(VTD_QI_CONTEXT(VTD_DEVICE) | VTD_QI_CC_DID(7) |
				 VTD_QI_CC_SID(SID) | VTD_QI_CC_FM(i), 0,
				 0, ~0ull, -1, -1);

	/* Whatever makes translations another. */
	remote(t, REMOTE_COMMAND, VTD_GCMD_SRTP, 0);
	CHECK_NOTE(0, ~0ull, -1, -1);
	remote(t, REMOTE_COMMAND, 0, VTD_GCMD_TE);
	CHECK_NOTE(0, ~0ull, -1, -1);
	remote(t, REMOTE_COMMAND, VTD_GCMD_TE, 0);
	CHECK_NOTE(0, ~0ull, -1, -1);

	/* Without the queue. */
	remote(t, REMOTE_COMMAND, 0, VTD_GCMD_QIE);
	remote(t, REMOTE_WRITE64, VTD_CCMD,
	       VTD_CCMD_ICC | VTD_CCMD_CIRG(VTD_GLOBAL));
	CHECK_NOTE(0, ~0ull, -1, -1);
	remote(t, REMOTE_WRITE64, VTD_CCMD,
	       VTD_CCMD_ICC | VTD_CCMD_CIRG(VTD_DEVICE) | VTD_CCMD_SID(SID));
	CHECK_NOTE(0, ~0ull, -1, SID);
	remote(t, REMOTE_WRITE64, VTD_CCMD,
	       VTD_CCMD_ICC | VTD_CCMD_CIRG(VTD_DEVICE) | VTD_CCMD_SID(SID) |
	       VTD_CCMD_FM(3));
	CHECK_NOTE(0, ~0ull, -1, -1);
	remote(t, REMOTE_WRITE64, VTD_IVA, 0x7000 | VTD_QI_IOTLB_AM(2));
	remote(t, REMOTE_WRITE64, VTD_IOTLB, VTD_IOTLB_IVT |
	       VTD_IOTLB_IIRG(VTD_PAGES) | VTD_IOTLB_DID(9));
	CHECK_NOTE(0x4000, 0x7fff, 9, -1);
	/* What is not done is not told. */
	remote(t, REMOTE_WRITE64, VTD_CCMD, VTD_CCMD_ICC);
	remote(t, REMOTE_WRITE64, VTD_IOTLB, VTD_IOTLB_IVT);
	TEST_ASSERT(!event_is_set(fd), "Told of nothing");
	close(fd);
}

VIOMMU_TEST(notify_wait)
{
	struct kvm_viommu_invalidations inv = { .nr = 10, .entries = -4096ull };
	u64 next, ack = 0, base, head;
	int fd, i;

	fd = notify_create(t);
	base = t->sh->queue.tail;
	/* With nothing before it, it completes. */
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	TEST_ASSERT_EQ(t->sh->status, t->sh->queue.seq);
	base += 16;

	for (i = 0; i < 4; i++)
		remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_DOMAIN) |
		       VTD_QI_IOTLB_DID(i), 0);
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	head = base + 4 * 16;
	TEST_ASSERT(event_is_set(fd), "Not told");
#define CHECK_WAITING(yes)						\
do {									\
	remote_read(t);							\
	TEST_ASSERT_EQ(reg64(t, VTD_IQH), head);			\
	TEST_ASSERT_EQ(t->sh->status != t->sh->queue.seq, yes);		\
} while (0)
	CHECK_WAITING(true);
	/* Neither looking at them nor a part of them is enough. */
	ASSERT_ERRNO(get_notes(t, 0, 0, 0, &next), 0);
	TEST_ASSERT_EQ(next, 0);
	ASSERT_ERRNO(get_notes(t, 0, 3, 3, &next), 0);
	TEST_ASSERT_EQ(next, 3);
	for (i = 0; i < 3; i++)
		check_note(&notes[i], 0, ~0ull, i, -1);
	TEST_ASSERT_EQ(notes[3].flags, 0xeeeeeeee);
	CHECK_WAITING(true);
	ASSERT_ERRNO(get_notes(t, 3, 10, 1, &next), 0);
	TEST_ASSERT_EQ(next, 4);
	check_note(&notes[0], 0, ~0ull, 3, -1);
	CHECK_WAITING(true);
	/* What is wrong changes nothing: an old number, one to come. */
	ASSERT_ERRNO(get_notes(t, 2, 10, 0, NULL), EINVAL);
	ASSERT_ERRNO(get_notes(t, 5, 10, 0, NULL), EINVAL);
	CHECK_WAITING(true);
	/* Submitting more does not help. */
	remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_GLOBAL), 0);
	remote(t, REMOTE_SUBMIT, 0, 0);
	CHECK_WAITING(true);
	TEST_ASSERT(!event_is_set(fd), "Told of nothing");
	/* Now it completes, and what is behind it is done. */
	ASSERT_ERRNO(get_notes(t, 4, 10, 0, &next), 0);
	head += 2 * 16;
	CHECK_WAITING(false);
	TEST_ASSERT(event_is_set(fd), "Not told");
	ASSERT_ERRNO(get_notes(t, 4, 10, 1, &next), 0);
	check_note(&notes[0], 0, ~0ull, -1, -1);
	ack = next;

	/* A VMM that no longer wants to know holds up nothing. */
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	CHECK_WAITING(true);
	i = -1;
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, &i), 0);
	head += 16;
	CHECK_WAITING(false);
	for (i = 0; i < 10; i++) {
		remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_GLOBAL), 0);
		remote(t, REMOTE_FLUSH, 0, 0);
	}
	ASSERT_ERRNO(get_notes(t, 0, 10, 0, NULL), 0);

	/* Nor is it told of what was before when it wants again, from 0 on. */
	ack = 0;
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, &fd), 0);
	TEST_ASSERT(!event_is_set(fd), "Told of nothing");
	remote(t, REMOTE_FLUSH, 0, 0);
	ASSERT_ERRNO(get_notes(t, ack, 10, 0, &next), 0);
	TEST_ASSERT_EQ(next, ack);

	/* The array cannot be written: nothing is lost. */
	remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(77), 0);
	remote(t, REMOTE_SUBMIT, 0, 0);
	inv.ack = ack;
	ASSERT_ERRNO(ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv) ? errno : 0,
		     EFAULT);
	ASSERT_ERRNO(get_notes(t, ack, 10, 1, &next), 0);
	check_note(&notes[0], 0, ~0ull, 77, -1);
	close(fd);
}

/* Domains that the guest invalidated, and the VMM was not told of. */
static bool untold[2048];

/* A VMM gets what there is, from number @ack on; returns the next number. */
static u64 tell(struct viommu_vm *t, u64 ack, u32 *nr, u32 *nr_global)
{
	struct kvm_viommu_invalidations inv = {
		.ack = ack,
		.nr = ARRAY_SIZE(notes),
		.entries = (u64)notes,
	};
	u32 i;

	TEST_ASSERT(!ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv),
		    "KVM_VIOMMU_INVALIDATIONS: %s", strerror(errno));
	for (i = 0; i < inv.nr; i++) {
		if (notes[i].flags) {
			check_note(&notes[i], 0, ~0ull, notes[i].domain, -1);
			untold[notes[i].domain] = false;
			continue;
		}
		check_note(&notes[i], 0, ~0ull, -1, -1);
		memset(untold, 0, sizeof(untold));
		++*nr_global;
	}
	*nr += inv.nr;
	return inv.next;
}

static void invalidate_domain(struct viommu_vm *t, u16 did)
{
	remote(t, REMOTE_ADD, VTD_QI_IOTLB(VTD_DOMAIN) | VTD_QI_IOTLB_DID(did), 0);
	untold[did] = true;
}

/* A queue for 1024 of them, and a VMM that is to be told. */
static int notify_create_large(struct viommu_vm *t)
{
	u64 queue;
	int fd;

	fd = notify_create(t);
	queue = viommu_alloc(t, 4);
	remote(t, REMOTE_COMMAND, 0, VTD_GCMD_QIE);
	t->sh->queue.base = queue;
	t->sh->queue.size = 4 * 4096;
	t->sh->queue.tail = 0;
	remote(t, REMOTE_WRITE64, VTD_IQT, 0);
	remote(t, REMOTE_WRITE64, VTD_IQA, queue | 2);
	remote(t, REMOTE_COMMAND, VTD_GCMD_QIE, 0);
	return fd;
}

/* The guest waits, and is not told before the VMM is. */
static void tell_all(struct viommu_vm *t, u64 ack, u32 *nr, u32 *nr_global)
{
	u64 next = ack;
	int i, rounds = 0;

	remote(t, REMOTE_ADD_WAIT, 0, 0);
	while (t->sh->status != t->sh->queue.seq) {
		TEST_ASSERT(++rounds < 10, "The wait is never complete");
		ack = next;
		next = tell(t, ack, nr, nr_global);
	}
	for (i = 0; i < ARRAY_SIZE(untold); i++)
		TEST_ASSERT(!untold[i], "The VMM was not told of domain 0x%x", i);
	ASSERT_ERRNO(get_notes(t, next, 10, 0, NULL), 0);
}

/* More than is kept: it is enough to tell that everything is invalid. */
VIOMMU_TEST(notify_overflow)
{
	u32 nr, nr_global;
	int fd, i, n;

	fd = notify_create_large(t);
	for (n = 250; n <= 1000; n += n < 260 ? 1 : 147) {
		nr = 0;
		nr_global = 0;
		for (i = 0; i < n; i++)
			invalidate_domain(t, i);
		remote(t, REMOTE_SUBMIT, 0, 0);
		TEST_ASSERT(event_is_set(fd), "Not told");
		tell_all(t, 0, &nr, &nr_global);
		TEST_ASSERT(nr == n ? !nr_global : (nr < n && nr_global == 1),
			    "%u records of %d, %u of them global", nr, n,
			    nr_global);
		TEST_ASSERT(nr < n || n < 300, "%u records were kept", n);
		/* Numbers begin at 0. */
		ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0,
					  &(s32){ fd }), 0);
		event_is_set(fd);
	}
	close(fd);
}

/*
 * What comes while the VMM deals with as many as are kept must not be lost: its
 * acknowledgment is only of what it has seen.
 */
VIOMMU_TEST(notify_overflow_seen)
{
	u32 nr = 0, nr_global = 0;
	u64 next = 0;
	int fd, i, n;

	fd = notify_create_large(t);
	for (n = 250; n <= 600; n += n < 260 ? 1 : 85) {
		/* See each as it comes, but do not acknowledge any. */
		for (i = 0; i < n; i++) {
			invalidate_domain(t, i);
			remote(t, REMOTE_SUBMIT, 0, 0);
			next = tell(t, 0, &nr, &nr_global);
		}
		/* Once more, which was not seen. */
		invalidate_domain(t, 0);
		invalidate_domain(t, 2000);
		remote(t, REMOTE_SUBMIT, 0, 0);
		tell_all(t, next, &nr, &nr_global);
		ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0,
					  &(s32){ fd }), 0);
	}
	close(fd);
}

/* A VMM that only asks when it was told to, and acknowledges separately. */
VIOMMU_TEST(notify_overflow_told)
{
	struct kvm_viommu_invalidations ack = { };
	u32 nr = 0, nr_global = 0;
	int fd, i, rounds = 0;

	fd = notify_create_large(t);
	for (i = 0; i < 700; i++)
		invalidate_domain(t, i);
	remote(t, REMOTE_ADD_WAIT, 0, 0);
	while (t->sh->status != t->sh->queue.seq) {
		TEST_ASSERT(++rounds < 10, "The wait is never complete");
		TEST_ASSERT(event_is_set(fd),
			    "The guest waits, and the VMM was not told; %u records so far",
			    nr);
		ack.ack = tell(t, ack.ack, &nr, &nr_global);
		ack.nr = 0;
		TEST_ASSERT(!ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &ack),
			    "KVM_VIOMMU_INVALIDATIONS: %s", strerror(errno));
	}
	for (i = 0; i < ARRAY_SIZE(untold); i++)
		TEST_ASSERT(!untold[i], "The VMM was not told of domain 0x%x", i);
	close(fd);
}

/* Notifications while writes are polled for; a VMM that keeps up. */
static void notify_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	int i;

	guest_init();
	guest_get_busy();
	GUEST_SYNC(1);
	WRITE_ONCE(sh->stage, 1);
	for (i = 0; i < 2000; i++) {
		guest_queue_add(VTD_QI_IOTLB(VTD_DOMAIN) |
				VTD_QI_IOTLB_DID(i & 0xffff), 0);
		guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) |
				VTD_QI_IOTLB_DID(DID), (u64)i << 12);
		guest_queue_add_wait();
		guest_queue_submit();
		/* Only the VMM can make it complete. */
		GUEST_WAIT(guest_queue_completed());
		__GUEST_ASSERT(READ_ONCE(sh->count) == 2 * (i + 1),
			       "wait %d completed after %lu", i,
			       READ_ONCE(sh->count));
	}
	GUEST_DONE();
}

VIOMMU_MODE_TEST(notify)
{
	struct kvm_viommu_invalidations inv = { .entries = (u64)notes };
	s32 fd = eventfd(0, 0);
	struct pollfd p = { .fd = fd, .events = POLLIN };
	u64 seen = 0, count;
	u32 i;

	mode_create(t, worker, notify_guest);
	viommu_run_to(t, 1);
	ASSERT_ERRNO(__viommu_set(t->fd, KVM_DEV_VIOMMU_GRP_NOTIFY, 0, &fd), 0);
	viommu_thread_start(t);
	while (seen < 4000) {
		TEST_ASSERT(poll(&p, 1, VIOMMU_TIMEOUT_S * 1000) == 1,
			    "Not told after %lu", seen);
		TEST_ASSERT_EQ(read(fd, &count, 8), 8);
		inv.ack = inv.next;
		inv.nr = ARRAY_SIZE(notes);
		TEST_ASSERT(!ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv),
			    "KVM_VIOMMU_INVALIDATIONS");
		for (i = 0; i < inv.nr; i++, seen++) {
			if (seen & 1)
				check_note(&notes[i], seen / 2 << 12,
					   (seen / 2 << 12) + 0xfff, DID, -1);
			else
				check_note(&notes[i], 0, ~0ull,
					   (seen / 2) & 0xffff, -1);
		}
		WRITE_ONCE(t->sh->count, seen);
		/* Acknowledge. */
		inv.ack = inv.next;
		inv.nr = 0;
		TEST_ASSERT(!ioctl(t->fd, KVM_VIOMMU_INVALIDATIONS, &inv),
			    "KVM_VIOMMU_INVALIDATIONS");
	}
	TEST_ASSERT_EQ(viommu_thread_join(t), VIOMMU_END_DONE);
	TEST_ASSERT_EQ(seen, 4000);
	mode_check(t, worker, 1);
	close(fd);
}

/* --------------------------------------------------------- direct mode */

VIOMMU_TEST(poll_us)
{
	static const char * const bad[] = {
		"0", "1000001", "-1", "4294967296", "x", "", "1x",
	};
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(bad); i++)
		ASSERT_ERRNO(-__viommu_set_param("viommu_poll_us", bad[i]),
			     *bad[i] == '4' ? ERANGE : *bad[i] ? EINVAL : 0);
	viommu_set_param("viommu_poll_us", 1);
	TEST_ASSERT_EQ(viommu_param("viommu_poll_us", 0), 1);
	viommu_set_param("viommu_poll_us", 1000000);
	TEST_ASSERT_EQ(viommu_param("viommu_poll_us", 0), 1000000);
}

#define NR_SUBMISSIONS	20000

static void busy_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	u64 i;

	guest_init();
	GUEST_SYNC(1);
	for (i = 0; i < NR_SUBMISSIONS; i++) {
		guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID),
				i << 12);
		guest_queue_flush();
		sh->count++;
	}
	GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
	guest_check64(VTD_IQH, sh->queue.tail);
	GUEST_SYNC(2);
	GUEST_DONE();
}

/* A guest that submits all the time does so without exits. */
VIOMMU_MODE_TEST(busy)
{
	u64 traps, exits;

	mode_create(t, worker, busy_guest);
	viommu_run_to(t, 1);
	traps = viommu_stat(t, "viommu_traps");
	exits = viommu_vcpu_stat(t, "exits");
	viommu_run_to(t, 2);
	traps = viommu_stat(t, "viommu_traps") - traps;
	exits = viommu_vcpu_stat(t, "exits") - exits;
	pr_info("# %u submissions: %lu trapped, %lu exits\n", NR_SUBMISSIONS,
		traps, exits);
	/* Another of each for guest_init(). */
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"),
		       NR_SUBMISSIONS + 1);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_waits"), NR_SUBMISSIONS + 2);
	if (worker == KVM_VIOMMU_WORKER_NONE) {
		TEST_ASSERT_EQ(traps, NR_SUBMISSIONS);
		TEST_ASSERT_EQ(viommu_stat(t, "viommu_polls"), 0);
	} else {
		TEST_ASSERT(traps < NR_SUBMISSIONS / 20,
			    "%lu of %u submissions were trapped", traps,
			    NR_SUBMISSIONS);
		TEST_ASSERT(viommu_stat(t, "viommu_hits") +
			    viommu_stat(t, "viommu_traps") >= NR_SUBMISSIONS,
			    "Neither polled nor trapped");
	}
	mode_check(t, worker, 1);
	TEST_ASSERT_EQ(viommu_vcpu_stat(t, "mmio_exits"), 0);
}

static void idle_guest(void)
{
	int i, j;

	guest_init();
	for (i = 1;; i++) {
		for (j = 0; j < 64; j++)
			guest_queue_flush();
		GUEST_SYNC(i);
		/* The first write after that. */
		guest_queue_flush();
		GUEST_SYNC(100 + i);
	}
}

/* A guest that does nothing costs nothing, and can begin anew. */
VIOMMU_MODE_TEST(idle)
{
	u64 polls, traps, to_direct;
	int i;

	if (worker == KVM_VIOMMU_WORKER_NONE)
		return;
	viommu_set_param("viommu_poll_us", 50000);
	mode_create(t, worker, idle_guest);
	for (i = 1; i <= 10; i++) {
		viommu_run_to(t, i);
		to_direct = viommu_stat(t, "viommu_to_direct");
		TEST_ASSERT(to_direct >= i, "%lu times in direct mode, not %u",
			    to_direct, i);
		VIOMMU_ASSERT_WAIT(viommu_stat(t, "viommu_to_trapped") == to_direct,
				   "An idle guest stays in direct mode");
		/* Whoever polled finishes what it is doing, then sleeps. */
		usleep(1000);
		polls = viommu_stat(t, "viommu_polls");
		usleep(50000);
		TEST_ASSERT_EQ(viommu_stat(t, "viommu_polls"), polls);
		traps = viommu_stat(t, "viommu_traps");
		viommu_run_to(t, 100 + i);
		TEST_ASSERT_EQ(viommu_stat(t, "viommu_traps"), traps + 1);
		TEST_ASSERT_EQ(viommu_stat(t, "viommu_to_direct"), to_direct);
	}
}

static void read_only_guest(void)
{
	static const u16 data64[] = { VTD_RTADDR, VTD_IVA };
	static const u16 data32[] = {
		VTD_FEDATA, VTD_FEADDR, VTD_FEUADDR, VTD_IEDATA, VTD_IEADDR,
		VTD_IEUADDR,
	};
	const struct vtd_reg *reg;
	unsigned int i, j;
	u64 old;

	guest_init();
	for (reg = vtd_regs; reg < vtd_regs + ARRAY_SIZE(vtd_regs); reg++) {
		if (reg->rw || reg->offset == VTD_GCMD)
			continue;
		for (j = 0; j < ARRAY_SIZE(patterns); j++) {
			guest_get_busy();
			/* Otherwise it may move while it is looked at. */
			guest_check64(VTD_IQH, GUEST_SHARED->queue.tail);
			old = guest_read_reg(reg);
			guest_write_reg(reg, patterns[j]);
			if (reg->len == 4)
				guest_check32(reg->offset, ~0, old);
			else
				guest_check64(reg->offset, old);
			guest_queue_flush();
		}
	}
	/* Half of one. */
	guest_get_busy();
	guest_write32(VTD_CAP + 4, 0);
	guest_check32(VTD_CAP + 4, ~0, GUEST_SHARED->arg[0] >> 32);
	guest_check64(VTD_CAP, GUEST_SHARED->arg[0]);

	/* Data, of which reserved bits are put right. */
	for (j = 0; j < ARRAY_SIZE(patterns); j++) {
		for (i = 0; i < ARRAY_SIZE(data64); i++) {
			reg = guest_find_reg(data64[i]);
			guest_get_busy();
			guest_write64(reg->offset, patterns[j]);
			guest_check64(reg->offset, patterns[j] & reg->rw);
		}
		for (i = 0; i < ARRAY_SIZE(data32); i++) {
			reg = guest_find_reg(data32[i]);
			guest_get_busy();
			guest_write32(reg->offset, patterns[j]);
			guest_check32(reg->offset, ~0, patterns[j] & reg->rw);
		}
		/* Some bits of control registers, and all of the tail's. */
		guest_write32(VTD_FECTL, patterns[j]);
		guest_check32(VTD_FECTL, ~0, patterns[j] & VTD_CTL_IM);
		guest_write32(VTD_IECTL, patterns[j]);
		guest_check32(VTD_IECTL, ~0, patterns[j] & VTD_CTL_IM);
		guest_queue_add_wait();
		guest_write64(VTD_IQT, GUEST_SHARED->queue.tail |
			      (patterns[j] & ~0x7fff0ull));
		GUEST_WAIT(guest_queue_completed());
		guest_check64(VTD_IQT, GUEST_SHARED->queue.tail);
	}
	/* Where there is nothing: it is not part of any state. */
	guest_get_busy();
	for (i = 0; i < 4096; i += 8) {
		if (!guest_find_reg(i) && !guest_find_reg(i + 4))
			guest_write64(i, ~0ull);
	}
	guest_queue_flush();
	guest_queue_flush();
	GUEST_DONE();
}

/* What cannot be written is not kept from being written in direct mode. */
VIOMMU_MODE_TEST(read_only)
{
	struct kvm_viommu_state state;
	unsigned int i;

	mode_create(t, worker, read_only_guest);
	t->sh->arg[0] = MAX_CAP;
	viommu_run_to(t, VIOMMU_END_DONE);
	viommu_get_state(t->fd, &state);
	for (i = 0; i < VTD_END; i += 8) {
		if (!guest_find_reg(i) && !guest_find_reg(i + 4))
			TEST_ASSERT(!state.regs[i / 8], "0x%x is 0x%lx", i,
				    (u64)state.regs[i / 8]);
	}
	for (; i < KVM_VIOMMU_NR_REGS * 8; i += 8)
		TEST_ASSERT_EQ(state.regs[i / 8], 0);
	TEST_ASSERT_EQ(state.regs[VTD_CAP / 8], MAX_CAP);
	TEST_ASSERT_EQ(viommu_state32(&state, VTD_FSTS), 0);
	TEST_ASSERT_EQ(state.root, t->root);
	mode_check(t, worker, 1);
}

/* Bursts, with pauses in which nobody polls; arg[0] is for how long. */
static void bursts_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	u64 start;
	int i, j;

	guest_init();
	for (i = 0; i < sh->arg[1]; i++) {
		for (j = 0; j < 16; j++) {
			guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) |
					VTD_QI_IOTLB_DID(j), (u64)i << 12);
			/* Not always wait for each. */
			if ((i + j) & 1)
				guest_queue_flush();
			else
				guest_queue_submit();
		}
		guest_queue_flush();
		guest_check64(VTD_IQH, sh->queue.tail);
		GUEST_ASSERT_EQ(guest_read32(VTD_FSTS), 0);
		sh->count = i;
		start = rdtsc();
		while (rdtsc() - start < sh->arg[0] * (i % 3))
			cpu_relax();
	}
	GUEST_DONE();
}

static u64 tsc_khz(struct viommu_vm *t)
{
	return __vcpu_ioctl(t->vcpu, KVM_GET_TSC_KHZ, NULL);
}

VIOMMU_MODE_TEST(bursts)
{
	static const unsigned int poll_us[] = { 1, 50, 1000, 5000 };
	u64 most = 0, n;
	unsigned int i;

	for (i = 0; i < ARRAY_SIZE(poll_us); i++) {
		viommu_set_param("viommu_poll_us", poll_us[i]);
		mode_create(t, worker, bursts_guest);
		t->sh->arg[0] = (poll_us[i] + 100) * tsc_khz(t) / 1000;
		t->sh->arg[1] = poll_us[i] < 5000 ? 300 : 100;
		viommu_run_to(t, VIOMMU_END_DONE);
		TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"),
			       16 * t->sh->arg[1] + 1);
		n = viommu_stat(t, "viommu_to_trapped");
		most = n > most ? n : most;
		pr_info("# polling %u us: %lu times in direct mode, %lu back\n",
			poll_us[i], viommu_stat(t, "viommu_to_direct"), n);
		viommu_vm_destroy(t);
	}
	t->vm = NULL;
	/* The machine may be slow, but there are pauses that are long enough. */
	if (worker)
		TEST_ASSERT(most >= 10, "At most %lu changes of the mode", most);
}

/* ------------------------------------------------- vCPUs that do not wait */

/* Submit until the unit is gone, or the host says so. */
static void endless_guest(void)
{
	struct viommu_shared *sh = GUEST_SHARED;
	u64 i;

	do {
		guest_init();
		WRITE_ONCE(sh->stage, 1);
		for (i = 0; !READ_ONCE(sh->stop); i++) {
			guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) |
					VTD_QI_IOTLB_DID(DID), i << 12);
			guest_queue_add_wait();
			guest_queue_submit();
			/* As Linux does, look for errors meanwhile. */
			while (!guest_queue_completed() &&
			       READ_ONCE(sh->stop) != 2)
				GUEST_ASSERT(!guest_read32(VTD_FSTS) ||
					     READ_ONCE(sh->stop) == 2);
			WRITE_ONCE(sh->count, sh->count + 1);
		}
		/* A unit that is not the one of before. */
	} while (READ_ONCE(sh->stop) == 2 && !(sh->stop = 0));
	GUEST_DONE();
}

static void wait_progress(struct viommu_vm *t, u64 n)
{
	u64 count = READ_ONCE(t->sh->count);

	VIOMMU_ASSERT_WAIT(READ_ONCE(t->sh->count) >= count + n ||
			   READ_ONCE(t->done), "The guest stands still at %lu",
			   READ_ONCE(t->sh->count));
	TEST_ASSERT(!READ_ONCE(t->done), "The vCPU ended: %ld", t->end);
}

static void endless_start(struct viommu_vm *t, u64 worker)
{
	mode_create(t, worker, endless_guest);
	viommu_thread_start(t);
	viommu_wait_stage(t, 1);
	wait_progress(t, 100);
	mode_check(t, worker, 1);
}

static void endless_stop(struct viommu_vm *t)
{
	wait_progress(t, 100);
	WRITE_ONCE(t->sh->stop, 1);
	TEST_ASSERT_EQ(viommu_thread_join(t), VIOMMU_END_DONE);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_queue_errors"), 0);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_faults"), 0);
	TEST_ASSERT_EQ(viommu_vcpu_stat(t, "mmio_exits"), 0);
}

/* The VMM saves and translates at any time, and that is not noticed. */
VIOMMU_MODE_TEST(state_while_busy)
{
	struct kvm_viommu_translate tr;
	struct kvm_viommu_state state;
	int i;

	endless_start(t, worker);
	for (i = 0; i < 300; i++) {
		viommu_get_state(t->fd, &state);
		TEST_ASSERT_EQ(viommu_state32(&state, VTD_GSTS), GSTS_ALL);
		TEST_ASSERT_EQ(viommu_state32(&state, VTD_FSTS), 0);
		TEST_ASSERT_EQ(state.regs[VTD_IQH / 8], state.regs[VTD_IQT / 8]);
		TEST_ASSERT_EQ(state.root, t->root);
		ASSERT_ERRNO(__viommu_translate(t->fd, SID, 0, KVM_VIOMMU_READ,
						KVM_VIOMMU_TRANSLATE_QUIET, &tr),
			     EFAULT);
		TEST_ASSERT_EQ(tr.fault, VTD_FAULT_ROOT_NP);
		if (i % 3)
			wait_progress(t, 10);
	}
	mode_check(t, worker, 50);
	endless_stop(t);
}

/* Memslots come and go, one of them with the status in it. */
VIOMMU_MODE_TEST(memslots)
{
	const u64 gpa = 0x60000000, size = 0x200000;
	void *mem;
	int i;

	mem = mmap(NULL, size, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(mem != MAP_FAILED, "mmap()");
	endless_start(t, worker);
	for (i = 0; i < 200; i++) {
		vm_set_user_memory_region(t->vm, RO_SLOT, i & 1 ?
					  KVM_MEM_LOG_DIRTY_PAGES : 0, gpa, size,
					  mem);
		if (!(i % 3))
			vm_set_user_memory_region(t->vm, RO_SLOT, i & 1 ? 0 :
						  KVM_MEM_LOG_DIRTY_PAGES, gpa,
						  size, mem);
		vm_set_user_memory_region(t->vm, RO_SLOT, 0, gpa, 0, mem);
		if (!(i % 7))
			wait_progress(t, 10);
	}
	/* The one that has all of it. */
	for (i = 0; i < 50; i++) {
		vm_mem_region_set_flags(t->vm, VIOMMU_POOL_SLOT,
					i & 1 ? 0 : KVM_MEM_LOG_DIRTY_PAGES);
		wait_progress(t, 1);
	}
	endless_stop(t);
	munmap(mem, size);
}

/* The unit goes away while the guest uses it: its registers are unbacked MMIO. */
VIOMMU_MODE_TEST(close)
{
	struct kvm_run *run;
	u64 addr;
	int i;

	endless_start(t, worker);
	for (i = 0; i < 20; i++) {
		wait_progress(t, 20 * i + 1);
		viommu_close(t);
		TEST_ASSERT_EQ(viommu_thread_join(t), KVM_EXIT_MMIO);
		run = t->vcpu->run;
		addr = run->mmio.phys_addr - VIOMMU_BASE;
		TEST_ASSERT(run->mmio.is_write ? addr == VTD_IQT :
						 addr == VTD_FSTS,
			    "%s of 0x%llx", run->mmio.is_write ? "write" : "read",
			    run->mmio.phys_addr);
		TEST_ASSERT_EQ(run->mmio.len, 4);
		/* Another unit, in its reset state; the guest begins anew. */
		memset(run->mmio.data, 0, 8);
		viommu_start(t, i & 1 ? worker : KVM_VIOMMU_WORKER_NONE);
		t->sh->stage = 0;
		t->sh->stop = 2;
		viommu_thread_start(t);
		viommu_wait_stage(t, 1);
	}
	wait_progress(t, 100);
	WRITE_ONCE(t->sh->stop, 1);
	TEST_ASSERT_EQ(viommu_thread_join(t), VIOMMU_END_DONE);
}

VIOMMU_MODE_TEST(two_vms)
{
	struct viommu_vm other;

	endless_start(t, worker);
	endless_start(&other, worker);
	wait_progress(t, 1000);
	wait_progress(&other, 1000);
	/* One ends, which the other does not notice. */
	endless_stop(&other);
	viommu_vm_destroy(&other);
	wait_progress(t, 1000);
	endless_start(&other, worker);
	viommu_close(&other);
	TEST_ASSERT_EQ(viommu_thread_join(&other), KVM_EXIT_MMIO);
	viommu_vm_destroy(&other);
	endless_stop(t);
	TEST_ASSERT_EQ(viommu_stat(t, "viommu_iotlb_invalidations"),
		       t->sh->count + 1);
}

/* How many VMs there are, by the module that they use; -1 if that is built in. */
static long nr_vms(void)
{
	const char *path = host_cpu_is_amd ? "/sys/module/kvm_amd/refcnt" :
					     "/sys/module/kvm_intel/refcnt";
	long n = -1;
	FILE *f;

	f = fopen(path, "r");
	if (!f)
		return -1;
	if (fscanf(f, "%ld", &n) != 1)
		n = -1;
	fclose(f);
	return n;
}

/* A VM lives as long as its unit does, and no longer. */
VIOMMU_MODE_TEST(lifetime)
{
	struct kvm_viommu_translate tr;
	long before = nr_vms();
	int i, fd;

	for (i = 0; i < 5; i++) {
		endless_start(t, worker);
		viommu_thread_stop(t);
		fd = dup(t->fd);
		viommu_vm_destroy(t);
		t->vm = NULL;
		ASSERT_ERRNO(__viommu_translate(fd, SID, 0, KVM_VIOMMU_READ,
						KVM_VIOMMU_TRANSLATE_QUIET, &tr),
			     EFAULT);
		/* There is no memory any more. */
		TEST_ASSERT_EQ(tr.fault, VTD_FAULT_ROOT_TABLE);
		if (before >= 0)
			TEST_ASSERT_EQ(nr_vms(), before + 1);
		close(fd);
		VIOMMU_ASSERT_WAIT(nr_vms() == before, "%ld VMs are left",
				   nr_vms() - before);
	}
}

/* Processes are killed with all that they have. */
VIOMMU_MODE_TEST(kill)
{
	long before = nr_vms();
	int i, status;
	pid_t pid;

	for (i = 0; i < 20; i++) {
		pid = fork();
		TEST_ASSERT(pid >= 0, "fork()");
		if (!pid) {
			struct viommu_vm other;

			endless_start(t, worker);
			if (i & 1)
				endless_start(&other, worker);
			if (i & 2)
				viommu_close(t);
			usleep(i * 500);
			raise(SIGKILL);
		}
		TEST_ASSERT_EQ(waitpid(pid, &status, 0), pid);
		TEST_ASSERT(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL,
			    "The VM ended with status 0x%x", status);
	}
	VIOMMU_ASSERT_WAIT(nr_vms() == before, "%ld VMs are left",
			   nr_vms() - before);
	/* Whoever polls is still there. */
	endless_start(t, worker);
	endless_stop(t);
}

static long saved_poll_us;
static pid_t main_pid;

/* Cases are processes of their own. */
static void restore_poll_us(void)
{
	if (getpid() == main_pid)
		viommu_set_param("viommu_poll_us", saved_poll_us);
}

int main(int argc, char *argv[])
{
	viommu_require();
	saved_poll_us = viommu_param("viommu_poll_us", 1000);
	main_pid = getpid();
	atexit(restore_poll_us);
	return test_harness_run(argc, argv);
}
