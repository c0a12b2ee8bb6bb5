// SPDX-License-Identifier: GPL-2.0-only
/*
 * Shadow domains: the host's side of an IOMMU that a hypervisor emulates.
 *
 * A guest that has an IOMMU says in I/O page tables what its devices may access.
 * The hypervisor, here the owner, reads these tables when the guest announces that
 * they have changed, and has the same mappings made in domains of the host's IOMMU:
 * I/O virtual addresses (IOVAs) are the guest's, memory is that of the VMM's
 * process.  Only what is mapped is pinned, and no device reaches anything else.
 *
 *	struct viommu_shadow		one per owner: policy, queue, accounting
 *	  struct viommu_shadow_device	a device of the VMM, by way of VFIO
 *	  struct viommu_shadow_domain	a paging domain, one per domain of the guest
 *	    struct viommu_shadow_leaf	a page of the guest's tables
 *
 * Devices.  VFIO attached a device to the domain of its container, where the VMM
 * mapped all of the guest's memory.  While the guest translates, the device is
 * attached to a domain of the shadow instead, or to an empty one of its own if it is
 * to be blocked, and it is given back to the container's domain when the guest stops
 * translating.  That domain, and VFIO's ownership of the device's DMA, must not go
 * away in between, wherefore the device is kept open, see shadow_open_device().
 *
 * Leaves.  A leaf is 4 KiB or 2 MiB of IOVAs whose pages are pinned.  It is live
 * from map() to unmap(), and waits in the queue from then on.  When the time has
 * come it is cleared, i.e. taken out of the I/O page tables, its domain is flushed,
 * i.e. IOTLBs are invalidated, and then, never before, its pages are unpinned.  When
 * that is depends on the policy, which trades protection of the guest from its own
 * devices for time; a page that is reachable is pinned under all of them, so that
 * others are always protected:
 *
 *	strict		unmap() clears, sync() flushes.
 *	deferred	unmap() clears.  250 leaves, or 10 ms, share a flush.
 *	optimistic	unmap() does nothing.  If the guest maps the same again while
 *			the leaf waits, then that is all.  No more than 256 leaves
 *			wait, and none for longer than about 10 ms.
 *
 * These policies and their bounds are from N. Amit et al., "vIOMMU: Efficient IOMMU
 * Emulation", USENIX ATC 2011.
 *
 * A waiting leaf stays in its domain's tree, so that it can be found, unless another
 * is mapped over it.  The new mapping is not effective then before the domain is
 * flushed.  That is due when the lock is released, or in sync() if that is due
 * anyway.
 *
 * Locks, from the outside in: the owner's; viommu_shadow.lock, a mutex which
 * protects all of a shadow and its devices, domains and leaves; mmap_lock and the
 * mutex of an IOMMU group.  VFIO's locks are taken when a device is opened or closed,
 * which is never done within viommu_shadow.lock.  shadow_devices_lock is a leaf.
 *
 * Lifetimes.  The owner holds a reference to this module, by having got
 * viommu_shadow_api, and destroys devices and domains before the shadow.  A shadow
 * refers to its mm, not to its users: when the process has exited there is nothing
 * left to account to, and pages are still unpinned.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/capability.h>
#include <linux/device.h>
#include <linux/fdtable.h>
#include <linux/file.h>
#include <linux/fs.h>
#include <linux/iommu.h>
#include <linux/jiffies.h>
#include <linux/kthread.h>
#include <linux/mm.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/rculist.h>
#include <linux/sched/mm.h>
#include <linux/sched/task.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/vfio.h>
#include <linux/viommu-shadow.h>
#include <linux/workqueue.h>
#include <uapi/linux/iommufd.h>

/* Leaves that may wait, in the deferred policy and in the others. */
#define SHADOW_DEFERRED_WAITING	250
#define SHADOW_MAX_WAITING	256

/* For how long: 10 ms, rounded down, as timers expire late. */
#define SHADOW_HOLD		(HZ > 100 ? HZ / 100 : 1)

/* With room for entries that became void because their leaf came back. */
#define SHADOW_QUEUE_SIZE	(2 * SHADOW_MAX_WAITING)

/*
 * Accounting takes the mmap_lock, which page faults of the guest contend for.  So it
 * is done for some pages in advance, and pages are given back when there are many.
 */
#define SHADOW_ACCOUNT_AHEAD	32
#define SHADOW_MAX_SPARE	64

/*
 * References that a page may have.  A pin of a small page is 1024 of them, and nothing
 * else keeps a guest from mapping one page two million times, at which their number
 * would overflow.
 */
#define SHADOW_MAX_REFS		(INT_MAX / 2)

/*
 * Intel's driver frees a page table if all that it is for is unmapped at once, and
 * leaves are smaller.  So tables that became empty are remembered, and dropped if there
 * are many: of 64 blocks of 2 MiB in each domain.
 */
#define SHADOW_BLOCK_SHIFT	21
#define SHADOW_EMPTY_BLOCKS	64

/* Of VT-d's capability registers, see shadow_last_iova(). */
#define VTD_CAP_SAGAW		GENMASK_ULL(12, 8)
#define VTD_CAP_MGAW		GENMASK_ULL(21, 16)
#define VTD_ECAP_SLTS		BIT_ULL(46)
#define VTD_ECAP_FLTS		BIT_ULL(47)

/* A leaf that waits to be flushed. */
struct shadow_waiter {
	/* NULL: it came back. */
	struct viommu_shadow_leaf *leaf;
	struct viommu_shadow_domain *d;
	/* When it was unmapped. */
	unsigned long since;
	/* It is no longer in the I/O page tables; its domain is dirty. */
	bool cleared;
};

struct viommu_shadow {
	/* Constant. */
	struct mm_struct *mm;
	/* Whose RLIMIT_MEMLOCK it is, and whether it does not count. */
	struct task_struct *task;
	bool lock_cap;
	enum viommu_shadow_teardown teardown;
	const struct viommu_shadow_ops *ops;
	void *owner;

	/* Pending or running if leaves wait for time to pass. */
	struct delayed_work work;

	/* Protects what follows, and devices, domains and leaves. */
	struct mutex lock;
	struct viommu_shadow_counters counters;
	struct list_head devices;
	struct list_head domains;

	/*
	 * Waiting leaves, in the order in which they were unmapped: an array, as
	 * there is no room in leaves for links.  Only the first nr_queue are used.
	 */
	struct shadow_waiter *queue;
	unsigned int nr_queue;
	unsigned int nr_waiting;
	/* Domains that have cleared leaves. */
	struct list_head dirty;
	/* A mapping is not effective unless its domain is flushed. */
	bool stale;

	/* In pages of 4 KiB; at least as many are accounted as are pinned. */
	unsigned long pinned;
	unsigned long accounted;
};

struct viommu_shadow_domain {
	struct viommu_shadow *vs;
	struct iommu_domain *domain;
	/* For iommu_map(), in addition to the leaf's. */
	int prot;
	/* DMA is coherent whatever the device asks for; KVM may rely on it. */
	bool enforced_coherent;
	/* The driver frees tables of what is unmapped at once. */
	bool frees_tables;
	/* A device could not be detached: must not be freed. */
	bool stuck;
	/* That all of its IOMMUs can translate. */
	u64 last_iova;

