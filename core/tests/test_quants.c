/* The tensor types: 16-bit floats over all their values, block formats by hand-worked
 * bytes and by the bounds of their errors, refusals. Exit status 0, or 1 after printing
 * what failed. */
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "../linnet.h"

#define CHECK(condition, ...)                     \
    do {                                          \
        if (!(condition)) {                       \
            printf("%s:%d ", __FILE__, __LINE__); \
            printf(__VA_ARGS__);                  \
            printf("\n");                         \
            exit(1);                              \
        }                                         \
    } while (0)

static float float_of(uint32_t bits) {
    float f;
    memcpy(&f, &bits, sizeof f);
    return f;
}

/* ---- 16-bit floats ------------------------------------------------------------------ */

/* IEEE 754 binary16 by its definition. */
static double f16_value(uint16_t h) {
    int exponent = (h >> 10) & 31;
    int fraction = h & 1023;
    double size = exponent == 0 ? ldexp(fraction, -24) : ldexp(1024 + fraction, exponent - 25);
    return h & 0x8000 ? -size : size;
}

static void test_f16_every_value(void) {
    for (uint32_t i = 0; i < 65536; i++) {
        uint16_t h = (uint16_t)i;
        float f = ln_f16_to_f32(h);
        if ((h & 0x7c00) == 0x7c00) {
            int is_nan = (h & 0x3ff) != 0;
            CHECK(is_nan ? isnan(f) : isinf(f), "f16 %04x is %g", h, (double)f);
            CHECK(!signbit(f) == !(h & 0x8000), "f16 %04x loses its sign", h);
            CHECK(ln_f32_to_f16(f) == (is_nan ? (h | 0x200) : h), "f16 %04x does not return", h);
            continue;
        }
        CHECK((double)f == f16_value(h) && !signbit(f) == !(h & 0x8000), "f16 %04x is %g", h, (double)f);
        CHECK(ln_f32_to_f16(f) == h, "f16 %04x does not return", h);
    }
}

/* Between neighbours: the middle goes to the even one, anything off it to the nearer. */
static void test_f16_rounding(void) {
    for (uint16_t h = 0; h < 0x7bff; h++) {
        float middle = (float)((f16_value(h) + f16_value(h + 1)) / 2);
        uint16_t even = (uint16_t)(h + (h & 1));
        CHECK(ln_f32_to_f16(middle) == even, "%a rounds to %04x", (double)middle, ln_f32_to_f16(middle));
        CHECK(ln_f32_to_f16(nextafterf(middle, 0.0f)) == h, "below %a", (double)middle);
        CHECK(ln_f32_to_f16(nextafterf(middle, INFINITY)) == h + 1, "above %a", (double)middle);
        CHECK(ln_f32_to_f16(-middle) == (even | 0x8000), "-%a", (double)middle);
    }
    CHECK(ln_f32_to_f16(65519.996f) == 0x7bff, "the largest f16");
    CHECK(ln_f32_to_f16(65520.0f) == 0x7c00, "65520 becomes infinity");
    CHECK(ln_f32_to_f16(FLT_MAX) == 0x7c00, "FLT_MAX becomes infinity");
    CHECK(ln_f32_to_f16(-FLT_MIN) == 0x8000, "a float far below f16 keeps its sign");
}

static uint16_t to_bf16(float f) {
    uint16_t packed;
    CHECK(ln_pack(LN_TYPE_BF16, &f, 1, &packed, NULL) == LN_OK, "pack bf16");
    return packed;
}

static void test_bf16(void) {
    for (uint32_t h = 0; h < 0x7f7f; h++) {
        uint32_t middle = h << 16 | 0x8000;
        CHECK(to_bf16(float_of(h << 16)) == h, "bf16 %04x does not return", (unsigned)h);
        CHECK(to_bf16(float_of(middle)) == h + (h & 1), "bf16 tie above %04x", (unsigned)h);
        CHECK(to_bf16(float_of(middle - 1)) == h, "bf16 below the tie above %04x", (unsigned)h);
        CHECK(to_bf16(float_of(middle + 1)) == h + 1, "bf16 above the tie above %04x", (unsigned)h);
    }
    CHECK(to_bf16(FLT_MAX) == 0x7f80 && to_bf16(-INFINITY) == 0xff80, "bf16 infinity");
    float nan = float_of(0x7f800001u), back; /* its payload lies in the bits that are cut off */
    uint16_t packed = to_bf16(nan);
    CHECK(ln_unpack(LN_TYPE_BF16, &packed, 1, &back, NULL) == LN_OK && isnan(back), "a NaN becomes %04x", packed);
}

