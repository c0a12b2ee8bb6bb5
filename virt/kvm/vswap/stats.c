// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: what VMMs and tools ask RAM files, see <uapi/linux/kvm_vswap.h>.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/file.h>
#include <linux/shmem_fs.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"

static u64 vswap_resident_aliases(struct vswap_ram *ram)
{
	struct vswap_chunk *chunk;
	unsigned long key;
	unsigned int i;
	u64 nr = 0;

	xa_for_each(&ram->chunks, key, chunk) {
		for (i = 0; i < VSWAP_CHUNK_PAGES; i++) {
			if (vswap_entry_is_alias(READ_ONCE(chunk->entries[i])) &&
			    xa_load(&ram->mapping->i_pages, chunk->index + i))
				nr++;
		}
		cond_resched();
	}
	return nr;
}

/* Memory for what is known; that for blocks is shared by RAM files. */
static u64 vswap_metadata(struct vswap_ram *ram)
{
	struct vswap_image *image;
	u64 bytes;

	bytes = sizeof(*ram) + atomic_long_read(&ram->nr_chunks) *
		(sizeof(struct vswap_chunk) +
		 VSWAP_CHUNK_PAGES * (sizeof(u64) + sizeof(u32)));

	mutex_lock(&ram->mnt->lock);
	list_for_each_entry(image, &ram->mnt->image_list, list)
		bytes += sizeof(*image) + atomic_long_read(&image->nr_heads) *
			 sizeof(struct vswap_heads);
	mutex_unlock(&ram->mnt->lock);
	return bytes;
}

static int vswap_get_stats(struct vswap_ram *ram,
			   struct kvm_vswap_stats __user *user)
{
	struct kvm_vswap_stats stats = {};
	u32 size, flags;

	if (get_user(size, &user->size) || get_user(flags, &user->flags))
		return -EFAULT;
	if (size < offsetofend(struct kvm_vswap_stats, flags) || flags)
		return -EINVAL;

