/* test_sessions.c - many sessions over one workspace: the same bits alone and among others, shared pages, going
 * back, running out, sliding windows, and keys and values of every type. */
#include "tiny_sessions.h"

#define VOCAB 50

/* A model whose heads fit every type of keys and values. */
static tiny_llama wide_heads(void) {
    tiny_llama m = tiny;
    m.head_dim = 32;
    return m;
}

static ln_workspace_info describe(const ln_workspace *w) {
    ln_workspace_info info;
    CHECK(ln_workspace_describe(w, &info) == LN_OK, "describe");
    return info;
}

static void check_logits(const ln_session *s, const float *expected, const char *when) {
    CHECK(ln_session_logits(s) != NULL, "%s: no logits", when);
    CHECK(memcmp(ln_session_logits(s), expected, VOCAB * sizeof(float)) == 0, "%s: other bits", when);
}

static void copy_logits(const ln_session *s, float *out) {
    memcpy(out, ln_session_logits(s), VOCAB * sizeof *out);
}

/* ---- batches -------------------------------------------------------------------------- */

#define N_SESSIONS 5

/* How five timelines grow: tokens per call of each. The third sleeps, the fourth passes chunk borders, two
 * calls want every token's logits. */
static const int32_t growth[][N_SESSIONS] = {
    {1, 20, 0, 255, 3}, {1, 1, 300, 2, 61}, {1, 63, 1, 1, 1}, {17, 1, 1, 200, 1}, {1, 1, 1, 1, 1},
};
#define N_CALLS (sizeof growth / sizeof growth[0])

/* The tokens of timeline i at position p: no two timelines are alike. */
static int32_t token_of(int32_t i, int32_t p) {
    return (token(p) + 7 * i) % VOCAB;
}

/* All calls, all timelines together or one after the other; the logits after the last call and, of the second
 * timeline's third call, of every token. */
static void grow(const ln_model *model, const char *isa, ln_workspace_options options, int together,
                 float last[N_SESSIONS][VOCAB], float *all) {
    options.kv_tokens = N_SESSIONS * 640;
    ln_workspace *w = open_workspace(model, isa, options);
    ln_session *sessions[N_SESSIONS];
    int32_t ids[N_SESSIONS][N_CTX];
    ln_error err = {0};
    for (int32_t i = 0; i < N_SESSIONS; i++) {
        sessions[i] = open_in(w, N_CTX);
    }
    for (size_t call = 0; call < N_CALLS; call++) {
        ln_span spans[N_SESSIONS];
        for (int32_t i = 0; i < N_SESSIONS; i++) {
            for (int32_t p = 0; p < growth[call][i]; p++) {
                ids[i][p] = token_of(i, ln_session_length(sessions[i]) + p);
            }
            spans[i] = (ln_span){.session = sessions[i], .ids = ids[i], .n = growth[call][i],
                                 .logits = call == 2 && i == 1 ? all : NULL};
        }
        for (int32_t i = 0; i < N_SESSIONS; i += together ? N_SESSIONS : 1) {
            CHECK(ln_workspace_eval(w, spans + i, together ? N_SESSIONS : 1, &err) == LN_OK, "%s", err.message);
        }
    }
    for (int32_t i = 0; i < N_SESSIONS; i++) {
        copy_logits(sessions[i], last[i]);
        ln_session_close(sessions[i]);
    }
    ln_workspace_close(w);
}

static void check_batches(const tiny_llama *m, const char *isa) {
    static const ln_workspace_options ways[] = {
        {.n_threads = 2, .n_batch = 256},
        {.n_threads = 3, .n_batch = 7},
    };
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    for (int32_t kv = 0; kv < 4; kv++) {
        const int32_t kv_type = (int32_t[]){LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0}[kv];
        float expected[N_SESSIONS][VOCAB], expected_all[63 * VOCAB], got[N_SESSIONS][VOCAB], all[63 * VOCAB];
        grow(model, isa, (ln_workspace_options){.n_threads = 1, .n_batch = 64, .kv_type = kv_type}, 0, expected,
             expected_all);
        for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
            ln_workspace_options options = ways[i];
            options.kv_type = kv_type;
            grow(model, isa, options, 1, got, all);
            CHECK(memcmp(got, expected, sizeof got) == 0 && memcmp(all, expected_all, sizeof all) == 0,
                  "%s, keys of type %d, %d threads, %d at a time: together gives other bits", isa, (int)kv_type,
                  (int)options.n_threads, (int)options.n_batch);
        }
    }
    ln_model_close(model);
    image_free(&file);
}

