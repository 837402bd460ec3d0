/* fuzz_gguf.c - any bytes as a GGUF file: the reader, every accessor, and, where the bytes are a model
 * that opens, its digest, a session and two tokens. The seeds in corpus/ are of core/tests/test_gguf FILE,
 * test_encoders [rank] FILE, and of tests/tiny_families.py with two layers of 32 in q4_0. */
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

#define MAX_CONTEXT 8
#define ALIGNMENT 32 /* of tensor data, where the file names none */

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max_size);

static void look_up_all(const ln_gguf *g) {
    for (uint64_t i = 0; i < g->n_pairs; i++) {
        char key[64] = "";
        if (g->pairs[i].key.length >= sizeof key) {
            continue;
        }
        for (size_t j = 0; j < g->pairs[i].key.length; j++) {
            key[j] = g->pairs[i].key.data[j];
        }
        uint32_t u32 = 0;
        int32_t i32 = 0;
        uint64_t u64 = 0;
        float f32 = 0;
        int truth = 0;
        ln_string text = {0};
        ln_gguf_array array;
        ln_gguf_u32(g, key, &u32, NULL);
        ln_gguf_i32(g, key, &i32, NULL);
        ln_gguf_u64(g, key, &u64, NULL);
        ln_gguf_f32(g, key, &f32, NULL);
        ln_gguf_bool(g, key, &truth, NULL);
        ln_gguf_string(g, key, &text, NULL);
        if (ln_gguf_array_of(g, key, LN_GGUF_STRING, &array, NULL) == LN_OK) {
            volatile char last = 0;
            while (ln_gguf_array_next(&array, &text)) {
                last = text.length > 0 ? text.data[text.length - 1] : last;
            }
        }
        if (ln_gguf_array_of(g, key, LN_GGUF_I32, &array, NULL) == LN_OK && array.length > 0) {
            ln_gguf_array_i32(&array, array.length - 1);
        }
        if (ln_gguf_array_of(g, key, LN_GGUF_F32, &array, NULL) == LN_OK && array.length > 0) {
            ln_gguf_array_f32(&array, array.length - 1);
        }
    }
}

static int load(ln_model *model) {
    ln_load_step step = {.bytes_left = 1};
    while (step.bytes_left > 0) {
        if (ln_model_load(model, 1, &step, NULL) != LN_OK) {
            return 0;
        }
    }
    return 1;
}

/* What an encoder does. */
static void read_text(ln_workspace *workspace, ln_session *session, const ln_model *model) {
    ln_model_info info;
    ln_model_describe(model, &info);
    float *hidden = info.dim < 1 << 20 ? malloc(2 * sizeof *hidden * (size_t)info.dim) : NULL;
    float score;
    const ln_span span = {.session = session, .ids = (int32_t[]){0, 0}, .n = 2, .hidden = hidden,
                          .types = info.n_token_types > 1 ? (int32_t[]){1, 0} : NULL,
                          .score = info.ranks ? &score : NULL};
    if (hidden != NULL) {
        ln_workspace_eval(workspace, &span, 1, NULL);
    }
    free(hidden);
}

static void run_model(ln_model *model) {
    const ln_workspace_options options = {.kv_tokens = MAX_CONTEXT, .n_threads = 1, .n_batch = 2};
    ln_workspace_plan plan;
    uint64_t digest;
    ln_workspace *workspace;
    ln_session *session;
    ln_workspace_foresee(model, &options, &plan, NULL);
    if (!load(model) || ln_model_digest(model, &digest, NULL) != LN_OK ||
        ln_workspace_open(model, &options, &workspace, NULL) != LN_OK) {
        return;
    }
    if (ln_session_open(workspace, 0, &session, NULL) == LN_OK) {
        float scores[2];
        ln_session_eval(session, (int32_t[]){0, 1}, 2, NULL, NULL);
        ln_session_score(session, (int32_t[]){0, 0}, 2, scores, NULL);
        ln_session_truncate(session, 0, NULL);
        read_text(workspace, session, model);
        ln_session_close(session);
    }
    ln_workspace_close(workspace);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    ln_gguf gguf;
    ln_error err;
    if (ln_gguf_open(data, size, &gguf, &err) == LN_OK) {
        look_up_all(&gguf);
        ln_gguf_close(&gguf);
    }
    ln_model *model;
    if (ln_model_open(data, size, &model, &err) == LN_OK) {
        run_model(model);
        ln_model_close(model);
    }
    return 0;
}

/* Where the descriptions of tensors end: after the last name come its dimensions, type and offset. */
static size_t end_of_header(const ln_gguf *g, const uint8_t *file) {
    size_t end = 0;
    for (uint64_t i = 0; i < g->n_tensors; i++) {
        const ln_string name = g->tensors[i].name;
        const uint8_t *after = (const uint8_t *)name.data + name.length;
        uint32_t n_dims;
        memcpy(&n_dims, after, sizeof n_dims);
        const size_t here = (size_t)(after - file) + sizeof n_dims + 8 * (size_t)n_dims + 4 + 8;
        end = here > end ? here : end;
    }
    return end;
}

static size_t aligned(size_t offset, uint32_t to) {
    return (offset + to - 1) / to * to;
}

/* Mutates the header and moves the tensors after it to where they then have to lie. */
static size_t mutate_header(uint8_t *file, size_t size, size_t max_size, const ln_gguf *g) {
    uint32_t alignment = ALIGNMENT;
    ln_gguf_u32(g, "general.alignment", &alignment, NULL);
    const size_t old = end_of_header(g, file);
    const size_t start = aligned(old, alignment);
    const size_t tensors = size > start ? size - start : 0;
    uint8_t *header = calloc(1, max_size);
    if (header == NULL || old == 0 || tensors + old + alignment > max_size) {
        free(header);
        return LLVMFuzzerMutate(file, size, max_size);
    }
    memcpy(header, file, old);
    const size_t now = aligned(LLVMFuzzerMutate(header, old, max_size - tensors - alignment), alignment);
    memmove(file + now, file + start, tensors);
    memcpy(file, header, now);
    free(header);
    return now + tensors;
}

/* Mutates one value where it lies, its size kept. */
static size_t mutate_value(uint8_t *file, size_t size, const ln_gguf *g, unsigned int seed) {
    const ln_gguf_pair *pair = &g->pairs[seed % g->n_pairs];
    LLVMFuzzerMutate(file + (pair->data - file), pair->bytes, pair->bytes);
    return size;
}

/* Most bytes of a model are weights, and any will do: what decides lies before them. A mutation that
 * moved them would end at the reader's check of offsets. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max_size, unsigned int seed) {
    ln_gguf gguf;
    if (seed % 8 == 0 || ln_gguf_open(data, size, &gguf, NULL) != LN_OK) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    if (seed % 2 == 0 && gguf.n_pairs > 0) {
        size = mutate_value(data, size, &gguf, seed / 8);
    } else {
        size = mutate_header(data, size, max_size, &gguf);
    }
    ln_gguf_close(&gguf);
    return size;
}
