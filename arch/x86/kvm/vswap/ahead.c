// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guests that read their memory in sequence do not exit for each page.
 *
 * What VSwapper has dropped is read again in clusters, and the host's fault
 * handler maps as many pages of the page cache as fault_around_bytes tells.  For
 * KVM that is still a fault for each page, because it maps what has faulted.  If
 * a vCPU has read the page next to the one that it faulted on, or to those that
 * were mapped ahead of it, map the next ones as well, twice as many each time.
 * Linux often allocates pages downwards, so both directions count.
 *
 * Only what the host has mapped, or has in the page cache, is mapped: nothing is
 * waited for, and no memory allocated but page tables.  Entries start without the
 * accessed bit, as always with prefetch.  Access at random, where one page tells
 * nothing of the next, is left alone: GUP marks pages as accessed, and reclaim
 * would take those for used that the guest has never touched.
 *
 * A page that was read ahead, and tells that the guest has got there when it is
 * mapped, does so somewhat earlier then.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>
#include <linux/mm.h>
#include <linux/moduleparam.h>

#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"
#include "mmu/tdp_mmu.h"
#include "smm.h"
#include "ahead.h"
#include "preventer.h"

/* Pages that are mapped ahead at first, and at most. */
#define AHEAD_MIN	4u
#define AHEAD_MAX	64u

static int vswap_set_ahead(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, AHEAD_MAX);
}

static const struct kernel_param_ops vswap_map_ahead_ops = {
	.set = vswap_set_ahead,
	.get = param_get_uint,
};

static unsigned int vswap_map_ahead = AHEAD_MAX;
module_param_cb(vswap_map_ahead, &vswap_map_ahead_ops, &vswap_map_ahead, 0644);
MODULE_PARM_DESC(vswap_map_ahead, "Pages that are mapped at most for a fault of a guest that reads its memory in sequence, if they are in the host's page tables; 0 to 64 (default: 64)");

static bool vswap_guest_has(struct kvm_vcpu *vcpu, gfn_t gfn)
{
	u64 sptes[PT64_ROOT_MAX_LEVEL + 1];
	int leaf, root;
	bool has;

	kvm_tdp_mmu_walk_lockless_begin();
	leaf = kvm_tdp_mmu_get_walk(vcpu, gfn_to_gpa(gfn), sptes, &root);
	has = leaf > 0 && is_shadow_present_pte(sptes[leaf]) &&
	      is_last_spte(sptes[leaf], leaf);
	kvm_tdp_mmu_walk_lockless_end();
	return has;
}

/* Of a moment: what comes of a page that goes meanwhile is a fault more. */
static bool vswap_host_has(struct kvm_memory_slot *slot, gfn_t gfn)
{
	unsigned long hva = __gfn_to_hva_memslot(slot, gfn);
	struct page *page;

	if (!get_user_page_fast_only(hva, 0, &page))
		return kvm_vswap_map_cached(hva);
	put_page(page);
	return true;
}

/* Map a page if it is there; false if the ones after it are to be left alone. */
static bool vswap_map_page(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot,
			   gfn_t gfn)
{
	if (need_resched())
		return false;
	return vswap_guest_has(vcpu, gfn) ||
	       (vswap_host_has(slot, gfn) &&
		kvm_mmu_do_page_fault(vcpu, gfn_to_gpa(gfn),
				      PFERR_GUEST_FINAL_MASK, true, NULL,
				      NULL) == RET_PF_FIXED);
}

/*
 * The vCPU has faulted at gpa, and the page was mapped.  Only its thread uses
 * arch.vswap_ahead; kvm->srcu is held.
 */
void __kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code)
{
	struct kvm_vswap_ahead *ahead = &vcpu->arch.vswap_ahead;
	unsigned int max = READ_ONCE(vswap_map_ahead);
	gfn_t gfn = gpa_to_gfn(gpa), end;
	struct kvm_memory_slot *slot;
	bool up, down;

	if (!max || !tdp_mmu_enabled || !vcpu->arch.mmu->root_role.direct ||
	    is_guest_mode(vcpu) || is_smm(vcpu) ||
	    vcpu->kvm->arch.has_private_mem ||
	    (error_code & (PFERR_PRESENT_MASK | PFERR_WRITE_MASK |
			   PFERR_FETCH_MASK)))
		return;

	/* The next page itself was mapped if the vCPU has waited for it. */
	up = gfn - ahead->end <= 1;
	down = ahead->first - 1 - gfn <= 1;
	ahead->first = gfn;
	ahead->end = gfn + 1;
	if (!up && !down) {
		ahead->nr = 0;
		return;
	}

	slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
	if (!vswap_is_memory(slot, gpa))
		return;

	ahead->nr = min(max(2 * ahead->nr, AHEAD_MIN), max);
	if (up) {
		end = min(ahead->end + ahead->nr, slot->base_gfn + slot->npages);
		while (ahead->end < end && vswap_map_page(vcpu, slot, ahead->end))
			ahead->end++;
	} else {
		end = max(gfn - min_t(gfn_t, gfn, ahead->nr), slot->base_gfn);
		while (ahead->first > end &&
		       vswap_map_page(vcpu, slot, ahead->first - 1))
			ahead->first--;
	}
}
