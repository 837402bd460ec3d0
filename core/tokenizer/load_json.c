/* load_json.c - a tokenizer from a Hugging Face tokenizer.json: its vocabulary, merges and
 * added tokens. The steps around them are in load_json_steps.c.
 *
 * The format is that of the tokenizers library's Tokenizer::save
 * (https://huggingface.co/docs/tokenizers).
 */
#include "load_json.h"

#include <string.h>

ln_status ln_json_text(ln_json_loader *l, uint32_t node, const char *what, ln_string *out) {
    if (node == 0 || ln_json_type_of(&l->json, node) != LN_JSON_STRING) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: %s is not a string", what);
    }
    l->scratch.length = 0;
    return ln_json_string(&l->json, node, &l->scratch, out, l->err);
}

int ln_json_flag(const ln_json_loader *l, uint32_t node, const char *key, int missing) {
    uint32_t value = ln_json_get(&l->json, node, key);
    if (value == 0 || ln_json_type_of(&l->json, value) == LN_JSON_NULL) {
        return missing;
    }
    return ln_json_type_of(&l->json, value) == LN_JSON_TRUE;
}

static ln_status bad(ln_json_loader *l, const char *what) {
    return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: %s", what);
}

/* A child that must have this type; 0 where it is missing or has another. */
static uint32_t child_of(const ln_json_loader *l, uint32_t node, const char *key, ln_json_type type) {
    uint32_t child = ln_json_get(&l->json, node, key);
    return child != 0 && ln_json_type_of(&l->json, child) == type ? child : 0;
}

/* ---- vocabulary ------------------------------------------------------------------------- */

/* The number of ids that the vocabulary and the added tokens need. Ids far beyond the number
 * of tokens are refused: the file would decide how much memory is taken. */
static ln_status count_ids(ln_json_loader *l, uint32_t vocab, uint32_t added, int32_t *n, size_t *n_pieces) {
    const ln_json *json = &l->json;
    int32_t highest = -1;
    *n_pieces = json->nodes[vocab].length;
    for (uint32_t k = ln_json_first(json, vocab); k != ln_json_end(json, vocab); k = ln_json_next(json, k + 1)) {
        int32_t id;
        if (!ln_json_int(json, k + 1, &id) || id < 0) {
            return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: the id of token '%.*s' is no whole number from 0",
                           (int)(json->nodes[k].length < 60 ? json->nodes[k].length : 60),
                           json->text + json->nodes[k].start);
        }
        highest = id > highest ? id : highest;
    }
    for (uint32_t a = added == 0 ? 0 : ln_json_first(json, added); added != 0 && a != ln_json_end(json, added);
         a = ln_json_next(json, a)) {
        uint32_t number = ln_json_get(json, a, "id");
        int32_t id;
        if (number == 0 || !ln_json_int(json, number, &id) || id < 0) {
            return bad(l, "an added token has no id that is a whole number from 0");
        }
        highest = id > highest ? id : highest;
        ++*n_pieces;
    }
    if (highest < 0) {
        return bad(l, "the vocabulary is empty");
    }
    if ((uint64_t)highest > 65536 + 4 * (uint64_t)*n_pieces) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: there is a token id %d, but only %zu tokens", highest,
                       *n_pieces);
    }
    *n = highest + 1;
    return LN_OK;
}

static ln_status load_vocab(ln_json_loader *l, uint32_t vocab) {
    const ln_json *json = &l->json;
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

/* ---- merges ------------------------------------------------------------------------------ */

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

/* ---- the model --------------------------------------------------------------------------- */

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

static ln_status load_model(ln_json_loader *l, uint32_t model) {
    uint32_t type = ln_json_get(&l->json, model, "type");
    if (type != 0 && !ln_json_is(&l->json, type, "BPE")) {
        const ln_json_node *node = &l->json.nodes[type];
        ln_string name = {l->json.text + node->start, node->length};
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: the model is of type '%.*s'; only BPE is supported",
                       LN_STRING_ARGS(name));
    }
    uint32_t vocab = child_of(l, model, "vocab", LN_JSON_OBJECT);
    uint32_t merges = child_of(l, model, "merges", LN_JSON_ARRAY);
    if (vocab == 0 || merges == 0) {
        return ln_fail(l->err, LN_UNSUPPORTED,
                       "tokenizer.json: the model has no vocab object or no merges list; only BPE is supported");
    }
    static const char *const UNSUPPORTED[] = {"dropout", "continuing_subword_prefix", "end_of_word_suffix"};
    ln_status status = LN_OK;
    for (size_t i = 0; i < 3 && status == LN_OK; i++) {
        status = check_absent(l, model, UNSUPPORTED[i]);
    }
    int32_t n = 0;
    size_t n_pieces = 0;
    uint32_t added = child_of(l, 0, "added_tokens", LN_JSON_ARRAY);
    status = status == LN_OK ? count_ids(l, vocab, added, &n, &n_pieces) : status;
    status = status == LN_OK ? ln_vocab_open(n, n_pieces, l->size, &l->tokenizer->vocab, l->err) : status;
    status = status == LN_OK ? load_vocab(l, vocab) : status;
    status = status == LN_OK ? load_merges(l, merges) : status;
    status = status == LN_OK ? load_unknown(l, model) : status;
    l->tokenizer->fuse_unk = ln_json_flag(l, model, "fuse_unk", 0);
    l->tokenizer->ignore_merges = ln_json_flag(l, model, "ignore_merges", 0);
    l->byte_fallback = ln_json_flag(l, model, "byte_fallback", 0);
    return status;
}

