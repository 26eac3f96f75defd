// Binding: which endpoints a segment needs under the current plan, and which route a request takes.
// Driver only. Leans on plan/match. Must never bind a rail to a peer's rail it cannot reach.
#pragma once

#include "core/engine.h"

namespace tent {

// Makes the endpoints and bound routes of a segment for the current plan. NO_PATH when no rail of
// ours reaches one of the peer's; the sentence says which transports each side has.
int32_t routes_bind(Engine &engine, Segment &segment);
// After a plan change: every ready segment.
void routes_rebind_all(Engine &engine);
// Drops the bound routes of a generation without requests.
void routes_forget(Engine &engine, const PlanGeneration &generation);
// The first bound route of the current plan that matches; nullptr: none.
const BoundRoute *routes_first(const Engine &engine, const Segment &segment,
                               const RouteQuery &query);
// The same for a request.
const BoundRoute *routes_match(Engine &engine, Segment &segment, const Request &request,
                               const char *label);
// No endpoint of a route is ready now: remembers since when, and lets housekeeping fail the
// requests when that lasts.
void routes_pathless(Engine &engine, Segment &segment);

}  // namespace tent
