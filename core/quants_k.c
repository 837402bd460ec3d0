/* quants_k.c - packing floats into the formats whose scales are searched for, and into ternary ones.
 * block_formats.h has the layouts.
 */
#include <math.h>
#include <string.h>

#include "kernels/kernels.h"
#include "quants.h"

/* ---- scales that are searched for --------------------------------------------------- */

static const ln_form q2_k_form = {.groups = 16, .group_elements = 16, .level_high = 3,
                                  .scale_high = 15, .scale_end = 15, .minimum_high = 15};
static const ln_form q3_k_form = {.groups = 16, .group_elements = 16, .level_low = -4, .level_high = 3,
                                  .scale_low = -32, .scale_high = 31, .scale_end = -32};
static const ln_form q4_k_form = {.groups = 8, .group_elements = 32, .level_high = 15,
                                  .scale_high = 63, .scale_end = 63, .minimum_high = 63};
static const ln_form q5_k_form = {.groups = 8, .group_elements = 32, .level_high = 31,
                                  .scale_high = 63, .scale_end = 63, .minimum_high = 63};
static const ln_form q6_k_form = {.groups = 16, .group_elements = 16, .level_low = -32, .level_high = 31,
                                  .scale_low = -128, .scale_high = 127, .scale_end = -128};
static const ln_form iq4_nl_form = {.groups = 1, .group_elements = LN_BLOCK, .level_low = -127, .level_high = 113,
                                    .levels = ln_iq4_levels, .n_levels = 16,
                                    .scale_low = 1, .scale_high = 1, .scale_end = 1};
static const ln_form iq4_xs_form = {.groups = 8, .group_elements = 32, .level_low = -127, .level_high = 113,
                                    .levels = ln_iq4_levels, .n_levels = 16,
                                    .scale_low = -32, .scale_high = 31, .scale_end = -32};

static LN_ALWAYS_INLINE void pack_fitted(ln_block_format f, const ln_form *form, const float *source, int64_t n,
                                uint8_t *out) {
    for (int64_t i = 0; i < n; i += f.elements, out += f.bytes) {
        ln_fitted block;
        uint8_t number[2 * LN_MAX_GROUPS];
        ln_fit_block(form, source + i, &block);
        memcpy(number, block.scale, (size_t)f.groups);
        memcpy(number + f.groups, block.minimum, (size_t)f.groups);
        memset(out, 0, (size_t)f.bytes);
        ln_store_u16(out + f.d, block.d);
        if (f.m != 0) {
            ln_store_u16(out + f.m, block.dmin);
        }
        ln_write_scales(f, number, out);
        ln_write_codes(f, block.code, out);
    }
}

void ln_pack_q2_k(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_Q2_K, &q2_k_form, source, n, target);
}

void ln_pack_q3_k(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_Q3_K, &q3_k_form, source, n, target);
}

void ln_pack_q4_k(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_Q4_K, &q4_k_form, source, n, target);
}

void ln_pack_q5_k(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_Q5_K, &q5_k_form, source, n, target);
}

void ln_pack_q6_k(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_Q6_K, &q6_k_form, source, n, target);
}

void ln_pack_iq4_nl(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_IQ4_NL, &iq4_nl_form, source, n, target);
}

void ln_pack_iq4_xs(const float *source, int64_t n, void *target) {
    pack_fitted(ln_block_IQ4_XS, &iq4_xs_form, source, n, target);
}

/* ---- ternary ------------------------------------------------------------------------- */

/* The largest magnitude becomes d; a code is 0, 1 or 2 for -d, 0 or d, whichever is nearest. */
static LN_ALWAYS_INLINE void pack_ternary(ln_block_format f, const float *source, int64_t n, uint8_t *out) {
    for (int64_t i = 0; i < n; i += LN_SUPER, out += f.bytes) {
        uint8_t code[LN_SUPER];
        float d = 0.0f;
        for (int j = 0; j < LN_SUPER; j++) {
            d = fmaxf(d, fabsf(source[i + j]));
        }
        const float inverse = ln_reciprocal(d);
        for (int j = 0; j < LN_SUPER; j++) {
            code[j] = (uint8_t)((int)roundf(source[i + j] * inverse) + 1);
        }
        memset(out, 0, (size_t)f.bytes);
        ln_store_u16(out + f.d, ln_f32_to_f16(d));
        ln_write_codes(f, code, out);
    }
}

void ln_pack_tq1_0(const float *source, int64_t n, void *target) {
    pack_ternary(ln_block_TQ1_0, source, n, target);
}

void ln_pack_tq2_0(const float *source, int64_t n, void *target) {
    pack_ternary(ln_block_TQ2_0, source, n, target);
}
