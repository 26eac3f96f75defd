// Two instances of the shm transport in one process, and what tests need around them: folders for
// sockets, sealed memory, regions told from one to the other.
//
// Leans on fake_host.h and the inside of plugins/shm. Takes no time of its own: a test steps both
// sides by hand.
#ifndef TENT_TESTS_SHM_PAIR_H
#define TENT_TESTS_SHM_PAIR_H

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <tent/plugin.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "fake_host.h"
#include "plugins/shm/socket.h"
#include "plugins/shm/state.h"

namespace shm_pair {

using Given = std::vector<tent_option>;

// A folder of the test's own, gone with it.
struct Folder {
    std::string path;

    Folder() {
        const char *base = getenv("TMPDIR");
        path = std::string(base != nullptr && *base != '\0' ? base : "/tmp") + "/tent-test-XXXXXX";
        if (mkdtemp(path.data()) == nullptr) abort();
    }
    ~Folder() {
        std::error_code ignored;
        std::filesystem::remove_all(path, ignored);
    }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;

    // The one folder that engines of this user make in it.
    std::string inside() const { return path + "/tent-" + std::to_string(geteuid()); }
    size_t sockets() const {
        std::error_code error;
        size_t count = 0;
        for (const auto &entry : std::filesystem::directory_iterator(inside(), error))
            count += entry.is_socket();
        return count;
    }
};

// Memory as the engine allocates it: a sealed memfd, mapped.
struct Memory {
    int fd = -1;
    char *data = nullptr;
    size_t size;

    explicit Memory(size_t bytes, int seals = F_SEAL_SHRINK | F_SEAL_GROW) : size(bytes) {
        fd = memfd_create("tent-test", MFD_CLOEXEC | MFD_ALLOW_SEALING);
        if (fd < 0 || ftruncate(fd, static_cast<off_t>(size)) != 0) abort();
        void *mapped = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (mapped == MAP_FAILED || fcntl(fd, F_ADD_SEALS, seals) != 0) abort();
        data = static_cast<char *>(mapped);
    }
    ~Memory() {
        munmap(data, size);
        close(fd);
    }
    Memory(const Memory &) = delete;
    Memory &operator=(const Memory &) = delete;
};

inline uint64_t at(const void *data) {
    return reinterpret_cast<uintptr_t>(data);
}

inline size_t open_descriptors() {
    const std::filesystem::directory_iterator all("/proc/self/fd");
    return static_cast<size_t>(std::distance(begin(all), end(all)));
}

inline const tent_plugin *shm() {
    return tent_plugin_query(TENT_PLUGIN_ABI);
}

inline Given with_folder(Given options, const Folder &folder) {
    options.push_back({"directory", folder.path.c_str()});
    return options;
}

// One engine's side with what tests ask of it.
struct Side : fake::Side {
    Side(const Folder &folder, const Given &options = {})
        : fake::Side(shm(), "host", with_folder(options, folder)) {}

    tent::shm::Instance &inside() const { return tent::shm::instance_of(instance); }

    void *register_region(void *data, uint64_t length, int memory_fd = -1, uint64_t offset = 0) {
        tent_region_params params{};
        params.size = sizeof params;
        params.access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
        params.address = data;
        params.length = length;
        params.location = "cpu:0";
        params.memory_fd = memory_fd;
        params.memory_offset = offset;
        void *region = nullptr;
        return plugin->region_register(instance, &params, &region) == TENT_OK ? region : nullptr;
    }
    std::vector<char> exported(void *region) {
        std::vector<char> bytes(TENT_EXPORT_MAX);
        uint32_t size = TENT_EXPORT_MAX;
        if (plugin->region_export(instance, region, bytes.data(), &size) != TENT_OK) size = 0;
        bytes.resize(size);
        return bytes;
    }
    void *imported(const std::vector<char> &bytes) {
        void *region = nullptr;
        const int32_t got = plugin->segment_import(instance, bytes.data(),
                                                   static_cast<uint32_t>(bytes.size()), &region);
        return got == TENT_OK ? region : nullptr;
    }
    bool post_to(void *endpoint, uint32_t op, void *local, void *region, uint64_t remote,
                 uint64_t length, uint32_t flags = 0) {
        const tent_slice slice{statuses.size(), op, flags, local, remote, length, nullptr, region};
        if (plugin->post(instance, endpoint, &slice, 1) == 0) return false;
        statuses.push_back(TENT_IN_PROGRESS);
        return true;
    }
    std::string about(void *endpoint, void *region) {
        char text[400];
        plugin->endpoint_about(instance, endpoint, region, text, sizeof text);
        return text;
    }
};

// A region of the target as the initiator knows it.
struct Told {
    void *region = nullptr;  // the target's
    void *remote = nullptr;  // the initiator's
};

// Initiator and target, joined by as many endpoints as a test wants.
struct Pair {
    static constexpr uint64_t INITIATOR = 11;  // the first endpoint's number on each side
    static constexpr uint64_t TARGET = 22;
    Folder folder;
    Side initiator, target;
    void *from = nullptr;  // the initiator's endpoint
    void *to = nullptr;    // the target's
    std::vector<char> offer, answer;
    std::vector<Told> told;

