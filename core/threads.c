/* threads.c - the thread pool.
 *
 * A job of n items is cut into one contiguous share per thread, the same cut for the same n, so that
 * a thread meets the same weights in its own cache at every token. What is left of a share is one
 * atomic word in a slot of the thread's own:
 *
 *     number of the job : 48 | first unit left : 8 | end : 8      (counted from the begin of the share)
 *
 * A unit is one item, or as many as it takes for the largest share to have at most 255 units: 2 of them
 * from 255 items on. A thread takes units from the front of its share, and when that is empty from the
 * back of the others', by a compare-and-swap of the whole word. So the caller waits for items, not for
 * threads: what a thread that is late or lost its processor has not begun, the others do.
 *
 * Why nobody does an item twice or reads a job that is over: a job is published to a slot once, under a
 * number of its own, and from then on its range only shrinks, so a word that was seen cannot come back,
 * and a compare-and-swap that succeeds takes exactly the unit it names. (Numbers repeat after 2^48
 * jobs: a thread would have to stand still between load and swap through a year of empty ones.) A
 * unit taken but not yet reported in `finished` keeps its job from being done, and only then are fn,
 * job and n_items overwritten. Hence a thread that reads them after it saw a number, and then takes a
 * unit of that number, has read those of that job.
 *
 * A thread with nothing to do watches its own slot, spinning for SPIN_SECONDS, which bridges the gaps
 * between the jobs of a token, then sleeps.
 */
#if !defined(_WIN32) && !defined(_GNU_SOURCE)
#define _GNU_SOURCE /* sched_getaffinity, sched_getcpu, clock_gettime */
#endif

#include "threads.h"

#include <stdatomic.h>
#include <stdlib.h>

#if defined(_WIN32)
#define WIN32_LEAN_AND_MEAN
#include <windows.h>
#else
#include <pthread.h>
#include <sched.h>
#include <unistd.h>
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

static void os_yield(void) { SwitchToThread(); }
static int32_t os_processor(void) { return (int32_t)GetCurrentProcessorNumber(); }

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

static void os_yield(void) { sched_yield(); }

#if defined(__linux__)
/* The number of the processor this runs on; -2 where the system does not tell. */
static int32_t os_processor(void) { return (int32_t)sched_getcpu(); }

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
static int32_t os_processor(void) { return -2; }
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

/* ---- the pool --------------------------------------------------------------- */

#define SPIN_SECONDS 20e-6
#define LOOKS_PER_CLOCK 64 /* reading the clock may be a system call */
#define MAX_YIELDS 8        /* then it sleeps: the system may wake it on a free processor */

/* Two cache lines of 64 bytes, because processors fetch the neighbour of a line too; one of Apple's. */
#define LINE 128

#define MAX_UNITS 255
_Static_assert(MAX_UNITS * LN_MAX_THREADS <= 0xFFFF, "the units one thread may finish fit in 16 bits");

/* What one thread and the others tell each other. Its own thread and the thieves write `left`, its own thread
 * `finished` and `processor`, the caller the rest. All this lies in 64 bytes: one cache miss brings a job. */
typedef struct slot {
    _Alignas(LINE) _Atomic uint64_t left; /* number of the job << 16 | first unit left << 8 | end */
    _Atomic uint64_t finished;            /* number of the job << 16 | units of any share this thread did */
    _Atomic(ln_item_fn *) fn;             /* NULL: no more jobs will come */
    _Atomic(const void *) job;
    _Atomic int32_t n_items;
    _Atomic int32_t caller_processor; /* on which the caller published */
    _Atomic int32_t processor;        /* on which its own thread took up its last job */
    int32_t index;
    ln_threads *pool;
    os_thread thread;
    uint64_t seen; /* number of the last job; its own thread's alone */
} slot;

struct ln_threads {
    void *block; /* what to free */
    int32_t n_threads;
    int32_t n_started;
    int spins; /* a thread that waits spins first: there is a processor for each */

    os_mutex mutex;
    os_condition work;
    os_condition finished;
    _Atomic int asleep;       /* somebody waits, or is about to, on work */
    _Atomic int caller_waits; /* the caller waits, or is about to, on finished */

