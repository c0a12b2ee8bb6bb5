// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: its tables, and keeping the shadow up to date
 * with them.
 *
 * See "DMA Remapping" in the VT-d spec, legacy mode.  Tables are guest memory: each
 * entry is read once, and the result does not change while it is used.  A table
 * that refers to itself is just a table: it can cost work without end, which is done
 * in steps, but not more memory, as pages that may be mapped are limited.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/kvm_host.h>
#include <linux/uaccess.h>

#include "internal.h"
#include "trace.h"

#define SL_READ			BIT_ULL(0)
#define SL_WRITE		BIT_ULL(1)
#define SL_PS			BIT_ULL(7)
#define SL_SNP			BIT_ULL(11)
#define SL_TM			BIT_ULL(62)
#define SL_ADDR			GENMASK_ULL(51, 12)

#define SL_SHIFT(level)		(PAGE_SHIFT + 9 * ((level) - 1))
#define SL_SIZE(level)		BIT_ULL(SL_SHIFT(level))

#define ROOT_P			BIT_ULL(0)
#define ROOT_RSVD		GENMASK_ULL(11, 1)
#define CTX_P			BIT_ULL(0)
#define CTX_FPD			BIT_ULL(1)
#define CTX_TT			GENMASK_ULL(3, 2)
#define CTX_RSVD		GENMASK_ULL(11, 4)
#define CTX_TT_UNTRANSLATED	0
#define CTX_TT_PASSTHROUGH	2
#define CTX_HI_AW		GENMASK_ULL(2, 0)
#define CTX_HI_DID		GENMASK_ULL(23, 8)
#define CTX_HI_RSVD		(BIT_ULL(7) | GENMASK_ULL(63, 24))

/* What a leaf in the shadow was made from: gfn, its size and permissions. */
struct viommu_leaf {
	gfn_t gfn;
	u8 order;
	u8 prot;
};

/* The entry that decides about an address, down to level 2. */
struct viommu_entry {
	enum vtd_fault fault;
	/* Nothing is mapped in [.., last]. */
	bool none;
	/* ... or a leaf of level 2 or above, or a table of level 1. */
	bool leaf;
	u8 level;
	/* READ and WRITE as all levels allow. */
	u8 prot;
	gpa_t addr;
	/* The last address that the entry is for. */
	u64 last;
};

static u64 viommu_beyond_haw(struct kvm_viommu *v)
{
	return GENMASK_ULL(63, v->haw);
}

/*
 * Read entries of a table, or of the queue, which are in one page.  The guest may be
 * changing them: each word is read once, and at once.
 */
int viommu_read_guest(struct kvm_viommu *v, gpa_t gpa, u64 *entries, unsigned int nr)
{
	unsigned long hva = gfn_to_hva_prot(v->kvm, gpa_to_gfn(gpa), NULL);
	const u64 __user *from = (void __user *)(hva + offset_in_page(gpa));
	unsigned int i;

	lockdep_assert_held(&v->lock);

	if (kvm_is_error_hva(hva) || !user_read_access_begin(from, 8 * nr))
		return -EFAULT;

	for (i = 0; i < nr; i++)
		unsafe_get_user(entries[i], from + i, fault);
	user_read_access_end();
	return 0;

fault:
	user_read_access_end();
	return -EFAULT;
}

/*
 * Read and check the context entry of a device.  Returns the fault that an access
 * of it would cause for it; ctx->quiet is valid if it is one of the entry's.
 */
enum vtd_fault viommu_read_context(struct kvm_viommu *v, u16 sid,
				   struct viommu_context *ctx)
{
	u64 root[2], entry[2];

	lockdep_assert_held(&v->lock);

	/* Other table modes than legacy are not offered. */
	if (v->root & VTD_RTADDR_TTM)
		return VTD_FAULT_ROOT_TABLE;

	if ((v->root & viommu_beyond_haw(v)) ||
	    viommu_read_guest(v, (v->root & PAGE_MASK) + 16 * (sid >> 8), root,
			      ARRAY_SIZE(root)))
		return VTD_FAULT_ROOT_TABLE;

	if (!(root[0] & ROOT_P))
		return VTD_FAULT_ROOT_NP;

