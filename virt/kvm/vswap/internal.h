/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_VSWAP_INTERNAL_H
#define __KVM_VSWAP_INTERNAL_H

#include <linux/bvec.h>
#include <linux/fs.h>
#include <linux/kref.h>
#include <linux/mm.h>
#include <linux/mutex.h>
#include <linux/pagemap.h>
#include <linux/path.h>
#include <linux/rwsem.h>
#include <linux/sizes.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>
#include <linux/xarray.h>

#include <uapi/linux/kvm_vswap.h>

/*
 * Blocks have the size of pages.  What is aligned to less is not tracked.
 *
 * Pages that are tracked are known by a number that is unique in a mount, so
 * that the index from blocks to pages takes four bytes a page: the number of a
 * chunk of VSWAP_CHUNK_PAGES pages of one RAM file, and the page in it.  0 is
 * nobody.
 */
#define VSWAP_CHUNK_SHIFT	9
#define VSWAP_CHUNK_PAGES	BIT(VSWAP_CHUNK_SHIFT)
#define VSWAP_MAX_CHUNKS	BIT(32 - VSWAP_CHUNK_SHIFT)

/* Blocks are indexed, and concurrent writes are noticed, by regions. */
#define VSWAP_REGION_SHIFT	6
#define VSWAP_REGION_BLOCKS	BIT(VSWAP_REGION_SHIFT)
#define VSWAP_REGIONS		512U

/* Pages are locked by a hash of their index. */
#define VSWAP_LOCKS		512U

/* A guest can read a block to many pages.  No more than so many are aliases. */
#define VSWAP_MAX_SHARERS	16

/* Pages of a RAM file that can be overwritten piecemeal at a time. */
#define VSWAP_MAX_BUFFERS	1024U

/* Pages of one request to the lower file: the most that Linux asks a disk for. */
#define VSWAP_IO_PAGES		(SZ_1M / PAGE_SIZE * 5 / 4)

/* Pages that are read again at once. */
#define VSWAP_MAX_CLUSTER	256U

/*
 * What is known of a page: 0 is nothing, i.e. the page is as shmem has it.
 * Otherwise the number of an image and a block of it, which the page's content
 * equals.
 *
 * VSWAP_PENDING says that the page is being written to the block.  The page is
 * shmem's, and it will be an alias if nobody writes to it meanwhile.
 */
#define VSWAP_BLOCK_BITS	44
#define VSWAP_BLOCK_MASK	GENMASK_ULL(VSWAP_BLOCK_BITS - 1, 0)
#define VSWAP_IMAGE_MASK	GENMASK_ULL(VSWAP_BLOCK_BITS + 15, VSWAP_BLOCK_BITS)
#define VSWAP_MAX_IMAGES	U16_MAX
#define VSWAP_PENDING		BIT_ULL(63)

static inline u64 vswap_entry(u32 image, u64 block)
{
	return ((u64)image << VSWAP_BLOCK_BITS) | block;
}

static inline u64 vswap_entry_block(u64 entry)
{
	return entry & VSWAP_BLOCK_MASK;
}

static inline u32 vswap_entry_image(u64 entry)
{
	return (entry & VSWAP_IMAGE_MASK) >> VSWAP_BLOCK_BITS;
}

static inline bool vswap_entry_is_alias(u64 entry)
{
	return entry && !(entry & VSWAP_PENDING);
}

/*
 * The part of a mount that RAM files and images need, which can outlive it:
 * memory stays mapped when its file is closed and the file system unmounted.
 */
struct vswap_mnt {
	struct kref kref;
	/* A tmpfs for the files behind RAM files, and whether it has huge pages. */
	struct vfsmount *shmem;
	bool huge;
	/* Who mounted it; reads for aliases are done on their behalf. */
	const struct cred *cred;

	/* Chunks by number, and images by number. */
	struct xarray chunks;
	struct xarray images;

	/* Entries of directories that are the mount's own, by their address. */
	struct xarray dentries;

	/* Protects the list, and images against going away. */
	struct mutex lock;
	struct list_head image_list;
};