	/* Protected by viommu_shadow.lock, all of them. */
	struct list_head node;
	struct list_head devices;
	struct rb_root leaves;

	/* In viommu_shadow.dirty, and what of it is to be flushed. */
	struct list_head dirty;
	struct iommu_iotlb_gather gather;
	unsigned long dirty_first;
	unsigned long dirty_last;

	/* Blocks, plus 1, in which nothing is mapped, but that may have a table. */
	u64 empty[SHADOW_EMPTY_BLOCKS];
};

struct viommu_shadow_device {
	/* Constant; read by shadow_fault() within RCU. */
	struct viommu_shadow *vs;
	struct device *dev;
	void *cookie;
	/* In shadow_devices. */
	struct list_head all;

	/* Constant. */
	struct file *file;
	struct iommu_group *group;
	struct iommu_domain *original;
	struct iommu_domain *blocking;
	u64 last_iova;
	/* Behind an Intel IOMMU. */
	bool is_vtd;

	/* Protected by viommu_shadow.lock. */
	struct list_head node;
	/* What it is attached to. */
	struct iommu_domain *attached;
	/* In viommu_shadow_domain.devices, if that is a domain of the shadow. */
	struct list_head in_domain;
};

/* All devices of all shadows, for shadow_fault(). */
static LIST_HEAD(shadow_devices);
static DEFINE_MUTEX(shadow_devices_lock);

static struct kmem_cache *shadow_leaf_cache;

/* Readers do not take the lock. */
static void shadow_count(u64 *counter, s64 n)
{
	WRITE_ONCE(*counter, *counter + n);
}

static unsigned long shadow_leaf_pages(const struct viommu_shadow_leaf *leaf)
{
	return 1UL << leaf->order;
}

static u64 shadow_leaf_size(const struct viommu_shadow_leaf *leaf)
{
	return (u64)PAGE_SIZE << leaf->order;
}

static u64 shadow_leaf_last(const struct viommu_shadow_leaf *leaf)
{
	return leaf->iova + shadow_leaf_size(leaf) - 1;
}

/*
 * Accounting
 */

static int shadow_charge(struct viommu_shadow *vs, unsigned long npages)
{
	int ret;

	/* Called in the mm only, so it has users. */
	if (mmap_write_lock_killable(vs->mm))
		return -EINTR;

	ret = __account_locked_vm(vs->mm, npages, true, vs->task, vs->lock_cap);
	mmap_write_unlock(vs->mm);
	if (!ret)
		vs->accounted += npages;
	return ret;
}

static void shadow_uncharge(struct viommu_shadow *vs, unsigned long npages)
{
	vs->accounted -= npages;
	if (!npages || !mmget_not_zero(vs->mm))
		return;

	mmap_write_lock(vs->mm);
	__account_locked_vm(vs->mm, npages, false, vs->task, vs->lock_cap);
	mmap_write_unlock(vs->mm);
	/* Not here: exiting the mm may well need locks that callers hold. */
	mmput_async(vs->mm);
}

static void shadow_trim_account(struct viommu_shadow *vs)
{
	unsigned long spare = vs->accounted - vs->pinned;

	if (spare > SHADOW_MAX_SPARE)
		shadow_uncharge(vs, spare - SHADOW_ACCOUNT_AHEAD);
}

/*
 * The queue
 */

static struct viommu_shadow_leaf *shadow_find(struct viommu_shadow_domain *d, u64 iova);
static struct viommu_shadow_leaf *shadow_after(struct viommu_shadow_leaf *leaf);

/* Something has been taken out of the I/O page tables. */
static void shadow_mark_dirty(struct viommu_shadow_domain *d, u64 first, u64 last)
{
	if (list_empty(&d->dirty)) {
		list_add_tail(&d->dirty, &d->vs->dirty);
		d->dirty_first = first;
		d->dirty_last = last;
	} else {
		d->dirty_first = min_t(unsigned long, d->dirty_first, first);
		d->dirty_last = max_t(unsigned long, d->dirty_last, last);
	}
}

/* Is there a leaf in [@first, @last], beginning with @leaf, that is not cleared? */
static bool shadow_is_used(struct viommu_shadow_domain *d,
			   struct viommu_shadow_leaf *leaf, u64 last)
{
	for (; leaf && leaf->iova <= last; leaf = shadow_after(leaf)) {
		if (!leaf->waiting || !d->vs->queue[leaf->waiting - 1].cleared)
			return true;
	}
	return false;
}

/*
 * Drop the tables of a range that is mapped nowhere.  They are freed when the domain is
 * flushed.  That has to be soon: until then the IOMMU may know the old ones, and what
 * is mapped there not be effective.
 *
 * The table above must exist.  Else Intel's driver unmaps as much as that is for.
 */
static void shadow_drop_tables(struct viommu_shadow_domain *d, u64 first, u64 size)
{
	d->gather.queued = true;
	iommu_unmap_fast(d->domain, first, size, &d->gather);
	if (list_empty(&d->gather.freelist))
		return;

	shadow_mark_dirty(d, first, first + size - 1);
	d->vs->stale = true;
}

/* Drop the tables of a block that is among the empty ones, or was until now. */
static void shadow_drop_block(struct viommu_shadow_domain *d, u64 block)
{
	const unsigned int shift = 30 - SHADOW_BLOCK_SHIFT;
	u64 first = block << SHADOW_BLOCK_SHIFT;
	unsigned int i;

	if (shadow_is_used(d, shadow_find(d, first), first + SZ_2M - 1))
		return;

	first = round_down(first, SZ_1G);
	if (shadow_is_used(d, shadow_find(d, first), first + SZ_1G - 1)) {
		shadow_drop_tables(d, block << SHADOW_BLOCK_SHIFT, SZ_2M);
		return;
	}

	/* That includes the table that those of these blocks are in. */
	for (i = 0; i < SHADOW_EMPTY_BLOCKS; i++) {
		if (d->empty[i] && (d->empty[i] - 1) >> shift == block >> shift)
			d->empty[i] = 0;
	}
	shadow_drop_tables(d, first, SZ_1G);
}

/* @leaf was cleared.  If it was the last one of its block, remember the block. */
static void shadow_note_empty(struct viommu_shadow_domain *d,
			      struct viommu_shadow_leaf *leaf)
{
	u64 block = leaf->iova >> SHADOW_BLOCK_SHIFT, *slot, old;
	u64 first = block << SHADOW_BLOCK_SHIFT, last = first + SZ_2M - 1;

	/* Its successor first, as leaves often go in that order. */
	if (!d->frees_tables || shadow_is_used(d, shadow_after(leaf), last) ||
	    shadow_is_used(d, shadow_find(d, first), last))
		return;

	slot = &d->empty[block % SHADOW_EMPTY_BLOCKS];
	old = *slot;
	*slot = block + 1;
	if (old && old != block + 1)
		shadow_drop_block(d, old - 1);
}

/*
 * Drop the table of a block that is going to be a large page.  Intel's driver would do
 * that itself, but free it before the IOMMU has forgotten about it.
 */
static void shadow_forget_empty(struct viommu_shadow_domain *d, u64 iova)
{
	u64 block = iova >> SHADOW_BLOCK_SHIFT;
	u64 *slot = &d->empty[block % SHADOW_EMPTY_BLOCKS];

	if (*slot != block + 1)
		return;

	*slot = 0;
	shadow_drop_tables(d, iova, SZ_2M);
}

