// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that interrupts of assigned devices arrive when there is no memory for
 * delivering them without exits (ELI), and sooner or later do without the host.  Each
 * allocation fails, one after the other: of assigning an interrupt and taking it away,
 * and of the vCPU that finds that it has one.
 *
 * It takes a kernel with fault injection, see fail_nth.h.
 */
#include "fail_nth.h"
#include "kvm_test_harness.h"
#include "eli_util.h"

#define DEV_VECTOR	0x91

FIXTURE(eli_fail) {
	struct eli_vm ev;
	struct fail_nth f;
};

FIXTURE_SETUP(eli_fail)
{
	memset(self, 0, sizeof(*self));
	eli_pin(0);
}

FIXTURE_TEARDOWN(eli_fail)
{
	ksft_print_msg("%u allocations failed\n", self->f.failures);
}

static void idle_guest(void)
{
	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
	GUEST_DONE();
}

static void fail_start(struct eli_vm *ev)
{
	eli_vm_create(ev, 1, idle_guest);
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
}

static void fail_finish(struct eli_vm *ev)
{
	eli_go(ev, 1);
	TEST_ASSERT_EQ(eli_thread_join(&ev->thread[0]), ELI_END_DONE);
	eli_vm_destroy(ev);
}

TEST_F_TIMEOUT(eli_fail, assign, 4 * ELI_CASE_TIMEOUT)
{
	struct eli_vm *ev = &self->ev;
	struct fail_nth *f = &self->f;
	struct eli_dev *dev;
	int ret, i;

	while (fail_nth_next(f)) {
		struct kvm_irqfd irqfd = {};

		fail_start(ev);
		dev = eli_dev_add(ev, 0, DEV_VECTOR);
		eli_dev_irqfd(ev, dev, false);

		irqfd.fd = dev->eventfd;
		irqfd.gsi = dev->gsi;
		fail_nth_begin(f);
		ret = __vm_ioctl(ev->vm, KVM_IRQFD, &irqfd);
		fail_nth_end(f);
		TEST_ASSERT(!ret || (f->injected && errno == ENOMEM),
			    "KVM_IRQFD: %s", strerror(errno));
		if (ret)
			eli_dev_irqfd(ev, dev, true);
		for (i = 0; i < 5; i++)
			eli_fire(ev, dev);

		/* What goes cannot fail. */
		irqfd.flags = KVM_IRQFD_FLAG_DEASSIGN;
		fail_nth_begin(f);
		ret = __vm_ioctl(ev->vm, KVM_IRQFD, &irqfd);
		fail_nth_end(f);
		TEST_ASSERT(!ret, "KVM_IRQFD: %s", strerror(errno));

		eli_dev_irqfd(ev, dev, true);
		eli_arm(ev, dev);
		fail_finish(ev);
	}
	TEST_ASSERT(f->failures, "there was no allocation to fail");
}

TEST_F_TIMEOUT(eli_fail, run, 4 * ELI_CASE_TIMEOUT)
{
	struct eli_vm *ev = &self->ev;
	struct fail_nth *f = &self->f;
	struct eli_dev *dev;
	int i;

	while (fail_nth_next(f)) {
		fail_start(ev);
		ev->thread[0].may_fail = true;
		f->tid = ev->thread[0].tid;
		eli_thread_pause(&ev->thread[0]);
		dev = eli_dev_add(ev, 0, DEV_VECTOR);
		fail_nth_begin(f);
		eli_thread_resume(&ev->thread[0]);
		for (i = 0; i < 20; i++)
			eli_fire(ev, dev);
		fail_nth_end(f);
		eli_arm(ev, dev);
		fail_finish(ev);
	}
	TEST_ASSERT(f->failures || !eli_on(), "there was no allocation to fail");
}

int main(int argc, char *argv[])
{
	eli_require();
	__TEST_REQUIRE(fail_nth_is_possible(), FAIL_NTH_IMPOSSIBLE);
	return test_harness_run(argc, argv);
}
