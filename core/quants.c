/* quants.c - how each tensor type lies in memory, described once: packing for the
 * quantizer, unpacking for embedding rows and for checks. The formats are those of
 * the GGUF specification; packing gives the bytes of ggml's reference quantizer, so a
 * file made here equals one made there. All values are little-endian.
 *
 *   q8_0   f16 scale, 32 int8:            value = scale * q
 *   q4_0   f16 scale, 16 bytes of nibbles: value = scale * (q - 8); byte j holds
 *          element j in its low half and element j + 16 in its high half
 */
#include <math.h>
#include <string.h>

#include "core.h"
#include "kernels/kernels.h"

#define BLOCK_ELEMENTS 32
#define SCALE_BYTES 2
#define Q8_0_BYTES (SCALE_BYTES + BLOCK_ELEMENTS)
#define Q4_0_BYTES (SCALE_BYTES + BLOCK_ELEMENTS / 2)

#define F16_LARGEST 65504.0f

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

static uint16_t load_u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static void store_u16(uint8_t *p, uint16_t value) {
    memcpy(p, &value, sizeof value);
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
        store_u16(out + 2 * i, ln_f32_to_f16(source[i]));
    }
}

static void unpack_f16(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i++) {
        target[i] = ln_f16_to_f32(load_u16(in + 2 * i));
    }
}

static void pack_bf16(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i++) {
        store_u16(out + 2 * i, f32_to_bf16(source[i]));
    }
}

static void unpack_bf16(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i++) {
        target[i] = float_of((uint32_t)load_u16(in + 2 * i) << 16);
    }
}

/* ---- block types ----------------------------------------------------------- */

/* 1 / d, and 0 where d is 0 or so small that its reciprocal is no float. */
static float reciprocal(float d) {
    float inverse = d == 0.0f ? 0.0f : 1.0f / d;
    return isinf(inverse) ? 0.0f : inverse;
}

static void pack_q8_0(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += BLOCK_ELEMENTS, out += Q8_0_BYTES) {
        float largest = 0.0f;
        for (int j = 0; j < BLOCK_ELEMENTS; j++) {
            largest = fmaxf(largest, fabsf(source[i + j]));
        }
        float scale = largest / 127.0f;
        float inverse = reciprocal(scale);
        store_u16(out, ln_f32_to_f16(scale));
        for (int j = 0; j < BLOCK_ELEMENTS; j++) {
            int8_t q = (int8_t)roundf(source[i + j] * inverse); /* halves away from zero, as the reference */
            memcpy(out + SCALE_BYTES + j, &q, 1);
        }
    }
}

static void unpack_q8_0(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += BLOCK_ELEMENTS, in += Q8_0_BYTES) {
        float scale = ln_f16_to_f32(load_u16(in));
        for (int j = 0; j < BLOCK_ELEMENTS; j++) {
            int8_t q;
            memcpy(&q, in + SCALE_BYTES + j, 1);
            target[i + j] = scale * (float)q;
        }
    }
}

/* x / d + 8 rounded and clipped to a nibble. The product is rounded before 8.5 is added,
 * never fused, as in the reference's portable form. */
static uint8_t q4_0_nibble(float x, float inverse) {
    float quotient = x * inverse;
    float shifted = quotient + 8.5f;
    if (shifted >= 15.0f) {
        return 15;
    }
    return shifted > 0.0f ? (uint8_t)shifted : 0;
}

static void pack_q4_0(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += BLOCK_ELEMENTS, out += Q4_0_BYTES) {
        float largest = 0.0f; /* with its sign: it becomes -8, the end of the range that +7 lacks */
        for (int j = 0; j < BLOCK_ELEMENTS; j++) {
            if (fabsf(source[i + j]) > fabsf(largest)) {
                largest = source[i + j];
            }
        }
        float scale = largest / -8.0f;
        float inverse = reciprocal(scale);
        store_u16(out, ln_f32_to_f16(scale));
        for (int j = 0; j < BLOCK_ELEMENTS / 2; j++) {
            uint8_t low = q4_0_nibble(source[i + j], inverse);
            uint8_t high = q4_0_nibble(source[i + j + BLOCK_ELEMENTS / 2], inverse);
            out[SCALE_BYTES + j] = (uint8_t)(low | high << 4);
        }
    }
}

static void unpack_q4_0(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += BLOCK_ELEMENTS, in += Q4_0_BYTES) {
        float scale = ln_f16_to_f32(load_u16(in));
        for (int j = 0; j < BLOCK_ELEMENTS / 2; j++) {
            uint8_t pair = in[SCALE_BYTES + j];
            target[i + j] = scale * (float)((pair & 15) - 8);
            target[i + j + BLOCK_ELEMENTS / 2] = scale * (float)((pair >> 4) - 8);
        }
    }
}

/* ---- the table -------------------------------------------------------------- */

static const ln_type_traits traits[LN_TYPE_LIMIT] = {
    [LN_TYPE_F32] = {"f32", 1, 4, 0, INFINITY, pack_f32, unpack_f32},
    [LN_TYPE_F16] = {"f16", 1, 2, 0, INFINITY, pack_f16, unpack_f16},
    [LN_TYPE_BF16] = {"bf16", 1, 2, 0, INFINITY, pack_bf16, unpack_bf16},
    [LN_TYPE_Q8_0] = {"q8_0", BLOCK_ELEMENTS, Q8_0_BYTES, 1, 127 * F16_LARGEST, pack_q8_0, unpack_q8_0},
    [LN_TYPE_Q4_0] = {"q4_0", BLOCK_ELEMENTS, Q4_0_BYTES, 1, 8 * F16_LARGEST, pack_q4_0, unpack_q4_0},
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
