/* pre_tokenizers.c - the pre-tokenizers that GGUF files name in tokenizer.ggml.pre.
 *
 * The names are those of llama.cpp; the patterns are those of the models' own tokenizer.json
 * files. Each pattern splits what the one before it has left over.
 */
#include "pre_tokenizers.h"

#include <string.h>

#define MAX_PATTERNS 6

typedef struct named_pre_tokenizer {
    const char *names; /* separated by spaces */
    const char *patterns[MAX_PATTERNS];
    int nfc;           /* the model's tokenizer.json normalises */
    int ignore_merges;
    int add_bos;       /* where the file does not say */
} named_pre_tokenizer;

#define CONTRACTIONS "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
#define LEAD "[^\\r\\n\\p{L}\\p{N}]?"
#define UPPER "[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]"
#define LOWER "[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]"
#define SPACES "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"

#define LLAMA3 CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define QWEN2 CONTRACTIONS "|" LEAD "\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|" SPACES
#define GPT4O                                                                                 \
    LEAD UPPER "*" LOWER "+" CONTRACTIONS "?|" LEAD UPPER "+" LOWER "*" CONTRACTIONS          \
               "?|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define TEKKEN                                                                                \
    LEAD UPPER "*" LOWER "+|" LEAD UPPER "+" LOWER "*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|" SPACES
#define PORO                                                                                  \
    " ?[^(\\s|.,!?\\x{2026}\\x{3002}\\x{FF0C}\\x{3001}\\x{964}\\x{6D4}\\x{60C})]+"

static const char DEEPSEEK_LETTERS[] =
    "\\s?[A-Za-z\\x{B5}\\x{C0}-\\x{D6}\\x{D8}-\\x{F6}\\x{F8}-\\x{1BA}\\x{1BC}-\\x{1BF}\\x{1C4}-\\x{293}"
    "\\x{295}-\\x{2AF}\\x{370}-\\x{373}\\x{376}\\x{377}\\x{37B}-\\x{37D}\\x{37F}\\x{386}\\x{388}-"
    "\\x{38A}\\x{38C}\\x{38E}-\\x{3A1}\\x{3A3}-\\x{3F5}\\x{3F7}-\\x{481}\\x{48A}-\\x{52F}\\x{531}-"
    "\\x{556}\\x{10A0}-\\x{10C5}\\x{13A0}-\\x{13F5}\\x{13F8}-\\x{13FD}\\x{1C90}-\\x{1CBA}\\x{1CBD}-"
    "\\x{1CBF}\\x{1D00}-\\x{1D2B}\\x{1D6B}-\\x{1D77}\\x{1D79}-\\x{1D9A}\\x{1E00}-\\x{1F15}\\x{1F18}-"
    "\\x{1F1D}\\x{1F20}-\\x{1F45}\\x{1F48}-\\x{1F4D}\\x{1F50}-\\x{1F57}\\x{1F59}\\x{1F5B}\\x{1F5D}"
    "\\x{1F5F}-\\x{3CE}\\x{1F80}-\\x{1FB4}\\x{1FB6}-\\x{1FBC}\\x{3B9}\\x{1FC2}-\\x{1FC4}\\x{1FC6}-"
    "\\x{1FCC}\\x{1FD0}-\\x{390}\\x{1FD6}-\\x{38A}\\x{1FE0}-\\x{1FEC}\\x{1FF2}-\\x{1FF4}\\x{1FF6}-"
    "\\x{1FFC}\\x{2102}\\x{2107}\\x{210A}-\\x{2113}\\x{2115}\\x{2119}-\\x{211D}\\x{2124}\\x{3A9}"
    "\\x{2128}K-\\x{212D}\\x{212F}-\\x{2134}\\x{2139}\\x{213C}-\\x{213F}\\x{2145}-\\x{2149}\\x{214E}"
    "\\x{2183}\\x{2184}\\x{2C00}-\\x{2C7B}\\x{2C7E}-\\x{2CE4}\\x{2CEB}-\\x{2CEE}\\x{2CF2}\\x{2CF3}"
    "\\x{A640}-\\x{A66D}\\x{A680}-\\x{A69B}\\x{A722}-\\x{A76F}\\x{A771}-\\x{A787}\\x{A78B}-\\x{A78E}"
    "\\x{AB70}-\\x{ABBF}\\x{FB00}-\\x{FB06}\\x{FB13}-\\x{FB17}\\x{FF21}-\\x{FF3A}\\x{FF41}-\\x{FF5A}"
    "\\x{10400}-\\x{1044F}\\x{104B0}-\\x{104D3}\\x{104D8}-\\x{104FB}\\x{10C80}-\\x{10CB2}\\x{10CC0}-"
    "\\x{10CF2}\\x{118A0}-\\x{118DF}\\x{1E900}-\\x{1E943}]+";
