/* test_states.c - keys and values that are saved and loaded page by page: the bits of what follows, of what is
 * written, digests, and what is refused. */
#include "tiny_sessions.h"

#define VOCAB 50
#define WINDOW 70

/* What a file would hold of a timeline. */
typedef struct saved {
    int32_t ids[N_CTX];
    int32_t length;
    int32_t first_page;
    int64_t page_bytes;
    uint8_t *pages; /* [from first_page on][page_bytes] */
} saved;

static int64_t page_bytes_of(const ln_workspace *w) {
    ln_workspace_info info;
    CHECK(ln_workspace_describe(w, &info) == LN_OK, "describe");
    return info.page_bytes;
}

static int32_t pages_of(int32_t n) {
    return (n + LN_PAGE - 1) / LN_PAGE;
}

static saved save(const ln_session *s) {
    ln_session_info info;
    ln_error err = {0};
    CHECK(ln_session_describe(s, &info) == LN_OK, "describe");
    saved f = {.length = ln_session_length(s), .first_page = info.first_page,
               .page_bytes = page_bytes_of(s->workspace)};
    memcpy(f.ids, ln_session_ids(s), (size_t)f.length * sizeof *f.ids);
    f.pages = malloc((size_t)(pages_of(f.length) * f.page_bytes) + 1);
    for (int32_t page = f.first_page; page < pages_of(f.length); page++) {
        CHECK(ln_session_save(s, page, f.pages + (page - f.first_page) * f.page_bytes, (size_t)f.page_bytes, &err) ==
                  LN_OK, "%s", err.message);
    }
    return f;
}

static ln_session *load(ln_workspace *w, const saved *f) {
    ln_session *s = open_in(w, N_CTX);
    ln_error err = {0};
    for (int32_t page = 0; page < pages_of(f->length); page++) {
        const int32_t left = f->length - page * LN_PAGE;
        const uint8_t *from = page < f->first_page ? NULL : f->pages + (page - f->first_page) * f->page_bytes;
        CHECK(ln_session_load(s, f->ids + page * LN_PAGE, left < LN_PAGE ? left : LN_PAGE, from,
                              (size_t)f->page_bytes, &err) == LN_OK, "%s", err.message);
    }
    CHECK(ln_session_length(s) == f->length && ln_session_logits(s) == NULL, "what was loaded");
    return s;
}

/* ---- the same bits ---------------------------------------------------------------------- */

static void check_bits(const ln_model *model, const char *isa, int32_t kv_type, int32_t length) {
    const ln_workspace_options options = {.n_threads = 2, .n_batch = 48, .kv_tokens = 2 * N_CTX, .kv_type = kv_type};
    ln_workspace *here = open_workspace(model, isa, options);
    ln_workspace *there = open_workspace(model, isa, options);
    ln_session *before = open_in(there, N_CTX); /* pages with something in them already */
    append(before, 500);
    ln_session_close(before);
    ln_session *s = open_in(here, N_CTX);
    append(s, length);
    saved f = save(s);
    ln_session *loaded = load(there, &f);
    float expected, score;
    append(s, 1);
    append(loaded, 1);
    for (int i = 0; i < 2; i++) {
        CHECK(memcmp(ln_session_logits(s), ln_session_logits(loaded), VOCAB * sizeof(float)) == 0,
              "%s, keys of type %d, %d tokens: other bits", isa, (int)kv_type, (int)length);
        append(s, 70);
        append(loaded, 70);
    }
    ln_session_close(loaded);

    /* Going back and scoring, for which the last token is evaluated once more; twins share what was loaded. */
    loaded = load(there, &f);
    ln_session *twin;
    CHECK(ln_session_fork(loaded, length, &twin, NULL) == LN_OK, "fork");
    CHECK(ln_session_truncate(s, ln_session_length(s) > length + LN_PAGE ? 0 : length, NULL) == LN_OK, "truncate");
    append(s, length - ln_session_length(s));
    CHECK(ln_session_score(s, (int32_t[]){3}, 1, &expected, NULL) == LN_OK, "score");
    CHECK(ln_session_score(twin, (int32_t[]){3}, 1, &score, NULL) == LN_OK && score == expected, "a score of a twin");
    saved again = save(loaded);
    CHECK(again.first_page >= f.first_page && memcmp(again.ids, f.ids, sizeof f.ids) == 0, "ids");
    const int64_t n = (pages_of(length) - again.first_page) * f.page_bytes;
    CHECK(memcmp(again.pages, f.pages + (again.first_page - f.first_page) * f.page_bytes, (size_t)n) == 0,
          "what is saved again is the same");
    free(again.pages);
    free(f.pages);
    ln_session_close(twin);
    ln_session_close(loaded);
    ln_session_close(s);
    ln_workspace_close(here);
    ln_workspace_close(there);
}

