// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: RAM files, which hold the memory of guests.
 *
 * A RAM file is a shmem file of which some pages are aliases of blocks of
 * images.  What the guest wrote is shmem's: swap-backed, and swapped by the
 * rules of shmem.  An alias is a clean page of the page cache that is not
 * swap-backed: it is on the LRU lists of files, and reclaim drops it without
 * I/O, also if there is no swap.  It is read again from the image when somebody
 * touches it.
 *
 * All access is by mappings, whose operations wrap shmem's.  As there is a
 * ->page_mkwrite(), pages are mapped read-only until they are written, and then
 * an alias is replaced by a copy, which is shmem's.
 *
 * What is replaced is taken out of the page cache in the same way as reclaim
 * does it, i.e. not if anybody else holds a reference to it, unless its content
 * does not matter any more.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/highmem.h>
#include <linux/memcontrol.h>
#include <linux/mman.h>
#include <linux/mount.h>
#include <linux/module.h>
#include <linux/psi.h>
#include <linux/sched/mm.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/statfs.h>
#include <linux/falloc.h>
#include <linux/vmstat.h>

#include "internal.h"
#include "trace.h"
#include "vswap.h"

/* shmem's operations, which ours wrap; set by whoever gets to know them. */
static const struct file_operations *shmem_fops;
static const struct vm_operations_struct *shmem_vm_ops;
static const struct vm_operations_struct vswap_vm_ops;

static struct vswap_ram *vswap_mapping_to_ram(struct address_space *mapping)
{
	return mapping->i_private_data;
}

/* The RAM file of a mapping, or NULL. */
struct vswap_ram *vswap_vma_to_ram(struct vm_area_struct *vma)
{
	if (vma->vm_ops != &vswap_vm_ops)
		return NULL;
	return vswap_mapping_to_ram(vma->vm_file->f_mapping);
}

/*
 * What a guest only reads stays an alias.  What it writes to becomes writable by a
 * fault of the vCPU, which nothing has to be read for any more.
 */
unsigned int __kvm_vswap_async_pf_flags(struct mm_struct *mm,
					unsigned long hva)
{
	struct vm_area_struct *vma = vma_lookup(mm, hva);

	return vma && vswap_vma_to_ram(vma) ? 0 : FOLL_WRITE;
}

struct folio *vswap_alloc_folio(struct vswap_ram *ram)
{
	return filemap_alloc_folio(mapping_gfp_mask(ram->mapping), 0);
}

bool vswap_is_swapped(struct vswap_ram *ram, pgoff_t index)
{
	return xa_is_value(xa_load(&ram->mapping->i_pages, index));
}

/* There is nothing beyond the end of a file, also where it is mapped. */
static bool vswap_is_beyond_end(struct vswap_ram *ram, pgoff_t index)
{
	loff_t size = i_size_read(ram->mapping->host);

	return index >= DIV_ROUND_UP_ULL(size, PAGE_SIZE);
}

/* Drop what shmem has of a locked page, or the folio of an alias, unread. */
void vswap_drop_page(struct vswap_ram *ram, pgoff_t index)
{
	loff_t pos = (loff_t)index << PAGE_SHIFT;

	lockdep_assert_held(vswap_page_lock(ram, index));

	if (xa_load(&ram->mapping->i_pages, index))
		shmem_truncate_range(ram->mapping->host, pos,
				     pos + PAGE_SIZE - 1);
}

/* Give a locked page, of which shmem has nothing, content of shmem's. */
int vswap_fill_page(struct vswap_ram *ram, pgoff_t index,
		    struct folio *content)
{
	struct folio *folio;
	int ret;

	lockdep_assert_held(vswap_page_lock(ram, index));

	ret = shmem_get_folio(ram->mapping->host, index, 0, &folio, SGP_CACHE);
	if (ret)
		return ret;
	copy_highpage(folio_file_page(folio, index), &content->page);
	folio_mark_dirty(folio);
	folio_unlock(folio);
	folio_put(folio);
	return 0;
}

/*
 * Put the folio of an alias into the page cache, from which it can be dropped
 * at any time.  It need not be there, so failing is no error.
 */
static void vswap_cache_alias(struct vswap_ram *ram, pgoff_t index,
			      struct folio *folio)
{
	lockdep_assert_held(vswap_page_lock(ram, index));

	folio_mark_uptodate(folio);
	if (!filemap_add_folio(ram->mapping, folio, index,
			       mapping_gfp_mask(ram->mapping)))
		folio_unlock(folio);
}

/*
 * Make a locked page, which is an alias, one of shmem's with the same content.
 * On failure it stays an alias.
 */
