/* bpe.c - byte pair encoding of one word (Sennrich et al. 2016).
 *
 * The pair with the lowest rank is merged first, the leftmost of equals; SentencePiece's
 * "highest score first" is the same with ranks made from scores. Short words are scanned
 * again after each merge; long ones keep their pairs in a heap, O(n log n).
 */
#include <string.h>

#include "tokenizer.h"
#include "unicode.h"

#define SHORT_WORD 32 /* bytes; above it a heap is faster than scanning */
#define NO_RANK UINT32_MAX

/* ---- the first symbols of a word ----------------------------------------------------- */

/* The symbols of a word as they are collected. An unknown waits until it is known whether
 * the next one joins it. */
typedef struct symbol_list {
    int32_t *ids;
    size_t n;
    int unk_waits;
} symbol_list;

static void add_known(const ln_tokenizer *t, symbol_list *list, int32_t id) {
    if (list->unk_waits) {
        list->ids[list->n++] = t->unk_id;
        list->unk_waits = 0;
    }
    list->ids[list->n++] = id;
}

static void add_unknown(const ln_tokenizer *t, symbol_list *list) {
    if (t->unk_id < 0) {
        return;
    }
    if (list->unk_waits && !t->fuse_unk) {
        list->ids[list->n++] = t->unk_id;
    }
    list->unk_waits = 1;
}

/* A character that is no piece: its bytes, when all of them are pieces, else unknown. */
static void add_fallback(const ln_tokenizer *t, symbol_list *list, const char *text, size_t length) {
    for (size_t i = 0; i < length; i++) {
        if (t->byte_ids[(unsigned char)text[i]] < 0) {
            add_unknown(t, list);
            return;
        }
    }
    for (size_t i = 0; i < length; i++) {
        list->ids[list->n++] = t->byte_ids[(unsigned char)text[i]];
    }
}

static void add_characters(const ln_tokenizer *t, symbol_list *list, const char *word, size_t length) {
    for (size_t i = 0; i < length;) {
        size_t width = ln_utf8_length(word[i]);
        int32_t id = width == 1 ? t->ascii_ids[(unsigned char)word[i]] : ln_vocab_find(&t->vocab, word + i, width);
        if (id >= 0) {
            add_known(t, list, id);
        } else {
            add_fallback(t, list, word + i, width);
        }
        i += width;
    }
}

/* Writes at most length ids: every byte gives at most one. */
static size_t first_symbols(const ln_tokenizer *t, const char *word, size_t length, int32_t *ids) {
    symbol_list list = {.ids = ids};
    if (!t->byte_level) {
        add_characters(t, &list, word, length);
    } else {
        for (size_t i = 0; i < length; i++) {
            int32_t id = t->byte_ids[(unsigned char)word[i]];
            if (id >= 0) {
                add_known(t, &list, id);
            } else {
                add_unknown(t, &list);
            }
        }
    }
    if (list.unk_waits) {
        ids[list.n++] = t->unk_id;
    }
    return list.n;
}

/* ---- short words ---------------------------------------------------------------------- */

static uint32_t rank_of(const ln_merge *merge) {
    return merge != NULL ? merge->rank : NO_RANK;
}

static void encode_short(ln_encoder *e, const char *word, size_t length) {
    const ln_merges *merges = &e->tokenizer->merges;
    int32_t ids[SHORT_WORD];
    const ln_merge *pairs[SHORT_WORD]; /* pairs[i] joins ids[i] and ids[i + 1] */
    size_t n = first_symbols(e->tokenizer, word, length, ids);
    for (size_t i = 0; i + 1 < n; i++) {
        pairs[i] = ln_merges_find(merges, ids[i], ids[i + 1]);
    }
    while (n > 1) {
        size_t best = 0;
        for (size_t i = 1; i + 1 < n; i++) {
            if (rank_of(pairs[i]) < rank_of(pairs[best])) {
                best = i;
            }
        }
        if (pairs[best] == NULL) {
            break;
        }
        ids[best] = pairs[best]->id;
        n--;
        for (size_t i = best + 1; i < n; i++) {
            ids[i] = ids[i + 1];
            pairs[i - 1] = pairs[i];
        }
        if (best > 0) {
            pairs[best - 1] = ln_merges_find(merges, ids[best - 1], ids[best]);
        }
        if (best + 1 < n) {
            pairs[best] = ln_merges_find(merges, ids[best], ids[best + 1]);
        }
    }
    for (size_t i = 0; i < n; i++) {
        ln_encoder_emit(e, ids[i]);
    }
}

