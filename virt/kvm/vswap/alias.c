// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: which pages of RAM files are aliases of which blocks of images.
 *
 * There are two indices.  From pages to blocks, in chunks of entries that each
 * RAM file has: eight bytes a page.  From blocks to pages, by image and region:
 * the number of the first page, and with the page the number of the next one;
 * four bytes each.
 *
 * Lock order:
 *
 *   lock of a page (vswap_page_lock())
 *     vswap_ram.huge_lock
 *       lock of a folio
 *         vswap_region.lock
 *           xa_lock of images' and RAM files' arrays
 *
 * A page that is locked is the only one that its task holds, unless it got the
 * others by mutex_trylock().
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/slab.h>

#include "internal.h"

static struct vswap_chunk *vswap_chunk(struct vswap_ram *ram, pgoff_t index)
{
	return xa_load(&ram->chunks, index >> VSWAP_CHUNK_SHIFT);
}

/* Whether the page, or another of its chunk, was ever tracked. */
bool vswap_has_chunk(struct vswap_ram *ram, pgoff_t index)
{
	return vswap_chunk(ram, index);
}

static u32 vswap_page_id(struct vswap_chunk *chunk, pgoff_t index)
{
	return chunk->id << VSWAP_CHUNK_SHIFT | (index - chunk->index);
}

/* Whoever found the page in the index of an image holds the region's lock. */
static struct vswap_chunk *vswap_page_chunk(struct vswap_mnt *mnt, u32 id)
{
	return xa_load(&mnt->chunks, id >> VSWAP_CHUNK_SHIFT);
}

static u32 *vswap_page_next(struct vswap_mnt *mnt, u32 id)
{
	struct vswap_chunk *chunk = vswap_page_chunk(mnt, id);

	return &chunk->next[id % VSWAP_CHUNK_PAGES];
}

/*
 * The entry of a page.  It stays as it is as long as the page is locked;
 * without, it is a hint.
 */
u64 vswap_get_entry(struct vswap_ram *ram, pgoff_t index)
{
	struct vswap_chunk *chunk = vswap_chunk(ram, index);

	return chunk ? READ_ONCE(chunk->entries[index % VSWAP_CHUNK_PAGES]) : 0;
}

static void vswap_free_chunk(struct vswap_chunk *chunk)
{
	free_page((unsigned long)chunk->entries);
	kfree(chunk->next);
	kfree(chunk);
}

/* The chunk of a page, made if need be; NULL if there is no memory for it. */
static struct vswap_chunk *vswap_make_chunk(struct vswap_ram *ram,
					    pgoff_t index)
{
	struct vswap_chunk *chunk = vswap_chunk(ram, index), *old;

	if (chunk)
		return chunk;

	chunk = kzalloc(sizeof(*chunk), GFP_KERNEL_ACCOUNT);
	if (!chunk)
		return NULL;
	chunk->ram = ram;
	chunk->index = round_down(index, VSWAP_CHUNK_PAGES);
	chunk->entries = (u64 *)get_zeroed_page(GFP_KERNEL_ACCOUNT);
	chunk->next = kcalloc(VSWAP_CHUNK_PAGES, sizeof(*chunk->next),
			      GFP_KERNEL_ACCOUNT);
	if (!chunk->entries || !chunk->next)
		goto free;
	BUILD_BUG_ON(VSWAP_CHUNK_PAGES * sizeof(*chunk->entries) != PAGE_SIZE);

	/* Page 0 of chunk 0 would be nobody. */
	if (xa_alloc(&ram->mnt->chunks, &chunk->id, chunk,
		     XA_LIMIT(1, VSWAP_MAX_CHUNKS - 1), GFP_KERNEL_ACCOUNT))
		goto free;

	/* Pages of a chunk have locks of their own: two can get here. */
	down_write(&ram->huge_lock);
	old = xa_cmpxchg(&ram->chunks, index >> VSWAP_CHUNK_SHIFT, NULL, chunk,
			 GFP_KERNEL_ACCOUNT);
	up_write(&ram->huge_lock);
	if (old) {
		xa_erase(&ram->mnt->chunks, chunk->id);
		vswap_free_chunk(chunk);
		return xa_is_err(old) ? NULL : old;
	}
	atomic_long_inc(&ram->nr_chunks);
	return chunk;

free:
	vswap_free_chunk(chunk);
	return NULL;
}

