/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * The in-kernel IOMMU of a guest: what the files of this directory share.
 *
 * Registers, tables and descriptors are those of the "Intel Virtualization
 * Technology for Directed I/O Architecture Specification", rev 4.1 ("VT-d spec"),
 * legacy mode.
 *
 * Locks, from the outside in: kvm->lock, kvm_viommu.config_lock, slots_lock,
 * kvm_sidecore.lock, kvm->srcu, kvm_viommu.lock, the lock of the shadow, mmu_lock.
 * kvm_viommu.fault_lock is a leaf and taken in atomic context.  slots_lock and
 * synchronize_srcu() must not be waited for under kvm_viommu.lock, as vCPUs take
 * it within kvm->srcu.
 */
#ifndef __KVM_X86_VIOMMU_INTERNAL_H
#define __KVM_X86_VIOMMU_INTERNAL_H

#include <linux/bits.h>
#include <linux/kvm_viommu.h>
#include <linux/mutex.h>
#include <linux/viommu-shadow.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>
#include <kvm/iodev.h>

#include "sidecore.h"
#include "viommu.h"

/* Offsets of registers. */
#define VTD_VER			0x00
#define VTD_CAP			0x08
#define VTD_ECAP		0x10
#define VTD_GCMD		0x18
#define VTD_GSTS		0x1c
#define VTD_RTADDR		0x20
#define VTD_CCMD		0x28
#define VTD_FSTS		0x34
#define VTD_FECTL		0x38
#define VTD_FEDATA		0x3c
#define VTD_FEADDR		0x40
#define VTD_FEUADDR		0x44
#define VTD_IQH			0x80
#define VTD_IQT			0x88
#define VTD_IQA			0x90
#define VTD_ICS			0x9c
#define VTD_IECTL		0xa0
#define VTD_IEDATA		0xa4
#define VTD_IEADDR		0xa8
#define VTD_IEUADDR		0xac
#define VTD_IQERCD		0xb0
/* Where CAP.FRO and ECAP.IRO point to. */
#define VTD_IVA			0xf0
#define VTD_IOTLB		0xf8
#define VTD_FRCD		0x200
#define VTD_NR_FRCD		8
#define VTD_REGS_SIZE		(8 * KVM_VIOMMU_NR_REGS)

#define VTD_CAP_CM		BIT_ULL(7)
#define VTD_CAP_SAGAW_39	BIT_ULL(9)
#define VTD_CAP_SAGAW_48	BIT_ULL(10)
#define VTD_CAP_MGAW		GENMASK_ULL(21, 16)
#define VTD_CAP_FRO		GENMASK_ULL(33, 24)
#define VTD_CAP_SLLPS_2M	BIT_ULL(34)
#define VTD_CAP_SLLPS_1G	BIT_ULL(35)
#define VTD_CAP_PSI		BIT_ULL(39)
#define VTD_CAP_NFR		GENMASK_ULL(47, 40)
#define VTD_CAP_MAMV		GENMASK_ULL(53, 48)
#define VTD_CAP_DWD		BIT_ULL(54)
#define VTD_CAP_DRD		BIT_ULL(55)
#define VTD_CAP_ESRTPS		BIT_ULL(63)

#define VTD_ECAP_C		BIT_ULL(0)
#define VTD_ECAP_QI		BIT_ULL(1)
#define VTD_ECAP_PT		BIT_ULL(6)
#define VTD_ECAP_IRO		GENMASK_ULL(17, 8)

#define VTD_GCMD_TE		BIT(31)
#define VTD_GCMD_SRTP		BIT(30)
#define VTD_GCMD_QIE		BIT(26)
#define VTD_GSTS_TES		BIT(31)
#define VTD_GSTS_RTPS		BIT(30)
#define VTD_GSTS_QIES		BIT(26)
/* All reserved bits but one: no command looks like that. */
#define VTD_GCMD_NONE		BIT(0)

/* For how long software waits for a command, at most; Linux panics then. */
#define VTD_GCMD_TIMEOUT	(10 * HZ)

#define VTD_RTADDR_TTM		GENMASK_ULL(11, 10)

#define VTD_CCMD_ICC		BIT_ULL(63)
#define VTD_CCMD_CIRG		GENMASK_ULL(62, 61)
#define VTD_CCMD_CAIG		GENMASK_ULL(60, 59)
#define VTD_CCMD_FM		GENMASK_ULL(33, 32)
#define VTD_CCMD_SID		GENMASK_ULL(31, 16)
#define VTD_CCMD_DID		GENMASK_ULL(15, 0)

