/* bench.h - what both sides of a benchmark share: clock, CPU time, memory, statistics, small I/O.
 *
 * Leans on POSIX and Linux only. Included by reference.c (raw sockets, memcpy) and driver.c (the
 * engine), so that both are measured with the same clock, the same memory and the same arithmetic.
 * Must never know of TENT.
 */
#ifndef TENT_BENCH_H
#define TENT_BENCH_H

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BENCH_SAMPLES_MAX \
    2000000u /* latencies kept of one measurement; later ones are counted, not kept */
/* Batches from here on are their own warm-up: one of them takes as long as a short measurement. */
#define BENCH_BATCH_SIZE_LARGE (256u << 20)
#define BENCH_LINE_MAX 512

static inline uint64_t bench_now_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* User and system time of this process, all threads. */
static inline uint64_t bench_cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* CPU time of the calling thread: what a call costs, also where others take the core away
 * meanwhile. */
static inline uint64_t bench_thread_cpu_ns(void) {
    struct timespec t;
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

__attribute__((format(printf, 1, 2), noreturn)) static inline void bench_die(const char *format,
                                                                             ...) {
    va_list args;
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fputc('\n', stderr);
    fflush(stderr);
    _exit(1);
}

/* Zeroed memory whose untouched pages cost nothing. Guard pages keep the kernel from merging it
 * with a neighbour, so that bench_resident can leave it out. */
static inline void *bench_map(uint64_t size) {
    uint64_t whole = (size + 4095u) / 4096u * 4096u;
    uint8_t *p =
        mmap(NULL, whole + 8192u, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED || mprotect(p + 4096, whole, PROT_READ | PROT_WRITE) != 0) {
        bench_die("%llu bytes of memory: %s", (unsigned long long)size, strerror(errno));
    }
    return p + 4096;
}

/* Writes to each page, so that no row pays for page faults and no source is the shared zero page.
 */
static inline void bench_touch(uint8_t *arena, uint64_t size) {
    for (uint64_t i = 0; i < size; i += 4096) {
        arena[i] = (uint8_t)(arena[i] + 1u);
    }
}

typedef struct bench_samples {
    uint64_t *values;
    uint64_t count;
} bench_samples;

static inline void bench_samples_init(bench_samples *s) {
    s->values = bench_map(BENCH_SAMPLES_MAX * sizeof(uint64_t));
    s->count = 0;
}

static inline void bench_samples_add(bench_samples *s, uint64_t value) {
    if (s->count < BENCH_SAMPLES_MAX) {
        s->values[s->count++] = value;
    }
}

static inline int bench_compare(const void *a, const void *b) {
    uint64_t x = *(const uint64_t *)a;
    uint64_t y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

/* Sorts; nearest-rank percentile, per_mille of 500 is the median. */
static inline uint64_t bench_percentile(bench_samples *s, uint32_t per_mille) {
    if (s->count == 0) {
        return 0;
    }
    qsort(s->values, s->count, sizeof(uint64_t), bench_compare);
    uint64_t rank = (s->count * per_mille + 999u) / 1000u;
    return s->values[rank == 0 ? 0 : rank - 1];
}

/* One line of JSON: what every measurement answers. Reorders the samples. */
static inline void bench_report(bench_samples *s, uint64_t bytes, uint64_t batches,
                                uint64_t elapsed_ns, uint64_t cpu_ns) {
    printf(
        "{\"bytes\": %llu, \"batches\": %llu, \"elapsed_ns\": %llu, \"cpu_ns\": %llu, \"p50_ns\": "
        "%llu, "
        "\"p99_ns\": %llu}\n",
        (unsigned long long)bytes, (unsigned long long)batches, (unsigned long long)elapsed_ns,
        (unsigned long long)cpu_ns, (unsigned long long)bench_percentile(s, 500),
        (unsigned long long)bench_percentile(s, 990));
}

/* Resident bytes of this process outside the benchmark's own mappings, and outside all of at least
 * mapping_max: a peer's arena that a transport has mapped here is no cost of the engine. */
static inline uint64_t bench_resident(void *const *own, uint32_t own_count, uint64_t mapping_max) {
    FILE *f = fopen("/proc/self/smaps", "r");
    if (f == NULL) {
        bench_die("/proc/self/smaps: %s", strerror(errno));
    }
    char line[BENCH_LINE_MAX];
    uint64_t total = 0;
    int counted = 1;
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long long begin, end, kib;
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2) {
            counted = end - begin < mapping_max;
            for (uint32_t i = 0; i < own_count; i++) {
                uintptr_t p = (uintptr_t)own[i];
                counted &= p < begin || p >= end;
            }
        } else if (counted && sscanf(line, "Rss: %llu kB", &kib) == 1) {
            total += kib * 1024u;
        }
    }
    fclose(f);
    return total;
}

