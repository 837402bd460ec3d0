/* neon.c - 128-bit kernels for every ARMv8-A processor. Where the compiler may assume the
 * dot product extension (Apple silicon), block types use it. */
#include "isa.h"

#if LN_AARCH64

#include <arm_neon.h>
#include <math.h>
#include <string.h>

#include "../linnet.h"

/* ---- four floats ---------------------------------------------------------------- */

typedef float32x4_t vec;
#define VEC_LANES 4
#define VEC_TILE 4

static inline vec vec_set(float a) {
    return vdupq_n_f32(a);
}

static inline vec vec_add(vec a, vec b) {
    return vaddq_f32(a, b);
}

static inline vec vec_sub(vec a, vec b) {
    return vsubq_f32(a, b);
}

static inline vec vec_mul(vec a, vec b) {
    return vmulq_f32(a, b);
}

static inline vec vec_div(vec a, vec b) {
    return vdivq_f32(a, b);
}

static inline vec vec_max(vec a, vec b) {
    return vmaxq_f32(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return vfmaq_f32(c, a, b);
}

static inline vec vec_abs(vec a) {
    return vabsq_f32(a);
}

static inline vec vec_if_negative(vec a, vec b, vec c) {
    return vbslq_f32(vcltzq_s32(vreinterpretq_s32_f32(a)), b, c);
}

static inline vec vec_round(vec a) {
    return vrndnq_f32(a);
}

/* 2^n for n of -126 to 127, built from its bits. */
static inline vec power_of_2(int32x4_t n) {
    return vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(n, vdupq_n_s32(127)), 23));
}

/* In two factors, so that the second may round into the subnormal range. */
static inline vec vec_scale2(vec a, vec n) {
    int32x4_t whole = vcvtnq_s32_f32(n);
    int32x4_t half = vshrq_n_s32(whole, 1);
    return vmulq_f32(vmulq_f32(a, power_of_2(half)), power_of_2(vsubq_s32(whole, half)));
}

static inline float vec_sum(vec a) {
    return vaddvq_f32(a);
}

static inline float vec_highest(vec a) {
    return vmaxvq_f32(a);
}

static inline void vec_sum4(const vec *rows, float *sums) {
    vst1q_f32(sums, vpaddq_f32(vpaddq_f32(rows[0], rows[1]), vpaddq_f32(rows[2], rows[3])));
}

/* Loads through bytes: a weight may lie at any address. */
static inline vec vec_load_f32(const uint8_t *p) {
    return vreinterpretq_f32_u8(vld1q_u8(p));
}

static inline vec vec_load_f32_part(const uint8_t *p, int64_t n) {
    uint8_t bytes[16] = {0};
    memcpy(bytes, p, (size_t)n * sizeof(float));
    return vec_load_f32(bytes);
}

static inline vec vec_load_f16(const uint8_t *p) {
    return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(p)));
}

static inline vec vec_load_f16_part(const uint8_t *p, int64_t n) {
    uint8_t bytes[8] = {0};
    memcpy(bytes, p, (size_t)n * sizeof(uint16_t));
    return vec_load_f16(bytes);
}

static inline vec vec_load_bf16(const uint8_t *p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(p)), 16));
}

static inline vec vec_load_bf16_part(const uint8_t *p, int64_t n) {
    uint8_t bytes[8] = {0};
    memcpy(bytes, p, (size_t)n * sizeof(uint16_t));
    return vec_load_bf16(bytes);
}

static inline void vec_store(float *p, vec a) {
    vst1q_f32(p, a);
}

static inline void vec_store_part(float *p, vec a, int64_t n) {
    float lanes[VEC_LANES];
    vst1q_f32(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof(float));
}

static inline void vec_store_f16(uint16_t *p, vec a) {
    vst1_u16(p, vreinterpret_u16_f16(vcvt_f16_f32(a)));
}

static inline void vec_store_f16_part(uint16_t *p, vec a, int64_t n) {
    uint16_t lanes[VEC_LANES];
    vec_store_f16(lanes, a);
    memcpy(p, lanes, (size_t)n * sizeof(uint16_t));
}

#include "float_kernels.h"

/* ---- block types ----------------------------------------------------------------- *
 *
 * Each lane holds one of four rows, as scalar.c defines the result. */

#define SCALE_BYTES 2

typedef struct block_format {
    size_t bytes; /* of a block */
    int8x16x2_t (*unpack)(const uint8_t *quants);
} block_format;

static inline int8x16x2_t unpack_q8_0(const uint8_t *quants) {
    int8x16x2_t weights = {{vreinterpretq_s8_u8(vld1q_u8(quants)), vreinterpretq_s8_u8(vld1q_u8(quants + 16))}};
    return weights;
}

static inline int8x16x2_t unpack_q4_0(const uint8_t *quants) {
    uint8x16_t pairs = vld1q_u8(quants);
    int8x16_t low = vreinterpretq_s8_u8(vandq_u8(pairs, vdupq_n_u8(15)));
    int8x16_t high = vreinterpretq_s8_u8(vshrq_n_u8(pairs, 4));
    int8x16x2_t weights = {{vsubq_s8(low, vdupq_n_s8(8)), vsubq_s8(high, vdupq_n_s8(8))}};
    return weights;
}

#if defined(__ARM_FEATURE_DOTPROD)

/* Four sums that add up to the dot product of 32. */
static inline int32x4_t dot_32(int8x16x2_t w, int8x16x2_t x) {
    return vdotq_s32(vdotq_s32(vdupq_n_s32(0), w.val[0], x.val[0]), w.val[1], x.val[1]);
}

