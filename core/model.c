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

/* Dimensions from the contiguous one on. */
typedef struct shape {
    int64_t cols, rows, depth;
} shape;

static ln_status check_shape(const ln_gguf_tensor *t, shape wanted, ln_error *err) {
    if (t->dims[0] == wanted.cols && t->dims[1] == wanted.rows && t->dims[2] == wanted.depth && t->dims[3] == 1) {
        return LN_OK;
    }
    if (wanted.depth > 1 || t->dims[2] > 1) {
        return ln_fail(err, LN_BAD_FILE, "tensor '%.*s' is %" PRId64 " times [%" PRId64 "][%" PRId64
                       "], the metadata asks for %" PRId64 " times [%" PRId64 "][%" PRId64 "]; convert the model again",
                       LN_STRING_ARGS(t->name), t->dims[2], t->dims[1], t->dims[0], wanted.depth, wanted.rows,
                       wanted.cols);
    }
    return ln_fail(err, LN_BAD_FILE,
                   "tensor '%.*s' is [%" PRId64 "][%" PRId64 "], the metadata asks for [%" PRId64 "][%" PRId64
                   "]; convert the model again",
                   LN_STRING_ARGS(t->name), t->dims[1], t->dims[0], wanted.rows, wanted.cols);
}

/* What a file and its facts are read into, and which tensors were. */
typedef struct reading {
    const ln_gguf *gguf;
    const ln_facts *facts;
    uint8_t *used; /* [n_tensors] */
} reading;

typedef struct tensor_name {
    char text[96];
} tensor_name;

static tensor_name name_of(int32_t layer, const char *name, const char *suffix) {
    tensor_name out;
    if (layer < 0) {
        snprintf(out.text, sizeof out.text, "%s.%s", name, suffix);
    } else {
        snprintf(out.text, sizeof out.text, "blk.%d.%s.%s", (int)layer, name, suffix);
    }
    return out;
}

/* The tensor, checked, in *out; NULL when there is none. */
static ln_status take(const reading *r, const char *name, shape wanted, const ln_gguf_tensor **out, ln_error *err) {
    const ln_gguf_tensor *t = ln_gguf_find_tensor(r->gguf, name);
    *out = NULL;
    if (t == NULL) {
        return LN_OK;
    }
    ln_status status = check_shape(t, wanted, err);
    if (status == LN_OK) {
        status = check_type(t, err);
    }
    if (status == LN_OK) {
        r->used[t - r->gguf->tensors] = 1;
        *out = t;
    }
    return status;
}

/* Elements [first, first + n) of a vector, or of a matrix taken as one. */
static ln_status fill_vector(const ln_gguf_tensor *t, int64_t first, int64_t n, float **field, ln_error *err) {
    const ln_type_traits *type = ln_type_traits_of(t->type);
    if (type->block_elements > 1 && n % type->block_elements != 0) {
        return ln_fail(err, LN_UNSUPPORTED, "tensor '%.*s' is cut across blocks of %s; take the model in another type",
                       LN_STRING_ARGS(t->name), type->name);
    }
    *field = ln_alloc((size_t)n, sizeof **field, "the model", err);
    if (*field == NULL) {
        return LN_NO_MEMORY;
    }
    const size_t at = (size_t)(first / type->block_elements) * (size_t)type->block_bytes;
    type->unpack((const char *)t->data + at, n, *field);
    return LN_OK;
}

/* Rows [first, first + rows) of a tensor. */
static ln_matrix matrix_of(const ln_gguf_tensor *t, int64_t first, int64_t rows) {
    const size_t stride = t->bytes / (size_t)(t->dims[1] * t->dims[2]);
    return (ln_matrix){
        .data = (const char *)t->data + (size_t)first * stride,
        .type = t->type,
        .rows = rows,
        .cols = t->dims[0],
        .stride = stride,
    };
}

/* A rule with its lengths. */
typedef struct rule_lengths {
    int64_t rows, cols, first, all;
} rule_lengths;

static rule_lengths lengths_of(const ln_facts *f, const ln_tensor_rule *rule) {
    const int64_t rows = ln_extent_of(f, rule->rows);
    return (rule_lengths){rows, ln_extent_of(f, rule->cols), ln_extent_of(f, rule->first),
                          rule->all == LN_EXTENT_ZERO ? rows : ln_extent_of(f, rule->all)};
}

