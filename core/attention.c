/* attention.c - shares the attention of a pass out over the threads.
 *
 * An item is a tile of queries and their key/value head, over all chunks of positions in order or, when the
 * plan is split, over one of them ("flash-decoding": Dao et al. 2023). Each chunk gives a partial result per
 * query; partial results are merged one after the other. The chunks are the same however the work is
 * shared out, and so are the bits.
 */
#include "attention.h"

#include <math.h>
#include <string.h>

#include "session.h"

#define ALIGNMENT 64

/* Tiles per thread below which they are split by chunks. */
#define TILES_PER_THREAD 8

/* ---- the plan ------------------------------------------------------------------ */

int32_t ln_attention_begin(int32_t window, int32_t position) {
    return window == 0 || position < window ? 0 : position - window + 1;
}

static int32_t rounded_up(int32_t n, int32_t to) {
    return n / to + (n % to != 0);
}

/* Multiply-adds of scores and values of a segment in one layer, about. */
static int64_t madds_of(const ln_facts *f, const ln_segment *s) {
    const int32_t last = s->position + s->n - 1;
    return 2 * (int64_t)s->n * f->n_heads * f->head_dim * (last - ln_attention_begin(f->lookback, last) + 1);
}

void ln_attention_prepare(ln_workspace *workspace) {
    const ln_facts *f = &workspace->model->facts;
    ln_attention_plan *plan = &workspace->attention;
    int32_t n_tiles = 0;
    int32_t most_chunks = 0;
    int64_t n_partials = 0;
    plan->n_madds = 0;
    for (int32_t i = 0; i < workspace->n_segments; i++) {
        const ln_segment *s = &workspace->segments[i];
        ln_attention_share *share = &workspace->segments[i].attention;
        share->n_rows = s->n * (f->n_heads / f->n_kv_heads);
        share->n_tiles = rounded_up(share->n_rows, LN_ATTENTION_ROWS);
        share->first_chunk = ln_attention_begin(f->lookback, s->position) / LN_CHUNK;
        share->n_chunks = rounded_up(s->position + s->n, LN_CHUNK) - share->first_chunk;
        share->first_partial = n_partials;
        n_tiles += share->n_tiles * f->n_kv_heads;
        n_partials += (int64_t)share->n_rows * f->n_kv_heads * share->n_chunks;
        most_chunks = share->n_chunks > most_chunks ? share->n_chunks : most_chunks;
        plan->n_madds += madds_of(f, s);
    }
    const int32_t n_threads = ln_threads_count(workspace->compute.threads);
    plan->is_split = n_threads > 1 && n_tiles < TILES_PER_THREAD * n_threads && most_chunks > 1 &&
                     n_partials <= plan->max_partials;
    plan->n_items = 0;
    for (int32_t i = 0; i < workspace->n_segments; i++) {
        ln_attention_share *share = &workspace->segments[i].attention;
        share->first_item = plan->n_items;
        plan->n_items += share->n_tiles * f->n_kv_heads * (plan->is_split ? share->n_chunks : 1);
    }
}

/* ---- a tile ---------------------------------------------------------------------- */

/* Up to LN_ATTENTION_ROWS queries of a segment that share a key/value head. Query r of the segment is head
 * r % group of token r / group, group being the heads that share. */
typedef struct tile {
    const ln_workspace *workspace;
    const ln_segment *segment;
    int32_t layer;
    int32_t kv_head;
    int32_t first_row;
    int32_t n;
} tile;

/* One thread's memory. */
typedef struct scratch {
    float *q;        /* [LN_ATTENTION_ROWS][head_dim] */
    ln_q8_block *q8; /* see ln_vectors */
    int32_t *begin;  /* [LN_ATTENTION_ROWS] */
    int32_t *end;
    float *scores;   /* [LN_ATTENTION_ROWS][LN_CHUNK] */
    float *widened;  /* [LN_PAGE][padded head_dim] */
    float *partials; /* [LN_ATTENTION_ROWS][ln_partial_floats(head_dim)] */
    float *totals;   /* the same */
} scratch;

