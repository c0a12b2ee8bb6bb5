// SPDX-License-Identifier: GPL-2.0-only
/*
 * Write the ACPI table by which a guest finds KVM's emulated VT-d unit, or
 * decode and verify such a table.
 *
 * The layout is that of the VT-d specification, revision 4.1, "BIOS
 * Considerations": "DMA Remapping Reporting Structure", "DMA Remapping Hardware
 * Unit Definition Structure" and "Device Scope Structure".
 *
 * There is one unit, and it lists its devices instead of having INCLUDE_PCI_ALL:
 * a VMM that does not know of the unit emulates devices whose DMA it does not
 * translate, and for a device that is in no scope the guest expects just that.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "viommu.h"

/* The table header: ACPI's common one, and what DMAR adds to it. */
#define HDR_LENGTH		4
#define HDR_REVISION		8
#define HDR_CHECKSUM		9
#define HDR_OEM_ID		10
#define HDR_OEM_TABLE_ID	16
#define HDR_OEM_REVISION	24
#define HDR_CREATOR_ID		28
#define HDR_CREATOR_REVISION	32
#define HDR_HAW			36
#define HDR_FLAGS		37
#define HDR_RESERVED		38
#define HDR_SIZE		48

/* A remapping structure; all begin with a type and a length. */
#define DRHD_TYPE		0
#define DRHD_LENGTH		2
#define DRHD_FLAGS		4
#define DRHD_PAGES		5
#define DRHD_SEGMENT		6
#define DRHD_BASE		8
#define DRHD_SIZE		16

#define STRUCT_DRHD		0

#define SCOPE_TYPE		0
#define SCOPE_LENGTH		1
#define SCOPE_RESERVED		2
#define SCOPE_ENUM_ID		4
#define SCOPE_BUS		5
#define SCOPE_PATH		6

#define SCOPE_ENDPOINT		1

/* QEMU takes no larger table, and the length of a DRHD has 16 bits. */
#define MAX_SIZE		0xffff

/* Bridges on the way to a device, plus one for the device. */
#define MAX_DEPTH		16

enum {
	EXIT_OK		= 0,
	/* The table is invalid, or could not be read or written. */
	EXIT_ERROR	= 1,
	EXIT_USAGE	= 2,
};

static const char usage[] =
"Usage: viommu-dmar [OPTION]... --device=DEVICE... --output=FILE\n"
"       viommu-dmar --dump=FILE\n"
"Write the DMAR table of KVM's emulated VT-d unit, for QEMU's\n"
"-acpitable file=FILE; or verify and decode a table.\n"
"\n"
"  -b, --base=GPA       address of the registers (default: 0xfed90000)\n"
"  -w, --haw=BITS       host address width, 32 to 52 (default: 46)\n"
"  -d, --device=DEVICE  a device behind the unit, as the guest sees it:\n"
"                       [00:]DEV.FN, or DEV.FN/DEV.FN... through bridges,\n"
"                       in hexadecimal; can be repeated\n"
"  -o, --output=FILE    write the table to FILE\n"
"  -D, --dump=FILE      verify FILE and tell what is in it\n"
"  -h, --help           print this\n"
"\n"
"Exit status: 0, 1 if a table is invalid or a file cannot be read or written,\n"
"2 for wrong arguments.\n";

static uint8_t table[MAX_SIZE + 1];

__printf(2, 3)
static int complain(int status, const char *fmt, ...)
{
	va_list ap;

	fputs("viommu-dmar: ", stderr);
	va_start(ap, fmt);
	vfprintf(stderr, fmt, ap);
	va_end(ap);
	fputc('\n', stderr);
	return status;
}

static void put(uint8_t *p, unsigned int bytes, uint64_t val)
{
	for (; bytes--; val >>= 8)
		*p++ = val;
}

static uint64_t get(const uint8_t *p, unsigned int bytes)
{
	uint64_t val = 0;

	while (bytes--)
		val = val << 8 | p[bytes];
	return val;
}

