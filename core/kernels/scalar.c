/* scalar.c - every kernel in plain C: the oracle the others are tested against, and what
 * runs where nothing better is known. Written to be read; eight independent sums in the
 * float dot product let a compiler use whatever vectors the plainest processor has.
 *
 * The block types have one defined result, the same bits on every instruction set:
 * exact integer dot products of 32, each times (weight scale * activation scale), each
 * product rounded, added in the order of the columns. No step may be fused or
 * reordered.
 */
#include <math.h>
#include <string.h>

#include "isa.h"
#include "../linnet.h"

#define LANES 8        /* independent partial sums of a float dot product */
#define STRIP 256      /* columns unpacked at a time */
#define SCALE_BYTES 2  /* f16 scale in front of a block */

/* ---- dot products ----------------------------------------------------------- */

static float dot(const float *a, const float *b, int64_t n) {
    float sums[LANES] = {0};
    int64_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int lane = 0; lane < LANES; lane++) {
            sums[lane] += a[i + lane] * b[i + lane];
        }
    }
    for (; i < n; i++) {
        sums[i % LANES] += a[i] * b[i];
    }
    return ((sums[0] + sums[4]) + (sums[2] + sums[6])) + ((sums[1] + sums[5]) + (sums[3] + sums[7]));
}

static int32_t dot_q8_0(const uint8_t *quants, const int8_t *x) {
    int32_t sum = 0;
    for (int j = 0; j < LN_Q8_GROUP; j++) {
        int8_t q;
        memcpy(&q, quants + j, 1);
        sum += q * x[j];
    }
    return sum;
}

static int32_t dot_q4_0(const uint8_t *quants, const int8_t *x) {
    int32_t sum = 0;
    for (int j = 0; j < LN_Q8_GROUP / 2; j++) {
        sum += ((quants[j] & 15) - 8) * x[j];
        sum += ((quants[j] >> 4) - 8) * x[j + LN_Q8_GROUP / 2];
    }
    return sum;
}

/* ---- matrix products --------------------------------------------------------- */

static void matmul_plain(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                         const ln_vectors *x, float *y, int64_t y_stride) {
    const ln_type_traits *type = ln_type_traits_of(w->type);
    float strip[STRIP];
    for (int64_t row = row_begin; row < row_end; row++) {
        const uint8_t *weights = (const uint8_t *)w->data + (size_t)row * w->row_bytes;
        for (int32_t v = 0; v < x->n; v++) {
            y[v * y_stride + row] = 0.0f;
        }
        for (int64_t c = 0; c < w->cols; c += STRIP) {
            int64_t n = w->cols - c < STRIP ? w->cols - c : STRIP;
            type->unpack(weights + c * type->block_bytes, n, strip);
            for (int32_t v = 0; v < x->n; v++) {
                y[v * y_stride + row] += dot(strip, x->f32 + v * x->cols + c, n);
            }
        }
    }
}

static void matmul_blocks(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                          const ln_vectors *x, float *y, int64_t y_stride,
                          int32_t (*block_dot)(const uint8_t *, const int8_t *)) {
    int64_t n_blocks = w->cols / LN_Q8_GROUP;
    int32_t block_bytes = ln_type_traits_of(w->type)->block_bytes;
    for (int64_t row = row_begin; row < row_end; row++) {
        for (int32_t v = 0; v < x->n; v++) {
            const uint8_t *block = (const uint8_t *)w->data + (size_t)row * w->row_bytes;
            const int8_t *q8 = x->q8 + v * x->cols;
            const float *scale = x->scale + v * n_blocks;
            float sum = 0.0f;
            for (int64_t b = 0; b < n_blocks; b++, block += block_bytes, q8 += LN_Q8_GROUP) {
                uint16_t half;
                memcpy(&half, block, sizeof half);
                float product_scale = ln_f16_to_f32(half) * scale[b];
                float product = product_scale * (float)block_dot(block + SCALE_BYTES, q8);
                sum += product;
            }
            y[v * y_stride + row] = sum;
        }
    }
}

static void matmul_q8_0(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                        const ln_vectors *x, float *y, int64_t y_stride) {
    matmul_blocks(w, row_begin, row_end, x, y, y_stride, dot_q8_0);
}

static void matmul_q4_0(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                        const ln_vectors *x, float *y, int64_t y_stride) {
    matmul_blocks(w, row_begin, row_end, x, y, y_stride, dot_q4_0);
}

/* ---- activations ------------------------------------------------------------- */

/* The largest magnitude as the bits of a float: of non-negative floats the larger has the
 * larger bits, infinity and NaN the largest of all, so one comparison finds both. */
