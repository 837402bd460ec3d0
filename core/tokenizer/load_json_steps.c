/* load_json_steps.c - the normalizer, pre-tokenizer, decoder and post-processor of a tokenizer.json. */
#include <string.h>

#include "load_json.h"
#include "unicode.h"

/* A section is one step {"type": ...} or a Sequence of them; load is called for each step. */
typedef ln_status (*step_loader)(ln_json_loader *l, uint32_t node);

static ln_status unsupported(ln_json_loader *l, const char *section, uint32_t node) {
    uint32_t type = ln_json_get(&l->json, node, "type");
    ln_string name = {"", 0};
    if (type != 0 && ln_json_type_of(&l->json, type) == LN_JSON_STRING) {
        name = (ln_string){l->json.text + l->json.nodes[type].start, l->json.nodes[type].length};
    }
    return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: the %s '%.*s' is not supported", section,
                   LN_STRING_ARGS(name));
}

static int is_type(const ln_json_loader *l, uint32_t node, const char *type) {
    uint32_t value = ln_json_get(&l->json, node, "type");
    return value != 0 && ln_json_is(&l->json, value, type);
}

/* Recursion ends with the nesting of the JSON, which is bounded. */
static ln_status for_each_step(ln_json_loader *l, uint32_t node, const char *list_key, step_loader load) {
    const ln_json *json = &l->json;
    if (node == 0 || ln_json_type_of(json, node) == LN_JSON_NULL) {
        return LN_OK;
    }
    if (!is_type(l, node, "Sequence")) {
        l->n_steps++;
        return l->n_steps <= LN_MAX_STEPS
                   ? load(l, node)
                   : ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: a Sequence of more than %d steps", LN_MAX_STEPS);
    }
    uint32_t list = ln_json_get(json, node, list_key);
    if (list == 0 || ln_json_type_of(json, list) != LN_JSON_ARRAY) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: a Sequence has no list '%s'", list_key);
    }
    for (uint32_t i = ln_json_first(json, list); i != ln_json_end(json, list); i = ln_json_next(json, i)) {
        ln_status status = for_each_step(l, i, list_key, load);
        if (status != LN_OK) {
            return status;
        }
    }
    return LN_OK;
}

static ln_status load_section(ln_json_loader *l, const char *key, const char *list_key, step_loader load) {
    l->n_steps = 0;
    return for_each_step(l, ln_json_get(&l->json, 0, key), list_key, load);
}

/* The text of a step that is put into the user's text. */
static ln_status step_text(ln_json_loader *l, uint32_t node, const char *key, ln_string *out) {
    ln_status status = ln_json_text(l, ln_json_get(&l->json, node, key), key, out);
    if (status == LN_OK && out->length > LN_MAX_STEP_TEXT) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: '%s' is longer than %d bytes", key, LN_MAX_STEP_TEXT);
    }
    return status;
}

/* {"pattern": {"Regex": ...}} or {"pattern": {"String": ...}}. An empty String, which never
 * matches, leaves *out NULL. */
static ln_status load_pattern(ln_json_loader *l, uint32_t node, ln_regex **out) {
    uint32_t pattern = ln_json_get(&l->json, node, "pattern");
    uint32_t regex = pattern != 0 ? ln_json_get(&l->json, pattern, "Regex") : 0;
    uint32_t string = pattern != 0 ? ln_json_get(&l->json, pattern, "String") : 0;
    ln_string text;
    *out = NULL;
    ln_status status = ln_json_text(l, regex != 0 ? regex : string, "the pattern of a step", &text);
    if (status != LN_OK) {
        return status;
    }
    if (regex != 0) {
        return ln_regex_compile(text.data, text.length, out, l->err);
    }
    return text.length > 0 ? ln_regex_literal(text.data, text.length, out, l->err) : LN_OK;
}

/* ---- normalizer --------------------------------------------------------------------------- */

