// Threads for what blocks: a plugin's errands (host->errand), apart from the thread that drives.
//
// Leans on plugin.h's contract alone. Threads are made when an errand finds none idle, at most
// ERRANDS_MAX, and stay until stop. An errand touches nothing of the engine. Thread-safety: every
// function by any thread, but for stop.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

namespace tent {

class Errands {
  public:
    ~Errands() { stop(); }
    // Without threads each errand runs at once, in run.
    void init(bool threads) { threads_allowed_ = threads; }
    // Calls body(argument) once, soon; where the system refuses a thread, before it returns.
    void run(void (*body)(void *), void *argument);
    // Returns when none is left that was given before.
    void drain();
    // Drains, and ends the threads.
    void stop();

  private:
    struct Errand {
        void (*body)(void *);
        void *argument;
    };
    bool staffed();
    void serve();

    std::mutex mutex_;
    std::condition_variable given_, ended_;
    std::deque<Errand> waiting_;
    std::vector<std::thread> threads_;
    uint32_t idle_ = 0, running_ = 0;
    bool threads_allowed_ = true, stop_ = false;
};

}  // namespace tent
