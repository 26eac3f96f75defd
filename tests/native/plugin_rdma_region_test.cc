// The rdma transport's regions: on which rails, in which pieces, what they share, and what is said
// where they cannot be registered.
#include <chrono>
#include <condition_variable>
#include <future>
#include <thread>

#include "check.h"
#include "plugins/rdma/pin.h"
#include "rdma_memory.h"

using namespace rdma_memory;

// ---- pieces -----------------------------------------------------------------------------------

TEST(a_small_region_is_one_piece_and_a_large_one_eight) {
    CHECK_EQ(piece_size_choose(4096, 0, 0), 4096u);
    CHECK_EQ(piece_size_choose(1, 0, 0), 1u);
    CHECK_EQ(piece_size_choose(GIB - 1, 0, 0), GIB - 1);
    CHECK_EQ(piece_size_choose(GIB, 0, 0), GIB / 8);
    CHECK_EQ(piece_size_choose(8 * GIB + 1, 0, 0), GIB);
    CHECK_EQ(piece_size_choose(8 * GIB + 8, 0, 0), GIB + 2 * MIB);
}

TEST(pieces_are_as_the_option_says_and_the_device_allows) {
    CHECK_EQ(piece_size_choose(64 * MIB, 16 * MIB, 0), 16 * MIB);
    CHECK_EQ(piece_size_choose(64 * MIB, 5000, 0), 8192u);
    CHECK_EQ(piece_size_choose(64 * MIB, 0, 10 * MIB + 5), 10 * MIB);
    CHECK_EQ(piece_size_choose(64 * MIB, 32 * MIB, 10000), 8192u);
    CHECK_EQ(piece_size_choose(64 * MIB, 0, UINT64_MAX), 64 * MIB);
}

TEST(there_are_never_more_pieces_than_the_protocol_holds) {
    const uint64_t lengths[] = {uint64_t{PIECES_MAX} * 4096, uint64_t{PIECES_MAX} * 4096 + 1,
                                1024 * GIB + 12345};
    for (const uint64_t length : lengths) {
        const uint64_t size = piece_size_choose(length, 4096, 0);
        CHECK_EQ(size % 4096, 0u);
        CHECK((length + size - 1) / size <= PIECES_MAX);
    }
}

// ---- regions on rails -------------------------------------------------------------------------

TEST(a_region_is_registered_on_every_rail_and_released_on_each) {
    World world;
    Region *region = world.region(0x100000, 3 * MIB);
    CHECK_EQ(library.live, 2);
    const Registration *first = registration_on(*region, world.rails[0]);
    CHECK(first != nullptr && first->pieces.size() == 1);
    CHECK(registration_on(*region, world.rails[1]) != nullptr);
    CHECK(library.asked[0].pd != library.asked[1].pd);
    CHECK_EQ(region_release(&world.instance, region), TENT_OK);
    CHECK_EQ(library.live, 0);
}

TEST(pieces_cover_the_region_without_gap_or_overlap) {
    World world(1);
    world.instance.options.piece_size = MIB;
    Region *region = world.region(0x123456, 5 * MIB + 77);
    const Registration *registration = registration_on(*region, world.rails[0]);
    CHECK_EQ(registration->pieces.size(), size_t{6});
    uint64_t at = 0x123456;
    for (const Piece &piece : registration->pieces) {
        CHECK_EQ(reinterpret_cast<uintptr_t>(piece.mr->addr), at);
        CHECK_EQ(piece.lkey, piece.mr->lkey);
        CHECK_EQ(piece.rkey, piece.mr->rkey);
        at += piece.mr->length;
    }
    CHECK_EQ(at, 0x123456 + 5 * MIB + 77);
}

TEST(with_windows_peers_can_name_nothing_by_the_registration_itself) {
    World world(1);
    world.region(0x100000, MIB);
    CHECK_EQ(library.asked[0].access, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND);
}

TEST(without_windows_the_registration_allows_what_the_region_does) {
    World world(1, false);
    world.region(0x100000, MIB, TENT_ACCESS_READ);
    world.region(0x300000, MIB, ALL);
    CHECK_EQ(library.asked[0].access, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ);
    CHECK_EQ(library.asked[1].access,
             IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_REMOTE_WRITE);
}