static uint32_t largest_bits(const float *x, int n) {
    uint32_t largest = 0;
    for (int i = 0; i < n; i++) {
        uint32_t bits;
        memcpy(&bits, x + i, sizeof bits);
        bits &= 0x7fffffffu;
        largest = bits > largest ? bits : largest;
    }
    return largest;
}

static void quantize_q8(const float *x, int64_t cols, int8_t *q8, float *scale, int32_t *sum) {
    for (int64_t i = 0; i < cols; i += LN_Q8_GROUP, x += LN_Q8_GROUP, q8 += LN_Q8_GROUP) {
        int64_t group = i / LN_Q8_GROUP;
        uint32_t bits = largest_bits(x, LN_Q8_GROUP);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (bits < LN_Q8_SMALLEST_BITS || bits >= LN_INFINITY_BITS) {
            memset(q8, 0, LN_Q8_GROUP);
            scale[group] = bits < LN_Q8_SMALLEST_BITS ? 0.0f : largest - largest; /* infinity and NaN give NaN */
            sum[group] = 0;
            continue;
        }
        float inverse = 127.0f / largest;
        int32_t total = 0;
        for (int j = 0; j < LN_Q8_GROUP; j++) {
            float scaled = x[j] * inverse;
            float rounded = scaled + 0x1.8p23f; /* one is now the last bit: to nearest, halves to even */
            int32_t q = (int32_t)(rounded - 0x1.8p23f);
            q8[j] = (int8_t)q;
            total += q;
        }
        scale[group] = largest / 127.0f;
        sum[group] = total;
    }
}

static void rms_norm(const float *x, const float *weight, int64_t n, float eps, float *y) {
    float inverse = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * inverse * weight[i];
    }
}

static void swiglu(const float *gate, const float *up, int64_t n, float *out) {
    for (int64_t i = 0; i < n; i++) {
        out[i] = gate[i] / (1.0f + expf(-gate[i])) * up[i];
    }
}

static void add(float *x, const float *y, int64_t n) {
    for (int64_t i = 0; i < n; i++) {
        x[i] += y[i];
    }
}

static void f32_to_f16(const float *x, int64_t n, uint16_t *y) {
    for (int64_t i = 0; i < n; i++) {
        y[i] = ln_f32_to_f16(x[i]);
    }
}

/* ---- attention ---------------------------------------------------------------- */

static void attention(const ln_attention *job, const ln_type_traits *type) {
    float strip[STRIP];
    int32_t dim = job->head_dim;
    float largest = -INFINITY;
    for (int32_t p = 0; p < job->n; p++) {
        const uint8_t *key = (const uint8_t *)job->k + (size_t)p * job->kv_stride_bytes;
        float score = 0.0f;
        for (int32_t c = 0; c < dim; c += STRIP) {
            int32_t n = dim - c < STRIP ? dim - c : STRIP;
            type->unpack(key + (size_t)c * (size_t)type->block_bytes, n, strip);
            score += dot(job->q + c, strip, n);
        }
        job->weights[p] = score * job->scale;
        largest = fmaxf(largest, job->weights[p]);
    }
    float total = 0.0f;
    for (int32_t p = 0; p < job->n; p++) {
        job->weights[p] = expf(job->weights[p] - largest);
        total += job->weights[p];
    }
    memset(job->out, 0, (size_t)dim * sizeof(float));
    for (int32_t p = 0; p < job->n; p++) {
        const uint8_t *value = (const uint8_t *)job->v + (size_t)p * job->kv_stride_bytes;
        float weight = job->weights[p] / total;
        for (int32_t c = 0; c < dim; c += STRIP) {
            int32_t n = dim - c < STRIP ? dim - c : STRIP;
            type->unpack(value + (size_t)c * (size_t)type->block_bytes, n, strip);
            for (int32_t i = 0; i < n; i++) {
                job->out[c + i] += weight * strip[i];
            }
        }
    }
}

static void attention_f32(const ln_attention *job) {
    attention(job, ln_type_traits_of(LN_TYPE_F32));
}

static void attention_f16(const ln_attention *job) {
    attention(job, ln_type_traits_of(LN_TYPE_F16));
}

static int always(void) {
    return 1;
}

const ln_kernels ln_scalar_kernels = {
    .name = "scalar",
    .available = always,
    .matmul =
        {
            [LN_TYPE_F32] = matmul_plain,
            [LN_TYPE_F16] = matmul_plain,
            [LN_TYPE_BF16] = matmul_plain,
            [LN_TYPE_Q8_0] = matmul_q8_0,
            [LN_TYPE_Q4_0] = matmul_q4_0,
        },
    .quantize_q8 = quantize_q8,
    .rms_norm = rms_norm,
    .swiglu = swiglu,
    .add = add,
    .f32_to_f16 = f32_to_f16,
    .attention_f32 = attention_f32,
    .attention_f16 = attention_f16,
};
