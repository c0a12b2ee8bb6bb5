/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * A real device for the tests of the in-kernel IOMMU: QEMU's "edu", by VFIO
 *
 * edu has a buffer of 4 KiB, and copies between it and memory on request.  It
 * tells that it is done, but not whether it succeeded: as on other machines, a
 * blocked write has no effect, and what a blocked read gets is anything but the
 * memory.  So each test looks at what is in the memory and in the buffer.
 *
 * The environment names the device: VIOMMU_VFIO_GROUP=/dev/vfio/N and
 * VIOMMU_VFIO_NAME=0000:00:07.0.  The test is the VMM, i.e. it owns VFIO's
 * container; what it maps there is what the device reaches if the guest does not
 * translate.
 *
 * Registers and queues are used by a guest, see guest_server().  Tables are
 * written by the host, which knows what it wants to have in them.
 */
#ifndef SELFTEST_KVM_VIOMMU_VFIO_H
#define SELFTEST_KVM_VIOMMU_VFIO_H

#include <sys/mman.h>

#include <linux/vfio.h>

#include "viommu_util.h"

/* ----------------------------------------------------------------- guest */

/* What the guest is to do, in arg[0]; its parameters follow. */
enum {
	/* Set up the unit, see guest_init(). */
	SERVE_INIT,
	/* Append arg[1] descriptors from arg[2], wait until they are done. */
	SERVE_QUEUE,
	/* Set and clear bits of GSTS: arg[1], arg[2]. */
	SERVE_COMMAND,
	/* Use the root table at arg[1]. */
	SERVE_ROOT,
	/* The same, while busy, and with the next command right behind it. */
	SERVE_ROOT_BUSY,
	/* Acknowledge all faults. */
	SERVE_ACK,
	/* Read arg[2] registers of 8 bytes at offset arg[1] to arg[3]. */
	SERVE_READ,
	/* Write arg[2] to the register of 4 or 8 bytes at offset arg[1]. */
	SERVE_WRITE32,
	SERVE_WRITE64,
	SERVE_END,
};

#define SERVE_READY		0x5e77e
/* Descriptors, or registers, that fit in. */
#define SERVE_MAX_DESCS		31
#define SERVE_MAX_REGS		61

static inline void guest_ack_faults(void)
{
	unsigned int i;

	for (i = 0; i < VTD_NR_FRCD; i++) {
		if (guest_read64(VTD_FRCD_HI(i)) & VTD_FRCD_F)
			guest_write64(VTD_FRCD_HI(i), VTD_FRCD_F);
	}
	guest_write32(VTD_FSTS, VTD_FSTS_PFO | VTD_FSTS_IQE | VTD_FSTS_ICE |
				VTD_FSTS_ITE);
}

static inline void guest_serve(void)
{
	u64 *arg = GUEST_SHARED->arg, i;

	switch (READ_ONCE(arg[0])) {
	case SERVE_INIT:
		guest_init();
		break;
	case SERVE_QUEUE:
		for (i = 0; i < READ_ONCE(arg[1]); i++)
			guest_queue_add(READ_ONCE(arg[2 + 2 * i]),
					READ_ONCE(arg[3 + 2 * i]));
		guest_queue_flush();
		break;
	case SERVE_COMMAND:
		guest_command(READ_ONCE(arg[1]), READ_ONCE(arg[2]));
		break;
	case SERVE_ROOT:
		guest_set_root(READ_ONCE(arg[1]));
		break;
	case SERVE_ROOT_BUSY:
		for (i = 0; i < 8; i++)
			guest_invalidate_iotlb();
		guest_set_root(READ_ONCE(arg[1]));
		guest_enable_translation();
		break;
	case SERVE_ACK:
		guest_ack_faults();
		break;
	case SERVE_READ:
		for (i = 0; i < READ_ONCE(arg[2]); i++)
			WRITE_ONCE(arg[3 + i],
				   guest_read64(READ_ONCE(arg[1]) + 8 * i));
		break;
	case SERVE_WRITE32:
		guest_write32(READ_ONCE(arg[1]), READ_ONCE(arg[2]));
		break;
	case SERVE_WRITE64:
		guest_write64(READ_ONCE(arg[1]), READ_ONCE(arg[2]));
		break;
	default:
		GUEST_FAIL("No such request: %lu", READ_ONCE(arg[0]));
	}
}

/* A guest that does what it is asked for by serve(). */
static inline void guest_server(void)
{
	for (;;) {
		GUEST_SYNC(SERVE_READY);
		if (READ_ONCE(GUEST_SHARED->arg[0]) == SERVE_END)
			GUEST_DONE();
		guest_serve();
	}
}

/* ------------------------------------------------------------------ host */

static inline void serve(struct viommu_vm *t, u64 what, u64 arg1, u64 arg2)
{
	t->sh->arg[0] = what;
	t->sh->arg[1] = arg1;
	t->sh->arg[2] = arg2;
	viommu_run_to(t, SERVE_READY);
}

