/* panel_codes.h - takes the codes and scales of a packed group (panel_formats.h) apart, written once over vector types.
 * Whoever includes it defines vec and VEC_LANES (float_kernels.h) and
 *
 *   ivec                       VEC_LANES 32-bit integers, or four times as many bytes
 *   CODES_FILL_BYTES           1: codes with an offset are wanted shifted up until their offset is 128
 *   ivec_load(p), ivec_store(p, a), ivec_bytes(b)   at any address; b in every byte
 *   ivec_shift(a, n)           bits of 32-bit lanes up (n > 0) or down (n < 0) by a constant
 *   ivec_and(a, b), ivec_merge(a, b, mask)          a | (b & mask)
 *   ivec_lookup(table, a)      each byte of a, 0 to 15, replaced by that byte of table[16]
 *   ivec_triple(a)             each byte times 3, modulo 256
 *   ivec_digit(a)              each byte times 3 / 256, rounded down
 *   code_operand(format, a)    codes in the form they are multiplied in
 *   vec_load_u8(p), vec_load_i8(p)   VEC_LANES bytes as floats
 */
#ifndef LINNET_PANEL_CODES_H
#define LINNET_PANEL_CODES_H

#include "panel_formats.h"

#define PARTS (LN_PANEL_ROWS / VEC_LANES)

/* How far codes are shifted up, see CODES_FILL_BYTES. */
static LN_ALWAYS_INLINE int code_shift(ln_panel_format f) {
    return CODES_FILL_BYTES && f.offset != 0 && f.table == LN_TABLE_NONE ? 8 - f.bits : 0;
}

/* ---- codes ----------------------------------------------------------------------- */

static LN_ALWAYS_INLINE ivec load_line(const uint8_t *quants, int line, int part) {
    return ivec_load(quants + line * LN_LINE + part * 4 * VEC_LANES);
}

/* codes[k] |= field k of a line, `bits` wide each, put at bit `to`. */
static LN_ALWAYS_INLINE void merge_fields(ivec *codes, int n, ivec line, int bits, int to) {
    const ivec mask = ivec_bytes((uint8_t)(((1 << bits) - 1) << to));
    LN_UNROLL for (int k = 0; k < n; k++) {
        codes[k] = ivec_merge(codes[k], ivec_shift(line, to - bits * k), mask);
    }
}

static LN_ALWAYS_INLINE void load_fields(ivec *codes, int n, ivec line, int bits, int to) {
    const ivec mask = ivec_bytes((uint8_t)(((1 << bits) - 1) << to));
    LN_UNROLL for (int k = 0; k < n; k++) {
        codes[k] = ivec_and(ivec_shift(line, to - bits * k), mask);
    }
}

/* The codes of one part of a group, a register for each step. */
static LN_ALWAYS_INLINE void load_codes(ln_panel_format f, const uint8_t *quants, int part, ivec codes[LN_STEPS]) {
    const int up = code_shift(f);
    if (f.bits == 8 || f.bits == LN_TRITS) { /* the latter expanded */
        LN_UNROLL for (int k = 0; k < LN_STEPS; k++) {
            codes[k] = load_line(quants, k, part);
        }
    } else if (f.bits < 4) {
        load_fields(codes, 4, load_line(quants, 0, part), 2, up);
        load_fields(codes + 4, 4, load_line(quants, 1, part), 2, up);
    } else {
        const ivec mask = ivec_bytes((uint8_t)(15 << up));
        LN_UNROLL for (int k = 0; k < 4; k++) {
            ivec line = load_line(quants, k, part);
            codes[k] = ivec_and(ivec_shift(line, up), mask);
            codes[k + 4] = ivec_and(ivec_shift(line, up - 4), mask);
        }
    }
    if (f.bits == 3) {
        merge_fields(codes, LN_STEPS, load_line(quants, 2, part), 1, 2 + up);
    } else if (f.bits == 5) {
        merge_fields(codes, LN_STEPS, load_line(quants, 4, part), 1, 4 + up);
    } else if (f.bits == 6) {
        merge_fields(codes, 4, load_line(quants, 4, part), 2, 4 + up);
        merge_fields(codes + 4, 4, load_line(quants, 5, part), 2, 4 + up);
    }
    if (f.table != LN_TABLE_NONE) {
        LN_UNROLL for (int k = 0; k < LN_STEPS; k++) {
            codes[k] = ivec_lookup(ln_table_values(f.table), codes[k]);
        }
    }
    LN_UNROLL for (int k = 0; k < LN_STEPS; k++) {
        codes[k] = code_operand(f, codes[k]);
    }
}

