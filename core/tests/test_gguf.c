/* test_gguf.c - the GGUF reader: what it finds in a good file, and that every kind of damage ends in an
 * error and never outside the file. With an argument, writes a tiny model to that path: the seed
 * of core/fuzz/fuzz_gguf.c. */
#include "gguf_image.h"

/* Opens a copy that ends exactly at the end of the image; returns the status, frees the image. */
static ln_status status_of(image *g, const char *say) {
    image_trim(g);
    ln_gguf gguf;
    ln_error err = {0};
    ln_status status = ln_gguf_open(g->bytes, g->size, &gguf, &err);
    CHECK(status == LN_OK || err.status == (int32_t)status, "%s", say);
    CHECK(status == LN_OK || (err.message[0] != '\0' && strchr(err.message, '\n') == NULL), "%s", say);
    CHECK(status == LN_OK || say == NULL || strstr(err.message, say) != NULL, "'%s' is not in '%s'", say, err.message);
    ln_gguf_close(&gguf);
    image_free(g);
    return status;
}

/* ---- good files --------------------------------------------------------------- */

static image rich_file(void) {
    image g = {0};
    put_header(&g, 2, 12);
    put_key(&g, "u8", LN_GGUF_U8);
    put_u8(&g, 200);
    put_key(&g, "i8", LN_GGUF_I8);
    put_u8(&g, 0xFF);
    put_key(&g, "u64", LN_GGUF_U64);
    put_u64(&g, UINT64_MAX);
    put_key(&g, "i64", LN_GGUF_I64);
    put_u64(&g, (uint64_t)INT64_MIN);
    put_key(&g, "f64", LN_GGUF_F64);
    put_u64(&g, 0x3FF8000000000000u); /* 1.5 */
    put_pair_f32(&g, "f32", -2.5f);
    put_key(&g, "true", LN_GGUF_BOOL);
    put_u8(&g, 1);
    put_key(&g, "two", LN_GGUF_BOOL);
    put_u8(&g, 2);
    put_key(&g, "text", LN_GGUF_STRING);
    put_u64(&g, 3);
    put(&g, "a\0b", 3);
    put_key(&g, "words", LN_GGUF_ARRAY);
    put_u32(&g, LN_GGUF_STRING);
    put_u64(&g, 2);
    put_string(&g, "");
    put_string(&g, "zwei");
    put_key(&g, "ints", LN_GGUF_ARRAY);
    put_u32(&g, LN_GGUF_I32);
    put_u64(&g, 2);
    put_u32(&g, 7);
    put_u32(&g, (uint32_t)-7);
    put_pair_u32(&g, "general.alignment", 64);
    put_tensor_info(&g, "second", LN_TYPE_Q8_0, 32, 2, 64);
    put_tensor_info(&g, "first", LN_TYPE_F32, 3, 0, 0);
    put_padding(&g, 64);
    put_f32(&g, 1);
    put_f32(&g, 2);
    put_f32(&g, 3);
    put_padding(&g, 64);
    for (int i = 0; i < 68; i++) {
        put_u8(&g, (uint8_t)i);
    }
    image_trim(&g);
    return g;
}

static void test_numbers(const ln_gguf *g) {
    uint32_t u32 = 5;
    int32_t i32 = 5;
    uint64_t u64 = 5;
    float f32 = 5;
    int truth = 5;
    ln_error err = {0};
    CHECK(ln_gguf_u32(g, "absent", &u32, &err) == LN_OK && u32 == 5, "default");
    CHECK(ln_gguf_u32(g, "u8", &u32, &err) == LN_OK && u32 == 200, "%u", (unsigned)u32);
    CHECK(ln_gguf_i32(g, "i8", &i32, &err) == LN_OK && i32 == -1, "%d", (int)i32);
    CHECK(ln_gguf_u32(g, "i8", &u32, &err) == LN_BAD_FILE, "negative as u32");
    CHECK(ln_gguf_u64(g, "u64", &u64, &err) == LN_OK && u64 == UINT64_MAX, "u64");
    CHECK(ln_gguf_u32(g, "u64", &u32, &err) == LN_BAD_FILE, "too large for u32");
    CHECK(ln_gguf_i32(g, "u64", &i32, &err) == LN_BAD_FILE, "too large for i32");
    CHECK(ln_gguf_i32(g, "i64", &i32, &err) == LN_BAD_FILE, "too small for i32");
    CHECK(ln_gguf_f32(g, "f32", &f32, &err) == LN_OK && f32 == -2.5f, "%g", (double)f32);
    CHECK(ln_gguf_f32(g, "f64", &f32, &err) == LN_OK && f32 == 1.5f, "%g", (double)f32);
    CHECK(ln_gguf_f32(g, "text", &f32, &err) == LN_BAD_FILE && strstr(err.message, "'text'"), "%s", err.message);
    CHECK(ln_gguf_bool(g, "true", &truth, &err) == LN_OK && truth == 1, "%d", truth);
    CHECK(ln_gguf_bool(g, "two", &truth, &err) == LN_BAD_FILE, "2 is no truth");
    CHECK(ln_gguf_require(g, "u8", &err) == LN_OK && ln_gguf_require(g, "absent", &err) == LN_BAD_FILE, "require");
    CHECK(u32 == 200 && i32 == -1 && f32 == 1.5f && truth == 1, "a failed read wrote its output");
}

