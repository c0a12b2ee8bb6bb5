// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exitless interrupts: the shadow IDT and its place in guest memory.
 *
 * The gfn of the guest's IDT is backed by a page of the host, read-only, in one
 * view of the nested page tables; vCPUs select a view through the role of their
 * root.  All other views, the stock one among them, map the guest's own page,
 * read-only as well: guest writes are emulated into that page, and the shadow is
 * brought up to date.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>

#include <asm/desc.h>

#include "internal.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "x86.h"

#include "trace.h"

/*
 * Let @view overlay @gfn, or nothing.  A fault that is in flight either sees the
 * new value or is found stale: __kvm_eli_faultin_pfn() reads it after the
 * snapshot of mmu_invalidate_seq, which kvm_zap_gfn_range() increments after the
 * store.  Zapping also takes the gfn's huge pages away, and write access in all
 * other views.
 */
static void eli_set_gfn(struct kvm *kvm, struct eli_view *view, gfn_t gfn)
{
	gfn_t old = view->gfn;

	WRITE_ONCE(view->gfn, gfn);
	/* Pairs with the smp_rmb() in kvm_faultin_pfn(). */
	smp_wmb();

	if (old != ELI_NO_GFN)
		kvm_zap_gfn_range(kvm, old, old + 1);
	if (gfn != ELI_NO_GFN)
		kvm_zap_gfn_range(kvm, gfn, gfn + 1);
}

/* Does @gfn lie in the same huge page of @level as @other? */
static bool eli_same_page(gfn_t gfn, gfn_t other, int level)
{
	return !((gfn ^ other) & ~(KVM_PAGES_PER_HPAGE(level) - 1));
}

int __kvm_eli_faultin_pfn(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault)
{
	struct kvm_eli *eli = vcpu->kvm->arch.eli;
	u8 current_view = vcpu->arch.mmu->root_role.eli_view;
	int i;

	for (i = 0; i < ELI_NR_VIEWS; i++) {
		struct eli_view *view = &eli->view[i];
		gfn_t gfn = READ_ONCE(view->gfn);

		if (gfn == ELI_NO_GFN)
			continue;

		/* Whatever is not overlaid may be huge up to the IDT. */
		while (fault->max_level > PG_LEVEL_4K &&
		       eli_same_page(fault->gfn, gfn, fault->max_level))
			fault->max_level--;

		if (fault->gfn != gfn)
			continue;

		if (fault->write) {
			kvm_release_pfn_clean(fault->pfn);
			return RET_PF_EMULATE;
		}

		fault->map_writable = false;
		if (i + 1 == current_view) {
			kvm_release_pfn_clean(fault->pfn);
			fault->pfn = page_to_pfn(virt_to_page(view->shadow));
			get_page(pfn_to_page(fault->pfn));
		}
	}

	return RET_PF_CONTINUE;
}

/*
 * As a guest writes its gates, and a CPU reads them: another vCPU may be using the
 * copy of the guest's IDT.  What it makes of it does not last, see eli_kick(), but
 * no half may be torn.
 */
static void eli_copy_gate(gate_desc *to, const gate_desc *from)
{
	const u64 *src = (const u64 *)from;
	u64 *dst = (u64 *)to;

	WRITE_ONCE(dst[0], READ_ONCE(src[0]));
	WRITE_ONCE(dst[1], READ_ONCE(src[1]));
}

/* Bring gates [first, last] of the copy of the guest's IDT up to date. */
static int eli_read_gates(struct kvm_vcpu *vcpu, struct eli_view *view,
			  unsigned int first, unsigned int last)
{
	unsigned int i;
	gate_desc gate;
	int r;

	for (i = first; i <= last; i++) {
		r = kvm_vcpu_read_guest_page(vcpu, view->gfn, &gate,
					     i * sizeof(gate), sizeof(gate));
		if (r)
			return r;
		eli_copy_gate(&view->guest[i], &gate);
	}

	return 0;
}

