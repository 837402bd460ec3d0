/* tokenizer.h - the parts of a tokenizer and the order in which text passes through them.
 *
 *     text -> added tokens -> normalizer -> added tokens (normalised) -> pre-tokenizer -> model
 *
 * Every kind of tokenizer file is turned into this one structure. The model makes ids of a word: byte
 * pair encoding, unigram, WordPiece or whole words. Byte-level BPE and SentencePiece BPE differ in their steps and
 * in where the first symbols of a word come from.
 */
#ifndef LINNET_TOKENIZER_H
#define LINNET_TOKENIZER_H

#include "charsmap.h"
#include "regex.h"
#include "trie.h"
#include "vocab.h"

#define LN_MAX_STEPS 16
#define LN_MAX_STEP_TEXT 256
#define LN_SPACE_SYMBOL "\xE2\x96\x81" /* U+2581, SentencePiece's visible space */

/* ---- normalizer ------------------------------------------------------------------ */

typedef enum ln_normal_kind {
    LN_NORMAL_NFC,
    LN_NORMAL_NFD,
    LN_NORMAL_NFKC,
    LN_NORMAL_NFKD,
    LN_NORMAL_LOWER,
    LN_NORMAL_STRIP,   /* white space at the ends: LN_STRIP_* */
    LN_NORMAL_DROP,    /* the characters of a class of unicode.h */
    LN_NORMAL_CLEAN,   /* BERT: no control characters, and every white space is a space */
    LN_NORMAL_CHINESE, /* BERT: spaces around ideographs */
    LN_NORMAL_NMT,     /* the same for machine translation: other lists of characters */
    LN_NORMAL_CHARSMAP,
    LN_NORMAL_CLUSTERS, /* the charsmap as the tokenizers library applies it */
    LN_NORMAL_SQUEEZE,  /* SentencePiece: one space for several, none at the ends */
    LN_NORMAL_PREPEND,  /* text in front, unless there is none to be in front of */
    LN_NORMAL_REPLACE,  /* every match of regex by text */
} ln_normal_kind;

enum { LN_STRIP_LEFT = 1, LN_STRIP_RIGHT = 2 };

typedef struct ln_normal_step {
    ln_normal_kind kind;
    int option; /* LN_STRIP_*, or an ln_character_class */
    ln_buffer text;
    ln_regex *regex;
    ln_charsmap charsmap;
} ln_normal_step;

/* ---- pre-tokenizer ---------------------------------------------------------------- */

typedef enum ln_split_behavior {
    LN_ISOLATED,
    LN_REMOVED,
    LN_MERGED_WITH_PREVIOUS,
    LN_MERGED_WITH_NEXT,
    LN_CONTIGUOUS,
} ln_split_behavior;

typedef enum ln_pre_kind {
    LN_PRE_SPLIT,     /* at the matches of regex */
    LN_PRE_METASPACE, /* ' ' becomes text; text in front as prepend says */
    LN_PRE_SPACE,     /* ' ' in front, where there is none */
    LN_PRE_BERT,      /* at white space, which goes, and around every punctuation character */
    LN_PRE_SPELL,     /* bytes become characters of the byte-level alphabet */
    LN_PRE_UNSPELL,   /* and bytes again */
} ln_pre_kind;

typedef enum ln_prepend { LN_PREPEND_NEVER, LN_PREPEND_FIRST, LN_PREPEND_ALWAYS } ln_prepend;

typedef struct ln_pre_step {
    ln_pre_kind kind;
    ln_regex *regex;
    ln_split_behavior behavior;
    int invert; /* what lies between the matches counts as match */
    ln_buffer text;
    ln_prepend prepend;
} ln_pre_step;

/* ---- added tokens ----------------------------------------------------------------- */

typedef struct ln_added_token {
    int32_t id;
    uint32_t text; /* in the pool of its set */
    uint32_t length;
    uint8_t special;
    uint8_t lstrip; /* takes the white space on its left with it */
    uint8_t rstrip;
    uint8_t single_word; /* not next to a word character */
} ln_added_token;

typedef struct ln_added_set {
    ln_added_token *tokens; /* sorted by text */
    uint32_t n;
    uint32_t capacity;
    ln_buffer pool;
    uint32_t first[257]; /* tokens that start with byte b are first[b] .. first[b + 1] */
} ln_added_set;

/* ---- the tokenizer ------------------------------------------------------------------ */

typedef enum ln_word_model { LN_MODEL_BPE, LN_MODEL_UNIGRAM, LN_MODEL_WORDPIECE, LN_MODEL_WORDLEVEL } ln_word_model;

#define LN_MAX_TEMPLATE 8 /* tokens that the makers put in front of a text, or behind it */

/* A place in a pair of texts: a token, or one of the texts. */
enum { LN_PAIR_FIRST = -1, LN_PAIR_SECOND = -2 };

