// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that no assigned interrupt is lost, nor comes as another, when what
 * exitless delivery (ELI) relies on changes under a load of interrupts: the CPU
 * that a vCPU runs on, where the interrupt goes to in the host and in the
 * guest, whether there is a device at all, and whether there is a guest.
 *
 * Interrupts that have to be counted are fired one at a time, as those that are
 * pending coalesce.
 */
#include <sys/wait.h>

#include "kvm_test_harness.h"
#include "eli_util.h"

#define DEV_VECTOR	0x91
#define DEV2_VECTOR	0x52

#define ROUNDS		300

FIXTURE(eli_migrate) {
	struct eli_vm ev;
};

FIXTURE_SETUP(eli_migrate)
{
	memset(&self->ev, 0, sizeof(self->ev));
}

FIXTURE_TEARDOWN(eli_migrate)
{
	if (!self->ev.vm)
		return;
	TEST_ASSERT(!self->ev.sh->bad_frames,
		    "%u interrupts had a frame that no interrupt has",
		    self->ev.sh->bad_frames);
	eli_vm_destroy(&self->ev);
}

#define ELI_MIGRATE_TEST(name)						\
static void __migrate_##name(struct eli_vm *ev);			\
									\
TEST_F_TIMEOUT(eli_migrate, name, ELI_CASE_TIMEOUT)			\
{									\
	__migrate_##name(&self->ev);					\
}									\
static void __migrate_##name(struct eli_vm *ev)

static void idle_guest(void)
{
	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	GUEST_DONE();
}

static void second_guest(void)
{
	eli_guest_init();
	GUEST_SYNC(1);
	eli_guest_idle(1);
	GUEST_DONE();
}

/* Sends itself an IPI a time, too, which has to arrive as well. */
static void busy_guest(void)
{
	u32 n = 0;

	eli_guest_init();
	eli_guest_stage(1);
	while (READ_ONCE(eli_shared.go) < 1) {
		eli_self_ipi(DEV2_VECTOR);
		n++;
		GUEST_ASSERT(eli_guest_wait(eli_count(DEV2_VECTOR) == n));
		eli_guest_delay(500);
		WRITE_ONCE(eli_shared.loops, eli_shared.loops + 1);
	}
	GUEST_DONE();
}

static void finish(struct eli_vm *ev)
{
	int i;

	eli_go(ev, 1);
	for (i = 0; i < ev->nr_vcpus; i++)
		TEST_ASSERT_EQ(eli_thread_join(&ev->thread[i]), ELI_END_DONE);
}

static void two_vcpus(struct eli_vm *ev)
{
	eli_pin(0);
	eli_vm_create(ev, 2, idle_guest);
	vcpu_arch_set_entry_point(ev->vcpu[1], second_guest);
}

static void start_two(struct eli_vm *ev)
{
	eli_thread_start(ev, 0);
	eli_thread_start(ev, 1);
	eli_wait_stage(ev, 1);
	eli_thread_sync(&ev->thread[1], 1);
	eli_thread_resume(&ev->thread[1]);
}

/* ---------------------------------------------------------- vCPU's CPU */

static void move(struct eli_thread *t, unsigned int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(cpu, &set);
	TEST_ASSERT(!pthread_setaffinity_np(t->pthread, sizeof(set), &set),
		    "pthread_setaffinity_np() to CPU %u", cpu);
}

/* The guard's CPU is among those visited: nothing is direct there. */
ELI_MIGRATE_TEST(vcpu)
{
	int i, nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR);
	u32 count;

	eli_arm(ev, dev);
	count = eli_host_count(ev, DEV_VECTOR);
	for (i = 1; i <= ROUNDS; i++) {
		move(&ev->thread[0], i % nr_cpus);
		/* At once, and when the interrupt may have followed. */
		eli_fire(ev, dev);
		if (i % 4 == 0)
			usleep(20000);
		eli_fire(ev, dev);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + 2 * ROUNDS);
	/* Once at rest, it has to become direct again. */
	move(&ev->thread[0], eli_vcpu_cpu(0));
	eli_arm(ev, dev);
	finish(ev);
}

struct mover {
	struct eli_thread *thread;
	bool stop;
	u32 moves;
};

static void *mover_thread(void *arg)
{
	unsigned int nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct mover *m = arg;

	while (!READ_ONCE(m->stop)) {
		move(m->thread, (m->moves + 1) % nr_cpus);
		WRITE_ONCE(m->moves, m->moves + 1);
		usleep(1000);
	}
	return NULL;
}

