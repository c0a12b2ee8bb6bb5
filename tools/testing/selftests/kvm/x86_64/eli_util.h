/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tests of exitless interrupts (ELI) have in common
 *
 * Interrupts of "assigned devices" come from /dev/eliprod, a module that needs
 * no device: it owns an interrupt of the host, is its irqbypass producer as
 * VFIO would be, and fires it on request.  An interrupt of a device of the host
 * comes from there, too.
 *
 * The tests assert what a guest, and user space, can see.  This does not depend
 * on ELI: they pass without it.  Only if kvm's parameter "eli" is on, they also
 * assert that interrupts really are delivered without exits.
 *
 * vCPU 0 runs on CPU 1, and vCPU 1 on CPU 2 if there is one: ELI leaves the
 * first CPU alone, which is where the guard against stuck guests runs.
 */
#ifndef SELFTEST_KVM_ELI_UTIL_H
#define SELFTEST_KVM_ELI_UTIL_H

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include <linux/compiler.h>
#include <linux/types.h>

#include "kvm_util.h"
#include "processor.h"
#include "test_util.h"
#include "apic.h"
#include "eli_prod.h"

/* Generous: the machine may be an emulated one, on a busy computer. */
#define ELI_TIMEOUT_MS		30000
/* of one test case, in seconds */
#define ELI_CASE_TIMEOUT	300

#define ELI_MAX_VCPUS		2
#define ELI_MAX_DEVS		33
/* GSIs of the devices; those of the irqchips are not routed. */
#define ELI_GSI			32

/* Selectors that eli_vm_create() adds to kvm_util's table. */
#define ELI_KERNEL_CS		0x08
#define ELI_KERNEL_DS		0x10
#define ELI_USER_CS		0x2b
#define ELI_USER_DS		0x33
#define ELI_CS32		0x38
#define ELI_ABSENT_DS		0x40

#define ELI_RFLAGS_IF		BIT(9)

#define X2APIC_SELF_IPI		0x83f
#define X2APIC_ICR		0x830

#define ELI_STACK_PAGES		4

/* What guest and host share; the guest's own copy is in its memory. */
struct eli_shared {
	/* interrupts that were handled, by vector of the stub that ran */
	u32 count[256];
	/* called by the handler, before it counts and ends the interrupt */
	void (*hook)(struct ex_regs *regs);
	/* called by it afterwards */
	void (*after)(struct ex_regs *regs);
	/* KVM's paravirtual EOI, and how often it took the place of one */
	u32 pv_eoi;
	u32 pv_eois;
	/* set by the guest for the host, in steps */
	u32 stage;
	/* set by the host for the guest, in steps */
	u32 go;
	/* rounds of the guest's idle loop */
	u32 loops;
	/* frames of interrupts that no interrupt can have */
	u32 bad_frames;
	/* whether to have all stacks mapped from the start */
	u32 touch_stacks;
	/* do not end interrupts of this vector */
	u32 no_eoi;
	/*
	 * QEMU's emulation of SVM does not intercept reads of CR8, which then
	 * are of the host's while the host's IRQs are subject to the guest's IF.
	 */
	u32 host_cr8;
	/* what the guest has to know about its tables: IDT, RSP0 and ISTs */
	u64 idt[ELI_MAX_VCPUS];
	u64 stacks[ELI_MAX_VCPUS][5];
	/* whatever a test wants to pass */
	u64 arg[8];
};

static struct eli_shared eli_shared __aligned(4096);

extern void *idt_handlers[];

/* ---------------------------------------------------------------- guest */

/*
 * A handler interrupts code that may be using any register but that of the
 * frame: the stubs of kvm_util save general registers alone.  It has a stack
 * of its own by the IST, as the interrupted code has a red zone.
 */
#define __eli_irq __attribute__((target("general-regs-only")))

/* READ_ONCE() and WRITE_ONCE(), which cannot be inlined into such a handler. */
#define eli_read(x)		__atomic_load_n(&(x), __ATOMIC_RELAXED)
#define eli_write(x, value)	__atomic_store_n(&(x), value, __ATOMIC_RELAXED)

