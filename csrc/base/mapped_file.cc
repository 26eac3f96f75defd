// See mapped_file.h.
#include "base/mapped_file.h"

#include <fcntl.h>
#include <sys/ioctl.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cinttypes>
#include <cstdio>
#include <cstring>
#include <string>

#include "base/unique_fd.h"

namespace tent {

namespace {

// A mapping, as far as it matters here.
struct Mapping {
    uint64_t begin, end, offset;
    unsigned major, minor;
    uint64_t inode;
    bool shared;
};

// procmap_query of <linux/fs.h>, since Linux 6.11: our headers may be older.
struct ProcmapQuery {
    uint64_t size, query_flags, query_addr;
    uint64_t vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    uint32_t dev_major, dev_minor;
    uint32_t vma_name_size, build_id_size;
    uint64_t vma_name_addr, build_id_addr;
};
constexpr unsigned long PROCMAP_QUERY_CALL = _IOWR('f', 17, ProcmapQuery);
constexpr uint64_t PROCMAP_SHARED = 8;

// Does the mapping go on with [*address, end) of the file? Moves *address behind it.
bool continues(const Mapping &mapping, const FilePlace &place, uint64_t begin, uint64_t *address) {
    if (*address < mapping.begin || *address >= mapping.end || !mapping.shared) return false;
    if (mapping.inode != place.inode || mapping.major != major(place.device) ||
        mapping.minor != minor(place.device))
        return false;
    if (mapping.offset + (*address - mapping.begin) != place.offset + (*address - begin))
        return false;
    *address = mapping.end;
    return true;
}

// -1: this kernel cannot be asked so.
int by_query(int fd, uint64_t address, uint64_t end, const FilePlace &place) {
    const uint64_t begin = address;
    while (address < end) {
        ProcmapQuery query{};
        query.size = sizeof query;
        query.query_addr = address;
        if (ioctl(fd, PROCMAP_QUERY_CALL, &query) != 0)
            return errno == ENOENT ? 0 : -1;  // ENOENT: nothing is mapped there
        const Mapping mapping{query.vma_start,
                              query.vma_end,
                              query.vma_offset,
                              query.dev_major,
                              query.dev_minor,
                              query.inode,
                              (query.vma_flags & PROCMAP_SHARED) != 0};
        if (!continues(mapping, place, begin, &address)) return 0;
    }
    return 1;
}

bool parse(const char *line, Mapping *mapping) {
    char mode[5] = "";
    // The kernel's own text: its numbers fit.
    // NOLINTNEXTLINE(bugprone-unchecked-string-to-number-conversion)
    if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %4s %" SCNx64 " %x:%x %" SCNu64, &mapping->begin,
               &mapping->end, mode, &mapping->offset, &mapping->major, &mapping->minor,
               &mapping->inode) != 7)
        return false;
    mapping->shared = mode[3] == 's';
    return true;
}

bool by_text(int fd, uint64_t address, uint64_t end, const FilePlace &place) {
    const uint64_t begin = address;
    std::string text;  // not yet understood
    char piece[16384];
    for (;;) {
        const ssize_t got = read(fd, piece, sizeof piece);
        if (got <= 0) return false;
        text.append(piece, static_cast<size_t>(got));
        size_t at = 0;
        for (size_t stop; (stop = text.find('\n', at)) != std::string::npos; at = stop + 1) {
            text[stop] = '\0';
            Mapping mapping{};
            if (!parse(text.c_str() + at, &mapping)) return false;
            if (mapping.end <= address) continue;
            if (!continues(mapping, place, begin, &address)) return false;
            if (address >= end) return true;
        }
        text.erase(0, at);
    }
}

}  // namespace

bool mapped_from(uint64_t address, uint64_t length, const FilePlace &place, AskBy how) {
    const UniqueFd maps(open("/proc/self/maps", O_RDONLY | O_CLOEXEC));
    if (!maps) return false;
    if (how == AskBy::BEST) {
        const int known = by_query(maps.get(), address, address + length, place);
        if (known >= 0) return known == 1;
    }
    return by_text(maps.get(), address, address + length, place);
}

}  // namespace tent
