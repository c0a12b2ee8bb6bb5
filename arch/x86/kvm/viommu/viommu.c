// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: who emulates it, and when.
 *
 * A unit has one page of registers.  Guests read it without exits, always.  In
 * trapped mode the page is mapped read-only, and a write exits to KVM, which does
 * what was asked for before the vCPU goes on.  In direct mode it is mapped
 * writable, and a sidecore polls it.  A guest that writes often is put into direct
 * mode, and out of it when nothing was found for viommu_poll_us.
 *
 * The idea is from N. Amit et al., "vIOMMU: Efficient IOMMU Emulation", USENIX ATC
 * 2011.  See Documentation/virt/kvm/x86/viommu.rst.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/kvm_host.h>
#include <linux/memcontrol.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/sched/signal.h>

#include <asm/set_memory.h>

#include "internal.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/spte.h"

#define CREATE_TRACE_POINTS
#include "trace.h"

/* Emulate IOMMUs for guests in the kernel.  Off by default. */
static bool __read_mostly enable_viommu;
module_param_named(viommu, enable_viommu, bool, 0444);
MODULE_PARM_DESC(viommu, "In-kernel Intel IOMMU for guests (default: off)");

#define VIOMMU_MIN_POLL_US	1
#define VIOMMU_MAX_POLL_US	1000000

/*
 * For how long a sidecore polls a guest's registers without finding anything before
 * the guest's writes exit again, in microseconds.
 */
unsigned int __read_mostly viommu_poll_us = 1000;

static int viommu_set_poll_us(const char *val, const struct kernel_param *kp)
{
	return param_set_uint_minmax(val, kp, VIOMMU_MIN_POLL_US,
				     VIOMMU_MAX_POLL_US);
}

static const struct kernel_param_ops viommu_poll_us_ops = {
	.set = viommu_set_poll_us,
	.get = param_get_uint,
};

module_param_cb(viommu_poll_us, &viommu_poll_us_ops, &viommu_poll_us, 0644);
MODULE_PARM_DESC(viommu_poll_us, "Time to poll for a guest that is idle, in us, 1..1000000 (default: 1000)");

const char * const viommu_teardowns[] = {
	[KVM_VIOMMU_TEARDOWN_STRICT] = "strict",
	[KVM_VIOMMU_TEARDOWN_DEFERRED] = "deferred",
	[KVM_VIOMMU_TEARDOWN_OPTIMISTIC] = "optimistic",
};

/* When the host unmaps what a guest unmapped, unless the VMM says so. */
unsigned int __read_mostly viommu_teardown = KVM_VIOMMU_TEARDOWN_STRICT;

static int viommu_set_teardown(const char *val, const struct kernel_param *kp)
{
	int i = sysfs_match_string(viommu_teardowns, val);

	if (i < 0)
		return i;

	*(unsigned int *)kp->arg = i;
	return 0;
}

static int viommu_get_teardown(char *buf, const struct kernel_param *kp)
{
	return sysfs_emit(buf, "%s\n", viommu_teardowns[*(unsigned int *)kp->arg]);
}

static const struct kernel_param_ops viommu_teardown_ops = {
	.set = viommu_set_teardown,
	.get = viommu_get_teardown,
};

module_param_cb(viommu_teardown, &viommu_teardown_ops, &viommu_teardown, 0444);
MODULE_PARM_DESC(viommu_teardown, "When to unmap in the host: strict, deferred or optimistic (default: strict)");

DEFINE_STATIC_KEY_FALSE(kvm_viommu_key);
EXPORT_SYMBOL_GPL(kvm_viommu_key);

/*
 * Trapped writes in a row, none of them later than viommu_poll_us after the one
 * before, that make a guest busy.
 */
#define VIOMMU_BUSY_TRAPS	4

/* Look at all registers, not just IQT, each so many polls. */
#define VIOMMU_SCAN_POLLS	32

/* Units of work that a vCPU or worker does before it looks around, and how often. */
#define VIOMMU_VCPU_BUDGET	256
#define VIOMMU_VCPU_ROUNDS	64

