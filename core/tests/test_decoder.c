/* test_decoder.c - models and sessions: the logits against a forward pass written out in double
 * precision, the same bits however the work is cut up, and what is refused with which words. */
#include "tiny_sessions.h"

#define N_TOKENS 70

/* ---- the oracle ------------------------------------------------------------------ */

/* A tensor of the image as doubles, [rows][cols]; the caller frees it. */
static double *weights_of(const ln_gguf *g, const char *name) {
    const ln_gguf_tensor *t = ln_gguf_find_tensor(g, name);
    CHECK(t != NULL, "no %s", name);
    int64_t n = t->dims[0] * t->dims[1];
    float *floats = calloc((size_t)n, sizeof *floats);
    double *doubles = calloc((size_t)n, sizeof *doubles);
    CHECK(floats != NULL && doubles != NULL, "out of memory");
    CHECK(ln_unpack(t->type, t->data, n, floats, NULL) == LN_OK, "unpack %s", name);
    for (int64_t i = 0; i < n; i++) {
        doubles[i] = (double)floats[i];
    }
    free(floats);
    return doubles;
}

static double *layer_weights(const ln_gguf *g, uint32_t layer, const char *name) {
    char full[64];
    snprintf(full, sizeof full, "blk.%u.%s", (unsigned)layer, name);
    return weights_of(g, full);
}

/* y[rows] (+)= w x, and frees w */
static void multiply(double *w, uint32_t rows, uint32_t cols, const double *x, double *y, int add) {
    for (uint32_t r = 0; r < rows; r++) {
        double sum = add ? y[r] : 0;
        for (uint32_t c = 0; c < cols; c++) {
            sum += w[r * cols + c] * x[c];
        }
        y[r] = sum;
    }
    free(w);
}

static void normalise(double *w, uint32_t n, const double *x, double *y) {
    double squares = 0;
    for (uint32_t i = 0; i < n; i++) {
        squares += x[i] * x[i];
    }
    for (uint32_t i = 0; i < n; i++) {
        y[i] = x[i] / sqrt(squares / n + 1e-5) * w[i];
    }
    free(w);
}

static void rotate_heads(const ln_gguf *g, const tiny_llama *m, double *x, uint32_t n_heads, int position) {
    double *divisors = m->rope_divisors ? weights_of(g, "rope_freqs.weight") : NULL;
    for (uint32_t i = 0; i < n_heads * m->head_dim; i += 2) {
        uint32_t pair = i % m->head_dim / 2;
        double angle = position * pow(5000.0, -2.0 * pair / m->head_dim);
        angle /= (m->linear > 0 ? (double)m->linear : 1) * (divisors != NULL ? divisors[pair] : 1);
        double a = x[i];
        double b = x[i + 1];
        x[i] = a * cos(angle) - b * sin(angle);
        x[i + 1] = a * sin(angle) + b * cos(angle);
    }
    free(divisors);
}

#define MAX_WIDTH 128

/* The residual stream of all tokens, and the keys and values of one layer. */
typedef struct oracle {
    double x[N_TOKENS][MAX_WIDTH];
    double k[N_TOKENS][MAX_WIDTH];
    double v[N_TOKENS][MAX_WIDTH];
} oracle;

static void attend(const tiny_llama *m, const oracle *o, const double *q, int position, double *out) {
    for (uint32_t h = 0; h < m->n_heads; h++) {
        uint32_t kv = h / (m->n_heads / m->n_kv_heads) * m->head_dim;
        double weights[N_TOKENS];
        double total = 0;
        for (int p = 0; p <= position; p++) {
            double score = 0;
            for (uint32_t i = 0; i < m->head_dim; i++) {
                score += q[h * m->head_dim + i] * o->k[p][kv + i];
            }
            weights[p] = exp(score / sqrt(m->head_dim));
            total += weights[p];
        }
        for (uint32_t i = 0; i < m->head_dim; i++) {
            double sum = 0;
            for (int p = 0; p <= position; p++) {
                sum += weights[p] / total * o->v[p][kv + i];
            }
            out[h * m->head_dim + i] = sum;
        }
    }
}

