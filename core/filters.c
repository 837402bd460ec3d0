/* filters.c - which tokens come into question.
 *
 * Nothing is sorted as a whole. The k best are found with a heap of k, the nucleus with a heap of the
 * tokens above a weight that is lowered until they are enough, the rest by looking once at each token.
 */
#include "filters.h"

#include <math.h>
#include <string.h>

double ln_sum_weights(const float *weights, const int32_t *ids, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)weights[ids[i]];
    }
    return sum;
}

/* ---- heaps ------------------------------------------------------------------------ */

static int comes_first(const float *weights, int32_t a, int32_t b) {
    return weights[a] > weights[b] || (weights[a] == weights[b] && a < b);
}

/* Restores the heap whose top is the best or, with worst_first, the worst. */
static void sift_down(const float *weights, int32_t *heap, int32_t n, int32_t at, int worst_first) {
    int32_t id = heap[at];
    while (at < n / 2) { /* at has a child */
        int32_t child = 2 * at + 1;
        if (child + 1 < n && comes_first(weights, heap[child + 1], heap[child]) != worst_first) {
            child++;
        }
        if (comes_first(weights, heap[child], id) == worst_first) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
}

static void make_heap(const float *weights, int32_t *heap, int32_t n, int worst_first) {
    for (int32_t i = n / 2 - 1; i >= 0; i--) {
        sift_down(weights, heap, n, i, worst_first);
    }
}

/* Moves the best of heap[0..n) to heap[n - 1]; the heap is then heap[0..n - 1). */
static int32_t pop(const float *weights, int32_t *heap, int32_t n) {
    int32_t best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(weights, heap, n - 1, 0, 0);
    return best;
}

/* ---- filters ------------------------------------------------------------------------ */

int32_t ln_keep_best(const float *weights, int32_t *ids, int32_t n, int32_t k) {
    if (k >= n) {
        return n;
    }
    make_heap(weights, ids, k, 1);
    for (int32_t i = k; i < n; i++) {
        if (comes_first(weights, ids[i], ids[0])) {
            ids[0] = ids[i];
            sift_down(weights, ids, k, 0, 1);
        }
    }
    return k;
}

int32_t ln_keep_typical(const float *weights, float *keys, int32_t *ids, int32_t n, float p) {
    const double total = ln_sum_weights(weights, ids, n);
    double entropy = 0;
    for (int32_t i = 0; i < n; i++) {
        double share = (double)weights[ids[i]] / total;
        double surprise = -log(share);
        keys[ids[i]] = (float)surprise;
        entropy += share * surprise;
    }
    for (int32_t i = 0; i < n; i++) {
        keys[ids[i]] = -fabsf(keys[ids[i]] - (float)entropy);
    }
    make_heap(keys, ids, n, 0);
    const double enough = (double)p * total;
    double sum = 0;
    int32_t kept = 0;
    do {
        sum += (double)weights[pop(keys, ids, n - kept)];
        kept++;
    } while (kept < n && sum < enough);
    memmove(ids, ids + n - kept, (size_t)kept * sizeof *ids);
    return kept;
}

/* Moves those of ids[first..n) with at least this weight to ids[first..]; returns where they end. */
static int32_t gather(const float *weights, int32_t *ids, int32_t first, int32_t n, float least) {
    for (int32_t i = first; i < n; i++) {
        if (weights[ids[i]] >= least) {
            int32_t id = ids[i];
            ids[i] = ids[first];
            ids[first++] = id;
        }
    }
    return first;
}

int32_t ln_keep_above(const float *weights, int32_t *ids, int32_t n, float least) {
    return gather(weights, ids, 0, n, least);
}

int32_t ln_keep_nucleus(const float *weights, int32_t *ids, int32_t n, float top_p, float min_p) {
    const double enough = (double)top_p * ln_sum_weights(weights, ids, n);
    float best = 0;
    for (int32_t i = 0; i < n; i++) {
        best = fmaxf(best, weights[ids[i]]);
    }
    /* Below the weight that min-p asks for nothing is kept, and above it often less than all. */
    const float least = min_p * best;
    int32_t m = 0;
    double sum = 0;
    for (float above = 0.02f * best; m < n; above *= 0.02f) {
        above = above > least ? above : least;
        int32_t end = gather(weights, ids, m, n, above);
        sum += ln_sum_weights(weights, ids + m, end - m);
        m = end;
        if (above <= least || (top_p < 1.0f && sum > enough)) {
            break;
        }
    }
    const double wanted = top_p < 1.0f ? enough : INFINITY;
    const int32_t kept = ln_keep_enough(weights, ids, m, wanted, wanted);
    return kept > 0 ? kept : m;
}

int32_t ln_keep_enough(const float *weights, int32_t *ids, int32_t n, double least, double most) {
    make_heap(weights, ids, n, 0);
    double sum = 0;
    for (int32_t kept = 1; kept <= n; kept++) {
        sum += (double)weights[pop(weights, ids, n - kept + 1)];
        if (sum >= most) {
            memmove(ids, ids + n - kept, (size_t)kept * sizeof *ids);
            return kept;
        }
        if (sum >= least) {
            return -1;
        }
    }
    return 0;
}

int32_t ln_drop_choices(const float *weights, int32_t *ids, int32_t n, float threshold) {
    const double least = (double)threshold * ln_sum_weights(weights, ids, n);
    int32_t n_choices = 0;
    int32_t worst = -1;
    for (int32_t i = 0; i < n; i++) {
        if ((double)weights[ids[i]] >= least) {
            n_choices++;
            worst = worst < 0 || comes_first(weights, worst, ids[i]) ? ids[i] : worst;
        }
    }
    if (n_choices < 2) {
        return n;
    }
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        if ((double)weights[ids[i]] < least || ids[i] == worst) {
            ids[kept++] = ids[i];
        }
    }
    return kept;
}

int32_t ln_keep_unsurprising(const float *weights, int32_t *ids, int32_t n, double mu) {
    const double least = ln_sum_weights(weights, ids, n) * exp2(-mu);
    int32_t best = ids[0];
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        int32_t id = ids[i];
        best = comes_first(weights, id, best) ? id : best;
        if ((double)weights[id] >= least) {
            ids[kept++] = id;
        }
    }
    if (kept == 0) {
        ids[kept++] = best;
    }
    return kept;
}