int vswap_end_alias(struct vswap_ram *ram, pgoff_t index)
{
	u64 entry = vswap_get_entry(ram, index);
	struct vswap_image *image = vswap_entry_to_image(ram->mnt, entry);
	struct folio *folio;
	struct bio_vec bvec;
	int ret;

	lockdep_assert_held(vswap_page_lock(ram, index));

	folio = filemap_lock_folio(ram->mapping, index);
	if (!IS_ERR(folio) && folio_test_hwpoison(folio)) {
		/* What the image has is good. */
		generic_error_remove_folio(ram->mapping, folio);
		folio_unlock(folio);
		folio_put(folio);
		folio = ERR_PTR(-ENOENT);
	}
	if (IS_ERR(folio)) {
		folio = vswap_alloc_folio(ram);
		if (!folio)
			return -ENOMEM;
		bvec_set_folio(&bvec, folio, PAGE_SIZE, 0);
		ret = vswap_need_blocks(ram, image, vswap_entry_block(entry),
					&bvec, 1);
		if (ret) {
			vswap_count(ram, VSWAP_IO_ERRORS);
			goto out;
		}
	} else {
		/* Mappings of it go, and cannot come back. */
		ret = generic_error_remove_folio(ram->mapping, folio);
		folio_unlock(folio);
		if (ret)
			goto out;
	}

	ret = vswap_fill_page(ram, index, folio);
	if (!ret)
		vswap_clear_entry(ram, index);
out:
	folio_put(folio);
	return ret;
}

/*
 * Make a page one of shmem's because the block that it is an alias of is about
 * to change; do nothing if it is not any more.
 */
int vswap_materialize(struct vswap_ram *ram, pgoff_t index, u64 entry)
{
	int ret = 0;

	guard(mutex)(vswap_page_lock(ram, index));

	if (vswap_get_entry(ram, index) == entry) {
		ret = vswap_end_alias(ram, index);
		if (!ret)
			vswap_count(ram, VSWAP_BROKEN_BY_WRITE);
		trace_kvm_vswap_break(index, entry, true, ret);
	}
	return ret;
}

/* A page did not become an alias, for the reason that an error tells. */
static void vswap_count_skipped(struct vswap_ram *ram, int err)
{
	switch (err) {
	case -EBUSY:
		vswap_count(ram, VSWAP_SKIPPED_PINNED);
		break;
	case -ENOSPC:
		vswap_count(ram, VSWAP_SKIPPED_SHARED);
		break;
	default:
		vswap_count(ram, VSWAP_SKIPPED_CONFLICT);
	}
}

/*
 * The content of a page is that of a block that was read to a folio, after the
 * sequence was sampled.  Whatever the page was before is dropped, unread if it
 * is not in memory, unless it is a part of a huge page, which is split.
 *
 * If the page cannot be an alias its content is copied.
 */
int vswap_install_block(struct vswap_ram *ram, pgoff_t index,
			struct folio *folio, struct vswap_image *image,
			u64 block, u32 seq)
{
	bool absent = false;
	struct folio *old;
	int ret;

	guard(mutex)(vswap_page_lock(ram, index));

	if (vswap_is_beyond_end(ram, index))
		return -EFAULT;

	vswap_drop_buffer(ram, index);
	if (READ_ONCE(ram->last_cleared) == index)
		WRITE_ONCE(ram->uses_cleared, false);
	old = filemap_get_folio(ram->mapping, index);
	if (IS_ERR(old)) {
		absent = vswap_is_swapped(ram, index) ||
			 vswap_entry_is_alias(vswap_get_entry(ram, index));
	} else {
		/* Pages are not pinned any more when they are not mapped. */
		if (folio_mapped(old))
			unmap_mapping_pages(ram->mapping, index, 1, false);
		if (!vswap_entry_is_alias(vswap_get_entry(ram, index)) &&
		    folio_maybe_dma_pinned(old)) {
			/*
			 * Somebody's device may write to the page, or to the
			 * huge page that it is a part of; keep the folio.
			 */
			folio_lock(old);
			if (old->mapping == ram->mapping) {
				copy_highpage(folio_file_page(old, index),
					      &folio->page);
				folio_mark_dirty(old);
				folio_unlock(old);
				folio_put(old);
				vswap_clear_entry(ram, index);
				vswap_count(ram, VSWAP_SKIPPED_PINNED);
				return 0;
			}
			folio_unlock(old);
		}
		folio_put(old);
	}

	vswap_clear_entry(ram, index);
	ret = vswap_set_alias(ram, index, image, block, &seq);
	vswap_drop_page(ram, index);
	if (!ret && xa_load(&ram->mapping->i_pages, index)) {
		/* A part of a huge page that somebody has a reference to. */
		vswap_clear_entry(ram, index);
		ret = -EBUSY;
	}
	if (!ret) {
		vswap_cache_alias(ram, index, folio);
		vswap_count(ram, VSWAP_ALIASED_BY_READ);
	} else {
		vswap_count_skipped(ram, ret);
		ret = vswap_fill_page(ram, index, folio);
	}
	if (absent)
		vswap_count(ram, VSWAP_STALE_READS_AVOIDED);
	return ret;
}

