// Options of the rdma transport: the table of them, and how values are read.
//
// Leans on <tent/plugin.h>. Must never look at the machine: it only turns text into values.
#ifndef TENT_PLUGINS_RDMA_OPTIONS_H
#define TENT_PLUGINS_RDMA_OPTIONS_H

#include <tent/plugin.h>

#include <cstddef>
#include <cstdint>

namespace tent::rdma {

// `rail N rdma mlx5_0 gid=3`; all but gid and pkey_index also `set rdma.traffic_class=104`, for the
// rails that do not say otherwise.
struct RailOptions {
    int32_t gid = -1;            // index in the port's table; -1: chosen (gid.cc)
    uint32_t mtu = 0;            // bytes a packet; 0: the port's
    uint32_t service_level = 0;  // InfiniBand SL
    uint32_t traffic_class = 0;  // RoCE: DSCP << 2 | ECN
    uint32_t hop_limit = 64;
    uint32_t queue_pairs = 2;  // per endpoint
    uint32_t pkey_index = 0;
};

// `set rdma.strict=yes`
struct Options {
    RailOptions rail;        // of rails that say nothing
    bool strict = false;     // a region that cannot be registered on every rail is refused
    bool windows = true;     // a key per (queue pair, piece) where the device can
    bool on_demand = false;  // ODP: pages are not pinned
    bool dma_buf = true;     // GPU memory by dma-buf, else by the peer memory module
    bool relaxed_ordering = false;
    uint64_t piece_size = 0;    // bytes of the largest registration; 0: as the device allows, and
                                // small enough for several threads
    uint32_t send_depth = 256;  // work requests of a queue pair
    uint32_t inline_max = 220;  // bytes of a write that go inside the work request
    uint32_t signal_interval = 16;   // every so manieth small request at least is signalled
    uint64_t signal_min = 64 << 10;  // slices from so many bytes on are always
    uint32_t ack_timeout = 14;       // t: 4.096 us * 2^t
    uint32_t retry_count = 7;
    uint32_t rnr_retry = 7;
    uint32_t min_rnr_timer = 12;
    uint32_t rd_atomic = 16;  // READs under way on a queue pair; the device's maximum at most
    uint64_t connect_timeout_ns = 2'000'000'000;
};

// The one list: what plugin.h tells of them. Static.
extern const tent_option_info OPTION_INFOS[];
extern const uint32_t OPTION_COUNT;

// Reads one into `out`. On an unknown one or a bad value writes a sentence, returns INVALID.
int32_t option_read(const tent_option &option, Options *out, char *sentence, size_t sentence_size);
int32_t rail_option_read(const tent_option &option, RailOptions *out, char *sentence,
                         size_t sentence_size);

}  // namespace tent::rdma

#endif
