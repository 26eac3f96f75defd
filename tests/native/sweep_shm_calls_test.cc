// Sweeps over the system calls of the shm transport: in each run one more of them fails, once or
// from then on, as the kernel would make it fail when descriptors, memory or rights run out.
//
// The names below take the place of the C library's in this program, also for plugins that it
// loads; only calls that come from the shm plugin's own code are counted and made to fail. Leans on
// sweep.h.
#include <dlfcn.h>
#include <poll.h>

#include <cerrno>

#include "sweep.h"

using namespace sweeping;

namespace {

// What fails for good fails all that comes after it: not each number is another case.
constexpr uint64_t GOOD_STRIDE = 3;

struct Calls {
    uint64_t seen = 0, fails_at = 0, struck = 0;
    bool good = false;  // and all after it
    const char *name = "";
};
Calls calls;

bool of_the_plugin(const void *caller) {
    Dl_info info{};
    return dladdr(caller, &info) != 0 && info.dli_fname != nullptr &&
           strstr(info.dli_fname, "libtent_plugin_shm") != nullptr;
}

bool strikes(const void *caller, const char *name) {
    if (calls.fails_at == 0 || !of_the_plugin(caller)) return false;
    const uint64_t number = ++calls.seen;
    if (calls.good ? number < calls.fails_at : number != calls.fails_at) return false;
    if (calls.struck++ == 0) calls.name = name;
    return true;
}

using Call = long (*)(long, long, long, long, long, long);

Call real_of(const char *name) {
    void *found = dlsym(RTLD_NEXT, name);
    return reinterpret_cast<Call>(found);
}

// What is not there yet is no failure: it is asked for again and again.
bool readable(long fd) {
    struct pollfd entry = {static_cast<int>(fd), POLLIN, 0};
    static const Call real = real_of("poll");
    return real(reinterpret_cast<long>(&entry), 1, 0, 0, 0, 0) > 0;
}

}  // namespace

// Six words cover all arguments of these; those not given are not looked at by the real one.
#define FAILING_IF(symbol, error, condition)                                           \
    extern "C" __attribute__((visibility("default"))) long failing_##symbol(           \
        long a, long b, long c, long d, long e, long f) asm(#symbol);                  \
    extern "C" long failing_##symbol(long a, long b, long c, long d, long e, long f) { \
        static const Call real = real_of(#symbol);                                     \
        if ((condition) && strikes(__builtin_return_address(0), #symbol)) {            \
            errno = error;                                                             \
            return -1;                                                                 \
        }                                                                              \
        return real(a, b, c, d, e, f);                                                 \
    }                                                                                  \
    static_assert(true)
#define FAILING(symbol, error) FAILING_IF(symbol, error, true)

FAILING(memfd_create, EMFILE);
FAILING(mmap, ENOMEM);
FAILING(madvise, EINVAL);
FAILING(ftruncate, ENOSPC);
FAILING(fcntl, EMFILE);
FAILING(open, EMFILE);
FAILING(openat, EMFILE);
FAILING(stat, EACCES);
FAILING(fstatat, EACCES);
FAILING(fchmod, EPERM);
FAILING(fchmodat, EPERM);
FAILING(renameat, EACCES);
FAILING_IF(epoll_wait, EINTR, readable(a));
FAILING(fstat, EBADF);
FAILING(fstatfs, ENOSYS);
FAILING(mincore, EAGAIN);
FAILING(socket, EMFILE);
FAILING(bind, EACCES);
FAILING(listen, EADDRINUSE);
FAILING(connect, ECONNREFUSED);
FAILING(getsockopt, ENOBUFS);
FAILING(sendmsg, ENOBUFS);
FAILING(mkdir, ENOSPC);
FAILING(epoll_create1, EMFILE);
FAILING(epoll_ctl, ENOSPC);
FAILING(process_vm_readv, EPERM);
FAILING(process_vm_writev, EPERM);
FAILING(syscall, ENOSYS);
FAILING(poll, ENOMEM);
FAILING_IF(accept4, EMFILE, readable(a));
FAILING_IF(recvmsg, ECONNRESET, readable(a));

constexpr uint64_t CALLS_MIN = 30;  // fewer: nothing of the plugin was counted

namespace {

void sweep_calls(Over over, bool good, bool ladder = false) {
    const char *only = getenv("TENT_SWEEP");
    uint64_t number = only != nullptr ? strtoull(only, nullptr, 10) : 1;
    for (;; number += good ? GOOD_STRIDE : 1) {
        Plan plan;
        plan.over = over;
        plan.ladder = ladder;
        plan.lasts = good ? "good" : "once";
        plan.failure = "none";  // of the decorator's: "good" is what it is asked about
        calls = {.fails_at = number, .good = good};
        std::string trouble;
        const int before = check::failure_count.load();
        {
            Scenario scenario(plan);
            scenario.act();
            scenario.finish();
            trouble = scenario.trouble;
        }
        const bool finished = calls.struck == 0;
        bool own = trouble.find("open: ") == 0 || trouble.find("register: ") == 0;
        // The only pair of rails there is may say so when its set-up fails.
        own |= !ladder && trouble.find("segment_") == 0;
        if (!good && !own) CHECK_EQ(trouble, "");
        if (check::failure_count.load() != before || only != nullptr)
            printf("call %llu (%s) fails %s over %s: %s\n", static_cast<unsigned long long>(number),
                   calls.name, plan.lasts, Plan::ways[static_cast<size_t>(over)], trouble.c_str());
        calls.fails_at = 0;
        if (finished) {
            CHECK_EQ(trouble, "");
            CHECK(number > CALLS_MIN);
            printf("%llu calls ", static_cast<unsigned long long>(number - 1));
            return;
        }
        if (only != nullptr) return;
        if (getenv("TENT_SWEEP_ALL") == nullptr && check::failure_count.load() != before) return;
        if (!CHECK(number < NUMBER_MAX)) return;
    }
}

}  // namespace

TEST(any_system_call_may_fail_once) {
    for (Over over : {Over::MAPPED, Over::ATTACH, Over::RING})
        sweep_calls(over, false);
}

TEST(with_tcp_behind_it_any_system_call_may_fail_once) {
    sweep_calls(Over::MAPPED, false, true);
}

TEST(system_calls_may_fail_for_good) {
    for (Over over : {Over::MAPPED, Over::ATTACH, Over::RING})
        sweep_calls(over, true);
}