/* Appends what base64 text (RFC 4648) stands for, into room that is there; 0 when it is none. */
static int decode_base64(ln_string text, ln_buffer *out) {
    static const char ALPHABET[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    uint32_t bits = 0;
    int n_bits = 0;
    size_t length = text.length;
    while (length > 0 && text.length - length < 2 && text.data[length - 1] == '=') {
        length--;
    }
    for (size_t i = 0; i < length; i++) {
        const char *place = memchr(ALPHABET, text.data[i], sizeof ALPHABET - 1);
        if (place == NULL) {
            return 0;
        }
        bits = bits << 6 | (uint32_t)(place - ALPHABET);
        n_bits += 6;
        if (n_bits >= 8) {
            n_bits -= 8;
            out->data[out->length++] = (char)(bits >> n_bits & 0xFF);
        }
    }
    return 1;
}

static ln_status load_charsmap(ln_json_loader *l, uint32_t node) {
    uint32_t table = ln_json_get(&l->json, node, "precompiled_charsmap");
    if (table == 0 || ln_json_type_of(&l->json, table) == LN_JSON_NULL || ln_json_is(&l->json, table, "")) {
        return LN_OK;
    }
    ln_string text;
    ln_status status = ln_json_text(l, table, "precompiled_charsmap", &text);
    l->other.length = 0;
    status = status == LN_OK ? ln_buffer_reserve(&l->other, text.length, l->err) : status;
    if (status != LN_OK) {
        return status;
    }
    if (!decode_base64(text, &l->other)) {
        return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: the precompiled_charsmap is not base64");
    }
    return ln_add_charsmap(l->tokenizer, LN_NORMAL_CLUSTERS, (ln_string){l->other.data, l->other.length}, l->err);
}

static ln_status load_bert_normalizer(ln_json_loader *l, uint32_t node) {
    int lowercase = ln_json_flag(l, node, "lowercase", 1);
    ln_bert_options options = {
        .clean_text = ln_json_flag(l, node, "clean_text", 1),
        .handle_chinese_chars = ln_json_flag(l, node, "handle_chinese_chars", 1),
        .strip_accents = ln_json_flag(l, node, "strip_accents", lowercase),
        .lowercase = lowercase,
    };
    return ln_add_bert_normalizer(l->tokenizer, options, l->err);
}

/* Steps that are nothing but their name. */
static const struct {
    const char *type;
    ln_normal_kind kind;
    int option;
} NORMALIZERS[] = {{"NFC", LN_NORMAL_NFC, 0},
                   {"NFD", LN_NORMAL_NFD, 0},
                   {"NFKC", LN_NORMAL_NFKC, 0},
                   {"NFKD", LN_NORMAL_NFKD, 0},
                   {"Lowercase", LN_NORMAL_LOWER, 0},
                   {"StripAccents", LN_NORMAL_DROP, LN_CLASS_MARK},
                   {"Nmt", LN_NORMAL_NMT, 0}};

static ln_status load_normal(ln_json_loader *l, uint32_t node) {
    ln_string text = {"", 0};
    for (size_t i = 0; i < sizeof NORMALIZERS / sizeof NORMALIZERS[0]; i++) {
        if (is_type(l, node, NORMALIZERS[i].type)) {
            return ln_add_normal_option(l->tokenizer, NORMALIZERS[i].kind, NORMALIZERS[i].option, l->err);
        }
    }
    if (is_type(l, node, "Strip")) {
        int sides = (ln_json_flag(l, node, "strip_left", 1) ? LN_STRIP_LEFT : 0) |
                    (ln_json_flag(l, node, "strip_right", 1) ? LN_STRIP_RIGHT : 0);
        return ln_add_normal_option(l->tokenizer, LN_NORMAL_STRIP, sides, l->err);
    }
    if (is_type(l, node, "Precompiled")) {
        return load_charsmap(l, node);
    }
    if (is_type(l, node, "BertNormalizer")) {
        return load_bert_normalizer(l, node);
    }
    if (is_type(l, node, "Prepend")) {
        ln_status status = step_text(l, node, "prepend", &text);
        return status == LN_OK ? ln_add_normal(l->tokenizer, LN_NORMAL_PREPEND, text, NULL, l->err) : status;
    }
    if (!is_type(l, node, "Replace")) {
        return unsupported(l, "normalizer", node);
    }
    ln_regex *regex;
    ln_status status = load_pattern(l, node, &regex);
    if (status != LN_OK || regex == NULL) {
        return status;
    }
    status = step_text(l, node, "content", &text);
    if (status != LN_OK) {
        ln_regex_free(regex);
        return status;
    }
    return ln_add_normal(l->tokenizer, LN_NORMAL_REPLACE, text, regex, l->err);
}

ln_status ln_load_json_normalizer(ln_json_loader *l) {
    return load_section(l, "normalizer", "normalizers", load_normal);
}

/* ---- pre-tokenizer ------------------------------------------------------------------------- */

/* \w as Rust's regex crate has it: no superscripts of Latin-1, but the joiners. */
#define RUST_WORD                                                                                              \
    "\\p{L}\\p{M}\\p{Nd}\\p{Nl}\\p{Pc}\\x{24B6}-\\x{24E9}\\x{1F130}-\\x{1F149}\\x{1F150}-\\x{1F169}"           \
    "\\x{1F170}-\\x{1F189}\\x{200C}\\x{200D}"

static ln_status load_behavior(ln_json_loader *l, uint32_t node, ln_split_behavior missing, ln_split_behavior *out) {
    static const struct {
        const char *name;
        ln_split_behavior behavior;
    } NAMES[] = {{"Isolated", LN_ISOLATED},
                 {"Removed", LN_REMOVED},
                 {"MergedWithPrevious", LN_MERGED_WITH_PREVIOUS},
                 {"MergedWithNext", LN_MERGED_WITH_NEXT},
                 {"Contiguous", LN_CONTIGUOUS}};
    uint32_t value = ln_json_get(&l->json, node, "behavior");
    *out = missing;
    if (value == 0) {
        return LN_OK;
    }
    for (size_t i = 0; i < sizeof NAMES / sizeof NAMES[0]; i++) {
        if (ln_json_is(&l->json, value, NAMES[i].name)) {
            *out = NAMES[i].behavior;
            return LN_OK;
        }
    }
    return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: a pre-tokenizer has an unknown behavior");
}

static ln_status load_split(ln_json_loader *l, uint32_t node) {
    ln_split_behavior behavior;
    ln_status status = load_behavior(l, node, LN_ISOLATED, &behavior);
    ln_regex *regex;
    status = status == LN_OK ? load_pattern(l, node, &regex) : status;
    if (status != LN_OK) {
        return status;
    }
    if (regex == NULL) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: a Split has an empty pattern");
    }
    return ln_add_split(l->tokenizer, regex, behavior, ln_json_flag(l, node, "invert", 0), l->err);
}

