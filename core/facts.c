/* facts.c - reading the facts of a model from its metadata. */
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "arch.h"

/* ---- values ------------------------------------------------------------------ */

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

/* A number of 0 or more, of any type; a negative or odd one is refused. *out holds the default. */
static ln_status read_float(const ln_gguf *gguf, const ln_arch *arch, const char *suffix, float *out, ln_error *err) {
    key_text key = key_of(arch, suffix);
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
    double value = (double)*out;
    ln_status status = pair == NULL ? LN_OK : read_number(gguf, pair, key.text, &value, err);
    *out = (float)value;
    if (status == LN_OK && !(isfinite(*out) && *out >= 0)) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is %g, it must be 0 or more; download or convert the model again",
                       key.text, value);
    }
    return status;
}

/* The same with 0 standing for the default. */
static ln_status read_factor(const ln_gguf *gguf, const ln_arch *arch, const char *suffix, float *out, ln_error *err) {
    const float silent = *out;
    ln_status status = read_float(gguf, arch, suffix, out, err);
    *out = *out == 0 ? silent : *out;
    return status;
}

/* A count where 0 says that there is none. *out holds the default. */
static ln_status read_optional_count(const ln_gguf *gguf, const ln_arch *arch, const char *suffix, int32_t *out,
                                     ln_error *err) {
    key_text key = key_of(arch, suffix);
    ln_status status = ln_gguf_i32(gguf, key.text, out, err);
    if (status == LN_OK && *out < 0) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is %d, it must not be negative; download or convert the model again",
                       key.text, (int)*out);
    }
    return status;
}

/* ---- what the decoder does not do ---------------------------------------------- */

/* A key (after "arch.") that would change the arithmetic, and the values at which it does not;
 * linnet/formats/arch/metadata.py has the same. */
static const struct {
    const char *key;
    double neutral;
    double too;
} neutral[] = {
    {"attention.clamp_kqv", 0, 0},
    {"attention.max_alibi_bias", 0, 0},
    {"attention.temperature_length", 0, 0},
    {"attention.temperature_scale", 0, 0},
    {"expert_shared_count", 0, 0},
    {"expert_group_count", 0, 0},
    {"expert_gating_func", 0, 1}, /* 1 = softmax over all experts */
    {"expert_weights_scale", 0, 1},
    {"leading_dense_block_count", 0, 0},
    {"rescale_every_n_layers", 0, 0},
    {"router_logit_softcapping", 0, 0},
};

static ln_status check_neutral(const ln_gguf *gguf, const ln_arch *arch, ln_error *err) {
    for (size_t i = 0; i < sizeof neutral / sizeof neutral[0]; i++) {
        key_text key = key_of(arch, neutral[i].key);
        const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
        double value = neutral[i].neutral;
        ln_status status = pair == NULL ? LN_OK : read_number(gguf, pair, key.text, &value, err);
        if (status != LN_OK) {
            return status;
        }
        if (value != neutral[i].neutral && value != neutral[i].too) {
            return ln_fail(err, LN_UNSUPPORTED, "the model sets '%s' to %g; this core runs %s models without it",
                           key.text, value, arch->name);
        }
    }
    return LN_OK;
}

/* Whether a model looks both ways is known of its architecture: the weights of one are no good for the other. */
static ln_status read_direction(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    key_text key = key_of(arch, "attention.causal");
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
    f->causal = !arch->style.looks_both_ways;
    double causal = f->causal;
    ln_status status = pair == NULL ? LN_OK : read_number(gguf, pair, key.text, &causal, err);
    if (status == LN_OK && causal != (double)f->causal) {
        return ln_fail(err, LN_UNSUPPORTED, "the model sets '%s' to %g; this core runs %s models with %d", key.text,
                       causal, arch->name, f->causal);
    }
    return status;
}

/* ---- attention ------------------------------------------------------------------- */

