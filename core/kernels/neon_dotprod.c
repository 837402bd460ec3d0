/* neon_dotprod.c - what neon.c does, with the dot product instructions of ARMv8.2 and later. */
#include "isa.h"

#if LN_AARCH64

#include "neon_kernels.h"

static LN_ALWAYS_INLINE vec dot(ln_panel_format f, const ivec *codes, int n, const int8_t *x, int32_t bias) {
    (void)f;
    (void)bias;
    int32x4_t sum = vdupq_n_s32(0);
    LN_UNROLL for (int k = 0; k < n; k += 4, x += 16) {
        const int8x16_t columns = vld1q_s8(x);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes[k]), columns, 0);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes[k + 1]), columns, 1);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes[k + 2]), columns, 2);
        sum = vdotq_laneq_s32(sum, vreinterpretq_s8_u8(codes[k + 3]), columns, 3);
    }
    return vcvtq_f32_s32(sum);
}

#include "panel_kernels.h"

const ln_kernels ln_neon_dotprod_kernels = NEON_KERNELS("dotprod", ln_cpu_runs_dotprod);

#endif
