/* load_steps.c - what the loaders of both file formats build a tokenizer from. */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"
#include "unicode.h"

/* ---- steps ------------------------------------------------------------------------------ */

static ln_status too_many(const char *what, ln_error *err) {
    return ln_fail(err, LN_UNSUPPORTED, "the tokenizer has more than %d %s steps", LN_MAX_STEPS, what);
}

ln_status ln_add_normal(ln_tokenizer *t, ln_normal_kind kind, ln_string text, ln_regex *regex, ln_error *err) {
    if (t->n_normal == LN_MAX_STEPS) {
        ln_regex_free(regex);
        return too_many("normalizer", err);
    }
    ln_normal_step *step = &t->normal[t->n_normal++];
    *step = (ln_normal_step){.kind = kind, .regex = regex};
    return ln_buffer_append(&step->text, text.data, text.length, err);
}

ln_status ln_add_normal_option(ln_tokenizer *t, ln_normal_kind kind, int option, ln_error *err) {
    ln_status status = ln_add_normal(t, kind, (ln_string){"", 0}, NULL, err);
    if (status == LN_OK) {
        t->normal[t->n_normal - 1].option = option;
    }
    return status;
}

ln_status ln_add_charsmap(ln_tokenizer *t, ln_normal_kind kind, ln_string table, ln_error *err) {
    ln_charsmap map;
    ln_status status = ln_charsmap_open(table.data, table.length, &map, err);
    status = status == LN_OK ? ln_add_normal(t, kind, (ln_string){"", 0}, NULL, err) : status;
    if (status == LN_OK) {
        t->normal[t->n_normal - 1].charsmap = map;
    } else {
        ln_charsmap_free(&map);
    }
    return status;
}

ln_status ln_add_bert_normalizer(ln_tokenizer *t, ln_bert_options options, ln_error *err) {
    ln_status status = LN_OK;
    if (options.clean_text) {
        status = ln_add_normal_option(t, LN_NORMAL_CLEAN, 0, err);
    }
    if (status == LN_OK && options.handle_chinese_chars) {
        status = ln_add_normal_option(t, LN_NORMAL_CHINESE, 0, err);
    }
    if (status == LN_OK && options.strip_accents) {
        status = ln_add_normal_option(t, LN_NORMAL_NFD, 0, err);
        status = status == LN_OK ? ln_add_normal_option(t, LN_NORMAL_DROP, LN_CLASS_NONSPACING_MARK, err) : status;
    }
    if (status == LN_OK && options.lowercase) {
        status = ln_add_normal_option(t, LN_NORMAL_LOWER, 0, err);
    }
    return status;
}

ln_status ln_add_pre_step(ln_tokenizer *t, ln_pre_kind kind, ln_error *err) {
    if (t->n_pre == LN_MAX_STEPS) {
        return too_many("pre-tokenizer", err);
    }
    t->pre[t->n_pre++] = (ln_pre_step){.kind = kind};
    return LN_OK;
}

ln_status ln_add_metaspace(ln_tokenizer *t, ln_string replacement, ln_prepend prepend, ln_error *err) {
    if (t->n_pre == LN_MAX_STEPS) {
        return too_many("pre-tokenizer", err);
    }
    ln_pre_step *step = &t->pre[t->n_pre++];
    *step = (ln_pre_step){.kind = LN_PRE_METASPACE, .prepend = prepend};
    return ln_buffer_append(&step->text, replacement.data, replacement.length, err);
}

ln_status ln_add_split(ln_tokenizer *t, ln_regex *regex, ln_split_behavior behavior, int invert, ln_error *err) {
    if (t->n_pre == LN_MAX_STEPS) {
        ln_regex_free(regex);
        return too_many("pre-tokenizer", err);
    }
    t->pre[t->n_pre++] =
        (ln_pre_step){.kind = LN_PRE_SPLIT, .regex = regex, .behavior = behavior, .invert = invert};
    return LN_OK;
}

