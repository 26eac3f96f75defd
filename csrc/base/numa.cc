// See numa.h.
#include "base/numa.h"

#include <linux/mempolicy.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "base/small_file.h"
#include "base/status.h"

namespace tent {

namespace {

constexpr uint32_t WORD_BITS = 8 * sizeof(unsigned long);

// Nodes with memory that this process may use, as the kernel writes them; "" where it does not say.
std::string nodes_usable() {
    std::string allowed = file_field("/proc/self/status", "Mems_allowed_list:");
    std::string memory = file_text("/sys/devices/system/node/has_memory");
    if (memory.empty() || allowed.empty()) return memory.empty() ? allowed : memory;
    std::string both;
    for (uint32_t node = 0; node < NUMA_NODES_MAX; node++) {
        if (!numa_list_has(memory, node) || !numa_list_has(allowed, node)) continue;
        both += (both.empty() ? "" : ",") + std::to_string(node);
    }
    return both;
}

int32_t refuse_node(uint32_t node, const std::string &usable) {
    return fail(TENT_E_INVALID,
                "memory cannot be bound to NUMA node %u: there is no such node, or this process "
                "may not use its memory; it may use %s",
                node, usable.empty() ? "node 0" : ("node(s) " + usable).c_str());
}

}  // namespace

uint32_t numa_node_of(uint64_t address) {
    int node = 0;
    // get_mempolicy(2): with both flags, the node of the page at the address, which is read from at
    // most. Kernels without NUMA, and sandboxes that forbid it, refuse.
    const long status = syscall(SYS_get_mempolicy, &node, nullptr, 0UL, address,
                                static_cast<unsigned long>(MPOL_F_NODE | MPOL_F_ADDR));
    return status == 0 && node > 0 ? static_cast<uint32_t>(node) : 0;
}

bool numa_list_has(const std::string &list, uint32_t node) {
    const char *at = list.c_str();
    while (*at >= '0' && *at <= '9') {
        char *end = nullptr;
        const unsigned long first = strtoul(at, &end, 10);
        unsigned long last = first;
        if (*end == '-') last = strtoul(end + 1, &end, 10);
        if (node >= first && node <= last) return true;
        if (*end != ',') return false;
        at = end + 1;
    }
    return false;
}

int32_t numa_bind(void *address, uint64_t size, uint32_t node) {
    const std::string usable = nodes_usable();
    if (node >= NUMA_NODES_MAX || (!usable.empty() && !numa_list_has(usable, node)))
        return refuse_node(node, usable);
    unsigned long mask[NUMA_NODES_MAX / WORD_BITS] = {};
    mask[node / WORD_BITS] = 1UL << (node % WORD_BITS);
    // mbind(2) counts one bit less than it is told.
    if (syscall(SYS_mbind, address, size, MPOL_BIND, mask, NUMA_NODES_MAX + 1UL, 0UL) == 0)
        return TENT_OK;
    const int reason = errno;
    // Where there is one node, everything is on it.
    if (node == 0 && (usable.empty() || usable == "0")) return TENT_OK;
    if (reason == EINVAL) return refuse_node(node, usable);
    return fail(TENT_E_SYSTEM,
                "memory cannot be bound to NUMA node %u: %s; in a container give it the "
                "capability SYS_NICE, or allocate without a node",
                node, strerror(reason));
}

}  // namespace tent
