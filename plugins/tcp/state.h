// What an instance of the tcp transport holds: records of posted slices, endpoints and their
// connections.
//
// Thread-safety: none needed, the core calls one instance from one thread at a time. Leans on
// frame.h, options.h, rail.h. Nothing here is allocated by post or poll: records come with the
// instance, connections with their endpoint.
#ifndef TENT_PLUGINS_TCP_STATE_H
#define TENT_PLUGINS_TCP_STATE_H

#include "frame.h"
#include "options.h"
#include "rail.h"

#include <sys/uio.h>
#include <cstddef>
#include <cstdint>
#include <memory>

namespace tent::tcp {

struct Instance;
struct Endpoint;
struct Connection;

constexpr uint32_t NONE = UINT32_MAX;
constexpr uint32_t STAGE_SIZE =
    16 * 1024;  // heads land here; a lone small slice arrives with its head
constexpr uint32_t DISCARD_SIZE = 64 * 1024;  // where refused payload goes
constexpr uint32_t REPLIES_MAX = 1024;  // acks, and reads to serve, that wait on one connection
constexpr uint32_t SEND_IOV_MAX = 1 + 2 * FRAME_SLICES_MAX;
constexpr uint32_t RECEIVE_IOV_MAX = 256;
// Bytes moved per connection and poll: keeps the duty cycle short.
constexpr uint64_t RECEIVE_BUDGET = 2u << 20;
constexpr uint64_t SEND_BUDGET = 2u << 20;
constexpr uint32_t STALLS_MAX = 64;

enum class RecordState : uint8_t { FREE, QUEUED, SENT, RECEIVING, DONE };

// One slice posted here. Its index in the instance's pool is its tag on the wire.
struct Record {
    uint64_t id;
    Endpoint *endpoint;
    Connection *connection;
    char *local;
    uint64_t remote;
    uint32_t length;
    uint32_t next;  // in the free list, a connection's queue or the done list
    // The sent frame it travels in and the last piece of that frame that is its own: a reply that
    // comes before that piece was sent is a lie.
    uint32_t frame_serial;
    uint16_t frame_iov;
    uint8_t op;
    uint8_t flags;
    int32_t status;
    RecordState state;
};

struct RecordList {
    uint32_t head = NONE;
    uint32_t tail = NONE;
};

// A read to be served, or a refusal of one.
struct Serve {
    const char *source;
    uint32_t tag;
    uint32_t length;  // 0: refused
    int32_t status;
    uint32_t flags;
};

// The frame now being sent: its head, and pointers straight into the payloads.
struct Sending {
    uint32_t iov_count = 0;  // 0: no frame
    uint32_t iov_next = 0;   // first piece not sent entirely (shortened as it goes)
    uint32_t serial = 0;
    uint32_t crc_iov = 0;      // checksums cover all pieces before this one,
    char *crc_next = nullptr;  // and this one up to here (nullptr: its beginning)
    uint64_t served_bytes = 0;
    iovec iov[SEND_IOV_MAX];
    bool summed[SEND_IOV_MAX];  // piece is payload whose CRC32C the next piece carries
    uint32_t trailers[FRAME_SLICES_MAX];
    alignas(8) char head[HEAD_SIZE_MAX];
};

// One payload of the frame now being received.
struct Incoming {
    char *destination;  // nullptr: discard
    uint32_t length;
    uint32_t tag;
    int32_t status;
    uint32_t crc;
    uint32_t trailer;  // as received
    bool integrity;
};

struct Receiving {
    uint32_t stage_begin = 0;
    uint32_t stage_end = 0;
    uint32_t item_count = 0;  // 0: a head is awaited
    uint32_t item_next = 0;
    uint32_t item_offset = 0;  // bytes of items[item_next] that are here, trailer included
    Incoming items[FRAME_SLICES_MAX];
    alignas(8) char stage[STAGE_SIZE];
};

// A ring of REPLIES_MAX entries of which only `count` from `first` are in use.
template <typename T>
struct Ring {
    uint32_t first = 0;
    uint32_t count = 0;
    T entries[REPLIES_MAX];

