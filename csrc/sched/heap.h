// An intrusive pairing heap over indexes (Fredman et al. 1986): requests with deadlines, earliest
// first, the first submitted of equals. Leans on nothing, allocates nothing: the links live in the
// nodes. One writer.
#pragma once

#include <cstdint>

namespace tent {

// Node: index -> node with heap_child and heap_next (uint32_t). Less: (index, index) -> bool, a
// strict total order.
template <class Node, class Less>
class PairingHeap {
  public:
    static constexpr uint32_t NONE = UINT32_MAX;

    PairingHeap(Node node, Less less) : node_(node), less_(less) {}

    void push(uint32_t *root, uint32_t index) const {
        node_(index).heap_child = node_(index).heap_next = NONE;
        *root = *root == NONE ? index : meld(*root, index);
    }
    // Takes the root out. The heap is not empty.
    void pop(uint32_t *root) const {
        uint32_t child = node_(*root).heap_child, pairs = NONE;
        while (child != NONE) {  // meld in pairs from the left, ...
            uint32_t second = node_(child).heap_next;
            uint32_t rest = second == NONE ? NONE : node_(second).heap_next;
            uint32_t melded = second == NONE ? child : meld(child, second);
            node_(melded).heap_next = pairs;
            pairs = melded;
            child = rest;
        }
        uint32_t merged = NONE;
        while (pairs != NONE) {  // ... then all from the right
            uint32_t next = node_(pairs).heap_next;
            node_(pairs).heap_next = NONE;
            merged = merged == NONE ? pairs : meld(merged, pairs);
            pairs = next;
        }
        *root = merged;
    }

  private:
    uint32_t meld(uint32_t a, uint32_t b) const {
        if (less_(b, a)) {
            uint32_t swap = a;
            a = b;
            b = swap;
        }
        node_(b).heap_next = node_(a).heap_child;
        node_(a).heap_child = b;
        return a;
    }

    Node node_;
    Less less_;
};

}  // namespace tent
