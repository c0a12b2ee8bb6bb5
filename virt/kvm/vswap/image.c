// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: image files, which are files of the lower file system that pass by.
 *
 * What is read by whole blocks into RAM files becomes an alias of the blocks,
 * and so does what is written from there.  A request that covers anything else
 * is passed on as it is.
 *
 * The lower file system never accesses user memory: pages are pinned before, as
 * a fault on a page of a RAM file may have to read from the same image while
 * the file system holds its locks for the request.
 *
 * Blocks that change go through these steps, whatever changes them:
 *
 *   vswap_regions_begin()	no page becomes an alias of the blocks
 *   vswap_break_aliases()	pages that are get a copy
 *   the change
 *   vswap_regions_end()
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/backing-file.h>
#include <linux/cgroup.h>
#include <linux/cred.h>
#include <linux/fs.h>
#include <linux/falloc.h>
#include <linux/file.h>
#include <linux/filelock.h>
#include <linux/mount.h>
#include <linux/kthread.h>
#include <linux/module.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/splice.h>
#include <linux/uio.h>
#include <linux/workqueue.h>

#include "internal.h"
#include "trace.h"

/* Images */

static void vswap_image_free(struct kref *kref)
{
	struct vswap_image *image = container_of(kref, struct vswap_image,
						 kref);
	struct vswap_mnt *mnt = image->mnt;
	struct vswap_heads *heads;
	unsigned long key;

	list_del(&image->list);
	xa_erase(&mnt->images, image->id);
	mutex_unlock(&mnt->lock);

	/* Made for pages that did not become aliases. */
	xa_for_each(&image->heads, key, heads)
		kfree(heads);
	xa_destroy(&image->heads);
	fput(image->file);
	kvfree(image);
}

/* The caller has a reference to the mount. */
void vswap_image_put(struct vswap_image *image)
{
	kref_put_mutex(&image->kref, vswap_image_free, &image->mnt->lock);
}

static struct file *vswap_open_for_aliases(struct vswap_mnt *mnt,
					   const struct path *lower,
					   bool *direct)
{
	struct file *file;

	file = dentry_open(lower, O_RDONLY | O_LARGEFILE | O_DIRECT, mnt->cred);
	*direct = file != ERR_PTR(-EINVAL);
	if (!*direct)
		file = dentry_open(lower, O_RDONLY | O_LARGEFILE, mnt->cred);
	return file;
}

static struct vswap_image *__vswap_image_get(struct vswap_mnt *mnt,
					     const struct path *lower)
{
	struct vswap_image *image;
	unsigned int i;
	int ret;

	guard(mutex)(&mnt->lock);

	list_for_each_entry(image, &mnt->image_list, list) {
		if (image->lower == d_inode(lower->dentry) &&
		    kref_get_unless_zero(&image->kref))
			return image;
	}

	image = kvzalloc(sizeof(*image), GFP_KERNEL_ACCOUNT);
	if (!image)
		return ERR_PTR(-ENOMEM);
	kref_init(&image->kref);
	image->mnt = mnt;
	image->lower = d_inode(lower->dentry);
	xa_init_flags(&image->heads, XA_FLAGS_ACCOUNT);
	for (i = 0; i < VSWAP_REGIONS; i++)
		spin_lock_init(&image->regions[i].lock);

	image->file = vswap_open_for_aliases(mnt, lower, &image->direct);
	if (IS_ERR(image->file)) {
		ret = PTR_ERR(image->file);
		goto free;
	}
	ret = xa_alloc(&mnt->images, &image->id, image,
		       XA_LIMIT(1, VSWAP_MAX_IMAGES), GFP_KERNEL_ACCOUNT);
	if (ret)
		goto put;
	list_add_tail(&image->list, &mnt->image_list);
	if (!image->direct)
		pr_notice_once("vswap: files below do not support direct I/O, their content is cached twice\n");
	return image;

put:
	fput(image->file);
free:
	kvfree(image);
	return ERR_PTR(ret);
}

/* The image of a lower file, which may still have aliases from earlier. */
struct vswap_image *vswap_image_get(struct vswap_mnt *mnt,
				    const struct path *lower)
{
	struct vswap_image *image;
	unsigned int flags;

	/* Reclaim of inodes would put images, and take the lock for that. */
	flags = memalloc_nofs_save();
	image = __vswap_image_get(mnt, lower);
	memalloc_nofs_restore(flags);
	return image;
}

/*
 * Unmap pages that are aliases of blocks of a region, as many as possible at once,
 * because each time interrupts the guest.  Only a hint: whoever ends an alias makes
 * sure that it is not mapped.
 */
static void vswap_unmap_aliases(struct vswap_image *image, u64 first, u64 last,
				struct vswap_page *sources)
{
	struct vswap_page *source = NULL;
	struct file *file, *held = NULL;
	pgoff_t index, from = 0, to = 0;
	struct vswap_ram *ram;
	u64 block;

	for (block = first; block <= last; block++) {
		if (sources)
			source = &sources[block - first];
		file = vswap_next_alias(image, block, source, &ram, &index);
		if (IS_ERR_OR_NULL(file))
			continue;
		if (file == held && (index == to + 1 || index + 1 == from)) {
			from = min(from, index);
			to = max(to, index);
			fput(file);
			continue;
		}
		if (held) {
			unmap_mapping_pages(held->f_mapping, from,
					    to - from + 1, false);
			fput(held);
		}
		held = file;
		from = index;
		to = index;
	}
	if (held) {
		unmap_mapping_pages(held->f_mapping, from, to - from + 1, false);
		fput(held);
	}
}

/*
 * Read aliases of blocks that were dropped, as many as possible at once.  Only a
 * hint: whoever ends an alias reads it if need be.
 */
static void vswap_read_aliases(struct vswap_image *image, u64 first, u64 last,
			       struct vswap_page *sources)
{
	struct vswap_page *source = NULL;
	struct vswap_ram *ram;
	unsigned int nr;
	struct file *file;
	pgoff_t index;
	u64 block;

	for (block = first; block <= last; block += max(nr, 1U)) {
		nr = 0;
		if (sources)
			source = &sources[block - first];
		file = vswap_next_alias(image, block, source, &ram, &index);
		if (IS_ERR_OR_NULL(file))
			continue;
		if (!xa_load(&ram->mapping->i_pages, index))
			nr = vswap_read_dropped(ram, image, block, last + 1);
		fput(file);
	}
}