TEST(pieces_are_registered_by_several_threads_at_a_time) {
    World world(1);
    world.host.table.errand = [](void *, void (*run)(void *), void *argument) {
        World::threads.emplace_back(run, argument);
    };
    world.instance.options.piece_size = MIB;
    std::condition_variable met;
    int inside = 0;
    bool together = false;
    library.refuse = [&](const Library::Asked &) {
        std::unique_lock lock(library.mutex);
        inside++;
        together = together || inside >= 3;
        met.notify_all();
        met.wait_for(lock, std::chrono::seconds(20), [&] { return together; });
        inside--;
        return 0;
    };
    world.region(0x100000, 16 * MIB);
    CHECK(together);
    CHECK_EQ(library.live, 16);
}

TEST(memory_that_may_only_be_read_is_registered_for_reading) {
    World world(1);
    library.refuse = [](const Library::Asked &asked) {
        return (asked.access & (IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_MW_BIND)) != 0 ? EFAULT : 0;
    };
    Region *region = world.region(0x100000, MIB, TENT_ACCESS_READ);
    CHECK(registration_on(*region, world.rails[0]) != nullptr);
    CHECK_EQ(library.asked.back().access, IBV_ACCESS_REMOTE_READ);
    // Its key is the registration's own, so that another region gets a registration of its own.
    Region *same = world.region(0x100000, MIB, TENT_ACCESS_READ);
    CHECK(registration_on(*same, world.rails[0]) != registration_on(*region, world.rails[0]));
    CHECK(world.join(1));
    CHECK(registration_on(*same, world.rails[1]) != registration_on(*region, world.rails[1]));
    Region *writable = world.region(0x100000, MIB, ALL);
    CHECK(registration_on(*writable, world.rails[0]) == nullptr);
}

TEST(a_kernel_that_refuses_relaxed_ordering_gets_none) {
    World world(1);
    world.instance.options.relaxed_ordering = true;
    library.refuse = [](const Library::Asked &asked) {
        return (asked.access & IBV_ACCESS_RELAXED_ORDERING) != 0 ? EINVAL : 0;
    };
    Region *region = world.region(0x100000, MIB);
    CHECK(registration_on(*region, world.rails[0]) != nullptr);
}

TEST(a_rail_that_cannot_reach_a_region_says_so_once_and_the_other_goes_on) {
    World world;
    world.instance.options.piece_size = MIB;
    library.refuse = [&](const Library::Asked &asked) {
        return asked.pd == &world.pds[1] && asked.address > 0x200000 ? EFAULT : 0;
    };
    Region *region = world.region(0x100000, 4 * MIB);
    CHECK(registration_on(*region, world.rails[0]) != nullptr);
    CHECK(registration_on(*region, world.rails[1]) == nullptr);
    CHECK_EQ(library.live, 4);  // nothing of the other's is left
    CHECK_EQ(world.host.logged.size(), size_t{1});
    CHECK(world.host.logged[0].find("rail 1 two") != std::string::npos);
    const std::string about = world.about(region);
    CHECK(about.find("rail 0 one: registered, 4 pieces, windows\nrail 1 two: not registered: ") ==
          0);
    CHECK(about.find("mapped") != std::string::npos);
}

TEST(strict_refuses_what_one_rail_cannot_reach_and_undoes_the_rest) {
    World world;
    world.instance.options.strict = true;
    library.refuse = [&](const Library::Asked &asked) {
        return asked.pd == &world.pds[1] ? ENOMEM : 0;
    };
    Region *region = nullptr;
    CHECK_EQ(world.add(0x100000, MIB, ALL, &region), TENT_E_NO_MEMORY);
    CHECK_EQ(library.live, 0);
    CHECK(world.host.failure.find("rail 1 two: ") != std::string::npos);
    CHECK(world.instance.regions.empty());
}

TEST(memory_that_wraps_around_is_refused) {
    World world;
    Region *region = nullptr;
    CHECK_EQ(world.add(UINT64_MAX - 10, 100, ALL, &region), TENT_E_INVALID);
    CHECK_EQ(world.add(0x1000, 0, ALL, &region), TENT_E_INVALID);
}

TEST(paging_on_demand_is_asked_for_only_where_the_device_can) {
    World world;
    world.instance.options.on_demand = true;
    world.rails[1].on_demand = true;
    Region *region = world.region(0x100000, MIB);
    CHECK_EQ(library.live, 1);
    CHECK((library.asked[0].access & IBV_ACCESS_ON_DEMAND) != 0);
    CHECK(world.about(region).find("rdma.on_demand=no") != std::string::npos);
}

// ---- the cache --------------------------------------------------------------------------------

