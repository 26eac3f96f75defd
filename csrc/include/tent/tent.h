/* tent.h - the public C interface of TENT, the transfer engine.
 *
 * For programs that move registered memory. C11, no inline functions, no C++. Every declaration is
 * a contract: meaning, units, ownership, threads, blocking, errors. Interface version 1.
 *
 * Conventions
 *   - A function that can fail returns 0 (TENT_OK) or a negative TENT_E_*; TENT_IN_PROGRESS (1)
 *     means "not yet". After a failure tent_last_error() holds one sentence for the calling
 *     thread: what, where, what to do.
 *   - Every function may be called from any thread, unless its comment says otherwise. None calls
 *     back.
 *   - Handles are uint64_t, never 0, never reused within an engine: a stale one is
 *     TENT_E_NOT_FOUND, not a crash.
 *   - Structs given by the caller begin with `size` = sizeof(the struct as compiled): the library
 *     reads no more than that, and fields beyond it have their documented default (0). Arrays of
 *     structs travel with their stride, for the same reason.
 *   - Times are nanoseconds, sizes are bytes. A timeout of 0 polls, TENT_FOREVER waits.
 *   - After fork() the child's engine is dead: every call with it returns TENT_E_FORKED and
 *     nothing is closed or sent on the parent's behalf.
 */
#ifndef TENT_TENT_H
#define TENT_TENT_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#ifndef TENT_API
#define TENT_API __attribute__((visibility("default")))
#endif

/* cdef: begin - from here to "cdef: end" the Python binding's generator reads along */

/* ---- status -------------------------------------------------------------------------------- */

#define TENT_OK 0
#define TENT_IN_PROGRESS 1
#define TENT_E_INVALID -1 /* an argument is wrong; the sentence says which */
/* a pool, ring or limit is full now; wait for completions and call again */
#define TENT_E_AGAIN -2
#define TENT_E_NO_MEMORY -3 /* the system refused memory */
#define TENT_E_TIMEOUT -4   /* the time given ran out; what was asked may still be going on */
/* terminal: cancelled by tent_batch_cancel, a close, or engine close */
#define TENT_E_CANCELLED -5
/* no such batch, region, segment, grant: never existed or already closed */
#define TENT_E_NOT_FOUND -6
/* an address range lies in no registered (local) or granted (remote) region */
#define TENT_E_RANGE -7
/* the region or the grant does not allow this direction, or it was revoked */
#define TENT_E_DENIED -8
/* the peer was restarted (new epoch) or a token or descriptor is outdated */
#define TENT_E_STALE -9
/* no rail of ours reaches a rail of the peer with a common transport */
#define TENT_E_NO_PATH -10
#define TENT_E_PEER -11      /* the peer cannot be reached or was lost */
#define TENT_E_TRANSPORT -12 /* a rail or endpoint failed and no other could finish the work */
#define TENT_E_CORRUPT -13   /* a checksum did not match */
/* foreign bytes are malformed: a descriptor, a frame */
#define TENT_E_PROTOCOL -14
#define TENT_E_AUTH -15 /* the handshake failed: another key, or none */
#define TENT_E_PLAN -16 /* the plan has a mistake; the sentence names line and column */
/* a transport plugin is missing, of an unknown version, or unavailable */
#define TENT_E_PLUGIN -17
#define TENT_E_BUSY -18   /* in use: a region with requests in flight, a port taken */
#define TENT_E_CLOSED -19 /* the engine, batch or segment is closed or closing */
#define TENT_E_FORKED -20 /* this process is a fork of the one that opened the engine */
/* terminal, local memory quiescent, but the remote range may still be written late */
#define TENT_E_UNFENCED -21
/* terminal, but a device may still touch local memory: it stays pinned */
#define TENT_E_UNFENCED_LOCAL -22
#define TENT_E_INTERNAL -23 /* a broken invariant of ours; the engine refuses further work */
/* two destinations of one batch overlap (only with TENT_BATCH_CHECK_OVERLAP) */
#define TENT_E_OVERLAP -24
/* the operating system refused; the sentence carries its reason */
#define TENT_E_SYSTEM -25
#define TENT_E_UNSUPPORTED -26 /* known, but not by this build, transport or mode */

#define TENT_FOREVER 0xffffffffffffffff

/* Version of the library, e.g. "0.1.0". Static storage. Never fails. */
TENT_API const char *tent_version(void);
/* Name of a status ("TENT_E_RANGE"; "TENT_E_?" for an unknown one) and a sentence on its meaning.
 * Static storage. */
TENT_API const char *tent_status_name(int32_t status);
TENT_API const char *tent_status_text(int32_t status);
/* The sentence of the calling thread's last failed call; "" when there was none. Valid until the
 * thread's next call. */
TENT_API const char *tent_last_error(void);
/* Monotonic clock of the engine in threaded mode (CLOCK_MONOTONIC), for comparing with event
 * times. */
TENT_API uint64_t tent_now_ns(void);

/* ---- engine -------------------------------------------------------------------------------- */

typedef struct tent_engine tent_engine;

/* no thread: nothing happens until tent_engine_step; single-threaded use only */
#define TENT_ENGINE_MANUAL 1