/* ---- long words ----------------------------------------------------------------------- */

typedef struct symbol {
    int32_t id;        /* -1: merged into the one before */
    uint32_t previous;
    uint32_t next;     /* NO_SYMBOL at the ends */
    uint32_t rank;     /* of the pair with next */
    int32_t joined;    /* id of that pair */
} symbol;

#define NO_SYMBOL UINT32_MAX

/* A heap of pairs, each rank << 32 | index of its left symbol: lowest rank, then leftmost, on top. */
typedef struct pair_heap {
    uint64_t *items;
    size_t n;
} pair_heap;

static void sift_down(pair_heap *heap, size_t i) {
    uint64_t item = heap->items[i];
    for (;;) {
        size_t child = 2 * i + 1;
        if (child >= heap->n) {
            break;
        }
        child += child + 1 < heap->n && heap->items[child + 1] < heap->items[child];
        if (heap->items[child] >= item) {
            break;
        }
        heap->items[i] = heap->items[child];
        i = child;
    }
    heap->items[i] = item;
}

static void heap_push(pair_heap *heap, uint64_t item) {
    size_t i = heap->n++;
    while (i > 0 && heap->items[(i - 1) / 2] > item) {
        heap->items[i] = heap->items[(i - 1) / 2];
        i = (i - 1) / 2;
    }
    heap->items[i] = item;
}

static uint64_t heap_pop(pair_heap *heap) {
    uint64_t top = heap->items[0];
    heap->items[0] = heap->items[--heap->n];
    if (heap->n > 0) {
        sift_down(heap, 0);
    }
    return top;
}

/* Looks the pair of a symbol and its next one up; 0 when they do not merge. */
static int find_pair(const ln_merges *merges, symbol *symbols, uint32_t i) {
    symbol *s = &symbols[i];
    const ln_merge *merge = s->next != NO_SYMBOL ? ln_merges_find(merges, s->id, symbols[s->next].id) : NULL;
    s->rank = rank_of(merge);
    s->joined = merge != NULL ? merge->id : -1;
    return merge != NULL;
}

static uint64_t heap_item(const symbol *symbols, uint32_t i) {
    return (uint64_t)symbols[i].rank << 32 | i;
}

static void merge_all(const ln_merges *merges, symbol *symbols, size_t n, pair_heap *heap) {
    for (uint32_t i = 0; i + 1 < n; i++) {
        if (find_pair(merges, symbols, i)) {
            heap->items[heap->n++] = heap_item(symbols, i);
        }
    }
    for (size_t i = heap->n / 2; i-- > 0;) {
        sift_down(heap, i);
    }
    while (heap->n > 0) {
        uint64_t item = heap_pop(heap);
        uint32_t i = (uint32_t)item;
        symbol *s = &symbols[i];
        if (s->id < 0 || s->rank != item >> 32) {
            continue; /* the pair has changed since */
        }
        symbol *right = &symbols[s->next];
        s->id = s->joined;
        s->next = right->next;
        right->id = -1;
        if (s->next != NO_SYMBOL) {
            symbols[s->next].previous = i;
        }
        if (find_pair(merges, symbols, i)) {
            heap_push(heap, heap_item(symbols, i));
        }
        if (s->previous != NO_SYMBOL && find_pair(merges, symbols, s->previous)) {
            heap_push(heap, heap_item(symbols, s->previous));
        }
    }
}

