// What the shm transport makes of bad messages, on either end, and of offers and exports that no
// engine of ours writes.
//
// Leans on shm_pair.h. Each test is one claim: nothing crashes, nobody is let in, no descriptor is
// kept, and the sentence says what was wrong.
#include <sys/resource.h>

#include <algorithm>
#include <filesystem>
#include <functional>

#include "check.h"
#include "plugins/shm/listen.h"
#include "shm_pair.h"

using namespace shm_pair;
using namespace tent::shm;
using Peer = shm_pair::LoneHost;

namespace {

bool says(const std::string &text, const char *words) {
    return text.find(words) != std::string::npos;
}

std::string last_sentence(const fake::Host &host) {
    return host.news.empty() ? "" : host.news.back().sentence;
}

// What a visitor with that Hello hears.
int32_t answer_to(const std::function<void(Hello *)> &spoil) {
    Visitor visitor;
    Hello hello = visitor.hello();
    spoil(&hello);
    Welcome welcome{};
    if (!visitor.say(hello) || !visitor.hear(MessageType::WELCOME, 0, &welcome)) return TENT_OK;
    CHECK(welcome.sentence[0] != '\0');
    CHECK(visitor.shown_out());
    CHECK_EQ(visitor.state(), TENT_IN_PROGRESS);  // the endpoint still waits for its peer
    return welcome.status;
}

}  // namespace

// ---- the target -------------------------------------------------------------------------------

TEST(a_hello_with_the_wrong_secret_is_shown_out) {
    CHECK_EQ(answer_to([](Hello *hello) { hello->secret[15] ^= 1; }), TENT_E_AUTH);
}

TEST(a_hello_for_no_endpoint_is_shown_out) {
    CHECK_EQ(answer_to([](Hello *hello) { hello->endpoint += 1; }), TENT_E_AUTH);
}

TEST(a_hello_of_another_version_is_shown_out) {
    CHECK_EQ(answer_to([](Hello *hello) { hello->version += 1; }), TENT_E_PROTOCOL);
}

TEST(a_hello_with_foreign_bytes_is_shown_out) {
    CHECK_EQ(answer_to([](Hello *hello) { hello->head.magic = 0; }), TENT_E_PROTOCOL);
    CHECK_EQ(answer_to([](Hello *hello) { hello->reserved = 1; }), TENT_E_PROTOCOL);
    CHECK_EQ(answer_to([](Hello *hello) { hello->head.type = MessageType::WANT; }),
             TENT_E_PROTOCOL);
}

TEST(a_short_or_long_hello_is_shown_out) {
    for (const size_t size : {size_t{1}, sizeof(Hello) - 1, sizeof(Hello) + 1, size_t{5000}}) {
        Visitor visitor;
        std::vector<char> bytes(5000);
        const Hello hello = visitor.hello();
        memcpy(bytes.data(), &hello, sizeof hello);
        Welcome welcome{};
        CHECK_EQ(message_send(visitor.fd, bytes.data(), size, nullptr, 0), 0);
        CHECK(visitor.hear(MessageType::WELCOME, 0, &welcome));
        CHECK_EQ(welcome.status, TENT_E_PROTOCOL);
    }
}

TEST(descriptors_that_nobody_asked_for_are_closed_and_their_sender_shown_out) {
    Visitor visitor;
    const size_t before = open_descriptors();
    Welcome welcome{};
    CHECK(visitor.say(visitor.hello(), {0, 1}));
    CHECK(visitor.hear(MessageType::WELCOME, 0, &welcome));
    CHECK_EQ(welcome.status, TENT_E_PROTOCOL);
    CHECK_EQ(open_descriptors(), before);  // its visitor's descriptor went, accepting it came
}

TEST(a_hello_is_good_once) {
    Visitor visitor;
    const Hello hello = visitor.hello();
    if (!CHECK(visitor.welcomed())) return;
    const int first = visitor.fd;
    visitor.fd = raw_connect(visitor.answer.path);
    Welcome welcome{};
    CHECK(visitor.say(hello));
    CHECK(visitor.hear(MessageType::WELCOME, 0, &welcome));
    CHECK_EQ(welcome.status, TENT_E_AUTH);
    ::close(visitor.fd);
    visitor.fd = first;
    CHECK(visitor.say(message_make<Stands>(MessageType::STANDS)));
    CHECK_EQ(visitor.settled(), TENT_OK);  // who came first is not disturbed
}