    _Alignas(LINE) uint64_t number; /* of the current job; this and the next are the caller's alone */
    int32_t n_units;                /* of the current job */

    slot slots[]; /* [n_threads]; 0 is the caller's */
};

/* How n items are cut: thread i has the `share` items (one more if i < longer) after those of i - 1. */
typedef struct cut {
    int32_t share;
    int32_t longer;
    int32_t unit; /* items */
} cut;

static cut cut_of(int32_t n_items, int32_t n_threads) {
    cut c = {.share = n_items / n_threads, .longer = n_items % n_threads};
    c.unit = (c.share + (c.longer != 0)) / MAX_UNITS + 1;
    return c;
}

static int32_t items_of(cut c, int32_t thread) {
    return c.share + (thread < c.longer);
}

static int32_t begin_of(cut c, int32_t thread) {
    return thread * c.share + (thread < c.longer ? thread : c.longer);
}

static int32_t units_of(cut c, int32_t thread) {
    return (items_of(c, thread) + c.unit - 1) / c.unit;
}

static uint64_t number_of(uint64_t word) {
    return word >> 16;
}

/* Takes the first or the last unit left of a share, if it is still of this job. */
static int take(_Atomic uint64_t *left, uint64_t number, int last, int32_t *unit) {
    uint64_t word = atomic_load_explicit(left, memory_order_acquire);
    for (;;) {
        const int32_t begin = (int32_t)(word >> 8 & 0xFF);
        const int32_t end = (int32_t)(word & 0xFF);
        if (number_of(word) != number || begin == end) {
            return 0;
        }
        const uint64_t rest = last ? word - 1 : word + (1 << 8);
        if (atomic_compare_exchange_weak_explicit(left, &word, rest, memory_order_acq_rel, memory_order_acquire)) {
            *unit = last ? end - 1 : begin;
            return 1;
        }
    }
}

/* A job as a thread works on it. */
typedef struct task {
    slot *self;
    uint64_t number;
    ln_item_fn *fn;
    const void *job;
    cut cut;
    int32_t n_done; /* units */
} task;

static task task_of(slot *self, uint64_t number) {
    const int32_t n_items = atomic_load_explicit(&self->n_items, memory_order_relaxed);
    return (task){
        .self = self,
        .number = number,
        .fn = atomic_load_explicit(&self->fn, memory_order_relaxed),
        .job = atomic_load_explicit(&self->job, memory_order_relaxed),
        .cut = cut_of(n_items, self->pool->n_threads),
    };
}

/* Does a unit taken from the share of owner. */
static void do_unit(task *t, int32_t owner, int32_t unit) {
    const int32_t first = begin_of(t->cut, owner) + unit * t->cut.unit;
    const int32_t left = items_of(t->cut, owner) - unit * t->cut.unit;
    const int32_t n = left < t->cut.unit ? left : t->cut.unit;
    for (int32_t i = 0; i < n; i++) {
        t->fn(t->job, first + i, t->self->index);
    }
    t->n_done++;
    atomic_store_explicit(&t->self->finished, t->number << 16 | (uint64_t)t->n_done, memory_order_release);
}

/* Does units until nobody has any left, the thread's own first. */
static void do_units(task *t) {
    const int32_t n_threads = t->self->pool->n_threads;
    for (int32_t i = 0; i < n_threads; i++) {
        const int32_t owner = t->self->index + i < n_threads ? t->self->index + i : t->self->index + i - n_threads;
        int32_t unit;
        while (take(&t->self->pool->slots[owner].left, t->number, i > 0, &unit)) {
            do_unit(t, owner, unit);
        }
    }
}

/* ---- waiting ---------------------------------------------------------------- */

/* What a thread waits for, and how it is woken. */
typedef struct waiting {
    int (*is_met)(const void *argument);
    int (*is_in_the_way)(const void *argument); /* this thread has the processor of one it waits for */
    const void *argument;
    _Atomic int *flag; /* raised by who sleeps */
    os_condition *condition;
} waiting;

static int has_news(const void *argument) {
    const slot *self = argument;
    return number_of(atomic_load_explicit(&self->left, memory_order_acquire)) != self->seen;
}

