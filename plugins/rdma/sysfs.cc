// See sysfs.h.
#include "sysfs.h"

#include <dirent.h>
#include <fcntl.h>
#include <strings.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

namespace tent::rdma {
namespace {

constexpr size_t NAME_MAX_SIZE = 31;  // a device's, and what `tent_transport_rail` has room for

// "100 Gb/sec (4X EDR)", "2.5 Gb/sec": in steps of 0.1 Gbit/s.
uint64_t rate_read(const std::string &text) {
    char *end = nullptr;
    const uint64_t whole = strtoull(text.c_str(), &end, 10);
    uint64_t tenths = whole * 10;
    if (end[0] == '.' && end[1] >= '0' && end[1] <= '9')
        tenths += static_cast<uint64_t>(end[1] - '0');
    constexpr uint64_t bytes_per_tenth = 100'000'000 / 8;
    return whole > 1'000'000 ? 0 : tenths * bytes_per_tenth;
}

}  // namespace

bool sysfs_read(const std::string &path, std::string *line) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return false;
    char text[256];
    ssize_t size;
    do
        size = read(fd, text, sizeof text);
    while (size < 0 && errno == EINTR);
    close(fd);
    if (size < 0) return false;
    const auto *end = static_cast<const char *>(memchr(text, '\n', static_cast<size_t>(size)));
    line->assign(text,
                 end != nullptr ? static_cast<size_t>(end - text) : static_cast<size_t>(size));
    return true;
}

bool sysfs_exists(const std::string &path) {
    return access(path.c_str(), F_OK) == 0;
}

std::vector<std::string> sysfs_names(const std::string &folder) {
    std::vector<std::string> names;
    DIR *open = opendir(folder.c_str());
    if (open == nullptr) return names;
    while (const dirent *entry = readdir(open))
        if (entry->d_name[0] != '.') names.emplace_back(entry->d_name);
    closedir(open);
    std::sort(names.begin(), names.end(), [](const std::string &a, const std::string &b) {
        const int order = strverscmp(a.c_str(), b.c_str());
        return order < 0;
    });
    return names;
}

PortFacts port_facts(const std::string &folder, uint32_t port) {
    PortFacts facts;
    const std::string place = folder + "/ports/" + std::to_string(port);
    std::string text;
    facts.channel_adapter = sysfs_read(folder + "/node_type", &text) && text.starts_with("1:");
    facts.infiniband = sysfs_read(place + "/link_layer", &text) && text == "InfiniBand";
    facts.active = sysfs_read(place + "/state", &text) && text.starts_with("4:");
    // Software devices (rxe, siw) have no parent.
    if (!sysfs_exists(folder + "/device")) return facts;
    if (sysfs_read(place + "/rate", &text)) facts.bandwidth_bytes_per_s = rate_read(text);
    if (sysfs_read(folder + "/device/numa_node", &text))
        facts.numa = static_cast<int32_t>(std::max(-1l, strtol(text.c_str(), nullptr, 10)));
    return facts;
}

bool device_word_read(const char *word, std::string *device, uint8_t *port) {
    const char *colon = strchr(word, ':');
    device->assign(word, colon != nullptr ? static_cast<size_t>(colon - word) : strlen(word));
    // It becomes part of a path.
    if (device->empty() || device->size() > NAME_MAX_SIZE || device->front() == '.' ||
        device->find('/') != std::string::npos)
        return false;
    *port = 1;
    if (colon == nullptr) return true;
    char *end = nullptr;
    const unsigned long number = strtoul(colon + 1, &end, 10);
    if (colon[1] < '0' || colon[1] > '9' || *end != '\0' || number == 0 || number > 255)
        return false;
    *port = static_cast<uint8_t>(number);
    return true;
}

}  // namespace tent::rdma
