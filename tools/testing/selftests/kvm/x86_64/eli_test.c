// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that interrupts of assigned devices that are delivered without exits
 * (ELI) reach the guest, each once and as what it is, and that everything else
 * that goes through the guest's IDT is as it is without ELI: virtual interrupts
 * and their priorities, exceptions, INT n, what LIDT, SIDT and user space see.
 *
 * What ELI is known not to get right is left out: INT n at CPL 0 with a vector
 * that is that of an assigned interrupt in the host, or with vector 31; what
 * the guest reads from the page of its IDT; and what user space, not the guest,
 * writes there.
 */
#include <sys/mman.h>

#include "kvm_test_harness.h"
#include "eli_util.h"

#define DEV_VECTOR	0x91
#define DEV2_VECTOR	0x52
/*
 * Of a higher class than DEV_VECTOR: ELI leaves IRQs to the host whose order it
 * could not keep, and the second device has the higher vector in the host.
 */
#define HIGH_VECTOR	0xa1
#define LOW_VECTOR	0x41
#define MID_VECTOR	0x61
#define HIGH_VECTOR	0xb1
#define TIMER_VECTOR	0xec

#define ROUNDS		200

FIXTURE(eli_basic) {
	struct eli_vm ev;
};

FIXTURE_SETUP(eli_basic)
{
	memset(&self->ev, 0, sizeof(self->ev));
}

FIXTURE_TEARDOWN(eli_basic)
{
	TEST_ASSERT(!self->ev.sh->bad_frames,
		    "%u interrupts had a frame that no interrupt has",
		    self->ev.sh->bad_frames);
	eli_vm_destroy(&self->ev);
}

#define ELI_TEST(name)							\
static void __eli_##name(struct eli_vm *ev);				\
									\
TEST_F_TIMEOUT(eli_basic, name, ELI_CASE_TIMEOUT)			\
{									\
	__eli_##name(&self->ev);					\
}									\
static void __eli_##name(struct eli_vm *ev)

/* End a guest that waits in eli_guest_idle(2), or later, for the last step. */
static void eli_finish(struct eli_vm *ev, u32 go)
{
	eli_go(ev, go);
	TEST_ASSERT_EQ(eli_thread_join(&ev->thread[0]), ELI_END_DONE);
}

static void idle_guest(void)
{
	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	GUEST_DONE();
}

/* ------------------------------------------------------------- delivery */

/* All that left guest mode but for interrupts and the guard of the host. */
static s64 other_exits(struct eli_vm *ev)
{
	return eli_vcpu_stat(ev, 0, "exits") -
	       eli_vcpu_stat(ev, 0, "eli_reflect_limit") -
	       eli_vcpu_stat(ev, 0, "eli_reflect_gate") -
	       eli_vcpu_stat(ev, 0, "eli_reflect_event") -
	       eli_vcpu_stat(ev, 0, "eli_guard_nmi");
}

ELI_TEST(delivery)
{
	struct eli_dev *dev = eli_start(ev, idle_guest, DEV_VECTOR);
	u64 handled, n = 1000;
	s64 exits;
	u32 count;
	int i;

	eli_arm(ev, dev);
	handled = eli_irq_status(&dev->irq).handled;
	count = eli_host_count(ev, DEV_VECTOR);
	exits = other_exits(ev);
	for (i = 0; i < n; i++)
		eli_fire(ev, dev);
	exits = other_exits(ev) - exits;
	handled = eli_irq_status(&dev->irq).handled - handled;
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR) - count, n);
	pr_info("# of %lu interrupts, %lu through the host, %ld exits\n",
		n, handled, (long)exits);
	if (eli_on()) {
		u64 eoi = eli_param("eli_eoi", 1) ? 0 : n;

		/* The host has ticks, during which it takes interrupts. */
		TEST_ASSERT(handled <= n / 10,
			    "%lu of %lu interrupts went through the host",
			    handled, n);
		/* The counters are not read at once: -1 was seen. */
		TEST_ASSERT(exits <= (s64)(eoi + n / 4),
			    "%ld exits other than of interrupts of the host",
			    (long)exits);
	}
	eli_finish(ev, 1);
}

ELI_TEST(debugfs)
{
	struct eli_dev *dev = eli_start(ev, idle_guest, DEV_VECTOR);
	char path[128], text[4096];
	ssize_t n;
	int fd;

	eli_arm(ev, dev);
	eli_debugfs_path(ev, path, sizeof(path));
	fd = open(path, O_RDONLY);
	if (eli_on() && !access("/sys/kernel/debug/kvm", X_OK)) {
		TEST_ASSERT(fd >= 0, "%s is not there", path);
		n = read(fd, text, sizeof(text) - 1);
		TEST_ASSERT(n > 0, "%s says nothing", path);
	}
	if (fd >= 0)
		close(fd);
	eli_finish(ev, 1);
}

/* A vector from each class, the first and the last. */
ELI_TEST(vectors)
{
	struct eli_dev *dev = eli_start(ev, idle_guest, DEV_VECTOR);
	int vector, i;

	for (vector = 32; vector < 256; vector = vector < 240 ? vector + 13 :
						 vector + 1) {
		eli_route(ev, dev, 0, vector);
		for (i = 0; i < 3; i++)
			eli_fire(ev, dev);
	}
	for (i = 0, vector = 0; vector < 256; vector++)
		i += !!eli_host_count(ev, vector);
	TEST_ASSERT(i == 32, "%d different vectors arrived, not 32", i);
	eli_finish(ev, 1);
}

ELI_TEST(two_devices)
{
	struct eli_dev *dev = eli_start(ev, idle_guest, DEV_VECTOR), *dev2;
	u32 count[2];
	int i;

	dev2 = eli_dev_add(ev, 0, HIGH_VECTOR);
	eli_arm(ev, dev);
	eli_arm(ev, dev2);
	count[0] = eli_host_count(ev, DEV_VECTOR);
	count[1] = eli_host_count(ev, HIGH_VECTOR);
	for (i = 0; i < ROUNDS; i++) {
		eli_irq_fire(&dev->irq);
		eli_irq_fire(&dev2->irq);
		ELI_ASSERT_WAIT(eli_host_count(ev, DEV_VECTOR) ==
				count[0] + i + 1, "first device");
		ELI_ASSERT_WAIT(eli_host_count(ev, HIGH_VECTOR) ==
				count[1] + i + 1, "second device");
	}
	eli_wait_idle(ev);
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count[0] + ROUNDS);
	TEST_ASSERT_EQ(eli_host_count(ev, HIGH_VECTOR), count[1] + ROUNDS);
	eli_finish(ev, 1);
}

/* IRQs that a vCPU takes directly, at most. */
#define MAX_DIRECT	32

/*
 * The host has a second class of vectors then, which includes the one of the legacy
 * PIC's cascade, and IRQs of a class have to be of one in the guest, too.
 */
