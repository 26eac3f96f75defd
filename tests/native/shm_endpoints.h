// Hand-made endpoints of the shm transport for tests of its data path: board, table and mapping as
// the handshake leaves them, without a handshake. Initiator and target are one process, so a peer's
// memory is found under its own address, mapped or by attach.
//
// Leans on fake_host.h and the plugin's inside.
#ifndef TENT_TESTS_SHM_ENDPOINTS_H
#define TENT_TESTS_SHM_ENDPOINTS_H

#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <semaphore>
#include <thread>
#include <vector>

#include "check.h"
#include "fake_host.h"
#include "plugins/shm/jobs.h"

namespace shm_test {

using namespace tent::shm;

constexpr uint64_t KIB = 1024, MIB = 1024 * KIB;
constexpr uint32_t PLACE = 5, GENERATION = 41;  // of a region, in the table

inline uint64_t address_of(const void *memory) {
    return reinterpret_cast<uintptr_t>(memory);
}

// The peer's side of an endpoint.
struct Peer {
    std::unique_ptr<Board> board = std::make_unique<Board>();
    std::unique_ptr<RegionTable> table = std::make_unique<RegionTable>();
    Endpoint endpoint;
    int sockets[2] = {-1, -1};

    Peer(Instance &instance, uint64_t number) {
        endpoint.instance = &instance;
        endpoint.number = number;
        endpoint.initiator = true;
        endpoint.state = EndpointState::READY;
        endpoint.board = board.get();
        endpoint.table = table.get();
        endpoint.fallback = ATTACH;
        memset(endpoint.peer.instance, 7, sizeof endpoint.peer.instance);
        socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sockets);
        endpoint.fd = sockets[0];
        names(getpid());
        table->generations[PLACE] = GENERATION;
    }
    ~Peer() {
        for (int fd : {sockets[0], sockets[1], endpoint.pid_fd})
            if (fd >= 0) close(fd);
    }
    Peer(const Peer &) = delete;
    Peer &operator=(const Peer &) = delete;

    void names(pid_t pid) {
        if (endpoint.pid_fd >= 0) close(endpoint.pid_fd);
        endpoint.pid = pid;
        endpoint.pid_fd = static_cast<int>(syscall(SYS_pidfd_open, pid, 0));
    }
    std::unique_ptr<RemoteRegion> region(const void *memory, uint64_t length, bool mapped,
                                         uint32_t access = TENT_ACCESS_READ | TENT_ACCESS_WRITE) {
        auto made = std::make_unique<RemoteRegion>();
        memcpy(made->about.instance, endpoint.peer.instance, sizeof made->about.instance);
        made->about.slot = PLACE;
        made->about.generation = GENERATION;
        made->about.address = address_of(memory);
        made->about.length = length;
        if (mapped) made->base = static_cast<char *>(const_cast<void *>(memory));
        made->access = access;
        return made;
    }
};

// An instance with its jobs and helpers: threads that sleep until work_ready wakes them.
struct Engine {
    fake::Host host;
    Instance instance;
    std::counting_semaphore<> calls{0};
    std::atomic<bool> ending{false};
    std::atomic<uint32_t> called{0};
    std::vector<std::thread> threads;
    std::vector<int32_t> statuses;  // by slice id; TENT_IN_PROGRESS: not returned yet
    uint32_t returned = 0, returned_twice = 0;

    // helpers: that jobs know of; started: of which are threads. The rest is called by the test.
    Engine(uint32_t slices_max, uint32_t helpers, uint32_t started) {
        host.table.ctx = this;
        host.table.work_ready = [](void *ctx, uint32_t count) {
            static_cast<Engine *>(ctx)->called += count;
            static_cast<Engine *>(ctx)->calls.release(count);
        };
        instance.host = &host.table;
        instance.jobs = jobs_make(slices_max, helpers);
        for (uint32_t helper = 0; helper < started; helper++)
            threads.emplace_back([this, helper] { help(helper); });
    }
    ~Engine() {
        ending = true;
        calls.release(static_cast<ptrdiff_t>(threads.size()));
        for (std::thread &thread : threads)
            thread.join();
        jobs_free(instance.jobs);
    }
    Engine(const Engine &) = delete;
    Engine &operator=(const Engine &) = delete;

    void help(uint32_t helper) {
        for (;;) {
            calls.acquire();
            if (ending) return;
            while (jobs_work(instance, helper) != 0)
                continue;
        }
    }
    // Posts one slice under the next free id; false when there is no room.
    bool post(Peer &peer, uint32_t op, void *local, const void *remote, uint64_t length,
              RemoteRegion &region, uint32_t flags = 0) {
        const tent_slice slice{statuses.size(),    op,     flags,   local,
                               address_of(remote), length, nullptr, &region};
        return post_slices(peer, &slice, 1) == 1;
    }
    // Their ids are to be the next ones.
    uint32_t post_slices(Peer &peer, const tent_slice *slices, uint32_t count) {
        const uint32_t taken = jobs_post(instance, peer.endpoint, slices, count);
        peer.endpoint.posted += taken;
        statuses.resize(statuses.size() + taken, TENT_IN_PROGRESS);
        return taken;
    }
    uint32_t collect(uint32_t room = 64) {
        tent_slice_result results[64];
        const uint32_t count = jobs_collect(instance, results, room < 64 ? room : 64);
        for (uint32_t i = 0; i < count; i++) {
            int32_t &status = statuses.at(results[i].id);
            returned_twice += status == TENT_IN_PROGRESS ? 0 : 1;
            status = results[i].status;
        }
        returned += count;
        return count;
    }
    // Drives until everything posted has come back.
    void settle() {
        while (jobs_left(instance)) {
            const bool ran = jobs_run(instance);
            if (collect() == 0 && !ran) std::this_thread::yield();
        }
    }
};

}  // namespace shm_test

#endif
