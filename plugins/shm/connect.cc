// The initiator's handshake: dial, Hello, Welcome, the proof of cross-memory attach, the ring when
// that fails, the memfds of regions; and what goes on of it while the endpoint stands.
//
// Leans on state.h, socket.h, ring.h. Must never block, nor believe a message that it did not ask
// for.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "ring.h"
#include "socket.h"
#include "state.h"

namespace tent::shm {
namespace {

constexpr uint32_t MESSAGES_MAX = 64;  // read in one turn
constexpr char NO_DESCRIPTORS[] =
    "descriptors from the peer were lost: this process has none left; raise the limit of open "
    "files";

std::string dial_words(const std::string &path, int error) {
    const char *advice = "";
    if (error == ENOENT)
        advice =
            " (the peer has closed, or its file system is not ours: share /dev/shm, or set "
            "shm.directory to a folder that both see)";
    if (error == EACCES || error == EPERM)
        advice = " (the peer runs as another user; its shm.users says who is let in)";
    if (error == ECONNREFUSED) advice = " (the peer has died)";
    return format("%s: %s%s", path.c_str(), strerrordesc_np(error), advice);
}

int32_t dial_status(int error) {
    return error == ECONNREFUSED ? TENT_E_PEER : TENT_E_TRANSPORT;
}

// TENT_OK: Hello is said, or the listener's queue is full and step stays DIAL.
int32_t dial(Endpoint &endpoint, std::string *sentence) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    memcpy(address.sun_path, endpoint.path.c_str(), endpoint.path.size() + 1);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
        const int error = errno;
        if (fd >= 0) close(fd);
        if (fd >= 0 && (error == EAGAIN || error == EINTR)) return TENT_OK;
        *sentence = dial_words(endpoint.path, error);
        return dial_status(error);
    }
    if (!endpoint_meet(endpoint, fd, sentence)) return TENT_E_SYSTEM;
    const Place &place = endpoint.peer.place;
    const bool comparable = place.user_namespace == endpoint.instance->place.user_namespace;
    if (comparable && endpoint.uid != place.uid) {
        *sentence = format("%s is user %u's, the peer is user %u", endpoint.path.c_str(),
                           endpoint.uid, place.uid);
        return TENT_E_AUTH;
    }
    Hello hello = message_make<Hello>(MessageType::HELLO);
    hello.version = VERSION;
    hello.endpoint = endpoint.target_number;
    memcpy(hello.secret, endpoint.secret, sizeof hello.secret);
    const int error = message_send(fd, hello);
    if (error != 0) {
        *sentence = dial_words(endpoint.path, error);
        return TENT_E_PEER;
    }
    endpoint.step = Step::HELLO;
    return TENT_OK;
}

bool answer_read(const Instance &instance, const tent_endpoint_params &params, Answer *answer) {
    if (params.blob == nullptr || params.blob_size != sizeof *answer) return false;
    memcpy(answer, params.blob, sizeof *answer);
    const size_t path_size = strnlen(answer->path, sizeof answer->path);
    return answer->target.magic == MAGIC && answer->target.version == VERSION &&
           memcmp(answer->target.place.boot, instance.place.boot, sizeof instance.place.boot) ==
               0 &&
           path_size < sizeof answer->path && answer->path[0] == '/';
}

// A memfd of that size that can not shrink, mapped; nullptr: the sentence says why not.
void *shared_map(int fd, size_t size, int protection, std::string *sentence) {
    struct stat about{};
    const int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || fstat(fd, &about) != 0 ||
        static_cast<uint64_t>(about.st_size) < size) {
        *sentence = "the peer gave no sealed memfd of the right size";
        return nullptr;
    }
    void *mapped = mmap(nullptr, size, protection, MAP_SHARED, fd, 0);
    if (mapped == MAP_FAILED) {
        *sentence = format("mmap: %s", strerrordesc_np(errno));
        return nullptr;
    }
    madvise(mapped, size, MADV_DONTFORK);
    return mapped;
}

