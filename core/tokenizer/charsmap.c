/* charsmap.c - the table by which SentencePiece normalises text (precompiled_charsmap). */
#include "charsmap.h"

#include <stdlib.h>
#include <string.h>

#include "unicode.h"

/* ---- units of the double array ------------------------------------------------------------ */

static uint32_t offset_of(uint32_t unit) {
    return (unit >> 10) << ((unit & (1u << 9)) >> 6);
}

static int has_leaf(uint32_t unit) {
    return (unit >> 8) & 1;
}

/* The place of the root's children. */
static uint32_t root_of(const ln_charsmap *map) {
    return map->n_units > 0 ? offset_of(map->units[0]) : 0;
}

/* Goes from the children at *at along byte; the unit it finds, 0 where there is none. */
static uint32_t walk(const ln_charsmap *map, uint32_t *at, unsigned char byte) {
    uint32_t place = *at ^ byte;
    if (place >= map->n_units) {
        return 0;
    }
    uint32_t unit = map->units[place];
    if ((unit & (1u << 31 | 0xFF)) != byte) {
        return 0;
    }
    *at = place ^ offset_of(unit);
    return unit;
}

static int is_inside_character(const char *text) {
    return ((unsigned char)*text & 0xC0) == 0x80;
}

/* The text of the match that ends where the children at `at` are; NULL for one that is no text. */
static const char *text_at(const ln_charsmap *map, uint32_t at) {
    uint32_t value = at < map->n_units ? map->units[at] & 0x7FFFFFFF : UINT32_MAX;
    return value < map->n_text_bytes && !is_inside_character(map->texts + value) ? map->texts + value : NULL;
}

/* The text that takes the place of the longest (or shortest) match at the start of text, NULL where there is none. */
static const char *find(const ln_charsmap *map, const char *text, size_t length, int shortest, size_t *matched) {
    const char *found = NULL;
    uint32_t at = root_of(map);
    for (size_t i = 0; i < length; i++) {
        uint32_t unit = walk(map, &at, (unsigned char)text[i]);
        if (unit == 0) {
            break;
        }
        const char *here = has_leaf(unit) ? text_at(map, at) : NULL;
        if (here != NULL && (i + 1 == length || !is_inside_character(text + i + 1))) {
            found = here;
            *matched = i + 1;
            if (shortest) {
                break;
            }
        }
    }
    return found;
}

/* ---- open and free ------------------------------------------------------------------------ */

/* An ASCII character that is no match itself and begins none with another ASCII character. */
static int is_plain(const ln_charsmap *map, unsigned char c) {
    uint32_t at = root_of(map);
    uint32_t unit = walk(map, &at, c);
    if (unit == 0) {
        return 1;
    }
    for (unsigned char next = 0; next < 128; next++) {
        uint32_t below = at;
        if (walk(map, &below, next) != 0) {
            return 0;
        }
    }
    return !has_leaf(unit);
}

ln_status ln_charsmap_open(const void *data, size_t size, ln_charsmap *out, ln_error *err) {
    const unsigned char *bytes = data;
    *out = (ln_charsmap){0};
    uint32_t trie = 0;
    if (size >= 4) {
        trie = bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
    }
    if (size < 4 || trie > size - 4 || trie % 4 != 0 ||
        ln_utf8_valid_prefix((const char *)bytes + 4 + trie, size - 4 - trie) != size - 4 - trie) {
        return ln_fail(err, LN_BAD_FILE, "the precompiled_charsmap of the tokenizer is damaged");
    }
    out->n_units = trie / 4;
    out->n_text_bytes = size - 4 - trie;
    out->units = ln_alloc(out->n_units, sizeof *out->units, "the precompiled_charsmap", err);
    out->texts = ln_alloc(out->n_text_bytes + 1, 1, "the precompiled_charsmap", err);
    if (out->units == NULL || out->texts == NULL) {
        ln_charsmap_free(out);
        return LN_NO_MEMORY;
    }
    for (uint32_t i = 0; i < out->n_units; i++) {
        const unsigned char *unit = bytes + 4 + 4 * (size_t)i;
        out->units[i] = unit[0] | (uint32_t)unit[1] << 8 | (uint32_t)unit[2] << 16 | (uint32_t)unit[3] << 24;
    }
    memcpy(out->texts, bytes + 4 + trie, out->n_text_bytes);
    for (unsigned char c = 0; c < 128; c++) {
        out->plain[c] = (uint8_t)is_plain(out, c);
    }
    return LN_OK;
}

void ln_charsmap_free(ln_charsmap *map) {
    free(map->units);
    free(map->texts);
    *map = (ln_charsmap){0};
}

/* ---- applying it --------------------------------------------------------------------------- */

/* Bytes at the start of text that stay as they are: ASCII, up to the last one before something else. */
static size_t plain_length(const ln_charsmap *map, const char *text, size_t length) {
    size_t n = 0;
    while (n < length && (unsigned char)text[n] < 128 && map->plain[(unsigned char)text[n]] &&
           (n + 1 == length || (unsigned char)text[n + 1] < 128)) {
        n++;
    }
    return n;
}

ln_status ln_charsmap_apply(const ln_charsmap *map, const char *text, size_t length, size_t max_length, ln_buffer *out,
                            ln_error *err) {
    ln_status status = LN_OK;
    for (size_t i = 0; i < length && out->length <= max_length && status == LN_OK;) {
        size_t plain = plain_length(map, text + i, length - i);
        status = ln_buffer_append(out, text + i, plain, err);
        i += plain;
        if (i == length || status != LN_OK) {
            break;
        }
        size_t matched = ln_utf8_length(text[i]);
        const char *replacement = find(map, text + i, length - i, 0, &matched);
        status = replacement != NULL ? ln_buffer_append(out, replacement, strlen(replacement), err)
                                     : ln_buffer_append(out, text + i, matched, err);
        i += matched;
    }
    return status;
}

static ln_status apply_characters(const ln_charsmap *map, const char *text, size_t length, size_t max_length,
                                  ln_buffer *out, ln_error *err) {
    ln_status status = LN_OK;
    for (size_t i = 0; i < length && out->length <= max_length && status == LN_OK;) {
        size_t width = ln_utf8_length(text[i]);
        size_t matched;
        const char *replacement = find(map, text + i, width, 1, &matched);
        status = replacement != NULL ? ln_buffer_append(out, replacement, strlen(replacement), err)
                                     : ln_buffer_append(out, text + i, width, err);
        i += width;
    }
    return status;
}

ln_status ln_charsmap_apply_clusters(const ln_charsmap *map, const char *text, size_t length, size_t max_length,
                                     ln_buffer *out, ln_error *err) {
    ln_status status = LN_OK;
    for (size_t i = 0; i < length && out->length <= max_length && status == LN_OK;) {
        size_t plain = plain_length(map, text + i, length - i);
        if (plain > 0) {
            plain -= i + plain < length && text[i + plain - 1] == '\r' && text[i + plain] == '\n';
            status = ln_buffer_append(out, text + i, plain, err);
            i += plain;
            if (plain > 0) {
                continue;
            }
        }
        size_t cluster = ln_unicode_cluster_length(text + i, length - i);
        size_t matched;
        const char *replacement = cluster < 6 ? find(map, text + i, cluster, 1, &matched) : NULL;
        status = replacement != NULL ? ln_buffer_append(out, replacement, strlen(replacement), err)
                                     : apply_characters(map, text + i, cluster, max_length, out, err);
        i += cluster;
    }
    return status;
}
