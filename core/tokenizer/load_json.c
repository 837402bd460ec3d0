/* load_json.c - a tokenizer from a Hugging Face tokenizer.json: its added tokens, and the order in which the
 * parts are read. The model is in load_json_model.c, the steps around it in load_json_steps.c.
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

ln_status ln_json_bad(ln_json_loader *l, const char *what) {
    return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: %s", what);
}

uint32_t ln_json_child(const ln_json_loader *l, uint32_t node, const char *key, ln_json_type type) {
    uint32_t child = ln_json_get(&l->json, node, key);
    return child != 0 && ln_json_type_of(&l->json, child) == type ? child : 0;
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
    uint32_t list = ln_json_child(l, 0, "added_tokens", LN_JSON_ARRAY);
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
    uint32_t model = ln_json_child(l, 0, "model", LN_JSON_OBJECT);
    if (model == 0) {
        return ln_json_bad(l, "it has no 'model', so it is no tokenizer");
    }
    ln_status status = ln_load_json_model(l, model);
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