/*
 * Take a leaf out of the I/O page tables.  Devices may reach it until its domain is
 * flushed.
 */
static void shadow_clear(struct viommu_shadow *vs, struct shadow_waiter *w)
{
	struct viommu_shadow_leaf *leaf = w->leaf;
	struct viommu_shadow_domain *d = w->d;
	size_t size = shadow_leaf_size(leaf);
	size_t unmapped;

	if (w->cleared)
		return;

	/*
	 * As if all of the domain was going to be flushed: leaves are seldom
	 * adjacent, and Intel's driver would flush between any two that are not.
	 * AMD's does so nevertheless if it runs in a VM, which resets this.
	 */
	d->gather.queued = true;
	unmapped = iommu_unmap_fast(d->domain, leaf->iova, size, &d->gather);
	WARN_ON_ONCE(unmapped != size);
	w->cleared = true;
	shadow_mark_dirty(d, leaf->iova, shadow_leaf_last(leaf));
	shadow_note_empty(d, leaf);
}

/*
 * Flush a domain, from its first cleared page to the last, and free page tables that
 * are not needed any more.
 */
static void shadow_flush_domain(struct viommu_shadow_domain *d)
{
	d->gather.queued = false;
	d->gather.start = d->dirty_first;
	d->gather.end = d->dirty_last;
	d->gather.pgsize = PAGE_SIZE;
	/* Initializes it, too. */
	iommu_iotlb_sync(d->domain, &d->gather);
	shadow_count(d->vs->counters.flushes, 1);
}

/* Free a leaf that no device can reach. */
static void shadow_free_leaf(struct viommu_shadow_domain *d,
			     struct viommu_shadow_leaf *leaf)
{
	bool dirty = leaf->prot & VIOMMU_SHADOW_WRITE;
	unsigned long npages = shadow_leaf_pages(leaf);
	struct viommu_shadow *vs = d->vs;

	if (leaf->scattered)
		unpin_user_pages_dirty_lock(leaf->pages, npages, dirty);
	else
		unpin_user_page_range_dirty_lock(leaf->page, npages, dirty);
	vs->pinned -= npages;
	shadow_count(vs->counters.pinned, -(s64)npages);

	if (!RB_EMPTY_NODE(&leaf->node))
		rb_erase(&leaf->node, &d->leaves);
	if (leaf->scattered)
		kfree(leaf->pages);
	kmem_cache_free(shadow_leaf_cache, leaf);
}

/* Flush what is dirty, free all leaves that are cleared, and close gaps. */
static void shadow_flush(struct viommu_shadow *vs)
{
	struct viommu_shadow_domain *d, *tmp;
	struct shadow_waiter *w;
	unsigned int i, n = 0;

	list_for_each_entry_safe(d, tmp, &vs->dirty, dirty) {
		shadow_flush_domain(d);
		list_del_init(&d->dirty);
	}

	for (i = 0; i < vs->nr_queue; i++) {
		w = &vs->queue[i];
		if (!w->leaf)
			continue;

		if (w->cleared) {
			shadow_free_leaf(w->d, w->leaf);
			vs->nr_waiting--;
		} else {
			vs->queue[n++] = *w;
			w->leaf->waiting = n;
		}
	}
	vs->nr_queue = n;
	vs->stale = false;
	shadow_trim_account(vs);
}

/* Clear the @nr leaves that have been waiting longest, and flush. */
static void shadow_tear_down(struct viommu_shadow *vs, unsigned int nr)
{
	unsigned int i;

	for (i = 0; i < vs->nr_queue && nr; i++) {
		if (!vs->queue[i].leaf)
			continue;

		shadow_clear(vs, &vs->queue[i]);
		nr--;
	}
	shadow_flush(vs);
}

/* Let a leaf wait, and make room for the next. */
static void shadow_enqueue(struct viommu_shadow_domain *d,
			   struct viommu_shadow_leaf *leaf, bool clear)
{
	struct viommu_shadow *vs = d->vs;
	struct shadow_waiter *w;

	/* At least half of the entries are void then. */
	if (vs->nr_queue == SHADOW_QUEUE_SIZE)
		shadow_flush(vs);

	w = &vs->queue[vs->nr_queue++];
	w->leaf = leaf;
	w->d = d;
	w->since = jiffies;
	w->cleared = false;
	leaf->waiting = vs->nr_queue;
	vs->nr_waiting++;

	if (clear)
		shadow_clear(vs, w);

	if (vs->teardown == VIOMMU_SHADOW_OPTIMISTIC) {
		if (vs->nr_waiting == SHADOW_MAX_WAITING)
			shadow_tear_down(vs, SHADOW_MAX_WAITING / 2);
	} else if (vs->teardown == VIOMMU_SHADOW_DEFERRED) {
		if (vs->nr_waiting == SHADOW_DEFERRED_WAITING)
			shadow_tear_down(vs, UINT_MAX);
	} else if (vs->nr_waiting == SHADOW_MAX_WAITING) {
		shadow_tear_down(vs, UINT_MAX);
	}

	/*
	 * If it was pending already, for a leaf that is gone or came back, then it
	 * is going to find out how long to wait for this one.
	 */
	if (vs->nr_waiting == 1 && vs->teardown != VIOMMU_SHADOW_STRICT)
		queue_delayed_work(system_unbound_wq, &vs->work, SHADOW_HOLD);
}

/* Time has passed. */
static void shadow_work(struct work_struct *work)
{
	struct viommu_shadow *vs = container_of(to_delayed_work(work),
						struct viommu_shadow, work);
	unsigned int i, due = 0;
	unsigned long then;

	mutex_lock(&vs->lock);
	for (i = 0; i < vs->nr_queue; i++) {
		if (!vs->queue[i].leaf)
			continue;

		if (time_before(jiffies, vs->queue[i].since + SHADOW_HOLD))
			break;

		due++;
	}
	if (due)
		shadow_tear_down(vs, vs->teardown == VIOMMU_SHADOW_DEFERRED ?
				     UINT_MAX : due);

	for (i = 0; i < vs->nr_queue; i++) {
		if (!vs->queue[i].leaf)
			continue;

		then = vs->queue[i].since + SHADOW_HOLD;
		queue_delayed_work(system_unbound_wq, &vs->work,
				   max_t(long, then - jiffies, 0));
		break;
	}
	mutex_unlock(&vs->lock);
}

/*
 * See that all is effective that the policy wants to be, before the guest is told that
 * its invalidation is complete.  On return nothing that was unmapped is reachable in
 * the strict policy and, if @all, in the others.
 */
static void shadow_sync(struct viommu_shadow *vs, bool all)
{
	lockdep_assert_held(&vs->lock);

	if (!vs->nr_waiting)
		return;

	if (all || vs->teardown == VIOMMU_SHADOW_STRICT)
		shadow_tear_down(vs, UINT_MAX);
	else if (vs->stale)
		shadow_flush(vs);
}

static void shadow_lock(struct viommu_shadow *vs)
{
	mutex_lock(&vs->lock);
}

static void shadow_unlock(struct viommu_shadow *vs)
{
	if (vs->stale)
		shadow_flush(vs);
	mutex_unlock(&vs->lock);
}

/*
 * Leaves
 */

