/* kernels.h - the arithmetic of the core, one table of functions per instruction set.
 *
 * scalar.c is the oracle and fills every entry; avx2.c, avx512.c ... each name what they
 * do better and where they share the next simpler set's function. Files are compiled
 * with their own flags and chosen at run time, so nothing outside
 * core/kernels/ may include an intrinsics header.
 *
 * Float weights are GGUF rows, used where they lie. Block types are packed into panels of
 * 16 rows when a model is loaded (panels.h). A kernel computes each output from its own row
 * and vector only, in an order that depends on neither the number of threads nor the
 * number of vectors in the batch: the same inputs give the same bits. Products of block
 * types give the same bits on every instruction set. Activations may lie anywhere, but
 * float products of many vectors run up to half as fast again when each starts at 64 bytes.
 */
#ifndef LINNET_KERNELS_H
#define LINNET_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#include "../linnet.h"

#define LN_TYPE_LIMIT 40 /* one more than the largest GGUF type number in use */
#define LN_Q8_GROUP 32   /* activations share a scale over this many columns */
#define LN_PANEL_ROWS 16 /* rows of a block type that lie interleaved */
#define LN_TILE 16       /* quantised vectors whose groups lie next to each other */

/* What a feed-forward block, or a head that scores texts, does to its inner elements. */
typedef enum ln_activation {
    LN_SILU,
    LN_GELU_TANH, /* the approximation by a tanh (Hendrycks & Gimpel 2016) */
    LN_GELU_ERF,
    LN_RELU,
    LN_RELU2,     /* its square (So et al. 2021, "Primer") */
    LN_TANH,
    LN_ACTIVATIONS
} ln_activation;

/* A weight matrix: rows x cols of a GGUF type. */
typedef struct ln_matrix {
    const void *data;
    int32_t type;
    int64_t rows;
    int64_t cols;
    size_t stride; /* bytes from one row to the next; of a block type from one panel to the next */
} ln_matrix;

/* One group of a vector quantised to 8 bits, and the sums its products need. A cache line. */
typedef struct ln_q8_block {
    int8_t q[LN_Q8_GROUP];  /* value = scale * q, |q| <= 127 */
    float scale;
    int32_t bias;           /* -128 * the sum of q: turns products with weights + 128 into products with weights */
    int32_t half_bias[2];   /* the same of each 16 columns */
    float sum;              /* scale * the sum of q: what a weight minimum is multiplied by */
    float half_sum[2];      /* the same of each 16 columns */
    int32_t unused;
} ln_q8_block;

/* n vectors of cols floats, quantised as well when the weights are a block type. */
typedef struct ln_vectors {
    const float *f32;      /* [n][cols] */
    const ln_q8_block *q8; /* [n / LN_TILE][cols / LN_Q8_GROUP][LN_TILE], the last tile as wide as is left */
    int64_t cols;
    int32_t n;
} ln_vectors;

/* How many vectors lie in the tile of vector v. */
static inline int64_t ln_q8_tile_width(int32_t n, int32_t v) {
    int32_t left = n - v / LN_TILE * LN_TILE;
    return left < LN_TILE ? left : LN_TILE;
}

/* Index of group 0 of vector v; its next groups follow ln_q8_tile_width apart. */
static inline int64_t ln_q8_first(int64_t cols, int32_t v) {
    return v / LN_TILE * LN_TILE * (cols / LN_Q8_GROUP) + v % LN_TILE;
}

/* y[v * y_stride + row - row_begin] = dot(w[row], x[v]) for rows [row_begin, row_end), all v. Of a block
 * type row_begin is a multiple of LN_PANEL_ROWS. */
typedef void ln_matmul_fn(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                          const ln_vectors *x, float *y, int64_t y_stride);

/* ---- attention ---------------------------------------------------------------
 *
 * Keys and values lie in pages of LN_PAGE positions (pages.h); a kernel takes LN_CHUNK positions at a time.
 * Where chunks begin depends on nothing but the position, and a chunk's sums on nothing but the row: so the
 * same bits come from any number of rows and threads. Of a page
 *
 *   keys     per 16 positions [head_dim][16] of f32 or f16, so that 16 scores are summed side by side; of a
 *            block type one panel (panels.h), and scores are a matrix product
 *   values   [LN_PAGE][head_dim padded to LN_LANES] of f32 or f16; of a block type rows of GGUF blocks
 */
#define LN_CHUNK 256          /* positions, a multiple of LN_PAGE */
#define LN_CHUNK_PAGES (LN_CHUNK / LN_PAGE)
#define LN_ATTENTION_ROWS 64  /* queries of one call */
#define LN_LANES 16           /* positions of keys side by side; no vector register holds more floats */

