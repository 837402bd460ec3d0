/* metadata.c - the public functions that read the metadata of a GGUF file. */
#include <stdlib.h>
#include <string.h>

#include "gguf.h"

struct ln_metadata {
    ln_gguf gguf;
};

int32_t ln_metadata_open(const void *data, size_t size, ln_metadata **out, ln_error *err) {
    if (out == NULL || (data == NULL && size > 0)) {
        return ln_fail(err, LN_BAD_ARGUMENT, "metadata is read from nothing, or into nothing");
    }
    *out = NULL;
    ln_metadata *metadata = ln_alloc(1, sizeof *metadata, "the metadata", err);
    if (metadata == NULL) {
        return LN_NO_MEMORY;
    }
    ln_status status = ln_gguf_open(data, size, &metadata->gguf, err);
    if (status != LN_OK) {
        free(metadata);
        return status;
    }
    *out = metadata;
    return LN_OK;
}

void ln_metadata_close(ln_metadata *metadata) {
    if (metadata != NULL) {
        ln_gguf_close(&metadata->gguf);
        free(metadata);
    }
}

static void copy(ln_string from, char *text, int64_t capacity, int64_t *n_bytes) {
    size_t copied = from.length < (size_t)capacity ? from.length : (size_t)capacity;
    if (copied > 0) {
        memcpy(text, from.data, copied);
    }
    *n_bytes = (int64_t)from.length;
}

int32_t ln_metadata_key(const ln_metadata *metadata, int64_t index, char *text, int64_t capacity, int64_t *n_bytes) {
    if (metadata == NULL || n_bytes == NULL || index < 0 || capacity < 0 || (text == NULL && capacity > 0)) {
        return LN_BAD_ARGUMENT;
    }
    *n_bytes = -1;
    if ((uint64_t)index < metadata->gguf.n_pairs) {
        copy(metadata->gguf.pairs[index].key, text, capacity, n_bytes);
    }
    return LN_OK;
}

int32_t ln_metadata_text(const ln_metadata *metadata, const char *key, char *text, int64_t capacity,
                         int64_t *n_bytes) {
    if (metadata == NULL || key == NULL || n_bytes == NULL || capacity < 0 || (text == NULL && capacity > 0)) {
        return LN_BAD_ARGUMENT;
    }
    *n_bytes = -1;
    ln_string value = {NULL, 0};
    if (ln_gguf_find(&metadata->gguf, key) != NULL && ln_gguf_string(&metadata->gguf, key, &value, NULL) == LN_OK) {
        copy(value, text, capacity, n_bytes);
    }
    return LN_OK;
}

int32_t ln_metadata_integers(const ln_metadata *metadata, const char *key, int64_t *values, int64_t capacity,
                             int64_t *n) {
    if (metadata == NULL || key == NULL || n == NULL || capacity < 0 || (values == NULL && capacity > 0)) {
        return LN_BAD_ARGUMENT;
    }
    *n = 0;
    const ln_gguf_pair *pair = ln_gguf_find(&metadata->gguf, key);
    ln_gguf_array array = {0};
    uint64_t one = 0;
    if (pair != NULL && pair->type == LN_GGUF_ARRAY) {
        if (ln_gguf_array_of(&metadata->gguf, key, LN_GGUF_I32, &array, NULL) == LN_OK) {
            *n = (int64_t)array.length;
        }
        for (int64_t i = 0; i < *n && i < capacity; i++) {
            values[i] = ln_gguf_array_i32(&array, (uint64_t)i);
        }
    } else if (pair != NULL && ln_gguf_u64(&metadata->gguf, key, &one, NULL) == LN_OK && one <= INT64_MAX) {
        *n = 1;
        if (capacity > 0) {
            values[0] = (int64_t)one;
        }
    }
    return LN_OK;
}
