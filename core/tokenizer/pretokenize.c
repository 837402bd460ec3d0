/* pretokenize.c - splits text into the words that the model works on.
 *
 * Each step hands the parts it finds to the next one as it finds them, so no list of words
 * is ever built. Behaviours as in the tokenizers library (SplitDelimiterBehavior).
 */
#include <string.h>

#include "tokenizer.h"
#include "unicode.h"

static ln_status run_steps(ln_encoder *e, size_t index, ln_string text, int at_start);

/* The parts of one text: alternately matches and what lies between them. */
typedef struct splitter {
    ln_encoder *e;
    size_t next_step;
    ln_string text;
    int at_start;
    const ln_pre_step *step;
    size_t start; /* the part that is not handed on yet */
    size_t end;
    int has_part;
    int part_is_match;
    int last_is_match; /* of the last part seen */
} splitter;

static ln_status hand_on(splitter *s, size_t start, size_t end) {
    if (start == end) {
        return LN_OK;
    }
    ln_string part = {s->text.data + start, end - start};
    return run_steps(s->e, s->next_step, part, s->at_start && start == 0);
}

static int joins_last_part(const splitter *s, int is_match) {
    switch (s->step->behavior) {
    case LN_MERGED_WITH_PREVIOUS:
        return is_match && !s->last_is_match;
    case LN_MERGED_WITH_NEXT:
        return !is_match && s->part_is_match;
    default:
        return is_match == s->last_is_match;
    }
}

static ln_status take_part(splitter *s, size_t start, size_t end, int is_match) {
    is_match ^= s->step->invert;
    if (s->step->behavior == LN_ISOLATED) {
        return hand_on(s, start, end);
    }
    if (s->step->behavior == LN_REMOVED) {
        return is_match ? LN_OK : hand_on(s, start, end);
    }
    if (s->has_part && joins_last_part(s, is_match)) {
        s->end = end;
        s->part_is_match = is_match;
        s->last_is_match = is_match;
        return LN_OK;
    }
    ln_status status = s->has_part ? hand_on(s, s->start, s->end) : LN_OK;
    s->start = start;
    s->end = end;
    s->has_part = 1;
    s->part_is_match = is_match;
    s->last_is_match = is_match;
    return status;
}

static ln_status split(ln_encoder *e, size_t index, ln_string text, int at_start) {
    const ln_pre_step *step = &e->tokenizer->pre[index];
    splitter s = {.e = e, .next_step = index + 1, .text = text, .at_start = at_start, .step = step};
    ln_match_cursor cursor = {.last_end = SIZE_MAX};
    size_t seen = 0;
    for (;;) {
        size_t start;
        size_t end;
        int found;
        ln_status status = ln_next_match(e, step->regex, text, &cursor, &found, &start, &end);
        size_t until = found ? start : text.length;
        if (status == LN_OK && until > seen) {
            status = take_part(&s, seen, until, 0);
        }
        if (status == LN_OK && found) {
            status = take_part(&s, start, end, 1);
        }
        if (status != LN_OK) {
            return status;
        }
        if (!found) {
            return s.has_part ? hand_on(&s, s.start, s.end) : LN_OK;
        }
        seen = end;
    }
}

static ln_status metaspace(ln_encoder *e, size_t index, ln_string text, int at_start) {
    const ln_pre_step *step = &e->tokenizer->pre[index];
    ln_buffer *out = &e->pre[index];
    out->length = 0;
    int prepend = (step->prepend == LN_PREPEND_ALWAYS && !e->bare) || (step->prepend == LN_PREPEND_FIRST && at_start);
    int has_one = text.data[0] == ' ' || (text.length >= step->text.length &&
                                          memcmp(text.data, step->text.data, step->text.length) == 0);
    ln_status status = LN_OK;
    if (prepend && !has_one) {
        status = ln_buffer_append(out, step->text.data, step->text.length, e->err);
    }
    size_t copied = 0;
    while (status == LN_OK) {
        const char *space = memchr(text.data + copied, ' ', text.length - copied);
        size_t until = space != NULL ? (size_t)(space - text.data) : text.length;
        status = ln_buffer_append(out, text.data + copied, until - copied, e->err);
        status = status == LN_OK ? ln_check_length(e, out->length) : status;
        if (space == NULL) {
            break;
        }
        status = status == LN_OK ? ln_buffer_append(out, step->text.data, step->text.length, e->err) : status;
        copied = until + 1;
    }
    return status == LN_OK ? run_steps(e, index + 1, (ln_string){out->data, out->length}, at_start) : status;
}

