/* attention_kernels.h - attention over one chunk of keys and values, written once over a vector type. A file
 * that includes this has defined
 *
 *   vec, VEC_LANES           16, 8, 4 or 1
 *   vec_set(float), vec_add, vec_sub, vec_mul, vec_max, vec_fma, vec_sum, vec_highest   as in float_kernels.h
 *   vec_load_f32(p), vec_load_f16(p), vec_load_i8(p)   VEC_LANES values at any address, as floats
 *   vec_set_f16(p)           the one f16 at p in all lanes
 *   vec_store(p, a)
 *   vec_div(a, b)
 *   exp_nonpositive(a)       exp of lanes <= 0; 0 of -infinity
 *   tanh_of(a)
 *
 * and gets the kernels attend and merge. The softmax is taken chunk by chunk (Milakov & Gimelshein 2018,
 * "Online normalizer calculation for softmax"; Dao et al. 2022, "FlashAttention").
 *
 * Every score is one sum over the head in its order, every value one sum over the positions in theirs:
 * what else is in a tile changes neither.
 */

#define TILE_ROWS 4 /* queries whose sums are in registers together */
#define TILE_VECS (VEC_LANES == 16 ? 4 : LN_LANES / VEC_LANES) /* of each of them */
#define TILE_LANES (TILE_VECS * VEC_LANES)

typedef vec lanes_reader(const uint8_t *p);

/* A query over a long timeline waits for memory, and the runs of one head are too short for the processor to
 * foresee what comes next. So while keys are read the values of the page are fetched, and while values are read
 * the keys of the next chunk, from the same places of theirs. */
#define CACHE_LINE 64

static LN_ALWAYS_INLINE void prefetch(const uint8_t *p, size_t bytes) {
    for (size_t i = 0; i < bytes; i += CACHE_LINE) {
        __builtin_prefetch(p + i, 0, 2);
    }
}

/* Begin and end of positions, counted from the first of a page. */
typedef struct stretch {
    int32_t begin;
    int32_t end;
} stretch;

static inline int32_t within_page(int32_t position) {
    return position < 0 ? 0 : position > LN_PAGE ? LN_PAGE : position;
}

/* What row attends to in a page of the chunk. */
static inline stretch stretch_of(const ln_attention *job, int32_t page, int32_t row) {
    const stretch s = {within_page(job->begin[row] - page * LN_PAGE), within_page(job->end[row] - page * LN_PAGE)};
    return s.begin < s.end ? s : (stretch){0, 0};
}

/* The least that holds what each of n rows attends to. */
static stretch hull_of(const ln_attention *job, int32_t page, int32_t row, int32_t n) {
    stretch hull = {0, 0};
    for (int32_t i = 0; i < n; i++) {
        const stretch s = stretch_of(job, page, row + i);
        if (s.begin < s.end) {
            hull.begin = hull.end == 0 || s.begin < hull.begin ? s.begin : hull.begin;
            hull.end = s.end > hull.end ? s.end : hull.end;
        }
    }
    return hull;
}

/* ---- scores ---------------------------------------------------------------------- */

/* TILE_LANES scores of each of n_rows queries. keys: the first position's, of value_bytes each. As many bytes
 * are fetched from `ahead`, unless it is NULL. */
static LN_ALWAYS_INLINE void score_tile(const uint8_t *keys, size_t key_stride, lanes_reader *read,
                                        size_t value_bytes, const float *q, int32_t head_dim, int n_rows,
                                        float *scores, const uint8_t *ahead) {
    vec totals[TILE_ROWS][TILE_VECS];
    LN_UNROLL for (int r = 0; r < n_rows; r++) {
        LN_UNROLL for (int i = 0; i < TILE_VECS; i++) {
            totals[r][i] = vec_set(0.0f);
        }
    }
    for (int32_t c = 0; c < head_dim; c++) {
        vec k[TILE_VECS];
        if (ahead != NULL) {
            prefetch(ahead + (size_t)c * TILE_LANES * value_bytes, TILE_LANES * value_bytes);
        }
        LN_UNROLL for (int i = 0; i < TILE_VECS; i++) {
            const size_t side = (size_t)(i * VEC_LANES / LN_LANES) * key_stride;
            const size_t lane = (size_t)(c * LN_LANES + i * VEC_LANES % LN_LANES);
            k[i] = read(keys + side + lane * value_bytes);
        }
        LN_UNROLL for (int r = 0; r < n_rows; r++) {
            const vec column = vec_set(q[r * head_dim + c]);
            LN_UNROLL for (int i = 0; i < TILE_VECS; i++) {
                totals[r][i] = vec_fma(column, k[i], totals[r][i]);
            }
        }
    }
    LN_UNROLL for (int r = 0; r < n_rows; r++) {
        LN_UNROLL for (int i = 0; i < TILE_VECS; i++) {
            vec_store(scores + r * LN_CHUNK + i * VEC_LANES, totals[r][i]);
        }
    }
}

