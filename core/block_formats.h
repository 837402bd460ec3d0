/* block_formats.h - how a block of each GGUF type lies in memory, described once: the table below, and
 * what reads and writes the fields it names. quants.c and quants_k.c turn blocks into floats and floats
 * into blocks, panels.c interleaves the codes of blocks. The formats are those of the GGUF specification.
 *
 * A block holds d, an f16 that scales all of it (of mxfp4 an exponent), and of each element a code, which
 * stands for a level: code - offset, or levels[code].
 *
 *   value = d * level                                         plain blocks of 32, tq1_0, tq2_0
 *   value = d * level + m                                     those with an f16 m: q4_1, q5_1
 *   value = d * scale[group] * level                          super-blocks of 256: 8 or 16 groups have
 *   value = d * scale[group] * level - dmin * minimum[group]  a small integer scale, some a minimum too
 *
 * Codes and scales are bit fields, most in two parts: their low bits here, the bits above elsewhere. All
 * fields of 1 to 8 bits are laid out alike: of n fields the first `run` are the lowest bits of `run`
 * consecutive bytes, the next `run` the bits above those in the same bytes, and so on; when these bytes are
 * full, the next `run` bytes follow. Values are little-endian.
 */
#ifndef LINNET_BLOCK_FORMATS_H
#define LINNET_BLOCK_FORMATS_H

#include <stdint.h>
#include <string.h>

#include "kernels/isa.h"

#define LN_BLOCK 32  /* elements of a plain block */
#define LN_SUPER 256 /* elements of a super-block */
#define LN_MAX_GROUPS 16
#define LN_CODES 32  /* read at a time: a plain block, or an eighth of a super-block */
#define LN_CODE_WORDS (LN_CODES / 4)

typedef struct ln_field {
    int at;   /* byte of the block */
    int bits; /* 0: there is no such field */
    int run;
} ln_field;

typedef struct ln_block_format {
    int elements, bytes;
    int d;      /* where it lies */
    int d_is_e; /* d is one byte e and stands for 2^(e - 128) (e8m0 of OCP Microscaling Formats 1.0, halved) */
    int m;      /* where m or dmin lies; 0: there is none */
    ln_field codes, high_codes;
    int base_3; /* no fields, but digits: see ln_read_digits */
    int offset;
    const int8_t *levels;
    int groups; /* with a scale; 0: d is all */
    ln_field scales, high_scales; /* of the groups, then their minima; 6 bits: see ln_read_scales_6 */
    int scale_offset;
} ln_block_format;

static const int8_t ln_iq4_levels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

