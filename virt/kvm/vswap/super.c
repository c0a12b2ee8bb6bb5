// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: the file system kvm_vswap.
 *
 *	mount -t kvm_vswap -o lower=DIR[,huge=never|advise] none MNT
 *
 * Files that exist in the lower directory appear as image files, and so do
 * block devices.  A file that is created in the mount is a RAM file, and a
 * directory that is created there can have RAM files in it; they are not in the
 * lower directory, and gone when the mount is.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cred.h>
#include <linux/fs_context.h>
#include <linux/fs_parser.h>
#include <linux/fs_stack.h>
#include <linux/huge_mm.h>
#include <linux/magic.h>
#include <linux/module.h>
#include <linux/mount.h>
#include <linux/namei.h>
#include <linux/slab.h>
#include <linux/statfs.h>

#include "internal.h"
#include "vswap.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

static bool vswap_enabled;
module_param_named(vswap, vswap_enabled, bool, 0444);
MODULE_PARM_DESC(vswap, "Offer the file system kvm_vswap, for guest memory that is swapped with knowledge of the guest's disk (default: N)");

static int vswap_set_cluster(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, 1, VSWAP_MAX_CLUSTER);
}

static const struct kernel_param_ops vswap_cluster_ops = {
	.set = vswap_set_cluster,
	.get = param_get_uint,
};

/* As much as readahead of files does by default. */
unsigned int vswap_cluster = SZ_128K / PAGE_SIZE;
module_param_cb(vswap_cluster, &vswap_cluster_ops, &vswap_cluster, 0644);
MODULE_PARM_DESC(vswap_cluster, "Pages of an image that are read at once when one that was dropped is needed, 1 to 256 (default: 32)");

DEFINE_STATIC_KEY_FALSE(kvm_vswap_key);

static struct kmem_cache *vswap_inode_cache;
static const struct inode_operations vswap_dir_inode_operations;
static const struct file_operations vswap_dir_file_operations;

/* Mounts */

static void vswap_mnt_free(struct kref *kref)
{
	struct vswap_mnt *mnt = container_of(kref, struct vswap_mnt, kref);

	WARN_ON_ONCE(!xa_empty(&mnt->chunks) || !xa_empty(&mnt->images));
	static_branch_dec(&kvm_vswap_key);
	xa_destroy(&mnt->chunks);
	xa_destroy(&mnt->images);
	kern_unmount(mnt->shmem);
	put_cred(mnt->cred);
	mutex_destroy(&mnt->lock);
	kfree(mnt);
}

void vswap_mnt_put(struct vswap_mnt *mnt)
{
	kref_put(&mnt->kref, vswap_mnt_free);
}

static struct vswap_mnt *vswap_mnt_new(bool huge)
{
	char advise[] = "huge=advise";
	struct file_system_type *tmpfs;
	struct vswap_mnt *mnt;
	int ret;

	mnt = kzalloc(sizeof(*mnt), GFP_KERNEL_ACCOUNT);
	if (!mnt)
		return ERR_PTR(-ENOMEM);
	tmpfs = get_fs_type("tmpfs");
	if (!tmpfs) {
		ret = -ENODEV;
		goto free;
	}
	/* A mount of the kernel's own has no limits, and no huge pages by default. */
	mnt->shmem = vfs_kern_mount(tmpfs, SB_KERNMOUNT, tmpfs->name,
				    huge ? advise : NULL);
	module_put(tmpfs->owner);
	if (IS_ERR(mnt->shmem)) {
		ret = vswap_shmem_error(PTR_ERR(mnt->shmem));
		goto free;
	}
	kref_init(&mnt->kref);
	mnt->huge = huge;
	mnt->cred = get_current_cred();
	xa_init_flags(&mnt->chunks, XA_FLAGS_ALLOC1 | XA_FLAGS_ACCOUNT);
	xa_init_flags(&mnt->dentries, XA_FLAGS_ACCOUNT);
	xa_init_flags(&mnt->images, XA_FLAGS_ALLOC1 | XA_FLAGS_ACCOUNT);
	mutex_init(&mnt->lock);
	INIT_LIST_HEAD(&mnt->image_list);
	static_branch_inc(&kvm_vswap_key);
	return mnt;

free:
	kfree(mnt);
	return ERR_PTR(ret);
}

