// Sweeps on the simulated fabric and over sockets; see sweep.h.
#include "sweep.h"

using namespace sweeping;

TEST(without_a_fault_the_scenario_passes) {
    std::string trouble;
    const uint64_t before = FAULT(operations)("any");
    CHECK(clean({}, &trouble));
    CHECK_EQ(trouble, "");
    CHECK(FAULT(operations)("any") > before);
}

TEST(any_operation_of_the_initiator_may_fail_once) {
    sweep(0, "any", "once");
}

TEST(any_operation_of_the_target_may_fail_once) {
    sweep(1, "any", "once");
}

TEST(operations_of_the_initiator_may_fail_for_good) {
    sweep(0, "any", "good");
}

TEST(operations_of_the_target_may_fail_for_good) {
    sweep(1, "any", "good");
}

TEST(operations_may_fail_for_a_while) {
    for (size_t host : {0, 1})
        sweep(host, "any", "30ms");
}

TEST(over_sockets_any_operation_may_fail_once) {
    for (size_t host : {0, 1})
        sweep(host, "any", "once", Over::TCP);
}

TEST(over_sockets_operations_may_fail_for_good) {
    for (size_t host : {0, 1})
        sweep(host, "any", "good", Over::TCP);
}

TEST(each_way_to_fail_may_last_for_good_alone) {
    for (size_t host : {0, 1})
        for (uint32_t i = 0; FAULT(name)(i) != nullptr; i++)
            if (strcmp(FAULT(name)(i), "any") != 0) sweep(host, FAULT(name)(i), "good");
}

TEST(posts_and_slices_may_fail_once_in_every_other_way) {
    for (const char *failure : {"full", "partial", "drop", "drop_result", "corrupt"})
        sweep(0, failure, "once");
}
