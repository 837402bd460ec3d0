/* phrases.h - texts that are watched for in what tokens spell, however they are cut into tokens. */
#ifndef LINNET_PHRASES_H
#define LINNET_PHRASES_H

#include "core.h"

typedef struct ln_phrases ln_phrases;

/* Watches for n strings, which stand one after the other in strings, each ended by a NUL byte. The
 * tokenizer must outlive what is opened. LN_BAD_ARGUMENT for an empty string, too many bytes, or a
 * tokenizer of more than vocab_size tokens. */
int32_t ln_phrases_open(const char *strings, int32_t n, const ln_tokenizer *tokenizer, int32_t vocab_size,
                        ln_phrases **out, ln_error *err);

void ln_phrases_close(ln_phrases *phrases);

/* Appends the token id to the text; whether a phrase ends in it. */
int ln_phrases_accept(ln_phrases *phrases, int32_t id);

/* scores[vocab_size] = -infinity for every token with which a phrase would be in the text. */
void ln_phrases_forbid(const ln_phrases *phrases, float *scores);

#endif
