// SPDX-License-Identifier: GPL-2.0-only
/*
 * The in-kernel IOMMU of a guest: a dump of its state for people, in the VM's
 * directory of debugfs.  No program is to rely on its form.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/debugfs.h>
#include <linux/kvm_host.h>
#include <linux/seq_file.h>

#include "internal.h"

/* Mappings of a domain that are listed. */
#define VIOMMU_MAX_LISTED	1024

static const struct {
	const char *name;
	unsigned int offset;
	unsigned int len;
} viommu_dumped[] = {
	{ "VER", VTD_VER, 4 }, { "CAP", VTD_CAP, 8 }, { "ECAP", VTD_ECAP, 8 },
	{ "GSTS", VTD_GSTS, 4 }, { "RTADDR", VTD_RTADDR, 8 },
	{ "CCMD", VTD_CCMD, 8 }, { "FSTS", VTD_FSTS, 4 },
	{ "FECTL", VTD_FECTL, 4 }, { "FEDATA", VTD_FEDATA, 4 },
	{ "FEADDR", VTD_FEADDR, 4 }, { "FEUADDR", VTD_FEUADDR, 4 },
	{ "IQH", VTD_IQH, 8 }, { "IQT", VTD_IQT, 8 }, { "IQA", VTD_IQA, 8 },
	{ "ICS", VTD_ICS, 4 }, { "IECTL", VTD_IECTL, 4 },
	{ "IQERCD", VTD_IQERCD, 8 }, { "IVA", VTD_IVA, 8 },
	{ "IOTLB", VTD_IOTLB, 8 },
};

static const char * const viommu_attached_names[] = {
	[VIOMMU_GIVEN_BACK] = "given back to the VMM",
	[VIOMMU_BLOCKED] = "blocked",
	[VIOMMU_TRANSLATED] = "translated",
};

static void viommu_show_worker(struct seq_file *m, struct kvm_viommu *v)
{
	if (!v->client.sidecore)
		seq_puts(m, "none\n");
	else if (kvm_sidecore_cpu(&v->client) < 0)
		seq_puts(m, "a thread of the VM's own\n");
	else
		seq_printf(m, "sidecore of CPU %d\n",
			   kvm_sidecore_cpu(&v->client));
}

static void viommu_show_domain(struct seq_file *m, struct kvm_viommu *v,
			       struct viommu_domain *d)
{
	struct viommu_shadow_leaf *leaf;
	unsigned int n = 0;

	seq_printf(m, "domain %u: width %u tables 0x%llx devices %u%s\n", d->did,
		   d->width, d->tables, d->nr_devices,
		   list_empty(&d->stale) ? "" : " (being synced)");

	v->api->lock(v->shadow);
	for (leaf = v->api->first(d->shadow, 0); leaf;
	     leaf = v->api->next(d->shadow, leaf)) {
		if (n++ == VIOMMU_MAX_LISTED) {
			seq_puts(m, "  ...\n");
			break;
		}
		seq_printf(m, "  0x%012llx -> gfn 0x%llx %s %c%c\n", leaf->iova,
			   leaf->cookie, leaf->order ? "2M" : "4K",
			   leaf->prot & VIOMMU_SHADOW_READ ? 'r' : '-',
			   leaf->prot & VIOMMU_SHADOW_WRITE ? 'w' : '-');
	}
	v->api->unlock(v->shadow);
}

static int viommu_show(struct seq_file *m, void *unused)
{
	struct kvm_viommu *v = m->private;
	struct viommu_device *dev;
	struct viommu_domain *d;
	unsigned long did;
	unsigned int i;

	mutex_lock(&v->lock);
	seq_printf(m, "base 0x%llx mode %s worker ", v->base,
		   v->direct ? "direct" : "trapped");
	viommu_show_worker(m, v);
	seq_printf(m, "root 0x%llx teardown %s mapped %llu of %llu pages\n", v->root,
		   viommu_teardowns[v->teardown], v->nr_mapped, viommu_max_mapped(v));
	for (i = 0; i < ARRAY_SIZE(viommu_dumped); i++)
		seq_printf(m, "%-8s 0x%llx\n", viommu_dumped[i].name,
			   viommu_dumped[i].len == 4 ?
			   vtd_reg32(v, viommu_dumped[i].offset) :
			   vtd_reg64(v, viommu_dumped[i].offset));
	for (i = 0; i < VTD_NR_FRCD; i++)
		seq_printf(m, "FRCD%u    0x%016llx%016llx\n", i,
			   vtd_reg64(v, VTD_FRCD + 16 * i + 8),
			   vtd_reg64(v, VTD_FRCD + 16 * i));
	list_for_each_entry(dev, &v->devices, node) {
		seq_printf(m, "device %02x:%02x.%x: %s", dev->sid >> 8,
			   (dev->sid >> 3) & 0x1f, dev->sid & 7,
			   viommu_attached_names[dev->attached]);
		if (dev->domain)
			seq_printf(m, ", domain %u", dev->domain->did);
		seq_putc(m, '\n');
	}
	xa_for_each(&v->domains, did, d)
		viommu_show_domain(m, v, d);
	mutex_unlock(&v->lock);
	return 0;
}

DEFINE_SHOW_ATTRIBUTE(viommu);

void viommu_create_debugfs(struct kvm_viommu *v)
{
	debugfs_create_file("viommu", 0444, v->kvm->debugfs_dentry, v, &viommu_fops);
}

/* On return nobody reads it. */
void viommu_remove_debugfs(struct kvm_viommu *v)
{
	debugfs_lookup_and_remove("viommu", v->kvm->debugfs_dentry);
}
