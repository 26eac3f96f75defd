// Sweeps over the library's calls: in each run one more of them fails, once or from then on.
// Nothing may leak, no slice be lost or come back twice, and when the failure has passed all works
// again.
//
// Leans on rdma_pair.h; libibverbs_loop counts what is alive. TENT_SWEEP=create_qp:3 runs that
// alone.
#include <memory>

#include "check.h"
#include "rdma_pair.h"

using namespace rdma_pair;

namespace {

constexpr uint64_t KIB = 1024, SIZE = 64 * KIB, SLICE = 3 * KIB, SLICES = 20;
constexpr uint64_t NUMBER_MAX = 400;

struct Verb {
    const char *name;
    int error;
    uint64_t stride = 1;  // calls that are all alike
};

constexpr Verb OPENING[] = {
    {"get_device_list", EPERM}, {"open_device", EACCES},  {"query_device", EIO},
    {"query_port", EIO},        {"query_device_ex", EIO}, {"query_gid", EIO},
    {"query_gid_table", EIO},   {"alloc_pd", ENOMEM},     {"create_comp_channel", EMFILE},
    {"create_cq", ENOMEM},      {"req_notify_cq", EIO},
};
constexpr Verb WORKING[] = {
    {"reg_mr", ENOMEM},    {"dereg_mr", EBUSY},   {"alloc_mw", ENOMEM},   {"dealloc_mw", EBUSY},
    {"create_qp", ENOMEM}, {"modify_qp", EINVAL}, {"destroy_qp", EBUSY},  {"destroy_qp", ENOMEM},
    {"post_send", ENOMEM}, {"post_send", EIO},    {"req_notify_cq", EIO}, {"query_port", EIO},
    {"request", ENOMEM},   {"doorbell", EIO},     {"poll_cq", EIO, 7},
};

// One end's whole stock, told to the other.
struct Stock {
    Memory here{SIZE, 1}, there{SIZE};
    void *local = nullptr;
    Told told;

