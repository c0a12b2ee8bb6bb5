// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exitless interrupts on VMX.
 *
 * References are to the Intel 64 and IA-32 Architectures Software Developer's
 * Manual, volume 3: "Information for VM Exits During Event Delivery" for what an
 * interrupted delivery leaves, "Event Injection" and "VM-Entry Control Fields"
 * for what can be injected, "Virtualizing CR8-Based TPR Accesses" and "APIC
 * Virtualization and Virtual Interrupts" for the TPR, "Virtualizing MSR-Based
 * APIC Accesses" for the EOI.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>

#include <asm/vmx.h>

#include "lapic.h"
#include "vmx.h"
#include "x86.h"

/*
 * LIDT and SIDT must exit.  External-interrupt exiting must be optional, which it
 * is on all CPUs, but need not be below another hypervisor.
 */
bool __init vmx_eli_supported(void)
{
	u32 low, high;

	rdmsr(MSR_IA32_VMX_PINBASED_CTLS, low, high);
	return !(low & PIN_BASED_EXT_INTR_MASK) &&
	       (vmcs_config.cpu_based_2nd_exec_ctrl & SECONDARY_EXEC_DESC);
}

/* Nested guests use IDTs and IRQs in ways that ELI does not follow. */
bool vmx_eli_allowed(struct kvm_vcpu *vcpu)
{
	return !to_vmx(vcpu)->nested.vmxon;
}

/*
 * Have all changes of the TPR exit, or virtualize them as without ELI.  A guest
 * that raises its TPR blocks IRQs, but the CPU raises the one in the virtual-APIC
 * page alone, to which physical IRQs do not pay attention.
 */
static void vmx_eli_intercept_tpr(struct vcpu_vmx *vmx, bool intercept)
{
	u32 secondary_control = secondary_exec_controls_get(vmx);
	u32 exec_control = exec_controls_get(vmx);

	if (!cpu_has_vmx_tpr_shadow())
		return;

	if (!intercept) {
		exec_control |= CPU_BASED_TPR_SHADOW;
		exec_control &= ~(CPU_BASED_CR8_LOAD_EXITING |
				  CPU_BASED_CR8_STORE_EXITING);
	} else if (secondary_control & SECONDARY_EXEC_VIRTUALIZE_APIC_ACCESSES) {
		/* No other way to have writes to the APIC-access page exit. */
		exec_control &= ~CPU_BASED_TPR_SHADOW;
		exec_control |= CPU_BASED_CR8_LOAD_EXITING |
				CPU_BASED_CR8_STORE_EXITING;
	} else {
		/* Takes precedence over the TPR shadow. */
		exec_control |= CPU_BASED_CR8_LOAD_EXITING;
	}
	exec_controls_set(vmx, exec_control);

	/* Otherwise all accesses exit, see vmx_update_msr_bitmap_x2apic(). */
	if (secondary_control & SECONDARY_EXEC_VIRTUALIZE_X2APIC_MODE)
		vmx_set_intercept_for_msr(&vmx->vcpu, X2APIC_MSR(APIC_TASKPRI),
					  MSR_TYPE_W, intercept);
}

/*
 * Without virtual-interrupt delivery the MSR is that of the physical local APIC,
 * also if x2APIC mode is virtualized.
 */
static void vmx_eli_intercept_eoi(struct vcpu_vmx *vmx, bool intercept)
{
	if (!kvm_eli_eoi ||
	    (!intercept && !apic_x2apic_mode(vmx->vcpu.arch.apic)))
		return;

	vmx_set_intercept_for_msr(&vmx->vcpu, X2APIC_MSR(APIC_EOI), MSR_TYPE_W,
				  intercept);
}

/*
 * Let physical IRQs into the guest, or let them exit.  "Acknowledge interrupt on
 * exit" has no effect on the former and stays on for the latter.
 */
static void vmx_eli_set_direct(struct vcpu_vmx *vmx, bool direct)
{
	if (direct)
		pin_controls_clearbit(vmx, PIN_BASED_EXT_INTR_MASK);
	else
		pin_controls_setbit(vmx, PIN_BASED_EXT_INTR_MASK);

	vmx_eli_intercept_tpr(vmx, direct);
	vmx_eli_intercept_eoi(vmx, !direct);
	vmx->vcpu.arch.eli->mode = direct ? KVM_ELI_DIRECT : KVM_ELI_INJECT;
}

/* Before a change of controls that vmx_eli_set_direct() has to do with. */
void __vmx_eli_leave_direct(struct kvm_vcpu *vcpu)
{
	if (vcpu->arch.eli->mode == KVM_ELI_DIRECT)
		vmx_eli_set_direct(to_vmx(vcpu), false);
}

/*
 * Set up the VMCS for @mode, which is not DIRECT, after the vCPU's tables or its
 * guest's IDTR have changed.
 */
void vmx_eli_set_mode(struct kvm_vcpu *vcpu, int mode)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	struct vcpu_vmx *vmx = to_vmx(vcpu);
	struct desc_ptr *idt;

	__vmx_eli_leave_direct(vcpu);
	ev->mode = mode;

	if (mode != KVM_ELI_OFF) {
		secondary_exec_controls_setbit(vmx, SECONDARY_EXEC_DESC);
		idt = &ev->idt;
	} else {
		/* As vmx_set_cr4() has it. */
		if (!vmx_umip_emulated() ||
		    !kvm_is_cr4_bit_set(vcpu, X86_CR4_UMIP))
			secondary_exec_controls_clearbit(vmx, SECONDARY_EXEC_DESC);
		idt = &ev->guest_idt;
	}

	vmx_update_exception_bitmap(vcpu);
	vmcs_write32(GUEST_IDTR_LIMIT, idt->size);
	vmcs_writel(GUEST_IDTR_BASE, idt->address);
}

