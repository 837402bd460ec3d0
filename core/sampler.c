/* sampler.c - draws a token from logits.
 *
 * The order is the one linnet.h states. Tokens are compared by logit, the lower id first on a tie, so a draw
 * is a function of the options, the logits, the mask, the accepted tokens and the draws before it.
 */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "filters.h"
#include "phrases.h"
#include "scores.h"

#define MAX_WINDOW (1 << 24)
#define LONGEST_REPEAT 64 /* DRY counts longer ones as this long: its penalty is far beyond any logit by then */

struct ln_sampler {
    ln_sampler_options options;
    int32_t vocab_size;
    uint64_t random[4];   /* state of xoshiro256** */
    int adjusts;          /* whether logits are looked at, or changed, before they are weighed */
    int32_t *window;      /* [repeat_last_n], the last accepted ids, a ring */
    int32_t n_window;     /* ids in the ring */
    int32_t at;           /* where the next goes */
    int32_t *in_window;   /* [vocab_size], how often an id is in the ring */
    int32_t *history;     /* [2 * dry_penalty_last_n], accepted ids, ~id where a repetition breaks; moved when full */
    int32_t n_history;
    int32_t *repeats;     /* [vocab_size], tokens a token would repeat; 0 between draws */
    ln_phrases *breakers; /* NULL = none */
    ln_phrases *banned;   /* NULL = none */
    int32_t *bias_ids;
    float *biases;
    double mu;            /* of mirostat, bits */
    float *scores;        /* [vocab_size]: adjusted logits */
    float *weights;       /* [vocab_size]: of candidates, relative to the best token */
    float *keys;          /* [vocab_size], of typical sampling */
    int32_t *candidates;  /* [vocab_size]: ids */
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

typedef struct range {
    const char *name;
    float value;
    float least;
    float most;
    const char *advice;
} range;

static ln_status check_numbers(const ln_sampler_options *o, ln_error *err) {
    const range ranges[] = {
        {"temperature", o->temperature, 0, 1e30f, "0 (greedy) or more"},
        {"dynatemp_range", o->dynatemp_range, 0, 1e30f, "0 (off) or more"},
        {"dynatemp_exponent", o->dynatemp_exponent, 0, 1e30f, "0 or more"},
        {"top_n_sigma", o->top_n_sigma, 0, 1e30f, "0 (off) or more"},
        {"typical_p", o->typical_p, 0, 1, "0 to 1, 1 is off"},
        {"top_p", o->top_p, 0, 1, "0 to 1, 1 is off"},
        {"min_p", o->min_p, 0, 1, "0 to 1, 0 is off"},
        {"xtc_probability", o->xtc_probability, 0, 1, "0 to 1, 0 is off"},
        {"xtc_threshold", o->xtc_threshold, 0, 1, "0 to 1, above 0.5 is off"},
        {"repetition_penalty", o->repetition_penalty, 1e-30f, 1e30f, "a number above 0, 1 is off"},
        {"frequency_penalty", o->frequency_penalty, -1e30f, 1e30f, "a finite number, 0 is off"},
        {"presence_penalty", o->presence_penalty, -1e30f, 1e30f, "a finite number, 0 is off"},
        {"dry_multiplier", o->dry_multiplier, 0, 1e30f, "0 (off) or more"},
        {"dry_base", o->dry_base, o->dry_multiplier > 0 ? 1 : -1e30f, 1e30f, "1 or more"},
        {"mirostat_tau", o->mirostat_tau, 0, 1e30f, "0 or more"},
        {"mirostat_eta", o->mirostat_eta, 0, 1e30f, "0 or more"},
    };
    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        if (!(ranges[i].value >= ranges[i].least && ranges[i].value <= ranges[i].most)) {
            return ln_fail(err, LN_BAD_ARGUMENT, "%s is %g; give %s", ranges[i].name, (double)ranges[i].value,
                           ranges[i].advice);
        }
    }
    return LN_OK;
}

