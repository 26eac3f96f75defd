// The shm transport between processes: killed peers, forks that keep their sockets, other users,
// and what lies in the listener's folder.
//
// Leans on shm_pair.h and fork. Each test is one claim; what needs the superuser says so and passes
// without. Children end by _exit, so that nothing of the parent's is undone twice.
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <functional>

#include "check.h"
#include "plugins/shm/listen.h"
#include "shm_pair.h"

using namespace shm_pair;
using namespace tent::shm;

namespace {

constexpr uint32_t NOBODY = 65534;

// Two pipes between a parent that serves and a child that initiates.
struct Line {
    int to_child[2], to_parent[2];

    Line() {
        if (pipe2(to_child, O_CLOEXEC) != 0 || pipe2(to_parent, O_CLOEXEC) != 0) abort();
    }
    ~Line() {
        for (const int fd : {to_child[0], to_child[1], to_parent[0], to_parent[1]})
            if (fd >= 0) ::close(fd);
    }
    Line(const Line &) = delete;
    Line &operator=(const Line &) = delete;
    // A process that has ended is an end of file, not a wait for ever.
    void is_child() { shut(to_child[1], to_parent[0]); }
    void is_parent() { shut(to_child[0], to_parent[1]); }
    static void shut(int &a, int &b) {
        ::close(a);
        ::close(b);
        a = b = -1;
    }
    static bool put(int fd, const std::vector<char> &bytes) {
        const auto size = static_cast<uint32_t>(bytes.size());
        return write(fd, &size, sizeof size) == sizeof size &&
               write(fd, bytes.data(), size) == static_cast<ssize_t>(size);
    }
    static std::vector<char> get(int fd) {
        uint32_t size = 0;
        std::vector<char> bytes;
        if (read(fd, &size, sizeof size) != sizeof size || size > 4096) return bytes;
        bytes.resize(size);
        if (read(fd, bytes.data(), size) != static_cast<ssize_t>(size)) bytes.clear();
        return bytes;
    }
};

struct Child {
    Folder folder, own;  // ours, and the child's
    Side target;
    Line line;
    void *to = nullptr;
    pid_t pid = -1;
    std::vector<void *> regions;