/* The bias and the scale of a linear map. */
static ln_status fill_extras(const reading *r, const ln_tensor_rule *rule, int32_t layer, ln_linear *field,
                             ln_error *err) {
    const rule_lengths n = lengths_of(r->facts, rule);
    const ln_gguf_tensor *t;
    ln_status status = take(r, name_of(layer, rule->name, "bias").text, (shape){n.all, 1, 1}, &t, err);
    if (status == LN_OK && t != NULL) {
        status = fill_vector(t, n.first, n.rows, &field->bias, err);
    }
    if (status == LN_OK) {
        status = take(r, name_of(layer, rule->name, "scale").text, (shape){1, 1, 1}, &t, err);
    }
    if (status == LN_OK && t != NULL) {
        ln_type_traits_of(t->type)->unpack(t->data, 1, &field->scale);
    }
    return status;
}

static ln_status fill_norm(const reading *r, const ln_tensor_rule *rule, int32_t layer, const ln_gguf_tensor *weight,
                           ln_norm *field, ln_error *err) {
    const rule_lengths n = lengths_of(r->facts, rule);
    const ln_gguf_tensor *t;
    field->rows = n.rows;
    field->cols = n.cols;
    ln_status status = fill_vector(weight, 0, n.rows * n.cols, &field->weight, err);
    if (status == LN_OK) {
        status = take(r, name_of(layer, rule->name, "bias").text, (shape){n.cols, n.rows, 1}, &t, err);
    }
    if (status == LN_OK && t != NULL) {
        status = fill_vector(t, 0, n.rows * n.cols, &field->bias, err);
    }
    return status;
}

static ln_status fill_experts(const ln_facts *f, const ln_gguf_tensor *t, ln_linear **field, ln_error *err) {
    *field = ln_alloc((size_t)f->n_experts, sizeof **field, "the model", err);
    if (*field == NULL) {
        return LN_NO_MEMORY;
    }
    for (int32_t i = 0; i < f->n_experts; i++) {
        (*field)[i] = (ln_linear){.w = matrix_of(t, i * t->dims[1], t->dims[1]), .scale = 1.0f};
    }
    return LN_OK;
}

/* Whether a rule's field holds something. */
static int is_filled(const ln_tensor_rule *rule, const void *field) {
    switch (rule->kind) {
    case LN_FIELD_TABLE:
    case LN_FIELD_LINEAR: return ((const ln_linear *)field)->w.data != NULL;
    case LN_FIELD_NORM: return ((const ln_norm *)field)->weight != NULL;
    case LN_FIELD_VECTOR: return *(float *const *)field != NULL;
    case LN_FIELD_EXPERTS: return *(ln_linear *const *)field != NULL;
    }
    return 0;
}

/* Finds the tensor of a rule and fills its field of target. */
static ln_status apply_rule(const reading *r, const ln_tensor_rule *rule, int32_t layer, void *target, ln_error *err) {
    const rule_lengths n = lengths_of(r->facts, rule);
    const tensor_name name = name_of(layer, rule->name, "weight");
    void *field = (char *)target + rule->field;
    const ln_gguf_tensor *t;
    const int64_t depth = rule->kind == LN_FIELD_EXPERTS ? r->facts->n_experts : 1;
    ln_status status = take(r, name.text, (shape){n.cols, n.all, depth}, &t, err);
    if (status != LN_OK) {
        return status;
    }
    if (t == NULL) {
        return rule->optional || is_filled(rule, field)
                   ? LN_OK
                   : ln_fail(err, LN_BAD_FILE, "tensor '%s' is missing; download or convert the model again",
                             name.text);
    }
    if (is_filled(rule, field)) {
        return ln_fail(err, LN_BAD_FILE, "tensor '%s' holds what a fused tensor holds as well; convert the model again",
                       name.text);
    }
    switch (rule->kind) {
    case LN_FIELD_TABLE:
    case LN_FIELD_LINEAR:
        *(ln_linear *)field = (ln_linear){.w = matrix_of(t, n.first, n.rows), .scale = 1.0f};
        return rule->kind == LN_FIELD_LINEAR ? fill_extras(r, rule, layer, field, err) : LN_OK;
    case LN_FIELD_NORM: return fill_norm(r, rule, layer, t, field, err);
    case LN_FIELD_VECTOR: return fill_vector(t, 0, n.rows * n.cols, field, err);
    case LN_FIELD_EXPERTS: return fill_experts(r->facts, t, field, err);
    }
    return LN_OK;
}

