// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: the Preventer's buffers, for pages that guests overwrite.
 *
 * A page of a RAM file is absent if its content is elsewhere: it is swapped out,
 * or a dropped alias.  If a guest overwrites all of it, reading it first is in
 * vain.  So KVM gives what the guest writes to an absent page to
 * kvm_vswap_write(), which keeps it in a buffer.  When all bytes of the buffer
 * are valid it becomes the page, and what was elsewhere is dropped unread.
 *
 * The content of a page is what shmem or the image has, with the valid bytes of
 * the page's buffer, if there is one, on top.  What is below may change its form
 * while there is a buffer: an alias can become shmem's because its block is about
 * to be written, and swap can be read in by swapoff.  But nobody can see it.  A
 * page that has a buffer is not mapped anywhere: it was not when it was absent,
 * and whoever maps it has to merge the buffer first.  All this is protected by
 * the lock of the page.
 *
 * Buffering ends without having been of use if the guest takes too long, or does
 * not write sequentially, or if anybody else accesses the page.  That costs more
 * than to read the page at once, so the more often it happens the more pages are
 * left alone.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitmap.h>
#include <linux/highmem.h>
#include <linux/ktime.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>

#include "internal.h"
#include "trace.h"
#include "vswap.h"

/* Where a write has to begin, or end, from the begin or end of the page. */
#define VSWAP_BUFFER_EDGE	64U

/* So many writes may be elsewhere than next to the one before. */
#define VSWAP_BUFFER_JUMPS	8U

/* A minute; much longer than of use, but for tests and debugging. */
#define VSWAP_MAX_US		(60U * USEC_PER_SEC)

/* Pages that are left alone after one was buffered in vain. */
#define VSWAP_MAX_BACKOFF	65536U

struct vswap_buffer {
	struct folio *folio;
	/* Who pays for the page if somebody else merges it. */
	struct mem_cgroup *memcg;
	/* When it began, in ns. */
	u64 begin;
	/* The last write, and how many were not next to the one before. */
	unsigned int offset;
	unsigned int len;
	unsigned int jumps;
	/* Merging it failed, and is up to who accesses the page. */
	bool failed;
	/* Bytes of the folio. */
	DECLARE_BITMAP(valid, PAGE_SIZE);
};

static bool vswap_preventer = true;
module_param(vswap_preventer, bool, 0644);
MODULE_PARM_DESC(vswap_preventer, "Do not read pages that guests overwrite, if vswap is on (default: Y)");

static int vswap_set_buffer_us(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, VSWAP_MAX_US);
}

static const struct kernel_param_ops vswap_buffer_us_ops = {
	.set = vswap_set_buffer_us,
	.get = param_get_uint,
};

static unsigned int vswap_buffer_us = 1000;
module_param_cb(vswap_buffer_us, &vswap_buffer_us_ops, &vswap_buffer_us, 0644);
MODULE_PARM_DESC(vswap_buffer_us, "Microseconds in which a guest has to overwrite a page piecemeal, up to 60000000, 0 to not wait for that (default: 1000)");

static int vswap_set_buffer_pages(const char *val,
				  const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, VSWAP_MAX_BUFFERS);
}

static const struct kernel_param_ops vswap_buffer_pages_ops = {
	.set = vswap_set_buffer_pages,
	.get = param_get_uint,
};

static unsigned int vswap_buffer_pages = 32;
module_param_cb(vswap_buffer_pages, &vswap_buffer_pages_ops,
		&vswap_buffer_pages, 0644);
MODULE_PARM_DESC(vswap_buffer_pages, "Pages of a RAM file that are overwritten piecemeal at a time, up to 1024 (default: 32)");

static int vswap_set_buffer_backoff(const char *val,
				    const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, VSWAP_MAX_BACKOFF);
}

static const struct kernel_param_ops vswap_buffer_backoff_ops = {
	.set = vswap_set_buffer_backoff,
	.get = param_get_uint,
};