/* Anywhere, not only between two interrupts. */
ELI_MIGRATE_TEST(vcpu_any_time)
{
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR);
	struct mover mover = { .thread = &ev->thread[0] };
	pthread_t pthread;
	u32 count;
	int i;

	eli_arm(ev, dev);
	count = eli_host_count(ev, DEV_VECTOR);
	TEST_ASSERT(!pthread_create(&pthread, NULL, mover_thread, &mover),
		    "pthread_create()");
	/* However fast interrupts are, many moves have to be among them. */
	for (i = 0; i < ROUNDS || READ_ONCE(mover.moves) < ROUNDS; i++)
		eli_fire(ev, dev);
	WRITE_ONCE(mover.stop, true);
	pthread_join(pthread, NULL);
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + i);
	finish(ev);
}

/* ------------------------------------------------- the host's interrupt */

/* User space may move the interrupt, as irqbalance does. */
ELI_MIGRATE_TEST(affinity)
{
	int i, j, r, moved = 0, nr_cpus = sysconf(_SC_NPROCESSORS_ONLN);
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR);
	u32 count, n = 0;

	eli_arm(ev, dev);
	count = eli_host_count(ev, DEV_VECTOR);
	for (i = 1; i <= ROUNDS; i++) {
		r = ioctl(dev->irq.fd, ELIPROD_SET_AFFINITY, i % nr_cpus);
		/* Refused while ELI decides, or the last is going on. */
		TEST_ASSERT(!r || errno == EIO || errno == EBUSY,
			    "ELIPROD_SET_AFFINITY");
		moved += !r;
		eli_fire(ev, dev);
		eli_fire(ev, dev);
		n += 2;
		if (r || i % 16)
			continue;
		/* It takes interrupts for it to be really there. */
		for (j = 0; j < 500; j++, n++) {
			if (eli_irq_status(&dev->irq).cpu == i % nr_cpus)
				break;
			eli_fire(ev, dev);
			usleep(5000);
		}
		TEST_ASSERT(j < 500, "The interrupt does not go to CPU %d",
			    i % nr_cpus);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + n);
	pr_info("# affinity was set %d of %d times\n", moved, ROUNDS);
	finish(ev);
}

static void set_online(unsigned int cpu, bool on)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/sys/devices/system/cpu/cpu%u/online",
		 cpu);
	fd = open(path, O_WRONLY);
	TEST_ASSERT(fd >= 0, "open() of %s", path);
	TEST_ASSERT(write(fd, on ? "1" : "0", 1) == 1, "write() to %s", path);
	close(fd);
}

/* The CPU goes away that a vCPU runs on.  Not unasked on a user's machine. */
ELI_MIGRATE_TEST(cpu_hotplug)
{
	unsigned int cpu = sysconf(_SC_NPROCESSORS_ONLN) - 1;
	struct eli_dev *dev;
	int i, j;

	if (!getenv("ELI_HOTPLUG") || !atoi(getenv("ELI_HOTPLUG"))) {
		pr_info("# ELI_HOTPLUG=1 is not set: not tested\n");
		return;
	}
	eli_pin(0);
	eli_vm_create(ev, 1, busy_guest);
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	ev->thread[0].cpu = cpu;
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	for (i = 0; i < 3; i++) {
		eli_arm(ev, dev);
		set_online(cpu, false);
		for (j = 0; j < 20; j++)
			eli_fire(ev, dev);
		set_online(cpu, true);
		move(&ev->thread[0], cpu);
	}
	eli_arm(ev, dev);
	finish(ev);
}

/* ------------------------------------------------------------- routing */

ELI_MIGRATE_TEST(route_vectors)
{
	const u8 vectors[] = { DEV_VECTOR, 0x20, 0xfe, 0x31 };
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR);
	u32 count[256] = {}, before;
	int i, v;

	eli_arm(ev, dev);
	for (i = 0; i < ROUNDS; i++) {
		eli_route(ev, dev, 0, vectors[i % ARRAY_SIZE(vectors)]);
		if (i % 16 == 0)
			usleep(20000);
		before = eli_host_count(ev, dev->vector);
		eli_fire(ev, dev);
		eli_fire(ev, dev);
		TEST_ASSERT_EQ(eli_host_count(ev, dev->vector), before + 2);
		count[dev->vector] += 2;
	}
	for (v = 0; v < 256; v++)
		if (v != DEV2_VECTOR && v != DEV_VECTOR)
			TEST_ASSERT(eli_host_count(ev, v) == count[v],
				    "0x%x arrived %u times, not %u", v,
				    eli_host_count(ev, v), count[v]);
	finish(ev);
}

