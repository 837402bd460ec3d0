/* test_scores.c - passes over many scores against plain ones, on every length and with what is no number in them. */
#include "gguf_image.h"

#include "scores.h"

#define MOST 700
#define ROUNDS 2000

static float scores[MOST];
static uint32_t state = 3;

static uint32_t below(uint32_t n) {
    return (uint32_t)((double)(next_weight(&state) + 1) / 2 * n) % n;
}

static int32_t draw_scores(void) {
    static const float odd[] = {NAN, INFINITY, -INFINITY, 3e38f, -3e38f};
    const int32_t n = 1 + (int32_t)below(MOST);
    const float scale = (const float[]){1, 5, 40, 1e30f}[below(4)];
    const uint32_t often = below(2) ? 10 : MOST * 4;
    for (int32_t i = 0; i < n; i++) {
        scores[i] = below(often) == 0 ? odd[below(5)] : scale * (below(2) ? roundf(5 * next_weight(&state)) : next_weight(&state));
    }
    return n;
}

static void test_all(int32_t n) {
    int32_t best = -1;
    for (int32_t i = 0; i < n; i++) {
        best = isfinite(scores[i]) && (best < 0 || scores[i] > scores[best]) ? i : best;
    }
    CHECK(ln_best_score(scores, n) == best, "%d of %d", (int)best, (int)n);
    if (best < 0) {
        return;
    }
    const float top = scores[best];
    const float temperature = (const float[]){0.01f, 0.8f, 1, 1e3f}[below(4)];
    const float lowest = -(float)below(100);
    int32_t ids[MOST];
    const int32_t found = ln_scores_above(scores, n, top, temperature, lowest, ids, n);
    int32_t expected = 0;
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        if (!(scores[i] <= top)) {
            continue;
        }
        const float exponent = (scores[i] - top) / temperature;
        sum += exp((double)exponent);
        if (exponent >= lowest) {
            CHECK(expected < found && ids[expected] == i, "%d is missing", (int)i);
            expected++;
        }
    }
    CHECK(found == expected, "%d are above %g, not %d", (int)expected, (double)lowest, (int)found);
    const double rough = ln_rough_sum(scores, n, top, temperature);
    CHECK(fabs(rough - sum) <= LN_ROUGH / 2 * sum, "%.9g is not %.9g", rough, sum);
    if (found > 1) {
        const int32_t some = ln_scores_above(scores, n, top, temperature, lowest, ids, found / 2);
        CHECK(some > found / 2 && some <= found, "%d of %d", (int)some, (int)found);
    }
}

int main(void) {
    for (int round = 0; round < ROUNDS; round++) {
        test_all(draw_scores());
    }
    CHECK(ln_best_score(scores, 0) == -1, "none");
    return 0;
}
