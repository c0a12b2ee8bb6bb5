// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exitless interrupts: the guard.
 *
 * In DIRECT mode the guest's RFLAGS.IF masks the host's IRQs.  A timer on the
 * guard CPU, which runs no vCPU in DIRECT mode, looks at all CPUs that do, and
 * sends an NMI, which always exits, to those that have not exited for too long.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpuhotplug.h>
#include <linux/hrtimer.h>
#include <linux/kvm_host.h>
#include <linux/nmi.h>
#include <linux/sched/isolation.h>
#include <linux/smp.h>

#include <asm/apic.h>

#include "internal.h"

struct eli_cpu {
	/*
	 * Incremented at each entry and exit in DIRECT mode, and at those in INJECT
	 * mode that are guarded: odd while in the guest.
	 */
	unsigned int seq;
	/* What the guard saw last.  Owned by the guard. */
	unsigned int seen;
	/* An NMI was sent and its handler has not run. */
	bool nmi;
	/* An NMI was sent and the vCPU has not seen it. */
	bool fired;
};

static DEFINE_PER_CPU(struct eli_cpu, eli_cpu);

/*
 * CPUs that the guard has to look at.  A CPU stays in it until the guard stops.
 */
static struct cpumask eli_guarded_cpus;

/* Protects starting, stopping and moving the timer. */
static DEFINE_MUTEX(eli_guard_lock);
static unsigned int eli_guard_users;
static struct hrtimer eli_guard_timer;
/* -1 if there is none; stays as it is while a vCPU may rely on it. */
static int eli_guard_cpu = -1;
static int eli_guard_cpuhp;

static ktime_t eli_guard_period(void)
{
	/* Two looks at the same entry are needed. */
	return ns_to_ktime((u64)eli_max_us * NSEC_PER_USEC / 2);
}

static enum hrtimer_restart eli_guard_tick(struct hrtimer *timer)
{
	int cpu;

	for_each_cpu(cpu, &eli_guarded_cpus) {
		struct eli_cpu *ec = per_cpu_ptr(&eli_cpu, cpu);
		unsigned int seq = READ_ONCE(ec->seq);

		/*
		 * One NMI at a time: the CPU remembers a second one, which would
		 * find nothing to claim.
		 */
		if ((seq & 1) && seq == ec->seen && !READ_ONCE(ec->nmi)) {
			WRITE_ONCE(ec->fired, true);
			/* Before the NMI, for the handler to claim it. */
			smp_store_release(&ec->nmi, true);
			apic->send_IPI(cpu, NMI_VECTOR);
		}
		ec->seen = seq;
	}

	hrtimer_forward_now(timer, eli_guard_period());
	return HRTIMER_RESTART;
}

/*
 * The exit is all that the NMI is for.  One that was sent to a vCPU which exited
 * just then ends here as well.
 */
static int eli_guard_nmi(unsigned int type, struct pt_regs *regs)
{
	if (!raw_cpu_read(eli_cpu.nmi))
		return NMI_DONE;

	raw_cpu_write(eli_cpu.nmi, false);
	return NMI_HANDLED;
}

static void eli_guard_start(void *unused)
{
	hrtimer_start(&eli_guard_timer, eli_guard_period(),
		      HRTIMER_MODE_REL_PINNED_HARD);
}

/* The lowest CPU that takes timers and is not @except, or -1. */
static int eli_pick_guard(unsigned int except)
{
	const struct cpumask *mask = housekeeping_cpumask(HK_TYPE_TIMER);
	unsigned int cpu;

	if (num_online_cpus() < 2)
		return -1;

	for_each_cpu_and(cpu, mask, cpu_online_mask) {
		if (cpu != except)
			return cpu;
	}

	return -1;
}

/* Start the guard with the first vCPU that may run in DIRECT mode. */
void eli_guard_get(void)
{
	cpus_read_lock();
	mutex_lock(&eli_guard_lock);
	if (!eli_guard_users++ && eli_guard_cpu >= 0)
		smp_call_function_single(eli_guard_cpu, eli_guard_start, NULL, 1);
	mutex_unlock(&eli_guard_lock);
	cpus_read_unlock();
}

