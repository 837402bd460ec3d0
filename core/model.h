/* model.h - an open model: facts, and weights that were checked against them. */
#ifndef LINNET_MODEL_H
#define LINNET_MODEL_H

#include "arch.h"

struct ln_model {
    const ln_arch *arch;
    ln_facts facts;
    ln_globals globals;
    ln_layer *layers; /* [n_layers] */
    int32_t tied_embeddings;
    int64_t n_params;
    int64_t weight_bytes;
    int64_t bytes_per_token;
};

/* The matrix that turns the last hidden state into logits, [vocab_size][dim]. */
const ln_matrix *ln_model_head(const ln_model *model);

#endif
