/* buffer.h - bytes that grow. */
#ifndef LINNET_BUFFER_H
#define LINNET_BUFFER_H

#include "core.h"

typedef struct ln_buffer {
    char *data;
    size_t length;
    size_t capacity;
} ln_buffer;

/* Makes room for more bytes after length; the capacity at least doubles. */
ln_status ln_buffer_reserve(ln_buffer *buffer, size_t more, ln_error *err);

ln_status ln_buffer_append(ln_buffer *buffer, const char *data, size_t length, ln_error *err);

/* Frees the bytes and leaves an empty buffer. */
void ln_buffer_free(ln_buffer *buffer);

#endif
