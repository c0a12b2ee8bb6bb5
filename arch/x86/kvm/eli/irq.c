// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exitless interrupts: assigned IRQs, their affinity, and host vectors.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/kvm_host.h>
#include <linux/kvm_irqfd.h>

#include <asm/apic.h>
#include <asm/hw_irq.h>
#include <asm/i8259.h>
#include <asm/irqdomain.h>

#include "internal.h"
#include "irq.h"
#include "lapic.h"
#include "mmu.h"
#include "x86.h"

#include "trace.h"

/* A vCPU has to stay on a CPU for that long before its IRQs follow. */
#define ELI_FOLLOW_DELAY	msecs_to_jiffies(10)
/* Attempts to get an IRQ to a CPU with a vector that suits. */
#define ELI_MAX_MOVES		8

/*
 * Free vectors of a CPU that are held so that the host cannot give them to a
 * device while a guest has an IDT that reaches them.  A held vector is an IRQ of
 * the vector domain that nobody requested.
 */
struct eli_held {
	unsigned int users;
	DECLARE_BITMAP(vectors, ELI_NR_GATES);
	int virq[ELI_MAX_VECTOR + 1];
};

static DEFINE_PER_CPU(struct eli_held, eli_held);
static DEFINE_MUTEX(eli_vectors_lock);

/*
 * Allocate the lowest free vector of @cpu.  Returns the virq or an errno.
 *
 * The last IRQ that had the vector may have been freed while an interrupt was on
 * its way.  The core lets it go by, but not if the vector is in use again, and IRQs
 * without a handler are complained about.  So there is a handler before there is a
 * vector; an IRQ needs a chip for that, which is the domain's later.
 */
static int eli_alloc_vector(int cpu, unsigned int *vector)
{
	struct irq_alloc_info info = { .mask = cpumask_of(cpu) };
	struct irq_data *data;
	int virq, ret;

	virq = irq_alloc_desc(cpu_to_node(cpu));
	if (virq < 0)
		return virq;
	irq_set_chip_and_handler(virq, &dummy_irq_chip, handle_edge_irq);

	/* Frees what was allocated if it fails. */
	ret = __irq_domain_alloc_irqs(x86_vector_domain, virq, 1,
				      cpu_to_node(cpu), &info, true, NULL);
	if (ret < 0)
		return ret;

	data = irq_get_irq_data(virq);
	if (WARN_ON_ONCE(!data || eli_irq_cpu(data) != cpu)) {
		irq_dispose_mapping(virq);
		return -EIO;
	}
	*vector = irqd_cfg(data)->vector;
	return virq;
}

static void eli_free_held(struct eli_held *held)
{
	unsigned int vector;

	for_each_set_bit(vector, held->vectors, ELI_MAX_VECTOR + 1)
		irq_dispose_mapping(held->virq[vector]);
	bitmap_zero(held->vectors, ELI_NR_GATES);
}

static void eli_put_vectors(struct kvm_eli_vcpu_priv *p)
{
	struct eli_held *held;

	if (p->held_cpu < 0)
		return;

	mutex_lock(&eli_vectors_lock);
	held = per_cpu_ptr(&eli_held, p->held_cpu);
	if (!WARN_ON_ONCE(!held->users) && !--held->users)
		eli_free_held(held);
	mutex_unlock(&eli_vectors_lock);
	p->held_cpu = -1;
}

/*
 * Make sure that each vector of @cpu up to @limit is either in @assigned, or not
 * in use by the host and not going to be.  The allocator hands out the lowest
 * free vector first: take all up to the limit, and what is missing is in use.
 * The same for the rest of the limit's priority class: if that is so, too, the
 * vectors can be blocked by the task priority.
 */
