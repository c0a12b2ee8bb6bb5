// SPDX-License-Identifier: GPL-2.0-only
/*
 * libviommu.so: put the VFIO devices of an unmodified QEMU behind a VT-d unit
 * that KVM emulates.
 *
 * To be preloaded.  It looks at some calls of the program: KVM_CREATE_VM, to
 * learn which VM there is; VFIO_GROUP_GET_DEVICE_FD, after which it creates and
 * starts the unit (once) and puts the device behind it; and close() of a
 * device, before which it takes the device away.  The VM's interrupt controller,
 * which the unit needs, is there by then: VMMs create it with the machine, and
 * the devices after it.
 *
 * A device that was asked for and cannot be put behind the unit is not opened:
 * the call fails, so that it does not run unprotected unnoticed.
 *
 * The environment says what to do; viommu-run sets it.  Empty is as unset.
 *
 *   VIOMMU_DEVICES	HOST=GUEST,...: [DOMAIN:]BUS:DEV.FN of the host and
 *			[BUS:]DEV.FN that the guest knows it by; others are
 *			left alone
 *   VIOMMU_BASE	address of the registers, default 0xfed90000
 *   VIOMMU_HAW, VIOMMU_WORKER (none, sidecore, task), VIOMMU_TEARDOWN (strict,
 *   deferred, optimistic), VIOMMU_MAX_PAGES
 *			see linux/kvm_viommu.h; default is KVM's
 *   VIOMMU_PIN		mapped: VFIO's containers do not get the guest's memory, see
 *			map_dma(); default is all
 *   VIOMMU_OPTIONAL	1: go on without protection if something fails
 *
 * Only one VM of a process is served, and descriptors are known by their number:
 * devices that are received over a socket, or used after dup() and close() of
 * the original, are not supported.  When the process dies, KVM takes the devices
 * away by itself.
 */
#include <dlfcn.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/kvm_viommu.h>
#include <linux/vfio.h>

#include "viommu.h"

/*
 * Provisional: another kernel may have another device of that number.
 * create_unit() makes sure that it is this one.
 */
#ifndef KVM_DEV_TYPE_VIOMMU
#define KVM_DEV_TYPE_VIOMMU	12
#endif

#define MAX_DEVICES		64

#define EXPORT			__attribute__((visibility("default")))

struct device {
	/* As VFIO names it. */
	char host[sizeof("0000:00:00.0")];
	/* What the guest knows it by. */
	uint16_t sid;
	/* The program's descriptor while it is behind the unit, or -1. */
	atomic_int fd;
};

struct setting {
	const char *env;
	uint64_t attr;
	/* Values by name, up to a NULL; none for a number. */
	const char *names[4];
};

static const struct setting settings[] = {
	{ "VIOMMU_BASE", KVM_DEV_VIOMMU_CONFIG_BASE, {} },
	{ "VIOMMU_HAW", KVM_DEV_VIOMMU_CONFIG_HAW, {} },
	{ "VIOMMU_WORKER", KVM_DEV_VIOMMU_CONFIG_WORKER, {
		[KVM_VIOMMU_WORKER_NONE]		= "none",
		[KVM_VIOMMU_WORKER_SIDECORE]		= "sidecore",
		[KVM_VIOMMU_WORKER_TASK]		= "task",
	} },
	{ "VIOMMU_TEARDOWN", KVM_DEV_VIOMMU_CONFIG_TEARDOWN, {
		[KVM_VIOMMU_TEARDOWN_STRICT]		= "strict",
		[KVM_VIOMMU_TEARDOWN_DEFERRED]		= "deferred",
		[KVM_VIOMMU_TEARDOWN_OPTIMISTIC]	= "optimistic",
	} },
	{ "VIOMMU_MAX_PAGES", KVM_DEV_VIOMMU_CONFIG_MAX_PAGES, {} },
};

static int (*real_ioctl)(int fd, unsigned long request, ...);
static int (*real_close)(int fd);

/*
 * Everything below is written under this lock.  The descriptors are also read
 * without, by is_watched(): nobody closes a descriptor before the call that
 * returns it has returned, and what is closed is forgotten before its number
 * can be used again.
 */
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static struct device devices[MAX_DEVICES];
/* Entries that are complete; set once, by read_devices(). */
static atomic_uint nr_devices;
static bool devices_read;

/* The process of the VM; the descriptors mean nothing in another. */
static _Atomic pid_t owner;
static atomic_int vm_fd = -1;
static atomic_int unit_fd = -1;

