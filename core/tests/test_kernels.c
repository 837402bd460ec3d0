/* Every kernel table this processor runs, against the scalar table or against double
 * arithmetic. Exit status 0, or 1 after printing what failed. Buffers are allocated to
 * the byte, so that a sanitizer sees any step past a row's end. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "../linnet.h"

static const char *table_name = "";

#define CHECK(condition, ...)                                          \
    do {                                                               \
        if (!(condition)) {                                            \
            printf("%s:%d [%s] ", __FILE__, __LINE__, table_name);     \
            printf(__VA_ARGS__);                                       \
            printf("\n");                                              \
            exit(1);                                                   \
        }                                                              \
    } while (0)

/* ---- data ----------------------------------------------------------------------- */

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static uint32_t random_bits(void) { /* xorshift64*, Vigna 2016 */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (uint32_t)((random_state * 0x2545f4914f6cdd1du) >> 32);
}

static float random_float(void) { /* sum of uniforms: bell-shaped, within [-2, 2] */
    float sum = -2.0f;
    for (int i = 0; i < 4; i++) {
        sum += (float)(random_bits() >> 8) * 0x1p-24f;
    }
    return sum;
}

static void *allocate(size_t bytes) {
    void *block = malloc(bytes != 0 ? bytes : 1);
    CHECK(block != NULL, "out of memory");
    return block;
}

enum { RANDOM, EQUAL, HUGE_SCALE, TINY_SCALE, SUBNORMAL, ZERO, MIXED_SCALE, TIES, N_KINDS };

static void fill(float *x, int64_t n, int kind) {
    for (int64_t i = 0; i < n; i++) {
        float r = random_float();
        switch (kind) {
        case EQUAL: x[i] = -1.25f; break;
        case HUGE_SCALE: x[i] = r * 1e18f; break;
        case TINY_SCALE: x[i] = r * 1e-18f; break;
        case SUBNORMAL: x[i] = r * 1e-40f; break;
        case ZERO: x[i] = i % 2 ? 0.0f : -0.0f; break;
        case MIXED_SCALE: x[i] = ldexpf(r, (int)(random_bits() % 40) - 20); break;
        case TIES: x[i] = i % 32 == 0 ? 127.0f : (float)((int)(random_bits() % 254) - 127) + 0.5f; break;
        default: x[i] = r; break;
        }
    }
}

