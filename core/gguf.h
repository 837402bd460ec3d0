/* gguf.h - an index over a GGUF file that lies in memory.
 *
 * GGUF versions 2 and 3, little endian
 * (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md). ln_gguf_open walks the
 * whole header once and checks every count, length and offset against the size of the
 * file; afterwards no accessor can read outside it. Nothing is copied: strings, arrays
 * and tensor data point into the file, which must stay where it is.
 */
#ifndef LINNET_GGUF_H
#define LINNET_GGUF_H

#include "core.h"

#define LN_GGUF_MAX_DIMS 4

/* Value types of metadata; the numbers are those of the file. */
typedef enum ln_gguf_type {
    LN_GGUF_U8 = 0,
    LN_GGUF_I8 = 1,
    LN_GGUF_U16 = 2,
    LN_GGUF_I16 = 3,
    LN_GGUF_U32 = 4,
    LN_GGUF_I32 = 5,
    LN_GGUF_F32 = 6,
    LN_GGUF_BOOL = 7,
    LN_GGUF_STRING = 8,
    LN_GGUF_ARRAY = 9,
    LN_GGUF_U64 = 10,
    LN_GGUF_I64 = 11,
    LN_GGUF_F64 = 12,
} ln_gguf_type;

/* A metadata array, and a cursor over it where its elements are strings. */
typedef struct ln_gguf_array {
    ln_gguf_type type;   /* of the elements */
    uint64_t length;     /* elements; 0 where the key is absent */
    const uint8_t *data; /* first element, unaligned */
} ln_gguf_array;

typedef struct ln_gguf_pair {
    ln_string key;
    ln_gguf_type type;
    const uint8_t *data; /* the value; for an array see array */
    size_t bytes;        /* of the value as it lies in the file */
    ln_gguf_array array;
} ln_gguf_pair;

typedef struct ln_gguf_tensor {
    ln_string name;
    int32_t type;                   /* a GGUF tensor type; the core may not know it */
    int64_t dims[LN_GGUF_MAX_DIMS]; /* dims[0] is the contiguous one (columns); 1 where the file names no more */
    const void *data;
    size_t bytes; /* 0 for a type the core does not know: then only data's start is inside the file */
} ln_gguf_tensor;

typedef struct ln_gguf {
    uint32_t version;
    uint64_t n_pairs;
    ln_gguf_pair *pairs;     /* sorted by key */
    uint64_t n_tensors;
    ln_gguf_tensor *tensors; /* sorted by name */
} ln_gguf;

/* Indexes the file. On failure out is left empty and need not be closed. */
ln_status ln_gguf_open(const void *data, size_t size, ln_gguf *out, ln_error *err);

/* Frees the index (not the file); closing an empty one is fine. */
void ln_gguf_close(ln_gguf *gguf);

/* NULL when there is none. */
const ln_gguf_pair *ln_gguf_find(const ln_gguf *gguf, const char *key);
const ln_gguf_tensor *ln_gguf_find_tensor(const ln_gguf *gguf, const char *name);

/* Name of a tensor type ("q4_k"), for messages; "unknown" where GGUF defines none. */
const char *ln_gguf_tensor_type_name(int32_t type);

/* LN_BAD_FILE naming the key when it is absent. */
ln_status ln_gguf_require(const ln_gguf *gguf, const char *key, ln_error *err);

/* Values by key. An absent key is LN_OK and leaves *out as it was: put the default there first.
 * Integers may be stored in any integer type as long as the value fits; f32 may be stored as f64.
 * LN_BAD_FILE when the value has another type or does not fit. */
ln_status ln_gguf_u32(const ln_gguf *gguf, const char *key, uint32_t *out, ln_error *err);
ln_status ln_gguf_i32(const ln_gguf *gguf, const char *key, int32_t *out, ln_error *err);
ln_status ln_gguf_u64(const ln_gguf *gguf, const char *key, uint64_t *out, ln_error *err);
ln_status ln_gguf_f32(const ln_gguf *gguf, const char *key, float *out, ln_error *err);
ln_status ln_gguf_bool(const ln_gguf *gguf, const char *key, int *out, ln_error *err);
ln_status ln_gguf_string(const ln_gguf *gguf, const char *key, ln_string *out, ln_error *err);

/* The array called key. type is LN_GGUF_STRING, LN_GGUF_I32 (u32 and bool are taken too), LN_GGUF_F32 or LN_GGUF_U8;
 * LN_BAD_FILE for other elements. An absent key is LN_OK with length 0. */
ln_status ln_gguf_array_of(const ln_gguf *gguf, const char *key, ln_gguf_type type, ln_gguf_array *out,
                           ln_error *err);

/* Element i < length of an array of i32 (or u32, or bool) or f32. */
int32_t ln_gguf_array_i32(const ln_gguf_array *array, uint64_t i);
float ln_gguf_array_f32(const ln_gguf_array *array, uint64_t i);

/* Takes the first string off an array of strings: length shrinks by one and data moves on.
 * 0 when none is left. */
int ln_gguf_array_next(ln_gguf_array *array, ln_string *out);

/* Whether s holds exactly the NUL-terminated text. */
int ln_string_is(ln_string s, const char *text);

#endif