static void test_rich_file(void) {
    image g = rich_file();
    ln_gguf gguf;
    ln_error err = {0};
    CHECK(ln_gguf_open(g.bytes, g.size, &gguf, &err) == LN_OK, "%s", err.message);
    test_numbers(&gguf);
    ln_string text = {0};
    CHECK(ln_gguf_string(&gguf, "text", &text, &err) == LN_OK, "%s", err.message);
    CHECK(text.length == 3 && memcmp(text.data, "a\0b", 3) == 0, "string with NUL");
    ln_gguf_array words;
    CHECK(ln_gguf_array_of(&gguf, "words", LN_GGUF_STRING, &words, &err) == LN_OK && words.length == 2, "words");
    CHECK(ln_gguf_array_next(&words, &text) && text.length == 0, "first word");
    CHECK(ln_gguf_array_next(&words, &text) && ln_string_is(text, "zwei"), "second word");
    CHECK(!ln_gguf_array_next(&words, &text), "no third word");
    ln_gguf_array ints;
    CHECK(ln_gguf_array_of(&gguf, "ints", LN_GGUF_I32, &ints, &err) == LN_OK && ints.length == 2, "ints");
    CHECK(ln_gguf_array_i32(&ints, 1) == -7, "%d", (int)ln_gguf_array_i32(&ints, 1));
    CHECK(ln_gguf_array_of(&gguf, "ints", LN_GGUF_STRING, &words, &err) == LN_BAD_FILE, "ints as strings");
    CHECK(ln_gguf_array_of(&gguf, "absent", LN_GGUF_STRING, &words, &err) == LN_OK && words.length == 0, "absent");
    const ln_gguf_tensor *t = ln_gguf_find_tensor(&gguf, "second");
    CHECK(t != NULL && t->dims[0] == 32 && t->dims[1] == 2 && t->dims[2] == 1 && t->bytes == 68, "second");
    CHECK(((const uint8_t *)t->data)[67] == 67, "data of second");
    float first[3];
    memcpy(first, ln_gguf_find_tensor(&gguf, "first")->data, sizeof first);
    CHECK(first[2] == 3.0f && ln_gguf_find_tensor(&gguf, "third") == NULL, "first");
    ln_gguf_close(&gguf);
    image_free(&g);
}

/* ---- damaged files --------------------------------------------------------------- */

/* Every proper prefix of a file is an error, and none is read past its end. */
static void test_truncated(void) {
    image g = rich_file();
    for (size_t size = 0; size < g.size; size++) {
        image part = {0};
        put(&part, g.bytes, size);
        CHECK(status_of(&part, NULL) == LN_BAD_FILE, "a prefix of %zu bytes was taken", size);
    }
    image_free(&g);
}

