/* copies.c - what the machine can do without TENT between two processes that share it: memcpy
 * between shared mappings, cross-memory attach, two copies through shared memory.
 *
 * Commands come as lines on stdin, one JSON object per command goes to stdout. Leans on work.h (the
 * same copies as driver.c makes, and the same stamps), crew.h and pipe.h. Must never include TENT.
 *
 *   copies mapped|attach|pipe ARENA_BYTES PAGE_KIB
 *     stream write|read BLOCK BATCH FOOTPRINT DURATION_NS FORM
 *     cache write|read DURATION_NS FORM
 *     pages
 *
 * FORM, of which the harness takes the fastest:
 *   - mapped: "1" or "2" threads that call memcpy on two memfds; with "-streaming" appended,
 *     non-temporal stores instead, where the processor has AVX2
 *   - attach: "1" or "2" threads that call process_vm_readv or writev on the other process, a call
 *     per block; with "-vector" appended up to 64 blocks per call
 *   - pipe: "BYTESxCOUNT", size and number of chunks; one thread in each process
 * PAGE_KIB: pages of the memfds, 4 or 2048; other memory is private, as the kernel gives it.
 */
#include "crew.h"
#include "pipe.h"

#include <sys/uio.h>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

#define BATCH_MAX 4096u
#define VECTOR_MAX 64u

enum mode { MODE_MAPPED, MODE_ATTACH, MODE_PIPE };
enum { ORDER_CPU = 1, ORDER_STAMPS = 2, ORDER_PIPE = 3 };

/* Initiator to target; each is answered with a number. */
typedef struct order {
    uint64_t what;
    uint64_t seed;
    uint64_t stamps;
    uint64_t chunk_size;
    uint64_t chunk_count;
    work w;
} order;

typedef struct pair {
    enum mode mode;
    int control;
    uint8_t *arena;  /* local: of this process */
    uint8_t *remote; /* mapped: the other arena, here; attach: where it is in the target */
    uint64_t arena_size;
    uint64_t touched;
    uint64_t seed;
    pid_t target;
    uint32_t vector; /* blocks per call */
    int streaming;
    pipe_shared *shared;
    bench_samples samples;
} pair;

/* ---- copies ---- */

#if defined(__x86_64__)
/* For addresses and sizes of whole cache lines; anything else goes to memcpy. */
__attribute__((target("avx2"))) static void copy_streaming(void *to, const void *from,
                                                           size_t size) {
    if (((uintptr_t)to | (uintptr_t)from | size) % 64 != 0) {
        memcpy(to, from, size);
        return;
    }
    __m256i *out = to;
    const __m256i *in = from;
    for (size_t i = 0; i < size / 32; i += 2) {
        __m256i a = _mm256_load_si256(in + i);
        __m256i b = _mm256_load_si256(in + i + 1);
        _mm256_stream_si256(out + i, a);
        _mm256_stream_si256(out + i + 1, b);
    }
    _mm_sfence();
}
static int streaming_exists(void) {
    return __builtin_cpu_supports("avx2") != 0;
}
#else
static void copy_streaming(void *to, const void *from, size_t size) {
    memcpy(to, from, size);
}
static int streaming_exists(void) {
    return 0;
}
#endif

static void mapped_copy(void *context, const work *w, uint64_t first, uint64_t count, uint32_t part,
                        uint32_t parts) {
    const pair *p = context;
    for (uint64_t i = 0; i < count; i++) {
        work_copy c = crew_part(work_copy_at(w, first + i), part, parts);
        uint8_t *to = w->op == WORK_WRITE ? p->remote + c.remote : p->arena + c.local;
        uint8_t *from = w->op == WORK_WRITE ? p->arena + c.local : p->remote + c.remote;
        if (p->streaming) {
            copy_streaming(to, from, c.length);
        } else {
            memcpy(to, from, c.length);
        }
    }
    __asm__ volatile("" : : "r"(p->remote) : "memory");
}

static void attach_copy(void *context, const work *w, uint64_t first, uint64_t count, uint32_t part,
                        uint32_t parts) {
    const pair *p = context;
    struct iovec own[VECTOR_MAX];
    struct iovec theirs[VECTOR_MAX];
    for (uint64_t at = 0; at < count;) {
        uint64_t n = count - at < p->vector ? count - at : p->vector;
        ssize_t size = 0;
        for (uint64_t i = 0; i < n; i++) {
            work_copy c = crew_part(work_copy_at(w, first + at + i), part, parts);
            own[i] = (struct iovec){p->arena + c.local, c.length};
            theirs[i] = (struct iovec){p->remote + c.remote, c.length};
            size += (ssize_t)c.length;
        }
        ssize_t got = w->op == WORK_WRITE ? process_vm_writev(p->target, own, n, theirs, n, 0)
                                          : process_vm_readv(p->target, own, n, theirs, n, 0);
        if (got != size) {
            bench_die("cross-memory attach moved %lld of %lld bytes: %s", (long long)got,
                      (long long)size, got < 0 ? strerror(errno) : "the other memory ended");
        }
        at += n;
    }
}

