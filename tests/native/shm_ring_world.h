// Both halves of one ring in one process, without the handshake: for tests of the ring itself.
//
// Leans on fake_host.h and the inside of plugins/shm. The initiator's half has a mapping of its
// own, as it has in life; share_mapping() joins the two for a sanitizer that knows memory by its
// address.
#ifndef TENT_TESTS_SHM_RING_WORLD_H
#define TENT_TESTS_SHM_RING_WORLD_H

#include <tent/plugin.h>
#include <unistd.h>

#include <cstdint>
#include <string>
#include <vector>

#include "fake_host.h"
#include "plugins/shm/jobs.h"
#include "plugins/shm/ring_layout.h"

namespace shm_ring {

constexpr uint32_t CHUNK_SIZE = 4096, CHUNK_COUNT = 8;
constexpr uint32_t SLICES_MAX = 2 * tent::shm::RING_SLICES_MAX;

// What post was given and what poll has returned, by slice id.
struct Log {
    std::vector<int32_t> statuses;  // TENT_IN_PROGRESS: not returned
    uint32_t returned = 0, returned_twice = 0;
};

struct World {
    fake::Host initiator_host, target_host;
    tent::shm::Instance initiator, target;
    tent::shm::Endpoint from, to;  // the initiator's, the target's
    std::string sentence;          // why there is no ring
    Log log;

    explicit World(uint32_t chunk_size = CHUNK_SIZE, uint32_t chunk_count = CHUNK_COUNT) {
        set_up(initiator, initiator_host, from);
        set_up(target, target_host, to);
        from.initiator = true;
        from.number = 1;
        to.number = 2;
        to.grant = 7;
        int fd = -1;
        to.ring_target = tent::shm::ring_target_make(to, chunk_size, chunk_count, &fd, &sentence);
        if (to.ring_target == nullptr) return;
        from.ring = tent::shm::ring_map(from, fd, chunk_size, chunk_count, &sentence);
        close(fd);
    }
    ~World() {
        // Whose memory it is: see share_mapping.
        if (from.ring != nullptr && to.ring_target != nullptr &&
            from.ring->shared == to.ring_target->shared)
            to.ring_target->shared = nullptr;
        tent::shm::ring_free(from.ring);
        tent::shm::ring_target_free(to.ring_target);
        tent::shm::jobs_free(initiator.jobs);
        tent::shm::jobs_free(target.jobs);
    }
    World(const World &) = delete;
    World &operator=(const World &) = delete;

    static void set_up(tent::shm::Instance &instance, const fake::Host &host,
                       tent::shm::Endpoint &endpoint) {
        instance.host = &host.table;
        instance.options.nontemporal_min = 256 << 10;
        instance.options.prefault = false;  // a fuzz target makes thousands of worlds
        instance.slices_max = SLICES_MAX;
        instance.jobs = tent::shm::jobs_make(SLICES_MAX, 0);
        endpoint.instance = &instance;
        endpoint.state = tent::shm::EndpointState::READY;
    }
    bool stands() const { return from.ring != nullptr && to.ring_target != nullptr; }
    // As if the initiator had found the memory at the target's address.
    void share_mapping() {
        tent::shm::RingInitiator &ring = *from.ring;
        tent::shm::ring_memory_unmap(
            ring.shared, tent::shm::ring_memory_size(ring.chunk_size, ring.chunk_count));
        ring.shared = to.ring_target->shared;
    }
    tent::shm::RingShared &shared() const { return *to.ring_target->shared; }

    bool post(uint32_t op, void *local, const void *remote, uint64_t size, uint32_t flags = 0) {
        const tent_slice slice{log.statuses.size(),
                               op,
                               flags,
                               local,
                               reinterpret_cast<uintptr_t>(remote),
                               size,
                               nullptr,
                               nullptr};
        if (tent::shm::ring_post(from, &slice, 1) == 0) return false;
        from.posted++;
        log.statuses.push_back(TENT_IN_PROGRESS);
        return true;
    }
    void collect() {
        tent_slice_result results[64];
        for (;;) {
            const uint32_t count = tent::shm::jobs_collect(initiator, results, 64);
            if (count == 0) return;
            for (uint32_t i = 0; i < count; i++) {
                int32_t &status = log.statuses.at(results[i].id);
                log.returned_twice += status == TENT_IN_PROGRESS ? 0 : 1;
                status = results[i].status;
            }
            log.returned += count;
        }
    }
    // A turn of each side. True when something moved.
    bool step() {
        bool moved = tent::shm::ring_step(from);
        moved = tent::shm::ring_serve(to) || moved;
        moved = tent::shm::ring_step(from) || moved;
        collect();
        return moved;
    }
    // Until nothing moves. True when every slice has come back, each once.
    bool settle() {
        while (step()) {
        }
        return log.returned == log.statuses.size() && log.returned_twice == 0;
    }
    // One slice from beginning to end.
    int32_t move(uint32_t op, void *local, const void *remote, uint64_t size, uint32_t flags = 0) {
        if (!post(op, local, remote, size, flags) || !settle()) return TENT_IN_PROGRESS;
        return log.statuses.back();
    }
};

}  // namespace shm_ring

#endif
