/* workspace.c - opens workspaces, and evaluates spans of many sessions in passes over the weights. */
#include "workspace.h"

#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"

#define DEFAULT_BATCH 256
#define MAX_BATCH 4096
#define ALIGNMENT 64 /* a cache line, and the widest vector register */

/* Partial results of split attention take at most this much; longer or more sequences are not split. */
#define MAX_PARTIAL_BYTES (16 << 20)

/* ---- opening ---------------------------------------------------------------- */

static ln_status check_options(const ln_workspace_options *o, ln_error *err) {
    if (o->kv_tokens < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "kv_tokens is %d; give 1 or more, or 0 for what the model was trained "
                       "with",
                       (int)o->kv_tokens);
    }
    if (o->n_batch < 0 || o->n_batch > MAX_BATCH) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_batch is %d; give 1 to %d, or 0 for %d", (int)o->n_batch, MAX_BATCH,
                       DEFAULT_BATCH);
    }
    if (o->kv_type != LN_TYPE_F32 && o->kv_type != LN_TYPE_F16 && o->kv_type != LN_TYPE_Q8_0 &&
        o->kv_type != LN_TYPE_Q4_0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "kv_type is %d; keys and values are f32 (%d), f16 (%d), q8_0 (%d) or "
                       "q4_0 (%d)",
                       (int)o->kv_type, LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0);
    }
    if (memchr(o->isa, '\0', sizeof o->isa) == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "isa is not NUL-terminated");
    }
    return LN_OK;
}

static ln_status choose_kernels(ln_workspace *w, const char *isa, ln_error *err) {
    const ln_kernels *kernels = ln_kernels_select(isa);
    if (kernels == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "this processor cannot run '%s'; it runs: %s", isa, ln_isa_list());
    }
    w->compute.kernels = kernels;
    for (int32_t type = 0; type < LN_TYPE_LIMIT; type++) {
        if (w->model->has_type[type] && kernels->matmul[type] == NULL) {
            return ln_fail(err, LN_UNSUPPORTED, "the model has %s weights, which the %s kernels cannot multiply",
                           ln_type_traits_of(type)->name, kernels->name);
        }
    }
    return LN_OK;
}

/* An array of the workspace: where its pointer is, and the factors of its size. */
typedef struct part {
    size_t field;
    size_t element;
    int64_t factors[2];
} part;

#define N_PARTS 32

static int64_t larger(int64_t a, int64_t b) {
    return a > b ? a : b;
}

static int64_t groups_of(int64_t cols) {
    return (cols + LN_Q8_GROUP - 1) / LN_Q8_GROUP;
}

