/* decoder.c - the forward pass of a Llama-family decoder: tokens in, logits out.
 *
 * The work of each step is cut into items for the thread pool. Which thread does an item, and how
 * many tokens run together, changes no bit of the result: an item computes whole outputs, and the
 * kernels compute each output from its own row and vector alone.
 */
#include "session.h"

#include <math.h>
#include <string.h>

/* Rows of a matrix are handed out in tiles of a multiple of this many. A power of two no smaller than
 * any vector register: then the elements an elementwise kernel treats as the ragged end of its
 * range are the same however a range is cut. */
#define TILE_ROWS 32

/* Tiles per thread: enough that a thread which starts late or runs slower does not hold up the rest. */
#define TILES_PER_THREAD 8

/* Multiply-adds below which waking other threads costs more than it saves: some microseconds of work. */
#define WORTH_SHARING (1 << 16)

/* Does the items of a job of about n_madds multiply-adds, here or on all threads. */
static void run(const ln_session *s, int32_t n_items, int64_t n_madds, ln_item_fn *fn, const void *job) {
    if (n_madds >= WORTH_SHARING) {
        ln_threads_run(s->threads, n_items, fn, job);
        return;
    }
    for (int32_t i = 0; i < n_items; i++) {
        fn(job, i, 0);
    }
}

static size_t cache_row_bytes(const ln_session *s) {
    return (size_t)s->model->facts.head_dim * (s->kv_type == LN_TYPE_F16 ? sizeof(uint16_t) : sizeof(float));
}

static char *cache_at(const ln_session *s, char *cache, int32_t layer, int32_t head, int32_t position) {
    size_t heads_before = (size_t)layer * (size_t)s->model->facts.n_kv_heads + (size_t)head;
    return cache + (heads_before * (size_t)s->n_ctx + (size_t)position) * cache_row_bytes(s);
}

/* ---- matrix products ---------------------------------------------------------- */

/* Up to three matrices over the same vectors, as one job. */
typedef struct product {
    const ln_matrix *w;
    float *y; /* [n][w->rows] */
} product;

typedef struct product_job {
    const ln_session *session;
    ln_vectors x;
    product products[3];
    int32_t first_tile[4]; /* of each product, and one past the last tile */
    int64_t tile_rows;
    int32_t gated; /* after rows of both products: y0 = silu(y0) * y1 */
} product_job;

static int wants_q8(const ln_matrix *w) {
    return ln_type_traits_of(w->type)->quantized_activations;
}

static int64_t rows_of_a_tile(const ln_session *s, int64_t rows) {
    int64_t tiles = (int64_t)ln_threads_count(s->threads) * TILES_PER_THREAD;
    int64_t units = (rows + TILE_ROWS - 1) / TILE_ROWS;
    return (units + tiles - 1) / tiles * TILE_ROWS;
}

static void multiply(const product_job *j, const product *p, int64_t row_begin, int64_t row_end) {
    j->session->kernels->matmul[p->w->type](p->w, row_begin, row_end, &j->x, p->y, p->w->rows);
}

static void product_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const product_job *j = job;
    int32_t i = 0;
    while (item >= j->first_tile[i + 1]) {
        i++;
    }
    const product *p = &j->products[i];
    int64_t begin = (item - j->first_tile[i]) * j->tile_rows;
    int64_t end = begin + j->tile_rows < p->w->rows ? begin + j->tile_rows : p->w->rows;
    multiply(j, p, begin, end);
    if (!j->gated) {
        return;
    }
    multiply(j, &j->products[1], begin, end);
    for (int32_t t = 0; t < j->x.n; t++) {
        float *gate = p->y + t * p->w->rows;
        const float *up = j->products[1].y + t * p->w->rows;
        j->session->kernels->swiglu(gate + begin, up + begin, end - begin, gate + begin);
    }
}

static ln_vectors vectors_of(const ln_session *s, const float *x, int64_t cols, int32_t n) {
    return (ln_vectors){.f32 = x, .q8 = s->q8, .scale = s->q8_scale, .sum = s->q8_sum, .cols = cols, .n = n};
}

/* y = w x for 1 to 3 matrices with as many columns. x is quantised already where a matrix wants it. */
static void run_products(const ln_session *s, ln_vectors x, const product *products, int32_t n_products) {
    product_job job = {.session = s, .x = x};
    int64_t rows = 0;
    for (int32_t i = 0; i < n_products; i++) {
        job.products[i] = products[i];
        rows += products[i].w->rows;
    }
    job.tile_rows = rows_of_a_tile(s, rows);
    for (int32_t i = 0; i < 3; i++) {
        int64_t own = i < n_products ? products[i].w->rows : 0;
        job.first_tile[i + 1] = job.first_tile[i] + (int32_t)((own + job.tile_rows - 1) / job.tile_rows);
    }
    run(s, job.first_tile[3], rows * x.cols * x.n, product_item, &job);
}

