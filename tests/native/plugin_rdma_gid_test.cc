// GIDs of the rdma transport: which one is spoken from, what peers are told of it, who reaches
// whom.
//
// Port tables are folders made here as the kernel makes them; of this machine only the addresses of
// interfaces are read.
#include <tent/plugin.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

#include "check.h"
#include "plugins/rdma/gid.h"
#include "plugins/rdma/sysfs.h"

using namespace tent::rdma;
namespace fs = std::filesystem;

namespace {

class Folder {
  public:
    Folder() {
        std::string name = fs::temp_directory_path() / "tent_gid_XXXXXX";
        path_ = mkdtemp(name.data());
    }
    ~Folder() { fs::remove_all(path_); }
    Folder(const Folder &) = delete;
    Folder &operator=(const Folder &) = delete;
    void write(const std::string &file, const std::string &text) const {
        fs::create_directories((path_ / file).parent_path());
        std::ofstream(path_ / file) << text << "\n";
    }
    std::string path() const { return path_; }

  private:
    fs::path path_;
};

constexpr char NONE_GID[] = "0000:0000:0000:0000:0000:0000:0000:0000";
constexpr char LINK_LOCAL[] = "fe80:0000:0000:0000:947d:47ff:fead:6a73";
constexpr char GLOBAL[] = "fd00:0000:0000:0000:0000:0000:0000:0007";
constexpr char FOUR[] = "0000:0000:0000:0000:0000:ffff:0a4d:0001";

// type "": an entry whose kind the kernel refuses to tell.
void entry(const Folder &folder, uint32_t index, const char *gid, const char *type) {
    const std::string number = std::to_string(index);
    folder.write("ports/1/gids/" + number, gid);
    if (*type == '\0') return;
    folder.write("ports/1/gid_attrs/types/" + number, type);
    folder.write("ports/1/gid_attrs/ndevs/" + number, "eth0");
}

uint32_t chosen(const Folder &folder) {
    const std::vector<Gid> gids = gids_read(folder.path(), 1, false);
    const Gid *gid = gid_choose(gids);
    return gid != nullptr ? gid->index : UINT32_MAX;
}

std::string told(Link link, const char *gid, uint32_t prefix) {
    uint8_t bytes[GID_SIZE];
    CHECK(gid_parse(gid, bytes));
    return gid_address(link, bytes, prefix);
}

}  // namespace

TEST(roce_v2_of_an_ipv4_address_is_spoken_from_first) {
    const Folder folder;
    CHECK_EQ(chosen(folder), UINT32_MAX);
    entry(folder, 0, LINK_LOCAL, "IB/RoCE v1");
    CHECK_EQ(chosen(folder), 0u);
    entry(folder, 1, LINK_LOCAL, "RoCE v2");
    CHECK_EQ(chosen(folder), 1u);
    entry(folder, 2, GLOBAL, "RoCE v2");
    CHECK_EQ(chosen(folder), 2u);
    entry(folder, 3, FOUR, "IB/RoCE v1");
    CHECK_EQ(chosen(folder), 2u);
    entry(folder, 4, FOUR, "RoCE v2");
    entry(folder, 5, "::ffff:10.77.0.9", "RoCE v2");
    CHECK_EQ(chosen(folder), 4u);
}

TEST(entries_that_are_empty_or_going_are_passed_over) {
    const Folder folder;
    entry(folder, 0, NONE_GID, "");
    entry(folder, 1, FOUR, "");
    entry(folder, 2, GLOBAL, "RoCE v2");
    const std::vector<Gid> gids = gids_read(folder.path(), 1, false);
    CHECK_EQ(gids.size(), 1u);
    CHECK_EQ(gids[0].index, 2u);
    CHECK_EQ(gids[0].netdev, "eth0");
}

TEST(entries_of_infiniband_have_no_kind) {
    const Folder folder;
    entry(folder, 0, LINK_LOCAL, "");
    const std::vector<Gid> gids = gids_read(folder.path(), 1, true);
    CHECK_EQ(gids.size(), 1u);
    CHECK(gids[0].link == Link::INFINIBAND);
}

TEST(an_address_that_moved_is_found_at_its_new_index) {
    const Folder folder;
    entry(folder, 0, FOUR, "IB/RoCE v1");
    entry(folder, 1, GLOBAL, "RoCE v2");
    entry(folder, 2, FOUR, "RoCE v2");
    entry(folder, 3, FOUR, "RoCE v2");
    const std::vector<Gid> gids = gids_read(folder.path(), 1, false);
    uint8_t bytes[GID_SIZE];
    CHECK(gid_parse(FOUR, bytes));
    CHECK_EQ(gid_find(gids, Link::ROCE_V2, bytes, 1)->index, 2u);
    CHECK_EQ(gid_find(gids, Link::ROCE_V2, bytes, 3)->index, 3u);
    CHECK_EQ(gid_find(gids, Link::ROCE_V1, bytes, 3)->index, 0u);
    bytes[15] ^= 1;
    CHECK(gid_find(gids, Link::ROCE_V2, bytes, 2) == nullptr);
}

TEST(peers_are_told_kind_address_and_subnet) {
    CHECK_EQ(told(Link::ROCE_V2, FOUR, 24), "roce2 10.77.0.1/24");
    CHECK_EQ(told(Link::ROCE_V2, LINK_LOCAL, 64), "roce2 fe80::947d:47ff:fead:6a73/64");
    CHECK_EQ(told(Link::ROCE_V1, GLOBAL, 64), "roce1 fd00::7/64");
    CHECK_EQ(told(Link::INFINIBAND, LINK_LOCAL, 64), "ib fe80::947d:47ff:fead:6a73/64");
    const char *longest = "1111:2222:3333:4444:5555:6666:7777:8888";
    CHECK(told(Link::ROCE_V2, longest, 128).size() < TENT_RAIL_ADDRESS_MAX);
}

