/* avx2.c - 256-bit kernels for x86-64 with AVX2, FMA and F16C. */
#include "isa.h"

#if LN_X86_64

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "../linnet.h"

/* ---- eight floats ------------------------------------------------------------- */

typedef __m256 vec;
#define VEC_LANES 8
#define VEC_TILE 3

static inline vec vec_set(float a) {
    return _mm256_set1_ps(a);
}

static inline vec vec_add(vec a, vec b) {
    return _mm256_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b) {
    return _mm256_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b) {
    return _mm256_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b) {
    return _mm256_div_ps(a, b);
}

static inline vec vec_max(vec a, vec b) {
    return _mm256_max_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm256_fmadd_ps(a, b, c);
}

static inline vec vec_abs(vec a) {
    return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), a);
}

static inline vec vec_if_negative(vec a, vec b, vec c) {
    return _mm256_blendv_ps(c, b, a);
}

static inline vec vec_round(vec a) {
    return _mm256_round_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* 2^n for n of -126 to 127, built from its bits. */
static inline vec power_of_2(__m256i n) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_add_epi32(n, _mm256_set1_epi32(127)), 23));
}

/* In two factors, so that the second may round into the subnormal range. */
static inline vec vec_scale2(vec a, vec n) {
    __m256i whole = _mm256_cvtps_epi32(n);
    __m256i half = _mm256_srai_epi32(whole, 1);
    return _mm256_mul_ps(_mm256_mul_ps(a, power_of_2(half)), power_of_2(_mm256_sub_epi32(whole, half)));
}

static inline float vec_sum(vec a) {
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float vec_highest(vec a) {
    __m128 four = _mm_max_ps(_mm256_castps256_ps128(a), _mm256_extractf128_ps(a, 1));
    __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

static inline void vec_sum4(const vec *rows, float *sums) {
    vec a = _mm256_add_ps(_mm256_unpacklo_ps(rows[0], rows[1]), _mm256_unpackhi_ps(rows[0], rows[1]));
    vec b = _mm256_add_ps(_mm256_unpacklo_ps(rows[2], rows[3]), _mm256_unpackhi_ps(rows[2], rows[3]));
    vec both = _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
}

/* All ones in the first n lanes. */
static inline __m256i first_lanes(int64_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32((int)n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

static inline vec vec_load_f32(const uint8_t *p) {
    return _mm256_loadu_ps((const float *)p);
}

static inline vec vec_load_f32_part(const uint8_t *p, int64_t n) {
    return _mm256_maskload_ps((const float *)p, first_lanes(n));
}

static inline __m128i load_halves_part(const uint8_t *p, int64_t n) {
    uint16_t halves[VEC_LANES] = {0};
    memcpy(halves, p, (size_t)n * sizeof(uint16_t));
    return _mm_loadu_si128((const __m128i *)halves);
}

static inline vec vec_load_f16(const uint8_t *p) {
    return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)p));
}

/* The f16 at p in all lanes. */
static inline vec vec_set_f16(const uint8_t *p) {
    int16_t half;
    memcpy(&half, p, sizeof half);
    return _mm256_cvtph_ps(_mm_set1_epi16(half));
}

static inline vec vec_load_f16_part(const uint8_t *p, int64_t n) {
    return _mm256_cvtph_ps(load_halves_part(p, n));
}

static inline vec widen_bf16(__m128i halves) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(halves), 16));
}

static inline vec vec_load_bf16(const uint8_t *p) {
    return widen_bf16(_mm_loadu_si128((const __m128i *)p));
}

static inline vec vec_load_bf16_part(const uint8_t *p, int64_t n) {
    return widen_bf16(load_halves_part(p, n));
}

static inline void vec_store(float *p, vec a) {
    _mm256_storeu_ps(p, a);
}

static inline void vec_store_part(float *p, vec a, int64_t n) {
    _mm256_maskstore_ps(p, first_lanes(n), a);
}