static ln_status check_options(const ln_sampler_options *o, int32_t vocab_size, ln_error *err) {
    if (vocab_size < 1) {
        return ln_fail(err, LN_BAD_ARGUMENT, "vocab_size is %d, it must be 1 or more", (int)vocab_size);
    }
    if (o->top_k < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "top_k is %d; give 1 or more, or 0 for off", (int)o->top_k);
    }
    if (o->repeat_last_n < 0 || o->repeat_last_n > MAX_WINDOW) {
        return ln_fail(err, LN_BAD_ARGUMENT, "repeat_last_n is %d; give 0 to %d", (int)o->repeat_last_n, MAX_WINDOW);
    }
    if (o->dry_penalty_last_n < 0 || o->dry_penalty_last_n > MAX_WINDOW) {
        return ln_fail(err, LN_BAD_ARGUMENT, "dry_penalty_last_n is %d; give 0 to %d", (int)o->dry_penalty_last_n,
                       MAX_WINDOW);
    }
    if (o->dry_multiplier > 0 && (o->dry_allowed_length < 1 || o->dry_allowed_length > LONGEST_REPEAT)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "dry_allowed_length is %d; give 1 to %d", (int)o->dry_allowed_length,
                       LONGEST_REPEAT);
    }
    if (o->mirostat != 0 && o->mirostat != 2) {
        return ln_fail(err, LN_BAD_ARGUMENT, "mirostat is %d; give 0 (off) or 2", (int)o->mirostat);
    }
    if (o->n_biases < 0 || (o->n_biases > 0 && (o->bias_ids == NULL || o->biases == NULL))) {
        return ln_fail(err, LN_BAD_ARGUMENT, "logit_bias needs ids and numbers");
    }
    for (int32_t i = 0; i < o->n_biases; i++) {
        if (o->bias_ids[i] < 0 || o->bias_ids[i] >= vocab_size) {
            return ln_fail(err, LN_BAD_ARGUMENT, "logit_bias names token %d, which is outside the vocabulary of %d",
                           (int)o->bias_ids[i], (int)vocab_size);
        }
        if (!(o->biases[i] <= 1e30f)) {
            return ln_fail(err, LN_BAD_ARGUMENT, "the logit_bias of token %d is %g; give a finite number or -infinity",
                           (int)o->bias_ids[i], (double)o->biases[i]);
        }
    }
    return check_numbers(o, err);
}

/* What every sampler needs, and what its options ask for. */
static ln_status allocate(ln_sampler *s, ln_error *err) {
    const ln_sampler_options *o = &s->options;
    const size_t n = (size_t)s->vocab_size;
    const int penalises = o->repetition_penalty != 1.0f || o->frequency_penalty != 0 || o->presence_penalty != 0;
    s->options.repeat_last_n = penalises ? o->repeat_last_n : 0;
    s->options.dry_penalty_last_n = o->dry_multiplier > 0 ? o->dry_penalty_last_n : 0;
    s->scores = ln_alloc(n, sizeof *s->scores, "a sampler", err);
    s->weights = ln_alloc(n, sizeof *s->weights, "a sampler", err);
    s->candidates = ln_alloc(n, sizeof *s->candidates, "a sampler", err);
    s->keys = ln_alloc(o->typical_p < 1.0f ? n : 0, sizeof *s->keys, "a sampler", err);
    s->window = ln_alloc((size_t)o->repeat_last_n, sizeof *s->window, "a sampler", err);
    s->in_window = ln_alloc(o->repeat_last_n > 0 ? n : 0, sizeof *s->in_window, "a sampler", err);
    s->history = ln_alloc(2 * (size_t)o->dry_penalty_last_n, sizeof *s->history, "a sampler", err);
    s->repeats = ln_alloc(o->dry_penalty_last_n > 0 ? n : 0, sizeof *s->repeats, "a sampler", err);
    s->bias_ids = ln_alloc((size_t)o->n_biases, sizeof *s->bias_ids, "a sampler", err);
    s->biases = ln_alloc((size_t)o->n_biases, sizeof *s->biases, "a sampler", err);
    if (s->scores == NULL || s->weights == NULL || s->candidates == NULL || s->keys == NULL || s->window == NULL ||
        s->in_window == NULL || s->history == NULL || s->repeats == NULL || s->bias_ids == NULL || s->biases == NULL) {
        return LN_NO_MEMORY;
    }
    if (o->n_biases > 0) {
        memcpy(s->bias_ids, o->bias_ids, (size_t)o->n_biases * sizeof *s->bias_ids);
        memcpy(s->biases, o->biases, (size_t)o->n_biases * sizeof *s->biases);
    }
    int32_t status = LN_OK;
    if (o->n_dry_breakers > 0 && o->dry_penalty_last_n > 0) {
        status = ln_phrases_open(o->dry_breakers, o->n_dry_breakers, o->tokenizer, s->vocab_size, &s->breakers, err);
    }
    if (status == LN_OK && o->n_banned > 0) {
        status = ln_phrases_open(o->banned, o->n_banned, o->tokenizer, s->vocab_size, &s->banned, err);
    }
    s->adjusts = o->repeat_last_n > 0 || o->dry_penalty_last_n > 0 || o->n_biases > 0 || s->banned != NULL ||
                 o->top_n_sigma > 0 || o->dynatemp_range > 0;
    return (ln_status)status;
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
    s->mu = 2 * (double)options->mirostat_tau;
    uint64_t seed = options->seed;
    for (int i = 0; i < 4; i++) {
        s->random[i] = splitmix64(&seed);
    }
    status = allocate(s, err);
    if (status != LN_OK) {
        ln_sampler_close(s);
        return status;
    }
    *out = s;
    return LN_OK;
}