	if ((root[0] & (ROOT_RSVD | viommu_beyond_haw(v))) || root[1])
		return VTD_FAULT_ROOT_RSVD;

	if (viommu_read_guest(v, (root[0] & SL_ADDR) + 16 * (sid & 0xff), entry,
			      ARRAY_SIZE(entry)))
		return VTD_FAULT_CONTEXT_TABLE;

	ctx->quiet = entry[0] & CTX_FPD;
	if (!(entry[0] & CTX_P))
		return VTD_FAULT_CONTEXT_NP;

	if ((entry[0] & (CTX_RSVD | viommu_beyond_haw(v))) ||
	    (entry[1] & CTX_HI_RSVD))
		return VTD_FAULT_CONTEXT_RSVD;

	ctx->did = FIELD_GET(CTX_HI_DID, entry[1]);
	ctx->tables = entry[0] & SL_ADDR;

	switch (FIELD_GET(CTX_HI_AW, entry[1])) {
	case 1:
		ctx->width = 39;
		if (!(v->cap & VTD_CAP_SAGAW_39))
			return VTD_FAULT_CONTEXT;
		break;
	case 2:
		ctx->width = 48;
		if (!(v->cap & VTD_CAP_SAGAW_48))
			return VTD_FAULT_CONTEXT;
		break;
	default:
		return VTD_FAULT_CONTEXT;
	}

	switch (FIELD_GET(CTX_TT, entry[0])) {
	case CTX_TT_UNTRANSLATED:
		ctx->passthrough = false;
		return VTD_FAULT_NONE;
	case CTX_TT_PASSTHROUGH:
		ctx->passthrough = true;
		return v->ecap & VTD_ECAP_PT ? VTD_FAULT_NONE : VTD_FAULT_CONTEXT;
	default:
		return VTD_FAULT_CONTEXT;
	}
}

/* The last address that a device in a domain of @width bits can use. */
static u64 viommu_last_iova(struct kvm_viommu *v, u8 width)
{
	u8 mgaw = FIELD_GET(VTD_CAP_MGAW, v->cap) + 1;

	return GENMASK_ULL(min(width, mgaw) - 1, 0);
}

static bool viommu_may_be_leaf(struct kvm_viommu *v, unsigned int level)
{
	return level == 1 || (level == 2 && (v->cap & VTD_CAP_SLLPS_2M)) ||
	       (level == 3 && (v->cap & VTD_CAP_SLLPS_1G));
}

/* Has a paging entry bits that are to be 0? */
static bool viommu_pte_reserved(struct kvm_viommu *v, u64 pte, unsigned int level)
{
	u64 rsvd = viommu_beyond_haw(v) & SL_ADDR;

	/* Neither snoop control nor device TLBs are offered. */
	if (level == 1)
		return pte & (rsvd | SL_SNP | SL_TM);

	if (!(pte & SL_PS))
		return pte & rsvd;

	if (!viommu_may_be_leaf(v, level))
		return true;

	return pte & (rsvd | SL_SNP | SL_TM | (GENMASK_ULL(SL_SHIFT(level) - 1, 12)));
}

/*
 * Walk from the root of a domain's tables towards @iova until a leaf, an absent
 * entry, a fault, or the table of level @stop - 1 is found.
 */
static void viommu_walk(struct kvm_viommu *v, gpa_t table, u8 width, u64 iova,
			unsigned int stop, struct viommu_entry *e)
{
	unsigned int level = (width - PAGE_SHIFT) / 9;
	u64 pte;

	*e = (struct viommu_entry) {
		.prot = VIOMMU_SHADOW_READ | VIOMMU_SHADOW_WRITE,
		.addr = table,
	};

	for (;; level--) {
		e->level = level;
		e->last = iova | (SL_SIZE(level) - 1);

		if (viommu_read_guest(v, e->addr + 8 * ((iova >> SL_SHIFT(level)) & 511),
				      &pte, 1)) {
			e->fault = VTD_FAULT_TABLE;
			break;
		}

		e->prot &= pte & (SL_READ | SL_WRITE);
		if (!(pte & (SL_READ | SL_WRITE))) {
			e->none = true;
			return;
		}
		if (viommu_pte_reserved(v, pte, level)) {
			e->fault = VTD_FAULT_PTE_RSVD;
			break;
		}

		e->addr = pte & SL_ADDR;
		e->leaf = level == 1 || (pte & SL_PS);
		if (e->leaf || level == stop)
			return;
	}

	e->none = true;
}

