// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: the KVM device, i.e. the VMM's interface.
 *
 * See Documentation/virt/kvm/devices/viommu.rst.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/eventfd.h>
#include <linux/kvm_host.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <linux/uaccess.h>

#include "internal.h"
#include "irq.h"

/* Devices behind a unit, as each invalidation of contexts looks at all. */
#define VIOMMU_MAX_DEVICES	256

static const struct viommu_shadow_ops viommu_shadow_ops = {
	.fault = viommu_hw_fault,
};

static struct kvm_viommu *viommu_of_device(struct kvm_device *dev)
{
	return dev->private;
}

/*
 * May a unit have these capabilities?  Flags may be left out; numbers may be
 * lower, except for where registers are and how many faults are recorded.
 */
static bool viommu_cap_valid(u64 cap)
{
	const u64 flags = VTD_CAP_SAGAW_39 | VTD_CAP_SAGAW_48 | VTD_CAP_SLLPS_2M |
			  VTD_CAP_SLLPS_1G | VTD_CAP_PSI | VTD_CAP_DWD |
			  VTD_CAP_DRD | VTD_CAP_ESRTPS;
	const u64 fixed = VTD_CAP_CM | VTD_CAP_FRO | VTD_CAP_NFR;
	const u64 numbers = VTD_CAP_MGAW | VTD_CAP_MAMV | GENMASK_ULL(2, 0);
	u64 max = viommu_max_cap();

	if (cap & ~(flags | fixed | numbers))
		return false;
	if ((cap & fixed) != (max & fixed))
		return false;
	if (!(cap & (VTD_CAP_SAGAW_39 | VTD_CAP_SAGAW_48)))
		return false;

	return (cap & 7) <= (max & 7) &&
	       FIELD_GET(VTD_CAP_MGAW, cap) >= 31 &&
	       FIELD_GET(VTD_CAP_MGAW, cap) <= FIELD_GET(VTD_CAP_MGAW, max) &&
	       FIELD_GET(VTD_CAP_MAMV, cap) <= FIELD_GET(VTD_CAP_MAMV, max);
}

static bool viommu_ecap_valid(u64 ecap)
{
	const u64 flags = VTD_ECAP_C | VTD_ECAP_QI | VTD_ECAP_PT;

	return (ecap & ~flags) == (viommu_max_ecap() & ~flags);
}

static int viommu_set_config(struct kvm_viommu *v, u64 attr, u64 val)
{
	if (v->live)
		return -EBUSY;

	switch (attr) {
	case KVM_DEV_VIOMMU_CONFIG_BASE:
		if (!PAGE_ALIGNED(val) || !val || val >> 52)
			return -EINVAL;
		v->base = val;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_CAP:
		if (!viommu_cap_valid(val))
			return -EINVAL;
		v->cap = val;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_ECAP:
		if (!viommu_ecap_valid(val))
			return -EINVAL;
		v->ecap = val;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_HAW:
		if (val < 32 || val > 52)
			return -EINVAL;
		v->haw = val;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_WORKER:
		if (val > KVM_VIOMMU_WORKER_TASK)
			return -EINVAL;
		v->worker = val;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_TEARDOWN:
		if (val > KVM_VIOMMU_TEARDOWN_OPTIMISTIC)
			return -EINVAL;
		v->teardown = val;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_MAX_PAGES:
		v->max_pages = val;
		return 0;
	default:
		return -ENXIO;
	}
}

static int viommu_get_config(struct kvm_viommu *v, u64 attr, u64 *val)
{
	switch (attr) {
	case KVM_DEV_VIOMMU_CONFIG_BASE:
		*val = v->base;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_CAP:
		*val = v->cap;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_ECAP:
		*val = v->ecap;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_HAW:
		*val = v->haw;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_WORKER:
		*val = v->worker;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_TEARDOWN:
		*val = v->teardown;
		return 0;
	case KVM_DEV_VIOMMU_CONFIG_MAX_PAGES:
		*val = v->max_pages;
		return 0;
	default:
		return -ENXIO;
	}
}

