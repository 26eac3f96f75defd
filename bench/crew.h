/* crew.h - a batch of copies done by one thread, or by two that claim pieces of it.
 *
 * The second thread spins while a measurement runs, so that it is there at once: what a program
 * would do that has nothing else to do. Leans on work.h and pthreads. Must never know of TENT.
 * Thread-safety: crew_batch by whoever began the crew.
 */
#ifndef TENT_BENCH_CREW_H
#define TENT_BENCH_CREW_H

#include "work.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#define PIECES_WANTED 16u          /* of a batch, for two threads */
#define PIECE_SIZE_MIN (64u << 10) /* a single block is halved from twice this on */
#define PAUSES_MAX 256u            /* some microseconds, then others may have the core */

/* How long nothing moved: spins, but on a busy machine lets others have the core. */
static inline void crew_pause(uint32_t *spins) {
    if (++*spins % PAUSES_MAX == 0) {
        sched_yield();
    } else {
#if defined(__x86_64__)
        __builtin_ia32_pause();
#endif
    }
}

/* Copies [first, first + count) of the work, of each one only part `part` of `parts`. */
typedef void (*crew_copy)(void *context, const work *w, uint64_t first, uint64_t count,
                          uint32_t part, uint32_t parts);

typedef struct crew {
    crew_copy copy;
    void *context;
    uint32_t threads;
    pthread_t helper;
    /* Of the batch under way; written before `claims` says so, stable while a claim is held. */
    work w;
    uint64_t first;
    uint64_t group; /* copies per piece */
    uint32_t parts; /* pieces per copy */
    uint32_t pieces;
    /* High half: number of the batch, so that nobody claims a piece of one that is over. Low half:
     * pieces nobody has claimed. */
    _Alignas(64) _Atomic uint64_t claims;
    _Alignas(64) _Atomic uint32_t done;
    _Alignas(64) _Atomic uint32_t over;
} crew;

static inline int crew_claim(crew *c) {
    uint64_t claims = atomic_load_explicit(&c->claims, memory_order_acquire);
    do {
        if ((uint32_t)claims == 0) {
            return 0;
        }
    } while (!atomic_compare_exchange_weak_explicit(&c->claims, &claims, claims - 1,
                                                    memory_order_acquire, memory_order_acquire));
    uint64_t piece = c->pieces - (uint32_t)claims;
    uint64_t begin = piece / c->parts * c->group;
    uint64_t left = c->w.batch - begin;
    c->copy(c->context, &c->w, c->first + begin, left < c->group ? left : c->group,
            (uint32_t)(piece % c->parts), c->parts);
    atomic_fetch_add_explicit(&c->done, 1, memory_order_release);
    return 1;
}

static inline void *crew_help(void *opaque) {
    crew *c = opaque;
    uint32_t spins = 0;
    while (!atomic_load_explicit(&c->over, memory_order_relaxed)) {
        if (crew_claim(c)) {
            spins = 0;
        } else {
            crew_pause(&spins);
        }
    }
    return NULL;
}

static inline void crew_begin(crew *c, uint32_t threads, crew_copy copy, void *context) {
    *c = (crew){.copy = copy, .context = context, .threads = threads};
    if (threads > 1 && pthread_create(&c->helper, NULL, crew_help, c) != 0) {
        bench_die("a second thread could not be started");
    }
}

/* The next batch of the work, from begin to end. */
static inline void crew_batch(crew *c, work *w) {
    uint64_t first = w->next;
    w->next += w->batch;
    int split = w->batch == 1 && w->block >= 2 * PIECE_SIZE_MIN;
    if (c->threads == 1 || (w->batch == 1 && !split)) {
        c->copy(c->context, w, first, w->batch, 0, 1);
        return;
    }
    c->w = *w;
    c->first = first;
    c->group = (w->batch + PIECES_WANTED - 1) / PIECES_WANTED;
    c->parts = 1;
    if (split) {
        uint64_t parts = w->block / PIECE_SIZE_MIN;
        c->parts = parts < PIECES_WANTED ? (uint32_t)parts : PIECES_WANTED;
    }
    c->pieces = (uint32_t)((w->batch + c->group - 1) / c->group) * c->parts;
    atomic_store_explicit(&c->done, 0, memory_order_relaxed);
    uint64_t round = (atomic_load_explicit(&c->claims, memory_order_relaxed) >> 32) + 1;
    atomic_store_explicit(&c->claims, round << 32 | c->pieces, memory_order_release);
    while (crew_claim(c)) {
    }
    uint32_t spins = 0;
    while (atomic_load_explicit(&c->done, memory_order_acquire) != c->pieces) {
        crew_pause(&spins);
    }
}

static inline void crew_end(crew *c) {
    atomic_store_explicit(&c->over, 1, memory_order_relaxed);
    if (c->threads > 1) {
        pthread_join(c->helper, NULL);
    }
}

/* What a part of a copy is. */
static inline work_copy crew_part(work_copy c, uint32_t part, uint32_t parts) {
    uint64_t begin = c.length * part / parts;
    uint64_t end = c.length * (part + 1) / parts;
    return (work_copy){c.local + begin, c.remote + begin, end - begin};
}

#endif
