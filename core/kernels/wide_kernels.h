/* wide_kernels.h - products with packed block types for an instruction set that cannot multiply four columns of a
 * vector with many rows as they lie, but wants them in every lane. They are put there once for all rows of a strip, and
 * not again for every VEC_LANES of them. The results are those of panel_kernels.h, which includes this, bit for bit.
 *
 * The instruction set's file defines HAS_WIDE_KERNELS and
 *
 *   takes_wide(format)         whether a tile of vectors is multiplied so
 *   wide_columns(x)            four columns, in every lane
 *   wide_bias(format, bias)    a bias, in every lane
 *   dot_wide(format, codes, n, columns, bias)  dot, with such operands
 */

/* Rows of a strip, at most: their totals for a tile of vectors stay in the first-level cache. */
#define WIDE_ROWS 128

/* Vectors of a tile from which it pays. */
#define WIDE_TILE 8

/* A group of one vector, everything in every lane; what a format does not need is not there. */
typedef struct wide_group {
    ivec columns[LN_STEPS];
    ivec biases[2];
    vec scale;
    vec sums[2];
} wide_group;

static LN_ALWAYS_INLINE void widen(ln_panel_format f, const ln_q8_block *x, int n, wide_group *out) {
    for (int v = 0; v < n; v++) {
        LN_UNROLL for (int k = 0; k < LN_STEPS; k++) {
            out[v].columns[k] = wide_columns(x[v].q + 4 * k);
        }
        LN_UNROLL for (int h = 0; h <= ln_has_halves(f); h++) {
            if (f.offset != 0) {
                out[v].biases[h] = wide_bias(f, ln_has_halves(f) ? x[v].half_bias[h] : x[v].bias);
            }
            if (f.has_minimum) {
                out[v].sums[h] = vec_set(ln_has_halves(f) ? x[v].half_sum[h] : x[v].sum);
            }
        }
        out[v].scale = vec_set(x[v].scale);
    }
}

/* totals[v] += one group of rows times that of vector v. */
static LN_ALWAYS_INLINE void add_wide(ln_panel_format f, const ivec *codes, const vec *scale, const vec *minimum,
                                      const wide_group *x, int n, vec *totals) {
    const int n_parts = 1 + ln_has_halves(f);
    const int steps = LN_STEPS / n_parts;
    for (int v = 0; v < n; v++) {
        vec dots[2];
        LN_UNROLL for (int h = 0; h < n_parts; h++) {
            dots[h] = dot_wide(f, codes + h * steps, steps, x[v].columns + h * steps, &x[v].biases[h]);
        }
        totals[v] = add_dots(f, dots, scale, minimum, x[v].scale, x[v].sums, totals[v]);
    }
}

/* totals[part][vector] += n_panels panels, stride apart, times n vectors. */
static LN_ALWAYS_INLINE void wide_product(ln_panel_format f, const panel_job *job, size_t stride, int n_panels, int n,
                                          vec totals[][LN_TILE]) {
    const int cell_groups = ln_cell_groups(f);
    wide_group wide[LN_TILE];
    const uint8_t *cell = job->panel;
    for (int64_t group = 0; group < job->n_groups; group++) {
        const int g = (int)(group % cell_groups);
        widen(f, job->x + group * job->x_stride, n, wide);
        for (int p = 0; p < n_panels; p++) {
            const uint8_t *its = cell + (size_t)p * stride;
            const uint8_t *quants = its + ln_head_bytes(f) + g * ln_group_bytes(f);
            prefetch_group(f, quants);
            for (int part = 0; part < PARTS; part++) {
                ivec codes[LN_STEPS];
                vec scale[2], minimum[2];
                load_codes(f, quants, part, codes);
                load_scales(f, its, g, part, scale, minimum);
                add_wide(f, codes, scale, minimum, wide, n, totals[p * PARTS + part]);
            }
        }
        cell += g + 1 == cell_groups ? ln_cell_bytes(f) : 0;
    }
}

/* job->n_rows rows, whose panels are stride apart, times n vectors. */
static LN_ALWAYS_INLINE void wide_tile(ln_panel_format f, panel_job job, size_t stride, int n) {
    while (job.n_rows > 0) {
        vec totals[WIDE_ROWS / VEC_LANES][LN_TILE];
        const int64_t rows = job.n_rows < WIDE_ROWS ? job.n_rows : WIDE_ROWS;
        const int n_panels = (int)((rows + LN_PANEL_ROWS - 1) / LN_PANEL_ROWS);
        for (int part = 0; part < n_panels * PARTS; part++) {
            for (int v = 0; v < n; v++) {
                totals[part][v] = vec_set(0.0f);
            }
        }
        wide_product(f, &job, stride, n_panels, n, totals);
        for (int v = 0; v < n; v++) {
            for (int part = 0; part < n_panels * PARTS; part++) {
                store_rows(&job, v, part, totals[part][v]);
            }
        }
        job.panel += WIDE_ROWS / LN_PANEL_ROWS * stride;
        job.y += WIDE_ROWS;
        job.n_rows -= WIDE_ROWS;
    }
}
