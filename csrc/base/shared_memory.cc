// See shared_memory.h.
#include "base/shared_memory.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <iterator>
#include <map>
#include <mutex>

#include "base/status.h"

namespace tent {

namespace {

struct Record {
    Pages pages;
    const void *owner = nullptr;
    uint32_t access = 0;
    int64_t node = -1;
    std::string label;
    bool inherited = false;  // in a forked child
};

struct Registry {
    std::mutex mutex;
    std::map<uint64_t, Record> records;  // by address
};

// Never destroyed: memory is dropped by whoever comes last at the process's end.
Registry &registry() {
    static Registry *const made = new Registry();
    return *made;
}

// In the child; must not allocate.
void inherit_all() {
    for (auto &[address, record] : registry().records) {
        if (!record.pages.fd) continue;
        record.inherited = true;
        pages_inherit(&record.pages);
    }
    registry().mutex.unlock();
}

void watch_forks() {
    static const int once = pthread_atfork([] { registry().mutex.lock(); },
                                           [] { registry().mutex.unlock(); }, inherit_all);
    (void)once;
}

// The record that the address lies in; under the mutex.
const Record *record_at(uint64_t address) {
    auto &records = registry().records;
    auto after = records.upper_bound(address);
    if (after == records.begin()) return nullptr;
    const auto &[begin, record] = *std::prev(after);
    return address - begin < record.pages.size ? &record : nullptr;
}

}  // namespace

int32_t memory_make(const PagesWish &wish, const void *owner, void **address) {
    watch_forks();
    Record record;
    const int32_t status = pages_make(wish, &record.pages);
    if (status != TENT_OK) return status;
    record.access = wish.read_only ? TENT_ACCESS_READ : TENT_ACCESS_READ | TENT_ACCESS_WRITE;
    record.node = wish.node;
    record.owner = owner;
    record.label = wish.label;
    *address = record.pages.address;
    std::lock_guard lock(registry().mutex);
    Record &kept = registry().records[reinterpret_cast<uint64_t>(*address)];
    // One that was there has been unmapped behind our back.
    kept.pages.address = nullptr;
    pages_free(&kept.pages);
    kept = std::move(record);
    return TENT_OK;
}

bool memory_drop(void *address, const void *owner) {
    std::unique_lock lock(registry().mutex);
    auto &records = registry().records;
    auto found = records.find(reinterpret_cast<uint64_t>(address));
    if (found == records.end() || found->second.owner != owner) return false;
    auto taken = records.extract(found);
    lock.unlock();
    pages_free(&taken.mapped().pages);
    return true;
}

void memory_drop_all(const void *owner) {
    for (;;) {
        std::unique_lock lock(registry().mutex);
        auto &records = registry().records;
        auto found = std::find_if(records.begin(), records.end(),
                                  [&](const auto &at) { return at.second.owner == owner; });
        if (found == records.end()) return;
        void *address = reinterpret_cast<void *>(found->first);
        lock.unlock();
        memory_drop(address, owner);
    }
}

void memory_leave_all(const void *owner) {
    std::lock_guard lock(registry().mutex);
    for (auto &[address, record] : registry().records)
        if (record.owner == owner) record.owner = nullptr;
}

bool memory_about(uint64_t address, MemoryFacts *facts) {
    std::lock_guard lock(registry().mutex);
    const Record *record = record_at(address);
    if (!record) return false;
    const Pages &pages = record->pages;
    facts->address = reinterpret_cast<uint64_t>(pages.address);
    facts->size = pages.size;
    facts->page_size = pages.page_size;
    facts->access = record->access;
    facts->node = record->node;
    facts->transparent = pages.transparent;
    facts->mappable = pages.sealed;
    facts->why =
        record->inherited ? "it belongs to the process that this one was forked from" : pages.why;
    facts->label = record->label;
    return true;
}

uint32_t memory_access(uint64_t address, uint64_t length) {
    uint32_t access = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
    std::lock_guard lock(registry().mutex);
    const auto &records = registry().records;
    for (auto at = records.lower_bound(address + length); at != records.begin();) {
        --at;
        if (at->first + at->second.pages.size <= address) break;
        access &= at->second.access;
    }
    return access;
}

bool memory_find(uint64_t address, uint64_t length, UniqueFd *fd, uint64_t *offset, AskBy how) {
    if (length == 0) return false;
    FilePlace place{};
    {
        std::lock_guard lock(registry().mutex);
        const Record *record = record_at(address);
        if (!record || !record->pages.sealed) return false;
        place.offset = address - reinterpret_cast<uint64_t>(record->pages.address);
        if (length > record->pages.size - place.offset) return false;
        place.device = record->pages.device;
        place.inode = record->pages.inode;
        fd->reset(fcntl(record->pages.fd.get(), F_DUPFD_CLOEXEC, 0));
    }
    struct stat facts{};
    // Somebody may have closed our descriptor, and have got its number for another file.
    const bool same = *fd && fstat(fd->get(), &facts) == 0 && facts.st_dev == place.device &&
                      facts.st_ino == place.inode;
    if (!same || !mapped_from(address, length, place, how)) {
        fd->reset();
        return false;
    }
    *offset = place.offset;
    return true;
}

}  // namespace tent