static int viommu_init(struct kvm_viommu *v)
{
	if (v->live)
		return -EBUSY;
	if (!v->base)
		return -EINVAL;
	/* Interrupts need local APICs in the kernel. */
	if (!irqchip_in_kernel(v->kvm))
		return -ENXIO;
	/*
	 * What is written on behalf of no vCPU is not in any vCPU's ring.  Rings
	 * can be enabled as long as there are no vCPUs; whoever does that after this
	 * misses writes of wait descriptors.
	 */
	if (v->kvm->dirty_ring_size)
		return -EOPNOTSUPP;

	return viommu_start(v);
}

/* The machine is reset.  No vCPU should be running, but that only hurts the guest. */
static int viommu_reset_unit(struct kvm_viommu *v)
{
	int idx;

	if (!v->live)
		return -ENXIO;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	viommu_go_trapped(v);
	viommu_abort(v);
	viommu_detach_all(v);
	viommu_bury_all(v);
	viommu_note_all(v);
	viommu_reset(v);
	v->root = 0;
	v->te = false;
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);
	return 0;
}

/* The shadow is there from the first device on. */
static int viommu_get_shadow(struct kvm_viommu *v)
{
	struct kvm_vm_stat *stat = &v->kvm->stat;
	struct viommu_shadow *shadow;

	if (v->shadow)
		return 0;

	if (!v->api) {
		v->api = symbol_request(viommu_shadow_api);
		if (!v->api)
			return -ENODEV;
	}

	v->counters = (struct viommu_shadow_counters) {
		.maps = &stat->viommu_maps,
		.map_errors = &stat->viommu_map_errors,
		.unmaps = &stat->viommu_unmaps,
		.reused = &stat->viommu_reused,
		.flushes = &stat->viommu_flushes,
		.pinned = &stat->viommu_pinned,
	};
	shadow = v->api->create(v->kvm->mm, (enum viommu_shadow_teardown)v->teardown,
				&v->counters, &viommu_shadow_ops, v);
	if (IS_ERR(shadow))
		return PTR_ERR(shadow);

	mutex_lock(&v->lock);
	v->shadow = shadow;
	mutex_unlock(&v->lock);
	return 0;
}

static struct viommu_device *viommu_find_device(struct kvm_viommu *v, u16 sid)
{
	struct viommu_device *dev;

	list_for_each_entry(dev, &v->devices, node) {
		if (dev->sid == sid)
			return dev;
	}
	return NULL;
}

static int viommu_add_device(struct kvm_viommu *v,
			     const struct kvm_viommu_device *args)
{
	struct viommu_device *dev;
	int ret, idx;

	if (args->flags || args->pad || args->pad2)
		return -EINVAL;
	if (!v->live)
		return -ENXIO;
	if (viommu_find_device(v, args->sid))
		return -EEXIST;
	if (list_count_nodes(&v->devices) >= VIOMMU_MAX_DEVICES)
		return -E2BIG;

	ret = viommu_get_shadow(v);
	if (ret)
		return ret;

	dev = kzalloc(sizeof(*dev), GFP_KERNEL_ACCOUNT);
	if (!dev)
		return -ENOMEM;

	dev->viommu = v;
	dev->sid = args->sid;
	dev->shadow = v->api->add_device(v->shadow, args->group_fd,
					 u64_to_user_ptr(args->name), dev);
	if (IS_ERR(dev->shadow)) {
		ret = PTR_ERR(dev->shadow);
		goto free;
	}

	/* The guest must not be offered more than the host can do. */
	ret = -ERANGE;
	if (v->api->aperture(dev->shadow) >> (FIELD_GET(VTD_CAP_MGAW, v->cap) + 1) ==
	    0 && v->api->aperture(dev->shadow) !=
	    GENMASK_ULL(FIELD_GET(VTD_CAP_MGAW, v->cap), 0))
		goto del;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	ret = 0;
	if (v->te) {
		/* Until the guest's tables were looked at. */
		ret = v->api->block(dev->shadow);
		dev->attached = VIOMMU_BLOCKED;
		dev->target = VIOMMU_BLOCKED;
		__set_bit(VIOMMU_TODO_RESYNC, v->todo);
	}
	if (!ret) {
		list_add_tail(&dev->node, &v->devices);
		viommu_process_now(v);
	}
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);
	if (!ret)
		return 0;

	v->api->give_back(dev->shadow);
