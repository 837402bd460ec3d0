/* adapter.c - opens adapters, gives them to sessions, and computes what they add.
 *
 * A token's sum is computed from its own vector and the adapters of its own session, in the order in which it names
 * them: the same bits whatever else is in the batch.
 */
#include "adapter.h"

#include <stdlib.h>
#include <string.h>

#include "session.h"

#define SLOTS 3
#define ALIGNMENT 16 /* of a matrix, in bytes */

/* ---- opening ---------------------------------------------------------------- */

static const char *const target_names[LN_TARGETS] = {"attn_q",   "attn_k", "attn_v",  "attn_output",
                                                     "ffn_gate", "ffn_up", "ffn_down"};

static const ln_linear *matrix_of(const ln_layer *block, int32_t target) {
    const ln_linear *const all[LN_TARGETS] = {&block->q,    &block->k,  &block->v,   &block->o,
                                              &block->gate, &block->up, &block->down};
    return all[target];
}

static ln_low_rank *part_of(const ln_adapter *adapter, int32_t block, int32_t target) {
    return &adapter->parts[(int64_t)block * LN_TARGETS + target];
}

/* Of one weight; 0 for a type that adapters are not kept in. */
static size_t bytes_of(int32_t type) {
    return type == LN_TYPE_F32 ? 4 : type == LN_TYPE_F16 || type == LN_TYPE_BF16 ? 2 : 0;
}

static ln_status check_part(const ln_model *model, const ln_adapter_part *p, ln_error *err) {
    if (p->a == NULL || p->b == NULL || p->target < 0 || p->target >= LN_TARGETS || bytes_of(p->type) == 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a part of an adapter has no weights, no known type, or is of no matrix");
    }
    if (p->rank < 1 || p->rank > LN_MAX_RANK) {
        return ln_fail(err, LN_UNSUPPORTED, "the adapter's rank is %d; it can be 1 to %d", (int)p->rank, LN_MAX_RANK);
    }
    if (p->block < 0 || p->block >= model->facts.n_blocks) {
        return ln_fail(err, LN_BAD_FILE, "the adapter changes layer %d and the model has %d layers; it was made for "
                       "another model",
                       (int)p->block, (int)model->facts.n_blocks);
    }
    const ln_linear *of = matrix_of(&model->blocks[p->block], p->target);
    if (of->w.data == NULL) {
        return ln_fail(err, LN_BAD_FILE, "the adapter changes %s of layer %d, which this model does not have there; it "
                       "was made for another model",
                       target_names[p->target], (int)p->block);
    }
    if (of->w.rows != p->rows || of->w.cols != p->cols) {
        return ln_fail(err, LN_BAD_FILE, "the adapter changes %s of layer %d as [%d][%d] and the model's is [%d][%d]; "
                       "it was made for another model",
                       target_names[p->target], (int)p->block, (int)p->rows, (int)p->cols, (int)of->w.rows,
                       (int)of->w.cols);
    }
    return LN_OK;
}