static inline void vec_store_f16(uint16_t *p, vec a) {
    _mm_storeu_si128((__m128i *)p, _mm256_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}

static inline void vec_store_f16_part(uint16_t *p, vec a, int64_t n) {
    uint16_t halves[VEC_LANES];
    vec_store_f16(halves, a);
    memcpy(p, halves, (size_t)n * sizeof(uint16_t));
}

#include "float_kernels.h"

/* ---- eight times four bytes ----------------------------------------------------------- */

typedef __m256i ivec;
#define CODES_FILL_BYTES 0

static inline ivec ivec_load(const uint8_t *p) {
    return _mm256_loadu_si256((const __m256i *)p);
}

static inline void ivec_store(uint8_t *p, ivec a) {
    _mm256_storeu_si256((__m256i *)p, a);
}

static inline ivec ivec_bytes(uint8_t b) {
    return _mm256_set1_epi8((char)b);
}

static LN_ALWAYS_INLINE ivec ivec_shift(ivec a, int n) {
    return n > 0 ? _mm256_slli_epi32(a, n) : n < 0 ? _mm256_srli_epi32(a, -n) : a;
}

static inline ivec ivec_and(ivec a, ivec b) {
    return _mm256_and_si256(a, b);
}

static inline ivec ivec_merge(ivec a, ivec b, ivec mask) {
    return _mm256_or_si256(a, _mm256_and_si256(b, mask));
}

static inline ivec ivec_lookup(const uint8_t *table, ivec a) {
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)table)), a);
}

static inline ivec ivec_triple(ivec a) {
    return _mm256_add_epi8(a, _mm256_add_epi8(a, a));
}

/* 1 where a >= 86 plus 1 where a >= 171; a comparison that holds is -1. */
static inline ivec ivec_digit(ivec a) {
    __m256i low = _mm256_cmpeq_epi8(_mm256_max_epu8(a, _mm256_set1_epi8(86)), a);
    __m256i high = _mm256_cmpeq_epi8(_mm256_max_epu8(a, _mm256_set1_epi8((char)171)), a);
    return _mm256_sub_epi8(_mm256_setzero_si256(), _mm256_add_epi8(low, high));
}

static inline vec vec_load_u8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline vec vec_load_i8(const uint8_t *p) {
    return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p)));
}

static inline __m256i wide_columns(const int8_t *x) {
    int32_t columns;
    memcpy(&columns, x, sizeof columns);
    return _mm256_set1_epi32(columns);
}

#include "panel_formats.h"

/* Codes that need all eight bits are multiplied as signed numbers. */
static LN_ALWAYS_INLINE int is_signed(ln_panel_format f) {
    return f.bits == 8 || f.table != LN_TABLE_NONE;
}

static LN_ALWAYS_INLINE ivec code_operand(ln_panel_format f, ivec codes) {
    return is_signed(f) ? _mm256_xor_si256(codes, _mm256_set1_epi8(-128)) : codes;
}

/* |w| * (x with w's sign), in pairs: at most 2 * 128 * 127, which an int16 holds. */
static inline __m256i dot_signed(__m256i w, __m256i x) {
    __m256i products = _mm256_maddubs_epi16(_mm256_abs_epi8(w), _mm256_sign_epi8(x, w));
    return _mm256_madd_epi16(products, _mm256_set1_epi16(1));
}

/* Steps whose products, pairs of (code * x), an int16 can sum up. */
static LN_ALWAYS_INLINE int safe_steps(ln_panel_format f) {
    return f.bits <= 4 ? 8 : f.bits == 5 ? 4 : 2;
}

static LN_ALWAYS_INLINE __m256i wide_bias(ln_panel_format f, int32_t bias) {
    return _mm256_set1_epi32(bias >> (8 - f.bits)); /* exact: offset is 1 << (bits - 1) */
}