    explicit Child(const Given &options = {}) : target(folder, options) {
        // Other users have to find the socket.
        chmod(folder.path.c_str(), 0755);
    }
    ~Child() {
        end();
        for (void *region : regions)
            shm()->region_release(target.instance, region);
    }
    // Runs there: what it initiates is told by the bytes of regions, handshake included.
    struct Initiator {
        Side side;
        void *endpoint = nullptr;
        std::vector<void *> remotes;
        explicit Initiator(const Folder &folder, const Given &options) : side(folder, options) {}
    };
    // The child joins us, does the work, says its result and waits to be ended.
    void start(const std::function<char(Initiator &)> &work, uint32_t uid = 0,
               const Given &options = {}) {
        std::vector<std::vector<char>> exports;
        for (void *region : regions)
            exports.push_back(target.exported(region));
        pid = fork();
        if (pid == 0) {
            line.is_child();
            const bool changed = uid == 0 || (chown(own.path.c_str(), uid, uid) == 0 &&
                                              setgid(uid) == 0 && setuid(uid) == 0);
            if (!changed) _exit(3);
            const char result = initiate(exports, work, options);
            const bool said = write(line.to_parent[1], &result, 1) == 1;
            char end = 0;
            _exit(said && read(line.to_child[0], &end, 1) < 0 ? 2 : 0);
        }
        line.is_parent();
    }
    char initiate(const std::vector<std::vector<char>> &exports,
                  const std::function<char(Initiator &)> &work, const Given &options) {
        auto *initiator = new Initiator(own, options);  // outlives us: _exit ends it
        Side &side = initiator->side;
        std::vector<char> offer(TENT_OFFER_MAX);
        uint32_t size = TENT_OFFER_MAX;
        tent_endpoint_params params = side.params(1, true, "", "", nullptr, 0);
        if (side.status != TENT_OK ||
            shm()->endpoint_offer(side.instance, &params, &initiator->endpoint, offer.data(),
                                  &size) != TENT_OK)
            return 'o';
        offer.resize(size);
        if (!Line::put(line.to_parent[1], offer)) return 'p';
        const std::vector<char> answer = Line::get(line.to_child[0]);
        if (answer.empty()) return 'a';
        for (const std::vector<char> &bytes : exports) {
            initiator->remotes.push_back(side.imported(bytes));
            shm()->endpoint_region(side.instance, initiator->endpoint, initiator->remotes.back());
        }
        params.blob = answer.data();
        params.blob_size = static_cast<uint32_t>(answer.size());
        if (shm()->endpoint_connect(side.instance, initiator->endpoint, &params) != TENT_OK)
            return 'c';
        for (int i = 0; i < 1000000 && side.host.state_of(1) == TENT_IN_PROGRESS; i++)
            side.poll();
        return side.host.state_of(1) == TENT_OK ? work(*initiator) : 's';
    }
    // Accepts its offer; what accepting came to.
    int32_t accept() {
        const std::vector<char> offer = Line::get(line.to_parent[0]);
        std::vector<char> answer(TENT_OFFER_MAX);
        uint32_t size = TENT_OFFER_MAX;
        const tent_endpoint_params params =
            target.params(2, false, "", "", offer.data(), static_cast<uint32_t>(offer.size()));
        const int32_t status =
            shm()->endpoint_accept(target.instance, &params, &to, answer.data(), &size);
        answer.resize(status == TENT_OK ? size : 0);
        Line::put(line.to_child[1], answer);
        return status;
    }
    // Serves until the child has said its result.
    char result() {
        pollfd said{line.to_parent[0], POLLIN, 0};
        char byte = '?';
        while (::poll(&said, 1, 0) == 0)
            target.poll();
        return read(line.to_parent[0], &byte, 1) == 1 ? byte : '-';
    }
    void kill_it() {
        kill(pid, SIGKILL);
        waitpid(pid, nullptr, 0);
        pid = -1;
    }
    int32_t news() {
        for (int i = 0; i < 1000000 && target.host.state_of(2) >= TENT_OK; i++)
            target.poll();
        return target.host.state_of(2);
    }
    bool retire() {
        for (int i = 0; to != nullptr && i < 1000000; i++)
            if (shm()->endpoint_retire(target.instance, to) == TENT_OK) to = nullptr;
        return to == nullptr;
    }
    void end() {
        if (pid > 0) kill_it();
        retire();
    }
};

bool superuser() {
    if (geteuid() == 0) return true;
    puts("(needs the superuser)");
    return false;
}

size_t files_in(const std::string &path) {
    DIR *folder = opendir(path.c_str());
    size_t count = 0;
    for (const dirent *entry = folder != nullptr ? readdir(folder) : nullptr; entry != nullptr;
         entry = readdir(folder))
        count += entry->d_name[0] != '.';
    if (folder != nullptr) closedir(folder);
    return count;
}

int bound_socket(const std::string &path) {
    sockaddr_un name{};
    name.sun_family = AF_UNIX;
    memcpy(name.sun_path, path.c_str(), path.size() + 1);
    const int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (bind(fd, reinterpret_cast<sockaddr *>(&name), sizeof name) != 0) abort();
    return fd;
}

}  // namespace

TEST(another_process_maps_and_attaches) {
    Child child;
    Memory memory(1 << 20);
    std::vector<char> heap(5000);
    child.target.host.grant(memory.data, memory.size);
    child.target.host.grant(heap.data(), heap.size());
    child.regions = {child.target.register_region(memory.data, memory.size, memory.fd),
                     child.target.register_region(heap.data(), heap.size())};
    char *mapped = memory.data, *attached = heap.data();
    child.start([mapped, attached](Child::Initiator &there) {
        char bytes[2] = {'m', 'h'};
        Side &side = there.side;
        if (side.about(there.endpoint, there.remotes[0]) != "mapped") return '1';
        if (side.about(there.endpoint, there.remotes[1]) != "process_vm (cross-memory attach)")
            return '2';
        side.post_to(there.endpoint, TENT_OP_WRITE, bytes, there.remotes[0], at(mapped) + 70000, 1);
        side.post_to(there.endpoint, TENT_OP_WRITE, bytes + 1, there.remotes[1], at(attached) + 9,
                     1);
        for (int i = 0; i < 100000 && side.returned < 2; i++)
            side.poll();
        return side.statuses[0] == TENT_OK && side.statuses[1] == TENT_OK ? 'y' : '3';
    });
    CHECK_EQ(child.accept(), TENT_OK);
    CHECK_EQ(child.result(), 'y');
    CHECK_EQ(memory.data[70000], 'm');
    CHECK_EQ(heap[9], 'h');
}

