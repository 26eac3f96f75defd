/* driver.c - the engine under measurement: an initiator and a forked target, each with one engine.
 *
 * Written in C so that the numbers are the engine's and not an interpreter's. Leans on bench.h,
 * work.h and <tent/tent.h> only; knows no transport, the plan names it. Commands come as lines on
 * stdin, one JSON object per command goes to stdout.
 *
 *   driver pair PLAN_FILE ARENA_BYTES private|engine WORKERS [TARGET_PLAN_FILE]
 *     stream write|read BLOCK BATCH FOOTPRINT DURATION_NS   batches one after another, each waited
 *                                                           for
 *     cache write|read DURATION_NS                          the same with the cache of work.h
 *     rate BLOCK BATCH OUTSTANDING FOOTPRINT DURATION_NS    writes, OUTSTANDING batches at a time
 *     submit BLOCK BATCH FOOTPRINT ROUNDS                   time of tent_batch_submit_columns alone
 *     idle DURATION_NS                                      CPU time of both engines without work
 *     memory                                                resident bytes added by the engines
 *     pages                                                 which pages the arenas got, in KiB
 *   driver open PLAN_FILE COUNT                             cold opens, each in a fresh process
 *
 * The arenas are private anonymous memory, or the engines' own (tent_memory_alloc). WORKERS is the
 * option of that name, 0 the engine's default. Without a plan of its own the target has the
 * initiator's. Every stream is checked: the source carries fresh
 * stamps, and what was reported as moved must show them at the destination.
 */
#include "work.h"

#include <sys/random.h>
#include <tent/tent.h>

#define BATCH_MAX 4096u
#define OUTSTANDING_MAX 64u
#define ROUNDS_MAX 4096u
#define WAIT_NS 20000000000ull

enum { ASK_CPU = 1, ASK_MEMORY = 2, ASK_PAGES = 3, ASK_STAMPS = 4 };

typedef struct question {
    uint64_t what;
    uint64_t seed;
    uint32_t stamps; /* STAMP_* */
    uint32_t reserved;
    work w;
} question;

typedef struct setup {
    const char *plan;
    const char *target_plan;
    const void *key;
    uint64_t arena_size;
    int engine_memory;
    uint32_t workers;
} setup;

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
    uint64_t length_column[BATCH_MAX];
} side;

static void check(int32_t status, const char *what) {
    if (status != TENT_OK) {
        bench_die("%s: %s: %s", what, tent_status_name(status), tent_last_error());
    }
}

static uint64_t stamps(side *s, int remote, const work *w, uint64_t seed, uint32_t what) {
    work_check(w, BATCH_MAX, s->arena_size);
    if (s->touched < w->footprint) {
        bench_touch(s->arena, w->footprint);
        s->touched = w->footprint;
    }
    return stamps_do(s->arena, remote, w, seed, what);
}

/* ---- set-up ---- */

static char *file_read(const char *path) {
    enum { SIZE = 65536 };
    FILE *f = fopen(path, "r");
    char *text = calloc(1, SIZE); /* as long as the process lives */
    size_t n = f != NULL && text != NULL ? fread(text, 1, SIZE - 1, f) : 0;
    if (n == 0 || n == SIZE - 1) {
        bench_die("plan file %s: cannot be read, empty, or above 64 KiB", path);
    }
    fclose(f);
    return text;
}

static tent_engine *engine_open(const char *name, const setup *how) {
    tent_engine_options options = {.size = sizeof(options),
                                   .name = name,
                                   .plan = how->plan,
                                   .key = how->key,
                                   .key_size = 32,
                                   .workers = how->workers};
    tent_engine *engine = NULL;
    check(tent_engine_open(&options, &engine), "tent_engine_open");
    return engine;
}

static void side_open(side *s, const char *name, const setup *how) {
    s->arena_size = how->arena_size;
    s->own[0] = s->samples.values != NULL ? (void *)s->samples.values : (void *)s;
    s->own[1] = s->own[0];
    if (!how->engine_memory) {
        s->arena = bench_map(s->arena_size);
        s->own[1] = s->arena;
    }
    s->resident_before = bench_resident(s->own, 2, s->arena_size);
    s->engine = engine_open(name, how);
    if (how->engine_memory) {
        void *arena = NULL;
        check(tent_memory_alloc(s->engine, s->arena_size, &arena), "tent_memory_alloc");
        s->arena = arena;
        s->own[1] = arena;
    }
    uint64_t region;
    check(tent_region_register(s->engine, s->arena, s->arena_size, NULL, &region),
          "tent_region_register");
}

static uint64_t resident_added(const side *s) {
    uint64_t now = bench_resident(s->own, 2, s->arena_size);
    return now > s->resident_before ? now - s->resident_before : 0;
}