#define VTD_IOTLB_IVT		BIT_ULL(63)
#define VTD_IOTLB_IIRG		GENMASK_ULL(61, 60)
#define VTD_IOTLB_IAIG		GENMASK_ULL(58, 57)
#define VTD_IOTLB_DR		BIT_ULL(49)
#define VTD_IOTLB_DW		BIT_ULL(48)
#define VTD_IOTLB_DID		GENMASK_ULL(47, 32)
#define VTD_IVA_AM		GENMASK_ULL(5, 0)
#define VTD_IVA_IH		BIT_ULL(6)
#define VTD_IVA_ADDR		GENMASK_ULL(63, 12)

#define VTD_FSTS_PFO		BIT(0)
#define VTD_FSTS_PPF		BIT(1)
#define VTD_FSTS_IQE		BIT(4)
#define VTD_FSTS_ICE		BIT(5)
#define VTD_FSTS_ITE		BIT(6)
#define VTD_FSTS_FRI		GENMASK(15, 8)
#define VTD_FSTS_EVENTS		(VTD_FSTS_PFO | VTD_FSTS_PPF | VTD_FSTS_IQE | \
				 VTD_FSTS_ICE | VTD_FSTS_ITE)

/* FECTL and IECTL */
#define VTD_CTL_IM		BIT(31)
#define VTD_CTL_IP		BIT(30)

#define VTD_ICS_IWC		BIT(0)

#define VTD_IQA_DW		BIT_ULL(11)
#define VTD_IQA_QS		GENMASK_ULL(2, 0)
#define VTD_IQ_INDEX		GENMASK_ULL(18, 4)
#define VTD_IQERCD_IQEI		GENMASK_ULL(3, 0)

#define VTD_FRCD_FI		GENMASK_ULL(63, 12)
/* In the upper half. */
#define VTD_FRCD_F		BIT_ULL(63)
#define VTD_FRCD_READ		BIT_ULL(62)
#define VTD_FRCD_FR		GENMASK_ULL(39, 32)
#define VTD_FRCD_SID		GENMASK_ULL(15, 0)

/* Granularities of invalidations, as in CIRG, IIRG and descriptors. */
#define VTD_GLOBAL		1
#define VTD_DOMAIN		2
/* of the context cache */
#define VTD_DEVICE		3
/* of the IOTLB */
#define VTD_PAGES		3

/* "Fault conditions and remapping hardware behavior", legacy mode */
enum vtd_fault {
	VTD_FAULT_NONE		= 0x0,
	VTD_FAULT_ROOT_NP	= 0x1,
	VTD_FAULT_CONTEXT_NP	= 0x2,
	VTD_FAULT_CONTEXT	= 0x3,
	VTD_FAULT_BEYOND	= 0x4,
	VTD_FAULT_WRITE		= 0x5,
	VTD_FAULT_READ		= 0x6,
	VTD_FAULT_TABLE		= 0x7,
	VTD_FAULT_ROOT_TABLE	= 0x8,
	VTD_FAULT_CONTEXT_TABLE	= 0x9,
	VTD_FAULT_ROOT_RSVD	= 0xa,
	VTD_FAULT_CONTEXT_RSVD	= 0xb,
	VTD_FAULT_PTE_RSVD	= 0xc,
};

/* "Invalidation Queue Error Information" */
enum vtd_queue_error {
	VTD_IQEI_TAIL		= 1,
	VTD_IQEI_FETCH		= 2,
	VTD_IQEI_TYPE		= 3,
	VTD_IQEI_RSVD		= 4,
};

/* A context entry, checked. */
struct viommu_context {
	u16 did;
	/* Width of addresses in bits, 39 or 48. */
	u8 width;
	bool passthrough;
	/* Do not report faults. */
	bool quiet;
	gpa_t tables;
};

/* A domain of the guest with a device in it. */
struct viommu_domain {
	/* In kvm_viommu.in_use as long as devices are in it, or about to be. */
	struct list_head node;
	u16 did;
	u8 width;
	gpa_t tables;
	struct viommu_shadow_domain *shadow;
	/* Devices that are in it, or about to be. */
	unsigned int nr_devices;
	/* When its id was last found in a context entry. */
	u64 round;
	/* What is reported with faults that are found in the tables. */
	u16 sid;
	bool quiet;
	/*
	 * [next, last] is to be brought up to date with the guest's tables; on
	 * kvm_viommu.stale then.  Without devices, on kvm_viommu.dying.
	 */
	struct list_head stale;
	u64 next;
	u64 last;
};