static uint8_t sum(const uint8_t *p, size_t bytes)
{
	uint8_t val = 0;

	while (bytes--)
		val += *p++;
	return val;
}

static bool all_zero(const uint8_t *p, size_t bytes)
{
	while (bytes--) {
		if (*p++)
			return false;
	}
	return true;
}

/*
 * Encode the scope of @arg as an endpoint, at the end of a table of *@size
 * bytes, whose scopes begin at @first.
 */
static int add_scope(const char *arg, size_t first, size_t *size)
{
	unsigned int bus, dev, fn, depth = 0;
	uint8_t *scope = table + *size, *other;
	const char *s = arg, *colon = strchr(arg, ':');

	if (*size + SCOPE_PATH + 2 * MAX_DEPTH > MAX_SIZE)
		return complain(EXIT_USAGE, "too many devices for one table");

	memset(scope, 0, SCOPE_PATH);
	scope[SCOPE_TYPE] = SCOPE_ENDPOINT;
	if (colon) {
		if (!viommu_parse_hex(&s, 0xff, &bus) || s++ != colon)
			goto invalid;
		/* Such a bus is behind a bridge, which the path must name. */
		if (bus)
			return complain(EXIT_USAGE,
					"device %s: the guest gives bus %02x its number; tell the path from bus 0, as in 1c.0/00.0",
					arg, bus);
	}
	for (;;) {
		if (depth == MAX_DEPTH || !viommu_parse_devfn(&s, &dev, &fn))
			goto invalid;
		scope[SCOPE_PATH + 2 * depth] = dev;
		scope[SCOPE_PATH + 2 * depth + 1] = fn;
		depth++;
		if (!*s)
			break;
		if (*s++ != '/')
			goto invalid;
	}
	scope[SCOPE_LENGTH] = SCOPE_PATH + 2 * depth;

	for (other = table + first; other < scope; other += other[SCOPE_LENGTH]) {
		if (other[SCOPE_LENGTH] == scope[SCOPE_LENGTH] &&
		    !memcmp(other, scope, scope[SCOPE_LENGTH]))
			return complain(EXIT_USAGE, "device %s is given twice", arg);
	}
	*size += scope[SCOPE_LENGTH];
	return EXIT_OK;

invalid:
	return complain(EXIT_USAGE,
			"device %s: expected [00:]DEV.FN or DEV.FN/DEV.FN, e.g. 03.0",
			arg);
}

static void finish_table(uint64_t base, unsigned int haw, size_t size)
{
	uint8_t *drhd = table + HDR_SIZE;

	put(drhd + DRHD_TYPE, 2, STRUCT_DRHD);
	put(drhd + DRHD_LENGTH, 2, size - HDR_SIZE);
	/* Flags, number of pages (2^0) and PCI segment are 0. */
	put(drhd + DRHD_BASE, 8, base);

	memcpy(table, "DMAR", 4);
	put(table + HDR_LENGTH, 4, size);
	table[HDR_REVISION] = 1;
	memcpy(table + HDR_OEM_ID, "LINUX ", 6);
	memcpy(table + HDR_OEM_TABLE_ID, "KVMVIOMM", 8);
	put(table + HDR_OEM_REVISION, 4, 1);
	memcpy(table + HDR_CREATOR_ID, "KVM ", 4);
	put(table + HDR_CREATOR_REVISION, 4, 1);
	/* Of the flags, INTR_REMAP is clear: interrupts are not remapped. */
	table[HDR_HAW] = haw - 1;
	table[HDR_CHECKSUM] = -sum(table, size);
}

static int write_table(const char *file, size_t size)
{
	FILE *f = fopen(file, "wb");
	bool failed;

	if (!f)
		return complain(EXIT_ERROR, "%s: %s", file, strerror(errno));
	failed = fwrite(table, size, 1, f) != 1;
	/* Some errors are not told before. */
	failed |= !!fclose(f);
	if (failed)
		return complain(EXIT_ERROR, "%s: %s", file, strerror(errno));
	return EXIT_OK;
}