static void test_batches(void) {
    tiny_llama m = wide_heads();
    for_each_isa(check_batches, &m);
    m.type = LN_TYPE_Q8_0;
    m.u32_key = "llama.attention.sliding_window";
    m.u32_value = 70;
    for_each_isa(check_batches, &m);
}

/* ---- forks ------------------------------------------------------------------------------ */

static void test_forks(void) {
    image file = tiny_llama_image(&tiny);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, "", (ln_workspace_options){.kv_tokens = 10 * LN_PAGE});
    float expected[3][VOCAB];
    ln_session *s = open_in(w, N_CTX);
    append(s, 150);
    copy_logits(s, expected[0]);
    CHECK(describe(w).n_free_pages == 7, "%d pages free", (int)describe(w).n_free_pages);

    ln_session *twin, *early;
    CHECK(ln_session_fork(s, 150, &twin, NULL) == LN_OK && ln_session_fork(s, 100, &early, NULL) == LN_OK, "fork");
    CHECK(describe(w).n_free_pages == 7 && describe(w).n_sessions == 3, "a fork holds nothing of its own");
    check_logits(twin, expected[0], "a fork of everything");
    CHECK(ln_session_logits(early) == NULL && ln_session_length(early) == 100, "a fork of a part");

    append(s, 1); /* each copies the page it writes to, if another uses it */
    CHECK(describe(w).n_free_pages == 6, "%d pages free", (int)describe(w).n_free_pages);
    copy_logits(s, expected[1]);
    CHECK(ln_session_eval(twin, &(int32_t){7}, 1, NULL, NULL) == LN_OK, "another token");
    CHECK(describe(w).n_free_pages == 6, "the last user writes where it is");
    CHECK(memcmp(ln_session_logits(twin), expected[1], sizeof expected[1]) != 0, "twins differ");
    append(early, 51);
    CHECK(describe(w).n_free_pages == 4, "%d pages free", (int)describe(w).n_free_pages);
    check_logits(early, expected[1], "the same tokens again, over shared pages");

    /* Going back into a shared page, and on in another way. */
    CHECK(ln_session_truncate(twin, 70, NULL) == LN_OK, "truncate");
    CHECK(describe(w).n_free_pages == 5, "its third page comes back, the second is shared");
    append(twin, 81);
    check_logits(twin, expected[1], "after a truncation into a shared page");
    append(s, 1);
    append(early, 1);
    copy_logits(s, expected[2]);
    check_logits(early, expected[2], "nobody wrote into another's page");

    /* The logits of the last token come back by evaluating it again, where it is shared, too. */
    float score[2];
    ln_session *again;
    CHECK(ln_session_fork(s, 140, &again, NULL) == LN_OK, "fork");
    const int32_t free_pages = describe(w).n_free_pages;
    CHECK(ln_session_score(again, (int32_t[]){token(140), token(141)}, 2, score, NULL) == LN_OK, "score");
    CHECK(!isnan(score[0]) && describe(w).n_free_pages == free_pages - 1, "one page copied");
    append(s, 1);
    append(early, 1);
    copy_logits(s, expected[2]);
    check_logits(early, expected[2], "after scoring a fork");
    ln_session_close(again);
    ln_session_close(early);
    ln_session_close(twin);
    CHECK(describe(w).n_free_pages == 7 && describe(w).n_sessions == 1, "what was theirs is back");
    ln_workspace_close(w); /* the last session keeps what it needs */
    append(s, 1);
    ln_session_close(s);
    ln_model_close(model);
    image_free(&file);
}

/* ---- what is refused ----------------------------------------------------------------------- */

