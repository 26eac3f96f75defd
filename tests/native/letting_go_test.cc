// A transport that never lets go of memory or of an endpoint: calls that wait for it end all the
// same, say so, and can be made again.
//
// Leans on engine_pair.h and on the fault decorator over tcp; real engines with workers, so each
// wait takes its fence_timeout.
#include "engine_pair.h"

namespace {

constexpr uint64_t SECOND = 1000000000u;

std::string plan(const char *failure, const char *lasts = "good") {
    return std::string("plan 1\nset fence_timeout=50ms\ndecorate tcp fault\nset fault.fail=") +
           failure + ":1\nset fault.fail_for=" + lasts +
           "\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n";
}

const char *PLAIN = "plan 1\nset fence_timeout=50ms\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n";

// Calls again while the answer is UNFENCED_LOCAL; how often that was.
template <class Call>
int until_through(Call call) {
    for (int count = 0; count < 100; count++) {
        const int32_t status = call();
        if (status == TENT_OK) return count;
        if (!CHECK_EQ(status, TENT_E_UNFENCED_LOCAL)) return -1;
    }
    CHECK(!"it never came through");
    return -1;
}

struct Target {
    std::vector<uint8_t> memory = std::vector<uint8_t>(4096);
    TestEngine engine;
    uint64_t region;

    explicit Target(const std::string &text)
        : engine("target", text.c_str()), region(engine.add(memory)) {}
};

}  // namespace

TEST(a_region_that_a_transport_keeps_is_not_released) {
    Target target(plan("region_release", "200ms"));
    CHECK(until_through([&] { return tent_region_release(target.engine.engine, target.region); }) >
          0);
    CHECK_EQ(tent_region_release(target.engine.engine, target.region), TENT_E_NOT_FOUND);
    Target never(plan("region_release"));
    CHECK_EQ(tent_region_release(never.engine.engine, never.region), TENT_E_UNFENCED_LOCAL);
    uint32_t count = 0;  // it is refused to all already
    OK(tent_segment_regions(never.engine.engine, 0, nullptr, 0, &count));
    CHECK_EQ(count, 0u);
}

TEST(a_grant_whose_endpoints_are_not_retired_says_so) {
    Target target(plan("endpoint_retire", "200ms"));
    TestEngine initiator("initiator", PLAIN);
    uint64_t grant = 0, segment = 0, size = 4096;
    OK(tent_grant_create(target.engine.engine, nullptr, &grant));
    uint8_t descriptor[4096];
    OK(tent_segment_export(target.engine.engine, grant, descriptor, &size));
    OK(tent_segment_import(initiator.engine, descriptor, size, 10 * SECOND, &segment));
    CHECK(until_through([&] { return tent_grant_revoke(target.engine.engine, grant); }) > 0);
    CHECK_EQ(tent_grant_revoke(target.engine.engine, grant), TENT_E_NOT_FOUND);
}

TEST(a_segment_whose_endpoints_never_close_does_not_keep_its_closer) {
    Target target(PLAIN);
    TestEngine initiator("initiator", plan("endpoint_close").c_str());
    uint64_t segment = 0;
    OK(tent_segment_open(initiator.engine, target.engine.address().c_str(), 10 * SECOND, &segment));
    CHECK_EQ(tent_segment_close(initiator.engine, segment), TENT_E_UNFENCED_LOCAL);
    initiator.close();
}

TEST(an_engine_closes_only_when_peers_have_let_go_of_its_memory_or_says_so) {
    for (const char *lasts : {"20ms", "good"}) {
        Target target(plan("endpoint_retire", lasts));
        TestEngine initiator("initiator", PLAIN);
        uint64_t segment = 0;
        OK(tent_segment_open(initiator.engine, target.engine.address().c_str(), 10 * SECOND,
                             &segment));
        const bool lets_go = strcmp(lasts, "good") != 0;
        CHECK_EQ(tent_engine_close(target.engine.engine),
                 lets_go ? TENT_OK : TENT_E_UNFENCED_LOCAL);
        target.engine.engine = nullptr;
    }
}
