// The end of a rail, which may take longer than the call that begins it.
//
// Leans on state.h. Driver's thread only.
#ifndef TENT_PLUGINS_RDMA_RAIL_H
#define TENT_PLUGINS_RDMA_RAIL_H

#include <atomic>
#include <string>

#include "state.h"

namespace tent::rdma {

// What the errand that registers all regions on a device that came back tells the driver.
struct Rejoin {
    Rail *rail = nullptr;
    int wake_fd = -1;
    std::string lost;       // the driver's: the device went meanwhile, and why
    bool complete = false;  // nothing was refused; else why
    std::string why;
    std::atomic<bool> done{false};
};

// A rail that is leaving: frees it when nothing hangs on it any more. True: it is gone.
bool rail_end(Rail &rail);
// A device whose endpoints lost it: closes it when nothing of the library hangs on it any more.
// True: it is closed.
bool device_leave(Rail &rail);

}  // namespace tent::rdma

#endif
