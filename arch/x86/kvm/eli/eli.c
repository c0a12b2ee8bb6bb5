// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exitless interrupts: the state of a vCPU, and what happens at its entries and
 * exits.
 *
 * See Documentation/virt/kvm/x86/eli.rst.  The idea is from A. Gordon, N. Amit
 * et al., "ELI: Bare-Metal Performance for I/O Virtualization", ASPLOS 2012.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/moduleparam.h>
#include <linux/seq_file.h>

#include <asm/apic.h>
#include <asm/desc.h>

#include "cpuid.h"
#include "internal.h"
#include "irq.h"
#include "lapic.h"
#include "mmu.h"
#include "smm.h"
#include "x86.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/*
 * Deliver IRQs of assigned devices to guests without VM-Exits.  Off by default.
 * After loading, N if the host cannot do it.
 */
static bool __read_mostly enable_eli;
module_param_named(eli, enable_eli, bool, 0444);
MODULE_PARM_DESC(eli, "Exitless interrupts for assigned devices (default: off)");

/*
 * Let guests complete these IRQs without VM-Exits, too, which takes x2APIC mode
 * in host and guest.  N means that each EOI exits.
 */
bool __read_mostly kvm_eli_eoi = true;
EXPORT_SYMBOL_GPL(kvm_eli_eoi);
module_param_named(eli_eoi, kvm_eli_eoi, bool, 0444);
MODULE_PARM_DESC(eli_eoi, "Exitless completion of interrupts (default: on)");

/*
 * Fall back if the host uses a vector of the CPU for another device that is below
 * the highest vector of the guest's, as a malicious guest could keep such an IRQ
 * from the host.
 */
bool __read_mostly eli_strict = true;
module_param(eli_strict, bool, 0444);
MODULE_PARM_DESC(eli_strict, "Protect all IRQs of the host from malicious guests (default: on)");

#define ELI_MIN_MAX_US	100
#define ELI_MAX_MAX_US	1000000

/* For how long a guest may mask the host's IRQs on its CPU, in microseconds. */
unsigned int __read_mostly eli_max_us = 10000;

static int eli_set_max_us(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, ELI_MIN_MAX_US, ELI_MAX_MAX_US);
}

static const struct kernel_param_ops eli_max_us_ops = {
	.set = eli_set_max_us,
	.get = param_get_uint,
};

module_param_cb(eli_max_us, &eli_max_us_ops, &eli_max_us, 0444);
MODULE_PARM_DESC(eli_max_us, "Longest time that a guest can mask the host's interrupts, in us, 100..1000000 (default: 10000)");

DEFINE_STATIC_KEY_FALSE(kvm_eli_key);
EXPORT_SYMBOL_GPL(kvm_eli_key);

