/* json.h - a read-only tree over JSON text in memory (RFC 8259). */
#ifndef LINNET_JSON_H
#define LINNET_JSON_H

#include "buffer.h"

typedef enum ln_json_type {
    LN_JSON_NULL,
    LN_JSON_FALSE,
    LN_JSON_TRUE,
    LN_JSON_NUMBER,
    LN_JSON_STRING,
    LN_JSON_ARRAY,
    LN_JSON_OBJECT,
} ln_json_type;

/* Values lie in the order of the text. The first child of a container is the node after
 * it; the children of an object alternate between key and value. */
typedef struct ln_json_node {
    uint32_t start;  /* offset of the text; of a string without its quotes */
    uint32_t length; /* bytes of text; of a container its number of elements or pairs */
    uint32_t next;   /* the node after this one and all it contains */
    uint8_t type;    /* ln_json_type */
    uint8_t escaped; /* a string with backslashes */
} ln_json_node;

typedef struct ln_json {
    const char *text;
    ln_json_node *nodes; /* nodes[0] is the whole value */
    uint32_t n_nodes;
} ln_json;

/* Parses text, which must outlive the tree. LN_BAD_FILE says where the text is wrong. */
ln_status ln_json_parse(const void *text, size_t size, ln_json *out, ln_error *err);

void ln_json_close(ln_json *json);

/* Value of a key of an object; 0 when node is no object or has no such key. */
uint32_t ln_json_get(const ln_json *json, uint32_t node, const char *key);

/* The nodes of a container: for (i = ln_json_first(j, n); i != ln_json_end(j, n); i = ln_json_next(j, i)). */
static inline uint32_t ln_json_first(const ln_json *json, uint32_t node) {
    (void)json;
    return node + 1;
}

static inline uint32_t ln_json_end(const ln_json *json, uint32_t node) {
    return json->nodes[node].next;
}

static inline uint32_t ln_json_next(const ln_json *json, uint32_t node) {
    return json->nodes[node].next;
}

static inline ln_json_type ln_json_type_of(const ln_json *json, uint32_t node) {
    return (ln_json_type)json->nodes[node].type;
}

/* Text of a string. With escapes it is appended, unescaped, to buffer, and *out points
 * there until buffer grows again; else *out points into the JSON text. */
ln_status ln_json_string(const ln_json *json, uint32_t node, ln_buffer *buffer, ln_string *out, ln_error *err);

/* Whether the node is the string text (compared as written in the file). */
int ln_json_is(const ln_json *json, uint32_t node, const char *text);

/* The value of a number that is an integer within int32_t; 0 when it is not. */
int ln_json_int(const ln_json *json, uint32_t node, int32_t *out);

#endif