ln_status ln_add_split_pattern(ln_tokenizer *t, const char *pattern, ln_split_behavior behavior, int invert,
                               ln_error *err) {
    ln_regex *regex;
    ln_status status = ln_regex_compile(pattern, strlen(pattern), &regex, err);
    return status == LN_OK ? ln_add_split(t, regex, behavior, invert, err) : status;
}

/* ---- pieces ----------------------------------------------------------------------------- */

/* The bytes that the characters of a byte-level piece stand for; -1 when one stands for none. */
static int64_t byte_level_bytes(ln_string text, char *out) {
    int64_t n = 0;
    for (size_t i = 0; i < text.length; i += ln_utf8_length(text.data[i])) {
        int byte = ln_byte_level_byte(ln_utf8_get(text.data + i));
        if (byte < 0) {
            return -1;
        }
        out[n++] = (char)byte;
    }
    return n;
}

ln_status ln_finish_byte_level(ln_tokenizer *t, ln_error *err) {
    char *bytes = ln_alloc(t->vocab.longest + 1, 1, "the vocabulary", err);
    if (bytes == NULL) {
        return LN_NO_MEMORY;
    }
    ln_status status = LN_OK;
    for (int32_t id = 0; id < t->vocab.n && status == LN_OK; id++) {
        ln_piece *piece = &t->vocab.pieces[id];
        if (!(piece->flags & LN_PIECE_MODEL) || (piece->flags & LN_PIECE_LITERAL)) {
            continue;
        }
        int64_t n = byte_level_bytes(ln_vocab_text(&t->vocab, id), bytes);
        if (n >= 0) {
            status = ln_vocab_set_bytes(&t->vocab, id, bytes, (size_t)n, err);
        }
    }
    free(bytes);
    for (unsigned int b = 0; b < 256; b++) {
        char character[4];
        size_t length = ln_utf8_put(ln_byte_level_character((unsigned char)b), character);
        t->byte_ids[b] = ln_vocab_find(&t->vocab, character, length);
    }
    return status;
}

static ln_status find_merge_token(const ln_vocab *vocab, size_t rank, ln_string text, int32_t *id, ln_error *err) {
    *id = ln_vocab_find(vocab, text.data, text.length);
    if (*id >= 0) {
        return LN_OK;
    }
    return ln_fail(err, LN_BAD_FILE, "merge %zu of the tokenizer needs '%.*s', which is not in its vocabulary", rank,
                   LN_STRING_ARGS(text));
}

ln_status ln_add_merge(ln_tokenizer *t, size_t rank, ln_string left, ln_string right, ln_buffer *joined,
                       ln_error *err) {
    ln_merge merge = {.rank = (uint32_t)rank};
    ln_status status = find_merge_token(&t->vocab, rank, left, &merge.left, err);
    status = status == LN_OK ? find_merge_token(&t->vocab, rank, right, &merge.right, err) : status;
    joined->length = 0;
    status = status == LN_OK ? ln_buffer_append(joined, left.data, left.length, err) : status;
    status = status == LN_OK ? ln_buffer_append(joined, right.data, right.length, err) : status;
    if (status == LN_OK) {
        ln_string both = {joined->data != NULL ? joined->data : "", joined->length};
        status = find_merge_token(&t->vocab, rank, both, &merge.id, err);
    }
    if (status == LN_OK) {
        status = ln_merges_add(&t->merges, merge, err);
    }
    return status;
}

void ln_finish_characters(ln_tokenizer *t, int byte_fallback) {
    static const char HEX[] = "0123456789ABCDEF";
    for (int c = 0; c < 128; c++) {
        char character = (char)c;
        t->ascii_ids[c] = ln_vocab_find(&t->vocab, &character, 1);
    }
    for (int b = 0; b < 256; b++) {
        char text[6] = {'<', '0', 'x', HEX[b >> 4], HEX[b & 15], '>'};
        t->byte_ids[b] = byte_fallback ? ln_vocab_find(&t->vocab, text, sizeof text) : -1;
    }
}

/* ---- pieces of unigram and WordPiece ------------------------------------------------------ */

#define MAX_PIECE 512 /* bytes: every piece is looked for at each place of a text */

