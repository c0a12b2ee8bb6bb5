// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guests that read their memory in sequence do not exit for each page.
 *
 * What VSwapper has dropped is read again in clusters, and the host's fault
 * handler maps as many pages of the page cache as fault_around_bytes tells.  For
 * KVM that is still a fault for each page, because it maps what has faulted.  If
 * a vCPU has read the page after the one that it faulted on, or after those that
 * were mapped ahead of it, map the next ones as well, twice as many each time.
 *
 * Only what the host has mapped already is mapped: nothing is read from a disk
 * for this, and no memory allocated but page tables.  Entries start without the
 * accessed bit, as always with prefetch.  Access at random, where one page tells
 * nothing of the next, is left alone: GUP marks pages as accessed, and reclaim
 * would take those for used that the guest has never touched.
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
	struct page *page;

	if (!get_user_page_fast_only(__gfn_to_hva_memslot(slot, gfn), 0, &page))
		return false;
	put_page(page);
	return true;
}

/*
 * The vCPU has faulted at gpa, and the page was mapped.  Only its thread uses
 * arch.vswap_ahead; kvm->srcu is held.
 */
void __kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code)
{
	struct kvm_vswap_ahead *ahead = &vcpu->arch.vswap_ahead;
	unsigned int max = READ_ONCE(vswap_map_ahead);
	struct kvm_memory_slot *slot;
	gfn_t gfn = gpa_to_gfn(gpa);
	gfn_t end;

	if (!max || !tdp_mmu_enabled || !vcpu->arch.mmu->root_role.direct ||
	    is_guest_mode(vcpu) || is_smm(vcpu) ||
	    vcpu->kvm->arch.has_private_mem ||
	    (error_code & (PFERR_PRESENT_MASK | PFERR_WRITE_MASK |
			   PFERR_FETCH_MASK)))
		return;

	if (gfn != ahead->next) {
		ahead->next = gfn + 1;
		ahead->nr = 0;
		return;
	}

	slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
	if (!slot || slot->id >= KVM_USER_MEM_SLOTS ||
	    (slot->flags & (KVM_MEMSLOT_INVALID | KVM_MEM_GUEST_MEMFD)))
		return;

	ahead->nr = min(max(2 * ahead->nr, AHEAD_MIN), max);
	end = min(gfn + 1 + ahead->nr, slot->base_gfn + slot->npages);
	while (++gfn < end && !need_resched()) {
		if (vswap_guest_has(vcpu, gfn))
			continue;
		if (!vswap_host_has(slot, gfn) ||
		    kvm_mmu_do_page_fault(vcpu, gfn_to_gpa(gfn),
					  PFERR_GUEST_FINAL_MASK, true, NULL,
					  NULL) != RET_PF_FIXED)
			break;
	}
	ahead->next = gfn;
}
