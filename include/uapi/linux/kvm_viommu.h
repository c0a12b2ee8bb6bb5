/* SPDX-License-Identifier: GPL-2.0-only WITH Linux-syscall-note */
/*
 * An Intel VT-d remapping unit for a guest, emulated by KVM.
 *
 * A device of type KVM_DEV_TYPE_VIOMMU (KVM_CREATE_DEVICE) is one unit.  See
 * Documentation/virt/kvm/devices/viommu.rst for the order of calls, the errors
 * and what each attribute does.
 */
#ifndef _UAPI_LINUX_KVM_VIOMMU_H
#define _UAPI_LINUX_KVM_VIOMMU_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* From linux/kvm.h; the ioctls below are of the device's file descriptor. */
#ifndef KVMIO
#define KVMIO 0xAE
#endif

/*
 * Attributes of the configuration, each a __u64.  They can be read at any time,
 * and written until KVM_DEV_VIOMMU_CTRL_INIT (EBUSY afterwards).
 */
#define KVM_DEV_VIOMMU_GRP_CONFIG		0
/* Guest physical address of the register page, 4 KiB aligned.  Must be set. */
#define   KVM_DEV_VIOMMU_CONFIG_BASE		0
/*
 * The capability and extended capability registers.  Reading tells what KVM can
 * do; a value that promises more than that is refused (EINVAL).
 */
#define   KVM_DEV_VIOMMU_CONFIG_CAP		1
#define   KVM_DEV_VIOMMU_CONFIG_ECAP		2
/* Host address width of the guest in bits, as in the DMAR table; 32 to 52. */
#define   KVM_DEV_VIOMMU_CONFIG_HAW		3
/* Who emulates; one of enum kvm_viommu_worker. */
#define   KVM_DEV_VIOMMU_CONFIG_WORKER		4
/* When the host unmaps; one of enum kvm_viommu_teardown. */
#define   KVM_DEV_VIOMMU_CONFIG_TEARDOWN	5
/*
 * The most 4 KiB pages that may be mapped at a time; 0 (default) for twice the
 * size of the guest's memory.
 */
#define   KVM_DEV_VIOMMU_CONFIG_MAX_PAGES	6

/* Commands; no data. */
#define KVM_DEV_VIOMMU_GRP_CTRL			1
/* Start: the unit appears at its base address. */
#define   KVM_DEV_VIOMMU_CTRL_INIT		0
/* As after INIT; devices stay, and are given back to their containers. */
#define   KVM_DEV_VIOMMU_CTRL_RESET		1

/* PCI devices of the host behind the unit; struct kvm_viommu_device. */
#define KVM_DEV_VIOMMU_GRP_DEVICE		2
#define   KVM_DEV_VIOMMU_DEVICE_ADD		0
/* Only @sid is looked at. */
#define   KVM_DEV_VIOMMU_DEVICE_DEL		1

/* struct kvm_viommu_state */
#define KVM_DEV_VIOMMU_GRP_STATE		3

/*
 * An __s32, the eventfd that is signaled when KVM_VIOMMU_INVALIDATIONS has
 * something to tell; -1 for none.  While there is one, wait descriptors of the
 * guest complete only after the invalidations before them were acknowledged.
 */
#define KVM_DEV_VIOMMU_GRP_NOTIFY		4

enum kvm_viommu_worker {
	/* The vCPU that writes a register, by an exit. */
	KVM_VIOMMU_WORKER_NONE		= 0,
	/* A sidecore, as long as there is one (kvm.sidecore_cpus); the default. */
	KVM_VIOMMU_WORKER_SIDECORE	= 1,
	/* A thread of the process that created the VM. */
	KVM_VIOMMU_WORKER_TASK		= 2,
};

enum kvm_viommu_teardown {
	/* Before the guest's invalidation completes. */
	KVM_VIOMMU_TEARDOWN_STRICT	= 0,
	/* IOTLB invalidations of the host are batched. */
	KVM_VIOMMU_TEARDOWN_DEFERRED	= 1,
	/* What the guest unmaps stays mapped for a while, as it may come back. */
	KVM_VIOMMU_TEARDOWN_OPTIMISTIC	= 2,
};

