// The life of endpoints: offers, answers, failing, closing, retiring. connect.cc and serve.cc bring
// them up.
//
// Leans on state.h, jobs.h, ring.h. Must never block. Sockets stay open until their endpoint is
// freed, because helpers look at them; the peer takes a closed socket for the end of our copies
// where it cannot see our process, so none is shut before they have ended.
#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <new>

#include "jobs.h"
#include "listen.h"
#include "mutant.h"
#include "ring.h"
#include "socket.h"
#include "state.h"
#include "watch.h"

namespace tent::shm {
namespace {

constexpr uint32_t SERVED_BATCH = 16;  // endpoints whose lanes are read in one turn
constexpr uint64_t SERVED_INTERVAL_NS = 1'000'000;

void unwatch_both(Endpoint &endpoint) {
    if (!endpoint.watched) return;
    endpoint.watched = false;
    if (endpoint.fd >= 0) unwatch(*endpoint.instance, endpoint.fd);
    if (endpoint.pid_fd >= 0) unwatch(*endpoint.instance, endpoint.pid_fd);
}

void connecting_end(Endpoint &endpoint) {
    if (endpoint.initiator && endpoint.state == EndpointState::CONNECTING)
        endpoint.instance->connecting_count--;
    endpoint.deadline_ns = UINT64_MAX;
}

void served_report(Endpoint &endpoint) {
    if (endpoint.initiator || endpoint.board == nullptr) return;
    const tent_host *host = endpoint.instance->host;
    uint64_t written = 0, read = 0;
    for (const Lane &lane : endpoint.board->lanes) {
        written += lane.written_bytes.load(std::memory_order_relaxed);
        read += lane.read_bytes.load(std::memory_order_relaxed);
    }
    // They are the peer's: one that counts backwards is not believed.
    if (written > endpoint.served_written)
        host->served(host->ctx, endpoint.number, TENT_OP_WRITE, written - endpoint.served_written);
    if (read > endpoint.served_read)
        host->served(host->ctx, endpoint.number, TENT_OP_READ, read - endpoint.served_read);
    endpoint.served_written = std::max(endpoint.served_written, written);
    endpoint.served_read = std::max(endpoint.served_read, read);
}

void endpoint_free(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    asks_drop(endpoint);
    unwatch_both(endpoint);
    connecting_end(endpoint);
    std::erase(instance.ringers, &endpoint);
    if (endpoint.ring != nullptr) ring_free(endpoint.ring);
    if (endpoint.ring_target != nullptr) ring_target_free(endpoint.ring_target);
    if (endpoint.board != nullptr) munmap(endpoint.board, sizeof(Board));
    if (endpoint.initiator && endpoint.table != nullptr)
        munmap(const_cast<RegionTable *>(endpoint.table), sizeof(RegionTable));
    for (const int fd : {endpoint.board_fd, endpoint.pid_fd, endpoint.fd})
        if (fd >= 0) close(fd);
    std::erase_if(instance.endpoints,
                  [&](const std::unique_ptr<Endpoint> &held) { return held.get() == &endpoint; });
}

Endpoint *endpoint_make(Instance &instance, const tent_endpoint_params &params, int32_t *status) {
    if (instance.endpoints.size() >= instance.endpoints_max) {
        *status = refuse(instance, TENT_E_AGAIN, "shm: all endpoints of this engine are in use");
        return nullptr;
    }
    std::unique_ptr<Endpoint> made(new (std::nothrow) Endpoint);
    if (!made) {
        *status = refuse(instance, TENT_E_NO_MEMORY, "shm: no memory for an endpoint");
        return nullptr;
    }
    made->instance = &instance;
    made->number = params.endpoint;
    made->initiator = params.initiator != 0;
    made->grant = params.grant;
    instance.endpoints.push_back(std::move(made));
    instance.ringers.reserve(instance.endpoints.capacity());
    return instance.endpoints.back().get();
}

Offer own_offer(const Instance &instance) {
    Offer offer{};
    offer.magic = MAGIC;
    offer.version = VERSION;
    memcpy(offer.instance, instance.id, sizeof offer.instance);
    offer.place = instance.place;
    offer.methods = (instance.options.mapped ? MAPPED : 0u) |
                    (instance.options.attach ? ATTACH : 0u) | (instance.options.ring ? RING : 0u);
    return offer;
}

template <class T>
int32_t blob_write(const Instance &instance, const T &value, void *out, uint32_t *size) {
    if (*size < sizeof value)
        return refuse(instance, TENT_E_INVALID, "shm: the room for an offer is too small");
    memcpy(out, &value, sizeof value);
    *size = sizeof value;
    return TENT_OK;
}

// Is it one that we can serve?
int32_t offer_check(const Instance &instance, const tent_endpoint_params &params, Offer *offer) {
    if (params.blob == nullptr || params.blob_size != sizeof *offer)
        return refuse(instance, TENT_E_PROTOCOL, "shm: the peer's offer is malformed");
    memcpy(offer, params.blob, sizeof *offer);
    if (offer->magic != MAGIC || offer->version != VERSION)
        return refuse(instance, TENT_E_PROTOCOL,
                      "shm: the peer's offer is of another version; run equal versions");
    if (memcmp(offer->place.boot, instance.place.boot, sizeof offer->place.boot) != 0)
        return refuse(instance, TENT_E_NO_PATH, "shm: the peer is on another machine");
    if (instance.listen_fd < 0) return refuse(instance, TENT_E_SYSTEM, instance.listen_why.c_str());
    const bool comparable = offer->place.user_namespace == instance.place.user_namespace;
    if (comparable && !user_allowed(instance, offer->place.uid))
        return refuse(instance, TENT_E_DENIED,
                      format("shm: user %u is not let in; 'set shm.users=%u' does",
                             offer->place.uid, offer->place.uid)
                          .c_str());
    return TENT_OK;
}

int32_t board_make(Endpoint &endpoint) {
    const Instance &instance = *endpoint.instance;
    const int fd = memfd_create("tent-board", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    void *memory = MAP_FAILED;
    if (fd >= 0 && ftruncate(fd, sizeof(Board)) == 0 && fchmod(fd, 0600) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        memory = mmap(nullptr, sizeof(Board), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED) {
        const std::string why = format("shm: no board: %s", strerrordesc_np(errno));
        if (fd >= 0) close(fd);
        return refuse(instance, TENT_E_SYSTEM, why.c_str());
    }
    madvise(memory, sizeof(Board), MADV_DONTFORK);
    endpoint.board = new (memory) Board;
    endpoint.board->size = sizeof(Board);
    endpoint.board_fd = fd;
    return TENT_OK;
}

bool readable(int fd, short events) {
    pollfd look{fd, events, 0};
    return ::poll(&look, 1, 0) == 1 && (look.revents & (events | POLLHUP | POLLERR)) != 0;
}

}  // namespace

std::string format(const char *text, ...) {
    char made[512];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(made, sizeof made, text, arguments);
    va_end(arguments);
    return made;
}

int32_t refuse(const Instance &instance, int32_t status, const char *sentence) {
    instance.host->fail(instance.host->ctx, sentence);
    return status;
}

Endpoint *endpoint_find(const Instance &instance, uint64_t number) {
    for (const auto &endpoint : instance.endpoints)
        if (endpoint->number == number) return endpoint.get();
    return nullptr;
}

void endpoint_news(Endpoint &endpoint) {
    endpoint.news = true;
    endpoint.instance->news = true;
    endpoint.instance->moved = true;
}

void endpoint_fail(Endpoint &endpoint, int32_t status, const char *text, ...) {
    if (endpoint.state == EndpointState::FAILED || endpoint.state == EndpointState::CLOSED) return;
    char why[400];
    va_list arguments;
    va_start(arguments, text);
    vsnprintf(why, sizeof why, text, arguments);
    va_end(arguments);
    endpoint.sentence = format("shm %s process %u: %s", endpoint.initiator ? "to" : "serving",
                               endpoint.peer.place.pid, why);
    connecting_end(endpoint);
    unwatch_both(endpoint);
    endpoint.state = EndpointState::FAILED;
    endpoint.status = status;
    endpoint.stopping.store(true, std::memory_order_release);
    if (!endpoint.initiator && endpoint.board != nullptr)
        endpoint.board->retired.store(1, std::memory_order_release);
    if (endpoint.ring != nullptr) ring_stop(endpoint, status);
    asks_drop(endpoint);
    endpoint_news(endpoint);
}

bool endpoint_peer_dead(Endpoint &endpoint) {
    if (mutant(Mutant::shm_peer_dead)) return false;
    if (endpoint.peer_gone) return true;
    if (endpoint.pid_fd >= 0)
        endpoint.peer_gone = readable(endpoint.pid_fd, POLLIN);
    else if (endpoint.fd >= 0)
        endpoint.peer_gone = readable(endpoint.fd, POLLRDHUP);
    return endpoint.peer_gone;
}

bool endpoint_peer_lives(const Endpoint &endpoint) {
    if (mutant(Mutant::shm_peer_lives)) return true;
    pollfd look[2] = {{endpoint.fd, POLLRDHUP, 0}, {endpoint.pid_fd, POLLIN, 0}};
    // A negative descriptor is passed over.
    const int seen = ::poll(look, 2, 0);
    return endpoint.fd >= 0 && (seen == 0 || (seen < 0 && errno == EINTR));
}

bool endpoint_meet(Endpoint &endpoint, int fd, std::string *sentence) {
    const Instance &instance = *endpoint.instance;
    endpoint.fd = fd;  // the endpoint's from here on, whatever comes
    endpoint.watched = true;
    if (!peer_credentials(fd, &endpoint.uid, &endpoint.pid)) {
        *sentence = format("SO_PEERCRED: %s", strerrordesc_np(errno));
        return false;
    }
    endpoint.pid_fd = peer_process(fd, endpoint.pid);
    const auto value = reinterpret_cast<uintptr_t>(&endpoint);
    // A visitor is watched already.
    bool watched = watch(instance, fd, Watched::SOCKET, value, EPOLL_CTL_MOD) ||
                   watch(instance, fd, Watched::SOCKET, value);
    if (endpoint.pid_fd >= 0)
        watched = watched && watch(instance, endpoint.pid_fd, Watched::PROCESS, value);
    if (!watched) *sentence = format("epoll_ctl: %s", strerrordesc_np(errno));
    return watched;
}

void endpoints_report(Instance &instance) {
    const tent_host *host = instance.host;
    while (instance.news) {
        // From the start each time: the core may close endpoints from within the call.
        const auto found = std::find_if(instance.endpoints.begin(), instance.endpoints.end(),
                                        [](const auto &endpoint) { return endpoint->news; });
        instance.news = found != instance.endpoints.end();
        if (!instance.news) return;
        Endpoint &endpoint = **found;
        endpoint.news = false;
        const bool failed = endpoint.state == EndpointState::FAILED;
        host->endpoint_state(host->ctx, endpoint.number, failed ? endpoint.status : TENT_OK,
                             failed ? endpoint.sentence.c_str() : nullptr);
    }
}

void endpoints_free_closed(Instance &instance) {
    for (size_t i = instance.endpoints.size(); i-- > 0 && instance.closed_count > 0;) {
        Endpoint &endpoint = *instance.endpoints[i];
        if (!endpoint.let_go || endpoint.posted > 0) continue;
        instance.closed_count--;
        endpoint_free(endpoint);
    }
}

void endpoints_served(Instance &instance) {
    const uint64_t now_ns = now_of(instance);
    if (instance.endpoints.empty() || now_ns < instance.served_ns + SERVED_INTERVAL_NS) return;
    instance.served_ns = now_ns;
    const size_t count = std::min<size_t>(SERVED_BATCH, instance.endpoints.size());
    for (size_t i = 0; i < count; i++) {
        instance.served_next = (instance.served_next + 1) % instance.endpoints.size();
        served_report(*instance.endpoints[instance.served_next]);
    }
}

int32_t endpoint_offer(void *opaque, const tent_endpoint_params *params, void **out, void *offer,
                       uint32_t *size) {
    Instance &instance = instance_of(opaque);
    int32_t status = blob_write(instance, own_offer(instance), offer, size);
    if (status == TENT_OK) *out = endpoint_make(instance, *params, &status);
    return status;
}

int32_t endpoint_accept(void *opaque, const tent_endpoint_params *params, void **out, void *answer,
                        uint32_t *size) {
    Instance &instance = instance_of(opaque);
    Offer offer{};
    int32_t status = offer_check(instance, *params, &offer);
    if (status != TENT_OK) return status;
    Endpoint *endpoint = endpoint_make(instance, *params, &status);
    if (endpoint == nullptr) return status;
    endpoint->peer = offer;
    endpoint->table = instance.table;
    random_fill(instance, endpoint->secret, sizeof endpoint->secret);
    Answer made{};
    made.target = own_offer(instance);
    made.endpoint = endpoint->number;
    memcpy(made.secret, endpoint->secret, sizeof made.secret);
    memcpy(made.path, instance.path.c_str(), instance.path.size() + 1);
    status = board_make(*endpoint);
    if (status == TENT_OK) status = blob_write(instance, made, answer, size);
    if (status != TENT_OK) {
        endpoint_free(*endpoint);
        return status;
    }
    *out = endpoint;
    return TENT_OK;
}

int32_t endpoint_close(void *opaque, void *handle) {
    Instance &instance = instance_of(opaque);
    auto &endpoint = *static_cast<Endpoint *>(handle);
    endpoint.news = false;
    connecting_end(endpoint);
    unwatch_both(endpoint);
    asks_drop(endpoint);
    endpoint.stopping.store(true, std::memory_order_release);
    if (endpoint.ring != nullptr) ring_stop(endpoint, TENT_E_CANCELLED);
    endpoint.state = EndpointState::CLOSED;
    if (!jobs_quiet(instance, endpoint)) return TENT_IN_PROGRESS;
    if (endpoint.fd >= 0) shutdown(endpoint.fd, SHUT_RDWR);
    std::erase(instance.ringers, &endpoint);
    if (endpoint.posted == 0) {
        endpoint_free(endpoint);
    } else {
        endpoint.let_go = true;
        instance.closed_count++;
    }
    return TENT_OK;
}

int32_t endpoint_retire(void *, void *handle) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    const bool met = endpoint.fd >= 0;
    endpoint.news = false;
    if (!endpoint.retiring) {
        endpoint.retiring = true;
        endpoint.state = EndpointState::CLOSED;
        unwatch_both(endpoint);
        std::erase(endpoint.instance->ringers, &endpoint);
        endpoint.board->retired.store(1, std::memory_order_release);
        lanes_note(*endpoint.board, &endpoint.retire_view);
        if (endpoint.ring_target != nullptr) ring_target_free(endpoint.ring_target);
        endpoint.ring_target = nullptr;
    }
    if (met && !lanes_quiet(*endpoint.board, endpoint.retire_view) &&
        !endpoint_peer_dead(endpoint) && !mutant(Mutant::shm_retire_wait))
        return TENT_IN_PROGRESS;
    served_report(endpoint);
    if (met) shutdown(endpoint.fd, SHUT_RDWR);
    endpoint_free(endpoint);
    return TENT_OK;
}

uint64_t endpoint_progress(void *opaque, void *handle) {
    auto &endpoint = *static_cast<Endpoint *>(handle);
    // A helper that gets no processor in the middle of a copy says nothing about the path: its
    // slice could not be taken back before the copy has ended, either.
    if (jobs_moving(instance_of(opaque), endpoint)) endpoint.moving_asked++;
    return endpoint.moved_bytes.load(std::memory_order_relaxed) + endpoint.moving_asked;
}

}  // namespace tent::shm
