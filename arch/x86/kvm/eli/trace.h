/* SPDX-License-Identifier: GPL-2.0-only */
#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

#if !defined(__KVM_X86_ELI_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define __KVM_X86_ELI_TRACE_H

#include <linux/tracepoint.h>
#include <linux/kvm_host.h>

/* A vCPU may, or may not any more, run in DIRECT mode, and the reason. */
TRACE_EVENT(kvm_eli_state,
	TP_PROTO(unsigned int vcpu_id, int cpu, u8 view, const char *reason),
	TP_ARGS(vcpu_id, cpu, view, reason),

	TP_STRUCT__entry(
		__field(unsigned int,	vcpu_id)
		__field(int,		cpu)
		__field(u8,		view)
		__string(reason,	reason)
	),

	TP_fast_assign(
		__entry->vcpu_id	= vcpu_id;
		__entry->cpu		= cpu;
		__entry->view		= view;
		__assign_str(reason);
	),

	TP_printk("vcpu %u cpu %d view %u why not direct: %s", __entry->vcpu_id,
		  __entry->cpu, __entry->view, __get_str(reason))
);

/* An exit found an assigned IRQ in service; the virtual local APIC takes over. */
TRACE_EVENT(kvm_eli_transfer,
	TP_PROTO(unsigned int vcpu_id, u8 vector, u8 guest_vector, bool redeliver),
	TP_ARGS(vcpu_id, vector, guest_vector, redeliver),

	TP_STRUCT__entry(
		__field(unsigned int,	vcpu_id)
		__field(u8,		vector)
		__field(u8,		guest_vector)
		__field(bool,		redeliver)
	),

	TP_fast_assign(
		__entry->vcpu_id	= vcpu_id;
		__entry->vector		= vector;
		__entry->guest_vector	= guest_vector;
		__entry->redeliver	= redeliver;
	),

	TP_printk("vcpu %u host vector %u guest vector %u%s", __entry->vcpu_id,
		  __entry->vector, __entry->guest_vector,
		  __entry->redeliver ? " not delivered" : "")
);

DECLARE_EVENT_CLASS(kvm_eli_vector,
	TP_PROTO(unsigned int vcpu_id, u8 vector),
	TP_ARGS(vcpu_id, vector),

	TP_STRUCT__entry(
		__field(unsigned int,	vcpu_id)
		__field(u8,		vector)
	),

	TP_fast_assign(
		__entry->vcpu_id	= vcpu_id;
		__entry->vector		= vector;
	),

	TP_printk("vcpu %u guest vector %u", __entry->vcpu_id, __entry->vector)
);

/* A physical IRQ that exited from DIRECT mode is handed to the host. */
DEFINE_EVENT_PRINT(kvm_eli_vector, kvm_eli_reflect,
	TP_PROTO(unsigned int vcpu_id, u8 vector),
	TP_ARGS(vcpu_id, vector),
	TP_printk("vcpu %u host vector %u", __entry->vcpu_id, __entry->vector)
);

/* A virtual IRQ is injected through the injection gate. */
DEFINE_EVENT(kvm_eli_vector, kvm_eli_inject,
	TP_PROTO(unsigned int vcpu_id, u8 vector),
	TP_ARGS(vcpu_id, vector)
);

/* INT n that faulted in the shadow IDT. */
DEFINE_EVENT(kvm_eli_vector, kvm_eli_soft_int,
	TP_PROTO(unsigned int vcpu_id, u8 vector),
	TP_ARGS(vcpu_id, vector)
);

/* The guest wrote its IDT, and the shadow follows. */
TRACE_EVENT(kvm_eli_sync,
	TP_PROTO(unsigned int vcpu_id, gpa_t gpa, int bytes),
	TP_ARGS(vcpu_id, gpa, bytes),

	TP_STRUCT__entry(
		__field(unsigned int,	vcpu_id)
		__field(gpa_t,		gpa)
		__field(int,		bytes)
	),

	TP_fast_assign(
		__entry->vcpu_id	= vcpu_id;
		__entry->gpa		= gpa;
		__entry->bytes		= bytes;
	),

	TP_printk("vcpu %u gpa %llx bytes %d", __entry->vcpu_id, __entry->gpa,
		  __entry->bytes)
);

#endif /* __KVM_X86_ELI_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH ../../arch/x86/kvm/eli
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

/* This part must be outside protection */
#include <trace/define_trace.h>
