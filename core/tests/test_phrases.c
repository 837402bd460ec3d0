/* test_phrases.c - phrases in random texts of tokens, against looking for them in the whole text. */
#include "gguf_image.h"

#include "phrases.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))
#define N_TOKENS 12
#define STEPS 3000

/* Tokens that overlap in many ways, one that spells half a character, and a special one that spells nothing. */
static const char *const SPELLED[N_TOKENS] = {"a", "b", "c", "ab", "ba", "abc", "aab", "ccc", "bcab", "\xC3", "\xA9", ""};
static const char TOKENIZER[] =
    "{\"model\":{\"type\":\"BPE\",\"byte_fallback\":true,\"vocab\":{\"a\":0,\"b\":1,\"c\":2,\"ab\":3,\"ba\":4,\"abc\":5,"
    "\"aab\":6,\"ccc\":7,\"bcab\":8,\"<0xC3>\":9,\"<0xA9>\":10},\"merges\":[]},\"decoder\":{\"type\":\"Sequence\","
    "\"decoders\":[{\"type\":\"ByteFallback\"},{\"type\":\"Fuse\"}]},\"added_tokens\":["
    "{\"id\":11,\"content\":\"<s>\",\"special\":true}]}";

/* The phrases of a case, one after the other as the core takes them. */
typedef struct phrase_set {
    const char *texts[4];
    int32_t n;
} phrase_set;

static const phrase_set SETS[] = {
    {{"a"}, 1},
    {{"abc"}, 1},
    {{"abab", "cc"}, 2},
    {{"aabaab", "bcb", "\xC3\xA9"}, 3},
    {{"abcabcabcabc", "ba", "ba", "c\xC3"}, 4},
};

static ln_tokenizer *open_tokenizer(void) {
    ln_tokenizer *tokenizer;
    ln_error err = {0};
    CHECK(ln_tokenizer_from_json(TOKENIZER, sizeof TOKENIZER - 1, &tokenizer, &err) == LN_OK, "%s", err.message);
    return tokenizer;
}

static ln_phrases *open_phrases(const phrase_set *set, const ln_tokenizer *tokenizer) {
    image strings = {0};
    for (int32_t i = 0; i < set->n; i++) {
        put(&strings, set->texts[i], strlen(set->texts[i]) + 1);
    }
    ln_phrases *phrases;
    ln_error err = {0};
    CHECK(ln_phrases_open((const char *)strings.bytes, set->n, tokenizer, N_TOKENS, &phrases, &err) == LN_OK, "%s",
          err.message);
    free(strings.bytes);
    return phrases;
}

/* Whether a phrase would end in the token that is put behind a text of n bytes. */
static int completes(const phrase_set *set, const char *text, size_t n, const char *token) {
    char whole[64];
    const size_t kept = n < 32 ? n : 32; /* longer than any phrase */
    memcpy(whole, text + n - kept, kept);
    strcpy(whole + kept, token);
    for (int32_t i = 0; i < set->n; i++) {
        const size_t length = strlen(set->texts[i]);
        for (size_t end = kept + 1; end <= strlen(whole); end++) {
            if (end >= length && memcmp(whole + end - length, set->texts[i], length) == 0) {
                return 1;
            }
        }
    }
    return 0;
}

/* Texts hold phrases now and then: what was said cannot be taken back, and the next tokens count all the same. */
static void test_set(const phrase_set *set, const ln_tokenizer *tokenizer) {
    ln_phrases *phrases = open_phrases(set, tokenizer);
    char text[STEPS * 4 + 1];
    size_t n = 0;
    uint32_t state = 5;
    for (int step = 0; step < STEPS; step++) {
        float scores[N_TOKENS] = {0};
        ln_phrases_forbid(phrases, scores);
        int32_t id = (int32_t)((next_weight(&state) + 1) / 2 * N_TOKENS);
        for (int32_t i = 0; i < N_TOKENS; i++) {
            const int forbidden = completes(set, text, n, SPELLED[i]);
            CHECK((scores[i] < 0) == forbidden, "step %d: '%s' was %s", step, SPELLED[i], forbidden ? "allowed" : "forbidden");
        }
        CHECK(ln_phrases_accept(phrases, id) == (scores[id] < 0), "step %d: '%s' was accepted wrongly", step, SPELLED[id]);
        memcpy(text + n, SPELLED[id], strlen(SPELLED[id]));
        n += strlen(SPELLED[id]);
    }
    CHECK(ln_phrases_accept(phrases, N_TOKENS) == 0 && ln_phrases_accept(phrases, -1) == 0, "no tokens");
    ln_phrases_close(phrases);
}

/* A sampler that must not say something says something else, and -1 where everything is forbidden. */
static void test_banned(const ln_tokenizer *tokenizer) {
    static const char banned[] = "ab\0c\0a\0b\0\xC3\0\xA9";
    ln_sampler_options options = {.top_p = 1, .typical_p = 1, .repetition_penalty = 1, .tokenizer = tokenizer};
    options.banned = banned;
    options.n_banned = 2; /* ab, c */
    ln_sampler *sampler;
    ln_error err = {0};
    CHECK(ln_sampler_open(&options, N_TOKENS, &sampler, &err) == LN_OK, "%s", err.message);
    const float logits[N_TOKENS] = {1, 8, 9, 10, 2, 9, 9, 9, 9, 0, 0, -1};
    CHECK(ln_sampler_draw(sampler, logits, NULL) == 1, "b is the best without ab and c");
    ln_sampler_accept(sampler, 0);
    CHECK(ln_sampler_draw(sampler, logits, NULL) == 0, "behind a neither b nor ba can come");
    ln_sampler_close(sampler);
    options.n_banned = 6;
    CHECK(ln_sampler_open(&options, N_TOKENS, &sampler, &err) == LN_OK, "%s", err.message);
    CHECK(ln_sampler_draw(sampler, logits, NULL) == 11, "only the special token spells nothing");
    const float without[N_TOKENS] = {1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -INFINITY};
    CHECK(ln_sampler_draw(sampler, without, NULL) == -1, "everything is forbidden");
    ln_sampler_close(sampler);
}

static void test_refused(const ln_tokenizer *tokenizer) {
    ln_phrases *phrases;
    ln_error err = {0};
    CHECK(ln_phrases_open("a\0", 2, tokenizer, N_TOKENS, &phrases, &err) == LN_BAD_ARGUMENT && phrases == NULL, "empty");
    CHECK(ln_phrases_open("a", 1, NULL, N_TOKENS, &phrases, &err) == LN_BAD_ARGUMENT, "no tokenizer");
    CHECK(ln_phrases_open(NULL, 1, tokenizer, N_TOKENS, &phrases, &err) == LN_BAD_ARGUMENT, "no strings");
    static char huge[1 << 16];
    memset(huge, 'a', sizeof huge - 1);
    CHECK(ln_phrases_open(huge, 1, tokenizer, N_TOKENS, &phrases, &err) == LN_BAD_ARGUMENT, "too long");
    CHECK(strstr(err.message, "more than") != NULL, "%s", err.message);
}

int main(void) {
    ln_tokenizer *tokenizer = open_tokenizer();
    for (size_t i = 0; i < COUNT(SETS); i++) {
        test_set(&SETS[i], tokenizer);
    }
    test_banned(tokenizer);
    test_refused(tokenizer);
    ln_tokenizer_close(tokenizer);
    return 0;
}