/*
 * A page that is mapped by the caller's process is about to be written to a
 * block.  Remember it, if it can become an alias of it.  The caller has to unmap
 * the page before the write begins.
 */
bool vswap_mark_pending(struct vswap_ram *ram, pgoff_t index,
			struct page *page, u64 entry)
{
	struct folio *folio;
	bool same;

	guard(mutex)(vswap_page_lock(ram, index));

	if (vswap_entry_is_alias(vswap_get_entry(ram, index)))
		return false;
	folio = filemap_get_folio(ram->mapping, index);
	if (IS_ERR(folio))
		return false;
	same = folio_file_page(folio, index) == page &&
	       !folio_test_large(folio);
	folio_put(folio);
	return same && vswap_set_pending(ram, index, entry);
}

/*
 * The page was unmapped after it was marked, and is pinned by the caller.  Who
 * else had a reference before could write to it unnoticed; who gets one from
 * here on to write faults first.
 */
void vswap_check_pending(struct vswap_ram *ram, pgoff_t index, u64 entry)
{
	struct folio *folio;

	guard(mutex)(vswap_page_lock(ram, index));

	if (vswap_get_entry(ram, index) != (entry | VSWAP_PENDING))
		return;
	folio = filemap_get_folio(ram->mapping, index);
	if (!IS_ERR(folio)) {
		/* Ours, and that of the page cache. */
		if (folio_ref_count(folio) > GUP_PIN_COUNTING_BIAS + 2) {
			vswap_clear_entry(ram, index);
			vswap_count(ram, VSWAP_SKIPPED_BUSY);
		}
		folio_put(folio);
	}
}

/*
 * Replace a folio of shmem's by one with the same content that is not
 * swap-backed.  Returns false if somebody holds a reference to it, who could
 * have written to it.  It is locked and referenced by the caller, and neither on
 * return.
 */
static bool vswap_replace_folio(struct vswap_ram *ram, pgoff_t index,
				struct folio *folio, struct folio *new)
{
	struct address_space *mapping = ram->mapping;

	lockdep_assert_held(vswap_page_lock(ram, index));

	if (folio_mapped(folio))
		unmap_mapping_pages(mapping, index, 1, false);
	if (folio_maybe_dma_pinned(folio)) {
		folio_unlock(folio);
		folio_put(folio);
		return false;
	}
	copy_highpage(&new->page, &folio->page);

	/*
	 * From here on reclaim can drop the folio, which is what is wanted.
	 * Who wrote to it by a reference makes it dirty before the reference is
	 * put; then it stays.
	 */
	folio_clear_dirty_for_io(folio);
	folio_unlock(folio);
	folio_put(folio);
	invalidate_mapping_pages(mapping, index, index);
	if (!xa_load(&mapping->i_pages, index))
		return true;

	/* It was not dropped, and nobody else puts anything there. */
	folio = filemap_lock_folio(mapping, index);
	if (IS_ERR(folio))
		return !xa_load(&mapping->i_pages, index);
	folio_mark_dirty(folio);
	folio_unlock(folio);
	folio_put(folio);
	return false;
}

/*
 * The write that vswap_mark_pending() was called for has ended, and the caller is
 * still the writer of the block.  If it wrote the page, and nobody has written to
 * the page since, the page is an alias of the block from now on.
 */
void vswap_finish_pending(struct vswap_ram *ram, pgoff_t index,
			  struct vswap_image *image, u64 block, bool written)
{
	struct folio *folio, *new;
	bool replaced;
	int ret;

	guard(mutex)(vswap_page_lock(ram, index));

	if (vswap_get_entry(ram, index) !=
	    (vswap_entry(image->id, block) | VSWAP_PENDING)) {
		vswap_count(ram, VSWAP_SKIPPED_CHANGED);
		return;
	}
	if (!written) {
		vswap_clear_entry(ram, index);
		return;
	}

	ret = vswap_set_alias(ram, index, image, block, NULL);
	if (ret) {
		vswap_clear_entry(ram, index);
		vswap_count_skipped(ram, ret);
		return;
	}

	folio = filemap_lock_folio(ram->mapping, index);
	if (IS_ERR(folio)) {
		/* Swapped out meanwhile, and not changed since. */
		vswap_drop_page(ram, index);
		vswap_count(ram, VSWAP_ALIASED_BY_WRITE);
		return;
	}

