// What can be made to fail, and the rules that say when: by chance, by count, by schedule.
//
// The list of operations and of failures stands here once; options, sentences and the C interface
// take the names from it. Leans on <cstdint> and fault.h. Must never allocate, and never draw
// chance where no rule asks for it: what is not set must not disturb what is.
#ifndef TENT_PLUGINS_FAULT_FAULTS_H
#define TENT_PLUGINS_FAULT_FAULTS_H

#include <cstdint>

namespace tent::fault {

// Calls of the core that are counted. Each may fail.
enum class Operation : uint8_t {
    OPEN,
    RAIL_OPEN,
    REGION_REGISTER,
    REGION_EXPORT,
    REGION_RELEASE,
    SEGMENT_IMPORT,
    ENDPOINT_OFFER,
    ENDPOINT_ACCEPT,
    ENDPOINT_CONNECT,
    ENDPOINT_ADOPT,
    ENDPOINT_CLOSE,
    ENDPOINT_RETIRE,
    POST,
    SLICE,
    STREAM_LISTEN,
    STREAM_CONNECT,
    STREAM_ACCEPT,
    STREAM_SEND,
    STREAM_RECEIVE,
};
constexpr uint32_t OPERATION_COUNT = 19;

// Ways to fail. The first are the operations' own, of equal number.
enum class Failure : uint8_t {
    POST = static_cast<uint8_t>(Operation::POST),
    SLICE = static_cast<uint8_t>(Operation::SLICE),
    FULL = OPERATION_COUNT,
    PARTIAL,
    DROP,
    DROP_RESULT,
    CORRUPT,
    ANY,  // whichever operation comes, in its own way
    NONE,
};
constexpr uint32_t FAILURE_COUNT = static_cast<uint32_t>(Failure::NONE);

constexpr Failure failure_of(Operation operation) {
    return static_cast<Failure>(operation);
}
// The operation a failure befalls; none for ANY.
Operation operation_of(Failure failure);
const char *name_of(Failure failure);
// NONE: no failure has that name.
Failure failure_named(const char *name, uint32_t name_size);
// Does the operation concern one rail? Else only the transport's rules reach it.
bool on_rail(Failure failure);

constexpr uint64_t CHANCE_ONE = 1'000'000'000;  // chances are parts of it
constexpr uint32_t RULES_MAX = 64;              // of one rail, or of a transport

struct Rule {
    Failure failure = Failure::NONE;
    bool by_count = false;
    bool told = false;      // its first strike was logged
    uint64_t chance = 0;    // of CHANCE_ONE
    uint64_t begin_ns = 0;  // of a schedule, after the start
    uint64_t end_ns = UINT64_MAX;
    uint64_t number = 0;    // by count: the operation's, from 1
    uint64_t until_ns = 0;  // by count, for a time: set by the first strike
};

// Rules with the figures they go by.
struct Faults {
    Rule rules[RULES_MAX];
    uint32_t rule_count = 0;
    // Of rules by count: 0 they strike once, UINT64_MAX from then on, else for so long.
    uint64_t fail_for_ns = 0;
    uint64_t start_ns = 0;
    uint64_t random = 0;  // splitmix64
    uint64_t counts[OPERATION_COUNT] = {};
    uint64_t count_any = 0;
};

uint64_t random_next(uint64_t *state);

// Counts an operation and says how it fails; NONE: it does not. DROP is asked for by will_drop.
// *told is set when the rule strikes for the first time.
Failure strike(Faults &faults, Operation operation, uint64_t now_ns, bool *told);
// Will the `ahead`-th slice from now (0: the next) vanish? Counts nothing.
bool will_drop(Faults &faults, uint32_t ahead, uint64_t now_ns);
// The process's figures (fault.h).
void figures_count(Operation operation);
void figures_strike(Failure failure, Operation operation);

}  // namespace tent::fault

#endif
