/* test_kernels.c - every kernel table this processor runs (attention: test_attention.c), against the scalar table or
 * against double arithmetic. Exit status 0, or 1 after printing what failed. Buffers are allocated to the byte, so
 * that a sanitizer sees any step past their ends. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "../kernels/panel_formats.h"
#include "../linnet.h"
#include "../panels.h"

#define UNTOUCHED 12345.0f /* what results are before a product writes them */

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

enum {
    RANDOM, EQUAL, HUGE_SCALE, TINY_SCALE, SUBNORMAL, ZERO, MIXED_SCALE, TIES, ODD_HUGE, ODD_INFINITY, ODD_NAN, N_KINDS
};

#define ODD_ONE 40 /* the only value of its size in the last three kinds; in the second group */

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
        case ODD_HUGE: x[i] = i == ODD_ONE ? FLT_MAX / 2 : r; break;
        case ODD_INFINITY: x[i] = i == ODD_ONE ? -INFINITY : r; break;
        case ODD_NAN: x[i] = i == ODD_ONE ? NAN : r; break;
        default: x[i] = r; break;
        }
    }
}

/* Same bits, or both NaN. */
static int same(float a, float b) {
    return memcmp(&a, &b, sizeof a) == 0 || (isnan(a) && isnan(b));
}

/* ---- element by element ----------------------------------------------------------- */

/* What the fields of a block say of each other and of the values it stands for. */
static void check_q8_block(const ln_q8_block *block, const float *x, int kind) {
    int32_t halves[2] = {0, 0};
    for (int i = 0; i < LN_Q8_GROUP; i++) {
        halves[i * 2 / LN_Q8_GROUP] += block->q[i];
        CHECK(block->q[i] >= -127, "quantize_q8 kind %d: q[%d] is -128", kind, i);
        float error = fabsf(block->scale * (float)block->q[i] - x[i]);
        CHECK(!(error > 0.5001f * block->scale + 0x1p-110f), "quantize_q8 kind %d: error %g", kind, (double)error);
    }
    CHECK(block->bias == -128 * (halves[0] + halves[1]), "quantize_q8 kind %d: bias", kind);
    CHECK(same(block->sum, block->scale * (float)(halves[0] + halves[1])), "quantize_q8 kind %d: sum", kind);
    for (int h = 0; h < 2; h++) {
        CHECK(block->half_bias[h] == -128 * halves[h], "quantize_q8 kind %d: half_bias", kind);
        CHECK(same(block->half_sum[h], block->scale * (float)halves[h]), "quantize_q8 kind %d: half_sum", kind);
    }
    CHECK(kind != ZERO || block->scale == 0.0f, "quantize_q8: zeros have scale %g", (double)block->scale);
}

static void check_quantize(const ln_kernels *table, const ln_kernels *oracle) {
    enum { COLS = 96, GROUPS = COLS / LN_Q8_GROUP };
    for (int kind = 0; kind < N_KINDS; kind++) {
        for (int64_t stride = 1; stride <= LN_TILE; stride += 5) {
            const size_t count = (size_t)((GROUPS - 1) * stride + 1);
            float *x = allocate(COLS * sizeof *x);
            ln_q8_block *out = allocate(count * sizeof *out), *expected = allocate(count * sizeof *expected);
            fill(x, COLS, kind);
            memset(out, 0x55, count * sizeof *out); /* must stay between the groups */
            memset(expected, 0x55, count * sizeof *expected);
            table->quantize_q8(x, COLS, out, stride);
            oracle->quantize_q8(x, COLS, expected, stride);
            CHECK(memcmp(out, expected, count * sizeof *out) == 0, "quantize_q8 kind %d, stride %d", kind, (int)stride);
            for (int g = 0; g < GROUPS; g++) {
                check_q8_block(&out[g * stride], x + g * LN_Q8_GROUP, kind);
            }
            CHECK((kind != ODD_INFINITY && kind != ODD_NAN) || isnan(out[stride].scale),
                  "quantize_q8 hides what is not finite");
            free(x);
            free(out);
            free(expected);
        }
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
    table->activate[LN_SILU](gate, up, N, out);
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
        table->activate[LN_SILU](gate, up, n, out);
        for (int64_t i = 0; i < n; i++) {
            double expected = silu(gate[i]) * (double)up[i];
            CHECK(fabs(out[i] - expected) <= 4e-7 * fabs(expected), "swiglu, n = %d, element %d", (int)n, (int)i);
        }
        free(gate);
        free(up);
        free(out);
    }
}

