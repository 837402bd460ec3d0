/* load_json_model.c - the vocabulary of a tokenizer.json, and its merges or scores. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "load_json.h"

/* ---- vocabulary ------------------------------------------------------------------------- */

/* The highest id of the added tokens; *n_pieces counts them. */
static ln_status count_added(ln_json_loader *l, int32_t *highest, size_t *n_pieces) {
    const ln_json *json = &l->json;
    uint32_t added = ln_json_child(l, 0, "added_tokens", LN_JSON_ARRAY);
    for (uint32_t a = added == 0 ? 0 : ln_json_first(json, added); added != 0 && a != ln_json_end(json, added);
         a = ln_json_next(json, a)) {
        uint32_t number = ln_json_get(json, a, "id");
        int32_t id;
        if (number == 0 || !ln_json_int(json, number, &id) || id < 0) {
            return ln_json_bad(l, "an added token has no id that is a whole number from 0");
        }
        *highest = id > *highest ? id : *highest;
        ++*n_pieces;
    }
    return LN_OK;
}

/* Opens a vocabulary of the ids up to highest. Ids far beyond the number of tokens are refused: the file would
 * decide how much memory is taken. */
static ln_status open_vocab(ln_json_loader *l, int32_t highest, size_t n_pieces) {
    ln_status status = count_added(l, &highest, &n_pieces);
    if (status != LN_OK) {
        return status;
    }
    if (highest < 0) {
        return ln_json_bad(l, "the vocabulary is empty");
    }
    if ((uint64_t)highest > 65536 + 4 * (uint64_t)n_pieces) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: there is a token id %d, but only %zu tokens", highest,
                       n_pieces);
    }
    return ln_vocab_open(highest + 1, n_pieces, l->size, &l->tokenizer->vocab, l->err);
}

/* The highest id of a vocabulary object. */
static ln_status find_highest(ln_json_loader *l, uint32_t vocab, int32_t *highest) {
    const ln_json *json = &l->json;
    *highest = -1;
    for (uint32_t k = ln_json_first(json, vocab); k != ln_json_end(json, vocab); k = ln_json_next(json, k + 1)) {
        int32_t id;
        if (!ln_json_int(json, k + 1, &id) || id < 0) {
            return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: the id of token '%.*s' is no whole number from 0",
                           (int)(json->nodes[k].length < 60 ? json->nodes[k].length : 60),
                           json->text + json->nodes[k].start);
        }
        *highest = id > *highest ? id : *highest;
    }
    return LN_OK;
}

static ln_status load_vocab(ln_json_loader *l, uint32_t vocab) {
    const ln_json *json = &l->json;
    int32_t highest;
    ln_status opened = find_highest(l, vocab, &highest);
    opened = opened == LN_OK ? open_vocab(l, highest, json->nodes[vocab].length) : opened;
    if (opened != LN_OK) {
        return opened;
    }
    for (uint32_t k = ln_json_first(json, vocab); k != ln_json_end(json, vocab); k = ln_json_next(json, k + 1)) {
        int32_t id = 0;
        ln_string text;
        ln_json_int(json, k + 1, &id);
        ln_status status = ln_json_text(l, k, "a token", &text);
        if (status != LN_OK) {
            return status;
        }
        if (l->tokenizer->vocab.pieces[id].flags & LN_PIECE_PRESENT) {
            return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: two tokens have the id %d", id);
        }
        int first;
        status = ln_vocab_add(&l->tokenizer->vocab, id, text, LN_PIECE_MODEL, &first, l->err);
        if (status != LN_OK) {
            return status;
        }
        if (!first) {
            return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: the token '%.*s' is in the vocabulary twice",
                           LN_STRING_ARGS(text));
        }
    }
    return LN_OK;
}

/* ---- byte pair encoding ------------------------------------------------------------------- */

