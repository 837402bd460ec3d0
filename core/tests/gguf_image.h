/* gguf_image.h - writes small GGUF files into memory, good ones and ones with a chosen fault, for the
 * C tests. */
#ifndef LINNET_TESTS_GGUF_IMAGE_H
#define LINNET_TESTS_GGUF_IMAGE_H

#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "gguf.h"

/* ---- bytes -------------------------------------------------------------------- */

typedef struct image {
    uint8_t *bytes; /* exactly size of them after image_trim, so that a sanitizer sees a step outside */
    size_t size;
} image;

static inline void put(image *g, const void *bytes, size_t n) {
    g->bytes = realloc(g->bytes, g->size + n + 1);
    CHECK(g->bytes != NULL, "out of memory");
    if (n != 0) {
        memcpy(g->bytes + g->size, bytes, n);
    }
    g->size += n;
}

static inline void put_u8(image *g, uint8_t v) { put(g, &v, 1); }
static inline void put_u32(image *g, uint32_t v) {
    put(g, (uint8_t[]){(uint8_t)v, (uint8_t)(v >> 8), (uint8_t)(v >> 16), (uint8_t)(v >> 24)}, 4);
}
static inline void put_u64(image *g, uint64_t v) {
    put_u32(g, (uint32_t)v);
    put_u32(g, (uint32_t)(v >> 32));
}
static inline void put_f32(image *g, float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    put_u32(g, bits);
}
static inline void put_string(image *g, const char *text) {
    put_u64(g, strlen(text));
    put(g, text, strlen(text));
}
static inline void put_key(image *g, const char *key, ln_gguf_type type) {
    put_string(g, key);
    put_u32(g, (uint32_t)type);
}
static inline void put_pair_u32(image *g, const char *key, uint32_t v) {
    put_key(g, key, LN_GGUF_U32);
    put_u32(g, v);
}
static inline void put_pair_f32(image *g, const char *key, float v) {
    put_key(g, key, LN_GGUF_F32);
    put_f32(g, v);
}
static inline void put_pair_string(image *g, const char *key, const char *text) {
    put_key(g, key, LN_GGUF_STRING);
    put_string(g, text);
}
static inline void put_header(image *g, uint64_t n_tensors, uint64_t n_pairs) {
    put(g, "GGUF", 4);
    put_u32(g, 3);
    put_u64(g, n_tensors);
    put_u64(g, n_pairs);
}
static inline void put_tensor_info(image *g, const char *name, uint32_t type, int64_t cols, int64_t rows,
                                   uint64_t offset) {
    put_string(g, name);
    put_u32(g, rows > 0 ? 2 : 1);
    put_u64(g, (uint64_t)cols);
    if (rows > 0) {
        put_u64(g, (uint64_t)rows);
    }
    put_u32(g, type);
    put_u64(g, offset);
}
static inline void put_padding(image *g, size_t alignment) {
    while (g->size % alignment != 0) {
        put_u8(g, 0);
    }
}
static inline void image_trim(image *g) {
    uint8_t *exact = malloc(g->size != 0 ? g->size : 1);
    CHECK(exact != NULL, "out of memory");
    memcpy(exact, g->bytes, g->size);
    free(g->bytes);
    g->bytes = exact;
}
static inline void image_free(image *g) {
    free(g->bytes);
    *g = (image){0};
}

/* ---- a tiny Llama --------------------------------------------------------------- */

/* Everything zero or NULL but the shape is a good file. */
typedef struct tiny_llama {
    uint32_t n_layers, n_heads, n_kv_heads, head_dim, dim, ffn_dim, vocab_size, max_seq_len;
    ln_type type;            /* of the matrices whose rows are whole blocks of it, f32 for the others; F32 is 0 */
    int tied;
    int rope_divisors;       /* with rope_freqs.weight */
    float linear;            /* rope.scaling.factor; 0 = none */
    const char *without;     /* a tensor or key to leave out */
    const char *wider;       /* a tensor that gets a block more columns */
    const char *odd_type;    /* a tensor of type iq2_xxs */
    const char *extra;       /* the name of one more tensor */
    const char *u32_key;     /* one more pair, or another value for one of the file */
    uint32_t u32_value;
    const char *string_key;  /* one more pair */
    const char *string_value;
} tiny_llama;

static const tiny_llama tiny = {
    .n_layers = 2, .n_heads = 4, .n_kv_heads = 2, .head_dim = 16, .dim = 64, .ffn_dim = 96, .vocab_size = 50,
    .max_seq_len = 128,
};

typedef struct tensor_list {
    struct {
        char name[64];
        int32_t type;       /* of the data; what the file says of it may differ */
        uint32_t said_type;
        int64_t cols, rows; /* rows = 0: a vector */
        uint64_t bytes;
    } all[64];
    int n;
} tensor_list;

static inline void list_tensor(tensor_list *list, const tiny_llama *m, const char *name, int64_t rows, int64_t cols) {
    if (m->without != NULL && strcmp(m->without, name) == 0) {
        return;
    }
    int odd = m->odd_type != NULL && strcmp(m->odd_type, name) == 0;
    cols += m->wider != NULL && strcmp(m->wider, name) == 0 ? 32 : 0;
    ln_type_info info;
    CHECK(ln_type_describe((int32_t)m->type, &info) == LN_OK, "type %d", (int)m->type);
    int32_t type = rows > 0 && cols % info.block_elements == 0 ? (int32_t)m->type : LN_TYPE_F32;
    ln_type_describe(type, &info);
    CHECK(list->n < 64, "too many tensors");
    snprintf(list->all[list->n].name, 64, "%s", name);
    list->all[list->n].type = type;
    list->all[list->n].said_type = odd ? 16 : (uint32_t)type;
    list->all[list->n].cols = cols;
    list->all[list->n].rows = rows;
    list->all[list->n].bytes = (uint64_t)(cols / info.block_elements * info.block_bytes * (rows > 0 ? rows : 1));
    list->n++;
}

