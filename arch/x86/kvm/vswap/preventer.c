// SPDX-License-Identifier: GPL-2.0-only
/*
 * VSwapper's Preventer: guests that overwrite pages do not have to wait for
 * what was in them.
 *
 * When a guest writes to a page of a RAM file that is not in memory, its
 * instruction is decoded by KVM's emulator.  Stores of registers and constants,
 * and STOS and MOVS, are then executed here: as many bytes at once as the
 * instruction stores to the page.  They go to the page's buffer, see
 * virt/kvm/vswap/buffer.c; if these are all of it, the page is complete at once.
 * Loads of what is in a buffer are executed as well.
 *
 * All else takes the normal path, which reads the page: other instructions,
 * accesses across pages, page walks, fetches of code, and all that would make
 * an instruction have other effects than storing or loading.  Nothing has
 * changed then.
 *
 * What is executed is whatever is at RIP, with the registers of the vCPU and all
 * checks of its mode that apply.  It does not have to be what faulted: another
 * vCPU may change the code, and the guest would go on with this.
 */

#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/kvm_host.h>
#include <linux/string.h>

#include "kvm_cache_regs.h"
#include "kvm_emulate.h"
#include "mmu.h"
#include "mmu/mmu_internal.h"
#include "mmu/page_track.h"
#include "pmu.h"
#include "smm.h"
#include "x86.h"
#include "preventer.h"

/* What an instruction stores to a page, or loads. */
struct vswap_access {
	gva_t gva;
	unsigned int len;
	/* Of an element of STOS or MOVS. */
	unsigned int size;
	const void *data;
};

/* Nothing else happens to this vCPU than that it executes an instruction. */
static bool vswap_is_simple(struct kvm_vcpu *vcpu)
{
	unsigned long *inhibits = &vcpu->kvm->arch.apicv_inhibit_reasons;

	if (is_guest_mode(vcpu) || is_smm(vcpu) ||
	    kvm_event_needs_reinjection(vcpu))
		return false;

	/* Memory of confidential VMs cannot be accessed; SEV inhibits APICv. */
	if (vcpu->kvm->arch.has_private_mem ||
	    vcpu->arch.guest_state_protected ||
	    test_bit(APICV_INHIBIT_REASON_SEV, inhibits))
		return false;

	/* Debuggers watch instructions and data. */
	if (vcpu->guest_debug ||
	    (vcpu->arch.switch_db_regs & KVM_DEBUGREG_BP_ENABLED) ||
	    (kvm_get_rflags(vcpu) & X86_EFLAGS_TF))
		return false;

	return !kvm_x86_call(get_interrupt_shadow)(vcpu);
}

/*
 * The address of a segment's memory, in long mode or in a flat segment.  It is
 * within a page.
 */
static bool vswap_linearize(struct kvm_vcpu *vcpu, unsigned long ea, int seg,
			    unsigned int len, gva_t *gva)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	struct kvm_segment var;

	if (ctxt->mode == X86EMUL_MODE_PROT64) {
		*gva = ea;
		if (seg == VCPU_SREG_FS || seg == VCPU_SREG_GS)
			*gva += kvm_x86_call(get_segment_base)(vcpu, seg);
		return offset_in_page(*gva) + len <= PAGE_SIZE &&
		       !is_noncanonical_address(*gva, vcpu, 0);
	}

	kvm_get_segment(vcpu, &var, seg);
	/* Data that does not expand down, and can be written to. */
	if (var.unusable || !var.present || !var.s ||
	    (var.type & ~1) != 2 || var.base || var.limit != U32_MAX)
		return false;
	*gva = (u32)ea;
	return offset_in_page(*gva) + len <= PAGE_SIZE;
}

/* Is this the page that the fault was about? */
static bool vswap_is_page(struct kvm_vcpu *vcpu, gva_t gva, bool write,
			  gpa_t page)
{
	struct x86_exception exception;
	gpa_t gpa;

	gpa = write ? kvm_mmu_gva_to_gpa_write(vcpu, gva, &exception) :
		      kvm_mmu_gva_to_gpa_read(vcpu, gva, &exception);
	return gpa != INVALID_GPA && !((gpa ^ page) & PAGE_MASK);
}