static unsigned int vswap_buffer_backoff = 1024;
module_param_cb(vswap_buffer_backoff, &vswap_buffer_backoff_ops,
		&vswap_buffer_backoff, 0644);
MODULE_PARM_DESC(vswap_buffer_backoff, "Most pages that are not tried to be overwritten piecemeal after it was in vain, up to 65536, 0 to always try (default: 1024)");

/* The buffer of a page, as long as the page is locked. */
static struct vswap_buffer *vswap_buffer(struct vswap_ram *ram, pgoff_t index)
{
	return xa_load(&ram->buffers, index);
}

static void vswap_free_buffer(struct vswap_buffer *buffer)
{
	mem_cgroup_put(buffer->memcg);
	folio_put(buffer->folio);
	kfree(buffer);
}

/* Returns a buffer without content, or NULL. */
static struct vswap_buffer *vswap_add_buffer(struct vswap_ram *ram,
					     pgoff_t index)
{
	struct vswap_buffer *buffer;
	int ret;

	lockdep_assert_held(vswap_page_lock(ram, index));

	buffer = kzalloc(sizeof(*buffer), GFP_KERNEL_ACCOUNT);
	if (!buffer)
		return NULL;
	buffer->folio = folio_alloc(GFP_KERNEL_ACCOUNT, 0);
	if (!buffer->folio)
		goto free;
	buffer->memcg = get_mem_cgroup_from_mm(current->mm);
	buffer->begin = ktime_get_ns();
	down_write(&ram->huge_lock);
	ret = xa_insert(&ram->buffers, index, buffer, GFP_KERNEL_ACCOUNT);
	if (!ret)
		atomic_inc(&ram->nr_buffers);
	up_write(&ram->huge_lock);
	if (ret)
		goto put;
	return buffer;

put:
	mem_cgroup_put(buffer->memcg);
	folio_put(buffer->folio);
free:
	kfree(buffer);
	return NULL;
}

static void vswap_remove_buffer(struct vswap_ram *ram, pgoff_t index)
{
	struct vswap_buffer *buffer;

	lockdep_assert_held(vswap_page_lock(ram, index));

	buffer = xa_erase(&ram->buffers, index);
	atomic_dec(&ram->nr_buffers);
	vswap_free_buffer(buffer);
}

/* The content of a locked page does not matter any more. */
void vswap_drop_buffer(struct vswap_ram *ram, pgoff_t index)
{
	struct vswap_buffer *buffer = vswap_buffer(ram, index);

	if (buffer) {
		trace_kvm_vswap_buffer(index, VSWAP_BUFFER_DROP, 0);
		vswap_remove_buffer(ram, index);
	}
}

/* The same of pages which are not locked, up to and without @end. */
void vswap_drop_buffers(struct vswap_ram *ram, pgoff_t index, pgoff_t end)
{
	struct vswap_buffer *buffer;
	unsigned long key;

	if (!vswap_has_buffers(ram))
		return;
	xa_for_each_range(&ram->buffers, key, buffer, index, end - 1) {
		mutex_lock(vswap_page_lock(ram, key));
		vswap_drop_buffer(ram, key);
		mutex_unlock(vswap_page_lock(ram, key));
	}
}

/* Next time leave pages alone, the more the more often this happens. */
static void vswap_back_off(struct vswap_ram *ram)
{
	unsigned int backoff = READ_ONCE(ram->backoff);

	backoff = min(backoff ? backoff * 2 : 1,
		      READ_ONCE(vswap_buffer_backoff));
	WRITE_ONCE(ram->backoff, backoff);
	atomic_set(&ram->skip, backoff);
}

static void vswap_copy_valid(struct vswap_buffer *buffer, struct page *page)
{
	unsigned int first, end;

	for_each_set_bitrange(first, end, buffer->valid, PAGE_SIZE)
		memcpy_page(page, first, &buffer->folio->page, first,
			    end - first);
}