typedef struct tent_engine_options {
    uint32_t size;
    uint32_t flags; /* TENT_ENGINE_* */
    /* for reports and peers' messages, at most 63 bytes; NULL: "pid-<pid>" */
    const char *name;
    /* "host:port", port 0 = any free; NULL: "127.0.0.1:0"; "none": do not listen. The rails'
     * addresses are listened on too, on the same port. A non-loopback address without a key is
     * refused (TENT_E_AUTH). "<transport>://host:port": control messages travel through that
     * transport of the plan instead of sockets (the simulated fabric); every plan of the engine
     * must have a rail of it (INVALID), the transport must offer it, and no rail may need
     * sockets (UNSUPPORTED). */
    const char *listen;
    /* addresses told to peers instead of those listened on (NAT), "host[:port],..." */
    const char *advertise;
    /* plan text (docs/plan-format.md); NULL: one tcp rail on the listen address */
    const char *plan;
    /* folders searched first, ':' between; then TENT_PLUGIN_PATH, then the installed folder */
    const char *plugin_path;
    /* shared secret of all engines that may talk, >= 16 bytes; copied; NULL: see key_file */
    const void *key;
    uint64_t key_size;
    /* file holding the secret (0600, raw bytes, trailing newline stripped). NULL: TENT_KEY_FILE
     * from the environment, else (loopback only) a per-user file made on first use */
    const char *key_file;
    /* manual mode: seed of ids, nonces and jitter; 0 (and threaded mode): from the system */
    uint64_t seed;
    /* a driver spins this long without work before it sleeps; 0: default (50 us) */
    uint64_t spin_ns;
    /* threads: one drives the duty cycle, the others help where a transport's bytes are moved by
     * the processor (they start with the first such transport, and sleep when there is nothing to
     * do). 0: as many as the process has cores, at most 4; at most 16. Manual mode: none. */
    uint32_t workers;
    uint32_t requests_max;    /* requests not yet closed with their batch; 0: 65536 */
    uint32_t slices_max;      /* slices in flight; 0: 4096 */
    uint32_t batches_max;     /* open batches; 0: 4096 */
    uint32_t completions_max; /* unread completions; 0: 65536 */
    uint32_t events_max;      /* unread events, the oldest are dropped and counted; 0: 4096 */
    uint32_t notices_max;     /* unread notices; senders are held back when full; 0: 4096 */
} tent_engine_options;

/* Opens an engine: installs the plan, loads its plugins, listens, starts the worker. options may
 * be NULL. Blocks for file and socket set-up only (no peer is contacted). Errors: INVALID, PLAN,
 * PLUGIN, AUTH (non-loopback without key), BUSY (port taken), SYSTEM, NO_MEMORY. */
TENT_API int32_t tent_engine_open(const tent_engine_options *options, tent_engine **engine);
/* Ends every request (CANCELLED, or its real end if that comes first; UNFENCED where a peer does
 * not answer within the plan's fence_timeout), closes batches, segments, regions, and frees the
 * engine. Blocks until local memory is quiescent, peers' accesses included. The handle must not be
 * used afterwards, nor by other threads during the call. A tent_batch_wait blocked in another
 * thread returns its batch's end, other blocked calls TENT_E_CLOSED. NULL is allowed. Errors:
 * UNFENCED_LOCAL (the engine is closed all the same, but after the plan's fence_timeout a peer that
 * has stopped in the middle of it may still access what was registered: do not reuse it; what
 * tent_memory_alloc gave stays mapped), FORKED. */
TENT_API int32_t tent_engine_close(tent_engine *engine);
/* Manual mode: one duty cycle at time now_ns (must not decrease). Returns TENT_OK, or
 * TENT_IN_PROGRESS when it did something and should be called again. Errors: INVALID when the
 * engine is not manual or time runs back. */
TENT_API int32_t tent_engine_step(tent_engine *engine, uint64_t now_ns);
/* Writes "host:port" of the first advertised address, NUL-terminated. Errors: INVALID (no
 * listener, buffer too small). */
TENT_API int32_t tent_engine_address(tent_engine *engine, char *text, uint64_t text_size);

/* ---- plan ---------------------------------------------------------------------------------- */

/* Checks a plan without installing it (no plugin is loaded). Errors: PLAN with line and column in
 * the sentence. */
TENT_API int32_t tent_plan_check(const char *text, uint64_t text_size);
/* Checks a plan and writes its canonical form, NUL-terminated; *size in: room, out: bytes needed
 * with the NUL. Errors: PLAN, AGAIN (room too small, *size says how much). */
TENT_API int32_t tent_plan_render(const char *text, uint64_t text_size, char *out, uint64_t *size);
/* Installs a plan: new requests use it, running ones finish under the old. Atomic: on error the
 * old plan stays. *generation (may be NULL) receives its number (first plan = 1). Errors: PLAN,
 * PLUGIN, SYSTEM, INVALID (without the transport that carries the control messages). */
TENT_API int32_t tent_plan_install(tent_engine *engine, const char *text, uint64_t text_size,
                                   uint32_t *generation);
/* The installed plan in canonical form; like tent_plan_render. */
TENT_API int32_t tent_plan_installed(tent_engine *engine, char *out, uint64_t *size);

/* ---- memory -------------------------------------------------------------------------------- */

#define TENT_ACCESS_READ 1  /* peers may read */
#define TENT_ACCESS_WRITE 2 /* peers may write */

typedef struct tent_region_options {
    uint32_t size;
    uint32_t access;      /* TENT_ACCESS_* bits that peers may be granted; 0: local use only */
    const char *location; /* "cpu:0", "cuda:3"; NULL: "cpu:N", the NUMA node of its first page */
    const char *label;    /* shown to peers, at most 31 bytes; NULL: "" */
} tent_region_options;

