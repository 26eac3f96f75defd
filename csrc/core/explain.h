// What the scheduler would decide for a request that need not exist, and why: tent_explain. Driver
// only. Leans on routes for the match and on sched/ for the decision, both the data path's own, so
// that the two cannot drift apart. Must never change what a later request meets: only the idle
// decay of estimates, which time brings anyway, is carried on.
#pragma once

#include "core/engine.h"

namespace tent {

// query: checked, with its defaults filled in. *out: all but `size` is set. candidates: replaced,
// those of all rungs in the plan's order, their `size` 0.
void explain(const Engine &engine, const Segment &segment, const tent_explain_query &query,
             tent_explanation *out, std::vector<tent_candidate> *candidates);

}  // namespace tent
