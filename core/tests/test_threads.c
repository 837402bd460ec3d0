/* test_threads.c - the pool: every item once, whoever comes late, and nobody busy between jobs. */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* nanosleep */
#endif

#include "check.h"
#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static ln_threads *open_pool(int32_t n_threads) {
    ln_threads *threads;
    ln_error err;
    CHECK(ln_threads_open(n_threads, &threads, &err) == LN_OK, "%s", err.message);
    CHECK(ln_threads_count(threads) == n_threads, "%d threads", (int)ln_threads_count(threads));
    return threads;
}

/* ---- every item, once, by the time run returns ------------------------------- */

typedef struct count_job {
    int32_t n_threads;
    int32_t *counts; /* [items], not atomic: two threads at one item are a data race */
    _Atomic int *busy; /* [n_threads] */
} count_job;

static void count_item(const void *job, int32_t item, int32_t worker) {
    const count_job *j = job;
    CHECK(worker >= 0 && worker < j->n_threads, "worker %d of %d", (int)worker, (int)j->n_threads);
    CHECK(atomic_exchange(&j->busy[worker], 1) == 0, "two threads are worker %d", (int)worker);
    j->counts[item]++;
    atomic_store(&j->busy[worker], 0);
}

static void test_every_item_once(int32_t n_threads) {
    static const struct {
        int32_t n_items;
        int32_t n_jobs;
    } cases[] = {{0, 50}, {1, 50}, {2, 1500}, {3, 1500}, {17, 500}, {1000, 30}, {100000, 2}};
    ln_threads *threads = open_pool(n_threads);
    _Atomic int busy[LN_MAX_THREADS] = {0};
    for (size_t c = 0; c < sizeof cases / sizeof *cases; c++) {
        const int32_t n = cases[c].n_items;
        int32_t *counts = calloc((size_t)n + 1, sizeof *counts);
        CHECK(counts != NULL, "out of memory");
        for (int32_t round = 1; round <= cases[c].n_jobs; round++) {
            const count_job job = {n_threads, counts, busy}; /* gone when run returns */
            ln_threads_run(threads, n, count_item, &job);
            for (int32_t i = 0; i <= n; i++) {
                CHECK(counts[i] == (i < n ? round : 0), "%d threads, %d items, job %d: item %d was done %d times",
                      (int)n_threads, (int)n, (int)round, (int)i, (int)counts[i]);
            }
        }
        free(counts);
    }
    ln_threads_close(threads);
}

/* Two kinds of job in turn, each with its own function and data: a thread that is late must not mix them. */
typedef struct sum_job {
    int64_t *sums; /* [items] */
    int64_t term;
} sum_job;

static void add_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    ((const sum_job *)job)->sums[item] += ((const sum_job *)job)->term;
}

static void subtract_item(const void *job, int32_t item, int32_t worker) {
    (void)worker;
    ((const sum_job *)job)->sums[item] -= 3 * ((const sum_job *)job)->term;
}

static void test_jobs_do_not_mix(int32_t n_threads) {
    ln_threads *threads = open_pool(n_threads);
    int64_t sums[40] = {0};
    int64_t expected[40] = {0};
    for (int32_t round = 0; round < 3000; round++) {
        const sum_job job = {sums, round};
        const int32_t n = 2 + round % 39;
        ln_threads_run(threads, n, round % 2 ? add_item : subtract_item, &job);
        for (int32_t i = 0; i < n; i++) {
            expected[i] += round % 2 ? round : -3 * round;
        }
    }
    CHECK(memcmp(sums, expected, sizeof sums) == 0, "%d threads: an item met another job's data", (int)n_threads);
    ln_threads_close(threads);
}

/* Jobs too large to check item by item: how many were done, and the sum of their numbers. */
static void tally_item(const void *job, int32_t item, int32_t worker) {
    uint64_t *tally = (uint64_t *)(uintptr_t)job + (size_t)worker * 32;
    tally[0]++;
    tally[1] += (uint64_t)item;
}

static void test_many_items(int32_t n_items, int32_t n_threads) {
    ln_threads *threads = open_pool(n_threads);
    static uint64_t tally[LN_MAX_THREADS * 32];
    memset(tally, 0, sizeof tally);
    ln_threads_run(threads, n_items, tally_item, tally);
    uint64_t n = 0;
    uint64_t sum = 0;
    for (int32_t w = 0; w < n_threads; w++) {
        n += tally[w * 32];
        sum += tally[w * 32 + 1];
    }
    CHECK(n == (uint64_t)n_items && sum == (uint64_t)n_items * (uint64_t)(n_items - 1) / 2,
          "%d items on %d threads: %.0f were done", (int)n_items, (int)n_threads, (double)n);
    ln_threads_close(threads);
}

/* ---- who does what ------------------------------------------------------------- */

typedef struct meeting_job {
    int32_t n_threads;
    int32_t share; /* items per thread */
    _Atomic int32_t *first; /* [n_threads] first item of each worker, -1 before */
    _Atomic int32_t *present;
} meeting_job;

static void meeting_item(const void *job, int32_t item, int32_t worker) {
    const meeting_job *j = job;
    int32_t none = -1;
    if (atomic_compare_exchange_strong(&j->first[worker], &none, item)) {
        atomic_fetch_add(j->present, 1);
        while (atomic_load(j->present) < j->n_threads) { /* nobody goes on, or steals, before all have come */
        }
    }
}