#define ELI_REASON(reason, counter)					\
	[ELI_OFF_##reason] = {						\
		.name = #counter,					\
		.stat = offsetof(struct kvm_vcpu_stat, eli_off_##counter), \
	}

static const struct {
	const char *name;
	/* Where it is counted in struct kvm_vcpu_stat, 0 if it is not. */
	size_t stat;
} eli_reasons[ELI_NR_REASONS] = {
	[ELI_OK] = { .name = "none" },
	ELI_REASON(UNSUPPORTED, unsupported),
	ELI_REASON(REMAPPED, remapped),
	ELI_REASON(APIC, apic),
	ELI_REASON(APICV, apicv),
	ELI_REASON(CPU_MODE, cpu_mode),
	ELI_REASON(SMM, smm),
	ELI_REASON(NESTED, nested),
	ELI_REASON(DEBUG, debug),
	ELI_REASON(IDT, idt),
	ELI_REASON(SPACE, space),
	ELI_REASON(AFFINITY, affinity),
	ELI_REASON(VECTOR, vector),
	ELI_REASON(GUARD, guard),
	ELI_REASON(MASKED, masked),
	[ELI_OFF_NO_IRQ] = { .name = "no_irq" },
};

static void eli_count_off(struct kvm_vcpu *vcpu, enum eli_reason reason)
{
	if (eli_reasons[reason].stat)
		++*(u64 *)((void *)&vcpu->stat + eli_reasons[reason].stat);
}

/*
 * Make all vCPUs look at the state again before they enter the guest.  On return
 * none is in guest mode with what it derived from the old one: one that was has
 * left, and one that was about to enter finds the request and does not.  It is
 * KVM_REQ_UNBLOCK as that asks for nothing else; vcpu_run() clears it.
 */
void eli_kick(struct kvm_eli *eli)
{
	lockdep_assert_held(&eli->lock);

	/* Pairs with the load in __kvm_eli_prepare(). */
	smp_store_release(&eli->gen, eli->gen + 1);
	kvm_make_all_cpus_request(eli->kvm, KVM_REQ_UNBLOCK | KVM_REQUEST_WAIT |
				  KVM_REQUEST_NO_WAKEUP);
}

/* What about the guest's state is in the way of ELI?  Cheap, see below. */
static enum eli_reason eli_check_guest(struct kvm_vcpu *vcpu)
{
	if (!lapic_in_kernel(vcpu) || !kvm_apic_hw_enabled(vcpu->arch.apic) ||
	    !kvm_apic_sw_enabled(vcpu->arch.apic))
		return ELI_OFF_APIC;
	if (kvm_vcpu_apicv_active(vcpu))
		return ELI_OFF_APICV;
	if (!is_long_mode(vcpu))
		return ELI_OFF_CPU_MODE;
	if (is_smm(vcpu))
		return ELI_OFF_SMM;
	if (vcpu->guest_debug)
		return ELI_OFF_DEBUG;
	if (vcpu->arch.guest_state_protected)
		return ELI_OFF_UNSUPPORTED;
	if (!kvm_x86_call(eli_allowed)(vcpu))
		return ELI_OFF_NESTED;

	return ELI_OK;
}

static void eli_set_mode(struct kvm_vcpu *vcpu, enum kvm_eli_mode mode)
{
	/* The IDTR in the VMCB or VMCS may be newer than guest_idt. */
	if (mode == KVM_ELI_OFF && vcpu->arch.eli->mode == KVM_ELI_OFF)
		return;

	kvm_x86_call(eli_set_mode)(vcpu, mode);
}

static void eli_turn_off(struct kvm_vcpu *vcpu)
{
	eli_set_mode(vcpu, KVM_ELI_OFF);
	eli_disarm(vcpu, false);
}

/*
 * Re-derive everything: whether the vCPU is armed, and whether it can run in
 * DIRECT mode on @cpu.
 */
static enum eli_reason eli_update(struct kvm_vcpu *vcpu, int cpu,
				  enum eli_reason reason)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_eli *eli = vcpu->kvm->arch.eli;
	struct desc_ptr idt;
	unsigned int nr;

	lockdep_assert_held(&eli->lock);

	if (eli->dead)
		reason = eli->dead;

	if (p->pub.view && p->verify && reason == ELI_OK && !p->idt_changed &&
	    eli_idt_moved(vcpu)) {
		pr_info_ratelimited("guest of pid %d remapped its IDT, ELI is off for it\n",
				    task_tgid_nr(current));
		eli->dead = ELI_OFF_REMAPPED;
		eli_kick(eli);
		eli_disown_irqs(eli);
		reason = ELI_OFF_REMAPPED;
	}
	p->verify = false;

	if (p->pub.view && (reason != ELI_OK || p->idt_changed)) {
		eli_ungather_irqs(vcpu);
		eli_turn_off(vcpu);
	}
	p->idt_changed = false;
	if (reason != ELI_OK)
		return reason;

	reason = eli_gather_irqs(vcpu, cpu);
	/* Else, just exceptions and the injection gate. */
	nr = reason == ELI_OK ? find_last_bit(p->assigned, ELI_NR_GATES) + 1 :
				ELI_FIRST_VECTOR;

	/* If the table cannot grow there, another view may have the room. */
	if (p->pub.view &&
	    (reason == ELI_OFF_NO_IRQ || !eli_build_table(vcpu, nr)))
		eli_turn_off(vcpu);

	if (!p->pub.view) {
		/* There is nothing to gain before DIRECT mode is possible. */
		if (reason != ELI_OK)
			return reason;

		kvm_x86_call(get_idt)(vcpu, &idt);
		reason = eli_arm(vcpu, &idt, nr);
		if (reason != ELI_OK) {
			eli_ungather_irqs(vcpu);
			return reason;
		}
	}

	/* The table may have moved. */
	eli_set_mode(vcpu, KVM_ELI_INJECT);

	if (reason == ELI_OK && eli_guards(cpu))
		reason = ELI_OFF_GUARD;

	return reason;
}

