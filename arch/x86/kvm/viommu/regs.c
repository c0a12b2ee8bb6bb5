// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: registers.
 *
 * kvm_viommu.regs is what the registers are.  The shared page is what the guest
 * sees.  In trapped mode only KVM writes it.  In direct mode the guest does, too;
 * viommu_scan() then looks for differences between the two, takes them for
 * writes, and puts the page right.
 *
 * A poller cannot see all writes: not that of a value which is there already, and
 * of several writes only the last.  That is good enough, as
 *  - of the register that is written often, IQT, only the last value matters;
 *  - the specification has software wait until a command (GCMD, CCMD, IOTLB) is
 *    completed, which changes a register, before it writes the next one;
 *  - a command changes the register: CCMD and IOTLB have a bit for it, and in GCMD,
 *    which is write-only, the page holds a value that is no command;
 *  - other registers hold data, which matter when a command is given or an event
 *    happens, and are looked at then;
 *  - registers in which ones are written to clear bits are not polled while there
 *    is something to clear, see viommu_can_be_direct(), so such writes exit.
 *
 * Software is to use aligned accesses of four or eight bytes ("Software Access to
 * Registers").  Others are ignored.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/bitfield.h>
#include <linux/jiffies.h>
#include <linux/kvm_host.h>

#include "internal.h"
#include "trace.h"

struct viommu_reg {
	u16 offset;
	u8 len;
	/* Bits that can be written, and bits that are cleared by writing 1. */
	u64 rw;
	u64 w1c;
	/* The guest wrote @val to the bits in @mask. */
	void (*written)(struct kvm_viommu *v, u64 val, u64 mask);
};

static void *viommu_shared(struct kvm_viommu *v, unsigned int reg)
{
	return v->shared + reg;
}

/*
 * GSTS as the guest sees it.  RTPS is set from the first SRTP on, and nobody clears
 * it at once when a guest asks for another one in direct mode.  The guest, which
 * waits for it, would go on too early, and might write GCMD again before that was
 * polled.  So do not show it then, until it is a fact, and the unit leaves direct
 * mode for that, and stays out of it until the guest has seen it.
 */
static u32 viommu_shown_gsts(struct kvm_viommu *v)
{
	u32 gsts = vtd_reg32(v, VTD_GSTS);

	return v->direct ? gsts & ~VTD_GSTS_RTPS : gsts;
}

/* The mode has changed. */
void viommu_show_gsts(struct kvm_viommu *v)
{
	lockdep_assert_held(&v->lock);

	WRITE_ONCE(*(u32 *)viommu_shared(v, VTD_GSTS), viommu_shown_gsts(v));
}

/* Change a register on the unit's own account. */
void viommu_set32(struct kvm_viommu *v, unsigned int reg, u32 val)
{
	lockdep_assert_held(&v->lock);

	WRITE_ONCE(*(u32 *)(v->regs + reg), val);
	if (reg == VTD_GSTS)
		viommu_show_gsts(v);
	else
		WRITE_ONCE(*(u32 *)viommu_shared(v, reg), val);
}

void viommu_set64(struct kvm_viommu *v, unsigned int reg, u64 val)
{
	lockdep_assert_held(&v->lock);

	WRITE_ONCE(*(u64 *)(v->regs + reg), val);
	WRITE_ONCE(*(u64 *)viommu_shared(v, reg), val);
}

/* "Global Command Register": one command at a time, others keep their state. */
static void gcmd_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	u32 gsts = vtd_reg32(v, VTD_GSTS);
	u32 cmd = val;

	/* Could not be seen in direct mode, and is no command anyway. */
	if (cmd == VTD_GCMD_NONE)
		return;

	if (!(v->ecap & VTD_ECAP_QI))
		cmd &= ~VTD_GCMD_QIE;

	/* Software that gives another command has seen that the last is complete. */
	v->root_unseen = cmd & VTD_GCMD_SRTP;
	if (v->root_unseen) {
		viommu_set32(v, VTD_GSTS, gsts & ~VTD_GSTS_RTPS);
		__set_bit(VIOMMU_TODO_SRTP, v->todo);
	}

	if (!!(cmd & VTD_GCMD_TE) != v->te) {
		v->te = cmd & VTD_GCMD_TE;
		__assign_bit(VIOMMU_TODO_TE_ON, v->todo, v->te);
		__assign_bit(VIOMMU_TODO_TE_OFF, v->todo, !v->te);
	}

	if ((cmd & VTD_GCMD_QIE) && !(gsts & VTD_GSTS_QIES)) {
		viommu_set64(v, VTD_IQH, 0);
		viommu_set32(v, VTD_GSTS,
			     vtd_reg32(v, VTD_GSTS) | VTD_GSTS_QIES);
	} else if (!(cmd & VTD_GCMD_QIE) && (gsts & VTD_GSTS_QIES)) {
		__set_bit(VIOMMU_TODO_QI_OFF, v->todo);
	}
}

