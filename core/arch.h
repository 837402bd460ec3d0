/* arch.h - an architecture is a row of facts: its name in GGUF, the tensors it has and their
 * shapes, and what it does where architectures differ. The decoder reads facts, never names. */
#ifndef LINNET_ARCH_H
#define LINNET_ARCH_H

#include "gguf.h"
#include "products.h"

typedef enum ln_norm_kind {
    LN_NORM_RMS,  /* Zhang & Sennrich 2019 */
    LN_NORM_LAYER /* Ba et al. 2016 */
} ln_norm_kind;

/* Which elements of a head are rotated together: those of each pair (2i, 2i + 1), or (i, rope_dims / 2 + i). */
typedef enum ln_rope_pairs { LN_ROPE_NONE, LN_ROPE_NEIGHBOURS, LN_ROPE_HALVES } ln_rope_pairs;

typedef enum ln_rope_scaling { LN_ROPE_LINEAR, LN_ROPE_YARN } ln_rope_scaling;

/* What a model's metadata says about it, and what its architecture is known for. Counts are 1 or more unless 0 is
 * given a meaning. */
typedef struct ln_facts {
    char arch[32];
    int32_t n_layers;     /* n_blocks * block_repeat */
    int32_t n_blocks;     /* whose weights the file holds */
    int32_t block_repeat; /* layers in succession that share the weights of a block (Liu et al. 2024, "MobileLLM") */
    int32_t n_heads;
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;   /* at most 65536 */
    int32_t dim;
    int32_t ffn_dim;
    int32_t vocab_size;
    int32_t max_seq_len;

    ln_norm_kind norm;
    float norm_epsilon;
    ln_activation activation;
    int parallel_residual;  /* attention and feed-forward read the same stream (Wang & Komatsuzaki 2021, GPT-J) */

    int causal;             /* a token attends to those before it; 0: to all of its text (an encoder), so that it can
                             * neither be continued nor has logits */
    int32_t sliding_window; /* a token attends to itself and those before it, this many in all; 0 = to all */
    int32_t lookback;       /* the same of the layer that looks back farthest */
    float attention_scale;
    float attention_cap;    /* scores become cap * tanh(score / cap) (Gemma Team 2024, Gemma 2); 0 = they stay */
    float logit_cap;        /* the same of logits */
    float embedding_scale;
    float residual_scale;   /* of what each part of a layer adds to the stream */
    float logit_scale;

    ln_rope_pairs rope_pairs;
    int32_t rope_dims;      /* leading elements of a head that are rotated; even, at most head_dim */
    float rope_base;
    float rope_base_local;  /* of layers with a window, which then know no scaling; 0 = as the others */
    ln_rope_scaling rope_scaling;
    float rope_divisor;     /* frequencies are divided by it (Chen et al. 2023); with YaRN the low ones only */
    float rope_fast;        /* YaRN (Peng et al. 2023): pairs that turn at least so often in rope_trained_len stay, */
    float rope_slow;        /* those that turn less often than this are divided */
    float rope_magnitude;   /* of rotated queries and keys */
    int32_t rope_trained_len; /* longer sessions use the long factors, and YaRN stretches this length */
    int32_t rope_interval;  /* layers rope_interval - 1, 2 rope_interval - 1 ... do not rotate; 0 = all do */

    int32_t n_experts;      /* 0 = none */
    int32_t n_experts_used; /* of each token */
    int32_t expert_ffn_dim;
    int expert_norm;        /* the weights of the chosen experts are made to sum up to 1 */
    int32_t n_token_types;  /* kinds of text, such as query and document; 0 = they are not told apart */
    int ranks;              /* a head makes one number of a text, which reads a query and a document as one */
    ln_activation rank_activation;
    int32_t conv_len;       /* taps of a short convolution; 0 = none */
    int32_t n_conv;         /* layers with one instead of attention */
} ln_facts;

