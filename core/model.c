/* model.c - opens a model: every tensor's shape and type is checked against the facts, once, so
 * that the decoder can rely on them. */
#include "model.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "panels.h"

/* ---- one tensor ------------------------------------------------------------- */

static ln_status check_type(const ln_gguf_tensor *t, ln_error *err) {
    if (ln_type_traits_of(t->type) != NULL) {
        return LN_OK;
    }
    return ln_fail(err, LN_UNSUPPORTED,
                   "tensor '%.*s' is of type %s (%d), which this core does not compute with; take the model in another "
                   "type, such as f16, q8_0, q4_k or q4_0",
                   LN_STRING_ARGS(t->name), ln_gguf_tensor_type_name(t->type), (int)t->type);
}

static ln_status check_shape(const ln_gguf_tensor *t, int64_t rows, int64_t cols, ln_error *err) {
    if (t->dims[0] == cols && t->dims[1] == rows && t->dims[2] == 1 && t->dims[3] == 1) {
        return LN_OK;
    }
    return ln_fail(err, LN_BAD_FILE,
                   "tensor '%.*s' is [%" PRId64 "][%" PRId64 "], the metadata asks for [%" PRId64 "][%" PRId64
                   "]; convert the model again",
                   LN_STRING_ARGS(t->name), t->dims[1], t->dims[0], rows, cols);
}

static ln_status fill_vector(const ln_gguf_tensor *t, float **field, ln_error *err) {
    *field = ln_alloc((size_t)t->dims[0], sizeof **field, "the model", err);
    if (*field == NULL) {
        return LN_NO_MEMORY;
    }
    ln_type_traits_of(t->type)->unpack(t->data, t->dims[0], *field);
    return LN_OK;
}

static void fill_matrix(const ln_gguf_tensor *t, ln_matrix *field) {
    *field = (ln_matrix){
        .data = t->data,
        .type = t->type,
        .rows = t->dims[1],
        .cols = t->dims[0],
        .stride = t->bytes / (size_t)t->dims[1],
    };
}

/* Finds the tensor of a rule and fills its field of target; counts it in *n_used. */
static ln_status apply_rule(const ln_gguf *gguf, const ln_facts *facts, const ln_tensor_rule *rule, int32_t layer,
                            void *target, uint64_t *n_used, ln_error *err) {
    char name[96];
    if (layer < 0) {
        snprintf(name, sizeof name, "%s", rule->name);
    } else {
        snprintf(name, sizeof name, "blk.%d.%s", (int)layer, rule->name);
    }
    const ln_gguf_tensor *t = ln_gguf_find_tensor(gguf, name);
    if (t == NULL) {
        return rule->optional ? LN_OK
                              : ln_fail(err, LN_BAD_FILE, "tensor '%s' is missing; download or convert the model again",
                                        name);
    }
    ln_status status = check_shape(t, ln_extent_of(facts, rule->rows), ln_extent_of(facts, rule->cols), err);
    if (status == LN_OK) {
        status = check_type(t, err);
    }
    if (status != LN_OK) {
        return status;
    }
    ++*n_used;
    void *field = (char *)target + rule->field;
    if (rule->rows == LN_EXTENT_ONE) {
        return fill_vector(t, field, err);
    }
    fill_matrix(t, field);
    return LN_OK;
}

/* ---- the model ---------------------------------------------------------------- */

static int rules_name(const ln_tensor_rule *rules, ln_string name) {
    for (const ln_tensor_rule *rule = rules; rule->name != NULL; rule++) {
        if (ln_string_is(name, rule->name)) {
            return 1;
        }
    }
    return 0;
}

/* Whether name is a tensor of the model: a global one, or "blk.N." and one of a layer. */
static int rule_covers(const ln_model *model, ln_string name) {
    if (name.length < 4 || memcmp(name.data, "blk.", 4) != 0) {
        return rules_name(model->arch->globals, name);
    }
    size_t at = 4;
    int64_t layer = 0;
    while (at < name.length && name.data[at] >= '0' && name.data[at] <= '9' && layer < model->facts.n_layers) {
        layer = layer * 10 + (name.data[at] - '0');
        at++;
    }
    int canonical = at > 4 && (name.data[4] != '0' || at == 5);
    if (!canonical || layer >= model->facts.n_layers || at == name.length || name.data[at] != '.') {
        return 0;
    }
    return rules_name(model->arch->layer, (ln_string){name.data + at + 1, name.length - at - 1});
}

