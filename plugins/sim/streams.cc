// Control streams: reliable, ordered bytes between engines, after the fabric's control latency.
//
// They take no bandwidth and lose nothing, but need one live rail on either host: without it they
// are held, and break when that lasts. See fabric.h and plugin.h (stream_*).
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "fabric.h"

namespace tent::sim {

namespace {

Stream &stream_of(void *opaque) {
    return *static_cast<Stream *>(opaque);
}

bool host_alive(const Fabric &fabric, const Host &host) {
    return std::any_of(fabric.rails.begin(), fabric.rails.end(),
                       [&](const auto &rail) { return rail->host == &host && rail->alive(); });
}

bool way_open(const Stream &stream) {
    if (stream.host == nullptr || stream.peer_host == nullptr) return true;
    if (stream.host == stream.peer_host) return true;  // within the machine
    return host_alive(*stream.fabric, *stream.host) &&
           host_alive(*stream.fabric, *stream.peer_host);
}

const Host *host_of_address(const Fabric &fabric, const std::string &address) {
    const std::string ip = address.substr(0, address.rfind(':'));
    for (const auto &host : fabric.hosts)
        if (host->ip == ip) return host.get();
    return nullptr;
}

Listener *listener_find(const Fabric &fabric, const std::string &address) {
    for (Instance *instance : fabric.instances)
        for (const auto &listener : instance->listeners)
            if (listener->address == address) return listener.get();
    return nullptr;
}

Stream &stream_make(Fabric &fabric) {
    fabric.streams.push_back(std::make_unique<Stream>());
    fabric.streams.back()->fabric = &fabric;
    return *fabric.streams.back();
}

void tell(Stream &stream) {
    if (stream.instance != nullptr) stream.instance->stream_news = true;
}

void stream_free_when_done(Fabric &fabric, Stream &stream) {
    Stream *peer = stream.peer;
    if (!stream.ended || stream.refs > 0) return;
    if (peer != nullptr && !peer->ended) return;
    if (peer != nullptr) peer->peer = nullptr;
    std::erase(fabric.held, &stream);
    std::erase_if(fabric.streams, [&](const auto &item) { return item.get() == &stream; });
    if (peer != nullptr) stream_free_when_done(fabric, *peer);
}

void hold(Fabric &fabric, Stream &stream) {
    if (stream.held) return;
    stream.held = true;
    fabric.held.push_back(&stream);
    stream.refs++;
    event_push(fabric, fabric.now_ns + fabric.control_break_ns, EventType::StreamBreak, &stream,
               ++stream.held_generation);
}

void let_go(Fabric &fabric, Stream &stream) {
    if (!stream.held) return;
    stream.held = false;
    stream.held_generation++;
    std::erase(fabric.held, &stream);
}

void stream_lose(Fabric &fabric, Stream &stream, int32_t error = TENT_E_PEER) {
    stream.state = StreamState::Broken;
    stream.error = error;
    let_go(fabric, stream);
    tell(stream);
}

void establish(Fabric &fabric, Stream &stream) {
    Listener *listener = listener_find(fabric, stream.address);
    const bool deaf = stream.peer_host != nullptr && stream.peer_host->deaf;
    if (listener == nullptr || deaf || listener->backlog.size() >= BACKLOG_MAX) {
        stream_lose(fabric, stream);
        return;
    }
    Stream &other = stream_make(fabric);
    other.host = stream.peer_host;
    other.peer_host = stream.host;
    other.peer = &stream;
    other.state = stream.state = StreamState::Open;
    stream.peer = &other;
    other.address = (stream.host != nullptr ? stream.host->ip : std::string("0.0.0.0")) + ":" +
                    std::to_string(fabric.port_next);
    fabric.port_next = fabric.port_next == UINT16_MAX ? 49152 : fabric.port_next + 1;
    listener->backlog.push_back(&other);
    listener->instance->stream_news = true;
    tell(stream);
}

void deliver(Fabric &fabric, Stream &stream) {
    if (stream.ended || stream.state == StreamState::Broken) return;
    if (!way_open(stream)) {
        hold(fabric, stream);
        return;
    }
    let_go(fabric, stream);
    if (stream.state == StreamState::Connecting) {
        establish(fabric, stream);
        return;
    }
    while (!stream.parts.empty() && stream.parts.front().due_ns <= fabric.now_ns) {
        stream.visible += stream.parts.front().bytes;
        stream.peer_ended |= stream.parts.front().last;
        stream.parts.pop_front();
        tell(stream);
    }
}

// Adds bytes, or the end, to what is on its way to `stream`.
void send_to(Fabric &fabric, Stream &stream, const void *bytes, uint64_t size, bool last) {
    const auto *from = static_cast<const uint8_t *>(bytes);
    if (size > 0) stream.inbound.insert(stream.inbound.end(), from, from + size);
    const uint64_t due_ns = fabric.now_ns + fabric.control_latency_ns;
    stream.parts.push_back({due_ns, size, last});
    stream.refs++;
    event_push(fabric, due_ns, EventType::StreamDeliver, &stream);
}

void stream_end(Fabric &fabric, Stream &stream) {
    stream.ended = true;
    stream.instance = nullptr;
    let_go(fabric, stream);
    if (stream.peer != nullptr && !stream.peer->ended)
        send_to(fabric, *stream.peer, nullptr, 0, true);
    stream_free_when_done(fabric, stream);
}

// The one that an accepted or connected stream's owner, killed meanwhile, knows.
void stream_orphan(Fabric &fabric, Stream &stream, bool silent) {
    stream.orphan = true;
    stream.refs++;  // nothing frees it before its core lets go
    stream.state = StreamState::Broken;
    stream.error = TENT_E_PEER;
    if (silent) {
        stream.ended = true;
        stream.instance = nullptr;
        let_go(fabric, stream);
    } else {
        stream_end(fabric, stream);
    }
}

}  // namespace

void stream_connected(Fabric &fabric, Stream &stream) {
    stream_delivered(fabric, stream);
}

void stream_delivered(Fabric &fabric, Stream &stream) {
    stream.refs--;
    deliver(fabric, stream);
    stream_free_when_done(fabric, stream);
}

void stream_break(Fabric &fabric, Stream &stream, uint32_t generation) {
    stream.refs--;
    if (stream.held && generation == stream.held_generation) {
        // While connecting this is no refusal: there was no way to ask.
        const bool asked = stream.state != StreamState::Connecting;
        stream_lose(fabric, stream, asked ? TENT_E_PEER : TENT_E_TIMEOUT);
        if (stream.peer != nullptr) stream_lose(fabric, *stream.peer);
    }
    stream_free_when_done(fabric, stream);
}

void streams_retry(Fabric &fabric) {
    const std::vector<Stream *> held = fabric.held;
    for (Stream *stream : held)
        deliver(fabric, *stream);
}

void streams_end(Instance &instance) {
    Fabric &fabric = *instance.fabric;
    for (const auto &listener : instance.listeners)
        for (Stream *stream : listener->backlog)
            stream_end(fabric, *stream);
    instance.listeners.clear();
    const auto ours = [&](const auto &stream) { return stream->instance == &instance; };
    auto found = fabric.streams.begin();
    // Searched anew each time: an end may free both sides.
    while ((found = std::find_if(fabric.streams.begin(), fabric.streams.end(), ours)) !=
           fabric.streams.end())
        stream_end(fabric, **found);
}

void streams_orphan(Instance &instance, bool silent) {
    Fabric &fabric = *instance.fabric;
    for (const auto &listener : instance.listeners)
        for (Stream *stream : listener->backlog) {
            stream_orphan(fabric, *stream, silent);
            stream->orphan = false;  // its core never knew of it
            stream->refs--;
            stream_free_when_done(fabric, *stream);
        }
    instance.listeners.clear();
    std::vector<Stream *> ours;
    for (const auto &stream : fabric.streams)
        if (stream->instance == &instance) ours.push_back(stream.get());
    for (Stream *stream : ours)
        stream_orphan(fabric, *stream, silent);
}

int32_t plugin_stream_listen(void *opaque, const char *address, uint16_t *port) {
    Instance &instance = instance_of(opaque);
    Fabric &fabric = *instance.fabric;
    std::lock_guard guard(fabric.mutex);
    const std::string text = address;
    const Host *host = host_of_address(fabric, text);
    if (host == nullptr || (instance.place != nullptr && instance.place != host))
        return refuse(instance, TENT_E_INVALID, "sim: '%s' is no address of %s in fabric '%s'",
                      address,
                      instance.place != nullptr ? instance.place->name.c_str() : "any host",
                      fabric.name.c_str());
    char *end = nullptr;
    const size_t colon = text.rfind(':');
    const unsigned long wanted =
        colon == std::string::npos ? 65536 : strtoul(address + colon + 1, &end, 10);
    if (wanted > UINT16_MAX || end == address + colon + 1 || *end != '\0')
        return refuse(instance, TENT_E_INVALID, "sim: '%s' has no port, expected host:port",
                      address);
    auto listener = std::make_unique<Listener>();
    unsigned long chosen = wanted != 0 ? wanted : host->port;
    listener->address = host->ip + ":" + std::to_string(chosen);
    while (listener_find(fabric, listener->address) != nullptr) {
        if (wanted != 0 || chosen == UINT16_MAX)
            return refuse(instance, TENT_E_BUSY, "sim: an engine listens on %s already", address);
        listener->address = host->ip + ":" + std::to_string(++chosen);
    }
    instance.place = fabric.hosts[host->index].get();
    listener->instance = &instance;
    instance.listeners.push_back(std::move(listener));
    *port = static_cast<uint16_t>(chosen);
    return TENT_OK;
}

int32_t plugin_stream_connect(void *opaque, const char *address, void **out) {
    Instance &instance = instance_of(opaque);
    Fabric &fabric = *instance.fabric;
    std::lock_guard guard(fabric.mutex);
    catch_up(instance);
    Stream &stream = stream_make(fabric);
    stream.address = address;
    if (instance.dead) {
        stream_orphan(fabric, stream, true);
        *out = &stream;
        return TENT_OK;
    }
    stream.instance = &instance;
    stream.host = instance.place;
    stream.peer_host = host_of_address(fabric, stream.address);
    stream.refs++;
    event_push(fabric, fabric.now_ns + fabric.control_latency_ns, EventType::StreamConnect,
               &stream);
    *out = &stream;
    return TENT_OK;
}

int32_t plugin_stream_accept(void *opaque, void **out, char *from) {
    Instance &instance = instance_of(opaque);
    std::lock_guard guard(instance.fabric->mutex);
    for (const auto &listener : instance.listeners) {
        if (listener->backlog.empty()) continue;
        Stream &stream = *listener->backlog.front();
        listener->backlog.pop_front();
        stream.instance = &instance;
        snprintf(from, 64, "%s", stream.address.c_str());
        *out = &stream;
        return TENT_OK;
    }
    return TENT_E_AGAIN;
}

int32_t plugin_stream_state(void *opaque, void *opaque_stream) {
    std::lock_guard guard(instance_of(opaque).fabric->mutex);
    const Stream &stream = stream_of(opaque_stream);
    if (stream.state == StreamState::Connecting) return TENT_IN_PROGRESS;
    if (stream.state == StreamState::Broken) return stream.error;
    return stream.peer_ended && stream.visible == 0 ? TENT_E_PEER : TENT_OK;
}

int64_t plugin_stream_send(void *opaque, void *opaque_stream, const void *bytes, uint64_t size) {
    Instance &instance = instance_of(opaque);
    Fabric &fabric = *instance.fabric;
    std::lock_guard guard(fabric.mutex);
    Stream &stream = stream_of(opaque_stream);
    if (stream.state == StreamState::Connecting) return 0;
    if (stream.state == StreamState::Broken || stream.peer_ended) return TENT_E_PEER;
    // The other side has closed and we do not know yet: the bytes go nowhere.
    if (stream.peer == nullptr || stream.peer->ended) return static_cast<int64_t>(size);
    const uint64_t room = STREAM_ROOM - std::min(STREAM_ROOM, stream.peer->waiting());
    const uint64_t taken = std::min(size, room);
    catch_up(instance);
    if (taken > 0) send_to(fabric, *stream.peer, bytes, taken, false);
    return static_cast<int64_t>(taken);
}

int64_t plugin_stream_receive(void *opaque, void *opaque_stream, void *bytes, uint64_t room) {
    std::lock_guard guard(instance_of(opaque).fabric->mutex);
    Stream &stream = stream_of(opaque_stream);
    if (stream.state == StreamState::Broken) return TENT_E_PEER;
    if (stream.visible == 0) return stream.peer_ended ? TENT_E_PEER : 0;
    const uint64_t taken = std::min(room, stream.visible);
    const bool was_full = stream.waiting() >= STREAM_ROOM;
    memcpy(bytes, stream.inbound.data() + stream.begin, taken);
    stream.begin += taken;
    stream.visible -= taken;
    if (stream.begin == stream.inbound.size() || stream.begin >= STREAM_ROOM / 4) {
        stream.inbound.erase(stream.inbound.begin(),
                             stream.inbound.begin() + static_cast<ptrdiff_t>(stream.begin));
        stream.begin = 0;
    }
    if (was_full && stream.peer != nullptr) tell(*stream.peer);
    return static_cast<int64_t>(taken);
}

void plugin_stream_close(void *opaque, void *opaque_stream) {
    Instance &instance = instance_of(opaque);
    std::lock_guard guard(instance.fabric->mutex);
    catch_up(instance);
    Stream &stream = stream_of(opaque_stream);
    if (std::exchange(stream.orphan, false)) {
        stream.refs--;
        stream_free_when_done(*instance.fabric, stream);
        return;
    }
    stream_end(*instance.fabric, stream);
}

}  // namespace tent::sim