/* ---- products with float weights --------------------------------------------------------- */

typedef struct product {
    ln_matrix w;
    ln_vectors x;
    uint8_t *weights;
    float *f32;
} product;

/* Rows lie 3 bytes apart and start at an odd address. */
static product make_product(int32_t type, int64_t rows, int64_t cols, int32_t n, int kind) {
    const ln_type_traits *traits = ln_type_traits_of(type);
    size_t used = (size_t)cols * (size_t)traits->block_bytes;
    size_t stride = used + 3;
    product p = {0};
    p.weights = allocate(1 + (size_t)(rows - 1) * stride + used);
    for (int64_t r = 0; r < rows; r++) {
        for (int64_t c = 0; c < cols; c++) {
            float value;
            fill(&value, 1, kind);
            traits->pack(&value, 1, p.weights + 1 + (size_t)r * stride + (size_t)(c * traits->block_bytes));
        }
    }
    p.f32 = allocate((size_t)(n * cols) * sizeof(float));
    fill(p.f32, n * cols, kind);
    p.w = (ln_matrix){p.weights + 1, type, rows, cols, stride};
    p.x = (ln_vectors){.f32 = p.f32, .cols = cols, .n = n};
    return p;
}

/* Against double arithmetic, relative to the sum of magnitudes. */
static void check_values(const product *p, const float *y, int64_t stride) {
    float *row = allocate((size_t)p->w.cols * sizeof *row);
    for (int64_t r = 0; r < p->w.rows; r++) {
        ln_matrix_row(&p->w, r, row);
        for (int32_t v = 0; v < p->x.n; v++) {
            double dot = 0, magnitude = 0;
            for (int64_t c = 0; c < p->w.cols; c++) {
                double product = (double)row[c] * (double)p->f32[v * p->w.cols + c];
                dot += product;
                magnitude += fabs(product);
            }
            float got = y[v * stride + r];
            CHECK(fabs(got - dot) <= 4e-6 * magnitude + 1e-37, "type %d %dx%d, n %d, row %d, vector %d: %g, not %g",
                  (int)p->w.type, (int)p->w.rows, (int)p->w.cols, (int)p->x.n, (int)r, (int)v, (double)got, dot);
        }
    }
    free(row);
}

/* One call for all, against one call for each vector in two parts of the rows: the same bits, nothing else written. */
static void check_float_product(const ln_kernels *table, int32_t type, int64_t rows, int64_t cols, int32_t n,
                                int kind) {
    enum { GUARD = 2 };
    product p = make_product(type, rows, cols, n, kind);
    int64_t stride = rows + GUARD;
    size_t count = (size_t)(stride * n);
    float *y = allocate(count * sizeof *y), *parts = allocate(count * sizeof *parts);
    for (size_t i = 0; i < count; i++) {
        y[i] = parts[i] = UNTOUCHED;
    }
    table->matmul[type](&p.w, 0, rows, &p.x, y, stride);
    check_values(&p, y, stride);
    for (int32_t v = 0; v < n; v++) {
        ln_vectors one = {.f32 = p.f32 + v * cols, .cols = cols, .n = 1};
        int64_t middle = (int64_t)(random_bits() % (uint32_t)(rows + 1));
        table->matmul[type](&p.w, 0, middle, &one, parts + v * stride, stride);
        table->matmul[type](&p.w, middle, rows, &one, parts + v * stride + middle, stride);
    }
    for (size_t i = 0; i < count; i++) {
        CHECK(same(y[i], parts[i]), "type %d %dx%d, n %d: %a in a batch, %a alone", (int)type, (int)rows, (int)cols,
              (int)n, (double)y[i], (double)parts[i]);
        CHECK((int64_t)i % stride < rows || y[i] == UNTOUCHED, "type %d: wrote past the rows", (int)type);
    }
    free(y);
    free(parts);
    free(p.weights);
    free(p.f32);
}

