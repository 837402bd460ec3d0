/* panels.c - packs GGUF rows of block types into panels; kernels/panel_formats.h describes them. */
#include "panels.h"

#include <string.h>

#include "kernels/isa.h"
#include "kernels/panel_formats.h"
#include "linnet.h"
#include "quants.h"

#define CELL_COLS LN_SUPER /* at most */

/* One row of one cell, as its GGUF blocks store it. */
typedef struct cell_row {
    uint16_t scale[2];     /* f16 (mxfp4: bf16) of each block of 32, or of the super-block in [0] */
    uint16_t minimum[2];   /* f16, added */
    uint8_t sub_scale[16];   /* of the groups or half groups of a super-block */
    uint8_t sub_minimum[8];
    uint8_t code[CELL_COLS];
} cell_row;

#define F16_SIGN 0x8000

/* TEMP until shared by quants_k.c */
static void ln_get_scales(const uint8_t *bytes, uint8_t *scale, uint8_t *minimum) {
    for (int g = 0; g < 4; g++) {
        scale[g] = bytes[g] & 63;
        minimum[g] = bytes[g + 4] & 63;
        scale[g + 4] = (uint8_t)((bytes[g + 8] & 15) | (bytes[g] >> 6) << 4);
        minimum[g + 4] = (uint8_t)(bytes[g + 8] >> 4 | (bytes[g + 4] >> 6) << 4);
    }
}
static int ln_tq1_0_fraction(int number) { return (number * 256 + 242) / 243; }
static void ln_tq1_0_digits(const uint8_t *in, uint8_t *out) {
    static const int runs[3][2] = {{32, 5}, {16, 5}, {4, 4}};
    for (int r = 0; r < 3; r++) {
        int power = 1;
        for (int digit = 0; digit < runs[r][1]; digit++, power *= 3) {
            for (int j = 0; j < runs[r][0]; j++) {
                *out++ = (uint8_t)((uint8_t)(in[j] * power) * 3 >> 8);
            }
        }
        in += runs[r][0];
    }
}
/* END TEMP */

/* ---- reading a GGUF block ---------------------------------------------------------
 *
 * Each reads one block of its type; block is which of the cell's blocks it is. quants.c and quants_k.c
 * describe the formats. */

static LN_ALWAYS_INLINE void read_Q4_0(const uint8_t *in, int block, cell_row *out) {
    out->scale[block] = ln_load_u16(in);
    ln_read_fields(in + 2, LN_BLOCK, 16, 4, 0, out->code + block * LN_BLOCK);
}

static LN_ALWAYS_INLINE void read_Q4_1(const uint8_t *in, int block, cell_row *out) {
    out->scale[block] = ln_load_u16(in);
    out->minimum[block] = ln_load_u16(in + 2);
    ln_read_fields(in + 4, LN_BLOCK, 16, 4, 0, out->code + block * LN_BLOCK);
}

static void read_fifth_bits(const uint8_t *in, uint8_t *code) {
    for (int j = 0; j < LN_BLOCK; j++) {
        code[j] |= (uint8_t)((in[j / 8] >> (j % 8) & 1) << 4);
    }
}

static LN_ALWAYS_INLINE void read_Q5_0(const uint8_t *in, int block, cell_row *out) {
    out->scale[block] = ln_load_u16(in);
    read_fifth_bits(in + 2, out->code + block * LN_BLOCK);
    ln_read_fields(in + 6, LN_BLOCK, 16, 4, 0, out->code + block * LN_BLOCK);
}

static LN_ALWAYS_INLINE void read_Q5_1(const uint8_t *in, int block, cell_row *out) {
    out->scale[block] = ln_load_u16(in);
    out->minimum[block] = ln_load_u16(in + 2);
    read_fifth_bits(in + 4, out->code + block * LN_BLOCK);
    ln_read_fields(in + 8, LN_BLOCK, 16, 4, 0, out->code + block * LN_BLOCK);
}

