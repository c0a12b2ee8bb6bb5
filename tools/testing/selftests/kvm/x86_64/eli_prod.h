/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * /dev/eliprod: interrupts without a device.  The module is for tests and not part
 * of the kernel; it includes this file.
 */
#ifndef SELFTEST_KVM_ELI_PROD_H
#define SELFTEST_KVM_ELI_PROD_H

#include <linux/ioctl.h>
#include <linux/types.h>

/* An interrupt of an assigned device: signals eventfd, has a producer. */
#define ELIPROD_ASSIGNED	0
/* An interrupt of a device of the host: its handler counts, nothing else. */
#define ELIPROD_HOST		1

struct eliprod_create {
	__u32 kind;
	/* of an assigned interrupt, else -1 */
	__s32 eventfd;
	/* CPU that the interrupt goes to at first */
	__u32 cpu;
	/* out: the Linux interrupt number */
	__u32 irq;
};

/* Fire only when the handler in the host has run for the one before. */
#define ELIPROD_AFTER_HANDLED	0x1

struct eliprod_fire {
	__u32 flags;
	/* 0: until ELIPROD_STOP */
	__u32 count;
	/* 0, with a count of 1: at once, from the CPU of the caller */
	__u64 interval_ns;
	/* whose timer fires, with an interval */
	__u32 from_cpu;
	__u32 reserved;
};

struct eliprod_status {
	__u64 fired;
	/* runs of the handler in the host */
	__u64 handled;
	/* of these, ones that were not waited for */
	__u64 unexpected;
	/*
	 * between firing and handling, of those fired with AFTER_HANDLED; as
	 * below, without the time in which from_cpu stood still
	 */
	__u64 worst_ns;
	/* for how long the last of these is not handled yet, or 0 */
	__u64 pending_ns;
	__u32 irq;
	__u32 cpu;
	__u32 vector;
	/* whether a timer is firing */
	__u32 firing;
};

#define ELIPROD_CREATE		_IOWR(0xe1, 0, struct eliprod_create)
#define ELIPROD_FIRE		_IOW(0xe1, 1, struct eliprod_fire)
#define ELIPROD_STOP		_IO(0xe1, 2)
#define ELIPROD_STATUS		_IOR(0xe1, 3, struct eliprod_status)
/* The argument is a CPU; EIO if balancing of the interrupt is off. */
#define ELIPROD_SET_AFFINITY	_IO(0xe1, 4)
/* The argument is 1 to register the producer, 0 to unregister it. */
#define ELIPROD_CONNECT		_IO(0xe1, 5)

#endif /* SELFTEST_KVM_ELI_PROD_H */
