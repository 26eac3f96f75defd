// A small engine for tests of plugins: the host table, a listener with dummy openings, and two
// sides joined by it.
//
// Leans on <tent/plugin.h> and check.h's style only, never on the core: a plugin is tested by its
// contract. Everything runs in one thread and takes no time of its own; a test steps both sides by
// hand.
#ifndef TENT_TESTS_FAKE_HOST_H
#define TENT_TESTS_FAKE_HOST_H

#include <arpa/inet.h>
#include <poll.h>
#include <sys/socket.h>
#include <tent/plugin.h>
#include <time.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace fake {

struct News {
    uint64_t endpoint;
    int32_t status;
    std::string sentence;
};

struct RailNews {
    uint32_t rail;
    int32_t status;
    std::string sentence;
};

struct Grant {
    uint64_t begin;
    uint64_t length;
    int32_t status;  // what grant_check answers inside of it
    uint32_t access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;  // other accesses are DENIED
};

// CRC32C bit by bit: slow and independent of ours.
inline uint32_t crc32c(uint32_t crc, const void *data, uint64_t size) {
    static const auto table = [] {
        std::vector<uint32_t> made(256);
        for (uint32_t i = 0; i < 256; ++i) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; ++bit)
                value = (value >> 1) ^ ((value & 1) ? 0x82F63B78u : 0u);
            made[i] = value;
        }
        return made;
    }();
    const auto *bytes = static_cast<const uint8_t *>(data);
    crc = ~crc;
    for (uint64_t i = 0; i < size; ++i)
        crc = (crc >> 8) ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

inline uint32_t crc32c_wrong(uint32_t crc, const void *data, uint64_t size) {
    return crc32c(crc, data, size) ^ 1u;
}

inline uint64_t real_now_ns() {
    timespec time{};
    clock_gettime(CLOCK_MONOTONIC, &time);
    return static_cast<uint64_t>(time.tv_sec) * 1000000000u + static_cast<uint64_t>(time.tv_nsec);
}

struct Message {
    uint64_t endpoint;
    std::vector<char> bytes;
};

// What may block, in threads of its own or at once.
struct Errands {
    bool threaded = false;
    std::mutex mutex;
    std::vector<std::thread> threads;

    ~Errands() { join(); }
    void run(void (*what)(void *), void *argument) {
        if (!threaded) return what(argument);
        const std::lock_guard hold(mutex);
        threads.emplace_back(what, argument);
    }
    // The core does so before it closes an instance.
    void join() {
        for (;;) {
            std::vector<std::thread> ending;
            {
                const std::lock_guard hold(mutex);
                ending.swap(threads);
            }
            if (ending.empty()) return;
            for (std::thread &thread : ending)
                thread.join();
        }
    }
};

// The host table with everything it was told.
struct Host {
    tent_host table{};
    uint64_t now_ns = 0;  // 0: the real clock
    static inline uint64_t hosts = 0;
    uint64_t random = ++hosts << 32;
    std::string failure;
    std::vector<std::string> logged;
    std::vector<News> news;
    std::vector<RailNews> rail_news;
    std::vector<Message> messages;  // for the other side; who joins both brings them there
    int32_t message_status = TENT_OK;
    Errands errands;
    std::vector<Grant> grants;  // the first that contains the range answers; none: RANGE
    uint64_t checks = 0;
    uint64_t served_write = 0;
    uint64_t served_read = 0;
    int32_t opening_status = TENT_OK;
    int32_t reply_status = TENT_OK;

