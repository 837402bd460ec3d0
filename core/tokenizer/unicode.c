/* unicode.c - UTF-8, character properties, case and the normalization forms. */
#include "unicode.h"

#include <stdlib.h>
#include <string.h>

typedef struct ccc_run {
    uint32_t first;
    uint32_t last;
    uint8_t ccc; /* canonical combining class */
} ccc_run;

typedef struct decomposition {
    uint32_t character;
    uint32_t first;
    uint32_t second; /* 0 for a singleton */
} decomposition;

typedef struct composition {
    uint32_t first;
    uint32_t second;
    uint32_t composite;
} composition;

typedef struct compatible {
    uint32_t character;
    uint16_t text; /* in COMPATIBLE_TEXT */
    uint16_t length;
} compatible;

typedef struct case_run {
    uint32_t first;
    uint32_t last;
    int32_t step;
    int32_t distance; /* from a character to its lower case */
} case_run;

typedef struct code_run {
    uint32_t first;
    uint32_t last;
} code_run;

#include "unicode_tables.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define BLOCK_BITS 7

uint8_t ln_unicode_properties(uint32_t code_point) {
    uint32_t block = PROPERTY_INDEX[code_point >> BLOCK_BITS];
    return PROPERTY_BLOCKS[block << BLOCK_BITS | (code_point & ((1u << BLOCK_BITS) - 1))];
}

int ln_unicode_is_space(uint32_t code_point) {
    if (code_point < 0x80) {
        return code_point == ' ' || (code_point >= '\t' && code_point <= '\r');
    }
    uint32_t category = ln_unicode_properties(code_point) & LN_PROPERTY_CATEGORY;
    return (category >= LN_ZS && category <= LN_ZP) || category == LN_NEXT_LINE;
}

static int is_in_runs(const code_run *runs, size_t n, uint32_t code_point) {
    size_t low = 0;
    size_t high = n;
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code_point > runs[middle].last) {
            low = middle + 1;
        } else if (code_point < runs[middle].first) {
            high = middle;
        } else {
            return 1;
        }
    }
    return 0;
}

int ln_unicode_is(ln_character_class class, uint32_t code_point) {
    static const struct {
        const code_run *runs;
        size_t n;
    } CLASSES[] = {{MARKS, COUNT(MARKS)},
                   {NONSPACING_MARKS, COUNT(NONSPACING_MARKS)},
                   {BERT_CONTROLS, COUNT(BERT_CONTROLS)},
                   {BERT_PUNCTUATION, COUNT(BERT_PUNCTUATION)},
                   {NMT_CONTROLS, COUNT(NMT_CONTROLS)},
                   {NMT_SPACES, COUNT(NMT_SPACES)}};
    return is_in_runs(CLASSES[class].runs, CLASSES[class].n, code_point);
}

size_t ln_unicode_lower(uint32_t code_point, char out[4]) {
    if (code_point < 0x80) {
        out[0] = (char)(code_point >= 'A' && code_point <= 'Z' ? code_point + 32 : code_point);
        return 1;
    }
    if (code_point == 0x130) { /* the only lower case of two characters */
        memcpy(out, "i\xCC\x87", 3);
        return 3;
    }
    size_t low = 0;
    size_t high = COUNT(LOWER);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const case_run *run = &LOWER[middle];
        if (code_point > run->last) {
            low = middle + 1;
        } else if (code_point < run->first) {
            high = middle;
        } else {
            int is_member = (code_point - run->first) % (uint32_t)run->step == 0;
            return ln_utf8_put(is_member ? code_point + (uint32_t)run->distance : code_point, out);
        }
    }
    return ln_utf8_put(code_point, out);
}

/* Exact for the clusters of less than six bytes, which are what the callers look for: marks and joiners belong to
 * the character before them, unless that is a control character. Flags and Hangul are longer. */
size_t ln_unicode_cluster_length(const char *text, size_t length) {
    uint32_t c = ln_utf8_get(text);
    size_t n = ln_utf8_length(text[0]);
    if (c == '\r' && length > 1 && text[1] == '\n') {
        return 2;
    }
    uint32_t category = ln_unicode_properties(c) & LN_PROPERTY_CATEGORY;
    int is_control = category == LN_CC || category == LN_CF || category == LN_ZL || category == LN_ZP ||
                     category == LN_NEXT_LINE;
    if (is_control && c != 0x200C && c != 0x200D) {
        return n;
    }
    while (n < length && (unsigned char)text[n] >= 0xCC) {
        uint32_t next = ln_utf8_get(text + n);
        uint32_t kind = ln_unicode_properties(next) & LN_PROPERTY_CATEGORY;
        int joins = (kind >= LN_MN && kind <= LN_ME) || next == 0x200C || next == 0x200D ||
                    (next >= 0x1AB0 && next <= 0x1AFF); /* marks, also those of a later Unicode */
        int follows_joiner = category == LN_SO && kind == LN_SO && (unsigned char)text[n - 1] == 0x8D &&
                             n > 3 && ln_utf8_get(text + n - 3) == 0x200D;
        if (!joins && !follows_joiner) {
            break;
        }
        n += ln_utf8_length(text[n]);
    }
    return n;
}

