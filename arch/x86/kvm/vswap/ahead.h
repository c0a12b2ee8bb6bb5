/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Guests that read their memory in sequence: what the rest of KVM sees.
 */
#ifndef __KVM_X86_VSWAP_AHEAD_H
#define __KVM_X86_VSWAP_AHEAD_H

#include <linux/kvm_host.h>

#include "../../../../virt/kvm/vswap/vswap.h"

#ifdef CONFIG_KVM_VSWAP

void __kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code);

/* Called after a page was mapped for a guest that has faulted. */
static inline void kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa,
				       u64 error_code)
{
	if (static_branch_unlikely(&kvm_vswap_key) &&
	    READ_ONCE(vcpu->kvm->arch.vswap))
		__kvm_vswap_map_ahead(vcpu, gpa, error_code);
}

#else

static inline void kvm_vswap_map_ahead(struct kvm_vcpu *vcpu, gpa_t gpa,
				       u64 error_code)
{
}

#endif /* CONFIG_KVM_VSWAP */

#endif /* __KVM_X86_VSWAP_AHEAD_H */