/* ---- the model ---------------------------------------------------------------- */

/* Calls fn for every rule of lists and its field of target, until one call fails. */
typedef ln_status rule_fn(const ln_tensor_rule *rule, int32_t layer, void *target, void *context, ln_error *err);

static ln_status each_rule(const ln_tensor_rule *const *lists, int32_t layer, void *target, rule_fn *fn, void *context,
                           ln_error *err) {
    ln_status status = LN_OK;
    for (int i = 0; i < LN_MAX_RULE_LISTS && lists[i] != NULL; i++) {
        for (const ln_tensor_rule *rule = lists[i]; status == LN_OK && rule->name != NULL; rule++) {
            status = fn(rule, layer, target, context, err);
        }
    }
    return status;
}

/* The same for all rules of a model: layer is -1 for those outside the layers. */
static ln_status each_rule_of_all(ln_model *model, rule_fn *fn, void *context, ln_error *err) {
    ln_status status = each_rule(model->arch->globals, -1, &model->globals, fn, context, err);
    for (int32_t i = 0; model->blocks != NULL && status == LN_OK && i < model->facts.n_blocks; i++) {
        status = each_rule(model->arch->layer, i, &model->blocks[i], fn, context, err);
    }
    return status;
}

typedef struct weights_context {
    const ln_model *model;
    const reading *reading;
} weights_context;

static int concerns(const ln_model *model, const ln_tensor_rule *rule, int32_t block) {
    const int is_conv = block >= 0 && model->kinds[block * model->facts.block_repeat].is_conv;
    switch (rule->when) {
    case LN_ALWAYS: return 1;
    case LN_IF_ATTENTION: return !is_conv;
    case LN_IF_CONV: return is_conv;
    case LN_IF_DENSE: return model->facts.n_experts == 0;
    case LN_IF_EXPERTS: return model->facts.n_experts > 0;
    case LN_IF_TYPED: return model->facts.n_token_types > 0;
    case LN_IF_RANKS: return model->facts.ranks;
    }
    return 0;
}

static ln_status read_rule(const ln_tensor_rule *rule, int32_t layer, void *target, void *context, ln_error *err) {
    const weights_context *c = context;
    return concerns(c->model, rule, layer) ? apply_rule(c->reading, rule, layer, target, err) : LN_OK;
}

/* A tensor no rule covers would change the result by being left out. */
static ln_status refuse_unused(const reading *r, const ln_model *model, ln_error *err) {
    for (uint64_t i = 0; i < r->gguf->n_tensors; i++) {
        if (!r->used[i]) {
            return ln_fail(err, LN_UNSUPPORTED, "the model has tensor '%.*s'; this core runs %s models without it",
                           LN_STRING_ARGS(r->gguf->tensors[i].name), model->arch->name);
        }
    }
    return LN_OK;
}

/* The metadata may ask for experts or convolutions of an architecture that has no tensors for them. */
static ln_status check_complete(const ln_model *model, ln_error *err) {
    for (int32_t i = 0; i < model->facts.n_layers; i++) {
        const ln_layer *layer = ln_model_layer(model, i);
        const int mixes = model->kinds[i].is_conv ? layer->conv_taps != NULL : layer->q.w.data != NULL;
        if (!mixes || (layer->up.w.data == NULL && layer->router.w.data == NULL)) {
            return ln_fail(err, LN_UNSUPPORTED,
                           "the metadata asks for %s in layer %d; this core runs %s models without",
                           mixes ? "experts" : "a convolution", (int)i, model->arch->name);
        }
    }
    return LN_OK;
}