void ln_sampler_close(ln_sampler *sampler) {
    if (sampler == NULL) {
        return;
    }
    ln_phrases_close(sampler->breakers);
    ln_phrases_close(sampler->banned);
    free(sampler->window);
    free(sampler->in_window);
    free(sampler->history);
    free(sampler->repeats);
    free(sampler->bias_ids);
    free(sampler->biases);
    free(sampler->scores);
    free(sampler->weights);
    free(sampler->keys);
    free(sampler->candidates);
    free(sampler);
}

/* ---- the text so far ------------------------------------------------------------------ */

static void accept_window(ln_sampler *s, int32_t id) {
    const int32_t size = s->options.repeat_last_n;
    if (s->n_window == size) {
        s->in_window[s->window[s->at]]--;
    } else {
        s->n_window++;
    }
    s->window[s->at] = id;
    s->in_window[id]++;
    s->at = (s->at + 1) % size;
}

static void accept_history(ln_sampler *s, int32_t id) {
    const int32_t size = s->options.dry_penalty_last_n;
    int breaks = s->breakers != NULL && ln_phrases_accept(s->breakers, id);
    if (s->n_history == 2 * size) {
        memmove(s->history, s->history + size, (size_t)size * sizeof *s->history);
        s->n_history = size;
    }
    s->history[s->n_history++] = breaks ? ~id : id;
}

void ln_sampler_accept(ln_sampler *sampler, int32_t id) {
    ln_sampler *s = sampler;
    if (id < 0 || id >= s->vocab_size) {
        return;
    }
    if (s->options.repeat_last_n > 0) {
        accept_window(s, id);
    }
    if (s->options.dry_penalty_last_n > 0) {
        accept_history(s, id);
    }
    if (s->banned != NULL) {
        ln_phrases_accept(s->banned, id);
    }
}

/* ---- adjusting logits -------------------------------------------------------------------- */

static void penalise(ln_sampler *s) {
    const ln_sampler_options *o = &s->options;
    for (int32_t i = 0; i < s->n_window; i++) {
        const int32_t id = s->window[i];
        const int32_t count = s->in_window[id];
        if (count > 0) {
            float score = s->scores[id];
            if (o->repetition_penalty != 1.0f) {
                score = score > 0 ? score / o->repetition_penalty : score * o->repetition_penalty;
            }
            s->scores[id] = score - ((float)count * o->frequency_penalty + o->presence_penalty);
            s->in_window[id] = -count; /* done */
        }
    }
    for (int32_t i = 0; i < s->n_window; i++) {
        s->in_window[s->window[i]] = abs(s->in_window[s->window[i]]);
    }
}

/* Tokens of which the text up to end, and the whole text, end alike; LONGEST_REPEAT at most. */
static int32_t common_end(const int32_t *text, int32_t n, int32_t end) {
    int32_t length = 0;
    while (length < end && length < LONGEST_REPEAT && text[end - 1 - length] >= 0 &&
           text[end - 1 - length] == text[n - 1 - length]) {
        length++;
    }
    return length;
}

