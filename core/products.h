/* products.h - matrix products shared out over the thread pool. */
#ifndef LINNET_PRODUCTS_H
#define LINNET_PRODUCTS_H

#include "kernels/kernels.h"
#include "threads.h"

/* Whoever multiplies: a pool and a kernel table. */
typedef struct ln_compute {
    ln_threads *threads;
    const ln_kernels *kernels;
} ln_compute;

/* Does the items of a job of about n_madds multiply-adds: on all threads, or here where that is quicker. */
void ln_compute_run(const ln_compute *compute, int32_t n_items, int64_t n_madds, ln_item_fn *fn, const void *job);

/* y[n][w->rows] = w x */
typedef struct ln_product {
    const ln_matrix *w;
    float *y;
} ln_product;

/* Whether products with w read x quantised (ln_vectors.q8) rather than as floats. */
int ln_wants_q8(const ln_matrix *w);

/* Up to three matrices over the same vectors, as one job. */
#define LN_MAX_PRODUCTS 3
void ln_products_run(const ln_compute *compute, const ln_vectors *x, const ln_product *products, int32_t n_products);

/* Where the result of a gated product goes, [n][gate->rows]: quantised when the matrix that reads it wants
 * that, else as floats. One of the two is NULL. */
typedef struct ln_gated_output {
    float *f32;
    ln_q8_block *q8;
} ln_gated_output;

/* Floats of scratch memory each thread needs for gated products of n vectors. */
size_t ln_gated_scratch(int32_t n);

/* silu(gate x) * (up x). scratch[ln_threads_count][ln_gated_scratch(x->n)], each thread's part aligned to 64 bytes. */
void ln_gated_product_run(const ln_compute *compute, const ln_vectors *x, const ln_matrix *gate, const ln_matrix *up,
                          const ln_gated_output *out, float *scratch);

#endif
