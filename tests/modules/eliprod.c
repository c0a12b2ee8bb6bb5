// SPDX-License-Identifier: GPL-2.0-only
/*
 * eliprod - interrupts of assigned devices and of the host without a device
 *
 * For tests of exitless interrupts on machines, emulated ones included, that
 * have no device to assign or no IOMMU.  Each open of /dev/eliprod can have one
 * interrupt, a Linux irq directly in the x86 vector domain, with a vector on
 * one CPU, as an MSI has.  There is nothing behind it that would send the
 * message: the interrupt is fired, on request or by a timer, as an IPI with the
 * vector that it has at that moment to the CPU that it has at that moment.
 *
 * What KVM sees of an "assigned" one is what it sees of VFIO's: an irqbypass
 * producer whose token is an eventfd, and a handler in the host that signals
 * this eventfd.
 *
 * A "host" one stands for any device of the host.  As edge triggered interrupts
 * coalesce while they are pending, "none was lost" can only be said of those
 * that were fired after the one before was handled: ELIPROD_AFTER_HANDLED.
 *
 * Locks: eliprod.mutex, then none; eliprod.lock, then the irq descriptor's
 * lock.  The handler runs without the descriptor's lock.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/cpu.h>
#include <linux/delay.h>
#include <linux/eventfd.h>
#include <linux/hrtimer.h>
#include <linux/interrupt.h>
#include <linux/irq.h>
#include <linux/irqbypass.h>
#include <linux/irqdesc.h>
#include <linux/irqdomain.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/uaccess.h>
#include <asm/apic.h>
#include <asm/hw_irq.h>
#include <asm/irqdomain.h>

#include "eli_prod.h"

/* Faster would leave a CPU no time for anything else. */
#define MIN_INTERVAL_NS		(50 * NSEC_PER_USEC)
#define MAX_INTERVAL_NS		NSEC_PER_SEC
/* A timer that is later than this stood still with its machine. */
#define MAX_LATE_NS		(20 * NSEC_PER_MSEC)

struct eliprod {
	/* Serializes ioctls; protects up to lock. */
	struct mutex mutex;
	/* 0: not created */
	unsigned int irq;
	u32 kind;
	bool connected;
	struct irq_bypass_producer producer;
	/* Set before, and put after, the handler can run. */
	struct eventfd_ctx *eventfd;
	struct hrtimer timer;

	/* Protects what follows. */
	raw_spinlock_t lock;
	u64 interval_ns;
	/* number that the timer still has to fire, if bounded */
	u32 left;
	bool bounded;
	bool after_handled;
	/* ktime_get_ns() when the timer last expired, or was started */
	u64 expired;
	/* for how long it did not expire although it should have, in total */
	u64 stood_still;
	/* eliprod_now() when fired, until handled; 0: none is waited for */
	u64 pending_since;
	u64 fired;
	u64 handled;
	u64 unexpected;
	u64 worst_ns;
	/* where the last one was sent */
	unsigned int sent_cpu;
	unsigned int sent_vector;
};

/* For how long the timer is too late to be running, until now. */
static u64 eliprod_late(struct eliprod *p, u64 now)
{
	u64 allowed = p->interval_ns + MAX_LATE_NS;

	lockdep_assert_held(&p->lock);

	if (!hrtimer_active(&p->timer) || now - p->expired <= allowed)
		return 0;
	return now - p->expired - allowed;
}

/*
 * The time, without that in which the machine stood still, as one does that is
 * a guest or emulated: the CPU whose timer fires does not see it pass, either.
 */
static u64 eliprod_now(struct eliprod *p)
{
	u64 now = ktime_get_ns();

	return now - p->stood_still - eliprod_late(p, now);
}

static irqreturn_t eliprod_handler(int irq, void *data)
{
	struct eliprod *p = data;

	scoped_guard(raw_spinlock_irqsave, &p->lock) {
		p->handled++;
		if (p->pending_since) {
			p->worst_ns = max(p->worst_ns,
					  eliprod_now(p) - p->pending_since);
			p->pending_since = 0;
		} else if (p->after_handled) {
			p->unexpected++;
		}
	}
	if (p->eventfd)
		eventfd_signal(p->eventfd);
	return IRQ_HANDLED;
}

