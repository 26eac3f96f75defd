// Binding: which endpoints a segment needs under the current plan, and which route a request takes.
// A row is bound once for each locality of the peer's memory, since the peer's rail that is near
// differs; endpoints of equal pairs of rails are shared. Driver only. Leans on pairing for which
// rail goes to which, and on plan/match. Must never bind a rail to a peer's rail it cannot reach,
// nor leave a region without the routes that others have.
#pragma once

#include "core/engine.h"

namespace tent {

// Makes the endpoints and bound routes of a segment for the current plan, or anew: routes of this
// plan keep their address. NO_PATH when no rail of ours reaches one of the peer's, or no row is for
// this peer; the sentence says which.
int32_t routes_bind(Engine &engine, Segment &segment);
// After a plan change: every ready segment.
void routes_rebind_all(Engine &engine);
// The locality of a region's location, index in segment.localities; a new one has no routes until
// the segment is bound.
uint32_t routes_locality(Segment &segment, std::string_view location);
// The same for a location that no region may have: the one that is like it, else the one that is
// equally far from every rail, else the first.
uint32_t routes_locality_of(const Segment &segment, std::string_view location);
// Regions have come to a segment that had so many localities; to be called before they are
// published.
void routes_regrouped(Engine &engine, Segment &segment, size_t localities_before);
// The peer's rails are others than before.
void routes_peer_changed(Engine &engine, Segment &segment);
// Binds anew what asked for it, drops endpoints that no route needs; housekeeping.
void routes_step(Engine &engine);
// Drops the bound routes of a generation without requests.
void routes_forget(Engine &engine, const PlanGeneration &generation);
// The first bound route of the current plan that matches; nullptr: none. One without rungs refuses.
// query.peer is not looked at: rows of other peers are not bound.
const BoundRoute *routes_first(const Segment &segment, uint32_t locality, const RouteQuery &query);
// The same for a request; nullptr: none, or it is refused.
const BoundRoute *routes_match(Engine &engine, Segment &segment, const Request &request,
                               const char *label);
// No endpoint of a route is ready for a request now: remembers since when, and lets housekeeping
// fail the requests when that lasts.
void routes_pathless(Engine &engine, Segment &segment, const BoundRoute &route);
bool routes_ready(const BoundRoute &route);  // is any?
// Is the endpoint known not to reach the request's memory?
bool request_bars(const Request &request, const Endpoint &endpoint);
// Is one ready that is not barred; is there one that is not, ready or not?
bool routes_ready(const BoundRoute &route, const Request &request);
bool routes_reach(const BoundRoute &route, const Request &request);
// Forgets it of the segment's routes that have a path again, or (patience_ns ago) had their time.
void routes_pathless_over(const Engine &engine, Segment &segment, uint64_t patience_ns);

}  // namespace tent