static void check_float_products(const ln_kernels *table) {
    static const int32_t types[] = {LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_BF16};
    static const int kinds[] = {RANDOM, EQUAL, TINY_SCALE, ZERO}; /* f16 holds no larger numbers */
    for (int t = 0; t < 3; t++) {
        for (int64_t cols = 1; cols <= 67; cols++) {
            check_float_product(table, types[t], 1 + cols % 9, cols, 1 + (int32_t)(cols % 9), RANDOM);
        }
        for (int32_t n = 1; n <= 9; n++) {
            check_float_product(table, types[t], 7, 172, n, RANDOM);
            check_float_product(table, types[t], 5, 2048 + 37, n, kinds[n % 4]);
        }
    }
}

/* ---- block types: weights ---------------------------------------------------------------- */

/* Where a block of GGUF has its f16 scale and its f16 minimum; -1: none. */
typedef struct block_type {
    int32_t type;
    int scale_at;
    int minimum_at;
} block_type;

static const block_type block_types[] = {
    {LN_TYPE_Q4_0, 0, -1},   {LN_TYPE_Q4_1, 0, 2},    {LN_TYPE_Q5_0, 0, -1},    {LN_TYPE_Q5_1, 0, 2},
    {LN_TYPE_Q8_0, 0, -1},   {LN_TYPE_Q2_K, 80, 82},  {LN_TYPE_Q3_K, 108, -1},  {LN_TYPE_Q4_K, 0, 2},
    {LN_TYPE_Q5_K, 0, 2},    {LN_TYPE_Q6_K, 208, -1}, {LN_TYPE_IQ4_NL, 0, -1},  {LN_TYPE_IQ4_XS, 0, -1},
    {LN_TYPE_TQ1_0, 52, -1}, {LN_TYPE_TQ2_0, 64, -1}, {LN_TYPE_MXFP4, -1, -1},
};
#define N_BLOCK_TYPES ((int)(sizeof block_types / sizeof *block_types))

/* What fills blocks: the quantiser, or bytes of no meaning with scales put among them. Of the equal bytes some
 * are the smallest and the largest code of every type, -128 of q8_0 and all scales of a super-block at once. */
enum { QUANTISED, RANDOM_BYTES, BYTES_00, BYTES_FF, BYTES_80, BYTES_7F, N_FILLINGS };
enum { USUAL_SCALES, LARGEST_SCALES, SUBNORMAL_SCALES, ZERO_SCALES, N_SCALES };

typedef struct packed {
    block_type type;
    const ln_type_traits *traits;
    uint8_t *gguf; /* rows, at odd addresses */
    size_t row_bytes;
    uint8_t *panels;
    ln_matrix w;
} packed;

static uint16_t random_scale(int scales) {
    const uint16_t sign = (uint16_t)(random_bits() & 0x8000);
    switch (scales) {
    case LARGEST_SCALES: return sign | 0x7bff;
    case SUBNORMAL_SCALES: return (uint16_t)(sign | (1 + random_bits() % 0x3ff));
    case ZERO_SCALES: return sign;
    default: return ln_f32_to_f16(random_float());
    }
}