ELI_TEST(many_devices)
{
	u64 handled[MAX_DIRECT + 1], through = 0;
	struct eli_dev *dev;
	u32 vector, last = 0;
	int i, j;

	eli_pin(0);
	eli_vm_create(ev, 1, idle_guest);
	for (i = 0; i <= MAX_DIRECT; i++) {
		dev = eli_dev_add(ev, 0, DEV_VECTOR);
		vector = eli_irq_status(&dev->irq).vector;
		if (vector > last)
			last = vector;
		eli_route(ev, dev, 0, (vector & 0xf0) << 1 | (vector & 0xf));
	}
	TEST_ASSERT(last > 50, "the last vector in the host is %u", last);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);

	for (i = 0; i < MAX_DIRECT; i++)
		eli_arm(ev, &ev->dev[i]);
	for (i = 0; i <= MAX_DIRECT; i++)
		handled[i] = eli_irq_status(&ev->dev[i].irq).handled;
	for (j = 0; j < ROUNDS / 10; j++) {
		for (i = 0; i <= MAX_DIRECT; i++)
			eli_fire(ev, &ev->dev[i]);
	}
	for (i = 0; i <= MAX_DIRECT; i++)
		handled[i] = eli_irq_status(&ev->dev[i].irq).handled - handled[i];
	for (i = 0; i < MAX_DIRECT; i++)
		through += handled[i];
	pr_info("# of %u interrupts, %lu through the host, vectors up to %u\n",
		ROUNDS / 10 * MAX_DIRECT, through, last);
	if (eli_on()) {
		TEST_ASSERT(through <= ROUNDS / 10 * MAX_DIRECT / 10,
			    "%lu interrupts went through the host", through);
		/* There is one too many. */
		TEST_ASSERT_EQ(handled[MAX_DIRECT], ROUNDS / 10);
	}
	eli_finish(ev, 1);
}

static void halt_guest(void)
{
	eli_guest_init();
	eli_guest_stage(1);
	while (READ_ONCE(eli_shared.go) < 1) {
		eli_cli();
		WRITE_ONCE(eli_shared.arg[0], eli_shared.arg[0] + 1);
		asm volatile("sti; hlt" ::: "memory");
	}
	GUEST_DONE();
}

ELI_TEST(halt)
{
	struct eli_dev *dev = eli_start(ev, halt_guest, DEV_VECTOR);
	u64 halts;
	int i;

	for (i = 0; i < ROUNDS; i++) {
		halts = READ_ONCE(ev->sh->arg[0]);
		eli_fire(ev, dev);
		ELI_ASSERT_WAIT(READ_ONCE(ev->sh->arg[0]) > halts,
				"the guest sleeps on");
		/* Some find it halted, some about to halt. */
		usleep(i % 4 * 100);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), ROUNDS);
	eli_go(ev, 1);
	eli_irq_fire(&dev->irq);
	eli_finish(ev, 1);
}

static void masked_guest(void)
{
	u32 i, before;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 20; i++) {
		eli_cli();
		before = eli_count(DEV_VECTOR);
		eli_guest_stage(2 + 2 * i);
		GUEST_ASSERT(eli_guest_wait(READ_ONCE(eli_shared.go) >= 2 + i));
		eli_guest_delay(1000);
		GUEST_ASSERT_EQ(eli_count(DEV_VECTOR), before);
		GUEST_ASSERT(eli_irr(DEV_VECTOR));
		GUEST_ASSERT(!eli_isr(DEV_VECTOR));
		/* A fired interrupt waits for the end of STI's shadow. */
		asm volatile("sti; nop; nop" ::: "memory");
		GUEST_ASSERT(eli_guest_wait(eli_count(DEV_VECTOR) != before));
		eli_guest_delay(1000);
		GUEST_ASSERT_EQ(eli_count(DEV_VECTOR), before + 1);
		GUEST_ASSERT(!eli_irr(DEV_VECTOR));
		eli_guest_stage(3 + 2 * i);
	}
	GUEST_DONE();
}

/* Fired while interrupts are off; twice is once, as the IRR has one bit. */
ELI_TEST(masked)
{
	struct eli_dev *dev = eli_start(ev, masked_guest, DEV_VECTOR);
	int i;

	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 20; i++) {
		eli_wait_stage(ev, 2 + 2 * i);
		eli_irq_fire(&dev->irq);
		usleep(1000);
		if (i & 1)
			eli_irq_fire(&dev->irq);
		eli_go(ev, 2 + i);
	}
	eli_finish(ev, 22);
}

/* --------------------------------------------------- virtual interrupts */

static void virtual_guest(void)
{
	int i;

	eli_guest_init();
	x2apic_write_reg(APIC_TDCR, 0xb);
	eli_guest_stage(1);
	eli_guest_idle(1);

	for (i = 1; i <= ROUNDS; i++) {
		eli_self_ipi(MID_VECTOR);
		GUEST_ASSERT(eli_guest_wait(eli_count(MID_VECTOR) == i));
	}
	for (i = 1; i <= ROUNDS; i++) {
		wrmsr(X2APIC_ICR, APIC_DEST_SELF | APIC_INT_ASSERT |
		      LOW_VECTOR);
		GUEST_ASSERT(eli_guest_wait(eli_count(LOW_VECTOR) == i));
	}

	x2apic_write_reg(APIC_LVTT, APIC_LVT_TIMER_ONESHOT | TIMER_VECTOR);
	for (i = 1; i <= 50; i++) {
		x2apic_write_reg(APIC_TMICT, 200000);
		GUEST_ASSERT(eli_guest_wait(eli_count(TIMER_VECTOR) == i));
	}
	x2apic_write_reg(APIC_LVTT, APIC_LVT_TIMER_PERIODIC | TIMER_VECTOR);
	x2apic_write_reg(APIC_TMICT, 2000000);
	GUEST_ASSERT(eli_guest_wait(eli_count(TIMER_VECTOR) >= 100));
	x2apic_write_reg(APIC_LVTT, APIC_LVT_MASKED | TIMER_VECTOR);
	x2apic_write_reg(APIC_TMICT, 0);

	eli_guest_stage(2);
	eli_guest_idle(2);
	GUEST_DONE();
}

static void signal_msi(struct eli_vm *ev, u8 vector)
{
	struct kvm_msi msi = {
		.address_lo = APIC_DEFAULT_GPA,
		.data = vector,
	};

	TEST_ASSERT(__vm_ioctl(ev->vm, KVM_SIGNAL_MSI, &msi) == 1,
		    "KVM_SIGNAL_MSI of 0x%x", vector);
}

/* Self IPIs, the APIC's timer and MSIs, while the device interrupts, too. */
ELI_TEST(virtual_interrupts)
{
	struct eli_dev *dev = eli_start(ev, virtual_guest, DEV_VECTOR);
	u32 n = 0, count, i;

	eli_arm(ev, dev);
	count = eli_host_count(ev, DEV_VECTOR);
	eli_go(ev, 1);
	while (READ_ONCE(ev->sh->stage) != 2) {
		TEST_ASSERT(!READ_ONCE(ev->thread[0].done), "The vCPU ended");
		eli_fire(ev, dev);
		n++;
		usleep(200);
	}
	for (i = 1; i <= ROUNDS; i++) {
		signal_msi(ev, HIGH_VECTOR);
		eli_fire(ev, dev);
		n++;
		ELI_ASSERT_WAIT(eli_host_count(ev, HIGH_VECTOR) == i, "MSI");
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + n);
	TEST_ASSERT_EQ(eli_host_count(ev, HIGH_VECTOR), ROUNDS);
	TEST_ASSERT_EQ(eli_host_count(ev, LOW_VECTOR), ROUNDS);
	TEST_ASSERT_EQ(eli_host_count(ev, MID_VECTOR), ROUNDS);
	/* Gates that were used for injection must not look used. */
	for (i = 32; i < 256; i++)
		TEST_ASSERT(!eli_host_count(ev, i) || i == DEV_VECTOR ||
			    i == HIGH_VECTOR || i == LOW_VECTOR ||
			    i == MID_VECTOR || i == TIMER_VECTOR,
			    "Stray interrupt 0x%x", i);
	if (eli_on())
		TEST_ASSERT(eli_vcpu_stat(ev, 0, "eli_inject") != 0,
			    "Nothing was injected through a gate");
	eli_finish(ev, 2);
}

