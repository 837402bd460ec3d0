/* float_kernels.h - the float kernels, written once over a vector type. An instruction set's file defines
 * what is below, then includes this; it gets static kernels named matmul_f32, matmul_f16, matmul_bf16,
 * rms_norm, layer_norm, soft_cap, add and f32_to_f16, and ACTIVATIONS, the entries of `activate`.
 *
 *   vec, VEC_LANES           the type and how many floats it holds
 *   VEC_TILE                 vectors a matrix product keeps in registers beside 4 rows
 *   vec_set(float), vec_add, vec_sub, vec_mul, vec_div, vec_max   lane by lane; vec_max(a, b) gives b where b is NaN
 *   vec_fma(a, b, c)         a * b + c, rounded once
 *   vec_abs(a), vec_if_negative(a, b, c)   lane by lane, a's sign bit ? b : c
 *   vec_round(a)             to the nearest integer, as floats
 *   vec_scale2(a, n)         a * 2^n for integral n >= -151, subnormal results included
 *   vec_sum(a), vec_highest(a)             across the lanes, in one fixed order
 *   vec_sum4(rows, sums)     sums[i] = the sum of rows[i]'s lanes, each i in the same order
 *   vec_load_f32(p), vec_load_f16(p), vec_load_bf16(p)   VEC_LANES values at any address
 *   ..._part(p, n)           the first n, 0 < n < VEC_LANES; zero in the other lanes, nothing read past them
 *   vec_store(p, a), vec_store_part(p, a, n), vec_store_f16(p, a), vec_store_f16_part(p, a, n)
 */

#define ROWS 4       /* rows of a matrix product's tile */
#define STRIP 512    /* columns a tile sums before its lanes are added up */

typedef struct reader {
    vec (*load)(const uint8_t *p);
    vec (*load_part)(const uint8_t *p, int64_t n);
    size_t bytes; /* of one value */
} reader;

static const reader f32_reader = {vec_load_f32, vec_load_f32_part, 4};
static const reader f16_reader = {vec_load_f16, vec_load_f16_part, 2};
static const reader bf16_reader = {vec_load_bf16, vec_load_bf16_part, 2};

static inline vec load_floats(const float *p) {
    return vec_load_f32((const uint8_t *)p);
}

static inline vec load_floats_part(const float *p, int64_t n) {
    return vec_load_f32_part((const uint8_t *)p, n);
}

/* ---- matrix products ----------------------------------------------------------
 *
 * One definition of the result for any number of vectors: within a strip of columns,
 * lane l adds the products of columns l, l + VEC_LANES, ... in that order; the lanes are
 * added by vec_sum4, the strips in their order. */

/* sums[v][r] = the strip's dot product of row r and vector v. */
static LN_ALWAYS_INLINE void tile(const uint8_t *const rows[ROWS], reader type, const float *x, int64_t x_stride,
                                  int n_vectors, int64_t cols, float sums[][ROWS]) {
    vec totals[VEC_TILE][ROWS];
    LN_UNROLL for (int v = 0; v < n_vectors; v++) {
        LN_UNROLL for (int r = 0; r < ROWS; r++) {
            totals[v][r] = vec_set(0.0f);
        }
    }
    int64_t c = 0;
    for (; c + VEC_LANES <= cols; c += VEC_LANES) {
        vec activations[VEC_TILE];
        LN_UNROLL for (int v = 0; v < n_vectors; v++) {
            activations[v] = load_floats(x + v * x_stride + c);
        }
        LN_UNROLL for (int r = 0; r < ROWS; r++) {
            vec weights = type.load(rows[r] + (size_t)c * type.bytes);
            LN_UNROLL for (int v = 0; v < n_vectors; v++) {
                totals[v][r] = vec_fma(weights, activations[v], totals[v][r]);
            }
        }
    }
    if (c < cols) {
        LN_UNROLL for (int v = 0; v < n_vectors; v++) {
            vec activations = load_floats_part(x + v * x_stride + c, cols - c);
            LN_UNROLL for (int r = 0; r < ROWS; r++) {
                vec weights = type.load_part(rows[r] + (size_t)c * type.bytes, cols - c);
                totals[v][r] = vec_fma(weights, activations, totals[v][r]);
            }
        }
    }
    LN_UNROLL for (int v = 0; v < n_vectors; v++) {
        vec_sum4(totals[v], sums[v]);
    }
}

static inline void keep(float sums[][ROWS], int n_vectors, int64_t n_rows, int first, float *y, int64_t y_stride) {
    for (int v = 0; v < n_vectors; v++) {
        for (int64_t r = 0; r < n_rows; r++) {
            float *target = y + v * y_stride + r;
            *target = first ? sums[v][r] : *target + sums[v][r];
        }
    }
}

