// The target's half of the handshake: who says Hello, what peers ask for, and that they go.
//
// Leans on state.h, socket.h, ring.h. A visitor is nobody until it has said the secret of an
// endpoint that still waits for its peer.
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "listen.h"
#include "mutant.h"
#include "ring.h"
#include "socket.h"
#include "state.h"
#include "watch.h"

namespace tent::shm {
namespace {

constexpr uint32_t MESSAGES_MAX = 64;  // read in one turn

bool same_secret(const uint8_t *a, const uint8_t *b) {
    uint8_t difference = 0;
    for (size_t i = 0; i < sizeof Hello::secret; i++)
        difference = static_cast<uint8_t>(difference | (a[i] ^ b[i]));
    return difference == 0 || mutant(Mutant::shm_secret);
}

template <size_t SIZE>
void text_put(char (&out)[SIZE], const std::string &text) {
    memcpy(out, text.c_str(), std::min(text.size(), SIZE - 1));
}

// Which endpoint the visitor may have, nullptr: none, with a sentence for it.
Endpoint *endpoint_asked_for(const Instance &instance, const Message &message, Welcome *welcome) {
    Hello hello{};
    if (!message.read(MessageType::HELLO, 0, &hello) || message.lost || hello.reserved != 0) {
        welcome->status = TENT_E_PROTOCOL;
        text_put(welcome->sentence, "that is no Hello");
        return nullptr;
    }
    if (hello.version != VERSION) {
        welcome->status = TENT_E_PROTOCOL;
        text_put(welcome->sentence, format("its version is %u, here it is %u; run equal versions",
                                           hello.version, VERSION));
        return nullptr;
    }
    Endpoint *endpoint = endpoint_find(instance, hello.endpoint);
    if (endpoint == nullptr || endpoint->initiator || endpoint->state != EndpointState::OFFERED ||
        !same_secret(hello.secret, endpoint->secret)) {
        welcome->status = TENT_E_AUTH;
        text_put(welcome->sentence,
                 "no endpoint waits for that number and secret (retired, used already, or wrong)");
        return nullptr;
    }
    return endpoint;
}

void welcome_send(Endpoint &endpoint, Welcome *welcome) {
    const Instance &instance = *endpoint.instance;
    welcome->status = TENT_OK;
    welcome->proof_address = reinterpret_cast<uintptr_t>(instance.proof);
    memcpy(welcome->proof, instance.proof, sizeof welcome->proof);
    const int fds[] = {endpoint.board_fd, instance.table_fd};
    const int error = message_send(endpoint.fd, *welcome, fds, 2);
    close(endpoint.board_fd);
    endpoint.board_fd = -1;
    if (error != 0) endpoint_fail(endpoint, TENT_E_PEER, "Welcome: %s", strerrordesc_np(error));
}

void answered(Endpoint &endpoint, int error) {
    // It asked for at most ASKS_MAX at a time, which every buffer holds: this one does not read.
    if (error != 0)
        endpoint_fail(endpoint, error == EAGAIN ? TENT_E_PROTOCOL : TENT_E_PEER, "%s",
                      error == EAGAIN ? "it asks and does not read" : strerrordesc_np(error));
}

void want_take(Endpoint &endpoint, const Message &message) {
    Want want{};
    if (!message.read(MessageType::WANT, 0, &want)) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "a malformed question for memory");
        return;
    }
    int fd = -1;
    const Give give = region_give(endpoint, want, &fd);
    answered(endpoint, message_send(endpoint.fd, give, &fd, fd >= 0 ? 1 : 0));
    if (fd >= 0) close(fd);
}

void ring_want_take(Endpoint &endpoint, const Message &message) {
    RingWant want{};
    Instance &instance = *endpoint.instance;
    if (!message.read(MessageType::RING_WANT, 0, &want) || endpoint.ring_asked) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "a malformed or second question for a ring");
        return;
    }
    endpoint.ring_asked = true;
    RingGive give = message_make<RingGive>(MessageType::RING_GIVE);
    give.chunk_size = std::min(want.chunk_size, instance.options.ring_chunk_size);
    give.chunk_count = std::min(want.chunk_count, instance.options.ring_chunk_count);
    int fd = -1;
    std::string sentence = "shm.ring=no";
    if (instance.options.ring)
        endpoint.ring_target =
            ring_target_make(endpoint, give.chunk_size, give.chunk_count, &fd, &sentence);
    if (endpoint.ring_target == nullptr) {
        give.status = instance.options.ring ? TENT_E_SYSTEM : TENT_E_UNSUPPORTED;
        text_put(give.sentence, sentence);
    } else {
        instance.ringers.push_back(&endpoint);
    }
    answered(endpoint, message_send(endpoint.fd, give, &fd, fd >= 0 ? 1 : 0));
    if (fd >= 0) close(fd);
}

void message_take(Endpoint &endpoint, const Message &message) {
    Stands stands{};
    Bell bell{};
    endpoint.instance->moved = true;
    const MessageType type = message.type();
    if (type == MessageType::WANT) {
        want_take(endpoint, message);
    } else if (type == MessageType::RING_WANT) {
        ring_want_take(endpoint, message);
    } else if (message.read(MessageType::STANDS, 0, &stands) && !message.lost &&
               endpoint.state == EndpointState::CONNECTING) {
        endpoint.state = EndpointState::READY;
        endpoint_news(endpoint);
    } else if (!message.read(MessageType::BELL, 0, &bell) || message.lost) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "a message of %zu bytes that nobody understands",
                      message.size);
    }
}

bool open_now(const Endpoint &endpoint) {
    return endpoint.state == EndpointState::CONNECTING || endpoint.state == EndpointState::READY;
}

}  // namespace

void visitor_read(Instance &instance, int fd) {
    // An event may be older than the end of its visitor.
    const auto is = [fd](const Instance::Visitor &visitor) { return visitor.fd == fd; };
    if (std::none_of(instance.visitors.begin(), instance.visitors.end(), is)) return;
    Message message;
    int error = 0;
    const Received received = message_receive(fd, &message, &error);
    if (received == Received::NOTHING) return;
    instance.moved = true;
    visitor_forget(instance, fd);
    Welcome welcome = message_make<Welcome>(MessageType::WELCOME);
    Endpoint *endpoint =
        received == Received::MESSAGE ? endpoint_asked_for(instance, message, &welcome) : nullptr;
    if (endpoint == nullptr) {
        if (received == Received::MESSAGE) message_send(fd, welcome);
        unwatch(instance, fd);
        close(fd);
        return;
    }
    std::string sentence;
    endpoint->state = EndpointState::CONNECTING;
    if (!endpoint_meet(*endpoint, fd, &sentence))
        endpoint_fail(*endpoint, TENT_E_SYSTEM, "%s", sentence.c_str());
    else
        welcome_send(*endpoint, &welcome);
}

void target_read(Endpoint &endpoint) {
    Message message;
    for (uint32_t i = 0; i < MESSAGES_MAX && open_now(endpoint); i++) {
        int error = 0;
        switch (message_receive(endpoint.fd, &message, &error)) {
            case Received::NOTHING: return;
            case Received::MESSAGE: message_take(endpoint, message); break;
            case Received::BROKEN:
                endpoint_fail(endpoint, TENT_E_PEER, "%s",
                              error == 0 ? "it has closed the socket" : strerrordesc_np(error));
                break;
        }
    }
}

}  // namespace tent::shm