static LN_ALWAYS_INLINE void read_Q8_0(const uint8_t *in, int block, cell_row *out) {
    out->scale[block] = ln_load_u16(in);
    for (int j = 0; j < LN_BLOCK; j++) {
        out->code[block * LN_BLOCK + j] = in[2 + j] ^ 0x80;
    }
}

#define read_IQ4_NL read_Q4_0 /* the same bytes; what a code stands for differs */

/* e8m0: 2^(e - 127), halved because the table holds doubled values (OCP Microscaling, 2023). */
static LN_ALWAYS_INLINE void read_MXFP4(const uint8_t *in, int block, cell_row *out) {
    out->scale[block] = (uint16_t)(in[0] < 2 ? 0x20 << in[0] : (in[0] - 1) << 7);
    ln_read_fields(in + 1, LN_BLOCK, 16, 4, 0, out->code + block * LN_BLOCK);
}

static LN_ALWAYS_INLINE void read_Q2_K(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    memcpy(out->sub_scale, in, 16);
    ln_read_fields(in + 16, LN_SUPER, 32, 2, 0, out->code);
    out->scale[0] = ln_load_u16(in + 80);
    out->minimum[0] = ln_load_u16(in + 82) ^ F16_SIGN;
}

static LN_ALWAYS_INLINE void read_Q3_K(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    ln_read_fields(in, LN_SUPER, 32, 1, 2, out->code);
    ln_read_fields(in + 32, LN_SUPER, 32, 2, 0, out->code);
    ln_read_fields(in + 96, 16, 8, 4, 0, out->sub_scale);
    ln_read_fields(in + 104, 16, 4, 2, 4, out->sub_scale);
    for (int g = 0; g < 16; g++) {
        out->sub_scale[g] = (uint8_t)(out->sub_scale[g] - 32);
    }
    out->scale[0] = ln_load_u16(in + 108);
}

static LN_ALWAYS_INLINE void read_Q4_K(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    out->scale[0] = ln_load_u16(in);
    out->minimum[0] = ln_load_u16(in + 2) ^ F16_SIGN;
    ln_get_scales(in + 4, out->sub_scale, out->sub_minimum);
    ln_read_fields(in + 16, LN_SUPER, 32, 4, 0, out->code);
}

static LN_ALWAYS_INLINE void read_Q5_K(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    out->scale[0] = ln_load_u16(in);
    out->minimum[0] = ln_load_u16(in + 2) ^ F16_SIGN;
    ln_get_scales(in + 4, out->sub_scale, out->sub_minimum);
    ln_read_fields(in + 16, LN_SUPER, 32, 1, 4, out->code);
    ln_read_fields(in + 48, LN_SUPER, 32, 4, 0, out->code);
}

static LN_ALWAYS_INLINE void read_Q6_K(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    ln_read_fields(in, LN_SUPER, 64, 4, 0, out->code);
    ln_read_fields(in + 128, LN_SUPER, 32, 2, 4, out->code);
    memcpy(out->sub_scale, in + 192, 16);
    out->scale[0] = ln_load_u16(in + 208);
}

static LN_ALWAYS_INLINE void read_IQ4_XS(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    out->scale[0] = ln_load_u16(in);
    ln_read_fields(in + 2, 8, 1, 2, 4, out->sub_scale);
    ln_read_fields(in + 4, 8, 1, 4, 0, out->sub_scale);
    for (int g = 0; g < 8; g++) {
        out->sub_scale[g] = (uint8_t)(out->sub_scale[g] - 32);
    }
    ln_read_fields(in + 8, LN_SUPER, 16, 4, 0, out->code);
}

static LN_ALWAYS_INLINE void read_TQ1_0(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    ln_tq1_0_digits(in, out->code);
    out->scale[0] = ln_load_u16(in + LN_TQ1_0_BYTES - 2);
}

static LN_ALWAYS_INLINE void read_TQ2_0(const uint8_t *in, int block, cell_row *out) {
    (void)block;
    ln_read_fields(in, LN_SUPER, 32, 2, 0, out->code);
    out->scale[0] = ln_load_u16(in + 64);
}

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