TEST(regions_of_the_same_memory_share_and_the_last_one_lets_go) {
    World world;
    Region *first = world.region(0x100000, MIB);
    Region *second = world.region(0x100000, MIB);
    Region *inside = world.region(0x140000, 4096, TENT_ACCESS_READ);
    CHECK_EQ(library.live, 2);
    CHECK(registration_on(*inside, world.rails[0]) == registration_on(*first, world.rails[0]));
    CHECK_EQ(region_release(&world.instance, first), TENT_OK);
    CHECK_EQ(region_release(&world.instance, inside), TENT_OK);
    CHECK_EQ(library.live, 2);
    CHECK(registration_on(*second, world.rails[1]) != nullptr);
    CHECK_EQ(region_release(&world.instance, second), TENT_OK);
    CHECK_EQ(library.live, 0);
    // Nothing is kept for later.
    world.region(0x100000, MIB);
    CHECK_EQ(library.live, 2);
}

TEST(a_region_shares_nothing_that_does_not_hold_all_of_it) {
    World world(1);
    world.instance.options.piece_size = MIB;
    world.region(0x100000, 4 * MIB, TENT_ACCESS_READ);
    CHECK_EQ(library.live, 4);
    world.region(0x100000 + MIB - 4096, 8192, TENT_ACCESS_READ);  // across two pieces
    CHECK_EQ(library.live, 5);
    world.region(0x100000, 4096, ALL);  // more access
    CHECK_EQ(library.live, 6);
    world.region(0x100000 + 4 * MIB - 4096, 8192, TENT_ACCESS_READ);  // over the end
    CHECK_EQ(library.live, 7);
    world.region(0x100000 + 3 * MIB, 4096, TENT_ACCESS_READ);
    CHECK_EQ(library.live, 7);
}

TEST(without_windows_each_region_has_a_key_of_its_own) {
    World world(1, false);
    Region *first = world.region(0x100000, MIB);
    Region *second = world.region(0x100000, MIB);
    CHECK_EQ(library.live, 2);
    CHECK_EQ(region_release(&world.instance, first), TENT_OK);
    CHECK_EQ(library.live, 1);  // its key died with it
    CHECK(registration_on(*second, world.rails[0]) != nullptr);
}

// ---- rails that come and go -------------------------------------------------------------------

TEST(a_rail_that_comes_registers_the_regions_there_are) {
    World world(1);
    Region *first = world.region(0x100000, MIB);
    world.region(0x100000, MIB);
    CHECK_EQ(library.live, 1);
    CHECK(world.join(1));
    CHECK_EQ(library.live, 2);  // they share there as well
    CHECK(registration_on(*first, world.rails[1]) != nullptr);
}

TEST(a_rail_that_comes_while_a_region_is_registered_gets_it_too) {
    World world(1);
    bool came = false;
    library.refuse = [&](const Library::Asked &) {
        if (!came) {
            came = true;
            CHECK(world.join(1));
        }
        return 0;
    };
    Region *region = world.region(0x100000, MIB);
    CHECK(registration_on(*region, world.rails[0]) != nullptr);
    CHECK(registration_on(*region, world.rails[1]) != nullptr);
    CHECK_EQ(library.live, 2);
}

TEST(a_rail_that_goes_while_a_region_is_registered_is_left_with_nothing) {
    World world;
    bool gone = false;
    library.refuse = [&](const Library::Asked &asked) {
        CHECK(world.rails[asked.pd == &world.pds[1]].registering.load() > 0);
        if (!gone) {
            gone = true;
            regions_part(world.rails[1]);
        }
        return 0;
    };
    Region *region = world.region(0x100000, MIB);
    CHECK(registration_on(*region, world.rails[0]) != nullptr);
    CHECK(registration_on(*region, world.rails[1]) == nullptr);
    CHECK_EQ(library.live, 1);
    CHECK_EQ(world.rails[1].registering.load(), 0u);
}

TEST(what_is_shared_with_a_rail_that_goes_is_registered_anew_where_it_comes_back) {
    World world;
    world.region(0x100000, MIB);
    bool gone = false;
    // The second region shares on rail 1 and is registering on rail 0 when rail 1 goes and returns.
    regions_part(world.rails[0]);
    CHECK_EQ(library.live, 1);
    CHECK(world.join(0));
    library.refuse = [&](const Library::Asked &) {
        if (!gone) {
            gone = true;
            regions_part(world.rails[1]);
            world.rails[1].generation++;
            CHECK(world.join(1));
        }
        return 0;
    };
    Region *region = world.region(0x100000, 2 * MIB);
    const Registration *there = registration_on(*region, world.rails[1]);
    CHECK(there != nullptr && there->rail_generation == 2u);
    CHECK_EQ(library.live, 4);
}