/* Registers [address, address+length) so that it can be a local side of requests and, by access,
 * a remote side for peers. The memory must stay mapped until released. Regions may overlap one
 * another. options NULL: READ|WRITE. Peers that hold a grant over all regions learn of it at
 * once. Blocks while pages are pinned (rdma), others drive meanwhile. A transport may serve the
 * region on some of its rails only, see tent_region_about. Errors: INVALID (NULL, 0, wraps around),
 * AGAIN (too many), and what a transport in strict mode cannot register. */
TENT_API int32_t tent_region_register(tent_engine *engine, void *address, uint64_t length,
                                      const tent_region_options *options, uint64_t *region);
/* Writes how the transports have registered it, NUL-terminated: a line for each rail that pins
 * memory, "rdma: rail 0 mlx5_0: ..." with the reason and the remedy where it could not. *size in:
 * room; out: bytes needed. Blocks briefly. Errors: NOT_FOUND, AGAIN (buffer too small, text NULL),
 * INVALID. */
TENT_API int32_t tent_region_about(tent_engine *engine, uint64_t region, char *text,
                                   uint64_t *size);
/* Releases a region: new remote accesses are refused, running ones end, then it returns;
 * afterwards no byte of it is touched. Errors: NOT_FOUND, BUSY (own requests use it; manual mode:
 * running accesses have not ended, step the engine and call again), UNFENCED_LOCAL (a transport
 * has not let go within the plan's fence_timeout: keep the memory, and call again). */
TENT_API int32_t tent_region_release(tent_engine *engine, uint64_t region);
/* Writes the location a region was registered with, as given or found, NUL-terminated. Errors:
 * NOT_FOUND, INVALID (buffer too small: 32 bytes always do). */
TENT_API int32_t tent_region_location(tent_engine *engine, uint64_t region, char *text,
                                      uint64_t text_size);
#define TENT_ALLOC_BIND 1    /* on the NUMA node `node`, and on no other */
#define TENT_ALLOC_PRIVATE 2 /* of this process alone: no peer ever maps it */

/* reserved huge pages where they are free and fit, else transparent ones, else normal ones */
#define TENT_HUGE_AUTO 0
#define TENT_HUGE_NONE 1 /* normal pages */
#define TENT_HUGE_2M 2   /* reserved pages of 2 MiB, or NO_MEMORY */
#define TENT_HUGE_1G 3   /* reserved pages of 1 GiB, or NO_MEMORY */

typedef struct tent_memory_options {
    uint32_t size;
    uint32_t flags; /* TENT_ALLOC_* */
    /* what peers may ever be granted, TENT_ACCESS_*; 0: READ|WRITE. With READ alone the kernel
     * refuses every other process a writable mapping; our own stays writable. */
    uint32_t access;
    uint32_t node;     /* with TENT_ALLOC_BIND */
    uint32_t huge;     /* TENT_HUGE_* */
    uint32_t reserved; /* 0 */
    /* shown in /proc/<pid>/maps as "/memfd:tent:<label>", at most 31 bytes; NULL: "" */
    const char *label;
} tent_memory_options;

/* Memory fit for transfers (page aligned, zeroed, its pages present, NOT registered); length is
 * rounded up to pages. It is a sealed memfd: peers on the same host may map regions of it, and then
 * pay one copy. Where the system gives no memfd it is private memory, which works as well; see
 * tent_memory_about. A forked child finds the bytes as they are now, and its writes stay its own.
 * options NULL: all defaults. engine NULL: no engine's close frees it, else engine close frees what
 * is left. Blocks until all pages are there. Errors: INVALID (also: no such node), NO_MEMORY (with
 * what is needed and what is free), UNSUPPORTED (a size of pages that the kernel lacks), SYSTEM. */
TENT_API int32_t tent_memory_alloc_with(tent_engine *engine, uint64_t length,
                                        const tent_memory_options *options, void **address);
/* The same without options, of an engine. */
TENT_API int32_t tent_memory_alloc(tent_engine *engine, uint64_t length, void **address);
/* Frees it; release its regions before. engine: as it was allocated with. Anything else is INVALID.
 */
TENT_API int32_t tent_memory_free(tent_engine *engine, void *address);

/* What an allocation has become. */
typedef struct tent_memory_info {
    uint32_t size;
    uint32_t access;      /* TENT_ACCESS_* that peers may be granted */
    uint64_t address;     /* its first byte */
    uint64_t length;      /* as rounded up */
    uint64_t page_size;   /* of the pages it was made of; 2 MiB or 1 GiB: reserved ones */
    int32_t node;         /* it is bound to; -1: to none */
    uint32_t transparent; /* 1: the kernel was asked to join its pages to huge ones */
    uint32_t mappable;    /* 1: peers on the same host can map it */
    uint32_t reserved;
    char why[160]; /* not mappable: the reason, NUL-terminated; else "" */
    char label[32];
} tent_memory_info;

/* Tells about the allocation that an address lies in, whichever engine's. info->size is set by the
 * caller. Errors: INVALID, NOT_FOUND (no memory of tent_memory_alloc). */
TENT_API int32_t tent_memory_about(const void *address, tent_memory_info *info);

/* ---- segments: exporting ------------------------------------------------------------------- */

