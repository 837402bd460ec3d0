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

/* scale * w x + bias */
typedef struct ln_linear {
    ln_matrix w;
    float *bias; /* [w.rows], or NULL */
    float scale;
} ln_linear;

/* What is added to the result of a linear map. */
typedef struct ln_addend {
    const float *y;     /* [x.n][rows], or NULL */
    const uint8_t *has; /* [x.n], of which vectors it is there */
} ln_addend;

/* y[x.n][rows] = scale * (of(x) + add), then cap * tanh(y / cap) unless cap is 0. */
typedef struct ln_product {
    const ln_linear *of;
    ln_vectors x;
    float *y;
    ln_addend add;
    float scale;
    float cap;
    /* filled in by ln_products_run */
    int64_t tile_rows;
    int32_t first_tile;
} ln_product;

/* Whether products with w read x quantised (ln_vectors.q8) rather than as floats. */
int ln_wants_q8(const ln_matrix *w);

/* All of them as one job. */
void ln_products_run(const ln_compute *compute, ln_product *products, int32_t n_products);

/* activation(gate(x)) * up(x), or activation(up(x)) where gate is NULL: [x.n][rows], as floats, quantised, or
 * both. */
typedef struct ln_gated_product {
    const ln_linear *gate;
    const ln_linear *up;
    ln_addend gate_add;
    ln_addend up_add;
    ln_vectors x;
    float *f32;
    ln_q8_block *q8;
    /* filled in by ln_gated_products_run */
    int64_t tile_rows;
    int32_t first_tile;
} ln_gated_product;

/* Floats of scratch memory each thread needs for gated products of up to n vectors. */
size_t ln_gated_scratch(int32_t n);

/* All of them as one job. scratch[ln_threads_count][ln_gated_scratch(n_vectors)], each thread's part aligned to 64
 * bytes; n_vectors is the largest x.n of any call. */
void ln_gated_products_run(const ln_compute *compute, ln_gated_product *products, int32_t n_products,
                           ln_activation activation, float *scratch, int32_t n_vectors);

#endif
