// The sessions this engine opened: connecting over a peer's addresses, the handshake, questions and
// answers, loss and return, outgoing notices. See control.h.
#include <algorithm>
#include <cstring>

#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/reports.h"
#include "core/segments.h"
#include "core/spray.h"

namespace tent {

namespace {

constexpr uint64_t RETRY_NS = 50 * MS;          // between rounds over a peer's addresses
constexpr uint64_t NOTICE_RESEND_NS = 10 * MS;  // when the receiver's inbox was full
constexpr uint32_t NOTICES_UNACKED_MAX = 64;

template <class Message>
void say(Engine &engine, Peer &peer, const Message &message) {
    // Without a session nothing is lost: what is unanswered is said again by resend().
    if (peer.state == PeerState::Ready && peer.connection)
        connection_say(engine, *peer.connection, message);
}

void lose(Engine &engine, Peer &peer, int32_t status, const std::string &sentence, bool proven) {
    if (peer.state == PeerState::Lost) return;
    peer.state = PeerState::Lost;
    peer.error = status;
    peer.sentence = sentence;
    report(engine, TENT_EVENT_PEER_LOST, {.status = status}, "%s", sentence.c_str());
    if (Connection *connection = peer.connection) connection_drop(engine, *connection);
    // Requests first: their slices must not be retried when the endpoints give them back.
    for_segments_of(engine, &peer,
                    [&](Segment &segment) { segment_fail(engine, segment, status, sentence); });
    endpoints_peer_lost(engine, peer, proven);
    for (auto &notice : peer.notices)
        report(engine, TENT_EVENT_NOTICE_DROPPED, {.status = status},
               "a notice of %zu bytes was not delivered", notice->bytes.size());
    // Batches may still name waiting ones; those are freed with their batch (batches_on_terminal).
    std::erase_if(peer.notices, [](const auto &notice) {
        return notice->state != OutgoingNotice::State::Waiting;
    });
}

void connect_next(Engine &engine, Peer &peer);

void round_failed(Engine &engine, Peer &peer, bool refused) {
    peer.failures++;
    peer.refusals += refused;
    if (peer.failures < peer.addresses.size()) {
        connect_next(engine, peer);
        return;
    }
    std::string who = peer.known ? "'" + peer.identity.name + "'" : "the engine";
    if (peer.error != TENT_OK) {
        // Somebody answered, and none of the addresses led to the engine meant.
        lose(engine, peer, peer.error, std::string(peer.sentence), peer.restarted);
        return;
    }
    if (peer.refusals == peer.failures) {
        lose(engine, peer, TENT_E_PEER,
             who + " at " + peer.text +
                 " refuses connections: it was closed, or never listened there",
             false);
        return;
    }
    peer.failures = peer.refusals = 0;
    peer.retry_ns = engine.now_ns + RETRY_NS;
}

void connect_next(Engine &engine, Peer &peer) {
    const SocketAddress &address = peer.addresses[peer.address_next++ % peer.addresses.size()];
    bool refused = false;
    Connection *connection = connection_connect(engine, address, &refused);
    if (!connection) {
        round_failed(engine, peer, refused);
        return;
    }
    connection->peer = &peer;
    connection->kind = ConnectionKind::CONTROL;
    connection->deadline_ns = engine.now_ns + parameters(engine).connect_timeout_ns;
    peer.connection = connection;
}

// Everything that waits for an answer is asked (again) over the new session.
void resend(Engine &engine, Peer &peer) {
    for_segments_of(engine, &peer, [&](Segment &segment) {
        if (segment.state == SegmentState::Connecting ||
            segment.state == SegmentState::Describing || segment.describing)
            segment_describe(engine, segment);
        else if (segment.state == SegmentState::Ready)
            segment_describe(engine, segment);  // deltas may have been missed
    });
    endpoints_resend(engine, peer);
    for (auto &notice : peer.notices)
        if (notice->state == OutgoingNotice::State::Sent)
            say(engine, peer, Notice{notice->number, notice->bytes});
    peer_pump_notices(engine, peer);
}

// Numbers go on over sessions and Peer objects; those of engines we no longer know make room.
uint64_t next_notice(Engine &engine, const Peer &peer) {
    auto &sent = engine.control->notices_sent;
    std::string key = identity_key(peer.identity);
    if (sent.size() >= PEERS_REMEMBERED_MAX && !sent.contains(key))
        std::erase_if(sent, [&](const auto &entry) {
            return std::none_of(
                engine.control->peers.begin(), engine.control->peers.end(),
                [&](const auto &known) { return identity_key(known->identity) == entry.first; });
        });
    return ++sent[key];
}

// Sealed while the session was being made.
void move_notices(Engine &engine, Peer &from, Peer &to) {
    for (auto &notice : from.notices)
        to.notices.push_back(std::move(notice));
    from.notices.clear();
    engine.notices_due = true;
}

// Another peer object stands for the same engine already: its session serves these segments, too.
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
        return true;
    }
    return false;
}