/* The two sides of a merge: "a b" or ["a", "b"]. */
static ln_status merge_sides(ln_json_loader *l, uint32_t node, size_t rank, ln_string *left, ln_string *right) {
    const ln_json *json = &l->json;
    int is_pair = ln_json_type_of(json, node) == LN_JSON_ARRAY && json->nodes[node].length == 2;
    if (is_pair) {
        l->other.length = 0;
        uint32_t second = ln_json_next(json, node + 1);
        if (ln_json_type_of(json, node + 1) == LN_JSON_STRING && ln_json_type_of(json, second) == LN_JSON_STRING) {
            ln_status status = ln_json_string(json, second, &l->other, right, l->err);
            return status == LN_OK ? ln_json_text(l, node + 1, "a merge", left) : status;
        }
    } else if (ln_json_type_of(json, node) == LN_JSON_STRING) {
        ln_string both;
        ln_status status = ln_json_text(l, node, "a merge", &both);
        if (status != LN_OK) {
            return status;
        }
        const char *space = memchr(both.data, ' ', both.length);
        if (space != NULL) {
            size_t length = (size_t)(space - both.data);
            *left = (ln_string){both.data, length};
            *right = (ln_string){space + 1, both.length - length - 1};
            if (memchr(right->data, ' ', right->length) == NULL) {
                return LN_OK;
            }
        }
    }
    return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: merge %zu is not a pair of tokens", rank);
}

static ln_status load_merge(ln_json_loader *l, uint32_t node, size_t rank) {
    ln_string left;
    ln_string right;
    ln_status status = merge_sides(l, node, rank, &left, &right);
    return status == LN_OK ? ln_add_merge(l->tokenizer, rank, left, right, &l->joined, l->err) : status;
}

static ln_status load_merges(ln_json_loader *l, uint32_t merges) {
    const ln_json *json = &l->json;
    ln_status status = ln_merges_open(json->nodes[merges].length, &l->tokenizer->merges, l->err);
    size_t rank = 0;
    for (uint32_t m = ln_json_first(json, merges); m != ln_json_end(json, merges) && status == LN_OK;
         m = ln_json_next(json, m)) {
        const ln_json_node *node = &json->nodes[m];
        int is_comment = node->type == LN_JSON_STRING && node->length >= 8 &&
                         memcmp(json->text + node->start, "#version", 8) == 0;
        if (!is_comment) {
            status = load_merge(l, m, rank++);
        }
    }
    return status;
}

static ln_status check_absent(ln_json_loader *l, uint32_t model, const char *key) {
    uint32_t value = ln_json_get(&l->json, model, key);
    if (value == 0 || ln_json_type_of(&l->json, value) == LN_JSON_NULL || ln_json_is(&l->json, value, "")) {
        return LN_OK;
    }
    return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: the model has a %s, which is not supported", key);
}

static ln_status load_unknown(ln_json_loader *l, uint32_t model) {
    uint32_t node = ln_json_get(&l->json, model, "unk_token");
    if (node == 0 || ln_json_type_of(&l->json, node) == LN_JSON_NULL) {
        return LN_OK;
    }
    ln_string text;
    ln_status status = ln_json_text(l, node, "model.unk_token", &text);
    if (status != LN_OK) {
        return status;
    }
    l->tokenizer->unk_id = ln_vocab_find(&l->tokenizer->vocab, text.data, text.length);
    if (l->tokenizer->unk_id < 0) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: the unknown token '%.*s' is not in the vocabulary",
                       LN_STRING_ARGS(text));
    }
    return LN_OK;
}