#else

/* Two products of at most 128 * 127 fit an int16. */
static inline int16x8_t dot_16(int8x16_t w, int8x16_t x) {
    return vmlal_high_s8(vmull_s8(vget_low_s8(w), vget_low_s8(x)), w, x);
}

/* Four sums that add up to the dot product of 32. */
static inline int32x4_t dot_32(int8x16x2_t w, int8x16x2_t x) {
    return vpadalq_s16(vpaddlq_s16(dot_16(w.val[0], x.val[0])), dot_16(w.val[1], x.val[1]));
}

#endif

static inline vec load_scales(const uint8_t *const rows[ROWS], size_t at) {
    uint8_t halves[ROWS * SCALE_BYTES];
    for (int r = 0; r < ROWS; r++) {
        memcpy(halves + SCALE_BYTES * r, rows[r] + at, SCALE_BYTES);
    }
    return vec_load_f16(halves);
}

static LN_ALWAYS_INLINE void matmul_blocks(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                           const ln_vectors *x, float *y, int64_t y_stride, block_format format) {
    int64_t n_blocks = w->cols / LN_Q8_GROUP;
    for (int64_t row = row_begin; row < row_end; row += ROWS) {
        const uint8_t *rows[ROWS];
        int64_t n_rows = tile_rows(w, row, row_end, 0, rows);
        for (int32_t v = 0; v < x->n; v++) {
            vec sums = vec_set(0.0f);
            for (int64_t b = 0; b < n_blocks; b++) {
                int64_t group = v * n_blocks + b;
                const int8_t *q8 = x->q8 + group * LN_Q8_GROUP;
                int8x16x2_t activations = {{vld1q_s8(q8), vld1q_s8(q8 + 16)}};
                size_t at = (size_t)b * format.bytes;
                int32x4_t dots[ROWS];
                for (int r = 0; r < ROWS; r++) {
                    dots[r] = dot_32(format.unpack(rows[r] + at + SCALE_BYTES), activations);
                }
                int32x4_t totals = vpaddq_s32(vpaddq_s32(dots[0], dots[1]), vpaddq_s32(dots[2], dots[3]));
                vec scales = vec_mul(load_scales(rows, at), vec_set(x->scale[group]));
                vec products = vec_mul(scales, vcvtq_f32_s32(totals));
                sums = vec_add(sums, products);
            }
            float lanes[ROWS];
            vec_store(lanes, sums);
            memcpy(y + v * y_stride + row, lanes, (size_t)n_rows * sizeof(float));
        }
    }
}

static void matmul_q8_0(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                        const ln_vectors *x, float *y, int64_t y_stride) {
    block_format format = {34, unpack_q8_0};
    matmul_blocks(w, row_begin, row_end, x, y, y_stride, format);
}

static void matmul_q4_0(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                        const ln_vectors *x, float *y, int64_t y_stride) {
    block_format format = {18, unpack_q4_0};
    matmul_blocks(w, row_begin, row_end, x, y, y_stride, format);
}

/* ---- activations ------------------------------------------------------------------ */

static void quantize_q8(const float *x, int64_t cols, int8_t *q8, float *scale, int32_t *sum) {
    for (int64_t group = 0; group < cols / LN_Q8_GROUP; group++, x += LN_Q8_GROUP, q8 += LN_Q8_GROUP) {
        uint32x4_t largest_bits = vdupq_n_u32(0);
        for (int i = 0; i < LN_Q8_GROUP; i += VEC_LANES) {
            largest_bits = vmaxq_u32(largest_bits, vreinterpretq_u32_f32(vec_abs(vld1q_f32(x + i))));
        }
        uint32_t bits = vmaxvq_u32(largest_bits);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (bits < LN_Q8_SMALLEST_BITS || bits >= LN_INFINITY_BITS) {
            memset(q8, 0, LN_Q8_GROUP);
            scale[group] = bits < LN_Q8_SMALLEST_BITS ? 0.0f : largest - largest;
            sum[group] = 0;
            continue;
        }
        vec inverse = vec_set(127.0f / largest);
        int32x4_t total = vdupq_n_s32(0);
        for (int i = 0; i < LN_Q8_GROUP; i += 2 * VEC_LANES) {
            int32x4_t a = vcvtnq_s32_f32(vec_mul(vld1q_f32(x + i), inverse)); /* to nearest, halves to even */
            int32x4_t b = vcvtnq_s32_f32(vec_mul(vld1q_f32(x + i + VEC_LANES), inverse));
            vst1_s8(q8 + i, vmovn_s16(vcombine_s16(vmovn_s32(a), vmovn_s32(b))));
            total = vaddq_s32(total, vaddq_s32(a, b));
        }
        scale[group] = largest / 127.0f;
        sum[group] = vaddvq_s32(total);
    }
}

const ln_kernels ln_neon_kernels = {
    .name = "neon",
    .available = ln_cpu_runs_neon,
    .matmul =
        {
            [LN_TYPE_F32] = matmul_f32,
            [LN_TYPE_F16] = matmul_f16,
            [LN_TYPE_BF16] = matmul_bf16,
            [LN_TYPE_Q8_0] = matmul_q8_0,
            [LN_TYPE_Q4_0] = matmul_q4_0,
        },
    .quantize_q8 = quantize_q8,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .add = add,
    .f32_to_f16 = f32_to_f16,
    .attention_f32 = attention_f32,
    .attention_f16 = attention_f16,
};

#endif
