/* normalize.c - the steps that change text before it is split. */
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

ln_status ln_normalize(ln_encoder *e, ln_string text, ln_string *out) {
    const ln_tokenizer *t = e->tokenizer;
    for (size_t i = 0; i < t->n_normal && text.length > 0; i++) {
        const ln_normal_step *step = &t->normal[i];
        ln_buffer *buffer = &e->normal[i % 2];
        buffer->length = 0;
        ln_status status;
        if (step->kind == LN_NORMAL_NFC) {
            status = ln_unicode_nfc(text.data, text.length, buffer, e->err);
        } else if (step->kind == LN_NORMAL_PREPEND) {
            status = ln_buffer_append(buffer, step->text.data, e->bare ? 0 : step->text.length, e->err);
            status = status == LN_OK ? ln_buffer_append(buffer, text.data, text.length, e->err) : status;
        } else {
            status = replace_all(e, step, text, buffer);
        }
        if (status != LN_OK) {
            return status;
        }
        text = (ln_string){buffer->data, buffer->length};
    }
    *out = text;
    return LN_OK;
}
