/* test_float_kernels.c - layer_norm, activations and soft_cap of every table against double precision: every tail,
 * in place, far arguments, infinities and NaN. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "check.h"
#include "kernels/kernels.h"

#define LONGEST 67 /* every tail of every vector, after none and after several */

static uint32_t state = 1;

/* Uniform in [-1, 1). */
static float next_float(void) {
    state = state * 1664525u + 1013904223u; /* Knuth / Numerical Recipes LCG */
    return (float)(state >> 8) * 0x1p-23f - 1.0f;
}

/* Exactly n floats, so that a sanitizer sees a step past them. */
static float *floats(int64_t n, float centre, float spread) {
    float *x = malloc((size_t)n * sizeof *x);
    CHECK(x != NULL, "out of memory");
    for (int64_t i = 0; i < n; i++) {
        x[i] = centre + spread * next_float();
    }
    return x;
}

static void check_layer_norm(const ln_kernels *table, int64_t n, float centre, float spread, int has_bias) {
    float *x = floats(n, centre, spread), *weight = floats(n, 1, 1), *bias = floats(n, 0, 1), *y = floats(n, 0, 1);
    const float eps = 1e-5f;
    double mean = 0, variance = 0;
    for (int64_t i = 0; i < n; i++) {
        mean += (double)x[i] / (double)n;
    }
    for (int64_t i = 0; i < n; i++) {
        variance += ((double)x[i] - mean) * ((double)x[i] - mean) / (double)n;
    }
    table->layer_norm(x, weight, has_bias ? bias : NULL, n, eps, y);
    /* The mean is known to a float's last places of what was summed. */
    const double slack = 1e-6 * (1 + (fabs((double)centre) + (double)spread) / sqrt(variance + (double)eps));
    for (int64_t i = 0; i < n; i++) {
        const double expected = ((double)x[i] - mean) / sqrt(variance + (double)eps) * (double)weight[i] +
                                (has_bias ? (double)bias[i] : 0);
        CHECK(fabs((double)y[i] - expected) <= 4 * slack, "%s: layer_norm of %d round %g: %g, not %g", table->name,
              (int)n, (double)centre, (double)y[i], expected);
    }
    table->layer_norm(x, weight, has_bias ? bias : NULL, n, eps, x);
    CHECK(memcmp(x, y, (size_t)n * sizeof *x) == 0, "%s: layer_norm in place, n = %d", table->name, (int)n);
    free(x);
    free(weight);
    free(bias);
    free(y);
}

static double activation_of(ln_activation activation, double x) {
    switch (activation) {
    case LN_SILU: return x / (1 + exp(-x));
    case LN_GELU_TANH: return 0.5 * x * (1 + tanh(sqrt(2 / acos(-1.0)) * (x + 0.044715 * x * x * x)));
    case LN_GELU_ERF: return 0.5 * x * erfc(-x / sqrt(2.0));
    case LN_RELU: return x > 0 ? x : 0;
    case LN_TANH: return tanh(x);
    default: return x > 0 ? x * x : 0;
    }
}

static void check_activation(const ln_kernels *table, ln_activation activation, int64_t n, float spread) {
    float *x = floats(n, 0, spread), *up = floats(n, 0, 1), *y = floats(n, 0, 1);
    for (int with_up = 0; with_up < 2; with_up++) {
        table->activate[activation](x, with_up ? up : NULL, n, y);
        for (int64_t i = 0; i < n; i++) {
            const double expected = activation_of(activation, (double)x[i]) * (with_up ? (double)up[i] : 1);
            CHECK(fabs((double)y[i] - expected) <= 4e-7 * fabs(expected) + 4e-7 * (with_up ? fabs((double)up[i]) : 1),
                  "%s: activation %d of %g: %g, not %g", table->name, (int)activation, (double)x[i], (double)y[i],
                  expected);
        }
    }
    table->activate[activation](x, up, n, x);
    CHECK(memcmp(x, y, (size_t)n * sizeof *x) == 0, "%s: activation %d in place", table->name, (int)activation);
    free(x);
    free(up);
    free(y);
}

static void check_far_arguments(const ln_kernels *table) {
    const float far[] = {1e4f, 1e18f, 3e38f, INFINITY};
    for (int a = 0; a < LN_ACTIVATIONS; a++) {
        for (int i = 0; i < 4; i++) {
            float y;
            table->activate[a](&far[i], NULL, 1, &y);
            const float expected = a == LN_TANH ? 1 : far[i];
            CHECK(a == LN_RELU2 ? y >= far[i] : y == expected, "%s: activation %d of %g is %g", table->name, a,
                  (double)far[i], (double)y);
            const float negative = -far[i];
            table->activate[a](&negative, NULL, 1, &y);
            CHECK(y == (a == LN_TANH ? -1.0f : 0.0f) || isinf(far[i]), "%s: activation %d of %g is %g", table->name, a,
                  (double)negative, (double)y);
        }
        const float nan = NAN;
        float y = 0;
        table->activate[a](&nan, NULL, 1, &y);
        CHECK(isnan(y), "%s: activation %d of NaN is %g", table->name, a, (double)y);
    }
}

static void check_soft_cap(const ln_kernels *table, int64_t n, float cap, float spread) {
    float *x = floats(n, 0, spread), *y = floats(n, 0, 1);
    memcpy(y, x, (size_t)n * sizeof *y);
    table->soft_cap(y, n, cap);
    for (int64_t i = 0; i < n; i++) {
        const double expected = (double)cap * tanh((double)x[i] / (double)cap);
        CHECK(fabs((double)y[i] - expected) <= 6e-7 * fabs(expected), "%s: soft_cap(%g, %g): %g, not %g", table->name,
              (double)x[i], (double)cap, (double)y[i], expected);
    }
    free(x);
    free(y);
}

int main(void) {
    for (const ln_kernels *const *each = ln_kernels_all(); *each != NULL; each++) {
        const ln_kernels *table = *each;
        if (!table->available()) {
            printf("%s: not on this processor\n", table->name);
            continue;
        }
        for (int64_t n = 1; n <= LONGEST; n++) {
            check_layer_norm(table, n, 0, 1, n % 2);
            check_layer_norm(table, n, 1000, 1, n % 3 == 0); /* a mean far larger than what is left */
            check_layer_norm(table, n, 3, 0, 1);             /* no variance */
            check_layer_norm(table, n, 0, 1e-20f, 0);
            for (int a = 0; a < LN_ACTIVATIONS; a++) {
                check_activation(table, (ln_activation)a, n, 1);
                check_activation(table, (ln_activation)a, n, 20);
                check_activation(table, (ln_activation)a, n, 1e-3f);
            }
            check_soft_cap(table, n, 50, 1);
            check_soft_cap(table, n, 30, 500);
            check_soft_cap(table, n, 1, 1e-6f);
        }
        check_far_arguments(table);
        printf("%s: ok\n", table->name);
    }
    return 0;
}
