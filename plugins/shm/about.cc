// How slices of an endpoint go, and why so: told to who posts them and to who asks.
//
// Leans on state.h. Cross-memory attach is not guessed from settings: it has been done, on bytes
// that only the peer can have.
#include <fcntl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "mutant.h"
#include "state.h"

namespace tent::shm {
namespace {

int yama_scope() {
    const int fd = open("/proc/sys/kernel/yama/ptrace_scope", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return -1;
    char text[8] = {};
    const ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 && text[0] >= '0' && text[0] <= '9' ? text[0] - '0' : -1;
}

std::string or_unknown(const std::string &why) {
    return why.empty() ? "not tried" : why;
}

std::string attach_words(const Endpoint &endpoint) {
    const int error = endpoint.attach_errno.load(std::memory_order_relaxed);
    return error != 0 ? format("forbidden later on: %s", strerrordesc_np(error))
                      : or_unknown(endpoint.attach_why);
}

std::string mapped_words(const RemoteRegion &region) {
    if (region.about.mappable == 0) return "its memory was not allocated by the engine";
    return region.asked != nullptr ? "asked for" : or_unknown(region.why);
}

// Of regions that are not mapped.
uint32_t fallback_of(const Endpoint &endpoint) {
    const bool forbidden = endpoint.attach_errno.load(std::memory_order_relaxed) != 0;
    return endpoint.fallback == ATTACH && forbidden ? 0 : endpoint.fallback;
}

std::string about_text(const Endpoint &endpoint, const RemoteRegion *region) {
    switch (region != nullptr ? method_of(endpoint, region) : fallback_of(endpoint)) {
        case MAPPED:
            return (region->access & TENT_ACCESS_WRITE) != 0 ? "mapped" : "mapped read-only";
        case ATTACH:
            return region != nullptr && region->about.mappable != 0
                       ? "process_vm (cross-memory attach); not mapped: " + mapped_words(*region)
                       : "process_vm (cross-memory attach)";
        case RING: return "ring (two copies): " + attach_words(endpoint);
        default: break;
    }
    if (endpoint.state == EndpointState::FAILED) return "unreachable: " + endpoint.sentence;
    if (endpoint.state != EndpointState::READY) return "unreachable: it is being set up";
    const std::string mapped =
        region != nullptr ? "not mapped: " + mapped_words(*region) + "; " : "";
    return "unreachable: " + mapped + "process_vm: " + attach_words(endpoint) +
           "; ring: " + or_unknown(endpoint.ring_why);
}

}  // namespace

void endpoint_about(void *, void *handle, void *remote_region, char *text, uint32_t size) {
    if (size == 0) return;
    const std::string about = about_text(*static_cast<Endpoint *>(handle),
                                         static_cast<const RemoteRegion *>(remote_region));
    const size_t length = std::min<size_t>(about.size(), size - 1);
    memcpy(text, about.data(), length);
    text[length] = '\0';
}

std::string attach_forbidden(int error, int yama, uint32_t own_uid, uint32_t peer_uid) {
    std::string text = format("process_vm_readv: %s", strerrordesc_np(error));
    if (error == ENOSYS) return text + " (a seccomp profile, or a kernel without it)";
    if (error != EPERM && error != EACCES) return text;
    if (own_uid != peer_uid)
        return text + format(
                          " (the peer is user %u, we are %u: run both as one, or give us "
                          "CAP_SYS_PTRACE)",
                          peer_uid, own_uid);
    if (yama == 1 || yama == 2)
        return text + format(
                          " (kernel.yama.ptrace_scope=%d: set it to 0, or give us "
                          "CAP_SYS_PTRACE)",
                          yama);
    if (yama == 3) return text + " (kernel.yama.ptrace_scope=3: until the next boot)";
    return text + " (the peer has more capabilities or is not dumpable; or a container's profile)";
}

bool attach_proven(const Endpoint &endpoint, uint64_t address, const uint8_t *proof,
                   std::string *why) {
    const Instance &instance = *endpoint.instance;
    if (!instance.options.attach || (endpoint.peer.methods & ATTACH) == 0) {
        *why = instance.options.attach ? "the peer has shm.attach=no" : "shm.attach=no";
        return false;
    }
    if (endpoint.pid <= 0) {
        *why = "the peer's process cannot be seen from here (another PID namespace; share it)";
        return false;
    }
    uint8_t read[sizeof instance.proof] = {};
    const iovec here{read, sizeof read};
    const iovec there{reinterpret_cast<void *>(address), sizeof read};
    const ssize_t got = process_vm_readv(endpoint.pid, &here, 1, &there, 1, 0);
    const int error = errno;
    if (mutant(Mutant::shm_proof)) return true;
    if (got < 0)
        *why = attach_forbidden(error, yama_scope(), instance.place.uid, endpoint.uid);
    else if (got != static_cast<ssize_t>(sizeof read) || memcmp(read, proof, sizeof read) != 0)
        *why = format("process %d is not the peer", endpoint.pid);
    else
        return true;
    return false;
}

}  // namespace tent::shm