static __eli_irq void set_timer_again(struct ex_regs *regs)
{
	if (regs->vector == TIMER_VECTOR)
		wrmsr(APIC_BASE_MSR + (APIC_TMICT >> 4), 200000);
}

/* arg: the address of pv_eoi */
static void pv_eoi_guest(void)
{
	int i;

	wrmsr(MSR_KVM_PV_EOI_EN, eli_shared.arg[0] | KVM_MSR_ENABLED);
	eli_guest_init();
	x2apic_write_reg(APIC_TDCR, 0xb);
	x2apic_write_reg(APIC_LVTT, APIC_LVT_TIMER_ONESHOT | TIMER_VECTOR);
	eli_guest_stage(1);
	eli_guest_idle(1);

	/* Nothing exits after the timer's interrupt. */
	for (i = 1; i <= ROUNDS / 10; i++) {
		x2apic_write_reg(APIC_TMICT, 200000);
		while (eli_count(TIMER_VECTOR) < i)
			eli_spin();
		eli_guest_stage(1 + i);
		eli_guest_idle(1 + i);
	}

	/* As the handlers of operating systems do it. */
	WRITE_ONCE(eli_shared.after, set_timer_again);
	x2apic_write_reg(APIC_TMICT, 200000);
	eli_guest_idle(ROUNDS);
	GUEST_DONE();
}

/* The timer's interrupt need not exit when it is completed, and others do. */
ELI_TEST(pv_eoi)
{
	u32 count, timer, pv;
	struct eli_dev *dev;
	int i;

	eli_pin(0);
	eli_vm_create(ev, 1, pv_eoi_guest);
	ev->sh->arg[0] = addr_gva2gpa(ev->vm, (vm_vaddr_t)&eli_shared.pv_eoi);
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	eli_arm(ev, dev);
	count = eli_host_count(ev, DEV_VECTOR);

	eli_go(ev, 1);
	for (i = 1; i <= ROUNDS / 10; i++) {
		eli_wait_stage(ev, 1 + i);
		eli_fire(ev, dev);
		eli_go(ev, 1 + i);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + ROUNDS / 10);
	TEST_ASSERT_EQ(eli_host_count(ev, TIMER_VECTOR), ROUNDS / 10);

	pv = READ_ONCE(ev->sh->pv_eois);
	timer = eli_host_count(ev, TIMER_VECTOR);
	for (i = 0; eli_host_count(ev, TIMER_VECTOR) < timer + ROUNDS; i++)
		eli_fire(ev, dev);
	timer = eli_host_count(ev, TIMER_VECTOR) - timer;
	pv = READ_ONCE(ev->sh->pv_eois) - pv;
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + ROUNDS / 10 + i);
	pr_info("# %u of %u interrupts of the timer completed without an exit, %d of the device meanwhile\n",
		pv, timer, i);
	/* VMX's preemption timer is set without KVM's looking at PV EOI. */
	if (eli_on() &&
	    (host_cpu_is_amd || !get_kvm_intel_param_bool("preemption_timer")))
		TEST_ASSERT(pv >= timer / 2 && pv <= timer + 1,
			    "%u of %u were completed without an exit", pv, timer);
	else if (eli_on())
		TEST_ASSERT_EQ(pv, 0);
	eli_finish(ev, ROUNDS);
}

/* ----------------------------------------------------------- priorities */

/* Steps in the order in which they happened. */
static u8 order[16];
static u32 nr_order;

static __eli_irq void step(u8 what)
{
	if (nr_order < ARRAY_SIZE(order)) {
		order[nr_order] = what;
		eli_write(nr_order, nr_order + 1);
	}
}

static __eli_irq bool msr_bit(u32 base, u8 vector)
{
	return rdmsr(base + vector / 32) & (1u << vector % 32);
}

#define X2APIC_ISR	0x810
#define X2APIC_IRR	0x820
#define X2APIC_PPR	0x80a

/* Of a handler that is to be nested in: one higher, one lower. */
static __eli_irq void nest(u8 self, bool look)
{
	step(self);
	wrmsr(X2APIC_SELF_IPI, HIGH_VECTOR);
	wrmsr(X2APIC_SELF_IPI, LOW_VECTOR);
	if (look) {
		if (!msr_bit(X2APIC_ISR, self) ||
		    msr_bit(X2APIC_ISR, HIGH_VECTOR) ||
		    msr_bit(X2APIC_ISR, LOW_VECTOR))
			step(0xe1);
		if (!msr_bit(X2APIC_IRR, HIGH_VECTOR) ||
		    !msr_bit(X2APIC_IRR, LOW_VECTOR) ||
		    msr_bit(X2APIC_IRR, self))
			step(0xe2);
		if ((rdmsr(X2APIC_PPR) & 0xf0) != (self & 0xf0))
			step(0xe3);
	}
	asm volatile("sti; nop; nop; nop; cli" ::: "memory");
	step(self | 1);
}

static __eli_irq void priority_hook(struct ex_regs *regs)
{
	switch (regs->vector) {
	case DEV_VECTOR - 1:
	case MID_VECTOR - 1:
		nest(regs->vector, eli_shared.arg[0]);
		break;
	case HIGH_VECTOR:
		step(HIGH_VECTOR);
		if (eli_shared.arg[0] &&
		    (!msr_bit(X2APIC_ISR, HIGH_VECTOR) ||
		     (rdmsr(X2APIC_PPR) & 0xf0) != (HIGH_VECTOR & 0xf0)))
			step(0xe4);
		break;
	default:
		step(regs->vector);
	}
}

static void check_order(u8 self)
{
	const u8 expected[] = { self, HIGH_VECTOR, self | 1, LOW_VECTOR };
	int i;

	GUEST_ASSERT_EQ(nr_order, ARRAY_SIZE(expected));
	for (i = 0; i < ARRAY_SIZE(expected); i++)
		__GUEST_ASSERT(order[i] == expected[i],
			       "step %u is 0x%x, not 0x%x", i, order[i],
			       expected[i]);
	nr_order = 0;
}

static void priority_guest(void)
{
	u32 i, low;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	WRITE_ONCE(eli_shared.hook, priority_hook);
	for (i = 0; i < 50; i++) {
		eli_shared.arg[0] = i & 1;
		eli_self_ipi(MID_VECTOR - 1);
		GUEST_ASSERT(eli_guest_wait(eli_count(LOW_VECTOR) == i + 1));
		check_order(MID_VECTOR - 1);
	}
	for (i = 0; i < 50; i++) {
		low = eli_count(LOW_VECTOR);
		eli_shared.arg[0] = i & 1;
		eli_guest_stage(2 + i);
		GUEST_ASSERT(eli_guest_wait(eli_count(LOW_VECTOR) == low + 1));
		check_order(DEV_VECTOR - 1);
	}
	WRITE_ONCE(eli_shared.hook, NULL);
	eli_guest_stage(52);
	eli_guest_idle(2);
	GUEST_DONE();
}