typedef struct tent_grant_options {
    uint32_t size;
    /* TENT_ACCESS_* at most; each region's own access limits it further; 0: READ|WRITE */
    uint32_t access;
    uint64_t expires_unix_ms; /* wall clock end of the grant; 0: never */
    const uint64_t *regions;  /* the regions granted; NULL: all, present and future */
    uint32_t region_count;
    uint32_t reserved;
} tent_grant_options;

/* Makes a grant with a random 128-bit token. Grant 0 exists always: all regions, their own
 * access; it is what a peer that calls tent_segment_open gets. Errors: INVALID, NOT_FOUND (a
 * region), AGAIN (too many grants). */
TENT_API int32_t tent_grant_create(tent_engine *engine, const tent_grant_options *options,
                                   uint64_t *grant);
/* Ends a grant: its endpoints are retired before this returns; later accesses are refused. Grant
 * 0 may be revoked: tent_segment_open by peers is refused from then on. Errors: NOT_FOUND; BUSY
 * (manual mode) and UNFENCED_LOCAL (after the plan's fence_timeout): it is revoked, but a transport
 * has not retired its endpoints yet; step the engine, and call again. */
TENT_API int32_t tent_grant_revoke(tent_engine *engine, uint64_t grant);
/* Writes the descriptor of a grant (0: the default one): opaque bytes to carry to peers by any
 * means; whoever holds them AND the engines' key may use the grant. *size in: room, out: bytes
 * needed. Errors: NOT_FOUND, AGAIN (room). */
TENT_API int32_t tent_segment_export(tent_engine *engine, uint64_t grant, void *bytes,
                                     uint64_t *size);

/* ---- segments: importing ------------------------------------------------------------------- */

/* Connects to the engine at "host:port" (IPv4, [IPv6]:port, or a name) and imports its default
 * grant. Waits until the control session stands, the descriptor is here and every planned
 * endpoint is ready or failed, at least one ready. timeout_ns 0 (and manual mode): returns
 * TENT_IN_PROGRESS with a handle; follow with tent_segment_wait. On failure no handle remains.
 * Errors: INVALID, PEER, AUTH, NO_PATH (the sentence says which transports each side has),
 * TIMEOUT, AGAIN. */
TENT_API int32_t tent_segment_open(tent_engine *engine, const char *address, uint64_t timeout_ns,
                                   uint64_t *segment);
/* The same from descriptor bytes. Also PROTOCOL (truncated or random bytes), STALE (the engine
 * was restarted), DENIED (unknown token, expired or revoked grant). The own engine's descriptor
 * works: transfers are plain copies. */
TENT_API int32_t tent_segment_import(tent_engine *engine, const void *bytes, uint64_t size,
                                     uint64_t timeout_ns, uint64_t *segment);
/* Waits for a segment begun with timeout 0: TENT_OK when usable, TENT_IN_PROGRESS after
 * timeout_ns, or the error. */
TENT_API int32_t tent_segment_wait(tent_engine *engine, uint64_t segment, uint64_t timeout_ns);
/* Fetches the peer's region list anew (deltas arrive by themselves; this waits for the present
 * state). */
TENT_API int32_t tent_segment_refresh(tent_engine *engine, uint64_t segment, uint64_t timeout_ns);
/* Closes the imported segment; requests in flight on it are cancelled and waited for. Errors:
 * NOT_FOUND; BUSY (manual mode: step the engine and call again); UNFENCED_LOCAL (a transport has
 * not let go of its endpoints in time: it stays closing, call again, or close the engine). */
TENT_API int32_t tent_segment_close(tent_engine *engine, uint64_t segment);

typedef struct tent_region_info {
    uint64_t region; /* the exporter's region handle */
    /* absolute address in the exporter's memory: what requests name as remote */
    uint64_t address;
    uint64_t length;
    uint32_t access; /* TENT_ACCESS_* this grant gives */
    uint32_t reserved;
    char location[32];
    char label[32];
} tent_region_info;

/* The segment's regions, ascending by address. *count in: room, out: how many there are (may
 * exceed room). Segment 0: this engine's own regions. */
TENT_API int32_t tent_segment_regions(tent_engine *engine, uint64_t segment,
                                      tent_region_info *regions, uint32_t stride, uint32_t *count);
/* Describes descriptor bytes as text, one fact per line, NUL-terminated, without the token. Needs
 * no engine. *size as in tent_plan_render. Errors: PROTOCOL with the offset of what is wrong,
 * AGAIN. */
TENT_API int32_t tent_descriptor_print(const void *bytes, uint64_t bytes_size, char *out,
                                       uint64_t *size);

/* ---- batches ------------------------------------------------------------------------------- */

#define TENT_OP_READ 1  /* remote -> local */
#define TENT_OP_WRITE 2 /* local -> remote */

#define TENT_CLASS_NORMAL 0
#define TENT_CLASS_HIGH 1
#define TENT_CLASS_LOW 2

#define TENT_COMPLETIONS_NONE 0  /* look with tent_batch_poll / tent_batch_wait */
#define TENT_COMPLETIONS_EACH 1  /* one record per request */
#define TENT_COMPLETIONS_BATCH 2 /* one record (index = UINT32_MAX) once a sealed batch is done */

/* refuse a submit whose destinations overlap within the batch (costs a sort) */
#define TENT_BATCH_CHECK_OVERLAP 1
/* CRC32C per slice, checked by the receiver of the bytes; a slice that fails it is sent again,
 * CORRUPT when that was in vain */
#define TENT_BATCH_INTEGRITY 2

