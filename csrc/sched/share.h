// How the classes share what can be posted: byte deficits (deficit round robin, Shreedhar and
// Varghese 1995), work conserving. Leans on the plan's parameters. One writer. Must never let a
// class that has nothing to post hold up another, nor save up for later.
#pragma once

#include <tent/tent.h>

#include <algorithm>

#include "plan/parameters.h"

namespace tent {

constexpr uint32_t CLASS_COUNT = 3;
constexpr uint32_t CLASS_ORDER[CLASS_COUNT] = {TENT_CLASS_HIGH, TENT_CLASS_NORMAL, TENT_CLASS_LOW};

class ClassShare {
  public:
    // Bytes a class may bind per round.
    static int64_t quantum(uint32_t class_, const Parameters &parameters) {
        uint64_t weight = class_ == TENT_CLASS_HIGH  ? parameters.class_weight_high
                          : class_ == TENT_CLASS_LOW ? parameters.class_weight_low
                                                     : parameters.class_weight_normal;
        return static_cast<int64_t>(weight << 20);
    }
    // The class has work again: a full quantum, and no more.
    void arrive(uint32_t class_, const Parameters &parameters) {
        deficit_[class_] = quantum(class_, parameters);
    }
    // Debt is bounded like savings: by one quantum.
    void spend(uint32_t class_, uint64_t bytes, const Parameters &parameters) {
        deficit_[class_] =
            std::max(deficit_[class_] - static_cast<int64_t>(bytes), -quantum(class_, parameters));
    }

    // The class to try next among those not yet found waiting (bit c of `servable`), -1: none. Those
    // with something left come first; the others borrow what these cannot use just now. A new round
    // begins when no class with work (`active`) has anything left, whether it could post or not:
    // else a class that waits for room would be given new rounds while it waits.
    int next(uint32_t servable, uint32_t active, const Parameters &parameters) {
        if (servable == 0) return -1;
        while (!any_left(active))
            for (uint32_t class_ : CLASS_ORDER) {
                int64_t more = quantum(class_, parameters);
                if (active >> class_ & 1)
                    deficit_[class_] = std::min(deficit_[class_] + more, more);
            }
        for (uint32_t class_ : CLASS_ORDER)
            if (servable >> class_ & 1 && deficit_[class_] > 0) return static_cast<int>(class_);
        for (uint32_t class_ : CLASS_ORDER)
            if (servable >> class_ & 1) return static_cast<int>(class_);
        return -1;
    }

  private:
    bool any_left(uint32_t active) const {
        for (uint32_t class_ : CLASS_ORDER)
            if (active >> class_ & 1 && deficit_[class_] > 0) return true;
        return active == 0;
    }

    int64_t deficit_[CLASS_COUNT] = {};
};

}  // namespace tent
