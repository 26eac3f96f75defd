// System calls that fail, for tests of what happens then: a filter in a forked child.
//
// Leans on seccomp. The filter is for the rest of the child's life: never install one in the test's
// own process.
#ifndef TENT_TESTS_MEMORY_SYSCALLS_H
#define TENT_TESTS_MEMORY_SYSCALLS_H

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>

namespace failing {

// A call of that number fails with `error`; argument >= 0: only where the low half of that argument
// is `value`.
struct Call {
    long number;
    int argument;
    uint32_t value;
    int error;
};

// False: the kernel or a sandbox allows no filters.
inline bool install(const Call &call) {
    const uint32_t argument = offsetof(seccomp_data, args) +
                              8 * static_cast<uint32_t>(call.argument < 0 ? 0 : call.argument);
    // Any value will do: both ways lead to the refusal.
    const uint8_t otherwise = call.argument < 0 ? 0 : 1;
    sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, static_cast<uint32_t>(call.number), 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, argument),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, call.value, 0, otherwise),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | static_cast<uint32_t>(call.error)),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    sock_fprog program{sizeof code / sizeof code[0], code};
    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
           prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0, 0) == 0;
}

// Runs `body` in a forked child; its return value is the exit code, 0 is good. -1: a signal ended
// it.
template <class Body>
int in_child(Body body) {
    fflush(nullptr);
    const pid_t child = fork();
    if (child == 0) {
        const int code = body();
        fflush(nullptr);
        _exit(code);
    }
    int status = 0;
    if (waitpid(child, &status, 0) != child) return -1;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

}  // namespace failing

#endif