u64 viommu_max_cap(void)
{
	return 6 | VTD_CAP_CM | VTD_CAP_SAGAW_39 | VTD_CAP_SAGAW_48 |
	       FIELD_PREP(VTD_CAP_MGAW, 47) | VTD_CAP_SLLPS_2M |
	       VTD_CAP_SLLPS_1G | VTD_CAP_PSI |
	       FIELD_PREP(VTD_CAP_FRO, VTD_FRCD / 16) |
	       FIELD_PREP(VTD_CAP_NFR, VTD_NR_FRCD - 1) |
	       FIELD_PREP(VTD_CAP_MAMV, 18) | VTD_CAP_DWD | VTD_CAP_DRD |
	       VTD_CAP_ESRTPS;
}

u64 viommu_max_ecap(void)
{
	return VTD_ECAP_C | VTD_ECAP_QI | VTD_ECAP_PT |
	       FIELD_PREP(VTD_ECAP_IRO, VTD_IVA / 16);
}

static gfn_t viommu_gfn(struct kvm_viommu *v)
{
	return gpa_to_gfn(v->base);
}

/*
 * Let the guest write its registers.  It still has to fault once, as the page is
 * mapped read-only.
 */
static void viommu_go_direct(struct kvm_viommu *v)
{
	lockdep_assert_held(&v->lock);

	++v->kvm->stat.viommu_to_direct;
	trace_kvm_viommu_mode(true);
	/* Whoever maps the page writable sees this; see viommu_go_trapped(). */
	WRITE_ONCE(v->direct, true);
	viommu_show_gsts(v);
	kvm_sidecore_activate(&v->client);
}

/*
 * Make writes exit.  On return the guest cannot write the page, and what it wrote
 * before has been seen.
 */
void viommu_go_trapped(struct kvm_viommu *v)
{
	lockdep_assert_held(&v->lock);

	if (!v->direct)
		return;

	++v->kvm->stat.viommu_to_trapped;
	trace_kvm_viommu_mode(false);
	/*
	 * A page fault that has seen the old value either has mapped the page by
	 * the time that mmu_lock is taken here, or finds that what it has seen is
	 * stale: zapping bumps mmu_invalidate_seq, see is_page_fault_stale().
	 */
	WRITE_ONCE(v->direct, false);
	kvm_zap_gfn_range(v->kvm, viommu_gfn(v), viommu_gfn(v) + 1);
	viommu_show_gsts(v);
	viommu_scan(v);
}

/*
 * A guest that writes often gets polled, if there is somebody to do it.  That begins
 * with a write of IQT: other registers are those of a guest that sets up its unit, or
 * has a fault to deal with.
 */
static void viommu_count_trap(struct kvm_viommu *v, unsigned int reg)
{
	u64 now = local_clock();

	++v->kvm->stat.viommu_traps;
	if (now - v->last_trap > v->client.idle_ns)
		v->nr_traps = 0;
	v->last_trap = now;

	/* Without the TDP MMU the page is never mapped. */
	if (++v->nr_traps < VIOMMU_BUSY_TRAPS || reg != VTD_IQT ||
	    !v->client.sidecore || v->direct || !tdp_mmu_enabled ||
	    !viommu_can_be_direct(v))
		return;

	v->nr_traps = 0;
	viommu_go_direct(v);
}

/* See that what a vCPU or ioctl started, and did not finish, is finished. */
void viommu_kick(struct kvm_viommu *v)
{
	queue_work(system_unbound_wq, &v->work);
}

/*
 * Do what is to be done, in the VM's process.  A guest can ask for work without
 * end; leave it to somebody else then, so that userspace gets its vCPU, and
 * memslots can change.
 */
void viommu_process_now(struct kvm_viommu *v)
{
	int rounds = VIOMMU_VCPU_ROUNDS;

	lockdep_assert_held(&v->lock);

	while (viommu_process(v, VIOMMU_VCPU_BUDGET) && viommu_has_work(v)) {
		if (!--rounds || signal_pending(current)) {
			viommu_kick(v);
			break;
		}
		cond_resched();
	}
}