static ln_status read_weights(const ln_gguf *gguf, ln_model *model, ln_error *err) {
    if ((uint64_t)model->facts.n_blocks > gguf->n_tensors) {
        return ln_fail(err, LN_BAD_FILE, "the metadata claims %d layers and the file has %" PRIu64
                       " tensors; download or convert the model again",
                       (int)model->facts.n_blocks, gguf->n_tensors);
    }
    model->kinds = ln_alloc((size_t)model->facts.n_layers, sizeof *model->kinds, "the model", err);
    model->blocks = ln_alloc((size_t)model->facts.n_blocks, sizeof *model->blocks, "the model", err);
    const reading r = {gguf, &model->facts, ln_alloc((size_t)gguf->n_tensors, 1, "the model", err)};
    ln_status status = LN_NO_MEMORY;
    if (model->kinds != NULL && model->blocks != NULL && r.used != NULL) {
        status = ln_layer_kinds_read(gguf, model->arch, &model->facts, model->kinds, err);
    }
    if (status == LN_OK) {
        status = each_rule_of_all(model, read_rule, &(weights_context){model, &r}, err);
    }
    if (status == LN_OK) {
        status = refuse_unused(&r, model, err);
    }
    if (status == LN_OK) {
        status = check_complete(model, err);
    }
    free(r.used);
    return status;
}

static ln_status check_divisors(const float *divisors, int32_t n, const char *name, ln_error *err) {
    for (int32_t i = 0; divisors != NULL && i < n; i++) {
        if (!(divisors[i] > 0)) {
            return ln_fail(err, LN_BAD_FILE, "'%s.weight' holds %g, it must be above zero; convert the model again",
                           name, (double)divisors[i]);
        }
    }
    return LN_OK;
}

static ln_status check_rope_divisors(const ln_model *model, ln_error *err) {
    const ln_globals *g = &model->globals;
    const ln_facts *f = &model->facts;
    ln_status status = check_divisors(g->rope_divisors, f->rope_dims / 2, "rope_freqs", err);
    if (status == LN_OK) {
        status = check_divisors(g->rope_short, f->rope_dims / 2, "rope_factors_short", err);
    }
    if (status == LN_OK) {
        status = check_divisors(g->rope_long, f->rope_dims / 2, "rope_factors_long", err);
    }
    if (status == LN_OK && ((g->rope_long != NULL) != (g->rope_short != NULL) ||
                            (g->rope_long != NULL && (f->rope_trained_len == 0 || f->rope_base_local > 0)))) {
        return ln_fail(err, LN_BAD_FILE, "'rope_factors_long.weight' needs 'rope_factors_short.weight' and "
                       "'%s.rope.scaling.original_context_length'; convert the model again", f->arch);
    }
    return status;
}

/* Parameters are what training sets: everything but the rotary divisors. A token reads one row of an embedding that
 * is not the head too, of learned positions and of token types, and of all experts those it chooses. */
static void measure(const ln_gguf *gguf, ln_model *model) {
    const ln_facts *f = &model->facts;
    for (uint64_t i = 0; i < gguf->n_tensors; i++) {
        const ln_gguf_tensor *t = &gguf->tensors[i];
        const int is_expert = f->n_experts > 0 && t->dims[2] == f->n_experts;
        model->weight_bytes += (int64_t)t->bytes;
        model->bytes_per_token += is_expert ? (int64_t)t->bytes / f->n_experts * f->n_experts_used : (int64_t)t->bytes;
        if (t->name.length < 5 || memcmp(t->name.data, "rope_", 5) != 0) {
            model->n_params += t->dims[0] * t->dims[1] * t->dims[2] * t->dims[3];
        }
    }
    const ln_matrix *tables[] = {model->tied_embeddings && f->causal ? NULL : &model->globals.embedding.w,
                                 &model->globals.positions.w, &model->globals.token_types.w};
    for (int i = 0; i < 3; i++) {
        if (tables[i] != NULL && tables[i]->data != NULL) {
            model->bytes_per_token -= (int64_t)(tables[i]->stride * (size_t)(tables[i]->rows - 1));
        }
    }
}

/* ---- packing --------------------------------------------------------------------- */

/* Source bytes packed in one step: few enough that a process never holds much of the file twice. */
#define STEP_BYTES ((size_t)16 << 20)

typedef void matrix_fn(ln_model *model, ln_matrix *w);

typedef struct matrices_context {
    ln_model *model;
    matrix_fn *fn;
} matrices_context;