/*
 * Bring the vCPU's state up to date.  This is the one place where a vCPU is armed
 * and disarmed, in its own task and before events are injected.
 */
void __kvm_eli_prepare(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_eli *eli = vcpu->kvm->arch.eli;
	enum eli_reason guest = eli_check_guest(vcpu), reason;
	/* The task may migrate; kvm_eli_may_run_direct() looks again. */
	int cpu = raw_smp_processor_id();
	unsigned int gen;

	/* Pairs with the store in eli_kick(). */
	gen = smp_load_acquire(&eli->gen);

	if (likely(p->gen == gen && p->cpu == cpu && p->guest == guest &&
		   !p->idt_changed && !p->verify &&
		   !(p->retry_at && time_after_eq(jiffies, p->retry_at))))
		return;

	mutex_lock(&eli->lock);
	p->gen = eli->gen;
	p->guest = guest;
	if (p->cpu != cpu) {
		p->cpu = cpu;
		p->on_cpu_since = jiffies;
	}
	p->retry_at = 0;

	reason = eli_update(vcpu, cpu, guest);
	/*
	 * What is not the guest's doing may change without notice.  So may the
	 * IDTR of a vCPU that is not armed, as it is not intercepted.
	 */
	if (reason != ELI_OK && reason != guest && reason != ELI_OFF_NO_IRQ &&
	    !eli->dead && !p->retry_at)
		p->retry_at = (jiffies + ELI_RETRY_DELAY) ?: 1;

	if (reason != p->reason) {
		eli_count_off(vcpu, reason);
		trace_kvm_eli_state(vcpu->vcpu_id, cpu, p->pub.view,
				    eli_reasons[reason].name);
		p->reason = reason;
	}

	if (reason == ELI_OK && !p->guarded)
		eli_guard_get();
	else if (reason != ELI_OK && p->guarded)
		eli_guard_put();
	p->guarded = reason == ELI_OK;
	mutex_unlock(&eli->lock);
}

/* Before the guest's IDTR changes: the VMCB or VMCS must hold the guest's own. */
void __kvm_eli_set_idt(struct kvm_vcpu *vcpu)
{
	eli_set_mode(vcpu, KVM_ELI_OFF);
	eli_priv(vcpu)->idt_changed = true;
}
EXPORT_SYMBOL_GPL(__kvm_eli_set_idt);

/* Before the vCPU is INITed or its VMCB or VMCS is rebuilt. */
void __kvm_eli_vcpu_reset(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;

	if (ev->view)
		__kvm_eli_set_idt(vcpu);
	ev->exited = false;
	ev->soft_vector = -1;
	ev->host_vector = -1;
}

/*
 * The host's CR8, its task priority, when no assigned IRQ is held back.  All CPUs
 * of the host have the same one all the time.
 */
static unsigned long eli_host_cr8;

static unsigned long eli_read_cr8(void)
{
	unsigned long cr8;

	asm volatile("mov %%cr8, %0" : "=r" (cr8));
	return cr8;
}

static void eli_write_cr8(unsigned long cr8)
{
	asm volatile("mov %0, %%cr8" : : "r" (cr8) : "memory");
}

/*
 * Hold the vCPU's IRQs back in the physical local APIC, or let them go.  As long
 * as the vCPU is about to enter the guest again, one that arrives outside of
 * DIRECT mode is not worth the host's handler and the injection that follows: it
 * is delivered as soon as the vCPU is in DIRECT mode.  The vectors that the task
 * priority blocks with them are held or belong to the VM, see eli_hold_vectors().
 */
static void eli_hold_back(struct kvm_eli_vcpu_priv *p, bool hold)
{
	if (p->pub.holding == hold)
		return;

	eli_write_cr8(hold ? p->max_vector >> 4 : eli_host_cr8);
	p->pub.holding = hold;
}