static enum eli_reason eli_hold_vectors(struct kvm_eli_vcpu_priv *p, int cpu,
					unsigned int limit,
					const unsigned long *assigned)
{
	DECLARE_BITMAP(safe, ELI_NR_GATES);
	unsigned int last = limit | 0xf;
	unsigned int vector, first;
	struct eli_held *held;
	int virq;

	if (p->held_cpu != cpu)
		eli_put_vectors(p);

	mutex_lock(&eli_vectors_lock);
	held = per_cpu_ptr(&eli_held, cpu);
	if (p->held_cpu < 0) {
		held->users++;
		p->held_cpu = cpu;
	}

	/* Ends with a vector above the last, or none. */
	for (;;) {
		virq = eli_alloc_vector(cpu, &vector);
		if (virq < 0)
			break;
		if (vector > last) {
			irq_dispose_mapping(virq);
			break;
		}
		held->virq[vector] = virq;
		__set_bit(vector, held->vectors);
	}

	bitmap_or(safe, held->vectors, assigned, ELI_NR_GATES);
	mutex_unlock(&eli_vectors_lock);
	/* Reserved by lapic_assign_system_vectors(), because nothing uses it. */
	if (nr_legacy_irqs() > 1)
		__set_bit(ISA_IRQ_VECTOR(PIC_CASCADE_IR), safe);

	first = find_next_zero_bit(safe, ELI_NR_GATES, ELI_FIRST_VECTOR);
	p->may_hold = first > last;
	/* Vectors of IRQs that were moved away become free with their next IRQ. */
	if (!p->may_hold)
		p->retry_at = (jiffies + HZ) ?: 1;
	p->max_vector = limit;
	if (first > limit || !eli_strict)
		return ELI_OK;

	p->blocked_by = first;
	return ELI_OFF_VECTOR;
}

/*
 * Does the IRQ change its vector at once when it is moved?  With interrupt
 * remapping it does; else with the next interrupt that the host handles, and
 * until then it cannot be moved again.
 */
static bool eli_moves_at_once(struct eli_irq *irq)
{
	struct irq_data *data;

	for (data = irq->data; data; data = data->parent_data) {
		if (data->domain && (data->domain->bus_token == DOMAIN_BUS_DMAR ||
				     data->domain->bus_token == DOMAIN_BUS_AMDVI))
			return true;
	}

	return false;
}

/*
 * Would the IRQ get a lower vector if the vCPU did not hold vectors of @cpu?  IRQs
 * are connected one by one, and each is to be next to the others.
 */
static bool eli_misplaced(struct kvm_eli_vcpu_priv *p, struct eli_irq *irq, int cpu)
{
	unsigned int vector = READ_ONCE(irq->cfg->vector);
	struct eli_held *held;
	bool misplaced;

	if (!eli_moves_at_once(irq))
		return false;

	mutex_lock(&eli_vectors_lock);
	held = per_cpu_ptr(&eli_held, cpu);
	/* Those that other vCPUs hold as well stay held. */
	misplaced = held->users == 1 && p->held_cpu == cpu &&
		    find_first_bit(held->vectors, ELI_NR_GATES) < vector;
	mutex_unlock(&eli_vectors_lock);
	return misplaced;
}

/*
 * Does the IRQ keep its vector on @cpu until ELI moves it?  Not if the affinity is
 * anyone's, or if a move is to be completed by the host's next interrupt.
 */
static bool eli_irq_stays(struct eli_irq *irq, int cpu)
{
	struct irq_desc *desc = irq_data_to_desc(irq->data);
	unsigned long flags;
	bool stays;

	/* Else, a move may be going on that is not pending any more. */
	raw_spin_lock_irqsave(&desc->lock, flags);
	stays = irq->owned && irq->cpu == cpu &&
		!irqd_is_setaffinity_pending(irq->data) &&
		eli_irq_cpu(irq->data) == cpu;
	raw_spin_unlock_irqrestore(&desc->lock, flags);

	return stays;
}

/*
 * Move the IRQ to @cpu, or away from there for it to come back with another
 * vector.  Returns true if it is where it should be.
 */