/* Twice the numbers of E2M1 (OCP Microscaling Formats 1.0, table 5), so that they are integers. */
static const int8_t ln_mxfp4_levels[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/* X(type, elements, bytes, ...): every block type. A field is {at, bits, run}. Codes of 8 bits are stored
 * signed, with their highest bit the other way round. */
#define LN_BLOCK_FORMATS(X)                                                                                        \
    X(Q4_0, 32, 18, .d = 0, .codes = {2, 4, 16}, .offset = 8)                                                      \
    X(Q4_1, 32, 20, .d = 0, .m = 2, .codes = {4, 4, 16})                                                           \
    X(Q5_0, 32, 22, .d = 0, .high_codes = {2, 1, 1}, .codes = {6, 4, 16}, .offset = 16)                            \
    X(Q5_1, 32, 24, .d = 0, .m = 2, .high_codes = {4, 1, 1}, .codes = {8, 4, 16})                                  \
    X(Q8_0, 32, 34, .d = 0, .codes = {2, 8, 32}, .offset = 128)                                                    \
    X(IQ4_NL, 32, 18, .d = 0, .codes = {2, 4, 16}, .levels = ln_iq4_levels)                                        \
    X(MXFP4, 32, 17, .d = 0, .d_is_e = 1, .codes = {1, 4, 16}, .levels = ln_mxfp4_levels)                          \
    X(Q2_K, 256, 84, .groups = 16, .scales = {0, 4, 16}, .codes = {16, 2, 32}, .d = 80, .m = 82)                   \
    X(Q3_K, 256, 110, .high_codes = {0, 1, 32}, .codes = {32, 2, 32}, .offset = 4, .groups = 16,                   \
      .scales = {96, 4, 8}, .high_scales = {104, 2, 4}, .scale_offset = 32, .d = 108)                              \
    X(Q4_K, 256, 144, .d = 0, .m = 2, .groups = 8, .scales = {4, 6, 0}, .codes = {16, 4, 32})                      \
    X(Q5_K, 256, 176, .d = 0, .m = 2, .groups = 8, .scales = {4, 6, 0}, .high_codes = {16, 1, 32},                 \
      .codes = {48, 4, 32})                                                                                        \
    X(Q6_K, 256, 210, .codes = {0, 4, 64}, .high_codes = {128, 2, 32}, .offset = 32, .groups = 16,                 \
      .scales = {192, 8, 16}, .d = 208)                                                                            \
    X(IQ4_XS, 256, 136, .d = 0, .groups = 8, .high_scales = {2, 2, 1}, .scales = {4, 4, 1}, .scale_offset = 32,    \
      .codes = {8, 4, 16}, .levels = ln_iq4_levels)                                                                \
    X(TQ1_0, 256, 54, .base_3 = 1, .offset = 1, .d = 52)                                                           \
    X(TQ2_0, 256, 66, .codes = {0, 2, 32}, .offset = 1, .d = 64)

/* ln_block_Q4_0 and so on. */
#define LN_BLOCK_FORMAT(type, ...) static const ln_block_format ln_block_##type = {__VA_ARGS__};
LN_BLOCK_FORMATS(LN_BLOCK_FORMAT)
#undef LN_BLOCK_FORMAT

/* ---- bytes ------------------------------------------------------------------------ */

static inline uint16_t ln_load_u16(const uint8_t *p) {
    uint16_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline uint32_t ln_load_u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static inline void ln_store_u16(uint8_t *p, uint16_t value) {
    memcpy(p, &value, sizeof value);
}

static inline void ln_store_u32(uint8_t *p, uint32_t value) {
    memcpy(p, &value, sizeof value);
}

/* ---- fields ------------------------------------------------------------------------ */

static LN_ALWAYS_INLINE int ln_field_byte(ln_field f, unsigned i) {
    const unsigned run = (unsigned)f.run, in_run = run * (8u / (unsigned)f.bits);
    return f.at + (int)(i / in_run * run + i % run);
}

static LN_ALWAYS_INLINE int ln_field_shift(ln_field f, unsigned i) {
    return (int)(i / (unsigned)f.run % (8u / (unsigned)f.bits)) * f.bits;
}

static LN_ALWAYS_INLINE uint8_t ln_read_field(ln_field f, const uint8_t *block, unsigned i) {
    return (uint8_t)(block[ln_field_byte(f, i)] >> ln_field_shift(f, i) & ((1 << f.bits) - 1));
}

/* A field that is still zero becomes the lowest bits of value. */
static LN_ALWAYS_INLINE void ln_write_field(ln_field f, uint8_t *block, unsigned i, int value) {
    block[ln_field_byte(f, i)] |= (uint8_t)((value & ((1 << f.bits) - 1)) << ln_field_shift(f, i));
}

/* ---- codes ------------------------------------------------------------------------ */

/* Fields first .. first + 31, four to a word, one in each byte. */
static LN_ALWAYS_INLINE void ln_read_field_words(ln_field f, const uint8_t *block, unsigned first, uint32_t *word) {
    if (f.run == 1) { /* single bits in their order: four are spread over a word by a product */
        const uint32_t bits = ln_load_u32(block + f.at + first / 8);
        for (int k = 0; k < LN_CODE_WORDS; k++) {
            word[k] = (bits >> 4 * k & 15) * 0x00204081u & 0x01010101u;
        }
        return;
    }
    const uint32_t mask = ((1u << f.bits) - 1) * 0x01010101u;
    for (unsigned k = 0; k < LN_CODE_WORDS; k++) {
        const unsigned i = first + 4 * k;
        word[k] = ln_load_u32(block + ln_field_byte(f, i)) >> ln_field_shift(f, i) & mask;
    }
}

/* The same fields, still zero, become the lowest bits of each byte of word. */
static LN_ALWAYS_INLINE void ln_write_field_words(ln_field f, const uint32_t *word, unsigned first, uint8_t *block) {
    if (f.run == 1) { /* and a product brings four back together */
        uint32_t bits = 0;
        for (int k = 0; k < LN_CODE_WORDS; k++) {
            bits |= ((word[k] & 0x01010101u) * 0x10204080u >> 28) << 4 * k;
        }
        ln_store_u32(block + f.at + first / 8, bits);
        return;
    }
    const uint32_t mask = ((1u << f.bits) - 1) * 0x01010101u;
    for (unsigned k = 0; k < LN_CODE_WORDS; k++) {
        const unsigned i = first + 4 * k;
        uint8_t *bytes = block + ln_field_byte(f, i);
        ln_store_u32(bytes, ln_load_u32(bytes) | (word[k] & mask) << ln_field_shift(f, i));
    }
}

/* tq1_0: the first digits of some elements, then in the same bytes the second digits of the next, and so
 * on. A byte is its number of five digits (a fifth that is not there is 0) as the fraction number / 243 in
 * units of 1 / 256, rounded up: tripling it modulo 256 moves the next digit to the top. */
#define LN_DIGITS 5
static const struct {
    int first; /* element */
    int at, bytes;
} ln_digit_runs[] = {{0, 0, 32}, {160, 32, 16}, {240, 48, 4}, {256, 52, 0}};

static inline uint8_t ln_digits_byte(int number) {
    return (uint8_t)((number * 256 + 242) / 243);
}

/* Codes first .. first + 31 of a block of digits. */
static LN_ALWAYS_INLINE void ln_read_digits(const uint8_t *block, int first, uint32_t *word) {
    static const uint32_t powers[LN_DIGITS] = {1, 3, 9, 27, 81};
    for (int k = 0; k < LN_CODE_WORDS; k++) {
        const int i = first + 4 * k;
        const int run = i < ln_digit_runs[1].first ? 0 : i < ln_digit_runs[2].first ? 1 : 2;
        const int in_run = i - ln_digit_runs[run].first, bytes = ln_digit_runs[run].bytes;
        const uint32_t four = ln_load_u32(block + ln_digit_runs[run].at + in_run % bytes);
        const uint32_t power = powers[in_run / bytes];
        const uint32_t even = (four & 0x00ff00ffu) * power & 0x00ff00ffu;
        const uint32_t odd = (four >> 8 & 0x00ff00ffu) * power & 0x00ff00ffu;
        word[k] = (even * 3 >> 8 & 0x00ff00ffu) | (odd * 3 & 0xff00ff00u);
    }
}

static inline void ln_write_digits(const uint8_t *code, uint8_t *block) {
    for (int run = 0; run < 3; run++) {
        const int first = ln_digit_runs[run].first, end = ln_digit_runs[run + 1].first;
        const int bytes = ln_digit_runs[run].bytes;
        for (int j = 0; j < bytes; j++) {
            int number = 0;
            for (int digit = 0; digit < LN_DIGITS; digit++) {
                const int i = first + digit * bytes + j;
                number = 3 * number + (i < end ? code[i] : 0);
            }
            block[ln_digit_runs[run].at + j] = ln_digits_byte(number);
        }
    }
}

/* Codes part * 32 .. part * 32 + 31: byte b of word k is that of element 4 * k + b. */
static LN_ALWAYS_INLINE void ln_read_codes(ln_block_format f, const uint8_t *block, int part, uint32_t *word) {
    if (f.base_3) {
        ln_read_digits(block, part * LN_CODES, word);
        return;
    }
    ln_read_field_words(f.codes, block, (unsigned)part * LN_CODES, word);
    for (int k = 0; f.codes.bits == 8 && k < LN_CODE_WORDS; k++) {
        word[k] ^= 0x80808080u;
    }
    if (f.high_codes.bits != 0) {
        uint32_t high[LN_CODE_WORDS];
        ln_read_field_words(f.high_codes, block, (unsigned)part * LN_CODES, high);
        for (int k = 0; k < LN_CODE_WORDS; k++) {
            word[k] |= high[k] << f.codes.bits;
        }
    }
}

/* Writes code[elements] into a block whose bytes are zero. */
static LN_ALWAYS_INLINE void ln_write_codes(ln_block_format f, const uint8_t *code, uint8_t *block) {
    if (f.base_3) {
        ln_write_digits(code, block);
        return;
    }
    for (int i = 0; i < f.elements; i += LN_CODES) {
        uint32_t word[LN_CODE_WORDS], high[LN_CODE_WORDS];
        memcpy(word, code + i, sizeof word);
        for (int k = 0; k < LN_CODE_WORDS; k++) {
            high[k] = word[k] >> f.codes.bits % 8;
            word[k] ^= f.codes.bits == 8 ? 0x80808080u : 0;
        }
        ln_write_field_words(f.codes, word, (unsigned)i, block);
        if (f.high_codes.bits != 0) {
            ln_write_field_words(f.high_codes, high, (unsigned)i, block);
        }
    }
}

/* ---- scales and minima --------------------------------------------------------------- */

/* 6-bit scales and minima of 8 groups in 12 bytes, for g < 4:
 *   byte g      scale[g], and above it bits 4-5 of scale[g + 4]
 *   byte g + 4  minimum[g], and above it bits 4-5 of minimum[g + 4]
 *   byte g + 8  bits 0-3 of scale[g + 4], and above them those of minimum[g + 4] */
static inline void ln_read_scales_6(const uint8_t *in, uint8_t *number) {
    const uint32_t scales = ln_load_u32(in), minima = ln_load_u32(in + 4), low = ln_load_u32(in + 8);
    ln_store_u32(number, scales & 0x3f3f3f3fu);
    ln_store_u32(number + 4, (low & 0x0f0f0f0fu) | (scales >> 2 & 0x30303030u));
    ln_store_u32(number + 8, minima & 0x3f3f3f3fu);
    ln_store_u32(number + 12, (low >> 4 & 0x0f0f0f0fu) | (minima >> 2 & 0x30303030u));
}

static inline void ln_write_scales_6(const uint8_t *number, uint8_t *out) {
    const uint8_t *scale = number, *minimum = number + 8;
    for (int g = 0; g < 4; g++) {
        out[g] = (uint8_t)(scale[g] | (scale[g + 4] >> 4) << 6);
        out[g + 4] = (uint8_t)(minimum[g] | (minimum[g + 4] >> 4) << 6);
        out[g + 8] = (uint8_t)((scale[g + 4] & 15) | minimum[g + 4] << 4);
    }
}

static LN_ALWAYS_INLINE int ln_scale_count(ln_block_format f) {
    return f.groups * (f.m != 0 ? 2 : 1);
}

/* The scales of all groups, then their minima; signed ones in two's complement. */
static LN_ALWAYS_INLINE void ln_read_scales(ln_block_format f, const uint8_t *block, uint8_t *number) {
    if (f.scales.bits == 6) {
        ln_read_scales_6(block + f.scales.at, number);
        return;
    }
    for (int i = 0; i < ln_scale_count(f); i++) {
        int value = ln_read_field(f.scales, block, (unsigned)i);
        if (f.high_scales.bits != 0) {
            value |= ln_read_field(f.high_scales, block, (unsigned)i) << f.scales.bits;
        }
        number[i] = (uint8_t)(value - f.scale_offset);
    }
}

/* Writes them into a block whose bytes are zero. */
static LN_ALWAYS_INLINE void ln_write_scales(ln_block_format f, const uint8_t *number, uint8_t *block) {
    if (f.scales.bits == 6) {
        ln_write_scales_6(number, block + f.scales.at);
        return;
    }
    for (int i = 0; i < ln_scale_count(f); i++) {
        const int value = (uint8_t)(number[i] + f.scale_offset);
        ln_write_field(f.scales, block, (unsigned)i, value);
        if (f.high_scales.bits != 0) {
            ln_write_field(f.high_scales, block, (unsigned)i, value >> f.scales.bits);
        }
    }
}

/* ---- d -------------------------------------------------------------------------------- */

/* 2^(e - 128) as a bf16. */
static inline uint16_t ln_bf16_of_e(uint8_t e) {
    return (uint16_t)(e < 2 ? 0x20 << e : (e - 1) << 7);
}

/* As the block stores it, an f16; of an exponent a bf16. */
static LN_ALWAYS_INLINE uint16_t ln_read_d(ln_block_format f, const uint8_t *block) {
    return f.d_is_e ? ln_bf16_of_e(block[f.d]) : ln_load_u16(block + f.d);
}

#endif