/* The vCPU is not going to enter the guest for now, or not on this CPU. */
void __kvm_eli_let_go(struct kvm_vcpu *vcpu)
{
	unsigned long flags;

	local_irq_save(flags);
	eli_hold_back(eli_priv(vcpu), false);
	local_irq_restore(flags);
}

/*
 * Once the guest has completed its virtual IRQs, an exit has to get it out of
 * INJECT mode.  The handler of the timer's IRQ, which completes it first, causes
 * one by setting the timer again or stopping it; unless that is done by VMX's
 * preemption timer, whose fast path does not look at PV EOI.
 */
bool __kvm_eli_needs_eoi_exit(struct kvm_vcpu *vcpu, int vector)
{
	struct kvm_lapic *apic = vcpu->arch.apic;

	return (kvm_lapic_get_reg(apic, APIC_LVTT) & APIC_VECTOR_MASK) != vector ||
	       apic->lapic_timer.timer_mode == APIC_LVT_TIMER_PERIODIC ||
	       kvm_can_use_hv_timer(vcpu);
}

/* Would the vCPU's virtual local APIC block all assigned IRQs? */
static bool eli_is_blocked(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_lapic *apic = vcpu->arch.apic;

	/* That the guest lowers its TPR need not exit. */
	if ((kvm_lapic_get_reg(apic, APIC_TASKPRI) & 0xf0) >= p->lowest_class)
		return false;

	/* Up to date: each change of TPR and ISR updates it. */
	return (kvm_lapic_get_reg(apic, APIC_PROCPRI) & 0xf0) >=
			(p->max_guest_vector & 0xf0) ||
	       kvm_lapic_find_highest_irr(vcpu) > p->max_guest_vector;
}

/* Is the state that the entry relies on still the current one? */
static bool eli_is_current(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	int cpu = smp_processor_id();
	unsigned int i;

	if (p->reason != ELI_OK || p->cpu != cpu || p->idt_changed ||
	    p->gen != READ_ONCE(vcpu->kvm->arch.eli->gen) || eli_guards(cpu))
		return false;

	/* ELI owns the affinity, but CPU hotplug and the like go before. */
	for (i = 0; i < p->nr_irqs; i++) {
		if (READ_ONCE(p->irq[i].cfg->vector) != p->irq[i].vector ||
		    eli_irq_cpu(p->irq[i].data) != cpu) {
			p->retry_at = jiffies ?: 1;
			return false;
		}
	}

	return true;
}

static bool eli_is_masked(struct kvm_eli_vcpu_priv *p)
{
	if (likely(!p->masked_until))
		return false;
	if (time_before(jiffies, p->masked_until))
		return true;

	p->masked_until = 0;
	return false;
}

/*
 * May the vCPU enter the guest with physical IRQs delivered to it?  Called right
 * before the entry, with IRQs off and vcpu->mode IN_GUEST_MODE: whoever changes
 * what is looked at here kicks the vCPU.  @possible is false if the vendor code
 * has a reason of its own, e.g. a virtual IRQ that is being injected.
 *
 * The virtual local APIC must have nothing to say, so that the physical one alone
 * decides on the guest's IRQs and their priorities.
 */
bool kvm_eli_may_run_direct(struct kvm_vcpu *vcpu, bool possible)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_lapic *apic = vcpu->arch.apic;
	bool direct, hold;

	if (!eli_is_current(vcpu)) {
		eli_hold_back(p, false);
		return false;
	}

	direct = possible && !eli_is_masked(p) &&
		 !apic->isr_count && kvm_lapic_find_highest_irr(vcpu) < 0 &&
		 (kvm_lapic_get_reg(apic, APIC_TASKPRI) & 0xf0) < p->lowest_class &&
		 !kvm_cpu_has_extint(vcpu);

	hold = !direct && p->may_hold && eli_is_blocked(vcpu);
	eli_hold_back(p, hold);

	/* A guest need not do what __kvm_eli_needs_eoi_exit() relies on. */
	if (hold && test_bit(KVM_APIC_PV_EOI_PENDING, &vcpu->arch.apic_attention)) {
		p->guarded_entry = true;
		eli_guard_enter();
	}
	return direct;
}
EXPORT_SYMBOL_GPL(kvm_eli_may_run_direct);