/*
 * Pages that are aliases of blocks which are about to change get a copy of
 * them.  A source page of the change that already is an alias of the block that
 * it is written to can stay: its content does not change.
 */
static int vswap_break_aliases(struct vswap_image *image, u64 first, u64 last,
			       struct vswap_page *sources)
{
	struct vswap_page *source = NULL;
	u64 block, read_end = first;
	struct vswap_ram *ram;
	struct file *file;
	pgoff_t index;
	int ret;

	for (block = first; block <= last; block++) {
		unsigned long key = block >> VSWAP_REGION_SHIFT;

		/* None can be added meanwhile. */
		if (!xa_load(&image->heads, key)) {
			if (!xa_find_after(&image->heads, &key,
					   last >> VSWAP_REGION_SHIFT,
					   XA_PRESENT))
				break;
			block = max(block,
				    ((u64)key << VSWAP_REGION_SHIFT)) - 1;
			continue;
		}
		if (block >= read_end) {
			read_end = min(last, block + VSWAP_MAX_CLUSTER - 1) + 1;
			vswap_read_aliases(image, block, read_end - 1,
					   sources ? &sources[block - first] :
						     NULL);
		}
		if (block == first || !(block % VSWAP_REGION_BLOCKS))
			vswap_unmap_aliases(image, block,
					    min(last, block | (VSWAP_REGION_BLOCKS - 1)),
					    sources ? &sources[block - first] :
						      NULL);
		for (;;) {
			if (sources)
				source = &sources[block - first];
			file = vswap_next_alias(image, block, source, &ram,
						&index);
			if (!file)
				break;
			if (IS_ERR(file)) {
				/* Whoever frees it gets on with it. */
				schedule_timeout_uninterruptible(1);
				continue;
			}
			ret = vswap_materialize(ram, index,
						vswap_entry(image->id, block));
			fput(file);
			if (ret)
				return ret;
			cond_resched();
		}
	}
	return 0;
}

/* Requests */

/* A part of a request: up to VSWAP_IO_PAGES pages. */
struct vswap_io {
	struct vswap_image *image;
	struct file *lower;
	loff_t pos;
	unsigned int nr;
	unsigned int nr_segments;
	size_t size;
	/* Blocks are [first, first + nr_blocks), if the part is aligned. */
	bool pinned;
	bool tracked;
	unsigned int nr_files;
	struct file *files[8];
	struct vswap_page pages[VSWAP_IO_PAGES];
	u32 seqs[VSWAP_IO_PAGES / VSWAP_REGION_BLOCKS + 2];
	struct bio_vec bvec[VSWAP_IO_PAGES];
};

static size_t vswap_segment(const struct iov_iter *iter, unsigned long *addr)
{
	struct iov_iter it = *iter;

	if (iter_is_ubuf(&it)) {
		*addr = (unsigned long)it.ubuf + it.iov_offset;
		return it.count;
	}
	/* Skip what has no length. */
	while (it.count && !iter_iov_len(&it)) {
		it.__iov++;
		it.nr_segs--;
		it.iov_offset = 0;
	}
	*addr = (unsigned long)iter_iov_addr(&it);
	return min(iter_iov_len(&it), it.count);
}

/*
 * The pages of RAM files that the begin of a request covers: blocks of the
 * image, in memory of pages that the caller may access in this way.  The files
 * are held until vswap_put_files().  Returns how many pages, at most @max.
 */
static unsigned int vswap_find_pages(struct vswap_io *io,
				     const struct iov_iter *from, loff_t pos,
				     unsigned int max)
{
	vm_flags_t access = iov_iter_rw(from) == ITER_DEST ? VM_WRITE : VM_READ;
	struct mm_struct *mm = current->mm;
	struct iov_iter iter = *from;
	struct vm_area_struct *vma;
	struct vswap_ram *ram;
	unsigned long addr;
	unsigned int nr = 0;
	size_t len;

	if (!PAGE_ALIGNED(pos) || !mm || !user_backed_iter(&iter))
		return 0;

	mmap_read_lock(mm);
	while (nr < max && iov_iter_count(&iter) >= PAGE_SIZE) {
		len = vswap_segment(&iter, &addr);
		if (!PAGE_ALIGNED(addr) || len < PAGE_SIZE)
			break;
		vma = vma_lookup(mm, addr);
		ram = vma ? vswap_vma_to_ram(vma) : NULL;
		if (!ram || !(vma->vm_flags & access))
			break;
		if (!io->nr_files || io->files[io->nr_files - 1] != ram->shmem) {
			if (io->nr_files == ARRAY_SIZE(io->files))
				break;
			io->files[io->nr_files++] = get_file(ram->shmem);
		}
		len = min(len, vma->vm_end - addr);
		len = min_t(size_t, len >> PAGE_SHIFT, max - nr);
		iov_iter_advance(&iter, len << PAGE_SHIFT);
		for (; len; len--, addr += PAGE_SIZE, nr++) {
			io->pages[nr].ram = ram;
			io->pages[nr].index = linear_page_index(vma, addr);
		}
	}
	mmap_read_unlock(mm);
	return nr;
}

static void vswap_put_files(struct vswap_io *io)
{
	while (io->nr_files)
		fput(io->files[--io->nr_files]);
}

/* How much of a request is before the first page that could be tracked. */
static size_t vswap_untracked_size(struct vswap_io *io,
				   const struct iov_iter *from, loff_t pos)
{
	struct iov_iter iter = *from;
	unsigned long addr;
	size_t size = 0, len;

	while (iov_iter_count(&iter) &&
	       size < (VSWAP_IO_PAGES - 1) << PAGE_SHIFT) {
		if (size && vswap_find_pages(io, &iter, pos + size, 1)) {
			vswap_put_files(io);
			break;
		}
		len = vswap_segment(&iter, &addr);
		len = min_t(size_t, len, PAGE_SIZE - offset_in_page(addr));
		iov_iter_advance(&iter, len);
		size += len;
	}
	return size;
}

/*
 * Pin what the next @size bytes of a request cover, or less, and advance the
 * request.
 */
