/* tiny_sessions.h - opens models, workspaces and sessions of the tiny Llama, for the C tests. */
#ifndef LINNET_TESTS_TINY_SESSIONS_H
#define LINNET_TESTS_TINY_SESSIONS_H

#include "gguf_image.h"

#include "session.h"

#define N_CTX 600 /* tokens of the longest timeline */

/* The timeline of the tests. */
static inline int32_t token(int32_t i) {
    return (i * 37 + 11) % 50;
}

static inline void fill_tokens(int32_t *ids, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        ids[i] = token(i);
    }
}

static inline ln_model *open_model(const image *file) {
    ln_model *model;
    ln_error err = {0};
    ln_load_step step = {0};
    CHECK(ln_model_open(file->bytes, file->size, &model, &err) == LN_OK, "%s", err.message);
    do {
        CHECK(ln_model_load(model, 1, &step, &err) == LN_OK, "%s", err.message);
    } while (step.bytes_left > 0);
    return model;
}

static inline ln_workspace *open_workspace(const ln_model *model, const char *isa, ln_workspace_options options) {
    ln_workspace *workspace;
    ln_error err = {0};
    snprintf(options.isa, sizeof options.isa, "%s", isa);
    CHECK(ln_workspace_open(model, &options, &workspace, &err) == LN_OK, "%s", err.message);
    return workspace;
}

static inline ln_session *open_in(ln_workspace *workspace, int32_t n_ctx) {
    ln_session *session;
    ln_error err = {0};
    CHECK(ln_session_open(workspace, n_ctx, &session, &err) == LN_OK, "%s", err.message);
    return session;
}

/* A session with a workspace to itself. */
static inline ln_session *open_alone(const ln_model *model, const char *isa, ln_workspace_options options) {
    return open_in(open_workspace(model, isa, options), options.kv_tokens);
}

static inline void close_alone(ln_session *session) {
    ln_workspace *workspace = session->workspace;
    ln_session_close(session);
    ln_workspace_close(workspace);
}

/* Goes on with the n next tokens. */
static inline void append(ln_session *s, int32_t n) {
    int32_t ids[N_CTX];
    ln_error err = {0};
    for (int32_t i = 0; i < n; i++) {
        ids[i] = token(ln_session_length(s) + i);
    }
    CHECK(ln_session_eval(s, ids, n, NULL, &err) == LN_OK, "%s", err.message);
}

/* Calls check once for every instruction set of this processor; for the first alone where LINNET_FIRST_ISA_ONLY is
 * set, for an emulator, which takes fifty times as long. */
static inline void for_each_isa(void (*check)(const tiny_llama *, const char *), const tiny_llama *m) {
    char names[128];
    snprintf(names, sizeof names, "%s", ln_isa_list());
    const int all = getenv("LINNET_FIRST_ISA_ONLY") == NULL;
    for (char *isa = strtok(names, " "); isa != NULL; isa = all ? strtok(NULL, " ") : NULL) {
        check(m, isa);
    }
}

#endif
