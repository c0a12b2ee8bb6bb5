/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exitless interrupts: what the files of this directory share.
 *
 * Locks, from the outside in: irqbypass's mutex or kvm->irq_lock, kvm_eli.lock,
 * eli_vectors_lock, kvm->irqfds.lock.  Neither kvm->lock nor slots_lock is taken;
 * mmu_lock is taken under kvm_eli.lock by kvm_zap_gfn_range().
 */
#ifndef __KVM_X86_ELI_INTERNAL_H
#define __KVM_X86_ELI_INTERNAL_H

#include <linux/bitmap.h>
#include <linux/irq.h>
#include <linux/mutex.h>

#include <asm/desc_defs.h>
#include <asm/hw_irq.h>

#include "eli.h"

/* Gates of a 4 KiB IDT, and of a page that holds shadow tables. */
#define ELI_NR_GATES		256

/* The first vector that a physical IRQ can have; below are exceptions. */
#define ELI_FIRST_VECTOR	32

/*
 * The gate through which virtual IRQs are injected.  Architecturally reserved,
 * no CPU raises it as an exception.
 */
#define ELI_INJECT_VECTOR	31

/*
 * The highest host vector that a shadow table may reach.  Vectors above are
 * protected by the limit of the IDTR.
 */
#define ELI_MAX_VECTOR		127

/* Views of a VM beside the stock one, what kvm_mmu_page_role.eli_view can tell. */
#define ELI_NR_VIEWS		7

/* The gfn of a view that is not in use. */
#define ELI_NO_GFN		(~(gfn_t)0)

/* When to try again what failed for a reason that is not the guest's. */
#define ELI_RETRY_DELAY		msecs_to_jiffies(100)

/* Assigned IRQs of a vCPU that are delivered directly; others go via the host. */
#define ELI_MAX_IRQS		32

/*
 * Why a vCPU with assigned IRQs cannot run in DIRECT mode.  Each has a counter of
 * the vCPU, eli_off_<name>, and is shown by debugfs.
 */
enum eli_reason {
	ELI_OK,
	/* The VM is protected, or not of the default type. */
	ELI_OFF_UNSUPPORTED,
	/* The guest has remapped its IDT; off for good. */
	ELI_OFF_REMAPPED,
	/* The local APIC is disabled, or not in the kernel. */
	ELI_OFF_APIC,
	/* APICv or AVIC is active, which does without exits, too. */
	ELI_OFF_APICV,
	/* The guest is not in long mode. */
	ELI_OFF_CPU_MODE,
	/* The vCPU is in system management mode. */
	ELI_OFF_SMM,
	/* The guest has virtualization enabled. */
	ELI_OFF_NESTED,
	/* Userspace debugs the guest. */
	ELI_OFF_DEBUG,
	/* The guest's IDT is not one aligned, mapped page. */
	ELI_OFF_IDT,
	/* No view or table is left, or no memory. */
	ELI_OFF_SPACE,
	/* An IRQ is not, or not yet, on the vCPU's CPU. */
	ELI_OFF_AFFINITY,
	/* The host uses other vectors below the guest's. */
	ELI_OFF_VECTOR,
	/* The vCPU is on the guard CPU, or there is none. */
	ELI_OFF_GUARD,
	/* The guest masked IRQs for too long; off for a while. */
	ELI_OFF_MASKED,
	/* No IRQ is assigned to the vCPU.  Not counted. */
	ELI_OFF_NO_IRQ,
	ELI_NR_REASONS,
};

/*
 * A shadow page, and the gfn that it overlays in one page-table view.  It is cut
 * into tables, one for each vCPU on the view: a vCPU's IDTR is moved within the
 * page, so each has gates of its own for the physical CPU that it runs on.
 *
 * All of it is protected by kvm_eli.lock, except that
 *  - a table is written by the vCPU that owns it only, under the lock or while
 *    injecting, and never while that vCPU is in guest mode;
 *  - gfn is read by page faults, see eli_set_gfn().
 */
struct eli_view {
	/* vCPUs on this view. */
	unsigned int nr_vcpus;
	/* The guest's IDT page, or ELI_NO_GFN. */
	gfn_t gfn;
	/* The page that vCPUs on this view see at gfn.  Allocated on first use. */
	gate_desc *shadow;
	/* Copy of the guest's real IDT, read once for each change. */
	gate_desc *guest;
	/* Gates of the shadow page that belong to a table. */
	DECLARE_BITMAP(used, ELI_NR_GATES);
};