/*
 * The source of MOVS.  If it is, or overlaps, the page that is written to,
 * reading it makes the page present, and then the write is refused.
 */
static bool vswap_read_source(struct kvm_vcpu *vcpu, unsigned long ea, int seg,
			      void *data, unsigned int len)
{
	struct x86_exception exception;
	struct kvm_memory_slot *slot;
	unsigned int part;
	gpa_t gpa;
	gva_t gva;

	for (; len; len -= part, ea += part, data += part) {
		part = 1;
		if (!vswap_linearize(vcpu, ea, seg, part, &gva))
			return false;
		part = min_t(unsigned int, len,
			     PAGE_SIZE - offset_in_page(gva));
		gpa = kvm_mmu_gva_to_gpa_read(vcpu, gva, &exception);
		if (gpa == INVALID_GPA)
			return false;
		slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
		if (!vswap_is_memory(slot, gpa) ||
		    kvm_vcpu_read_guest_page(vcpu, gpa_to_gfn(gpa), data,
					     offset_in_page(gpa), part))
			return false;
	}
	return true;
}

static void vswap_fill(void *data, u64 value, unsigned int size,
		       unsigned int len)
{
	switch (size) {
	case 1:
		memset(data, value, len);
		break;
	case 2:
		memset16(data, value, len / 2);
		break;
	case 4:
		memset32(data, value, len / 4);
		break;
	case 8:
		memset64(data, value, len / 8);
		break;
	}
}

static unsigned long vswap_address_mask(struct x86_emulate_ctxt *ctxt)
{
	return ctxt->ad_bytes == 8 ? ULONG_MAX : U32_MAX;
}

/*
 * STOS or MOVS: all elements that are stored to the page from where it is.
 * The caller frees what *@buf is set to.
 */
static bool vswap_string(struct kvm_vcpu *vcpu, gpa_t page,
			 struct vswap_access *access, void **buf)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	unsigned long mask = vswap_address_mask(ctxt), count = 1;

	if (ctxt->rep_prefix == 0xf2 || (ctxt->eflags & X86_EFLAGS_DF))
		return false;
	if (ctxt->rep_prefix)
		count = kvm_rcx_read(vcpu) & mask;

	access->size = (ctxt->b & 1) ? ctxt->op_bytes : 1;
	if (!vswap_linearize(vcpu, kvm_rdi_read(vcpu) & mask, VCPU_SREG_ES,
			     access->size, &access->gva) ||
	    !vswap_is_page(vcpu, access->gva, true, page))
		return false;
	count = min(count, (PAGE_SIZE - offset_in_page(access->gva)) /
			   access->size);
	access->len = count * access->size;
	if (!access->len)
		return false;

	/* By far the most frequent: a page is cleared. */
	if (ctxt->b > 0xa5 &&
	    !(kvm_rax_read(vcpu) & GENMASK_ULL(access->size * 8 - 1, 0))) {
		access->data = page_address(ZERO_PAGE(0));
		return true;
	}

	*buf = (void *)__get_free_page(GFP_KERNEL_ACCOUNT);
	if (!*buf)
		return false;
	access->data = *buf;

	if (ctxt->b <= 0xa5)
		return vswap_read_source(vcpu, kvm_rsi_read(vcpu) & mask,
					 ctxt->seg_override, *buf, access->len);
	vswap_fill(*buf, kvm_rax_read(vcpu), access->size, access->len);
	return true;
}

/* An instruction was executed. */
static void vswap_retire(struct kvm_vcpu *vcpu)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	unsigned long rip = ctxt->_eip;

	if (ctxt->mode != X86EMUL_MODE_PROT64)
		rip = (u32)rip;
	kvm_pmu_trigger_event(vcpu, kvm_pmu_eventsel.INSTRUCTIONS_RETIRED);
	kvm_rip_write(vcpu, rip);
	if (ctxt->eflags & X86_EFLAGS_RF)
		kvm_set_rflags(vcpu, ctxt->eflags & ~X86_EFLAGS_RF);
}

