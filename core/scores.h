/* scores.h - passes over the scores of a whole vocabulary, written so that compilers make vectors of them.
 * Scores that are NaN or infinite count for nothing. */
#ifndef LINNET_SCORES_H
#define LINNET_SCORES_H

#include "core.h"

/* The id of the best, the lowest on a tie, -1 when none is finite. */
int32_t ln_best_score(const float *scores, int32_t n);

/* Writes the ids of scores of at most top with (score - top) / temperature >= lowest, in order, to ids[n]; returns how
 * many. There may be more when those are more than enough. */
int32_t ln_scores_above(const float *scores, int32_t n, float top, float temperature, float lowest, int32_t *ids,
                        int32_t enough);

/* The sum of exp((score - top) / temperature) over scores of at most top, itself among them: right to LN_ROUGH of it. */
double ln_rough_sum(const float *scores, int32_t n, float top, float temperature);

/* Of a vocabulary of up to 10 million. exp here is right to 3e-7, its argument x to |x| * 1.3e-7, which matters
 * to |x| = 25 at most: what lies below is nothing beside the best; and sums of 16 to 1e-6. */
#define LN_ROUGH 1e-5

#endif
