/* normalize.c - the steps that change text before it is split. */
#include <string.h>

#include "tokenizer.h"
#include "unicode.h"

ln_status ln_next_match(ln_encoder *e, const ln_regex *regex, ln_string text, ln_match_cursor *cursor, int *found,
                        size_t *start, size_t *end) {
    *found = 0;
    while (cursor->at <= text.length) {
        ln_regex_result result =
            ln_regex_find(regex, text.data, text.length, cursor->at, &e->regex, start, end);
        if (result == LN_REGEX_GAVE_UP) {
            return ln_fail(e->err, LN_UNSUPPORTED,
                           "a regular expression of the tokenizer takes too many steps on this text");
        }
        if (result == LN_REGEX_NONE) {
            return LN_OK;
        }
        if (*start != *end || *end != cursor->last_end) {
            cursor->at = cursor->last_end = *end;
            *found = 1;
            return LN_OK;
        }
        cursor->at += cursor->at < text.length ? ln_utf8_length(text.data[cursor->at]) : 1;
    }
    return LN_OK;
}

ln_status ln_check_length(const ln_encoder *e, size_t length) {
    if (length <= e->max_text) {
        return LN_OK;
    }
    return ln_fail(e->err, LN_UNSUPPORTED, "the steps of the tokenizer make the text longer than %zu bytes",
                   e->max_text);
}

static ln_status replace_all(ln_encoder *e, const ln_normal_step *step, ln_string text, ln_buffer *out) {
    ln_match_cursor cursor = {.last_end = SIZE_MAX};
    size_t copied = 0;
    for (;;) {
        size_t start;
        size_t end;
        int found;
        ln_status status = ln_next_match(e, step->regex, text, &cursor, &found, &start, &end);
        if (status != LN_OK) {
            return status;
        }
        size_t until = found ? start : text.length;
        status = ln_buffer_append(out, text.data + copied, until - copied, e->err);
        status = status == LN_OK ? ln_check_length(e, out->length) : status;
        if (status != LN_OK || !found) {
            return status;
        }
        status = ln_buffer_append(out, step->text.data, step->text.length, e->err);
        if (status != LN_OK) {
            return status;
        }
        copied = end;
    }
}

static int is_space_symbol(const char *text, size_t left) {
    return left >= 3 && memcmp(text, LN_SPACE_SYMBOL, 3) == 0;
}

/* Rust's char::is_whitespace at the start of text. */
static int is_space(const char *text) {
    return ln_unicode_is_space(ln_utf8_get(text));
}

static ln_status strip(ln_encoder *e, int sides, ln_string text, ln_buffer *out) {
    size_t start = 0;
    while ((sides & LN_STRIP_LEFT) && start < text.length && is_space(text.data + start)) {
        start += ln_utf8_length(text.data[start]);
    }
    size_t end = text.length;
    while ((sides & LN_STRIP_RIGHT) && end > start) {
        size_t last = end - 1;
        while (last > start && ((unsigned char)text.data[last] & 0xC0) == 0x80) {
            last--;
        }
        if (!is_space(text.data + last)) {
            break;
        }
        end = last;
    }
    return ln_buffer_append(out, text.data + start, end - start, e->err);
}

/* As sentencepiece's Normalizer does it: a U+2581 of the text itself counts as space at its end only. */
static ln_status squeeze(ln_encoder *e, ln_string text, ln_buffer *out) {
    ln_status status = ln_buffer_reserve(out, text.length, e->err);
    int was_space = !e->bare;
    for (size_t i = 0; i < text.length && status == LN_OK; i++) {
        if (text.data[i] != ' ' || !was_space) {
            out->data[out->length++] = text.data[i];
        }
        was_space = text.data[i] == ' ';
    }
    while (status == LN_OK && out->length > 0) {
        if (out->data[out->length - 1] == ' ') {
            out->length--;
        } else if (out->length >= 3 && is_space_symbol(out->data + out->length - 3, 3)) {
            out->length -= 3;
        } else {
            break;
        }
    }
    return status;
}

/* ---- steps that look at one character at a time --------------------------------------------- */

/* The ideographs that BERT puts spaces around (google-research/bert, tokenization.py). */
static int is_ideograph(uint32_t c) {
    static const uint32_t RANGES[][2] = {{0x4E00, 0x9FFF},   {0x3400, 0x4DBF},   {0x20000, 0x2A6DF},
                                         {0x2A700, 0x2B73F}, {0x2B740, 0x2B81F}, {0x2B920, 0x2CEAF},
                                         {0xF900, 0xFAFF},   {0x2F800, 0x2FA1F}};
    for (size_t i = 0; i < sizeof RANGES / sizeof RANGES[0]; i++) {
        if (c >= RANGES[i][0] && c <= RANGES[i][1]) {
            return 1;
        }
    }
    return 0;
}