/* ---- UTF-8 ------------------------------------------------------------------ */

static int is_continuation(unsigned char b) {
    return (b & 0xC0) == 0x80;
}

/* The bytes that may follow a lead byte: 0 when it is none (Unicode 16.0, table 3-7). */
static size_t second_byte_range(unsigned char lead, unsigned char *low, unsigned char *high) {
    *low = lead == 0xE0 ? 0xA0 : lead == 0xF0 ? 0x90 : 0x80;
    *high = lead == 0xED ? 0x9F : lead == 0xF4 ? 0x8F : 0xBF;
    if (lead < 0xC2 || lead > 0xF4) {
        return 0;
    }
    return lead < 0xE0 ? 1 : lead < 0xF0 ? 2 : 3;
}

/* Length of the character at text, or 0 when it is not valid; then *bad is the length of
 * the maximal ill-formed subsequence. */
static size_t check_character(const unsigned char *text, size_t length, size_t *bad) {
    *bad = 1;
    if (text[0] < 0x80) {
        return 1;
    }
    unsigned char low;
    unsigned char high;
    size_t following = second_byte_range(text[0], &low, &high);
    if (following == 0 || length < 2 || text[1] < low || text[1] > high) {
        return 0;
    }
    for (size_t i = 2; i <= following; i++) {
        if (i >= length || !is_continuation(text[i])) {
            *bad = i;
            return 0;
        }
    }
    return following + 1;
}

size_t ln_utf8_valid_prefix(const char *text, size_t length) {
    const unsigned char *bytes = (const unsigned char *)text;
    size_t i = 0;
    while (i < length) {
        uint64_t eight;
        while (length - i >= sizeof eight) {
            memcpy(&eight, bytes + i, sizeof eight);
            if (eight & UINT64_C(0x8080808080808080)) {
                break;
            }
            i += sizeof eight;
        }
        if (i == length) {
            break;
        }
        size_t bad;
        size_t step = check_character(bytes + i, length - i, &bad);
        if (step == 0) {
            break;
        }
        i += step;
    }
    return i;
}

size_t ln_utf8_invalid_length(const char *text, size_t length) {
    size_t bad;
    check_character((const unsigned char *)text, length, &bad);
    return bad;
}

ln_status ln_utf8_repair(const char *text, size_t length, ln_buffer *out, ln_error *err) {
    size_t i = 0;
    for (;;) {
        size_t valid = ln_utf8_valid_prefix(text + i, length - i);
        ln_status status = ln_buffer_append(out, text + i, valid, err);
        i += valid;
        if (status != LN_OK || i == length) {
            return status;
        }
        i += ln_utf8_invalid_length(text + i, length - i);
        status = ln_buffer_append(out, "\xEF\xBF\xBD", 3, err);
        if (status != LN_OK) {
            return status;
        }
    }
}

size_t ln_utf8_put(uint32_t code_point, char out[4]) {
    if (code_point < 0x80) {
        out[0] = (char)code_point;
        return 1;
    }
    if (code_point < 0x800) {
        out[0] = (char)(0xC0 | code_point >> 6);
        out[1] = (char)(0x80 | (code_point & 0x3F));
        return 2;
    }
    if (code_point < 0x10000) {
        out[0] = (char)(0xE0 | code_point >> 12);
        out[1] = (char)(0x80 | (code_point >> 6 & 0x3F));
        out[2] = (char)(0x80 | (code_point & 0x3F));
        return 3;
    }
    out[0] = (char)(0xF0 | code_point >> 18);
    out[1] = (char)(0x80 | (code_point >> 12 & 0x3F));
    out[2] = (char)(0x80 | (code_point >> 6 & 0x3F));
    out[3] = (char)(0x80 | (code_point & 0x3F));
    return 4;
}

/* ---- normalization forms -------------------------------------------------- */

/* Hangul syllables are composed by arithmetic (Unicode 16.0, section 3.12). */
enum {
    L_BASE = 0x1100, V_BASE = 0x1161, T_BASE = 0x11A7, S_BASE = 0xAC00,
    L_COUNT = 19, V_COUNT = 21, T_COUNT = 28, S_COUNT = 11172,
};

