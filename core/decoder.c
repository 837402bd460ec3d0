/* decoder.c - the forward pass: tokens of many sequences in, hidden states and logits out. What a layer does is
 * said by the facts of the model and by which weights it has.
 *
 * The work of each step is cut into items for the thread pool. Which thread does an item, and which
 * tokens run together, changes no bit of the result: an item computes whole outputs, and the
 * kernels compute each output from its own row and vector alone.
 */
#include <string.h>

#include "conv.h"
#include "panels.h"
#include "session.h"

static ln_vectors vectors_of(const float *f32, const ln_q8_block *q8, int64_t cols, int32_t n) {
    return (ln_vectors){.f32 = f32, .q8 = q8, .cols = cols, .n = n};
}

static ln_product product_of(const ln_linear *of, ln_vectors x, float *y) {
    return (ln_product){.of = of, .x = x, .y = y, .scale = 1.0f};
}

/* ---- norms ---------------------------------------------------------------------- */

/* y = x normalised, part by part of norm->cols elements; where there is no norm, y = x. */
static void normalise(const ln_workspace *w, const ln_norm *norm, const float *x, int64_t n, float *y) {
    const ln_kernels *kernels = w->compute.kernels;
    const ln_facts *f = &w->model->facts;
    if (norm->weight == NULL) {
        memmove(y, x, (size_t)n * sizeof *y);
        return;
    }
    for (int64_t i = 0; i < n / norm->cols; i++) {
        const int64_t at = i * norm->cols;
        const int64_t row = norm->rows > 1 ? at : 0;
        if (f->norm == LN_NORM_RMS) {
            kernels->rms_norm(x + at, norm->weight + row, norm->cols, f->norm_epsilon, y + at);
        } else {
            kernels->layer_norm(x + at, norm->weight + row, norm->bias != NULL ? norm->bias + row : NULL, norm->cols,
                                f->norm_epsilon, y + at);
        }
    }
}

/* ---- work on one token each ---------------------------------------------------- */

/* What happens to each token before a matrix: x += add, x normalised where it is a norm of sums, then y = normalised
 * x, then y quantised. Steps without their operand are left out. */
typedef struct token_job {
    const ln_workspace *workspace;
    int32_t n;               /* tokens */
    int64_t cols;
    float *add;              /* [n][cols] or NULL */
    const ln_norm *add_norm; /* normalises what is added, or NULL */
    const ln_norm *sum_norm; /* normalises x once that is added, or NULL */
    int adds_late;           /* x += add comes after y was made */
    const ln_norm *norm;     /* or NULL: y is what it is */
    const int32_t *rows;     /* [n], of x, or NULL: token i is row i */
    float *x;                /* [n][cols] */
    float *y;                /* [n][cols]; may be x */
    ln_q8_block *q8;         /* y quantised, see ln_vectors, or NULL */
} token_job;

static void token_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const token_job *j = job;
    const ln_kernels *kernels = j->workspace->compute.kernels;
    const int64_t row = j->rows != NULL ? j->rows[item] : item;
    float *x = j->x + row * j->cols;
    float *y = j->y + item * j->cols;
    float *add = j->add != NULL ? j->add + row * j->cols : NULL;
    if (add != NULL && j->add_norm != NULL && j->add_norm->weight != NULL) {
        normalise(j->workspace, j->add_norm, add, j->cols, add);
    }
    if (add != NULL && !j->adds_late) {
        kernels->add(x, add, j->cols);
    }
    if (add != NULL && j->sum_norm != NULL && j->sum_norm->weight != NULL) {
        normalise(j->workspace, j->sum_norm, x, j->cols, x);
    }
    if (j->norm != NULL) {
        normalise(j->workspace, j->norm, x, j->cols, y);
    }
    if (add != NULL && j->adds_late) {
        kernels->add(x, add, j->cols);
    }
    if (j->q8 != NULL) {
        kernels->quantize_q8(y, j->cols, j->q8 + ln_q8_first(j->cols, item), ln_q8_tile_width(j->n, item));
    }
}