/* The first leaf, live or not, that does not end before @iova. */
static struct viommu_shadow_leaf *shadow_find(struct viommu_shadow_domain *d,
					      u64 iova)
{
	struct viommu_shadow_leaf *leaf, *found = NULL;
	struct rb_node *node = d->leaves.rb_node;

	while (node) {
		leaf = rb_entry(node, struct viommu_shadow_leaf, node);
		if (shadow_leaf_last(leaf) < iova) {
			node = node->rb_right;
		} else {
			found = leaf;
			node = node->rb_left;
		}
	}
	return found;
}

static struct viommu_shadow_leaf *shadow_after(struct viommu_shadow_leaf *leaf)
{
	return rb_entry_safe(rb_next(&leaf->node), struct viommu_shadow_leaf, node);
}

static struct viommu_shadow_leaf *shadow_skip_waiting(struct viommu_shadow_leaf *leaf)
{
	while (leaf && leaf->waiting)
		leaf = shadow_after(leaf);
	return leaf;
}

static void shadow_insert(struct viommu_shadow_domain *d,
			  struct viommu_shadow_leaf *new)
{
	struct rb_node **link = &d->leaves.rb_node, *parent = NULL;
	struct viommu_shadow_leaf *leaf;

	while (*link) {
		parent = *link;
		leaf = rb_entry(parent, struct viommu_shadow_leaf, node);
		link = new->iova < leaf->iova ? &parent->rb_left :
						&parent->rb_right;
	}
	rb_link_node(&new->node, parent, link);
	rb_insert_color(&new->node, &d->leaves);
}

/*
 * The first live leaf that covers @iova or is behind it.  It stays valid until it is
 * unmapped or the lock is released, whatever is done to others.
 */
static struct viommu_shadow_leaf *shadow_first(struct viommu_shadow_domain *d,
					       u64 iova)
{
	lockdep_assert_held(&d->vs->lock);

	return shadow_skip_waiting(shadow_find(d, iova));
}

/* The live leaf behind @leaf, which is live as well. */
static struct viommu_shadow_leaf *shadow_next(struct viommu_shadow_domain *d,
					      struct viommu_shadow_leaf *leaf)
{
	lockdep_assert_held(&d->vs->lock);

	return shadow_skip_waiting(shadow_after(leaf));
}

/*
 * Get pages accounted.  If the limit is reached then give up what was accounted for
 * later, and what waits to be unpinned.
 */
static int shadow_account(struct viommu_shadow *vs, unsigned long npages)
{
	unsigned long spare = vs->accounted - vs->pinned;
	int ret;

	if (spare >= npages)
		return 0;

	ret = shadow_charge(vs, npages - spare + SHADOW_ACCOUNT_AHEAD);
	if (ret == -ENOMEM)
		ret = shadow_charge(vs, npages - spare);
	if (ret == -ENOMEM && vs->nr_waiting) {
		shadow_tear_down(vs, UINT_MAX);
		spare = vs->accounted - vs->pinned;
		ret = spare >= npages ? 0 : shadow_charge(vs, npages - spare);
	}
	/* It does not help to try again, as it may with memory that there is not. */
	return ret == -ENOMEM ? -ENOSPC : ret;
}

static int shadow_pin(unsigned long hva, unsigned long npages, unsigned int prot,
		      struct page **pages)
{
	unsigned int flags = FOLL_LONGTERM;
	unsigned long n, i;
	long pinned = 0;

	if (prot & VIOMMU_SHADOW_WRITE)
		flags |= FOLL_WRITE;

	/* If it was some of them, ask for the others to find out why. */
	for (n = 0; n < npages; n += pinned) {
		pinned = pin_user_pages_fast(hva + n * PAGE_SIZE, npages - n, flags,
					     pages + n);
		if (pinned <= 0)
			break;
	}
	if (n == npages) {
		for (i = 0; i < npages; i++) {
			if (folio_ref_count(page_folio(pages[i])) > SHADOW_MAX_REFS)
				break;
		}
		if (i == npages)
			return 0;
	}

	unpin_user_pages(pages, n);
	/* A page could not be migrated to where it can be pinned: not now. */
	if (pinned == -EBUSY)
		return -ENOMEM;
	return pinned < 0 ? pinned : -EFAULT;
}

/* How many of @pages are contiguous. */
static unsigned long shadow_run(struct page **pages, unsigned long npages)
{
	unsigned long pfn = page_to_pfn(pages[0]);
	unsigned long n = 1;

	while (n < npages && page_to_pfn(pages[n]) == pfn + n)
		n++;
	return n;
}

/*
 * Put pages into the I/O page tables, all or none of them.  Each leaf has entries of
 * its own, as iommu_map() is given no more than a leaf.
 */
static int shadow_map_pages(struct viommu_shadow_domain *d, u64 iova,
			    unsigned int prot, struct page **pages,
			    unsigned long npages)
{
	unsigned long i, n;
	int flags = d->prot;
	int ret;

	if (prot & VIOMMU_SHADOW_READ)
		flags |= IOMMU_READ;
	if (prot & VIOMMU_SHADOW_WRITE)
		flags |= IOMMU_WRITE;

	for (i = 0; i < npages; i += n) {
		n = shadow_run(pages + i, npages - i);
		ret = iommu_map(d->domain, iova + i * PAGE_SIZE,
				page_to_phys(pages[i]), n * PAGE_SIZE, flags,
				GFP_KERNEL_ACCOUNT);
		if (ret)
			goto undo;
	}
	return 0;

undo:
	/* Flushes; what iommu_map() did of the last run is undone already. */
	if (i) {
		iommu_unmap(d->domain, iova, i * PAGE_SIZE);
		shadow_count(d->vs->counters.flushes, 1);
	}
	return ret;
}

/*
 * Clear waiting leaves to make room for another.  They stay in the tree until that is
 * a fact.
 */
static void shadow_clear_range(struct viommu_shadow_domain *d, u64 first, u64 last)
{
	struct viommu_shadow_leaf *leaf;

	for (leaf = shadow_find(d, first); leaf && leaf->iova <= last;
	     leaf = shadow_after(leaf))
		shadow_clear(d->vs, &d->vs->queue[leaf->waiting - 1]);
}

/* Take waiting leaves, which are cleared, out of the tree, where @new is to be. */
static void shadow_make_room(struct viommu_shadow_domain *d,
			     struct viommu_shadow_leaf *new)
{
	u64 last = shadow_leaf_last(new);
	struct viommu_shadow_leaf *leaf;

	while ((leaf = shadow_find(d, new->iova)) && leaf->iova <= last) {
		rb_erase(&leaf->node, &d->leaves);
		RB_CLEAR_NODE(&leaf->node);
		/*
		 * IOTLBs may have the old translation still.  In the strict policy,
		 * whoever unmapped the old leaf syncs before it tells the guest.
		 */
		if (d->vs->teardown != VIOMMU_SHADOW_STRICT)
			d->vs->stale = true;
	}
}

