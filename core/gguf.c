/* gguf.c - the GGUF reader. Every byte it touches was shown to be inside the file first, and
 * no allocation is larger than a small multiple of the bytes that are really there. */
#include "gguf.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/kernels.h"

#define AGAIN "download or convert it again"

/* The least a pair (empty key, one-byte value) and a tensor (empty name, one dimension) take. */
#define MIN_PAIR_BYTES 13
#define MIN_TENSOR_BYTES 32

#define MAX_ALIGNMENT (1u << 30)

/* Texts of one array: a file of holes, which takes no room, could claim any number. */
#define MAX_TEXTS (1u << 24)

static const char *const tensor_type_names[] = {
    [0] = "f32",      [1] = "f16",     [2] = "q4_0",    [3] = "q4_1",     [6] = "q5_0",   [7] = "q5_1",
    [8] = "q8_0",     [9] = "q8_1",    [10] = "q2_k",   [11] = "q3_k",    [12] = "q4_k",  [13] = "q5_k",
    [14] = "q6_k",    [15] = "q8_k",   [16] = "iq2_xxs", [17] = "iq2_xs", [18] = "iq3_xxs", [19] = "iq1_s",
    [20] = "iq4_nl",  [21] = "iq3_s",  [22] = "iq2_s",  [23] = "iq4_xs",  [24] = "i8",    [25] = "i16",
    [26] = "i32",     [27] = "i64",    [28] = "f64",    [29] = "iq1_m",   [30] = "bf16",  [34] = "tq1_0",
    [35] = "tq2_0",   [39] = "mxfp4",
};

/* Bytes of one value; 0 for strings, arrays and numbers GGUF does not define. */
static size_t value_bytes(uint32_t type) {
    static const uint8_t bytes[] = {
        [LN_GGUF_U8] = 1,  [LN_GGUF_I8] = 1,  [LN_GGUF_U16] = 2,  [LN_GGUF_I16] = 2, [LN_GGUF_U32] = 4,
        [LN_GGUF_I32] = 4, [LN_GGUF_F32] = 4, [LN_GGUF_BOOL] = 1, [LN_GGUF_U64] = 8, [LN_GGUF_I64] = 8,
        [LN_GGUF_F64] = 8,
    };
    return type < sizeof bytes ? bytes[type] : 0;
}