del:
	v->api->del_device(dev->shadow);
free:
	kfree(dev);
	return ret;
}

static int viommu_del_device(struct kvm_viommu *v, u16 sid)
{
	struct viommu_device *dev;
	int idx;

	dev = viommu_find_device(v, sid);
	if (!dev)
		return -ENOENT;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	list_del(&dev->node);
	viommu_detach_device(v, dev);
	/* There may be nobody else who would do it soon. */
	viommu_bury_all(v);
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);

	v->api->del_device(dev->shadow);
	kfree(dev);
	return 0;
}

/*
 * Do all that is to be done; -EINTR if the caller is wanted elsewhere.  It can be without
 * end, so memslots may change meanwhile, wherefore @idx of kvm->srcu does, too.
 */
static int viommu_finish(struct kvm_viommu *v, int *idx)
{
	while (viommu_has_work(v)) {
		if (signal_pending(current)) {
			viommu_kick(v);
			return -EINTR;
		}
		viommu_process(v, 256);

		mutex_unlock(&v->lock);
		srcu_read_unlock(&v->kvm->srcu, *idx);
		cond_resched_tasks_rcu_qs();
		*idx = srcu_read_lock(&v->kvm->srcu);
		mutex_lock(&v->lock);
		/* vCPUs should not be running, but may be. */
		viommu_go_trapped(v);
	}
	return 0;
}

static int viommu_get_state(struct kvm_viommu *v, void __user *arg)
{
	struct kvm_viommu_state *state;
	int idx, ret = 0;

	if (!v->live)
		return -ENXIO;

	state = kzalloc(sizeof(*state), GFP_KERNEL_ACCOUNT);
	if (!state)
		return -ENOMEM;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	/* What the guest wrote has to be in the registers. */
	viommu_go_trapped(v);
	/* Commands that are under way are not in the registers. */
	ret = viommu_finish(v, &idx);

	BUILD_BUG_ON(sizeof(state->regs) != sizeof(v->regs));
	state->version = KVM_VIOMMU_STATE_VERSION;
	state->root = v->root;
	memcpy(state->regs, v->regs, sizeof(v->regs));
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);

	if (!ret && copy_to_user(arg, state, sizeof(*state)))
		ret = -EFAULT;
	kfree(state);
	return ret;
}

/*
 * Take over registers.  Where what they say has to be done, e.g. devices be
 * attached, that has been done on return.
 */
static int viommu_set_state(struct kvm_viommu *v, void __user *arg)
{
	struct kvm_viommu_state *state;
	unsigned int i;
	int idx, ret;
	u32 gsts;

	if (!v->live)
		return -ENXIO;

	state = memdup_user(arg, sizeof(*state));
	if (IS_ERR(state))
		return PTR_ERR(state);

	ret = -EINVAL;
	if (state->version != KVM_VIOMMU_STATE_VERSION || state->flags ||
	    memchr_inv(state->reserved, 0, sizeof(state->reserved)))
		goto out;
	if (state->regs[VTD_CAP / 8] != v->cap || state->regs[VTD_ECAP / 8] != v->ecap)
		goto out;

	gsts = upper_32_bits(state->regs[VTD_GSTS / 8]);
	if (gsts & ~(VTD_GSTS_TES | VTD_GSTS_RTPS | VTD_GSTS_QIES))
		goto out;
	if ((state->regs[VTD_IQH / 8] | state->regs[VTD_IQT / 8]) & ~VTD_IQ_INDEX)
		goto out;
	ret = 0;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	viommu_go_trapped(v);
	/* What is under way is not to be completed later. */
	viommu_abort(v);
	if (gsts & VTD_GSTS_TES)
		viommu_block_all(v);
	else
		viommu_detach_all(v);
	viommu_bury_all(v);
	viommu_note_all(v);

	for (i = 0; i < KVM_VIOMMU_NR_REGS; i++)
		viommu_set64(v, 8 * i, state->regs[i]);
	viommu_set32(v, VTD_GCMD, VTD_GCMD_NONE);
	*(u32 *)(v->regs + VTD_GCMD) = 0;
	v->root = state->root;
	viommu_faults_restored(v);
	v->te = gsts & VTD_GSTS_TES;
	bitmap_zero(v->todo, VIOMMU_NR_TODO);
	if (v->te)
		__set_bit(VIOMMU_TODO_TE_ON, v->todo);
	if (vtd_reg64(v, VTD_CCMD) & VTD_CCMD_ICC)
		__set_bit(VIOMMU_TODO_CCMD, v->todo);
	if (vtd_reg64(v, VTD_IOTLB) & VTD_IOTLB_IVT)
		__set_bit(VIOMMU_TODO_IOTLB, v->todo);
	ret = viommu_finish(v, &idx);
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);
out:
	kfree(state);
	return ret;
}

