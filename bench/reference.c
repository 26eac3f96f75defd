/* reference.c - what the machine can do without TENT: raw socket streams, a request/response
 * ping-pong, memcpy.
 *
 * Two processes (the target is forked), one thread each, N loopback connections. Commands come as
 * lines on stdin, one JSON object per command goes to stdout. Leans on bench.h and sockets; must
 * never include TENT.
 *
 *   reference CONNECTIONS ARENA_BYTES
 *     stream write|read BLOCK BATCH FOOTPRINT DURATION_NS FORM
 *     pingpong BLOCK FOOTPRINT DURATION_NS block|spin
 *     memcpy BLOCK FOOTPRINT DURATION_NS
 *
 * A stream moves batches: BATCH blocks outstanding, each acknowledged by a small message (write) or
 * asked for by one (read), the next batch when all are there: what a caller of a batch API does.
 * Block i lies at i * BLOCK modulo FOOTPRINT on both sides. FORM is how the sockets are driven, the
 * harness takes the fastest:
 *   - block: blocking calls
 *   - poll: non-blocking calls, poll() when nothing moves
 *   - spin: like poll, after 50 us without progress, as the engine's driver does
 *   - with "-split" appended each block is cut into one piece per connection, instead of going to
 *     one connection whole
 */
#include "sockets.h"

/* Warms up for a tenth of the duration, at least one batch, which also tells how many batches fill
 * it: the target is told the count beforehand, so no end-of-run test sits in the loops. Large
 * batches are not warmed up and run in rounds of one. */
static void measure(pair *p, round_order *o, uint64_t duration_ns) {
    static uint64_t touched;
    if (o->footprint > p->arena_size || o->unit == 0 || o->footprint % o->unit != 0) {
        bench_die("block and footprint do not fit the arena");
    }
    if (touched < o->footprint) {
        sockets_prepare(p, o);
        touched = o->footprint;
    }
    outcome r = {0, 0};
    o->batches = 1;
    p->samples.count = 0;
    if (o->unit * o->batch >= BENCH_BATCH_SIZE_LARGE) {
        outcome sum = {0, 0};
        while (sum.elapsed_ns < duration_ns) {
            r = sockets_round(p, o);
            sum.elapsed_ns += r.elapsed_ns;
            sum.cpu_ns += r.cpu_ns;
            o->first += o->batch;
        }
        uint64_t batches = o->first / o->batch;
        bench_report(&p->samples, o->first * o->unit, batches, sum.elapsed_ns, sum.cpu_ns);
        return;
    }
    for (uint64_t spent = 0; spent <= duration_ns / 10;) {
        o->batches = spent == 0 ? 1 : o->batches * 2;
        r = sockets_round(p, o);
        spent += r.elapsed_ns;
        o->first += o->batches * o->batch;
    }
    uint64_t each = r.elapsed_ns / o->batches + 1;
    o->batches = (duration_ns + each - 1) / each;
    p->samples.count = 0;
    r = sockets_round(p, o);
    uint64_t bytes = o->batches * o->batch * o->unit;
    bench_report(&p->samples, bytes, o->batches, r.elapsed_ns, r.cpu_ns);
}

static void measure_memcpy(pair *p, uint64_t block, uint64_t footprint, uint64_t duration_ns) {
    if (block == 0 || 2 * footprint > p->arena_size || footprint % block != 0) {
        bench_die("memcpy needs an arena of twice the footprint, and blocks that divide it");
    }
    bench_touch(p->arena, 2 * footprint);
    uint64_t bytes = 0;
    uint64_t offset = 0;
    uint64_t cpu = bench_cpu_ns();
    uint64_t begin = bench_now_ns();
    uint64_t now = begin;
    p->samples.count = 0;
    while (now - begin < duration_ns) {
        uint64_t then = now;
        memcpy(p->arena + footprint + offset, p->arena + offset, block);
        __asm__ volatile("" : : "r"(p->arena) : "memory");
        offset = (offset + block) % footprint;
        bytes += block;
        now = bench_now_ns();
        bench_samples_add(&p->samples, now - then);
    }
    cpu = bench_cpu_ns() - cpu;
    bench_report(&p->samples, bytes, bytes / block, now - begin, cpu);
}

static void command_stream(pair *p, const char *op, uint64_t block, uint64_t batch,
                           uint64_t footprint, uint64_t ns, const char *form) {
    const char *split = strstr(form, "-split");
    uint64_t pieces = split != NULL ? p->connections : 1;
    if (block % pieces != 0) {
        bench_die("a block of %llu cannot be split over %u connections", (unsigned long long)block,
                  p->connections);
    }
    round_order o = {
        .op = strcmp(op, "read") == 0 ? OP_READ : OP_WRITE,
        .form = strncmp(form, "block", 5) == 0  ? FORM_BLOCK
                : strncmp(form, "spin", 4) == 0 ? FORM_SPIN
                                                : FORM_POLL,
        .unit = block / pieces,
        .batch = batch * pieces,
        .footprint = footprint,
    };
    measure(p, &o, ns);
}

static void command(pair *p, char *line) {
    char word[16] = "";
    char op[16] = "";
    char form[24] = "";
    unsigned long long block = 0, batch = 0, footprint = 0, ns = 0;
    if (sscanf(line, "stream %15s %llu %llu %llu %llu %23s", op, &block, &batch, &footprint, &ns,
               form) == 6) {
        command_stream(p, op, block, batch, footprint, ns, form);
    } else if (sscanf(line, "pingpong %llu %llu %llu %23s", &block, &footprint, &ns, form) == 4) {
        round_order o = {.op = OP_PINGPONG,
                         .unit = block,
                         .batch = 1,
                         .footprint = footprint,
                         .form = strcmp(form, "spin") == 0 ? FORM_SPIN : FORM_BLOCK};
        measure(p, &o, ns);
    } else if (sscanf(line, "memcpy %llu %llu %llu", &block, &footprint, &ns) == 3) {
        measure_memcpy(p, block, footprint, ns);
    } else {
        sscanf(line, "%15s", word);
        bench_die("unknown command '%s'", word);
    }
    fflush(stdout);
}

int main(int argc, char **argv) {
    static pair p;
    if (argc != 3) {
        bench_die("usage: reference CONNECTIONS ARENA_BYTES");
    }
    p.connections = (uint32_t)strtoul(argv[1], NULL, 10);
    p.arena_size = strtoull(argv[2], NULL, 10);
    if (p.connections == 0 || p.connections > CONNECTIONS_MAX || p.arena_size == 0) {
        bench_die("connections: 1..%d, arena: more than 0 bytes", CONNECTIONS_MAX);
    }
    int initiator = bench_fork(&p.control);
    p.arena = bench_map(p.arena_size);
    if (!initiator) {
        sockets_target_connect(&p);
        sockets_target_serve(&p);
    }
    bench_samples_init(&p.samples);
    sockets_initiator_connect(&p);
    printf("{\"ready\": 1}\n");
    fflush(stdout);
    char line[BENCH_LINE_MAX];
    while (fgets(line, sizeof(line), stdin) != NULL) {
        command(&p, line);
    }
    return 0;
}
