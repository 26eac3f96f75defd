/* plugin.h - the contract between TENT's core and a transport plugin.
 *
 * For transport authors. A plugin is one shared object, libtent_plugin_<name>.so, exporting one
 * function, tent_plugin_query. It sees this header, tent.h's constants, the standard library and
 * its vendor's library (by dlopen). C11; a plugin may be written in anything that can produce such
 * a table.
 *
 * Rules
 *   - Threads: the core calls one instance from one thread at a time (not always the same thread).
 *     The exceptions: work(), for transports whose bytes are moved by the processor, and the
 *     registration of regions where the flags say so. A plugin creates no threads; what may block
 *     it gives to host->errand. All host functions may be called only from inside a plugin
 *     function; but for crc32c none from work(), but for crc32c and errand none from an errand, and
 *     from region_register that is called aside only now_ns, log, fail, errand and crc32c.
 *   - Nothing blocks. Set-up of connections is asynchronous: it makes progress in poll() and
 *     reports through host->endpoint_state. post() and poll() allocate nothing and take no lock.
 *   - Status values are tent.h's. A failing function may leave one sentence with host->fail.
 *   - `size` first in every struct; a reader uses only the fields that lie inside it. Functions are
 *     added at the end of tables; a NULL optional function means "not offered". Structs are valid
 *     during the call only.
 *
 * Life of an endpoint (initiator I, target T); E is the initiator's endpoint number:
 *   I: endpoint_offer  -> offer  -- control channel -->  T: endpoint_accept (bound to a grant)
 *   I: endpoint_connect(answer)  <-- control channel --  answer
 *   I: then asynchronously host->endpoint_state(READY) or (FAILED).
 *   Socket transports connect to `peer_address` (the peer core's listener), send
 *   host->opening_make's bytes first and check the peer's reply with host->opening_check; at the
 *   target the core accepts, verifies and hands the socket over by endpoint_adopt.
 *   I: post / poll ... endpoint_close. T: poll ... endpoint_retire.
 *
 * The fence: when endpoint_close has returned TENT_OK at the initiator, nothing posted on that
 * endpoint touches local memory any more; when endpoint_retire has returned TENT_OK at the target,
 * nothing that arrived or may still arrive on that endpoint touches the target's memory any more.
 * TENT_IN_PROGRESS from either means: not yet, call again.
 */
#ifndef TENT_PLUGIN_H
#define TENT_PLUGIN_H

#include "tent.h"

