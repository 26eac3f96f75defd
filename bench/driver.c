/* driver.c - the engine under measurement: an initiator and a forked target, each with one engine.
 *
 * Written in C so that the numbers are the engine's and not an interpreter's. Leans on bench.h and
 * <tent/tent.h> only; knows no transport, the plan names it. Commands come as lines on stdin, one
 * JSON object per command goes to stdout.
 *
 *   driver pair PLAN_FILE ARENA_BYTES
 *     stream write|read BLOCK BATCH FOOTPRINT DURATION_NS   batches one after another, each waited
 * for rate BLOCK BATCH OUTSTANDING FOOTPRINT DURATION_NS    writes, OUTSTANDING batches at a time
 *     submit BLOCK BATCH FOOTPRINT ROUNDS                   time of tent_batch_submit_columns alone
 *     idle DURATION_NS                                      CPU time of both engines without work
 *     memory                                                resident bytes added by the engines
 *   driver open PLAN_FILE COUNT                             cold opens, each in a fresh process
 *
 * Block i lies at i * BLOCK modulo FOOTPRINT on both sides, as in reference.c. Every stream is
 * checked: the source carries fresh stamps, and what was reported as moved must show them at the
 * destination.
 */
#include "bench.h"

#include <sys/random.h>
#include <tent/tent.h>

#define BATCH_MAX 4096u
#define OUTSTANDING_MAX 64u
#define ROUNDS_MAX 4096u
#define WAIT_NS 20000000000ull
#define STAMPS 3u

enum { ASK_CPU = 1, ASK_STAMP = 2, ASK_CLEAR = 3, ASK_CHECK = 4, ASK_MEMORY = 5 };

typedef struct question {
    uint64_t what;
    uint64_t seed;
    uint64_t block;
    uint64_t count; /* blocks */
} question;

typedef struct side {
    tent_engine *engine;
    uint8_t *arena;
    uint64_t arena_size;
    uint64_t touched;
    uint64_t resident_before;
    void *own[2]; /* the benchmark's own mappings */
    int control;
    /* initiator only */
    uint64_t segment;
    uint64_t remote;
    uint64_t seed;
    bench_samples samples;
    uint64_t local_column[BATCH_MAX];
    uint64_t remote_column[BATCH_MAX];
} side;

static void check(int32_t status, const char *what) {
    if (status != TENT_OK) {
        bench_die("%s: %s: %s", what, tent_status_name(status), tent_last_error());
    }
}

/* ---- stamps ---- */

static uint64_t stamp_value(uint64_t seed, uint64_t block, uint32_t i) {
    uint64_t x = seed * 0x9e3779b97f4a7c15u + block * STAMPS + i + 1;
    x ^= x >> 29;
    return x * 0xbf58476d1ce4e5b9u | 1u;
}

/* Where the i-th stamp of a block lies: first, middle and last word. */
static uint8_t *stamp_place(uint8_t *arena, uint64_t block_size, uint64_t block, uint32_t i) {
    return arena + block * block_size + (block_size - sizeof(uint64_t)) / 2 / 8 * 8 * i;
}

static uint64_t stamps_do(side *s, const question *q) {
    uint64_t wrong = 0;
    if (q->what == ASK_CHECK) {
        for (uint64_t b = 0; b < q->count; b++) {
            for (uint32_t i = 0; i < STAMPS; i++) {
                uint64_t value;
                memcpy(&value, stamp_place(s->arena, q->block, b, i), sizeof(value));
                wrong += value != stamp_value(q->seed, b, i);
            }
        }
        return wrong;
    }
    uint64_t size = q->block * q->count;
    if (size > s->arena_size || q->block < 64) {
        bench_die("blocks of at least 64 bytes within the arena of %llu bytes, please",
                  (unsigned long long)s->arena_size);
    }
    if (s->touched < size) {
        bench_touch(s->arena, size);
        s->touched = size;
    }
    for (uint64_t b = 0; b < q->count; b++) {
        for (uint32_t i = 0; i < STAMPS; i++) {
            uint64_t value = q->what == ASK_STAMP ? stamp_value(q->seed, b, i) : 0;
            memcpy(stamp_place(s->arena, q->block, b, i), &value, sizeof(value));
        }
    }
    return 0;
}

