/* regex_match.c - the backtracking matcher of regular expressions. */
#include <stdlib.h>
#include <string.h>

#include "regex_program.h"

#define NO_MATCH SIZE_MAX

typedef struct matcher {
    const ln_regex *regex;
    const char *text;
    size_t length;
    ln_regex_scratch *scratch;
    int gave_up;
} matcher;

/* ---- characters ------------------------------------------------------------- */

static int class_has(const ln_regex *regex, const ln_char_class *class, uint32_t c) {
    if (c < 0x80) {
        return (int)(class->ascii[c >> 6] >> (c & 63) & 1);
    }
    int inside = (int)(class->properties >> (ln_unicode_properties(c) & LN_CLASS_PROPERTY_BITS) & 1);
    for (uint32_t i = 0; i < class->n_ranges && !inside; i++) {
        const ln_code_range *range = &regex->ranges[class->first_range + i];
        inside = c >= range->first && c <= range->last;
    }
    return inside != class->negated;
}

static int is_word_at(const matcher *m, size_t at) {
    return at < m->length && (ln_unicode_properties(ln_utf8_get(m->text + at)) & LN_PROPERTY_WORD) != 0;
}

static size_t character_before(const matcher *m, size_t at) {
    do {
        at--;
    } while (at > 0 && ((unsigned char)m->text[at] & 0xC0) == 0x80);
    return at;
}

static int at_word_edge(const matcher *m, size_t at) {
    int before = at > 0 && is_word_at(m, character_before(m, at));
    return before != is_word_at(m, at);
}

static int assertion_holds(const matcher *m, ln_regex_op op, size_t at) {
    switch (op) {
    case LN_OP_LINE_START:
        return at == 0 || (m->text[at - 1] == '\n' && at < m->length);
    case LN_OP_LINE_END:
        return at == m->length || m->text[at] == '\n';
    case LN_OP_TEXT_START:
        return at == 0;
    case LN_OP_TEXT_END:
        return at == m->length;
    case LN_OP_LAST_LINE_END:
        return at == m->length || (at + 1 == m->length && m->text[at] == '\n');
    case LN_OP_WORD_EDGE:
        return at_word_edge(m, at);
    default:
        return !at_word_edge(m, at);
    }
}

/* ---- backtracking ----------------------------------------------------------- */

static int spend(matcher *m, uint64_t steps) {
    if (m->scratch->budget < steps) {
        m->scratch->budget = 0;
        m->gave_up = 1;
        return 0;
    }
    m->scratch->budget -= steps;
    return 1;
}

static void push(matcher *m, uint32_t pc, size_t at, size_t low) {
    ln_regex_scratch *s = m->scratch;
    if (s->n_frames == s->capacity) {
        size_t capacity = s->capacity == 0 ? 64 : s->capacity * 2;
        size_t limit = 65536 + 4 * m->length; /* more is a pattern out of hand */
        ln_regex_frame *frames = s->n_frames < limit ? realloc(s->frames, capacity * sizeof *frames) : NULL;
        if (frames == NULL) {
            m->gave_up = 1;
            return;
        }
        s->frames = frames;
        s->capacity = capacity;
    }
    s->frames[s->n_frames++] = (ln_regex_frame){pc, (uint32_t)at, (uint32_t)low};
}

/* Takes the newest way back that is above base: 0 when there is none. */
static int pop(matcher *m, size_t base, uint32_t *pc, size_t *at) {
    ln_regex_scratch *s = m->scratch;
    if (s->n_frames == base) {
        return 0;
    }
    ln_regex_frame *frame = &s->frames[s->n_frames - 1];
    *pc = frame->pc;
    if (frame->low == UINT32_MAX) {
        *at = frame->at;
        s->n_frames--;
        return 1;
    }
    *at = character_before(m, frame->at);
    frame->at = (uint32_t)*at;
    if (frame->at <= frame->low) {
        s->n_frames--;
    }
    return 1;
}

/* Runs over characters of the class, at most max of them. *low becomes the place after min
 * of them. NO_MATCH when there are fewer. */
static size_t repeat(matcher *m, const ln_regex_instruction *i, size_t at, size_t *low) {
    const ln_char_class *class = &m->regex->classes[i->x];
    size_t start = at;
    uint32_t count = 0;
    *low = i->min == 0 ? at : NO_MATCH;
    while (count < i->max && at < m->length) {
        unsigned char b = (unsigned char)m->text[at];
        if (b < 0x80) {
            if (!(class->ascii[b >> 6] >> (b & 63) & 1)) {
                break;
            }
            at++;
        } else {
            if (!class_has(m->regex, class, ln_utf8_get(m->text + at))) {
                break;
            }
            at += ln_utf8_length((char)b);
        }
        count++;
        if (count == i->min) {
            *low = at;
        }
    }
    return count >= i->min && spend(m, at - start) ? at : NO_MATCH;
}