/* Key/value heads may be listed by layer, with 0 where there is a short convolution instead of attention. */
static ln_status read_listed_kv_heads(const ln_gguf *gguf, const char *key, ln_facts *f, ln_error *err) {
    ln_gguf_array heads;
    ln_status status = ln_gguf_array_of(gguf, key, LN_GGUF_I32, &heads, err);
    f->n_kv_heads = 0;
    for (uint64_t i = 0; status == LN_OK && i < heads.length; i++) {
        const int32_t n = ln_gguf_array_i32(&heads, i);
        f->n_kv_heads = f->n_kv_heads == 0 ? n : f->n_kv_heads;
        if (n < 0 || (n == 0 && f->conv_len == 0) || (n != 0 && n != f->n_kv_heads)) {
            return ln_fail(err, LN_UNSUPPORTED, "'%s' differs from layer to layer, which this core cannot run", key);
        }
    }
    if (status == LN_OK && heads.length != (uint64_t)f->n_layers) {
        return ln_fail(err, LN_BAD_FILE, "'%s' does not list the heads of %d layers; convert the model again", key,
                       (int)f->n_layers);
    }
    if (status == LN_OK && f->n_kv_heads == 0) { /* then no tensor would bound the size of a head */
        return ln_fail(err, LN_UNSUPPORTED, "every layer has a convolution; this core runs models of which some attend");
    }
    return status;
}

/* Far beyond any model; what is computed of a page or a tile of one head then fits an int32_t. */
#define MAX_HEAD_DIM 65536

static ln_status read_heads(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    ln_status status = read_count(gguf, arch, "attention.head_count", &f->n_heads, err);
    f->n_kv_heads = f->n_heads;
    const key_text key = key_of(arch, "attention.head_count_kv");
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
    if (status == LN_OK) {
        status = pair != NULL && pair->type == LN_GGUF_ARRAY && f->conv_len > 0
                     ? read_listed_kv_heads(gguf, key.text, f, err)
                     : read_count(gguf, arch, "attention.head_count_kv", &f->n_kv_heads, err);
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

static ln_status read_attention(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    const int wide = arch->style.wide_scale_layers > 0 && arch->style.wide_scale_layers == f->n_layers;
    f->attention_scale = 1.0f / sqrtf(wide ? (float)f->dim / (float)f->n_heads : (float)f->head_dim);
    ln_status status = read_factor(gguf, arch, "attention.scale", &f->attention_scale, err);
    if (status == LN_OK) {
        status = read_float(gguf, arch, "attn_logit_softcapping", &f->attention_cap, err);
    }
    if (status == LN_OK) {
        status = read_optional_count(gguf, arch, "attention.sliding_window", &f->sliding_window, err);
    }
    if (status == LN_OK && !f->causal && f->sliding_window > 0) {
        return ln_fail(err, LN_UNSUPPORTED, "the model has a sliding window of %d and looks both ways; this core runs "
                       "such models without it",
                       (int)f->sliding_window);
    }
    return status;
}

/* ---- rotary positions --------------------------------------------------------------- */

static ln_status read_yarn(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    f->rope_scaling = LN_ROPE_YARN;
    f->rope_fast = 32.0f;
    f->rope_slow = 1.0f;
    ln_status status = read_factor(gguf, arch, "rope.scaling.yarn_beta_fast", &f->rope_fast, err);
    if (status == LN_OK) {
        status = read_factor(gguf, arch, "rope.scaling.yarn_beta_slow", &f->rope_slow, err);
    }
    if (status == LN_OK) { /* once more, as a key that has to be there */
        status = read_count(gguf, arch, "rope.scaling.original_context_length", &f->rope_trained_len, err);
    }
    f->rope_magnitude = 1.0f + 0.1f * logf(fmaxf(f->rope_divisor, 1.0f));
    return status;
}

static ln_status read_rope_scaling(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    const key_text key = key_of(arch, "rope.scaling.type");
    ln_string type = {0};
    f->rope_divisor = 1.0f;
    f->rope_magnitude = 1.0f;
    ln_status status = ln_gguf_string(gguf, key.text, &type, err);
    if (status == LN_OK) {
        status = read_optional_count(gguf, arch, "rope.scaling.original_context_length", &f->rope_trained_len, err);
    }
    if (status != LN_OK || ln_string_is(type, "none")) {
        return status;
    }
    if (!ln_string_is(type, "longrope")) { /* its divisors are tensors */
        status = read_positive(gguf, arch, "rope.scale_linear", &f->rope_divisor, err); /* the key's older name */
        if (status == LN_OK) {
            status = read_positive(gguf, arch, "rope.scaling.factor", &f->rope_divisor, err);
        }
    }
    if (status == LN_OK && ln_string_is(type, "yarn")) {
        status = read_yarn(gguf, arch, f, err);
    } else if (status == LN_OK && type.data != NULL && !ln_string_is(type, "linear") &&
               !ln_string_is(type, "longrope")) {
        return ln_fail(err, LN_UNSUPPORTED, "'%s' is '%.*s'; this core knows none, linear, yarn and longrope", key.text,
                       LN_STRING_ARGS(type));
    }
    float factor = 1.0f;
    if (status == LN_OK) {
        status = read_factor(gguf, arch, "rope.scaling.attn_factor", &factor, err);
    }
    f->rope_magnitude *= factor;
    return status;
}

static ln_status read_rope(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    f->rope_pairs = arch->style.rope_pairs;
    f->rope_interval = arch->style.rope_interval;
    f->rope_dims = f->head_dim;
    f->rope_base = 10000.0f; /* Su et al. 2021, and what readers of GGUF assume */
    f->rope_base_local = arch->style.rope_base_local;
    ln_status status = read_count(gguf, arch, "rope.dimension_count", &f->rope_dims, err);
    if (status == LN_OK) {
        status = read_positive(gguf, arch, "rope.freq_base", &f->rope_base, err);
    }
    if (status == LN_OK) {
        status = read_factor(gguf, arch, "rope.freq_base_swa", &f->rope_base_local, err);
    }
    if (status == LN_OK) {
        status = read_optional_count(gguf, arch, "rope.no_rope_interval", &f->rope_interval, err);
    }
    if (status != LN_OK) {
        return status;
    }
    if (f->rope_base <= 1) {
        return ln_fail(err, LN_BAD_FILE, "the base of rotary positions is %g, it must be above 1; convert the model again",
                       (double)f->rope_base);
    }
    if (f->rope_pairs == LN_ROPE_NONE) {
        f->rope_dims = 0;
    }
    if (f->rope_dims % 2 != 0 || f->rope_dims > f->head_dim) {
        return ln_fail(err, LN_BAD_FILE, "%d rotated elements do not go into a head of %d; convert the model again",
                       (int)f->rope_dims, (int)f->head_dim);
    }
    return read_rope_scaling(gguf, arch, f, err);
}

/* ---- the rest -------------------------------------------------------------------------- */

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

/* An encoder's table of token types may be missing where there is one type: files of those without a table say 1. */
static ln_status read_token_types(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    const char *key = "tokenizer.ggml.token_type_count";
    if (!arch->style.looks_both_ways) {
        return LN_OK;
    }
    const int has_table = ln_gguf_find_tensor(gguf, "token_types.weight") != NULL;
    ln_status status = ln_gguf_i32(gguf, key, &f->n_token_types, err);
    if (!has_table && f->n_token_types == 1) {
        f->n_token_types = 0;
    }
    if (status == LN_OK && (f->n_token_types < 0 || has_table != (f->n_token_types > 0))) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is %d and tensor 'token_types.weight' is %s; convert the model again",
                       key, (int)f->n_token_types, has_table ? "there" : "missing");
    }
    return status;
}

