#!/bin/bash
# SPDX-License-Identifier: GPL-2.0-only
cat <<'TEXT'
alleviate: exitless interrupts, sidecore vIOMMU and VSwapper for KVM

  make demo             see it work: everything from nothing, and a table
  make check            run all tests (T=GROUP or T=GROUP/NAME for some)
  make bench            measure (B=NAME for one); results in build/results
  make report           all results as a page with plots, build/results/report.html
  make                  build the drop-in modules into build/modules/
  make install          install them for the running kernel; make uninstall
  make install-tools    install eli-stat, viommu-run and vswap (DESTDIR, PREFIX)
  make deb              build the DKMS package alleviate-dkms, and alleviate-tools
  make series           write the upstream series to build/series/
  make series-check     prove that it applies, builds at each step and is clean
  make selftests        build the kernel's own KVM selftests
  make check-qemu       build QEMU with patches/qemu, and run a guest in it
  make debug-kernel     build the KASAN and lockdep kernel (half an hour)
  make check-debug      the tests in L1 on a KASAN and lockdep kernel
  make setup            install missing tools (root); make system-changes lists
                        what it added and make distclean-system takes it back
  make clean            remove what was built; make distclean also downloads

Variables
  FEATURES="eli viommu vswap"   what is built in; "none" for stock modules
  KERNELRELEASE=, KDIR=, KSRC=  build for another kernel (headers, source)
  DESTDIR=, BUILD=, JOBS=, V=1
TEXT