/* Scores of the positions that any of up to TILE_ROWS queries attends to, and of some round them. */
static LN_ALWAYS_INLINE void score_rows(const ln_attention *job, int32_t page, int32_t row, int n_rows,
                                        const uint8_t *keys, size_t key_stride, lanes_reader *read,
                                        size_t value_bytes, const uint8_t *ahead) {
    const stretch hull = hull_of(job, page, row, n_rows);
    const float *q = job->q.f32 + row * job->q.cols;
    float *scores = job->scores + row * LN_CHUNK + page * LN_PAGE;
    for (int32_t p = hull.begin / TILE_LANES * TILE_LANES; p < hull.end; p += TILE_LANES) {
        const size_t at = (size_t)(p / LN_LANES) * key_stride;
        score_tile(keys + at, key_stride, read, value_bytes, q, (int32_t)job->q.cols, n_rows, scores + p,
                   ahead != NULL ? ahead + at : NULL);
    }
}

static LN_ALWAYS_INLINE void score_page(const ln_attention *job, int32_t page, const uint8_t *keys,
                                        size_t key_stride, lanes_reader *read, size_t value_bytes,
                                        const uint8_t *ahead) {
    int32_t row = 0;
    for (; row + TILE_ROWS <= job->q.n; row += TILE_ROWS) {
        score_rows(job, page, row, TILE_ROWS, keys, key_stride, read, value_bytes, ahead);
    }
    switch (job->q.n - row) {
    case 3: score_rows(job, page, row, 3, keys, key_stride, read, value_bytes, ahead); break;
    case 2: score_rows(job, page, row, 2, keys, key_stride, read, value_bytes, ahead); break;
    case 1: score_rows(job, page, row, 1, keys, key_stride, read, value_bytes, ahead); break;
    default: break;
    }
}

static void score_page_f32(const ln_attention *job, int32_t page, const uint8_t *keys, size_t key_stride) {
    score_page(job, page, keys, key_stride, vec_load_f32, sizeof(float), NULL);
}

static void widen_f16(const uint8_t *halves, int64_t n, float *out, const uint8_t *ahead) {
    for (int64_t i = 0; i < n; i += VEC_LANES) {
        const size_t at = (size_t)i * sizeof(uint16_t);
        prefetch(ahead + at, VEC_LANES * sizeof(uint16_t));
        vec_store(out + i, vec_load_f16(halves + at));
    }
}

/* Keys are widened once for all rows where that is less work than widening them for each tile. */
static void score_page_f16(const ln_attention *job, int32_t page, int32_t first, int32_t last) {
    const uint8_t *keys = job->keys[page];
    const int64_t side = job->q.cols * LN_LANES;
    if (job->q.n <= TILE_ROWS) {
        score_page(job, page, keys, job->key_stride, vec_load_f16, sizeof(uint16_t), job->values[page]);
        return;
    }
    for (int32_t i = first / LN_LANES; i * LN_LANES < last; i++) {
        const size_t at = (size_t)i * job->key_stride;
        widen_f16(keys + at, side, job->widened + i * side, job->values[page] + at);
    }
    score_page_f32(job, page, (const uint8_t *)job->widened, (size_t)side * sizeof(float));
}

static void score_page_blocks(const ln_attention *job, int32_t page, int32_t first, int32_t last) {
    const ln_matrix keys = {job->keys[page], job->type, LN_PAGE, job->q.cols, job->key_stride};
    const int32_t begin = first / LN_PANEL_ROWS * LN_PANEL_ROWS;
    const int32_t end = (last + LN_PANEL_ROWS - 1) / LN_PANEL_ROWS * LN_PANEL_ROWS;
    job->matmul(&keys, begin, end, &job->q, job->scores + page * LN_PAGE + begin, LN_CHUNK);
}

