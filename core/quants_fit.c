/* quants_fit.c - the search for scales. Packing into a grid of levels is least squares over
 * integers: with the levels fixed the best scale is a quotient of two sums, with the scale
 * fixed the best levels are the nearest, and turning from one to the other only ever lowers
 * the error (Lloyd's algorithm). It ends in a near minimum, so it starts from several scales.
 *
 * A block is packed in three steps: a real scale (and minimum) for each group; from these the
 * block's own d (and dmin), and for each group the best integers near the real values; then d
 * again for all levels at once, and the integers again.
 *
 * Sums run in LANES interleaved parts, always in this order, so that a compiler may use
 * vectors and every machine gets the same bits.
 */
#include "quants.h"

#include <float.h>
#include <math.h>

#include "kernels/kernels.h"

#define LANES 4 /* divides every group */
#define MAX_GROUP 32

/* Below half the smallest f16 a value is nearer to zero than to any d * scale * level. It
 * also keeps the squares of what is searched for inside the range of a float. */
#define SMALLEST 0x1p-25f

#define STARTS 8 /* scales a search begins from, for each end of the levels */
#define REFITS 2  /* times d is fitted anew to the levels of a block */

/* Sums over a group that least squares needs. */
typedef struct sums {
    float x, level, x_level, level_level;
} sums;

/* A group's scale and minimum before they become integers. */
typedef struct group_fit {
    float scale, minimum;
} group_fit;

static float lane_sum(const float *lanes) {
    float sum = 0.0f;
    for (int i = 0; i < LANES; i++) {
        sum += lanes[i];
    }
    return sum;
}

static sums sums_of(const float *x, const float *level, int n) {
    float total[4][LANES] = {{0}};
    for (int j = 0; j < n; j += LANES) {
        for (int i = 0; i < LANES; i++) {
            total[0][i] += x[j + i];
            total[1][i] += level[j + i];
            total[2][i] += x[j + i] * level[j + i];
            total[3][i] += level[j + i] * level[j + i];
        }
    }
    return (sums){lane_sum(total[0]), lane_sum(total[1]), lane_sum(total[2]), lane_sum(total[3])};
}

static float squared_error(const float *x, const float *level, int n, float scale, float minimum) {
    float total[LANES] = {0};
    for (int j = 0; j < n; j += LANES) {
        for (int i = 0; i < LANES; i++) {
            float error = x[j + i] - (scale * level[j + i] - minimum);
            total[i] += error * error;
        }
    }
    return lane_sum(total);
}

/* level[j] = the level nearest to (x[j] + minimum) / scale. */
static void nearest_levels(const ln_form *form, const float *x, float scale, float minimum, float *level) {
    const int n = form->group_elements;
    const float inverse = ln_reciprocal(scale);
    float wanted[MAX_GROUP];
    for (int j = 0; j < n; j++) {
        wanted[j] = (x[j] + minimum) * inverse;
    }
    if (form->levels == NULL) {
        const float low = (float)form->level_low, high = (float)form->level_high;
        for (int j = 0; j < n; j++) {
            float inside = wanted[j] > low ? wanted[j] : low;
            inside = inside < high ? inside : high;
            level[j] = (inside + 0x1.8p23f) - 0x1.8p23f; /* no bits are left for a fraction: rounds to even */
        }
        return;
    }
    for (int j = 0; j < n; j++) {
        level[j] = form->levels[0];
    }
    for (int k = 1; k < form->n_levels; k++) {
        const float middle = 0.5f * (float)(form->levels[k - 1] + form->levels[k]);
        const float step = (float)(form->levels[k] - form->levels[k - 1]);
        for (int j = 0; j < n; j++) {
            level[j] += wanted[j] > middle ? step : 0.0f;
        }
    }
}

/* ---- one group ----------------------------------------------------------------- */

/* The least-squares scale for levels that are fixed. With two unknowns the minimum is solved for as
 * well; it may not be negative. */