/* Where columns from c on of ROWS rows lie; rows past the end repeat the last, and their sums are dropped. */
static inline int64_t tile_rows(const ln_matrix *w, int64_t row, int64_t row_end, size_t at,
                                const uint8_t *rows[ROWS]) {
    int64_t n_rows = row_end - row < ROWS ? row_end - row : ROWS;
    for (int64_t r = 0; r < ROWS; r++) {
        int64_t actual = row + (r < n_rows ? r : n_rows - 1);
        rows[r] = (const uint8_t *)w->data + (size_t)actual * w->stride + at;
    }
    return n_rows;
}

/* Rows as floats: where they lie when they are floats already, else unpacked into buffer. */
static LN_ALWAYS_INLINE void unpack_rows(const uint8_t *rows[ROWS], reader type, int64_t cols, float *buffer) {
    for (int r = 0; r < ROWS && type.bytes != sizeof(float); r++) {
        float *target = buffer + r * STRIP;
        int64_t c = 0;
        for (; c + VEC_LANES <= cols; c += VEC_LANES) {
            vec_store(target + c, type.load(rows[r] + (size_t)c * type.bytes));
        }
        if (c < cols) {
            vec_store_part(target + c, type.load_part(rows[r] + (size_t)c * type.bytes, cols - c), cols - c);
        }
        rows[r] = (const uint8_t *)target;
    }
}

/* One vector: the weights are read once, in the order they lie. */
static LN_ALWAYS_INLINE void matvec(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                    const ln_vectors *x, float *y, reader type) {
    float sums[1][ROWS];
    for (int64_t row = row_begin; row < row_end; row += ROWS) {
        for (int64_t c = 0; c < w->cols; c += STRIP) {
            const uint8_t *rows[ROWS];
            int64_t n_rows = tile_rows(w, row, row_end, (size_t)c * type.bytes, rows);
            tile(rows, type, x->f32 + c, x->cols, 1, w->cols - c < STRIP ? w->cols - c : STRIP, sums);
            keep(sums, 1, n_rows, c == 0, y + row - row_begin, 0);
        }
    }
}

/* Several: strip by strip, so that a strip of all vectors stays in the second-level cache. */
static LN_ALWAYS_INLINE void matmul(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                                    const ln_vectors *x, float *y, int64_t y_stride, reader type) {
    _Alignas(64) float buffer[ROWS * STRIP];
    float sums[VEC_TILE][ROWS];
    if (x->n == 1) {
        matvec(w, row_begin, row_end, x, y, type);
        return;
    }
    for (int64_t c = 0; c < w->cols; c += STRIP) {
        int64_t cols = w->cols - c < STRIP ? w->cols - c : STRIP;
        for (int64_t row = row_begin; row < row_end; row += ROWS) {
            const uint8_t *rows[ROWS];
            int64_t n_rows = tile_rows(w, row, row_end, (size_t)c * type.bytes, rows);
            unpack_rows(rows, type, cols, buffer);
            int32_t v = 0;
            for (; v + VEC_TILE <= x->n; v += VEC_TILE) {
                tile(rows, f32_reader, x->f32 + v * x->cols + c, x->cols, VEC_TILE, cols, sums);
                keep(sums, VEC_TILE, n_rows, c == 0, y + v * y_stride + row - row_begin, y_stride);
            }
            for (; v < x->n; v++) {
                tile(rows, f32_reader, x->f32 + v * x->cols + c, x->cols, 1, cols, sums);
                keep(sums, 1, n_rows, c == 0, y + v * y_stride + row - row_begin, y_stride);
            }
        }
    }
}

static void matmul_f32(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                       const ln_vectors *x, float *y, int64_t y_stride) {
    matmul(w, row_begin, row_end, x, y, y_stride, f32_reader);
}

static void matmul_f16(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                       const ln_vectors *x, float *y, int64_t y_stride) {
    matmul(w, row_begin, row_end, x, y, y_stride, f16_reader);
}

static void matmul_bf16(const ln_matrix *w, int64_t row_begin, int64_t row_end,
                        const ln_vectors *x, float *y, int64_t y_stride) {
    matmul(w, row_begin, row_end, x, y, y_stride, bf16_reader);
}

/* ---- element by element -------------------------------------------------------- */

/* exp(x) for x <= 0, within 2 units in the last place, subnormal results included.
 * x = n ln 2 + r with |r| <= ln 2 / 2 (ln 2 in two parts, the first exact under
 * multiplication by n); exp(r) by the degree-6 polynomial of Cephes' expf. */
