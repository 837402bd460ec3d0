/* load_gguf.c - a tokenizer from the metadata of a GGUF file.
 *
 * The keys are those of the GGUF specification
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md): tokenizer.huggingface.json
 * where it is embedded, else tokenizer.ggml.*.
 */
#include "gguf.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "pre_tokenizers.h"
#include "tokenizer.h"
#include "unicode.h"

#define MAX_SCORED_LENGTH 256 /* bytes of a piece with a score: every way to split it is tried */

/* tokenizer.ggml.token_type */
enum { TYPE_NORMAL = 1, TYPE_UNKNOWN = 2, TYPE_CONTROL = 3, TYPE_USER_DEFINED = 4, TYPE_UNUSED = 5, TYPE_BYTE = 6 };

typedef struct gguf_loader {
    ln_gguf gguf;
    ln_tokenizer *tokenizer;
    ln_gguf_array tokens;
    ln_gguf_array types;
    int byte_level;
    int wordpiece;
    size_t size; /* of the file */
    ln_buffer scratch;
    ln_error *err;
} gguf_loader;

static int32_t type_of(const gguf_loader *l, int32_t id) {
    return l->types.length > 0 ? ln_gguf_array_i32(&l->types, (uint64_t)id) : TYPE_NORMAL;
}

/* ---- pieces --------------------------------------------------------------------------- */

/* The array called key, which has one element for each token, or none where it may be absent. */
static ln_status token_array(gguf_loader *l, const char *key, ln_gguf_type type, int required, ln_gguf_array *out) {
    ln_status status = required ? ln_gguf_require(&l->gguf, key, l->err) : LN_OK;
    status = status == LN_OK ? ln_gguf_array_of(&l->gguf, key, type, out, l->err) : status;
    if (status == LN_OK && (required || out->length > 0) && out->length != l->tokens.length) {
        return ln_fail(l->err, LN_BAD_FILE, "the GGUF file has %.0f tokens, but %.0f values in %s",
                       (double)l->tokens.length, (double)out->length, key);
    }
    return status;
}

static ln_status set_decoded_text(gguf_loader *l, int32_t id, int32_t type, ln_string text) {
    ln_vocab *vocab = &l->tokenizer->vocab;
    int byte = type == TYPE_BYTE ? ln_byte_piece(text) : -1;
    if (byte >= 0) {
        char decoded = (char)byte;
        return ln_vocab_set_bytes(vocab, id, &decoded, 1, l->err);
    }
    if (l->byte_level || l->wordpiece || type == TYPE_USER_DEFINED || type == TYPE_CONTROL || text.length > MAX_SCORED_LENGTH) {
        return LN_OK;
    }
    char decoded[MAX_SCORED_LENGTH];
    size_t n = 0;
    for (size_t i = 0; i < text.length;) {
        int is_space = text.length - i >= 3 && memcmp(text.data + i, LN_SPACE_SYMBOL, 3) == 0;
        decoded[n++] = is_space ? ' ' : text.data[i];
        i += is_space ? 3 : 1;
    }
    return n < text.length ? ln_vocab_set_bytes(vocab, id, decoded, n, l->err) : LN_OK;
}

static ln_status add_piece(gguf_loader *l, int32_t id, ln_string text) {
    int32_t type = type_of(l, id);
    int special = type == TYPE_CONTROL || type == TYPE_UNKNOWN;
    if (ln_utf8_valid_prefix(text.data, text.length) != text.length) {
        return ln_fail(l->err, LN_BAD_FILE, "token %d of the GGUF file is not UTF-8", id);
    }
    uint32_t flags = special ? LN_PIECE_SPECIAL : LN_PIECE_MODEL;
    flags |= type == TYPE_USER_DEFINED ? LN_PIECE_LITERAL : 0;
    flags |= type == TYPE_NORMAL ? 0 : LN_PIECE_APART;
    int first; /* a text that occurs twice is encoded as the first */
    ln_status status = ln_vocab_add(&l->tokenizer->vocab, id, text, flags, &first, l->err);
    status = status == LN_OK ? set_decoded_text(l, id, type, text) : status;
    if (status == LN_OK && (special || type == TYPE_USER_DEFINED)) {
        ln_added_token token = {.id = id, .special = (uint8_t)special};
        status = ln_added_add(&l->tokenizer->added[0], token, text, l->err);
    }
    if (type == TYPE_UNKNOWN && l->tokenizer->unk_id < 0) {
        l->tokenizer->unk_id = id;
    }
    return status;
}

