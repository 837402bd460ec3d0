/* workspace.h - what sessions of one model share, and the pass over the weights that evaluates tokens of many
 * of them at once. */
#ifndef LINNET_WORKSPACE_H
#define LINNET_WORKSPACE_H

#include "adapter.h"
#include "attention.h"
#include "experts.h"
#include "model.h"
#include "pages.h"
#include "products.h"
#include "rotary.h"

/* Tokens whose logits are computed in one pass over the head, where each goes to a place of its own. */
#define LN_HEAD_BATCH 16

/* Neighbouring tokens of one session in a pass. */
typedef struct ln_segment {
    ln_session *session;
    int32_t first;    /* tokens [first, first + n) of the pass */
    int32_t n;
    int32_t position; /* of the first on its timeline */
    int32_t ends;     /* they are the last of their span, whose logits the session keeps */
    float *logits;    /* [n][vocab_size] of the caller, or NULL */
    float *hidden;    /* [n][dim] of the caller, or NULL */
    float *score;     /* of the caller, or NULL */
    ln_attention_share attention;
} ln_segment;

/* Tokens of one segment whose keys lie side by side: one thread stores them, as their bytes mingle. */
typedef struct ln_neighbours {
    int32_t segment;
    int32_t first;
    int32_t n;
} ln_neighbours;

struct ln_workspace {
    const ln_model *model;
    ln_compute compute;
    ln_pages pages;
    int32_t n_batch;
    int32_t n_sessions; /* that are open */
    int32_t is_closed;  /* by its owner: the last session to close frees it */
    size_t bytes;    /* of memory */
    char *memory;    /* the one block everything below lies in */
    ln_rotary rotary;
    ln_adapter_space adapters;
    ln_experts experts;

    /* The pass: at most n_batch tokens. */
    int32_t n_tokens;
    int32_t n_segments;
    int32_t n_neighbours;
    int32_t n_adapted; /* segments whose session has an adapter */
    ln_segment *segments;      /* [n_batch] */
    ln_neighbours *neighbours; /* [n_batch] */
    int32_t *ids;              /* [n_batch] */
    int32_t *positions;        /* [n_batch] */
    int32_t *types;            /* [n_batch], rows of the table of token types */
    ln_attention_plan attention;

    /* Of the tokens in flight. */
    float *x;           /* [n_batch][dim], the residual stream */
    float *h;           /* [n_batch][dim], normalised, or the output of a block */
    float *parallel;    /* [n_batch][dim], the output of attention where the residual is parallel */
    float *block;       /* [n_batch] of the wider of these, of which a layer needs one after the other */
    float *q;           /*   [n_batch][n_heads * head_dim], then what they attended to */
    float *k;           /*   [n_batch][n_kv_heads * head_dim] */
    float *v;
    float *inner;       /*   [n_batch][ffn_dim], what the feed-forward block has inside, where floats are wanted */
    ln_q8_block *q8;    /* [n_batch][the wider of dim and n_heads * head_dim], see ln_vectors */
    ln_q8_block *ffn_q8; /* [n_batch][ffn_dim] */
    float *gated_scratch; /* see ln_gated_products_run */
    int32_t *wanted;    /* [n_batch], tokens whose logits are wanted */
    float *head;        /* [LN_HEAD_BATCH][vocab_size] */
};

/* One session less. */
void ln_workspace_leave(ln_workspace *workspace);

/* Whether spans can be evaluated: all that can go wrong is found here, before anything is changed. */
ln_status ln_workspace_check(const ln_workspace *workspace, const ln_span *spans, int32_t n_spans, ln_error *err);

/* Begins a pass without tokens. */
void ln_workspace_begin(ln_workspace *workspace);

/* Adds as many of the next n tokens of a session as there is room for in the pass, and returns that. Each session
 * is added at most once. */
int32_t ln_workspace_add(ln_workspace *workspace, ln_session *session, const int32_t *ids, int32_t n);

/* Takes pages for the tokens of the pass and evaluates it; the sessions are then that much longer, their logits
 * unknown. Cannot fail once the spans were checked. */
void ln_workspace_run(ln_workspace *workspace);

/* ---- decoder.c --------------------------------------------------------------- */

/* Runs the tokens of the pass through all layers. Their keys and values go to the pages, their last hidden
 * states to x. */
void ln_decoder_run(ln_workspace *workspace);

/* What the head reads of n tokens of that pass, y[n][dim]: x normalised. x stays. */
void ln_decoder_hidden(ln_workspace *workspace, const int32_t *tokens, int32_t n, float *y);

/* The logits of n tokens of that pass, y[n][vocab_size]; x stays, so this may be repeated. */
void ln_decoder_logits(ln_workspace *workspace, const int32_t *tokens, int32_t n, float *y);

/* The scores of n texts of that pass by their first tokens, [n] in memory of the workspace; x stays. */
const float *ln_decoder_scores(ln_workspace *workspace, const int32_t *tokens, int32_t n);

#endif
