/* regex.h - the regular expressions of tokenizer files, matched by backtracking.
 *
 * Covers what pre-tokenizers use of Oniguruma's Ruby syntax: literals, ., classes with
 * ranges and \p{..} of general categories, \s \d \w \h and their negations, groups,
 * (?i:..) over ASCII, alternation, greedy, lazy and possessive quantifiers, lookahead,
 * atomic groups, ^ $ \A \z \Z \b \B. Back references, lookbehind, captures by number,
 * scripts and class intersections are refused with a message.
 */
#ifndef LINNET_REGEX_H
#define LINNET_REGEX_H

#include "core.h"

typedef struct ln_regex ln_regex;

typedef struct ln_regex_frame {
    uint32_t pc;
    uint32_t at;
    uint32_t low; /* a repeat may still give back characters down to here; else UINT32_MAX */
} ln_regex_frame;

/* Working memory of matches; zero-initialise it, and set the budget. */
typedef struct ln_regex_scratch {
    ln_regex_frame *frames;
    size_t n_frames;
    size_t capacity;
    uint64_t budget; /* steps left; a match that uses them up fails */
} ln_regex_scratch;

/* LN_UNSUPPORTED or LN_BAD_FILE, naming the place in the pattern, when it cannot be compiled. */
ln_status ln_regex_compile(const char *pattern, size_t length, ln_regex **out, ln_error *err);

/* A regex that matches exactly this text. */
ln_status ln_regex_literal(const char *text, size_t length, ln_regex **out, ln_error *err);

void ln_regex_free(ln_regex *regex);

typedef enum ln_regex_result {
    LN_REGEX_NONE = 0,
    LN_REGEX_FOUND = 1,
    LN_REGEX_GAVE_UP = 2, /* the budget is used up, or memory has run out */
} ln_regex_result;

/* First match in text at or after from. text is valid UTF-8, length below 2^31. */
ln_regex_result ln_regex_find(const ln_regex *regex, const char *text, size_t length, size_t from,
                              ln_regex_scratch *scratch, size_t *start, size_t *end);

void ln_regex_scratch_free(ln_regex_scratch *scratch);

#endif