static int vswap_pin(struct vswap_io *io, struct iov_iter *iter, size_t size)
{
	struct page *pages[32], **array = pages;
	size_t offset, len;
	ssize_t got;

	io->pinned = iov_iter_extract_will_pin(iter);
	io->nr = 0;
	io->size = 0;
	while (io->size < size && io->nr < VSWAP_IO_PAGES) {
		got = iov_iter_extract_pages(iter, &array, size - io->size,
					     min_t(unsigned int,
						   ARRAY_SIZE(pages),
						   VSWAP_IO_PAGES - io->nr),
					     0, &offset);
		if (got <= 0)
			return io->size ? 0 : got ?: -EFAULT;
		io->size += got;
		for (array = pages; got; got -= len, array++) {
			len = min_t(size_t, got, PAGE_SIZE - offset);
			bvec_set_page(&io->bvec[io->nr++], *array, len, offset);
			offset = 0;
		}
		io->nr_segments = io->nr;
		array = pages;
	}
	return 0;
}

static void vswap_unpin(struct vswap_io *io, bool dirty)
{
	struct bio_vec *bvec = io->bvec, *end = bvec + io->nr_segments;

	for (; io->pinned && bvec < end; bvec++)
		unpin_user_page_range_dirty_lock(bvec->bv_page,
						 DIV_ROUND_UP(bvec->bv_offset +
							      bvec->bv_len,
							      PAGE_SIZE),
						 dirty);
}

/* Is the second one what follows in the folio, and on a page of its own? */
static bool vswap_is_next(const struct bio_vec *bvec, const struct bio_vec *next)
{
	unsigned int end = bvec->bv_offset + bvec->bv_len;

	return PAGE_ALIGNED(end) && !next->bv_offset &&
	       page_folio(next->bv_page) == page_folio(bvec->bv_page) &&
	       page_to_pfn(next->bv_page) ==
	       page_to_pfn(bvec->bv_page) + (end >> PAGE_SHIFT);
}

/*
 * Make what was pinned as few segments as possible: the block layer takes them as
 * they are, and splits a request that has too many.
 */
static void vswap_merge_segments(struct vswap_io *io)
{
	struct bio_vec *last = io->bvec, *next = last, *end = last + io->nr;

	while (++next < end) {
		if (vswap_is_next(last, next))
			last->bv_len += next->bv_len;
		else
			*++last = *next;
	}
	io->nr_segments = last + 1 - io->bvec;
}

/*
 * A request to the lower file on behalf of one to ours, which is direct and synchronous
 * if that is: fcntl() can change it for our file after it was opened.
 */
static void vswap_init_kiocb(struct kiocb *kiocb, struct vswap_io *io,
			     const struct kiocb *iocb)
{
	const int flags = IOCB_DIRECT | IOCB_DSYNC | IOCB_SYNC;

	init_sync_kiocb(kiocb, io->lower);
	kiocb->ki_flags &= ~flags;
	kiocb->ki_flags |= iocb->ki_flags & flags;
	kiocb->ki_ioprio = iocb->ki_ioprio;
	kiocb->ki_pos = io->pos;
}

static ssize_t vswap_read_lower(struct vswap_io *io, const struct kiocb *iocb,
				struct iov_iter *to)
{
	struct kiocb kiocb;

	vswap_init_kiocb(&kiocb, io, iocb);
	return vfs_iocb_iter_read(io->lower, &kiocb, to);
}

static ssize_t vswap_write_lower(struct vswap_io *io, const struct kiocb *iocb,
				 struct iov_iter *from)
{
	struct kiocb kiocb;

	vswap_init_kiocb(&kiocb, io, iocb);
	return vfs_iocb_iter_write(io->lower, &kiocb, from);
}

/*
 * What is only in the page cache of the lower file can be lost, if writing it back
 * fails; then the block is what is on disk, and pages are not that.
 */
static bool vswap_is_on_disk(const struct kiocb *iocb)
{
	return iocb->ki_flags & (IOCB_DIRECT | IOCB_DSYNC);
}

/* Blocks that a part of a request touches. */
static u64 vswap_first_block(struct vswap_io *io)
{
	return io->pos >> PAGE_SHIFT;
}

static u64 vswap_last_block(struct vswap_io *io)
{
	return (io->pos + io->size - 1) >> PAGE_SHIFT;
}

/* The sequence of the region that a block of the part is in. */
static u32 *vswap_seq(struct vswap_io *io, u64 block)
{
	return &io->seqs[(block >> VSWAP_REGION_SHIFT) -
			 (vswap_first_block(io) >> VSWAP_REGION_SHIFT)];
}

static void vswap_sample(struct vswap_io *io)
{
	u64 block = vswap_first_block(io);

	for (; block <= vswap_last_block(io);
	     block = round_down(block, VSWAP_REGION_BLOCKS) +
		     VSWAP_REGION_BLOCKS)
		*vswap_seq(io, block) = vswap_region_sample(io->image, block);
}

/* How many pages are next to each other, upwards with step 1 and downwards with -1. */
static unsigned int vswap_run(const struct vswap_page *page, unsigned int nr, int step)
{
	unsigned int i;

	for (i = 1; i < nr; i++) {
		if (page[i].ram != page[0].ram ||
		    page[i].index != page[i - 1].index + step)
			break;
	}
	return i;
}

/*
 * Unmap pages of RAM files, as many as possible at once.  Linux often allocates
 * pages downwards, so both directions count.
 */
static void vswap_unmap_pages(struct vswap_io *io, unsigned int nr)
{
	struct vswap_page *page = io->pages, *end = page + nr;
	unsigned int up, down;
	pgoff_t first;

	for (; page < end; page += max(up, down)) {
		up = vswap_run(page, end - page, 1);
		down = vswap_run(page, end - page, -1);
		first = page->index - (down > up ? down - 1 : 0);
		if (page->ram)
			unmap_mapping_pages(page->ram->mapping, first,
					    max(up, down), false);
	}
}

/* Read blocks as they are on disk, also if that is by way of the page cache. */
static ssize_t vswap_read_image(struct vswap_io *io)
{
	struct vswap_image *image = io->image;
	struct iov_iter iter;
	loff_t pos = io->pos;
	ssize_t ret;

	if (!image->direct) {
		/* Direct reads do so themselves. */
		ret = filemap_write_and_wait_range(image->file->f_mapping, pos,
						   pos + io->size - 1);
		if (ret)
			return ret;
	}
	iov_iter_bvec(&iter, ITER_DEST, io->bvec, io->nr, io->size);
	return vfs_iter_read(image->file, &iter, &pos, 0);
}

/*
 * Read blocks into memory of RAM files: to new folios, which take the place of
 * what is there.  Returns how many bytes were read, of which those of whole
 * pages, *@installed of them, are in place; or an error.
 *
 * What cannot be had at once, for lack of memory, is not a part of it: io->size is
 * less then, and whoever goes on gets the error.
 */