/* The handler of an interrupt is interrupted by higher, not by lower ones. */
ELI_TEST(priorities)
{
	struct eli_dev *dev = eli_start(ev, priority_guest, DEV_VECTOR - 1);
	int i;

	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 50; i++) {
		eli_wait_stage(ev, 2 + i);
		eli_fire(ev, dev);
	}
	eli_wait_stage(ev, 52);
	eli_finish(ev, 2);
}

static __eli_irq void device_priority_hook(struct ex_regs *regs)
{
	u64 end;

	step(regs->vector);
	if (regs->vector != eli_shared.arg[1])
		return;
	/* Have the host fire the other device, and see whether it arrives. */
	eli_write(eli_shared.stage, eli_shared.stage + 1);
	end = rdtsc() + (eli_shared.arg[2] ? 2000 : 50) *
	      guest_tsc_khz;
	asm volatile("sti" ::: "memory");
	while (rdtsc() < end &&
	       !(eli_read(eli_shared.arg[2]) && eli_read(nr_order) == 2))
		asm volatile("" ::: "memory");
	asm volatile("cli" ::: "memory");
	step(regs->vector | 1);
}

static void device_priority_guest(void)
{
	u8 nested[] = { DEV2_VECTOR, DEV_VECTOR - 1, DEV2_VECTOR | 1 };
	u8 after[] = { DEV_VECTOR - 1, DEV_VECTOR, DEV2_VECTOR };
	int i, j;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 20; i++) {
		bool higher = i & 1;

		nr_order = 0;
		/* The one to be interrupted, and whether it will be. */
		eli_shared.arg[1] = higher ? DEV2_VECTOR : DEV_VECTOR - 1;
		eli_shared.arg[2] = higher;
		WRITE_ONCE(eli_shared.hook, device_priority_hook);
		eli_guest_stage(2 + 2 * i);
		GUEST_ASSERT(eli_guest_wait(READ_ONCE(nr_order) == 3));
		eli_guest_delay(1000);
		WRITE_ONCE(eli_shared.hook, NULL);
		for (j = 0; j < 3; j++)
			__GUEST_ASSERT(order[j] == (higher ? nested[j] :
							     after[j]),
				       "%s device: step %u is 0x%x",
				       higher ? "higher" : "lower", j,
				       order[j]);
	}
	eli_guest_stage(42);
	eli_guest_idle(2);
	GUEST_DONE();
}

/* The same among devices. */
ELI_TEST(device_priorities)
{
	struct eli_dev *low = eli_start(ev, device_priority_guest, DEV2_VECTOR);
	struct eli_dev *dev = eli_dev_add(ev, 0, DEV_VECTOR - 1);
	int i;

	eli_arm(ev, dev);
	eli_arm(ev, low);
	eli_go(ev, 1);
	for (i = 0; i < 20; i++) {
		eli_wait_stage(ev, 2 + 2 * i);
		eli_irq_fire(i & 1 ? &low->irq : &dev->irq);
		eli_wait_stage(ev, 3 + 2 * i);
		eli_irq_fire(i & 1 ? &dev->irq : &low->irq);
	}
	eli_wait_stage(ev, 42);
	eli_finish(ev, 2);
}

static void tpr_check(u8 vector, bool ipi, u32 stage)
{
	u32 before = eli_count(vector);
	u8 class = vector >> 4;

	/* By CR8 and by the register in turn. */
	if (stage & 1)
		x2apic_write_reg(APIC_TASKPRI, class << 4 | 0xf);
	else
		eli_set_cr8(class);
	if (!eli_shared.host_cr8)
		GUEST_ASSERT_EQ(eli_get_cr8(), class);
	GUEST_ASSERT_EQ(x2apic_read_reg(APIC_TASKPRI) >> 4, class);
	GUEST_ASSERT_EQ(x2apic_read_reg(APIC_PROCPRI) >> 4, class);
	if (ipi) {
		eli_self_ipi(vector);
	} else {
		eli_guest_stage(stage);
		GUEST_ASSERT(eli_guest_wait(READ_ONCE(eli_shared.go) >= stage));
	}
	eli_guest_delay(1000);
	__GUEST_ASSERT(eli_count(vector) == before,
		       "0x%x arrived despite a TPR of 0x%x", vector, class);
	GUEST_ASSERT(eli_irr(vector));
	if (stage & 1)
		eli_set_cr8(class - 1);
	else
		x2apic_write_reg(APIC_TASKPRI, (class - 1) << 4);
	GUEST_ASSERT(eli_guest_wait(eli_count(vector) == before + 1));
	eli_set_cr8(0);
}

static void tpr_guest(void)
{
	u32 i;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 20; i++)
		tpr_check(MID_VECTOR, true, i);
	for (i = 2; i < 22; i++)
		tpr_check(DEV_VECTOR, false, i);
	GUEST_DONE();
}

ELI_TEST(task_priority)
{
	struct eli_dev *dev = eli_start(ev, tpr_guest, DEV_VECTOR);
	int i;

	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 2; i < 22; i++) {
		eli_wait_stage(ev, i);
		eli_irq_fire(&dev->irq);
		usleep(1000);
		eli_go(ev, i);
	}
	eli_finish(ev, 22);
}

/* ---------------------------------------------- what user space can see */

static __eli_irq void sync_hook(struct ex_regs *regs)
{
	eli_write(eli_shared.hook, NULL);
	GUEST_SYNC(3);
}

static void state_guest(void)
{
	int i;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 10; i++) {
		/* pending */
		eli_cli();
		eli_guest_stage(2 + 2 * i);
		GUEST_ASSERT(eli_guest_wait(READ_ONCE(eli_shared.go) >= 2 + i));
		GUEST_SYNC(2);
		WRITE_ONCE(eli_shared.hook, sync_hook);
		eli_sti();
		/* in service */
		GUEST_ASSERT(eli_guest_wait(!READ_ONCE(eli_shared.hook)));
		eli_guest_delay(100);
		/* neither */
		GUEST_SYNC(4);
		eli_guest_stage(3 + 2 * i);
	}
	GUEST_DONE();
}

static bool lapic_bit(struct kvm_lapic_state *lapic, unsigned int reg,
		      u8 vector)
{
	u32 word;

	memcpy(&word, lapic->regs + reg + vector / 32 * 0x10, 4);
	return word & (1u << vector % 32);
}

static void check_state(struct eli_vm *ev, bool irr, bool isr)
{
	struct kvm_vcpu *vcpu = ev->vcpu[0];
	struct kvm_lapic_state lapic;
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	int v;

	vcpu_ioctl(vcpu, KVM_GET_LAPIC, &lapic);
	vcpu_events_get(vcpu, &events);
	vcpu_sregs_get(vcpu, &sregs);
	for (v = 0; v < 256; v++) {
		TEST_ASSERT(lapic_bit(&lapic, APIC_IRR, v) ==
			    (irr && v == DEV_VECTOR), "IRR of 0x%x", v);
		TEST_ASSERT(lapic_bit(&lapic, APIC_ISR, v) ==
			    (isr && v == DEV_VECTOR), "ISR of 0x%x", v);
	}
	TEST_ASSERT(!events.exception.injected && !events.exception.pending &&
		    !events.interrupt.injected && !events.nmi.injected,
		    "Events of vectors %u, %u", events.exception.nr,
		    events.interrupt.nr);
	TEST_ASSERT_EQ(sregs.idt.base, ev->vm->arch.idt);
	TEST_ASSERT_EQ(sregs.idt.limit, 0xfff);
	/* As a migration would. */
	vcpu_sregs_set(vcpu, &sregs);
	vcpu_ioctl(vcpu, KVM_SET_LAPIC, &lapic);
	vcpu_events_set(vcpu, &events);
}

