/* machine.c - what the core is and what the machine can do. */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* clock_gettime */
#endif

#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#include "kernels/kernels.h"
#include "threads.h"

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <time.h>
#endif

const char *ln_version(void) {
    return "0.1.0";
}

/* ---- instruction sets --------------------------------------------------------- */

const char *ln_isa_list(void) {
    static char list[128];
    static _Atomic int state; /* 0: empty, 1: somebody writes it, 2: ready */
    int empty = 0;
    if (atomic_compare_exchange_strong(&state, &empty, 1)) {
        size_t used = 0;
        for (const ln_kernels *const *table = ln_kernels_all(); *table != NULL; table++) {
            if ((*table)->available() && used < sizeof list) {
                used += (size_t)snprintf(list + used, sizeof list - used, "%s%s", used == 0 ? "" : " ", (*table)->name);
            }
        }
        atomic_store(&state, 2);
    }
    while (atomic_load(&state) != 2) {
    }
    return list;
}

/* ---- time ---------------------------------------------------------------------------- */

#if defined(_WIN32)
double ln_seconds(void) {
    LARGE_INTEGER ticks;
    LARGE_INTEGER per_second;
    QueryPerformanceCounter(&ticks);
    QueryPerformanceFrequency(&per_second);
    return (double)ticks.QuadPart / (double)per_second.QuadPart;
}
#else
double ln_seconds(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}
#endif

/* ---- read bandwidth -------------------------------------------------------------- */

#define PIECE_BYTES ((size_t)1 << 18)
#define LINE_WORDS 8 /* of 8 bytes: a cache line */
#define PREFETCH_BYTES 4096

typedef struct read_job {
    const char *buffer;
    size_t size;
    _Atomic uint64_t *result; /* keeps the reads from being optimised away */
} read_job;

static void read_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    const read_job *j = job;
    const char *at = j->buffer + (size_t)item * PIECE_BYTES;
    size_t left = j->size - (size_t)item * PIECE_BYTES;
    size_t bytes = left < PIECE_BYTES ? left : PIECE_BYTES;
    uint64_t sums[LINE_WORDS] = {0};
    const size_t n_lines = bytes / sizeof sums;
    for (size_t i = 0; i < n_lines; i++) {
        uint64_t line[LINE_WORDS];
        __builtin_prefetch(at + i * sizeof line + PREFETCH_BYTES); /* as the kernels do */
        memcpy(line, at + i * sizeof line, sizeof line);
        for (int k = 0; k < LINE_WORDS; k++) {
            sums[k] ^= line[k];
        }
    }
    uint64_t sum = 0;
    for (int k = 0; k < LINE_WORDS; k++) {
        sum ^= sums[k];
    }
    for (size_t i = n_lines * sizeof sums; i < bytes; i++) {
        sum ^= (unsigned char)at[i];
    }
    atomic_fetch_xor_explicit(j->result, sum, memory_order_relaxed);
}

double ln_read_bandwidth(const void *buffer, size_t size, int32_t n_threads, double seconds) {
    ln_threads *threads;
    size_t pieces = size / PIECE_BYTES + (size % PIECE_BYTES != 0);
    if (buffer == NULL || size == 0 || pieces > INT32_MAX || ln_threads_open(n_threads, &threads, NULL) != LN_OK) {
        return 0;
    }
    _Atomic uint64_t result = 0;
    const read_job job = {buffer, size, &result};
    const double start = ln_seconds();
    double best = 0;
    double end = start;
    do {
        double before = end;
        ln_threads_run(threads, (int32_t)pieces, read_item, &job);
        end = ln_seconds();
        double rate = end > before ? (double)size / (end - before) : 0;
        best = rate > best ? rate : best;
    } while (end - start < seconds);
    ln_threads_close(threads);
    return best;
}
