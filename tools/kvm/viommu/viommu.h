/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * What the tools of KVM's emulated VT-d unit have in common.
 */
#ifndef TOOLS_KVM_VIOMMU_H
#define TOOLS_KVM_VIOMMU_H

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#define __printf(a, b)		__attribute__((format(printf, a, b)))
#define ARRAY_SIZE(x)		(sizeof(x) / sizeof((x)[0]))

/* Where QEMU has the registers of its own VT-d unit, so nothing else is there. */
#define VIOMMU_DEFAULT_BASE	0xfed90000ULL
#define VIOMMU_PAGE_SIZE	0x1000ULL

/* One to four hexadecimal digits, without a sign or prefix; moves *@s on. */
static inline bool viommu_parse_hex(const char **s, unsigned int max,
				    unsigned int *val)
{
	unsigned int nr = 0;

	for (*val = 0; nr < 4; nr++, (*s)++) {
		char c = **s;

		if (c >= '0' && c <= '9')
			*val = *val << 4 | (c - '0');
		else if (c >= 'a' && c <= 'f')
			*val = *val << 4 | (c - 'a' + 10);
		else if (c >= 'A' && c <= 'F')
			*val = *val << 4 | (c - 'A' + 10);
		else
			break;
	}
	return nr && *val <= max;
}

/* A PCI device and function, DEV.FN, in hexadecimal as lspci prints them. */
static inline bool viommu_parse_devfn(const char **s, unsigned int *dev,
				      unsigned int *fn)
{
	if (!viommu_parse_hex(s, 0x1f, dev) || *(*s)++ != '.')
		return false;
	return viommu_parse_hex(s, 7, fn);
}

/* An unsigned number and nothing else: decimal, or hexadecimal after 0x. */
static inline bool viommu_parse_u64(const char *s, uint64_t *val)
{
	char *end;
	int base = 10;

	if (s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		s += 2;
		base = 16;
	}
	/* strtoull() would take space, a sign and another prefix. */
	if (!*s || *s == '+' || *s == '-' || *s == ' ' || s[1] == 'x' || s[1] == 'X')
		return false;
	errno = 0;
	*val = strtoull(s, &end, base);
	return !errno && !*end;
}

#endif /* TOOLS_KVM_VIOMMU_H */
