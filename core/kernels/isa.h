/* isa.h - what the kernel files and select.c know of each other: one table per
 * instruction set. A file for another processor compiles to nothing, and its table is
 * then not listed.
 *
 * A table's available() lives in select.c, which is compiled for the plainest
 * processor: asking must not need the answer.
 */
#ifndef LINNET_ISA_H
#define LINNET_ISA_H

#include <math.h>

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

/* A sanitizer checks every access: kernels specialised and unrolled for it would take a compiler minutes. */
#if defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define LN_SANITIZED 1
#endif
#elif defined(__SANITIZE_ADDRESS__)
#define LN_SANITIZED 1
#endif

#if defined(LN_SANITIZED)
#define LN_ALWAYS_INLINE inline
#define LN_UNROLL
#else

/* For kernels written once and specialised by constant arguments. */
#define LN_ALWAYS_INLINE inline __attribute__((always_inline))

/* Before a loop of a constant few turns whose arrays are meant to live in registers. */
#if defined(__clang__)
#define LN_UNROLL _Pragma("unroll")
#else
#define LN_UNROLL _Pragma("GCC unroll 16")
#endif

#endif

/* quantize_q8 on every instruction set: a group whose largest magnitude is below this
 * counts as all zero (not much smaller, 127 over it would be no float), one that is not
 * finite gets a NaN scale. As bits of a float: 2^-110 and infinity. */
#define LN_Q8_SMALLEST_BITS 0x08800000
#define LN_INFINITY_BITS 0x7f800000

/* The fields of a block whose q is written, given its scale and the sums of both halves of q. */
static inline void ln_q8_finish(ln_q8_block *block, float scale, int32_t low, int32_t high) {
    block->scale = scale;
    block->bias = -128 * (low + high);
    block->half_bias[0] = -128 * low;
    block->half_bias[1] = -128 * high;
    block->sum = scale * (float)(low + high);
    block->half_sum[0] = scale * (float)low;
    block->half_sum[1] = scale * (float)high;
    block->unused = 0;
}

/* A block of a group whose largest magnitude has these bits, if it is too small or not finite. */
static inline int ln_q8_degenerate(ln_q8_block *block, uint32_t largest_bits) {
    if (largest_bits >= LN_Q8_SMALLEST_BITS && largest_bits < LN_INFINITY_BITS) {
        return 0;
    }
    *block = (ln_q8_block){.scale = 0.0f};
    if (largest_bits >= LN_INFINITY_BITS) {
        block->scale = block->sum = block->half_sum[0] = block->half_sum[1] = NAN;
    }
    return 1;
}

extern const ln_kernels ln_scalar_kernels;

#if LN_X86_64
extern const ln_kernels ln_avx2_kernels;
extern const ln_kernels ln_avx512_kernels;
extern const ln_kernels ln_amx_kernels;
int ln_cpu_runs_avx2(void);   /* AVX2, FMA, F16C, and an operating system that keeps ymm state */
int ln_cpu_runs_avx512(void); /* that, and AVX-512 F, BW, VL, DQ, VNNI with zmm state */
int ln_cpu_runs_amx(void);    /* that, and int8 tiles with tile state, which this call asks the system for */
void ln_quantize_q8_avx2(const float *x, int64_t cols, ln_q8_block *out, int64_t stride);
#endif

#if LN_AARCH64
extern const ln_kernels ln_neon_kernels;
extern const ln_kernels ln_neon_dotprod_kernels;
int ln_cpu_runs_neon(void);
int ln_cpu_runs_dotprod(void); /* NEON and the dot product extension, ARMv8.2 and later */
#endif

#endif
