/* model.h - an open model: facts, and weights that were checked against them. */
#ifndef LINNET_MODEL_H
#define LINNET_MODEL_H

#include "arch.h"
#include "threads.h"

/* A matrix of a block type that is packed, and how far that has come. */
typedef struct ln_packing {
    ln_matrix *matrix;    /* data and stride are set when the last row is packed */
    const char *source;   /* GGUF rows */
    size_t source_stride; /* bytes from one to the next */
    char *target;         /* panels */
    int64_t rows_done;
} ln_packing;

struct ln_model {
    const ln_arch *arch;
    ln_facts facts;
    ln_globals globals;
    ln_layer *blocks;     /* [n_blocks] */
    ln_layer_kind *kinds; /* [n_layers] */
    int32_t tied_embeddings;
    const char *data;  /* the file */
    size_t size;
    char *panels;      /* all packed weights; NULL before the first of them is packed */
    size_t panels_bytes;
    ln_packing *packings; /* [n_packings] */
    int32_t n_packings;
    int32_t n_packed;  /* how many are done */
    uint8_t has_type[LN_TYPE_LIMIT]; /* whether a matrix is of the type */
    ln_threads *loaders; /* while weights are packed */
    uint64_t facts_digest;
    int64_t n_params;
    int64_t weight_bytes;
    int64_t bytes_per_token;
    int64_t in_place_bytes;
};

/* The weights of a layer. */
static inline const ln_layer *ln_model_layer(const ln_model *model, int32_t layer) {
    return &model->blocks[layer / model->facts.block_repeat];
}

/* Whether all weights are packed. */
int ln_model_is_loaded(const ln_model *model);

/* What turns the last hidden state into logits, [vocab_size][dim]. */
const ln_linear *ln_model_head(const ln_model *model);

#endif
