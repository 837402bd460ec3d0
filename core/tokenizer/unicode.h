/* unicode.h - UTF-8, character properties, case and the normalization forms. */
#ifndef LINNET_UNICODE_H
#define LINNET_UNICODE_H

#include "buffer.h"

/* General categories (Unicode 16.0), and one character that is more than its category says. */
typedef enum ln_category {
    LN_LU, LN_LL, LN_LT, LN_LM, LN_LO,
    LN_MN, LN_MC, LN_ME,
    LN_ND, LN_NL, LN_NO,
    LN_PC, LN_PD, LN_PS, LN_PE, LN_PI, LN_PF, LN_PO,
    LN_SM, LN_SC, LN_SK, LN_SO,
    LN_ZS, LN_ZL, LN_ZP,
    LN_CC, LN_CF, LN_CS, LN_CO, LN_CN,
    LN_NEXT_LINE, /* U+0085: Cc, and white space */
} ln_category;

#define LN_PROPERTY_CATEGORY 31u /* an ln_category */
#define LN_PROPERTY_WORD 32u     /* \w */
#define LN_PROPERTY_NFC 64u      /* may change under NFC, or change with the character before it */

/* LN_PROPERTY_* bits of a code point. */
uint8_t ln_unicode_properties(uint32_t code_point);

int ln_unicode_is_space(uint32_t code_point);

/* Length of the longest prefix that is valid UTF-8 (no surrogates, nothing above U+10FFFF). */
size_t ln_utf8_valid_prefix(const char *text, size_t length);

/* Bytes of the maximal ill-formed subsequence at the start of text[length], where
 * ln_utf8_valid_prefix returned 0; at least 1 (Unicode 16.0, section 3.9, table 3-7). */
size_t ln_utf8_invalid_length(const char *text, size_t length);

/* Appends text with every maximal ill-formed subsequence replaced by U+FFFD. */
ln_status ln_utf8_repair(const char *text, size_t length, ln_buffer *out, ln_error *err);

/* Writes a code point as UTF-8 and returns its length, 1 to 4. */
size_t ln_utf8_put(uint32_t code_point, char out[4]);

/* Bytes of the character that starts with lead, in valid UTF-8. */
static inline size_t ln_utf8_length(char lead) {
    unsigned char b = (unsigned char)lead;
    return b < 0x80 ? 1 : b < 0xE0 ? 2 : b < 0xF0 ? 3 : 4;
}

/* Code point at the start of valid UTF-8. */
static inline uint32_t ln_utf8_get(const char *text) {
    const unsigned char *b = (const unsigned char *)text;
    if (b[0] < 0x80) {
        return b[0];
    }
    if (b[0] < 0xE0) {
        return (uint32_t)(b[0] & 0x1F) << 6 | (b[1] & 0x3Fu);
    }
    if (b[0] < 0xF0) {
        return (uint32_t)(b[0] & 0x0F) << 12 | (uint32_t)(b[1] & 0x3F) << 6 | (b[2] & 0x3Fu);
    }
    return (uint32_t)(b[0] & 0x07) << 18 | (uint32_t)(b[1] & 0x3F) << 12 | (uint32_t)(b[2] & 0x3F) << 6 |
           (b[3] & 0x3Fu);
}

typedef enum ln_normal_form { LN_FORM_C, LN_FORM_D, LN_FORM_KC, LN_FORM_KD } ln_normal_form;

/* Appends a normalization form (UAX #15) of valid UTF-8. */
ln_status ln_unicode_normalize(ln_normal_form form, const char *text, size_t length, ln_buffer *out, ln_error *err);

/* Classes of characters that steps of tokenizers drop or split at, as the tokenizers library has them. */
typedef enum ln_character_class {
    LN_CLASS_MARK,             /* StripAccents */
    LN_CLASS_NONSPACING_MARK,  /* strip_accents of BERT */
    LN_CLASS_BERT_CONTROL,
    LN_CLASS_BERT_PUNCTUATION,
    LN_CLASS_NMT_CONTROL,
    LN_CLASS_NMT_SPACE,
} ln_character_class;

int ln_unicode_is(ln_character_class class, uint32_t code_point);

/* The lower case of one character, as UTF-8; its length, at most 4. */
size_t ln_unicode_lower(uint32_t code_point, char out[4]);

/* Bytes of the grapheme cluster (UAX #29) at the start of valid UTF-8. */
size_t ln_unicode_cluster_length(const char *text, size_t length);

#endif