/* What softmax over some positions leaves of a row (Milakov & Gimelshein 2018): the values summed with
 * weights exp(score - largest), then largest, then the sum of the weights; 0 where there was no position. */
static inline int32_t ln_padded(int32_t head_dim) {
    return (head_dim + LN_LANES - 1) / LN_LANES * LN_LANES;
}
static inline int32_t ln_partial_floats(int32_t head_dim) {
    return ln_padded(head_dim) + LN_LANES;
}
static inline int32_t ln_partial_largest(int32_t head_dim) {
    return ln_padded(head_dim);
}
static inline int32_t ln_partial_sum(int32_t head_dim) {
    return ln_padded(head_dim) + 1;
}

/* Queries that share keys and values, over one chunk of them. */
typedef struct ln_attention {
    ln_vectors q;         /* [n][head_dim], n <= LN_ATTENTION_ROWS, already scaled; quantised too where keys are */
    const int32_t *begin; /* [n]: row i attends to positions [begin[i], end[i]) of the chunk; nothing else, */
    const int32_t *end;   /* whatever it holds, changes the result */
    const uint8_t *keys[LN_CHUNK_PAGES];
    const uint8_t *values[LN_CHUNK_PAGES];
    const uint8_t *next_keys[LN_CHUNK_PAGES]; /* of the chunk that probably follows: fetched into the cache meanwhile */
    int32_t type;
    size_t key_stride;    /* bytes of 16 positions */
    size_t value_stride;  /* bytes of one */
    ln_matmul_fn *matmul; /* of a block type */
    float cap;            /* scores become cap * tanh(score / cap); 0 = they stay */
    float *scores;        /* [n][LN_CHUNK], scratch */
    float *widened;       /* [LN_PAGE][padded head_dim], scratch */
    float *partial;       /* row i's result is at partial + i * partial_stride */
    size_t partial_stride;
} ln_attention;

typedef struct ln_kernels {
    const char *name;
    /* Can this processor run the table? */
    int (*available)(void);
    /* NULL where no kernel exists for a type. */
    ln_matmul_fn *matmul[LN_TYPE_LIMIT];
    /* Quantises cols floats (a multiple of LN_Q8_GROUP), symmetric, round to nearest even; group g goes to
     * out[g * stride]. */
    void (*quantize_q8)(const float *x, int64_t cols, ln_q8_block *out, int64_t stride);
    /* y = x / sqrt(mean(x^2) + eps) * weight; x and y may be the same. */
    void (*rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *y);
    /* y = (x - mean(x)) / sqrt(variance(x) + eps) * weight + bias, or without where bias is NULL; x and y may be the
     * same. */
    void (*layer_norm)(const float *x, const float *weight, const float *bias, int64_t n, float eps, float *y);
    /* out = activation(x) * up, or without where up is NULL; out may be x. */
    void (*activate[LN_ACTIVATIONS])(const float *x, const float *up, int64_t n, float *out);
    /* x = cap * tanh(x / cap) */
    void (*soft_cap)(float *x, int64_t n, float cap);
    /* x += y */
    void (*add)(float *x, const float *y, int64_t n);
    void (*f32_to_f16)(const float *x, int64_t n, uint16_t *y);
    void (*attend)(const ln_attention *job);
    /* Takes one more partial result into total; the order of such calls is part of the result. */
    void (*merge)(int32_t head_dim, const float *partial, float *total);
} ln_kernels;

/* Every table compiled in, best first; the last is scalar. NULL-terminated. */
const ln_kernels *const *ln_kernels_all(void);

/* The table called name ("" = the best available); NULL when there is none this processor can run. */
const ln_kernels *ln_kernels_select(const char *name);

/* ---- quants.c: packing and unpacking rows of every type -------------------------------- */

typedef struct ln_type_traits {
    const char *name;
    int32_t block_elements;
    int32_t block_bytes;
    int quantized_activations; /* matmul wants x quantised to q8 */
    float largest;             /* magnitude up to which a packed value stays finite; infinity = no limit of its own */
    void (*pack)(const float *source, int64_t n, void *target);
    void (*unpack)(const void *source, int64_t n, float *target);
} ln_type_traits;

/* NULL for a type the core does not know. */
const ln_type_traits *ln_type_traits_of(int32_t type);

float ln_f16_to_f32(uint16_t h);
uint16_t ln_f32_to_f16(float f); /* round to nearest even, overflow to infinity, NaN stays NaN */

#endif
