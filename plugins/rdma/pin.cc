// See pin.h.
#include "pin.h"

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "mutant.h"

namespace tent::rdma {
namespace {

uint64_t round_up(uint64_t value, uint64_t unit) {
    return (value + unit - 1) / unit * unit;
}

std::string size_words(uint64_t bytes) {
    static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB"};
    uint32_t unit = 0;
    uint64_t rest = 0;
    while (bytes >= 1024 && unit < 4) {
        rest = bytes % 1024;
        bytes /= 1024;
        unit++;
    }
    const auto tenths = static_cast<unsigned>(rest * 10 / 1024);
    return tenths != 0
               ? format("%llu.%u %s", static_cast<unsigned long long>(bytes), tenths, units[unit])
               : format("%llu %s", static_cast<unsigned long long>(bytes), units[unit]);
}

uint64_t memlock_limit() {
    rlimit limit{};
    if (getrlimit(RLIMIT_MEMLOCK, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY)
        return UINT64_MAX;
    return limit.rlim_cur;
}

uint64_t pinned_now() {
    FILE *file = fopen("/proc/self/status", "re");
    if (file == nullptr) return 0;
    constexpr char key[] = "VmPin:";
    char line[256];
    uint64_t kib = 0;
    while (fgets(line, sizeof line, file) != nullptr)
        if (strncmp(line, key, sizeof key - 1) == 0)
            kib = strtoull(line + sizeof key - 1, nullptr, 10);
    fclose(file);
    return kib * 1024;
}

int access_of(const Instance &instance, const Registration &registration) {
    int access = registration.read_only ? 0 : IBV_ACCESS_LOCAL_WRITE;
    // A window counts as writing with the kernel, whatever it allows.
    if (windows_on(*registration.rail) && !registration.read_only) {
        access |= IBV_ACCESS_MW_BIND;
    } else {
        if ((registration.access & TENT_ACCESS_READ) != 0) access |= IBV_ACCESS_REMOTE_READ;
        if ((registration.access & TENT_ACCESS_WRITE) != 0) access |= IBV_ACCESS_REMOTE_WRITE;
    }
    if (instance.options.on_demand) access |= IBV_ACCESS_ON_DEMAND;
    if (instance.options.relaxed_ordering) access |= IBV_ACCESS_RELAXED_ORDERING;
    return access;
}

// What one registration has come to. Its pieces are written by whoever takes them.
struct Attempt {
    Registration *registration = nullptr;
    int access = 0;
    std::atomic<int> error{0};  // the first
    std::string dma_buf;        // guarded by Job::mutex
};

struct Job {
    const Verbs *verbs = nullptr;
    bool dma_buf = false;
    std::vector<Attempt> attempts;
    struct Task {
        uint32_t attempt, piece;
    };
    std::vector<Task> tasks;
    std::atomic<size_t> next{0};

    std::mutex mutex;
    std::condition_variable done;
    size_t left = 0;

    explicit Job(size_t count) : attempts(count) {}
};

ibv_mr *host_register(const Job &job, const Registration &registration, uint64_t address,
                      uint64_t length, int access) {
    ibv_pd *pd = registration.rail->pd;
    void *begin = reinterpret_cast<void *>(address);
    ibv_mr *mr = job.verbs->reg_mr(pd, begin, length, access);
    // A kernel that does not know the hint refuses it.
    if (mr == nullptr && (access & IBV_ACCESS_RELAXED_ORDERING) != 0 &&
        (errno == EINVAL || errno == EOPNOTSUPP)) {
        access &= ~IBV_ACCESS_RELAXED_ORDERING;
        mr = job.verbs->reg_mr(pd, begin, length, access);
    }
    return mr;
}

void task_do(Job &job, const Job::Task &task) {
    Attempt &attempt = job.attempts[task.attempt];
    if (attempt.error.load(std::memory_order_relaxed) != 0) return;  // it is lost already
    Registration &registration = *attempt.registration;
    const uint64_t offset = task.piece * registration.piece_size;
    const uint64_t address = registration.address + offset;
    const uint64_t length = std::min(registration.piece_size, registration.length - offset);
    ibv_mr *mr = nullptr;
    std::string why;
    if (registration.gpu && job.dma_buf)
        mr = dma_buf_register(*job.verbs, registration.rail->pd, address, length, attempt.access,
                              &why);
    if (mr == nullptr) {
        errno = 0;
        mr = host_register(job, registration, address, length, attempt.access);
    }
    if (mr != nullptr) {
        registration.pieces[task.piece] = {mr, mr->lkey, mr->rkey};
        return;
    }
    int none = 0;
    attempt.error.compare_exchange_strong(none, errno != 0 ? errno : EIO);
    const std::lock_guard lock(job.mutex);
    if (attempt.dma_buf.empty()) attempt.dma_buf = why;
}

// Takes tasks until none is left: the caller, and errands beside it.
void work(Job &job) {
    for (;;) {
        // Nothing is read but the tasks, which stood before any errand began.
        const size_t at = job.next.fetch_add(1, std::memory_order_relaxed);
        if (at >= job.tasks.size()) return;
        task_do(job, job.tasks[at]);
        const std::lock_guard lock(job.mutex);
        if (--job.left == 0) job.done.notify_all();
    }
}

// An errand may begin after all is done and the caller has gone: it then finds no task and touches
// nothing but the job.
void errand_run(void *argument) {
    const std::unique_ptr<std::shared_ptr<Job>> job(static_cast<std::shared_ptr<Job> *>(argument));
    work(**job);
}

void failed(const Instance &instance, const Attempt &attempt) {
    Registration &registration = *attempt.registration;
    PinFailure failure;
    failure.error = attempt.error.load(std::memory_order_relaxed);
    failure.device = registration.rail->device.c_str();
    failure.length = registration.length;
    failure.piece_count = registration.pieces.size();
    failure.size_max = registration.rail->limits.max_mr_size;
    failure.mr_max = registration.rail->limits.max_mr;
    failure.gpu = registration.gpu;
    failure.on_demand = instance.options.on_demand;
    failure.dma_buf = attempt.dma_buf;
    int error = 0;
    unpin(registration, &error);
    registration.pieces.clear();
    // Afterwards: what this registration had pinned itself does not count.
    failure.memlock = memlock_limit();
    failure.pinned = pinned_now();
    registration.status =
        failure.error == ENOMEM || failure.error == ENOSPC ? TENT_E_NO_MEMORY : TENT_E_TRANSPORT;
    registration.why = pin_words(failure);
}

// Registrations that cannot even be tried.
bool hopeless(const Instance &instance, Registration *registration) {
    const Rail &rail = *registration->rail;
    if (instance.options.on_demand && !rail.on_demand) {
        registration->status = TENT_E_UNSUPPORTED;
        registration->why = format(
            "rdma.on_demand=yes, but %s cannot page on demand for reads and writes of reliable "
            "connections: set rdma.on_demand=no, or leave the rail out",
            rail.device.c_str());
        return true;
    }
    const uint64_t count =
        (registration->length + registration->piece_size - 1) / registration->piece_size;
    const uint64_t size = std::min(registration->length, registration->piece_size);
    if (rail.limits.max_mr_size != 0 && size > rail.limits.max_mr_size) {
        registration->status = TENT_E_NO_MEMORY;
        registration->why = format(
            "%s registers at most %s at a time, and the region is cut into pieces of %s: "
            "set rdma.piece_size to less, before the region is registered",
            rail.device.c_str(), size_words(rail.limits.max_mr_size).c_str(),
            size_words(size).c_str());
        return true;
    }
    registration->pieces.resize(count);
    return false;
}

}  // namespace

uint64_t piece_size_choose(uint64_t length, uint64_t wanted, uint64_t size_max) {
    const auto page = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
    uint64_t size = length;
    if (wanted != 0)
        size = round_up(std::min(wanted, length), page);
    else if (length >= CUT_MIN)
        size = round_up(length / PIN_THREADS, HUGE_PAGE);
    if (size_max >= page && size > size_max)
        size = size_max >= HUGE_PAGE ? size_max / HUGE_PAGE * HUGE_PAGE : size_max / page * page;
    size = std::max(size, round_up((length + PIECES_MAX - 1) / PIECES_MAX, page));
    return std::min(size, length);
}

bool windows_on(const Rail &rail) {
    return rail.windows && rail.instance->options.windows && !mutant(Mutant::rdma_any_qp);
}

namespace {

// Memory that we may not write ourselves can still be read by peers.
bool read_only_maybe(const Attempt &attempt) {
    const int error = attempt.error.load(std::memory_order_relaxed);
    const Registration &registration = *attempt.registration;
    return (error == EFAULT || error == EACCES) && !registration.read_only &&
           (registration.access & TENT_ACCESS_WRITE) == 0;
}

// Tries each once; gives those to be tried again as read-only memory.
std::vector<Registration *> attempt_all(const Instance &instance,
                                        const std::vector<Registration *> &registrations) {
    auto job = std::make_shared<Job>(registrations.size());
    job->verbs = instance.verbs;
    job->dma_buf = instance.options.dma_buf;
    for (uint32_t i = 0; i < registrations.size(); i++) {
        job->attempts[i].registration = registrations[i];
        job->attempts[i].access = access_of(instance, *registrations[i]);
        if (hopeless(instance, registrations[i])) continue;
        for (uint32_t piece = 0; piece < registrations[i]->pieces.size(); piece++)
            job->tasks.push_back({i, piece});
    }
    job->left = job->tasks.size();
    const auto helpers = std::min<size_t>(PIN_THREADS, job->tasks.size());
    for (size_t i = 1; i < helpers && instance.host->errand != nullptr; i++)
        instance.host->errand(instance.host->ctx, errand_run, new std::shared_ptr<Job>(job));
    work(*job);
    {
        std::unique_lock lock(job->mutex);
        job->done.wait(lock, [&] { return job->left == 0; });
    }
    std::vector<Registration *> again;
    for (const Attempt &attempt : job->attempts) {
        if (attempt.error.load(std::memory_order_relaxed) == 0) continue;
        int error = 0;
        if (read_only_maybe(attempt) && unpin(*attempt.registration, &error)) {
            attempt.registration->pieces.clear();
            attempt.registration->read_only = true;
            again.push_back(attempt.registration);
        } else {
            failed(instance, attempt);
        }
    }
    return again;
}

}  // namespace

void pin(const Instance &instance, const std::vector<Registration *> &registrations) {
    const std::vector<Registration *> again = attempt_all(instance, registrations);
    if (!again.empty()) attempt_all(instance, again);
}

bool unpin(Registration &registration, int *error) {
    *error = 0;
    const Verbs &verbs = *registration.rail->instance->verbs;
    for (Piece &piece : registration.pieces) {
        if (piece.mr == nullptr) continue;
        const int result = verbs.dereg_mr(piece.mr);
        // EIO, ENODEV: the device went, and with it every way to the memory.
        if (result != 0 && result != EIO && result != ENODEV)
            *error = result;
        else
            piece.mr = nullptr;
    }
    return *error == 0;
}

std::string pin_words(const PinFailure &failure) {
    const int error = failure.error;
    std::string text = strerrordesc_np(error) != nullptr ? strerrordesc_np(error) : "failed";
    const std::string length = size_words(failure.length);
    if (failure.gpu) {
        const char *way = failure.dma_buf.empty() ? "not tried" : failure.dma_buf.c_str();
        return format(
            "GPU memory cannot be reached by %s: dma-buf: %s; peer memory: %s: load the module "
            "(modprobe nvidia_peermem), or use the open GPU kernel modules with Linux 5.12 and "
            "rdma-core 34 or later, which share it as a dma-buf",
            failure.device, way, text.c_str());
    }
    if ((error == ENOMEM || error == EAGAIN) && failure.memlock != UINT64_MAX &&
        (failure.pinned >= failure.memlock || failure.length > failure.memlock - failure.pinned)) {
        const std::string held =
            failure.pinned != 0 ? " beside the " + size_words(failure.pinned) + " pinned already"
                                : std::string();
        return format(
            "the limit of locked memory (ulimit -l) is %s, %s are needed%s: raise memlock in "
            "/etc/security/limits.conf, LimitMEMLOCK=infinity in a systemd unit, --ulimit "
            "memlock=-1 of a container, or give it CAP_IPC_LOCK",
            size_words(failure.memlock).c_str(), length.c_str(), held.c_str());
    }
    if (error == ENOMEM || error == EAGAIN)
        return format(
            "%s: the kernel or %s has no memory for another %s: release regions, use huge pages "
            "(they need fewer entries of the device's table), or raise the device's own limit",
            text.c_str(), failure.device, length.c_str());
    if (error == EFAULT || error == EACCES)
        return format(
            "%s: not all of it is mapped, or it is read-only and peers may write to it: register "
            "memory that is mapped for as long as the region stands, read-only memory with access "
            "\"r\"%s",
            text.c_str(),
            failure.on_demand ? "" : " (a file's pages may not be pinned by every kernel)");
    if (error == EINVAL || error == ENOSPC)
        return format(
            "%s: %s registers at most %d regions of at most %s, and this one needs %llu: use "
            "fewer and larger pieces (rdma.piece_size), huge pages, or a larger table of the "
            "device "
            "(log_num_mtt of its driver)",
            text.c_str(), failure.device, failure.mr_max, size_words(failure.size_max).c_str(),
            static_cast<unsigned long long>(failure.piece_count));
    if (error == EOPNOTSUPP || error == ENOSYS || error == EPROTONOSUPPORT)
        return format("%s: %s cannot register such memory%s", text.c_str(), failure.device,
                      failure.on_demand ? " on demand: set rdma.on_demand=no"
                                        : ": keep it in ordinary memory, or leave the rail out");
    if (error == EIO || error == ENODEV)
        return format("%s: %s went away; what is registered there comes back with it", text.c_str(),
                      failure.device);
    if (error == EPERM)
        return text +
               ": the process may not register memory: give it CAP_IPC_LOCK, or ask what "
               "profile of the container forbids it";
    return format("%s: registering with %s", text.c_str(), failure.device);
}

}  // namespace tent::rdma
