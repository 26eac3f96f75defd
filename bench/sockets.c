/* sockets.c - see sockets.h: one step on one connection, batches (blocking and not), ping-pong,
 * rounds, set-up.
 *
 * Leans on bench.h and the socket calls. Must never do more per block than a plain program would:
 * it is the yardstick.
 */
#include "sockets.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/uio.h>

#define ACK_SIZE 16u
#define REQUEST_SIZE 32u
#define SPIN_NS 50000u

static const uint8_t small_bytes[65536];
static uint8_t sink_bytes[65536];

/* ---- one step on one connection; each returns the bytes moved, 0 when the socket would block ----
 */

static ssize_t moved(ssize_t n, const char *what) {
    if (n > 0) {
        return n;
    }
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) {
        return 0;
    }
    bench_die("%s: %s", what, n < 0 ? strerror(errno) : "the peer closed the connection");
}

static void advance(lane *l, const pair *p, const round_order *o, uint64_t bytes) {
    l->done += bytes;
    if (l->done == o->unit) {
        l->done = 0;
        l->left--;
        l->next += p->connections;
    }
}

static uint8_t *place(const lane *l, const pair *p, const round_order *o) {
    return p->arena + (l->next * o->unit) % o->footprint + l->done;
}

static ssize_t send_data(lane *l, const pair *p, const round_order *o, int flags) {
    ssize_t n = moved(send(l->fd, place(l, p, o), o->unit - l->done, flags | MSG_NOSIGNAL), "send");
    advance(l, p, o, (uint64_t)n);
    return n;
}

static ssize_t recv_data(lane *l, const pair *p, const round_order *o, int flags) {
    ssize_t n = moved(recv(l->fd, place(l, p, o), o->unit - l->done, flags), "recv");
    advance(l, p, o, (uint64_t)n);
    return n;
}

static ssize_t send_small(lane *l, int flags) {
    size_t size = l->small_owed < sizeof(small_bytes) ? l->small_owed : sizeof(small_bytes);
    ssize_t n = moved(send(l->fd, small_bytes, size, flags | MSG_NOSIGNAL), "send");
    l->small_owed -= (uint64_t)n;
    return n;
}

static ssize_t recv_small(lane *l, uint64_t most, int flags) {
    size_t size = most < sizeof(sink_bytes) ? most : sizeof(sink_bytes);
    ssize_t n = moved(recv(l->fd, sink_bytes, size, flags), "recv");
    l->small_got += (uint64_t)n;
    return n;
}

/* ---- batches, blocking: connections are served in the order of the units, which both sides know
 * ---- */

static void block_initiator_batch(pair *p, const round_order *o, uint64_t first) {
    if (o->op == OP_WRITE) {
        for (uint64_t i = 0; i < o->batch; i++) {
            lane *l = &p->lanes[(first + i) % p->connections];
            l->left = 1;
            while (l->left > 0) {
                send_data(l, p, o, 0);
            }
        }
        for (uint64_t i = 0; i < o->batch; i++) {
            lane *l = &p->lanes[(first + i) % p->connections];
            while (l->small_got < ACK_SIZE) {
                recv_small(l, ACK_SIZE - l->small_got, MSG_WAITALL);
            }
            l->small_got = 0;
        }
        return;
    }
    for (uint64_t i = 0; i < o->batch; i++) {
        lane *l = &p->lanes[(first + i) % p->connections];
        l->small_owed = REQUEST_SIZE;
        while (l->small_owed > 0) {
            send_small(l, 0);
        }
    }
    for (uint64_t i = 0; i < o->batch; i++) {
        lane *l = &p->lanes[(first + i) % p->connections];
        l->left = 1;
        while (l->left > 0) {
            recv_data(l, p, o, MSG_WAITALL);
        }
    }
}