static ln_status load_bpe(ln_json_loader *l, uint32_t model) {
    uint32_t vocab = ln_json_child(l, model, "vocab", LN_JSON_OBJECT);
    uint32_t merges = ln_json_child(l, model, "merges", LN_JSON_ARRAY);
    if (vocab == 0 || merges == 0) {
        return ln_json_bad(l, "the BPE model has no vocab object or no merges list");
    }
    static const char *const UNSUPPORTED[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    ln_status status = LN_OK;
    for (size_t i = 0; i < 3 && status == LN_OK; i++) {
        status = check_absent(l, model, UNSUPPORTED[i]);
    }
    status = status == LN_OK ? load_vocab(l, vocab) : status;
    status = status == LN_OK ? load_merges(l, merges) : status;
    status = status == LN_OK ? load_unknown(l, model) : status;
    l->tokenizer->fuse_unk = ln_json_flag(l, model, "fuse_unk", 0);
    l->tokenizer->ignore_merges = ln_json_flag(l, model, "ignore_merges", 0);
    return status;
}

/* ---- WordPiece ------------------------------------------------------------------------------ */

static ln_status load_wordpiece(ln_json_loader *l, uint32_t model) {
    ln_tokenizer *t = l->tokenizer;
    uint32_t vocab = ln_json_child(l, model, "vocab", LN_JSON_OBJECT);
    uint32_t prefix = ln_json_get(&l->json, model, "continuing_subword_prefix");
    uint32_t longest = ln_json_get(&l->json, model, "max_input_chars_per_word");
    int32_t most = 100;
    if (vocab == 0 || (longest != 0 && (!ln_json_int(&l->json, longest, &most) || most < 0))) {
        return ln_json_bad(l, "the WordPiece model has no vocab object, or an impossible max_input_chars_per_word");
    }
    t->max_word_characters = (size_t)most;
    ln_status status = load_vocab(l, vocab);
    status = status == LN_OK ? load_unknown(l, model) : status;
    status = status == LN_OK ? ln_finish_trie(t, l->err) : status;
    ln_string inner = {"##", 2};
    if (status == LN_OK && prefix != 0) {
        status = ln_json_text(l, prefix, "model.continuing_subword_prefix", &inner);
    }
    if (status == LN_OK) {
        ln_wordpiece_finish(t, (ln_string){"", 0}, inner);
    }
    return status;
}

/* ---- whole words ------------------------------------------------------------------------------ */

static ln_status load_wordlevel(ln_json_loader *l, uint32_t model) {
    uint32_t vocab = ln_json_child(l, model, "vocab", LN_JSON_OBJECT);
    if (vocab == 0) {
        return ln_json_bad(l, "the WordLevel model has no vocab object");
    }
    ln_status status = load_vocab(l, vocab);
    uint32_t unknown = ln_json_get(&l->json, model, "unk_token");
    ln_string text = {"", 0};
    if (status == LN_OK && unknown != 0) {
        status = ln_json_text(l, unknown, "model.unk_token", &text);
        l->tokenizer->unk_id = ln_vocab_find(&l->tokenizer->vocab, text.data, text.length); /* it may be missing */
    }
    return status;
}

/* ---- unigram ---------------------------------------------------------------------------------- */

/* A JSON number as a double, rounded as the tokenizers library (serde_json) does: its digits as an integer of 64
 * bits, then one division or product with a power of ten. The nearest double may be another one, and between
 * equally probable ways to cut a word the last bit decides. */
static int read_number(const ln_json *json, uint32_t node, double *out) {
    const ln_json_node *n = &json->nodes[node];
    const char *text = json->text + n->start;
    if (n->type != LN_JSON_NUMBER || n->length > 400) {
        return 0;
    }
    uint64_t digits = 0;
    int exponent = 0;
    int in_fraction = 0;
    uint32_t i = text[0] == '-';
    for (; i < n->length && (text[i] | 0x20) != 'e'; i++) {
        if (text[i] == '.') {
            in_fraction = 1;
        } else if (digits > (UINT64_MAX - (uint64_t)(text[i] - '0')) / 10) {
            exponent += !in_fraction; /* further digits do not count */
        } else {
            digits = digits * 10 + (uint64_t)(text[i] - '0');
            exponent -= in_fraction;
        }
    }
    exponent += i < n->length ? (int)strtol(text + i + 1, NULL, 10) : 0;
    if (exponent < -300 || exponent > 300) {
        return 0;
    }
    *out = (double)digits;
    double power = 1; /* exact up to 10^22, more than the digits of a double need */
    for (int i10 = exponent < 0 ? -exponent : exponent; i10 > 0; i10--) {
        power *= 10;
    }
    *out = exponent < 0 ? *out / power : *out * power;
    *out = text[0] == '-' ? -*out : *out;
    return isfinite(*out);
}

/* Piece and score of the entry [text, score] of id. Of equal texts the last one counts, as in the library. */
static ln_status load_scored(ln_json_loader *l, uint32_t node, int32_t id, double *lowest) {
    const ln_json *json = &l->json;
    double score;
    int is_pair = ln_json_type_of(json, node) == LN_JSON_ARRAY && json->nodes[node].length == 2;
    if (!is_pair || !read_number(json, ln_json_next(json, node + 1), &score)) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: entry %d of the vocabulary is no [token, score]", id);
    }
    ln_string text;
    int first;
    ln_status status = ln_json_text(l, node + 1, "a token", &text);
    l->tokenizer->scores[id] = score;
    *lowest = score < *lowest ? score : *lowest;
    return status == LN_OK ? ln_vocab_add(&l->tokenizer->vocab, id, text, LN_PIECE_MODEL, &first, l->err) : status;
}

