/* session.c - opens sessions and moves their timelines. */
#include "session.h"

#include <math.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_BATCH 64
#define MAX_BATCH 4096
#define ALIGNMENT 64 /* a cache line, and the widest vector register */

/* ---- opening ---------------------------------------------------------------- */

static ln_status check_options(const ln_session_options *o, ln_error *err) {
    if (o->n_ctx < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_ctx is %d; give 1 or more, or 0 for what the model was trained with",
                       (int)o->n_ctx);
    }
    if (o->n_batch < 0 || o->n_batch > MAX_BATCH) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_batch is %d; give 1 to %d, or 0 for %d", (int)o->n_batch, MAX_BATCH,
                       DEFAULT_BATCH);
    }
    if (o->kv_type != LN_TYPE_F32 && o->kv_type != LN_TYPE_F16) {
        return ln_fail(err, LN_BAD_ARGUMENT, "kv_type is %d; the key/value cache is f32 (%d) or f16 (%d)",
                       (int)o->kv_type, LN_TYPE_F32, LN_TYPE_F16);
    }
    if (memchr(o->isa, '\0', sizeof o->isa) == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "isa is not NUL-terminated");
    }
    return LN_OK;
}

static ln_status check_kernel(const ln_kernels *kernels, const ln_matrix *w, ln_error *err) {
    if (w->data == NULL || kernels->matmul[w->type] != NULL) {
        return LN_OK;
    }
    return ln_fail(err, LN_UNSUPPORTED, "the model has %s weights, which the %s kernels cannot multiply",
                   ln_type_traits_of(w->type)->name, kernels->name);
}

static ln_status choose_kernels(ln_session *s, const char *isa, ln_error *err) {
    s->kernels = ln_kernels_select(isa);
    if (s->kernels == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "this processor cannot run '%s'; it runs: %s", isa, ln_isa_list());
    }
    ln_status status = check_kernel(s->kernels, ln_model_head(s->model), err);
    for (int32_t i = 0; status == LN_OK && i < s->model->facts.n_layers; i++) {
        const ln_layer *l = &s->model->layers[i];
        const ln_matrix *all[] = {&l->q, &l->k, &l->v, &l->o, &l->gate, &l->up, &l->down};
        for (size_t j = 0; status == LN_OK && j < sizeof all / sizeof all[0]; j++) {
            status = check_kernel(s->kernels, all[j], err);
        }
    }
    return status;
}

/* An array of the session: where its pointer is, and the factors of its size. */
typedef struct part {
    size_t field;
    size_t element;
    int64_t factors[3];
} part;

#define N_PARTS 20

