// What the core tells transports that prepare ways to memory: all regions, also those that were
// there before the transport, and nothing about endpoints that it has closed.
#include "core/endpoints.h"
#include "core/types.h"
#include "engine_pair.h"

namespace {

constexpr char BOTH[] =
    "plan 1\nrail 0 shm host\nrail 1 tcp 127.0.0.1\nroute * : shm[0] ; tcp[1]\n";
constexpr char TCP_ALONE[] = "plan 1\nrail 1 tcp 127.0.0.1\nroute * : tcp[1]\n";

// How the first candidate would reach the segment's memory; "": no way that it tells of.
std::string via_first(tent_engine *engine, uint64_t segment) {
    tent_explain_query query{};
    query.size = sizeof query;
    query.segment = segment;
    query.op = TENT_OP_WRITE;
    query.length = 4096;
    tent_explanation head{};
    head.size = sizeof head;
    tent_candidate rows[8] = {};
    rows[0].size = sizeof rows[0];
    uint32_t count = 8;
    OK(tent_explain(engine, &query, &head, rows, sizeof rows[0], &count));
    return count > 0 && strcmp(rows[0].transport, "shm") == 0 ? rows[0].via : "";
}

uint32_t told = 0;

}  // namespace

TEST(a_transport_that_a_later_plan_brings_knows_the_regions_that_were_there) {
    TestEngine target("target", BOTH), initiator("initiator", TCP_ALONE);
    void *memory = nullptr;
    OK(tent_memory_alloc(target.engine, 1 << 20, &memory));
    uint64_t region = 0, segment = 0;
    OK(tent_region_register(target.engine, memory, 1 << 20, nullptr, &region));
    OK(tent_segment_open(initiator.engine, target.address().c_str(), 5000000000u, &segment));
    CHECK_EQ(via_first(initiator.engine, segment), "");
    OK(tent_plan_install(initiator.engine, BOTH, sizeof BOTH - 1, nullptr));
    std::string via;
    for (int i = 0; i < 20000 && via != "mapped"; i++) {
        via = via_first(initiator.engine, segment);
        usleep(500);
    }
    CHECK_EQ(via, "mapped");
}

TEST(an_endpoint_that_was_told_to_close_is_told_of_no_more_regions) {
    tent_plugin table{};
    table.size = sizeof table;
    table.endpoint_region = [](void *, void *, void *) { told++; };
    tent::Transport transport;
    transport.table = &table;
    tent::Rail rail;
    rail.transport = &transport;
    tent::RemoteRegion region;
    region.handles.emplace_back(&transport, &region);
    tent::Endpoint endpoint;
    endpoint.rail = &rail;
    endpoint.handle = &endpoint;
    endpoint.state = tent::EndpointState::Ready;
    endpoints_region(endpoint, region);
    CHECK_EQ(told, 1u);
    // The plugin has freed it, perhaps; the peer is still to be heard.
    endpoint.state = tent::EndpointState::Fencing;
    endpoint.local_quiet = true;
    endpoints_region(endpoint, region);
    CHECK_EQ(told, 1u);
}
