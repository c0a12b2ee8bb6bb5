/* SPDX-License-Identifier: GPL-2.0-only */
/* Exitless interrupts on SVM: hooks of svm.c. */
#ifndef __KVM_X86_ELI_SVM_H
#define __KVM_X86_ELI_SVM_H

#include "eli.h"
#include "svm/svm.h"

#ifdef CONFIG_KVM_ELI
bool svm_eli_allowed(struct kvm_vcpu *vcpu);
void svm_eli_set_mode(struct kvm_vcpu *vcpu, int mode);
void __svm_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit);
void __svm_eli_exit(struct kvm_vcpu *vcpu);
u32 __svm_eli_exit_int_info(struct vcpu_svm *svm);

#define SVM_ELI_OPS					\
	.eli_allowed = svm_eli_allowed,			\
	.eli_set_mode = svm_eli_set_mode,

/* Decide on the mode of the next VMRUN, with IRQs off. */
static inline void svm_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit)
{
	if (kvm_eli_on_shadow(vcpu))
		__svm_eli_enter(vcpu, force_immediate_exit);
}

/* After #VMEXIT and STGI, with IRQs off. */
static inline void svm_eli_exit(struct kvm_vcpu *vcpu)
{
	if (kvm_eli_on_shadow(vcpu))
		__svm_eli_exit(vcpu);
}

/* EXITINTINFO in terms of the guest's vectors. */
static inline u32 svm_eli_exit_int_info(struct vcpu_svm *svm)
{
	if (kvm_eli_on_shadow(&svm->vcpu))
		return __svm_eli_exit_int_info(svm);

	return svm->vmcb->control.exit_int_info;
}

/* The vector for EVENTINJ of the queued virtual IRQ or INT n. */
static inline u8 svm_eli_inject_vector(struct kvm_vcpu *vcpu)
{
	u8 vector = vcpu->arch.interrupt.nr;

	if (kvm_eli_on_shadow(vcpu) && !vcpu->arch.interrupt.soft)
		return kvm_eli_inject_vector(vcpu, vector);

	return vector;
}
#else
#define SVM_ELI_OPS
static inline void svm_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit) { }
static inline void svm_eli_exit(struct kvm_vcpu *vcpu) { }
static inline u32 svm_eli_exit_int_info(struct vcpu_svm *svm)
{
	return svm->vmcb->control.exit_int_info;
}

static inline u8 svm_eli_inject_vector(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.interrupt.nr;
}
#endif

#endif /* __KVM_X86_ELI_SVM_H */
