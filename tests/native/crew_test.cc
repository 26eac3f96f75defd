// core/crew: helper threads that sleep, wake and stop; core/errands: threads for what blocks (run
// it under TSan as well).
//
// No test measures time: threads wait for what others have done.
#include "core/crew.h"

#include <sched.h>

#include <array>
#include <atomic>
#include <memory>

#include "check.h"
#include "core/errands.h"

using namespace tent;

namespace {

// A transport whose work is to count.
struct Counting {
    std::atomic<uint32_t> posted{0}, claimed{0}, done{0};
    std::atomic<bool> closed{false};
    std::array<std::atomic<uint32_t>, WORKERS_MAX> inside{};
    std::atomic<uint32_t> helpers_seen{0};  // bits
};

uint32_t count_one(void *opaque, uint32_t helper) {
    auto &counting = *static_cast<Counting *>(opaque);
    CHECK(!counting.closed.load());
    CHECK_EQ(counting.inside[helper].fetch_add(1), 0u);
    counting.helpers_seen.fetch_or(1u << helper);
    uint32_t next = counting.claimed.load();
    bool worked = false;
    while (!worked && next < counting.posted.load())
        worked = counting.claimed.compare_exchange_weak(next, next + 1);
    if (worked) counting.done.fetch_add(1);
    counting.inside[helper].fetch_sub(1);
    return worked;
}

tent_plugin table_of() {
    tent_plugin table{};
    table.size = sizeof table;
    table.work = count_one;
    return table;
}

void wait_for(const Counting &counting, uint32_t count) {
    while (counting.done.load() < count)
        sched_yield();
}

}  // namespace

TEST(helpers_wake_for_each_call_and_do_each_piece_once) {
    Counting counting;
    const tent_plugin table = table_of();
    Crew crew;
    crew.init(3);
    CHECK(crew.join(table, &counting));
    // Sometimes they look around still, sometimes they sleep: a call that is lost hangs the test.
    for (uint32_t round = 1; round <= 2000; round++) {
        counting.posted.fetch_add(2);
        crew.ready(1 + round % 3);
        wait_for(counting, 2 * round);
        if (round % 64 == 0)
            for (uint32_t helper = 0; helper < 3000; helper++)
                sched_yield();
    }
    CHECK_EQ(counting.done.load(), 4000u);
    CHECK_EQ(counting.helpers_seen.load() & ~7u, 0u);
}

TEST(several_transports_are_served) {
    auto countings = std::make_unique<std::array<Counting, CREW_TRANSPORTS_MAX>>();
    const tent_plugin table = table_of();
    Crew crew;
    crew.init(2);
    for (Counting &counting : *countings)
        CHECK(crew.join(table, &counting));
    Counting one_more;
    CHECK(!crew.join(table, &one_more));
    for (Counting &counting : *countings)
        counting.posted.store(100);
    crew.ready(2);
    for (Counting &counting : *countings)
        wait_for(counting, 100);
}

TEST(after_stop_nobody_is_inside_and_nobody_comes_back) {
    for (uint32_t round = 0; round < 50; round++) {
        Counting counting;
        const tent_plugin table = table_of();
        Crew crew;
        crew.init(2);
        CHECK(crew.join(table, &counting));
        counting.posted.store(1000000);
        crew.ready(2);
        wait_for(counting, round % 5);
        crew.stop();
        counting.closed.store(true);
        for (const auto &inside : counting.inside)
            CHECK_EQ(inside.load(), 0u);
        const uint32_t done = counting.done.load();
        crew.ready(2);
        CHECK_EQ(counting.done.load(), done);
    }
}

TEST(a_crew_of_none_says_so) {
    Counting counting;
    const tent_plugin table = table_of();
    Crew crew;
    CHECK(!crew.join(table, &counting));
    counting.posted.store(1);
    crew.ready(1);
    crew.stop();
    CHECK_EQ(counting.done.load(), 0u);
}

// ---- errands -----------------------------------------------------------------------------------

namespace {

// An errand that stays until it is let go.
struct Held {
    std::atomic<uint32_t> begun{0}, ended{0};
    std::atomic<bool> go{false};
};

void held(void *opaque) {
    auto &errand = *static_cast<Held *>(opaque);
    errand.begun.fetch_add(1);
    while (!errand.go.load())
        sched_yield();
    errand.ended.fetch_add(1);
}

}  // namespace

TEST(errands_that_block_do_not_hold_up_others) {
    Errands errands;
    Held first, second;
    errands.run(held, &first);
    errands.run(held, &second);
    while (first.begun.load() == 0 || second.begun.load() == 0)
        sched_yield();
    CHECK_EQ(first.ended.load(), 0u);
    second.go = true;
    while (second.ended.load() == 0)
        sched_yield();
    first.go = true;
    errands.drain();
    CHECK_EQ(first.ended.load(), 1u);
}

TEST(more_errands_than_threads_are_all_done_before_drain_returns) {
    Errands errands;
    Held errand;
    for (uint32_t i = 0; i < 5 * ERRANDS_MAX; i++)
        errands.run(held, &errand);
    while (errand.begun.load() < ERRANDS_MAX)
        sched_yield();
    CHECK_EQ(errand.begun.load(), ERRANDS_MAX);
    errand.go = true;
    errands.drain();
    CHECK_EQ(errand.ended.load(), 5 * ERRANDS_MAX);
}

TEST(an_errand_may_give_another) {
    struct Chain {
        Errands errands;
        std::atomic<uint32_t> done{0};
    } chain;
    chain.errands.run(
        [](void *opaque) {
            auto &c = *static_cast<Chain *>(opaque);
            c.errands.run([](void *inner) { static_cast<Chain *>(inner)->done.fetch_add(1); }, &c);
            c.done.fetch_add(1);
        },
        &chain);
    chain.errands.drain();
    CHECK_EQ(chain.done.load(), 2u);
}

TEST(without_threads_an_errand_runs_at_once) {
    Errands errands;
    errands.init(false);
    Held errand;
    errand.go = true;
    errands.run(held, &errand);
    CHECK_EQ(errand.ended.load(), 1u);
}
