/* scalar.c - every kernel in plain C: the oracle the others are tested against, and what
 * runs where nothing better is known. Written to be read; eight independent sums in the
 * float dot product let a compiler use whatever vectors the plainest processor has.
 *
 * The block types have one defined result, the same bits on every instruction set:
 * panel_kernels.h says which.
 */
#include <math.h>
#include <string.h>

#include "isa.h"
#include "panel_formats.h"
#include "../linnet.h"
#include "../panels.h"

#define LANES 8        /* independent partial sums of a float dot product */
#define STRIP 256      /* columns unpacked at a time */

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

/* ---- matrix products --------------------------------------------------------- */

static void matmul_plain(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                         const ln_vectors *x, float *y, int64_t y_stride) {
    const ln_type_traits *type = ln_type_traits_of(w->type);
    float strip[STRIP];
    for (int64_t row = row_begin; row < row_end; row++) {
        const uint8_t *weights = (const uint8_t *)w->data + (size_t)row * w->stride;
        for (int32_t v = 0; v < x->n; v++) {
            y[v * y_stride + row - row_begin] = 0.0f;
        }
        for (int64_t c = 0; c < w->cols; c += STRIP) {
            int64_t n = w->cols - c < STRIP ? w->cols - c : STRIP;
            type->unpack(weights + c * type->block_bytes, n, strip);
            for (int32_t v = 0; v < x->n; v++) {
                y[v * y_stride + row - row_begin] += dot(strip, x->f32 + v * x->cols + c, n);
            }
        }
    }
}

static int32_t dot_int8(const int8_t *a, const int8_t *b, int n) {
    int32_t sum = 0;
    for (int i = 0; i < n; i++) {
        sum += a[i] * b[i];
    }
    return sum;
}

/* total plus one group of a row times one group of a vector. */
static float add_group(const ln_panel_group *w, const ln_q8_block *x, float total) {
    const int n = LN_Q8_GROUP / w->n_scales;
    for (int i = 0; i < w->n_scales; i++) {
        total = fmaf((float)dot_int8(w->q + i * n, x->q + i * n, n), w->scale[i] * x->scale, total);
        if (w->has_minimum) {
            total = fmaf(w->minimum[i], w->n_scales == 1 ? x->sum : x->half_sum[i], total);
        }
    }
    return total;
}

static void matmul_panels(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                          const ln_vectors *x, float *y, int64_t y_stride) {
    for (int64_t row = row_begin; row < row_end; row++) {
        for (int32_t v = 0; v < x->n; v++) {
            y[v * y_stride + row - row_begin] = 0.0f;
        }
        for (int64_t g = 0; g < w->cols / LN_Q8_GROUP; g++) {
            ln_panel_group group = {0};
            ln_panel_group_of(w, row, g, &group);
            for (int32_t v = 0; v < x->n; v++) {
                const int64_t at = ln_q8_first(x->cols, v) + g * ln_q8_tile_width(x->n, v);
                float *total = &y[v * y_stride + row - row_begin];
                *total = add_group(&group, &x->q8[at], *total);
            }
        }
    }
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

static void quantize_q8(const float *x, int64_t cols, ln_q8_block *out, int64_t stride) {
    for (int64_t i = 0; i < cols; i += LN_Q8_GROUP, x += LN_Q8_GROUP, out += stride) {
        uint32_t bits = largest_bits(x, LN_Q8_GROUP);
        float largest;
        memcpy(&largest, &bits, sizeof largest);
        if (ln_q8_degenerate(out, bits)) {
            continue;
        }
        float inverse = 127.0f / largest;
        int32_t sums[2] = {0, 0};
        for (int j = 0; j < LN_Q8_GROUP; j++) {
            float scaled = x[j] * inverse;
            float rounded = scaled + 0x1.8p23f; /* one is now the last bit: to nearest, halves to even */
            int32_t q = (int32_t)(rounded - 0x1.8p23f);
            out->q[j] = (int8_t)q;
            sums[j * 2 / LN_Q8_GROUP] += q;
        }
        ln_q8_finish(out, largest / 127.0f, sums[0], sums[1]);
    }
}

static void rms_norm(const float *x, const float *weight, int64_t n, float eps, float *y) {
    float inverse = 1.0f / sqrtf(dot(x, x, n) / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = x[i] * inverse * weight[i];
    }
}

static void layer_norm(const float *x, const float *weight, const float *bias, int64_t n, float eps, float *y) {
    float mean = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        mean += x[i];
    }
    mean /= (float)n;
    float variance = 0.0f;
    for (int64_t i = 0; i < n; i++) {
        variance += (x[i] - mean) * (x[i] - mean);
    }
    const float inverse = 1.0f / sqrtf(variance / (float)n + eps);
    for (int64_t i = 0; i < n; i++) {
        y[i] = (x[i] - mean) * inverse * weight[i] + (bias != NULL ? bias[i] : 0.0f);
    }
}