/* The pages that most of the mapping around an address has, in KiB: 4, or 2048 where the kernel
 * joined small ones, or what reserved huge pages have. */
static inline uint64_t bench_page_kib(const void *address) {
    static const char *const joined[] = {"AnonHugePages", "ShmemPmdMapped", "FilePmdMapped"};
    FILE *f = fopen("/proc/self/smaps", "r");
    if (f == NULL) {
        bench_die("/proc/self/smaps: %s", strerror(errno));
    }
    char line[BENCH_LINE_MAX];
    unsigned long long resident = 0, huge = 0, page = 4;
    int here = 0;
    while (fgets(line, sizeof(line), f) != NULL) {
        unsigned long long begin, end, kib;
        if (sscanf(line, "%llx-%llx ", &begin, &end) == 2) {
            here = (uintptr_t)address >= begin && (uintptr_t)address < end;
        } else if (here && sscanf(line, "KernelPageSize: %llu kB", &kib) == 1) {
            page = kib;
        } else if (here && sscanf(line, "Rss: %llu kB", &kib) == 1) {
            resident = kib;
        } else if (here) {
            for (uint32_t i = 0; i < sizeof(joined) / sizeof(joined[0]); i++) {
                size_t size = strlen(joined[i]);
                if (strncmp(line, joined[i], size) == 0 &&
                    sscanf(line + size, ": %llu kB", &kib) == 1) {
                    huge += kib;
                }
            }
        }
    }
    fclose(f);
    return page > 4 ? page : huge * 2 > resident ? 2048 : 4;
}

static inline void bench_write_all(int fd, const void *bytes, size_t size) {
    const uint8_t *p = bytes;
    while (size > 0) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n <= 0) {
            bench_die("writing to the other process: %s", strerror(errno));
        }
        p += n;
        size -= (size_t)n;
    }
}

/* Returns 0 when the other side closed before the first byte, 1 when all was read. */
static inline int bench_read_all(int fd, void *bytes, size_t size) {
    uint8_t *p = bytes;
    size_t got = 0;
    while (got < size) {
        ssize_t n = read(fd, p + got, size - got);
        if (n < 0 && errno == EINTR) {
            continue;
        }
        if (n == 0 && got == 0) {
            return 0;
        }
        if (n <= 0) {
            bench_die("reading from the other process: %s", n < 0 ? strerror(errno) : "it ended");
        }
        got += (size_t)n;
    }
    return 1;
}

/* Forks the target process. Returns 1 in the initiator, 0 in the target; *control is each one's end
 * of the line between them. The target dies with the initiator, so that a killed benchmark leaves
 * nothing behind. */
static inline int bench_fork(int *control) {
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) != 0) {
        bench_die("socketpair: %s", strerror(errno));
    }
    pid_t parent = getpid();
    pid_t child = fork();
    if (child < 0) {
        bench_die("fork: %s", strerror(errno));
    }
    if (child == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent) {
            _exit(1);
        }
        close(ends[0]);
        close(STDIN_FILENO);
        *control = ends[1];
        return 0;
    }
    close(ends[1]);
    *control = ends[0];
    return 1;
}

#endif