enum viommu_attached {
	/* Translation is off: the VMM's container decides. */
	VIOMMU_GIVEN_BACK,
	/* The guest's context entry does not let the device do anything. */
	VIOMMU_BLOCKED,
	VIOMMU_TRANSLATED,
};

/* A device of the host behind the unit. */
struct viommu_device {
	struct list_head node;
	struct kvm_viommu *viommu;
	struct viommu_shadow_device *shadow;
	u16 sid;
	/* What the context entry said when it was last looked at. */
	bool quiet;
	/* What it is attached to, and what it is going to be. */
	enum viommu_attached attached, target;
	struct viommu_domain *domain, *target_domain;
	/* It could not be, so it may not even be what @attached says. */
	bool failed;
};

/* What is to be done next, in this order. */
enum viommu_todo {
	VIOMMU_TODO_TE_OFF,
	VIOMMU_TODO_QI_OFF,
	VIOMMU_TODO_SRTP,
	VIOMMU_TODO_TE_ON,
	/* Memslots or devices have changed. */
	VIOMMU_TODO_RESYNC,
	VIOMMU_TODO_CCMD,
	VIOMMU_TODO_IOTLB,
	VIOMMU_NR_TODO,
};

/* What an invalidation is of, and what follows when it is complete. */
enum viommu_source {
	VIOMMU_IDLE,
	VIOMMU_BY_QUEUE,
	VIOMMU_BY_TE_ON,
	VIOMMU_BY_SRTP,
	VIOMMU_BY_RESYNC,
	VIOMMU_BY_CCMD,
	VIOMMU_BY_IOTLB,
};

/* Notifications for the VMM that it has not yet asked for. */
#define VIOMMU_NR_NOTES		256

/* DMA faults that the host reported and that are not yet recorded. */
#define VIOMMU_NR_HW_FAULTS	16

struct kvm_viommu {
	struct kvm *kvm;

	/* Serializes changes by the VMM. */
	struct mutex config_lock;
	/* Protected by config_lock, and constant once live. */
	gpa_t base;
	u64 cap;
	u64 ecap;
	u8 haw;
	u8 worker;
	u8 teardown;
	u64 max_pages;
	bool live;
	const struct viommu_shadow_api *api;
	struct viommu_shadow_counters counters;

	/*
	 * The page that is the guest's registers: a copy of @regs that KVM writes
	 * and, in direct mode, the guest as well.
	 */
	struct page *page;
	void *shared;

	/* For the MMU, which wants one.  Has no userspace address. */
	struct kvm_memory_slot slot;
	unsigned short untracked;

	struct kvm_io_device iodev;
	struct kvm_sidecore_client client;
	/* Does what a vCPU could not finish. */
	struct work_struct work;

	/* Protects all that follows. */
	struct mutex lock;

	/*
	 * Guest writes do not exit.  Read by page faults without the lock; see
	 * viommu_go_direct() and viommu_go_trapped().
	 */
	bool direct;
	/* Is being released. */
	bool dead;

	/* The real registers; IQT is also read without the lock. */
	u8 regs[VTD_REGS_SIZE] __aligned(8);
	/* RTADDR as of the last GCMD.SRTP. */
	u64 root;
	/* Whoever did that may be waiting for RTPS still, which was set then. */
	bool root_unseen;
	unsigned long root_set;
	/* The fault recording register to be used next, if it is free. */
	unsigned int next_frcd;
	/* What GSTS.TES is going to be. */
	bool te;
	DECLARE_BITMAP(todo, VIOMMU_NR_TODO);

	/* The invalidation that is being carried out. */
	enum viommu_source source;
	/* Counts invalidations of context entries. */
	u64 round;
	/* It is one of context entries: attach devices when domains are synced. */
	bool contexts;
	/* What is left of it. */
	struct list_head stale;
	/* Domains that lost their last device, to be taken apart. */
	struct list_head dying;
	unsigned int nr_dying;
	/* The shadow has something to sync. */
	bool unsynced;
	/* There was no memory for what the guest wants: see viommu_starve(). */
	bool starved;

	struct list_head devices;
	/* Domains by guest domain id. */
	struct xarray domains;
	/* ... and those whose id another has got, but that devices are still in. */
	struct list_head in_use;
	struct viommu_shadow *shadow;
	/* 4 KiB pages mapped in all domains. */
	u64 nr_mapped;

	/* To choose the mode: the last trapped write, and those in a row. */
	u64 last_trap;
	unsigned int nr_traps;
	/*
	 * Owned by the sidecore: polls, whether this one looks at all registers,
	 * and whether the last left something undone.
	 */
	unsigned int nr_polls;
	bool client_scan;
	bool client_busy;