    Host() {
        table.size = sizeof table;
        table.abi = TENT_PLUGIN_ABI;
        table.ctx = this;
        table.now_ns = [](void *ctx) {
            return self(ctx).now_ns != 0 ? self(ctx).now_ns : real_now_ns();
        };
        table.random_u64 = [](void *ctx) {  // splitmix64; no two hosts draw the same
            uint64_t z = self(ctx).random += 0x9e3779b97f4a7c15u;
            z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
            z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
            return z ^ (z >> 31);
        };
        table.log = [](void *ctx, int32_t, const char *text) { self(ctx).logged.push_back(text); };
        table.fail = [](void *ctx, const char *sentence) { self(ctx).failure = sentence; };
        table.grant_check = check;
        table.endpoint_state = [](void *ctx, uint64_t endpoint, int32_t status, const char *text) {
            self(ctx).news.push_back({endpoint, status, text != nullptr ? text : ""});
        };
        table.served = [](void *ctx, uint64_t, uint32_t op, uint64_t bytes) {
            (op == TENT_OP_WRITE ? self(ctx).served_write : self(ctx).served_read) += bytes;
        };
        table.opening_make = [](void *ctx, uint64_t endpoint, uint32_t connection, void *opening) {
            memset(opening, 0x5a, TENT_OPENING_SIZE);
            memcpy(opening, &endpoint, sizeof endpoint);
            memcpy(static_cast<char *>(opening) + 8, &connection, sizeof connection);
            return self(ctx).opening_status;
        };
        table.opening_check = [](void *ctx, uint64_t endpoint, uint32_t, const void *reply) {
            uint64_t answered = 0;
            memcpy(&answered, reply, sizeof answered);
            return answered == endpoint ? self(ctx).reply_status : TENT_E_AUTH;
        };
        table.crc32c = crc32c;
        table.rail_state = [](void *ctx, uint32_t rail, int32_t status, const char *text) {
            self(ctx).rail_news.push_back({rail, status, text != nullptr ? text : ""});
        };
        table.control_send = [](void *ctx, uint64_t endpoint, const void *bytes, uint32_t size) {
            if (self(ctx).message_status != TENT_OK) return self(ctx).message_status;
            const auto *begin = static_cast<const char *>(bytes);
            self(ctx).messages.push_back({endpoint, {begin, begin + size}});
            return TENT_OK;
        };
        table.errand = [](void *ctx, void (*run)(void *), void *argument) {
            self(ctx).errands.run(run, argument);
        };
        table.grant_access = access;
    }
    Host(const Host &) = delete;
    Host &operator=(const Host &) = delete;

    static Host &self(void *ctx) { return *static_cast<Host *>(ctx); }

    static int32_t check(void *ctx, uint64_t, uint32_t op, uint64_t remote, uint64_t length) {
        ++self(ctx).checks;
        const uint32_t needed = op == TENT_OP_READ ? TENT_ACCESS_READ : TENT_ACCESS_WRITE;
        for (const Grant &grant : self(ctx).grants) {
            if (remote >= grant.begin && remote + length <= grant.begin + grant.length)
                return grant.status == TENT_OK && (grant.access & needed) == 0 ? TENT_E_DENIED
                                                                               : grant.status;
        }
        return TENT_E_RANGE;
    }
    static uint32_t access(void *ctx, uint64_t, uint64_t remote, uint64_t length) {
        for (const Grant &grant : self(ctx).grants) {
            if (remote >= grant.begin && remote + length <= grant.begin + grant.length)
                return grant.status == TENT_OK ? grant.access : 0;
        }
        return 0;
    }

    void grant(const void *data, uint64_t length, int32_t status = TENT_OK,
               uint32_t access = TENT_ACCESS_READ | TENT_ACCESS_WRITE) {
        grants.push_back({reinterpret_cast<uintptr_t>(data), length, status, access});
    }
    // The last news of an endpoint; TENT_IN_PROGRESS when there was none.
    int32_t state_of(uint64_t endpoint) const {
        int32_t status = TENT_IN_PROGRESS;
        for (const News &item : news)
            status = item.endpoint == endpoint ? item.status : status;
        return status;
    }
};

// One plugin instance with one rail. What poll returns is kept by id.
struct Side {
    Host host;
    const tent_plugin *plugin;
    void *instance = nullptr;
    void *rail = nullptr;
    tent_rail_info info{};
    int32_t status = TENT_OK;
    std::vector<int32_t> statuses;  // by slice id; TENT_IN_PROGRESS: not returned yet
    uint32_t returned = 0;
    uint32_t returned_twice = 0;
    uint32_t busy = 0;

