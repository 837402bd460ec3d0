/* quants.h - what the files of the block formats share: bit fields, stored f16 numbers, and the
 * search for scales (quants_fit.c) behind the packers of every format that has no fixed recipe.
 */
#ifndef LINNET_QUANTS_H
#define LINNET_QUANTS_H

#include <math.h>
#include <stdint.h>
#include <string.h>

#define LN_BLOCK 32  /* elements of a plain block */
#define LN_SUPER 256 /* elements of a super-block */
#define LN_MAX_GROUPS 16

#define LN_F16_LARGEST 65504.0f

/* The 16 levels of iq4_nl and iq4_xs, ascending. */
extern const int8_t ln_iq4_levels[16];

static inline uint16_t ln_load_u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline void ln_store_u16(uint8_t *p, uint16_t value) {
    memcpy(p, &value, sizeof value);
}

/* 1 / d, and 0 where d is 0 or so small that its reciprocal is no float. */
static inline float ln_reciprocal(float d) {
    float inverse = d == 0.0f ? 0.0f : 1.0f / d;
    return isinf(inverse) ? 0.0f : inverse;
}

/* Every format lays fields of 1, 2 or 4 bits out alike: of n fields the first `run` are the
 * lowest bits of `run` consecutive bytes, the next `run` the bits above those in the same
 * bytes, and so on; when these bytes are full, the next `run` bytes follow. */

/* q[i] |= field i << place */
static inline __attribute__((always_inline)) void ln_read_fields(const uint8_t *bytes, int n, int run, int bits, int place, uint8_t *q) {
    for (int i = 0; i < n; bytes += run) {
        for (int shift = 0; shift < 8; shift += bits, i += run) {
            for (int j = 0; j < run; j++) {
                q[i + j] |= (uint8_t)(((bytes[j] >> shift) & ((1 << bits) - 1)) << place);
            }
        }
    }
}

/* field i = q[i] >> place, cut to its bits */
static inline void ln_write_fields(const uint8_t *q, int n, int run, int bits, int place, uint8_t *bytes) {
    memset(bytes, 0, (size_t)(n * bits / 8));
    for (int i = 0; i < n; bytes += run) {
        for (int shift = 0; shift < 8; shift += bits, i += run) {
            for (int j = 0; j < run; j++) {
                bytes[j] |= (uint8_t)(((q[i + j] >> place) & ((1 << bits) - 1)) << shift);
            }
        }
    }
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

/* ---- quants_k.c: the super-blocks --------------------------------------------- */

#define LN_Q2_K_BYTES 84
#define LN_Q3_K_BYTES 110
#define LN_Q4_K_BYTES 144
#define LN_Q5_K_BYTES 176
#define LN_Q6_K_BYTES 210
#define LN_IQ4_XS_BYTES 136
#define LN_TQ1_0_BYTES 54
#define LN_TQ2_0_BYTES 66

void ln_pack_q2_k(const float *source, int64_t n, void *target);
void ln_pack_q3_k(const float *source, int64_t n, void *target);
void ln_pack_q4_k(const float *source, int64_t n, void *target);
void ln_pack_q5_k(const float *source, int64_t n, void *target);
void ln_pack_q6_k(const float *source, int64_t n, void *target);
void ln_pack_iq4_xs(const float *source, int64_t n, void *target);
void ln_pack_tq1_0(const float *source, int64_t n, void *target);
void ln_pack_tq2_0(const float *source, int64_t n, void *target);

void ln_unpack_q2_k(const void *source, int64_t n, float *target);
void ln_unpack_q3_k(const void *source, int64_t n, float *target);
void ln_unpack_q4_k(const void *source, int64_t n, float *target);
void ln_unpack_q5_k(const void *source, int64_t n, float *target);
void ln_unpack_q6_k(const void *source, int64_t n, float *target);
void ln_unpack_iq4_xs(const void *source, int64_t n, float *target);
void ln_unpack_tq1_0(const void *source, int64_t n, float *target);
void ln_unpack_tq2_0(const void *source, int64_t n, float *target);

#endif
