/* test_adapters.c - adapters: what they add, to whose tokens, and which are refused. */
#include "tiny_sessions.h"

#define VOCAB 50
#define RANK 3
#define N 40

typedef struct weights {
    float a[RANK * 96];
    float b[96 * RANK];
} weights;

static void fill(weights *w, int seed) {
    for (int i = 0; i < RANK * 96; i++) {
        w->a[i] = sinf((float)(i * 7 + seed)) * 0.2f;
        w->b[i] = cosf((float)(i * 5 + seed)) * 0.2f;
    }
}

/* Shapes of the tiny Llama, by target. */
static void shape_of(int32_t target, int32_t *rows, int32_t *cols) {
    const int32_t all[LN_TARGETS][2] = {{64, 64}, {32, 64}, {32, 64}, {64, 64}, {96, 64}, {96, 64}, {64, 96}};
    *rows = all[target][0];
    *cols = all[target][1];
}

static ln_adapter_part part_of(const weights *w, int32_t block, int32_t target) {
    ln_adapter_part part = {
        .a = w->a, .b = w->b, .type = LN_TYPE_F32, .block = block, .target = target, .rank = RANK, .scale = 0.5f};
    shape_of(target, &part.rows, &part.cols);
    return part;
}

static ln_adapter *open_adapter(const ln_model *model, const weights *w, int32_t target) {
    const ln_adapter_part parts[] = {part_of(w, 0, target), part_of(w, 1, target)};
    ln_adapter *adapter;
    ln_error err = {0};
    CHECK(ln_adapter_open(model, parts, 2, &adapter, &err) == LN_OK, "%s", err.message);
    return adapter;
}

static ln_session *open_adapted(ln_workspace *w, ln_adapter *adapter, float scale) {
    ln_session *s = open_in(w, N + 8);
    ln_error err = {0};
    CHECK(ln_session_adapt(s, &adapter, &scale, adapter != NULL, &err) == LN_OK, "%s", err.message);
    return s;
}

/* Each of a mixed batch has the bits it has alone, in passes that cut it anywhere. */
static void check_mixed(const tiny_llama *m, const char *isa) {
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    weights w;
    fill(&w, 1);
    int32_t ids[N];
    fill_tokens(ids, N);
    float plain[VOCAB];
    for (int32_t target = 0; target < LN_TARGETS; target++) {
        ln_adapter *adapter = open_adapter(model, &w, target);
        ln_workspace *together =
            open_workspace(model, isa, (ln_workspace_options){.n_threads = 2, .n_batch = 33, .kv_tokens = 512});
        ln_session *sessions[4];
        ln_span spans[4];
        for (int i = 0; i < 4; i++) {
            sessions[i] = open_adapted(together, i == 1 ? NULL : adapter, i == 3 ? -1.0f : 1.0f);
            spans[i] = (ln_span){.session = sessions[i], .ids = ids, .n = N - i};
        }
        CHECK(ln_workspace_eval(together, spans, 4, NULL) == LN_OK, "eval");
        for (int i = 0; i < 4; i++) {
            ln_session *alone = open_adapted(
                open_workspace(model, isa, (ln_workspace_options){.n_threads = 1, .n_batch = 7, .kv_tokens = 64}),
                i == 1 ? NULL : adapter, i == 3 ? -1.0f : 1.0f);
            CHECK(ln_session_eval(alone, ids, N - i, NULL, NULL) == LN_OK, "eval");
            CHECK(memcmp(ln_session_logits(alone), ln_session_logits(sessions[i]), sizeof plain) == 0,
                  "%s, target %d, session %d", isa, (int)target, i);
            close_alone(alone);
        }
        ln_session *bare = open_alone(model, isa, (ln_workspace_options){.kv_tokens = 64});
        CHECK(ln_session_eval(bare, ids, N - 1, NULL, NULL) == LN_OK, "eval");
        CHECK(memcmp(ln_session_logits(bare), ln_session_logits(sessions[1]), sizeof plain) == 0, "no adapter");
        CHECK(ln_session_eval(bare, ids + N - 1, 1, NULL, NULL) == LN_OK, "eval");
        CHECK(memcmp(ln_session_logits(bare), ln_session_logits(sessions[0]), sizeof plain) != 0, "target %d",
              (int)target);
        ln_session *twin;
        CHECK(ln_session_fork(sessions[0], N, &twin, NULL) == LN_OK, "fork");
        const ln_span next[] = {{.session = twin, .ids = ids, .n = 1}, {.session = sessions[0], .ids = ids, .n = 1}};
        CHECK(ln_workspace_eval(together, next, 2, NULL) == LN_OK, "eval");
        CHECK(memcmp(ln_session_logits(twin), ln_session_logits(sessions[0]), sizeof plain) == 0, "a fork has it too");
        ln_session_close(twin);
        for (int i = 0; i < 4; i++) {
            ln_session_close(sessions[i]);
        }
        ln_workspace_close(together);
        close_alone(bare);
        ln_adapter_close(adapter);
    }
    ln_model_close(model);
    image_free(&file);
}

