/* test_attention.c - the attention kernels of every instruction set against softmax written out in double
 * precision, through pages written one position at a time: every type of keys and values, odd heads, every
 * tail, and slots that hold garbage. */
#include "gguf_image.h"

#include "pages.h"

#define MAX_ROWS LN_ATTENTION_ROWS
#define MAX_DIM 256

static uint64_t random_state = 0x9e3779b97f4a7c15u;

static float random_float(void) { /* uniform in [-1, 1); xorshift64*, Vigna 2016 */
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return (float)(uint32_t)((random_state * 0x2545f4914f6cdd1du) >> 40) * 0x1p-23f - 1.0f;
}

static void *allocate(size_t bytes) {
    void *block = malloc(bytes);
    CHECK(block != NULL, "out of memory");
    return block;
}

/* ---- one chunk of one head ---------------------------------------------------------- */

/* Pages full of garbage but for the positions [0, n) of a chunk, and what was meant to be written there. */
typedef struct chunk {
    ln_pages pages;
    int32_t page[LN_CHUNK_PAGES];
    float *k; /* [LN_CHUNK][head_dim] */
    float *v;
} chunk;

static void open_chunk(chunk *c, const ln_kernels *table, int32_t type, int32_t head_dim, int32_t n) {
    const ln_facts facts = {.n_layers = 1, .n_kv_heads = 1, .head_dim = head_dim};
    CHECK(ln_pages_open(&c->pages, &facts, type, LN_CHUNK, NULL) == LN_OK, "pages");
    memset(c->pages.memory, 0xff, c->pages.page_bytes * LN_CHUNK_PAGES); /* not a number, in every type with scales */
    c->k = allocate(sizeof(float) * LN_CHUNK * (size_t)head_dim);
    c->v = allocate(sizeof(float) * LN_CHUNK * (size_t)head_dim);
    for (int32_t i = 0; i < LN_CHUNK * head_dim; i++) {
        c->k[i] = 2.0f * random_float();
        c->v[i] = random_float();
    }
    for (int32_t i = 0; i < LN_CHUNK_PAGES; i++) {
        c->page[i] = ln_pages_take(&c->pages);
    }
    for (int32_t p = 0; p < n; p++) {
        ln_pages_store(&c->pages, table, c->page[p / LN_PAGE], 0, 0, p % LN_PAGE, c->k + p * head_dim,
                       c->v + p * head_dim);
    }
}

static void close_chunk(chunk *c) {
    free(c->k);
    free(c->v);
    ln_pages_close(&c->pages);
}

/* Queries and where their results go. */
typedef struct rows {
    int32_t n;
    float *q;       /* [n][head_dim] */
    int32_t begin[MAX_ROWS];
    int32_t end[MAX_ROWS];
    float *partial; /* [n][ln_partial_floats] */
} rows;

static void open_rows(rows *r, int32_t n, int32_t head_dim, float scale) {
    r->n = n;
    r->q = allocate(sizeof(float) * (size_t)(n * head_dim));
    r->partial = allocate(sizeof(float) * (size_t)(n * ln_partial_floats(head_dim)));
    for (int32_t i = 0; i < n * head_dim; i++) {
        r->q[i] = scale * random_float();
    }
}

static void close_rows(rows *r) {
    free(r->q);
    free(r->partial);
}

