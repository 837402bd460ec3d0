/* experts.c - chooses the experts of each token, gathers the tokens of each expert, and sums up.
 *
 * A token's result is the sum over its experts, the most probable first, whatever else is in the batch: the same
 * bits as alone.
 */
#include "experts.h"

#include <math.h>
#include <string.h>

#include "workspace.h"

/* ---- choosing ------------------------------------------------------------------ */

/* scores[n] become probabilities. */
static void softmax(float *scores, int32_t n) {
    float largest = scores[0];
    for (int32_t i = 1; i < n; i++) {
        largest = scores[i] > largest ? scores[i] : largest;
    }
    float sum = 0;
    for (int32_t i = 0; i < n; i++) {
        scores[i] = expf(scores[i] - largest);
        sum += scores[i];
    }
    for (int32_t i = 0; i < n; i++) {
        scores[i] /= sum;
    }
}

/* The largest that is not taken, the first of equal ones; damaged weights may make all of them NaN. */
static int32_t next_best(const float *scores, int32_t n, const int32_t *taken, int32_t n_taken) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        int is_free = 1;
        for (int32_t j = 0; j < n_taken; j++) {
            is_free = is_free && taken[j] != i;
        }
        if (is_free && (best < 0 || scores[i] > scores[best])) {
            best = i;
        }
    }
    return best;
}

static void choose_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const ln_workspace *w = job;
    const ln_facts *f = &w->model->facts;
    float *scores = w->experts.scores + (int64_t)item * f->n_experts;
    int32_t *chosen = w->experts.chosen + (int64_t)item * f->n_experts_used;
    float *weights = w->experts.weights + (int64_t)item * f->n_experts_used;
    float sum = 0;
    softmax(scores, f->n_experts);
    for (int32_t i = 0; i < f->n_experts_used; i++) {
        chosen[i] = next_best(scores, f->n_experts, chosen, i);
        weights[i] = scores[chosen[i]];
        sum += weights[i];
    }
    for (int32_t i = 0; i < f->n_experts_used; i++) {
        weights[i] = f->expert_norm ? weights[i] / sum : weights[i];
    }
}

/* ---- gathering -------------------------------------------------------------------- */

/* Gives each token and expert a slot, expert by expert, tokens in their order. */
static void place_slots(ln_experts *e, const ln_facts *f, int32_t n_tokens) {
    const int32_t n_slots = n_tokens * f->n_experts_used;
    memset(e->first, 0, ((size_t)f->n_experts + 1) * sizeof *e->first);
    for (int32_t i = 0; i < n_slots; i++) {
        e->first[e->chosen[i] + 1]++;
    }
    for (int32_t i = 0; i < f->n_experts; i++) {
        e->first[i + 1] += e->first[i];
    }
    for (int32_t i = 0; i < n_slots; i++) {
        const int32_t slot = e->first[e->chosen[i]]++; /* first[i] moves to where first[i + 1] was */
        e->slots[i] = slot;
        e->tokens[slot] = i / f->n_experts_used;
        e->expert_of[slot] = e->chosen[i];
    }
    memmove(e->first + 1, e->first, (size_t)f->n_experts * sizeof *e->first);
    e->first[0] = 0;
}

static int64_t groups_of(int64_t cols) {
    return (cols + LN_Q8_GROUP - 1) / LN_Q8_GROUP;
}

typedef struct gather_job {
    const ln_workspace *workspace;
    int quantize;
} gather_job;

static void gather_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const ln_workspace *w = ((const gather_job *)job)->workspace;
    const ln_experts *e = &w->experts;
    const int64_t dim = w->model->facts.dim;
    const int32_t first = e->first[e->expert_of[item]];
    const int32_t n = e->first[e->expert_of[item] + 1] - first;
    float *x = e->x + item * dim;
    memcpy(x, w->h + e->tokens[item] * dim, (size_t)dim * sizeof *x);
    if (((const gather_job *)job)->quantize) {
        ln_q8_block *q8 = e->q8 + first * groups_of(dim) + ln_q8_first(dim, item - first);
        w->compute.kernels->quantize_q8(x, dim, q8, ln_q8_tile_width(n, item - first));
    }
}