    explicit Pair(const Given &initiators = {}, const Given &targets = {})
        : initiator(folder, initiators), target(folder, targets) {}
    ~Pair() {
        close();
        for (const Told &known : told) {
            if (known.remote != nullptr) shm()->segment_forget(initiator.instance, known.remote);
            if (known.region != nullptr) shm()->region_release(target.instance, known.region);
        }
    }
    Pair(const Pair &) = delete;
    Pair &operator=(const Pair &) = delete;

    tent::shm::Endpoint &initiators() const { return *static_cast<tent::shm::Endpoint *>(from); }
    tent::shm::Endpoint &targets() const { return *static_cast<tent::shm::Endpoint *>(to); }
    std::string about(void *remote) { return initiator.about(from, remote); }

    // Registers it at the target, granted when `grant`, and imports it.
    Told &tell(void *data, uint64_t length, int memory_fd = -1, uint64_t offset = 0,
               bool grant = true) {
        if (grant) target.host.grant(data, length);
        void *region = target.register_region(data, length, memory_fd, offset);
        told.push_back({region, initiator.imported(target.exported(region))});
        return told.back();
    }
    int32_t make_offer(uint64_t number = INITIATOR) {
        offer.resize(TENT_OFFER_MAX);
        uint32_t size = TENT_OFFER_MAX;
        const tent_endpoint_params params =
            initiator.params(number, true, target.info.address, "", nullptr, 0);
        const int32_t status =
            shm()->endpoint_offer(initiator.instance, &params, &from, offer.data(), &size);
        offer.resize(size);
        return status;
    }
    int32_t accept(uint64_t number = TARGET) {
        answer.resize(TENT_OFFER_MAX);
        uint32_t size = TENT_OFFER_MAX;
        const tent_endpoint_params params =
            target.params(number, false, initiator.info.address, "", offer.data(),
                          static_cast<uint32_t>(offer.size()));
        const int32_t status =
            shm()->endpoint_accept(target.instance, &params, &to, answer.data(), &size);
        answer.resize(size);
        return status;
    }
    int32_t connect(uint64_t number = INITIATOR) {
        const tent_endpoint_params params =
            initiator.params(number, true, target.info.address, "", answer.data(),
                             static_cast<uint32_t>(answer.size()));
        return shm()->endpoint_connect(initiator.instance, from, &params);
    }
    // The whole handshake, with the regions told before; what the core of the initiator heard.
    int32_t join() {
        int32_t status = make_offer();
        if (status == TENT_OK) status = accept();
        for (const Told &known : told)
            if (known.remote != nullptr)
                shm()->endpoint_region(initiator.instance, from, known.remote);
        if (status == TENT_OK) status = connect();
        return status == TENT_OK ? wait() : status;
    }
    // Steps both sides until the initiator's core has heard of the endpoint.
    int32_t wait(uint64_t number = INITIATOR) {
        for (int i = 0; i < 10000 && initiator.host.state_of(number) == TENT_IN_PROGRESS; i++)
            step();
        return initiator.host.state_of(number);
    }
    void step(uint32_t count = 1) {
        for (; count > 0; count--) {
            initiator.poll();
            target.poll();
        }
    }
    template <class Done>
    bool until(Done done) {
        for (int i = 0; i < 2000000; i++) {
            if (done()) return true;
            step();
        }
        return false;
    }
    // Until every slice has come back.
    bool settle() {
        return until([&] { return initiator.returned == initiator.statuses.size(); });
    }
    bool move(uint32_t op, void *local, void *remote, uint64_t address, uint64_t length) {
        return initiator.post_to(from, op, local, remote, address, length) && settle() &&
               initiator.statuses.back() == TENT_OK;
    }
    void close() {
        for (int i = 0; from != nullptr && i < 1000; i++) {
            if (shm()->endpoint_close(initiator.instance, from) == TENT_OK) from = nullptr;
            initiator.poll();
        }
        for (int i = 0; to != nullptr && i < 1000; i++)
            if (shm()->endpoint_retire(target.instance, to) == TENT_OK) to = nullptr;
    }
};

// ---- ends of a socket that say what a test wants ----------------------------------------------

inline int raw_connect(const std::string &path) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    if (path.size() >= sizeof name.sun_path) return -1;
    memcpy(name.sun_path, path.c_str(), path.size() + 1);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (connect(fd, reinterpret_cast<sockaddr *>(&name), sizeof name) == 0) return fd;
    const int error = errno;
    close(fd);
    errno = error;
    return -1;
}