/* A length that the facts give. */
typedef enum ln_extent {
    LN_EXTENT_ZERO,
    LN_EXTENT_ONE,
    LN_EXTENT_DIM,
    LN_EXTENT_3_DIM,
    LN_EXTENT_FFN,       /* ffn_dim of dense blocks; 0 where all have experts, for then no tensor has it */
    LN_EXTENT_2_FFN,
    LN_EXTENT_QUERY,     /* n_heads * head_dim */
    LN_EXTENT_KEY,       /* n_kv_heads * head_dim */
    LN_EXTENT_QUERY_KEY, /* the sum of both */
    LN_EXTENT_QKV,       /* and KEY once more */
    LN_EXTENT_HEADS,
    LN_EXTENT_KV_HEADS,
    LN_EXTENT_HEAD_DIM,
    LN_EXTENT_VOCAB,
    LN_EXTENT_POSITIONS, /* max_seq_len */
    LN_EXTENT_TOKEN_TYPES,
    LN_EXTENT_ROPE_PAIRS, /* rope_dims / 2 */
    LN_EXTENT_EXPERTS,
    LN_EXTENT_EXPERT_FFN,
    LN_EXTENT_CONV
} ln_extent;

int64_t ln_extent_of(const ln_facts *facts, ln_extent extent);

/* Weights of a norm over cols elements; with more than one row, part i of what is normalised has row i. */
typedef struct ln_norm {
    float *weight; /* [rows][cols], or NULL: there is no norm */
    float *bias;   /* [rows][cols], or NULL */
    int64_t rows;
    int64_t cols;
} ln_norm;

/* The weights of one block. Vectors are unpacked copies; matrices lie in the file, or packed (panels.h) once the
 * model is loaded. */
typedef struct ln_layer {
    ln_norm attn_norm;      /* before attention */
    ln_linear q;            /* [n_heads * head_dim][dim] */
    ln_linear k;            /* [n_kv_heads * head_dim][dim] */
    ln_linear v;            /* [n_kv_heads * head_dim][dim] */
    ln_linear o;            /* [dim][n_heads * head_dim] */
    ln_norm q_norm;         /* of each head, or of all together */
    ln_norm k_norm;
    ln_norm attn_sub_norm;  /* of what o reads */
    ln_norm attn_post_norm; /* of what attention adds to the stream */
    ln_norm attn_sum_norm;  /* of the stream once that is added */
    ln_linear conv_in;      /* [3 * dim][dim], of a layer that has a short convolution instead of attention */
    ln_linear conv_out;     /* [dim][dim] */
    float *conv_taps;       /* [dim][conv_len] */
    ln_norm ffn_norm;       /* before the feed-forward block */
    ln_linear gate;         /* [ffn_dim][dim]; without data where there is no gate */
    ln_linear up;           /* [ffn_dim][dim] */
    ln_linear down;         /* [dim][ffn_dim] */
    ln_norm ffn_sub_norm;   /* of what down reads */
    ln_norm ffn_post_norm;  /* of what the block adds to the stream */
    ln_norm ffn_sum_norm;   /* of the stream once that is added */
    ln_linear router;       /* [n_experts][dim] */
    ln_linear *gate_experts; /* [n_experts] of [expert_ffn_dim][dim] */
    ln_linear *up_experts;
    ln_linear *down_experts; /* [n_experts] of [dim][expert_ffn_dim] */
} ln_layer;

/* What differs from layer to layer beside the weights. */
typedef struct ln_layer_kind {
    int32_t window; /* 0 = attends to all before it */
    int rotates;
    int is_local;   /* rotates with rope_base_local */
    int is_conv;
    int32_t index;  /* of its place in a page, among the layers with attention or among those with a convolution */
} ln_layer_kind;

/* The weights outside the layers. */
typedef struct ln_globals {
    ln_linear embedding;  /* [vocab_size][dim] */
    ln_linear positions;  /* [max_seq_len][dim], or without data */
    ln_linear token_types; /* [n_token_types][dim], or without data */
    ln_norm embedding_norm; /* of the sum of these, which the layers read */
    ln_norm output_norm;
    ln_linear rank_inner; /* [dim][dim] of a first token, then rank_activation; without data where there is no head */
    ln_linear rank_score; /* [1][dim] */
    ln_linear output;     /* [vocab_size][dim]; without data where the embedding is the head too, or there is none */
    float *rope_divisors; /* [rope_dims / 2], one more divisor per frequency, or NULL */
    float *rope_short;    /* the same, of sessions up to rope_trained_len, */
    float *rope_long;     /* and of longer ones (Ding et al. 2024, "LongRoPE") */
} ln_globals;