static int vswap_make_heads(struct vswap_image *image, u64 block)
{
	unsigned long key = block >> VSWAP_REGION_SHIFT;
	struct vswap_heads *heads;
	int ret;

	if (xa_load(&image->heads, key))
		return 0;

	heads = kzalloc(sizeof(*heads), GFP_KERNEL_ACCOUNT);
	if (!heads)
		return -ENOMEM;
	ret = xa_insert(&image->heads, key, heads, GFP_KERNEL_ACCOUNT);
	if (ret)
		kfree(heads);
	else
		atomic_long_inc(&image->nr_heads);
	return ret == -EBUSY ? 0 : ret;
}

static u64 vswap_block_bit(u64 block)
{
	return BIT_ULL(block % VSWAP_REGION_BLOCKS);
}

/*
 * Called with the region's lock held, the lifetime of "heads" is protected by
 * it.
 */
static int vswap_link(struct vswap_image *image, struct vswap_chunk *chunk,
		      pgoff_t index, u64 block)
{
	struct vswap_heads *heads;
	unsigned int n = 0;
	u32 *head, id;

	lockdep_assert_held(&vswap_region(image, block)->lock);

	heads = xa_load(&image->heads, block >> VSWAP_REGION_SHIFT);
	if (!heads)
		return -ENOENT;
	head = &heads->page[block % VSWAP_REGION_BLOCKS];
	for (id = *head; id; id = *vswap_page_next(image->mnt, id)) {
		if (++n == VSWAP_MAX_SHARERS)
			return -ENOSPC;
	}

	chunk->next[index % VSWAP_CHUNK_PAGES] = *head;
	*head = vswap_page_id(chunk, index);
	WRITE_ONCE(chunk->entries[index % VSWAP_CHUNK_PAGES],
		   vswap_entry(image->id, block));
	return 0;
}

/*
 * Make a locked page an alias of a block, that the caller has read after it
 * sampled the sequence @seq, or has written, if that is NULL, and is still the
 * writer of.  The page must not be an alias already; if it is marked as pending,
 * the mark is gone then.
 *
 * Returns -EAGAIN if the block was written meanwhile, -ENOSPC if it has too
 * many aliases, and -ENOMEM.
 */
int vswap_set_alias(struct vswap_ram *ram, pgoff_t index,
		    struct vswap_image *image, u64 block, const u32 *seq)
{
	struct vswap_region *region = vswap_region(image, block);
	struct vswap_chunk *chunk;
	int ret;

	lockdep_assert_held(vswap_page_lock(ram, index));

	if (WARN_ON_ONCE(vswap_entry_is_alias(vswap_get_entry(ram, index))))
		return -EINVAL;
	if (block > VSWAP_BLOCK_MASK)
		return -ENOSPC;

	chunk = vswap_make_chunk(ram, index);
	if (!chunk)
		return -ENOMEM;

	do {
		ret = vswap_make_heads(image, block);
		if (ret)
			return ret;

		spin_lock(&region->lock);
		if (seq ? region->writers || region->seq != *seq :
			  region->contended & vswap_block_bit(block))
			ret = -EAGAIN;
		else
			ret = vswap_link(image, chunk, index, block);
		spin_unlock(&region->lock);
		/* The last alias of the region went meanwhile. */
	} while (ret == -ENOENT);

	if (!ret) {
		kref_get(&image->kref);
		atomic_long_inc(&image->nr_aliases);
		atomic_long_inc(&ram->nr_aliases);
	}
	return ret;
}