// A hostile initiator: it has the answer of a real target, and speaks for itself.
struct Visitor {
    Pair pair;
    tent::shm::Answer answer{};
    int fd = -1;

    explicit Visitor(const Given &targets = {}) : pair({}, targets) {
        if (pair.make_offer() != TENT_OK || pair.accept() != TENT_OK) abort();
        memcpy(&answer, pair.answer.data(), sizeof answer);
        fd = raw_connect(answer.path);
    }
    ~Visitor() { hang_up(); }
    void hang_up() {
        if (fd >= 0) ::close(fd);
        fd = -1;
    }
    tent::shm::Hello hello() const {
        tent::shm::Hello made =
            tent::shm::message_make<tent::shm::Hello>(tent::shm::MessageType::HELLO);
        made.version = tent::shm::VERSION;
        made.endpoint = answer.endpoint;
        memcpy(made.secret, answer.secret, sizeof made.secret);
        return made;
    }
    template <class T>
    bool say(const T &message, const std::vector<int> &fds = {}) {
        return tent::shm::message_send(fd, message, fds.data(),
                                       static_cast<uint32_t>(fds.size())) == 0;
    }
    // The target's next message of that kind; false: it said something else, or hung up.
    template <class T>
    bool hear(tent::shm::MessageType type, uint32_t fds, T *out) {
        tent::shm::Message message;
        for (int i = 0; i < 1000; i++) {
            pair.target.poll();
            int error = 0;
            const auto received = tent::shm::message_receive(fd, &message, &error);
            if (received == tent::shm::Received::MESSAGE) return message.read(type, fds, out);
            if (received == tent::shm::Received::BROKEN) return false;
        }
        return false;
    }
    bool shown_out() {
        tent::shm::Message message;
        int error = 0;
        for (int i = 0; i < 1000; i++) {
            pair.target.poll();
            if (tent::shm::message_receive(fd, &message, &error) == tent::shm::Received::BROKEN)
                return true;
        }
        return false;
    }
    // Past the handshake.
    bool welcomed() {
        tent::shm::Welcome welcome{};
        return say(hello()) && hear(tent::shm::MessageType::WELCOME, 2, &welcome) &&
               welcome.status == TENT_OK;
    }
    int32_t state() const { return pair.target.host.state_of(Pair::TARGET); }
    // Lets the target look, until its core has heard of the endpoint.
    int32_t settled() {
        for (int i = 0; i < 1000 && state() == TENT_IN_PROGRESS; i++)
            pair.target.poll();
        return state();
    }
};

// A hostile target: a real initiator, the side, connects to it.
struct Host {
    Folder &folder;
    Side &side;
    void *endpoint = nullptr;
    std::string path;
    int listen_fd = -1, fd = -1;
    tent::shm::Answer answer{};
    Memory board{sizeof(tent::shm::Board)}, table{sizeof(tent::shm::RegionTable)};
    std::vector<void *> remotes;

