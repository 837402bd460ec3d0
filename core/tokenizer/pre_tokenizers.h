/* pre_tokenizers.h - the pre-tokenizers that GGUF files name in tokenizer.ggml.pre. */
#ifndef LINNET_PRE_TOKENIZERS_H
#define LINNET_PRE_TOKENIZERS_H

#include "tokenizer.h"

/* Adds the steps of the pre-tokenizer called name. LN_UNSUPPORTED for an unknown one: text split
 * in another way than in training would be silently worse. */
ln_status ln_add_named_pre_tokenizer(ln_tokenizer *tokenizer, ln_string name, ln_error *err);

#endif