static uint16_t load_u16(const uint8_t *p) {
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t load_u32(const uint8_t *p) {
    return (uint32_t)load_u16(p) | (uint32_t)load_u16(p + 2) << 16;
}

static uint64_t load_u64(const uint8_t *p) {
    return (uint64_t)load_u32(p) | (uint64_t)load_u32(p + 4) << 32;
}

static float load_f32(const uint8_t *p) {
    uint32_t bits = load_u32(p);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static double load_f64(const uint8_t *p) {
    uint64_t bits = load_u64(p);
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* ---- reading -------------------------------------------------------------- */

typedef struct reader {
    const uint8_t *start;
    const uint8_t *at;
    const uint8_t *end;
    ln_error *err;
} reader;

static uint64_t bytes_left(const reader *r) {
    return (uint64_t)(r->end - r->at);
}

/* Steps over n bytes; NULL, with err written, when the file ends before. */
static const uint8_t *take(reader *r, uint64_t n, const char *what) {
    if (n > bytes_left(r)) {
        ln_fail(r->err, LN_BAD_FILE,
                "the file is truncated or damaged: %s at byte %" PRIu64 " needs %" PRIu64 " bytes and %" PRIu64
                " are left; " AGAIN,
                what, (uint64_t)(r->at - r->start), n, bytes_left(r));
        return NULL;
    }
    const uint8_t *p = r->at;
    r->at += n;
    return p;
}

static int take_u32(reader *r, const char *what, uint32_t *out) {
    const uint8_t *p = take(r, 4, what);
    if (p != NULL) {
        *out = load_u32(p);
    }
    return p != NULL;
}

static int take_u64(reader *r, const char *what, uint64_t *out) {
    const uint8_t *p = take(r, 8, what);
    if (p != NULL) {
        *out = load_u64(p);
    }
    return p != NULL;
}

static int take_string(reader *r, const char *what, ln_string *out) {
    uint64_t length;
    if (!take_u64(r, what, &length)) {
        return 0;
    }
    const uint8_t *p = take(r, length, what);
    if (p == NULL) {
        return 0;
    }
    *out = (ln_string){(const char *)p, (size_t)length};
    return 1;
}

static ln_status read_array(reader *r, ln_gguf_pair *pair) {
    uint32_t type;
    uint64_t length;
    if (!take_u32(r, "an array", &type) || !take_u64(r, "an array", &length)) {
        return LN_BAD_FILE;
    }
    if (type == LN_GGUF_ARRAY) {
        return ln_fail(r->err, LN_UNSUPPORTED, "'%.*s' is an array of arrays, which this reader does not take",
                       LN_STRING_ARGS(pair->key));
    }
    pair->array = (ln_gguf_array){(ln_gguf_type)type, length, r->at};
    if (type == LN_GGUF_STRING && length > MAX_TEXTS) {
        return ln_fail(r->err, LN_BAD_FILE, "the file is damaged: '%.*s' claims %" PRIu64 " texts; " AGAIN,
                       LN_STRING_ARGS(pair->key), length);
    }
    if (type == LN_GGUF_STRING) {
        ln_string ignored;
        for (uint64_t i = 0; i < length; i++) {
            if (!take_string(r, "a string of an array", &ignored)) {
                return LN_BAD_FILE;
            }
        }
        return LN_OK;
    }
    size_t bytes = value_bytes(type);
    if (bytes == 0) {
        return ln_fail(r->err, LN_BAD_FILE,
                       "'%.*s' is an array of type %" PRIu32 ", which GGUF does not define; " AGAIN,
                       LN_STRING_ARGS(pair->key), type);
    }
    if (length > bytes_left(r) / bytes) {
        return ln_fail(r->err, LN_BAD_FILE,
                       "the file is truncated or damaged: '%.*s' claims %" PRIu64 " elements and %" PRIu64
                       " bytes are left; " AGAIN,
                       LN_STRING_ARGS(pair->key), length, bytes_left(r));
    }
    return take(r, length * bytes, "an array") != NULL ? LN_OK : LN_BAD_FILE;
}

static ln_status read_value(reader *r, ln_gguf_pair *pair, uint32_t type) {
    if (type == LN_GGUF_ARRAY) {
        return read_array(r, pair);
    }
    if (type == LN_GGUF_STRING) {
        ln_string ignored;
        return take_string(r, "a metadata string", &ignored) ? LN_OK : LN_BAD_FILE;
    }
    size_t bytes = value_bytes(type);
    if (bytes == 0) {
        return ln_fail(r->err, LN_BAD_FILE, "'%.*s' has type %" PRIu32 ", which GGUF does not define; " AGAIN,
                       LN_STRING_ARGS(pair->key), type);
    }
    return take(r, bytes, "a metadata value") != NULL ? LN_OK : LN_BAD_FILE;
}

static ln_status read_pair(reader *r, ln_gguf_pair *pair) {
    uint32_t type;
    if (!take_string(r, "a metadata key", &pair->key) || !take_u32(r, "a metadata type", &type)) {
        return LN_BAD_FILE;
    }
    pair->type = (ln_gguf_type)type;
    pair->data = r->at;
    ln_status status = read_value(r, pair, type);
    pair->bytes = (size_t)(r->at - pair->data);
    return status;
}

/* Reads name, shape and type; *offset is relative to the data section. */
static ln_status read_tensor_info(reader *r, ln_gguf_tensor *t, uint64_t *offset) {
    uint32_t n_dims;
    uint32_t type;
    if (!take_string(r, "a tensor name", &t->name) || !take_u32(r, "a tensor shape", &n_dims)) {
        return LN_BAD_FILE;
    }
    if (n_dims < 1 || n_dims > LN_GGUF_MAX_DIMS) {
        return ln_fail(r->err, LN_BAD_FILE, "tensor '%.*s' has %" PRIu32 " dimensions, GGUF allows 1 to %d; " AGAIN,
                       LN_STRING_ARGS(t->name), n_dims, LN_GGUF_MAX_DIMS);
    }
    uint64_t elements = 1;
    for (uint32_t i = 0; i < LN_GGUF_MAX_DIMS; i++) {
        uint64_t dim = 1;
        if (i < n_dims && !take_u64(r, "a tensor shape", &dim)) {
            return LN_BAD_FILE;
        }
        if (dim == 0 || dim > INT64_MAX / elements) {
            return ln_fail(r->err, LN_BAD_FILE, "tensor '%.*s' has an impossible shape (dimension %" PRIu32
                           " is %" PRIu64 "); " AGAIN,
                           LN_STRING_ARGS(t->name), i, dim);
        }
        elements *= dim;
        t->dims[i] = (int64_t)dim;
    }
    if (!take_u32(r, "a tensor type", &type) || !take_u64(r, "a tensor offset", offset)) {
        return LN_BAD_FILE;
    }
    if (type > INT32_MAX) {
        return ln_fail(r->err, LN_BAD_FILE, "tensor '%.*s' has type %" PRIu32 ", which GGUF does not define; " AGAIN,
                       LN_STRING_ARGS(t->name), type);
    }
    t->type = (int32_t)type;
    return LN_OK;
}

/* Finds t's bytes in the data section, which begins at byte data_start of the file. */
static ln_status place_tensor(const reader *r, uint64_t data_start, uint64_t alignment, uint64_t offset,
                              ln_gguf_tensor *t) {
    const uint64_t size = (uint64_t)(r->end - r->start);
    if (offset % alignment != 0) {
        return ln_fail(r->err, LN_BAD_FILE, "tensor '%.*s' begins at offset %" PRIu64
                       ", not a multiple of the alignment %" PRIu64 "; " AGAIN,
                       LN_STRING_ARGS(t->name), offset, alignment);
    }
    uint64_t bytes = 0;
    const ln_type_traits *traits = ln_type_traits_of(t->type);
    if (traits != NULL) {
        if (t->dims[0] % traits->block_elements != 0) {
            return ln_fail(r->err, LN_BAD_FILE, "tensor '%.*s' has rows of %" PRId64
                           " elements, not a multiple of the %d of a %s block; " AGAIN,
                           LN_STRING_ARGS(t->name), t->dims[0], (int)traits->block_elements, traits->name);
        }
        uint64_t blocks = (uint64_t)t->dims[0] / (uint64_t)traits->block_elements;
        for (int32_t i = 1; i < LN_GGUF_MAX_DIMS; i++) {
            blocks *= (uint64_t)t->dims[i]; /* at most the number of elements, which fits */
        }
        /* More blocks than bytes cannot be there; said this way the product cannot overflow. */
        bytes = blocks > size ? UINT64_MAX : blocks * (uint64_t)traits->block_bytes;
    }
    if (data_start > size || offset > size - data_start || bytes > size - data_start - offset) {
        return ln_fail(r->err, LN_BAD_FILE,
                       "the file is truncated: tensor '%.*s' needs bytes up to %.0f, the file has %" PRIu64 "; " AGAIN,
                       LN_STRING_ARGS(t->name), (double)data_start + (double)offset + (double)bytes, size);
    }
    t->data = r->start + data_start + offset;
    t->bytes = (size_t)bytes;
    return LN_OK;
}

/* ---- the index ------------------------------------------------------------ */

static int compare_strings(ln_string a, ln_string b) {
    size_t common = a.length < b.length ? a.length : b.length;
    int order = common == 0 ? 0 : memcmp(a.data, b.data, common);
    return order != 0 ? order : (a.length > b.length) - (a.length < b.length);
}

static int compare_pairs(const void *a, const void *b) {
    return compare_strings(((const ln_gguf_pair *)a)->key, ((const ln_gguf_pair *)b)->key);
}

static int compare_tensors(const void *a, const void *b) {
    return compare_strings(((const ln_gguf_tensor *)a)->name, ((const ln_gguf_tensor *)b)->name);
}

static int compare_places(const void *a, const void *b) {
    const ln_gguf_tensor *s = a, *t = b;
    const uintptr_t begin[] = {(uintptr_t)s->data, (uintptr_t)t->data};
    return begin[0] != begin[1] ? (begin[0] > begin[1]) - (begin[0] < begin[1])
                                : (s->bytes > t->bytes) - (s->bytes < t->bytes);
}

static ln_status read_pairs(reader *r, ln_gguf *g) {
    g->pairs = ln_alloc((size_t)g->n_pairs, sizeof *g->pairs, "the index of the file", r->err);
    if (g->pairs == NULL) {
        return LN_NO_MEMORY;
    }
    for (uint64_t i = 0; i < g->n_pairs; i++) {
        ln_status status = read_pair(r, &g->pairs[i]);
        if (status != LN_OK) {
            return status;
        }
    }
    qsort(g->pairs, (size_t)g->n_pairs, sizeof *g->pairs, compare_pairs);
    for (uint64_t i = 1; i < g->n_pairs; i++) {
        if (compare_pairs(&g->pairs[i - 1], &g->pairs[i]) == 0) {
            return ln_fail(r->err, LN_BAD_FILE, "'%.*s' is in the metadata twice; " AGAIN,
                           LN_STRING_ARGS(g->pairs[i].key));
        }
    }
    return LN_OK;
}

static ln_status read_alignment(const ln_gguf *g, uint32_t *alignment, ln_error *err) {
    *alignment = 32; /* the specification's default */
    ln_status status = ln_gguf_u32(g, "general.alignment", alignment, err);
    if (status != LN_OK) {
        return status;
    }
    if (*alignment == 0 || *alignment > MAX_ALIGNMENT || (*alignment & (*alignment - 1)) != 0) {
        return ln_fail(err, LN_BAD_FILE, "general.alignment is %" PRIu32 ", not a power of two up to %u; " AGAIN,
                       *alignment, MAX_ALIGNMENT);
    }
    return LN_OK;
}

static ln_status read_tensors(reader *r, ln_gguf *g) {
    uint32_t alignment;
    ln_status status = read_alignment(g, &alignment, r->err);
    if (status != LN_OK) {
        return status;
    }
    /* The offsets wait here until the end of the header, and with it the data section, is known. */
    uint64_t *offsets = ln_alloc((size_t)g->n_tensors, sizeof *offsets, "the index of the file", r->err);
    g->tensors = ln_alloc((size_t)g->n_tensors, sizeof *g->tensors, "the index of the file", r->err);
    status = offsets == NULL || g->tensors == NULL ? LN_NO_MEMORY : LN_OK;
    for (uint64_t i = 0; status == LN_OK && i < g->n_tensors; i++) {
        status = read_tensor_info(r, &g->tensors[i], &offsets[i]);
    }
    uint64_t header = (uint64_t)(r->at - r->start);
    uint64_t data_start = (header + alignment - 1) / alignment * alignment;
    for (uint64_t i = 0; status == LN_OK && i < g->n_tensors; i++) {
        status = place_tensor(r, data_start, alignment, offsets[i], &g->tensors[i]);
    }
    free(offsets);
    if (status != LN_OK) {
        return status;
    }
    /* Tensors that overlapped could make the reader of a small file allocate without bound. */
    qsort(g->tensors, (size_t)g->n_tensors, sizeof *g->tensors, compare_places);
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        const ln_gguf_tensor *before = &g->tensors[i - 1], *after = &g->tensors[i];
        if ((const uint8_t *)after->data < (const uint8_t *)before->data + before->bytes) {
            return ln_fail(r->err, LN_BAD_FILE, "the tensors '%.*s' and '%.*s' overlap; " AGAIN,
                           LN_STRING_ARGS(before->name), LN_STRING_ARGS(after->name));
        }
    }
    qsort(g->tensors, (size_t)g->n_tensors, sizeof *g->tensors, compare_tensors);
    for (uint64_t i = 1; i < g->n_tensors; i++) {
        if (compare_tensors(&g->tensors[i - 1], &g->tensors[i]) == 0) {
            return ln_fail(r->err, LN_BAD_FILE, "tensor '%.*s' is in the file twice; " AGAIN,
                           LN_STRING_ARGS(g->tensors[i].name));
        }
    }
    return LN_OK;
}

static ln_status read_counts(reader *r, ln_gguf *g) {
    const uint8_t *magic = take(r, 4, "the GGUF header");
    if (magic == NULL) {
        return LN_BAD_FILE;
    }
    if (memcmp(magic, "GGUF", 4) != 0) {
        return ln_fail(r->err, LN_BAD_FILE,
                       "this is not a GGUF file: it begins with the bytes %02x %02x %02x %02x instead of \"GGUF\"",
                       magic[0], magic[1], magic[2], magic[3]);
    }
    if (!take_u32(r, "the GGUF header", &g->version)) {
        return LN_BAD_FILE;
    }
    if (g->version != 0 && (g->version & 0xFFFF) == 0) {
        return ln_fail(r->err, LN_UNSUPPORTED, "the file is a big-endian GGUF; convert it to little endian");
    }
    if (g->version != 2 && g->version != 3) {
        return ln_fail(r->err, LN_UNSUPPORTED, "the file is GGUF version %" PRIu32
                       ", this core reads versions 2 and 3; convert it again", g->version);
    }
    if (!take_u64(r, "the GGUF header", &g->n_tensors) || !take_u64(r, "the GGUF header", &g->n_pairs)) {
        return LN_BAD_FILE;
    }
    uint64_t left = bytes_left(r);
    if (g->n_pairs > left / MIN_PAIR_BYTES ||
        g->n_tensors > (left - g->n_pairs * MIN_PAIR_BYTES) / MIN_TENSOR_BYTES) {
        return ln_fail(r->err, LN_BAD_FILE, "the file is truncated or damaged: its header claims %" PRIu64
                       " metadata entries and %" PRIu64 " tensors in %" PRIu64 " bytes; " AGAIN,
                       g->n_pairs, g->n_tensors, left);
    }
    return LN_OK;
}

ln_status ln_gguf_open(const void *data, size_t size, ln_gguf *out, ln_error *err) {
    memset(out, 0, sizeof *out);
    if (data == NULL || size == 0) {
        return ln_fail(err, LN_BAD_FILE, "the file is empty; " AGAIN);
    }
    const uint8_t *start = data;
    reader r = {start, start, start + size, err};
    ln_status status = read_counts(&r, out);
    if (status == LN_OK) {
        status = read_pairs(&r, out);
    }
    if (status == LN_OK) {
        status = read_tensors(&r, out);
    }
    if (status != LN_OK) {
        ln_gguf_close(out);
    }
    return status;
}

void ln_gguf_close(ln_gguf *gguf) {
    free(gguf->pairs);
    free(gguf->tensors);
    memset(gguf, 0, sizeof *gguf);
}

/* ---- access --------------------------------------------------------------- */

const ln_gguf_pair *ln_gguf_find(const ln_gguf *gguf, const char *key) {
    if (gguf->n_pairs == 0) {
        return NULL;
    }
    ln_gguf_pair wanted = {.key = {key, strlen(key)}};
    return bsearch(&wanted, gguf->pairs, (size_t)gguf->n_pairs, sizeof wanted, compare_pairs);
}

const ln_gguf_tensor *ln_gguf_find_tensor(const ln_gguf *gguf, const char *name) {
    if (gguf->n_tensors == 0) {
        return NULL;
    }
    ln_gguf_tensor wanted = {.name = {name, strlen(name)}};
    return bsearch(&wanted, gguf->tensors, (size_t)gguf->n_tensors, sizeof wanted, compare_tensors);
}

const char *ln_gguf_tensor_type_name(int32_t type) {
    const int32_t n = (int32_t)(sizeof tensor_type_names / sizeof tensor_type_names[0]);
    return type >= 0 && type < n && tensor_type_names[type] != NULL ? tensor_type_names[type] : "unknown";
}

ln_status ln_gguf_require(const ln_gguf *gguf, const char *key, ln_error *err) {
    if (ln_gguf_find(gguf, key) == NULL) {
        return ln_fail(err, LN_BAD_FILE, "'%s' is missing from the metadata; " AGAIN, key);
    }
    return LN_OK;
}

static ln_status wrong_type(const char *key, const char *wanted, ln_error *err) {
    return ln_fail(err, LN_BAD_FILE, "'%s' in the metadata is not %s; " AGAIN, key, wanted);
}

/* Magnitude and sign of an integer of any type; 0 for other types. */
static int load_integer(const ln_gguf_pair *pair, uint64_t *magnitude, int *negative) {
    int64_t value;
    switch (pair->type) {
    case LN_GGUF_U8: value = pair->data[0]; break;
    case LN_GGUF_I8: value = (int8_t)pair->data[0]; break;
    case LN_GGUF_U16: value = load_u16(pair->data); break;
    case LN_GGUF_I16: value = (int16_t)load_u16(pair->data); break;
    case LN_GGUF_U32: value = load_u32(pair->data); break;
    case LN_GGUF_I32: value = (int32_t)load_u32(pair->data); break;
    case LN_GGUF_I64: value = (int64_t)load_u64(pair->data); break;
    case LN_GGUF_U64:
        *magnitude = load_u64(pair->data);
        *negative = 0;
        return 1;
    default: return 0;
    }
    *negative = value < 0;
    *magnitude = value < 0 ? 0 - (uint64_t)value : (uint64_t)value;
    return 1;
}

ln_status ln_gguf_u64(const ln_gguf *gguf, const char *key, uint64_t *out, ln_error *err) {
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key);
    if (pair == NULL) {
        return LN_OK;
    }
    uint64_t magnitude;
    int negative;
    if (!load_integer(pair, &magnitude, &negative) || negative) {
        return wrong_type(key, "a whole number of zero or more", err);
    }
    *out = magnitude;
    return LN_OK;
}

ln_status ln_gguf_u32(const ln_gguf *gguf, const char *key, uint32_t *out, ln_error *err) {
    uint64_t wide = *out;
    ln_status status = ln_gguf_u64(gguf, key, &wide, err);
    if (status == LN_OK && wide > UINT32_MAX) {
        return wrong_type(key, "a number below 4294967296", err);
    }
    if (status == LN_OK) {
        *out = (uint32_t)wide;
    }
    return status;
}

ln_status ln_gguf_i32(const ln_gguf *gguf, const char *key, int32_t *out, ln_error *err) {
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key);
    if (pair == NULL) {
        return LN_OK;
    }
    uint64_t magnitude;
    int negative;
    if (!load_integer(pair, &magnitude, &negative) || magnitude > INT32_MAX) {
        return wrong_type(key, "a whole number between -2147483647 and 2147483647", err);
    }
    *out = negative ? -(int32_t)magnitude : (int32_t)magnitude;
    return LN_OK;
}