    Side(const tent_plugin *table, const char *device, const std::vector<tent_option> &options = {},
         uint32_t slices_max = 4096, const tent_plugin *inner = nullptr,
         const std::vector<tent_option> &rail_options = {})
        : plugin(table) {
        host.table.inner = inner;
        tent_plugin_options about{};
        about.size = sizeof about;
        about.options = options.data();
        about.option_count = static_cast<uint32_t>(options.size());
        about.rails_max = 4;
        about.endpoints_max = 8;
        about.slices_max = slices_max;
        status = plugin->open(&host.table, &about, &instance);
        if (status != TENT_OK) return;
        tent_rail_params params{};
        params.size = sizeof params;
        params.device = device;
        params.options = rail_options.data();
        params.option_count = static_cast<uint32_t>(rail_options.size());
        info.size = sizeof info;
        status = plugin->rail_open(instance, &params, &rail, &info);
    }
    ~Side() {
        host.errands.join();
        if (rail != nullptr) plugin->rail_close(instance, rail);
        if (instance != nullptr) plugin->close(instance);
    }
    Side(const Side &) = delete;
    Side &operator=(const Side &) = delete;

    void flush() {
        if (plugin->flush != nullptr) plugin->flush(instance);
    }
    uint32_t poll(uint32_t room = 64) {
        tent_slice_result results[64];
        uint32_t moved = 0;
        const uint32_t count = plugin->poll(instance, results, room < 64 ? room : 64, &moved);
        busy |= moved;
        for (uint32_t i = 0; i < count; ++i) {
            int32_t &slot = statuses.at(results[i].id);
            returned_twice += slot == TENT_IN_PROGRESS ? 0 : 1;
            slot = results[i].status;
        }
        returned += count;
        return count;
    }
    // Posts one slice under the next free id; false when the plugin is full.
    bool post(void *endpoint, uint32_t op, void *local, uint64_t remote, uint64_t length,
              uint32_t flags = 0) {
        const tent_slice slice{statuses.size(), op, flags, local, remote, length, nullptr, nullptr};
        if (plugin->post(instance, endpoint, &slice, 1) == 0) return false;
        statuses.push_back(TENT_IN_PROGRESS);
        return true;
    }
    tent_endpoint_params params(uint64_t endpoint, bool initiator, const char *peer_rail,
                                const char *peer_address, const void *blob, uint32_t size) const {
        tent_endpoint_params made{};
        made.size = sizeof made;
        made.initiator = initiator ? 1 : 0;
        made.endpoint = endpoint;
        made.rail = rail;
        made.grant = 7;
        made.peer_rail = peer_rail;
        made.peer_address = peer_address;
        made.blob = blob;
        made.blob_size = size;
        made.slice_count_max = 4096;
        return made;
    }
};

// A listening socket on loopback.
struct Listener {
    int fd = -1;
    std::string address;

    Listener() {
        fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in name{};
        name.sin_family = AF_INET;
        name.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        socklen_t size = sizeof name;
        bind(fd, reinterpret_cast<sockaddr *>(&name), size);
        listen(fd, 64);
        getsockname(fd, reinterpret_cast<sockaddr *>(&name), &size);
        address = "127.0.0.1:" + std::to_string(ntohs(name.sin_port));
    }
    ~Listener() { close_now(); }
    void close_now() {
        if (fd >= 0) close(fd);
        fd = -1;
    }
    // The next connection that waits, -1: none.
    int accept_one() const {
        pollfd wait{fd, POLLIN, 0};
        return ::poll(&wait, 1, 0) == 1
                   ? accept4(fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC)
                   : -1;
    }
};

// What the core does at the target with data connections: reads the opening, replies, hands over.
struct Acceptor {
    Listener listener;
    std::map<uint64_t, void *> endpoints;  // initiator's endpoint number -> target's handle
    std::vector<int> opening_fds;          // accepted, the opening has not arrived yet