static void plan_memory(const ln_workspace *w, int64_t n_threads, part parts[N_PARTS]) {
    const ln_facts *f = &w->model->facts;
    const int64_t query = ln_extent_of(f, LN_EXTENT_QUERY);
    const int64_t key = ln_extent_of(f, LN_EXTENT_KEY);
    const int64_t ffn = ln_extent_of(f, LN_EXTENT_FFN);
    const int64_t pairs = ln_extent_of(f, LN_EXTENT_ROPE_PAIRS);
    const int64_t tables = ln_rotary_tables(w->model);
    const int64_t n = w->n_batch;
    const int64_t conv = f->n_conv > 0 ? 4 * (int64_t)f->dim : 0;
    const int64_t rank = f->ranks ? f->dim : 0;
    const int64_t n_slots = n * f->n_experts_used;
    const int64_t scratch = (int64_t)ln_attention_scratch_bytes(f);
    const part all[N_PARTS] = {
        {offsetof(ln_workspace, rotary.frequencies), sizeof(float), {tables, pairs}},
        {offsetof(ln_workspace, segments), sizeof(ln_segment), {n, 1}},
        {offsetof(ln_workspace, neighbours), sizeof(ln_neighbours), {n, 1}},
        {offsetof(ln_workspace, ids), sizeof(int32_t), {n, 1}},
        {offsetof(ln_workspace, positions), sizeof(int32_t), {n, 1}},
        {offsetof(ln_workspace, types), sizeof(int32_t), {n, 1}},
        {offsetof(ln_workspace, wanted), sizeof(int32_t), {n, 1}},
        {offsetof(ln_workspace, rotary.cosines), sizeof(float), {n * tables, pairs}},
        {offsetof(ln_workspace, rotary.sines), sizeof(float), {n * tables, pairs}},
        {offsetof(ln_workspace, x), sizeof(float), {n, f->dim}},
        {offsetof(ln_workspace, h), sizeof(float), {n, f->dim}},
        {offsetof(ln_workspace, parallel), sizeof(float), {f->parallel_residual ? n : 0, f->dim}},
        {offsetof(ln_workspace, block), sizeof(float), {n, larger(larger(query + 2 * key, ffn), larger(conv, rank))}},
        {offsetof(ln_workspace, q8), sizeof(ln_q8_block), {n, groups_of(larger(query, f->dim))}},
        {offsetof(ln_workspace, ffn_q8), sizeof(ln_q8_block), {n, groups_of(ffn)}},
        {offsetof(ln_workspace, gated_scratch), sizeof(float), {n_threads, (int64_t)ln_gated_scratch(w->n_batch)}},
        {offsetof(ln_workspace, experts.scores), sizeof(float), {n, f->n_experts}},
        {offsetof(ln_workspace, experts.chosen), sizeof(int32_t), {n_slots, 1}},
        {offsetof(ln_workspace, experts.weights), sizeof(float), {n_slots, 1}},
        {offsetof(ln_workspace, experts.slots), sizeof(int32_t), {n_slots, 1}},
        {offsetof(ln_workspace, experts.tokens), sizeof(int32_t), {n_slots, 1}},
        {offsetof(ln_workspace, experts.expert_of), sizeof(int32_t), {n_slots, 1}},
        {offsetof(ln_workspace, experts.first), sizeof(int32_t), {(int64_t)f->n_experts + 1, 1}},
        {offsetof(ln_workspace, experts.x), sizeof(float), {n_slots, f->dim}},
        {offsetof(ln_workspace, experts.inner), sizeof(float), {n_slots, f->expert_ffn_dim}},
        {offsetof(ln_workspace, experts.q8), sizeof(ln_q8_block), {n_slots, groups_of(f->dim)}},
        {offsetof(ln_workspace, experts.inner_q8), sizeof(ln_q8_block), {n_slots, groups_of(f->expert_ffn_dim)}},
        {offsetof(ln_workspace, experts.gated), sizeof(ln_gated_product), {f->n_experts, 1}},
        {offsetof(ln_workspace, experts.down), sizeof(ln_product), {f->n_experts, 1}},
        {offsetof(ln_workspace, head), sizeof(float), {LN_HEAD_BATCH, f->vocab_size}},
        {offsetof(ln_workspace, attention.partials), sizeof(float),
         {w->attention.max_partials, ln_partial_floats(f->head_dim)}},
        {offsetof(ln_workspace, attention.scratch), 1, {n_threads, scratch}},
    };
    memcpy(parts, all, sizeof all);
}

/* Bytes of a part in *out, rounded up so that the next one is aligned; returns 0 when they do not fit a size_t. */
static int part_bytes(const part *p, size_t *out) {
    size_t bytes = p->element;
    for (int i = 0; i < 2; i++) {
        if ((uint64_t)p->factors[i] > SIZE_MAX || !ln_size_mul(bytes, (size_t)p->factors[i], &bytes)) {
            return 0;
        }
    }
    if (!ln_size_add(bytes, ALIGNMENT - 1, &bytes)) {
        return 0;
    }
    *out = bytes / ALIGNMENT * ALIGNMENT;
    return 1;
}

/* Bytes of all parts; 0 when they do not fit a size_t. */
static size_t all_bytes(const part parts[N_PARTS]) {
    size_t total = ALIGNMENT; /* room to move the first part up to an aligned address */
    for (int i = 0; i < N_PARTS; i++) {
        size_t bytes = 0;
        if (!part_bytes(&parts[i], &bytes) || !ln_size_add(total, bytes, &total)) {
            return 0;
        }
    }
    return total;
}