/* What a string instruction has stored does not count any more. */
static void vswap_advance(struct kvm_vcpu *vcpu,
			  const struct vswap_access *access)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	unsigned long mask = vswap_address_mask(ctxt), count;

	kvm_rdi_write(vcpu, (kvm_rdi_read(vcpu) + access->len) & mask);
	if (ctxt->b <= 0xa5)
		kvm_rsi_write(vcpu, (kvm_rsi_read(vcpu) + access->len) & mask);
	if (ctxt->rep_prefix) {
		count = kvm_rcx_read(vcpu) - access->len / access->size;
		kvm_rcx_write(vcpu, count & mask);
		/* The rest is on another page, where it may fault. */
		if (count & mask)
			return;
	}
	vswap_retire(vcpu);
}

/*
 * Stores that are found are those of C code: registers and constants, and vector
 * registers as far as the emulator knows them.
 */
static bool vswap_is_store(struct kvm_vcpu *vcpu)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	bool aligned = false;

	if (ctxt->dst.type != OP_MEM)
		return false;

	if (ctxt->opcode_len == 1) {
		switch (ctxt->b) {
		case 0x88 ... 0x89:
		case 0xa2 ... 0xa3:
			break;
		case 0xc6 ... 0xc7:
			if (ctxt->modrm & 0x38)
				return false;
			break;
		default:
			return false;
		}
		return !ctxt->rep_prefix &&
		       (ctxt->src.type == OP_REG || ctxt->src.type == OP_IMM);
	}
	if (ctxt->opcode_len != 2)
		return false;

	switch (ctxt->b) {
	case 0xc3:	/* MOVNTI */
		return !ctxt->rep_prefix && ctxt->src.type == OP_REG &&
		       ctxt->op_bytes != 2;
	case 0x11:	/* MOVUPS, MOVUPD */
		break;
	case 0x7f:	/* MOVDQA, MOVDQU */
		aligned = ctxt->rep_prefix != 0xf3;
		break;
	case 0x29:	/* MOVAPS, MOVAPD */
	case 0x2b:	/* MOVNTPS, MOVNTPD */
	case 0xe7:	/* MOVNTDQ */
		aligned = true;
		break;
	default:
		return false;
	}
	if (ctxt->src.type != OP_XMM || ctxt->dst.bytes != 16 ||
	    (aligned && ctxt->dst.addr.mem.ea % 16))
		return false;
	return kvm_is_cr4_bit_set(vcpu, X86_CR4_OSFXSR) &&
	       !kvm_read_cr0_bits(vcpu, X86_CR0_EM | X86_CR0_TS);
}

static bool vswap_is_string(struct x86_emulate_ctxt *ctxt)
{
	if (ctxt->opcode_len != 1)
		return false;
	return ctxt->b == 0xa4 || ctxt->b == 0xa5 || ctxt->b == 0xaa ||
	       ctxt->b == 0xab;
}

static bool vswap_decode(struct kvm_vcpu *vcpu, void *insn, int insn_len)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;

	if (x86_decode_emulated_instruction(vcpu, 0, insn, insn_len) !=
	    EMULATION_OK || ctxt->lock_prefix)
		return false;
	return (ctxt->mode == X86EMUL_MODE_PROT64 && ctxt->ad_bytes == 8) ||
	       (ctxt->mode == X86EMUL_MODE_PROT32 && ctxt->ad_bytes == 4);
}

static bool vswap_store(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot,
			gpa_t page, u64 error_code)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	struct vswap_access access = {};
	bool string = vswap_is_string(ctxt);
	unsigned long hva;
	void *buf = NULL;
	int ret = -EINVAL;

	if (string) {
		if (!vswap_string(vcpu, page, &access, &buf))
			goto out;
	} else {
		if (!vswap_is_store(vcpu))
			return false;
		access.len = ctxt->dst.bytes;
		access.data = ctxt->src.valptr;
		if (!vswap_linearize(vcpu, ctxt->dst.addr.mem.ea,
				     ctxt->dst.addr.mem.seg, access.len,
				     &access.gva) ||
		    !vswap_is_page(vcpu, access.gva, true, page))
			return false;
	}

	hva = __gfn_to_hva_memslot(slot, gpa_to_gfn(page));
	ret = kvm_vswap_write(hva + offset_in_page(access.gva), access.data,
			      access.len);
	if (ret < 0)
		goto out;

	kvm_vcpu_mark_page_dirty(vcpu, gpa_to_gfn(page));
	if (string)
		vswap_advance(vcpu, &access);
	else
		vswap_retire(vcpu);
	++vcpu->stat.pf_emulate;

	/* The guest is likely to go on with the page, which is there now. */
	if (ret > 0)
		kvm_mmu_do_page_fault(vcpu, page, error_code, true, NULL, NULL);