/* ---- the target ---- */

/* So that no row pays for page faults. */
static void touch(pair *p, uint64_t size) {
    if (p->touched < size) {
        bench_touch(p->arena, size);
        if (p->mode == MODE_MAPPED) {
            bench_touch(p->remote, size);
        }
        p->touched = size;
    }
}

__attribute__((noreturn)) static void target_run(pair *p) {
    p->arena = bench_map(p->arena_size);
    uint64_t self[2] = {(uint64_t)(uintptr_t)p->arena, (uint64_t)getpid()};
    bench_write_all(p->control, self, sizeof(self));
    order o;
    while (bench_read_all(p->control, &o, sizeof(o))) {
        uint64_t answer = 0;
        if (o.what == ORDER_CPU) {
            answer = bench_cpu_ns();
        } else if (o.what == ORDER_STAMPS) {
            touch(p, o.w.footprint);
            answer = stamps_do(p->arena, 1, &o.w, o.seed, (uint32_t)o.stamps);
        } else {
            pipe_end end = {.shared = p->shared,
                            .arena = p->arena,
                            .chunk_size = o.chunk_size,
                            .chunk_count = o.chunk_count};
            pipe_serve(&end, &o.w);
        }
        bench_write_all(p->control, &answer, sizeof(answer));
    }
    _exit(0);
}

static void tell(const pair *p, const order *o) {
    bench_write_all(p->control, o, sizeof(*o));
}

static uint64_t answer_of(const pair *p) {
    uint64_t answer;
    if (!bench_read_all(p->control, &answer, sizeof(answer))) {
        bench_die("the target process ended");
    }
    return answer;
}

/* ---- the initiator ---- */

static uint64_t stamps_of(pair *p, int remote, const work *w, uint32_t what) {
    if (remote && p->mode != MODE_MAPPED) {
        order o = {.what = ORDER_STAMPS, .seed = p->seed, .stamps = what, .w = *w};
        tell(p, &o);
        return answer_of(p);
    }
    touch(p, w->footprint);
    return stamps_do(remote ? p->remote : p->arena, remote, w, p->seed, what);
}

static uint64_t cpu_of_both(const pair *p) {
    uint64_t sum = bench_cpu_ns();
    if (p->mode != MODE_MAPPED) {
        order o = {.what = ORDER_CPU};
        tell(p, &o);
        sum += answer_of(p);
    }
    return sum;
}

/* How a row is done by hand. */
typedef struct form {
    uint32_t threads;
    uint64_t chunk_size;
    uint64_t chunk_count;
} form;

static form form_read(pair *p, const char *word) {
    form f = {.threads = 1};
    unsigned long long size = 0, count = 0;
    if (p->mode == MODE_PIPE) {
        if (sscanf(word, "%llux%llu", &size, &count) != 2 || size == 0 || count == 0 ||
            size * count > PIPE_MEMORY_SIZE) {
            bench_die("'%s' is no BYTESxCOUNT of at most %u bytes", word, PIPE_MEMORY_SIZE);
        }
        f.chunk_size = size;
        f.chunk_count = count;
        return f;
    }
    const char *more = strchr(word, '-');
    f.threads = (uint32_t)strtoul(word, NULL, 10);
    p->vector = more != NULL && strcmp(more, "-vector") == 0 ? VECTOR_MAX : 1;
    p->streaming = more != NULL && strcmp(more, "-streaming") == 0;
    if (f.threads < 1 || f.threads > 2 || (p->streaming && !streaming_exists())) {
        bench_die("'%s': 1 or 2 threads, and -streaming only where there is AVX2", word);
    }
    return f;
}

/* Batch after batch until the time is over, at least one. Returns how many. */
static uint64_t phase(pair *p, const form *f, work *w, uint64_t duration_ns, uint64_t *elapsed_ns) {
    static crew c;
    pipe_end end = {.shared = p->shared,
                    .arena = p->arena,
                    .chunk_size = f->chunk_size,
                    .chunk_count = f->chunk_count};
    if (p->mode == MODE_PIPE) {
        order o = {.what = ORDER_PIPE,
                   .chunk_size = f->chunk_size,
                   .chunk_count = f->chunk_count,
                   .w = *w};
        pipe_begin(&end, 1);
        tell(p, &o);
    } else {
        crew_begin(&c, f->threads, p->mode == MODE_MAPPED ? mapped_copy : attach_copy, p);
    }
    p->samples.count = 0;
    uint64_t batches = 0;
    uint64_t begin = bench_now_ns();
    uint64_t then = begin;
    do {
        if (p->mode == MODE_PIPE) {
            pipe_batch(&end, w);
        } else {
            crew_batch(&c, w);
        }
        uint64_t now = bench_now_ns();
        bench_samples_add(&p->samples, now - then);
        then = now;
        batches++;
    } while (then - begin < duration_ns);
    *elapsed_ns = then - begin;
    if (p->mode == MODE_PIPE) {
        atomic_store(&p->shared->over, 1);
        answer_of(p);
    } else {
        crew_end(&c);
    }
    return batches;
}