TEST(a_killed_initiator_is_noticed_and_its_lanes_hold_up_nobody) {
    Child child;
    Memory memory(4096);
    child.target.host.grant(memory.data, memory.size);
    child.regions = {child.target.register_region(memory.data, memory.size, memory.fd)};
    child.start([](Child::Initiator &there) {
        // In the middle of a copy, for ever.
        const auto &endpoint = *static_cast<const Endpoint *>(there.endpoint);
        return lane_enter(*endpoint.board, 0) ? 'y' : 'n';
    });
    CHECK_EQ(child.accept(), TENT_OK);
    CHECK_EQ(child.result(), 'y');
    CHECK_EQ(shm()->region_release(child.target.instance, child.regions[0]), TENT_IN_PROGRESS);
    child.kill_it();
    CHECK_EQ(child.news(), TENT_E_PEER);
    CHECK_EQ(shm()->region_release(child.target.instance, child.regions[0]), TENT_OK);
    child.regions.clear();
    CHECK(child.retire());
}

TEST(a_killed_peer_is_noticed_though_its_fork_keeps_the_socket) {
    Child child;
    int life[2];
    if (pipe(life) != 0) abort();
    child.start([&life](Child::Initiator &) {
        const pid_t fork_of_it = fork();
        if (fork_of_it == 0) {
            char byte = 0;
            close(life[1]);
            // Ends with the test.
            if (read(life[0], &byte, 1) < 0) _exit(1);
            _exit(0);
        }
        close(life[1]);
        return fork_of_it > 0 ? 'y' : 'n';
    });
    CHECK_EQ(child.accept(), TENT_OK);
    CHECK_EQ(child.result(), 'y');
    CHECK(child.target.inside().endpoints[0]->pid_fd >= 0);
    child.kill_it();
    CHECK_EQ(child.news(), TENT_E_PEER);
    CHECK(child.target.host.news.back().sentence.find("the process has ended") !=
          std::string::npos);
    CHECK(child.retire());
    close(life[0]);
    close(life[1]);
}

TEST(another_user_is_shown_out_and_named) {
    if (!superuser()) return;
    Child child;
    child.start([](Child::Initiator &) { return 'y'; }, NOBODY);
    CHECK_EQ(child.accept(), TENT_E_DENIED);
    CHECK(child.target.host.failure.find("set shm.users=65534") != std::string::npos);
    CHECK_EQ(child.result(), 'a');
}

TEST(another_user_who_connects_on_its_own_finds_the_door_shut) {
    if (!superuser()) return;
    for (const bool open : {false, true}) {
        Child child(open ? Given{{"users", "4242"}} : Given{});
        const std::string path = child.target.inside().path;
        child.pid = fork();
        if (child.pid == 0) {
            if (setuid(NOBODY) != 0) _exit(9);
            const int fd = raw_connect(path);
            char byte = 0;
            // Let through by the file's mode, it is shown out by its credentials.
            _exit(fd < 0 ? (errno == EACCES ? 1 : 8) : read(fd, &byte, 1) <= 0 ? 2 : 7);
        }
        int status = 0;
        while (waitpid(child.pid, &status, WNOHANG) == 0)
            child.target.poll();
        child.pid = -1;
        CHECK_EQ(WEXITSTATUS(status), open ? 2 : 1);
        CHECK_EQ(child.target.host.logged.size(), size_t{open ? 1u : 0u});
    }
}