static void run_tokens(const token_job *job) {
    ln_compute_run(&job->workspace->compute, job->n, 4 * job->n * job->cols, token_item, job);
}

/* ---- attention -------------------------------------------------------------------- */

typedef struct layer_job {
    ln_workspace *workspace;
    int32_t layer;
} layer_job;

static void place_heads(const layer_job *j, const ln_norm *norm, int32_t n_ctx, int32_t token, float *heads,
                        int32_t n_heads) {
    ln_workspace *w = j->workspace;
    if (norm->weight != NULL) {
        normalise(w, norm, heads, (int64_t)n_heads * w->model->facts.head_dim, heads);
    }
    ln_rotary_turn(&w->rotary, w->model, j->layer, n_ctx, token, heads, n_heads);
}

/* Readies the queries and keys of one token and puts its keys and values into its page. */
static void place_token(const layer_job *j, const ln_segment *segment, int32_t token) {
    ln_workspace *w = j->workspace;
    const ln_facts *f = &w->model->facts;
    const ln_layer *layer = ln_model_layer(w->model, j->layer);
    const int32_t position = w->positions[token];
    const int32_t page = segment->session->pages[position / LN_PAGE];
    const int64_t first = token * (int64_t)f->n_kv_heads * f->head_dim;
    place_heads(j, &layer->q_norm, segment->session->n_ctx, token,
                w->q + token * (int64_t)f->n_heads * f->head_dim, f->n_heads);
    place_heads(j, &layer->k_norm, segment->session->n_ctx, token, w->k + first, f->n_kv_heads);
    for (int32_t i = 0; i < f->n_kv_heads; i++) {
        const int64_t at = first + (int64_t)i * f->head_dim;
        ln_pages_store(&w->pages, w->compute.kernels, page, w->model->kinds[j->layer].index, i, position % LN_PAGE,
                       w->k + at, w->v + at);
    }
}

static void place_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const layer_job *j = job;
    const ln_neighbours *some = &j->workspace->neighbours[item];
    for (int32_t i = 0; i < some->n; i++) {
        place_token(j, &j->workspace->segments[some->segment], some->first + i);
    }
}

/* What attention makes of h goes to y. */
static void run_attention(ln_workspace *w, const ln_layer *layer, const layer_job *job, float *y) {
    const ln_facts *f = &w->model->facts;
    const int32_t n = w->n_tokens;
    const int64_t query_dim = (int64_t)f->n_heads * f->head_dim;
    const ln_vectors h = vectors_of(w->h, w->q8, f->dim, n);
    ln_product in[] = {product_of(&layer->q, h, w->q), product_of(&layer->k, h, w->k), product_of(&layer->v, h, w->v)};
    in[0].add = ln_adapters_run(w, job->layer, LN_TARGET_Q, 0, w->h);
    in[1].add = ln_adapters_run(w, job->layer, LN_TARGET_K, 1, w->h);
    in[2].add = ln_adapters_run(w, job->layer, LN_TARGET_V, 2, w->h);
    ln_products_run(&w->compute, in, 3);
    ln_compute_run(&w->compute, w->n_neighbours, n * query_dim, place_item, job);
    ln_attention_run(w, job->layer);
    const int quantize = ln_wants_q8(&layer->o.w);
    if (quantize || layer->attn_sub_norm.weight != NULL) {
        run_tokens(&(token_job){.workspace = w, .n = n, .cols = query_dim, .norm = &layer->attn_sub_norm, .x = w->q,
                                .y = w->q, .q8 = quantize ? w->q8 : NULL});
    }
    ln_product out = product_of(&layer->o, vectors_of(w->q, w->q8, query_dim, n), y);
    out.add = ln_adapters_run(w, job->layer, LN_TARGET_O, 0, w->q);
    out.scale = f->residual_scale;
    ln_products_run(&w->compute, &out, 1);
}