/* GGUF marks the WordPiece pieces that begin a word with U+2581, BERT those that do not with ##; ours are BERT's. */
static ln_status as_bert_writes(gguf_loader *l, int32_t id, ln_string *text) {
    if (!l->wordpiece || type_of(l, id) != TYPE_NORMAL) {
        return LN_OK;
    }
    int first = text->length >= 3 && memcmp(text->data, LN_SPACE_SYMBOL, 3) == 0;
    size_t skipped = first ? 3 : 0;
    l->scratch.length = 0;
    ln_status status = ln_buffer_append(&l->scratch, "##", first ? 0 : 2, l->err);
    status = status == LN_OK ? ln_buffer_append(&l->scratch, text->data + skipped, text->length - skipped, l->err) : status;
    *text = (ln_string){l->scratch.data, l->scratch.length};
    return status;
}

static ln_status load_pieces(gguf_loader *l) {
    ln_status status = ln_gguf_require(&l->gguf, "tokenizer.ggml.tokens", l->err);
    if (status == LN_OK) {
        status = ln_gguf_array_of(&l->gguf, "tokenizer.ggml.tokens", LN_GGUF_STRING, &l->tokens, l->err);
    }
    if (status == LN_OK && (l->tokens.length == 0 || l->tokens.length > INT32_MAX / 2)) {
        return ln_fail(l->err, LN_BAD_FILE, "the GGUF file has %.0f tokens", (double)l->tokens.length);
    }
    status = status == LN_OK ? token_array(l, "tokenizer.ggml.token_type", LN_GGUF_I32, 0, &l->types) : status;
    if (status != LN_OK) {
        return status;
    }
    int32_t n = (int32_t)l->tokens.length;
    status = ln_vocab_open(n, (size_t)n, l->size, &l->tokenizer->vocab, l->err);
    ln_gguf_array cursor = l->tokens;
    for (int32_t id = 0; id < n && status == LN_OK; id++) {
        ln_string text;
        if (!ln_gguf_array_next(&cursor, &text)) {
            return ln_fail(l->err, LN_BAD_FILE, "the tokens of the GGUF file end at %d of %d", id, n);
        }
        status = as_bert_writes(l, id, &text);
        status = status == LN_OK ? add_piece(l, id, text) : status;
    }
    return status == LN_OK ? ln_added_finish(&l->tokenizer->added[0], l->err) : status;
}

static ln_status load_special_id(gguf_loader *l, const char *key, int32_t *id) {
    ln_status status = ln_gguf_i32(&l->gguf, key, id, l->err);
    if (status == LN_OK && *id >= l->tokenizer->vocab.n) {
        return ln_fail(l->err, LN_BAD_FILE, "%s is %d, but there are %d tokens", key, *id, l->tokenizer->vocab.n);
    }
    *id = *id < 0 ? -1 : *id;
    return status;
}

static ln_status load_unknown_id(gguf_loader *l) {
    return load_special_id(l, "tokenizer.ggml.unknown_token_id", &l->tokenizer->unk_id);
}

/* ---- byte-level BPE --------------------------------------------------------------------- */