static size_t padded(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static ln_linear copied(const void *from, int32_t type, int64_t rows, int64_t cols, char **at) {
    char *to = *at;
    const size_t stride = (size_t)cols * bytes_of(type), bytes = (size_t)rows * stride;
    memcpy(to, from, bytes);
    *at += padded(bytes);
    return (ln_linear){.w = {.data = to, .type = type, .rows = rows, .cols = cols, .stride = stride}, .scale = 1.0f};
}

static ln_status fill(ln_adapter *adapter, const ln_adapter_part *parts, int32_t n_parts, ln_error *err) {
    char *at = adapter->weights;
    for (int32_t i = 0; i < n_parts; i++) {
        const ln_adapter_part *p = &parts[i];
        ln_low_rank *part = part_of(adapter, p->block, p->target);
        if (part->a.w.data != NULL) {
            return ln_fail(err, LN_BAD_ARGUMENT, "the adapter changes %s of layer %d twice", target_names[p->target],
                           (int)p->block);
        }
        part->a = copied(p->a, p->type, p->rank, p->cols, &at);
        part->b = copied(p->b, p->type, p->rows, p->rank, &at);
        part->scale = p->scale;
        const int32_t shape[] = {p->block, p->target, p->type, p->rank, p->rows, p->cols};
        adapter->digest = ln_digest(shape, sizeof shape, adapter->digest);
        adapter->digest = ln_digest(&p->scale, sizeof p->scale, adapter->digest);
    }
    adapter->digest = ln_digest(adapter->weights, (size_t)(at - adapter->weights), adapter->digest);
    return LN_OK;
}

int32_t ln_adapter_open(const ln_model *model, const ln_adapter_part *parts, int32_t n_parts, ln_adapter **out,
                        ln_error *err) {
    if (model == NULL || out == NULL || n_parts < 1 || parts == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "model, parts and out must not be NULL, nor parts empty");
    }
    *out = NULL;
    size_t n_bytes = 0;
    for (int32_t i = 0; i < n_parts; i++) {
        ln_status status = check_part(model, &parts[i], err);
        if (status != LN_OK) {
            return status;
        }
        size_t own; /* rank is small, and the model holds rows * cols: only their sum can be too much */
        if (!ln_size_mul((size_t)parts[i].rank * bytes_of(parts[i].type), (size_t)parts[i].rows + (size_t)parts[i].cols,
                         &own) ||
            !ln_size_add(own, 2 * ALIGNMENT, &own) || !ln_size_add(n_bytes, own, &n_bytes)) {
            return ln_fail(err, LN_NO_MEMORY, "the adapter does not fit into the address space");
        }
    }
    ln_adapter *adapter = ln_alloc(1, sizeof *adapter, "an adapter", err);
    if (adapter == NULL) {
        return LN_NO_MEMORY;
    }
    adapter->model = model;
    adapter->weights = ln_alloc(1, n_bytes, "an adapter", err);
    adapter->parts = ln_alloc((size_t)model->facts.n_blocks * LN_TARGETS, sizeof *adapter->parts, "an adapter", err);
    ln_status status = adapter->weights != NULL && adapter->parts != NULL ? fill(adapter, parts, n_parts, err)
                                                                         : LN_NO_MEMORY;
    if (status != LN_OK) {
        ln_adapter_close(adapter);
        return status;
    }
    *out = adapter;
    return LN_OK;
}

void ln_adapter_close(ln_adapter *adapter) {
    if (adapter != NULL) {
        free(adapter->parts);
        free(adapter->weights);
        free(adapter);
    }
}

/* ---- sessions ----------------------------------------------------------------- */

int32_t ln_session_adapt(ln_session *session, ln_adapter *const *adapters, const float *scales, int32_t n,
                         ln_error *err) {
    if (session == NULL || n < 0 || (n > 0 && (adapters == NULL || scales == NULL))) {
        return ln_fail(err, LN_BAD_ARGUMENT, "session, adapters and scales must not be NULL, n not negative");
    }
    if (n > LN_MAX_ADAPTERS) {
        return ln_fail(err, LN_BAD_ARGUMENT, "%d adapters at once; at most %d are possible", (int)n, LN_MAX_ADAPTERS);
    }
    if (session->length > 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "the timeline has %d tokens, evaluated without these adapters; choose them "
                       "while it is empty",
                       (int)session->length);
    }
    for (int32_t i = 0; i < n; i++) {
        if (adapters[i] == NULL || adapters[i]->model != session->workspace->model) {
            return ln_fail(err, LN_BAD_ARGUMENT, "an adapter can be used with the model it was opened for only");
        }
    }
    ln_status status = n > 0 ? ln_adapter_space_open(session->workspace, err) : LN_OK;
    if (status == LN_OK) {
        session->n_adapters = n;
        for (int32_t i = 0; i < n; i++) {
            session->adapters[i] = (ln_scaled_adapter){adapters[i], scales[i]};
        }
    }
    return status;
}

/* ---- the pass ------------------------------------------------------------------- */

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