/* KVM_GET_* of a device interrupt that is pending, in service, and ended. */
ELI_TEST(state)
{
	struct eli_dev *dev = eli_start(ev, state_guest, DEV_VECTOR);
	struct eli_thread *t = &ev->thread[0];
	u32 count;
	int i;

	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 10; i++) {
		eli_wait_stage(ev, 2 + 2 * i);
		count = eli_host_count(ev, DEV_VECTOR);
		eli_irq_fire(&dev->irq);
		usleep(2000);
		eli_go(ev, 2 + i);
		eli_thread_sync(t, 2);
		check_state(ev, true, false);
		eli_thread_resume(t);
		eli_thread_sync(t, 3);
		check_state(ev, false, true);
		eli_thread_resume(t);
		eli_thread_sync(t, 4);
		check_state(ev, false, false);
		TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + 1);
		eli_thread_resume(t);
	}
	eli_finish(ev, 100);
}

/* The guest is stopped anywhere, while the device and a timer interrupt. */
static void timer_guest(void)
{
	eli_guest_init();
	x2apic_write_reg(APIC_TDCR, 0xb);
	x2apic_write_reg(APIC_LVTT, APIC_LVT_TIMER_PERIODIC | TIMER_VECTOR);
	x2apic_write_reg(APIC_TMICT, 3000000);
	eli_guest_stage(1);
	eli_guest_idle(1);
	x2apic_write_reg(APIC_TMICT, 0);
	GUEST_DONE();
}

ELI_TEST(events)
{
	struct eli_dev *dev = eli_start(ev, timer_guest, DEV_VECTOR);
	struct eli_thread *t = &ev->thread[0];
	struct kvm_vcpu_events events;
	struct kvm_sregs sregs;
	u32 count, timer;
	int i;

	eli_arm(ev, dev);
	count = eli_host_count(ev, DEV_VECTOR);
	timer = eli_host_count(ev, TIMER_VECTOR);
	for (i = 0; i < ROUNDS; i++) {
		eli_irq_fire(&dev->irq);
		eli_thread_pause(t);
		vcpu_events_get(t->vcpu, &events);
		vcpu_sregs_get(t->vcpu, &sregs);
		TEST_ASSERT(!events.interrupt.injected ||
			    events.interrupt.nr == DEV_VECTOR ||
			    events.interrupt.nr == TIMER_VECTOR,
			    "KVM_GET_VCPU_EVENTS has interrupt %u",
			    events.interrupt.nr);
		TEST_ASSERT(!events.exception.injected &&
			    !events.exception.pending,
			    "KVM_GET_VCPU_EVENTS has exception %u",
			    events.exception.nr);
		TEST_ASSERT_EQ(sregs.idt.base, ev->vm->arch.idt);
		TEST_ASSERT_EQ(sregs.idt.limit, 0xfff);
		vcpu_events_set(t->vcpu, &events);
		eli_thread_resume(t);
		ELI_ASSERT_WAIT(eli_host_count(ev, DEV_VECTOR) ==
				count + i + 1, "after a pause");
	}
	ELI_ASSERT_WAIT(eli_host_count(ev, TIMER_VECTOR) > timer + 10,
			"the guest's timer stands still");
	eli_finish(ev, 1);
}

/* ---------------------------------------------------------- LIDT, SIDT */

static void check_sidt(u64 base, u16 limit)
{
	struct desc_ptr idt;

	eli_lidt(base, limit);
	idt = get_idt();
	GUEST_ASSERT_EQ(idt.address, base);
	GUEST_ASSERT_EQ(idt.size, limit);
}

static void lidt_guest(void)
{
	u64 first = eli_shared.idt[0], second = eli_shared.arg[0];
	const u16 limits[] = { 0xfff, 0xffe, 0x7ff, 0xff, 0, 0xffff, 0x1000 };
	int i, j;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (j = 0; j < 20; j++) {
		eli_cli();
		for (i = 0; i < ARRAY_SIZE(limits); i++) {
			check_sidt(first, limits[i]);
			check_sidt(second + 8, limits[i]);
			check_sidt(0xffffffffffffe000, limits[i]);
			eli_lidt(first, 0xfff);
		}
		eli_sti();
		/* Which table is in use is seen by the stub that runs. */
		check_sidt(second, 0xfff);
		eli_guest_stage(2 + 2 * j);
		eli_guest_idle(2 + 2 * j);
		check_sidt(first, 0xfff);
		eli_guest_stage(3 + 2 * j);
		eli_guest_idle(3 + 2 * j);
	}
	GUEST_DONE();
}

/* A gate of a table, as the host sets it before the guest runs. */
static void host_gate(struct eli_vm *ev, vm_vaddr_t idt, u8 vector, u8 stub)
{
	struct idt_entry *gates = addr_gva2hva(ev->vm, idt);

	gates[vector].offset0 = gates[stub].offset0;
	gates[vector].offset1 = gates[stub].offset1;
	gates[vector].offset2 = gates[stub].offset2;
}

ELI_TEST(lidt)
{
	struct eli_thread *t = &ev->thread[0];
	struct eli_dev *dev;
	struct kvm_sregs sregs;
	vm_vaddr_t second;
	int i;

	eli_pin(0);
	eli_vm_create(ev, 1, lidt_guest);
	second = vm_vaddr_alloc_page(ev->vm);
	memcpy(addr_gva2hva(ev->vm, second),
	       addr_gva2hva(ev->vm, ev->vm->arch.idt), 4096);
	host_gate(ev, second, DEV_VECTOR, DEV_VECTOR + 1);
	ev->sh->arg[0] = second;
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 20; i++) {
		eli_wait_stage(ev, 2 + 2 * i);
		eli_fire_as(ev, dev, DEV_VECTOR + 1);
		if (i & 1) {
			/* Long enough for the table to be in use. */
			usleep(20000);
			eli_fire_as(ev, dev, DEV_VECTOR + 1);
		}
		eli_go(ev, 2 + 2 * i);
		eli_wait_stage(ev, 3 + 2 * i);
		eli_fire_as(ev, dev, DEV_VECTOR);
		/* Set by user space. */
		eli_thread_pause(t);
		vcpu_sregs_get(t->vcpu, &sregs);
		TEST_ASSERT_EQ(sregs.idt.base, ev->sh->idt[0]);
		TEST_ASSERT_EQ(sregs.idt.limit, 0xfff);
		sregs.idt.base = second;
		vcpu_sregs_set(t->vcpu, &sregs);
		eli_thread_resume(t);
		eli_fire_as(ev, dev, DEV_VECTOR + 1);
		eli_go(ev, 3 + 2 * i);
	}
	eli_finish(ev, 100);
}

/* ---------------------------------------------------------------- gates */

