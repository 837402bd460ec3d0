/* arch.c - the table of architectures. */
#include "arch.h"

#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- tensors -------------------------------------------------------------- */

#define GLOBAL(tensor, member, is, n_rows, n_cols) \
    .name = tensor, .field = offsetof(ln_globals, member), .kind = is, .rows = n_rows, .cols = n_cols
#define LINEAR(tensor, member, n_rows, n_cols)                                                               \
    .name = tensor, .field = offsetof(ln_layer, member), .kind = LN_FIELD_LINEAR, .rows = LN_EXTENT_##n_rows, \
    .cols = LN_EXTENT_##n_cols
#define NORM(tensor, member, n_rows, n_cols)                                                               \
    .name = tensor, .field = offsetof(ln_layer, member), .kind = LN_FIELD_NORM, .rows = LN_EXTENT_##n_rows, \
    .cols = LN_EXTENT_##n_cols
#define EXPERTS(tensor, member, n_rows, n_cols)                                                               \
    .name = tensor, .field = offsetof(ln_layer, member), .kind = LN_FIELD_EXPERTS, .rows = LN_EXTENT_##n_rows, \
    .cols = LN_EXTENT_##n_cols, .when = LN_IF_EXPERTS
#define PART_OF(total, from) .all = LN_EXTENT_##total, .first = LN_EXTENT_##from

static const ln_tensor_rule embedding[] = {
    {GLOBAL("token_embd", embedding, LN_FIELD_TABLE, LN_EXTENT_VOCAB, LN_EXTENT_DIM)},
    {GLOBAL("output", output, LN_FIELD_LINEAR, LN_EXTENT_VOCAB, LN_EXTENT_DIM), .optional = 1},
    {0},
};

/* What an encoder reads: tokens, their positions and their type. */
static const ln_tensor_rule encoder_input[] = {
    {GLOBAL("token_embd", embedding, LN_FIELD_TABLE, LN_EXTENT_VOCAB, LN_EXTENT_DIM)},
    {GLOBAL("position_embd", positions, LN_FIELD_TABLE, LN_EXTENT_POSITIONS, LN_EXTENT_DIM)},
    {GLOBAL("token_types", token_types, LN_FIELD_TABLE, LN_EXTENT_TOKEN_TYPES, LN_EXTENT_DIM), .when = LN_IF_TYPED},
    {GLOBAL("token_embd_norm", embedding_norm, LN_FIELD_NORM, LN_EXTENT_ONE, LN_EXTENT_DIM)},
    {0},
};

/* What a cross-encoder makes of the first token of a pair. */
static const ln_tensor_rule rank_head[] = {
    {GLOBAL("cls", rank_inner, LN_FIELD_LINEAR, LN_EXTENT_DIM, LN_EXTENT_DIM), .when = LN_IF_RANKS},
    {GLOBAL("cls.output", rank_score, LN_FIELD_LINEAR, LN_EXTENT_ONE, LN_EXTENT_DIM), .when = LN_IF_RANKS},
    {0},
};

static const ln_tensor_rule output_norm[] = {
    {GLOBAL("output_norm", output_norm, LN_FIELD_NORM, LN_EXTENT_ONE, LN_EXTENT_DIM)},
    {0},
};

/* The name is misleading: it comes after the last layer. */
static const ln_tensor_rule lfm2_output_norm[] = {
    {GLOBAL("token_embd_norm", output_norm, LN_FIELD_NORM, LN_EXTENT_ONE, LN_EXTENT_DIM)},
    {0},
};

static const ln_tensor_rule positions[] = {
    {GLOBAL("position_embd", positions, LN_FIELD_TABLE, LN_EXTENT_POSITIONS, LN_EXTENT_DIM)},
    {0},
};

static const ln_tensor_rule rope_factors[] = {
    {GLOBAL("rope_freqs", rope_divisors, LN_FIELD_VECTOR, LN_EXTENT_ONE, LN_EXTENT_ROPE_PAIRS), .optional = 1},
    {GLOBAL("rope_factors_short", rope_short, LN_FIELD_VECTOR, LN_EXTENT_ONE, LN_EXTENT_ROPE_PAIRS), .optional = 1},
    {GLOBAL("rope_factors_long", rope_long, LN_FIELD_VECTOR, LN_EXTENT_ONE, LN_EXTENT_ROPE_PAIRS), .optional = 1},
    {0},
};

