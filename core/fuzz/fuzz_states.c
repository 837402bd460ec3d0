/* fuzz_states.c - any pages, ids and order of calls: loading, going back, forking, evaluating and saving of a model
 * with a sliding window and narrow keys and values. The first byte chooses their type; then each step is a byte that
 * says what, one that says how many tokens, and the bytes of a page. */
#include "../tests/tiny_sessions.h"

#define CONTEXT 400

/* The workspaces of the four types; pages that earlier inputs used are used again. */
static ln_workspace *workspace_of(uint8_t type) {
    static image file;
    static ln_model *model;
    static ln_workspace *all[4];
    if (model == NULL) {
        tiny_llama m = tiny;
        m.n_layers = 1;
        m.head_dim = 32;
        m.u32_key = "llama.attention.sliding_window";
        m.u32_value = 70;
        file = tiny_llama_image(&m);
        model = open_model(&file);
    }
    if (all[type] == NULL) {
        const int32_t types[] = {LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0};
        all[type] = open_workspace(model, "", (ln_workspace_options){.n_threads = 1, .n_batch = 16, .kv_tokens = CONTEXT,
                                                                     .kv_type = types[type]});
    }
    return all[type];
}

static void step(ln_session **s, uint8_t what, int32_t n, void *page, size_t bytes) {
    int32_t ids[256];
    fill_tokens(ids, n);
    ln_session *twin;
    float scores[256];
    switch (what % 7) {
    case 0: ln_session_load(*s, ids, n, page, bytes, NULL); break;
    case 1: ln_session_load(*s, ids, n, NULL, 0, NULL); break;
    case 2: ln_session_load(*s, ids, LN_PAGE, what < 128 ? page : NULL, bytes, NULL); break;
    case 3: ln_session_eval(*s, ids, n % 8, NULL, NULL); break;
    case 4: ln_session_score(*s, ids, n % 8, scores, NULL); break;
    case 5: ln_session_truncate(*s, ln_session_length(*s) - n, NULL); break;
    default:
        if (ln_session_fork(*s, ln_session_length(*s) - n % 80, &twin, NULL) == LN_OK) {
            ln_session_close(*s);
            *s = twin;
        }
    }
    ln_session_save(*s, n / 8, page, bytes, NULL);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (size == 0) {
        return 0;
    }
    ln_workspace *w = workspace_of(data[0] % 4);
    ln_session *s = open_in(w, CONTEXT);
    ln_workspace_info info;
    ln_workspace_describe(w, &info);
    const size_t bytes = (size_t)info.page_bytes;
    uint8_t *page = calloc(1, bytes);
    for (size_t at = 1; at + 2 <= size && page != NULL; at += 2) {
        for (size_t i = 0; i < bytes; i++) { /* what is left of the input, over and over */
            page[i] = data[(at + i) % size];
        }
        step(&s, data[at], data[at + 1], page, bytes);
    }
    free(page);
    ln_session_close(s);
    ln_workspace_describe(w, &info);
    CHECK(info.n_free_pages == info.n_pages, "%d of %d pages are free", (int)info.n_free_pages, (int)info.n_pages);
    return 0;
}
