// SPDX-License-Identifier: GPL-2.0-only
/*
 * Measure how long guests wait for the in-kernel IOMMU (KVM_DEV_TYPE_VIOMMU) when
 * many VMs share a sidecore, and verify that it serves all of them alike.
 *
 * VMs are processes of their own, with one or several vCPUs.  Each vCPU maps and
 * unmaps a page, and announces that as an operating system does: an invalidation
 * and a wait descriptor for each, in the queue of the VM, of which it has the lock
 * until the wait descriptor is carried out.  What is measured is the time from the
 * write of the queue's tail until that, without the time in which the vCPU was not
 * running, as Linux tells it (steal time): vCPUs of many VMs may share a CPU.
 *
 * The first VMs have a device, if VIOMMU_VFIO_DEVICES in the environment names any:
 * "/dev/vfio/1:0000:00:07.0,...".  Without a device nothing is mapped in the end.
 */
#include <getopt.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include <asm/kvm_para.h>

#include "viommu_vfio.h"

#define MAX_VMS			64
#define MAX_VCPUS		4

#define SID			VTD_SID(0, 4, 0)
#define DID			7
#define WIDTH			48
#define IOVA			0x80000000ul
/* One after the other is mapped and unmapped, as a ring of buffers is. */
#define NR_IOVAS		256

/* For how long a guest that is not running may be taken for busy, in us. */
#define POLL_US			"1000000"

/* Waiting times, by 8 steps for each power of 2. */
#define NR_BUCKETS		(64 * 8)

/* What guest and host share beside struct viommu_shared. */
struct perf_vcpu {
	struct kvm_steal_time steal __aligned(64);
	u64 ops __aligned(64);
	u64 sum;
	u64 most;
	u32 buckets[NR_BUCKETS];
};

struct perf_guest {
	u32 lock __aligned(64);
	u32 started;
	u32 go;
	u32 stop;
	u64 entries;
	u64 page;
	u64 ns_per_1024_cycles;
	struct perf_vcpu vcpus[MAX_VCPUS];
};

/* A VM as its parent sees it. */
struct perf_vm {
	u64 ops;
	u64 sum;
	u64 most;
	u64 polls;
	u64 traps;
	u32 buckets[NR_BUCKETS];
};

struct perf {
	u32 ready;
	u32 go;
	u32 stop;
	struct perf_vm vms[MAX_VMS];
};

static unsigned int nr_vms = 4;
static unsigned int nr_vcpus = 1;
static unsigned int seconds = 2;
static u64 worker = KVM_VIOMMU_WORKER_SIDECORE;

/* ----------------------------------------------------------------- guest */

static unsigned int bucket_of(u64 ns)
{
	unsigned int top;

	if (ns < 8)
		return ns;
	top = 63 - __builtin_clzll(ns);
	return top * 8 + ((ns >> (top - 3)) & 7);
}

/* The middle of a bucket. */
static u64 bucket_ns(unsigned int i)
{
	unsigned int top = i / 8;

	if (i < 8)
		return i;
	return ((8ull + i % 8) << (top - 3)) + (1ull << (top - 3)) / 2;
}

static u64 guest_steal(struct perf_vcpu *vcpu)
{
	u32 version;
	u64 steal;

	do {
		version = READ_ONCE(vcpu->steal.version);
		steal = READ_ONCE(vcpu->steal.steal);
	} while ((version & 1) || version != READ_ONCE(vcpu->steal.version));
	return steal;
}

static void guest_lock(u32 *lock)
{
	while (__atomic_exchange_n(lock, 1, __ATOMIC_ACQUIRE))
		cpu_relax();
}

static void guest_unlock(u32 *lock)
{
	__atomic_store_n(lock, 0, __ATOMIC_RELEASE);
}

/* Tell that an entry has changed, and note for how long that takes. */
static void guest_announce(struct perf_guest *g, struct perf_vcpu *vcpu, u64 iova)
{
	u64 start, steal, ns;

	guest_lock(&g->lock);
	guest_queue_add(VTD_QI_IOTLB(VTD_PAGES) | VTD_QI_IOTLB_DID(DID), iova);
	guest_queue_add_wait();
	steal = guest_steal(vcpu);
	start = rdtsc();
	guest_queue_submit();
	GUEST_WAIT(guest_queue_completed());
	ns = ((rdtsc() - start) * g->ns_per_1024_cycles) >> 10;
	steal = guest_steal(vcpu) - steal;
	guest_unlock(&g->lock);

	ns -= ns > steal ? steal : ns;
	vcpu->buckets[bucket_of(ns)]++;
	vcpu->sum += ns;
	if (ns > vcpu->most)
		vcpu->most = ns;
	WRITE_ONCE(vcpu->ops, vcpu->ops + 1);
}

