// Sweeps over shared memory, each of its ways; see sweep.h.
#include "sweep.h"

using namespace sweeping;

namespace {

constexpr Over WAYS[] = {Over::MAPPED, Over::ATTACH, Over::RING};

void sweep_both(const char *failure, const char *lasts) {
    for (Over over : WAYS)
        for (size_t host : {0, 1})
            sweep(host, failure, lasts, over);
}

// All that this transport has: it carries no streams, and takes over no sockets.
std::vector<std::string> failures() {
    std::vector<std::string> found;
    for (uint32_t i = 0; FAULT(name)(i) != nullptr; i++) {
        const std::string name = FAULT(name)(i);
        if (name != "any" && name != "endpoint_adopt" && name.find("stream_") != 0)
            found.push_back(name);
    }
    return found;
}

}  // namespace

TEST(without_a_fault_the_scenario_passes_every_way) {
    for (Over over : WAYS) {
        Plan plan;
        plan.over = over;
        std::string trouble;
        CHECK(clean(plan, &trouble));
        CHECK_EQ(trouble, "");
    }
}

// A region that shm could not export or import is reached by another transport alone.
TEST(with_tcp_behind_it_any_operation_may_fail_once) {
    for (Over over : WAYS)
        for (size_t host : {0, 1})
            sweep(host, "any", "once", over, true);
}

TEST(alone_any_operation_but_those_of_regions_may_fail_once) {
    for (const std::string &failure : failures())
        if (failure != "region_export" && failure != "segment_import")
            sweep_both(failure.c_str(), "once");
}

TEST(operations_may_fail_for_good) {
    sweep_both("any", "good");
}

TEST(operations_may_fail_for_a_while) {
    sweep_both("any", "30ms");
}

// Each on one of the ways, in turn.
TEST(each_way_to_fail_may_last_for_good_alone) {
    size_t turn = 0;
    for (const std::string &failure : failures()) {
        const Over over = WAYS[turn++ % 3];
        for (size_t host : {0, 1})
            sweep(host, failure, "good", over);
    }
}
