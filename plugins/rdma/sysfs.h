// Files of /sys in which the kernel tells of RDMA devices, without opening them.
//
// Leans on nothing. Must never fail on what it finds: a file that is missing or strange tells
// nothing. Any thread.
#ifndef TENT_PLUGINS_RDMA_SYSFS_H
#define TENT_PLUGINS_RDMA_SYSFS_H

#include <cstdint>
#include <string>
#include <vector>

namespace tent::rdma {

constexpr char SYSFS_DEVICES[] = "/sys/class/infiniband";

// The first line; false: it cannot be read.
bool sysfs_read(const std::string &path, std::string *line);
bool sysfs_exists(const std::string &path);
// Names in a folder in the order of people: mlx5_2 before mlx5_10.
std::vector<std::string> sysfs_names(const std::string &folder);

struct PortFacts {
    bool channel_adapter = false;  // neither iWARP (which connects by rdma_cm alone) nor EFA
    bool infiniband = false;       // the link layer
    bool active = false;
    uint64_t bandwidth_bytes_per_s = 0;  // 0: unknown; what software tells of itself is no speed
    int32_t numa = -1;
};
// `folder` is the device's.
PortFacts port_facts(const std::string &folder, uint32_t port);

// "mlx5_0", "mlx5_0:2" into name and port; false: no such word.
bool device_word_read(const char *word, std::string *device, uint8_t *port);

}  // namespace tent::rdma

#endif