bool shared_take(Endpoint &endpoint, Message &message, std::string *sentence) {
    const int board_fd = message.take(0), table_fd = message.take(1);
    endpoint.board =
        static_cast<Board *>(shared_map(board_fd, sizeof(Board), PROT_READ | PROT_WRITE, sentence));
    if (endpoint.board != nullptr)
        endpoint.table = static_cast<const RegionTable *>(
            shared_map(table_fd, sizeof(RegionTable), PROT_READ, sentence));
    close(board_fd);
    close(table_fd);
    if (endpoint.board == nullptr || endpoint.table == nullptr) return false;
    if (endpoint.board->magic == BOARD_MAGIC && endpoint.board->size == sizeof(Board) &&
        endpoint.table->magic == TABLE_MAGIC && endpoint.table->size == sizeof(RegionTable))
        return true;
    *sentence = "the peer's board is of another version";
    return false;
}

// Texts of a peer end where their room ends.
template <size_t SIZE>
std::string text_of(const char (&text)[SIZE]) {
    return std::string(text, strnlen(text, SIZE));
}

void ring_ask(Endpoint &endpoint) {
    const Options &options = endpoint.instance->options;
    if (!options.ring || (endpoint.peer.methods & RING) == 0) {
        endpoint.ring_why = options.ring ? "the peer has shm.ring=no" : "shm.ring=no";
        return;
    }
    RingWant want = message_make<RingWant>(MessageType::RING_WANT);
    want.chunk_size = options.ring_chunk_size;
    want.chunk_count = options.ring_chunk_count;
    const int error = message_send(endpoint.fd, want);
    endpoint.ring_asked = error == 0;
    if (error != 0) endpoint.ring_why = strerrordesc_np(error);
}

// All that the handshake waits for has come.
void stand_when_done(Endpoint &endpoint) {
    if (endpoint.state != EndpointState::CONNECTING || endpoint.step != Step::REGIONS) return;
    const bool asked = endpoint.region_next >= endpoint.regions.size() ||
                       endpoint.answer_count >= SETUP_REGIONS_MAX;
    if (endpoint.ring_asked ||
        (!asked || (endpoint.ask_count > 0 && endpoint.answer_count < SETUP_REGIONS_MAX)))
        return;
    const Options &options = endpoint.instance->options;
    const bool maps = options.mapped && (endpoint.peer.methods & MAPPED) != 0;
    if (endpoint.fallback == 0 && !maps) {
        endpoint_fail(endpoint, TENT_E_TRANSPORT,
                      "no way to its memory: mapped: shm.mapped=no; process_vm: %s; ring: %s",
                      endpoint.attach_why.c_str(), endpoint.ring_why.c_str());
        return;
    }
    Stands stands = message_make<Stands>(MessageType::STANDS);
    stands.methods = endpoint.fallback | (maps ? MAPPED : 0u);
    const int error = message_send(endpoint.fd, stands);
    if (error != 0) {
        endpoint_fail(endpoint, TENT_E_PEER, "%s", strerrordesc_np(error));
        return;
    }
    endpoint.instance->connecting_count--;
    endpoint.deadline_ns = UINT64_MAX;
    endpoint.step = Step::STANDS;
    endpoint.state = EndpointState::READY;
    endpoint_news(endpoint);
}

void welcome_take(Endpoint &endpoint, Message &message) {
    Welcome welcome{};
    std::string sentence;
    if (message.lost) {
        endpoint_fail(endpoint, TENT_E_TRANSPORT, "%s", NO_DESCRIPTORS);
        return;
    }
    if (message.read(MessageType::WELCOME, 0, &welcome) && welcome.status < 0) {
        endpoint_fail(endpoint, welcome.status, "refused: %s", text_of(welcome.sentence).c_str());
        return;
    }
    if (!message.read(MessageType::WELCOME, 2, &welcome) || welcome.status != TENT_OK) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "it answered Hello with something else");
        return;
    }
    if (!shared_take(endpoint, message, &sentence)) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "%s", sentence.c_str());
        return;
    }
    endpoint.step = Step::REGIONS;
    if (attach_proven(endpoint, welcome.proof_address, welcome.proof, &endpoint.attach_why))
        endpoint.fallback = ATTACH;
    else
        ring_ask(endpoint);
    regions_ask(endpoint);
}