/* Writes the base-3 digits of a cell as lines of 8-bit codes. */
static inline void expand_trits(const uint8_t *lines, uint8_t *codes) {
    for (int i = 0; i < LN_TRIT_LINES * PARTS; i++) {
        ivec rest = ivec_load(lines + i * 4 * VEC_LANES);
        const int line = i / PARTS;
        for (int digit = 0; digit < LN_TRITS_PER_BYTE && line * LN_TRITS_PER_BYTE + digit < 8 * LN_STEPS; digit++) {
            int step = line * LN_TRITS_PER_BYTE + digit;
            ivec_store(codes + step * LN_LINE + i % PARTS * 4 * VEC_LANES, ivec_digit(rest));
            rest = ivec_triple(rest);
        }
    }
}

/* ---- scales ---------------------------------------------------------------------- */

static LN_ALWAYS_INLINE vec nibbles_of(vec bytes, vec *high) {
    *high = vec_round(vec_fma(bytes, vec_set(1.0f / 16.0f), vec_set(-7.5f / 16.0f))); /* bytes / 16, rounded down */
    return vec_fma(*high, vec_set(-16.0f), bytes);
}

/* Scales and minima of one part of group g of a cell: of the group, or of its two halves. */
static LN_ALWAYS_INLINE void load_scales(ln_panel_format f, const uint8_t *cell, int g, int part, vec scale[2],
                                         vec minimum[2]) {
    const uint8_t *halves = cell + part * 2 * VEC_LANES;        /* f16 or bf16 of this part */
    const uint8_t *bytes = cell + LN_LINE + part * VEC_LANES;   /* of a super-block's groups */
    const vec down = vec_set(1.0f / (float)(1 << code_shift(f)));
    if (f.scales == LN_SCALES_BF16) {
        scale[0] = vec_load_bf16(halves + g * 2 * LN_PANEL_ROWS);
        return;
    }
    if (f.scales == LN_SCALES_F16) {
        scale[0] = vec_load_f16(halves + g * 2 * LN_PANEL_ROWS);
        scale[0] = code_shift(f) != 0 ? vec_mul(scale[0], down) : scale[0];
        if (f.has_minimum) {
            minimum[0] = vec_load_f16(halves + LN_LINE + g * 2 * LN_PANEL_ROWS);
        }
        return;
    }
    vec super = vec_load_f16(halves);
    super = code_shift(f) != 0 ? vec_mul(super, down) : super;
    const vec super_minimum = vec_load_f16(halves + 2 * LN_PANEL_ROWS);
    switch (f.scales) {
    case LN_SCALES_SUB32:
        scale[0] = vec_mul(super, vec_load_u8(bytes + g * LN_PANEL_ROWS));
        minimum[0] = vec_mul(super_minimum, vec_load_u8(bytes + (8 + g) * LN_PANEL_ROWS));
        break;
    case LN_SCALES_SUB32_SIGNED:
        scale[0] = vec_mul(super, vec_load_i8(bytes + g * LN_PANEL_ROWS));
        break;
    case LN_SCALES_SUB16_SIGNED:
        scale[0] = vec_mul(super, vec_load_i8(bytes + 2 * g * LN_PANEL_ROWS));
        scale[1] = vec_mul(super, vec_load_i8(bytes + (2 * g + 1) * LN_PANEL_ROWS));
        break;
    case LN_SCALES_SUB16_NIBBLES:
        LN_UNROLL for (int h = 0; h < 2; h++) {
            vec high;
            scale[h] = vec_mul(super, nibbles_of(vec_load_u8(bytes + (2 * g + h) * LN_PANEL_ROWS), &high));
            minimum[h] = vec_mul(super_minimum, high);
        }
        break;
    default: /* LN_SCALES_SUPER */
        scale[0] = super;
        minimum[0] = vec_sub(vec_set(0.0f), super);
        break;
    }
}

#endif