static void gate_guest(void)
{
	u64 idt = eli_shared.idt[0];
	u32 i;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 50; i++) {
		u8 stub = i & 1 ? DEV_VECTOR : DEV_VECTOR + 1;
		u8 ipi_stub = i & 1 ? MID_VECTOR : MID_VECTOR + 1;
		u32 before = eli_count(ipi_stub);

		eli_cli();
		eli_write_gate(idt, DEV_VECTOR, stub, 0, true);
		eli_write_gate(idt, MID_VECTOR, ipi_stub, 0, true);
		eli_sti();
		eli_self_ipi(MID_VECTOR);
		GUEST_ASSERT(eli_guest_wait(eli_count(ipi_stub) == before + 1));
		eli_guest_stage(2 + i);
		eli_guest_idle(2 + i);
	}
	GUEST_DONE();
}

/* The guest changes the gates of a device's and of a virtual interrupt. */
ELI_TEST(gates)
{
	struct eli_dev *dev = eli_start(ev, gate_guest, DEV_VECTOR);
	u32 i;

	/* It is the stub's vector that is counted; the EOI needs none. */
	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 50; i++) {
		eli_wait_stage(ev, 2 + i);
		eli_fire_as(ev, dev, i & 1 ? DEV_VECTOR : DEV_VECTOR + 1);
		eli_go(ev, 2 + i);
	}
	eli_finish(ev, 100);
}

/* vCPU 1 of a test with two; vCPU 0 idles with interrupts on. */
static void other_guest(void)
{
	u64 idt = eli_shared.idt[0];
	u32 i;

	eli_guest_init();
	GUEST_SYNC(1);
	for (i = 0; i < 50; i++) {
		u8 stub = i & 1 ? DEV_VECTOR : DEV_VECTOR + 1;

		eli_write_gate(idt, DEV_VECTOR, stub, 0, true);
		/* An IPI to vCPU 0 */
		wrmsr(X2APIC_ICR, APIC_INT_ASSERT | LOW_VECTOR);
		GUEST_ASSERT(eli_guest_wait(eli_count(LOW_VECTOR) == i + 1));
		GUEST_SYNC(2);
	}
	GUEST_DONE();
}

/* As above, but by another vCPU, with the same table. */
ELI_TEST(gates_of_another)
{
	struct eli_thread *other = &ev->thread[1];
	struct eli_dev *dev;
	u32 i;

	eli_pin(0);
	eli_vm_create(ev, 2, idle_guest);
	vcpu_arch_set_entry_point(ev->vcpu[1], other_guest);
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	eli_thread_start(ev, 1);
	eli_thread_sync(other, 1);
	eli_arm(ev, dev);
	for (i = 0; i < 50; i++) {
		eli_thread_resume(other);
		eli_thread_sync(other, 2);
		eli_fire_as(ev, dev, i & 1 ? DEV_VECTOR : DEV_VECTOR + 1);
	}
	eli_thread_resume(other);
	TEST_ASSERT_EQ(eli_thread_join(other), ELI_END_DONE);
	eli_finish(ev, 1);
}

static __eli_irq void np_handler(struct ex_regs *regs)
{
	eli_shared.arg[1] = regs->error_code;
	eli_write(eli_shared.arg[2], eli_shared.arg[2] + 1);
	/* The interrupt was accepted, and is in service. */
	wrmsr(APIC_BASE_MSR + (APIC_EOI >> 4), 0);
	eli_write_gate(eli_shared.idt[0], eli_shared.arg[3],
		       eli_shared.arg[3], 0, true);
}

static void absent_guest(void)
{
	u64 idt = eli_shared.idt[0];
	u32 i;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 20; i++) {
		u8 vector = i & 1 ? DEV_VECTOR : MID_VECTOR;

		eli_shared.arg[2] = 0;
		eli_shared.arg[3] = vector;
		eli_write_gate(idt, vector, vector, 0, false);
		if (!(i & 1))
			eli_self_ipi(MID_VECTOR);
		eli_guest_stage(2 + i);
		GUEST_ASSERT(eli_guest_wait(READ_ONCE(eli_shared.arg[2])));
		GUEST_ASSERT_EQ(eli_shared.arg[2], 1);
		/* Not all emulators set EXT, the lowest bit. */
		GUEST_ASSERT_EQ(eli_shared.arg[1] & ~1ull, vector * 8 + 2);
		GUEST_ASSERT(!eli_isr(vector));
		eli_guest_idle(2 + i);
	}
	GUEST_DONE();
}

/* Interrupts whose gate is not present are #NP, and in service. */
ELI_TEST(absent_gates)
{
	struct eli_dev *dev = eli_start(ev, absent_guest, DEV_VECTOR);
	u32 i;

	vm_install_exception_handler(ev->vm, NP_VECTOR, np_handler);
	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 20; i++) {
		eli_wait_stage(ev, 2 + i);
		if (i & 1) {
			eli_irq_fire(&dev->irq);
			ELI_ASSERT_WAIT(READ_ONCE(ev->sh->arg[2]), "#NP");
			eli_fire(ev, dev);
		}
		eli_go(ev, 2 + i);
	}
	eli_finish(ev, 100);
}

/* ---------------------------------------------------------------- INT n */

/* INT n; RET, and INT n; UD2, by which code at CPL 3 ends. */
asm(".pushsection .text\n"
	".balign 4096\n"
	"kernel_ints:\n"
	"vec = 0\n"
	".rept 256\n"
	".byte 0xcd, vec, 0xc3, 0x90\n"
	"vec = vec + 1\n"
	".endr\n"
	".balign 4096\n"
	"user_ints:\n"
	"vec = 0\n"
	".rept 256\n"
	".byte 0xcd, vec, 0x0f, 0x0b\n"
	"vec = vec + 1\n"
	".endr\n"
	".balign 4096\n"
	"run_user_asm:\n"
	"push %rbx\n"
	"push %rbp\n"
	"push %r12\n"
	"push %r13\n"
	"push %r14\n"
	"push %r15\n"
	"mov %rsp, kernel_rsp(%rip)\n"
	"pushq $0x33\n"
	"push %rsi\n"
	"pushfq\n"
	"pushq $0x2b\n"
	"push %rdi\n"
	"iretq\n"
	"user_exit:\n"
	"pop %r15\n"
	"pop %r14\n"
	"pop %r13\n"
	"pop %r12\n"
	"pop %rbp\n"
	"pop %rbx\n"
	"ret\n"
	".popsection\n");

u64 kernel_rsp;

/* Run code at CPL 3 until its UD2. */
static void run_user(void *rip, u64 rsp)
{
	asm volatile("call run_user_asm"
		     : "+D"(rip), "+S"(rsp)
		     :: "rax", "rcx", "rdx", "r8", "r9", "r10", "r11",
			"memory", "cc");
}

static struct {
	u32 count;
	u8 vector;
	u64 error_code, rip, cs, rsp, ss;
} seen;

/* The part of the frame that struct ex_regs lacks. */
static __eli_irq u64 *frame_rsp(struct ex_regs *regs)
{
	return (u64 *)(regs + 1);
}

static __eli_irq void see(struct ex_regs *regs)
{
	seen.count++;
	seen.vector = regs->vector;
	seen.error_code = regs->error_code;
	seen.rip = regs->rip;
	seen.cs = regs->cs;
	seen.rsp = frame_rsp(regs)[0];
	seen.ss = frame_rsp(regs)[1];
}

static __eli_irq void int_handler(struct ex_regs *regs)
{
	if (regs->vector == DEV_VECTOR)
		eli_guest_irq(regs);
	else
		see(regs);
}