out:
	free_page((unsigned long)buf);
	return ret >= 0;
}

/* MOV to a register. */
static bool vswap_load(struct kvm_vcpu *vcpu, struct kvm_memory_slot *slot,
		       gpa_t page)
{
	struct x86_emulate_ctxt *ctxt = vcpu->arch.emulate_ctxt;
	unsigned int len, reg, shift = 0;
	u64 value = 0, mask;
	unsigned long hva;
	gva_t gva;

	if (ctxt->opcode_len != 1 || (ctxt->b != 0x8a && ctxt->b != 0x8b) ||
	    ctxt->rep_prefix || ctxt->src.type != OP_MEM ||
	    ctxt->dst.type != OP_REG)
		return false;

	len = ctxt->src.bytes;
	if (!vswap_linearize(vcpu, ctxt->src.addr.mem.ea,
			     ctxt->src.addr.mem.seg, len, &gva) ||
	    !vswap_is_page(vcpu, gva, false, page))
		return false;
	hva = __gfn_to_hva_memslot(slot, gpa_to_gfn(page));
	if (!kvm_vswap_read(hva + offset_in_page(gva), &value, len))
		return false;

	/* AH to BH, and what is kept of the register. */
	reg = ctxt->modrm_reg;
	if (len == 1 && !ctxt->rex_prefix && reg >= 4) {
		reg -= 4;
		shift = 8;
	}
	mask = len >= 4 ? U64_MAX : GENMASK_ULL(len * 8 - 1, 0) << shift;
	value = (kvm_register_read_raw(vcpu, reg) & ~mask) | (value << shift);
	kvm_register_write_raw(vcpu, reg, value);
	vswap_retire(vcpu);
	++vcpu->stat.pf_emulate;
	return true;
}

/*
 * A guest's access has faulted, as nothing is mapped there.  Returns true if the
 * access was executed.  Nothing is locked but kvm->srcu.
 */
bool __kvm_vswap_page_fault(struct kvm_vcpu *vcpu, gpa_t gpa, u64 error_code,
			    void *insn, int insn_len)
{
	bool write = error_code & PFERR_WRITE_MASK;
	struct kvm_memory_slot *slot;

	if (!vcpu->arch.mmu->root_role.direct ||
	    !(error_code & PFERR_GUEST_FINAL_MASK) ||
	    (error_code & (PFERR_PRESENT_MASK | PFERR_FETCH_MASK)) ||
	    !vswap_is_simple(vcpu))
		return false;

	slot = kvm_vcpu_gfn_to_memslot(vcpu, gpa_to_gfn(gpa));
	if (!vswap_is_memory(slot, gpa) || (slot->flags & KVM_MEM_READONLY) ||
	    kvm_gfn_is_write_tracked(vcpu->kvm, slot, gpa_to_gfn(gpa)))
		return false;
	if (!kvm_vswap_want(__gfn_to_hva_memslot(slot, gpa_to_gfn(gpa)) +
			    offset_in_page(gpa), write))
		return false;

	/* As for the emulator: data of the host's may be in the L1 cache. */
	vcpu->arch.l1tf_flush_l1d = true;
	if (!vswap_decode(vcpu, insn, insn_len))
		return false;
	return write ? vswap_store(vcpu, slot, gpa, error_code) :
		       vswap_load(vcpu, slot, gpa);
}

/* Sticky: what is mapped there may change, and then this is only a hint. */
void __kvm_vswap_commit_memslot(struct kvm *kvm,
				const struct kvm_memory_slot *slot)
{
	if (!kvm->arch.vswap && kvm_vswap_is_ram(slot->userspace_addr))
		WRITE_ONCE(kvm->arch.vswap, true);
}