static void viommu_work(struct work_struct *work)
{
	struct kvm_viommu *v = container_of(work, struct kvm_viommu, work);
	struct mm_struct *mm = v->kvm->mm;
	struct mem_cgroup *memcg, *old;
	int idx, rounds = VIOMMU_VCPU_ROUNDS;
	bool again;

	/* The process is exiting, and the unit with it. */
	if (!mmget_not_zero(mm))
		return;

	kthread_use_mm(mm);
	memcg = get_mem_cgroup_from_mm(mm);
	old = set_active_memcg(memcg);
	do {
		idx = srcu_read_lock(&v->kvm->srcu);
		mutex_lock(&v->lock);
		again = !v->dead && viommu_process(v, VIOMMU_VCPU_BUDGET) &&
			viommu_has_work(v);
		/* A guest can have work without end; let others of the queue run. */
		if (again && !--rounds) {
			viommu_kick(v);
			again = false;
		}
		mutex_unlock(&v->lock);
		srcu_read_unlock(&v->kvm->srcu, idx);
		cond_resched_tasks_rcu_qs();
	} while (again);
	set_active_memcg(old);
	mem_cgroup_put(memcg);
	kthread_unuse_mm(mm);
	mmput_async(mm);
}

/*
 * The queue's tail is what there is to see, nearly always.  Whatever else there is
 * to do was not finished the last time.
 */
static bool viommu_pending(struct kvm_sidecore_client *client)
{
	struct kvm_viommu *v = container_of(client, struct kvm_viommu, client);

	if (!READ_ONCE(v->direct)) {
		v->client_scan = false;
		return v->client_busy;
	}

	v->client_scan = ++v->nr_polls % VIOMMU_SCAN_POLLS == 0;
	return v->client_scan || v->client_busy ||
	       READ_ONCE(*(u64 *)(v->shared + VTD_IQT)) !=
	       READ_ONCE(*(u64 *)(v->regs + VTD_IQT));
}

static unsigned int viommu_poll(struct kvm_sidecore_client *client,
				unsigned int budget)
{
	struct kvm_viommu *v = container_of(client, struct kvm_viommu, client);
	unsigned int done = 0;
	int idx;

	idx = srcu_read_lock(&v->kvm->srcu);
	if (!mutex_trylock(&v->lock)) {
		/*
		 * Whoever has it may be at work for long.  Other clients shall not
		 * wait for that; come back later.
		 */
		done = 1;
		goto out;
	}
	if (v->direct && (v->client_scan ? viommu_scan(v) : viommu_scan_tail(v))) {
		++v->kvm->stat.viommu_hits;
		done = 1;
	}
	done += viommu_process(v, budget);
	v->client_busy = viommu_has_work(v);
	mutex_unlock(&v->lock);
out:
	srcu_read_unlock(&v->kvm->srcu, idx);
	return done;
}

static bool viommu_disarm(struct kvm_sidecore_client *client)
{
	struct kvm_viommu *v = container_of(client, struct kvm_viommu, client);
	bool idle;
	int idx;

	idx = srcu_read_lock(&v->kvm->srcu);
	mutex_lock(&v->lock);
	viommu_go_trapped(v);
	viommu_process(v, VIOMMU_VCPU_BUDGET);
	v->client_busy = viommu_has_work(v);
	idle = !v->client_busy;
	mutex_unlock(&v->lock);
	srcu_read_unlock(&v->kvm->srcu, idx);
	return idle;
}

static const struct kvm_sidecore_ops viommu_sidecore_ops = {
	.pending = viommu_pending,
	.poll = viommu_poll,
	.disarm = viommu_disarm,
};

static struct kvm_viommu *viommu_of(struct kvm_io_device *iodev)
{
	return container_of(iodev, struct kvm_viommu, iodev);
}

static bool viommu_in_range(struct kvm_viommu *v, gpa_t addr, int len)
{
	return addr >= v->base && addr + len <= v->base + PAGE_SIZE;
}

/* Reads exit only where the page is not mapped at all. */
static int viommu_iodev_read(struct kvm_vcpu *vcpu, struct kvm_io_device *iodev,
			     gpa_t addr, int len, void *val)
{
	struct kvm_viommu *v = viommu_of(iodev);

	if (!viommu_in_range(v, addr, len))
		return -EOPNOTSUPP;

	memcpy(val, v->shared + (addr - v->base), len);
	return 0;
}

static int viommu_iodev_write(struct kvm_vcpu *vcpu, struct kvm_io_device *iodev,
			      gpa_t addr, int len, const void *val)
{
	struct kvm_viommu *v = viommu_of(iodev);
	u64 data = 0;

	if (!viommu_in_range(v, addr, len))
		return -EOPNOTSUPP;

	if ((len != 4 && len != 8) || !IS_ALIGNED(addr, len) ||
	    addr - v->base + len > VTD_REGS_SIZE)
		return 0;

	memcpy(&data, val, len);
	mutex_lock(&v->lock);
	if (!v->dead) {
		viommu_write(v, addr - v->base, len, data);
		viommu_process_now(v);
		viommu_count_trap(v, addr - v->base);
	}
	mutex_unlock(&v->lock);
	return 0;
}

