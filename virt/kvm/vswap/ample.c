// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper: whether memory can become short at all.
 *
 * To know what pages equal costs the guest exits, and is of no use as long as all
 * memory that guests believe in fits into what the host, and the cgroups of their
 * VMs, have.  Nothing new is tracked then.  Overcommitted memory counts as short
 * from the start, however much is free: what will be reclaimed is read before.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/jiffies.h>
#include <linux/memcontrol.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/page_counter.h>

#include "internal.h"

static bool vswap_always;
module_param(vswap_always, bool, 0644);
MODULE_PARM_DESC(vswap_always, "Track pages also while all memory of all guests would fit into memory (default: N)");

/* How long an answer is good for. */
#define VSWAP_AMPLE_JIFFIES	(HZ / 10)

/* Protects the list of all RAM files, and which cgroup is whose. */
static DEFINE_MUTEX(vswap_rams_lock);
static LIST_HEAD(vswap_rams);

void vswap_ample_add(struct vswap_ram *ram)
{
	ram->ample_until = jiffies;
	mutex_lock(&vswap_rams_lock);
	list_add_tail(&ram->list, &vswap_rams);
	mutex_unlock(&vswap_rams_lock);
}

void vswap_ample_del(struct vswap_ram *ram)
{
	mutex_lock(&vswap_rams_lock);
	list_del(&ram->list);
	mutex_unlock(&vswap_rams_lock);
	mem_cgroup_put(ram->memcg);
}

/* Pages that guests may come to use which are not in memory. */
static unsigned long vswap_missing(struct mem_cgroup *memcg)
{
	unsigned long pages, resident, missing = 0;
	struct vswap_ram *ram;

	lockdep_assert_held(&vswap_rams_lock);

	list_for_each_entry(ram, &vswap_rams, list) {
		if (memcg && (!ram->memcg ||
			      !mem_cgroup_is_descendant(ram->memcg, memcg)))
			continue;
		pages = i_size_read(ram->mapping->host) >> PAGE_SHIFT;
		resident = READ_ONCE(ram->mapping->nrpages);
		missing += pages - min(pages, resident);
	}
	return missing;
}

static bool vswap_all_fits(struct vswap_ram *ram)
{
#ifdef CONFIG_MEMCG
	struct mem_cgroup *memcg;
	unsigned long limit;

	for (memcg = ram->memcg; memcg; memcg = parent_mem_cgroup(memcg)) {
		limit = min(READ_ONCE(memcg->memory.max),
			    READ_ONCE(memcg->memory.high));
		if (limit != PAGE_COUNTER_MAX &&
		    vswap_missing(memcg) + page_counter_read(&memcg->memory) > limit)
			return false;
	}
#endif
	return vswap_missing(NULL) <= si_mem_available();
}

/*
 * Whether memory is ample for the guest that a RAM file is of, and for all others
 * that share what it has.  @mm is the process that pays for its pages.
 */
bool vswap_is_ample(struct vswap_ram *ram, struct mm_struct *mm)
{
	if (READ_ONCE(vswap_always))
		return false;
	if (time_before(jiffies, READ_ONCE(ram->ample_until)))
		return READ_ONCE(ram->ample);

	guard(mutex)(&vswap_rams_lock);

	mem_cgroup_put(ram->memcg);
	ram->memcg = get_mem_cgroup_from_mm(mm);
	WRITE_ONCE(ram->ample, vswap_all_fits(ram));
	WRITE_ONCE(ram->ample_until, jiffies + VSWAP_AMPLE_JIFFIES);
	return ram->ample;
}
