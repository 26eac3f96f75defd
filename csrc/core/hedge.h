// Hedging: a late last slice of a request is posted a second time on another endpoint; the first of
// the twins to settle counts, the other is waited for, or fenced after hedge_grace. An option of a
// rung, off by default: terminal means quiescent, so it pays only where a fence is cheaper than the
// tail. Driver only. Must never end a request while a twin is unsettled, nor let twins teach.
#pragma once

#include "core/engine.h"

namespace tent {

constexpr uint32_t HEDGE_WATCHED_MAX = 1024;

void hedge_init(Engine &engine);
// All bytes of the request are bound, `slice` the last of them: the one that is last to settle is
// to be watched, where its rung says so.
void hedge_watch(Engine &engine, uint32_t request, uint32_t slice);
// Hedges what is late, fences losers whose grace is over.
void hedge_step(Engine &engine);
// A twin has settled with success. True: it is the first, its bytes count.
bool hedge_won(Engine &engine, uint32_t slice);
// A twin's path has failed. True: the other one carries on or has won, this one is not retried.
bool hedge_dropped(Engine &engine, uint32_t slice);

}  // namespace tent
