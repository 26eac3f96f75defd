/* sockets.h - a pair of processes joined by raw loopback connections: the reference of socket
 * transports.
 *
 * One thread per process moves rounds of batches over the connections, see reference.c for the
 * patterns. Leans on bench.h; must never include TENT. Thread-safety: none, each process has one
 * thread.
 */
#ifndef TENT_BENCH_SOCKETS_H
#define TENT_BENCH_SOCKETS_H

#include "bench.h"

#define CONNECTIONS_MAX 16

enum { OP_WRITE = 1, OP_READ = 2, OP_PINGPONG = 3 };
enum { FORM_BLOCK = 0, FORM_POLL = 1, FORM_SPIN = 2 };

/* Initiator to target, before each round. One of 0 batches has the footprint touched. */
typedef struct round_order {
    uint64_t op;
    uint64_t form;
    uint64_t unit;  /* bytes per message on one connection */
    uint64_t batch; /* units per batch */
    uint64_t footprint;
    uint64_t batches;
    uint64_t first; /* number of the first unit */
} round_order;

/* Progress of one connection through a batch. Lane i of n has the units whose number % n is i. */
typedef struct lane {
    int fd;
    uint64_t next;       /* number of the unit whose data moves now */
    uint64_t done;       /* bytes of it that moved */
    uint64_t left;       /* units whose data may still move in this batch, this one included */
    uint64_t small_owed; /* bytes of acks or requests to send */
    uint64_t small_got;  /* bytes of acks or requests received and not yet used */
} lane;

typedef struct pair {
    lane lanes[CONNECTIONS_MAX];
    uint32_t connections;
    int control;
    uint8_t *arena;
    uint64_t arena_size;
    bench_samples samples;
} pair;

typedef struct outcome {
    uint64_t elapsed_ns;
    uint64_t cpu_ns; /* both processes */
} outcome;

/* Connects p->connections sockets; each process calls its own, after bench_fork. */
void sockets_target_connect(pair *p);
void sockets_initiator_connect(pair *p);
/* The target's life: rounds as ordered by the initiator, until that one ends. */
__attribute__((noreturn)) void sockets_target_serve(pair *p);
/* Has both processes touch the footprint. */
void sockets_prepare(pair *p, const round_order *o);
/* Runs one round; the time of each batch is added to p->samples. */
outcome sockets_round(pair *p, const round_order *o);

#endif
