/* load_json.h - what the files that read tokenizer.json share. */
#ifndef LINNET_LOAD_JSON_H
#define LINNET_LOAD_JSON_H

#include "json.h"
#include "tokenizer.h"

typedef struct ln_json_loader {
    ln_json json;
    size_t size; /* of the file */
    ln_tokenizer *tokenizer;
    ln_buffer scratch; /* the text that ln_json_text returned last */
    ln_buffer other;
    ln_buffer joined;
    int byte_fallback;
    int n_steps; /* of the section that is read */
    int spelled; /* pre-tokenizers read the byte-level alphabet from here on */
    int fused;   /* a decoder has joined the pieces */
    ln_error *err;
} ln_json_loader;

/* Text of a node that must be a string; node 0 is a missing one. Valid until the next call. */
ln_status ln_json_text(ln_json_loader *l, uint32_t node, const char *what, ln_string *out);

/* A boolean of an object; missing when it is not there or null. */
int ln_json_flag(const ln_json_loader *l, uint32_t node, const char *key, int missing);

/* LN_BAD_FILE with what is wrong. */
ln_status ln_json_bad(ln_json_loader *l, const char *what);

/* A child that must have this type; 0 where it is missing or has another. */
uint32_t ln_json_child(const ln_json_loader *l, uint32_t node, const char *key, ln_json_type type);

/* load_json_model.c: the vocabulary, merges or scores. */
ln_status ln_load_json_model(ln_json_loader *l, uint32_t model);

ln_status ln_load_json_normalizer(ln_json_loader *l);
ln_status ln_load_json_pre_tokenizer(ln_json_loader *l);
ln_status ln_load_json_decoder(ln_json_loader *l);
ln_status ln_load_json_post_processor(ln_json_loader *l);

#endif