/* Thread i begins with its own share, the same in every job: that is what its cache holds. */
static void test_own_share_first(int32_t n_threads) {
    ln_threads *threads = open_pool(n_threads);
    for (int32_t round = 0; round < 8; round++) {
        _Atomic int32_t first[LN_MAX_THREADS];
        _Atomic int32_t present = 0;
        const int32_t share = 1 + round % 4;
        for (int32_t i = 0; i < n_threads; i++) {
            atomic_store(&first[i], -1);
        }
        const meeting_job job = {n_threads, share, first, &present};
        ln_threads_run(threads, n_threads * share, meeting_item, &job);
        for (int32_t i = 0; i < n_threads; i++) {
            CHECK(first[i] == i * share, "thread %d began with item %d", (int)i, (int)first[i]);
        }
    }
    ln_threads_close(threads);
}

typedef struct stuck_job {
    int32_t n_items;
    _Atomic int32_t *done; /* items done or held by a stuck thread */
} stuck_job;

static void stuck_item(const void *job, int32_t item, int32_t worker) {
    (void)item;
    const stuck_job *j = job;
    atomic_fetch_add(j->done, 1);
    while (worker != 0 && atomic_load(j->done) < j->n_items) {
    }
}

/* Every thread but the caller stays in its first item until all other items are done, as one does that
 * lost its processor there. This ends only if the caller does what is left of everybody else's share. (Units
 * of one item: a stuck thread holds no second one.) */
static void test_caller_waits_for_items_only(int32_t n_threads) {
    ln_threads *threads = open_pool(n_threads);
    for (int32_t n_items = 2; n_items < 500; n_items = n_items * 2 + 1) {
        _Atomic int32_t done = 0;
        const stuck_job job = {n_items, &done};
        ln_threads_run(threads, n_items, stuck_item, &job);
        CHECK(done == n_items, "%d of %d items", (int)done, (int)n_items);
    }
    ln_threads_close(threads);
}

/* ---- between jobs ---------------------------------------------------------------- */

#if !defined(_WIN32) /* there clock() is the time of day, not of the processor */

static void pause_ms(int ms) {
    const struct timespec t = {.tv_sec = 0, .tv_nsec = ms * 1000000L};
    nanosleep(&t, NULL);
}

/* With a processor for each thread they spin a while before they sleep, with fewer they do not. */
static void test_idle_threads_sleep(int32_t n_threads) {
    ln_threads *threads = open_pool(n_threads);
    for (int32_t round = 0; round < 20; round++) { /* sleepers are woken, all of them: each waits for the others */
        _Atomic int32_t first[LN_MAX_THREADS];
        _Atomic int32_t present = 0;
        for (int32_t i = 0; i < n_threads; i++) {
            atomic_store(&first[i], -1);
        }
        const meeting_job meeting = {n_threads, 1, first, &present};
        ln_threads_run(threads, n_threads, meeting_item, &meeting);
        pause_ms(1);
    }
    pause_ms(20);
    const clock_t before = clock();
    pause_ms(200);
    const double busy_seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    CHECK(busy_seconds < 0.02, "%d idle threads took %g seconds of processor time in 0.2", (int)n_threads,
          busy_seconds);
    ln_threads_close(threads);
}

/* The caller runs out of items while another thread is in a long one, and so sleeps until it ends. */
static void slow_item(const void *job, int32_t item, int32_t worker) {
    (void)item;
    _Atomic int32_t *present = *(_Atomic int32_t *const *)job;
    atomic_fetch_add(present, 1);
    while (atomic_load(present) < 2) { /* both threads have one */
    }
    if (worker != 0) {
        pause_ms(2);
        atomic_fetch_add(present, 1);
    }
}

static void test_caller_sleeps(void) {
    ln_threads *threads = open_pool(2);
    for (int32_t round = 0; round < 30; round++) {
        _Atomic int32_t present = 0;
        _Atomic int32_t *const job = &present;
        ln_threads_run(threads, 2, slow_item, &job);
        CHECK(present == 3, "run returned before the slow item ended");
    }
    ln_threads_close(threads);
}

#endif

/* ---- opening ------------------------------------------------------------------- */

static void test_open(void) {
    ln_threads *threads;
    ln_error err;
    CHECK(ln_threads_open(-1, &threads, &err) == LN_BAD_ARGUMENT && threads == NULL, "-1 threads");
    CHECK(ln_threads_open(LN_MAX_THREADS + 1, &threads, &err) == LN_BAD_ARGUMENT, "too many threads");
    CHECK(strstr(err.message, "1 to 256") != NULL, "%s", err.message);
    CHECK(ln_threads_open(0, &threads, NULL) == LN_OK && ln_threads_count(threads) >= 1, "one per processor");
    ln_threads_close(threads);
    ln_threads_close(NULL);
    for (int32_t i = 0; i < 50; i++) { /* threads that are told to stop before they have begun */
        ln_threads_close(open_pool(1 + i % 8));
    }
}

int main(void) {
    static const int32_t thread_counts[] = {1, 2, 3, 4, 7, 16};
    test_open();
    for (size_t i = 0; i < sizeof thread_counts / sizeof *thread_counts; i++) {
        test_every_item_once(thread_counts[i]);
        test_jobs_do_not_mix(thread_counts[i]);
        test_own_share_first(thread_counts[i]);
        test_caller_waits_for_items_only(thread_counts[i]);
    }
    test_every_item_once(LN_MAX_THREADS);
    for (int32_t share = 253; share <= 257; share++) { /* from units of one item to units of two */
        test_many_items(share * 2, 2);
        test_many_items(share * 2 + 1, 2);
        test_many_items(share * 16 + 1, 16);
    }
    test_many_items(10000019, 3);
#if !defined(_WIN32)
    test_idle_threads_sleep(2);
    test_idle_threads_sleep(5);
    test_caller_sleeps();
#endif
    return 0;
}