/* From vCPU to vCPU; vectors say where it arrived. */
ELI_MIGRATE_TEST(route_vcpus)
{
	struct eli_dev *dev;
	vm_vaddr_t second;
	struct idt_entry *gates;
	int i;

	two_vcpus(ev);
	/* The same vector is another stub in the other's table. */
	second = eli_second_idt(ev, 1);
	gates = addr_gva2hva(ev->vm, second);
	gates[DEV_VECTOR] = gates[DEV_VECTOR + 1];
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	start_two(ev);
	eli_arm(ev, dev);
	for (i = 0; i < ROUNDS; i++) {
		eli_route(ev, dev, i & 1, DEV_VECTOR);
		eli_fire_as(ev, dev, DEV_VECTOR + (i & 1));
		if (i % 8 == 0)
			usleep(30000);
		eli_fire_as(ev, dev, DEV_VECTOR + (i & 1));
	}
	finish(ev);
}

/* Two at once: a device that stays must not be disturbed. */
ELI_MIGRATE_TEST(route_other)
{
	struct eli_dev *dev, *other;
	u32 count;
	int i;

	two_vcpus(ev);
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	other = eli_dev_add(ev, 0, DEV2_VECTOR);
	start_two(ev);
	eli_arm(ev, dev);
	eli_arm(ev, other);
	eli_irq_start(&other->irq, 0, 1000, 0);
	count = eli_host_count(ev, DEV_VECTOR);
	for (i = 0; i < ROUNDS; i++) {
		eli_route(ev, other, i & 1, DEV2_VECTOR + i % 3);
		eli_fire(ev, dev);
	}
	TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), count + ROUNDS);
	TEST_ASSERT(eli_host_count(ev, DEV2_VECTOR) &&
		    eli_host_count(ev, DEV2_VECTOR + 1) &&
		    eli_host_count(ev, DEV2_VECTOR + 2),
		    "The other device did not interrupt");
	eli_irq_stop(&other->irq);
	finish(ev);
}

/*
 * An interrupt that leaves a CPU leaves its vector to the host, below that of
 * another one there.
 */
ELI_MIGRATE_TEST(vector_left)
{
	struct eli_dev *dev, *leaving, *swap;
	struct eli_irq host;
	u64 handled;
	u32 vector;
	int i;

	if (eli_vcpu_cpu(0) == eli_vcpu_cpu(1)) {
		pr_info("# no third CPU: not tested\n");
		return;
	}
	two_vcpus(ev);
	/* As this exits often, the guard does not have it look at its vectors. */
	vcpu_arch_set_entry_point(ev->vcpu[0], busy_guest);
	leaving = eli_dev_add(ev, 0, 0xa1);
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	eli_thread_start(ev, 0);
	eli_thread_start(ev, 1);
	eli_wait_stage(ev, 1);
	eli_thread_sync(&ev->thread[1], 1);
	eli_arm(ev, leaving);
	eli_arm(ev, dev);
	if (eli_irq_status(&leaving->irq).vector > eli_irq_status(&dev->irq).vector) {
		swap = leaving;
		leaving = dev;
		dev = swap;
	}
	/* To a vCPU that does not run: it stays where it is, for now. */
	eli_route(ev, leaving, 1, leaving->vector);
	eli_arm(ev, dev);
	vector = eli_irq_status(&leaving->irq).vector;
	eli_thread_resume(&ev->thread[1]);
	/* Until it has left, and the CPU has got round to freeing the vector. */
	for (i = 0; i < 200; i++) {
		eli_fire(ev, leaving);
		eli_irq_create(&host, ELIPROD_HOST, -1, eli_vcpu_cpu(0));
		if (eli_irq_status(&host).vector <= vector)
			break;
		close(host.fd);
		usleep(1000);
	}
	/* It has not if the guest took the interrupt directly from the start. */
	pr_info("# vector 0x%x was%s left\n", vector, i < 200 ? "" : " not");
	if (i < 200) {
		handled = eli_irq_status(&dev->irq).handled;
		for (i = 0; i < 10; i++)
			eli_fire(ev, dev);
		if (eli_on())
			TEST_ASSERT(eli_irq_status(&dev->irq).handled == handled + 10,
				    "The guest's table reaches a vector of the host's");
		eli_irq_fire(&host);
		ELI_ASSERT_WAIT(eli_irq_status(&host).handled == 1,
				"the host's interrupt is lost");
		close(host.fd);
		eli_arm(ev, dev);
	}
	finish(ev);
}