static void stamps_begin(pair *p, const work *w) {
    p->seed++;
    for (int remote = 0; remote < 2; remote++) {
        stamps_of(p, remote, w, stamps_before(w, remote));
    }
}

static void measure(pair *p, const char *word, work w, uint64_t duration_ns) {
    form f = form_read(p, word);
    uint64_t elapsed_ns;
    work_check(&w, BATCH_MAX, p->arena_size);
    stamps_begin(p, &w);
    if (!work_large(&w)) {
        phase(p, &f, &w, duration_ns / 10 + 1, &elapsed_ns);
        w.next = 0;
        stamps_begin(p, &w); /* what the warm-up has moved is no proof */
    }
    uint64_t cpu = cpu_of_both(p);
    uint64_t batches = phase(p, &f, &w, duration_ns, &elapsed_ns);
    cpu = cpu_of_both(p) - cpu;
    stamps_judge(&w, stamps_of(p, w.op == WORK_WRITE, &w, STAMP_CHECK));
    bench_report(&p->samples, work_bytes(&w, batches), batches, elapsed_ns, cpu);
}

static void command(pair *p, const char *line) {
    char op[16] = "";
    char word[32] = "";
    unsigned long long block = 0, batch = 0, footprint = 0, ns = 0;
    if (sscanf(line, "stream %15s %llu %llu %llu %llu %31s", op, &block, &batch, &footprint, &ns,
               word) == 6) {
        work w = {.op = work_op(op), .block = block, .batch = batch, .footprint = footprint};
        measure(p, word, w, ns);
    } else if (sscanf(line, "cache %15s %llu %31s", op, &ns, word) == 3) {
        measure(p, word, work_of_cache(work_op(op)), ns);
    } else if (strncmp(line, "pages", 5) == 0) {
        printf("{\"kib\": %llu}\n", (unsigned long long)bench_page_kib(p->arena));
    } else {
        bench_die("unknown command: %s", line);
    }
    fflush(stdout);
}

/* A memfd mapped here, of pages joined to large ones when asked for. */
static uint8_t *memfd_map(uint64_t size, uint64_t page_kib) {
    uint64_t large = 2u << 20;
    size = (size + large - 1) / large * large;
    int fd = memfd_create("bench", MFD_CLOEXEC);
    /* One large page more of addresses, so that the mapping can begin at a multiple of it. */
    uint8_t *room = mmap(NULL, size + large, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (fd < 0 || ftruncate(fd, (off_t)size) != 0 || room == MAP_FAILED) {
        bench_die("a memfd of %llu bytes: %s", (unsigned long long)size, strerror(errno));
    }
    room += (large - (uintptr_t)room % large) % large;
    uint8_t *p = mmap(room, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0);
    if (p == MAP_FAILED) {
        bench_die("mapping a memfd of %llu bytes: %s", (unsigned long long)size, strerror(errno));
    }
    if (page_kib > 4) {
        /* Where the kernel does not join them by advice alone, it does when told to; `pages` tells
         * what came of it. */
        madvise(p, size, MADV_HUGEPAGE);
        bench_touch(p, size);
        madvise(p, size, MADV_COLLAPSE);
    }
    close(fd);
    return p;
}

static void open_pair(pair *p, uint64_t page_kib) {
    bench_samples_init(&p->samples);
    if (p->mode == MODE_MAPPED) {
        p->arena = memfd_map(p->arena_size, page_kib);
        p->remote = memfd_map(p->arena_size, page_kib);
        return;
    }
    p->shared =
        mmap(NULL, sizeof(*p->shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (p->shared == MAP_FAILED) {
        bench_die("shared memory: %s", strerror(errno));
    }
    bench_touch(p->shared->memory, PIPE_MEMORY_SIZE);
    if (!bench_fork(&p->control)) {
        target_run(p);
    }
    p->arena = bench_map(p->arena_size);
    uint64_t target[2];
    if (!bench_read_all(p->control, target, sizeof(target))) {
        bench_die("the target process ended");
    }
    p->remote = (uint8_t *)(uintptr_t)target[0]; /* an address there, not here */
    p->target = (pid_t)target[1];
}

int main(int argc, char **argv) {
    static pair p;
    static const char *const modes[] = {"mapped", "attach", "pipe"};
    uint32_t mode = 0;
    while (argc == 4 && mode < 3 && strcmp(argv[1], modes[mode]) != 0) {
        mode++;
    }
    if (argc != 4 || mode == 3) {
        bench_die("usage: copies mapped|attach|pipe ARENA_BYTES PAGE_KIB");
    }
    p.mode = (enum mode)mode;
    p.arena_size = strtoull(argv[2], NULL, 10);
    open_pair(&p, strtoull(argv[3], NULL, 10));
    printf("{\"ready\": 1, \"streaming\": %d}\n", streaming_exists());
    fflush(stdout);
    char line[BENCH_LINE_MAX];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        command(&p, line);
    }
    return 0;
}
