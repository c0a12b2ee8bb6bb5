// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: commands and invalidations.
 *
 * With caching mode, which is not optional here, a guest announces each change of
 * its tables by an invalidation.  It is carried out by looking at the tables again
 * and bringing devices and domains up to date.
 *
 * One thing is done at a time: commands of the register file first, then what is in
 * the queue.  As it can take long, it is done in steps within a budget, and what is
 * left is kept in struct kvm_viommu: viommu_process() goes on where it stopped,
 * whoever calls it.
 *
 * An invalidation is of context entries or of translations.  The former is in three
 * steps: see which domain each device belongs to, bring domains up to date that are
 * new, attach devices to their domains.  A domain exists as long as it has devices.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/eventfd.h>
#include <linux/kvm_host.h>
#include <linux/slab.h>

#include "internal.h"
#include "trace.h"

/* Descriptors, see "Queued Invalidation Interface" */
#define QI_TYPE			GENMASK_ULL(3, 0)
#define QI_TYPE_HI		GENMASK_ULL(11, 9)
#define QI_CONTEXT		1
#define QI_IOTLB		2
#define QI_WAIT			5
#define QI_GRANULARITY		GENMASK_ULL(5, 4)

#define QI_CC_DID		GENMASK_ULL(31, 16)
#define QI_CC_SID		GENMASK_ULL(47, 32)
#define QI_CC_FM		GENMASK_ULL(49, 48)
#define QI_CC_RSVD		(GENMASK_ULL(15, 6) | GENMASK_ULL(63, 50))

#define QI_IOTLB_DID		GENMASK_ULL(31, 16)
#define QI_IOTLB_RSVD		(GENMASK_ULL(15, 8) | GENMASK_ULL(63, 32))
#define QI_IOTLB_AM		GENMASK_ULL(5, 0)
#define QI_IOTLB_IH		BIT_ULL(6)
#define QI_IOTLB_ADDR		GENMASK_ULL(63, 12)
#define QI_IOTLB_HI_RSVD	GENMASK_ULL(11, 7)

#define QI_WAIT_IF		BIT_ULL(4)
#define QI_WAIT_SW		BIT_ULL(5)
#define QI_WAIT_DATA		GENMASK_ULL(63, 32)
/* FN and PD make no difference: descriptors are carried out one by one. */
#define QI_WAIT_RSVD		GENMASK_ULL(31, 8)
#define QI_WAIT_ADDR		GENMASK_ULL(63, 2)
#define QI_WAIT_HI_RSVD		GENMASK_ULL(1, 0)

/*
 * Domains that may be waiting to be taken apart before anything new is started.  Each
 * takes memory and an id of the host's, and a guest can make them as fast as it likes.
 */
#define VIOMMU_MAX_DYING	16

/* What it takes to destroy a domain that is empty, in units of work. */
#define VIOMMU_DESTROY_COST	16

/* Bring all that was unmapped since to the host's IOMMU. */
static void viommu_sync_shadow(struct kvm_viommu *v)
{
	if (!v->unsynced)
		return;

	v->api->lock(v->shadow);
	v->api->sync(v->shadow, false);
	v->api->unlock(v->shadow);
	v->unsynced = false;
}

/*
 * Tell a VMM that translates addresses for devices of its own.  If it does not
 * keep up, tell it once that everything was invalidated.
 */
static void viommu_note(struct kvm_viommu *v, u16 sid, u16 did, u64 iova, u64 last,
			u32 flags)
{
	if (!v->notify)
		return;

	/* The last entry is one that the VMM cannot have seen, see below. */
	if (v->next - v->acked == VIOMMU_NR_NOTES) {
		v->next--;
		iova = 0;
		last = U64_MAX;
		flags = 0;
	}
	v->notes[v->next++ % VIOMMU_NR_NOTES] = (struct kvm_viommu_invalidation) {
		.iova = iova,
		.last = last,
		.sid = sid,
		.domain = did,
		.flags = flags,
	};
	eventfd_signal(v->notify);
}

/* What devices reach has changed as a whole. */
void viommu_note_all(struct kvm_viommu *v)
{
	viommu_note(v, 0, 0, 0, U64_MAX, 0);
}