/* ---- summing up --------------------------------------------------------------------- */

static void sum_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const ln_workspace *w = job;
    const ln_facts *f = &w->model->facts;
    const ln_experts *e = &w->experts;
    float *h = w->h + (int64_t)item * f->dim;
    memset(h, 0, (size_t)f->dim * sizeof *h);
    for (int32_t i = 0; i < f->n_experts_used; i++) {
        const int64_t at = (int64_t)item * f->n_experts_used + i;
        const float *y = e->x + e->slots[at] * (int64_t)f->dim;
        const float weight = e->weights[at];
        for (int32_t c = 0; c < f->dim; c++) {
            h[c] += weight * y[c];
        }
    }
    for (int32_t c = 0; f->residual_scale != 1.0f && c < f->dim; c++) {
        h[c] *= f->residual_scale;
    }
}

/* ---- the block ---------------------------------------------------------------------- */

/* The products of every expert that has slots; returns how many. */
static int32_t list_products(const ln_workspace *w, const ln_layer *layer) {
    const ln_facts *f = &w->model->facts;
    const ln_experts *e = &w->experts;
    const int64_t dim = f->dim;
    const int64_t ffn = f->expert_ffn_dim;
    int32_t count = 0;
    for (int32_t i = 0; i < f->n_experts; i++) {
        const int64_t first = e->first[i];
        const int32_t n = e->first[i + 1] - e->first[i];
        const int quantize = ln_wants_q8(&layer->down_experts[i].w);
        ln_q8_block *inner_q8 = e->inner_q8 + first * groups_of(ffn);
        if (n == 0) {
            continue;
        }
        e->gated[count] = (ln_gated_product){
            .gate = &layer->gate_experts[i],
            .up = &layer->up_experts[i],
            .x = {.f32 = e->x + first * dim, .q8 = e->q8 + first * groups_of(dim), .cols = dim, .n = n},
            .f32 = quantize ? NULL : e->inner + first * ffn,
            .q8 = quantize ? inner_q8 : NULL,
        };
        e->down[count] = (ln_product){
            .of = &layer->down_experts[i],
            .x = {.f32 = e->inner + first * ffn, .q8 = inner_q8, .cols = ffn, .n = n},
            .y = e->x + first * dim,
            .scale = 1.0f,
        };
        count++;
    }
    return count;
}

void ln_experts_run(ln_workspace *w, const ln_layer *layer) {
    const ln_facts *f = &w->model->facts;
    const int32_t n = w->n_tokens;
    const int32_t n_slots = n * f->n_experts_used;
    const int64_t work = (int64_t)n_slots * f->dim;
    ln_product router = {.of = &layer->router, .y = w->experts.scores, .scale = 1.0f};
    router.x = (ln_vectors){.f32 = w->h, .q8 = w->q8, .cols = f->dim, .n = n};
    ln_products_run(&w->compute, &router, 1);
    ln_compute_run(&w->compute, n, (int64_t)n * f->n_experts * f->n_experts_used, choose_item, w);
    place_slots(&w->experts, f, n);
    const gather_job gather = {w, ln_wants_q8(&layer->gate_experts->w) || ln_wants_q8(&layer->up_experts->w)};
    ln_compute_run(&w->compute, n_slots, 4 * work, gather_item, &gather);
    const int32_t count = list_products(w, layer);
    ln_gated_products_run(&w->compute, w->experts.gated, count, f->activation, w->gated_scratch, w->n_batch);
    ln_products_run(&w->compute, w->experts.down, count);
    ln_compute_run(&w->compute, n, work, sum_item, w);
}