/* #GP and #NP of an INT n: go on after it. */
static __eli_irq void int_fault_handler(struct ex_regs *regs)
{
	see(regs);
	regs->rip += 2;
}

/* #UD of the code at CPL 3: back to run_user(). */
static __eli_irq void user_exit_handler(struct ex_regs *regs)
{
	if ((regs->cs & 3) != 3) {
		see(regs);
		regs->rip += 2;
		return;
	}
	regs->rip = (u64)eli_label(user_exit);
	regs->cs = ELI_KERNEL_CS;
	frame_rsp(regs)[0] = kernel_rsp;
	frame_rsp(regs)[1] = ELI_KERNEL_DS;
}

static void check_int(u8 n, bool user, u8 dpl, bool present)
{
	u64 user_rsp = eli_shared.arg[0];
	void *insn = (user ? eli_label(user_ints) : eli_label(kernel_ints)) +
		     4 * n;
	bool gp = user && dpl < 3, np = !present;
	u8 vector = gp ? GP_VECTOR : np ? NP_VECTOR : n;
	u64 error_code = gp || np ? n * 8 + 2 : 0;
	u64 rip = (u64)insn + (gp || np ? 0 : 2);

	seen.count = 0;
	if (user)
		run_user(insn, user_rsp);
	else
		asm volatile("call *%0" :: "r"(insn)
			     : "memory", "cc");
	__GUEST_ASSERT(seen.count == 1 && seen.vector == vector &&
		       seen.error_code == error_code && seen.rip == rip &&
		       seen.cs == (user ? ELI_USER_CS : ELI_KERNEL_CS) &&
		       (!user || (seen.rsp == user_rsp &&
				  seen.ss == ELI_USER_DS)),
		       "INT 0x%x at CPL %u, DPL %u, P %u: %u events, the last has vector 0x%x, error code 0x%lx, RIP %+ld, CS 0x%lx",
		       n, user ? 3 : 0, dpl, present, seen.count, seen.vector,
		       seen.error_code, seen.rip - (u64)insn, seen.cs);
}

/* Those whose stub takes the frame for one with an error code. */
static bool has_error_code(int n)
{
	return n == DF_VECTOR || (n >= TS_VECTOR && n <= PF_VECTOR) ||
	       n == AC_VECTOR;
}

/* INT n through a gate that is fine but for its selector, which is null. */
static void check_int_selector(u8 n)
{
	void *insn = eli_label(kernel_ints) + 4 * n;
	u64 *gate = (void *)(eli_shared.idt[0] + n * 16);

	WRITE_ONCE(gate[0], gate[0] & ~0xffff0000ull);
	seen.count = 0;
	asm volatile("call *%0" :: "r"(insn) : "memory", "cc");
	/* Not all emulators set EXT. */
	__GUEST_ASSERT(seen.count == 1 && seen.vector == GP_VECTOR &&
		       seen.error_code <= 1 && seen.rip == (u64)insn,
		       "INT 0x%x: %u events, the last has vector 0x%x, error code 0x%lx, RIP %+ld",
		       n, seen.count, seen.vector, seen.error_code,
		       seen.rip - (u64)insn);
	eli_write_gate(eli_shared.idt[0], n, n, 0, true);
}

static void int_guest(void)
{
	u64 idt = eli_shared.idt[0];
	int n, mode;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (n = 0; n < 256; n++) {
		if (n == DEV_VECTOR || n == UD_VECTOR || has_error_code(n))
			continue;
		for (mode = 0; mode < 4; mode++) {
			u8 dpl = mode & 1 ? 3 : 0;
			bool present = mode & 2;

			/* No #NP handler could return from 2, an NMI. */
			if (n == 2 && !present)
				continue;
			eli_write_gate(idt, n, n, dpl, present);
			check_int(n, true, dpl, present);
			if (n != eli_shared.arg[1] &&
			    n != eli_shared.arg[2] && n != 31)
				check_int(n, false, dpl, present);
		}
		if (n < 31 && n != 2)
			check_int_selector(n);
	}
	eli_guest_stage(2);
	eli_guest_idle(2);
	GUEST_DONE();
}

/* All vectors, from both ends of privilege, while the device interrupts. */
ELI_TEST(software_interrupts)
{
	struct eli_dev *dev;
	vm_vaddr_t stack;
	u32 n = 0, count;
	int i;

	eli_pin(0);
	eli_vm_create(ev, 1, int_guest);
	for (i = 0; i < 256; i++)
		vm_install_exception_handler(ev->vm, i, int_handler);
	vm_install_exception_handler(ev->vm, GP_VECTOR, int_fault_handler);
	vm_install_exception_handler(ev->vm, NP_VECTOR, int_fault_handler);
	vm_install_exception_handler(ev->vm, UD_VECTOR, user_exit_handler);
	stack = vm_vaddr_alloc_page(ev->vm);
	eli_map_user(ev, stack);
	eli_map_user(ev, (vm_vaddr_t)eli_label(user_ints));
	ev->sh->arg[0] = stack + 4096;
	ev->sh->touch_stacks = true;
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	eli_arm(ev, dev);
	/* Vectors in the host: known not to be exact at CPL 0. */
	ev->sh->arg[1] = eli_on() ? eli_irq_status(&dev->irq).vector : 31;
	ev->sh->arg[2] = ev->sh->arg[1];
	count = eli_host_count(ev, DEV_VECTOR);
	eli_go(ev, 1);
	while (READ_ONCE(ev->sh->stage) != 2) {
		TEST_ASSERT(!READ_ONCE(ev->thread[0].done), "The vCPU ended");
		eli_fire(ev, dev);
		n++;
		usleep(2000);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + n);
	if (eli_on())
		TEST_ASSERT(eli_vcpu_stat(ev, 0, "eli_soft_int") != 0,
			    "No INT n was emulated");
	eli_finish(ev, 2);
}

/* ----------------------------------------------------------- exceptions */

static __eli_irq void df_handler(struct ex_regs *regs)
{
	/* Whatever RIP is: go on where the instruction's fixup says. */
	regs->rip = regs->r11;
	regs->r9 = regs->vector;
	regs->r10 = regs->error_code;
}

static void check_fault(const char *what, u8 vector, u64 error_code,
			u8 expected, u64 expected_code)
{
	/* Not all emulators set EXT, the lowest bit, for a nested fault. */
	__GUEST_ASSERT(vector == expected &&
		       (error_code & ~1ull) == (expected_code & ~1ull),
		       "%s: vector %u, error code 0x%lx", what, vector,
		       error_code);
}

