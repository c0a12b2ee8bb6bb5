// SPDX-License-Identifier: GPL-2.0-only
/*
 * A fixed workload of VM exits, straight on the KVM API:
 *
 *	exitcost ITERATIONS
 *
 * One vCPU in real mode runs a loop of ITERATIONS for each kind of exit.  For
 * each a line "KIND EXITS CYCLES" is printed: exits as KVM's statistics count
 * them, and time stamp counter cycles, both for the whole loop.  In an emulator
 * with an instruction counter for a clock, cycles are executed instructions.
 *
 *	cpuid	handled in the kernel
 *	rdmsr	likewise, through the MSR intercept (IA32_PLATFORM_ID)
 *	pio	handled in user space (port 0x80)
 *	mmio	likewise, through an empty nested page table entry
 *	none	no exit: an empty loop
 */

#include <err.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>
#include <x86intrin.h>

#define MEM_SIZE	0x100000
#define CODE		0x1000
#define MMIO		0xd0000		/* not in the memory slot */

/* Loops end with "dec %ebp; jnz start; hlt"; %ebp is the number of rounds. */
struct workload {
	const char *name;
	uint8_t code[16];
	size_t len;
};

static const struct workload workloads[] = {
	{ "none", { 0x90 }, 1 },
	{ "cpuid", { 0x66, 0x31, 0xc0, 0x0f, 0xa2 }, 5 },	/* xor eax,eax; cpuid */
	{ "rdmsr", { 0x66, 0xb9, 0x17, 0, 0, 0, 0x0f, 0x32 }, 8 },
	{ "pio", { 0xe6, 0x80 }, 2 },				/* out al,0x80 */
	{ "mmio", { 0x88, 0x05 }, 2 },				/* mov [di],al */
};

static uint64_t exits(int stats)
{
	struct kvm_stats_header h;
	static char *descs;
	static size_t size;
	uint64_t value = 0;

	if (pread(stats, &h, sizeof(h), 0) != sizeof(h))
		err(1, "stats header");
	size = sizeof(struct kvm_stats_desc) + h.name_size;
	if (!descs)
		descs = malloc(size * h.num_desc);
	if (!descs || pread(stats, descs, size * h.num_desc, h.desc_offset) < 0)
		err(1, "stats descriptors");
	for (unsigned int i = 0; i < h.num_desc; i++) {
		struct kvm_stats_desc *d = (void *)(descs + i * size);

		if (!strcmp(d->name, "exits") &&
		    pread(stats, &value, sizeof(value),
			  h.data_offset + d->offset) == sizeof(value))
			return value;
	}
	errx(1, "no statistic called exits");
}

int main(int argc, char **argv)
{
	uint32_t rounds = argc > 1 ? strtoul(argv[1], NULL, 0) : 1000;
	int kvm = open("/dev/kvm", O_RDWR), vm, vcpu, stats, run_size;
	struct kvm_userspace_memory_region region = {
		.memory_size = MMIO,
	};
	struct kvm_sregs sregs;
	struct kvm_run *run;
	struct {
		struct kvm_cpuid2 head;
		struct kvm_cpuid_entry2 entries[256];
	} *cpuid = calloc(1, sizeof(*cpuid));
	uint8_t *mem;

	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = ioctl(kvm, KVM_CREATE_VM, 0);
	mem = mmap(NULL, MEM_SIZE, PROT_READ | PROT_WRITE,
		   MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
	region.userspace_addr = (uintptr_t)mem;
	run_size = ioctl(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	if (vm < 0 || mem == MAP_FAILED || !cpuid ||
	    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &region))
		err(1, "vm");
	vcpu = ioctl(vm, KVM_CREATE_VCPU, 0);
	cpuid->head.nent = 256;
	if (vcpu < 0 || ioctl(kvm, KVM_GET_SUPPORTED_CPUID, cpuid) ||
	    ioctl(vcpu, KVM_SET_CPUID2, cpuid))
		err(1, "vcpu");
	run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	stats = ioctl(vcpu, KVM_GET_STATS_FD, NULL);
	if (run == MAP_FAILED || stats < 0 ||
	    ioctl(vcpu, KVM_GET_SREGS, &sregs))
		err(1, "vcpu state");
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	sregs.ds.base = MMIO;
	if (ioctl(vcpu, KVM_SET_SREGS, &sregs))
		err(1, "KVM_SET_SREGS");

	for (size_t i = 0; i < sizeof(workloads) / sizeof(workloads[0]); i++) {
		const struct workload *w = &workloads[i];
		/* The first loop, which faults in code and data, is not counted. */
		uint32_t loops[2] = { 3, rounds };
		uint64_t begin, cycles = 0, count = 0;

		memcpy(mem + CODE, w->code, w->len);
		memcpy(mem + CODE + w->len, (uint8_t []){
			0x66, 0x4d,			/* dec ebp */
			0x75, 0x100 - w->len - 4,	/* jnz CODE */
			0xf4 }, 5);			/* hlt */
		for (int l = 0; l < 2; l++) {
			struct kvm_regs regs = {
				.rip = CODE, .rflags = 2, .rbp = loops[l],
			};

			if (ioctl(vcpu, KVM_SET_REGS, &regs))
				err(1, "KVM_SET_REGS");
			count = exits(stats);
			begin = __rdtsc();
			do {
				if (ioctl(vcpu, KVM_RUN, NULL))
					err(1, "KVM_RUN (%s)", w->name);
			} while (run->exit_reason == KVM_EXIT_IO ||
				 run->exit_reason == KVM_EXIT_MMIO);
			cycles = __rdtsc() - begin;
			count = exits(stats) - count;
			if (run->exit_reason != KVM_EXIT_HLT)
				errx(1, "%s: exit reason %u", w->name,
				     run->exit_reason);
		}
		printf("%s %llu %llu\n", w->name, (unsigned long long)count,
		       (unsigned long long)cycles);
	}
	return 0;
}