static void plan_memory(const ln_session *s, part parts[N_PARTS]) {
    const ln_facts *f = &s->model->facts;
    const int64_t query = ln_extent_of(f, LN_EXTENT_QUERY);
    const int64_t key = ln_extent_of(f, LN_EXTENT_KEY);
    const int64_t pairs = ln_extent_of(f, LN_EXTENT_ROPE_PAIRS);
    const int64_t widest = query > f->dim ? (query > f->ffn_dim ? query : f->ffn_dim)
                                          : (f->dim > f->ffn_dim ? f->dim : f->ffn_dim);
    const int64_t groups = (widest + LN_Q8_GROUP - 1) / LN_Q8_GROUP;
    const int64_t n = s->n_batch;
    const size_t kv = s->kv_type == LN_TYPE_F16 ? sizeof(uint16_t) : sizeof(float);
    const part all[N_PARTS] = {
        {offsetof(ln_session, ids), sizeof(int32_t), {s->n_ctx, 1, 1}},
        {offsetof(ln_session, k_cache), kv, {s->n_ctx, f->n_layers, key}},
        {offsetof(ln_session, v_cache), kv, {s->n_ctx, f->n_layers, key}},
        {offsetof(ln_session, frequencies), sizeof(float), {pairs, 1, 1}},
        {offsetof(ln_session, cosines), sizeof(float), {n, pairs, 1}},
        {offsetof(ln_session, sines), sizeof(float), {n, pairs, 1}},
        {offsetof(ln_session, x), sizeof(float), {n, f->dim, 1}},
        {offsetof(ln_session, h), sizeof(float), {n, f->dim, 1}},
        {offsetof(ln_session, q), sizeof(float), {n, query, 1}},
        {offsetof(ln_session, k), sizeof(float), {n, key, 1}},
        {offsetof(ln_session, v), sizeof(float), {n, key, 1}},
        {offsetof(ln_session, attended), sizeof(float), {n, query, 1}},
        {offsetof(ln_session, gate), sizeof(float), {n, f->ffn_dim, 1}},
        {offsetof(ln_session, up), sizeof(float), {n, f->ffn_dim, 1}},
        {offsetof(ln_session, q8), sizeof(int8_t), {n, widest, 1}},
        {offsetof(ln_session, q8_scale), sizeof(float), {n, groups, 1}},
        {offsetof(ln_session, q8_sum), sizeof(int32_t), {n, groups, 1}},
        {offsetof(ln_session, weights), sizeof(float), {ln_threads_count(s->threads), s->n_ctx, 1}},
        {offsetof(ln_session, score_logits), sizeof(float), {LN_SCORE_BATCH, f->vocab_size, 1}},
        {offsetof(ln_session, logits), sizeof(float), {f->vocab_size, 1, 1}},
    };
    memcpy(parts, all, sizeof all);
}

