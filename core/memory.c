/* memory.c - sizes that cannot overflow, and memory that is asked for with a reason. */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* posix_memalign, madvise */
#endif

#include <stdint.h>
#include <stdlib.h>

#include "core.h"

#if defined(_WIN32)
#include <malloc.h>
#elif defined(__linux__)
#include <sys/mman.h>
#endif

int ln_size_mul(size_t a, size_t b, size_t *out) {
    if (b != 0 && a > SIZE_MAX / b) {
        return 0;
    }
    *out = a * b;
    return 1;
}

int ln_size_add(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) {
        return 0;
    }
    *out = a + b;
    return 1;
}

void *ln_alloc(size_t count, size_t size, const char *what, ln_error *err) {
    void *block = calloc(count != 0 ? count : 1, size != 0 ? size : 1);
    if (block == NULL) {
        ln_fail(err, LN_NO_MEMORY, "not enough memory for %s: %.0f bytes are needed", what,
                (double)count * (double)size);
    }
    return block;
}

#define LARGE_PAGE ((size_t)2 << 20)

#if defined(_WIN32)

static void *aligned_pages(size_t bytes) { return _aligned_malloc(bytes, LARGE_PAGE); }
void ln_free_pages(void *pages) { _aligned_free(pages); }

#else

static void *aligned_pages(size_t bytes) {
    void *pages = NULL;
    if (posix_memalign(&pages, LARGE_PAGE, bytes) != 0) {
        return NULL;
    }
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    /* Streaming through small pages costs a tenth of the bandwidth. Only whole large pages: a small model
     * must not take two megabytes for a few kilobytes. A refusal changes nothing. */
    madvise(pages, bytes / LARGE_PAGE * LARGE_PAGE, MADV_HUGEPAGE);
#endif
    return pages;
}
void ln_free_pages(void *pages) { free(pages); }

#endif

void *ln_alloc_pages(size_t bytes, const char *what, ln_error *err) {
    void *pages = aligned_pages(bytes != 0 ? bytes : 1);
    if (pages == NULL) {
        ln_fail(err, LN_NO_MEMORY, "not enough memory for %s: %.0f bytes are needed", what, (double)bytes);
    }
    return pages;
}