static void oracle_layer(const ln_gguf *g, const tiny_llama *m, uint32_t layer, oracle *o) {
    const uint32_t query = m->n_heads * m->head_dim;
    const uint32_t key = m->n_kv_heads * m->head_dim;
    double h[MAX_WIDTH], q[MAX_WIDTH], out[MAX_WIDTH], gate[MAX_WIDTH], up[MAX_WIDTH];
    for (int p = 0; p < N_TOKENS; p++) {
        normalise(layer_weights(g, layer, "attn_norm.weight"), m->dim, o->x[p], h);
        multiply(layer_weights(g, layer, "attn_q.weight"), query, m->dim, h, q, 0);
        multiply(layer_weights(g, layer, "attn_k.weight"), key, m->dim, h, o->k[p], 0);
        multiply(layer_weights(g, layer, "attn_v.weight"), key, m->dim, h, o->v[p], 0);
        rotate_heads(g, m, q, m->n_heads, p);
        rotate_heads(g, m, o->k[p], m->n_kv_heads, p);
        attend(m, o, q, p, out);
        multiply(layer_weights(g, layer, "attn_output.weight"), m->dim, query, out, o->x[p], 1);
        normalise(layer_weights(g, layer, "ffn_norm.weight"), m->dim, o->x[p], h);
        multiply(layer_weights(g, layer, "ffn_gate.weight"), m->ffn_dim, m->dim, h, gate, 0);
        multiply(layer_weights(g, layer, "ffn_up.weight"), m->ffn_dim, m->dim, h, up, 0);
        for (uint32_t i = 0; i < m->ffn_dim; i++) {
            gate[i] = gate[i] / (1 + exp(-gate[i])) * up[i];
        }
        multiply(layer_weights(g, layer, "ffn_down.weight"), m->dim, m->ffn_dim, gate, o->x[p], 1);
    }
}

/* logits[N_TOKENS][vocab_size] of the timeline token(0), token(1), ... */
static void oracle_logits(const image *file, const tiny_llama *m, double *logits) {
    ln_gguf g;
    CHECK(ln_gguf_open(file->bytes, file->size, &g, NULL) == LN_OK, "open");
    oracle *o = calloc(1, sizeof *o);
    CHECK(o != NULL, "out of memory");
    double *embedding = weights_of(&g, "token_embd.weight");
    for (int p = 0; p < N_TOKENS; p++) {
        memcpy(o->x[p], embedding + (uint32_t)token(p) * m->dim, m->dim * sizeof(double));
    }
    free(embedding);
    for (uint32_t layer = 0; layer < m->n_layers; layer++) {
        oracle_layer(&g, m, layer, o);
    }
    for (int p = 0; p < N_TOKENS; p++) {
        double h[MAX_WIDTH];
        normalise(weights_of(&g, "output_norm.weight"), m->dim, o->x[p], h);
        multiply(weights_of(&g, m->tied ? "token_embd.weight" : "output.weight"), m->vocab_size, m->dim, h,
                 logits + (uint32_t)p * m->vocab_size, 0);
    }
    free(o);
    ln_gguf_close(&g);
}

/* ---- sessions --------------------------------------------------------------------- */

static ln_session *open_session(const ln_model *model, const char *isa, int32_t n_threads, int32_t n_batch,
                                int32_t kv_type) {
    const ln_workspace_options options = {
        .n_threads = n_threads, .n_batch = n_batch, .kv_tokens = N_TOKENS, .kv_type = kv_type};
    ln_session *session = open_alone(model, isa, options);
    ln_workspace_info info;
    CHECK(ln_workspace_describe(session->workspace, &info) == LN_OK, "describe");
    CHECK(strcmp(info.isa, isa) == 0 && info.n_threads == n_threads && info.n_batch == n_batch &&
              info.kv_type == kv_type && info.n_sessions == 1, "%s, %d threads", info.isa, (int)info.n_threads);
    return session;
}

static double difference_from_oracle(const ln_model *model, const tiny_llama *m, const char *isa, int32_t kv_type,
                                     const double *expected) {
    const size_t n = (size_t)N_TOKENS * m->vocab_size;
    float *logits = calloc(n, sizeof *logits);
    int32_t ids[N_TOKENS];
    fill_tokens(ids, N_TOKENS);
    ln_error err = {0};
    ln_session *session = open_session(model, isa, 2, 16, kv_type);
    CHECK(ln_session_eval(session, ids, N_TOKENS, logits, &err) == LN_OK, "%s", err.message);
    double worst = 0;
    for (size_t i = 0; i < n; i++) {
        worst = fmax(worst, fabs((double)logits[i] - expected[i]));
    }
    close_alone(session);
    free(logits);
    return worst;
}

