// The driver loop: virtual time for manual engines, from event to event. See sim.h.
//
// Leans on fabric.h and the two functions of libtent that its caller passes. An instant ends when
// no engine has anything left to do in it; only the engines something is due for are stepped, and
// all of them at every tick. Must never hold the fabric's lock while an engine runs.
#include <algorithm>
#include <cstddef>
#include <cstring>

#include "api.h"
#include "fabric.h"

namespace tent::sim {

namespace {

constexpr uint64_t TICK_NS = 100'000;
constexpr int STEPS_MAX = 10'000;   // of one engine in a row at one time
constexpr int ROUNDS_MAX = 10'000;  // over all engines at one time

// The engine this thread is stepping, for run_note.
struct Stepping {
    tent_engine *engine = nullptr;
    uint32_t index = 0;
};
thread_local Stepping stepping;

struct Loop {
    Fabric &fabric;
    tent_sim_run_options options{};
    std::vector<bool> due = {};
    uint32_t unfinished = 0;  // ALL: the first batch that may be

    int32_t step(uint32_t index, uint64_t now_ns);
    bool collect(uint64_t now_ns);
    void spare();
    int32_t instant(uint64_t now_ns, bool everyone);
    bool finished();
    uint64_t next_ns(uint64_t now_ns);
    int32_t run();
};

int32_t Loop::step(uint32_t index, uint64_t now_ns) {
    stepping = {options.engines[index], index};
    int32_t status = TENT_IN_PROGRESS;
    for (int i = 0; i < STEPS_MAX && status == TENT_IN_PROGRESS; i++)
        status = options.step(options.engines[index], now_ns);
    stepping = {};
    return status;
}

// Moves the fabric to now_ns and marks the engines something is due for.
bool Loop::collect(uint64_t now_ns) {
    std::lock_guard guard(fabric.mutex);
    advance(fabric, now_ns);
    bool any = false;
    for (const Instance *instance : fabric.instances) {
        if (!instance->due() || instance->still()) continue;
        if (instance->driver_index >= options.engine_count) continue;
        if (options.engines[instance->driver_index] != instance->driver) continue;
        due[instance->driver_index] = any = true;
    }
    return any;
}

// Leaves the engines of frozen and dead processes alone.
void Loop::spare() {
    std::lock_guard guard(fabric.mutex);
    for (const Instance *instance : fabric.instances)
        if (instance->still() && instance->driver_index < options.engine_count &&
            options.engines[instance->driver_index] == instance->driver)
            due[instance->driver_index] = false;
}

int32_t Loop::instant(uint64_t now_ns, bool everyone) {
    collect(now_ns);
    if (everyone) {
        std::fill(due.begin(), due.end(), true);
        spare();
    }
    for (int round = 0; round < ROUNDS_MAX; round++) {
        for (uint32_t i = 0; i < options.engine_count; i++) {
            if (!due[i]) continue;
            due[i] = false;
            const int32_t status = step(i, now_ns);
            if (status < 0)
                return fail(status, "stepping engine %u at %llu ns failed with status %d", i,
                            static_cast<unsigned long long>(now_ns), status);
        }
        if (!collect(now_ns)) break;
    }
    return TENT_OK;
}

bool Loop::finished() {
    const auto terminal = [&](const tent_sim_batch &item) {
        return options.poll(item.engine, item.batch) != TENT_IN_PROGRESS;
    };
    const tent_sim_batch *end = options.batches + options.batch_count;
    if (options.mode == TENT_SIM_ANY) return std::any_of(options.batches, end, terminal);
    while (unfinished < options.batch_count && terminal(options.batches[unfinished]))
        unfinished++;
    return unfinished == options.batch_count;
}

uint64_t Loop::next_ns(uint64_t now_ns) {
    std::lock_guard guard(fabric.mutex);
    const uint64_t event_ns = fabric.heap.empty() ? NEVER : fabric.heap.front().time_ns;
    return std::max(event_ns, now_ns);
}

int32_t Loop::run() {
    due.assign(options.engine_count, true);
    uint64_t now_ns = tent_sim_now_ns(handle_of(&fabric));
    uint64_t tick_ns = now_ns;
    for (;;) {
        // A step may have moved the clock on: a blocking call of a manual engine does.
        now_ns = std::max(now_ns, tent_sim_now_ns(handle_of(&fabric)));
        const bool everyone = now_ns >= tick_ns;
        const int32_t status = instant(now_ns, everyone);
        if (status != TENT_OK) return status;
        if (everyone) tick_ns = now_ns + std::min(options.tick_ns, NEVER - now_ns);
        if (options.batch_count > 0 && finished()) return TENT_OK;
        if (now_ns >= options.until_ns) break;
        // Past the rounds of one instant time goes on, even where it would stand still.
        const uint64_t event_ns = std::max(next_ns(now_ns), now_ns + 1);
        now_ns = std::min({event_ns, tick_ns, options.until_ns});
    }
    if (options.batch_count == 0) return TENT_OK;
    return fail(TENT_E_TIMEOUT, "at %llu ns the batches were not as wanted",
                static_cast<unsigned long long>(now_ns));
}

}  // namespace

void run_note(Instance &instance) {
    if (stepping.engine == nullptr) return;
    instance.driver = stepping.engine;
    instance.driver_index = stepping.index;
}

}  // namespace tent::sim

using namespace tent::sim;

int32_t tent_sim_run(tent_sim *sim, const tent_sim_run_options *given) {
    if (sim == nullptr || given == nullptr || given->size < offsetof(tent_sim_run_options, tick_ns))
        return fail(TENT_E_INVALID, "a fabric and options are needed, with their size set");
    Loop loop{fabric_of(sim)};
    tent_sim_run_options &options = loop.options;
    memcpy(&options, given, std::min<size_t>(given->size, sizeof options));
    if (options.step == nullptr || (options.engine_count > 0 && options.engines == nullptr))
        return fail(TENT_E_INVALID, "step and the engines are needed");
    if (options.batch_count > 0 && (options.poll == nullptr || options.batches == nullptr))
        return fail(TENT_E_INVALID, "poll and the batches are needed");
    if (options.mode > TENT_SIM_ANY)
        return fail(TENT_E_INVALID, "mode %u is neither TENT_SIM_ALL nor TENT_SIM_ANY",
                    options.mode);
    if (options.batch_count == 0 && options.until_ns == NEVER)
        return fail(TENT_E_INVALID, "without batches an end is needed: until_ns");
    if (options.tick_ns == 0) options.tick_ns = TICK_NS;
    try {
        return loop.run();
    } catch (...) {
        return fail(TENT_E_NO_MEMORY, "no memory to run the fabric");
    }
}