/* ---- set-up ---- */

static char *file_read(const char *path) {
    FILE *f = fopen(path, "r");
    static char text[65536];
    size_t n = f != NULL ? fread(text, 1, sizeof(text) - 1, f) : 0;
    if (n == 0 || n == sizeof(text) - 1) {
        bench_die("plan file %s: cannot be read, empty, or above 64 KiB", path);
    }
    fclose(f);
    return text;
}

static tent_engine *engine_open(const char *name, const char *plan, const void *key) {
    tent_engine_options options = {
        .size = sizeof(options), .name = name, .plan = plan, .key = key, .key_size = 32};
    tent_engine *engine = NULL;
    check(tent_engine_open(&options, &engine), "tent_engine_open");
    return engine;
}

static void side_open(side *s, const char *name, const char *plan, const void *key) {
    s->arena = bench_map(s->arena_size);
    s->own[0] = s->arena;
    s->own[1] = s->samples.values != NULL ? (void *)s->samples.values : (void *)s->arena;
    s->resident_before = bench_resident(s->own, 2);
    s->engine = engine_open(name, plan, key);
    uint64_t region;
    check(tent_region_register(s->engine, s->arena, s->arena_size, NULL, &region),
          "tent_region_register");
}

static uint64_t resident_added(side *s) {
    uint64_t now = bench_resident(s->own, 2);
    return now > s->resident_before ? now - s->resident_before : 0;
}

static void target_run(side *s, const char *plan, const void *key) {
    char address[64] = "";
    side_open(s, "bench-target", plan, key);
    check(tent_engine_address(s->engine, address, sizeof(address)), "tent_engine_address");
    bench_write_all(s->control, address, sizeof(address));
    uint64_t base = (uint64_t)(uintptr_t)s->arena;
    bench_write_all(s->control, &base, sizeof(base));
    question q;
    while (bench_read_all(s->control, &q, sizeof(q))) {
        uint64_t answer = 0;
        if (q.what == ASK_CPU) {
            answer = bench_cpu_ns();
        } else if (q.what == ASK_MEMORY) {
            answer = resident_added(s);
        } else {
            answer = stamps_do(s, &q);
        }
        bench_write_all(s->control, &answer, sizeof(answer));
    }
    tent_engine_close(s->engine);
    _exit(0);
}

static void initiator_open(side *s, const char *plan, const void *key) {
    char address[64];
    bench_samples_init(&s->samples);
    if (!bench_read_all(s->control, address, sizeof(address)) ||
        !bench_read_all(s->control, &s->remote, sizeof(s->remote))) {
        bench_die("the target process ended before its engine was open");
    }
    side_open(s, "bench-initiator", plan, key);
    check(tent_segment_open(s->engine, address, WAIT_NS, &s->segment), "tent_segment_open");
}

static uint64_t ask(side *s, uint64_t what, uint64_t block, uint64_t count) {
    question q = {.what = what, .seed = s->seed, .block = block, .count = count};
    uint64_t answer;
    bench_write_all(s->control, &q, sizeof(q));
    if (!bench_read_all(s->control, &answer, sizeof(answer))) {
        bench_die("the target process ended");
    }
    return answer;
}

/* ---- the work ---- */

typedef struct work {
    uint32_t op;
    uint64_t block;
    uint64_t batch;
    uint64_t footprint;
    uint64_t next; /* number of the next block */
} work;

static void work_check(const side *s, const work *w) {
    if (w->block == 0 || w->batch == 0 || w->batch > BATCH_MAX || w->footprint % w->block != 0 ||
        w->footprint == 0 || w->footprint > s->arena_size) {
        bench_die(
            "1..%u blocks per batch, in a footprint that they divide and the arena holds, please",
            BATCH_MAX);
    }
}