/* ---- block formats -------------------------------------------------------------------- */

static void test_q8_0_bytes(void) {
    float x[32] = {0}, back[32];
    uint8_t block[34];
    x[0] = -254.0f; /* scale 2 */
    x[1] = 1.0f;    /* half a step: away from zero */
    x[2] = -3.0f;
    x[31] = 254.0f;
    CHECK(ln_pack(LN_TYPE_Q8_0, x, 32, block, NULL) == LN_OK, "pack q8_0");
    CHECK(block[0] == 0x00 && block[1] == 0x40, "scale 2 as f16, little-endian");
    CHECK(block[2] == 0x81 && block[3] == 1 && block[4] == 0xfe && block[33] == 127, "q8_0 quants");
    CHECK(ln_unpack(LN_TYPE_Q8_0, block, 32, back, NULL) == LN_OK, "unpack q8_0");
    CHECK(back[0] == -254.0f && back[1] == 2.0f && back[2] == -4.0f, "q8_0 values");
    CHECK(back[3] == 0.0f && back[31] == 254.0f, "q8_0 values");
}

static void test_q4_0_bytes(void) {
    float x[32] = {0}, back[32];
    uint8_t block[18];
    x[0] = 7.0f;
    x[1] = 0.5f; /* half a step: up */
    x[2] = -0.5f;
    x[5] = -8.0f; /* the largest magnitude: -8 times scale 1 */
    x[16] = 1.0f;
    x[21] = 7.9f; /* past +7: clipped */
    CHECK(ln_pack(LN_TYPE_Q4_0, x, 32, block, NULL) == LN_OK, "pack q4_0");
    CHECK(block[0] == 0x00 && block[1] == 0x3c, "scale 1 as f16");
    CHECK(block[2] == 0x9f, "elements 0 and 16 share the first byte: %02x", block[2]);
    CHECK(block[3] == 0x89 && block[4] == 0x88, "halves: %02x %02x", block[3], block[4]);
    CHECK(block[7] == 0xf0, "elements 5 and 21: %02x", block[7]);
    CHECK(block[17] == 0x88, "zeros lie in the middle");
    CHECK(ln_unpack(LN_TYPE_Q4_0, block, 32, back, NULL) == LN_OK, "unpack q4_0");
    CHECK(back[0] == 7.0f && back[1] == 1.0f && back[2] == 0.0f && back[5] == -8.0f, "q4_0 values");
    CHECK(back[16] == 1.0f && back[21] == 7.0f && back[31] == 0.0f, "q4_0 values");
    for (int i = 0; i < 32; i++) {
        x[i] = -x[i];
    }
    CHECK(ln_pack(LN_TYPE_Q4_0, x, 32, block, NULL) == LN_OK, "pack q4_0");
    CHECK(block[1] == 0xbc, "a positive extreme gives a negative scale");
}

/* Every value comes back within half a step of q8_0, a whole one of q4_0 (the clipped end), plus the rounding
 * of the scale to f16. */
static void test_errors_are_bounded(void) {
    enum { N = 32 * 64 };
    static float x[N], back[N];
    static uint8_t packed[N / 32 * 34];
    static const int32_t types[] = {LN_TYPE_Q8_0, LN_TYPE_Q4_0};
    static const double steps[] = {0.5 / 127, 1.0 / 8};
    uint32_t state = 1;
    for (int scale = -7; scale <= 15; scale++) {
        for (int i = 0; i < N; i++) {
            state = state * 1664525u + 1013904223u;
            x[i] = ldexpf((float)(state >> 8) * 0x1p-23f - 1.0f, scale);
        }
        for (int t = 0; t < 2; t++) {
            CHECK(ln_pack(types[t], x, N, packed, NULL) == LN_OK, "pack type %d", (int)types[t]);
            CHECK(ln_unpack(types[t], packed, N, back, NULL) == LN_OK, "unpack type %d", (int)types[t]);
            for (int i = 0; i < N; i++) {
                double largest = 0;
                for (int j = i / 32 * 32; j < i / 32 * 32 + 32; j++) {
                    largest = fmax(largest, fabs((double)x[j]));
                }
                double bound = (steps[t] * 1.001 + 0x1p-11) * largest + 127 * 0x1p-25;
                CHECK(fabs((double)back[i] - (double)x[i]) <= bound, "type %d: %g becomes %g", (int)types[t],
                      (double)x[i], (double)back[i]);
            }
        }
    }
}

