/* adapter.h - low-rank changes of a model's matrices (Hu et al. 2021, "LoRA"), which sessions choose: y = W x
 * becomes y = W x + scale * B (A x) for the tokens of a session that has the adapter, and for no others. */
#ifndef LINNET_ADAPTER_H
#define LINNET_ADAPTER_H

#include "products.h"

/* What an adapter adds to one matrix; without data where it adds nothing. */
typedef struct ln_low_rank {
    ln_linear a; /* [rank][cols] */
    ln_linear b; /* [rows][rank] */
    float scale;
} ln_low_rank;

struct ln_adapter {
    const ln_model *model;
    ln_low_rank *parts; /* [n_blocks][LN_TARGETS] */
    char *weights;      /* what all of them hold */
    uint64_t digest;
};

/* What the adapters of the sessions in a pass need; allocated when the first session chooses one. */
typedef struct ln_adapter_space {
    char *memory;
    int64_t max_rows;
    float *low;     /* [n_batch][LN_MAX_RANK], A x */
    float *wide;    /* [n_batch][max_rows], B (A x) */
    float *sums;    /* [3][n_batch][max_rows], of all adapters of a session: at most three products run at once */
    uint8_t *has;   /* [3][n_batch], the tokens with an adapter of the matrix */
} ln_adapter_space;

/* Room for passes of the workspace. LN_NO_MEMORY. */
ln_status ln_adapter_space_open(ln_workspace *workspace, ln_error *err);

/* What the adapters of the tokens in flight add to a matrix of a layer that reads x[n][cols]; nothing where no session
 * of the pass has one. It lies in the slot, 0 to 2, until that is used again. */
ln_addend ln_adapters_run(ln_workspace *workspace, int32_t layer, ln_target target, int32_t slot, const float *x);

#endif