static ln_status load_unigram(ln_json_loader *l, uint32_t model) {
    const ln_json *json = &l->json;
    ln_tokenizer *t = l->tokenizer;
    uint32_t vocab = ln_json_child(l, model, "vocab", LN_JSON_ARRAY);
    uint32_t n = vocab != 0 ? json->nodes[vocab].length : 0;
    if (n == 0 || n > INT32_MAX / 2) {
        return ln_json_bad(l, "the Unigram model has no vocab list");
    }
    ln_status status = open_vocab(l, (int32_t)n - 1, n);
    t->scores = status == LN_OK ? ln_alloc((size_t)t->vocab.n, sizeof *t->scores, "the scores", l->err) : NULL;
    if (t->scores == NULL) {
        return status == LN_OK ? LN_NO_MEMORY : status;
    }
    double lowest = INFINITY;
    int32_t id = 0;
    for (uint32_t i = ln_json_first(json, vocab); i != ln_json_end(json, vocab) && status == LN_OK;
         i = ln_json_next(json, i)) {
        status = load_scored(l, i, id++, &lowest);
    }
    uint32_t unknown = ln_json_get(json, model, "unk_id");
    if (status == LN_OK && unknown != 0 && ln_json_type_of(json, unknown) != LN_JSON_NULL &&
        (!ln_json_int(json, unknown, &t->unk_id) || t->unk_id < 0 || t->unk_id >= (int32_t)n)) {
        return ln_json_bad(l, "unk_id is not the id of a token");
    }
    status = status == LN_OK ? ln_finish_trie(t, l->err) : status;
    if (status == LN_OK) {
        ln_unigram_finish(t, lowest);
    }
    return status;
}

/* ---- the model --------------------------------------------------------------------------------- */

static const struct {
    const char *type;
    ln_word_model model;
    ln_status (*load)(ln_json_loader *l, uint32_t model);
} MODELS[] = {{"BPE", LN_MODEL_BPE, load_bpe},
              {"Unigram", LN_MODEL_UNIGRAM, load_unigram},
              {"WordPiece", LN_MODEL_WORDPIECE, load_wordpiece},
              {"WordLevel", LN_MODEL_WORDLEVEL, load_wordlevel}};

/* Files older than the setting name no type: their contents tell. */
static size_t type_without_name(const ln_json_loader *l, uint32_t model) {
    if (ln_json_get(&l->json, model, "merges") != 0) {
        return 0;
    }
    return ln_json_child(l, model, "vocab", LN_JSON_ARRAY) != 0 ? 1 : 2;
}

ln_status ln_load_json_model(ln_json_loader *l, uint32_t model) {
    uint32_t type = ln_json_get(&l->json, model, "type");
    size_t i = type == 0 ? type_without_name(l, model) : 0;
    while (type != 0 && i < sizeof MODELS / sizeof MODELS[0] && !ln_json_is(&l->json, type, MODELS[i].type)) {
        i++;
    }
    if (i == sizeof MODELS / sizeof MODELS[0]) {
        const ln_json_node *node = &l->json.nodes[type];
        ln_string name = {l->json.text + node->start, node->length};
        return ln_fail(l->err, LN_UNSUPPORTED,
                       "tokenizer.json: the model is of type '%.*s'; BPE, Unigram, WordPiece and WordLevel are supported",
                       LN_STRING_ARGS(name));
    }
    l->tokenizer->model = MODELS[i].model;
    l->byte_fallback = ln_json_flag(l, model, "byte_fallback", 0);
    return MODELS[i].load(l, model);
}
