// See paths.h.
#include "core/paths.h"

#include <arpa/inet.h>

#include <algorithm>

#include "core/control.h"
#include "core/reports.h"

namespace tent {

namespace {

// Before the identity is known, so that the first address named is also the first to be met.
constexpr uint64_t STAGGER_NS = 10 * MS;
constexpr uint64_t ATTEMPT_ROUND_TRIPS = 12;
constexpr uint64_t DOUBT_NS_MIN = 10 * MS;
constexpr uint64_t DOUBT_ROUND_TRIPS = 4;
constexpr uint64_t RESAY_NS_MIN = 10 * MS, RESAY_NS_MAX = 250 * MS;
// A session that ends sooner is no proof of a good way: its address waits as after a failure.
constexpr uint64_t SESSION_NS_MIN = 100 * MS;

bool numeric(const std::string &host) {
    unsigned char unused[sizeof(in6_addr)];
    return inet_pton(AF_INET, host.c_str(), unused) == 1 ||
           inet_pton(AF_INET6, host.substr(0, host.find('%')).c_str(), unused) == 1;
}

void learn_text(Peer &peer, const std::string &text, bool same_host) {
    std::string host;
    uint16_t port = 0;
    std::vector<SocketAddress> addresses;
    if (parse_host_port(text, &host, &port) != TENT_OK || port == 0 || !numeric(host)) return;
    if (resolve(text, &addresses) != TENT_OK) return;
    // Another machine's loopback is not ours.
    if (addresses.front().is_loopback() && !same_host) return;
    paths_learn(peer, addresses.front());
}

bool standing(const Engine &engine, const ControlPath &path) {
    return path.live() && path_silence_ns(engine, path) < parameters(engine).probe_timeout_ns;
}

bool any_standing(const Engine &engine, const Peer &peer) {
    return std::any_of(peer.paths.begin(), peer.paths.end(),
                       [&](const ControlPath &path) { return standing(engine, path); });
}

// Does something wait for this peer, so that a path more would be welcome now?
bool wanted(const Engine &engine, const Peer &peer) {
    return peer.state != PeerState::Ready || paths_watch(peer) || !peer.notices.empty() ||
           !peer.questions.empty() || engine.open_requests > 0 || engine.endpoints_unsettled > 0;
}

uint64_t attempt_ns(const Engine &engine, const Peer &peer, size_t index) {
    const ControlPath &path = peer.paths[index];
    const Parameters &limits = parameters(engine);
    if (path.ended_ns == 0) {
        if (peer.known) return 0;
        bool earlier_failed =
            std::all_of(peer.paths.begin(), peer.paths.begin() + static_cast<ptrdiff_t>(index),
                        [](const ControlPath &p) { return p.end != PathEnd::None; });
        return earlier_failed ? 0 : peer.begun_ns + index * STAGGER_NS;
    }
    // An address that never led to the peer may never do so: it is not worth a hurry, unless
    // nothing else is left.
    bool hurry = wanted(engine, peer) && (path.established || !paths_live(peer));
    uint64_t wait_ns =
        std::min(path.interval_ns, hurry ? limits.probe_max_ns : limits.probe_idle_ns);
    return path.ended_ns + wait_ns / 4 * 3 + wait_ns / 2 * path.jitter / 256;
}

uint64_t attempt_limit_ns(const Engine &engine, const Peer &peer, const ControlPath &path) {
    const Parameters &limits = parameters(engine);
    if (any_standing(engine, peer)) {
        // Three trips to and fro, and some patience; a far peer needs more than a probe's time.
        uint64_t limit_ns = limits.probe_timeout_ns;
        for (const ControlPath &other : peer.paths)
            if (other.live())
                limit_ns = std::max(limit_ns, ATTEMPT_ROUND_TRIPS * other.round_trip_ns);
        return std::min(limit_ns, limits.connect_timeout_ns);
    }
    // The first one may be slow, as long as no other address waits for its turn.
    if (!peer.known && peer.paths.size() <= CONTROL_PATHS_MAX) return limits.connect_timeout_ns;
    uint64_t limit_ns = limits.probe_timeout_ns;
    for (uint64_t i = limits.probe_first_ns; i < path.interval_ns && i < 8 * limits.probe_first_ns;
         i *= 2)
        limit_ns *= 2;
    return std::min(limit_ns, limits.connect_timeout_ns);
}

void attempt(Engine &engine, Peer &peer, ControlPath &path, uint64_t limit_ns) {
    bool refused = false;
    path.begun_ns = engine.now_ns;
    path.connection = connection_connect(engine, path.address, &refused);
    if (!path.connection) {
        path_ended(engine, path, refused ? PathEnd::Refused : PathEnd::Silent);
        return;
    }
    path.connection->peer = &peer;
    path.connection->kind = ConnectionKind::CONTROL;
    path.connection->deadline_ns = engine.now_ns + limit_ns;
}

// The address whose turn it is, and when; peer.paths.size(): none.
size_t next_attempt(const Engine &engine, const Peer &peer, uint64_t *due_ns) {
    size_t next = peer.paths.size(), open = 0;
    std::pair<bool, uint64_t> best{};
    for (size_t i = 0; i < peer.paths.size(); i++) {
        if (peer.paths[i].connection) {
            open++;
            continue;
        }
        uint64_t at_ns = attempt_ns(engine, peer, i);
        // Of those that are due, where sessions stood comes before where none ever did.
        std::pair rank(!peer.paths[i].established || at_ns > engine.now_ns, at_ns);
        if (next < peer.paths.size() && rank >= best) continue;
        best = rank;
        next = i;
    }
    if (open >= CONTROL_PATHS_MAX) next = peer.paths.size();
    *due_ns = next < peer.paths.size() ? best.second : UINT64_MAX;
    return next;
}

}  // namespace

bool ControlPath::live() const {
    return connection && connection->proven && !connection->doomed;
}

void paths_learn(Peer &peer, const SocketAddress &address) {
    for (const ControlPath &path : peer.paths)
        if (path.address == address) return;
    if (peer.paths.size() < PEER_ADDRESSES_MAX) peer.paths.emplace_back().address = address;
}

void paths_learn(Peer &peer, const Descriptor &descriptor, bool same_host) {
    for (const std::string &text : descriptor.addresses)
        learn_text(peer, text, same_host);
    for (const DescriptorRail &rail : descriptor.rails)
        if (!rail.listen.empty()) learn_text(peer, rail.listen, same_host);
}

ControlPath *path_of(Peer &peer, const Connection *connection) {
    for (ControlPath &path : peer.paths)
        if (path.connection == connection) return &path;
    return nullptr;
}

void paths_connect(Engine &engine, Peer &peer) {
    uint64_t due_ns = 0;
    // Each path once: one that fails at once is due again later.
    for (size_t tries = peer.paths.size(); tries > 0; tries--) {
        size_t index = next_attempt(engine, peer, &due_ns);
        if (index == peer.paths.size() || due_ns > engine.now_ns) return;
        ControlPath &path = peer.paths[index];
        attempt(engine, peer, path, attempt_limit_ns(engine, peer, path));
    }
}

void paths_try_all(Engine &engine, Peer &peer, uint64_t limit_ns) {
    size_t open = 0;
    for (ControlPath &path : peer.paths) {
        if (!path.established || open == CONTROL_PATHS_MAX) continue;
        open++;
        if (!path.connection) attempt(engine, peer, path, limit_ns);
    }
}

uint64_t paths_due_ns(const Engine &engine, const Peer &peer) {
    uint64_t due_ns = 0;
    next_attempt(engine, peer, &due_ns);
    return due_ns;
}

void path_ended(Engine &engine, ControlPath &path, PathEnd end) {
    const Parameters &limits = parameters(engine);
    bool lasted = path.proven_ns && engine.now_ns - path.proven_ns >= SESSION_NS_MIN;
    path.connection = nullptr;
    path.proven_ns = path.asked_ns = 0;
    path.end = end;
    path.ended_ns = std::max<uint64_t>(engine.now_ns, 1);
    if (lasted)
        path.interval_ns = 0;
    else
        path.interval_ns =
            std::min(std::max(path.interval_ns * 2, limits.probe_first_ns), limits.probe_idle_ns);
    path.jitter = static_cast<uint32_t>(engine.random.below(256));
    engine.housekeeping_due_ns = 0;  // what follows is decided outside of the connection's handler
}

void paths_drop(Engine &engine, Peer &peer) {
    for (ControlPath &path : peer.paths)
        if (Connection *connection = path.connection) connection_drop(engine, *connection);
}

bool paths_live(const Peer &peer) {
    return std::any_of(peer.paths.begin(), peer.paths.end(),
                       [](const ControlPath &path) { return path.live(); });
}

ControlPath *paths_best(Engine &engine, Peer &peer) {
    ControlPath *best = nullptr;
    if (peer.preferred < peer.paths.size() && peer.paths[peer.preferred].live())
        best = &peer.paths[peer.preferred];
    if (best && !path_doubtful(engine, *best)) return best;
    auto score = [&](const ControlPath &path) {
        return std::pair(!path_doubtful(engine, path), path.heard_ns);
    };
    for (ControlPath &path : peer.paths)
        if (path.live() && (!best || score(path) > score(*best))) best = &path;
    if (best) peer.preferred = static_cast<size_t>(best - peer.paths.data());
    return best;
}

void path_heard(Engine &engine, ControlPath &path) {
    path.heard_ns = engine.now_ns;
}

void path_answered(Engine &engine, ControlPath &path, uint64_t ping) {
    if (path.asked_ns == 0 || ping != path.ping) return;
    uint64_t took_ns = engine.now_ns - std::min(engine.now_ns, path.asked_ns);
    path.round_trip_ns = path.round_trip_ns - path.round_trip_ns / 8 + took_ns / 8;
    path.asked_ns = 0;
}

void path_ask(Engine &engine, ControlPath &path) {
    if (!path.live() || path.asked_ns) return;
    path.asked_ns = std::max<uint64_t>(engine.now_ns, 1);
    path.ping = engine.control->next_id++;
    connection_say(engine, *path.connection, Ping{path.ping});
}

uint64_t path_silence_ns(const Engine &engine, const ControlPath &path) {
    if (!path.live() || path.asked_ns == 0) return 0;
    uint64_t since_ns = std::max(path.asked_ns, path.heard_ns);
    return engine.now_ns - std::min(engine.now_ns, since_ns);
}

bool path_doubtful(const Engine &engine, const ControlPath &path) {
    return path_silence_ns(engine, path) >=
           std::max(DOUBT_NS_MIN, DOUBT_ROUND_TRIPS * path.round_trip_ns);
}

void paths_drop_silent(Engine &engine, Peer &peer) {
    for (ControlPath &path : peer.paths) {
        if (!path.live() || standing(engine, path)) continue;
        uint64_t since_ns = std::max(path.asked_ns, path.heard_ns);
        bool better =
            std::any_of(peer.paths.begin(), peer.paths.end(), [&](const ControlPath &other) {
                return other.live() && !path_doubtful(engine, other) && other.heard_ns > since_ns;
            });
        if (!better) continue;
        report(engine, TENT_EVENT_LOG, {.status = TENT_E_TIMEOUT},
               "the control path to '%s' at %s is silent; others stand, it is tried anew",
               peer.identity.name.c_str(), path.connection->address.c_str());
        path.connection->silent = true;
        connection_drop(engine, *path.connection);
    }
}

bool paths_watch(const Peer &peer) {
    return std::any_of(peer.paths.begin(), peer.paths.end(), [](const ControlPath &path) {
        return path.connection && (!path.connection->proven || path.asked_ns);
    });
}

void said_now(const Engine &engine, Said &said, uint64_t connection) {
    said.connection = connection;
    said.said_ns = engine.now_ns;
    said.interval_ns = RESAY_NS_MIN;
    said.due_ns = engine.now_ns + said.interval_ns;
}

bool said_due(Engine &engine, Peer &peer, Said &said) {
    if (engine.now_ns < said.due_ns) return false;
    auto carries = std::find_if(peer.paths.begin(), peer.paths.end(), [&](const ControlPath &path) {
        return path.live() && path.connection->id == said.connection;
    });
    if (carries != peer.paths.end() && !path_doubtful(engine, *carries) &&
        engine.now_ns - said.said_ns < RESAY_NS_MAX) {
        path_ask(engine, *carries);
        said.due_ns = engine.now_ns + RESAY_NS_MIN;
        return false;
    }
    said.interval_ns = std::min(said.interval_ns * 2, RESAY_NS_MAX);
    said.said_ns = engine.now_ns;
    said.due_ns = engine.now_ns + said.interval_ns;
    return true;
}

}  // namespace tent
