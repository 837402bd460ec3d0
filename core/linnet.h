/* linnet.h - the public face of the Linnet core.
 *
 * Four kinds of object. A model is immutable and may be shared by any number of
 * workspaces and threads. A session is one mutable timeline of tokens; sessions of one
 * workspace are evaluated together. A tokenizer stands alone and is immutable.
 *
 * The core reads memory only: whoever calls it opens, maps and closes files. It
 * never exits, prints, or reads the environment. What *_open and *_from_* make lives
 * until it is closed; no other function keeps memory. Evaluating tokens allocates
 * nothing, and neither does drawing them.
 *
 * Functions that can fail return an ln_status and, when err is not NULL, write one
 * line to err->message that a user can act on. Strings are UTF-8. Sizes are bytes
 * unless the name says otherwise. Every array shape is given as [rows][columns].
 *
 * This header is written in the small subset of C that scripts/bindings.py reads to
 * generate linnet/engine/_bindings.py; keep to one declaration per statement.
 */
#ifndef LINNET_H
#define LINNET_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define LN_API __declspec(dllexport)
#else
#define LN_API __attribute__((visibility("default")))
#endif

/* ---- errors -------------------------------------------------------------- */

typedef enum ln_status {
    LN_OK = 0,
    LN_BAD_FILE = 1,     /* the bytes are damaged, truncated or contradict themselves */
    LN_UNSUPPORTED = 2,  /* well formed, but this core cannot run it */
    LN_BAD_ARGUMENT = 3, /* the caller passed something impossible */
    LN_NO_MEMORY = 4,
    LN_CONTEXT_FULL = 5, /* the tokens do not fit into what is left of n_ctx, or of the workspace's pages */
} ln_status;

typedef struct ln_error {
    int32_t status;     /* an ln_status */
    char message[508];  /* one line, NUL-terminated */
} ln_error;

/* ---- tensor types --------------------------------------------------------- */

/* Values are the GGUF type numbers. */
typedef enum ln_type {
    LN_TYPE_F32 = 0,
    LN_TYPE_F16 = 1,
    LN_TYPE_Q4_0 = 2,
    LN_TYPE_Q4_1 = 3,
    LN_TYPE_Q5_0 = 6,
    LN_TYPE_Q5_1 = 7,
    LN_TYPE_Q8_0 = 8,
    LN_TYPE_Q2_K = 10,
    LN_TYPE_Q3_K = 11,
    LN_TYPE_Q4_K = 12,
    LN_TYPE_Q5_K = 13,
    LN_TYPE_Q6_K = 14,
    LN_TYPE_IQ4_NL = 20,
    LN_TYPE_IQ4_XS = 23,
    LN_TYPE_BF16 = 30,
    LN_TYPE_TQ1_0 = 34,
    LN_TYPE_TQ2_0 = 35,
    LN_TYPE_MXFP4 = 39,
} ln_type;

typedef struct ln_type_info {
    char name[16];          /* lower case: "f32", "q8_0" */
    int32_t block_elements; /* elements that share one block; 1 for plain types */
    int32_t block_bytes;
} ln_type_info;

/* Describes a tensor type. LN_UNSUPPORTED for a type this core does not know. */
LN_API int32_t ln_type_describe(int32_t type, ln_type_info *out);

/* Packs n floats into type; n must be a multiple of block_elements. Block types hold
 * finite values only: LN_BAD_ARGUMENT for others, and for those too large for their scale. */
LN_API int32_t ln_pack(int32_t type, const float *source, int64_t n, void *target, ln_error *err);

/* Unpacks n elements of type into floats; n must be a multiple of block_elements. */
LN_API int32_t ln_unpack(int32_t type, const void *source, int64_t n, float *target, ln_error *err);

/* ---- tokenizer ------------------------------------------------------------ */

typedef struct ln_tokenizer ln_tokenizer;

typedef struct ln_tokenizer_info {
    int32_t vocab_size;
    int32_t bos_id;      /* -1 where the tokenizer names none */
    int32_t eos_id;      /* -1 where the tokenizer names none */
    int32_t add_bos;     /* 1 when its makers put BOS in front of every text */
    int32_t add_eos;     /* 1 when they put EOS behind it */
    char kind[24];       /* "bpe" (byte level), "spm" (SentencePiece BPE), "unigram", "wordpiece", "wordlevel" */
} ln_tokenizer_info;