/* ---- softmax --------------------------------------------------------------------- */

/* Weights below exp(-44), 2^-63 of the largest, count as zero: they are far below what a float sum keeps, and
 * sums of numbers that approach the subnormal ones are slow. */
#define NEGLIGIBLE 44.0f

static inline vec weight_of(vec below_largest) {
    const vec weight = exp_nonpositive(below_largest);
    return vec_if_negative(vec_add(below_largest, vec_set(NEGLIGIBLE)), vec_set(0.0f), weight);
}

/* scores[begin, end) become cap * tanh(score / cap), and what lies round them in the same vectors something. */
static void cap_scores(float *scores, int32_t begin, int32_t end, float cap) {
    const vec size = vec_set(cap);
    for (int32_t p = begin / VEC_LANES * VEC_LANES; p < end; p += VEC_LANES) {
        const vec score = vec_load_f32((const uint8_t *)(scores + p));
        vec_store(scores + p, vec_mul(tanh_of(vec_div(score, size)), size));
    }
}

/* scores[begin, end) become exp(score - largest); returns their sum. What lies round them in the same vectors
 * becomes 0: it may be anything before. */
static float weigh(float *scores, int32_t begin, int32_t end, float *largest) {
    const int32_t first = begin / VEC_LANES * VEC_LANES;
    const int32_t last = (end + VEC_LANES - 1) / VEC_LANES * VEC_LANES;
    for (int32_t p = first; p < begin; p++) {
        scores[p] = -INFINITY;
    }
    for (int32_t p = end; p < last; p++) {
        scores[p] = -INFINITY;
    }
    vec top = vec_set(-INFINITY);
    for (int32_t p = first; p < last; p += VEC_LANES) {
        top = vec_max(top, vec_load_f32((const uint8_t *)(scores + p)));
    }
    *largest = vec_highest(top);
    const vec shift = vec_set(*largest);
    vec total = vec_set(0.0f);
    for (int32_t p = first; p < last; p += VEC_LANES) {
        const vec weight = weight_of(vec_sub(vec_load_f32((const uint8_t *)(scores + p)), shift));
        vec_store(scores + p, weight);
        total = vec_add(total, weight);
    }
    return vec_sum(total);
}

/* ---- values ---------------------------------------------------------------------- */

/* sums[r][n_vecs vectors] += weights[r][p] * values[p] for p of s. The same places are fetched from `ahead`, unless
 * it is NULL. */
static LN_ALWAYS_INLINE void sum_tile(const uint8_t *values, size_t value_stride, lanes_reader *read,
                                      size_t value_bytes, const float *weights, stretch s, int n_rows, int n_vecs,
                                      float *sums, size_t sums_stride, const uint8_t *ahead) {
    vec totals[TILE_ROWS][TILE_VECS];
    LN_UNROLL for (int r = 0; r < n_rows; r++) {
        LN_UNROLL for (int i = 0; i < n_vecs; i++) {
            totals[r][i] = vec_load_f32((const uint8_t *)(sums + (size_t)r * sums_stride + i * VEC_LANES));
        }
    }
    for (int32_t p = s.begin; p < s.end; p++) {
        const uint8_t *value = values + (size_t)p * value_stride;
        vec v[TILE_VECS];
        if (ahead != NULL) {
            prefetch(ahead + (size_t)p * value_stride, (size_t)(n_vecs * VEC_LANES) * value_bytes);
        }
        LN_UNROLL for (int i = 0; i < n_vecs; i++) {
            v[i] = read(value + (size_t)(i * VEC_LANES) * value_bytes);
        }
        LN_UNROLL for (int r = 0; r < n_rows; r++) {
            const vec weight = vec_set(weights[r * LN_CHUNK + p]);
            LN_UNROLL for (int i = 0; i < n_vecs; i++) {
                totals[r][i] = vec_fma(weight, v[i], totals[r][i]);
            }
        }
    }
    LN_UNROLL for (int r = 0; r < n_rows; r++) {
        LN_UNROLL for (int i = 0; i < n_vecs; i++) {
            vec_store(sums + (size_t)r * sums_stride + i * VEC_LANES, totals[r][i]);
        }
    }
}

