/* SPDX-License-Identifier: GPL-2.0-only */
/* Exitless interrupts on VMX: hooks of main.c, vmx.c and nested.c. */
#ifndef __KVM_X86_ELI_VMX_H
#define __KVM_X86_ELI_VMX_H

#include "eli.h"
#include "vmx/vmx.h"

#ifdef CONFIG_KVM_ELI
bool vmx_eli_supported(void);
bool vmx_eli_allowed(struct kvm_vcpu *vcpu);
void vmx_eli_set_mode(struct kvm_vcpu *vcpu, int mode);
void __vmx_eli_leave_direct(struct kvm_vcpu *vcpu);
void __vmx_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit);
u32 __vmx_eli_vectoring_info(struct vcpu_vmx *vmx);
u32 __vmx_eli_cancelled_info(struct kvm_vcpu *vcpu);
u8 __vmx_eli_inject_vector(struct kvm_vcpu *vcpu);
bool __vmx_eli_handle_exception(struct kvm_vcpu *vcpu, u32 intr_info,
				u32 error_code);

#define VMX_ELI_OPS					\
	.eli_allowed = vmx_eli_allowed,			\
	.eli_set_mode = vmx_eli_set_mode,

/* The VMCS is set up for the shadow IDT. */
static inline bool vmx_eli_on(struct kvm_vcpu *vcpu)
{
	return kvm_eli_on_shadow(vcpu);
}

/* Before the mode of the local APIC, or APICv, changes. */
static inline void vmx_eli_leave_direct(struct kvm_vcpu *vcpu)
{
	if (kvm_eli_armed(vcpu))
		__vmx_eli_leave_direct(vcpu);
}

/* Decide on the mode of the next VM-Entry, with IRQs off. */
static inline void vmx_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit)
{
	if (kvm_eli_armed(vcpu))
		__vmx_eli_enter(vcpu, force_immediate_exit);
}

/* After each VM-Entry, failed ones included, with IRQs off. */
static inline void vmx_eli_exit(struct kvm_vcpu *vcpu)
{
	if (kvm_eli_armed(vcpu))
		kvm_eli_exit(vcpu);
}

/*
 * The IDT-vectoring information in terms of the guest's vectors, and without
 * physical IRQs.  Called once for each VM-Exit.
 */
static inline u32 vmx_eli_vectoring_info(struct vcpu_vmx *vmx)
{
	if (vmx_eli_on(&vmx->vcpu))
		return __vmx_eli_vectoring_info(vmx);

	return vmx->idt_vectoring_info;
}

/* The same for the VM-Entry interruption information of a canceled entry. */
static inline u32 vmx_eli_cancelled_info(struct kvm_vcpu *vcpu)
{
	if (vmx_eli_on(vcpu))
		return __vmx_eli_cancelled_info(vcpu);

	return vmcs_read32(VM_ENTRY_INTR_INFO_FIELD);
}

/* The vector to inject for the queued virtual IRQ or INT n. */
static inline u8 vmx_eli_inject_vector(struct kvm_vcpu *vcpu)
{
	if (vmx_eli_on(vcpu))
		return __vmx_eli_inject_vector(vcpu);

	return vcpu->arch.interrupt.nr;
}

/* Exceptions that exit because of the shadow IDT. */
static inline u32 vmx_eli_exception_bitmap(struct kvm_vcpu *vcpu)
{
	return vmx_eli_on(vcpu) ? BIT(NP_VECTOR) | BIT(GP_VECTOR) : 0;
}

/* Returns true if the VM-Exit is handled. */
static inline bool vmx_eli_handle_exception(struct kvm_vcpu *vcpu, u32 intr_info,
					    u32 error_code)
{
	return vmx_eli_on(vcpu) &&
	       __vmx_eli_handle_exception(vcpu, intr_info, error_code);
}
#else
#define VMX_ELI_OPS
static inline bool vmx_eli_supported(void) { return false; }

static inline bool vmx_eli_on(struct kvm_vcpu *vcpu) { return false; }

static inline void vmx_eli_leave_direct(struct kvm_vcpu *vcpu) { }
static inline void vmx_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit) { }
static inline void vmx_eli_exit(struct kvm_vcpu *vcpu) { }

static inline u32 vmx_eli_vectoring_info(struct vcpu_vmx *vmx)
{
	return vmx->idt_vectoring_info;
}

static inline u32 vmx_eli_cancelled_info(struct kvm_vcpu *vcpu)
{
	return vmcs_read32(VM_ENTRY_INTR_INFO_FIELD);
}

static inline u8 vmx_eli_inject_vector(struct kvm_vcpu *vcpu)
{
	return vcpu->arch.interrupt.nr;
}

static inline u32 vmx_eli_exception_bitmap(struct kvm_vcpu *vcpu) { return 0; }

static inline bool vmx_eli_handle_exception(struct kvm_vcpu *vcpu, u32 intr_info,
					    u32 error_code)
{
	return false;
}
#endif

#endif /* __KVM_X86_ELI_VMX_H */
