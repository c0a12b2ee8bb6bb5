// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: faults, queue errors and their interrupts.
 *
 * See "Fault Handling" in the VT-d spec; faults are primary faults.  A fault is
 * recorded when
 *  - the host's IOMMU blocked an access of a device and told about it, which not
 *    all drivers of IOMMUs do;
 *  - the VMM translates an address for a device that it emulates, in vain;
 *  - the guest announced something that cannot be carried out: a malformed table,
 *    an address without memory, or more pages than may be pinned.  Hardware would
 *    wait until a device uses it; here the device would see no more than a
 *    blocked access, and the guest would not be told why.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/kvm_host.h>

#include "internal.h"
#include "irq.h"
#include "trace.h"

#define frcd_lo(i)	(VTD_FRCD + 16 * (i))
#define frcd_hi(i)	(VTD_FRCD + 16 * (i) + 8)

/*
 * Send the interrupt of FECTL or IECTL if it is pending and not masked.  The
 * registers of its message follow the control register in both cases.
 */
void viommu_send_msi(struct kvm_viommu *v, unsigned int ctl)
{
	u32 val = vtd_reg32(v, ctl);
	struct kvm_kernel_irq_routing_entry e = {
		.msi.data	= vtd_reg32(v, ctl + VTD_FEDATA - VTD_FECTL),
		.msi.address_lo	= vtd_reg32(v, ctl + VTD_FEADDR - VTD_FECTL),
		.msi.address_hi	= vtd_reg32(v, ctl + VTD_FEUADDR - VTD_FECTL),
	};

	BUILD_BUG_ON(VTD_IEDATA - VTD_IECTL != VTD_FEDATA - VTD_FECTL);
	BUILD_BUG_ON(VTD_IEUADDR - VTD_IECTL != VTD_FEUADDR - VTD_FECTL);
	lockdep_assert_held(&v->lock);

	if ((val & (VTD_CTL_IP | VTD_CTL_IM)) != VTD_CTL_IP)
		return;

	viommu_set32(v, ctl, val & ~VTD_CTL_IP);
	/* A message to nowhere is the guest's mistake. */
	kvm_set_msi(&e, v->kvm, KVM_USERSPACE_IRQ_SOURCE_ID, 1, false);
}

/*
 * Set bits in FSTS; an interrupt is due if none was set before.  Call
 * viommu_go_trapped() before anything that leads here.
 */
void viommu_fault_event(struct kvm_viommu *v, u32 fsts)
{
	u32 old = vtd_reg32(v, VTD_FSTS);

	lockdep_assert_held(&v->lock);

	viommu_set32(v, VTD_FSTS, old | fsts);
	if (old & VTD_FSTS_EVENTS)
		return;

	viommu_set32(v, VTD_FECTL, vtd_reg32(v, VTD_FECTL) | VTD_CTL_IP);
	viommu_send_msi(v, VTD_FECTL);
}

static bool viommu_frcd_is_pending(struct kvm_viommu *v, unsigned int i)
{
	return vtd_reg64(v, frcd_hi(i % VTD_NR_FRCD)) & VTD_FRCD_F;
}

/*
 * Registers came from elsewhere.  Faults are recorded in turn, whichever records
 * are free: software goes through them until it finds one that is not pending, and
 * would not look at one again that it has dealt with.
 */
void viommu_faults_restored(struct kvm_viommu *v)
{
	unsigned int i = FIELD_GET(VTD_FSTS_FRI, vtd_reg32(v, VTD_FSTS)), n;

	lockdep_assert_held(&v->lock);

	/* The first that is pending, then the first behind it that is not. */
	for (n = 0; n < VTD_NR_FRCD && !viommu_frcd_is_pending(v, i); n++)
		i++;
	for (n = 0; n < VTD_NR_FRCD && viommu_frcd_is_pending(v, i); n++)
		i++;
	v->next_frcd = i % VTD_NR_FRCD;
}

/* A pending record of the same fault stands for both. */
static bool viommu_is_recorded(struct kvm_viommu *v, u64 lo, u64 hi)
{
	unsigned int i;

	for (i = 0; i < VTD_NR_FRCD; i++) {
		if (vtd_reg64(v, frcd_lo(i)) == lo && vtd_reg64(v, frcd_hi(i)) == hi)
			return true;
	}
	return false;
}

void viommu_record_fault(struct kvm_viommu *v, u16 sid, u64 iova, bool write,
			 enum vtd_fault reason)
{
	u64 lo = iova & VTD_FRCD_FI;
	u64 hi = VTD_FRCD_F | (write ? 0 : VTD_FRCD_READ) |
		 FIELD_PREP(VTD_FRCD_FR, reason) | FIELD_PREP(VTD_FRCD_SID, sid);
	u32 fsts;
	unsigned int i;

	lockdep_assert_held(&v->lock);

	trace_kvm_viommu_fault(sid, iova, write, reason);
	++v->kvm->stat.viommu_faults;

