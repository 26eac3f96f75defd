// What a test may ask of the `tube` transport (tube.cc) of its own process. Leans on nothing. The
// test finds the table with dlsym: the plugin is not linked.
#pragma once

#include <cstdint>

struct TubeWorld {
    // Bytes one direction of a stream holds; small, so that sending in parts is the rule.
    uint64_t capacity = 512;
    // Engine time from a byte's sending to its arrival, and of a connection's set-up.
    uint64_t latency_ns = 0;
    // Endpoints never end closing; slices never come back by themselves.
    bool endpoints_stuck = false, slices_stuck = false;
    // Nothing is delivered and no connection comes up, but nothing breaks either.
    bool silent = false;
    // Every stream breaks at the next poll of its owner; then it is false again.
    bool breaks_due = false;

    uint64_t streams_open = 0, streams_made = 0, partial_sends = 0, messages = 0;
    uint64_t reentries = 0;  // the core came into the table from within one of its functions
};