/* Inodes */

static struct inode *vswap_alloc_inode(struct super_block *sb)
{
	struct vswap_inode *vi;

	vi = alloc_inode_sb(sb, vswap_inode_cache, GFP_KERNEL);
	if (!vi)
		return NULL;
	vi->mnt = NULL;
	vi->lower = (struct path) {};
	vi->lower_inode = NULL;
	vi->ram = NULL;
	vi->image = NULL;
	return &vi->vfs_inode;
}

static void vswap_free_inode(struct inode *inode)
{
	kmem_cache_free(vswap_inode_cache, VSWAP_I(inode));
}

static void vswap_evict_inode(struct inode *inode)
{
	struct vswap_inode *vi = VSWAP_I(inode);

	truncate_inode_pages_final(&inode->i_data);
	clear_inode(inode);
	if (vi->ram)
		vswap_ram_evict_inode(inode);
	if (vi->image)
		vswap_image_put(vi->image);
	path_put(&vi->lower);
}

static struct inode *vswap_new_inode(struct super_block *sb, umode_t mode)
{
	struct inode *inode = new_inode(sb);

	if (!inode)
		return NULL;
	inode->i_ino = get_next_ino();
	inode->i_mode = mode;
	simple_inode_init_ts(inode);
	VSWAP_I(inode)->mnt = sb->s_fs_info;
	return inode;
}

void vswap_copy_attr(struct inode *inode, struct inode *lower)
{
	umode_t type = S_ISDIR(lower->i_mode) ? S_IFDIR : S_IFREG;

	inode->i_uid = lower->i_uid;
	inode->i_gid = lower->i_gid;
	inode->i_mode = type | (lower->i_mode & 07777);
	inode_set_atime_to_ts(inode, inode_get_atime(lower));
	inode_set_mtime_to_ts(inode, inode_get_mtime(lower));
	inode_set_ctime_to_ts(inode, inode_get_ctime(lower));
	if (S_ISREG(lower->i_mode))
		i_size_write(inode, i_size_read(lower));
}

static int vswap_test_inode(struct inode *inode, void *lower)
{
	return VSWAP_I(inode)->lower_inode == lower;
}

static int vswap_set_inode(struct inode *inode, void *lower)
{
	VSWAP_I(inode)->lower_inode = lower;
	return 0;
}

/* The inode of something in the lower file system. */
static struct inode *vswap_lower_inode(struct super_block *sb,
				       const struct path *lower)
{
	struct inode *lower_inode = d_inode(lower->dentry);
	struct inode *inode;

	inode = iget5_locked(sb, (unsigned long)lower_inode, vswap_test_inode,
			     vswap_set_inode, lower_inode);
	if (!inode)
		return ERR_PTR(-ENOMEM);
	if (!(inode->i_state & I_NEW))
		return inode;

	VSWAP_I(inode)->mnt = sb->s_fs_info;
	VSWAP_I(inode)->lower = *lower;
	path_get(lower);
	inode->i_ino = lower_inode->i_ino;
	vswap_copy_attr(inode, lower_inode);
	if (S_ISDIR(inode->i_mode)) {
		set_nlink(inode, 2);
		inode->i_op = &vswap_dir_inode_operations;
		inode->i_fop = &vswap_dir_file_operations;
	} else {
		inode->i_op = &vswap_image_inode_operations;
		inode->i_fop = &vswap_image_file_operations;
	}
	unlock_new_inode(inode);
	return inode;
}

/* Directories */