static inline void serve_desc(struct viommu_vm *t, u64 lo, u64 hi)
{
	t->sh->arg[3] = hi;
	t->sh->arg[0] = SERVE_QUEUE;
	t->sh->arg[1] = 1;
	t->sh->arg[2] = lo;
	viommu_run_to(t, SERVE_READY);
}

/* Invalidate all contexts, or translations, and wait until that is complete. */
static inline void serve_contexts(struct viommu_vm *t)
{
	serve_desc(t, VTD_QI_CONTEXT(VTD_GLOBAL), 0);
}

static inline void serve_iotlb(struct viommu_vm *t)
{
	serve_desc(t, VTD_QI_IOTLB(VTD_GLOBAL), 0);
}

/* What an operating system does when it changes a context entry. */
static inline void serve_new_context(struct viommu_vm *t)
{
	t->sh->arg[0] = SERVE_QUEUE;
	t->sh->arg[1] = 2;
	t->sh->arg[2] = VTD_QI_CONTEXT(VTD_GLOBAL);
	t->sh->arg[3] = 0;
	t->sh->arg[4] = VTD_QI_IOTLB(VTD_GLOBAL);
	t->sh->arg[5] = 0;
	viommu_run_to(t, SERVE_READY);
}

static inline u64 serve_read(struct viommu_vm *t, unsigned int reg)
{
	serve(t, SERVE_READ, reg & ~7u, 1);
	return t->sh->arg[3] >> (reg & 4 ? 32 : 0);
}

/* "VmLck" of this process, in pages. */
static inline u64 locked_pages(void)
{
	unsigned long kib = 0;
	char line[128];
	bool found;
	FILE *f;

	f = fopen("/proc/self/status", "r");
	TEST_ASSERT(f, "/proc/self/status");
	do {
		found = fgets(line, sizeof(line), f) &&
			sscanf(line, "VmLck: %lu kB", &kib) == 1;
	} while (!found && !feof(f));
	fclose(f);
	TEST_ASSERT(found, "There is no VmLck in /proc/self/status");
	return kib / 4;
}

/* Pages of all processes that are pinned, for devices that is. */
static inline s64 host_pins(void)
{
	unsigned long acquired = 0, released = 0;
	unsigned int found = 0;
	char line[128];
	FILE *f;

	/* Counters are per CPU; this brings them together. */
	f = fopen("/proc/sys/vm/stat_refresh", "w");
	TEST_ASSERT(f, "/proc/sys/vm/stat_refresh");
	fputs("1\n", f);
	fclose(f);

	f = fopen("/proc/vmstat", "r");
	TEST_ASSERT(f, "/proc/vmstat");
	while (fgets(line, sizeof(line), f)) {
		if (sscanf(line, "nr_foll_pin_acquired %lu", &acquired) == 1)
			found++;
		if (sscanf(line, "nr_foll_pin_released %lu", &released) == 1)
			found++;
	}
	fclose(f);
	TEST_ASSERT(found == 2, "There is no nr_foll_pin_* in /proc/vmstat");
	return acquired - released;
}

/* edu's registers; the device's buffer is at EDU_BUFFER of its own addresses. */
#define EDU_ID			0x00
#define EDU_DMA_SRC		0x80
#define EDU_DMA_DST		0x88
#define EDU_DMA_COUNT		0x90
#define EDU_DMA_COMMAND		0x98
#define EDU_DMA_RUN		BIT(0)
#define EDU_DMA_TO_MEMORY	BIT(1)
#define EDU_BUFFER		0x40000ul
#define EDU_BUFFER_SIZE		4096ul

struct edu {
	const char *path;
	const char *name;
	/* File descriptors, or -1. */
	int container;
	int group;
	int device;
	void *bar;
	size_t bar_size;
};

/* Why the tests with a device cannot be run, or NULL. */
static inline const char *edu_missing(void)
{
	const char *path = getenv("VIOMMU_VFIO_GROUP");

	if (!path || !getenv("VIOMMU_VFIO_NAME"))
		return "VIOMMU_VFIO_GROUP and VIOMMU_VFIO_NAME are not set";
	if (access(path, R_OK | W_OK))
		return "VIOMMU_VFIO_GROUP is not accessible";
	return NULL;
}

static inline void edu_init(struct edu *e)
{
	*e = (struct edu) {
		.path = getenv("VIOMMU_VFIO_GROUP"),
		.name = getenv("VIOMMU_VFIO_NAME"),
		.container = -1,
		.group = -1,
		.device = -1,
	};
}

/* Whoever had it may still be on the way out. */
static inline void edu_open_group(struct edu *e)
{
	VIOMMU_ASSERT_WAIT((e->group = open(e->path, O_RDWR | O_CLOEXEC)) >= 0 ||
			   errno != EBUSY, "%s stays busy", e->path);
	TEST_ASSERT(e->group >= 0, "open(%s): %s", e->path, strerror(errno));
}

static inline void edu_open_container(struct edu *e)
{
	e->container = open("/dev/vfio/vfio", O_RDWR | O_CLOEXEC);
	TEST_ASSERT(e->container >= 0, "open(/dev/vfio/vfio): %s",
		    strerror(errno));
}

