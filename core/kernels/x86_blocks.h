/* x86_blocks.h - matrix products of block types, for the AVX2 and AVX-512 files, which include this after
 * float_kernels.h and describe each type to it by a block_format.
 *
 * Each lane holds one row's float sum, and a block's integer dot product is complete before it becomes a
 * float, so the result is the one scalar.c defines, bit for bit, for one vector and for many. One vector
 * reads the weights where they lie. Several share weights that were turned once, so that a load gives four
 * columns of VEC_LANES rows and no lanes need adding up.
 */

#define SCALE_BYTES 2
#define HALF_GROUP (LN_Q8_GROUP / 2)
#define STEPS (LN_Q8_GROUP / 4) /* groups of four columns in a block */
#define ROWS8 8                 /* rows one vector is multiplied with at a time: the dwords of 256 bits */
#define BLOCK_STRIP 32          /* blocks turned at a time: they stay in L1 beside the vectors */

typedef struct block_format {
    int32_t bytes;  /* of a block */
    int32_t offset; /* what unpacking adds to every weight */
    /* 32 weights in the order of the columns. */
    __m256i (*unpack)(const uint8_t *quants);
    /* Columns 0-15 of row a and of row b in low, columns 16-31 in high. */
    void (*unpack_pair)(const uint8_t *a, const uint8_t *b, __m256i *low, __m256i *high);
    /* low * x_low + high * x_high: four int32 for row a, four for row b. */
    __m256i (*dot_pair)(__m256i low, __m256i high, __m256i x_low, __m256i x_high);
    /* Lane r = row r's dot product of 32 columns less excess; weights: [STEPS][VEC_LANES][4], x: [32]. */
    vec (*dot_rows)(const int8_t *weights, const int8_t *x, int32_t excess);
} block_format;

/* ---- shared by the formats -------------------------------------------------------- */

static inline int32_t load_i32(const int8_t *p) {
    int32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline __m256i load16_twice(const int8_t *p) {
    return _mm256_broadcastsi128_si256(_mm_loadu_si128((const __m128i *)p));
}

static inline __m256i load16_pair(const uint8_t *a, const uint8_t *b) {
    __m256i low = _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)a));
    return _mm256_inserti128_si256(low, _mm_loadu_si128((const __m128i *)b), 1);
}

static inline __m256i unpack_nibbles(const uint8_t *quants) {
    __m128i bytes = _mm_loadu_si128((const __m128i *)quants);
    __m256i both = _mm256_inserti128_si256(_mm256_castsi128_si256(bytes), _mm_srli_epi16(bytes, 4), 1);
    return _mm256_and_si256(both, _mm256_set1_epi8(15));
}

static inline void unpack_pair_nibbles(const uint8_t *a, const uint8_t *b, __m256i *low, __m256i *high) {
    __m256i bytes = load16_pair(a, b);
    *low = _mm256_and_si256(bytes, _mm256_set1_epi8(15));
    *high = _mm256_and_si256(_mm256_srli_epi16(bytes, 4), _mm256_set1_epi8(15));
}

/* ---- eight rows ------------------------------------------------------------------- */

/* Rows past the end repeat the last; their results are dropped. */
static inline void group_rows(const ln_matrix *w, int64_t row, int64_t row_end, int n, const uint8_t **rows) {
    for (int r = 0; r < n; r++) {
        int64_t actual = row + r < row_end ? row + r : row_end - 1;
        rows[r] = (const uint8_t *)w->data + (size_t)actual * w->row_bytes;
    }
}

static inline int load_u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

/* Lane r = the f16 at rows[r] + at, as a float. */
static inline __m256 load_scales(const uint8_t *const *rows, size_t at) {
    __m128i halves = _mm_cvtsi32_si128(load_u16(rows[0] + at));
    halves = _mm_insert_epi16(halves, load_u16(rows[1] + at), 1);
    halves = _mm_insert_epi16(halves, load_u16(rows[2] + at), 2);
    halves = _mm_insert_epi16(halves, load_u16(rows[3] + at), 3);
    halves = _mm_insert_epi16(halves, load_u16(rows[4] + at), 4);
    halves = _mm_insert_epi16(halves, load_u16(rows[5] + at), 5);
    halves = _mm_insert_epi16(halves, load_u16(rows[6] + at), 6);
    halves = _mm_insert_epi16(halves, load_u16(rows[7] + at), 7);
    return _mm256_cvtph_ps(halves);
}