static const ln_tensor_rule pre_norms[] = {
    {NORM("attn_norm", attn_norm, ONE, DIM)},
    {NORM("ffn_norm", ffn_norm, ONE, DIM)},
    {0},
};

static const ln_tensor_rule attn_norm[] = {
    {NORM("attn_norm", attn_norm, ONE, DIM)},
    {0},
};

static const ln_tensor_rule optional_ffn_norm[] = {
    {NORM("ffn_norm", ffn_norm, ONE, DIM), .optional = 1},
    {0},
};

static const ln_tensor_rule sub_norms[] = {
    {NORM("attn_sub_norm", attn_sub_norm, ONE, QUERY)},
    {NORM("ffn_sub_norm", ffn_sub_norm, ONE, FFN)},
    {0},
};

static const ln_tensor_rule post_norms[] = {
    {NORM("post_attention_norm", attn_post_norm, ONE, DIM)},
    {NORM("post_ffw_norm", ffn_post_norm, ONE, DIM)},
    {0},
};

static const ln_tensor_rule sum_norms[] = {
    {NORM("attn_output_norm", attn_sum_norm, ONE, DIM)},
    {NORM("layer_output_norm", ffn_sum_norm, ONE, DIM)},
    {0},
};

/* Queries, keys and values may lie in one tensor or in three. */
static const ln_tensor_rule attention[] = {
    {LINEAR("attn_qkv", q, QUERY, DIM), PART_OF(QKV, ZERO), .optional = 1, .when = LN_IF_ATTENTION},
    {LINEAR("attn_qkv", k, KEY, DIM), PART_OF(QKV, QUERY), .optional = 1, .when = LN_IF_ATTENTION},
    {LINEAR("attn_qkv", v, KEY, DIM), PART_OF(QKV, QUERY_KEY), .optional = 1, .when = LN_IF_ATTENTION},
    {LINEAR("attn_q", q, QUERY, DIM), .when = LN_IF_ATTENTION},
    {LINEAR("attn_k", k, KEY, DIM), .when = LN_IF_ATTENTION},
    {LINEAR("attn_v", v, KEY, DIM), .when = LN_IF_ATTENTION},
    {LINEAR("attn_output", o, DIM, QUERY), .when = LN_IF_ATTENTION},
    {0},
};

static const ln_tensor_rule head_norms[] = {
    {NORM("attn_q_norm", q_norm, ONE, HEAD_DIM), .when = LN_IF_ATTENTION},
    {NORM("attn_k_norm", k_norm, ONE, HEAD_DIM), .when = LN_IF_ATTENTION},
    {0},
};

static const ln_tensor_rule wide_head_norms[] = {
    {NORM("attn_q_norm", q_norm, ONE, QUERY)},
    {NORM("attn_k_norm", k_norm, ONE, KEY)},
    {0},
};

static const ln_tensor_rule convolution[] = {
    {LINEAR("shortconv.in_proj", conv_in, 3_DIM, DIM), .when = LN_IF_CONV},
    {LINEAR("shortconv.out_proj", conv_out, DIM, DIM), .when = LN_IF_CONV},
    {.name = "shortconv.conv", .field = offsetof(ln_layer, conv_taps), .kind = LN_FIELD_VECTOR, .rows = LN_EXTENT_DIM,
     .cols = LN_EXTENT_CONV, .when = LN_IF_CONV},
    {0},
};

/* Of each head its own. */
static const ln_tensor_rule optional_head_norms[] = {
    {NORM("attn_q_norm", q_norm, HEADS, HEAD_DIM), .optional = 1},
    {NORM("attn_k_norm", k_norm, KV_HEADS, HEAD_DIM), .optional = 1},
    {0},
};

static const ln_tensor_rule plain_ffn[] = {
    {LINEAR("ffn_up", up, FFN, DIM)},
    {LINEAR("ffn_down", down, DIM, FFN)},
    {0},
};

