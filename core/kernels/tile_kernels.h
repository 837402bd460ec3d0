/* tile_kernels.h - products with packed block types on a unit that multiplies tiles of 8-bit integers, written once over
 * vector types. The results are those of panel_kernels.h, bit for bit.
 *
 * A line of a panel is four columns of 16 rows, which is how such a unit takes its right operand, and LN_TILE quantised
 * vectors lie next to each other, 64 bytes apart, which is how it takes the left one: so nothing is moved but the codes,
 * which are unpacked once for all vectors. What is left for the vector unit is a conversion and two
 * products for each sum, of which a tile has 256.
 *
 * Whoever includes this defines what panel_codes.h wants but code_operand, with VEC_LANES = 16, and
 *
 *   ivec_minus(a, b)           byte by byte, modulo 256
 *   vec_load_i32(p)            VEC_LANES int32 as floats
 *   tiles_begin(depth), tiles_end()   before and after products whose operands are depth bytes long: 32 or 16
 *   tiles_multiply(x, codes, sums)    for two pairs of operands: sums[i][v][row] = the dot product of x[i][v].q (its
 *                              first depth bytes) with row of the lines at codes[i]
 *   tiles_rest                 the table that multiplies the vectors of a tile that is not full
 */
#ifndef LINNET_TILE_KERNELS_H
#define LINNET_TILE_KERNELS_H

#include "isa.h"
#include "panel_formats.h"

/* Signed codes: every offset of panel_formats.h leaves an int8. */
static LN_ALWAYS_INLINE ivec code_operand(ln_panel_format f, ivec codes) {
    return f.offset != 0 ? ivec_minus(codes, ivec_bytes((uint8_t)f.offset)) : codes;
}

#define CODES_FILL_BYTES 0
#include "panel_codes.h"

/* Groups that are unpacked at once, a multiple of those of every cell: they stay in the first-level cache. */
#define STRIP_GROUPS 32

/* A group of one panel, unpacked: scales and minima of each half, the same twice where a group has one. */
typedef struct tile_group {
    int8_t codes[LN_STEPS * LN_LINE];
    float scales[2][LN_PANEL_ROWS];
    float minima[2][LN_PANEL_ROWS];
} tile_group;

static LN_ALWAYS_INLINE void unpack_group(ln_panel_format f, const uint8_t *cell, int g, const uint8_t *quants,
                                          tile_group *out) {
    ivec codes[LN_STEPS];
    vec scale[2], minimum[2];
    load_codes(f, quants, 0, codes);
    load_scales(f, cell, g, 0, scale, minimum);
    LN_UNROLL for (int k = 0; k < LN_STEPS; k++) {
        ivec_store((uint8_t *)out->codes + k * LN_LINE, codes[k]);
    }
    LN_UNROLL for (int h = 0; h <= ln_has_halves(f); h++) {
        vec_store(out->scales[h], scale[h]);
        if (f.has_minimum) {
            vec_store(out->minima[h], minimum[h]);
        }
    }
}

/* Unpacks n groups, which begin with a cell. */
static LN_ALWAYS_INLINE void unpack_strip(ln_panel_format f, const uint8_t *cell, int n, tile_group *out) {
    _Alignas(64) uint8_t trits[8 * LN_STEPS * LN_LINE];
    const int cell_groups = ln_cell_groups(f);
    for (int first = 0; first < n; first += cell_groups, cell += ln_cell_bytes(f)) {
        const uint8_t *quants = cell + ln_head_bytes(f);
        if (f.bits == LN_TRITS) {
            expand_trits(quants, trits);
            quants = trits;
        }
        for (int g = 0; g < cell_groups && first + g < n; g++, quants += ln_group_bytes(f)) {
            unpack_group(f, cell, g, quants, &out[first + g]);
        }
    }
}

typedef int32_t tile_sums[LN_TILE][LN_PANEL_ROWS];

