/* session.c - opens and forks sessions and moves their timelines. */
#include "session.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

/* ---- opening ---------------------------------------------------------------- */

static int32_t pages_of(int32_t n_tokens) {
    return n_tokens / LN_PAGE + (n_tokens % LN_PAGE != 0);
}

/* Bytes of a session of n_ctx tokens, without its pages; returns 0 when they do not fit a size_t. */
static int own_bytes(const ln_workspace *workspace, int32_t n_ctx, size_t *out) {
    const size_t vocab_size = (size_t)workspace->model->facts.vocab_size;
    const size_t words = (size_t)pages_of(n_ctx) + (size_t)n_ctx + vocab_size; /* each below 2^31 */
    return ln_size_mul(words, sizeof(int32_t), out) && ln_size_add(*out, sizeof(ln_session), out);
}

/* Zeroed memory for a session of n_ctx tokens, one block. */
static ln_status allocate(ln_workspace *workspace, int32_t n_ctx, ln_session **out, ln_error *err) {
    const size_t vocab_size = (size_t)workspace->model->facts.vocab_size;
    size_t bytes;
    if (!own_bytes(workspace, n_ctx, &bytes)) {
        return ln_fail(err, LN_NO_MEMORY, "a session of %d tokens does not fit this machine; ask for a smaller n_ctx",
                       (int)n_ctx);
    }
    ln_session *s = ln_alloc(1, bytes, "a session", err);
    if (s == NULL) {
        return LN_NO_MEMORY;
    }
    s->workspace = workspace;
    s->n_ctx = n_ctx;
    s->logits = (float *)(void *)(s + 1);
    s->ids = (int32_t *)(void *)(s->logits + vocab_size);
    s->pages = s->ids + n_ctx;
    workspace->n_sessions++;
    *out = s;
    return LN_OK;
}

static int32_t default_n_ctx(const ln_workspace *w) {
    const int64_t room = (int64_t)w->pages.n_pages * LN_PAGE;
    const int32_t trained = w->model->facts.max_seq_len;
    const int32_t most = w->model->facts.causal || trained < w->n_batch ? trained : w->n_batch;
    return most < room ? most : (int32_t)room;
}

int32_t ln_session_open(ln_workspace *workspace, int32_t n_ctx, ln_session **out, ln_error *err) {
    if (workspace == NULL || out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "workspace and out must not be NULL");
    }
    *out = NULL;
    if (n_ctx < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_ctx is %d; give 1 or more, or 0 for what the model was trained with",
                       (int)n_ctx);
    }
    if (workspace->model->globals.positions.w.data != NULL && n_ctx > workspace->model->facts.max_seq_len) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_ctx is %d and the model has learned only %d positions; give %d or less",
                       (int)n_ctx, (int)workspace->model->facts.max_seq_len, (int)workspace->model->facts.max_seq_len);
    }
    if (!workspace->model->facts.causal && n_ctx > workspace->n_batch) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_ctx is %d and a %s model sees a whole text at once, of which a pass takes "
                       "%d tokens; give that or less",
                       (int)n_ctx, workspace->model->facts.arch, (int)workspace->n_batch);
    }
    return allocate(workspace, n_ctx != 0 ? n_ctx : default_n_ctx(workspace), out, err);
}

void ln_session_close(ln_session *session) {
    if (session == NULL) {
        return;
    }
    for (int32_t i = session->first_page; i < session->n_held; i++) {
        ln_pages_release(&session->workspace->pages, session->pages[i]);
    }
    ln_workspace_leave(session->workspace);
    free(session);
}

/* ---- pages -------------------------------------------------------------------- */

/* The first page a timeline of this length needs: its last token may be evaluated once more (renew_logits). */
static int32_t first_page_of(const ln_session *s, int32_t length) {
    return length == 0 ? 0 : ln_attention_begin(s->workspace->model->facts.lookback, length - 1) / LN_PAGE;
}

static int is_last_page_shared(const ln_session *s) {
    return s->length % LN_PAGE != 0 && s->workspace->pages.uses[s->pages[s->length / LN_PAGE]] > 1;
}

