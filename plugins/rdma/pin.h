// Registering memory with devices, piece by piece and by several threads at a time, and what a
// failure means.
//
// Leans on state.h. Thread-safety: any thread; takes no lock of the instance and must not be called
// under one, for pages are pinned here.
#ifndef TENT_PLUGINS_RDMA_PIN_H
#define TENT_PLUGINS_RDMA_PIN_H

#include "state.h"

namespace tent::rdma {

// Threads that register at a time: the one that asks and errands.
constexpr uint32_t PIN_THREADS = 8;
// A region from this size on is cut, so that they have something to share (pinning goes at 1 to
// 10 GB/s a thread: less than 1 GiB is there at once).
constexpr uint64_t CUT_MIN = uint64_t{1} << 30;
constexpr uint64_t HUGE_PAGE = uint64_t{2} << 20;

// The size of a region's pieces: `wanted` (0: chosen), at most what the device registers at a time
// (size_max, 0: any), a multiple of the page size, at most PIECES_MAX pieces; the length: one.
uint64_t piece_size_choose(uint64_t length, uint64_t wanted, uint64_t size_max);

// Are keys given away as windows on that rail?
bool windows_on(const Rail &rail);

// Fills in the registrations (rail, address, length, piece_size, access and gpu are set): pieces,
// or status and why. Returns when all are done; the caller keeps their rails' PDs open.
void pin(const Instance &instance, const std::vector<Registration *> &registrations);
// Ends what is registered. False: the library refuses while something hangs on it (*error says
// what); call again.
bool unpin(Registration &registration, int *error);

// What is known where registering has failed.
struct PinFailure {
    int error = 0;  // errno
    const char *device = "";
    uint64_t length = 0;            // of the whole
    uint64_t piece_count = 1;       // that it is cut into
    uint64_t memlock = UINT64_MAX;  // RLIMIT_MEMLOCK; UINT64_MAX: none
    uint64_t pinned = 0;            // by this process already
    uint64_t size_max = 0;          // the device's limits; 0: unknown
    int mr_max = 0;
    bool gpu = false;
    bool on_demand = false;
    std::string dma_buf;  // why not that way
};
// What happened and what mends it.
std::string pin_words(const PinFailure &failure);

// dmabuf.cc: registers GPU memory as a dma-buf. nullptr: *why says what is missing.
ibv_mr *dma_buf_register(const Verbs &verbs, ibv_pd *pd, uint64_t address, uint64_t length,
                         int access, std::string *why);

}  // namespace tent::rdma

#endif