static inline void edu_join_container(struct edu *e)
{
	TEST_ASSERT(!ioctl(e->group, VFIO_GROUP_SET_CONTAINER, &e->container),
		    "VFIO_GROUP_SET_CONTAINER: %s", strerror(errno));
	TEST_ASSERT(!ioctl(e->container, VFIO_SET_IOMMU, VFIO_TYPE1v2_IOMMU),
		    "VFIO_SET_IOMMU: %s", strerror(errno));
}

static inline void edu_open_device(struct edu *e)
{
	struct vfio_region_info info = {
		.argsz = sizeof(info),
		.index = VFIO_PCI_CONFIG_REGION_INDEX,
	};
	u16 command;
	u32 id;

	e->device = ioctl(e->group, VFIO_GROUP_GET_DEVICE_FD, e->name);
	TEST_ASSERT(e->device >= 0, "VFIO_GROUP_GET_DEVICE_FD(%s): %s", e->name,
		    strerror(errno));

	/* Memory space and bus master. */
	TEST_ASSERT(!ioctl(e->device, VFIO_DEVICE_GET_REGION_INFO, &info),
		    "VFIO_DEVICE_GET_REGION_INFO(config): %s", strerror(errno));
	TEST_ASSERT(pread(e->device, &command, 2, info.offset + 4) == 2,
		    "Reading PCI_COMMAND: %s", strerror(errno));
	command |= 6;
	TEST_ASSERT(pwrite(e->device, &command, 2, info.offset + 4) == 2,
		    "Writing PCI_COMMAND: %s", strerror(errno));

	info.index = VFIO_PCI_BAR0_REGION_INDEX;
	TEST_ASSERT(!ioctl(e->device, VFIO_DEVICE_GET_REGION_INFO, &info),
		    "VFIO_DEVICE_GET_REGION_INFO(BAR0): %s", strerror(errno));
	e->bar_size = info.size;
	e->bar = mmap(NULL, info.size, PROT_READ | PROT_WRITE, MAP_SHARED,
		      e->device, info.offset);
	TEST_ASSERT(e->bar != MAP_FAILED, "mmap(BAR0): %s", strerror(errno));
	id = READ_ONCE(*(u32 *)(e->bar + EDU_ID));
	TEST_ASSERT((id & 0xff) == 0xed, "%s is not an edu: 0x%x", e->name, id);
}

static inline void edu_close_device(struct edu *e)
{
	if (e->bar)
		munmap(e->bar, e->bar_size);
	e->bar = NULL;
	if (e->device >= 0)
		close(e->device);
	e->device = -1;
}

static inline void edu_open(struct edu *e)
{
	edu_init(e);
	edu_open_group(e);
	edu_open_container(e);
	edu_join_container(e);
	edu_open_device(e);
}

static inline void edu_close(struct edu *e)
{
	edu_close_device(e);
	if (e->group >= 0)
		close(e->group);
	if (e->container >= 0)
		close(e->container);
	e->group = -1;
	e->container = -1;
}

/* Map memory of this process in the container. */
static inline void edu_map(struct edu *e, u64 iova, void *hva, u64 size)
{
	struct vfio_iommu_type1_dma_map map = {
		.argsz = sizeof(map),
		.flags = VFIO_DMA_MAP_FLAG_READ | VFIO_DMA_MAP_FLAG_WRITE,
		.vaddr = (u64)hva,
		.iova = iova,
		.size = size,
	};

	TEST_ASSERT(!ioctl(e->container, VFIO_IOMMU_MAP_DMA, &map),
		    "VFIO_IOMMU_MAP_DMA: %s", strerror(errno));
}

static inline void edu_write(struct edu *e, unsigned int reg, u64 val)
{
	WRITE_ONCE(*(u64 *)(e->bar + reg), val);
}

static inline bool edu_is_busy(struct edu *e)
{
	return READ_ONCE(*(u64 *)(e->bar + EDU_DMA_COMMAND)) & EDU_DMA_RUN;
}

/* Begin to copy between @iova and the buffer; it takes edu 100 ms. */
static inline void edu_begin(struct edu *e, u64 iova, u64 size, bool to_memory)
{
	edu_write(e, EDU_DMA_SRC, to_memory ? EDU_BUFFER : iova);
	edu_write(e, EDU_DMA_DST, to_memory ? iova : EDU_BUFFER);
	edu_write(e, EDU_DMA_COUNT, size);
	edu_write(e, EDU_DMA_COMMAND, EDU_DMA_RUN |
		  (to_memory ? EDU_DMA_TO_MEMORY : 0));
}

static inline void edu_end(struct edu *e)
{
	VIOMMU_ASSERT_WAIT(!edu_is_busy(e), "edu does not finish its DMA");
}

/* Memory to buffer. */
static inline void edu_load(struct edu *e, u64 iova, u64 size)
{
	edu_begin(e, iova, size, false);
	edu_end(e);
}

/* Buffer to memory. */
static inline void edu_store(struct edu *e, u64 iova, u64 size)
{
	edu_begin(e, iova, size, true);
	edu_end(e);
}

#endif /* SELFTEST_KVM_VIOMMU_VFIO_H */
