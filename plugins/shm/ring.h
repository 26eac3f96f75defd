// The shared ring: two copies through a memfd, for memory that neither can be mapped nor reached.
// The initiator owns the arena: a write's bytes are put there and the target takes them out; for a
// read the target puts them there. Commands go one way, results the other (ring_layout.h).
//
// Leans on state.h, copy.h. Thread-safety: the driver's of each side; the two processes share the
// memory, and neither trusts what the other has written there: an entry is copied out before it is
// looked at, every index and length is checked. Bytes are copied by ring_serve, ring_step alone:
// outside of them no memory of the application is touched. post and poll allocate nothing. Both may
// call endpoint_fail; the ring has to outlive that call.
#ifndef TENT_PLUGINS_SHM_RING_H
#define TENT_PLUGINS_SHM_RING_H

#include "state.h"

namespace tent::shm {

// ---- target: makes the memory, serves ----------------------------------------------------------

// The sizes asked for are limited to what the target's own options allow. *fd receives the memory,
// to be given to the peer and closed by the caller. nullptr: sentence.
RingTarget *ring_target_make(Endpoint &endpoint, uint32_t chunk_size, uint32_t chunk_count, int *fd,
                             std::string *sentence);
void ring_target_free(RingTarget *ring);  // nullptr: nothing
// Serves up to a budget, asking host->grant_check for every piece, telling host->served. True when
// something moved. Broken entries fail the endpoint (PROTOCOL).
bool ring_serve(Endpoint &endpoint);

// ---- initiator ---------------------------------------------------------------------------------

// The sizes are those asked for: the peer may have given less. fd stays the caller's, who may close
// it. nullptr: sentence.
RingInitiator *ring_map(Endpoint &endpoint, int fd, uint32_t chunk_size, uint32_t chunk_count,
                        std::string *sentence);
void ring_free(RingInitiator *ring);  // nullptr: nothing
// Takes a prefix of the slices and returns its length, which the caller adds to Endpoint::posted.
// They end by jobs_result.
uint32_t ring_post(Endpoint &endpoint, const tent_slice *slices, uint32_t count);
// Cuts slices into pieces, takes results, up to a budget. True when something moved. Results that
// lie fail the endpoint (PROTOCOL).
bool ring_step(Endpoint &endpoint);
// All that is left ends as `status`, by jobs_result; afterwards the ring touches no memory of ours,
// whatever the peer still does. Again: nothing.
void ring_stop(Endpoint &endpoint, int32_t status);
// Has a slice not ended?
bool ring_left(const Endpoint &endpoint);

// ---- both, of whichever half the endpoint has --------------------------------------------------

// The engine is about to sleep: the other side must ring from now on. True: something is to be done
// here already, do not sleep.
bool ring_sleep(Endpoint &endpoint);
// Whether the other side sleeps and something waits for it; asked after each ring_step and
// ring_serve. True once: who is told so rings (socket.h's bell).
bool ring_bell_due(Endpoint &endpoint);

}  // namespace tent::shm

#endif