TEST(what_is_shared_with_a_rail_that_goes_ends_once) {
    using std::chrono::seconds;
    World world;
    world.region(0x100000, MIB);
    world.rails[0].windows = false;  // nothing is shared there
    std::promise<void> registering, ending, registered;
    library.refuse = [&](const Library::Asked &) {
        registering.set_value();
        CHECK(ending.get_future().wait_for(seconds(20)) == std::future_status::ready);
        return 0;
    };
    bool ended = false;
    // While the driver lets go of it, who shares it finds out and gives it up.
    library.ending = [&] {
        if (ended) return;
        ended = true;
        ending.set_value();
        CHECK(registered.get_future().wait_for(seconds(20)) == std::future_status::ready);
    };
    Region *region = nullptr;
    std::thread beside([&] {
        region = world.region(0x100000, MIB);
        registered.set_value();
    });
    CHECK(registering.get_future().wait_for(seconds(20)) == std::future_status::ready);
    regions_part(world.rails[1]);
    beside.join();
    CHECK(registration_on(*region, world.rails[0]) != nullptr);
    CHECK(registration_on(*region, world.rails[1]) == nullptr);
    CHECK_EQ(library.live, 2);
}

TEST(a_device_that_returned_is_not_reached_by_registrations_of_before) {
    World world(1);
    Region *region = world.region(0x100000, MIB);
    world.rails[0].generation++;
    CHECK(registration_on(*region, world.rails[0]) == nullptr);
}

TEST(a_strict_rail_that_cannot_take_all_regions_takes_none) {
    World world(1);
    Region *region = world.region(0x100000, MIB);
    world.region(0x900000, MIB);
    world.instance.options.strict = true;
    library.refuse = [](const Library::Asked &asked) {
        return asked.address == 0x900000 ? EIO : 0;
    };
    CHECK(!world.join(1));
    CHECK_EQ(library.live, 2);
    CHECK(registration_on(*region, world.rails[1]) == nullptr);
    CHECK(!world.rails[1].joined);
}

TEST(a_release_waits_for_a_library_that_refuses) {
    World world(1);
    Region *region = world.region(0x100000, MIB);
    library.dereg_error = EBUSY;
    CHECK_EQ(region_release(&world.instance, region), TENT_IN_PROGRESS);
    CHECK_EQ(region_release(&world.instance, region), TENT_IN_PROGRESS);
    CHECK_EQ(world.host.logged.size(), size_t{1});
    // Nobody shares what is about to go.
    Region *other = world.region(0x100000, MIB);
    CHECK_EQ(library.live, 2);
    library.dereg_error = 0;
    CHECK_EQ(region_release(&world.instance, region), TENT_OK);
    CHECK_EQ(region_release(&world.instance, other), TENT_OK);
}

// ---- what is said of failures -----------------------------------------------------------------

TEST(the_limit_of_locked_memory_is_named_with_what_is_needed) {
    PinFailure failure;
    failure.error = ENOMEM;
    failure.device = "mlx5_0";
    failure.length = GIB;
    failure.memlock = 64 << 10;
    const std::string words = pin_words(failure);
    CHECK(words.find("(ulimit -l) is 64 KiB, 1 GiB are needed") != std::string::npos);
    CHECK(words.find("LimitMEMLOCK=infinity") != std::string::npos);
    failure.memlock = 2 * GIB;
    CHECK(pin_words(failure).find("ulimit") == std::string::npos);
    failure.pinned = GIB + GIB / 2;
    CHECK(pin_words(failure).find("beside the 1.5 GiB pinned already") != std::string::npos);
    failure.memlock = UINT64_MAX;
    CHECK(pin_words(failure).find("ulimit") == std::string::npos);
}

TEST(each_failure_says_what_mends_it) {
    PinFailure failure;
    failure.device = "mlx5_0";
    failure.length = GIB;
    failure.mr_max = 1000;
    failure.size_max = GIB;
    failure.error = EFAULT;
    CHECK(pin_words(failure).find("mapped") != std::string::npos);
    failure.error = ENOSPC;
    CHECK(pin_words(failure).find("at most 1000 regions of at most 1 GiB") != std::string::npos);
    failure.error = EOPNOTSUPP;
    failure.on_demand = true;
    CHECK(pin_words(failure).find("rdma.on_demand=no") != std::string::npos);
    failure.gpu = true;
    failure.dma_buf = "libcuda.so.1 cannot be opened";
    CHECK(pin_words(failure).find("libcuda.so.1 cannot be opened") != std::string::npos);
    CHECK(pin_words(failure).find("nvidia_peermem") != std::string::npos);
}
