/* test_sampler.c - the sampler against the same filters done by sorting everything, and against the
 * probabilities it promises. */
#include "gguf_image.h"

#define VOCAB 40
#define DRAWS 40000

static ln_sampler *open_sampler(ln_sampler_options options, int32_t vocab_size) {
    ln_sampler *sampler;
    ln_error err = {0};
    CHECK(ln_sampler_open(&options, vocab_size, &sampler, &err) == LN_OK, "%s", err.message);
    return sampler;
}

static const ln_sampler_options plain = {.temperature = 1, .top_p = 1, .typical_p = 1, .repetition_penalty = 1, .seed = 7};

/* ---- the oracle ----------------------------------------------------------------- */

typedef struct ranked {
    int32_t id;
    double logit;
} ranked;

static int by_logit(const void *a, const void *b) {
    const ranked *x = a;
    const ranked *y = b;
    return x->logit != y->logit ? (x->logit < y->logit ? 1 : -1) : x->id - y->id;
}

/* probabilities[VOCAB] after temperature, top-k, top-p and min-p, each on what the one before left. */
static void expected_probabilities(const ln_sampler_options *o, const float *logits, double *probabilities) {
    ranked all[VOCAB];
    double weights[VOCAB];
    double total = 0;
    for (int i = 0; i < VOCAB; i++) {
        all[i] = (ranked){i, (double)logits[i]};
        probabilities[i] = 0;
    }
    qsort(all, VOCAB, sizeof all[0], by_logit);
    int n = o->top_k > 0 && o->top_k < VOCAB ? o->top_k : VOCAB;
    for (int i = 0; i < n; i++) {
        weights[i] = exp((all[i].logit - all[0].logit) / (double)o->temperature);
        total += weights[i];
    }
    double sum = 0;
    int nucleus = 0;
    while (nucleus < n && (nucleus == 0 || o->top_p == 1 || sum < (double)o->top_p * total)) {
        sum += weights[nucleus++];
    }
    double kept = 0;
    for (int i = 0; i < nucleus; i++) {
        if (i == 0 || weights[i] >= (double)o->min_p * weights[0]) {
            probabilities[all[i].id] = weights[i];
            kept += weights[i];
        }
    }
    for (int i = 0; i < VOCAB; i++) {
        probabilities[i] /= kept;
    }
}

static void check_distribution(ln_sampler_options options, const float *logits) {
    double expected[VOCAB];
    int32_t counts[VOCAB] = {0};
    expected_probabilities(&options, logits, expected);
    ln_sampler *sampler = open_sampler(options, VOCAB);
    for (int i = 0; i < DRAWS; i++) {
        int32_t id = ln_sampler_draw(sampler, logits, NULL);
        CHECK(id >= 0 && id < VOCAB, "%d", (int)id);
        counts[id]++;
    }
    ln_sampler_close(sampler);
    for (int i = 0; i < VOCAB; i++) {
        double p = expected[i];
        double sigma = sqrt(DRAWS * p * (1 - p));
        CHECK(p > 0 || counts[i] == 0, "token %d is filtered out and was drawn %d times", i, (int)counts[i]);
        CHECK(fabs(counts[i] - DRAWS * p) <= 5 * sigma + 1e-9,
              "t %g k %d p %g min %g: token %d was drawn %d times, expected %.1f +- %.1f", (double)options.temperature,
              (int)options.top_k, (double)options.top_p, (double)options.min_p, i, (int)counts[i], DRAWS * p, sigma);
    }
}

static void test_distributions(void) {
    float logits[VOCAB];
    uint32_t state = 3;
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = 3.0f * next_weight(&state);
    }
    logits[11] = logits[5]; /* a tie inside and, for some top_k, at the border */
    logits[23] = logits[5];
    const ln_sampler_options cases[] = {
        {.temperature = 1, .top_p = 1},
        {.temperature = 0.5f, .top_p = 1},
        {.temperature = 2, .top_p = 1, .min_p = 0.2f},
        {.temperature = 1, .top_k = 1, .top_p = 1},
        {.temperature = 1, .top_k = 7, .top_p = 1},
        {.temperature = 1, .top_p = 0.6f},
        {.temperature = 1, .top_p = 0},
        {.temperature = 1, .top_k = 12, .top_p = 0.7f},
        {.temperature = 1.5f, .top_k = 20, .top_p = 0.9f, .min_p = 0.3f},
        {.temperature = 1, .top_k = 1000, .top_p = 0.95f, .min_p = 0.05f},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        ln_sampler_options options = cases[i];
        options.repetition_penalty = 1;
        options.typical_p = 1;
        options.seed = i;
        check_distribution(options, logits);
    }
    for (int i = 0; i < VOCAB; i++) {
        logits[i] = 1;
    }
    check_distribution((ln_sampler_options){.temperature = 1, .top_k = 3, .typical_p = 1, .top_p = 1, .repetition_penalty = 1}, logits);
}

