/* session.h - one timeline of tokens: its key/value cache, its scratch memory, its threads. */
#ifndef LINNET_SESSION_H
#define LINNET_SESSION_H

#include "model.h"
#include "threads.h"

/* Tokens whose logits are computed in one pass over the head when a whole text is scored. */
#define LN_SCORE_BATCH 16

struct ln_session {
    const ln_model *model;
    const ln_kernels *kernels;
    ln_threads *threads;
    int32_t n_ctx;
    int32_t n_batch;
    int32_t kv_type;
    int32_t length;  /* tokens on the timeline */
    int has_logits;  /* logits belong to the last token of the timeline */
    size_t bytes;    /* of memory */
    char *memory;    /* the one block everything below lies in */

    int32_t *ids;    /* [n_ctx], the timeline */
    char *k_cache;   /* [n_layers][n_kv_heads][n_ctx][head_dim] of kv_type */
    char *v_cache;
    float *frequencies; /* [rope_dims / 2], radians per position */

    /* Of the tokens in flight, at most n_batch. */
    float *cosines;  /* [n_batch][rope_dims / 2] */
    float *sines;
    float *x;        /* [n_batch][dim], the residual stream */
    float *h;        /* [n_batch][dim], normalised, or the output of a block */
    float *q;        /* [n_batch][n_heads * head_dim] */
    float *k;        /* [n_batch][n_kv_heads * head_dim] */
    float *v;
    float *attended; /* [n_batch][n_heads * head_dim] */
    float *gate;     /* [n_batch][ffn_dim], then silu(gate) * up */
    float *up;       /* [n_batch][ffn_dim] */
    int8_t *q8;      /* [n_batch][the widest input of a matrix], see ln_vectors */
    float *q8_scale;
    int32_t *q8_sum;
    float *weights;      /* [n_threads][n_ctx], attention */
    float *score_logits; /* [LN_SCORE_BATCH][vocab_size] */
    float *logits;       /* [vocab_size] */
};

/* decoder.c: runs n <= n_batch tokens, ids[length..length + n), through all layers. Their keys and
 * values go to the cache and their last hidden states to x; length is not moved. Cannot fail. */
void ln_decoder_run(ln_session *session, int32_t n);

/* The logits of tokens [first, first + n) of that run, y[n][vocab_size]; x stays, so this may be repeated. */
void ln_decoder_logits(ln_session *session, int32_t first, int32_t n, float *y);

#endif
