/* quants_k.c - the formats of 256 elements a block. A super-block has one f16 d (some a second,
 * dmin), and groups of 16 or 32 elements with small integers for scales and minima:
 *
 *   value = d * scale[group] * q                             q3_k, q6_k, iq4_xs
 *   value = d * scale[group] * q - dmin * minimum[group]     q2_k, q4_k, q5_k
 *   value = d * q                                            tq1_0, tq2_0
 *
 * Bytes in their order; "4x32" is a field of 4 bits in runs of 32 bytes (see ln_read_fields):
 *
 *   q2_k    16 bytes: scale in the low half, minimum in the high; 64 q, 2x32; d; dmin
 *   q3_k    32 bit 2 of q, 1x32; 64 bits 0-1, 2x32; 12 scales; d; q - 4 counts
 *           scales: 8 bits 0-3, 4x8; 4 bits 4-5, 2x4; scale - 32 counts
 *   q4_k    d; dmin; 12 scales and minima; 128 q, 4x32
 *   q5_k    d; dmin; 12 scales and minima; 32 bit 4 of q, 1x32; 128 bits 0-3, 4x32
 *           scales and minima: see put_scales
 *   q6_k    128 bits 0-3 of q, 4x64; 64 bits 4-5, 2x32; 16 signed scales; d; q - 32 counts
 *   iq4_xs  d; 2 bits 4-5 of the scales, 2x1; 4 bits 0-3, 4x1; 128 q, 4x16, that index
 *           ln_iq4_levels; scale - 32 counts
 *   tq1_0   52 bytes of base-3 digits: see tq1_0_runs; d; digit - 1 counts
 *   tq2_0   64 q, 2x32; d; q - 1 counts
 */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "quants.h"

#define Q4_K_SCALES 12

static float load_f16(const uint8_t *p) {
    return ln_f16_to_f32(ln_load_u16(p));
}

/* ---- scales and minima ------------------------------------------------------------ */

static const ln_form q2_k_form = {.groups = 16, .group_elements = 16, .level_high = 3,
                                  .scale_high = 15, .scale_end = 15, .minimum_high = 15};
static const ln_form q4_k_form = {.groups = 8, .group_elements = 32, .level_high = 15,
                                  .scale_high = 63, .scale_end = 63, .minimum_high = 63};
static const ln_form q5_k_form = {.groups = 8, .group_elements = 32, .level_high = 31,
                                  .scale_high = 63, .scale_end = 63, .minimum_high = 63};

void ln_pack_q2_k(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_Q2_K_BYTES) {
        ln_fitted block;
        ln_fit_block(&q2_k_form, source + i, &block);
        for (int g = 0; g < 16; g++) {
            out[g] = (uint8_t)(block.scale[g] | block.minimum[g] << 4);
        }
        ln_write_fields(block.code, LN_SUPER, 32, 2, 0, out + 16);
        ln_store_u16(out + 80, block.d);
        ln_store_u16(out + 82, block.dmin);
    }
}

void ln_unpack_q2_k(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_Q2_K_BYTES) {
        uint8_t q[LN_SUPER] = {0};
        ln_read_fields(in + 16, LN_SUPER, 32, 2, 0, q);
        const float d = load_f16(in + 80), dmin = load_f16(in + 82);
        for (int j = 0; j < LN_SUPER; j++) {
            const uint8_t pair = in[j / 16];
            target[i + j] = d * (float)(pair & 15) * (float)q[j] - dmin * (float)(pair >> 4);
        }
    }
}

/* The 6-bit scales and minima of 8 groups in 12 bytes, for g < 4:
 *   byte g      scale[g], and above it bits 4-5 of scale[g + 4]
 *   byte g + 4  minimum[g], and above it bits 4-5 of minimum[g + 4]
 *   byte g + 8  bits 0-3 of scale[g + 4], and above them those of minimum[g + 4] */
static void put_scales(const ln_fitted *block, uint8_t *bytes) {
    for (int g = 0; g < 4; g++) {
        const int scale = block->scale[g + 4], minimum = block->minimum[g + 4];
        bytes[g] = (uint8_t)(block->scale[g] | (scale >> 4) << 6);
        bytes[g + 4] = (uint8_t)(block->minimum[g] | (minimum >> 4) << 6);
        bytes[g + 8] = (uint8_t)((scale & 15) | (minimum & 15) << 4);
    }
}

static void get_scales(const uint8_t *bytes, uint8_t *scale, uint8_t *minimum) {
    for (int g = 0; g < 4; g++) {
        scale[g] = bytes[g] & 63;
        minimum[g] = bytes[g + 4] & 63;
        scale[g + 4] = (uint8_t)((bytes[g + 8] & 15) | (bytes[g] >> 6) << 4);
        minimum[g + 4] = (uint8_t)(bytes[g + 8] >> 4 | (bytes[g + 4] >> 6) << 4);
    }
}