void __kvm_eli_track_write(struct kvm_vcpu *vcpu, gpa_t gpa, int bytes)
{
	struct kvm_eli *eli = vcpu->kvm->arch.eli;
	unsigned int first = offset_in_page(gpa) / sizeof(gate_desc);
	unsigned int last = (offset_in_page(gpa) + bytes - 1) / sizeof(gate_desc);
	bool changed = false;
	int i;

	for (i = 0; i < ELI_NR_VIEWS; i++)
		changed |= READ_ONCE(eli->view[i].gfn) == gpa_to_gfn(gpa);
	if (likely(!changed) || bytes <= 0)
		return;

	last = min(last, ELI_NR_GATES - 1);

	mutex_lock(&eli->lock);
	for (i = 0; i < ELI_NR_VIEWS; i++) {
		struct eli_view *view = &eli->view[i];

		if (view->gfn != gpa_to_gfn(gpa))
			continue;

		trace_kvm_eli_sync(vcpu->vcpu_id, gpa, bytes);
		/* Cannot fail for memory that was written just now. */
		eli_read_gates(vcpu, view, first, last);
		vcpu->stat.eli_sync++;
	}
	/* As with coherent memory, the write is complete when all vCPUs see it. */
	eli_kick(eli);
	mutex_unlock(&eli->lock);
}

/* A gate that no IRQ is delivered through; #NP, unless INT n lacks privilege. */
static const gate_desc eli_absent_gate = {
	.bits.type	= GATE_INTERRUPT,
	.bits.dpl	= 3,
};

/*
 * A copy of the guest's gate for a physical or injected IRQ, to which the DPL
 * does not apply.  0 keeps INT n at CPL 3 from getting to a vector that is not n.
 */
static gate_desc eli_irq_gate(const gate_desc *guest)
{
	gate_desc gate = *guest;

	gate.bits.dpl = 0;
	return gate;
}

static gate_desc *eli_table(struct kvm_vcpu *vcpu)
{
	return eli_view(vcpu)->shadow + eli_priv(vcpu)->first;
}

/*
 * Give the vCPU a table of @nr gates on its view and fill it from the copy of the
 * guest's IDT and the assigned vectors.  Returns false if there is no room; then
 * it keeps the one that it has.
 */
bool eli_build_table(struct kvm_vcpu *vcpu, unsigned int nr)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct eli_view *view = eli_view(vcpu);
	gate_desc *table;
	unsigned int i;

	lockdep_assert_held(&vcpu->kvm->arch.eli->lock);

	if (nr != p->nr) {
		unsigned long first;

		bitmap_clear(view->used, p->first, p->nr);
		first = bitmap_find_next_zero_area(view->used, ELI_NR_GATES, 0,
						   nr, 0);
		if (first >= ELI_NR_GATES) {
			bitmap_set(view->used, p->first, p->nr);
			return false;
		}
		bitmap_set(view->used, first, nr);
		p->first = first;
		p->nr = nr;
	}

	table = eli_table(vcpu);
	for (i = 0; i < nr; i++) {
		if (i < ELI_FIRST_VECTOR)
			table[i] = view->guest[i];
		else if (test_bit(i, p->assigned))
			table[i] = eli_irq_gate(&view->guest[p->guest_vector[i]]);
		else
			table[i] = eli_absent_gate;
	}
	table[ELI_INJECT_VECTOR] = eli_irq_gate(&view->guest[p->inject_vector]);

	p->pub.idt.address = p->pub.guest_idt.address +
			     p->first * sizeof(gate_desc);
	p->pub.idt.size = nr * sizeof(gate_desc) - 1;
	return true;
}

/*
 * Return the vector to inject in place of the guest's @vector.  The gate is the
 * vCPU's own and the CPU does not use it, as nothing else is in flight: the task
 * of the vCPU calls this after an exit and before the next entry.
 */
u8 kvm_eli_inject_vector(struct kvm_vcpu *vcpu, u8 vector)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	gate_desc gate;

	p->inject_vector = vector;
	eli_copy_gate(&gate, &eli_view(vcpu)->guest[vector]);
	/* The CPU checks the privilege of an INT n. */
	eli_table(vcpu)[ELI_INJECT_VECTOR] =
		vcpu->arch.interrupt.soft ? gate : eli_irq_gate(&gate);
	vcpu->stat.eli_inject++;
	trace_kvm_eli_inject(vcpu->vcpu_id, vector);
	return ELI_INJECT_VECTOR;
}
EXPORT_SYMBOL_GPL(kvm_eli_inject_vector);

/* The guest's vector of an injected @vector that was not delivered. */
u8 kvm_eli_injected_vector(struct kvm_vcpu *vcpu, u8 vector)
{
	if (vector != ELI_INJECT_VECTOR)
		return vector;

	return eli_priv(vcpu)->inject_vector;
}
EXPORT_SYMBOL_GPL(kvm_eli_injected_vector);

/* The gfn at the linear address of an IDT, or ELI_NO_GFN. */
static gfn_t eli_idt_gfn(struct kvm_vcpu *vcpu, const struct desc_ptr *idt)
{
	gpa_t gpa = kvm_mmu_gva_to_gpa_system(vcpu, idt->address, NULL);
	gfn_t gfn = gpa_to_gfn(gpa);

	if (gpa == INVALID_GPA || !kvm_is_visible_gfn(vcpu->kvm, gfn))
		return ELI_NO_GFN;

	return gfn;
}