/* The address of a label of assembly. */
#define eli_label(name)							\
({									\
	void *__p;							\
									\
	asm("lea " #name "(%%rip), %0" : "=r"(__p));			\
	__p;								\
})

static inline void eli_sti(void)
{
	asm volatile("sti" ::: "memory");
}

static inline void eli_cli(void)
{
	asm volatile("cli" ::: "memory");
}

/* Not PAUSE, which exits when there is much of it. */
static inline void eli_spin(void)
{
	asm volatile("nop; nop; nop; nop" ::: "memory");
}

static inline void eli_guest_delay(u64 us)
{
	u64 end = rdtsc() + us * guest_tsc_khz / 1000;

	while (rdtsc() < end)
		eli_spin();
}

/* False if it took more than ten seconds. */
#define eli_guest_wait(cond)						\
({									\
	u64 __end = rdtsc() + 10000 * guest_tsc_khz;			\
	bool __ok;							\
									\
	while (!(__ok = (cond)) && rdtsc() < __end)			\
		eli_spin();						\
	__ok;								\
})

static inline void eli_self_ipi(u8 vector)
{
	wrmsr(X2APIC_SELF_IPI, vector);
}

static inline void eli_set_cr8(u64 tpr)
{
	asm volatile("mov %0, %%cr8" :: "r"(tpr) : "memory");
}

static inline u64 eli_get_cr8(void)
{
	u64 tpr;

	asm volatile("mov %%cr8, %0" : "=r"(tpr) :: "memory");
	return tpr;
}

static inline void eli_lidt(u64 base, u16 limit)
{
	struct desc_ptr ptr = { .size = limit, .address = base };

	asm volatile("lidt %0" :: "m"(ptr));
}

/* A bit of the local APIC's IRR or ISR. */
static inline bool eli_apic_bit(unsigned int reg, u8 vector)
{
	return x2apic_read_reg(reg + vector / 32 * 0x10) & (1u << vector % 32);
}

#define APIC_ISR	0x100
#define eli_irr(vector)	eli_apic_bit(APIC_IRR, vector)
#define eli_isr(vector)	eli_apic_bit(APIC_ISR, vector)

static inline u32 eli_count(u8 vector)
{
	return READ_ONCE(eli_shared.count[vector]);
}

/* IST stacks: interrupts that nest in one another have different ones. */
static inline unsigned int eli_ist(u8 vector)
{
	if (vector == DF_VECTOR)
		return 4;
	if (vector < 32)
		return 0;
	return vector < 0x80 ? 1 : vector < 0xb0 ? 2 : 3;
}

/*
 * Write a gate, for the stub of another vector if so wanted: which stub ran is
 * seen by which count went up.  The half with the present bit is last.
 */
static inline void eli_write_gate(u64 idt, u8 vector, u8 stub, u8 dpl, bool p)
{
	u64 addr = (u64)idt_handlers[stub];
	u64 *gate = (void *)(idt + vector * 16);

	WRITE_ONCE(gate[1], addr >> 32);
	barrier();
	WRITE_ONCE(gate[0], (addr & 0xffff) | ELI_KERNEL_CS << 16 |
			    (u64)eli_ist(vector) << 32 | 14ull << 40 |
			    (u64)dpl << 45 | (u64)p << 47 |
			    (addr >> 16 & 0xffff) << 48);
	barrier();
}

/* The handler of all vectors from 32. */
static __eli_irq void eli_guest_irq(struct ex_regs *regs)
{
	void (*hook)(struct ex_regs *regs);
	u8 vector = regs->vector;

	if (!(regs->rflags & ELI_RFLAGS_IF) ||
	    (regs->cs != ELI_KERNEL_CS && regs->cs != ELI_USER_CS))
		eli_shared.bad_frames++;
	hook = eli_read(eli_shared.hook);
	if (hook)
		hook(regs);
	eli_write(eli_shared.count[vector], eli_shared.count[vector] + 1);
	if (__atomic_exchange_n(&eli_shared.pv_eoi, 0, __ATOMIC_RELAXED) & 1)
		eli_write(eli_shared.pv_eois, eli_shared.pv_eois + 1);
	else if (vector != eli_read(eli_shared.no_eoi))
		wrmsr(APIC_BASE_MSR + (APIC_EOI >> 4), 0);
	hook = eli_read(eli_shared.after);
	if (hook)
		hook(regs);
}

/*
 * Have the stacks of exceptions mapped.  QEMU's emulation reports a fault in
 * the nested page tables during the delivery of an exception that was raised by
 * the delivery of another event as one during that event, and KVM then delivers
 * a different one.
 */
static inline void eli_guest_touch_stacks(void)
{
	int i, j, k;
	u64 top;

	for (i = 0; i < ELI_MAX_VCPUS; i++) {
		for (j = 0; j < ARRAY_SIZE(eli_shared.stacks[i]); j++) {
			top = eli_shared.stacks[i][j];
			for (k = 1; top && k <= ELI_STACK_PAGES; k++)
				WRITE_ONCE(*(u64 *)(top - k * 4096), 0);
		}
	}
}

static inline void eli_guest_init(void)
{
	if (eli_shared.touch_stacks)
		eli_guest_touch_stacks();
	x2apic_enable();
	eli_sti();
}

static inline void eli_guest_stage(u32 stage)
{
	WRITE_ONCE(eli_shared.stage, stage);
}

/* Idle, with interrupts on, until the host says so. */
static inline void eli_guest_idle(u32 go)
{
	while (READ_ONCE(eli_shared.go) < go) {
		WRITE_ONCE(eli_shared.loops, eli_shared.loops + 1);
		eli_spin();
	}
}

/* ----------------------------------------------------------------- host */

static inline u64 eli_now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec * 1000000000ull + ts.tv_nsec;
}