static void check_against_oracle(const tiny_llama *m, const char *isa) {
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    double *expected = calloc((size_t)N_TOKENS * m->vocab_size, sizeof *expected);
    oracle_logits(&file, m, expected);
    double worst = difference_from_oracle(model, m, isa, LN_TYPE_F32, expected);
    CHECK(worst < 1e-4, "%s: logits differ by %g", isa, worst);
    worst = difference_from_oracle(model, m, isa, LN_TYPE_F16, expected);
    CHECK(worst > 0 && worst < 3e-2, "%s: logits with an f16 cache differ by %g", isa, worst);
    free(expected);
    ln_model_close(model);
    image_free(&file);
}

static void test_oracle(void) {
    tiny_llama m = tiny;
    for_each_isa(check_against_oracle, &m);
    m.tied = 1;
    m.linear = 4;
    m.n_kv_heads = 4;
    for_each_isa(check_against_oracle, &m);
    m.rope_divisors = 1;
    m.linear = 0;
    m.n_kv_heads = 1;
    m.head_dim = 24;
    for_each_isa(check_against_oracle, &m);
    m.type = LN_TYPE_BF16;
    for_each_isa(check_against_oracle, &m);
}

/* The logits of every token, one by one, with one thread: the bits all other ways must give. */
static void step_by_step(const ln_model *model, const char *isa, uint32_t vocab_size, float *logits) {
    ln_session *session = open_session(model, isa, 1, 1, LN_TYPE_F32);
    for (int i = 0; i < N_TOKENS; i++) {
        CHECK(ln_session_eval(session, &(int32_t){token(i)}, 1, NULL, NULL) == LN_OK, "token %d", i);
        memcpy(logits + (uint32_t)i * vocab_size, ln_session_logits(session), vocab_size * sizeof *logits);
    }
    close_alone(session);
}

static void check_one_way(ln_session *s, const float *expected, uint32_t vocab_size, const char *way) {
    const size_t bytes = (size_t)N_TOKENS * vocab_size * sizeof(float);
    const float *last = expected + (size_t)(N_TOKENS - 1) * vocab_size;
    float *logits = malloc(bytes);
    float scores[N_TOKENS];
    float parts[N_TOKENS];
    int32_t ids[N_TOKENS];
    fill_tokens(ids, N_TOKENS);
    CHECK(ln_session_eval(s, ids, N_TOKENS, logits, NULL) == LN_OK, "%s", way);
    CHECK(memcmp(logits, expected, bytes) == 0, "%s: eval of all at once gives other bits", way);
    CHECK(memcmp(ln_session_logits(s), last, vocab_size * sizeof(float)) == 0, "%s: last logits", way);

    CHECK(ln_session_truncate(s, 13, NULL) == LN_OK && ln_session_logits(s) == NULL, "%s: truncate", way);
    CHECK(ln_session_eval(s, ids + 13, N_TOKENS - 13, NULL, NULL) == LN_OK, "%s", way);
    CHECK(memcmp(ln_session_logits(s), last, vocab_size * sizeof(float)) == 0, "%s: after a truncation", way);

    CHECK(ln_session_truncate(s, 0, NULL) == LN_OK, "%s: truncate", way);
    CHECK(ln_session_score(s, ids, N_TOKENS, scores, NULL) == LN_OK, "%s: score", way);
    CHECK(memcmp(ln_session_logits(s), last, vocab_size * sizeof(float)) == 0, "%s: logits after score", way);
    CHECK(isnan(scores[0]), "%s: %g", way, (double)scores[0]);
    for (int i = 1; i < N_TOKENS; i++) {
        double sum = 0;
        for (uint32_t j = 0; j < vocab_size; j++) {
            sum += exp((double)expected[(size_t)(i - 1) * vocab_size + j]);
        }
        double log_prob = (double)expected[(size_t)(i - 1) * vocab_size + (uint32_t)ids[i]] - log(sum);
        CHECK(fabs((double)scores[i] - log_prob) < 2e-6, "%s: score %d is %g, not %g", way, i, (double)scores[i],
              log_prob);
    }
    /* In two parts, the second after a truncation that dropped the logits it begins with. */
    CHECK(ln_session_truncate(s, 30, NULL) == LN_OK, "%s: truncate", way);
    CHECK(ln_session_score(s, ids + 30, N_TOKENS - 30, parts + 30, NULL) == LN_OK, "%s: score", way);
    CHECK(memcmp(parts + 30, scores + 30, sizeof parts - 30 * sizeof parts[0]) == 0, "%s: score in parts", way);
    free(logits);
}