typedef struct tent_batch_options {
    uint32_t size;
    uint32_t flags;       /* TENT_BATCH_* */
    uint32_t class_;      /* TENT_CLASS_* */
    uint32_t completions; /* TENT_COMPLETIONS_* */
    const char *label;    /* matched by the plan's rows, at most 31 bytes; NULL: "" */
    /* each request of the batch ends at most this long after its submit; 0: no deadline. Within a
     * class the earliest deadline is served first. Short of it by the plan's fence_reserve (at most
     * a quarter) what is not sent yet is not sent any more, then what is in flight is fenced: a
     * missed deadline is TENT_E_TIMEOUT, or TENT_E_UNFENCED where the peer could not confirm. */
    uint64_t deadline_ns;
} tent_batch_options;

typedef struct tent_request {
    uint32_t op;        /* TENT_OP_* */
    uint32_t flags;     /* 0 */
    uint64_t segment;   /* an imported segment */
    uint64_t local;     /* absolute local address, inside a registered region */
    uint64_t remote;    /* absolute remote address, inside one region of the segment */
    uint64_t length;    /* > 0 */
    uint64_t user_data; /* returned untouched */
} tent_request;

/* Requests of one segment and direction as columns (numpy arrays): element i of each. */
typedef struct tent_columns {
    uint32_t size;
    uint32_t op;
    uint64_t segment;
    uint64_t count;
    const uint64_t *local;
    const uint64_t *remote;
    const uint64_t *length;    /* NULL: length_each for all */
    const uint64_t *user_data; /* NULL: the request's index */
    uint64_t length_each;
} tent_columns;

#define TENT_SUBMIT_SEAL 1 /* seal the batch when all were accepted */
/* do not wake the worker: the caller waits at once and drives by itself */
#define TENT_SUBMIT_NO_WAKE 2

/* Opens an empty batch. options may be NULL. Errors: AGAIN (batches_max open), INVALID, CLOSED.
 * Never blocks. */
TENT_API int32_t tent_batch_open(tent_engine *engine, const tent_batch_options *options,
                                 uint64_t *batch);
/* Submits requests. All are checked first: an invalid one refuses the whole call and *index names
 * it. When a pool is full a prefix is accepted: TENT_E_AGAIN, *index = how many (maybe 0). On
 * TENT_OK *index = count. Never blocks. Calls on one batch must not run at the same time. Errors:
 * INVALID, RANGE, DENIED, NOT_FOUND, OVERLAP, AGAIN, CLOSED (sealed). */
TENT_API int32_t tent_batch_submit(tent_engine *engine, uint64_t batch,
                                   const tent_request *requests, uint32_t stride, uint32_t count,
                                   uint32_t flags, uint32_t *index);
TENT_API int32_t tent_batch_submit_columns(tent_engine *engine, uint64_t batch,
                                           const tent_columns *columns, uint32_t flags,
                                           uint32_t *index);
/* Seals a batch: no more submits. With notice_size > 0 the bytes (at most 65536) are delivered to
 * the peer of `segment` after all data of the batch, once, in order of seals per peer; dropped if
 * a request failed. Errors: NOT_FOUND, CLOSED, INVALID, AGAIN (too many notices wait). */
TENT_API int32_t tent_batch_seal(tent_engine *engine, uint64_t batch, uint64_t segment,
                                 const void *notice, uint32_t notice_size);
/* TENT_OK when every request is terminal and succeeded, TENT_IN_PROGRESS, or the first failure's
 * status (by index; UNFENCED_LOCAL, then UNFENCED, go before any other). Never blocks. */
TENT_API int32_t tent_batch_poll(tent_engine *engine, uint64_t batch);
/* Waits for all requests to be terminal, at most timeout_ns, driving the engine itself when the
 * worker sleeps. Returns as tent_batch_poll, TENT_E_TIMEOUT when time ran out (nothing is
 * cancelled). */
TENT_API int32_t tent_batch_wait(tent_engine *engine, uint64_t batch, uint64_t timeout_ns);
/* Asks to end all unfinished requests; each still gets its one terminal completion, once
 * quiescent. Does not wait. */
TENT_API int32_t tent_batch_cancel(tent_engine *engine, uint64_t batch);
/* Cancels what is unfinished, waits for quiescence, frees the batch. Its unread completions
 * vanish. */
TENT_API int32_t tent_batch_close(tent_engine *engine, uint64_t batch);

typedef struct tent_request_status {
    uint64_t user_data;
    uint64_t bytes; /* bytes known to have been transferred */
    int32_t status; /* TENT_IN_PROGRESS or terminal */
    int32_t rail;   /* local rail of the last slice (plan index), -1: none */
} tent_request_status;

/* Status of requests [first, first + *count); *count in: room, out: how many were written. */
TENT_API int32_t tent_batch_status(tent_engine *engine, uint64_t batch, uint32_t first,
                                   tent_request_status *out, uint32_t stride, uint32_t *count);
/* Opens, submits, waits, closes in one call: the fast way for small synchronous operations. After
 * timeout_ns unfinished requests are cancelled (fenced) and TENT_E_TIMEOUT returned. *index names
 * the failed request that the status is of (as of tent_batch_poll). count <= 4096. */
TENT_API int32_t tent_transfer(tent_engine *engine, const tent_batch_options *options,
                               const tent_request *requests, uint32_t stride, uint32_t count,
                               uint64_t timeout_ns, uint32_t *index);

