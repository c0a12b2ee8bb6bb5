/* SPDX-License-Identifier: GPL-2.0-only */
#if !defined(__KVM_X86_VIOMMU_TRACE_H) || defined(TRACE_HEADER_MULTI_READ)
#define __KVM_X86_VIOMMU_TRACE_H

#include <linux/tracepoint.h>

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm

#define viommu_trace_reg(reg)				\
	__print_symbolic(reg,				\
			 { 0x18, "GCMD" },		\
			 { 0x20, "RTADDR" },		\
			 { 0x28, "CCMD" },		\
			 { 0x34, "FSTS" },		\
			 { 0x38, "FECTL" },		\
			 { 0x88, "IQT" },		\
			 { 0x90, "IQA" },		\
			 { 0x9c, "ICS" },		\
			 { 0xa0, "IECTL" },		\
			 { 0xf0, "IVA" },		\
			 { 0xf8, "IOTLB" })

/* The guest wrote a register: by an exit, or found by polling. */
TRACE_EVENT(kvm_viommu_write,
	TP_PROTO(unsigned int reg, u64 val, u64 mask, bool direct),
	TP_ARGS(reg, val, mask, direct),

	TP_STRUCT__entry(
		__field(unsigned int,	reg)
		__field(u64,		val)
		__field(u64,		mask)
		__field(bool,		direct)
	),

	TP_fast_assign(
		__entry->reg		= reg;
		__entry->val		= val;
		__entry->mask		= mask;
		__entry->direct		= direct;
	),

	TP_printk("%s (0x%x) val 0x%llx mask 0x%llx %s",
		  viommu_trace_reg(__entry->reg), __entry->reg, __entry->val,
		  __entry->mask, __entry->direct ? "polled" : "trapped")
);

/* Writes exit, or do not, from now on. */
TRACE_EVENT(kvm_viommu_mode,
	TP_PROTO(bool direct),
	TP_ARGS(direct),

	TP_STRUCT__entry(
		__field(bool,		direct)
	),

	TP_fast_assign(
		__entry->direct		= direct;
	),

	TP_printk("%s", __entry->direct ? "direct" : "trapped")
);

/* An invalidation starts. */
TRACE_EVENT(kvm_viommu_invalidate,
	TP_PROTO(bool context, int granularity, u16 did, u16 sid, u64 iova,
		 u64 last),
	TP_ARGS(context, granularity, did, sid, iova, last),

	TP_STRUCT__entry(
		__field(bool,		context)
		__field(int,		granularity)
		__field(u16,		did)
		__field(u16,		sid)
		__field(u64,		iova)
		__field(u64,		last)
	),

	TP_fast_assign(
		__entry->context	= context;
		__entry->granularity	= granularity;
		__entry->did		= did;
		__entry->sid		= sid;
		__entry->iova		= iova;
		__entry->last		= last;
	),

	TP_printk("%s granularity %d domain %u sid 0x%x iova 0x%llx..0x%llx",
		  __entry->context ? "context" : "iotlb", __entry->granularity,
		  __entry->did, __entry->sid, __entry->iova, __entry->last)
);

/* Memory was, or could not be, mapped for devices. */
TRACE_EVENT(kvm_viommu_map,
	TP_PROTO(u16 did, u64 iova, u64 gfn, unsigned int order,
		 unsigned int prot, int ret),
	TP_ARGS(did, iova, gfn, order, prot, ret),

	TP_STRUCT__entry(
		__field(u16,		did)
		__field(u64,		iova)
		__field(u64,		gfn)
		__field(unsigned int,	order)
		__field(unsigned int,	prot)
		__field(int,		ret)
	),

	TP_fast_assign(
		__entry->did		= did;
		__entry->iova		= iova;
		__entry->gfn		= gfn;
		__entry->order		= order;
		__entry->prot		= prot;
		__entry->ret		= ret;
	),

	TP_printk("domain %u iova 0x%llx gfn 0x%llx order %u prot %u ret %d",
		  __entry->did, __entry->iova, __entry->gfn, __entry->order,
		  __entry->prot, __entry->ret)
);

TRACE_EVENT(kvm_viommu_unmap,
	TP_PROTO(u16 did, u64 iova, unsigned int order),
	TP_ARGS(did, iova, order),

	TP_STRUCT__entry(
		__field(u16,		did)
		__field(u64,		iova)
		__field(unsigned int,	order)
	),

	TP_fast_assign(
		__entry->did		= did;
		__entry->iova		= iova;
		__entry->order		= order;
	),

	TP_printk("domain %u iova 0x%llx order %u", __entry->did, __entry->iova,
		  __entry->order)
);

/* A device of the host was attached to something else. */
TRACE_EVENT(kvm_viommu_attach,
	TP_PROTO(u16 sid, int attached, u16 did),
	TP_ARGS(sid, attached, did),

	TP_STRUCT__entry(
		__field(u16,		sid)
		__field(int,		attached)
		__field(u16,		did)
	),

	TP_fast_assign(
		__entry->sid		= sid;
		__entry->attached	= attached;
		__entry->did		= did;
	),

	TP_printk("sid 0x%x %s domain %u", __entry->sid,
		  __print_symbolic(__entry->attached,
				   { 0, "given back" },
				   { 1, "blocked" },
				   { 2, "translated" }), __entry->did)
);

/* A fault for the guest. */
TRACE_EVENT(kvm_viommu_fault,
	TP_PROTO(u16 sid, u64 iova, bool write, int reason),
	TP_ARGS(sid, iova, write, reason),

	TP_STRUCT__entry(
		__field(u16,		sid)
		__field(u64,		iova)
		__field(bool,		write)
		__field(int,		reason)
	),

	TP_fast_assign(
		__entry->sid		= sid;
		__entry->iova		= iova;
		__entry->write		= write;
		__entry->reason		= reason;
	),

	TP_printk("sid 0x%x iova 0x%llx %s reason 0x%x", __entry->sid,
		  __entry->iova, __entry->write ? "write" : "read",
		  __entry->reason)
);

/* A descriptor that is not understood. */
TRACE_EVENT(kvm_viommu_queue_error,
	TP_PROTO(u64 iqh, u64 iqt, int error),
	TP_ARGS(iqh, iqt, error),

	TP_STRUCT__entry(
		__field(u64,		iqh)
		__field(u64,		iqt)
		__field(int,		error)
	),

	TP_fast_assign(
		__entry->iqh		= iqh;
		__entry->iqt		= iqt;
		__entry->error		= error;
	),

	TP_printk("head 0x%llx tail 0x%llx error %d", __entry->iqh,
		  __entry->iqt, __entry->error)
);

#endif /* __KVM_X86_VIOMMU_TRACE_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH ../../arch/x86/kvm/viommu
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

/* This part must be outside protection */
#include <trace/define_trace.h>
