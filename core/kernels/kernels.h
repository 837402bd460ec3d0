/* kernels.h - the arithmetic of the core, one table of functions per instruction set.
 *
 * scalar.c is the oracle and fills every entry; avx2.c, avx512.c ... each name what they
 * do better and where they share the next simpler set's function. Files are compiled
 * with their own flags and chosen at run time, so nothing outside
 * core/kernels/ may include an intrinsics header.
 *
 * Weights are GGUF rows, used where they lie: row-major, block types along the row,
 * no alignment beyond that of a byte. A kernel computes each output from its own row
 * and vector only, in an order that depends on neither the number of threads nor the
 * number of vectors in the batch: the same inputs give the same bits. Products of block
 * types give the same bits on every instruction set. Activations may lie anywhere, but
 * float products of many vectors run up to half as fast again when each starts at 64 bytes.
 */
#ifndef LINNET_KERNELS_H
#define LINNET_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#define LN_TYPE_LIMIT 40 /* one more than the largest GGUF type number in use */
#define LN_Q8_GROUP 32   /* activations share a scale over this many columns */

/* A weight matrix: rows x cols of a GGUF type. */
typedef struct ln_matrix {
    const void *data;
    int32_t type;
    int64_t rows;
    int64_t cols;
    size_t row_bytes;
} ln_matrix;

/* n vectors of cols floats; quantised to int8 as well when the weights are a block type. */
typedef struct ln_vectors {
    const float *f32;     /* [n][cols] */
    const int8_t *q8;     /* [n][cols], value = scale * q8, |q8| <= 127 */
    const float *scale;   /* [n][cols / LN_Q8_GROUP] */
    const int32_t *sum;   /* [n][cols / LN_Q8_GROUP], the sum of a group's q8 */
    int64_t cols;
    int32_t n;
} ln_vectors;

/* y[v * y_stride + row] = dot(w[row], x[v]) for rows [row_begin, row_end), all v. */
typedef void ln_matmul_fn(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                          const ln_vectors *x, float *y, int64_t y_stride);

/* One query head over a key/value cache. */
typedef struct ln_attention {
    const float *q;      /* [head_dim] */
    const void *k;       /* position p at k + p * kv_stride_bytes: [head_dim] of f32 or f16 */
    const void *v;       /* the same layout as k */
    size_t kv_stride_bytes;
    int32_t head_dim;
    int32_t n;           /* positions to attend to */
    float scale;         /* applied to q.k */
    float *weights;      /* [n] scratch */
    float *out;          /* [head_dim] */
} ln_attention;

typedef struct ln_kernels {
    const char *name;
    /* Can this processor run the table? */
    int (*available)(void);
    /* NULL where no kernel exists for a type. */
    ln_matmul_fn *matmul[LN_TYPE_LIMIT];
    /* Quantises cols floats (a multiple of LN_Q8_GROUP), symmetric, round to nearest even. */
    void (*quantize_q8)(const float *x, int64_t cols, int8_t *q8, float *scale, int32_t *sum);
    /* y = x / sqrt(mean(x^2) + eps) * weight; x and y may be the same. */
    void (*rms_norm)(const float *x, const float *weight, int64_t n, float eps, float *y);
    /* out = silu(gate) * up */
    void (*swiglu)(const float *gate, const float *up, int64_t n, float *out);
    /* x += y */
    void (*add)(float *x, const float *y, int64_t n);
    void (*f32_to_f16)(const float *x, int64_t n, uint16_t *y);
    void (*attention_f32)(const ln_attention *job);
    void (*attention_f16)(const ln_attention *job);
} ln_kernels;

/* Every table compiled in, best first; the last is scalar. NULL-terminated. */
const ln_kernels *const *ln_kernels_all(void);

/* The table called name ("" = the best available); NULL when there is none this processor can run. */
const ln_kernels *ln_kernels_select(const char *name);

/* ---- quants.c: block formats, described once -------------------------------- */

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
