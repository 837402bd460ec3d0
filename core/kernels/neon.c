/* neon.c - 128-bit kernels for every ARMv8-A processor. */
#include "isa.h"

#if LN_AARCH64

#include "neon_kernels.h"

/* Steps whose products, one each of a code less its offset and x, an int16 can sum up: 2 of at most 128 * 127,
 * or all of at most 32 * 127. */
static LN_ALWAYS_INLINE int safe_steps(ln_panel_format f) {
    return f.bits == 8 || f.table == LN_TABLE_IQ4 ? 2 : LN_STEPS;
}

/* Rows lie four bytes apart: two of them are the low half of a register, two the high half. */
static LN_ALWAYS_INLINE vec dot(ln_panel_format f, const ivec *codes, int n, const int8_t *x, int32_t bias) {
    (void)bias;
    int32x4_t steps[LN_STEPS / 4]; /* of x: a load that fills a register with one of them would take no offset */
    LN_UNROLL for (int i = 0; i < n / 4; i++) {
        steps[i] = vreinterpretq_s32_s8(vld1q_s8(x + 16 * i));
    }
    int32x4_t low = vdupq_n_s32(0), high = vdupq_n_s32(0);
    const int run = safe_steps(f) < n ? safe_steps(f) : n;
    LN_UNROLL for (int first = 0; first < n; first += run) {
        int16x8_t low_sums = vdupq_n_s16(0), high_sums = vdupq_n_s16(0);
        LN_UNROLL for (int k = first; k < first + run; k++) {
            const int8x16_t w = vreinterpretq_s8_u8(codes[k]);
            const int8x16_t columns = vreinterpretq_s8_s32(vdupq_n_s32(steps[k / 4][k % 4]));
            low_sums = vmlal_s8(low_sums, vget_low_s8(w), vget_low_s8(columns));
            high_sums = vmlal_high_s8(high_sums, w, columns);
        }
        low = vpadalq_s16(low, low_sums);
        high = vpadalq_s16(high, high_sums);
    }
    return vcvtq_f32_s32(vpaddq_s32(low, high));
}

#include "panel_kernels.h"

const ln_kernels ln_neon_kernels = NEON_KERNELS("neon", ln_cpu_runs_neon);

#endif