TEST(a_hello_for_a_retired_endpoint_is_shown_out) {
    Visitor visitor;
    visitor.pair.close();
    Welcome welcome{};
    CHECK(visitor.say(visitor.hello()));
    CHECK(visitor.hear(MessageType::WELCOME, 0, &welcome));
    CHECK_EQ(welcome.status, TENT_E_AUTH);
}

TEST(a_second_hello_on_a_joined_socket_ends_the_endpoint) {
    Visitor visitor;
    if (!CHECK(visitor.welcomed())) return;
    CHECK(visitor.say(visitor.hello()));
    CHECK_EQ(visitor.settled(), TENT_E_PROTOCOL);
}

TEST(a_peer_that_stands_twice_ends_the_endpoint) {
    Visitor visitor;
    if (!CHECK(visitor.welcomed())) return;
    CHECK(visitor.say(message_make<Stands>(MessageType::STANDS)));
    CHECK_EQ(visitor.settled(), TENT_OK);
    CHECK(visitor.say(message_make<Stands>(MessageType::STANDS)));
    for (int i = 0; i < 10; i++)
        visitor.pair.target.poll();
    CHECK_EQ(visitor.state(), TENT_E_PROTOCOL);
}

TEST(a_peer_that_hangs_up_is_lost) {
    Visitor visitor;
    if (!CHECK(visitor.welcomed())) return;
    visitor.hang_up();
    CHECK_EQ(visitor.settled(), TENT_E_PEER);
    CHECK(says(last_sentence(visitor.pair.target.host), "closed the socket"));
}

TEST(memory_of_released_foreign_and_unshared_regions_is_not_given) {
    Visitor visitor;
    Memory memory(8192);
    std::vector<char> other(100);
    Side &target = visitor.pair.target;
    void *shared = target.register_region(memory.data, 8192, memory.fd);
    void *ungranted = target.register_region(memory.data, 4096, memory.fd);
    void *heap = target.register_region(other.data(), 100);
    target.host.grant(other.data(), 100);
    Export about{};
    std::vector<Want> wants;
    for (void *region : {shared, ungranted, heap}) {
        memcpy(&about, target.exported(region).data(), sizeof about);
        Want want = message_make<Want>(MessageType::WANT);
        want.slot = about.slot;
        want.generation = about.generation;
        wants.push_back(want);
    }
    target.plugin->region_release(target.instance, shared);
    Want beyond = wants[0], older = wants[1];
    beyond.slot = UINT32_MAX;
    older.generation -= 1;
    wants.insert(wants.end(), {beyond, older});
    const int32_t expected[] = {TENT_E_STALE, TENT_E_DENIED, TENT_E_UNSUPPORTED, TENT_E_STALE,
                                TENT_E_STALE};
    if (!CHECK(visitor.welcomed())) return;
    for (size_t i = 0; i < wants.size(); i++) {
        Give give{};
        CHECK(visitor.say(wants[i]));
        CHECK(visitor.hear(MessageType::GIVE, 0, &give));  // no descriptor with it
        CHECK_EQ(give.status, expected[i]);
        CHECK(give.sentence[0] != '\0');
    }
    CHECK_EQ(visitor.state(), TENT_IN_PROGRESS);
    target.plugin->region_release(target.instance, ungranted);
    target.plugin->region_release(target.instance, heap);
}

