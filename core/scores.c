/* scores.c - passes over the scores of a whole vocabulary.
 *
 * A vocabulary has 100,000 tokens and more, and few of them matter. Blocks of LANES scores are looked at together,
 * without a branch, and one by one only where there is something in them.
 */
#include "scores.h"

#include <math.h>
#include <string.h>

#define LANES 16
#define CHUNK 256 /* scores of which the best, or a sum in float, is noted */

static float larger(float most, float score) {
    return ((score > most) & (score < INFINITY)) ? score : most;
}

/* The most of scores[n], -infinity where none is finite. */
static float most_of(const float *scores, int32_t n) {
    float lanes[LANES];
    float most = -INFINITY;
    for (int j = 0; j < LANES; j++) {
        lanes[j] = -INFINITY;
    }
    int32_t i = 0;
    for (; i + LANES <= n; i += LANES) {
        for (int j = 0; j < LANES; j++) {
            lanes[j] = larger(lanes[j], scores[i + j]);
        }
    }
    for (; i < n; i++) {
        most = larger(most, scores[i]);
    }
    for (int j = 0; j < LANES; j++) {
        most = larger(most, lanes[j]);
    }
    return most;
}

int32_t ln_best_score(const float *scores, int32_t n) {
    int32_t chunk = 0;
    float most = -INFINITY;
    for (int32_t start = 0; start < n; start += CHUNK) {
        const float here = most_of(scores + start, n - start < CHUNK ? n - start : CHUNK);
        chunk = here > most ? start : chunk;
        most = here > most ? here : most;
    }
    for (int32_t id = chunk; id < n && most > -INFINITY; id++) {
        if (scores[id] == most) {
            return id;
        }
    }
    return -1;
}

/* Whether one of LANES scores is between both. */
static int any_between(const float *scores, float least, float most) {
    int any = 0;
    for (int j = 0; j < LANES; j++) {
        any |= (scores[j] >= least) & (scores[j] <= most);
    }
    return any;
}

int32_t ln_scores_above(const float *scores, int32_t n, float top, float temperature, float lowest, int32_t *ids,
                        int32_t enough) {
    /* What is above lowest is above this too, however the division rounds. */
    const float reach = temperature * lowest;
    const float least = top + reach - 1e-5f * (fabsf(top) + fabsf(reach));
    int32_t found = 0;
    for (int32_t start = 0; start < n && found <= enough; start += LANES) {
        const int32_t end = n - start < LANES ? n : start + LANES;
        if (end - start == LANES && !any_between(scores + start, least, top)) {
            continue;
        }
        for (int32_t id = start; id < end; id++) {
            ids[found] = id; /* kept or written over: there may be too many of both kinds to guess */
            found += (scores[id] <= top) & ((scores[id] - top) / temperature >= lowest);
        }
    }
    return found;
}

/* exp of x <= 0 out of plain arithmetic; of others, of less than -87 and of NaN nearly 0. */
static float rough_exp(float x) {
    const float exponent = (((x > -87.0f) & (x <= 0)) ? x : -87.0f) * 1.44269504f;
    const int32_t whole = (int32_t)(exponent - 0.5f); /* cut towards 0: the nearest */
    const float rest = exponent - (float)whole;       /* -0.5 to 0.5 */
    /* 2^rest: the series of exp(rest * log 2) */
    float power = 1.0f + rest * (0.69314718f + rest * (0.24022651f + rest * (0.05550411f + rest * (0.00961813f +
                  rest * (0.00133336f + rest * 0.00015404f)))));
    int32_t bits;
    memcpy(&bits, &power, sizeof bits);
    bits += whole * (1 << 23);
    memcpy(&power, &bits, sizeof bits);
    return power;
}

double ln_rough_sum(const float *scores, int32_t n, float top, float temperature) {
    const float scale = 1 / temperature;
    double sum = 0;
    for (int32_t start = 0; start < n; start += CHUNK) {
        const int32_t end = n - start < CHUNK ? n : start + CHUNK;
        float lanes[LANES] = {0};
        int32_t i = start;
        for (; i + LANES <= end; i += LANES) {
            for (int j = 0; j < LANES; j++) {
                lanes[j] += rough_exp((scores[i + j] - top) * scale);
            }
        }
        for (; i < end; i++) {
            lanes[0] += rough_exp((scores[i] - top) * scale);
        }
        for (int j = 0; j < LANES; j++) {
            sum += (double)lanes[j];
        }
    }
    return sum;
}
