/* isa.h - what the kernel files and select.c know of each other: one table per
 * instruction set. A file for another processor compiles to nothing, and its table is
 * then not listed.
 *
 * A table's available() lives in select.c, which is compiled for the plainest
 * processor: asking must not need the answer.
 */
#ifndef LINNET_ISA_H
#define LINNET_ISA_H

#include "kernels.h"

#if defined(__x86_64__) || defined(_M_X64)
#define LN_X86_64 1
#else
#define LN_X86_64 0
#endif

#if defined(__aarch64__) || defined(_M_ARM64)
#define LN_AARCH64 1
#else
#define LN_AARCH64 0
#endif

/* For kernels written once and specialised by constant arguments. */
#define LN_ALWAYS_INLINE inline __attribute__((always_inline))

/* Before a loop of a constant few turns whose arrays are meant to live in registers. */
#if defined(__clang__)
#define LN_UNROLL _Pragma("unroll")
#else
#define LN_UNROLL _Pragma("GCC unroll 16")
#endif

/* quantize_q8 on every instruction set: a group whose largest magnitude is below this
 * counts as all zero (not much smaller, 127 over it would be no float), one that is not
 * finite gets a NaN scale. As bits of a float: 2^-110 and infinity. */
#define LN_Q8_SMALLEST_BITS 0x08800000
#define LN_INFINITY_BITS 0x7f800000

extern const ln_kernels ln_scalar_kernels;

#if LN_X86_64
extern const ln_kernels ln_avx2_kernels;
extern const ln_kernels ln_avx512_kernels;
int ln_cpu_runs_avx2(void);   /* AVX2, FMA, F16C, and an operating system that keeps ymm state */
int ln_cpu_runs_avx512(void); /* that, and AVX-512 F, BW, VL, DQ, VNNI with zmm state */
void ln_quantize_q8_avx2(const float *x, int64_t cols, int8_t *q8, float *scale, int32_t *sum);
#endif

#if LN_AARCH64
extern const ln_kernels ln_neon_kernels;
int ln_cpu_runs_neon(void);
#endif

#endif
