// Manual mode: no thread, time from tent_engine_step alone; and what forks and foreign bytes may
// not do.
#include <arpa/inet.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "engine_pair.h"

namespace {

constexpr uint64_t MS = 1000000u;

int connect_to(const std::string &address) {
    size_t colon = address.rfind(':');
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(colon + 1))));
    inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr);
    int fd = socket(AF_INET, SOCK_STREAM, 0);
    CHECK_EQ(connect(fd, reinterpret_cast<sockaddr *>(&to), sizeof to), 0);
    return fd;
}

uint64_t refused(tent_engine *engine) {
    tent_counters row{};
    uint32_t count = 1;
    OK(tent_counters_read(engine, TENT_COUNTERS_ENGINE, &row, sizeof row, &count));
    return row.refused;
}

}  // namespace

TEST(a_manual_engine_moves_only_when_stepped) {
    ManualPair pair(4 << 20);
    fill_pattern(pair.local, 1);
    uint64_t batch = 0;
    OK(tent_batch_open(pair.initiator.engine, nullptr, &batch));
    tent_request r{};
    r.op = TENT_OP_WRITE;
    r.segment = pair.segment;
    r.local = reinterpret_cast<uint64_t>(pair.local.data());
    r.remote = reinterpret_cast<uint64_t>(pair.remote.data());
    r.length = pair.local.size();
    uint32_t index = 0;
    OK(tent_batch_submit(pair.initiator.engine, batch, &r, sizeof r, 1, 0, &index));
    CHECK_EQ(tent_batch_poll(pair.initiator.engine, batch), TENT_IN_PROGRESS);
    CHECK_EQ(tent_batch_wait(pair.initiator.engine, batch, MS), TENT_E_TIMEOUT);
    CHECK(
        pair.step_until([&] { return tent_batch_poll(pair.initiator.engine, batch) == TENT_OK; }));
    CHECK(pair.remote == pair.local);
    OK(tent_batch_close(pair.initiator.engine, batch));
    CHECK_EQ(tent_engine_step(pair.target.engine, pair.now_ns - 1), TENT_E_INVALID);
}

TEST(a_silent_connection_is_dropped_after_five_seconds_of_engine_time) {
    ManualPair pair(4096);
    uint64_t before = refused(pair.target.engine);
    int silent = connect_to(pair.target.address());
    int half = connect_to(pair.target.address());
    CHECK_EQ(send(half, "TNTC\x20", 5, 0), 5);
    for (int i = 0; i < 100; i++) {
        pair.now_ns += MS;
        tent_engine_step(pair.target.engine, pair.now_ns);
    }
    CHECK_EQ(refused(pair.target.engine), before);
    pair.now_ns += 6000 * MS;
    tent_engine_step(pair.target.engine, pair.now_ns);
    CHECK_EQ(refused(pair.target.engine), before + 2);
    close(silent);
    close(half);
}

TEST(garbage_is_refused_and_the_engine_goes_on) {
    EnginePair pair(65536);
    const std::string garbage[] = {
        "GET / HTTP/1.1\r\n\r\n", std::string("TNTC") + std::string(64, '\xff'),
        std::string("TNTD") + std::string(124, '\x01'), std::string("TNTC") + std::string(16, '\0'),
        std::string(1, '\0') + "abc"};
    for (const std::string &bytes : garbage) {
        int fd = connect_to(pair.target.address());
        CHECK_EQ(send(fd, bytes.data(), bytes.size(), MSG_NOSIGNAL),
                 static_cast<ssize_t>(bytes.size()));
        shutdown(fd, SHUT_WR);
        char answer[256];
        while (recv(fd, answer, sizeof answer, 0) > 0) {
        }
        close(fd);
        OK(pair.transfer(TENT_OP_WRITE, 0, 65536));
    }
    CHECK(refused(pair.target.engine) >= 5);
}

TEST(more_silent_connections_than_allowed_do_not_keep_peers_out) {
    std::vector<uint8_t> memory(4096);
    TestEngine target("target"), initiator("initiator");
    target.add(memory);
    std::vector<int> idle;
    for (int i = 0; i < 100; i++)
        idle.push_back(connect_to(target.address()));
    uint64_t segment = 0;
    OK(tent_segment_open(initiator.engine, target.address().c_str(), 5000 * MS, &segment));
    CHECK(refused(target.engine) >= 36);
    for (int fd : idle)
        close(fd);
}

TEST(a_forked_child_gets_an_error_and_disturbs_nothing) {
    EnginePair pair(65536);
    pid_t child = fork();
    if (child == 0) {
        bool right = pair.transfer(TENT_OP_WRITE, 0, 16) == TENT_E_FORKED;
        right &= tent_engine_close(pair.initiator.engine) == TENT_E_FORKED;
        uint64_t batch = 0;
        right &= tent_batch_open(pair.initiator.engine, nullptr, &batch) == TENT_E_FORKED;
        _exit(right ? 0 : 1);
    }
    int status = 1;
    waitpid(child, &status, 0);
    CHECK_EQ(status, 0);
    OK(pair.transfer(TENT_OP_WRITE, 0, 65536));
}

TEST(a_non_loopback_listener_needs_a_key) {
    char folder[] = "/tmp/tent-key-XXXXXX";
    CHECK(mkdtemp(folder) != nullptr);
    setenv("XDG_STATE_HOME", folder, 1);
    unsetenv("TENT_KEY_FILE");
    tent_engine_options options{};
    options.size = sizeof options;
    options.plugin_path = TENT_TEST_PLUGIN_DIR;
    options.listen = "0.0.0.0:0";
    tent_engine *engine = nullptr;
    CHECK_EQ(tent_engine_open(&options, &engine), TENT_E_AUTH);
    CHECK(engine == nullptr);
    options.listen = nullptr;
    OK(tent_engine_open(&options, &engine));  // loopback: the per-user key is made on first use
    OK(tent_engine_close(engine));
    std::string key = std::string(folder) + "/tent/key";
    CHECK_EQ(unlink(key.c_str()), 0);
    rmdir((std::string(folder) + "/tent").c_str());
    rmdir(folder);
}

TEST(plans_with_mistakes_do_not_open) {
    tent_engine *engine = nullptr;
    for (const char *plan :
         {"plan 2\n", "plan 1\n", "plan 1\nrail 0 tcp 127.0.0.1\nroute * : tcp[1]\n",
          "plan 1\nrail 0 tcp nosuchnic\nroute * : tcp[0]\n",
          "plan 1\nrail 0 nosuch x\nroute * : nosuch[0]\n",
          "plan 1\nrail 0 tcp 127.0.0.1 colour=red\nroute * : tcp[0]\n"}) {
        tent_engine_options options{};
        options.size = sizeof options;
        options.plugin_path = TENT_TEST_PLUGIN_DIR;
        options.key = TEST_KEY;
        options.key_size = sizeof TEST_KEY - 1;
        options.plan = plan;
        int32_t status = tent_engine_open(&options, &engine);
        CHECK(status < 0 && engine == nullptr);
        CHECK(strlen(tent_last_error()) > 10);
    }
}
