/* test_filters.c - each filter against the same done by sorting everything, on weights with many ties.
 *
 * Weights are whole numbers of 1/1024, so that sums are exact in any order. */
#include "gguf_image.h"

#include "filters.h"

#define VOCAB 300
#define ROUNDS 400

static float weights[VOCAB];
static float keys[VOCAB];
static uint32_t state = 11;

static uint32_t below(uint32_t n) {
    return (uint32_t)((double)(next_weight(&state) + 1) / 2 * n) % n;
}

/* Some of the ids in any order; returns how many. few: how many different weights there are at most. */
static int32_t draw_ids(int32_t *ids, uint32_t few) {
    int32_t n = 0;
    for (int32_t id = 0; id < VOCAB; id++) {
        const uint32_t steep = below(8);
        weights[id] = (float)(1 + below(few)) / (float)(1u << (steep > 4 ? steep : 0)) / 1024;
        if (below(3) > 0) {
            const int32_t at = (int32_t)below((uint32_t)n + 1);
            ids[n++] = ids[at];
            ids[at] = id;
        }
    }
    if (n == 0) {
        ids[n++] = 0;
    }
    return n;
}

static const float *sorted_by;

static int best_first(const void *a, const void *b) {
    const int32_t x = *(const int32_t *)a;
    const int32_t y = *(const int32_t *)b;
    return sorted_by[x] != sorted_by[y] ? (sorted_by[x] < sorted_by[y] ? 1 : -1) : (x > y) - (x < y);
}

static void sort(const float *by, int32_t *ids, int32_t n) {
    sorted_by = by;
    qsort(ids, (size_t)n, sizeof *ids, best_first);
}

static double total_of(const int32_t *ids, int32_t n) {
    double total = 0;
    for (int32_t i = 0; i < n; i++) {
        total += (double)weights[ids[i]];
    }
    return total;
}

/* The kept ones, in any order, are the expected ones; and nothing was lost of all. */
static void check_kept(const char *what, const int32_t *ids, int32_t kept, const int32_t *expected, int32_t n_expected) {
    int32_t found[VOCAB];
    int32_t wanted[VOCAB];
    CHECK(kept == n_expected && kept > 0, "%s: %d were kept, expected %d", what, (int)kept, (int)n_expected);
    memcpy(found, ids, (size_t)kept * sizeof *ids);
    memcpy(wanted, expected, (size_t)kept * sizeof *ids);
    sort(weights, found, kept);
    sort(weights, wanted, kept);
    CHECK(memcmp(found, wanted, (size_t)kept * sizeof *ids) == 0, "%s kept others", what);
}

/* ---- the filters ------------------------------------------------------------------ */

static void test_best(int32_t *ids, int32_t n, int32_t *sorted) {
    const int32_t k = 1 + (int32_t)below((uint32_t)n + 5);
    sort(weights, sorted, n);
    check_kept("the best", ids, ln_keep_best(weights, ids, n, k), sorted, k < n ? k : n);
}

static void test_nucleus(int32_t *ids, int32_t n, int32_t *sorted) {
    static const float shares[] = {0, 0.25f, 0.5f, 0.875f, 0.9375f, 1};
    const float top_p = shares[below(6)];
    const float min_p = shares[below(3)] / 4;
    sort(weights, sorted, n);
    const double enough = (double)top_p * total_of(sorted, n);
    int32_t expected = 0;
    double sum = 0;
    while (expected < n && (expected == 0 || top_p == 1 || sum < enough) &&
           weights[sorted[expected]] >= min_p * weights[sorted[0]]) {
        sum += (double)weights[sorted[expected++]];
    }
    const int32_t kept = ln_keep_nucleus(weights, ids, n, top_p, min_p);
    check_kept("the nucleus", ids, kept, sorted, expected);
    CHECK(ids[0] == sorted[expected - 1], "the worst is not the first");
}

static void test_choices(int32_t *ids, int32_t n, int32_t *sorted) {
    const float threshold = (float)(1 + below(16)) / 128;
    sort(weights, sorted, n);
    const double least = (double)threshold * total_of(sorted, n);
    int32_t choices = 0;
    while (choices < n && (double)weights[sorted[choices]] >= least) {
        choices++;
    }
    const int32_t first = choices > 1 ? choices - 1 : 0; /* of the choices only the worst stays */
    const int32_t kept = ln_drop_choices(weights, ids, n, threshold);
    check_kept("XTC", ids, kept, sorted + first, n - first);
}

static void test_unsurprising(int32_t *ids, int32_t n, int32_t *sorted) {
    const double mu = (double)below(12);
    sort(weights, sorted, n);
    const double least = total_of(sorted, n) / (double)(1 << (int)mu);
    int32_t expected = 0;
    while (expected < n && (double)weights[sorted[expected]] >= least) {
        expected++;
    }
    check_kept("mirostat", ids, ln_keep_unsurprising(weights, ids, n, mu), sorted, expected > 0 ? expected : 1);
}

static void test_typical(int32_t *ids, int32_t n, int32_t *sorted) {
    static float nearness[VOCAB];
    const float p = (float)(1 + below(8)) / 8;
    const double total = total_of(ids, n);
    double entropy = 0;
    for (int32_t i = 0; i < n; i++) {
        const double share = (double)weights[ids[i]] / total;
        entropy -= share * log(share);
    }
    for (int32_t i = 0; i < n; i++) {
        nearness[ids[i]] = -fabsf((float)-log((double)weights[ids[i]] / total) - (float)entropy);
    }
    sort(nearness, sorted, n);
    int32_t expected = 0;
    double sum = 0;
    while (expected < n && (expected == 0 || sum < (double)p * total)) {
        sum += (double)weights[sorted[expected++]];
    }
    check_kept("typical", ids, ln_keep_typical(weights, keys, ids, n, p), sorted, expected);
}

static void test_filter(void (*test)(int32_t *ids, int32_t n, int32_t *sorted)) {
    for (int round = 0; round < ROUNDS; round++) {
        int32_t ids[VOCAB] = {0};
        int32_t sorted[VOCAB];
        const int32_t n = round == 0 ? 1 : draw_ids(ids, round % 3 == 0 ? 2 : 900);
        weights[ids[0]] = round == 0 ? 1 : weights[ids[0]];
        memcpy(sorted, ids, sizeof ids);
        CHECK(ln_sum_weights(weights, ids, n) == total_of(ids, n), "sum");
        test(ids, n, sorted);
    }
}

int main(void) {
    test_filter(test_best);
    test_filter(test_nucleus);
    test_filter(test_choices);
    test_filter(test_unsurprising);
    test_filter(test_typical);
    return 0;
}