TEST(a_read_only_grant_gets_a_descriptor_that_cannot_write) {
    Visitor visitor;
    Memory memory(8192);
    Side &target = visitor.pair.target;
    void *region = target.register_region(memory.data, 8192, memory.fd);
    target.host.grant(memory.data, 8192, TENT_OK, TENT_ACCESS_READ);
    Export about{};
    memcpy(&about, target.exported(region).data(), sizeof about);
    if (!CHECK(visitor.welcomed())) return;
    Want want = message_make<Want>(MessageType::WANT);
    want.slot = about.slot;
    want.generation = about.generation;
    CHECK(visitor.say(want));
    Message message;
    int error = 0;
    for (int i = 0; i < 100 && message.size == 0; i++) {
        target.poll();
        message_receive(visitor.fd, &message, &error);
    }
    Give give{};
    if (!CHECK(message.read(MessageType::GIVE, 1, &give))) return;
    CHECK_EQ(give.access, uint32_t{TENT_ACCESS_READ});
    CHECK(mmap(nullptr, 8192, PROT_WRITE, MAP_SHARED, message.fds[0], 0) == MAP_FAILED);
    CHECK(pwrite(message.fds[0], "x", 1, 0) < 0);
    target.plugin->region_release(target.instance, region);
}

TEST(a_second_question_for_a_ring_ends_the_endpoint) {
    Visitor visitor;
    if (!CHECK(visitor.welcomed())) return;
    RingWant want = message_make<RingWant>(MessageType::RING_WANT);
    want.chunk_size = 4096;
    want.chunk_count = 8;
    RingGive give{};
    CHECK(visitor.say(want));
    CHECK(visitor.hear(MessageType::RING_GIVE, 1, &give));
    CHECK(visitor.say(want));
    CHECK_EQ(visitor.settled(), TENT_E_PROTOCOL);
}

TEST(a_ring_of_foolish_size_is_refused_with_a_sentence) {
    for (const uint32_t size : {0u, 1u}) {
        Visitor visitor;
        if (!CHECK(visitor.welcomed())) return;
        RingWant want = message_make<RingWant>(MessageType::RING_WANT);
        want.chunk_size = size;
        want.chunk_count = size;
        RingGive give{};
        CHECK(visitor.say(want));
        CHECK(visitor.hear(MessageType::RING_GIVE, 0, &give));
        CHECK(give.status < 0 && give.sentence[0] != '\0');
    }
}

TEST(a_peer_that_asks_and_does_not_read_is_given_up) {
    Visitor visitor;
    if (!CHECK(visitor.welcomed())) return;
    const Want want = message_make<Want>(MessageType::WANT);
    for (int i = 0; i < 100000 && visitor.state() == TENT_IN_PROGRESS; i++) {
        if (message_send(visitor.fd, &want, sizeof want, nullptr, 0) == EPIPE) break;
        visitor.pair.target.poll();
    }
    CHECK_EQ(visitor.settled(), TENT_E_PROTOCOL);
    CHECK(says(last_sentence(visitor.pair.target.host), "does not read"));
}

TEST(the_oldest_of_too_many_visitors_goes) {
    Visitor visitor;
    std::vector<int> fds;
    for (uint32_t i = 0; i < VISITORS_MAX; i++) {
        fds.push_back(raw_connect(visitor.answer.path));
        visitor.pair.target.poll();
    }
    for (int i = 0; i < 10; i++)
        visitor.pair.target.poll();
    CHECK(visitor.shown_out());  // it came first
    CHECK_EQ(visitor.pair.target.inside().visitors.size(), size_t{VISITORS_MAX});
    visitor.hang_up();
    visitor.fd = fds.back();  // the youngest is welcome still
    fds.pop_back();
    CHECK(visitor.welcomed());
    for (const int fd : fds)
        close(fd);
}

TEST(visitors_that_say_nothing_go_in_time) {
    Visitor visitor;
    fake::Host &host = visitor.pair.target.host;
    host.now_ns = 1'000'000'000;
    for (int i = 0; i < 10; i++)
        visitor.pair.target.poll();
    const uint64_t due_ns = visitor.pair.target.plugin->next_ns(visitor.pair.target.instance);
    CHECK(due_ns > host.now_ns && due_ns < UINT64_MAX);
    host.now_ns = due_ns;
    CHECK(visitor.shown_out());
}