/*
 * Send the interrupt where it goes at this moment.  irq_set_affinity() holds
 * the descriptor's lock while it changes vector and CPU, so the two belong
 * together; the vector before stays valid on the CPU before until an interrupt
 * arrived through the new one.
 */
static void eliprod_send(struct eliprod *p)
{
	struct irq_data *data = irq_get_irq_data(p->irq);
	struct irq_desc *desc = irq_data_to_desc(data);
	unsigned int cpu;

	lockdep_assert_held(&p->lock);

	guard(raw_spinlock)(&desc->lock);
	cpu = cpumask_first(irq_data_get_effective_affinity_mask(data));
	if (cpu >= nr_cpu_ids || !cpu_online(cpu))
		return;
	p->sent_cpu = cpu;
	p->sent_vector = irqd_cfg(data)->vector;
	apic->send_IPI(p->sent_cpu, p->sent_vector);
}

/* Called on the CPU that it was sent to. */
static void eliprod_look(void *data)
{
	struct eliprod *p = data;
	unsigned int vector = p->sent_vector;

	if (!(apic->read(APIC_IRR + vector / 32 * 0x10) & BIT(vector % 32)))
		p->sent_vector = 0;
}

/*
 * Wait until what was sent last is handled.  A vector that is pending when it
 * is freed would become an interrupt of whoever gets that vector next.
 */
static void eliprod_drain(struct eliprod *p)
{
	unsigned int i;

	lockdep_assert_not_held(&p->lock);

	for (i = 0; i < 1000 && p->sent_vector; i++) {
		if (smp_call_function_single(p->sent_cpu, eliprod_look, p, 1))
			break;
		if (p->sent_vector)
			usleep_range(100, 1000);
	}
}

static void eliprod_fire_one(struct eliprod *p)
{
	lockdep_assert_held(&p->lock);

	p->fired++;
	if (p->after_handled)
		p->pending_since = eliprod_now(p);
	eliprod_send(p);
}

static enum hrtimer_restart eliprod_timer(struct hrtimer *timer)
{
	struct eliprod *p = container_of(timer, struct eliprod, timer);
	u64 now = ktime_get_ns();

	guard(raw_spinlock_irqsave)(&p->lock);
	p->stood_still += eliprod_late(p, now);
	p->expired = now;
	if (!(p->after_handled && p->pending_since)) {
		if (p->bounded && !p->left--)
			return HRTIMER_NORESTART;
		eliprod_fire_one(p);
	}
	hrtimer_forward_now(timer, ns_to_ktime(p->interval_ns));
	return HRTIMER_RESTART;
}

/* Called on the CPU whose timer is to fire, with interrupts off. */
static void eliprod_start_timer(void *data)
{
	struct eliprod *p = data;

	hrtimer_start(&p->timer, ns_to_ktime(p->interval_ns),
		      HRTIMER_MODE_REL_PINNED_HARD);
}

static int eliprod_fire(struct eliprod *p, void __user *arg)
{
	struct eliprod_fire fire;

	lockdep_assert_held(&p->mutex);

	if (copy_from_user(&fire, arg, sizeof(fire)))
		return -EFAULT;
	if (fire.reserved || fire.flags & ~ELIPROD_AFTER_HANDLED)
		return -EINVAL;
	/* An assigned interrupt need never be handled in the host. */
	if (fire.flags & ELIPROD_AFTER_HANDLED && p->kind != ELIPROD_HOST)
		return -EINVAL;
	if (hrtimer_active(&p->timer))
		return -EBUSY;

	if (!fire.interval_ns) {
		if (fire.count != 1 || fire.from_cpu)
			return -EINVAL;
		guard(raw_spinlock_irqsave)(&p->lock);
		if (fire.flags & ELIPROD_AFTER_HANDLED && p->pending_since)
			return -EBUSY;
		p->after_handled = fire.flags & ELIPROD_AFTER_HANDLED;
		eliprod_fire_one(p);
		return 0;
	}

	if (fire.interval_ns < MIN_INTERVAL_NS ||
	    fire.interval_ns > MAX_INTERVAL_NS || fire.from_cpu >= nr_cpu_ids)
		return -EINVAL;
	scoped_guard(raw_spinlock_irqsave, &p->lock) {
		p->after_handled = fire.flags & ELIPROD_AFTER_HANDLED;
		p->interval_ns = fire.interval_ns;
		p->bounded = fire.count;
		p->left = fire.count;
		p->expired = ktime_get_ns();
	}
	return smp_call_function_single(fire.from_cpu, eliprod_start_timer, p,
					1);
}