static ln_status load_byte_level(ln_json_loader *l, uint32_t node) {
    ln_tokenizer *t = l->tokenizer;
    ln_status status = LN_OK;
    if (ln_json_flag(l, node, "add_prefix_space", 1)) {
        status = ln_add_pre_step(t, LN_PRE_SPACE, l->err);
    }
    if (status == LN_OK && ln_json_flag(l, node, "use_regex", 1)) {
        status = ln_add_split_pattern(t, LN_GPT2_PATTERN, LN_ISOLATED, 0, l->err);
    }
    t->byte_level = 1;
    return status;
}

static ln_status load_metaspace(ln_json_loader *l, uint32_t node) {
    ln_string replacement = {LN_SPACE_SYMBOL, 3};
    ln_status status = LN_OK;
    if (ln_json_get(&l->json, node, "replacement") != 0) {
        status = step_text(l, node, "replacement", &replacement);
    }
    ln_prepend prepend = ln_json_flag(l, node, "add_prefix_space", 1) ? LN_PREPEND_ALWAYS : LN_PREPEND_NEVER;
    uint32_t scheme = ln_json_get(&l->json, node, "prepend_scheme");
    if (scheme != 0) {
        prepend = ln_json_is(&l->json, scheme, "always")  ? LN_PREPEND_ALWAYS
                  : ln_json_is(&l->json, scheme, "first") ? LN_PREPEND_FIRST
                                                          : LN_PREPEND_NEVER;
    }
    status = status == LN_OK ? ln_add_metaspace(l->tokenizer, replacement, prepend, l->err) : status;
    if (status != LN_OK || !ln_json_flag(l, node, "split", 1) || replacement.length == 0) {
        return status;
    }
    ln_regex *regex;
    status = ln_regex_literal(replacement.data, replacement.length, &regex, l->err);
    return status == LN_OK ? ln_add_split(l->tokenizer, regex, LN_MERGED_WITH_NEXT, 0, l->err) : status;
}

