// See small_file.h.
#include "base/small_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>

namespace tent {

namespace {

constexpr size_t SIZE_MAX_READ = 64 << 10;
constexpr const char *WHITE = " \t\n";

std::string trimmed(const std::string &text) {
    const size_t begin = text.find_first_not_of(WHITE);
    if (begin == std::string::npos) return "";
    return text.substr(begin, text.find_last_not_of(WHITE) + 1 - begin);
}

}  // namespace

std::string file_text(const std::string &path) {
    const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC);
    if (fd < 0) return "";
    std::string text(SIZE_MAX_READ, '\0');
    size_t size = 0;
    for (;;) {
        const ssize_t got = read(fd, text.data() + size, text.size() - size);
        if (got <= 0) break;
        size += static_cast<size_t>(got);
    }
    close(fd);
    text.resize(size);
    return trimmed(text);
}

uint64_t file_number(const std::string &path, uint64_t otherwise) {
    const std::string text = file_text(path);
    if (text.empty() || text[0] < '0' || text[0] > '9') return otherwise;
    return strtoull(text.c_str(), nullptr, 10);
}

std::string file_field(const std::string &path, const char *name) {
    const std::string text = file_text(path);
    const size_t length = strlen(name);
    for (size_t at = 0; at < text.size();) {
        size_t end = text.find('\n', at);
        if (end == std::string::npos) end = text.size();
        if (text.compare(at, length, name) == 0)
            return trimmed(text.substr(at + length, end - at - length));
        at = end + 1;
    }
    return "";
}

}  // namespace tent