/* Weights of two bytes give the bits of the same weights in f32. */
static void check_types(const tiny_llama *m, const char *isa) {
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    const int32_t types[] = {LN_TYPE_F16, LN_TYPE_BF16};
    int32_t ids[N];
    fill_tokens(ids, N);
    for (int t = 0; t < 2; t++) {
        weights w;
        fill(&w, 3 + t);
        uint16_t narrow[2][RANK * 96];
        float *const wide[2] = {w.a, w.b};
        for (int i = 0; i < 2; i++) {
            CHECK(ln_pack(types[t], wide[i], RANK * 96, narrow[i], NULL) == LN_OK, "pack");
            CHECK(ln_unpack(types[t], narrow[i], RANK * 96, wide[i], NULL) == LN_OK, "unpack");
        }
        float logits[2][VOCAB];
        for (int is_narrow = 0; is_narrow < 2; is_narrow++) {
            ln_adapter_part parts[LN_TARGETS];
            for (int32_t target = 0; target < LN_TARGETS; target++) {
                parts[target] = part_of(&w, 1, target);
                if (is_narrow) {
                    parts[target].type = types[t];
                    parts[target].a = narrow[0];
                    parts[target].b = narrow[1];
                }
            }
            ln_adapter *adapter;
            CHECK(ln_adapter_open(model, parts, LN_TARGETS, &adapter, NULL) == LN_OK, "open");
            ln_session *s = open_adapted(
                open_workspace(model, isa, (ln_workspace_options){.n_threads = 1, .kv_tokens = 64}), adapter, 1.0f);
            CHECK(ln_session_eval(s, ids, N, NULL, NULL) == LN_OK, "eval");
            memcpy(logits[is_narrow], ln_session_logits(s), sizeof logits[0]);
            close_alone(s);
            ln_adapter_close(adapter);
        }
        CHECK(memcmp(logits[0], logits[1], sizeof logits[0]) == 0, "%s, type %d", isa, (int)types[t]);
    }
    ln_model_close(model);
    image_free(&file);
}

