/* charsmap.h - the table by which SentencePiece normalises text (precompiled_charsmap).
 *
 * A double array over byte strings (Aoe 1989; the units are those of darts-clone), and behind it the texts
 * that take their place, each ended by a NUL (sentencepiece, src/normalizer.cc).
 */
#ifndef LINNET_CHARSMAP_H
#define LINNET_CHARSMAP_H

#include "buffer.h"

typedef struct ln_charsmap {
    uint32_t *units;
    uint32_t n_units;
    char *texts; /* ends with a NUL */
    size_t n_text_bytes;
    uint8_t plain[128]; /* 1: this ASCII character stays as it is in front of another one */
} ln_charsmap;

/* Reads the table from its bytes. LN_BAD_FILE where its sizes do not fit. */
ln_status ln_charsmap_open(const void *data, size_t size, ln_charsmap *out, ln_error *err);

void ln_charsmap_free(ln_charsmap *map);

/* Appends valid UTF-8 with the longest match at each place replaced, as SentencePiece does. Stops when out is
 * longer than max_length. */
ln_status ln_charsmap_apply(const ln_charsmap *map, const char *text, size_t length, size_t max_length, ln_buffer *out,
                            ln_error *err);

/* The same as the tokenizers library does it (its normalizer Precompiled): grapheme clusters of less than six
 * bytes are looked up whole, by their shortest match, else each character is. */
ln_status ln_charsmap_apply_clusters(const ln_charsmap *map, const char *text, size_t length, size_t max_length,
                                     ln_buffer *out, ln_error *err);

#endif
