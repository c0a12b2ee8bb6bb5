// SPDX-License-Identifier: GPL-2.0-only
/*
 * iommufault - say that a device's DMA was blocked, as a driver of an IOMMU does
 *
 * A test driver for the host.  Write "DOMAIN:BUS:DEV.FN IOVA WRITE" to the module
 * parameter "report", e.g. "0000:00:07.0 0x1000 1": the handler of the domain that
 * the device is attached to is called by report_iommu_fault(), as AMD's driver
 * does.  -ENOSYS: the domain has no handler.
 *
 * No IOMMU that QEMU emulates makes a driver do so: Intel's driver never does, and
 * QEMU's AMD IOMMU does not log accesses to pages that are not mapped.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt

#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>

static int report_set(const char *val, const struct kernel_param *kp)
{
	unsigned int segment, bus, dev, fn, write;
	struct iommu_domain *domain;
	unsigned long long iova;
	struct pci_dev *pdev;
	int ret;

	if (sscanf(val, "%x:%x:%x.%x %llx %u", &segment, &bus, &dev, &fn, &iova,
		   &write) != 6)
		return -EINVAL;

	pdev = pci_get_domain_bus_and_slot(segment, bus, PCI_DEVFN(dev, fn));
	if (!pdev)
		return -ENODEV;

	ret = -EINVAL;
	domain = iommu_get_domain_for_dev(&pdev->dev);
	if (domain)
		ret = report_iommu_fault(domain, &pdev->dev, iova,
					 write ? IOMMU_FAULT_WRITE :
						 IOMMU_FAULT_READ);
	pci_dev_put(pdev);
	return ret;
}

static const struct kernel_param_ops report_ops = {
	.set = report_set,
};

module_param_cb(report, &report_ops, NULL, 0200);
MODULE_PARM_DESC(report, "Report a blocked DMA: DOMAIN:BUS:DEV.FN IOVA WRITE");

MODULE_DESCRIPTION("Report blocked DMA like the driver of an IOMMU");
MODULE_LICENSE("GPL");
