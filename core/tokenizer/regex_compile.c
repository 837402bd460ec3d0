/* regex_compile.c - from the syntax tree of a regular expression to instructions. */
#include <stdlib.h>
#include <string.h>

#include "regex_parse.h"

#define MAX_CODE 65536 /* counted repetitions of groups are written out */

typedef struct compiler {
    const ln_regex_tree *tree;
    ln_regex *regex;
    size_t code_capacity;
    size_t literal_capacity;
    ln_error *err;
} compiler;

static ln_status no_memory(const compiler *c) {
    return ln_fail(c->err, LN_NO_MEMORY, "not enough memory for a regular expression");
}

/* ---- what a match can start with ------------------------------------------- */

static void set_add_class(ln_byte_set *set, const ln_char_class *class) {
    set->bits[0] |= class->ascii[0];
    set->bits[1] |= class->ascii[1];
    if (class->properties != 0 || class->n_ranges != 0) {
        set->bits[2] = set->bits[3] = UINT64_MAX;
    }
}

/* Adds the bytes a match of node can start with. Returns whether it can match nothing; the
 * bytes of what follows then count as well. */
static int first_bytes(const compiler *c, uint32_t node, ln_byte_set *set) {
    const ln_regex_node *n = &c->tree->nodes[node];
    char text[4];
    int nullable;
    switch (n->type) {
    case LN_NODE_CHARACTER:
        ln_utf8_put(n->x, text);
        ln_byte_set_add(set, (unsigned char)text[0]);
        return 0;
    case LN_NODE_CLASS:
        set_add_class(set, &c->regex->classes[n->x]);
        return 0;
    case LN_NODE_SEQUENCE:
        for (uint32_t i = n->child; i != LN_NO_NODE; i = c->tree->nodes[i].next) {
            if (!first_bytes(c, i, set)) {
                return 0;
            }
        }
        return 1;
    case LN_NODE_CHOICE:
        nullable = 0;
        for (uint32_t i = n->child; i != LN_NO_NODE; i = c->tree->nodes[i].next) {
            nullable |= first_bytes(c, i, set);
        }
        return nullable;
    case LN_NODE_REPEAT:
        if (n->max == 0) {
            return 1;
        }
        return first_bytes(c, n->child, set) || n->min == 0;
    case LN_NODE_ATOMIC:
        return first_bytes(c, n->child, set);
    default: /* assertions consume nothing */
        return 1;
    }
}

static ln_byte_set first_set(const compiler *c, uint32_t node) {
    ln_byte_set set = {0};
    if (first_bytes(c, node, &set)) {
        set = (ln_byte_set){{UINT64_MAX, UINT64_MAX, UINT64_MAX, UINT64_MAX}};
    }
    return set;
}

static int is_nullable(const compiler *c, uint32_t node) {
    ln_byte_set set = {0};
    return first_bytes(c, node, &set);
}

/* ---- instructions ----------------------------------------------------------- */

static ln_status emit(compiler *c, ln_regex_instruction instruction) {
    ln_regex *regex = c->regex;
    if (regex->n_code == MAX_CODE) {
        return ln_fail(c->err, LN_UNSUPPORTED, "a regular expression needs more than %d instructions", MAX_CODE);
    }
    if (regex->n_code == c->code_capacity) {
        size_t capacity = c->code_capacity == 0 ? 32 : c->code_capacity * 2;
        ln_regex_instruction *code = realloc(regex->code, capacity * sizeof *code);
        if (code == NULL) {
            return no_memory(c);
        }
        regex->code = code;
        c->code_capacity = capacity;
    }
    regex->code[regex->n_code++] = instruction;
    return LN_OK;
}

static ln_status emit_op(compiler *c, ln_regex_op op) {
    return emit(c, (ln_regex_instruction){.op = op});
}

static ln_status emit_literal(compiler *c, const char *text, size_t length) {
    ln_regex *regex = c->regex;
    if (c->literal_capacity - regex->n_literals < length) {
        size_t capacity = 2 * (regex->n_literals + length);
        char *literals = realloc(regex->literals, capacity);
        if (literals == NULL) {
            return no_memory(c);
        }
        regex->literals = literals;
        c->literal_capacity = capacity;
    }
    memcpy(regex->literals + regex->n_literals, text, length);
    uint32_t start = regex->n_literals;
    regex->n_literals += (uint32_t)length;
    return emit(c, (ln_regex_instruction){.op = LN_OP_LITERAL, .x = start, .y = (uint32_t)length});
}

