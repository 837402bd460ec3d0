/* tokenizer.c - the public functions: open, describe, encode, decode, close. */
#include "tokenizer.h"

#include <stdlib.h>
#include <string.h>

#include "unicode.h"

#define MAX_TEXT ((size_t)1 << 28) /* offsets within a text are 32 bits, and steps may lengthen it */

/* ---- open and close ------------------------------------------------------------------- */

static void add_to_pair(ln_tokenizer *t, const int32_t *ids, size_t n, int32_t type) {
    for (size_t i = 0; i < n; i++) {
        t->pair[t->n_pair++] = (ln_pair_item){ids[i], type};
    }
}

/* Two texts where no template says how they are put together: each with what is behind every text. */
static void set_pair(ln_tokenizer *t) {
    add_to_pair(t, t->before, t->n_before, 0);
    add_to_pair(t, (int32_t[]){LN_PAIR_FIRST}, 1, 0);
    add_to_pair(t, t->after, t->n_after, 0);
    add_to_pair(t, &t->sep_id, t->sep_id >= 0, 0);
    add_to_pair(t, (int32_t[]){LN_PAIR_SECOND}, 1, 1);
    add_to_pair(t, t->after, t->n_after, 1);
}

typedef ln_status (*loader)(ln_tokenizer *tokenizer, const void *data, size_t size, ln_error *err);

