/* error.c - failing with a sentence. */
#include "core.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "tokenizer/unicode.h"

/* Control characters and what is not UTF-8 (or was cut off in the middle of a character) become '?'. */
static void make_printable(char *text, size_t length) {
    size_t valid = ln_utf8_valid_prefix(text, length);
    for (size_t i = 0; i < length; i++) {
        unsigned char byte = (unsigned char)text[i];
        if (i == valid) {
            text[i] = '?';
            valid = i + 1 + ln_utf8_valid_prefix(text + i + 1, length - i - 1);
        } else if (byte < 0x20 || byte == 0x7F) {
            text[i] = '?';
        } else if (byte == 0xC2 && (unsigned char)text[i + 1] < 0xA0) { /* U+0080 to U+009F: terminals obey these too */
            text[i] = text[i + 1] = '?';
        }
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
    }
    make_printable(err->message, strlen(err->message));
    return status;
}
