/* neon_kernels.h - 128-bit kernels for ARMv8-A: all but dot, the products of the block types, which neon.c and
 * neon_dotprod.c each write with the instructions their processors have. Such a file includes this, defines
 * code_operand and dot, includes panel_kernels.h, and fills its table with NEON_KERNELS.
 */
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

/* The f16 at p in all lanes. */
static inline vec vec_set_f16(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return vcvt_f32_f16(vreinterpret_f16_u16(vdup_n_u16(half)));
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

/* ---- four times four bytes ------------------------------------------------------------ */

typedef uint8x16_t ivec;
#define CODES_FILL_BYTES 0

static inline ivec ivec_load(const uint8_t *p) {
    return vld1q_u8(p);
}

static inline void ivec_store(uint8_t *p, ivec a) {
    vst1q_u8(p, a);
}

static inline ivec ivec_bytes(uint8_t b) {
    return vdupq_n_u8(b);
}

/* Byte by byte: no field crosses a byte, and where the shift leaves only the field its mask costs nothing. Written
 * with operators because the intrinsics want a literal. */
static LN_ALWAYS_INLINE ivec ivec_shift(ivec a, int n) {
    return n > 0 ? a << (uint8_t)n : n < 0 ? a >> (uint8_t)-n : a;
}

static inline ivec ivec_and(ivec a, ivec b) {
    return vandq_u8(a, b);
}

/* One instruction for a | (b & mask): a never has bits of the mask. */
static inline ivec ivec_merge(ivec a, ivec b, ivec mask) {
    return vbslq_u8(mask, b, a);
}

static inline ivec ivec_lookup(const uint8_t *table, ivec a) {
    return vqtbl1q_u8(vld1q_u8(table), a);
}

static inline ivec ivec_triple(ivec a) {
    return vaddq_u8(a, vaddq_u8(a, a));
}

/* 1 where a >= 86 plus 1 where a >= 171; a comparison that holds is -1. */
static inline ivec ivec_digit(ivec a) {
    ivec low = vcgeq_u8(a, vdupq_n_u8(86));
    ivec high = vcgeq_u8(a, vdupq_n_u8(171));
    return vsubq_u8(vdupq_n_u8(0), vaddq_u8(low, high));
}

static inline uint8x8_t load_four(const uint8_t *p) {
    uint32_t bytes;
    memcpy(&bytes, p, sizeof bytes);
    return vcreate_u8(bytes);
}

static inline vec vec_load_u8(const uint8_t *p) {
    return vcvtq_f32_u32(vmovl_u16(vget_low_u16(vmovl_u8(load_four(p)))));
}

static inline vec vec_load_i8(const uint8_t *p) {
    return vcvtq_f32_s32(vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u8(load_four(p))))));
}

#include "attention_kernels.h"

#include "panel_formats.h"

/* Both files multiply signed bytes. Taking the offset off costs once for all vectors of a tile. */
static LN_ALWAYS_INLINE ivec code_operand(ln_panel_format f, ivec codes) {
    return f.offset != 0 ? vsubq_u8(codes, vdupq_n_u8((uint8_t)f.offset)) : codes;
}

/* ---- activations ------------------------------------------------------------------ */

static void quantize_q8(const float *x, int64_t cols, ln_q8_block *out, int64_t stride) {
    for (int64_t c = 0; c < cols; c += LN_Q8_GROUP, x += LN_Q8_GROUP, out += stride) {
        uint32x4_t largest_bits = vdupq_n_u32(0);
        for (int i = 0; i < LN_Q8_GROUP; i += VEC_LANES) {
            largest_bits = vmaxq_u32(largest_bits, vreinterpretq_u32_f32(vec_abs(vld1q_f32(x + i))));
        }
        uint32_t bits = vmaxvq_u32(largest_bits);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (ln_q8_degenerate(out, bits)) {
            continue;
        }
        vec inverse = vec_set(127.0f / largest);
        int32_t sums[2];
        for (int h = 0; h < 2; h++) {
            int16x8_t total = vdupq_n_s16(0);
            for (int i = h * LN_Q8_GROUP / 2; i < (h + 1) * LN_Q8_GROUP / 2; i += 2 * VEC_LANES) {
                int32x4_t a = vcvtnq_s32_f32(vec_mul(vld1q_f32(x + i), inverse)); /* to nearest, halves to even */
                int32x4_t b = vcvtnq_s32_f32(vec_mul(vld1q_f32(x + i + VEC_LANES), inverse));
                int16x8_t both = vcombine_s16(vmovn_s32(a), vmovn_s32(b));
                vst1_s8(out->q + i, vmovn_s16(both));
                total = vaddq_s16(total, both);
            }
            sums[h] = vaddlvq_s16(total);
        }
        ln_q8_finish(out, largest / 127.0f, sums[0], sums[1]);
    }
}

/* ---- the table ------------------------------------------------------------------- */

#define NEON_KERNELS(table_name, runs)          \
    {                                           \
        .name = table_name,                     \
        .available = runs,                      \
        .matmul =                               \
            {                                   \
                [LN_TYPE_F32] = matmul_f32,     \
                [LN_TYPE_F16] = matmul_f16,     \
                [LN_TYPE_BF16] = matmul_bf16,   \
                PANEL_MATMULS                   \
            },                                  \
        .quantize_q8 = quantize_q8,             \
        .rms_norm = rms_norm,                   \
        .layer_norm = layer_norm,               \
        .activate = ACTIVATIONS,                \
        .soft_cap = soft_cap,                   \
        .add = add,                             \
        .f32_to_f16 = f32_to_f16,               \
        .attend = attend,                       \
        .merge = merge,                         \
    }
