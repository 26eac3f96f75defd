// The helper threads of an engine: they call work() of transports whose bytes the processor moves,
// beside the thread that drives the engine.
//
// Leans on base/futex and plugin.h. They start with the first transport that offers work(), sleep
// while there is none, and never touch anything of the engine: what they do is the plugin's, by its
// contract. Thread-safety: ready by any thread; the rest by the holder of the driver token.
#pragma once

#include <tent/plugin.h>

#include <array>
#include <atomic>
#include <thread>
#include <vector>

#include "core/limits.h"

namespace tent {

class Crew {
  public:
    ~Crew() { stop(); }
    // At most this many threads, when they are needed.
    void init(uint32_t count) { count_ = count; }
    uint32_t count() const { return count_; }
    // From here on until stop the helpers serve the instance. False: no room or no thread; its work
    // is then done by whoever drives.
    bool join(const tent_plugin &table, void *instance);
    // Wakes up to `count` helpers. A system call only when one sleeps.
    void ready(uint32_t count);
    // Ends the threads; none is inside work() afterwards.
    void stop();

  private:
    struct Member {
        uint32_t (*work)(void *, uint32_t);
        void *instance;
    };
    bool start();
    void run(uint32_t helper);
    bool work_once(uint32_t helper);

    uint32_t count_ = 0;
    std::array<Member, CREW_TRANSPORTS_MAX> members_{};
    std::atomic<uint32_t> member_count_{0};  // release: the members before it are complete
    std::vector<std::thread> threads_;
    std::atomic<bool> stop_{false};
    alignas(64) std::atomic<uint32_t> calls_{0};  // futex: bumped by ready
    std::atomic<uint32_t> sleepers_{0};
};

}  // namespace tent