static void viommu_mark_stale(struct kvm_viommu *v, struct viommu_domain *d,
			      u64 first, u64 last)
{
	if (list_empty(&d->stale)) {
		list_add_tail(&d->stale, &v->stale);
		d->next = first;
		d->last = last;
	} else {
		d->next = min(d->next, first);
		d->last = max(d->last, last);
	}
}

static void viommu_put_domain(struct kvm_viommu *v, struct viommu_domain *d)
{
	if (!d || --d->nr_devices)
		return;

	/* No device reaches what it maps.  That can be a lot. */
	if (xa_load(&v->domains, d->did) == d)
		xa_erase(&v->domains, d->did);
	list_del(&d->node);
	list_move_tail(&d->stale, &v->dying);
	v->nr_dying++;
}

/* Take domains apart that have no device, within a budget. */
static void viommu_bury(struct kvm_viommu *v, unsigned int *budget)
{
	struct viommu_domain *d, *next;

	list_for_each_entry_safe(d, next, &v->dying, stale) {
		if (!*budget || !viommu_unmap_some(v, d, budget))
			return;

		list_del(&d->stale);
		v->nr_dying--;
		v->api->domain_destroy(d->shadow);
		kfree(d);
		*budget -= min(*budget, VIOMMU_DESTROY_COST);
	}
}

/* Take all of them apart, on behalf of the VMM. */
void viommu_bury_all(struct kvm_viommu *v)
{
	unsigned int budget;

	lockdep_assert_held(&v->lock);

	while (!list_empty(&v->dying)) {
		budget = 256;
		viommu_bury(v, &budget);
		cond_resched();
	}
}

/*
 * A device could not be attached, and is blocked, or a page not be mapped, for this
 * reason.  If there was no memory, contexts and tables are looked at again with the
 * next invalidation: the guest, which has done nothing wrong, does not know that it
 * should ask for that.
 */
void viommu_starve(struct kvm_viommu *v, int err)
{
	if (err == -ENOMEM)
		v->starved = true;
}

/*
 * Get the domain that a context entry is about, new or existing.  Entries that
 * agree on the id have to agree on the tables ("Context Entry"); of a guest that
 * breaks that rule the later device is blocked.  If all devices leave a domain, or
 * its tables, at once, then one with the same id takes its place.
 */
static struct viommu_domain *viommu_get_domain(struct kvm_viommu *v,
					       struct viommu_device *dev,
					       const struct viommu_context *ctx)
{
	struct viommu_domain *d = xa_load(&v->domains, ctx->did);
	int ret = -ENOMEM;

	if (d && d->tables == ctx->tables && d->width == ctx->width) {
		d->nr_devices++;
		goto found;
	}
	/* Another device's entry, of those that are being looked at, says so. */
	if (d && d->round == v->round)
		return NULL;

	d = kzalloc(sizeof(*d), GFP_KERNEL_ACCOUNT);
	if (!d)
		goto err;

	d->did = ctx->did;
	d->tables = ctx->tables;
	d->width = ctx->width;
	d->nr_devices = 1;
	INIT_LIST_HEAD(&d->stale);
	d->shadow = v->api->domain_create(dev->shadow);
	if (IS_ERR(d->shadow)) {
		ret = PTR_ERR(d->shadow);
		goto err_free;
	}
	/* One that was there before has devices until these are attached. */
	ret = xa_err(xa_store(&v->domains, d->did, d, GFP_KERNEL_ACCOUNT));
	if (ret)
		goto err_shadow;

	list_add_tail(&d->node, &v->in_use);
	viommu_mark_stale(v, d, 0, U64_MAX);
found:
	d->round = v->round;
	d->sid = dev->sid;
	d->quiet = ctx->quiet;
	return d;

err_shadow:
	v->api->domain_destroy(d->shadow);
err_free:
	kfree(d);
err:
	viommu_starve(v, ret);
	return NULL;
}

