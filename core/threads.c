/* threads.c - the thread pool.
 *
 * The items left in the current job live in one atomic word, next to the number of the job.
 * A thread takes an item by decrementing the word with a compare-and-swap, so it can never
 * take one from a job that is over, and the caller need not wait for threads that have not
 * woken up: it waits for items, not for threads. A thread with nothing to do spins for some
 * microseconds, which bridges the gaps between the jobs of one token, then sleeps.
 */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity */
#endif

#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <unistd.h>
#endif
#if defined(__linux__)
#include <sched.h>
#endif

/* ---- the operating system -------------------------------------------------- */

#if defined(_WIN32)

typedef HANDLE os_thread;
typedef SRWLOCK os_mutex;
typedef CONDITION_VARIABLE os_condition;
#define OS_THREAD_FN(name, argument) static DWORD WINAPI name(void *argument)
typedef LPTHREAD_START_ROUTINE os_thread_fn;

static int os_thread_start(os_thread *t, os_thread_fn fn, void *argument) {
    *t = CreateThread(NULL, 0, fn, argument, 0, NULL);
    return *t != NULL;
}
static void os_thread_join(os_thread t) {
    WaitForSingleObject(t, INFINITE);
    CloseHandle(t);
}
static void os_init(os_mutex *m, os_condition *a, os_condition *b) {
    InitializeSRWLock(m);
    InitializeConditionVariable(a);
    InitializeConditionVariable(b);
}
static void os_release(os_mutex *m, os_condition *a, os_condition *b) {
    (void)m, (void)a, (void)b; /* nothing to give back on Windows */
}
static void os_lock(os_mutex *m) { AcquireSRWLockExclusive(m); }
static void os_unlock(os_mutex *m) { ReleaseSRWLockExclusive(m); }
static void os_wait(os_condition *c, os_mutex *m) { SleepConditionVariableSRW(c, m, INFINITE, 0); }
static void os_wake_all(os_condition *c) { WakeAllConditionVariable(c); }

static int32_t os_processors(void) {
    DWORD_PTR ours = 0;
    DWORD_PTR all = 0;
    int32_t n = 0;
    if (GetProcessAffinityMask(GetCurrentProcess(), &ours, &all)) {
        for (; ours != 0; ours &= ours - 1) {
            n++;
        }
    }
    return n;
}

#else

typedef pthread_t os_thread;
typedef pthread_mutex_t os_mutex;
typedef pthread_cond_t os_condition;
#define OS_THREAD_FN(name, argument) static void *name(void *argument)
typedef void *(*os_thread_fn)(void *);

static int os_thread_start(os_thread *t, os_thread_fn fn, void *argument) {
    return pthread_create(t, NULL, fn, argument) == 0;
}
static void os_thread_join(os_thread t) { pthread_join(t, NULL); }
static void os_init(os_mutex *m, os_condition *a, os_condition *b) {
    pthread_mutex_init(m, NULL);
    pthread_cond_init(a, NULL);
    pthread_cond_init(b, NULL);
}
static void os_release(os_mutex *m, os_condition *a, os_condition *b) {
    pthread_cond_destroy(b);
    pthread_cond_destroy(a);
    pthread_mutex_destroy(m);
}
static void os_lock(os_mutex *m) { pthread_mutex_lock(m); }
static void os_unlock(os_mutex *m) { pthread_mutex_unlock(m); }
static void os_wait(os_condition *c, os_mutex *m) { pthread_cond_wait(c, m); }
static void os_wake_all(os_condition *c) { pthread_cond_broadcast(c); }