/* The whole width of n_rows queries, all of which attend to all positions of s. */
static LN_ALWAYS_INLINE void sum_rows(const ln_attention *job, int32_t page, int32_t row, int n_rows, stretch s,
                                      const uint8_t *values, size_t value_stride, lanes_reader *read,
                                      size_t value_bytes, const uint8_t *ahead) {
    if (s.begin >= s.end) {
        return;
    }
    const float *weights = job->scores + row * LN_CHUNK + page * LN_PAGE;
    float *sums = job->partial + (size_t)row * job->partial_stride;
    const int32_t width = ln_padded((int32_t)job->q.cols);
    int32_t c = 0;
    for (; c + TILE_LANES <= width; c += TILE_LANES) {
        const size_t at = (size_t)c * value_bytes;
        sum_tile(values + at, value_stride, read, value_bytes, weights, s, n_rows, TILE_VECS, sums + c,
                 job->partial_stride, ahead != NULL ? ahead + at : NULL);
    }
    for (; c < width; c += VEC_LANES) {
        const size_t at = (size_t)c * value_bytes;
        sum_tile(values + at, value_stride, read, value_bytes, weights, s, n_rows, 1, sums + c, job->partial_stride,
                 ahead != NULL ? ahead + at : NULL);
    }
}

/* Up to TILE_ROWS queries: the positions all attend to together, those before and after them one by one. */
static LN_ALWAYS_INLINE void sum_ragged(const ln_attention *job, int32_t page, int32_t row, int n_rows,
                                        const uint8_t *values, size_t value_stride, lanes_reader *read,
                                        size_t value_bytes, const uint8_t *ahead) {
    stretch own[TILE_ROWS];
    stretch common = {0, LN_PAGE};
    for (int r = 0; r < n_rows; r++) {
        own[r] = stretch_of(job, page, row + r);
        common.begin = own[r].begin > common.begin ? own[r].begin : common.begin;
        common.end = own[r].end < common.end ? own[r].end : common.end;
    }
    common.end = common.end > common.begin ? common.end : common.begin;
    for (int r = 0; r < n_rows; r++) {
        const stretch before = {own[r].begin, own[r].end < common.begin ? own[r].end : common.begin};
        sum_rows(job, page, row + r, 1, before, values, value_stride, read, value_bytes, NULL);
    }
    sum_rows(job, page, row, n_rows, common, values, value_stride, read, value_bytes, ahead);
    for (int r = 0; r < n_rows; r++) {
        const stretch after = {own[r].begin > common.end ? own[r].begin : common.end, own[r].end};
        sum_rows(job, page, row + r, 1, after, values, value_stride, read, value_bytes, NULL);
    }
}

static LN_ALWAYS_INLINE void sum_page(const ln_attention *job, int32_t page, const uint8_t *values,
                                      size_t value_stride, lanes_reader *read, size_t value_bytes,
                                      const uint8_t *ahead) {
    int32_t row = 0;
    for (; row + TILE_ROWS <= job->q.n; row += TILE_ROWS) {
        sum_ragged(job, page, row, TILE_ROWS, values, value_stride, read, value_bytes, ahead);
    }
    switch (job->q.n - row) {
    case 3: sum_ragged(job, page, row, 3, values, value_stride, read, value_bytes, ahead); break;
    case 2: sum_ragged(job, page, row, 2, values, value_stride, read, value_bytes, ahead); break;
    case 1: sum_ragged(job, page, row, 1, values, value_stride, read, value_bytes, ahead); break;
    default: break;
    }
}

static void sum_page_f32(const ln_attention *job, int32_t page, const uint8_t *values, size_t value_stride) {
    sum_page(job, page, values, value_stride, vec_load_f32, sizeof(float), NULL);
}