static ln_status allocate(ln_workspace *w, ln_error *err) {
    const ln_facts *f = &w->model->facts;
    part parts[N_PARTS];
    plan_memory(w, ln_threads_count(w->compute.threads), parts);
    const size_t total = all_bytes(parts);
    w->memory = total != 0 ? ln_alloc(1, total, "a workspace", NULL) : NULL;
    if (w->memory == NULL) {
        return ln_fail(err, LN_NO_MEMORY, "evaluating %d tokens at a time needs more memory than this machine gives; "
                       "ask for a smaller n_batch",
                       (int)w->n_batch);
    }
    w->bytes = total;
    char *at = w->memory + (ALIGNMENT - (uintptr_t)w->memory % ALIGNMENT) % ALIGNMENT;
    for (int i = 0; i < N_PARTS; i++) {
        size_t bytes = 0;
        part_bytes(&parts[i], &bytes);
        memcpy((char *)w + parts[i].field, &at, sizeof at);
        at += bytes;
    }
    w->q = w->block;
    w->k = w->q + w->n_batch * ln_extent_of(f, LN_EXTENT_QUERY);
    w->v = w->k + w->n_batch * ln_extent_of(f, LN_EXTENT_KEY);
    w->inner = w->block;
    return LN_OK;
}

/* A model that is not causal reads a text in one pass, so by default the longest it was made for has to fit. */
static int32_t default_batch(const ln_facts *f) {
    const int32_t text = f->causal ? 0 : f->max_seq_len < MAX_BATCH ? f->max_seq_len : MAX_BATCH;
    return text > DEFAULT_BATCH ? text : DEFAULT_BATCH;
}

static int32_t batch_of(const ln_facts *f, const ln_workspace_options *o) {
    const int32_t wanted = o->n_batch != 0 ? o->n_batch : default_batch(f);
    const int32_t items = f->n_experts_used > f->n_heads ? f->n_experts_used : f->n_heads;
    const int32_t most = INT32_MAX / items; /* one job has up to n_batch * items of them */
    return wanted < most ? wanted : most;
}

int32_t ln_workspace_open(const ln_model *model, const ln_workspace_options *options, ln_workspace **out,
                          ln_error *err) {
    if (model == NULL || options == NULL || out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "model, options and out must not be NULL");
    }
    *out = NULL;
    if (!ln_model_is_loaded(model)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "the model is not loaded yet; call ln_model_load until nothing is left");
    }
    ln_status status = check_options(options, err);
    if (status != LN_OK) {
        return status;
    }
    ln_workspace *w = ln_alloc(1, sizeof *w, "a workspace", err);
    if (w == NULL) {
        return LN_NO_MEMORY;
    }
    const ln_facts *f = &model->facts;
    w->model = model;
    w->n_batch = batch_of(f, options);
    w->attention.max_partials = MAX_PARTIAL_BYTES / (int64_t)sizeof(float) / ln_partial_floats(f->head_dim);
    status = choose_kernels(w, options->isa, err);
    if (status == LN_OK) {
        status = ln_threads_open(options->n_threads, &w->compute.threads, err);
    }
    if (status == LN_OK) {
        const int32_t n_tokens = options->kv_tokens != 0 ? options->kv_tokens : f->max_seq_len;
        status = ln_pages_open(&w->pages, f, options->kv_type, n_tokens, err);
    }
    if (status == LN_OK) {
        status = allocate(w, err);
    }
    if (status != LN_OK) {
        ln_workspace_close(w);
        return status;
    }
    ln_rotary_fill(&w->rotary, w->model);
    *out = w;
    return LN_OK;
}

/* Partial results that are in memory at once: attention is split where each key/value head has few tiles of
 * queries, mostly one. */
static int64_t split_partials(const ln_workspace *w, int32_t kv_tokens) {
    const int64_t n_chunks = (kv_tokens + LN_CHUNK - 1) / LN_CHUNK;
    const int64_t n = (int64_t)w->model->facts.n_kv_heads * LN_ATTENTION_ROWS * n_chunks;
    return n < w->attention.max_partials ? n : w->attention.max_partials;
}