/*
 * Put the buffer of a locked page into the page, which is read for that.  On
 * failure the buffer stays.
 */
int vswap_merge_buffer(struct vswap_ram *ram, pgoff_t index)
{
	struct vswap_buffer *buffer = vswap_buffer(ram, index);
	struct folio *folio;
	int ret = 0;

	lockdep_assert_held(vswap_page_lock(ram, index));

	if (vswap_entry_is_alias(vswap_get_entry(ram, index))) {
		ret = vswap_end_alias(ram, index);
		if (ret)
			goto out;
		vswap_count(ram, VSWAP_BROKEN_BY_GUEST);
	}
	if (vswap_is_swapped(ram, index))
		vswap_count(ram, VSWAP_SWAP_FAULTS);

	ret = shmem_get_folio(ram->mapping->host, index, 0, &folio, SGP_CACHE);
	if (ret == -EINVAL) {
		/* Beyond the end of the file. */
		vswap_drop_buffer(ram, index);
		return 0;
	}
	if (ret)
		goto out;
	vswap_copy_valid(buffer, folio_file_page(folio, index));
	folio_mark_dirty(folio);
	folio_unlock(folio);
	folio_put(folio);

	/* It is not what is being written to a block any more. */
	vswap_clear_entry(ram, index);
	vswap_count(ram, VSWAP_BUFFER_MERGES);
	vswap_back_off(ram);
	vswap_remove_buffer(ram, index);
out:
	trace_kvm_vswap_buffer(index, VSWAP_BUFFER_MERGE, ret);
	return ret;
}

static u64 vswap_buffer_age(struct vswap_buffer *buffer)
{
	return ktime_get_ns() - buffer->begin;
}

static u64 vswap_buffer_max_age(void)
{
	return (u64)READ_ONCE(vswap_buffer_us) * NSEC_PER_USEC;
}

static void vswap_queue_buffers(struct vswap_ram *ram)
{
	unsigned int us = READ_ONCE(vswap_buffer_us);

	queue_delayed_work(system_unbound_wq, &ram->buffer_work,
			   usecs_to_jiffies(us) + 1);
}

/* Returns whether there is still a buffer to be merged later. */
static bool vswap_expire_buffer(struct vswap_ram *ram, pgoff_t index)
{
	struct mem_cgroup *memcg, *old_memcg;
	struct vswap_buffer *buffer;
	bool later = false;

	guard(mutex)(vswap_page_lock(ram, index));

	buffer = vswap_buffer(ram, index);
	if (!buffer || buffer->failed)
		return false;
	if (vswap_buffer_age(buffer) < vswap_buffer_max_age()) {
		later = true;
	} else {
		memcg = buffer->memcg;
		if (memcg)
			css_get(&memcg->css);
		old_memcg = set_active_memcg(memcg);
		/* It goes, unless that fails. */
		if (vswap_merge_buffer(ram, index))
			buffer->failed = true;
		set_active_memcg(old_memcg);
		mem_cgroup_put(memcg);
	}
	return later;
}

/*
 * Merge buffers whose time is over, while their guest goes on.  Swap is read
 * before the page is locked, so that the guest can still write to the buffer.
 * This is a read of shmem's only, so it does nothing if there is something else
 * by now.
 */
static void vswap_expire_buffers(struct work_struct *work)
{
	struct vswap_ram *ram = container_of(to_delayed_work(work),
					     struct vswap_ram, buffer_work);
	struct vswap_buffer *buffer;
	struct folio *folio;
	unsigned long index;
	bool later = false;

	xa_for_each(&ram->buffers, index, buffer) {
		mutex_lock(vswap_page_lock(ram, index));
		buffer = vswap_buffer(ram, index);
		if (!buffer || buffer->failed ||
		    vswap_buffer_age(buffer) < vswap_buffer_max_age()) {
			later |= buffer && !buffer->failed;
			mutex_unlock(vswap_page_lock(ram, index));
			continue;
		}
		mutex_unlock(vswap_page_lock(ram, index));

		if (vswap_is_swapped(ram, index) &&
		    !shmem_get_folio(ram->mapping->host, index, 0, &folio,
				     SGP_READ) && folio) {
			vswap_count(ram, VSWAP_SWAP_FAULTS);
			folio_unlock(folio);
			folio_put(folio);
		}
		later |= vswap_expire_buffer(ram, index);
		cond_resched();
	}
	if (later)
		vswap_queue_buffers(ram);
}

