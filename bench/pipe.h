/* pipe.h - two copies through shared memory: one process puts bytes into chunks, the other takes
 * them out, both at it at the same time.
 *
 * Leans on crew.h for its pause, and on work.h. Each counter has one writer. Must never know of
 * TENT. Thread-safety: one thread of each process.
 */
#ifndef TENT_BENCH_PIPE_H
#define TENT_BENCH_PIPE_H

#include "crew.h"

#define PIPE_MEMORY_SIZE (8u << 20) /* for the chunks */

typedef struct pipe_shared {
    _Alignas(64) _Atomic uint64_t produced; /* chunks */
    _Alignas(64) _Atomic uint64_t consumed;
    _Alignas(64) _Atomic uint64_t wanted; /* copies asked for: what a read's producer may send */
    _Alignas(64) _Atomic uint32_t over;
    _Alignas(4096) uint8_t memory[PIPE_MEMORY_SIZE];
} pipe_shared;

/* One process's view of a measurement. */
typedef struct pipe_end {
    pipe_shared *shared;
    uint8_t *arena;
    uint64_t chunk_size;
    uint64_t chunk_count;
    uint64_t chunk; /* number of the next one: produced or consumed by this end */
} pipe_end;

static inline uint8_t *pipe_chunk(const pipe_end *p) {
    return p->shared->memory + p->chunk % p->chunk_count * p->chunk_size;
}

static inline void pipe_produce(pipe_end *p, uint64_t offset, uint64_t length) {
    pipe_shared *s = p->shared;
    for (uint64_t at = 0; at < length;) {
        uint32_t spins = 0;
        while (p->chunk - atomic_load_explicit(&s->consumed, memory_order_acquire) ==
               p->chunk_count) {
            crew_pause(&spins);
        }
        uint64_t size = length - at < p->chunk_size ? length - at : p->chunk_size;
        memcpy(pipe_chunk(p), p->arena + offset + at, size);
        atomic_store_explicit(&s->produced, ++p->chunk, memory_order_release);
        at += size;
    }
}

/* 0: the measurement is over, and nothing is left to take. */
static inline int pipe_consume(pipe_end *p, uint64_t offset, uint64_t length) {
    pipe_shared *s = p->shared;
    for (uint64_t at = 0; at < length;) {
        uint32_t spins = 0;
        while (atomic_load_explicit(&s->produced, memory_order_acquire) == p->chunk) {
            if (atomic_load_explicit(&s->over, memory_order_relaxed)) {
                return 0;
            }
            crew_pause(&spins);
        }
        uint64_t size = length - at < p->chunk_size ? length - at : p->chunk_size;
        memcpy(p->arena + offset + at, pipe_chunk(p), size);
        atomic_store_explicit(&s->consumed, ++p->chunk, memory_order_release);
        at += size;
    }
    return 1;
}

/* Both ends before a measurement; the initiator's first. */
static inline void pipe_begin(pipe_end *p, int initiator) {
    p->chunk = 0;
    if (initiator) {
        atomic_store(&p->shared->produced, 0);
        atomic_store(&p->shared->consumed, 0);
        atomic_store(&p->shared->wanted, 0);
        atomic_store(&p->shared->over, 0);
    }
}

/* The initiator's next batch, from begin to end. */
static inline void pipe_batch(pipe_end *p, work *w) {
    uint64_t first = w->next;
    w->next += w->batch;
    if (w->op == WORK_READ) {
        atomic_store_explicit(&p->shared->wanted, w->next, memory_order_release);
    }
    for (uint64_t i = 0; i < w->batch; i++) {
        work_copy c = work_copy_at(w, first + i);
        if (w->op == WORK_WRITE) {
            pipe_produce(p, c.local, c.length);
        } else {
            pipe_consume(p, c.local, c.length);
        }
    }
    uint32_t spins = 0;
    while (atomic_load_explicit(&p->shared->consumed, memory_order_acquire) != p->chunk) {
        crew_pause(&spins);
    }
}

/* The target's side of a measurement, until it is over. */
static inline void pipe_serve(pipe_end *p, const work *w) {
    for (uint64_t number = w->next;; number++) {
        work_copy c = work_copy_at(w, number);
        if (w->op == WORK_WRITE) {
            if (!pipe_consume(p, c.remote, c.length)) {
                return;
            }
            continue;
        }
        uint32_t spins = 0;
        while (atomic_load_explicit(&p->shared->wanted, memory_order_acquire) <= number) {
            if (atomic_load_explicit(&p->shared->over, memory_order_relaxed)) {
                return;
            }
            crew_pause(&spins);
        }
        pipe_produce(p, c.remote, c.length);
    }
}

#endif
