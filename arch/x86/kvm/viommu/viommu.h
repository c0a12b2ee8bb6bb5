/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The in-kernel IOMMU of a guest: what the rest of KVM sees.
 *
 * See Documentation/virt/kvm/x86/viommu.rst.  Each hook is one inline function: it
 * tests a static key, then the VM, then calls the function that does the work.
 */
#ifndef __KVM_X86_VIOMMU_H
#define __KVM_X86_VIOMMU_H

#include <linux/kvm_host.h>

struct kvm_page_fault;

#ifdef CONFIG_KVM_VIOMMU
/* One for each unit. */
DECLARE_STATIC_KEY_FALSE(kvm_viommu_key);

void kvm_viommu_vendor_init(void);
void kvm_viommu_vendor_exit(void);
void __kvm_viommu_destroy_vm(struct kvm *kvm);
bool __kvm_viommu_faultin(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			  int *ret);
void __kvm_viommu_flush_memslot(struct kvm *kvm, struct kvm_memory_slot *slot);
void __kvm_viommu_commit_memslots(struct kvm *kvm);

static inline bool kvm_viommu_exists(struct kvm *kvm)
{
	return static_branch_unlikely(&kvm_viommu_key) &&
	       rcu_access_pointer(kvm->arch.viommu);
}

/* Called for a gfn without memslot.  True: @ret is what the caller returns. */
static inline bool kvm_viommu_faultin(struct kvm_vcpu *vcpu,
				      struct kvm_page_fault *fault, int *ret)
{
	return kvm_viommu_exists(vcpu->kvm) &&
	       __kvm_viommu_faultin(vcpu, fault, ret);
}

/*
 * Is @gfn a register page?  If so, host and guest have to access it with the same
 * memory type, write-back, whatever the guest wants.
 */
static inline bool kvm_viommu_is_regs(struct kvm *kvm, gfn_t gfn)
{
	return kvm_viommu_exists(kvm) && gfn == READ_ONCE(kvm->arch.viommu_gfn);
}

/*
 * Called when memslots have changed, under slots_lock.  Userspace may free the
 * memory of @old afterwards, unless it is NULL.
 */
static inline void kvm_viommu_commit_memslots(struct kvm *kvm,
					      struct kvm_memory_slot *old,
					      enum kvm_mr_change change)
{
	if (change == KVM_MR_FLAGS_ONLY || !kvm_viommu_exists(kvm))
		return;

	if (change == KVM_MR_DELETE || change == KVM_MR_MOVE)
		__kvm_viommu_flush_memslot(kvm, old);
	__kvm_viommu_commit_memslots(kvm);
}

/* Called when no vCPU exists any more and page tables are gone. */
static inline void kvm_viommu_destroy_vm(struct kvm *kvm)
{
	if (kvm->arch.viommu_page)
		__kvm_viommu_destroy_vm(kvm);
}
#else
static inline void kvm_viommu_vendor_init(void) { }
static inline void kvm_viommu_vendor_exit(void) { }

static inline bool kvm_viommu_faultin(struct kvm_vcpu *vcpu,
				      struct kvm_page_fault *fault, int *ret)
{
	return false;
}

static inline bool kvm_viommu_is_regs(struct kvm *kvm, gfn_t gfn)
{
	return false;
}

static inline void kvm_viommu_commit_memslots(struct kvm *kvm,
					      struct kvm_memory_slot *old,
					      enum kvm_mr_change change) { }
static inline void kvm_viommu_destroy_vm(struct kvm *kvm) { }
#endif /* CONFIG_KVM_VIOMMU */

#endif /* __KVM_X86_VIOMMU_H */