int32_t ln_workspace_foresee(const ln_model *model, const ln_workspace_options *options, ln_workspace_plan *out,
                             ln_error *err) {
    if (model == NULL || options == NULL || out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "model, options and out must not be NULL");
    }
    ln_workspace w = {.model = model, .n_batch = batch_of(&model->facts, options)};
    const ln_facts *f = &model->facts;
    const int32_t kv_tokens = options->kv_tokens != 0 ? options->kv_tokens : f->max_seq_len;
    ln_status status = check_options(options, err);
    if (status == LN_OK) {
        status = choose_kernels(&w, options->isa, err);
    }
    if (status == LN_OK) {
        status = ln_pages_measure(&w.pages, f, options->kv_type, err);
    }
    if (status != LN_OK) {
        return status;
    }
    part parts[N_PARTS];
    w.n_batch = w.n_batch < kv_tokens ? w.n_batch : kv_tokens; /* no more are ever in flight */
    w.attention.max_partials = MAX_PARTIAL_BYTES / (int64_t)sizeof(float) / ln_partial_floats(f->head_dim);
    w.attention.max_partials = split_partials(&w, kv_tokens);
    plan_memory(&w, options->n_threads > 0 ? options->n_threads : 1, parts);
    const size_t bytes = all_bytes(parts);
    const size_t head = sizeof(float) * LN_HEAD_BATCH * (size_t)f->vocab_size; /* which only scoring touches */
    *out = (ln_workspace_plan){.page_bytes = (int64_t)w.pages.page_bytes,
                               .scratch_bytes = (int64_t)(bytes > head ? bytes - head : 0)};
    return LN_OK;
}

static void free_if_unused(ln_workspace *workspace) {
    if (!workspace->is_closed || workspace->n_sessions > 0) {
        return;
    }
    ln_threads_close(workspace->compute.threads);
    ln_pages_close(&workspace->pages);
    free(workspace->adapters.memory);
    free(workspace->memory);
    free(workspace);
}

void ln_workspace_close(ln_workspace *workspace) {
    if (workspace != NULL) {
        workspace->is_closed = 1;
        free_if_unused(workspace);
    }
}

void ln_workspace_leave(ln_workspace *workspace) {
    workspace->n_sessions--;
    free_if_unused(workspace);
}

int32_t ln_workspace_describe(const ln_workspace *workspace, ln_workspace_info *out) {
    if (workspace == NULL || out == NULL) {
        return LN_BAD_ARGUMENT;
    }
    const ln_pages *pages = &workspace->pages;
    *out = (ln_workspace_info){
        .n_threads = ln_threads_count(workspace->compute.threads),
        .n_batch = workspace->n_batch,
        .kv_type = pages->type,
        .n_pages = pages->n_pages,
        .n_free_pages = pages->n_free,
        .n_sessions = workspace->n_sessions,
        .page_bytes = (int64_t)pages->page_bytes,
        .bytes = (int64_t)(workspace->bytes + pages->page_bytes * (size_t)pages->n_pages),
    };
    strncpy(out->isa, workspace->compute.kernels->name, sizeof out->isa - 1);
    return LN_OK;
}

/* ---- a pass ------------------------------------------------------------------- */

void ln_workspace_begin(ln_workspace *workspace) {
    workspace->n_tokens = 0;
    workspace->n_segments = 0;
    workspace->n_neighbours = 0;
    workspace->n_adapted = 0;
}

int32_t ln_workspace_add(ln_workspace *workspace, ln_session *session, const int32_t *ids, int32_t n) {
    const int32_t left = workspace->n_batch - workspace->n_tokens;
    const int32_t count = n < left ? n : left;
    ln_segment *segment = &workspace->segments[workspace->n_segments];
    *segment = (ln_segment){
        .session = session, .first = workspace->n_tokens, .n = count, .position = session->length};
    for (int32_t i = 0; i < count; i++) {
        const int32_t token = workspace->n_tokens++;
        const int32_t position = session->length + i;
        workspace->ids[token] = ids[i];
        workspace->positions[token] = position;
        workspace->types[token] = 0;
        if (i == 0 || position % LN_LANES == 0) {
            workspace->neighbours[workspace->n_neighbours++] = (ln_neighbours){workspace->n_segments, token, 0};
        }
        workspace->neighbours[workspace->n_neighbours - 1].n++;
    }
    memcpy(session->ids + session->length, ids, (size_t)count * sizeof *ids);
    workspace->n_segments++;
    workspace->n_adapted += session->n_adapters > 0;
    return count;
}

void ln_workspace_run(ln_workspace *workspace) {
    for (int32_t i = 0; i < workspace->n_segments; i++) {
        ln_session_take_pages(workspace->segments[i].session, workspace->segments[i].n);
    }
    ln_decoder_run(workspace);
    for (int32_t i = 0; i < workspace->n_segments; i++) {
        ln_session *session = workspace->segments[i].session;
        session->length += workspace->segments[i].n;
        session->has_logits = 0;
        ln_session_release_pages(session);
    }
}

/* ---- spans --------------------------------------------------------------------- */

