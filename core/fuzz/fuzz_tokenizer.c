/* fuzz_tokenizer.c - the first byte chooses: 0 any bytes as a tokenizer.json, 1 any bytes as a GGUF
 * file, else any bytes as text for a small tokenizer of each kind. Whatever opens must encode
 * and decode, and what byte-level BPE encodes must decode to itself. The seeds in corpus/ are named by the steps
 * they hold. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "linnet.h"

#define CHECK(condition)  \
    do {                  \
        if (!(condition)) { \
            abort();      \
        }                 \
    } while (0)

static const char SAMPLE[] = "Hello  world's 123\n\xE2\x96\x81\xC3\xA9 \xE4\xB8\xAD<s>\xFF\xF0\x9F\x90\xA6 e\xCC\x81 ab";

/* Byte level with the vocabulary of bytes written out by open_byte_level. */
static const char BYTE_LEVEL_REST[] =
    "},\"merges\":[\"a b\",[\"ab\",\"c\"],[\"\xC4\xA0\",\"a\"]]},"
    "\"added_tokens\":[{\"id\":300,\"content\":\"<s>\",\"special\":true},"
    "{\"id\":301,\"content\":\"  \"},{\"id\":302,\"content\":\"xy\",\"single_word\":true,\"normalized\":true}],"
    "\"pre_tokenizer\":{\"type\":\"Sequence\",\"pretokenizers\":[{\"type\":\"Split\",\"pattern\":{\"Regex\":"
    "\"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\\\r\\\\n\\\\p{L}\\\\p{N}]?\\\\p{L}+|\\\\p{N}{1,3}| ?[^\\\\s\\\\p{L}\\\\p{N}]+"
    "[\\\\r\\\\n]*|\\\\s*[\\\\r\\\\n]+|\\\\s+(?!\\\\S)|\\\\s+\"},\"behavior\":\"Isolated\",\"invert\":false},"
    "{\"type\":\"ByteLevel\",\"add_prefix_space\":false,\"use_regex\":false}]}}";

static const char SENTENCEPIECE[] =
    "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":true,\"byte_fallback\":true,"
    "\"vocab\":{\"<unk>\":0,\"<s>\":1,\"\xE2\x96\x81\":2,\"a\":3,\"b\":4,\"\xE2\x96\x81" "a\":5,\"ab\":6,\"<0xC3>\":7,"
    "\"<0xA9>\":8,\"\xE2\x96\x81\xE2\x96\x81\":9},"
    "\"merges\":[\"\xE2\x96\x81 a\",\"a b\",\"\xE2\x96\x81 \xE2\x96\x81\"]},"
    "\"added_tokens\":[{\"id\":1,\"content\":\"<s>\",\"special\":true,\"lstrip\":true,\"rstrip\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"NFC\"},"
    "{\"type\":\"Prepend\",\"prepend\":\"\xE2\x96\x81\"},"
    "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"\xE2\x96\x81\"}]},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"Replace\",\"pattern\":{\"String\":\"\xE2\x96\x81\"},"
    "\"content\":\" \"},{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"},"
    "{\"type\":\"Strip\",\"content\":\" \",\"start\":1,\"stop\":0}]}}";

