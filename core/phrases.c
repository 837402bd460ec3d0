/* phrases.c - texts that are watched for in what tokens spell, however they are cut into tokens.
 *
 * A token completes a phrase either because it holds all of it, after any text, or because the text
 * ends with the phrase's first bytes and the token begins with the rest. The tokens of both kinds are
 * listed when the phrases are opened, the second per place where a phrase can be cut, so that a draw
 * compares the end of the text with the phrases and looks at no other token.
 */
#include "phrases.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BYTES (1 << 14) /* of all phrases together: what opening takes grows with it */

/* A phrase cut in two, or whole: before = 0. */
typedef struct cut {
    const char *phrase;
    int32_t length;
    int32_t before;   /* bytes of the phrase that the text ends with */
    int32_t next;     /* the next cut whose rest begins with the same byte, -1 = none */
    int64_t first_id; /* where its tokens begin in ids; those of the next cut end them */
} cut;

struct ln_phrases {
    const ln_tokenizer *tokenizer;
    int32_t vocab_size;
    int32_t n_cuts;
    int32_t by_byte[256]; /* the first cut whose rest begins with this byte, -1 = none */
    cut *cuts;            /* [n_cuts], and one more that ends the last */
    int32_t *ids;         /* the tokens that complete a phrase, cut by cut */
    char *strings;
    char *text;           /* the last bytes of the text, then room for a token */
    int32_t n_text;
    int32_t most_text;    /* bytes that count: one less than the longest phrase has */
    int32_t longest_token;
};

/* ---- opening ---------------------------------------------------------------------- */

/* Bytes of the token id, at most capacity of them in target. Special tokens spell nothing. */
static int32_t spell(const ln_phrases *p, int32_t id, char *target, int32_t capacity) {
    int64_t n = 0;
    if (ln_tokenizer_decode(p->tokenizer, &id, 1, 0, 0, target, capacity, &n, NULL) != LN_OK) {
        return 0;
    }
    return (int32_t)n;
}

/* Sum of the lengths of n strings, -1 when one is empty or they are too long. */
static int32_t measure(const char *strings, int32_t n) {
    int32_t total = 0;
    for (int32_t i = 0; i < n; i++) {
        size_t length = strlen(strings);
        if (length == 0 || length > (size_t)(MAX_BYTES - total)) {
            return -1;
        }
        total += (int32_t)length;
        strings += length + 1;
    }
    return total;
}

static void list_cuts(ln_phrases *p, int32_t n) {
    const char *phrase = p->strings;
    int32_t at = 0;
    for (int i = 0; i < 256; i++) {
        p->by_byte[i] = -1;
    }
    for (int32_t i = 0; i < n; i++) {
        int32_t length = (int32_t)strlen(phrase);
        p->most_text = length - 1 > p->most_text ? length - 1 : p->most_text;
        for (int32_t before = 0; before < length; before++, at++) {
            int32_t *first = &p->by_byte[(unsigned char)phrase[before]];
            p->cuts[at] = (cut){phrase, length, before, *first, 0};
            *first = at;
        }
        phrase += length + 1;
    }
}

/* Enters the token with these bytes wherever it completes a phrase: counts it in first_id of the cut, or,
 * with fill, writes its id there. */
static void enter(ln_phrases *p, int32_t id, const char *bytes, int32_t n, int fill) {
    for (int32_t at = 0; at < n; at++) {
        for (int32_t i = p->by_byte[(unsigned char)bytes[at]]; i >= 0; i = p->cuts[i].next) {
            cut *c = &p->cuts[i];
            int32_t rest = c->length - c->before;
            if ((at > 0 && c->before > 0) || n - at < rest || memcmp(bytes + at, c->phrase + c->before, (size_t)rest) != 0) {
                continue;
            }
            if (fill) {
                p->ids[c->first_id] = id;
            }
            c->first_id++;
        }
    }
}

/* Lists the tokens of every cut. Between the two passes counts become places; filling moves each place to
 * where the next begins, so that they are moved back at the end. */
static ln_status list_tokens(ln_phrases *p, char *bytes, ln_error *err) {
    for (int fill = 0; fill < 2; fill++) {
        for (int32_t id = 0; id < p->vocab_size; id++) {
            enter(p, id, bytes, spell(p, id, bytes, p->longest_token), fill);
        }
        if (fill) {
            break;
        }
        int64_t total = 0;
        for (int32_t i = 0; i <= p->n_cuts; i++) {
            int64_t count = p->cuts[i].first_id;
            p->cuts[i].first_id = total;
            total += count;
        }
        p->ids = ln_alloc((size_t)total, sizeof *p->ids, "a sampler", err);
        if (p->ids == NULL) {
            return LN_NO_MEMORY;
        }
    }
    for (int32_t i = p->n_cuts; i > 0; i--) {
        p->cuts[i].first_id = p->cuts[i - 1].first_id;
    }
    p->cuts[0].first_id = 0;
    return LN_OK;
}

