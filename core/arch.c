/* arch.c - the table of architectures, and reading the facts of a model. */
#include "arch.h"

#include <math.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

/* ---- the table -------------------------------------------------------------- */

static const ln_tensor_rule llama_globals[] = {
    {"token_embd.weight", offsetof(ln_globals, embedding), LN_EXTENT_VOCAB, LN_EXTENT_DIM, 0},
    {"output_norm.weight", offsetof(ln_globals, output_norm), LN_EXTENT_ONE, LN_EXTENT_DIM, 0},
    {"output.weight", offsetof(ln_globals, output), LN_EXTENT_VOCAB, LN_EXTENT_DIM, 1},
    {"rope_freqs.weight", offsetof(ln_globals, rope_divisors), LN_EXTENT_ONE, LN_EXTENT_ROPE_PAIRS, 1},
    {0},
};

static const ln_tensor_rule llama_layer[] = {
    {"attn_norm.weight", offsetof(ln_layer, attn_norm), LN_EXTENT_ONE, LN_EXTENT_DIM, 0},
    {"attn_q.weight", offsetof(ln_layer, q), LN_EXTENT_QUERY, LN_EXTENT_DIM, 0},
    {"attn_k.weight", offsetof(ln_layer, k), LN_EXTENT_KEY, LN_EXTENT_DIM, 0},
    {"attn_v.weight", offsetof(ln_layer, v), LN_EXTENT_KEY, LN_EXTENT_DIM, 0},
    {"attn_output.weight", offsetof(ln_layer, o), LN_EXTENT_DIM, LN_EXTENT_QUERY, 0},
    {"ffn_norm.weight", offsetof(ln_layer, ffn_norm), LN_EXTENT_ONE, LN_EXTENT_DIM, 0},
    {"ffn_gate.weight", offsetof(ln_layer, gate), LN_EXTENT_FFN, LN_EXTENT_DIM, 0},
    {"ffn_up.weight", offsetof(ln_layer, up), LN_EXTENT_FFN, LN_EXTENT_DIM, 0},
    {"ffn_down.weight", offsetof(ln_layer, down), LN_EXTENT_DIM, LN_EXTENT_FFN, 0},
    {0},
};

static const ln_neutral_rule llama_neutral[] = {
    {"expert_count", 0},
    {"expert_used_count", 0},
    {"attention.scale", 0}, /* 0 stands for 1 / sqrt(head_dim) */
    {"attention.clamp_kqv", 0},
    {"attention.max_alibi_bias", 0},
    {"attention.causal", 1},
    {"attn_logit_softcapping", 0},
    {"final_logit_softcapping", 0},
    {"use_parallel_residual", 0},
    {"embedding_scale", 1},
    {"residual_scale", 1},
    {"logit_scale", 1},
    {"rope.scaling.attn_factor", 1},
    {0},
};

/* llama: RMSNorm before each block, rotary on neighbouring pairs, grouped-query attention, SwiGLU
 * (Touvron et al. 2023; Ainslie et al. 2023 for the grouping). */
static const ln_arch archs[] = {
    {"llama", llama_globals, llama_layer, llama_neutral},
};

#define N_ARCHS (sizeof archs / sizeof archs[0])

int64_t ln_extent_of(const ln_facts *facts, ln_extent extent) {
    switch (extent) {
    case LN_EXTENT_DIM: return facts->dim;
    case LN_EXTENT_FFN: return facts->ffn_dim;
    case LN_EXTENT_QUERY: return (int64_t)facts->n_heads * facts->head_dim;
    case LN_EXTENT_KEY: return (int64_t)facts->n_kv_heads * facts->head_dim;
    case LN_EXTENT_VOCAB: return facts->vocab_size;
    case LN_EXTENT_ROPE_PAIRS: return facts->rope_dims / 2;
    case LN_EXTENT_ONE: break;
    }
    return 1;
}

ln_status ln_arch_of(const ln_gguf *gguf, const ln_arch **out, ln_error *err) {
    ln_string name = {0};
    ln_status status = ln_gguf_require(gguf, "general.architecture", err);
    if (status == LN_OK) {
        status = ln_gguf_string(gguf, "general.architecture", &name, err);
    }
    if (status != LN_OK) {
        return status;
    }
    char known[128] = "";
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

/* ---- reading ---------------------------------------------------------------- */

typedef struct key_text {
    char text[96];
} key_text;

static key_text key_of(const ln_arch *arch, const char *suffix) {
    key_text key;
    snprintf(key.text, sizeof key.text, "%s.%s", arch->name, suffix);
    return key;
}

/* A count of 1 or more. *out holds the default, 0 where there is none. */
static ln_status read_count(const ln_gguf *gguf, const ln_arch *arch, const char *suffix, int32_t *out,
                            ln_error *err) {
    key_text key = key_of(arch, suffix);
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
    if (pair == NULL && *out == 0) {
        return ln_gguf_require(gguf, key.text, err);
    }
    if (pair != NULL && pair->type == LN_GGUF_ARRAY) {
        return ln_fail(err, LN_UNSUPPORTED, "'%s' differs from layer to layer, which this core cannot run", key.text);
    }
    ln_status status = ln_gguf_i32(gguf, key.text, out, err);
    if (status == LN_OK && *out < 1) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is %d, it must be 1 or more; download or convert the model again",
                       key.text, (int)*out);
    }
    return status;
}

