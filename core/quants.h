/* quants.h - what the files that pack floats into blocks share: the search for scales (quants_fit.c)
 * behind the packers of every format that has no fixed recipe, and these packers (quants_k.c).
 */
#ifndef LINNET_QUANTS_H
#define LINNET_QUANTS_H

#include <math.h>
#include <stdint.h>

#include "block_formats.h"

#define LN_F16_LARGEST 65504.0f

/* 1 / d, and 0 where d is 0 or so small that its reciprocal is no float. */
static inline float ln_reciprocal(float d) {
    float inverse = d == 0.0f ? 0.0f : 1.0f / d;
    return isinf(inverse) ? 0.0f : inverse;
}

/* ---- quants_fit.c ------------------------------------------------------------ */

/* A format whose values are d * scale[group] * level - dmin * minimum[group]. */
typedef struct ln_form {
    int groups;
    int group_elements;        /* 16 or 32 */
    int level_low, level_high; /* the levels are these integers and all between, */
    const int8_t *levels;      /* unless they are listed here: n_levels, ascending */
    int n_levels;
    int scale_low, scale_high; /* what scale[group] can hold, */
    int scale_end;             /* and which end of it the largest scale goes to */
    int minimum_high;          /* minimum[group] is 0 .. minimum_high; 0: the format has none */
} ln_form;

typedef struct ln_fitted {
    uint16_t d, dmin; /* f16 */
    int8_t scale[LN_MAX_GROUPS];
    uint8_t minimum[LN_MAX_GROUPS];
    uint8_t code[LN_SUPER]; /* which level: 0 is the lowest */
} ln_fitted;

/* Chooses everything so that the sum of squared errors of x[groups * group_elements] is small: finite
 * values, at most 1e9 in magnitude. The same bytes on every machine. */
void ln_fit_block(const ln_form *form, const float *x, ln_fitted *out);

/* ---- quants_k.c --------------------------------------------------------------- */

void ln_pack_q2_k(const float *source, int64_t n, void *target);
void ln_pack_q3_k(const float *source, int64_t n, void *target);
void ln_pack_q4_k(const float *source, int64_t n, void *target);
void ln_pack_q5_k(const float *source, int64_t n, void *target);
void ln_pack_q6_k(const float *source, int64_t n, void *target);
void ln_pack_iq4_nl(const float *source, int64_t n, void *target);
void ln_pack_iq4_xs(const float *source, int64_t n, void *target);
void ln_pack_tq1_0(const float *source, int64_t n, void *target);
void ln_pack_tq2_0(const float *source, int64_t n, void *target);

#endif
