// SPDX-License-Identifier: GPL-2.0-only
/*
 * A program that uses KVM and VFIO as a VMM does, for selftest.sh.  Its
 * arguments are what it does, one after the other; what it gets is printed.
 *
 *   vm, endvm		create a VM, close it
 *   get=NAME, put=NAME	open a device, close it
 *   par=NAME+NAME...	open devices, each in a thread of its own
 *   race=NAME		open a device in a thread, fork() meanwhile
 *   fork, vfork	have a child that closes everything
 *   daemon		fork() and go on in the child
 *   map		map and unmap memory in the container, reset the first device
 *   other		another ioctl
 */
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <linux/kvm.h>
#include <linux/vfio.h>

#include "viommu.h"

#define NR_DEVICES	8
#define FIRST_FD	3
#define LAST_FD		64

static struct {
	const char *name;
	int fd, err;
} devices[NR_DEVICES];
static int nr_devices, kvm = -1, group = -1, vm = -1;

static void *get(void *arg)
{
	int i = (intptr_t)arg;

	devices[i].fd = ioctl(group, VFIO_GROUP_GET_DEVICE_FD, devices[i].name);
	devices[i].err = errno;
	return NULL;
}

static void tell(int i)
{
	if (devices[i].fd >= 0)
		printf("%s: open\n", devices[i].name);
	else
		printf("%s: %s\n", devices[i].name, strerror(devices[i].err));
}

static int add(const char *name)
{
	if (nr_devices == NR_DEVICES)
		exit(3);
	devices[nr_devices].name = name;
	return nr_devices++;
}

static void close_all(void)
{
	int fd;

	for (fd = FIRST_FD; fd < LAST_FD; fd++)
		close(fd);
}

static void wait_for(pid_t pid)
{
	int status;

	if (pid < 0 || waitpid(pid, &status, 0) != pid || status)
		printf("child failed\n");
}

static void do_fork(void)
{
	pid_t pid = fork();

	if (!pid) {
		/* It must not hang in a lock of its parent. */
		alarm(5);
		close_all();
		_exit(0);
	}
	wait_for(pid);
}

/* The child may do no more than it is given here. */
static void do_vfork(void)
{
	pid_t pid = vfork();

	if (!pid) {
		close(devices[0].fd);
		_exit(0);
	}
	wait_for(pid);
}

static void do_map(void)
{
	struct vfio_iommu_type1_dma_map map = { .argsz = sizeof(map), .size = 4096 };
	struct vfio_iommu_type1_dma_unmap unmap = { .argsz = sizeof(unmap), .size = 4096 };
	int container = group;

	printf("map: %d\n", ioctl(container, VFIO_IOMMU_MAP_DMA, &map));
	printf("unmap: %d %llu\n", ioctl(container, VFIO_IOMMU_UNMAP_DMA, &unmap),
	       (unsigned long long)unmap.size);
	if (nr_devices)
		printf("reset: %d\n", ioctl(devices[0].fd, VFIO_DEVICE_PCI_HOT_RESET, NULL));
}

static void run(char *arg)
{
	pthread_t threads[NR_DEVICES];
	char *val = strchr(arg, '=');
	int i, first = nr_devices;
	pid_t pid;

	if (val)
		*val++ = 0;
	if (!strcmp(arg, "vm")) {
		vm = ioctl(kvm, KVM_CREATE_VM, 0UL);
	} else if (!strcmp(arg, "endvm")) {
		close(vm);
	} else if (!strcmp(arg, "get") && val) {
		i = add(val);
		get((void *)(intptr_t)i);
		tell(i);
	} else if (!strcmp(arg, "put") && val) {
		for (i = 0; i < nr_devices; i++) {
			if (devices[i].fd >= 0 && !strcmp(devices[i].name, val)) {
				errno = 0;
				printf("close: %d %d\n", close(devices[i].fd), errno);
				devices[i].fd = -1;
			}
		}
	} else if (!strcmp(arg, "par") && val) {
		for (val = strtok(val, "+"); val; val = strtok(NULL, "+"))
			add(val);
		for (i = first; i < nr_devices; i++)
			pthread_create(&threads[i], NULL, get, (void *)(intptr_t)i);
		for (i = first; i < nr_devices; i++) {
			pthread_join(threads[i], NULL);
			tell(i);
		}
	} else if (!strcmp(arg, "race") && val) {
		i = add(val);
		pthread_create(&threads[i], NULL, get, (void *)(intptr_t)i);
		usleep(100 * 1000);
		do_fork();
		pthread_join(threads[i], NULL);
		tell(i);
	} else if (!strcmp(arg, "fork")) {
		do_fork();
	} else if (!strcmp(arg, "vfork")) {
		do_vfork();
	} else if (!strcmp(arg, "daemon")) {
		pid = fork();
		if (pid) {
			wait_for(pid);
			exit(0);
		}
	} else if (!strcmp(arg, "map")) {
		do_map();
	} else if (!strcmp(arg, "other")) {
		printf("other: %d\n", ioctl(kvm, KVM_CHECK_EXTENSION, 42UL));
	} else {
		exit(3);
	}
}

int main(int argc, char **argv)
{
	int i;

	kvm = open("/dev/null", O_RDWR | O_CLOEXEC);
	group = open("/dev/null", O_RDWR | O_CLOEXEC);
	if (kvm < 0 || group < 0)
		return 3;
	/* In order with what is printed to stderr. */
	setvbuf(stdout, NULL, _IONBF, 0);
	for (i = 1; i < argc; i++)
		run(argv[i]);
	return 0;
}