static int32_t pages_of_its_own(const ln_session *s) {
    int32_t n = 0;
    for (int32_t i = s->first_page; i < s->n_held; i++) {
        n += s->workspace->pages.uses[s->pages[i]] == 1;
    }
    return n;
}

/* Free pages that n more tokens take at most. Behind a sliding window pages come back between passes, if nobody
 * else uses them: then no more are held at once than a window, a pass and what truncating may take back. */
static int32_t pages_needed(const ln_session *s, int32_t n) {
    const ln_facts *f = &s->workspace->model->facts;
    int32_t needed = pages_of(s->length + n) - s->n_held;
    if (f->lookback > 0) {
        const int64_t live = (int64_t)f->lookback + LN_PAGE + s->workspace->n_batch;
        const int64_t most = live / LN_PAGE + 2 - pages_of_its_own(s);
        needed = needed < most ? needed : most > 0 ? (int32_t)most : 0;
    }
    return needed + is_last_page_shared(s);
}

void ln_session_take_pages(ln_session *session, int32_t n) {
    ln_pages *pages = &session->workspace->pages;
    if (is_last_page_shared(session)) {
        int32_t *last = &session->pages[session->length / LN_PAGE];
        *last = ln_pages_own(pages, *last);
    }
    for (; session->n_held < pages_of(session->length + n); session->n_held++) {
        session->pages[session->n_held] = ln_pages_take(pages);
    }
}

void ln_session_release_pages(ln_session *session) {
    const int32_t shortest = session->length > LN_PAGE ? session->length - LN_PAGE : 0; /* that truncating allows */
    const int32_t needed = first_page_of(session, shortest);
    for (; session->first_page < needed; session->first_page++) {
        ln_pages_release(&session->workspace->pages, session->pages[session->first_page]);
    }
}

/* ---- going back ----------------------------------------------------------------- */

static ln_status check_length(const ln_session *s, int32_t length, ln_error *err) {
    if (s == NULL || length < 0 || length > s->length) {
        return ln_fail(err, LN_BAD_ARGUMENT, "cannot go back to %d tokens: the timeline has %d", (int)length,
                       s == NULL ? 0 : (int)s->length);
    }
    if (length > 0 && first_page_of(s, length) < s->first_page) {
        return ln_fail(err, LN_BAD_ARGUMENT, "cannot go back to %d of %d tokens: those before token %d have left the "
                       "sliding window; start again from 0",
                       (int)length, (int)s->length, (int)s->first_page * LN_PAGE);
    }
    return LN_OK;
}

int32_t ln_session_truncate(ln_session *session, int32_t length, ln_error *err) {
    ln_status status = check_length(session, length, err);
    if (status != LN_OK || length == session->length) {
        return status;
    }
    const int32_t kept = pages_of(length) > session->first_page ? pages_of(length) : session->first_page;
    while (session->n_held > kept) {
        ln_pages_release(&session->workspace->pages, session->pages[--session->n_held]);
    }
    if (length == 0) {
        session->first_page = 0;
        session->n_held = 0;
    }
    session->length = length;
    session->has_logits = 0;
    return LN_OK;
}

int32_t ln_session_fork(const ln_session *session, int32_t length, ln_session **out, ln_error *err) {
    if (out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "out must not be NULL");
    }
    *out = NULL;
    ln_status status = check_length(session, length, err);
    if (status == LN_OK) {
        status = allocate(session->workspace, session->n_ctx, out, err);
    }
    if (status != LN_OK) {
        return status;
    }
    ln_session *s = *out;
    s->first_page = length > 0 ? session->first_page : 0;
    s->n_held = pages_of(length);
    for (int32_t i = s->first_page; i < s->n_held; i++) {
        s->pages[i] = session->pages[i];
        ln_pages_share(&s->workspace->pages, s->pages[i]);
    }
    s->length = length;
    s->n_adapters = session->n_adapters;
    memcpy(s->adapters, session->adapters, sizeof s->adapters);
    memcpy(s->ids, session->ids, (size_t)length * sizeof *s->ids);
    s->has_logits = session->has_logits && length == session->length;
    if (s->has_logits) {
        memcpy(s->logits, session->logits, (size_t)s->workspace->model->facts.vocab_size * sizeof *s->logits);
    }
    return LN_OK;
}

/* ---- appending ----------------------------------------------------------------- */

