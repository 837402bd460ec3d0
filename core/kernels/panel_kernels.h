/* panel_kernels.h - products with packed block types (panel_formats.h), written once over vector types. An
 * instruction set's file defines what float_kernels.h needs and what is below, then includes this; it gets a
 * static matmul_<type> for every type of LN_PANEL_FORMATS.
 *
 * The weights stand still: a group of VEC_LANES rows is unpacked into eight registers, once, and every
 * vector of a tile passes by it. All results follow one definition, that of scalar.c: for each group
 * (and each half of it where halves have scales) the exact integer dot product, as a float, times
 * (weight scale * activation scale), the product of scales rounded, added with one rounding; then
 * minimum * sum of the activations, added with one rounding.
 *
 *   dot(format, codes, n, x, bias)   sums over n steps of (code - offset) * x as floats; x are 4n int8, bias
 *                              is -128 * their sum
 *
 * and what panel_codes.h wants.
 */

#include "panel_codes.h"

/* Distance in bytes at which weights are asked for ahead of their use. */
#define PREFETCH_BYTES 4096

/* ---- products -------------------------------------------------------------------- */

/* total += one group of rows times one group of a vector, whose integer dot products (of each half) are known. */
static LN_ALWAYS_INLINE vec add_dots(ln_panel_format f, const vec *dots, const vec *scale, const vec *minimum,
                                     vec x_scale, const vec *x_sums, vec total) {
    LN_UNROLL for (int h = 0; h <= ln_has_halves(f); h++) {
        total = vec_fma(dots[h], vec_mul(scale[h], x_scale), total);
        total = f.has_minimum ? vec_fma(minimum[h], x_sums[h], total) : total;
    }
    return total;
}

static LN_ALWAYS_INLINE vec add_group(ln_panel_format f, const ivec *codes, const vec *scale, const vec *minimum,
                                      const ln_q8_block *x, vec total) {
    if (!ln_has_halves(f)) {
        const vec dots = dot(f, codes, LN_STEPS, x->q, x->bias);
        const vec sum = vec_set(x->sum);
        return add_dots(f, &dots, scale, minimum, vec_set(x->scale), &sum, total);
    }
    vec dots[2], sums[2];
    LN_UNROLL for (int h = 0; h < 2; h++) {
        dots[h] = dot(f, codes + h * LN_STEPS / 2, LN_STEPS / 2, x->q + h * LN_Q8_GROUP / 2, x->half_bias[h]);
        sums[h] = vec_set(x->half_sum[h]);
    }
    return add_dots(f, dots, scale, minimum, vec_set(x->scale), sums, total);
}

/* Vectors of a tile that pass by a panel, and where their results go. */
typedef struct panel_job {
    const uint8_t *panel;
    int64_t n_groups;
    const ln_q8_block *x;
    int64_t x_stride; /* blocks from one group to the next */
    float *y;
    int64_t y_stride;
    int64_t n_rows;
} panel_job;

static LN_ALWAYS_INLINE void store_rows(const panel_job *job, int v, int part, vec total) {
    float *y = job->y + v * job->y_stride + part * VEC_LANES;
    int64_t rows = job->n_rows - part * VEC_LANES;
    if (rows >= VEC_LANES) {
        vec_store(y, total);
    } else if (rows > 0) {
        vec_store_part(y, total, rows);
    }
}

static LN_ALWAYS_INLINE void prefetch_group(ln_panel_format f, const uint8_t *quants) {
    LN_UNROLL for (int line = 0; line < ln_group_bytes(f) / LN_LINE; line++) {
        __builtin_prefetch(quants + PREFETCH_BYTES + line * LN_LINE);
    }
}