static void check_same_bits(const tiny_llama *m, const char *isa) {
    image file = tiny_llama_image(m);
    ln_model *model = open_model(&file);
    float *expected = calloc((size_t)N_TOKENS * m->vocab_size, sizeof *expected);
    step_by_step(model, isa, m->vocab_size, expected);
    const struct {
        int32_t n_threads, n_batch;
    } ways[] = {{1, 64}, {2, 1}, {2, 64}, {3, 7}};
    for (size_t i = 0; i < sizeof ways / sizeof ways[0]; i++) {
        char way[64];
        snprintf(way, sizeof way, "%s, type %d, %d threads, batch %d", isa, (int)m->type, (int)ways[i].n_threads,
                 (int)ways[i].n_batch);
        ln_session *session = open_session(model, isa, ways[i].n_threads, ways[i].n_batch, LN_TYPE_F32);
        check_one_way(session, expected, m->vocab_size, way);
        close_alone(session);
    }
    free(expected);
    ln_model_close(model);
    image_free(&file);
}

static void test_same_bits(void) {
    const ln_type types[] = {LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        tiny_llama m = tiny;
        m.type = types[i];
        for_each_isa(check_same_bits, &m);
    }
    tiny_llama ragged = tiny; /* rows that fill neither a tile nor a vector register, and work worth sharing */
    ragged.ffn_dim = 1003;
    for_each_isa(check_same_bits, &ragged);
    tiny_llama mixed = tiny; /* only some rows are whole blocks: ffn_down and attn_output are q8_0, the others f32 */
    mixed.type = LN_TYPE_Q8_0;
    mixed.dim = 45;
    mixed.n_kv_heads = 1;
    for_each_isa(check_same_bits, &mixed);
}

/* ---- what is refused ----------------------------------------------------------------- */