static void block_target_unit(pair *p, const round_order *o, uint64_t number) {
    lane *l = &p->lanes[number % p->connections];
    l->left = 1;
    if (o->op == OP_WRITE) {
        while (l->left > 0) {
            recv_data(l, p, o, MSG_WAITALL);
        }
        l->small_owed = ACK_SIZE;
        while (l->small_owed > 0) {
            send_small(l, 0);
        }
        return;
    }
    while (l->small_got < REQUEST_SIZE) {
        recv_small(l, REQUEST_SIZE - l->small_got, MSG_WAITALL);
    }
    l->small_got = 0;
    while (l->left > 0) {
        send_data(l, p, o, 0);
    }
}

/* ---- batches, non-blocking ---- */

/* Sleeps until one of the lanes can go on. want[i] are poll events. */
static void lanes_wait(const pair *p, const short *want) {
    struct pollfd fds[CONNECTIONS_MAX];
    for (uint32_t i = 0; i < p->connections; i++) {
        fds[i] = (struct pollfd){.fd = want[i] != 0 ? p->lanes[i].fd : -1, .events = want[i]};
    }
    if (poll(fds, p->connections, -1) < 0 && errno != EINTR) {
        bench_die("poll: %s", strerror(errno));
    }
}

static uint64_t take_small(lane *l, uint64_t small, uint64_t messages_left) {
    uint64_t most = messages_left * small - l->small_got;
    return most > 0 ? (uint64_t)recv_small(l, most, MSG_DONTWAIT) : 0;
}

/* Moves what can be moved on one lane; adds to *want what it waits for. Data flows in one
 * direction, small messages in the other; which one is ours depends on the role. */
static uint64_t lane_step(pair *p, lane *l, const round_order *o, int initiator,
                          uint64_t *acks_left, short *want) {
    uint64_t total = 0;
    int sends_data = (o->op == OP_WRITE) == (initiator != 0);
    uint64_t small = o->op == OP_WRITE ? ACK_SIZE : REQUEST_SIZE;
    *want = 0;
    if (sends_data) {
        if (!initiator) {
            total += take_small(l, small, *acks_left);
        }
        /* The target of a read may send only what was asked for. */
        while (l->left > 0 && (initiator || l->small_got >= small)) {
            uint64_t left = l->left;
            ssize_t n = send_data(l, p, o, MSG_DONTWAIT);
            total += (uint64_t)n;
            if (l->left != left && !initiator) {
                l->small_got -= small;
                --*acks_left;
            }
            if (n == 0) {
                *want |= POLLOUT;
                break;
            }
        }
        if (initiator && (l->left == 0 ||
                          *want != 0)) { /* acks are looked at when there is nothing better to do */
            total += take_small(l, small, *acks_left);
            *acks_left -= l->small_got / small;
            l->small_got %= small;
        }
        *want |= *acks_left * small > l->small_got ? POLLIN : 0;
        return total;
    }
    while (l->left > 0) {
        uint64_t left = l->left;
        ssize_t n = recv_data(l, p, o, MSG_DONTWAIT);
        total += (uint64_t)n;
        if (l->left != left && !initiator) {
            l->small_owed += ACK_SIZE;
        }
        if (n == 0) {
            *want |= POLLIN;
            break;
        }
    }
    if (l->small_owed > 0) {
        ssize_t n = send_small(l, MSG_DONTWAIT);
        total += (uint64_t)n;
        *want |= l->small_owed > 0 ? POLLOUT : 0;
    }
    return total;
}

