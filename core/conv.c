/* conv.c - gated short convolutions: of three projections b, c and x of a token, b * x is convolved with that of
 * the tokens before it, channel by channel, and the result multiplied by c.
 *
 * b * x of every position is kept in its page, like keys and values: so timelines are forked and truncated without
 * a thought of it. It is read from there for the tokens in flight too, which makes the bits the same however
 * a text is cut up.
 */
#include "conv.h"

#include <string.h>

#include "session.h"

#define STRIP 256 /* columns convolved at a time */

typedef struct conv_job {
    ln_workspace *workspace;
    const ln_layer *layer;
    int32_t index; /* among the layers with a convolution */
    float *out;    /* [n][dim], what conv_out reads */
    int quantize;
} conv_job;

static const ln_segment *segment_of(const ln_workspace *w, int32_t token) {
    const ln_segment *segment = w->segments;
    while (token >= segment->first + segment->n) {
        segment++;
    }
    return segment;
}

static void store_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const conv_job *j = job;
    const ln_workspace *w = j->workspace;
    const int32_t dim = w->model->facts.dim;
    float *b = w->block + (int64_t)item * 3 * dim;
    const float *x = b + 2 * (int64_t)dim;
    const int32_t position = w->positions[item];
    for (int32_t i = 0; i < dim; i++) {
        b[i] *= x[i];
    }
    uint8_t *row = ln_pages_conv(&w->pages, segment_of(w, item)->session->pages[position / LN_PAGE], j->index,
                                 position % LN_PAGE);
    if (w->pages.conv_type == LN_TYPE_F32) {
        memcpy(row, b, (size_t)dim * sizeof *b);
    } else {
        w->compute.kernels->f32_to_f16(b, dim, (uint16_t *)(void *)row);
    }
}

static void conv_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const conv_job *j = job;
    const ln_workspace *w = j->workspace;
    const ln_facts *f = &w->model->facts;
    const ln_type_traits *type = ln_type_traits_of(w->pages.conv_type);
    const int32_t *pages = segment_of(w, item)->session->pages;
    const float *c = w->block + (int64_t)item * 3 * f->dim + f->dim;
    float *out = j->out + (int64_t)item * f->dim;
    for (int32_t first = 0; first < f->dim; first += STRIP) {
        const int32_t n = f->dim - first < STRIP ? f->dim - first : STRIP;
        float sums[STRIP] = {0};
        for (int32_t tap = 0; tap < f->conv_len; tap++) {
            const int32_t position = w->positions[item] - (f->conv_len - 1) + tap;
            float row[STRIP];
            if (position < 0) {
                continue;
            }
            const uint8_t *kept = ln_pages_conv(&w->pages, pages[position / LN_PAGE], j->index, position % LN_PAGE);
            type->unpack(kept + first * type->block_bytes, n, row);
            for (int32_t i = 0; i < n; i++) {
                sums[i] += j->layer->conv_taps[(int64_t)(first + i) * f->conv_len + tap] * row[i];
            }
        }
        for (int32_t i = 0; i < n; i++) {
            out[first + i] = sums[i] * c[first + i];
        }
    }
    if (j->quantize) {
        w->compute.kernels->quantize_q8(out, f->dim, w->q8 + ln_q8_first(f->dim, item),
                                        ln_q8_tile_width(w->n_tokens, item));
    }
}

void ln_conv_run(ln_workspace *w, int32_t layer, float *y) {
    const ln_facts *f = &w->model->facts;
    const ln_layer *weights = ln_model_layer(w->model, layer);
    const int32_t n = w->n_tokens;
    const conv_job job = {
        .workspace = w,
        .layer = weights,
        .index = w->model->kinds[layer].index,
        .out = w->block + (int64_t)n * 3 * f->dim,
        .quantize = ln_wants_q8(&weights->conv_out.w),
    };
    ln_vectors h = {.f32 = w->h, .q8 = w->q8, .cols = f->dim, .n = n};
    ln_products_run(&w->compute, &(ln_product){.of = &weights->conv_in, .x = h, .y = w->block, .scale = 1.0f}, 1);
    ln_compute_run(&w->compute, n, (int64_t)n * f->dim, store_item, &job);
    ln_compute_run(&w->compute, n, (int64_t)n * f->dim * f->conv_len, conv_item, &job);
    h.f32 = job.out;
    ln_products_run(&w->compute,
                    &(ln_product){.of = &weights->conv_out, .x = h, .y = y, .scale = f->residual_scale}, 1);
}