static LN_ALWAYS_INLINE void put_head(ln_panel_format f, const cell_row *from, int row, uint8_t *cell) {
    const int blocks = ln_cell_groups(f) == 2 ? 2 : 1;
    for (int i = 0; i < blocks; i++) {
        ln_store_u16(cell + (i * LN_PANEL_ROWS + row) * 2, from->scale[i]);
    }
    uint8_t *minimum = cell + (blocks == 2 ? LN_LINE : LN_LINE / 2);
    for (int i = 0; f.has_minimum && f.scales != LN_SCALES_SUPER && i < blocks; i++) {
        ln_store_u16(minimum + (i * LN_PANEL_ROWS + row) * 2, from->minimum[i]);
    }
    const int n_sub = (ln_head_bytes(f) - LN_LINE) / LN_PANEL_ROWS;
    for (int i = 0; blocks == 1 && i < n_sub; i++) {
        /* SUB32: 8 scales, then 8 minima. */
        int is_minimum = f.scales == LN_SCALES_SUB32 && i >= 8;
        cell[LN_LINE + i * LN_PANEL_ROWS + row] = is_minimum ? from->sub_minimum[i - 8] : from->sub_scale[i];
    }
}

static uint32_t load_u32(const uint8_t *p) {
    uint32_t value;
    memcpy(&value, p, sizeof value);
    return value;
}

static void store_u32(uint8_t *p, uint32_t value) {
    memcpy(p, &value, sizeof value);
}

/* Bits [from, from + bits) of n steps' codes, side by side. */
static LN_ALWAYS_INLINE uint32_t gather_fields(const uint8_t *codes, int n, int from, int bits) {
    const uint32_t mask = (uint32_t)((1 << bits) - 1) * 0x01010101u;
    uint32_t line = 0;
    for (int k = 0; k < n; k++) {
        line |= (load_u32(codes + 4 * k) >> from & mask) << (bits * k);
    }
    return line;
}

/* Writes the codes of one row of a group: four bytes of each line. */
static LN_ALWAYS_INLINE void put_codes(ln_panel_format f, const uint8_t *codes, uint8_t *lines) {
    if (f.bits == 8) {
        for (int k = 0; k < LN_STEPS; k++) {
            store_u32(lines + k * LN_LINE, load_u32(codes + 4 * k));
        }
        return;
    }
    if (f.bits < 4) {
        store_u32(lines, gather_fields(codes, 4, 0, 2));
        store_u32(lines + LN_LINE, gather_fields(codes + 16, 4, 0, 2));
        if (f.bits == 3) {
            store_u32(lines + 2 * LN_LINE, gather_fields(codes, LN_STEPS, 2, 1));
        }
        return;
    }
    for (int k = 0; k < 4; k++) {
        uint32_t low = load_u32(codes + 4 * k) & 0x0f0f0f0fu;
        uint32_t high = load_u32(codes + 4 * k + 16) & 0x0f0f0f0fu;
        store_u32(lines + k * LN_LINE, low | high << 4);
    }
    if (f.bits == 5) {
        store_u32(lines + 4 * LN_LINE, gather_fields(codes, LN_STEPS, 4, 1));
    } else if (f.bits == 6) {
        store_u32(lines + 4 * LN_LINE, gather_fields(codes, 4, 4, 2));
        store_u32(lines + 5 * LN_LINE, gather_fields(codes + 16, 4, 4, 2));
    }
}

/* Writes the base-3 digits of one row of a cell: four bytes of each line. */
static LN_ALWAYS_INLINE void put_trits(const uint8_t *codes, uint8_t *lines) {
    for (int i = 0; i < LN_TRIT_LINES * 4; i++) {
        int number = 0;
        for (int digit = 0; digit < LN_TRITS_PER_BYTE; digit++) {
            int step = i / 4 * LN_TRITS_PER_BYTE + digit;
            number = 3 * number + (step < LN_SUPER / 4 ? codes[4 * step + i % 4] : 0);
        }
        lines[i / 4 * LN_LINE + i % 4] = (uint8_t)ln_tq1_0_fraction(number);
    }
}