	new = folio_test_large(folio) || folio_test_hwpoison(folio) ?
	      NULL : vswap_alloc_folio(ram);
	if (!new) {
		folio_unlock(folio);
		folio_put(folio);
		replaced = false;
	} else {
		replaced = vswap_replace_folio(ram, index, folio, new);
	}
	if (replaced) {
		vswap_cache_alias(ram, index, new);
		vswap_count(ram, VSWAP_ALIASED_BY_WRITE);
	} else {
		vswap_clear_entry(ram, index);
		vswap_count(ram, VSWAP_SKIPPED_BUSY);
	}
	if (new)
		folio_put(new);
}

/* Faults */

/*
 * Do not hold locks of the address space while waiting, if the caller of the
 * fault handler can take them again.  Returns a reference that keeps the RAM
 * file then.
 */
static struct file *vswap_unlock_fault(struct vm_fault *vmf)
{
	struct file *file;

	if (!fault_flag_allow_retry_first(vmf->flags) ||
	    (vmf->flags & FAULT_FLAG_RETRY_NOWAIT))
		return NULL;
	file = get_file(vmf->vma->vm_file);
	release_fault_lock(vmf);
	return file;
}

/*
 * From here on memory is charged to the process that a mapping belongs to: not
 * everybody who faults is it.  What is returned is for vswap_end_charge().
 */
static struct mem_cgroup *vswap_charge_to(struct mm_struct *mm)
{
	return set_active_memcg(get_mem_cgroup_from_mm(mm));
}

static void vswap_end_charge(struct mem_cgroup *old)
{
	mem_cgroup_put(set_active_memcg(old));
}

/* The folio of an alias is in the page cache, the caller holds a reference. */
static vm_fault_t vswap_fault_cached(struct vm_fault *vmf, struct folio *folio)
{
	struct address_space *mapping = vmf->vma->vm_file->f_mapping;
	unsigned long pflags;
	struct file *file;

	if (!folio_trylock(folio)) {
		if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT) {
			folio_put(folio);
			return VM_FAULT_RETRY;
		}
		file = vswap_unlock_fault(vmf);
		/* It is being read, most likely. */
		psi_memstall_enter(&pflags);
		if (file)
			folio_wait_locked(folio);
		else
			folio_lock(folio);
		psi_memstall_leave(&pflags);
		if (file) {
			folio_put(folio);
			fput(file);
			return VM_FAULT_RETRY;
		}
	}
	if (folio->mapping != mapping || !folio_test_uptodate(folio)) {
		folio_unlock(folio);
		folio_put(folio);
		return 0;
	}
	vmf->page = folio_file_page(folio, vmf->pgoff);
	return VM_FAULT_LOCKED;
}

/*
 * A page that was dropped is needed.  The page is locked, and is unlocked here.
 */
static vm_fault_t vswap_fault_dropped(struct vm_fault *vmf,
				      struct vswap_ram *ram, u64 entry)
{
	struct vswap_image *image = vswap_entry_to_image(ram->mnt, entry);
	bool last = !fault_flag_allow_retry_first(vmf->flags);
	struct mm_struct *mm = vmf->vma->vm_mm;
	struct mem_cgroup *old_memcg;
	struct file *file = NULL;
	struct folio *folio;
	int ret = 0;

	old_memcg = vswap_charge_to(mm);
	folio = vswap_add_folio(ram, vmf->pgoff,
				mapping_gfp_mask(ram->mapping));
	kref_get(&image->kref);
	mutex_unlock(vswap_page_lock(ram, vmf->pgoff));

	if (folio) {
		vswap_count(ram, VSWAP_REFAULTS);
		file = vswap_unlock_fault(vmf);
		/* If many fail, one may not, which is all that is needed. */
		ret = vswap_read_cluster(ram, folio, image,
					 vswap_entry_block(entry),
					 last ? 1 : READ_ONCE(vswap_cluster),
					 mm);
		trace_kvm_vswap_refault(vmf->pgoff, entry, ret);
	}
	vswap_end_charge(old_memcg);
	vswap_image_put(image);

	if (!folio)
		return VM_FAULT_OOM;
	if (file) {
		fput(file);
		return VM_FAULT_RETRY | VM_FAULT_MAJOR;
	}
	return ret ? vmf_error(ret) : VM_FAULT_MAJOR;
}

/*
 * A page that is needed is being overwritten.  The page is locked, and is
 * unlocked here.
 */
static vm_fault_t vswap_fault_buffered(struct vm_fault *vmf,
				       struct vswap_ram *ram)
{
	struct mem_cgroup *old_memcg;
	struct file *file;
	int ret;

	old_memcg = vswap_charge_to(vmf->vma->vm_mm);
	file = vswap_unlock_fault(vmf);
	ret = vswap_merge_buffer(ram, vmf->pgoff);
	mutex_unlock(vswap_page_lock(ram, vmf->pgoff));
	vswap_end_charge(old_memcg);

