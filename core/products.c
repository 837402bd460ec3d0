/* products.c - cuts matrix products into items for the thread pool.
 *
 * An item is a tile of rows times all vectors. Which thread does it and how many vectors run together
 * changes no bit of the result: a kernel computes each output from its own row and vector alone.
 */
#include "products.h"

/* Rows of a matrix are handed out in tiles of a multiple of this many: whole panels, and whole groups of
 * the vector that the rows make. */
#define TILE_ROWS 32

/* Tiles per thread: enough that a thread which starts late or runs slower does not hold up the rest. */
#define TILES_PER_THREAD 8

/* Rows of a gated tile, at most: the results of all vectors stay in the second-level cache. */
#define GATED_ROWS 128

/* Weights of a tile, at most: they stay in the second-level cache while all vectors pass by. */
#define TILE_BYTES ((size_t)1 << 19)

/* Multiply-adds below which waking other threads costs more than it saves: some microseconds of work. */
#define WORTH_SHARING (1 << 16)

int ln_wants_q8(const ln_matrix *w) {
    return ln_type_traits_of(w->type)->quantized_activations;
}

void ln_compute_run(const ln_compute *compute, int32_t n_items, int64_t n_madds, ln_item_fn *fn, const void *job) {
    if (n_madds >= WORTH_SHARING) {
        ln_threads_run(compute->threads, n_items, fn, job);
        return;
    }
    for (int32_t i = 0; i < n_items; i++) {
        fn(job, i, 0);
    }
}

/* Bytes of one row, rounded down. */
static size_t row_bytes(const ln_matrix *w) {
    return ln_wants_q8(w) ? w->stride / LN_PANEL_ROWS : w->stride;
}

static int64_t rows_of_a_tile(const ln_compute *compute, const ln_matrix *w, int64_t rows) {
    const int64_t tiles = (int64_t)ln_threads_count(compute->threads) * TILES_PER_THREAD;
    const int64_t units = (rows + TILE_ROWS - 1) / TILE_ROWS;
    const int64_t even = (units + tiles - 1) / tiles;
    const int64_t cached = (int64_t)(TILE_BYTES / TILE_ROWS / (row_bytes(w) + 1));
    return TILE_ROWS * (even < cached ? even : cached > 1 ? cached : 1);
}

static void multiply_all(float *x, int64_t n, float by) {
    for (int64_t i = 0; by != 1.0f && i < n; i++) {
        x[i] *= by;
    }
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- products side by side --------------------------------------------------------- */

/* Rows [begin, end) of the linear map, of all vectors; y's rows are y_stride apart. */
static void apply(const ln_compute *compute, const ln_linear *of, const ln_addend *add, int64_t begin, int64_t end,
                  const ln_vectors *x, float *y, int64_t y_stride) {
    compute->kernels->matmul[of->w.type](&of->w, begin, end, x, y, y_stride);
    if (of->scale == 1.0f && of->bias == NULL && add->y == NULL) {
        return;
    }
    for (int32_t v = 0; v < x->n; v++, y += y_stride) {
        multiply_all(y, end - begin, of->scale);
        if (of->bias != NULL) {
            compute->kernels->add(y, of->bias + begin, end - begin);
        }
        if (add->y != NULL && add->has[v]) {
            compute->kernels->add(y, add->y + v * of->w.rows + begin, end - begin);
        }
    }
}

typedef struct product_job {
    const ln_compute *compute;
    const ln_product *products;
    int32_t n_products;
} product_job;

static void product_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const product_job *j = job;
    int32_t i = 0;
    while (i + 1 < j->n_products && item >= j->products[i + 1].first_tile) {
        i++;
    }
    const ln_product *p = &j->products[i];
    const int64_t rows = p->of->w.rows;
    const int64_t begin = (item - p->first_tile) * p->tile_rows;
    const int64_t end = smaller(begin + p->tile_rows, rows);
    apply(j->compute, p->of, &p->add, begin, end, &p->x, p->y + begin, rows);
    for (int32_t v = 0; v < p->x.n && (p->scale != 1.0f || p->cap > 0); v++) {
        float *y = p->y + v * rows + begin;
        multiply_all(y, end - begin, p->scale);
        if (p->cap > 0) {
            j->compute->kernels->soft_cap(y, end - begin, p->cap);
        }
    }
}