ln_status ln_gguf_f32(const ln_gguf *gguf, const char *key, float *out, ln_error *err) {
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key);
    if (pair == NULL) {
        return LN_OK;
    }
    if (pair->type == LN_GGUF_F32) {
        *out = load_f32(pair->data);
        return LN_OK;
    }
    if (pair->type == LN_GGUF_F64) {
        *out = (float)load_f64(pair->data);
        return LN_OK;
    }
    return wrong_type(key, "a floating-point number", err);
}

ln_status ln_gguf_bool(const ln_gguf *gguf, const char *key, int *out, ln_error *err) {
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key);
    if (pair == NULL) {
        return LN_OK;
    }
    if (pair->type != LN_GGUF_BOOL || pair->data[0] > 1) {
        return wrong_type(key, "true or false", err);
    }
    *out = pair->data[0];
    return LN_OK;
}

/* The string whose length field is at p. */
static ln_string string_at(const uint8_t *p) {
    return (ln_string){(const char *)p + 8, (size_t)load_u64(p)};
}

ln_status ln_gguf_string(const ln_gguf *gguf, const char *key, ln_string *out, ln_error *err) {
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key);
    if (pair == NULL) {
        return LN_OK;
    }
    if (pair->type != LN_GGUF_STRING) {
        return wrong_type(key, "a string", err);
    }
    *out = string_at(pair->data);
    return LN_OK;
}

