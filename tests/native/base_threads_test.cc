// csrc/base: Ring, IndexPool and ReadGate, alone and under threads (run it under TSan as well).
//
// No test waits for time: threads run a fixed number of operations.
#include <sched.h>

#include <memory>
#include <set>
#include <thread>
#include <vector>

#include "base/pool.h"
#include "base/ring.h"
#include "base/snapshot.h"
#include "check.h"

using namespace tent;

// ---- ring --------------------------------------------------------------------------------------

TEST(ring_is_first_in_first_out_and_full_at_its_capacity) {
    Ring<int> ring;
    int value = 0;
    CHECK(!ring.try_push(1));
    CHECK(!ring.try_pop(value));
    CHECK_EQ(ring.capacity(), 0u);
    CHECK(ring.init(3));
    CHECK(!ring.init(3));
    CHECK_EQ(ring.capacity(), 4u);
    for (int lap = 0; lap < 5; lap++) {
        for (int i = 0; i < 4; i++)
            CHECK(ring.try_push(10 * lap + i));
        CHECK(!ring.try_push(99));
        CHECK_EQ(ring.size(), 4u);
        for (int i = 0; i < 4; i++) {
            CHECK(ring.try_pop(value));
            CHECK_EQ(value, 10 * lap + i);
        }
        CHECK(!ring.try_pop(value));
        CHECK(ring.empty());
        // An odd step, so that laps begin at every cell.
        CHECK(ring.try_push(lap));
        CHECK(ring.try_pop(value));
    }
}

TEST(ring_refuses_senseless_capacities) {
    Ring<int> zero;
    CHECK(!zero.init(0));
    Ring<int> huge;
    CHECK(!huge.init(Ring<int>::CAPACITY_MAX + 1));
    Ring<int> one;
    CHECK(one.init(1));
    CHECK_EQ(one.capacity(), 2u);
}

TEST(ring_passes_every_item_once_between_threads) {
    struct Item {
        uint32_t producer;
        uint32_t number;
        uint64_t check;
    };
    constexpr uint32_t PRODUCERS = 3;
    constexpr uint32_t CONSUMERS = 3;
    constexpr uint32_t EACH = 20000;
    Ring<Item> ring;
    CHECK(ring.init(64));
    std::atomic<uint32_t> taken{0};
    std::vector<std::vector<Item>> got(CONSUMERS);
    std::vector<std::thread> threads;
    for (uint32_t p = 0; p < PRODUCERS; p++) {
        threads.emplace_back([&ring, p] {
            for (uint32_t i = 0; i < EACH; i++) {
                while (!ring.try_push({p, i, uint64_t{p} << 32 | i}))
                    sched_yield();
            }
        });
    }
    for (uint32_t c = 0; c < CONSUMERS; c++) {
        threads.emplace_back([&ring, &taken, &mine = got[c]] {
            Item item = {};
            while (taken.load(std::memory_order_relaxed) < PRODUCERS * EACH) {
                if (ring.try_pop(item)) {
                    mine.push_back(item);
                    taken.fetch_add(1, std::memory_order_relaxed);
                } else {
                    sched_yield();
                }
            }
        });
    }
    for (std::thread &thread : threads)
        thread.join();
    std::vector<uint32_t> seen(PRODUCERS * EACH);
    for (const std::vector<Item> &items : got) {
        std::vector<int64_t> last(PRODUCERS, -1);
        for (const Item &item : items) {
            CHECK_EQ(item.check, uint64_t{item.producer} << 32 | item.number);
            seen[item.producer * EACH + item.number]++;
            // What one consumer gets of one producer is in order.
            CHECK(int64_t{item.number} > last[item.producer]);
            last[item.producer] = item.number;
        }
    }
    for (const uint32_t count : seen)
        CHECK_EQ(count, 1u);
    CHECK(ring.empty());
}

// ---- pool --------------------------------------------------------------------------------------

namespace {

std::vector<uint32_t> chain(const IndexPool &pool, uint32_t first) {
    std::vector<uint32_t> out;
    for (uint32_t i = first; i != IndexPool::NIL && out.size() <= pool.capacity();
         i = pool.next(i)) {
        out.push_back(i);
    }
    return out;
}

}  // namespace