/* Is there a leaf that waits, untouched, and is what is to be mapped? */
static bool shadow_revive(struct viommu_shadow_domain *d, u64 iova,
			  unsigned int order, unsigned int prot, u64 cookie)
{
	struct viommu_shadow_leaf *leaf = shadow_find(d, iova);
	struct viommu_shadow *vs = d->vs;
	struct shadow_waiter *w;

	if (!leaf || !leaf->waiting || leaf->iova != iova || leaf->order != order ||
	    leaf->prot != prot || leaf->cookie != cookie)
		return false;

	w = &vs->queue[leaf->waiting - 1];
	if (w->cleared)
		return false;

	w->leaf = NULL;
	vs->nr_waiting--;
	leaf->waiting = 0;
	shadow_count(vs->counters.reused, 1);
	return true;
}

static int __shadow_map(struct viommu_shadow_domain *d, u64 iova, unsigned int order,
			unsigned long hva, unsigned int prot, u64 cookie)
{
	unsigned long npages = 1UL << order;
	struct viommu_shadow *vs = d->vs;
	struct viommu_shadow_leaf *leaf;
	struct page *page, **pages;
	u64 last;
	int ret;

	last = iova + npages * PAGE_SIZE - 1;
	if (last > d->last_iova)
		return -ERANGE;

	if (current->mm != vs->mm)
		return -ESRCH;

	for (leaf = shadow_find(d, iova); leaf && leaf->iova <= last;
	     leaf = shadow_after(leaf)) {
		if (WARN_ON_ONCE(!leaf->waiting))
			return -EEXIST;
	}

	/* May free leaves that wait. */
	ret = shadow_account(vs, npages);
	if (ret)
		return ret;

	ret = -ENOMEM;
	leaf = kmem_cache_zalloc(shadow_leaf_cache, GFP_KERNEL_ACCOUNT);
	if (!leaf)
		goto err_account;

	pages = &page;
	if (order) {
		pages = kmalloc_array(npages, sizeof(*pages), GFP_KERNEL_ACCOUNT);
		if (!pages)
			goto err_leaf;
	}

	ret = shadow_pin(hva, npages, prot, pages);
	if (ret)
		goto err_pages;

	leaf->iova = iova;
	leaf->cookie = cookie;
	leaf->order = order;
	leaf->prot = prot;

	if (vs->nr_waiting)
		shadow_clear_range(d, iova, last);
	if (order)
		shadow_forget_empty(d, iova);
	ret = shadow_map_pages(d, iova, prot, pages, npages);
	if (ret)
		goto err_pin;

	vs->pinned += npages;
	shadow_count(vs->counters.pinned, npages);
	leaf->scattered = shadow_run(pages, npages) != npages;
	if (leaf->scattered) {
		leaf->pages = pages;
	} else {
		leaf->page = pages[0];
		if (order)
			kfree(pages);
	}
	if (vs->nr_waiting)
		shadow_make_room(d, leaf);
	shadow_insert(d, leaf);
	return 0;

err_pin:
	/* Some may have been mapped for a moment. */
	unpin_user_pages_dirty_lock(pages, npages, prot & VIOMMU_SHADOW_WRITE);
err_pages:
	if (order)
		kfree(pages);
err_leaf:
	kmem_cache_free(shadow_leaf_cache, leaf);
err_account:
	shadow_trim_account(vs);
	return ret;
}

/*
 * Map memory at @hva of vs->mm, which has to be the current one.  It may sleep for as
 * long as it takes to fault the memory in.  Returns -EFAULT if there is no memory, or
 * none that is writable if @prot says so, or none that can be pinned; -ENOSPC if it
 * would exceed RLIMIT_MEMLOCK; -ENOMEM if it may work another time; -ERANGE if the
 * host's IOMMU cannot translate @iova; -EEXIST if there is a live leaf, which is the
 * owner's mistake.  In the optimistic policy the pages are those that @cookie stood
 * for when it was unmapped: call sync(vs, true) when it stands for others.
 */
static int shadow_map(struct viommu_shadow_domain *d, u64 iova, unsigned int order,
		      unsigned long hva, unsigned int prot, u64 cookie)
{
	struct viommu_shadow *vs = d->vs;
	int ret = 0;

	lockdep_assert_held(&vs->lock);

	if (WARN_ON_ONCE((order != VIOMMU_SHADOW_4K && order != VIOMMU_SHADOW_2M) ||
			 !IS_ALIGNED(iova, (u64)PAGE_SIZE << order) ||
			 !IS_ALIGNED(hva, PAGE_SIZE) || !prot))
		ret = -EINVAL;
	else if (!shadow_revive(d, iova, order, prot, cookie))
		ret = __shadow_map(d, iova, order, hva, prot, cookie);

	shadow_count(ret ? vs->counters.map_errors : vs->counters.maps, 1);
	return ret;
}

/* The guest does not map @leaf any more.  It must not be used hereafter. */
static void shadow_unmap(struct viommu_shadow_domain *d,
			 struct viommu_shadow_leaf *leaf)
{
	struct viommu_shadow *vs = d->vs;

	lockdep_assert_held(&vs->lock);

	if (WARN_ON_ONCE(leaf->waiting))
		return;

	shadow_count(vs->counters.unmaps, 1);
	shadow_enqueue(d, leaf, vs->teardown != VIOMMU_SHADOW_OPTIMISTIC);
}

/*
 * Can a device that is attached to @d reach memory at @iova, possibly because IOTLBs
 * are not flushed yet?  If so, @copy tells what is there; it has no links or pages.
 */
static bool shadow_reaches(struct viommu_shadow_domain *d, u64 iova,
			   struct viommu_shadow_leaf *copy)
{
	struct viommu_shadow *vs = d->vs;
	struct viommu_shadow_leaf *leaf;
	unsigned int i;

	lockdep_assert_held(&vs->lock);

	leaf = shadow_find(d, iova);
	if (leaf && leaf->iova <= iova)
		goto found;

	/* Of a large leaf, only a part may have been mapped over. */
	for (i = 0; i < vs->nr_queue; i++) {
		leaf = vs->queue[i].leaf;
		if (leaf && vs->queue[i].d == d && RB_EMPTY_NODE(&leaf->node) &&
		    leaf->iova <= iova && iova <= shadow_leaf_last(leaf))
			goto found;
	}
	return false;

found:
	*copy = *leaf;
	RB_CLEAR_NODE(&copy->node);
	copy->pages = NULL;
	copy->scattered = false;
	return true;
}

/*
 * Domains
 */

/*
 * The host's IOMMU blocked an access.  @token is the shadow, which may be gone by now:
 * a driver may have decided on @domain before the device was detached from it.  Hence
 * look for the device, which is not freed before its readers are done.
 */
static int shadow_fault(struct iommu_domain *domain, struct device *dev,
			unsigned long iova, int flags, void *token)
{
	struct viommu_shadow_device *sd;

	rcu_read_lock();
	list_for_each_entry_rcu(sd, &shadow_devices, all) {
		if (sd->dev != dev || sd->vs != token)
			continue;

		sd->vs->ops->fault(sd->vs->owner, sd->cookie, iova,
				   flags & IOMMU_FAULT_WRITE);
		break;
	}
	rcu_read_unlock();
	/* It is the guest's, nothing for the host's log. */
	return 0;
}

static struct iommu_domain *shadow_alloc_domain(struct viommu_shadow_device *sd)
{
	struct iommu_domain *domain = iommu_paging_domain_alloc(sd->dev);

	if (!IS_ERR(domain))
		iommu_set_fault_handler(domain, shadow_fault, sd->vs);
	return domain;
}