/*
 * Translate for an access by a device with a valid context entry.  Fills in what
 * @t has to return; returns the fault that the access causes.
 */
enum vtd_fault viommu_translate(struct kvm_viommu *v,
				const struct viommu_context *ctx, u64 iova,
				u32 access, struct kvm_viommu_translate *t)
{
	struct viommu_entry e;

	BUILD_BUG_ON(KVM_VIOMMU_READ != VIOMMU_SHADOW_READ);
	BUILD_BUG_ON(KVM_VIOMMU_WRITE != VIOMMU_SHADOW_WRITE);
	BUILD_BUG_ON(VIOMMU_SHADOW_READ != SL_READ);
	BUILD_BUG_ON(VIOMMU_SHADOW_WRITE != SL_WRITE);
	lockdep_assert_held(&v->lock);

	t->access = KVM_VIOMMU_READ | KVM_VIOMMU_WRITE;
	if (ctx->passthrough) {
		if (iova & viommu_beyond_haw(v))
			return VTD_FAULT_BEYOND;
		t->gpa = iova;
		t->size = PAGE_SIZE;
		return VTD_FAULT_NONE;
	}

	if (iova > viommu_last_iova(v, ctx->width))
		return VTD_FAULT_BEYOND;

	viommu_walk(v, ctx->tables, ctx->width, iova, 1, &e);
	if (e.fault)
		return e.fault;

	t->access = e.prot;
	if ((access & KVM_VIOMMU_WRITE) && !(e.prot & SL_WRITE))
		return VTD_FAULT_WRITE;
	if (((access & KVM_VIOMMU_READ) || !access) && !(e.prot & SL_READ))
		return VTD_FAULT_READ;

	t->size = SL_SIZE(e.level);
	t->gpa = e.addr | (iova & (t->size - 1));
	return VTD_FAULT_NONE;
}

static void viommu_domain_fault(struct kvm_viommu *v, struct viommu_domain *d,
				u64 iova, bool write, enum vtd_fault reason)
{
	if (!d->quiet)
		viommu_record_fault(v, d->sid, iova, write, reason);
}

static void viommu_unmap_leaf(struct kvm_viommu *v, struct viommu_domain *d,
			      struct viommu_shadow_leaf *leaf)
{
	trace_kvm_viommu_unmap(d->did, leaf->iova, leaf->order);
	v->nr_mapped -= BIT_ULL(leaf->order);
	v->api->unmap(d->shadow, leaf);
	v->unsynced = true;
}

/* Returns where it stopped: behind @last, unless the budget was used up before. */
static u64 viommu_unmap_range(struct kvm_viommu *v, struct viommu_domain *d,
			      u64 first, u64 last, unsigned int *budget)
{
	struct viommu_shadow_leaf *leaf, *next;

	for (leaf = v->api->first(d->shadow, first); leaf && leaf->iova <= last;
	     leaf = next) {
		if (!*budget)
			return leaf->iova;

		next = v->api->next(d->shadow, leaf);
		viommu_unmap_leaf(v, d, leaf);
		--*budget;
	}
	return last + 1;
}

/* Pages of 4 KiB that may be mapped; those that are more are not. */
u64 viommu_max_mapped(struct kvm_viommu *v)
{
	return v->max_pages ?: 2 * (u64)v->kvm->nr_memslot_pages;
}

/*
 * Map memory at @gfn.  What cannot be mapped stays unmapped, and is reported to
 * the guest as if a device had used it.
 */