static ln_status load_merges(gguf_loader *l) {
    ln_gguf_array merges;
    ln_status status = ln_gguf_require(&l->gguf, "tokenizer.ggml.merges", l->err);
    if (status == LN_OK) {
        status = ln_gguf_array_of(&l->gguf, "tokenizer.ggml.merges", LN_GGUF_STRING, &merges, l->err);
    }
    if (status != LN_OK) {
        return status;
    }
    status = ln_merges_open((size_t)merges.length, &l->tokenizer->merges, l->err);
    ln_buffer joined = {0};
    ln_string text;
    for (size_t rank = 0; status == LN_OK && ln_gguf_array_next(&merges, &text); rank++) {
        const char *space = text.length > 1 ? memchr(text.data + 1, ' ', text.length - 1) : NULL;
        if (space == NULL) {
            status = ln_fail(l->err, LN_BAD_FILE, "merge %zu of the GGUF file is not a pair of tokens", rank);
            break;
        }
        ln_string left = {text.data, (size_t)(space - text.data)};
        ln_string right = {space + 1, text.length - left.length - 1};
        status = ln_add_merge(l->tokenizer, rank, left, right, &joined, l->err);
    }
    ln_buffer_free(&joined);
    return status;
}

static ln_status load_byte_level(gguf_loader *l) {
    ln_tokenizer *t = l->tokenizer;
    ln_string name = {"default", 7};
    ln_status status = ln_gguf_string(&l->gguf, "tokenizer.ggml.pre", &name, l->err);
    status = status == LN_OK ? ln_add_named_pre_tokenizer(t, name, l->err) : status;
    status = status == LN_OK ? load_merges(l) : status;
    t->byte_level = 1;
    return status == LN_OK ? ln_finish_byte_level(t, l->err) : status;
}

/* ---- SentencePiece BPE ------------------------------------------------------------------- */

typedef struct scored_piece {
    float score;
    int32_t id;
} scored_piece;

static int by_score(const void *a, const void *b) {
    const scored_piece *x = a;
    const scored_piece *y = b;
    if (x->score != y->score) {
        return x->score > y->score ? -1 : 1;
    }
    return x->id < y->id ? -1 : 1;
}

/* Adds every merge of two pieces into this one. */
static ln_status add_splits(gguf_loader *l, int32_t id, uint32_t rank, ln_buffer *merges) {
    const ln_vocab *vocab = &l->tokenizer->vocab;
    ln_string text = ln_vocab_text(vocab, id);
    if (text.length > MAX_SCORED_LENGTH) {
        return ln_fail(l->err, LN_UNSUPPORTED, "token %d of the GGUF file is longer than %d bytes", id,
                       MAX_SCORED_LENGTH);
    }
    for (size_t i = text.length > 0 ? ln_utf8_length(text.data[0]) : 1; i < text.length;
         i += ln_utf8_length(text.data[i])) {
        ln_merge merge = {.rank = rank, .id = id};
        merge.left = ln_vocab_find(vocab, text.data, i);
        merge.right = merge.left >= 0 ? ln_vocab_find(vocab, text.data + i, text.length - i) : -1;
        if (merge.right >= 0) {
            ln_status status = ln_buffer_append(merges, (const char *)&merge, sizeof merge, l->err);
            if (status != LN_OK) {
                return status;
            }
        }
    }
    return LN_OK;
}

/* SentencePiece joins the neighbours whose piece has the best score: the rank of a merge is
 * the place of its piece among the scores, the same for equal scores. */
static ln_status rank_splits(gguf_loader *l, scored_piece *pieces, int32_t n, ln_buffer *merges) {
    qsort(pieces, (size_t)n, sizeof *pieces, by_score);
    uint32_t rank = 0;
    for (int32_t i = 0; i < n; i++) {
        rank += i > 0 && pieces[i].score != pieces[i - 1].score;
        const ln_piece *piece = &l->tokenizer->vocab.pieces[pieces[i].id];
        int merged = (piece->flags & LN_PIECE_MODEL) && type_of(l, pieces[i].id) != TYPE_BYTE;
        ln_status status = merged ? add_splits(l, pieces[i].id, rank, merges) : LN_OK;
        if (status != LN_OK) {
            return status;
        }
    }
    return LN_OK;
}