static int dump_scope(const char *file, const uint8_t *scope)
{
	static const char *const types[] = {
		"", "endpoint", "bridge", "I/O APIC", "HPET", "ACPI device",
	};
	unsigned int type = scope[SCOPE_TYPE], i;

	if (!type || type >= ARRAY_SIZE(types))
		return complain(EXIT_ERROR, "%s: device scope of unknown type %u",
				file, type);
	if (get(scope + SCOPE_RESERVED, 2))
		return complain(EXIT_ERROR,
				"%s: reserved field of a device scope is not 0", file);

	printf("  %s %02x:", types[type], scope[SCOPE_BUS]);
	for (i = SCOPE_PATH; i < scope[SCOPE_LENGTH]; i += 2) {
		if (scope[i] > 0x1f || scope[i + 1] > 7)
			return complain(EXIT_ERROR,
					"%s: device scope with impossible path", file);
		printf("%s%02x.%x", i == SCOPE_PATH ? "" : "/", scope[i],
		       scope[i + 1]);
	}
	if (scope[SCOPE_ENUM_ID])
		printf(", id %u", scope[SCOPE_ENUM_ID]);
	putchar('\n');
	return EXIT_OK;
}

static int dump_drhd(const char *file, const uint8_t *drhd, size_t size)
{
	size_t at, length;
	int ret;

	if (size < DRHD_SIZE)
		return complain(EXIT_ERROR, "%s: DRHD is too short", file);
	if (!get(drhd + DRHD_BASE, 8) ||
	    get(drhd + DRHD_BASE, 8) & (VIOMMU_PAGE_SIZE - 1))
		return complain(EXIT_ERROR, "%s: impossible register base 0x%" PRIx64,
				file, get(drhd + DRHD_BASE, 8));

	printf("DRHD: base 0x%" PRIx64 ", %llu bytes, segment %u, flags 0x%02x\n",
	       get(drhd + DRHD_BASE, 8),
	       VIOMMU_PAGE_SIZE << (drhd[DRHD_PAGES] & 0xf),
	       (unsigned int)get(drhd + DRHD_SEGMENT, 2), drhd[DRHD_FLAGS]);
	for (at = DRHD_SIZE; at < size; at += length) {
		if (size - at < SCOPE_PATH)
			return complain(EXIT_ERROR, "%s: truncated device scope", file);
		length = drhd[at + SCOPE_LENGTH];
		if (length < SCOPE_PATH + 2 || length % 2 || length > size - at)
			return complain(EXIT_ERROR,
					"%s: device scope with impossible length %zu",
					file, length);
		ret = dump_scope(file, drhd + at);
		if (ret)
			return ret;
	}
	return EXIT_OK;
}