static void viommu_map_leaf(struct kvm_viommu *v, struct viommu_domain *d,
			    u64 iova, const struct viommu_leaf *l)
{
	bool writable, write = l->prot & SL_WRITE;
	hva_t hva;
	int ret;

	if (v->nr_mapped + BIT_ULL(l->order) > viommu_max_mapped(v)) {
		++v->kvm->stat.viommu_limit;
		ret = -ENOSPC;
		goto fault;
	}

	hva = gfn_to_hva_prot(v->kvm, l->gfn, &writable);
	if (kvm_is_error_hva(hva) || (write && !writable)) {
		/* Not memory, or not the guest's to write. */
		++v->kvm->stat.viommu_map_errors;
		ret = -EFAULT;
		goto fault;
	}

	ret = v->api->map(d->shadow, iova, l->order, hva, l->prot, l->gfn);
	if (ret)
		goto fault;

	v->nr_mapped += BIT_ULL(l->order);
	trace_kvm_viommu_map(d->did, iova, l->gfn, l->order, l->prot, 0);
	return;

fault:
	trace_kvm_viommu_map(d->did, iova, l->gfn, l->order, l->prot, ret);
	viommu_starve(v, ret);
	viommu_domain_fault(v, d, iova, write,
			    write ? VTD_FAULT_WRITE : VTD_FAULT_READ);
}

static bool viommu_is_mapped_as(const struct viommu_shadow_leaf *leaf, u64 iova,
				const struct viommu_leaf *l)
{
	return leaf->iova == iova && leaf->cookie == l->gfn &&
	       leaf->order == l->order && leaf->prot == l->prot;
}

/* Is all of a large page in one memslot?  Else it is mapped in small ones. */
static bool viommu_in_one_slot(struct kvm_viommu *v, gfn_t gfn)
{
	struct kvm_memory_slot *slot = gfn_to_memslot(v->kvm, gfn);

	return slot && gfn + 512 <= slot->base_gfn + slot->npages;
}

/* Bring [first, last] in one block of 2 MiB up to date; returns how far it got. */
static u64 viommu_sync_small(struct kvm_viommu *v, struct viommu_domain *d,
			     const struct viommu_entry *e, u64 first, u64 last,
			     unsigned int *budget)
{
	struct viommu_shadow_leaf *leaf, *next;
	struct viommu_leaf want;
	unsigned int i;
	u64 iova, pte;
	bool is_want;

	leaf = v->api->first(d->shadow, first);
	for (iova = first; iova < last && *budget; iova += PAGE_SIZE) {
		i = (iova >> PAGE_SHIFT) & 511;
		want.order = VIOMMU_SHADOW_4K;
		if (e->leaf) {
			/* A large page in parts. */
			want.gfn = (e->addr >> PAGE_SHIFT) +
				   ((iova & (SL_SIZE(e->level) - 1)) >> PAGE_SHIFT);
			want.prot = e->prot;
			is_want = true;
		} else {
			pte = v->ptes[i];
			want.gfn = (pte & SL_ADDR) >> PAGE_SHIFT;
			want.prot = e->prot & pte & (SL_READ | SL_WRITE);
			is_want = pte & (SL_READ | SL_WRITE);
			if (is_want && viommu_pte_reserved(v, pte, 1)) {
				viommu_domain_fault(v, d, iova,
						    !(want.prot & SL_READ),
						    VTD_FAULT_PTE_RSVD);
				is_want = false;
			}
			/* Read-only above write-only is neither. */
			if (!want.prot)
				is_want = false;
		}

		if (leaf && leaf->iova == iova) {
			next = v->api->next(d->shadow, leaf);
			if (is_want && viommu_is_mapped_as(leaf, iova, &want)) {
				leaf = next;
				continue;
			}
			viommu_unmap_leaf(v, d, leaf);
			leaf = next;
			--*budget;
		}
		if (is_want && *budget) {
			viommu_map_leaf(v, d, iova, &want);
			--*budget;
		} else if (is_want) {
			/* Next time. */
			break;
		}
	}
	return iova;
}

/*
 * Bring a part of [d->next, d->last] up to date, at most one block of 2 MiB unless
 * nothing is mapped at all, and advance d->next.
 */