#define POOLING_RANK 4 /* llama.cpp's word for a head that scores */

/* Whether a model has the head of a cross-encoder: a tensor of it is there, or the metadata says so, which that of not
 * all rerankers does. What it does inside depends on the kin of BERT: the one without types of tokens is DistilBERT. */
static ln_status read_rank(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    int32_t pooling = 0;
    if (!arch->style.looks_both_ways) {
        return LN_OK;
    }
    const ln_gguf_tensor *score = ln_gguf_find_tensor(gguf, "cls.output.weight");
    ln_gguf_i32(gguf, key_of(arch, "pooling_type").text, &pooling, NULL); /* whatever else it may be is not for here */
    f->ranks = pooling == POOLING_RANK || score != NULL || ln_gguf_find_tensor(gguf, "cls.weight") != NULL;
    f->rank_activation = f->n_token_types > 0 ? LN_TANH : LN_RELU;
    if (score != NULL && score->dims[1] != 1) {
        return ln_fail(err, LN_UNSUPPORTED, "the model sorts texts into %.0f classes; this core runs those that give a "
                       "text one number, its score",
                       (double)score->dims[1]);
    }
    return LN_OK;
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

/* Layers that share a block; more than this in a row is no model. */
#define MAX_REPEAT 64

static ln_status read_shape(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    ln_status status = read_count(gguf, arch, "block_count", &f->n_blocks, err);
    f->block_repeat = 1;
    if (status == LN_OK) {
        status = read_count(gguf, arch, "block_repeat", &f->block_repeat, err);
    }
    if (status == LN_OK && (f->block_repeat > MAX_REPEAT || f->n_blocks > INT32_MAX / f->block_repeat)) {
        return ln_fail(err, LN_UNSUPPORTED, "%d blocks run %d times each; this core runs each up to %d times",
                       (int)f->n_blocks, (int)f->block_repeat, MAX_REPEAT);
    }
    f->n_layers = f->n_blocks * f->block_repeat;
    if (status == LN_OK) {
        status = read_count(gguf, arch, "embedding_length", &f->dim, err);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "feed_forward_length", &f->ffn_dim, err);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "context_length", &f->max_seq_len, err);
    }
    return status == LN_OK ? read_optional_count(gguf, arch, "shortconv.l_cache", &f->conv_len, err) : status;
}

