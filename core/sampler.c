/* sampler.c - draws a token from logits.
 *
 * Order: repetition penalty, temperature, top-k, top-p, min-p, as linnet.h says. Tokens are compared by
 * logit, the lower id first on a tie, so a draw is a function of the options, the logits and the
 * number of draws before it. Only as many tokens are put in order as the filters keep: the rest stays
 * in a heap, or is never touched.
 */
#include "core.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_WINDOW (1 << 24)

struct ln_sampler {
    ln_sampler_options options;
    int32_t vocab_size;
    uint64_t random[4];  /* state of xoshiro256** */
    int32_t *window;     /* [repetition_window], the last accepted ids, a ring */
    int32_t n_window;    /* ids in the ring */
    int32_t at;          /* where the next goes */
    int32_t *in_window;  /* [vocab_size], how often an id is in the ring */
    float *scores;       /* [vocab_size]: penalised logits, later weights relative to the best token */
    int32_t *candidates; /* [vocab_size]: ids, a heap whose popped part is in order at the end */
};

/* ---- random numbers ------------------------------------------------------------- */

/* splitmix64 (Steele, Lea, Flood 2014): turns any seed, 0 too, into a good state. */
static uint64_t splitmix64(uint64_t *state) {
    uint64_t z = *state += 0x9E3779B97F4A7C15u;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return z ^ (z >> 31);
}

static uint64_t rotate_left(uint64_t x, int n) {
    return x << n | x >> (64 - n);
}

/* xoshiro256** 1.0 (Blackman, Vigna 2018), the top 53 bits as a number in [0, 1). */
static double next_uniform(uint64_t s[4]) {
    uint64_t result = rotate_left(s[1] * 5, 7) * 9;
    uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate_left(s[3], 45);
    return (double)(result >> 11) * 0x1p-53;
}

/* ---- opening ---------------------------------------------------------------------- */

static ln_status check_options(const ln_sampler_options *o, int32_t vocab_size, ln_error *err) {
    if (vocab_size < 1) {
        return ln_fail(err, LN_BAD_ARGUMENT, "vocab_size is %d, it must be 1 or more", (int)vocab_size);
    }
    if (!(o->temperature >= 0) || isinf(o->temperature)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "temperature is %g; give 0 (greedy) or more", (double)o->temperature);
    }
    if (o->top_k < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "top_k is %d; give 1 or more, or 0 for off", (int)o->top_k);
    }
    if (!(o->top_p >= 0 && o->top_p <= 1)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "top_p is %g; give 0 to 1, 1 is off", (double)o->top_p);
    }
    if (!(o->min_p >= 0 && o->min_p <= 1)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "min_p is %g; give 0 to 1, 0 is off", (double)o->min_p);
    }
    if (!(o->repetition_penalty > 0) || isinf(o->repetition_penalty)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "repetition_penalty is %g; give a number above 0, 1 is off",
                       (double)o->repetition_penalty);
    }
    if (o->repetition_window < 0 || o->repetition_window > MAX_WINDOW) {
        return ln_fail(err, LN_BAD_ARGUMENT, "repetition_window is %d; give 0 to %d", (int)o->repetition_window,
                       MAX_WINDOW);
    }
    return LN_OK;
}

int32_t ln_sampler_open(const ln_sampler_options *options, int32_t vocab_size, ln_sampler **out, ln_error *err) {
    if (options == NULL || out == NULL) {
        return ln_fail(err, LN_BAD_ARGUMENT, "options and out must not be NULL");
    }
    *out = NULL;
    ln_status status = check_options(options, vocab_size, err);
    if (status != LN_OK) {
        return status;
    }
    ln_sampler *s = ln_alloc(1, sizeof *s, "a sampler", err);
    if (s == NULL) {
        return LN_NO_MEMORY;
    }
    s->options = *options;
    s->vocab_size = vocab_size;
    uint64_t seed = options->seed;
    for (int i = 0; i < 4; i++) {
        s->random[i] = splitmix64(&seed);
    }
    s->window = ln_alloc((size_t)options->repetition_window, sizeof *s->window, "a sampler", err);
    s->in_window = ln_alloc((size_t)vocab_size, sizeof *s->in_window, "a sampler", err);
    s->scores = ln_alloc((size_t)vocab_size, sizeof *s->scores, "a sampler", err);
    s->candidates = ln_alloc((size_t)vocab_size, sizeof *s->candidates, "a sampler", err);
    if (s->window == NULL || s->in_window == NULL || s->scores == NULL || s->candidates == NULL) {
        ln_sampler_close(s);
        return LN_NO_MEMORY;
    }
    *out = s;
    return LN_OK;
}

void ln_sampler_close(ln_sampler *sampler) {
    if (sampler == NULL) {
        return;
    }
    free(sampler->window);
    free(sampler->in_window);
    free(sampler->scores);
    free(sampler->candidates);
    free(sampler);
}

void ln_sampler_accept(ln_sampler *sampler, int32_t id) {
    ln_sampler *s = sampler;
    const int32_t size = s->options.repetition_window;
    if (id < 0 || id >= s->vocab_size || size == 0) {
        return;
    }
    if (s->n_window == size) {
        s->in_window[s->window[s->at]]--;
    } else {
        s->n_window++;
    }
    s->window[s->at] = id;
    s->in_window[id]++;
    s->at = (s->at + 1) % size;
}