static size_t run(matcher *m, uint32_t pc, size_t at);

/* Matches the body of a LOOK or ATOMIC, which starts at pc, and forgets the ways back into it. */
static size_t run_body(matcher *m, uint32_t pc, size_t at) {
    size_t base = m->scratch->n_frames;
    size_t end = run(m, pc, at);
    m->scratch->n_frames = base;
    return end;
}

/* One instruction that consumes or tests: the place after it, or NO_MATCH. Moves *pc on. */
static size_t step(matcher *m, const ln_regex_instruction *i, uint32_t *pc, size_t at) {
    size_t end;
    size_t low;
    ++*pc;
    switch (i->op) {
    case LN_OP_LITERAL:
        if (m->length - at < i->y || !spend(m, i->y / 32) ||
            memcmp(m->text + at, m->regex->literals + i->x, i->y) != 0) {
            return NO_MATCH;
        }
        return at + i->y;
    case LN_OP_CLASS:
        if (at == m->length || !class_has(m->regex, &m->regex->classes[i->x], ln_utf8_get(m->text + at))) {
            return NO_MATCH;
        }
        return at + ln_utf8_length(m->text[at]);
    case LN_OP_REPEAT:
        end = repeat(m, i, at, &low);
        if (end != NO_MATCH && end > low) {
            push(m, *pc, end, low);
        }
        return end;
    case LN_OP_REPEAT_ATOMIC:
        return repeat(m, i, at, &low);
    case LN_OP_LOOK:
    case LN_OP_LOOK_NOT:
        end = run_body(m, *pc, at);
        *pc = i->y;
        return (end != NO_MATCH) == (i->op == LN_OP_LOOK) ? at : NO_MATCH;
    case LN_OP_ATOMIC:
        end = run_body(m, *pc, at);
        *pc = i->y;
        return end;
    default:
        return assertion_holds(m, i->op, at) ? at : NO_MATCH;
    }
}

/* Place after the match that starts at `at`, or NO_MATCH. Recursion is as deep as LOOK and
 * ATOMIC are nested in the pattern. */
static size_t run(matcher *m, uint32_t pc, size_t at) {
    size_t base = m->scratch->n_frames;
    while (spend(m, 1) && !m->gave_up) {
        const ln_regex_instruction *i = &m->regex->code[pc];
        switch (i->op) {
        case LN_OP_END:
            return at;
        case LN_OP_JUMP:
            pc = i->y;
            continue;
        case LN_OP_TRY:
            if (at < m->length && !ln_byte_set_has(&m->regex->first_sets[i->x], m->text[at])) {
                pc = i->y;
                continue;
            }
            push(m, i->y, at, UINT32_MAX);
            pc++;
            continue;
        case LN_OP_SPLIT:
            push(m, i->y, at, UINT32_MAX);
            pc++;
            continue;
        case LN_OP_SPLIT_LAZY:
            push(m, pc + 1, at, UINT32_MAX);
            pc = i->y;
            continue;
        default:
            at = step(m, i, &pc, at);
        }
        if (at == NO_MATCH && !pop(m, base, &pc, &at)) {
            return NO_MATCH;
        }
    }
    return NO_MATCH;
}

ln_regex_result ln_regex_find(const ln_regex *regex, const char *text, size_t length, size_t from,
                              ln_regex_scratch *scratch, size_t *start, size_t *end) {
    matcher m = {.regex = regex, .text = text, .length = length, .scratch = scratch};
    for (size_t at = from; at <= length; at += at < length ? ln_utf8_length(text[at]) : 1) {
        if (at < length && !ln_byte_set_has(&regex->first, text[at])) {
            continue;
        }
        size_t stop = run(&m, 0, at);
        scratch->n_frames = 0;
        if (m.gave_up) {
            return LN_REGEX_GAVE_UP;
        }
        if (stop != NO_MATCH) {
            *start = at;
            *end = stop;
            return LN_REGEX_FOUND;
        }
    }
    return LN_REGEX_NONE;
}

void ln_regex_scratch_free(ln_regex_scratch *scratch) {
    free(scratch->frames);
    *scratch = (ln_regex_scratch){0};
}
