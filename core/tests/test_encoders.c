/* test_encoders.c - a tiny BERT: the same bits in any company, types of tokens, the head that scores, and what cannot
 * be done with it. With a name it writes a smaller one there; with "rank" and a name one that has a head. */
#include "tiny_sessions.h"

#include <math.h>

#define DIM 32
#define MOST 150 /* tokens of the longest text */

static int ranks(const tiny_llama *m) {
    return m->u32_key != NULL && strcmp(m->u32_key, "bert.pooling_type") == 0;
}

static void list_head(tensor_list *list, const tiny_llama *m) {
    list_tensor(list, m, "cls.weight", m->dim, m->dim);
    list_tensor(list, m, "cls.bias", 0, m->dim);
    list_tensor(list, m, "cls.output.weight", 1, m->dim);
    list_tensor(list, m, "cls.output.bias", 0, 1);
}

static void list_bert(tensor_list *list, const tiny_llama *m) {
    const int64_t dim = m->dim;
    const struct {
        const char *name;
        int64_t rows, cols;
    } input[] = {{"token_embd", m->vocab_size, dim}, {"position_embd", m->max_seq_len, dim}, {"token_types", 2, dim}},
      matrices[] = {{"attn_q", dim, dim}, {"attn_k", dim, dim}, {"attn_v", dim, dim}, {"attn_output", dim, dim},
                    {"ffn_up", m->ffn_dim, dim}, {"ffn_down", dim, m->ffn_dim}};
    const char *const norms[] = {"attn_output_norm", "layer_output_norm"};
    char name[64];
    for (int i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s.weight", input[i].name);
        list_tensor(list, m, name, input[i].rows, input[i].cols);
    }
    list_tensor(list, m, "token_embd_norm.weight", 0, dim);
    list_tensor(list, m, "token_embd_norm.bias", 0, dim);
    if (ranks(m)) {
        list_head(list, m);
    }
    for (unsigned layer = 0; layer < m->n_layers; layer++) {
        for (int i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", layer, matrices[i].name);
            list_tensor(list, m, name, matrices[i].rows, matrices[i].cols);
            snprintf(name, sizeof name, "blk.%u.%s.bias", layer, matrices[i].name);
            list_tensor(list, m, name, 0, matrices[i].rows);
        }
        for (int i = 0; i < 2; i++) {
            snprintf(name, sizeof name, "blk.%u.%s.weight", layer, norms[i]);
            list_tensor(list, m, name, 0, dim);
            snprintf(name, sizeof name, "blk.%u.%s.bias", layer, norms[i]);
            list_tensor(list, m, name, 0, dim);
        }
    }
}

static image bert_image(const tiny_llama *m) {
    tensor_list list = {.n = 0};
    list_bert(&list, m);
    image facts = {0};
    put_pair_string(&facts, "general.architecture", "bert");
    put_pair_f32(&facts, "bert.attention.layer_norm_epsilon", 1e-5f);
    put_pair_u32(&facts, "bert.block_count", m->n_layers);
    put_pair_u32(&facts, "bert.context_length", m->max_seq_len);
    put_pair_u32(&facts, "bert.embedding_length", m->dim);
    put_pair_u32(&facts, "bert.feed_forward_length", m->ffn_dim);
    put_pair_u32(&facts, "bert.attention.head_count", m->n_heads);
    put_pair_u32(&facts, "tokenizer.ggml.token_type_count", 2);
    uint64_t n_pairs = 8;
    if (m->u32_key != NULL) {
        put_pair_u32(&facts, m->u32_key, m->u32_value);
        n_pairs++;
    }
    return image_of(&facts, n_pairs, &list);
}

static const tiny_llama bert = {.n_layers = 3, .n_heads = 4, .dim = DIM, .ffn_dim = 64, .vocab_size = 50,
                                .max_seq_len = MOST};

/* The same with a head. */
static tiny_llama ranking(ln_type type) {
    tiny_llama m = bert;
    m.type = type;
    m.u32_key = "bert.pooling_type";
    m.u32_value = 4;
    return m;
}

/* ---- the same bits --------------------------------------------------------------- */

static const int32_t lengths[] = {MOST, 1, 64, 17, 129, 65};
#define N_TEXTS ((int)(sizeof lengths / sizeof lengths[0]))

/* The hidden states of text i alone. */
static void read_alone(ln_workspace *w, int i, float *hidden) {
    int32_t ids[MOST];
    fill_tokens(ids, lengths[i]);
    ln_error err = {0};
    ln_session *s = open_in(w, 0);
    const ln_span span = {.session = s, .ids = ids, .n = lengths[i], .hidden = hidden};
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_OK, "%s", err.message);
    CHECK(ln_session_logits(s) == NULL, "logits of an encoder");
    ln_session_close(s);
}