#define N_PARTS 8

static size_t measure_scratch(const ln_facts *f, size_t sizes[N_PARTS]) {
    const size_t rows = LN_ATTENTION_ROWS;
    const size_t head_dim = (size_t)f->head_dim;
    const size_t groups = (head_dim + LN_Q8_GROUP - 1) / LN_Q8_GROUP;
    const size_t partial = (size_t)ln_partial_floats(f->head_dim) * sizeof(float);
    const size_t wanted[N_PARTS] = {
        rows * head_dim * sizeof(float),
        rows * groups * sizeof(ln_q8_block),
        rows * sizeof(int32_t),
        rows * sizeof(int32_t),
        rows * LN_CHUNK * sizeof(float),
        LN_PAGE * (size_t)ln_padded(f->head_dim) * sizeof(float),
        rows * partial,
        rows * partial,
    };
    size_t total = 0;
    for (int i = 0; i < N_PARTS; i++) {
        sizes[i] = (wanted[i] + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
        total += sizes[i];
    }
    return total;
}

size_t ln_attention_scratch_bytes(const ln_facts *facts) {
    size_t sizes[N_PARTS];
    return measure_scratch(facts, sizes);
}

static scratch scratch_of(const ln_workspace *workspace, int32_t worker) {
    size_t sizes[N_PARTS];
    const size_t bytes = measure_scratch(&workspace->model->facts, sizes);
    void *parts[N_PARTS];
    char *at = workspace->attention.scratch + (size_t)worker * bytes;
    for (int i = 0; i < N_PARTS; i++) {
        parts[i] = at;
        at += sizes[i];
    }
    return (scratch){parts[0], parts[1], parts[2], parts[3], parts[4], parts[5], parts[6], parts[7]};
}

/* The query, and later the result, of a row of the tile. */
static float *row_of(const tile *t, int32_t row) {
    const ln_facts *f = &t->workspace->model->facts;
    const int32_t group = f->n_heads / f->n_kv_heads;
    const int64_t token = t->segment->first + (t->first_row + row) / group;
    const int64_t head = t->kv_head * group + (t->first_row + row) % group;
    return t->workspace->q + (token * f->n_heads + head) * f->head_dim;
}

static int32_t position_of(const tile *t, int32_t row) {
    const ln_facts *f = &t->workspace->model->facts;
    return t->segment->position + (t->first_row + row) / (f->n_heads / f->n_kv_heads);
}

/* Where what a row attends to ends. */
static int32_t end_of(const tile *t, int32_t row) {
    const int causal = t->workspace->model->facts.causal;
    return causal ? position_of(t, row) + 1 : t->segment->position + t->segment->n;
}

static int32_t window_of(const tile *t) {
    return t->workspace->model->kinds[t->layer].window;
}

static int is_quantised(const ln_workspace *workspace) {
    return ln_type_traits_of(workspace->pages.type)->quantized_activations;
}

/* Copies the tile's queries, times attention_scale, next to each other. */
static void gather_queries(const tile *t, const scratch *own) {
    const int32_t head_dim = t->workspace->model->facts.head_dim;
    const float scale = t->workspace->model->facts.attention_scale;
    for (int32_t r = 0; r < t->n; r++) {
        const float *q = row_of(t, r);
        float *target = own->q + (int64_t)r * head_dim;
        for (int32_t c = 0; c < head_dim; c++) {
            target[c] = q[c] * scale;
        }
        if (is_quantised(t->workspace)) {
            t->workspace->compute.kernels->quantize_q8(target, head_dim, own->q8 + ln_q8_first(head_dim, r),
                                                       ln_q8_tile_width(t->n, r));
        }
    }
}

static int32_t within_chunk(int32_t position, int32_t chunk) {
    const int64_t offset = (int64_t)position - (int64_t)chunk * LN_CHUNK;
    return offset < 0 ? 0 : offset > LN_CHUNK ? LN_CHUNK : (int32_t)offset;
}

/* Partial results of the gathered queries over one chunk, partial_stride floats apart. */
static void attend_chunk(const tile *t, const scratch *own, int32_t chunk, float *partials, size_t partial_stride) {
    const ln_workspace *w = t->workspace;
    const ln_facts *f = &w->model->facts;
    const ln_session *session = t->segment->session;
    const int32_t window = window_of(t);
    const int32_t layer = w->model->kinds[t->layer].index;
    ln_attention job = {
        .q = {.f32 = own->q, .q8 = own->q8, .cols = f->head_dim, .n = t->n},
        .begin = own->begin,
        .end = own->end,
        .type = w->pages.type,
        .key_stride = w->pages.key_stride,
        .value_stride = w->pages.value_stride,
        .matmul = w->compute.kernels->matmul[w->pages.type],
        .cap = f->attention_cap,
        .scores = own->scores,
        .widened = own->widened,
        .partial = partials,
        .partial_stride = partial_stride,
    };
    for (int32_t r = 0; r < t->n; r++) {
        own->begin[r] = within_chunk(ln_attention_begin(window, position_of(t, r)), chunk);
        own->end[r] = within_chunk(end_of(t, r), chunk);
    }
    for (int32_t i = 0; i < LN_CHUNK_PAGES; i++) {
        const int32_t page = chunk * LN_CHUNK_PAGES + i;
        const int32_t next = page + LN_CHUNK_PAGES;
        if (page >= session->first_page && page < session->n_held) {
            job.keys[i] = ln_pages_keys(&w->pages, session->pages[page], layer, t->kv_head);
            job.values[i] = ln_pages_values(&w->pages, session->pages[page], layer, t->kv_head);
            job.next_keys[i] = next < session->n_held
                                   ? ln_pages_keys(&w->pages, session->pages[next], layer, t->kv_head)
                                   : job.keys[i];
        }
    }
    w->compute.kernels->attend(&job);
}

/* ---- merging --------------------------------------------------------------------- */

static void begin_total(const ln_facts *f, float *total) {
    memset(total, 0, (size_t)ln_partial_floats(f->head_dim) * sizeof *total);
    total[ln_partial_largest(f->head_dim)] = -INFINITY;
}

/* A chunk a query does not attend to leaves its total untouched, to the sign of a zero. */
static void add_partial(const ln_workspace *w, const float *partial, float *total) {
    const int32_t head_dim = w->model->facts.head_dim;
    if (partial[ln_partial_sum(head_dim)] != 0.0f) {
        w->compute.kernels->merge(head_dim, partial, total);
    }
}

static void finish_row(const tile *t, int32_t row, const float *total) {
    const int32_t head_dim = t->workspace->model->facts.head_dim;
    const float inverse = 1.0f / total[ln_partial_sum(head_dim)];
    float *out = row_of(t, row);
    for (int32_t c = 0; c < head_dim; c++) {
        out[c] = total[c] * inverse;
    }
}

/* ---- items ------------------------------------------------------------------------ */

typedef struct attention_job {
    ln_workspace *workspace;
    int32_t layer;
} attention_job;

/* The tile of an item, and in *chunk which chunk of its segment's, always 0 when the plan is not split. */
static tile tile_of(const attention_job *j, int32_t item, int32_t *chunk) {
    const ln_workspace *w = j->workspace;
    int32_t i = w->n_segments - 1;
    while (w->segments[i].attention.first_item > item) {
        i--;
    }
    const ln_segment *segment = &w->segments[i];
    const ln_attention_share *share = &segment->attention;
    const int32_t n_chunks = w->attention.is_split ? share->n_chunks : 1;
    item -= share->first_item;
    *chunk = item % n_chunks;
    item /= n_chunks;
    tile t = {w, segment, j->layer, item / share->n_tiles, item % share->n_tiles * LN_ATTENTION_ROWS, 0};
    t.n = share->n_rows - t.first_row < LN_ATTENTION_ROWS ? share->n_rows - t.first_row : LN_ATTENTION_ROWS;
    return t;
}

/* A tile over all of its chunks. */
static void tile_item(const void *job, int32_t item, int32_t worker) {
    const attention_job *j = job;
    const ln_facts *f = &j->workspace->model->facts;
    const scratch own = scratch_of(j->workspace, worker);
    const size_t stride = (size_t)ln_partial_floats(f->head_dim);
    int32_t chunk;
    const tile t = tile_of(j, item, &chunk);
    gather_queries(&t, &own);
    for (int32_t r = 0; r < t.n; r++) {
        begin_total(f, own.totals + (size_t)r * stride);
    }
    chunk = ln_attention_begin(window_of(&t), position_of(&t, 0)) / LN_CHUNK;
    for (; chunk * LN_CHUNK < end_of(&t, t.n - 1); chunk++) {
        attend_chunk(&t, &own, chunk, own.partials, stride);
        for (int32_t r = 0; r < t.n; r++) {
            add_partial(j->workspace, own.partials + (size_t)r * stride, own.totals + (size_t)r * stride);
        }
    }
    for (int32_t r = 0; r < t.n; r++) {
        finish_row(&t, r, own.totals + (size_t)r * stride);
    }
}

/* Where the partial results of a row begin: one for each chunk of the segment. */
static float *partials_of(const tile *t, int32_t row) {
    const ln_attention_share *share = &t->segment->attention;
    const int64_t rows_before = (int64_t)t->kv_head * share->n_rows + t->first_row + row;
    return t->workspace->attention.partials + (share->first_partial + rows_before * share->n_chunks) *
                                                  ln_partial_floats(t->workspace->model->facts.head_dim);
}

/* A tile over one chunk. */
static void chunk_item(const void *job, int32_t item, int32_t worker) {
    const attention_job *j = job;
    const scratch own = scratch_of(j->workspace, worker);
    int32_t chunk;
    const tile t = tile_of(j, item, &chunk);
    const ln_attention_share *share = &t.segment->attention;
    const size_t floats = (size_t)ln_partial_floats(j->workspace->model->facts.head_dim);
    gather_queries(&t, &own);
    attend_chunk(&t, &own, share->first_chunk + chunk, partials_of(&t, 0) + (size_t)chunk * floats,
                 (size_t)share->n_chunks * floats);
}

/* The queries of one segment and key/value head, their chunks being done. */
static void merge_item(const void *job, int32_t item, int32_t worker) {
    const attention_job *j = job;
    const ln_facts *f = &j->workspace->model->facts;
    const scratch own = scratch_of(j->workspace, worker);
    const ln_segment *segment = &j->workspace->segments[item / f->n_kv_heads];
    const tile t = {j->workspace, segment, j->layer, item % f->n_kv_heads, 0, segment->attention.n_rows};
    for (int32_t r = 0; r < t.n; r++) {
        begin_total(f, own.totals);
        for (int32_t chunk = 0; chunk < segment->attention.n_chunks; chunk++) {
            add_partial(j->workspace, partials_of(&t, r) + (int64_t)chunk * ln_partial_floats(f->head_dim),
                        own.totals);
        }
        finish_row(&t, r, own.totals);
    }
}

void ln_attention_run(ln_workspace *workspace, int32_t layer) {
    const ln_facts *f = &workspace->model->facts;
    const ln_attention_plan *plan = &workspace->attention;
    const attention_job job = {workspace, layer};
    if (!plan->is_split) {
        ln_compute_run(&workspace->compute, plan->n_items, plan->n_madds, tile_item, &job);
        return;
    }
    ln_compute_run(&workspace->compute, plan->n_items, plan->n_madds, chunk_item, &job);
    const int32_t n_merges = workspace->n_segments * f->n_kv_heads;
    ln_compute_run(&workspace->compute, n_merges, plan->n_madds / LN_CHUNK, merge_item, &job);
}