#define LN_ENCODE_SPECIAL 1 /* special tokens written out in the text become their ids */
#define LN_ENCODE_INSIDE 2  /* the text goes on from another one: no dummy space in front of it */
#define LN_ENCODE_FRAMED 4  /* with the tokens its makers put around every text (BOS, EOS, CLS, SEP) */
#define LN_DECODE_SPECIAL 1 /* special tokens are written out; otherwise they are left out */

/* Builds a tokenizer from a whole GGUF file in memory: from the embedded
 * tokenizer.huggingface.json where there is one, else from tokenizer.ggml.*.
 * Nothing of data is needed afterwards. */
LN_API int32_t ln_tokenizer_from_gguf(const void *data, size_t size, ln_tokenizer **out, ln_error *err);

/* Builds a tokenizer from the text of a Hugging Face tokenizer.json. */
LN_API int32_t ln_tokenizer_from_json(const void *data, size_t size, ln_tokenizer **out, ln_error *err);

LN_API void ln_tokenizer_close(ln_tokenizer *tokenizer);

LN_API int32_t ln_tokenizer_describe(const ln_tokenizer *tokenizer, ln_tokenizer_info *out);

/* Encodes n_bytes of text; without LN_ENCODE_FRAMED no BOS is added. Writes the first capacity ids
 * and stores the full count in n_ids, so a second call with that capacity gets all.
 * Invalid UTF-8 is encoded as U+FFFD, one per maximal ill-formed subsequence
 * (Unicode 3.9, the practice of WHATWG and of Python's errors="replace"). */
LN_API int32_t ln_tokenizer_encode(const ln_tokenizer *tokenizer, const char *text, size_t n_bytes, uint32_t flags,
                                   int32_t *ids, int64_t capacity, int64_t *n_ids, ln_error *err);

/* Puts the ids of two texts, encoded without LN_ENCODE_FRAMED, together as the makers do for a model that reads both
 * as one, with the tokens they put around and between them: ids[n_ids], and the type of each in types[n_ids]. The
 * same capacity rule as encode. */
LN_API int32_t ln_tokenizer_pair(const ln_tokenizer *tokenizer, const int32_t *first, int64_t n_first,
                                 const int32_t *second, int64_t n_second, int32_t *ids, int32_t *types,
                                 int64_t capacity, int64_t *n_ids, ln_error *err);

/* The ids of the tokens that are found in a text before it is split, in the order of their texts; the same
 * capacity rule as encode. Those that decode leaves out are special; the others are always found. */
LN_API int32_t ln_tokenizer_added(const ln_tokenizer *tokenizer, int32_t *ids, int64_t capacity, int64_t *n_ids);

/* Decodes ids to bytes (not NUL-terminated); the same capacity rule as encode. The
 * bytes of one id need not be whole UTF-8 characters. With at_start = 1 the dummy
 * leading space of SentencePiece tokenizers is taken off the first piece. */
LN_API int32_t ln_tokenizer_decode(const ln_tokenizer *tokenizer, const int32_t *ids, int64_t n_ids, uint32_t flags,
                                   int32_t at_start, char *text, int64_t capacity, int64_t *n_bytes, ln_error *err);

/* ---- metadata ------------------------------------------------------------- */

/* What a GGUF file says beside weights and vocabulary: the chat template, ids of tokens, names. */
typedef struct ln_metadata ln_metadata;

/* Indexes a whole GGUF file in memory, which must stay as it is until ln_metadata_close. */
LN_API int32_t ln_metadata_open(const void *data, size_t size, ln_metadata **out, ln_error *err);

LN_API void ln_metadata_close(ln_metadata *metadata);

/* The key with that index, in alphabetical order (not NUL-terminated). Writes up to capacity bytes and stores
 * the full length; -1 when there are no more keys. */
LN_API int32_t ln_metadata_key(const ln_metadata *metadata, int64_t index, char *text, int64_t capacity,
                               int64_t *n_bytes);

/* The text stored under key, as ln_metadata_key; -1 when the key is absent or its value is no text. */
LN_API int32_t ln_metadata_text(const ln_metadata *metadata, const char *key, char *text, int64_t capacity,
                                int64_t *n_bytes);