static ln_status merges_from_scores(gguf_loader *l) {
    ln_gguf_array scores;
    ln_status status = token_array(l, "tokenizer.ggml.scores", LN_GGUF_F32, 1, &scores);
    if (status != LN_OK) {
        return status;
    }
    int32_t n = l->tokenizer->vocab.n;
    scored_piece *pieces = ln_alloc((size_t)n, sizeof *pieces, "the scores", l->err);
    if (pieces == NULL) {
        return LN_NO_MEMORY;
    }
    for (int32_t id = 0; id < n && status == LN_OK; id++) {
        pieces[id] = (scored_piece){ln_gguf_array_f32(&scores, (uint64_t)id), id};
        if (isnan(pieces[id].score)) {
            status = ln_fail(l->err, LN_BAD_FILE, "the score of token %d of the GGUF file is no number", id);
        }
    }
    ln_buffer merges = {0};
    status = status == LN_OK ? rank_splits(l, pieces, n, &merges) : status;
    free(pieces);
    size_t n_merges = merges.length / sizeof(ln_merge);
    status = status == LN_OK ? ln_merges_open(n_merges, &l->tokenizer->merges, l->err) : status;
    for (size_t i = 0; i < n_merges && status == LN_OK; i++) {
        ln_merge merge;
        memcpy(&merge, merges.data + i * sizeof merge, sizeof merge);
        status = ln_merges_add(&l->tokenizer->merges, merge, l->err);
    }
    ln_buffer_free(&merges);
    return status;
}

/* What the file says about SentencePiece's normalizer; squeeze: where it says nothing about extra spaces. */
static ln_status load_sentencepiece_steps(gguf_loader *l, int squeeze) {
    ln_tokenizer *t = l->tokenizer;
    ln_string symbol = {LN_SPACE_SYMBOL, 3};
    ln_gguf_array table;
    int prefix = 1;
    ln_status status =
        ln_gguf_array_of(&l->gguf, "tokenizer.ggml.precompiled_charsmap", LN_GGUF_U8, &table, l->err);
    status = status == LN_OK ? ln_gguf_bool(&l->gguf, "tokenizer.ggml.add_space_prefix", &prefix, l->err) : status;
    status =
        status == LN_OK ? ln_gguf_bool(&l->gguf, "tokenizer.ggml.remove_extra_whitespaces", &squeeze, l->err) : status;
    if (status == LN_OK && table.length > 0) {
        ln_string bytes = {(const char *)table.data, (size_t)table.length};
        status = ln_add_charsmap(t, LN_NORMAL_CHARSMAP, bytes, l->err);
    }
    if (status == LN_OK && squeeze) {
        status = ln_add_normal_option(t, LN_NORMAL_SQUEEZE, 0, l->err);
    }
    if (status == LN_OK && prefix) {
        status = ln_add_normal(t, LN_NORMAL_PREPEND, symbol, NULL, l->err);
    }
    ln_regex *space = NULL;
    status = status == LN_OK ? ln_regex_literal(" ", 1, &space, l->err) : status;
    t->strip_left = prefix ? 1 : 0;
    return status == LN_OK ? ln_add_normal(t, LN_NORMAL_REPLACE, symbol, space, l->err) : status;
}

static ln_status load_sentencepiece(gguf_loader *l) {
    ln_tokenizer *t = l->tokenizer;
    ln_status status = load_sentencepiece_steps(l, 0);
    status = status == LN_OK ? load_unknown_id(l) : status;
    t->fuse_unk = 1;
    status = status == LN_OK ? merges_from_scores(l) : status;
    if (status == LN_OK) {
        ln_finish_characters(t, 1);
        ln_bpe_find_cuts(t);
    }
    return status;
}

/* ---- unigram -------------------------------------------------------------------------------- */

