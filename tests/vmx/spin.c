// SPDX-License-Identifier: GPL-2.0-only
/*
 * Let a guest spin without a VM-Exit of its own while host interrupts arrive,
 * and print how many exits these caused.
 *
 *	spin SECONDS
 *
 * The guest is real-mode code that counts in memory.  An alarm ends it.  While
 * it runs, a child writes to the serial port /dev/ttyS0, so that a device
 * interrupts as well as the timer.
 */
#include <err.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

#define CODE 0x1000
#define COUNTER 0x2000
/*
 * IF is set: an external interrupt exits whatever it is, but in Bochs 2.7 none
 * is seen to end a guest that was entered with IF=0.
 */
#define RFLAGS 0x202

static const unsigned char guest[] = {
	0x66, 0xff, 0x06, 0x00, 0x20,	/* 1: incl 0x2000 */
	0xeb, 0xf9,			/* jmp 1b */
};

static void on_alarm(int sig)
{
	(void)sig;
}

static unsigned long long stat(const char *name)
{
	unsigned long long value;
	char path[128];
	FILE *f;

	snprintf(path, sizeof(path), "/sys/kernel/debug/kvm/%s", name);
	f = fopen(path, "r");
	if (!f || fscanf(f, "%llu", &value) != 1)
		errx(1, "%s cannot be read", path);
	fclose(f);
	return value;
}

/* Sum of a line of /proc/interrupts, on a machine with one CPU. */
static unsigned long long interrupts(const char *what)
{
	unsigned long long value = 0;
	char line[512], *p;
	FILE *f = fopen("/proc/interrupts", "r");

	if (!f)
		err(1, "/proc/interrupts");
	while (fgets(line, sizeof(line), f)) {
		if (!strstr(line, what))
			continue;
		p = strchr(line, ':');
		if (p)
			value += strtoull(p + 1, NULL, 0);
	}
	fclose(f);
	return value;
}

static unsigned long long timers(void)
{
	return interrupts("Local timer") + interrupts("edge      timer");
}

static int get(int fd, unsigned long request, long arg)
{
	int r = ioctl(fd, request, arg);

	if (r < 0)
		err(1, "ioctl %#lx", request);
	return r;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_alarm };
	struct kvm_userspace_memory_region region = { .memory_size = 0x4000 };
	struct itimerval timer = { .it_value.tv_sec = argc > 1 ? atoi(argv[1]) : 1 };
	unsigned long long irqs, exits, ticks, serial;
	struct kvm_sregs sregs;
	struct kvm_regs regs = { .rip = CODE, .rflags = RFLAGS };
	volatile unsigned int *counter;
	int kvm, vm, vcpu, size, port, r;
	struct kvm_run *run;
	char *mem, *text;
	pid_t child;

	kvm = open("/dev/kvm", O_RDWR);
	if (kvm < 0)
		err(1, "/dev/kvm");
	vm = get(kvm, KVM_CREATE_VM, 0);
	mem = mmap(NULL, region.memory_size, PROT_READ | PROT_WRITE,
		   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	memcpy(mem + CODE, guest, sizeof(guest));
	counter = (void *)(mem + COUNTER);
	region.userspace_addr = (unsigned long)mem;
	get(vm, KVM_SET_USER_MEMORY_REGION, (long)&region);
	vcpu = get(vm, KVM_CREATE_VCPU, 0);
	size = get(kvm, KVM_GET_VCPU_MMAP_SIZE, 0);
	run = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
	if (mem == MAP_FAILED || run == MAP_FAILED)
		err(1, "mmap");
	get(vcpu, KVM_GET_SREGS, (long)&sregs);
	sregs.cs.base = 0;
	sregs.cs.selector = 0;
	get(vcpu, KVM_SET_SREGS, (long)&sregs);
	get(vcpu, KVM_SET_REGS, (long)&regs);

	port = open("/dev/ttyS0", O_WRONLY | O_NOCTTY | O_NONBLOCK);
	text = malloc(1024);
	if (port < 0 || !text)
		err(1, "/dev/ttyS0");
	memset(text, '.', 1024);
	text[1023] = '\n';

	irqs = stat("irq_exits");
	exits = stat("exits");
	ticks = timers();
	serial = interrupts("ttyS0");
	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &timer, NULL);
	/* The driver sends by interrupt, most of it with the guest running. */
	child = fork();
	if (child < 0)
		err(1, "fork");
	if (!child)
		_exit(write(port, text, 1024) < 0);
	r = ioctl(vcpu, KVM_RUN, 0);
	if (r != -1 || errno != EINTR)
		errx(1, "KVM_RUN returned %d, exit reason %u", r,
		     run->exit_reason);
	irqs = stat("irq_exits") - irqs;
	exits = stat("exits") - exits;
	ticks = timers() - ticks;
	serial = interrupts("ttyS0") - serial;
	waitpid(child, NULL, 0);
	printf("irq_exits %llu\nexits %llu\ntimer %llu\nserial %llu\n"
	       "counter %u\n", irqs, exits, ticks, serial, *counter);
	return 0;
}