static void test_zeros_and_subnormals(void) {
    float x[32], back[32];
    uint8_t packed[34];
    static const float sizes[] = {0.0f, 1e-45f, 1e-39f, FLT_MIN};
    for (int s = 0; s < 4; s++) {
        for (int i = 0; i < 32; i++) {
            x[i] = i % 2 ? sizes[s] : -sizes[s];
        }
        static const int32_t types[] = {LN_TYPE_Q8_0, LN_TYPE_Q4_0};
        for (int t = 0; t < 2; t++) {
            CHECK(ln_pack(types[t], x, 32, packed, NULL) == LN_OK, "pack type %d", (int)types[t]);
            CHECK(ln_unpack(types[t], packed, 32, back, NULL) == LN_OK, "unpack type %d", (int)types[t]);
            CHECK(back[7] == 0.0f, "type %d: %g becomes %g", (int)types[t], (double)sizes[s], (double)back[7]);
        }
    }
}

/* ---- the table and its refusals ---------------------------------------------------------- */

static void test_describe(void) {
    static const struct {
        int32_t type;
        const char *name;
        int32_t elements, bytes;
    } known[] = {{0, "f32", 1, 4}, {1, "f16", 1, 2}, {30, "bf16", 1, 2}, {8, "q8_0", 32, 34}, {2, "q4_0", 32, 18}};
    ln_type_info info;
    for (int i = 0; i < 5; i++) {
        CHECK(ln_type_describe(known[i].type, &info) == LN_OK, "%s is unknown", known[i].name);
        CHECK(strcmp(info.name, known[i].name) == 0 && info.block_elements == known[i].elements &&
                  info.block_bytes == known[i].bytes, "%s is described as %s", known[i].name, info.name);
    }
    static const int32_t unknown[] = {-1, 3, 29, 31, LN_TYPE_LIMIT, INT32_MAX, INT32_MIN};
    for (int i = 0; i < 7; i++) {
        CHECK(ln_type_describe(unknown[i], &info) == LN_UNSUPPORTED, "type %d is known", (int)unknown[i]);
        CHECK(ln_type_traits_of(unknown[i]) == NULL, "type %d has traits", (int)unknown[i]);
    }
    CHECK(ln_type_describe(0, NULL) == LN_BAD_ARGUMENT, "describe into NULL");
}

static void expect(int32_t status, int32_t wanted, const ln_error *err, const char *words) {
    CHECK(status == wanted && err->status == wanted, "status %d, not %d", (int)status, (int)wanted);
    CHECK(strstr(err->message, words) != NULL, "\"%s\" lacks \"%s\"", err->message, words);
}

static void test_refusals(void) {
    float x[64] = {0};
    uint8_t packed[68];
    ln_error err;
    expect(ln_pack(7, x, 32, packed, &err), LN_UNSUPPORTED, &err, "type 7");
    expect(ln_unpack(7, packed, 32, x, &err), LN_UNSUPPORTED, &err, "type 7");
    expect(ln_pack(LN_TYPE_Q8_0, x, 33, packed, &err), LN_BAD_ARGUMENT, &err, "33");
    expect(ln_unpack(LN_TYPE_Q4_0, packed, 31, x, &err), LN_BAD_ARGUMENT, &err, "31");
    expect(ln_pack(LN_TYPE_F32, x, -1, packed, &err), LN_BAD_ARGUMENT, &err, "-1");
    expect(ln_pack(LN_TYPE_F16, NULL, 1, packed, &err), LN_BAD_ARGUMENT, &err, "NULL");
    expect(ln_unpack(LN_TYPE_F16, packed, 1, NULL, &err), LN_BAD_ARGUMENT, &err, "NULL");
    x[40] = NAN;
    expect(ln_pack(LN_TYPE_Q8_0, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "element 40");
    x[40] = -INFINITY;
    expect(ln_pack(LN_TYPE_Q4_0, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "element 40");
    x[40] = 65504.0f * 8 * 1.01f;
    expect(ln_pack(LN_TYPE_Q4_0, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "element 40");
    CHECK(ln_pack(LN_TYPE_Q8_0, x, 64, packed, &err) == LN_OK, "q8_0 reaches further than q4_0");
    CHECK(ln_pack(LN_TYPE_Q8_0, x, 33, packed, NULL) == LN_BAD_ARGUMENT, "without an ln_error");
    CHECK(ln_pack(LN_TYPE_Q8_0, NULL, 0, NULL, &err) == LN_OK, "nothing to pack is no error");
}

int main(void) {
    test_f16_every_value();
    test_f16_rounding();
    test_bf16();
    test_q8_0_bytes();
    test_q4_0_bytes();
    test_errors_are_bounded();
    test_zeros_and_subnormals();
    test_describe();
    test_refusals();
    puts("quants: ok");
    return 0;
}
