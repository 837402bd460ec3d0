/* regex_parse.c - from the text of a regular expression to its syntax tree. */
#include "regex_parse.h"

#include <stdlib.h>
#include <string.h>

#define MAX_DEPTH 64
#define MAX_COUNT 1000
#define MAX_RANGES 256 /* of one class: they are searched one by one */

typedef struct regex_parser {
    const char *pattern;
    size_t length;
    size_t at;
    int ignore_case;
    int dot_all;
    int depth;
    ln_regex *regex;
    ln_regex_tree *tree;
    size_t node_capacity;
    ln_error *err;
} regex_parser;

static ln_status refuse(const regex_parser *p, ln_status status, const char *what) {
    ln_string pattern = {p->pattern, p->length};
    return ln_fail(p->err, status, "%s at byte %zu of the regular expression %.*s", what, p->at,
                   LN_STRING_ARGS(pattern));
}

static ln_status unsupported(const regex_parser *p, const char *what) {
    return refuse(p, LN_UNSUPPORTED, what);
}

static ln_status malformed(const regex_parser *p, const char *what) {
    return refuse(p, LN_BAD_FILE, what);
}

static int starts(const regex_parser *p, const char *text) {
    size_t length = strlen(text);
    return p->length - p->at >= length && memcmp(p->pattern + p->at, text, length) == 0;
}

static int take(regex_parser *p, const char *text) {
    if (!starts(p, text)) {
        return 0;
    }
    p->at += strlen(text);
    return 1;
}

static uint32_t take_character(regex_parser *p) {
    uint32_t c = ln_utf8_get(p->pattern + p->at);
    p->at += ln_utf8_length(p->pattern[p->at]);
    return c;
}

static ln_status add_node(regex_parser *p, ln_regex_node_type type, uint32_t x, uint32_t *out) {
    ln_regex_tree *tree = p->tree;
    if (tree->n_nodes == p->node_capacity) {
        size_t capacity = p->node_capacity == 0 ? 64 : p->node_capacity * 2;
        ln_regex_node *nodes = realloc(tree->nodes, capacity * sizeof *nodes);
        if (nodes == NULL) {
            return ln_fail(p->err, LN_NO_MEMORY, "not enough memory for a regular expression");
        }
        tree->nodes = nodes;
        p->node_capacity = capacity;
    }
    *out = tree->n_nodes++;
    tree->nodes[*out] = (ln_regex_node){.type = type, .x = x, .child = LN_NO_NODE, .next = LN_NO_NODE};
    return LN_OK;
}

/* ---- classes ---------------------------------------------------------------- */

static uint64_t category_bit(ln_category category) {
    return UINT64_C(1) << category | UINT64_C(1) << (category | LN_PROPERTY_WORD);
}

/* Property bits of a general category named by one or two letters; 0 when there is none. */
static uint64_t category_bits(ln_string name) {
    static const char NAMES[] = "LuLlLtLmLoMnMcMeNdNlNoPcPdPsPePiPfPoSmScSkSoZsZlZpCcCfCsCoCn";
    if (name.length == 0 || name.length > 2) {
        return 0;
    }
    uint64_t bits = 0;
    for (size_t i = 0; i + 1 < sizeof NAMES; i += 2) {
        if ((name.data[0] & ~0x20) == NAMES[i] && (name.length == 1 || (name.data[1] | 0x20) == NAMES[i + 1])) {
            ln_category category = (ln_category)(i / 2);
            bits |= category_bit(category);
            bits |= category == LN_CC ? category_bit(LN_NEXT_LINE) : 0;
        }
    }
    return bits;
}

static const uint64_t WORD_BITS = UINT64_C(0xFFFFFFFF00000000); /* every value with LN_PROPERTY_WORD */

static uint64_t space_bits(void) {
    return category_bit(LN_ZS) | category_bit(LN_ZL) | category_bit(LN_ZP) | category_bit(LN_NEXT_LINE);
}

static void class_add_ascii(ln_char_class *class, uint32_t c) {
    class->ascii[c >> 6] |= UINT64_C(1) << (c & 63);
}