static void fill_block(const block_type *type, uint8_t *block, int bytes, int filling, int scales) {
    static const uint8_t equal[N_FILLINGS] = {[BYTES_FF] = 0xff, [BYTES_80] = 0x80, [BYTES_7F] = 0x7f};
    for (int i = 0; i < bytes; i++) {
        block[i] = filling == RANDOM_BYTES ? (uint8_t)random_bits() : equal[filling];
    }
    if (type->type == LN_TYPE_MXFP4) { /* an exponent: of 1, 2^20, a subnormal, the smallest */
        static const uint8_t exponents[N_SCALES] = {128, 148, 1, 0};
        block[0] = (uint8_t)(exponents[scales] + (scales == USUAL_SCALES ? random_bits() % 4 : 0));
        return;
    }
    const uint16_t scale = random_scale(scales), minimum = random_scale(scales);
    memcpy(block + type->scale_at, &scale, sizeof scale);
    if (type->minimum_at >= 0) {
        memcpy(block + type->minimum_at, &minimum, sizeof minimum);
    }
}

static void fill_row(const packed *p, uint8_t *row, int64_t cols, int filling, int scales) {
    if (filling == QUANTISED) {
        float *values = allocate((size_t)cols * sizeof *values);
        fill(values, cols, RANDOM);
        p->traits->pack(values, cols, row);
        free(values);
        return;
    }
    for (int64_t c = 0; c < cols; c += p->traits->block_elements, row += p->traits->block_bytes) {
        fill_block(&p->type, row, p->traits->block_bytes, filling, scales);
    }
}

/* Rows lie 3 bytes apart; panels were not zero before they were packed. */
static packed make_packed(block_type type, int64_t rows, int64_t cols, int filling, int scales) {
    packed p = {.type = type, .traits = ln_type_traits_of(type.type)};
    const size_t used = (size_t)(cols / p.traits->block_elements) * (size_t)p.traits->block_bytes;
    const size_t panels_bytes = ln_panels_bytes(type.type, rows, cols);
    p.row_bytes = used + 3;
    p.gguf = allocate((size_t)(rows - 1) * p.row_bytes + used);
    p.panels = allocate(panels_bytes);
    memset(p.panels, 0xff, panels_bytes);
    p.w = (ln_matrix){p.panels, type.type, rows, cols, ln_panel_bytes(type.type, cols)};
    for (int64_t r = 0; r < rows; r++) {
        fill_row(&p, p.gguf + (size_t)r * p.row_bytes, cols, filling, scales);
    }
    for (int64_t r = 0; r < rows; r += LN_PANEL_ROWS) {
        ln_panel_pack(type.type, p.gguf + (size_t)r * p.row_bytes, p.row_bytes,
                      rows - r < LN_PANEL_ROWS ? rows - r : LN_PANEL_ROWS, cols,
                      p.panels + (size_t)(r / LN_PANEL_ROWS) * p.w.stride);
    }
    return p;
}

static void free_packed(packed *p) {
    free(p->gguf);
    free(p->panels);
}

/* Rows read back are those of the file, and those past the last are zero. */
static void check_packed(const packed *p) {
    const int64_t cols = p->w.cols;
    float *row = allocate((size_t)cols * sizeof *row), *expected = allocate((size_t)cols * sizeof *expected);
    const int64_t padded = (p->w.rows + LN_PANEL_ROWS - 1) / LN_PANEL_ROWS * LN_PANEL_ROWS;
    for (int64_t r = 0; r < padded; r++) {
        memset(expected, 0, (size_t)cols * sizeof *expected);
        if (r < p->w.rows) {
            p->traits->unpack(p->gguf + (size_t)r * p->row_bytes, cols, expected);
        }
        ln_matrix_row(&p->w, r, row);
        for (int64_t c = 0; c < cols; c++) {
            CHECK(row[c] == expected[c], "%s %dx%d: element %d of row %d is packed as %a, not %a", p->traits->name,
                  (int)p->w.rows, (int)cols, (int)c, (int)r, (double)row[c], (double)expected[c]);
        }
    }
    free(row);
    free(expected);
}