/* Right before an entry in DIRECT mode, with IRQs off. */
void kvm_eli_enter_direct(struct kvm_vcpu *vcpu)
{
	vcpu->stat.eli_direct++;
	eli_guard_enter();
}
EXPORT_SYMBOL_GPL(kvm_eli_enter_direct);

/*
 * How often the guard may find a guest that masks the host's IRQs, each within a
 * second of the one before.  A few times do not count: the CPU may have been taken
 * away, e.g. by a hypervisor below, while the guest had IRQs off for a moment.
 */
#define ELI_MAX_MASKED_EXITS	8
/* How long it is kept in INJECT mode then, first and at most. */
#define ELI_MIN_MASKED		(HZ / 10)
#define ELI_MAX_MASKED		(10 * HZ)

/* Is an IRQ waiting that is not the guest's? */
static bool eli_host_irq_pending(struct kvm_eli_vcpu_priv *p)
{
	unsigned int word;

	for (word = ELI_FIRST_VECTOR / 32; word < ELI_NR_GATES / 32; word++) {
		u32 irr = apic->read(APIC_IRR + word * 0x10);

		if (irr & ~((u32 *)p->assigned)[word])
			return true;
	}

	return false;
}

/*
 * The guard has interrupted the guest.  If the guest kept an IRQ from the host, it
 * is in INJECT mode for a while, where that exits whatever the guest does.
 */
static void eli_guarded_exit(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);

	vcpu->stat.eli_guard_nmi++;
	p->verify = true;
	if (kvm_x86_call(get_if_flag)(vcpu) || !eli_host_irq_pending(p))
		return;

	if (time_after(jiffies, p->masked_last + HZ))
		p->masked_count = 0;
	if (time_after(jiffies, p->masked_last + 2 * ELI_MAX_MASKED))
		p->masked_times = 0;
	p->masked_last = jiffies;
	if (++p->masked_count < ELI_MAX_MASKED_EXITS)
		return;

	/* Longer each time, if it does not stop. */
	p->masked_count = 0;
	p->masked_until = (jiffies + min(ELI_MAX_MASKED,
					 ELI_MIN_MASKED << min(p->masked_times, 7u))) ?: 1;
	p->masked_times++;
	eli_count_off(vcpu, ELI_OFF_MASKED);
}

/*
 * Right after each exit of an armed vCPU, with IRQs off and vcpu->mode still
 * IN_GUEST_MODE, or already EXITING_GUEST_MODE.
 */
void kvm_eli_exit(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_eli_vcpu *ev = &p->pub;

	ev->host_vector = -1;
	ev->soft_vector = -1;
	ev->exited = true;
	if (ev->mode != KVM_ELI_DIRECT) {
		if (unlikely(p->guarded_entry)) {
			p->guarded_entry = false;
			if (eli_guard_leave())
				vcpu->stat.eli_guard_nmi++;
		}
		return;
	}

	ev->was_direct = true;
	/*
	 * Have IRQs on before the next entry.  KVM's fast paths do without, as an
	 * IRQ that is pending exits at once; here the guest's RFLAGS.IF masks it.
	 */
	WRITE_ONCE(vcpu->mode, EXITING_GUEST_MODE);
	if (unlikely(eli_guard_leave()))
		eli_guarded_exit(vcpu);
}
EXPORT_SYMBOL_GPL(kvm_eli_exit);

/*
 * Does @vector, whose delivery the exit interrupted, belong to a physical IRQ?
 * If so, it is recorded for kvm_eli_handle_exit_irqoff() and must not be
 * re-injected.  @exception is what the exit was caused by, 0 if something else.
 */
bool kvm_eli_physical_event(struct kvm_vcpu *vcpu, u8 vector, u8 exception)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;

	if (vector < ELI_FIRST_VECTOR)
		return false;

	ev->host_vector = vector;
	ev->host_exception = exception;
	return true;
}
EXPORT_SYMBOL_GPL(kvm_eli_physical_event);

static u32 eli_read_isr(unsigned int word)
{
	return apic->read(APIC_ISR + word * 0x10);
}