int32_t ln_phrases_open(const char *strings, int32_t n, const ln_tokenizer *tokenizer, int32_t vocab_size,
                        ln_phrases **out, ln_error *err) {
    *out = NULL;
    ln_tokenizer_info info;
    if (strings == NULL || n < 0 || tokenizer == NULL || ln_tokenizer_describe(tokenizer, &info) != LN_OK) {
        return ln_fail(err, LN_BAD_ARGUMENT, "strings can only be watched for with a tokenizer");
    }
    int32_t n_cuts = measure(strings, n);
    if (n_cuts < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a banned string or sequence breaker is empty, or they have more than %d bytes",
                       MAX_BYTES);
    }
    ln_phrases *p = ln_alloc(1, sizeof *p, "a sampler", err);
    if (p == NULL) {
        return LN_NO_MEMORY;
    }
    p->tokenizer = tokenizer;
    p->vocab_size = info.vocab_size < vocab_size ? info.vocab_size : vocab_size;
    p->n_cuts = n_cuts;
    for (int32_t id = 0; id < p->vocab_size; id++) {
        int32_t length = spell(p, id, NULL, 0);
        p->longest_token = length > p->longest_token ? length : p->longest_token;
    }
    p->cuts = ln_alloc((size_t)n_cuts + 1, sizeof *p->cuts, "a sampler", err);
    p->strings = ln_alloc((size_t)(n_cuts + n), 1, "a sampler", err);
    p->text = ln_alloc((size_t)MAX_BYTES + (size_t)p->longest_token, 1, "a sampler", err);
    ln_status status = LN_NO_MEMORY;
    if (p->cuts != NULL && p->strings != NULL && p->text != NULL) {
        memcpy(p->strings, strings, (size_t)(n_cuts + n));
        list_cuts(p, n);
        status = list_tokens(p, p->text, err);
    }
    if (status != LN_OK) {
        ln_phrases_close(p);
        return status;
    }
    *out = p;
    return LN_OK;
}

void ln_phrases_close(ln_phrases *phrases) {
    if (phrases == NULL) {
        return;
    }
    free(phrases->cuts);
    free(phrases->ids);
    free(phrases->strings);
    free(phrases->text);
    free(phrases);
}

/* ---- watching ------------------------------------------------------------------------ */

/* Whether the first n bytes of the text end with the bytes of the phrase before the cut. */
static int ends_with(const ln_phrases *p, int32_t n, const cut *c) {
    return c->before <= n && memcmp(p->text + n - c->before, c->phrase, (size_t)c->before) == 0;
}

int ln_phrases_accept(ln_phrases *phrases, int32_t id) {
    ln_phrases *p = phrases;
    if (id < 0 || id >= p->vocab_size) {
        return 0;
    }
    int32_t n = spell(p, id, p->text + p->n_text, p->longest_token);
    const char *bytes = p->text + p->n_text;
    int found = 0;
    for (int32_t at = 0; at < n && !found; at++) {
        for (int32_t i = p->by_byte[(unsigned char)bytes[at]]; i >= 0 && !found; i = p->cuts[i].next) {
            const cut *c = &p->cuts[i];
            int32_t rest = c->length - c->before;
            found = (at == 0 || c->before == 0) && n - at >= rest &&
                    memcmp(bytes + at, c->phrase + c->before, (size_t)rest) == 0 && ends_with(p, p->n_text, c);
        }
    }
    p->n_text += n;
    if (p->n_text > p->most_text) {
        memmove(p->text, p->text + p->n_text - p->most_text, (size_t)p->most_text);
        p->n_text = p->most_text;
    }
    return found;
}

void ln_phrases_forbid(const ln_phrases *phrases, float *scores) {
    const ln_phrases *p = phrases;
    for (int32_t i = 0; i < p->n_cuts; i++) {
        const cut *c = &p->cuts[i];
        if (c[0].first_id == c[1].first_id || !ends_with(p, p->n_text, c)) {
            continue;
        }
        for (int64_t at = c[0].first_id; at < c[1].first_id; at++) {
            scores[p->ids[at]] = -INFINITY;
        }
    }
}