static void test_header(void) {
    image g = {0};
    put(&g, "GGML\3\0\0\0", 8);
    CHECK(status_of(&g, "not a GGUF file") == LN_BAD_FILE, "magic");
    put(&g, "hello\n", 6);
    CHECK(status_of(&g, "not a GGUF file") == LN_BAD_FILE, "a file shorter than a header");
    put(&g, "GGUF\1\0\0\0", 8);
    CHECK(status_of(&g, "version 1") == LN_UNSUPPORTED, "version 1");
    put(&g, "GGUF\0\0\0\3", 8);
    CHECK(status_of(&g, "big-endian") == LN_UNSUPPORTED, "big endian");
    put_header(&g, UINT64_MAX, 0);
    CHECK(status_of(&g, "claims") == LN_BAD_FILE, "tensor count");
    put_header(&g, 0, UINT64_MAX);
    CHECK(status_of(&g, "claims") == LN_BAD_FILE, "pair count");
    put_header(&g, UINT64_MAX, UINT64_MAX);
    CHECK(status_of(&g, "claims") == LN_BAD_FILE, "both counts");
    put_header(&g, 0, 0);
    CHECK(status_of(&g, NULL) == LN_OK, "an empty GGUF");
}

static void test_pairs(void) {
    image g = {0};
    put_header(&g, 0, 1);
    put_u64(&g, UINT64_MAX); /* length of the key */
    put_u64(&g, 0);
    CHECK(status_of(&g, "truncated") == LN_BAD_FILE, "key length");
    put_header(&g, 0, 1);
    put_key(&g, "x", LN_GGUF_ARRAY);
    put_u32(&g, LN_GGUF_F64);
    put_u64(&g, UINT64_MAX / 8 + 2); /* its size in bytes overflows to 8 */
    put_u64(&g, 0);
    CHECK(status_of(&g, "claims") == LN_BAD_FILE, "array length");
    put_header(&g, 0, 1);
    put_key(&g, "x", LN_GGUF_ARRAY);
    put_u32(&g, LN_GGUF_STRING);
    put_u64(&g, (1u << 24) + 1);
    put_u64(&g, 0);
    CHECK(status_of(&g, "claims 16777217 texts") == LN_BAD_FILE, "array of too many strings");
    put_header(&g, 0, 1);
    put_key(&g, "x", LN_GGUF_ARRAY);
    put_u32(&g, LN_GGUF_STRING);
    put_u64(&g, 1u << 24);
    put_u64(&g, 0);
    CHECK(status_of(&g, "truncated") == LN_BAD_FILE, "array of strings");
    put_header(&g, 0, 1);
    put_key(&g, "x", LN_GGUF_ARRAY);
    put_u32(&g, LN_GGUF_ARRAY);
    put_u64(&g, 0);
    CHECK(status_of(&g, "array of arrays") == LN_UNSUPPORTED, "nested array");
    put_header(&g, 0, 1);
    put_key(&g, "x\n\x7f", (ln_gguf_type)13);
    put_u64(&g, 0);
    CHECK(status_of(&g, "'x?\?' has type 13") == LN_BAD_FILE, "type of value");
    put_header(&g, 0, 2);
    put_pair_u32(&g, "same", 1);
    put_pair_u32(&g, "same", 2);
    CHECK(status_of(&g, "twice") == LN_BAD_FILE, "duplicate key");
    const uint32_t alignments[] = {0, 3, 1u << 31};
    for (size_t i = 0; i < 3; i++) {
        put_header(&g, 0, 1);
        put_pair_u32(&g, "general.alignment", alignments[i]);
        CHECK(status_of(&g, "power of two up to 1073741824") == LN_BAD_FILE, "alignment %u", (unsigned)alignments[i]);
    }
}

static ln_status status_of_tensor(uint32_t n_dims, const uint64_t *dims, uint32_t type, uint64_t offset, size_t data,
                                  const char *say) {
    image g = {0};
    put_header(&g, 1, 0);
    put_string(&g, "t");
    put_u32(&g, n_dims);
    for (uint32_t i = 0; i < n_dims && i < 8; i++) {
        put_u64(&g, dims[i]);
    }
    put_u32(&g, type);
    put_u64(&g, offset);
    put_padding(&g, 32);
    for (size_t i = 0; i < data; i++) {
        put_u8(&g, 0);
    }
    return status_of(&g, say);
}

/* Of a file of 1024 bytes of data with three tensors that many floats long. */
static ln_status status_of_three(uint64_t floats, const uint64_t offsets[3]) {
    image g = {0};
    put_header(&g, 3, 0);
    put_tensor_info(&g, "a", LN_TYPE_F32, floats, 0, offsets[0]);
    put_tensor_info(&g, "b", LN_TYPE_F32, floats, 0, offsets[1]);
    put_tensor_info(&g, "c", LN_TYPE_F32, floats, 0, offsets[2]);
    put_padding(&g, 32);
    put(&g, (uint8_t[1024]){0}, 1024);
    return status_of(&g, "overlap");
}