void proven(Engine &engine, Connection &connection) {
    Peer &peer = *connection.peer;
    const ClientHandshake &handshake = *connection.as_client;
    connection.proven = true;
    if (handshake.peer_is_self()) {
        for_segments_of(engine, &peer, [&](Segment &segment) { segment_own(engine, segment); });
        move_notices(engine, peer, *engine.control->self);
        peer.segments = 0;
        peer.state = PeerState::Lost;
        connection_drop(engine, connection);
        return;
    }
    bool first = !peer.known;
    peer.identity = handshake.peer();
    peer.known = true;
    if (first && merge(engine, peer)) {
        peer.state = PeerState::Lost;
        connection_drop(engine, connection);
        return;
    }
    peer.keys = handshake.keys();
    peer.session_id = handshake.session_id();
    peer.state = PeerState::Ready;
    peer.failures = peer.refusals = 0;
    peer.error = TENT_OK;
    peer.established = connection.address;
    report(engine, TENT_EVENT_PEER_CONNECTED, {}, "control session with '%s' at %s",
           peer.identity.name.c_str(), connection.address.c_str());
    resend(engine, peer);
}

void acknowledged(Engine &engine, Peer &peer, const NoticeAck &ack) {
    for (auto &notice : peer.notices) {
        if (notice->state != OutgoingNotice::State::Sent || notice->number != ack.number) continue;
        if (ack.status == TENT_OK) {
            std::erase(peer.notices, notice);
            peer_pump_notices(engine, peer);
        } else {
            notice->resend_ns = engine.now_ns + NOTICE_RESEND_NS;
        }
        return;
    }
}

}  // namespace

Peer *peer_get(Engine &engine, std::vector<SocketAddress> addresses, const Descriptor *descriptor,
               const char *text) {
    if (descriptor)
        for (auto &peer : engine.control->peers)
            if (peer->known && peer->state != PeerState::Lost &&
                memcmp(peer->identity.engine_id, descriptor->engine_id, ENGINE_ID_SIZE) == 0 &&
                peer->identity.epoch == descriptor->epoch)
                return peer.get();
    engine.control->peers.push_back(std::make_unique<Peer>());
    Peer &peer = *engine.control->peers.back();
    peer.addresses = std::move(addresses);
    peer.text = *text ? text : peer.addresses.front().text();
    peer.deadline_ns = engine.now_ns + parameters(engine).connect_timeout_ns;
    if (descriptor) {
        peer.expected = true;
        memcpy(peer.identity.engine_id, descriptor->engine_id, ENGINE_ID_SIZE);
        peer.identity.epoch = descriptor->epoch;
        peer.identity.name = descriptor->name;
    }
    peer.retry_ns = engine.now_ns;  // housekeeping connects: the segment is not attached yet
    engine.housekeeping_due_ns = 0;
    return &peer;
}

void peer_release(Engine &engine, Peer &peer) {
    if (--peer.segments > 0) return;
    say(engine, peer, Bye{});
    peer.state = PeerState::Lost;
    if (Connection *connection = peer.connection) connection_drop(engine, *connection);
}

bool peer_connected(const Peer *peer) {
    return peer && peer->state == PeerState::Ready && peer->connection;
}

void peer_connection_failed(Engine &engine, Connection &connection, bool refused) {
    Peer &peer = *connection.peer;
    if (peer.connection == &connection) peer.connection = nullptr;
    if (peer.state == PeerState::Lost) return;
    if (peer.state == PeerState::Ready) {
        // A lost session is not a lost peer: try all its addresses for a while.
        peer.state = PeerState::Connecting;
        peer.address_next = peer.failures = peer.refusals = 0;
        peer.deadline_ns = engine.now_ns + parameters(engine).fence_timeout_ns;
        connect_next(engine, peer);
        return;
    }
    round_failed(engine, peer, refused);
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
    connection.as_client = std::make_unique<ClientHandshake>();
    int32_t status = connection.as_client->start(
        own, engine.key, nonce, peer.known || peer.expected ? &expectation : nullptr,
        &connection.writer, &connection.out);
    if (status < 0) {
        lose(engine, peer, status, last_error(), false);
        return;
    }
    connection_send(engine, connection);
}