static struct dentry *vswap_lookup(struct inode *dir, struct dentry *dentry,
				   unsigned int flags)
{
	struct path *parent = &VSWAP_I(dir)->lower;
	struct inode *inode = NULL;
	struct path lower;

	if (dentry->d_name.len > NAME_MAX)
		return ERR_PTR(-ENAMETOOLONG);
	if (!parent->dentry)
		return d_splice_alias(NULL, dentry);

	lower.mnt = parent->mnt;
	lower.dentry = lookup_one_unlocked(mnt_idmap(parent->mnt),
					   dentry->d_name.name, parent->dentry,
					   dentry->d_name.len);
	if (IS_ERR(lower.dentry))
		return lower.dentry;
	if (d_is_positive(lower.dentry) && !d_mountpoint(lower.dentry)) {
		umode_t mode = d_inode(lower.dentry)->i_mode;

		if (S_ISREG(mode) || S_ISBLK(mode) || S_ISDIR(mode))
			inode = vswap_lower_inode(dir->i_sb, &lower);
	}
	dput(lower.dentry);
	return d_splice_alias(inode, dentry);
}

/*
 * Does the lower entry have the name still?  If a file has several, that is the one by
 * which it was found first; by the others it is looked up each time.
 */
static bool vswap_has_name(struct dentry *lower, struct dentry *lower_parent,
			   struct dentry *dentry)
{
	struct name_snapshot name, lower_name;
	bool same;

	take_dentry_name_snapshot(&name, dentry);
	take_dentry_name_snapshot(&lower_name, lower);
	same = READ_ONCE(lower->d_parent) == lower_parent &&
	       name.name.len == lower_name.name.len &&
	       !memcmp(name.name.name, lower_name.name.name, name.name.len);
	release_dentry_name_snapshot(&lower_name);
	release_dentry_name_snapshot(&name);
	return same;
}

/* Files can appear in the lower directory, be renamed or replaced, and go. */
static int vswap_d_revalidate(struct dentry *dentry, unsigned int flags)
{
	struct dentry *parent, *lower;
	struct inode *inode;
	int ret = 1;

	if (flags & LOOKUP_RCU)
		return -ECHILD;
	if (IS_ROOT(dentry))
		return 1;

	inode = d_inode(dentry);
	parent = dget_parent(dentry);
	if (!inode) {
		/* Of the mount's own directories, all entries are known. */
		ret = !VSWAP_I(d_inode(parent))->lower.dentry;
	} else if (VSWAP_I(inode)->lower.dentry) {
		lower = VSWAP_I(inode)->lower.dentry;
		ret = !d_unhashed(lower) && d_is_positive(lower) &&
		      vswap_has_name(lower, VSWAP_I(d_inode(parent))->lower.dentry,
				     dentry);
		if (ret && (lower->d_flags & DCACHE_OP_REVALIDATE))
			ret = lower->d_op->d_revalidate(lower, flags);
		if (ret > 0)
			vswap_copy_attr(inode, d_inode(lower));
	}
	dput(parent);
	return ret;
}

static const struct dentry_operations vswap_dentry_operations = {
	.d_revalidate	= vswap_d_revalidate,
};

/*
 * What is created stays in the dentry cache until it is removed, or the mount
 * goes.  Images do not, so kill_litter_super() is not for this file system.
 */
static int vswap_add_dentry(struct inode *dir, struct dentry *dentry,
			    struct inode *inode)
{
	struct vswap_mnt *mnt = dir->i_sb->s_fs_info;
	int ret;

	ret = xa_insert(&mnt->dentries, (unsigned long)dentry, dentry,
			GFP_KERNEL_ACCOUNT);
	if (ret)
		return ret;
	d_instantiate(dentry, inode);
	dget(dentry);
	inode_set_mtime_to_ts(dir, inode_set_ctime_current(dir));
	return 0;
}

static void vswap_forget_dentry(struct inode *dir, struct dentry *dentry)
{
	struct vswap_mnt *mnt = dir->i_sb->s_fs_info;

	xa_erase(&mnt->dentries, (unsigned long)dentry);
}

static int vswap_create(struct mnt_idmap *idmap, struct inode *dir,
			struct dentry *dentry, umode_t mode, bool excl)
{
	struct inode *inode = vswap_new_inode(dir->i_sb, 0);
	int ret;

