/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guests that go through their memory in sequence: what the rest of KVM sees.
 */
#ifndef __KVM_X86_VSWAP_AHEAD_H
#define __KVM_X86_VSWAP_AHEAD_H

#include <linux/kvm_host.h>

#include "../mmu/mmu_internal.h"
#include "../../../../virt/kvm/vswap/vswap.h"

#ifdef CONFIG_KVM_VSWAP

void __kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code,
			   bool retry);

/* Called after a fault of a guest was handled, with the result. */
static inline void kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa,
				       u64 error_code, int ret)
{
	if (static_branch_unlikely(&kvm_vswap_key) &&
	    READ_ONCE(vcpu->kvm->arch.vswap) &&
	    (ret == RET_PF_FIXED || ret == RET_PF_RETRY))
		__kvm_vswap_map_ahead(vcpu, gpa, error_code,
				      ret == RET_PF_RETRY);
}

#else

static inline void kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa,
				       u64 error_code, int ret)
{
}

#endif /* CONFIG_KVM_VSWAP */

#endif /* __KVM_X86_VSWAP_AHEAD_H */