static LN_ALWAYS_INLINE void put_row(ln_panel_format f, const cell_row *from, int row, int n_groups, uint8_t *cell) {
    put_head(f, from, row, cell);
    uint8_t *lines = cell + ln_head_bytes(f) + 4 * row;
    if (f.bits == LN_TRITS) {
        put_trits(from->code, lines);
        return;
    }
    for (int g = 0; g < n_groups; g++) {
        put_codes(f, from->code + g * LN_Q8_GROUP, lines + g * ln_group_bytes(f));
    }
}

/* ---- packing ------------------------------------------------------------------------- */

typedef void read_fn(const uint8_t *in, int block, cell_row *out);

/* Packs one GGUF row into its place in a panel. */
static LN_ALWAYS_INLINE void pack_row(ln_panel_format f, read_fn *read, const ln_type_traits *traits, const uint8_t *in,
                                      int64_t cols, int row, uint8_t *panel) {
    const int cell_cols = ln_cell_groups(f) * LN_Q8_GROUP;
    const int block_cols = cell_cols == LN_SUPER ? LN_SUPER : LN_BLOCK;
    for (int64_t c = 0; c < cols; c += cell_cols, panel += ln_cell_bytes(f)) {
        cell_row cell = {0};
        const int blocks = (int)((cols - c < cell_cols ? cols - c : cell_cols) / block_cols);
        for (int block = 0; block < blocks; block++, in += traits->block_bytes) {
            read(in, block, &cell);
        }
        put_row(f, &cell, row, blocks * block_cols / LN_Q8_GROUP, panel);
    }
}

typedef void pack_row_fn(const uint8_t *in, int64_t cols, int row, uint8_t *panel);

#define PACK_ROW(type, ...)                                                                         \
    static void pack_row_##type(const uint8_t *in, int64_t cols, int row, uint8_t *panel) {         \
        pack_row((ln_panel_format){__VA_ARGS__}, read_##type, ln_type_traits_of(LN_TYPE_##type), in, cols, row, panel); \
    }
LN_PANEL_FORMATS(PACK_ROW)
#undef PACK_ROW

#define ENTRY(type, ...) [LN_TYPE_##type] = pack_row_##type,
static pack_row_fn *const pack_rows[LN_TYPE_LIMIT] = {LN_PANEL_FORMATS(ENTRY)};
#undef ENTRY

void ln_panel_pack(int32_t type, const void *rows, size_t row_bytes, int64_t n_rows, int64_t cols, void *panel) {
    if (n_rows < LN_PANEL_ROWS || cols % (ln_cell_groups(formats[type]) * LN_Q8_GROUP) != 0) {
        memset(panel, 0, ln_panel_bytes(type, cols)); /* what no row writes */
    }
    for (int64_t r = 0; r < n_rows; r++) {
        pack_rows[type]((const uint8_t *)rows + (size_t)r * row_bytes, cols, (int)r, panel);
    }
}

void ln_panel_set_row(int32_t type, void *panel, int64_t row, const float *x, int64_t cols) {
    uint8_t blocks[2 * (2 + LN_BLOCK)]; /* of one cell */
    const ln_type_traits *traits = ln_type_traits_of(type);
    uint8_t *cell = panel;
    for (int64_t c = 0; c < cols; c += 2 * LN_BLOCK, cell += ln_cell_bytes(formats[type])) {
        const int64_t left = cols - c < 2 * LN_BLOCK ? cols - c : 2 * LN_BLOCK;
        traits->pack(x + c, left, blocks);
        pack_rows[type](blocks, left, (int)row, cell);
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
    static const uint8_t tables[][16] = {[LN_TABLE_IQ4] = {LN_IQ4_VALUES}, [LN_TABLE_MXFP4] = {LN_MXFP4_VALUES}};
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
        int code = f.table == LN_TABLE_NONE ? codes[j] : tables[f.table][codes[j]];
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