/* A panel filled row by row from floats is that of the rows the quantiser packs. */
static void check_set_row(block_type type, int64_t cols) {
    packed p = make_packed(type, LN_PANEL_ROWS, cols, RANDOM_BYTES, USUAL_SCALES);
    float *x = allocate((size_t)cols * sizeof *x);
    uint8_t *expected = allocate(p.w.stride);
    for (int64_t i = 0; i < LN_PANEL_ROWS; i++) {
        const int64_t row = (5 * i + 3) % LN_PANEL_ROWS;
        fill(x, cols, i % 4 == 1 ? ZERO : RANDOM);
        ln_panel_set_row(type.type, p.panels, row, x, cols);
        p.traits->pack(x, cols, p.gguf + (size_t)row * p.row_bytes);
        memset(expected, 0xff, p.w.stride);
        ln_panel_pack(type.type, p.gguf, p.row_bytes, LN_PANEL_ROWS, cols, expected);
        CHECK(memcmp(p.panels, expected, p.w.stride) == 0, "%s: row %d set in a panel of %d columns", p.traits->name,
              (int)row, (int)cols);
    }
    free(x);
    free(expected);
    free_packed(&p);
}

static void check_layout(block_type type) {
    const ln_type_traits *traits = ln_type_traits_of(type.type);
    enum { COLS = 512 };
    const double packed_bytes = (double)ln_panel_bytes(type.type, COLS) / LN_PANEL_ROWS;
    const double gguf_bytes = (double)traits->block_bytes * COLS / traits->block_elements;
    CHECK(packed_bytes <= 1.1 * gguf_bytes, "%s: %g bytes of a row take %g packed", traits->name, gguf_bytes,
          packed_bytes);
    CHECK(ln_panel_bytes(type.type, COLS) % LN_LINE == 0, "%s: a panel is not whole lines", traits->name);
    CHECK(ln_panels_bytes(type.type, 33, COLS) == 3 * ln_panel_bytes(type.type, COLS), "%s: panels", traits->name);
    if (type.type == LN_TYPE_Q4_0 || type.type == LN_TYPE_Q8_0) {
        for (int64_t cols = 32; cols <= 160; cols += 32) {
            check_set_row(type, cols);
        }
    }
}

/* ---- block types: products --------------------------------------------------------------- */

/* Vectors of every kind, from values to groups that are not finite, and all at 127. */
typedef struct activations {
    float *f32; /* [n][cols] */
    int64_t cols;
    int32_t n;
} activations;

static activations make_activations(int64_t cols, int32_t n) {
    activations x = {allocate((size_t)(n * cols) * sizeof(float)), cols, n};
    for (int32_t v = 0; v < n; v++) {
        int kind = (v + 1) % N_KINDS;
        fill(x.f32 + v * cols, cols, kind == ODD_HUGE ? RANDOM : kind); /* products with it are no floats */
    }
    return x;
}

/* The first n vectors as a table quantises them. free() what q8 points to. */
static ln_vectors quantised(const ln_kernels *table, const activations *x, int32_t n) {
    ln_q8_block *q8 = allocate((size_t)(n * (x->cols / LN_Q8_GROUP)) * sizeof *q8);
    for (int32_t v = 0; v < n; v++) {
        table->quantize_q8(x->f32 + v * x->cols, x->cols, q8 + ln_q8_first(x->cols, v), ln_q8_tile_width(n, v));
    }
    return (ln_vectors){.f32 = x->f32, .q8 = q8, .cols = x->cols, .n = n};
}

/* The oracle's products of one row against those of the unpacked row and the activations as they were, in double
 * arithmetic. 8 bits put each value off by half a step of its group; sums round once for each product. */