	if (!inode)
		return -ENOMEM;
	inode_init_owner(idmap, inode, dir, mode);
	ret = vswap_ram_init_inode(inode, VSWAP_I(inode)->mnt);
	if (!ret)
		ret = vswap_add_dentry(dir, dentry, inode);
	if (ret)
		iput(inode);
	return ret;
}

static int vswap_tmpfile(struct mnt_idmap *idmap, struct inode *dir,
			 struct file *file, umode_t mode)
{
	struct inode *inode = vswap_new_inode(dir->i_sb, 0);
	int ret;

	if (!inode)
		return -ENOMEM;
	inode_init_owner(idmap, inode, dir, mode);
	ret = vswap_ram_init_inode(inode, VSWAP_I(inode)->mnt);
	if (ret) {
		iput(inode);
		return ret;
	}
	d_tmpfile(file, inode);
	return finish_open_simple(file, 0);
}

static int vswap_mkdir(struct mnt_idmap *idmap, struct inode *dir,
		       struct dentry *dentry, umode_t mode)
{
	struct inode *inode = vswap_new_inode(dir->i_sb, 0);
	int ret;

	if (!inode)
		return -ENOMEM;
	inode_init_owner(idmap, inode, dir, mode | S_IFDIR);
	inode->i_op = &vswap_dir_inode_operations;
	inode->i_fop = &vswap_dir_file_operations;
	set_nlink(inode, 2);
	ret = vswap_add_dentry(dir, dentry, inode);
	if (ret)
		iput(inode);
	else
		inc_nlink(dir);
	return ret;
}

/* Files of the lower directory are removed there. */
static bool vswap_is_lower(struct dentry *dentry)
{
	return VSWAP_I(d_inode(dentry))->lower.dentry;
}

static int vswap_unlink(struct inode *dir, struct dentry *dentry)
{
	if (vswap_is_lower(dentry))
		return -EPERM;
	vswap_forget_dentry(dir, dentry);
	return simple_unlink(dir, dentry);
}

static int vswap_rmdir(struct inode *dir, struct dentry *dentry)
{
	if (vswap_is_lower(dentry))
		return -EPERM;
	if (!simple_empty(dentry))
		return -ENOTEMPTY;
	vswap_forget_dentry(dir, dentry);
	return simple_rmdir(dir, dentry);
}

static int vswap_dir_getattr(struct mnt_idmap *idmap, const struct path *path,
			     struct kstat *stat, u32 request_mask,
			     unsigned int flags)
{
	generic_fillattr(idmap, request_mask, d_inode(path->dentry), stat);
	return 0;
}

static int vswap_dir_permission(struct mnt_idmap *idmap, struct inode *inode,
				int mask)
{
	struct path *lower = &VSWAP_I(inode)->lower;

	/* Who creates RAM files does not write to the lower directory. */
	if (!lower->dentry || (mask & MAY_WRITE))
		return generic_permission(idmap, inode, mask);
	if (mask & MAY_NOT_BLOCK)
		return -ECHILD;
	return inode_permission(mnt_idmap(lower->mnt), d_inode(lower->dentry),
				mask);
}

static const struct inode_operations vswap_dir_inode_operations = {
	.lookup		= vswap_lookup,
	.create		= vswap_create,
	.tmpfile	= vswap_tmpfile,
	.unlink		= vswap_unlink,
	.mkdir		= vswap_mkdir,
	.rmdir		= vswap_rmdir,
	.getattr	= vswap_dir_getattr,
	.permission	= vswap_dir_permission,
};

/*
 * Directories list what the lower one has, "." and ".." included, and then RAM
 * files and directories of the mount's own.  A lower file system gives positions
 * as it likes, ext4 hashes of 63 bits, so that none is left to tell the latter
 * by: an open directory knows what it has listed.  Positions of its own entries
 * begin at VSWAP_DIR_OWN, then.
 */
#define VSWAP_DIR_OWN	2

struct vswap_dir {
	/* NULL in a directory of the mount's own. */
	struct file *lower;
	/* All of lower is listed; protected by the file's f_pos_lock. */
	bool listed;
};