static void columns_fill(side *s, work *w, tent_columns *c) {
    for (uint64_t i = 0; i < w->batch; i++) {
        uint64_t offset = (w->next + i) * w->block % w->footprint;
        s->local_column[i] = (uint64_t)(uintptr_t)s->arena + offset;
        s->remote_column[i] = s->remote + offset;
    }
    w->next += w->batch;
    *c = (tent_columns){.size = sizeof(*c),
                        .op = w->op,
                        .segment = s->segment,
                        .count = w->batch,
                        .local = s->local_column,
                        .remote = s->remote_column,
                        .length_each = w->block};
}

typedef struct submit_cost {
    uint64_t wall_ns;
    uint64_t cpu_ns; /* of the submitting thread */
} submit_cost;

static uint64_t batch_begin(side *s, work *w, uint32_t flags, submit_cost *cost) {
    tent_columns c;
    uint64_t batch;
    uint32_t index;
    columns_fill(s, w, &c);
    check(tent_batch_open(s->engine, NULL, &batch), "tent_batch_open");
    if (cost != NULL) {
        *cost = (submit_cost){.cpu_ns = bench_thread_cpu_ns(), .wall_ns = bench_now_ns()};
    }
    check(tent_batch_submit_columns(s->engine, batch, &c, TENT_SUBMIT_SEAL | flags, &index),
          "tent_batch_submit_columns");
    if (cost != NULL) {
        cost->wall_ns = bench_now_ns() - cost->wall_ns;
        cost->cpu_ns = bench_thread_cpu_ns() - cost->cpu_ns;
    }
    return batch;
}

static void batch_end(side *s, uint64_t batch) {
    check(tent_batch_wait(s->engine, batch, WAIT_NS), "tent_batch_wait");
    check(tent_batch_close(s->engine, batch), "tent_batch_close");
}

/* One batch from call to result: the synchronous call for a single block, the batch calls for more.
 */
static void batch_move(side *s, work *w) {
    if (w->batch > 1) {
        batch_end(s, batch_begin(s, w, TENT_SUBMIT_NO_WAKE, NULL));
        return;
    }
    uint64_t offset = w->next++ * w->block % w->footprint;
    tent_request r = {.op = w->op,
                      .segment = s->segment,
                      .local = (uint64_t)(uintptr_t)s->arena + offset,
                      .remote = s->remote + offset,
                      .length = w->block};
    uint32_t index;
    check(tent_transfer(s->engine, NULL, &r, sizeof(r), 1, WAIT_NS, &index), "tent_transfer");
}

static void stamps_begin(side *s, const work *w) {
    question q = {.what = w->op == TENT_OP_READ ? ASK_CLEAR : ASK_STAMP,
                  .seed = ++s->seed,
                  .block = w->block,
                  .count = w->footprint / w->block};
    stamps_do(s, &q);
    ask(s, w->op == TENT_OP_READ ? ASK_STAMP : ASK_CLEAR, w->block, q.count);
}

static void stamps_end(side *s, const work *w) {
    uint64_t count = w->footprint / w->block;
    count = w->next < count ? w->next : count;
    question q = {.what = ASK_CHECK, .seed = s->seed, .block = w->block, .count = count};
    uint64_t wrong = w->op == TENT_OP_READ ? stamps_do(s, &q) : ask(s, ASK_CHECK, w->block, count);
    if (wrong > 0) {
        bench_die(
            "%llu stamps of %llu blocks are wrong at the destination: completed transfers did not "
            "move their bytes",
            (unsigned long long)wrong, (unsigned long long)count);
    }
}