static int eliprod_connect(struct eliprod *p, unsigned long on)
{
	int r;

	lockdep_assert_held(&p->mutex);

	if (on > 1 || p->kind != ELIPROD_ASSIGNED)
		return -EINVAL;
	if (on == p->connected)
		return -EALREADY;
	if (on) {
		p->producer = (struct irq_bypass_producer) {
			.token = p->eventfd,
			.irq = p->irq,
		};
		r = irq_bypass_register_producer(&p->producer);
		if (r)
			return r;
	} else {
		irq_bypass_unregister_producer(&p->producer);
	}
	p->connected = on;
	return 0;
}

/* Allocate and request the irq, with a vector on create->cpu. */
static int eliprod_alloc_irq(struct eliprod *p, struct eliprod_create *create)
{
	struct irq_alloc_info info = { .mask = cpumask_of(create->cpu) };
	bool host = create->kind == ELIPROD_HOST;
	int irq, r;

	/* A CPU that goes offline later moves its interrupts. */
	guard(cpus_read_lock)();
	if (!cpu_online(create->cpu))
		return -EINVAL;

	irq = __irq_domain_alloc_irqs(x86_vector_domain, -1, 1, NUMA_NO_NODE,
				      &info, false, NULL);
	if (irq <= 0)
		return irq ?: -ENOSPC;

	/*
	 * There is no message of a device that could be seen half-written:
	 * the affinity can change at any time, as behind interrupt remapping.
	 */
	irq_set_status_flags(irq, IRQ_MOVE_PCNTXT);
	irq_set_handler(irq, handle_edge_irq);
	/* Before it starts, or it would start elsewhere and have to move. */
	r = irq_set_affinity(irq, cpumask_of(create->cpu));
	if (r)
		goto dispose;
	r = request_irq(irq, eliprod_handler, host ? IRQF_NOBALANCING : 0,
			host ? "eliprod-host" : "eliprod", p);
	if (r)
		goto dispose;
	create->irq = irq;
	return 0;

dispose:
	irq_dispose_mapping(irq);
	return r;
}

static int eliprod_create(struct eliprod *p, void __user *arg)
{
	struct eliprod_create create;
	int r;

	lockdep_assert_held(&p->mutex);

	if (copy_from_user(&create, arg, sizeof(create)))
		return -EFAULT;
	if (p->irq)
		return -EEXIST;
	if (create.kind > ELIPROD_HOST || create.cpu >= nr_cpu_ids ||
	    (create.kind == ELIPROD_HOST && create.eventfd != -1))
		return -EINVAL;

	if (create.kind == ELIPROD_ASSIGNED) {
		p->eventfd = eventfd_ctx_fdget(create.eventfd);
		if (IS_ERR(p->eventfd)) {
			r = PTR_ERR(p->eventfd);
			p->eventfd = NULL;
			return r;
		}
	}

	r = eliprod_alloc_irq(p, &create);
	if (r)
		goto put;

	p->irq = create.irq;
	p->kind = create.kind;
	if (copy_to_user(arg, &create, sizeof(create)))
		r = -EFAULT;
	else if (p->kind == ELIPROD_ASSIGNED)
		r = eliprod_connect(p, 1);
	if (!r)
		return 0;
	p->irq = 0;
	free_irq(create.irq, p);
	irq_dispose_mapping(create.irq);
put:
	if (p->eventfd)
		eventfd_ctx_put(p->eventfd);
	p->eventfd = NULL;
	return r;
}

