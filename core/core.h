/* core.h - what every file of the core shares: failing with a sentence, and sizes that cannot overflow. */
#ifndef LINNET_CORE_H
#define LINNET_CORE_H

#include "linnet.h"

#if defined(__GNUC__) || defined(__clang__)
#define LN_PRINTF(format_index, first_argument) __attribute__((format(printf, format_index, first_argument)))
#else
#define LN_PRINTF(format_index, first_argument)
#endif

/* A piece of text inside somebody else's memory: UTF-8 by intent, not NUL-terminated, may hold any byte. */
typedef struct ln_string {
    const char *data;
    size_t length;
} ln_string;

/* Precision and pointer for a %.*s of an ln_string; long ones are cut. */
#define LN_STRING_ARGS(s) (int)((s).length < 80 ? (s).length : 80), ((s).data != NULL ? (s).data : "")

/* Writes one line to err (which may be NULL) and returns status, so that a caller can
 * `return ln_fail(err, LN_BAD_FILE, ...)`. The text may quote names from a hostile file: control
 * characters and bytes that are not UTF-8 become '?'. */
ln_status ln_fail(ln_error *err, ln_status status, const char *format, ...) LN_PRINTF(3, 4);

/* a * b and a + b in *out; 0 when the result does not fit a size_t. */
int ln_size_mul(size_t a, size_t b, size_t *out);
int ln_size_add(size_t a, size_t b, size_t *out);

/* count * size zeroed bytes, never a zero-size block. On failure NULL, and err says how many
 * bytes were wanted for what ("the key/value cache"). Release with free(). */
void *ln_alloc(size_t count, size_t size, const char *what, ln_error *err);

/* A clock that never goes back. */
double ln_seconds(void);

/* bytes for weights or for keys and values: aligned to a large page, and in large pages where the system has them. Not
 * zeroed. The same failure as ln_alloc. Release with ln_free_pages(). */
void *ln_alloc_pages(size_t bytes, const char *what, ln_error *err);
void ln_free_pages(void *pages);

#endif
