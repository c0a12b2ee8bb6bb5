/* SPDX-License-Identifier: GPL-2.0-only */
#if !defined(_TRACE_KVM_VSWAP_H) || defined(TRACE_HEADER_MULTI_READ)
#define _TRACE_KVM_VSWAP_H

#include <linux/tracepoint.h>

#undef TRACE_SYSTEM
#define TRACE_SYSTEM kvm_vswap

/* An image was read to RAM files, or written from there. */
DECLARE_EVENT_CLASS(kvm_vswap_io,
	TP_PROTO(u32 image, u64 block, u64 nr, ssize_t ret),
	TP_ARGS(image, block, nr, ret),

	TP_STRUCT__entry(
		__field(u32,	image)
		__field(u64,	block)
		__field(u64,	nr)
		__field(s64,	ret)
	),

	TP_fast_assign(
		__entry->image = image;
		__entry->block = block;
		__entry->nr = nr;
		__entry->ret = ret;
	),

	TP_printk("image %u block 0x%llx nr %llu ret %lld", __entry->image,
		  __entry->block, __entry->nr, __entry->ret)
);

DEFINE_EVENT(kvm_vswap_io, kvm_vswap_read,
	TP_PROTO(u32 image, u64 block, u64 nr, ssize_t ret),
	TP_ARGS(image, block, nr, ret)
);

DEFINE_EVENT(kvm_vswap_io, kvm_vswap_write,
	TP_PROTO(u32 image, u64 block, u64 nr, ssize_t ret),
	TP_ARGS(image, block, nr, ret)
);

/* Blocks are read ahead of a guest. */
DEFINE_EVENT(kvm_vswap_io, kvm_vswap_readahead,
	TP_PROTO(u32 image, u64 block, u64 nr, ssize_t ret),
	TP_ARGS(image, block, nr, ret)
);

/* A page that had been dropped was needed. */
TRACE_EVENT(kvm_vswap_refault,
	TP_PROTO(pgoff_t index, u64 alias, int ret),
	TP_ARGS(index, alias, ret),

	TP_STRUCT__entry(
		__field(u64,	index)
		__field(u64,	alias)
		__field(int,	ret)
	),

	TP_fast_assign(
		__entry->index = index;
		__entry->alias = alias;
		__entry->ret = ret;
	),

	TP_printk("page 0x%llx image %u block 0x%llx ret %d", __entry->index,
		  vswap_entry_image(__entry->alias),
		  vswap_entry_block(__entry->alias), __entry->ret)
);

/* A page is no alias any more. */
TRACE_EVENT(kvm_vswap_break,
	TP_PROTO(pgoff_t index, u64 alias, bool write, int ret),
	TP_ARGS(index, alias, write, ret),

	TP_STRUCT__entry(
		__field(u64,	index)
		__field(u64,	alias)
		__field(bool,	write)
		__field(int,	ret)
	),

	TP_fast_assign(
		__entry->index = index;
		__entry->alias = alias;
		__entry->write = write;
		__entry->ret = ret;
	),

	TP_printk("page 0x%llx image %u block 0x%llx by %s ret %d",
		  __entry->index, vswap_entry_image(__entry->alias),
		  vswap_entry_block(__entry->alias),
		  __entry->write ? "a write to the image" : "the guest",
		  __entry->ret)
);

TRACE_DEFINE_ENUM(VSWAP_BUFFER_BEGIN);
TRACE_DEFINE_ENUM(VSWAP_BUFFER_COMPLETE);
TRACE_DEFINE_ENUM(VSWAP_BUFFER_MERGE);
TRACE_DEFINE_ENUM(VSWAP_BUFFER_DROP);

/* A page that is not in memory is overwritten by the guest. */
TRACE_EVENT(kvm_vswap_buffer,
	TP_PROTO(pgoff_t index, int event, int ret),
	TP_ARGS(index, event, ret),

	TP_STRUCT__entry(
		__field(u64,	index)
		__field(int,	event)
		__field(int,	ret)
	),

	TP_fast_assign(
		__entry->index = index;
		__entry->event = event;
		__entry->ret = ret;
	),

	TP_printk("page 0x%llx %s ret %d", __entry->index,
		  __print_symbolic(__entry->event,
				   { VSWAP_BUFFER_BEGIN, "begin" },
				   { VSWAP_BUFFER_COMPLETE, "complete" },
				   { VSWAP_BUFFER_MERGE, "merge" },
				   { VSWAP_BUFFER_DROP, "drop" }),
		  __entry->ret)
);

#endif /* _TRACE_KVM_VSWAP_H */

#undef TRACE_INCLUDE_PATH
#define TRACE_INCLUDE_PATH ../../virt/kvm/vswap
#undef TRACE_INCLUDE_FILE
#define TRACE_INCLUDE_FILE trace

/* This part must be outside protection */
#include <trace/define_trace.h>
