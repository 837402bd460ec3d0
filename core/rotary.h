/* rotary.h - rotary position embedding (Su et al. 2021, "RoFormer") and the ways it is stretched. */
#ifndef LINNET_ROTARY_H
#define LINNET_ROTARY_H

#include "model.h"

/* Of a model whose layers or sessions differ in their frequencies there are two tables of them. */
typedef struct ln_rotary {
    float *frequencies; /* [tables][rope_dims / 2], radians per position */
    float *cosines;     /* [tokens in flight][tables][rope_dims / 2] */
    float *sines;
} ln_rotary;

int32_t ln_rotary_tables(const ln_model *model);

void ln_rotary_fill(ln_rotary *rotary, const ln_model *model);

/* Whether a session of n_ctx turns by the second table. */
int ln_rotary_is_stretched(const ln_model *model, int32_t n_ctx);

/* Computes the angles of a token in flight. */
void ln_rotary_place(ln_rotary *rotary, const ln_model *model, int32_t token, int32_t position);

/* Rotates heads[n_heads][head_dim] of a token, of a session of n_ctx. */
void ln_rotary_turn(const ln_rotary *rotary, const ln_model *model, int32_t layer, int32_t n_ctx, int32_t token,
                    float *heads, int32_t n_heads);

#endif
