// SPDX-License-Identifier: GPL-2.0-only
/*
 * dmaprobe - map and unmap pages for DMA one at a time, and say what it took
 *
 * A test driver for a guest (or L1 itself): it binds, by driver_override, to
 * any PCI device and uses the streaming DMA API on its behalf.  The device is
 * not touched.  In the device's sysfs directory:
 *
 *	map	write N (1 to MAX_PAGES): map N more pages, one call a page
 *	unmap	write anything: unmap all, one call a page
 *	pairs	write N: N times map one page and unmap it
 *	result	read "CALLS NANOSECONDS CYCLES" of the last of these
 *	readonly read "ADDRESS INTACT": where a page is mapped that the device may
 *		read and not write, and whether nobody has written it
 *
 * An N outside of the range, or mappings that are still there when pairs is
 * written, are refused with -EINVAL and -EBUSY.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/dma-mapping.h>
#include <linux/ktime.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/timex.h>
#include <linux/vmalloc.h>

#include "insnmark.h"

#define MAX_PAGES	8192
#define MAX_PAIRS	10000000

struct dmaprobe {
	/* Protects what follows; a write runs to its end. */
	struct mutex lock;
	unsigned int nr_mapped;
	unsigned int calls;
	u64 ns;
	u64 cycles;
	struct page *pages[MAX_PAGES];
	dma_addr_t addrs[MAX_PAGES];

	/* Mapped on first use. */
	struct page *readonly;
	dma_addr_t readonly_addr;
};

#define DMAPROBE_PATTERN 0x5a

static void dmaprobe_begin(struct dmaprobe *p)
{
	lockdep_assert_held(&p->lock);

	p->calls = 0;
	p->ns = ktime_get_ns();
	p->cycles = get_cycles();
	insnmark_begin();
}

static void dmaprobe_end(struct dmaprobe *p)
{
	lockdep_assert_held(&p->lock);

	insnmark_end();
	p->cycles = get_cycles() - p->cycles;
	p->ns = ktime_get_ns() - p->ns;
}

static ssize_t map_store(struct device *dev, struct device_attribute *attr,
			 const char *buf, size_t len)
{
	struct dmaprobe *p = dev_get_drvdata(dev);
	unsigned int n;
	int r;

	r = kstrtouint(buf, 0, &n);
	if (r)
		return r;

	guard(mutex)(&p->lock);
	if (!n || n > MAX_PAGES - p->nr_mapped)
		return -EINVAL;

	dmaprobe_begin(p);
	for (; n; n--) {
		dma_addr_t addr = dma_map_page(dev, p->pages[p->nr_mapped], 0,
					       PAGE_SIZE, DMA_BIDIRECTIONAL);

		if (dma_mapping_error(dev, addr)) {
			len = -ENOSPC;
			break;
		}
		p->addrs[p->nr_mapped++] = addr;
		p->calls++;
	}
	dmaprobe_end(p);
	return len;
}
static DEVICE_ATTR_WO(map);

static void dmaprobe_unmap_all(struct device *dev, struct dmaprobe *p)
{
	while (p->nr_mapped) {
		dma_unmap_page(dev, p->addrs[--p->nr_mapped], PAGE_SIZE,
			       DMA_BIDIRECTIONAL);
		p->calls++;
	}
}

static ssize_t unmap_store(struct device *dev, struct device_attribute *attr,
			   const char *buf, size_t len)
{
	struct dmaprobe *p = dev_get_drvdata(dev);

	guard(mutex)(&p->lock);
	dmaprobe_begin(p);
	dmaprobe_unmap_all(dev, p);
	dmaprobe_end(p);
	return len;
}
static DEVICE_ATTR_WO(unmap);