#if defined(__linux__)
static int32_t os_processors(void) {
    /* The kernel refuses a mask smaller than its own, so the mask grows until it is taken. */
    for (int limit = 1024; limit <= 1 << 20; limit *= 2) {
        cpu_set_t *set = CPU_ALLOC((size_t)limit);
        if (set == NULL) {
            return 0;
        }
        size_t bytes = CPU_ALLOC_SIZE((size_t)limit);
        int known = sched_getaffinity(0, bytes, set) == 0;
        int n = known ? CPU_COUNT_S(bytes, set) : 0;
        CPU_FREE(set);
        if (known) {
            return (int32_t)n;
        }
    }
    return 0;
}
#else
static int32_t os_processors(void) { return (int32_t)sysconf(_SC_NPROCESSORS_ONLN); }
#endif

#endif

#if defined(__x86_64__) || defined(__i386__)
static void cpu_relax(void) { __builtin_ia32_pause(); }
#elif defined(__aarch64__)
/* isb waits some tens of cycles; yield is a no-op on most cores. */
static void cpu_relax(void) { __asm__ volatile("isb" ::: "memory"); }
#else
static void cpu_relax(void) { atomic_signal_fence(memory_order_seq_cst); }
#endif

/* About 20 microseconds where cpu_relax takes 50 ns. */
#define SPINS 400

/* ---- the pool --------------------------------------------------------------- */

typedef struct worker {
    ln_threads *pool;
    os_thread thread;
    int32_t index;
} worker;

struct ln_threads {
    int32_t n_threads;
    worker *workers; /* [n_threads - 1] */
    int32_t n_started;

    /* The current job. A thread that reads these after `ticket` and then takes an item with that
     * same ticket has read the job of that item: they change only once all items are done. */
    _Atomic(ln_item_fn *) fn;
    _Atomic(const void *) job;

    char pad_before[64]; /* ticket and done are fought over: each keeps to its own cache line */
    _Atomic uint64_t ticket; /* number of the job << 32 | items nobody has taken */
    char pad_between[64];
    _Atomic int32_t done; /* items finished */
    char pad_after[64];

    os_mutex mutex;
    os_condition work;
    os_condition finished;
    _Atomic int32_t sleepers;   /* threads waiting, or about to, on work */
    _Atomic int caller_waits;   /* the caller waits, or is about to, on finished */
    _Atomic int stop;
};

static int has_items(uint64_t ticket) {
    return (uint32_t)ticket != 0;
}

/* Takes items until none is left; returns how many it did. */
static int32_t work(ln_threads *pool, int32_t index) {
    int32_t n = 0;
    uint64_t ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
    while (has_items(ticket)) {
        ln_item_fn *fn = atomic_load_explicit(&pool->fn, memory_order_relaxed);
        const void *job = atomic_load_explicit(&pool->job, memory_order_relaxed);
        if (atomic_compare_exchange_weak_explicit(&pool->ticket, &ticket, ticket - 1, memory_order_acq_rel,
                                                  memory_order_acquire)) {
            fn(job, (int32_t)((uint32_t)ticket - 1), index);
            n++;
            ticket = atomic_load_explicit(&pool->ticket, memory_order_acquire);
        }
    }
    return n;
}

static void wait_for_work(ln_threads *pool) {
    for (int i = 0; i < SPINS; i++) {
        if (has_items(atomic_load_explicit(&pool->ticket, memory_order_acquire)) || atomic_load(&pool->stop)) {
            return;
        }
        cpu_relax();
    }
    os_lock(&pool->mutex);
    atomic_fetch_add(&pool->sleepers, 1);
    while (!has_items(atomic_load(&pool->ticket)) && !atomic_load(&pool->stop)) {
        os_wait(&pool->work, &pool->mutex);
    }
    atomic_fetch_sub(&pool->sleepers, 1);
    os_unlock(&pool->mutex);
}

OS_THREAD_FN(worker_main, argument) {
    worker *self = argument;
    ln_threads *pool = self->pool;
    while (!atomic_load(&pool->stop)) {
        int32_t n = work(pool, self->index);
        if (n == 0) {
            wait_for_work(pool);
            continue;
        }
        atomic_fetch_add(&pool->done, n);
        if (atomic_load(&pool->caller_waits)) {
            os_lock(&pool->mutex);
            os_wake_all(&pool->finished);
            os_unlock(&pool->mutex);
        }
    }
    return 0;
}

