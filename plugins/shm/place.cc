// Who and where we are: the machine's boot, our namespaces, user and process; and how near a peer
// that tells its own is.
//
// Leans on state.h. What is told is a claim: the handshake proves it, by credentials of the kernel
// and bytes read out of the peer.
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <charconv>
#include <cstdio>
#include <cstring>
#include <system_error>

#include "state.h"

namespace tent::shm {
namespace {

uint64_t namespace_of(const char *name) {
    char path[64];
    snprintf(path, sizeof path, "/proc/self/ns/%s", name);
    struct stat about{};
    return stat(path, &about) == 0 ? about.st_ino : 0;
}

int digit_of(char letter) {
    if (letter >= '0' && letter <= '9') return letter - '0';
    return letter >= 'a' && letter <= 'f' ? letter - 'a' + 10 : -1;
}

constexpr uint32_t BOOT_DIGITS = 32;

// Hexadecimal digits with dashes anywhere.
bool boot_parse(const char *text, uint8_t *boot) {
    uint32_t digits = 0;
    memset(boot, 0, 16);
    for (; digits < BOOT_DIGITS && *text != '\0'; text++) {
        if (*text == '-') continue;
        const int digit = digit_of(*text);
        if (digit < 0) return false;
        boot[digits / 2] = static_cast<uint8_t>(boot[digits / 2] << 4 | digit);
        digits++;
    }
    return digits == BOOT_DIGITS;
}

bool boot_read(uint8_t *boot) {
    const int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    char text[64] = {};
    const ssize_t got = read(fd, text, sizeof text - 1);
    close(fd);
    return got > 0 && boot_parse(text, boot);
}

// A dash and a number.
bool number_take(const char **text, int base, uint32_t *number) {
    if (**text != '-') return false;
    const char *end = *text + strlen(*text);
    const auto [rest, error] = std::from_chars(*text + 1, end, *number, base);
    *text = rest;
    return error == std::errc();
}

uint32_t inode_of(uint64_t id) {
    return static_cast<uint32_t>(id);  // the kernel numbers namespaces with 32 bits
}

}  // namespace

bool place_read(Place *place) {
    *place = {};
    place->ipc_namespace = namespace_of("ipc");
    place->pid_namespace = namespace_of("pid");
    place->mount_namespace = namespace_of("mnt");
    place->user_namespace = namespace_of("user");
    place->uid = geteuid();
    place->pid = static_cast<uint32_t>(getpid());
    return boot_read(place->boot);
}

std::string place_text(const Place &place, bool open) {
    std::string text;
    for (const uint8_t byte : place.boot)
        text += format("%02x", byte);
    return text + format("-%x-%x-%u%s", inode_of(place.ipc_namespace),
                         inode_of(place.pid_namespace), place.uid, open ? "+" : "");
}

int32_t place_reach(const Place &own, const char *peer) {
    uint8_t boot[16];
    uint32_t ipc = 0, pid = 0, uid = 0;
    if (strnlen(peer, TENT_RAIL_ADDRESS_MAX) < BOOT_DIGITS || !boot_parse(peer, boot)) return 0;
    const char *rest = peer + BOOT_DIGITS;
    if (!number_take(&rest, 16, &ipc) || !number_take(&rest, 16, &pid) ||
        !number_take(&rest, 10, &uid))
        return 0;
    const bool open = *rest == '+';
    if (rest[open ? 1 : 0] != '\0') return 0;
    if (memcmp(boot, own.boot, sizeof boot) != 0) return 0;
    // Numbers of users mean something within one user namespace only; the listener asks the kernel.
    if (uid != own.uid && !open) return 0;
    const bool near =
        ipc == inode_of(own.ipc_namespace) && pid == inode_of(own.pid_namespace) && uid == own.uid;
    return near ? 2 : 1;
}

}  // namespace tent::shm
