// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: reading aliases again that were dropped.
 *
 * What is read is consecutive in the image, and not known to be consecutive
 * anywhere else.  A fault reads a cluster and waits for it.  A guest that gets
 * through the image in sequence has the next blocks read ahead, which nobody
 * waits for: the first page of them is marked as mm/readahead.c does it, and when
 * the guest gets there the blocks after these are read.  Marked pages are not
 * mapped by faults on others, so the guest's getting there is a fault.
 *
 * Folios are in the page cache and locked from before they are read until they are
 * uptodate.  If that fails they are removed before they are unlocked.
 *
 * A page of a RAM file can be needed wherever memory of user space is accessed, and
 * with any lock held that a page fault may be taken with; and if not by who reads
 * it, then by who waits for that one.  So reading it must not take a lock that a
 * page fault on a mapping of the lower file would not take.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cgroup.h>
#include <linux/highmem.h>
#include <linux/kthread.h>
#include <linux/memcontrol.h>
#include <linux/moduleparam.h>
#include <linux/psi.h>
#include <linux/sched/mm.h>
#include <linux/slab.h>
#include <linux/wait_bit.h>

#include "internal.h"
#include "trace.h"

/* Blocks that must be there before a block, for the guest to be in sequence. */
#define VSWAP_HISTORY		4

/* Reads ahead of a RAM file at a time. */
#define VSWAP_MAX_READS		4

static int vswap_set_pages(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 0, VSWAP_MAX_CLUSTER);
}

static const struct kernel_param_ops vswap_readahead_ops = {
	.set = vswap_set_pages,
	.get = param_get_uint,
};

/* Enough to hide the time that a disk takes to answer. */
static unsigned int vswap_readahead = SZ_512K / PAGE_SIZE;
module_param_cb(vswap_readahead, &vswap_readahead_ops, &vswap_readahead, 0644);
MODULE_PARM_DESC(vswap_readahead, "Pages of an image that are read ahead of a guest that needs those that were dropped in sequence, 0 to 256 (default: 128)");

/* DAX has none, and neither may an odd file system. */
static bool vswap_has_page_cache(struct vswap_image *image)
{
	return image->file->f_mapping->a_ops->read_folio;
}

/*
 * Read consecutive blocks directly.  File systems lock the inode for that, which
 * direct I/O to the same file, past the mount, may hold while it faults on the page
 * that is read here.  So the lock is only tried if there is another way.  That is
 * what NOWAIT is for files: the read itself is waited for.  Devices have no lock.
 */
static int vswap_read_direct(struct vswap_image *image, u64 block,
			     struct bio_vec *bvec, unsigned int nr)
{
	size_t size = (size_t)nr << PAGE_SHIFT;
	loff_t pos = block << PAGE_SHIFT;
	struct iov_iter iter;
	rwf_t flags = 0;
	ssize_t ret;

	if (vswap_has_page_cache(image) && !S_ISBLK(image->lower->i_mode))
		flags = RWF_NOWAIT;
	iov_iter_bvec(&iter, ITER_DEST, bvec, nr, size);
	while (iov_iter_count(&iter)) {
		ret = vfs_iter_read(image->file, &iter, &pos, flags);
		if (ret <= 0)
			return ret ?: -EIO;
	}
	return 0;
}

/*
 * Read consecutive blocks like a fault on a mapping of the lower file.  What was not
 * in its page cache before does not stay there.
 */
static int vswap_read_cached(struct vswap_image *image, u64 block,
			     struct bio_vec *bvec, unsigned int nr)
{
	struct address_space *mapping = image->file->f_mapping;
	struct file_ra_state ra = {};
	DEFINE_READAHEAD(ractl, image->file, &ra, mapping, block);
	loff_t pos = block << PAGE_SHIFT;
	loff_t end = (block + nr) << PAGE_SHIFT;
	struct folio *folio;
	unsigned int i;
	int ret = 0;
	bool cached;