/* A finite number above zero. *out holds the default, NAN where there is none. */
static ln_status read_positive(const ln_gguf *gguf, const ln_arch *arch, const char *suffix, float *out,
                               ln_error *err) {
    key_text key = key_of(arch, suffix);
    if (isnan(*out) && ln_gguf_find(gguf, key.text) == NULL) {
        return ln_gguf_require(gguf, key.text, err);
    }
    ln_status status = ln_gguf_f32(gguf, key.text, out, err);
    if (status == LN_OK && !(isfinite(*out) && *out > 0)) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is %g, it must be above zero; download or convert the model again",
                       key.text, (double)*out);
    }
    return status;
}

static ln_status read_number(const ln_gguf *gguf, const ln_gguf_pair *pair, const char *key, double *out,
                             ln_error *err) {
    float real = 0;
    int truth = 0;
    int32_t whole = 0;
    ln_status status;
    if (pair->type == LN_GGUF_F32 || pair->type == LN_GGUF_F64) {
        status = ln_gguf_f32(gguf, key, &real, err);
        *out = (double)real;
    } else if (pair->type == LN_GGUF_BOOL) {
        status = ln_gguf_bool(gguf, key, &truth, err);
        *out = truth;
    } else {
        status = ln_gguf_i32(gguf, key, &whole, err);
        *out = whole;
    }
    return status;
}

static ln_status check_neutral(const ln_gguf *gguf, const ln_arch *arch, ln_error *err) {
    for (const ln_neutral_rule *rule = arch->neutral; rule->key != NULL; rule++) {
        key_text key = key_of(arch, rule->key);
        const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
        double value = rule->neutral;
        ln_status status = pair == NULL ? LN_OK : read_number(gguf, pair, key.text, &value, err);
        if (status != LN_OK) {
            return status;
        }
        if (value != rule->neutral) {
            return ln_fail(err, LN_UNSUPPORTED, "the model sets '%s' to %g; this core runs %s models without it",
                           key.text, value, arch->name);
        }
    }
    return LN_OK;
}

static ln_status read_rope(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    f->rope_dims = f->head_dim;
    f->rope_base = 10000.0f; /* Su et al. 2021, and what readers of GGUF assume */
    ln_status status = read_count(gguf, arch, "rope.dimension_count", &f->rope_dims, err);
    if (status == LN_OK) {
        status = read_positive(gguf, arch, "rope.freq_base", &f->rope_base, err);
    }
    if (status != LN_OK) {
        return status;
    }
    if (f->rope_dims % 2 != 0 || f->rope_dims > f->head_dim) {
        return ln_fail(err, LN_BAD_FILE, "%d rotated elements do not go into a head of %d; convert the model again",
                       (int)f->rope_dims, (int)f->head_dim);
    }
    key_text key = key_of(arch, "rope.scaling.type");
    ln_string scaling = {0};
    f->rope_divisor = 1.0f;
    status = ln_gguf_string(gguf, key.text, &scaling, err);
    if (status != LN_OK || ln_string_is(scaling, "none")) {
        return status;
    }
    if (scaling.data != NULL && !ln_string_is(scaling, "linear")) {
        return ln_fail(err, LN_UNSUPPORTED, "'%s' is '%.*s'; this core knows none and linear", key.text,
                       LN_STRING_ARGS(scaling));
    }
    status = read_positive(gguf, arch, "rope.scale_linear", &f->rope_divisor, err); /* the key's older name */
    return status != LN_OK ? status : read_positive(gguf, arch, "rope.scaling.factor", &f->rope_divisor, err);
}

static ln_status read_window(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    key_text key = key_of(arch, "attention.sliding_window");
    ln_status status = ln_gguf_i32(gguf, key.text, &f->sliding_window, err);
    if (status == LN_OK && f->sliding_window < 0) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is %d, it must not be negative; download or convert the model again",
                       key.text, (int)f->sliding_window);
    }
    return status;
}

/* Far beyond any model; what is computed of a page or a tile of one head then fits an int32_t. */
#define MAX_HEAD_DIM 65536