static void command_stream(side *s, work w, uint64_t duration_ns) {
    work_check(s, &w);
    stamps_begin(s, &w);
    uint64_t begin = bench_now_ns();
    uint64_t warm_up_ns = w.block * w.batch >= BENCH_BATCH_SIZE_LARGE ? 0 : duration_ns / 10 + 1;
    while (bench_now_ns() - begin < warm_up_ns) {
        batch_move(s, &w);
    }
    s->samples.count = 0;
    uint64_t batches = 0;
    uint64_t cpu = bench_cpu_ns() + ask(s, ASK_CPU, 0, 0);
    begin = bench_now_ns();
    uint64_t then = begin;
    while (then - begin < duration_ns) {
        batch_move(s, &w);
        uint64_t now = bench_now_ns();
        bench_samples_add(&s->samples, now - then);
        then = now;
        batches++;
    }
    cpu = bench_cpu_ns() + ask(s, ASK_CPU, 0, 0) - cpu;
    stamps_end(s, &w);
    bench_report(&s->samples, batches * w.batch * w.block, batches, then - begin, cpu);
}

static void command_rate(side *s, work w, uint64_t outstanding, uint64_t duration_ns) {
    work_check(s, &w);
    if (outstanding == 0 || outstanding > OUTSTANDING_MAX) {
        bench_die("1..%u batches outstanding, please", OUTSTANDING_MAX);
    }
    uint64_t open[OUTSTANDING_MAX] = {0};
    uint64_t done = 0;
    stamps_begin(s, &w);
    s->samples.count = 0;
    uint64_t cpu = bench_cpu_ns() + ask(s, ASK_CPU, 0, 0);
    uint64_t begin = bench_now_ns();
    uint64_t then = begin;
    for (uint64_t i = 0; then - begin < duration_ns; i = (i + 1) % outstanding) {
        if (open[i] != 0) {
            batch_end(s, open[i]);
            done++;
        }
        open[i] = batch_begin(s, &w, 0, NULL);
        uint64_t now = bench_now_ns();
        bench_samples_add(&s->samples, now - then);
        then = now;
    }
    for (uint64_t i = 0; i < outstanding; i++) {
        if (open[i] != 0) {
            batch_end(s, open[i]);
            done++;
        }
    }
    uint64_t elapsed = bench_now_ns() - begin;
    cpu = bench_cpu_ns() + ask(s, ASK_CPU, 0, 0) - cpu;
    stamps_end(s, &w);
    bench_report(&s->samples, done * w.batch * w.block, done, elapsed, cpu);
}

static void command_submit(side *s, work w, uint64_t rounds) {
    static uint64_t wall_values[ROUNDS_MAX];
    bench_samples wall = {.values = wall_values};
    work_check(s, &w);
    if (rounds == 0 || rounds > ROUNDS_MAX) {
        bench_die("1..%u rounds, please", ROUNDS_MAX);
    }
    s->samples.count = 0;
    for (uint64_t i = 0; i < rounds; i++) {
        submit_cost cost;
        batch_end(s, batch_begin(s, &w, 0, &cost));
        bench_samples_add(&s->samples, cost.cpu_ns);
        bench_samples_add(&wall, cost.wall_ns);
    }
    printf("{\"cpu_p50_ns\": %llu, \"cpu_p99_ns\": %llu, \"wall_p50_ns\": %llu}\n",
           (unsigned long long)bench_percentile(&s->samples, 500),
           (unsigned long long)bench_percentile(&s->samples, 990),
           (unsigned long long)bench_percentile(&wall, 500));
}

static void command_idle(side *s, uint64_t duration_ns) {
    struct timespec settle = {.tv_nsec = 100000000};
    struct timespec pause = {.tv_sec = (time_t)(duration_ns / 1000000000u),
                             .tv_nsec = (long)(duration_ns % 1000000000u)};
    nanosleep(&settle, NULL);
    uint64_t target = ask(s, ASK_CPU, 0, 0);
    uint64_t own = bench_cpu_ns();
    uint64_t begin = bench_now_ns();
    nanosleep(&pause, NULL);
    own = bench_cpu_ns() - own;
    target = ask(s, ASK_CPU, 0, 0) - target;
    printf("{\"elapsed_ns\": %llu, \"initiator_cpu_ns\": %llu, \"target_cpu_ns\": %llu}\n",
           (unsigned long long)(bench_now_ns() - begin), (unsigned long long)own,
           (unsigned long long)target);
}