static inline void eli_pause(unsigned int turn)
{
	if (turn < 100)
		sched_yield();
	else
		usleep(turn < 1000 ? 50 : 1000);
}

/* Whether a condition came true within a time. */
#define eli_wait_ms(cond, ms)						\
({									\
	u64 __end = eli_now_ns() + (ms) * 1000000ull;			\
	unsigned int __turn = 0;					\
	bool __ok;							\
									\
	while (!(__ok = (cond)) && eli_now_ns() < __end)		\
		eli_pause(__turn++);					\
	__ok;								\
})

#define eli_wait(cond)	eli_wait_ms(cond, ELI_TIMEOUT_MS)

#define ELI_ASSERT_WAIT(cond, fmt, args...)				\
	TEST_ASSERT(eli_wait(cond), "Timed out: " fmt, ##args)

static inline long eli_param(const char *name, long absent)
{
	char path[128], value[32] = "";
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

static inline bool eli_on(void)
{
	return eli_param("eli", 0);
}

/*
 * Called by main().  ELI_STOCK=1 in the environment runs the tests on a KVM
 * without ELI as well, to see that they assert nothing but what is so anyway.
 */
static inline void eli_require(void)
{
	bool stock = getenv("ELI_STOCK") && atoi(getenv("ELI_STOCK"));

	TEST_REQUIRE(!access("/dev/eliprod", R_OK | W_OK));
	__TEST_REQUIRE(stock || eli_param("eli", -1) >= 0,
		       "KVM without ELI (ELI_STOCK=1 tests it nevertheless)");
	__TEST_REQUIRE(sysconf(_SC_NPROCESSORS_ONLN) >= 2,
		       "Two CPUs needed, the first is the guard");
	TEST_REQUIRE(kvm_has_cap(KVM_CAP_IRQFD));
	pr_info("eli=%ld eli_eoi=%ld eli_max_us=%ld\n", eli_param("eli", -1),
		eli_param("eli_eoi", -1), eli_param("eli_max_us", -1));
}

static inline unsigned int eli_vcpu_cpu(unsigned int i)
{
	return i && sysconf(_SC_NPROCESSORS_ONLN) > 2 ? 2 : 1;
}

static inline void eli_pin(unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!sched_setaffinity(0, sizeof(set), &set),
		    "sched_setaffinity() to CPU %u", cpu);
}

/* An interrupt of the host. */
struct eli_irq {
	int fd;
	u32 irq;
};

static inline struct eliprod_status eli_irq_status(struct eli_irq *irq)
{
	struct eliprod_status status;

	TEST_ASSERT(!ioctl(irq->fd, ELIPROD_STATUS, &status), "ELIPROD_STATUS");
	return status;
}

static inline void eli_irq_create(struct eli_irq *irq, u32 kind, int eventfd,
				  u32 cpu)
{
	struct eliprod_create create = {
		.kind = kind,
		.eventfd = eventfd,
		.cpu = cpu,
	};
	int r;

	irq->fd = open("/dev/eliprod", O_RDWR | O_CLOEXEC);
	TEST_ASSERT(irq->fd >= 0, "open() of /dev/eliprod");
	r = ioctl(irq->fd, ELIPROD_CREATE, &create);
	TEST_ASSERT(!r, "ELIPROD_CREATE on CPU %u", cpu);
	irq->irq = create.irq;
	TEST_ASSERT_EQ(eli_irq_status(irq).irq, create.irq);
}

static inline void eli_irq_fire(struct eli_irq *irq)
{
	struct eliprod_fire fire = { .count = 1 };

	TEST_ASSERT(!ioctl(irq->fd, ELIPROD_FIRE, &fire), "ELIPROD_FIRE");
}

static inline void eli_irq_start(struct eli_irq *irq, u32 flags, u64 us,
				 u32 from_cpu)
{
	struct eliprod_fire fire = {
		.flags = flags,
		.interval_ns = us * 1000,
		.from_cpu = from_cpu,
	};

	TEST_ASSERT(!ioctl(irq->fd, ELIPROD_FIRE, &fire), "ELIPROD_FIRE");
}

static inline void eli_irq_stop(struct eli_irq *irq)
{
	TEST_ASSERT(!ioctl(irq->fd, ELIPROD_STOP), "ELIPROD_STOP");
}

/* An assigned device, with one MSI. */
struct eli_dev {
	struct eli_irq irq;
	int eventfd;
	u32 gsi;
	/* where the MSI is routed to */
	u32 vcpu;
	u8 vector;
};

/* How a vCPU's thread ended, beside KVM's exit reasons. */
#define ELI_END_DONE	1000
#define ELI_END_STOPPED	1001
#define ELI_END_ABORT	1002

struct eli_vm;

struct eli_thread {
	struct eli_vm *ev;
	struct kvm_vcpu *vcpu;
	pthread_t pthread;
	unsigned int cpu;
	bool started;
	/* an exception that the guest does not expect is no failure */
	bool may_abort;
	/* nor is that there is no memory for KVM, which can go on */
	bool may_fail;
	pid_t tid;
	/* what the thread is asked for, before it is sent a signal */
	bool want_stop;
	bool want_pause;
	bool done;
	/* exit reason, -errno or ELI_END_* */
	int end;
	/* the last GUEST_SYNC() */
	u64 sync;
	sem_t synced;
	sem_t resume;
	/* opened before, as that would wait for a vCPU that runs */
	int stats_fd;
};

struct eli_vm {
	struct kvm_vm *vm;
	unsigned int nr_vcpus;
	struct kvm_vcpu *vcpu[ELI_MAX_VCPUS];
	struct eli_thread thread[ELI_MAX_VCPUS];
	struct eli_shared *sh;
	unsigned int nr_devs;
	struct eli_dev dev[ELI_MAX_DEVS];
};

static inline s64 eli_vcpu_stat(struct eli_vm *ev, unsigned int i,
				const char *name)
{
	struct kvm_stats_header header;
	struct kvm_stats_desc *descs;
	int fd = ev->thread[i].stats_fd, n;
	s64 value = -1;

	read_stats_header(fd, &header);
	descs = read_stats_descriptors(fd, &header);
	for (n = 0; n < header.num_desc; n++) {
		struct kvm_stats_desc *d = get_stats_descriptor(descs, n,
								&header);

		if (!strcmp(d->name, name)) {
			read_stat_data(fd, &header, d, (u64 *)&value, 1);
			break;
		}
	}
	free(descs);
	return value;
}

static inline void eli_debugfs_path(struct eli_vm *ev, char *path, size_t size)
{
	snprintf(path, size, "/sys/kernel/debug/kvm/%d-%d/eli", getpid(),
		 ev->vm->fd);
}

/* KVM's own account of why ELI is off. */
static inline void eli_dump(struct eli_vm *ev)
{
	char path[128], line[256];
	FILE *f;

	eli_debugfs_path(ev, path, sizeof(path));
	f = fopen(path, "r");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		pr_info("# %s", line);
	fclose(f);
}

static void eli_signal(int sig)
{
}

static void *eli_vcpu_thread(void *arg)
{
	struct eli_thread *t = arg;
	struct kvm_vcpu *vcpu = t->vcpu;
	struct ucall uc;

	eli_pin(t->cpu);
	WRITE_ONCE(t->tid, syscall(SYS_gettid));
	while (!t->end) {
		if (__vcpu_run(vcpu)) {
			if (errno == EAGAIN)
				continue;
			if (t->may_fail && (errno == ENOMEM || errno == EFAULT))
				continue;
			if (errno != EINTR) {
				t->end = -errno;
				break;
			}
			vcpu->run->immediate_exit = 0;
			if (READ_ONCE(t->want_stop))
				t->end = ELI_END_STOPPED;
			if (READ_ONCE(t->want_pause)) {
				WRITE_ONCE(t->want_pause, false);
				sem_post(&t->synced);
				sem_wait(&t->resume);
			}
			continue;
		}
		switch (get_ucall(vcpu, &uc)) {
		case UCALL_SYNC:
			t->sync = uc.args[1];
			sem_post(&t->synced);
			sem_wait(&t->resume);
			break;
		case UCALL_PRINTF:
			REPORT_GUEST_PRINTF(uc);
			break;
		case UCALL_DONE:
			t->end = ELI_END_DONE;
			break;
		case UCALL_ABORT:
			if (!t->may_abort)
				REPORT_GUEST_ASSERT(uc);
			t->end = ELI_END_ABORT;
			break;
		default:
			t->end = vcpu->run->exit_reason;
		}
	}
	WRITE_ONCE(t->done, true);
	return NULL;
}

static inline void eli_thread_start(struct eli_vm *ev, unsigned int i)
{
	struct eli_thread *t = &ev->thread[i];

	t->ev = ev;
	t->vcpu = ev->vcpu[i];
	if (!t->cpu)
		t->cpu = eli_vcpu_cpu(i);
	sem_init(&t->synced, 0, 0);
	sem_init(&t->resume, 0, 0);
	signal(SIGUSR1, eli_signal);
	TEST_ASSERT(!pthread_create(&t->pthread, NULL, eli_vcpu_thread, t),
		    "pthread_create()");
	t->started = true;
}

static inline void eli_sem_wait(sem_t *sem, const char *what)
{
	struct timespec ts;
	int r;

	clock_gettime(CLOCK_REALTIME, &ts);
	ts.tv_sec += ELI_TIMEOUT_MS / 1000;
	do {
		r = sem_timedwait(sem, &ts);
	} while (r && errno == EINTR);
	TEST_ASSERT(!r, "Timed out: %s", what);
}

/* Wait for GUEST_SYNC(stage); the vCPU stays in user space. */
static inline void eli_thread_sync(struct eli_thread *t, u64 stage)
{
	eli_sem_wait(&t->synced, "GUEST_SYNC()");
	TEST_ASSERT_EQ(t->sync, stage);
}

static inline void eli_thread_kick(struct eli_thread *t)
{
	WRITE_ONCE(t->vcpu->run->immediate_exit, 1);
	pthread_kill(t->pthread, SIGUSR1);
}

/* Take a running vCPU out to user space. */
static inline void eli_thread_pause(struct eli_thread *t)
{
	WRITE_ONCE(t->want_pause, true);
	eli_thread_kick(t);
	eli_sem_wait(&t->synced, "a vCPU that was sent a signal");
}

static inline void eli_thread_resume(struct eli_thread *t)
{
	sem_post(&t->resume);
}

/* Until the thread has ended by itself; returns how. */
static inline int eli_thread_join(struct eli_thread *t)
{
	if (!t->started)
		return t->end;
	ELI_ASSERT_WAIT(READ_ONCE(t->done), "vCPU %u runs on", t->vcpu->id);
	pthread_join(t->pthread, NULL);
	t->started = false;
	return t->end;
}

/* End it, whatever the guest does; returns how it ended. */
static inline int eli_thread_stop(struct eli_thread *t)
{
	if (t->started && !READ_ONCE(t->done)) {
		WRITE_ONCE(t->want_stop, true);
		eli_thread_kick(t);
		sem_post(&t->resume);
	}
	return eli_thread_join(t);
}

static inline void *eli_hva(struct eli_vm *ev, void *guest)
{
	return addr_gva2hva(ev->vm, (vm_vaddr_t)guest);
}

/* A TSS of its own with stacks for each vCPU. */
static inline void eli_init_tss(struct eli_vm *ev, unsigned int n)
{
	struct kvm_vcpu *vcpu = ev->vcpu[n];
	struct kvm_sregs sregs;
	vm_vaddr_t tss = vm_vaddr_alloc_page(ev->vm);
	void *hva = addr_gva2hva(ev->vm, tss);
	vm_vaddr_t stack;
	int i;

	/* RSP0 at 4, IST 1 to 4 from 36 */
	for (i = 0; i <= 4; i++) {
		stack = vm_vaddr_alloc_pages(ev->vm, ELI_STACK_PAGES);
		stack += ELI_STACK_PAGES * getpagesize();
		memcpy(hva + (i ? 36 + 8 * (i - 1) : 4), &stack, 8);
		ev->sh->stacks[n][i] = stack;
	}
	vcpu_sregs_get(vcpu, &sregs);
	sregs.tr.base = tss;
	vcpu_sregs_set(vcpu, &sregs);
}

static inline void eli_vm_create(struct eli_vm *ev, unsigned int nr_vcpus,
				 void *guest_code)
{
	struct idt_entry *idt;
	u64 *gdt;
	int i;

	memset(ev, 0, sizeof(*ev));
	ev->nr_vcpus = nr_vcpus;
	ev->vm = __vm_create_with_vcpus(VM_SHAPE_DEFAULT, nr_vcpus, 128,
					guest_code, ev->vcpu);

	gdt = addr_gva2hva(ev->vm, ev->vm->arch.gdt);
	gdt[ELI_USER_CS >> 3] = 0x00affb000000ffff;
	gdt[ELI_USER_DS >> 3] = 0x00cff3000000ffff;
	gdt[ELI_CS32 >> 3] = 0x00cf9b000000ffff;
	gdt[ELI_ABSENT_DS >> 3] = 0x00cf13000000ffff;

	idt = addr_gva2hva(ev->vm, ev->vm->arch.idt);
	for (i = 0; i < 256; i++) {
		idt[i].ist = eli_ist(i);
		if (i >= 32)
			vm_install_exception_handler(ev->vm, i, eli_guest_irq);
	}

	ev->sh = eli_hva(ev, &eli_shared);
	ev->sh->host_cr8 = eli_on() && host_cpu_is_amd &&
			   this_cpu_has(X86_FEATURE_HYPERVISOR);
	for (i = 0; i < nr_vcpus; i++) {
		eli_init_tss(ev, i);
		ev->sh->idt[i] = ev->vm->arch.idt;
		ev->thread[i].stats_fd = vcpu_get_stats_fd(ev->vcpu[i]);
	}
}

/* Another IDT for a vCPU, with the gates of the first. */
static inline vm_vaddr_t eli_second_idt(struct eli_vm *ev, unsigned int i)
{
	struct kvm_sregs sregs;
	vm_vaddr_t idt = vm_vaddr_alloc_page(ev->vm);

	memcpy(addr_gva2hva(ev->vm, idt),
	       addr_gva2hva(ev->vm, ev->vm->arch.idt), 4096);
	vcpu_sregs_get(ev->vcpu[i], &sregs);
	sregs.idt.base = idt;
	vcpu_sregs_set(ev->vcpu[i], &sregs);
	ev->sh->idt[i] = idt;
	return idt;
}

/* Pages that the guest can use at CPL 3. */
static inline void eli_map_user(struct eli_vm *ev, vm_vaddr_t gva)
{
	int level, l;
	u64 *entry;

	for (l = PG_LEVEL_4K; l <= PG_LEVEL_512G; l++) {
		level = l;
		entry = __vm_get_page_table_entry(ev->vm, gva, &level);
		*entry |= PTE_USER_MASK;
	}
}

/* Write the routes of all devices as they are set now. */
static inline void eli_route_all(struct eli_vm *ev)
{
	struct kvm_irq_routing *routing = kvm_gsi_routing_create();
	int i;

	for (i = 0; i < ev->nr_devs; i++) {
		struct eli_dev *dev = &ev->dev[i];
		struct kvm_irq_routing_entry *e;

		e = &routing->entries[routing->nr++];
		memset(e, 0, sizeof(*e));
		e->gsi = dev->gsi;
		e->type = KVM_IRQ_ROUTING_MSI;
		e->u.msi.address_lo = APIC_DEFAULT_GPA | dev->vcpu << 12;
		e->u.msi.data = dev->vector;
	}
	kvm_gsi_routing_write(ev->vm, routing);
}

static inline void eli_route(struct eli_vm *ev, struct eli_dev *dev,
			     unsigned int vcpu, u8 vector)
{
	dev->vcpu = vcpu;
	dev->vector = vector;
	eli_route_all(ev);
}

static inline void eli_dev_irqfd(struct eli_vm *ev, struct eli_dev *dev,
				 bool on)
{
	struct kvm_irqfd irqfd = {
		.fd = dev->eventfd,
		.gsi = dev->gsi,
		.flags = on ? 0 : KVM_IRQFD_FLAG_DEASSIGN,
	};

	vm_ioctl(ev->vm, KVM_IRQFD, &irqfd);
}

/* Assign a device whose MSI is to arrive as a vector of a vCPU. */
static inline struct eli_dev *eli_dev_add(struct eli_vm *ev, unsigned int vcpu,
					  u8 vector)
{
	struct eli_dev *dev = &ev->dev[ev->nr_devs];

	TEST_ASSERT(ev->nr_devs < ELI_MAX_DEVS, "Too many devices");
	dev->gsi = ELI_GSI + ev->nr_devs++;
	dev->eventfd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	TEST_ASSERT(dev->eventfd >= 0, "eventfd()");
	eli_irq_create(&dev->irq, ELIPROD_ASSIGNED, dev->eventfd,
		       eli_vcpu_cpu(vcpu));
	eli_route(ev, dev, vcpu, vector);
	eli_dev_irqfd(ev, dev, true);
	return dev;
}

/* Unplug it, as far as the host is concerned. */
static inline void eli_dev_close(struct eli_dev *dev)
{
	close(dev->irq.fd);
	dev->irq.fd = -1;
}

static inline void eli_vm_destroy(struct eli_vm *ev)
{
	int i;

	for (i = 0; i < ev->nr_vcpus; i++)
		eli_thread_stop(&ev->thread[i]);
	for (i = 0; i < ev->nr_devs; i++) {
		if (ev->dev[i].irq.fd >= 0)
			eli_dev_close(&ev->dev[i]);
		close(ev->dev[i].eventfd);
	}
	for (i = 0; i < ev->nr_vcpus; i++)
		close(ev->thread[i].stats_fd);
	kvm_vm_free(ev->vm);
}

static inline u32 eli_host_count(struct eli_vm *ev, u8 vector)
{
	return READ_ONCE(ev->sh->count[vector]);
}

/* Fire, and wait until the guest's handler for the vector has run once more. */
static inline void eli_fire_as(struct eli_vm *ev, struct eli_dev *dev,
			       u8 vector)
{
	u32 before = eli_host_count(ev, vector);

	eli_irq_fire(&dev->irq);
	ELI_ASSERT_WAIT(eli_host_count(ev, vector) != before,
			"vector 0x%x was fired and did not arrive", vector);
	TEST_ASSERT(eli_host_count(ev, vector) == before + 1,
		    "vector 0x%x arrived %u times", vector,
		    eli_host_count(ev, vector) - before);
}

static inline void eli_fire(struct eli_vm *ev, struct eli_dev *dev)
{
	eli_fire_as(ev, dev, dev->vector);
}

/* Until the guest's idle loop ran a whole round: no handler is running. */
static inline void eli_wait_idle(struct eli_vm *ev)
{
	u32 loops = READ_ONCE(ev->sh->loops);

	ELI_ASSERT_WAIT(READ_ONCE(ev->sh->loops) - loops > 1,
			"the guest's idle loop stands still");
}

static inline void eli_wait_stage(struct eli_vm *ev, u32 stage)
{
	ELI_ASSERT_WAIT(READ_ONCE(ev->sh->stage) == stage ||
			READ_ONCE(ev->thread[0].done),
			"the guest is at stage %u, not %u",
			READ_ONCE(ev->sh->stage), stage);
	TEST_ASSERT(READ_ONCE(ev->sh->stage) == stage,
		    "The vCPU ended at stage %u (%d)", ev->sh->stage,
		    ev->thread[0].end);
}

static inline void eli_go(struct eli_vm *ev, u32 go)
{
	WRITE_ONCE(ev->sh->go, go);
}

/*
 * Fire until interrupts reach the guest directly: some that the handler of the
 * host did not see.  Without ELI, a few have to arrive.  The guest must have
 * interrupts on.
 */
static inline void eli_arm(struct eli_vm *ev, struct eli_dev *dev)
{
	u64 end = eli_now_ns() + ELI_TIMEOUT_MS * 1000000ull;
	u64 handled = 0, now;
	int direct = 0, i;

	for (i = 0; i < 10; i++)
		eli_fire(ev, dev);
	if (!eli_on())
		return;

	while (direct < 5) {
		eli_fire(ev, dev);
		now = eli_irq_status(&dev->irq).handled;
		if (now == handled)
			direct++;
		else
			usleep(5000);
		handled = now;
		if (eli_now_ns() > end) {
			eli_dump(ev);
			TEST_FAIL("ELI does not deliver directly");
		}
	}
	TEST_ASSERT(eli_vcpu_stat(ev, dev->vcpu, "eli_direct") > 0,
		    "Interrupts by-pass the host, but eli_direct is %ld",
		    (long)eli_vcpu_stat(ev, dev->vcpu, "eli_direct"));
}

/* One vCPU and one device, as most tests need it; the guest is at stage 1. */
static inline struct eli_dev *eli_start(struct eli_vm *ev, void *guest_code,
					u8 vector)
{
	struct eli_dev *dev;

	eli_pin(0);
	eli_vm_create(ev, 1, guest_code);
	dev = eli_dev_add(ev, 0, vector);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	return dev;
}

#endif /* SELFTEST_KVM_ELI_UTIL_H */
