/* trie.h - the pieces of a vocabulary as a tree of bytes: all pieces at the start of a text in one walk.
 *
 * Nodes lie in breadth-first order, so that the children of a node lie together, sorted by their bytes:
 * nine bytes a node, no hashing, and a build that is linear in the bytes of the pieces.
 */
#ifndef LINNET_TRIE_H
#define LINNET_TRIE_H

#include "buffer.h"

typedef struct ln_trie {
    uint32_t *children;  /* [n_nodes + 1]: those of node i are children[i] .. children[i + 1] */
    int32_t *ids;        /* [n_nodes]: of the piece that ends here, -1 for none */
    unsigned char *bytes; /* [n_nodes]: what leads here from the node above */
    uint32_t n_nodes;
} ln_trie;

typedef struct ln_trie_key {
    const char *text;
    uint32_t length; /* of several keys with one text the last one counts; empty ones are left out */
    int32_t id;
} ln_trie_key;

/* Builds a trie; the keys are sorted in place. Their texts are not needed afterwards. */
ln_status ln_trie_open(ln_trie_key *keys, size_t n_keys, ln_trie *out, ln_error *err);

void ln_trie_free(ln_trie *trie);

#define LN_TRIE_NONE UINT32_MAX
#define LN_TRIE_ROOT 0u

/* The node that byte leads to, LN_TRIE_NONE where there is none. */
static inline uint32_t ln_trie_step(const ln_trie *trie, uint32_t node, unsigned char byte) {
    uint32_t low = trie->children[node];
    uint32_t high = trie->children[node + 1];
    while (high - low > 8) {
        uint32_t middle = low + (high - low) / 2;
        if (trie->bytes[middle] <= byte) {
            low = middle;
        } else {
            high = middle;
        }
    }
    for (; low < high; low++) {
        if (trie->bytes[low] == byte) {
            return low;
        }
    }
    return LN_TRIE_NONE;
}

#endif
