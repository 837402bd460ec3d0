/* regex_parse.h - the syntax tree of a regular expression. */
#ifndef LINNET_REGEX_PARSE_H
#define LINNET_REGEX_PARSE_H

#include "regex_program.h"

typedef enum ln_regex_node_type {
    LN_NODE_EMPTY,
    LN_NODE_CHARACTER, /* x = code point */
    LN_NODE_CLASS,     /* x = class */
    LN_NODE_SEQUENCE,
    LN_NODE_CHOICE,
    LN_NODE_REPEAT,    /* min..max times its child, as mode says */
    LN_NODE_LOOK,
    LN_NODE_LOOK_NOT,
    LN_NODE_ATOMIC,
    LN_NODE_ASSERTION, /* x = an ln_regex_op */
} ln_regex_node_type;

typedef enum ln_repeat_mode { LN_GREEDY, LN_LAZY, LN_POSSESSIVE } ln_repeat_mode;

#define LN_NO_NODE UINT32_MAX

typedef struct ln_regex_node {
    ln_regex_node_type type;
    uint32_t x;
    uint32_t min;
    uint32_t max;
    ln_repeat_mode mode;
    uint32_t child; /* the first one */
    uint32_t next;  /* sibling */
} ln_regex_node;

typedef struct ln_regex_tree {
    ln_regex_node *nodes;
    uint32_t n_nodes;
    uint32_t root;
} ln_regex_tree;

/* Parses pattern; classes and ranges go into regex. The tree's nodes are the caller's to free,
 * also after an error. */
ln_status ln_regex_parse(const char *pattern, size_t length, ln_regex *regex, ln_regex_tree *tree, ln_error *err);

#endif
