/* quants.c - how each tensor type lies in memory, described once: packing for the
 * quantizer, unpacking for embedding rows and for checks. Here are the plain types, the
 * blocks of 32 and the table of all; quants_k.c has the blocks of 256. The formats are those
 * of the GGUF specification. All values are little-endian.
 *
 *   q8_0    f16 d, 32 int8:                        value = d * q
 *   q4_0    f16 d, q in 4 bits:                    value = d * (q - 8)
 *   q5_0    f16 d, bit 4 of q, bits 0-3:           value = d * (q - 16)
 *   q4_1    f16 d, f16 m, q in 4 bits:             value = d * q + m
 *   q5_1    f16 d, f16 m, bit 4 of q, bits 0-3:    value = d * q + m
 *   iq4_nl  f16 d, q in 4 bits:                    value = d * ln_iq4_levels[q]
 *   mxfp4   exponent byte e, q in 4 bits:          value = 2^(e - 128) * mxfp4_levels[q]
 *
 * The 4-bit fields fill 16 bytes: byte j holds element j in its low half and element j + 16
 * in its high half. The fifth bits fill 4 bytes in the order of the elements.
 *
 * Where ggml's reference quantizer follows a fixed recipe, packing gives its bytes, so a file
 * made here equals one made there: all but iq4_nl and the blocks of 256 that have scales.
 */
#include <float.h>
#include <math.h>
#include <string.h>

#include "core.h"
#include "kernels/kernels.h"
#include "quants.h"

#define D_BYTES 2
#define NIBBLES (LN_BLOCK / 2)
#define FIFTH_BITS (LN_BLOCK / 8)
#define Q4_0_BYTES (D_BYTES + NIBBLES)
#define Q4_1_BYTES (2 * D_BYTES + NIBBLES)
#define Q5_0_BYTES (D_BYTES + FIFTH_BITS + NIBBLES)
#define Q5_1_BYTES (2 * D_BYTES + FIFTH_BITS + NIBBLES)
#define Q8_0_BYTES (D_BYTES + LN_BLOCK)
#define IQ4_NL_BYTES (D_BYTES + NIBBLES)
#define MXFP4_BYTES (1 + NIBBLES)

static uint32_t bits_of(float f) {
    uint32_t bits;
    memcpy(&bits, &f, sizeof bits);
    return bits;
}

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* ---- 16-bit floats --------------------------------------------------------- */

float ln_f16_to_f32(uint16_t h) {
    uint32_t sign = (uint32_t)(h & 0x8000) << 16;
    uint32_t magnitude = (uint32_t)(h & 0x7fff) << 13;
    if (magnitude >= 0x0f800000u) { /* infinity or NaN: the exponent becomes all ones */
        return float_of(sign | magnitude | 0x7f800000u);
    }
    /* The exponent bias differs by 112; multiplying also normalises subnormals, exactly. */
    return float_of(sign | bits_of(float_of(magnitude) * 0x1p112f));
}

uint16_t ln_f32_to_f16(float f) {
    uint32_t bits = bits_of(f);
    uint16_t sign = (uint16_t)((bits >> 16) & 0x8000);
    uint32_t magnitude = bits & 0x7fffffffu;
    if (magnitude > 0x7f800000u) { /* NaN: quiet, with the top of its payload */
        return (uint16_t)(sign | 0x7e00 | ((magnitude >> 13) & 0x1ff));
    }
    if (magnitude >= 0x47800000u) { /* 2^16 and up */
        return (uint16_t)(sign | 0x7c00);
    }
    if (magnitude < 0x38800000u) { /* below 2^-14: adding 0.5 aligns the last f16 subnormal bit with the last f32 bit */
        uint32_t aligned = bits_of(float_of(magnitude) + 0.5f) - bits_of(0.5f);
        return (uint16_t)(sign | aligned);
    }
    /* Round to nearest even; a carry moves into the exponent, and past 65504 into infinity. */
    uint32_t odd = (magnitude >> 13) & 1;
    uint32_t rounded = (magnitude + 0x0fffu + odd) >> 13;
    return (uint16_t)(sign | (rounded - (112u << 10)));
}