    uint32_t room() const { return REPLIES_MAX - count; }
    T &at(uint32_t i) { return entries[(first + i) % REPLIES_MAX]; }
    void push(const T &entry) { entries[(first + count++) % REPLIES_MAX] = entry; }
    void drop(uint32_t n) {
        first = (first + n) % REPLIES_MAX;
        count -= n;
    }
};

// What only the serving side of a connection needs.
struct Replies {
    Ring<AckDescriptor> acks;
    Ring<Serve> serves;
    uint64_t written_bytes = 0;  // served and not yet told to host->served
    uint64_t read_bytes = 0;
};

enum class Phase : uint8_t { CLOSED, CONNECTING, OPENING, REPLY, STANDING };

struct Connection {
    Endpoint *endpoint = nullptr;
    uint32_t index = 0;
    int fd = -1;
    Phase phase = Phase::CLOSED;
    bool dirty = false;       // in the instance's dirty list
    bool paused = false;      // not reading: too many replies wait
    uint32_t stalls = 0;      // sends in vain since the last byte, before EPOLLOUT is asked for
    bool awaits_out = false;  // EPOLLOUT is asked for; sending goes on when it is reported
    uint32_t events = 0;      // asked of epoll
    uint32_t opening_done = 0;
    uint64_t outstanding_bytes = 0;  // posted and not replied to
    uint64_t sent_bytes = 0;         // taken by the system, and
    uint64_t received_bytes = 0;     // got from it, since the connection stands
    RecordList queue;                // posted, in no frame yet
    Connection *dirty_next = nullptr;
    Replies *replies = nullptr;  // target only
    Sending send;
    Receiving receive;
    char opening[TENT_OPENING_SIZE];
};

enum class EndpointState : uint8_t { OFFERED, CONNECTING, READY, FAILED, CLOSED };

struct Endpoint {
    Instance *instance = nullptr;
    Endpoint *next = nullptr;
    Endpoint *previous = nullptr;
    const Rail *rail = nullptr;
    uint64_t number = 0;  // the core's name
    uint64_t grant = 0;
    uint64_t deadline_ns = UINT64_MAX;  // of connecting
    bool initiator = false;
    bool same_host = false;
    bool news = false;  // endpoint_state is due
    EndpointState state = EndpointState::OFFERED;
    int32_t status = TENT_OK;   // of the failure
    uint32_t record_count = 0;  // slices not yet returned by poll
    uint32_t connection_count = 0;
    uint32_t standing_count = 0;
    uint32_t tag_limit = 0;
    Connection *run_connection = nullptr;  // small slices go there until run_bytes is a frame
    uint64_t run_bytes = 0;
    uint64_t progress_bytes = 0;  // as told last
    std::unique_ptr<Connection[]> connections;
    std::unique_ptr<Replies[]> replies;
    std::unique_ptr<uint64_t[]> tags_in_use;  // target: bitmap
    char peer[TENT_RAIL_ADDRESS_MAX + 16] = {};
    char sentence[240] = {};
};

struct Region {
    uintptr_t begin;
    uint64_t length;
};

struct Instance {
    const tent_host *host = nullptr;
    Options options;
    int epoll_fd = -1;
    uint32_t record_count = 0;
    uint32_t endpoint_count = 0;
    uint32_t endpoints_max = 0;
    uint32_t free_head = NONE;
    RecordList done;
    uint32_t news_count = 0;
    uint32_t connecting_count = 0;
    bool moved = false;  // something happened since poll began
    Endpoint *endpoints = nullptr;
    Connection *dirty = nullptr;
    std::unique_ptr<Record[]> records;
    char discard[DISCARD_SIZE];
};

// ---- records (records.cc) ----

// Moves a record to the done list; poll returns it.
void record_finish(Instance &instance, Record &record, int32_t status);
// Takes up to room finished ones; frees endpoints that were closed and have now nothing left.
uint32_t records_collect(Instance &instance, tent_slice_result *results, uint32_t room);
void list_push(Instance &instance, RecordList &list, uint32_t index);
uint32_t list_pop(Instance &instance, RecordList &list);

// ---- sending (send.cc) ----

// Sends what is queued, up to the budget. May fail the endpoint.
void connection_send(Connection &connection);
// Puts the connection among those that flush and poll serve next.
void connection_mark_dirty(Connection &connection);

// ---- receiving (receive.cc) ----

// Receives up to the budget. May fail the endpoint.
void connection_receive(Connection &connection);

// ---- endpoints (endpoint.cc) ----

// Fails it: sockets closed, slices finished with status, news for the core. Does nothing when it
// has failed already.
__attribute__((format(printf, 3, 4))) void endpoint_fail(Endpoint &endpoint, int32_t status,
                                                         const char *format, ...);
// The same for a socket error of one connection; errno_value 0: the peer closed it.
void connection_fail(Connection &connection, const char *doing, int errno_value);
void endpoints_report(Instance &instance);
// Frees an endpoint whose sockets are closed and whose slices were all returned.
void endpoint_free(Endpoint &endpoint);
// Makes endpoint_state due.
void news_set(Endpoint &endpoint);
// It is not connecting any more.
void connecting_end(Endpoint &endpoint);
// Leaves the sentence with the core and returns the status.
int32_t refuse(Instance &instance, int32_t status, const char *sentence);
// Reads the offer or answer that the parameters carry; false when it is malformed.
bool offer_read(const tent_endpoint_params &params, Offer *offer);

// ---- bringing endpoints up (connect.cc) ----

// Asks epoll for these events.
void connection_watch(Connection &connection, uint32_t events);
// Connecting, opening, reply: goes on after epoll reported the connection.
void connection_open_step(Connection &connection);
// Fails those whose time to connect is over.
void endpoints_expire(Instance &instance);
// When the first of them is, UINT64_MAX: none connects.
uint64_t endpoints_deadline(const Instance &instance);

// ---- regions (region.cc) ----

// Nothing points into the region any more when it returns.
void region_abandon(Instance &instance, const Region &region);

// ---- the table's functions on endpoints; see plugin.h ----

int32_t endpoint_offer(void *instance, const tent_endpoint_params *params, void **endpoint,
                       void *offer, uint32_t *size);
int32_t endpoint_accept(void *instance, const tent_endpoint_params *params, void **endpoint,
                        void *answer, uint32_t *size);
int32_t endpoint_connect(void *instance, void *endpoint, const tent_endpoint_params *params);
int32_t endpoint_adopt(void *instance, void *endpoint, uint32_t connection, int fd);
int32_t endpoint_close(void *instance, void *endpoint);
int32_t endpoint_retire(void *instance, void *endpoint);
uint64_t endpoint_progress(void *instance, void *endpoint);

}  // namespace tent::tcp

#endif