static ln_status emit_try(compiler *c, const ln_byte_set *set) {
    ln_regex *regex = c->regex;
    size_t count = (size_t)regex->n_first_sets + 1;
    if ((count & (count - 1)) == 0) {
        ln_byte_set *sets = realloc(regex->first_sets, 2 * count * sizeof *sets);
        if (sets == NULL) {
            return no_memory(c);
        }
        regex->first_sets = sets;
    }
    regex->first_sets[regex->n_first_sets] = *set;
    return emit(c, (ln_regex_instruction){.op = LN_OP_TRY, .x = regex->n_first_sets++});
}

static ln_status emit_node(compiler *c, uint32_t node);

static ln_status emit_sequence(compiler *c, uint32_t child) {
    while (child != LN_NO_NODE) {
        char text[64];
        size_t length = 0;
        while (child != LN_NO_NODE && c->tree->nodes[child].type == LN_NODE_CHARACTER &&
               length + 4 <= sizeof text) {
            length += ln_utf8_put(c->tree->nodes[child].x, text + length);
            child = c->tree->nodes[child].next;
        }
        ln_status status = LN_OK;
        if (length > 0) {
            status = emit_literal(c, text, length);
        } else {
            status = emit_node(c, child);
            child = c->tree->nodes[child].next;
        }
        if (status != LN_OK) {
            return status;
        }
    }
    return LN_OK;
}

/* TRY first alternative, JUMP to the end; TRY second, ...; last. */
static ln_status emit_choice(compiler *c, uint32_t child) {
    uint32_t last_jump = UINT32_MAX; /* the jumps are chained through y until the end is known */
    for (; c->tree->nodes[child].next != LN_NO_NODE; child = c->tree->nodes[child].next) {
        ln_byte_set set = first_set(c, child);
        uint32_t start = c->regex->n_code;
        ln_status status = emit_try(c, &set);
        status = status == LN_OK ? emit_node(c, child) : status;
        uint32_t jump = c->regex->n_code;
        status = status == LN_OK ? emit(c, (ln_regex_instruction){.op = LN_OP_JUMP, .y = last_jump}) : status;
        if (status != LN_OK) {
            return status;
        }
        last_jump = jump;
        c->regex->code[start].y = c->regex->n_code;
    }
    ln_status status = emit_node(c, child);
    while (last_jump != UINT32_MAX) {
        uint32_t previous = c->regex->code[last_jump].y;
        c->regex->code[last_jump].y = c->regex->n_code;
        last_jump = previous;
    }
    return status;
}

/* A body between an opening instruction and END; the opening one continues behind it. */
static ln_status emit_body(compiler *c, ln_regex_op op, uint32_t child) {
    uint32_t start = c->regex->n_code;
    ln_status status = emit_op(c, op);
    status = status == LN_OK ? emit_node(c, child) : status;
    status = status == LN_OK ? emit_op(c, LN_OP_END) : status;
    if (status == LN_OK) {
        c->regex->code[start].y = c->regex->n_code;
    }
    return status;
}

/* The part of a group's repetition beyond min: SPLIT, group, JUMP for an open end, else a
 * SPLIT and a group for each further one. */
static ln_status emit_optional(compiler *c, const ln_regex_node *n) {
    ln_regex_op split = n->mode == LN_LAZY ? LN_OP_SPLIT_LAZY : LN_OP_SPLIT;
    uint32_t count = n->max == LN_REGEX_UNBOUNDED ? 1 : n->max - n->min;
    uint32_t first = c->regex->n_code;
    uint32_t chain = UINT32_MAX;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = c->regex->n_code;
        ln_status status = emit(c, (ln_regex_instruction){.op = split, .y = chain});
        status = status == LN_OK ? emit_node(c, n->child) : status;
        if (status != LN_OK) {
            return status;
        }
        chain = at;
    }
    if (n->max == LN_REGEX_UNBOUNDED) {
        ln_status status = emit(c, (ln_regex_instruction){.op = LN_OP_JUMP, .y = first});
        if (status != LN_OK) {
            return status;
        }
    }
    while (chain != UINT32_MAX) {
        ln_regex_instruction *at = &c->regex->code[chain];
        chain = at->y;
        at->y = c->regex->n_code; /* the way out; SPLIT_LAZY prefers it */
    }
    return LN_OK;
}

