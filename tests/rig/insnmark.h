/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Marks around a piece of code whose instructions are to be counted: NOPs of
 * seven bytes (nopl disp32(%rax)) with displacements that nobody else uses.  An
 * emulator with the plugin insncount.c counts what is executed between the two on
 * one CPU; for everybody else they are NOPs.
 */
#ifndef INSNMARK_H
#define INSNMARK_H

#define INSNMARK_BEGIN	0x0f, 0x1f, 0x80, 0x01, 0x6d, 0x6b, 0x1e
#define INSNMARK_END	0x0f, 0x1f, 0x80, 0x02, 0x6d, 0x6b, 0x1e

#define __insnmark(...)	__asm__ __volatile__(".byte " #__VA_ARGS__ ::: "memory")
#define _insnmark(...)	__insnmark(__VA_ARGS__)
#define insnmark_begin() _insnmark(INSNMARK_BEGIN)
#define insnmark_end()	_insnmark(INSNMARK_END)

#endif
