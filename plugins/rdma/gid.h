// Which GID a port speaks from, what is told to peers of it, and how well peers are reached.
//
// Leans on /sys/class/infiniband and getifaddrs. Must never open a device.
#ifndef TENT_PLUGINS_RDMA_GID_H
#define TENT_PLUGINS_RDMA_GID_H

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "protocol.h"

namespace tent::rdma {

constexpr uint32_t GID_SIZE = 16;
constexpr uint32_t GIDS_MAX = 256;  // an address handle's index has 8 bits

struct Gid {
    uint32_t index = 0;
    uint8_t bytes[GID_SIZE] = {};
    Link link = Link::ROCE_V2;
    std::string netdev;  // "" where the kernel tells none (InfiniBand)
};

// "fe80:0000:...:6a73" or "fe80::6a73" into bytes; false: that is none.
bool gid_parse(const char *text, uint8_t *bytes);

// The port's table without what is empty, by index. `folder` is the device's in sysfs; `infiniband`
// its link layer.
std::vector<Gid> gids_read(const std::string &folder, uint32_t port, bool infiniband);
// The one to speak from: RoCE v2 of an IPv4 address (routable, and what peers have most likely),
// then v2 of a global IPv6 address, v2 of a link-local one, RoCE v1; of equal ones the lowest
// index. nullptr: there is none. The same choice as choose_gid of tent/transports/rdma.py.
const Gid *gid_choose(std::span<const Gid> gids);
// Where that address is, at that index if it is there too; nullptr: nowhere.
const Gid *gid_find(std::span<const Gid> gids, Link link, const uint8_t *bytes, uint32_t index);

// Bits of the GID's subnet: of the interface that has the address, else all of it.
uint32_t gid_prefix(Link link, const uint8_t *bytes);
// "roce2 10.77.0.1/24", "roce2 fd00::1/64", "roce1 fe80::1/64", "ib fe80::1/64".
std::string gid_address(Link link, const uint8_t *bytes, uint32_t prefix);
// plugin.h rail_reach, of two such texts; the peer's is foreign. 0: not at all; 1: through routers,
// or both link-local and perhaps on one link; 2: same subnet.
int32_t address_reach(const char *ours, const char *peer);

}  // namespace tent::rdma

#endif