static void check_isa(const tiny_llama *m, const char *isa) {
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    const int32_t types[] = {LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0};
    const int32_t lengths[] = {1, LN_PAGE, 331};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        for (size_t i = 0; i < sizeof lengths / sizeof lengths[0]; i++) {
            check_bits(model, isa, types[t], lengths[i]);
        }
    }
    ln_model_close(model);
    image_free(&file);
}

/* The same text gives the same bytes, whatever its pages held before. */
static void test_bytes(void) {
    tiny_llama m = tiny;
    m.head_dim = 32;
    image file = tiny_llama_image(&m);
    ln_model *model = open_model(&file);
    for (int32_t kv = 0; kv < 3; kv++) {
        const int32_t kv_type = (int32_t[]){LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0}[kv];
        const ln_workspace_options options = {.n_threads = 1, .kv_tokens = N_CTX, .kv_type = kv_type};
        ln_workspace *w = open_workspace(model, "", options);
        ln_session *s = open_in(w, N_CTX);
        append(s, 70);
        saved fresh = save(s);
        append(s, 100);
        CHECK(ln_session_truncate(s, 70, NULL) == LN_OK, "truncate");
        saved after = save(s);
        CHECK(memcmp(fresh.pages, after.pages, (size_t)(2 * fresh.page_bytes)) == 0, "type %d: what came after shows",
              (int)kv_type);
        free(fresh.pages);
        free(after.pages);
        ln_session_close(s);
        ln_workspace_close(w);
    }
    ln_model_close(model);
    image_free(&file);
}

/* ---- digests ------------------------------------------------------------------------------ */

static uint64_t digest_of(const image *file) {
    uint64_t digest = 0;
    ln_model *model = open_model(file);
    CHECK(ln_model_digest(model, &digest, NULL) == LN_OK, "digest");
    ln_model_close(model);
    return digest;
}

static void test_digests(void) {
    const ln_type types[] = {LN_TYPE_F32, LN_TYPE_Q4_0};
    for (int i = 0; i < 2; i++) {
        tiny_llama m = tiny;
        m.type = types[i];
        image file = tiny_llama_image(&m);
        const uint64_t digest = digest_of(&file);
        CHECK(digest_of(&file) == digest, "twice");
        ln_gguf gguf;
        CHECK(ln_gguf_open(file.bytes, file.size, &gguf, NULL) == LN_OK, "open");
        for (uint64_t t = 0; t < gguf.n_tensors; t++) {
            uint8_t *last = (uint8_t *)(uintptr_t)gguf.tensors[t].data + gguf.tensors[t].bytes - 1;
            *last ^= 1;
            CHECK(digest_of(&file) != digest, "a bit of tensor %d", (int)t);
            *last ^= 1;
        }
        ln_gguf_close(&gguf);
        image_free(&file);
        m.u32_key = "llama.rope.dimension_count";
        m.u32_value = 8;
        file = tiny_llama_image(&m);
        CHECK(digest_of(&file) != digest, "a fact");
        image_free(&file);
    }
    uint8_t bytes[100];
    uint64_t seen[101];
    for (int i = 0; i < 100; i++) {
        bytes[i] = 0;
    }
    for (int i = 0; i <= 100; i++) {
        seen[i] = ln_digest(bytes, (size_t)i, 0);
        for (int j = 0; j < i; j++) {
            CHECK(seen[j] != seen[i], "%d and %d zeros", i, j);
        }
    }
    for (int i = 0; i < 100; i++) {
        bytes[i] = 128;
        CHECK(ln_digest(bytes, 100, 0) != seen[100], "byte %d", i);
        bytes[i] = 0;
    }
    CHECK(ln_digest(bytes, 50, seen[50]) != seen[50] && ln_digest(bytes, 0, 1) != ln_digest(bytes, 0, 0), "chained");
}

/* ---- what is refused ------------------------------------------------------------------------ */