/* Rows [first, first + n) in one call of the kernel. */
static void attend(const chunk *c, const ln_kernels *table, rows *r, int32_t first, int32_t n) {
    const int32_t head_dim = c->pages.head_dim;
    float *scores = allocate(sizeof(float) * (size_t)(n * LN_CHUNK));
    float *widened = allocate(sizeof(float) * (size_t)(LN_PAGE * ln_padded(head_dim)));
    ln_q8_block *q8 = allocate(sizeof(ln_q8_block) * (size_t)(n * (head_dim / LN_Q8_GROUP + 1)));
    memset(scores, 0xff, sizeof(float) * (size_t)(n * LN_CHUNK));
    memset(widened, 0xff, sizeof(float) * (size_t)(LN_PAGE * ln_padded(head_dim)));
    ln_attention job = {
        .q = {.f32 = r->q + first * head_dim, .q8 = q8, .cols = head_dim, .n = n},
        .begin = r->begin + first,
        .end = r->end + first,
        .type = c->pages.type,
        .key_stride = c->pages.key_stride,
        .value_stride = c->pages.value_stride,
        .matmul = table->matmul[c->pages.type],
        .scores = scores,
        .widened = widened,
        .partial = r->partial + first * ln_partial_floats(head_dim),
        .partial_stride = (size_t)ln_partial_floats(head_dim),
    };
    for (int32_t i = 0; i < LN_CHUNK_PAGES; i++) {
        job.keys[i] = ln_pages_keys(&c->pages, c->page[i], 0, 0);
        job.values[i] = ln_pages_values(&c->pages, c->page[i], 0, 0);
        job.next_keys[i] = job.keys[i];
    }
    for (int32_t i = 0; i < n && ln_type_traits_of(c->pages.type)->quantized_activations; i++) {
        table->quantize_q8(job.q.f32 + i * head_dim, head_dim, q8 + ln_q8_first(head_dim, i), ln_q8_tile_width(n, i));
    }
    table->attend(&job);
    free(scores);
    free(widened);
    free(q8);
}

/* Softmax of one row over what was meant to be stored; returns the largest deviation of its result. */
static double deviation(const chunk *c, const rows *r, int32_t row) {
    const int32_t head_dim = c->pages.head_dim;
    const float *partial = r->partial + row * ln_partial_floats(head_dim);
    double weights[LN_CHUNK];
    double largest = -INFINITY;
    double total = 0;
    double worst = 0;
    for (int32_t p = r->begin[row]; p < r->end[row]; p++) {
        weights[p] = 0;
        for (int32_t i = 0; i < head_dim; i++) {
            weights[p] += (double)r->q[row * head_dim + i] * (double)c->k[p * head_dim + i];
        }
        largest = fmax(largest, weights[p]);
    }
    for (int32_t p = r->begin[row]; p < r->end[row]; p++) {
        weights[p] = exp(weights[p] - largest);
        total += weights[p];
    }
    for (int32_t i = 0; i < head_dim; i++) {
        double sum = 0;
        for (int32_t p = r->begin[row]; p < r->end[row]; p++) {
            sum += weights[p] / total * (double)c->v[p * head_dim + i];
        }
        const double got = (double)partial[i] / (double)partial[ln_partial_sum(head_dim)];
        worst = isnan(got) ? INFINITY : fmax(worst, fabs(got - sum));
    }
    return worst;
}

/* ---- against the oracle --------------------------------------------------------------- */

/* How far results may be off: rounding of the sums for f32, of keys and values for the others. */
static double tolerance_of(int32_t type) {
    return type == LN_TYPE_F32 ? 4e-6 : type == LN_TYPE_F16 ? 2e-3 : type == LN_TYPE_Q8_0 ? 3e-2 : 0.35;
}

static void check_case(const ln_kernels *table, int32_t type, int32_t head_dim, int32_t n, int32_t n_rows,
                       int32_t window) {
    chunk c;
    rows r;
    open_chunk(&c, table, type, head_dim, n);
    open_rows(&r, n_rows, head_dim, 1.0f / sqrtf((float)head_dim));
    for (int32_t i = 0; i < n_rows; i++) { /* causal: the rows are the last positions, three heads each */
        r.end[i] = n - (n_rows - 1 - i) / 3 > 0 ? n - (n_rows - 1 - i) / 3 : 1;
        r.begin[i] = r.end[i] < window ? 0 : r.end[i] - window;
    }
    attend(&c, table, &r, 0, n_rows);
    for (int32_t i = 0; i < n_rows; i++) {
        const double worst = deviation(&c, &r, i);
        CHECK(worst <= tolerance_of(type), "%s, type %d, head_dim %d, %d positions, row %d of %d: off by %g",
              table->name, (int)type, (int)head_dim, (int)n, (int)i, (int)n_rows, worst);
    }
    close_rows(&r);
    close_chunk(&c);
}

