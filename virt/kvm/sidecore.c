// SPDX-License-Identifier: GPL-2.0-only
/*
 * Sidecores: CPUs of the host that emulate devices for guests.
 *
 * A guest that has to exit for each request pays for the exit.  A device whose
 * registers are ordinary memory can be emulated by another CPU instead, which
 * polls that memory.  The idea is from N. Amit et al., "vIOMMU: Efficient IOMMU
 * Emulation", USENIX ATC 2011.
 *
 * A sidecore is a thread.  There is one for each CPU in kvm.sidecore_cpus, which
 * VMs share, and VMs can have one of their own, which is accounted to and
 * controlled with the VM's process.  A client is what one VM wants polled.  A
 * client is active while its guest is busy; a sidecore without active clients
 * sleeps.  It is the client that decides when it gets active, e.g. because its
 * guest exits often, and the sidecore that decides when it ceases to be.
 *
 * Clients are polled in turn, and limited to a budget each turn, as a guest may
 * have work for any length of time and the others shall not wait for it.  A client
 * whose units of work take long has a smaller budget.  To ask whether there is work
 * needs no address space, so that clients of which most have none cost little.
 *
 * Locks: kvm_sidecore.lock is held while clients are polled, and to add and remove
 * them; all locks of clients nest inside of it.  kvm_sidecore_activate() takes
 * none, so that clients can call it with theirs held.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpumask.h>
#include <linux/kthread.h>
#include <linux/kvm_host.h>
#include <linux/memcontrol.h>
#include <linux/moduleparam.h>
#include <linux/rcupdate.h>
#include <linux/sched/clock.h>
#include <linux/sched/mm.h>
#include <linux/sched/vhost_task.h>
#include <linux/slab.h>
#include <linux/topology.h>

#include "sidecore.h"

/*
 * Units of work of a client before it is the next one's turn.  It is time that
 * clients are to share, and units differ a lot: what a client gets is adapted so
 * that a turn takes no longer than this, if possible, but never less than the
 * minimum.  Who asks for little waits for a turn of each of the others; these are
 * long enough that changing the address space, about 1 us, is a small part.
 */
#define SIDECORE_BUDGET		64
#define SIDECORE_MIN_BUDGET	4
#define SIDECORE_TURN_NS	10000

/*
 * Rounds in vain before the CPU is told that this is a loop that waits.  That is
 * for the sake of the other hyperthread, but the next request may be late by it.
 */
#define SIDECORE_RELAX_ROUNDS	16

struct kvm_sidecore {
	/* In kvm_sidecores; never changes once the sidecore runs. */
	struct list_head node;
	int cpu;
	/* One of these is set. */
	struct task_struct *kthread;
	struct vhost_task *task;

	/* Protects @clients, and is held while they are polled. */
	struct mutex lock;
	struct list_head clients;

	/* Clients, to choose the sidecore with the fewest. */
	atomic_t nr_clients;
	/* The VM's process is being killed; only with @task. */
	bool dead;

	/* There may be something to poll again, or @drop_mm is set. */
	atomic_t kicked;

	/*
	 * Owned by the thread: the address space in use, and the cgroup that pays,
	 * with references.
	 */
	struct mm_struct *mm;
	struct mem_cgroup *memcg;
	/* Asks the thread to give it up. */
	bool drop_mm;
	/* Owned by the thread: the last round had an active client. */
	bool polling;
	/* ... and rounds in which there was nothing to do, since there was. */
	unsigned int vain_rounds;
};

/* CPUs that sidecores run on; empty for none. */
static cpumask_t sidecore_cpus;

/* All sidecores that are shared; changes only while no VM exists. */
static LIST_HEAD(kvm_sidecores);

static int sidecore_cpus_set(const char *val, const struct kernel_param *kp)
{
	cpumask_t cpus;
	int ret;

	ret = cpulist_parse(val, &cpus);
	if (ret)
		return ret;

	if (!cpumask_subset(&cpus, cpu_possible_mask))
		return -EINVAL;

	cpumask_copy(&sidecore_cpus, &cpus);
	return 0;
}

static int sidecore_cpus_get(char *buf, const struct kernel_param *kp)
{
	return cpumap_print_to_pagebuf(true, buf, &sidecore_cpus);
}

static const struct kernel_param_ops sidecore_cpus_ops = {
	.set = sidecore_cpus_set,
	.get = sidecore_cpus_get,
};

module_param_cb(sidecore_cpus, &sidecore_cpus_ops, NULL, 0444);
MODULE_PARM_DESC(sidecore_cpus, "CPUs that emulate devices by polling, as a list, e.g. 1,4-5 (default: none)");

static void sidecore_put_mm(struct kvm_sidecore *sc)
{
	if (!sc->mm)
		return;

	set_active_memcg(NULL);
	mem_cgroup_put(sc->memcg);
	kthread_unuse_mm(sc->mm);
	/* Tearing down an address space takes long; let somebody else do it. */
	mmput_async(sc->mm);
	sc->mm = NULL;
}

