/* error.c - failing with a sentence, sizes that cannot overflow, and the allocations that use both. */
#include "core.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Drops a UTF-8 character that was cut in half at the end of text. */
static void drop_cut_character(char *text) {
    size_t length = strlen(text);
    size_t start = length;
    while (start > 0 && length - start < 4 && ((unsigned char)text[start - 1] & 0xC0) == 0x80) {
        start--;
    }
    if (start == 0) {
        return;
    }
    unsigned char lead = (unsigned char)text[start - 1];
    size_t expected = lead >= 0xF0 ? 3 : lead >= 0xE0 ? 2 : lead >= 0xC0 ? 1 : 0;
    if (length - start < expected) {
        text[start - 1] = '\0';
    }
}

ln_status ln_fail(ln_error *err, ln_status status, const char *format, ...) {
    if (err == NULL) {
        return status;
    }
    err->status = (int32_t)status;
    va_list arguments;
    va_start(arguments, format);
    int written = vsnprintf(err->message, sizeof err->message, format, arguments);
    va_end(arguments);
    if (written < 0) {
        err->message[0] = '\0';
    } else if ((size_t)written >= sizeof err->message) {
        drop_cut_character(err->message);
    }
    for (char *c = err->message; *c != '\0'; c++) {
        if ((unsigned char)*c < 0x20 || (unsigned char)*c == 0x7F) {
            *c = '?';
        }
    }
    return status;
}

int ln_size_mul(size_t a, size_t b, size_t *out) {
    if (b != 0 && a > SIZE_MAX / b) {
        return 0;
    }
    *out = a * b;
    return 1;
}

int ln_size_add(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) {
        return 0;
    }
    *out = a + b;
    return 1;
}

void *ln_alloc(size_t count, size_t size, const char *what, ln_error *err) {
    void *block = calloc(count != 0 ? count : 1, size != 0 ? size : 1);
    if (block == NULL) {
        ln_fail(err, LN_NO_MEMORY, "not enough memory for %s: %.0f bytes are needed", what,
                (double)count * (double)size);
    }
    return block;
}