TEST(offers_that_no_engine_of_ours_makes_are_refused) {
    Pair pair;
    if (!CHECK_EQ(pair.make_offer(), TENT_OK)) return;
    const std::vector<char> good = pair.offer;
    const auto accepted = [&](const std::function<void(Offer *)> &spoil) {
        Offer offer{};
        memcpy(&offer, good.data(), sizeof offer);
        spoil(&offer);
        memcpy(pair.offer.data(), &offer, sizeof offer);
        return pair.accept();
    };
    CHECK_EQ(accepted([](Offer *offer) { offer->magic = 0; }), TENT_E_PROTOCOL);
    CHECK_EQ(accepted([](Offer *offer) { offer->version = 2; }), TENT_E_PROTOCOL);
    CHECK_EQ(accepted([](Offer *offer) { offer->place.boot[3] ^= 1; }), TENT_E_NO_PATH);
    CHECK_EQ(accepted([](Offer *offer) { offer->place.uid += 1; }), TENT_E_DENIED);
    CHECK(says(pair.target.host.failure, "set shm.users="));
    pair.offer.assign(good.begin(), good.end() - 1);
    CHECK_EQ(pair.accept(), TENT_E_PROTOCOL);
    CHECK(pair.to == nullptr);
}

// ---- the initiator ----------------------------------------------------------------------------

TEST(answers_that_no_engine_of_ours_makes_are_refused) {
    const auto connected = [](const std::function<void(Answer *)> &spoil) {
        Peer peer;
        spoil(&peer.answer);
        return peer.connect();
    };
    CHECK_EQ(connected([](Answer *answer) { answer->target.magic = 0; }), TENT_E_PROTOCOL);
    CHECK_EQ(connected([](Answer *answer) { answer->target.place.boot[0] ^= 1; }), TENT_E_PROTOCOL);
    CHECK_EQ(connected([](Answer *answer) { memset(answer->path, '/', sizeof answer->path); }),
             TENT_E_PROTOCOL);
    CHECK_EQ(connected([](Answer *answer) { answer->path[0] = 'x'; }), TENT_E_PROTOCOL);
    CHECK_EQ(connected([](Answer *answer) { strcat(answer->path, "-gone"); }), TENT_E_TRANSPORT);
    CHECK_EQ(connected([](Answer *answer) { answer->target.place.uid += 1; }), TENT_E_AUTH);
}

TEST(a_listener_that_is_not_ours_to_see_is_named) {
    Peer peer;
    strcat(peer.answer.path, "-gone");
    CHECK_EQ(peer.connect(), TENT_E_TRANSPORT);
    CHECK(says(peer.side.host.failure, "-gone: No such file"));
    CHECK(says(peer.side.host.failure, "shm.directory"));
}

TEST(a_peer_of_another_user_than_it_says_is_dialled_once) {
    Peer peer;
    const size_t before = open_descriptors();
    peer.answer.target.place.uid++;
    CHECK_EQ(peer.connect(), TENT_E_AUTH);
    const size_t dialled = open_descriptors();
    for (int i = 0; i < 5; i++)
        peer.side.poll();
    CHECK_EQ(open_descriptors(), dialled);
    CHECK_EQ(peer.side.inside().connecting_count, 0u);
    CHECK_EQ(shm()->endpoint_close(peer.side.instance, peer.endpoint), TENT_OK);
    peer.endpoint = nullptr;
    CHECK_EQ(open_descriptors(), before + 1);  // our end of the socket
}