static ln_status read_heads(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    ln_status status = read_count(gguf, arch, "attention.head_count", &f->n_heads, err);
    f->n_kv_heads = f->n_heads;
    if (status == LN_OK) {
        status = read_count(gguf, arch, "attention.head_count_kv", &f->n_kv_heads, err);
    }
    if (status != LN_OK) {
        return status;
    }
    if (f->n_heads % f->n_kv_heads != 0) {
        return ln_fail(err, LN_BAD_FILE, "%d query heads cannot share %d key/value heads; convert the model again",
                       (int)f->n_heads, (int)f->n_kv_heads);
    }
    f->head_dim = f->dim % f->n_heads == 0 ? f->dim / f->n_heads : 0;
    if (f->head_dim == 0 && ln_gguf_find(gguf, key_of(arch, "attention.key_length").text) == NULL) {
        return ln_fail(err, LN_BAD_FILE, "an embedding of %d cannot be cut into %d heads; convert the model again",
                       (int)f->dim, (int)f->n_heads);
    }
    status = read_count(gguf, arch, "attention.key_length", &f->head_dim, err);
    int32_t value_dim = f->head_dim;
    if (status == LN_OK) {
        status = read_count(gguf, arch, "attention.value_length", &value_dim, err);
    }
    if (status == LN_OK && value_dim != f->head_dim) {
        return ln_fail(err, LN_UNSUPPORTED, "keys of %d and values of %d elements per head; this core needs them equal",
                       (int)f->head_dim, (int)value_dim);
    }
    if (status == LN_OK && f->head_dim > MAX_HEAD_DIM) {
        return ln_fail(err, LN_UNSUPPORTED, "heads of %d elements; this core runs models with up to %d",
                       (int)f->head_dim, MAX_HEAD_DIM);
    }
    return status;
}

static ln_status read_vocab(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    const ln_gguf_tensor *embedding = ln_gguf_find_tensor(gguf, "token_embd.weight");
    if (embedding == NULL) {
        return ln_fail(err, gguf->n_tensors == 0 ? LN_UNSUPPORTED : LN_BAD_FILE,
                       gguf->n_tensors == 0 ? "the file holds a vocabulary but no weights; give the model's file"
                                            : "tensor 'token_embd.weight' is missing; convert the model again");
    }
    int64_t rows = embedding->dims[1];
    if (rows > INT32_MAX) {
        return ln_fail(err, LN_BAD_FILE, "the embedding has %.0f rows; convert the model again", (double)rows);
    }
    f->vocab_size = (int32_t)rows;
    ln_status status = read_count(gguf, arch, "vocab_size", &f->vocab_size, err);
    if (status == LN_OK && f->vocab_size != rows) {
        return ln_fail(err, LN_BAD_FILE,
                       "the metadata says %d tokens and the embedding has %d; convert the model again",
                       (int)f->vocab_size, (int)rows);
    }
    ln_gguf_array tokens;
    if (status == LN_OK) {
        status = ln_gguf_array_of(gguf, "tokenizer.ggml.tokens", LN_GGUF_STRING, &tokens, err);
    }
    if (status == LN_OK && tokens.length > (uint64_t)rows) {
        return ln_fail(err, LN_BAD_FILE,
                       "the tokenizer has %.0f tokens and the embedding only %d; convert the model again with its own "
                       "tokenizer",
                       (double)tokens.length, (int)rows);
    }
    return status;
}

static ln_status check_whole(const ln_gguf *gguf, ln_error *err) {
    uint32_t parts = 1;
    ln_status status = ln_gguf_u32(gguf, "split.count", &parts, err);
    if (status == LN_OK && parts > 1) {
        return ln_fail(err, LN_UNSUPPORTED, "the file is one of %u parts; merge them into one file first",
                       (unsigned)parts);
    }
    return status;
}

ln_status ln_facts_read(const ln_gguf *gguf, const ln_arch *arch, ln_facts *out, ln_error *err) {
    memset(out, 0, sizeof *out);
    snprintf(out->arch, sizeof out->arch, "%s", arch->name);
    out->norm_epsilon = NAN;
    ln_status status = check_whole(gguf, err);
    if (status == LN_OK) {
        status = check_neutral(gguf, arch, err);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "block_count", &out->n_layers, err);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "embedding_length", &out->dim, err);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "feed_forward_length", &out->ffn_dim, err);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "context_length", &out->max_seq_len, err);
    }
    if (status == LN_OK) {
        status = read_positive(gguf, arch, "attention.layer_norm_rms_epsilon", &out->norm_epsilon, err);
    }
    if (status == LN_OK) {
        status = read_window(gguf, arch, out, err);
    }
    if (status == LN_OK) {
        status = read_heads(gguf, arch, out, err);
    }
    if (status == LN_OK) {
        status = read_rope(gguf, arch, out, err);
    }
    return status == LN_OK ? read_vocab(gguf, arch, out, err) : status;
}