static void test_against_oracle(const ln_kernels *table) {
    const int32_t dims[] = {2, 8, 20, 32, 48, 64, 80, 96, 128, 256};
    const int32_t types[] = {LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0};
    for (size_t t = 0; t < sizeof types / sizeof types[0]; t++) {
        for (size_t d = 0; d < sizeof dims / sizeof dims[0]; d++) {
            if (dims[d] % ln_type_traits_of(types[t])->block_elements != 0) {
                continue;
            }
            for (int32_t n = 1; n <= 66; n += n < 18 || n > 62 ? 1 : 15) {
                check_case(table, types[t], dims[d], n, n % 9 + 1, LN_CHUNK);
                check_case(table, types[t], dims[d], n, n % 7 + 1, 33);
            }
            check_case(table, types[t], dims[d], 200, MAX_ROWS, 150);
            check_case(table, types[t], dims[d], LN_CHUNK, 3, LN_CHUNK);
        }
    }
}

/* ---- what must change no bit -------------------------------------------------------------- */

/* A row's bits depend neither on the rows beside it nor on positions it does not attend to. */
static void check_independence(const ln_kernels *table, int32_t type, int32_t head_dim) {
    const size_t row_bytes = sizeof(float) * (size_t)ln_partial_floats(head_dim);
    chunk c;
    rows r;
    open_chunk(&c, table, type, head_dim, 190);
    open_rows(&r, MAX_ROWS, head_dim, 0.2f);
    for (int32_t i = 0; i < MAX_ROWS; i++) {
        r.begin[i] = i % 5 == 0 ? i : 0;
        r.end[i] = i % 7 == 3 ? r.begin[i] : 127 + i;
    }
    attend(&c, table, &r, 0, MAX_ROWS);
    float *together = allocate(row_bytes * MAX_ROWS);
    memcpy(together, r.partial, row_bytes * MAX_ROWS);
    memset(r.partial, 0xff, row_bytes * MAX_ROWS);
    for (int32_t first = 0, n = 1; first < MAX_ROWS; first += n, n = first % 6 + 1) {
        attend(&c, table, &r, first, n < MAX_ROWS - first ? n : MAX_ROWS - first);
    }
    for (int32_t i = 0; i < MAX_ROWS; i++) {
        const size_t at = (size_t)(i * ln_partial_floats(head_dim));
        const size_t used = sizeof(float) * (size_t)(ln_partial_sum(head_dim) + 1);
        CHECK(memcmp(together + at, r.partial + at, used) == 0, "%s, type %d, head_dim %d: row %d",
              table->name, (int)type, (int)head_dim, (int)i);
        CHECK(r.begin[i] < r.end[i] || r.partial[at + (size_t)ln_partial_sum(head_dim)] == 0.0f,
              "row %d attends to nothing", (int)i);
    }
    free(together);
    close_rows(&r);
    close_chunk(&c);
}

/* Scores too large for exp without its shift, and weights that vanish beside the largest. */
static void check_large_scores(const ln_kernels *table) {
    chunk c;
    rows r;
    open_chunk(&c, table, LN_TYPE_F32, 64, LN_CHUNK);
    open_rows(&r, 5, 64, 300.0f);
    for (int32_t i = 0; i < r.n; i++) {
        r.begin[i] = 0;
        r.end[i] = LN_CHUNK;
    }
    attend(&c, table, &r, 0, r.n);
    for (int32_t i = 0; i < r.n; i++) {
        const double worst = deviation(&c, &r, i);
        CHECK(worst <= 1e-2, "%s: row %d off by %g", table->name, (int)i, worst); /* scores of 5000 have 4e-4 */
    }
    close_rows(&r);
    close_chunk(&c);
}

