// The control channel's paths to one peer: sessions over distinct addresses of it, at most
// CONTROL_PATHS_MAX at a time, so that the loss of any rail but the last costs no answer. Which
// path to speak over, which one is doubtful, when an address is tried again. Driver only. Leans on
// control.h's connections; peers.cc decides what a lost path means for the peer. Must never let
// an attempt over a dead rail hold up anything else, nor drop a path while no better one is known.
#pragma once

#include "base/net.h"
#include "core/engine.h"
#include "wire/messages.h"

namespace tent {

struct Connection;

constexpr uint32_t CONTROL_PATHS_MAX = 4;
constexpr uint32_t PEER_ADDRESSES_MAX = 128;  // known of one peer

// How the last session or attempt at an address ended.
enum class PathEnd : uint8_t {
    None,     // not tried yet, or a session stood there and was closed: try it now
    Refused,  // nobody listens
    Other,    // somebody answered who is not the peer, or does not know the key
    Silent,   // no answer in time, or no way there
};

// One address of a peer, and the session or the attempt there.
struct ControlPath {
    SocketAddress address;
    Connection *connection = nullptr;
    bool established = false;  // a session of the peer stood here once
    PathEnd end = PathEnd::None;
    uint64_t begun_ns = 0, ended_ns = 0;  // of the last attempt
    uint64_t interval_ns = 0;             // to the next attempt, before jitter
    uint32_t jitter = 0;                  // of 256
    // While live: since when, when anything came, the question for life that is open (0: none).
    uint64_t proven_ns = 0, heard_ns = 0, asked_ns = 0, ping = 0;
    uint64_t round_trip_ns = 0;  // smoothed

    bool live() const;
};

// When something that awaits an answer was said last, and when it is to be said again.
struct Said {
    uint64_t connection = 0;  // 0: on none
    uint64_t said_ns = 0, due_ns = 0, interval_ns = 0;
};

// Adds an address, unless it is known or there are too many.
void paths_learn(Peer &peer, const SocketAddress &address);
// The addresses a descriptor names, of its listener and of its rails. Host names are left out: they
// would block.
void paths_learn(Peer &peer, const Descriptor &descriptor, bool same_host);
ControlPath *path_of(Peer &peer, const Connection *connection);
// Begins what attempts are due; several run at a time, each with a time limit of its own.
void paths_connect(Engine &engine, Peer &peer);
// Begins an attempt at the first CONTROL_PATHS_MAX addresses where sessions stood, due or not.
void paths_try_all(Engine &engine, Peer &peer, uint64_t limit_ns);
// The next attempt, UINT64_MAX: none.
uint64_t paths_due_ns(const Engine &engine, const Peer &peer);
void path_ended(Engine &engine, ControlPath &path, PathEnd end);
void paths_drop(Engine &engine, Peer &peer);
bool paths_live(const Peer &peer);
// The path to speak over; nullptr: none is live. The same one as before, for the order of what is
// said, unless it is doubtful; then the one heard from most recently.
ControlPath *paths_best(Engine &engine, Peer &peer);
// Anything came; a Pong with its number.
void path_heard(Engine &engine, ControlPath &path);
void path_answered(Engine &engine, ControlPath &path, uint64_t ping);
// Asks for a sign of life, unless one is awaited.
void path_ask(Engine &engine, ControlPath &path);
// For how long an answer has been due and nothing came; 0: none is.
uint64_t path_silence_ns(const Engine &engine, const ControlPath &path);
bool path_doubtful(const Engine &engine, const ControlPath &path);
// Ends sessions that have been silent for too long while another one stands.
void paths_drop_silent(Engine &engine, Peer &peer);
// Does anything await an answer or an attempt's end, so that time must be watched closely?
bool paths_watch(const Peer &peer);

void said_now(const Engine &engine, Said &said, uint64_t connection);
// True when it is to be said again, everywhere: what carried it is gone, doubtful or too slow.
bool said_due(Engine &engine, Peer &peer, Said &said);

}  // namespace tent