/* ---- completions, notices, events, counters ------------------------------------------------ */

typedef struct tent_completion {
    uint64_t batch;
    uint64_t user_data;
    uint64_t bytes;
    int32_t status;
    uint32_t index; /* the request's index in its batch, UINT32_MAX: the batch as a whole */
} tent_completion;

/* Takes up to *count completions; *count out: how many. Never blocks. */
TENT_API int32_t tent_completions_poll(tent_engine *engine, tent_completion *out, uint32_t stride,
                                       uint32_t *count);
/* An eventfd (non-blocking, owned by the engine) that turns readable when a completion, notice or
 * event arrives while its ring was empty. Read it before polling the rings. */
TENT_API int32_t tent_engine_event_fd(tent_engine *engine, int32_t *fd);
/* Takes the oldest notice: its bytes, *size in: room, out: its size; from (may be NULL, 64
 * bytes): the sender's name. Errors: NOT_FOUND (none waits), AGAIN (room too small, the notice
 * stays). */
TENT_API int32_t tent_notice_poll(tent_engine *engine, void *bytes, uint32_t *size, char *from);

#define TENT_EVENT_PLAN_INSTALLED 1
#define TENT_EVENT_PEER_CONNECTED 2
#define TENT_EVENT_PEER_LOST 3
#define TENT_EVENT_ENDPOINT_READY 4
#define TENT_EVENT_ENDPOINT_FAILED 5
#define TENT_EVENT_ENDPOINT_RETIRED 6
#define TENT_EVENT_FENCED 7
#define TENT_EVENT_UNFENCED 8
#define TENT_EVENT_CONNECTION_REFUSED 9
#define TENT_EVENT_ACCESS_REFUSED 10
#define TENT_EVENT_NOTICE_DROPPED 11
#define TENT_EVENT_REGION_CHANGED 12
#define TENT_EVENT_LOG 13
#define TENT_EVENT_ENDPOINT_SUSPECT 14 /* late, slow or refused a slice: no new slices for now */
#define TENT_EVENT_ENDPOINT_HEALED 15  /* carries slices again, a few at first */
#define TENT_EVENT_RAIL_DOWN 16        /* its link or port went down */
#define TENT_EVENT_RAIL_UP 17

typedef struct tent_event {
    uint64_t time_ns;
    uint64_t lost;     /* events dropped before this one because the ring was full */
    uint64_t segment;  /* imported segment, 0: none */
    uint64_t endpoint; /* 0: none */
    uint32_t type;     /* TENT_EVENT_* */
    int32_t rail;      /* local rail (plan index), -1: none */
    int32_t status;
    uint32_t reserved;
    char text[160]; /* one sentence, NUL-terminated, possibly shortened */
} tent_event;

/* Takes up to *count events, oldest first. Never blocks. */
TENT_API int32_t tent_events_poll(tent_engine *engine, tent_event *out, uint32_t stride,
                                  uint32_t *count);

/* A range of a peer's memory that a write of ours may still change, because nobody confirmed that
 * it cannot: the bytes behind a TENT_E_UNFENCED. Its new content, if it comes, is the old write's.
 */
typedef struct tent_unfenced_range {
    uint64_t batch;     /* the handle it had; the batch may be closed */
    uint64_t user_data; /* of the request */
    uint64_t segment;   /* the handle it had */
    uint64_t remote;    /* absolute address at the peer */
    uint64_t length;
    uint64_t endpoint; /* on which it was posted */
    uint64_t time_ns;  /* when it became so (engine clock) */
    uint32_t index;    /* of the request in its batch */
    /* 1: proven since: the peer has retired the endpoint, or its process is gone. Told by a
     * TENT_EVENT_FENCED, too. */
    uint32_t proven;
} tent_unfenced_range;

/* The ranges that are or were unfenced, oldest first; *count in: room, out: how many there are (may
 * exceed room). With flags 1 the proven ones are forgotten after they were copied. At most 4096 are
 * kept, beyond that the oldest proven and then the oldest at all give way. Errors: INVALID. */
#define TENT_UNFENCED_FORGET_PROVEN 1
TENT_API int32_t tent_unfenced_read(tent_engine *engine, uint32_t flags, tent_unfenced_range *out,
                                    uint32_t stride, uint32_t *count);

#define TENT_COUNTERS_ENGINE 0   /* one row */
#define TENT_COUNTERS_RAIL 1     /* one row per local rail of the installed plan */
#define TENT_COUNTERS_ENDPOINT 2 /* one row per endpoint, both roles */
#define TENT_COUNTERS_CLASS 3    /* three rows: normal, high, low */

#define TENT_STATE_CONNECTING 0
#define TENT_STATE_HEALTHY 1
#define TENT_STATE_SUSPECT 2
#define TENT_STATE_QUARANTINED 3
#define TENT_STATE_PROBING 4
#define TENT_STATE_TERMINATED 5

/* Cumulative since open, except inflight_*, rate_* and state. Initiator's and target's bytes are
 * told apart. */