/* Look at a device's context entry, and decide what it is to be attached to. */
static void viommu_look_at_context(struct kvm_viommu *v, struct viommu_device *dev)
{
	struct viommu_context ctx = { };
	struct viommu_domain *d = NULL;
	enum vtd_fault reason;

	reason = viommu_read_context(v, dev->sid, &ctx);
	dev->quiet = ctx.quiet;

	if (!reason && !ctx.passthrough) {
		d = viommu_get_domain(v, dev, &ctx);
		if (!d)
			reason = VTD_FAULT_CONTEXT;
	}

	viommu_put_domain(v, dev->target_domain);
	dev->target_domain = d;
	if (d)
		dev->target = VIOMMU_TRANSLATED;
	else if (!reason)
		/* Passthrough: what the VMM mapped, which is guest memory. */
		dev->target = VIOMMU_GIVEN_BACK;
	else
		dev->target = VIOMMU_BLOCKED;

	/* Absent entries are usual, and an access to be blocked is yet to come. */
	if (reason && reason != VTD_FAULT_ROOT_NP &&
	    reason != VTD_FAULT_CONTEXT_NP && !dev->quiet)
		viommu_record_fault(v, dev->sid, 0, false, reason);
}

static int viommu_attach_target(struct kvm_viommu *v, struct viommu_device *dev)
{
	switch (dev->target) {
	case VIOMMU_TRANSLATED:
		return v->api->attach(dev->shadow, dev->target_domain->shadow);
	case VIOMMU_GIVEN_BACK:
		return v->api->give_back(dev->shadow);
	default:
		return v->api->block(dev->shadow);
	}
}

/* Attach devices as viommu_look_at_context() found; domains are up to date. */
static void viommu_attach_devices(struct kvm_viommu *v)
{
	struct viommu_device *dev;
	int ret;

	list_for_each_entry(dev, &v->devices, node) {
		if (dev->failed || dev->target != dev->attached ||
		    dev->target_domain != dev->domain) {
			ret = viommu_attach_target(v, dev);
			dev->failed = ret;
			if (ret) {
				viommu_starve(v, ret);
				/* E.g. a domain of another IOMMU. */
				v->api->block(dev->shadow);
				viommu_record_fault(v, dev->sid, 0, false,
						    VTD_FAULT_CONTEXT);
				viommu_put_domain(v, dev->target_domain);
				dev->target_domain = NULL;
				dev->target = VIOMMU_BLOCKED;
			}
			trace_kvm_viommu_attach(dev->sid, dev->target,
						dev->target_domain ?
						dev->target_domain->did : 0);
		}
		viommu_put_domain(v, dev->domain);
		dev->domain = dev->target_domain;
		dev->attached = dev->target;
		dev->target_domain = NULL;
	}
}

/*
 * Attach a device to what no guest table decides about: the VMM's container, or
 * nothing.  If the former fails then it is the latter.
 */
static void viommu_leave_domains(struct kvm_viommu *v, struct viommu_device *dev,
				 enum viommu_attached attached)
{
	if (attached == VIOMMU_GIVEN_BACK && v->api->give_back(dev->shadow))
		attached = VIOMMU_BLOCKED;
	dev->failed = attached == VIOMMU_BLOCKED && v->api->block(dev->shadow);
	trace_kvm_viommu_attach(dev->sid, attached, 0);

	viommu_put_domain(v, dev->target_domain);
	viommu_put_domain(v, dev->domain);
	dev->domain = NULL;
	dev->target_domain = NULL;
	dev->attached = attached;
	dev->target = attached;
}

/* Give a device back, and give up its domains. */
void viommu_detach_device(struct kvm_viommu *v, struct viommu_device *dev)
{
	lockdep_assert_held(&v->lock);

	viommu_leave_domains(v, dev, VIOMMU_GIVEN_BACK);
}

/* Let no device access anything, as what it may is about to be found out. */
void viommu_block_all(struct kvm_viommu *v)
{
	struct viommu_device *dev;

	lockdep_assert_held(&v->lock);

	list_for_each_entry(dev, &v->devices, node)
		viommu_leave_domains(v, dev, VIOMMU_BLOCKED);
}

/* Translation is off. */
void viommu_detach_all(struct kvm_viommu *v)
{
	struct viommu_device *dev;

	lockdep_assert_held(&v->lock);

	list_for_each_entry(dev, &v->devices, node)
		viommu_detach_device(v, dev);
}

/*
 * Forget about what is under way and what is to be done.  Domains may be out of date
 * then; detach them.
 */