    explicit Stock(Pair &pair) : local(pair.local(here.data, SIZE)) {
        told = pair.tell(there.data, SIZE);
    }
    bool complete() const { return local != nullptr && told.remote != nullptr; }
};

// What was taken comes back once, and is where it belongs if it says so.
void move(Pair &pair, Joint &joint, Stock &stock, uint32_t op) {
    stock.there.pattern(op == TENT_OP_READ ? 7 : 8);
    const size_t first = pair.initiator.statuses.size();
    std::vector<tent_slice> slices;
    for (uint64_t i = 0; i < SLICES; i++)
        slices.push_back(pair.slice(op, stock.here.data + i * SLICE, stock.local,
                                    stock.there.data + i * SLICE, stock.told.remote, SLICE));
    const uint32_t taken = pair.post(joint, slices);
    rdma()->next_ns(pair.initiator.instance);
    CHECK(pair.until([&] {
        return pair.initiator.returned == pair.initiator.statuses.size() ||
               pair.initiator.host.state_of(joint.initiators()) < 0;
    }));
    // The core closes what has failed: the last slices come back then.
    CHECK(pair.until([&] {
        if (pair.initiator.returned == pair.initiator.statuses.size()) return true;
        if (joint.from != nullptr && pair.initiator.host.state_of(joint.initiators()) < 0 &&
            rdma()->endpoint_close(pair.initiator.instance, joint.from) == TENT_OK)
            joint.from = nullptr;
        return false;
    }));
    for (uint32_t i = 0; i < taken; i++)
        if (pair.initiator.statuses[first + i] == TENT_OK)
            CHECK(stock.there.is(stock.here, i * SLICE, SLICE));
}

// Joins, moves both ways, settles, parts. True: all of it went well.
bool round(Pair &pair, Stock &stock) {
    const size_t first = pair.initiator.statuses.size();
    Joint &joint = pair.add();
    bool well = pair.begin(joint) == TENT_OK && pair.wait(joint) == TENT_OK && stock.complete();
    if (well) {
        move(pair, joint, stock, TENT_OP_WRITE);
        uint64_t mark = 0;
        well &= joint.from != nullptr && pair.until([&] {
            return rdma()->endpoint_settle(pair.initiator.instance, joint.from, &mark) !=
                   TENT_IN_PROGRESS;
        });
        if (joint.from != nullptr) move(pair, joint, stock, TENT_OP_READ);
    }
    well &= pair.initiator.statuses.size() - first == 2 * SLICES &&
            std::all_of(pair.initiator.statuses.begin() + static_cast<long>(first),
                        pair.initiator.statuses.end(),
                        [](int32_t status) { return status == TENT_OK; });
    if (joint.from != nullptr &&
        rdma()->endpoint_close(pair.initiator.instance, joint.from) == TENT_OK)
        joint.from = nullptr;
    if (joint.to != nullptr && rdma()->endpoint_retire(pair.target.instance, joint.to) == TENT_OK)
        joint.to = nullptr;
    pair.pass(5 * MS);
    return well;
}

// Where the library refuses for good, it stays so until the failure has passed.
void let_go_of(Pair &pair, Side &side, void *&region) {
    for (int i = 0; region != nullptr && i < 5; i++) {
        if (rdma()->region_release(side.instance, region) == TENT_OK) region = nullptr;
        pair.step();
    }
}

void act(const Verb &verb, uint64_t number, bool good) {
    const Given options = {{"connect_timeout", "50ms"}};
    Pair pair({.initiators = options, .targets = options});
    loop().fail(verb.name, number, verb.error, good);
    Stock first(pair);
    round(pair, first);
    round(pair, first);
    let_go_of(pair, pair.target, pair.told[0].region);
    pair.pass(20 * MS);
    loop().fail("", 0, 0, 0);
    pair.pass(300 * MS);
    for (auto &joint : pair.joints)
        CHECK(pair.part(*joint));
    Stock after(pair);
    CHECK(round(pair, after));
    CHECK_EQ(pair.initiator.returned_twice, 0u);
    CHECK_EQ(pair.initiator.returned, pair.initiator.statuses.size());
}

// A rail that does not open says why, and leaves nothing.
void open(const Verb &verb, uint64_t number, bool good) {
    const Fabric fabric({});
    loop().fail(verb.name, number, verb.error, good);
    {
        Side side("loop0");
        CHECK(side.status == TENT_OK || !side.host.failure.empty());
    }
    loop().fail("", 0, 0, 0);
}

template <class Run>
void sweep(const Verb &verb, bool good, Run run) {
    const char *only = getenv("TENT_SWEEP");
    for (uint64_t number = 1;; number += verb.stride) {
        const std::string title = std::string(verb.name) + ":" + std::to_string(number);
        if (only != nullptr && title != only) {
            if (number >= NUMBER_MAX) return;
            continue;
        }
        const int before = check::failure_count.load();
        if (getenv("TENT_SWEEP_ALL")) fprintf(stderr, "%s\n", title.c_str());
        run(verb, number, good);
        if (check::failure_count.load() != before) {
            printf("with call %s failing %s (%s)\n", title.c_str(), good ? "for good" : "once",
                   strerrordesc_np(verb.error));
            return;
        }
        if (loop().struck() == 0) return;
        if (!CHECK(number < NUMBER_MAX)) return;
    }
}

}  // namespace

TEST(any_call_may_fail_while_a_rail_is_opened) {
    for (const bool good : {false, true})
        for (const Verb &verb : OPENING)
            sweep(verb, good, open);
}

TEST(any_call_may_fail_once) {
    for (const Verb &verb : WORKING)
        sweep(verb, false, act);
}

TEST(any_call_may_fail_for_good) {
    for (Verb verb : WORKING) {
        // What fails for good fails all that comes after it: not each number is another case.
        verb.stride *= 5;
        sweep(verb, true, act);
    }
}