static void check_company(const tiny_llama *m, const char *isa) {
    static float alone[N_TEXTS][MOST * DIM], together[N_TEXTS][MOST * DIM];
    image file = bert_image(m);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, isa, (ln_workspace_options){.n_threads = 1, .kv_tokens = 1024});
    for (int i = 0; i < N_TEXTS; i++) {
        read_alone(w, i, alone[i]);
        for (int j = 0; j < lengths[i] * DIM; j++) {
            CHECK(isfinite(alone[i][j]), "text %d, %s", i, isa);
        }
    }
    ln_workspace_close(w);
    for (int32_t threads = 1; threads <= 3; threads++) {
        const ln_workspace_options options = {.n_threads = threads, .kv_tokens = 1024, .n_batch = MOST * threads};
        w = open_workspace(model, isa, options);
        ln_span spans[N_TEXTS];
        int32_t ids[MOST];
        ln_error err = {0};
        fill_tokens(ids, MOST);
        for (int i = 0; i < N_TEXTS; i++) {
            spans[i] = (ln_span){.session = open_in(w, 0), .ids = ids, .n = lengths[i], .hidden = together[i]};
        }
        CHECK(ln_workspace_eval(w, spans, N_TEXTS, &err) == LN_OK, "%s", err.message);
        for (int i = 0; i < N_TEXTS; i++) {
            CHECK(memcmp(alone[i], together[i], (size_t)lengths[i] * DIM * sizeof(float)) == 0, "text %d, %s", i, isa);
            ln_session_close(spans[i].session);
        }
        ln_workspace_close(w);
    }
    ln_model_close(model);
    image_free(&file);
}

static void test_company(void) {
    tiny_llama packed = bert;
    packed.type = LN_TYPE_Q8_0;
    for_each_isa(check_company, &bert);
    for_each_isa(check_company, &packed);
}

/* ---- pairs of texts ----------------------------------------------------------------- */

/* A third of a text is of the first type. */
static void fill_types(int32_t *types, int32_t n) {
    for (int32_t i = 0; i < n; i++) {
        types[i] = i >= n / 3;
    }
}

static void check_types(const tiny_llama *m, const char *isa) {
    static float bare[MOST * DIM], first[MOST * DIM], pair[MOST * DIM], last[2 * MOST * DIM];
    image file = bert_image(m);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, isa, (ln_workspace_options){.n_threads = 2, .kv_tokens = 1024});
    int32_t ids[MOST], zeros[MOST] = {0}, types[MOST];
    ln_error err = {0};
    fill_tokens(ids, MOST);
    fill_types(types, MOST);
    read_alone(w, 0, bare);
    const ln_span spans[] = {
        {.session = open_in(w, 0), .ids = ids, .n = MOST, .hidden = pair, .types = types},
        {.session = open_in(w, 0), .ids = ids, .n = MOST, .hidden = first, .types = zeros},
        {.session = open_in(w, 0), .ids = ids, .n = MOST, .hidden = last},
        {.session = open_in(w, 0), .ids = ids, .n = MOST, .hidden = last + MOST * DIM, .types = types},
    };
    CHECK(ln_workspace_eval(w, spans, 4, &err) == LN_OK, "%s", err.message);
    CHECK(memcmp(bare, first, sizeof bare) == 0 && memcmp(bare, last, sizeof bare) == 0, "the first type, %s", isa);
    CHECK(memcmp(pair, last + MOST * DIM, sizeof pair) == 0, "the same types, %s", isa);
    CHECK(memcmp(pair, bare, sizeof pair) != 0, "the second type changes nothing, %s", isa);
    for (int i = 0; i < 4; i++) {
        ln_session_close(spans[i].session);
    }
    ln_workspace_close(w);
    ln_model_close(model);
    image_free(&file);
}

/* What the head of a model of floats makes of a first token, in double precision. */
static double score_of(const ln_model *model, const float *hidden) {
    const ln_linear *inner = &model->globals.rank_inner, *score = &model->globals.rank_score;
    double sum = (double)score->bias[0];
    for (int i = 0; i < DIM; i++) {
        double x = (double)inner->bias[i];
        for (int j = 0; j < DIM; j++) {
            x += (double)((const float *)inner->w.data)[i * DIM + j] * (double)hidden[j];
        }
        sum += (double)((const float *)score->w.data)[i] * tanh(x);
    }
    return sum;
}

static void check_scores(const tiny_llama *m, const char *isa) {
    static float hidden[N_TEXTS][MOST * DIM];
    float alone[N_TEXTS], together[N_TEXTS];
    image file = bert_image(m);
    ln_model *model = open_model(&file);
    int32_t ids[MOST], types[MOST];
    ln_error err = {0};
    fill_tokens(ids, MOST);
    fill_types(types, MOST);
    for (int32_t threads = 1; threads <= 3; threads++) {
        const ln_workspace_options options = {.n_threads = threads, .kv_tokens = 1024, .n_batch = MOST * threads};
        ln_workspace *w = open_workspace(model, isa, options);
        ln_span spans[N_TEXTS];
        for (int i = 0; i < N_TEXTS; i++) {
            spans[i] = (ln_span){.session = open_in(w, 0), .ids = ids, .n = lengths[i], .types = types,
                                 .score = &alone[i], .hidden = threads == 1 ? hidden[i] : NULL};
            CHECK(threads > 1 || ln_workspace_eval(w, &spans[i], 1, &err) == LN_OK, "%s", err.message);
            CHECK(ln_session_truncate(spans[i].session, 0, &err) == LN_OK, "%s", err.message);
            spans[i].score = &together[i];
        }
        CHECK(ln_workspace_eval(w, spans, N_TEXTS, &err) == LN_OK, "%s", err.message);
        CHECK(memcmp(alone, together, sizeof alone) == 0, "scores in company, %s", isa);
        for (int i = 0; i < N_TEXTS; i++) {
            CHECK(ln_session_logits(spans[i].session) == NULL, "logits of an encoder");
            ln_session_close(spans[i].session);
        }
        ln_workspace_close(w);
    }
    for (int i = 0; i < N_TEXTS && m->type == LN_TYPE_F32; i++) {
        const double expected = score_of(model, hidden[i]);
        CHECK(fabs((double)alone[i] - expected) < 1e-5, "text %d: %g, not %g, %s", i, (double)alone[i], expected, isa);
    }
    ln_model_close(model);
    image_free(&file);
}