/* Characters being normalised: the code point in the low 24 bits, its combining class above. */
typedef struct sequence {
    uint32_t *items;
    size_t length;
    size_t capacity;
    ln_error *err;
} sequence;

static uint32_t code_of(uint32_t item) {
    return item & 0xFFFFFF;
}

static uint32_t class_of(uint32_t item) {
    return item >> 24;
}

static uint32_t combining_class(uint32_t code_point) {
    size_t low = 0;
    size_t high = COUNT(COMBINING);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (code_point > COMBINING[middle].last) {
            low = middle + 1;
        } else if (code_point < COMBINING[middle].first) {
            high = middle;
        } else {
            return COMBINING[middle].ccc;
        }
    }
    return 0;
}

static const decomposition *find_decomposition(uint32_t code_point) {
    size_t low = 0;
    size_t high = COUNT(DECOMPOSITION);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (DECOMPOSITION[middle].character == code_point) {
            return &DECOMPOSITION[middle];
        }
        if (DECOMPOSITION[middle].character < code_point) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

static const compatible *find_compatible(uint32_t code_point) {
    size_t low = 0;
    size_t high = COUNT(COMPATIBLE);
    while (low < high) {
        size_t middle = (low + high) / 2;
        if (COMPATIBLE[middle].character == code_point) {
            return &COMPATIBLE[middle];
        }
        if (COMPATIBLE[middle].character < code_point) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return NULL;
}

/* The primary composite of two characters, 0 when there is none. */
static uint32_t compose(uint32_t first, uint32_t second) {
    if (first - L_BASE < L_COUNT && second - V_BASE < V_COUNT) {
        return S_BASE + ((first - L_BASE) * V_COUNT + (second - V_BASE)) * T_COUNT;
    }
    if (first - S_BASE < S_COUNT && (first - S_BASE) % T_COUNT == 0 && second - T_BASE - 1 < T_COUNT - 1) {
        return first + (second - T_BASE);
    }
    size_t low = 0;
    size_t high = COUNT(COMPOSITION);
    while (low < high) {
        size_t middle = (low + high) / 2;
        const composition *c = &COMPOSITION[middle];
        if (c->first == first && c->second == second) {
            return c->composite;
        }
        if (c->first < first || (c->first == first && c->second < second)) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return 0;
}

static ln_status push(sequence *run, uint32_t code_point) {
    if (run->length == run->capacity) {
        size_t capacity = run->capacity == 0 ? 64 : run->capacity * 2;
        uint32_t *items = realloc(run->items, capacity * sizeof *items);
        if (items == NULL) {
            return ln_fail(run->err, LN_NO_MEMORY, "not enough memory to normalise the text");
        }
        run->items = items;
        run->capacity = capacity;
    }
    run->items[run->length++] = combining_class(code_point) << 24 | code_point;
    return LN_OK;
}

/* Pushes the full canonical decomposition. Only the first part of a mapping can have a
 * mapping itself, so the seconds wait on a short stack (the longest chain is 3). */
static ln_status push_decomposed(sequence *run, uint32_t code_point) {
    if (code_point - S_BASE < S_COUNT) {
        uint32_t s = code_point - S_BASE;
        ln_status status = push(run, L_BASE + s / (V_COUNT * T_COUNT));
        if (status == LN_OK) {
            status = push(run, V_BASE + s % (V_COUNT * T_COUNT) / T_COUNT);
        }
        if (status == LN_OK && s % T_COUNT != 0) {
            status = push(run, T_BASE + s % T_COUNT);
        }
        return status;
    }
    uint32_t seconds[8];
    size_t waiting = 0;
    const decomposition *d;
    while (waiting < COUNT(seconds) && (d = find_decomposition(code_point)) != NULL) {
        code_point = d->first;
        if (d->second != 0) {
            seconds[waiting++] = d->second;
        }
    }
    ln_status status = push(run, code_point);
    while (status == LN_OK && waiting > 0) {
        status = push(run, seconds[--waiting]);
    }
    return status;
}

/* Sorts items[length], all with a class above 0, by class; equal classes keep their order. */
static ln_status sort_marks(uint32_t *items, size_t length, ln_error *err) {
    if (length <= 16) {
        for (size_t i = 1; i < length; i++) {
            uint32_t item = items[i];
            size_t j = i;
            for (; j > 0 && class_of(items[j - 1]) > class_of(item); j--) {
                items[j] = items[j - 1];
            }
            items[j] = item;
        }
        return LN_OK;
    }
    size_t starts[257] = {0};
    for (size_t i = 0; i < length; i++) {
        starts[class_of(items[i]) + 1]++;
    }
    for (size_t c = 1; c < COUNT(starts); c++) {
        starts[c] += starts[c - 1];
    }
    uint32_t *sorted = ln_alloc(length, sizeof *sorted, "the text", err);
    if (sorted == NULL) {
        return LN_NO_MEMORY;
    }
    for (size_t i = 0; i < length; i++) {
        sorted[starts[class_of(items[i])]++] = items[i];
    }
    memcpy(items, sorted, length * sizeof *items);
    free(sorted);
    return LN_OK;
}

static ln_status order_marks(sequence *run) {
    for (size_t i = 0; i < run->length;) {
        size_t end = i;
        while (end < run->length && class_of(run->items[end]) != 0) {
            end++;
        }
        ln_status status = sort_marks(run->items + i, end - i, run->err);
        if (status != LN_OK) {
            return status;
        }
        i = end + 1;
    }
    return LN_OK;
}

/* Canonical composition (UAX #15, definition D117), in place. */
static void compose_run(sequence *run) {
    size_t kept = 0;
    size_t starter = SIZE_MAX;
    uint32_t last_class = 0; /* of the last kept character after the starter; 0 when there is none */
    for (size_t i = 0; i < run->length; i++) {
        uint32_t item = run->items[i];
        uint32_t ccc = class_of(item);
        int adjacent = starter != SIZE_MAX && kept == starter + 1;
        int blocked = starter == SIZE_MAX || (!adjacent && last_class >= ccc);
        uint32_t composite = blocked ? 0 : compose(code_of(run->items[starter]), code_of(item));
        if (composite != 0) {
            run->items[starter] = composite;
            continue;
        }
        if (ccc == 0) {
            starter = kept;
        }
        last_class = ccc;
        run->items[kept++] = item;
    }
    run->length = kept;
}

/* Appends the characters of a run, in order, and empties it. */
static ln_status flush_run(sequence *run, int composes, ln_buffer *out) {
    ln_status status = order_marks(run);
    if (status != LN_OK) {
        return status;
    }
    if (composes) {
        compose_run(run);
    }
    status = ln_buffer_reserve(out, run->length * 4, run->err);
    if (status != LN_OK) {
        return status;
    }
    for (size_t i = 0; i < run->length; i++) {
        out->length += ln_utf8_put(code_of(run->items[i]), out->data + out->length);
    }
    run->length = 0;
    return LN_OK;
}

/* May a character change in this form, or change with the one before it? */
static int is_active(ln_normal_form form, const char *text) {
    unsigned char lead = (unsigned char)text[0];
    if (form == LN_FORM_C) {
        return lead >= 0xCC && (ln_unicode_properties(ln_utf8_get(text)) & LN_PROPERTY_NFC) != 0;
    }
    return lead >= 0xC2; /* the other forms change many characters: nothing beyond ASCII is passed over */
}

static ln_status push_form(sequence *run, ln_normal_form form, uint32_t code_point) {
    const compatible *c = form >= LN_FORM_KC && code_point >= 0xA0 ? find_compatible(code_point) : NULL;
    if (c == NULL) {
        return push_decomposed(run, code_point);
    }
    ln_status status = LN_OK;
    for (uint16_t i = 0; i < c->length && status == LN_OK; i++) {
        status = push(run, COMPATIBLE_TEXT[c->text + i]);
    }
    return status;
}

/* Only runs of active characters, each with the character in front of it, can change:
 * everything else is copied. */
ln_status ln_unicode_normalize(ln_normal_form form, const char *text, size_t length, ln_buffer *out, ln_error *err) {
    sequence run = {.err = err};
    int composes = form == LN_FORM_C || form == LN_FORM_KC;
    ln_status status = LN_OK;
    size_t copied = 0;
    size_t previous = 0; /* start of the character before i */
    size_t i = 0;
    while (i < length && status == LN_OK) {
        if (!is_active(form, text + i)) {
            previous = i;
            i += ln_utf8_length(text[i]);
            continue;
        }
        status = ln_buffer_append(out, text + copied, previous - copied, err);
        size_t j = previous;
        while (status == LN_OK && j < length && (j <= i || is_active(form, text + j))) {
            status = push_form(&run, form, ln_utf8_get(text + j));
            j += ln_utf8_length(text[j]);
        }
        if (status == LN_OK) {
            status = flush_run(&run, composes, out);
        }
        copied = previous = i = j;
    }
    if (status == LN_OK) {
        status = ln_buffer_append(out, text + copied, length - copied, err);
    }
    free(run.items);
    return status;
}