static void eli_reflect(struct kvm_vcpu *vcpu, u8 vector, u8 exception)
{
	trace_kvm_eli_reflect(vcpu->vcpu_id, vector);
	++vcpu->stat.irq_exits;
	if (exception == GP_VECTOR)
		vcpu->stat.eli_reflect_limit++;
	else if (exception == NP_VECTOR)
		vcpu->stat.eli_reflect_gate++;
	else
		vcpu->stat.eli_reflect_event++;
	vcpu->arch.at_instruction_boundary = true;
	kvm_handle_host_interrupt_irqoff(vcpu, vector);
}

/*
 * After an exit, with IRQs off: hand the host its IRQ if that caused the exit, and
 * take over from the physical local APIC what the guest has in service.  No IRQ is
 * in service for the host, as it entered the guest from task context.
 */
void __kvm_eli_handle_exit_irqoff(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	DECLARE_BITMAP(taken, ELI_NR_GATES);
	int interrupted = p->pub.host_vector;
	unsigned int word, last, vector;
	bool hold, any = false;
	unsigned long isr;

	p->pub.exited = false;

	/*
	 * In INJECT mode it was decided at the entry.  What exited in spite of it
	 * is to be taken by the host, or would exit again at once.
	 */
	if (!p->pub.was_direct)
		return;

	p->pub.was_direct = false;

	/*
	 * Most likely, the vCPU is back in a moment.  Before anything that may
	 * enable IRQs, as the end of a handler does.
	 */
	hold = p->may_hold && p->reason == ELI_OK && p->cpu == smp_processor_id();
	eli_hold_back(p, hold);

	/*
	 * What an exit reports that is not caused by the IDT need not be true, e.g.
	 * the VMCB is undefined after SHUTDOWN.  The local APIC knows.
	 */
	if (interrupted >= 0 && !p->pub.host_exception &&
	    !(eli_read_isr(interrupted / 32) & BIT(interrupted % 32)))
		interrupted = -1;

	/* First, as it has the highest priority and is to be completed first. */
	if (interrupted >= 0 && !test_bit(interrupted, p->assigned)) {
		eli_reflect(vcpu, interrupted, p->pub.host_exception);
		interrupted = -1;
	}

	/* What was let in, at most: the table's limit stops all above. */
	last = (p->nr - 1) / 32;
	for (word = last; word; word--) {
		isr = eli_read_isr(word);
		if (likely(!isr))
			continue;

		if (!any)
			bitmap_zero(taken, ELI_NR_GATES);
		any = true;
		while (isr) {
			vector = word * 32 + __fls(isr);
			__clear_bit(__fls(isr), &isr);
			if (!test_bit(vector, p->assigned)) {
				/* eli_strict=0 and a guest that remapped its IDT. */
				eli_reflect(vcpu, vector, 0);
				continue;
			}
			apic->eoi();
			__set_bit(vector, taken);
		}
	}
	if (likely(!any))
		return;

	/* Ascending, as the virtual ISR expects it. */
	for_each_set_bit(vector, taken, ELI_NR_GATES) {
		u8 guest_vector = p->guest_vector[vector];

		trace_kvm_eli_transfer(vcpu->vcpu_id, vector, guest_vector,
				       vector == interrupted);
		if (vector == interrupted) {
			struct kvm_lapic_irq irq = {
				.vector = guest_vector,
				.delivery_mode = APIC_DM_FIXED,
			};

			/* The guest has not seen it: deliver it once more. */
			vcpu->stat.eli_redeliver++;
			kvm_apic_set_irq(vcpu, &irq, NULL);
		} else {
			vcpu->stat.eli_transfer++;
			kvm_apic_set_in_service(vcpu, guest_vector);
		}
	}
}

void kvm_eli_count_soft_int(struct kvm_vcpu *vcpu, u8 vector)
{
	vcpu->stat.eli_soft_int++;
	trace_kvm_eli_soft_int(vcpu->vcpu_id, vector);
}
EXPORT_SYMBOL_GPL(kvm_eli_count_soft_int);

