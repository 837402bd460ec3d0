/* added.c - tokens that are found in the text before anything else looks at it.
 *
 * The leftmost match counts, and of several that start there the longest, as in the
 * tokenizers library.
 */
#include <stdlib.h>
#include <string.h>

#include "tokenizer.h"
#include "unicode.h"

#define MAX_LENGTH 256 /* of one token: keeps the search linear in the text */

/* ---- the set --------------------------------------------------------------------------- */

ln_status ln_added_add(ln_added_set *set, ln_added_token token, ln_string text, ln_error *err) {
    if (text.length == 0) {
        return LN_OK; /* cannot be found */
    }
    if (text.length > MAX_LENGTH) {
        return ln_fail(err, LN_UNSUPPORTED, "the added token %d is %zu bytes long; at most %d are supported",
                       token.id, text.length, MAX_LENGTH);
    }
    if (set->n == set->capacity) {
        uint32_t capacity = set->capacity == 0 ? 16 : set->capacity * 2;
        ln_added_token *tokens = realloc(set->tokens, capacity * sizeof *tokens);
        if (tokens == NULL) {
            return ln_fail(err, LN_NO_MEMORY, "not enough memory for the added tokens");
        }
        set->tokens = tokens;
        set->capacity = capacity;
    }
    token.text = (uint32_t)set->pool.length;
    token.length = (uint32_t)text.length;
    set->tokens[set->n++] = token;
    return ln_buffer_append(&set->pool, text.data, text.length, err);
}

static const unsigned char *text_of(const ln_added_set *set, uint32_t i) {
    return (const unsigned char *)set->pool.data + set->tokens[i].text;
}

/* Order by text, then by place in the pool: a token and those it is the start of lie together. */
static int precedes(const char *pool, const ln_added_token *a, const ln_added_token *b) {
    uint32_t shorter = a->length < b->length ? a->length : b->length;
    int order = memcmp(pool + a->text, pool + b->text, shorter);
    if (order != 0 || a->length != b->length) {
        return order != 0 ? order < 0 : a->length < b->length;
    }
    return a->text < b->text;
}

/* Merge sort: qsort cannot be told where the pool is. */
static void sort_tokens(const char *pool, ln_added_token *tokens, ln_added_token *spare, uint32_t n) {
    if (n < 2) {
        return;
    }
    uint32_t half = n / 2;
    sort_tokens(pool, tokens, spare, half);
    sort_tokens(pool, tokens + half, spare, n - half);
    memcpy(spare, tokens, half * sizeof *tokens);
    uint32_t left = 0;
    uint32_t right = half;
    for (uint32_t i = 0; left < half; i++) {
        int take_right = right < n && precedes(pool, &tokens[right], &spare[left]);
        tokens[i] = take_right ? tokens[right++] : spare[left++];
    }
}

static int same_text(const ln_added_set *set, uint32_t a, uint32_t b) {
    return set->tokens[a].length == set->tokens[b].length &&
           memcmp(text_of(set, a), text_of(set, b), set->tokens[a].length) == 0;
}

ln_status ln_added_finish(ln_added_set *set, ln_error *err) {
    if (set->n == 0) {
        return LN_OK;
    }
    ln_added_token *spare = ln_alloc(set->n, sizeof *spare, "the added tokens", err);
    if (spare == NULL) {
        return LN_NO_MEMORY;
    }
    sort_tokens(set->pool.data, set->tokens, spare, set->n);
    free(spare);
    uint32_t kept = 0;
    for (uint32_t i = 0; i < set->n; i++) {
        if (i + 1 == set->n || !same_text(set, i, i + 1)) {
            set->tokens[kept++] = set->tokens[i];
        }
    }
    set->n = kept;
    uint32_t i = 0;
    for (uint32_t b = 0; b <= 256; b++) {
        while (i < set->n && *text_of(set, i) < b) {
            i++;
        }
        set->first[b] = i;
    }
    return LN_OK;
}

void ln_added_free(ln_added_set *set) {
    free(set->tokens);
    ln_buffer_free(&set->pool);
    *set = (ln_added_set){0};
}

