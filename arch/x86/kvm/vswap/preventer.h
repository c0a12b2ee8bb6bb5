/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * VSwapper's Preventer: what the rest of KVM sees.  Each hook tests a static key,
 * then the VM.
 */
#ifndef __KVM_X86_VSWAP_PREVENTER_H
#define __KVM_X86_VSWAP_PREVENTER_H

#include <linux/kvm_host.h>

#include "../../../../virt/kvm/vswap/vswap.h"

#ifdef CONFIG_KVM_VSWAP

bool __kvm_vswap_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code,
			    void *insn, int insn_len);
void __kvm_vswap_commit_memslot(struct kvm *kvm,
				const struct kvm_memory_slot *slot);

/* Memory of a guest, and nothing that KVM has put there. */
static inline bool vswap_is_memory(struct kvm_memory_slot *slot, gpa_t gpa)
{
	return slot && slot->id < KVM_USER_MEM_SLOTS &&
	       !(slot->flags & (KVM_MEMSLOT_INVALID | KVM_MEM_GUEST_MEMFD)) &&
	       (gpa & PAGE_MASK) != APIC_DEFAULT_PHYS_BASE;
}

/* Called for a fault of a guest.  True: done, the guest can go on. */
static inline bool kvm_vswap_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa,
					u64 error_code, void *insn,
					int insn_len)
{
	return static_branch_unlikely(&kvm_vswap_key) &&
	       READ_ONCE(vcpu->kvm->arch.vswap) &&
	       __kvm_vswap_page_fault(vcpu, gpa, error_code, insn, insn_len);
}

/* Called when a memslot was added or changed, under slots_lock. */
static inline void kvm_vswap_commit_memslot(struct kvm *kvm,
					    const struct kvm_memory_slot *slot,
					    enum kvm_mr_change change)
{
	if (static_branch_unlikely(&kvm_vswap_key) && change != KVM_MR_DELETE)
		__kvm_vswap_commit_memslot(kvm, slot);
}

#else

static inline bool kvm_vswap_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa,
					u64 error_code, void *insn,
					int insn_len)
{
	return false;
}

static inline void kvm_vswap_commit_memslot(struct kvm *kvm,
					    const struct kvm_memory_slot *slot,
					    enum kvm_mr_change change)
{
}

#endif /* CONFIG_KVM_VSWAP */

#endif /* __KVM_X86_VSWAP_PREVENTER_H */