/* The integers stored under key, one or an array of them: writes up to capacity and stores how many there are;
 * 0 when the key is absent or its value is neither. Arrays hold 32-bit integers. */
LN_API int32_t ln_metadata_integers(const ln_metadata *metadata, const char *key, int64_t *values, int64_t capacity,
                                    int64_t *n);

/* ---- model ---------------------------------------------------------------- */

typedef struct ln_model ln_model;

typedef struct ln_model_info {
    char arch[32];
    int32_t n_layers;
    int32_t n_heads;
    int32_t n_kv_heads;
    int32_t head_dim;
    int32_t dim;
    int32_t ffn_dim;
    int32_t vocab_size;
    int32_t max_seq_len;
    int32_t tied_embeddings;
    int32_t causal;       /* 0: an encoder, of which a token sees the whole text; it makes hidden states, no logits */
    int32_t ranks;        /* 1: an encoder with a head that makes one number of a text, its score */
    int32_t n_token_types; /* kinds of text that an encoder tells apart; 0 = none */
    int64_t n_params;
    int64_t weight_bytes;          /* all tensors */
    int64_t bytes_per_token;       /* weight bytes read to decode one token */
    int64_t packed_bytes;          /* memory that ln_model_load takes for the weights it packs */
    int64_t in_place_bytes;        /* weights that stay where they lie in data */
} ln_model_info;

/* Opens a whole GGUF file in memory and checks it against its metadata. data must stay
 * unchanged until ln_model_close, but for what ln_model_load hands back. */
LN_API int32_t ln_model_open(const void *data, size_t size, ln_model **out, ln_error *err);

typedef struct ln_load_step {
    int64_t available;  /* in: bytes of data that are there yet, from its beginning; 0: all */
    int64_t offset;     /* these bytes of data are not needed any more */
    int64_t bytes;      /* 0 while bytes_left is not: more of them have to be available */
    int64_t bytes_left; /* of weights still to be packed; 0: the model is ready */
} ln_load_step;

/* Packs the next weights of block types, some megabytes of them, for the processor's
 * vector unit. Call it until bytes_left is 0, and only then open workspaces. Float weights
 * are used where they lie. Weights may be written to data while this goes on, as
 * step->available tells. n_threads: 0 = one per available processor; the first call decides. */
LN_API int32_t ln_model_load(ln_model *model, int32_t n_threads, ln_load_step *step, ln_error *err);

/* 64 bits that stand for the facts of a loaded model and for all of its weights, as they are held: equal for two
 * models that give the same bits. Costs what reading the weights once does. LN_BAD_ARGUMENT. */
LN_API int32_t ln_model_digest(const ln_model *model, uint64_t *out, ln_error *err);

/* Every workspace of the model must be closed first. */
LN_API void ln_model_close(ln_model *model);

LN_API int32_t ln_model_describe(const ln_model *model, ln_model_info *out);

/* ---- workspace ------------------------------------------------------------ */

/* What the sessions of one model share: threads, kernels, memory for the tokens in
 * flight, and the pages that hold their keys and values. A workspace and its sessions
 * belong to one thread at a time. */
typedef struct ln_workspace ln_workspace;

#define LN_PAGE 64 /* positions of one page of keys and values */

typedef struct ln_workspace_options {
    int32_t n_threads; /* 0 = one per available processor */
    int32_t n_batch;   /* tokens evaluated in one pass over the weights; 0 = 256, and of an encoder, which sees a
                        * whole text at once, its max_seq_len where that is more */
    int32_t kv_tokens; /* tokens all sessions together can hold, in whole pages; 0 = the model's max_seq_len */
    int32_t kv_type;   /* keys and values: LN_TYPE_F32, LN_TYPE_F16, LN_TYPE_Q8_0 or LN_TYPE_Q4_0 */
    char isa[16];      /* "" = the best this processor has; else a name of ln_isa_list */
} ln_workspace_options;

typedef struct ln_workspace_info {
    int32_t n_threads;
    int32_t n_batch;
    int32_t kv_type;
    int32_t n_pages;
    int32_t n_free_pages;
    int32_t n_sessions;  /* open now */
    int64_t page_bytes;
    int64_t bytes;       /* all memory, pages included; what was never used takes none of the machine's */
    char isa[16];
} ln_workspace_info;