static ln_status read_norm(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    f->norm = arch->style.norm;
    f->norm_epsilon = NAN;
    return read_positive(gguf, arch, f->norm == LN_NORM_RMS ? "attention.layer_norm_rms_epsilon"
                                                             : "attention.layer_norm_epsilon",
                         &f->norm_epsilon, err);
}

/* What the stream is multiplied by, and whether parts of a layer read it side by side. */
static ln_status read_stream(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    f->embedding_scale = arch->style.scales_embedding ? sqrtf((float)f->dim) : 1.0f;
    f->residual_scale = 1.0f;
    f->logit_scale = 1.0f;
    ln_status status = read_factor(gguf, arch, "embedding_scale", &f->embedding_scale, err);
    if (status == LN_OK) {
        status = read_factor(gguf, arch, "residual_scale", &f->residual_scale, err);
    }
    if (status == LN_OK) {
        status = read_factor(gguf, arch, "logit_scale", &f->logit_scale, err);
    }
    if (status == LN_OK) {
        status = read_float(gguf, arch, "final_logit_softcapping", &f->logit_cap, err);
    }
    f->logit_scale = arch->style.divides_logits ? 1.0f / f->logit_scale : f->logit_scale;
    switch (arch->style.parallel) {
    case LN_PARALLEL: f->parallel_residual = 1; break;
    case LN_PARALLEL_WITHOUT_FFN_NORM:
        f->parallel_residual = ln_gguf_find_tensor(gguf, "blk.0.ffn_norm.weight") == NULL;
        break;
    case LN_PARALLEL_IF_SAID:
        return status != LN_OK ? status
                               : ln_gguf_bool(gguf, key_of(arch, "use_parallel_residual").text, &f->parallel_residual,
                                              err);
    }
    return status;
}

static ln_status read_activation(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    static const struct {
        const char *name;
        ln_activation activation;
    } known[] = {
        {"silu", LN_SILU},     {"swish", LN_SILU},   {"gelu", LN_GELU_ERF}, {"gelu_pytorch_tanh", LN_GELU_TANH},
        {"gelu_new", LN_GELU_TANH}, {"relu", LN_RELU}, {"relu2", LN_RELU2},
    };
    const key_text key = key_of(arch, "hidden_act");
    ln_string name = {0};
    f->activation = arch->style.activation;
    ln_status status = ln_gguf_string(gguf, key.text, &name, err);
    if (status != LN_OK || name.data == NULL) {
        return status;
    }
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        if (ln_string_is(name, known[i].name)) {
            f->activation = known[i].activation;
            return LN_OK;
        }
    }
    return ln_fail(err, LN_UNSUPPORTED, "'%s' is '%.*s'; this core knows silu, gelu, gelu_pytorch_tanh, relu and relu2",
                   key.text, LN_STRING_ARGS(name));
}

static ln_status read_experts(const ln_gguf *gguf, const ln_arch *arch, ln_facts *f, ln_error *err) {
    ln_status status = read_optional_count(gguf, arch, "expert_count", &f->n_experts, err);
    if (status != LN_OK || f->n_experts == 0) {
        return status;
    }
    f->expert_ffn_dim = f->ffn_dim;
    f->expert_norm = 1;
    status = read_count(gguf, arch, "expert_used_count", &f->n_experts_used, err);
    if (status == LN_OK && f->n_experts_used > f->n_experts) {
        return ln_fail(err, LN_BAD_FILE, "the metadata has a token choose %d of %d experts; convert the model again",
                       (int)f->n_experts_used, (int)f->n_experts);
    }
    if (status == LN_OK) {
        status = read_count(gguf, arch, "expert_feed_forward_length", &f->expert_ffn_dim, err);
    }
    return status == LN_OK ? ln_gguf_bool(gguf, key_of(arch, "expert_weights_norm").text, &f->expert_norm, err)
                           : status;
}