static int viommu_set_notify(struct kvm_viommu *v, int fd)
{
	struct eventfd_ctx *ctx = NULL, *old;
	int idx;

	if (fd < -1)
		return -EINVAL;
	if (!v->live)
		return -ENXIO;
	if (fd >= 0) {
		ctx = eventfd_ctx_fdget(fd);
		if (IS_ERR(ctx))
			return PTR_ERR(ctx);
	}

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	old = v->notify;
	v->notify = ctx;
	/* A new reader counts from 0. */
	v->acked = 0;
	v->next = 0;
	viommu_process_now(v);
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);

	if (old)
		eventfd_ctx_put(old);
	return 0;
}

static int viommu_set_attr(struct kvm_device *dev, struct kvm_device_attr *attr)
{
	struct kvm_viommu *v = viommu_of_device(dev);
	void __user *arg = u64_to_user_ptr(attr->addr);
	struct kvm_viommu_device args;
	s32 fd;
	u64 val;

	if (attr->flags)
		return -EINVAL;

	guard(mutex)(&v->config_lock);

	switch (attr->group) {
	case KVM_DEV_VIOMMU_GRP_CONFIG:
		if (attr->attr > KVM_DEV_VIOMMU_CONFIG_MAX_PAGES)
			return -ENXIO;
		if (get_user(val, (u64 __user *)arg))
			return -EFAULT;
		return viommu_set_config(v, attr->attr, val);
	case KVM_DEV_VIOMMU_GRP_CTRL:
		if (attr->attr > KVM_DEV_VIOMMU_CTRL_RESET)
			return -ENXIO;
		if (attr->attr == KVM_DEV_VIOMMU_CTRL_RESET)
			return viommu_reset_unit(v);
		return viommu_init(v);
	case KVM_DEV_VIOMMU_GRP_DEVICE:
		if (attr->attr > KVM_DEV_VIOMMU_DEVICE_DEL)
			return -ENXIO;
		if (copy_from_user(&args, arg, sizeof(args)))
			return -EFAULT;
		if (attr->attr == KVM_DEV_VIOMMU_DEVICE_DEL)
			return viommu_del_device(v, args.sid);
		return viommu_add_device(v, &args);
	case KVM_DEV_VIOMMU_GRP_STATE:
		if (attr->attr)
			return -ENXIO;
		return viommu_set_state(v, arg);
	case KVM_DEV_VIOMMU_GRP_NOTIFY:
		if (attr->attr)
			return -ENXIO;
		if (get_user(fd, (s32 __user *)arg))
			return -EFAULT;
		return viommu_set_notify(v, fd);
	default:
		return -ENXIO;
	}
}

static int viommu_get_attr(struct kvm_device *dev, struct kvm_device_attr *attr)
{
	struct kvm_viommu *v = viommu_of_device(dev);
	void __user *arg = u64_to_user_ptr(attr->addr);
	u64 val;
	int ret;

	if (attr->flags)
		return -EINVAL;

	guard(mutex)(&v->config_lock);

	switch (attr->group) {
	case KVM_DEV_VIOMMU_GRP_CONFIG:
		ret = viommu_get_config(v, attr->attr, &val);
		if (ret)
			return ret;
		return put_user(val, (u64 __user *)arg);
	case KVM_DEV_VIOMMU_GRP_STATE:
		if (attr->attr)
			return -ENXIO;
		return viommu_get_state(v, arg);
	default:
		return -ENXIO;
	}
}

