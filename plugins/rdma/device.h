// Devices: which there are, whether one is there, a port's state and GIDs.
//
// Leans on state.h and gid.h. Driver's thread only, but for devices_socket.
#ifndef TENT_PLUGINS_RDMA_DEVICE_H
#define TENT_PLUGINS_RDMA_DEVICE_H

#include <string>
#include <vector>

#include "gid.h"
#include "state.h"

namespace tent::rdma {

// "mlx5_0, mlx5_1", or "none".
std::string devices_list(const Verbs &verbs);
// Why ibv_get_device_list failed, and what mends it.
std::string list_trouble(int error);
// Why ibv_open_device failed, and what mends it.
std::string open_trouble(const ibv_device &device, int error);
// Of the rail's port, as the device tells.
std::vector<Gid> gids_of(const Rail &rail);
// What its port and GID are like now: sets port_attr, gid_index, state and why. What speaks from
// another index, or of another LID, than it did is failed. Returns 0, or what the library said.
int port_look(Rail &rail);
// Neither its completion channel nor its events wake anyone any more.
void device_unwatch(const Rail &rail);
// Its entries in sysfs are there. Software devices have no other way to say that they go: what of
// them waits for us to close them does so after the entry of verbs went.
bool device_there(const Rail &rail);

// A socket that becomes readable when the kernel adds or removes a device; -1: there is none to be
// had (a user namespace of its own), and devices are looked at by the clock.
int devices_socket();
// Empties it. True: something of RDMA went or came, or news were lost.
bool devices_news(int fd);

}  // namespace tent::rdma

#endif