TEST(pool_hands_out_every_index_once) {
    IndexPool pool;
    CHECK(!pool.init(0));
    CHECK(pool.init(10));
    CHECK(!pool.init(10));
    CHECK_EQ(pool.available(), 10u);
    uint32_t first = 0;
    CHECK_EQ(pool.take(0, &first), 0u);
    CHECK_EQ(first, IndexPool::NIL);
    CHECK_EQ(pool.take(4, &first), 4u);
    const std::vector<uint32_t> a = chain(pool, first);
    CHECK_EQ(a.size(), 4u);
    CHECK_EQ(pool.take(100, &first), 6u);
    const std::vector<uint32_t> b = chain(pool, first);
    CHECK_EQ(b.size(), 6u);
    std::set<uint32_t> all(a.begin(), a.end());
    all.insert(b.begin(), b.end());
    CHECK_EQ(all.size(), 10u);
    CHECK_EQ(*all.rbegin(), 9u);
    CHECK_EQ(pool.available(), 0u);
    CHECK_EQ(pool.take(1, &first), 0u);
    CHECK_EQ(first, IndexPool::NIL);
    CHECK_EQ(pool.take_one(), IndexPool::NIL);
}

TEST(pool_joins_used_and_fresh_indexes_in_one_chain) {
    IndexPool pool;
    CHECK(pool.init(8));
    uint32_t first = 0;
    CHECK_EQ(pool.take(3, &first), 3u);
    const std::vector<uint32_t> used = chain(pool, first);
    pool.give(used.front(), used.back(), 3);
    CHECK_EQ(pool.available(), 8u);
    CHECK_EQ(pool.take(2, &first), 2u);
    CHECK_EQ(chain(pool, first), (std::vector<uint32_t>{used[0], used[1]}));
    CHECK_EQ(pool.take(3, &first), 3u);
    const std::vector<uint32_t> mixed = chain(pool, first);
    CHECK_EQ(mixed, (std::vector<uint32_t>{used[2], 3, 4}));
    // A chain may be put together anew by its owner before it is given back.
    pool.set_next(4, 2);
    pool.set_next(2, 3);
    pool.give(4, 3, 3);
    CHECK_EQ(pool.take(3, &first), 3u);
    CHECK_EQ(chain(pool, first), (std::vector<uint32_t>{4, 2, 3}));
    pool.give_one(4);
    CHECK_EQ(pool.take_one(), 4u);
    CHECK_EQ(pool.next(4), IndexPool::NIL);
}

TEST(pool_gives_no_index_to_two_threads) {
    constexpr uint32_t CAPACITY = 97;
    IndexPool pool;
    CHECK(pool.init(CAPACITY));
    // Plain memory: TSan reports an item that has two owners, or whose last owner's writes are not
    // visible.
    std::vector<uint64_t> owner(CAPACITY);
    std::vector<std::thread> threads;
    for (uint64_t t = 1; t <= 4; t++) {
        threads.emplace_back([&pool, &owner, t] {
            for (uint32_t round = 0; round < 10000; round++) {
                uint32_t first = 0;
                const uint32_t want = 1 + (round * 7 + static_cast<uint32_t>(t)) % 40;
                const uint32_t count = pool.take(want, &first);
                if (!CHECK(count <= want)) return;
                uint32_t last = IndexPool::NIL;
                uint32_t length = 0;
                for (uint32_t i = first; i != IndexPool::NIL; i = pool.next(i)) {
                    if (!CHECK(i < CAPACITY) || !CHECK_EQ(owner[i], 0u)) return;
                    owner[i] = t;
                    last = i;
                    length++;
                }
                if (!CHECK_EQ(length, count)) return;
                if (count == 0) continue;
                if (round % 64 == 0) sched_yield();
                for (uint32_t i = first; i != IndexPool::NIL; i = pool.next(i)) {
                    if (!CHECK_EQ(owner[i], t)) return;
                    owner[i] = 0;
                }
                pool.give(first, last, count);
            }
        });
    }
    for (std::thread &thread : threads)
        thread.join();
    uint32_t first = 0;
    CHECK_EQ(pool.available(), CAPACITY);
    CHECK_EQ(pool.take(CAPACITY, &first), CAPACITY);
    const std::vector<uint32_t> all = chain(pool, first);
    CHECK_EQ(std::set<uint32_t>(all.begin(), all.end()).size(), CAPACITY);
}

