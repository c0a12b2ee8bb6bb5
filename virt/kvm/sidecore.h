/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Sidecores: CPUs of the host that poll memory shared with guests, so that
 * guests need not exit to ask for something.  See sidecore.c.
 */
#ifndef __KVM_SIDECORE_H
#define __KVM_SIDECORE_H

#include <linux/kvm_types.h>
#include <linux/list.h>
#include <linux/types.h>

struct kvm;
struct kvm_sidecore;
struct kvm_sidecore_client;
struct vhost_task;

struct kvm_sidecore_ops {
	/*
	 * Is there anything to poll() for?  It is asked all the time, without the
	 * client's mm, and must not sleep.
	 */
	bool (*pending)(struct kvm_sidecore_client *client);

	/*
	 * Look for work and do at most about @budget units of it, the client's
	 * own measure.  Called with the client's mm in use and may sleep, though
	 * that delays all clients of the sidecore.  Returns the work that was
	 * done, 0 if there was none.
	 */
	unsigned int (*poll)(struct kvm_sidecore_client *client, unsigned int budget);

	/*
	 * Nothing was found for a while.  Make the guest exit from now on, look
	 * a last time, and return true; the client is then not polled until
	 * kvm_sidecore_activate().  Return false if there still is work.  Called
	 * like poll().
	 */
	bool (*disarm)(struct kvm_sidecore_client *client);
};

struct kvm_sidecore_client {
	const struct kvm_sidecore_ops *ops;
	struct kvm *kvm;

	/* How long to go on polling without finding work, in nanoseconds. */
	u64 idle_ns;

	/*
	 * Time spent on the client that found work, and that did not; in
	 * nanoseconds.  And how often it was polled.  Written by the sidecore.
	 */
	u64 *busy_ns;
	u64 *wasted_ns;
	u64 *polls;

	/* Private to sidecore.c.  Protected by kvm_sidecore.lock. */
	struct list_head node;
	/* Constant between add and remove. */
	struct kvm_sidecore *sidecore;
	/* Set by whoever activates, cleared by the thread that polls. */
	bool active;
	/* Owned by the thread that polls: when work was found, or 0. */
	u64 last_work;
	/* ... and what may be done the next time. */
	unsigned int budget;
};

int kvm_sidecore_init(void);
void kvm_sidecore_exit(void);
bool kvm_sidecore_available(void);

int kvm_sidecore_add(struct kvm_sidecore_client *client);
int kvm_sidecore_add_task(struct kvm_sidecore_client *client);
void kvm_sidecore_remove(struct kvm_sidecore_client *client);
void kvm_sidecore_activate(struct kvm_sidecore_client *client);
int kvm_sidecore_cpu(const struct kvm_sidecore_client *client);

#endif /* __KVM_SIDECORE_H */