static ln_status load_scores(gguf_loader *l, double *lowest) {
    ln_tokenizer *t = l->tokenizer;
    ln_gguf_array scores;
    ln_status status = token_array(l, "tokenizer.ggml.scores", LN_GGUF_F32, 1, &scores);
    t->scores = status == LN_OK ? ln_alloc((size_t)t->vocab.n, sizeof *t->scores, "the scores", l->err) : NULL;
    if (t->scores == NULL) {
        return status == LN_OK ? LN_NO_MEMORY : status;
    }
    *lowest = INFINITY;
    for (int32_t id = 0; id < t->vocab.n; id++) {
        t->scores[id] = (double)ln_gguf_array_f32(&scores, (uint64_t)id);
        if (!isfinite(t->scores[id])) {
            return ln_fail(l->err, LN_BAD_FILE, "the score of token %d of the GGUF file is no number", id);
        }
        *lowest = type_of(l, id) == TYPE_NORMAL && t->scores[id] < *lowest ? t->scores[id] : *lowest;
    }
    *lowest = isfinite(*lowest) ? *lowest : 0;
    return LN_OK;
}

static ln_status load_unigram(gguf_loader *l) {
    ln_tokenizer *t = l->tokenizer;
    double lowest = 0;
    t->model = LN_MODEL_UNIGRAM;
    t->float_scores = 1;
    ln_status status = load_sentencepiece_steps(l, 1);
    status = status == LN_OK ? load_unknown_id(l) : status;
    status = status == LN_OK ? load_scores(l, &lowest) : status;
    status = status == LN_OK ? ln_finish_trie(t, l->err) : status;
    if (status == LN_OK) {
        ln_finish_characters(t, 1);
        ln_unigram_finish(t, lowest);
    }
    return status;
}

/* ---- WordPiece -------------------------------------------------------------------------------- */

/* GGUF does not say whether a vocabulary has case: one without a capital letter in any piece has none. */
static int has_case(const gguf_loader *l) {
    for (int32_t id = 0; id < l->tokenizer->vocab.n; id++) {
        ln_string text = ln_vocab_text(&l->tokenizer->vocab, id);
        size_t skipped = text.length > 2 && memcmp(text.data, "##", 2) == 0 ? 2 : 0;
        int bracketed = skipped < text.length && text.data[skipped] == '[';
        for (size_t i = skipped; type_of(l, id) == TYPE_NORMAL && !bracketed && i < text.length; i++) {
            if (text.data[i] >= 'A' && text.data[i] <= 'Z') {
                return 1;
            }
        }
    }
    return 0;
}

static ln_status load_wordpiece(gguf_loader *l) {
    ln_tokenizer *t = l->tokenizer;
    int lowercase = !has_case(l);
    ln_bert_options options = {
        .clean_text = 1, .handle_chinese_chars = 1, .strip_accents = lowercase, .lowercase = lowercase};
    t->model = LN_MODEL_WORDPIECE;
    t->max_word_characters = 100;
    ln_status status = ln_add_bert_normalizer(t, options, l->err);
    status = status == LN_OK ? ln_add_pre_step(t, LN_PRE_BERT, l->err) : status;
    status = status == LN_OK ? load_unknown_id(l) : status;
    status = status == LN_OK ? ln_finish_trie(t, l->err) : status;
    status = status == LN_OK ? ln_decode_wordpiece(t, (ln_string){"##", 2}, 1, l->err) : status;
    if (status == LN_OK) {
        ln_wordpiece_finish(t, (ln_string){"", 0}, (ln_string){"##", 2});
    }
    return status;
}

/* ---- the whole file ------------------------------------------------------------------------ */

/* The tokens around a text: BOS in front (or more, where a template has them), and EOS behind. */
static void set_frame(ln_tokenizer *t, int add_eos) {
    if (!t->add_bos) {
        t->n_before = 0;
    } else if (t->n_before == 0) {
        t->before[t->n_before++] = t->bos_id;
    }
    if (!add_eos) {
        t->n_after = 0;
    } else if (t->n_after == 0) {
        t->after[t->n_after++] = t->eos_id;
    }
}