static void ccmd_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	if (val & mask & VTD_CCMD_ICC)
		__set_bit(VIOMMU_TODO_CCMD, v->todo);
}

static void iotlb_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	if (val & mask & VTD_IOTLB_IVT)
		__set_bit(VIOMMU_TODO_IOTLB, v->todo);
}

static void fault_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	viommu_fault_written(v);
}

/* An interrupt that was held back is sent when it gets unmasked. */
static void fectl_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	viommu_send_msi(v, VTD_FECTL);
}

static void iectl_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	viommu_send_msi(v, VTD_IECTL);
}

/* "Invalidation Completion Status": IP is cleared with what it tells of. */
static void ics_written(struct kvm_viommu *v, u64 val, u64 mask)
{
	if (!(vtd_reg32(v, VTD_ICS) & VTD_ICS_IWC))
		viommu_set32(v, VTD_IECTL,
			     vtd_reg32(v, VTD_IECTL) & ~VTD_CTL_IP);
}

#define REG_RO(reg, _len)	{ .offset = (reg), .len = (_len) }
#define REG_RW(reg, _len, _rw)	{ .offset = (reg), .len = (_len), .rw = (_rw) }

/*
 * Commands come first, see viommu_scan().  A read of the commands is a read of the
 * data that was written before them.
 */
static const struct viommu_reg viommu_regs[] = {
	{ VTD_GCMD, 4, 0, 0, gcmd_written },
	{ VTD_CCMD, 8, VTD_CCMD_ICC | VTD_CCMD_CIRG | VTD_CCMD_FM |
		       VTD_CCMD_SID | VTD_CCMD_DID, 0, ccmd_written },
	{ VTD_IOTLB, 8, VTD_IOTLB_IVT | VTD_IOTLB_IIRG | VTD_IOTLB_DR |
			VTD_IOTLB_DW | VTD_IOTLB_DID, 0, iotlb_written },
	REG_RW(VTD_IQT, 8, VTD_IQ_INDEX),

	REG_RO(VTD_VER, 4),
	REG_RO(VTD_CAP, 8),
	REG_RO(VTD_ECAP, 8),
	REG_RO(VTD_GSTS, 4),
	REG_RW(VTD_RTADDR, 8, GENMASK_ULL(63, 12) | VTD_RTADDR_TTM),
	{ VTD_FSTS, 4, 0, VTD_FSTS_PFO | VTD_FSTS_IQE | VTD_FSTS_ICE |
			  VTD_FSTS_ITE, fault_written },
	{ VTD_FECTL, 4, VTD_CTL_IM, 0, fectl_written },
	REG_RW(VTD_FEDATA, 4, GENMASK(31, 0)),
	REG_RW(VTD_FEADDR, 4, GENMASK(31, 2)),
	REG_RW(VTD_FEUADDR, 4, GENMASK(31, 0)),
	REG_RO(VTD_IQH, 8),
	REG_RW(VTD_IQA, 8, GENMASK_ULL(63, 12) | VTD_IQA_QS),
	{ VTD_ICS, 4, 0, VTD_ICS_IWC, ics_written },
	{ VTD_IECTL, 4, VTD_CTL_IM, 0, iectl_written },
	REG_RW(VTD_IEDATA, 4, GENMASK(31, 0)),
	REG_RW(VTD_IEADDR, 4, GENMASK(31, 2)),
	REG_RW(VTD_IEUADDR, 4, GENMASK(31, 0)),
	REG_RO(VTD_IQERCD, 8),
	REG_RW(VTD_IVA, 8, VTD_IVA_ADDR | VTD_IVA_IH | VTD_IVA_AM),
#define REG_FRCD_LO(i)		REG_RO(VTD_FRCD + 16 * (i), 8)
#define REG_FRCD_HI(i)							\
	{ VTD_FRCD + 16 * (i) + 8, 8, 0, VTD_FRCD_F, fault_written }
	REG_FRCD_LO(0), REG_FRCD_HI(0),
	REG_FRCD_LO(1), REG_FRCD_HI(1),
	REG_FRCD_LO(2), REG_FRCD_HI(2),
	REG_FRCD_LO(3), REG_FRCD_HI(3),
	REG_FRCD_LO(4), REG_FRCD_HI(4),
	REG_FRCD_LO(5), REG_FRCD_HI(5),
	REG_FRCD_LO(6), REG_FRCD_HI(6),
	REG_FRCD_LO(7), REG_FRCD_HI(7),
};