/* gate.y = silu(gate x) * (up x) */
static void run_gated(const ln_session *s, ln_vectors x, product gate, product up) {
    product_job job = {.session = s, .x = x, .products = {gate, up}, .gated = 1};
    job.tile_rows = rows_of_a_tile(s, gate.w->rows);
    int32_t tiles = (int32_t)((gate.w->rows + job.tile_rows - 1) / job.tile_rows);
    for (int32_t i = 1; i < 4; i++) {
        job.first_tile[i] = tiles;
    }
    run(s, tiles, 2 * gate.w->rows * x.cols * x.n, product_item, &job);
}

/* ---- work on one token each ---------------------------------------------------- */

/* What a block of the decoder does to each token before its first matrix: x += add, then
 * y = normalised x, then y quantised. Steps without their operand are left out. */
typedef struct token_job {
    const ln_session *session;
    const float *add;    /* [n][dim] or NULL */
    const float *norm;   /* [dim], the weight, or NULL */
    float *x;            /* [n][dim] */
    float *y;            /* [n][cols]; quantised where it lies when norm is NULL */
    int64_t cols;        /* of y */
    int quantize;
} token_job;

static void token_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const token_job *j = job;
    const ln_session *s = j->session;
    const ln_facts *f = &s->model->facts;
    const ln_kernels *kernels = s->kernels;
    float *y = j->y + item * j->cols;
    if (j->add != NULL) {
        kernels->add(j->x + (int64_t)item * f->dim, j->add + (int64_t)item * f->dim, f->dim);
    }
    if (j->norm != NULL) {
        kernels->rms_norm(j->x + (int64_t)item * f->dim, j->norm, f->dim, f->norm_epsilon, y);
    }
    if (j->quantize) {
        int64_t groups = j->cols / LN_Q8_GROUP;
        kernels->quantize_q8(y, j->cols, s->q8 + item * j->cols, s->q8_scale + item * groups,
                             s->q8_sum + item * groups);
    }
}

static void run_tokens(const ln_session *s, int32_t n, const token_job *job) {
    run(s, n, 4 * n * job->cols, token_item, job);
}

/* ---- attention ------------------------------------------------------------------ */

typedef struct layer_job {
    ln_session *session;
    int32_t layer;
    int32_t n; /* tokens */
} layer_job;