TEST(another_user_who_is_let_in_maps_what_was_granted_and_uses_the_ring_for_the_rest) {
    if (!superuser()) return;
    Child child(Given{{"users", "65534"}});
    Memory whole(8192), part(8192);
    std::vector<char> heap(100);
    for (const auto &[data, size] :
         {std::pair{whole.data, size_t{8192}}, std::pair{part.data, size_t{4096}},
          std::pair{heap.data(), heap.size()}})
        child.target.host.grant(data, size);
    child.regions = {child.target.register_region(whole.data, 8192, whole.fd),
                     child.target.register_region(part.data, 4096, part.fd),
                     child.target.register_region(heap.data(), heap.size())};
    char *address = heap.data();
    child.start(
        [address](Child::Initiator &there) {
            Side &side = there.side;
            if (side.about(there.endpoint, there.remotes[0]) != "mapped") return '1';
            const std::string other = side.about(there.endpoint, there.remotes[1]);
            if (other.find("ring (two copies): process_vm_readv: Operation not permitted (the "
                           "peer is user 0, we are 65534") != 0)
                return '2';
            const auto &region = *static_cast<const RemoteRegion *>(there.remotes[1]);
            if (region.why.find("would see the rest") == std::string::npos) return '3';
            char byte = 'r';
            side.post_to(there.endpoint, TENT_OP_WRITE, &byte, there.remotes[2], at(address), 1);
            for (int i = 0; i < 10000000 && side.returned < 1; i++)
                side.poll();
            return side.statuses[0] == TENT_OK ? 'y' : '4';
        },
        NOBODY);
    CHECK_EQ(child.accept(), TENT_OK);
    CHECK_EQ(child.result(), 'y');
    CHECK_EQ(heap[0], 'r');
}

// ---- the folder ------------------------------------------------------------------------------

TEST(an_engine_leaves_nothing_behind) {
    Folder folder;
    {
        Side one(folder), two(folder);
        CHECK_EQ(folder.sockets(), size_t{2});
        struct stat about{};
        CHECK_EQ(stat(one.inside().path.c_str(), &about), 0);
        CHECK_EQ(about.st_mode & 0777, mode_t{0600});
        CHECK_EQ(stat(folder.inside().c_str(), &about), 0);
        CHECK_EQ(about.st_mode & 0777, mode_t{0700});
    }
    CHECK_EQ(files_in(folder.path), size_t{0});
}