static uint16_t f32_to_bf16(float f) {
    uint32_t bits = bits_of(f);
    if ((bits & 0x7fffffffu) > 0x7f800000u) {
        return (uint16_t)((bits >> 16) | 0x40); /* quiet, so that truncation cannot make a NaN an infinity */
    }
    return (uint16_t)((bits + 0x7fffu + ((bits >> 16) & 1)) >> 16);
}

/* ---- plain types ----------------------------------------------------------- */

static void pack_f32(const float *source, int64_t n, void *target) {
    memcpy(target, source, (size_t)n * sizeof(float));
}

static void unpack_f32(const void *source, int64_t n, float *target) {
    memcpy(target, source, (size_t)n * sizeof(float));
}

static void pack_f16(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i++) {
        ln_store_u16(out + 2 * i, ln_f32_to_f16(source[i]));
    }
}

static void unpack_f16(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i++) {
        target[i] = ln_f16_to_f32(ln_load_u16(in + 2 * i));
    }
}

static void pack_bf16(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i++) {
        ln_store_u16(out + 2 * i, f32_to_bf16(source[i]));
    }
}

static void unpack_bf16(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i++) {
        target[i] = float_of((uint32_t)ln_load_u16(in + 2 * i) << 16);
    }
}

/* ---- block types ----------------------------------------------------------- */

static void pack_q8_0(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += Q8_0_BYTES) {
        float largest = 0.0f;
        for (int j = 0; j < LN_BLOCK; j++) {
            largest = fmaxf(largest, fabsf(source[i + j]));
        }
        float scale = largest / 127.0f;
        float inverse = ln_reciprocal(scale);
        ln_store_u16(out, ln_f32_to_f16(scale));
        for (int j = 0; j < LN_BLOCK; j++) {
            int8_t q = (int8_t)roundf(source[i + j] * inverse); /* halves away from zero, as the reference */
            memcpy(out + D_BYTES + j, &q, 1);
        }
    }
}

static void unpack_q8_0(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_BLOCK, in += Q8_0_BYTES) {
        float scale = ln_f16_to_f32(ln_load_u16(in));
        for (int j = 0; j < LN_BLOCK; j++) {
            int8_t q;
            memcpy(&q, in + D_BYTES + j, 1);
            target[i + j] = scale * (float)q;
        }
    }
}

/* q of one block: 4 bits each, and where bits is 5 the fifth bits before them. */
static void put_q(const uint8_t *q, int bits, uint8_t *out) {
    if (bits == 5) {
        ln_write_fields(q, LN_BLOCK, 1, 1, 4, out);
        out += FIFTH_BITS;
    }
    ln_write_fields(q, LN_BLOCK, NIBBLES, 4, 0, out);
}

static void get_q(const uint8_t *in, int bits, uint8_t *q) {
    memset(q, 0, LN_BLOCK);
    if (bits == 5) {
        ln_read_fields(in, LN_BLOCK, 1, 1, 4, q);
        in += FIFTH_BITS;
    }
    ln_read_fields(in, LN_BLOCK, NIBBLES, 4, 0, q);
}

/* x * inverse + shift cut to an integer of 0 .. highest. The product is rounded before the sum,
 * never fused, as in the reference's portable form. */
static uint8_t cut(float x, float inverse, float shift, int highest) {
    float quotient = x * inverse;
    float shifted = quotient + shift;
    if (shifted >= (float)highest) {
        return (uint8_t)highest;
    }
    return shifted > 0.0f ? (uint8_t)shifted : 0;
}

/* value = d * (q - 2^(bits - 1)) */
static void pack_centred(const float *source, int64_t n, int bits, int block_bytes, uint8_t *out) {
    const int half = 1 << (bits - 1);
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += block_bytes) {
        float largest = 0.0f; /* with its sign: it becomes -half, the end of the range that +half lacks */
        for (int j = 0; j < LN_BLOCK; j++) {
            if (fabsf(source[i + j]) > fabsf(largest)) {
                largest = source[i + j];
            }
        }
        uint8_t q[LN_BLOCK];
        float d = largest / (float)-half;
        float inverse = ln_reciprocal(d);
        ln_store_u16(out, ln_f32_to_f16(d));
        for (int j = 0; j < LN_BLOCK; j++) {
            q[j] = cut(source[i + j], inverse, (float)half + 0.5f, 2 * half - 1);
        }
        put_q(q, bits, out + D_BYTES);
    }
}

