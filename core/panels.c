/* panels.c - packs GGUF rows of block types into panels; kernels/panel_formats.h describes them. */
#include "panels.h"

#include <string.h>

#include "block_formats.h"
#include "kernels/isa.h"
#include "kernels/panel_formats.h"
#include "linnet.h"

#define F16_SIGN 0x8000
#define PREFETCH_BYTES 4096 /* ahead of the cell that is written */

/* ---- the table --------------------------------------------------------------------- */

#define FORMAT(type, ...) [LN_TYPE_##type] = {__VA_ARGS__},
static const ln_panel_format formats[LN_TYPE_LIMIT] = {LN_PANEL_FORMATS(FORMAT)};
#undef FORMAT

static int is_packed(int32_t type) {
    return type >= 0 && type < LN_TYPE_LIMIT && formats[type].bits != 0;
}

size_t ln_panel_bytes(int32_t type, int64_t cols) {
    if (!is_packed(type)) {
        return 0;
    }
    const int64_t cell_cols = ln_cell_groups(formats[type]) * LN_Q8_GROUP;
    return (size_t)((cols + cell_cols - 1) / cell_cols) * (size_t)ln_cell_bytes(formats[type]);
}

size_t ln_panels_bytes(int32_t type, int64_t rows, int64_t cols) {
    return (size_t)((rows + LN_PANEL_ROWS - 1) / LN_PANEL_ROWS) * ln_panel_bytes(type, cols);
}

/* ---- writing a cell ---------------------------------------------------------------- */

/* The numbers of one block: row is its row of the panel, block which of the cell's blocks it is. */
static LN_ALWAYS_INLINE void put_head(ln_panel_format f, ln_block_format b, const uint8_t *in, int block, int row,
                                      uint8_t *cell) {
    const int at = (block * LN_PANEL_ROWS + row) * 2;
    ln_store_u16(cell + at, ln_read_d(b, in));
    if (b.m != 0) { /* dmin is subtracted, minima of panels are added */
        uint8_t *minimum = cell + (b.groups > 0 ? LN_LINE / 2 : LN_LINE);
        ln_store_u16(minimum + at, ln_load_u16(in + b.m) ^ (b.groups > 0 ? F16_SIGN : 0));
    }
    uint8_t number[2 * LN_MAX_GROUPS];
    ln_read_scales(b, in, number);
    for (int i = 0; i < (ln_head_bytes(f) - LN_LINE) / LN_PANEL_ROWS && b.groups > 0; i++) {
        const int high = f.scales == LN_SCALES_SUB16_NIBBLES ? number[b.groups + i] << 4 : 0;
        cell[LN_LINE + i * LN_PANEL_ROWS + row] = (uint8_t)(number[i] | high);
    }
}

/* Bits [from, from + bits) of the codes of n steps, side by side. */
static LN_ALWAYS_INLINE uint32_t gather_bits(const uint32_t *steps, int n, int from, int bits) {
    const uint32_t mask = (uint32_t)((1 << bits) - 1) * 0x01010101u;
    uint32_t line = 0;
    for (int k = 0; k < n; k++) {
        line |= (steps[k] >> from & mask) << (bits * k);
    }
    return line;
}

/* Writes one row of a group, given the codes of each step: a word of each line. */
static LN_ALWAYS_INLINE void put_codes(ln_panel_format f, const uint32_t *steps, uint8_t *lines) {
    if (f.bits == 8) {
        for (int k = 0; k < LN_STEPS; k++) {
            ln_store_u32(lines + k * LN_LINE, steps[k]);
        }
        return;
    }
    if (f.bits < 4) {
        ln_store_u32(lines, gather_bits(steps, 4, 0, 2));
        ln_store_u32(lines + LN_LINE, gather_bits(steps + 4, 4, 0, 2));
        if (f.bits == 3) {
            ln_store_u32(lines + 2 * LN_LINE, gather_bits(steps, LN_STEPS, 2, 1));
        }
        return;
    }
    for (int k = 0; k < 4; k++) {
        ln_store_u32(lines + k * LN_LINE, (steps[k] & 0x0f0f0f0fu) | (steps[k + 4] & 0x0f0f0f0fu) << 4);
    }
    if (f.bits == 5) {
        ln_store_u32(lines + 4 * LN_LINE, gather_bits(steps, LN_STEPS, 4, 1));
    } else if (f.bits == 6) {
        ln_store_u32(lines + 4 * LN_LINE, gather_bits(steps, 4, 4, 2));
        ln_store_u32(lines + 5 * LN_LINE, gather_bits(steps + 4, 4, 4, 2));
    }
}