static int has_callers_processor(const void *argument) {
    const slot *self = argument;
    return os_processor() == atomic_load_explicit(&self->caller_processor, memory_order_relaxed);
}

static waiting for_work(slot *self) {
    return (waiting){has_news, has_callers_processor, self, &self->pool->asleep, &self->pool->work};
}

static int is_done(const void *argument) {
    const ln_threads *pool = argument;
    int32_t n_done = 0;
    for (int32_t i = 0; i < pool->n_threads; i++) {
        const uint64_t finished = atomic_load_explicit(&pool->slots[i].finished, memory_order_acquire);
        n_done += number_of(finished) == pool->number ? (int32_t)(finished & 0xFFFF) : 0;
    }
    return n_done == pool->n_units;
}

static int has_workers_processor(const void *argument) {
    const ln_threads *pool = argument;
    const int32_t processor = os_processor();
    for (int32_t i = 1; i < pool->n_threads; i++) {
        if (atomic_load_explicit(&pool->slots[i].processor, memory_order_relaxed) == processor) {
            return 1;
        }
    }
    return 0;
}

static waiting for_the_rest(ln_threads *pool) {
    return (waiting){is_done, has_workers_processor, pool, &pool->caller_waits, &pool->finished};
}

/* Looks for SPIN_SECONDS whether a wait is over. The system may run two threads of the pool on one
 * processor for long, when others are busy with strangers; there, spinning only delays what is waited for. */
static int spin(const ln_threads *pool, const waiting *w) {
    if (!pool->spins) {
        return w->is_met(w->argument);
    }
    double end = 0; /* what is met at once should not wait for the clock */
    for (int yields = 0; yields < MAX_YIELDS;) {
        for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
            if (w->is_met(w->argument)) {
                return 1;
            }
            cpu_relax();
        }
        if (w->is_in_the_way(w->argument)) {
            os_yield();
            yields++;
            end = 0;
            continue;
        }
        const double now = ln_seconds();
        if (end == 0) {
            end = now + SPIN_SECONDS;
        } else if (now > end) {
            break;
        }
    }
    return 0;
}

/* Who goes to sleep raises a flag and then looks once more at what it waits for; who brings that writes it
 * and then looks at the flag. With a fence between the two steps on either side, at least one sees the
 * other. Flags are raised, and sleep begins, under the mutex; one may stay up with nobody asleep. */
static void wait_for(ln_threads *pool, waiting w) {
    if (spin(pool, &w)) {
        return;
    }
    os_lock(&pool->mutex);
    for (;;) {
        atomic_store_explicit(w.flag, 1, memory_order_relaxed);
        atomic_thread_fence(memory_order_seq_cst);
        if (w.is_met(w.argument)) {
            break;
        }
        os_wait(w.condition, &pool->mutex);
    }
    os_unlock(&pool->mutex);
}

static void wake(ln_threads *pool, waiting w) {
    if (atomic_load_explicit(w.flag, memory_order_relaxed)) {
        os_lock(&pool->mutex);
        atomic_store_explicit(w.flag, 0, memory_order_relaxed); /* once per sleep: waking takes a while */
        os_wake_all(w.condition);
        os_unlock(&pool->mutex);
    }
}

OS_THREAD_FN(worker_main, argument) {
    slot *self = argument;
    ln_threads *pool = self->pool;
    for (;;) {
        wait_for(pool, for_work(self));
        atomic_store_explicit(&self->processor, os_processor(), memory_order_relaxed);
        self->seen = number_of(atomic_load_explicit(&self->left, memory_order_acquire));
        task t = task_of(self, self->seen);
        if (t.fn == NULL) {
            return 0;
        }
        do_units(&t);
        if (t.n_done > 0) {
            atomic_thread_fence(memory_order_seq_cst);
            wake(pool, for_the_rest(pool));
        }
    }
}

/* ---- running a job ------------------------------------------------------------ */

/* Puts a job into every slot, its first unit taken by the caller: that one it begins at once, while the other
 * threads' lines are still on their way to it. */
