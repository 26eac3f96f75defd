// tent.h: memory, grants and exported segments. Leans on core; must hold no logic of its own.
#include <algorithm>
#include <cstring>

#include "abi/guard.h"
#include "abi/structs.h"
#include "base/numa.h"
#include "base/shared_memory.h"
#include "core/memory.h"
#include "wire/descriptor.h"

using namespace tent;

namespace {

constexpr uint32_t ACCESS_ALL = TENT_ACCESS_READ | TENT_ACCESS_WRITE;
constexpr uint32_t ALLOC_ALL = TENT_ALLOC_BIND | TENT_ALLOC_PRIVATE;

// For functions on memory, which may belong to an engine or (NULL) to the process alone.
template <class Body>
int32_t with_owner(tent_engine *engine, Body body) {
    if (!engine) return guarded([&]() -> int32_t { return body(static_cast<Engine *>(nullptr)); });
    return with_engine(engine, [&](Engine &e) -> int32_t { return body(&e); });
}

// *full keeps the label that the wish points to.
int32_t read_options(const tent_memory_options *given, tent_memory_options *full, PagesWish *wish) {
    int32_t status = copy_struct(given, "tent_memory_options", full);
    if (status == TENT_OK) status = check_text(full->label, "label", LABEL_SIZE_MAX);
    if (status != TENT_OK) return status;
    if (full->flags & ~ALLOC_ALL)
        return fail(TENT_E_INVALID, "flags 0x%x has bits beyond TENT_ALLOC_*", full->flags);
    if (full->access & ~ACCESS_ALL)
        return fail(TENT_E_INVALID, "access 0x%x has bits beyond READ and WRITE", full->access);
    if (full->access == TENT_ACCESS_WRITE)
        return fail(TENT_E_INVALID,
                    "memory that peers may write can be read by them: access is "
                    "READ, or READ|WRITE");
    wish->huge = full->huge;
    wish->node = full->flags & TENT_ALLOC_BIND ? int64_t{full->node} : -1;
    wish->shared = !(full->flags & TENT_ALLOC_PRIVATE);
    wish->read_only = full->access == TENT_ACCESS_READ;
    wish->label = full->label ? full->label : "";
    return TENT_OK;
}

template <size_t size>
void put_text(const std::string &text, char (&out)[size]) {
    const size_t length = std::min(text.size(), size - 1);
    memcpy(out, text.data(), length);
    out[length] = '\0';
}

tent_memory_info describe(const MemoryFacts &facts) {
    tent_memory_info info{};
    info.mappable = facts.mappable;
    info.transparent = facts.transparent;
    info.address = facts.address;
    info.length = facts.size;
    info.page_size = facts.page_size;
    info.access = facts.access;
    info.node = static_cast<int32_t>(facts.node);
    put_text(facts.why, info.why);
    put_text(facts.label, info.label);
    return info;
}

}  // namespace