/*
 * The highest address that a device's IOMMU translates.  Intel's driver does not know
 * for whom it allocates a domain, and says what it could be at most; see how
 * prepare_domain_attach_device() of it finds out.  AMD's translates all.
 */
static u64 shadow_last_iova(struct viommu_shadow_device *sd, struct iommu_domain *domain)
{
	const struct iommu_ops *ops = sd->dev->iommu->iommu_dev->ops;
	/* So that the size of any range fits. */
	u64 last = min_t(u64, domain->geometry.aperture_end, S64_MAX);
	struct iommu_hw_info_vtd *vtd;
	unsigned int width, levels;
	u32 length, type;

	if (!ops->hw_info)
		return last;

	vtd = ops->hw_info(sd->dev, &length, &type);
	if (IS_ERR(vtd))
		return last;

	sd->is_vtd = type == IOMMU_HW_INFO_TYPE_INTEL_VTD;
	if (sd->is_vtd) {
		/* MGAW, but no more than page tables of the most levels cover. */
		width = FIELD_GET(VTD_CAP_MGAW, vtd->cap_reg) + 1;
		levels = fls(FIELD_GET(VTD_CAP_SAGAW, vtd->cap_reg)) + 1;
		width = min(width, 12 + 9 * levels);
		/* Levels may be those of both stages; the first is canonical. */
		if (vtd->ecap_reg & VTD_ECAP_FLTS)
			width = min(width,
				    vtd->ecap_reg & VTD_ECAP_SLTS ? 48U : 47U);
		last = min(last, BIT_ULL(width) - 1);
	}
	kfree(vtd);
	return last;
}

/* Does the device's VFIO group tell KVM that its DMA is always coherent? */
static bool shadow_wants_coherent(struct viommu_shadow_device *sd)
{
	return device_iommu_capable(sd->dev, IOMMU_CAP_ENFORCE_CACHE_COHERENCY);
}

/*
 * Attach a device to something else; @d is what @domain belongs to, if anything.  On
 * failure it remains attached to what it was.
 */
static int shadow_switch(struct viommu_shadow_device *sd, struct iommu_domain *domain,
			 struct viommu_shadow_domain *d)
{
	int ret;

	lockdep_assert_held(&sd->vs->lock);

	if (sd->attached == domain)
		return 0;

	ret = iommu_group_replace_domain(sd->group, domain);
	if (ret)
		return ret;

	sd->attached = domain;
	list_del_init(&sd->in_domain);
	if (d)
		list_add(&sd->in_domain, &d->devices);
	return 0;
}

/* Fails only if the host is in trouble. */
static int shadow_switch_to_blocking(struct viommu_shadow_device *sd)
{
	int ret = shadow_switch(sd, sd->blocking, NULL);

	if (ret)
		pr_err_ratelimited("%s cannot be blocked: %d\n",
				   dev_name(sd->dev), ret);
	return ret;
}

/* Keep what a device cannot be detached from.  Nothing is mapped there soon. */
static void shadow_abandon(struct viommu_shadow_device *sd,
			   struct viommu_shadow_domain *d)
{
	pr_err_ratelimited("%s keeps a domain\n", dev_name(sd->dev));
	d->stuck = true;
	list_del_init(&sd->in_domain);
}

/*
 * Attach a device to a domain.  If it fails, e.g. because their IOMMUs differ too much,
 * the device is blocked.
 */
static int shadow_attach(struct viommu_shadow_device *sd,
			 struct viommu_shadow_domain *d)
{
	struct viommu_shadow *vs = sd->vs;
	int ret = -EINVAL;

	if (WARN_ON_ONCE(d->vs != vs))
		return -EINVAL;

	mutex_lock(&vs->lock);
	/* Of such a device KVM believes it, see vfio_group_enforced_coherent(). */
	if (d->enforced_coherent || !shadow_wants_coherent(sd))
		ret = shadow_switch(sd, d->domain, d);
	if (ret)
		shadow_switch_to_blocking(sd);
	else
		d->last_iova = min(d->last_iova, sd->last_iova);
	mutex_unlock(&vs->lock);
	return ret;
}

/* Let a device access nothing. */
static int shadow_block(struct viommu_shadow_device *sd)
{
	struct viommu_shadow *vs = sd->vs;
	int ret;

	mutex_lock(&vs->lock);
	ret = shadow_switch_to_blocking(sd);
	mutex_unlock(&vs->lock);
	return ret;
}

/* Let a device access what the VMM mapped, as if there was no shadow. */
static int shadow_give_back(struct viommu_shadow_device *sd)
{
	struct viommu_shadow *vs = sd->vs;
	int ret;

	mutex_lock(&vs->lock);
	ret = shadow_switch(sd, sd->original, NULL);
	mutex_unlock(&vs->lock);
	return ret;
}

static struct viommu_shadow_domain *
shadow_domain_create(struct viommu_shadow_device *sd)
{
	struct viommu_shadow *vs = sd->vs;
	struct viommu_shadow_domain *d;
	int ret;

	d = kzalloc(sizeof(*d), GFP_KERNEL_ACCOUNT);
	if (!d)
		return ERR_PTR(-ENOMEM);

	d->domain = shadow_alloc_domain(sd);
	if (IS_ERR(d->domain)) {
		ret = PTR_ERR(d->domain);
		goto err_free;
	}

	ret = -EOPNOTSUPP;
	if (!(d->domain->pgsize_bitmap & PAGE_SIZE))
		goto err_domain;

	/* Before anything is mapped, as VT-d wants it. */
	if (shadow_wants_coherent(sd)) {
		if (!d->domain->ops->enforce_cache_coherency ||
		    !d->domain->ops->enforce_cache_coherency(d->domain))
			goto err_domain;
		d->enforced_coherent = true;
	}
	if (device_iommu_capable(sd->dev, IOMMU_CAP_CACHE_COHERENCY))
		d->prot = IOMMU_CACHE;

	d->vs = vs;
	d->frees_tables = sd->is_vtd;
	d->last_iova = sd->last_iova;
	d->leaves = RB_ROOT;
	INIT_LIST_HEAD(&d->devices);
	INIT_LIST_HEAD(&d->dirty);
	iommu_iotlb_gather_init(&d->gather);

	mutex_lock(&vs->lock);
	list_add(&d->node, &vs->domains);
	mutex_unlock(&vs->lock);
	return d;

err_domain:
	iommu_domain_free(d->domain);
err_free:
	kfree(d);
	return ERR_PTR(ret);
}

/*
 * Destroy a domain, with whatever is mapped.  Devices that are attached to it are
 * blocked.  This takes time for each leaf; others get the lock every now and then.
 */