/* INT @n at the current RIP, as the CPU would do it with the guest's IDT. */
static void eli_soft_int(struct kvm_vcpu *vcpu, u8 n)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	/* Another vCPU may write it meanwhile. */
	const gate_desc gate = eli_view(vcpu)->guest[n];
	u32 error_code = n * 8 + 2;

	kvm_eli_count_soft_int(vcpu, n);

	/* Queued for re-injection, as after any exit. */
	kvm_clear_interrupt_queue(vcpu);

	if ((n + 1) * sizeof(gate) - 1 > ev->guest_idt.size ||
	    (gate.bits.type != GATE_INTERRUPT && gate.bits.type != GATE_TRAP) ||
	    gate.bits.dpl < kvm_x86_call(get_cpl)(vcpu))
		return kvm_queue_exception_e(vcpu, GP_VECTOR, error_code);

	if (!gate.bits.p)
		return kvm_queue_exception_e(vcpu, NP_VECTOR, error_code);

	/* The code may have changed meanwhile; then the guest gets what it wrote. */
	if (!kvm_x86_call(skip_emulated_instruction)(vcpu))
		return;

	kvm_queue_interrupt(vcpu, n, false);
	kvm_make_request(KVM_REQ_EVENT, vcpu);
}

bool __kvm_eli_handle_fault(struct kvm_vcpu *vcpu, u8 exception, u32 error_code)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;

	/* A physical IRQ, the host's or the guest's, that has been dealt with. */
	if (ev->host_vector >= 0)
		return true;

	/* Gates below are the guest's own, and so is the fault. */
	if (ev->soft_vector >= ELI_INJECT_VECTOR) {
		eli_soft_int(vcpu, ev->soft_vector);
		return true;
	}

	/*
	 * The guest cannot take its INT n or the virtual IRQ or, on VMX, the INT n
	 * that was injected.  With its own IDT, the CPU would have dropped it in
	 * favor of the exception.
	 */
	if (vcpu->arch.interrupt.injected) {
		u8 vector = vcpu->arch.interrupt.nr;

		kvm_clear_interrupt_queue(vcpu);
		if ((error_code & 2) && (error_code >> 3) == ELI_INJECT_VECTOR)
			error_code = vector * 8 + (error_code & 7);
		kvm_queue_exception_e(vcpu, exception, error_code);
		return true;
	}

	/* The guest's own, unless it is one of the VMware backdoor's. */
	if (exception == GP_VECTOR && enable_vmware_backdoor)
		return false;

	kvm_queue_exception_e(vcpu, exception, error_code);
	return true;
}
EXPORT_SYMBOL_GPL(__kvm_eli_handle_fault);

void __kvm_eli_destroy_vcpu(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_eli *eli = vcpu->kvm->arch.eli;

	mutex_lock(&eli->lock);
	eli_ungather_irqs(vcpu);
	if (p->pub.view)
		eli_disarm(vcpu, true);
	if (p->guarded)
		eli_guard_put();
	mutex_unlock(&eli->lock);

	vcpu->arch.eli = NULL;
	kfree(p);
}

/* After the MMU is gone, and with it all that maps the shadow pages. */
void __kvm_eli_destroy_vm(struct kvm *kvm)
{
	struct kvm_eli *eli = kvm->arch.eli;
	int i;

	/* irqfds were released with the VM's file descriptor. */
	WARN_ON_ONCE(!list_empty(&eli->irqs));

	for (i = 0; i < ELI_NR_VIEWS; i++) {
		free_page((unsigned long)eli->view[i].shadow);
		free_page((unsigned long)eli->view[i].guest);
	}
	kvm->arch.eli = NULL;
	kfree(eli);
}

static void eli_show_vcpu(struct seq_file *m, struct kvm_vcpu *vcpu)
{
	static const char * const modes[] = { "off", "inject", "direct" };
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	unsigned int vector;

	seq_printf(m, "vcpu %d: mode %s, cpu %d, view %u, gates %u+%u, holds back: %s, why not direct: %s%s",
		   vcpu->vcpu_id, modes[READ_ONCE(p->pub.mode)], p->cpu,
		   p->pub.view, p->first, p->nr, p->may_hold ? "yes" : "no",
		   eli_reasons[p->reason].name,
		   p->masked_until ? ", masked" : "");
	if (p->reason == ELI_OFF_VECTOR && p->blocked_by)
		seq_printf(m, ", the host uses vector %u", p->blocked_by);
	seq_putc(m, '\n');
	for_each_set_bit(vector, p->assigned, ELI_NR_GATES)
		seq_printf(m, "  host vector %u -> guest vector %u\n", vector,
			   p->guest_vector[vector]);
}