static const struct kvm_io_device_ops viommu_iodev_ops = {
	.read = viommu_iodev_read,
	.write = viommu_iodev_write,
};

/*
 * Map the register page.  Only in the page tables of the VM itself, and only if
 * these do not keep track of gfns by memslot; otherwise accesses exit.
 */
bool __kvm_viommu_faultin(struct kvm_vcpu *vcpu, struct kvm_page_fault *fault,
			  int *ret)
{
	struct kvm_viommu *v;
	bool direct;

	v = srcu_dereference(vcpu->kvm->arch.viommu, &vcpu->kvm->srcu);
	if (!v || fault->gfn != viommu_gfn(v) || !tdp_mmu_enabled || !fault->is_tdp)
		return false;

	direct = READ_ONCE(v->direct);
	if (fault->write && !direct) {
		*ret = RET_PF_EMULATE;
		return true;
	}

	fault->slot = &v->slot;
	fault->max_level = PG_LEVEL_4K;
	fault->pfn = page_to_pfn(v->page);
	fault->map_writable = direct;
	/* Put by whoever maps it. */
	get_page(v->page);
	*ret = RET_PF_CONTINUE;
	return true;
}

void __kvm_viommu_flush_memslot(struct kvm *kvm, struct kvm_memory_slot *slot)
{
	struct kvm_viommu *v;
	int idx;

	idx = srcu_read_lock(&kvm->srcu);
	v = srcu_dereference(kvm->arch.viommu, &kvm->srcu);
	if (v) {
		mutex_lock(&v->lock);
		/* Devices see address space 0, not that of SMM. */
		if (!v->dead && v->shadow && !slot->as_id)
			viommu_unmap_gfns(v, slot->base_gfn,
					  slot->base_gfn + slot->npages);
		mutex_unlock(&v->lock);
	}
	srcu_read_unlock(&kvm->srcu, idx);
}

void __kvm_viommu_commit_memslots(struct kvm *kvm)
{
	struct kvm_viommu *v;
	int idx;

	idx = srcu_read_lock(&kvm->srcu);
	v = srcu_dereference(kvm->arch.viommu, &kvm->srcu);
	if (v) {
		mutex_lock(&v->lock);
		/* What could not be mapped may be mapped now. */
		if (!v->dead && v->te) {
			__set_bit(VIOMMU_TODO_RESYNC, v->todo);
			viommu_kick(v);
		}
		mutex_unlock(&v->lock);
	}
	srcu_read_unlock(&kvm->srcu, idx);
}

/*
 * Guest and host have to access the page with the same memory type.  Guests map
 * registers uncached.  Where KVM cannot overrule that (AMD; for Intel see
 * kvm_viommu_is_regs()) the host's mapping is uncached as well.
 */
static bool viommu_page_is_uncached(void)
{
	return !shadow_memtype_mask;
}

/* One for the VM's life, as page tables may refer to it until they are gone. */
static int viommu_get_page(struct kvm_viommu *v)
{
	struct kvm *kvm = v->kvm;
	struct page *page = kvm->arch.viommu_page;

	if (!page) {
		page = alloc_page(GFP_KERNEL_ACCOUNT | __GFP_ZERO);
		if (!page)
			return -ENOMEM;

		if (viommu_page_is_uncached() &&
		    set_memory_uc((unsigned long)page_address(page), 1)) {
			__free_page(page);
			return -ENOMEM;
		}
		kvm->arch.viommu_page = page;
	}
	v->page = page;
	v->shared = page_address(page);
	return 0;
}

void __kvm_viommu_destroy_vm(struct kvm *kvm)
{
	struct page *page = kvm->arch.viommu_page;

	if (viommu_page_is_uncached())
		set_memory_wb((unsigned long)page_address(page), 1);
	__free_page(page);
}

/*
 * Make the unit appear.  Called with config_lock held and a valid configuration;
 * on success v->live is set.
 */