/* A nucleus that is found by bounds is the one that all weights give: top_k as large as the vocabulary asks for those. */
static void test_bounds(void) {
    enum { SIZE = 5000 };
    static float logits[SIZE];
    static const float temperatures[] = {1e-35f, 0.05f, 0.5f, 0.8f, 1, 3, 1e6f};
    static const float shares[] = {0, 0.5f, 0.95f, 0.999f};
    static const float least[] = {0, 1e-9f, 0.001f, 0.05f, 1};
    uint32_t state = 9;
    for (int round = 0; round < 420; round++) {
        const float scale = (const float[]){0, 0.5f, 4, 20, 1e36f}[round % 5];
        for (int i = 0; i < SIZE; i++) {
            const float steep = next_weight(&state);
            logits[i] = scale * (round % 3 == 0 ? roundf(4 * steep) : steep * steep * steep * 3);
        }
        logits[round] = NAN;
        logits[2 * round] = INFINITY;
        ln_sampler_options options = plain;
        options.seed = (uint64_t)round;
        options.temperature = temperatures[round % 7];
        options.top_p = shares[round % 4];
        options.min_p = least[round / 4 % 5];
        options.xtc_probability = round % 9 == 0 ? 0.5f : 0;
        options.xtc_threshold = 0.1f;
        ln_sampler *quick = open_sampler(options, SIZE);
        options.top_k = SIZE;
        ln_sampler *thorough = open_sampler(options, SIZE);
        for (int i = 0; i < 8; i++) {
            const int32_t id = ln_sampler_draw(quick, logits, NULL);
            CHECK(id == ln_sampler_draw(thorough, logits, NULL), "round %d: %d", round, (int)id);
        }
        ln_sampler_close(quick);
        ln_sampler_close(thorough);
    }
}

/* ---- single properties -------------------------------------------------------------- */

static void test_greedy(void) {
    ln_sampler_options options = plain;
    options.temperature = 0;
    ln_sampler *sampler = open_sampler(options, 4);
    CHECK(ln_sampler_draw(sampler, (float[]){1, 3, 3, 2}, NULL) == 1, "lowest id on a tie");
    CHECK(ln_sampler_draw(sampler, (float[]){NAN, -INFINITY, -5, INFINITY}, NULL) == 2, "the only finite one");
    CHECK(ln_sampler_draw(sampler, (float[]){NAN, -INFINITY, NAN, INFINITY}, NULL) == -1, "none is finite");
    ln_sampler_close(sampler);
    sampler = open_sampler(plain, 4);
    for (int i = 0; i < 100; i++) {
        CHECK(ln_sampler_draw(sampler, (float[]){NAN, -INFINITY, -5, INFINITY}, NULL) == 2, "the only finite one");
        CHECK(ln_sampler_draw(sampler, (float[]){3e38f, -3e38f, -3e38f, 0}, NULL) == 0, "differences beyond a float");
    }
    CHECK(ln_sampler_draw(sampler, (float[]){NAN, NAN, NAN, NAN}, NULL) == -1, "none is finite");
    ln_sampler_close(sampler);
}

static void test_repetition_penalty(void) {
    ln_sampler_options options = plain;
    options.temperature = 0;
    options.repetition_penalty = 2;
    options.repeat_last_n = 2;
    ln_sampler *sampler = open_sampler(options, 4);
    const float positive[] = {4, 3, 1.9f, 0};
    const float negative[] = {-1, -1.5f, -3, -9};
    ln_sampler_accept(sampler, 0);
    CHECK(ln_sampler_draw(sampler, positive, NULL) == 1, "4 / 2 < 3");
    CHECK(ln_sampler_draw(sampler, negative, NULL) == 1, "-1 * 2 < -1.5");
    ln_sampler_accept(sampler, 0);
    CHECK(ln_sampler_draw(sampler, positive, NULL) == 1, "an id in the window twice is penalised once");
    CHECK(ln_sampler_draw(sampler, (float[]){4, 1.5f, 0, 0}, NULL) == 0, "4 / 2 > 1.5, 4 / 4 is not");
    ln_sampler_accept(sampler, 1);
    CHECK(ln_sampler_draw(sampler, positive, NULL) == 0, "4 / 2 > 1.9 > 3 / 2");
    ln_sampler_accept(sampler, 3);
    CHECK(ln_sampler_draw(sampler, (float[]){4, 3, 2.5f, 0}, NULL) == 0, "0 left the window, 4 > 2.5");
    ln_sampler_accept(sampler, 4);
    ln_sampler_accept(sampler, -1);
    ln_sampler_close(sampler);
}

static void test_seed(void) {
    float logits[VOCAB] = {0};
    int32_t first[64];
    int differs = 0;
    for (uint64_t seed = 0; seed < 3; seed++) {
        for (int again = 0; again < 2; again++) {
            ln_sampler_options options = plain;
            options.seed = seed;
            ln_sampler *sampler = open_sampler(options, VOCAB);
            for (int i = 0; i < 64; i++) {
                int32_t id = ln_sampler_draw(sampler, logits, NULL);
                CHECK(again == 0 || id == first[i], "seed %d, draw %d", (int)seed, i);
                differs += again == 0 && seed > 0 && id != first[i];
                first[i] = id;
            }
            ln_sampler_close(sampler);
        }
    }
    CHECK(differs > 100, "seeds give the same draws");
}

static void test_options(void) {
    const ln_sampler_options bad[] = {
        {.temperature = -1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = NAN, .top_p = 1, .repetition_penalty = 1},
        {.temperature = INFINITY, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_k = -1, .top_p = 1, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1.1f, .repetition_penalty = 1},
        {.temperature = 1, .top_p = NAN, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .min_p = -0.1f, .repetition_penalty = 1},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 0},
        {.temperature = 1, .top_p = 1, .repetition_penalty = 1, .repeat_last_n = -1},
    };
    ln_sampler *sampler;
    ln_error err;
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(ln_sampler_open(&bad[i], 4, &sampler, &err) == LN_BAD_ARGUMENT && sampler == NULL, "options %zu", i);
    }
    CHECK(ln_sampler_open(&plain, 0, &sampler, &err) == LN_BAD_ARGUMENT, "no vocabulary");
}

int main(void) {
    test_greedy();
    test_repetition_penalty();
    test_seed();
    test_options();
    test_distributions();
    test_bounds();
    return 0;
}