	/* The guest is going to write ones to clear what is set here. */
	viommu_go_trapped(v);

	fsts = vtd_reg32(v, VTD_FSTS);
	if (viommu_is_recorded(v, lo, hi) || (fsts & VTD_FSTS_PFO))
		return;

	i = v->next_frcd;
	if (viommu_frcd_is_pending(v, i)) {
		viommu_fault_event(v, VTD_FSTS_PFO);
		return;
	}
	v->next_frcd = (i + 1) % VTD_NR_FRCD;

	viommu_set64(v, frcd_lo(i), lo);
	/* F last, as the guest looks at it first. */
	viommu_set64(v, frcd_hi(i), hi);

	if (!(fsts & VTD_FSTS_PPF))
		viommu_set32(v, VTD_FSTS, (fsts & ~VTD_FSTS_FRI) |
					  FIELD_PREP(VTD_FSTS_FRI, i));
	viommu_fault_event(v, VTD_FSTS_PPF);
}

/* The guest cleared bits of FSTS or of a fault recording register. */
void viommu_fault_written(struct kvm_viommu *v)
{
	u32 fsts = vtd_reg32(v, VTD_FSTS) & ~VTD_FSTS_PPF;
	unsigned int i;

	lockdep_assert_held(&v->lock);

	for (i = 0; i < VTD_NR_FRCD; i++) {
		if (viommu_frcd_is_pending(v, i))
			fsts |= VTD_FSTS_PPF;
	}
	viommu_set32(v, VTD_FSTS, fsts);

	if (!(fsts & VTD_FSTS_EVENTS))
		viommu_set32(v, VTD_FECTL, vtd_reg32(v, VTD_FECTL) & ~VTD_CTL_IP);
}

/*
 * A descriptor that is not understood: IQH stays on it and no other is fetched
 * until the guest clears FSTS.IQE, see "Queued Invalidation Interface".
 */
void viommu_queue_error(struct kvm_viommu *v, enum vtd_queue_error error)
{
	lockdep_assert_held(&v->lock);

	trace_kvm_viommu_queue_error(vtd_reg64(v, VTD_IQH), vtd_reg64(v, VTD_IQT),
				     error);
	++v->kvm->stat.viommu_queue_errors;

	viommu_go_trapped(v);
	viommu_set64(v, VTD_IQERCD, FIELD_PREP(VTD_IQERCD_IQEI, error));
	viommu_fault_event(v, VTD_FSTS_IQE);
}

/* The host's IOMMU blocked an access.  Called in atomic context. */
void viommu_hw_fault(void *owner, void *device, u64 iova, bool write)
{
	struct viommu_device *dev = device;
	struct kvm_viommu *v = owner;
	unsigned long flags;

	spin_lock_irqsave(&v->fault_lock, flags);
	/* What exceeds the queue would be a fault overflow in a moment. */
	if (v->nr_hw_faults < VIOMMU_NR_HW_FAULTS) {
		v->hw_faults[v->nr_hw_faults].sid = dev->sid;
		v->hw_faults[v->nr_hw_faults].iova = iova;
		v->hw_faults[v->nr_hw_faults].write = write;
		v->nr_hw_faults++;
		queue_work(system_unbound_wq, &v->work);
	}
	spin_unlock_irqrestore(&v->fault_lock, flags);
}

/* Tell the guest what viommu_hw_fault() was told. */
void viommu_record_hw_faults(struct kvm_viommu *v)
{
	typeof(v->hw_faults[0]) faults[VIOMMU_NR_HW_FAULTS];
	struct kvm_viommu_translate t;
	struct viommu_context ctx;
	enum vtd_fault reason;
	unsigned int i, nr;

	lockdep_assert_held(&v->lock);

	spin_lock_irq(&v->fault_lock);
	nr = v->nr_hw_faults;
	memcpy(faults, v->hw_faults, nr * sizeof(faults[0]));
	v->nr_hw_faults = 0;
	spin_unlock_irq(&v->fault_lock);

	for (i = 0; i < nr; i++) {
		++v->kvm->stat.viommu_dma_faults;
		if (!(vtd_reg32(v, VTD_GSTS) & VTD_GSTS_TES))
			continue;

		/* The reason is in the guest's tables, and IOMMUs differ in it. */
		ctx.quiet = false;
		reason = viommu_read_context(v, faults[i].sid, &ctx);
		if (reason == VTD_FAULT_NONE)
			reason = viommu_translate(v, &ctx, faults[i].iova,
						  faults[i].write ? KVM_VIOMMU_WRITE :
								    KVM_VIOMMU_READ,
						  &t);
		/* They allow it by now, or what they say could not be mapped. */
		if (reason == VTD_FAULT_NONE)
			reason = faults[i].write ? VTD_FAULT_WRITE : VTD_FAULT_READ;
		if (!ctx.quiet)
			viommu_record_fault(v, faults[i].sid, faults[i].iova,
					    faults[i].write, reason);
	}
}
