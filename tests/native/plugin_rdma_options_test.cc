// Options of the rdma transport: what the table promises is what is read, and what device words
// mean.
#include <cstring>
#include <string>

#include "check.h"
#include "plugins/rdma/options.h"
#include "plugins/rdma/sysfs.h"

using tent::rdma::device_word_read;
using tent::rdma::OPTION_COUNT;
using tent::rdma::OPTION_INFOS;
using tent::rdma::option_read;
using tent::rdma::Options;
using tent::rdma::rail_option_read;
using tent::rdma::RailOptions;

namespace {

std::string said;

int32_t transport(const char *name, const char *value, Options *out) {
    char sentence[800] = "";
    const int32_t status = option_read({name, value}, out, sentence, sizeof sentence);
    said = sentence;
    return status;
}

int32_t rail(const char *name, const char *value, RailOptions *out) {
    char sentence[800] = "";
    const int32_t status = rail_option_read({name, value}, out, sentence, sizeof sentence);
    said = sentence;
    return status;
}

bool contains(const char *part) {
    return said.find(part) != std::string::npos;
}

bool same(const RailOptions &a, const RailOptions &b) {
    return a.gid == b.gid && a.mtu == b.mtu && a.service_level == b.service_level &&
           a.traffic_class == b.traffic_class && a.hop_limit == b.hop_limit &&
           a.queue_pairs == b.queue_pairs && a.pkey_index == b.pkey_index;
}

bool same(const Options &a, const Options &b) {
    return same(a.rail, b.rail) && a.strict == b.strict && a.windows == b.windows &&
           a.on_demand == b.on_demand && a.dma_buf == b.dma_buf &&
           a.relaxed_ordering == b.relaxed_ordering && a.piece_size == b.piece_size &&
           a.send_depth == b.send_depth && a.inline_max == b.inline_max &&
           a.signal_interval == b.signal_interval && a.signal_min == b.signal_min &&
           a.ack_timeout == b.ack_timeout && a.retry_count == b.retry_count &&
           a.rnr_retry == b.rnr_retry && a.min_rnr_timer == b.min_rnr_timer &&
           a.rd_atomic == b.rd_atomic && a.connect_timeout_ns == b.connect_timeout_ns;
}

// A value that is not the preset, and is allowed.
const char *other_of(const tent_option_info &info) {
    if (info.kind == TENT_OPTION_SWITCH) return strcmp(info.preset, "yes") == 0 ? "no" : "yes";
    if (info.kind == TENT_OPTION_CHOICE) return "1024";
    return strcmp(info.preset, info.least) == 0 ? info.most : info.least;
}

}  // namespace

TEST(presets_of_the_table_are_what_holds_without_a_word) {
    for (uint32_t i = 0; i < OPTION_COUNT; i++) {
        const tent_option_info &info = OPTION_INFOS[i];
        Options all;
        RailOptions own;
        if (info.scope & TENT_OPTION_OF_TRANSPORT)
            CHECK_EQ(transport(info.name, info.preset, &all), TENT_OK);
        if (info.scope & TENT_OPTION_OF_RAIL) CHECK_EQ(rail(info.name, info.preset, &own), TENT_OK);
        if (!same(all, Options{}) || !same(own, RailOptions{})) CHECK_EQ(info.name, "its preset");
    }
}

TEST(every_option_of_the_table_sets_something) {
    for (uint32_t i = 0; i < OPTION_COUNT; i++) {
        const tent_option_info &info = OPTION_INFOS[i];
        Options all;
        RailOptions own;
        if (info.scope & TENT_OPTION_OF_TRANSPORT) {
            CHECK_EQ(transport(info.name, other_of(info), &all), TENT_OK);
            if (same(all, Options{})) CHECK_EQ(info.name, "set for the transport");
        }
        if (info.scope & TENT_OPTION_OF_RAIL) {
            CHECK_EQ(rail(info.name, other_of(info), &own), TENT_OK);
            if (same(own, RailOptions{})) CHECK_EQ(info.name, "set for the rail");
        }
    }
}

TEST(values_become_what_they_say) {
    Options all;
    CHECK_EQ(transport("signal_min", "1M", &all), TENT_OK);
    CHECK_EQ(all.signal_min, 1u << 20);
    CHECK_EQ(transport("connect_timeout", "30ms", &all), TENT_OK);
    CHECK_EQ(all.connect_timeout_ns, 30'000'000u);
    CHECK_EQ(transport("piece_size", "2g", &all), TENT_OK);
    CHECK_EQ(all.piece_size, 2ull << 30);
    CHECK_EQ(transport("mtu", "4096", &all), TENT_OK);
    CHECK_EQ(all.rail.mtu, 4096u);
    RailOptions own;
    CHECK_EQ(rail("gid", "3", &own), TENT_OK);
    CHECK_EQ(own.gid, 3);
    CHECK_EQ(rail("traffic_class", "104", &own), TENT_OK);
    CHECK_EQ(own.traffic_class, 104u);
}

TEST(a_wrong_value_is_told_with_what_was_expected) {
    Options all;
    CHECK_EQ(transport("retry_count", "8", &all), TENT_E_INVALID);
    CHECK(contains("retry_count=8") && contains("a number from 0 to 7"));
    CHECK_EQ(transport("mtu", "9000", &all), TENT_E_INVALID);
    CHECK(contains("port,256,512,1024,2048,4096"));
    CHECK_EQ(transport("mtu", "1024,2048", &all), TENT_E_INVALID);
    CHECK_EQ(transport("mtu", "", &all), TENT_E_INVALID);
    CHECK_EQ(transport("windows", "maybe", &all), TENT_E_INVALID);
    CHECK(contains("yes or no"));
    CHECK_EQ(transport("connect_timeout", "2", &all), TENT_E_INVALID);
    RailOptions own;
    CHECK_EQ(rail("gid", "-1", &own), TENT_E_INVALID);
    CHECK(contains("0 to 255, or auto"));
    CHECK(same(all, Options{}) && same(own, RailOptions{}));
}

TEST(options_stand_in_their_place_only) {
    Options all;
    RailOptions own;
    CHECK_EQ(transport("gid", "1", &all), TENT_E_INVALID);
    CHECK(contains("no transport option 'gid'"));
    CHECK_EQ(rail("strict", "yes", &own), TENT_E_INVALID);
    CHECK(contains("no rail option 'strict'") && contains("queue_pairs"));
    CHECK_EQ(rail("depth", "4", &own), TENT_E_INVALID);
}

TEST(a_device_word_names_a_device_and_a_port) {
    std::string device;
    uint8_t port = 0;
    CHECK(device_word_read("mlx5_0", &device, &port));
    CHECK_EQ(device, "mlx5_0");
    CHECK_EQ(port, 1);
    CHECK(device_word_read("mlx5_bond_0:2", &device, &port));
    CHECK_EQ(device, "mlx5_bond_0");
    CHECK_EQ(port, 2);
    for (const char *wrong :
         {"", ":1", "mlx5_0:", "mlx5_0:0", "mlx5_0:256", "mlx5_0:1x", "mlx5_0:-1", "../mlx5_0",
          "..", "a_name_that_is_longer_than_a_device_may_have"})
        if (device_word_read(wrong, &device, &port)) CHECK_EQ(wrong, "refused");
}