static void unpack_centred(const uint8_t *in, int64_t n, int bits, int block_bytes, float *target) {
    const int half = 1 << (bits - 1);
    for (int64_t i = 0; i < n; i += LN_BLOCK, in += block_bytes) {
        uint8_t q[LN_BLOCK];
        get_q(in + D_BYTES, bits, q);
        float d = ln_f16_to_f32(ln_load_u16(in));
        for (int j = 0; j < LN_BLOCK; j++) {
            target[i + j] = d * (float)(q[j] - half);
        }
    }
}

/* value = d * q + m */
static void pack_ranged(const float *source, int64_t n, int bits, int block_bytes, uint8_t *out) {
    const int highest = (1 << bits) - 1;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += block_bytes) {
        float low = source[i], high = source[i];
        for (int j = 1; j < LN_BLOCK; j++) {
            low = source[i + j] < low ? source[i + j] : low;
            high = source[i + j] > high ? source[i + j] : high;
        }
        uint8_t q[LN_BLOCK];
        float d = (high - low) / (float)highest;
        float inverse = ln_reciprocal(d);
        ln_store_u16(out, ln_f32_to_f16(d));
        ln_store_u16(out + D_BYTES, ln_f32_to_f16(low));
        for (int j = 0; j < LN_BLOCK; j++) {
            q[j] = cut(source[i + j] - low, inverse, 0.5f, highest);
        }
        put_q(q, bits, out + 2 * D_BYTES);
    }
}

static void unpack_ranged(const uint8_t *in, int64_t n, int bits, int block_bytes, float *target) {
    for (int64_t i = 0; i < n; i += LN_BLOCK, in += block_bytes) {
        uint8_t q[LN_BLOCK];
        get_q(in + 2 * D_BYTES, bits, q);
        float d = ln_f16_to_f32(ln_load_u16(in)), m = ln_f16_to_f32(ln_load_u16(in + D_BYTES));
        for (int j = 0; j < LN_BLOCK; j++) {
            target[i + j] = d * (float)q[j] + m;
        }
    }
}

static void pack_q4_0(const float *source, int64_t n, void *target) {
    pack_centred(source, n, 4, Q4_0_BYTES, target);
}

static void unpack_q4_0(const void *source, int64_t n, float *target) {
    unpack_centred(source, n, 4, Q4_0_BYTES, target);
}

static void pack_q5_0(const float *source, int64_t n, void *target) {
    pack_centred(source, n, 5, Q5_0_BYTES, target);
}

static void unpack_q5_0(const void *source, int64_t n, float *target) {
    unpack_centred(source, n, 5, Q5_0_BYTES, target);
}

static void pack_q4_1(const float *source, int64_t n, void *target) {
    pack_ranged(source, n, 4, Q4_1_BYTES, target);
}

static void unpack_q4_1(const void *source, int64_t n, float *target) {
    unpack_ranged(source, n, 4, Q4_1_BYTES, target);
}

static void pack_q5_1(const float *source, int64_t n, void *target) {
    pack_ranged(source, n, 5, Q5_1_BYTES, target);
}

static void unpack_q5_1(const void *source, int64_t n, float *target) {
    unpack_ranged(source, n, 5, Q5_1_BYTES, target);
}

/* ---- 16 uneven levels ---------------------------------------------------------- */

const int8_t ln_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

static const ln_form iq4_nl_form = {.groups = 1, .group_elements = LN_BLOCK, .level_low = -127, .level_high = 113,
                                    .levels = ln_iq4_levels, .n_levels = 16,
                                    .scale_low = 1, .scale_high = 1, .scale_end = 1};

static void pack_iq4_nl(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += IQ4_NL_BYTES) {
        ln_fitted block;
        ln_fit_block(&iq4_nl_form, source + i, &block);
        ln_store_u16(out, block.d);
        put_q(block.code, 4, out + D_BYTES);
    }
}

static void unpack_iq4_nl(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_BLOCK, in += IQ4_NL_BYTES) {
        uint8_t q[LN_BLOCK];
        get_q(in + D_BYTES, 4, q);
        float d = ln_f16_to_f32(ln_load_u16(in));
        for (int j = 0; j < LN_BLOCK; j++) {
            target[i + j] = d * (float)ln_iq4_levels[q[j]];
        }
    }
}

