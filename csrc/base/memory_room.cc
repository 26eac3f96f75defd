// See memory_room.h.
#include "base/memory_room.h"

#include <algorithm>
#include <cstdlib>

#include "base/small_file.h"

namespace tent {

namespace {

constexpr uint64_t KIB = 1024;

std::string pool_folder(uint64_t page_size, int64_t node, const std::string &root) {
    const std::string name = "hugepages-" + std::to_string(page_size / KIB) + "kB/";
    if (node < 0) return root + "/sys/kernel/mm/hugepages/" + name;
    return root + "/sys/devices/system/node/node" + std::to_string(node) + "/hugepages/" + name;
}

uint64_t meminfo_bytes(const std::string &path, const std::string &name) {
    const std::string text = file_field(path, name.c_str());
    return text.empty() ? UINT64_MAX : strtoull(text.c_str(), nullptr, 10) * KIB;
}

// The least limit of the group and of those above it that can be seen.
void limit_by_group(const std::string &mount, std::string group, const char *file, Room *room) {
    for (;;) {
        // "max" is no number: no limit.
        const uint64_t limit = file_number(mount + group + "/" + file, UINT64_MAX);
        if (limit < room->bytes) *room = {limit, "the cgroup " + (group.empty() ? "/" : group)};
        const size_t slash = group.rfind('/');
        if (slash == std::string::npos) return;
        group.resize(slash);
    }
}

}  // namespace

HugePool huge_pool(uint64_t page_size, int64_t node, const std::string &root) {
    const std::string folder = pool_folder(page_size, node, root);
    const uint64_t total = file_number(folder + "nr_hugepages", 0);
    const uint64_t free = file_number(folder + "free_hugepages", 0);
    // A node's folder does not say what is promised: the machine's number is an upper bound.
    const uint64_t promised = file_number(pool_folder(page_size, -1, root) + "resv_hugepages", 0);
    return {total, free > promised ? free - promised : 0};
}

Room memory_room(int64_t node, const std::string &root) {
    Room room{UINT64_MAX, "the machine"};
    const uint64_t available = meminfo_bytes(root + "/proc/meminfo", "MemAvailable:");
    const uint64_t swap = meminfo_bytes(root + "/proc/meminfo", "SwapFree:");
    if (available != UINT64_MAX) room.bytes = available + (swap == UINT64_MAX ? 0 : swap);
    if (node >= 0) {
        const std::string name = "node" + std::to_string(node) + "/meminfo";
        const std::string field = "Node " + std::to_string(node) + " MemTotal:";
        const uint64_t total = meminfo_bytes(root + "/sys/devices/system/node/" + name, field);
        if (total < room.bytes) room = {total, "NUMA node " + std::to_string(node)};
    }
    const std::string groups = file_text(root + "/proc/self/cgroup");
    for (size_t at = 0; at < groups.size();) {
        const size_t end = std::min(groups.find('\n', at), groups.size());
        const std::string line = groups.substr(at, end - at);
        at = end + 1;
        const size_t path = line.find('/');
        if (path == std::string::npos) continue;
        std::string group = line.substr(path);
        if (group == "/") group.clear();
        if (line.rfind("0::", 0) == 0)
            limit_by_group(root + "/sys/fs/cgroup", group, "memory.max", &room);
        else if (line.find(":memory:") != std::string::npos)
            limit_by_group(root + "/sys/fs/cgroup/memory", group, "memory.limit_in_bytes", &room);
    }
    return room;
}

}  // namespace tent