/* The text is looked through for earlier places that read like its end; what followed there would repeat. */
static void penalise_repeats(ln_sampler *s) {
    const ln_sampler_options *o = &s->options;
    const int32_t n = s->n_history < o->dry_penalty_last_n ? s->n_history : o->dry_penalty_last_n;
    const int32_t *text = s->history + s->n_history - n;
    for (int32_t next = 1; next < n; next++) { /* text[next] followed text[0..next) */
        if (text[next - 1] == text[n - 1] && text[next] >= 0) {
            const int32_t length = common_end(text, n, next);
            s->repeats[text[next]] = length > s->repeats[text[next]] ? length : s->repeats[text[next]];
        }
    }
    for (int32_t next = 1; next < n; next++) {
        const int32_t length = text[next] >= 0 ? s->repeats[text[next]] : 0;
        if (length >= o->dry_allowed_length) {
            float penalty = o->dry_multiplier * powf(o->dry_base, (float)(length - o->dry_allowed_length));
            s->scores[text[next]] -= penalty < 1e30f ? penalty : 1e30f;
        }
        if (text[next] >= 0) {
            s->repeats[text[next]] = 0;
        }
    }
}

/* scores = adjusted logits, -infinity where the logit is not finite or the token must not come. */
static void adjust(ln_sampler *s, const float *logits, const uint32_t *mask) {
    for (int32_t id = 0; id < s->vocab_size; id++) {
        s->scores[id] = isfinite(logits[id]) ? logits[id] : -INFINITY;
    }
    if (mask != NULL) {
        for (int32_t start = 0; start < s->vocab_size; start += 32) {
            const int32_t end = s->vocab_size - start < 32 ? s->vocab_size : start + 32;
            const uint32_t word = mask[start / 32];
            for (int32_t id = start; id < end && word != UINT32_MAX; id++) {
                s->scores[id] = word >> (id - start) & 1 ? s->scores[id] : -INFINITY;
            }
        }
    }
    for (int32_t i = 0; i < s->options.n_biases; i++) {
        s->scores[s->bias_ids[i]] += s->biases[i];
    }
    if (s->banned != NULL) {
        ln_phrases_forbid(s->banned, s->scores);
    }
    if (s->options.repeat_last_n > 0) {
        penalise(s);
    }
    if (s->options.dry_penalty_last_n > 0) {
        penalise_repeats(s);
    }
}

/* Top-n-sigma (Tang et al. 2024, arXiv:2411.07641): nothing more than n standard deviations below the best. */
static void cut_sigma(ln_sampler *s, float top) {
    double sum = 0;
    double squares = 0;
    int32_t n = 0;
    for (int32_t id = 0; id < s->vocab_size; id++) {
        if (isfinite(s->scores[id])) {
            double below = (double)s->scores[id] - (double)top;
            sum += below;
            squares += below * below;
            n++;
        }
    }
    double variance = squares / n - (sum / n) * (sum / n);
    double least = (double)top - (double)s->options.top_n_sigma * sqrt(variance > 0 ? variance : 0);
    for (int32_t id = 0; id < s->vocab_size; id++) {
        if ((double)s->scores[id] < least) {
            s->scores[id] = -INFINITY;
        }
    }
}

/* ---- drawing ------------------------------------------------------------------------------ */

/* The temperature for these scores: at its range's lower end when one token has all the probability, at its upper end
 * when all have the same. */
static float find_temperature(const ln_sampler *s, float top) {
    const ln_sampler_options *o = &s->options;
    if (o->dynatemp_range == 0) {
        return o->temperature;
    }
    double total = 0;
    double moment = 0; /* sum of weight * -log(weight) */
    int32_t n = 0;
    for (int32_t id = 0; id < s->vocab_size; id++) {
        if (isfinite(s->scores[id])) {
            double below = (double)top - (double)s->scores[id];
            double weight = exp(-below);
            total += weight;
            moment += weight > 0 ? weight * below : 0;
            n++;
        }
    }
    double entropy = log(total) + moment / total;
    double share = n > 1 ? fmin(fmax(entropy / log(n), 0), 1) : 0;
    double least = fmax((double)o->temperature - (double)o->dynatemp_range, 0);
    double most = (double)o->temperature + (double)o->dynatemp_range;
    return (float)(least + (most - least) * pow(share, (double)o->dynatemp_exponent));
}

/* (score - top) / temperature of a token whose weight is this, or a little less; of less than -104 the weight is 0. */
static float exponent_of(float weight) {
    return weight > 0 ? logf(weight) * 1.00001f - 1e-6f : -104.0f;
}

/* weights = probability relative to the best token, exp((score - top) / temperature), of n candidates. Keeps those
 * of at least this weight, above 0; returns how many. */
