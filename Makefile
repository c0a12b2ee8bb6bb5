# SPDX-License-Identifier: GPL-2.0-only
#
# alleviate: three KVM extensions as drop-in modules, their tests, and the
# upstream patch series.  "make help" lists the targets.

SHELL := /bin/bash
MAKEFLAGS += --no-print-directory

# Quiet by default, everything with V=1.
V ?= 0
Q := $(if $(filter 1,$(V)),,@)
export V

BUILD ?= $(CURDIR)/build
FEATURES ?= eli viommu vswap
KERNEL_SERIES ?= 6.12
DESTDIR ?=
PREFIX ?= /usr/local
JOBS ?= $(shell nproc)
export BUILD FEATURES KERNEL_SERIES DESTDIR PREFIX

# The kernel to build for.  By default the distribution's own, downloaded and
# unpacked below $(BUILD) and not installed.  KERNELRELEASE=$$(uname -r), or
# KDIR=/path, builds for an installed kernel; its source is then taken from
# the linux-source package of the same version, or from KSRC=/path.
ifneq ($(KERNELRELEASE),)
KDIR ?= /lib/modules/$(KERNELRELEASE)/build
endif
export KDIR KSRC

.PHONY: all
all: modules

.PHONY: help
help:
	$(Q)scripts/help.sh

.PHONY: modules
modules:
	$(Q)scripts/build-modules.sh "$(FEATURES)"

### The rig: tests, demonstration, benchmarks

# T=GROUP or T=GROUP/NAME picks tests; "tests/run -l" lists them.
T ?=
# B=NAME picks benchmarks, C="NAME..." configurations of those of swapping.
B ?=
C ?=

.PHONY: setup
setup:
	$(Q)scripts/setup.sh install

.PHONY: kernel
kernel: setup
	$(Q)scripts/fetch-kernel.sh >/dev/null

# Everything that the rig runs, in the order in which it is needed.
.PHONY: rig
rig:
	$(Q)scripts/setup.sh install tests
	$(Q)scripts/fetch-kernel.sh >/dev/null

# The kernel's own KVM selftests with the features' changes to them; what the
# stock regression (T=kvm/stock) runs is built with FEATURES=none.
.PHONY: selftests
selftests: kernel
	$(Q)scripts/build-selftests.sh "$(FEATURES)"

# No test begins that would not end in so many minutes from now, see tests/run.
MINUTES ?= 80
CHECK_START := $(shell date +%s)

.PHONY: check
check: rig
	$(Q)tests/run -m $$(($(MINUTES) - ($$(date +%s) - $(CHECK_START)) / 60)) $(T)

# QEMU with patches/qemu/, and a guest whose intel-iommu is KVM's unit.
.PHONY: qemu
qemu: setup
	$(Q)scripts/build-qemu.sh

.PHONY: check-qemu
check-qemu: rig qemu
	$(Q)tests/viommu/guest.py qemu

.PHONY: demo
demo: rig
	$(Q)bench/demo.py

.PHONY: bench
bench: rig
	$(Q)C="$(C)" bench/run $(B)

# What "make bench" left in $(BUILD)/results as a page with plots.
.PHONY: report
report: setup
	$(Q)bench/report.py

# The debug flavour (KASAN, lockdep, kmemleak): the tests that run in L1.
.PHONY: debug-kernel
debug-kernel: kernel
	$(Q)scripts/debug-kernel.sh >/dev/null

.PHONY: check-debug
check-debug: rig debug-kernel
	$(Q)FLAVOUR=debug tests/run $(or $(T),l2/boot l2/igb)

# What setup added to this machine, and taking it back.
.PHONY: system-changes
system-changes:
	$(Q)scripts/setup.sh list

.PHONY: distclean-system
distclean-system:
	$(Q)scripts/setup.sh undo

# Modules and test output; "distclean" drops the downloaded kernel, too.
.PHONY: clean
clean:
	$(Q)rm -rf $(BUILD)/tree $(BUILD)/modules $(BUILD)/rig $(BUILD)/logs \
		$(BUILD)/results $(BUILD)/run $(BUILD)/vmx $(BUILD)/selftests $(BUILD)/series \
		$(BUILD)/tools $(BUILD)/*.deb

.PHONY: distclean
distclean:
	$(Q)rm -rf $(BUILD)

### Installation and packaging

# Into $(DESTDIR)/lib/modules/$(KERNELRELEASE)/updates; default: the running
# kernel.  What is installed is what "make modules" built.
.PHONY: install
install:
	$(Q)KERNELRELEASE="$(KERNELRELEASE)" scripts/install-modules.sh install "$(FEATURES)"

.PHONY: uninstall
uninstall:
	$(Q)KERNELRELEASE="$(KERNELRELEASE)" scripts/install-modules.sh uninstall

# The DKMS package, $(BUILD)/alleviate-dkms_VERSION_all.deb, and that of the tools,
# alleviate-tools_VERSION_ARCH.deb
.PHONY: deb
deb:
	$(Q)scripts/make-deb.sh "$(FEATURES)"
	$(Q)scripts/make-tools-deb.sh "$(FEATURES)"

# The tools alone, into $(DESTDIR)$(PREFIX)
.PHONY: install-tools
install-tools:
	$(Q). scripts/common.sh; for f in $$(canonical_features "$(FEATURES)"); do \
		$(MAKE) -C tools/kvm/$$f O="$(BUILD)/tools/$$f" install; done

### Upstream series

# What gets mailed, build/series/FEATURE/*.patch; SERIES_PREFIX="RFC PATCH".
.PHONY: series
series:
	$(Q)scripts/series.sh make "$(FEATURES)"

# Each patch of it applies, builds and is checkpatch.pl --strict clean.
.PHONY: series-check
series-check:
	$(Q)scripts/series.sh check "$(FEATURES)"