TEST(an_address_of_no_interface_has_no_neighbours) {
    uint8_t bytes[GID_SIZE];
    CHECK(gid_parse("192.0.2.77", bytes));  // for documentation: nobody has it
    CHECK_EQ(gid_prefix(Link::ROCE_V2, bytes), 32u);
    CHECK(gid_parse("2001:db8::77", bytes));
    CHECK_EQ(gid_prefix(Link::ROCE_V2, bytes), 128u);
    CHECK(gid_parse("fe80::77", bytes));
    CHECK_EQ(gid_prefix(Link::ROCE_V2, bytes), 64u);
    CHECK_EQ(gid_prefix(Link::INFINIBAND, bytes), 64u);
    CHECK(gid_parse("127.0.0.1", bytes));
    CHECK_EQ(gid_prefix(Link::ROCE_V2, bytes), 8u);
}

TEST(a_peer_in_the_same_subnet_is_reached_best) {
    CHECK_EQ(address_reach("roce2 10.77.0.1/24", "roce2 10.77.0.2/24"), 2);
    CHECK_EQ(address_reach("roce2 10.77.0.1/24", "roce2 10.77.1.2/24"), 1);
    CHECK_EQ(address_reach("roce2 10.77.0.1/23", "roce2 10.77.1.2/24"), 2);
    CHECK_EQ(address_reach("roce2 10.77.0.1/32", "roce2 10.77.0.1/32"), 2);
    CHECK_EQ(address_reach("roce2 fd00::1/64", "roce2 fd00::2/64"), 2);
    CHECK_EQ(address_reach("roce2 fd00::1/64", "roce2 fd01::2/64"), 1);
    CHECK_EQ(address_reach("ib fe80::1/64", "ib fe80::2/64"), 2);
}

TEST(link_local_peers_may_be_on_one_link) {
    CHECK_EQ(address_reach("roce2 fe80::1/64", "roce2 fe80::2/64"), 1);
    CHECK_EQ(address_reach("roce2 fe80::1/64", "roce2 fd00::2/64"), 0);
    CHECK_EQ(address_reach("roce2 fd00::1/64", "roce2 fe80::2/64"), 0);
}

TEST(no_router_passes_roce_v1_on_and_lids_end_with_the_subnet) {
    CHECK_EQ(address_reach("roce1 10.77.0.1/24", "roce1 10.77.0.2/24"), 2);
    CHECK_EQ(address_reach("roce1 10.77.0.1/24", "roce1 10.77.1.2/24"), 0);
    CHECK_EQ(address_reach("ib fe80::1/64", "ib fec0::2/64"), 0);
}

TEST(other_kinds_and_families_do_not_meet) {
    CHECK_EQ(address_reach("roce2 10.77.0.1/24", "roce1 10.77.0.2/24"), 0);
    CHECK_EQ(address_reach("roce2 10.77.0.1/24", "roce2 fd00::2/64"), 0);
    CHECK_EQ(address_reach("roce2 10.77.0.1/24", "ib fe80::1/64"), 0);
}

TEST(foreign_text_that_is_no_address_is_not_reached) {
    for (const char *text :
         {"", " ", "roce2", "roce2 ", "roce2 /", "roce2 10.77.0.2", "roce2 10.77.0.2/",
          "roce2 10.77.0.2/33", "roce2 10.77.0.2/-1", "roce2 10.77.0.2/24x", "roce2 ::/0",
          "roce2  10.77.0.2/24", "roce3 10.77.0.2/24", "10.77.0.2/24", "roce2 fd00::/129",
          "roce2 10.77.0.2/99999999999999999999",
          "roce2 1111111111111111111111111111111111111111111111111111/1"})
        if (address_reach("roce2 10.77.0.1/24", text) != 0) CHECK_EQ(text, "not reached");
}

TEST(a_port_of_hardware_has_speed_and_node_and_one_of_software_has_not) {
    const Folder folder;
    folder.write("node_type", "1: CA");
    folder.write("ports/1/state", "4: ACTIVE");
    folder.write("ports/1/rate", "100 Gb/sec (4X EDR)");
    folder.write("ports/1/link_layer", "Ethernet");
    PortFacts facts = port_facts(folder.path(), 1);
    CHECK(facts.channel_adapter && facts.active && !facts.infiniband);
    CHECK_EQ(facts.bandwidth_bytes_per_s, 0u);
    CHECK_EQ(facts.numa, -1);
    folder.write("device/numa_node", "1");
    facts = port_facts(folder.path(), 1);
    CHECK_EQ(facts.bandwidth_bytes_per_s, 12'500'000'000u);
    CHECK_EQ(facts.numa, 1);
    folder.write("ports/1/rate", "2.5 Gb/sec (1X SDR)");
    folder.write("node_type", "4: RNIC");
    folder.write("ports/1/state", "1: DOWN");
    facts = port_facts(folder.path(), 1);
    CHECK_EQ(facts.bandwidth_bytes_per_s, 312'500'000u);
    CHECK(!facts.channel_adapter && !facts.active);
    CHECK(!port_facts(folder.path(), 2).active);
}