static inline void list_tensors(tensor_list *list, const tiny_llama *m) {
    int64_t query = (int64_t)m->n_heads * m->head_dim;
    int64_t key = (int64_t)m->n_kv_heads * m->head_dim;
    list_tensor(list, m, "token_embd.weight", m->vocab_size, m->dim);
    const struct {
        const char *name;
        int64_t rows, cols;
    } layer[] = {
        {"attn_norm.weight", 0, m->dim},           {"attn_q.weight", query, m->dim},
        {"attn_k.weight", key, m->dim},            {"attn_v.weight", key, m->dim},
        {"attn_output.weight", m->dim, query},     {"ffn_norm.weight", 0, m->dim},
        {"ffn_gate.weight", m->ffn_dim, m->dim},   {"ffn_up.weight", m->ffn_dim, m->dim},
        {"ffn_down.weight", m->dim, m->ffn_dim},
    };
    for (uint32_t i = 0; i < m->n_layers; i++) {
        for (size_t j = 0; j < sizeof layer / sizeof layer[0]; j++) {
            char name[64];
            snprintf(name, sizeof name, "blk.%u.%s", (unsigned)i, layer[j].name);
            list_tensor(list, m, name, layer[j].rows, layer[j].cols);
        }
    }
    list_tensor(list, m, "output_norm.weight", 0, m->dim);
    if (!m->tied) {
        list_tensor(list, m, "output.weight", m->vocab_size, m->dim);
    }
    if (m->rope_divisors) {
        list_tensor(list, m, "rope_freqs.weight", 0, m->head_dim / 2);
    }
    if (m->extra != NULL) {
        list_tensor(list, m, m->extra, 0, m->dim);
    }
}

static inline void put_facts(image *g, const tiny_llama *m, uint64_t *n_pairs) {
    const struct {
        const char *key;
        uint32_t value;
    } counts[] = {
        {"llama.block_count", m->n_layers},
        {"llama.context_length", m->max_seq_len},
        {"llama.embedding_length", m->dim},
        {"llama.feed_forward_length", m->ffn_dim},
        {"llama.attention.head_count", m->n_heads},
        {"llama.attention.head_count_kv", m->n_kv_heads},
        {"llama.attention.key_length", m->head_dim},
    };
    put_pair_string(g, "general.architecture", "llama");
    put_pair_f32(g, "llama.attention.layer_norm_rms_epsilon", 1e-5f);
    put_pair_f32(g, "llama.rope.freq_base", 5000.0f);
    *n_pairs = 3;
    int replaced = 0;
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
        int other = m->u32_key != NULL && strcmp(m->u32_key, counts[i].key) == 0;
        if (m->without == NULL || strcmp(m->without, counts[i].key) != 0) {
            put_pair_u32(g, counts[i].key, other ? m->u32_value : counts[i].value);
            ++*n_pairs;
        }
        replaced |= other;
    }
    if (m->u32_key != NULL && !replaced) {
        put_pair_u32(g, m->u32_key, m->u32_value);
        ++*n_pairs;
    }
    if (m->linear > 0) {
        put_pair_string(g, "llama.rope.scaling.type", "linear");
        put_pair_f32(g, "llama.rope.scaling.factor", m->linear);
        *n_pairs += 2;
    }
    if (m->string_key != NULL) {
        put_pair_string(g, m->string_key, m->string_value);
        ++*n_pairs;
    }
}

/* Repeatable numbers, uniform in [-1, 1). */
static inline float next_weight(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u; /* Knuth / Numerical Recipes LCG */
    return (float)(*state >> 8) * 0x1p-23f - 1.0f;
}

/* A file with these facts, of which there are n_pairs, and tensors of repeatable numbers. Takes the facts. */
static inline image image_of(image *facts, uint64_t n_pairs, const tensor_list *list) {
    image g = {0};
    put_header(&g, (uint64_t)list->n, n_pairs);
    put(&g, facts->bytes, facts->size);
    image_free(facts);
    uint64_t offset = 0;
    for (int i = 0; i < list->n; i++) {
        put_tensor_info(&g, list->all[i].name, list->all[i].said_type, list->all[i].cols, list->all[i].rows, offset);
        offset = (offset + list->all[i].bytes + 31) / 32 * 32;
    }
    uint32_t state = 1;
    for (int i = 0; i < list->n; i++) {
        put_padding(&g, 32);
        int64_t rows = list->all[i].rows;
        int64_t n = list->all[i].cols * (rows > 0 ? rows : 1);
        float *values = calloc((size_t)n, sizeof *values);
        void *packed = calloc((size_t)list->all[i].bytes, 1);
        CHECK(values != NULL && packed != NULL, "out of memory");
        for (int64_t j = 0; j < n; j++) {
            values[j] = rows > 0 ? 0.3f * next_weight(&state) : 1.25f + 0.5f * next_weight(&state);
        }
        CHECK(ln_pack(list->all[i].type, values, n, packed, NULL) == LN_OK, "pack");
        put(&g, packed, (size_t)list->all[i].bytes);
        free(values);
        free(packed);
    }
    image_trim(&g);
    return g;
}

static inline image tiny_llama_image(const tiny_llama *m) {
    tensor_list list = {.n = 0};
    list_tensors(&list, m);
    image facts = {0};
    uint64_t n_pairs;
    put_facts(&facts, m, &n_pairs);
    return image_of(&facts, n_pairs, &list);
}

#endif
