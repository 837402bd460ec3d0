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

static void multiply(const ln_compute *compute, const ln_matrix *w, int64_t begin, int64_t end, const ln_vectors *x,
                     float *y, int64_t y_stride) {
    compute->kernels->matmul[w->type](w, begin, end, x, y, y_stride);
}

static int64_t smaller(int64_t a, int64_t b) {
    return a < b ? a : b;
}

/* ---- products side by side --------------------------------------------------------- */

typedef struct product_job {
    const ln_compute *compute;
    const ln_vectors *x;
    const ln_product *products;
    int64_t tile_rows[LN_MAX_PRODUCTS];
    int32_t first_tile[LN_MAX_PRODUCTS + 1]; /* of each product, and one past the last */
} product_job;

static void product_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const product_job *j = job;
    int32_t i = 0;
    while (item >= j->first_tile[i + 1]) {
        i++;
    }
    const ln_matrix *w = j->products[i].w;
    const int64_t begin = (item - j->first_tile[i]) * j->tile_rows[i];
    const int64_t end = smaller(begin + j->tile_rows[i], w->rows);
    multiply(j->compute, w, begin, end, j->x, j->products[i].y + begin, w->rows);
}

void ln_products_run(const ln_compute *compute, const ln_vectors *x, const ln_product *products, int32_t n_products) {
    product_job job = {.compute = compute, .x = x, .products = products};
    int64_t rows = 0;
    for (int32_t i = 0; i < n_products; i++) {
        rows += products[i].w->rows;
    }
    for (int32_t i = 0; i < n_products; i++) {
        const ln_matrix *w = products[i].w;
        job.tile_rows[i] = rows_of_a_tile(compute, w, rows);
        job.first_tile[i + 1] = job.first_tile[i] + (int32_t)((w->rows + job.tile_rows[i] - 1) / job.tile_rows[i]);
    }
    ln_compute_run(compute, job.first_tile[n_products], rows * x->cols * x->n, product_item, &job);
}

/* ---- gated products ------------------------------------------------------------------ */

typedef struct gated_job {
    const ln_compute *compute;
    const ln_vectors *x;
    const ln_matrix *gate;
    const ln_matrix *up;
    const ln_gated_output *out;
    float *scratch;
    int64_t tile_rows;
} gated_job;

size_t ln_gated_scratch(int32_t n) {
    return 2 * (size_t)n * GATED_ROWS;
}

static void gated_item(const void *job, int32_t item, int32_t worker) {
    const gated_job *j = job;
    const ln_kernels *kernels = j->compute->kernels;
    const int32_t n = j->x->n;
    const int64_t rows = j->gate->rows;
    const int64_t begin = item * j->tile_rows;
    const int64_t end = smaller(begin + j->tile_rows, rows);
    float *gate = j->scratch + (size_t)worker * ln_gated_scratch(n);
    float *up = gate + (int64_t)n * j->tile_rows;
    multiply(j->compute, j->gate, begin, end, j->x, gate, j->tile_rows);
    multiply(j->compute, j->up, begin, end, j->x, up, j->tile_rows);
    for (int32_t v = 0; v < n; v++) {
        float *gate_v = gate + v * j->tile_rows;
        float *y = j->out->q8 != NULL ? gate_v : j->out->f32 + v * rows + begin;
        kernels->swiglu(gate_v, up + v * j->tile_rows, end - begin, y);
        if (j->out->q8 != NULL) {
            const int64_t stride = ln_q8_tile_width(n, v);
            ln_q8_block *q8 = j->out->q8 + ln_q8_first(rows, v) + begin / LN_Q8_GROUP * stride;
            kernels->quantize_q8(y, end - begin, q8, stride);
        }
    }
}

void ln_gated_product_run(const ln_compute *compute, const ln_vectors *x, const ln_matrix *gate, const ln_matrix *up,
                          const ln_gated_output *out, float *scratch) {
    gated_job job = {compute, x, gate, up, out, scratch, 0};
    job.tile_rows = smaller(rows_of_a_tile(compute, gate, gate->rows), GATED_ROWS);
    const int32_t tiles = (int32_t)((gate->rows + job.tile_rows - 1) / job.tile_rows);
    ln_compute_run(compute, tiles, 2 * gate->rows * x->cols * x->n, gated_item, &job);
}