/* What a step makes of a character: at most 6 bytes. */
static size_t change_character(const ln_normal_step *step, uint32_t c, char out[8]) {
    switch (step->kind) {
    case LN_NORMAL_LOWER:
        return ln_unicode_lower(c, out);
    case LN_NORMAL_DROP:
        return ln_unicode_is((ln_character_class)step->option, c) ? 0 : ln_utf8_put(c, out);
    case LN_NORMAL_CLEAN:
        if (ln_unicode_is_space(c) && c != 0x0B && c != 0x0C && c != 0x85) {
            return ln_utf8_put(' ', out);
        }
        return ln_unicode_is(LN_CLASS_BERT_CONTROL, c) ? 0 : ln_utf8_put(c, out);
    case LN_NORMAL_NMT:
        if (ln_unicode_is(LN_CLASS_NMT_SPACE, c)) {
            return ln_utf8_put(' ', out);
        }
        return ln_unicode_is(LN_CLASS_NMT_CONTROL, c) ? 0 : ln_utf8_put(c, out);
    default: { /* LN_NORMAL_CHINESE */
        size_t n = 0;
        int spaced = is_ideograph(c);
        if (spaced) {
            out[n++] = ' ';
        }
        n += ln_utf8_put(c, out + n);
        if (spaced) {
            out[n++] = ' ';
        }
        return n;
    }
    }
}

/* Printable ASCII stays as it is but for its case. */
static size_t change_ascii(const ln_normal_step *step, ln_string text, size_t from, char *out) {
    int lower = step->kind == LN_NORMAL_LOWER;
    size_t i = from;
    for (; i < text.length && text.data[i] >= 0x20 && text.data[i] < 0x7F; i++) {
        char c = text.data[i];
        *out++ = lower && c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
    }
    return i - from;
}

static ln_status change_characters(ln_encoder *e, const ln_normal_step *step, ln_string text, ln_buffer *out) {
    for (size_t i = 0; i < text.length;) {
        /* No character becomes more than twice as long, but for ideographs of three bytes: five. */
        ln_status status = ln_buffer_reserve(out, text.length - i + 8, e->err);
        if (status != LN_OK) {
            return status;
        }
        size_t ascii = change_ascii(step, text, i, out->data + out->length);
        out->length += ascii;
        i += ascii;
        if (i < text.length) {
            out->length += change_character(step, ln_utf8_get(text.data + i), out->data + out->length);
            i += ln_utf8_length(text.data[i]);
        }
    }
    return ln_check_length(e, out->length);
}

/* ---- all steps -------------------------------------------------------------------------------- */

static ln_status apply_step(ln_encoder *e, const ln_normal_step *step, ln_string text, ln_buffer *out) {
    ln_status status;
    switch (step->kind) {
    case LN_NORMAL_NFC:
        return ln_unicode_normalize(LN_FORM_C, text.data, text.length, out, e->err);
    case LN_NORMAL_NFD:
        return ln_unicode_normalize(LN_FORM_D, text.data, text.length, out, e->err);
    case LN_NORMAL_NFKC:
        return ln_unicode_normalize(LN_FORM_KC, text.data, text.length, out, e->err);
    case LN_NORMAL_NFKD:
        return ln_unicode_normalize(LN_FORM_KD, text.data, text.length, out, e->err);
    case LN_NORMAL_STRIP:
        return strip(e, step->option, text, out);
    case LN_NORMAL_CHARSMAP:
        return ln_charsmap_apply(&step->charsmap, text.data, text.length, e->max_text, out, e->err);
    case LN_NORMAL_CLUSTERS:
        return ln_charsmap_apply_clusters(&step->charsmap, text.data, text.length, e->max_text, out, e->err);
    case LN_NORMAL_SQUEEZE:
        return squeeze(e, text, out);
    case LN_NORMAL_PREPEND:
        status = ln_buffer_append(out, step->text.data, step->text.length, e->err);
        return status == LN_OK ? ln_buffer_append(out, text.data, text.length, e->err) : status;
    case LN_NORMAL_REPLACE:
        return replace_all(e, step, text, out);
    default:
        return change_characters(e, step, text, out);
    }
}

ln_status ln_normalize(ln_encoder *e, ln_string text, ln_string *out) {
    const ln_tokenizer *t = e->tokenizer;
    size_t written = 0;
    for (size_t i = 0; i < t->n_normal && text.length > 0; i++) {
        const ln_normal_step *step = &t->normal[i];
        if (step->kind == LN_NORMAL_PREPEND && e->bare) {
            continue; /* the text goes on from another one */
        }
        ln_buffer *buffer = &e->normal[written++ % 2];
        buffer->length = 0;
        ln_status status = apply_step(e, step, text, buffer);
        status = status == LN_OK ? ln_check_length(e, buffer->length) : status;
        if (status != LN_OK) {
            return status;
        }
        text = (ln_string){buffer->data, buffer->length};
    }
    *out = text;
    return LN_OK;
}