/* An IRQ of a device that is assigned to the VM.  Protected by kvm_eli.lock. */
struct eli_irq {
	struct list_head node;
	struct kvm_kernel_irqfd *irqfd;
	unsigned int host_irq;
	struct irq_data *data;
	/* Stable until the producer is gone; its fields change with affinity. */
	struct irq_cfg *cfg;
	/* The one vCPU and vector that the guest routes the IRQ to, or NULL. */
	struct kvm_vcpu *vcpu;
	u8 guest_vector;
	/* ELI decides on the affinity; given back with what it was before. */
	bool owned;
	cpumask_var_t affinity;
	/* The CPU it is to go to, and how often that was tried. */
	int cpu;
	unsigned int nr_moves;
	/* A vCPU that it is not routed to relies on the host not using its vector. */
	bool relied_on;
};

/* ELI's state of a VM, allocated with the first assigned IRQ. */
struct kvm_eli {
	struct kvm *kvm;
	/* Protects all below; vCPUs take it to derive their state. */
	struct mutex lock;

	/*
	 * Incremented under the lock whenever what vCPUs derive from this object
	 * may have changed; a vCPU does not enter DIRECT mode with an older one.
	 */
	unsigned int gen;

	/* Set for good, e.g. because the guest remapped its IDT. */
	enum eli_reason dead;

	struct list_head irqs;
	struct eli_view view[ELI_NR_VIEWS];
};

struct kvm_eli_vcpu_priv {
	struct kvm_eli_vcpu pub;

	/* What the state below was derived from, see __kvm_eli_prepare(). */
	unsigned int gen;
	int cpu;
	enum eli_reason guest;
	bool idt_changed;
	unsigned long retry_at;		/* jiffies, 0 if not waiting */
	unsigned long on_cpu_since;	/* jiffies */

	/* ELI_OK iff DIRECT mode is possible on @cpu. */
	enum eli_reason reason;

	/* The vCPU's table: gates [first, first + nr) of its view's page. */
	u8 first;
	u16 nr;

	/* Host vectors with a gate of the guest, all on @cpu. */
	DECLARE_BITMAP(assigned, ELI_NR_GATES);
	u8 guest_vector[ELI_NR_GATES];
	/* The lowest of their priority classes, as in the TPR. */
	u8 lowest_class;
	u8 max_guest_vector;
	/* The highest host vector, and whether it may be held back. */
	u8 max_vector;
	bool may_hold;
	/* The guard looks after an entry in INJECT mode that holds IRQs back. */
	bool guarded_entry;
	/* ELI_OFF_VECTOR: the vector that the host uses below it, or 0. */
	u8 blocked_by;
	/* The IRQs that they belong to, to notice a change before each entry. */
	unsigned int nr_irqs;
	struct {
		struct irq_cfg *cfg;
		struct irq_data *data;
		u8 vector;
	} irq[ELI_MAX_IRQS];

	/* The guest vector that is in the injection gate. */
	u8 inject_vector;

	/* The CPU whose free vectors are held for this vCPU, or -1. */
	int held_cpu;

	/* The guest masked the host's IRQs for too long; INJECT until then. */
	unsigned long masked_until;	/* jiffies, 0 if not */
	unsigned long masked_last;	/* jiffies */
	unsigned int masked_count;
	unsigned int masked_times;
	/* The guard interrupted the guest: re-verify the mapping of the IDT. */
	bool verify;

	/* The guard is kept running for this vCPU. */
	bool guarded;
};

static inline struct kvm_eli_vcpu_priv *eli_priv(struct kvm_vcpu *vcpu)
{
	return container_of(vcpu->arch.eli, struct kvm_eli_vcpu_priv, pub);
}

static inline struct eli_view *eli_view(struct kvm_vcpu *vcpu)
{
	return &vcpu->kvm->arch.eli->view[vcpu->arch.eli->view - 1];
}

static inline int eli_irq_cpu(struct irq_data *data)
{
	return cpumask_first(irq_data_get_effective_affinity_mask(data));
}

extern bool eli_strict;
extern unsigned int eli_max_us;

/* eli.c */
void eli_kick(struct kvm_eli *eli);

/* irq.c */
enum eli_reason eli_gather_irqs(struct kvm_vcpu *vcpu, int cpu);
void eli_ungather_irqs(struct kvm_vcpu *vcpu);
void eli_disown_irqs(struct kvm_eli *eli);
void eli_irq_exit(void);

/* shadow.c */
enum eli_reason eli_arm(struct kvm_vcpu *vcpu, const struct desc_ptr *idt,
			unsigned int nr);
void eli_disarm(struct kvm_vcpu *vcpu, bool dying);
bool eli_idt_moved(struct kvm_vcpu *vcpu);
bool eli_build_table(struct kvm_vcpu *vcpu, unsigned int nr);

/* guard.c */
int eli_guard_init(void);
void eli_guard_exit(void);
void eli_guard_get(void);
void eli_guard_put(void);
bool eli_guards(int cpu);
void eli_guard_enter(void);
bool eli_guard_leave(void);

#endif /* __KVM_X86_ELI_INTERNAL_H */