/* The values of a q4_k or q5_k block whose q are known. */
static void scaled_values(const uint8_t *block, const uint8_t *q, float *values) {
    uint8_t scale[8], minimum[8];
    const float d = load_f16(block), dmin = load_f16(block + 2);
    get_scales(block + 4, scale, minimum);
    for (int j = 0; j < LN_SUPER; j++) {
        values[j] = d * (float)scale[j / 32] * (float)q[j] - dmin * (float)minimum[j / 32];
    }
}

static void put_head(const ln_fitted *block, uint8_t *out) {
    ln_store_u16(out, block->d);
    ln_store_u16(out + 2, block->dmin);
    put_scales(block, out + 4);
}

void ln_pack_q4_k(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_Q4_K_BYTES) {
        ln_fitted block;
        ln_fit_block(&q4_k_form, source + i, &block);
        put_head(&block, out);
        ln_write_fields(block.code, LN_SUPER, 32, 4, 0, out + 4 + Q4_K_SCALES);
    }
}

void ln_unpack_q4_k(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_Q4_K_BYTES) {
        uint8_t q[LN_SUPER] = {0};
        ln_read_fields(in + 4 + Q4_K_SCALES, LN_SUPER, 32, 4, 0, q);
        scaled_values(in, q, target + i);
    }
}

void ln_pack_q5_k(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_Q5_K_BYTES) {
        ln_fitted block;
        ln_fit_block(&q5_k_form, source + i, &block);
        put_head(&block, out);
        ln_write_fields(block.code, LN_SUPER, 32, 1, 4, out + 4 + Q4_K_SCALES);
        ln_write_fields(block.code, LN_SUPER, 32, 4, 0, out + 4 + Q4_K_SCALES + 32);
    }
}

void ln_unpack_q5_k(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_Q5_K_BYTES) {
        uint8_t q[LN_SUPER] = {0};
        ln_read_fields(in + 4 + Q4_K_SCALES, LN_SUPER, 32, 1, 4, q);
        ln_read_fields(in + 4 + Q4_K_SCALES + 32, LN_SUPER, 32, 4, 0, q);
        scaled_values(in, q, target + i);
    }
}

/* ---- signed scales ----------------------------------------------------------------- */

static const ln_form q3_k_form = {.groups = 16, .group_elements = 16, .level_low = -4, .level_high = 3,
                                  .scale_low = -32, .scale_high = 31, .scale_end = -32};
static const ln_form q6_k_form = {.groups = 16, .group_elements = 16, .level_low = -32, .level_high = 31,
                                  .scale_low = -128, .scale_high = 127, .scale_end = -128};
static const ln_form iq4_xs_form = {.groups = 8, .group_elements = 32, .level_low = -127, .level_high = 113,
                                    .levels = ln_iq4_levels, .n_levels = 16,
                                    .scale_low = -32, .scale_high = 31, .scale_end = -32};

void ln_pack_q3_k(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_Q3_K_BYTES) {
        ln_fitted block;
        uint8_t scales[16];
        ln_fit_block(&q3_k_form, source + i, &block);
        for (int g = 0; g < 16; g++) {
            scales[g] = (uint8_t)(block.scale[g] + 32);
        }
        ln_write_fields(block.code, LN_SUPER, 32, 1, 2, out);
        ln_write_fields(block.code, LN_SUPER, 32, 2, 0, out + 32);
        ln_write_fields(scales, 16, 8, 4, 0, out + 96);
        ln_write_fields(scales, 16, 4, 2, 4, out + 104);
        ln_store_u16(out + 108, block.d);
    }
}

void ln_unpack_q3_k(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_Q3_K_BYTES) {
        uint8_t q[LN_SUPER] = {0}, scales[16] = {0};
        ln_read_fields(in, LN_SUPER, 32, 1, 2, q);
        ln_read_fields(in + 32, LN_SUPER, 32, 2, 0, q);
        ln_read_fields(in + 96, 16, 8, 4, 0, scales);
        ln_read_fields(in + 104, 16, 4, 2, 4, scales);
        const float d = load_f16(in + 108);
        for (int j = 0; j < LN_SUPER; j++) {
            target[i + j] = d * (float)(scales[j / 16] - 32) * (float)(q[j] - 4);
        }
    }
}

void ln_pack_q6_k(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_Q6_K_BYTES) {
        ln_fitted block;
        ln_fit_block(&q6_k_form, source + i, &block);
        ln_write_fields(block.code, LN_SUPER, 64, 4, 0, out);
        ln_write_fields(block.code, LN_SUPER, 32, 2, 4, out + 128);
        memcpy(out + 192, block.scale, 16);
        ln_store_u16(out + 208, block.d);
    }
}

void ln_unpack_q6_k(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_Q6_K_BYTES) {
        uint8_t q[LN_SUPER] = {0};
        int8_t scales[16];
        ln_read_fields(in, LN_SUPER, 64, 4, 0, q);
        ln_read_fields(in + 128, LN_SUPER, 32, 2, 4, q);
        memcpy(scales, in + 192, 16);
        const float d = load_f16(in + 208);
        for (int j = 0; j < LN_SUPER; j++) {
            target[i + j] = d * (float)scales[j / 16] * (float)(q[j] - 32);
        }
    }
}