/**
 * struct kvm_viommu_device - a host device behind the unit
 * @flags: must be 0
 * @sid: PCI bus, device and function that the guest knows it by (8:5:3 bits)
 * @pad: must be 0
 * @group_fd: file descriptor of the device's VFIO group; a container with an
 *	IOMMU must be set.  Its IOMMU group must have no other device.
 * @pad2: must be 0
 * @name: user pointer to the name of the device, as in VFIO_GROUP_GET_DEVICE_FD
 */
struct kvm_viommu_device {
	__u32 flags;
	__u16 sid;
	__u16 pad;
	__s32 group_fd;
	__u32 pad2;
	__u64 name;
};

#define KVM_VIOMMU_NR_REGS		128
#define KVM_VIOMMU_STATE_VERSION	1

/**
 * struct kvm_viommu_state - what of a unit migrates
 * @version: KVM_VIOMMU_STATE_VERSION
 * @flags: must be 0
 * @root: root table address that is in use (RTADDR as latched by GCMD.SRTP)
 * @reserved: must be 0
 * @regs: the register file, @regs[i] being the eight bytes at offset 8 * i
 */
struct kvm_viommu_state {
	__u32 version;
	__u32 flags;
	__u64 root;
	__u64 reserved[6];
	__u64 regs[KVM_VIOMMU_NR_REGS];
};

/* Access of a device, and what a translation allows. */
#define KVM_VIOMMU_READ			(1u << 0)
#define KVM_VIOMMU_WRITE		(1u << 1)

/* Flags of KVM_VIOMMU_TRANSLATE. */
/* Do not record a fault. */
#define KVM_VIOMMU_TRANSLATE_QUIET	(1u << 0)
/*
 * Tell what an assigned device reaches at the moment, which is not what the
 * guest's tables say e.g. between a change of them and its invalidation.
 */
#define KVM_VIOMMU_TRANSLATE_SHADOW	(1u << 1)

/**
 * struct kvm_viommu_translate - translate an address for an emulated device
 * @iova: in: address that the device uses
 * @gpa: out: guest physical address
 * @size: out: bytes for which the translation holds, a power of two;
 *	@iova and @gpa are not rounded down to it
 * @sid: in: the device
 * @pad: must be 0
 * @flags: in: KVM_VIOMMU_TRANSLATE_*
 * @access: in: what the device wants, KVM_VIOMMU_READ or _WRITE or both;
 *	out: what it may do
 * @fault: out: the fault reason of the VT-d specification, if EFAULT is returned
 */
struct kvm_viommu_translate {
	__u64 iova;
	__u64 gpa;
	__u64 size;
	__u16 sid;
	__u16 pad;
	__u32 flags;
	__u32 access;
	__u32 fault;
};

/**
 * struct kvm_viommu_invalidation - the guest invalidated translations
 * @iova: first address
 * @last: last address
 * @sid: device, if @flags has KVM_VIOMMU_INV_DEVICE
 * @domain: domain id, if @flags has KVM_VIOMMU_INV_DOMAIN
 * @flags: KVM_VIOMMU_INV_*; neither of the above: all devices and domains
 */
struct kvm_viommu_invalidation {
	__u64 iova;
	__u64 last;
	__u16 sid;
	__u16 domain;
	__u32 flags;
};

#define KVM_VIOMMU_INV_DEVICE		(1u << 0)
#define KVM_VIOMMU_INV_DOMAIN		(1u << 1)

/**
 * struct kvm_viommu_invalidations - get invalidations, acknowledge earlier ones
 * @ack: in: the number of the first one that was not yet dealt with
 * @next: out: the number of the first one that was not returned; pass it as @ack
 *	once these were dealt with
 * @nr: in: entries that @entries has room for; out: entries filled in
 * @flags: must be 0
 * @entries: user pointer to an array of struct kvm_viommu_invalidation
 */
struct kvm_viommu_invalidations {
	__u64 ack;
	__u64 next;
	__u32 nr;
	__u32 flags;
	__u64 entries;
};

#define KVM_VIOMMU_TRANSLATE \
	_IOWR(KVMIO, 0xf0, struct kvm_viommu_translate)
#define KVM_VIOMMU_INVALIDATIONS \
	_IOWR(KVMIO, 0xf1, struct kvm_viommu_invalidations)

#endif /* _UAPI_LINUX_KVM_VIOMMU_H */