/* ---- added tokens ------------------------------------------------------------------------- */

/* Puts an added token into the vocabulary; one that is there already keeps its place. */
static ln_status add_piece(ln_json_loader *l, int32_t id, ln_string text, int special) {
    ln_vocab *vocab = &l->tokenizer->vocab;
    ln_piece *piece = &vocab->pieces[id];
    ln_status status = LN_OK;
    if (piece->flags & LN_PIECE_PRESENT) {
        ln_string present = ln_vocab_text(vocab, id);
        if (present.length != text.length || memcmp(present.data, text.data, text.length) != 0) {
            return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: id %d is '%.*s' and also the added token '%.*s'", id,
                           LN_STRING_ARGS(present), LN_STRING_ARGS(text));
        }
    } else if (ln_vocab_find(vocab, text.data, text.length) >= 0) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: the added token '%.*s' has another id in the vocabulary",
                       LN_STRING_ARGS(text));
    } else {
        int first;
        status = ln_vocab_add(vocab, id, text, 0, &first, l->err);
    }
    piece->flags |= special ? LN_PIECE_SPECIAL : 0;
    return status;
}

/* Tokens marked "normalized" are looked for as the normalizer would write them. */
static ln_status add_to_set(ln_json_loader *l, ln_encoder *e, ln_added_token token, ln_string text, int normalized) {
    if (!normalized) {
        return ln_added_add(&l->tokenizer->added[0], token, text, l->err);
    }
    ln_string normal;
    ln_status status = ln_normalize(e, text, &normal);
    return status == LN_OK ? ln_added_add(&l->tokenizer->added[1], token, normal, l->err) : status;
}

/* All tokens share the budget of one encoder. */
static ln_status add_tokens(ln_json_loader *l, ln_encoder *e, uint32_t list) {
    const ln_json *json = &l->json;
    for (uint32_t a = ln_json_first(json, list); a != ln_json_end(json, list); a = ln_json_next(json, a)) {
        ln_added_token token = {.special = (uint8_t)ln_json_flag(l, a, "special", 0),
                                .lstrip = (uint8_t)ln_json_flag(l, a, "lstrip", 0),
                                .rstrip = (uint8_t)ln_json_flag(l, a, "rstrip", 0),
                                .single_word = (uint8_t)ln_json_flag(l, a, "single_word", 0)};
        ln_string text;
        ln_json_int(json, ln_json_get(json, a, "id"), &token.id);
        ln_status status = ln_json_text(l, ln_json_get(json, a, "content"), "the content of an added token", &text);
        status = status == LN_OK ? add_piece(l, token.id, text, token.special) : status;
        status = status == LN_OK ? add_to_set(l, e, token, text, ln_json_flag(l, a, "normalized", 0)) : status;
        if (status != LN_OK) {
            return status;
        }
    }
    return LN_OK;
}

static ln_status load_added_tokens(ln_json_loader *l) {
    uint32_t list = child_of(l, 0, "added_tokens", LN_JSON_ARRAY);
    if (list == 0) {
        return LN_OK;
    }
    ln_encoder e = ln_encoder_open(l->tokenizer, l->json.nodes[list].length, l->err);
    ln_status status = add_tokens(l, &e, list);
    ln_encoder_close(&e);
    status = status == LN_OK ? ln_added_finish(&l->tokenizer->added[0], l->err) : status;
    return status == LN_OK ? ln_added_finish(&l->tokenizer->added[1], l->err) : status;
}

/* ---- the whole file ------------------------------------------------------------------------ */

static ln_status load_parts(ln_json_loader *l) {
    uint32_t model = child_of(l, 0, "model", LN_JSON_OBJECT);
    if (model == 0) {
        return bad(l, "it has no 'model', so it is no tokenizer");
    }
    ln_status status = load_model(l, model);
    status = status == LN_OK ? ln_load_json_normalizer(l) : status;
    status = status == LN_OK ? ln_load_json_pre_tokenizer(l) : status;
    status = status == LN_OK ? load_added_tokens(l) : status;
    status = status == LN_OK ? ln_load_json_decoder(l) : status;
    status = status == LN_OK ? ln_load_json_post_processor(l) : status;
    return status;
}

ln_status ln_load_json(ln_tokenizer *tokenizer, const void *data, size_t size, ln_error *err) {
    ln_json_loader l = {.tokenizer = tokenizer, .size = size, .err = err};
    ln_status status = ln_json_parse(data, size, &l.json, err);
    status = status == LN_OK ? load_parts(&l) : status;
    ln_json_close(&l.json);
    ln_buffer_free(&l.scratch);
    ln_buffer_free(&l.other);
    ln_buffer_free(&l.joined);
    return status;
}