	if (file) {
		fput(file);
		return VM_FAULT_RETRY | VM_FAULT_MAJOR;
	}
	return ret ? vmf_error(ret) : VM_FAULT_MAJOR;
}

/*
 * Whether shmem may make a huge page that covers a page.  It does if it has nothing of
 * any of those that this would cover.  There must not be aliases among them that were
 * dropped, nor pages of which a buffer has the content; ram->huge_lock keeps both from
 * appearing.  And it would be split soon if memory was short.
 */
static bool vswap_may_be_huge(struct vm_fault *vmf, struct vswap_ram *ram)
{
	BUILD_BUG_ON(PMD_SHIFT - PAGE_SHIFT != VSWAP_CHUNK_SHIFT);

	return !vswap_has_chunk(ram, vmf->pgoff) && !vswap_has_buffers(ram) &&
	       !vswap_is_beyond_end(ram, vmf->pgoff | (VSWAP_CHUNK_PAGES - 1)) &&
	       vswap_is_ample(ram, vmf->vma->vm_mm);
}

/*
 * A page that is shmem's is needed.  The page is locked.
 *
 * Shmem makes huge pages for a mapping that was advised to have some.  Where there
 * must not be any it is not asked in the name of a mapping.
 */
static vm_fault_t vswap_fault_shmem(struct vm_fault *vmf, struct vswap_ram *ram)
{
	struct mem_cgroup *old_memcg;
	struct folio *folio;
	vm_fault_t ret;
	bool huge;
	int err;

	if (!ram->mnt->huge || !(vmf->vma->vm_flags & VM_HUGEPAGE))
		return shmem_vm_ops->fault(vmf);

	if (!down_read_trylock(&ram->huge_lock)) {
		if (vmf->flags & FAULT_FLAG_RETRY_NOWAIT)
			return VM_FAULT_RETRY;
		down_read(&ram->huge_lock);
	}
	huge = vswap_may_be_huge(vmf, ram);
	if (huge)
		ret = shmem_vm_ops->fault(vmf);
	up_read(&ram->huge_lock);
	if (huge)
		return ret;

	ret = VM_FAULT_LOCKED;
	if (vswap_is_swapped(ram, vmf->pgoff)) {
		count_vm_event(PGMAJFAULT);
		ret |= VM_FAULT_MAJOR;
	}
	old_memcg = vswap_charge_to(vmf->vma->vm_mm);
	err = shmem_get_folio(ram->mapping->host, vmf->pgoff, 0, &folio,
			      SGP_CACHE);
	vswap_end_charge(old_memcg);
	if (err)
		return vmf_error(err);
	vmf->page = folio_file_page(folio, vmf->pgoff);
	return ret;
}

static vm_fault_t vswap_ram_fault(struct vm_fault *vmf)
{
	struct vswap_ram *ram = vswap_vma_to_ram(vmf->vma);
	struct mutex *lock = vswap_page_lock(ram, vmf->pgoff);
	bool nowait = vmf->flags & FAULT_FLAG_RETRY_NOWAIT;
	vm_fault_t ret, major = 0;
	struct vswap_image *image;
	struct folio *folio;
	struct file *file;
	u64 entry;

again:
	if (!mutex_trylock(lock)) {
		if (nowait)
			return VM_FAULT_RETRY;
		mutex_lock(lock);
	}

	if (vswap_has_buffer(ram, vmf->pgoff)) {
		if (nowait) {
			mutex_unlock(lock);
			return VM_FAULT_RETRY;
		}
		ret = vswap_fault_buffered(vmf, ram);
		major |= ret & VM_FAULT_MAJOR;
		ret &= ~VM_FAULT_MAJOR;
		if (!ret)
			goto again;
		return ret | major;
	}

	entry = vswap_get_entry(ram, vmf->pgoff);
	if (!vswap_entry_is_alias(entry)) {
		/* Not kept from becoming one after shmem looked. */
		if (vswap_is_swapped(ram, vmf->pgoff)) {
			if (nowait) {
				mutex_unlock(lock);
				return VM_FAULT_RETRY;
			}
			vswap_count(ram, VSWAP_SWAP_FAULTS);
		}
		if (READ_ONCE(ram->last_cleared) == vmf->pgoff)
			WRITE_ONCE(ram->uses_cleared, true);
		/* If shmem unlocks the address space, mappings can go. */
		file = get_file(vmf->vma->vm_file);
		ret = vswap_fault_shmem(vmf, ram);
		mutex_unlock(lock);
		fput(file);
		return ret | major;
	}
	/* Truncation is about to take it away. */
	if (vswap_is_beyond_end(ram, vmf->pgoff)) {
		mutex_unlock(lock);
		return VM_FAULT_SIGBUS;
	}

	folio = filemap_get_folio(ram->mapping, vmf->pgoff);
	if (!IS_ERR(folio)) {
		if (folio_test_readahead(folio)) {
			folio_clear_readahead(folio);
			image = vswap_entry_to_image(ram->mnt, entry);
			vswap_read_ahead(ram, image, vswap_entry_block(entry),
					 vmf->vma->vm_mm);
		}
		mutex_unlock(lock);
		ret = vswap_fault_cached(vmf, folio);
	} else if (nowait) {
		mutex_unlock(lock);
		ret = VM_FAULT_RETRY;
	} else {
		ret = vswap_fault_dropped(vmf, ram, entry);
		major |= ret & VM_FAULT_MAJOR;
		ret &= ~VM_FAULT_MAJOR;
	}
	if (!ret)
		goto again;
	return ret | major;
}

