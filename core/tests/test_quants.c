/* The tensor types: 16-bit floats over all their values, block formats by hand-worked
 * bytes and by the bounds of their errors, refusals. Exit status 0, or 1 after printing
 * what failed. */
#include <float.h>
#include <math.h>
#include <string.h>

#include "../kernels/kernels.h"
#include "../linnet.h"
#include "check.h"

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

static void test_q5_1_bytes(void) {
    float x[32] = {0}, back[32];
    uint8_t block[24];
    x[3] = 15.5f;  /* scale 0.5, the whole range of 31 steps */
    x[20] = 8.0f;  /* 16 steps: only the fifth bit */
    x[19] = 0.25f; /* half a step: up */
    CHECK(ln_pack(LN_TYPE_Q5_1, x, 32, block, NULL) == LN_OK, "pack q5_1");
    CHECK(block[0] == 0x00 && block[1] == 0x38 && block[2] == 0 && block[3] == 0, "scale 0.5, minimum 0");
    CHECK(block[4] == 0x08 && block[5] == 0 && block[6] == 0x10 && block[7] == 0, "fifth bits of 3 and 20");
    CHECK(block[8 + 3] == 0x1f && block[8 + 4] == 0x00, "elements 3 and 19, 4 and 20");
    CHECK(ln_unpack(LN_TYPE_Q5_1, block, 32, back, NULL) == LN_OK, "unpack q5_1");
    CHECK(back[3] == 15.5f && back[20] == 8.0f && back[19] == 0.5f && back[0] == 0.0f, "q5_1 values");
}

static void test_mxfp4_bytes(void) {
    static const float numbers[8] = {0.0f, 0.5f, 1.0f, 1.5f, 2.0f, 3.0f, 4.0f, 6.0f}; /* those of E2M1 */
    float x[32], back[32];
    uint8_t block[17];
    for (int i = 0; i < 32; i++) {
        x[i] = ldexpf(i % 16 < 8 ? numbers[i % 8] : -numbers[i % 8], 10);
    }
    CHECK(ln_pack(LN_TYPE_MXFP4, x, 32, block, NULL) == LN_OK, "pack mxfp4");
    CHECK(block[0] == 127 + 10, "2^10 as E8M0: %d", block[0]);
    for (int i = 0; i < 16; i++) { /* -0 is packed as 0 */
        CHECK(block[1 + i] == (i == 8 ? 0 : i * 0x11), "code of element %d: %02x", i, block[1 + i]);
    }
    CHECK(ln_unpack(LN_TYPE_MXFP4, block, 32, back, NULL) == LN_OK, "unpack mxfp4");
    for (int i = 0; i < 32; i++) {
        CHECK(back[i] == x[i], "element %d: %g", i, (double)back[i]);
    }
}

/* Blocks written by hand: element 200 alone is not zero. */
static void test_super_block_places(void) {
    uint8_t q4_k[144] = {0x00, 0x3c, 0x00, 0x38}; /* d = 1, dmin = 0.5 */
    uint8_t q6_k[210] = {0};
    float x[256];
    /* Group 6: scale 37 = 2 * 16 + 5, minimum 18 = 1 * 16 + 2. */
    q4_k[4 + 2] = 2 << 6;
    q4_k[4 + 6] = 1 << 6;
    q4_k[4 + 10] = 5 | 2 << 4;
    q4_k[16 + 96 + 8] = 9; /* 200 = 3 * 64 + 8: the low half of byte 3 * 32 + 8 */
    CHECK(ln_unpack(LN_TYPE_Q4_K, q4_k, 256, x, NULL) == LN_OK, "unpack q4_k");
    CHECK(x[200] == 37.0f * 9 - 9.0f && x[201] == -9.0f && x[191] == 0.0f && x[224] == 0.0f, "q4_k values");
    for (int i = 0; i < 256; i++) { /* all q are 0, so all values -32 * scale */
        q6_k[192 + i / 16] = i / 16 == 12 ? 0xff : 0;
    }
    q6_k[209] = 0x3c;
    q6_k[64 + 8] = 7 << 4;       /* 200 = 128 + 72: bits 0-3 in the high half of byte 64 + 72 - 64 */
    q6_k[128 + 32 + 8] = 3 << 4; /* and bits 4-5 third from below in byte 32 + 8 */
    CHECK(ln_unpack(LN_TYPE_Q6_K, q6_k, 256, x, NULL) == LN_OK, "unpack q6_k");
    CHECK(x[200] == -(48.0f + 7 - 32) && x[201] == 32.0f && x[191] == 0.0f && x[208] == 0.0f, "q6_k values");
}

/* ---- errors --------------------------------------------------------------------------- */

/* How far a value may be off, as a share of the largest magnitude of its block: a step or half of one where
 * packing follows a recipe, else half as much again as was seen on blocks like those below. */
