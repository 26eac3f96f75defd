// See faults.h.
#include "faults.h"

#include <atomic>
#include <cstring>

#include "fault.h"

namespace tent::fault {
namespace {

struct About {
    const char *name;
    Operation operation;
    bool on_rail;
};

constexpr About ABOUT[FAILURE_COUNT] = {
    {"open", Operation::OPEN, false},
    {"rail_open", Operation::RAIL_OPEN, true},
    {"region_register", Operation::REGION_REGISTER, false},
    {"region_export", Operation::REGION_EXPORT, false},
    {"region_release", Operation::REGION_RELEASE, false},
    {"segment_import", Operation::SEGMENT_IMPORT, false},
    {"endpoint_offer", Operation::ENDPOINT_OFFER, true},
    {"endpoint_accept", Operation::ENDPOINT_ACCEPT, true},
    {"endpoint_connect", Operation::ENDPOINT_CONNECT, true},
    {"endpoint_adopt", Operation::ENDPOINT_ADOPT, true},
    {"endpoint_close", Operation::ENDPOINT_CLOSE, true},
    {"endpoint_retire", Operation::ENDPOINT_RETIRE, true},
    {"post", Operation::POST, true},
    {"slice", Operation::SLICE, true},
    {"stream_listen", Operation::STREAM_LISTEN, false},
    {"stream_connect", Operation::STREAM_CONNECT, false},
    {"stream_accept", Operation::STREAM_ACCEPT, false},
    {"stream_send", Operation::STREAM_SEND, false},
    {"stream_receive", Operation::STREAM_RECEIVE, false},
    {"full", Operation::POST, true},
    {"partial", Operation::POST, true},
    {"drop", Operation::SLICE, true},
    {"drop_result", Operation::SLICE, true},
    {"corrupt", Operation::SLICE, true},
    {"any", Operation::OPEN, true},
};

// Relaxed: figures for tests, each of its own.
std::atomic<uint64_t> asked[OPERATION_COUNT];
std::atomic<uint64_t> struck[FAILURE_COUNT];

const About &about(Failure failure) {
    return ABOUT[static_cast<uint32_t>(failure)];
}

bool by_count(const Faults &faults, Rule &rule, uint64_t number, uint64_t now_ns) {
    if (number < rule.number) return false;
    if (number == rule.number || faults.fail_for_ns == UINT64_MAX) {
        if (rule.until_ns == 0) rule.until_ns = now_ns + faults.fail_for_ns;
        return true;
    }
    // Operations are counted once they have happened, so several may be asked about at the number.
    return now_ns < rule.until_ns;
}

bool by_chance(Faults &faults, const Rule &rule, uint64_t now_ns) {
    const uint64_t since_ns = now_ns - faults.start_ns;
    if (since_ns < rule.begin_ns || since_ns >= rule.end_ns || rule.chance == 0) return false;
    return rule.chance >= CHANCE_ONE || random_next(&faults.random) % CHANCE_ONE < rule.chance;
}

}  // namespace

Operation operation_of(Failure failure) {
    return about(failure).operation;
}

const char *name_of(Failure failure) {
    return about(failure).name;
}

Failure failure_named(const char *name, uint32_t name_size) {
    for (uint32_t i = 0; i < FAILURE_COUNT; ++i) {
        if (strlen(ABOUT[i].name) == name_size && memcmp(ABOUT[i].name, name, name_size) == 0)
            return static_cast<Failure>(i);
    }
    return Failure::NONE;
}

bool on_rail(Failure failure) {
    return about(failure).on_rail;
}

uint64_t random_next(uint64_t *state) {
    uint64_t value = *state += 0x9e3779b97f4a7c15u;
    value = (value ^ (value >> 30)) * 0xbf58476d1ce4e5b9u;
    value = (value ^ (value >> 27)) * 0x94d049bb133111ebu;
    return value ^ (value >> 31);
}

Failure strike(Faults &faults, Operation operation, uint64_t now_ns, bool *told) {
    const uint64_t number = ++faults.counts[static_cast<uint32_t>(operation)];
    ++faults.count_any;
    for (uint32_t i = 0; i < faults.rule_count; ++i) {
        Rule &rule = faults.rules[i];
        const bool any = rule.failure == Failure::ANY;
        if (rule.failure == Failure::DROP || (!any && operation_of(rule.failure) != operation))
            continue;
        if (rule.by_count ? !by_count(faults, rule, any ? faults.count_any : number, now_ns)
                          : !by_chance(faults, rule, now_ns))
            continue;
        *told = rule.by_count && !rule.told;
        rule.told = true;
        return any ? failure_of(operation) : rule.failure;
    }
    return Failure::NONE;
}

bool will_drop(Faults &faults, uint32_t ahead, uint64_t now_ns) {
    for (uint32_t i = 0; i < faults.rule_count; ++i) {
        Rule &rule = faults.rules[i];
        if (rule.failure != Failure::DROP) continue;
        const uint64_t number = faults.counts[static_cast<uint32_t>(Operation::SLICE)] + ahead + 1;
        if (rule.by_count ? by_count(faults, rule, number, now_ns)
                          : by_chance(faults, rule, now_ns))
            return true;
    }
    return false;
}

void figures_count(Operation operation) {
    asked[static_cast<uint32_t>(operation)].fetch_add(1, std::memory_order_relaxed);
}

void figures_strike(Failure failure, Operation operation) {
    struck[static_cast<uint32_t>(failure)].fetch_add(1, std::memory_order_relaxed);
    if (failure != failure_of(operation))
        struck[static_cast<uint32_t>(operation)].fetch_add(1, std::memory_order_relaxed);
}

}  // namespace tent::fault

using namespace tent::fault;

const char *tent_fault_name(uint32_t index) {
    return index < FAILURE_COUNT ? ABOUT[index].name : nullptr;
}

uint64_t tent_fault_operations(const char *name) {
    const Failure failure = failure_named(name, static_cast<uint32_t>(strlen(name)));
    if (failure == Failure::NONE) return 0;
    if (failure != Failure::ANY)
        return asked[static_cast<uint32_t>(operation_of(failure))].load(std::memory_order_relaxed);
    uint64_t sum = 0;
    for (const auto &figure : asked)
        sum += figure.load(std::memory_order_relaxed);
    return sum;
}

uint64_t tent_fault_strikes(const char *name) {
    const Failure failure = failure_named(name, static_cast<uint32_t>(strlen(name)));
    if (failure == Failure::NONE) return 0;
    if (failure != Failure::ANY)
        return struck[static_cast<uint32_t>(failure)].load(std::memory_order_relaxed);
    uint64_t sum = 0;
    for (uint32_t i = 0; i < OPERATION_COUNT; ++i)
        sum += struck[i].load(std::memory_order_relaxed);
    return sum;
}
