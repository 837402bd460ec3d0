/* rotary.c - frequencies, angles, and turning heads by them. */
#include "rotary.h"

#include <math.h>

#define TWO_PI 6.283185307179586

int32_t ln_rotary_tables(const ln_model *model) {
    return model->facts.rope_base_local > 0 || model->globals.rope_long != NULL ? 2 : 1;
}

int ln_rotary_is_stretched(const ln_model *model, int32_t n_ctx) {
    return model->globals.rope_long != NULL && n_ctx > model->facts.rope_trained_len;
}

/* ---- frequencies -------------------------------------------------------------- */

/* The pair (a fraction) that turns so often over the length the model was trained with. */
static double pair_that_turns(const ln_facts *f, double times) {
    return f->rope_dims * log(f->rope_trained_len / (times * TWO_PI)) / (2 * log((double)f->rope_base));
}

/* How much of a frequency YaRN divides: none of fast pairs, all of slow ones, in between a share that grows. */
static double stretched_share(const ln_facts *f, int32_t pair) {
    const double first = fmax(0, floor(pair_that_turns(f, (double)f->rope_fast)));
    const double last = fmin(f->rope_dims - 1, ceil(pair_that_turns(f, (double)f->rope_slow)));
    return fmin(1, fmax(0, (pair - first) / fmax(0.001, last - first)));
}

/* base^(-2i / rope_dims), rounded to float and divided as float, which is how models of this family were trained. */
static void fill_table(float *table, const ln_facts *f, float base, const float *divisors, int is_scaled) {
    for (int32_t i = 0; i < f->rope_dims / 2; i++) {
        float frequency = (float)pow((double)base, -2.0 * i / f->rope_dims);
        const float divided = frequency / f->rope_divisor;
        if (is_scaled && f->rope_scaling == LN_ROPE_YARN) {
            const double share = stretched_share(f, i);
            frequency = (float)((double)divided * share + (double)frequency * (1 - share));
        } else if (is_scaled) {
            frequency = divided;
        }
        table[i] = divisors != NULL ? frequency / divisors[i] : frequency;
    }
}

void ln_rotary_fill(ln_rotary *rotary, const ln_model *model) {
    const ln_facts *f = &model->facts;
    const ln_globals *g = &model->globals;
    fill_table(rotary->frequencies, f, f->rope_base, g->rope_short != NULL ? g->rope_short : g->rope_divisors, 1);
    float *second = rotary->frequencies + f->rope_dims / 2;
    if (g->rope_long != NULL) {
        fill_table(second, f, f->rope_base, g->rope_long, 1);
    } else if (f->rope_base_local > 0) {
        fill_table(second, f, f->rope_base_local, NULL, 0);
    }
}

/* ---- angles -------------------------------------------------------------------- */

void ln_rotary_place(ln_rotary *rotary, const ln_model *model, int32_t token, int32_t position) {
    const ln_facts *f = &model->facts;
    const int32_t n = ln_rotary_tables(model) * (f->rope_dims / 2);
    float *cosines = rotary->cosines + (int64_t)token * n;
    float *sines = rotary->sines + (int64_t)token * n;
    for (int32_t i = 0; i < n; i++) {
        /* The angle is a float, as it was in training; its sine and cosine are exact to a float. */
        const float angle = (float)position * rotary->frequencies[i];
        cosines[i] = (float)(cos((double)angle) * (double)f->rope_magnitude);
        sines[i] = (float)(sin((double)angle) * (double)f->rope_magnitude);
    }
}

/* ---- turning --------------------------------------------------------------------- */

static void turn_neighbours(float *head, const float *cosines, const float *sines, int32_t n_pairs) {
    for (int32_t i = 0; i < n_pairs; i++) {
        float a = head[2 * i];
        float b = head[2 * i + 1];
        head[2 * i] = a * cosines[i] - b * sines[i];
        head[2 * i + 1] = a * sines[i] + b * cosines[i];
    }
}

static void turn_halves(float *head, const float *cosines, const float *sines, int32_t n_pairs) {
    for (int32_t i = 0; i < n_pairs; i++) {
        float a = head[i];
        float b = head[n_pairs + i];
        head[i] = a * cosines[i] - b * sines[i];
        head[n_pairs + i] = a * sines[i] + b * cosines[i];
    }
}

void ln_rotary_turn(const ln_rotary *rotary, const ln_model *model, int32_t layer, int32_t n_ctx, int32_t token,
                    float *heads, int32_t n_heads) {
    const ln_facts *f = &model->facts;
    const ln_layer_kind *kind = &model->kinds[layer];
    const int32_t pairs = f->rope_dims / 2;
    if (!kind->rotates) {
        return;
    }
    const int second = kind->is_local || ln_rotary_is_stretched(model, n_ctx);
    const int64_t at = ((int64_t)token * ln_rotary_tables(model) + second) * pairs;
    for (int32_t i = 0; i < n_heads; i++, heads += f->head_dim) {
        if (f->rope_pairs == LN_ROPE_NEIGHBOURS) {
            turn_neighbours(heads, rotary->cosines + at, rotary->sines + at, pairs);
        } else {
            turn_halves(heads, rotary->cosines + at, rotary->sines + at, pairs);
        }
    }
}