static inline vec exp_nonpositive(vec x) {
    x = vec_max(vec_set(-104.0f), x); /* below the logarithm of the smallest subnormal */
    vec n = vec_round(vec_mul(x, vec_set(1.44269504f)));
    vec r = vec_fma(n, vec_set(-0.693359375f), x);
    r = vec_fma(n, vec_set(2.12194440e-4f), r);
    vec p = vec_set(1.9875691500e-4f);
    p = vec_fma(p, r, vec_set(1.3981999507e-3f));
    p = vec_fma(p, r, vec_set(8.3334519073e-3f));
    p = vec_fma(p, r, vec_set(4.1665795894e-2f));
    p = vec_fma(p, r, vec_set(1.6666665459e-1f));
    p = vec_fma(p, r, vec_set(5.0000001201e-1f));
    p = vec_fma(p, vec_mul(r, r), r);
    return vec_scale2(vec_add(p, vec_set(1.0f)), n);
}

/* 1 / (1 + exp(-x)), written with exp(-|x|), which cannot overflow. */
static inline vec sigmoid(vec x) {
    vec decay = exp_nonpositive(vec_sub(vec_set(0.0f), vec_abs(x)));
    vec numerator = vec_if_negative(x, decay, vec_set(1.0f));
    return vec_div(numerator, vec_add(vec_set(1.0f), decay));
}

/* Near 0 the polynomial of Cephes' tanhf, elsewhere (1 - exp(-2|x|)) / (1 + exp(-2|x|)) with the sign of x. */
static inline vec tanh_of(vec x) {
    vec size = vec_abs(x);
    vec decay = exp_nonpositive(vec_mul(size, vec_set(-2.0f)));
    vec far = vec_div(vec_sub(vec_set(1.0f), decay), vec_add(vec_set(1.0f), decay));
    far = vec_if_negative(x, vec_sub(vec_set(0.0f), far), far);
    vec square = vec_mul(x, x);
    vec p = vec_set(-5.70498872745e-3f);
    p = vec_fma(p, square, vec_set(2.06390887954e-2f));
    p = vec_fma(p, square, vec_set(-5.37397155531e-2f));
    p = vec_fma(p, square, vec_set(1.33314422036e-1f));
    p = vec_fma(p, square, vec_set(-3.33332819422e-1f));
    vec near = vec_fma(vec_mul(p, square), x, x);
    return vec_if_negative(vec_sub(size, vec_set(0.625f)), near, far);
}

static inline vec silu(vec x) {
    return vec_mul(x, sigmoid(x));
}

/* x / 2 (1 + tanh(a)) = x sigmoid(2 a) with a = sqrt(2 / pi) (x + 0.044715 x^3). */
static inline vec gelu_tanh(vec x) {
    vec cubic = vec_fma(vec_mul(vec_mul(x, x), vec_set(0.044715f)), x, x);
    return vec_mul(x, sigmoid(vec_mul(cubic, vec_set(1.59576912f))));
}

/* x times the normal distribution function of x; its tail by Abramowitz & Stegun 7.1.26, within 1e-7. */
static inline vec gelu_erf(vec x) {
    vec size = vec_mul(vec_abs(x), vec_set(0.707106781f));
    vec t = vec_div(vec_set(1.0f), vec_fma(size, vec_set(0.3275911f), vec_set(1.0f)));
    vec p = vec_set(0.5f * 1.061405429f);
    p = vec_fma(p, t, vec_set(0.5f * -1.453152027f));
    p = vec_fma(p, t, vec_set(0.5f * 1.421413741f));
    p = vec_fma(p, t, vec_set(0.5f * -0.284496736f));
    p = vec_fma(p, t, vec_set(0.5f * 0.254829592f));
    vec tail = vec_mul(vec_mul(p, t), exp_nonpositive(vec_sub(vec_set(0.0f), vec_mul(size, size))));
    return vec_mul(x, vec_if_negative(x, tail, vec_sub(vec_set(1.0f), tail)));
}

static inline vec relu(vec x) {
    return vec_max(vec_set(0.0f), x);
}

static inline vec relu2(vec x) {
    return vec_mul(relu(x), relu(x));
}

static LN_ALWAYS_INLINE void activate(vec (*f)(vec), const float *x, const float *up, int64_t n, float *out) {
    int64_t i = 0;
    for (; up != NULL && i + VEC_LANES <= n; i += VEC_LANES) {
        vec_store(out + i, vec_mul(f(load_floats(x + i)), load_floats(up + i)));
    }
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        vec_store(out + i, f(load_floats(x + i)));
    }
    if (i < n) {
        vec result = f(load_floats_part(x + i, n - i));
        vec_store_part(out + i, up != NULL ? vec_mul(result, load_floats_part(up + i, n - i)) : result, n - i);
    }
}