static void target_run(side *s, const setup *how) {
    char address[64] = "";
    side_open(s, "bench-target", how);
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
        } else if (q.what == ASK_PAGES) {
            answer = bench_page_kib(s->arena);
        } else {
            answer = stamps(s, 1, &q.w, q.seed, q.stamps);
        }
        bench_write_all(s->control, &answer, sizeof(answer));
    }
    tent_engine_close(s->engine);
    _exit(0);
}

static void initiator_open(side *s, const setup *how) {
    char address[64];
    bench_samples_init(&s->samples);
    if (!bench_read_all(s->control, address, sizeof(address)) ||
        !bench_read_all(s->control, &s->remote, sizeof(s->remote))) {
        bench_die("the target process ended before its engine was open");
    }
    side_open(s, "bench-initiator", how);
    check(tent_segment_open(s->engine, address, WAIT_NS, &s->segment), "tent_segment_open");
}

static uint64_t ask(side *s, const question *q) {
    uint64_t answer;
    bench_write_all(s->control, q, sizeof(*q));
    if (!bench_read_all(s->control, &answer, sizeof(answer))) {
        bench_die("the target process ended");
    }
    return answer;
}

static uint64_t ask_number(side *s, uint64_t what) {
    question q = {.what = what};
    return ask(s, &q);
}

/* ---- the work ---- */

