/* json.c - a read-only tree over JSON text in memory. */
#include "json.h"

#include <stdlib.h>
#include <string.h>

#include "unicode.h"

#define MAX_DEPTH 64
#define MAX_SIZE ((size_t)1 << 30) /* offsets are 32 bits */

typedef struct parser {
    const char *text;
    size_t size;
    size_t at;
    ln_json_node *nodes;
    size_t n_nodes;
    size_t capacity;
    ln_error *err;
} parser;

static ln_status bad(const parser *p, const char *what) {
    return ln_fail(p->err, LN_BAD_FILE, "the JSON is damaged at byte %zu: %s", p->at, what);
}

static void skip_space(parser *p) {
    while (p->at < p->size) {
        char c = p->text[p->at];
        if (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
            return;
        }
        p->at++;
    }
}

/* The next byte that is no white space; 0 at the end (a NUL byte is no JSON either). */
static char peek(parser *p) {
    skip_space(p);
    return p->at < p->size ? p->text[p->at] : '\0';
}

static ln_status add_node(parser *p, ln_json_type type, size_t start) {
    if (p->n_nodes == p->capacity) {
        size_t capacity = p->capacity == 0 ? 256 : p->capacity * 2;
        ln_json_node *nodes = realloc(p->nodes, capacity * sizeof *nodes);
        if (nodes == NULL) {
            return ln_fail(p->err, LN_NO_MEMORY, "not enough memory to read the JSON");
        }
        p->nodes = nodes;
        p->capacity = capacity;
    }
    p->nodes[p->n_nodes] = (ln_json_node){.start = (uint32_t)start, .type = (uint8_t)type};
    p->n_nodes++;
    p->nodes[p->n_nodes - 1].next = (uint32_t)p->n_nodes;
    return LN_OK;
}

/* ---- scalars ---------------------------------------------------------------- */

