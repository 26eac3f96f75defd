// The tube transport, for tests only: carries control messages between the engines of one process
// through queues in memory, and data by copying. Leans on plugin.h and the standard library. Must
// never be shipped: it shares one world between engines, so it has a lock where a plugin has none,
// and it checks no grant.
#include <tent/plugin.h>

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "tube.h"

namespace {

struct Instance;

struct Packet {
    uint64_t arrives_ns;
    std::vector<uint8_t> bytes;
};

// One end of a stream; the other end names it until either is closed.
struct Stream {
    Instance *owner = nullptr;
    Stream *other = nullptr;
    std::string address;  // of the other side
    bool established = false, refused = false, ended = false, was_full = false;
    uint64_t established_ns = 0, ended_ns = 0;
    std::deque<Packet> in;
    uint64_t in_bytes = 0;
};

struct Pending {
    uint64_t arrives_ns;
    Stream *stream;
};

struct Posted {
    uint64_t id;
    const struct Endpoint *endpoint;
    int32_t status;
};

struct Endpoint {
    uint64_t number;
    bool news = false;
};

struct Instance {
    const tent_host *host = nullptr;
    std::string address;
    std::deque<Pending> waiting;  // for stream_accept
    std::vector<std::unique_ptr<Stream>> streams;
    std::vector<std::unique_ptr<Endpoint>> endpoints;
    std::vector<Posted> posted;
    bool inside = false;  // to notice that the core enters the table a second time
    int fd = -1;
    uint64_t now_ns() const { return host->now_ns(host->ctx); }
};

// Engines of several threads meet here.
std::mutex world_mutex;
TubeWorld world;
std::map<std::string, Instance *> listeners;
uint16_t next_port = 40000;

struct Entered {
    Instance &instance;
    std::lock_guard<std::mutex> lock{world_mutex};
    explicit Entered(void *opaque) : instance(*static_cast<Instance *>(opaque)) {}
};

void wake(Instance &instance) {
    uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(instance.fd, &one, sizeof one);
}

bool due(const Instance &instance, uint64_t at_ns) {
    return !world.silent && instance.now_ns() >= at_ns;
}

bool readable(const Instance &instance, const Stream &stream) {
    return !stream.in.empty() ? due(instance, stream.in.front().arrives_ns)
                              : stream.ended && due(instance, stream.ended_ns);
}

int32_t available(char *reason, uint32_t reason_size) {
    if (reason_size > 0) reason[0] = 0;
    return TENT_OK;
}

int32_t open_instance(const tent_host *host, const tent_plugin_options *, void **out) {
    auto instance = std::make_unique<Instance>();
    instance->host = host;
    instance->fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    *out = instance.release();
    return TENT_OK;
}

// What is under way still arrives.
void leave(Stream &stream) {
    if (!stream.other) return;
    stream.other->ended = true;
    stream.other->ended_ns = stream.owner->now_ns() + world.latency_ns;
    stream.other->other = nullptr;
    wake(*stream.other->owner);
    stream.other = nullptr;
}

void end(Stream &stream) {
    leave(stream);
    world.streams_open--;
}

void cut(Stream &stream) {
    leave(stream);
    stream.in.clear();
    stream.ended = true;
}

void close_instance(void *opaque) {
    {
        Entered entered(opaque);
        Instance &instance = entered.instance;
        for (auto &stream : instance.streams)
            end(*stream);
        std::erase_if(listeners, [&](const auto &entry) { return entry.second == &instance; });
        close(instance.fd);
    }
    delete static_cast<Instance *>(opaque);
}

int32_t rail_open(void *opaque, const tent_rail_params *params, void **rail, tent_rail_info *info) {
    info->numa = -1;
    snprintf(info->address, sizeof info->address, "tube:%.32s", params->device);
    // "sockets" is a rail that a carried engine cannot have.
    if (strcmp(params->device, "sockets") == 0) {
        info->flags |= TENT_RAIL_LISTENS;
        snprintf(info->address, sizeof info->address, "127.0.0.1");
    }
    *rail = opaque;
    return TENT_OK;
}

void rail_close(void *, void *) {}

int32_t rail_reach(void *, void *, const char *peer_rail) {
    return strncmp(peer_rail, "tube:", 5) == 0 ? 1 : 0;
}

uint32_t rails(tent_rail_info *, uint32_t, char (*)[32], uint32_t) {
    return 0;
}

int32_t endpoint_make(void *opaque, const tent_endpoint_params *params, void **out, void *,
                      uint32_t *size) {
    Entered entered(opaque);
    entered.instance.endpoints.push_back(std::make_unique<Endpoint>(params->endpoint));
    *out = entered.instance.endpoints.back().get();
    *size = 0;
    return TENT_OK;
}

int32_t endpoint_offer(void *opaque, const tent_endpoint_params *params, void **out, void *offer,
                       uint32_t *size) {
    return endpoint_make(opaque, params, out, offer, size);
}

int32_t endpoint_accept(void *opaque, const tent_endpoint_params *params, void **out, void *answer,
                        uint32_t *size) {
    int32_t status = endpoint_make(opaque, params, out, answer, size);
    if (status == TENT_OK) static_cast<Endpoint *>(*out)->news = true;
    return status;
}

int32_t endpoint_connect(void *opaque, void *endpoint, const tent_endpoint_params *) {
    Entered entered(opaque);
    static_cast<Endpoint *>(endpoint)->news = true;
    wake(entered.instance);
    return TENT_OK;
}

int32_t endpoint_end(void *opaque, void *endpoint) {
    Entered entered(opaque);
    Instance &instance = entered.instance;
    if (world.endpoints_stuck) return TENT_IN_PROGRESS;
    for (Posted &posted : instance.posted)
        if (posted.endpoint == endpoint) posted = {posted.id, nullptr, TENT_E_CANCELLED};
    std::erase_if(instance.endpoints, [&](const auto &e) { return e.get() == endpoint; });
    wake(instance);
    return TENT_OK;
}

uint32_t post(void *opaque, void *endpoint, const tent_slice *slices, uint32_t count) {
    Entered entered(opaque);
    for (uint32_t i = 0; i < count; i++) {
        auto *remote = reinterpret_cast<void *>(slices[i].remote);
        if (slices[i].op == TENT_OP_WRITE)
            memcpy(remote, slices[i].local, slices[i].length);
        else
            memcpy(slices[i].local, remote, slices[i].length);
        entered.instance.posted.push_back(
            {slices[i].id, static_cast<Endpoint *>(endpoint), TENT_OK});
    }
    wake(entered.instance);
    return count;
}

uint32_t poll(void *opaque, tent_slice_result *results, uint32_t room, uint32_t *busy) {
    std::vector<uint64_t> news;
    Instance &instance = *static_cast<Instance *>(opaque);
    uint32_t count = 0;
    {
        Entered entered(opaque);
        uint64_t wakes = 0;
        [[maybe_unused]] ssize_t got = read(instance.fd, &wakes, sizeof wakes);
        for (auto &endpoint : instance.endpoints)
            if (endpoint->news) {
                news.push_back(endpoint->number);
                endpoint->news = false;
            }
        for (size_t i = 0; i < instance.posted.size() && count < room;) {
            if (world.slices_stuck && instance.posted[i].endpoint) {
                i++;
                continue;
            }
            results[count++] = {instance.posted[i].id, instance.posted[i].status, 0};
            instance.posted.erase(instance.posted.begin() + static_cast<ptrdiff_t>(i));
        }
        bool moved = !news.empty() || count > 0;
        if (world.breaks_due) {
            for (auto &stream : instance.streams)
                cut(*stream);
            world.breaks_due = false;
        }
        for (const Pending &pending : instance.waiting)
            moved |= due(instance, pending.arrives_ns);
        for (const auto &stream : instance.streams)
            moved |= readable(instance, *stream);
        if (moved) *busy = 1;
    }
    for (uint64_t number : news) {
        instance.inside = true;
        instance.host->endpoint_state(instance.host->ctx, number, TENT_OK, nullptr);
        // A message to the other plugin, from within: the core must not come back into this table.
        instance.host->control_send(instance.host->ctx, number, "hello", 5);
        instance.inside = false;
    }
    return count;
}

void endpoint_message(void *opaque, void *, const void *, uint32_t) {
    Entered entered(opaque);
    world.messages++;
}

int event_fd(void *opaque) {
    return static_cast<Instance *>(opaque)->fd;
}

// ---- streams ------------------------------------------------------------------------------------

Stream *stream_make(Instance &instance, const std::string &address) {
    instance.streams.push_back(std::make_unique<Stream>());
    Stream *stream = instance.streams.back().get();
    stream->owner = &instance;
    stream->address = address;
    world.streams_open++;
    world.streams_made++;
    return stream;
}

int32_t stream_listen(void *opaque, const char *address, uint16_t *port) {
    Entered entered(opaque);
    std::string text = address;
    if (*port == 0) {
        *port = next_port++;
        text = text.substr(0, text.rfind(':') + 1) + std::to_string(*port);
    }
    if (listeners.contains(text)) return TENT_E_BUSY;
    listeners[text] = &entered.instance;
    entered.instance.address = text;
    return TENT_OK;
}

int32_t stream_connect(void *opaque, const char *address, void **out) {
    Entered entered(opaque);
    Instance &instance = entered.instance;
    Stream *stream = stream_make(instance, address);
    stream->established_ns = instance.now_ns() + 2 * world.latency_ns;
    *out = stream;
    wake(instance);
    auto found = listeners.find(address);
    if (found == listeners.end()) {
        stream->refused = true;
        return TENT_OK;
    }
    Stream *far = stream_make(*found->second, instance.address);
    far->established = true;
    far->other = stream;
    stream->other = far;
    found->second->waiting.push_back({instance.now_ns() + world.latency_ns, far});
    wake(*found->second);
    return TENT_OK;
}

int32_t stream_accept(void *opaque, void **out, char *from) {
    Entered entered(opaque);
    Instance &instance = entered.instance;
    if (instance.waiting.empty() || !due(instance, instance.waiting.front().arrives_ns))
        return TENT_E_AGAIN;
    Stream *stream = instance.waiting.front().stream;
    instance.waiting.pop_front();
    snprintf(from, 64, "%s", stream->address.c_str());
    *out = stream;
    return TENT_OK;
}

int32_t stream_state(void *opaque, void *handle) {
    Entered entered(opaque);
    Stream &stream = *static_cast<Stream *>(handle);
    if (!stream.established) {
        if (!due(entered.instance, stream.established_ns)) return TENT_IN_PROGRESS;
        if (stream.refused) return TENT_E_PEER;
        stream.established = true;
    }
    return stream.ended && stream.in.empty() ? TENT_E_PEER : TENT_OK;
}

int64_t stream_send(void *opaque, void *handle, const void *bytes, uint64_t size) {
    Entered entered(opaque);
    world.reentries += entered.instance.inside;
    Stream &stream = *static_cast<Stream *>(handle);
    if (!stream.other) return TENT_E_PEER;
    Stream &far = *stream.other;
    uint64_t taken = std::min(size, world.capacity - std::min(world.capacity, far.in_bytes));
    world.partial_sends += taken < size;
    stream.was_full = taken < size;
    if (taken == 0) return 0;
    const auto *from = static_cast<const uint8_t *>(bytes);
    far.in.push_back({entered.instance.now_ns() + world.latency_ns, {from, from + taken}});
    far.in_bytes += taken;
    wake(*far.owner);
    return static_cast<int64_t>(taken);
}

int64_t stream_receive(void *opaque, void *handle, void *bytes, uint64_t room) {
    Entered entered(opaque);
    Stream &stream = *static_cast<Stream *>(handle);
    if (!readable(entered.instance, stream)) return 0;
    if (stream.in.empty()) return TENT_E_PEER;
    Packet &packet = stream.in.front();
    uint64_t size = std::min<uint64_t>(room, packet.bytes.size());
    memcpy(bytes, packet.bytes.data(), size);
    packet.bytes.erase(packet.bytes.begin(), packet.bytes.begin() + static_cast<ptrdiff_t>(size));
    stream.in_bytes -= size;
    if (packet.bytes.empty()) stream.in.pop_front();
    if (stream.other && stream.other->was_full) wake(*stream.other->owner);
    return static_cast<int64_t>(size);
}

void stream_close(void *opaque, void *handle) {
    Entered entered(opaque);
    end(*static_cast<Stream *>(handle));
    std::erase_if(entered.instance.streams, [&](const auto &s) { return s.get() == handle; });
}

const tent_plugin TUBE = {
    .size = sizeof(tent_plugin),
    .abi = TENT_PLUGIN_ABI,
    .name = "tube",
    .version = "0",
    .summary = "memory queues between engines of one process, for tests",
    .available = available,
    .open = open_instance,
    .close = close_instance,
    .rail_open = rail_open,
    .rail_close = rail_close,
    .rail_reach = rail_reach,
    .rails = rails,
    .region_register = nullptr,
    .region_export = nullptr,
    .region_release = nullptr,
    .segment_import = nullptr,
    .segment_forget = nullptr,
    .endpoint_offer = endpoint_offer,
    .endpoint_accept = endpoint_accept,
    .endpoint_connect = endpoint_connect,
    .endpoint_adopt = nullptr,
    .endpoint_message = endpoint_message,
    .endpoint_close = endpoint_end,
    .endpoint_retire = endpoint_end,
    .post = post,
    .poll = poll,
    .event_fd = event_fd,
    .next_ns = nullptr,
    .flush = nullptr,
    .stream_listen = stream_listen,
    .stream_connect = stream_connect,
    .stream_accept = stream_accept,
    .stream_state = stream_state,
    .stream_send = stream_send,
    .stream_receive = stream_receive,
    .stream_close = stream_close,
};

}  // namespace

TENT_API const tent_plugin *tent_plugin_query(uint32_t abi) {
    return abi == TENT_PLUGIN_ABI ? &TUBE : nullptr;
}

extern "C" TENT_API TubeWorld *tube_world(void) {
    return &world;
}