static LN_ALWAYS_INLINE vec dot_wide(ln_panel_format f, const ivec *codes, int n, const ivec *x, const ivec *bias) {
    __m256i sum = _mm256_setzero_si256();
    if (is_signed(f)) {
        LN_UNROLL for (int k = 0; k < n; k++) {
            sum = _mm256_add_epi32(sum, dot_signed(codes[k], x[k]));
        }
        return _mm256_cvtepi32_ps(sum);
    }
    const int run = safe_steps(f) < n ? safe_steps(f) : n;
    LN_UNROLL for (int first = 0; first < n; first += run) {
        __m256i pairs = _mm256_maddubs_epi16(codes[first], x[first]);
        LN_UNROLL for (int k = first + 1; k < first + run; k++) {
            pairs = _mm256_add_epi16(pairs, _mm256_maddubs_epi16(codes[k], x[k]));
        }
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    return _mm256_cvtepi32_ps(f.offset != 0 ? _mm256_add_epi32(sum, *bias) : sum);
}

static LN_ALWAYS_INLINE vec dot(ln_panel_format f, const ivec *codes, int n, const int8_t *x, int32_t bias) {
    ivec columns[LN_STEPS];
    LN_UNROLL for (int k = 0; k < n; k++) {
        columns[k] = wide_columns(x + 4 * k);
    }
    const ivec wide = wide_bias(f, bias);
    return dot_wide(f, codes, n, columns, &wide);
}

static LN_ALWAYS_INLINE int takes_wide(ln_panel_format f) {
    return !is_signed(f) && f.bits != LN_TRITS;
}
#define HAS_WIDE_KERNELS

#include "panel_kernels.h"

#include "attention_kernels.h"

/* ---- activations ------------------------------------------------------------------ */

static inline int32_t add_lanes(__m256i a) {
    __m128i four = _mm_add_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    __m128i two = _mm_add_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 1)));
}

static inline int32_t largest_lane(__m256i a) {
    __m128i four = _mm_max_epi32(_mm256_castsi256_si128(a), _mm256_extracti128_si256(a, 1));
    __m128i two = _mm_max_epi32(four, _mm_unpackhi_epi64(four, four));
    return _mm_cvtsi128_si32(_mm_max_epi32(two, _mm_shuffle_epi32(two, 1)));
}

/* Four of eight int32 to 32 int8 in order; packing works on halves of 128 bits. */
static inline __m256i narrow(const __m256i q[4]) {
    __m256i bytes = _mm256_packs_epi16(_mm256_packs_epi32(q[0], q[1]), _mm256_packs_epi32(q[2], q[3]));
    return _mm256_permutevar8x32_epi32(bytes, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
}

void ln_quantize_q8_avx2(const float *x, int64_t cols, ln_q8_block *out, int64_t stride) {
    for (int64_t c = 0; c < cols; c += LN_Q8_GROUP, x += LN_Q8_GROUP, out += stride) {
        vec values[4];
        __m256i largest_bits = _mm256_setzero_si256();
        for (int i = 0; i < 4; i++) {
            values[i] = load_floats(x + VEC_LANES * i);
            largest_bits = _mm256_max_epi32(largest_bits, _mm256_castps_si256(vec_abs(values[i])));
        }
        int32_t bits = largest_lane(largest_bits);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (ln_q8_degenerate(out, (uint32_t)bits)) {
            continue;
        }
        vec inverse = vec_set(127.0f / largest);
        __m256i q[4];
        for (int i = 0; i < 4; i++) {
            q[i] = _mm256_cvtps_epi32(vec_mul(values[i], inverse)); /* to nearest, halves to even */
        }
        _mm256_storeu_si256((__m256i *)out->q, narrow(q));
        ln_q8_finish(out, largest / 127.0f, add_lanes(_mm256_add_epi32(q[0], q[1])),
                     add_lanes(_mm256_add_epi32(q[2], q[3])));
    }
}

const ln_kernels ln_avx2_kernels = {
    .name = "avx2",
    .available = ln_cpu_runs_avx2,
    .matmul =
        {
            [LN_TYPE_F32] = matmul_f32,
            [LN_TYPE_F16] = matmul_f16,
            [LN_TYPE_BF16] = matmul_bf16,
            PANEL_MATMULS
        },
    .quantize_q8 = ln_quantize_q8_avx2,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .activate = ACTIVATIONS,
    .soft_cap = soft_cap,
    .add = add,
    .f32_to_f16 = f32_to_f16,
    .attend = attend,
    .merge = merge,
};

#endif
