// Control streams: what carries the cores' control messages over the fabric. See streams.cc.
#ifndef TENT_SIM_STREAM_H
#define TENT_SIM_STREAM_H

#include <cstdint>
#include <deque>
#include <string>
#include <vector>

namespace tent::sim {

struct Fabric;
struct Host;
struct Instance;

constexpr uint64_t STREAM_ROOM = 4u << 20;  // bytes on their way to or waiting at one end
constexpr size_t BACKLOG_MAX = 256;         // streams nobody has accepted yet

enum class StreamState : uint8_t { Connecting, Open, Broken };

// One end of a stream, with what is on its way to it.
struct Stream {
    struct Part {
        uint64_t due_ns;
        uint64_t bytes;
        bool last;  // the other side has closed
    };
    Fabric *fabric = nullptr;
    Instance *instance = nullptr;  // null: closed by its owner, or not accepted yet
    Stream *peer = nullptr;
    const Host *host = nullptr;  // where this end is; null: nowhere in particular
    const Host *peer_host = nullptr;
    StreamState state = StreamState::Connecting;
    int32_t error = 0;    // why it is Broken
    std::string address;  // connecting: whereto; accepted: wherefrom
    bool ended = false;   // its owner closed it
    bool peer_ended = false;
    bool orphan = false;  // its owner was killed, and will still close it
    bool held = false;    // its bytes wait for a live rail
    uint32_t held_generation = 0;
    uint32_t refs = 0;  // events
    std::vector<uint8_t> inbound;
    uint64_t begin = 0;    // of what is not yet received, within inbound
    uint64_t visible = 0;  // bytes that have arrived and were not received
    std::deque<Part> parts;

    uint64_t waiting() const { return inbound.size() - begin; }
};

struct Listener {
    Instance *instance = nullptr;
    std::string address;
    std::deque<Stream *> backlog;
};

}  // namespace tent::sim

#endif