	cached = filemap_range_has_page(mapping, pos, end - 1);
	page_cache_ra_unbounded(&ractl, nr, 0);
	for (i = 0; i < nr && !ret; i++) {
		filemap_invalidate_lock_shared(mapping);
		folio = read_mapping_folio(mapping, block + i, image->file);
		filemap_invalidate_unlock_shared(mapping);
		if (IS_ERR(folio)) {
			ret = PTR_ERR(folio);
		} else {
			copy_highpage(bvec[i].bv_page,
				      folio_file_page(folio, block + i));
			folio_put(folio);
		}
	}
	/* Beyond the end there would be zeroes. */
	if (end > i_size_read(mapping->host))
		ret = -EIO;
	if (!cached)
		invalidate_inode_pages2_range(mapping, block, block + nr - 1);
	return ret;
}

/* Read consecutive blocks as they are on disk; all, or it is -EIO or -ENOMEM. */
static int vswap_read_blocks(struct vswap_ram *ram, struct vswap_image *image,
			     u64 block, struct bio_vec *bvec, unsigned int nr)
{
	int ret = -EAGAIN;

	if (image->direct || !vswap_has_page_cache(image))
		ret = vswap_read_direct(image, block, bvec, nr);
	if ((ret == -EAGAIN || ret == -EOPNOTSUPP) &&
	    vswap_has_page_cache(image)) {
		vswap_count(ram, VSWAP_CACHED_READS);
		ret = vswap_read_cached(image, block, bvec, nr);
	}
	return !ret || ret == -ENOMEM ? ret : -EIO;
}

/* The same, for somebody who would not have to wait if there was more memory. */
int vswap_need_blocks(struct vswap_ram *ram, struct vswap_image *image,
		      u64 block, struct bio_vec *bvec, unsigned int nr)
{
	unsigned long pflags;
	int ret;

	psi_memstall_enter(&pflags);
	ret = vswap_read_blocks(ram, image, block, bvec, nr);
	psi_memstall_leave(&pflags);
	return ret;
}

/*
 * Put a new folio, locked and without content, where an alias was dropped.
 */
struct folio *vswap_add_folio(struct vswap_ram *ram, pgoff_t index, gfp_t gfp)
{
	struct folio *folio;

	lockdep_assert_held(vswap_page_lock(ram, index));

	folio = filemap_alloc_folio(gfp, 0);
	if (!folio)
		return NULL;
	if (filemap_add_folio(ram->mapping, folio, index, gfp)) {
		folio_put(folio);
		return NULL;
	}
	return folio;
}

/* Add the page of a block if it was dropped, and nobody is at it. */
static struct folio *vswap_add_block(struct vswap_ram *ram,
				     struct vswap_image *image, u64 block)
{
	gfp_t gfp = readahead_gfp_mask(ram->mapping);
	struct folio *folio = NULL;
	pgoff_t index;

	index = vswap_find_alias(image, ram, block);
	if (index == ULONG_MAX || xa_load(&ram->mapping->i_pages, index) ||
	    !mutex_trylock(vswap_page_lock(ram, index)))
		return NULL;
	if (vswap_get_entry(ram, index) == vswap_entry(image->id, block) &&
	    !xa_load(&ram->mapping->i_pages, index) &&
	    !vswap_has_buffer(ram, index))
		folio = vswap_add_folio(ram, index, gfp);
	mutex_unlock(vswap_page_lock(ram, index));
	return folio;
}

/* Add blocks from the first on; up to @end, or to one that cannot be added. */
static unsigned int vswap_add_blocks(struct vswap_ram *ram,
				     struct vswap_image *image, u64 first,
				     u64 end, struct bio_vec *bvec)
{
	struct folio *folio;
	u64 block;

	for (block = first; block < end; block++) {
		folio = vswap_add_block(ram, image, block);
		if (!folio)
			break;
		bvec_set_folio(&bvec[block - first], folio, PAGE_SIZE, 0);
	}
	return block - first;
}