/* A tensor no rule covers (a bias, an expert) would change the result by being left out. */
static ln_status refuse_unused(const ln_gguf *gguf, const ln_model *model, ln_error *err) {
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        if (!rule_covers(model, gguf->tensors[i].name)) {
            return ln_fail(err, LN_UNSUPPORTED, "the model has tensor '%.*s'; this core runs %s models without it",
                           LN_STRING_ARGS(gguf->tensors[i].name), model->arch->name);
        }
    }
    return LN_OK;
}

static ln_status read_weights(const ln_gguf *gguf, ln_model *model, ln_error *err) {
    uint64_t n_used = 0;
    ln_status status = LN_OK;
    for (const ln_tensor_rule *rule = model->arch->globals; status == LN_OK && rule->name != NULL; rule++) {
        status = apply_rule(gguf, &model->facts, rule, -1, &model->globals, &n_used, err);
    }
    if (status != LN_OK) {
        return status;
    }
    if ((uint64_t)model->facts.n_layers > gguf->n_tensors) {
        return ln_fail(err, LN_BAD_FILE, "the metadata claims %d layers and the file has %" PRIu64
                       " tensors; download or convert the model again",
                       (int)model->facts.n_layers, gguf->n_tensors);
    }
    model->layers = ln_alloc((size_t)model->facts.n_layers, sizeof *model->layers, "the model", err);
    if (model->layers == NULL) {
        return LN_NO_MEMORY;
    }
    for (int32_t i = 0; i < model->facts.n_layers; i++) {
        for (const ln_tensor_rule *rule = model->arch->layer; status == LN_OK && rule->name != NULL; rule++) {
            status = apply_rule(gguf, &model->facts, rule, i, &model->layers[i], &n_used, err);
        }
        if (status != LN_OK) {
            return status;
        }
    }
    return n_used == gguf->n_tensors ? LN_OK : refuse_unused(gguf, model, err);
}

static ln_status check_rope_divisors(const ln_model *model, ln_error *err) {
    for (int32_t i = 0; model->globals.rope_divisors != NULL && i < model->facts.rope_dims / 2; i++) {
        if (!(model->globals.rope_divisors[i] > 0)) {
            return ln_fail(err, LN_BAD_FILE, "'rope_freqs.weight' holds %g, it must be above zero; convert the model "
                           "again",
                           (double)model->globals.rope_divisors[i]);
        }
    }
    return LN_OK;
}

/* Parameters are what training sets: everything but the rotary divisors. */
static void measure(const ln_gguf *gguf, ln_model *model) {
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        const ln_gguf_tensor *t = &gguf->tensors[i];
        model->weight_bytes += (int64_t)t->bytes;
        if (!ln_string_is(t->name, "rope_freqs.weight")) {
            model->n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        }
    }
    const ln_matrix *embedding = &model->globals.embedding;
    model->bytes_per_token = model->weight_bytes;
    if (!model->tied_embeddings) { /* then decoding reads one row of the embedding, not all of it */
        model->bytes_per_token -= (int64_t)(embedding->stride * (size_t)(embedding->rows - 1));
    }
}

/* ---- packing --------------------------------------------------------------------- */

/* Source bytes packed in one step: few enough that a process never holds much of the file twice. */
#define STEP_BYTES ((size_t)16 << 20)

/* Calls fn for every matrix that is there. */
static void for_each_matrix(ln_model *model, void (*fn)(ln_model *, ln_matrix *)) {
    for (int32_t i = -1; i < model->facts.n_layers; i++) {
        const ln_tensor_rule *rules = i < 0 ? model->arch->globals : model->arch->layer;
        char *target = i < 0 ? (char *)&model->globals : (char *)&model->layers[i];
        for (const ln_tensor_rule *rule = rules; rule->name != NULL; rule++) {
            ln_matrix *w = (ln_matrix *)(void *)(target + rule->field);
            if (rule->rows != LN_EXTENT_ONE && w->data != NULL && ln_panel_bytes(w->type, w->cols) != 0) {
                fn(model, w);
            }
        }
    }
}

static void count_packing(ln_model *model, ln_matrix *w) {
    (void)w;
    model->n_packings++;
}

