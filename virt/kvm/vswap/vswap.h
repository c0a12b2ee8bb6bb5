/* SPDX-License-Identifier: GPL-2.0-only */
#ifndef __KVM_VSWAP_H
#define __KVM_VSWAP_H

#include <linux/types.h>

struct kvm_vcpu;

#ifdef CONFIG_KVM_VSWAP

/* When kvm.ko is loaded, and when it goes; nothing is mounted then. */
void kvm_vswap_init(void);
void kvm_vswap_exit(void);

#else

static inline void kvm_vswap_init(void)
{
}

static inline void kvm_vswap_exit(void)
{
}

#endif /* CONFIG_KVM_VSWAP */

#endif /* __KVM_VSWAP_H */