static void check_oracle_row(const packed *p, int64_t row, const activations *x, const ln_q8_block *q8,
                             const float *y, int64_t y_stride) {
    const int64_t cols = p->w.cols, groups = cols / LN_Q8_GROUP;
    float *w = allocate((size_t)cols * sizeof *w);
    p->traits->unpack(p->gguf + (size_t)row * p->row_bytes, cols, w);
    for (int32_t v = 0; v < x->n; v++) {
        double dot = 0, error = 1e-37;
        for (int64_t g = 0; g < groups; g++) {
            ln_panel_group terms = {0};
            ln_panel_group_of(&p->w, row, g, &terms);
            const double scale = (double)q8[ln_q8_first(cols, v) + g * ln_q8_tile_width(x->n, v)].scale;
            for (int i = 0; i < LN_Q8_GROUP; i++) {
                const int h = i * terms.n_scales / LN_Q8_GROUP;
                const double value = (double)x->f32[v * cols + g * LN_Q8_GROUP + i];
                const double weight = (double)w[g * LN_Q8_GROUP + i];
                const double size = fabs((double)terms.scale[h] * terms.q[i]) + fabs((double)terms.minimum[h]);
                dot += weight * value;
                error += fabs(weight) * (0.5001 * scale + 0x1p-109);
                error += size * (fabs(value) + scale) * (double)(4 * groups + 4) * 0x1p-24;
            }
        }
        const float got = y[v * y_stride + row];
        CHECK(isnan(dot) || isinf(dot) ? isnan(got) : fabs(got - dot) <= error,
              "%s %dx%d, row %d, vector %d: %g, not %g within %g", p->traits->name, (int)p->w.rows, (int)cols,
              (int)row, (int)v, (double)got, dot, error);
    }
    free(w);
}

/* y[v * y_stride + row] of the oracle for all rows and vectors; free() it. */
static float *oracle_products(const ln_kernels *oracle, const packed *p, const activations *x) {
    float *y = allocate((size_t)(x->n * p->w.rows) * sizeof *y);
    const ln_vectors q = quantised(oracle, x, x->n);
    oracle->matmul[p->w.type](&p->w, 0, p->w.rows, &q, y, p->w.rows);
    for (int64_t r = 0; r < p->w.rows; r++) {
        check_oracle_row(p, r, x, q.q8, y, p->w.rows);
    }
    free((void *)q.q8);
    return y;
}

/* Rows [begin, end) of n vectors: the bits of the oracle, and nothing written round them. */
static void check_range(const ln_kernels *table, const packed *p, const ln_vectors *x, int64_t begin, int64_t end,
                        const float *expected) {
    const int64_t rows = end - begin, stride = rows + 3;
    const size_t count = (size_t)((x->n - 1) * stride + rows);
    float *y = allocate(count * sizeof *y);
    for (size_t i = 0; i < count; i++) {
        y[i] = UNTOUCHED;
    }
    table->matmul[p->w.type](&p->w, begin, end, x, y, stride);
    for (size_t i = 0; i < count; i++) {
        const int64_t r = (int64_t)i % stride, v = (int64_t)i / stride;
        const float wanted = r < rows ? expected[v * p->w.rows + begin + r] : UNTOUCHED;
        CHECK(same(y[i], wanted), "%s %dx%d, rows %d to %d, n %d: row %d of vector %d is %a, scalar %a",
              p->traits->name, (int)p->w.rows, (int)p->w.cols, (int)begin, (int)end, (int)x->n, (int)(begin + r),
              (int)v, (double)y[i], (double)wanted);
    }
    free(y);
}

/* Parts of the rows as threads get them: from any panel on, to the end of one or of the matrix, and shorter. */
static void check_parts(const ln_kernels *table, const packed *p, const ln_vectors *x, const float *expected) {
    static const int64_t lengths[] = {1, 6, 16, 29, 32};
    for (int64_t begin = 0; begin < p->w.rows; begin += LN_PANEL_ROWS) {
        check_range(table, p, x, begin, p->w.rows, expected);
        for (size_t i = 0; i < sizeof lengths / sizeof *lengths && begin + lengths[i] < p->w.rows; i++) {
            check_range(table, p, x, begin, begin + lengths[i], expected);
        }
    }
}

/* Every table this processor runs gives the oracle's bits for the first n vectors, n in [from, to]. The oracle
 * multiplies all at once: so it is also shown that a result does not depend on how many others there are. */