static ln_status visit_matrices(const ln_tensor_rule *rule, int32_t layer, void *target, void *context,
                                ln_error *err) {
    (void)layer, (void)err;
    const matrices_context *c = context;
    void *field = (char *)target + rule->field;
    const int is_alternative = rule->optional && rule->all != LN_EXTENT_ZERO; /* another rule names the field */
    if (!is_filled(rule, field) || is_alternative || rule->kind == LN_FIELD_NORM || rule->kind == LN_FIELD_VECTOR) {
        return LN_OK;
    }
    if (rule->kind != LN_FIELD_EXPERTS) {
        c->fn(c->model, &((ln_linear *)field)->w);
        return LN_OK;
    }
    for (int32_t i = 0; i < c->model->facts.n_experts; i++) {
        c->fn(c->model, &(*(ln_linear **)field)[i].w);
    }
    return LN_OK;
}

/* Calls fn for every matrix that is there. */
static void each_matrix(ln_model *model, matrix_fn *fn) {
    each_rule_of_all(model, visit_matrices, &(matrices_context){model, fn}, NULL);
}

static void count_packing(ln_model *model, ln_matrix *w) {
    model->has_type[w->type] = 1;
    const int is_packed = ln_panel_bytes(w->type, w->cols) != 0;
    model->n_packings += is_packed;
    model->in_place_bytes += is_packed ? 0 : w->rows * (int64_t)w->stride;
}

static void add_packing(ln_model *model, ln_matrix *w) {
    if (ln_panel_bytes(w->type, w->cols) != 0) {
        model->packings[model->n_packings++] = (ln_packing){.matrix = w, .source = w->data, .source_stride = w->stride};
    }
}

static int in_file_order(const void *a, const void *b) {
    const char *left = ((const ln_packing *)a)->source;
    const char *right = ((const ln_packing *)b)->source;
    return (left > right) - (left < right);
}

/* Finds what is to be packed, and how much memory that will take. */
static ln_status plan_packing(ln_model *model, ln_error *err) {
    each_matrix(model, count_packing);
    model->packings = ln_alloc((size_t)model->n_packings, sizeof *model->packings, "the model", err);
    if (model->packings == NULL) {
        return LN_NO_MEMORY;
    }
    model->n_packings = 0;
    each_matrix(model, add_packing);
    qsort(model->packings, (size_t)model->n_packings, sizeof *model->packings, in_file_order);
    size_t total = 0;
    for (int32_t i = 0; i < model->n_packings; i++) {
        const ln_matrix *w = model->packings[i].matrix;
        if (!ln_size_add(total, ln_panels_bytes(w->type, w->rows, w->cols), &total)) {
            return ln_fail(err, LN_NO_MEMORY, "the weights do not fit into the address space");
        }
    }
    model->panels_bytes = total;
    return LN_OK;
}