static bool eli_move_irq(struct kvm_vcpu *vcpu, struct eli_irq *irq, int cpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	int target = cpu;
	bool pending;

	if (irq->cpu != cpu) {
		irq->cpu = cpu;
		irq->nr_moves = 0;
	}

	if (eli_irq_cpu(irq->data) == cpu) {
		if (irq->nr_moves >= ELI_MAX_MOVES || !eli_misplaced(p, irq, cpu))
			return true;
		target = cpumask_any_but(cpu_online_mask, cpu);
		if (target >= nr_cpu_ids)
			return true;
	}

	/* The vector may be the host's as soon as the IRQ leaves it. */
	if (irq->relied_on) {
		irq->relied_on = false;
		eli_kick(vcpu->kvm->arch.eli);
	}

	/* Let it have a vector that is held. */
	eli_put_vectors(p);
	/*
	 * If it cannot be moved now, e.g. as the vector of the last move is not yet
	 * free, the host's next interrupt does that, and this succeeds as well.
	 */
	pending = irqd_is_setaffinity_pending(irq->data);
	if (!irq_set_affinity(irq->host_irq, cpumask_of(target))) {
		if (!pending)
			vcpu->stat.eli_moves++;
		irq->nr_moves++;
	}
	if (target == cpu && eli_irq_cpu(irq->data) == cpu)
		return true;

	p->retry_at = (jiffies + ELI_FOLLOW_DELAY) ?: 1;
	return false;
}

/* Which single vCPU and vector does the guest want the IRQ at? */
static void eli_route(struct kvm_eli *eli, struct eli_irq *irq)
{
	struct kvm_kernel_irq_routing_entry e;
	struct kvm *kvm = eli->kvm;
	struct kvm_vcpu *vcpu = NULL;
	struct kvm_lapic_irq msi;

	lockdep_assert_held(&eli->lock);

	spin_lock_irq(&kvm->irqfds.lock);
	e = irq->irqfd->irq_entry;
	spin_unlock_irq(&kvm->irqfds.lock);

	irq->vcpu = NULL;
	if (e.type != KVM_IRQ_ROUTING_MSI)
		return;

	kvm_set_msi_irq(kvm, &e, &msi);
	if (!kvm_intr_is_single_vcpu(kvm, &msi, &vcpu) ||
	    (msi.delivery_mode != APIC_DM_FIXED &&
	     msi.delivery_mode != APIC_DM_LOWEST) ||
	    msi.trig_mode || msi.vector < ELI_FIRST_VECTOR)
		return;

	if (!vcpu->arch.eli) {
		struct kvm_eli_vcpu_priv *p = kzalloc(sizeof(*p), GFP_KERNEL_ACCOUNT);

		if (!p)
			return;
		p->cpu = -1;
		p->held_cpu = -1;
		p->pub.soft_vector = -1;
		p->pub.host_vector = -1;
		p->reason = ELI_OFF_NO_IRQ;
		/* Pairs with the smp_load_acquire() in kvm_eli_vcpu(). */
		smp_store_release(&vcpu->arch.eli, &p->pub);
	}

	irq->vcpu = vcpu;
	irq->guest_vector = msi.vector;
}

/* Take over the affinity of the IRQ: nobody else may free its vector. */
static void eli_own_irq(struct eli_irq *irq)
{
	if (irq->owned)
		return;

	cpumask_copy(irq->affinity, irq_data_get_affinity_mask(irq->data));
	irq_set_status_flags(irq->host_irq, IRQ_NO_BALANCING);
	irq->owned = true;
}

static void eli_disown_irq(struct eli_irq *irq)
{
	if (!irq->owned)
		return;

	irq->owned = false;
	irq_clear_status_flags(irq->host_irq, IRQ_NO_BALANCING);
	irq_set_affinity(irq->host_irq, irq->affinity);
}

void eli_disown_irqs(struct kvm_eli *eli)
{
	struct eli_irq *irq;

	lockdep_assert_held(&eli->lock);

	list_for_each_entry(irq, &eli->irqs, node)
		eli_disown_irq(irq);
}

void eli_ungather_irqs(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);

	bitmap_zero(p->assigned, ELI_NR_GATES);
	p->nr_irqs = 0;
	p->may_hold = false;
	eli_put_vectors(p);
}

/*
 * Among the IRQs that are delivered directly, the one with the higher class of
 * its host vector interrupts the handler of the other.  Leave those to the host
 * that would interrupt one that the guest gave a priority not below theirs.
 */