ln_status ln_adapter_space_open(ln_workspace *w, ln_error *err) {
    ln_adapter_space *s = &w->adapters;
    if (s->memory != NULL) {
        return LN_OK;
    }
    const ln_facts *f = &w->model->facts;
    const int64_t key = ln_extent_of(f, LN_EXTENT_KEY);
    const int64_t rows = larger(larger(ln_extent_of(f, LN_EXTENT_QUERY), key),
                                larger(ln_extent_of(f, LN_EXTENT_FFN), f->dim));
    const size_t n = (size_t)w->n_batch;
    size_t per_token, bytes;
    if (!ln_size_mul((size_t)rows, (SLOTS + 1) * sizeof(float), &per_token) ||
        !ln_size_add(per_token, LN_MAX_RANK * sizeof(float) + SLOTS, &per_token) || !ln_size_mul(n, per_token, &bytes)) {
        return ln_fail(err, LN_NO_MEMORY, "adapters do not fit into the address space; ask for a smaller n_batch");
    }
    s->memory = ln_alloc(1, bytes, "adapters", err);
    if (s->memory == NULL) {
        return LN_NO_MEMORY;
    }
    s->max_rows = rows;
    s->low = (float *)(void *)s->memory;
    s->wide = s->low + n * LN_MAX_RANK;
    s->sums = s->wide + n * (size_t)rows;
    s->has = (uint8_t *)(s->sums + SLOTS * n * (size_t)rows);
    return LN_OK;
}

/* How many segments from the first on have the same adapters: their tokens lie side by side. */
static int32_t alike(const ln_workspace *w, int32_t first) {
    const ln_session *s = w->segments[first].session;
    int32_t n = 1;
    for (; first + n < w->n_segments; n++) {
        const ln_session *other = w->segments[first + n].session;
        int same = other->n_adapters == s->n_adapters;
        for (int32_t i = 0; same && i < s->n_adapters; i++) {
            same = other->adapters[i].adapter == s->adapters[i].adapter &&
                   other->adapters[i].scale == s->adapters[i].scale;
        }
        if (!same) {
            break;
        }
    }
    return n;
}

/* sum[n][rows] += scale * B (A x) */
static void add_part(ln_workspace *w, const ln_low_rank *part, float scale, const ln_vectors *x, float *sum) {
    const int64_t rows = part->b.w.rows;
    ln_product low = {.of = &part->a, .x = *x, .y = w->adapters.low, .scale = part->scale * scale};
    ln_products_run(&w->compute, &low, 1);
    const ln_vectors inner = {.f32 = w->adapters.low, .cols = part->a.w.rows, .n = x->n};
    ln_product wide = {.of = &part->b, .x = inner, .y = w->adapters.wide, .scale = 1.0f};
    ln_products_run(&w->compute, &wide, 1);
    for (int32_t v = 0; v < x->n; v++) {
        w->compute.kernels->add(sum + v * rows, w->adapters.wide + v * rows, rows);
    }
}

ln_addend ln_adapters_run(ln_workspace *w, int32_t layer, ln_target target, int32_t slot, const float *x) {
    if (w->n_adapted == 0) {
        return (ln_addend){NULL, NULL};
    }
    const ln_matrix *of = &matrix_of(ln_model_layer(w->model, layer), (int32_t)target)->w;
    float *sums = w->adapters.sums + (int64_t)slot * w->n_batch * w->adapters.max_rows;
    uint8_t *has = w->adapters.has + (int64_t)slot * w->n_batch;
    memset(has, 0, (size_t)w->n_tokens);
    int any = 0;
    for (int32_t i = 0, n; i < w->n_segments; i += n) {
        n = alike(w, i);
        const ln_session *s = w->segments[i].session;
        const int32_t first = w->segments[i].first;
        const int32_t end = w->segments[i + n - 1].first + w->segments[i + n - 1].n;
        const ln_vectors vectors = {.f32 = x + first * of->cols, .cols = of->cols, .n = end - first};
        for (int32_t j = 0; j < s->n_adapters; j++) {
            const ln_scaled_adapter *chosen = &s->adapters[j];
            const ln_low_rank *part = part_of(chosen->adapter, layer / w->model->facts.block_repeat, (int32_t)target);
            if (part->a.w.data == NULL) {
                continue;
            }
            if (!has[first]) {
                memset(sums + first * of->rows, 0, (size_t)(vectors.n * of->rows) * sizeof *sums);
                memset(has + first, 1, (size_t)vectors.n);
            }
            add_part(w, part, chosen->scale, &vectors, sums + first * of->rows);
            any = 1;
        }
    }
    return any ? (ln_addend){sums, has} : (ln_addend){NULL, NULL};
}