/* What a model that looks both ways can do with a span. */
static ln_status check_encoding(const ln_workspace *w, const ln_span *span, ln_error *err) {
    const char *arch = w->model->facts.arch;
    if (span->hidden == NULL && span->score == NULL) {
        return ln_fail(err, LN_UNSUPPORTED, "a %s model is an encoder: it reads texts and writes none; ask for their "
                       "hidden states, as linnet embed does",
                       arch);
    }
    if (span->session->length > 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a %s model sees a whole text at once, and nothing can be added to one of "
                       "%d tokens; open another session",
                       arch, (int)span->session->length);
    }
    if (span->n > w->n_batch) {
        return ln_fail(err, LN_CONTEXT_FULL, "a %s model sees a whole text at once; this one has %d tokens and a pass "
                       "takes %d: shorten it or open the workspace with a larger n_batch",
                       arch, (int)span->n, (int)w->n_batch);
    }
    return LN_OK;
}

/* What only some models can do with a span. */
static ln_status check_extras(const ln_workspace *w, const ln_span *span, ln_error *err) {
    const ln_facts *f = &w->model->facts;
    if (span->score != NULL && !f->ranks) {
        return ln_fail(err, LN_UNSUPPORTED, "this %s model has no head that scores texts", f->arch);
    }
    for (int32_t i = 0; span->types != NULL && i < span->n; i++) {
        if (span->types[i] < 0 || span->types[i] >= f->n_token_types) {
            return ln_fail(err, LN_BAD_ARGUMENT, "token type %d is outside the %d of this model", (int)span->types[i],
                           (int)f->n_token_types);
        }
    }
    return LN_OK;
}

static ln_status check_span(const ln_workspace *w, const ln_span *span, int32_t *n_pages, ln_error *err) {
    if (span->session == NULL || span->session->workspace != w) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a span's session must be one of this workspace");
    }
    if (span->session->in_call) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a session appears in two spans; give all its tokens in one");
    }
    if (!w->model->facts.causal) {
        ln_status status = check_encoding(w, span, err);
        if (status != LN_OK) {
            return status;
        }
    }
    ln_status status = check_extras(w, span, err);
    return status == LN_OK ? ln_session_check(span->session, span->ids, span->n, n_pages, err) : status;
}

ln_status ln_workspace_check(const ln_workspace *w, const ln_span *spans, int32_t n_spans, ln_error *err) {
    if (w == NULL || n_spans < 0 || (spans == NULL && n_spans > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "workspace and spans must not be NULL, n_spans not negative");
    }
    int32_t n_pages = 0;
    int32_t n_marked = 0;
    ln_status status = LN_OK;
    for (; status == LN_OK && n_marked < n_spans; n_marked++) {
        status = check_span(w, &spans[n_marked], &n_pages, err);
        if (status != LN_OK) {
            break;
        }
        spans[n_marked].session->in_call = 1;
    }
    for (int32_t i = 0; i < n_marked; i++) {
        spans[i].session->in_call = 0;
    }
    if (status == LN_OK && n_pages > w->pages.n_free) {
        return ln_fail(err, LN_CONTEXT_FULL, "the tokens need %d more pages of %d positions and %d of %d are free; "
                       "close a session or open the workspace with a larger kv_tokens",
                       (int)n_pages, LN_PAGE, (int)w->pages.n_free, (int)w->pages.n_pages);
    }
    return status;
}

/* How far the spans of a call have been evaluated. */
typedef struct cursor {
    int32_t span;
    int32_t done; /* tokens of it */
} cursor;

/* Fills a pass with what comes after the cursor; returns whether there was anything. Texts of which a token sees the
 * whole are not cut. */
static int fill_pass(ln_workspace *w, const ln_span *spans, int32_t n_spans, cursor *at) {
    ln_workspace_begin(w);
    while (at->span < n_spans && w->n_tokens < w->n_batch) {
        const ln_span *span = &spans[at->span];
        if (!w->model->facts.causal && span->n > w->n_batch - w->n_tokens) {
            break;
        }
        if (at->done < span->n) {
            ln_segment *segment = &w->segments[w->n_segments];
            const int32_t n = ln_workspace_add(w, span->session, span->ids + at->done, span->n - at->done);
            const int64_t before = (int64_t)at->done * w->model->facts.vocab_size;
            segment->logits = span->logits != NULL ? span->logits + before : NULL;
            segment->hidden = span->hidden != NULL ? span->hidden + (int64_t)at->done * w->model->facts.dim : NULL;
            segment->score = span->score;
            if (span->types != NULL) {
                memcpy(w->types + segment->first, span->types + at->done, (size_t)n * sizeof *w->types);
            }
            at->done += n;
            segment->ends = at->done == span->n;
        }
        if (at->done == span->n) {
            *at = (cursor){at->span + 1, 0};
        }
    }
    return w->n_tokens > 0;
}