static void eli_keep_order(struct kvm_vcpu *vcpu, unsigned long *mine)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	u8 class = 0, below = 0, highest = 0;
	unsigned int vector;

	p->lowest_class = 0xf0;
	p->max_guest_vector = 0;

	for_each_set_bit(vector, p->assigned, ELI_NR_GATES) {
		u8 guest_vector = p->guest_vector[vector];
		u8 guest_class = guest_vector & 0xf0;

		if ((vector & 0xf0) != class) {
			class = vector & 0xf0;
			below = highest;
		}
		if (below && guest_class <= below) {
			__clear_bit(vector, p->assigned);
			__set_bit(vector, mine);
			vcpu->stat.eli_irqs_left++;
			continue;
		}
		highest = max(highest, guest_class);
		p->lowest_class = min(p->lowest_class, guest_class);
		p->max_guest_vector = max(p->max_guest_vector, guest_vector);
	}
}

/*
 * Let the IRQs of the vCPU follow it to @cpu, and note the vectors they have
 * there.  Called in the vCPU's task, outside of guest mode.
 */
enum eli_reason eli_gather_irqs(struct kvm_vcpu *vcpu, int cpu)
{
	DECLARE_BITMAP(mine, ELI_NR_GATES);
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_eli *eli = vcpu->kvm->arch.eli;
	enum eli_reason reason = ELI_OFF_NO_IRQ;
	struct eli_irq *irq;

	lockdep_assert_held(&eli->lock);

	bitmap_zero(p->assigned, ELI_NR_GATES);
	bitmap_zero(mine, ELI_NR_GATES);
	p->nr_irqs = 0;
	p->may_hold = false;
	p->blocked_by = 0;

	list_for_each_entry(irq, &eli->irqs, node) {
		unsigned int vector;

		if (irq->vcpu != vcpu) {
			/* The VM may get hold of its own IRQs. */
			if (irq->vcpu && eli_irq_stays(irq, cpu)) {
				__set_bit(READ_ONCE(irq->cfg->vector), mine);
				irq->relied_on = true;
			}
			continue;
		}

		if (reason == ELI_OFF_NO_IRQ)
			reason = ELI_OK;

		eli_own_irq(irq);
		if (eli_irq_cpu(irq->data) != cpu &&
		    time_before(jiffies, p->on_cpu_since + ELI_FOLLOW_DELAY)) {
			p->retry_at = (p->on_cpu_since + ELI_FOLLOW_DELAY) ?: 1;
			reason = ELI_OFF_AFFINITY;
			continue;
		}
		if (!eli_move_irq(vcpu, irq, cpu)) {
			reason = ELI_OFF_AFFINITY;
			continue;
		}

		vector = READ_ONCE(irq->cfg->vector);
		if (vector < ELI_FIRST_VECTOR || vector > ELI_MAX_VECTOR ||
		    p->nr_irqs == ELI_MAX_IRQS) {
			/* Such an IRQ keeps going through the host. */
			if (vector <= ELI_MAX_VECTOR && eli_irq_stays(irq, cpu))
				__set_bit(vector, mine);
			vcpu->stat.eli_irqs_left++;
			continue;
		}

		__set_bit(vector, p->assigned);
		p->guest_vector[vector] = irq->guest_vector;
		p->irq[p->nr_irqs].cfg = irq->cfg;
		p->irq[p->nr_irqs].data = irq->data;
		p->irq[p->nr_irqs].vector = vector;
		p->nr_irqs++;
	}

	if (reason == ELI_OK && !p->nr_irqs)
		reason = ELI_OFF_VECTOR;
	eli_keep_order(vcpu, mine);

	if (reason == ELI_OK) {
		bitmap_or(mine, mine, p->assigned, ELI_NR_GATES);
		reason = eli_hold_vectors(p, cpu,
					  find_last_bit(p->assigned, ELI_NR_GATES),
					  mine);
	}
	if (reason != ELI_OK)
		eli_ungather_irqs(vcpu);

	return reason;
}

static struct kvm_eli *eli_create(struct kvm *kvm)
{
	struct kvm_eli *eli = kzalloc(sizeof(*eli), GFP_KERNEL_ACCOUNT);
	int i;

	if (!eli)
		return NULL;