static const struct {
    int32_t type;
    double share;
} blocks[] = {
    {LN_TYPE_Q8_0, 0.5 / 127}, {LN_TYPE_Q5_0, 1.0 / 16}, {LN_TYPE_Q5_1, 1.0 / 31}, {LN_TYPE_Q4_0, 1.0 / 8},
    {LN_TYPE_Q4_1, 1.0 / 15},  {LN_TYPE_MXFP4, 0.25},    {LN_TYPE_TQ1_0, 0.5},     {LN_TYPE_TQ2_0, 0.5},
    {LN_TYPE_Q6_K, 0.06},      {LN_TYPE_Q5_K, 0.16},     {LN_TYPE_Q4_K, 0.27},     {LN_TYPE_Q3_K, 0.45},
    {LN_TYPE_Q2_K, 0.85},      {LN_TYPE_IQ4_NL, 0.22},   {LN_TYPE_IQ4_XS, 0.22},
};
enum { N_BLOCKS = sizeof blocks / sizeof blocks[0], N = 256 * 8 };

static uint32_t random_state = 1;

static uint32_t random_bits(void) {
    random_state = random_state * 1664525u + 1013904223u;
    return random_state >> 8;
}

/* -1 .. 1 */
static float uniform(void) {
    return (float)random_bits() * 0x1p-23f - 1.0f;
}

/* Packs x[N] and unpacks it; every value must come back within its bound. */
static void check_round_trip(int b, const float *x, const char *what) {
    static uint8_t packed[N / 32 * 34];
    static float back[N];
    const ln_type_traits *type = ln_type_traits_of(blocks[b].type);
    ln_error err;
    CHECK(ln_pack(blocks[b].type, x, N, packed, &err) == LN_OK, "%s, %s: %s", type->name, what, err.message);
    CHECK(ln_unpack(blocks[b].type, packed, N, back, &err) == LN_OK, "%s, %s", type->name, what);
    for (int begin = 0; begin < N; begin += type->block_elements) {
        double largest = 0;
        for (int i = begin; i < begin + type->block_elements; i++) {
            largest = fmax(largest, fabs((double)x[i]));
        }
        double bound = (blocks[b].share * 1.01 + 0x1p-10) * largest + 127 * 0x1p-25;
        for (int i = begin; i < begin + type->block_elements; i++) {
            CHECK(fabs((double)back[i] - (double)x[i]) <= bound, "%s, %s: %g becomes %g, the largest is %g", type->name,
                  what, (double)x[i], (double)back[i], largest);
        }
    }
}

static void test_errors_are_bounded(void) {
    static float x[N];
    for (int b = 0; b < N_BLOCKS; b++) {
        for (int scale = -20; scale <= 15; scale++) {
            for (int i = 0; i < N; i++) {
                x[i] = ldexpf(uniform(), scale);
            }
            check_round_trip(b, x, "uniform");
            for (int i = 0; i < N; i++) { /* groups of very different size */
                x[i] = ldexpf(uniform(), scale - (i / 16 * 7) % 20);
            }
            check_round_trip(b, x, "uneven groups");
            for (int i = 0; i < N; i++) {
                x[i] = i % 256 == 77 ? ldexpf(1.0f, scale) : ldexpf(uniform(), scale - 6);
            }
            check_round_trip(b, x, "one outlier");
            for (int i = 0; i < N; i++) {
                x[i] = ldexpf(i / 256 % 2 ? -0.7f : 0.7f, scale);
            }
            check_round_trip(b, x, "all equal");
            for (int i = 0; i < N; i++) {
                x[i] = ldexpf(2.0f + uniform(), scale - 2) * (i / 256 % 2 ? -1.0f : 1.0f);
            }
            check_round_trip(b, x, "far from zero");
        }
    }
}

/* The largest values a type takes come back finite and whole. */
static void test_largest_values(void) {
    static float x[N];
    for (int b = 0; b < N_BLOCKS; b++) {
        const float largest = ln_type_traits_of(blocks[b].type)->largest;
        for (int i = 0; i < N; i++) {
            x[i] = i / 256 % 2 ? largest : i % 3 == 0 ? -largest : largest * uniform();
        }
        check_round_trip(b, x, "the largest values");
        for (int i = 0; i < N; i++) {
            x[i] = i % 256 == 3 ? -largest : i % 256 == 4 ? FLT_MIN : 0.0f;
        }
        check_round_trip(b, x, "one largest value");
    }
}