/* ---- the search ------------------------------------------------------------------------- */

/* First of the tokens low .. high whose byte at depth is at least b; all are longer than depth
 * and equal up to it. */
static uint32_t lower_bound(const ln_added_set *set, uint32_t low, uint32_t high, uint32_t depth, unsigned int b) {
    while (low < high) {
        uint32_t middle = low + (high - low) / 2;
        if (text_of(set, middle)[depth] < b) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    return low;
}

/* The longest token at the start of text, NULL when there is none. */
static const ln_added_token *match_at(const ln_added_set *set, const char *text, size_t length) {
    unsigned char b = (unsigned char)text[0];
    uint32_t low = set->first[b];
    uint32_t high = set->first[b + 1];
    const ln_added_token *longest = NULL;
    for (uint32_t depth = 1; low < high; depth++) {
        if (set->tokens[low].length == depth) {
            longest = &set->tokens[low++];
        }
        if (depth == length || low == high) {
            break;
        }
        unsigned int next = (unsigned char)text[depth];
        low = lower_bound(set, low, high, depth, next);
        high = lower_bound(set, low, high, depth, next + 1);
    }
    return longest;
}

/* \w as the added tokens of the tokenizers library have it. */
static int is_word(uint32_t c) {
    uint8_t properties = ln_unicode_properties(c);
    int is_joiner = c == 0x200C || c == 0x200D;
    return is_joiner || ((properties & LN_PROPERTY_WORD) && (properties & LN_PROPERTY_CATEGORY) != LN_NO);
}

static size_t character_before(const char *text, size_t at) {
    do {
        at--;
    } while (at > 0 && ((unsigned char)text[at] & 0xC0) == 0x80);
    return at;
}

static int is_single_word(ln_string text, size_t start, size_t end) {
    int word_before = start > 0 && is_word(ln_utf8_get(text.data + character_before(text.data, start)));
    int word_after = end < text.length && is_word(ln_utf8_get(text.data + end));
    return !word_before && !word_after;
}

static size_t skip_space_left(ln_string text, size_t start, size_t limit) {
    while (start > limit) {
        size_t before = character_before(text.data, start);
        if (!ln_unicode_is_space(ln_utf8_get(text.data + before))) {
            break;
        }
        start = before;
    }
    return start;
}

static size_t skip_space_right(ln_string text, size_t end) {
    while (end < text.length && ln_unicode_is_space(ln_utf8_get(text.data + end))) {
        end += ln_utf8_length(text.data[end]);
    }
    return end;
}

ln_status ln_added_split(ln_encoder *e, const ln_added_set *set, ln_string text, int at_start,
                         ln_encode_part encode) {
    size_t done = 0;      /* encoded up to here */
    size_t space_end = 0; /* where the last run of white space that was skipped ends */
    for (size_t at = 0; set->n > 0 && at < text.length;) {
        const ln_added_token *token = match_at(set, text.data + at, text.length - at);
        if (token == NULL) {
            at++;
            continue;
        }
        size_t start = at;
        size_t end = at + token->length;
        at = end;
        if ((token->special && !e->with_special) || (token->single_word && !is_single_word(text, start, end))) {
            continue;
        }
        if (token->lstrip) {
            start = skip_space_left(text, start, done < start ? done : start);
        }
        if (token->rstrip) {
            end = space_end = end < space_end ? space_end : skip_space_right(text, end);
        }
        if (token->lstrip && end <= done) { /* white space itself, which the token before has taken up */
            continue;
        }
        if (done < start) {
            ln_string part = {text.data + done, start - done};
            ln_status status = encode(e, part, at_start && done == 0);
            if (status != LN_OK) {
                return status;
            }
        }
        ln_encoder_emit(e, token->id);
        ln_unigram_pass(e, token->length);
        done = end;
    }
    if (done == text.length) {
        return LN_OK;
    }
    ln_string rest = {text.data + done, text.length - done};
    return encode(e, rest, at_start && done == 0);
}