static void add_packing(ln_model *model, ln_matrix *w) {
    model->packings[model->n_packings++] = (ln_packing){.matrix = w, .source = w->data, .source_stride = w->stride};
}

static int in_file_order(const void *a, const void *b) {
    const char *left = ((const ln_packing *)a)->source;
    const char *right = ((const ln_packing *)b)->source;
    return (left > right) - (left < right);
}

/* Finds what is to be packed and the memory for it. */
static ln_status plan_packing(ln_model *model, ln_error *err) {
    for_each_matrix(model, count_packing);
    model->packings = ln_alloc((size_t)model->n_packings, sizeof *model->packings, "the model", err);
    if (model->packings == NULL) {
        return LN_NO_MEMORY;
    }
    model->n_packings = 0;
    for_each_matrix(model, add_packing);
    qsort(model->packings, (size_t)model->n_packings, sizeof *model->packings, in_file_order);
    size_t total = 0;
    for (int32_t i = 0; i < model->n_packings; i++) {
        const ln_matrix *w = model->packings[i].matrix;
        if (!ln_size_add(total, ln_panels_bytes(w->type, w->rows, w->cols), &total)) {
            return ln_fail(err, LN_NO_MEMORY, "the weights do not fit into the address space");
        }
    }
    model->panels = ln_alloc_pages(total, "the weights", err);
    if (model->panels == NULL) {
        return LN_NO_MEMORY;
    }
    char *target = model->panels;
    for (int32_t i = 0; i < model->n_packings; i++) {
        const ln_matrix *w = model->packings[i].matrix;
        model->packings[i].target = target;
        target += ln_panels_bytes(w->type, w->rows, w->cols);
    }
    return LN_OK;
}

int ln_model_is_loaded(const ln_model *model) {
    return model->n_packed == model->n_packings;
}

/* Panels of one job item: enough that handing it out costs nothing beside it. */
#define PANELS_PER_ITEM 16

static void pack_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const ln_packing *p = job;
    const ln_matrix *w = p->matrix;
    const size_t panel_bytes = ln_panel_bytes(w->type, w->cols);
    for (int32_t i = 0; i < PANELS_PER_ITEM; i++) {
        const int64_t row = p->rows_done + ((int64_t)item * PANELS_PER_ITEM + i) * LN_PANEL_ROWS;
        const int64_t rows = w->rows - row < LN_PANEL_ROWS ? w->rows - row : LN_PANEL_ROWS;
        if (rows > 0) {
            ln_panel_pack(w->type, p->source + (size_t)row * p->source_stride, p->source_stride, rows, w->cols,
                          p->target + (size_t)(row / LN_PANEL_ROWS) * panel_bytes);
        }
    }
}

/* Items of the current matrix that can be packed: whole ones, or the rest of the matrix. */
static int64_t items_within(const ln_packing *p, const char *end) {
    const int64_t item_rows = PANELS_PER_ITEM * LN_PANEL_ROWS;
    const int64_t there = end > p->source ? (int64_t)((size_t)(end - p->source) / p->source_stride) : 0;
    const int64_t round_up = there >= p->matrix->rows ? item_rows - 1 : 0;
    const int64_t rows = (there < p->matrix->rows ? there : p->matrix->rows) - p->rows_done;
    return rows > 0 ? (rows + round_up) / item_rows : 0;
}

/* Packs rows of the current matrix that lie before end, at most about STEP_BYTES of them; returns their bytes. */
static size_t pack_some(ln_model *model, const char *end) {
    ln_packing *p = &model->packings[model->n_packed];
    ln_matrix *w = p->matrix;
    const int64_t item_rows = PANELS_PER_ITEM * LN_PANEL_ROWS;
    const int64_t fitting = (int64_t)(STEP_BYTES / (p->source_stride * (size_t)item_rows)) + 1;
    const int64_t needed = items_within(p, end);
    const int64_t items = fitting < needed ? fitting : needed;
    if (items == 0) {
        return 0;
    }
    ln_threads_run(model->loaders, (int32_t)items, pack_item, p);
    const int64_t begin = p->rows_done;
    p->rows_done = begin + items * item_rows < w->rows ? begin + items * item_rows : w->rows;
    if (p->rows_done == w->rows) {
        w->data = p->target;
        w->stride = ln_panel_bytes(w->type, w->cols);
        model->n_packed++;
    }
    return (size_t)(p->rows_done - begin) * p->source_stride;
}

