// See errands.h.
#include "core/errands.h"

#include <pthread.h>

#include "core/limits.h"

namespace tent {

// Is there a thread for one errand more than are waiting? Locked.
bool Errands::staffed() {
    if (!threads_allowed_) return false;
    if (idle_ > waiting_.size() || threads_.size() >= ERRANDS_MAX) return true;
    try {
        threads_.emplace_back([this] { serve(); });
        pthread_setname_np(threads_.back().native_handle(), "tent-errand");
    } catch (...) {
        return !threads_.empty();  // the system refuses more
    }
    return true;
}

void Errands::run(void (*body)(void *), void *argument) {
    {
        std::lock_guard<std::mutex> lock(mutex_);
        if (staffed()) {
            waiting_.push_back({body, argument});
            given_.notify_one();
            return;
        }
    }
    body(argument);
}

void Errands::serve() {
    std::unique_lock<std::mutex> lock(mutex_);
    for (;;) {
        idle_++;
        given_.wait(lock, [&] { return stop_ || !waiting_.empty(); });
        idle_--;
        if (waiting_.empty()) return;
        const Errand errand = waiting_.front();
        waiting_.pop_front();
        running_++;
        lock.unlock();
        errand.body(errand.argument);
        lock.lock();
        running_--;
        if (waiting_.empty() && running_ == 0) ended_.notify_all();
    }
}

void Errands::drain() {
    std::unique_lock<std::mutex> lock(mutex_);
    ended_.wait(lock, [&] { return waiting_.empty() && running_ == 0; });
}

void Errands::stop() {
    drain();
    {
        std::lock_guard<std::mutex> lock(mutex_);
        stop_ = true;
        given_.notify_all();
    }
    for (std::thread &thread : threads_)
        thread.join();
    threads_.clear();
}

}  // namespace tent
