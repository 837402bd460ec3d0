/* filters.h - which tokens come into question. Each filter reorders ids[n], puts those it keeps, at least one,
 * in front and returns how many they are. Tokens are compared by weight, the lower id first on a tie. */
#ifndef LINNET_FILTERS_H
#define LINNET_FILTERS_H

#include "core.h"

double ln_sum_weights(const float *weights, const int32_t *ids, int32_t n);

/* The k best. */
int32_t ln_keep_best(const float *weights, int32_t *ids, int32_t n, int32_t k);

/* Locally typical sampling (Meister et al. 2022, arXiv:2202.00666): those whose surprise is nearest to the
 * entropy, until they have the share p. keys[vocab_size] is scratch. */
int32_t ln_keep_typical(const float *weights, float *keys, int32_t *ids, int32_t n, float p);

/* The best, until they have the share top_p, and of these the ones of at least min_p times the weight of the
 * best. The worst is then the first. */
int32_t ln_keep_nucleus(const float *weights, int32_t *ids, int32_t n, float top_p, float min_p);

/* Those of at least this weight; 0 may be left. */
int32_t ln_keep_above(const float *weights, int32_t *ids, int32_t n, float least);

/* The best, until the sum of their weights is certain to be enough, which is from least to most; the worst is then
 * the first. 0 when all together are certain not to be enough, -1 when that cannot be told. */
int32_t ln_keep_enough(const float *weights, int32_t *ids, int32_t n, double least, double most);

/* XTC (p-e-w 2024): of the tokens with at least the share threshold only the worst, and all others. */
int32_t ln_drop_choices(const float *weights, int32_t *ids, int32_t n, float threshold);

/* Mirostat 2 (Basu et al. 2021, arXiv:2007.14966, with a threshold for k): those whose surprise in bits is at most mu. */
int32_t ln_keep_unsurprising(const float *weights, int32_t *ids, int32_t n, double mu);

#endif