static void test_out_of_pages(void) {
    image file = tiny_llama_image(&tiny);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, "", (ln_workspace_options){.kv_tokens = 3 * LN_PAGE, .n_batch = 16});
    ln_session *a = open_in(w, N_CTX);
    ln_session *b = open_in(w, 0);
    ln_error err = {0};
    float before[2][VOCAB];
    int32_t ids[N_CTX];
    fill_tokens(ids, N_CTX);
    CHECK(ln_session_capacity(b) == 128, "what the model was made for: %d", (int)ln_session_capacity(b));
    append(a, 64);
    append(b, 100);
    copy_logits(a, before[0]);
    copy_logits(b, before[1]);
    CHECK(ln_session_eval(a, ids, 1, NULL, &err) == LN_CONTEXT_FULL, "no page left");
    CHECK(strstr(err.message, "1 more page") != NULL && strstr(err.message, "0 of 3") != NULL &&
              strstr(err.message, "kv_tokens") != NULL, "%s", err.message);
    CHECK(ln_session_score(a, ids, 1, &(float){0}, &err) == LN_CONTEXT_FULL, "no page left to score");
    const ln_span both[] = {{.session = b, .ids = ids, .n = 1}, {.session = a, .ids = ids, .n = 1}};
    CHECK(ln_workspace_eval(w, both, 2, &err) == LN_CONTEXT_FULL, "b would fit, a not: neither is touched");
    const ln_span twice[] = {{.session = b, .ids = ids, .n = 1}, {.session = b, .ids = ids, .n = 1}};
    CHECK(ln_workspace_eval(w, twice, 2, &err) == LN_BAD_ARGUMENT, "twice");
    CHECK(strstr(err.message, "two spans") != NULL, "%s", err.message);
    const ln_span bad[] = {{.session = b, .ids = ids, .n = 1}, {.session = a, .ids = (int32_t[]){VOCAB}, .n = 1}};
    CHECK(ln_workspace_eval(w, bad, 2, &err) == LN_BAD_ARGUMENT, "a token of no vocabulary");
    ln_session *none;
    CHECK(ln_session_fork(b, 101, &none, &err) == LN_BAD_ARGUMENT && none == NULL, "a fork of more than there is");
    CHECK(ln_session_length(a) == 64 && ln_session_length(b) == 100, "lengths");
    check_logits(a, before[0], "after failures");
    check_logits(b, before[1], "after failures");

    /* A fork that would have to copy a page cannot go on either, until its twin is closed. */
    ln_session *twin;
    CHECK(ln_session_fork(b, 100, &twin, NULL) == LN_OK, "fork");
    CHECK(ln_session_eval(twin, ids, 1, NULL, &err) == LN_CONTEXT_FULL, "no page to copy to");
    ln_session_close(b);
    CHECK(ln_session_eval(twin, ids, 1, NULL, &err) == LN_OK, "%s", err.message);
    ln_session_close(twin);
    append(a, 128);
    CHECK(describe(w).n_free_pages == 0, "all in use");
    ln_session_close(a);
    ln_workspace_close(w);
    ln_model_close(model);
    image_free(&file);
}

/* ---- sliding windows ----------------------------------------------------------------------- */

#define WINDOW 70

static void check_window(const tiny_llama *m, const char *isa) {
    tiny_llama windowed = *m;
    windowed.u32_key = "llama.attention.sliding_window";
    windowed.u32_value = WINDOW;
    image files[2] = {tiny_llama_image(m), tiny_llama_image(&windowed)};
    ln_model *models[2] = {open_model(&files[0]), open_model(&files[1])};
    const ln_workspace_options options = {.n_threads = 2, .n_batch = 32, .kv_tokens = 5 * LN_PAGE};
    ln_workspace *w = open_workspace(models[1], isa, options);
    ln_session *full = open_alone(models[0], isa, (ln_workspace_options){.n_threads = 2, .kv_tokens = N_CTX});
    ln_session *s = open_in(w, N_CTX);
    float logits[VOCAB];
    append(full, WINDOW);
    append(s, WINDOW);
    check_logits(s, ln_session_logits(full), "within the window");
    append(full, 1);
    append(s, 1);
    CHECK(memcmp(ln_session_logits(s), ln_session_logits(full), sizeof logits) != 0, "past the window");

    append(s, 400); /* more than all pages hold */
    copy_logits(s, logits);
    CHECK(describe(w).n_free_pages >= 1, "pages behind the window are free: %d", (int)describe(w).n_free_pages);
    ln_session *other = open_in(w, N_CTX);
    CHECK(ln_session_truncate(s, 200, NULL) == LN_BAD_ARGUMENT, "what has left the window is gone");
    CHECK(ln_session_length(s) == WINDOW + 401, "and a failure changes nothing");
    CHECK(ln_session_truncate(s, WINDOW + 401 - LN_PAGE, NULL) == LN_OK, "back by a page");
    append(s, LN_PAGE);
    check_logits(s, logits, "back by a page and on again");
    CHECK(ln_session_fork(s, 300, &(ln_session *){NULL}, NULL) == LN_BAD_ARGUMENT, "a fork of what is gone");
    CHECK(ln_session_truncate(s, 0, NULL) == LN_OK && describe(w).n_free_pages == 5, "back to nothing");
    for (int32_t i = 0; i < WINDOW + 401; i += 13) { /* token by token crosses the same borders elsewhere */
        append(s, i + 13 < WINDOW + 401 ? 13 : WINDOW + 401 - i);
    }
    check_logits(s, logits, "in other steps");
    ln_session_close(other);
    ln_session_close(s);
    ln_workspace_close(w);
    close_alone(full);
    for (int i = 0; i < 2; i++) {
        ln_model_close(models[i]);
        image_free(&files[i]);
    }
}

