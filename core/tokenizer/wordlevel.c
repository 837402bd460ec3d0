/* wordlevel.c - every word is one token. */
#include "tokenizer.h"

ln_status ln_wordlevel_encode(ln_encoder *e, const char *word, size_t length) {
    const ln_tokenizer *t = e->tokenizer;
    int32_t id = ln_vocab_find(&t->vocab, word, length);
    id = id >= 0 ? id : t->unk_id;
    if (id < 0) {
        int shown = length < 60 ? (int)length : 60;
        return ln_fail(e->err, LN_UNSUPPORTED, "the word '%.*s' is not in the vocabulary, which has no unknown token",
                       shown, word);
    }
    ln_encoder_emit(e, id);
    return LN_OK;
}