static int viommu_has_attr(struct kvm_device *dev, struct kvm_device_attr *attr)
{
	switch (attr->group) {
	case KVM_DEV_VIOMMU_GRP_CONFIG:
		return attr->attr <= KVM_DEV_VIOMMU_CONFIG_MAX_PAGES ? 0 : -ENXIO;
	case KVM_DEV_VIOMMU_GRP_CTRL:
		return attr->attr <= KVM_DEV_VIOMMU_CTRL_RESET ? 0 : -ENXIO;
	case KVM_DEV_VIOMMU_GRP_DEVICE:
		return attr->attr <= KVM_DEV_VIOMMU_DEVICE_DEL ? 0 : -ENXIO;
	case KVM_DEV_VIOMMU_GRP_STATE:
	case KVM_DEV_VIOMMU_GRP_NOTIFY:
		return attr->attr ? -ENXIO : 0;
	default:
		return -ENXIO;
	}
}

/* What a device reaches at the moment, as opposed to what the tables say. */
static int viommu_translate_shadow(struct kvm_viommu *v,
				   struct kvm_viommu_translate *t)
{
	struct viommu_shadow_leaf leaf;
	struct viommu_device *dev;
	bool found = false;
	u64 offset;

	dev = viommu_find_device(v, t->sid);
	if (!dev)
		return -ENOENT;
	if (dev->attached == VIOMMU_GIVEN_BACK) {
		t->gpa = t->iova;
		t->size = PAGE_SIZE;
		t->access = KVM_VIOMMU_READ | KVM_VIOMMU_WRITE;
		return 0;
	}

	if (dev->domain) {
		v->api->lock(v->shadow);
		found = v->api->reaches(dev->domain->shadow, t->iova, &leaf);
		v->api->unlock(v->shadow);
	}
	if (!found)
		return -EFAULT;

	t->access = leaf.prot;
	t->size = PAGE_SIZE << leaf.order;
	offset = t->iova & (t->size - 1);
	t->gpa = gfn_to_gpa(leaf.cookie) + offset;
	return 0;
}

static int viommu_translate_tables(struct kvm_viommu *v,
				   struct kvm_viommu_translate *t)
{
	struct viommu_context ctx = { };
	enum vtd_fault reason;
	u32 access = t->access;

	if (!(vtd_reg32(v, VTD_GSTS) & VTD_GSTS_TES)) {
		t->gpa = t->iova;
		t->size = PAGE_SIZE;
		t->access = KVM_VIOMMU_READ | KVM_VIOMMU_WRITE;
		return 0;
	}

	reason = viommu_read_context(v, t->sid, &ctx);
	if (!reason)
		reason = viommu_translate(v, &ctx, t->iova, access, t);
	if (!reason)
		return 0;

	t->fault = reason;
	if (!(t->flags & KVM_VIOMMU_TRANSLATE_QUIET) && !ctx.quiet)
		viommu_record_fault(v, t->sid, t->iova,
				    reason == VTD_FAULT_WRITE ||
				    !(access & KVM_VIOMMU_READ), reason);
	return -EFAULT;
}

static int viommu_ioctl_translate(struct kvm_viommu *v, void __user *arg)
{
	struct kvm_viommu_translate t;
	int ret, idx;

	if (copy_from_user(&t, arg, sizeof(t)))
		return -EFAULT;
	if (t.pad || !t.access ||
	    (t.access & ~(KVM_VIOMMU_READ | KVM_VIOMMU_WRITE)) ||
	    (t.flags & ~(KVM_VIOMMU_TRANSLATE_QUIET | KVM_VIOMMU_TRANSLATE_SHADOW)))
		return -EINVAL;

	t.gpa = 0;
	t.size = 0;
	t.fault = 0;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	if (t.flags & KVM_VIOMMU_TRANSLATE_SHADOW)
		ret = viommu_translate_shadow(v, &t);
	else
		ret = viommu_translate_tables(v, &t);
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);

	if (copy_to_user(arg, &t, sizeof(t)))
		return -EFAULT;
	return ret;
}

