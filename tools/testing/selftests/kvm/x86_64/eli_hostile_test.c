// SPDX-License-Identifier: GPL-2.0-only
/*
 * Verify that the host keeps its interrupts, whatever a guest does whose
 * assigned interrupts are delivered without exits (ELI).
 *
 * Each guest misbehaves in a virtual machine of its own on CPU 1, under a load
 * of assigned interrupts, while a device of the host, which is /dev/eliprod
 * too, interrupts that CPU.  Its next interrupt is fired when the one before
 * was handled, so that a single one that is lost is seen.
 *
 * What becomes of the guest is asserted only where it is the same in any KVM.
 */
#include "kvm_test_harness.h"
#include "eli_util.h"

#define DEV_VECTOR	0x91
#define DEV2_VECTOR	0x52
#define ABSENT_APIC_ID	0x1000

#define VICTIM_CPU	1
/* What a test takes at least. */
#define RUN_MS		1000

/* Where eli_map_pte() has page tables mapped for the guest. */
#define PT_GVA		0x70000000ull
/* A region whose page table is the page of the IDT. */
#define ODD_GVA		0x40000000ull

FIXTURE(eli_hostile) {
	struct eli_vm ev;
};

FIXTURE_SETUP(eli_hostile)
{
	memset(&self->ev, 0, sizeof(self->ev));
}

FIXTURE_TEARDOWN(eli_hostile)
{
	eli_vm_destroy(&self->ev);
}

#define ELI_HOSTILE_TEST(name)						\
static void __hostile_##name(struct eli_vm *ev);			\
									\
TEST_F_TIMEOUT(eli_hostile, name, ELI_CASE_TIMEOUT)			\
{									\
	__hostile_##name(&self->ev);					\
}									\
static void __hostile_##name(struct eli_vm *ev)

/*
 * For how long an interrupt of the host may be delayed: the time that the guard
 * allows, twice, and what the machine under the test adds.
 */
static u64 bound_ns(void)
{
	unsigned int eax = 1, ebx, ecx = 0, edx;

	__cpuid(1, 0, &eax, &ebx, &ecx, &edx);
	/* A machine that is a guest itself, or emulated, has pauses. */
	return 2000ull * eli_param("eli_max_us", 10000) +
	       (ecx >> 31 ? 500000000ull : 50000000ull);
}

static void check_host(struct eli_irq *host)
{
	struct eliprod_status s = eli_irq_status(host);

	TEST_ASSERT(s.pending_ns < bound_ns(),
		    "The host has not got its interrupt %lu for %lu us",
		    (unsigned long)s.fired,
		    (unsigned long)s.pending_ns / 1000);
	TEST_ASSERT(s.worst_ns < bound_ns(), "The host waited for %lu us",
		    (unsigned long)s.worst_ns / 1000);
	TEST_ASSERT(!s.unexpected,
		    "The host got %lu interrupts that were not fired",
		    (unsigned long)s.unexpected);
}

/* Other tasks of the host have to run there, too. */
static void check_scheduling(void)
{
	u64 start = eli_now_ns(), took;

	eli_pin(VICTIM_CPU);
	eli_pin(0);
	took = eli_now_ns() - start;
	TEST_ASSERT(took < 10 * bound_ns(), "CPU %u was busy for %lu us",
		    VICTIM_CPU, (unsigned long)took / 1000);
}

static void finish_host(struct eli_irq *host)
{
	struct eliprod_status s;

	eli_irq_stop(host);
	ELI_ASSERT_WAIT(!eli_irq_status(host).pending_ns,
			"the host's last interrupt is lost");
	check_host(host);
	s = eli_irq_status(host);
	TEST_ASSERT_EQ(s.fired, s.handled);
	TEST_ASSERT(s.fired > 20, "Only %lu interrupts were fired",
		    (unsigned long)s.fired);
	pr_info("# host: %lu interrupts, worst %lu us\n",
		(unsigned long)s.fired, (unsigned long)s.worst_ns / 1000);
	close(host->fd);
}