/* What a locked page was does not count, as all of it is overwritten. */
static void vswap_overwrite(struct vswap_ram *ram, pgoff_t index)
{
	lockdep_assert_held(vswap_page_lock(ram, index));

	vswap_drop_page(ram, index);
	if (vswap_entry_is_alias(vswap_get_entry(ram, index)))
		vswap_count(ram, VSWAP_BROKEN_BY_GUEST);
	vswap_clear_entry(ram, index);
	vswap_count(ram, VSWAP_FALSE_READS_AVOIDED);
	WRITE_ONCE(ram->backoff, READ_ONCE(ram->backoff) / 2);
}

/*
 * A locked page was cleared.  There is nothing then, which is what shmem has zeroes
 * for.  Linux clears pages that it is about to read a disk to, and those that it is
 * about to use; do as was right the last time.
 */
static void vswap_clear_page(struct vswap_ram *ram, pgoff_t index)
{
	struct folio *folio;
	int ret = 0;

	vswap_overwrite(ram, index);
	WRITE_ONCE(ram->last_cleared, index);
	if (READ_ONCE(ram->uses_cleared)) {
		ret = shmem_get_folio(ram->mapping->host, index, 0, &folio,
				      SGP_CACHE);
		if (!ret) {
			folio_unlock(folio);
			folio_put(folio);
		}
	}
	trace_kvm_vswap_buffer(index, VSWAP_BUFFER_COMPLETE, ret);
}

static bool vswap_is_zero(struct folio *folio)
{
	void *addr = kmap_local_folio(folio, 0);
	bool zero = !memchr_inv(addr, 0, PAGE_SIZE);

	kunmap_local(addr);
	return zero;
}

/*
 * All of a locked page is in its buffer.  What it was before goes first, as shmem
 * would read it; so until the page is there, its content is in the buffer only.
 * Failing is no error: whoever accesses the page next merges the buffer.
 */
static void vswap_complete_buffer(struct vswap_ram *ram, pgoff_t index,
				  struct vswap_buffer *buffer)
{
	int ret;

	if (vswap_is_zero(buffer->folio)) {
		vswap_remove_buffer(ram, index);
		vswap_clear_page(ram, index);
		return;
	}

	vswap_overwrite(ram, index);
	ret = vswap_fill_page(ram, index, buffer->folio);
	trace_kvm_vswap_buffer(index, VSWAP_BUFFER_COMPLETE, ret);
	if (ret)
		buffer->failed = true;
	else
		vswap_remove_buffer(ram, index);
}

/*
 * Whether the content of a page is elsewhere.  A huge page that was swapped out as
 * one would have to be read to drop a part of it, and can come back as one, which is
 * mapped as a whole.
 */
static bool vswap_is_absent(struct vswap_ram *ram, pgoff_t index)
{
	void *page = xa_load(&ram->mapping->i_pages, index);

	if (!page)
		return vswap_entry_is_alias(vswap_get_entry(ram, index));
	return xa_is_value(page) && !xa_get_order(&ram->mapping->i_pages, index);
}

/* Whether it looks as if all of a page was going to be overwritten. */
static bool vswap_is_promising(unsigned int offset, unsigned int len)
{
	return offset < VSWAP_BUFFER_EDGE ||
	       offset + len > PAGE_SIZE - VSWAP_BUFFER_EDGE;
}

