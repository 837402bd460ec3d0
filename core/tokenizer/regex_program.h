/* regex_program.h - what the compiler of regular expressions hands to the matcher. */
#ifndef LINNET_REGEX_PROGRAM_H
#define LINNET_REGEX_PROGRAM_H

#include "regex.h"
#include "unicode.h"

#define LN_REGEX_UNBOUNDED UINT32_MAX

typedef enum ln_regex_op {
    LN_OP_END,           /* the pattern, or the body of a LOOK or ATOMIC, has matched */
    LN_OP_LITERAL,       /* literals[x .. x + y) */
    LN_OP_CLASS,         /* one character of classes[x] */
    LN_OP_REPEAT,        /* min..max characters of classes[x], as many as possible; gives back */
    LN_OP_REPEAT_ATOMIC, /* the same; gives nothing back */
    LN_OP_TRY,           /* first_sets[x] admits the next byte: go on, then y; else y */
    LN_OP_SPLIT,         /* go on, then y */
    LN_OP_SPLIT_LAZY,    /* y, then go on */
    LN_OP_JUMP,          /* y */
    LN_OP_LOOK,          /* the body after it matches here; go to y where the text has not moved */
    LN_OP_LOOK_NOT,
    LN_OP_ATOMIC,        /* the body after it, no way back into it; go to y */
    LN_OP_LINE_START,
    LN_OP_LINE_END,
    LN_OP_TEXT_START,
    LN_OP_TEXT_END,
    LN_OP_LAST_LINE_END, /* the end of the text, or in front of a newline that ends it */
    LN_OP_WORD_EDGE,
    LN_OP_NOT_WORD_EDGE,
} ln_regex_op;

typedef struct ln_regex_instruction {
    ln_regex_op op;
    uint32_t x;
    uint32_t y;
    uint32_t min;
    uint32_t max;
} ln_regex_instruction;

typedef struct ln_code_range {
    uint32_t first;
    uint32_t last;
} ln_code_range;

/* A set of characters. Outside ASCII a character belongs to it when its property bits or
 * a range say so, or, negated, when neither does. */
typedef struct ln_char_class {
    uint64_t ascii[2];
    uint64_t properties; /* bit p: characters whose low six property bits are p */
    uint32_t first_range;
    uint32_t n_ranges;
    int negated;         /* not for ascii: that is negated already */
} ln_char_class;

/* Bytes a match can start with. */
typedef struct ln_byte_set {
    uint64_t bits[4];
} ln_byte_set;

struct ln_regex {
    ln_regex_instruction *code;
    uint32_t n_code;
    ln_char_class *classes;
    uint32_t n_classes;
    ln_code_range *ranges;
    uint32_t n_ranges;
    ln_byte_set *first_sets;
    uint32_t n_first_sets;
    char *literals;
    uint32_t n_literals;
    ln_byte_set first; /* of the whole pattern */
};

static inline int ln_byte_set_has(const ln_byte_set *set, char c) {
    unsigned char b = (unsigned char)c;
    return (int)(set->bits[b >> 6] >> (b & 63) & 1);
}

static inline void ln_byte_set_add(ln_byte_set *set, unsigned char b) {
    set->bits[b >> 6] |= UINT64_C(1) << (b & 63);
}

#define LN_CLASS_PROPERTY_BITS 63u /* LN_PROPERTY_CATEGORY | LN_PROPERTY_WORD */

#endif
