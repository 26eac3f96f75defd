// The control channel: listener, connections, sessions with peers (we connected) and clients (they
// did). Driver only. Leans on wire/ for every byte's meaning and on carrier.h for their way. Must
// never act on bytes of a peer that has not proven the key, nor hold more than HANDSHAKES_MAX such
// connections.
#pragma once

#include <deque>
#include <unordered_set>

#include "base/net.h"
#include "core/carrier.h"
#include "core/engine.h"
#include "core/paths.h"
#include "wire/handshake.h"
#include "wire/messages.h"
#include "wire/opening.h"

namespace tent {

struct Connection {
    uint64_t id = 0;
    Line line;
    bool connecting = false;  // our connect() is under way
    bool proven = false;      // handshake done
    bool writable_wanted = false;
    bool doomed = false;       // closed once the driver is out of its handlers
    bool silent = false;       // ended because nothing came, not by the other side
    uint64_t deadline_ns = 0;  // of connect and handshake
    uint8_t first[TENT_OPENING_SIZE] = {};
    size_t first_size = 0;
    ConnectionKind kind = ConnectionKind::UNKNOWN;
    FrameParser parser;
    FrameWriter writer;
    std::vector<uint8_t> out;
    size_t out_sent = 0;
    std::unique_ptr<ClientHandshake> as_client;
    std::unique_ptr<ServerHandshake> as_server;
    Peer *peer = nullptr;
    Client *client = nullptr;
    std::string address;  // of the other side, for sentences
};

// Key of the notice numbers: an engine's id and epoch.
inline std::string identity_key(const EngineIdentity &identity) {
    std::string key(reinterpret_cast<const char *>(identity.engine_id), ENGINE_ID_SIZE);
    return key.append(reinterpret_cast<const char *>(&identity.epoch), sizeof identity.epoch);
}

struct OutgoingNotice {
    enum class State : uint8_t { Waiting, Ready, Dropped, Sent };
    State state = State::Waiting;
    uint64_t number = 0;
    Said said;
    bool refused = false;  // the receiver's inbox was full
    // Ready: what its data went over and is not known to have landed yet. See notice_settled.
    struct Mark {
        uint64_t endpoint;
        uint64_t mark;  // the plugin's
    };
    std::vector<Mark> marks;
    bool marked = false;
    std::vector<uint8_t> bytes;
};

// A DescribeRequest without its answer.
struct Question {
    uint64_t number = 0;
    Said said;
};

enum class PeerState : uint8_t { Connecting, Ready, Lost };

// An engine we connected to; one per engine, shared by its segments.
struct Peer {
    PeerState state = PeerState::Connecting;  // Ready: a session stands on one path at least
    std::vector<ControlPath> paths;           // an address each; only peers.cc adds to them
    size_t preferred = 0;                     // of the paths, see paths_best
    uint64_t begun_ns = 0, deadline_ns = 0;   // of connecting
    bool known = false;                       // identity below is proven
    bool expected = false;
    EngineIdentity identity;
    uint32_t segments = 0;
    int32_t error = 0;
    // When anything came from it, on any control path or endpoint: who is silent everywhere is
    // itself the trouble, not one rail.
    uint64_t alive_ns = 0;
    uint64_t life_asked_ns = 0;
    std::string sentence;
    std::deque<std::unique_ptr<OutgoingNotice>> notices;
    std::vector<Question> questions;
    std::string text;        // the address as the user gave it
    bool restarted = false;  // another engine answers where a session of it stood
    bool missed = false;     // what it said unasked may have been lost with a path
    // Endpoints whose remote half it never confirmed to be quiet; the proof may come later.
    std::vector<uint64_t> unproven;
    std::vector<UnreachablePair> unreachable;
    uint64_t proof_due_ns = 0, proof_until_ns = 0;
};

struct Session {
    uint64_t id = 0;
    SessionKey keys;
    Connection *connection = nullptr;
    std::string address;  // ours; "" where the carrier does not tell
};

// An engine that connected to us.
struct Client {
    EngineIdentity identity;
    std::vector<Session> sessions;
    uint64_t lost_ns = 0;  // when the last session ended; 0: one stands
    std::unordered_set<uint64_t> retired,
        asked;                            // endpoints retired; of which the initiator asked for it
    std::unordered_set<uint64_t> grants;  // described to it
    uint64_t notice_last = 0;
    bool notices_begun = false;
};

struct EndpointNews {
    uint64_t endpoint;
    int32_t status;
    std::string sentence;
};

struct Control {
    Carrier carrier;
    std::vector<Listener> listeners;
    uint16_t port = 0;
    bool listening = false;     // false: "none"
    bool loopback_only = true;  // no explicit key: only loopback addresses may be listened on
    std::unordered_map<uint64_t, std::unique_ptr<Connection>> connections;
    std::vector<uint64_t> doomed, asked;  // asked: control_poll's, kept for its memory
    std::deque<uint64_t> unproven;        // ids, oldest first
    uint64_t next_id = 1;
    std::vector<std::unique_ptr<Peer>> peers;
    std::unique_ptr<Peer> self = std::make_unique<Peer>();  // for notices to our own segments
    std::vector<std::unique_ptr<Client>> clients;
    std::vector<EndpointNews> news;
    bool listeners_paused = false;  // accept failed for want of descriptors; again at housekeeping
    // Notice numbers by engine id and epoch; they outlive peers and clients: last sent, taken.
    std::unordered_map<std::string, uint64_t> notices_sent, notices_taken;
    uint32_t segments_pending = 0;
};

// --- control.cc: connections ---
// Sockets listen at once, a carrier when control_begin finds its transport opened by the plan.
int32_t control_open(Engine &engine, const char *listen);
int32_t control_begin(Engine &engine);
void control_close(Engine &engine);
// Adds a listening socket on the engine's port for a rail's address, if there is none yet.
int32_t control_listen(Engine &engine, const char *ip);
// Stops listening on the addresses of rails that are closed.
void control_unlisten(Engine &engine);
void control_watch(Engine &engine, int fd);
// Of the system's news; control_poll says so in Links::readable.
void control_watch_links(Engine &engine, int fd);
bool control_poll(Engine &engine);
void control_housekeeping(Engine &engine);
std::vector<EndpointNews> &control_news(Engine &engine);
Connection *connection_connect(Engine &engine, const SocketAddress &address, bool *refused);
void connection_send(Engine &engine, Connection &connection);
void connection_drop(Engine &engine, Connection &connection);
template <class Message>
int32_t connection_say(Engine &engine, Connection &connection, const Message &message) {
    int32_t status = append_message(message, &connection.writer, &connection.out);
    if (status == TENT_OK) connection_send(engine, connection);
    return status;
}
// Decodes a frame's message and uses it; a malformed one is the decoder's error.
template <class Message, class Use>
int32_t with_message(const Frame &frame, Use use) {
    Message message;
    int32_t status = decode_message(frame, &message);
    if (status == TENT_OK) use(message);
    return status;
}
void control_describe(Engine &engine, Descriptor *descriptor);
int32_t control_address(Engine &engine, std::string *text);

// --- peers.cc: sessions we opened ---
// Finds the peer of a descriptor, or makes one and begins to connect.
Peer *peer_get(Engine &engine, const std::vector<SocketAddress> &addresses,
               const Descriptor *descriptor, const char *text);
void peer_release(Engine &engine, Peer &peer);  // one segment less; the last one says Bye
bool peer_connected(const Peer *peer);
// The peer has described itself: more addresses to reach it by.
void peer_learn(Engine &engine, Peer &peer, const Descriptor &descriptor);
// A connection of it is closed, or never came about.
void peer_connection_ended(Engine &engine, Connection &connection, PathEnd end);
void peer_frame(Engine &engine, Connection &connection, const Frame &frame);
void peer_begin_handshake(Engine &engine, Connection &connection);
void peer_handshake_frame(Engine &engine, Connection &connection, const Frame &frame);
void peers_housekeeping(Engine &engine);
// Must time be watched closely for some peer? Else: when one is due next, UINT64_MAX: never.
bool peers_watch_time(const Engine &engine);
uint64_t peers_due_ns(const Engine &engine);
// The endpoint's remote half may still write: the peer is asked until it answers, even after it was
// given up, for PROOF_NS at most; see unfenced.h.
void peer_owes_proof(Engine &engine, Peer &peer, uint64_t endpoint);

// --- peer_messages.cc: what is said to peers, over which paths, and said again ---
// everywhere: on all control paths, because the answer is overdue.
void peer_open_endpoint(Engine &engine, Endpoint &endpoint, bool everywhere = false);
void peer_retire_endpoint(Engine &engine, Endpoint &endpoint, bool everywhere = false);
// Asks for a sign of life on every control path, at most once per millisecond; see Peer::alive_ns.
void peer_ask_life(Engine &engine, Peer &peer);
void peer_bye(Engine &engine, Peer &peer);
void peer_describe(Engine &engine, Segment &segment);
// A part of a descriptor came: the rest is on its way.
void peer_described(const Engine &engine, Peer &peer, const Connection &connection,
                    uint64_t request);
void peer_acknowledged(Engine &engine, Peer &peer, const NoticeAck &ack);
// What is unanswered for too long is said again; a fresh session after none: all of it, at once.
void peer_resay(Engine &engine, Peer &peer);
void peer_resay_all(Engine &engine, Peer &peer);
void peer_pump_notices(Engine &engine, Peer &peer);
void peers_pump_notices(Engine &engine);
bool peers_notices_left(const Engine &engine);
int32_t control_opening_make(Engine &engine, uint64_t endpoint, uint32_t connection, uint8_t *out);
int32_t control_opening_check(Engine &engine, uint64_t endpoint, uint32_t connection,
                              const uint8_t *reply);
int32_t control_plugin_message(Engine &engine, uint64_t endpoint, const uint8_t *bytes,
                               uint32_t size);
void control_plugin_received(Endpoint &endpoint, const PluginMessage &message);

// --- clients.cc: sessions opened by others ---
void client_handshake_frame(Engine &engine, Connection &connection, const Frame &frame);
void client_frame(Engine &engine, Connection &connection, const Frame &frame);
void client_connection_lost(Engine &engine, Connection &connection);
// The first TENT_OPENING_SIZE bytes of a data connection: verifies, answers, hands the socket over.
void client_data_opening(Engine &engine, Connection &connection);
void clients_housekeeping(Engine &engine);
void client_endpoint_retired(Engine &engine, Client &client, uint64_t remote_id, int32_t status);
bool client_was_retired(const Client &client, uint64_t remote_id);
std::string client_name(const Client &client);
void clients_bye(Engine &engine);
void control_region_added(Engine &engine, const Grant &grant, const DescriptorRegion &region);
void control_region_removed(Engine &engine, const Grant &grant, uint64_t region);
void control_grant_revoked(Engine &engine, const Grant &grant);
// Our rails, as descriptors name them, have changed: peers ask for their descriptors again.
void control_rails_changed(Engine &engine);

}  // namespace tent
