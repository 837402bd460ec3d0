/* arch.h - an architecture is a row of facts: its name in GGUF, the tensors it has and their
 * shapes, and the settings that would change its arithmetic. The decoder reads facts, never names. */
#ifndef LINNET_ARCH_H
#define LINNET_ARCH_H

#include "gguf.h"
#include "kernels/kernels.h"

/* What a model's metadata says about it. Every count is 1 or more. */
typedef struct ln_facts {
    char arch[32];
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads; /* divides n_heads */
    int32_t head_dim;   /* at most 65536 */
    int32_t dim;
    int32_t ffn_dim;
    int32_t vocab_size;
    int32_t max_seq_len;
    int32_t sliding_window; /* a token attends to itself and those before it, this many in all; 0 = to all */
    int32_t rope_dims;      /* leading elements of a head that are rotated; even, at most head_dim */
    float rope_base;
    float rope_divisor;     /* linear position scaling (Chen et al. 2023): frequencies are divided by it */
    float norm_epsilon;
} ln_facts;

/* A length that the facts give. */
typedef enum ln_extent {
    LN_EXTENT_ONE,
    LN_EXTENT_DIM,
    LN_EXTENT_FFN,
    LN_EXTENT_QUERY,     /* n_heads * head_dim */
    LN_EXTENT_KEY,       /* n_kv_heads * head_dim */
    LN_EXTENT_VOCAB,
    LN_EXTENT_ROPE_PAIRS /* rope_dims / 2 */
} ln_extent;

int64_t ln_extent_of(const ln_facts *facts, ln_extent extent);

/* The weights of one layer. Vectors are unpacked copies; matrices lie in the file, or packed (panels.h) once the
 * model is loaded. */
typedef struct ln_layer {
    float *attn_norm; /* [dim] */
    ln_matrix q;      /* [n_heads * head_dim][dim] */
    ln_matrix k;      /* [n_kv_heads * head_dim][dim] */
    ln_matrix v;      /* [n_kv_heads * head_dim][dim] */
    ln_matrix o;      /* [dim][n_heads * head_dim] */
    float *ffn_norm;  /* [dim] */
    ln_matrix gate;   /* [ffn_dim][dim] */
    ln_matrix up;     /* [ffn_dim][dim] */
    ln_matrix down;   /* [dim][ffn_dim] */
} ln_layer;

/* The weights outside the layers. */
typedef struct ln_globals {
    ln_matrix embedding;  /* [vocab_size][dim] */
    float *output_norm;   /* [dim] */
    ln_matrix output;     /* [vocab_size][dim]; without data where the embedding is the head too */
    float *rope_divisors; /* [rope_dims / 2], one more divisor per frequency, or NULL */
} ln_globals;

/* A tensor of the file and the field of ln_layer or ln_globals it fills. */
typedef struct ln_tensor_rule {
    const char *name; /* of a layer's tensor: what follows "blk.N." */
    size_t field;     /* offset of an ln_matrix, or of a float * where rows is LN_EXTENT_ONE */
    ln_extent rows;
    ln_extent cols;
    int optional;
} ln_tensor_rule;

/* A metadata key (after "arch.") that would change the arithmetic, and the value at which it does not. */
typedef struct ln_neutral_rule {
    const char *key;
    double neutral;
} ln_neutral_rule;

/* Lists end with a rule whose name or key is NULL. */
typedef struct ln_arch {
    const char *name; /* general.architecture, and the prefix of its keys */
    const ln_tensor_rule *globals;
    const ln_tensor_rule *layer;
    const ln_neutral_rule *neutral;
} ln_arch;

/* Finds the row of a file. LN_BAD_FILE, LN_UNSUPPORTED. */
ln_status ln_arch_of(const ln_gguf *gguf, const ln_arch **out, ln_error *err);

/* Reads the facts and checks each alone and against the others. LN_BAD_FILE, LN_UNSUPPORTED. */
ln_status ln_facts_read(const ln_gguf *gguf, const ln_arch *arch, ln_facts *out, ln_error *err);

#endif