static void viommu_sync_some(struct kvm_viommu *v, struct viommu_domain *d,
			     unsigned int *budget)
{
	u64 block = d->next & ~(SL_SIZE(2) - 1), first = d->next, last;
	struct viommu_shadow_leaf *leaf;
	struct viommu_leaf want;
	struct viommu_entry e;
	unsigned int i, nr;

	viommu_walk(v, d->tables, d->width, d->next, 2, &e);
	if (e.fault)
		viommu_domain_fault(v, d, first, false, e.fault);
	/* Read-only above write-only is neither. */
	if (!e.prot)
		e.none = true;

	if (e.none) {
		d->next = viommu_unmap_range(v, d, first, min(e.last, d->last),
					     budget);
		return;
	}

	/* A large page in the shadow stays as it is or goes as a whole. */
	leaf = v->api->first(d->shadow, block);
	if (leaf && (leaf->iova != block || leaf->order != VIOMMU_SHADOW_2M))
		leaf = NULL;

	last = block + SL_SIZE(2) - 1;
	if (e.leaf) {
		want.order = VIOMMU_SHADOW_2M;
		want.prot = e.prot;
		want.gfn = (e.addr + (block & (SL_SIZE(e.level) - 1))) >> PAGE_SHIFT;
		if (viommu_in_one_slot(v, want.gfn)) {
			if (!leaf || !viommu_is_mapped_as(leaf, block, &want)) {
				/* Go on from the block's start the next time. */
				d->next = viommu_unmap_range(v, d, block, last,
							     budget);
				if (d->next <= last) {
					d->next = block;
					d->last = max(d->last, last);
					return;
				}
				viommu_map_leaf(v, d, block, &want);
				/* It is 512 pages to pin. */
				*budget -= min(*budget, 32);
			}
			d->next = last + 1;
			return;
		}
	}

	if (leaf) {
		viommu_unmap_leaf(v, d, leaf);
		first = block;
	} else {
		last = min(last, d->last);
	}

	if (!e.leaf) {
		i = (first >> PAGE_SHIFT) & 511;
		nr = ((last - first) >> PAGE_SHIFT) + 1;
		if (viommu_read_guest(v, e.addr + 8 * i, v->ptes + i, nr)) {
			viommu_domain_fault(v, d, first, false, VTD_FAULT_TABLE);
			d->next = viommu_unmap_range(v, d, first, last, budget);
			d->last = max(d->last, last);
			return;
		}
	}
	d->next = viommu_sync_small(v, d, &e, first, last, budget);
	/* Of a block that is done in several steps the rest is due, too. */
	if (d->next <= last)
		d->last = max(d->last, last);
}

/*
 * Bring a domain's shadow up to date with the guest's tables in [d->next, d->last],
 * within a budget of table reads and (un)maps.  Returns true if that is done.
 */
bool viommu_sync_domain(struct kvm_viommu *v, struct viommu_domain *d,
			unsigned int *budget)
{
	u64 limit = viommu_last_iova(v, d->width);

	lockdep_assert_held(&v->lock);

	d->last = min(d->last, limit);
	v->api->lock(v->shadow);
	while (d->next <= d->last && *budget) {
		--*budget;
		viommu_sync_some(v, d, budget);
	}
	v->api->unlock(v->shadow);

	return d->next > d->last;
}

/* Unmap memory that is no longer the guest's, wherever devices may reach it. */
void viommu_unmap_gfns(struct kvm_viommu *v, gfn_t start, gfn_t end)
{
	struct viommu_shadow_leaf *leaf, *next;
	struct viommu_domain *d;

	lockdep_assert_held(&v->lock);

	v->api->lock(v->shadow);
	list_for_each_entry(d, &v->in_use, node) {
		for (leaf = v->api->first(d->shadow, 0); leaf; leaf = next) {
			next = v->api->next(d->shadow, leaf);
			if (leaf->cookie < end &&
			    leaf->cookie + BIT_ULL(leaf->order) > start)
				viommu_unmap_leaf(v, d, leaf);
			cond_resched();
		}
	}
	v->api->sync(v->shadow, true);
	v->unsynced = false;
	v->api->unlock(v->shadow);
}

/*
 * Unmap what is left of a domain without devices, within a budget.  Returns true if
 * that was all.
 */
bool viommu_unmap_some(struct kvm_viommu *v, struct viommu_domain *d,
		       unsigned int *budget)
{
	u64 end;

	lockdep_assert_held(&v->lock);

	v->api->lock(v->shadow);
	/* Wraps around to 0. */
	end = viommu_unmap_range(v, d, 0, U64_MAX, budget);
	v->api->unlock(v->shadow);
	return !end;
}