/*
 * Map what is in the page cache around a fault.  filemap_map_pages() counts all
 * that it maps at once as what the first folio is, memory of files or of shmem.
 * So it is called for pages of one kind at a time, which are locked so that they
 * stay that.  Nothing is waited for, and RCU is read-locked.
 */
static vm_fault_t vswap_ram_map_pages(struct vm_fault *vmf, pgoff_t start,
				      pgoff_t end)
{
	struct vswap_ram *ram = vswap_vma_to_ram(vmf->vma);
	vm_fault_t ret = 0;
	pgoff_t next;
	bool alias;

	/* All locks of a run differ. */
	end = min(end, start + VSWAP_LOCKS - 1);
	while (start <= end) {
		alias = false;
		for (next = start; next <= end; next++) {
			u64 entry;

			if (!mutex_trylock(vswap_page_lock(ram, next)))
				break;
			entry = vswap_get_entry(ram, next);
			if (next == start)
				alias = vswap_entry_is_alias(entry);
			if (vswap_entry_is_alias(entry) != alias ||
			    vswap_has_buffer(ram, next)) {
				mutex_unlock(vswap_page_lock(ram, next));
				break;
			}
		}
		if (next == start) {
			start++;
			continue;
		}
		ret |= filemap_map_pages(vmf, start, next - 1);
		for (; start < next; start++)
			mutex_unlock(vswap_page_lock(ram, start));
	}
	return ret;
}

/* Somebody is about to write to a page that is mapped read-only. */
static vm_fault_t vswap_ram_page_mkwrite(struct vm_fault *vmf)
{
	struct vswap_ram *ram = vswap_vma_to_ram(vmf->vma);
	struct folio *folio = page_folio(vmf->page);
	struct mem_cgroup *old_memcg;
	u64 entry;
	int ret;

	guard(mutex)(vswap_page_lock(ram, vmf->pgoff));

	entry = vswap_get_entry(ram, vmf->pgoff);
	if (vswap_entry_is_alias(entry)) {
		old_memcg = vswap_charge_to(vmf->vma->vm_mm);
		ret = vswap_end_alias(ram, vmf->pgoff);
		vswap_end_charge(old_memcg);
		if (!ret) {
			WRITE_ONCE(ram->last_ended, vmf->pgoff);
			vswap_count(ram, VSWAP_BROKEN_BY_GUEST);
		}
		trace_kvm_vswap_break(vmf->pgoff, entry, false, ret);
		/* There is another folio now. */
		return ret ? vmf_error(ret) : VM_FAULT_NOPAGE;
	}

	folio_lock(folio);
	if (folio->mapping != ram->mapping) {
		folio_unlock(folio);
		return VM_FAULT_NOPAGE;
	}
	/* It is not what is being written to a block any more. */
	vswap_clear_entry(ram, vmf->pgoff);
	folio_mark_dirty(folio);
	return VM_FAULT_LOCKED;
}

#ifdef CONFIG_NUMA
static int vswap_ram_set_policy(struct vm_area_struct *vma,
				struct mempolicy *policy)
{
	return shmem_vm_ops->set_policy(vma, policy);
}

static struct mempolicy *vswap_ram_get_policy(struct vm_area_struct *vma,
					      unsigned long addr,
					      pgoff_t *ilx)
{
	return shmem_vm_ops->get_policy(vma, addr, ilx);
}
#endif

static const struct vm_operations_struct vswap_vm_ops = {
	.fault		= vswap_ram_fault,
	.map_pages	= vswap_ram_map_pages,
	.page_mkwrite	= vswap_ram_page_mkwrite,
#ifdef CONFIG_NUMA
	.set_policy	= vswap_ram_set_policy,
	.get_policy	= vswap_ram_get_policy,
#endif
};

/* The shmem file */

/* Mappings of the shmem file are made by ours. */
static int vswap_shmem_mmap(struct file *file, struct vm_area_struct *vma)
{
	return -ENODEV;
}

