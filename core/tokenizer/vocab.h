/* vocab.h - the pieces of a tokenizer, by id and by text, and its merges. */
#ifndef LINNET_VOCAB_H
#define LINNET_VOCAB_H

#include "buffer.h"

enum {
    LN_PIECE_PRESENT = 1, /* the id has a piece; the ids of a vocabulary may have holes */
    LN_PIECE_MODEL = 2,   /* merges and lookups may produce it */
    LN_PIECE_SPECIAL = 4, /* control token: not text unless asked for */
    LN_PIECE_LITERAL = 8, /* decodes to its text as it is written */
    LN_PIECE_APART = 16,  /* found by its whole text only: unigram and WordPiece make no word of it */
};

typedef struct ln_piece {
    uint32_t text; /* offsets into the pool: as the file writes it */
    uint32_t text_length;
    uint32_t bytes; /* what it decodes to */
    uint32_t bytes_length;
    uint32_t flags;
} ln_piece;

typedef struct ln_vocab_slot {
    uint32_t hash;
    int32_t id; /* -1: empty */
} ln_vocab_slot;

typedef struct ln_vocab {
    ln_buffer pool;
    ln_piece *pieces; /* [n] */
    int32_t n;
    size_t longest; /* text_length */
    size_t max_pool;
    ln_vocab_slot *slots;
    uint32_t mask;
} ln_vocab;

/* A vocabulary of n empty ids, with room for n_pieces texts, from a file of file_size bytes. */
ln_status ln_vocab_open(int32_t n, size_t n_pieces, size_t file_size, ln_vocab *out, ln_error *err);

void ln_vocab_free(ln_vocab *vocab);

/* Gives id (within the vocabulary) its text. *first becomes 0, and the id cannot be found by
 * its text, when LN_PIECE_MODEL is set and an earlier id has the same text. */
ln_status ln_vocab_add(ln_vocab *vocab, int32_t id, ln_string text, uint32_t flags, int *first, ln_error *err);

/* Id of the model's piece with this text; -1 when there is none. */
int32_t ln_vocab_find(const ln_vocab *vocab, const char *text, size_t length);

/* Sets what a piece decodes to. */
ln_status ln_vocab_set_bytes(ln_vocab *vocab, int32_t id, const char *bytes, size_t length, ln_error *err);

/* LN_BAD_FILE where lookups would be slow because the texts were chosen for it. */
ln_status ln_vocab_check(const ln_vocab *vocab, ln_error *err);

ln_string ln_vocab_text(const ln_vocab *vocab, int32_t id);

/* ---- merges ------------------------------------------------------------------- */

typedef struct ln_merge {
    int32_t left; /* -1: empty slot */
    int32_t right;
    uint32_t rank; /* lower goes first */
    int32_t id;    /* of left and right joined */
} ln_merge;

typedef struct ln_merges {
    ln_merge *slots;
    size_t mask;
    uint32_t shift; /* the slot of a pair is the top bits of a 64-bit product */
} ln_merges;

/* Room for n merges. */
ln_status ln_merges_open(size_t n, ln_merges *out, ln_error *err);

void ln_merges_free(ln_merges *merges);

/* A later merge of the same pair replaces the earlier one. LN_BAD_FILE for merges made to be slow. */
ln_status ln_merges_add(ln_merges *merges, ln_merge merge, ln_error *err);

/* As ln_vocab_check. */
ln_status ln_merges_check(const ln_merges *merges, ln_error *err);

static inline size_t ln_merges_slot(const ln_merges *merges, int32_t left, int32_t right) {
    uint64_t key = (uint64_t)(uint32_t)left << 32 | (uint32_t)right;
    return (size_t)((key ^ key >> 29) * UINT64_C(0x9E3779B97F4A7C15) >> merges->shift);
}

/* The merge of a pair, NULL when there is none. */
static inline const ln_merge *ln_merges_find(const ln_merges *merges, int32_t left, int32_t right) {
    for (size_t i = ln_merges_slot(merges, left, right);; i = (i + 1) & merges->mask) {
        const ln_merge *m = &merges->slots[i];
        if (m->left == left && m->right == right) {
            return m;
        }
        if (m->left < 0) {
            return NULL;
        }
    }
}

/* ---- the alphabet of byte-level BPE ------------------------------------------- */

/* The character that stands for a byte (Radford et al. 2019, GPT-2's bytes_to_unicode). */
uint32_t ln_byte_level_character(unsigned char byte);

/* The byte a character stands for, -1 when it stands for none. */
int ln_byte_level_byte(uint32_t character);

#endif