static const char *next_source(const ln_model *model) {
    const ln_packing *p = &model->packings[model->n_packed];
    return p->source + (size_t)p->rows_done * p->source_stride;
}

int32_t ln_model_load(ln_model *model, int32_t n_threads, ln_load_step *step, ln_error *err) {
    if (model == NULL || step == NULL || step->available < 0 || (uint64_t)step->available > model->size) {
        return ln_fail(err, LN_BAD_ARGUMENT, "model and step must not be NULL, nor more available than there is");
    }
    const char *end = model->data + (step->available != 0 ? (size_t)step->available : model->size);
    *step = (ln_load_step){.available = step->available};
    if (ln_model_is_loaded(model)) {
        return LN_OK;
    }
    if (model->loaders == NULL) {
        ln_status status = ln_threads_open(n_threads, &model->loaders, err);
        if (status != LN_OK) {
            return status;
        }
    }
    step->offset = next_source(model) - model->data;
    size_t packed;
    do { /* what lies side by side in the file is one step */
        packed = pack_some(model, end);
        step->bytes += (int64_t)packed;
    } while (packed > 0 && !ln_model_is_loaded(model) && (size_t)step->bytes < STEP_BYTES &&
             next_source(model) == model->data + step->offset + step->bytes);
    for (int32_t i = model->n_packed; i < model->n_packings; i++) {
        const ln_packing *p = &model->packings[i];
        step->bytes_left += (p->matrix->rows - p->rows_done) * (int64_t)p->source_stride;
    }
    if (ln_model_is_loaded(model)) {
        ln_threads_close(model->loaders);
        model->loaders = NULL;
    }
    return LN_OK;
}

/* ---- opening --------------------------------------------------------------------- */

int32_t ln_model_open(const void *data, size_t size, ln_model **out, ln_error *err) {
    if (out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "out is NULL");
    }
    *out = NULL;
    ln_gguf gguf;
    ln_status status = ln_gguf_open(data, size, &gguf, err);
    if (status != LN_OK) {
        return status;
    }
    ln_model *model = ln_alloc(1, sizeof *model, "the model", err);
    status = model == NULL ? LN_NO_MEMORY : ln_arch_of(&gguf, &model->arch, err);
    if (status == LN_OK) {
        status = ln_facts_read(&gguf, model->arch, &model->facts, err);
    }
    if (status == LN_OK) {
        status = read_weights(&gguf, model, err);
    }
    if (status == LN_OK) {
        status = check_rope_divisors(model, err);
    }
    if (status == LN_OK) {
        model->tied_embeddings = model->globals.output.data == NULL;
        model->data = data;
        model->size = size;
        measure(&gguf, model);
        status = plan_packing(model, err);
    }
    if (status == LN_OK) {
        *out = model;
    } else {
        ln_model_close(model);
    }
    ln_gguf_close(&gguf);
    return status;
}

void ln_model_close(ln_model *model) {
    if (model == NULL) {
        return;
    }
    for (int32_t i = 0; model->layers != NULL && i < model->facts.n_layers; i++) {
        free(model->layers[i].attn_norm);
        free(model->layers[i].ffn_norm);
    }
    ln_threads_close(model->loaders);
    ln_free_pages(model->panels);
    free(model->packings);
    free(model->layers);
    free(model->globals.output_norm);
    free(model->globals.rope_divisors);
    free(model);
}

int32_t ln_model_describe(const ln_model *model, ln_model_info *out) {
    if (model == NULL || out == NULL) {
        return LN_BAD_ARGUMENT;
    }
    const ln_facts *f = &model->facts;
    *out = (ln_model_info){
        .n_layers = f->n_layers,
        .n_heads = f->n_heads,
        .n_kv_heads = f->n_kv_heads,
        .head_dim = f->head_dim,
        .dim = f->dim,
        .ffn_dim = f->ffn_dim,
        .vocab_size = f->vocab_size,
        .max_seq_len = f->max_seq_len,
        .tied_embeddings = model->tied_embeddings,
        .n_params = model->n_params,
        .weight_bytes = model->weight_bytes,
        .bytes_per_token = model->bytes_per_token,
    };
    memcpy(out->arch, f->arch, sizeof out->arch);
    return LN_OK;
}

const ln_matrix *ln_model_head(const ln_model *model) {
    return model->tied_embeddings ? &model->globals.embedding : &model->globals.output;
}