TEST(a_listener_that_never_answers_is_given_up_in_time) {
    Peer peer;
    peer.side.host.now_ns = 1'000'000'000;
    CHECK_EQ(peer.connect(), TENT_OK);
    peer.side.poll();
    CHECK_EQ(peer.state(), TENT_IN_PROGRESS);
    peer.side.host.now_ns = peer.side.plugin->next_ns(peer.side.instance);
    CHECK_EQ(peer.side.host.now_ns, uint64_t{3'000'000'000});
    peer.side.poll();
    CHECK_EQ(peer.state(), TENT_E_TIMEOUT);
}

TEST(a_refusal_is_passed_on) {
    Peer peer;
    CHECK_EQ(peer.connect(), TENT_OK);
    Welcome welcome = peer.welcome();
    welcome.status = TENT_E_AUTH;
    memcpy(welcome.sentence, "go away", 8);
    CHECK(peer.say(welcome));
    CHECK_EQ(peer.state(), TENT_E_AUTH);
    CHECK(says(last_sentence(peer.side.host), "go away"));
}

TEST(a_welcome_without_its_two_descriptors_is_no_welcome) {
    for (const bool one : {false, true}) {
        Peer peer;
        CHECK_EQ(peer.connect(), TENT_OK);
        CHECK(peer.say(peer.welcome(), one ? std::vector<int>{peer.board.fd} : std::vector<int>{}));
        CHECK_EQ(peer.state(), TENT_E_PROTOCOL);
    }
}

TEST(boards_that_may_shrink_or_are_small_or_no_memfds_are_refused) {
    const size_t before = open_descriptors();
    {
        const Memory unsealed(sizeof(Board), 0), small(16);
        for (const int bad : {unsealed.fd, small.fd, 0}) {
            Peer peer;
            CHECK_EQ(peer.connect(), TENT_OK);
            CHECK(peer.say(peer.welcome(), {bad, peer.table.fd}));
            CHECK_EQ(peer.state(), TENT_E_PROTOCOL);
        }
        for (const int bad : {unsealed.fd, small.fd, 0}) {
            Peer peer;
            CHECK_EQ(peer.connect(), TENT_OK);
            CHECK(peer.say(peer.welcome(), {peer.board.fd, bad}));
            CHECK_EQ(peer.state(), TENT_E_PROTOCOL);
        }
    }
    CHECK_EQ(open_descriptors(), before);
}

TEST(a_proof_that_is_not_found_means_no_attach) {
    Peer peer;
    CHECK_EQ(peer.connect(), TENT_OK);
    Welcome welcome = peer.welcome();
    welcome.proof[0] ^= 1;
    CHECK(peer.say(welcome, {peer.board.fd, peer.table.fd}));
    CHECK(says(peer.inside().attach_why, "is not the peer"));
    CHECK_EQ(peer.inside().fallback, 0u);
}

TEST(memory_that_could_not_be_trusted_is_not_mapped_and_slices_go_otherwise) {
    struct Case {
        const char *words;
        std::function<void(Give *, Memory *)> spoil;
        int seals;
        uint64_t size;
    };
    const int sealed = F_SEAL_SHRINK;
    const Case cases[] = {
        {"may shrink", [](Give *, Memory *) {}, 0, 8192},
        {"smaller than its region", [](Give *give, Memory *) { give->memory_offset = 4096; },
         sealed, 8192},
        {"smaller than its region",
         [](Give *give, Memory *) { give->memory_offset = UINT64_MAX - 100; }, sealed, 8192},
        {"another access", [](Give *give, Memory *) { give->access = TENT_ACCESS_READ; }, sealed,
         8192},
        {"another access", [](Give *give, Memory *) { give->access = TENT_ACCESS_WRITE; }, sealed,
         8192},
        {"other memory", [](Give *give, Memory *) { give->address += 64; }, sealed, 8192},
        {"other memory", [](Give *give, Memory *) { give->length += 1; }, sealed, 8192},
        {"no memfd",
         [](Give *, Memory *memory) {
             ::close(memory->fd);
             memory->fd = socket(AF_UNIX, SOCK_STREAM, 0);
         },
         sealed, 8192},
    };
    for (const Case &bad : cases) {
        Peer peer;
        Memory memory(bad.size, bad.seals);
        RemoteRegion *region = peer.tell(memory.data, memory.size);
        if (!CHECK(peer.connected())) return;
        Give give = peer.give(memory);
        bad.spoil(&give, &memory);
        CHECK(peer.say(give, {memory.fd}));
        CHECK(region->base == nullptr);
        CHECK_EQ(peer.state(), TENT_OK);
        const std::string about = peer.about(region);
        CHECK(says(about, "process_vm (cross-memory attach); not mapped: "));
        if (!CHECK(says(about, bad.words))) puts(about.c_str());
    }
}

TEST(memory_that_nobody_asked_for_ends_the_endpoint) {
    const std::function<void(Give *)> lies[] = {
        [](Give *give) { give->slot += 1; },
        [](Give *give) { give->generation += 1; },
        [](Give *give) { give->status = 1; },
    };
    for (const auto &lie : lies) {
        Peer peer;
        Memory memory(4096);
        peer.tell(memory.data, memory.size);
        if (!CHECK(peer.connected())) return;
        Give give = peer.give(memory);
        lie(&give);
        CHECK(peer.say(give, {memory.fd}));
        CHECK_EQ(peer.state(), TENT_E_PROTOCOL);
    }
    Peer peer;
    Memory memory(4096);
    if (!CHECK(peer.connected())) return;
    CHECK(peer.say(peer.give(memory), {memory.fd}));
    CHECK_EQ(peer.state(), TENT_E_PROTOCOL);
}

TEST(memory_given_for_a_region_that_was_forgotten_meanwhile_is_let_go) {
    Peer peer;
    Memory memory(4096);
    RemoteRegion *region = peer.tell(memory.data, memory.size);
    if (!CHECK(peer.connected())) return;
    CHECK(region->asked != nullptr);
    peer.side.plugin->segment_forget(peer.side.instance, region);
    peer.remotes.clear();
    const size_t before = open_descriptors();
    CHECK(peer.say(peer.give(memory), {memory.fd}));
    CHECK_EQ(peer.state(), TENT_OK);
    CHECK_EQ(open_descriptors(), before);
}

TEST(without_descriptors_left_memory_is_not_mapped_and_the_endpoint_stands) {
    Peer peer;
    Memory memory(4096);
    RemoteRegion *region = peer.tell(memory.data, memory.size);
    if (!CHECK(peer.connected())) return;
    rlimit old{};
    getrlimit(RLIMIT_NOFILE, &old);
    const rlimit none{0, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    const bool sent = peer.say(peer.give(memory), {memory.fd});
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK(sent);
    CHECK_EQ(peer.state(), TENT_OK);
    CHECK(region->base == nullptr);
    CHECK(says(peer.about(region), "limit of open files"));
}

TEST(without_descriptors_left_the_listener_pauses_and_goes_on) {
    Visitor visitor;
    fake::Host &host = visitor.pair.target.host;
    host.now_ns = 1'000'000'000;
    rlimit old{};
    getrlimit(RLIMIT_NOFILE, &old);
    const rlimit none{0, old.rlim_max};
    setrlimit(RLIMIT_NOFILE, &none);
    for (int i = 0; i < 5; i++)
        visitor.pair.target.poll();
    setrlimit(RLIMIT_NOFILE, &old);
    CHECK_EQ(host.logged.size(), size_t{1});  // said once, not at every look
    CHECK(visitor.pair.target.inside().accept_paused);
    host.now_ns = visitor.pair.target.plugin->next_ns(visitor.pair.target.instance);
    CHECK(host.now_ns < UINT64_MAX);
    CHECK(visitor.welcomed());
}

TEST(exports_that_no_engine_of_ours_makes_are_refused) {
    Peer peer;
    char memory[64];
    const auto imported = [&](const std::function<void(Export *)> &spoil) {
        Export about = peer.about(memory, sizeof memory);
        spoil(&about);
        std::vector<char> bytes(sizeof about);
        memcpy(bytes.data(), &about, sizeof about);
        void *region = peer.side.imported(bytes);
        if (region != nullptr) peer.side.plugin->segment_forget(peer.side.instance, region);
        return region != nullptr;
    };
    CHECK(imported([](Export *) {}));
    CHECK(!imported([](Export *about) { about->magic = 0; }));
    CHECK(!imported([](Export *about) { about->version = 9; }));
    CHECK(!imported([](Export *about) { about->length = 0; }));
    CHECK(!imported([](Export *about) { about->length = UINT64_MAX; }));
    CHECK(!imported([](Export *about) { about->slot = REGIONS_MAX; }));
    CHECK(!imported([](Export *about) { about->mappable = 2; }));
    CHECK(peer.side.imported({}) == nullptr);
}