/* ---- feed-forward ------------------------------------------------------------------- */

/* What the block makes of h goes to h. */
static void run_ffn(ln_workspace *w, const ln_layer *layer, int32_t index) {
    const ln_facts *f = &w->model->facts;
    const int32_t n = w->n_tokens;
    const int has_norm = layer->ffn_sub_norm.weight != NULL;
    const int quantize = ln_wants_q8(&layer->down.w);
    ln_gated_product inner = {
        .gate = layer->gate.w.data != NULL ? &layer->gate : NULL,
        .up = &layer->up,
        .x = vectors_of(w->h, w->q8, f->dim, n),
        .f32 = quantize && !has_norm && w->n_adapted == 0 ? NULL : w->inner,
        .q8 = quantize && !has_norm ? w->ffn_q8 : NULL,
        .gate_add = ln_adapters_run(w, index, LN_TARGET_GATE, 0, w->h),
        .up_add = ln_adapters_run(w, index, LN_TARGET_UP, 1, w->h),
    };
    ln_gated_products_run(&w->compute, &inner, 1, f->activation, w->gated_scratch, w->n_batch);
    if (has_norm) {
        run_tokens(&(token_job){.workspace = w, .n = n, .cols = f->ffn_dim, .norm = &layer->ffn_sub_norm,
                                .x = w->inner, .y = w->inner, .q8 = quantize ? w->ffn_q8 : NULL});
    }
    ln_product out = product_of(&layer->down, vectors_of(w->inner, w->ffn_q8, f->ffn_dim, n), w->h);
    out.add = ln_adapters_run(w, index, LN_TARGET_DOWN, 0, w->inner);
    out.scale = f->residual_scale;
    ln_products_run(&w->compute, &out, 1);
}

/* ---- the pass -------------------------------------------------------------------- */

/* x += a row of a table that may not be there; scratch[dim]. */
static void add_row(const ln_workspace *w, const ln_linear *table, int32_t row, float *scratch, float *x) {
    if (table->w.data != NULL) {
        ln_matrix_row(&table->w, row, scratch);
        w->compute.kernels->add(x, scratch, w->model->facts.dim);
    }
}

/* Looks up the embeddings and the angles of one token. */
static void input_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const layer_job *j = job;
    ln_workspace *w = j->workspace;
    const ln_facts *f = &w->model->facts;
    const ln_globals *g = &w->model->globals;
    float *x = w->x + (int64_t)item * f->dim;
    ln_matrix_row(&g->embedding.w, w->ids[item], x);
    for (int32_t i = 0; f->embedding_scale != 1.0f && i < f->dim; i++) {
        x[i] *= f->embedding_scale;
    }
    float *scratch = w->h + (int64_t)item * f->dim;
    add_row(w, &g->token_types, w->types[item], scratch, x);
    add_row(w, &g->positions, w->positions[item], scratch, x);
    normalise(w, &g->embedding_norm, x, f->dim, x);
    ln_rotary_place(&w->rotary, w->model, item, w->positions[item]);
}

static int wants_q8(const ln_linear *a, const ln_linear *b, const ln_linear *c) {
    return ln_wants_q8(&a->w) || ln_wants_q8(&b->w) || ln_wants_q8(&c->w);
}