typedef struct ln_pair_item {
    int32_t id; /* or LN_PAIR_* */
    int32_t type;
} ln_pair_item;

#define LN_MAX_PAIR (3 * LN_MAX_TEMPLATE + 3)

struct ln_tokenizer {
    ln_vocab vocab;
    ln_word_model model;
    ln_merges merges;        /* BPE */
    ln_trie trie;            /* the others */
    double *scores;          /* unigram: [vocab.n], log probabilities */
    double unknown_score;
    int float_scores;        /* sums of them are rounded to float */
    uint32_t first_node;     /* WordPiece: where the pieces that begin a word are, and the others */
    uint32_t inner_node;
    size_t max_word_characters;
    int byte_level;         /* words are split into bytes, else into characters */
    int ignore_merges;      /* a word that is a piece is that piece */
    int fuse_unk;           /* neighbouring unknown characters are one unknown */
    int cuts_at_space;      /* no merge or piece crosses from another character to U+2581 */
    int32_t unk_id;         /* -1: unknown characters are dropped */
    int32_t byte_ids[256];  /* byte level: the piece of a byte; else byte fallback; -1: none */
    int32_t ascii_ids[128]; /* not byte level: the piece of an ASCII character; -1: none */
    ln_normal_step normal[LN_MAX_STEPS];
    size_t n_normal;
    ln_pre_step pre[LN_MAX_STEPS];
    size_t n_pre;
    ln_added_set added[2]; /* [0] found in the text as given, [1] in the normalised text */
    uint32_t strip_left;   /* spaces in front of decoded text that encoding put there */
    int32_t bos_id;
    int32_t eos_id;
    int add_bos;
    int32_t before[LN_MAX_TEMPLATE]; /* what the makers put in front of a text, add_bos included */
    size_t n_before;
    int32_t after[LN_MAX_TEMPLATE];
    size_t n_after;
    int32_t sep_id; /* stands between two texts, beside what is behind the first; -1: nothing does */
    ln_pair_item pair[LN_MAX_PAIR];
    size_t n_pair;
};

/* What one call of ln_tokenizer_encode works with. */
typedef struct ln_encoder {
    const ln_tokenizer *tokenizer;
    int with_special;
    int inside; /* the text goes on from another one */
    int bare;   /* nothing is put in front of the part that is being encoded */
    double path_score; /* unigram: the sum over the text so far */
    int32_t *ids;
    int64_t capacity;
    int64_t n_ids;
    ln_regex_scratch regex;
    size_t max_text; /* bytes that steps may make of the text */
    ln_buffer normal[2];          /* normalizer steps write them in turn */
    ln_buffer pre[LN_MAX_STEPS];  /* text that a pre-tokenizer step changed */
    ln_buffer symbols;            /* of a long word */
    ln_buffer heap;
    ln_error *err;
} ln_encoder;

static inline void ln_encoder_emit(ln_encoder *e, int32_t id) {
    if (e->n_ids < e->capacity) {
        e->ids[e->n_ids] = id;
    }
    e->n_ids++;
}

/* Working memory for text of n_bytes; capacity is 0. Release it with ln_encoder_close. */
ln_encoder ln_encoder_open(const ln_tokenizer *tokenizer, size_t n_bytes, ln_error *err);

void ln_encoder_close(ln_encoder *e);

/* normalize.c: *out is text itself where nothing changes, else lies in e->normal. */
ln_status ln_normalize(ln_encoder *e, ln_string text, ln_string *out);

/* normalize.c: LN_UNSUPPORTED where a step has made the text too long. */
ln_status ln_check_length(const ln_encoder *e, size_t length);

/* Iterates over the matches of a regex as tokenizers do: an empty match right behind the
 * last match is passed over. Zero-initialise, with last_end = SIZE_MAX. */
typedef struct ln_match_cursor {
    size_t at;
    size_t last_end;
} ln_match_cursor;

ln_status ln_next_match(ln_encoder *e, const ln_regex *regex, ln_string text, ln_match_cursor *cursor, int *found,
                        size_t *start, size_t *end);

/* pretokenize.c: splits text into words and encodes them. at_start: text begins where the
 * whole text does. */
ln_status ln_pretokenize(ln_encoder *e, ln_string text, int at_start);

/* bpe.c, unigram.c, wordpiece.c, wordlevel.c: append the ids of one word. */
ln_status ln_bpe_encode(ln_encoder *e, const char *word, size_t length);
ln_status ln_unigram_encode(ln_encoder *e, const char *word, size_t length);
ln_status ln_wordpiece_encode(ln_encoder *e, const char *word, size_t length);
ln_status ln_wordlevel_encode(ln_encoder *e, const char *word, size_t length);

/* unigram.c: the text went on with an added token of that many bytes. */
void ln_unigram_pass(ln_encoder *e, size_t length);

/* bpe.c: fills in cuts_at_space, once the merges are there. */
void ln_bpe_find_cuts(ln_tokenizer *tokenizer);