static int eliprod_set_affinity(struct eliprod *p, unsigned long cpu)
{
	int r;

	lockdep_assert_held(&p->mutex);

	/* The rule that /proc/irq/N/smp_affinity has. */
	if (p->kind == ELIPROD_ASSIGNED && irq_balancing_disabled(p->irq))
		return -EIO;
	if (cpu >= nr_cpu_ids)
		return -EINVAL;
	cpus_read_lock();
	if (cpu_online(cpu))
		r = irq_set_affinity(p->irq, cpumask_of(cpu));
	else
		r = -EINVAL;
	cpus_read_unlock();
	return r;
}

static int eliprod_status(struct eliprod *p, void __user *arg)
{
	struct irq_data *data = irq_get_irq_data(p->irq);
	struct irq_desc *desc = irq_data_to_desc(data);
	struct eliprod_status status = {
		.irq = p->irq,
		.firing = hrtimer_active(&p->timer),
	};
	const struct cpumask *mask;

	lockdep_assert_held(&p->mutex);

	scoped_guard(raw_spinlock_irqsave, &p->lock) {
		status.fired = p->fired;
		status.handled = p->handled;
		status.unexpected = p->unexpected;
		status.worst_ns = p->worst_ns;
		if (p->pending_since)
			status.pending_ns = eliprod_now(p) - p->pending_since;
		guard(raw_spinlock)(&desc->lock);
		mask = irq_data_get_effective_affinity_mask(data);
		status.cpu = cpumask_first(mask);
		status.vector = irqd_cfg(data)->vector;
	}
	return copy_to_user(arg, &status, sizeof(status)) ? -EFAULT : 0;
}

static long eliprod_ioctl(struct file *file, unsigned int cmd,
			  unsigned long arg)
{
	struct eliprod *p = file->private_data;
	void __user *user = (void __user *)arg;

	guard(mutex)(&p->mutex);
	if (cmd == ELIPROD_CREATE)
		return eliprod_create(p, user);
	if (!p->irq)
		return -ENXIO;

	switch (cmd) {
	case ELIPROD_FIRE:
		return eliprod_fire(p, user);
	case ELIPROD_STOP:
		hrtimer_cancel(&p->timer);
		return 0;
	case ELIPROD_STATUS:
		return eliprod_status(p, user);
	case ELIPROD_SET_AFFINITY:
		return eliprod_set_affinity(p, arg);
	case ELIPROD_CONNECT:
		return eliprod_connect(p, arg);
	default:
		return -ENOTTY;
	}
}

static int eliprod_open(struct inode *inode, struct file *file)
{
	struct eliprod *p;

	p = kzalloc(sizeof(*p), GFP_KERNEL);
	if (!p)
		return -ENOMEM;
	mutex_init(&p->mutex);
	raw_spin_lock_init(&p->lock);
	hrtimer_init(&p->timer, CLOCK_MONOTONIC, HRTIMER_MODE_REL_PINNED_HARD);
	p->timer.function = eliprod_timer;
	file->private_data = p;
	return 0;
}

/* The order of VFIO: nothing fires, the producer goes, the irq goes. */
static int eliprod_release(struct inode *inode, struct file *file)
{
	struct eliprod *p = file->private_data;

	hrtimer_cancel(&p->timer);
	if (p->connected)
		irq_bypass_unregister_producer(&p->producer);
	if (p->irq) {
		eliprod_drain(p);
		free_irq(p->irq, p);
		irq_dispose_mapping(p->irq);
	}
	if (p->eventfd)
		eventfd_ctx_put(p->eventfd);
	mutex_destroy(&p->mutex);
	kfree(p);
	return 0;
}

static const struct file_operations eliprod_fops = {
	.owner		= THIS_MODULE,
	.open		= eliprod_open,
	.release	= eliprod_release,
	.unlocked_ioctl	= eliprod_ioctl,
};

static struct miscdevice eliprod_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "eliprod",
	.fops	= &eliprod_fops,
	.mode	= 0600,
};
module_misc_device(eliprod_misc);

MODULE_DESCRIPTION("Interrupts of assigned devices and of the host without a device");
MODULE_LICENSE("GPL");
