// libibverbs_loop: a device that exists in this process only, as strict as one can be. It stands in
// for libibverbs (TENT_LIBIBVERBS) in tests of the rdma transport; this is how a test rules it.
//
// Four devices, loop0 to loop3, one RoCE port each, all on one fabric. Whatever a program may not
// do with verbs ends it with a sentence: entries that overrun a completion queue, objects destroyed
// before what hangs on them, events that were not acknowledged, wrong arguments. Bytes move by
// memcpy when anyone polls a completion queue or asks to be notified, never by themselves: what
// happens is the same in every run. Any thread may call anything.
//
// Keys are random and lkey is never rkey; bits and bytes that a device need not set are junk.
// A device's folders in sysfs are ibv_device::dev_path and ibdev_path: with the device the first
// goes at once and the second when nobody has it open, as in the kernel's.
#ifndef TENT_TESTS_VERBS_LOOP_H
#define TENT_TESTS_VERBS_LOOP_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define LOOP_DEVICES 4u

// What becomes of the requests that a device (or a queue pair) sends.
enum loop_mode {
    LOOP_PASS = 0,
    // They leave and stay under way, whatever becomes of their sender, until it is LOOP_PASS.
    LOOP_HOLD = 1,
    // They are lost and sent again and again, until it is LOOP_PASS, or `expire`.
    LOOP_DROP = 2,
    // They arrive and do their work; who sent them is not told until it is LOOP_PASS.
    LOOP_HOLD_ACK = 3,
};

// Of a device; read when it is opened or asked, most at each use.
struct loop_limits {
    uint64_t max_mr_size;
    uint32_t max_msg_sz, max_mr, max_mw, max_qp, max_qp_wr, max_cqe, max_inline, max_rd_atomic;
    uint32_t active_mtu;  // enum ibv_mtu
    uint32_t windows, on_demand, atomics;
    uint32_t iwarp;       // it says that it is one
    uint32_t flush_held;  // requests of a queue pair in error do not come back
};

struct loop_api {
    // Everything as in the beginning; returns how many objects were still there (and stay).
    uint32_t (*reset)(void);
    struct loop_limits *(*limits)(uint32_t device);
    void (*mode)(uint32_t device, enum loop_mode mode);
    // LOOP_PASS: as its device. Holds for what it sent also when it is gone.
    void (*qp_mode)(uint32_t number, enum loop_mode mode);
    // What may move, moves. Also done by every poll.
    void (*step)(void);
    // The sender's patience ends: the first request without an answer on every queue pair of the
    // device that has one fails with RETRY_EXC, the queue pair is in error.
    void (*expire)(uint32_t device);
    // The queue pair fails by itself, and an event says so.
    void (*qp_fatal)(uint32_t number);
    // The nth call of that verb from now (1: the next) fails with that error; for_good: all later
    // ones too; nth 0: none any more. "post_send", "reg_mr", ...; "request": of the requests
    // that are posted; "doorbell": behind them, as of software devices, whose requests may be done
    // all the same; "any": of all that may fail.
    void (*fail)(const char *verb, uint64_t nth, int error, int for_good);
    uint64_t (*struck)(void);             // calls that failed that way, since fail() of some
    uint64_t (*calls)(const char *verb);  // since reset
    // PORT_ERR or PORT_ACTIVE follow.
    void (*port)(uint32_t device, int up);
    void (*event)(uint32_t device, int type);  // enum ibv_event_type, of the port or the device
    // The last address of the port's table (the IPv4 one of RoCE v2); nullptr: there is none.
    void (*gid)(uint32_t device, const uint8_t *gid);
    // It goes: nothing moves on it any more, all calls but those that end something fail (EIO).
    // tell: with DEVICE_FATAL; else with PORT_ERR alone, as software devices do.
    void (*remove)(uint32_t device, int tell);
    void (*bring_back)(uint32_t device);
    uint32_t (*contexts)(uint32_t device);  // open ones, of every life of it
    // modify_qp to RTR waits; 0: goes on. Returns how many wait now.
    uint32_t (*block_rtr)(int block);
    // Objects alive: "context", "pd", "mr", "mw", "cq", "channel", "qp", "list"; "all".
    uint32_t (*live)(const char *kind);
    // Numbers of the live queue pairs of a device, oldest first; returns how many.
    uint32_t (*qps)(uint32_t device, uint32_t *numbers, uint32_t room);
    uint64_t (*landed)(void);   // requests that did their work at the target, since reset
    uint64_t (*refused)(void);  // that were refused there
};

const struct loop_api *tent_loop(void);

#ifdef __cplusplus
}
#endif

#endif