static ssize_t vswap_read_pages(struct vswap_io *io, unsigned int *installed)
{
	unsigned int i, nr = 0;
	struct folio *folio;
	ssize_t ret;
	int err;

	*installed = 0;
	for (; nr < io->nr; nr++) {
		folio = vswap_alloc_folio(io->pages[nr].ram);
		if (!folio)
			break;
		bvec_set_folio(&io->bvec[nr], folio, PAGE_SIZE, 0);
	}
	if (!nr)
		return -ENOMEM;
	io->nr = nr;
	io->size = (size_t)nr << PAGE_SHIFT;

	vswap_sample(io);
	ret = vswap_read_image(io);
	trace_kvm_vswap_read(io->image->id, io->pos >> PAGE_SHIFT, nr, ret);

	/* Not one by one, each of which interrupts the guest. */
	if (ret > 0)
		vswap_unmap_pages(io, ret >> PAGE_SHIFT);
	for (i = 0; ret > 0 && i < ret >> PAGE_SHIFT; i++) {
		u64 block = vswap_first_block(io) + i;

		err = vswap_install_block(io->pages[i].ram, io->pages[i].index,
					  page_folio(io->bvec[i].bv_page),
					  io->image, block,
					  *vswap_seq(io, block));
		if (err && !i)
			return err;
		if (err) {
			io->size = (size_t)i << PAGE_SHIFT;
			return io->size;
		}
		*installed = i + 1;
	}
	return ret;
}

static void vswap_put_folios(struct vswap_io *io)
{
	unsigned int i;

	for (i = 0; i < io->nr; i++)
		folio_put(page_folio(io->bvec[i].bv_page));
}

static ssize_t vswap_read_tracked(struct vswap_io *io, struct iov_iter *to)
{
	unsigned int installed;
	size_t done;
	ssize_t ret;

	ret = vswap_read_pages(io, &installed);
	if (ret == -ENOMEM && !io->size)
		return ret;
	if (ret > 0) {
		done = (size_t)installed << PAGE_SHIFT;
		iov_iter_advance(to, done);
		/* The end of the file is within a block. */
		if (ret > done) {
			done += copy_page_to_iter(io->bvec[installed].bv_page,
						  0, ret - done, to);
			if (done < ret)
				io->size = done;
		}
		ret = done ?: -EFAULT;
	}
	vswap_put_folios(io);
	return ret;
}

/*
 * Make pages of a RAM file aliases of blocks of an image that is open for
 * reading.
 */