/* Adds all characters with (or, negated, without) the properties. */
static void class_add_properties(ln_char_class *class, uint64_t bits, int negated, int is_space) {
    for (uint32_t c = 0; c < 0x80; c++) {
        int inside = (int)(bits >> (ln_unicode_properties(c) & LN_CLASS_PROPERTY_BITS) & 1);
        inside = is_space ? ln_unicode_is_space(c) : inside;
        if (inside != negated) {
            class_add_ascii(class, c);
        }
    }
    class->properties |= negated ? ~bits : bits;
}

static ln_status class_add_range(regex_parser *p, ln_char_class *class, uint32_t first, uint32_t last) {
    for (uint32_t c = first; c <= last && c < 0x80; c++) {
        class_add_ascii(class, c);
    }
    if (last < 0x80) {
        return LN_OK;
    }
    if (class->n_ranges == MAX_RANGES) {
        return unsupported(p, "a class of more than 256 ranges");
    }
    ln_regex *regex = p->regex;
    size_t count = (size_t)regex->n_ranges + 1;
    ln_code_range *ranges = (count & (count - 1)) != 0 ? regex->ranges
                                                       : realloc(regex->ranges, 2 * count * sizeof *ranges);
    if (ranges == NULL) {
        return ln_fail(p->err, LN_NO_MEMORY, "not enough memory for a regular expression");
    }
    regex->ranges = ranges;
    ranges[regex->n_ranges++] = (ln_code_range){first < 0x80 ? 0x80 : first, last};
    class->n_ranges++;
    return LN_OK;
}

/* Under (?i) adds the other case of the ASCII letters, and the two letters outside ASCII that
 * fold to one: U+017F to s, U+212A to k. */
static ln_status class_fold_case(regex_parser *p, ln_char_class *class) {
    if (class->properties != 0 || class->n_ranges != 0) {
        return unsupported(p, "(?i) over characters outside ASCII");
    }
    for (uint32_t c = 'a'; c <= 'z'; c++) {
        uint64_t pair = UINT64_C(1) << (c & 63) | UINT64_C(1) << ((c & ~0x20u) & 63);
        class->ascii[1] |= class->ascii[1] & pair ? pair : 0;
    }
    ln_status status = LN_OK;
    if (class->ascii[1] >> ('s' & 63) & 1) {
        status = class_add_range(p, class, 0x17F, 0x17F);
    }
    if (status == LN_OK && class->ascii[1] >> ('k' & 63) & 1) {
        status = class_add_range(p, class, 0x212A, 0x212A);
    }
    return status;
}

static void class_negate(ln_char_class *class) {
    class->ascii[0] = ~class->ascii[0];
    class->ascii[1] = ~class->ascii[1];
    if (class->n_ranges == 0) {
        class->properties = ~class->properties;
    } else {
        class->negated = 1;
    }
}

static ln_status add_class(regex_parser *p, const ln_char_class *class, uint32_t *node) {
    ln_regex *regex = p->regex;
    size_t count = (size_t)regex->n_classes + 1;
    if ((count & (count - 1)) == 0) {
        ln_char_class *classes = realloc(regex->classes, 2 * count * sizeof *classes);
        if (classes == NULL) {
            return ln_fail(p->err, LN_NO_MEMORY, "not enough memory for a regular expression");
        }
        regex->classes = classes;
    }
    regex->classes[regex->n_classes++] = *class;
    return add_node(p, LN_NODE_CLASS, regex->n_classes - 1, node);
}

/* ---- escapes ---------------------------------------------------------------- */

/* The name of \p{..} or \p{^..} or \pL after the letter p; *negated is flipped by ^. */
static ln_status parse_property(regex_parser *p, ln_char_class *class, int negated) {
    if (p->at == p->length) {
        return malformed(p, "\\p without a name");
    }
    ln_string name = {p->pattern + p->at, 1};
    if (take(p, "{")) {
        negated ^= take(p, "^");
        const char *start = p->pattern + p->at;
        const char *end = memchr(start, '}', p->length - p->at);
        if (end == NULL) {
            return malformed(p, "\\p{ without }");
        }
        name = (ln_string){start, (size_t)(end - start)};
        p->at += name.length + 1;
    } else {
        take_character(p);
    }
    uint64_t bits = category_bits(name);
    if (bits == 0) {
        return unsupported(p, "a property that is no general category ends");
    }
    class_add_properties(class, bits, negated, 0);
    return LN_OK;
}

