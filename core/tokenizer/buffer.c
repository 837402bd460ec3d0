/* buffer.c - bytes that grow. */
#include "buffer.h"

#include <stdlib.h>
#include <string.h>

ln_status ln_buffer_reserve(ln_buffer *buffer, size_t more, ln_error *err) {
    if (buffer->capacity - buffer->length >= more) {
        return LN_OK;
    }
    size_t wanted;
    if (!ln_size_add(buffer->length, more, &wanted)) {
        return ln_fail(err, LN_NO_MEMORY, "not enough memory for the text");
    }
    size_t capacity = buffer->capacity < 128 ? 256 : buffer->capacity;
    while (capacity < wanted) {
        capacity = capacity > SIZE_MAX / 2 ? wanted : capacity * 2;
    }
    char *data = realloc(buffer->data, capacity);
    if (data == NULL) {
        return ln_fail(err, LN_NO_MEMORY, "not enough memory: %zu bytes are needed for the text", capacity);
    }
    buffer->data = data;
    buffer->capacity = capacity;
    return LN_OK;
}

ln_status ln_buffer_append(ln_buffer *buffer, const char *data, size_t length, ln_error *err) {
    ln_status status = ln_buffer_reserve(buffer, length, err);
    if (status == LN_OK && length > 0) {
        memcpy(buffer->data + buffer->length, data, length);
        buffer->length += length;
    }
    return status;
}

void ln_buffer_free(ln_buffer *buffer) {
    free(buffer->data);
    *buffer = (ln_buffer){0};
}