typedef struct tent_counters {
    /* rail: "tcp lo 127.0.0.1"; endpoint: "peer: rail 0 -> 1"; class: "high" */
    char name[64];
    uint64_t id;                 /* rail: plan index; endpoint: its id; class: TENT_CLASS_* */
    uint64_t bytes_written;      /* payload acknowledged for own writes */
    uint64_t bytes_read;         /* payload received for own reads */
    uint64_t bytes_served_write; /* payload peers wrote here */
    uint64_t bytes_served_read;  /* payload peers read from here */
    uint64_t slices;             /* own slices completed */
    uint64_t slices_retried;
    uint64_t slices_failed;
    uint64_t requests; /* own requests accepted (engine and class rows) */
    uint64_t requests_failed;
    uint64_t charged_bytes; /* ever charged; equals released_bytes at rest */
    uint64_t released_bytes;
    uint64_t inflight_bytes;
    uint64_t inflight_slices;
    uint64_t rate_bytes_per_s; /* nominal or measured */
    uint64_t refused;          /* connections or accesses refused (engine row) */
    uint64_t wakeups;          /* times a driver slept and woke (engine row) */
    uint64_t remote_rail;      /* endpoint rows */
    uint32_t state;            /* TENT_STATE_* (rails: the best of their endpoints) */
    int32_t rail;              /* endpoint rows: local rail, -1 none */
    uint64_t latency_ns_base;  /* endpoint rows: base latency, the prediction's beta0 */
    uint64_t window_bytes;     /* endpoint rows: what may be in flight on it */
    uint64_t slices_hedged;    /* posted a second time because the first was late */
    uint64_t bytes_hedged;     /* of them */
} tent_counters;

/* Rows of one kind; *count in: room, out: how many there are (may exceed room). Never blocks
 * long. */
TENT_API int32_t tent_counters_read(tent_engine *engine, uint32_t kind, tent_counters *out,
                                    uint32_t stride, uint32_t *count);

/* ---- explain ------------------------------------------------------------------------------- */

/* A request that need not exist: what would be decided for it now. */
typedef struct tent_explain_query {
    uint32_t size;
    uint32_t op;        /* TENT_OP_* */
    uint64_t segment;   /* an imported, usable segment */
    uint64_t length;    /* bytes, > 0 */
    uint32_t class_;    /* TENT_CLASS_* */
    uint32_t flags;     /* 0 */
    const char *local;  /* location of the local memory; NULL: "cpu:0" */
    const char *remote; /* location of the remote memory; NULL: "cpu:0" */
    const char *label;  /* of the batch; NULL: "" */
    /* an address in the remote memory, for the candidates' `via`; 0: all of the segment's memory at
     * that location is told of */
    uint64_t remote_address;
} tent_explain_query;

#define TENT_STRATEGY_PREDICTIVE 0
#define TENT_STRATEGY_ROUND_ROBIN 1
#define TENT_STRATEGY_STATIC 2
#define TENT_STRATEGY_TENT_PAPER 3

typedef struct tent_explanation {
    uint32_t size;
    uint32_t generation;  /* of the plan */
    int32_t route;        /* row of the plan, counted from 0; -1: none matches */
    int32_t rung;         /* rung that would be used, counted from 0; -1: none is usable */
    int32_t winner;       /* index among the candidates; -1: none; -2: it waits for a better one */
    uint32_t strategy;    /* TENT_STRATEGY_* of the rung */
    uint64_t slice_bytes; /* of the first slice, as the winner would get it */
    uint64_t backlog_bytes; /* waiting on the segment in this class, with this request */
    char row[1024];         /* the route line in canonical form, NUL-terminated */
    uint32_t class_;        /* TENT_CLASS_* it would travel in: the row's, else the query's */
    uint32_t integrity;     /* 1: the row has its bytes checked */
    uint64_t deadline_ns;   /* the row's, where its batch has none; 0: none */
} tent_explanation;

#define TENT_VERDICT_CHOSEN 0      /* the winner */
#define TENT_VERDICT_SLOWER 1      /* open, but its score is higher */
#define TENT_VERDICT_FULL 2        /* its window has no room */
#define TENT_VERDICT_AWAITED 3     /* full, and still the earliest: the slice waits for it */
#define TENT_VERDICT_PASSED_OVER 4 /* open, but waiting for a full one is quicker */
#define TENT_VERDICT_FARTHER 5     /* of a farther tier, and would not finish earlier */
#define TENT_VERDICT_NOT_READY 6   /* connecting, failed or fencing */
#define TENT_VERDICT_LATER_RUNG 7  /* an earlier rung of the ladder is usable */
/* not bound: its set-ups failed while others to the peer stand; asked again after a while */
#define TENT_VERDICT_UNREACHABLE 8

/* One endpoint the request could use. */
typedef struct tent_candidate {
    uint32_t size;
    int32_t rung;                   /* counted from 0 */
    int32_t tier;                   /* counted from 1 */
    uint32_t penalty;               /* factor on the slice's size in the score */
    int32_t rail;                   /* local rail, plan index */
    int32_t remote_rail;            /* the peer's */
    uint32_t state;                 /* TENT_STATE_* */
    uint32_t verdict;               /* TENT_VERDICT_* */
    uint64_t inflight_bytes;        /* on the endpoint */
    uint64_t inflight_local_bytes;  /* on its local rail, over all peers */
    uint64_t inflight_remote_bytes; /* on its remote rail, as far as known */
    uint64_t rate_bytes_per_s;    /* of the endpoint: measured, or nominal before any measurement */
    uint64_t nominal_bytes_per_s; /* the smaller of both ends; 0: unknown */
    uint64_t latency_ns_base;
    uint64_t window_bytes;
    uint64_t predicted_ns; /* until the slice would be done, penalty 1 */
    uint64_t score_ns;     /* the same with the tier's penalty: what is compared */
    char transport[32];
    char name[64]; /* "peer: rail 0 -> 1" */
    /* which of several ways the transport would take ("mapped", "ring (two copies): ..."), "": it
     * has one, or does not say */
    char via[192];
} tent_candidate;

