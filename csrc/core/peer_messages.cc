// What is said to peers: questions, notices, endpoints' messages, openings of data connections.
// Each is idempotent and numbered, so that what is overdue is said again over all control paths.
// See control.h and paths.h.
#include <algorithm>
#include <cstring>

#include "base/bytes.h"
#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/reports.h"
#include "core/segments.h"

namespace tent {

namespace {

constexpr uint64_t NOTICE_RESEND_NS = 10 * MS;  // when the receiver's inbox was full
constexpr uint32_t NOTICES_UNACKED_MAX = 64;
constexpr size_t REPLY_SESSION_OFFSET = 8;  // docs/wire-protocol.md

// The connection it was said on; 0: none is live, and whoever awaits an answer says it again. Each
// question is followed by a Ping: an answer may take its time, a sign of life may not.
template <class Message>
uint64_t say(Engine &engine, Peer &peer, const Message &message, bool everywhere = false) {
    if (peer.state != PeerState::Ready) return 0;
    const ControlPath *best = paths_best(engine, peer);
    if (!best) return 0;
    uint64_t id = best->connection->id;
    for (ControlPath &path : peer.paths) {
        if (!path.live() || (!everywhere && &path != best)) continue;
        Connection &connection = *path.connection;
        if (append_message(message, &connection.writer, &connection.out) != TENT_OK) continue;
        // With one write.
        if (path.asked_ns)
            connection_send(engine, connection);
        else
            path_ask(engine, path);
    }
    return id;
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

void say_notice(Engine &engine, Peer &peer, OutgoingNotice &notice, bool everywhere) {
    notice.refused = false;
    said_now(engine, notice.said,
             say(engine, peer, Notice{notice.number, notice.bytes}, everywhere));
}

// Could writes that were acknowledged on it be overtaken by a message? While it is being set up
// again there are none.
bool lags(const Endpoint &endpoint, const Peer &peer) {
    const bool stands =
        endpoint.state == EndpointState::Ready || endpoint.state == EndpointState::Fencing;
    return endpoint.initiator && stands && endpoint.segment && endpoint.segment->peer == &peer &&
           TENT_OFFERS(endpoint.rail->transport->table, endpoint_settle) &&
           endpoint.tally.bytes_written.load(std::memory_order_relaxed) > 0;
}

// One that is being fenced is asked for no more: its peer retires its half, or fence_timeout ends
// the wait as it ends the fence.
bool settled(const Engine &engine, OutgoingNotice::Mark &mark) {
    const auto found = engine.endpoint_by_id.find(mark.endpoint);
    if (found == engine.endpoint_by_id.end()) return true;
    const Endpoint &endpoint = *found->second;
    void *handle = endpoints_handle(endpoint);
    if (!handle) return endpoint.remote_quiet || engine.now_ns >= endpoint.deadline_ns;
    const Transport &transport = *endpoint.rail->transport;
    return transport.table->endpoint_settle(transport.instance, handle, &mark.mark) == TENT_OK;
}

// Has all that its batch wrote landed where the receiver's processor sees it?
bool notice_settled(const Engine &engine, const Peer &peer, OutgoingNotice &notice) {
    if (!notice.marked)
        for (const auto &endpoint : engine.endpoints)
            if (lags(*endpoint, peer)) notice.marks.push_back({endpoint->id, 0});
    notice.marked = true;
    std::erase_if(notice.marks, [&](auto &mark) { return settled(engine, mark); });
    return notice.marks.empty();
}

DescribeRequest request_of(const Segment &segment) {
    DescribeRequest request;
    request.request = segment.describe_number;
    request.has_token = !segment.by_address;
    if (!request.has_token) return request;
    request.grant = segment.descriptor.grant;
    memcpy(request.token, segment.descriptor.token, sizeof request.token);
    return request;
}

const Segment *asked_for(Engine &engine, const Peer &peer, uint64_t number) {
    const Segment *found = nullptr;
    for_segments_of(engine, &peer, [&](Segment &segment) {
        if (segment.describe_number == number && segment.describing) found = &segment;
    });
    return found;
}

Opening opening_of(const Endpoint &endpoint, const Peer &peer, uint32_t number) {
    Opening opening;
    opening.endpoint = endpoint.id;
    opening.connection = number;
    opening.target_epoch = peer.identity.epoch;
    return opening;
}

}  // namespace

void peer_open_endpoint(Engine &engine, Endpoint &endpoint, bool everywhere) {
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
    say(engine, *endpoint.segment->peer, open, everywhere);
}

void peer_retire_endpoint(Engine &engine, Endpoint &endpoint, bool everywhere) {
    say(engine, *endpoint.segment->peer, EndpointRetire{endpoint.id}, everywhere);
}

void peer_ask_life(Engine &engine, Peer &peer) {
    if (peer.state != PeerState::Ready || engine.now_ns - peer.life_asked_ns < MS) return;
    peer.life_asked_ns = engine.now_ns;
    for (ControlPath &path : peer.paths)
        path_ask(engine, path);
}

void peer_bye(Engine &engine, Peer &peer) {
    for (ControlPath &path : peer.paths)
        if (path.live()) connection_say(engine, *path.connection, Bye{});
}

void peer_describe(Engine &engine, Segment &segment) {
    Peer &peer = *segment.peer;
    uint64_t connection = say(engine, peer, request_of(segment));
    if (!connection) return;  // asked when a session stands
    Question question{segment.describe_number, {}};
    said_now(engine, question.said, connection);
    peer.questions.push_back(question);
}

void peer_described(const Engine &engine, Peer &peer, const Connection &connection,
                    uint64_t request) {
    for (Question &question : peer.questions)
        if (question.number == request) said_now(engine, question.said, connection.id);
}

void peer_acknowledged(Engine &engine, Peer &peer, const NoticeAck &ack) {
    for (auto &notice : peer.notices) {
        if (notice->state != OutgoingNotice::State::Sent || notice->number != ack.number) continue;
        if (ack.status == TENT_OK) {
            std::erase(peer.notices, notice);
            peer_pump_notices(engine, peer);
        } else {
            notice->refused = true;
            notice->said.due_ns = engine.now_ns + NOTICE_RESEND_NS;
        }
        return;
    }
}

void peer_resay(Engine &engine, Peer &peer) {
    std::erase_if(peer.questions, [&](const Question &question) {
        return !asked_for(engine, peer, question.number);
    });
    if (peer.state != PeerState::Ready) return;
    for (Question &question : peer.questions)
        if (said_due(engine, peer, question.said))
            question.said.connection =
                say(engine, peer, request_of(*asked_for(engine, peer, question.number)), true);
    for (auto &notice : peer.notices) {
        if (notice->state != OutgoingNotice::State::Sent) continue;
        if (notice->refused && engine.now_ns >= notice->said.due_ns)
            say_notice(engine, peer, *notice, false);
        else if (!notice->refused && said_due(engine, peer, notice->said))
            notice->said.connection =
                say(engine, peer, Notice{notice->number, notice->bytes}, true);
    }
}

void peer_resay_all(Engine &engine, Peer &peer) {
    for_segments_of(engine, &peer, [&](Segment &segment) {
        if (segment.state == SegmentState::Connecting ||
            segment.state == SegmentState::Describing || segment.describing)
            segment_describe(engine, segment);
        else if (segment.state == SegmentState::Ready)
            segment_describe(engine, segment);  // deltas may have been missed
    });
    endpoints_resend(engine, peer);
    for (auto &notice : peer.notices)
        if (notice->state == OutgoingNotice::State::Sent) say_notice(engine, peer, *notice, true);
    peer_pump_notices(engine, peer);
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
            if (!notice_settled(engine, peer, notice)) {
                engine.notices_due = true;
                return;
            }
            notice.state = OutgoingNotice::State::Sent;
            notice.number = next_notice(engine, peer);
            say_notice(engine, peer, notice, false);
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
    Peer &peer = *endpoint->segment->peer;
    // The session that is likeliest to stand at the target as well.
    const ControlPath *path = paths_best(engine, peer);
    if (!path) return fail(TENT_E_AGAIN, "no control session stands");
    Opening opening = opening_of(*endpoint, peer, number);
    opening.session_id = path->connection->as_client->session_id();
    engine.random.fill(opening.nonce, sizeof opening.nonce);
    memcpy(endpoint->opening_nonces[number].data(), opening.nonce, sizeof opening.nonce);
    return make_opening(path->connection->as_client->keys(), opening, out);
}

int32_t control_opening_check(Engine &engine, uint64_t id, uint32_t number, const uint8_t *reply) {
    Endpoint *endpoint = endpoints_find(engine, id);
    if (!endpoint || !endpoint->initiator || number >= CONNECTIONS_PER_ENDPOINT_MAX)
        return TENT_E_NOT_FOUND;
    const Peer &peer = *endpoint->segment->peer;
    Opening opening = opening_of(*endpoint, peer, number);
    memcpy(opening.nonce, endpoint->opening_nonces[number].data(), sizeof opening.nonce);
    // The reply names its session; which keys prove it follows from our own record of that one.
    ByteReader reader(reply + REPLY_SESSION_OFFSET, sizeof opening.session_id);
    opening.session_id = reader.u64();
    for (const ControlPath &path : peer.paths)
        if (path.live() && path.connection->as_client->session_id() == opening.session_id)
            return check_reply(path.connection->as_client->keys(), opening, reply);
    return fail(TENT_E_AGAIN, "the control session of a data connection has ended meanwhile");
}

int32_t control_plugin_message(Engine &engine, uint64_t id, const uint8_t *bytes, uint32_t size) {
    Endpoint *endpoint = endpoints_find(engine, id);
    if (!endpoint || size > TENT_OFFER_MAX) return TENT_E_INVALID;
    PluginMessage message;
    message.endpoint = endpoint->initiator ? endpoint->id : endpoint->remote_id;
    message.number = endpoint->message_number + 1;
    message.from_initiator = endpoint->initiator;
    message.bytes.assign(bytes, bytes + size);
    // Nobody acknowledges these: each goes over all sessions, and the receiver drops repeats.
    std::vector<Connection *> connections;
    if (endpoint->initiator) {
        for (const ControlPath &path : endpoint->segment->peer->paths)
            if (path.live()) connections.push_back(path.connection);
    } else {
        for (const Session &session : endpoint->client->sessions)
            connections.push_back(session.connection);
    }
    if (connections.empty()) return TENT_E_AGAIN;
    endpoint->message_number++;
    int32_t status = TENT_E_AGAIN;
    for (Connection *connection : connections) {
        // A plugin calls this from within; the one that carries is not to be entered a second time,
        // and control_poll sends what it finds.
        int32_t said = engine.control->carrier.transport
                           ? append_message(message, &connection->writer, &connection->out)
                           : connection_say(engine, *connection, message);
        if (status != TENT_OK) status = said;
    }
    return status;
}

void control_plugin_received(Endpoint &endpoint, const PluginMessage &message) {
    if (message.number <= endpoint.message_seen) return;
    endpoint.message_seen = message.number;
    const Transport &transport = *endpoint.rail->transport;
    // The plugin frees a closed one when it likes, while we still wait for the peer's half.
    if (endpoint.handle && !endpoint.local_quiet && transport.table->endpoint_message)
        transport.table->endpoint_message(transport.instance, endpoint.handle, message.bytes.data(),
                                          static_cast<uint32_t>(message.bytes.size()));
}

}  // namespace tent