static ln_status load_split_step(ln_json_loader *l, uint32_t node) {
    ln_tokenizer *t = l->tokenizer;
    if (is_type(l, node, "Split")) {
        return load_split(l, node);
    }
    if (is_type(l, node, "Digits")) {
        int individual = ln_json_flag(l, node, "individual_digits", 0);
        return ln_add_split_pattern(t, LN_NUMBER_PATTERN, individual ? LN_ISOLATED : LN_CONTIGUOUS, 0, l->err);
    }
    if (is_type(l, node, "Whitespace")) {
        return ln_add_split_pattern(t, "[" RUST_WORD "]+|[^\\s" RUST_WORD "]+", LN_REMOVED, 1, l->err);
    }
    if (is_type(l, node, "WhitespaceSplit")) {
        return ln_add_split_pattern(t, "\\s", LN_REMOVED, 0, l->err);
    }
    if (is_type(l, node, "BertPreTokenizer")) {
        return ln_add_pre_step(t, LN_PRE_BERT, l->err);
    }
    if (is_type(l, node, "CharDelimiterSplit")) {
        ln_string delimiter;
        ln_regex *regex;
        ln_status status = step_text(l, node, "delimiter", &delimiter);
        status = status == LN_OK ? ln_regex_literal(delimiter.data, delimiter.length, &regex, l->err) : status;
        return status == LN_OK ? ln_add_split(t, regex, LN_REMOVED, 0, l->err) : status;
    }
    if (is_type(l, node, "Punctuation")) {
        ln_split_behavior behavior;
        ln_status status = load_behavior(l, node, LN_ISOLATED, &behavior);
        return status == LN_OK ? ln_add_split_pattern(t, "[!-/:-@\\[-`{-~\\p{P}]", behavior, 0, l->err) : status;
    }
    return unsupported(l, "pre-tokenizer", node);
}

static ln_status load_pre(ln_json_loader *l, uint32_t node) {
    ln_tokenizer *t = l->tokenizer;
    const int is_byte_level = is_type(l, node, "ByteLevel");
    const int is_metaspace = is_type(l, node, "Metaspace");
    if (is_byte_level && t->model != LN_MODEL_BPE) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: ByteLevel with a model that is not BPE");
    }
    if (t->byte_level && (is_byte_level || is_metaspace)) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: ByteLevel or Metaspace behind ByteLevel");
    }
    ln_status status = LN_OK;
    if (t->byte_level && !l->spelled) { /* what follows ByteLevel reads the characters that stand for bytes */
        status = ln_add_pre_step(t, LN_PRE_SPELL, l->err);
        l->spelled = 1;
    }
    if (status != LN_OK) {
        return status;
    }
    return is_byte_level ? load_byte_level(l, node) : is_metaspace ? load_metaspace(l, node) : load_split_step(l, node);
}

ln_status ln_load_json_pre_tokenizer(ln_json_loader *l) {
    ln_status status = load_section(l, "pre_tokenizer", "pretokenizers", load_pre);
    if (status == LN_OK && l->spelled) {
        status = ln_add_pre_step(l->tokenizer, LN_PRE_UNSPELL, l->err);
    }
    if (status != LN_OK) {
        return status;
    }
    if (l->tokenizer->byte_level && l->byte_fallback) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: ByteLevel together with byte_fallback");
    }
    if (!l->tokenizer->byte_level) {
        ln_finish_characters(l->tokenizer, l->byte_fallback);
        if (l->tokenizer->model == LN_MODEL_BPE) {
            ln_bpe_find_cuts(l->tokenizer);
        }
    }
    return LN_OK;
}

/* ---- decoder -------------------------------------------------------------------------------- */

