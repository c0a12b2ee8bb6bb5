// SPDX-License-Identifier: GPL-2.0-only
/*
 * Exitless interrupts on SVM.
 *
 * References are to the AMD64 Architecture Programmer's Manual, volume 2:
 * "EXITINTINFO Pseudo-Code" for what an interrupted delivery leaves, "Virtualizing
 * RFLAGS.IF" and "Virtualizing the TPR" for V_INTR_MASKING, "VMCB State Caching"
 * for the clean bits.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>

#include <asm/svm.h>

#include "lapic.h"
#include "svm.h"
#include "x86.h"

#define MSR_X2APIC_EOI	(APIC_BASE_MSR + (APIC_EOI >> 4))

/* Nested guests use IDTs and IRQs in ways that ELI does not follow. */
bool svm_eli_allowed(struct kvm_vcpu *vcpu)
{
	return !(vcpu->arch.efer & EFER_SVME);
}

static bool svm_eli_may_pass_eoi(struct kvm_vcpu *vcpu)
{
	return kvm_eli_eoi && apic_x2apic_mode(vcpu->arch.apic);
}

static void svm_eli_intercept_eoi(struct vcpu_svm *svm, bool intercept)
{
	set_msr_interception(&svm->vcpu, svm->msrpm, MSR_X2APIC_EOI, 0, !intercept);
	vmcb_mark_dirty(svm->vmcb, VMCB_PERM_MAP);
}

/* Let physical IRQs into the guest, or let them exit. */
static void svm_eli_set_direct(struct vcpu_svm *svm, bool direct)
{
	struct vmcb *vmcb = svm->vmcb;

	if (direct) {
		svm_clr_intercept(svm, INTERCEPT_INTR);
		vmcb->control.int_ctl &= ~V_INTR_MASKING_MASK;
	} else {
		svm_set_intercept(svm, INTERCEPT_INTR);
		vmcb->control.int_ctl |= V_INTR_MASKING_MASK;
	}
	vmcb_mark_dirty(vmcb, VMCB_INTR);

	if (!direct || svm_eli_may_pass_eoi(&svm->vcpu))
		svm_eli_intercept_eoi(svm, !direct);
}

/* Intercepts and the IDTR for running on the shadow IDT, or on the guest's own. */
static void svm_eli_set_shadow(struct vcpu_svm *svm, bool shadow)
{
	struct kvm_eli_vcpu *ev = svm->vcpu.arch.eli;
	struct desc_ptr *idt = shadow ? &ev->idt : &ev->guest_idt;

	if (shadow) {
		set_exception_intercept(svm, NP_VECTOR);
		set_exception_intercept(svm, GP_VECTOR);
		svm_set_intercept(svm, INTERCEPT_STORE_IDTR);
		svm_set_intercept(svm, INTERCEPT_LOAD_IDTR);
		/* Without V_INTR_MASKING, CR8 is the host's TPR. */
		svm_set_intercept(svm, INTERCEPT_CR8_READ);
	} else {
		clr_exception_intercept(svm, NP_VECTOR);
		if (!enable_vmware_backdoor && !(svm->vcpu.arch.efer & EFER_SVME))
			clr_exception_intercept(svm, GP_VECTOR);
		svm_clr_intercept(svm, INTERCEPT_STORE_IDTR);
		svm_clr_intercept(svm, INTERCEPT_LOAD_IDTR);
		svm_clr_intercept(svm, INTERCEPT_CR8_READ);
		/* Whether writes need to exit is decided anew. */
		kvm_make_request(KVM_REQ_EVENT, &svm->vcpu);
	}

	svm->vmcb->save.idtr.base = idt->address;
	svm->vmcb->save.idtr.limit = idt->size;
	vmcb_mark_dirty(svm->vmcb, VMCB_DT);
}

/*
 * Set up the VMCB for @mode, which is not DIRECT, after the vCPU's tables or its
 * guest's IDTR have changed.
 */
void svm_eli_set_mode(struct kvm_vcpu *vcpu, int mode)
{
	struct vcpu_svm *svm = to_svm(vcpu);

	svm_eli_set_direct(svm, false);
	svm_eli_set_shadow(svm, mode != KVM_ELI_OFF);
	vcpu->arch.eli->mode = mode;
}

void __svm_eli_enter(struct kvm_vcpu *vcpu, bool force_immediate_exit)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	struct vcpu_svm *svm = to_svm(vcpu);
	u32 event_inj = svm->vmcb->control.event_inj;
	enum kvm_eli_mode mode;
	bool direct;

	/* A virtual IRQ is to be completed before physical ones are let in. */
	direct = !force_immediate_exit && !svm->nmi_singlestep &&
		 !svm_is_intercept(svm, INTERCEPT_VINTR) &&
		 !((event_inj & SVM_EVTINJ_VALID) &&
		   (event_inj & SVM_EVTINJ_TYPE_MASK) == SVM_EVTINJ_TYPE_INTR);
	direct = kvm_eli_may_run_direct(vcpu, direct);

	mode = direct ? KVM_ELI_DIRECT : KVM_ELI_INJECT;
	if (mode != ev->mode) {
		svm_eli_set_direct(svm, direct);
		ev->mode = mode;
	}
	if (!direct)
		return;

	/* Cleared by svm_update_cr8_intercept() when no virtual IRQ is pending. */
	if (!svm_is_intercept(svm, INTERCEPT_CR8_WRITE))
		svm_set_intercept(svm, INTERCEPT_CR8_WRITE);
	kvm_eli_enter_direct(vcpu);
}

void __svm_eli_exit(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = vcpu->arch.eli;
	struct vmcb_control_area *control = &to_svm(vcpu)->vmcb->control;
	u32 info = control->exit_int_info;
	u32 type = info & SVM_EXITINTINFO_TYPE_MASK;
	u8 vector = info & SVM_EXITINTINFO_VEC_MASK;
	u8 exception = 0;

	kvm_eli_exit(vcpu);
	if (!(info & SVM_EXITINTINFO_VALID))
		return;

	if (control->exit_code == SVM_EXIT_EXCP_BASE + GP_VECTOR)
		exception = GP_VECTOR;
	else if (control->exit_code == SVM_EXIT_EXCP_BASE + NP_VECTOR)
		exception = NP_VECTOR;

	/*
	 * A physical IRQ.  Injected ones have the vector of the injection gate,
	 * which is lower.  Some CPUs, e.g. QEMU's, report the type of an
	 * exception, of which there are none with such a vector.
	 */
	if (ev->mode == KVM_ELI_DIRECT &&
	    (type == SVM_EXITINTINFO_TYPE_INTR || type == SVM_EXITINTINFO_TYPE_EXEPT) &&
	    kvm_eli_physical_event(vcpu, vector, exception)) {
		control->exit_int_info = 0;
		return;
	}

	/* INT n that the shadow IDT has no gate for, or not the guest's. */
	if (type == SVM_EXITINTINFO_TYPE_SOFT && exception)
		ev->soft_vector = vector;
}

u32 __svm_eli_exit_int_info(struct vcpu_svm *svm)
{
	u32 info = svm->vmcb->control.exit_int_info;
	u8 vector = info & SVM_EXITINTINFO_VEC_MASK;

	if (!(info & SVM_EXITINTINFO_VALID) ||
	    (info & SVM_EXITINTINFO_TYPE_MASK) != SVM_EXITINTINFO_TYPE_INTR)
		return info;

	info &= ~SVM_EXITINTINFO_VEC_MASK;
	return info | kvm_eli_injected_vector(&svm->vcpu, vector);
}
