/* panels.h - how the weights of block types lie while a model runs: 16 rows interleaved, so that
 * one vector register holds four columns of sixteen rows, the shape that dot product instructions
 * of every processor take (AVX-512 VNNI 16 rows at once, AVX2 8, NEON 4).
 *
 * A panel is 16 rows; it is a sequence of cells of 64 or 256 columns; a cell holds the scales of its
 * groups, then the quants of each group of 32 columns in lines of 64 bytes (panels.c has the details).
 * Rows past the end of the matrix are zero, and so are the columns of half a last cell.
 */
#ifndef LINNET_PANELS_H
#define LINNET_PANELS_H

#include "kernels/kernels.h"

/* Bytes of one panel of a block type, a multiple of 64. 0 for types that are not packed. */
size_t ln_panel_bytes(int32_t type, int64_t cols);

/* Bytes of all panels of a matrix. */
size_t ln_panels_bytes(int32_t type, int64_t rows, int64_t cols);

/* Packs n_rows <= 16 GGUF rows of type, row_bytes apart, into a panel. */
void ln_panel_pack(int32_t type, const void *rows, size_t row_bytes, int64_t n_rows, int64_t cols, void *panel);

/* One group of 32 columns of one row of a packed matrix. */
typedef struct ln_panel_group {
    int8_t q[LN_Q8_GROUP]; /* value = scale * q + minimum */
    float scale[2];        /* of each half; the same where n_scales is 1 */
    float minimum[2];
    int n_scales;
    int has_minimum;
} ln_panel_group;

void ln_panel_group_of(const ln_matrix *w, int64_t row, int64_t group, ln_panel_group *out);

/* Row of a matrix (of any type) as floats [cols]. */
void ln_matrix_row(const ln_matrix *w, int64_t row, float *out);

/* Quantises one row of floats (NULL: zeros) as q8_0 or q4_0 would and puts it into a panel of that type. */
void ln_panel_set_row(int32_t type, void *panel, int64_t row, const float *x, int64_t cols);

#endif
