/* vocab.c - the pieces of a tokenizer, by id and by text, and its merges. */
#include "vocab.h"

#include <stdlib.h>
#include <string.h>

#define MAX_POOL ((size_t)1 << 31) /* offsets are 32 bits */

/* ---- pieces -------------------------------------------------------------------- */

static uint32_t hash_text(const char *text, size_t length) {
    uint64_t hash = length * UINT64_C(0x9E3779B97F4A7C15);
    for (; length >= 8; text += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, text, 8);
        hash = (hash ^ word) * UINT64_C(0xBF58476D1CE4E5B9);
        hash ^= hash >> 29;
    }
    uint64_t tail = 0;
    memcpy(&tail, text, length);
    hash = (hash ^ tail) * UINT64_C(0x94D049BB133111EB);
    hash = (hash ^ hash >> 32) * UINT64_C(0x9E3779B97F4A7C15); /* the last bytes only reached the top bits */
    return (uint32_t)(hash >> 32);
}

ln_status ln_vocab_open(int32_t n, size_t n_pieces, size_t file_size, ln_vocab *out, ln_error *err) {
    *out = (ln_vocab){.n = n, .max_pool = file_size < MAX_POOL / 8 ? 65536 + 4 * file_size : MAX_POOL};
    size_t slots = 16;
    while (slots < 2 * n_pieces) {
        slots *= 2;
    }
    out->pieces = ln_alloc((size_t)n, sizeof *out->pieces, "the vocabulary", err);
    out->slots = ln_alloc(slots, sizeof *out->slots, "the vocabulary", err);
    if (out->pieces == NULL || out->slots == NULL || ln_buffer_reserve(&out->pool, 1, err) != LN_OK) {
        ln_vocab_free(out);
        return LN_NO_MEMORY;
    }
    for (size_t i = 0; i < slots; i++) {
        out->slots[i].id = -1;
    }
    out->mask = (uint32_t)(slots - 1);
    return LN_OK;
}

void ln_vocab_free(ln_vocab *vocab) {
    ln_buffer_free(&vocab->pool);
    free(vocab->pieces);
    free(vocab->slots);
    *vocab = (ln_vocab){0};
}

/* More places passed over, or more filled ones in a row, than in any vocabulary that was not made for it. It keeps
 * loading and lookups linear, whatever a file holds: the hash is the same for everybody, so what collides can be found. */
#define MAX_PROBES 512

/* The slot of a text, or the empty one where it would go. */
static ln_vocab_slot *find_slot(const ln_vocab *vocab, const char *text, size_t length, uint32_t hash) {
    for (uint32_t i = hash & vocab->mask;; i = (i + 1) & vocab->mask) {
        ln_vocab_slot *slot = &vocab->slots[i];
        if (slot->id < 0) {
            return slot;
        }
        const ln_piece *piece = &vocab->pieces[slot->id];
        if (slot->hash == hash && piece->text_length == length &&
            memcmp(vocab->pool.data + piece->text, text, length) == 0) {
            return slot;
        }
    }
}

static ln_status add_to_pool(ln_vocab *vocab, const char *text, size_t length, uint32_t *offset, ln_error *err) {
    if (length > vocab->max_pool - vocab->pool.length) {
        return ln_fail(err, LN_UNSUPPORTED, "the tokens decode to more than %zu bytes of text", vocab->max_pool);
    }
    *offset = (uint32_t)vocab->pool.length;
    return ln_buffer_append(&vocab->pool, text, length, err);
}

ln_status ln_vocab_add(ln_vocab *vocab, int32_t id, ln_string text, uint32_t flags, int *first, ln_error *err) {
    ln_piece *piece = &vocab->pieces[id];
    ln_status status = add_to_pool(vocab, text.data, text.length, &piece->text, err);
    if (status != LN_OK) {
        return status;
    }
    piece->text_length = (uint32_t)text.length;
    piece->bytes = piece->text;
    piece->bytes_length = piece->text_length;
    piece->flags = flags | LN_PIECE_PRESENT;
    *first = 1;
    if (text.length > vocab->longest) {
        vocab->longest = text.length;
    }
    if (flags & LN_PIECE_MODEL) {
        uint32_t hash = hash_text(text.data, text.length);
        ln_vocab_slot *slot = find_slot(vocab, text.data, text.length, hash);
        if ((((uint32_t)(slot - vocab->slots) - hash) & vocab->mask) > MAX_PROBES) {
            return ln_fail(err, LN_BAD_FILE, "the texts of the tokens are made to collide in a table");
        }
        *first = slot->id < 0;
        if (*first) {
            *slot = (ln_vocab_slot){hash, id};
        }
    }
    return LN_OK;
}