static void test_pairs(void) {
    const tiny_llama plain = ranking(LN_TYPE_F32), packed = ranking(LN_TYPE_Q8_0);
    for_each_isa(check_types, &bert);
    for_each_isa(check_scores, &plain);
    for_each_isa(check_scores, &packed);
}

/* ---- what cannot be done ------------------------------------------------------------ */

static void test_refusals(void) {
    image file = bert_image(&bert);
    ln_model *model = open_model(&file);
    ln_workspace *w = open_workspace(model, "", (ln_workspace_options){.n_threads = 1, .n_batch = 100});
    ln_session *s = open_in(w, 0);
    int32_t ids[MOST];
    static float hidden[MOST * DIM];
    fill_tokens(ids, MOST);
    ln_error err = {0};
    float scores[2];
    ln_span span = {.session = s, .ids = ids, .n = MOST, .hidden = hidden};
    CHECK(ln_session_capacity(s) == 100, "a text has to fit a pass");
    CHECK(ln_session_eval(s, ids, 2, NULL, &err) == LN_UNSUPPORTED, "%s", err.message);
    CHECK(ln_session_score(s, ids, 2, scores, &err) == LN_UNSUPPORTED, "%s", err.message);
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_CONTEXT_FULL, "%s", err.message);
    CHECK(ln_session_length(s) == 0, "nothing was appended");
    span.n = 100;
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_OK, "%s", err.message);
    span.n = 1;
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_BAD_ARGUMENT, "%s", err.message);
    CHECK(ln_session_truncate(s, 0, &err) == LN_OK, "%s", err.message);
    for (int32_t odd = -1; odd <= 2; odd += 3) {
        span.types = &odd;
        CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_BAD_ARGUMENT, "type %d: %s", (int)odd, err.message);
    }
    span.types = NULL;
    span.score = scores;
    CHECK(ln_workspace_eval(w, &span, 1, &err) == LN_UNSUPPORTED, "%s", err.message);
    CHECK(ln_session_length(s) == 0, "nothing was appended");
    ln_session *other;
    CHECK(ln_session_open(w, 101, &other, &err) == LN_BAD_ARGUMENT && other == NULL, "%s", err.message);
    ln_session_close(s);
    ln_workspace_close(w);
    ln_model_close(model);
    image_free(&file);
}

static void test_contradictions(void) {
    tiny_llama odd[6] = {bert, bert, bert, bert, ranking(LN_TYPE_F32), ranking(LN_TYPE_F32)};
    odd[0].without = "token_types.weight";
    odd[1].without = "token_embd_norm.weight";
    odd[2].u32_key = "bert.attention.causal";
    odd[2].u32_value = 1;
    odd[3].u32_key = "bert.attention.sliding_window";
    odd[3].u32_value = 8;
    odd[4].without = "cls.weight";
    odd[5].without = "cls.output.weight";
    for (int i = 0; i < 6; i++) {
        image file = bert_image(&odd[i]);
        ln_model *model;
        ln_error err = {0};
        const ln_status status = ln_model_open(file.bytes, file.size, &model, &err);
        CHECK((status == LN_BAD_FILE || status == LN_UNSUPPORTED) && model == NULL, "%d", i);
        CHECK(strchr(err.message, '\n') == NULL && strlen(err.message) > 20, "%s", err.message);
        image_free(&file);
    }
}

int main(int argc, char **argv) {
    if (argc > 1) {
        tiny_llama small = argc > 2 ? ranking(LN_TYPE_F32) : bert;
        small.n_layers = 1;
        small.n_heads = 2;
        small.dim = small.ffn_dim = 8;
        small.vocab_size = 6;
        small.max_seq_len = 8;
        image g = bert_image(&small);
        FILE *f = fopen(argv[argc - 1], "wb");
        CHECK(f != NULL && fwrite(g.bytes, 1, g.size, f) == g.size && fclose(f) == 0, "cannot write %s",
              argv[argc - 1]);
        image_free(&g);
        return 0;
    }
    test_company();
    test_pairs();
    test_refusals();
    test_contradictions();
    return 0;
}
