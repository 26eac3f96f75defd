// See listen.h.
#include "listen.h"

#include <dirent.h>
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "mutant.h"
#include "socket.h"
#include "watch.h"

namespace tent::shm {
namespace {

constexpr char UNFINISHED[] = ".new";  // bound, does not listen yet
constexpr time_t UNFINISHED_S_MAX = 60;
constexpr uint32_t LEFTOVERS_MAX = 4096;  // files looked at
constexpr uint64_t PAUSE_NS = 100'000'000;
constexpr uint32_t ACCEPTS_MAX = 16;  // in one turn
constexpr int BACKLOG = 128;

class Descriptor {
  public:
    explicit Descriptor(int fd) : fd_(fd) {}
    ~Descriptor() {
        if (fd_ >= 0) close(fd_);
    }
    Descriptor(const Descriptor &) = delete;
    Descriptor &operator=(const Descriptor &) = delete;
    int get() const { return fd_; }
    int release() {
        const int fd = fd_;
        fd_ = -1;
        return fd;
    }

  private:
    int fd_;
};

bool address_of(const std::string &path, sockaddr_un *address) {
    *address = {};
    address->sun_family = AF_UNIX;
    if (path.size() >= sizeof address->sun_path) return false;
    memcpy(address->sun_path, path.c_str(), path.size() + 1);
    return true;
}

int socket_make() {
    return socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

bool ends_with(const char *name, const char *end) {
    const size_t size = strlen(name), end_size = strlen(end);
    return size >= end_size && strcmp(name + size - end_size, end) == 0;
}

// Does nobody listen there, and will nobody?
bool left_behind(int directory, const std::string &path, const char *name) {
    struct stat about{};
    if (fstatat(directory, name, &about, AT_SYMLINK_NOFOLLOW) != 0 || !S_ISSOCK(about.st_mode) ||
        about.st_uid != geteuid())
        return false;
    if (ends_with(name, UNFINISHED)) return time(nullptr) - about.st_mtime > UNFINISHED_S_MAX;
    sockaddr_un address;
    const Descriptor visitor(socket_make());
    if (visitor.get() < 0 || !address_of(path + "/" + name, &address)) return false;
    return connect(visitor.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 &&
           errno == ECONNREFUSED && !mutant(Mutant::shm_leftovers);
}

void leftovers_remove(int directory, const std::string &path) {
    const int copy = openat(directory, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *entries = copy >= 0 ? fdopendir(copy) : nullptr;
    if (entries == nullptr) {
        if (copy >= 0) close(copy);
        return;
    }
    uint32_t looked = 0;
    for (const dirent *entry = readdir(entries); entry != nullptr && looked < LEFTOVERS_MAX;
         entry = readdir(entries), looked++)
        if (left_behind(directory, path, entry->d_name)) unlinkat(directory, entry->d_name, 0);
    closedir(entries);
}

// Makes sure of a folder that is ours alone. -1: the sentence says why not.
int directory_open(const std::string &path, bool others, std::string *sentence) {
    const mode_t mode = others ? 0711 : 0700;
    if (mkdir(path.c_str(), mode) != 0 && errno != EEXIST) {
        *sentence =
            format("the folder %s cannot be made: %s", path.c_str(), strerrordesc_np(errno));
        return -1;
    }
    Descriptor fd(open(path.c_str(), O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC));
    struct stat about{};
    if (fd.get() < 0 || fstat(fd.get(), &about) != 0) {
        *sentence = errno == ELOOP || errno == ENOTDIR
                        ? format("%s is no folder (a link, or a file); remove it", path.c_str())
                        : format("the folder %s cannot be opened: %s", path.c_str(),
                                 strerrordesc_np(errno));
        return -1;
    }
    if (about.st_uid != geteuid()) {
        *sentence = format("the folder %s belongs to user %u, not to us (%u); remove it",
                           path.c_str(), about.st_uid, geteuid());
        return -1;
    }
    const bool open_wrong = (about.st_mode & 0066) != 0 || (others && (about.st_mode & 0011) == 0);
    if (open_wrong && fchmod(fd.get(), mode) != 0) {
        *sentence = format("the folder %s is open to others and cannot be closed: %s", path.c_str(),
                           strerrordesc_np(errno));
        return -1;
    }
    return fd.release();
}

// Binds under a name that nobody connects to, and gives it its own when it listens: a file that
// refuses connections is always one that was left behind. Returns 0, or an errno with the sentence.
int socket_listen(const Instance &instance, int directory, const std::string &folder,
                  const std::string &name, int *out, std::string *sentence) {
    const std::string unfinished = name + UNFINISHED;
    sockaddr_un address;
    if (!address_of(folder + "/" + unfinished, &address)) {
        *sentence = format(
            "the path %s/%s has more than %zu characters; set shm.directory to a shorter one",
            folder.c_str(), unfinished.c_str(), sizeof address.sun_path - 1);
        return ENAMETOOLONG;
    }
    Descriptor fd(socket_make());
    const mode_t mode = instance.options.users.empty() ? 0600 : 0666;
    bool listens = fd.get() >= 0 &&
                   bind(fd.get(), reinterpret_cast<sockaddr *>(&address), sizeof address) == 0;
    const bool bound = listens;
    listens = listens && fchmodat(directory, unfinished.c_str(), mode, 0) == 0 &&
              listen(fd.get(), BACKLOG) == 0 &&
              renameat(directory, unfinished.c_str(), directory, name.c_str()) == 0;
    const int error = errno;
    if (listens) {
        *out = fd.release();
        return 0;
    }
    if (bound) unlinkat(directory, unfinished.c_str(), 0);
    *sentence = format("no socket in %s: %s", folder.c_str(), strerrordesc_np(error));
    return error;
}

bool open_in(Instance &instance, const std::string &base, std::string *sentence) {
    const std::string folder = base + "/tent-" + std::to_string(geteuid());
    uint64_t number = 0;
    random_fill(instance, &number, sizeof number);
    const std::string name =
        format("%d-%016llx", getpid(), static_cast<unsigned long long>(number));
    // Another engine that closes may remove the empty folder between our two steps.
    for (int attempt = 0; attempt < 8; attempt++) {
        const Descriptor directory(
            directory_open(folder, !instance.options.users.empty(), sentence));
        if (directory.get() < 0) return false;
        leftovers_remove(directory.get(), folder);
        const int error =
            socket_listen(instance, directory.get(), folder, name, &instance.listen_fd, sentence);
        if (error == 0) {
            instance.directory = folder;
            instance.path = folder + "/" + name;
            return true;
        }
        if (error != ENOENT) return false;
    }
    return false;
}

void visitor_close(Instance &instance, size_t index) {
    const int fd = instance.visitors[index].fd;
    visitor_forget(instance, fd);
    unwatch(instance, fd);  // a fork may keep it open
    close(fd);
}

void visitor_add(Instance &instance, int fd) {
    uint32_t uid = 0;
    int32_t pid = 0;
    if (!peer_credentials(fd, &uid, &pid) || !user_allowed(instance, uid)) {
        instance.host->log(
            instance.host->ctx, TENT_E_AUTH,
            format("shm: user %u connected to %s and was shown out; shm.users names who is let in",
                   uid, instance.path.c_str())
                .c_str());
        close(fd);
        return;
    }
    if (instance.visitors.size() >= VISITORS_MAX) visitor_close(instance, 0);
    if (!watch(instance, fd, Watched::VISITOR, static_cast<uint64_t>(fd) * (WATCHED_MASK + 1))) {
        close(fd);
        return;
    }
    instance.visitors.push_back({fd, now_of(instance) + instance.options.connect_timeout_ns});
}

}  // namespace

std::vector<std::string> listener_bases(const Options &options, const char *runtime) {
    if (!options.directory.empty()) return {options.directory};
    std::vector<std::string> bases = {"/dev/shm"};
    if (runtime != nullptr && *runtime == '/') bases.push_back(runtime);
    bases.push_back("/tmp");
    return bases;
}

int32_t listener_open(Instance &instance, const std::vector<std::string> &bases,
                      std::string *sentence) {
    std::string all;
    for (const std::string &base : bases) {
        std::string why;
        if (open_in(instance, base, &why)) {
            if (watch(instance, instance.listen_fd, Watched::LISTENER, 0)) return TENT_OK;
            why = format("epoll_ctl: %s", strerrordesc_np(errno));
            listener_close(instance);
        }
        all += (all.empty() ? "" : "; ") + why;
    }
    *sentence = "shm: peers cannot connect: " + all;
    return TENT_E_SYSTEM;
}

void listener_close(Instance &instance) {
    while (!instance.visitors.empty())
        visitor_close(instance, 0);
    if (instance.listen_fd < 0) return;
    close(instance.listen_fd);
    instance.listen_fd = -1;
    unlink(instance.path.c_str());
    rmdir(instance.directory.c_str());  // stays while others use it
}

bool user_allowed(const Instance &instance, uint32_t uid) {
    if (mutant(Mutant::shm_user)) return true;
    const std::vector<uint32_t> &users = instance.options.users;
    return uid == instance.place.uid || std::find(users.begin(), users.end(), uid) != users.end();
}

void visitor_forget(Instance &instance, int fd) {
    std::erase_if(instance.visitors, [fd](const Instance::Visitor &v) { return v.fd == fd; });
}

void listener_accept(Instance &instance) {
    for (uint32_t i = 0; i < ACCEPTS_MAX; i++) {
        const int fd = accept4(instance.listen_fd, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            instance.moved = true;
            visitor_add(instance, fd);
            continue;
        }
        if (errno == EINTR || errno == ECONNABORTED) continue;
        if (errno == EAGAIN || errno == EWOULDBLOCK) return;
        // No descriptors or no memory: whoever waits would make us spin.
        instance.host->log(instance.host->ctx, TENT_E_SYSTEM,
                           format("shm: a peer cannot be let in: %s; raise the limit of open files",
                                  strerrordesc_np(errno))
                               .c_str());
        unwatch(instance, instance.listen_fd);
        instance.accept_paused = true;
        instance.accept_ns = now_of(instance) + PAUSE_NS;
        return;
    }
}

void listener_step(Instance &instance, uint64_t now_ns) {
    while (!instance.visitors.empty() && now_ns >= instance.visitors[0].deadline_ns)
        visitor_close(instance, 0);
    if (!instance.accept_paused || now_ns < instance.accept_ns) return;
    instance.accept_paused = !watch(instance, instance.listen_fd, Watched::LISTENER, 0);
    instance.accept_ns = now_ns + PAUSE_NS;
}

uint64_t listener_due_ns(const Instance &instance) {
    uint64_t due_ns = instance.accept_paused ? instance.accept_ns : UINT64_MAX;
    if (!instance.visitors.empty()) due_ns = std::min(due_ns, instance.visitors[0].deadline_ns);
    return due_ns;
}

}  // namespace tent::shm