/* A row of n values of GGUF blocks (quants.c) as floats. */
static void widen_blocks(int32_t type, const uint8_t *blocks, int64_t n, float *out) {
    for (int64_t c = 0; c < n; c += LN_Q8_GROUP, out += LN_Q8_GROUP) {
        uint8_t q[LN_Q8_GROUP];
        const vec scale = vec_set_f16(blocks);
        blocks += sizeof(uint16_t);
        if (type == LN_TYPE_Q8_0) {
            memcpy(q, blocks, LN_Q8_GROUP);
            blocks += LN_Q8_GROUP;
        } else {
            for (int i = 0; i < LN_Q8_GROUP / 2; i++) {
                q[i] = (uint8_t)((blocks[i] & 15) - 8);
                q[i + LN_Q8_GROUP / 2] = (uint8_t)((blocks[i] >> 4) - 8);
            }
            blocks += LN_Q8_GROUP / 2;
        }
        for (int i = 0; i < LN_Q8_GROUP; i += VEC_LANES) {
            vec_store(out + i, vec_mul(scale, vec_load_i8(q + i)));
        }
    }
}

static void sum_page_widened(const ln_attention *job, int32_t page, int32_t first, int32_t last) {
    const int32_t width = ln_padded((int32_t)job->q.cols);
    for (int32_t p = first; p < last; p++) {
        const uint8_t *value = job->values[page] + (size_t)p * job->value_stride;
        const uint8_t *ahead = job->next_keys[page] + (size_t)p * job->value_stride;
        if (job->type == LN_TYPE_F16) {
            widen_f16(value, width, job->widened + p * width, ahead);
        } else {
            prefetch(ahead, job->value_stride);
            widen_blocks(job->type, value, width, job->widened + p * width);
        }
    }
    sum_page_f32(job, page, (const uint8_t *)job->widened, (size_t)width * sizeof(float));
}

/* ---- the chunk --------------------------------------------------------------------- */

static void score_chunk(const ln_attention *job) {
    for (int32_t page = 0; page < LN_CHUNK_PAGES; page++) {
        const stretch hull = hull_of(job, page, 0, job->q.n);
        if (hull.begin >= hull.end) {
            continue;
        }
        switch (job->type) {
        case LN_TYPE_F32: score_page_f32(job, page, job->keys[page], job->key_stride); break;
        case LN_TYPE_F16: score_page_f16(job, page, hull.begin, hull.end); break;
        default: score_page_blocks(job, page, hull.begin, hull.end);
        }
    }
}

static void sum_chunk(const ln_attention *job) {
    for (int32_t page = 0; page < LN_CHUNK_PAGES; page++) {
        const stretch hull = hull_of(job, page, 0, job->q.n);
        if (hull.begin >= hull.end) {
            continue;
        }
        if (job->type == LN_TYPE_F32) {
            sum_page_f32(job, page, job->values[page], job->value_stride);
        } else if (job->type == LN_TYPE_F16 && job->q.n <= TILE_ROWS) {
            sum_page(job, page, job->values[page], job->value_stride, vec_load_f16, sizeof(uint16_t),
                     job->next_keys[page]);
        } else {
            sum_page_widened(job, page, hull.begin, hull.end);
        }
    }
}

static void attend(const ln_attention *job) {
    const int32_t head_dim = (int32_t)job->q.cols;
    score_chunk(job);
    for (int32_t r = 0; r < job->q.n; r++) {
        float *partial = job->partial + (size_t)r * job->partial_stride;
        memset(partial, 0, (size_t)ln_partial_floats(head_dim) * sizeof *partial);
        if (job->begin[r] < job->end[r]) {
            if (job->cap > 0) {
                cap_scores(job->scores + r * LN_CHUNK, job->begin[r], job->end[r], job->cap);
            }
            partial[ln_partial_sum(head_dim)] = weigh(job->scores + r * LN_CHUNK, job->begin[r], job->end[r],
                                                      &partial[ln_partial_largest(head_dim)]);
        }
    }
    sum_chunk(job);
}

static void merge(int32_t head_dim, const float *partial, float *total) {
    const int32_t at = ln_partial_largest(head_dim);
    const float largest = partial[at] > total[at] ? partial[at] : total[at];
    const vec keep = exp_nonpositive(vec_set(total[at] - largest));
    const vec take = exp_nonpositive(vec_set(partial[at] - largest));
    for (int32_t i = 0; i < ln_partial_floats(head_dim); i += VEC_LANES) {
        const vec kept = vec_mul(keep, vec_load_f32((const uint8_t *)(total + i)));
        vec_store(total + i, vec_fma(take, vec_load_f32((const uint8_t *)(partial + i)), kept));
    }
    total[at] = largest;
}

#undef TILE_ROWS
#undef TILE_VECS
#undef TILE_LANES
#undef CACHE_LINE