static void columns_fill(side *s, work *w, tent_columns *c) {
    for (uint64_t i = 0; i < w->batch; i++) {
        work_copy copy = work_copy_at(w, w->next + i);
        s->local_column[i] = (uint64_t)(uintptr_t)s->arena + copy.local;
        s->remote_column[i] = s->remote + copy.remote;
        s->length_column[i] = copy.length;
    }
    w->next += w->batch;
    *c = (tent_columns){.size = sizeof(*c),
                        .op = w->op == WORK_READ ? TENT_OP_READ : TENT_OP_WRITE,
                        .segment = s->segment,
                        .count = w->batch,
                        .local = s->local_column,
                        .remote = s->remote_column,
                        .length = w->cache ? s->length_column : NULL,
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
    work_copy copy = work_copy_at(w, w->next++);
    tent_request r = {.op = w->op == WORK_READ ? TENT_OP_READ : TENT_OP_WRITE,
                      .segment = s->segment,
                      .local = (uint64_t)(uintptr_t)s->arena + copy.local,
                      .remote = s->remote + copy.remote,
                      .length = copy.length};
    uint32_t index;
    check(tent_transfer(s->engine, NULL, &r, sizeof(r), 1, WAIT_NS, &index), "tent_transfer");
}

static uint64_t stamps_of(side *s, int remote, const work *w, uint32_t what) {
    question q = {.what = ASK_STAMPS, .seed = s->seed, .stamps = what, .w = *w};
    return remote ? ask(s, &q) : stamps(s, 0, w, s->seed, what);
}

static void stamps_begin(side *s, const work *w) {
    s->seed++;
    for (int remote = 0; remote < 2; remote++) {
        stamps_of(s, remote, w, stamps_before(w, remote));
    }
}

static void stamps_end(side *s, const work *w) {
    stamps_judge(w, stamps_of(s, w->op == WORK_WRITE, w, STAMP_CHECK));
}

static void command_stream(side *s, work w, uint64_t duration_ns) {
    stamps_begin(s, &w);
    uint64_t begin = bench_now_ns();
    uint64_t warm_up_ns = work_large(&w) ? 0 : duration_ns / 10 + 1;
    while (bench_now_ns() - begin < warm_up_ns) {
        batch_move(s, &w);
    }
    if (warm_up_ns > 0) {
        w.next = 0;
        stamps_begin(s, &w); /* what the warm-up has moved is no proof */
    }
    s->samples.count = 0;
    uint64_t batches = 0;
    uint64_t cpu = bench_cpu_ns() + ask_number(s, ASK_CPU);
    begin = bench_now_ns();
    uint64_t then = begin;
    while (then - begin < duration_ns) {
        batch_move(s, &w);
        uint64_t now = bench_now_ns();
        bench_samples_add(&s->samples, now - then);
        then = now;
        batches++;
    }
    cpu = bench_cpu_ns() + ask_number(s, ASK_CPU) - cpu;
    stamps_end(s, &w);
    bench_report(&s->samples, work_bytes(&w, batches), batches, then - begin, cpu);
}

static void command_rate(side *s, work w, uint64_t outstanding, uint64_t duration_ns) {
    work_check(&w, BATCH_MAX, s->arena_size);
    if (outstanding == 0 || outstanding > OUTSTANDING_MAX) {
        bench_die("1..%u batches outstanding, please", OUTSTANDING_MAX);
    }
    uint64_t open[OUTSTANDING_MAX] = {0};
    uint64_t done = 0;
    stamps_begin(s, &w);
    s->samples.count = 0;
    uint64_t cpu = bench_cpu_ns() + ask_number(s, ASK_CPU);
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
    cpu = bench_cpu_ns() + ask_number(s, ASK_CPU) - cpu;
    stamps_end(s, &w);
    bench_report(&s->samples, work_bytes(&w, done), done, elapsed, cpu);
}

static void command_submit(side *s, work w, uint64_t rounds) {
    static uint64_t wall_values[ROUNDS_MAX];
    bench_samples wall = {.values = wall_values};
    work_check(&w, BATCH_MAX, s->arena_size);
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
    uint64_t target = ask_number(s, ASK_CPU);
    uint64_t own = bench_cpu_ns();
    uint64_t begin = bench_now_ns();
    nanosleep(&pause, NULL);
    own = bench_cpu_ns() - own;
    target = ask_number(s, ASK_CPU) - target;
    printf("{\"elapsed_ns\": %llu, \"initiator_cpu_ns\": %llu, \"target_cpu_ns\": %llu}\n",
           (unsigned long long)(bench_now_ns() - begin), (unsigned long long)own,
           (unsigned long long)target);
}

static void command(side *s, const char *line) {
    char op[16] = "";
    unsigned long long block = 0, batch = 0, outstanding = 0, footprint = 0, number = 0;
    work w = {.op = WORK_WRITE};
    if (sscanf(line, "stream %15s %llu %llu %llu %llu", op, &block, &batch, &footprint, &number) ==
        5) {
        w = (work){.op = work_op(op), .block = block, .batch = batch, .footprint = footprint};
        command_stream(s, w, number);
    } else if (sscanf(line, "cache %15s %llu", op, &number) == 2) {
        command_stream(s, work_of_cache(work_op(op)), number);
    } else if (sscanf(line, "rate %llu %llu %llu %llu %llu", &block, &batch, &outstanding,
                      &footprint, &number) == 5) {
        w.block = block, w.batch = batch, w.footprint = footprint;
        command_rate(s, w, outstanding, number);
    } else if (sscanf(line, "submit %llu %llu %llu %llu", &block, &batch, &footprint, &number) ==
               4) {
        w.block = block, w.batch = batch, w.footprint = footprint;
        command_submit(s, w, number);
    } else if (sscanf(line, "idle %llu", &number) == 1) {
        command_idle(s, number);
    } else if (strncmp(line, "memory", 6) == 0) {
        uint64_t target = ask_number(s, ASK_MEMORY);
        printf("{\"initiator_bytes\": %llu, \"target_bytes\": %llu}\n",
               (unsigned long long)resident_added(s), (unsigned long long)target);
    } else if (strncmp(line, "pages", 5) == 0) {
        uint64_t target = ask_number(s, ASK_PAGES);
        printf("{\"initiator_kib\": %llu, \"target_kib\": %llu}\n",
               (unsigned long long)bench_page_kib(s->arena), (unsigned long long)target);
    } else {
        bench_die("unknown command: %s", line);
    }
    fflush(stdout);
}

static int pair_main(const setup *how) {
    static side s;
    if (!bench_fork(&s.control)) {
        setup own = *how;
        own.plan = how->target_plan;
        target_run(&s, &own);
    }
    initiator_open(&s, how);
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
static int open_main(const setup *how, uint64_t count) {
    for (uint64_t i = 0; i < count; i++) {
        pid_t child = fork();
        if (child < 0) {
            bench_die("fork: %s", strerror(errno));
        }
        if (child == 0) {
            uint64_t before = bench_resident(NULL, 0, UINT64_MAX);
            uint64_t begin = bench_now_ns();
            tent_engine *engine = engine_open("bench-open", how);
            uint64_t elapsed = bench_now_ns() - begin;
            uint64_t after = bench_resident(NULL, 0, UINT64_MAX);
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
    int pair = (argc == 6 || argc == 7) && strcmp(argv[1], "pair") == 0;
    if (!pair && (argc != 4 || strcmp(argv[1], "open") != 0)) {
        bench_die(
            "usage: driver pair PLAN_FILE ARENA_BYTES private|engine WORKERS "
            "[TARGET_PLAN_FILE]\n"
            "       driver open PLAN_FILE COUNT");
    }
    if (getrandom(key, sizeof(key), 0) != (ssize_t)sizeof(key)) {
        bench_die("getrandom: %s", strerror(errno));
    }
    setup how = {.plan = file_read(argv[2]), .key = key};
    if (!pair) {
        return open_main(&how, strtoull(argv[3], NULL, 10));
    }
    how.arena_size = strtoull(argv[3], NULL, 10);
    how.engine_memory = strcmp(argv[4], "engine") == 0;
    how.workers = (uint32_t)strtoul(argv[5], NULL, 10);
    how.target_plan = argc == 7 ? file_read(argv[6]) : how.plan;
    return pair_main(&how);
}