void eli_guard_put(void)
{
	mutex_lock(&eli_guard_lock);
	if (!--eli_guard_users) {
		hrtimer_cancel(&eli_guard_timer);
		cpumask_clear(&eli_guarded_cpus);
	}
	mutex_unlock(&eli_guard_lock);
}

/* May a vCPU not run in DIRECT mode on @cpu, as nobody would guard it? */
bool eli_guards(int cpu)
{
	int guard = READ_ONCE(eli_guard_cpu);

	return guard < 0 || guard == cpu;
}

/* Called with IRQs off right before and right after an entry that is guarded. */
void eli_guard_enter(void)
{
	struct eli_cpu *ec = this_cpu_ptr(&eli_cpu);
	int cpu = smp_processor_id();

	if (unlikely(!cpumask_test_cpu(cpu, &eli_guarded_cpus)))
		cpumask_set_cpu(cpu, &eli_guarded_cpus);
	WRITE_ONCE(ec->seq, ec->seq + 1);
}

/* Returns true if the guard has sent an NMI meanwhile. */
bool eli_guard_leave(void)
{
	struct eli_cpu *ec = this_cpu_ptr(&eli_cpu);

	WRITE_ONCE(ec->seq, ec->seq + 1);
	if (likely(!READ_ONCE(ec->fired)))
		return false;

	WRITE_ONCE(ec->fired, false);
	return true;
}

static void eli_nop(void *unused)
{
}

/*
 * Make @cpu the guard, or have none if it is -1.  While there is none, vCPUs do
 * not enter DIRECT mode.  Those that are in it, on @cpu among others, are still
 * subject to the old guard, which is on a CPU that has no such vCPU: once @cpu
 * has taken an IPI, it has none either.
 */
static void eli_guard_move(int cpu)
{
	mutex_lock(&eli_guard_lock);
	WRITE_ONCE(eli_guard_cpu, -1);
	on_each_cpu(eli_nop, NULL, 1);
	hrtimer_cancel(&eli_guard_timer);

	WRITE_ONCE(eli_guard_cpu, cpu);
	if (eli_guard_users && cpu >= 0)
		smp_call_function_single(cpu, eli_guard_start, NULL, 1);
	mutex_unlock(&eli_guard_lock);
}

static int eli_guard_cpu_up(unsigned int cpu)
{
	if (READ_ONCE(eli_guard_cpu) < 0)
		eli_guard_move(eli_pick_guard(-1));

	return 0;
}

static int eli_guard_cpu_down(unsigned int cpu)
{
	if (READ_ONCE(eli_guard_cpu) == cpu)
		eli_guard_move(num_online_cpus() > 2 ? eli_pick_guard(cpu) : -1);
	else if (num_online_cpus() <= 2)
		eli_guard_move(-1);

	return 0;
}

int eli_guard_init(void)
{
	int r;

	hrtimer_init(&eli_guard_timer, CLOCK_MONOTONIC,
		     HRTIMER_MODE_REL_PINNED_HARD);
	eli_guard_timer.function = eli_guard_tick;

	r = register_nmi_handler(NMI_LOCAL, eli_guard_nmi, 0, "kvm_eli");
	if (r)
		return r;

	r = cpuhp_setup_state(CPUHP_AP_ONLINE_DYN, "kvm/x86/eli:online",
			      eli_guard_cpu_up, eli_guard_cpu_down);
	if (r < 0) {
		unregister_nmi_handler(NMI_LOCAL, "kvm_eli");
		return r;
	}

	eli_guard_cpuhp = r;
	return 0;
}

void eli_guard_exit(void)
{
	WARN_ON_ONCE(eli_guard_users);
	cpuhp_remove_state_nocalls(eli_guard_cpuhp);
	/*
	 * An NMI that is still on its way must not find the handler gone.  It
	 * reaches its CPU before an IPI does that is sent later.
	 */
	on_each_cpu(eli_nop, NULL, 1);
	unregister_nmi_handler(NMI_LOCAL, "kvm_eli");
	eli_guard_cpu = -1;
}