void peer_handshake_frame(Engine &engine, Connection &connection, const Frame &frame) {
    int32_t status = connection.as_client->on_frame(frame, &connection.parser, &connection.writer,
                                                    &connection.out);
    connection_send(engine, connection);
    if (status == TENT_OK) proven(engine, connection);
    if (status >= 0) return;
    // Another address may still lead to the right engine (127.0.0.1 is everybody's own).
    Peer &peer = *connection.peer;
    peer.error = status;
    peer.sentence = last_error();
    // Only where the session once stood does another engine prove that the old one is gone.
    peer.restarted |= status == TENT_E_STALE && connection.address == peer.established;
    connection_drop(engine, connection);
}

void peer_frame(Engine &engine, Connection &connection, const Frame &frame) {
    Peer &peer = *connection.peer;
    int32_t status = TENT_OK;
    switch (frame.type()) {
        case MessageType::DESCRIBE:
            status = with_message<Describe>(frame,
                                            [&](auto &m) { segments_described(engine, peer, m); });
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
            status = with_message<EndpointRetired>(
                frame, [&](auto &m) { endpoints_retired(engine, peer, m); });
            break;
        case MessageType::PLUGIN_MESSAGE:
            status = with_message<PluginMessage>(frame, [&](auto &m) {
                Endpoint *endpoint = endpoints_find(engine, m.endpoint);
                if (endpoint && endpoint->initiator && endpoint->segment->peer == &peer)
                    control_plugin_received(*endpoint, m);
            });
            break;
        case MessageType::NOTICE_ACK:
            status =
                with_message<NoticeAck>(frame, [&](auto &m) { acknowledged(engine, peer, m); });
            break;
        case MessageType::PING:
            status = with_message<Ping>(frame, [&](auto &m) { say(engine, peer, Pong{m.number}); });
            break;
        case MessageType::PONG: break;
        case MessageType::BYE:
            lose(engine, peer, TENT_E_PEER, "'" + peer.identity.name + "' was closed", true);
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
    for (size_t i = 0; i < peers.size(); i++) {
        Peer &peer = *peers[i];
        if (peer.state == PeerState::Connecting) {
            if (engine.now_ns >= peer.deadline_ns)
                lose(engine, peer, peer.known ? TENT_E_PEER : TENT_E_TIMEOUT,
                     "no answer from " + peer.text +
                         (peer.known ? " (" + peer.identity.name + ")" : ""),
                     false);
            else if (!peer.connection && engine.now_ns >= peer.retry_ns)
                connect_next(engine, peer);
        }
        for (auto &notice : peer.notices)
            if (notice->state == OutgoingNotice::State::Sent && notice->resend_ns &&
                engine.now_ns >= notice->resend_ns) {
                notice->resend_ns = 0;
                say(engine, peer, Notice{notice->number, notice->bytes});
            }
    }
    std::erase_if(peers, [](const auto &peer) {
        return peer->segments == 0 && peer->state == PeerState::Lost && !peer->connection &&
               peer->notices.empty();
    });
}

void peer_open_endpoint(Engine &engine, Endpoint &endpoint) {
    const Descriptor &descriptor = endpoint.segment->descriptor;
    EndpointOpen open;
    open.endpoint = endpoint.id;
    open.grant = descriptor.grant;
    memcpy(open.token, descriptor.token, sizeof open.token);
    open.transport = endpoint.rail->transport->name;
    open.initiator_rail = endpoint.rail->plan.index;
    open.initiator_address = endpoint.rail->info.address;
    open.target_rail = endpoint.peer_rail;
    open.slice_count_max = std::min<uint32_t>(engine.limits.slices, SLICE_COUNT_MAX);
    open.offer = endpoint.offer;
    say(engine, *endpoint.segment->peer, open);
}

void peer_retire_endpoint(Engine &engine, Endpoint &endpoint) {
    say(engine, *endpoint.segment->peer, EndpointRetire{endpoint.id});
}

void peer_describe(Engine &engine, Segment &segment) {
    DescribeRequest request;
    request.request = segment.describe_number;
    request.has_token = !segment.by_address;
    if (request.has_token) {
        request.grant = segment.descriptor.grant;
        memcpy(request.token, segment.descriptor.token, sizeof request.token);
    }
    say(engine, *segment.peer, request);
}

void peer_pump_notices(Engine &engine, Peer &peer) {
    if (peer.state == PeerState::Lost) {
        std::erase_if(peer.notices, [](const auto &notice) {
            return notice->state != OutgoingNotice::State::Waiting;
        });
        return;
    }
    uint32_t unacked = 0;
    for (auto it = peer.notices.begin(); it != peer.notices.end();) {
        OutgoingNotice &notice = **it;
        if (notice.state == OutgoingNotice::State::Waiting) return;  // in order of seals
        if (notice.state == OutgoingNotice::State::Dropped) {
            it = peer.notices.erase(it);
            continue;
        }
        if (++unacked > NOTICES_UNACKED_MAX || !peer_connected(&peer)) return;
        if (notice.state == OutgoingNotice::State::Ready) {
            notice.state = OutgoingNotice::State::Sent;
            notice.number = next_notice(engine, peer);
            say(engine, peer, Notice{notice.number, notice.bytes});
        }
        ++it;
    }
}

void peers_pump_notices(Engine &engine) {
    engine.notices_due = false;
    auto &own = engine.control->self->notices;
    while (!own.empty() && own.front()->state != OutgoingNotice::State::Waiting) {
        const OutgoingNotice &notice = *own.front();
        if (notice.state == OutgoingNotice::State::Ready &&
            !notice_keep(engine, engine.name, notice.bytes.data(), notice.bytes.size())) {
            engine.notices_due = true;  // the inbox is full: again in the next cycle
            break;
        }
        own.pop_front();
    }
    for (auto &peer : engine.control->peers)
        peer_pump_notices(engine, *peer);
}

bool peers_notices_left(const Engine &engine) {
    for (const auto &peer : engine.control->peers)
        if (!peer->notices.empty() && peer->state != PeerState::Lost) return true;
    return false;
}

int32_t control_opening_make(Engine &engine, uint64_t id, uint32_t number, uint8_t *out) {
    Endpoint *endpoint = endpoints_find(engine, id);
    if (!endpoint || !endpoint->initiator || number >= CONNECTIONS_PER_ENDPOINT_MAX)
        return TENT_E_NOT_FOUND;
    const Peer &peer = *endpoint->segment->peer;
    Opening opening;
    opening.session_id = peer.session_id;
    opening.endpoint = id;
    opening.connection = number;
    opening.target_epoch = peer.identity.epoch;
    engine.random.fill(opening.nonce, sizeof opening.nonce);
    memcpy(endpoint->opening_nonces[number].data(), opening.nonce, sizeof opening.nonce);
    return make_opening(peer.keys, opening, out);
}

int32_t control_opening_check(Engine &engine, uint64_t id, uint32_t number, const uint8_t *reply) {
    Endpoint *endpoint = endpoints_find(engine, id);
    if (!endpoint || !endpoint->initiator || number >= CONNECTIONS_PER_ENDPOINT_MAX)
        return TENT_E_NOT_FOUND;
    const Peer &peer = *endpoint->segment->peer;
    Opening opening;
    opening.session_id = peer.session_id;
    opening.endpoint = id;
    opening.connection = number;
    opening.target_epoch = peer.identity.epoch;
    memcpy(opening.nonce, endpoint->opening_nonces[number].data(), sizeof opening.nonce);
    return check_reply(peer.keys, opening, reply);
}

int32_t control_plugin_message(Engine &engine, uint64_t id, const uint8_t *bytes, uint32_t size) {
    Endpoint *endpoint = endpoints_find(engine, id);
    if (!endpoint || size > TENT_OFFER_MAX) return TENT_E_INVALID;
    PluginMessage message;
    message.endpoint = endpoint->initiator ? endpoint->id : endpoint->remote_id;
    message.number = endpoint->message_number + 1;
    message.from_initiator = endpoint->initiator;
    message.bytes.assign(bytes, bytes + size);
    Connection *connection = nullptr;
    if (endpoint->initiator)
        connection = endpoint->segment->peer->connection;
    else if (!endpoint->client->sessions.empty())
        connection = endpoint->client->sessions.back().connection;
    if (!connection || !connection->proven) return TENT_E_AGAIN;
    endpoint->message_number++;
    // A plugin calls this from within; the one that carries is not to be entered a second time, and
    // control_poll sends what it finds.
    return engine.control->carrier.transport
               ? append_message(message, &connection->writer, &connection->out)
               : connection_say(engine, *connection, message);
}

void control_plugin_received(Endpoint &endpoint, const PluginMessage &message) {
    if (message.number <= endpoint.message_seen) return;
    endpoint.message_seen = message.number;
    const Transport &transport = *endpoint.rail->transport;
    if (endpoint.handle && transport.table->endpoint_message)
        transport.table->endpoint_message(transport.instance, endpoint.handle, message.bytes.data(),
                                          static_cast<uint32_t>(message.bytes.size()));
}

}  // namespace tent