static void shadow_domain_destroy(struct viommu_shadow_domain *d)
{
	struct viommu_shadow_leaf *leaf, *next;
	struct viommu_shadow_device *sd, *tmp;
	struct viommu_shadow *vs = d->vs;
	unsigned int i;

	mutex_lock(&vs->lock);
	list_for_each_entry_safe(sd, tmp, &d->devices, in_domain) {
		if (shadow_switch_to_blocking(sd))
			shadow_abandon(sd, d);
	}

	for (i = 0; i < vs->nr_queue; i++) {
		if (vs->queue[i].leaf && vs->queue[i].d == d)
			shadow_clear(vs, &vs->queue[i]);
	}
	shadow_flush(vs);

	/* Whatever the policy is.  The owner does not add to it meanwhile. */
	while ((leaf = shadow_first(d, 0))) {
		for (i = 0; leaf && i < SHADOW_MAX_WAITING / 2; i++) {
			next = shadow_next(d, leaf);
			shadow_count(vs->counters.unmaps, 1);
			shadow_enqueue(d, leaf, true);
			leaf = next;
		}
		shadow_flush(vs);
		mutex_unlock(&vs->lock);
		cond_resched();
		mutex_lock(&vs->lock);
	}
	list_del(&d->node);
	mutex_unlock(&vs->lock);

	if (!d->stuck)
		iommu_domain_free(d->domain);
	kfree(d);
}

/*
 * Devices
 */

static bool shadow_is_vfio_group(struct file *file)
{
	bool (*fn)(struct file *file);
	bool ret;

	fn = symbol_get(vfio_file_is_group);
	if (!fn)
		return false;

	ret = fn(file);

	symbol_put(vfio_file_is_group);

	return ret;
}

static bool shadow_group_has(struct file *group, struct vfio_device *vdev)
{
	bool (*fn)(struct file *file, struct vfio_device *device);
	bool ret;

	fn = symbol_get(vfio_file_has_dev);
	if (!fn)
		return false;

	ret = fn(group, vdev);

	symbol_put(vfio_file_has_dev);

	return ret;
}

struct shadow_open {
	struct work_struct work;
	struct mm_struct *mm;
	struct file *group;
	const char __user *name;
	struct file *device;
};

static void shadow_open_work(struct work_struct *work)
{
	struct shadow_open *o = container_of(work, struct shadow_open, work);
	long fd;

	/* VFIO reads the name. */
	kthread_use_mm(o->mm);
	fd = vfs_ioctl(o->group, VFIO_GROUP_GET_DEVICE_FD, (unsigned long)o->name);
	kthread_unuse_mm(o->mm);
	if (fd < 0) {
		o->device = ERR_PTR(fd);
		return;
	}

	o->device = fget(fd);
	close_fd(fd);
	if (!o->device)
		o->device = ERR_PTR(-EBADF);
}

/*
 * Open a device once more, besides the VMM.  VFIO counts open devices as users of the
 * group's container, and lets them pin the group's file: while a device is open the
 * group can neither be taken out of its container, VFIO_GROUP_UNSET_CONTAINER fails,
 * nor be closed.  So the container's domain and its hold on the device's DMA stay.
 * They also do until the last close, wherefore the VMM has to remove the device from
 * the shadow before it can expect a driver to be unbound from it.
 *
 * VFIO gives open devices out as file descriptors only.  In the VMM's table another
 * thread could put something else in its place before it is looked up; so ask from
 * a worker, where it ends up in the kernel's table, which user space has no access
 * to.
 */
static struct file *shadow_open_device(struct viommu_shadow *vs, struct file *group,
				       const char __user *name)
{
	struct shadow_open o = {
		.mm = vs->mm,
		.group = group,
		.name = name,
	};

	INIT_WORK_ONSTACK(&o.work, shadow_open_work);
	queue_work(system_unbound_wq, &o.work);
	flush_work(&o.work);
	destroy_work_on_stack(&o.work);
	return o.device;
}

static int shadow_is_vfio_dev(struct device *dev, void *data)
{
	return dev->class && !strcmp(dev->class->name, "vfio-dev");
}

/*
 * Find the struct device of an open device, by its name.  VFIO has read the name
 * before, and the VMM may have changed it since.  So check that the group, not just
 * any group, has a device of that name; if the group has one device only then it is
 * that which is open, and which therefore stays.
 *
 * VFIO does not tell which IOMMU group is behind a file, except on POWER.
 */
static struct device *shadow_find_device(struct file *group, const char __user *name)
{
	struct device *dev, *child;
	bool found = false;
	char *buf;

	buf = strndup_user(name, PAGE_SIZE);
	if (IS_ERR(buf))
		return ERR_CAST(buf);

	/* Options of vfio-pci may follow. */
	buf[strcspn(buf, " ")] = '\0';
	dev = bus_find_device_by_name(&pci_bus_type, NULL, buf);
	kfree(buf);
	if (!dev)
		return ERR_PTR(-ENODEV);

	child = device_find_child(dev, NULL, shadow_is_vfio_dev);
	if (child) {
		found = shadow_group_has(group, container_of(child,
							     struct vfio_device,
							     device));
		put_device(child);
	}
	if (!found) {
		put_device(dev);
		return ERR_PTR(-ENODEV);
	}
	return dev;
}

static int shadow_count_device(struct device *dev, void *data)
{
	++*(unsigned int *)data;
	return 0;
}

/* A second shadow would take the domains of the first for the container's. */
static int shadow_list_device(struct viommu_shadow_device *sd)
{
	struct viommu_shadow_device *other;
	int ret = 0;

	mutex_lock(&shadow_devices_lock);
	list_for_each_entry(other, &shadow_devices, all) {
		if (other->dev == sd->dev)
			ret = -EEXIST;
	}
	if (!ret)
		list_add_rcu(&sd->all, &shadow_devices);
	mutex_unlock(&shadow_devices_lock);
	return ret;
}

/* On return shadow_fault() neither uses @sd nor is going to. */
static void shadow_unlist_device(struct viommu_shadow_device *sd)
{
	mutex_lock(&shadow_devices_lock);
	list_del_rcu(&sd->all);
	mutex_unlock(&shadow_devices_lock);
	synchronize_rcu();
}

/* Find out about a device that is open, and let nobody else have it. */
static int shadow_init_device(struct viommu_shadow_device *sd)
{
	struct iommu_domain *domain;
	unsigned int n = 0;
	int ret;

	sd->group = iommu_group_get(sd->dev);
	if (!sd->group)
		return -EINVAL;

	/* What is done to the device is done to all of its group. */
	iommu_group_for_each_dev(sd->group, &n, shadow_count_device);
	ret = -EBUSY;
	if (n != 1)
		goto err_group;

	ret = shadow_list_device(sd);
	if (ret)
		goto err_group;

	/*
	 * Not before the device is open and no other shadow can have it: from now on
	 * nobody else changes what it is attached to.
	 */
	ret = -EINVAL;
	domain = iommu_get_domain_for_dev(sd->dev);
	if (!domain || domain->type != IOMMU_DOMAIN_UNMANAGED ||
	    !iommu_group_dma_owner_claimed(sd->group))
		goto err_list;

	sd->original = domain;
	sd->attached = domain;

	/* In advance, so that there is memory to block the device with. */
	sd->blocking = shadow_alloc_domain(sd);
	if (IS_ERR(sd->blocking)) {
		ret = PTR_ERR(sd->blocking);
		goto err_list;
	}

	sd->last_iova = shadow_last_iova(sd, sd->blocking);
	return 0;

err_list:
	shadow_unlist_device(sd);
err_group:
	iommu_group_put(sd->group);
	return ret;
}

