/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Exitless interrupts (ELI): what the rest of KVM sees.
 *
 * IRQs of devices that are assigned to a guest are delivered to it, and
 * completed by it, without a VM-Exit, by running the guest on a shadow IDT.
 * See Documentation/virt/kvm/x86/eli.rst for the mechanism, its terms and why
 * it is safe.
 *
 * Each hook is one inline function: it tests a static key, then the VM or vCPU,
 * then calls the function that does the work.
 */
#ifndef __KVM_X86_ELI_H
#define __KVM_X86_ELI_H

#include <linux/kvm_host.h>
#include <linux/kvm_irqfd.h>

struct kvm_page_fault;

/* How a vCPU's control structure (VMCB or VMCS) is set up. */
enum kvm_eli_mode {
	/* As without ELI. */
	KVM_ELI_OFF,
	/* On the shadow IDT, but physical IRQs and EOIs exit. */
	KVM_ELI_INJECT,
	/* On the shadow IDT; physical IRQs are delivered through it. */
	KVM_ELI_DIRECT,
};

#ifdef CONFIG_KVM_ELI
DECLARE_STATIC_KEY_FALSE(kvm_eli_key);
extern bool kvm_eli_eoi;

/*
 * What the vendor modules and the hooks read; the owner is the vCPU's task,
 * except as noted.  Everything else is in struct kvm_eli_vcpu_priv.
 */
struct kvm_eli_vcpu {
	/* The mode that the VMCB or VMCS is set up for. */
	enum kvm_eli_mode mode;

	/*
	 * The page-table view that the vCPU runs on, kvm_mmu_page_role.eli_view.
	 * 0 is the stock view; non-zero is equivalent to "armed".
	 */
	u8 view;

	/* The vCPU has exited, and kvm_eli_handle_exit_irqoff() is to see that. */
	bool exited;
	/* It was in DIRECT mode. */
	bool was_direct;

	/* The CPU's task priority is raised to hold the vCPU's IRQs back. */
	bool holding;

	/* A guest's INT n that faulted in the shadow IDT, or -1. */
	s16 soft_vector;

	/*
	 * VMX: the gate through which an INT n is being injected, or 0, and the
	 * RIP of that instruction.
	 */
	u8 soft_injected;
	unsigned long soft_rip;

	/*
	 * The vector of a physical IRQ whose delivery the last exit interrupted,
	 * or -1.  The local APIC has it in service.  And the exception that did
	 * it, or 0.
	 */
	s16 host_vector;
	u8 host_exception;

	/* The guest's IDTR, while armed. */
	struct desc_ptr guest_idt;
	/* What the CPU's IDTR is to hold in INJECT and DIRECT mode. */
	struct desc_ptr idt;
};

/* Vendor to common code; see eli.c for the contracts. */
bool kvm_eli_may_run_direct(struct kvm_vcpu *vcpu, bool possible);
void kvm_eli_enter_direct(struct kvm_vcpu *vcpu);
void kvm_eli_exit(struct kvm_vcpu *vcpu);
u8 kvm_eli_inject_vector(struct kvm_vcpu *vcpu, u8 vector);
u8 kvm_eli_injected_vector(struct kvm_vcpu *vcpu, u8 vector);
bool kvm_eli_physical_event(struct kvm_vcpu *vcpu, u8 vector, u8 exception);
void __kvm_eli_handle_exit_irqoff(struct kvm_vcpu *vcpu);
void kvm_eli_count_soft_int(struct kvm_vcpu *vcpu, u8 vector);
bool __kvm_eli_handle_fault(struct kvm_vcpu *vcpu, u8 exception, u32 error_code);
void __kvm_eli_set_idt(struct kvm_vcpu *vcpu);