/* pairs[p] holds four sums of row p and four of row p + 4; lane r of the result is row r's total. */
static inline __m256i add_pairs(const __m256i pairs[4]) {
    __m256i a = _mm256_add_epi32(_mm256_unpacklo_epi32(pairs[0], pairs[1]), _mm256_unpackhi_epi32(pairs[0], pairs[1]));
    __m256i b = _mm256_add_epi32(_mm256_unpacklo_epi32(pairs[2], pairs[3]), _mm256_unpackhi_epi32(pairs[2], pairs[3]));
    return _mm256_add_epi32(_mm256_unpacklo_epi64(a, b), _mm256_unpackhi_epi64(a, b));
}

/* columns[k] lane r = the k-th four bytes of rows[r]. */
static inline void transpose_8x8(const __m256i rows[8], __m256i columns[8]) {
    __m256i pairs[8], quads[8];
    for (int i = 0; i < 4; i++) {
        pairs[i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
        pairs[i + 4] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
    }
    for (int i = 0; i < 4; i++) {
        quads[2 * i] = _mm256_unpacklo_epi64(pairs[2 * i], pairs[2 * i + 1]);
        quads[2 * i + 1] = _mm256_unpackhi_epi64(pairs[2 * i], pairs[2 * i + 1]);
    }
    for (int k = 0; k < 4; k++) {
        int first = k / 2 * 4 + k % 2; /* rows 0-3; two further on are rows 4-7 */
        columns[k] = _mm256_permute2x128_si256(quads[first], quads[first + 2], 0x20);
        columns[k + 4] = _mm256_permute2x128_si256(quads[first], quads[first + 2], 0x31);
    }
}

/* ---- one vector --------------------------------------------------------------------- */

static LN_ALWAYS_INLINE void matvec_blocks(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                           const ln_vectors *x, float *y, block_format format) {
    int64_t n_blocks = w->cols / LN_Q8_GROUP;
    for (int64_t row = row_begin; row < row_end; row += ROWS8) {
        const uint8_t *rows[ROWS8];
        group_rows(w, row, row_end, ROWS8, rows);
        __m256 sums = _mm256_setzero_ps();
        size_t at = 0;
        for (int64_t b = 0; b < n_blocks; b++, at += (size_t)format.bytes) {
            __m256i x_low = load16_twice(x->q8 + b * LN_Q8_GROUP);
            __m256i x_high = load16_twice(x->q8 + b * LN_Q8_GROUP + HALF_GROUP);
            __m256i pairs[4];
            for (int p = 0; p < 4; p++) {
                __m256i low, high;
                format.unpack_pair(rows[p] + at + SCALE_BYTES, rows[p + 4] + at + SCALE_BYTES, &low, &high);
                pairs[p] = format.dot_pair(low, high, x_low, x_high);
            }
            __m256i dots = _mm256_sub_epi32(add_pairs(pairs), _mm256_set1_epi32(format.offset * x->sum[b]));
            __m256 scales = _mm256_mul_ps(load_scales(rows, at), _mm256_set1_ps(x->scale[b]));
            sums = _mm256_add_ps(sums, _mm256_mul_ps(scales, _mm256_cvtepi32_ps(dots)));
        }
        float totals[ROWS8];
        _mm256_storeu_ps(totals, sums);
        int64_t n = row_end - row < ROWS8 ? row_end - row : ROWS8;
        memcpy(y + row, totals, (size_t)n * sizeof(float));
    }
}

/* ---- several vectors ----------------------------------------------------------------- */

/* Turns blocks of VEC_LANES rows: weights [n_blocks][STEPS][VEC_LANES][4], scales [n_blocks][VEC_LANES]. */
static LN_ALWAYS_INLINE void turn_rows(const uint8_t *const *rows, size_t at, int64_t n_blocks, block_format format,
                                       int8_t *weights, float *scales) {
    for (int64_t b = 0; b < n_blocks; b++, at += (size_t)format.bytes) {
        for (int first = 0; first < VEC_LANES; first += ROWS8) {
            __m256i blocks[ROWS8], columns[STEPS];
            for (int r = 0; r < ROWS8; r++) {
                blocks[r] = format.unpack(rows[first + r] + at + SCALE_BYTES);
            }
            transpose_8x8(blocks, columns);
            for (int k = 0; k < STEPS; k++) {
                int8_t *target = weights + ((b * STEPS + k) * VEC_LANES + first) * 4;
                _mm256_storeu_si256((__m256i *)target, columns[k]);
            }
            _mm256_storeu_ps(scales + b * VEC_LANES + first, load_scales(rows + first, at));
        }
    }
}

/* y[v][r] += the products of turned rows and n_vectors vectors from v on; y starts anew with the first block. */
static LN_ALWAYS_INLINE void multiply_turned(const int8_t *weights, const float *scales, int64_t first_block,
                                             int64_t n_blocks, const ln_vectors *x, int32_t v, int n_vectors,
                                             block_format format, float *y, int64_t y_stride, int64_t n_rows) {
    int64_t groups = x->cols / LN_Q8_GROUP;
    vec sums[BLOCK_TILE];
    LN_UNROLL for (int i = 0; i < n_vectors; i++) {
        const float *start = y + (v + i) * y_stride;
        if (first_block == 0) {
            sums[i] = vec_set(0.0f);
        } else {
            sums[i] = n_rows < VEC_LANES ? load_floats_part(start, n_rows) : load_floats(start);
        }
    }
    for (int64_t b = 0; b < n_blocks; b++) {
        vec row_scales = load_floats(scales + b * VEC_LANES);
        LN_UNROLL for (int i = 0; i < n_vectors; i++) {
            int64_t group = (v + i) * groups + first_block + b;
            vec dots = format.dot_rows(weights + b * LN_Q8_GROUP * VEC_LANES, x->q8 + group * LN_Q8_GROUP,
                                       format.offset * x->sum[group]);
            sums[i] = vec_add(sums[i], vec_mul(vec_mul(row_scales, vec_set(x->scale[group])), dots));
        }
    }
    LN_UNROLL for (int i = 0; i < n_vectors; i++) {
        float *target = y + (v + i) * y_stride;
        if (n_rows < VEC_LANES) {
            vec_store_part(target, sums[i], n_rows);
        } else {
            vec_store(target, sums[i]);
        }
    }
}

static LN_ALWAYS_INLINE void matmul_blocks(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                           const ln_vectors *x, float *y, int64_t y_stride, block_format format) {
    _Alignas(64) int8_t weights[BLOCK_STRIP * LN_Q8_GROUP * VEC_LANES];
    _Alignas(64) float scales[BLOCK_STRIP * VEC_LANES];
    int64_t n_blocks = w->cols / LN_Q8_GROUP;
    if (x->n == 1) {
        matvec_blocks(w, row_begin, row_end, x, y, format);
        return;
    }
    for (int64_t b = 0; b < n_blocks; b += BLOCK_STRIP) { /* a strip of all vectors stays in the second-level cache */
        int64_t n = n_blocks - b < BLOCK_STRIP ? n_blocks - b : BLOCK_STRIP;
        for (int64_t row = row_begin; row < row_end; row += VEC_LANES) {
            const uint8_t *rows[VEC_LANES];
            group_rows(w, row, row_end, VEC_LANES, rows);
            turn_rows(rows, (size_t)b * (size_t)format.bytes, n, format, weights, scales);
            int32_t v = 0;
            for (; v + BLOCK_TILE <= x->n; v += BLOCK_TILE) {
                multiply_turned(weights, scales, b, n, x, v, BLOCK_TILE, format, y + row, y_stride, row_end - row);
            }
            for (; v < x->n; v++) {
                multiply_turned(weights, scales, b, n, x, v, 1, format, y + row, y_stride, row_end - row);
            }
        }
    }
}