/* Runs units [first, first + count) to their end, in either role. */
static void nonblocking_units(pair *p, const round_order *o, int initiator, uint64_t first,
                              uint64_t count) {
    uint64_t acks_left[CONNECTIONS_MAX];
    short want[CONNECTIONS_MAX];
    for (uint32_t i = 0; i < p->connections; i++) {
        uint64_t offset = (i + p->connections - first % p->connections) % p->connections;
        uint64_t own = count > offset ? (count - offset - 1) / p->connections + 1 : 0;
        p->lanes[i].left = own;
        int gets_small = (o->op == OP_WRITE) == (initiator != 0);
        acks_left[i] = gets_small ? own : 0;
        if (o->op == OP_READ && initiator) {
            p->lanes[i].small_owed = own * REQUEST_SIZE;
        }
    }
    uint64_t idle_since = 0;
    for (;;) {
        uint64_t total = 0;
        int open = 0;
        for (uint32_t i = 0; i < p->connections; i++) {
            lane *l = &p->lanes[i];
            total += lane_step(p, l, o, initiator, &acks_left[i], &want[i]);
            open |= l->left > 0 || l->small_owed > 0 || acks_left[i] > 0;
        }
        if (!open) {
            return;
        }
        if (total > 0) {
            idle_since = 0;
            continue;
        }
        if (o->form == FORM_SPIN) {
            uint64_t now = bench_now_ns();
            if (idle_since == 0) {
                idle_since = now;
            }
            if (now - idle_since < SPIN_NS) {
                continue;
            }
            idle_since = 0;
        }
        lanes_wait(p, want);
    }
}

/* ---- ping-pong: header and block there, a small answer back; one connection ---- */

static void ping_recv(lane *l, void *a, size_t a_size, void *b, size_t b_size, int flags) {
    size_t got = 0;
    while (got < a_size + b_size) {
        struct iovec v[2];
        int count = 0;
        if (got < a_size) {
            v[count++] = (struct iovec){(uint8_t *)a + got, a_size - got};
        }
        size_t into = got > a_size ? got - a_size : 0;
        if (b_size > into) {
            v[count++] = (struct iovec){(uint8_t *)b + into, b_size - into};
        }
        struct msghdr m = {.msg_iov = v, .msg_iovlen = (size_t)count};
        got += (size_t)moved(recvmsg(l->fd, &m, flags), "recvmsg");
    }
}

static void ping_send(lane *l, const void *a, size_t a_size, void *b, size_t b_size) {
    struct iovec v[2] = {{(void *)(uintptr_t)a, a_size}, {b, b_size}};
    struct msghdr m = {.msg_iov = v, .msg_iovlen = b_size > 0 ? 2 : 1};
    size_t n = (size_t)moved(sendmsg(l->fd, &m, MSG_NOSIGNAL), "sendmsg");
    if (n != a_size + b_size) {
        bench_die("a ping of %zu bytes was cut at %zu: choose a smaller block", a_size + b_size, n);
    }
}

static void ping_initiator(pair *p, const round_order *o, uint64_t number) {
    int flags = o->form == FORM_SPIN ? MSG_DONTWAIT : MSG_WAITALL;
    uint8_t *block = p->arena + (number * o->unit) % o->footprint;
    ping_send(&p->lanes[0], small_bytes, REQUEST_SIZE, block, o->unit);
    ping_recv(&p->lanes[0], sink_bytes, ACK_SIZE, NULL, 0, flags);
}

static void ping_target(pair *p, const round_order *o, uint64_t number) {
    int flags = o->form == FORM_SPIN ? MSG_DONTWAIT : MSG_WAITALL;
    uint8_t *block = p->arena + (number * o->unit) % o->footprint;
    ping_recv(&p->lanes[0], sink_bytes, REQUEST_SIZE, block, o->unit, flags);
    ping_send(&p->lanes[0], small_bytes, ACK_SIZE, NULL, 0);
}

/* ---- rounds ---- */

static void lanes_reset(pair *p, uint64_t first) {
    for (uint32_t i = 0; i < p->connections; i++) {
        lane *l = &p->lanes[i];
        l->next = first + (i + p->connections - first % p->connections) % p->connections;
        l->done = l->left = l->small_owed = l->small_got = 0;
    }
}