// One thread takes long chains, whose links it must walk before it can swing the head; meanwhile
// another takes two items and gives the first back, so that the same head returns over other links.
// Without the head's tag this fails nearly always.
TEST(pool_survives_a_head_that_comes_back) {
    constexpr uint32_t CAPACITY = 256;
#if defined(__SANITIZE_THREAD__)
    constexpr uint32_t ROUNDS = 3000;  // TSan makes each some twenty times dearer
#else
    constexpr uint32_t ROUNDS = 60000;
#endif
    IndexPool pool;
    CHECK(pool.init(CAPACITY));
    std::vector<std::atomic<uint32_t>> owners(CAPACITY);
    std::atomic<bool> broken{false};
    std::atomic<bool> done{false};
    const auto own = [&](uint32_t index) {
        if (index != IndexPool::NIL && owners[index].fetch_add(1) != 0) broken = true;
    };
    const auto disown = [&](uint32_t index) {
        if (index != IndexPool::NIL) owners[index].fetch_sub(1);
    };
    std::thread swapper([&] {
        while (!done.load() && !broken.load()) {
            const uint32_t a = pool.take_one();
            const uint32_t b = pool.take_one();
            own(a);
            own(b);
            disown(a);
            if (a != IndexPool::NIL) pool.give_one(a);
            disown(b);
            if (b != IndexPool::NIL) pool.give_one(b);
        }
    });
    for (uint32_t round = 0; round < ROUNDS && !broken.load(); round++) {
        uint32_t first = 0;
        const uint32_t count = pool.take(CAPACITY, &first);
        uint32_t last = first;
        uint32_t length = 0;
        for (uint32_t i = first; i != IndexPool::NIL && length < CAPACITY; i = pool.next(i)) {
            own(i);
            last = i;
            length++;
        }
        if (length != count) broken = true;
        for (uint32_t i = first; length > 0; i = pool.next(i), length--)
            disown(i);
        if (count != 0 && !broken.load()) pool.give(first, last, count);
    }
    done.store(true);
    swapper.join();
    CHECK(!broken.load());
}

// ---- read gate ---------------------------------------------------------------------------------

TEST(synchronize_returns_when_nobody_reads) {
    ReadGate gate;
    gate.synchronize();
    {
        ReadScope a(gate);
        ReadScope b(gate);
    }
    gate.synchronize();
    gate.synchronize();
}

TEST(synchronize_waits_for_a_reader_that_entered_before) {
    ReadGate gate;
    for (int lap = 0; lap < 3; lap++) {  // both sides get to be the old one
        const uint32_t token = gate.enter();
        std::atomic<bool> left{false};
        std::atomic<bool> begun{false};
        std::thread writer([&] {
            begun.store(true);
            gate.synchronize();
            CHECK(left.load());
        });
        while (!begun.load())
            sched_yield();
        // Gives a writer that would not wait the chance to show it; a right one waits however long
        // this is.
        for (int i = 0; i < 100; i++)
            sched_yield();
        left.store(true);
        gate.leave(token);
        writer.join();
    }
}

TEST(readers_never_see_a_freed_snapshot) {
    struct Snapshot {
        uint64_t a;
        uint64_t b;
    };
    ReadGate gate;
    std::atomic<Snapshot *> current{new Snapshot{0, 0}};
    std::atomic<bool> stop{false};
    std::vector<std::thread> readers;
    for (int i = 0; i < 3; i++) {
        readers.emplace_back([&] {
            uint64_t newest = 0;
            while (!stop.load(std::memory_order_relaxed)) {
                ReadScope scope(gate);
                const Snapshot *seen = current.load(std::memory_order_acquire);
                CHECK_EQ(seen->a, seen->b);
                CHECK(seen->a >= newest);
                newest = seen->a;
            }
        });
    }
    std::vector<std::thread> writers;
    std::atomic<uint64_t> version{0};
    std::mutex order;
    for (int i = 0; i < 2; i++) {
        writers.emplace_back([&] {
            for (int round = 0; round < 300; round++) {
                Snapshot *old = nullptr;
                {
                    std::lock_guard<std::mutex> lock(order);
                    const uint64_t number = version.fetch_add(1) + 1;
                    old = current.exchange(new Snapshot{number, number}, std::memory_order_acq_rel);
                }
                gate.synchronize();
                old->a =
                    UINT64_MAX;  // a reader still inside would see it, TSan would call it a race
                delete old;
            }
        });
    }
    for (std::thread &thread : writers)
        thread.join();
    stop.store(true);
    for (std::thread &thread : readers)
        thread.join();
    CHECK_EQ(current.load()->a, 600u);
    delete current.load();
}
