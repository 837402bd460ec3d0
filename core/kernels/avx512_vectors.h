/* avx512_vectors.h - vectors of 512 bits, as float_kernels.h and panel_codes.h want them; for files that are compiled
 * for processors with AVX-512. */
#ifndef LINNET_AVX512_VECTORS_H
#define LINNET_AVX512_VECTORS_H

#include <immintrin.h>
#include <math.h>
#include <string.h>

#include "isa.h"

/* ---- sixteen floats ------------------------------------------------------------ */

typedef __m512 vec;
#define VEC_LANES 16
#define VEC_TILE 4

static inline vec vec_set(float a) {
    return _mm512_set1_ps(a);
}

static inline vec vec_add(vec a, vec b) {
    return _mm512_add_ps(a, b);
}

static inline vec vec_sub(vec a, vec b) {
    return _mm512_sub_ps(a, b);
}

static inline vec vec_mul(vec a, vec b) {
    return _mm512_mul_ps(a, b);
}

static inline vec vec_div(vec a, vec b) {
    return _mm512_div_ps(a, b);
}

static inline vec vec_max(vec a, vec b) {
    return _mm512_max_ps(a, b);
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return _mm512_fmadd_ps(a, b, c);
}

static inline vec vec_abs(vec a) {
    return _mm512_abs_ps(a);
}

static inline vec vec_if_negative(vec a, vec b, vec c) {
    return _mm512_mask_blend_ps(_mm512_movepi32_mask(_mm512_castps_si512(a)), c, b);
}

static inline vec vec_round(vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline vec vec_scale2(vec a, vec n) {
    return _mm512_scalef_ps(a, n);
}

static inline __m256 halves_added(vec a) {
    return _mm256_add_ps(_mm512_castps512_ps256(a), _mm512_extractf32x8_ps(a, 1));
}

static inline float vec_sum(vec a) {
    __m256 eight = halves_added(a);
    __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}

static inline float vec_highest(vec a) {
    return _mm512_reduce_max_ps(a);
}

static inline void vec_sum4(const vec *rows, float *sums) {
    vec a = _mm512_add_ps(_mm512_unpacklo_ps(rows[0], rows[1]), _mm512_unpackhi_ps(rows[0], rows[1]));
    vec b = _mm512_add_ps(_mm512_unpacklo_ps(rows[2], rows[3]), _mm512_unpackhi_ps(rows[2], rows[3]));
    __m256 both = halves_added(_mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee)));
    _mm_storeu_ps(sums, _mm_add_ps(_mm256_castps256_ps128(both), _mm256_extractf128_ps(both, 1)));
}

static inline __mmask16 first_lanes(int64_t n) {
    return (__mmask16)((1u << n) - 1u);
}

static inline vec vec_load_f32(const uint8_t *p) {
    return _mm512_loadu_ps(p);
}

static inline vec vec_load_f32_part(const uint8_t *p, int64_t n) {
    return _mm512_maskz_loadu_ps(first_lanes(n), p);
}

static inline __m256i load_halves_part(const uint8_t *p, int64_t n) {
    return _mm256_maskz_loadu_epi16(first_lanes(n), p);
}

static inline vec vec_load_f16(const uint8_t *p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)p));
}

/* The f16 at p in all lanes. */
static inline vec vec_set_f16(const uint8_t *p) {
    int16_t half;
    memcpy(&half, p, sizeof half);
    return _mm512_cvtph_ps(_mm256_set1_epi16(half));
}

static inline vec vec_load_f16_part(const uint8_t *p, int64_t n) {
    return _mm512_cvtph_ps(load_halves_part(p, n));
}

static inline vec widen_bf16(__m256i halves) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

static inline vec vec_load_bf16(const uint8_t *p) {
    return widen_bf16(_mm256_loadu_si256((const __m256i *)p));
}

static inline vec vec_load_bf16_part(const uint8_t *p, int64_t n) {
    return widen_bf16(load_halves_part(p, n));
}

static inline void vec_store(float *p, vec a) {
    _mm512_storeu_ps(p, a);
}

static inline void vec_store_part(float *p, vec a, int64_t n) {
    _mm512_mask_storeu_ps(p, first_lanes(n), a);
}

static inline __m256i narrow_f16(vec a) {
    return _mm512_cvtps_ph(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

static inline void vec_store_f16(uint16_t *p, vec a) {
    _mm256_storeu_si256((__m256i *)p, narrow_f16(a));
}

static inline void vec_store_f16_part(uint16_t *p, vec a, int64_t n) {
    _mm256_mask_storeu_epi16(p, first_lanes(n), narrow_f16(a));
}

/* ---- sixteen times four bytes --------------------------------------------------------- */

typedef __m512i ivec;

static inline ivec ivec_load(const uint8_t *p) {
    return _mm512_loadu_si512(p);
}

static inline void ivec_store(uint8_t *p, ivec a) {
    _mm512_storeu_si512(p, a);
}

static inline ivec ivec_bytes(uint8_t b) {
    return _mm512_set1_epi8((char)b);
}

static LN_ALWAYS_INLINE ivec ivec_shift(ivec a, int n) {
    return n > 0 ? _mm512_slli_epi32(a, (unsigned)n) : n < 0 ? _mm512_srli_epi32(a, (unsigned)-n) : a;
}

static inline ivec ivec_and(ivec a, ivec b) {
    return _mm512_and_si512(a, b);
}

static inline ivec ivec_merge(ivec a, ivec b, ivec mask) {
    return _mm512_ternarylogic_epi32(a, b, mask, 0xf8); /* a | (b & mask) */
}

static inline ivec ivec_lookup(const uint8_t *table, ivec a) {
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(_mm_loadu_si128((const __m128i *)table)), a);
}

static inline ivec ivec_triple(ivec a) {
    return _mm512_add_epi8(a, _mm512_add_epi8(a, a));
}

static inline ivec ivec_digit(ivec a) {
    const __m512i one = _mm512_set1_epi8(1);
    __m512i low = _mm512_maskz_mov_epi8(_mm512_cmpge_epu8_mask(a, _mm512_set1_epi8(86)), one);
    return _mm512_mask_add_epi8(low, _mm512_cmpge_epu8_mask(a, _mm512_set1_epi8((char)171)), low, one);
}

static inline vec vec_load_u8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

static inline vec vec_load_i8(const uint8_t *p) {
    return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p)));
}

#endif
