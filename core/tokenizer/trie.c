/* trie.c - builds the tree of a vocabulary's pieces. */
#include "trie.h"

#include <stdlib.h>
#include <string.h>

/* The keys below a node that is not built yet; all are equal up to its depth. */
typedef struct key_range {
    uint32_t low;
    uint32_t high;
    uint32_t depth;
} key_range;

static int by_text(const void *a, const void *b) {
    const ln_trie_key *x = a;
    const ln_trie_key *y = b;
    int order = memcmp(x->text, y->text, x->length < y->length ? x->length : y->length);
    if (order != 0) {
        return order;
    }
    if (x->length != y->length) {
        return x->length < y->length ? -1 : 1;
    }
    return x->id < y->id ? -1 : x->id > y->id;
}

/* Bytes that the keys, sorted, do not share with the one before: the number of nodes below the root. */
static uint64_t count_nodes(const ln_trie_key *keys, size_t n) {
    uint64_t nodes = 0;
    for (size_t i = 0; i < n; i++) {
        uint32_t shared = 0;
        while (i > 0 && shared < keys[i].length && shared < keys[i - 1].length &&
               keys[i].text[shared] == keys[i - 1].text[shared]) {
            shared++;
        }
        nodes += keys[i].length - shared;
    }
    return nodes;
}

/* Puts the children of a node behind the last one that is there. */
static void build_node(ln_trie *trie, key_range *ranges, const ln_trie_key *keys, uint32_t node, uint32_t *n_nodes) {
    key_range at = ranges[node];
    trie->children[node] = *n_nodes;
    trie->ids[node] = -1;
    while (at.low < at.high && keys[at.low].length == at.depth) {
        trie->ids[node] = at.depth > 0 ? keys[at.low].id : -1;
        at.low++;
    }
    while (at.low < at.high) {
        unsigned char byte = (unsigned char)keys[at.low].text[at.depth];
        uint32_t first = at.low;
        while (at.low < at.high && (unsigned char)keys[at.low].text[at.depth] == byte) {
            at.low++;
        }
        trie->bytes[*n_nodes] = byte;
        ranges[(*n_nodes)++] = (key_range){first, at.low, at.depth + 1};
    }
}

ln_status ln_trie_open(ln_trie_key *keys, size_t n_keys, ln_trie *out, ln_error *err) {
    *out = (ln_trie){0};
    qsort(keys, n_keys, sizeof *keys, by_text);
    uint64_t total = count_nodes(keys, n_keys) + 1;
    if (total >= UINT32_MAX || n_keys >= UINT32_MAX) {
        return ln_fail(err, LN_UNSUPPORTED, "the vocabulary is too large");
    }
    key_range *ranges = ln_alloc((size_t)total, sizeof *ranges, "the vocabulary", err);
    out->children = ln_alloc((size_t)total + 1, sizeof *out->children, "the vocabulary", err);
    out->ids = ln_alloc((size_t)total, sizeof *out->ids, "the vocabulary", err);
    out->bytes = ln_alloc((size_t)total, 1, "the vocabulary", err);
    if (ranges == NULL || out->children == NULL || out->ids == NULL || out->bytes == NULL) {
        free(ranges);
        ln_trie_free(out);
        return LN_NO_MEMORY;
    }
    uint32_t n_nodes = 1;
    ranges[0] = (key_range){0, (uint32_t)n_keys, 0};
    for (uint32_t node = 0; node < n_nodes; node++) {
        build_node(out, ranges, keys, node, &n_nodes);
    }
    out->children[n_nodes] = n_nodes;
    out->n_nodes = n_nodes;
    free(ranges);
    return LN_OK;
}

void ln_trie_free(ln_trie *trie) {
    free(trie->children);
    free(trie->ids);
    free(trie->bytes);
    *trie = (ln_trie){0};
}