static int hex_digit(char c) {
    if (c >= '0' && c <= '9') {
        return c - '0';
    }
    char lower = (char)(c | 0x20);
    return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

/* The four hex digits at text; -1 when they are not there. */
static int32_t hex4(const char *text, size_t left) {
    if (left < 4) {
        return -1;
    }
    int32_t value = 0;
    for (int i = 0; i < 4; i++) {
        int digit = hex_digit(text[i]);
        if (digit < 0) {
            return -1;
        }
        value = value << 4 | digit;
    }
    return value;
}

/* Reads the escape after a backslash: its length (without the backslash) and its code
 * point. Length 0 when it is no escape, or half a surrogate pair. */
static size_t read_escape(const char *text, size_t left, uint32_t *code_point) {
    static const char NAMES[] = "\"\\/bfnrt";
    static const char VALUES[] = "\"\\/\b\f\n\r\t";
    if (left == 0) {
        return 0;
    }
    if (text[0] != 'u') {
        const char *name = text[0] != '\0' ? strchr(NAMES, text[0]) : NULL;
        *code_point = name != NULL ? (unsigned char)VALUES[name - NAMES] : 0;
        return name != NULL ? 1 : 0;
    }
    int32_t unit = hex4(text + 1, left - 1);
    if (unit < 0 || (unit >= 0xDC00 && unit < 0xE000)) {
        return 0;
    }
    *code_point = (uint32_t)unit;
    if (unit < 0xD800 || unit >= 0xE000) {
        return 5;
    }
    int32_t low = left >= 11 && text[5] == '\\' && text[6] == 'u' ? hex4(text + 7, left - 7) : -1;
    if (low < 0xDC00 || low >= 0xE000) {
        return 0;
    }
    *code_point = 0x10000 + ((uint32_t)(unit - 0xD800) << 10) + (uint32_t)(low - 0xDC00);
    return 11;
}

static ln_status parse_string(parser *p) {
    size_t start = ++p->at;
    ln_status status = add_node(p, LN_JSON_STRING, start);
    if (status != LN_OK) {
        return status;
    }
    ln_json_node *node = &p->nodes[p->n_nodes - 1];
    for (;;) {
        while (p->at < p->size && p->text[p->at] != '"' && p->text[p->at] != '\\' &&
               (unsigned char)p->text[p->at] >= 0x20) {
            p->at++;
        }
        if (p->at >= p->size) {
            return bad(p, "a string does not end");
        }
        if (p->text[p->at] == '"') {
            node->length = (uint32_t)(p->at - start);
            p->at++;
            return LN_OK;
        }
        uint32_t code_point;
        size_t escape = p->text[p->at] != '\\' ? 0
                                               : read_escape(p->text + p->at + 1, p->size - p->at - 1, &code_point);
        if (escape == 0) {
            return bad(p, p->text[p->at] == '\\' ? "a wrong escape in a string" : "a control character in a string");
        }
        node->escaped = 1;
        p->at += 1 + escape;
    }
}

static size_t count_digits(const parser *p) {
    size_t i = p->at;
    while (i < p->size && p->text[i] >= '0' && p->text[i] <= '9') {
        i++;
    }
    return i - p->at;
}

static ln_status parse_number(parser *p) {
    size_t start = p->at;
    p->at += p->text[p->at] == '-';
    size_t digits = count_digits(p);
    int well_formed = digits > 0 && (digits == 1 || p->text[p->at] != '0');
    p->at += digits;
    if (p->at < p->size && p->text[p->at] == '.') {
        p->at++;
        digits = count_digits(p);
        well_formed = well_formed && digits > 0;
        p->at += digits;
    }
    if (p->at < p->size && (p->text[p->at] | 0x20) == 'e') {
        p->at++;
        p->at += p->at < p->size && (p->text[p->at] == '+' || p->text[p->at] == '-');
        digits = count_digits(p);
        well_formed = well_formed && digits > 0;
        p->at += digits;
    }
    if (!well_formed) {
        p->at = start;
        return bad(p, "a malformed number");
    }
    ln_status status = add_node(p, LN_JSON_NUMBER, start);
    if (status == LN_OK) {
        p->nodes[p->n_nodes - 1].length = (uint32_t)(p->at - start);
    }
    return status;
}

static ln_status parse_word(parser *p) {
    static const struct {
        const char *text;
        ln_json_type type;
    } WORDS[] = {{"null", LN_JSON_NULL}, {"false", LN_JSON_FALSE}, {"true", LN_JSON_TRUE}};
    for (size_t i = 0; i < sizeof WORDS / sizeof WORDS[0]; i++) {
        size_t length = strlen(WORDS[i].text);
        if (p->size - p->at >= length && memcmp(p->text + p->at, WORDS[i].text, length) == 0) {
            ln_status status = add_node(p, WORDS[i].type, p->at);
            p->at += length;
            return status;
        }
    }
    return bad(p, p->at < p->size ? "a value is expected here" : "it ends too early");
}

/* ---- containers ------------------------------------------------------------- */

/* Ends the containers that close here, then takes the comma. *depth is 0 when all have ended. */
static ln_status after_value(parser *p, const uint32_t *open, size_t *depth) {
    while (*depth > 0) {
        ln_json_node *node = &p->nodes[open[*depth - 1]];
        node->length++;
        char c = peek(p);
        if (c == ',') {
            p->at++;
            return LN_OK;
        }
        if (c != (node->type == LN_JSON_ARRAY ? ']' : '}')) {
            return bad(p, p->at < p->size ? "a comma or a closing bracket is expected here" : "it ends too early");
        }
        p->at++;
        node->next = (uint32_t)p->n_nodes;
        --*depth;
    }
    return LN_OK;
}

static ln_status parse_key(parser *p) {
    if (peek(p) != '"') {
        return bad(p, "a key in quotes is expected here");
    }
    ln_status status = parse_string(p);
    if (status != LN_OK) {
        return status;
    }
    if (peek(p) != ':') {
        return bad(p, "a colon is expected here");
    }
    p->at++;
    return LN_OK;
}

static ln_status parse_scalar(parser *p, char c) {
    if (c == '"') {
        return parse_string(p);
    }
    return c == '-' || (c >= '0' && c <= '9') ? parse_number(p) : parse_word(p);
}

static ln_status parse_value(parser *p) {
    uint32_t open[MAX_DEPTH]; /* the containers we are in */
    size_t depth = 0;
    do {
        ln_status status = LN_OK;
        if (depth > 0 && p->nodes[open[depth - 1]].type == LN_JSON_OBJECT) {
            status = parse_key(p);
        }
        if (status != LN_OK) {
            return status;
        }
        char c = peek(p);
        if (c != '[' && c != '{') {
            status = parse_scalar(p, c);
        } else if (depth == MAX_DEPTH) {
            return bad(p, "it is nested more than 64 deep");
        } else {
            status = add_node(p, c == '[' ? LN_JSON_ARRAY : LN_JSON_OBJECT, p->at++);
            if (status != LN_OK) {
                return status;
            }
            if (peek(p) != (c == '[' ? ']' : '}')) {
                open[depth++] = (uint32_t)(p->n_nodes - 1);
                continue;
            }
            p->at++;
        }
        if (status == LN_OK) {
            status = after_value(p, open, &depth);
        }
        if (status != LN_OK) {
            return status;
        }
    } while (depth > 0);
    return LN_OK;
}

/* ---- the tree ---------------------------------------------------------------- */

ln_status ln_json_parse(const void *text, size_t size, ln_json *out, ln_error *err) {
    *out = (ln_json){0};
    if (size > MAX_SIZE) {
        return ln_fail(err, LN_UNSUPPORTED, "the JSON is larger than %zu bytes", MAX_SIZE);
    }
    parser p = {.text = text, .size = size, .err = err};
    p.at = ln_utf8_valid_prefix(p.text, size);
    if (p.at != size) {
        return bad(&p, "it is not UTF-8");
    }
    p.at = 0;
    ln_status status = parse_value(&p);
    if (status == LN_OK && peek(&p) != '\0') {
        status = bad(&p, "something follows the end");
    } else if (status == LN_OK && p.at < p.size) {
        status = bad(&p, "a NUL byte follows the end");
    }
    if (status != LN_OK) {
        free(p.nodes);
        return status;
    }
    *out = (ln_json){.text = p.text, .nodes = p.nodes, .n_nodes = (uint32_t)p.n_nodes};
    return LN_OK;
}

void ln_json_close(ln_json *json) {
    free(json->nodes);
    *json = (ln_json){0};
}

uint32_t ln_json_get(const ln_json *json, uint32_t node, const char *key) {
    if (json->nodes[node].type != LN_JSON_OBJECT) {
        return 0;
    }
    uint32_t end = ln_json_end(json, node);
    for (uint32_t k = ln_json_first(json, node); k != end; k = ln_json_next(json, k + 1)) {
        if (ln_json_is(json, k, key)) {
            return k + 1;
        }
    }
    return 0;
}

ln_status ln_json_string(const ln_json *json, uint32_t node, ln_buffer *buffer, ln_string *out, ln_error *err) {
    const ln_json_node *n = &json->nodes[node];
    const char *text = json->text + n->start;
    if (!n->escaped) {
        *out = (ln_string){text, n->length};
        return LN_OK;
    }
    ln_status status = ln_buffer_reserve(buffer, n->length, err); /* unescaped text is never longer */
    if (status != LN_OK) {
        return status;
    }
    size_t start = buffer->length;
    for (size_t i = 0; i < n->length;) {
        if (text[i] != '\\') {
            buffer->data[buffer->length++] = text[i++];
            continue;
        }
        uint32_t code_point = 0;
        i += 1 + read_escape(text + i + 1, n->length - i - 1, &code_point);
        buffer->length += ln_utf8_put(code_point, buffer->data + buffer->length);
    }
    *out = (ln_string){buffer->data + start, buffer->length - start};
    return LN_OK;
}

int ln_json_is(const ln_json *json, uint32_t node, const char *text) {
    const ln_json_node *n = &json->nodes[node];
    return n->type == LN_JSON_STRING && !n->escaped && n->length == strlen(text) &&
           memcmp(json->text + n->start, text, n->length) == 0;
}

int ln_json_int(const ln_json *json, uint32_t node, int32_t *out) {
    const ln_json_node *n = &json->nodes[node];
    if (n->type != LN_JSON_NUMBER || n->length > 11) {
        return 0;
    }
    const char *text = json->text + n->start;
    int negative = text[0] == '-';
    int64_t value = 0;
    for (uint32_t i = (uint32_t)negative; i < n->length; i++) {
        if (text[i] < '0' || text[i] > '9') {
            return 0;
        }
        value = value * 10 + (text[i] - '0');
    }
    value = negative ? -value : value;
    if (value < INT32_MIN || value > INT32_MAX) {
        return 0;
    }
    *out = (int32_t)value;
    return 1;
}
