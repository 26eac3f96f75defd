// What the engine tells: events, notices received, counters, and the eventfd that announces them.
// Thread-safety: report and the polls from any thread (one mutex, never on the slice path);
// counters_read with the driver token. Must never block on a reader: full rings drop the oldest
// event and hold notices back.
#pragma once

#include "core/engine.h"

namespace tent {

struct EventFields {
    uint64_t segment = 0;
    uint64_t endpoint = 0;
    int32_t rail = -1;
    int32_t status = 0;
};

void report(Engine &engine, uint32_t type, const EventFields &fields, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
uint32_t events_take(Engine &engine, tent_event *out, uint32_t stride, uint32_t room);

// False when the inbox is full: the sender is asked to come again.
bool notice_keep(Engine &engine, const std::string &from, const uint8_t *bytes, size_t size);
int32_t notice_take(Engine &engine, void *bytes, uint32_t *size, char *from);

// TENT_STATE_* of an endpoint.
uint32_t public_state(const Endpoint &endpoint);

// Makes the eventfd readable.
void announce(Engine &engine);

int32_t counters_read(Engine &engine, uint32_t kind, tent_counters *out, uint32_t stride,
                      uint32_t *count);

}  // namespace tent