static int32_t weigh_candidates(ln_sampler *s, const float *scores, int32_t n, int32_t best, float temperature,
                                float least) {
    const float top = scores[best];
    int32_t *ids = s->candidates;
    int32_t kept = 0;
    for (int32_t i = 0; i < n; i++) {
        const int32_t id = ids[i];
        const float weight = id == best ? 1.0f : expf((scores[id] - top) / temperature);
        s->weights[id] = weight;
        if (weight > 0 && weight >= least) {
            ids[kept++] = id;
        }
    }
    return kept;
}

/* What top-p and min-p leave, where that is certain without the weights of all other tokens: bounds of their sum, at
 * first coarse ones, are bounds of the share that top-p asks for. Returns how many candidates are left, 0 where it is
 * not certain. */
static int32_t find_nucleus(ln_sampler *s, const float *scores, int32_t best, float temperature) {
    const ln_sampler_options *o = &s->options;
    const float top = scores[best];
    const float min_exponent = exponent_of(o->min_p);
    const float levels[] = {-18, -12, -6, min_exponent};
    const int32_t few = s->vocab_size / 32; /* of more, all are hardly more work */
    float exponent = 0;
    int32_t n = few + 1;
    for (int i = 0; i < 4 && n > few; i++) { /* as deep as they are few */
        exponent = levels[i];
        n = ln_scores_above(scores, s->vocab_size, top, temperature, exponent, s->candidates, few);
    }
    if (n > few) {
        return 0;
    }
    n = weigh_candidates(s, scores, n, best, temperature, 0);
    double total = ln_sum_weights(s->weights, s->candidates, n);
    double others = (double)(s->vocab_size - n) * exp((double)exponent); /* at most */
    n = ln_keep_above(s->weights, s->candidates, n, o->min_p);
    for (int rough = 0; rough < 2; rough++) {
        const double least = (double)o->top_p * total * (1 - LN_ROUGH);
        const double most = (double)o->top_p * (total + others) * (1 + LN_ROUGH);
        const int32_t kept = ln_keep_enough(s->weights, s->candidates, n, least, most);
        if (kept > 0 || (kept == 0 && min_exponent >= exponent)) {
            return kept > 0 ? kept : n;
        }
        total = ln_rough_sum(scores, s->vocab_size, top, temperature);
        others = 0;
    }
    return 0;
}

/* The weights of the tokens that come into question. Returns how many those are, their ids in candidates; cut tells
 * whether top-k left some out. */
static int32_t weigh(ln_sampler *s, const float *scores, int32_t best, float temperature, int *cut) {
    const ln_sampler_options *o = &s->options;
    const float top = scores[best];
    const int truncates = o->mirostat == 0;
    /* What min-p drops can be dropped here already, unless another filter has to count it first. */
    const int counts = !truncates || o->top_p < 1.0f || o->typical_p < 1.0f;
    const float least = counts ? 0.0f : o->min_p;
    const float lowest = exponent_of(least);
    const int cuts = truncates && o->top_k > 0;
    int32_t n = 0;
    /* The k best are among those above any level that more than k are above. (Typical sampling adds up in order.) */
    for (float level = -3; cuts && o->typical_p == 1.0f && n <= o->top_k && level > lowest; level *= 2) {
        n = ln_scores_above(scores, s->vocab_size, top, temperature, level, s->candidates, s->vocab_size);
    }
    if (!cuts || n <= o->top_k) {
        n = ln_scores_above(scores, s->vocab_size, top, temperature, lowest, s->candidates, s->vocab_size);
    }
    *cut = cuts && o->top_k < n;
    if (*cut) {
        n = ln_keep_best(scores, s->candidates, n, o->top_k);
    }
    return weigh_candidates(s, scores, n, best, temperature, least);
}

/* Keeps of the n candidates what typical, top-p and min-p leave; returns how many. cut: there were more. */
static int32_t filter(ln_sampler *s, int32_t n, int cut) {
    const ln_sampler_options *o = &s->options;
    int32_t *ids = s->candidates;
    if (o->typical_p < 1.0f) {
        n = ln_keep_typical(s->weights, s->keys, ids, n, o->typical_p);
    }
    if (o->top_p < 1.0f || o->typical_p < 1.0f || cut) {
        n = ln_keep_nucleus(s->weights, ids, n, o->top_p, o->min_p);
    }
    return n;
}