static void test_refusals(void) {
    tiny_llama m = tiny;
    m.u32_key = "llama.attention.sliding_window";
    m.u32_value = WINDOW;
    image files[2] = {tiny_llama_image(&tiny), tiny_llama_image(&m)};
    ln_model *models[2] = {open_model(&files[0]), open_model(&files[1])};
    ln_workspace *w = open_workspace(models[0], "", (ln_workspace_options){.kv_tokens = 3 * LN_PAGE});
    ln_session *s = open_in(w, N_CTX);
    append(s, 150);
    saved f = save(s);
    const size_t bytes = (size_t)f.page_bytes;
    ln_error err = {0};
    CHECK(ln_session_save(s, -1, f.pages, bytes, &err) == LN_BAD_ARGUMENT, "page -1");
    CHECK(ln_session_save(s, 3, f.pages, bytes, &err) == LN_BAD_ARGUMENT, "page 3");
    CHECK(ln_session_save(s, 0, f.pages, bytes - 1, &err) == LN_BAD_ARGUMENT, "a short page");
    CHECK(ln_session_load(s, f.ids, LN_PAGE, f.pages, bytes, &err) == LN_BAD_ARGUMENT, "inside a page");
    ln_session *none = open_in(w, N_CTX);
    CHECK(ln_session_load(none, f.ids, LN_PAGE, f.pages, bytes, &err) == LN_CONTEXT_FULL, "no page is free");
    ln_session_close(s);
    CHECK(ln_session_load(none, f.ids, LN_PAGE + 1, f.pages, bytes, &err) == LN_BAD_ARGUMENT, "more than a page");
    CHECK(ln_session_load(none, f.ids, 0, f.pages, bytes, &err) == LN_BAD_ARGUMENT, "nothing");
    CHECK(ln_session_load(none, f.ids, LN_PAGE, f.pages, bytes + 1, &err) == LN_BAD_ARGUMENT, "a long page");
    CHECK(ln_session_load(none, f.ids, LN_PAGE, NULL, bytes, &err) == LN_BAD_ARGUMENT, "there is no window");
    CHECK(ln_session_load(none, (int32_t[]){VOCAB}, 1, f.pages, bytes, &err) == LN_BAD_ARGUMENT, "no such token");
    CHECK(ln_session_length(none) == 0, "nothing was loaded");
    ln_session *narrow = open_in(w, 10);
    CHECK(ln_session_load(narrow, f.ids, 11, f.pages, bytes, &err) == LN_CONTEXT_FULL, "11 of 10 tokens");
    ln_session_close(narrow);
    ln_session_close(none);
    ln_workspace_close(w);

    /* With a window, what is missing of it is noticed before anything is evaluated. */
    w = open_workspace(models[1], "", (ln_workspace_options){.kv_tokens = 5 * LN_PAGE});
    s = open_in(w, N_CTX);
    const ln_span span = {.session = s, .ids = f.ids, .n = 1};
    CHECK(ln_session_load(s, f.ids, LN_PAGE - 1, NULL, 0, &err) == LN_BAD_ARGUMENT, "part of a page is no page");
    CHECK(ln_session_load(s, f.ids, LN_PAGE, NULL, 0, &err) == LN_OK, "%s", err.message);
    CHECK(ln_session_load(s, f.ids, LN_PAGE, NULL, 0, &err) == LN_OK, "%s", err.message);
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_BAD_ARGUMENT, "nothing of the window");
    CHECK(ln_session_load(s, f.ids, LN_PAGE, f.pages, bytes, &err) == LN_OK, "%s", err.message);
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_BAD_ARGUMENT, "half of the window");
    CHECK(ln_session_score(s, f.ids, 1, &(float){0}, &err) == LN_BAD_ARGUMENT, "to score");
    CHECK(ln_session_fork(s, 3 * LN_PAGE, &none, &err) == LN_BAD_ARGUMENT, "to fork");
    CHECK(ln_session_load(s, f.ids, LN_PAGE, NULL, 0, &err) == LN_BAD_ARGUMENT, "a hole");
    CHECK(ln_session_load(s, f.ids, LN_PAGE, f.pages, bytes, &err) == LN_OK, "%s", err.message);
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_OK, "%s", err.message);
    CHECK(ln_session_truncate(s, 0, NULL) == LN_OK, "back to nothing");
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_OK, "%s", err.message);
    ln_session_close(s);
    ln_workspace_close(w);
    free(f.pages);
    for (int i = 0; i < 2; i++) {
        ln_model_close(models[i]);
        image_free(&files[i]);
    }
}

int main(void) {
    tiny_llama m = tiny;
    m.head_dim = 32;
    for_each_isa(check_isa, &m);
    m.u32_key = "llama.attention.sliding_window";
    m.u32_value = WINDOW;
    for_each_isa(check_isa, &m);
    test_bytes();
    test_digests();
    test_refusals();
    return 0;
}