int vswap_associate(struct file *file, struct vswap_ram *ram, pgoff_t index,
		    u64 block, unsigned long nr)
{
	unsigned int i, installed;
	struct vswap_io *io;
	ssize_t ret = 0;

	if (file->f_op != &vswap_image_file_operations ||
	    VSWAP_I(file_inode(file))->mnt != ram->mnt)
		return -EINVAL;
	if (!(file->f_mode & FMODE_READ))
		return -EBADF;
	io = kvzalloc(sizeof(*io), GFP_KERNEL);
	if (!io)
		return -ENOMEM;
	io->image = VSWAP_I(file_inode(file))->image;

	while (nr) {
		io->pos = block << PAGE_SHIFT;
		io->nr = min_t(unsigned long, nr, VSWAP_IO_PAGES);
		io->size = 0;
		for (i = 0; i < io->nr; i++) {
			io->pages[i].ram = ram;
			io->pages[i].index = index + i;
		}
		ret = vswap_read_pages(io, &installed);
		if (io->size)
			vswap_put_folios(io);
		if (ret < 0)
			break;
		/* Nothing equals what is beyond the end of the image. */
		ret = installed < io->size >> PAGE_SHIFT ? -ENXIO : 0;
		if (ret)
			break;
		if (fatal_signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		index += installed;
		block += installed;
		nr -= installed;
	}
	kvfree(io);
	return ret;
}

/*
 * Memory is ample, so the pages that were found are not to be tracked; count that.
 * What is not in memory is replaced by aliases nevertheless, since there is less to
 * do for these than if it had to be brought there.
 */
static bool vswap_leave_alone(struct vswap_io *io, bool replaced)
{
	struct vswap_ram *ram = io->pages[0].ram;
	struct vswap_page *page;

	if (!vswap_is_ample(ram, current->mm))
		return false;
	for (page = io->pages; replaced && page < io->pages + io->nr; page++) {
		if (vswap_is_swapped(page->ram, page->index) ||
		    vswap_entry_is_alias(vswap_get_entry(page->ram, page->index)))
			return false;
	}
	atomic64_add(io->nr, &ram->stats[VSWAP_SKIPPED_AMPLE]);
	return true;
}

static ssize_t vswap_read_plain(struct vswap_io *io, const struct kiocb *iocb,
				struct iov_iter *to, size_t size)
{
	struct iov_iter iter;
	ssize_t ret;

	if (!user_backed_iter(to)) {
		io->size = iov_iter_count(to);
		return vswap_read_lower(io, iocb, to);
	}

	ret = vswap_pin(io, to, size);
	if (ret)
		return ret;
	vswap_merge_segments(io);
	iov_iter_bvec(&iter, ITER_DEST, io->bvec, io->nr_segments, io->size);
	ret = vswap_read_lower(io, iocb, &iter);
	vswap_unpin(io, true);
	iov_iter_revert(to, io->size - max_t(ssize_t, ret, 0));
	return ret;
}

/*
 * What a request, of which some bytes are done already, returns after an error.  VMMs
 * take an asynchronous one that is short for the end of the file, so the error counts,
 * as that of direct I/O does; others ask for the rest, and get it then.
 */
static ssize_t vswap_result(struct kiocb *iocb, ssize_t done, ssize_t ret)
{
	return done && (ret >= 0 || is_sync_kiocb(iocb)) ? done : ret;
}

static ssize_t vswap_read_now(struct kiocb *iocb, struct iov_iter *to)
{
	struct file *lower = iocb->ki_filp->private_data;
	struct inode *inode = file_inode(iocb->ki_filp);
	ssize_t ret = 0, done = 0;
	struct vswap_io *io;
	size_t size;

	io = kvzalloc(sizeof(*io), GFP_KERNEL);
	if (!io)
		return -ENOMEM;
	io->image = VSWAP_I(inode)->image;
	io->lower = lower;

	while (iov_iter_count(to)) {
		io->pos = iocb->ki_pos;
		io->size = 0;
		io->nr = vswap_find_pages(io, to, io->pos, VSWAP_IO_PAGES);
		if (io->nr)
			size = (size_t)io->nr << PAGE_SHIFT;
		else if (user_backed_iter(to))
			size = vswap_untracked_size(io, to, io->pos);
		else
			size = iov_iter_count(to);
		if (io->nr && !vswap_leave_alone(io, true))
			ret = vswap_read_tracked(io, to);
		else
			ret = vswap_read_plain(io, iocb, to, size);
		vswap_put_files(io);
		if (ret <= 0)
			break;
		iocb->ki_pos += ret;
		done += ret;
		/* Less is asked for at once if memory is short. */
		if (ret < min(size, io->size) &&
		    iocb->ki_pos >= i_size_read(lower->f_mapping->host))
			break;
		if (fatal_signal_pending(current))
			break;
	}
	kvfree(io);
	return vswap_result(iocb, done, ret);
}

/* Mark pages that will be aliases of the blocks which they are written to. */
static void vswap_mark_pages(struct vswap_io *io)
{
	struct vswap_page *page;
	unsigned int i;
	u64 entry;

	for (i = 0; i < io->nr; i++) {
		page = &io->pages[i];
		if (!page->ram)
			continue;
		entry = vswap_entry(io->image->id, vswap_first_block(io) + i);
		if (!vswap_mark_pending(page->ram, page->index,
					io->bvec[i].bv_page, entry))
			page->ram = NULL;
	}
	vswap_unmap_pages(io, io->nr);
	for (i = 0; i < io->nr; i++) {
		if (io->pages[i].ram)
			vswap_check_pending(io->pages[i].ram,
					    io->pages[i].index,
					    vswap_entry(io->image->id,
							vswap_first_block(io) + i));
	}
}

/* Write a part, which is advanced over. */
static ssize_t vswap_write_part(struct vswap_io *io, struct kiocb *iocb,
				struct iov_iter *from)
{
	struct vswap_image *image = io->image;
	struct iov_iter iter;
	u64 first, last;
	unsigned int i;
	ssize_t ret;

	first = vswap_first_block(io);
	last = vswap_last_block(io);
	vswap_regions_begin(image, first, last);
	ret = vswap_break_aliases(image, first, last,
				  io->tracked ? io->pages : NULL);
	if (ret)
		goto end;

	if (io->tracked)
		vswap_mark_pages(io);
	vswap_merge_segments(io);
	iov_iter_bvec(&iter, ITER_SOURCE, io->bvec, io->nr_segments, io->size);
	ret = vswap_write_lower(io, iocb, &iter);
	trace_kvm_vswap_write(image->id, first, last - first + 1, ret);

	/* Our pins would keep pages from becoming aliases. */
	vswap_unpin(io, false);
	io->pinned = false;
	for (i = 0; io->tracked && i < io->nr; i++) {
		if (io->pages[i].ram)
			vswap_finish_pending(io->pages[i].ram,
					     io->pages[i].index, image,
					     first + i, ret == io->size);
	}
end:
	vswap_unpin(io, false);
	vswap_regions_end(image, first, last);
	return ret;
}

/* From memory of the kernel, e.g. by splice(). */
static ssize_t vswap_write_kernel(struct vswap_io *io, struct kiocb *iocb,
				  struct iov_iter *from)
{
	u64 first, last;
	ssize_t ret;

	io->size = iov_iter_count(from);
	first = vswap_first_block(io);
	last = vswap_last_block(io);
	vswap_regions_begin(io->image, first, last);
	ret = vswap_break_aliases(io->image, first, last, NULL);
	if (!ret)
		ret = vswap_write_lower(io, iocb, from);
	vswap_regions_end(io->image, first, last);
	return ret;
}

static void vswap_copy_size(struct inode *inode, struct file *lower)
{
	i_size_write(inode, i_size_read(lower->f_mapping->host));
}

static ssize_t vswap_write_now(struct kiocb *iocb, struct iov_iter *from)
{
	struct file *lower = iocb->ki_filp->private_data;
	struct inode *inode = file_inode(iocb->ki_filp);
	bool append = iocb->ki_flags & IOCB_APPEND;
	ssize_t ret = 0, done = 0;
	struct vswap_io *io;
	size_t size;

	io = kvzalloc(sizeof(*io), GFP_KERNEL);
	if (!io)
		return -ENOMEM;
	io->image = VSWAP_I(inode)->image;
	io->lower = lower;

	if (append) {
		/* One after the other. */
		inode_lock(inode);
		iocb->ki_pos = i_size_read(lower->f_mapping->host);
	}

	while (iov_iter_count(from)) {
		io->pos = iocb->ki_pos;
		if (!user_backed_iter(from)) {
			ret = vswap_write_kernel(io, iocb, from);
			size = io->size;
		} else {
			io->nr = vswap_find_pages(io, from, io->pos,
						  VSWAP_IO_PAGES);
			io->tracked = io->nr && !vswap_leave_alone(io, false) &&
				      vswap_is_on_disk(iocb);
			size = io->nr ? (size_t)io->nr << PAGE_SHIFT :
			       vswap_untracked_size(io, from, io->pos);
			ret = vswap_pin(io, from, size);
			/* What a fault cut short is not whole pages. */
			if (!ret && io->tracked && !PAGE_ALIGNED(io->size))
				io->tracked = false;
			size = io->size;
			if (!ret)
				ret = vswap_write_part(io, iocb, from);
			iov_iter_revert(from, size - max_t(ssize_t, ret, 0));
			vswap_put_files(io);
		}
		if (ret <= 0)
			break;
		iocb->ki_pos += ret;
		done += ret;
		if (fatal_signal_pending(current))
			break;
	}
	if (append)
		inode_unlock(inode);
	kvfree(io);
	vswap_copy_size(inode, lower);
	return vswap_result(iocb, done, ret);
}

/*
 * Asynchronous requests, of Linux AIO and io_uring, are done by a worker on
 * behalf of who submits them: with its credentials, in its address space, which its
 * cgroup pays for, and with its weight for I/O.
 */
struct vswap_request {
	struct work_struct work;
	struct kiocb *iocb;
	struct iov_iter iter;
	const void *iov;
	struct mm_struct *mm;
	const struct cred *cred;
	struct cgroup_subsys_state *blkcg;
};

struct workqueue_struct *vswap_wq;

static void vswap_request_work(struct work_struct *work)
{
	struct vswap_request *request = container_of(work, struct vswap_request,
						     work);
	struct kiocb *iocb = request->iocb;
	const struct cred *cred;
	ssize_t ret;

	cred = override_creds(request->cred);
	if (request->mm)
		kthread_use_mm(request->mm);
	kthread_associate_blkcg(request->blkcg);
	if (iov_iter_rw(&request->iter) == READ)
		ret = vswap_read_now(iocb, &request->iter);
	else
		ret = vswap_write_now(iocb, &request->iter);
	kthread_associate_blkcg(NULL);
	if (request->mm)
		kthread_unuse_mm(request->mm);
	revert_creds(cred);

	/* The file can be gone when it is complete. */
	iocb->ki_complete(iocb, ret);
	if (request->blkcg)
		css_put(request->blkcg);
	if (request->mm)
		mmput(request->mm);
	put_cred(request->cred);
	kfree(request->iov);
	kfree(request);
}

/* The block cgroup of who is running, referenced; NULL is none. */
struct cgroup_subsys_state *vswap_get_blkcg(void)
{
	struct cgroup_subsys_state *css = NULL;

#ifdef CONFIG_BLK_CGROUP
	rcu_read_lock();
	css = task_css(current, io_cgrp_id);
	if (!css_tryget_online(css))
		css = NULL;
	rcu_read_unlock();
#endif
	return css;
}

/*
 * Asynchronous direct requests of which nothing is to be tracked, and which change no
 * block that has aliases, are made of the lower file by who submits them, and are
 * asynchronous there as well.  So the block layer can merge those that are submitted
 * together.  A worker only does what is to be done at the end.
 */
struct vswap_pass {
	struct kiocb kiocb;
	struct kiocb *orig;
	struct work_struct work;
	ssize_t ret;
	bool write;
	/* Who submits the request, and who ends it. */
	refcount_t ref;
	struct vswap_io io;
};

static void vswap_put_pass(struct vswap_pass *pass, unsigned int refs)
{
	if (!refcount_sub_and_test(refs, &pass->ref))
		return;
	fput(pass->io.lower);
	kvfree(pass);
}

static void vswap_end_pass(struct vswap_pass *pass)
{
	struct vswap_io *io = &pass->io;

	vswap_unpin(io, !pass->write);
	if (pass->write) {
		vswap_regions_end(io->image, vswap_first_block(io),
				  vswap_last_block(io));
		vswap_copy_size(file_inode(pass->orig->ki_filp), io->lower);
	}
	if (pass->ret > 0)
		pass->orig->ki_pos += pass->ret;
}

static void vswap_pass_work(struct work_struct *work)
{
	struct vswap_pass *pass = container_of(work, struct vswap_pass, work);
	struct kiocb *orig = pass->orig;
	ssize_t ret = pass->ret;

	vswap_end_pass(pass);
	vswap_put_pass(pass, 1);
	orig->ki_complete(orig, ret);
}

/* In any context. */
static void vswap_pass_complete(struct kiocb *kiocb, long ret)
{
	struct vswap_pass *pass = container_of(kiocb, struct vswap_pass, kiocb);

	if (pass->write)
		kiocb_end_write(kiocb);
	pass->ret = ret;
	INIT_WORK(&pass->work, vswap_pass_work);
	queue_work(vswap_wq, &pass->work);
}

/* Is there nothing to be tracked of the request, all of it? */
static bool vswap_is_plain(struct vswap_io *io, const struct iov_iter *iter,
			   size_t size, bool write)
{
	io->nr = vswap_find_pages(io, iter, io->pos, VSWAP_IO_PAGES);
	if (!io->nr)
		return vswap_untracked_size(io, iter, io->pos) == size;
	return (size_t)io->nr << PAGE_SHIFT == size && vswap_leave_alone(io, !write);
}

/* None can be added between vswap_regions_begin() and the end. */
static bool vswap_has_aliases(struct vswap_io *io)
{
	unsigned long key = vswap_first_block(io) >> VSWAP_REGION_SHIFT;

	return xa_find(&io->image->heads, &key,
		       vswap_last_block(io) >> VSWAP_REGION_SHIFT, XA_PRESENT);
}

/*
 * Pin the memory of the request, which is advanced over, and keep its blocks from
 * becoming aliases if it writes; or do nothing, if it cannot be passed on as it is.
 */
static bool vswap_prepare_pass(struct vswap_pass *pass, struct iov_iter *iter)
{
	size_t size = iov_iter_count(iter);
	struct vswap_io *io = &pass->io;
	bool ready;

	ready = vswap_is_plain(io, iter, size, pass->write);
	if (ready)
		ready = !vswap_pin(io, iter, size) && io->size == size;
	vswap_put_files(io);
	if (ready && pass->write) {
		vswap_regions_begin(io->image, vswap_first_block(io),
				    vswap_last_block(io));
		ready = !vswap_has_aliases(io);
		if (!ready)
			vswap_regions_end(io->image, vswap_first_block(io),
					  vswap_last_block(io));
	}
	if (!ready) {
		vswap_unpin(io, false);
		iov_iter_revert(iter, io->size);
	}
	return ready;
}

/*
 * Returns false, and nothing has happened, if a worker has to do the request; *@ret is
 * what it returns otherwise.
 */
static bool vswap_pass_request(struct kiocb *iocb, struct iov_iter *iter, ssize_t *ret)
{
	struct file *lower = iocb->ki_filp->private_data;
	bool nowait = iocb->ki_flags & IOCB_NOWAIT;
	struct vswap_pass *pass;
	struct iov_iter bvec;

	if (!(iocb->ki_flags & IOCB_DIRECT) || (iocb->ki_flags & IOCB_APPEND) ||
	    !user_backed_iter(iter) || !iov_iter_count(iter) ||
	    iov_iter_count(iter) > VSWAP_IO_PAGES << PAGE_SHIFT ||
	    (nowait && !(lower->f_mode & FMODE_NOWAIT)))
		return false;
	pass = kvzalloc(sizeof(*pass), nowait ? GFP_NOWAIT : GFP_KERNEL);
	if (!pass)
		return false;
	refcount_set(&pass->ref, 2);
	pass->orig = iocb;
	pass->write = iov_iter_rw(iter) == WRITE;
	pass->io.image = VSWAP_I(file_inode(iocb->ki_filp))->image;
	pass->io.lower = get_file(lower);
	pass->io.pos = iocb->ki_pos;
	if (!vswap_prepare_pass(pass, iter)) {
		vswap_put_pass(pass, 2);
		return false;
	}

	vswap_merge_segments(&pass->io);
	iov_iter_bvec(&bvec, pass->write ? ITER_SOURCE : ITER_DEST, pass->io.bvec,
		      pass->io.nr_segments, pass->io.size);
	vswap_init_kiocb(&pass->kiocb, &pass->io, iocb);
	pass->kiocb.ki_flags |= iocb->ki_flags & IOCB_NOWAIT;
	pass->kiocb.ki_complete = vswap_pass_complete;
	if (pass->write)
		*ret = vfs_iocb_iter_write(lower, &pass->kiocb, &bvec);
	else
		*ret = vfs_iocb_iter_read(lower, &pass->kiocb, &bvec);
	if (*ret == -EIOCBQUEUED) {
		vswap_put_pass(pass, 1);
		return true;
	}

	pass->ret = *ret;
	vswap_end_pass(pass);
	/* A worker can wait. */
	nowait = nowait && *ret == -EAGAIN;
	if (nowait)
		iov_iter_revert(iter, pass->io.size);
	vswap_put_pass(pass, 2);
	return !nowait;
}

static ssize_t vswap_queue_request(struct kiocb *iocb, struct iov_iter *iter)
{
	bool nowait = iocb->ki_flags & IOCB_NOWAIT;
	gfp_t gfp = nowait ? GFP_NOWAIT : GFP_KERNEL;
	struct vswap_request *request;
	ssize_t ret;

	if (vswap_pass_request(iocb, iter, &ret))
		return ret;
	request = kzalloc(sizeof(*request), gfp);
	if (!request)
		return nowait ? -EAGAIN : -ENOMEM;
	/* What the caller has of it is gone when this returns. */
	request->iov = dup_iter(&request->iter, iter, gfp);
	if (!request->iov && !iter_is_ubuf(iter)) {
		kfree(request);
		return nowait ? -EAGAIN : -ENOMEM;
	}
	INIT_WORK(&request->work, vswap_request_work);
	request->iocb = iocb;
	if (user_backed_iter(iter)) {
		request->mm = current->mm;
		mmget(request->mm);
	}
	request->cred = get_current_cred();
	request->blkcg = vswap_get_blkcg();
	/* The worker can wait. */
	iocb->ki_flags &= ~IOCB_NOWAIT;
	queue_work(vswap_wq, &request->work);
	return -EIOCBQUEUED;
}

static ssize_t vswap_image_read_iter(struct kiocb *iocb, struct iov_iter *to)
{
	if (!is_sync_kiocb(iocb))
		return vswap_queue_request(iocb, to);
	if (iocb->ki_flags & IOCB_NOWAIT)
		return -EAGAIN;
	return vswap_read_now(iocb, to);
}

static ssize_t vswap_image_write_iter(struct kiocb *iocb,
				      struct iov_iter *from)
{
	struct file *lower = iocb->ki_filp->private_data;
	struct inode *lower_inode = lower->f_mapping->host;
	loff_t count = iov_iter_count(from);
	int ret;

	if (!count)
		return 0;
	if (is_sync_kiocb(iocb) && (iocb->ki_flags & IOCB_NOWAIT))
		return -EAGAIN;
	if (S_ISREG(lower_inode->i_mode)) {
		/* The limit is that of who is here, not of a worker. */
		if (iocb->ki_flags & IOCB_APPEND)
			iocb->ki_pos = i_size_read(lower_inode);
		ret = generic_write_check_limits(iocb->ki_filp, iocb->ki_pos,
						 &count);
		if (ret)
			return ret;
		iov_iter_truncate(from, count);
	}
	if (!is_sync_kiocb(iocb))
		return vswap_queue_request(iocb, from);
	return vswap_write_now(iocb, from);
}

int __init vswap_image_init(void)
{
	vswap_wq = alloc_workqueue("kvm_vswap", WQ_UNBOUND | WQ_MEM_RECLAIM, 0);
	return vswap_wq ? 0 : -ENOMEM;
}

void vswap_image_exit(void)
{
	destroy_workqueue(vswap_wq);
}

/* Other file operations */

static int vswap_image_open(struct inode *inode, struct file *file)
{
	struct vswap_inode *vi = VSWAP_I(inode);
	struct vswap_image *image;
	struct file *lower;

	/*
	 * Size and position are ours, and what is appended is.  Nobody below truncates
	 * before there are no aliases any more.
	 */
	lower = backing_file_open(file, (file->f_flags & ~(O_APPEND | O_TRUNC)) |
					O_LARGEFILE,
				  &vi->lower, current_cred());
	if (IS_ERR(lower))
		return PTR_ERR(lower);

	if (!READ_ONCE(vi->image)) {
		image = vswap_image_get(vi->mnt, &vi->lower);
		if (IS_ERR(image)) {
			fput(lower);
			return PTR_ERR(image);
		}
		if (cmpxchg(&vi->image, NULL, image))
			vswap_image_put(image);
	}

	file->private_data = lower;
	file->f_mode |= lower->f_mode & FMODE_CAN_ODIRECT;
	file->f_mode |= FMODE_NOWAIT;
	vswap_copy_size(inode, lower);
	return 0;
}

/* Locks of the lower file, which others may look at, are held by our file. */
static int vswap_image_flush(struct file *file, fl_owner_t id)
{
	locks_remove_posix(file->private_data, id);
	return 0;
}

static int vswap_image_release(struct inode *inode, struct file *file)
{
	struct file *lower = file->private_data;

	locks_remove_posix(lower, (fl_owner_t)file);
	fput(lower);
	return 0;
}

/* The owner stays who it is, so others on the lower file conflict with it. */
static int vswap_image_lock(struct file *file, int cmd, struct file_lock *fl)
{
	struct file *lower = file->private_data;
	int ret;

	fl->c.flc_file = lower;
	if (IS_GETLK(cmd))
		ret = vfs_test_lock(lower, fl);
	else
		ret = vfs_lock_file(lower, cmd, fl, NULL);
	fl->c.flc_file = file;
	return ret;
}

static loff_t vswap_image_llseek(struct file *file, loff_t offset, int whence)
{
	struct inode *inode = file_inode(file);
	struct file *lower = file->private_data;
	loff_t ret;

	if (whence == SEEK_SET || whence == SEEK_CUR)
		return generic_file_llseek_size(file, offset, whence,
						inode->i_sb->s_maxbytes,
						i_size_read(inode));
	inode_lock(inode);
	ret = vfs_llseek(lower, offset, whence);
	if (ret >= 0)
		file->f_pos = ret;
	inode_unlock(inode);
	return ret;
}

static int vswap_image_fsync(struct file *file, loff_t start, loff_t end,
			     int datasync)
{
	return vfs_fsync_range(file->private_data, start, end, datasync);
}

static long vswap_image_fallocate(struct file *file, int mode, loff_t offset,
				  loff_t len)
{
	struct vswap_image *image = VSWAP_I(file_inode(file))->image;
	struct file *lower = file->private_data;
	u64 first = offset >> PAGE_SHIFT;
	u64 last = (offset + len - 1) >> PAGE_SHIFT;
	bool changes = mode & ~FALLOC_FL_KEEP_SIZE;
	long ret = 0;

	if (mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE |
		     FALLOC_FL_ZERO_RANGE))
		return -EOPNOTSUPP;

	if (changes) {
		vswap_regions_begin(image, first, last);
		ret = vswap_break_aliases(image, first, last, NULL);
	}
	if (!ret)
		ret = vfs_fallocate(lower, mode, offset, len);
	if (changes)
		vswap_regions_end(image, first, last);
	vswap_copy_size(file_inode(file), lower);
	return ret;
}