/* Writes one row of a cell of base-3 digits, a word of each line. A number of five digits fits a byte, so
 * the four of a word grow side by side. */
static LN_ALWAYS_INLINE void put_trits(const uint32_t *steps, uint8_t *lines) {
    for (int line = 0; line < LN_TRIT_LINES; line++) {
        uint32_t numbers = 0;
        for (int digit = 0; digit < LN_TRITS_PER_BYTE; digit++) {
            const int step = line * LN_TRITS_PER_BYTE + digit;
            numbers = 3 * numbers + (step < LN_SUPER / 4 ? steps[step] : 0);
        }
        for (int b = 0; b < 4; b++) {
            lines[line * LN_LINE + b] = ln_digits_byte(numbers >> 8 * b & 255);
        }
    }
}

/* ---- packing ------------------------------------------------------------------------- */

/* Packs one row of n_blocks into one cell. */
static LN_ALWAYS_INLINE void pack_cell_row(ln_panel_format f, ln_block_format b, const uint8_t *in, int n_blocks,
                                           int row, uint8_t *cell) {
    uint8_t *lines = cell + ln_head_bytes(f) + 4 * row;
    for (int block = 0; block < n_blocks; block++, in += b.bytes) {
        put_head(f, b, in, block, row, cell);
        uint32_t steps[LN_SUPER / 4];
        LN_UNROLL for (int part = 0; part < b.elements / LN_Q8_GROUP; part++) {
            uint32_t *group = steps + part * LN_STEPS;
            ln_read_codes(b, in, part, group);
            if (f.bits != LN_TRITS) {
                put_codes(f, group, lines);
                lines += ln_group_bytes(f);
            }
        }
        if (f.bits == LN_TRITS) {
            put_trits(steps, lines);
        }
    }
}

/* GGUF rows, row_bytes apart, that become rows first_row .. first_row + n_rows - 1 of a panel. */
typedef struct source_rows {
    const uint8_t *data;
    size_t row_bytes;
    int64_t cols;
    int first_row, n_rows;
} source_rows;

/* Asks for what comes next: the same place in the next panel of the source, and of the target the cell
 * after this one, of which row r takes its share. A processor foresees neither: a source row is soon over,
 * and lines that are to be written are fetched only when the first word of them is. */
static LN_ALWAYS_INLINE void prefetch(const uint8_t *in, int in_bytes, const uint8_t *cell, int cell_bytes, int r) {
    for (int i = 0; i < in_bytes; i += LN_LINE) {
        __builtin_prefetch(in + i, 0);
    }
    for (int i = r * LN_LINE; i < cell_bytes; i += LN_PANEL_ROWS * LN_LINE) {
        __builtin_prefetch(cell + PREFETCH_BYTES + i, 1);
    }
}

/* Cell by cell, so that a cell is in the cache until it is whole. */
static LN_ALWAYS_INLINE void pack_rows(ln_panel_format f, ln_block_format b, const source_rows *from, uint8_t *panel) {
    const int cell_blocks = ln_cell_groups(f) * LN_Q8_GROUP / b.elements;
    const size_t panel_bytes = LN_PANEL_ROWS * from->row_bytes;
    const uint8_t *in = from->data;
    uint8_t *cell = panel;
    int64_t blocks = from->cols / b.elements;
    for (; blocks >= cell_blocks; blocks -= cell_blocks, in += cell_blocks * b.bytes, cell += ln_cell_bytes(f)) {
        for (int r = 0; r < from->n_rows; r++) {
            const uint8_t *row = in + (size_t)r * from->row_bytes;
            prefetch(row + panel_bytes, cell_blocks * b.bytes, cell, ln_cell_bytes(f), r);
            pack_cell_row(f, b, row, cell_blocks, from->first_row + r, cell);
        }
    }
    for (int r = 0; blocks > 0 && r < from->n_rows; r++) {
        pack_cell_row(f, b, in + (size_t)r * from->row_bytes, (int)blocks, from->first_row + r, cell);
    }
}