void viommu_abort(struct kvm_viommu *v)
{
	struct viommu_domain *d, *next;

	lockdep_assert_held(&v->lock);

	list_for_each_entry_safe(d, next, &v->stale, stale)
		list_del_init(&d->stale);
	v->source = VIOMMU_IDLE;
	v->contexts = false;
	bitmap_zero(v->todo, VIOMMU_NR_TODO);
}

/* After the invalidation that begins, and before a wait descriptor. */
static void viommu_retry_starved(struct kvm_viommu *v)
{
	if (v->starved)
		__set_bit(VIOMMU_TODO_RESYNC, v->todo);
}

/*
 * Start an invalidation of context entries.  Which ones is not looked at: it may
 * be more than what was asked for, and devices are few.
 */
static void viommu_start_contexts(struct kvm_viommu *v, enum viommu_source source)
{
	struct viommu_device *dev;

	v->source = source;
	v->starved = false;
	v->contexts = vtd_reg32(v, VTD_GSTS) & VTD_GSTS_TES ||
		      source == VIOMMU_BY_TE_ON;
	if (!v->contexts)
		return;

	v->round++;
	list_for_each_entry(dev, &v->devices, node)
		viommu_look_at_context(v, dev);
}

static void viommu_invalidate_contexts(struct kvm_viommu *v,
				       enum viommu_source source, int granularity,
				       u16 did, u16 sid, u8 fm)
{
	++v->kvm->stat.viommu_context_invalidations;
	trace_kvm_viommu_invalidate(true, granularity, did, sid, 0, U64_MAX);
	/* One device, or several functions of one: those are all devices. */
	viommu_note(v, sid, did, 0, U64_MAX, granularity == VTD_DEVICE && !fm ?
		    KVM_VIOMMU_INV_DEVICE : 0);
	/* It is not of translations. */
	viommu_retry_starved(v);
	viommu_start_contexts(v, source);
}

/* Start an invalidation of translations. */
static void viommu_invalidate_iotlb(struct kvm_viommu *v, enum viommu_source source,
				    int granularity, u16 did, u64 iova, u64 am)
{
	u64 last = iova | (BIT_ULL(PAGE_SHIFT + am) - 1);
	struct viommu_domain *d;
	unsigned long id;

	++v->kvm->stat.viommu_iotlb_invalidations;
	v->source = source;
	v->contexts = false;
	viommu_retry_starved(v);

	switch (granularity) {
	case VTD_PAGES:
		/* Bits of the address below the mask are ignored. */
		iova &= ~(BIT_ULL(PAGE_SHIFT + am) - 1);
		break;
	case VTD_GLOBAL:
		did = 0;
		fallthrough;
	default:
		iova = 0;
		last = U64_MAX;
	}
	trace_kvm_viommu_invalidate(false, granularity, did, 0, iova, last);
	viommu_note(v, 0, did, iova, last,
		    granularity == VTD_GLOBAL ? 0 : KVM_VIOMMU_INV_DOMAIN);

	if (granularity == VTD_GLOBAL) {
		xa_for_each(&v->domains, id, d)
			viommu_mark_stale(v, d, iova, last);
		return;
	}

	d = xa_load(&v->domains, did);
	if (d)
		viommu_mark_stale(v, d, iova, last);
}

/* The invalidation by a register or a descriptor has the effect it shall have. */
static void viommu_complete(struct kvm_viommu *v)
{
	enum viommu_source source = v->source;
	u64 val;

	if (v->contexts)
		viommu_attach_devices(v);
	v->source = VIOMMU_IDLE;
	v->contexts = false;

	/* A wait descriptor makes the queue's invalidations complete. */
	if (source != VIOMMU_BY_QUEUE)
		viommu_sync_shadow(v);

	switch (source) {
	case VIOMMU_BY_TE_ON:
		viommu_set32(v, VTD_GSTS, vtd_reg32(v, VTD_GSTS) | VTD_GSTS_TES);
		viommu_note_all(v);
		break;
	case VIOMMU_BY_SRTP:
		viommu_go_trapped(v);
		viommu_set32(v, VTD_GSTS, vtd_reg32(v, VTD_GSTS) | VTD_GSTS_RTPS);
		v->root_set = jiffies;
		break;
	case VIOMMU_BY_CCMD:
		/* What was done is what was asked for. */
		val = vtd_reg64(v, VTD_CCMD);
		val &= ~(VTD_CCMD_ICC | VTD_CCMD_CAIG);
		val |= FIELD_PREP(VTD_CCMD_CAIG, FIELD_GET(VTD_CCMD_CIRG, val));
		viommu_set64(v, VTD_CCMD, val);
		break;
	case VIOMMU_BY_IOTLB:
		val = vtd_reg64(v, VTD_IOTLB);
		val &= ~(VTD_IOTLB_IVT | VTD_IOTLB_IAIG);
		val |= FIELD_PREP(VTD_IOTLB_IAIG, FIELD_GET(VTD_IOTLB_IIRG, val));
		viommu_set64(v, VTD_IOTLB, val);
		break;
	default:
		break;
	}
}