#define ACTIVATION(f)                                                                     \
    static void activate_##f(const float *x, const float *up, int64_t n, float *out) {    \
        activate(f, x, up, n, out);                                                       \
    }
ACTIVATION(silu)
ACTIVATION(gelu_tanh)
ACTIVATION(gelu_erf)
ACTIVATION(relu)
ACTIVATION(relu2)
ACTIVATION(tanh_of)
#undef ACTIVATION

#define ACTIVATIONS                                                                                   \
    {                                                                                                 \
        [LN_SILU] = activate_silu, [LN_GELU_TANH] = activate_gelu_tanh, [LN_GELU_ERF] = activate_gelu_erf, \
        [LN_RELU] = activate_relu, [LN_RELU2] = activate_relu2, [LN_TANH] = activate_tanh_of,         \
    }

static void soft_cap(float *x, int64_t n, float cap) {
    const vec size = vec_set(cap);
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        vec_store(x + i, vec_mul(tanh_of(vec_div(load_floats(x + i), size)), size));
    }
    if (i < n) {
        vec_store_part(x + i, vec_mul(tanh_of(vec_div(load_floats_part(x + i, n - i), size)), size), n - i);
    }
}

static void add(float *x, const float *y, int64_t n) {
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        vec_store(x + i, vec_add(load_floats(x + i), load_floats(y + i)));
    }
    if (i < n) {
        vec_store_part(x + i, vec_add(load_floats_part(x + i, n - i), load_floats_part(y + i, n - i)), n - i);
    }
}

static void rms_norm(const float *x, const float *weight, int64_t n, float eps, float *y) {
    vec squares = vec_set(0.0f);
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        vec value = load_floats(x + i);
        squares = vec_fma(value, value, squares);
    }
    if (i < n) {
        vec value = load_floats_part(x + i, n - i);
        squares = vec_fma(value, value, squares);
    }
    vec inverse = vec_set(1.0f / sqrtf(vec_sum(squares) / (float)n + eps));
    for (i = 0; i + VEC_LANES <= n; i += VEC_LANES) {
        vec_store(y + i, vec_mul(vec_mul(load_floats(x + i), inverse), load_floats(weight + i)));
    }
    if (i < n) {
        vec value = vec_mul(vec_mul(load_floats_part(x + i, n - i), inverse), load_floats_part(weight + i, n - i));
        vec_store_part(y + i, value, n - i);
    }
}

static void layer_norm(const float *x, const float *weight, const float *bias, int64_t n, float eps, float *y) {
    vec total = vec_set(0.0f);
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        total = vec_add(total, load_floats(x + i));
    }
    if (i < n) {
        total = vec_add(total, load_floats_part(x + i, n - i));
    }
    const float average = vec_sum(total) / (float)n;
    const vec mean = vec_set(average);
    vec squares = vec_set(0.0f);
    for (i = 0; i + VEC_LANES <= n; i += VEC_LANES) {
        vec value = vec_sub(load_floats(x + i), mean);
        squares = vec_fma(value, value, squares);
    }
    float rest = 0.0f; /* of the last elements: the lanes past them would not be 0 */
    for (; i < n; i++) {
        const float value = x[i] - average;
        rest += value * value;
    }
    vec inverse = vec_set(1.0f / sqrtf((vec_sum(squares) + rest) / (float)n + eps));
    for (i = 0; i + VEC_LANES <= n; i += VEC_LANES) {
        vec value = vec_mul(vec_mul(vec_sub(load_floats(x + i), mean), inverse), load_floats(weight + i));
        vec_store(y + i, bias != NULL ? vec_add(value, load_floats(bias + i)) : value);
    }
    if (i < n) {
        vec value = vec_mul(vec_sub(load_floats_part(x + i, n - i), mean), inverse);
        value = vec_mul(value, load_floats_part(weight + i, n - i));
        value = bias != NULL ? vec_add(value, load_floats_part(bias + i, n - i)) : value;
        vec_store_part(y + i, value, n - i);
    }
}

static void f32_to_f16(const float *x, int64_t n, uint16_t *y) {
    int64_t i = 0;
    for (; i + VEC_LANES <= n; i += VEC_LANES) {
        vec_store_f16(y + i, load_floats(x + i));
    }
    if (i < n) {
        vec_store_f16_part(y + i, load_floats_part(x + i, n - i), n - i);
    }
}
