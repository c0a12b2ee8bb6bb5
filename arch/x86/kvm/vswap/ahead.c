// SPDX-License-Identifier: GPL-2.0-only
/*
 * Guests that go through their memory in sequence do not exit for each page.
 *
 * What VSwapper has dropped is read again in clusters, and the host's fault
 * handler maps as many pages of the page cache as fault_around_bytes tells.  For
 * KVM that is still a fault for each page, because it maps what has faulted.  If
 * a vCPU has read the page next to the one that it faulted on, or to those that
 * were mapped ahead of it, map the next ones as well, twice as many each time.
 * Linux often allocates pages downwards, so both directions count.
 *
 * The same for pages that a vCPU writes to, e.g. clears before it uses them for
 * something else.  An alias ends by that, with a copy, which goes to swap if the
 * guest does not get there.  So the vCPU must have written to several pages in
 * sequence, and not more are mapped than half of these; and aliases only if the
 * last of them was one.  What comes after other pages is more likely page cache
 * that the guest has just read.
 *
 * Only what the host has mapped, or has in the page cache, is mapped: nothing is
 * waited for, and no memory allocated but page tables and copies of aliases.
 * Entries start without the accessed bit, as always with prefetch.  Access at
 * random, where one page tells nothing of the next, is left alone: GUP marks pages
 * as accessed, and reclaim would take those for used that the guest has never
 * touched.
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

/* Pages that a guest has to write to in sequence before any are mapped ahead. */
#define AHEAD_WRITES	4u

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

static unsigned int vswap_write_ahead = 16;
module_param_cb(vswap_write_ahead, &vswap_map_ahead_ops, &vswap_write_ahead,
		0644);
MODULE_PARM_DESC(vswap_write_ahead, "Pages that are mapped at most for a fault of a guest that writes to its memory in sequence, if they are in memory; 0 to 64 (default: 16)");

static bool vswap_guest_has(struct kvm_vcpu *vcpu, gfn_t gfn, bool write)
{
	u64 sptes[PT64_ROOT_MAX_LEVEL + 1];
	int leaf, root;
	bool has;

	kvm_tdp_mmu_walk_lockless_begin();
	leaf = kvm_tdp_mmu_get_walk(vcpu, gfn_to_gpa(gfn), sptes, &root);
	has = leaf > 0 && is_shadow_present_pte(sptes[leaf]) &&
	      is_last_spte(sptes[leaf], leaf) &&
	      (!write || is_writable_pte(sptes[leaf]));
	kvm_tdp_mmu_walk_lockless_end();
	return has;
}

/* Of a moment: what comes of a page that goes meanwhile is a fault more. */
static bool vswap_host_has(struct kvm_memory_slot *slot, gfn_t gfn, bool write,
			   bool end_alias)
{
	unsigned long hva = __gfn_to_hva_memslot(slot, gfn);
	struct page *page;

	if (!get_user_page_fast_only(hva, write ? FOLL_WRITE : 0, &page))
		return kvm_vswap_map_cached(hva, write, end_alias);
	put_page(page);
	return true;
}

/* Map a page if it is there; false if the ones after it are to be left alone. */
static bool vswap_map_page(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot,
			   gfn_t gfn, bool write, bool end_alias)
{
	u64 error_code = PFERR_GUEST_FINAL_MASK | (write ? PFERR_WRITE_MASK : 0);

	if (need_resched())
		return false;
	return vswap_guest_has(vcpu, gfn, write) ||
	       (vswap_host_has(slot, gfn, write, end_alias) &&
		kvm_mmu_do_page_fault(vcpu, gfn_to_gpa(gfn), error_code, true,
				      NULL, NULL) == RET_PF_FIXED);
}

/*
 * How many pages to map ahead of one that is next to those before; *@nr is how
 * many it were the last time.
 */
static unsigned int vswap_reads_ahead(unsigned int *nr)
{
	*nr = min(max(2 * *nr, AHEAD_MIN), READ_ONCE(vswap_map_ahead));
	return *nr;
}

/* The same for writes; *@nr is how many pages are in sequence. */
static unsigned int vswap_writes_ahead(unsigned int *nr)
{
	unsigned int max = READ_ONCE(vswap_write_ahead);

	*nr = min(*nr + 1, 2 * AHEAD_MAX);
	return *nr < AHEAD_WRITES ? 0 : min(*nr / 2, max);
}

/*
 * The vCPU got a page, or executed a write to it.  Only its thread uses
 * arch.vswap_ahead.
 */
static void vswap_go_ahead(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot,
			   gfn_t gfn, bool write)
{
	struct kvm_vswap_ahead *ahead = &vcpu->arch.vswap_ahead[write];
	bool up, down, end_alias;
	unsigned int max;
	gfn_t end;

	/* The same page once more tells nothing. */
	if (gfn == ahead->first || gfn + 1 == ahead->end)
		return;

	/* The next page itself was mapped if the vCPU has waited for it. */
	up = gfn - ahead->end <= 1;
	down = ahead->first - 1 - gfn <= 1;
	ahead->first = gfn;
	ahead->end = gfn + 1;
	if (!up && !down) {
		ahead->nr = write;
		return;
	}

	max = write ? vswap_writes_ahead(&ahead->nr) :
		      vswap_reads_ahead(&ahead->nr);
	end_alias = write && max &&
		    kvm_vswap_has_ended(__gfn_to_hva_memslot(slot, gfn));
	if (up) {
		end = min(ahead->end + max, slot->base_gfn + slot->npages);
		while (ahead->end < end &&
		       vswap_map_page(vcpu, slot, ahead->end, write,
				      end_alias))
			ahead->end++;
	} else {
		end = max(gfn - min_t(gfn_t, gfn, max), slot->base_gfn);
		while (ahead->first > end &&
		       vswap_map_page(vcpu, slot, ahead->first - 1, write,
				      end_alias))
			ahead->first--;
	}
	if (write)
		ahead->nr += ahead->end - ahead->first - 1;
}

/*
 * The vCPU has faulted at gpa, and the page was mapped, or the write executed; or,
 * with @retry, the page ought to be there by now.  Nothing is locked but kvm->srcu.
 */
void __kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code,
			   bool retry)
{
	bool write = error_code & PFERR_WRITE_MASK;
	struct kvm_memory_slot *slot;
	gfn_t gfn = gpa_to_gfn(gpa);

	if (!tdp_mmu_enabled || !vcpu->arch.mmu->root_role.direct ||
	    is_guest_mode(vcpu) || is_smm(vcpu) ||
	    vcpu->kvm->arch.has_private_mem ||
	    (error_code & PFERR_FETCH_MASK))
		return;
	/* Of what is mapped, only writing to it faults for a reason of ours. */
	if (!write && (retry || (error_code & PFERR_PRESENT_MASK)))
		return;
	slot = kvm_vcpu_gfn_to_memslot(vcpu, gfn);
	if (!vswap_is_memory(slot, gpa) ||
	    (write && (slot->flags & KVM_MEM_READONLY)))
		return;

	/*
	 * That an alias has ended has unmapped the page, and so it was not
	 * mapped.  The guest would fault again.
	 */
	if (retry && !vswap_map_page(vcpu, slot, gfn, true, false))
		return;
	/* Pages are not to be dirty for nothing where somebody copies these. */
	if (!write || !kvm_slot_dirty_track_enabled(slot))
		vswap_go_ahead(vcpu, slot, gfn, write);
}