/* Memory for the panels, and the threads that pack them. */
static ln_status begin_packing(ln_model *model, int32_t n_threads, ln_error *err) {
    model->panels = ln_alloc_pages(model->panels_bytes, "the weights", err);
    if (model->panels == NULL) {
        return LN_NO_MEMORY;
    }
    char *target = model->panels;
    for (int32_t i = 0; i < model->n_packings; i++) {
        const ln_matrix *w = model->packings[i].matrix;
        model->packings[i].target = target;
        target += ln_panels_bytes(w->type, w->rows, w->cols);
    }
    return ln_threads_open(n_threads, &model->loaders, err);
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
    if (model->panels == NULL) {
        ln_status status = begin_packing(model, n_threads, err);
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

/* ---- digest ---------------------------------------------------------------------- */

/* Of the architecture and all that the metadata says about it. */
static uint64_t digest_facts(const ln_gguf *gguf, const char *arch) {
    const size_t length = strlen(arch);
    uint64_t h = ln_digest(arch, length, 0);
    for (uint64_t i = 0; i < gguf->n_pairs; i++) {
        const ln_gguf_pair *pair = &gguf->pairs[i];
        if (pair->key.length > length && memcmp(pair->key.data, arch, length) == 0 && pair->key.data[length] == '.') {
            h = ln_digest(pair->key.data, pair->key.length, h);
            h = ln_digest(pair->data, pair->bytes, h);
        }
    }
    return h;
}

static uint64_t digest_floats(const float *x, int64_t n, uint64_t before) {
    return x != NULL ? ln_digest(x, (size_t)n * sizeof *x, before) : before;
}

static uint64_t digest_linear(const ln_linear *l, uint64_t before) {
    const ln_matrix *w = &l->w;
    if (w->data == NULL) {
        return before;
    }
    const size_t packed = ln_panels_bytes(w->type, w->rows, w->cols);
    uint64_t h = ln_digest(w->data, packed != 0 ? packed : (size_t)w->rows * w->stride, before);
    h = ln_digest(&w->type, sizeof w->type, h);
    return digest_floats(l->bias, w->rows, digest_floats(&l->scale, 1, h));
}

typedef struct digest_context {
    const ln_facts *facts;
    uint64_t h;
} digest_context;

static ln_status digest_field(const ln_tensor_rule *rule, int32_t layer, void *target, void *context, ln_error *err) {
    (void)layer, (void)err;
    digest_context *c = context;
    const void *field = (const char *)target + rule->field;
    const rule_lengths n = lengths_of(c->facts, rule);
    if (!is_filled(rule, field)) {
        return LN_OK;
    }
    c->h = ln_digest(rule->name, strlen(rule->name), c->h);
    switch (rule->kind) {
    case LN_FIELD_TABLE:
    case LN_FIELD_LINEAR: c->h = digest_linear(field, c->h); break;
    case LN_FIELD_NORM: {
        const ln_norm *norm = field;
        c->h = digest_floats(norm->weight, norm->rows * norm->cols, c->h);
        c->h = digest_floats(norm->bias, norm->rows * norm->cols, c->h);
        break;
    }
    case LN_FIELD_VECTOR: c->h = digest_floats(*(float *const *)field, n.rows * n.cols, c->h); break;
    case LN_FIELD_EXPERTS:
        for (int32_t i = 0; i < c->facts->n_experts; i++) {
            c->h = digest_linear(&(*(ln_linear *const *)field)[i], c->h);
        }
        break;
    }
    return LN_OK;
}

int32_t ln_model_digest(const ln_model *model, uint64_t *out, ln_error *err) {
    if (model == NULL || out == NULL || !ln_model_is_loaded(model)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "model and out must not be NULL, and the model must be loaded");
    }
    digest_context c = {&model->facts, model->facts_digest};
    ln_status status = each_rule(model->arch->globals, -1, (void *)(uintptr_t)&model->globals, digest_field, &c, err);
    for (int32_t i = 0; status == LN_OK && i < model->facts.n_blocks; i++) {
        status = each_rule(model->arch->layer, i, &model->blocks[i], digest_field, &c, err);
    }
    *out = c.h;
    return status;
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
        model->tied_embeddings = model->globals.output.w.data == NULL;
        model->data = data;
        model->size = size;
        model->facts_digest = digest_facts(&gguf, model->facts.arch);
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

static ln_status free_field(const ln_tensor_rule *rule, int32_t layer, void *target, void *context, ln_error *err) {
    (void)layer, (void)context, (void)err;
    void *field = (char *)target + rule->field;
    switch (rule->kind) {
    case LN_FIELD_TABLE:
    case LN_FIELD_LINEAR:
        free(((ln_linear *)field)->bias);
        ((ln_linear *)field)->bias = NULL; /* fields of several rules are visited once for each */
        break;
    case LN_FIELD_NORM:
        free(((ln_norm *)field)->weight);
        free(((ln_norm *)field)->bias);
        *(ln_norm *)field = (ln_norm){0};
        break;
    case LN_FIELD_VECTOR:
    case LN_FIELD_EXPERTS:
        free(*(void **)field);
        *(void **)field = NULL;
        break;
    }
    return LN_OK;
}

void ln_model_close(ln_model *model) {
    if (model == NULL) {
        return;
    }
    if (model->arch != NULL) {
        each_rule_of_all(model, free_field, NULL, NULL);
    }
    ln_threads_close(model->loaders);
    ln_free_pages(model->panels);
    free(model->packings);
    free(model->blocks);
    free(model->kinds);
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
        .causal = f->causal,
        .ranks = f->ranks,
        .n_token_types = f->n_token_types,
        .n_params = model->n_params,
        .weight_bytes = model->weight_bytes,
        .bytes_per_token = model->bytes_per_token,
        .packed_bytes = (int64_t)model->panels_bytes,
        .in_place_bytes = model->in_place_bytes,
    };
    memcpy(out->arch, f->arch, sizeof out->arch);
    return LN_OK;
}

const ln_linear *ln_model_head(const ln_model *model) {
    return model->tied_embeddings ? &model->globals.embedding : &model->globals.output;
}
