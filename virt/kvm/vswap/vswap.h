/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_VSWAP_H
#define __KVM_VSWAP_H

#include <linux/jump_label.h>
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
bool kvm_vswap_want(unsigned long hva, bool write);
int kvm_vswap_write(unsigned long hva, const void *data, unsigned int len);
bool kvm_vswap_read(unsigned long hva, void *data, unsigned int len);

#else

static inline void kvm_vswap_init(void)
{
}

static inline void kvm_vswap_exit(void)
{
}

#endif /* CONFIG_KVM_VSWAP */

#endif /* __KVM_VSWAP_H */