/* Replaces a string in what every piece decodes to. */
static ln_status replace_in_pieces(ln_json_loader *l, ln_string from, ln_string to) {
    ln_vocab *vocab = &l->tokenizer->vocab;
    for (int32_t id = 0; id < vocab->n && from.length > 0; id++) {
        ln_piece *piece = &vocab->pieces[id];
        ln_string bytes = {vocab->pool.data + piece->bytes, piece->bytes_length};
        size_t changed = 0;
        l->joined.length = 0;
        ln_status status = LN_OK;
        /* Beyond max_pool the piece is refused below; it need not be built to its end. */
        for (size_t i = 0; i < bytes.length && l->joined.length <= vocab->max_pool && status == LN_OK;) {
            int matches = bytes.length - i >= from.length && memcmp(bytes.data + i, from.data, from.length) == 0;
            status = ln_buffer_append(&l->joined, matches ? to.data : bytes.data + i, matches ? to.length : 1, l->err);
            i += matches ? from.length : 1;
            changed += (size_t)matches;
        }
        if (status == LN_OK && changed > 0) {
            status = ln_vocab_set_bytes(vocab, id, l->joined.data, l->joined.length, l->err);
        }
        if (status != LN_OK) {
            return status;
        }
    }
    return LN_OK;
}

static ln_status load_replace_decoder(ln_json_loader *l, uint32_t node) {
    uint32_t pattern = ln_json_get(&l->json, node, "pattern");
    uint32_t string = pattern != 0 ? ln_json_get(&l->json, pattern, "String") : 0;
    if (string == 0) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: the decoder Replace with a regular expression");
    }
    ln_string from;
    ln_string to;
    ln_status status = ln_json_text(l, string, "the pattern of a decoder", &from);
    l->other.length = 0;
    status = status == LN_OK ? ln_buffer_append(&l->other, from.data, from.length, l->err) : status;
    status = status == LN_OK ? step_text(l, node, "content", &to) : status;
    from = (ln_string){l->other.data, l->other.length};
    return status == LN_OK ? replace_in_pieces(l, from, to) : status;
}

static ln_status decode_byte_pieces(ln_json_loader *l) {
    ln_vocab *vocab = &l->tokenizer->vocab;
    for (int32_t id = 0; id < vocab->n; id++) {
        int byte = ln_byte_piece(ln_vocab_text(vocab, id));
        if (byte >= 0) {
            char text = (char)byte;
            ln_status status = ln_vocab_set_bytes(vocab, id, &text, 1, l->err);
            if (status != LN_OK) {
                return status;
            }
        }
    }
    return LN_OK;
}

/* Spaces at the start of the whole text; nothing else that this step can do is streamed. */
static ln_status load_strip(ln_json_loader *l, uint32_t node) {
    const ln_json *json = &l->json;
    uint32_t content = ln_json_get(json, node, "content");
    uint32_t keys[2] = {ln_json_get(json, node, "start"), ln_json_get(json, node, "stop")};
    int32_t counts[2] = {0, 0};
    for (int i = 0; i < 2; i++) {
        if (keys[i] != 0 && (!ln_json_int(json, keys[i], &counts[i]) || counts[i] < 0)) {
            return ln_json_bad(l, "a Strip decoder has an impossible count");
        }
    }
    if (content == 0 || !ln_json_is(json, content, " ") || counts[1] > 0 || !l->fused) {
        return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: a Strip decoder that takes anything but spaces at the "
                                               "start of the text");
    }
    l->tokenizer->strip_left = (uint32_t)counts[0];
    return LN_OK;
}

static ln_status load_metaspace_decoder(ln_json_loader *l, uint32_t node) {
    ln_string replacement = {LN_SPACE_SYMBOL, 3};
    if (ln_json_get(&l->json, node, "replacement") != 0) {
        ln_status status = step_text(l, node, "replacement", &replacement);
        if (status != LN_OK) {
            return status;
        }
    }
    uint32_t scheme = ln_json_get(&l->json, node, "prepend_scheme");
    int prepends = scheme != 0 ? !ln_json_is(&l->json, scheme, "never") : ln_json_flag(l, node, "add_prefix_space", 1);
    l->tokenizer->strip_left = prepends ? 1 : 0;
    return replace_in_pieces(l, replacement, (ln_string){" ", 1});
}