static void wait_until_done(ln_threads *pool, int32_t n_items) {
    for (int i = 0; i < SPINS; i++) {
        if (atomic_load_explicit(&pool->done, memory_order_acquire) == n_items) {
            return;
        }
        cpu_relax();
    }
    os_lock(&pool->mutex);
    atomic_store(&pool->caller_waits, 1);
    while (atomic_load(&pool->done) != n_items) {
        os_wait(&pool->finished, &pool->mutex);
    }
    atomic_store(&pool->caller_waits, 0);
    os_unlock(&pool->mutex);
}

void ln_threads_run(ln_threads *pool, int32_t n_items, ln_item_fn *fn, const void *job) {
    if (n_items == 1 || pool->n_threads == 1) {
        for (int32_t i = 0; i < n_items; i++) {
            fn(job, i, 0);
        }
        return;
    }
    if (n_items <= 0) {
        return;
    }
    atomic_store_explicit(&pool->fn, fn, memory_order_relaxed);
    atomic_store_explicit(&pool->job, job, memory_order_relaxed);
    atomic_store_explicit(&pool->done, 0, memory_order_relaxed);
    uint64_t number = (atomic_load_explicit(&pool->ticket, memory_order_relaxed) >> 32) + 1;
    atomic_store(&pool->ticket, number << 32 | (uint32_t)n_items);
    if (atomic_load(&pool->sleepers) > 0) {
        os_lock(&pool->mutex);
        os_wake_all(&pool->work);
        os_unlock(&pool->mutex);
    }
    int32_t mine = work(pool, 0);
    atomic_fetch_add(&pool->done, mine);
    wait_until_done(pool, n_items);
}

int32_t ln_threads_count(const ln_threads *pool) {
    return pool->n_threads;
}

void ln_threads_close(ln_threads *pool) {
    if (pool == NULL) {
        return;
    }
    os_lock(&pool->mutex);
    atomic_store(&pool->stop, 1);
    os_wake_all(&pool->work);
    os_unlock(&pool->mutex);
    for (int32_t i = 0; i < pool->n_started; i++) {
        os_thread_join(pool->workers[i].thread);
    }
    os_release(&pool->mutex, &pool->work, &pool->finished);
    free(pool->workers);
    free(pool);
}

ln_status ln_threads_open(int32_t n_threads, ln_threads **out, ln_error *err) {
    *out = NULL;
    if (n_threads < 0 || n_threads > LN_MAX_THREADS) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_threads is %d; give 1 to %d, or 0 for one per processor",
                       (int)n_threads, LN_MAX_THREADS);
    }
    if (n_threads == 0) {
        int32_t n = os_processors();
        n_threads = n < 1 ? 1 : n > LN_MAX_THREADS ? LN_MAX_THREADS : n;
    }
    ln_threads *pool = ln_alloc(1, sizeof *pool, "the thread pool", err);
    if (pool == NULL) {
        return LN_NO_MEMORY;
    }
    pool->n_threads = n_threads;
    os_init(&pool->mutex, &pool->work, &pool->finished);
    pool->workers = ln_alloc((size_t)n_threads, sizeof *pool->workers, "the thread pool", err);
    if (pool->workers == NULL) {
        ln_threads_close(pool);
        return LN_NO_MEMORY;
    }
    for (int32_t i = 0; i < n_threads - 1; i++) {
        worker *w = &pool->workers[i];
        w->pool = pool;
        w->index = i + 1;
        if (!os_thread_start(&w->thread, worker_main, w)) {
            ln_threads_close(pool);
            return ln_fail(err, LN_NO_MEMORY, "the system gave %d of %d threads; ask for fewer", (int)i + 1,
                           (int)n_threads);
        }
        pool->n_started++;
    }
    *out = pool;
    return LN_OK;
}