struct vswap_dir_context {
	struct dir_context ctx;
	struct dir_context *caller;
	bool full;
};

static bool vswap_fill_dir(struct dir_context *ctx, const char *name, int len,
			   loff_t pos, u64 ino, unsigned int type)
{
	struct vswap_dir_context *vc;

	vc = container_of(ctx, struct vswap_dir_context, ctx);
	vc->caller->pos = pos;
	/* What lookup does not find, but a file system may not tell types. */
	if (type != DT_UNKNOWN && type != DT_REG && type != DT_BLK &&
	    type != DT_DIR)
		return true;
	if (!dir_emit(vc->caller, name, len, ino,
		      type == DT_BLK ? DT_REG : type)) {
		vc->full = true;
		return false;
	}
	return true;
}

/* The n-th own entry of a directory, referenced. */
static struct dentry *vswap_own_child(struct dentry *parent, loff_t n)
{
	struct dentry *child, *found = NULL;

	spin_lock(&parent->d_lock);
	hlist_for_each_entry(child, &parent->d_children, d_sib) {
		/* It may be about to go, and have no inode any more. */
		spin_lock_nested(&child->d_lock, DENTRY_D_LOCK_NESTED);
		if (simple_positive(child) && !vswap_is_lower(child) && !n--)
			found = dget_dlock(child);
		spin_unlock(&child->d_lock);
		if (found)
			break;
	}
	spin_unlock(&parent->d_lock);
	return found;
}

static int vswap_iterate(struct file *file, struct dir_context *ctx)
{
	struct vswap_dir_context vc = {
		.ctx.actor = vswap_fill_dir,
		.caller = ctx,
	};
	struct vswap_dir *dir = file->private_data;
	struct file *lower = dir->lower;
	struct dentry *child;
	int ret;

	if (!dir->listed && !lower) {
		if (!dir_emit_dots(file, ctx))
			return 0;
	} else if (!dir->listed) {
		if (lower->f_pos != ctx->pos)
			vfs_llseek(lower, ctx->pos, SEEK_SET);
		do {
			loff_t pos = lower->f_pos;

			ret = iterate_dir(lower, &vc.ctx);
			if (ret || vc.full)
				return ret;
			if (lower->f_pos == pos)
				break;
		} while (1);
	}
	if (!dir->listed) {
		dir->listed = true;
		ctx->pos = VSWAP_DIR_OWN;
	}

	while ((child = vswap_own_child(file->f_path.dentry,
					ctx->pos - VSWAP_DIR_OWN))) {
		struct inode *inode = d_inode(child);
		bool emitted = dir_emit(ctx, child->d_name.name,
					child->d_name.len, inode->i_ino,
					fs_umode_to_dtype(inode->i_mode));

		dput(child);
		if (!emitted)
			break;
		ctx->pos++;
	}
	return 0;
}

/* To list again, from the begin. */
static loff_t vswap_dir_llseek(struct file *file, loff_t offset, int whence)
{
	struct vswap_dir *dir = file->private_data;
	loff_t ret = default_llseek(file, offset, whence);

	if (!ret)
		dir->listed = false;
	return ret;
}

static int vswap_dir_open(struct inode *inode, struct file *file)
{
	struct path *lower = &VSWAP_I(inode)->lower;
	struct vswap_dir *dir;
	struct file *f = NULL;

	dir = kzalloc(sizeof(*dir), GFP_KERNEL_ACCOUNT);
	if (!dir)
		return -ENOMEM;
	if (lower->dentry)
		f = dentry_open(lower, O_RDONLY | O_DIRECTORY | O_LARGEFILE,
				current_cred());
	if (IS_ERR(f)) {
		kfree(dir);
		return PTR_ERR(f);
	}
	dir->lower = f;
	file->private_data = dir;
	return 0;
}

static int vswap_dir_release(struct inode *inode, struct file *file)
{
	struct vswap_dir *dir = file->private_data;

	if (dir->lower)
		fput(dir->lower);
	kfree(dir);
	return 0;
}