/* Pages have been read, or could not be. */
static void vswap_end_read(struct vswap_ram *ram, struct bio_vec *bvec,
			   unsigned int nr, bool failed)
{
	struct folio *folio;

	if (failed)
		vswap_count(ram, VSWAP_IO_ERRORS);
	atomic64_add(nr, &ram->stats[VSWAP_REFAULT_PAGES]);
	for (; nr; nr--, bvec++) {
		folio = page_folio(bvec->bv_page);
		if (failed)
			generic_error_remove_folio(ram->mapping, folio);
		else
			folio_mark_uptodate(folio);
		folio_unlock(folio);
		folio_put(folio);
	}
}

/*
 * Aliases of consecutive blocks are needed, of which the first one was dropped.  Read
 * those of a RAM file at once that were, up to @end or one that was not.  Returns how
 * many it were, 0 if there was no memory; and who needs them reads those that failed.
 */
unsigned int vswap_read_dropped(struct vswap_ram *ram,
				struct vswap_image *image, u64 first, u64 end)
{
	unsigned int nr = min_t(u64, end - first, VSWAP_MAX_CLUSTER);
	struct bio_vec *bvec;
	int ret;

	bvec = kmalloc_array(nr, sizeof(*bvec), GFP_KERNEL);
	if (!bvec)
		return 0;
	nr = vswap_add_blocks(ram, image, first, first + nr, bvec);
	if (nr) {
		ret = vswap_need_blocks(ram, image, first, bvec, nr);
		vswap_end_read(ram, bvec, nr, ret);
	}
	kfree(bvec);
	return nr;
}

/* Reading ahead */

/* Blocks that nobody waits for. */
struct vswap_read {
	struct work_struct work;
	/* Waits until there is none when it goes. */
	struct vswap_ram *ram;
	struct vswap_image *image;
	/* Of the process that the memory belongs to, and of who needed some. */
	struct mem_cgroup *memcg;
	struct cgroup_subsys_state *blkcg;
	u64 first;
	unsigned int nr;
	struct bio_vec bvec[];
};

static void vswap_end_readahead(struct vswap_ram *ram)
{
	/* The RAM file can be gone then. */
	if (atomic_dec_and_test(&ram->nr_reads))
		wake_up_var(&ram->nr_reads);
}

/* Without those at the begin that are there, and up to the next that is. */
static void vswap_do_read(struct vswap_read *read)
{
	struct vswap_image *image = read->image;
	struct vswap_ram *ram = read->ram;
	u64 block = read->first;
	u64 end = block + read->nr;
	unsigned int nr;
	int ret;

	do {
		nr = vswap_add_blocks(ram, image, block, end, read->bvec);
	} while (!nr && ++block < end);
	if (!nr)
		return;

	folio_set_readahead(page_folio(read->bvec[0].bv_page));
	atomic64_add(nr, &ram->stats[VSWAP_READAHEAD_PAGES]);
	ret = vswap_read_blocks(ram, image, block, read->bvec, nr);
	trace_kvm_vswap_readahead(image->id, block, nr, ret);
	vswap_end_read(ram, read->bvec, nr, ret);
}

static void vswap_read_work(struct work_struct *work)
{
	struct vswap_read *read = container_of(work, struct vswap_read, work);
	struct vswap_ram *ram = read->ram;
	struct mem_cgroup *old_memcg;

	old_memcg = set_active_memcg(read->memcg);
	kthread_associate_blkcg(read->blkcg);
	vswap_do_read(read);
	kthread_associate_blkcg(NULL);
	set_active_memcg(old_memcg);

	vswap_image_put(read->image);
	mem_cgroup_put(read->memcg);
	if (read->blkcg)
		css_put(read->blkcg);
	kfree(read);
	vswap_end_readahead(ram);
}

/*
 * The guest has got through the image in sequence up to here, as far as memory
 * tells, if the blocks before this one are there.
 */