/*
 * A chunk exists once a page of it was an alias, until its RAM file goes.  It is
 * as large as a huge page, see vswap_fault_shmem().
 * Entries are written with the lock of the page held.  Links to the next page
 * that is an alias of the same block, and what is a link because the entry is an
 * alias, are protected by the lock of the block's region.
 */
struct vswap_chunk {
	struct vswap_ram *ram;
	pgoff_t index;		/* of the first page */
	u32 id;
	u32 *next;
	u64 *entries;
};

enum vswap_stat {
	/* Pages that a read of an image made an alias, and a write to one. */
	VSWAP_ALIASED_BY_READ,
	VSWAP_ALIASED_BY_WRITE,
	/* Swapped out content that was replaced without being read. */
	VSWAP_STALE_READS_AVOIDED,
	VSWAP_FALSE_READS_AVOIDED,
	/* Faults that read blocks, pages that were read, those read ahead. */
	VSWAP_REFAULTS,
	VSWAP_REFAULT_PAGES,
	VSWAP_READAHEAD_PAGES,
	/* Reads on behalf of aliases that were not direct. */
	VSWAP_CACHED_READS,
	/* Faults that read from swap. */
	VSWAP_SWAP_FAULTS,
	/* Aliases that ended: page written, block about to be written. */
	VSWAP_BROKEN_BY_GUEST,
	VSWAP_BROKEN_BY_WRITE,
	/* Why pages did not become aliases. */
	VSWAP_SKIPPED_PINNED,
	VSWAP_SKIPPED_CONFLICT,
	VSWAP_SKIPPED_SHARED,
	VSWAP_SKIPPED_CHANGED,
	VSWAP_SKIPPED_BUSY,
	/* Reads on behalf of aliases that failed. */
	VSWAP_IO_ERRORS,
	/* The Preventer. */
	VSWAP_BUFFERED_PAGES,
	VSWAP_BUFFERED_WRITES,
	VSWAP_BUFFER_MERGES,
	/* Pages that were not tracked as memory is not short. */
	VSWAP_SKIPPED_AMPLE,
	VSWAP_NR_STATS,
};

/*
 * A RAM file: a shmem file, and what is known of its pages.  It lives as long
 * as the shmem file, which mappings and the inode hold.
 *
 * A page is either shmem's: resident and swap-backed, or swapped out, or never
 * touched.  Or it is an alias: then its folio, if there is one, is clean and
 * not swap-backed, and there is no swap entry.  If there is none, its content
 * is that of the block.  Both the entry and what is in the mapping only change
 * with the lock of the page held; except that reclaim, at any time, swaps out
 * or drops folios by its own rules.
 */
struct vswap_ram {
	struct vswap_mnt *mnt;
	struct file *shmem;
	struct address_space *mapping;
	/* Of ample.c: all RAM files, who pays, and whether memory is ample. */
	struct list_head list;
	struct mem_cgroup *memcg;
	unsigned long ample_until;
	bool ample;
	/* Chunks by index >> VSWAP_CHUNK_SHIFT. */
	struct xarray chunks;
	/* Held to write to add chunks and buffers, see vswap_fault_shmem(). */
	struct rw_semaphore huge_lock;
	atomic_long_t nr_aliases;
	atomic_long_t nr_chunks;
	atomic64_t stats[VSWAP_NR_STATS];
	/* Buffers by index, protected by the lock of the page. */
	struct xarray buffers;
	atomic_t nr_buffers;
	/* Reads ahead that are not complete, which need the RAM file. */
	atomic_t nr_reads;
	struct delayed_work buffer_work;
	/* Pages that are still left alone, and how many the last time. */
	atomic_t skip;
	unsigned int backoff;
	/*
	 * What the guest cleared last, and whether it has used such a page at once
	 * rather than have a disk overwrite it.  Hints, not protected.
	 */
	pgoff_t last_cleared;
	bool uses_cleared;
	/* The alias that was written to last, which ended it; likewise. */
	pgoff_t last_ended;
	/* Protect what pages are, by a hash of their index. */
	struct mutex locks[VSWAP_LOCKS];
};

