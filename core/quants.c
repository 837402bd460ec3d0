/* quants.c - the table of all tensor types: packing floats for the quantizer and for keys and values,
 * unpacking for embedding rows and for checks. Here are the plain types, the values of all blocks, and the
 * packing of blocks of 32 by a fixed recipe; block_formats.h has the layouts, quants_k.c packs the others.
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

static float f16_at(const uint8_t *p) {
    return ln_f16_to_f32(ln_load_u16(p));
}

static float bf16_value(uint16_t h) {
    return float_of((uint32_t)h << 16);
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
        target[i] = f16_at(in + 2 * i);
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
        target[i] = bf16_value(ln_load_u16(in + 2 * i));
    }
}

/* ---- reading blocks --------------------------------------------------------- */

static LN_ALWAYS_INLINE float d_value(ln_block_format f, const uint8_t *block) {
    const uint16_t d = ln_read_d(f, block);
    return f.d_is_e ? bf16_value(d) : ln_f16_to_f32(d);
}

#define HALF (LN_CODES / 2) /* no group is smaller */

/* The values of HALF elements: scale * level, or where the format has minima that and minimum. */
static LN_ALWAYS_INLINE void half_values(ln_block_format f, const uint8_t *code, float scale, float minimum,
                                         float *value) {
    for (int j = 0; j < HALF; j++) {
        const int level = f.levels != NULL ? f.levels[code[j]] : code[j] - f.offset;
        value[j] = f.m != 0 ? scale * (float)level + minimum : scale * (float)level;
    }
}

static LN_ALWAYS_INLINE void unpack_blocks(ln_block_format f, const uint8_t *block, int64_t n, float *target) {
    for (int64_t i = 0; i < n; i += f.elements, block += f.bytes) {
        const float d = d_value(f, block), m = f.m != 0 ? f16_at(block + f.m) : 0.0f;
        uint8_t number[2 * LN_MAX_GROUPS];
        ln_read_scales(f, block, number);
        for (int half = 0; half < f.elements / HALF; half += 2) {
            uint32_t words[LN_CODE_WORDS];
            uint8_t code[LN_CODES];
            ln_read_codes(f, block, half / 2, words);
            memcpy(code, words, sizeof code);
            for (int h = 0; h < 2; h++) {
                const int group = (half + h) * f.groups / (f.elements / HALF);
                const float scale = f.groups > 0 ? d * (float)(int8_t)number[group] : d;
                const float minimum = f.groups > 0 && f.m != 0 ? -(m * (float)number[f.groups + group]) : m;
                half_values(f, code + h * HALF, scale, minimum, target + i + (half + h) * HALF);
            }
        }
    }
}

#define UNPACK(type, ...)                                                              \
    static void unpack_##type(const void *source, int64_t n, float *target) {          \
        unpack_blocks(ln_block_##type, source, n, target);                             \
    }
LN_BLOCK_FORMATS(UNPACK)
#undef UNPACK

/* ---- packing by a fixed recipe ----------------------------------------------- */

static void pack_q8_0(const float *source, int64_t n, void *target) {
    const ln_block_format f = ln_block_Q8_0;
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += f.bytes) {
        uint8_t code[LN_BLOCK];
        float largest = 0.0f;
        for (int j = 0; j < LN_BLOCK; j++) {
            largest = fmaxf(largest, fabsf(source[i + j]));
        }
        float scale = largest / 127.0f;
        float inverse = ln_reciprocal(scale);
        for (int j = 0; j < LN_BLOCK; j++) { /* halves away from zero, as the reference */
            /* Cut for keys and values of a damaged model, which need not be finite: others are within. */
            const float level = fmaxf(-127.0f, fminf(127.0f, roundf(source[i + j] * inverse)));
            code[j] = (uint8_t)((int)level + f.offset);
        }
        memset(out, 0, (size_t)f.bytes);
        ln_store_u16(out + f.d, ln_f32_to_f16(scale));
        ln_write_codes(f, code, out);
    }
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

/* value = d * (code - offset) */
static LN_ALWAYS_INLINE void pack_centred(ln_block_format f, const float *source, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += f.bytes) {
        float largest = 0.0f; /* with its sign: it becomes -offset, the end of the range that +offset lacks */
        for (int j = 0; j < LN_BLOCK; j++) {
            if (fabsf(source[i + j]) > fabsf(largest)) {
                largest = source[i + j];
            }
        }
        uint8_t code[LN_BLOCK];
        float d = largest / (float)-f.offset;
        float inverse = ln_reciprocal(d);
        for (int j = 0; j < LN_BLOCK; j++) {
            code[j] = cut(source[i + j], inverse, (float)f.offset + 0.5f, 2 * f.offset - 1);
        }
        memset(out, 0, (size_t)f.bytes);
        ln_store_u16(out + f.d, ln_f32_to_f16(d));
        ln_write_codes(f, code, out);
    }
}