static void test_session_errors(void) {
    image file = tiny_llama_image(&tiny);
    ln_model *model = open_model(&file);
    ln_workspace *workspace;
    ln_session *session;
    ln_error err = {0};
    const ln_workspace_options bad[] = {
        {.kv_tokens = -1}, {.n_batch = -1},          {.n_threads = -1}, {.n_threads = 100000},
        {.kv_type = 30},   {.kv_type = LN_TYPE_Q8_0}, {.kv_type = -1},  {.isa = "z80"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(ln_workspace_open(model, &bad[i], &workspace, &err) == LN_BAD_ARGUMENT && workspace == NULL,
              "options %zu", i);
        CHECK(i != 5 || strstr(err.message, "take f16") != NULL, "heads of 16 in q8_0: %s", err.message);
    }
    CHECK(strstr(err.message, "z80") != NULL && strstr(err.message, "scalar") != NULL, "%s", err.message);

    session = open_session(model, "scalar", 1, 4, LN_TYPE_F32);
    CHECK(ln_session_logits(session) == NULL && ln_session_length(session) == 0, "a new session");
    CHECK(ln_session_eval(session, (int32_t[]){1, 2, 3}, 3, NULL, &err) == LN_OK, "%s", err.message);
    float before[64];
    memcpy(before, ln_session_logits(session), tiny.vocab_size * sizeof *before);
    CHECK(ln_session_eval(session, (int32_t[]){1, 50}, 2, NULL, &err) == LN_BAD_ARGUMENT, "id 50 of 50");
    CHECK(strstr(err.message, "token id 50") != NULL, "%s", err.message);
    CHECK(ln_session_eval(session, (int32_t[]){-1}, 1, NULL, &err) == LN_BAD_ARGUMENT, "id -1");
    float score;
    CHECK(ln_session_score(session, (int32_t[]){50}, 1, &score, &err) == LN_BAD_ARGUMENT, "score of id 50");
    int32_t ids[N_TOKENS];
    fill_tokens(ids, N_TOKENS);
    CHECK(ln_session_eval(session, ids, N_TOKENS - 2, NULL, &err) == LN_CONTEXT_FULL, "one too many");
    CHECK(strstr(err.message, "3 of 70") != NULL && strstr(err.message, "68 more") != NULL, "%s", err.message);
    CHECK(ln_session_truncate(session, 4, &err) == LN_BAD_ARGUMENT, "truncate to more");
    CHECK(ln_session_truncate(session, -1, &err) == LN_BAD_ARGUMENT, "truncate to less than nothing");
    CHECK(ln_session_length(session) == 3, "a failure moved the timeline");
    CHECK(memcmp(before, ln_session_logits(session), tiny.vocab_size * sizeof *before) == 0, "or its logits");
    CHECK(ln_session_eval(session, ids, N_TOKENS - 3, NULL, &err) == LN_OK, "the last that fit: %s", err.message);
    CHECK(ln_session_length(session) == ln_session_capacity(session), "full");
    close_alone(session);
    ln_model_close(model);
    image_free(&file);
}

static void expect_refusal(const tiny_llama *m, ln_status status, const char *say) {
    image file = tiny_llama_image(m);
    ln_model *model;
    ln_error err = {0};
    ln_status got = ln_model_open(file.bytes, file.size, &model, &err);
    CHECK(got == status && model == NULL, "%d for %s: %s", (int)got, say, err.message);
    CHECK(strstr(err.message, say) != NULL, "'%s' is not in '%s'", say, err.message);
    image_free(&file);
}

static void test_refused_tensors(void) {
    tiny_llama m = tiny;
    m.without = "blk.1.ffn_up.weight";
    expect_refusal(&m, LN_BAD_FILE, "'blk.1.ffn_up.weight' is missing");
    m.without = "token_embd.weight";
    expect_refusal(&m, LN_BAD_FILE, "'token_embd.weight' is missing");
    m = tiny;
    m.wider = "blk.0.attn_k.weight";
    expect_refusal(&m, LN_BAD_FILE, "'blk.0.attn_k.weight' is [32][96], the metadata asks for [32][64]");
    m = tiny;
    m.odd_type = "blk.0.attn_v.weight";
    expect_refusal(&m, LN_UNSUPPORTED, "'blk.0.attn_v.weight' is of type iq2_xxs (16)");
    const char *const extras[] = {"blk.0.attn_q.odd", "blk.0.attn_q_norm.weight", "blk.2.attn_norm.weight",
                                  "blk.00.attn_norm.weight", "blk..attn_norm.weight", "blk.1", "more"};
    for (size_t i = 0; i < sizeof extras / sizeof extras[0]; i++) {
        m = tiny;
        m.extra = extras[i];
        expect_refusal(&m, LN_UNSUPPORTED, extras[i]);
    }
}

static void test_refused_facts(void) {
    tiny_llama m = tiny;
    m.without = "llama.block_count";
    expect_refusal(&m, LN_BAD_FILE, "'llama.block_count' is missing");
    const struct {
        const char *key;
        uint32_t value;
        ln_status status;
        const char *say;
    } wrong[] = {
        {"llama.block_count", 0, LN_BAD_FILE, "'llama.block_count' is 0"},
        {"llama.block_count", 3, LN_BAD_FILE, "'blk.2.attn_norm.weight' is missing"},
        {"llama.block_count", 2000000000, LN_BAD_FILE, "2000000000 layers"},
        {"llama.embedding_length", UINT32_MAX, LN_BAD_FILE, "'llama.embedding_length'"},
        {"llama.attention.head_count_kv", 3, LN_BAD_FILE, "cannot share"},
        {"llama.attention.value_length", 8, LN_UNSUPPORTED, "values of 8"},
        {"llama.attention.key_length", 65536, LN_BAD_FILE, "'blk.0.attn_q.weight'"},
        {"llama.attention.key_length", 65537, LN_UNSUPPORTED, "heads of 65537"},
        {"llama.rope.dimension_count", 15, LN_BAD_FILE, "15 rotated"},
        {"llama.rope.dimension_count", 18, LN_BAD_FILE, "18 rotated"},
        {"llama.vocab_size", 51, LN_BAD_FILE, "51 tokens and the embedding has 50"},
        {"llama.expert_count", 8, LN_BAD_FILE, "'llama.expert_used_count' is missing"},
        {"llama.expert_shared_count", 1, LN_UNSUPPORTED, "'llama.expert_shared_count' to 1"},
        {"llama.block_repeat", 65, LN_UNSUPPORTED, "65 times"},
        {"llama.attention.sliding_window_pattern", UINT32_MAX, LN_BAD_FILE, "sliding_window_pattern"},
        {"llama.attention.sliding_window", 1u << 31, LN_BAD_FILE, "sliding_window"},
        {"split.count", 2, LN_UNSUPPORTED, "2 parts"},
    };
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        m = tiny;
        m.u32_key = wrong[i].key;
        m.u32_value = wrong[i].value;
        expect_refusal(&m, wrong[i].status, wrong[i].say);
    }
    m = tiny;
    m.string_key = "llama.rope.scaling.type";
    m.string_value = "yarn";
    expect_refusal(&m, LN_BAD_FILE, "'llama.rope.scaling.original_context_length' is missing");
    m.string_value = "dynamic";
    expect_refusal(&m, LN_UNSUPPORTED, "'dynamic'");
    m.string_key = "llama.hidden_act";
    m.string_value = "mish";
    expect_refusal(&m, LN_UNSUPPORTED, "'mish'");
}