static ln_status encode_long(ln_encoder *e, const char *word, size_t length) {
    /* The ids are written behind the symbols. A merge takes one pair out of the heap and puts
     * at most two in, so there are never more than 2 n. */
    e->symbols.length = e->heap.length = 0;
    ln_status status = ln_buffer_reserve(&e->symbols, length * (sizeof(symbol) + sizeof(int32_t)), e->err);
    status = status == LN_OK ? ln_buffer_reserve(&e->heap, 2 * length * sizeof(uint64_t), e->err) : status;
    if (status != LN_OK) {
        return status;
    }
    symbol *symbols = (symbol *)(void *)e->symbols.data;
    int32_t *ids = (int32_t *)(void *)(symbols + length);
    size_t n = first_symbols(e->tokenizer, word, length, ids);
    if (n == 0) {
        return LN_OK;
    }
    for (size_t i = 0; i < n; i++) {
        symbols[i] = (symbol){.id = ids[i], .previous = (uint32_t)i - 1, .next = (uint32_t)i + 1, .rank = NO_RANK};
    }
    symbols[n - 1].next = NO_SYMBOL;
    pair_heap heap = {.items = (uint64_t *)(void *)e->heap.data};
    merge_all(&e->tokenizer->merges, symbols, n, &heap);
    for (uint32_t i = 0; i != NO_SYMBOL; i = symbols[i].next) {
        ln_encoder_emit(e, symbols[i].id);
    }
    return LN_OK;
}

/* ---- words ---------------------------------------------------------------------------- */

static ln_status encode_part(ln_encoder *e, const char *word, size_t length) {
    if (length > SHORT_WORD) {
        return encode_long(e, word, length);
    }
    encode_short(e, word, length);
    return LN_OK;
}

/* The piece that is the whole word, -1 when there is none. */
static int32_t find_whole(const ln_tokenizer *t, const char *word, size_t length) {
    char text[512];
    if (length > t->vocab.longest) {
        return -1;
    }
    if (!t->byte_level) {
        return ln_vocab_find(&t->vocab, word, length);
    }
    if (length > sizeof text / 2) {
        return -1;
    }
    size_t n = 0;
    for (size_t i = 0; i < length; i++) {
        n += ln_utf8_put(ln_byte_level_character((unsigned char)word[i]), text + n);
    }
    return ln_vocab_find(&t->vocab, text, n);
}

static int is_space_symbol(const char *text, size_t left) {
    return left >= 3 && memcmp(text, LN_SPACE_SYMBOL, 3) == 0;
}

/* Encodes each run that starts with space symbols on its own: where no merge crosses such a
 * border the ids are the same, and text of any length is encoded in small words. */
static ln_status encode_cut(ln_encoder *e, const char *word, size_t length) {
    size_t start = 0;
    int was_space = 1;
    for (size_t i = 0; i < length; i += ln_utf8_length(word[i])) {
        int is_space = is_space_symbol(word + i, length - i);
        if (is_space && !was_space) {
            ln_status status = encode_part(e, word + start, i - start);
            if (status != LN_OK) {
                return status;
            }
            start = i;
        }
        was_space = is_space;
    }
    return encode_part(e, word + start, length - start);
}

ln_status ln_bpe_encode(ln_encoder *e, const char *word, size_t length) {
    const ln_tokenizer *t = e->tokenizer;
    if (t->ignore_merges) {
        int32_t id = find_whole(t, word, length);
        if (id >= 0) {
            ln_encoder_emit(e, id);
            return LN_OK;
        }
    }
    return t->cuts_at_space ? encode_cut(e, word, length) : encode_part(e, word, length);
}

void ln_bpe_find_cuts(ln_tokenizer *t) {
    t->cuts_at_space = 0;
    if (t->byte_level || ln_vocab_find(&t->vocab, LN_SPACE_SYMBOL, 3) < 0) {
        return;
    }
    for (size_t i = 0; i <= t->merges.mask; i++) {
        const ln_merge *m = &t->merges.slots[i];
        if (m->left < 0) {
            continue;
        }
        ln_string left = ln_vocab_text(&t->vocab, m->left);
        ln_string right = ln_vocab_text(&t->vocab, m->right);
        int left_ends_in_space = left.length >= 3 && is_space_symbol(left.data + left.length - 3, 3);
        if (is_space_symbol(right.data, right.length) && !left_ends_in_space) {
            return;
        }
    }
    t->cuts_at_space = 1;
}