/* ---- the heap of candidates ---------------------------------------------------------- */

static int comes_first(const float *scores, int32_t a, int32_t b) {
    return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
}

static void sift_down(const float *scores, int32_t *heap, int32_t n, int32_t at) {
    int32_t id = heap[at];
    while (at < n / 2) { /* at has a child */
        int32_t child = 2 * at + 1;
        if (child + 1 < n && comes_first(scores, heap[child + 1], heap[child])) {
            child++;
        }
        if (!comes_first(scores, heap[child], id)) {
            break;
        }
        heap[at] = heap[child];
        at = child;
    }
    heap[at] = id;
}

static void make_heap(const float *scores, int32_t *heap, int32_t n) {
    for (int32_t i = n / 2 - 1; i >= 0; i--) {
        sift_down(scores, heap, n, i);
    }
}

/* Moves the best of heap[0..n) to heap[n - 1]; the heap is then heap[0..n - 1). */
static int32_t pop(const float *scores, int32_t *heap, int32_t n) {
    int32_t best = heap[0];
    heap[0] = heap[n - 1];
    heap[n - 1] = best;
    sift_down(scores, heap, n - 1, 0);
    return best;
}

/* ---- drawing -------------------------------------------------------------------------- */

/* scores = penalised logits, -infinity where the logit is not finite. Returns the best id, -1 when no
 * logit is finite. */
static int32_t penalise(ln_sampler *s, const float *logits) {
    const float penalty = s->options.repetition_penalty;
    int32_t best = -1;
    for (int32_t id = 0; id < s->vocab_size; id++) {
        float score = logits[id];
        if (!isfinite(score)) {
            s->scores[id] = -INFINITY;
            continue;
        }
        if (penalty != 1.0f && s->in_window[id] > 0) {
            score = score > 0 ? score / penalty : score * penalty;
        }
        s->scores[id] = score;
        if (best < 0 || score > s->scores[best]) {
            best = id;
        }
    }
    return best;
}

static double sum_weights(const float *weights, const int32_t *ids, int32_t n) {
    double sum = 0;
    for (int32_t i = 0; i < n; i++) {
        sum += (double)weights[ids[i]];
    }
    return sum;
}

/* scores = probability relative to the best token, exp((score - best) / temperature). Returns how many
 * tokens come into question, their ids in candidates. */
static int32_t weigh(ln_sampler *s, int32_t best) {
    const float top = s->scores[best];
    const float temperature = s->options.temperature;
    /* What min-p drops it can drop here already, unless top-p has to count it first. */
    const float least = s->options.top_p < 1.0f ? 0.0f : s->options.min_p;
    int32_t n = 0;
    for (int32_t id = 0; id < s->vocab_size; id++) {
        float weight = id == best ? 1.0f : expf((s->scores[id] - top) / temperature);
        s->scores[id] = weight;
        if (weight > 0 && weight >= least) {
            s->candidates[n++] = id;
        }
    }
    return n;
}

/* Keeps of the n candidates what top-k, top-p and min-p leave; returns how many. They are then
 * candidates[n - kept .. n), the best one last. */
static int32_t filter(ln_sampler *s, int32_t n) {
    const ln_sampler_options *o = &s->options;
    int32_t *heap = s->candidates;
    int32_t limit = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    int32_t popped = 0;
    make_heap(s->scores, heap, n);
    if (limit < n) { /* top-p is a share of what top-k left, so that has to be known first */
        for (; popped < limit; popped++) {
            pop(s->scores, heap, n - popped);
        }
    }
    double total = limit < n ? sum_weights(s->scores, heap + n - limit, limit) : sum_weights(s->scores, heap, n);
    double enough = (double)o->top_p * total;
    double sum = 0;
    int32_t kept = 0;
    while (kept < limit) {
        int32_t id = kept < popped ? heap[n - 1 - kept] : pop(s->scores, heap, n - kept);
        if (kept > 0 && s->scores[id] < o->min_p) { /* the best token has weight 1 */
            break;
        }
        kept++;
        sum += (double)s->scores[id];
        if (o->top_p < 1.0f && sum >= enough) {
            break;
        }
    }
    return kept;
}

/* One of n ids, each as probable as its share of the weights. */
static int32_t pick(ln_sampler *s, const int32_t *ids, int32_t n) {
    double left = next_uniform(s->random) * sum_weights(s->scores, ids, n);
    for (int32_t i = 0; i < n; i++) {
        left -= (double)s->scores[ids[i]];
        if (left < 0) {
            return ids[i];
        }
    }
    return ids[n - 1]; /* rounding left a crumb */
}

int32_t ln_sampler_draw(ln_sampler *sampler, const float *logits) {
    ln_sampler *s = sampler;
    const ln_sampler_options *o = &s->options;
    int32_t best = penalise(s, logits);
    if (best < 0 || o->temperature == 0) {
        return best;
    }
    int32_t n = weigh(s, best);
    int ordered = (o->top_k > 0 && o->top_k < n) || o->top_p < 1.0f;
    int32_t kept = ordered ? filter(s, n) : n;
    return pick(s, s->candidates + n - kept, kept);
}