void __vmx_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	bool direct, was_direct = ev->mode == KVM_ELI_DIRECT;
	struct vcpu_vmx *vmx = to_vmx(vcpu);

	/*
	 * A virtual IRQ is to be completed before physical ones are let in.  An
	 * INT n has nothing to complete.
	 */
	direct = !force_immediate_exit &&
		 !(exec_controls_get(vmx) & CPU_BASED_INTR_WINDOW_EXITING) &&
		 !(vcpu->arch.interrupt.injected && !vcpu->arch.interrupt.soft);
	direct = kvm_eli_may_run_direct(vcpu, direct);

	if (direct != was_direct)
		vmx_eli_set_direct(vmx, direct);

	/* vmx_set_cr4() clears it if the guest does so with CR4.UMIP. */
	if (ev->mode != KVM_ELI_OFF)
		secondary_exec_controls_setbit(vmx, SECONDARY_EXEC_DESC);

	if (direct)
		kvm_eli_enter_direct(vcpu);
}

static u8 vmx_eli_exit_exception(struct kvm_vcpu *vcpu)
{
	u32 intr_info;

	if ((u16)to_vmx(vcpu)->exit_reason.basic != EXIT_REASON_EXCEPTION_NMI)
		return 0;

	intr_info = vmx_get_intr_info(vcpu);
	if (is_gp_fault(intr_info))
		return GP_VECTOR;
	if (is_exception_n(intr_info, NP_VECTOR))
		return NP_VECTOR;

	return 0;
}

/* The exit is no longer one during the delivery of an event. */
static void vmx_eli_forget_vectoring(struct vcpu_vmx *vmx)
{
	vmx->idt_vectoring_info = 0;

	/*
	 * "NMI unblocking due to IRET" is undefined in such exits, and looked at
	 * in all others.
	 */
	if (vmx->exit_reason.basic == EXIT_REASON_EPT_VIOLATION ||
	    vmx->exit_reason.basic == EXIT_REASON_PML_FULL) {
		vmx_get_exit_qual(&vmx->vcpu);
		vmx->exit_qualification &= ~(unsigned long)INTR_INFO_UNBLOCK_NMI;
	}
}

u32 __vmx_eli_vectoring_info(struct vcpu_vmx *vmx)
{
	struct kvm_vcpu *vcpu = &vmx->vcpu;
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	u32 info = vmx->idt_vectoring_info;
	u8 vector = info & VECTORING_INFO_VECTOR_MASK;
	u8 soft_injected = ev->soft_injected;

	ev->soft_injected = 0;
	if (!(info & VECTORING_INFO_VALID_MASK))
		return info;

	switch (info & VECTORING_INFO_TYPE_MASK) {
	case INTR_TYPE_EXT_INTR:
		/*
		 * A physical IRQ, or an injected one, which has the vector of the
		 * injection gate.
		 */
		if (ev->mode == KVM_ELI_DIRECT &&
		    kvm_eli_physical_event(vcpu, vector,
					   vmx_eli_exit_exception(vcpu))) {
			vmx_eli_forget_vectoring(vmx);
			return 0;
		}
		break;
	case INTR_TYPE_SOFT_INTR:
		/*
		 * The guest's own, or the one that was injected.  A guest that
		 * replaces the latter by an INT of the injection gate's vector,
		 * and gets back to it, confuses nobody but itself.
		 */
		if (vector != soft_injected || kvm_rip_read(vcpu) != ev->soft_rip)
			return info;
		ev->soft_injected = soft_injected;
		break;
	default:
		return info;
	}

	info &= ~VECTORING_INFO_VECTOR_MASK;
	return info | kvm_eli_injected_vector(vcpu, vector);
}

u32 __vmx_eli_cancelled_info(struct kvm_vcpu *vcpu)
{
	u32 info = vmcs_read32(VM_ENTRY_INTR_INFO_FIELD);
	u32 type = info & INTR_INFO_INTR_TYPE_MASK;
	u8 vector = info & INTR_INFO_VECTOR_MASK;

	vcpu->arch.eli->soft_injected = 0;
	if (!(info & INTR_INFO_VALID_MASK) ||
	    (type != INTR_TYPE_EXT_INTR && type != INTR_TYPE_SOFT_INTR))
		return info;

	info &= ~INTR_INFO_VECTOR_MASK;
	return info | kvm_eli_injected_vector(vcpu, vector);
}

/*
 * An INT n that exited is injected as what it is, with RIP at the instruction, as
 * without ELI.  An external interrupt could not be injected if RFLAGS.IF is 0.
 */
u8 __vmx_eli_inject_vector(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	u8 vector = kvm_eli_inject_vector(vcpu, vcpu->arch.interrupt.nr);

	if (vcpu->arch.interrupt.soft) {
		ev->soft_injected = vector;
		ev->soft_rip = kvm_rip_read(vcpu);
	}

	return vector;
}

bool __vmx_eli_handle_exception(struct kvm_vcpu *vcpu, u32 intr_info,
				u32 error_code)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	u8 exception = intr_info & INTR_INFO_VECTOR_MASK;

	if (!is_gp_fault(intr_info) && !is_exception_n(intr_info, NP_VECTOR))
		return false;

	/*
	 * INT n without a gate, or not with the guest's: it is queued already and
	 * will be injected through the injection gate, where the CPU checks what
	 * there is to check.
	 */
	if (ev->host_vector < 0 && vcpu->arch.interrupt.injected &&
	    vcpu->arch.interrupt.soft && !ev->soft_injected) {
		kvm_eli_count_soft_int(vcpu, vcpu->arch.interrupt.nr);
		return true;
	}

	return kvm_eli_handle_fault(vcpu, exception, error_code);
}