static inline void vswap_count(struct vswap_ram *ram, enum vswap_stat stat)
{
	atomic64_inc(&ram->stats[stat]);
}

static inline struct mutex *vswap_page_lock(struct vswap_ram *ram,
					    pgoff_t index)
{
	return &ram->locks[index % VSWAP_LOCKS];
}

/*
 * Blocks of an image that share a lock.  Who reads blocks for aliases samples
 * the sequence before, and who writes blocks increments it before and after.
 */
struct vswap_region {
	/* Protects all below, and the aliases of the region's blocks. */
	spinlock_t lock;
	u32 writers;
	u32 seq;
	/*
	 * Blocks that are being written, and those by several at a time, which
	 * stay here until nobody writes to the region.  Regions that share a
	 * lock share the bits, so they are a bit more than that.
	 */
	u64 writing;
	u64 contended;
};

struct vswap_heads {
	u32 page[VSWAP_REGION_BLOCKS];
};

/* An image file that was opened; it lives as long as there are aliases of it. */
struct vswap_image {
	struct kref kref;
	struct vswap_mnt *mnt;
	struct list_head list;
	u32 id;
	/* For reads on behalf of aliases; direct, if the lower file can. */
	struct file *file;
	struct inode *lower;
	bool direct;
	atomic_long_t nr_aliases;
	atomic_long_t nr_heads;
	/* First page of each block, by block >> VSWAP_REGION_SHIFT. */
	struct xarray heads;
	struct vswap_region regions[VSWAP_REGIONS];
};

static inline struct vswap_region *vswap_region(struct vswap_image *image,
						u64 block)
{
	return &image->regions[(block >> VSWAP_REGION_SHIFT) % VSWAP_REGIONS];
}

/* A page of a RAM file. */
struct vswap_page {
	struct vswap_ram *ram;
	pgoff_t index;
};

/*
 * shmem says that there is no space for an inode, but its mount here has no limits:
 * there is no memory.
 */
static inline int vswap_shmem_error(int err)
{
	return err == -ENOSPC ? -ENOMEM : err;
}

/* super.c */
extern unsigned int vswap_cluster;
void vswap_mnt_put(struct vswap_mnt *mnt);

/* ample.c */
void vswap_ample_add(struct vswap_ram *ram);
void vswap_ample_del(struct vswap_ram *ram);
bool vswap_is_ample(struct vswap_ram *ram, struct mm_struct *mm);

/* alias.c */
bool vswap_has_chunk(struct vswap_ram *ram, pgoff_t index);
u64 vswap_get_entry(struct vswap_ram *ram, pgoff_t index);
int vswap_set_alias(struct vswap_ram *ram, pgoff_t index,
		    struct vswap_image *image, u64 block, const u32 *seq);
bool vswap_set_pending(struct vswap_ram *ram, pgoff_t index, u64 entry);
void vswap_clear_entry(struct vswap_ram *ram, pgoff_t index);
void vswap_free_chunks(struct vswap_ram *ram);
struct vswap_image *vswap_entry_to_image(struct vswap_mnt *mnt, u64 entry);
pgoff_t vswap_find_alias(struct vswap_image *image, struct vswap_ram *ram,
			 u64 block);
struct file *vswap_next_alias(struct vswap_image *image, u64 block,
			      const struct vswap_page *skip,
			      struct vswap_ram **ram, pgoff_t *index);
u32 vswap_region_sample(struct vswap_image *image, u64 block);
void vswap_regions_begin(struct vswap_image *image, u64 first, u64 last);
void vswap_regions_end(struct vswap_image *image, u64 first, u64 last);

/* ram.c */
extern const struct inode_operations vswap_ram_inode_operations;
extern const struct file_operations vswap_ram_file_operations;
int vswap_ram_init_inode(struct inode *inode, struct vswap_mnt *mnt);
void vswap_ram_evict_inode(struct inode *inode);
struct vswap_ram *vswap_vma_to_ram(struct vm_area_struct *vma);
struct folio *vswap_alloc_folio(struct vswap_ram *ram);
bool vswap_is_swapped(struct vswap_ram *ram, pgoff_t index);
void vswap_drop_page(struct vswap_ram *ram, pgoff_t index);
int vswap_fill_page(struct vswap_ram *ram, pgoff_t index,
		    struct folio *content);
