/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Shadow domains: the host's side of an IOMMU that a hypervisor emulates.
 *
 * The owner of a shadow (a VM's emulated IOMMU) puts host devices behind it,
 * creates domains, and maps memory of its process into them, leaf by leaf, as the
 * guest's I/O page tables say.  See drivers/iommu/viommu-shadow.c.
 */
#ifndef _LINUX_VIOMMU_SHADOW_H
#define _LINUX_VIOMMU_SHADOW_H

#include <linux/bits.h>
#include <linux/rbtree.h>
#include <linux/types.h>

struct iommu_domain;
struct iommu_group;
struct mm_struct;
struct page;
struct viommu_shadow;
struct viommu_shadow_device;
struct viommu_shadow_domain;

enum viommu_shadow_teardown {
	VIOMMU_SHADOW_STRICT,
	VIOMMU_SHADOW_DEFERRED,
	VIOMMU_SHADOW_OPTIMISTIC,
};

/* Sizes of leaves, in pages; larger pages of the guest are mapped in parts. */
#define VIOMMU_SHADOW_4K	0
#define VIOMMU_SHADOW_2M	9

/* What a device may do with a leaf. */
#define VIOMMU_SHADOW_READ	BIT(0)
#define VIOMMU_SHADOW_WRITE	BIT(1)

/*
 * A mapping.  Written by viommu-shadow.c only, read by the owner under
 * viommu_shadow_api.lock().  There is one for each mapped page: with what the memory
 * cgroup needs to account for it, it is to take 64 bytes at most.
 */
struct viommu_shadow_leaf {
	struct rb_node node;
	/* First address. */
	u64 iova;
	/* The owner's, e.g. a gfn. */
	u64 cookie;
	union {
		/* The page that is mapped; if there are several, the first one. */
		struct page *page;
		/* If they are not contiguous, all of them. */
		struct page **pages;
	};
	/* Number in the queue of those that wait to be unmapped, plus 1, or 0. */
	u16 waiting;
	u8 order;
	/* VIOMMU_SHADOW_READ and _WRITE */
	u8 prot;
	/* @pages, not @page. */
	bool scattered;
};

/* Counters that the owner provides; written under viommu_shadow_api.lock(). */
struct viommu_shadow_counters {
	/* Leaves mapped, and failures to. */
	u64 *maps;
	u64 *map_errors;
	/* Leaves taken away by the owner. */
	u64 *unmaps;
	/* ... that came back before they were unmapped. */
	u64 *reused;
	/* IOTLB invalidations of the host. */
	u64 *flushes;
	/* 4 KiB pages that are pinned at the moment. */
	u64 *pinned;
};

struct viommu_shadow_ops {
	/*
	 * The host's IOMMU blocked an access of a device.  Not all IOMMU
	 * drivers tell.  Called in atomic context, possibly at any time between
	 * the call of add_device() and the end of del_device(), see below.
	 */
	void (*fault)(void *owner, void *device, u64 iova, bool write);
};

/*
 * What the module viommu-shadow offers; the functions are described there.  A
 * table, so that the owner need not depend on the module: get it by
 * symbol_request(viommu_shadow_api), and give it back by symbol_put().
 */
struct viommu_shadow_api {
	struct viommu_shadow *
	(*create)(struct mm_struct *mm, enum viommu_shadow_teardown teardown,
		  const struct viommu_shadow_counters *counters,
		  const struct viommu_shadow_ops *ops, void *owner);
	void (*destroy)(struct viommu_shadow *vs);

	struct viommu_shadow_device *
	(*add_device)(struct viommu_shadow *vs, int group_fd,
		      const char __user *name, void *device);
	void (*del_device)(struct viommu_shadow_device *sd);
	u64 (*aperture)(struct viommu_shadow_device *sd);

	struct viommu_shadow_domain *
	(*domain_create)(struct viommu_shadow_device *sd);
	void (*domain_destroy)(struct viommu_shadow_domain *d);

	int (*attach)(struct viommu_shadow_device *sd,
		      struct viommu_shadow_domain *d);
	int (*block)(struct viommu_shadow_device *sd);
	int (*give_back)(struct viommu_shadow_device *sd);

	/* What follows needs the lock, which what precedes takes. */
	void (*lock)(struct viommu_shadow *vs);
	void (*unlock)(struct viommu_shadow *vs);
	struct viommu_shadow_leaf *
	(*first)(struct viommu_shadow_domain *d, u64 iova);
	struct viommu_shadow_leaf *
	(*next)(struct viommu_shadow_domain *d, struct viommu_shadow_leaf *leaf);
	int (*map)(struct viommu_shadow_domain *d, u64 iova, unsigned int order,
		   unsigned long hva, unsigned int prot, u64 cookie);
	void (*unmap)(struct viommu_shadow_domain *d,
		      struct viommu_shadow_leaf *leaf);
	void (*sync)(struct viommu_shadow *vs, bool all);
	bool (*reaches)(struct viommu_shadow_domain *d, u64 iova,
			struct viommu_shadow_leaf *copy);
};

extern const struct viommu_shadow_api viommu_shadow_api;

/* Of drivers/iommu/iommu-priv.h, which packages of kernel headers do not have. */
int iommu_group_replace_domain(struct iommu_group *group,
			       struct iommu_domain *new_domain);

#endif /* _LINUX_VIOMMU_SHADOW_H */