#define DEEPSEEK_PUNCTUATION                                                                  \
    "\\s?[!-/:-~\\x{FF01}-\\x{FF0F}\\x{FF1A}-\\x{FF5E}\\x{2018}-\\x{201F}\\x{3000}-\\x{3002}]+"
#define DEEPSEEK_CJK "[\\x{4E00}-\\x{9FA5}\\x{800}-\\x{4E00}\\x{AC00}-\\x{D7FF}]+"
#define DEEPSEEK3_CJK "[\\x{4E00}-\\x{9FA5}\\x{3040}-\\x{309F}\\x{30A0}-\\x{30FF}]+"
#define DEEPSEEK3                                                                             \
    "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\\r\\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+" \
    "| ?[\\p{P}\\p{S}]+[\\r\\n]*|" SPACES

static const named_pre_tokenizer TABLE[] = {
    {.names = "default gpt-2 gpt2 phi-2 mpt olmo jais trillion granite-docling jina-v2-code",
     .patterns = {LN_GPT2_PATTERN}},
    {.names = "starcoder refact command-r smollm codeshell exaone minerva-7b mellum",
     .patterns = {LN_NUMBER_PATTERN, LN_GPT2_PATTERN}},
    {.names = "llama-bpe llama3 llama-v3 falcon3 pixtral",
     .patterns = {LLAMA3},
     .ignore_merges = 1,
     .add_bos = 1},
    {.names = "dbrx smaug-bpe chatglm-bpe glm4", .patterns = {LLAMA3}},
    {.names = "qwen2", .patterns = {QWEN2}, .nfc = 1},
    {.names = "deepseek-r1-qwen stablelm2 hunyuan megrez", .patterns = {QWEN2}},
    {.names = "gpt-4o", .patterns = {GPT4O}},
    {.names = "tekken", .patterns = {TEKKEN}, .ignore_merges = 1, .add_bos = 1},
    {.names = "falcon", .patterns = {"[\\p{P}$+<=>^~|`]+", LN_GPT2_PATTERN, "[0-9][0-9][0-9]"}},
    {.names = "deepseek-llm",
     .patterns = {"[\\r\\n]", DEEPSEEK_LETTERS, DEEPSEEK_PUNCTUATION, "\\s+$", DEEPSEEK_CJK, "\\p{N}+"}},
    {.names = "deepseek-coder", .patterns = {"[\\r\\n]", "\\s?\\p{L}+", "\\s?\\p{P}+", DEEPSEEK_CJK, "\\p{N}"}},
    {.names = "deepseek-v3", .patterns = {"\\p{N}{1,3}", DEEPSEEK3_CJK, DEEPSEEK3}},
    {.names = "poro-chat bloom gpt3-finnish", .patterns = {PORO}},
    {.names = "viking", .patterns = {PORO, "\\p{N}"}},
    {.names = "chameleon",
     .patterns = {"<sentinel:[0-9]+>", "(IMGIMG)((A|B|C|D|E|F|G|H|I){1,4})Z", "([\\t\\n]|    |  )", "\\p{N}",
                  "[\\p{P}!-/:-@\\[-`{-~]", LN_GPT2_PATTERN}},
};

/* Whether name is one of the words of names. */
static int is_one_of(ln_string name, const char *names) {
    while (*names != '\0') {
        size_t length = strcspn(names, " ");
        if (length == name.length && memcmp(names, name.data, length) == 0) {
            return 1;
        }
        names += length;
        names += *names == ' ';
    }
    return 0;
}

static ln_status add_steps(ln_tokenizer *t, const named_pre_tokenizer *entry, ln_error *err) {
    ln_status status = LN_OK;
    if (entry->nfc) {
        status = ln_add_normal(t, LN_NORMAL_NFC, (ln_string){"", 0}, NULL, err);
    }
    for (size_t i = 0; i < MAX_PATTERNS && entry->patterns[i] != NULL && status == LN_OK; i++) {
        status = ln_add_split_pattern(t, entry->patterns[i], LN_ISOLATED, 0, err);
    }
    t->ignore_merges = entry->ignore_merges;
    t->add_bos = entry->add_bos;
    return status;
}

ln_status ln_add_named_pre_tokenizer(ln_tokenizer *t, ln_string name, ln_error *err) {
    for (size_t i = 0; i < sizeof TABLE / sizeof TABLE[0]; i++) {
        if (is_one_of(name, TABLE[i].names)) {
            return add_steps(t, &TABLE[i], err);
        }
    }
    return ln_fail(err, LN_UNSUPPORTED,
                   "the pre-tokenizer '%.*s' is not supported; a GGUF file that embeds its tokenizer.json would be",
                   LN_STRING_ARGS(name));
}