/* ---- merging ----------------------------------------------------------------------------- */

/* Chunks merged one after the other are softmax over all of them. */
static void check_merge(const ln_kernels *table) {
    enum { DIM = 20, N = 6 };
    const int32_t floats = ln_partial_floats(DIM);
    float partials[N][LN_LANES * 4];
    float total[LN_LANES * 4] = {0};
    double sums[DIM] = {0};
    double weight = 0;
    total[ln_partial_largest(DIM)] = -INFINITY;
    CHECK(floats <= LN_LANES * 4, "%d", (int)floats);
    for (int i = 0; i < N; i++) {
        const float largest = 30.0f * random_float();
        for (int32_t j = 0; j < floats; j++) {
            partials[i][j] = random_float();
        }
        partials[i][ln_partial_largest(DIM)] = largest;
        partials[i][ln_partial_sum(DIM)] = 1.0f + (float)i;
        table->merge(DIM, partials[i], total);
        for (int j = 0; j < DIM; j++) {
            sums[j] += (double)partials[i][j] * exp((double)largest);
        }
        weight += (1.0 + i) * exp((double)largest);
    }
    for (int j = 0; j < DIM; j++) {
        const double got = (double)total[j] / (double)total[ln_partial_sum(DIM)];
        CHECK(fabs(got - sums[j] / weight) < 1e-6, "%s: %g, not %g", table->name, got, sums[j] / weight);
    }
}

/* ---- pages ------------------------------------------------------------------------------- */

static void test_pages(void) {
    const ln_facts facts = {.n_layers = 2, .n_kv_heads = 3, .head_dim = 20};
    ln_pages pages;
    ln_error err = {0};
    CHECK(ln_pages_open(&pages, &facts, LN_TYPE_Q8_0, 64, &err) == LN_BAD_ARGUMENT, "heads of 20 in q8_0");
    CHECK(strstr(err.message, "20") != NULL && strstr(err.message, "f16") != NULL, "%s", err.message);
    CHECK(ln_pages_open(&pages, &facts, LN_TYPE_F16, 4 * LN_PAGE + 1, NULL) == LN_OK, "open");
    CHECK(pages.n_pages == 5 && pages.n_free == 5, "%d pages", (int)pages.n_pages);
    const int32_t a = ln_pages_take(&pages);
    const int32_t b = ln_pages_take(&pages);
    CHECK(a != b && pages.n_free == 3, "two pages");
    memset(pages.memory + (size_t)a * pages.page_bytes, 7, pages.page_bytes);
    ln_pages_share(&pages, a);
    const int32_t own = ln_pages_own(&pages, a);
    CHECK(own != a && own != b && pages.uses[a] == 1 && pages.uses[own] == 1 && pages.n_free == 2, "a copy");
    CHECK(memcmp(ln_pages_values(&pages, own, 1, 2), ln_pages_values(&pages, a, 1, 2), 64) == 0, "its bytes");
    ln_pages_share(&pages, b);
    ln_pages_release(&pages, b);
    CHECK(pages.n_free == 2, "still in use");
    ln_pages_release(&pages, b);
    CHECK(pages.n_free == 3 && ln_pages_take(&pages) == b, "the last one given back is the first taken");
    ln_pages_close(&pages);
}

int main(void) {
    test_pages();
    for (const ln_kernels *const *table = ln_kernels_all(); *table != NULL; table++) {
        if (!(*table)->available()) {
            continue;
        }
        test_against_oracle(*table);
        for (int32_t i = 0; i < 4; i++) {
            const int32_t type = (int32_t[]){LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0, LN_TYPE_Q4_0}[i];
            check_independence(*table, type, 32);
            check_independence(*table, type, 64);
        }
        check_large_scores(*table);
        check_merge(*table);
    }
    return 0;
}