    ~Acceptor() {
        for (int fd : opening_fds)
            close(fd);
    }
    void step(Side &target) {
        for (int fd = listener.accept_one(); fd >= 0; fd = listener.accept_one())
            opening_fds.push_back(fd);
        std::vector<int> waiting;
        for (int fd : opening_fds) {
            if (!adopt(target, fd)) waiting.push_back(fd);
        }
        opening_fds = waiting;
    }
    bool adopt(Side &target, int fd) {
        char opening[TENT_OPENING_SIZE];
        if (recv(fd, opening, sizeof opening, MSG_PEEK) < static_cast<ssize_t>(sizeof opening))
            return false;
        if (recv(fd, opening, sizeof opening, 0) != static_cast<ssize_t>(sizeof opening))
            return false;
        uint64_t endpoint = 0;
        uint32_t connection = 0;
        memcpy(&endpoint, opening, sizeof endpoint);
        memcpy(&connection, opening + 8, sizeof connection);
        char reply[TENT_OPENING_REPLY_SIZE] = {};
        memcpy(reply, &endpoint, sizeof endpoint);
        const auto found = endpoints.find(endpoint);
        if (found == endpoints.end() ||
            send(fd, reply, sizeof reply, MSG_NOSIGNAL) != static_cast<ssize_t>(sizeof reply) ||
            target.plugin->endpoint_adopt(target.instance, found->second, connection, fd) !=
                TENT_OK) {
            close(fd);
        }
        return true;
    }
};

// Initiator and target with one endpoint between them.
struct Pair {
    static constexpr uint64_t INITIATOR = 11;  // the endpoint's number on each side
    static constexpr uint64_t TARGET = 22;
    Side initiator;
    Side target;
    Acceptor acceptor;
    void *from = nullptr;  // the initiator's endpoint
    void *to = nullptr;    // the target's
    int32_t status = TENT_OK;

    // inner and rail_options: for a decorator; the options are the initiator's.
    Pair(const tent_plugin *plugin, const char *device,
         const std::vector<tent_option> &options = {}, uint32_t slices_max = 4096,
         const tent_plugin *inner = nullptr, const std::vector<tent_option> &rail_options = {})
        : initiator(plugin, device, options, slices_max, inner, rail_options),
          target(plugin, device, options, slices_max, inner) {
        status = initiator.status != TENT_OK ? initiator.status : target.status;
        if (status == TENT_OK) status = join();
    }
    ~Pair() {
        if (from != nullptr) initiator.plugin->endpoint_close(initiator.instance, from);
        if (to != nullptr) target.plugin->endpoint_retire(target.instance, to);
    }
    int32_t join() {
        char offer[TENT_OFFER_MAX];
        char answer[TENT_OFFER_MAX];
        uint32_t offer_size = sizeof offer;
        uint32_t answer_size = sizeof answer;
        const char *address = acceptor.listener.address.c_str();
        tent_endpoint_params params =
            initiator.params(INITIATOR, true, target.info.address, address, nullptr, 0);
        int32_t result = initiator.plugin->endpoint_offer(initiator.instance, &params, &from, offer,
                                                          &offer_size);
        if (result != TENT_OK) return result;
        params = target.params(TARGET, false, initiator.info.address, "", offer, offer_size);
        result =
            target.plugin->endpoint_accept(target.instance, &params, &to, answer, &answer_size);
        if (result != TENT_OK) return result;
        acceptor.endpoints[INITIATOR] = to;
        params =
            initiator.params(INITIATOR, true, target.info.address, address, answer, answer_size);
        result = initiator.plugin->endpoint_connect(initiator.instance, from, &params);
        for (int i = 0; i < 10000 && result == TENT_OK; ++i) {
            step();
            if (initiator.host.state_of(INITIATOR) != TENT_IN_PROGRESS) break;
        }
        return result != TENT_OK ? result : initiator.host.state_of(INITIATOR);
    }
    void step() {
        initiator.flush();
        initiator.poll();
        acceptor.step(target);
        target.poll();
    }
    // Steps both sides until every posted slice has come back; false when that never happens.
    bool settle(uint32_t steps_max = 2000000) {
        uint32_t idle = 0;
        for (uint32_t i = 0; i < steps_max && idle < 200000; ++i) {
            if (initiator.returned == initiator.statuses.size()) return true;
            initiator.busy = target.busy = 0;
            step();
            idle = initiator.busy != 0 || target.busy != 0 ? 0 : idle + 1;
        }
        return initiator.returned == initiator.statuses.size();
    }
};

}  // namespace fake

#endif
