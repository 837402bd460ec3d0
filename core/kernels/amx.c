/* amx.c - products of block types for x86-64 with AMX (Intel SDM volume 1, chapter 18), beside AVX-512. */
#include "isa.h"

#if LN_X86_64

#include "avx512_vectors.h"

#include "amx.h"

static inline ivec ivec_minus(ivec a, ivec b) {
    return _mm512_sub_epi8(a, b);
}

static inline vec vec_load_i32(const int32_t *p) {
    return _mm512_cvtepi32_ps(_mm512_load_si512(p));
}

#define tiles_rest ln_avx512_kernels

/* The operand of LDTILECFG, palette 1: eight tiles of at most 16 rows of 64 bytes. */
typedef struct tile_config {
    uint8_t palette;
    uint8_t start_row;
    uint8_t reserved[14];
    uint16_t row_bytes[16];
    uint8_t rows[16];
} tile_config;

/* Tiles 0 and 1 are the sums, 2 and 3 vectors, 4 and 5 codes: four columns of all rows in each of their rows. */
static inline void tiles_begin(int depth) {
    tile_config config = {.palette = 1};
    for (int i = 0; i < 2; i++) {
        config.row_bytes[i] = LN_PANEL_ROWS * sizeof(int32_t);
        config.rows[i] = LN_TILE;
        config.row_bytes[2 + i] = (uint16_t)depth;
        config.rows[2 + i] = LN_TILE;
        config.row_bytes[4 + i] = LN_LINE;
        config.rows[4 + i] = (uint8_t)(depth / 4);
    }
    _tile_loadconfig(&config);
}

static inline void tiles_end(void) {
    _tile_release();
}

static inline void tiles_multiply(const int8_t *const x[2], const int8_t *const codes[2],
                                  int32_t sums[2][LN_TILE][LN_PANEL_ROWS]) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_loadd(2, x[0], sizeof(ln_q8_block));
    _tile_loadd(4, codes[0], LN_LINE);
    _tile_dpbssd(0, 2, 4);
    _tile_loadd(3, x[1], sizeof(ln_q8_block));
    _tile_loadd(5, codes[1], LN_LINE);
    _tile_dpbssd(1, 3, 5);
    _tile_stored(0, sums[0], sizeof sums[0][0]);
    _tile_stored(1, sums[1], sizeof sums[1][0]);
}

#include "tile_kernels.h"

#define MATMUL(type, ...)                                                                                       \
    void ln_amx_matmul_##type(const ln_matrix *w, int64_t row_begin, int64_t row_end, const ln_vectors *x,      \
                              float *y, int64_t y_stride) {                                                     \
        matmul_tiles((ln_panel_format){__VA_ARGS__}, w, row_begin, row_end, x, y, y_stride);                    \
    }
LN_PANEL_FORMATS(MATMUL)

#endif