static int eli_show(struct seq_file *m, void *v)
{
	struct kvm *kvm = m->private;
	struct kvm_eli *eli = READ_ONCE(kvm->arch.eli);
	struct kvm_vcpu *vcpu;
	struct eli_irq *irq;
	unsigned long i;

	if (!eli) {
		seq_puts(m, "no IRQ is assigned to this VM\n");
		return 0;
	}

	mutex_lock(&eli->lock);
	if (eli->dead)
		seq_printf(m, "off for good: %s\n", eli_reasons[eli->dead].name);
	list_for_each_entry(irq, &eli->irqs, node) {
		seq_printf(m, "irq %u: gsi %d, cpu %d, host vector %u, ",
			   irq->host_irq, irq->irqfd->gsi, eli_irq_cpu(irq->data),
			   READ_ONCE(irq->cfg->vector));
		if (irq->vcpu)
			seq_printf(m, "vcpu %d, guest vector %u\n",
				   irq->vcpu->vcpu_id, irq->guest_vector);
		else
			seq_puts(m, "no single vcpu\n");
	}
	for (i = 0; i < ELI_NR_VIEWS; i++) {
		struct eli_view *view = &eli->view[i];

		if (view->nr_vcpus)
			seq_printf(m, "view %lu: gfn %llx, %u vcpus, %u gates\n", i + 1,
				   view->gfn, view->nr_vcpus,
				   bitmap_weight(view->used, ELI_NR_GATES));
	}
	kvm_for_each_vcpu(i, vcpu, kvm) {
		if (kvm_eli_vcpu(vcpu))
			eli_show_vcpu(m, vcpu);
	}
	mutex_unlock(&eli->lock);
	return 0;
}

static int eli_open(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;
	int r;

	if (!kvm_get_kvm_safe(kvm))
		return -ENOENT;

	r = single_open(file, eli_show, kvm);
	if (r < 0)
		kvm_put_kvm(kvm);

	return r;
}

static int eli_release(struct inode *inode, struct file *file)
{
	struct kvm *kvm = inode->i_private;

	kvm_put_kvm(kvm);
	return single_release(inode, file);
}

static const struct file_operations eli_fops = {
	.owner		= THIS_MODULE,
	.open		= eli_open,
	.read		= seq_read,
	.llseek		= seq_lseek,
	.release	= eli_release,
};

void __kvm_eli_create_debugfs(struct kvm *kvm)
{
	debugfs_create_file("eli", 0444, kvm->debugfs_dentry, kvm, &eli_fops);
}

/*
 * A vendor module is being loaded.  Failure to enable ELI is not one to load: the
 * parameter tells, and one line in the log.
 */
int kvm_eli_vendor_init(void)
{
	const char *why = NULL;

	if (!enable_eli)
		return 0;

	if (!IS_ENABLED(CONFIG_X86_64) || !tdp_mmu_enabled)
		why = "needs nested paging and the TDP MMU";
	else if (!kvm_x86_ops.eli_set_mode)
		why = "not supported by this CPU";
	else if (cpu_feature_enabled(X86_FEATURE_FRED))
		why = "not supported on a host with FRED";
	else if (num_possible_cpus() < 2)
		why = "needs a second CPU";
	else if (eli_guard_init())
		why = "cannot set up the guard";

	if (why) {
		pr_info("exitless interrupts are off: %s\n", why);
		enable_eli = false;
		return 0;
	}

	eli_host_cr8 = eli_read_cr8();
	if (!x2apic_mode && kvm_eli_eoi) {
		pr_info("the host is not in x2APIC mode, completion of interrupts exits\n");
		kvm_eli_eoi = false;
	}
	static_branch_enable(&kvm_eli_key);
	return 0;
}

/* Unload of a vendor module: no VM exists. */
void kvm_eli_vendor_exit(void)
{
	if (!static_key_enabled(&kvm_eli_key))
		return;

	static_branch_disable(&kvm_eli_key);
	eli_guard_exit();
	eli_irq_exit();
}
