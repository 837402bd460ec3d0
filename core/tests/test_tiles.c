/* test_tiles.c - tile_kernels.h on vectors and tiles that are written out here, against the scalar table: what amx.c
 * does but for its intrinsics, on any processor. The tiles refuse what the SDM says a processor refuses. Exit status
 * 0, or 1 after printing what failed. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/isa.h"
#include "../panels.h"
#include "check.h"

/* ---- sixteen floats, sixteen times four bytes ------------------------------------ */

#define VEC_LANES 16

typedef struct vec {
    float f[VEC_LANES];
} vec;

typedef struct ivec {
    uint32_t u[VEC_LANES];
} ivec;

#define EACH(type, value)                                    \
    type out;                                                \
    for (int i = 0; i < VEC_LANES; i++) {                    \
        value;                                               \
    }                                                        \
    return out

static vec vec_set(float a) { EACH(vec, out.f[i] = a); }
static vec vec_sub(vec a, vec b) { EACH(vec, out.f[i] = a.f[i] - b.f[i]); }
static vec vec_mul(vec a, vec b) { EACH(vec, out.f[i] = a.f[i] * b.f[i]); }
static vec vec_fma(vec a, vec b, vec c) { EACH(vec, out.f[i] = fmaf(a.f[i], b.f[i], c.f[i])); }
static vec vec_round(vec a) { EACH(vec, out.f[i] = nearbyintf(a.f[i])); }
static vec vec_load_u8(const uint8_t *p) { EACH(vec, out.f[i] = p[i]); }
static vec vec_load_i8(const uint8_t *p) { EACH(vec, out.f[i] = (int8_t)p[i]); }
static vec vec_load_i32(const int32_t *p) { EACH(vec, out.f[i] = (float)p[i]); }

static uint16_t half_at(const uint8_t *p, int i) {
    uint16_t half;
    memcpy(&half, p + 2 * i, sizeof half);
    return half;
}

