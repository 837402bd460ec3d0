/* pages.h - where keys and values lie: pages of LN_PAGE positions, taken from one pool, counted per user, so
 * that timelines with the same beginning hold it once (Kwon et al. 2023, "PagedAttention").
 *
 * A page is [layers with attention][n_kv_heads]{keys, values}; kernels.h says how both lie inside. Then come
 * [layers with a convolution][LN_PAGE][dim] of what they convolve, in f32 or f16. The layers of a model that is not
 * causal, which reads a text in one pass, use the same place one after the other.
 */
#ifndef LINNET_PAGES_H
#define LINNET_PAGES_H

#include "arch.h"
#include "core.h"

typedef struct ln_pages {
    int32_t type; /* of keys and values */
    int32_t head_dim;
    int32_t n_kv_heads;
    size_t key_stride;   /* bytes of LN_LANES positions of one head */
    size_t value_stride; /* bytes of one position */
    size_t key_bytes;    /* of a page and a head */
    size_t head_bytes;   /* keys and values of a page and a head */
    int32_t conv_type;
    size_t conv_stride;  /* bytes of one position */
    size_t conv_at;      /* where convolutions begin */
    size_t page_bytes;
    int32_t n_pages;
    int32_t n_free;
    int32_t *free; /* [n_pages], the first n_free count; the last given back is the first to be taken */
    int32_t *uses; /* [n_pages] */
    uint8_t *memory;
} ln_pages;

/* Everything but the memory: how large a page is. The same errors as ln_pages_open. */
ln_status ln_pages_measure(ln_pages *pages, const ln_facts *facts, int32_t type, ln_error *err);

/* Room for n_tokens, in whole pages. LN_BAD_ARGUMENT for a type that cannot hold heads of this size, LN_NO_MEMORY. */
ln_status ln_pages_open(ln_pages *pages, const ln_facts *facts, int32_t type, int32_t n_tokens, ln_error *err);

void ln_pages_close(ln_pages *pages);

/* A free page, used once; there must be one. */
int32_t ln_pages_take(ln_pages *pages);

/* One more user of a page. */
void ln_pages_share(ln_pages *pages, int32_t page);

/* One user less; the last one gives the page back. */
void ln_pages_release(ln_pages *pages, int32_t page);

/* Gives up a shared page for a copy of one's own; there must be a free page. */
int32_t ln_pages_own(ln_pages *pages, int32_t page);

/* Copies what is kept of the first n positions of a page to out[page_bytes]; the rest of it is zeros. */
void ln_pages_save(const ln_pages *pages, int32_t page, int32_t n, uint8_t *out);

/* Copies what is kept of all positions from in[page_bytes] to a page. */
void ln_pages_load(const ln_pages *pages, int32_t page, const uint8_t *in);

/* layer counts the layers with attention. */
const uint8_t *ln_pages_keys(const ln_pages *pages, int32_t page, int32_t layer, int32_t kv_head);
const uint8_t *ln_pages_values(const ln_pages *pages, int32_t page, int32_t layer, int32_t kv_head);

/* What a convolution keeps of a position, [dim] of conv_type; layer counts the layers that have one. */
uint8_t *ln_pages_conv(const ln_pages *pages, int32_t page, int32_t layer, int32_t position);

/* Writes k[head_dim] and v[head_dim] of a position, counted from the first of the page. */
void ln_pages_store(const ln_pages *pages, const ln_kernels *kernels, int32_t page, int32_t layer, int32_t kv_head,
                    int32_t position, const float *k, const float *v);

#endif
