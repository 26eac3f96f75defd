// The end of grants by the clock: initiators refuse by themselves, targets let go of the endpoints.
#include <sched.h>

#include <chrono>

#include "engine_pair.h"

namespace {

uint64_t wall_ms() {
    return static_cast<uint64_t>(std::chrono::duration_cast<std::chrono::milliseconds>(
                                     std::chrono::system_clock::now().time_since_epoch())
                                     .count());
}

// Has an event of the type come? Waits for it; false when none comes.
bool seen(tent_engine *engine, uint32_t type) {
    for (int i = 0; i < 20000; i++) {
        tent_event event{};
        for (uint32_t count = 1;
             tent_events_poll(engine, &event, sizeof event, &count) == TENT_OK && count == 1;)
            if (event.type == type) return true;
        usleep(1000);
    }
    return false;
}

struct Granted {
    EnginePair pair{1 << 16};
    uint64_t grant = 0, segment = 0;

    explicit Granted(uint64_t expires_unix_ms) {
        tent_grant_options options{};
        options.size = sizeof options;
        options.expires_unix_ms = expires_unix_ms;
        OK(tent_grant_create(pair.target.engine, &options, &grant));
        std::vector<uint8_t> bytes(4096);
        uint64_t size = bytes.size();
        OK(tent_segment_export(pair.target.engine, grant, bytes.data(), &size));
        OK(tent_segment_import(pair.initiator.engine, bytes.data(), size, 5000000000u, &segment));
    }
    int32_t write() const {
        tent_request request = pair.request(TENT_OP_WRITE, 0, 100);
        request.segment = segment;
        uint32_t index = 0;
        return tent_transfer(pair.initiator.engine, nullptr, &request, sizeof request, 1,
                             10000000000u, &index);
    }
};

}  // namespace

TEST(an_expired_grant_loses_its_endpoints_though_nobody_uses_them) {
    Granted granted(wall_ms() + 300);
    CHECK(seen(granted.pair.target.engine, TENT_EVENT_ENDPOINT_RETIRED));
    CHECK_EQ(granted.write(), TENT_E_DENIED);
    CHECK_EQ(granted.pair.transfer(TENT_OP_WRITE, 0, 100), TENT_OK);  // the default one stays
}

TEST(an_initiator_refuses_a_grant_that_has_expired_before_anything_is_sent) {
    const uint64_t end_ms = wall_ms() + 300;
    Granted granted(end_ms);
    int32_t status = granted.write();
    CHECK(status == TENT_OK || wall_ms() >= end_ms);
    while (wall_ms() < end_ms)
        sched_yield();
    CHECK_EQ(granted.write(), TENT_E_DENIED);
    CHECK(strstr(tent_last_error(), "expired") != nullptr);
}