int kvm_eli_vendor_init(void);
void kvm_eli_vendor_exit(void);
void __kvm_eli_prepare(struct kvm_vcpu *vcpu);
void __kvm_eli_let_go(struct kvm_vcpu *vcpu);
void __kvm_eli_vcpu_reset(struct kvm_vcpu *vcpu);
void __kvm_eli_destroy_vcpu(struct kvm_vcpu *vcpu);
void __kvm_eli_destroy_vm(struct kvm *kvm);
void __kvm_eli_create_debugfs(struct kvm *kvm);
void __kvm_eli_add_producer(struct kvm *kvm, struct kvm_kernel_irqfd *irqfd);
void __kvm_eli_del_producer(struct kvm *kvm, struct kvm_kernel_irqfd *irqfd);
void __kvm_eli_routing_update(struct kvm *kvm);
int __kvm_eli_faultin_pfn(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault);
void __kvm_eli_track_write(struct kvm_vcpu *vcpu, gpa_t gpa, int bytes);
bool __kvm_eli_needs_eoi_exit(struct kvm_vcpu *vcpu, int vector);

static inline bool kvm_eli_enabled(void)
{
	return static_branch_unlikely(&kvm_eli_key);
}

/* Set by other tasks, which assign IRQs to the vCPU.  Lives as long as the vCPU. */
static inline struct kvm_eli_vcpu *kvm_eli_vcpu(struct kvm_vcpu *vcpu)
{
	if (!kvm_eli_enabled())
		return NULL;

	/* Pairs with the smp_store_release() in eli_route(). */
	return smp_load_acquire(&vcpu->arch.eli);
}

/* The vCPU runs on the shadow IDT.  Stable in the vCPU's task only. */
static inline bool kvm_eli_armed(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = kvm_eli_vcpu(vcpu);

	return ev && ev->view;
}

/* The VMCB or VMCS is set up for it, too. */
static inline bool kvm_eli_on_shadow(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = kvm_eli_vcpu(vcpu);

	return ev && ev->mode != KVM_ELI_OFF;
}

static inline u8 kvm_eli_view(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = kvm_eli_vcpu(vcpu);

	return ev ? ev->view : 0;
}

/* Called before each entry, in a context that may sleep, under kvm->srcu. */
static inline void kvm_eli_prepare(struct kvm_vcpu *vcpu)
{
	if (kvm_eli_vcpu(vcpu))
		__kvm_eli_prepare(vcpu);
}

/* Called when the vCPU is put or blocks, on the CPU it last ran on. */
static inline void kvm_eli_let_go(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = kvm_eli_vcpu(vcpu);

	if (ev && ev->holding)
		__kvm_eli_let_go(vcpu);
}

/* The guest's IDTR, in place of what the VMCB or VMCS has. */
static inline bool kvm_eli_get_idt(struct kvm_vcpu *vcpu, struct desc_ptr *dt)
{
	/* OFF while armed: the IDTR has changed, and not been looked at. */
	if (!kvm_eli_armed(vcpu) || vcpu->arch.eli->mode == KVM_ELI_OFF)
		return false;

	*dt = vcpu->arch.eli->guest_idt;
	return true;
}

/* Called before the guest's IDTR changes. */
static inline void kvm_eli_set_idt(struct kvm_vcpu *vcpu)
{
	if (kvm_eli_armed(vcpu))
		__kvm_eli_set_idt(vcpu);
}

static inline void kvm_eli_vcpu_reset(struct kvm_vcpu *vcpu)
{
	if (kvm_eli_vcpu(vcpu))
		__kvm_eli_vcpu_reset(vcpu);
}

/* Called with IRQs off after each exit, like kvm_x86_ops.handle_exit_irqoff. */
static inline void kvm_eli_handle_exit_irqoff(struct kvm_vcpu *vcpu)
{
	struct kvm_eli_vcpu *ev = kvm_eli_vcpu(vcpu);

	if (ev && ev->exited)
		__kvm_eli_handle_exit_irqoff(vcpu);
}

/* Handle a #NP or #GP exit.  Returns false if that is up to the caller. */
static inline bool kvm_eli_handle_fault(struct kvm_vcpu *vcpu, u8 exception,
					u32 error_code)
{
	return kvm_eli_armed(vcpu) &&
	       __kvm_eli_handle_fault(vcpu, exception, error_code);
}

/* Is the completion of virtual IRQ @vector, which is in service, to exit? */
static inline bool kvm_eli_needs_eoi_exit(struct kvm_vcpu *vcpu, int vector)
{
	return kvm_eli_armed(vcpu) && __kvm_eli_needs_eoi_exit(vcpu, vector);
}

static inline void kvm_eli_destroy_vcpu(struct kvm_vcpu *vcpu)
{
	if (vcpu->arch.eli)
		__kvm_eli_destroy_vcpu(vcpu);
}