void sockets_target_serve(pair *p) {
    round_order o;
    while (bench_read_all(p->control, &o, sizeof(o))) {
        if (o.footprint > p->arena_size) {
            bench_die("footprint %llu exceeds the arena", (unsigned long long)o.footprint);
        }
        if (o.batches == 0) { /* a new row: bring its memory in */
            bench_touch(p->arena, o.footprint);
            bench_write_all(p->control, &o.first, sizeof(o.first));
            continue;
        }
        uint64_t cpu = bench_cpu_ns();
        uint64_t units = o.batches * o.batch;
        lanes_reset(p, o.first);
        if (o.op == OP_PINGPONG) {
            for (uint64_t i = 0; i < units; i++) {
                ping_target(p, &o, o.first + i);
            }
        } else if (o.form == FORM_BLOCK) {
            for (uint64_t i = 0; i < units; i++) {
                block_target_unit(p, &o, o.first + i);
            }
        } else {
            nonblocking_units(p, &o, 0, o.first, units);
        }
        cpu = bench_cpu_ns() - cpu;
        bench_write_all(p->control, &cpu, sizeof(cpu));
    }
    _exit(0);
}

void sockets_prepare(pair *p, const round_order *o) {
    round_order order = *o;
    order.batches = 0;
    bench_write_all(p->control, &order, sizeof(order));
    bench_touch(p->arena, o->footprint);
    uint64_t reply;
    if (!bench_read_all(p->control, &reply, sizeof(reply))) {
        bench_die("the target process ended");
    }
}

outcome sockets_round(pair *p, const round_order *o) {
    bench_write_all(p->control, o, sizeof(*o));
    lanes_reset(p, o->first);
    uint64_t cpu = bench_cpu_ns();
    uint64_t begin = bench_now_ns();
    uint64_t then = begin;
    for (uint64_t i = 0; i < o->batches; i++) {
        uint64_t first = o->first + i * o->batch;
        if (o->op == OP_PINGPONG) {
            ping_initiator(p, o, first);
        } else if (o->form == FORM_BLOCK) {
            block_initiator_batch(p, o, first);
        } else {
            nonblocking_units(p, o, 1, first, o->batch);
        }
        uint64_t now = bench_now_ns();
        bench_samples_add(&p->samples, now - then);
        then = now;
    }
    outcome r = {.elapsed_ns = then - begin, .cpu_ns = bench_cpu_ns() - cpu};
    uint64_t target_cpu = 0;
    if (!bench_read_all(p->control, &target_cpu, sizeof(target_cpu))) {
        bench_die("the target process ended");
    }
    r.cpu_ns += target_cpu;
    return r;
}

/* ---- set-up ---- */

static void no_delay(int fd) {
    int one = 1;
    if (setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) != 0) {
        bench_die("TCP_NODELAY: %s", strerror(errno));
    }
}

void sockets_target_connect(pair *p) {
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof(a);
    if (listener < 0 || bind(listener, (struct sockaddr *)&a, size) != 0 ||
        listen(listener, CONNECTIONS_MAX) != 0 ||
        getsockname(listener, (struct sockaddr *)&a, &size) != 0) {
        bench_die("listening on loopback: %s", strerror(errno));
    }
    bench_write_all(p->control, &a.sin_port, sizeof(a.sin_port));
    for (uint32_t i = 0; i < p->connections; i++) {
        int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
        if (fd < 0) {
            bench_die("accept: %s", strerror(errno));
        }
        no_delay(fd);
        p->lanes[i] = (lane){.fd = fd};
        bench_write_all(p->control, &i,
                        1); /* one at a time, so that both sides number them alike */
    }
    close(listener);
}

void sockets_initiator_connect(pair *p) {
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    if (!bench_read_all(p->control, &a.sin_port, sizeof(a.sin_port))) {
        bench_die("the target process ended");
    }
    for (uint32_t i = 0; i < p->connections; i++) {
        int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) != 0) {
            bench_die("connecting on loopback: %s", strerror(errno));
        }
        no_delay(fd);
        p->lanes[i] = (lane){.fd = fd};
        uint8_t accepted;
        if (!bench_read_all(p->control, &accepted, 1)) {
            bench_die("the target process ended");
        }
    }
}