static void test_tensors(void) {
    const uint64_t row[] = {32, 1, 1, 1, 1, 1, 1, 1};
    CHECK(status_of_tensor(1, row, LN_TYPE_F32, 0, 128, NULL) == LN_OK, "fits exactly");
    CHECK(status_of_tensor(1, row, LN_TYPE_F32, 0, 127, "truncated") == LN_BAD_FILE, "one byte short");
    CHECK(status_of_tensor(1, row, LN_TYPE_F32, 32, 128, "truncated") == LN_BAD_FILE, "moved out");
    CHECK(status_of_tensor(1, row, LN_TYPE_F32, 8, 256, "multiple of the alignment") == LN_BAD_FILE, "offset");
    CHECK(status_of_tensor(1, row, LN_TYPE_F32, UINT64_MAX - 31, 128, "truncated") == LN_BAD_FILE, "huge offset");
    CHECK(status_of_tensor(0, row, LN_TYPE_F32, 0, 128, "dimensions") == LN_BAD_FILE, "0 dimensions");
    CHECK(status_of_tensor(5, row, LN_TYPE_F32, 0, 128, "dimensions") == LN_BAD_FILE, "5 dimensions");
    CHECK(status_of_tensor(UINT32_MAX, row, LN_TYPE_F32, 0, 128, "dimensions") == LN_BAD_FILE, "many dimensions");
    CHECK(status_of_tensor(4, row, LN_TYPE_F32, 0, 128, NULL) == LN_OK, "4 dimensions");
    CHECK(status_of_tensor(1, (uint64_t[]){0}, LN_TYPE_F32, 0, 128, "shape") == LN_BAD_FILE, "no elements");
    CHECK(status_of_tensor(1, (uint64_t[]){UINT64_MAX}, LN_TYPE_F32, 0, 128, "shape") == LN_BAD_FILE, "negative");
    CHECK(status_of_tensor(1, (uint64_t[]){INT64_MAX}, LN_TYPE_F32, 0, 128, "truncated") == LN_BAD_FILE, "huge");
    CHECK(status_of_tensor(2, (uint64_t[]){1ull << 32, 1ull << 32}, LN_TYPE_F32, 0, 128, "shape") == LN_BAD_FILE,
          "product");
    CHECK(status_of_tensor(1, (uint64_t[]){33}, LN_TYPE_Q8_0, 0, 128, "block") == LN_BAD_FILE, "part of a block");
    CHECK(status_of_tensor(1, row, 16, 0, 1, NULL) == LN_OK, "a type for others");
    CHECK(status_of_tensor(1, row, UINT32_MAX, 0, 128, "does not define") == LN_BAD_FILE, "no type");

    image g = {0};
    put_header(&g, 2, 0);
    put_tensor_info(&g, "t", LN_TYPE_F32, 8, 0, 0);
    put_tensor_info(&g, "t", LN_TYPE_F32, 8, 0, 32);
    put_padding(&g, 32);
    put(&g, (uint8_t[64]){0}, 64);
    CHECK(status_of(&g, "twice") == LN_BAD_FILE, "duplicate tensor");
    CHECK(status_of_three(256, (uint64_t[]){0, 0, 0}) == LN_BAD_FILE, "three in the same place");
    CHECK(status_of_three(16, (uint64_t[]){64, 96, 0}) == LN_BAD_FILE, "two of which one begins inside the other");
}