static int dump(const char *file)
{
	size_t size, at, length;
	unsigned int type, nr_units = 0;
	FILE *f = fopen(file, "rb");
	bool failed;
	int ret;

	if (!f)
		return complain(EXIT_ERROR, "%s: %s", file, strerror(errno));
	size = fread(table, 1, sizeof(table), f);
	failed = ferror(f);
	fclose(f);
	if (failed)
		return complain(EXIT_ERROR, "%s: cannot be read", file);

	if (size < HDR_SIZE || memcmp(table, "DMAR", 4))
		return complain(EXIT_ERROR, "%s: not a DMAR table", file);
	if (size > MAX_SIZE)
		return complain(EXIT_ERROR, "%s: larger than %u bytes", file, MAX_SIZE);
	if (get(table + HDR_LENGTH, 4) != size)
		return complain(EXIT_ERROR,
				"%s: length is %" PRIu64 ", but the file has %zu bytes",
				file, get(table + HDR_LENGTH, 4), size);
	if (sum(table, size))
		return complain(EXIT_ERROR, "%s: checksum is 0x%02x, must be 0x%02x",
				file, table[HDR_CHECKSUM],
				(uint8_t)(table[HDR_CHECKSUM] - sum(table, size)));
	if (!table[HDR_REVISION])
		return complain(EXIT_ERROR, "%s: unknown revision 0", file);
	if (!all_zero(table + HDR_RESERVED, HDR_SIZE - HDR_RESERVED))
		return complain(EXIT_ERROR, "%s: reserved field of the header is not 0",
				file);
	/* ACPI's addresses have no more. */
	if (table[HDR_HAW] > 63)
		return complain(EXIT_ERROR, "%s: impossible host address width %u",
				file, table[HDR_HAW] + 1);

	printf("DMAR: %zu bytes, revision %u, checksum 0x%02x\n", size,
	       table[HDR_REVISION], table[HDR_CHECKSUM]);
	printf("host address width %u, flags 0x%02x\n", table[HDR_HAW] + 1,
	       table[HDR_FLAGS]);

	for (at = HDR_SIZE; at < size; at += length) {
		if (size - at < 4)
			return complain(EXIT_ERROR, "%s: truncated structure", file);
		type = get(table + at, 2);
		length = get(table + at + DRHD_LENGTH, 2);
		if (length < 4 || length > size - at)
			return complain(EXIT_ERROR,
					"%s: structure with impossible length %zu",
					file, length);
		if (type != STRUCT_DRHD) {
			printf("structure of type %u, %zu bytes\n", type, length);
			continue;
		}
		nr_units++;
		ret = dump_drhd(file, table + at, length);
		if (ret)
			return ret;
	}
	if (!nr_units)
		return complain(EXIT_ERROR, "%s: no remapping unit", file);
	return EXIT_OK;
}

int main(int argc, char **argv)
{
	static const struct option options[] = {
		{ "base",	required_argument,	NULL, 'b' },
		{ "haw",	required_argument,	NULL, 'w' },
		{ "device",	required_argument,	NULL, 'd' },
		{ "output",	required_argument,	NULL, 'o' },
		{ "dump",	required_argument,	NULL, 'D' },
		{ "help",	no_argument,		NULL, 'h' },
		{ }
	};
	const size_t first = HDR_SIZE + DRHD_SIZE;
	const char *output = NULL, *input = NULL;
	uint64_t base = VIOMMU_DEFAULT_BASE, haw = 46;
	size_t size = first;
	bool writes = false;
	int c, ret;

	while ((c = getopt_long(argc, argv, "b:w:d:o:D:h", options, NULL)) != -1) {
		writes |= c != 'D';
		switch (c) {
		case 'b':
			if (!viommu_parse_u64(optarg, &base) || !base ||
			    base & (VIOMMU_PAGE_SIZE - 1))
				return complain(EXIT_USAGE,
						"base %s: expected the address of a page, e.g. 0xfed90000",
						optarg);
			break;
		case 'w':
			if (!viommu_parse_u64(optarg, &haw) || haw < 32 || haw > 52)
				return complain(EXIT_USAGE,
						"haw %s: expected a number of bits, 32 to 52",
						optarg);
			break;
		case 'd':
			ret = add_scope(optarg, first, &size);
			if (ret)
				return ret;
			break;
		case 'o':
			output = optarg;
			break;
		case 'D':
			input = optarg;
			break;
		case 'h':
			fputs(usage, stdout);
			return EXIT_OK;
		default:
			fputs("Try 'viommu-dmar --help'.\n", stderr);
			return EXIT_USAGE;
		}
	}
	if (optind < argc)
		return complain(EXIT_USAGE, "unexpected argument %s", argv[optind]);
	if (input) {
		if (writes)
			return complain(EXIT_USAGE,
					"--dump goes with no other option");
		return dump(input);
	}
	if (size == first)
		return complain(EXIT_USAGE, "no --device is given");
	if (!output)
		return complain(EXIT_USAGE, "no --output is given");
	if (base >> haw)
		return complain(EXIT_USAGE, "base 0x%" PRIx64 " has more bits than haw %u",
				base, (unsigned int)haw);

	finish_table(base, haw, size);
	return write_table(output, size);
}
