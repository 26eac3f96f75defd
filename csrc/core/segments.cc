// See segments.h.
#include "core/segments.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>
#include <unordered_set>

#include "base/status.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/memory.h"
#include "core/reports.h"
#include "core/routes.h"
#include "core/spray.h"
#include "core/unreachable.h"

namespace tent {

namespace {

void set_pending(Engine &engine, Segment &segment, SegmentState state) {
    auto pending = [](SegmentState s) {
        return s == SegmentState::Connecting || s == SegmentState::Describing ||
               s == SegmentState::Binding;
    };
    engine.control->segments_pending += pending(state);
    engine.control->segments_pending -= pending(segment.state);
    segment.state = state;
}

Segment *make(Engine &engine, uint64_t *handle) {
    uint32_t slot = NIL;
    if (!engine.segment_free.empty()) {
        slot = engine.segment_free.back();
        engine.segment_free.pop_back();
    } else if (engine.segment_count < SEGMENTS_MAX) {
        slot = engine.segment_count++;
    } else {
        return nullptr;
    }
    auto segment = std::make_unique<Segment>();
    segment->slot = slot;
    segment->handle = engine.segment_next++ << 16 | (slot + 1);
    for (uint32_t c = 0; c < 3; c++) {
        segment->flows[c].segment = segment.get();
        segment->flows[c].class_ = c;
    }
    segment->table.store(new SegmentTable(), std::memory_order_release);
    segment->deadline_ns = engine.now_ns + engine.plans.back()->plan.parameters.connect_timeout_ns;
    engine.control->segments_pending++;
    *handle = segment->handle;
    Segment *made = segment.release();
    engine.segments[slot].store(made, std::memory_order_release);
    return made;
}

void import_export(RemoteRegion &region, Transport &transport) {
    if (!transport.table->segment_import) return;
    for (const DescriptorExport &exported : region.about.exports) {
        if (transport.name != exported.transport) continue;
        void *handle = nullptr;
        if (transport.table->segment_import(transport.instance, exported.bytes.data(),
                                            static_cast<uint32_t>(exported.bytes.size()),
                                            &handle) == TENT_OK)
            region.handles.emplace_back(&transport, handle);
    }
}

void import_exports(Engine &engine, RemoteRegion &region) {
    for (auto &transport : engine.transports)
        import_export(region, *transport);
}

void forget_exports(RemoteRegion &region) {
    for (auto &[transport, handle] : region.handles)
        if (transport->table->segment_forget)
            transport->table->segment_forget(transport->instance, handle);
    region.handles.clear();
}

// Gives submitting threads a table of the present regions.
void publish(Engine &engine, Segment &segment) {
    auto table = std::make_unique<SegmentTable>();
    std::vector<Range> ranges;
    for (const auto &[handle, region] : segment.regions) {
        ranges.push_back({region->about.address, region->about.length, region->about.access,
                          static_cast<uint32_t>(table->regions.size())});
        table->regions.push_back(region.get());
    }
    table->ranges = RangeTable(std::move(ranges));
    SegmentTable *old = segment.table.exchange(table.release(), std::memory_order_acq_rel);
    engine.gate.synchronize();
    delete old;
    // Only requests submitted under an older table can name these, and slices that outlived their
    // request in a transport that does not let go.
    bool flying =
        std::any_of(segment.endpoints.begin(), segment.endpoints.end(),
                    [](const Endpoint *endpoint) { return endpoint->flight_head != NIL; });
    if (!flying && segment.requests.load(std::memory_order_acquire) == 0) {
        for (auto &region : segment.regions_gone)
            forget_exports(*region);
        segment.regions_gone.clear();
    }
}

void set_region(Engine &engine, Segment &segment, const DescriptorRegion &about) {
    std::unique_ptr<RemoteRegion> &place = segment.regions[about.region];
    if (place && place->about == about) return;
    if (place) segment.regions_gone.push_back(std::move(place));
    place = std::make_unique<RemoteRegion>();
    place->about = about;
    place->locality = routes_locality(segment, about.location);
    import_exports(engine, *place);
    for (const Endpoint *endpoint : segment.endpoints)
        endpoints_region(*endpoint, *place);
}

void drop_region(Segment &segment, uint64_t handle) {
    auto found = segment.regions.find(handle);
    if (found == segment.regions.end()) return;
    segment.regions_gone.push_back(std::move(found->second));
    segment.regions.erase(found);
}

void apply(Engine &engine, Segment &segment, Descriptor descriptor) {
    std::unordered_set<uint64_t> named;
    for (const DescriptorRegion &region : descriptor.regions)
        named.insert(region.region);
    std::vector<uint64_t> gone;
    for (const auto &[handle, region] : segment.regions)
        if (!named.contains(handle)) gone.push_back(handle);
    for (uint64_t handle : gone)
        drop_region(segment, handle);
    std::vector<DescriptorRegion> regions;
    regions.swap(descriptor.regions);
    const bool other_rails = segment.descriptor.rails != descriptor.rails;
    segment.descriptor = std::move(descriptor);
    segment.same_host = segment.descriptor.host_id == engine.host_id;
    if (!segment.usable.load(std::memory_order_relaxed))
        segment.expires_unix_ms = segment.descriptor.expires_unix_ms;
    if (other_rails) routes_peer_changed(engine, segment);
    const size_t localities = segment.localities.size();
    for (const DescriptorRegion &region : regions)
        set_region(engine, segment, region);
    routes_regrouped(engine, segment, localities);
    publish(engine, segment);
}

void free_segment(Engine &engine, Segment &segment) {
    engine.segments[segment.slot].store(nullptr, std::memory_order_release);
    engine.gate.synchronize();
    for (auto &[handle, region] : segment.regions)
        forget_exports(*region);
    for (auto &region : segment.regions_gone)
        forget_exports(*region);
    for (Endpoint *endpoint : segment.endpoints)
        endpoints_forget_scratch(*endpoint);
    engine.segment_free.push_back(segment.slot);
    delete segment.table.load();
    delete &segment;
}

bool described(Engine &engine, Segment &segment, Bytes bytes) {
    Descriptor descriptor;
    if (decode_descriptor(bytes, &descriptor) != TENT_OK) {
        segment_fail(engine, segment, TENT_E_PROTOCOL, last_error());
        return false;
    }
    bool first = segment.state == SegmentState::Describing;
    peer_learn(engine, *segment.peer, descriptor);
    apply(engine, segment, std::move(descriptor));
    segment.describe_count++;
    // What was told while the answer was under way may not be in it.
    if (segment.descriptor.version < segment.version_told) segment_describe(engine, segment);
    if (!first) return true;
    set_pending(engine, segment, SegmentState::Binding);
    segment.bound_ns = engine.now_ns;
    segment.first_ready_ns = 0;
    int32_t status = routes_bind(engine, segment);
    if (status != TENT_OK) segment_fail(engine, segment, status, last_error());
    return true;
}

// Whether a binding segment is ready, failed, or still waits for endpoints.
void settle_binding(Engine &engine, Segment &segment) {
    size_t ready = 0, waiting = 0;
    const Endpoint *failed = nullptr;
    for (const Endpoint *endpoint : segment.endpoints) {
        if (endpoint->state == EndpointState::Ready)
            ready++;
        else if (!endpoint->tried)
            waiting++;
        else
            failed = endpoint;
    }
    if (ready > 0 && segment.first_ready_ns == 0) segment.first_ready_ns = engine.now_ns;
    // Rails that are down must not hold up the others: they get a few times what the first took.
    uint64_t patience_ns =
        std::max(RAILS_GRACE_NS, 4 * (segment.first_ready_ns - segment.bound_ns));
    bool enough = ready > 0 && engine.now_ns >= segment.first_ready_ns + patience_ns;
    // Pairs of rails that do not reach each other must not use up the time of those that do.
    const uint64_t half_ns = (segment.deadline_ns - segment.bound_ns) / 2;
    const bool try_others = waiting == 0 || engine.now_ns >= segment.bound_ns + half_ns;
    const bool in_time = engine.now_ns < segment.deadline_ns;
    if (ready == 0 && in_time && try_others && unreachable_try_others(engine, segment, half_ns))
        return;
    if (waiting > 0 && !enough && in_time) return;
    if (ready > 0) {
        set_pending(engine, segment, SegmentState::Ready);
        segment.usable.store(true, std::memory_order_release);
        return;
    }
    segment.peer->unreachable.clear();  // nothing stands: it is not a matter of pairs
    int32_t status = failed ? failed->error : TENT_E_TIMEOUT;
    if (status == TENT_E_TRANSPORT) status = TENT_E_PEER;
    segment_fail(engine, segment, status,
                 failed ? "no endpoint to '" + segment.descriptor.name + "' came up; " +
                              failed->title + ": " + status_text(failed->error)
                        : "no endpoint to '" + segment.descriptor.name + "' came up in time");
}

}  // namespace

int32_t segments_init(Engine &engine) {
    void *slots = mmap(nullptr, SEGMENTS_MAX * sizeof(std::atomic<Segment *>),
                       PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (slots == MAP_FAILED) return fail(TENT_E_NO_MEMORY, "no memory for the segment table");
    engine.segments = static_cast<std::atomic<Segment *> *>(slots);
    return TENT_OK;
}

void segments_free(Engine &engine) {
    if (!engine.segments) return;
    for (uint32_t slot = 0; slot < engine.segment_count; slot++)
        if (Segment *segment = engine.segments[slot].load()) free_segment(engine, *segment);
    munmap(engine.segments, SEGMENTS_MAX * sizeof(std::atomic<Segment *>));
}

Segment *segment_find(const Engine &engine, uint64_t handle) {
    uint64_t slot = (handle & 0xffff) - 1;
    if (slot >= SEGMENTS_MAX) return nullptr;
    Segment *segment = engine.segments[slot].load(std::memory_order_acquire);
    return segment && segment->handle == handle ? segment : nullptr;
}

int32_t segment_status(const Segment &segment) {
    switch (segment.state) {
        case SegmentState::Ready: return TENT_OK;
        case SegmentState::Failed: return fail(segment.error, "%s", segment.sentence.c_str());
        case SegmentState::Closing: return fail(TENT_E_CLOSED, "the segment is being closed");
        default: return TENT_IN_PROGRESS;
    }
}

int32_t segment_begin_address(Engine &engine, const char *text,
                              const std::vector<SocketAddress> &addresses, uint64_t *handle) {
    Segment *segment = make(engine, handle);
    if (!segment)
        return fail(TENT_E_AGAIN, "%u segments are open, the most there can be; close some",
                    SEGMENTS_MAX);
    segment->by_address = true;
    segment->peer = peer_get(engine, addresses, nullptr, text);
    segment->peer->segments++;
    return TENT_OK;
}

int32_t segment_begin_descriptor(Engine &engine, Descriptor descriptor,
                                 const std::vector<SocketAddress> &addresses, uint64_t *handle) {
    Segment *segment = make(engine, handle);
    if (!segment)
        return fail(TENT_E_AGAIN, "%u segments are open, the most there can be; close some",
                    SEGMENTS_MAX);
    bool own = memcmp(descriptor.engine_id, engine.id, sizeof engine.id) == 0;
    segment->descriptor = std::move(descriptor);
    if (own) {
        segment_own(engine, *segment);
        return TENT_OK;
    }
    segment->peer = peer_get(engine, addresses, &segment->descriptor, "");
    segment->peer->segments++;
    if (peer_connected(segment->peer)) segment_describe(engine, *segment);
    return TENT_OK;
}

void segment_own(Engine &engine, Segment &segment) {
    segment.own = true;
    segment.peer = nullptr;
    uint64_t handle = segment.by_address ? 0 : segment.descriptor.grant;
    const uint8_t *token = segment.by_address ? engine.grants[0]->token : segment.descriptor.token;
    int32_t status = segment.by_address || segment.descriptor.epoch == engine.epoch
                         ? grant_prove(engine, handle, token)
                         : fail(TENT_E_STALE, "the descriptor is of an earlier run of this engine");
    if (status != TENT_OK) {
        segment_fail(engine, segment, status, last_error());
        return;
    }
    Descriptor descriptor;
    grant_describe(engine, *grant_find(engine, handle), &descriptor);
    apply(engine, segment, std::move(descriptor));
    set_pending(engine, segment, SegmentState::Ready);
    segment.usable.store(true, std::memory_order_release);
}

void segments_refresh_own(Engine &engine) {
    for_segments_of(engine, nullptr, [&](Segment &segment) {
        if (!segment.own || segment.state != SegmentState::Ready) return;
        Descriptor descriptor;
        Grant *grant = grant_find(engine, segment.descriptor.grant);
        if (grant) {
            grant_describe(engine, *grant, &descriptor);
            apply(engine, segment, std::move(descriptor));
        } else {
            segment_fail(engine, segment, TENT_E_DENIED, "its grant was revoked");
        }
    });
}

void segment_describe(Engine &engine, Segment &segment) {
    if (segment.own) {
        segments_refresh_own(engine);
        segment.describe_count++;
        return;
    }
    if (segment.state == SegmentState::Connecting)
        set_pending(engine, segment, SegmentState::Describing);
    segment.version_told = 0;
    segment.describe_number = engine.control->next_id++;
    segment.describing = std::make_unique<DescribeAssembler>(segment.describe_number);
    peer_describe(engine, segment);
}

void segments_described(Engine &engine, Peer &peer, const Describe &part, uint64_t connection) {
    for_segments_of(engine, &peer, [&](Segment &segment) {
        if (segment.describe_number != part.request || !segment.describing) return;
        int32_t status = segment.describing->add(part, connection);
        if (status == TENT_IN_PROGRESS) return;
        auto assembled = std::move(segment.describing);
        segment.describe_number = 0;
        if (status != TENT_OK)
            segment_fail(engine, segment, status,
                         part.sentence.empty() ? std::string(last_error()) : part.sentence);
        else
            described(engine, segment, assembled->bytes());
    });
}

void segments_delta(Engine &engine, Peer &peer, const RegionDelta &delta) {
    for_segments_of(engine, &peer, [&](Segment &segment) {
        if (segment.descriptor.grant != delta.grant || segment.state == SegmentState::Failed)
            return;
        if (segment.state == SegmentState::Connecting || segment.state == SegmentState::Describing)
            return;
        if (delta.version <= segment.descriptor.version) return;
        segment.version_told = std::max(segment.version_told, delta.version);
        if (delta.version_base != segment.descriptor.version) {
            if (!segment.describing) segment_describe(engine, segment);  // one was missed
            return;
        }
        for (uint64_t handle : delta.removed)
            drop_region(segment, handle);
        const size_t localities = segment.localities.size();
        for (const DescriptorRegion &region : delta.added)
            set_region(engine, segment, region);
        routes_regrouped(engine, segment, localities);
        segment.descriptor.version = delta.version;
        if (segment.regions.size() > DESCRIPTOR_REGIONS_MAX) {
            segment_fail(engine, segment, TENT_E_PROTOCOL, "the peer exports too many regions");
            return;
        }
        publish(engine, segment);
        report(engine, TENT_EVENT_REGION_CHANGED, {.segment = segment.handle},
               "'%s' now exports %zu regions", segment.descriptor.name.c_str(),
               segment.regions.size());
    });
}

void segments_import(Engine &engine, Transport &transport) {
    for (uint32_t slot = 0; slot < engine.segment_count; slot++)
        if (Segment *segment = engine.segments[slot].load(std::memory_order_relaxed))
            for (auto &[handle, region] : segment->regions)
                import_export(*region, transport);
}

void segments_revoked(Engine &engine, Peer &peer, uint64_t grant) {
    for_segments_of(engine, &peer, [&](Segment &segment) {
        if (segment.descriptor.grant == grant && segment.state != SegmentState::Connecting)
            segment_fail(engine, segment, TENT_E_DENIED,
                         "'" + segment.descriptor.name + "' has revoked the grant");
    });
}

void segment_fail(Engine &engine, Segment &segment, int32_t status, const std::string &sentence) {
    if (segment.state == SegmentState::Failed || segment.state == SegmentState::Closing) return;
    segment.error = status;
    segment.sentence = sentence;
    segment.usable.store(false, std::memory_order_release);
    set_pending(engine, segment, SegmentState::Failed);
    spray_stop_segment(engine, &segment, status);
}

bool segment_close_step(Engine &engine, Segment &segment) {
    if (segment.state != SegmentState::Closing) {
        segment.usable.store(false, std::memory_order_release);
        engine.gate.synchronize();  // after this no submit can add a request
        set_pending(engine, segment, SegmentState::Closing);
        spray_stop_segment(engine, &segment, TENT_E_CANCELLED);
    }
    spray_take(engine);
    if (!endpoints_end_segment(engine, segment)) return false;
    if (segment.requests.load(std::memory_order_acquire) > 0) return false;
    for (Flow &flow : segment.flows)
        spray_forget_flow(engine, flow);
    segment.routes.clear();
    if (segment.peer) peer_release(engine, *segment.peer);
    free_segment(engine, segment);
    return true;
}

bool segments_step(Engine &engine) {
    if (engine.control->segments_pending == 0) return false;
    for (uint32_t slot = 0; slot < engine.segment_count; slot++) {
        Segment *segment = engine.segments[slot].load(std::memory_order_relaxed);
        if (!segment) continue;
        if (segment->state == SegmentState::Binding) settle_binding(engine, *segment);
        if (segment->state == SegmentState::Describing && engine.now_ns >= segment->deadline_ns)
            segment_fail(engine, *segment, TENT_E_TIMEOUT,
                         "the peer did not describe its segment in time");
    }
    return true;
}

void segments_housekeeping(Engine &engine) {
    uint64_t patience_ns = engine.plans.back()->plan.parameters.connect_timeout_ns;
    for (uint32_t slot = 0; slot < engine.segment_count; slot++) {
        Segment *segment = engine.segments[slot].load(std::memory_order_relaxed);
        if (!segment || segment->pathless_since_ns == 0) continue;
        if (engine.now_ns - segment->pathless_since_ns >= patience_ns / 2)
            unreachable_pathless(engine, *segment, patience_ns / 2);
        uint32_t stopped = 0;
        if (engine.now_ns - segment->pathless_since_ns >= patience_ns)
            stopped = spray_stop_pathless(engine, *segment, patience_ns);
        routes_pathless_over(engine, *segment, patience_ns);
        if (stopped > 0)
            report(engine, TENT_EVENT_LOG, {.segment = segment->handle, .status = TENT_E_TRANSPORT},
                   "no endpoint to '%s' came back; %u requests fail",
                   segment->descriptor.name.c_str(), stopped);
    }
}

}  // namespace tent
