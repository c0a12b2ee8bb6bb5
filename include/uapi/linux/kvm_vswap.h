/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * VSwapper: RAM files of the file system kvm_vswap.
 *
 * See Documentation/virt/kvm/vswap.rst.
 */
#ifndef _UAPI_LINUX_KVM_VSWAP_H
#define _UAPI_LINUX_KVM_VSWAP_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* statfs.f_type of the file system. */
#define KVM_VSWAP_MAGIC		0x4b565357

/* From linux/kvm.h; the ioctls below are of RAM files' descriptors. */
#ifndef KVMIO
#define KVMIO 0xAE
#endif

/**
 * struct kvm_vswap_stats - counters of a RAM file
 * @size: of this structure, set by the caller; what fits is filled in
 * @flags: must be 0
 * @pages: size of the file in pages
 * @resident: pages in memory
 * @swapped: pages in the host's swap
 * @aliases: pages that equal a block of an image
 * @aliases_resident: those of them which are in memory
 * @metadata_bytes: memory that knowing this takes
 * @aliased_by_read: pages that became aliases when an image was read
 * @aliased_by_write: and when one was written
 * @stale_reads_avoided: pages in swap, or dropped, that a read of an image
 *	replaced without their being read
 * @false_reads_avoided: and that the guest overwrote as a whole
 * @refaults: faults on aliases that had been dropped
 * @refault_pages: pages that were read for these, ahead of them, or because
 *	their blocks were about to change
 * @readahead_pages: those of them that were read ahead
 * @cached_reads: reads on behalf of aliases that went through the page cache of
 *	the file below, as it could not be read directly at once
 * @swap_faults: faults on pages in swap
 * @broken_by_guest: aliases that the guest wrote to
 * @broken_by_write: aliases whose block was about to change
 * @skipped_pinned: pages that did not become aliases as they are pinned
 * @skipped_conflict: and as their block was written meanwhile
 * @skipped_shared: and as their block has too many aliases
 * @skipped_changed: and as they were written to meanwhile
 * @skipped_busy: and as somebody else uses them
 * @io_errors: reads on behalf of aliases that failed
 * @buffered_pages: pages that the guest wrote to before they were read
 * @buffered_writes: writes to these that were emulated
 * @buffer_merges: pages of these that had to be read after all
 * @skipped_ample: pages that were read from an image or written to one and did not
 *	become aliases as there is memory for all that guests may use
 */
struct kvm_vswap_stats {
	__u32 size;
	__u32 flags;
	__u64 pages;
	__u64 resident;
	__u64 swapped;
	__u64 aliases;
	__u64 aliases_resident;
	__u64 metadata_bytes;
	__u64 aliased_by_read;
	__u64 aliased_by_write;
	__u64 stale_reads_avoided;
	__u64 false_reads_avoided;
	__u64 refaults;
	__u64 refault_pages;
	__u64 readahead_pages;
	__u64 cached_reads;
	__u64 swap_faults;
	__u64 broken_by_guest;
	__u64 broken_by_write;
	__u64 skipped_pinned;
	__u64 skipped_conflict;
	__u64 skipped_shared;
	__u64 skipped_changed;
	__u64 skipped_busy;
	__u64 io_errors;
	__u64 buffered_pages;
	__u64 buffered_writes;
	__u64 buffer_merges;
	__u64 skipped_ample;
};

/* What a page is, see kvm_vswap_query. */
#define KVM_VSWAP_PAGE_NONE		0	/* never touched, or given back */
#define KVM_VSWAP_PAGE_RESIDENT		1
#define KVM_VSWAP_PAGE_SWAPPED		2
#define KVM_VSWAP_PAGE_ALIAS		3
#define KVM_VSWAP_PAGE_ALIAS_DROPPED	4

/**
 * struct kvm_vswap_query - what pages of a RAM file are
 * @offset: in the file, in bytes, a multiple of the page size
 * @pages: how many pages
 * @states: address of as many bytes, each of which is set to a
 *	KVM_VSWAP_PAGE_* value; a snapshot, as these change at any time
 * @flags: must be 0
 */
struct kvm_vswap_query {
	__u64 offset;
	__u64 pages;
	__u64 states;
	__u64 flags;
};

/**
 * struct kvm_vswap_associate - make pages aliases of blocks of an image
 * @offset: in the RAM file, in bytes, a multiple of the page size
 * @size: in bytes, a multiple of the page size
 * @image_offset: in the image, likewise
 * @image_fd: an image file of the same mount that is open for reading
 * @flags: must be 0
 *
 * For a VMM that reads its disk in another way: the pages get the content of
 * the blocks, as if it had been read to them.
 */
struct kvm_vswap_associate {
	__u64 offset;
	__u64 size;
	__u64 image_offset;
	__u32 image_fd;
	__u32 flags;
};

/* Without its size, as the structure may grow. */
#define KVM_VSWAP_GET_STATS	_IO(KVMIO, 0xf0)
#define KVM_VSWAP_QUERY		_IOW(KVMIO, 0xf1, struct kvm_vswap_query)
#define KVM_VSWAP_ASSOCIATE	_IOW(KVMIO, 0xf2, struct kvm_vswap_associate)

#endif /* _UAPI_LINUX_KVM_VSWAP_H */