/* Allocates everything evaluating will ever need. LN_BAD_ARGUMENT, LN_UNSUPPORTED, LN_NO_MEMORY. */
LN_API int32_t ln_workspace_open(const ln_model *model, const ln_workspace_options *options, ln_workspace **out,
                                 ln_error *err);

typedef struct ln_workspace_plan {
    int64_t page_bytes;
    int64_t scratch_bytes; /* that evaluating one session of kv_tokens touches, beside the pages; scoring takes more */
} ln_workspace_plan;

/* What a workspace of the model would take; allocates nothing. The model need not be loaded. The same errors. */
LN_API int32_t ln_workspace_foresee(const ln_model *model, const ln_workspace_options *options, ln_workspace_plan *out,
                                    ln_error *err);

/* What sessions still need stays until the last of them is closed. */
LN_API void ln_workspace_close(ln_workspace *workspace);

LN_API int32_t ln_workspace_describe(const ln_workspace *workspace, ln_workspace_info *out);

/* ---- session -------------------------------------------------------------- */

typedef struct ln_session ln_session;

/* An empty timeline of at most n_ctx tokens; 0 = what the model was made for, as far as
 * the workspace can hold it. Pages are taken as tokens come. */
LN_API int32_t ln_session_open(ln_workspace *workspace, int32_t n_ctx, ln_session **out, ln_error *err);

/* A new timeline that begins with the first length tokens of another and shares their
 * pages; a page that one of the two writes to later is copied first. */
LN_API int32_t ln_session_fork(const ln_session *session, int32_t length, ln_session **out, ln_error *err);

/* Gives the pages nobody else uses back to the workspace. */
LN_API void ln_session_close(ln_session *session);

/* Tokens to append to a timeline. */
typedef struct ln_span {
    ln_session *session;
    const int32_t *ids; /* [n] */
    float *logits;      /* [n][vocab_size], of every token; NULL: only those of the last are computed */
    int32_t n;
    float *hidden;      /* [n][dim], of every token what the head reads; then it is left out. Or NULL, though not of
                         * an encoder, which has no logits, unless score is given. Its spans are whole texts of at
                         * most n_batch tokens */
    const int32_t *types; /* [n], the kind of text each token belongs to, below n_token_types; NULL: all to the first */
    float *score;       /* of a model that ranks: one number, as its head makes it; or NULL */
} ln_span;

/* Appends every span to its session and evaluates all of them together: each pass over the
 * weights takes n_batch tokens. The logits of a span's last token are then at ln_session_logits,
 * unless hidden states were asked for.
 * The bits of a result depend neither on what else is in the call nor on how a text is cut into
 * calls. A session appears at most once. On failure every timeline is as before the call;
 * LN_CONTEXT_FULL when a timeline or the pages are full. */
LN_API int32_t ln_workspace_eval(ln_workspace *workspace, const ln_span *spans, int32_t n_spans, ln_error *err);

/* ln_workspace_eval of one span. */
LN_API int32_t ln_session_eval(ln_session *session, const int32_t *ids, int32_t n, float *logits, ln_error *err);

/* Appends n tokens and writes log_probs[n]: the natural-log probability of each id
 * given all before it. log_probs[0] is NaN when the timeline was empty. */
LN_API int32_t ln_session_score(ln_session *session, const int32_t *ids, int32_t n, float *log_probs, ln_error *err);

/* The logits after the last token, [vocab_size]; valid until the next call on this
 * session; NULL while the timeline is empty or was just truncated. */
LN_API const float *ln_session_logits(const ln_session *session);

/* Number of tokens on the timeline. */
LN_API int32_t ln_session_length(const ln_session *session);

/* The tokens of the timeline, [ln_session_length]; valid until the next call on this session. */
LN_API const int32_t *ln_session_ids(const ln_session *session);

/* How many of the first n ids are the first tokens of the timeline, too. */
LN_API int32_t ln_session_common(const ln_session *session, const int32_t *ids, int32_t n);

/* Number of tokens the timeline can hold. */
LN_API int32_t ln_session_capacity(const ln_session *session);