/* Unigram with a charsmap of one entry ("A" becomes "a"), and WordPiece. */
static const char UNIGRAM[] =
    "{\"model\":{\"type\":\"Unigram\",\"unk_id\":0,\"byte_fallback\":true,\"vocab\":[[\"<unk>\",0],"
    "[\"\xE2\x96\x81\",-2.5],[\"a\",-3],[\"ab\",-4.25],[\"\xE2\x96\x81" "a\",-3.5],[\"\xC3\xA9\",-6],"
    "[\"<0xC3>\",-9],[\"bab\",-5]]},"
    "\"added_tokens\":[{\"id\":8,\"content\":\"<s>\",\"special\":true}],"
    "\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":[{\"type\":\"Nmt\"},{\"type\":\"NFKC\"},"
    "{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"CAAAAAABAABBAAAAYQBiAA==\"},{\"type\":\"Strip\"}]},"
    "\"pre_tokenizer\":{\"type\":\"Metaspace\",\"prepend_scheme\":\"first\",\"split\":false},"
    "\"decoder\":{\"type\":\"Sequence\",\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Metaspace\"}]}}";

static const char WORDPIECE[] =
    "{\"model\":{\"type\":\"WordPiece\",\"unk_token\":\"[UNK]\",\"continuing_subword_prefix\":\"##\","
    "\"max_input_chars_per_word\":20,\"vocab\":{\"[UNK]\":0,\"a\":1,\"##a\":2,\"##ab\":3,\"e\":4,\"!\":5,"
    "\"\xE4\xB8\xAD\":6,\"[CLS]\":7,\"[SEP]\":8}},"
    "\"normalizer\":{\"type\":\"BertNormalizer\"},\"pre_tokenizer\":{\"type\":\"BertPreTokenizer\"},"
    "\"post_processor\":{\"type\":\"BertProcessing\",\"cls\":[\"[CLS]\",7],\"sep\":[\"[SEP]\",8]},"
    "\"decoder\":{\"type\":\"WordPiece\"}}";

/* Appends ,"character of byte b":1000 + b to the JSON. */
static size_t put_byte(char *json, unsigned int b) {
    int visible = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
    unsigned int c = visible ? b : b <= 0x20 ? 0x100 + b : b == 0xAD ? 0x143 : 0x121 + b - 0x7F;
    return (size_t)sprintf(json, ",\"\\u%04x\":%u", c, 1000 + b);
}

static ln_tokenizer *open_byte_level(void) {
    static char json[16384];
    size_t n = 0;
    const char start[] = "{\"model\":{\"vocab\":{\"ab\":256,\"abc\":257,\"\xC4\xA0" "a\":258";
    memcpy(json, start, sizeof start - 1);
    n = sizeof start - 1;
    for (unsigned int b = 0; b < 256; b++) {
        n += put_byte(json + n, b);
    }
    memcpy(json + n, BYTE_LEVEL_REST, sizeof BYTE_LEVEL_REST);
    ln_tokenizer *tokenizer;
    CHECK(ln_tokenizer_from_json(json, n + sizeof BYTE_LEVEL_REST - 1, &tokenizer, NULL) == LN_OK);
    return tokenizer;
}

/* Encodes, checks that a second call with the count as capacity gives the same, and decodes. */
static void use(const ln_tokenizer *tokenizer, const char *text, size_t size, uint32_t flags, int round_trip) {
    int64_t n;
    int64_t again;
    if (ln_tokenizer_encode(tokenizer, text, size, flags, NULL, 0, &n, NULL) != LN_OK) {
        return;
    }
    int32_t *ids = malloc((size_t)n * sizeof *ids + 1);
    CHECK(ln_tokenizer_encode(tokenizer, text, size, flags, ids, n, &again, NULL) == LN_OK && again == n);
    int64_t length;
    CHECK(ln_tokenizer_decode(tokenizer, ids, n, LN_DECODE_SPECIAL, 1, NULL, 0, &length, NULL) == LN_OK);
    char *decoded = malloc((size_t)length + 1);
    CHECK(ln_tokenizer_decode(tokenizer, ids, n, LN_DECODE_SPECIAL, 1, decoded, length, &again, NULL) == LN_OK);
    CHECK(again == length);
    if (round_trip) {
        CHECK(length >= (int64_t)size); /* a wrong byte becomes the three of U+FFFD */
        int64_t n_again;
        int32_t *ids_again = malloc((size_t)n * sizeof *ids + 1);
        CHECK(ln_tokenizer_encode(tokenizer, decoded, (size_t)length, flags, ids_again, n, &n_again, NULL) == LN_OK);
        CHECK(n_again == n && memcmp(ids, ids_again, (size_t)n * sizeof *ids) == 0);
        free(ids_again);
    }
    free(decoded);
    free(ids);
}

/* Puts the same text together with itself; the second call has room for all. */
static void use_pair(const ln_tokenizer *tokenizer) {
    const int32_t text[] = {1, 0, 2};
    int64_t n, again;
    CHECK(ln_tokenizer_pair(tokenizer, text, 3, text, 1, NULL, NULL, 0, &n, NULL) == LN_OK && n >= 4);
    int32_t *ids = malloc(2 * (size_t)n * sizeof *ids);
    CHECK(ln_tokenizer_pair(tokenizer, text, 3, text, 1, ids, ids + n, n, &again, NULL) == LN_OK && again == n);
    free(ids);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    static ln_tokenizer *byte_level;
    static ln_tokenizer *sentencepiece;
    static ln_tokenizer *unigram;
    static ln_tokenizer *wordpiece;
    if (byte_level == NULL) {
        byte_level = open_byte_level();
        CHECK(ln_tokenizer_from_json(SENTENCEPIECE, sizeof SENTENCEPIECE - 1, &sentencepiece, NULL) == LN_OK);
        CHECK(ln_tokenizer_from_json(UNIGRAM, sizeof UNIGRAM - 1, &unigram, NULL) == LN_OK);
        CHECK(ln_tokenizer_from_json(WORDPIECE, sizeof WORDPIECE - 1, &wordpiece, NULL) == LN_OK);
    }
    if (size == 0) {
        return 0;
    }
    ln_error err;
    ln_tokenizer *tokenizer = NULL;
    if (data[0] == 0) {
        ln_tokenizer_from_json(data + 1, size - 1, &tokenizer, &err);
    } else if (data[0] == 1) {
        ln_tokenizer_from_gguf(data + 1, size - 1, &tokenizer, &err);
    } else {
        use(byte_level, (const char *)data + 1, size - 1, 0, data[0] % 2);
        use(byte_level, (const char *)data + 1, size - 1, LN_ENCODE_SPECIAL, 0);
        use(sentencepiece, (const char *)data + 1, size - 1, LN_ENCODE_SPECIAL, 0);
        use(unigram, (const char *)data + 1, size - 1, LN_ENCODE_SPECIAL, 0);
        use(wordpiece, (const char *)data + 1, size - 1, LN_ENCODE_FRAMED, 0);
    }
    if (tokenizer != NULL) {
        use(tokenizer, SAMPLE, sizeof SAMPLE - 1, LN_ENCODE_SPECIAL, 0);
        use_pair(tokenizer);
        use(tokenizer, (const char *)data + 1, size - 1, 0, 0);
        ln_tokenizer_close(tokenizer);
    }
    return 0;
}