static void vswap_unlink(struct vswap_image *image, struct vswap_chunk *chunk,
			 pgoff_t index, u64 block)
{
	struct vswap_heads *heads;
	u32 id, *link;

	lockdep_assert_held(&vswap_region(image, block)->lock);

	heads = xa_load(&image->heads, block >> VSWAP_REGION_SHIFT);
	id = vswap_page_id(chunk, index);
	link = &heads->page[block % VSWAP_REGION_BLOCKS];
	while (*link != id)
		link = vswap_page_next(image->mnt, *link);
	*link = chunk->next[index % VSWAP_CHUNK_PAGES];
	chunk->next[index % VSWAP_CHUNK_PAGES] = 0;

	if (!memchr_inv(heads, 0, sizeof(*heads))) {
		xa_erase(&image->heads, block >> VSWAP_REGION_SHIFT);
		kfree(heads);
		atomic_long_dec(&image->nr_heads);
	}
}

/* Nothing is known of a locked page any more. */
void vswap_clear_entry(struct vswap_ram *ram, pgoff_t index)
{
	struct vswap_chunk *chunk = vswap_chunk(ram, index);
	struct vswap_region *region;
	struct vswap_image *image;
	u64 entry, block;

	if (!chunk)
		return;
	entry = chunk->entries[index % VSWAP_CHUNK_PAGES];
	if (!entry)
		return;
	if (entry & VSWAP_PENDING) {
		WRITE_ONCE(chunk->entries[index % VSWAP_CHUNK_PAGES], 0);
		return;
	}

	/* The alias that is about to go holds the image. */
	image = vswap_entry_to_image(ram->mnt, entry);
	block = vswap_entry_block(entry);
	region = vswap_region(image, block);
	spin_lock(&region->lock);
	vswap_unlink(image, chunk, index, block);
	WRITE_ONCE(chunk->entries[index % VSWAP_CHUNK_PAGES], 0);
	spin_unlock(&region->lock);

	atomic_long_dec(&image->nr_aliases);
	atomic_long_dec(&ram->nr_aliases);
	vswap_image_put(image);
}

/*
 * Remember that a locked page, which is not an alias, is being written to a
 * block.  Returns false if there is no memory to do so.
 */
bool vswap_set_pending(struct vswap_ram *ram, pgoff_t index, u64 entry)
{
	struct vswap_chunk *chunk = vswap_make_chunk(ram, index);

	lockdep_assert_held(vswap_page_lock(ram, index));

	if (!chunk)
		return false;
	WRITE_ONCE(chunk->entries[index % VSWAP_CHUNK_PAGES],
		   entry | VSWAP_PENDING);
	return true;
}

/* A RAM file goes: nobody maps it, and nobody gets a reference to it. */
void vswap_free_chunks(struct vswap_ram *ram)
{
	struct vswap_chunk *chunk;
	unsigned long key;
	pgoff_t i;

	xa_for_each(&ram->chunks, key, chunk) {
		for (i = 0; i < VSWAP_CHUNK_PAGES; i++) {
			if (chunk->entries[i])
				vswap_clear_entry(ram, chunk->index + i);
		}
		xa_erase(&ram->mnt->chunks, chunk->id);
		xa_erase(&ram->chunks, key);
		vswap_free_chunk(chunk);
		cond_resched();
	}
	xa_destroy(&ram->chunks);
}

/* The image of an alias, as long as it stays one. */
struct vswap_image *vswap_entry_to_image(struct vswap_mnt *mnt, u64 entry)
{
	return xa_load(&mnt->images, vswap_entry_image(entry));
}

/*
 * A page of a RAM file that is an alias of a block, or ULONG_MAX.  A hint, as
 * nothing is locked.
 */
pgoff_t vswap_find_alias(struct vswap_image *image, struct vswap_ram *ram,
			 u64 block)
{
	struct vswap_region *region = vswap_region(image, block);
	pgoff_t index = ULONG_MAX;
	struct vswap_heads *heads;
	struct vswap_chunk *chunk;
	u32 id;

	spin_lock(&region->lock);
	heads = xa_load(&image->heads, block >> VSWAP_REGION_SHIFT);
	id = heads ? heads->page[block % VSWAP_REGION_BLOCKS] : 0;
	for (; id; id = chunk->next[id % VSWAP_CHUNK_PAGES]) {
		chunk = vswap_page_chunk(image->mnt, id);
		if (chunk->ram == ram) {
			index = chunk->index + id % VSWAP_CHUNK_PAGES;
			break;
		}
	}
	spin_unlock(&region->lock);
	return index;
}