typedef void pack_rows_fn(const source_rows *from, uint8_t *panel);

#define PACK_ROWS(type, ...)                                                          \
    static void pack_rows_##type(const source_rows *from, uint8_t *panel) {           \
        pack_rows((ln_panel_format){__VA_ARGS__}, ln_block_##type, from, panel);      \
    }
LN_PANEL_FORMATS(PACK_ROWS)
#undef PACK_ROWS

#define ENTRY(type, ...) [LN_TYPE_##type] = pack_rows_##type,
static pack_rows_fn *const packers[LN_TYPE_LIMIT] = {LN_PANEL_FORMATS(ENTRY)};
#undef ENTRY

void ln_panel_pack(int32_t type, const void *rows, size_t row_bytes, int64_t n_rows, int64_t cols, void *panel) {
    const source_rows from = {.data = rows, .row_bytes = row_bytes, .cols = cols, .n_rows = (int)n_rows};
    if (n_rows < LN_PANEL_ROWS || cols % (ln_cell_groups(formats[type]) * LN_Q8_GROUP) != 0) {
        memset(panel, 0, ln_panel_bytes(type, cols)); /* what no row writes */
    }
    packers[type](&from, panel);
}

void ln_panel_set_row(int32_t type, void *panel, int64_t row, const float *x, int64_t cols) {
    static const float zeros[2 * LN_BLOCK];
    uint8_t blocks[2 * (2 + LN_BLOCK)]; /* of one cell */
    const ln_type_traits *traits = ln_type_traits_of(type);
    uint8_t *cell = panel;
    for (int64_t c = 0; c < cols; c += 2 * LN_BLOCK, cell += ln_cell_bytes(formats[type])) {
        const int64_t left = cols - c < 2 * LN_BLOCK ? cols - c : 2 * LN_BLOCK;
        const source_rows from = {.data = blocks, .cols = left, .first_row = (int)row, .n_rows = 1};
        traits->pack(x != NULL ? x + c : zeros, left, blocks);
        packers[type](&from, cell);
    }
}

/* ---- reading a panel ---------------------------------------------------------------- */

static void get_codes(ln_panel_format f, const uint8_t *lines, uint8_t *codes) {
    for (int step = 0; step < LN_STEPS; step++) {
        const int k = step % 4, second = step / 4;
        for (int b = 0; b < 4; b++) {
            uint8_t *code = &codes[4 * step + b];
            if (f.bits == 8) {
                *code = lines[step * LN_LINE + b];
            } else if (f.bits < 4) {
                *code = lines[second * LN_LINE + b] >> (2 * k) & 3;
            } else {
                *code = lines[k * LN_LINE + b] >> (4 * second) & 15;
            }
            if (f.bits == 3) {
                *code |= (uint8_t)((lines[2 * LN_LINE + b] >> step & 1) << 2);
            } else if (f.bits == 5) {
                *code |= (uint8_t)((lines[4 * LN_LINE + b] >> step & 1) << 4);
            } else if (f.bits == 6) {
                *code |= (uint8_t)((lines[(4 + second) * LN_LINE + b] >> (2 * k) & 3) << 4);
            }
        }
    }
}

static void get_trits(const uint8_t *lines, int group, uint8_t *codes) {
    for (int step = 0; step < LN_STEPS; step++) {
        const int at = group * LN_STEPS + step;
        for (int b = 0; b < 4; b++) {
            unsigned fraction = lines[at / LN_TRITS_PER_BYTE * LN_LINE + b];
            for (int digit = 0; digit < at % LN_TRITS_PER_BYTE; digit++) {
                fraction = fraction * 3 & 255;
            }
            codes[4 * step + b] = (uint8_t)(fraction * 3 >> 8);
        }
    }
}