static void publish(ln_threads *pool, int32_t n_items, ln_item_fn *fn, const void *job) {
    const cut c = cut_of(n_items, pool->n_threads);
    pool->number = (pool->number + 1) & (UINT64_MAX >> 16);
    pool->n_units = 0;
    const int32_t processor = os_processor();
    for (int32_t i = pool->n_threads - 1; i >= 0; i--) {
        const int32_t units = units_of(c, i);
        const uint64_t first = i == 0 && units > 0;
        slot *s = &pool->slots[i];
        pool->n_units += units;
        atomic_store_explicit(&s->fn, fn, memory_order_relaxed);
        atomic_store_explicit(&s->job, job, memory_order_relaxed);
        atomic_store_explicit(&s->n_items, n_items, memory_order_relaxed);
        atomic_store_explicit(&s->caller_processor, processor, memory_order_relaxed);
        atomic_store_explicit(&s->left, pool->number << 16 | first << 8 | (uint64_t)units, memory_order_release);
    }
}

void ln_threads_run(ln_threads *pool, int32_t n_items, ln_item_fn *fn, const void *job) {
    if (n_items <= 1 || pool->n_threads == 1) {
        for (int32_t i = 0; i < n_items; i++) {
            fn(job, i, 0);
        }
        return;
    }
    publish(pool, n_items, fn, job);
    wake(pool, for_work(&pool->slots[0])); /* without the fence: that waits for those lines */
    task t = task_of(&pool->slots[0], pool->number);
    do_unit(&t, 0, 0);
    atomic_thread_fence(memory_order_seq_cst); /* who fell asleep in between is woken one unit late */
    wake(pool, for_work(&pool->slots[0]));
    do_units(&t);
    wait_for(pool, for_the_rest(pool));
}

int32_t ln_threads_count(const ln_threads *pool) {
    return pool->n_threads;
}

/* ---- opening and closing ------------------------------------------------------ */

void ln_threads_close(ln_threads *pool) {
    if (pool == NULL) {
        return;
    }
    publish(pool, 0, NULL, NULL);
    atomic_thread_fence(memory_order_seq_cst);
    wake(pool, for_work(&pool->slots[0]));
    for (int32_t i = 1; i <= pool->n_started; i++) {
        os_thread_join(pool->slots[i].thread);
    }
    os_release(&pool->mutex, &pool->work, &pool->finished);
    free(pool->block);
}

ln_status ln_threads_open(int32_t n_threads, ln_threads **out, ln_error *err) {
    *out = NULL;
    if (n_threads < 0 || n_threads > LN_MAX_THREADS) {
        return ln_fail(err, LN_BAD_ARGUMENT, "n_threads is %d; give 1 to %d, or 0 for one per processor",
                       (int)n_threads, LN_MAX_THREADS);
    }
    const int32_t processors = os_processors();
    if (n_threads == 0) {
        n_threads = processors < 1 ? 1 : processors > LN_MAX_THREADS ? LN_MAX_THREADS : processors;
    }
    const size_t size = sizeof(ln_threads) + (size_t)n_threads * sizeof(slot);
    char *block = ln_alloc(1, size + LINE, "the thread pool", err);
    if (block == NULL) {
        return LN_NO_MEMORY;
    }
    ln_threads *pool = (ln_threads *)(void *)(block + (LINE - (uintptr_t)block % LINE));
    pool->block = block;
    pool->n_threads = n_threads;
    pool->spins = processors < 1 || n_threads <= processors;
    os_init(&pool->mutex, &pool->work, &pool->finished);
    for (int32_t i = 0; i < n_threads; i++) {
        pool->slots[i].pool = pool;
        pool->slots[i].index = i;
        atomic_init(&pool->slots[i].processor, -1);
        atomic_init(&pool->slots[i].caller_processor, -1);
    }
    for (int32_t i = 1; i < n_threads; i++) {
        if (!os_thread_start(&pool->slots[i].thread, worker_main, &pool->slots[i])) {
            ln_threads_close(pool);
            return ln_fail(err, LN_NO_MEMORY, "the system gave %d of %d threads; ask for fewer", (int)i,
                           (int)n_threads);
        }
        pool->n_started++;
    }
    *out = pool;
    return LN_OK;
}