static void check_tables(const ln_kernels *oracle, const packed *p, int32_t from, int32_t to) {
    const activations x = make_activations(p->w.cols, to);
    float *expected = oracle_products(oracle, p, &x);
    for (const ln_kernels *const *table = ln_kernels_all(); *table != NULL; table++) {
        if (!(*table)->available()) {
            continue;
        }
        table_name = (*table)->name;
        CHECK((*table)->matmul[p->w.type] != NULL, "no product with %s", p->traits->name);
        for (int32_t n = from; n <= to; n++) {
            const ln_vectors q = quantised(*table, &x, n);
            check_range(*table, p, &q, 0, p->w.rows, expected);
            if (n == to) {
                check_parts(*table, p, &q, expected);
            }
            free((void *)q.q8);
        }
    }
    table_name = oracle->name;
    free(expected);
    free(x.f32);
}

static void check_case(const ln_kernels *oracle, block_type type, int64_t rows, int64_t cols, int32_t n, int filling,
                       int scales) {
    if (cols % ln_type_traits_of(type.type)->block_elements != 0) {
        return;
    }
    packed p = make_packed(type, rows, cols, filling, scales);
    check_packed(&p);
    check_tables(oracle, &p, n, n);
    free_packed(&p);
}

static void check_block_products(const ln_kernels *oracle) {
    static const int64_t widths[] = {32, 64, 96, 256, 576, 896, 2048};
    static const int64_t heights[] = {1, 15, 16, 17, 31, 32, 33, 40};
    enum { N_WIDTHS = 7, N_HEIGHTS = 8, MOST = 40 };
    for (int t = 0; t < N_BLOCK_TYPES; t++) {
        const block_type type = block_types[t];
        const int64_t cols = ln_type_traits_of(type.type)->block_elements == 32 ? 96 : 256;
        check_layout(type);
        for (int filling = RANDOM_BYTES; filling < N_FILLINGS; filling++) {
            for (int scales = 0; scales < N_SCALES; scales++) {
                check_case(oracle, type, 17, cols, N_KINDS, filling, scales);
            }
        }
        for (int i = 0; i < N_WIDTHS; i++) {
            const int32_t n = widths[i] < 576 ? 19 : 3;
            check_case(oracle, type, heights[(i + t) % N_HEIGHTS], widths[i], n, QUANTISED, USUAL_SCALES);
            check_case(oracle, type, heights[(i + t + 4) % N_HEIGHTS], widths[i], 2, RANDOM_BYTES, USUAL_SCALES);
        }
        check_case(oracle, type, 150, cols, 25, RANDOM_BYTES, USUAL_SCALES); /* more rows than a strip of wide_kernels.h */
        packed p = make_packed(type, LN_PANEL_ROWS + 2, cols, RANDOM_BYTES, USUAL_SCALES);
        check_tables(oracle, &p, 1, MOST);
        free_packed(&p);
    }
}

/* Every type that a table multiplies with quantised activations is among those tested. */
static void check_types_are_all(const ln_kernels *table) {
    int known[LN_TYPE_LIMIT] = {0};
    for (int t = 0; t < N_BLOCK_TYPES; t++) {
        known[block_types[t].type] = 1;
    }
    for (int32_t type = 0; type < LN_TYPE_LIMIT; type++) {
        const ln_type_traits *traits = ln_type_traits_of(type);
        const int is_block = traits != NULL && traits->quantized_activations;
        CHECK(is_block == known[type], "type %d is not tested", (int)type);
        CHECK(traits == NULL || table->matmul[type] != NULL, "no product with type %d", (int)type);
    }
}

int main(void) {
    const ln_kernels *oracle = ln_kernels_select("scalar");
    CHECK(oracle != NULL, "no scalar table");
    CHECK(ln_kernels_select("nonesuch") == NULL, "an unknown name was found");
    check_types_are_all(oracle);
    check_block_products(oracle);
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
        check_types_are_all(table);
        check_quantize(table, oracle);
        check_f16(table);
        check_add(table);
        check_rms_norm(table);
        check_swiglu(table);
        check_float_products(table);
        printf("%s: ok\n", table->name);
        ran++;
    }
    return ran > 0 ? 0 : 1;
}
