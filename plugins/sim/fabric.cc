// The clock, chance and the registry of fabrics. See fabric.h.
#include "fabric.h"

#include <algorithm>
#include <cstring>

namespace tent::sim {

namespace {

struct Registry {
    std::mutex mutex;
    std::vector<std::unique_ptr<Fabric>> fabrics;
    uint64_t named = 0;  // by itself, so far
};

// Lives as long as the process: engines may outlive static destruction.
Registry &registry() {
    static Registry *const made = new Registry;
    return *made;
}

Fabric *find_locked(const Registry &all, const std::string &name) {
    for (const auto &fabric : all.fabrics)
        if (fabric->name == name) return fabric.get();
    return nullptr;
}

bool later(const Event &a, const Event &b) {
    return a.time_ns != b.time_ns ? a.time_ns > b.time_ns : a.sequence > b.sequence;
}

void happen(Fabric &fabric, const Event &event) {
    auto &slice = *static_cast<Slice *>(event.what);
    switch (event.type) {
        case EventType::ServerEnd:
            server_end(fabric, *static_cast<Server *>(event.what), event.generation);
            return;
        case EventType::Arrive: slice_arrives(fabric, slice); break;
        case EventType::Land: slice_lands(fabric, slice); break;
        case EventType::Request: slice_requested(fabric, slice); break;
        case EventType::Ack: slice_acknowledged(fabric, slice); break;
        case EventType::Setup: endpoint_setup(fabric, *static_cast<Endpoint *>(event.what)); return;
        case EventType::LinkDetect:
            endpoint_link_detected(fabric, *static_cast<Endpoint *>(event.what));
            return;
        case EventType::RailDetect:
            rail_detected(fabric, *static_cast<Rail *>(event.what), event.generation);
            return;
        case EventType::StreamConnect:
            stream_connected(fabric, *static_cast<Stream *>(event.what));
            return;
        case EventType::StreamDeliver:
            stream_delivered(fabric, *static_cast<Stream *>(event.what));
            return;
        case EventType::StreamBreak:
            stream_break(fabric, *static_cast<Stream *>(event.what), event.generation);
            return;
    }
    slice_release(fabric, slice);  // the event's own reference
}

uint64_t rotate(uint64_t x, int k) {
    return (x << k) | (x >> (64 - k));
}

}  // namespace

Fabric::~Fabric() {
    while (endpoints != nullptr)
        delete std::exchange(endpoints, endpoints->next);
}

bool name_good(const char *name) {
    const size_t size = strlen(name);
    const char *good = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_.-";
    return size > 0 && size <= TENT_SIM_NAME_MAX && strspn(name, good) == size;
}

Fabric *fabric_find(const std::string &name) {
    Registry &all = registry();
    std::lock_guard guard(all.mutex);
    return find_locked(all, name);
}

int32_t fabric_add(std::unique_ptr<Fabric> fabric, std::string *why) {
    Registry &all = registry();
    std::lock_guard guard(all.mutex);
    while (fabric->name.empty()) {
        std::string name = "fabric" + std::to_string(++all.named);
        if (find_locked(all, name) == nullptr) fabric->name = std::move(name);
    }
    if (find_locked(all, fabric->name) != nullptr) {
        *why = "a fabric named '" + fabric->name + "' exists in this process; take another name";
        return TENT_E_BUSY;
    }
    all.fabrics.push_back(std::move(fabric));
    return TENT_OK;
}

bool fabric_remove(Fabric *fabric) {
    Registry &all = registry();
    std::lock_guard guard(all.mutex);
    {
        std::lock_guard inner(fabric->mutex);
        if (!fabric->instances.empty()) return false;
    }
    std::erase_if(all.fabrics, [&](const auto &item) { return item.get() == fabric; });
    return true;
}

bool fabric_join(const std::string &name, Instance &instance) {
    Registry &all = registry();
    std::lock_guard guard(all.mutex);
    Fabric *fabric = find_locked(all, name);
    if (fabric == nullptr) return false;
    std::lock_guard inner(fabric->mutex);
    instance.fabric = fabric;
    fabric->instances.push_back(&instance);
    return true;
}

void random_seed(Fabric &fabric, uint64_t seed) {
    // splitmix64 (Steele, Lea, Flood 2014) fills the state: no seed gives the forbidden zeros.
    for (uint64_t &word : fabric.random) {
        seed += 0x9e3779b97f4a7c15u;
        uint64_t z = seed;
        z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
        z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
        word = z ^ (z >> 31);
    }
}

// xoshiro256** 1.0 (D. Blackman and S. Vigna, 2018; public domain, prng.di.unimi.it).
uint64_t random_u64(Fabric &fabric) {
    uint64_t (&s)[4] = fabric.random;
    const uint64_t result = rotate(s[1] * 5, 7) * 9;
    const uint64_t t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotate(s[3], 45);
    return result;
}

bool chance(Fabric &fabric, double probability) {
    if (probability <= 0) return false;
    return static_cast<double>(random_u64(fabric) >> 11) * 0x1.0p-53 < probability;
}

void event_push(Fabric &fabric, uint64_t time_ns, EventType type, void *what, uint32_t generation) {
    fabric.heap.push_back({time_ns, fabric.sequence++, what, generation, type});
    std::push_heap(fabric.heap.begin(), fabric.heap.end(), later);
}

void advance(Fabric &fabric, uint64_t now_ns) {
    while (!fabric.heap.empty() && fabric.heap.front().time_ns <= now_ns) {
        std::pop_heap(fabric.heap.begin(), fabric.heap.end(), later);
        const Event event = fabric.heap.back();
        fabric.heap.pop_back();
        // An event made by a caller whose clock lags is late, time does not run back for it.
        fabric.now_ns = std::max(fabric.now_ns, event.time_ns);
        happen(fabric, event);
    }
    fabric.now_ns = std::max(fabric.now_ns, now_ns);
}

void catch_up(Instance &instance) {
    if (!instance.dead) advance(*instance.fabric, instance.host->now_ns(instance.host->ctx));
}

void record(Fabric &fabric, uint32_t kind, const Slice &slice, int32_t status) {
    if (fabric.trace_room == 0) return;
    if (fabric.trace.size() >= fabric.trace_room) {
        fabric.trace_lost++;
        return;
    }
    const Rail &rail = *slice.from->rail;
    const Rail *peer = slice.to != nullptr ? slice.to->rail : nullptr;
    fabric.trace.push_back(
        {fabric.now_ns, slice.id, slice.wire_bytes, kind, slice.op, rail.host->index, rail.index,
         peer != nullptr ? peer->index : UINT32_MAX, status, slice.remote, slice.from->number});
}

}  // namespace tent::sim