static inline void kvm_eli_destroy_vm(struct kvm *kvm)
{
	if (kvm->arch.eli)
		__kvm_eli_destroy_vm(kvm);
}

static inline void kvm_eli_create_debugfs(struct kvm *kvm)
{
	if (kvm_eli_enabled())
		__kvm_eli_create_debugfs(kvm);
}

static inline void kvm_eli_add_producer(struct kvm *kvm,
					struct kvm_kernel_irqfd *irqfd)
{
	if (kvm_eli_enabled())
		__kvm_eli_add_producer(kvm, irqfd);
}

static inline void kvm_eli_del_producer(struct kvm *kvm,
					struct kvm_kernel_irqfd *irqfd)
{
	if (READ_ONCE(kvm->arch.eli))
		__kvm_eli_del_producer(kvm, irqfd);
}

static inline void kvm_eli_routing_update(struct kvm *kvm)
{
	if (READ_ONCE(kvm->arch.eli))
		__kvm_eli_routing_update(kvm);
}

/*
 * Called with the pfn that is about to be mapped, at the end of kvm_faultin_pfn(),
 * and returns what that is to return.  The pfn may be another one afterwards.
 */
static inline int kvm_eli_faultin_pfn(struct kvm_vcpu *vcpu,
				      struct kvm_page_fault *fault)
{
	if (kvm_eli_enabled() && READ_ONCE(vcpu->kvm->arch.eli))
		return __kvm_eli_faultin_pfn(vcpu, fault);

	return 0; /* RET_PF_CONTINUE */
}

/* Called after KVM wrote guest memory on behalf of the guest. */
static inline void kvm_eli_track_write(struct kvm_vcpu *vcpu, gpa_t gpa, int bytes)
{
	if (kvm_eli_enabled() && READ_ONCE(vcpu->kvm->arch.eli))
		__kvm_eli_track_write(vcpu, gpa, bytes);
}
#else
static inline int kvm_eli_vendor_init(void) { return 0; }
static inline void kvm_eli_vendor_exit(void) { }
static inline bool kvm_eli_enabled(void) { return false; }
static inline bool kvm_eli_armed(struct kvm_vcpu *vcpu) { return false; }
static inline u8 kvm_eli_view(struct kvm_vcpu *vcpu) { return 0; }
static inline void kvm_eli_prepare(struct kvm_vcpu *vcpu) { }
static inline void kvm_eli_let_go(struct kvm_vcpu *vcpu) { }

static inline bool kvm_eli_needs_eoi_exit(struct kvm_vcpu *vcpu, int vector)
{
	return false;
}

static inline bool kvm_eli_get_idt(struct kvm_vcpu *vcpu, struct desc_ptr *dt)
{
	return false;
}

static inline void kvm_eli_set_idt(struct kvm_vcpu *vcpu) { }
static inline void kvm_eli_vcpu_reset(struct kvm_vcpu *vcpu) { }
static inline void kvm_eli_handle_exit_irqoff(struct kvm_vcpu *vcpu) { }

static inline bool kvm_eli_handle_fault(struct kvm_vcpu *vcpu, u8 exception,
					u32 error_code)
{
	return false;
}

static inline void kvm_eli_destroy_vcpu(struct kvm_vcpu *vcpu) { }
static inline void kvm_eli_destroy_vm(struct kvm *kvm) { }
static inline void kvm_eli_create_debugfs(struct kvm *kvm) { }
static inline void kvm_eli_add_producer(struct kvm *kvm,
					struct kvm_kernel_irqfd *irqfd) { }
static inline void kvm_eli_del_producer(struct kvm *kvm,
					struct kvm_kernel_irqfd *irqfd) { }
static inline void kvm_eli_routing_update(struct kvm *kvm) { }

static inline int kvm_eli_faultin_pfn(struct kvm_vcpu *vcpu,
				      struct kvm_page_fault *fault)
{
	return 0; /* RET_PF_CONTINUE */
}

static inline void kvm_eli_track_write(struct kvm_vcpu *vcpu, gpa_t gpa, int bytes) { }
#endif /* CONFIG_KVM_ELI */

#endif /* __KVM_X86_ELI_H */
