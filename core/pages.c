/* pages.c - the pool of key/value pages, and writing one position. */
#include "pages.h"

#include <stdlib.h>
#include <string.h>

#include "panels.h"

#define ALIGNMENT 64 /* a cache line, and the widest vector register */

static size_t aligned(size_t bytes) {
    return (bytes + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

static int is_block_type(int32_t type) {
    return ln_type_traits_of(type)->block_elements > 1;
}

/* ---- the pool ---------------------------------------------------------------- */

ln_status ln_pages_measure(ln_pages *p, const ln_facts *f, int32_t kv_type, ln_error *err) {
    *p = (ln_pages){.type = kv_type, .head_dim = f->head_dim, .n_kv_heads = f->n_kv_heads};
    const ln_type_traits *type = ln_type_traits_of(p->type);
    if (is_block_type(p->type)) {
        if (p->head_dim % type->block_elements != 0) {
            return ln_fail(err, LN_BAD_ARGUMENT, "kv_type %s needs heads of a multiple of %d elements and this model's "
                           "have %d; take f16",
                           type->name, (int)type->block_elements, (int)p->head_dim);
        }
        p->key_stride = ln_panel_bytes(p->type, p->head_dim);
        p->value_stride = (size_t)(p->head_dim / type->block_elements) * (size_t)type->block_bytes;
    } else {
        p->key_stride = (size_t)p->head_dim * LN_LANES * (size_t)type->block_bytes;
        p->value_stride = (size_t)ln_padded(p->head_dim) * (size_t)type->block_bytes;
    }
    p->key_bytes = aligned(p->key_stride * (LN_PAGE / LN_LANES));
    p->head_bytes = p->key_bytes + aligned(p->value_stride * LN_PAGE);
    p->conv_type = p->type == LN_TYPE_F32 ? LN_TYPE_F32 : LN_TYPE_F16;
    p->conv_stride = (size_t)f->dim * (size_t)ln_type_traits_of(p->conv_type)->block_bytes;
    const int32_t n_layers = f->causal ? f->n_layers - f->n_conv : 1;
    size_t heads;
    size_t conv;
    if (!ln_size_mul((size_t)n_layers, (size_t)f->n_kv_heads, &heads) ||
        !ln_size_mul(heads, p->head_bytes, &p->conv_at) ||
        !ln_size_mul((size_t)f->n_conv, aligned(p->conv_stride * LN_PAGE), &conv) ||
        !ln_size_add(p->conv_at, conv, &p->page_bytes)) {
        return ln_fail(err, LN_NO_MEMORY, "keys and values of %d layers do not fit this machine's memory",
                       (int)f->n_layers);
    }
    return LN_OK;
}

ln_status ln_pages_open(ln_pages *pages, const ln_facts *facts, int32_t type, int32_t n_tokens, ln_error *err) {
    ln_status status = ln_pages_measure(pages, facts, type, err);
    if (status != LN_OK) {
        return status;
    }
    const size_t n = (size_t)n_tokens / LN_PAGE + (n_tokens % LN_PAGE != 0);
    size_t bytes;
    const int fits = ln_size_mul(n, pages->page_bytes, &bytes);
    /* Fresh memory is not there until it is touched: a page costs nothing before its first use. */
    pages->memory = fits ? ln_alloc_pages(bytes, "keys and values", NULL) : NULL;
    if (pages->memory == NULL) {
        return ln_fail(err, LN_NO_MEMORY, "keys and values of %d tokens need %.0f bytes, which this machine does not "
                       "give; ask for fewer tokens of context",
                       (int)n_tokens, (double)n * (double)pages->page_bytes);
    }
    pages->free = ln_alloc(2 * n, sizeof *pages->free, "keys and values", err);
    if (pages->free == NULL) {
        ln_pages_close(pages);
        return LN_NO_MEMORY;
    }
    pages->uses = pages->free + n;
    pages->n_pages = (int32_t)n;
    pages->n_free = (int32_t)n;
    for (int32_t i = 0; i < pages->n_pages; i++) {
        pages->free[i] = pages->n_pages - 1 - i;
    }
    return LN_OK;
}

void ln_pages_close(ln_pages *pages) {
    free(pages->free);
    ln_free_pages(pages->memory);
    *pages = (ln_pages){0};
}

int32_t ln_pages_take(ln_pages *pages) {
    const int32_t page = pages->free[--pages->n_free];
    pages->uses[page] = 1;
    return page;
}

void ln_pages_share(ln_pages *pages, int32_t page) {
    pages->uses[page]++;
}

void ln_pages_release(ln_pages *pages, int32_t page) {
    if (--pages->uses[page] == 0) {
        pages->free[pages->n_free++] = page;
    }
}

int32_t ln_pages_own(ln_pages *pages, int32_t page) {
    const int32_t own = ln_pages_take(pages);
    memcpy(pages->memory + (size_t)own * pages->page_bytes, pages->memory + (size_t)page * pages->page_bytes,
           pages->page_bytes);
    ln_pages_release(pages, page);
    return own;
}

/* ---- copies ---------------------------------------------------------------------- */

/* Copies everything but what lies unused between keys, values and convolutions, from one place to another. */
static void copy_used(const ln_pages *p, const uint8_t *from, uint8_t *to) {
    const ln_type_traits *type = ln_type_traits_of(p->type);
    const size_t value_bytes = (size_t)(p->head_dim / type->block_elements) * (size_t)type->block_bytes;
    for (size_t head = 0; head < p->conv_at; head += p->head_bytes) {
        memcpy(to + head, from + head, p->key_stride * (LN_PAGE / LN_LANES));
        for (size_t i = 0, at = head + p->key_bytes; i < LN_PAGE; i++, at += p->value_stride) {
            memcpy(to + at, from + at, value_bytes);
        }
    }
    for (size_t at = p->conv_at; at < p->page_bytes; at += aligned(p->conv_stride * LN_PAGE)) {
        memcpy(to + at, from + at, p->conv_stride * LN_PAGE);
    }
}

static void clear_key(const ln_pages *p, int32_t lane, uint8_t *keys) {
    if (is_block_type(p->type)) {
        ln_panel_set_row(p->type, keys, lane, NULL, p->head_dim);
        return;
    }
    const size_t bytes = (size_t)ln_type_traits_of(p->type)->block_bytes;
    for (int32_t c = 0; c < p->head_dim; c++) {
        memset(keys + (size_t)(c * LN_LANES + lane) * bytes, 0, bytes);
    }
}

/* Makes positions [n, LN_PAGE) of a copy zeros. */
static void clear_from(const ln_pages *p, int32_t n, uint8_t *copy) {
    const size_t rest = (size_t)(LN_PAGE - n);
    for (size_t head = 0; head < p->conv_at; head += p->head_bytes) {
        for (int32_t i = n; i < LN_PAGE; i++) {
            clear_key(p, i % LN_LANES, copy + head + (size_t)(i / LN_LANES) * p->key_stride);
        }
        memset(copy + head + p->key_bytes + (size_t)n * p->value_stride, 0, rest * p->value_stride);
    }
    for (size_t at = p->conv_at; at < p->page_bytes; at += aligned(p->conv_stride * LN_PAGE)) {
        memset(copy + at + (size_t)n * p->conv_stride, 0, rest * p->conv_stride);
    }
}

void ln_pages_save(const ln_pages *pages, int32_t page, int32_t n, uint8_t *out) {
    memset(out, 0, pages->page_bytes);
    copy_used(pages, pages->memory + (size_t)page * pages->page_bytes, out);
    clear_from(pages, n, out);
}

void ln_pages_load(const ln_pages *pages, int32_t page, const uint8_t *in) {
    copy_used(pages, in, pages->memory + (size_t)page * pages->page_bytes);
}

/* ---- one position -------------------------------------------------------------- */

static uint8_t *head_at(const ln_pages *p, int32_t page, int32_t layer, int32_t kv_head) {
    const size_t heads_before = (size_t)layer * (size_t)p->n_kv_heads + (size_t)kv_head;
    return p->memory + (size_t)page * p->page_bytes + heads_before * p->head_bytes;
}

const uint8_t *ln_pages_keys(const ln_pages *pages, int32_t page, int32_t layer, int32_t kv_head) {
    return head_at(pages, page, layer, kv_head);
}

const uint8_t *ln_pages_values(const ln_pages *pages, int32_t page, int32_t layer, int32_t kv_head) {
    return head_at(pages, page, layer, kv_head) + pages->key_bytes;
}

uint8_t *ln_pages_conv(const ln_pages *pages, int32_t page, int32_t layer, int32_t position) {
    return pages->memory + (size_t)page * pages->page_bytes + pages->conv_at +
           (size_t)layer * aligned(pages->conv_stride * LN_PAGE) + (size_t)position * pages->conv_stride;
}

#define STRIP 64 /* columns of a key converted at a time */

/* Column c goes to lane `lane` of the c-th row of [head_dim][LN_LANES]. */
static void store_key_f16(const ln_kernels *kernels, const float *k, int32_t head_dim, int32_t lane, uint8_t *keys) {
    uint16_t halves[STRIP];
    uint16_t *target = (uint16_t *)(void *)keys + lane;
    for (int32_t c = 0; c < head_dim; c += STRIP) {
        const int32_t n = head_dim - c < STRIP ? head_dim - c : STRIP;
        kernels->f32_to_f16(k + c, n, halves);
        for (int32_t i = 0; i < n; i++) {
            target[(c + i) * LN_LANES] = halves[i];
        }
    }
}

static void store_key_f32(const float *k, int32_t head_dim, int32_t lane, uint8_t *keys) {
    float *target = (float *)(void *)keys + lane;
    for (int32_t c = 0; c < head_dim; c++) {
        target[c * LN_LANES] = k[c];
    }
}

void ln_pages_store(const ln_pages *pages, const ln_kernels *kernels, int32_t page, int32_t layer, int32_t kv_head,
                    int32_t position, const float *k, const float *v) {
    const int32_t lane = position % LN_LANES;
    uint8_t *head = head_at(pages, page, layer, kv_head);
    uint8_t *keys = head + (size_t)(position / LN_LANES) * pages->key_stride;
    uint8_t *value = head + pages->key_bytes + (size_t)position * pages->value_stride;
    switch (pages->type) {
    case LN_TYPE_F32:
        store_key_f32(k, pages->head_dim, lane, keys);
        memcpy(value, v, (size_t)pages->head_dim * sizeof *v);
        break;
    case LN_TYPE_F16:
        store_key_f16(kernels, k, pages->head_dim, lane, keys);
        kernels->f32_to_f16(v, pages->head_dim, (uint16_t *)(void *)value);
        break;
    default:
        ln_panel_set_row(pages->type, keys, lane, k, pages->head_dim);
        ln_type_traits_of(pages->type)->pack(v, pages->head_dim, value);
    }
}