/* With one layer, what a token sees is exactly the window: the tokens before it may be any others. */
static void test_window_edge(void) {
    tiny_llama m = tiny;
    m.n_layers = 1;
    m.u32_key = "llama.attention.sliding_window";
    m.u32_value = WINDOW;
    image file = tiny_llama_image(&m);
    ln_model *model = open_model(&file);
    float expected[VOCAB];
    for (int32_t changed = -1; changed <= 40; changed++) {
        ln_session *s = open_alone(model, "", (ln_workspace_options){.kv_tokens = N_CTX, .n_batch = 50});
        int32_t ids[WINDOW + 40];
        fill_tokens(ids, WINDOW + 40);
        if (changed >= 0) {
            ids[changed] = (ids[changed] + 1) % VOCAB;
        }
        CHECK(ln_session_eval(s, ids, WINDOW + 40, NULL, NULL) == LN_OK, "eval");
        if (changed < 0) {
            copy_logits(s, expected);
        }
        const int same = memcmp(ln_session_logits(s), expected, sizeof expected) == 0;
        CHECK(same == (changed < 40), "the token %d before the last counts: %d", WINDOW + 39 - (int)changed, !same);
        close_alone(s);
    }
    ln_model_close(model);
    image_free(&file);
}

/* Scoring after going back evaluates the last token that is left once more, and what it attends to is still there,
 * wherever in a page the window begins. */
static void test_window_and_scoring(void) {
    tiny_llama m = tiny;
    m.u32_key = "llama.attention.sliding_window";
    m.u32_value = WINDOW;
    image file = tiny_llama_image(&m);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, "", (ln_workspace_options){.kv_tokens = 8 * LN_PAGE});
    for (int32_t length = 4 * LN_PAGE; length < 5 * LN_PAGE; length++) {
        ln_session *s = open_in(w, N_CTX);
        append(s, length - LN_PAGE);
        ln_session *straight;
        CHECK(ln_session_fork(s, ln_session_length(s), &straight, NULL) == LN_OK, "fork");
        append(s, LN_PAGE);
        CHECK(ln_session_truncate(s, length - LN_PAGE, NULL) == LN_OK, "back by a page of %d", (int)length);
        float expected, after;
        CHECK(ln_session_score(straight, (int32_t[]){3}, 1, &expected, NULL) == LN_OK, "score");
        CHECK(ln_session_score(s, (int32_t[]){3}, 1, &after, NULL) == LN_OK, "score of %d", (int)length);
        CHECK(after == expected, "back from %d tokens: %g, not %g", (int)length, (double)after, (double)expected);
        ln_session_close(s);
        ln_session_close(straight);
    }
    ln_workspace_close(w);
    ln_model_close(model);
    image_free(&file);
}

/* ---- types of keys and values ---------------------------------------------------------------- */

/* The largest difference of any logit of 300 tokens from keys and values in f32. */
static double difference(const ln_model *model, const char *isa, int32_t kv_type, const float *expected,
                         float *logits) {
    const ln_workspace_options options = {.n_threads = 2, .kv_tokens = 300, .kv_type = kv_type};
    ln_session *s = open_alone(model, isa, options);
    int32_t ids[300];
    fill_tokens(ids, 300);
    CHECK(ln_session_eval(s, ids, 300, logits, NULL) == LN_OK, "eval");
    double worst = 0;
    for (int32_t i = 0; i < 300 * VOCAB; i++) {
        worst = isnan(logits[i]) ? INFINITY : fmax(worst, fabs((double)logits[i] - (double)expected[i]));
    }
    close_alone(s);
    return worst;
}

static void check_types(const tiny_llama *m, const char *isa) {
    static float expected[300 * VOCAB], logits[300 * VOCAB];
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    difference(model, isa, LN_TYPE_F32, expected, expected);
    const struct {
        int32_t type;
        double tolerance;
    } types[] = {{LN_TYPE_F32, 0}, {LN_TYPE_F16, 0.03}, {LN_TYPE_Q8_0, 0.5}, {LN_TYPE_Q4_0, 6}};
    double before = -1;
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        const double worst = difference(model, isa, types[i].type, expected, logits);
        CHECK(worst <= types[i].tolerance && worst > before, "%s, type %d: off by %g", isa, (int)types[i].type, worst);
        before = worst;
    }
    ln_model_close(model);
    image_free(&file);
}

int main(void) {
    tiny_llama m = wide_heads();
    test_batches();
    test_forks();
    test_out_of_pages();
    for_each_isa(check_window, &tiny);
    test_window_edge();
    test_window_and_scoring();
    for_each_isa(check_types, &m);
    return 0;
}