/* Say what went wrong; @err is negative, and returned. */
__printf(2, 3)
static int complain(int err, const char *fmt, ...)
{
	char what[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(what, sizeof(what), fmt, ap);
	va_end(ap);
	dprintf(STDERR_FILENO, "viommu: cannot %s: %s\n", what, strerror(-err));
	return err;
}

static const char *setting(const char *env)
{
	const char *val = getenv(env);

	return val && *val ? val : NULL;
}

static bool pins_mapped(void)
{
	const char *val = setting("VIOMMU_PIN");

	return val && !strcmp(val, "mapped");
}

/* A device that reaches nothing without the unit cannot do without. */
static bool is_optional(void)
{
	const char *val = setting("VIOMMU_OPTIONAL");

	return val && !strcmp(val, "1") && !pins_mapped();
}

/* [DOMAIN:]BUS:DEV.FN, up to @end, to the form in which VFIO names a device. */
static bool parse_host(const char *s, char end, struct device *dev)
{
	unsigned int domain = 0, bus, slot, fn;

	if (!viommu_parse_hex(&s, 0xffff, &bus) || *s++ != ':')
		return false;
	if (s[strcspn(s, ":=")] == ':') {
		domain = bus;
		if (!viommu_parse_hex(&s, 0xff, &bus) || *s++ != ':')
			return false;
	}
	if (bus > 0xff || !viommu_parse_devfn(&s, &slot, &fn) || *s != end)
		return false;
	snprintf(dev->host, sizeof(dev->host), "%04x:%02x:%02x.%x", domain, bus,
		 slot, fn);
	return true;
}

/* [BUS:]DEV.FN; *@end is what comes after it. */
static bool parse_guest(const char *s, const char **end, struct device *dev)
{
	unsigned int bus = 0, slot, fn;

	if (s[strcspn(s, ":,")] == ':') {
		if (!viommu_parse_hex(&s, 0xff, &bus) || *s++ != ':')
			return false;
	}
	if (!viommu_parse_devfn(&s, &slot, &fn))
		return false;
	dev->sid = bus << 8 | slot << 3 | fn;
	*end = s;
	return true;
}

static int read_devices(void)
{
	const char *list = setting("VIOMMU_DEVICES"), *s = list, *guest;
	unsigned int nr, i;

	if (devices_read)
		return 0;
	for (nr = 0; s; nr++) {
		struct device *dev = &devices[nr];

		if (nr == MAX_DEVICES)
			return complain(-E2BIG, "use VIOMMU_DEVICES, which has more than %d",
					MAX_DEVICES);
		guest = strchr(s, '=');
		if (!guest || !parse_host(s, '=', dev) ||
		    !parse_guest(guest + 1, &s, dev) || (*s && *s != ','))
			return complain(-EINVAL, "use VIOMMU_DEVICES=\"%s\"", list);
		for (i = 0; i < nr; i++) {
			if (!strcmp(devices[i].host, dev->host) ||
			    devices[i].sid == dev->sid)
				return complain(-EEXIST, "use VIOMMU_DEVICES=\"%s\"",
						list);
		}
		dev->fd = -1;
		s = *s ? s + 1 : NULL;
	}
	nr_devices = nr;
	devices_read = true;
	return 0;
}

/* @name may go on after a space, e.g. with a token for virtual functions. */
static struct device *find_device(const char *name)
{
	size_t len = strcspn(name, " ");
	unsigned int i;

	for (i = 0; i < nr_devices; i++) {
		if (strlen(devices[i].host) == len &&
		    !strncmp(devices[i].host, name, len))
			return &devices[i];
	}
	return NULL;
}

static int has_attr(int unit, uint32_t group, uint64_t attr)
{
	struct kvm_device_attr arg = { .group = group, .attr = attr };

	return real_ioctl(unit, KVM_HAS_DEVICE_ATTR, &arg) ? -errno : 0;
}

static int set_attr(int unit, uint32_t group, uint64_t attr, void *data)
{
	struct kvm_device_attr arg = {
		.group = group,
		.attr = attr,
		.addr = (uintptr_t)data,
	};

	return real_ioctl(unit, KVM_SET_DEVICE_ATTR, &arg) ? -errno : 0;
}

static int apply_setting(int unit, const struct setting *set)
{
	const char *text = setting(set->env);
	/* What the ioctl takes, whatever uint64_t is. */
	__u64 val = VIOMMU_DEFAULT_BASE;
	uint64_t num;
	int err;

	if (text && set->names[0]) {
		for (val = 0; set->names[val]; val++) {
			if (!strcmp(text, set->names[val]))
				break;
		}
		if (!set->names[val])
			return complain(-EINVAL, "use %s=\"%s\"", set->env, text);
	} else if (text) {
		if (!viommu_parse_u64(text, &num))
			return complain(-EINVAL, "use %s=\"%s\"", set->env, text);
		val = num;
	} else if (set->attr != KVM_DEV_VIOMMU_CONFIG_BASE) {
		return 0;
	}

	err = set_attr(unit, KVM_DEV_VIOMMU_GRP_CONFIG, set->attr, &val);
	if (err)
		complain(err, "set up the unit with %s=%s", set->env,
			 text ?: "(default)");
	return err;
}

/* The descriptor of the unit is closed on exec: KVM creates it that way. */
static int create_unit(void)
{
	struct kvm_create_device create = {
		.type = KVM_DEV_TYPE_VIOMMU,
		.flags = KVM_CREATE_DEVICE_TEST,
	};
	unsigned int i;
	int unit, err;

	if (real_ioctl(vm_fd, KVM_CREATE_DEVICE, &create))
		return complain(-errno, "create the unit, is KVM loaded with viommu=1?");
	create.flags = 0;
	if (real_ioctl(vm_fd, KVM_CREATE_DEVICE, &create))
		return complain(-errno, "create the unit");
	unit = create.fd;

	if (has_attr(unit, KVM_DEV_VIOMMU_GRP_CONFIG, KVM_DEV_VIOMMU_CONFIG_BASE) ||
	    has_attr(unit, KVM_DEV_VIOMMU_GRP_STATE, 0)) {
		err = complain(-ENODEV, "create the unit, type %d is another device",
			       KVM_DEV_TYPE_VIOMMU);
		goto out_close;
	}
	for (i = 0; i < ARRAY_SIZE(settings); i++) {
		err = apply_setting(unit, &settings[i]);
		if (err)
			goto out_close;
	}
	err = set_attr(unit, KVM_DEV_VIOMMU_GRP_CTRL, KVM_DEV_VIOMMU_CTRL_INIT,
		       NULL);
	if (err) {
		complain(err, "start the unit");
		goto out_close;
	}
	unit_fd = unit;
	return 0;

out_close:
	real_close(unit);
	return err;
}

/* Put the device that was opened as @fd behind the unit, if it is to be. */
static int attach(int group_fd, const char *name, int fd)
{
	struct kvm_viommu_device arg = {
		.group_fd = group_fd,
		.name = (uintptr_t)name,
	};
	struct device *dev;
	int err;

	err = read_devices();
	if (err)
		return err;
	dev = find_device(name);
	if (!dev && pins_mapped())
		return complain(-EPERM, "give %s to the guest, it would reach nothing (VIOMMU_PIN)",
				name);
	if (!dev)
		return 0;
	if (vm_fd < 0 || owner != getpid())
		return complain(-ENODEV, "protect %s, as there is no VM of KVM yet",
				dev->host);
	if (unit_fd < 0) {
		err = create_unit();
		if (err)
			return err;
	}
	arg.sid = dev->sid;
	err = set_attr(unit_fd, KVM_DEV_VIOMMU_GRP_DEVICE,
		       KVM_DEV_VIOMMU_DEVICE_ADD, &arg);
	if (err)
		return complain(err, "put %s behind the unit as %02x:%02x.%x",
				dev->host, dev->sid >> 8, dev->sid >> 3 & 0x1f,
				dev->sid & 7);
	dev->fd = fd;
	return 0;
}

static void detach(struct device *dev)
{
	struct kvm_viommu_device arg = { .sid = dev->sid, .group_fd = -1 };
	int err;

	err = set_attr(unit_fd, KVM_DEV_VIOMMU_GRP_DEVICE,
		       KVM_DEV_VIOMMU_DEVICE_DEL, &arg);
	if (err)
		complain(err, "take %s away from the unit", dev->host);
	dev->fd = -1;
}

static void forget_unit(void)
{
	unsigned int i;

	for (i = 0; i < nr_devices; i++)
		devices[i].fd = -1;
	unit_fd = -1;
}

static void forget_vm(void)
{
	forget_unit();
	vm_fd = -1;
	owner = 0;
}

/*
 * Without the lock, so that close() of anything else neither waits for another
 * thread nor deadlocks in a signal handler.
 */
static bool is_device(int fd)
{
	unsigned int i;

	for (i = 0; i < nr_devices; i++) {
		if (fd == devices[i].fd)
			return true;
	}
	return false;
}

static bool is_watched(int fd)
{
	if (fd < 0)
		return false;
	return fd == vm_fd || fd == unit_fd || is_device(fd);
}

static void before_close(int fd)
{
	unsigned int i;
	int unit, saved_errno = errno;

	pthread_mutex_lock(&lock);
	for (i = 0; i < nr_devices; i++) {
		if (devices[i].fd == fd)
			detach(&devices[i]);
	}
	if (fd == unit_fd)
		forget_unit();
	if (fd == vm_fd) {
		unit = unit_fd;
		forget_vm();
		/* It would keep the VM alive. */
		if (unit >= 0)
			real_close(unit);
	}
	pthread_mutex_unlock(&lock);
	errno = saved_errno;
}

static void after_create_vm(int fd)
{
	int saved_errno = errno;

	pthread_mutex_lock(&lock);
	/* A VM whose unit is in use stays the one that is served. */
	if (unit_fd < 0) {
		owner = getpid();
		vm_fd = fd;
	}
	pthread_mutex_unlock(&lock);
	errno = saved_errno;
}

static int get_device_fd(int group_fd, const char *name)
{
	int fd, err, saved_errno;

	fd = real_ioctl(group_fd, VFIO_GROUP_GET_DEVICE_FD, name);
	if (fd < 0)
		return fd;

	saved_errno = errno;
	pthread_mutex_lock(&lock);
	err = attach(group_fd, name, fd);
	pthread_mutex_unlock(&lock);
	if (err && !is_optional()) {
		real_close(fd);
		errno = -err;
		return -1;
	}
	errno = saved_errno;
	return fd;
}

/*
 * A VMM has VFIO map all of the guest's memory for its devices, which pins it.  Behind a
 * unit a device uses that only while the guest has not turned translation on, or wants
 * the device to by-pass it.  If nothing is mapped a device reaches nothing then, and
 * what the guest maps is all that is pinned, by KVM.
 *
 * These numbers are those of other calls for devices, e.g. VFIO_DEVICE_PCI_HOT_RESET.
 */
static int map_dma(int fd, unsigned long request, void *arg)
{
	return pins_mapped() && !is_device(fd) ? 0 : real_ioctl(fd, request, arg);
}

/*
 * A child of fork() has the descriptors, and often closes all that it finds
 * before it executes something else.  That must not reach the unit, which is
 * the same as the parent's.
 */
static void before_fork(void)
{
	pthread_mutex_lock(&lock);
}

static void after_fork_parent(void)
{
	pthread_mutex_unlock(&lock);
}

static void after_fork_child(void)
{
	forget_vm();
	pthread_mutex_unlock(&lock);
}

static void resolve(void)
{
	real_ioctl = dlsym(RTLD_NEXT, "ioctl");
	real_close = dlsym(RTLD_NEXT, "close");
	if (!real_ioctl || !real_close) {
		dprintf(STDERR_FILENO, "viommu: cannot find ioctl() and close()\n");
		abort();
	}
}

__attribute__((constructor))
static void init(void)
{
	resolve();
	pthread_atfork(before_fork, after_fork_parent, after_fork_child);
}

/* The constructors of other libraries may call these before init(). */
EXPORT int ioctl(int fd, unsigned long request, ...)
{
	va_list ap;
	void *arg;
	int ret;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);

	if (!real_ioctl)
		resolve();
	switch (request) {
	case KVM_CREATE_VM:
		ret = real_ioctl(fd, request, arg);
		if (ret >= 0)
			after_create_vm(ret);
		return ret;
	case VFIO_GROUP_GET_DEVICE_FD:
		return get_device_fd(fd, arg);
	case VFIO_IOMMU_MAP_DMA:
	case VFIO_IOMMU_UNMAP_DMA:
		return map_dma(fd, request, arg);
	default:
		return real_ioctl(fd, request, arg);
	}
}

EXPORT int close(int fd)
{
	if (!real_close)
		resolve();
	/* A child of vfork() shares the memory, but must not act on it. */
	if (is_watched(fd) && owner == getpid())
		before_close(fd);
	return real_close(fd);
}