static bool vswap_is_sequential(struct vswap_ram *ram,
				struct vswap_image *image, u64 block)
{
	pgoff_t index;
	u64 before;

	if (block < VSWAP_HISTORY)
		return false;
	for (before = block - VSWAP_HISTORY; before < block; before++) {
		index = vswap_find_alias(image, ram, before);
		if (index == ULONG_MAX ||
		    !xa_load(&ram->mapping->i_pages, index))
			return false;
	}
	return true;
}

/*
 * Have blocks read from the first one to the next multiple of @window.  Failing is
 * no error.  The caller keeps the image and the RAM file, of which the memory
 * belongs to the mm.
 */
static void vswap_read_window(struct vswap_ram *ram, struct vswap_image *image,
			      u64 first, unsigned int window,
			      struct mm_struct *mm)
{
	unsigned int nr = window - first % window;
	struct vswap_read *read = NULL;

	if (atomic_inc_return(&ram->nr_reads) <= VSWAP_MAX_READS)
		read = kmalloc(struct_size(read, bvec, nr),
			       GFP_KERNEL | __GFP_NORETRY | __GFP_NOWARN);
	if (!read) {
		vswap_end_readahead(ram);
		return;
	}

	INIT_WORK(&read->work, vswap_read_work);
	read->ram = ram;
	kref_get(&image->kref);
	read->image = image;
	read->memcg = get_mem_cgroup_from_mm(mm);
	read->blkcg = vswap_get_blkcg();
	read->first = first;
	read->nr = nr;
	queue_work(vswap_wq, &read->work);
}

/*
 * The guest has got to the first block of what was read ahead.  See
 * vswap_read_window() for who keeps what.
 */
void vswap_read_ahead(struct vswap_ram *ram, struct vswap_image *image,
		      u64 block, struct mm_struct *mm)
{
	unsigned int window = READ_ONCE(vswap_readahead);

	if (window)
		vswap_read_window(ram, image, roundup(block + 1, window),
				  window, mm);
}

/* Nobody maps the RAM file any more, so nobody starts one. */
void vswap_wait_for_reads(struct vswap_ram *ram)
{
	wait_var_event(&ram->nr_reads, !atomic_read(&ram->nr_reads));
}

/*
 * Read dropped aliases: the given folio, and those of its neighbours in the
 * image which were dropped as well.  All are locked, and put at the end.  The
 * memory belongs to the mm.
 */
int vswap_read_cluster(struct vswap_ram *ram, struct folio *folio,
		       struct vswap_image *image, u64 block,
		       unsigned int cluster, struct mm_struct *mm)
{
	struct bio_vec *bvec, one;
	unsigned int i, window;
	u64 first, last, end;
	int ret;

	bvec = cluster > 1 ? kmalloc_array(cluster, sizeof(*bvec), GFP_KERNEL) :
			     NULL;
	if (!bvec) {
		bvec = &one;
		cluster = 1;
	}

	/* In the order of the image, with room for those before. */
	first = rounddown(block, cluster);
	end = first + cluster;
	i = block - first;
	bvec_set_folio(&bvec[i], folio, PAGE_SIZE, 0);
	last = block + 1;
	last += vswap_add_blocks(ram, image, last, end, &bvec[i + 1]);
	window = READ_ONCE(vswap_readahead);
	if (window && last == end && vswap_is_sequential(ram, image, block))
		vswap_read_window(ram, image, end, window, mm);
	while (block > first) {
		folio = vswap_add_block(ram, image, block - 1);
		if (!folio)
			break;
		bvec_set_folio(&bvec[--block - first], folio, PAGE_SIZE, 0);
	}
	i = block - first;

	ret = vswap_need_blocks(ram, image, block, bvec + i, last - block);
	vswap_end_read(ram, bvec + i, last - block, ret);
	if (bvec != &one)
		kfree(bvec);
	return ret;
}