static bool vswap_may_begin(struct vswap_ram *ram, unsigned int offset,
			    unsigned int len)
{
	if (!READ_ONCE(vswap_buffer_us) || !vswap_is_promising(offset, len))
		return false;
	if (atomic_read(&ram->nr_buffers) >= READ_ONCE(vswap_buffer_pages))
		return false;
	return atomic_dec_if_positive(&ram->skip) < 0;
}

static bool vswap_may_go_on(struct vswap_buffer *buffer, unsigned int offset,
			    unsigned int len)
{
	if (vswap_buffer_age(buffer) >= vswap_buffer_max_age())
		return false;
	if (offset != buffer->offset + buffer->len &&
	    offset + len != buffer->offset)
		buffer->jumps++;
	return buffer->jumps <= VSWAP_BUFFER_JUMPS;
}

/* Returns 1 if the page is there now, 0 if it has a buffer, or an error. */
static int vswap_write(struct vswap_ram *ram, pgoff_t index,
		       unsigned int offset, const void *data, unsigned int len)
{
	struct vswap_buffer *buffer;
	bool whole = len == PAGE_SIZE;

	guard(mutex)(vswap_page_lock(ram, index));

	if (!vswap_is_absent(ram, index))
		return -EEXIST;

	buffer = vswap_buffer(ram, index);
	if (whole && (data == page_address(ZERO_PAGE(0)) ||
		      !memchr_inv(data, 0, PAGE_SIZE))) {
		/* Nothing has to be kept for it. */
		if (buffer)
			vswap_remove_buffer(ram, index);
		vswap_clear_page(ram, index);
		goto complete;
	}

	if (!buffer) {
		if (!whole && !vswap_may_begin(ram, offset, len))
			return -EAGAIN;
		buffer = vswap_add_buffer(ram, index);
		if (!buffer)
			return -ENOMEM;
		if (!whole) {
			vswap_count(ram, VSWAP_BUFFERED_PAGES);
			trace_kvm_vswap_buffer(index, VSWAP_BUFFER_BEGIN, 0);
			vswap_queue_buffers(ram);
		}
	} else if (!whole && !vswap_may_go_on(buffer, offset, len)) {
		return -EAGAIN;
	}

	memcpy_to_folio(buffer->folio, offset, data, len);
	bitmap_set(buffer->valid, offset, len);
	buffer->offset = offset;
	buffer->len = len;
	if (!whole)
		vswap_count(ram, VSWAP_BUFFERED_WRITES);
	if (!whole && !bitmap_full(buffer->valid, PAGE_SIZE))
		return 0;
	vswap_complete_buffer(ram, index, buffer);
complete:
	return xa_load(&ram->mapping->i_pages, index) ? 1 : 0;
}

/* The page of a RAM file that is mapped there; mmap_lock is held. */
static struct vswap_ram *vswap_hva_to_page(unsigned long hva, pgoff_t *index)
{
	struct vm_area_struct *vma = vma_lookup(current->mm, hva);

	if (!vma || !(vma->vm_flags & VM_WRITE))
		return NULL;
	*index = linear_page_index(vma, hva);
	return vswap_vma_to_ram(vma);
}

/* Is this memory of a RAM file? */
bool kvm_vswap_is_ram(unsigned long hva)
{
	struct vswap_ram *ram;
	pgoff_t index;

	mmap_read_lock(current->mm);
	ram = vswap_hva_to_page(hva, &index);
	mmap_read_unlock(current->mm);
	return ram;
}

/*
 * Map a page that is in the page cache, and some around it; or map it to write to, for
 * which an alias, if these are to end, gets a copy.  Nothing is read from a disk, unless
 * an alias is dropped just then.  Returns whether the page was there.
 */