static ssize_t pairs_store(struct device *dev, struct device_attribute *attr,
			   const char *buf, size_t len)
{
	struct dmaprobe *p = dev_get_drvdata(dev);
	unsigned int n;
	int r;

	r = kstrtouint(buf, 0, &n);
	if (r)
		return r;
	if (!n || n > MAX_PAIRS)
		return -EINVAL;

	guard(mutex)(&p->lock);
	if (p->nr_mapped)
		return -EBUSY;

	dmaprobe_begin(p);
	for (; n; n--) {
		dma_addr_t addr = dma_map_page(dev, p->pages[0], 0, PAGE_SIZE,
					       DMA_BIDIRECTIONAL);

		if (dma_mapping_error(dev, addr)) {
			len = -ENOSPC;
			break;
		}
		dma_unmap_page(dev, addr, PAGE_SIZE, DMA_BIDIRECTIONAL);
		p->calls++;
	}
	dmaprobe_end(p);
	return len;
}
static DEVICE_ATTR_WO(pairs);

static ssize_t result_show(struct device *dev, struct device_attribute *attr,
			   char *buf)
{
	struct dmaprobe *p = dev_get_drvdata(dev);

	guard(mutex)(&p->lock);
	return sysfs_emit(buf, "%u %llu %llu\n", p->calls, p->ns, p->cycles);
}
static DEVICE_ATTR_RO(result);

static ssize_t readonly_show(struct device *dev, struct device_attribute *attr,
			     char *buf)
{
	struct dmaprobe *p = dev_get_drvdata(dev);

	guard(mutex)(&p->lock);
	if (!p->readonly) {
		struct page *page = alloc_page(GFP_KERNEL);
		dma_addr_t addr;

		if (!page)
			return -ENOMEM;
		memset(page_address(page), DMAPROBE_PATTERN, PAGE_SIZE);
		addr = dma_map_page(dev, page, 0, PAGE_SIZE, DMA_TO_DEVICE);
		if (dma_mapping_error(dev, addr)) {
			__free_page(page);
			return -ENOSPC;
		}
		p->readonly = page;
		p->readonly_addr = addr;
	}
	return sysfs_emit(buf, "%#llx %d\n", (u64)p->readonly_addr,
			  !memchr_inv(page_address(p->readonly),
				      DMAPROBE_PATTERN, PAGE_SIZE));
}
static DEVICE_ATTR_RO(readonly);

static struct attribute *dmaprobe_attrs[] = {
	&dev_attr_map.attr,
	&dev_attr_unmap.attr,
	&dev_attr_pairs.attr,
	&dev_attr_result.attr,
	&dev_attr_readonly.attr,
	NULL
};
ATTRIBUTE_GROUPS(dmaprobe);

static void dmaprobe_free(struct dmaprobe *p)
{
	unsigned int i;

	for (i = 0; i < MAX_PAGES && p->pages[i]; i++)
		__free_page(p->pages[i]);
	vfree(p);
}

static int dmaprobe_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct dmaprobe *p;
	unsigned int i;
	int r;

	p = vzalloc(sizeof(*p));
	if (!p)
		return -ENOMEM;
	mutex_init(&p->lock);
	for (i = 0; i < MAX_PAGES; i++) {
		p->pages[i] = alloc_page(GFP_KERNEL | __GFP_NOWARN);
		if (!p->pages[i]) {
			r = -ENOMEM;
			goto free;
		}
	}
	r = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (r)
		goto free;
	pci_set_drvdata(pdev, p);
	return 0;

free:
	dmaprobe_free(p);
	return r;
}

static void dmaprobe_remove(struct pci_dev *pdev)
{
	struct dmaprobe *p = pci_get_drvdata(pdev);

	dmaprobe_unmap_all(&pdev->dev, p);
	if (p->readonly) {
		dma_unmap_page(&pdev->dev, p->readonly_addr, PAGE_SIZE,
			       DMA_TO_DEVICE);
		__free_page(p->readonly);
	}
	dmaprobe_free(p);
}

static struct pci_driver dmaprobe_driver = {
	.name		= KBUILD_MODNAME,
	/* No table: binds by driver_override alone. */
	.probe		= dmaprobe_probe,
	.remove		= dmaprobe_remove,
	.dev_groups	= dmaprobe_groups,
};
module_pci_driver(dmaprobe_driver);

MODULE_DESCRIPTION("Map and unmap pages for DMA one at a time");
MODULE_LICENSE("GPL");