static int32_t open_with(loader load, const void *data, size_t size, ln_tokenizer **out, ln_error *err) {
    if (out == NULL || (data == NULL && size > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a tokenizer is opened from nothing, or into nothing");
    }
    *out = NULL;
    if (size == 0) {
        return ln_fail(err, LN_BAD_FILE, "the tokenizer file is empty");
    }
    ln_tokenizer *tokenizer = ln_alloc(1, sizeof *tokenizer, "the tokenizer", err);
    if (tokenizer == NULL) {
        return LN_NO_MEMORY;
    }
    tokenizer->unk_id = tokenizer->bos_id = tokenizer->eos_id = tokenizer->sep_id = -1;
    ln_status status = load(tokenizer, data, size, err);
    status = status == LN_OK ? ln_vocab_check(&tokenizer->vocab, err) : status;
    status = status == LN_OK ? ln_merges_check(&tokenizer->merges, err) : status;
    if (status != LN_OK) {
        ln_tokenizer_close(tokenizer);
        return status;
    }
    if (tokenizer->n_pair == 0) {
        set_pair(tokenizer);
    }
    *out = tokenizer;
    return LN_OK;
}

int32_t ln_tokenizer_from_json(const void *data, size_t size, ln_tokenizer **out, ln_error *err) {
    return open_with(ln_load_json, data, size, out, err);
}

int32_t ln_tokenizer_from_gguf(const void *data, size_t size, ln_tokenizer **out, ln_error *err) {
    return open_with(ln_load_gguf, data, size, out, err);
}

void ln_tokenizer_close(ln_tokenizer *tokenizer) {
    if (tokenizer == NULL) {
        return;
    }
    ln_vocab_free(&tokenizer->vocab);
    ln_merges_free(&tokenizer->merges);
    ln_trie_free(&tokenizer->trie);
    free(tokenizer->scores);
    for (size_t i = 0; i < tokenizer->n_normal; i++) {
        ln_regex_free(tokenizer->normal[i].regex);
        ln_buffer_free(&tokenizer->normal[i].text);
        ln_charsmap_free(&tokenizer->normal[i].charsmap);
    }
    for (size_t i = 0; i < tokenizer->n_pre; i++) {
        ln_regex_free(tokenizer->pre[i].regex);
        ln_buffer_free(&tokenizer->pre[i].text);
    }
    ln_added_free(&tokenizer->added[0]);
    ln_added_free(&tokenizer->added[1]);
    free(tokenizer);
}

int32_t ln_tokenizer_describe(const ln_tokenizer *tokenizer, ln_tokenizer_info *out) {
    if (tokenizer == NULL || out == NULL) {
        return LN_BAD_ARGUMENT;
    }
    *out = (ln_tokenizer_info){
        .vocab_size = tokenizer->vocab.n,
        .bos_id = tokenizer->bos_id,
        .eos_id = tokenizer->eos_id,
        .add_bos = tokenizer->add_bos,
        .add_eos = tokenizer->n_after > 0 && tokenizer->after[tokenizer->n_after - 1] == tokenizer->eos_id,
    };
    static const char *const KINDS[] = {"spm", "unigram", "wordpiece", "wordlevel"};
    const char *kind = tokenizer->byte_level ? "bpe" : KINDS[tokenizer->model];
    memcpy(out->kind, kind, strlen(kind) + 1);
    return LN_OK;
}

/* ---- encode ---------------------------------------------------------------------------- */

static ln_status encode_given(ln_encoder *e, ln_string text, int at_start) {
    ln_string normal;
    e->bare = at_start && e->inside;
    at_start = at_start && !e->inside;
    ln_status status = ln_normalize(e, text, &normal);
    return status == LN_OK ? ln_added_split(e, &e->tokenizer->added[1], normal, at_start, ln_pretokenize) : status;
}

ln_encoder ln_encoder_open(const ln_tokenizer *tokenizer, size_t n_bytes, ln_error *err) {
    /* Real patterns take about ten steps per byte, more where they look at a run of white space
     * from each of its places; real steps make no more than three bytes of one. */
    return (ln_encoder){
        .tokenizer = tokenizer,
        .regex = {.budget = 20000000 + (uint64_t)n_bytes * 256 * (tokenizer->n_pre + tokenizer->n_normal + 1)},
        .max_text = n_bytes < MAX_TEXT / 4 ? 65536 + 16 * n_bytes : 4 * MAX_TEXT,
        .err = err,
    };
}

void ln_encoder_close(ln_encoder *e) {
    ln_regex_scratch_free(&e->regex);
    ln_buffer_free(&e->normal[0]);
    ln_buffer_free(&e->normal[1]);
    for (size_t i = 0; i < LN_MAX_STEPS; i++) {
        ln_buffer_free(&e->pre[i]);
    }
    ln_buffer_free(&e->symbols);
    ln_buffer_free(&e->heap);
}

static void emit_all(ln_encoder *e, const int32_t *ids, size_t n) {
    for (size_t i = 0; i < n; i++) {
        ln_encoder_emit(e, ids[i]);
    }
}

int32_t ln_tokenizer_encode(const ln_tokenizer *tokenizer, const char *text, size_t n_bytes, uint32_t flags,
                            int32_t *ids, int64_t capacity, int64_t *n_ids, ln_error *err) {
    if (tokenizer == NULL || n_ids == NULL || (text == NULL && n_bytes > 0) || (ids == NULL && capacity > 0) ||
        capacity < 0) {
        return ln_fail(err, LN_BAD_ARGUMENT, "encode needs a tokenizer, a text and room for the ids");
    }
    *n_ids = 0;
    if (n_bytes > MAX_TEXT) {
        return ln_fail(err, LN_BAD_ARGUMENT, "the text is longer than %zu bytes; encode it in parts", MAX_TEXT);
    }
    ln_buffer repaired = {0};
    ln_string input = {text, n_bytes};
    ln_status status = LN_OK;
    if (n_bytes > 0 && ln_utf8_valid_prefix(text, n_bytes) != n_bytes) {
        status = ln_utf8_repair(text, n_bytes, &repaired, err);
        input = (ln_string){repaired.data, repaired.length};
    }
    ln_encoder e = ln_encoder_open(tokenizer, n_bytes, err);
    e.with_special = (flags & LN_ENCODE_SPECIAL) != 0;
    e.inside = (flags & LN_ENCODE_INSIDE) != 0;
    e.ids = ids;
    e.capacity = capacity;
    int framed = (flags & LN_ENCODE_FRAMED) != 0;
    emit_all(&e, tokenizer->before, framed ? tokenizer->n_before : 0);
    if (status == LN_OK && n_bytes > 0) {
        status = ln_added_split(&e, &tokenizer->added[0], input, 1, encode_given);
    }
    emit_all(&e, tokenizer->after, framed ? tokenizer->n_after : 0);
    ln_encoder_close(&e);
    ln_buffer_free(&repaired);
    *n_ids = status == LN_OK ? e.n_ids : 0;
    return status;
}

int32_t ln_tokenizer_pair(const ln_tokenizer *tokenizer, const int32_t *first, int64_t n_first, const int32_t *second,
                          int64_t n_second, int32_t *ids, int32_t *types, int64_t capacity, int64_t *n_ids,
                          ln_error *err) {
    if (tokenizer == NULL || n_ids == NULL || n_first < 0 || n_second < 0 || (first == NULL && n_first > 0) ||
        (second == NULL && n_second > 0) || capacity < 0 || ((ids == NULL || types == NULL) && capacity > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "a pair needs a tokenizer, two texts and room for ids and types");
    }
    *n_ids = 0;
    for (size_t i = 0; i < tokenizer->n_pair; i++) {
        const ln_pair_item *item = &tokenizer->pair[i];
        const int is_first = item->id == LN_PAIR_FIRST;
        const int32_t *from = item->id >= 0 ? &item->id : is_first ? first : second;
        const int64_t n = item->id >= 0 ? 1 : is_first ? n_first : n_second;
        for (int64_t j = 0; j < n; j++, ++*n_ids) {
            if (*n_ids < capacity) {
                ids[*n_ids] = from[j];
                types[*n_ids] = item->type;
            }
        }
    }
    return LN_OK;
}

int32_t ln_tokenizer_added(const ln_tokenizer *tokenizer, int32_t *ids, int64_t capacity, int64_t *n_ids) {
    if (tokenizer == NULL || n_ids == NULL || capacity < 0 || (ids == NULL && capacity > 0)) {
        return LN_BAD_ARGUMENT;
    }
    *n_ids = 0;
    for (int set = 0; set < 2; set++) {
        for (uint32_t i = 0; i < tokenizer->added[set].n; i++, ++*n_ids) {
            if (*n_ids < capacity) {
                ids[*n_ids] = tokenizer->added[set].tokens[i].id;
            }
        }
    }
    return LN_OK;
}

/* ---- decode ---------------------------------------------------------------------------- */

int32_t ln_tokenizer_decode(const ln_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids, uint32_t flags,
                            int32_t at_start, char *text, int64_t capacity, int64_t *n_bytes, ln_error *err) {
    if (tokenizer == NULL || n_bytes == NULL || n_ids < 0 || capacity < 0 || (ids == NULL && n_ids > 0) ||
        (text == NULL && capacity > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "decode needs a tokenizer, ids and room for the text");
    }
    *n_bytes = 0;
    const ln_vocab *vocab = &tokenizer->vocab;
    int64_t written = 0;
    uint32_t strip = at_start ? tokenizer->strip_left : 0;
    for (int64_t i = 0; i < n_ids; i++) {
        if (ids[i] < 0 || ids[i] >= vocab->n) {
            return ln_fail(err, LN_BAD_ARGUMENT, "token id %d is outside the vocabulary of %d", ids[i], vocab->n);
        }
        const ln_piece *piece = &vocab->pieces[ids[i]];
        if ((piece->flags & LN_PIECE_SPECIAL) && !(flags & LN_DECODE_SPECIAL)) {
            continue;
        }
        const char *bytes = vocab->pool.data + piece->bytes;
        int64_t length = piece->bytes_length;
        while (strip > 0 && length > 0 && *bytes == ' ') {
            strip--;
            bytes++;
            length--;
        }
        strip = length > 0 ? 0 : strip;
        int64_t room = written < capacity ? capacity - written : 0;
        int64_t copied = length < room ? length : room;
        if (copied > 0) {
            memcpy(text + written, bytes, (size_t)copied);
        }
        written += length;
    }
    *n_bytes = written;
    return LN_OK;
}