extern "C" {

int32_t tent_region_register(tent_engine *engine, void *address, uint64_t length,
                             const tent_region_options *options, uint64_t *region) {
    return with_engine(engine, [&](Engine &e) {
        if (!address || !region)
            return fail(TENT_E_INVALID, "%s is NULL", address ? "region" : "address");
        uint64_t begin = reinterpret_cast<uint64_t>(address);
        if (length == 0) return fail(TENT_E_INVALID, "a region of 0 bytes");
        if (begin + length < begin)
            return fail(TENT_E_INVALID, "0x%llx+%llu wraps around the address space",
                        static_cast<unsigned long long>(begin),
                        static_cast<unsigned long long>(length));
        tent_region_options full{};
        full.access = ACCESS_ALL;
        int32_t status = copy_struct(options, "tent_region_options", &full);
        if (status == TENT_OK) status = check_text(full.location, "location", LOCATION_SIZE_MAX);
        if (status == TENT_OK) status = check_text(full.label, "label", LABEL_SIZE_MAX);
        if (status != TENT_OK) return status;
        if (full.access & ~ACCESS_ALL)
            return fail(TENT_E_INVALID, "access 0x%x has bits beyond READ and WRITE", full.access);
        if (full.access & ~memory_access(begin, length))
            return fail(TENT_E_INVALID,
                        "0x%llx+%llu was allocated for peers to read only: register it with "
                        "access READ, or 0 for local use only",
                        static_cast<unsigned long long>(begin),
                        static_cast<unsigned long long>(length));
        std::string location = full.location ? full.location : "";
        // A stepped engine repeats itself, on whatever machine.
        if (location.empty())
            location = "cpu:" + std::to_string(e.manual ? 0 : numa_node_of(begin));
        return region_register(e, begin, length, full.access, location.c_str(),
                               full.label ? full.label : "", region);
    });
}

int32_t tent_region_location(tent_engine *engine, uint64_t region, char *text, uint64_t text_size) {
    return with_engine(engine, [&](Engine &e) {
        std::string location;
        int32_t status = with_driver(e, [&] { return region_location(e, region, &location); });
        if (status != TENT_OK) return status;
        if (!text || location.size() >= text_size)
            return fail(TENT_E_INVALID, "the location needs %zu bytes", location.size() + 1);
        memcpy(text, location.c_str(), location.size() + 1);
        return TENT_OK;
    });
}

int32_t tent_region_about(tent_engine *engine, uint64_t region, char *text, uint64_t *size) {
    return with_engine(engine, [&](Engine &e) {
        if (!size) return fail(TENT_E_INVALID, "size is NULL");
        std::string lines;
        int32_t status = with_driver(e, [&] { return region_about(e, region, &lines); });
        if (status != TENT_OK) return status;
        const uint64_t room = text ? *size : 0;
        *size = lines.size() + 1;
        if (room < *size)
            return fail(TENT_E_AGAIN, "the text has %llu bytes, the buffer %llu",
                        static_cast<unsigned long long>(*size),
                        static_cast<unsigned long long>(room));
        memcpy(text, lines.c_str(), lines.size() + 1);
        return TENT_OK;
    });
}

int32_t tent_region_release(tent_engine *engine, uint64_t region) {
    return with_engine(engine, [&](Engine &e) { return region_release(e, region); });
}

int32_t tent_memory_alloc(tent_engine *engine, uint64_t length, void **address) {
    if (!engine) return fail(TENT_E_INVALID, "engine is NULL");
    return tent_memory_alloc_with(engine, length, nullptr, address);
}

int32_t tent_memory_alloc_with(tent_engine *engine, uint64_t length,
                               const tent_memory_options *options, void **address) {
    return with_owner(engine, [&](const Engine *owner) {
        if (!address) return fail(TENT_E_INVALID, "address is NULL");
        PagesWish wish;
        wish.length = length;
        tent_memory_options full{};
        int32_t status = read_options(options, &full, &wish);
        return status == TENT_OK ? memory_make(wish, owner, address) : status;
    });
}

int32_t tent_memory_free(tent_engine *engine, void *address) {
    return with_owner(engine, [&](const Engine *owner) {
        if (memory_drop(address, owner)) return TENT_OK;
        return fail(TENT_E_INVALID, "%p was not allocated by tent_memory_alloc%s, or is freed",
                    address, owner ? " of this engine" : "_with for no engine");
    });
}

int32_t tent_memory_about(const void *address, tent_memory_info *info) {
    return guarded([&] {
        if (!info) return fail(TENT_E_INVALID, "info is NULL");
        if (info->size < SIZE_MIN)
            return fail(TENT_E_INVALID,
                        "tent_memory_info.size is %u; set it to sizeof(tent_memory_info)",
                        info->size);
        MemoryFacts facts;
        if (!memory_about(reinterpret_cast<uint64_t>(address), &facts))
            return fail(TENT_E_NOT_FOUND, "%p lies in no memory of tent_memory_alloc", address);
        put_struct(describe(facts), info->size, info);
        return TENT_OK;
    });
}

int32_t tent_grant_create(tent_engine *engine, const tent_grant_options *options, uint64_t *grant) {
    return with_engine(engine, [&](Engine &e) {
        if (!grant) return fail(TENT_E_INVALID, "grant is NULL");
        tent_grant_options full{};
        int32_t status = copy_struct(options, "tent_grant_options", &full);
        if (status != TENT_OK) return status;
        if (full.access & ~ACCESS_ALL)
            return fail(TENT_E_INVALID, "access 0x%x has bits beyond READ and WRITE", full.access);
        return with_driver(e, [&] { return grant_create(e, &full, grant); });
    });
}

int32_t tent_grant_revoke(tent_engine *engine, uint64_t grant) {
    return with_engine(engine, [&](Engine &e) { return grant_revoke(e, grant); });
}

int32_t tent_segment_export(tent_engine *engine, uint64_t grant, void *bytes, uint64_t *size) {
    return with_engine(engine, [&](Engine &e) {
        if (!size) return fail(TENT_E_INVALID, "size is NULL");
        std::vector<uint8_t> encoded;
        int32_t status = with_driver(e, [&] {
            const Grant *found = grant_find(e, grant);
            if (!found)
                return fail(TENT_E_NOT_FOUND, "grant %llu does not exist or was revoked",
                            static_cast<unsigned long long>(grant));
            Descriptor descriptor;
            grant_describe(e, *found, &descriptor);
            return encode_descriptor(descriptor, &encoded);
        });
        if (status != TENT_OK) return status;
        uint64_t room = bytes ? *size : 0;
        *size = encoded.size();
        if (room < *size)
            return fail(TENT_E_AGAIN, "the descriptor has %llu bytes, the buffer %llu",
                        static_cast<unsigned long long>(*size),
                        static_cast<unsigned long long>(room));
        memcpy(bytes, encoded.data(), encoded.size());
        return TENT_OK;
    });
}

}  // extern "C"