#ifdef __cplusplus
extern "C" {
#endif

#define TENT_PLUGIN_ABI 1u
/* opening frame of a data connection, initiator -> target */
#define TENT_OPENING_SIZE 128u
#define TENT_OPENING_REPLY_SIZE 64u /* its reply */
#define TENT_OFFER_MAX 512u         /* bytes of an offer or an answer */
#define TENT_EXPORT_MAX 256u        /* bytes of region_export */
#define TENT_RAIL_ADDRESS_MAX 64u   /* text, NUL included */

/* One option of a rail or of the transport, as written in the plan. */
typedef struct tent_option {
    const char *name;
    const char *value;
} tent_option;

typedef struct tent_rail_params {
    uint32_t size;
    uint32_t index;     /* the plan's rail number */
    const char *device; /* the plan's device word, "eth0", "lo", "127.0.0.1" */
    /* the rail's options that the core does not know itself, prefix already stripped */
    const tent_option *options;
    uint32_t option_count;
    uint32_t reserved;
} tent_rail_params;

typedef struct tent_rail_info {
    uint32_t size;
    uint32_t flags;                 /* TENT_RAIL_LISTENS */
    uint64_t bandwidth_bytes_per_s; /* port speed; 0: unknown */
    int32_t numa;                   /* -1: unknown */
    uint32_t reserved;
    /* sockets: the IP address; others: any text peers' rail_reach understands */
    char address[TENT_RAIL_ADDRESS_MAX];
} tent_rail_info;

/* the core's listener must listen on `address`, its sockets come by endpoint_adopt */
#define TENT_RAIL_LISTENS 1u

typedef struct tent_region_params {
    uint32_t size;
    uint32_t access; /* TENT_ACCESS_* */
    void *address;
    uint64_t length;
    const char *location;
    /* A sealed memfd of this process that is mapped there (memory of tent_memory_alloc), -1: none;
     * the region begins memory_offset bytes into it. Valid during the call only: duplicate it. */
    int32_t memory_fd;
    uint32_t reserved;
    uint64_t memory_offset;
} tent_region_params;

typedef struct tent_endpoint_params {
    uint32_t size;
    uint32_t initiator;    /* 1: we post; 0: we serve */
    uint64_t endpoint;     /* the core's name of this endpoint, for host calls */
    void *rail;            /* our rail, from rail_open */
    uint64_t grant;        /* target: pass to host->grant_check */
    const char *peer_rail; /* the peer's tent_rail_info.address */
    /* sockets: "ip:port" of the peer's listener on that rail; "" when it has none */
    const char *peer_address;
    const void *blob; /* accept: the offer; connect: the answer */
    uint32_t blob_size;
    /* most slices the core will have posted on this endpoint at a time */
    uint32_t slice_count_max;
} tent_endpoint_params;

/* CRC32C over the payload, checked by the side that receives the payload */
#define TENT_SLICE_INTEGRITY 1u

/* One unit of work. Slices of one post() call may be sent together in one frame or doorbell. */
typedef struct tent_slice {
    uint64_t id;    /* returned in the result */
    uint32_t op;    /* TENT_OP_* */
    uint32_t flags; /* TENT_SLICE_* */
    void *local;
    uint64_t remote;
    uint64_t length;     /* > 0, <= 1 GiB */
    void *local_region;  /* from region_register; NULL if the plugin offers none */
    void *remote_region; /* from segment_import; NULL if the plugin offers none */
} tent_slice;

typedef struct tent_slice_result {
    uint64_t id;
    /* TENT_OK: a write is in the target's memory, a read is in ours. TENT_E_NO_PATH: nothing was
     * posted, for this endpoint does not reach one of the two regions (which is registered on other
     * rails only, say): another endpoint is to take it, and this one is well. */
    int32_t status;
    uint32_t reserved;
} tent_slice_result;

/* What the core offers to a plugin. ctx is passed back as first argument. */
typedef struct tent_host {
    uint32_t size;
    uint32_t abi;
    void *ctx;
    /* A decorator (fault) gets the table of the transport it decorates; NULL otherwise. */
    const struct tent_plugin *inner;
    uint64_t (*now_ns)(void *ctx);     /* the engine's clock: monotonic, or the manual one */
    uint64_t (*random_u64)(void *ctx); /* the engine's seeded generator */
    void (*log)(void *ctx, int32_t status, const char *sentence); /* becomes an event */
    /* Leaves the sentence for the plugin function that is about to return an error. */
    void (*fail)(void *ctx, const char *sentence);
    /* Target: may the holder of `grant` do `op` on [remote, remote+length)? TENT_OK, or RANGE /
     * DENIED / STALE. To be asked for every slice, before the first byte of it is written or
     * read. Cheap (tens of ns). */
    int32_t (*grant_check)(void *ctx, uint64_t grant, uint32_t op, uint64_t remote,
                           uint64_t length);
    /* Asynchronous news of an endpoint: status TENT_OK: ready; negative: failed (after it, every
     * posted slice must come back through poll, and the core will call endpoint_close or
     * endpoint_retire). sentence may be NULL. */
    void (*endpoint_state)(void *ctx, uint64_t endpoint, int32_t status, const char *sentence);
    /* Target: bytes served, for the counters. */
    void (*served)(void *ctx, uint64_t endpoint, uint32_t op, uint64_t bytes);
    /* Sockets: writes the TENT_OPENING_SIZE bytes with which data connection number `connection`
     * of the endpoint opens. */
    int32_t (*opening_make)(void *ctx, uint64_t endpoint, uint32_t connection, void *opening);
    /* Sockets: checks the TENT_OPENING_REPLY_SIZE bytes the peer answered. AUTH or STALE when it
     * is not our peer. */
    int32_t (*opening_check)(void *ctx, uint64_t endpoint, uint32_t connection, const void *reply);
    /* CRC32C (Castagnoli) of data, continuing from crc (0 to begin). Any thread. */
    uint32_t (*crc32c)(uint32_t crc, const void *data, uint64_t size);
    /* A message (<= TENT_OFFER_MAX bytes) to the plugin at the other end, over the authenticated
     * control channel; arrives at endpoint_message. Returns AGAIN when it cannot be queued now.
     */
    int32_t (*control_send)(void *ctx, uint64_t endpoint, const void *bytes, uint32_t size);
    /* News of a rail as a whole (port, link): TENT_OK: it is up; negative: down, every endpoint on
     * it is abandoned at once and none is tried until it is up again. rail: the plan's number.
     * sentence may be NULL. Sockets need not call it: the core watches the system's links itself.
     */
    void (*rail_state)(void *ctx, uint32_t rail, int32_t status, const char *sentence);
    /* Up to `count` helper threads shall call work() now: each wakes and goes on until work()
     * returns 0. May cost a system call; does nothing where there are no helpers. */
    void (*work_ready)(void *ctx, uint32_t count);
    /* Target: what `grant` allows on the whole of [remote, remote+length), TENT_ACCESS_* bits; 0:
     * nothing, or it has ended. For handing out a way to the memory itself: unlike grant_check it
     * is no access, so that a no is neither counted nor reported. */
    uint32_t (*grant_access)(void *ctx, uint64_t grant, uint64_t remote, uint64_t length);
    /* Has run(argument) called once, soon, by a thread of the engine's apart from those that
     * drive: for what blocks (the kernel resolving a peer's address, pages being pinned). Several
     * run at a time, in any order; run tells the plugin by means of the plugin's own when it is
     * done, and calls no more of the host. Where no thread can be had, and in an engine that is
     * stepped by hand, it runs before this returns. Any thread that is inside a plugin function
     * may call it. The core waits for the end of all errands before it calls close. */
    void (*errand)(void *ctx, void (*run)(void *argument), void *argument);
} tent_host;

typedef struct tent_plugin_options {
    uint32_t size;
    uint32_t option_count;
    /* the plan's `set <transport>.<name>=<value>` lines, prefix stripped */
    const tent_option *options;
    uint32_t rails_max;
    uint32_t endpoints_max;
    /* slices posted at a time on all endpoints together: size pools by it */
    uint32_t slices_max;
    /* helper threads that may be inside work() at a time; 0: none, work() is never called */
    uint32_t helpers;
} tent_plugin_options;

typedef struct tent_plugin {
    uint32_t size;
    uint32_t abi;     /* TENT_PLUGIN_ABI the plugin was compiled with */
    const char *name; /* "tcp" */
    const char *version;
    const char *summary; /* one line for `tent transports` */

    /* Is the transport usable on this machine (vendor library present, permissions)? TENT_OK, or
     * PLUGIN with the reason written to reason. Needs no instance; any thread, at any time. */
    int32_t (*available)(char *reason, uint32_t reason_size);
    /* Opens an instance. host stays valid until close. Unknown options: INVALID with a sentence
     * naming the option. */
    int32_t (*open)(const tent_host *host, const tent_plugin_options *options, void **instance);
    /* Closes an instance; the core has closed and retired every endpoint and released regions and
     * rails before. */
    void (*close)(void *instance);

    /* Rails. rail_open takes one that the plan names. Unknown options: INVALID. */
    int32_t (*rail_open)(void *instance, const tent_rail_params *params, void **rail,
                         tent_rail_info *info);
    void (*rail_close)(void *instance, void *rail);
    /* How well our rail reaches a peer's rail of this transport: 0 not at all, higher is better
     * (sockets: 1 same family, 2 same subnet). */
    int32_t (*rail_reach)(void *instance, void *rail, const char *peer_rail);
    /* The rails this machine could offer, for discovery: fills infos and device names, returns
     * how many there are (room 0: only counts). Needs no instance; any thread, at any time; must
     * not block for long. */
    uint32_t (*rails)(tent_rail_info *infos, uint32_t stride, char (*devices)[32], uint32_t room);

    /* Memory. Optional (NULL: the transport needs no registration). region_register may take long
     * where pages are pinned: with TENT_PLUGIN_REGISTERS_ASIDE it is called by any thread, several
     * at a time, while other functions of the instance run; region_release never is. Memory that
     * only some rails can reach is no error: slices on it go over those, and region_about says why
     * not over the others. region_release returns
     * TENT_IN_PROGRESS until no remote operation touches it any more (call again after poll); the
     * core refuses new accesses from before the first call. A plugin that writes to memory itself
     * (tcp) implements region_release at least. */
    int32_t (*region_register)(void *instance, const tent_region_params *params, void **region);
    int32_t (*region_export)(void *instance, void *region, void *bytes, uint32_t *size);
    int32_t (*region_release)(void *instance, void *region);
    int32_t (*segment_import)(void *instance, const void *bytes, uint32_t size,
                              void **remote_region);
    void (*segment_forget)(void *instance, void *remote_region);

    /* Endpoints; see the life above. offer/answer: *size in: room (TENT_OFFER_MAX), out: bytes
     * written, 0 is fine. */
    int32_t (*endpoint_offer)(void *instance, const tent_endpoint_params *params, void **endpoint,
                              void *offer, uint32_t *size);
    int32_t (*endpoint_accept)(void *instance, const tent_endpoint_params *params, void **endpoint,
                               void *answer, uint32_t *size);
    int32_t (*endpoint_connect)(void *instance, void *endpoint, const tent_endpoint_params *params);
    /* Sockets: takes over a connected, verified, non-blocking socket. On error the core closes
     * it. */
    int32_t (*endpoint_adopt)(void *instance, void *endpoint, uint32_t connection, int fd);
    /* optional */
    void (*endpoint_message)(void *instance, void *endpoint, const void *bytes, uint32_t size);
    /* Initiator, local fence: stops it. Unfinished slices still come back through poll, as
     * CANCELLED. After TENT_OK the core does not name the handle again (the plugin frees it when
     * the last result was polled). */
    int32_t (*endpoint_close)(void *instance, void *endpoint);
    /* Target, remote fence. On TENT_OK the handle is gone. */
    int32_t (*endpoint_retire)(void *instance, void *endpoint);

    /* Data path. post takes a prefix of the slices and returns its length (0: full now). Work
     * taken is done even if poll is called late; it may be sent at once or in poll. */
    uint32_t (*post)(void *instance, void *endpoint, const tent_slice *slices, uint32_t count);
    /* Makes progress in both roles and returns finished slices, any order, each id exactly once.
     * *busy is set to 1 when anything at all moved (bytes, frames, connections), so that the
     * driver keeps spinning. */
    uint32_t (*poll)(void *instance, tent_slice_result *results, uint32_t room, uint32_t *busy);
    /* A descriptor that polls readable when poll() would find something to do; -1: none (the core
     * then polls by timer). It belongs to the plugin. Called once after open. */
    int (*event_fd)(void *instance);
    /* Optional: time (engine clock) at which poll must run again at the latest, UINT64_MAX: none.
     * Asked after the last poll before nobody drives, so that peers may be told to wake us. */
    uint64_t (*next_ns)(void *instance);
    /* Optional hint, between post and poll of one duty cycle: everything for now was posted, send
     * it. */
    void (*flush)(void *instance);

    /* Carrier of control messages. Optional, all or none: reliable, ordered byte streams between
     * cores, which then take the place of the core's sockets in an engine that listens on
     * "<transport>://host:port" (the simulated fabric; sockets need none of this). Addresses are
     * "host:port" as the core's descriptors carry them. Nothing blocks; progress is made in
     * poll(), and a stream that turned readable, writable again, established or broken sets
     * *busy there (and event_fd, where there is one).
     *
     * stream_listen: peers may connect to `address` from now on; port 0 takes any free one; *port
     * receives the one taken. BUSY: taken. */
    int32_t (*stream_listen)(void *instance, const char *address, uint16_t *port);
    /* Begins to connect; the stream may be written to once stream_state says TENT_OK. */
    int32_t (*stream_connect)(void *instance, const char *address, void **stream);
    /* TENT_OK: one more stream to our listener, `from` (64 bytes) receives the other side's
     * address as text; AGAIN: none waits. */
    int32_t (*stream_accept)(void *instance, void **stream, char *from);
    /* IN_PROGRESS: connecting; TENT_OK: established, also when the other side has closed but bytes
     * are left to receive; PEER: refused, lost or closed. While connecting, PEER means that nobody
     * listens there; another error: no way there now, and the core tries again. */
    int32_t (*stream_state)(void *instance, void *stream);
    /* Takes a prefix of the bytes and returns its length, 0: full now; negative: broken. */
    int64_t (*stream_send)(void *instance, void *stream, const void *bytes, uint64_t size);
    /* Returns the bytes received, 0: none now; negative: closed by the other side or broken;
     * TIMEOUT among these: cut off, and the other side may be well. */
    int64_t (*stream_receive)(void *instance, void *stream, void *bytes, uint64_t room);
    /* Bytes accepted before it are still delivered. The handle is gone. */
    void (*stream_close)(void *instance, void *stream);

    /* Optional: bytes that have moved on the endpoint in either direction as far as the transport
     * knows (sockets: acknowledged by the peer's system, and received); never falls. Asked when a
     * slice is late, to tell a slow path from a dead one; may cost a system call. Without it a late
     * slice means silence. */
    uint64_t (*endpoint_progress)(void *instance, void *endpoint);

    /* What the transport is, for those who plan. A table that ends before says: host memory, no
     * flags, options unknown. */
    uint32_t memory; /* TENT_MEMORY_*: what it reaches by itself; 0: HOST */
    uint32_t flags;  /* TENT_PLUGIN_* */
    /* All options that open and rail_open accept, and nothing else. Static. A text may be NULL
     * for "". */
    const tent_option_info *options;
    uint32_t option_count;
    /* from one to the next: sizeof(tent_option_info), or of a longer struct that begins with it */
    uint32_t option_stride;

    /* Optional: takes one piece of the work that post() was given, does it and returns 1; 0: none
     * is left. Called by the engine's helper threads (helper: 0 to helpers - 1, each by one thread
     * at a time) while any other function of the instance may run; must not block and must return
     * within a few hundred microseconds. Its results are returned by poll() as all are; until they
     * are, poll() sets *busy. The core has no thread in here when it calls close. */
    uint32_t (*work)(void *instance, uint32_t helper);
    /* Optional hint, initiator: slices on the endpoint may name this remote region (of
     * segment_import, not yet forgotten) from now on. Called between endpoint_offer and
     * endpoint_connect, and later for regions that are new. */
    void (*endpoint_region)(void *instance, void *endpoint, void *remote_region);
    /* Optional, for those who look: one line on how slices of the endpoint reach that remote
     * region (NULL: regions that say nothing of themselves), NUL-terminated, at most `size` bytes.
     */
    void (*endpoint_about)(void *instance, void *endpoint, void *remote_region, char *text,
                           uint32_t size);
    /* Optional, for those who look: how a region of ours is registered, one line for each rail with
     * the reason and the remedy where it is not; NUL-terminated, at most `size` bytes. */
    void (*region_about)(void *instance, void *region, char *text, uint32_t size);
    /* Optional, initiator: a result of TENT_OK says that a write was acknowledged, but another path
     * (a notice) could overtake its last bytes on their way into the target's memory. Asked before
     * a notice goes out, again and again until it says TENT_OK: all writes whose results poll had
     * returned before the first call are visible to the target's processors. IN_PROGRESS: not yet;
     * another status: it cannot be told on this endpoint any more (it has failed; its fence says
     * it). *mark is 0 in the first call and belongs to the plugin after that. */
    int32_t (*endpoint_settle)(void *instance, void *endpoint, uint64_t *mark);
} tent_plugin;

/* The one exported symbol. abi is the core's TENT_PLUGIN_ABI; a plugin that cannot serve it
 * returns NULL. The table is static and lives as long as the library is loaded. */
TENT_API const tent_plugin *tent_plugin_query(uint32_t abi);

#ifdef __cplusplus
}
#endif
#endif