static void command(side *s, const char *line) {
    char op[16] = "";
    unsigned long long block = 0, batch = 0, outstanding = 0, footprint = 0, number = 0;
    if (sscanf(line, "stream %15s %llu %llu %llu %llu", op, &block, &batch, &footprint, &number) ==
        5) {
        work w = {strcmp(op, "read") == 0 ? TENT_OP_READ : TENT_OP_WRITE, block, batch, footprint,
                  0};
        command_stream(s, w, number);
    } else if (sscanf(line, "rate %llu %llu %llu %llu %llu", &block, &batch, &outstanding,
                      &footprint, &number) == 5) {
        command_rate(s, (work){TENT_OP_WRITE, block, batch, footprint, 0}, outstanding, number);
    } else if (sscanf(line, "submit %llu %llu %llu %llu", &block, &batch, &footprint, &number) ==
               4) {
        command_submit(s, (work){TENT_OP_WRITE, block, batch, footprint, 0}, number);
    } else if (sscanf(line, "idle %llu", &number) == 1) {
        command_idle(s, number);
    } else if (strncmp(line, "memory", 6) == 0) {
        uint64_t target = ask(s, ASK_MEMORY, 0, 0);
        printf("{\"initiator_bytes\": %llu, \"target_bytes\": %llu}\n",
               (unsigned long long)resident_added(s), (unsigned long long)target);
    } else {
        bench_die("unknown command: %s", line);
    }
    fflush(stdout);
}

static int pair_main(const char *plan, const void *key, uint64_t arena_size) {
    static side s;
    s.arena_size = arena_size;
    if (!bench_fork(&s.control)) {
        target_run(&s, plan, key);
    }
    initiator_open(&s, plan, key);
    printf("{\"ready\": 1, \"version\": \"%s\"}\n", tent_version());
    fflush(stdout);
    char line[BENCH_LINE_MAX];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        command(&s, line);
    }
    check(tent_engine_close(s.engine), "tent_engine_close");
    return 0;
}

/* Each open is measured in a process of its own, so that every one loads its plugins anew. */
static int open_main(const char *plan, const void *key, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) {
            bench_die("fork: %s", strerror(errno));
        }
        if (child == 0) {
            uint64_t before = bench_resident(NULL, 0);
            uint64_t begin = bench_now_ns();
            tent_engine *engine = engine_open("bench-open", plan, key);
            uint64_t elapsed = bench_now_ns() - begin;
            uint64_t after = bench_resident(NULL, 0);
            begin = bench_now_ns();
            check(tent_engine_close(engine), "tent_engine_close");
            printf("{\"open_ns\": %llu, \"close_ns\": %llu, \"resident_bytes\": %llu}\n",
                   (unsigned long long)elapsed, (unsigned long long)(bench_now_ns() - begin),
                   (unsigned long long)(after - before));
            fflush(stdout);
            _exit(0);
        }
        int status = 0;
        if (waitpid(child, &status, 0) != child || status != 0) {
            bench_die("an engine could not be opened and closed");
        }
    }
    return 0;
}

int main(int argc, char **argv) {
    uint8_t key[32];
    if (argc != 4 || (strcmp(argv[1], "pair") != 0 && strcmp(argv[1], "open") != 0)) {
        bench_die("usage: driver pair PLAN_FILE ARENA_BYTES | driver open PLAN_FILE COUNT");
    }
    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key)) {
        bench_die("getrandom: %s", strerror(errno));
    }
    const char *plan = file_read(argv[2]);
    uint64_t number = strtoull(argv[3], NULL, 10);
    return strcmp(argv[1], "pair") == 0 ? pair_main(plan, key, number)
                                        : open_main(plan, key, number);
}