// The first question is answered.
Endpoint::Ask ask_pop(Endpoint &endpoint) {
    const Endpoint::Ask first = endpoint.asks[0];
    std::copy(endpoint.asks + 1, endpoint.asks + endpoint.ask_count, endpoint.asks);
    endpoint.ask_count--;
    endpoint.answer_count++;
    return first;
}

void give_take(Endpoint &endpoint, Message &message) {
    Give give{};
    const bool refusal = message.read(MessageType::GIVE, 0, &give);
    const bool whole = refusal ? give.status < 0 || message.lost
                               : message.read(MessageType::GIVE, 1, &give) &&
                                     give.status == TENT_OK && !message.lost;
    if (!whole || endpoint.ask_count == 0 || endpoint.asks[0].slot != give.slot ||
        endpoint.asks[0].generation != give.generation) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "it gave memory that nobody asked for");
        return;
    }
    Instance &instance = *endpoint.instance;
    RemoteRegion *region = ask_pop(endpoint).region;
    if (region != nullptr) {
        const Export &about = region->about;
        region->asked = nullptr;
        bool mapped = false;
        if (message.lost)
            region->why = NO_DESCRIPTORS;
        else if (refusal)
            region->why = "refused: " + text_of(give.sentence);
        else if (give.address != about.address || give.length != about.length)
            region->why = "the peer gave other memory than its descriptor says";
        else
            mapped = region_map(instance, *region, give, message.fds[0]);
        if (!mapped) region->refused_by = endpoint.number;
    }
    regions_ask(endpoint);
}

void ring_take(Endpoint &endpoint, Message &message) {
    RingGive give{};
    const bool refusal = message.read(MessageType::RING_GIVE, 0, &give);
    const bool whole = refusal ? give.status < 0 || message.lost
                               : message.read(MessageType::RING_GIVE, 1, &give) &&
                                     give.status == TENT_OK && !message.lost;
    if (!whole || !endpoint.ring_asked) {
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "it gave a ring that nobody asked for");
        return;
    }
    Instance &instance = *endpoint.instance;
    endpoint.ring_asked = false;
    if (refusal) {
        endpoint.ring_why = message.lost ? NO_DESCRIPTORS : "refused: " + text_of(give.sentence);
        return;
    }
    const Options &options = instance.options;
    endpoint.ring = ring_map(endpoint, message.fds[0], options.ring_chunk_size,
                             options.ring_chunk_count, &endpoint.ring_why);
    if (endpoint.ring == nullptr) return;
    endpoint.fallback = RING;
    instance.ringers.push_back(&endpoint);
}

void message_take(Endpoint &endpoint, Message &message) {
    endpoint.instance->moved = true;
    const MessageType type = message.type();
    Bell bell{};
    if (endpoint.step == Step::HELLO)
        welcome_take(endpoint, message);
    else if (type == MessageType::GIVE)
        give_take(endpoint, message);
    else if (type == MessageType::RING_GIVE)
        ring_take(endpoint, message);
    else if (!message.read(MessageType::BELL, 0, &bell) || message.lost)
        endpoint_fail(endpoint, TENT_E_PROTOCOL, "a message of %zu bytes that nobody understands",
                      message.size);
    stand_when_done(endpoint);
}

bool open_now(const Endpoint &endpoint) {
    return endpoint.state == EndpointState::CONNECTING || endpoint.state == EndpointState::READY;
}

}  // namespace