static u64 viommu_max_am(struct kvm_viommu *v)
{
	return FIELD_GET(VTD_CAP_MAMV, v->cap);
}

/*
 * "Register-based Invalidation Interface".  A request that is not valid, and any
 * request while the queue is enabled, is ignored, and says so: the granularity
 * that was done is 0.
 */
static void viommu_do_ccmd(struct kvm_viommu *v)
{
	u64 val = vtd_reg64(v, VTD_CCMD);
	int granularity = FIELD_GET(VTD_CCMD_CIRG, val);

	if (!granularity || (vtd_reg32(v, VTD_GSTS) & VTD_GSTS_QIES)) {
		viommu_set64(v, VTD_CCMD, val & ~(VTD_CCMD_ICC | VTD_CCMD_CAIG));
		return;
	}
	viommu_invalidate_contexts(v, VIOMMU_BY_CCMD, granularity,
				   FIELD_GET(VTD_CCMD_DID, val),
				   FIELD_GET(VTD_CCMD_SID, val),
				   FIELD_GET(VTD_CCMD_FM, val));
}

static void viommu_do_iotlb(struct kvm_viommu *v)
{
	u64 val = vtd_reg64(v, VTD_IOTLB), iva = vtd_reg64(v, VTD_IVA);
	int granularity = FIELD_GET(VTD_IOTLB_IIRG, val);
	u64 am = FIELD_GET(VTD_IVA_AM, iva);

	if (!granularity || (vtd_reg32(v, VTD_GSTS) & VTD_GSTS_QIES) ||
	    (granularity == VTD_PAGES && am > viommu_max_am(v))) {
		viommu_set64(v, VTD_IOTLB, val & ~(VTD_IOTLB_IVT | VTD_IOTLB_IAIG));
		return;
	}
	viommu_invalidate_iotlb(v, VIOMMU_BY_IOTLB, granularity,
				FIELD_GET(VTD_IOTLB_DID, val),
				iva & VTD_IVA_ADDR,
				granularity == VTD_PAGES ? am : 0);
}

/* Start, or do, what was asked for by registers. */
static void viommu_do_todo(struct kvm_viommu *v, enum viommu_todo todo)
{
	struct viommu_domain *d;
	unsigned long id;

	/*
	 * These change what all devices reach, with CAP.ESRTPS SRTP as well.  So
	 * does TE_ON, but not before it is complete.
	 */
	if (todo == VIOMMU_TODO_TE_OFF || todo == VIOMMU_TODO_SRTP)
		viommu_note_all(v);

	switch (todo) {
	case VIOMMU_TODO_TE_OFF:
		viommu_detach_all(v);
		viommu_sync_shadow(v);
		viommu_set32(v, VTD_GSTS, vtd_reg32(v, VTD_GSTS) & ~VTD_GSTS_TES);
		break;
	case VIOMMU_TODO_QI_OFF:
		viommu_set64(v, VTD_IQH, 0);
		viommu_set32(v, VTD_GSTS, vtd_reg32(v, VTD_GSTS) & ~VTD_GSTS_QIES);
		break;
	case VIOMMU_TODO_SRTP:
		/* With CAP.ESRTPS it invalidates everything as well. */
		v->root = vtd_reg64(v, VTD_RTADDR);
		viommu_start_contexts(v, VIOMMU_BY_SRTP);
		break;
	case VIOMMU_TODO_TE_ON:
		viommu_start_contexts(v, VIOMMU_BY_TE_ON);
		break;
	case VIOMMU_TODO_RESYNC:
		viommu_start_contexts(v, VIOMMU_BY_RESYNC);
		break;
	case VIOMMU_TODO_CCMD:
		viommu_do_ccmd(v);
		return;
	case VIOMMU_TODO_IOTLB:
		viommu_do_iotlb(v);
		return;
	default:
		return;
	}

	/* Domains that exist and remain need not be what they were. */
	if (v->source != VIOMMU_IDLE) {
		xa_for_each(&v->domains, id, d)
			viommu_mark_stale(v, d, 0, U64_MAX);
	}
}

