# SPDX-License-Identifier: GPL-2.0-only
#
# What the makefiles of KVM's tools share.  "make O=DIR" puts what is built into DIR,
# "make check" runs selftest*.sh.
#
# To be included after the names are set of manual pages (MAN1, MAN8) and of all else that
# is built into $(OUTPUT) (BUILT).  A makefile adds prerequisites to "all", and the rule of
# "install-tools".

ifeq ($(origin CC),default)
CC := $(CROSS_COMPILE)gcc
endif
# Either makes manual pages.
ASCIIDOCTOR ?= asciidoctor
A2X ?= a2x

DESTDIR ?=
PREFIX ?= /usr/local
bindir ?= $(PREFIX)/bin
sbindir ?= $(PREFIX)/sbin
libdir ?= $(PREFIX)/lib
man1dir ?= $(PREFIX)/share/man/man1
man8dir ?= $(PREFIX)/share/man/man8
# Where scripts look for kvm_vms.py, as ../share/kvm-tools.
sharedir ?= $(PREFIX)/share/kvm-tools

# As in the kernel's build, a relative O is relative to where make was started.
ifneq ($(O),)
O_DIR := $(shell cd "$(PWD)" && realpath -m "$(O)")
ifneq ($(O_DIR),$(realpath $(CURDIR)))
OUTPUT := $(O_DIR)/
endif
endif

V ?= 0
Q := $(if $(filter 1,$(V)),,@)
# Nothing is told with "make -s".
silent := $(findstring s,$(firstword -$(MAKEFLAGS)))
quiet = $(if $(filter 1,$(V)),,@$(if $(silent),,printf '  %-8s%s\n' $(1) $(notdir $@);))

# After the system's headers, as those of the tree are not for user space as
# they are; the system has none of these.
UAPI := ../../../include/uapi

CFLAGS ?= -O2 -g
override CFLAGS += -std=gnu11 -Wall -Wextra
override CPPFLAGS += -D_GNU_SOURCE -idirafter $(UAPI)

.PHONY: all
all:

ifneq ($(OUTPUT),)
$(OUTPUT):
	$(Q)mkdir -p $@
endif

has = $(shell command -v $(1))
to_man := $(strip $(if $(call has,$(ASCIIDOCTOR)),$(ASCIIDOCTOR) --backend manpage,\
	  $(if $(call has,$(A2X)),$(A2X) --doctype manpage --format manpage)))

$(OUTPUT)%.1 $(OUTPUT)%.8: %.txt | $(OUTPUT)
	$(if $(to_man),,$(error "You need to install asciidoctor or asciidoc for man pages"))
	$(call quiet,MAN)$(to_man) --destination-dir $(or $(OUTPUT),.) $<

.PHONY: man
man: $(addprefix $(OUTPUT),$(MAN1) $(MAN8))

.PHONY: install
install: install-tools $(if $(to_man),install-man)

.PHONY: install-man
install-man: man
ifneq ($(MAN1),)
	$(Q)install -d -m 755 $(DESTDIR)$(man1dir)
	$(Q)install -m 644 -p $(addprefix $(OUTPUT),$(MAN1)) $(DESTDIR)$(man1dir)
endif
ifneq ($(MAN8),)
	$(Q)install -d -m 755 $(DESTDIR)$(man8dir)
	$(Q)install -m 644 -p $(addprefix $(OUTPUT),$(MAN8)) $(DESTDIR)$(man8dir)
endif

.PHONY: check
check:
	$(Q)for test in ./selftest*.sh; do $$test || exit; done

.PHONY: clean
clean:
	$(Q)rm -f $(addprefix $(OUTPUT),$(BUILT) $(MAN1) $(MAN8))