/* Bytes of a part, rounded up so that the next one is aligned; 0 when they do not fit a size_t. */
static int part_bytes(const part *p, size_t *out) {
    size_t bytes = p->element;
    for (int i = 0; i < 3; i++) {
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

static ln_status allocate(ln_session *s, ln_error *err) {
    part parts[N_PARTS];
    plan_memory(s, parts);
    size_t total = ALIGNMENT; /* room to move the first part up to an aligned address */
    double wanted = 0;
    int fits = 1;
    for (int i = 0; i < N_PARTS; i++) {
        size_t bytes = 0;
        fits = fits && part_bytes(&parts[i], &bytes) && ln_size_add(total, bytes, &total);
        wanted += (double)parts[i].element * (double)parts[i].factors[0] * (double)parts[i].factors[1] *
                  (double)parts[i].factors[2];
    }
    s->memory = fits ? ln_alloc(1, total, "a session", NULL) : NULL;
    if (s->memory == NULL) {
        return ln_fail(err, LN_NO_MEMORY, "a session of %d tokens needs %.0f bytes, which this machine does not give; "
                       "ask for a smaller n_ctx",
                       (int)s->n_ctx, wanted);
    }
    s->bytes = total;
    char *at = s->memory + (ALIGNMENT - (uintptr_t)s->memory % ALIGNMENT) % ALIGNMENT;
    for (int i = 0; i < N_PARTS; i++) {
        size_t bytes = 0;
        part_bytes(&parts[i], &bytes);
        memcpy((char *)s + parts[i].field, &at, sizeof at);
        at += bytes;
    }
    return LN_OK;
}

/* Radians per position of each rotated pair: base^(-2i / rope_dims), rounded to float and divided
 * as float, which is how models of this family were trained. */
static void fill_frequencies(ln_session *s) {
    const ln_facts *f = &s->model->facts;
    const float *divisors = s->model->globals.rope_divisors;
    for (int32_t i = 0; i < f->rope_dims / 2; i++) {
        float frequency = (float)pow((double)f->rope_base, -2.0 * i / f->rope_dims) / f->rope_divisor;
        s->frequencies[i] = divisors != NULL ? frequency / divisors[i] : frequency;
    }
}

int32_t ln_session_open(const ln_model *model, const ln_session_options *options, ln_session **out, ln_error *err) {
    if (model == NULL || options == NULL || out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "model, options and out must not be NULL");
    }
    *out = NULL;
    ln_status status = check_options(options, err);
    if (status != LN_OK) {
        return status;
    }
    ln_session *s = ln_alloc(1, sizeof *s, "a session", err);
    if (s == NULL) {
        return LN_NO_MEMORY;
    }
    s->model = model;
    s->kv_type = options->kv_type;
    s->n_ctx = options->n_ctx != 0 ? options->n_ctx : model->facts.max_seq_len;
    s->n_batch = options->n_batch != 0 ? options->n_batch : DEFAULT_BATCH;
    s->n_batch = s->n_batch < s->n_ctx ? s->n_batch : s->n_ctx;
    const int32_t max_batch = INT32_MAX / model->facts.n_heads; /* one job has n_batch * n_heads items */
    s->n_batch = s->n_batch < max_batch ? s->n_batch : max_batch;
    status = choose_kernels(s, options->isa, err);
    if (status == LN_OK) {
        status = ln_threads_open(options->n_threads, &s->threads, err);
    }
    if (status == LN_OK) {
        status = allocate(s, err);
    }
    if (status != LN_OK) {
        ln_session_close(s);
        return status;
    }
    fill_frequencies(s);
    *out = s;
    return LN_OK;
}

void ln_session_close(ln_session *session) {
    if (session == NULL) {
        return;
    }
    ln_threads_close(session->threads);
    free(session->memory);
    free(session);
}

/* ---- appending ----------------------------------------------------------------- */

static ln_status check_tokens(const ln_session *s, const int32_t *ids, int32_t n, ln_error *err) {
    if (s == NULL || n < 0 || (ids == NULL && n > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "session and ids must not be NULL, n not negative");
    }
    if (n > s->n_ctx - s->length) {
        return ln_fail(err, LN_CONTEXT_FULL, "the context holds %d of %d tokens, %d more do not fit; shorten the text "
                       "or open the session with a larger n_ctx",
                       (int)s->length, (int)s->n_ctx, (int)n);
    }
    const int32_t vocab_size = s->model->facts.vocab_size;
    for (int32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab_size) {
            return ln_fail(err, LN_BAD_ARGUMENT, "token id %d (number %d of %d) is not in the vocabulary, 0 to %d",
                           (int)ids[i], (int)i, (int)n, (int)vocab_size - 1);
        }
    }
    return LN_OK;
}

/* Puts the next tokens, at most n_batch, at the end of the timeline and runs them; returns how many.
 * They count as part of the timeline when the caller adds them to length. */
static int32_t run_some(ln_session *s, const int32_t *ids, int32_t n) {
    int32_t count = n < s->n_batch ? n : s->n_batch;
    memcpy(s->ids + s->length, ids, (size_t)count * sizeof *ids);
    ln_decoder_run(s, count);
    return count;
}

int32_t ln_session_eval(ln_session *session, const int32_t *ids, int32_t n, float *all_logits, ln_error *err) {
    ln_status status = check_tokens(session, ids, n, err);
    if (status != LN_OK || n == 0) {
        return status;
    }
    ln_session *s = session;
    const int64_t vocab_size = s->model->facts.vocab_size;
    for (int32_t done = 0; done < n;) {
        int32_t count = run_some(s, ids + done, n - done);
        if (all_logits != NULL) {
            ln_decoder_logits(s, 0, count, all_logits + done * vocab_size);
        }
        s->length += count;
        done += count;
        if (done == n && all_logits == NULL) {
            ln_decoder_logits(s, count - 1, 1, s->logits);
        }
    }
    if (all_logits != NULL) {
        memcpy(s->logits, all_logits + (n - 1) * vocab_size, (size_t)vocab_size * sizeof *s->logits);
    }
    s->has_logits = 1;
    return LN_OK;
}

/* ---- scoring -------------------------------------------------------------------- */