static int viommu_ioctl_invalidations(struct kvm_viommu *v, void __user *arg)
{
	struct kvm_viommu_invalidation __user *entries;
	struct kvm_viommu_invalidations args;
	bool acked;
	u64 last;
	u32 room;
	int ret = 0, idx;

	if (copy_from_user(&args, arg, sizeof(args)))
		return -EFAULT;
	if (args.flags)
		return -EINVAL;

	entries = u64_to_user_ptr(args.entries);
	room = args.nr;
	args.nr = 0;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	if (args.ack < v->acked || args.ack > v->next) {
		ret = -EINVAL;
		goto unlock;
	}

	acked = args.ack != v->acked;
	v->acked = args.ack;
	args.next = args.ack;
	/*
	 * Do not return the last entry that there is room for: viommu_note() may yet
	 * replace it.
	 */
	last = min(v->next, v->acked + VIOMMU_NR_NOTES - 1);
	while (args.nr < room && args.next < last) {
		if (copy_to_user(entries + args.nr,
				 &v->notes[args.next % VIOMMU_NR_NOTES],
				 sizeof(*entries))) {
			ret = -EFAULT;
			goto unlock;
		}
		args.nr++;
		args.next++;
	}
	/* What was held back the last time was signaled before that. */
	if (acked && args.next < v->next && v->notify)
		eventfd_signal(v->notify);
	/* A wait descriptor may have waited for this. */
	viommu_process_now(v);
unlock:
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);
	if (!ret && copy_to_user(arg, &args, sizeof(args)))
		ret = -EFAULT;
	return ret;
}

static long viommu_ioctl(struct kvm_device *dev, unsigned int ioctl,
			 unsigned long arg)
{
	struct kvm_viommu *v = viommu_of_device(dev);

	guard(mutex)(&v->config_lock);
	if (!v->live)
		return -ENXIO;

	switch (ioctl) {
	case KVM_VIOMMU_TRANSLATE:
		return viommu_ioctl_translate(v, (void __user *)arg);
	case KVM_VIOMMU_INVALIDATIONS:
		return viommu_ioctl_invalidations(v, (void __user *)arg);
	default:
		return -ENOTTY;
	}
}

static int viommu_create(struct kvm_device *dev, u32 type)
{
	struct kvm_viommu *v;

	/* Guest memory has to be accessible. */
	if (dev->kvm->arch.vm_type != KVM_X86_DEFAULT_VM)
		return -EOPNOTSUPP;

	v = kvzalloc(sizeof(*v), GFP_KERNEL_ACCOUNT);
	if (!v)
		return -ENOMEM;

	v->kvm = dev->kvm;
	v->cap = viommu_max_cap();
	v->ecap = viommu_max_ecap();
	v->haw = 46;
	v->worker = KVM_VIOMMU_WORKER_SIDECORE;
	v->teardown = viommu_teardown;
	mutex_init(&v->config_lock);
	mutex_init(&v->lock);
	spin_lock_init(&v->fault_lock);
	INIT_LIST_HEAD(&v->stale);
	INIT_LIST_HEAD(&v->dying);
	INIT_LIST_HEAD(&v->devices);
	INIT_LIST_HEAD(&v->in_use);
	xa_init(&v->domains);
	dev->private = v;
	return 0;
}

/* The last file descriptor was closed.  vCPUs may still run. */
static void viommu_release(struct kvm_device *kdev)
{
	struct kvm_viommu *v = viommu_of_device(kdev);
	struct viommu_device *dev, *next;

	viommu_stop(v);

	list_for_each_entry_safe(dev, next, &v->devices, node) {
		mutex_lock(&v->lock);
		list_del(&dev->node);
		viommu_detach_device(v, dev);
		viommu_bury_all(v);
		mutex_unlock(&v->lock);
		v->api->del_device(dev->shadow);
		kfree(dev);
	}
	/* From now on no fault is reported that would queue it again. */
	if (v->work.func)
		cancel_work_sync(&v->work);
	if (v->shadow)
		v->api->destroy(v->shadow);
	if (v->api)
		symbol_put(viommu_shadow_api);
	if (v->notify)
		eventfd_ctx_put(v->notify);
	xa_destroy(&v->domains);
	kvfree(v);
	kfree(kdev);
}

const struct kvm_device_ops kvm_viommu_ops = {
	.name = "kvm-viommu",
	.create = viommu_create,
	.release = viommu_release,
	.set_attr = viommu_set_attr,
	.get_attr = viommu_get_attr,
	.has_attr = viommu_has_attr,
	.ioctl = viommu_ioctl,
};