static group_fit solved(const sums *s, int n, int has_minimum) {
    group_fit fit = {s->level_level > 0.0f ? s->x_level / s->level_level : 0.0f, 0.0f};
    float determinant = (float)n * s->level_level - s->level * s->level;
    if (has_minimum && determinant > 0.0f) {
        float scale = ((float)n * s->x_level - s->x * s->level) / determinant;
        float minimum = (scale * s->level - s->x) / (float)n;
        if (minimum > 0.0f) {
            fit = (group_fit){scale, minimum};
        }
    }
    return fit;
}

/* Two turns from `start`; keeps the result in *best when it is the best so far. */
static void try_fit(const ln_form *form, const float *x, group_fit start, group_fit *best, float *best_error) {
    const int n = form->group_elements;
    float level[MAX_GROUP];
    group_fit fit = start;
    for (int turn = 0; turn < 2; turn++) {
        nearest_levels(form, x, fit.scale, fit.minimum, level);
        sums s = sums_of(x, level, n);
        fit = solved(&s, n, form->minimum_high > 0);
    }
    float error = squared_error(x, level, n, fit.scale, fit.minimum);
    if (error < *best_error) {
        *best_error = error;
        *best = fit;
    }
}

/* Scales that put the largest magnitude somewhere near either end of the levels. */
static group_fit fit_scale(const ln_form *form, const float *x) {
    group_fit best = {0.0f, 0.0f};
    float extreme = 0.0f, error = INFINITY;
    for (int j = 0; j < form->group_elements; j++) {
        extreme = fabsf(x[j]) > fabsf(extreme) ? x[j] : extreme;
    }
    if (fabsf(extreme) < SMALLEST) {
        return best;
    }
    for (int i = 0; i < STARTS; i++) {
        const float past = 0.8f + 0.45f * (float)i / (STARTS - 1);
        try_fit(form, x, (group_fit){extreme / ((float)form->level_low * past), 0.0f}, &best, &error);
        try_fit(form, x, (group_fit){extreme / ((float)form->level_high * past), 0.0f}, &best, &error);
    }
    return best;
}

/* Scales around that which spreads the levels over all values, zero among them. */
static group_fit fit_scale_and_minimum(const ln_form *form, const float *x) {
    float low = 0.0f, high = x[0], error = INFINITY;
    for (int j = 0; j < form->group_elements; j++) {
        low = x[j] < low ? x[j] : low;
        high = x[j] > high ? x[j] : high;
    }
    group_fit best = {0.0f, -low};
    if (high - low < SMALLEST) {
        return best;
    }
    const float full = (high - low) / (float)form->level_high;
    for (int i = 0; i < 2 * STARTS; i++) {
        const float past = 0.5f + 0.7f * (float)i / (2 * STARTS - 1);
        try_fit(form, x, (group_fit){full * past, -low * past}, &best, &error);
    }
    return best;
}

/* ---- the block ------------------------------------------------------------------- */

/* d as an f16, rounded away from zero: were it rounded down, the integers of the largest group might
 * not reach far enough (among subnormals, by a lot), while one a little too large they make up for. */
static uint16_t stored(float d) {
    const float magnitude = fabsf(d);
    if (magnitude >= LN_F16_LARGEST) {
        return ln_f32_to_f16(d < 0.0f ? -LN_F16_LARGEST : LN_F16_LARGEST);
    }
    const uint16_t nearest = ln_f32_to_f16(d);
    return fabsf(ln_f16_to_f32(nearest)) < magnitude ? (uint16_t)(nearest + 1) : nearest;
}

/* value / unit to the nearest integer of low .. high. */
static int nearest_integer(float value, float unit, int low, int high) {
    float wanted = value * ln_reciprocal(unit);
    if (!(wanted > (float)low)) {
        return low;
    }
    return wanted < (float)high ? (int)floorf(wanted + 0.5f) : high;
}

static uint8_t code_of(const ln_form *form, float level) {
    if (form->levels == NULL) {
        return (uint8_t)((int)level - form->level_low);
    }
    uint8_t code = 0;
    while (form->levels[code] < (int)level) {
        code++;
    }
    return code;
}

/* The integers of group g, for given d and dmin: the best of those nearest to `wanted` and their
 * neighbours. Writes them, the codes and the levels; returns the squared error. */
