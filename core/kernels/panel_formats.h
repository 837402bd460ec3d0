/* panel_formats.h - the facts of every packed layout, for whoever packs (panels.c) and whoever
 * multiplies (panel_kernels.h, scalar.c). The layout itself:
 *
 *   panel   16 rows: cells one after the other
 *   cell    64 columns (scales of each group) or 256 (a super-block): head, then quants of each group
 *   group   32 columns, as 8 steps of 4 columns. A line is 64 bytes; its bytes 4r .. 4r + 3 are row r,
 *           four neighbouring columns of one step (or of several steps, in different bits)
 *
 *   bits    lines of a group
 *   8       8: line k is step k
 *   4       4: line k holds step k in the low half of each byte, step k + 4 in the high half
 *   5       the 4 lines of 4 bits, then one line: bit k is the fifth bit of step k
 *   6       the 4 lines of 4 bits, then two lines: bits 2k, 2k + 1 are the upper bits of step k,
 *           and of step k + 4 in the second line
 *   2       2: bits 2k, 2k + 1 of the first line are step k, of the second step k + 4
 *   3       the 2 lines of 2 bits, then one line: bit k is the third bit of step k
 *   TRITS   13 lines of a whole cell: each byte holds five base-3 digits, the first the most
 *           significant, as a fraction of 256; step s of the cell is digit s % 5 of line s / 5
 *
 *   scales            head of a cell; each item is one value per row, 16 of them
 *   F16               f16 scale of each group; then with minima f16 minimum of each group
 *   BF16              bf16 scale of each group
 *   SUPER             f16 scale, 32 bytes unused
 *   SUB32             f16 scale, f16 minimum, u8 scale of each group, u8 minimum of each group
 *   SUB32_SIGNED      f16 scale, 32 bytes unused, i8 scale of each group
 *   SUB16_SIGNED      f16 scale, 32 bytes unused, i8 scale of each half group
 *   SUB16_NIBBLES     f16 scale, f16 minimum, of each half group scale | minimum << 4
 *
 * An element is scale * (code - offset), scale * table[code] or scale * code + minimum; of a
 * super-block scale and minimum are the products with the group's own. SUPER formats have
 * minimum = -scale.
 */
#ifndef LINNET_PANEL_FORMATS_H
#define LINNET_PANEL_FORMATS_H

#include "kernels.h"

#define LN_LINE 64            /* bytes */
#define LN_STEPS 8            /* of a group */
#define LN_TRITS 1            /* ln_panel_format.bits of base-3 digits */
#define LN_TRIT_LINES 13      /* of a cell */
#define LN_TRITS_PER_BYTE 5

typedef enum ln_scale_form {
    LN_SCALES_F16,
    LN_SCALES_BF16,
    LN_SCALES_SUPER,
    LN_SCALES_SUB32,
    LN_SCALES_SUB32_SIGNED,
    LN_SCALES_SUB16_SIGNED,
    LN_SCALES_SUB16_NIBBLES,
} ln_scale_form;

typedef enum ln_code_table {
    LN_TABLE_NONE,
    LN_TABLE_IQ4,
    LN_TABLE_MXFP4,
} ln_code_table;

typedef struct ln_panel_format {
    int bits;
    int offset;
    int has_minimum;
    ln_code_table table;
    ln_scale_form scales;
} ln_panel_format;

/* X(type, bits, offset, has_minimum, table, scales): every packed type. */
#define LN_PANEL_FORMATS(X)                                     \
    X(Q4_0, 4, 8, 0, LN_TABLE_NONE, LN_SCALES_F16)              \
    X(Q4_1, 4, 0, 1, LN_TABLE_NONE, LN_SCALES_F16)              \
    X(Q5_0, 5, 16, 0, LN_TABLE_NONE, LN_SCALES_F16)             \
    X(Q5_1, 5, 0, 1, LN_TABLE_NONE, LN_SCALES_F16)              \
    X(Q8_0, 8, 128, 0, LN_TABLE_NONE, LN_SCALES_F16)            \
    X(Q2_K, 2, 0, 1, LN_TABLE_NONE, LN_SCALES_SUB16_NIBBLES)    \
    X(Q3_K, 3, 4, 0, LN_TABLE_NONE, LN_SCALES_SUB16_SIGNED)     \
    X(Q4_K, 4, 0, 1, LN_TABLE_NONE, LN_SCALES_SUB32)            \
    X(Q5_K, 5, 0, 1, LN_TABLE_NONE, LN_SCALES_SUB32)            \
    X(Q6_K, 6, 32, 0, LN_TABLE_NONE, LN_SCALES_SUB16_SIGNED)    \
    X(IQ4_NL, 4, 128, 0, LN_TABLE_IQ4, LN_SCALES_F16)           \
    X(IQ4_XS, 4, 128, 0, LN_TABLE_IQ4, LN_SCALES_SUB32_SIGNED)  \
    X(TQ1_0, LN_TRITS, 0, 1, LN_TABLE_NONE, LN_SCALES_SUPER)    \
    X(TQ2_0, 2, 0, 1, LN_TABLE_NONE, LN_SCALES_SUPER)           \
    X(MXFP4, 4, 128, 0, LN_TABLE_MXFP4, LN_SCALES_BF16)

/* What a code of four bits stands for, plus 128. */
#define LN_IQ4_VALUES 1, 24, 45, 63, 79, 93, 106, 118, 129, 141, 153, 166, 181, 197, 217, 241
#define LN_MXFP4_VALUES 128, 129, 130, 131, 132, 134, 136, 140, 128, 127, 126, 125, 124, 122, 120, 116

static inline const uint8_t *ln_table_values(ln_code_table table) {
    static const uint8_t values[][16] = {[LN_TABLE_IQ4] = {LN_IQ4_VALUES}, [LN_TABLE_MXFP4] = {LN_MXFP4_VALUES}};
    return values[table];
}

static inline int ln_cell_groups(ln_panel_format f) {
    return f.scales == LN_SCALES_F16 || f.scales == LN_SCALES_BF16 ? 2 : 8;
}

/* Whether each half of a group has its own scale. */
static inline int ln_has_halves(ln_panel_format f) {
    return f.scales == LN_SCALES_SUB16_SIGNED || f.scales == LN_SCALES_SUB16_NIBBLES;
}

static inline int ln_head_bytes(ln_panel_format f) {
    switch (f.scales) {
    case LN_SCALES_F16:
        return LN_LINE * (1 + f.has_minimum);
    case LN_SCALES_SUB32:
        return LN_LINE + 2 * 8 * LN_PANEL_ROWS;
    case LN_SCALES_SUB32_SIGNED:
        return LN_LINE + 8 * LN_PANEL_ROWS;
    case LN_SCALES_SUB16_SIGNED:
    case LN_SCALES_SUB16_NIBBLES:
        return LN_LINE + 16 * LN_PANEL_ROWS;
    default:
        return LN_LINE;
    }
}

/* Bytes of a group's quants; of trits once they are expanded to 8 bits. */
static inline int ln_group_bytes(ln_panel_format f) {
    static const int lines[] = {[LN_TRITS] = 8, [2] = 2, [3] = 3, [4] = 4, [5] = 5, [6] = 6, [8] = 8};
    return LN_LINE * lines[f.bits];
}

static inline int ln_cell_bytes(ln_panel_format f) {
    int quants = f.bits == LN_TRITS ? LN_TRIT_LINES * LN_LINE : ln_cell_groups(f) * ln_group_bytes(f);
    return ln_head_bytes(f) + quants;
}

#endif