void ln_pack_iq4_xs(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_IQ4_XS_BYTES) {
        ln_fitted block;
        uint8_t scales[8];
        ln_fit_block(&iq4_xs_form, source + i, &block);
        for (int g = 0; g < 8; g++) {
            scales[g] = (uint8_t)(block.scale[g] + 32);
        }
        ln_store_u16(out, block.d);
        ln_write_fields(scales, 8, 1, 2, 4, out + 2);
        ln_write_fields(scales, 8, 1, 4, 0, out + 4);
        ln_write_fields(block.code, LN_SUPER, 16, 4, 0, out + 8);
    }
}

void ln_unpack_iq4_xs(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_IQ4_XS_BYTES) {
        uint8_t q[LN_SUPER] = {0}, scales[8] = {0};
        ln_read_fields(in + 2, 8, 1, 2, 4, scales);
        ln_read_fields(in + 4, 8, 1, 4, 0, scales);
        ln_read_fields(in + 8, LN_SUPER, 16, 4, 0, q);
        const float d = load_f16(in);
        for (int j = 0; j < LN_SUPER; j++) {
            target[i + j] = d * (float)(scales[j / 32] - 32) * (float)ln_iq4_levels[q[j]];
        }
    }
}

/* ---- ternary ------------------------------------------------------------------------- */

/* The largest magnitude becomes d; q[j] is 0, 1 or 2 for -d, 0 or d, whichever is nearest. */
static uint16_t ternary(const float *x, uint8_t *q) {
    float d = 0.0f;
    for (int j = 0; j < LN_SUPER; j++) {
        d = fmaxf(d, fabsf(x[j]));
    }
    const float inverse = ln_reciprocal(d);
    for (int j = 0; j < LN_SUPER; j++) {
        q[j] = (uint8_t)((int)roundf(x[j] * inverse) + 1);
    }
    return ln_f32_to_f16(d);
}

/* Where the digits of tq1_0 lie: a run of bytes holds the first digits of `bytes` elements, then the
 * second digits of the next `bytes`, and so on. */
static const struct {
    int bytes, digits;
} tq1_0_runs[] = {{32, 5}, {16, 5}, {4, 4}};

void ln_pack_tq1_0(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER) {
        uint8_t digits[LN_SUPER];
        const uint16_t d = ternary(source + i, digits);
        const uint8_t *q = digits;
        for (int r = 0; r < 3; r++) {
            const int bytes = tq1_0_runs[r].bytes;
            for (int j = 0; j < bytes; j++) {
                int number = 0;
                for (int digit = 0; digit < 5; digit++) { /* a fifth digit that is not there is 0 */
                    number = 3 * number + (digit < tq1_0_runs[r].digits ? q[digit * bytes + j] : 0);
                }
                /* As the fraction number / 243 in units of 1 / 256, rounded up: tripling it modulo 256
                 * moves the next digit to the top. */
                out[j] = (uint8_t)((number * 256 + 242) / 243);
            }
            q += bytes * tq1_0_runs[r].digits;
            out += bytes;
        }
        ln_store_u16(out, d);
        out += 2;
    }
}

void ln_unpack_tq1_0(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    float *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_TQ1_0_BYTES) {
        const float d = load_f16(in + LN_TQ1_0_BYTES - 2);
        const uint8_t *run = in;
        for (int r = 0; r < 3; r++) {
            int power = 1;
            for (int digit = 0; digit < tq1_0_runs[r].digits; digit++, power *= 3) {
                for (int j = 0; j < tq1_0_runs[r].bytes; j++) {
                    const uint8_t fraction = (uint8_t)(run[j] * power);
                    *out++ = d * (float)((fraction * 3 >> 8) - 1);
                }
            }
            run += tq1_0_runs[r].bytes;
        }
    }
}

void ln_pack_tq2_0(const float *source, int64_t n, void *target) {
    uint8_t *out = target;
    for (int64_t i = 0; i < n; i += LN_SUPER, out += LN_TQ2_0_BYTES) {
        uint8_t q[LN_SUPER];
        ln_store_u16(out + 64, ternary(source + i, q));
        ln_write_fields(q, LN_SUPER, 32, 2, 0, out);
    }
}

void ln_unpack_tq2_0(const void *source, int64_t n, float *target) {
    const uint8_t *in = source;
    for (int64_t i = 0; i < n; i += LN_SUPER, in += LN_TQ2_0_BYTES) {
        uint8_t q[LN_SUPER] = {0};
        ln_read_fields(in, LN_SUPER, 32, 2, 0, q);
        const float d = load_f16(in + 64);
        for (int j = 0; j < LN_SUPER; j++) {
            target[i + j] = d * (float)(q[j] - 1);
        }
    }
}