static float choose_group(const ln_form *form, const float *x, group_fit wanted, int g, ln_fitted *out, float *level) {
    const int n = form->group_elements;
    const float d = ln_f16_to_f32(out->d), dmin = ln_f16_to_f32(out->dmin);
    const int scale = nearest_integer(wanted.scale, d, form->scale_low, form->scale_high);
    const int minimum = nearest_integer(wanted.minimum, dmin, 0, form->minimum_high);
    float best = INFINITY;
    for (int s = scale - 1; s <= scale + 1; s++) {
        for (int m = minimum - 1; m <= minimum + 1; m++) {
            if (s < form->scale_low || s > form->scale_high || m < 0 || m > form->minimum_high) {
                continue;
            }
            float tried[MAX_GROUP];
            nearest_levels(form, x, d * (float)s, dmin * (float)m, tried);
            float error = squared_error(x, tried, n, d * (float)s, dmin * (float)m);
            if (error < best) {
                best = error;
                out->scale[g] = (int8_t)s;
                out->minimum[g] = (uint8_t)m;
                memcpy(level, tried, (size_t)n * sizeof *level);
            }
        }
    }
    for (int j = 0; j < n; j++) {
        out->code[g * n + j] = code_of(form, level[j]);
    }
    return best;
}

/* Least squares for d and dmin with everything else fixed: x ~ d a - dmin b, where a = scale * level and
 * b = minimum. */
static group_fit refit(const ln_form *form, const float *x, const float *level, const ln_fitted *fitted) {
    const int n = form->group_elements;
    double aa = 0, ab = 0, bb = 0, xa = 0, xb = 0;
    for (int g = 0; g < form->groups; g++) {
        const sums s = sums_of(x + g * n, level + g * n, n);
        const double scale = fitted->scale[g], minimum = fitted->minimum[g];
        aa += scale * scale * (double)s.level_level;
        ab += scale * minimum * (double)s.level;
        bb += minimum * minimum * n;
        xa += scale * (double)s.x_level;
        xb += minimum * (double)s.x;
    }
    const double determinant = aa * bb - ab * ab;
    if (bb > 0.0 && determinant > 1e-9 * aa * bb) {
        const double d = (xa * bb - xb * ab) / determinant, dmin = (xa * ab - xb * aa) / determinant;
        if (d > 0.0 && dmin > 0.0) {
            return (group_fit){(float)d, (float)dmin};
        }
    }
    return (group_fit){aa > 0.0 ? (float)(xa / aa) : 0.0f, bb > 0.0 && aa == 0.0 ? (float)(-xb / bb) : 0.0f};
}

/* Chooses all integers for d and dmin. Returns the squared error. */
static float choose_block(const ln_form *form, const float *x, const group_fit *wanted, group_fit units, ln_fitted *out,
                          float *level) {
    const int n = form->group_elements;
    float error = 0.0f;
    out->d = stored(units.scale);
    out->dmin = stored(units.minimum);
    for (int g = 0; g < form->groups; g++) {
        error += choose_group(form, x + g * n, wanted[g], g, out, level + g * n);
    }
    return error;
}

void ln_fit_block(const ln_form *form, const float *x, ln_fitted *out) {
    const int n = form->group_elements;
    const group_fit zero = {0.0f, 0.0f};
    group_fit wanted[LN_MAX_GROUPS], units = zero;
    float level[LN_SUPER];
    for (int g = 0; g < form->groups; g++) {
        wanted[g] = form->minimum_high > 0 ? fit_scale_and_minimum(form, x + g * n) : fit_scale(form, x + g * n);
        units.scale = fabsf(wanted[g].scale) > fabsf(units.scale) ? wanted[g].scale : units.scale;
        units.minimum = fmaxf(wanted[g].minimum, units.minimum);
    }
    units.scale /= (float)form->scale_end;
    units.minimum /= form->minimum_high > 0 ? (float)form->minimum_high : 1.0f;

    ln_fitted fitted;
    memset(&fitted, 0, sizeof fitted);
    float best = choose_block(form, x, wanted, zero, &fitted, level);
    *out = fitted;
    for (int round = 0; round <= REFITS; round++) {
        float error = choose_block(form, x, wanted, units, &fitted, level);
        if (error < best) {
            best = error;
            *out = fitted;
        }
        units = refit(form, x, level, &fitted);
    }
}
