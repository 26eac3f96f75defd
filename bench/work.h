/* work.h - what a batch of either side consists of, and how it is proven to have moved.
 *
 * A stream's copy i lies at i * block modulo the footprint on both sides. The cache of a long
 * prompt (61 layers of 32 blocks, each of a part of 128 KiB and one of 16 KiB) is one batch of
 * 3,904 copies, whose places are shuffled on each side on its own. Stamps are words that the source
 * carries and the destination must show. Leans on bench.h; included by both sides, so that both
 * move the same bytes between the same places. Must never know of TENT.
 */
#ifndef TENT_BENCH_WORK_H
#define TENT_BENCH_WORK_H

#include "bench.h"

enum { WORK_READ = 1, WORK_WRITE = 2 };

#define CACHE_LAYERS 61u
#define CACHE_BLOCKS 32u /* of 128 tokens: a prompt of 4,096 */
#define CACHE_PART_LARGE (128u << 10)
#define CACHE_PART_SMALL (16u << 10)
#define CACHE_PLACES (CACHE_LAYERS * CACHE_BLOCKS)
#define CACHE_COPIES (2u * CACHE_PLACES)
#define CACHE_SIZE ((uint64_t)CACHE_PLACES * (CACHE_PART_LARGE + CACHE_PART_SMALL))

#define STAMPS 3u
#define STAMPED_COPIES_MAX 8192u

typedef struct work_copy {
    uint64_t local; /* offsets in the arenas */
    uint64_t remote;
    uint64_t length;
} work_copy;

typedef struct work {
    uint64_t op;
    uint64_t block;
    uint64_t batch;
    uint64_t footprint;
    uint64_t next;  /* number of the next copy */
    uint64_t cache; /* 1: the cache instead of a stream; block, batch, footprint say its sums */
} work;

/* Fisher and Yates with a fixed generator: every process makes the same places. */
static inline void work_shuffle(uint32_t *places, uint32_t count, uint64_t seed) {
    for (uint32_t i = 0; i < count; i++) {
        places[i] = i;
    }
    for (uint32_t i = count - 1; i > 0; i--) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        uint32_t j = (uint32_t)((seed >> 33) % (i + 1));
        uint32_t other = places[j];
        places[j] = places[i];
        places[i] = other;
    }
}

/* All copies of the cache, layer by layer, block by block, the large part first. */
static inline const work_copy *work_cache(void) {
    static work_copy copies[CACHE_COPIES];
    if (copies[0].length != 0) {
        return copies;
    }
    uint32_t local[CACHE_PLACES];
    uint32_t remote[CACHE_PLACES];
    uint64_t small = (uint64_t)CACHE_PLACES * CACHE_PART_LARGE;
    work_shuffle(local, CACHE_PLACES, 1);
    work_shuffle(remote, CACHE_PLACES, 2);
    for (uint32_t i = 0; i < CACHE_PLACES; i++) {
        copies[2 * i] = (work_copy){(uint64_t)local[i] * CACHE_PART_LARGE,
                                    (uint64_t)remote[i] * CACHE_PART_LARGE, CACHE_PART_LARGE};
        copies[2 * i + 1] =
            (work_copy){small + (uint64_t)local[i] * CACHE_PART_SMALL,
                        small + (uint64_t)remote[i] * CACHE_PART_SMALL, CACHE_PART_SMALL};
    }
    return copies;
}

static inline work work_of_cache(uint64_t op) {
    return (work){.op = op,
                  .block = CACHE_SIZE / CACHE_COPIES,
                  .batch = CACHE_COPIES,
                  .footprint = CACHE_SIZE,
                  .cache = 1};
}

/* 0: no such op. */
static inline uint64_t work_op(const char *word) {
    return strcmp(word, "read") == 0 ? WORK_READ : strcmp(word, "write") == 0 ? WORK_WRITE : 0;
}

static inline void work_check(const work *w, uint64_t batch_max, uint64_t arena_size) {
    if (w->op == 0 || w->block < 64 || w->batch == 0 || w->batch > batch_max || w->footprint == 0 ||
        w->footprint > arena_size || (!w->cache && w->footprint % w->block != 0)) {
        bench_die(
            "read or write, 1..%llu blocks of at least 64 bytes per batch, in a footprint that "
            "they divide and the arena of %llu bytes holds, please",
            (unsigned long long)batch_max, (unsigned long long)arena_size);
    }
}

static inline work_copy work_copy_at(const work *w, uint64_t number) {
    if (w->cache) {
        return work_cache()[number % CACHE_COPIES];
    }
    uint64_t offset = number * w->block % w->footprint;
    return (work_copy){offset, offset, w->block};
}

static inline uint64_t work_bytes(const work *w, uint64_t batches) {
    return batches * (w->cache ? CACHE_SIZE : w->block * w->batch);
}

/* Batches that are their own warm-up. */
static inline int work_large(const work *w) {
    return w->block * w->batch >= BENCH_BATCH_SIZE_LARGE;
}

/* ---- stamps ---- */

enum { STAMP_SET = 1, STAMP_CLEAR = 2, STAMP_CHECK = 3 };

static inline uint64_t stamp_value(uint64_t seed, uint64_t number, uint32_t i) {
    uint64_t x = seed * 0x9e3779b97f4a7c15u + number * STAMPS + i + 1;
    x ^= x >> 29;
    return x * 0xbf58476d1ce4e5b9u | 1u;
}

/* How many copies of the work differ in their places. */
static inline uint64_t work_places(const work *w) {
    return w->cache ? CACHE_COPIES : w->footprint / w->block;
}

/* The first, middle and last word of each copy's place, of at most STAMPED_COPIES_MAX copies evenly
 * spread. STAMP_CHECK looks at copies below w->next only, the others have not moved. Returns how
 * many stamps are wrong. */
static inline uint64_t stamps_do(uint8_t *arena, int remote, const work *w, uint64_t seed,
                                 uint32_t what) {
    uint64_t count = work_places(w);
    uint64_t step = (count + STAMPED_COPIES_MAX - 1) / STAMPED_COPIES_MAX;
    uint64_t wrong = 0;
    if (what == STAMP_CHECK && w->next < count) {
        count = w->next;
    }
    for (uint64_t number = 0; number < count; number += step) {
        work_copy c = work_copy_at(w, number);
        uint8_t *place = arena + (remote ? c.remote : c.local);
        for (uint32_t i = 0; i < STAMPS; i++) {
            uint64_t value = stamp_value(seed, number, i);
            uint8_t *word = place + (c.length - sizeof(value)) / 2 / 8 * 8 * i;
            if (what == STAMP_CHECK) {
                wrong += memcmp(word, &value, sizeof(value)) != 0;
            } else {
                value = what == STAMP_SET ? value : 0;
                memcpy(word, &value, sizeof(value));
            }
        }
    }
    return wrong;
}

/* What each side does before a measurement. */
static inline uint32_t stamps_before(const work *w, int remote) {
    return remote == (w->op == WORK_READ) ? STAMP_SET : STAMP_CLEAR;
}

static inline void stamps_judge(const work *w, uint64_t wrong) {
    if (w->next == 0 || wrong > 0) {
        bench_die(
            "%llu stamps of %llu copies are wrong at the destination: what was reported as moved "
            "has not moved",
            (unsigned long long)wrong, (unsigned long long)w->next);
    }
}

#endif
