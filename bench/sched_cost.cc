// What one scheduling decision costs: pick + charge + settle over rails whose windows are full but
// for one, as in a saturated engine. Prints ns per slice, one JSON object. Leans on csrc/sched
// alone. Must never leave out work the engine does per slice: estimates are learned, time passes.
#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <vector>

#include "sched/pick.h"

using namespace tent;

namespace {

constexpr uint64_t SLICE = 64 * KIB;
constexpr uint64_t LATENCY_NS = 5000;

struct Rail {
    Path path;
    Lane local, remote;
    uint64_t free_ns = 0;
};

struct Posted {
    uint32_t rail;
    uint64_t posted_ns, done_ns;
};

// Rails of 25 GB/s and 5 us; completions come in the order of posts, as equal rails give them.
double run(size_t rails, size_t slices) {
    Parameters parameters;
    std::vector<std::unique_ptr<Rail>> owned;
    std::vector<Choice> choices;
    for (size_t i = 0; i < rails; i++) {
        owned.push_back(std::make_unique<Rail>());
        Rail &rail = *owned.back();
        rail.local.rate.init(25 * NS_PER_S, 1);
        rail.remote.rate.init(25 * NS_PER_S, 1);
        rail.path.init(rail.local, rail.remote, 25 * NS_PER_S, 1);
        rail.path.ready = true;
        choices.push_back({&rail.path, 1, 1});
    }
    std::vector<Posted> ring(4096);
    size_t head = 0, tail = 0, bound = 0;
    uint64_t now_ns = 1000000;
    auto begin = std::chrono::steady_clock::now();
    while (bound < slices) {
        PickQuery query{SLICE, SLICE, 1 << 30, 1 << 30, now_ns, false, false};
        Picked picked = pick_predictive(choices, query, parameters);
        if (picked.index >= 0) {
            Rail &rail = *owned[static_cast<size_t>(picked.index)];
            rail.path.charge(picked.size, now_ns, false);
            rail.free_ns = std::max(rail.free_ns, now_ns) + SLICE / 25;
            ring[tail++ % 4096] = {static_cast<uint32_t>(picked.index), now_ns,
                                   rail.free_ns + LATENCY_NS};
            bound++;
            if (tail - head < rails * 3) continue;  // fill the windows first
        }
        const Posted &done = ring[head++ % 4096];
        now_ns = std::max(now_ns, done.done_ns);
        Path &path = owned[done.rail]->path;
        path.release(SLICE, false);
        path.complete(SLICE, done.posted_ns, now_ns, parameters);
    }
    std::chrono::duration<double, std::nano> spent = std::chrono::steady_clock::now() - begin;
    return spent.count() / static_cast<double>(slices);
}

}  // namespace

int main(int argc, char **argv) {
    size_t rails = argc > 1 ? strtoul(argv[1], nullptr, 10) : 8;
    double best = 1e9, worst = 0;
    std::vector<double> all;
    for (int round = 0; round < 9; round++)
        all.push_back(run(rails, 500000));
    std::sort(all.begin(), all.end());
    best = all.front();
    worst = all.back();
    printf(
        "{\"rails\": %zu, \"ns_per_slice_min\": %.1f, \"ns_per_slice_median\": %.1f, "
        "\"ns_per_slice_max\": %.1f}\n",
        rails, best, all[all.size() / 2], worst);
}