/* totals[v] += half h (or all) of a group of rows times that of vector v, whose integer sums are known. */
static LN_ALWAYS_INLINE void add_sums(ln_panel_format f, const tile_group *w, int h, const ln_q8_block *x,
                                      tile_sums sums, vec totals[LN_TILE]) {
    const vec scale = vec_load_f32((const uint8_t *)w->scales[h]);
    const vec minimum = f.has_minimum ? vec_load_f32((const uint8_t *)w->minima[h]) : scale;
    LN_UNROLL for (int v = 0; v < LN_TILE; v++) {
        totals[v] = vec_fma(vec_load_i32(sums[v]), vec_mul(scale, vec_set(x[v].scale)), totals[v]);
        if (f.has_minimum) {
            totals[v] = vec_fma(minimum, vec_set(ln_has_halves(f) ? x[v].half_sum[h] : x[v].sum), totals[v]);
        }
    }
}

/* totals += n groups of rows times those of a full tile of vectors. */
static LN_ALWAYS_INLINE void multiply_strip(ln_panel_format f, const tile_group *w, int n, const ln_q8_block *x,
                                            vec totals[LN_TILE]) {
    _Alignas(64) tile_sums sums[2];
    const int step = ln_has_halves(f) ? 1 : 2; /* groups of two products */
    for (int g = 0; g < n; g += step) {
        const int other = ln_has_halves(f) || g + 1 == n ? g : g + 1; /* an odd last group is multiplied twice */
        const int8_t *left[2] = {x[g * LN_TILE].q, x[other * LN_TILE].q};
        const int8_t *right[2] = {w[g].codes, w[other].codes};
        if (ln_has_halves(f)) {
            left[1] += LN_Q8_GROUP / 2;
            right[1] += LN_STEPS / 2 * LN_LINE;
        }
        tiles_multiply(left, right, sums);
        add_sums(f, &w[g], 0, x + g * LN_TILE, sums[0], totals);
        if (ln_has_halves(f) || other != g) {
            add_sums(f, &w[other], ln_has_halves(f), x + other * LN_TILE, sums[1], totals);
        }
    }
}

/* Strip [first, first + n) of the groups of one panel times the first n_full vectors, added to what y holds of the
 * strips before. */
static LN_ALWAYS_INLINE void add_strip(ln_panel_format f, const tile_group *w, int64_t first, int n, int64_t n_rows,
                                       const ln_vectors *x, int32_t n_full, float *y, int64_t y_stride) {
    for (int32_t tile = 0; tile < n_full; tile += LN_TILE) {
        vec totals[LN_TILE];
        float *out = y + tile * y_stride;
        for (int v = 0; v < LN_TILE; v++) {
            totals[v] = first == 0 ? vec_set(0.0f) : vec_load_f32_part((const uint8_t *)(out + v * y_stride), n_rows);
        }
        multiply_strip(f, w, n, x->q8 + ln_q8_first(x->cols, tile) + first * LN_TILE, totals);
        for (int v = 0; v < LN_TILE; v++) {
            vec_store_part(out + v * y_stride, totals[v], n_rows);
        }
    }
}

static LN_ALWAYS_INLINE void matmul_tiles(ln_panel_format f, const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                          const ln_vectors *x, float *y, int64_t y_stride) {
    const int32_t n_full = x->n / LN_TILE * LN_TILE;
    if (n_full > 0) {
        _Alignas(64) tile_group groups[STRIP_GROUPS];
        const int64_t n_groups = w->cols / LN_Q8_GROUP;
        tiles_begin(LN_Q8_GROUP >> ln_has_halves(f));
        for (int64_t row = row_begin; row < row_end; row += LN_PANEL_ROWS) {
            const uint8_t *panel = (const uint8_t *)w->data + (size_t)(row / LN_PANEL_ROWS) * w->stride;
            const int64_t n_rows = row_end - row < LN_PANEL_ROWS ? row_end - row : LN_PANEL_ROWS;
            for (int64_t first = 0; first < n_groups; first += STRIP_GROUPS) {
                const int n = n_groups - first < STRIP_GROUPS ? (int)(n_groups - first) : STRIP_GROUPS;
                unpack_strip(f, panel + first / ln_cell_groups(f) * ln_cell_bytes(f), n, groups);
                add_strip(f, groups, first, n, n_rows, x, n_full, y + row - row_begin, y_stride);
            }
        }
        tiles_end();
    }
    if (n_full < x->n) {
        const ln_vectors rest = {
            .q8 = x->q8 + ln_q8_first(x->cols, n_full),
            .cols = x->cols,
            .n = x->n - n_full,
        };
        tiles_rest.matmul[w->type](w, row_begin, row_end, &rest, y + n_full * y_stride, y_stride);
    }
}

#endif