int vswap_end_alias(struct vswap_ram *ram, pgoff_t index);
int vswap_install_block(struct vswap_ram *ram, pgoff_t index,
			struct folio *folio, struct vswap_image *image,
			u64 block, u32 seq);
int vswap_materialize(struct vswap_ram *ram, pgoff_t index, u64 entry);
bool vswap_mark_pending(struct vswap_ram *ram, pgoff_t index,
			struct page *page, u64 entry);
void vswap_check_pending(struct vswap_ram *ram, pgoff_t index, u64 entry);
void vswap_finish_pending(struct vswap_ram *ram, pgoff_t index,
			  struct vswap_image *image, u64 block, bool written);

/* refault.c */
int vswap_need_blocks(struct vswap_ram *ram, struct vswap_image *image,
		      u64 block, struct bio_vec *bvec, unsigned int nr);
struct folio *vswap_add_folio(struct vswap_ram *ram, pgoff_t index, gfp_t gfp);
int vswap_read_cluster(struct vswap_ram *ram, struct folio *folio,
		       struct vswap_image *image, u64 block,
		       unsigned int cluster, struct mm_struct *mm);
unsigned int vswap_read_dropped(struct vswap_ram *ram,
				struct vswap_image *image, u64 first, u64 end);
void vswap_read_ahead(struct vswap_ram *ram, struct vswap_image *image,
		      u64 block, struct mm_struct *mm);
void vswap_wait_for_reads(struct vswap_ram *ram);

/* buffer.c */
enum vswap_buffer_event {
	VSWAP_BUFFER_BEGIN,
	VSWAP_BUFFER_COMPLETE,
	VSWAP_BUFFER_MERGE,
	VSWAP_BUFFER_DROP,
};

void vswap_init_buffers(struct vswap_ram *ram);
void vswap_free_buffers(struct vswap_ram *ram);
void vswap_drop_buffer(struct vswap_ram *ram, pgoff_t index);
void vswap_drop_buffers(struct vswap_ram *ram, pgoff_t index, pgoff_t end);
int vswap_merge_buffer(struct vswap_ram *ram, pgoff_t index);

static inline bool vswap_has_buffers(struct vswap_ram *ram)
{
	return atomic_read(&ram->nr_buffers);
}

/* A hint, unless the page is locked. */
static inline bool vswap_has_buffer(struct vswap_ram *ram, pgoff_t index)
{
	return vswap_has_buffers(ram) && xa_load(&ram->buffers, index);
}

/* stats.c */
long vswap_ram_ioctl(struct file *file, unsigned int cmd, unsigned long arg);

/* image.c */
extern struct workqueue_struct *vswap_wq;
struct cgroup_subsys_state *vswap_get_blkcg(void);
extern const struct inode_operations vswap_image_inode_operations;
extern const struct file_operations vswap_image_file_operations;
int vswap_image_init(void);
void vswap_image_exit(void);
void vswap_image_put(struct vswap_image *image);
struct vswap_image *vswap_image_get(struct vswap_mnt *mnt,
				    const struct path *lower);
int vswap_associate(struct file *file, struct vswap_ram *ram, pgoff_t index,
		    u64 block, unsigned long nr);

/* super.c, on behalf of the others */
struct vswap_inode {
	struct inode vfs_inode;
	struct vswap_mnt *mnt;
	/* An image, or a directory with images in it. */
	struct path lower;
	/* What it is found by, also when its path was put already. */
	struct inode *lower_inode;
	/* A RAM file; stays as it is until the inode goes. */
	struct vswap_ram *ram;
	/* Set when an image is opened for the first time, likewise. */
	struct vswap_image *image;
};

static inline struct vswap_inode *VSWAP_I(struct inode *inode)
{
	return container_of(inode, struct vswap_inode, vfs_inode);
}

void vswap_copy_attr(struct inode *inode, struct inode *lower);

#endif /* __KVM_VSWAP_INTERNAL_H */
