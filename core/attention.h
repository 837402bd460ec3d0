/* attention.h - the attention of a pass: queries of many sequences, each over its own pages. */
#ifndef LINNET_ATTENTION_H
#define LINNET_ATTENTION_H

#include "arch.h"
#include "threads.h"

/* A segment's part of the work. Queries that share a key/value head, all of a segment's tokens together, are cut
 * into tiles of LN_ATTENTION_ROWS. */
typedef struct ln_attention_share {
    int32_t n_rows;        /* queries per key/value head */
    int32_t n_tiles;
    int32_t first_chunk;   /* that any of its tokens attends to in any layer */
    int32_t n_chunks;
    int32_t first_item;
    int64_t first_partial; /* of its [n_kv_heads][n_rows][n_chunks] */
} ln_attention_share;

/* How the attention of a pass is shared out. Tiles are the items; where they are too few for the threads, each
 * is split by chunks of positions as well, and their partial results are merged afterwards, in the same order
 * and with the same bits as a tile by itself would do. */
typedef struct ln_attention_plan {
    int32_t is_split;
    int32_t n_items;
    int64_t n_madds;
    int64_t max_partials; /* that fit partials */
    float *partials;      /* [max_partials][ln_partial_floats(head_dim)] */
    char *scratch;        /* [n_threads][ln_attention_scratch_bytes] */
} ln_attention_plan;

/* Bytes of scratch memory a thread needs, a multiple of 64. */
size_t ln_attention_scratch_bytes(const ln_facts *facts);

/* The first position a token attends to with a window, or without one (0). */
int32_t ln_attention_begin(int32_t window, int32_t position);

/* Shares out the segments of the workspace's pass. */
void ln_attention_prepare(ln_workspace *workspace);

/* Replaces the queries of the pass by what they attend to in one layer. */
void ln_attention_run(ln_workspace *workspace, int32_t layer);

#endif