/* GCMD to IQT; the index of the latter. */
#define VIOMMU_NR_COMMANDS	4
#define VIOMMU_IQT		3

static u64 viommu_get(struct kvm_viommu *v, const struct viommu_reg *reg)
{
	return reg->len == 4 ? vtd_reg32(v, reg->offset) :
			       vtd_reg64(v, reg->offset);
}

/* What the shared page is to hold. */
static u64 viommu_expected(struct kvm_viommu *v, const struct viommu_reg *reg)
{
	switch (reg->offset) {
	case VTD_GCMD:
		return VTD_GCMD_NONE;
	case VTD_GSTS:
		return viommu_shown_gsts(v);
	default:
		return viommu_get(v, reg);
	}
}

static u64 viommu_read_shared(struct kvm_viommu *v, const struct viommu_reg *reg)
{
	void *shared = viommu_shared(v, reg->offset);

	return reg->len == 4 ? READ_ONCE(*(u32 *)shared) :
			       READ_ONCE(*(u64 *)shared);
}

/* The guest wrote @val to the bits of a register that are in @mask. */
static void viommu_apply(struct kvm_viommu *v, const struct viommu_reg *reg,
			 u64 val, u64 mask)
{
	u64 new = viommu_get(v, reg);

	trace_kvm_viommu_write(reg->offset, val, mask, v->direct);

	new &= ~(reg->rw & mask);
	new |= val & reg->rw & mask;
	new &= ~(val & reg->w1c & mask);
	if (reg->len == 4)
		WRITE_ONCE(*(u32 *)(v->regs + reg->offset), new);
	else
		WRITE_ONCE(*(u64 *)(v->regs + reg->offset), new);

	if (reg->written)
		reg->written(v, val, mask);
}

/* A guest's write that exited. */
void viommu_write(struct kvm_viommu *v, unsigned int offset, unsigned int len,
		  u64 val)
{
	const struct viommu_reg *reg;
	unsigned int shift;
	u64 mask;

	lockdep_assert_held(&v->lock);

	for (reg = viommu_regs; reg < viommu_regs + ARRAY_SIZE(viommu_regs); reg++) {
		if (offset < reg->offset || offset >= reg->offset + reg->len)
			continue;

		/* Two registers at once. */
		if (len > reg->len)
			break;

		shift = 8 * (offset - reg->offset);
		mask = GENMASK_ULL(8 * len - 1, 0) << shift;
		viommu_apply(v, reg, val << shift, mask);
		if (reg->len == 4)
			WRITE_ONCE(*(u32 *)viommu_shared(v, reg->offset),
				   viommu_expected(v, reg));
		else
			WRITE_ONCE(*(u64 *)viommu_shared(v, reg->offset),
				   viommu_expected(v, reg));
		return;
	}

	/* Or one and a reserved offset. */
	if (len == 8) {
		viommu_write(v, offset, 4, lower_32_bits(val));
		viommu_write(v, offset + 4, 4, upper_32_bits(val));
	}
}

/* The shared page has @seen in a register: a guest's write if it differs. */
static bool viommu_scan_reg(struct kvm_viommu *v, const struct viommu_reg *reg,
			    u64 seen)
{
	u64 expected = viommu_expected(v, reg);

	if (seen == expected)
		return false;

	viommu_apply(v, reg, seen, GENMASK_ULL(8 * reg->len - 1, 0));

	/* Put it right, unless the guest has written once more. */
	expected = viommu_expected(v, reg);
	if (seen == expected)
		return true;

	if (reg->len == 4)
		cmpxchg((u32 *)viommu_shared(v, reg->offset), (u32)seen,
			(u32)expected);
	else
		cmpxchg((u64 *)viommu_shared(v, reg->offset), seen, expected);
	return true;
}