/*
 * The guest, prepared in ev, idles until interrupts are delivered directly.
 * Then it is let loose, with an interrupt of its own each @us microseconds, none
 * if that is 0.  Returns how it ended.
 */
static int let_loose_every(struct eli_vm *ev, u64 us)
{
	struct eli_dev *dev = eli_dev_add(ev, 0, DEV_VECTOR);
	struct eli_thread *t = &ev->thread[0];
	struct eli_irq host;
	int i;

	t->may_abort = true;
	eli_thread_start(ev, 0);
	eli_wait_stage(ev, 1);
	eli_arm(ev, dev);
	/* After the other, so that its vector is the higher one. */
	eli_irq_create(&host, ELIPROD_HOST, -1, VICTIM_CPU);
	eli_irq_start(&host, ELIPROD_AFTER_HANDLED, 500, 0);
	if (us)
		eli_irq_start(&dev->irq, 0, us, 0);
	eli_go(ev, 1);
	for (i = 0; i < 10; i++) {
		usleep(RUN_MS * 1000 / 10);
		check_host(&host);
		if (i % 3 == 1)
			check_scheduling();
	}
	eli_irq_stop(&dev->irq);
	eli_thread_stop(t);
	finish_host(&host);
	return t->end;
}

static int let_loose(struct eli_vm *ev)
{
	return let_loose_every(ev, 1000);
}

static int run_guest(struct eli_vm *ev, void *guest)
{
	eli_pin(0);
	eli_vm_create(ev, 1, guest);
	return let_loose(ev);
}

/* Of guests that must still be running: nothing is wrong with them. */
static void run_forever(struct eli_vm *ev, void *guest)
{
	int end = run_guest(ev, guest);

	TEST_ASSERT(end == ELI_END_STOPPED, "The guest ended with %d", end);
}

static void guest_begin(void)
{
	eli_guest_init();
	eli_guest_stage(1);
	eli_guest_idle(1);
}

/* ------------------------------------------------- interrupts switched off */

