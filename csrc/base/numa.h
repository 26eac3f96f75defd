// NUMA nodes: the one that memory lies on, and memory that is bound to one.
//
// Leans on system calls and /sys, on no library. Must never write to memory, nor look beyond the
// page asked for. Thread-safety: any thread.
#ifndef TENT_BASE_NUMA_H
#define TENT_BASE_NUMA_H

#include <cstdint>
#include <string>

namespace tent {

// Nodes that a machine can have here; the kernel's own limit is 1024.
inline constexpr uint32_t NUMA_NODES_MAX = 1024;

// Node of the page that holds this address. 0 where the machine has one node, where the kernel does
// not say, and where the address is none of the host's (device memory). A page that nobody has
// written to yet has no place of its own: its node is what the kernel says, mostly 0.
uint32_t numa_node_of(uint64_t address);

// Pages of the mapping that are not there yet will come from this node and from no other; of a
// shared file also those that others bring in. Errors: INVALID (no such node, or one that this
// process may not use; the sentence lists those it may), SYSTEM (the kernel refuses: a sandbox).
int32_t numa_bind(void *address, uint64_t size, uint32_t node);

// Is it in a list as the kernel writes them, "0-3,8"? False for what is no list.
bool numa_list_has(const std::string &list, uint32_t node);

}  // namespace tent

#endif