/* One layer; h holds what the layer below, unless it is NULL, adds to the stream, and then what this one adds. */
static void run_layer(ln_workspace *w, const ln_layer *below, const layer_job *job) {
    const ln_facts *f = &w->model->facts;
    const ln_layer *layer = ln_model_layer(w->model, job->layer);
    float *attended = f->parallel_residual ? w->parallel : w->h;
    token_job before = {.workspace = w, .n = w->n_tokens, .cols = f->dim, .x = w->x, .y = w->h};
    before.add = below != NULL ? w->h : NULL;
    before.add_norm = below != NULL ? &below->ffn_post_norm : NULL;
    before.sum_norm = below != NULL ? &below->ffn_sum_norm : NULL;
    before.norm = &layer->attn_norm;
    before.q8 = wants_q8(&layer->q, &layer->k, &layer->v) || ln_wants_q8(&layer->conv_in.w) ? w->q8 : NULL;
    run_tokens(&before);
    if (w->model->kinds[job->layer].is_conv) {
        ln_conv_run(w, job->layer, attended);
    } else {
        run_attention(w, layer, job, attended);
    }
    before.add = attended;
    before.add_norm = &layer->attn_post_norm;
    before.sum_norm = &layer->attn_sum_norm;
    before.adds_late = f->parallel_residual;
    before.norm = f->parallel_residual && layer->ffn_norm.weight == NULL ? &layer->attn_norm : &layer->ffn_norm;
    before.q8 = wants_q8(&layer->gate, &layer->up, &layer->router) ? w->q8 : NULL;
    run_tokens(&before);
    if (layer->router.w.data != NULL) {
        ln_experts_run(w, layer);
    } else {
        run_ffn(w, layer, job->layer);
    }
}

void ln_decoder_run(ln_workspace *w) {
    const ln_facts *f = &w->model->facts;
    layer_job job = {w, 0};
    const ln_layer *below = NULL;
    ln_attention_prepare(w);
    ln_compute_run(&w->compute, w->n_tokens, (int64_t)w->n_tokens * f->dim, input_item, &job);
    for (; job.layer < f->n_layers; job.layer++) {
        run_layer(w, below, &job);
        below = ln_model_layer(w->model, job.layer);
    }
    run_tokens(&(token_job){.workspace = w, .n = w->n_tokens, .cols = f->dim, .add = w->h,
                            .add_norm = &below->ffn_post_norm, .sum_norm = &below->ffn_sum_norm, .x = w->x,
                            .y = w->h});
}

static token_job last_norm(ln_workspace *w, const int32_t *tokens, int32_t n, float *y) {
    return (token_job){.workspace = w, .n = n, .cols = w->model->facts.dim, .norm = &w->model->globals.output_norm,
                       .rows = tokens, .x = w->x, .y = y};
}

void ln_decoder_hidden(ln_workspace *w, const int32_t *tokens, int32_t n, float *y) {
    const token_job norm = last_norm(w, tokens, n, y);
    run_tokens(&norm);
}

void ln_decoder_logits(ln_workspace *w, const int32_t *tokens, int32_t n, float *y) {
    const ln_facts *f = &w->model->facts;
    const ln_linear *head = ln_model_head(w->model);
    token_job norm = last_norm(w, tokens, n, w->h);
    norm.q8 = ln_wants_q8(&head->w) ? w->q8 : NULL;
    run_tokens(&norm);
    ln_product logits = product_of(head, vectors_of(w->h, w->q8, f->dim, n), y);
    logits.scale = f->logit_scale;
    logits.cap = f->logit_cap;
    ln_products_run(&w->compute, &logits, 1);
}

const float *ln_decoder_scores(ln_workspace *w, const int32_t *tokens, int32_t n) {
    const ln_facts *f = &w->model->facts;
    const ln_globals *g = &w->model->globals;
    token_job norm = last_norm(w, tokens, n, w->h);
    norm.q8 = ln_wants_q8(&g->rank_inner.w) ? w->q8 : NULL;
    run_tokens(&norm);
    ln_gated_product inner = {.up = &g->rank_inner, .x = vectors_of(w->h, w->q8, f->dim, n), .f32 = w->inner};
    ln_gated_products_run(&w->compute, &inner, 1, f->rank_activation, w->gated_scratch, w->n_batch);
    if (ln_wants_q8(&g->rank_score.w)) {
        run_tokens(&(token_job){.workspace = w, .n = n, .cols = f->dim, .x = w->inner, .y = w->inner, .q8 = w->q8});
    }
    ln_product score = product_of(&g->rank_score, vectors_of(w->inner, w->q8, f->dim, n), w->h);
    ln_products_run(&w->compute, &score, 1);
    return w->h;
}