int32_t ln_vocab_find(const ln_vocab *vocab, const char *text, size_t length) {
    return find_slot(vocab, text, length, hash_text(text, length))->id;
}

ln_status ln_vocab_set_bytes(ln_vocab *vocab, int32_t id, const char *bytes, size_t length, ln_error *err) {
    ln_piece *piece = &vocab->pieces[id];
    piece->bytes_length = (uint32_t)length;
    return add_to_pool(vocab, bytes, length, &piece->bytes, err);
}

ln_status ln_vocab_check(const ln_vocab *vocab, ln_error *err) {
    size_t row = 0;
    for (size_t i = 0; vocab->slots != NULL && i <= vocab->mask; i++) {
        row = vocab->slots[i].id >= 0 ? row + 1 : 0;
        if (row > MAX_PROBES) {
            return ln_fail(err, LN_BAD_FILE, "the texts of the tokens are made to collide in a table");
        }
    }
    return LN_OK;
}

ln_string ln_vocab_text(const ln_vocab *vocab, int32_t id) {
    const ln_piece *piece = &vocab->pieces[id];
    return (ln_string){vocab->pool.data + piece->text, piece->text_length};
}

/* ---- merges -------------------------------------------------------------------- */

ln_status ln_merges_open(size_t n, ln_merges *out, ln_error *err) {
    uint32_t bits = 4;
    while (bits < 8 * sizeof(size_t) - 8 && ((size_t)1 << bits) < 2 * n) {
        bits++;
    }
    size_t slots = (size_t)1 << bits;
    *out = (ln_merges){.mask = slots - 1, .shift = 64 - bits};
    out->slots = ln_alloc(slots, sizeof *out->slots, "the merges", err);
    if (out->slots == NULL) {
        return LN_NO_MEMORY;
    }
    for (size_t i = 0; i < slots; i++) {
        out->slots[i].left = -1;
    }
    return LN_OK;
}

void ln_merges_free(ln_merges *merges) {
    free(merges->slots);
    *merges = (ln_merges){0};
}

ln_status ln_merges_add(ln_merges *merges, ln_merge merge, ln_error *err) {
    size_t first = ln_merges_slot(merges, merge.left, merge.right);
    size_t i = first;
    while (merges->slots[i].left >= 0 &&
           (merges->slots[i].left != merge.left || merges->slots[i].right != merge.right)) {
        i = (i + 1) & merges->mask;
    }
    if (((i - first) & merges->mask) > MAX_PROBES) {
        return ln_fail(err, LN_BAD_FILE, "the merges of the tokenizer are made to collide in a table");
    }
    merges->slots[i] = merge;
    return LN_OK;
}

ln_status ln_merges_check(const ln_merges *merges, ln_error *err) {
    size_t row = 0;
    for (size_t i = 0; merges->slots != NULL && i <= merges->mask; i++) {
        row = merges->slots[i].left >= 0 ? row + 1 : 0;
        if (row > MAX_PROBES) {
            return ln_fail(err, LN_BAD_FILE, "the merges of the tokenizer are made to collide in a table");
        }
    }
    return LN_OK;
}

/* ---- the alphabet of byte-level BPE -------------------------------------------- */

static int stands_for_itself(uint32_t c) {
    return (c >= 0x21 && c <= 0x7E) || (c >= 0xA1 && c <= 0xAC) || (c >= 0xAE && c <= 0xFF);
}

/* The bytes that do not stand for themselves, in order, stand behind U+0100: 0x00-0x20,
 * 0x7F-0xA0 and 0xAD. */
uint32_t ln_byte_level_character(unsigned char byte) {
    if (stands_for_itself(byte)) {
        return byte;
    }
    if (byte <= 0x20) {
        return 0x100u + byte;
    }
    return byte == 0xAD ? 0x143u : 0x121u + (byte - 0x7Fu);
}

int ln_byte_level_byte(uint32_t character) {
    if (stands_for_itself(character)) {
        return (int)character;
    }
    if (character < 0x100 || character > 0x143) {
        return -1;
    }
    if (character <= 0x120) {
        return (int)(character - 0x100);
    }
    return character == 0x143 ? 0xAD : (int)(character - 0x121 + 0x7F);
}