static void keep_logits(ln_session *session, const float *logits) {
    const size_t bytes = (size_t)session->workspace->model->facts.vocab_size * sizeof *logits;
    if (logits != session->logits) {
        memcpy(session->logits, logits, bytes);
    }
    session->has_logits = 1;
}

/* The logits of segments that want all of theirs. */
static void compute_all_logits(ln_workspace *w) {
    const int64_t vocab_size = w->model->facts.vocab_size;
    for (int32_t i = 0; i < w->n_segments; i++) {
        const ln_segment *segment = &w->segments[i];
        if (segment->logits == NULL) {
            continue;
        }
        for (int32_t t = 0; t < segment->n; t++) {
            w->wanted[t] = segment->first + t;
        }
        ln_decoder_logits(w, w->wanted, segment->n, segment->logits);
        if (segment->ends) {
            keep_logits(segment->session, segment->logits + (segment->n - 1) * vocab_size);
        }
    }
}

/* The hidden states of segments that want them. */
static void compute_hidden(ln_workspace *w) {
    for (int32_t i = 0; i < w->n_segments; i++) {
        const ln_segment *segment = &w->segments[i];
        for (int32_t t = 0; segment->hidden != NULL && t < segment->n; t++) {
            w->wanted[t] = segment->first + t;
        }
        if (segment->hidden != NULL) {
            ln_decoder_hidden(w, w->wanted, segment->n, segment->hidden);
        }
    }
}

/* The scores of segments that want theirs, which are whole texts. */
static void compute_scores(ln_workspace *w) {
    int32_t n = 0;
    for (int32_t i = 0; i < w->n_segments; i++) {
        if (w->segments[i].score != NULL) {
            w->wanted[n++] = w->segments[i].first;
        }
    }
    const float *score = n > 0 ? ln_decoder_scores(w, w->wanted, n) : NULL;
    for (int32_t i = 0; i < w->n_segments && n > 0; i++) {
        if (w->segments[i].score != NULL) {
            *w->segments[i].score = *score++;
        }
    }
}

/* Sessions whose logits lie next to each other in head, [n][vocab_size], and go to each of them. */
typedef struct keep_job {
    const float *head;
    ln_session *sessions[LN_HEAD_BATCH];
} keep_job;

static void keep_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const keep_job *j = job;
    keep_logits(j->sessions[item], j->head + (int64_t)item * j->sessions[item]->workspace->model->facts.vocab_size);
}

/* The logits of the last tokens of segments that want no others, LN_HEAD_BATCH segments at a time. */
static void compute_last_logits(ln_workspace *w) {
    keep_job job = {.head = w->head};
    int32_t n = 0;
    for (int32_t i = 0; i < w->n_segments; i++) {
        const ln_segment *segment = &w->segments[i];
        if (segment->logits == NULL && segment->hidden == NULL && segment->score == NULL && segment->ends) {
            w->wanted[n] = segment->first + segment->n - 1;
            job.sessions[n++] = segment->session;
        }
        if (n == LN_HEAD_BATCH || (n > 0 && i == w->n_segments - 1)) {
            float *y = n == 1 ? job.sessions[0]->logits : w->head;
            job.head = y;
            ln_decoder_logits(w, w->wanted, n, y);
            ln_compute_run(&w->compute, n, (int64_t)n * w->model->facts.vocab_size, keep_item, &job);
            n = 0;
        }
    }
}

int32_t ln_workspace_eval(ln_workspace *workspace, const ln_span *spans, int32_t n_spans, ln_error *err) {
    ln_status status = ln_workspace_check(workspace, spans, n_spans, err);
    cursor at = {0, 0};
    while (status == LN_OK && fill_pass(workspace, spans, n_spans, &at)) {
        ln_workspace_run(workspace);
        compute_hidden(workspace);
        compute_scores(workspace);
        compute_all_logits(workspace);
        compute_last_logits(workspace);
    }
    return status;
}
