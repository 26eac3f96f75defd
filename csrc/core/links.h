// Rails as a whole: their links go down and come up, told by plugins (host->rail_state) and by the
// system (netlink, for rails with an address of a network device). Driver only. Leans on endpoints.
// Must never act from within a plugin's call: news are remembered and acted upon in the cycle.
// Must never make a system call in a cycle to which epoll has brought no news.
#pragma once

#include "base/netlink.h"
#include "core/engine.h"

namespace tent {

// The interfaces of rails whose transport listens on an IP address. Without such rails, or where
// the system refuses the socket (an event says so once), rails rely on what their endpoints see.
struct Links {
    LinkSocket socket;
    AddressWatch watch;
    bool readable = false;  // control_poll has seen news
};

// From host->rail_state: remembered. rail: the plan's number.
void rail_news(Engine &engine, const Transport &transport, uint32_t rail, int32_t status,
               const char *sentence);
// engine.rails have changed: those of a watched kind are watched from now on.
void links_rails_changed(Engine &engine);
// Acts on what was remembered; true when there was something.
bool links_step(Engine &engine);

}  // namespace tent