    Host(Folder &own_folder, Side &own_side) : folder(own_folder), side(own_side) {
        using namespace tent::shm;
        path = folder.path + "/host";
        sockaddr_un name{};
        name.sun_family = AF_UNIX;
        memcpy(name.sun_path, path.c_str(), path.size() + 1);
        listen_fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (bind(listen_fd, reinterpret_cast<sockaddr *>(&name), sizeof name) != 0 ||
            listen(listen_fd, 1) != 0)
            abort();
        char offer[TENT_OFFER_MAX];
        uint32_t size = sizeof offer;
        const tent_endpoint_params params = side.params(1, true, "", "", nullptr, 0);
        shm()->endpoint_offer(side.instance, &params, &endpoint, offer, &size);
        memcpy(&answer.target, offer, sizeof answer.target);
        memset(answer.target.instance, 7, sizeof answer.target.instance);
        answer.endpoint = 5;
        memcpy(answer.path, path.c_str(), path.size() + 1);
        new (board.data) Board;
        reinterpret_cast<Board *>(board.data)->size = sizeof(Board);
        auto *regions = reinterpret_cast<RegionTable *>(table.data);
        regions->magic = TABLE_MAGIC;
        regions->size = sizeof(RegionTable);
    }
    ~Host() {
        for (int i = 0; endpoint != nullptr && i < 1000; i++) {
            if (shm()->endpoint_close(side.instance, endpoint) == TENT_OK) endpoint = nullptr;
            side.poll();
        }
        for (void *remote : remotes)
            shm()->segment_forget(side.instance, remote);
        unlink(path.c_str());
        for (const int open : {listen_fd, fd})
            if (open >= 0) ::close(open);
    }
    Host(const Host &) = delete;
    Host &operator=(const Host &) = delete;

    tent::shm::Endpoint &inside() const { return *static_cast<tent::shm::Endpoint *>(endpoint); }
    int32_t connect() {
        const tent_endpoint_params params = side.params(1, true, "", "", &answer, sizeof answer);
        const int32_t status = shm()->endpoint_connect(side.instance, endpoint, &params);
        fd = accept4(listen_fd, nullptr, nullptr, SOCK_CLOEXEC);
        return status;
    }
    template <class T>
    bool say(const T &message, const std::vector<int> &fds = {}) {
        const bool sent = tent::shm::message_send(fd, message, fds.data(),
                                                  static_cast<uint32_t>(fds.size())) == 0;
        for (int i = 0; i < 4; i++)
            side.poll();
        return sent;
    }
    tent::shm::Welcome welcome() const {
        tent::shm::Welcome made =
            tent::shm::message_make<tent::shm::Welcome>(tent::shm::MessageType::WELCOME);
        made.proof_address = at(side.inside().proof);
        memcpy(made.proof, side.inside().proof, sizeof made.proof);
        return made;
    }
    bool connected() { return connect() == TENT_OK && say(welcome(), {board.fd, table.fd}); }
    tent::shm::Export about(const void *address, uint64_t length) const {
        tent::shm::Export made{};
        made.magic = tent::shm::MAGIC;
        made.version = tent::shm::VERSION;
        memcpy(made.instance, answer.target.instance, sizeof made.instance);
        made.slot = 3;
        made.generation = 1;
        made.address = at(address);
        made.length = length;
        made.mappable = 1;
        return made;
    }
    // A region of ours that the initiator then asks for.
    tent::shm::RemoteRegion *tell(const void *address, uint64_t length) {
        const tent::shm::Export made = about(address, length);
        std::vector<char> bytes(sizeof made);
        memcpy(bytes.data(), &made, sizeof made);
        remotes.push_back(side.imported(bytes));
        shm()->endpoint_region(side.instance, endpoint, remotes.back());
        return static_cast<tent::shm::RemoteRegion *>(remotes.back());
    }
    tent::shm::Give give(const Memory &memory) const {
        tent::shm::Give made =
            tent::shm::message_make<tent::shm::Give>(tent::shm::MessageType::GIVE);
        made.slot = 3;
        made.generation = 1;
        made.access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
        made.address = at(memory.data);
        made.length = memory.size;
        return made;
    }
    int32_t state() const { return side.host.state_of(1); }
    std::string about(void *remote) { return side.about(endpoint, remote); }
};

// One with an initiator of its own.
struct Engine {
    Folder own_folder;
    Side own_side{own_folder};
};
struct LoneHost : private Engine, Host {
    LoneHost() : Host(own_folder, own_side) {}
};

}  // namespace shm_pair

#endif