/*
 * Put a device behind the shadow: @name, as in VFIO_GROUP_GET_DEVICE_FD, in the VFIO
 * group @group_fd, which has to be in a container.  It stays attached to the
 * container's domain for the time being.  @device is for ops->fault().
 *
 * As long as it is behind the shadow the device is open, which implies that VFIO may
 * hold a reference to the VM.  An owner that is part of a VM must therefore call
 * del_device() when its file is closed; it would wait forever for the VM to be
 * destroyed.
 *
 * Returns -EBADF or -EINVAL if it is not a group or not in a container that has an
 * IOMMU, -ENODEV if there is no such PCI device in it, -EBUSY if there are others in
 * it, -EEXIST if the device is behind a shadow already, and errors of VFIO.
 */
static struct viommu_shadow_device *
shadow_add_device(struct viommu_shadow *vs, int group_fd, const char __user *name,
		  void *device)
{
	struct viommu_shadow_device *sd;
	struct file *group;
	int ret;

	if (current->mm != vs->mm)
		return ERR_PTR(-ESRCH);

	sd = kzalloc(sizeof(*sd), GFP_KERNEL_ACCOUNT);
	if (!sd)
		return ERR_PTR(-ENOMEM);

	sd->vs = vs;
	sd->cookie = device;
	INIT_LIST_HEAD(&sd->in_domain);

	ret = -EBADF;
	group = fget(group_fd);
	if (!group)
		goto err_free;

	ret = -EINVAL;
	if (!shadow_is_vfio_group(group))
		goto err_put;

	sd->file = shadow_open_device(vs, group, name);
	if (IS_ERR(sd->file)) {
		ret = PTR_ERR(sd->file);
		goto err_put;
	}

	sd->dev = shadow_find_device(group, name);
	if (IS_ERR(sd->dev)) {
		ret = PTR_ERR(sd->dev);
		goto err_close;
	}

	ret = shadow_init_device(sd);
	if (ret)
		goto err_dev;

	/* The open device holds the group. */
	fput(group);

	mutex_lock(&vs->lock);
	list_add(&sd->node, &vs->devices);
	mutex_unlock(&vs->lock);
	return sd;

err_dev:
	put_device(sd->dev);
err_close:
	fput(sd->file);
err_put:
	fput(group);
err_free:
	kfree(sd);
	return ERR_PTR(ret);
}

/* Give a device back for good.  ops->fault() is not called for it hereafter. */
static void shadow_del_device(struct viommu_shadow_device *sd)
{
	struct viommu_shadow *vs = sd->vs;
	struct viommu_shadow_domain *d;

	mutex_lock(&vs->lock);
	if (shadow_switch(sd, sd->original, NULL)) {
		pr_err_ratelimited("%s cannot be given back\n", dev_name(sd->dev));
		/* VFIO detaches it from whatever it is attached to, later. */
		shadow_switch_to_blocking(sd);
	}
	list_for_each_entry(d, &vs->domains, node) {
		if (d->domain == sd->attached)
			shadow_abandon(sd, d);
	}
	list_del(&sd->node);
	mutex_unlock(&vs->lock);

	shadow_unlist_device(sd);
	if (sd->attached != sd->blocking)
		iommu_domain_free(sd->blocking);
	iommu_group_put(sd->group);
	put_device(sd->dev);
	/* Closes it, but not here: that takes VFIO's locks. */
	fput(sd->file);
	kfree(sd);
}

/* The highest address that can be mapped for a device. */
static u64 shadow_aperture(struct viommu_shadow_device *sd)
{
	return sd->last_iova;
}

/*
 * The shadow
 */

/*
 * Create a shadow which maps memory of @mm.  Pages are accounted to it, within the
 * limit of the caller's process, unless the caller may exceed it.
 */
static struct viommu_shadow *
shadow_create(struct mm_struct *mm, enum viommu_shadow_teardown teardown,
	      const struct viommu_shadow_counters *counters,
	      const struct viommu_shadow_ops *ops, void *owner)
{
	struct viommu_shadow *vs;

	vs = kzalloc(sizeof(*vs), GFP_KERNEL_ACCOUNT);
	if (!vs)
		return ERR_PTR(-ENOMEM);

	vs->queue = kvcalloc(SHADOW_QUEUE_SIZE, sizeof(*vs->queue),
			     GFP_KERNEL_ACCOUNT);
	if (!vs->queue) {
		kfree(vs);
		return ERR_PTR(-ENOMEM);
	}

	mmgrab(mm);
	vs->mm = mm;
	vs->task = get_task_struct(current->group_leader);
	vs->lock_cap = capable(CAP_IPC_LOCK);
	vs->teardown = teardown;
	vs->counters = *counters;
	vs->ops = ops;
	vs->owner = owner;
	mutex_init(&vs->lock);
	INIT_DELAYED_WORK(&vs->work, shadow_work);
	INIT_LIST_HEAD(&vs->devices);
	INIT_LIST_HEAD(&vs->domains);
	INIT_LIST_HEAD(&vs->dirty);
	return vs;
}

/* Destroy a shadow which has neither devices nor domains. */
static void shadow_destroy(struct viommu_shadow *vs)
{
	/* Better to leak it than what devices may still reach. */
	if (WARN_ON_ONCE(!list_empty(&vs->devices) || !list_empty(&vs->domains)))
		return;

	/* Domains took all leaves with them, so it does not queue itself again. */
	cancel_delayed_work_sync(&vs->work);
	shadow_uncharge(vs, vs->accounted);
	put_task_struct(vs->task);
	mmdrop(vs->mm);
	kvfree(vs->queue);
	kfree(vs);
}

/*
 * add_device() and map() are for the process whose memory it is.  first() to reaches()
 * need the lock, see lock() and unlock(); the others take it.
 */
const struct viommu_shadow_api viommu_shadow_api = {
	.create = shadow_create,
	.destroy = shadow_destroy,
	.add_device = shadow_add_device,
	.del_device = shadow_del_device,
	.aperture = shadow_aperture,
	.domain_create = shadow_domain_create,
	.domain_destroy = shadow_domain_destroy,
	.attach = shadow_attach,
	.block = shadow_block,
	.give_back = shadow_give_back,
	.lock = shadow_lock,
	.unlock = shadow_unlock,
	.first = shadow_first,
	.next = shadow_next,
	.map = shadow_map,
	.unmap = shadow_unmap,
	.sync = shadow_sync,
	.reaches = shadow_reaches,
};
EXPORT_SYMBOL_GPL(viommu_shadow_api);

static int __init viommu_shadow_init(void)
{
	/* There is one for each page that is mapped, and a pointer to a cgroup. */
	BUILD_BUG_ON(sizeof(struct viommu_shadow_leaf) + sizeof(void *) > 64);
	/* viommu_shadow_leaf.waiting */
	BUILD_BUG_ON(SHADOW_QUEUE_SIZE > U16_MAX);

	shadow_leaf_cache = kmem_cache_create("viommu_shadow_leaf",
					      sizeof(struct viommu_shadow_leaf), 0,
					      SLAB_ACCOUNT, NULL);
	return shadow_leaf_cache ? 0 : -ENOMEM;
}

static void __exit viommu_shadow_exit(void)
{
	kmem_cache_destroy(shadow_leaf_cache);
}

module_init(viommu_shadow_init);
module_exit(viommu_shadow_exit);

MODULE_DESCRIPTION("Shadow domains for IOMMUs that a hypervisor emulates");
MODULE_LICENSE("GPL");
MODULE_IMPORT_NS(IOMMUFD_INTERNAL);
