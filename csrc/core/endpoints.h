// Endpoints of both roles: set-up through the control channel, news from the plugins, failure, the
// fence (local close, remote retire), rebuild. Driver only. Leans on control for messages and on
// spray to finish requests that wait for a fence. Must never report a request terminal while a
// write of it can still land.
#pragma once

#include "core/engine.h"
#include "wire/messages.h"

namespace tent {

// --- initiator ---
// Makes an endpoint between our rail and a peer's and sends the offer; nullptr when the pool is
// full or the plugin refuses (an event says why).
Endpoint *endpoints_begin(Engine &engine, Segment &segment, Rail &rail, const DescriptorRail &peer);
void endpoints_answered(Engine &engine, Peer &peer, const EndpointAnswer &answer);
// The target retired its half: as we asked, or by itself.
void endpoints_retired(Engine &engine, Peer &peer, const EndpointRetired &retired);
// Takes an endpoint out of service: unfinished slices come back, the fence begins.
void endpoints_fail(Engine &engine, Endpoint &endpoint, int32_t status, const char *sentence);
// The request's terminal status waits for this endpoint's remote fence, because of this slice.
void endpoints_hold(Engine &engine, Endpoint &endpoint, uint32_t request, const Slice &slice);
// The request waits for no fence any longer: it is unfenced, where it waited for one.
void endpoints_unfence(Engine &engine, uint32_t request);
// Names a slice's range as unfenced.
void endpoints_unfenced_slice(Engine &engine, const Endpoint &endpoint, const Request &request,
                              const Slice &slice);
// A fresh control session to the same engine: what was not answered is said again.
void endpoints_resend(Engine &engine, const Peer &peer);
// The peer is gone. proven: it was restarted, so nothing of the old process can write any more.
void endpoints_peer_lost(Engine &engine, const Peer &peer, bool proven);
// Fails every endpoint that holds slices of cancelled requests for longer than the grace.
void endpoints_force_cancel(Engine &engine, uint32_t batch);
// Fails every endpoint that holds slices of the request.
void endpoints_force_request(Engine &engine, uint32_t request);
// Ends the segment's endpoints for good; true when none is left.
bool endpoints_end_segment(Engine &engine, Segment &segment);
// What its plugin knows of the peer's scratch page: for an engine that ends with endpoints that
// their transport never let go of.
void endpoints_forget_scratch(Endpoint &endpoint);
// It is not to be rebuilt, and goes when what it carries has come back.
void endpoints_abandon(Engine &engine, Endpoint &endpoint, const char *why);
void endpoints_abandon_rail(Engine &engine, Rail &rail);
// rail.down has changed: all its endpoints of both roles fail at once, or are tried at once.
void endpoints_rail_changed(Engine &engine, Rail &rail, const char *sentence);

// --- target ---
void endpoints_accept(Engine &engine, Client &client, const EndpointOpen &open,
                      EndpointAnswer *answer);
// Asked by the initiator. True when retired now, false: an EndpointRetired follows.
bool endpoints_retire(Engine &engine, Client &client, uint64_t remote_id);
void endpoints_retire_grant(Engine &engine, uint32_t grant_slot);
void endpoints_retire_client(Engine &engine, const Client &client);
// Retires all; true once nothing that peers do touches our memory.
bool endpoints_retire_all(Engine &engine);
Endpoint *endpoints_find_target(Engine &engine, const Client &client, uint64_t remote_id);

// --- both ---
Endpoint *endpoints_find(Engine &engine, uint64_t id);
// What its plugin knows it by; nullptr once it was told to close it, and may have freed it.
inline void *endpoints_handle(const Endpoint &endpoint) {
    return endpoint.state == EndpointState::Fencing ? nullptr : endpoint.handle;
}
// Tells the plugin that slices of the endpoint may name the region.
void endpoints_region(const Endpoint &endpoint, const RemoteRegion &region);
// From host->endpoint_state: remembered, acted upon after the plugin's function has returned.
void endpoints_news(Engine &engine, uint64_t id, int32_t status, const char *sentence);
void endpoints_served(Engine &engine, uint64_t id, uint32_t op, uint64_t bytes);
bool endpoints_process_news(Engine &engine);
void endpoints_housekeeping(Engine &engine);

}  // namespace tent