static const ln_tensor_rule gated_ffn[] = {
    {LINEAR("ffn_gate", gate, FFN, DIM), .when = LN_IF_DENSE},
    {LINEAR("ffn_up", up, FFN, DIM), .when = LN_IF_DENSE},
    {LINEAR("ffn_down", down, DIM, FFN), .when = LN_IF_DENSE},
    {0},
};

static const ln_tensor_rule fused_gated_ffn[] = {
    {LINEAR("ffn_up", gate, FFN, DIM), PART_OF(2_FFN, ZERO)},
    {LINEAR("ffn_up", up, FFN, DIM), PART_OF(2_FFN, FFN)},
    {LINEAR("ffn_down", down, DIM, FFN)},
    {0},
};

static const ln_tensor_rule experts[] = {
    {LINEAR("ffn_gate_inp", router, EXPERTS, DIM), .when = LN_IF_EXPERTS},
    {EXPERTS("ffn_gate_exps", gate_experts, EXPERT_FFN, DIM)},
    {EXPERTS("ffn_up_exps", up_experts, EXPERT_FFN, DIM)},
    {EXPERTS("ffn_down_exps", down_experts, DIM, EXPERT_FFN)},
    {0},
};

/* ---- the table -------------------------------------------------------------- */

/* RMSNorm, SwiGLU and full attention are zero. */
static const ln_arch archs[] = {
    /* Touvron et al. 2023, and Mistral and Mixtral: Jiang et al. 2023, 2024. */
    {"llama", {embedding, output_norm, rope_factors}, {pre_norms, attention, gated_ffn, experts},
     {.rope_pairs = LN_ROPE_NEIGHBOURS}},
    {"qwen2", {embedding, output_norm, rope_factors}, {pre_norms, attention, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"qwen3", {embedding, output_norm, rope_factors}, {pre_norms, attention, head_norms, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"qwen3moe", {embedding, output_norm, rope_factors}, {pre_norms, attention, head_norms, gated_ffn, experts},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"phi3", {embedding, output_norm, rope_factors}, {pre_norms, attention, fused_gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"gemma", {embedding, output_norm}, {pre_norms, attention, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES, .activation = LN_GELU_TANH, .scales_embedding = 1}},
    {"gemma2", {embedding, output_norm}, {pre_norms, attention, post_norms, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES, .activation = LN_GELU_TANH, .scales_embedding = 1, .global_interval = 2,
      .wide_scale_layers = 46}},
    {"gemma3", {embedding, output_norm}, {pre_norms, attention, head_norms, post_norms, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES, .activation = LN_GELU_TANH, .scales_embedding = 1, .global_interval = 6,
      .rope_base_local = 10000.0f, .wide_scale_layers = 62}},
    {"olmo2", {embedding, output_norm, rope_factors}, {attention, wide_head_norms, post_norms, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"granite", {embedding, output_norm, rope_factors}, {pre_norms, attention, gated_ffn},
     {.rope_pairs = LN_ROPE_NEIGHBOURS, .divides_logits = 1}},
    {"smollm3", {embedding, output_norm, rope_factors}, {pre_norms, attention, gated_ffn},
     {.rope_pairs = LN_ROPE_NEIGHBOURS, .rope_interval = 4}},
    {"mobilellm", {embedding, output_norm, rope_factors}, {pre_norms, attention, gated_ffn},
     {.rope_pairs = LN_ROPE_NEIGHBOURS}},
    {"lfm2", {embedding, lfm2_output_norm, rope_factors}, {pre_norms, attention, head_norms, convolution, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"bitnet", {embedding, output_norm, rope_factors}, {pre_norms, attention, sub_norms, gated_ffn},
     {.rope_pairs = LN_ROPE_HALVES}},
    {"stablelm", {embedding, output_norm, rope_factors},
     {attn_norm, optional_ffn_norm, attention, optional_head_norms, gated_ffn},
     {.norm = LN_NORM_LAYER, .rope_pairs = LN_ROPE_HALVES, .parallel = LN_PARALLEL_WITHOUT_FFN_NORM}},
    {"gpt2", {embedding, positions, output_norm}, {pre_norms, attention, plain_ffn},
     {.norm = LN_NORM_LAYER, .activation = LN_GELU_TANH}},
    {"opt", {embedding, positions, output_norm}, {pre_norms, attention, plain_ffn},
     {.norm = LN_NORM_LAYER, .activation = LN_RELU}},
    {"gptneox", {embedding, output_norm}, {pre_norms, attention, plain_ffn},
     {.norm = LN_NORM_LAYER, .activation = LN_GELU_ERF, .rope_pairs = LN_ROPE_HALVES}},
    {"phi2", {embedding, output_norm}, {attn_norm, attention, plain_ffn},
     {.norm = LN_NORM_LAYER, .activation = LN_GELU_TANH, .rope_pairs = LN_ROPE_HALVES, .parallel = LN_PARALLEL}},
    {"bert", {encoder_input, rank_head}, {attention, sum_norms, plain_ffn},
     {.norm = LN_NORM_LAYER, .activation = LN_GELU_ERF, .looks_both_ways = 1}},
};

#define N_ARCHS (sizeof archs / sizeof archs[0])

int64_t ln_extent_of(const ln_facts *f, ln_extent extent) {
    const int64_t query = (int64_t)f->n_heads * f->head_dim;
    const int64_t key = (int64_t)f->n_kv_heads * f->head_dim;
    const int64_t dense = f->n_experts > 0 ? 0 : f->ffn_dim;
    switch (extent) {
    case LN_EXTENT_ZERO: return 0;
    case LN_EXTENT_ONE: break;
    case LN_EXTENT_DIM: return f->dim;
    case LN_EXTENT_3_DIM: return 3 * (int64_t)f->dim;
    case LN_EXTENT_FFN: return dense;
    case LN_EXTENT_2_FFN: return 2 * dense;
    case LN_EXTENT_QUERY: return query;
    case LN_EXTENT_KEY: return key;
    case LN_EXTENT_QUERY_KEY: return query + key;
    case LN_EXTENT_QKV: return query + 2 * key;
    case LN_EXTENT_HEADS: return f->n_heads;
    case LN_EXTENT_KV_HEADS: return f->n_kv_heads;
    case LN_EXTENT_HEAD_DIM: return f->head_dim;
    case LN_EXTENT_VOCAB: return f->vocab_size;
    case LN_EXTENT_POSITIONS: return f->max_seq_len;
    case LN_EXTENT_TOKEN_TYPES: return f->n_token_types;
    case LN_EXTENT_ROPE_PAIRS: return f->rope_dims / 2;
    case LN_EXTENT_EXPERTS: return f->n_experts;
    case LN_EXTENT_EXPERT_FFN: return f->expert_ffn_dim;
    case LN_EXTENT_CONV: return f->conv_len;
    }
    return 1;
}

ln_status ln_arch_of(const ln_gguf *gguf, const ln_arch **out, ln_error *err) {
    ln_string name = {0}, type = {0};
    ln_status status = ln_gguf_require(gguf, "general.architecture", err);
    if (status == LN_OK) {
        status = ln_gguf_string(gguf, "general.architecture", &name, err);
    }
    if (status == LN_OK) {
        status = ln_gguf_string(gguf, "general.type", &type, err);
    }
    if (status != LN_OK) {
        return status;
    }
    if (ln_string_is(type, "adapter")) { /* it names the architecture of the models it is for */
        return ln_fail(err, LN_UNSUPPORTED, "it is an adapter, not a model; use it on top of its model, with --adapter");
    }
    char known[400] = "";
    for (size_t i = 0; i < N_ARCHS; i++) {
        if (ln_string_is(name, archs[i].name)) {
            *out = &archs[i];
            return LN_OK;
        }
        size_t used = strlen(known);
        snprintf(known + used, sizeof known - used, "%s%s", i == 0 ? "" : ", ", archs[i].name);
    }
    return ln_fail(err, LN_UNSUPPORTED, "the model's architecture is '%.*s'; this core runs: %s",
                   LN_STRING_ARGS(name), known);
}
