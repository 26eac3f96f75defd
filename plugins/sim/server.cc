// One stage of a path: a queue that is served in order, at the rate of a schedule. See fabric.h.
//
// A job is done at a whole nanosecond; what the rest of that nanosecond could have carried is the
// next job's if it follows at once, so a busy server loses nothing to rounding.
#include <algorithm>

#include "fabric.h"

namespace tent::sim {

namespace {

void schedule_end(Fabric &fabric, Server &server) {
    const uint64_t end_ns = server.schedule.finish(server.since_ns, server.left);
    server.generation++;
    if (end_ns != NEVER)
        event_push(fabric, end_ns, EventType::ServerEnd, &server, server.generation);
}

void start_next(Fabric &fabric, Server &server) {
    while (server.serving == nullptr && server.head != nullptr) {
        Job &job = *server.head;
        server.head = job.next;
        if (server.head == nullptr) server.tail = nullptr;
        if (job.slice->dead) {
            server.queued_bytes -= job.slice->length;
            slice_release(fabric, *job.slice);
            continue;
        }
        const Work work = Work{job.slice->length} * UNITS_PER_BYTE;
        if (server.ended_ns != fabric.now_ns) server.credit = 0;
        const Work given = std::min(work, server.credit);
        server.credit -= given;
        server.serving = &job;
        server.left = work - given;
        server.since_ns = fabric.now_ns;
        schedule_end(fabric, server);
        slice_begins(fabric, job);
    }
}

Job &take_serving(Fabric &fabric, Server &server) {
    Job &job = *server.serving;
    server.serving = nullptr;
    server.generation++;
    server.ended_ns = fabric.now_ns;
    server.queued_bytes -= job.slice->length;
    return job;
}

}  // namespace

void server_enqueue(Fabric &fabric, Job &job) {
    Server &server = *job.server;
    job.next = nullptr;
    job.slice->refs++;
    server.queued_bytes += job.slice->length;
    (server.tail != nullptr ? server.tail->next : server.head) = &job;
    server.tail = &job;
    if (server.serving == nullptr) start_next(fabric, server);
}

void server_end(Fabric &fabric, Server &server, uint32_t generation) {
    if (generation != server.generation || server.serving == nullptr) return;
    const Work done = server.schedule.carried(server.since_ns, fabric.now_ns);
    server.credit += done - server.left;
    Job &job = take_serving(fabric, server);
    server.sent_bytes += job.slice->length;
    slice_served(fabric, job);
    slice_release(fabric, *job.slice);
    start_next(fabric, server);
}

Work server_abort(Fabric &fabric, Server &server) {
    const Work total = Work{server.serving->slice->length} * UNITS_PER_BYTE;
    const Work done = server.schedule.carried(server.since_ns, fabric.now_ns);
    const Work left = server.left > done ? server.left - done : 0;
    server.credit = 0;
    Job &job = take_serving(fabric, server);
    server.sent_bytes += static_cast<uint64_t>((total - left) / UNITS_PER_BYTE);
    slice_served(fabric, job);
    slice_release(fabric, *job.slice);
    start_next(fabric, server);
    return total - left;
}

void server_reschedule(Fabric &fabric, Server &server, const Schedule &schedule) {
    if (server.serving != nullptr) {
        const Work done = server.schedule.carried(server.since_ns, fabric.now_ns);
        server.left -= std::min(done, server.left);
        server.since_ns = fabric.now_ns;
    }
    server.credit = 0;
    server.history.emplace_back(fabric.now_ns, server.schedule);
    server.schedule = schedule;
    if (server.serving != nullptr) schedule_end(fabric, server);
}

uint64_t server_capacity(const Server &server, uint64_t begin_ns, uint64_t end_ns) {
    Work work = 0;
    for (const auto &[until_ns, schedule] : server.history) {
        const uint64_t part_ns = std::min(until_ns, end_ns);
        work += schedule.carried(begin_ns, part_ns);
        begin_ns = std::max(begin_ns, part_ns);
    }
    work += server.schedule.carried(begin_ns, end_ns);
    return static_cast<uint64_t>(std::min(work / UNITS_PER_BYTE, Work{UINT64_MAX}));
}

}  // namespace tent::sim