/* The tokens that may come, with their weights: returns how many candidates there are. */
static int32_t keep(ln_sampler *s, const float *scores, int32_t best, float temperature) {
    const ln_sampler_options *o = &s->options;
    const int only_nucleus = o->mirostat == 0 && o->top_k == 0 && o->typical_p == 1.0f && o->top_p < 1.0f &&
                             temperature > 1e-30f; /* one that can be divided by */
    int32_t n = only_nucleus ? find_nucleus(s, scores, best, temperature) : 0;
    if (n == 0) {
        int cut;
        n = weigh(s, scores, best, temperature, &cut);
        n = o->mirostat ? ln_keep_unsurprising(s->weights, s->candidates, n, s->mu) : filter(s, n, cut);
    }
    if (o->mirostat == 0 && o->xtc_probability > 0 && next_uniform(s->random) < (double)o->xtc_probability) {
        n = ln_drop_choices(s->weights, s->candidates, n, o->xtc_threshold);
    }
    return n;
}

/* One of n ids, each as probable as its share of the weights, whose sum is total. */
static int32_t pick(ln_sampler *s, const int32_t *ids, int32_t n, double total) {
    double left = next_uniform(s->random) * total;
    for (int32_t i = 0; i < n; i++) {
        left -= (double)s->weights[ids[i]];
        if (left < 0) {
            return ids[i];
        }
    }
    return ids[n - 1]; /* rounding left a crumb */
}

int32_t ln_sampler_draw(ln_sampler *sampler, const float *logits, const uint32_t *mask) {
    ln_sampler *s = sampler;
    const ln_sampler_options *o = &s->options;
    const float *scores = logits; /* as they are, where nothing changes them */
    if (s->adjusts || mask != NULL) {
        adjust(s, logits, mask);
        scores = s->scores;
    }
    const int32_t best = ln_best_score(scores, s->vocab_size);
    if (best < 0 || o->temperature == 0) {
        return best;
    }
    if (o->top_n_sigma > 0) {
        cut_sigma(s, scores[best]);
    }
    const float temperature = find_temperature(s, scores[best]);
    if (temperature == 0) {
        return best;
    }
    const int32_t n = keep(s, scores, best, temperature);
    const double total = ln_sum_weights(s->weights, s->candidates, n);
    const int32_t id = pick(s, s->candidates, n, total);
    if (o->mirostat) {
        const double surprise = -log2((double)s->weights[id] / total);
        s->mu -= (double)o->mirostat_eta * (surprise - (double)o->mirostat_tau);
    }
    return id;
}

/* ---- log-probabilities ----------------------------------------------------------------------- */

int32_t ln_log_probs(const float *logits, int32_t vocab_size, int32_t id, float *log_prob, int32_t n_top,
                     int32_t *top_ids, float *top_log_probs, ln_error *err) {
    if (logits == NULL || log_prob == NULL || id < 0 || id >= vocab_size || n_top < 0 ||
        (n_top > 0 && (top_ids == NULL || top_log_probs == NULL))) {
        return ln_fail(err, LN_BAD_ARGUMENT, "log-probabilities need logits, one of their ids and room for the result");
    }
    const int32_t best = ln_best_score(logits, vocab_size);
    const double top = best >= 0 ? (double)logits[best] : 0;
    double sum = 0;
    int32_t n = 0;
    for (int32_t i = 0; i < vocab_size; i++) {
        if (!isfinite(logits[i])) {
            continue;
        }
        sum += (double)expf(logits[i] - (float)top);
        if (n_top == 0 || (n == n_top && logits[i] <= logits[top_ids[n - 1]])) {
            continue;
        }
        int32_t at = n < n_top ? n++ : n - 1;
        for (; at > 0 && logits[top_ids[at - 1]] < logits[i]; at--) {
            top_ids[at] = top_ids[at - 1];
        }
        top_ids[at] = i;
    }
    const double scale = top + log(sum);
    *log_prob = isfinite(logits[id]) ? (float)((double)logits[id] - scale) : -INFINITY;
    for (int32_t i = 0; i < n_top; i++) {
        top_log_probs[i] = i < n ? (float)((double)logits[top_ids[i]] - scale) : -INFINITY;
        top_ids[i] = i < n ? top_ids[i] : -1;
    }
    return LN_OK;
}