static float head_f16(const uint8_t *cell, int item, int row) {
    return ln_f16_to_f32(ln_load_u16(cell + (item * LN_PANEL_ROWS + row) * 2));
}

static void get_scales(ln_panel_format f, const uint8_t *cell, int g, int row, ln_panel_group *out) {
    const uint8_t *sub = cell + LN_LINE + row;
    const float super = head_f16(cell, 0, row);
    for (int h = 0; h < 2; h++) {
        const uint8_t byte = sub[(2 * g + h) * LN_PANEL_ROWS];
        switch (f.scales) {
        case LN_SCALES_F16:
            out->scale[h] = head_f16(cell, g, row);
            out->minimum[h] = f.has_minimum ? head_f16(cell, 2 + g, row) : 0.0f;
            break;
        case LN_SCALES_BF16:
            ln_type_traits_of(LN_TYPE_BF16)->unpack(cell + (g * LN_PANEL_ROWS + row) * 2, 1, &out->scale[h]);
            break;
        case LN_SCALES_SUPER:
            out->scale[h] = super;
            out->minimum[h] = -super;
            break;
        case LN_SCALES_SUB32:
            out->scale[h] = super * (float)sub[g * LN_PANEL_ROWS];
            out->minimum[h] = head_f16(cell, 1, row) * (float)sub[(8 + g) * LN_PANEL_ROWS];
            break;
        case LN_SCALES_SUB32_SIGNED:
            out->scale[h] = super * (float)(int8_t)sub[g * LN_PANEL_ROWS];
            break;
        case LN_SCALES_SUB16_SIGNED:
            out->scale[h] = super * (float)(int8_t)byte;
            break;
        case LN_SCALES_SUB16_NIBBLES:
            out->scale[h] = super * (float)(byte & 15);
            out->minimum[h] = head_f16(cell, 1, row) * (float)(byte >> 4);
            break;
        }
    }
}

void ln_panel_group_of(const ln_matrix *w, int64_t row, int64_t group, ln_panel_group *out) {
    const ln_panel_format f = formats[w->type];
    const uint8_t *panel = (const uint8_t *)w->data + (size_t)(row / LN_PANEL_ROWS) * w->stride;
    const uint8_t *cell = panel + group / ln_cell_groups(f) * ln_cell_bytes(f);
    const int lane = (int)(row % LN_PANEL_ROWS);
    const int g = (int)(group % ln_cell_groups(f));
    const uint8_t *lines = cell + ln_head_bytes(f) + 4 * lane;
    uint8_t codes[LN_Q8_GROUP];
    if (f.bits == LN_TRITS) {
        get_trits(lines, g, codes);
    } else {
        get_codes(f, lines + g * ln_group_bytes(f), codes);
    }
    for (int j = 0; j < LN_Q8_GROUP; j++) {
        int code = f.table == LN_TABLE_NONE ? codes[j] : ln_table_values(f.table)[codes[j]];
        out->q[j] = (int8_t)(code - f.offset);
    }
    get_scales(f, cell, g, lane, out);
    out->n_scales = ln_has_halves(f) ? 2 : 1;
    out->has_minimum = f.has_minimum;
}

void ln_matrix_row(const ln_matrix *w, int64_t row, float *out) {
    if (!is_packed(w->type)) {
        ln_type_traits_of(w->type)->unpack((const uint8_t *)w->data + (size_t)row * w->stride, w->cols, out);
        return;
    }
    for (int64_t g = 0; g < w->cols / LN_Q8_GROUP; g++) {
        ln_panel_group group = {0};
        ln_panel_group_of(w, row, g, &group);
        for (int j = 0; j < LN_Q8_GROUP; j++) {
            const int h = j * 2 / LN_Q8_GROUP;
            *out++ = group.scale[h] * (float)group.q[j] + group.minimum[h];
        }
    }
}