/* value = d * code + m */
static LN_ALWAYS_INLINE void pack_ranged(ln_block_format f, const float *source, int64_t n, uint8_t *out) {
    const int highest = (1 << (f.codes.bits + f.high_codes.bits)) - 1;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += f.bytes) {
        float low = source[i], high = source[i];
        for (int j = 1; j < LN_BLOCK; j++) {
            low = source[i + j] < low ? source[i + j] : low;
            high = source[i + j] > high ? source[i + j] : high;
        }
        uint8_t code[LN_BLOCK];
        float d = (high - low) / (float)highest;
        float inverse = ln_reciprocal(d);
        for (int j = 0; j < LN_BLOCK; j++) {
            code[j] = cut(source[i + j] - low, inverse, 0.5f, highest);
        }
        memset(out, 0, (size_t)f.bytes);
        ln_store_u16(out + f.d, ln_f32_to_f16(d));
        ln_store_u16(out + f.m, ln_f32_to_f16(low));
        ln_write_codes(f, code, out);
    }
}

static void pack_q4_0(const float *source, int64_t n, void *target) {
    pack_centred(ln_block_Q4_0, source, n, target);
}

static void pack_q5_0(const float *source, int64_t n, void *target) {
    pack_centred(ln_block_Q5_0, source, n, target);
}

static void pack_q4_1(const float *source, int64_t n, void *target) {
    pack_ranged(ln_block_Q4_1, source, n, target);
}

static void pack_q5_1(const float *source, int64_t n, void *target) {
    pack_ranged(ln_block_Q5_1, source, n, target);
}

/* The exponent of the largest magnitude, less that of the largest level (OCP Microscaling Formats 1.0,
 * section 6.3): magnitudes up to 8 of the 6 that fit are cut. */
static uint8_t mxfp4_exponent(const float *x) {
    float largest = 0.0f;
    for (int j = 0; j < LN_BLOCK; j++) {
        largest = fmaxf(largest, fabsf(x[j]));
    }
    int e = largest > 0.0f ? ilogbf(largest) - 2 + 127 : 0;
    return (uint8_t)(e > 0 ? e : 0);
}

static void pack_mxfp4(const float *source, int64_t n, void *target) {
    const ln_block_format f = ln_block_MXFP4;
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_BLOCK, out += f.bytes) {
        uint8_t code[LN_BLOCK];
        memset(out, 0, (size_t)f.bytes);
        out[f.d] = mxfp4_exponent(source + i);
        const float scale = d_value(f, out);
        for (int j = 0; j < LN_BLOCK; j++) {
            float nearest = INFINITY;
            for (uint8_t k = 0; k < 16; k++) {
                float error = fabsf(scale * (float)f.levels[k] - source[i + j]);
                if (error < nearest) {
                    nearest = error;
                    code[j] = k;
                }
            }
        }
        ln_write_codes(f, code, out);
    }
}

/* ---- the table -------------------------------------------------------------- */

enum {
#define BYTES(type, elements, bytes, ...) type##_ELEMENTS = elements, type##_BYTES = bytes,
    LN_BLOCK_FORMATS(BYTES)
#undef BYTES
};

#define BLOCKS(type, name, largest, pack) \
    [LN_TYPE_##type] = {name, type##_ELEMENTS, type##_BYTES, 1, largest, pack, unpack_##type}

static const ln_type_traits traits[LN_TYPE_LIMIT] = {
    [LN_TYPE_F32] = {"f32", 1, 4, 0, INFINITY, pack_f32, unpack_f32},
    [LN_TYPE_F16] = {"f16", 1, 2, 0, INFINITY, pack_f16, unpack_f16},
    [LN_TYPE_BF16] = {"bf16", 1, 2, 0, INFINITY, pack_bf16, unpack_bf16},
    BLOCKS(Q4_0, "q4_0", 8 * LN_F16_LARGEST, pack_q4_0),
    BLOCKS(Q4_1, "q4_1", LN_F16_LARGEST, pack_q4_1),
    BLOCKS(Q5_0, "q5_0", 16 * LN_F16_LARGEST, pack_q5_0),
    BLOCKS(Q5_1, "q5_1", LN_F16_LARGEST, pack_q5_1),
    BLOCKS(Q8_0, "q8_0", 127 * LN_F16_LARGEST, pack_q8_0),
    BLOCKS(Q2_K, "q2_k", 15 * LN_F16_LARGEST, ln_pack_q2_k),
    BLOCKS(Q3_K, "q3_k", 32 * 3 * LN_F16_LARGEST, ln_pack_q3_k),
    BLOCKS(Q4_K, "q4_k", 63 * LN_F16_LARGEST, ln_pack_q4_k),
    BLOCKS(Q5_K, "q5_k", 63 * LN_F16_LARGEST, ln_pack_q5_k),
    BLOCKS(Q6_K, "q6_k", 127 * 31 * LN_F16_LARGEST, ln_pack_q6_k),
    BLOCKS(IQ4_NL, "iq4_nl", 113 * LN_F16_LARGEST, ln_pack_iq4_nl),
    BLOCKS(IQ4_XS, "iq4_xs", 31 * 113 * LN_F16_LARGEST, ln_pack_iq4_xs),
    BLOCKS(TQ1_0, "tq1_0", LN_F16_LARGEST, ln_pack_tq1_0),
    BLOCKS(TQ2_0, "tq2_0", LN_F16_LARGEST, ln_pack_tq2_0),
    BLOCKS(MXFP4, "mxfp4", FLT_MAX, pack_mxfp4),
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