/* \s \d \w \h \p and their negations, after the backslash. *taken is 0 when it is another escape. */
static ln_status parse_class_escape(regex_parser *p, ln_char_class *class, int *taken) {
    char c = p->pattern[p->at];
    int negated = c >= 'A' && c <= 'Z';
    *taken = 1;
    p->at++;
    switch (c | 0x20) {
    case 's':
        class_add_properties(class, space_bits(), negated, 1);
        return LN_OK;
    case 'd':
        class_add_properties(class, category_bit(LN_ND), negated, 0);
        return LN_OK;
    case 'w':
        class_add_properties(class, WORD_BITS, negated, 0);
        return LN_OK;
    case 'h':
        for (uint32_t d = 0; d < 0x80; d++) {
            int inside = (d >= '0' && d <= '9') || ((d | 0x20) >= 'a' && (d | 0x20) <= 'f');
            if (inside != negated) {
                class_add_ascii(class, d);
            }
        }
        class->properties |= negated ? UINT64_MAX : 0;
        return LN_OK;
    case 'p':
        return parse_property(p, class, negated);
    default:
        p->at--;
        *taken = 0;
        return LN_OK;
    }
}

static int hex_value(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* Up to max hex digits. */
static uint32_t take_hex(regex_parser *p, int max, int *n_digits) {
    uint32_t value = 0;
    *n_digits = 0;
    while (*n_digits < max && p->at < p->length && hex_value(p->pattern[p->at]) >= 0) {
        value = value << 4 | (uint32_t)hex_value(p->pattern[p->at++]);
        ++*n_digits;
    }
    return value;
}

/* \xHH, \x{H..} and \uHHHH, after the letter. */
static ln_status parse_hex_escape(regex_parser *p, char letter, uint32_t *out) {
    int braces = letter == 'x' && take(p, "{");
    int n_digits;
    *out = take_hex(p, braces ? 6 : letter == 'x' ? 2 : 4, &n_digits);
    int complete = letter == 'u' ? n_digits == 4 : n_digits > 0;
    if (!complete || (braces && !take(p, "}"))) {
        return malformed(p, "a wrong hexadecimal escape");
    }
    if (*out > 0x10FFFF || (*out >= 0xD800 && *out < 0xE000) || (!braces && letter == 'x' && *out > 0x7F)) {
        return malformed(p, "an escape that is no character");
    }
    return LN_OK;
}

/* An escaped single character, after the backslash. */
static ln_status parse_character_escape(regex_parser *p, uint32_t *out) {
    static const char NAMES[] = "nrtfvae";
    static const char VALUES[] = "\n\r\t\f\v\a\x1B";
    char c = p->pattern[p->at];
    if (c == 'x' || c == 'u') {
        p->at++;
        return parse_hex_escape(p, c, out);
    }
    const char *name = c != '\0' ? strchr(NAMES, c) : NULL;
    int is_letter = (c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z');
    if (is_letter && name == NULL) {
        return unsupported(p, "an escape that is not supported");
    }
    *out = take_character(p);
    *out = name != NULL ? (unsigned char)VALUES[name - NAMES] : *out;
    return LN_OK;
}

/* ---- bracketed classes ------------------------------------------------------ */

static ln_status parse_members(regex_parser *p, ln_char_class *class);

/* A class inside a class, as far as it is no more than further members of the outer one. */
static ln_status parse_inner_class(regex_parser *p, ln_char_class *class) {
    if (!starts(p, "[") || starts(p, "[^") || starts(p, "[:") || p->depth == MAX_DEPTH) {
        return unsupported(p, "a class inside a class");
    }
    p->at++;
    p->depth++;
    ln_status status = parse_members(p, class);
    p->depth--;
    return status;
}

/* One member: a class or a class escape (then *is_set), else a character. */
static ln_status parse_member(regex_parser *p, ln_char_class *class, int *is_set, uint32_t *out) {
    *is_set = starts(p, "[") || starts(p, "&&");
    if (*is_set) {
        return parse_inner_class(p, class);
    }
    if (!take(p, "\\")) {
        *out = take_character(p);
        return LN_OK;
    }
    if (p->at >= p->length) {
        return malformed(p, "a pattern that ends with a backslash");
    }
    ln_status status = parse_class_escape(p, class, is_set);
    return status == LN_OK && !*is_set ? parse_character_escape(p, out) : status;
}

/* The members up to the closing bracket, which it takes. */
static ln_status parse_members(regex_parser *p, ln_char_class *class) {
    int first = 1;
    ln_status status = LN_OK;
    while (status == LN_OK && (first || !starts(p, "]"))) {
        if (p->at >= p->length) {
            return malformed(p, "[ without ]");
        }
        int is_set;
        uint32_t low = 0;
        status = parse_member(p, class, &is_set, &low);
        first = 0;
        if (status != LN_OK || is_set) {
            continue;
        }
        uint32_t high = low;
        if (starts(p, "-") && p->at + 1 < p->length && p->pattern[p->at + 1] != ']') {
            p->at++;
            status = parse_member(p, class, &is_set, &high);
            if (status == LN_OK && (is_set || high < low)) {
                return malformed(p, "a wrong range in a class");
            }
        }
        if (status == LN_OK) {
            status = class_add_range(p, class, low, high);
        }
    }
    p->at += status == LN_OK;
    return status;
}

/* After the opening bracket. */
static ln_status parse_class(regex_parser *p, uint32_t *node) {
    ln_char_class class = {.first_range = p->regex->n_ranges};
    int negated = take(p, "^");
    ln_status status = parse_members(p, &class);
    if (status == LN_OK && p->ignore_case) {
        status = class_fold_case(p, &class);
    }
    if (status != LN_OK) {
        return status;
    }
    if (negated) {
        class_negate(&class);
    }
    return add_class(p, &class, node);
}

/* ---- atoms ------------------------------------------------------------------ */

static ln_status add_character(regex_parser *p, uint32_t c, uint32_t *node) {
    int is_letter = c < 0x80 && (c | 0x20) >= 'a' && (c | 0x20) <= 'z';
    if (p->ignore_case && c >= 0x80) {
        return unsupported(p, "(?i) over characters outside ASCII");
    }
    if (!p->ignore_case || !is_letter) {
        return add_node(p, LN_NODE_CHARACTER, c, node);
    }
    ln_char_class class = {.first_range = p->regex->n_ranges};
    class_add_ascii(&class, c);
    ln_status status = class_fold_case(p, &class);
    return status == LN_OK ? add_class(p, &class, node) : status;
}

/* An assertion written as an escape: LN_OP_END when the letter names none. */
static ln_regex_op assertion_of(char letter) {
    switch (letter) {
    case 'A': return LN_OP_TEXT_START;
    case 'z': return LN_OP_TEXT_END;
    case 'Z': return LN_OP_LAST_LINE_END;
    case 'b': return LN_OP_WORD_EDGE;
    case 'B': return LN_OP_NOT_WORD_EDGE;
    default: return LN_OP_END;
    }
}

static ln_status parse_escape(regex_parser *p, uint32_t *node) {
    if (p->at >= p->length) {
        return malformed(p, "a pattern that ends with a backslash");
    }
    ln_regex_op assertion = assertion_of(p->pattern[p->at]);
    if (assertion != LN_OP_END) {
        p->at++;
        return add_node(p, LN_NODE_ASSERTION, assertion, node);
    }
    ln_char_class class = {.first_range = p->regex->n_ranges};
    int taken;
    ln_status status = parse_class_escape(p, &class, &taken);
    if (status != LN_OK) {
        return status;
    }
    if (taken) {
        return add_class(p, &class, node);
    }
    uint32_t c = 0;
    status = parse_character_escape(p, &c);
    return status == LN_OK ? add_character(p, c, node) : status;
}

static ln_status parse_dot(regex_parser *p, uint32_t *node) {
    ln_char_class class = {.ascii = {UINT64_MAX, UINT64_MAX}, .properties = UINT64_MAX};
    if (!p->dot_all) {
        class.ascii[0] &= ~(UINT64_C(1) << '\n');
    }
    return add_class(p, &class, node);
}

static ln_status parse_choice(regex_parser *p, uint32_t *node);

/* The options of (?i: (?m-i) and so on, after the question mark. */
static ln_status parse_options(regex_parser *p) {
    int on = 1;
    while (p->at < p->length && p->pattern[p->at] != ':' && p->pattern[p->at] != ')') {
        char c = p->pattern[p->at];
        if (c == 'i') {
            p->ignore_case = on;
        } else if (c == 'm') {
            p->dot_all = on;
        } else if (c == '-') {
            on = 0;
        } else {
            return unsupported(p, "a kind of group that is not supported");
        }
        p->at++;
    }
    return p->at < p->length ? LN_OK : malformed(p, "( without )");
}

/* After the opening parenthesis. */
static ln_status parse_group(regex_parser *p, uint32_t *node) {
    int ignore_case = p->ignore_case;
    int dot_all = p->dot_all;
    ln_regex_node_type type = LN_NODE_EMPTY; /* no node of its own */
    int rest_of_group = 0;                   /* (?i) holds to the end of the group around it */
    if (take(p, "?=")) {
        type = LN_NODE_LOOK;
    } else if (take(p, "?!")) {
        type = LN_NODE_LOOK_NOT;
    } else if (take(p, "?>")) {
        type = LN_NODE_ATOMIC;
    } else if (take(p, "?")) {
        ln_status status = parse_options(p);
        if (status != LN_OK) {
            return status;
        }
        rest_of_group = p->pattern[p->at] == ')';
        p->at++;
    }
    ln_status status = parse_choice(p, node);
    if (status != LN_OK) {
        return status;
    }
    p->ignore_case = ignore_case;
    p->dot_all = dot_all;
    if (rest_of_group) {
        return LN_OK;
    }
    if (!take(p, ")")) {
        return malformed(p, "( without )");
    }
    uint32_t child = *node;
    if (type != LN_NODE_EMPTY) {
        status = add_node(p, type, 0, node);
    }
    if (status == LN_OK && type != LN_NODE_EMPTY) {
        p->tree->nodes[*node].child = child;
    }
    return status;
}

static ln_status parse_atom(regex_parser *p, uint32_t *node) {
    if (take(p, "(")) {
        return parse_group(p, node);
    }
    if (take(p, "[")) {
        return parse_class(p, node);
    }
    if (take(p, "\\")) {
        return parse_escape(p, node);
    }
    if (take(p, ".")) {
        return parse_dot(p, node);
    }
    if (take(p, "^")) {
        return add_node(p, LN_NODE_ASSERTION, LN_OP_LINE_START, node);
    }
    if (take(p, "$")) {
        return add_node(p, LN_NODE_ASSERTION, LN_OP_LINE_END, node);
    }
    if (starts(p, "*") || starts(p, "+") || starts(p, "?")) {
        return malformed(p, "a quantifier with nothing to repeat");
    }
    return add_character(p, take_character(p), node);
}

/* ---- repetition, sequence, choice ------------------------------------------- */

static uint32_t take_count(regex_parser *p, int *n_digits) {
    uint32_t value = 0;
    *n_digits = 0;
    while (p->at < p->length && p->pattern[p->at] >= '0' && p->pattern[p->at] <= '9') {
        value = value > MAX_COUNT ? value : value * 10 + (uint32_t)(p->pattern[p->at] - '0');
        p->at++;
        ++*n_digits;
    }
    return value;
}

/* {n} {n,} {n,m} {,m}; anything else in braces is text, and then 0 is returned. */
static int take_braces(regex_parser *p, uint32_t *min, uint32_t *max) {
    size_t start = p->at;
    int low_digits;
    int high_digits = 0;
    if (!take(p, "{")) {
        return 0;
    }
    *min = take_count(p, &low_digits);
    *max = *min;
    if (take(p, ",")) {
        *max = take_count(p, &high_digits);
        *max = high_digits == 0 ? LN_REGEX_UNBOUNDED : *max;
    }
    if (low_digits + high_digits == 0 || !take(p, "}")) {
        p->at = start;
        return 0;
    }
    return 1;
}

/* *found is 0 when no quantifier follows. */
static ln_status parse_quantifier(regex_parser *p, ln_regex_node *out, int *found) {
    int braces = take_braces(p, &out->min, &out->max);
    *found = braces;
    if (braces) {
        if ((out->max != LN_REGEX_UNBOUNDED && (out->max > MAX_COUNT || out->max < out->min)) ||
            out->min > MAX_COUNT) {
            return unsupported(p, "a repetition that is reversed or above 1000 ends");
        }
        if (out->min == out->max && starts(p, "?")) {
            return unsupported(p, "the quantifier {n}?");
        }
    } else if (p->at < p->length && strchr("*+?", p->pattern[p->at]) != NULL && p->pattern[p->at] != '\0') {
        char c = p->pattern[p->at++];
        out->min = c == '+';
        out->max = c == '?' ? 1 : LN_REGEX_UNBOUNDED;
        *found = 1;
    }
    out->mode = LN_GREEDY;
    if (*found && take(p, "?")) {
        out->mode = LN_LAZY;
    } else if (*found && !braces && take(p, "+")) { /* x{n}+ repeats the repetition */
        out->mode = LN_POSSESSIVE;
    }
    return LN_OK;
}

/* A character that is repeated becomes a class: the matcher repeats those without splitting. */
static ln_status character_to_class(regex_parser *p, uint32_t node) {
    uint32_t c = p->tree->nodes[node].x;
    ln_char_class class = {.first_range = p->regex->n_ranges};
    ln_status status = class_add_range(p, &class, c, c);
    uint32_t class_node;
    status = status == LN_OK ? add_class(p, &class, &class_node) : status;
    if (status == LN_OK) {
        p->tree->nodes[node] = p->tree->nodes[class_node];
    }
    return status;
}

static ln_status parse_repeated(regex_parser *p, uint32_t *node) {
    ln_status status = parse_atom(p, node);
    for (int depth = 0; status == LN_OK; depth++) {
        ln_regex_node quantifier = {0};
        int found;
        status = parse_quantifier(p, &quantifier, &found);
        if (status != LN_OK || !found) {
            return status;
        }
        if (depth == 4) {
            return unsupported(p, "more than four quantifiers in a row");
        }
        uint32_t child = *node;
        if (p->tree->nodes[child].type == LN_NODE_CHARACTER) {
            status = character_to_class(p, child);
        }
        status = status == LN_OK ? add_node(p, LN_NODE_REPEAT, 0, node) : status;
        if (status == LN_OK) {
            ln_regex_node *repeat = &p->tree->nodes[*node];
            repeat->min = quantifier.min;
            repeat->max = quantifier.max;
            repeat->mode = quantifier.mode;
            repeat->child = child;
        }
    }
    return status;
}

static ln_status parse_sequence(regex_parser *p, uint32_t *node) {
    ln_status status = add_node(p, LN_NODE_SEQUENCE, 0, node);
    uint32_t last = LN_NO_NODE;
    while (status == LN_OK && p->at < p->length && !starts(p, "|") && !starts(p, ")")) {
        uint32_t item = LN_NO_NODE;
        status = parse_repeated(p, &item);
        if (status != LN_OK) {
            return status;
        }
        if (last == LN_NO_NODE) {
            p->tree->nodes[*node].child = item;
        } else {
            p->tree->nodes[last].next = item;
        }
        last = item;
    }
    return status;
}

static ln_status parse_choice(regex_parser *p, uint32_t *node) {
    if (++p->depth > MAX_DEPTH) {
        return unsupported(p, "groups more than 64 deep");
    }
    ln_status status = add_node(p, LN_NODE_CHOICE, 0, node);
    uint32_t last = LN_NO_NODE;
    do {
        uint32_t item = LN_NO_NODE;
        status = status == LN_OK ? parse_sequence(p, &item) : status;
        if (status != LN_OK) {
            return status;
        }
        if (last == LN_NO_NODE) {
            p->tree->nodes[*node].child = item;
        } else {
            p->tree->nodes[last].next = item;
        }
        last = item;
    } while (take(p, "|"));
    p->depth--;
    return LN_OK;
}

ln_status ln_regex_parse(const char *pattern, size_t length, ln_regex *regex, ln_regex_tree *tree, ln_error *err) {
    regex_parser p = {.pattern = pattern, .length = length, .regex = regex, .tree = tree, .err = err};
    size_t valid = ln_utf8_valid_prefix(pattern, length);
    if (valid != length) {
        return ln_fail(err, LN_BAD_FILE, "a regular expression is not UTF-8 (at its byte %zu)", valid);
    }
    if (length > 65536) {
        return ln_fail(err, LN_UNSUPPORTED, "a regular expression is longer than 65536 bytes");
    }
    ln_status status = parse_choice(&p, &tree->root);
    if (status == LN_OK && p.at < length) {
        status = malformed(&p, ") without (");
    }
    return status;
}
