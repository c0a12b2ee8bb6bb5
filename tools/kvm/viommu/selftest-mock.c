// SPDX-License-Identifier: GPL-2.0-only
/*
 * KVM and VFIO as far as libviommu.so uses them, for selftest.sh: to be
 * preloaded after it.  What it is called for goes to the file MOCK_LOG, a line
 * each; what comes from another process than the first begins with "child ".
 *
 *   MOCK_FAIL=CALL:ERRNO	let calls fail whose line begins with these words
 *   MOCK_DELAY=CALL:MS		let them take so long
 */
#include <dlfcn.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/kvm_viommu.h>
#include <linux/vfio.h>

#include "viommu.h"

#define NR_FDS		1024
#define EXPECTED_TYPE	12

/* What a descriptor is, for the log; guarded by the caller's order of calls. */
static char kinds[NR_FDS][64];
static int log_fd = -1, nr_vms, last_group = -1;
static pid_t first;
static int (*real_close)(int fd);
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

__attribute__((constructor))
static void init(void)
{
	const char *file = getenv("MOCK_LOG");

	first = getpid();
	real_close = dlsym(RTLD_NEXT, "close");
	if (file)
		log_fd = open(file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (log_fd >= 0)
		log_fd = fcntl(log_fd, F_DUPFD_CLOEXEC, NR_FDS / 2);
}

/* The number after the colon if @spec is for @line, or 0. */
static int number_for(const char *spec, const char *line)
{
	const char *colon = spec ? strrchr(spec, ':') : NULL;
	size_t len;

	if (!colon)
		return 0;
	len = colon - spec;
	if (strncmp(spec, line, len) || (line[len] && line[len] != ' '))
		return 0;
	return atoi(colon + 1);
}

/* Log the call; 0, or the negative error that it is to end with. */
__printf(1, 2)
static int call(const char *fmt, ...)
{
	char line[256];
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(line, sizeof(line), fmt, ap);
	va_end(ap);
	dprintf(log_fd, "%s%s\n", getpid() == first ? "" : "child ", line);
	usleep(number_for(getenv("MOCK_DELAY"), line) * 1000);
	return -number_for(getenv("MOCK_FAIL"), line);
}

static int new_fd(const char *kind)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd >= 0 && fd < NR_FDS)
		snprintf(kinds[fd], sizeof(kinds[fd]), "%s", kind);
	return fd;
}

static int create_device(int vm, struct kvm_create_device *create)
{
	bool test = create->flags == KVM_CREATE_DEVICE_TEST;
	int err;

	if (strncmp(kinds[vm], "vm", 2))
		return -ENOTTY;
	err = call("%s %s type=%u", test ? "TEST" : "CREATE", kinds[vm],
		   create->type);
	if (!err && create->type != EXPECTED_TYPE)
		err = -ENODEV;
	if (!err && !test)
		create->fd = new_fd("unit");
	return err;
}

static int device_attr(int unit, bool set, const struct kvm_device_attr *attr)
{
	static const char *const config[] = {
		[KVM_DEV_VIOMMU_CONFIG_BASE]		= "BASE",
		[KVM_DEV_VIOMMU_CONFIG_CAP]		= "CAP",
		[KVM_DEV_VIOMMU_CONFIG_ECAP]		= "ECAP",
		[KVM_DEV_VIOMMU_CONFIG_HAW]		= "HAW",
		[KVM_DEV_VIOMMU_CONFIG_WORKER]		= "WORKER",
		[KVM_DEV_VIOMMU_CONFIG_TEARDOWN]	= "TEARDOWN",
		[KVM_DEV_VIOMMU_CONFIG_MAX_PAGES]	= "MAX_PAGES",
	};
	const struct kvm_viommu_device *dev = (void *)(uintptr_t)attr->addr;

	if (strcmp(kinds[unit], "unit"))
		return -ENOTTY;
	if (!set) {
		if (attr->group == KVM_DEV_VIOMMU_GRP_STATE)
			return call("HAS_STATE %llu", attr->attr);
		return call("HAS %u/%llu", attr->group, attr->attr);
	}
	if (attr->flags)
		return -EINVAL;
	switch (attr->group) {
	case KVM_DEV_VIOMMU_GRP_CONFIG:
		if (attr->attr >= ARRAY_SIZE(config))
			return -ENXIO;
		return call("%s 0x%llx", config[attr->attr],
			    *(__u64 *)(uintptr_t)attr->addr);
	case KVM_DEV_VIOMMU_GRP_CTRL:
		return attr->attr ? -ENXIO : call("INIT");
	case KVM_DEV_VIOMMU_GRP_DEVICE:
		if (dev->flags || dev->pad)
			return -EINVAL;
		if (attr->attr == KVM_DEV_VIOMMU_DEVICE_DEL)
			return call("DEL sid=0x%x", dev->sid);
		return call("ADD sid=0x%x name=%s group=%s", dev->sid,
			    (char *)(uintptr_t)dev->name,
			    dev->group_fd == last_group ? "same" : "other");
	}
	return -ENXIO;
}

int ioctl(int fd, unsigned long request, ...)
{
	char kind[16];
	va_list ap;
	void *arg;
	int err;

	va_start(ap, request);
	arg = va_arg(ap, void *);
	va_end(ap);

	switch (request) {
	case KVM_CREATE_VM:
		snprintf(kind, sizeof(kind), "vm%d", ++nr_vms);
		err = call("VM %lu", (unsigned long)arg);
		if (!err)
			return new_fd(kind);
		break;
	case KVM_CREATE_DEVICE:
		err = create_device(fd, arg);
		break;
	case KVM_HAS_DEVICE_ATTR:
	case KVM_SET_DEVICE_ATTR:
		err = device_attr(fd, request == KVM_SET_DEVICE_ATTR, arg);
		break;
	case VFIO_GROUP_GET_DEVICE_FD:
		pthread_mutex_lock(&lock);
		last_group = fd;
		err = call("GET %s", (char *)arg);
		fd = err ? -1 : new_fd(arg);
		pthread_mutex_unlock(&lock);
		if (!err)
			return fd;
		break;
	case VFIO_IOMMU_MAP_DMA:
		/* VFIO_DEVICE_PCI_HOT_RESET has the same number. */
		err = *kinds[fd] ? call("RESET %s", kinds[fd]) : call("MAP");
		break;
	case VFIO_IOMMU_UNMAP_DMA:
		err = call("UNMAP");
		break;
	default:
		call("OTHER 0x%lx %lu", request, (unsigned long)arg);
		return 7;
	}
	if (!err)
		return 0;
	errno = -err;
	return -1;
}

int close(int fd)
{
	if (fd >= 0 && fd < NR_FDS && *kinds[fd]) {
		call("CLOSE %s", kinds[fd]);
		/* The memory may be that of the parent (vfork). */
		if (getpid() == first)
			*kinds[fd] = 0;
	}
	return real_close(fd);
}