static void guest_code(struct perf_guest *g, u64 id)
{
	struct perf_vcpu *vcpu = &g->vcpus[id];
	u64 *entries = (u64 *)g->entries, i, n;

	wrmsr(MSR_KVM_STEAL_TIME, (u64)&vcpu->steal | KVM_MSR_ENABLED);
	if (!id) {
		guest_init();
		WRITE_ONCE(g->started, 1);
	}
	/* Busy all the time, in order to be polled for. */
	while (!READ_ONCE(g->stop)) {
		if (!READ_ONCE(g->started))
			continue;
		for (n = id; n < NR_IOVAS; n += nr_vcpus) {
			i = IOVA / PAGE_SIZE % 512 + n;
			WRITE_ONCE(entries[i], g->page | VTD_SL_RW);
			guest_announce(g, vcpu, IOVA + n * PAGE_SIZE);
			WRITE_ONCE(entries[i], 0);
			guest_announce(g, vcpu, IOVA + n * PAGE_SIZE);
		}
	}
	GUEST_DONE();
}

/* ------------------------------------------------------------------ host */

struct vcpu_thread {
	struct kvm_vcpu *vcpu;
	pthread_t thread;
};

static void *run_vcpu(void *arg)
{
	struct vcpu_thread *t = arg;
	struct ucall uc;

	vcpu_run(t->vcpu);
	switch (get_ucall(t->vcpu, &uc)) {
	case UCALL_DONE:
		break;
	case UCALL_ABORT:
		REPORT_GUEST_ASSERT(uc);
	default:
		TEST_FAIL("Exit to user space: %s",
			  exit_reason_str(t->vcpu->run->exit_reason));
	}
	return NULL;
}

/* The device of the nth VM, if there are so many. */
static bool find_device(struct edu *e, unsigned int n)
{
	const char *list = getenv("VIOMMU_VFIO_DEVICES");
	char *name;

	edu_init(e);
	while (list && n--) {
		list = strchr(list, ',');
		list += !!list;
	}
	if (!list || !*list)
		return false;

	e->path = strndup(list, strcspn(list, ":"));
	name = strchr(list, ':');
	TEST_ASSERT(name++, "VIOMMU_VFIO_DEVICES has no name: %s", list);
	e->name = strndup(name, strcspn(name, ","));
	edu_open_group(e);
	edu_open_container(e);
	edu_join_container(e);
	edu_open_device(e);
	return true;
}

static u64 total(struct perf_guest *g, unsigned int offset)
{
	u64 sum = 0;
	unsigned int i;

	for (i = 0; i < nr_vcpus; i++)
		sum += READ_ONCE(*(u64 *)((void *)&g->vcpus[i] + offset));
	return sum;
}

