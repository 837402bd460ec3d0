/* threads.h - a pool of threads that share out the items of one job at a time. */
#ifndef LINNET_THREADS_H
#define LINNET_THREADS_H

#include "core.h"

#define LN_MAX_THREADS 256

typedef struct ln_threads ln_threads;

/* Does one item of a job. worker is in [0, n_threads) and is nobody else's at that moment. */
typedef void ln_item_fn(const void *job, int32_t item, int32_t worker);

/* Starts n_threads - 1 threads; the one that calls ln_threads_run is the last. n_threads = 0
 * takes one per processor this process may run on. LN_BAD_ARGUMENT, LN_NO_MEMORY. */
ln_status ln_threads_open(int32_t n_threads, ln_threads **out, ln_error *err);

void ln_threads_close(ln_threads *threads);

int32_t ln_threads_count(const ln_threads *threads);

/* Does the items [0, n_items) of a job, each once, in any order, and returns when all are done.
 * What they wrote is then visible to the caller. One call at a time. */
void ln_threads_run(ln_threads *threads, int32_t n_items, ln_item_fn *fn, const void *job);

#endif
