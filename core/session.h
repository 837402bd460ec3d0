/* session.h - one timeline of tokens and the pages that hold its keys and values. */
#ifndef LINNET_SESSION_H
#define LINNET_SESSION_H

#include "workspace.h"

typedef struct ln_scaled_adapter {
    const ln_adapter *adapter;
    float scale;
} ln_scaled_adapter;

struct ln_session {
    ln_workspace *workspace;
    int32_t n_ctx;
    int32_t length;     /* tokens on the timeline */
    int32_t has_logits; /* logits belong to the last token of the timeline */
    int32_t in_call;    /* while the spans of a call are checked: it has one already */
    int32_t first_page; /* those before were given back: a sliding window has left them */
    int32_t n_held;     /* pages [first_page, n_held) are held */
    int32_t n_adapters;
    ln_scaled_adapter adapters[LN_MAX_ADAPTERS];
    int32_t *pages;     /* [n_ctx / LN_PAGE, rounded up] */
    int32_t *ids;       /* [n_ctx], the timeline */
    float *logits;      /* [vocab_size] */
};

/* Whether n tokens can be appended: LN_BAD_ARGUMENT, LN_CONTEXT_FULL when they do not fit n_ctx. Adds to
 * *n_pages the free pages that takes at most. */
ln_status ln_session_check(const ln_session *session, const int32_t *ids, int32_t n, int32_t *n_pages, ln_error *err);

/* Takes the pages for the next n tokens, and copies the last one where another timeline uses it too. */
void ln_session_take_pages(ln_session *session, int32_t n);

/* Gives back the pages that no future token attends to, even after going back by LN_PAGE tokens. */
void ln_session_release_pages(ln_session *session);

#endif