static void run_vm(struct perf *p, unsigned int n)
{
	struct vcpu_thread threads[MAX_VCPUS] = {};
	struct kvm_vcpu *vcpus[MAX_VCPUS];
	struct perf_vm *result = &p->vms[n];
	struct viommu_vm t = { .fd = -1 };
	struct perf_guest *g;
	u64 tables, gpa;
	unsigned int i, j;
	struct edu e;
	bool has_device;

	t.vm = vm_create_with_vcpus(nr_vcpus, guest_code, vcpus);
	t.vcpu = vcpus[0];
	viommu_add_pool(&t);
	viommu_map_regs(t.vm);
	sync_global_to_guest(t.vm, nr_vcpus);
	t.vm_stats_fd = vm_get_stats_fd(t.vm);
	t.vcpu_stats_fd = vcpu_get_stats_fd(t.vcpu);
	viommu_start(&t, worker);
	has_device = find_device(&e, n);
	if (has_device)
		TEST_ASSERT(!__viommu_add_device(t.fd, SID, e.group, e.name),
			    "%s: %s", e.name, strerror(errno));

	tables = viommu_alloc(&t, 1);
	viommu_set_context(&t, SID, DID, tables, WIDTH);
	gpa = viommu_alloc(&t, 8);
	TEST_ASSERT(sizeof(*g) <= 8 * PAGE_SIZE, "struct perf_guest");
	g = viommu_hva(&t, gpa);
	g->page = viommu_alloc(&t, 1);
	/* Tables down to the last level are allocated. */
	viommu_sl_entry(&t, tables, WIDTH, IOVA, 1);
	g->entries = *viommu_sl_entry(&t, tables, WIDTH, IOVA, 2) & VTD_SL_ADDR;
	g->ns_per_1024_cycles = 1024 * 1000000ull /
				__vcpu_ioctl(t.vcpu, KVM_GET_TSC_KHZ, NULL);
	for (i = 0; i < nr_vcpus; i++) {
		vcpu_args_set(vcpus[i], 2, gpa, i);
		threads[i].vcpu = vcpus[i];
		TEST_ASSERT(!pthread_create(&threads[i].thread, NULL, run_vcpu,
					    &threads[i]), "pthread_create()");
	}
	VIOMMU_ASSERT_WAIT(READ_ONCE(g->started) &&
			   total(g, offsetof(struct perf_vcpu, ops)) > 200,
			   "VM %u does not start", n);

	__atomic_fetch_add(&p->ready, 1, __ATOMIC_RELAXED);
	while (!READ_ONCE(p->go))
		usleep(10000);
	result->ops = total(g, offsetof(struct perf_vcpu, ops));
	result->sum = total(g, offsetof(struct perf_vcpu, sum));
	result->polls = viommu_stat(&t, "viommu_polls");
	result->traps = viommu_stat(&t, "viommu_traps");
	for (i = 0; i < nr_vcpus; i++) {
		memset(g->vcpus[i].buckets, 0, sizeof(g->vcpus[i].buckets));
		WRITE_ONCE(g->vcpus[i].most, 0);
	}
	while (!READ_ONCE(p->stop))
		usleep(10000);
	result->ops = total(g, offsetof(struct perf_vcpu, ops)) - result->ops;
	result->sum = total(g, offsetof(struct perf_vcpu, sum)) - result->sum;
	result->polls = viommu_stat(&t, "viommu_polls") - result->polls;
	result->traps = viommu_stat(&t, "viommu_traps") - result->traps;
	for (i = 0; i < nr_vcpus; i++) {
		if (g->vcpus[i].most > result->most)
			result->most = g->vcpus[i].most;
		for (j = 0; j < NR_BUCKETS; j++)
			result->buckets[j] += g->vcpus[i].buckets[j];
	}

	WRITE_ONCE(g->stop, 1);
	for (i = 0; i < nr_vcpus; i++)
		pthread_join(threads[i].thread, NULL);
	TEST_ASSERT_EQ(viommu_stat(&t, "viommu_faults"), 0);
	TEST_ASSERT_EQ(viommu_stat(&t, "viommu_queue_errors"), 0);
	if (has_device)
		TEST_ASSERT(viommu_stat(&t, "viommu_maps") >= result->ops / 2,
			    "The device's pages were not mapped");
	viommu_vm_destroy(&t);
	if (has_device)
		edu_close(&e);
}

/* Of all VMs in buckets[]: below what time @percent of the waits are. */
static u64 percentile(const u64 *buckets, u64 ops, unsigned int percent)
{
	u64 below = 0;
	unsigned int i;

	for (i = 0; i < NR_BUCKETS; i++) {
		below += buckets[i];
		if (100 * below >= percent * ops && below)
			return bucket_ns(i);
	}
	return 0;
}

static int compare(const void *a, const void *b)
{
	u64 x = *(u64 *)a, y = *(u64 *)b;

	return x < y ? -1 : x > y;
}