static void viommu_advance_head(struct kvm_viommu *v, u64 size)
{
	viommu_set64(v, VTD_IQH, (vtd_reg64(v, VTD_IQH) + 16) & (size - 1));
}

/*
 * Write the status of a wait descriptor.  Not kvm_write_guest(), which is for
 * vCPUs: a dirty ring belongs to one.  viommu_init() refuses VMs with such.
 */
static void viommu_write_status(struct kvm_viommu *v, gpa_t gpa, u32 data)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(v->kvm, gpa_to_gfn(gpa));
	hva_t hva = gfn_to_hva_memslot_prot(slot, gpa_to_gfn(gpa), NULL);
	u32 __user *status;

	if (kvm_is_error_hva(hva) || (slot->flags & KVM_MEM_READONLY))
		return;

	/* Aligned, so it is one write and does not cross pages. */
	status = (u32 __user *)(hva + offset_in_page(gpa));
	if (put_user(data, status))
		return;

	if (kvm_slot_dirty_track_enabled(slot) && slot->dirty_bitmap)
		set_bit_le(gpa_to_gfn(gpa) - slot->base_gfn, slot->dirty_bitmap);
}

/*
 * A wait descriptor.  All before it has been carried out, but not everything has
 * been completed.  Returns false if it has to wait itself, for the VMM.
 */
static bool viommu_do_wait(struct kvm_viommu *v, const u64 *desc)
{
	u32 data = FIELD_GET(QI_WAIT_DATA, desc[0]);

	viommu_sync_shadow(v);
	if (v->notify && v->acked != v->next)
		return false;

	++v->kvm->stat.viommu_waits;
	/* A status address without memory is the guest's mistake. */
	if (desc[0] & QI_WAIT_SW)
		viommu_write_status(v, desc[1] & QI_WAIT_ADDR, data);

	/* "Invalidation Wait Descriptor": an event if none is pending. */
	if ((desc[0] & QI_WAIT_IF) && !(vtd_reg32(v, VTD_ICS) & VTD_ICS_IWC)) {
		viommu_go_trapped(v);
		viommu_set32(v, VTD_ICS, VTD_ICS_IWC);
		viommu_set32(v, VTD_IECTL, vtd_reg32(v, VTD_IECTL) | VTD_CTL_IP);
		viommu_send_msi(v, VTD_IECTL);
	}
	return true;
}

static bool viommu_queue_ready(struct kvm_viommu *v)
{
	return (vtd_reg32(v, VTD_GSTS) & VTD_GSTS_QIES) &&
	       !(vtd_reg32(v, VTD_FSTS) & VTD_FSTS_IQE) &&
	       vtd_reg64(v, VTD_IQH) != vtd_reg64(v, VTD_IQT);
}

/*
 * Start what the descriptor at the head of the queue asks for.  Returns false if it
 * has to wait.
 */
