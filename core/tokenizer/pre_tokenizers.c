/* pre_tokenizers.c - the pre-tokenizers that GGUF files name in tokenizer.ggml.pre. */
#include "pre_tokenizers.h"

#include <string.h>

#include "pre_tokenizer_table.h"

/* Whether name is one of the words of names. */
static int is_one_of(ln_string name, const char *names) {
    while (*names != '\0') {
        size_t length = strcspn(names, " ");
        if (length == name.length && memcmp(names, name.data, length) == 0) {
            return 1;
        }
        names += length;
        names += *names == ' ';
    }
    return 0;
}

static ln_status add_steps(ln_tokenizer *t, const named_pre_tokenizer *entry, ln_error *err) {
    ln_status status = LN_OK;
    if (entry->nfc) {
        status = ln_add_normal(t, LN_NORMAL_NFC, (ln_string){"", 0}, NULL, err);
    }
    for (size_t i = 0; i < LN_MAX_PATTERNS && entry->patterns[i] != NULL && status == LN_OK; i++) {
        status = ln_add_split_pattern(t, entry->patterns[i], LN_ISOLATED, 0, err);
    }
    t->ignore_merges = entry->ignore_merges;
    t->add_bos = entry->add_bos;
    return status;
}

ln_status ln_add_named_pre_tokenizer(ln_tokenizer *t, ln_string name, ln_error *err) {
    for (size_t i = 0; i < sizeof TABLE / sizeof TABLE[0]; i++) {
        if (is_one_of(name, TABLE[i].names)) {
            return add_steps(t, &TABLE[i], err);
        }
    }
    return ln_fail(err, LN_UNSUPPORTED,
                   "the pre-tokenizer '%.*s' is not supported; a GGUF file that embeds its tokenizer.json would be",
                   LN_STRING_ARGS(name));
}