/* Parts [first_part, first_part + n_parts) of a panel times n vectors; all three are constants. */
static LN_ALWAYS_INLINE void panel_product(ln_panel_format f, const panel_job *job, int first_part, int n_parts,
                                           int n) {
    _Alignas(64) uint8_t trits[8 * LN_STEPS * LN_LINE];
    vec totals[LN_TILE * PARTS];
    for (int i = 0; i < n * n_parts; i++) {
        totals[i] = vec_set(0.0f);
    }
    const int cell_groups = ln_cell_groups(f);
    const uint8_t *cell = job->panel;
    const ln_q8_block *x = job->x;
    for (int64_t first = 0; first < job->n_groups; first += cell_groups, cell += ln_cell_bytes(f)) {
        const uint8_t *quants = cell + ln_head_bytes(f);
        if (f.bits == LN_TRITS) {
            expand_trits(quants, trits);
            quants = trits;
        }
        const int64_t left = job->n_groups - first;
        const int groups = left < cell_groups ? (int)left : cell_groups;
        for (int g = 0; g < groups; g++, quants += ln_group_bytes(f), x += job->x_stride) {
            prefetch_group(f, quants);
            LN_UNROLL for (int p = 0; p < n_parts; p++) {
                ivec codes[LN_STEPS];
                vec scale[2], minimum[2];
                load_codes(f, quants, first_part + p, codes);
                load_scales(f, cell, g, first_part + p, scale, minimum);
                LN_UNROLL for (int v = 0; v < n; v++) {
                    totals[v * n_parts + p] = add_group(f, codes, scale, minimum, x + v, totals[v * n_parts + p]);
                }
            }
        }
    }
    for (int v = 0; v < n; v++) {
        for (int p = 0; p < n_parts; p++) {
            store_rows(job, v, first_part + p, totals[v * n_parts + p]);
        }
    }
}

#ifdef HAS_WIDE_KERNELS
#include "wide_kernels.h"
#else
#define takes_wide(format) 0
#endif

/* All vectors of a tile: as many at once as keep their totals in registers, then ever fewer. The panel
 * comes from memory once and then from the first-level cache. */
static LN_ALWAYS_INLINE void tile_product(ln_panel_format f, panel_job job, int64_t width) {
    const ln_q8_block *x = job.x;
    float *y = job.y;
    for (int64_t v = 0; v < width;) {
        job.x = x + v;
        job.y = y + v * job.y_stride;
        if (width - v >= 16 && !takes_wide(f)) {
            for (int part = 0; part < PARTS; part++) {
                panel_product(f, &job, part, 1, 16);
            }
            v += 16;
        } else if (width - v >= 8 && !takes_wide(f)) {
            for (int part = 0; part < PARTS; part++) {
                panel_product(f, &job, part, 1, 8);
            }
            v += 8;
        } else if (width - v >= 4) {
            panel_product(f, &job, 0, PARTS, 4);
            v += 4;
        } else if (width - v >= 2) {
            panel_product(f, &job, 0, PARTS, 2);
            v += 2;
        } else {
            panel_product(f, &job, 0, PARTS, 1);
            v += 1;
        }
    }
}

static LN_ALWAYS_INLINE void matmul_panels(ln_panel_format f, const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                           const ln_vectors *x, float *y, int64_t y_stride) {
    panel_job job = {.n_groups = w->cols / LN_Q8_GROUP, .y_stride = y_stride};
    for (int32_t v = 0; v < x->n; v += LN_TILE) {
        job.x = x->q8 + ln_q8_first(x->cols, v);
        job.x_stride = ln_q8_tile_width(x->n, v);
#ifdef HAS_WIDE_KERNELS
        if (takes_wide(f) && job.x_stride >= WIDE_TILE) {
            job.panel = (const uint8_t *)w->data + (size_t)(row_begin / LN_PANEL_ROWS) * w->stride;
            job.y = y + v * y_stride;
            job.n_rows = row_end - row_begin;
            wide_tile(f, job, w->stride, (int)job.x_stride);
            continue;
        }
#endif
        for (int64_t row = row_begin; row < row_end; row += LN_PANEL_ROWS) {
            job.panel = (const uint8_t *)w->data + (size_t)(row / LN_PANEL_ROWS) * w->stride;
            job.y = y + v * y_stride + row - row_begin;
            job.n_rows = row_end - row;
            tile_product(f, job, job.x_stride);
        }
    }
}

#define MATMUL(type, ...)                                                                                       \
    static void matmul_##type(const ln_matrix *w, int64_t row_begin, int64_t row_end, const ln_vectors *x,      \
                              float *y, int64_t y_stride) {                                                     \
        matmul_panels((ln_panel_format){__VA_ARGS__}, w, row_begin, row_end, x, y, y_stride);                   \
    }
LN_PANEL_FORMATS(MATMUL)
#undef MATMUL

/* Entries of an instruction set's table. */
#define MATMUL_ENTRY(type, ...) [LN_TYPE_##type] = matmul_##type,
#define PANEL_MATMULS LN_PANEL_FORMATS(MATMUL_ENTRY)