/*
 * Pages are given back, by MADV_REMOVE or by fallocate() of the RAM file.  Only
 * whole ones: others would be zeroed in place by shmem.
 */
static long vswap_punch(struct vswap_ram *ram, int mode, loff_t offset,
			loff_t len)
{
	pgoff_t index = offset >> PAGE_SHIFT;
	pgoff_t end = (offset + len) >> PAGE_SHIFT;
	struct vswap_chunk *chunk;
	unsigned long key;

	if (mode != (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE))
		return -EOPNOTSUPP;
	if (!PAGE_ALIGNED(offset) || !PAGE_ALIGNED(len))
		return -EINVAL;

	xa_for_each_range(&ram->chunks, key, chunk, index >> VSWAP_CHUNK_SHIFT,
			  (end - 1) >> VSWAP_CHUNK_SHIFT) {
		pgoff_t i = max(index, chunk->index);
		pgoff_t last = min(end, chunk->index + VSWAP_CHUNK_PAGES);

		for (; i < last; i++) {
			if (!vswap_get_entry(ram, i))
				continue;
			mutex_lock(vswap_page_lock(ram, i));
			vswap_drop_page(ram, i);
			vswap_clear_entry(ram, i);
			mutex_unlock(vswap_page_lock(ram, i));
		}
		cond_resched();
	}
	/* None comes back beyond the end of the file: nothing is there. */
	vswap_drop_buffers(ram, index, end);
	return 0;
}

static long vswap_shmem_fallocate(struct file *file, int mode, loff_t offset,
				  loff_t len)
{
	struct vswap_ram *ram = vswap_mapping_to_ram(file->f_mapping);
	long ret;

	ret = vswap_punch(ram, mode, offset, len);
	if (!ret)
		ret = shmem_fops->fallocate(file, mode, offset, len);
	/* Pages that were being written to blocks then are not swapped out, but gone. */
	if (!ret)
		vswap_punch(ram, mode, offset, len);
	return ret;
}

/* Neither mappings nor the inode hold the shmem file any more. */
static int vswap_shmem_release(struct inode *inode, struct file *file)
{
	struct vswap_ram *ram = vswap_mapping_to_ram(file->f_mapping);
	struct vswap_mnt *mnt = ram->mnt;
	unsigned int i;

	vswap_ample_del(ram);
	vswap_wait_for_reads(ram);
	vswap_free_buffers(ram);
	vswap_free_chunks(ram);
	file->f_mapping->i_private_data = NULL;
	for (i = 0; i < VSWAP_LOCKS; i++)
		mutex_destroy(&ram->locks[i]);
	kvfree(ram);
	vswap_mnt_put(mnt);
	return 0;
}

static const struct file_operations vswap_shmem_file_operations = {
	.owner		= THIS_MODULE,
	.mmap		= vswap_shmem_mmap,
	.fallocate	= vswap_shmem_fallocate,
	.release	= vswap_shmem_release,
	.llseek		= noop_llseek,
};

/* Nobody opens the inode of shmem in another way, e.g. by map_files in /proc. */
static int vswap_shmem_open(struct inode *inode, struct file *file)
{
	return -ENXIO;
}

static const struct file_operations vswap_shmem_inode_fops = {
	.open		= vswap_shmem_open,
};

/*
 * Keep reclaim from leaving shadow entries where it dropped an alias, as shmem
 * would take them for swap entries.  Nothing else asks whether a mapping of
 * shmem is exiting.
 */
static void vswap_suppress_shadows(struct address_space *mapping)
{
	mapping_set_exiting(mapping);
}

/* Make the inode a RAM file of no size. */
int vswap_ram_init_inode(struct inode *inode, struct vswap_mnt *mnt)
{
	struct vswap_ram *ram;
	struct file *shmem;
	unsigned int i;

	ram = kvzalloc(sizeof(*ram), GFP_KERNEL_ACCOUNT);
	if (!ram)
		return -ENOMEM;

	shmem = shmem_file_setup_with_mnt(mnt->shmem, "kvm_vswap", 0,
					  VM_NORESERVE);
	if (IS_ERR(shmem)) {
		kvfree(ram);
		return vswap_shmem_error(PTR_ERR(shmem));
	}
	ram->shmem = shmem;
	ram->mapping = shmem->f_mapping;
	ram->mnt = mnt;
	xa_init_flags(&ram->chunks, XA_FLAGS_ACCOUNT);
	init_rwsem(&ram->huge_lock);
	vswap_init_buffers(ram);
	for (i = 0; i < VSWAP_LOCKS; i++)
		mutex_init(&ram->locks[i]);
	kref_get(&mnt->kref);
	vswap_ample_add(ram);

	vswap_suppress_shadows(ram->mapping);
	ram->mapping->i_private_data = ram;
	WRITE_ONCE(shmem_fops, shmem->f_op);
	/* What the user may do was decided when our file was opened. */
	file_inode(shmem)->i_flags |= S_PRIVATE;
	file_inode(shmem)->i_fop = &vswap_shmem_inode_fops;
	replace_fops(shmem, fops_get(&vswap_shmem_file_operations));

	VSWAP_I(inode)->ram = ram;
	inode->i_op = &vswap_ram_inode_operations;
	inode->i_fop = &vswap_ram_file_operations;
	return 0;
}