/*
 * Run with the client's address space.  It stays in use until another client's is
 * needed or there is nothing to poll, as changing it is expensive.
 */
static bool sidecore_use_mm(struct kvm_sidecore *sc,
			    struct kvm_sidecore_client *client)
{
	struct mm_struct *mm = client->kvm->mm;

	/* A thread of the VM's process, or the right one already. */
	if (sc->task || sc->mm == mm)
		return true;

	/* The process is exiting.  Its vCPUs are gone, nothing is left to do. */
	if (!mmget_not_zero(mm))
		return false;

	sidecore_put_mm(sc);
	kthread_use_mm(mm);
	sc->mm = mm;
	/* What is allocated for the VM is the VM's. */
	sc->memcg = get_mem_cgroup_from_mm(mm);
	set_active_memcg(sc->memcg);
	return true;
}

static unsigned int sidecore_poll(struct kvm_sidecore *sc,
				  struct kvm_sidecore_client *client)
{
	struct mm_struct *mm = sc->mm;
	unsigned int done = 0;
	u64 start, turn, end;

	start = local_clock();
	turn = start;
	if (client->ops->pending(client)) {
		if (!sidecore_use_mm(sc, client)) {
			WRITE_ONCE(client->active, false);
			return 0;
		}
		/* It is nobody's fault that this takes long. */
		if (sc->mm != mm)
			turn = local_clock();
		done = client->ops->poll(client, client->budget);
	}
	end = local_clock();

	if (end - turn > SIDECORE_TURN_NS)
		client->budget = max(client->budget / 2, SIDECORE_MIN_BUDGET);
	else if (done)
		client->budget = min(client->budget + 1, SIDECORE_BUDGET);

	++*client->polls;
	if (done) {
		*client->busy_ns += end - start;
		client->last_work = end;
		return done;
	}

	*client->wasted_ns += end - start;
	/* Just activated; count from now. */
	if (!client->last_work)
		client->last_work = end;

	if (end - client->last_work > READ_ONCE(client->idle_ns)) {
		/*
		 * Before disarm(), so that an activation is not lost: the guest
		 * may exit, and the client be activated, once disarm() let it.
		 */
		WRITE_ONCE(client->active, false);
		if (sidecore_use_mm(sc, client) && !client->ops->disarm(client))
			WRITE_ONCE(client->active, true);
		client->last_work = 0;
	}
	return 0;
}

/* Poll each active client once.  Returns false if there is none. */
static bool sidecore_round(struct kvm_sidecore *sc)
{
	struct kvm_sidecore_client *client;
	unsigned int done = 0;
	bool active = false;

	mutex_lock(&sc->lock);
	list_for_each_entry(client, &sc->clients, node) {
		if (!READ_ONCE(client->active))
			continue;

		active = true;
		done += sidecore_poll(sc, client);
		cond_resched();
	}

	if (!active || READ_ONCE(sc->drop_mm)) {
		WRITE_ONCE(sc->drop_mm, false);
		sidecore_put_mm(sc);
	}
	mutex_unlock(&sc->lock);

	if (done)
		sc->vain_rounds = 0;
	else if (++sc->vain_rounds % SIDECORE_RELAX_ROUNDS == 0)
		cpu_relax();
	return active;
}

static void sidecore_kick(struct kvm_sidecore *sc)
{
	/* Orders what it is for before it; pairs with sidecore_run(). */
	atomic_set_release(&sc->kicked, 1);
	if (sc->kthread)
		wake_up_process(sc->kthread);
	else if (!READ_ONCE(sc->dead))
		vhost_task_wake(sc->task);
}

/*
 * Called in TASK_INTERRUPTIBLE state.  Returns false if the caller is to
 * schedule().
 */
static bool sidecore_run(struct kvm_sidecore *sc)
{
	if (!atomic_xchg(&sc->kicked, 0) && !sc->polling)
		return false;

	__set_current_state(TASK_RUNNING);
	sc->polling = sidecore_round(sc);
	return true;
}

static int sidecore_thread(void *data)
{
	struct kvm_sidecore *sc = data;

	for (;;) {
		set_current_state(TASK_INTERRUPTIBLE);
		if (kthread_should_stop())
			break;

		if (!sidecore_run(sc))
			schedule();
		else
			cond_resched_tasks_rcu_qs();
	}
	__set_current_state(TASK_RUNNING);

	sidecore_put_mm(sc);
	return 0;
}

static bool sidecore_task(void *data)
{
	bool ran = sidecore_run(data);

	/* As long as there is something to poll it does not sleep. */
	if (ran)
		cond_resched_tasks_rcu_qs();
	return ran;
}

/* The process is being killed, and its vCPUs with it. */
static void sidecore_task_killed(void *data)
{
	struct kvm_sidecore *sc = data;

	WRITE_ONCE(sc->dead, true);
}

static struct kvm_sidecore *sidecore_alloc(void)
{
	struct kvm_sidecore *sc = kzalloc(sizeof(*sc), GFP_KERNEL_ACCOUNT);

	if (!sc)
		return NULL;