/* Does the linear address of the guest's IDT map something else by now? */
bool eli_idt_moved(struct kvm_vcpu *vcpu)
{
	lockdep_assert_held(&vcpu->kvm->arch.eli->lock);

	return eli_idt_gfn(vcpu, &vcpu->arch.eli->guest_idt) !=
	       eli_view(vcpu)->gfn;
}

/* A view that overlays @gfn and has room for @nr gates, or an unused one. */
static struct eli_view *eli_find_view(struct kvm *kvm, gfn_t gfn, unsigned int nr)
{
	struct kvm_eli *eli = kvm->arch.eli;
	struct eli_view *view;
	int i;

	for (i = 0; i < ELI_NR_VIEWS; i++) {
		view = &eli->view[i];
		if (view->nr_vcpus && view->gfn == gfn &&
		    bitmap_find_next_zero_area(view->used, ELI_NR_GATES, 0, nr,
					       0) < ELI_NR_GATES)
			return view;
	}

	for (i = 0; i < ELI_NR_VIEWS; i++) {
		view = &eli->view[i];
		if (!view->nr_vcpus)
			return view;
	}

	return NULL;
}

/* Pages live as long as the VM, as SPTEs map them. */
static gate_desc *eli_alloc_gates(void)
{
	return (gate_desc *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
}

static void eli_switch_view(struct kvm_vcpu *vcpu, u8 view)
{
	vcpu->arch.eli->view = view;
	/* The role of the root has changed. */
	kvm_mmu_reset_context(vcpu);
}

/*
 * Put the vCPU on a view that overlays the guest's IDT, with a table of @nr gates.
 * The caller has checked the state of the vCPU.
 */
enum eli_reason eli_arm(struct kvm_vcpu *vcpu, const struct desc_ptr *idt,
			unsigned int nr)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct kvm_eli *eli = vcpu->kvm->arch.eli;
	struct eli_view *view;
	gfn_t gfn;

	lockdep_assert_held(&eli->lock);

	if (idt->size != PAGE_SIZE - 1 || !IS_ALIGNED(idt->address, PAGE_SIZE) ||
	    is_noncanonical_address(idt->address, vcpu, 0))
		return ELI_OFF_IDT;

	gfn = eli_idt_gfn(vcpu, idt);
	if (gfn == ELI_NO_GFN)
		return ELI_OFF_IDT;

	view = eli_find_view(vcpu->kvm, gfn, nr);
	if (!view)
		return ELI_OFF_SPACE;

	if (!view->shadow)
		view->shadow = eli_alloc_gates();
	if (!view->guest)
		view->guest = eli_alloc_gates();
	if (!view->shadow || !view->guest)
		return ELI_OFF_SPACE;

	if (view->gfn != gfn)
		eli_set_gfn(vcpu->kvm, view, gfn);
	/* After write access is gone, so that no write is missed. */
	if (!view->nr_vcpus && eli_read_gates(vcpu, view, 0, ELI_NR_GATES - 1)) {
		eli_set_gfn(vcpu->kvm, view, ELI_NO_GFN);
		return ELI_OFF_IDT;
	}

	view->nr_vcpus++;
	p->pub.guest_idt = *idt;
	p->first = 0;
	p->nr = 0;
	p->inject_vector = ELI_INJECT_VECTOR;
	eli_switch_view(vcpu, view - eli->view + 1);

	/* There is room, or the view would be another. */
	WARN_ON_ONCE(!eli_build_table(vcpu, nr));
	return ELI_OK;
}

/*
 * Back to the stock view.  The VMCB or VMCS is OFF already.  If the vCPU is
 * @dying, its MMU may be gone, and no vCPU enters the guest any more.
 */
void eli_disarm(struct kvm_vcpu *vcpu, bool dying)
{
	struct kvm_eli_vcpu_priv *p = eli_priv(vcpu);
	struct eli_view *view = eli_view(vcpu);

	lockdep_assert_held(&vcpu->kvm->arch.eli->lock);

	bitmap_clear(view->used, p->first, p->nr);
	p->nr = 0;

	if (dying) {
		view->nr_vcpus--;
		vcpu->arch.eli->view = 0;
		return;
	}

	eli_switch_view(vcpu, 0);
	if (!--view->nr_vcpus)
		eli_set_gfn(vcpu->kvm, view, ELI_NO_GFN);
}