void vswap_ram_evict_inode(struct inode *inode)
{
	fput(VSWAP_I(inode)->ram->shmem);
}

/* The RAM file */

/*
 * Huge pages of shmem would cover aliases that were dropped.  So they are only made
 * by vswap_fault_shmem(): others can be forced, for debugging, and nobody else asks
 * for them in the name of a mapping that must not be expanded.
 */
static bool vswap_huge_pages_forced(struct vswap_ram *ram)
{
	struct kstat stat;

	return vfs_getattr_nosec(&ram->shmem->f_path, &stat, STATX_BASIC_STATS,
				 AT_STATX_SYNC_AS_STAT) ||
	       stat.blksize > PAGE_SIZE;
}

static int vswap_ram_mmap(struct file *file, struct vm_area_struct *vma)
{
	struct vswap_ram *ram = VSWAP_I(file_inode(file))->ram;
	int ret;

	/*
	 * Private copies of pages could not be told from pages.  VM_SHARED is
	 * only set if the mapping could be written.
	 */
	if (!(vma->vm_flags & VM_MAYSHARE))
		return -EINVAL;
	if (vswap_huge_pages_forced(ram)) {
		pr_warn_once("vswap: shmem_enabled must not be \"force\"\n");
		return -EOPNOTSUPP;
	}

	vma_set_file(vma, ram->shmem);
	ret = shmem_fops->mmap(ram->shmem, vma);
	if (ret)
		return ret;
	WRITE_ONCE(shmem_vm_ops, vma->vm_ops);
	vma->vm_ops = &vswap_vm_ops;
	vm_flags_set(vma, VM_DONTEXPAND);
	if (!ram->mnt->huge)
		vm_flags_set(vma, VM_NOHUGEPAGE);
	file_accessed(file);
	return 0;
}

static long vswap_ram_fallocate(struct file *file, int mode, loff_t offset,
				loff_t len)
{
	struct vswap_ram *ram = VSWAP_I(file_inode(file))->ram;

	return vfs_fallocate(ram->shmem, mode, offset, len);
}

static int vswap_ram_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
			     struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	struct vswap_ram *ram = VSWAP_I(inode)->ram;
	loff_t old = i_size_read(inode);
	int ret;

	ret = setattr_prepare(idmap, dentry, attr);
	if (ret)
		return ret;

	if (attr->ia_valid & ATTR_SIZE) {
		const int mode = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;
		loff_t first = round_up(old, PAGE_SIZE);
		loff_t last = round_up(attr->ia_size, PAGE_SIZE);

		/* shmem would zero what is left of the last page in place. */
		if (!PAGE_ALIGNED(attr->ia_size) && attr->ia_size < old)
			return -EINVAL;
		/* What became an alias there while the file was truncated. */
		if (first < last)
			vswap_punch(ram, mode, first, last - first);
		ret = vfs_truncate(&ram->shmem->f_path, attr->ia_size);
		if (ret)
			return ret;
		i_size_write(inode, attr->ia_size);
		if (last < first)
			vswap_punch(ram, mode, last, first - last);
	}
	setattr_copy(idmap, inode, attr);
	mark_inode_dirty(inode);
	return 0;
}

static int vswap_ram_getattr(struct mnt_idmap *idmap, const struct path *path,
			     struct kstat *stat, u32 request_mask,
			     unsigned int flags)
{
	struct inode *inode = d_inode(path->dentry);

	generic_fillattr(idmap, request_mask, inode, stat);
	stat->blocks = file_inode(VSWAP_I(inode)->ram->shmem)->i_blocks;
	return 0;
}

const struct inode_operations vswap_ram_inode_operations = {
	.setattr	= vswap_ram_setattr,
	.getattr	= vswap_ram_getattr,
};

const struct file_operations vswap_ram_file_operations = {
	.owner		= THIS_MODULE,
	.mmap		= vswap_ram_mmap,
	.get_unmapped_area = thp_get_unmapped_area,
	.fallocate	= vswap_ram_fallocate,
	.unlocked_ioctl	= vswap_ram_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
	.fsync		= noop_fsync,
	.llseek		= generic_file_llseek,
};