/* Twice the numbers of E2M1 (OCP Microscaling Formats 1.0, table 5), so that they are integers. */
static const int8_t mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* 2^(e - 128), half of what the exponent stands for. Every e is a float: 0 and 1 are subnormals. */
static float mxfp4_scale(uint8_t e) {
    return ldexpf(1.0f, e - 128);
}

/* The exponent of the largest magnitude, less that of the largest level (section 6.3): magnitudes up to
 * 8 of the 6 that fit are cut. */
static uint8_t mxfp4_exponent(const float *x) {
    float largest = 0.0f;
    for (int j = 0; j < LN_BLOCK; j++) {
        largest = fmaxf(largest, fabsf(x[j]));
    }
    int e = largest > 0.0f ? ilogbf(largest) - 2 + 127 : 0;
    return (uint8_t)(e > 0 ? e : 0);
}

static void pack_mxfp4(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += MXFP4_BYTES) {
        uint8_t q[LN_BLOCK];
        const uint8_t e = mxfp4_exponent(source + i);
        const float scale = mxfp4_scale(e);
        for (int j = 0; j < LN_BLOCK; j++) {
            float nearest = INFINITY;
            for (uint8_t k = 0; k < 16; k++) {
                float error = fabsf(scale * (float)mxfp4_levels[k] - source[i + j]);
                if (error < nearest) {
                    nearest = error;
                    q[j] = k;
                }
            }
        }
        out[0] = e;
        put_q(q, 4, out + 1);
    }
}

static void unpack_mxfp4(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_BLOCK, in += MXFP4_BYTES) {
        uint8_t q[LN_BLOCK];
        get_q(in + 1, 4, q);
        const float scale = mxfp4_scale(in[0]);
        for (int j = 0; j < LN_BLOCK; j++) {
            target[i + j] = scale * (float)mxfp4_levels[q[j]];
        }
    }
}

/* ---- the table -------------------------------------------------------------- */

static const ln_type_traits traits[LN_TYPE_LIMIT] = {
    [LN_TYPE_F32] = {"f32", 1, 4, 0, INFINITY, pack_f32, unpack_f32},
    [LN_TYPE_F16] = {"f16", 1, 2, 0, INFINITY, pack_f16, unpack_f16},
    [LN_TYPE_BF16] = {"bf16", 1, 2, 0, INFINITY, pack_bf16, unpack_bf16},
    [LN_TYPE_Q4_0] = {"q4_0", LN_BLOCK, Q4_0_BYTES, 1, 8 * LN_F16_LARGEST, pack_q4_0, unpack_q4_0},
    [LN_TYPE_Q4_1] = {"q4_1", LN_BLOCK, Q4_1_BYTES, 1, LN_F16_LARGEST, pack_q4_1, unpack_q4_1},
    [LN_TYPE_Q5_0] = {"q5_0", LN_BLOCK, Q5_0_BYTES, 1, 16 * LN_F16_LARGEST, pack_q5_0, unpack_q5_0},
    [LN_TYPE_Q5_1] = {"q5_1", LN_BLOCK, Q5_1_BYTES, 1, LN_F16_LARGEST, pack_q5_1, unpack_q5_1},
    [LN_TYPE_Q8_0] = {"q8_0", LN_BLOCK, Q8_0_BYTES, 1, 127 * LN_F16_LARGEST, pack_q8_0, unpack_q8_0},
    [LN_TYPE_Q2_K] = {"q2_k", LN_SUPER, LN_Q2_K_BYTES, 1, 15 * LN_F16_LARGEST, ln_pack_q2_k, ln_unpack_q2_k},
    [LN_TYPE_Q3_K] = {"q3_k", LN_SUPER, LN_Q3_K_BYTES, 1, 32 * 3 * LN_F16_LARGEST,
                        ln_pack_q3_k, ln_unpack_q3_k},
    [LN_TYPE_Q4_K] = {"q4_k", LN_SUPER, LN_Q4_K_BYTES, 1, 63 * LN_F16_LARGEST, ln_pack_q4_k, ln_unpack_q4_k},
    [LN_TYPE_Q5_K] = {"q5_k", LN_SUPER, LN_Q5_K_BYTES, 1, 63 * LN_F16_LARGEST, ln_pack_q5_k, ln_unpack_q5_k},
    [LN_TYPE_Q6_K] = {"q6_k", LN_SUPER, LN_Q6_K_BYTES, 1, 127 * 31 * LN_F16_LARGEST,
                        ln_pack_q6_k, ln_unpack_q6_k},
    [LN_TYPE_IQ4_NL] = {"iq4_nl", LN_BLOCK, IQ4_NL_BYTES, 1, 113 * LN_F16_LARGEST,
                        pack_iq4_nl, unpack_iq4_nl},
    [LN_TYPE_IQ4_XS] = {"iq4_xs", LN_SUPER, LN_IQ4_XS_BYTES, 1, 31 * 113 * LN_F16_LARGEST,
                        ln_pack_iq4_xs, ln_unpack_iq4_xs},
    [LN_TYPE_TQ1_0] = {"tq1_0", LN_SUPER, LN_TQ1_0_BYTES, 1, LN_F16_LARGEST, ln_pack_tq1_0, ln_unpack_tq1_0},
    [LN_TYPE_TQ2_0] = {"tq2_0", LN_SUPER, LN_TQ2_0_BYTES, 1, LN_F16_LARGEST, ln_pack_tq2_0, ln_unpack_tq2_0},
    [LN_TYPE_MXFP4] = {"mxfp4", LN_BLOCK, MXFP4_BYTES, 1, FLT_MAX, pack_mxfp4, unpack_mxfp4},
};