static ln_status check_ids(const ln_session *s, const int32_t *ids, int32_t n, ln_error *err) {
    if (n < 0 || (ids == NULL && n > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "ids must not be NULL, n not negative");
    }
    if (n > s->n_ctx - s->length) {
        return ln_fail(err, LN_CONTEXT_FULL, "the context holds %d of %d tokens, %d more do not fit; shorten the text "
                       "or open the session with a larger n_ctx",
                       (int)s->length, (int)s->n_ctx, (int)n);
    }
    const int32_t vocab_size = s->workspace->model->facts.vocab_size;
    for (int32_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] >= vocab_size) {
            return ln_fail(err, LN_BAD_ARGUMENT, "token id %d (number %d of %d) is not in the vocabulary, 0 to %d",
                           (int)ids[i], (int)i, (int)n, (int)vocab_size - 1);
        }
    }
    return LN_OK;
}

ln_status ln_session_check(const ln_session *session, const int32_t *ids, int32_t n, int32_t *n_pages, ln_error *err) {
    ln_status status = check_ids(session, ids, n, err);
    if (status == LN_OK) {
        status = check_length(session, session->length, err); /* what was loaded may not reach back far enough */
    }
    if (status == LN_OK && n > 0) {
        *n_pages += pages_needed(session, n);
    }
    return status;
}

int32_t ln_session_eval(ln_session *session, const int32_t *ids, int32_t n, float *logits, ln_error *err) {
    if (session == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "session must not be NULL");
    }
    const ln_span span = {.session = session, .ids = ids, .logits = logits, .n = n};
    return ln_workspace_eval(session->workspace, &span, 1, err);
}

/* ---- saving and loading -------------------------------------------------------- */

int32_t ln_session_save(const ln_session *session, int32_t page, void *out, size_t size, ln_error *err) {
    if (session == NULL || out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "session and out must not be NULL");
    }
    const ln_pages *pages = &session->workspace->pages;
    if (page < session->first_page || page >= pages_of(session->length)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "page %d is not held: the timeline has pages %d to %d", (int)page,
                       (int)session->first_page, (int)pages_of(session->length) - 1);
    }
    if (size != pages->page_bytes) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a page takes %.0f bytes, not %.0f", (double)pages->page_bytes,
                       (double)size);
    }
    const int32_t left = session->length - page * LN_PAGE;
    ln_pages_save(pages, session->pages[page], left < LN_PAGE ? left : LN_PAGE, out);
    return LN_OK;
}

static ln_status check_loading(const ln_session *s, int32_t n, const void *page, size_t size, ln_error *err) {
    const ln_pages *pages = &s->workspace->pages;
    if (n < 1 || n > LN_PAGE || s->length % LN_PAGE != 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "cannot load %d tokens after %d: pages hold %d", (int)n, (int)s->length,
                       LN_PAGE);
    }
    if (page == NULL && (s->workspace->model->facts.lookback == 0 || s->first_page < s->n_held || n < LN_PAGE)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "page %d cannot have left a sliding window", (int)s->length / LN_PAGE);
    }
    if (page != NULL && size != pages->page_bytes) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a page takes %.0f bytes, not %.0f", (double)pages->page_bytes,
                       (double)size);
    }
    if (page != NULL && pages->n_free == 0) {
        return ln_fail(err, LN_CONTEXT_FULL, "there is no free page for %d more tokens; close a session or open the "
                       "workspace with a larger kv_tokens",
                       (int)n);
    }
    return LN_OK;
}

int32_t ln_session_load(ln_session *session, const int32_t *ids, int32_t n, const void *page, size_t size,
                        ln_error *err) {
    if (session == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "session must not be NULL");
    }
    ln_status status = check_ids(session, ids, n, err);
    if (status == LN_OK) {
        status = check_loading(session, n, page, size, err);
    }
    if (status != LN_OK) {
        return status;
    }
    if (page != NULL) {
        session->pages[session->n_held] = ln_pages_take(&session->workspace->pages);
        ln_pages_load(&session->workspace->pages, session->pages[session->n_held], page);
    }
    session->n_held++;
    session->first_page += page == NULL;
    memcpy(session->ids + session->length, ids, (size_t)n * sizeof *ids);
    session->length += n;
    session->has_logits = 0;
    ln_session_release_pages(session);
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