typedef enum ln_field_kind {
    LN_FIELD_TABLE,   /* ln_linear: name.weight, of which rows are looked up too */
    LN_FIELD_LINEAR,  /* ln_linear: name.weight, and name.bias [rows] and name.scale [1] where they are there */
    LN_FIELD_NORM,    /* ln_norm: name.weight, and name.bias where it is there */
    LN_FIELD_VECTOR,  /* float *: name.weight */
    LN_FIELD_EXPERTS  /* ln_linear *: name.weight [n_experts][rows][cols] */
} ln_field_kind;

/* Which layers or models a rule is about. */
typedef enum ln_when {
    LN_ALWAYS,
    LN_IF_ATTENTION,
    LN_IF_CONV,
    LN_IF_DENSE,
    LN_IF_EXPERTS,
    LN_IF_TYPED,
    LN_IF_RANKS
} ln_when;

/* A tensor of the file and the field of ln_layer or ln_globals it fills. */
typedef struct ln_tensor_rule {
    const char *name; /* of a layer's tensor: what follows "blk.N." */
    size_t field;
    ln_field_kind kind;
    ln_extent rows;
    ln_extent cols;
    int optional;     /* a rule that is not is satisfied too if an earlier one filled the field */
    ln_when when;
    ln_extent first;  /* the field is rows [first, first + rows) of a tensor */
    ln_extent all;    /* of so many; ZERO = rows are all of them */
} ln_tensor_rule;

typedef enum ln_parallel {
    LN_PARALLEL_IF_SAID,         /* by use_parallel_residual */
    LN_PARALLEL,
    LN_PARALLEL_WITHOUT_FFN_NORM /* if the tensor is not there */
} ln_parallel;

/* What an architecture does where the metadata is silent. */
typedef struct ln_style {
    ln_norm_kind norm;
    ln_rope_pairs rope_pairs;
    ln_activation activation;
    ln_parallel parallel;
    int looks_both_ways;       /* not causal */
    int scales_embedding;      /* by sqrt(dim) */
    int divides_logits;        /* by logit_scale, rather than multiplying */
    int32_t global_interval;   /* layers global_interval - 1, 2 global_interval - 1 ... have no window; 0 = all have */
    int32_t rope_interval;
    float rope_base_local;
    int32_t wide_scale_layers; /* models of so many layers scale scores by 1 / sqrt(dim / n_heads) */
} ln_style;

#define LN_MAX_RULE_LISTS 8

/* Lists of rules end with one whose name is NULL, lists of lists with NULL. */
typedef struct ln_arch {
    const char *name; /* general.architecture, and the prefix of its keys */
    const ln_tensor_rule *globals[LN_MAX_RULE_LISTS];
    const ln_tensor_rule *layer[LN_MAX_RULE_LISTS];
    ln_style style;
} ln_arch;

/* Finds the row of a file. LN_BAD_FILE, LN_UNSUPPORTED. */
ln_status ln_arch_of(const ln_gguf *gguf, const ln_arch **out, ln_error *err);

/* ---- facts.c ------------------------------------------------------------------- */

/* Reads the facts and checks each alone and against the others. LN_BAD_FILE, LN_UNSUPPORTED. */
ln_status ln_facts_read(const ln_gguf *gguf, const ln_arch *arch, ln_facts *out, ln_error *err);

/* Reads kinds[facts->n_layers], and sets what facts say of all layers together. LN_BAD_FILE, LN_UNSUPPORTED. */
ln_status ln_layer_kinds_read(const ln_gguf *gguf, const ln_arch *arch, ln_facts *facts, ln_layer_kind *kinds,
                              ln_error *err);

#endif