static bool viommu_do_descriptor(struct kvm_viommu *v)
{
	u64 iqa = vtd_reg64(v, VTD_IQA), head = vtd_reg64(v, VTD_IQH);
	u64 size = BIT_ULL(PAGE_SHIFT + FIELD_GET(VTD_IQA_QS, iqa));
	enum vtd_queue_error error;
	u64 desc[2], am, granularity;

	if (vtd_reg64(v, VTD_IQT) >= size) {
		error = VTD_IQEI_TAIL;
		goto error;
	}

	if (viommu_read_guest(v, (iqa & PAGE_MASK) + head, desc, ARRAY_SIZE(desc))) {
		error = VTD_IQEI_FETCH;
		goto error;
	}

	granularity = FIELD_GET(QI_GRANULARITY, desc[0]);
	if (desc[0] & QI_TYPE_HI) {
		error = VTD_IQEI_TYPE;
		goto error;
	}

	switch (FIELD_GET(QI_TYPE, desc[0])) {
	case QI_CONTEXT:
		error = VTD_IQEI_RSVD;
		if ((desc[0] & QI_CC_RSVD) || desc[1] || !granularity)
			goto error;
		viommu_invalidate_contexts(v, VIOMMU_BY_QUEUE, granularity,
					   FIELD_GET(QI_CC_DID, desc[0]),
					   FIELD_GET(QI_CC_SID, desc[0]),
					   FIELD_GET(QI_CC_FM, desc[0]));
		break;
	case QI_IOTLB:
		error = VTD_IQEI_RSVD;
		if ((desc[0] & QI_IOTLB_RSVD) || (desc[1] & QI_IOTLB_HI_RSVD) ||
		    !granularity)
			goto error;
		am = FIELD_GET(QI_IOTLB_AM, desc[1]);
		if (granularity == VTD_PAGES && am > viommu_max_am(v))
			goto error;
		viommu_invalidate_iotlb(v, VIOMMU_BY_QUEUE, granularity,
					FIELD_GET(QI_IOTLB_DID, desc[0]),
					desc[1] & QI_IOTLB_ADDR,
					granularity == VTD_PAGES ? am : 0);
		break;
	case QI_WAIT:
		error = VTD_IQEI_RSVD;
		if ((desc[0] & QI_WAIT_RSVD) || (desc[1] & QI_WAIT_HI_RSVD))
			goto error;
		if (!viommu_do_wait(v, desc))
			return false;
		break;
	default:
		/* Device TLBs, interrupt entries and PASIDs are not offered. */
		error = VTD_IQEI_TYPE;
		goto error;
	}

	++v->kvm->stat.viommu_descriptors;
	viommu_advance_head(v, size);
	return true;

error:
	viommu_queue_error(v, error);
	return true;
}

/* Is there anything to do that needs nobody else to do something first? */
bool viommu_has_work(struct kvm_viommu *v)
{
	lockdep_assert_held(&v->lock);

	return !bitmap_empty(v->todo, VIOMMU_NR_TODO) ||
	       v->source != VIOMMU_IDLE || !list_empty(&v->dying) ||
	       (viommu_queue_ready(v) && !(v->notify && v->acked != v->next));
}

/*
 * Do about @budget units of work: descriptors, tables and pages.  Called with the
 * VM's address space in use and under kvm->srcu.  Returns what was done.
 */
unsigned int viommu_process(struct kvm_viommu *v, unsigned int budget)
{
	unsigned int left, share, todo;
	struct viommu_domain *d;

	lockdep_assert_held(&v->lock);

	if (READ_ONCE(v->nr_hw_faults))
		viommu_record_hw_faults(v);

	/* Some of it in any case: there may always be something else to do. */
	share = budget / 4;
	left = budget - share;
	viommu_bury(v, &share);
	left += share;

	/* Two, as a mapping that is replaced takes both at once. */
	while (left > 1) {
		if (v->source != VIOMMU_IDLE) {
			d = list_first_entry_or_null(&v->stale, struct viommu_domain,
						     stale);
			if (!d) {
				viommu_complete(v);
				continue;
			}
			if (!viommu_sync_domain(v, d, &left))
				break;
			list_del_init(&d->stale);
			continue;
		}

		if (v->nr_dying > VIOMMU_MAX_DYING) {
			viommu_bury(v, &left);
			continue;
		}

		left--;
		todo = find_first_bit(v->todo, VIOMMU_NR_TODO);
		if (todo < VIOMMU_NR_TODO) {
			__clear_bit(todo, v->todo);
			viommu_do_todo(v, todo);
			continue;
		}

		if (!viommu_queue_ready(v) || !viommu_do_descriptor(v)) {
			left++;
			break;
		}
	}

	if (left)
		viommu_bury(v, &left);

	/* Do not leave it to a wait descriptor that may not come soon. */
	if (!viommu_has_work(v))
		viommu_sync_shadow(v);

	return budget - left;
}