static void test_zeros_and_subnormals(void) {
    static float x[N], back[N];
    static uint8_t packed[N / 32 * 34];
    static const float sizes[] = {0.0f, 1e-45f, 1e-39f, FLT_MIN, 1e-12f};
    for (int b = 0; b < N_BLOCKS; b++) {
        for (int s = 0; s < 5; s++) {
            for (int i = 0; i < N; i++) {
                x[i] = i % 2 ? sizes[s] : -sizes[s];
            }
            check_round_trip(b, x, "subnormals");
            CHECK(ln_pack(blocks[b].type, x, N, packed, NULL) == LN_OK, "pack type %d", (int)blocks[b].type);
            CHECK(ln_unpack(blocks[b].type, packed, N, back, NULL) == LN_OK, "unpack type %d", (int)blocks[b].type);
            CHECK(fabsf(back[7]) <= 2 * sizes[s], "type %d: %g becomes %g", (int)blocks[b].type, (double)sizes[s],
                  (double)back[7]);
        }
    }
}

/* Any bytes are a block: what they hold may be infinite or no number, but is the same every time. */
static void test_any_bytes_unpack(void) {
    static uint8_t bytes[N / 32 * 34];
    static float first[N], second[N];
    for (int b = 0; b < N_BLOCKS; b++) {
        for (int round = 0; round < 64; round++) {
            for (size_t i = 0; i < sizeof bytes; i++) {
                bytes[i] = round == 0 ? 0x00 : round == 1 ? 0xff : round == 2 ? 0x7f : (uint8_t)(random_bits() >> 8);
            }
            CHECK(ln_unpack(blocks[b].type, bytes, N, first, NULL) == LN_OK, "unpack type %d", (int)blocks[b].type);
            CHECK(ln_unpack(blocks[b].type, bytes, N, second, NULL) == LN_OK, "unpack type %d", (int)blocks[b].type);
            CHECK(memcmp(first, second, sizeof first) == 0, "type %d", (int)blocks[b].type);
        }
    }
}

/* ---- the table and its refusals ---------------------------------------------------------- */

static void test_describe(void) {
    static const struct {
        int32_t type;
        const char *name;
        int32_t elements, bytes;
    } known[] = {
        {0, "f32", 1, 4},       {1, "f16", 1, 2},        {2, "q4_0", 32, 18},    {3, "q4_1", 32, 20},
        {6, "q5_0", 32, 22},    {7, "q5_1", 32, 24},     {8, "q8_0", 32, 34},    {10, "q2_k", 256, 84},
        {11, "q3_k", 256, 110}, {12, "q4_k", 256, 144},  {13, "q5_k", 256, 176}, {14, "q6_k", 256, 210},
        {20, "iq4_nl", 32, 18}, {23, "iq4_xs", 256, 136}, {30, "bf16", 1, 2},    {34, "tq1_0", 256, 54},
        {35, "tq2_0", 256, 66}, {39, "mxfp4", 32, 17},
    };
    ln_type_info info;
    for (int i = 0; i < 18; i++) {
        CHECK(ln_type_describe(known[i].type, &info) == LN_OK, "%s is unknown", known[i].name);
        CHECK(strcmp(info.name, known[i].name) == 0 && info.block_elements == known[i].elements &&
                  info.block_bytes == known[i].bytes, "%s is described as %s", known[i].name, info.name);
    }
    static const int32_t unknown[] = {-1, 4, 29, 31, LN_TYPE_LIMIT, INT32_MAX, INT32_MIN};
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
    expect(ln_pack(9, x, 32, packed, &err), LN_UNSUPPORTED, &err, "type 9");
    expect(ln_unpack(9, packed, 32, x, &err), LN_UNSUPPORTED, &err, "type 9");
    expect(ln_pack(LN_TYPE_Q8_0, x, 33, packed, &err), LN_BAD_ARGUMENT, &err, "33");
    expect(ln_unpack(LN_TYPE_Q4_0, packed, 31, x, &err), LN_BAD_ARGUMENT, &err, "31");
    expect(ln_pack(LN_TYPE_Q4_K, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "blocks of 256 elements; 64");
    expect(ln_pack(LN_TYPE_F32, x, -1, packed, &err), LN_BAD_ARGUMENT, &err, "-1");
    expect(ln_pack(LN_TYPE_F16, NULL, 1, packed, &err), LN_BAD_ARGUMENT, &err, "NULL");
    expect(ln_unpack(LN_TYPE_F16, packed, 1, NULL, &err), LN_BAD_ARGUMENT, &err, "NULL");
    x[40] = NAN;
    expect(ln_pack(LN_TYPE_Q8_0, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "element 40");
    x[40] = -INFINITY;
    expect(ln_pack(LN_TYPE_Q4_0, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "element 40");
    x[40] = 65504.0f * 8 * 1.01f;
    expect(ln_pack(LN_TYPE_Q4_0, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "element 40");
    expect(ln_pack(LN_TYPE_Q5_1, x, 64, packed, &err), LN_BAD_ARGUMENT, &err, "up to 65504");
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
    test_q5_1_bytes();
    test_mxfp4_bytes();
    test_super_block_places();
    test_errors_are_bounded();
    test_largest_values();
    test_zeros_and_subnormals();
    test_any_bytes_unpack();
    test_describe();
    test_refusals();
    puts("quants: ok");
    return 0;
}