static void report(struct perf *p)
{
	u64 buckets[NR_BUCKETS] = {}, means[MAX_VMS], polls[MAX_VMS];
	u64 ops = 0, most = 0, traps = 0, median;
	struct perf_vm *vm;
	unsigned int i, j;

	for (i = 0; i < nr_vms; i++) {
		vm = &p->vms[i];
		TEST_ASSERT(vm->ops, "VM %u was never served", i);
		means[i] = vm->sum / vm->ops;
		polls[i] = vm->polls;
		traps += vm->traps;
		if (vm->most > most)
			most = vm->most;
		for (j = 0; j < NR_BUCKETS; j++) {
			buckets[j] += vm->buckets[j];
			ops += vm->buckets[j];
		}
	}
	qsort(means, nr_vms, sizeof(means[0]), compare);
	qsort(polls, nr_vms, sizeof(polls[0]), compare);
	median = percentile(buckets, ops, 50);

	pr_info("vms %u\nvcpus %u\nwaits %lu\ntrapped %lu\n", nr_vms, nr_vcpus,
		ops, traps);
	pr_info("wait_p50_ns %lu\nwait_p99_ns %lu\nwait_max_ns %lu\n", median,
		percentile(buckets, ops, 99), most);
	pr_info("vm_mean_min_ns %lu\nvm_mean_median_ns %lu\nvm_mean_max_ns %lu\n",
		means[0], means[nr_vms / 2], means[nr_vms - 1]);
	pr_info("vm_polls_min %lu\nvm_polls_max %lu\n", polls[0],
		polls[nr_vms - 1]);

	TEST_ASSERT(means[nr_vms - 1] <= 10 * means[nr_vms / 2],
		    "A VM waits %lu ns on average, the median VM %lu ns",
		    means[nr_vms - 1], means[nr_vms / 2]);
	if (worker != KVM_VIOMMU_WORKER_SIDECORE)
		return;

	/* All of them are in direct mode, and it is each one's turn in turn. */
	TEST_ASSERT(traps < ops / 20, "%lu of %lu writes were trapped", traps, ops);
	TEST_ASSERT(polls[0] >= polls[nr_vms - 1] / 2,
		    "A VM was polled for %lu times, another %lu times", polls[0],
		    polls[nr_vms - 1]);
}

static void help(const char *name)
{
	printf("usage: %s [-n VMS] [-c VCPUS] [-s SECONDS] [-t]\n"
	       " -n: VMs (%u), 1 to %u\n"
	       " -c: vCPUs of each (%u), 1 to %u\n"
	       " -s: for how long to measure (%u)\n"
	       " -t: without sidecores, trapping each write\n",
	       name, nr_vms, MAX_VMS, nr_vcpus, MAX_VCPUS, seconds);
	exit(KSFT_SKIP);
}

int main(int argc, char *argv[])
{
	char poll_us[32];
	pid_t pids[MAX_VMS];
	int opt, status;
	unsigned int i;
	struct perf *p;

	while ((opt = getopt(argc, argv, "n:c:s:th")) != -1) {
		switch (opt) {
		case 'n':
			nr_vms = atoi_positive("VMs", optarg);
			break;
		case 'c':
			nr_vcpus = atoi_positive("vCPUs", optarg);
			break;
		case 's':
			seconds = atoi_positive("Seconds", optarg);
			break;
		case 't':
			worker = KVM_VIOMMU_WORKER_NONE;
			break;
		default:
			help(argv[0]);
		}
	}
	if (nr_vms > MAX_VMS || nr_vcpus > MAX_VCPUS)
		help(argv[0]);

	viommu_require();
	TEST_REQUIRE(kvm_cpu_has(X86_FEATURE_KVM_STEAL_TIME));
	if (worker == KVM_VIOMMU_WORKER_SIDECORE)
		__TEST_REQUIRE(viommu_has_sidecores(),
			       "kvm.sidecore_cpus is empty");

	p = mmap(NULL, sizeof(*p), PROT_READ | PROT_WRITE,
		 MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	TEST_ASSERT(p != MAP_FAILED, "mmap()");
	snprintf(poll_us, sizeof(poll_us), "%ld",
		 viommu_param("viommu_poll_us", 1000));
	TEST_ASSERT(!__viommu_set_param("viommu_poll_us", POLL_US), POLL_US);
	fflush(stdout);
	for (i = 0; i < nr_vms; i++) {
		pids[i] = fork();
		TEST_ASSERT(pids[i] >= 0, "fork()");
		if (!pids[i]) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			run_vm(p, i);
			_exit(0);
		}
	}
	VIOMMU_ASSERT_WAIT(READ_ONCE(p->ready) == nr_vms, "Only %u VMs started",
			   READ_ONCE(p->ready));
	__viommu_set_param("viommu_poll_us", poll_us);
	WRITE_ONCE(p->go, 1);
	sleep(seconds);
	WRITE_ONCE(p->stop, 1);
	for (i = 0; i < nr_vms; i++) {
		TEST_ASSERT_EQ(waitpid(pids[i], &status, 0), pids[i]);
		TEST_ASSERT(!status, "VM %u: 0x%x", i, status);
	}
	report(p);
	return 0;
}