static ln_status emit_repeat(compiler *c, const ln_regex_node *n) {
    const ln_regex_node *child = &c->tree->nodes[n->child];
    if (n->max == 0) {
        return LN_OK;
    }
    if (child->type == LN_NODE_CLASS && n->mode != LN_LAZY) {
        ln_regex_op op = n->mode == LN_POSSESSIVE ? LN_OP_REPEAT_ATOMIC : LN_OP_REPEAT;
        return emit(c, (ln_regex_instruction){.op = op, .x = child->x, .min = n->min, .max = n->max});
    }
    if (n->max == LN_REGEX_UNBOUNDED && is_nullable(c, n->child)) {
        return ln_fail(c->err, LN_UNSUPPORTED,
                       "a regular expression repeats a group that can match nothing without an upper bound");
    }
    uint32_t start = c->regex->n_code;
    ln_status status = n->mode == LN_POSSESSIVE ? emit_op(c, LN_OP_ATOMIC) : LN_OK;
    for (uint32_t i = 0; i < n->min && status == LN_OK; i++) {
        uint32_t before = c->regex->n_code;
        status = emit_node(c, n->child);
        if (c->regex->n_code == before) { /* nothing, however often */
            break;
        }
    }
    status = status == LN_OK ? emit_optional(c, n) : status;
    if (status == LN_OK && n->mode == LN_POSSESSIVE) {
        status = emit_op(c, LN_OP_END);
        c->regex->code[start].y = c->regex->n_code;
    }
    return status;
}

static ln_status emit_node(compiler *c, uint32_t node) {
    const ln_regex_node *n = &c->tree->nodes[node];
    char text[4];
    switch (n->type) {
    case LN_NODE_CHARACTER:
        return emit_literal(c, text, ln_utf8_put(n->x, text));
    case LN_NODE_CLASS:
        return emit(c, (ln_regex_instruction){.op = LN_OP_CLASS, .x = n->x});
    case LN_NODE_SEQUENCE:
        return emit_sequence(c, n->child);
    case LN_NODE_CHOICE:
        return emit_choice(c, n->child);
    case LN_NODE_REPEAT:
        return emit_repeat(c, n);
    case LN_NODE_LOOK:
        return emit_body(c, LN_OP_LOOK, n->child);
    case LN_NODE_LOOK_NOT:
        return emit_body(c, LN_OP_LOOK_NOT, n->child);
    case LN_NODE_ATOMIC:
        return emit_body(c, LN_OP_ATOMIC, n->child);
    case LN_NODE_ASSERTION:
        return emit_op(c, (ln_regex_op)n->x);
    default:
        return LN_OK;
    }
}

/* A repeat right in front of an END never has to give back: END always succeeds. */
static void drop_needless_ways_back(ln_regex *regex) {
    for (uint32_t i = 0; i < regex->n_code; i++) {
        uint32_t next = i + 1;
        while (next < regex->n_code && regex->code[next].op == LN_OP_JUMP && regex->code[next].y > next) {
            next = regex->code[next].y;
        }
        if (regex->code[i].op == LN_OP_REPEAT && regex->code[next].op == LN_OP_END) {
            regex->code[i].op = LN_OP_REPEAT_ATOMIC;
        }
    }
}

/* ---- whole patterns --------------------------------------------------------- */

ln_status ln_regex_compile(const char *pattern, size_t length, ln_regex **out, ln_error *err) {
    ln_regex *regex = ln_alloc(1, sizeof *regex, "a regular expression", err);
    if (regex == NULL) {
        return LN_NO_MEMORY;
    }
    ln_regex_tree tree = {0};
    ln_status status = ln_regex_parse(pattern, length, regex, &tree, err);
    if (status == LN_OK) {
        compiler c = {.tree = &tree, .regex = regex, .err = err};
        regex->first = first_set(&c, tree.root);
        status = emit_node(&c, tree.root);
        status = status == LN_OK ? emit_op(&c, LN_OP_END) : status;
    }
    free(tree.nodes);
    if (status != LN_OK) {
        ln_regex_free(regex);
        return status;
    }
    drop_needless_ways_back(regex);
    *out = regex;
    return LN_OK;
}

ln_status ln_regex_literal(const char *text, size_t length, ln_regex **out, ln_error *err) {
    ln_regex *regex = ln_alloc(1, sizeof *regex, "a pattern", err);
    if (regex == NULL) {
        return LN_NO_MEMORY;
    }
    compiler c = {.regex = regex, .err = err};
    if (length > 0) {
        ln_byte_set_add(&regex->first, (unsigned char)text[0]);
    }
    ln_status status = emit_literal(&c, text, length);
    status = status == LN_OK ? emit_op(&c, LN_OP_END) : status;
    if (status != LN_OK) {
        ln_regex_free(regex);
        return status;
    }
    *out = regex;
    return LN_OK;
}

void ln_regex_free(ln_regex *regex) {
    if (regex != NULL) {
        free(regex->code);
        free(regex->classes);
        free(regex->ranges);
        free(regex->first_sets);
        free(regex->literals);
        free(regex);
    }
}
