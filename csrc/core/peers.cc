// The engines we connected to: the handshake, what they say, loss and return. What is said to them
// is in peer_messages.cc, over which of their addresses in paths.cc. See control.h.
#include <algorithm>
#include <cstring>

#include "base/mutant.h"
#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/reports.h"
#include "core/segments.h"
#include "core/spray.h"
#include "core/unfenced.h"

namespace tent {

namespace {

// A lost peer is asked this often, and for so long, to prove that nothing of ours can land there.
constexpr uint64_t PROOF_INTERVAL_NS = 1 * SECOND, PROOF_NS = 600 * SECOND;

void proofs_end(Engine &engine, Peer &peer, const char *why) {
    std::vector<uint64_t> endpoints;
    endpoints.swap(peer.unproven);
    for (uint64_t endpoint : endpoints)
        unfenced_prove(engine, endpoint, why);
}

void lose(Engine &engine, Peer &peer, int32_t status, const std::string &sentence, bool proven) {
    if (peer.state == PeerState::Lost) return;
    peer.state = PeerState::Lost;
    peer.error = status;
    peer.sentence = sentence;
    report(engine, TENT_EVENT_PEER_LOST, {.status = status}, "%s", sentence.c_str());
    paths_drop(engine, peer);
    peer.questions.clear();
    // Requests first: their slices must not be retried when the endpoints give them back.
    for_segments_of(engine, &peer,
                    [&](Segment &segment) { segment_fail(engine, segment, status, sentence); });
    endpoints_peer_lost(engine, peer, proven);
    if (proven) proofs_end(engine, peer, "its process is gone");
    for (auto &notice : peer.notices)
        report(engine, TENT_EVENT_NOTICE_DROPPED, {.status = status},
               "a notice of %zu bytes was not delivered", notice->bytes.size());
    // Batches may still name waiting ones; those are freed with their batch (batches_on_terminal).
    std::erase_if(peer.notices, [](const auto &notice) {
        return notice->state != OutgoingNotice::State::Waiting;
    });
}

std::string who(const Peer &peer) {
    return peer.known ? "'" + peer.identity.name + "'" : "the engine";
}

// Sealed while the session was being made.
void move_notices(Engine &engine, Peer &from, Peer &to) {
    for (auto &notice : from.notices)
        to.notices.push_back(std::move(notice));
    from.notices.clear();
    engine.notices_due = true;
}

// Another peer object stands for the same engine already: its sessions serve these segments, too.
bool merge(Engine &engine, Peer &peer) {
    for (auto &other : engine.control->peers) {
        if (other.get() == &peer || !other->known || other->state != PeerState::Ready) continue;
        if (memcmp(other->identity.engine_id, peer.identity.engine_id, ENGINE_ID_SIZE) != 0 ||
            other->identity.epoch != peer.identity.epoch)
            continue;
        for_segments_of(engine, &peer, [&](Segment &segment) {
            segment.peer = other.get();
            other->segments++;
            peer.segments--;
            segment_describe(engine, segment);
        });
        move_notices(engine, peer, *other);
        for (const ControlPath &path : peer.paths)
            paths_learn(*other, path.address);
        return true;
    }
    return false;
}

// A peer that is met at an address already may be met at its others, should that one be dead now.
void learn_from_others(Engine &engine, Peer &peer) {
    for (auto &other : engine.control->peers) {
        if (other->state != PeerState::Ready) continue;
        const SocketAddress &named = peer.paths.front().address;
        bool same = std::any_of(
            other->paths.begin(), other->paths.end(),
            [&](const ControlPath &path) { return path.established && path.address == named; });
        for (const ControlPath &path : other->paths)
            if (same && path.live()) paths_learn(peer, path.address);
    }
}

// Says what is still to be proven; on a fresh path of a lost peer, else on the best one.
void ask_for_proofs(Engine &engine, Peer &peer, const ControlPath *path) {
    if (!path) path = paths_best(engine, peer);
    peer.proof_due_ns = engine.now_ns + PROOF_INTERVAL_NS;
    for (size_t i = 0; path && path->live() && i < peer.unproven.size(); i++)
        connection_say(engine, *path->connection, EndpointRetire{peer.unproven[i]});
}

void become_ready(Engine &engine, Peer &peer, const Connection &connection) {
    peer.state = PeerState::Ready;
    peer.error = TENT_OK;
    peer.restarted = peer.missed = false;
    report(engine, TENT_EVENT_PEER_CONNECTED, {}, "control session with '%s' at %s",
           peer.identity.name.c_str(), connection.address.c_str());
    peer_resay_all(engine, peer);
}

void proven(Engine &engine, Connection &connection) {
    Peer &peer = *connection.peer;
    ControlPath *path = path_of(peer, &connection);
    const ClientHandshake &handshake = *connection.as_client;
    connection.proven = true;
    if (handshake.peer_is_self()) {
        for_segments_of(engine, &peer, [&](Segment &segment) { segment_own(engine, segment); });
        move_notices(engine, peer, *engine.control->self);
        peer.segments = 0;
        peer.state = PeerState::Lost;
        paths_drop(engine, peer);
        return;
    }
    bool first = !peer.known;
    peer.identity = handshake.peer();
    peer.known = true;
    if (first && merge(engine, peer)) {
        peer.state = PeerState::Lost;
        paths_drop(engine, peer);
        return;
    }
    path->established = true;
    path->end = PathEnd::None;
    path->proven_ns = path->heard_ns = peer.alive_ns = std::max<uint64_t>(engine.now_ns, 1);
    path->asked_ns = 0;
    // Two trips to and fro: the connection's (a socket's own) and the handshake's.
    path->round_trip_ns = (engine.now_ns - path->begun_ns) / 2;
    engine.housekeeping_due_ns = 0;  // the other addresses are to be connected now
    if (peer.state == PeerState::Lost)
        ask_for_proofs(engine, peer, path);
    else if (peer.state == PeerState::Connecting)
        become_ready(engine, peer, connection);
    else
        report(engine, TENT_EVENT_LOG, {}, "one more control path to '%s', at %s",
               peer.identity.name.c_str(), connection.address.c_str());
}

void retired(Engine &engine, Peer &peer, const EndpointRetired &message) {
    endpoints_retired(engine, peer, message);
    if (std::erase(peer.unproven, message.endpoint) > 0)
        unfenced_prove(engine, message.endpoint, "the peer has retired the endpoint");
}

// What the addresses have answered may say that the peer is gone. A path that stands speaks
// against it; those that are silent, or were so before, do not count. Where sessions stood, one
// refusal is then enough: the process held those listeners.
void check_gone(Engine &engine, Peer &peer) {
    bool refused = false, other = false, unanswered = false, silent = false;
    for (const ControlPath &path : peer.paths) {
        if (path.live()) {
            if (path_silence_ns(engine, path) < parameters(engine).probe_timeout_ns) return;
            silent = true;
            continue;
        }
        if (peer.known && !path.established) continue;
        if (path.end == PathEnd::None) return;  // being tried
        bool fresh = path.ended_ns >= peer.alive_ns;
        refused |= path.end == PathEnd::Refused && fresh;
        other |= path.end == PathEnd::Other && fresh;
        unanswered |= path.end == PathEnd::Silent;
    }
    // Data may still flow while every control path is silent.
    if (silent && engine.now_ns - peer.alive_ns < parameters(engine).probe_timeout_ns) return;
    if (other && peer.error != TENT_OK)
        // Somebody answered, and none of the addresses led to the engine meant.
        lose(engine, peer, peer.error, std::string(peer.sentence), peer.restarted);
    else if (refused && (peer.known || !unanswered))
        lose(engine, peer, TENT_E_PEER,
             who(peer) + " at " + peer.text +
                 " refuses connections: it was closed, or never listened there",
             false);
}

void check_time(Engine &engine, Peer &peer) {
    if (peer.state == PeerState::Connecting) {
        if (engine.now_ns < peer.deadline_ns) return;
        if (peer.error != TENT_OK)
            lose(engine, peer, peer.error, std::string(peer.sentence), peer.restarted);
        else
            lose(
                engine, peer, peer.known ? TENT_E_PEER : TENT_E_TIMEOUT,
                "no answer from " + peer.text + (peer.known ? " (" + peer.identity.name + ")" : ""),
                false);
        return;
    }
    uint64_t asked_ns = UINT64_MAX;
    for (const ControlPath &path : peer.paths)
        if (path.live() && path.asked_ns) asked_ns = std::min(asked_ns, path.asked_ns);
    uint64_t since_ns = std::max(asked_ns, peer.alive_ns);
    if (asked_ns != UINT64_MAX && engine.now_ns >= since_ns + parameters(engine).peer_timeout_ns)
        lose(engine, peer, TENT_E_PEER,
             who(peer) + " at " + peer.text + " has given no sign of life for peer_timeout", false);
}

// A lost peer that owes proofs; its paths serve for nothing else.
void prove_later(Engine &engine, Peer &peer) {
    bool due = engine.now_ns >= peer.proof_due_ns;
    if (due)
        std::erase_if(peer.unproven,
                      [&](uint64_t endpoint) { return !unfenced_waits(engine, endpoint); });
    if (engine.now_ns >= peer.proof_until_ns) peer.unproven.clear();
    if (peer.unproven.empty()) {
        paths_drop(engine, peer);
        return;
    }
    if (!due) return;
    if (paths_live(peer))
        ask_for_proofs(engine, peer, nullptr);
    else
        paths_try_all(engine, peer, PROOF_INTERVAL_NS);
    peer.proof_due_ns = engine.now_ns + PROOF_INTERVAL_NS;
}

void step(Engine &engine, Peer &peer) {
    if (peer.state == PeerState::Lost) {
        prove_later(engine, peer);
        return;
    }
    paths_drop_silent(engine, peer);
    // Attempts first: what closed a moment ago is tried before it is judged.
    paths_connect(engine, peer);
    check_gone(engine, peer);
    if (peer.state != PeerState::Lost) check_time(engine, peer);
    if (peer.state != PeerState::Ready) return;
    if (peer.missed) {
        peer.missed = false;
        peer_resay_all(engine, peer);
    }
    peer_resay(engine, peer);
    if (!peer.unproven.empty() && engine.now_ns >= peer.proof_due_ns)
        ask_for_proofs(engine, peer, nullptr);
}

}  // namespace

Peer *peer_get(Engine &engine, const std::vector<SocketAddress> &addresses,
               const Descriptor *descriptor, const char *text) {
    if (descriptor)
        for (auto &peer : engine.control->peers)
            if (peer->known && peer->state != PeerState::Lost &&
                memcmp(peer->identity.engine_id, descriptor->engine_id, ENGINE_ID_SIZE) == 0 &&
                peer->identity.epoch == descriptor->epoch) {
                peer_learn(engine, *peer, *descriptor);
                return peer.get();
            }
    engine.control->peers.push_back(std::make_unique<Peer>());
    Peer &peer = *engine.control->peers.back();
    for (const SocketAddress &address : addresses)
        paths_learn(peer, address);
    if (!descriptor) learn_from_others(engine, peer);
    peer.text = *text ? text : peer.paths.front().address.text();
    peer.begun_ns = engine.now_ns;
    peer.deadline_ns = engine.now_ns + parameters(engine).connect_timeout_ns;
    if (descriptor) {
        peer.expected = true;
        memcpy(peer.identity.engine_id, descriptor->engine_id, ENGINE_ID_SIZE);
        peer.identity.epoch = descriptor->epoch;
        peer.identity.name = descriptor->name;
        peer_learn(engine, peer, *descriptor);
    }
    engine.housekeeping_due_ns = 0;  // which connects: the segment is not attached yet
    return &peer;
}

void peer_release(Engine &engine, Peer &peer) {
    if (--peer.segments > 0) return;
    if (peer.state == PeerState::Lost) return;
    peer_bye(engine, peer);
    peer.state = PeerState::Lost;
    paths_drop(engine, peer);
}

bool peer_connected(const Peer *peer) {
    return peer && peer->state == PeerState::Ready && paths_live(*peer);
}

void peer_learn(Engine &engine, Peer &peer, const Descriptor &descriptor) {
    // Through a carrier, rails' addresses are not the listener's.
    if (engine.control->carrier.transport) return;
    paths_learn(peer, descriptor, descriptor.host_id == engine.host_id);
    engine.housekeeping_due_ns = 0;
}

void peer_connection_ended(Engine &engine, Connection &connection, PathEnd end) {
    Peer &peer = *connection.peer;
    ControlPath *path = path_of(peer, &connection);
    if (!path) return;
    uint64_t heard_ns = path->heard_ns;
    bool stood = connection.proven;
    if (connection.silent) end = PathEnd::Silent;
    path_ended(engine, *path, end);
    if (peer.state != PeerState::Ready || !stood) return;
    if (!connection.silent)  // else it has been said
        report(engine, TENT_EVENT_LOG, {.status = TENT_E_PEER},
               "the control path to '%s' at %s was closed", peer.identity.name.c_str(),
               connection.address.c_str());
    bool covered = false;
    for (ControlPath &other : peer.paths) {
        covered |= other.live() && other.proven_ns <= heard_ns;
        path_ask(engine, other);  // are they gone as well?
    }
    peer.missed |= !covered;
    if (paths_live(peer)) return;
    // Lost sessions are not a lost peer: all its addresses are tried for a while.
    peer.state = PeerState::Connecting;
    peer.begun_ns = engine.now_ns;
    peer.deadline_ns = engine.now_ns + parameters(engine).fence_timeout_ns;
    // Cut off, rather than closed by it: it may be well.
    if (end == PathEnd::Silent)
        peer.deadline_ns =
            std::max(peer.deadline_ns, peer.alive_ns + parameters(engine).peer_timeout_ns);
}

void peer_begin_handshake(Engine &engine, Connection &connection) {
    Peer &peer = *connection.peer;
    EngineIdentity own;
    memcpy(own.engine_id, engine.id, ENGINE_ID_SIZE);
    own.epoch = engine.epoch;
    own.name = engine.name;
    PeerExpectation expectation;
    memcpy(expectation.engine_id, peer.identity.engine_id, ENGINE_ID_SIZE);
    expectation.epoch = peer.identity.epoch;
    uint8_t nonce[NONCE_SIZE];
    engine.random.fill(nonce, sizeof nonce);
    bool expects = (peer.known || peer.expected) && !mutant(Mutant::epoch_check);
    connection.as_client = std::make_unique<ClientHandshake>();
    int32_t status =
        connection.as_client->start(own, engine.key, nonce, expects ? &expectation : nullptr,
                                    &connection.writer, &connection.out);
    if (status < 0) {
        lose(engine, peer, status, last_error(), false);
        return;
    }
    connection_send(engine, connection);
}

void peer_handshake_frame(Engine &engine, Connection &connection, const Frame &frame) {
    Peer &peer = *connection.peer;
    int32_t status = connection.as_client->on_frame(frame, &connection.parser, &connection.writer,
                                                    &connection.out);
    std::string sentence = status < 0 ? last_error() : "";
    connection_send(engine, connection);
    if (connection.doomed) return;
    if (status == TENT_OK && peer.known && connection.as_client->peer_is_self())
        status = TENT_E_STALE;  // a learned address that is our own
    if (status == TENT_OK) proven(engine, connection);
    if (status >= 0) return;
    // Another address may still lead to the right engine (127.0.0.1 is everybody's own).
    ControlPath *path = path_of(peer, &connection);
    // Only where a session once stood does another engine prove that the old one is gone.
    bool replaced = path && path->established && status == TENT_E_STALE;
    if (peer.state == PeerState::Lost) {
        if (replaced) proofs_end(engine, peer, "its process is gone");
    } else if (!paths_live(peer) || replaced) {
        peer.error = status;
        peer.sentence = sentence;
        peer.restarted |= replaced;
    }
    peer_connection_ended(engine, connection, PathEnd::Other);
    connection_drop(engine, connection);
}

void peer_frame(Engine &engine, Connection &connection, const Frame &frame) {
    Peer &peer = *connection.peer;
    ControlPath *path = path_of(peer, &connection);
    if (!path) return;
    peer.alive_ns = engine.now_ns;
    path_heard(engine, *path);
    int32_t status = TENT_OK;
    switch (frame.type()) {
        case MessageType::DESCRIBE:
            status = with_message<Describe>(frame, [&](auto &m) {
                peer_described(engine, peer, connection, m.request);
                segments_described(engine, peer, m, connection.id);
            });
            break;
        case MessageType::REGION_DELTA:
            status =
                with_message<RegionDelta>(frame, [&](auto &m) { segments_delta(engine, peer, m); });
            break;
        case MessageType::GRANT_REVOKED:
            status = with_message<GrantRevoked>(
                frame, [&](auto &m) { segments_revoked(engine, peer, m.grant); });
            break;
        case MessageType::ENDPOINT_ANSWER:
            status = with_message<EndpointAnswer>(
                frame, [&](auto &m) { endpoints_answered(engine, peer, m); });
            break;
        case MessageType::ENDPOINT_RETIRED:
            status =
                with_message<EndpointRetired>(frame, [&](auto &m) { retired(engine, peer, m); });
            break;
        case MessageType::PLUGIN_MESSAGE:
            status = with_message<PluginMessage>(frame, [&](auto &m) {
                Endpoint *endpoint = endpoints_find(engine, m.endpoint);
                if (endpoint && endpoint->initiator && endpoint->segment->peer == &peer)
                    control_plugin_received(*endpoint, m);
            });
            break;
        case MessageType::NOTICE_ACK:
            status = with_message<NoticeAck>(frame,
                                             [&](auto &m) { peer_acknowledged(engine, peer, m); });
            break;
        case MessageType::PING:
            status = with_message<Ping>(
                frame, [&](auto &m) { connection_say(engine, connection, Pong{m.number}); });
            break;
        case MessageType::PONG:
            status =
                with_message<Pong>(frame, [&](auto &m) { path_answered(engine, *path, m.number); });
            break;
        case MessageType::BYE:
            lose(engine, peer, TENT_E_PEER, "'" + peer.identity.name + "' was closed", true);
            proofs_end(engine, peer, "the peer was closed");
            break;
        default:
            status = fail(TENT_E_PROTOCOL, "'%s' sent an unexpected %s", peer.identity.name.c_str(),
                          message_type_name(frame.header.type));
    }
    if (status == TENT_OK) return;
    report(engine, TENT_EVENT_LOG, {.status = status}, "%s", last_error());
    connection_drop(engine, connection);
}

void peers_housekeeping(Engine &engine) {
    auto &peers = engine.control->peers;
    for (size_t i = 0; i < peers.size(); i++)
        step(engine, *peers[i]);
    std::erase_if(peers, [](const auto &peer) {
        bool connected =
            std::any_of(peer->paths.begin(), peer->paths.end(),
                        [](const ControlPath &path) { return path.connection != nullptr; });
        return peer->segments == 0 && peer->state == PeerState::Lost && !connected &&
               peer->notices.empty() && peer->unproven.empty();
    });
}

bool peers_watch_time(const Engine &engine) {
    for (const auto &peer : engine.control->peers)
        if (peer->state == PeerState::Connecting || !peer->notices.empty() ||
            !peer->questions.empty() || peer->missed || paths_watch(*peer))
            return true;
    return false;
}

uint64_t peers_due_ns(const Engine &engine) {
    uint64_t due_ns = UINT64_MAX;
    for (const auto &peer : engine.control->peers) {
        if (!peer->unproven.empty()) due_ns = std::min(due_ns, peer->proof_due_ns);
        if (peer->state != PeerState::Lost) due_ns = std::min(due_ns, paths_due_ns(engine, *peer));
    }
    return due_ns;
}

void peer_owes_proof(Engine &engine, Peer &peer, uint64_t endpoint) {
    if (!unfenced_waits(engine, endpoint)) return;
    if (std::find(peer.unproven.begin(), peer.unproven.end(), endpoint) == peer.unproven.end())
        peer.unproven.push_back(endpoint);
    if (peer.unproven.size() > UNFENCED_MAX) peer.unproven.erase(peer.unproven.begin());
    peer.proof_due_ns = engine.now_ns + PROOF_INTERVAL_NS;
    peer.proof_until_ns = engine.now_ns + PROOF_NS;
}

}  // namespace tent