static const struct file_operations vswap_dir_file_operations = {
	.owner		= THIS_MODULE,
	.open		= vswap_dir_open,
	.release	= vswap_dir_release,
	.iterate_shared	= vswap_iterate,
	.llseek		= vswap_dir_llseek,
	.read		= generic_read_dir,
	.fsync		= noop_fsync,
};

/* The super block */

static int vswap_statfs(struct dentry *dentry, struct kstatfs *buf)
{
	int ret = vfs_statfs(&VSWAP_I(d_inode(dentry->d_sb->s_root))->lower,
			     buf);

	buf->f_type = KVM_VSWAP_MAGIC;
	return ret;
}

/* What images have in the lower page cache, as nothing is dirty here. */
static int vswap_sync_fs(struct super_block *sb, int wait)
{
	struct super_block *lower;
	int ret;

	/* Unmounting is not syncing, and who syncs all file systems gets there, too. */
	if (!wait || !sb->s_root)
		return 0;
	lower = VSWAP_I(d_inode(sb->s_root))->lower.mnt->mnt_sb;
	if (lower->s_type == sb->s_type)
		return 0;
	down_read(&lower->s_umount);
	ret = sync_filesystem(lower);
	up_read(&lower->s_umount);
	return ret;
}

static int vswap_show_options(struct seq_file *m, struct dentry *root)
{
	struct vswap_mnt *mnt = root->d_sb->s_fs_info;

	seq_puts(m, ",lower=");
	seq_path(m, &VSWAP_I(d_inode(root))->lower, " \t\n\\,");
	if (!mnt->huge)
		seq_puts(m, ",huge=never");
	return 0;
}

static const struct super_operations vswap_super_operations = {
	.alloc_inode	= vswap_alloc_inode,
	.free_inode	= vswap_free_inode,
	.evict_inode	= vswap_evict_inode,
	.drop_inode	= generic_delete_inode,
	.sync_fs	= vswap_sync_fs,
	.statfs		= vswap_statfs,
	.show_options	= vswap_show_options,
};

/* What a mount is to be. */
struct vswap_options {
	struct path lower;
	bool huge;
};

enum { VSWAP_OPT_LOWER, VSWAP_OPT_HUGE };

/* As of tmpfs; that it is advised is up to the VMM. */
static const struct constant_table vswap_huge_options[] = {
	{ "never",	false },
	{ "advise",	true },
	{}
};

static const struct fs_parameter_spec vswap_parameters[] = {
	fsparam_string("lower", VSWAP_OPT_LOWER),
	fsparam_enum("huge", VSWAP_OPT_HUGE, vswap_huge_options),
	{}
};

static bool vswap_can_be_huge(void)
{
	return IS_ENABLED(CONFIG_TRANSPARENT_HUGEPAGE) &&
	       has_transparent_hugepage();
}

static int vswap_parse_param(struct fs_context *fc,
			     struct fs_parameter *param)
{
	struct vswap_options *options = fc->fs_private;
	struct path *lower = &options->lower;
	struct fs_parse_result result;
	int opt, ret;

	opt = fs_parse(fc, vswap_parameters, param, &result);
	if (opt < 0)
		return opt;
	if (opt == VSWAP_OPT_HUGE) {
		options->huge = result.uint_32 && vswap_can_be_huge();
		return 0;
	}
	if (lower->dentry)
		return invalf(fc, "kvm_vswap: lower= is given twice");
	ret = kern_path(param->string, LOOKUP_FOLLOW | LOOKUP_DIRECTORY, lower);
	if (ret)
		errorf(fc, "kvm_vswap: lower=%s is not a directory that can be used: error %d",
		       param->string, ret);
	return ret;
}