static float silu(float x) {
    return x / (1.0f + expf(-x));
}

static float gelu_tanh(float x) {
    return 0.5f * x * (1.0f + tanhf(0.79788456f * (x + 0.044715f * x * x * x)));
}

static float gelu_erf(float x) {
    return 0.5f * x * erfcf(-0.707106781f * x);
}

static float relu(float x) {
    return 0.0f > x ? 0.0f : x; /* NaN stays */
}

static float relu2(float x) {
    return relu(x) * relu(x);
}

#define ACTIVATION(f)                                                                  \
    static void activate_##f(const float *x, const float *up, int64_t n, float *out) { \
        for (int64_t i = 0; i < n; i++) {                                              \
            out[i] = up != NULL ? f(x[i]) * up[i] : f(x[i]);                           \
        }                                                                              \
    }
ACTIVATION(silu)
ACTIVATION(gelu_tanh)
ACTIVATION(gelu_erf)
ACTIVATION(relu)
ACTIVATION(relu2)
ACTIVATION(tanhf)
#undef ACTIVATION

static void soft_cap(float *x, int64_t n, float cap) {
    for (int64_t i = 0; i < n; i++) {
        x[i] = tanhf(x[i] / cap) * cap;
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

/* One float is a vector of one lane. */
typedef float vec;
#define VEC_LANES 1

static inline vec vec_set(float a) {
    return a;
}

static inline vec vec_add(vec a, vec b) {
    return a + b;
}

static inline vec vec_if_negative(vec a, vec b, vec c) {
    return signbit(a) ? b : c;
}

static inline vec vec_sub(vec a, vec b) {
    return a - b;
}

static inline vec vec_mul(vec a, vec b) {
    return a * b;
}

static inline vec vec_max(vec a, vec b) {
    return a > b ? a : b;
}

static inline vec vec_fma(vec a, vec b, vec c) {
    return a * b + c; /* rounded twice: processors without the instruction are slow at rounding once */
}

static inline float vec_sum(vec a) {
    return a;
}

static inline float vec_highest(vec a) {
    return a;
}

static inline vec vec_load_f32(const uint8_t *p) {
    vec a;
    memcpy(&a, p, sizeof a);
    return a;
}

static inline vec vec_load_f16(const uint8_t *p) {
    uint16_t half;
    memcpy(&half, p, sizeof half);
    return ln_f16_to_f32(half);
}

static inline vec vec_set_f16(const uint8_t *p) {
    return vec_load_f16(p);
}

static inline vec vec_load_i8(const uint8_t *p) {
    int8_t q;
    memcpy(&q, p, sizeof q);
    return (float)q;
}

static inline void vec_store(float *p, vec a) {
    *p = a;
}

static inline vec vec_div(vec a, vec b) {
    return a / b;
}

static inline vec exp_nonpositive(vec a) {
    return expf(a);
}

static inline vec tanh_of(vec a) {
    return tanhf(a);
}

#include "attention_kernels.h"

static int always(void) {
    return 1;
}

#define MATMUL_ENTRY(type, ...) [LN_TYPE_##type] = matmul_panels,

const ln_kernels ln_scalar_kernels = {
    .name = "scalar",
    .available = always,
    .matmul =
        {
            [LN_TYPE_F32] = matmul_plain,
            [LN_TYPE_F16] = matmul_plain,
            [LN_TYPE_BF16] = matmul_plain,
            LN_PANEL_FORMATS(MATMUL_ENTRY)
        },
    .quantize_q8 = quantize_q8,
    .rms_norm = rms_norm,
    .layer_norm = layer_norm,
    .activate =
        {
            [LN_SILU] = activate_silu,
            [LN_GELU_TANH] = activate_gelu_tanh,
            [LN_GELU_ERF] = activate_gelu_erf,
            [LN_RELU] = activate_relu,
            [LN_RELU2] = activate_relu2,
            [LN_TANH] = activate_tanhf,
        },
    .soft_cap = soft_cap,
    .add = add,
    .f32_to_f16 = f32_to_f16,
    .attend = attend,
    .merge = merge,
};