	mutex_init(&sc->lock);
	INIT_LIST_HEAD(&sc->node);
	INIT_LIST_HEAD(&sc->clients);
	return sc;
}

static void sidecore_link(struct kvm_sidecore *sc,
			  struct kvm_sidecore_client *client)
{
	client->sidecore = sc;
	client->active = false;
	client->last_work = 0;
	client->budget = SIDECORE_BUDGET;
	atomic_inc(&sc->nr_clients);

	mutex_lock(&sc->lock);
	list_add_tail(&client->node, &sc->clients);
	mutex_unlock(&sc->lock);
}

/*
 * Let a shared sidecore poll @client, once it is activated.  Among those on the
 * caller's package, i.e. presumably the vCPUs', choose the one with the fewest
 * clients; if there is none there, among all.  Returns -ENODEV if there is none
 * at all.
 */
int kvm_sidecore_add(struct kvm_sidecore_client *client)
{
	int package = topology_physical_package_id(raw_smp_processor_id());
	struct kvm_sidecore *sc, *best = NULL;
	bool here, best_here = false;

	list_for_each_entry(sc, &kvm_sidecores, node) {
		here = topology_physical_package_id(sc->cpu) == package;
		if (!best || here > best_here ||
		    (here == best_here && atomic_read(&sc->nr_clients) <
					  atomic_read(&best->nr_clients))) {
			best = sc;
			best_here = here;
		}
	}
	if (!best)
		return -ENODEV;

	sidecore_link(best, client);
	return 0;
}

/*
 * Let a thread of its own poll @client, once it is activated.  The thread belongs
 * to the current process, which must be the VM's: to its cgroups, its limits, and
 * it dies with it.
 */
int kvm_sidecore_add_task(struct kvm_sidecore_client *client)
{
	struct kvm_sidecore *sc;

	sc = sidecore_alloc();
	if (!sc)
		return -ENOMEM;

	sc->task = vhost_task_create(sidecore_task, sidecore_task_killed, sc,
				     "kvm-sidecore");
	if (IS_ERR_OR_NULL(sc->task)) {
		kfree(sc);
		return -ENOMEM;
	}

	sidecore_link(sc, client);
	vhost_task_start(sc->task);
	return 0;
}

/*
 * Stop polling @client.  On return it is not being polled and never will be.  The
 * caller must hold none of the locks that poll() and disarm() take.
 */
void kvm_sidecore_remove(struct kvm_sidecore_client *client)
{
	struct kvm_sidecore *sc = client->sidecore;

	if (!sc)
		return;

	mutex_lock(&sc->lock);
	list_del(&client->node);
	mutex_unlock(&sc->lock);

	client->sidecore = NULL;
	atomic_dec(&sc->nr_clients);

	if (sc->task) {
		vhost_task_stop(sc->task);
		kfree(sc);
		return;
	}

	/* Do not keep the memory of a process that is gone. */
	WRITE_ONCE(sc->drop_mm, true);
	sidecore_kick(sc);
}

/*
 * Poll @client from now on, until it has been idle for a while.  Called with any
 * lock of the client, possibly by the sidecore itself.  The caller keeps the
 * client from being removed meanwhile.
 */
void kvm_sidecore_activate(struct kvm_sidecore_client *client)
{
	struct kvm_sidecore *sc = client->sidecore;

	if (!sc || READ_ONCE(client->active))
		return;

	WRITE_ONCE(client->active, true);
	sidecore_kick(sc);
}

/*
 * The CPU whose sidecore polls @client, or -1 if a thread of its own does.  To be
 * called between add and remove.
 */
int kvm_sidecore_cpu(const struct kvm_sidecore_client *client)
{
	return client->sidecore->task ? -1 : client->sidecore->cpu;
}

/* Somebody who polls exists, for a client that kvm_sidecore_add() took. */
bool kvm_sidecore_available(void)
{
	return !list_empty(&kvm_sidecores);
}

/* Start the shared sidecores.  No VM exists. */
int kvm_sidecore_init(void)
{
	struct kvm_sidecore *sc;
	int cpu;

	for_each_cpu_and(cpu, &sidecore_cpus, cpu_online_mask) {
		sc = sidecore_alloc();
		if (!sc)
			goto error;

		sc->cpu = cpu;
		sc->kthread = kthread_create_on_node(sidecore_thread, sc,
						     cpu_to_node(cpu),
						     "kvm-sidecore/%d", cpu);
		if (IS_ERR(sc->kthread)) {
			kfree(sc);
			goto error;
		}
		kthread_bind(sc->kthread, cpu);
		list_add_tail(&sc->node, &kvm_sidecores);
		wake_up_process(sc->kthread);
	}
	return 0;

error:
	kvm_sidecore_exit();
	return -ENOMEM;
}

/* No VM exists any more. */
void kvm_sidecore_exit(void)
{
	struct kvm_sidecore *sc, *next;

	list_for_each_entry_safe(sc, next, &kvm_sidecores, node) {
		kthread_stop(sc->kthread);
		list_del(&sc->node);
		kfree(sc);
	}
}