/* Rotates neighbouring pairs by the angles of one position (Su et al. 2021, RoFormer, eq. 34). */
static void rotate(float *head, const float *cosines, const float *sines, int32_t n_pairs) {
    for (int32_t i = 0; i < n_pairs; i++) {
        float a = head[2 * i];
        float b = head[2 * i + 1];
        head[2 * i] = a * cosines[i] - b * sines[i];
        head[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

static void store(const ln_session *s, const float *values, char *slot) {
    const int32_t head_dim = s->model->facts.head_dim;
    if (s->kv_type == LN_TYPE_F16) {
        s->kernels->f32_to_f16(values, head_dim, (uint16_t *)(void *)slot);
    } else {
        memcpy(slot, values, (size_t)head_dim * sizeof *values);
    }
}

/* Rotates the queries and keys of one token and puts its keys and values into the cache. */
static void rotary_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const layer_job *j = job;
    ln_session *s = j->session;
    const ln_facts *f = &s->model->facts;
    const int32_t pairs = f->rope_dims / 2;
    const float *cosines = s->cosines + (int64_t)item * pairs;
    const float *sines = s->sines + (int64_t)item * pairs;
    float *q = s->q + (int64_t)item * f->n_heads * f->head_dim;
    float *k = s->k + (int64_t)item * f->n_kv_heads * f->head_dim;
    float *v = s->v + (int64_t)item * f->n_kv_heads * f->head_dim;
    for (int32_t i = 0; i < f->n_heads; i++) {
        rotate(q + (int64_t)i * f->head_dim, cosines, sines, pairs);
    }
    for (int32_t i = 0; i < f->n_kv_heads; i++) {
        int64_t head = (int64_t)i * f->head_dim;
        rotate(k + head, cosines, sines, pairs);
        store(s, k + head, cache_at(s, s->k_cache, j->layer, i, s->length + item));
        store(s, v + head, cache_at(s, s->v_cache, j->layer, i, s->length + item));
    }
}

/* One query head of one token. Heads that share keys are neighbours in the order of the items. */
static void attention_item(const void *job, int32_t item, int32_t worker) {
    const layer_job *j = job;
    ln_session *s = j->session;
    const ln_facts *f = &s->model->facts;
    const int32_t head = item / j->n;
    const int32_t token = item % j->n;
    const int32_t kv_head = head / (f->n_heads / f->n_kv_heads);
    const int64_t at = ((int64_t)token * f->n_heads + head) * f->head_dim;
    const ln_attention attention = {
        .q = s->q + at,
        .k = cache_at(s, s->k_cache, j->layer, kv_head, 0),
        .v = cache_at(s, s->v_cache, j->layer, kv_head, 0),
        .kv_stride_bytes = cache_row_bytes(s),
        .head_dim = f->head_dim,
        .n = s->length + token + 1,
        .scale = 1.0f / sqrtf((float)f->head_dim),
        .weights = s->weights + (int64_t)worker * s->n_ctx,
        .out = s->attended + at,
    };
    if (s->kv_type == LN_TYPE_F16) {
        s->kernels->attention_f16(&attention);
    } else {
        s->kernels->attention_f32(&attention);
    }
}

/* ---- the pass -------------------------------------------------------------------- */

/* Looks up the embeddings and the angles of one token. */
static void input_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const layer_job *j = job;
    ln_session *s = j->session;
    const ln_facts *f = &s->model->facts;
    const ln_matrix *embedding = &s->model->globals.embedding;
    const char *row = (const char *)embedding->data + (size_t)s->ids[s->length + item] * embedding->row_bytes;
    ln_type_traits_of(embedding->type)->unpack(row, f->dim, s->x + (int64_t)item * f->dim);
    const int32_t pairs = f->rope_dims / 2;
    for (int32_t i = 0; i < pairs; i++) {
        /* The angle is a float, as it was in training; its sine and cosine are exact to a float. */
        float angle = (float)(s->length + item) * s->frequencies[i];
        s->cosines[(int64_t)item * pairs + i] = (float)cos((double)angle);
        s->sines[(int64_t)item * pairs + i] = (float)sin((double)angle);
    }
}

static void run_attention(ln_session *s, const ln_layer *layer, const layer_job *job) {
    const ln_facts *f = &s->model->facts;
    const int32_t n = job->n;
    const product qkv[3] = {{&layer->q, s->q}, {&layer->k, s->k}, {&layer->v, s->v}};
    run_products(s, vectors_of(s, s->h, f->dim, n), qkv, 3);
    const int64_t query_dim = (int64_t)f->n_heads * f->head_dim;
    run(s, n, n * query_dim, rotary_item, job);
    run(s, n * f->n_heads, 2 * n * query_dim * (s->length + n), attention_item, job);

    if (wants_q8(&layer->o)) {
        run_tokens(s, n, &(token_job){.session = s, .y = s->attended, .cols = query_dim, .quantize = 1});
    }
    run_products(s, vectors_of(s, s->attended, query_dim, n), &(product){&layer->o, s->h}, 1);
}

static void run_ffn(ln_session *s, const ln_layer *layer, int32_t n) {
    const ln_facts *f = &s->model->facts;
    run_gated(s, vectors_of(s, s->h, f->dim, n), (product){&layer->gate, s->gate}, (product){&layer->up, s->up});
    if (wants_q8(&layer->down)) {
        run_tokens(s, n, &(token_job){.session = s, .y = s->gate, .cols = f->ffn_dim, .quantize = 1});
    }
    run_products(s, vectors_of(s, s->gate, f->ffn_dim, n), &(product){&layer->down, s->h}, 1);
}

void ln_decoder_run(ln_session *s, int32_t n) {
    const ln_facts *f = &s->model->facts;
    layer_job job = {s, 0, n};
    run(s, n, (int64_t)n * f->dim, input_item, &job);
    token_job before = {.session = s, .x = s->x, .y = s->h, .cols = f->dim};
    for (job.layer = 0; job.layer < f->n_layers; job.layer++) {
        const ln_layer *layer = &s->model->layers[job.layer];
        before.add = job.layer == 0 ? NULL : s->h; /* what the layer below adds to the stream */
        before.norm = layer->attn_norm;
        before.quantize = wants_q8(&layer->q) || wants_q8(&layer->k) || wants_q8(&layer->v);
        run_tokens(s, n, &before);
        run_attention(s, layer, &job);
        before.add = s->h;
        before.norm = layer->ffn_norm;
        before.quantize = wants_q8(&layer->gate) || wants_q8(&layer->up);
        run_tokens(s, n, &before);
        run_ffn(s, layer, n);
    }
    run_tokens(s, n, &(token_job){.session = s, .add = s->h, .x = s->x, .y = s->h, .cols = f->dim});
}

void ln_decoder_logits(ln_session *s, int32_t first, int32_t n, float *y) {
    const ln_facts *f = &s->model->facts;
    const ln_matrix *head = ln_model_head(s->model);
    const token_job norm = {
        .session = s,
        .norm = s->model->globals.output_norm,
        .x = s->x + (int64_t)first * f->dim,
        .y = s->h,
        .cols = f->dim,
        .quantize = wants_q8(head),
    };
    run_tokens(s, n, &norm);
    run_products(s, vectors_of(s, s->h, f->dim, n), &(product){head, y}, 1);
}