static float widened(uint16_t half) {
    uint32_t bits = (uint32_t)half << 16;
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static vec vec_load_f16(const uint8_t *p) { EACH(vec, out.f[i] = ln_f16_to_f32(half_at(p, i))); }
static vec vec_load_bf16(const uint8_t *p) { EACH(vec, out.f[i] = widened(half_at(p, i))); }

static vec vec_load_f32_part(const uint8_t *p, int64_t n) {
    vec out = vec_set(0.0f);
    memcpy(out.f, p, (size_t)n * sizeof(float));
    return out;
}

static vec vec_load_f32(const uint8_t *p) {
    return vec_load_f32_part(p, VEC_LANES);
}

static void vec_store_part(float *p, vec a, int64_t n) {
    memcpy(p, a.f, (size_t)n * sizeof(float));
}

static void vec_store(float *p, vec a) {
    vec_store_part(p, a, VEC_LANES);
}

static ivec ivec_load(const uint8_t *p) {
    ivec out;
    memcpy(out.u, p, sizeof out.u);
    return out;
}

static void ivec_store(uint8_t *p, ivec a) {
    memcpy(p, a.u, sizeof a.u);
}

static ivec ivec_shift(ivec a, int n) { EACH(ivec, out.u[i] = n > 0 ? a.u[i] << n : a.u[i] >> -n); }
static ivec ivec_and(ivec a, ivec b) { EACH(ivec, out.u[i] = a.u[i] & b.u[i]); }
static ivec ivec_merge(ivec a, ivec b, ivec mask) { EACH(ivec, out.u[i] = a.u[i] | (b.u[i] & mask.u[i])); }

/* out = fn of each byte of a. */
#define EACH_BYTE(a, value)                                  \
    uint8_t bytes[4 * VEC_LANES];                            \
    ivec_store(bytes, a);                                    \
    for (int i = 0; i < 4 * VEC_LANES; i++) {                \
        bytes[i] = (uint8_t)(value);                         \
    }                                                        \
    return ivec_load(bytes)

static ivec ivec_bytes(uint8_t b) { EACH_BYTE((ivec){{0}}, b); }
static ivec ivec_lookup(const uint8_t *table, ivec a) { EACH_BYTE(a, table[bytes[i]]); }
static ivec ivec_triple(ivec a) { EACH_BYTE(a, 3 * bytes[i]); }
static ivec ivec_digit(ivec a) { EACH_BYTE(a, 3 * bytes[i] / 256); }

static ivec ivec_minus(ivec a, ivec b) {
    uint8_t taken[4 * VEC_LANES];
    ivec_store(taken, b);
    EACH_BYTE(a, bytes[i] - taken[i]);
}

/* ---- tiles ------------------------------------------------------------------------- */

#define N_TILES 8

typedef struct tile {
    int rows;
    int row_bytes;
    int8_t bytes[16][64];
} tile;

static tile tiles[N_TILES];
static int configured = 0;

static void configure(int i, int rows, int row_bytes) {
    CHECK(i < N_TILES && rows >= 1 && rows <= 16 && row_bytes >= 1 && row_bytes <= 64, "tile %d is %d x %d", i, rows,
          row_bytes);
    tiles[i].rows = rows;
    tiles[i].row_bytes = row_bytes;
}

static void tile_load(int i, const void *from, size_t stride) {
    CHECK(configured, "a tile is loaded before it is configured");
    memset(tiles[i].bytes, 0, sizeof tiles[i].bytes);
    for (int r = 0; r < tiles[i].rows; r++) {
        memcpy(tiles[i].bytes[r], (const char *)from + (size_t)r * stride, (size_t)tiles[i].row_bytes);
    }
}

/* TDPBSSD into a tile of zeros, stored. */
static void tile_product(int sum, int left, int right, int32_t out[LN_TILE][LN_PANEL_ROWS]) {
    const tile *s = &tiles[sum], *a = &tiles[left], *b = &tiles[right];
    CHECK(a->row_bytes == 4 * b->rows && s->rows == a->rows && s->row_bytes == b->row_bytes, "shapes do not match");
    for (int m = 0; m < s->rows; m++) {
        for (int n = 0; n < s->row_bytes / 4; n++) {
            out[m][n] = 0;
            for (int k = 0; k < a->row_bytes; k++) {
                out[m][n] += a->bytes[m][k] * b->bytes[k / 4][4 * n + k % 4];
            }
        }
    }
}

static void tiles_begin(int depth) {
    CHECK(!configured, "tiles are configured twice");
    for (int i = 0; i < 2; i++) {
        configure(i, LN_TILE, LN_PANEL_ROWS * 4);
        configure(2 + i, LN_TILE, depth);
        configure(4 + i, depth / 4, 64);
    }
    configured = 1;
}

static void tiles_end(void) {
    configured = 0;
}

static void tiles_multiply(const int8_t *const x[2], const int8_t *const codes[2],
                           int32_t sums[2][LN_TILE][LN_PANEL_ROWS]) {
    for (int i = 0; i < 2; i++) {
        tile_load(2 + i, x[i], sizeof(ln_q8_block));
        tile_load(4 + i, codes[i], 64);
        tile_product(i, 2 + i, 4 + i, sums[i]);
    }
}

#define tiles_rest ln_scalar_kernels
#include "../kernels/tile_kernels.h"

#define MATMUL(type, ...)                                                                                      \
    static void matmul_##type(const ln_matrix *w, int64_t row_begin, int64_t row_end, const ln_vectors *x,     \
                              float *y, int64_t y_stride) {                                                    \
        matmul_tiles((ln_panel_format){__VA_ARGS__}, w, row_begin, row_end, x, y, y_stride);                   \
    }
LN_PANEL_FORMATS(MATMUL)

#define MATMUL_ENTRY(type, ...) [LN_TYPE_##type] = matmul_##type,
static ln_matmul_fn *const matmuls[LN_TYPE_LIMIT] = {LN_PANEL_FORMATS(MATMUL_ENTRY)};