const ln_type_traits *ln_type_traits_of(int32_t type) {
    if (type < 0 || type >= LN_TYPE_LIMIT || traits[type].name == NULL) {
        return NULL;
    }
    return &traits[type];
}

int32_t ln_type_describe(int32_t type, ln_type_info *out) {
    const ln_type_traits *known = ln_type_traits_of(type);
    if (out == NULL) {
        return LN_BAD_ARGUMENT;
    }
    if (known == NULL) {
        return LN_UNSUPPORTED;
    }
    memset(out, 0, sizeof *out);
    memcpy(out->name, known->name, strlen(known->name));
    out->block_elements = known->block_elements;
    out->block_bytes = known->block_bytes;
    return LN_OK;
}

/* The traits of type when n elements of it can lie between two non-NULL addresses, else NULL. */
static const ln_type_traits *checked_traits(int32_t type, const void *source, int64_t n, const void *target,
                                            ln_status *status, ln_error *err) {
    const ln_type_traits *known = ln_type_traits_of(type);
    if (known == NULL) {
        *status = ln_fail(err, LN_UNSUPPORTED, "tensor type %d is not one this version knows", (int)type);
        return NULL;
    }
    if (n < 0 || n % known->block_elements != 0) {
        *status = ln_fail(err, LN_BAD_ARGUMENT, "%s holds blocks of %d elements; %lld is not a multiple", known->name,
                          (int)known->block_elements, (long long)n);
        return NULL;
    }
    if (n > 0 && (source == NULL || target == NULL)) {
        *status = ln_fail(err, LN_BAD_ARGUMENT, "source or target is NULL");
        return NULL;
    }
    *status = LN_OK;
    return known;
}

int32_t ln_pack(int32_t type, const float *source, int64_t n, void *target, ln_error *err) {
    ln_status status;
    const ln_type_traits *known = checked_traits(type, source, n, target, &status, err);
    if (known == NULL || n == 0) {
        return status;
    }
    if (known->quantized_activations) {
        for (int64_t i = 0; i < n; i++) {
            if (!(fabsf(source[i]) <= known->largest)) {
                return ln_fail(err, LN_BAD_ARGUMENT, "element %lld is %g; %s holds finite values up to %g",
                               (long long)i, (double)source[i], known->name, (double)known->largest);
            }
        }
    }
    known->pack(source, n, target);
    return LN_OK;
}

int32_t ln_unpack(int32_t type, const void *source, int64_t n, float *target, ln_error *err) {
    ln_status status;
    const ln_type_traits *known = checked_traits(type, source, n, target, &status, err);
    if (known == NULL || n == 0) {
        return status;
    }
    known->unpack(source, n, target);
    return LN_OK;
}
