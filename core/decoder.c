/* decoder.c - the forward pass of a Llama-family decoder: tokens of many sequences in, hidden states and logits
 * out.
 *
 * The work of each step is cut into items for the thread pool. Which thread does an item, and which
 * tokens run together, changes no bit of the result: an item computes whole outputs, and the
 * kernels compute each output from its own row and vector alone.
 */
#include <math.h>

#include "panels.h"
#include "session.h"

static ln_vectors vectors_of(const float *f32, const ln_q8_block *q8, int64_t cols, int32_t n) {
    return (ln_vectors){.f32 = f32, .q8 = q8, .cols = cols, .n = n};
}

/* ---- work on one token each ---------------------------------------------------- */

/* What happens to each token before a matrix: x += add, then y = normalised x, then y quantised. Steps
 * without their operand are left out. */
typedef struct token_job {
    const ln_workspace *workspace;
    int32_t n;           /* tokens */
    const float *add;    /* [n][dim] or NULL */
    const float *norm;   /* [dim], the weight, or NULL */
    const int32_t *rows; /* [n], of x, or NULL: token i is row i */
    float *x;            /* [n][dim] */
    float *y;            /* [n][cols]; quantised where it lies when norm is NULL */
    int64_t cols;        /* of y */
    int quantize;
} token_job;

static void token_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const token_job *j = job;
    const ln_facts *f = &j->workspace->model->facts;
    const ln_kernels *kernels = j->workspace->compute.kernels;
    const int64_t row = j->rows != NULL ? j->rows[item] : item;
    float *y = j->y + item * j->cols;
    if (j->add != NULL) {
        kernels->add(j->x + row * f->dim, j->add + row * f->dim, f->dim);
    }
    if (j->norm != NULL) {
        kernels->rms_norm(j->x + row * f->dim, j->norm, f->dim, f->norm_epsilon, y);
    }
    if (j->quantize) {
        kernels->quantize_q8(y, j->cols, j->workspace->q8 + ln_q8_first(j->cols, item), ln_q8_tile_width(j->n, item));
    }
}

static void run_tokens(const token_job *job) {
    ln_compute_run(&job->workspace->compute, job->n, 4 * job->n * job->cols, token_item, job);
}

/* ---- rotary position embedding ---------------------------------------------------- */

typedef struct layer_job {
    ln_workspace *workspace;
    int32_t layer;
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

/* Rotates the queries and keys of one token and puts its keys and values into its page. */
static void rotate_token(const layer_job *j, const ln_segment *segment, int32_t token) {
    ln_workspace *w = j->workspace;
    const ln_facts *f = &w->model->facts;
    const int32_t position = w->positions[token];
    const int32_t page = segment->session->pages[position / LN_PAGE];
    const int32_t pairs = f->rope_dims / 2;
    const float *cosines = w->cosines + (int64_t)token * pairs;
    const float *sines = w->sines + (int64_t)token * pairs;
    for (int64_t i = 0; i < f->n_heads; i++) {
        rotate(w->q + (token * (int64_t)f->n_heads + i) * f->head_dim, cosines, sines, pairs);
    }
    for (int32_t i = 0; i < f->n_kv_heads; i++) {
        const int64_t at = (token * (int64_t)f->n_kv_heads + i) * f->head_dim;
        rotate(w->k + at, cosines, sines, pairs);
        ln_pages_store(&w->pages, w->compute.kernels, page, j->layer, i, position % LN_PAGE, w->k + at, w->v + at);
    }
}

static void rotary_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const layer_job *j = job;
    const ln_neighbours *some = &j->workspace->neighbours[item];
    for (int32_t i = 0; i < some->n; i++) {
        rotate_token(j, &j->workspace->segments[some->segment], some->first + i);
    }
}

/* ---- the pass -------------------------------------------------------------------- */