/* --------------------------------------------------- device comes and goes */

ELI_MIGRATE_TEST(reconnect)
{
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR);
	int i;

	eli_arm(ev, dev);
	for (i = 0; i < ROUNDS / 3; i++) {
		/* Without a producer the host's handler forwards. */
		TEST_ASSERT(!ioctl(dev->irq.fd, ELIPROD_CONNECT, 0),
			    "disconnect");
		eli_fire(ev, dev);
		if (i % 8 == 0)
			usleep(20000);
		eli_fire(ev, dev);
		TEST_ASSERT(!ioctl(dev->irq.fd, ELIPROD_CONNECT, 1),
			    "connect");
		eli_fire(ev, dev);
		if (i % 8 == 0)
			usleep(20000);
		eli_fire(ev, dev);
		/* And without an irqfd nobody does: it is kept for later. */
		eli_dev_irqfd(ev, dev, false);
		eli_dev_irqfd(ev, dev, true);
		eli_fire(ev, dev);
	}
	eli_arm(ev, dev);
	finish(ev);
}

/* The irq of the host is freed while it fires; vectors are used again. */
ELI_MIGRATE_TEST(unplug)
{
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR);
	u32 host_count;
	int i;

	for (i = 0; i < 20; i++) {
		struct eli_irq host;

		eli_arm(ev, dev);
		eli_irq_start(&dev->irq, 0, 200, 0);
		usleep(20000);
		eli_dev_close(dev);
		/* The vector is likely to be the same, and now the host's. */
		eli_irq_create(&host, ELIPROD_HOST, -1, eli_vcpu_cpu(0));
		eli_wait_idle(ev);
		usleep(1000);
		host_count = eli_host_count(ev, DEV_VECTOR);
		TEST_ASSERT_EQ(eli_irq_status(&host).handled, 0);
		eli_irq_fire(&host);
		ELI_ASSERT_WAIT(eli_irq_status(&host).handled == 1,
				"the host's interrupt is lost");
		TEST_ASSERT_EQ(eli_host_count(ev, DEV_VECTOR), host_count);
		close(host.fd);
		eli_irq_create(&dev->irq, ELIPROD_ASSIGNED, dev->eventfd,
			       eli_vcpu_cpu(0));
	}
	eli_arm(ev, dev);
	finish(ev);
}

/* --------------------------------------------------------------- killed */

static void load_until_killed(struct eli_vm *ev, int fd)
{
	struct eli_dev *dev = eli_start(ev, busy_guest, DEV_VECTOR), *dev2;

	dev2 = eli_dev_add(ev, 0, 0xa1);
	eli_arm(ev, dev);
	eli_irq_start(&dev->irq, 0, 200, 0);
	eli_irq_start(&dev2->irq, 0, 300, 0);
	if (write(fd, "x", 1) != 1)
		_exit(1);
	for (;;)
		pause();
}

ELI_MIGRATE_TEST(killed)
{
	struct eli_vm child;
	int fds[2], i, status;
	pid_t pid;
	char c;

	for (i = 0; i < 15; i++) {
		TEST_ASSERT(!pipe(fds), "pipe()");
		pid = fork();
		if (!pid) {
			close(fds[0]);
			load_until_killed(&child, fds[1]);
		}
		TEST_ASSERT(pid > 0, "fork()");
		close(fds[1]);
		TEST_ASSERT(read(fds[0], &c, 1) == 1, "The child ended");
		close(fds[0]);
		usleep(2000 * i);
		kill(pid, SIGKILL);
		TEST_ASSERT(waitpid(pid, &status, 0) == pid &&
			    WIFSIGNALED(status), "waitpid()");
	}
	/* What is left behind would be felt by the next. */
	eli_arm(ev, eli_start(ev, busy_guest, DEV_VECTOR));
	finish(ev);
}

int main(int argc, char *argv[])
{
	eli_require();
	return test_harness_run(argc, argv);
}
