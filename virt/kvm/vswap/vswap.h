/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_VSWAP_H
#define __KVM_VSWAP_H

#include <linux/jump_label.h>
#include <linux/mm.h>
#include <linux/types.h>

#ifdef CONFIG_KVM_VSWAP

/* One for each mount. */
DECLARE_STATIC_KEY_FALSE(kvm_vswap_key);

/* When kvm.ko is loaded, and when it goes; nothing is mounted then. */
void kvm_vswap_init(void);
void kvm_vswap_exit(void);

/*
 * For an architecture's fault handler, about memory of the current process that
 * is memory of a guest.
 */
bool kvm_vswap_is_ram(unsigned long hva);
bool kvm_vswap_map_cached(unsigned long hva, bool write, bool end_alias);
bool kvm_vswap_has_ended(unsigned long hva);
bool kvm_vswap_want(unsigned long hva, bool write);
int kvm_vswap_write(unsigned long hva, const void *data, unsigned int len);
bool kvm_vswap_read(unsigned long hva, void *data, unsigned int len);

unsigned int __kvm_vswap_async_pf_flags(struct mm_struct *mm,
					unsigned long hva);

/*
 * How to get a page for an asynchronous page fault of a guest, with the mm locked.
 * KVM asks for one to write to, whatever the guest wants.
 */
static inline unsigned int kvm_vswap_async_pf_flags(struct mm_struct *mm,
						    unsigned long hva)
{
	if (static_branch_unlikely(&kvm_vswap_key))
		return __kvm_vswap_async_pf_flags(mm, hva);
	return FOLL_WRITE;
}

#else

static inline unsigned int kvm_vswap_async_pf_flags(struct mm_struct *mm,
						    unsigned long hva)
{
	return FOLL_WRITE;
}

static inline void kvm_vswap_init(void)
{
}

static inline void kvm_vswap_exit(void)
{
}

#endif /* CONFIG_KVM_VSWAP */

#endif /* __KVM_VSWAP_H */