/* Looks up the embeddings and the angles of one token. */
static void input_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const layer_job *j = job;
    ln_workspace *w = j->workspace;
    const ln_facts *f = &w->model->facts;
    ln_matrix_row(&w->model->globals.embedding, w->ids[item], w->x + (int64_t)item * f->dim);
    const int32_t pairs = f->rope_dims / 2;
    for (int32_t i = 0; i < pairs; i++) {
        /* The angle is a float, as it was in training; its sine and cosine are exact to a float. */
        float angle = (float)w->positions[item] * w->frequencies[i];
        w->cosines[(int64_t)item * pairs + i] = (float)cos((double)angle);
        w->sines[(int64_t)item * pairs + i] = (float)sin((double)angle);
    }
}

static void run_attention(ln_workspace *w, const ln_layer *layer, const layer_job *job) {
    const ln_facts *f = &w->model->facts;
    const int32_t n = w->n_tokens;
    const int64_t query_dim = (int64_t)f->n_heads * f->head_dim;
    const ln_vectors h = vectors_of(w->h, w->q8, f->dim, n);
    ln_products_run(&w->compute, &h, (ln_product[]){{&layer->q, w->q}, {&layer->k, w->k}, {&layer->v, w->v}}, 3);
    ln_compute_run(&w->compute, w->n_neighbours, n * query_dim, rotary_item, job);
    ln_attention_run(w, job->layer);
    if (ln_wants_q8(&layer->o)) {
        run_tokens(&(token_job){.workspace = w, .n = n, .y = w->q, .cols = query_dim, .quantize = 1});
    }
    const ln_vectors attended = vectors_of(w->q, w->q8, query_dim, n);
    ln_products_run(&w->compute, &attended, &(ln_product){&layer->o, w->h}, 1);
}

static void run_ffn(ln_workspace *w, const ln_layer *layer) {
    const ln_facts *f = &w->model->facts;
    const int32_t n = w->n_tokens;
    const ln_vectors h = vectors_of(w->h, w->q8, f->dim, n);
    const int quantize = ln_wants_q8(&layer->down);
    const ln_gated_output gated = {.f32 = quantize ? NULL : w->gate, .q8 = quantize ? w->ffn_q8 : NULL};
    ln_gated_product_run(&w->compute, &h, &layer->gate, &layer->up, &gated, w->gated_scratch);
    const ln_vectors inner = vectors_of(w->gate, w->ffn_q8, f->ffn_dim, n);
    ln_products_run(&w->compute, &inner, &(ln_product){&layer->down, w->h}, 1);
}

void ln_decoder_run(ln_workspace *w) {
    const ln_facts *f = &w->model->facts;
    layer_job job = {w, 0};
    token_job before = {.workspace = w, .n = w->n_tokens, .x = w->x, .y = w->h, .cols = f->dim};
    ln_attention_prepare(w);
    ln_compute_run(&w->compute, w->n_tokens, (int64_t)w->n_tokens * f->dim, input_item, &job);
    for (job.layer = 0; job.layer < f->n_layers; job.layer++) {
        const ln_layer *layer = &w->model->layers[job.layer];
        before.add = job.layer == 0 ? NULL : w->h; /* what the layer below adds to the stream */
        before.norm = layer->attn_norm;
        before.quantize = ln_wants_q8(&layer->q) || ln_wants_q8(&layer->k) || ln_wants_q8(&layer->v);
        run_tokens(&before);
        run_attention(w, layer, &job);
        before.add = w->h;
        before.norm = layer->ffn_norm;
        before.quantize = ln_wants_q8(&layer->gate) || ln_wants_q8(&layer->up);
        run_tokens(&before);
        run_ffn(w, layer);
    }
    run_tokens(&(token_job){.workspace = w, .n = w->n_tokens, .add = w->h, .x = w->x, .y = w->h, .cols = f->dim});
}

void ln_decoder_logits(ln_workspace *w, const int32_t *tokens, int32_t n, float *y) {
    const ln_facts *f = &w->model->facts;
    const ln_matrix *head = ln_model_head(w->model);
    const token_job norm = {
        .workspace = w,
        .n = n,
        .norm = w->model->globals.output_norm,
        .rows = tokens,
        .x = w->x,
        .y = w->h,
        .cols = f->dim,
        .quantize = ln_wants_q8(head),
    };
    run_tokens(&norm);
    const ln_vectors h = vectors_of(w->h, w->q8, f->dim, n);
    ln_products_run(&w->compute, &h, &(ln_product){head, y}, 1);
}