static int vswap_image_fadvise(struct file *file, loff_t offset, loff_t len,
			       int advice)
{
	return vfs_fadvise(file->private_data, offset, len, advice);
}

const struct file_operations vswap_image_file_operations = {
	.owner		= THIS_MODULE,
	.open		= vswap_image_open,
	.flush		= vswap_image_flush,
	.release	= vswap_image_release,
	.read_iter	= vswap_image_read_iter,
	.write_iter	= vswap_image_write_iter,
	.llseek		= vswap_image_llseek,
	.fsync		= vswap_image_fsync,
	.fallocate	= vswap_image_fallocate,
	.fadvise	= vswap_image_fadvise,
	.lock		= vswap_image_lock,
	.splice_read	= copy_splice_read,
	.splice_write	= iter_file_splice_write,
};

/* Change attributes of the lower file, which the caller may do. */
static int vswap_change_lower(struct inode *inode, struct iattr *attr)
{
	struct path *lower = &VSWAP_I(inode)->lower;
	struct inode *lower_inode = d_inode(lower->dentry);
	int ret;

	ret = mnt_want_write(lower->mnt);
	if (ret)
		return ret;
	if (attr->ia_valid & ATTR_SIZE) {
		ret = get_write_access(lower_inode);
		if (ret)
			goto drop;
		ret = break_lease(lower_inode, O_WRONLY);
		if (ret)
			goto put;
	}
	inode_lock(lower_inode);
	ret = notify_change(mnt_idmap(lower->mnt), lower->dentry, attr, NULL);
	inode_unlock(lower_inode);
put:
	if (attr->ia_valid & ATTR_SIZE)
		put_write_access(lower_inode);
drop:
	mnt_drop_write(lower->mnt);
	return ret;
}

