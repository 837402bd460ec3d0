/* amx.h - products of block types on the int8 tiles of AMX, for the table in avx512.c. */
#ifndef LINNET_AMX_H
#define LINNET_AMX_H

#include "panel_formats.h"

#define AMX_MATMUL(type, ...)                                                                                   \
    void ln_amx_matmul_##type(const ln_matrix *w, int64_t row_begin, int64_t row_end, const ln_vectors *x,      \
                              float *y, int64_t y_stride);
LN_PANEL_FORMATS(AMX_MATMUL)
#undef AMX_MATMUL

#define AMX_MATMUL_ENTRY(type, ...) [LN_TYPE_##type] = ln_amx_matmul_##type,
#define AMX_MATMULS LN_PANEL_FORMATS(AMX_MATMUL_ENTRY)

#endif
