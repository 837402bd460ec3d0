/* test_tokenizer.c - the parts of the tokenizer against tables and a plain oracle, and what is
 * refused with which words. Whole vocabularies are compared in tests/test_tokenizer.py. */
#include "gguf_image.h"

#include "tokenizer/regex.h"
#include "tokenizer/unicode.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define SPACE "\xE2\x96\x81"

/* ---- UTF-8 and NFC ----------------------------------------------------------------- */

static void test_repair(void) {
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x90\xA6", "\xC3\xA9\xE4\xB8\xAD\xF0\x9F\x90\xA6"},
        {"a\xFF" "b", "a?b"},
        {"\xE4\xB8", "?"},              /* cut short: one */
        {"\xE4\xB8\x41", "?A"},
        {"\xF0\x9F\x90", "?"},
        {"\xED\xA0\x80", "???"},        /* a surrogate: no byte starts a valid character */
        {"\xC0\xAF", "??"},             /* too long a form */
        {"\xF4\x90\x80\x80", "????"},   /* above U+10FFFF */
        {"\xE0\x80\x80", "???"},
        {"\x80\x80" "a", "??a"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ln_buffer out = {0};
        CHECK(ln_utf8_repair(cases[i][0], strlen(cases[i][0]), &out, NULL) == LN_OK, "case %zu", i);
        char expected[64] = "";
        for (const char *c = cases[i][1]; *c != '\0'; c++) {
            strncat(expected, *c == '?' ? "\xEF\xBF\xBD" : c, *c == '?' ? 3 : 1);
        }
        CHECK(out.length == strlen(expected) && memcmp(out.data, expected, out.length) == 0, "case %zu", i);
        ln_buffer_free(&out);
    }
}

static void test_nfc(void) {
    static const char *const cases[][2] = {
        {"plain", "plain"},
        {"e\xCC\x81", "\xC3\xA9"},
        {"xe\xCC\x81y", "x\xC3\xA9y"},
        {"\xE2\x84\xAB", "\xC3\x85"},                                             /* singleton */
        {"q\xCC\x87\xCC\xA3", "q\xCC\xA3\xCC\x87"},                               /* order of marks */
        {"a\xCC\xA3\xCC\x82", "\xE1\xBA\xAD"},                                    /* two compositions */
        {"\xE1\x84\x80\xE1\x85\xA1\xE1\x86\xA8", "\xEA\xB0\x81"},                 /* Hangul L V T */
        {"\xEA\xB0\x80\xE1\x86\xA8", "\xEA\xB0\x81"},                             /* Hangul LV T */
        {"\xE0\xA5\x98", "\xE0\xA4\x95\xE0\xA4\xBC"},                             /* composition exclusion */
        {"\xCC\x81" "a", "\xCC\x81" "a"},                                         /* a mark in front */
        {"a\xCC\xB4\xCC\x81", "\xC3\xA1\xCC\xB4"},                                /* past a lower class */
        {"a\xCC\x81\xCC\x81", "\xC3\xA1\xCC\x81"},                                /* the second is blocked */
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ln_buffer out = {0};
        CHECK(ln_unicode_normalize(LN_FORM_C, cases[i][0], strlen(cases[i][0]), &out, NULL) == LN_OK, "case %zu", i);
        CHECK(out.length == strlen(cases[i][1]) && memcmp(out.data, cases[i][1], out.length) == 0, "case %zu", i);
        ln_buffer_free(&out);
    }
}

static void test_nfc_of_many_marks(void) {
    enum { N = 100000 };
    char *text = malloc(2 * N + 1);
    CHECK(text != NULL, "out of memory");
    text[0] = 'a';
    for (size_t i = 0; i < N; i++) { /* classes 230 and 220 in turn */
        memcpy(text + 1 + 2 * i, i % 2 == 0 ? "\xCC\x80" : "\xCC\xA3", 2);
    }
    ln_buffer out = {0};
    CHECK(ln_unicode_normalize(LN_FORM_C, text, 2 * N + 1, &out, NULL) == LN_OK, "nfc");
    CHECK(memcmp(out.data, "\xE1\xBA\xA1\xCC\xA3", 5) == 0, "a with a dot below comes first");
    CHECK(memcmp(out.data + out.length - 2, "\xCC\x80", 2) == 0, "the higher class comes last");
    ln_buffer_free(&out);
    free(text);
}

/* ---- regular expressions ----------------------------------------------------------- */