void ln_products_run(const ln_compute *compute, ln_product *products, int32_t n_products) {
    const product_job job = {compute, products, n_products};
    int64_t rows = 0;
    int64_t n_madds = 0;
    for (int32_t i = 0; i < n_products; i++) {
        rows += products[i].of->w.rows;
        n_madds += products[i].of->w.rows * products[i].x.cols * products[i].x.n;
    }
    int32_t n_tiles = 0;
    for (int32_t i = 0; i < n_products; i++) {
        const ln_matrix *w = &products[i].of->w;
        products[i].tile_rows = rows_of_a_tile(compute, w, rows);
        products[i].first_tile = n_tiles;
        n_tiles += (int32_t)((w->rows + products[i].tile_rows - 1) / products[i].tile_rows);
    }
    ln_compute_run(compute, n_tiles, n_madds, product_item, &job);
}

/* ---- gated products ------------------------------------------------------------------ */

typedef struct gated_job {
    const ln_compute *compute;
    const ln_gated_product *products;
    int32_t n_products;
    ln_activation activation;
    float *scratch;
    int32_t n_vectors;
} gated_job;

size_t ln_gated_scratch(int32_t n) {
    return 2 * (size_t)n * GATED_ROWS;
}

static void gated_item(const void *job, int32_t item, int32_t worker) {
    const gated_job *j = job;
    const ln_kernels *kernels = j->compute->kernels;
    int32_t i = 0;
    while (i + 1 < j->n_products && item >= j->products[i + 1].first_tile) {
        i++;
    }
    const ln_gated_product *p = &j->products[i];
    const int64_t rows = p->up->w.rows;
    const int64_t begin = (item - p->first_tile) * p->tile_rows;
    const int64_t end = smaller(begin + p->tile_rows, rows);
    float *inner = j->scratch + (size_t)worker * ln_gated_scratch(j->n_vectors);
    float *up = p->gate != NULL ? inner + (int64_t)p->x.n * p->tile_rows : NULL;
    apply(j->compute, p->gate != NULL ? p->gate : p->up, p->gate != NULL ? &p->gate_add : &p->up_add, begin, end,
          &p->x, inner, p->tile_rows);
    if (up != NULL) {
        apply(j->compute, p->up, &p->up_add, begin, end, &p->x, up, p->tile_rows);
    }
    for (int32_t v = 0; v < p->x.n; v++) {
        float *inner_v = inner + v * p->tile_rows;
        float *y = p->f32 != NULL ? p->f32 + v * rows + begin : inner_v;
        kernels->activate[j->activation](inner_v, up != NULL ? up + v * p->tile_rows : NULL, end - begin, y);
        if (p->q8 != NULL) {
            const int64_t stride = ln_q8_tile_width(p->x.n, v);
            ln_q8_block *q8 = p->q8 + ln_q8_first(rows, v) + begin / LN_Q8_GROUP * stride;
            kernels->quantize_q8(y, end - begin, q8, stride);
        }
    }
}

void ln_gated_products_run(const ln_compute *compute, ln_gated_product *products, int32_t n_products,
                           ln_activation activation, float *scratch, int32_t n_vectors) {
    const gated_job job = {compute, products, n_products, activation, scratch, n_vectors};
    int64_t rows = 0;
    int64_t n_madds = 0;
    for (int32_t i = 0; i < n_products; i++) {
        const ln_gated_product *p = &products[i];
        rows += p->up->w.rows;
        n_madds += (p->gate != NULL ? 2 : 1) * p->up->w.rows * p->x.cols * p->x.n;
    }
    int32_t n_tiles = 0;
    for (int32_t i = 0; i < n_products; i++) {
        const ln_matrix *w = &products[i].up->w;
        products[i].tile_rows = smaller(rows_of_a_tile(compute, w, rows), GATED_ROWS);
        products[i].first_tile = n_tiles;
        n_tiles += (int32_t)((w->rows + products[i].tile_rows - 1) / products[i].tile_rows);
    }
    ln_compute_run(compute, n_tiles, n_madds, gated_item, &job);
}