/* Names are quoted as they are in the file; the message stays one line of UTF-8 all the same. */
static void test_messages(void) {
    ln_error err = {0};
    CHECK(ln_fail(&err, LN_BAD_FILE, "a\n\x1b%s\xc3\xa9\xe2\x82", "\xff") == LN_BAD_FILE, "status");
    CHECK(strcmp(err.message, "a??\?\xc3\xa9??") == 0 && err.status == LN_BAD_FILE, "%s", err.message);
    ln_fail(&err, LN_BAD_FILE, "a\xc2\x9b" "2J\xc2\xa0"); /* U+009B begins a command to a terminal, U+00A0 is text */
    CHECK(strcmp(err.message, "a??" "2J\xc2\xa0") == 0, "%s", err.message);
    char lengthy[600];
    memset(lengthy, 'x', sizeof lengthy);
    memcpy(lengthy + 506, "\xc3\xa9", 3); /* the cut goes through this character */
    ln_fail(&err, LN_NO_MEMORY, "%s", lengthy);
    CHECK(strlen(err.message) == 507 && err.message[505] == 'x' && err.message[506] == '?', "%s", err.message);
    CHECK(ln_fail(NULL, LN_NO_MEMORY, "%s", lengthy) == LN_NO_MEMORY, "without err");
}

/* Any single byte of the header may be wrong: no crash, whatever the answer. */
static void test_flipped_bytes(void) {
    static const uint8_t values[] = {0x00, 0x01, 0x7F, 0x80, 0xFF};
    image g = rich_file();
    for (size_t at = 0; at < g.size; at++) {
        uint8_t good = g.bytes[at];
        for (size_t i = 0; i < sizeof values; i++) {
            g.bytes[at] = values[i];
            ln_gguf gguf;
            if (ln_gguf_open(g.bytes, g.size, &gguf, NULL) == LN_OK) {
                ln_gguf_close(&gguf);
            }
        }
        g.bytes[at] = good;
    }
    image_free(&g);
}

/* ---- the public reader of metadata --------------------------------------------- */

static void test_metadata(void) {
    image g = rich_file();
    ln_metadata *m = NULL;
    CHECK(ln_metadata_open(g.bytes, g.size, &m, NULL) == LN_OK, "a good file");
    char text[8];
    int64_t values[2], n;
    CHECK(ln_metadata_key(m, 0, text, 2, &n) == LN_OK && n == 3 && memcmp(text, "f3", 2) == 0, "the first key");
    CHECK(ln_metadata_key(m, 12, text, 8, &n) == LN_OK && n == -1, "no more keys");
    CHECK(ln_metadata_key(m, -1, text, 8, &n) == LN_BAD_ARGUMENT, "no key");
    CHECK(ln_metadata_text(m, "text", text, 8, &n) == LN_OK && n == 3 && memcmp(text, "a\0b", 3) == 0, "a text");
    CHECK(ln_metadata_text(m, "text", NULL, 0, &n) == LN_OK && n == 3, "its length");
    CHECK(ln_metadata_text(m, "words", text, 8, &n) == LN_OK && n == -1, "no text");
    CHECK(ln_metadata_text(m, "none", text, 8, &n) == LN_OK && n == -1, "no such key");
    CHECK(ln_metadata_integers(m, "ints", values, 1, &n) == LN_OK && n == 2 && values[0] == 7, "an array");
    CHECK(ln_metadata_integers(m, "u8", values, 2, &n) == LN_OK && n == 1 && values[0] == 200, "a number");
    CHECK(ln_metadata_integers(m, "words", values, 2, &n) == LN_OK && n == 0, "no numbers");
    CHECK(ln_metadata_integers(m, "i64", values, 2, &n) == LN_OK && n == 0, "a negative one");
    CHECK(ln_metadata_integers(m, "u64", values, 2, &n) == LN_OK && n == 0, "one too large");
    ln_metadata_close(m);
    ln_metadata_close(NULL);
    CHECK(ln_metadata_open(g.bytes, 100, &m, NULL) == LN_BAD_FILE && m == NULL, "a cut file");
    image_free(&g);
}

int main(int argc, char **argv) {
    if (argc == 2) {
        const tiny_llama m = {.n_layers = 1, .n_heads = 2, .n_kv_heads = 1, .head_dim = 4, .dim = 8, .ffn_dim = 8,
                              .vocab_size = 6, .max_seq_len = 16, .rope_divisors = 1, .linear = 2};
        image g = tiny_llama_image(&m);
        FILE *f = fopen(argv[1], "wb");
        CHECK(f != NULL && fwrite(g.bytes, 1, g.size, f) == g.size && fclose(f) == 0, "cannot write %s", argv[1]);
        image_free(&g);
        return 0;
    }
    test_rich_file();
    test_metadata();
    test_truncated();
    test_header();
    test_pairs();
    test_tensors();
    test_flipped_bytes();
    test_messages();
    return 0;
}