/* Forgets everything after the first length tokens. Of a model with a sliding window the tokens
 * behind it are gone: one can go back by LN_PAGE tokens from the longest the timeline has been
 * since it was empty, or to 0. */
LN_API int32_t ln_session_truncate(ln_session *session, int32_t length, ln_error *err);

typedef struct ln_session_info {
    int32_t first_page;   /* pages before this one have left a sliding window */
    int32_t n_pages;      /* pages [first_page, n_pages) are held; other sessions may share them */
    int32_t is_stretched; /* 1: positions are turned for a context longer than the model was trained for */
    int64_t bytes;        /* its memory: all of these pages, and what is its own */
    uint64_t adapters;    /* a digest of its adapters and their scales; 0 = it has none */
} ln_session_info;

LN_API int32_t ln_session_describe(const ln_session *session, ln_session_info *out);

/* Writes what a page that is held keeps of its positions to out: page_bytes of the workspace, which must be size.
 * Positions past the end of the timeline are zeros: the same text gives the same bytes. LN_BAD_ARGUMENT. */
LN_API int32_t ln_session_save(const ln_session *session, int32_t page, void *out, size_t size, ln_error *err);

/* Appends n tokens, LN_PAGE of them or, as the last of all, fewer, without evaluating them: page[size] holds what
 * ln_session_save wrote of them. It is NULL for pages that had left a sliding window; nothing can be evaluated
 * before those that had not are there. What follows has the bits it would have had if the core's version, the
 * model's digest, instruction set, type of keys and values, and what ln_session_describe says of adapters and
 * stretching are the same. Other bytes give another text, but do no harm. LN_BAD_ARGUMENT, LN_CONTEXT_FULL. */
LN_API int32_t ln_session_load(ln_session *session, const int32_t *ids, int32_t n, const void *page, size_t size,
                               ln_error *err);

/* ---- adapters ---------------------------------------------------------------- */

/* Low-rank changes of a model's matrices (LoRA): y = W x + scale * B (A x). Immutable; any number of sessions may
 * use it, which have to be closed first. */
typedef struct ln_adapter ln_adapter;

typedef enum ln_target {
    LN_TARGET_Q = 0,
    LN_TARGET_K = 1,
    LN_TARGET_V = 2,
    LN_TARGET_O = 3,
    LN_TARGET_GATE = 4,
    LN_TARGET_UP = 5,
    LN_TARGET_DOWN = 6,
    LN_TARGETS = 7, /* how many there are */
} ln_target;

#define LN_MAX_RANK 1024
#define LN_MAX_ADAPTERS 8 /* of one session */

/* What is added to one matrix of the model. */
typedef struct ln_adapter_part {
    const void *a; /* [rank][cols] */
    const void *b; /* [rows][rank], rows in the order of the model's */
    int32_t type;  /* of both: LN_TYPE_F32, LN_TYPE_F16 or LN_TYPE_BF16 */
    int32_t block;  /* whose weights: a layer, or several that share them */
    int32_t target; /* an ln_target */
    int32_t rank;
    int32_t rows;
    int32_t cols;
    float scale;
} ln_adapter_part;

/* Copies the parts. LN_BAD_FILE, saying what differs, when they do not fit the model. */
LN_API int32_t ln_adapter_open(const ln_model *model, const ln_adapter_part *parts, int32_t n_parts, ln_adapter **out,
                               ln_error *err);

LN_API void ln_adapter_close(ln_adapter *adapter);

/* Evaluates the tokens of an empty timeline, and of its forks, with these adapters, each times its scale. Sessions
 * with different adapters may be evaluated together. */
LN_API int32_t ln_session_adapt(ln_session *session, ln_adapter *const *adapters, const float *scales, int32_t n,
                                ln_error *err);

/* ---- sampler -------------------------------------------------------------- */

typedef struct ln_sampler ln_sampler;

/* How tokens are drawn, in the order in which it is applied:
 *  1. the mask of allowed tokens, logit biases, banned strings
 *  2. repetition, frequency and presence penalty, then DRY
 *  3. top-n-sigma
 *  4. temperature, or dynamic temperature
 *  5. mirostat 2, or else top-k, typical, top-p, min-p, XTC
 * With temperature 0 the most probable token after 1 and 2 is taken, the lowest id on a tie.
 * Tokens are counted as they are accepted, those of the prompt too. */