ln_status ln_facts_read(const ln_gguf *gguf, const ln_arch *arch, ln_facts *out, ln_error *err) {
    typedef ln_status step(const ln_gguf *, const ln_arch *, ln_facts *, ln_error *);
    step *const steps[] = {read_shape, read_norm,   read_heads,      read_direction, read_attention,
                           read_rope,  read_stream, read_activation, read_experts,   read_vocab,
                           read_token_types, read_rank};
    memset(out, 0, sizeof *out);
    snprintf(out->arch, sizeof out->arch, "%s", arch->name);
    ln_status status = check_whole(gguf, err);
    if (status == LN_OK) {
        status = check_neutral(gguf, arch, err);
    }
    for (size_t i = 0; status == LN_OK && i < sizeof steps / sizeof steps[0]; i++) {
        status = steps[i](gguf, arch, out, err);
    }
    return status;
}

/* ---- layers ------------------------------------------------------------------------------- */

/* What attention.sliding_window_pattern says: layers interval - 1, 2 interval - 1 ... have no window (0: all have),
 * or a list of those that have. */
static ln_status read_windows(const ln_gguf *gguf, const ln_arch *arch, const ln_facts *f, ln_layer_kind *kinds,
                              ln_error *err) {
    const key_text key = key_of(arch, "attention.sliding_window_pattern");
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
    ln_gguf_array list = {0};
    int32_t interval = arch->style.global_interval;
    ln_status status = LN_OK;
    if (pair != NULL && pair->type == LN_GGUF_ARRAY) {
        status = ln_gguf_array_of(gguf, key.text, LN_GGUF_I32, &list, err);
        if (status == LN_OK && list.length != (uint64_t)f->n_layers) {
            return ln_fail(err, LN_BAD_FILE, "'%s' does not list %d layers; convert the model again", key.text,
                           (int)f->n_layers);
        }
    } else {
        status = read_optional_count(gguf, arch, "attention.sliding_window_pattern", &interval, err);
    }
    for (int32_t i = 0; status == LN_OK && i < f->n_layers; i++) {
        const int has = list.length > 0 ? ln_gguf_array_i32(&list, (uint64_t)i) != 0
                                        : interval == 0 || (i + 1) % interval != 0;
        kinds[i].window = has ? f->sliding_window : 0;
        kinds[i].is_local = has && f->sliding_window > 0 && f->rope_base_local > 0;
    }
    return status;
}

ln_status ln_layer_kinds_read(const ln_gguf *gguf, const ln_arch *arch, ln_facts *facts, ln_layer_kind *kinds,
                              ln_error *err) {
    const key_text key = key_of(arch, "attention.head_count_kv");
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key.text);
    ln_gguf_array heads = {0};
    ln_status status = read_windows(gguf, arch, facts, kinds, err);
    if (status == LN_OK && pair != NULL && pair->type == LN_GGUF_ARRAY) {
        status = ln_gguf_array_of(gguf, key.text, LN_GGUF_I32, &heads, err);
    }
    facts->lookback = facts->sliding_window;
    for (int32_t i = 0; status == LN_OK && i < facts->n_layers; i++) {
        kinds[i].is_conv = heads.length > 0 && ln_gguf_array_i32(&heads, (uint64_t)i) == 0;
        kinds[i].rotates = facts->rope_pairs != LN_ROPE_NONE &&
                           (facts->rope_interval == 0 || (i + 1) % facts->rope_interval != 0);
        facts->lookback = kinds[i].window == 0 && !kinds[i].is_conv ? 0 : facts->lookback;
        kinds[i].index = kinds[i].is_conv ? facts->n_conv : facts->causal ? i - facts->n_conv : 0;
        facts->n_conv += kinds[i].is_conv;
    }
    if (facts->lookback > 0 && facts->lookback < facts->conv_len) {
        facts->lookback = facts->conv_len;
    }
    return status;
}