/* The same for its size, among others.  Blocks beyond the new one go. */
static int vswap_image_truncate(struct inode *inode, struct iattr *attr)
{
	struct vswap_inode *vi = VSWAP_I(inode);
	struct vswap_image *image = READ_ONCE(vi->image);
	u64 first = attr->ia_size >> PAGE_SHIFT;
	u64 last = VSWAP_BLOCK_MASK;
	struct vswap_image *found = NULL;
	int ret = 0;

	if (!image) {
		/* There may be aliases from when it was open earlier. */
		found = vswap_image_get(vi->mnt, &vi->lower);
		if (IS_ERR(found))
			return PTR_ERR(found);
		image = found;
	}
	vswap_regions_begin(image, first, last);
	ret = vswap_break_aliases(image, first, last, NULL);
	if (!ret)
		ret = vswap_change_lower(inode, attr);
	vswap_regions_end(image, first, last);
	if (found)
		vswap_image_put(found);
	return ret;
}

static int vswap_image_setattr(struct mnt_idmap *idmap, struct dentry *dentry,
			       struct iattr *attr)
{
	struct inode *inode = d_inode(dentry);
	struct inode *lower_inode = d_inode(VSWAP_I(inode)->lower.dentry);
	struct iattr lower_attr = *attr;
	int ret;