/* Scores next[n], which follow the first n tokens of the pass. */
static void score_some(ln_workspace *w, const int32_t *next, int32_t n, float *log_probs) {
    for (int32_t first = 0; first < n; first += LN_HEAD_BATCH) {
        const int32_t count = n - first < LN_HEAD_BATCH ? n - first : LN_HEAD_BATCH;
        for (int32_t i = 0; i < count; i++) {
            w->wanted[i] = first + i;
        }
        ln_decoder_logits(w, w->wanted, count, w->head);
        const score_job job = {w->head, w->model->facts.vocab_size, next + first, log_probs + first};
        ln_threads_run(w->compute.threads, count, score_item, &job);
    }
}

/* Brings back the logits of the last token after a truncation. Its keys and values are written once more, the
 * same bits: whoever shares the page sees no change. */
static void renew_logits(ln_session *s) {
    if (!s->has_logits) {
        const int32_t last = s->ids[--s->length];
        ln_workspace_begin(s->workspace);
        ln_workspace_add(s->workspace, s, &last, 1);
        ln_decoder_run(s->workspace);
        ln_decoder_logits(s->workspace, &(int32_t){0}, 1, s->logits);
        s->length++;
        s->has_logits = 1;
    }
}

int32_t ln_session_score(ln_session *session, const int32_t *ids, int32_t n, float *log_probs, ln_error *err) {
    ln_session *s = session;
    if (s == NULL || log_probs == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "session and log_probs must not be NULL");
    }
    ln_workspace *w = s->workspace;
    ln_status status = ln_workspace_check(w, &(ln_span){.session = s, .ids = ids, .n = n}, 1, err);
    if (status != LN_OK || n == 0) {
        return status;
    }
    log_probs[0] = NAN;
    if (s->length > 0) {
        renew_logits(s);
        log_probs[0] = log_probability(s->logits, w->model->facts.vocab_size, ids[0]);
    }
    for (int32_t done = 0; done < n;) {
        ln_workspace_begin(w);
        const int32_t count = ln_workspace_add(w, s, ids + done, n - done);
        ln_workspace_run(w);
        const int32_t followed = done + count < n ? count : count - 1;
        score_some(w, ids + done + 1, followed, log_probs + done + 1);
        if (followed < count) {
            ln_decoder_logits(w, &(int32_t){count - 1}, 1, s->logits);
        }
        done += count;
    }
    s->has_logits = 1;
    return LN_OK;
}

/* ---- the rest --------------------------------------------------------------------- */

const float *ln_session_logits(const ln_session *session) {
    return session->has_logits ? session->logits : NULL;
}

int32_t ln_session_length(const ln_session *session) {
    return session->length;
}

const int32_t *ln_session_ids(const ln_session *session) {
    return session->ids;
}

int32_t ln_session_common(const ln_session *session, const int32_t *ids, int32_t n) {
    int32_t common = 0;
    while (common < n && common < session->length && session->ids[common] == ids[common]) {
        common++;
    }
    return common;
}

int32_t ln_session_capacity(const ln_session *session) {
    return session->n_ctx;
}

int32_t ln_session_describe(const ln_session *session, ln_session_info *out) {
    if (session == NULL || out == NULL) {
        return LN_BAD_ARGUMENT;
    }
    const ln_workspace *w = session->workspace;
    size_t own = 0;
    own_bytes(w, session->n_ctx, &own); /* it was allocated */
    *out = (ln_session_info){
        .first_page = session->first_page,
        .n_pages = session->n_held,
        .is_stretched = ln_rotary_is_stretched(w->model, session->n_ctx),
        .bytes = (int64_t)(own + w->pages.page_bytes * (size_t)(session->n_held - session->first_page)),
    };
    for (int32_t i = 0; i < session->n_adapters; i++) {
        const ln_scaled_adapter *a = &session->adapters[i];
        out->adapters = ln_digest(&a->adapter->digest, sizeof a->adapter->digest, out->adapters);
        out->adapters = ln_digest(&a->scale, sizeof a->scale, out->adapters);
    }
    return LN_OK;
}