static ln_status load_decoder(ln_json_loader *l, uint32_t node) {
    if (l->tokenizer->byte_level && is_type(l, node, "ByteLevel")) {
        return LN_OK; /* see ln_finish_byte_level */
    }
    if (is_type(l, node, "Replace")) {
        return load_replace_decoder(l, node);
    }
    if (is_type(l, node, "WordPiece")) {
        ln_string prefix = {"##", 2};
        ln_status status = LN_OK;
        if (ln_json_get(&l->json, node, "prefix") != 0) {
            status = step_text(l, node, "prefix", &prefix);
        }
        int cleanup = ln_json_flag(l, node, "cleanup", 1);
        return status == LN_OK ? ln_decode_wordpiece(l->tokenizer, prefix, cleanup, l->err) : status;
    }
    if (is_type(l, node, "ByteFallback")) {
        return decode_byte_pieces(l);
    }
    if (is_type(l, node, "Strip")) {
        return load_strip(l, node);
    }
    if (is_type(l, node, "Metaspace")) {
        return load_metaspace_decoder(l, node);
    }
    if (is_type(l, node, "Fuse")) {
        l->fused = 1;
        return LN_OK; /* pieces are always joined */
    }
    return unsupported(l, "decoder", node);
}

ln_status ln_load_json_decoder(ln_json_loader *l) {
    uint32_t decoder = ln_json_get(&l->json, 0, "decoder");
    ln_status status = LN_OK;
    if (l->tokenizer->byte_level) {
        status = ln_finish_byte_level(l->tokenizer, l->err);
    } else if (decoder == 0 || ln_json_type_of(&l->json, decoder) == LN_JSON_NULL) {
        status = ln_decode_apart(l->tokenizer, l->err);
    }
    return status == LN_OK ? load_section(l, "decoder", "decoders", load_decoder) : status;
}

/* ---- post-processor -------------------------------------------------------------------------- */

/* Id of the special token that an item of a template is; -1 where it is none. */
static int32_t template_token(ln_json_loader *l, uint32_t processor, uint32_t item) {
    const ln_json *json = &l->json;
    uint32_t token = ln_json_get(json, item, "SpecialToken");
    uint32_t name = token != 0 ? ln_json_get(json, token, "id") : 0;
    uint32_t table = ln_json_get(json, processor, "special_tokens");
    if (name == 0 || table == 0 || ln_json_type_of(json, table) != LN_JSON_OBJECT) {
        return -1;
    }
    const ln_json_node *wanted = &json->nodes[name];
    for (uint32_t k = ln_json_first(json, table); k != ln_json_end(json, table); k = ln_json_next(json, k + 1)) {
        const ln_json_node *key = &json->nodes[k];
        uint32_t ids = ln_json_get(json, k + 1, "ids");
        int same = key->length == wanted->length &&
                   memcmp(json->text + key->start, json->text + wanted->start, key->length) == 0;
        int32_t id;
        if (same && ids != 0 && ln_json_type_of(json, ids) == LN_JSON_ARRAY && json->nodes[ids].length > 0 &&
            ln_json_int(json, ids + 1, &id) && id >= 0 && id < l->tokenizer->vocab.n) {
            return id;
        }
    }
    return -1;
}

/* The special tokens of a template before its text and behind it. */
static ln_status load_template(ln_json_loader *l, uint32_t node) {
    const ln_json *json = &l->json;
    ln_tokenizer *t = l->tokenizer;
    uint32_t single = ln_json_child(l, node, "single", LN_JSON_ARRAY);
    if (single == 0) {
        return LN_OK;
    }
    int behind = 0;
    t->n_before = t->n_after = 0;
    for (uint32_t i = ln_json_first(json, single); i != ln_json_end(json, single); i = ln_json_next(json, i)) {
        int32_t id = template_token(l, node, i);
        behind |= ln_json_get(json, i, "Sequence") != 0;
        if (id < 0) {
            continue;
        }
        if ((behind ? t->n_after : t->n_before) == LN_MAX_TEMPLATE) {
            return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: a template of more than %d tokens on one side",
                           LN_MAX_TEMPLATE);
        }
        if (behind) {
            t->after[t->n_after++] = id;
        } else {
            t->before[t->n_before++] = id;
        }
    }
    return LN_OK;
}