/* unigram.c: what follows from the pieces and the lowest of their scores. */
void ln_unigram_finish(ln_tokenizer *tokenizer, double lowest_score);

/* wordpiece.c: the prefixes that pieces have in the trie, at the start of a word and within one. */
void ln_wordpiece_finish(ln_tokenizer *tokenizer, ln_string first, ln_string inner);

/* added.c */
ln_status ln_added_add(ln_added_set *set, ln_added_token token, ln_string text, ln_error *err);

/* Sorts the set; call it once, after the last add. Of equal texts the last one added stays. */
ln_status ln_added_finish(ln_added_set *set, ln_error *err);

void ln_added_free(ln_added_set *set);

/* Calls encode for the text between the added tokens of a set, and emits those. */
typedef ln_status (*ln_encode_part)(ln_encoder *e, ln_string text, int at_start);

ln_status ln_added_split(ln_encoder *e, const ln_added_set *set, ln_string text, int at_start,
                         ln_encode_part encode);

/* load_json.c, load_gguf.c: fill in a tokenizer that nothing was added to. */
ln_status ln_load_json(ln_tokenizer *tokenizer, const void *data, size_t size, ln_error *err);
ln_status ln_load_gguf(ln_tokenizer *tokenizer, const void *data, size_t size, ln_error *err);

/* load_steps.c: the steps that both loaders add. A regex belongs to the tokenizer from then on,
 * also after an error. */
ln_status ln_add_normal(ln_tokenizer *tokenizer, ln_normal_kind kind, ln_string text, ln_regex *regex,
                        ln_error *err);
ln_status ln_add_normal_option(ln_tokenizer *tokenizer, ln_normal_kind kind, int option, ln_error *err);

/* The table of a precompiled_charsmap; kind says how it is applied. */
ln_status ln_add_charsmap(ln_tokenizer *tokenizer, ln_normal_kind kind, ln_string table, ln_error *err);

/* The steps of BERT (Devlin et al. 2018), one by one. */
typedef struct ln_bert_options {
    int clean_text;
    int handle_chinese_chars;
    int strip_accents;
    int lowercase;
} ln_bert_options;

ln_status ln_add_bert_normalizer(ln_tokenizer *tokenizer, ln_bert_options options, ln_error *err);
ln_status ln_add_pre_step(ln_tokenizer *tokenizer, ln_pre_kind kind, ln_error *err); /* one without settings */
ln_status ln_add_metaspace(ln_tokenizer *tokenizer, ln_string replacement, ln_prepend prepend, ln_error *err);
ln_status ln_add_split(ln_tokenizer *tokenizer, ln_regex *regex, ln_split_behavior behavior, int invert,
                       ln_error *err);
ln_status ln_add_split_pattern(ln_tokenizer *tokenizer, const char *pattern, ln_split_behavior behavior,
                               int invert, ln_error *err);

/* Radford et al. 2019 (GPT-2), section 2.2; the pattern of the ByteLevel pre-tokenizer. */
#define LN_GPT2_PATTERN                                                                          \
    "'s|'t|'re|'ve|'m|'ll|'d| ?\\p{L}+| ?\\p{N}+| ?[^\\s\\p{L}\\p{N}]+|\\s+(?!\\S)|\\s+"

/* A number as Digits sees it: category N of Unicode 17.0, whose last 13 are not in the tables. */
#define LN_NUMBER_PATTERN "[\\p{N}\\x{11DE0}-\\x{11DE9}\\x{16FF4}-\\x{16FF6}]"

/* load_steps.c: adds the merge of two pieces into the piece of their joined text. joined is
 * working memory. LN_BAD_FILE names the piece that does not exist. */
ln_status ln_add_merge(ln_tokenizer *tokenizer, size_t rank, ln_string left, ln_string right, ln_buffer *joined,
                       ln_error *err);

/* load_steps.c: what byte-level pieces decode to, and the pieces of the 256 bytes. */
ln_status ln_finish_byte_level(ln_tokenizer *tokenizer, ln_error *err);

/* load_steps.c: the pieces of single ASCII characters, and of bytes as <0xXX>. */
void ln_finish_characters(ln_tokenizer *tokenizer, int byte_fallback);

/* load_steps.c: the trie of all pieces that lookups may produce. */
ln_status ln_finish_trie(ln_tokenizer *tokenizer, ln_error *err);

/* load_steps.c: what WordPiece pieces decode to: a space in front, none behind the prefix. cleanup: and none in
 * front of punctuation, nor within English contractions. */
ln_status ln_decode_wordpiece(ln_tokenizer *tokenizer, ln_string prefix, int cleanup, ln_error *err);

/* load_steps.c: what pieces decode to where nothing says it: a space between them. */
ln_status ln_decode_apart(ln_tokenizer *tokenizer, ln_error *err);

/* The byte that a piece like <0x0A> names, -1 for another text. */
int ln_byte_piece(ln_string text);

#endif