int viommu_start(struct kvm_viommu *v)
{
	struct kvm *kvm = v->kvm;
	int ret;

	lockdep_assert_held(&v->config_lock);

	INIT_WORK(&v->work, viommu_work);
	v->slot.base_gfn = viommu_gfn(v);
	v->slot.npages = 1;
	v->slot.id = -1;
	v->slot.arch.gfn_write_track = &v->untracked;

	v->client.ops = &viommu_sidecore_ops;
	v->client.kvm = kvm;
	v->client.idle_ns = READ_ONCE(viommu_poll_us) * (u64)NSEC_PER_USEC;
	v->client.busy_ns = &kvm->stat.viommu_busy_ns;
	v->client.wasted_ns = &kvm->stat.viommu_wasted_ns;
	v->client.polls = &kvm->stat.viommu_polls;

	/* Before any vCPU can ask for it.  Without any the vCPU does it all. */
	if (v->worker == KVM_VIOMMU_WORKER_SIDECORE)
		kvm_sidecore_add(&v->client);
	if (v->worker == KVM_VIOMMU_WORKER_TASK) {
		ret = kvm_sidecore_add_task(&v->client);
		if (ret)
			return ret;
	}

	kvm_iodevice_init(&v->iodev, &viommu_iodev_ops);
	mutex_lock(&kvm->slots_lock);
	if (rcu_access_pointer(kvm->arch.viommu))
		ret = -EBUSY;
	else if (gfn_to_memslot(kvm, viommu_gfn(v)))
		ret = -EEXIST;
	else
		/* There is one for the VM, which another unit may be using. */
		ret = viommu_get_page(v);
	if (!ret) {
		mutex_lock(&v->lock);
		viommu_reset(v);
		mutex_unlock(&v->lock);
		ret = kvm_io_bus_register_dev(kvm, KVM_MMIO_BUS, v->base, PAGE_SIZE,
					      &v->iodev);
	}
	if (!ret) {
		WRITE_ONCE(kvm->arch.viommu_gfn, viommu_gfn(v));
		rcu_assign_pointer(kvm->arch.viommu, v);
	}
	mutex_unlock(&kvm->slots_lock);
	if (ret) {
		kvm_sidecore_remove(&v->client);
		return ret;
	}

	static_branch_inc(&kvm_viommu_key);
	v->live = true;
	viommu_create_debugfs(v);
	return 0;
}

/*
 * Make the unit disappear.  On return neither vCPUs nor a sidecore use it.  Devices
 * are still attached.
 */
void viommu_stop(struct kvm_viommu *v)
{
	struct kvm *kvm = v->kvm;
	int idx;

	if (!v->live)
		return;

	viommu_remove_debugfs(v);

	mutex_lock(&v->lock);
	v->dead = true;
	mutex_unlock(&v->lock);

	mutex_lock(&kvm->slots_lock);
	rcu_assign_pointer(kvm->arch.viommu, NULL);
	kvm_io_bus_unregister_dev(kvm, KVM_MMIO_BUS, &v->iodev);
	mutex_unlock(&kvm->slots_lock);
	/* Page faults and flushes of memslots. */
	synchronize_srcu(&kvm->srcu);
	idx = srcu_read_lock(&kvm->srcu);
	kvm_zap_gfn_range(kvm, viommu_gfn(v), viommu_gfn(v) + 1);
	srcu_read_unlock(&kvm->srcu, idx);

	kvm_sidecore_remove(&v->client);
	/* It finds the unit dead; devices may still have it queued. */
	flush_work(&v->work);
	static_branch_dec(&kvm_viommu_key);
	v->live = false;
}

void kvm_viommu_vendor_init(void)
{
	if (!enable_viommu)
		return;

	if (kvm_sidecore_init() ||
	    kvm_register_device_ops(&kvm_viommu_ops, KVM_DEV_TYPE_VIOMMU)) {
		kvm_sidecore_exit();
		pr_warn("vIOMMU disabled: out of memory\n");
		enable_viommu = false;
		return;
	}

	pr_info("vIOMMU enabled, %s\n", kvm_sidecore_available() ?
		"sidecores poll" : "no sidecore, guests exit");
}

void kvm_viommu_vendor_exit(void)
{
	if (!enable_viommu)
		return;

	kvm_unregister_device_ops(KVM_DEV_TYPE_VIOMMU);
	kvm_sidecore_exit();
}
