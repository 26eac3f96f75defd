// See reports.h.
#include "core/reports.h"

#include <unistd.h>

#include <cstdarg>
#include <cstdio>
#include <cstring>

#include "base/status.h"
#include "core/control.h"

namespace tent {

namespace {

template <class Row>
void put_row(void *out, uint32_t stride, uint32_t index, const Row &row) {
    // Readers compiled against an older, shorter struct get its prefix.
    memcpy(static_cast<char *>(out) + static_cast<size_t>(stride) * index, &row,
           std::min<size_t>(stride, sizeof row));
}

uint64_t get(const std::atomic<uint64_t> &figure) {
    return figure.load(std::memory_order_relaxed);
}

tent_counters row_of(const Tally &tally, const std::string &name) {
    tent_counters row{};
    snprintf(row.name, sizeof row.name, "%s", name.c_str());
    row.rail = -1;
    row.bytes_written = get(tally.bytes_written);
    row.bytes_read = get(tally.bytes_read);
    row.bytes_served_write = get(tally.served_write);
    row.bytes_served_read = get(tally.served_read);
    row.slices = get(tally.slices);
    row.slices_retried = get(tally.retried);
    row.slices_failed = get(tally.failed);
    row.requests = get(tally.requests);
    row.requests_failed = get(tally.requests_failed);
    row.charged_bytes = get(tally.charged);
    row.released_bytes = get(tally.released);
    row.inflight_bytes = row.charged_bytes - row.released_bytes;
    row.slices_hedged = get(tally.slices_hedged);
    row.bytes_hedged = get(tally.bytes_hedged);
    row.refused = get(tally.refused);
    row.wakeups = get(tally.wakeups);
    return row;
}

// The best state among a rail's endpoints; CONNECTING when it has none.
uint32_t rail_state(const Engine &engine, const Rail &rail) {
    uint32_t state = UINT32_MAX;
    for (const auto &endpoint : engine.endpoints) {
        if (endpoint->rail != &rail || endpoint->state == EndpointState::Gone) continue;
        uint32_t own = public_state(*endpoint);
        if (own == TENT_STATE_HEALTHY) return own;
        state = std::min(state, own);
    }
    return state == UINT32_MAX ? static_cast<uint32_t>(TENT_STATE_CONNECTING) : state;
}

std::vector<tent_counters> rail_rows(Engine &engine) {
    std::vector<tent_counters> rows;
    for (const Rail *rail : engine.plans.back()->rails) {
        if (!rail) continue;
        tent_counters row = row_of(rail->tally, rail->title);
        row.id = rail->plan.index;
        row.rail = static_cast<int32_t>(rail->plan.index);
        row.state = rail_state(engine, *rail);
        row.rate_bytes_per_s = rail->lane.rate.bytes_per_s();
        for (const auto &endpoint : engine.endpoints) {
            if (endpoint->rail != rail || endpoint->state == EndpointState::Gone) continue;
            row.inflight_slices += endpoint->path.own.inflight_slices;
        }
        rows.push_back(row);
    }
    return rows;
}

std::vector<tent_counters> endpoint_rows(Engine &engine) {
    std::vector<tent_counters> rows;
    for (const auto &endpoint : engine.endpoints) {
        if (endpoint->state == EndpointState::Gone) continue;
        tent_counters row = row_of(endpoint->tally, endpoint->title);
        row.id = endpoint->id;
        row.rail = static_cast<int32_t>(endpoint->rail->plan.index);
        row.remote_rail = endpoint->peer_rail;
        row.state = public_state(*endpoint);
        row.inflight_slices = endpoint->path.own.inflight_slices;
        if (endpoint->initiator) {
            const Path &path = endpoint->path;
            row.rate_bytes_per_s = path.own.rate.bytes_per_s();
            row.latency_ns_base = path.base.ns();
            row.window_bytes = path.window_bytes(parameters(engine).slice_size, parameters(engine));
        }
        rows.push_back(row);
    }
    return rows;
}

}  // namespace

uint32_t public_state(const Endpoint &endpoint) {
    HealthState health = endpoint.health.state();
    switch (endpoint.state) {
        case EndpointState::Offered:
        case EndpointState::Connecting:
            return health == HealthState::Probing ? TENT_STATE_PROBING : TENT_STATE_CONNECTING;
        case EndpointState::Ready:
            return health == HealthState::Suspect   ? TENT_STATE_SUSPECT
                   : health == HealthState::Probing ? TENT_STATE_PROBING
                                                    : TENT_STATE_HEALTHY;
        case EndpointState::Fencing:
        case EndpointState::Waiting: return TENT_STATE_QUARANTINED;
        case EndpointState::Gone: break;
    }
    return TENT_STATE_TERMINATED;
}

void announce(Engine &engine) {
    uint64_t one = 1;
    // A full counter means it is readable already.
    [[maybe_unused]] ssize_t written = ::write(engine.event_fd, &one, sizeof one);
}

void report(Engine &engine, uint32_t type, const EventFields &fields, const char *format, ...) {
    tent_event event{};
    event.time_ns = engine_now(engine);
    event.segment = fields.segment;
    event.endpoint = fields.endpoint;
    event.type = type;
    event.rail = fields.rail;
    event.status = fields.status;
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(event.text, sizeof event.text, format, arguments);
    va_end(arguments);
    bool first = false;
    {
        std::lock_guard lock(engine.report_mutex);
        first = engine.events.empty();
        if (engine.events.size() >= engine.limits.events) {
            engine.events.pop_front();
            engine.events_lost++;
        }
        engine.events.push_back(event);
    }
    if (first) announce(engine);
}

uint32_t events_take(Engine &engine, tent_event *out, uint32_t stride, uint32_t room) {
    std::lock_guard lock(engine.report_mutex);
    uint32_t count = 0;
    while (count < room && !engine.events.empty()) {
        tent_event &event = engine.events.front();
        event.lost = engine.events_lost;
        engine.events_lost = 0;
        put_row(out, stride, count++, event);
        engine.events.pop_front();
    }
    return count;
}

bool notice_keep(Engine &engine, const std::string &from, const uint8_t *bytes, size_t size) {
    {
        std::lock_guard lock(engine.report_mutex);
        if (engine.notices.size() >= engine.limits.notices) return false;
        engine.notices.push_back({from, std::vector<uint8_t>(bytes, bytes + size)});
    }
    announce(engine);
    return true;
}

int32_t notice_take(Engine &engine, void *bytes, uint32_t *size, char *from) {
    std::lock_guard lock(engine.report_mutex);
    if (engine.notices.empty()) return fail(TENT_E_NOT_FOUND, "no notice waits");
    const InboxNotice &notice = engine.notices.front();
    uint32_t room = *size;
    *size = static_cast<uint32_t>(notice.bytes.size());
    if (*size > room)
        return fail(TENT_E_AGAIN, "the notice has %u bytes, the buffer %u; it stays", *size, room);
    if (*size > 0) memcpy(bytes, notice.bytes.data(), *size);
    if (from) snprintf(from, 64, "%s", notice.from.c_str());
    engine.notices.pop_front();
    return TENT_OK;
}

int32_t counters_read(Engine &engine, uint32_t kind, tent_counters *out, uint32_t stride,
                      uint32_t *count) {
    std::vector<tent_counters> rows;
    if (kind == TENT_COUNTERS_ENGINE) {
        rows.push_back(row_of(engine.tally, engine.name));
        rows[0].inflight_slices = engine.slices_used;
    } else if (kind == TENT_COUNTERS_RAIL) {
        rows = rail_rows(engine);
    } else if (kind == TENT_COUNTERS_ENDPOINT) {
        rows = endpoint_rows(engine);
    } else if (kind == TENT_COUNTERS_CLASS) {
        const char *names[3] = {"normal", "high", "low"};
        for (uint32_t c = 0; c < 3; c++) {
            rows.push_back(row_of(engine.class_tally[c], names[c]));
            rows[c].id = c;
        }
    } else {
        return fail(TENT_E_INVALID, "counter kind %u does not exist; 0..3 do", kind);
    }
    for (uint32_t i = 0; i < rows.size() && i < *count; i++)
        put_row(out, stride, i, rows[i]);
    *count = static_cast<uint32_t>(rows.size());
    return TENT_OK;
}

}  // namespace tent