static void test_describe(void) {
    tiny_llama m = tiny;
    m.type = LN_TYPE_Q8_0;
    image file = tiny_llama_image(&m);
    ln_model *model = open_model(&file);
    ln_model_info info;
    CHECK(ln_model_describe(model, &info) == LN_OK, "describe");
    CHECK(strcmp(info.arch, "llama") == 0 && info.n_layers == 2 && info.n_heads == 4 && info.n_kv_heads == 2 &&
              info.head_dim == 16 && info.dim == 64 && info.ffn_dim == 96 && info.vocab_size == 50 &&
              info.max_seq_len == 128 && info.tied_embeddings == 0, "shape");
    const int64_t matrices = 2 * (64 * 64 * 2 + 64 * 32 * 2 + 64 * 96 * 3);
    const int64_t vectors = 5 * 64;
    CHECK(info.n_params == matrices + vectors + 2 * 50 * 64, "%d parameters", (int)info.n_params);
    CHECK(info.weight_bytes == (matrices + 2 * 50 * 64) / 32 * 34 + vectors * 4, "%d bytes", (int)info.weight_bytes);
    CHECK(info.bytes_per_token == info.weight_bytes - 49 * 68, "%d bytes per token", (int)info.bytes_per_token);
    ln_model_close(model);
    image_free(&file);
}

/* ---- threads --------------------------------------------------------------------------- */

typedef struct count_job {
    int32_t *counts; /* [items], written by one thread each */
} count_job;

static void count_item(const void *job, int32_t item, int32_t worker) {
    CHECK(worker >= 0 && worker < 4, "worker %d", (int)worker);
    ((const count_job *)job)->counts[item]++;
}

/* Every item of every job is done once, and is done when run returns. */
static void test_threads(void) {
    ln_threads *threads;
    CHECK(ln_threads_open(4, &threads, NULL) == LN_OK && ln_threads_count(threads) == 4, "4 threads");
    int32_t counts[100] = {0};
    for (int32_t round = 1; round <= 3000; round++) {
        int32_t n = round % 100 + 1;
        memset(counts, 0, sizeof counts);
        const count_job job = {counts};
        ln_threads_run(threads, n, count_item, &job);
        for (int32_t i = 0; i < 100; i++) {
            CHECK(counts[i] == (i < n), "round %d: item %d was done %d times", (int)round, (int)i, (int)counts[i]);
        }
    }
    ln_threads_close(threads);
    CHECK(ln_threads_open(0, &threads, NULL) == LN_OK && ln_threads_count(threads) >= 1, "a thread per processor");
    ln_threads_close(threads);
}

static void test_machine(void) {
    static const char buffer[1 << 20];
    double rate = ln_read_bandwidth(buffer, sizeof buffer, 1, 0.01);
    CHECK(rate > 1e7 && rate < 1e13, "%g bytes per second", rate);
    CHECK(ln_read_bandwidth(NULL, 8, 1, 0.01) == 0, "no buffer");
    const char *isas = ln_isa_list();
    CHECK(strlen(isas) >= 6 && strcmp(isas + strlen(isas) - 6, "scalar") == 0, "%s", isas);
    CHECK(strcmp(ln_version(), "0.1.0") == 0, "%s", ln_version());
}

int main(void) {
    test_threads();
    test_oracle();
    test_same_bits();
    test_session_errors();
    test_refused_tensors();
    test_refused_facts();
    test_describe();
    test_machine();
    return 0;
}
