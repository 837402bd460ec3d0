/* unigram.c - the most probable way to cut a word into pieces (Kudo 2018, arXiv:1804.10959).
 *
 * Viterbi's algorithm over the pieces that start at each place. Ids equal those of sentencepiece and of the
 * tokenizers library, which differ in how they round: the first keeps sums of log probabilities as float, over
 * the whole text, and starts again from zero where they become too coarse.
 */
#include <string.h>

#include "tokenizer.h"
#include "unicode.h"

#define UNKNOWN_PENALTY 10.0 /* an unknown character is this much less probable than the rarest piece */
#define ADDED_SCORE 0.1           /* of each byte of an added token but the first, in sentencepiece 0.2.3 */
#define LOWEST_SUM (-100000.0)    /* where sentencepiece 0.2.3 starts again from zero; 0.2.0 never did */
#define NO_START UINT32_MAX

/* The best way to reach one place of the text. */
typedef struct path_end {
    double score;
    uint32_t start; /* of its last piece; NO_START: not reached yet */
    int32_t id;
} path_end;

static void offer(path_end *end, double score, int rounded, uint32_t start, int32_t id) {
    score = rounded ? (double)(float)score : score;
    if (end->start == NO_START || score > end->score) {
        *end = (path_end){score, start, id};
    }
}

/* Makes the sum at a place zero, and takes as much from those that were counted on from places before it. */
static void start_again(const ln_tokenizer *t, path_end *ends, size_t start, size_t length) {
    double sum = ends[start].score;
    size_t last = length - start < t->vocab.longest ? length : start + t->vocab.longest;
    for (size_t i = start; i <= last; i++) {
        ends[i].score = (double)(float)(ends[i].score - sum); /* also of places that are not reached: no matter */
    }
}

/* Fills in the ends of the paths over text; ends[0] is given. */
static void find_paths(const ln_tokenizer *t, const char *text, size_t length, path_end *ends) {
    for (size_t i = 1; i <= length; i++) {
        ends[i] = (path_end){.start = NO_START};
    }
    for (size_t start = 0; start < length;) {
        if (t->float_scores && ends[start].score < LOWEST_SUM) {
            start_again(t, ends, start, length);
        }
        double so_far = ends[start].score;
        size_t width = ln_utf8_length(text[start]);
        int has_character = 0;
        uint32_t node = LN_TRIE_ROOT;
        for (size_t i = start; i < length; i++) {
            node = ln_trie_step(&t->trie, node, (unsigned char)text[i]);
            if (node == LN_TRIE_NONE) {
                break;
            }
            int32_t id = t->trie.ids[node];
            if (id >= 0) {
                offer(&ends[i + 1], so_far + t->scores[id], t->float_scores, (uint32_t)start, id);
                has_character |= i + 1 - start == width;
            }
        }
        if (!has_character) {
            offer(&ends[start + width], so_far + t->unknown_score, t->float_scores, (uint32_t)start, t->unk_id);
        }
        start += width;
    }
}

/* Unknown text: its bytes where all of them are pieces, else one unknown for the whole run. */
static ln_status emit_unknown(ln_encoder *e, const char *text, size_t length) {
    const ln_tokenizer *t = e->tokenizer;
    int known = 1;
    for (size_t i = 0; i < length; i++) {
        known &= t->byte_ids[(unsigned char)text[i]] >= 0;
    }
    if (!known && t->unk_id < 0) {
        int shown = length < 60 ? (int)length : 60;
        return ln_fail(e->err, LN_UNSUPPORTED, "'%.*s' is not in the vocabulary, which has no unknown token", shown, text);
    }
    for (size_t i = 0; known && i < length; i++) {
        ln_encoder_emit(e, t->byte_ids[(unsigned char)text[i]]);
    }
    if (!known) {
        ln_encoder_emit(e, t->unk_id);
    }
    return LN_OK;
}

/* Emits the pieces of the best path, which is linked from its end: turned round in place. *unknown are the bytes of
 * unknown text that wait to be emitted: before the call in front of text, after it at its end. */
static ln_status emit_path(ln_encoder *e, const char *text, size_t length, path_end *ends, size_t *unknown) {
    uint32_t next = NO_START;
    for (uint32_t at = (uint32_t)length;;) {
        uint32_t start = ends[at].start;
        ends[at].start = next; /* from now on: where the piece behind this place ends */
        next = at;
        if (at == 0) {
            break;
        }
        at = start;
    }
    ln_status status = LN_OK;
    for (uint32_t at = 0; status == LN_OK && ends[at].start != NO_START;) {
        uint32_t end = ends[at].start;
        if (ends[end].id == e->tokenizer->unk_id) {
            *unknown += end - at;
        } else {
            if (*unknown > 0) {
                status = emit_unknown(e, text + at - *unknown, *unknown);
                *unknown = 0;
            }
            ln_encoder_emit(e, ends[end].id);
        }
        at = end;
    }
    return status;
}

/* Bytes up to the next place that every path passes through: in front of a space symbol, where no piece holds one
 * behind another character. */
static size_t part_length(const ln_tokenizer *t, const char *text, size_t length) {
    int was_space = 1;
    size_t i = 0;
    while (t->cuts_at_space && i < length) {
        int is_space = length - i >= 3 && memcmp(text + i, LN_SPACE_SYMBOL, 3) == 0;
        if (is_space && !was_space) {
            return i;
        }
        was_space = is_space;
        i += ln_utf8_length(text[i]);
    }
    return length;
}

ln_status ln_unigram_encode(ln_encoder *e, const char *word, size_t length) {
    double score = e->tokenizer->float_scores ? e->path_score : 0;
    size_t unknown = 0;
    for (size_t done = 0; done < length;) {
        size_t part = part_length(e->tokenizer, word + done, length - done);
        e->symbols.length = 0;
        ln_status status = ln_buffer_reserve(&e->symbols, (part + 1) * sizeof(path_end), e->err);
        if (status != LN_OK) {
            return status;
        }
        path_end *ends = (path_end *)(void *)e->symbols.data;
        ends[0] = (path_end){.score = score};
        find_paths(e->tokenizer, word + done, part, ends);
        score = ends[part].score;
        status = emit_path(e, word + done, part, ends, &unknown);
        if (status != LN_OK) {
            return status;
        }
        done += part;
    }
    e->path_score = score;
    return unknown > 0 ? emit_unknown(e, word + length - unknown, unknown) : LN_OK;
}

void ln_unigram_pass(ln_encoder *e, size_t length) {
    double score = e->path_score < LOWEST_SUM ? 0 : e->path_score;
    e->path_score = (double)(float)(score + ADDED_SCORE * (double)(length - 1));
}

void ln_unigram_finish(ln_tokenizer *t, double lowest_score) {
    t->unknown_score = t->float_scores ? (double)((float)lowest_score - (float)UNKNOWN_PENALTY)
                                       : lowest_score - UNKNOWN_PENALTY;
    t->cuts_at_space = 1;
    for (int32_t id = 0; id < t->vocab.n && t->cuts_at_space; id++) {
        const ln_piece *piece = &t->vocab.pieces[id];
        ln_string text = ln_vocab_text(&t->vocab, id);
        int was_space = 1;
        for (size_t i = 0; (piece->flags & LN_PIECE_MODEL) && i < text.length; i += ln_utf8_length(text.data[i])) {
            int is_space = text.length - i >= 3 && memcmp(text.data + i, LN_SPACE_SYMBOL, 3) == 0;
            t->cuts_at_space &= !is_space || was_space;
            was_space = is_space;
        }
    }
}