/* Explains what the scheduler would do with the first slice of such a request: the row of the plan,
 * its candidates over all rungs in the plan's order, and why each lost. Changes nothing. *count in:
 * room, out: how many candidates there are (may exceed room). The explanation's and the first
 * candidate's size are set by the caller. Errors: INVALID, NOT_FOUND, or the segment's error. */
TENT_API int32_t tent_explain(tent_engine *engine, const tent_explain_query *query,
                              tent_explanation *explanation, tent_candidate *candidates,
                              uint32_t stride, uint32_t *count);

/* ---- transports ---------------------------------------------------------------------------- */

/* kinds of memory that a transport reaches by itself, bits */
#define TENT_MEMORY_HOST 1
#define TENT_MEMORY_CUDA 2
#define TENT_MEMORY_FILE 4

#define TENT_PLUGIN_DECORATES 1 /* it wraps another transport and has no rails of its own */
#define TENT_PLUGIN_TEST 2      /* for tests: never to be taken unasked */
/* its regions are registered by the thread that asks, beside the thread that drives */
#define TENT_PLUGIN_REGISTERS_ASIDE 4

/* A plugin that was found, or a folder that cannot be searched. Texts that are too long are cut. */
typedef struct tent_transport_info {
    char name[32]; /* of the transport, as its file has it; "": this row is of a folder */
    char version[32];
    char summary[160];  /* one line */
    char library[1024]; /* its file, or the folder */
    char reason[512];   /* why it cannot be used and what to do, "" where it can */
    int32_t status;     /* TENT_OK: usable; PLUGIN: not; SYSTEM: a folder that cannot be read */
    uint32_t memory;    /* TENT_MEMORY_*; 0 where the plugin did not load */
    uint32_t flags;     /* TENT_PLUGIN_* */
    uint32_t option_count;
    uint32_t rail_count; /* rails that it says this machine has */
    uint32_t reserved;
} tent_transport_info;

/* The transports an engine with this plugin_path (NULL: none) could open: of the folders in it, in
 * TENT_PLUGIN_PATH and of the installed folder, in this order; of plugins of one name the first
 * counts, usable or not. Sorted by folder, then by name; at most 256. A folder or plugin with a
 * mistake is a row with a reason, not a failure of the call. Loads what it finds, for good, and
 * keeps nothing else. *count in: room, out: how many there are (may exceed room). Needs no engine.
 * Blocks for the file system and for what the plugins' libraries do when loaded. Errors: INVALID.
 */
TENT_API int32_t tent_transports_find(const char *plugin_path, tent_transport_info *out,
                                      uint32_t stride, uint32_t *count);

/* what an option's value is */
#define TENT_OPTION_TEXT 0
#define TENT_OPTION_COUNT 1    /* a whole number */
#define TENT_OPTION_SIZE 2     /* bytes, with unit k, m, g or t (1024 each) */
#define TENT_OPTION_DURATION 3 /* with unit ns, us, ms or s */
#define TENT_OPTION_RATE 4     /* Gbit/s */
#define TENT_OPTION_SWITCH 5   /* yes or no */
#define TENT_OPTION_CHOICE 6   /* one of `choices` */

/* where an option may stand, bits */
#define TENT_OPTION_OF_RAIL 1      /* rail 0 tcp eth0 addr=10.0.0.7 */
#define TENT_OPTION_OF_TRANSPORT 2 /* set tcp.connections=4 */

/* An option of a transport. Texts are never NULL ("" says nothing) and live as long as the process.
 * Values are written as in a plan. */
typedef struct tent_option_info {
    const char *name;
    const char *preset; /* what holds where a plan says nothing; "": no value, the meaning says */
    const char *least;  /* of a COUNT, SIZE, DURATION or RATE: the bounds, both allowed */
    const char *most;
    /* "a,b,c": of a CHOICE all it may be; of other kinds words that may stand in a value's place */
    const char *choices;
    const char *meaning; /* one line */
    uint32_t kind;       /* TENT_OPTION_TEXT, ... */
    uint32_t scope;      /* TENT_OPTION_OF_* */
} tent_option_info;

/* The options of one transport, in its order; at most 256. plugin_path, *count and blocking as
 * above. Errors: INVALID, PLUGIN (no such plugin, or it does not load). */
TENT_API int32_t tent_transport_options(const char *plugin_path, const char *name,
                                        tent_option_info *out, uint32_t stride, uint32_t *count);

/* A rail that a transport finds on this machine. */
typedef struct tent_transport_rail {
    char device[32];  /* a plan's word for it */
    char address[64]; /* what peers would see, "" where it is not known before it is opened */
    uint64_t bandwidth_bytes_per_s; /* port speed; 0: unknown */
    int32_t numa;                   /* -1: unknown */
    uint32_t flags;                 /* TENT_RAIL_* of plugin.h */
} tent_transport_rail;

/* The rails of one transport, as its plugin finds them now; at most 4096. plugin_path, *count and
 * blocking as above. Errors: INVALID, PLUGIN (also: not available). */
TENT_API int32_t tent_transport_rails(const char *plugin_path, const char *name,
                                      tent_transport_rail *out, uint32_t stride, uint32_t *count);

/* cdef: end */

#ifdef __cplusplus
}
#endif
#endif