/* All matches of pattern in text, each in brackets. */
static void matches_of(const char *pattern, const char *text, char *out, size_t size) {
    ln_regex *regex;
    ln_error err = {0};
    CHECK(ln_regex_compile(pattern, strlen(pattern), &regex, &err) == LN_OK, "%s: %s", pattern, err.message);
    ln_regex_scratch scratch = {.budget = 1000000};
    size_t length = strlen(text);
    size_t at = 0;
    out[0] = '\0';
    while (at <= length) {
        size_t start;
        size_t end;
        ln_regex_result result = ln_regex_find(regex, text, length, at, &scratch, &start, &end);
        CHECK(result != LN_REGEX_GAVE_UP, "%s gave up on %s", pattern, text);
        if (result == LN_REGEX_NONE) {
            break;
        }
        size_t used = strlen(out);
        snprintf(out + used, size - used, "[%.*s]", (int)(end - start), text + start);
        at = end > start ? end : end + 1;
    }
    ln_regex_scratch_free(&scratch);
    ln_regex_free(regex);
}

static void test_regex(void) {
    static const char *const cases[][3] = {
        {"abc", "xabcabcab", "[abc][abc]"},
        {"a|bc|d", "abcd", "[a][bc][d]"},
        {"a*b", "aaab ab b a", "[aaab][ab][b]"},
        {"a+?", "aaa", "[a][a][a]"},
        {"<.+?>", "<a><b>", "[<a>][<b>]"},
        {"a{2,3}", "aaaaaa a", "[aaa][aaa]"},
        {"a{2}", "aaaaa", "[aa][aa]"},
        {"(?:ab){2,}", "abab ababab ab", "[abab][ababab]"},
        {"(?:ab){1,2}?c", "ababc", "[ababc]"},
        {"x{,2}y", "xxxy", "[xxy]"},
        {"a{b", "a{b", "[a{b]"},
        {"a++a", "aaa", ""},
        {"(?>a|ab)c", "abc ac", "[ac]"},
        {"(?:a|ab)c", "abc ac", "[abc][ac]"},
        {"\\s+(?!\\S)", "a   b", "[  ]"},
        {"\\w(?=\\d)", "a1b2c", "[a][b]"},
        {"[a-c]+", "abcdab", "[abc][ab]"},
        {"[^a-c]+", "abxyc", "[xy]"},
        {"[]a-]+", "]a-b", "[]a-]"},
        {"[^(\\s|[.,b])]+", "a(b c|d.e", "[a][c][d][e]"},
        {"[\\]\\-\\\\]+", "a]-\\", "[]-\\]"},
        {"\\p{L}+", "ab\xC3\xA9" "1\xE4\xB8\xAD", "[ab\xC3\xA9][\xE4\xB8\xAD]"},
        {"\\p{^L}+|\\P{Lu}", "a1B", "[a][1]"},
        {"\\pN+", "a12\xC2\xB2", "[12\xC2\xB2]"},
        {"[^\\s\\p{L}]+", "a +1 b", "[+1]"},
        {"[\\x{4E00}-\\x{9FFF}]+", "a\xE4\xB8\xAD\xE6\x96\x87" "b", "[\xE4\xB8\xAD\xE6\x96\x87]"},
        {"[^\\x{4E00}-\\x{9FFF}]+", "a\xE4\xB8\xAD" "b\xC3\xA9", "[a][b\xC3\xA9]"},
        {"(?i:'s|'RE)", "'S'Re'\xC5\xBF's're", "['S]['Re]['\xC5\xBF]['s]['re]"},
        {"(?i)k(?-i:K)", "kK KK kk", "[kK][KK]"},
        {"a(?i)b|c", "aB aC ab", "[aB][aC][ab]"},
        {".+", "ab\ncd", "[ab][cd]"},
        {"(?m:.+)", "ab\ncd", "[ab\ncd]"},
        {"^a|b$", "ab\nab", "[a][b][a][b]"},
        {"\\Aa|b\\z", "ab\nab", "[a][b]"},
        {"b\\Z", "b\n", "[b]"},
        {"\\bab\\b", "ab abc ab", "[ab][ab]"},
        {"\\Bb", "ab b", "[b]"},
        {"\\h+\\t\\u00E9", "fF0\t\xC3\xA9", "[fF0\t\xC3\xA9]"},
        {"((?=[a-c])[^b])+", "acbca", "[ac][ca]"},
        {"(a|b)?c", "ac bc c", "[ac][bc][c]"},
        {"(?:a?){3}b", "aab", "[aab]"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        char found[256];
        matches_of(cases[i][0], cases[i][1], found, sizeof found);
        CHECK(strcmp(found, cases[i][2]) == 0, "%s in %s: %s", cases[i][0], cases[i][1], found);
    }
}

static void test_refused_regex(void) {
    static const char *const cases[][2] = {
        {"(a", "( without )"},         {"a)", ") without ("},
        {"[a", "[ without ]"},         {"*a", "nothing to repeat"},
        {"a\\", "backslash"},          {"(a)\\1", "escape"},
        {"(?<=a)b", "group"},          {"\\p{Greek}", "property"},
        {"\\p{L", "without }"},        {"\\p", "without a name"},
        {"[a-z&&b]", "class inside"}, {"[a[^b]]", "class inside"},  {"[[:alpha:]]", "class inside"},
        {"[b-a]", "range"},            {"a{3,2}", "repetition"},
        {"a{1001}", "1000"},           {"(a?)*", "can match nothing"},
        {"(?i:\xC3\xA9)", "ASCII"},    {"\\x{110000}", "no character"},
        {"\\x{D800}", "no character"}, {"a*****", "in a row"},
        {"\xFF", "UTF-8"},             {"(?:a{1000}b){1000}", "instructions"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ln_regex *regex;
        ln_error err = {0};
        char pattern[64];
        snprintf(pattern, sizeof pattern, "%s", cases[i][0]);
        if (strcmp(cases[i][1], "instructions") == 0) {
            snprintf(pattern, sizeof pattern, "(?:(?:ab|c){1000}){1000}");
        }
        CHECK(ln_regex_compile(pattern, strlen(pattern), &regex, &err) != LN_OK, "%s was taken", pattern);
        CHECK(strstr(err.message, cases[i][1]) != NULL, "%s: %s", pattern, err.message);
    }
}

static void test_regex_gives_up(void) {
    ln_regex *regex;
    const char pattern[] = "(?:a|a|aa)+b";
    char text[64];
    memset(text, 'a', sizeof text);
    CHECK(ln_regex_compile(pattern, sizeof pattern - 1, &regex, NULL) == LN_OK, "compile");
    ln_regex_scratch scratch = {.budget = 100000};
    size_t start;
    size_t end;
    ln_regex_result result = ln_regex_find(regex, text, sizeof text, 0, &scratch, &start, &end);
    CHECK(result == LN_REGEX_GAVE_UP, "result %d", (int)result);
    ln_regex_scratch_free(&scratch);
    ln_regex_free(regex);
}

/* ---- tokenizers ---------------------------------------------------------------------- */

static ln_tokenizer *open_json(const char *json) {
    ln_tokenizer *tokenizer;
    ln_error err = {0};
    /* an exact copy, so that a sanitizer sees a step outside */
    char *copy = malloc(strlen(json));
    CHECK(copy != NULL, "out of memory");
    memcpy(copy, json, strlen(json));
    int32_t status = ln_tokenizer_from_json(copy, strlen(json), &tokenizer, &err);
    free(copy);
    CHECK(status == LN_OK, "%s", err.message);
    return tokenizer;
}

/* The ids of text as words of a string. */
static void ids_of(const ln_tokenizer *tokenizer, const char *text, uint32_t flags, char *out, size_t size) {
    int32_t ids[256];
    int64_t n;
    ln_error err = {0};
    CHECK(ln_tokenizer_encode(tokenizer, text, strlen(text), flags, ids, 256, &n, &err) == LN_OK, "%s", err.message);
    out[0] = '\0';
    for (int64_t i = 0; i < n; i++) {
        size_t used = strlen(out);
        snprintf(out + used, size - used, "%s%d", i > 0 ? " " : "", ids[i]);
    }
}

static void check_ids(const ln_tokenizer *tokenizer, const char *text, uint32_t flags, const char *expected) {
    char found[1024];
    ids_of(tokenizer, text, flags, found, sizeof found);
    CHECK(strcmp(found, expected) == 0, "'%s' gave %s, not %s", text, found, expected);
}

static const char LETTERS[] =
    "{\"model\":{\"type\":\"BPE\",\"unk_token\":\"<unk>\",\"fuse_unk\":%s,\"byte_fallback\":%s,\"vocab\":"
    "{\"<unk>\":0,\"a\":1,\"b\":2,\"c\":3,\"ab\":4,\"bc\":5,\"abc\":6,\"aa\":7,\"aaaa\":8,\"<0xC3>\":9,\"<0xA9>\":10},"
    "\"merges\":[\"b c\",\"a b\",\"a bc\",\"a a\",\"aa aa\"]},\"added_tokens\":["
    "{\"id\":11,\"content\":\"<s>\",\"special\":true},{\"id\":12,\"content\":\"<s>a\"},"
    "{\"id\":13,\"content\":\"[l]\",\"lstrip\":true},{\"id\":14,\"content\":\"[r]\",\"rstrip\":true},"
    "{\"id\":15,\"content\":\"ca\",\"single_word\":true}]}";

static ln_tokenizer *open_letters(const char *fuse_unk, const char *byte_fallback) {
    char json[2048];
    snprintf(json, sizeof json, LETTERS, fuse_unk, byte_fallback);
    return open_json(json);
}

static void test_merges_and_unknowns(void) {
    ln_tokenizer *t = open_letters("true", "true");
    check_ids(t, "", 0, "");
    check_ids(t, "abc", 0, "6"); /* b c goes first */
    check_ids(t, "abab", 0, "4 4");
    check_ids(t, "aaaaa", 0, "8 1");
    check_ids(t, "axya", 0, "1 0 1");                /* two unknowns are fused */
    check_ids(t, "a\xC3\xA9", 0, "1 9 10");          /* bytes */
    check_ids(t, "a\xFF\xFF" "b", 0, "1 0 2");       /* U+FFFD twice, fused */
    ln_tokenizer_close(t);
    t = open_letters("false", "false");
    check_ids(t, "axya", 0, "1 0 0 1");
    check_ids(t, "a\xC3\xA9", 0, "1 0");
    ln_tokenizer_close(t);
}

static void test_added_tokens(void) {
    ln_tokenizer *t = open_letters("true", "false");
    check_ids(t, "a<s>b", LN_ENCODE_SPECIAL, "1 11 2");
    check_ids(t, "a<s>b", 0, "1 0 2");
    check_ids(t, "<s>ab", LN_ENCODE_SPECIAL, "12 2"); /* the longest */
    check_ids(t, "<s>ab", 0, "12 2");                 /* not special */
    check_ids(t, "a  [l] [r] \n b", 0, "1 13 0 14 2");
    check_ids(t, "ca", 0, "15");
    check_ids(t, "b.ca.b", 0, "2 0 15 0 2");
    check_ids(t, "bca", 0, "5 1");
    check_ids(t, "cab", 0, "3 4");
    ln_tokenizer_close(t);
}

/* Byte pair encoding as it is defined: the best pair of the whole word, again and again. */
static size_t encode_plainly(const int32_t (*merges)[3], size_t n_merges, int32_t *ids, size_t n) {
    for (;;) {
        size_t best_rank = n_merges;
        size_t best = 0;
        for (size_t i = 0; i + 1 < n; i++) {
            for (size_t r = 0; r < best_rank; r++) {
                if (merges[r][0] == ids[i] && merges[r][1] == ids[i + 1]) {
                    best_rank = r;
                    best = i;
                }
            }
        }
        if (best_rank == n_merges) {
            return n;
        }
        ids[best] = merges[best_rank][2];
        memmove(ids + best + 1, ids + best + 2, (n - best - 2) * sizeof *ids);
        n--;
    }
}

/* Words of every length, short ones by scanning and long ones with the heap. */
static void test_against_plain_bpe(void) {
    static const int32_t merges[][3] = {{2, 3, 5}, {1, 2, 4}, {1, 5, 6}, {1, 1, 7}, {7, 7, 8}};
    ln_tokenizer *t = open_letters("true", "false");
    uint32_t random = 1;
    for (size_t length = 3; length < 200; length++) { /* "ca" alone is an added token */
        char text[200];
        int32_t expected[200];
        int32_t found[200];
        for (size_t i = 0; i < length; i++) {
            random = random * 1664525 + 1013904223;
            int32_t id = (int32_t)(random >> 30) % 3 + 1;
            expected[i] = id;
            text[i] = (char)('a' + id - 1);
        }
        size_t n = encode_plainly(merges, COUNT(merges), expected, length);
        int64_t n_found;
        CHECK(ln_tokenizer_encode(t, text, length, 0, found, 200, &n_found, NULL) == LN_OK, "length %zu", length);
        CHECK((size_t)n_found == n && memcmp(found, expected, n * sizeof *found) == 0, "length %zu", length);
    }
    ln_tokenizer_close(t);
}

static void test_capacity_and_arguments(void) {
    ln_tokenizer *t = open_letters("true", "false");
    int32_t ids[4] = {-7, -7, -7, -7};
    int64_t n;
    CHECK(ln_tokenizer_encode(t, "abcaaaac", 8, 0, ids, 2, &n, NULL) == LN_OK && n == 3, "n");
    CHECK(ids[0] == 6 && ids[1] == 8 && ids[2] == -7, "%d %d %d", ids[0], ids[1], ids[2]);
    char text[8] = "-------";
    CHECK(ln_tokenizer_decode(t, (int32_t[]){6, 1}, 2, 0, 1, text, 2, &n, NULL) == LN_OK && n == 5, "n");
    CHECK(memcmp(text, "ab-", 3) == 0, "%s", text);
    ln_error err = {0};
    CHECK(ln_tokenizer_decode(t, (int32_t[]){16}, 1, 0, 1, text, 2, &n, &err) == LN_BAD_ARGUMENT, "16");
    CHECK(strstr(err.message, "16") != NULL, "%s", err.message);
    CHECK(ln_tokenizer_decode(t, (int32_t[]){-1}, 1, 0, 1, text, 2, &n, &err) == LN_BAD_ARGUMENT, "-1");
    CHECK(ln_tokenizer_encode(NULL, "a", 1, 0, NULL, 0, &n, &err) == LN_BAD_ARGUMENT, "no tokenizer");
    CHECK(ln_tokenizer_encode(t, NULL, 1, 0, NULL, 0, &n, &err) == LN_BAD_ARGUMENT, "no text");
    CHECK(ln_tokenizer_decode(t, (int32_t[]){11, 1}, 2, 0, 1, text, 8, &n, NULL) == LN_OK && n == 1, "special left out");
    CHECK(ln_tokenizer_decode(t, (int32_t[]){11, 1}, 2, LN_DECODE_SPECIAL, 1, text, 8, &n, NULL) == LN_OK && n == 5,
          "special written");
    ln_tokenizer_close(t);
}

/* ---- refused tokenizer.json ------------------------------------------------------------ */

#define MODEL(vocab, merges) "{\"model\":{\"vocab\":{" vocab "},\"merges\":[" merges "]}"
#define GOOD MODEL("\"a\":0,\"b\":1,\"ab\":2", "\"a b\"")

static void test_refused_json(void) {
    static const struct {
        const char *json;
        int32_t status;
        const char *say;
    } cases[] = {
        {"", LN_BAD_FILE, "empty"},
        {"[", LN_BAD_FILE, "too early"},
        {"{}", LN_BAD_FILE, "no 'model'"},
        {"{\"model\":1}", LN_BAD_FILE, "no 'model'"},
        {"{\"a\":\"\\ud800\"}", LN_BAD_FILE, "escape"},
        {"{\"a\":\"\\x\"}", LN_BAD_FILE, "escape"},
        {"{\"a\":\"\n\"}", LN_BAD_FILE, "control"},
        {"{\"a\":01}", LN_BAD_FILE, "number"},
        {"{\"a\":1,}", LN_BAD_FILE, "key"},
        {"{\"a\":1}x", LN_BAD_FILE, "follows"},
        {"{\"a\":\"\xFF\"}", LN_BAD_FILE, "UTF-8"},
        {"{\"model\":{\"type\":\"CharBPE\"}}", LN_UNSUPPORTED, "CharBPE"},
        {"{\"model\":{\"type\":\"Unigram\"}}", LN_BAD_FILE, "Unigram"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\"]]}}", LN_BAD_FILE, "entry 0"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",1e999]]}}", LN_BAD_FILE, "entry 0"},
        {"{\"model\":{\"type\":\"Unigram\",\"vocab\":[[\"a\",0]],\"unk_id\":1}}", LN_BAD_FILE, "unk_id"},
        {"{\"model\":{\"type\":\"WordPiece\",\"vocab\":[]}}", LN_BAD_FILE, "WordPiece"},
        {GOOD ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"?\"}}", LN_BAD_FILE, "base64"},
        {GOOD ",\"normalizer\":{\"type\":\"Precompiled\",\"precompiled_charsmap\":\"////AA==\"}}", LN_BAD_FILE,
         "damaged"},
        {MODEL("", "") "}", LN_BAD_FILE, "empty"},
        {MODEL("\"a\":-1", "") "}", LN_BAD_FILE, "'a'"},
        {MODEL("\"a\":1.5", "") "}", LN_BAD_FILE, "'a'"},
        {MODEL("\"a\":99999999999999999999", "") "}", LN_BAD_FILE, "'a'"},
        {MODEL("\"a\":2000000000", "") "}", LN_BAD_FILE, "2000000000"},
        {MODEL("\"a\":0,\"b\":0", "") "}", LN_BAD_FILE, "the id 0"},
        {MODEL("\"a\":0,\"a\":1", "") "}", LN_BAD_FILE, "twice"},
        {MODEL("\"a\":0", "\"a b\"") "}", LN_BAD_FILE, "'b'"},
        {MODEL("\"a\":0,\"b\":1", "\"a b\"") "}", LN_BAD_FILE, "'ab'"},
        {MODEL("\"a\":0", "\"a\"") "}", LN_BAD_FILE, "merge 0"},
        {MODEL("\"a\":0", "[\"a\"]") "}", LN_BAD_FILE, "merge 0"},
        {MODEL("\"a\":0", "[\"a\",1]") "}", LN_BAD_FILE, "merge 0"},
        {MODEL("\"a\":0", "7") "}", LN_BAD_FILE, "merge 0"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"unk_token\":\"u\"}}", LN_BAD_FILE, "'u'"},
        {"{\"model\":{\"vocab\":{\"a\":0},\"merges\":[],\"dropout\":0.1}}", LN_UNSUPPORTED, "dropout"},
        {GOOD ",\"added_tokens\":[{\"content\":\"x\"}]}", LN_BAD_FILE, "no id"},
        {GOOD ",\"added_tokens\":[{\"id\":3}]}", LN_BAD_FILE, "content"},
        {GOOD ",\"added_tokens\":[{\"id\":0,\"content\":\"x\"}]}", LN_BAD_FILE, "id 0"},
        {GOOD ",\"added_tokens\":[{\"id\":3,\"content\":\"a\"}]}", LN_BAD_FILE, "another id"},
        {GOOD ",\"normalizer\":{\"type\":\"ByteLevel\"}}", LN_UNSUPPORTED, "ByteLevel"},
        {GOOD ",\"normalizer\":3}", LN_UNSUPPORTED, "normalizer"},
        {GOOD ",\"pre_tokenizer\":{\"type\":\"Sequence\"}}", LN_BAD_FILE, "pretokenizers"},
        {GOOD ",\"pre_tokenizer\":{\"type\":\"UnicodeScripts\"}}", LN_UNSUPPORTED, "UnicodeScripts"},
        {GOOD ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(\"},\"behavior\":\"Isolated\"}}",
         LN_BAD_FILE, "( without )"},
        {GOOD ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"String\":\"a\"},\"behavior\":\"Odd\"}}",
         LN_UNSUPPORTED, "behavior"},
        {GOOD ",\"decoder\":{\"type\":\"CTC\"}}", LN_UNSUPPORTED, "CTC"},
    };
    for (size_t i = 0; i < COUNT(cases); i++) {
        ln_tokenizer *t = NULL;
        ln_error err = {0};
        int32_t status = ln_tokenizer_from_json(cases[i].json, strlen(cases[i].json), &t, &err);
        CHECK(status == cases[i].status && err.status == status, "%s: status %d, %s", cases[i].json, status, err.message);
        CHECK(strstr(err.message, cases[i].say) != NULL, "%s: %s", cases[i].json, err.message);
        CHECK(t == NULL && strchr(err.message, '\n') == NULL, "%s", cases[i].json);
    }
    char deep[1000];
    memset(deep, '[', sizeof deep);
    ln_tokenizer *t;
    ln_error err = {0};
    CHECK(ln_tokenizer_from_json(deep, sizeof deep, &t, &err) == LN_BAD_FILE, "deep");
    CHECK(strstr(err.message, "deep") != NULL, "%s", err.message);
}

/* Every prefix of a good file ends in an error, none outside the file. */
static void test_cut_json(void) {
    char json[2048];
    snprintf(json, sizeof json, LETTERS, "true", "true");
    for (size_t length = 1; length < strlen(json); length++) {
        char *copy = malloc(length);
        CHECK(copy != NULL, "out of memory");
        memcpy(copy, json, length);
        ln_tokenizer *t;
        CHECK(ln_tokenizer_from_json(copy, length, &t, NULL) == LN_BAD_FILE, "%zu bytes", length);
        free(copy);
    }
}

/* A text that the steps would blow up, and a pattern that would never end. */
static void test_steps_out_of_hand(void) {
    char json[1024];
    char content[241];
    memset(content, ' ', sizeof content);
    content[240] = '\0';
    snprintf(json, sizeof json,
             GOOD ",\"normalizer\":{\"type\":\"Sequence\",\"normalizers\":["
                  "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"%s\"},"
                  "{\"type\":\"Replace\",\"pattern\":{\"String\":\" \"},\"content\":\"%s\"}]}}",
             content, content);
    ln_tokenizer *t = open_json(json);
    ln_error err = {0};
    int64_t n;
    CHECK(ln_tokenizer_encode(t, "    ", 4, 0, NULL, 0, &n, &err) == LN_UNSUPPORTED, "grew");
    CHECK(strstr(err.message, "longer") != NULL, "%s", err.message);
    ln_tokenizer_close(t);
    t = open_json(GOOD ",\"pre_tokenizer\":{\"type\":\"Split\",\"pattern\":{\"Regex\":\"(a|a|aa)+c\"},"
                       "\"behavior\":\"Isolated\"}}");
    char text[64];
    memset(text, 'a', sizeof text);
    CHECK(ln_tokenizer_encode(t, text, sizeof text, 0, NULL, 0, &n, &err) == LN_UNSUPPORTED, "ended");
    CHECK(strstr(err.message, "steps") != NULL, "%s", err.message);
    ln_tokenizer_close(t);
}

/* ---- GGUF -------------------------------------------------------------------------------- */

static void put_strings(image *g, const char *key, const char *const *texts, uint64_t n) {
    put_key(g, key, LN_GGUF_ARRAY);
    put_u32(g, LN_GGUF_STRING);
    put_u64(g, n);
    for (uint64_t i = 0; i < n; i++) {
        put_string(g, texts[i]);
    }
}

static void put_numbers(image *g, const char *key, ln_gguf_type type, const float *values, uint64_t n) {
    put_key(g, key, LN_GGUF_ARRAY);
    put_u32(g, (uint32_t)type);
    put_u64(g, n);
    for (uint64_t i = 0; i < n; i++) {
        if (type == LN_GGUF_F32) {
            put_f32(g, values[i]);
        } else {
            put_u32(g, (uint32_t)values[i]);
        }
    }
}

static ln_tokenizer *open_gguf(image *g, int32_t expected, const char *say) {
    image_trim(g);
    ln_tokenizer *t = NULL;
    ln_error err = {0};
    int32_t status = ln_tokenizer_from_gguf(g->bytes, g->size, &t, &err);
    CHECK(status == expected, "status %d: %s", status, err.message);
    CHECK(say == NULL || strstr(err.message, say) != NULL, "%s", err.message);
    image_free(g);
    return t;
}

static void put_sentencepiece(image *g, float c_score) {
    static const char *const tokens[] = {"<unk>", "<s>", "</s>", "<0x0A>", SPACE, "a", "b", "c", SPACE "a",
                                         "ab",    "bc",  "abc",  "[u]"};
    const float scores[] = {0, 0, 0, 0, -9, -9, -9, -9, -3, -2, c_score, -4, 0};
    static const float types[] = {2, 3, 3, 6, 1, 1, 1, 1, 1, 1, 1, 1, 4};
    put_pair_string(g, "tokenizer.ggml.model", "llama");
    put_strings(g, "tokenizer.ggml.tokens", tokens, COUNT(tokens));
    put_numbers(g, "tokenizer.ggml.scores", LN_GGUF_F32, scores, COUNT(scores));
    put_numbers(g, "tokenizer.ggml.token_type", LN_GGUF_I32, types, COUNT(types));
    put_pair_u32(g, "tokenizer.ggml.bos_token_id", 1);
}

static void test_sentencepiece_gguf(void) {
    image g = {0};
    put_header(&g, 0, 5);
    put_sentencepiece(&g, -1);
    ln_tokenizer *t = open_gguf(&g, LN_OK, NULL);
    ln_tokenizer_info info;
    ln_tokenizer_describe(t, &info);
    CHECK(info.vocab_size == 13 && info.bos_id == 1 && info.eos_id == -1 && info.add_bos == 1, "info");
    CHECK(strcmp(info.kind, "spm") == 0, "%s", info.kind);
    check_ids(t, "abc", 0, "8 10");        /* bc, then the space and a: better than a bc */
    check_ids(t, "a b", 0, "8 4 6");
    check_ids(t, "\n", 0, "4 3");          /* a byte */
    check_ids(t, "xyz", 0, "4 0");         /* no byte: unknown */
    check_ids(t, "a[u]a", 0, "8 12 8");    /* user defined */
    check_ids(t, "<s>a", 0, "4 0 5");      /* <s> written out: '<', 's', '>' are unknown */
    check_ids(t, "<s>a", LN_ENCODE_SPECIAL, "1 8");
    char text[16];
    int64_t n;
    CHECK(ln_tokenizer_decode(t, (int32_t[]){1, 8, 3, 4, 5}, 5, 0, 1, text, 16, &n, NULL) == LN_OK, "decode");
    CHECK(n == 4 && memcmp(text, "a\n a", 4) == 0, "%.*s", (int)n, text);
    CHECK(ln_tokenizer_decode(t, (int32_t[]){8}, 1, 0, 0, text, 16, &n, NULL) == LN_OK && n == 2, "not at start");
    ln_tokenizer_close(t);

    put_header(&g, 0, 5);
    put_sentencepiece(&g, -3); /* a b is better than b c now */
    t = open_gguf(&g, LN_OK, NULL);
    check_ids(t, "abc", 0, "4 11"); /* ab, then ab c */
    check_ids(t, "bc", 0, "4 10");
    ln_tokenizer_close(t);
}

static void test_byte_level_gguf(void) {
    static const char *const tokens[] = {"a", "b", "\xC4\xA0", "ab", "\304\240ab", "<s>"};
    static const char *const merges[] = {"a b", "\304\240 ab"};
    static const float types[] = {1, 1, 1, 1, 1, 3};
    image g = {0};
    put_header(&g, 0, 7);
    put_pair_string(&g, "tokenizer.ggml.model", "gpt2");
    put_pair_string(&g, "tokenizer.ggml.pre", "gpt-2");
    put_strings(&g, "tokenizer.ggml.tokens", tokens, COUNT(tokens));
    put_numbers(&g, "tokenizer.ggml.token_type", LN_GGUF_I32, types, COUNT(types));
    put_strings(&g, "tokenizer.ggml.merges", merges, COUNT(merges));
    put_pair_u32(&g, "tokenizer.ggml.bos_token_id", 5);
    put_pair_u32(&g, "tokenizer.ggml.eos_token_id", 5);
    ln_tokenizer *t = open_gguf(&g, LN_OK, NULL);
    ln_tokenizer_info info;
    ln_tokenizer_describe(t, &info);
    CHECK(info.bos_id == 5 && info.eos_id == 5 && info.add_bos == 0 && strcmp(info.kind, "bpe") == 0, "info");
    check_ids(t, "ab ab", 0, "3 4");
    check_ids(t, "ab<s>", LN_ENCODE_SPECIAL, "3 5");
    ln_tokenizer_close(t);

    put_header(&g, 0, 4);
    put_pair_string(&g, "tokenizer.huggingface.json", GOOD "}");
    put_pair_string(&g, "tokenizer.ggml.model", "none of ours");
    put_pair_u32(&g, "tokenizer.ggml.bos_token_id", 2);
    put_key(&g, "tokenizer.ggml.add_bos_token", LN_GGUF_BOOL);
    put_u8(&g, 1);
    t = open_gguf(&g, LN_OK, NULL);
    ln_tokenizer_describe(t, &info);
    CHECK(info.vocab_size == 3 && info.bos_id == 2 && info.eos_id == -1 && info.add_bos == 1, "info");
    check_ids(t, "ab", 0, "2");
    ln_tokenizer_close(t);
}

static void test_refused_gguf(void) {
    static const char *const tokens[] = {"a", "b", "ab"};
    static const char *const invalid[] = {"a", "\xFF", "ab"};
    static const char *const merges[] = {"a c"};
    image g = {0};
    put_header(&g, 0, 0);
    open_gguf(&g, LN_BAD_FILE, "tokenizer.ggml.model");

    put_header(&g, 0, 1);
    put_pair_string(&g, "tokenizer.ggml.model", "rwkv");
    open_gguf(&g, LN_UNSUPPORTED, "rwkv");

    put_header(&g, 0, 1);
    put_pair_string(&g, "tokenizer.ggml.model", "llama");
    open_gguf(&g, LN_BAD_FILE, "tokenizer.ggml.tokens");

    put_header(&g, 0, 3);
    put_pair_string(&g, "tokenizer.ggml.model", "llama");
    put_strings(&g, "tokenizer.ggml.tokens", tokens, 3);
    put_numbers(&g, "tokenizer.ggml.scores", LN_GGUF_F32, (float[]){0, 0}, 2);
    open_gguf(&g, LN_BAD_FILE, "scores");

    put_header(&g, 0, 3);
    put_pair_string(&g, "tokenizer.ggml.model", "llama");
    put_strings(&g, "tokenizer.ggml.tokens", tokens, 3);
    put_numbers(&g, "tokenizer.ggml.scores", LN_GGUF_F32, (float[]){0, NAN, 0}, 3);
    open_gguf(&g, LN_BAD_FILE, "token 1");

    put_header(&g, 0, 2);
    put_pair_string(&g, "tokenizer.ggml.model", "gpt2");
    put_strings(&g, "tokenizer.ggml.tokens", invalid, 3);
    open_gguf(&g, LN_BAD_FILE, "token 1");

    put_header(&g, 0, 3);
    put_pair_string(&g, "tokenizer.ggml.model", "gpt2");
    put_strings(&g, "tokenizer.ggml.tokens", tokens, 3);
    put_pair_string(&g, "tokenizer.ggml.pre", "made up");
    open_gguf(&g, LN_UNSUPPORTED, "made up");

    put_header(&g, 0, 3);
    put_pair_string(&g, "tokenizer.ggml.model", "gpt2");
    put_strings(&g, "tokenizer.ggml.tokens", tokens, 3);
    put_strings(&g, "tokenizer.ggml.merges", merges, 1);
    open_gguf(&g, LN_BAD_FILE, "'c'");

    put_header(&g, 0, 2);
    put_pair_string(&g, "tokenizer.huggingface.json", GOOD "}");
    put_pair_u32(&g, "tokenizer.ggml.bos_token_id", 3);
    open_gguf(&g, LN_BAD_FILE, "bos_token_id");
}

int main(void) {
    test_repair();
    test_nfc();
    test_nfc_of_many_marks();
    test_regex();
    test_refused_regex();
    test_regex_gives_up();
    test_merges_and_unknowns();
    test_added_tokens();
    test_against_plain_bpe();
    test_capacity_and_arguments();
    test_refused_json();
    test_cut_json();
    test_steps_out_of_hand();
    test_sentencepiece_gguf();
    test_byte_level_gguf();
    test_refused_gguf();
    printf("ok\n");
    return 0;
}