static void test_refused(void) {
    image file = tiny_llama_image(&tiny);
    ln_model *model = open_model(&file);
    weights w;
    fill(&w, 2);
    ln_adapter *none;
    ln_error err = {0};
    ln_adapter_part part = part_of(&w, 2, LN_TARGET_Q);
    CHECK(ln_adapter_open(model, &part, 1, &none, &err) == LN_BAD_FILE && none == NULL, "a layer too many");
    CHECK(strstr(err.message, "layer 2") != NULL && strstr(err.message, "2 layers") != NULL, "%s", err.message);
    part = part_of(&w, 1, LN_TARGET_DOWN);
    part.rows = 72;
    CHECK(ln_adapter_open(model, &part, 1, &none, &err) == LN_BAD_FILE, "rows");
    CHECK(strstr(err.message, "ffn_down of layer 1 as [72][96]") != NULL && strstr(err.message, "[64][96]") != NULL,
          "%s", err.message);
    const int32_t bad_ranks[] = {0, -1, LN_MAX_RANK + 1, INT32_MAX};
    for (size_t i = 0; i < sizeof bad_ranks / sizeof bad_ranks[0]; i++) {
        part = part_of(&w, 0, LN_TARGET_Q);
        part.rank = bad_ranks[i];
        CHECK(ln_adapter_open(model, &part, 1, &none, &err) == LN_UNSUPPORTED, "rank %d", (int)part.rank);
    }
    part = part_of(&w, 0, LN_TARGET_Q);
    const ln_adapter_part twice[] = {part, part};
    CHECK(ln_adapter_open(model, twice, 2, &none, &err) == LN_BAD_ARGUMENT, "twice");
    part.type = LN_TYPE_Q8_0;
    CHECK(ln_adapter_open(model, &part, 1, &none, &err) == LN_BAD_ARGUMENT, "a type that is not kept");
    part.type = LN_TYPE_F32;
    part.target = LN_TARGETS;
    CHECK(ln_adapter_open(model, &part, 1, &none, &err) == LN_BAD_ARGUMENT, "no target");
    CHECK(ln_adapter_open(model, &part, 0, &none, &err) == LN_BAD_ARGUMENT, "no parts");

    ln_adapter *adapter = open_adapter(model, &w, LN_TARGET_V);
    ln_session *s = open_alone(model, "", (ln_workspace_options){.kv_tokens = 64});
    ln_adapter *many[LN_MAX_ADAPTERS + 1];
    float scales[LN_MAX_ADAPTERS + 1];
    for (int i = 0; i <= LN_MAX_ADAPTERS; i++) {
        many[i] = adapter;
        scales[i] = 0.1f;
    }
    CHECK(ln_session_adapt(s, many, scales, LN_MAX_ADAPTERS + 1, &err) == LN_BAD_ARGUMENT, "too many");
    CHECK(ln_session_adapt(s, many, scales, LN_MAX_ADAPTERS, &err) == LN_OK, "%s", err.message);
    CHECK(ln_session_eval(s, (int32_t[]){1, 2}, 2, NULL, NULL) == LN_OK, "eval");
    CHECK(ln_session_adapt(s, many, scales, 1, &err) == LN_BAD_ARGUMENT, "too late");
    CHECK(strstr(err.message, "2 tokens") != NULL, "%s", err.message);
    CHECK(ln_session_truncate(s, 0, NULL) == LN_OK && ln_session_adapt(s, NULL, NULL, 0, &err) == LN_OK, "none again");
    image other_file = tiny_llama_image(&tiny);
    ln_model *other = open_model(&other_file);
    ln_session *foreign = open_alone(other, "", (ln_workspace_options){.kv_tokens = 64});
    CHECK(ln_session_adapt(foreign, many, scales, 1, &err) == LN_BAD_ARGUMENT, "of another model");
    close_alone(foreign);
    close_alone(s);
    ln_adapter_close(adapter);
    ln_adapter_close(NULL);
    ln_model_close(other);
    ln_model_close(model);
    image_free(&other_file);
    image_free(&file);
}

/* Hidden states are those the logits come from, beside spans that want logits. */
static void test_hidden(void) {
    image file = tiny_llama_image(&tiny);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, "", (ln_workspace_options){.n_batch = 9, .kv_tokens = 256});
    ln_session *a = open_in(w, N), *b = open_in(w, N), *c = open_in(w, N);
    int32_t ids[N];
    fill_tokens(ids, N);
    float *hidden = malloc(sizeof(float) * N * 64), *again = malloc(sizeof(float) * N * 64);
    const ln_span spans[] = {{.session = a, .ids = ids, .n = N, .hidden = hidden}, {.session = b, .ids = ids, .n = N}};
    CHECK(ln_workspace_eval(w, spans, 2, NULL) == LN_OK, "eval");
    CHECK(ln_session_logits(a) == NULL && ln_session_logits(b) != NULL, "logits of b only");
    for (int32_t i = 0; i < N; i++) {
        const ln_span one = {.session = c, .ids = ids + i, .n = 1, .hidden = again + i * 64};
        CHECK(ln_workspace_eval(w, &one, 1, NULL) == LN_OK, "eval");
    }
    CHECK(memcmp(hidden, again, sizeof(float) * N * 64) == 0, "token by token");
    CHECK(ln_session_truncate(a, N - 1, NULL) == LN_OK, "truncate");
    CHECK(ln_session_eval(a, ids + N - 1, 1, NULL, NULL) == LN_OK, "eval");
    CHECK(memcmp(ln_session_logits(a), ln_session_logits(b), sizeof(float) * VOCAB) == 0, "logits after hidden");
    free(hidden);
    free(again);
    ln_session_close(a);
    ln_session_close(b);
    ln_session_close(c);
    ln_workspace_close(w);
    ln_model_close(model);
    image_free(&file);
}

int main(void) {
    tiny_llama packed = tiny;
    packed.type = LN_TYPE_Q8_0;
    for_each_isa(check_mixed, &tiny);
    for_each_isa(check_mixed, &packed);
    for_each_isa(check_types, &tiny);
    test_refused();
    test_hidden();
    return 0;
}
