// An immutable, sorted table of address ranges with access rights: the bounds check of both ends.
// Used for local regions (submit), granted regions (target) and a peer's regions (submit). Built
// once, then only read, by any thread. Ranges may overlap. Leans on tent.h's status values only.
#pragma once

#include <tent/tent.h>

#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

namespace tent {

struct Range {
    uint64_t address;
    uint64_t length;
    uint32_t access;  // TENT_ACCESS_* bits
    uint32_t slot;    // the owner's index of the region
};

class RangeTable {
  public:
    RangeTable() = default;
    explicit RangeTable(std::vector<Range> ranges) : ranges_(std::move(ranges)) {
        std::sort(ranges_.begin(), ranges_.end(),
                  [](const Range &a, const Range &b) { return before(a, b); });
        index_ends();
    }

    // Copies with one range more or one slot less; linear, so that registering many stays cheap.
    RangeTable with(const Range &range) const {
        RangeTable copy;
        copy.ranges_.reserve(ranges_.size() + 1);
        copy.ranges_ = ranges_;
        copy.ranges_.insert(
            std::upper_bound(copy.ranges_.begin(), copy.ranges_.end(), range, before), range);
        copy.index_ends();
        return copy;
    }
    RangeTable without(uint32_t slot) const {
        RangeTable copy;
        copy.ranges_.reserve(ranges_.size());
        for (const Range &range : ranges_)
            if (range.slot != slot) copy.ranges_.push_back(range);
        copy.index_ends();
        return copy;
    }

    // Finds a range that holds [address, address+length) whole and allows `access` (0: any). *hint
    // is the caller's memory of the last hit, any value is fine. TENT_OK with *found, TENT_E_RANGE,
    // TENT_E_DENIED.
    int32_t find(uint64_t address, uint64_t length, uint32_t access, uint32_t *hint,
                 const Range **found) const {
        if (*hint < ranges_.size() && holds(ranges_[*hint], address, length) &&
            (ranges_[*hint].access & access) == access) {
            *found = &ranges_[*hint];
            return TENT_OK;
        }
        auto above = std::upper_bound(
            ranges_.begin(), ranges_.end(), address,
            [](uint64_t value, const Range &range) { return value < range.address; });
        int32_t verdict = TENT_E_RANGE;
        // Overlapping ranges: walk down while some range that begins earlier may still reach
        // `address`.
        for (size_t i = static_cast<size_t>(above - ranges_.begin());
             i-- > 0 && end_max_[i] > address;) {
            if (!holds(ranges_[i], address, length)) continue;
            if ((ranges_[i].access & access) == access) {
                *hint = static_cast<uint32_t>(i);
                *found = &ranges_[i];
                return TENT_OK;
            }
            verdict = TENT_E_DENIED;
        }
        return verdict;
    }

    const std::vector<Range> &ranges() const { return ranges_; }

  private:
    static bool before(const Range &a, const Range &b) {
        return a.address != b.address ? a.address < b.address : a.length < b.length;
    }

    void index_ends() {
        end_max_.clear();
        end_max_.reserve(ranges_.size());
        uint64_t end = 0;
        for (const Range &range : ranges_) {
            end = std::max(end, range.address + range.length);
            end_max_.push_back(end);
        }
    }

    static bool holds(const Range &range, uint64_t address, uint64_t length) {
        // No overflow: address >= range.address and offset <= range.length before the last
        // comparison.
        return address >= range.address && address - range.address <= range.length &&
               length <= range.length - (address - range.address);
    }

    std::vector<Range> ranges_;
    std::vector<uint64_t> end_max_;  // highest end among ranges_[0..i]
};

}  // namespace tent
