// The shm transport's cross-memory attach against another process: what goes wrong there is said of
// the right slice, and nothing crashes.
#include "plugins/shm/attach.h"

#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>

#include "shm_endpoints.h"

using namespace shm_test;

namespace {

constexpr uint32_t WRITE = TENT_OP_WRITE, READ = TENT_OP_READ;
const uint64_t PAGE = static_cast<uint64_t>(getpagesize());

// A child that does as it is told by one byte at a time, and says when it has.
struct Child {
    static inline const uint64_t SIZE = 64 * PAGE;
    pid_t pid = -1;
    int tell[2], said[2];
    char *memory;  // private: after the fork, parent and child each have their own

    Child() {
        memory = static_cast<char *>(
            mmap(nullptr, SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
        memset(memory, 'p', SIZE);
        if (pipe(tell) != 0 || pipe(said) != 0) abort();
        pid = fork();
        if (pid != 0) {
            close(tell[0]);
            close(said[1]);
            order('.');  // its memory is filled by then
            return;
        }
        close(tell[1]);
        memset(memory, 'c', SIZE);
        for (char order; read(tell[0], &order, 1) == 1;) {
            if (order == 'u') munmap(memory + 16 * PAGE, PAGE);
            if (order == 'r') mprotect(memory + 16 * PAGE, PAGE, PROT_READ);
            if (order == 'd') drop();
            // The sum tells the parent what it wrote.
            char answer = '.';
            if (order == '?') answer = memory[5000];
            if (write(said[1], &answer, 1) != 1) break;
        }
        _exit(0);
    }
    // The kernel lets nobody but a privileged one reach an undumpable process.
    static void drop() { prctl(PR_SET_DUMPABLE, 0); }

    ~Child() {
        close(tell[1]);
        close(said[0]);
        if (pid > 0) {
            kill(pid, SIGKILL);
            waitpid(pid, nullptr, 0);
        }
        munmap(memory, SIZE);
    }
    Child(const Child &) = delete;
    Child &operator=(const Child &) = delete;

    char order(char what) {
        char answer = 0;
        if (::write(tell[1], &what, 1) != 1 || ::read(said[0], &answer, 1) != 1) return 0;
        return answer;
    }
};

// An engine with one endpoint to the child.
struct World {
    Engine engine{256, 0, 0};
    Child child;
    Peer peer{engine.instance, 1};
    std::unique_ptr<RemoteRegion> region = peer.region(child.memory, Child::SIZE, false);
    std::vector<char> local = std::vector<char>(Child::SIZE, 'l');

    World() { peer.names(child.pid); }

    std::vector<tent_slice> slices(uint32_t op, uint64_t count, uint64_t length, uint64_t step) {
        std::vector<tent_slice> made;
        for (uint64_t i = 0; i < count; i++)
            made.push_back({engine.statuses.size() + i, op, 0, local.data() + i * step,
                            address_of(child.memory + i * step), length, nullptr, region.get()});
        return made;
    }
    void post(const std::vector<tent_slice> &made) {
        const auto count = static_cast<uint32_t>(made.size());
        CHECK_EQ(engine.post_slices(peer, made.data(), count), count);
        engine.settle();
    }
};

TEST(attach_reads_and_writes_another_process) {
    World world;
    for (uint64_t step : {PAGE, PAGE - 40}) {  // neighbours, and with gaps
        std::fill(world.local.begin(), world.local.end(), 'l');
        world.post(world.slices(READ, 64, PAGE - 40, step));
        for (uint64_t i = 0; i < 64; i++)
            CHECK_EQ(world.local[i * step + PAGE - 41], step == PAGE ? 'c' : 'l');
        if (step == PAGE) CHECK_EQ(world.local[PAGE - 1], 'l');
        std::fill(world.local.begin(), world.local.end(), 'l');
        world.post(world.slices(WRITE, 64, PAGE - 40, step));
        CHECK_EQ(world.child.order('?'), 'l');
    }
    CHECK_EQ(world.child.memory[5000], 'p');
    for (int32_t status : world.engine.statuses)
        CHECK_EQ(status, TENT_OK);
}

TEST(a_page_that_the_peer_has_unmapped_fails_the_slices_on_it_alone) {
    for (uint32_t op : {READ, WRITE}) {
        World world;
        CHECK_EQ(world.child.order('u'), '.');
        world.post(world.slices(op, 64, PAGE, PAGE));
        for (uint64_t i = 0; i < 64; i++) {
            CHECK_EQ(world.engine.statuses[i], i == 16 ? TENT_E_RANGE : TENT_OK);
            if (op == READ) CHECK_EQ(world.local[i * PAGE + 7], i == 16 ? 'l' : 'c');
        }
        // The unmapped page is the middle of one slice, and the edge of others.
        const size_t first = world.engine.statuses.size();
        world.post(world.slices(op, 21, 3 * PAGE, 3 * PAGE));
        for (uint64_t i = 0; i < 21; i++)
            CHECK_EQ(world.engine.statuses[first + i], i == 5 ? TENT_E_RANGE : TENT_OK);
        CHECK_EQ(world.peer.endpoint.attach_errno.load(), 0);
        CHECK_EQ(method_of(world.peer.endpoint, world.region.get()), uint32_t{ATTACH});
    }
}

TEST(a_page_that_the_peer_may_not_write_cannot_be_written_from_here) {
    World world;
    CHECK_EQ(world.child.order('r'), '.');
    world.post(world.slices(WRITE, 64, PAGE, PAGE));
    world.post(world.slices(READ, 64, PAGE, PAGE));
    for (uint64_t i = 0; i < 128; i++)
        CHECK_EQ(world.engine.statuses[i], i == 16 ? TENT_E_RANGE : TENT_OK);
    CHECK_EQ(world.local[16 * PAGE], 'c');
    CHECK_EQ(world.local[17 * PAGE], 'l');
}

TEST(a_large_slice_over_an_unmapped_page_ends_once_as_out_of_range) {
    World world;
    CHECK_EQ(world.child.order('u'), '.');
    for (uint32_t flags : {0u, TENT_SLICE_INTEGRITY})
        for (uint32_t op : {READ, WRITE})
            world.engine.post(world.peer, op, world.local.data(), world.child.memory, Child::SIZE,
                              *world.region, flags);
    world.engine.settle();
    CHECK_EQ(world.engine.returned, 4u);
    for (int32_t status : world.engine.statuses)
        CHECK_EQ(status, TENT_E_RANGE);
}

TEST(memory_of_ours_that_is_gone_fails_the_slice_and_not_the_process) {
    World world;
    char *gone = static_cast<char *>(
        mmap(nullptr, 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    munmap(gone, 2 * PAGE);
    for (uint32_t op : {READ, WRITE})
        world.engine.post(world.peer, op, gone, world.child.memory, PAGE, *world.region);
    world.post(world.slices(READ, 2, PAGE, PAGE));
    CHECK_EQ(world.engine.statuses[0], TENT_E_RANGE);
    CHECK_EQ(world.engine.statuses[1], TENT_E_RANGE);
    CHECK_EQ(world.engine.statuses[2], TENT_OK);
    CHECK_EQ(world.engine.statuses[3], TENT_OK);
}

TEST(a_killed_peer_ends_all_slices_and_its_number_is_not_used_again) {
    for (bool reaped : {false, true}) {
        World world;
        const pid_t pid = world.child.pid;
        kill(pid, SIGKILL);
        siginfo_t info;
        waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | (reaped ? 0 : WNOWAIT));
        if (reaped) world.child.pid = -1;
        world.post(world.slices(READ, 64, PAGE, PAGE));
        world.post(world.slices(WRITE, 64, PAGE, PAGE));
        for (int32_t status : world.engine.statuses)
            CHECK_EQ(status, TENT_E_PEER);
        CHECK(world.local == std::vector<char>(Child::SIZE, 'l'));
        CHECK_EQ(world.peer.endpoint.moved_bytes.load(), 0u);
    }
}

TEST(a_number_that_has_become_another_process_is_never_written) {
    World world, other;
    // As if the peer had died and its number were the other's now: the descriptor tells.
    kill(world.child.pid, SIGKILL);
    waitpid(world.child.pid, nullptr, 0);
    world.child.pid = -1;
    world.peer.endpoint.pid = other.child.pid;
    world.post(world.slices(WRITE, 64, PAGE, PAGE));
    CHECK_EQ(other.child.order('?'), 'c');
    world.post(world.slices(READ, 64, PAGE, PAGE));
    for (int32_t status : world.engine.statuses)
        CHECK_EQ(status, TENT_E_PEER);
}

TEST(a_peer_that_hung_up_is_not_written_even_while_it_lives) {
    World world;
    close(world.peer.sockets[1]);
    world.peer.sockets[1] = -1;
    world.post(world.slices(WRITE, 4, PAGE, PAGE));
    for (int32_t status : world.engine.statuses)
        CHECK_EQ(status, TENT_E_PEER);
    CHECK_EQ(world.child.order('?'), 'c');
}

// In a child of its own without privileges: a privileged process is never refused.
int refused_in_time() {
    if (setresgid(65534, 65534, 65534) != 0 || setresuid(65534, 65534, 65534) != 0) return 2;
    prctl(PR_SET_DUMPABLE, 1);
    World world;
    world.post(world.slices(READ, 1, PAGE, PAGE));
    if (world.engine.statuses[0] != TENT_OK) return 3;  // this machine forbids attach altogether
    CHECK_EQ(method_of(world.peer.endpoint, world.region.get()), uint32_t{ATTACH});
    CHECK_EQ(world.child.order('d'), '.');
    world.post(world.slices(READ, 3, PAGE, PAGE));
    for (size_t i = 1; i < 4; i++)
        CHECK_EQ(world.engine.statuses[i], TENT_E_TRANSPORT);
    CHECK_EQ(world.peer.endpoint.attach_errno.load(), EPERM);
    CHECK_EQ(method_of(world.peer.endpoint, world.region.get()), 0u);
    auto mapped = world.peer.region(world.child.memory, Child::SIZE, true);
    CHECK_EQ(method_of(world.peer.endpoint, mapped.get()), uint32_t{MAPPED});
    return check::failure_count.load() == 0 ? 0 : 1;
}

TEST(a_peer_that_becomes_unreachable_ends_attach_for_good) {
    const pid_t pid = fork();
    if (pid == 0) _exit(refused_in_time());
    int status = 0;
    waitpid(pid, &status, 0);
    const int code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    if (code == 2)
        printf("(not run: needs to change its user) ");
    else if (code == 3)
        printf("(not run: this system forbids attach between processes of one user) ");
    else
        CHECK_EQ(code, 0);
}

TEST(checked_slices_arrive_whole_and_a_byte_that_changes_underway_is_seen) {
    World world;
    static World *there;
    static int calls;
    there = &world;
    calls = 0;
    for (uint32_t op : {READ, WRITE})
        world.engine.post(world.peer, op, world.local.data(), world.child.memory, Child::SIZE,
                          *world.region, TENT_SLICE_INTEGRITY);
    world.engine.settle();
    CHECK_EQ(world.engine.statuses[0], TENT_OK);
    CHECK_EQ(world.engine.statuses[1], TENT_OK);
    CHECK(world.local == std::vector<char>(Child::SIZE, 'c'));
    // Between the first checksum and the copy our own memory changes.
    world.engine.host.table.crc32c = [](uint32_t crc, const void *data, uint64_t size) {
        const uint32_t made = fake::crc32c(crc, data, size);
        if (calls++ == 0) there->local[77] ^= 1;
        return made;
    };
    world.engine.post(world.peer, WRITE, world.local.data(), world.child.memory, 5000,
                      *world.region, TENT_SLICE_INTEGRITY);
    CHECK_EQ(world.engine.collect(), 1u);
    CHECK_EQ(world.engine.statuses[2], TENT_E_CORRUPT);
}

}  // namespace