	eli->kvm = kvm;
	mutex_init(&eli->lock);
	INIT_LIST_HEAD(&eli->irqs);
	for (i = 0; i < ELI_NR_VIEWS; i++)
		eli->view[i].gfn = ELI_NO_GFN;
	if (kvm->arch.vm_type != KVM_X86_DEFAULT_VM || !tdp_mmu_enabled)
		eli->dead = ELI_OFF_UNSUPPORTED;

	return eli;
}

/* Is the IRQ one vector of the local APIC, of its own and free to be moved? */
static bool eli_irq_suits(struct irq_data *data)
{
	struct irq_data *root = data;

	if (!data)
		return false;

	while (root->parent_data)
		root = root->parent_data;

	/* Others, e.g. of VMD, share the vector of some other IRQ. */
	return root->domain == x86_vector_domain &&
	       irqd_is_single_target(data) && !irqd_affinity_is_managed(data);
}

/*
 * A device's IRQ was connected to @irqfd.  Serialized against itself and
 * kvm_eli_del_producer() by irqbypass.  Failures leave the IRQ to the host.
 */
void __kvm_eli_add_producer(struct kvm *kvm, struct kvm_kernel_irqfd *irqfd)
{
	struct irq_data *data = irq_get_irq_data(irqfd->producer->irq);
	struct kvm_eli *eli = kvm->arch.eli;
	struct eli_irq *irq;

	if (!eli_irq_suits(data))
		return;

	if (!eli) {
		eli = eli_create(kvm);
		if (!eli)
			return;
		/* Two irqfds of a VM may get here at the same time. */
		if (cmpxchg(&kvm->arch.eli, NULL, eli)) {
			kfree(eli);
			eli = kvm->arch.eli;
		}
	}

	irq = kzalloc(sizeof(*irq), GFP_KERNEL_ACCOUNT);
	if (!irq)
		return;
	if (!zalloc_cpumask_var(&irq->affinity, GFP_KERNEL_ACCOUNT)) {
		kfree(irq);
		return;
	}

	irq->irqfd = irqfd;
	irq->host_irq = irqfd->producer->irq;
	irq->data = data;
	irq->cfg = irqd_cfg(data);

	mutex_lock(&eli->lock);
	list_add_tail(&irq->node, &eli->irqs);
	eli_route(eli, irq);
	eli_kick(eli);
	mutex_unlock(&eli->lock);
}

/*
 * The IRQ is about to be freed, or to get another consumer.  On return no vCPU
 * runs with a gate for it.
 */
void __kvm_eli_del_producer(struct kvm *kvm, struct kvm_kernel_irqfd *irqfd)
{
	struct kvm_eli *eli = kvm->arch.eli;
	struct eli_irq *irq;

	mutex_lock(&eli->lock);
	list_for_each_entry(irq, &eli->irqs, node) {
		if (irq->irqfd != irqfd)
			continue;

		list_del(&irq->node);
		eli_kick(eli);
		eli_disown_irq(irq);
		free_cpumask_var(irq->affinity);
		kfree(irq);
		break;
	}
	mutex_unlock(&eli->lock);
}

void __kvm_eli_routing_update(struct kvm *kvm)
{
	struct kvm_eli *eli = kvm->arch.eli;
	struct eli_irq *irq;
	bool changed = false;

	mutex_lock(&eli->lock);
	list_for_each_entry(irq, &eli->irqs, node) {
		struct kvm_vcpu *vcpu = irq->vcpu;
		u8 vector = irq->guest_vector;

		eli_route(eli, irq);
		if (irq->vcpu == vcpu && irq->guest_vector == vector)
			continue;
		changed = true;
	}
	if (changed) {
		eli_kick(eli);
		list_for_each_entry(irq, &eli->irqs, node) {
			/* No vCPU has a gate for it by now. */
			if (!irq->vcpu)
				eli_disown_irq(irq);
		}
	}
	mutex_unlock(&eli->lock);
}

void eli_irq_exit(void)
{
	int cpu;

	for_each_possible_cpu(cpu)
		WARN_ON_ONCE(per_cpu(eli_held, cpu).users);
}