bool kvm_vswap_map_cached(unsigned long hva, bool write, bool end_alias)
{
	unsigned int flags = FOLL_NOWAIT | (write ? FOLL_WRITE : 0);
	bool mapped = false;
	struct vswap_ram *ram;
	struct page *page;
	pgoff_t index;
	void *cached;

	mmap_read_lock(current->mm);
	ram = vswap_hva_to_page(hva, &index);
	cached = ram ? xa_load(&ram->mapping->i_pages, index) : NULL;
	if (cached && !xa_is_value(cached) &&
	    (!write || end_alias ||
	     !vswap_entry_is_alias(vswap_get_entry(ram, index))))
		mapped = get_user_pages(hva, 1, flags, &page) == 1;
	mmap_read_unlock(current->mm);
	if (mapped)
		put_page(page);
	return mapped;
}

/* Was this page an alias until now, as far as is known? */
bool kvm_vswap_has_ended(unsigned long hva)
{
	struct vswap_ram *ram;
	pgoff_t index;
	bool ended;

	mmap_read_lock(current->mm);
	ram = vswap_hva_to_page(hva, &index);
	ended = ram && READ_ONCE(ram->last_ended) == index;
	mmap_read_unlock(current->mm);
	return ended;
}

/*
 * Is it of use to find out what is to be written there, or to be read?  Only a
 * hint, as nothing is locked.
 */
bool kvm_vswap_want(unsigned long hva, bool write)
{
	struct vswap_ram *ram;
	bool want = false;
	pgoff_t index;

	if (!READ_ONCE(vswap_preventer))
		return false;

	mmap_read_lock(current->mm);
	ram = vswap_hva_to_page(hva, &index);
	if (ram && vswap_has_buffer(ram, index))
		want = true;
	else if (ram && write)
		want = vswap_is_promising(offset_in_page(hva), sizeof(u64)) &&
		       vswap_is_absent(ram, index);
	mmap_read_unlock(current->mm);
	return want;
}

/*
 * A guest writes to its memory, within a page.  Returns 1 if the page is in
 * memory now, and 0 if the bytes are in a buffer.  On an error nothing was
 * written, and the write has to take the normal path.
 *
 * The address space is locked, so that the write does not come after the memory
 * was unmapped.
 */
int kvm_vswap_write(unsigned long hva, const void *data, unsigned int len)
{
	struct vswap_ram *ram;
	int ret = -EFAULT;
	pgoff_t index;

	mmap_read_lock(current->mm);
	ram = vswap_hva_to_page(hva, &index);
	if (ram)
		ret = vswap_write(ram, index, offset_in_page(hva), data, len);
	mmap_read_unlock(current->mm);
	return ret;
}

/* A guest reads from its memory, within a page.  False: not all is buffered. */
bool kvm_vswap_read(unsigned long hva, void *data, unsigned int len)
{
	unsigned int offset = offset_in_page(hva);
	struct vswap_buffer *buffer;
	struct vswap_ram *ram;
	bool valid = false;
	pgoff_t index;

	mmap_read_lock(current->mm);
	ram = vswap_hva_to_page(hva, &index);
	if (ram && vswap_has_buffer(ram, index)) {
		mutex_lock(vswap_page_lock(ram, index));
		buffer = vswap_buffer(ram, index);
		valid = buffer &&
			find_next_zero_bit(buffer->valid, PAGE_SIZE, offset) >=
			offset + len;
		if (valid)
			memcpy_from_folio(data, buffer->folio, offset, len);
		mutex_unlock(vswap_page_lock(ram, index));
	}
	mmap_read_unlock(current->mm);
	return valid;
}

void vswap_init_buffers(struct vswap_ram *ram)
{
	xa_init_flags(&ram->buffers, XA_FLAGS_ACCOUNT);
	ram->last_cleared = ULONG_MAX;
	ram->last_ended = ULONG_MAX;
	INIT_DELAYED_WORK(&ram->buffer_work, vswap_expire_buffers);
}

/* A RAM file goes: nobody maps it. */
void vswap_free_buffers(struct vswap_ram *ram)
{
	vswap_drop_buffers(ram, 0, 0);
	cancel_delayed_work_sync(&ram->buffer_work);
	xa_destroy(&ram->buffers);
}
