/* wordpiece.c - the longest piece that fits, again and again (Schuster and Nakajima 2012). */
#include "tokenizer.h"
#include "unicode.h"

/* The node that a prefix of pieces leads to. */
static uint32_t node_of(const ln_trie *trie, ln_string prefix) {
    uint32_t node = LN_TRIE_ROOT;
    for (size_t i = 0; i < prefix.length && node != LN_TRIE_NONE; i++) {
        node = ln_trie_step(trie, node, (unsigned char)prefix.data[i]);
    }
    return node;
}

ln_status ln_wordpiece_encode(ln_encoder *e, const char *word, size_t length) {
    const ln_tokenizer *t = e->tokenizer;
    int64_t before = e->n_ids;
    size_t n_characters = 0;
    for (size_t i = 0; i < length; i += ln_utf8_length(word[i])) {
        n_characters++;
    }
    int fits = n_characters <= t->max_word_characters;
    uint32_t node = t->first_node;
    for (size_t start = 0; fits && start < length;) {
        int32_t id = -1;
        size_t end = start;
        for (size_t i = start; i < length && node != LN_TRIE_NONE; i++) {
            node = ln_trie_step(&t->trie, node, (unsigned char)word[i]);
            if (node != LN_TRIE_NONE && t->trie.ids[node] >= 0) {
                id = t->trie.ids[node];
                end = i + 1;
            }
        }
        fits = id >= 0;
        if (fits) {
            ln_encoder_emit(e, id);
        }
        start = end;
        node = t->inner_node;
    }
    if (!fits) {
        e->n_ids = before;
        if (t->unk_id >= 0) {
            ln_encoder_emit(e, t->unk_id);
        }
    }
    return LN_OK;
}

void ln_wordpiece_finish(ln_tokenizer *t, ln_string first, ln_string inner) {
    t->first_node = node_of(&t->trie, first);
    t->inner_node = node_of(&t->trie, inner);
}