typedef struct ln_sampler_options {
    float temperature;         /* 0 = greedy */
    float dynatemp_range;      /* temperature -+ this, by entropy; 0 = off; Zhang et al. 2024 (EDT), as llama.cpp maps it */
    float dynatemp_exponent;   /* of the entropy's share of the largest possible */
    float top_n_sigma;         /* keeps logits at most so many standard deviations below the best; 0 = off */
    int32_t top_k;             /* 0 = off */
    float typical_p;           /* 1 = off */
    float top_p;               /* 1 = off */
    float min_p;               /* 0 = off */
    float xtc_probability;     /* how often XTC is applied; 0 = off */
    float xtc_threshold;       /* share from which a token counts as a top choice; above 0.5 = off */
    float repetition_penalty;  /* 1 = off; Keskar et al. 2019 (CTRL), section 4.1 */
    float frequency_penalty;   /* taken off per occurrence; 0 = off */
    float presence_penalty;    /* taken off once; 0 = off */
    int32_t repeat_last_n;     /* how many of the last tokens these three look at */
    float dry_multiplier;      /* DRY (p-e-w 2024): multiplier * base^(length - allowed_length) is taken off a */
    float dry_base;            /* token that would go on repeating length tokens; 0 = off */
    int32_t dry_allowed_length;
    int32_t dry_penalty_last_n; /* how many of the last tokens it looks at */
    const char *dry_breakers;  /* strings a repetition does not reach across, each ended by a NUL byte */
    int32_t n_dry_breakers;
    int32_t mirostat;          /* 0 or 2; Basu et al. 2021 */
    float mirostat_tau;        /* the surprise aimed at, in bits */
    float mirostat_eta;        /* learning rate */
    const int32_t *bias_ids;   /* [n_biases] */
    const float *biases;       /* [n_biases], added to the logits; -infinity = never */
    int32_t n_biases;
    const char *banned;        /* strings that never become part of the text, each ended by a NUL byte */
    int32_t n_banned;
    const ln_tokenizer *tokenizer; /* what tokens spell, for breakers and banned strings; must outlive the sampler */
    uint64_t seed;
} ln_sampler_options;

/* Copies what it needs of options. */
LN_API int32_t ln_sampler_open(const ln_sampler_options *options, int32_t vocab_size, ln_sampler **out, ln_error *err);

LN_API void ln_sampler_close(ln_sampler *sampler);

/* Draws one token from logits[vocab_size]; logits are not changed. mask[(vocab_size + 31) / 32] has the bit
 * id % 32 of word id / 32 set for every allowed id; NULL = all. -1 when no logit that is left is finite. */
LN_API int32_t ln_sampler_draw(ln_sampler *sampler, const float *logits, const uint32_t *mask);

/* Tells the sampler that id is now part of the text (prompt or drawn). */
LN_API void ln_sampler_accept(ln_sampler *sampler, int32_t id);

/* Writes the natural-log probability of id, and those of the n_top most probable tokens with their ids, best
 * first, the lower id first on a tie, -1 where there are no more: all of the model's own distribution. */
LN_API int32_t ln_log_probs(const float *logits, int32_t vocab_size, int32_t id, float *log_prob, int32_t n_top,
                            int32_t *top_ids, float *top_log_probs, ln_error *err);

/* ---- the machine ---------------------------------------------------------- */

/* Version of the core, "major.minor.patch". */
LN_API const char *ln_version(void);

/* Instruction sets this processor can run, best first, separated by spaces; "scalar" is last. */
LN_API const char *ln_isa_list(void);

/* 64 bits that stand for size bytes after others, whose digest is before (0 = none). They show what was damaged or
 * mixed up by accident, not on purpose. */
LN_API uint64_t ln_digest(const void *data, size_t size, uint64_t before);

/* Bytes per second at which n_threads threads together read buffer (size bytes),
 * the best of several passes that take about seconds in all; 0 when it cannot be
 * measured. The roofline of decode. */
LN_API double ln_read_bandwidth(const void *buffer, size_t size, int32_t n_threads, double seconds);

#ifdef __cplusplus
}
#endif
#endif