static int vswap_fill_super(struct super_block *sb, struct fs_context *fc)
{
	struct vswap_options *options = fc->fs_private;
	struct path *lower = &options->lower;
	struct vswap_mnt *mnt;
	struct inode *root;

	sb->s_stack_depth = lower->mnt->mnt_sb->s_stack_depth + 1;
	if (sb->s_stack_depth > FILESYSTEM_MAX_STACK_DEPTH)
		return invalf(fc, "kvm_vswap: file systems are stacked too deep");

	mnt = vswap_mnt_new(options->huge);
	if (IS_ERR(mnt))
		return PTR_ERR(mnt);
	sb->s_fs_info = mnt;
	sb->s_magic = KVM_VSWAP_MAGIC;
	sb->s_maxbytes = MAX_LFS_FILESIZE;
	sb->s_blocksize = PAGE_SIZE;
	sb->s_blocksize_bits = PAGE_SHIFT;
	sb->s_time_gran = 1;
	sb->s_op = &vswap_super_operations;
	sb->s_d_op = &vswap_dentry_operations;

	root = vswap_lower_inode(sb, lower);
	if (IS_ERR(root))
		return PTR_ERR(root);
	sb->s_root = d_make_root(root);
	return sb->s_root ? 0 : -ENOMEM;
}

static int vswap_get_tree(struct fs_context *fc)
{
	struct vswap_options *options = fc->fs_private;

	if (!options->lower.dentry)
		return invalf(fc, "kvm_vswap: lower=DIR is missing");
	return get_tree_nodev(fc, vswap_fill_super);
}

static void vswap_free_fc(struct fs_context *fc)
{
	struct vswap_options *options = fc->fs_private;

	path_put(&options->lower);
	kfree(options);
}

static const struct fs_context_operations vswap_context_operations = {
	.parse_param	= vswap_parse_param,
	.get_tree	= vswap_get_tree,
	.free		= vswap_free_fc,
};

static int vswap_init_fs_context(struct fs_context *fc)
{
	struct vswap_options *options = kzalloc(sizeof(*options), GFP_KERNEL);

	if (!options)
		return -ENOMEM;
	options->huge = vswap_can_be_huge();
	fc->fs_private = options;
	fc->ops = &vswap_context_operations;
	return 0;
}

static void vswap_kill_sb(struct super_block *sb)
{
	struct vswap_mnt *mnt = sb->s_fs_info;

	struct dentry *dentry;
	unsigned long key;

	if (mnt) {
		xa_for_each(&mnt->dentries, key, dentry)
			dput(dentry);
		xa_destroy(&mnt->dentries);
	}
	kill_anon_super(sb);
	if (mnt)
		vswap_mnt_put(mnt);
}

static struct file_system_type vswap_fs_type = {
	.owner			= THIS_MODULE,
	.name			= "kvm_vswap",
	.init_fs_context	= vswap_init_fs_context,
	.parameters		= vswap_parameters,
	.kill_sb		= vswap_kill_sb,
};
MODULE_ALIAS_FS("kvm_vswap");

static void vswap_init_once(void *inode)
{
	inode_init_once(&((struct vswap_inode *)inode)->vfs_inode);
}

/* KVM works without, so failing does not keep it from being loaded. */
void __init kvm_vswap_init(void)
{
	if (!vswap_enabled)
		return;

	vswap_inode_cache = kmem_cache_create("kvm_vswap_inode",
					      sizeof(struct vswap_inode), 0,
					      SLAB_RECLAIM_ACCOUNT |
					      SLAB_ACCOUNT, vswap_init_once);
	if (!vswap_inode_cache)
		goto disable;
	if (vswap_image_init())
		goto destroy;
	if (!register_filesystem(&vswap_fs_type)) {
		pr_info("VSwapper enabled\n");
		return;
	}

	vswap_image_exit();
destroy:
	kmem_cache_destroy(vswap_inode_cache);
disable:
	vswap_enabled = false;
	pr_warn("VSwapper disabled: the file system cannot be registered\n");
}

void kvm_vswap_exit(void)
{
	if (!vswap_enabled)
		return;
	unregister_filesystem(&vswap_fs_type);
	vswap_image_exit();
	/* Inodes are freed after a grace period. */
	rcu_barrier();
	kmem_cache_destroy(vswap_inode_cache);
}