/* Same bits, or both NaN. */
static int same(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

/* ---- element by element ----------------------------------------------------------- */

static void check_quantize(const ln_kernels *table, const ln_kernels *oracle) {
    enum { COLS = 96 };
    for (int kind = 0; kind < N_KINDS + 3; kind++) {
        float *x = allocate(COLS * sizeof *x);
        fill(x, COLS, kind < N_KINDS ? kind : RANDOM);
        if (kind >= N_KINDS) {
            x[40] = kind == N_KINDS ? INFINITY : kind == N_KINDS + 1 ? NAN : FLT_MAX / 2;
        }
        int8_t q[2][COLS];
        float scale[2][COLS / 32];
        int32_t sum[2][COLS / 32];
        table->quantize_q8(x, COLS, q[0], scale[0], sum[0]);
        oracle->quantize_q8(x, COLS, q[1], scale[1], sum[1]);
        for (int i = 0; i < COLS; i++) {
            CHECK(q[0][i] == q[1][i], "quantize_q8 kind %d: q[%d] is %d, not %d", kind, i, q[0][i], q[1][i]);
            CHECK(q[0][i] >= -127, "quantize_q8 kind %d: q[%d] is -128", kind, i);
            int g = i / 32;
            float error = fabsf(scale[0][g] * (float)q[0][i] - x[i]);
            CHECK(!(error > 0.5001f * scale[0][g] + 0x1p-110f), "quantize_q8 kind %d: error %g", kind, (double)error);
        }
        for (int g = 0; g < COLS / 32; g++) {
            int32_t total = 0;
            for (int i = 0; i < 32; i++) {
                total += q[0][32 * g + i];
            }
            CHECK(total == sum[0][g] && sum[0][g] == sum[1][g], "quantize_q8 kind %d: sum", kind);
            CHECK(same(scale[0][g], scale[1][g]), "quantize_q8 kind %d: scale", kind);
            CHECK(kind != ZERO || scale[0][g] == 0.0f, "quantize_q8: zeros have scale %g", (double)scale[0][g]);
        }
        CHECK(kind < N_KINDS || kind == N_KINDS + 2 || isnan(scale[0][1]), "quantize_q8 hides what is not finite");
        free(x);
    }
}

static void check_f16(const ln_kernels *table) {
    for (int64_t n = 1; n <= 67; n++) {
        float *x = allocate((size_t)n * sizeof *x);
        uint16_t *h = allocate((size_t)n * sizeof *h);
        for (int round = 0; round < 200; round++) {
            for (int64_t i = 0; i < n; i++) {
                uint32_t bits = random_bits();
                if (round % 2) { /* exponents around the range of f16 */
                    bits = (bits & 0x807fffffu) | (100 + bits % 50) << 23;
                }
                memcpy(&x[i], &bits, sizeof bits);
            }
            table->f32_to_f16(x, n, h);
            for (int64_t i = 0; i < n; i++) {
                uint16_t expected = ln_f32_to_f16(x[i]);
                CHECK(h[i] == expected, "f32_to_f16(%a) is %04x, not %04x", (double)x[i], h[i], expected);
            }
        }
        free(x);
        free(h);
    }
}

static void check_add(const ln_kernels *table) {
    for (int64_t n = 1; n <= 67; n++) {
        float *x = allocate((size_t)n * sizeof *x), *y = allocate((size_t)n * sizeof *y);
        float *before = allocate((size_t)n * sizeof *before);
        fill(x, n, MIXED_SCALE);
        fill(y, n, MIXED_SCALE);
        memcpy(before, x, (size_t)n * sizeof *x);
        table->add(x, y, n);
        for (int64_t i = 0; i < n; i++) {
            CHECK(same(x[i], before[i] + y[i]), "add, n = %d, element %d", (int)n, (int)i);
        }
        free(x);
        free(y);
        free(before);
    }
}

static void check_rms_norm(const ln_kernels *table) {
    static const int kinds[] = {RANDOM, EQUAL, TINY_SCALE, SUBNORMAL, ZERO, MIXED_SCALE}; /* squares must be floats */
    for (int64_t n = 1; n <= 67; n++) {
        int kind = kinds[n % 6];
        float *x = allocate((size_t)n * sizeof *x), *y = allocate((size_t)n * sizeof *y);
        float *weight = allocate((size_t)n * sizeof *weight);
        fill(x, n, kind);
        fill(weight, n, RANDOM);
        double squares = 0;
        for (int64_t i = 0; i < n; i++) {
            squares += (double)x[i] * (double)x[i];
        }
        double norm = sqrt(squares / (double)n + (double)1e-5f);
        table->rms_norm(x, weight, n, 1e-5f, y);
        for (int64_t i = 0; i < n; i++) {
            double expected = (double)x[i] / norm * (double)weight[i];
            CHECK(fabs(y[i] - expected) <= 1e-6 * fabs(expected) + 1e-44, "rms_norm kind %d, n = %d: %g, not %g", kind,
                  (int)n, (double)y[i], expected);
        }
        table->rms_norm(x, weight, n, 1e-5f, x);
        CHECK(memcmp(x, y, (size_t)n * sizeof *x) == 0, "rms_norm in place, n = %d", (int)n);
        free(x);
        free(y);
        free(weight);
    }
}

static double silu(double x) {
    return x >= 0 ? x / (1 + exp(-x)) : x * exp(x) / (1 + exp(x));
}

static void check_swiglu(const ln_kernels *table) {
    enum { N = 4096 };
    float *gate = allocate(N * sizeof *gate), *up = allocate(N * sizeof *up), *out = allocate(N * sizeof *out);
    for (int i = 0; i < N; i++) { /* from -128 to 128: past where exp(-x) overflows a float */
        gate[i] = (float)(i - N / 2) / 16.0f + random_float() * 0.01f;
        up[i] = i % 3 ? 1.0f : random_float();
    }
    table->swiglu(gate, up, N, out);
    for (int i = 0; i < N; i++) {
        double expected = silu(gate[i]) * (double)up[i];
        double error = fabs(out[i] - expected);
        CHECK(error <= 4e-7 * fabs(expected) + 1e-36, "swiglu(%g) is off by %g of %g", (double)gate[i], error,
              expected);
    }
    free(gate);
    free(up);
    free(out);
    for (int64_t n = 1; n <= 67; n++) {
        gate = allocate((size_t)n * sizeof *gate);
        up = allocate((size_t)n * sizeof *up);
        out = allocate((size_t)n * sizeof *out);
        fill(gate, n, RANDOM);
        fill(up, n, RANDOM);
        table->swiglu(gate, up, n, out);
        for (int64_t i = 0; i < n; i++) {
            double expected = silu(gate[i]) * (double)up[i];
            CHECK(fabs(out[i] - expected) <= 4e-7 * fabs(expected), "swiglu, n = %d, element %d", (int)n, (int)i);
        }
        free(gate);
        free(up);
        free(out);
    }
}

/* ---- attention ---------------------------------------------------------------------- */

typedef struct cache {
    void *bytes;
    size_t stride;
    int32_t type;
} cache;

static float cached(cache c, int32_t position, int32_t i) {
    const uint8_t *row = (const uint8_t *)c.bytes + (size_t)position * c.stride;
    float value;
    uint16_t half;
    if (c.type == LN_TYPE_F32) {
        memcpy(&value, row + 4 * (size_t)i, sizeof value);
        return value;
    }
    memcpy(&half, row + 2 * (size_t)i, sizeof half);
    return ln_f16_to_f32(half);
}

static cache make_cache(int32_t type, int32_t n, int32_t head_dim) {
    size_t bytes = type == LN_TYPE_F32 ? 4 : 2;
    size_t stride = (size_t)(head_dim + 3) * bytes; /* other heads lie between */
    cache c = {allocate((size_t)(n - 1) * stride + (size_t)head_dim * bytes), stride, type};
    for (int32_t p = 0; p < n; p++) {
        for (int32_t i = 0; i < head_dim; i++) {
            float value = random_float();
            uint16_t half = ln_f32_to_f16(value);
            memcpy((uint8_t *)c.bytes + (size_t)p * stride + (size_t)i * bytes,
                   type == LN_TYPE_F32 ? (const void *)&value : (const void *)&half, bytes);
        }
    }
    return c;
}

static void check_attention_case(const ln_kernels *table, int32_t type, int32_t head_dim, int32_t n, float scale) {
    cache k = make_cache(type, n, head_dim), v = make_cache(type, n, head_dim);
    float *q = allocate((size_t)head_dim * sizeof *q), *out = allocate((size_t)head_dim * sizeof *out);
    float *weights = allocate((size_t)n * sizeof *weights);
    double *expected = calloc((size_t)head_dim, sizeof *expected);
    double *scores = allocate((size_t)n * sizeof *scores);
    CHECK(expected != NULL, "out of memory");
    fill(q, head_dim, RANDOM);
    double largest = -INFINITY, total = 0, magnitude = 0;
    for (int32_t p = 0; p < n; p++) {
        double dot = 0, size = 0;
        for (int32_t i = 0; i < head_dim; i++) {
            dot += (double)q[i] * (double)cached(k, p, i);
            size += fabs((double)q[i] * (double)cached(k, p, i));
        }
        scores[p] = dot * (double)scale;
        largest = fmax(largest, scores[p]);
        magnitude = fmax(magnitude, size * (double)scale);
    }
    for (int32_t p = 0; p < n; p++) {
        total += exp(scores[p] - largest);
    }
    for (int32_t p = 0; p < n; p++) {
        for (int32_t i = 0; i < head_dim; i++) {
            expected[i] += exp(scores[p] - largest) / total * (double)cached(v, p, i);
        }
    }
    ln_attention job = {q, k.bytes, v.bytes, k.stride, head_dim, n, scale, weights, out};
    (type == LN_TYPE_F32 ? table->attention_f32 : table->attention_f16)(&job);
    for (int32_t i = 0; i < head_dim; i++) {
        CHECK(fabs(out[i] - expected[i]) <= 2e-6 + 1e-6 * magnitude, "attention type %d, head_dim %d, n %d: %g, not %g",
              (int)type, (int)head_dim, (int)n, (double)out[i], expected[i]);
    }
    free(k.bytes);
    free(v.bytes);
    free(q);
    free(out);
    free(weights);
    free(expected);
    free(scores);
}

static void check_attention(const ln_kernels *table) {
    static const int32_t dims[] = {1, 2, 3, 8, 15, 16, 17, 33, 48, 64, 67, 80, 96, 100, 128, 256, 300};
    static const int32_t lengths[] = {1, 2, 3, 4, 5, 7, 8, 15, 16, 17, 33, 65};
    for (size_t d = 0; d < sizeof dims / sizeof *dims; d++) {
        for (size_t l = 0; l < sizeof lengths / sizeof *lengths; l++) {
            float scale = 1.0f / sqrtf((float)dims[d]);
            check_attention_case(table, LN_TYPE_F32, dims[d], lengths[l], scale);
            check_attention_case(table, LN_TYPE_F16, dims[d], lengths[l], scale);
            check_attention_case(table, LN_TYPE_F32, dims[d], lengths[l], 300.0f); /* overflows a careless softmax */
        }
    }
}

/* ---- matrix products ------------------------------------------------------------------ */

typedef struct product {
    ln_matrix w;
    ln_vectors x;
    uint8_t *weights;
    float *f32;
    int8_t *q8;
    float *scale;
    int32_t *sum;
} product;

static void random_block(int32_t type, uint8_t *block, int bytes, int kind) {
    for (int i = 0; i < bytes; i++) {
        block[i] = kind == EQUAL && type == LN_TYPE_Q8_0 ? 0x80 : kind == EQUAL ? 0 : (uint8_t)random_bits();
    }
    float scale = kind == HUGE_SCALE ? 60000.0f : kind == TINY_SCALE ? 1e-7f : kind == ZERO ? 0.0f : random_float();
    uint16_t half = ln_f32_to_f16(scale);
    memcpy(block, &half, sizeof half);
}

/* Rows lie 3 bytes apart and start at an odd address. */
static product make_product(int32_t type, int64_t rows, int64_t cols, int32_t n, int kind, const ln_kernels *oracle) {
    const ln_type_traits *traits = ln_type_traits_of(type);
    size_t used = (size_t)(cols / traits->block_elements) * (size_t)traits->block_bytes;
    size_t row_bytes = used + 3;
    product p = {0};
    p.weights = allocate(1 + (size_t)(rows - 1) * row_bytes + used);
    for (int64_t r = 0; r < rows; r++) {
        uint8_t *row = p.weights + 1 + (size_t)r * row_bytes;
        for (int64_t c = 0; c < cols; c += traits->block_elements, row += traits->block_bytes) {
            float value;
            if (traits->quantized_activations) {
                random_block(type, row, traits->block_bytes, kind);
            } else {
                fill(&value, 1, kind);
                traits->pack(&value, 1, row);
            }
        }
    }
    size_t count = (size_t)n * (size_t)cols;
    p.f32 = allocate(count * sizeof(float));
    fill(p.f32, (int64_t)count, kind == HUGE_SCALE ? RANDOM : kind);
    p.w = (ln_matrix){p.weights + 1, type, rows, cols, row_bytes};
    p.x = (ln_vectors){.f32 = p.f32, .cols = cols, .n = n};
    if (traits->quantized_activations) {
        p.q8 = allocate(count);
        p.scale = allocate(count / 32 * sizeof(float));
        p.sum = allocate(count / 32 * sizeof(int32_t));
        oracle->quantize_q8(p.f32, (int64_t)count, p.q8, p.scale, p.sum);
        p.x.q8 = p.q8;
        p.x.scale = p.scale;
        p.x.sum = p.sum;
    }
    return p;
}

static void free_product(product *p) {
    free(p->weights);
    free(p->f32);
    free(p->q8);
    free(p->scale);
    free(p->sum);
}

static ln_vectors one_vector(const ln_vectors *x, int32_t v) {
    ln_vectors one = *x;
    one.n = 1;
    one.f32 += v * x->cols;
    if (x->q8 != NULL) {
        one.q8 += v * x->cols;
        one.scale += v * (x->cols / 32);
        one.sum += v * (x->cols / 32);
    }
    return one;
}

/* Against double arithmetic, relative to the sum of magnitudes; against the oracle, bit for bit, for block types. */
static void check_values(const product *p, const float *y, int64_t stride, const float *oracle_y) {
    const ln_type_traits *traits = ln_type_traits_of(p->w.type);
    float *row = allocate((size_t)p->w.cols * sizeof *row);
    for (int64_t r = 0; r < p->w.rows; r++) {
        traits->unpack((const uint8_t *)p->w.data + (size_t)r * p->w.row_bytes, p->w.cols, row);
        for (int32_t v = 0; v < p->x.n; v++) {
            double dot = 0, magnitude = 0;
            for (int64_t c = 0; c < p->w.cols; c++) {
                int64_t at = v * p->w.cols + c;
                double x = (double)p->f32[at];
                if (traits->quantized_activations) {
                    x = (double)p->q8[at] * (double)p->scale[at / 32];
                }
                dot += (double)row[c] * x;
                magnitude += fabs((double)row[c] * x);
            }
            float got = y[v * stride + r];
            CHECK(fabs(got - dot) <= 4e-6 * magnitude + 1e-37, "%s %dx%d, n %d, row %d, vector %d: %g, not %g",
                  traits->name, (int)p->w.rows, (int)p->w.cols, (int)p->x.n, (int)r, (int)v, (double)got, dot);
            CHECK(!traits->quantized_activations || same(got, oracle_y[v * stride + r]),
                  "%s %dx%d, row %d, vector %d: %a, scalar %a", traits->name, (int)p->w.rows, (int)p->w.cols, (int)r,
                  (int)v, (double)got, (double)oracle_y[v * stride + r]);
        }
    }
    free(row);
}

/* One call for all, against one call for each vector in two parts of the rows: the same bits, nothing else written. */
static void check_product(const ln_kernels *table, const ln_kernels *oracle, int32_t type, int64_t rows, int64_t cols,
                          int32_t n, int kind) {
    enum { GUARD = 2 };
    product p = make_product(type, rows, cols, n, kind, oracle);
    int64_t stride = rows + GUARD;
    size_t count = (size_t)(stride * n);
    float *y = allocate(count * sizeof *y), *parts = allocate(count * sizeof *parts);
    float *oracle_y = allocate(count * sizeof *oracle_y);
    for (size_t i = 0; i < count; i++) {
        y[i] = parts[i] = oracle_y[i] = 12345.0f;
    }
    table->matmul[type](&p.w, 0, rows, &p.x, y, stride);
    oracle->matmul[type](&p.w, 0, rows, &p.x, oracle_y, stride);
    check_values(&p, y, stride, oracle_y);
    for (int32_t v = 0; v < n; v++) {
        ln_vectors one = one_vector(&p.x, v);
        int64_t middle = (int64_t)(random_bits() % (uint32_t)(rows + 1));
        table->matmul[type](&p.w, 0, middle, &one, parts + v * stride, stride);
        table->matmul[type](&p.w, middle, rows, &one, parts + v * stride, stride);
    }
    for (size_t i = 0; i < count; i++) {
        CHECK(same(y[i], parts[i]), "type %d %dx%d, n %d: %a in a batch, %a alone", (int)type, (int)rows, (int)cols,
              (int)n, (double)y[i], (double)parts[i]);
        CHECK((int64_t)i % stride < rows || y[i] == 12345.0f, "type %d: wrote past the rows", (int)type);
    }
    free(y);
    free(parts);
    free(oracle_y);
    free_product(&p);
}

static void check_matmul(const ln_kernels *table, const ln_kernels *oracle) {
    static const int32_t plain[] = {LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_BF16};
    static const int32_t blocks[] = {LN_TYPE_Q8_0, LN_TYPE_Q4_0};
    static const int plain_kinds[] = {RANDOM, EQUAL, TINY_SCALE, ZERO}; /* f16 holds no larger numbers */
    static const int block_kinds[] = {RANDOM, EQUAL, HUGE_SCALE, TINY_SCALE, SUBNORMAL, ZERO};
    for (int t = 0; t < 3; t++) {
        for (int64_t cols = 1; cols <= 67; cols++) {
            check_product(table, oracle, plain[t], 1 + cols % 9, cols, 1 + (int32_t)(cols % 9), RANDOM);
        }
        for (int32_t n = 1; n <= 9; n++) {
            check_product(table, oracle, plain[t], 7, 172, n, RANDOM);
            check_product(table, oracle, plain[t], 5, 2048 + 37, n, plain_kinds[n % 4]);
        }
    }
    for (int t = 0; t < 2; t++) {
        for (int64_t rows = 1; rows <= 35; rows++) {
            check_product(table, oracle, blocks[t], rows, 32 * (1 + rows % 5), 1 + (int32_t)(rows % 4), RANDOM);
        }
        for (int32_t n = 1; n <= 18; n++) {
            check_product(table, oracle, blocks[t], 19, 32 * 5, n, block_kinds[n % 6]);
            check_product(table, oracle, blocks[t], 17, 32 * 70, n, block_kinds[(n + 1) % 6]);
        }
    }
}

int main(void) {
    const ln_kernels *oracle = ln_kernels_select("scalar");
    CHECK(oracle != NULL, "no scalar table");
    CHECK(ln_kernels_select("nonesuch") == NULL, "an unknown name was found");
    int ran = 0;
    for (const ln_kernels *const *next = ln_kernels_all(); *next != NULL; next++) {
        const ln_kernels *table = *next;
        table_name = table->name;
        if (!table->available()) {
            printf("%s: this processor cannot run it, skipped\n", table->name);
            continue;
        }
        CHECK(ran > 0 || ln_kernels_select("") == table, "the default is not the best available");
        CHECK(ln_kernels_select(table->name) == table, "select by name");
        check_quantize(table, oracle);
        check_f16(table);
        check_add(table);
        check_rms_norm(table);
        check_swiglu(table);
        check_attention(table);
        check_matmul(table, oracle);
        printf("%s: ok\n", table->name);
        ran++;
    }
    return ran > 0 ? 0 : 1;
}