ln_status ln_gguf_array_of(const ln_gguf *gguf, const char *key, ln_gguf_type type, ln_gguf_array *out,
                           ln_error *err) {
    *out = (ln_gguf_array){.type = type};
    const ln_gguf_pair *pair = ln_gguf_find(gguf, key);
    if (pair == NULL) {
        return LN_OK;
    }
    int matches = pair->type == LN_GGUF_ARRAY &&
                  (pair->array.type == type || (type == LN_GGUF_I32 && (pair->array.type == LN_GGUF_U32 ||
                                                                          pair->array.type == LN_GGUF_BOOL)));
    if (!matches) {
        return wrong_type(key, type == LN_GGUF_STRING ? "an array of strings"
                               : type == LN_GGUF_F32  ? "an array of 32-bit floats"
                               : type == LN_GGUF_U8   ? "an array of bytes"
                                                      : "an array of 32-bit integers", err);
    }
    *out = pair->array;
    return LN_OK;
}

int32_t ln_gguf_array_i32(const ln_gguf_array *array, uint64_t i) {
    return array->type == LN_GGUF_BOOL ? array->data[i] : (int32_t)load_u32(array->data + 4 * i);
}

float ln_gguf_array_f32(const ln_gguf_array *array, uint64_t i) {
    return load_f32(array->data + 4 * i);
}

int ln_gguf_array_next(ln_gguf_array *array, ln_string *out) {
    if (array->length == 0) {
        return 0;
    }
    *out = string_at(array->data);
    array->data += 8 + out->length;
    array->length--;
    return 1;
}

int ln_string_is(ln_string s, const char *text) {
    return s.length == strlen(text) && (s.length == 0 || memcmp(s.data, text, s.length) == 0);
}