static ln_status prefix_space(ln_encoder *e, size_t index, ln_string text, int at_start) {
    if (text.data[0] == ' ') {
        return run_steps(e, index + 1, text, at_start);
    }
    ln_buffer *out = &e->pre[index];
    out->length = 0;
    ln_status status = ln_buffer_append(out, " ", 1, e->err);
    status = status == LN_OK ? ln_buffer_append(out, text.data, text.length, e->err) : status;
    return status == LN_OK ? run_steps(e, index + 1, (ln_string){out->data, out->length}, at_start) : status;
}

/* What follows reads characters instead of bytes, or bytes again instead of characters. */
static ln_status respell(ln_encoder *e, size_t index, ln_string text, int at_start) {
    const int to_bytes = e->tokenizer->pre[index].kind == LN_PRE_UNSPELL;
    ln_buffer *out = &e->pre[index];
    out->length = 0;
    ln_status status = LN_OK;
    for (size_t i = 0; i < text.length && status == LN_OK;) {
        char spelled[4];
        size_t length = 1;
        if (to_bytes) {
            spelled[0] = (char)ln_byte_level_byte(ln_utf8_get(text.data + i));
            i += ln_utf8_length(text.data[i]);
        } else {
            length = ln_utf8_put(ln_byte_level_character((unsigned char)text.data[i]), spelled);
            i++;
        }
        status = ln_buffer_append(out, spelled, length, e->err);
    }
    status = status == LN_OK ? ln_check_length(e, out->length) : status;
    return status == LN_OK ? run_steps(e, index + 1, (ln_string){out->data, out->length}, at_start) : status;
}

static int is_bert_punctuation(const char *text) {
    unsigned char c = (unsigned char)text[0];
    if (c < 0x80) {
        return c > ' ' && c < 0x7F && !((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z'));
    }
    return ln_unicode_is(LN_CLASS_BERT_PUNCTUATION, ln_utf8_get(text));
}

static ln_status bert(ln_encoder *e, size_t index, ln_string text, int at_start) {
    ln_status status = LN_OK;
    size_t start = 0;
    for (size_t i = 0; i <= text.length && status == LN_OK;) {
        size_t width = i < text.length ? ln_utf8_length(text.data[i]) : 1;
        int is_space = i == text.length || ln_unicode_is_space(ln_utf8_get(text.data + i));
        int is_alone = !is_space && is_bert_punctuation(text.data + i);
        if ((is_space || is_alone) && i > start) {
            status = run_steps(e, index + 1, (ln_string){text.data + start, i - start}, at_start && start == 0);
        }
        if (is_alone && status == LN_OK) {
            status = run_steps(e, index + 1, (ln_string){text.data + i, width}, at_start && i == 0);
        }
        i += width;
        start = is_space || is_alone ? i : start;
    }
    return status;
}

static ln_status encode_word(ln_encoder *e, ln_string word) {
    switch (e->tokenizer->model) {
    case LN_MODEL_UNIGRAM:
        return ln_unigram_encode(e, word.data, word.length);
    case LN_MODEL_WORDPIECE:
        return ln_wordpiece_encode(e, word.data, word.length);
    case LN_MODEL_WORDLEVEL:
        return ln_wordlevel_encode(e, word.data, word.length);
    default:
        return ln_bpe_encode(e, word.data, word.length);
    }
}

/* Recursion is at most LN_MAX_STEPS deep. */
static ln_status run_steps(ln_encoder *e, size_t index, ln_string text, int at_start) {
    if (index == e->tokenizer->n_pre) {
        return encode_word(e, text);
    }
    switch (e->tokenizer->pre[index].kind) {
    case LN_PRE_SPLIT:
        return split(e, index, text, at_start);
    case LN_PRE_METASPACE:
        return metaspace(e, index, text, at_start);
    case LN_PRE_BERT:
        return bert(e, index, text, at_start);
    case LN_PRE_SPELL:
    case LN_PRE_UNSPELL:
        return respell(e, index, text, at_start);
    default:
        return prefix_space(e, index, text, at_start);
    }
}

ln_status ln_pretokenize(ln_encoder *e, ln_string text, int at_start) {
    return text.length > 0 ? run_steps(e, 0, text, at_start) : LN_OK;
}