static void exception_guest(void)
{
	u64 idt = eli_shared.idt[0], code, *absent = (u64 *)0xdead0000;
	u8 vector;
	int i;

	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	for (i = 0; i < 20; i++) {
		vector = kvm_asm_safe_ec("movb $1, (%[p])", code,
					 [p]"a"(1ull << 62));
		check_fault("#GP", vector, code, GP_VECTOR, 0);
		vector = kvm_asm_safe_ec("mov %[s], %%ds", code,
					 [s]"a"(0x1000));
		check_fault("#GP of a selector", vector, code, GP_VECTOR,
			    0x1000);
		vector = kvm_asm_safe_ec("mov %[s], %%ds", code,
					 [s]"a"(ELI_ABSENT_DS));
		check_fault("#NP of a selector", vector, code, NP_VECTOR,
			    ELI_ABSENT_DS);
		vector = kvm_asm_safe_ec("movb (%[p]), %%al", code,
					 [p]"a"(absent));
		check_fault("#PF", vector, code, PF_VECTOR, 0);
		vector = kvm_asm_safe_ec("ud2", code, "a"(0));
		check_fault("#UD", vector, code, UD_VECTOR, 0);

		eli_write_gate(idt, UD_VECTOR, UD_VECTOR, 0, false);
		vector = kvm_asm_safe_ec("ud2", code, "a"(0));
		check_fault("#NP of #UD", vector, code, NP_VECTOR,
			    UD_VECTOR * 8 + 2);
		eli_write_gate(idt, UD_VECTOR, UD_VECTOR, 0, true);

		eli_write_gate(idt, PF_VECTOR, PF_VECTOR, 0, false);
		vector = kvm_asm_safe_ec("movb (%[p]), %%al", code,
					 [p]"a"(absent));
		check_fault("#DF of #PF", vector, code, DF_VECTOR, 0);
		eli_write_gate(idt, PF_VECTOR, PF_VECTOR, 0, true);

		eli_write_gate(idt, GP_VECTOR, GP_VECTOR, 0, false);
		vector = kvm_asm_safe_ec("movb $1, (%[p])", code,
					 [p]"a"(1ull << 62));
		check_fault("#DF of #GP", vector, code, DF_VECTOR, 0);
		eli_write_gate(idt, GP_VECTOR, GP_VECTOR, 0, true);

		eli_write_gate(idt, NP_VECTOR, NP_VECTOR, 0, false);
		vector = kvm_asm_safe_ec("mov %[s], %%ds", code,
					 [s]"a"(ELI_ABSENT_DS));
		check_fault("#DF of #NP", vector, code, DF_VECTOR, 0);
		eli_write_gate(idt, NP_VECTOR, NP_VECTOR, 0, true);
		eli_guest_stage(2 + i);
		eli_guest_idle(2 + i);
	}
	GUEST_DONE();
}

ELI_TEST(exceptions)
{
	struct eli_dev *dev;
	int i;

	eli_pin(0);
	eli_vm_create(ev, 1, exception_guest);
	vm_install_exception_handler(ev->vm, DF_VECTOR, df_handler);
	ev->sh->touch_stacks = true;
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	eli_arm(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 20; i++) {
		eli_wait_stage(ev, 2 + i);
		eli_fire(ev, dev);
		eli_go(ev, 2 + i);
	}
	eli_finish(ev, 100);
}

/* ------------------------------------------- memory that is not mapped */

/*
 * Have KVM drop all of its mappings of guest memory, without taking the memory
 * away for a moment: permissions of the host's mapping grow and shrink back.
 */
static void unmap_all(struct eli_vm *ev)
{
	struct userspace_mem_region *region = memslot2region(ev->vm, 0);
	void *mem = region->mmap_start;
	size_t size = region->mmap_size;

	TEST_ASSERT(!mprotect(mem, size, PROT_READ | PROT_WRITE | PROT_EXEC),
		    "mprotect()");
	TEST_ASSERT(!mprotect(mem, size, PROT_READ | PROT_WRITE), "mprotect()");
}

/* Delivery faults in the nested page tables: stack, handler, IDT, TSS. */
ELI_TEST(delivery_faults)
{
	struct eli_dev *dev = eli_start(ev, timer_guest, DEV_VECTOR);
	u32 timer;
	int i;

	eli_arm(ev, dev);
	timer = eli_host_count(ev, TIMER_VECTOR);
	for (i = 0; i < ROUNDS; i++) {
		unmap_all(ev);
		eli_fire(ev, dev);
	}
	ELI_ASSERT_WAIT(eli_host_count(ev, TIMER_VECTOR) > timer + 10,
			"the guest's timer stands still");
	eli_finish(ev, 1);
}

/* That the guest wrote to its IDT has to be in the dirty log. */
ELI_TEST(dirty_log)
{
	struct eli_dev *dev = eli_start(ev, gate_guest, DEV_VECTOR);
	struct userspace_mem_region *region = memslot2region(ev->vm, 0);
	u64 gfn = addr_gva2gpa(ev->vm, ev->vm->arch.idt) >> 12;
	unsigned long *bitmap;
	u32 i;

	gfn -= region->region.guest_phys_addr >> 12;
	bitmap = calloc(1, region->region.memory_size >> 12);
	TEST_ASSERT(bitmap, "calloc()");
	eli_arm(ev, dev);
	vm_mem_region_set_flags(ev->vm, 0, KVM_MEM_LOG_DIRTY_PAGES);
	eli_fire(ev, dev);
	eli_go(ev, 1);
	for (i = 0; i < 50; i++) {
		eli_wait_stage(ev, 2 + i);
		eli_fire_as(ev, dev, i & 1 ? DEV_VECTOR : DEV_VECTOR + 1);
		kvm_vm_get_dirty_log(ev->vm, 0, bitmap);
		TEST_ASSERT(bitmap[gfn / 64] >> gfn % 64 & 1,
			    "The IDT's page is not dirty");
		if (i == 24) {
			vm_mem_region_set_flags(ev->vm, 0, 0);
			vm_mem_region_set_flags(ev->vm, 0,
						KVM_MEM_LOG_DIRTY_PAGES);
		}
		eli_go(ev, 2 + i);
	}
	free(bitmap);
	eli_finish(ev, 100);
}

/* ----------------------------------------------------------- two vCPUs */

static void second_guest(void)
{
	eli_guest_init();
	GUEST_SYNC(1);
	eli_guest_idle(1);
	GUEST_DONE();
}

static void two_tables(struct eli_vm *ev, bool same)
{
	struct eli_dev *dev[2];
	vm_vaddr_t second;
	u8 stub = DEV2_VECTOR;
	int i;

	eli_pin(0);
	eli_vm_create(ev, 2, idle_guest);
	vcpu_arch_set_entry_point(ev->vcpu[1], second_guest);
	if (!same) {
		second = eli_second_idt(ev, 1);
		stub = DEV2_VECTOR + 1;
		host_gate(ev, second, DEV2_VECTOR, stub);
		/* Each table has the gate of the other's device elsewhere. */
		host_gate(ev, second, DEV_VECTOR, LOW_VECTOR);
	}
	dev[0] = eli_dev_add(ev, 0, DEV_VECTOR);
	dev[1] = eli_dev_add(ev, 1, DEV2_VECTOR);
	eli_thread_start(ev, 0);
	eli_thread_start(ev, 1);
	eli_wait_stage(ev, 1);
	eli_thread_sync(&ev->thread[1], 1);
	eli_thread_resume(&ev->thread[1]);
	for (i = 0; i < ROUNDS; i++) {
		eli_fire_as(ev, dev[0], DEV_VECTOR);
		eli_fire_as(ev, dev[1], stub);
		if (i < 20)
			usleep(5000);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, LOW_VECTOR), 0);
	eli_go(ev, 1);
	TEST_ASSERT_EQ(eli_thread_join(&ev->thread[1]), ELI_END_DONE);
	eli_finish(ev, 1);
}

ELI_TEST(two_vcpus_one_idt)
{
	two_tables(ev, true);
}

ELI_TEST(two_vcpus_two_idts)
{
	two_tables(ev, false);
}

int main(int argc, char *argv[])
{
	eli_require();
	return test_harness_run(argc, argv);
}