	/* Invalidations for the VMM: numbers [acked, next) are in the ring. */
	struct eventfd_ctx *notify;
	u64 acked;
	u64 next;
	struct kvm_viommu_invalidation notes[VIOMMU_NR_NOTES];

	/* Entries of a guest's table, to be read at once. */
	u64 ptes[512];

	/* Protects what follows; irqs off. */
	spinlock_t fault_lock;
	unsigned int nr_hw_faults;
	struct {
		u64 iova;
		u16 sid;
		bool write;
	} hw_faults[VIOMMU_NR_HW_FAULTS];
};

static inline u32 vtd_reg32(struct kvm_viommu *v, unsigned int reg)
{
	return *(u32 *)(v->regs + reg);
}

static inline u64 vtd_reg64(struct kvm_viommu *v, unsigned int reg)
{
	return *(u64 *)(v->regs + reg);
}

/* regs.c */
void viommu_set32(struct kvm_viommu *v, unsigned int reg, u32 val);
void viommu_set64(struct kvm_viommu *v, unsigned int reg, u64 val);
void viommu_show_gsts(struct kvm_viommu *v);
void viommu_reset(struct kvm_viommu *v);
void viommu_write(struct kvm_viommu *v, unsigned int offset, unsigned int len,
		  u64 val);
bool viommu_scan(struct kvm_viommu *v);
bool viommu_scan_tail(struct kvm_viommu *v);
bool viommu_can_be_direct(struct kvm_viommu *v);

/* fault.c */
void viommu_send_msi(struct kvm_viommu *v, unsigned int ctl);
void viommu_fault_event(struct kvm_viommu *v, u32 fsts);
void viommu_record_fault(struct kvm_viommu *v, u16 sid, u64 iova, bool write,
			 enum vtd_fault reason);
void viommu_fault_written(struct kvm_viommu *v);
void viommu_faults_restored(struct kvm_viommu *v);
void viommu_queue_error(struct kvm_viommu *v, enum vtd_queue_error error);
void viommu_hw_fault(void *owner, void *device, u64 iova, bool write);
void viommu_record_hw_faults(struct kvm_viommu *v);

/* tables.c */
int viommu_read_guest(struct kvm_viommu *v, gpa_t gpa, u64 *entries,
		      unsigned int nr);
enum vtd_fault viommu_read_context(struct kvm_viommu *v, u16 sid,
				   struct viommu_context *ctx);
enum vtd_fault viommu_translate(struct kvm_viommu *v,
				const struct viommu_context *ctx, u64 iova,
				u32 access, struct kvm_viommu_translate *t);
u64 viommu_max_mapped(struct kvm_viommu *v);
bool viommu_sync_domain(struct kvm_viommu *v, struct viommu_domain *d,
			unsigned int *budget);
void viommu_unmap_gfns(struct kvm_viommu *v, gfn_t start, gfn_t end);
bool viommu_unmap_some(struct kvm_viommu *v, struct viommu_domain *d,
		       unsigned int *budget);

/* queue.c */
unsigned int viommu_process(struct kvm_viommu *v, unsigned int budget);
bool viommu_has_work(struct kvm_viommu *v);
void viommu_starve(struct kvm_viommu *v, int err);
void viommu_detach_device(struct kvm_viommu *v, struct viommu_device *dev);
void viommu_detach_all(struct kvm_viommu *v);
void viommu_block_all(struct kvm_viommu *v);
void viommu_abort(struct kvm_viommu *v);
void viommu_bury_all(struct kvm_viommu *v);
void viommu_note_all(struct kvm_viommu *v);

/* device.c */
extern const struct kvm_device_ops kvm_viommu_ops;

/* viommu.c */
extern unsigned int viommu_poll_us;
extern unsigned int viommu_teardown;
extern const char * const viommu_teardowns[KVM_VIOMMU_TEARDOWN_OPTIMISTIC + 1];
int viommu_start(struct kvm_viommu *v);
void viommu_stop(struct kvm_viommu *v);
void viommu_kick(struct kvm_viommu *v);
void viommu_process_now(struct kvm_viommu *v);
void viommu_go_trapped(struct kvm_viommu *v);
u64 viommu_max_cap(void);
u64 viommu_max_ecap(void);

/* debugfs.c */
void viommu_create_debugfs(struct kvm_viommu *v);
void viommu_remove_debugfs(struct kvm_viommu *v);

#endif /* __KVM_X86_VIOMMU_INTERNAL_H */