/*
 * Find what the guest wrote without an exit.  Returns true if there was anything.
 *
 * The guest writes data, then the command that makes use of it.  So read the
 * commands first, and act on them last.
 */
bool viommu_scan(struct kvm_viommu *v)
{
	u64 seen[VIOMMU_NR_COMMANDS];
	bool any = false;
	unsigned int i;

	lockdep_assert_held(&v->lock);

	for (i = 0; i < VIOMMU_NR_COMMANDS; i++)
		seen[i] = viommu_read_shared(v, &viommu_regs[i]);

	/* Pairs with the order of writes by the guest, which x86 guarantees. */
	smp_rmb();

	for (; i < ARRAY_SIZE(viommu_regs); i++)
		any |= viommu_scan_reg(v, &viommu_regs[i],
				       viommu_read_shared(v, &viommu_regs[i]));

	for (i = 0; i < VIOMMU_NR_COMMANDS; i++)
		any |= viommu_scan_reg(v, &viommu_regs[i], seen[i]);

	return any;
}

/*
 * The same for what a busy guest does: it has appended to the queue.  The page may be
 * uncached, so look at IQT, and at the data that goes with it, and leave all other
 * registers to the next viommu_scan().  What a descriptor may need of them is not
 * missed, as viommu_go_trapped() comes before any event.
 */
bool viommu_scan_tail(struct kvm_viommu *v)
{
	const struct viommu_reg *reg = &viommu_regs[VIOMMU_IQT];
	u64 seen;

	lockdep_assert_held(&v->lock);

	seen = viommu_read_shared(v, reg);

	/* As in viommu_scan(). */
	smp_rmb();

	if (READ_ONCE(*(u64 *)viommu_shared(v, VTD_IQA)) != vtd_reg64(v, VTD_IQA))
		return viommu_scan(v);

	return viommu_scan_reg(v, reg, seen);
}

/*
 * Can it be that a vCPU is waiting for RTPS, which is not shown in direct mode?  Reads
 * do not exit, so all that is known is that nobody waits any more when the next command
 * is given, or after a long time.
 */
static bool viommu_root_unseen(struct kvm_viommu *v)
{
	return v->root_unseen && (v->source == VIOMMU_BY_SRTP ||
				  time_before(jiffies, v->root_set + VTD_GCMD_TIMEOUT));
}

/*
 * Can writes be polled for?  Not while there is anything that the guest clears by
 * writing 1, which the shared page has already, and only once the guest has
 * finished setting up.
 */
bool viommu_can_be_direct(struct kvm_viommu *v)
{
	const u32 on = VTD_GSTS_TES | VTD_GSTS_QIES;

	lockdep_assert_held(&v->lock);

	return (vtd_reg32(v, VTD_GSTS) & on) == on &&
	       !(vtd_reg32(v, VTD_FSTS) & VTD_FSTS_EVENTS) &&
	       !(vtd_reg32(v, VTD_ICS) & VTD_ICS_IWC) &&
	       bitmap_empty(v->todo, VIOMMU_NR_TODO) && !viommu_root_unseen(v);
}

/* The state after power-on. */
void viommu_reset(struct kvm_viommu *v)
{
	BUILD_BUG_ON(VTD_FRCD + 16 * VTD_NR_FRCD > VTD_REGS_SIZE);
	BUILD_BUG_ON(VTD_NR_FRCD != 8);
	BUILD_BUG_ON(VTD_REGS_SIZE > PAGE_SIZE);

	v->next_frcd = 0;
	v->root_unseen = false;
	memset(v->regs, 0, sizeof(v->regs));
	memset(v->shared, 0, PAGE_SIZE);

	viommu_set32(v, VTD_VER, 0x10);
	viommu_set64(v, VTD_CAP, v->cap);
	viommu_set64(v, VTD_ECAP, v->ecap);
	viommu_set32(v, VTD_FECTL, VTD_CTL_IM);
	viommu_set32(v, VTD_IECTL, VTD_CTL_IM);
	WRITE_ONCE(*(u32 *)viommu_shared(v, VTD_GCMD), VTD_GCMD_NONE);
}