/* What a template says of two texts; each has to be there once. */
static ln_status load_pair_template(ln_json_loader *l, uint32_t node) {
    const ln_json *json = &l->json;
    ln_tokenizer *t = l->tokenizer;
    uint32_t pair = ln_json_child(l, node, "pair", LN_JSON_ARRAY);
    int seen[2] = {0, 0};
    t->n_pair = 0;
    if (pair == 0) {
        return LN_OK;
    }
    for (uint32_t i = ln_json_first(json, pair); i != ln_json_end(json, pair); i = ln_json_next(json, i)) {
        uint32_t text = ln_json_get(json, i, "Sequence");
        uint32_t part = text != 0 ? text : ln_json_get(json, i, "SpecialToken");
        int is_second = text != 0 && ln_json_is(json, ln_json_get(json, text, "id"), "B");
        ln_pair_item item = {template_token(l, node, i), 0};
        if (text != 0) {
            item.id = is_second ? LN_PAIR_SECOND : LN_PAIR_FIRST;
            seen[is_second]++;
        } else if (item.id < 0) {
            continue;
        }
        uint32_t type = part != 0 ? ln_json_get(json, part, "type_id") : 0;
        if (type != 0 && (!ln_json_int(json, type, &item.type) || item.type < 0)) {
            return ln_fail(l->err, LN_BAD_FILE, "tokenizer.json: a type in the template of pairs makes no sense");
        }
        if (t->n_pair == LN_MAX_PAIR) {
            return ln_fail(l->err, LN_UNSUPPORTED, "tokenizer.json: a template of pairs of more than %d parts",
                           LN_MAX_PAIR);
        }
        t->pair[t->n_pair++] = item;
    }
    if (seen[0] != 1 || seen[1] != 1) { /* as good as none */
        t->n_pair = 0;
    }
    return LN_OK;
}

/* RobertaProcessing and BertProcessing: "cls" in front, "sep" behind, each [text, id]. */
static int32_t pair_id(const ln_json_loader *l, uint32_t node, const char *key) {
    uint32_t pair = ln_json_child(l, node, key, LN_JSON_ARRAY);
    int32_t id = -1;
    if (pair == 0 || l->json.nodes[pair].length != 2 || !ln_json_int(&l->json, ln_json_next(&l->json, pair + 1), &id)) {
        return -1;
    }
    return id < l->tokenizer->vocab.n ? id : -1;
}

static ln_status load_post(ln_json_loader *l, uint32_t node) {
    ln_tokenizer *t = l->tokenizer;
    if (is_type(l, node, "RobertaProcessing") || is_type(l, node, "BertProcessing")) {
        t->before[0] = pair_id(l, node, "cls");
        t->after[0] = pair_id(l, node, "sep");
        t->n_before = t->before[0] >= 0;
        t->n_after = t->after[0] >= 0;
        if (is_type(l, node, "RobertaProcessing") && t->before[0] >= 0 && t->after[0] >= 0) {
            const int32_t cls = t->before[0], sep = t->after[0];
            const int32_t ids[] = {cls, LN_PAIR_FIRST, sep, sep, LN_PAIR_SECOND, sep};
            for (t->n_pair = 0; t->n_pair < sizeof ids / sizeof ids[0]; t->n_pair++) {
                t->pair[t->n_pair] = (ln_pair_item){ids[t->n_pair], 0};
            }
        }
    } else if (is_type(l, node, "TemplateProcessing")) {
        ln_status status = load_template(l, node);
        status = status == LN_OK ? load_pair_template(l, node) : status;
        if (status != LN_OK) {
            return status;
        }
    } else {
        return is_type(l, node, "ByteLevel") ? LN_OK : unsupported(l, "post-processor", node); /* it moves offsets */
    }
    t->bos_id = t->n_before > 0 ? t->before[0] : -1;
    t->eos_id = t->n_after > 0 ? t->after[t->n_after - 1] : -1;
    t->add_bos = t->bos_id >= 0;
    return LN_OK;
}

ln_status ln_load_json_post_processor(ln_json_loader *l) {
    return load_section(l, "post_processor", "processors", load_post);
}