/*
 * An alias of a block, other than the page to be skipped, if any.  Returns the shmem
 * file, referenced, that keeps *@ram from going; NULL if there is no alias;
 * and -EAGAIN if the RAM file of one is about to go.
 */
struct file *vswap_next_alias(struct vswap_image *image, u64 block,
			      const struct vswap_page *skip,
			      struct vswap_ram **ram, pgoff_t *index)
{
	struct vswap_region *region = vswap_region(image, block);
	struct file *file = NULL;
	struct vswap_heads *heads;
	struct vswap_chunk *chunk;
	u32 id;

	spin_lock(&region->lock);
	heads = xa_load(&image->heads, block >> VSWAP_REGION_SHIFT);
	id = heads ? heads->page[block % VSWAP_REGION_BLOCKS] : 0;
	for (; id; id = chunk->next[id % VSWAP_CHUNK_PAGES]) {
		chunk = vswap_page_chunk(image->mnt, id);
		*ram = chunk->ram;
		*index = chunk->index + id % VSWAP_CHUNK_PAGES;
		if (skip && *ram == skip->ram && *index == skip->index)
			continue;
		/*
		 * The RAM file cannot be freed before the page is unlinked,
		 * which needs the lock.
		 */
		file = get_file_active(&chunk->ram->shmem);
		if (!file)
			file = ERR_PTR(-EAGAIN);
		break;
	}
	spin_unlock(&region->lock);
	return file;
}

/* To be called before a block is read that becomes an alias. */
u32 vswap_region_sample(struct vswap_image *image, u64 block)
{
	struct vswap_region *region = vswap_region(image, block);
	u32 seq;

	spin_lock(&region->lock);
	seq = region->seq;
	spin_unlock(&region->lock);
	return seq;
}

static void vswap_region_begin(struct vswap_region *region, u64 blocks)
{
	lockdep_assert_held(&region->lock);

	region->writers++;
	region->contended |= region->writing & blocks;
	region->writing |= blocks;
}

static void vswap_region_end(struct vswap_region *region, u64 blocks)
{
	lockdep_assert_held(&region->lock);

	region->writing &= ~blocks | region->contended;
	if (!--region->writers) {
		region->writing = 0;
		region->contended = 0;
	}
}

static void vswap_regions_bump(struct vswap_image *image, u64 first, u64 last,
			       bool begin)
{
	u64 first_key = first >> VSWAP_REGION_SHIFT;
	u64 last_key = last >> VSWAP_REGION_SHIFT;
	struct vswap_region *region;
	u64 key, end, blocks;

	/* Regions share locks; of more than there are, all blocks are meant. */
	end = min(last_key, first_key + VSWAP_REGIONS - 1);
	for (key = first_key; key <= end; key++) {
		blocks = U64_MAX;
		if (end == last_key && key == first_key)
			blocks &= U64_MAX << first % VSWAP_REGION_BLOCKS;
		if (end == last_key && key == last_key)
			blocks &= U64_MAX >> (VSWAP_REGION_BLOCKS - 1 -
					      last % VSWAP_REGION_BLOCKS);
		region = vswap_region(image, key << VSWAP_REGION_SHIFT);
		spin_lock(&region->lock);
		if (begin)
			vswap_region_begin(region, blocks);
		else
			vswap_region_end(region, blocks);
		region->seq++;
		spin_unlock(&region->lock);
	}
}

/*
 * From here on until the end no page becomes an alias of these blocks, but by
 * their writer, if nobody else writes to the same block meanwhile.  Those that
 * are one already have to be materialized.
 */
void vswap_regions_begin(struct vswap_image *image, u64 first, u64 last)
{
	vswap_regions_bump(image, first, last, true);
}

void vswap_regions_end(struct vswap_image *image, u64 first, u64 last)
{
	vswap_regions_bump(image, first, last, false);
}