TEST(what_killed_engines_left_is_removed_and_nothing_else) {
    Folder folder;
    Side alive(folder);
    const std::string inside = folder.inside();
    close(bound_socket(inside + "/dead"));
    const int unfinished = bound_socket(inside + "/young.new");
    close(bound_socket(inside + "/old.new"));
    const timespec long_ago[2] = {{1000, 0}, {1000, 0}};
    CHECK_EQ(utimensat(AT_FDCWD, (inside + "/old.new").c_str(), long_ago, 0), 0);
    close(open((inside + "/file").c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    Side next(folder);
    CHECK(access((inside + "/dead").c_str(), F_OK) != 0);
    CHECK(access((inside + "/old.new").c_str(), F_OK) != 0);
    for (const std::string &kept :
         {inside + "/young.new", inside + "/file", alive.inside().path, next.inside().path})
        CHECK_EQ(access(kept.c_str(), F_OK), 0);
    close(unfinished);
}

TEST(an_engine_that_was_killed_is_tidied_up_by_the_next) {
    Folder folder;
    const pid_t pid = fork();
    if (pid == 0) {
        new Side(folder);
        _exit(0);  // as kill would: nothing is closed by hand
    }
    waitpid(pid, nullptr, 0);
    CHECK_EQ(folder.sockets(), size_t{1});
    Side next(folder);
    CHECK_EQ(folder.sockets(), size_t{1});
    CHECK_EQ(access(next.inside().path.c_str(), F_OK), 0);
}

TEST(a_folder_that_is_a_link_a_file_or_a_strangers_is_refused) {
    for (const int kind : {0, 1, 2}) {
        Folder folder, elsewhere;
        const std::string inside = folder.inside();
        if (kind == 0) CHECK_EQ(symlink(elsewhere.path.c_str(), inside.c_str()), 0);
        if (kind == 1) close(open(inside.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
        if (kind == 2 && (!superuser() || mkdir(inside.c_str(), 0700) != 0 ||
                          chown(inside.c_str(), NOBODY, NOBODY) != 0))
            return;
        Side side(folder);
        CHECK_EQ(side.status, TENT_E_SYSTEM);
        const char *expected = kind == 2 ? "belongs to user 65534" : "is no folder";
        if (!CHECK(side.host.failure.find(expected) != std::string::npos))
            puts(side.host.failure.c_str());
        CHECK_EQ(files_in(elsewhere.path), size_t{0});
    }
}

TEST(a_folder_that_is_open_to_others_is_closed) {
    Folder folder;
    CHECK_EQ(mkdir(folder.inside().c_str(), 0700), 0);
    CHECK_EQ(chmod(folder.inside().c_str(), 0777), 0);
    Side side(folder);
    struct stat about{};
    CHECK_EQ(stat(folder.inside().c_str(), &about), 0);
    CHECK_EQ(about.st_mode & 0777, mode_t{0700});
}

TEST(a_path_too_long_for_a_socket_is_refused_with_a_way_out) {
    Folder folder;
    const std::string path = folder.path + "/" + std::string(90, 'd');
    CHECK_EQ(mkdir(path.c_str(), 0700), 0);
    const fake::Side refused(shm(), "host", {{"directory", path.c_str()}});
    CHECK_EQ(refused.status, TENT_E_SYSTEM);
    CHECK(refused.host.failure.find("set shm.directory to a shorter one") != std::string::npos);
}

TEST(the_first_folder_that_serves_is_taken) {
    Folder missing, good;
    Side side(good);
    Instance &instance = side.inside();
    listener_close(instance);
    std::string sentence;
    const std::vector<std::string> bases = {missing.path + "/none", "/proc", good.path};
    CHECK_EQ(listener_open(instance, bases, &sentence), TENT_OK);
    CHECK_EQ(instance.directory, good.inside());
    listener_close(instance);
    CHECK_EQ(listener_open(instance, {missing.path + "/none", "/proc"}, &sentence), TENT_E_SYSTEM);
    CHECK(sentence.find("/none/tent-") != std::string::npos);
    CHECK(sentence.find("/proc/tent-") != std::string::npos);
    CHECK_EQ(listener_open(instance, {good.path}, &sentence), TENT_OK);
}

TEST(folders_are_tried_in_order_and_a_named_one_alone) {
    Options options;
    CHECK(listener_bases(options, nullptr) == std::vector<std::string>({"/dev/shm", "/tmp"}));
    CHECK(listener_bases(options, "/run/user/7") ==
          std::vector<std::string>({"/dev/shm", "/run/user/7", "/tmp"}));
    CHECK(listener_bases(options, "relative") == listener_bases(options, nullptr));
    options.directory = "/named";
    CHECK(listener_bases(options, "/run/user/7") == std::vector<std::string>({"/named"}));
}

TEST(a_fork_neither_inherits_descriptors_past_exec_nor_mappings) {
    Pair pair;
    Memory memory(4096);
    Told &told = pair.tell(memory.data, 4096, memory.fd);
    if (!CHECK_EQ(pair.join(), TENT_OK)) return;
    for (const int fd : {pair.initiators().fd, pair.initiators().pid_fd, pair.targets().fd,
                         pair.targets().pid_fd, pair.target.inside().listen_fd,
                         pair.target.inside().epoll_fd, pair.target.inside().table_fd})
        CHECK_EQ(fcntl(fd, F_GETFD), FD_CLOEXEC);
    const char *mapped = static_cast<RemoteRegion *>(told.remote)->base;
    int line[2];
    if (pipe(line) != 0) abort();
    const pid_t pid = fork();
    // The kernel reads what is mapped and nothing else: no fault here.
    if (pid == 0) _exit(write(line[1], mapped, 1) < 0 && errno == EFAULT ? 0 : 1);
    int status = 0;
    waitpid(pid, &status, 0);
    CHECK_EQ(WEXITSTATUS(status), 0);
    close(line[0]);
    close(line[1]);
}