/* What the GGUF file says about BOS and EOS goes before what a tokenizer.json says. */
static ln_status load_special_ids(gguf_loader *l) {
    ln_tokenizer *t = l->tokenizer;
    int framed = t->model == LN_MODEL_WORDPIECE;
    int add_eos = t->n_after > 0 || (framed && t->n_before == 0);
    int32_t sep_id = -1;
    t->add_bos = t->add_bos || framed;
    ln_status status = load_special_id(l, "tokenizer.ggml.cls_token_id", framed ? &t->bos_id : &(int32_t){-1});
    status = status == LN_OK ? load_special_id(l, "tokenizer.ggml.seperator_token_id",
                                               framed ? &t->eos_id : &(int32_t){-1})
                             : status;
    status = status == LN_OK ? load_special_id(l, "tokenizer.ggml.bos_token_id", &t->bos_id) : status;
    status = status == LN_OK ? load_special_id(l, "tokenizer.ggml.eos_token_id", &t->eos_id) : status;
    status = status == LN_OK ? ln_gguf_bool(&l->gguf, "tokenizer.ggml.add_bos_token", &t->add_bos, l->err) : status;
    status = status == LN_OK ? ln_gguf_bool(&l->gguf, "tokenizer.ggml.add_eos_token", &add_eos, l->err) : status;
    status = status == LN_OK ? load_special_id(l, "tokenizer.ggml.seperator_token_id", &sep_id) : status;
    /* A separator that is named, and is what ends a text, stands between two texts besides; but BERT's does not. */
    int add_sep = add_eos && !framed && sep_id >= 0 && sep_id == t->eos_id;
    if (status == LN_OK && add_sep) {
        status = ln_gguf_bool(&l->gguf, "tokenizer.ggml.add_sep_token", &add_sep, l->err);
    }
    t->sep_id = add_sep ? sep_id : -1;
    t->add_bos = t->add_bos && t->bos_id >= 0;
    set_frame(t, add_eos && t->eos_id >= 0);
    return status;
}

/* The kinds of tokenizer.ggml.model. */
static const struct {
    const char *name;
    ln_status (*load)(gguf_loader *l);
    int byte_level;
    int wordpiece;
    int add_bos; /* where the file does not say */
} MODELS[] = {{"gpt2", load_byte_level, 1, 0, 0},
              {"llama", load_sentencepiece, 0, 0, 1},
              {"t5", load_unigram, 0, 0, 0},
              {"bert", load_wordpiece, 0, 1, 1}};

static ln_status load_ggml(gguf_loader *l) {
    ln_string model = {"", 0};
    ln_status status = ln_gguf_require(&l->gguf, "tokenizer.ggml.model", l->err);
    status = status == LN_OK ? ln_gguf_string(&l->gguf, "tokenizer.ggml.model", &model, l->err) : status;
    if (status != LN_OK) {
        return status;
    }
    size_t i = 0;
    while (i < sizeof MODELS / sizeof MODELS[0] && !ln_string_is(model, MODELS[i].name)) {
        i++;
    }
    if (i == sizeof MODELS / sizeof MODELS[0]) {
        return ln_fail(l->err, LN_UNSUPPORTED,
                       "the tokenizer '%.*s' is not supported; 'gpt2', 'llama', 't5' and 'bert' are",
                       LN_STRING_ARGS(model));
    }
    l->byte_level = MODELS[i].byte_level;
    l->wordpiece = MODELS[i].wordpiece;
    l->tokenizer->add_bos = MODELS[i].add_bos;
    status = load_pieces(l);
    return status == LN_OK ? MODELS[i].load(l) : status;
}

ln_status ln_load_gguf(ln_tokenizer *tokenizer, const void *data, size_t size, ln_error *err) {
    gguf_loader l = {.tokenizer = tokenizer, .size = size, .err = err};
    ln_status status = ln_gguf_open(data, size, &l.gguf, err);
    if (status != LN_OK) {
        return status;
    }
    ln_string json = {"", 0};
    status = ln_gguf_string(&l.gguf, "tokenizer.huggingface.json", &json, err);
    if (status == LN_OK) {
        status = json.length > 0 ? ln_load_json(tokenizer, json.data, json.length, err) : load_ggml(&l);
    }
    status = status == LN_OK ? load_special_ids(&l) : status;
    ln_gguf_close(&l.gguf);
    ln_buffer_free(&l.scratch);
    return status;
}