	stats.size = min_t(u32, size, sizeof(stats));
	stats.pages = i_size_read(ram->mapping->host) >> PAGE_SHIFT;
	stats.resident = READ_ONCE(ram->mapping->nrpages);
	stats.swapped = READ_ONCE(SHMEM_I(ram->mapping->host)->swapped);
	stats.aliases = atomic_long_read(&ram->nr_aliases);
	stats.aliases_resident = vswap_resident_aliases(ram);
	stats.metadata_bytes = vswap_metadata(ram);
#define VSWAP_STAT(field, stat) \
	(stats.field = atomic64_read(&ram->stats[VSWAP_##stat]))
	VSWAP_STAT(aliased_by_read, ALIASED_BY_READ);
	VSWAP_STAT(aliased_by_write, ALIASED_BY_WRITE);
	VSWAP_STAT(stale_reads_avoided, STALE_READS_AVOIDED);
	VSWAP_STAT(false_reads_avoided, FALSE_READS_AVOIDED);
	VSWAP_STAT(refaults, REFAULTS);
	VSWAP_STAT(refault_pages, REFAULT_PAGES);
	VSWAP_STAT(readahead_pages, READAHEAD_PAGES);
	VSWAP_STAT(cached_reads, CACHED_READS);
	VSWAP_STAT(swap_faults, SWAP_FAULTS);
	VSWAP_STAT(broken_by_guest, BROKEN_BY_GUEST);
	VSWAP_STAT(broken_by_write, BROKEN_BY_WRITE);
	VSWAP_STAT(skipped_pinned, SKIPPED_PINNED);
	VSWAP_STAT(skipped_conflict, SKIPPED_CONFLICT);
	VSWAP_STAT(skipped_shared, SKIPPED_SHARED);
	VSWAP_STAT(skipped_changed, SKIPPED_CHANGED);
	VSWAP_STAT(skipped_busy, SKIPPED_BUSY);
	VSWAP_STAT(io_errors, IO_ERRORS);
	VSWAP_STAT(buffered_pages, BUFFERED_PAGES);
	VSWAP_STAT(buffered_writes, BUFFERED_WRITES);
	VSWAP_STAT(buffer_merges, BUFFER_MERGES);
	VSWAP_STAT(skipped_ample, SKIPPED_AMPLE);
#undef VSWAP_STAT
	return copy_to_user(user, &stats, stats.size) ? -EFAULT : 0;
}

static u8 vswap_page_state(struct vswap_ram *ram, pgoff_t index)
{
	bool alias = vswap_entry_is_alias(vswap_get_entry(ram, index));
	void *page = xa_load(&ram->mapping->i_pages, index);

	if (alias)
		return page ? KVM_VSWAP_PAGE_ALIAS :
			      KVM_VSWAP_PAGE_ALIAS_DROPPED;
	if (!page)
		return KVM_VSWAP_PAGE_NONE;
	return xa_is_value(page) ? KVM_VSWAP_PAGE_SWAPPED :
				   KVM_VSWAP_PAGE_RESIDENT;
}

/* Whether [offset, offset + size) is of whole pages and in a file. */
static bool vswap_range_is_valid(u64 offset, u64 size, u64 file_size)
{
	return PAGE_ALIGNED(offset) && PAGE_ALIGNED(size) && size &&
	       size <= file_size && offset <= file_size - size;
}

static int vswap_query(struct vswap_ram *ram, void __user *arg)
{
	struct kvm_vswap_query query;
	u8 __user *states;
	u8 buf[256];
	u64 i, n;
	pgoff_t index;

	if (copy_from_user(&query, arg, sizeof(query)))
		return -EFAULT;
	if (query.flags || query.pages > ULONG_MAX >> PAGE_SHIFT ||
	    !vswap_range_is_valid(query.offset, query.pages << PAGE_SHIFT,
				  i_size_read(ram->mapping->host)))
		return -EINVAL;

	index = query.offset >> PAGE_SHIFT;
	states = u64_to_user_ptr(query.states);
	while (query.pages) {
		n = min_t(u64, query.pages, sizeof(buf));
		for (i = 0; i < n; i++)
			buf[i] = vswap_page_state(ram, index++);
		if (copy_to_user(states, buf, n))
			return -EFAULT;
		states += n;
		query.pages -= n;
		cond_resched();
		if (signal_pending(current))
			return -EINTR;
	}
	return 0;
}

static int vswap_do_associate(struct vswap_ram *ram, void __user *arg)
{
	struct kvm_vswap_associate associate;

	if (copy_from_user(&associate, arg, sizeof(associate)))
		return -EFAULT;
	if (associate.flags || !PAGE_ALIGNED(associate.image_offset) ||
	    !vswap_range_is_valid(associate.offset, associate.size,
				  i_size_read(ram->mapping->host)))
		return -EINVAL;

	CLASS(fd, image)(associate.image_fd);
	if (!fd_file(image))
		return -EBADF;
	return vswap_associate(fd_file(image), ram,
			       associate.offset >> PAGE_SHIFT,
			       associate.image_offset >> PAGE_SHIFT,
			       associate.size >> PAGE_SHIFT);
}

long vswap_ram_ioctl(struct file *file, unsigned int cmd, unsigned long arg)
{
	struct vswap_ram *ram = VSWAP_I(file_inode(file))->ram;
	void __user *argp = (void __user *)arg;

	switch (cmd) {
	case KVM_VSWAP_GET_STATS:
		return vswap_get_stats(ram, argp);
	case KVM_VSWAP_QUERY:
		return vswap_query(ram, argp);
	case KVM_VSWAP_ASSOCIATE:
		if (!(file->f_mode & FMODE_WRITE))
			return -EBADF;
		return vswap_do_associate(ram, argp);
	default:
		return -ENOTTY;
	}
}