int32_t endpoint_connect(void *opaque, void *handle, const tent_endpoint_params *params) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    Answer answer{};
    if (endpoint.state != EndpointState::OFFERED)
        return refuse(instance, TENT_E_INVALID, "shm: the endpoint was connected before");
    if (!answer_read(instance, *params, &answer))
        return refuse(instance, TENT_E_PROTOCOL,
                      "shm: the peer's answer is malformed or of another version");
    endpoint.peer = answer.target;
    endpoint.target_number = answer.endpoint;
    memcpy(endpoint.secret, answer.secret, sizeof endpoint.secret);
    endpoint.path = answer.path;
    endpoint.state = EndpointState::CONNECTING;
    endpoint.deadline_ns = now_of(instance) + instance.options.connect_timeout_ns;
    instance.connecting_count++;
    std::string sentence;
    const int32_t status = dial(endpoint, &sentence);
    if (status == TENT_OK) return TENT_OK;
    // It must not dial again before the core closes it; who called hears of it by the status.
    endpoint_fail(endpoint, status, "%s", sentence.c_str());
    endpoint.news = false;
    return refuse(instance, status, ("shm: " + sentence).c_str());
}

void initiator_step(Endpoint &endpoint, uint64_t now_ns) {
    std::string sentence;
    if (now_ns >= endpoint.deadline_ns) {
        endpoint_fail(endpoint, TENT_E_TIMEOUT, "no endpoint within shm.connect_timeout%s",
                      endpoint.step == Step::DIAL ? ": its listener takes nobody" : "");
    } else if (endpoint.step == Step::DIAL) {
        const int32_t status = dial(endpoint, &sentence);
        if (status != TENT_OK) endpoint_fail(endpoint, status, "%s", sentence.c_str());
    }
}

void initiator_read(Endpoint &endpoint) {
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

void endpoint_region(void *, void *handle, void *remote_region) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    endpoint.regions.push_back(static_cast<RemoteRegion *>(remote_region));
    regions_ask(endpoint);
    stand_when_done(endpoint);
}

void regions_ask(Endpoint &endpoint) {
    if (endpoint.step < Step::REGIONS || !open_now(endpoint)) return;
    if (!endpoint.instance->options.mapped || (endpoint.peer.methods & MAPPED) == 0) {
        endpoint.region_next = endpoint.regions.size();
        return;
    }
    while (endpoint.region_next < endpoint.regions.size() && endpoint.ask_count < ASKS_MAX) {
        RemoteRegion &region = *endpoint.regions[endpoint.region_next++];
        const Export &about = region.about;
        if (about.mappable == 0 || about.slot == NONE || region.base != nullptr ||
            region.asked != nullptr || region.refused_by == endpoint.number ||
            memcmp(about.instance, endpoint.peer.instance, sizeof about.instance) != 0)
            continue;
        Want want = message_make<Want>(MessageType::WANT);
        want.slot = about.slot;
        want.generation = about.generation;
        const int error = message_send(endpoint.fd, want);
        if (error != 0) {
            endpoint_fail(endpoint, TENT_E_PEER, "%s", strerrordesc_np(error));
            return;
        }
        region.asked = &endpoint;
        endpoint.asks[endpoint.ask_count++] = {&region, about.slot, about.generation};
    }
}

void asks_resume(Endpoint &endpoint) {
    regions_ask(endpoint);
    stand_when_done(endpoint);
}

void asks_drop(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    bool others = false;
    for (uint32_t i = 0; i < endpoint.ask_count; i++) {
        RemoteRegion *region = endpoint.asks[i].region;
        if (region == nullptr) continue;
        region->asked = nullptr;
        others = true;
    }
    endpoint.ask_count = 0;
    if (!others) return;
    // They passed these over, because somebody had asked already.
    for (const auto &other : instance.endpoints) {
        if (!other->initiator || other.get() == &endpoint) continue;
        other->region_next = 0;
        instance.asks_due = true;
    }
}

}  // namespace tent::shm