ln_status ln_finish_trie(ln_tokenizer *t, ln_error *err) {
    ln_trie_key *keys = ln_alloc((size_t)t->vocab.n, sizeof *keys, "the vocabulary", err);
    if (keys == NULL) {
        return LN_NO_MEMORY;
    }
    size_t n = 0;
    ln_status status = LN_OK;
    for (int32_t id = 0; id < t->vocab.n && status == LN_OK; id++) {
        ln_string text = ln_vocab_text(&t->vocab, id);
        uint32_t flags = t->vocab.pieces[id].flags;
        if (!(flags & LN_PIECE_MODEL) || (flags & LN_PIECE_APART)) {
            continue;
        }
        if (text.length > MAX_PIECE) {
            status = ln_fail(err, LN_UNSUPPORTED, "token %d is %zu bytes long; at most %d are supported", id,
                             text.length, MAX_PIECE);
        }
        keys[n++] = (ln_trie_key){text.data, (uint32_t)text.length, id};
    }
    status = status == LN_OK ? ln_trie_open(keys, n, &t->trie, err) : status;
    free(keys);
    return status;
}

/* Takes the space off where clean_up_tokenization of the tokenizers library does; text begins with it. */
static int joins_word_before(ln_string text) {
    static const char *const JOINED[] = {".", "?", "!", ",", "n't", "'m", "'s", "'ve", "'re"};
    for (size_t i = 0; i < sizeof JOINED / sizeof JOINED[0]; i++) {
        size_t length = strlen(JOINED[i]);
        if (text.length >= length && memcmp(text.data, JOINED[i], length) == 0) {
            return 1;
        }
    }
    return 0;
}

ln_status ln_decode_wordpiece(ln_tokenizer *t, ln_string prefix, int cleanup, ln_error *err) {
    char text[MAX_PIECE + 1];
    ln_status status = LN_OK;
    for (int32_t id = 0; id < t->vocab.n && status == LN_OK; id++) {
        ln_string piece = ln_vocab_text(&t->vocab, id);
        if (!(t->vocab.pieces[id].flags & LN_PIECE_PRESENT) || piece.length > MAX_PIECE) {
            continue;
        }
        int inner = piece.length >= prefix.length && memcmp(piece.data, prefix.data, prefix.length) == 0;
        size_t skipped = inner ? prefix.length : 0;
        size_t n = 0;
        if (!inner && !(cleanup && joins_word_before(piece))) {
            text[n++] = ' ';
        }
        memcpy(text + n, piece.data + skipped, piece.length - skipped);
        status = ln_vocab_set_bytes(&t->vocab, id, text, n + piece.length - skipped, err);
    }
    t->strip_left = 1;
    return status;
}

ln_status ln_decode_apart(ln_tokenizer *t, ln_error *err) {
    ln_buffer text = {0};
    ln_status status = LN_OK;
    for (int32_t id = 0; id < t->vocab.n && status == LN_OK; id++) {
        ln_string piece = ln_vocab_text(&t->vocab, id);
        if (!(t->vocab.pieces[id].flags & LN_PIECE_PRESENT)) {
            continue;
        }
        text.length = 0;
        status = ln_buffer_append(&text, " ", 1, err);
        status = status == LN_OK ? ln_buffer_append(&text, piece.data, piece.length, err) : status;
        status = status == LN_OK ? ln_vocab_set_bytes(&t->vocab, id, text.data, text.length, err) : status;
    }
    ln_buffer_free(&text);
    t->strip_left = 1;
    return status;
}

int ln_byte_piece(ln_string text) {
    if (text.length != 6 || memcmp(text.data, "<0x", 3) != 0 || text.data[5] != '>') {
        return -1;
    }
    int value = 0;
    for (int i = 3; i < 5; i++) {
        char c = text.data[i];
        char lower = (char)(c | 0x20);
        int digit = c >= '0' && c <= '9' ? c - '0' : lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
        if (digit < 0) {
            return -1;
        }
        value = value * 16 + digit;
    }
    return value;
}
