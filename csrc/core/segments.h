// Imported segments: from address or descriptor bytes to a bound set of endpoints and a table that
// submitting threads check against. Driver only, except segment_find inside the gate. Leans on
// peers for the session and on routes for binding. Must never leave a submitting thread with a
// freed table.
#pragma once

#include "base/net.h"
#include "core/engine.h"
#include "wire/messages.h"

namespace tent {

int32_t segments_init(Engine &engine);
void segments_free(Engine &engine);

// Begin an import; the handle's progress is seen by segment_status.
int32_t segment_begin_address(Engine &engine, const char *text,
                              const std::vector<SocketAddress> &addresses, uint64_t *handle);
int32_t segment_begin_descriptor(Engine &engine, Descriptor descriptor,
                                 const std::vector<SocketAddress> &addresses, uint64_t *handle);
// TENT_OK usable, TENT_IN_PROGRESS, or the error with its sentence.
int32_t segment_status(const Segment &segment);
Segment *segment_find(const Engine &engine, uint64_t handle);
// One step of closing: stops its requests, ends its endpoints. True when nothing of it is left.
bool segment_close_step(Engine &engine, Segment &segment);

// Visits every segment of a peer (nullptr: of none, the engine's own).
template <class Visit>
void for_segments_of(Engine &engine, const Peer *peer, Visit visit) {
    for (uint32_t slot = 0; slot < engine.segment_count; slot++) {
        Segment *segment = engine.segments[slot].load(std::memory_order_relaxed);
        if (segment && segment->peer == peer) visit(*segment);
    }
}

void segment_describe(Engine &engine, Segment &segment);  // asks for the descriptor (again)
void segments_described(Engine &engine, Peer &peer, const Describe &part, uint64_t connection);
void segments_delta(Engine &engine, Peer &peer, const RegionDelta &delta);
// Gives a transport that was opened meanwhile what peers have exported for it.
void segments_import(Engine &engine, Transport &transport);
void segments_revoked(Engine &engine, Peer &peer, uint64_t grant);
void segment_fail(Engine &engine, Segment &segment, int32_t status, const std::string &sentence);
void segment_own(Engine &engine, Segment &segment);
// This engine's regions changed: its segments of itself follow.
void segments_refresh_own(Engine &engine);
// Looks after segments that are binding or without a path; true when one changed.
bool segments_step(Engine &engine);
void segments_housekeeping(Engine &engine);

}  // namespace tent