static void cli_guest(void)
{
	guest_begin();
	eli_cli();
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(cli)
{
	run_forever(ev, cli_guest);
}

static void cli_hlt_guest(void)
{
	guest_begin();
	for (;;)
		asm volatile("cli; hlt");
}

ELI_HOSTILE_TEST(cli_hlt)
{
	run_forever(ev, cli_hlt_guest);
}

/* One instruction with interrupts on now and then. */
static void cli_mostly_guest(void)
{
	guest_begin();
	for (;;) {
		eli_cli();
		eli_guest_delay(3000);
		asm volatile("sti; nop; cli" ::: "memory");
	}
}

ELI_HOSTILE_TEST(cli_mostly)
{
	run_forever(ev, cli_mostly_guest);
}

/* ---------------------------------------------------- the page of the IDT */

/* Have the guest map what maps gva at a level; returns where it finds that. */
static u64 eli_map_pte(struct eli_vm *ev, u64 gva)
{
	u64 *pte = vm_get_page_table_entry(ev->vm, gva);
	u64 gpa = addr_hva2gpa(ev->vm, pte);

	virt_pg_map(ev->vm, PT_GVA, gpa & ~0xfffull);
	return PT_GVA + (gpa & 0xfff);
}

static void set_pte(u64 value)
{
	WRITE_ONCE(*(u64 *)eli_shared.arg[0], value);
	asm volatile("invlpg (%0)" :: "r"(eli_shared.idt[0]) : "memory");
}

/* The guest's own frame instead, where all gates are present. */
static void remap_guest(void)
{
	guest_begin();
	set_pte(eli_shared.arg[1]);
	for (;;)
		eli_spin();
}

static void prepare_remap(struct eli_vm *ev)
{
	vm_vaddr_t copy = vm_vaddr_alloc_page(ev->vm);

	memcpy(addr_gva2hva(ev->vm, copy),
	       addr_gva2hva(ev->vm, ev->vm->arch.idt), 4096);
	ev->sh->arg[0] = eli_map_pte(ev, ev->vm->arch.idt);
	ev->sh->arg[1] = addr_gva2gpa(ev->vm, copy) | PTE_PRESENT_MASK |
			 PTE_WRITABLE_MASK;
	ev->sh->arg[2] = addr_gva2gpa(ev->vm, ev->vm->arch.idt) |
			 PTE_PRESENT_MASK | PTE_WRITABLE_MASK;
}

ELI_HOSTILE_TEST(idt_remapped)
{
	eli_pin(0);
	eli_vm_create(ev, 1, remap_guest);
	prepare_remap(ev);
	let_loose(ev);
}

static void remap_cli_guest(void)
{
	guest_begin();
	set_pte(eli_shared.arg[1]);
	eli_cli();
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(idt_remapped_cli)
{
	eli_pin(0);
	eli_vm_create(ev, 1, remap_cli_guest);
	prepare_remap(ev);
	TEST_ASSERT_EQ(let_loose(ev), ELI_END_STOPPED);
}

static void flip_guest(void)
{
	guest_begin();
	for (;;) {
		set_pte(eli_shared.arg[1]);
		eli_guest_delay(100);
		set_pte(eli_shared.arg[2]);
		eli_guest_delay(100);
	}
}

ELI_HOSTILE_TEST(idt_flipping)
{
	eli_pin(0);
	eli_vm_create(ev, 1, flip_guest);
	prepare_remap(ev);
	let_loose(ev);
}

static void unmap_guest(void)
{
	guest_begin();
	set_pte(0);
	for (;;)
		eli_spin();
}

/* The first interrupt of the device is a triple fault. */
ELI_HOSTILE_TEST(idt_unmapped)
{
	eli_pin(0);
	eli_vm_create(ev, 1, unmap_guest);
	prepare_remap(ev);
	TEST_ASSERT_EQ(let_loose(ev), KVM_EXIT_SHUTDOWN);
}

static void unmap_cli_guest(void)
{
	guest_begin();
	eli_cli();
	set_pte(0);
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(idt_unmapped_cli)
{
	eli_pin(0);
	eli_vm_create(ev, 1, unmap_cli_guest);
	prepare_remap(ev);
	TEST_ASSERT_EQ(let_loose(ev), ELI_END_STOPPED);
}

/* Anything in the gates of interrupts, with interrupts off. */
static void garbage_guest(void)
{
	u64 *gate = (void *)eli_shared.idt[0];
	u64 x = 88172645463325252ull;
	int i;

	guest_begin();
	for (;;) {
		eli_cli();
		for (i = 2 * 32; i < 2 * 256; i++) {
			x ^= x << 13;
			x ^= x >> 7;
			x ^= x << 17;
			WRITE_ONCE(gate[i], x);
		}
		for (i = 32; i < 256; i++)
			eli_write_gate(eli_shared.idt[0], i, i, 0, true);
		eli_sti();
		eli_guest_delay(2000);
	}
}

ELI_HOSTILE_TEST(gates_garbage)
{
	run_forever(ev, garbage_guest);
}

/* All kinds of valid ones, with interrupts on. */
static void rewrite_guest(void)
{
	u32 n;

	guest_begin();
	for (n = 0;; n++)
		eli_write_gate(eli_shared.idt[0], 32 + n % 224,
			       32 + (n + n / 224) % 224, n & 3, true);
}

ELI_HOSTILE_TEST(gates_rewritten)
{
	run_forever(ev, rewrite_guest);
}

/* A page table in the page of the IDT: the last PTE is in gate 255. */
static void page_table_guest(void)
{
	u64 *pte = (void *)(eli_shared.idt[0] + 0xff8);
	u64 *data = (void *)(ODD_GVA + 0x1ff000);
	u64 n;

	guest_begin();
	for (n = 0;; n++) {
		WRITE_ONCE(*pte, eli_shared.arg[n & 1]);
		asm volatile("invlpg (%0)" :: "r"(data) : "memory");
		WRITE_ONCE(*data, n);
	}
}

ELI_HOSTILE_TEST(page_table_in_idt)
{
	int level = PG_LEVEL_2M;
	u64 *pde;

	eli_pin(0);
	eli_vm_create(ev, 1, page_table_guest);
	ev->sh->arg[0] = vm_phy_page_alloc(ev->vm, 0x10000, 0) |
			 PTE_PRESENT_MASK | PTE_WRITABLE_MASK;
	ev->sh->arg[1] = vm_phy_page_alloc(ev->vm, 0x10000, 0) |
			 PTE_PRESENT_MASK | PTE_WRITABLE_MASK;
	virt_pg_map(ev->vm, ODD_GVA, ev->sh->arg[0] & ~0xfffull);
	pde = __vm_get_page_table_entry(ev->vm, ODD_GVA, &level);
	*pde = (*pde & 0xfff) | addr_gva2gpa(ev->vm, ev->vm->arch.idt);
	let_loose(ev);
}

/* ------------------------------------------------------------ LIDT, INT n */

static void lidt_storm_guest(void)
{
	u64 idt = eli_shared.idt[0];
	struct desc_ptr bad = { .size = 0xfff, .address = 1ull << 62 };
	const struct desc_ptr odd[] = {
		{ .size = 0xfff, .address = idt + 8 },
		{ .size = 0xfff, .address = idt + 0x800 },
		{ .size = 0xfff, .address = idt - 0x1000 },
		{ .size = 0xffe, .address = idt },
		{ .size = 0xff, .address = idt },
		{ .size = 0, .address = idt },
		{ .size = 0xffff, .address = idt },
		{ .size = 0xfff, .address = 0 },
		{ .size = 0xfff, .address = 0x7ffffffff000 },
		{ .size = 0xfff, .address = 0xffffffffffffffff },
	};
	u8 vector;
	u32 n;

	guest_begin();
	for (n = 0;; n++) {
		eli_cli();
		asm volatile("lidt %0" :: "m"(odd[n % ARRAY_SIZE(odd)]));
		eli_lidt(idt, 0xfff);
		/* #GP, but QEMU's emulation takes it. */
		vector = kvm_asm_safe("lidt %[bad]", [bad]"m"(bad));
		GUEST_ASSERT(vector == GP_VECTOR || !vector);
		eli_lidt(idt, 0xfff);
		eli_sti();
		eli_spin();
	}
}

ELI_HOSTILE_TEST(lidt_storm)
{
	run_forever(ev, lidt_storm_guest);
}

static void lidt_stay_guest(void)
{
	guest_begin();
	eli_cli();
	eli_lidt(eli_shared.idt[0] + 0x800, 0xfff);
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(lidt_straddling)
{
	run_forever(ev, lidt_stay_guest);
}

static void lidt_fast_guest(void)
{
	guest_begin();
	for (;;)
		eli_lidt(eli_shared.idt[0], 0xfff);
}

ELI_HOSTILE_TEST(lidt_same)
{
	run_forever(ev, lidt_fast_guest);
}

/* Handlers that end an interrupt that is not in service. */
static void int_storm_guest(void)
{
	guest_begin();
	for (;;)
		asm volatile("int $0x20; int $0x80; int $0xec; int $0xff");
}

ELI_HOSTILE_TEST(int_storm)
{
	run_forever(ev, int_storm_guest);
}

static void triple_fault_guest(void)
{
	guest_begin();
	eli_lidt(0, 0);
	asm volatile("ud2");
}

ELI_HOSTILE_TEST(triple_fault)
{
	TEST_ASSERT_EQ(run_guest(ev, triple_fault_guest), KVM_EXIT_SHUTDOWN);
}

/* ------------------------------------------------------------ local APIC */

static void no_eoi_guest(void)
{
	guest_begin();
	WRITE_ONCE(eli_shared.no_eoi, DEV_VECTOR);
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(no_eoi)
{
	run_forever(ev, no_eoi_guest);
}

/* Nor IRET: the handler never ends. */
static __eli_irq void stuck_hook(struct ex_regs *regs)
{
	for (;;)
		eli_spin();
}

static void stuck_guest(void)
{
	guest_begin();
	WRITE_ONCE(eli_shared.hook, stuck_hook);
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(handler_never_ends)
{
	run_forever(ev, stuck_guest);
}

static void eoi_flood_guest(void)
{
	guest_begin();
	for (;;)
		x2apic_write_reg(APIC_EOI, 0);
}

ELI_HOSTILE_TEST(eoi_flood)
{
	run_forever(ev, eoi_flood_guest);
}

static void eoi_flood_cli_guest(void)
{
	guest_begin();
	eli_cli();
	for (;;)
		x2apic_write_reg(APIC_EOI, 0);
}

ELI_HOSTILE_TEST(eoi_flood_cli)
{
	run_forever(ev, eoi_flood_cli_guest);
}

static void tpr_guest(void)
{
	u64 n;

	guest_begin();
	for (n = 0;; n++) {
		if (n & 16)
			x2apic_write_reg(APIC_TASKPRI, (n & 15) << 4);
		else
			eli_set_cr8(n & 15);
		if (!eli_shared.host_cr8)
			GUEST_ASSERT_EQ(eli_get_cr8(), n & 15);
	}
}

ELI_HOSTILE_TEST(tpr)
{
	run_forever(ev, tpr_guest);
}

static void tpr_high_guest(void)
{
	guest_begin();
	eli_set_cr8(15);
	for (;;)
		eli_spin();
}

ELI_HOSTILE_TEST(tpr_high)
{
	run_forever(ev, tpr_high_guest);
}

static void apic_modes_guest(void)
{
	u32 count;

	guest_begin();
	for (;;) {
		/* Nothing may arrive from an APIC that is disabled, */
		eli_cli();
		apic_disable();
		count = eli_count(DEV_VECTOR);
		eli_sti();
		eli_guest_delay(500);
		GUEST_ASSERT_EQ(eli_count(DEV_VECTOR), count);
		/* the handlers want an x2APIC, */
		eli_cli();
		xapic_enable();
		eli_guest_delay(200);
		x2apic_enable();
		eli_sti();
		eli_guest_delay(1000);
		/* and this is disabled by software. */
		eli_cli();
		x2apic_write_reg(APIC_SPIV, 0xff);
		eli_guest_delay(200);
		eli_sti();
		eli_guest_delay(200);
		x2apic_write_reg(APIC_SPIV, APIC_SPIV_APIC_ENABLED | 0xff);
		eli_guest_delay(1000);
	}
}

ELI_HOSTILE_TEST(apic_modes)
{
	int end;

	eli_pin(0);
	eli_vm_create(ev, 1, apic_modes_guest);
	virt_pg_map(ev->vm, APIC_DEFAULT_GPA, APIC_DEFAULT_GPA);
	end = let_loose(ev);
	TEST_ASSERT(end == ELI_END_STOPPED, "The guest ended with %d", end);
}

static void ipi_flood_guest(void)
{
	u32 n;

	guest_begin();
	for (n = 0;; n++)
		eli_self_ipi(32 + n % 224);
}

ELI_HOSTILE_TEST(ipi_flood)
{
	run_forever(ev, ipi_flood_guest);
}

/* Exits that KVM handles, and enters the guest again, without having IRQs on. */
static void icr_cli_guest(void)
{
	guest_begin();
	eli_cli();
	for (;;)
		wrmsr(X2APIC_ICR, (u64)ABSENT_APIC_ID << 32 | APIC_INT_ASSERT |
				  APIC_DM_FIXED | DEV2_VECTOR);
}

/* An interrupt of its own would have it enter with all interrupts exiting. */
ELI_HOSTILE_TEST(icr_flood_cli)
{
	eli_pin(0);
	eli_vm_create(ev, 1, icr_cli_guest);
	TEST_ASSERT_EQ(let_loose_every(ev, 0), ELI_END_STOPPED);
}

/* ---------------------------------------------------------- CPU's modes */

/*
 * Leave long mode and paging, spin for a while and come back.  RDI is where
 * the code is, the same with and without paging.  The stack is not used.
 */
asm(".pushsection .text\n"
	"leave_long_mode:\n"
	".code64\n"
	"push %rbx\n"
	"lea 3f - leave_long_mode(%rdi), %rax\n"
	"mov %eax, 4f - leave_long_mode(%rdi)\n"
	"lea 1f - leave_long_mode(%rdi), %rax\n"
	"pushq $0x38\n"
	"push %rax\n"
	"lretq\n"
	".code32\n"
	"1: mov %cr0, %eax\n"
	"btr $31, %eax\n"
	"mov %eax, %cr0\n"
	"mov $0xc0000080, %ecx\n"
	"rdmsr\n"
	"btr $8, %eax\n"
	"wrmsr\n"
	"mov $100000, %ebx\n"
	"2: dec %ebx\n"
	"jnz 2b\n"
	"rdmsr\n"
	"bts $8, %eax\n"
	"wrmsr\n"
	"mov %cr0, %eax\n"
	"bts $31, %eax\n"
	"mov %eax, %cr0\n"
	"ljmp *(4f - leave_long_mode)(%edi)\n"
	".code64\n"
	"3: mov %esp, %esp\n"
	"pop %rbx\n"
	"ret\n"
	".balign 8\n"
	"4: .long 0\n"
	".word 8\n"
	"leave_long_mode_end:\n"
	".popsection\n");

static void long_mode_guest(void)
{
	void (*leave)(u64 self) = (void *)eli_shared.arg[0];

	guest_begin();
	for (;;) {
		eli_cli();
		leave(eli_shared.arg[0]);
		eli_shared.arg[1]++;
		eli_sti();
		eli_guest_delay(500);
	}
}

ELI_HOSTILE_TEST(leave_long_mode)
{
	u64 gpa;
	int end;

	eli_pin(0);
	eli_vm_create(ev, 1, long_mode_guest);
	gpa = vm_phy_page_alloc(ev->vm, 0x200000, 0);
	virt_pg_map(ev->vm, gpa, gpa);
	memcpy(addr_gpa2hva(ev->vm, gpa), eli_label(leave_long_mode),
	       eli_label(leave_long_mode_end) - eli_label(leave_long_mode));
	ev->sh->arg[0] = gpa;
	end = let_loose(ev);
	TEST_ASSERT(end == ELI_END_STOPPED, "The guest ended with %d", end);
	TEST_ASSERT(ev->sh->arg[1] > 0, "Long mode was left %lu times",
		    (unsigned long)ev->sh->arg[1]);
}

static void control_guest(void)
{
	u64 n;

	guest_begin();
	for (n = 0;; n++) {
		/* CR4.PGE, CR4.DE, EFER.SCE, CR0.WP */
		set_cr4(get_cr4() ^ (n & 1 ? 1 << 7 : 1 << 3));
		wrmsr(MSR_EFER, rdmsr(MSR_EFER) ^ 1);
		asm volatile("mov %%cr0, %%rax; btc $16, %%rax;"
			     "mov %%rax, %%cr0" ::: "rax", "memory");
		asm volatile("mov %%cr3, %%rax; mov %%rax, %%cr3"
			     ::: "rax", "memory");
	}
}

ELI_HOSTILE_TEST(control_registers)
{
	run_forever(ev, control_guest);
}

/* ----------------------------------------------------------- user space */

static void spin_guest(void)
{
	guest_begin();
	for (;;)
		eli_spin();
}

/* Virtualization in the guest is on and off again before the guest runs. */
ELI_HOSTILE_TEST(svme_toggled)
{
	struct eli_thread *t = &ev->thread[0];
	struct eli_dev *dev;
	struct eli_irq host;
	u64 efer;
	int i;

	if (!kvm_cpu_has(X86_FEATURE_SVM)) {
		pr_info("# no nested SVM: not tested\n");
		return;
	}
	dev = eli_start(ev, spin_guest, DEV_VECTOR);
	eli_arm(ev, dev);
	/* After the other, so that its vector is the higher one. */
	eli_irq_create(&host, ELIPROD_HOST, -1, VICTIM_CPU);
	eli_irq_start(&host, ELIPROD_AFTER_HANDLED, 500, 0);
	eli_go(ev, 1);
	for (i = 0; i < 20; i++) {
		eli_thread_pause(t);
		efer = vcpu_get_msr(t->vcpu, MSR_EFER);
		vcpu_set_msr(t->vcpu, MSR_EFER, efer | EFER_SVME);
		vcpu_set_msr(t->vcpu, MSR_EFER, efer);
		eli_thread_resume(t);
		eli_arm(ev, dev);
		check_host(&host);
	}
	TEST_ASSERT_EQ(eli_thread_stop(t), ELI_END_STOPPED);
	finish_host(&host);
}

/* ------------------------------------------------------------ two vCPUs */

static void neighbour_guest(void)
{
	u64 idt = eli_shared.idt[1];
	u32 n;

	eli_guest_init();
	GUEST_SYNC(1);
	for (n = 0;; n++) {
		eli_cli();
		eli_write_gate(idt, 32 + n % 224, 32 + n * 7 % 224, 0, n & 1);
		eli_lidt(idt + (n & 8), 0xfff);
		eli_lidt(idt, 0xfff);
		if (n % 64)
			continue;
		eli_guest_delay(2000);
		eli_write_gate(idt, DEV2_VECTOR, DEV2_VECTOR, 0, true);
		asm volatile("sti; nop; cli" ::: "memory");
	}
}

static void friend_guest(void)
{
	guest_begin();
	eli_guest_stage(2);
	eli_guest_idle(2);
	GUEST_DONE();
}

/* What one vCPU does to its table must not be felt by the other. */
ELI_HOSTILE_TEST(neighbour)
{
	struct eli_thread *other = &ev->thread[1];
	struct eli_dev *dev, *dev2;
	struct eli_irq host;
	int i;

	eli_pin(0);
	eli_vm_create(ev, 2, friend_guest);
	vcpu_arch_set_entry_point(ev->vcpu[1], neighbour_guest);
	eli_second_idt(ev, 1);
	dev = eli_dev_add(ev, 0, DEV_VECTOR);
	dev2 = eli_dev_add(ev, 1, DEV2_VECTOR);
	other->may_abort = true;
	eli_thread_start(ev, 0);
	eli_thread_start(ev, 1);
	eli_wait_stage(ev, 1);
	eli_thread_sync(other, 1);
	eli_arm(ev, dev);
	eli_irq_create(&host, ELIPROD_HOST, -1, VICTIM_CPU);
	eli_irq_start(&host, ELIPROD_AFTER_HANDLED, 500, 0);
	eli_irq_start(&dev2->irq, 0, 1000, 0);
	eli_thread_resume(other);
	for (i = 0; i < 500; i++) {
		eli_fire(ev, dev);
		check_host(&host);
	}
	usleep(100000);
	eli_irq_stop(&dev2->irq);
	eli_thread_stop(other);
	eli_go(ev, 2);
	TEST_ASSERT_EQ(eli_thread_join(&ev->thread[0]), ELI_END_DONE);
	finish_host(&host);
}

int main(int argc, char *argv[])
{
	eli_require();
	return test_harness_run(argc, argv);
}