/* log softmax(logits)[id]; the sum in double, so that its error does not grow with the vocabulary. */
static float log_probability(const float *logits, int32_t vocab_size, int32_t id) {
    float largest = -INFINITY;
    for (int32_t i = 0; i < vocab_size; i++) {
        largest = fmaxf(largest, logits[i]);
    }
    double sum = 0;
    for (int32_t i = 0; i < vocab_size; i++) {
        sum += (double)expf(logits[i] - largest);
    }
    return (float)((double)logits[id] - (double)largest - log(sum));
}

typedef struct score_job {
    const float *logits; /* [n][vocab_size] */
    int32_t vocab_size;
    const int32_t *next; /* [n], the id that follows each */
    float *log_probs;    /* [n] */
} score_job;

static void score_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const score_job *j = job;
    j->log_probs[item] = log_probability(j->logits + (int64_t)item * j->vocab_size, j->vocab_size, j->next[item]);
}

/* Scores next[n], which follow the first n tokens just run. */
static void score_some(ln_session *s, const int32_t *next, int32_t n, float *log_probs) {
    const int32_t batch = LN_SCORE_BATCH < s->n_batch ? LN_SCORE_BATCH : s->n_batch;
    for (int32_t first = 0; first < n; first += batch) {
        int32_t count = n - first < batch ? n - first : batch;
        ln_decoder_logits(s, first, count, s->score_logits);
        const score_job job = {s->score_logits, s->model->facts.vocab_size, next + first, log_probs + first};
        ln_threads_run(s->threads, count, score_item, &job);
    }
}

/* Brings back the logits of the last token after a truncation. */
static void renew_logits(ln_session *s) {
    if (!s->has_logits) {
        s->length--;
        ln_decoder_run(s, 1);
        ln_decoder_logits(s, 0, 1, s->logits);
        s->length++;
        s->has_logits = 1;
    }
}

int32_t ln_session_score(ln_session *session, const int32_t *ids, int32_t n, float *log_probs, ln_error *err) {
    ln_status status = check_tokens(session, ids, n, err);
    if (status != LN_OK || n == 0) {
        return status;
    }
    ln_session *s = session;
    if (log_probs == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "log_probs must not be NULL");
    }
    log_probs[0] = NAN;
    if (s->length > 0) {
        renew_logits(s);
        log_probs[0] = log_probability(s->logits, s->model->facts.vocab_size, ids[0]);
    }
    for (int32_t done = 0; done < n;) {
        int32_t count = run_some(s, ids + done, n - done);
        int32_t followed = done + count < n ? count : count - 1;
        score_some(s, ids + done + 1, followed, log_probs + done + 1);
        if (followed < count) {
            ln_decoder_logits(s, count - 1, 1, s->logits);
        }
        s->length += count;
        done += count;
    }
    s->has_logits = 1;
    return LN_OK;
}

/* ---- the rest --------------------------------------------------------------------- */

int32_t ln_session_truncate(ln_session *session, int32_t length, ln_error *err) {
    if (session == NULL || length < 0 || length > session->length) {
        return ln_fail(err, LN_BAD_ARGUMENT, "cannot truncate to %d tokens: the timeline has %d", (int)length,
                       session == NULL ? 0 : (int)session->length);
    }
    if (length < session->length) {
        session->length = length;
        session->has_logits = 0;
    }
    return LN_OK;
}

const float *ln_session_logits(const ln_session *session) {
    return session->has_logits ? session->logits : NULL;
}

int32_t ln_session_length(const ln_session *session) {
    return session->length;
}

int32_t ln_session_capacity(const ln_session *session) {
    return session->n_ctx;
}

int64_t ln_session_bytes(const ln_session *session) {
    return (int64_t)(sizeof *session + session->bytes);
}

const char *ln_session_isa(const ln_session *session) {
    return session->kernels->name;
}

int32_t ln_session_threads(const ln_session *session) {
    return ln_threads_count(session->threads);
}