	ret = setattr_prepare(idmap, dentry, attr);
	if (ret)
		return ret;

	/* That of the lower file is up to who changes it. */
	if (lower_attr.ia_valid & (ATTR_KILL_SUID | ATTR_KILL_SGID))
		lower_attr.ia_valid &= ~ATTR_MODE;
	if (lower_attr.ia_valid & ATTR_FILE)
		lower_attr.ia_file = attr->ia_file->private_data;
	/* It was not opened to be truncated. */
	lower_attr.ia_valid &= ~ATTR_OPEN;

	if (attr->ia_valid & ATTR_SIZE) {
		if (!S_ISREG(lower_inode->i_mode))
			return -EINVAL;
		if (IS_APPEND(lower_inode))
			return -EPERM;
		ret = vswap_image_truncate(inode, &lower_attr);
	} else {
		ret = vswap_change_lower(inode, &lower_attr);
	}
	if (!ret)
		vswap_copy_attr(inode, lower_inode);
	return ret;
}

static int vswap_image_getattr(struct mnt_idmap *idmap,
			       const struct path *path, struct kstat *stat,
			       u32 request_mask, unsigned int flags)
{
	struct inode *inode = d_inode(path->dentry);
	struct vswap_inode *vi = VSWAP_I(inode);
	int ret;

	/* What ours allows was asked before. */
	ret = vfs_getattr_nosec(&vi->lower, stat, request_mask, flags);
	if (ret)
		return ret;
	stat->dev = inode->i_sb->s_dev;
	stat->ino = inode->i_ino;
	stat->nlink = inode->i_nlink;
	if (S_ISBLK(stat->mode)) {
		stat->mode = inode->i_mode;
		stat->rdev = 0;
		stat->size = i_size_read(inode);
		stat->blksize = PAGE_SIZE;
	}
	return 0;
}

static int vswap_image_permission(struct mnt_idmap *idmap,
				  struct inode *inode, int mask)
{
	struct path *lower = &VSWAP_I(inode)->lower;

	if (mask & MAY_NOT_BLOCK)
		return -ECHILD;
	return inode_permission(mnt_idmap(lower->mnt), d_inode(lower->dentry),
				mask);
}

const struct inode_operations vswap_image_inode_operations = {
	.setattr	= vswap_image_setattr,
	.getattr	= vswap_image_getattr,
	.permission	= vswap_image_permission,
};