/* ---- against scalar ---------------------------------------------------------------- */

static uint32_t random_bits(void) { /* xorshift32, Marsaglia 2003 */
    static uint32_t state = 2463534242u;
    state ^= state << 13;
    state ^= state >> 17;
    state ^= state << 5;
    return state;
}

static void *allocate(size_t bytes) {
    void *block = malloc(bytes);
    CHECK(block != NULL, "out of memory");
    return block;
}

static float *random_floats(int64_t n) {
    float *x = allocate((size_t)n * sizeof *x);
    for (int64_t i = 0; i < n; i++) {
        x[i] = (float)(int32_t)random_bits() * 0x1p-31f;
    }
    return x;
}

/* A matrix of a type, packed from random floats. */
static ln_matrix make_matrix(int32_t type, int64_t rows, int64_t cols) {
    const ln_type_traits *traits = ln_type_traits_of(type);
    const size_t row_bytes = (size_t)(cols / traits->block_elements * traits->block_bytes);
    uint8_t *gguf = allocate((size_t)rows * row_bytes);
    float *values = random_floats(rows * cols);
    traits->pack(values, rows * cols, gguf);
    char *panels = allocate(ln_panels_bytes(type, rows, cols));
    const size_t panel_bytes = ln_panel_bytes(type, cols);
    for (int64_t r = 0; r < rows; r += LN_PANEL_ROWS) {
        ln_panel_pack(type, gguf + (size_t)r * row_bytes, row_bytes, rows - r < LN_PANEL_ROWS ? rows - r : LN_PANEL_ROWS,
                      cols, panels + (size_t)(r / LN_PANEL_ROWS) * panel_bytes);
    }
    free(gguf);
    free(values);
    return (ln_matrix){panels, type, rows, cols, panel_bytes};
}

static void check_product(int32_t type, int64_t rows, int64_t cols, int32_t n) {
    ln_matrix w = make_matrix(type, rows, cols);
    float *values = random_floats(n * cols);
    ln_q8_block *q8 = allocate((size_t)(n * (cols / LN_Q8_GROUP)) * sizeof *q8);
    for (int32_t v = 0; v < n; v++) {
        ln_scalar_kernels.quantize_q8(values + v * cols, cols, q8 + ln_q8_first(cols, v), ln_q8_tile_width(n, v));
    }
    const ln_vectors x = {.q8 = q8, .cols = cols, .n = n};
    const int64_t stride = rows + 3; /* what lies between is not to be written */
    const size_t count = (size_t)((n - 1) * stride + rows);
    float *y = allocate(count * sizeof *y), *expected = allocate(count * sizeof *expected);
    memset(y, 0x55, count * sizeof *y);
    memset(expected, 0x55, count * sizeof *expected);
    matmuls[type](&w, 0, rows, &x, y, stride);
    ln_scalar_kernels.matmul[type](&w, 0, rows, &x, expected, stride);
    CHECK(memcmp(y, expected, count * sizeof *y) == 0, "%s %dx%d, %d vectors: other bits than scalar",
          ln_type_traits_of(type)->name, (int)rows, (int)cols, (int)n);
    free((void *)w.data);
    free(values);
    free(q8);
    free(y);
    free(expected);
}

int main(void) {
    for (int32_t type = 0; type < LN_TYPE_LIMIT; type++) {
        if (matmuls[type] == NULL) {
            continue;
        }
        static const int64_t widths[] = {32, 64, 96, 256, 576, 1280, 2304}; /* odd groups, and more than a strip */
        for (size_t i = 0; i < sizeof widths / sizeof *widths; i++) {
            if (widths[i] % ln_type_traits_of(type)->block_elements == 0) {
                check_product(type, 16, widths[i], 16);
                check_product(type, 35, widths[i], i % 2 ? 33 : 15);
            }
        }
        check_product(type, 17, 768, 52);
    }
    printf("tiles: ok\n");
    return 0;
}
