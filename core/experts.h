/* experts.h - feed-forward blocks of which each token uses a few (Shazeer et al. 2017; Fedus et al. 2022). */
#ifndef LINNET_EXPERTS_H
#define LINNET_EXPERTS_H

#include "model.h"

/* A slot is one token at one of its experts. Slots of an expert lie side by side, so that its weights are read once
 * for all of them. */
typedef struct ln_experts {
    float *scores;       /* [n_batch][n_experts] */
    int32_t *chosen;     /* [n_batch][n_experts_used], experts of a token, the most probable first */
    float *weights;      /* [n_batch][n_experts_used] */
    int32_t *slots;      /* [n_batch][n_experts_used], where each lies */
    int32_t *tokens;     /* [slots] */
    int32_t *first;      /* [n_experts + 1], slots of expert e begin at first[e] */
    int32_t *expert_of;  /* [slots] */
    float *x;            /* [slots][dim], then what the experts make of it */
    float *inner;        /* [slots][expert_ffn_dim] */
    ln_q8_block *q8;     /* of x, and of inner; see ln_vectors: each expert's slots are tiles of their own */
    ln_q8_block *inner_q8;
    ln_gated_product *gated; /* [n_experts] */
    ln_product *down;        /* [n_experts] */
} ln_experts;

/* What the experts of each token make of h goes to h. */
void ln_experts_run(ln_workspace *workspace, const ln_layer *layer);

#endif
