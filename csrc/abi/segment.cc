// tent.h: imported segments. Leans on core; must hold no logic of its own.
#include <cstring>

#include "abi/guard.h"
#include "base/clock.h"
#include "base/net.h"
#include "core/control.h"
#include "core/memory.h"
#include "core/segments.h"
#include "wire/descriptor.h"

using namespace tent;

namespace {

int32_t not_open(const Engine &engine, uint64_t segment) {
    if (engine.closing.load()) return fail(TENT_E_CLOSED, "the engine is closing");
    return fail(TENT_E_NOT_FOUND, "segment %llu is not open (closed already?)",
                static_cast<unsigned long long>(segment));
}

// Requests end within their fences; only a transport that never lets go is not waited for.
bool close_segment(Engine &e, uint64_t handle) {
    uint64_t limit_ns = with_driver(e, [&] { return 2 * parameters(e).fence_timeout_ns + SECOND; });
    return drive_until(e, limit_ns, [&] {
        Segment *segment = segment_find(e, handle);
        return !segment || segment_close_step(e, *segment);
    });
}

// Status of a segment under import, with the token held.
int32_t import_status(Engine &e, uint64_t handle) {
    Segment *segment = segment_find(e, handle);
    return segment ? segment_status(*segment) : not_open(e, handle);
}

int32_t finish_import(Engine &e, uint64_t handle, uint64_t timeout_ns, uint64_t *out) {
    if (timeout_ns == 0 || e.manual) {
        int32_t status = with_driver(e, [&] { return import_status(e, handle); });
        if (status >= 0)
            *out = handle;
        else
            close_segment(e, handle);
        return status;
    }
    int32_t status = TENT_IN_PROGRESS;
    drive_until(e, timeout_ns,
                [&] { return (status = import_status(e, handle)) != TENT_IN_PROGRESS; });
    if (status == TENT_OK) {
        *out = handle;
        return TENT_OK;
    }
    std::string sentence =
        status < 0 ? last_error() : "the peer did not answer within the time given";
    close_segment(e, handle);
    return fail(status < 0 ? status : TENT_E_TIMEOUT, "%s", sentence.c_str());
}

int32_t addresses_of(const Descriptor &descriptor, std::vector<SocketAddress> *addresses) {
    for (const std::string &text : descriptor.addresses) {
        std::vector<SocketAddress> found;
        if (resolve(text, &found) == TENT_OK)
            addresses->insert(addresses->end(), found.begin(), found.end());
    }
    if (addresses->empty())
        return fail(TENT_E_PEER, "the descriptor of '%s' names no address that can be resolved",
                    descriptor.name.c_str());
    return TENT_OK;
}

}  // namespace

extern "C" {

int32_t tent_segment_open(tent_engine *engine, const char *address, uint64_t timeout_ns,
                          uint64_t *segment) {
    return with_engine(engine, [&](Engine &e) {
        if (!address || !segment)
            return fail(TENT_E_INVALID, "%s is NULL", address ? "segment" : "address");
        if (e.closing.load()) return fail(TENT_E_CLOSED, "the engine is closing");
        std::vector<SocketAddress> addresses;
        int32_t status = resolve(address, &addresses);  // may block for DNS: without the token
        if (status != TENT_OK) return status;
        uint64_t handle = 0;
        status =
            with_driver(e, [&] { return segment_begin_address(e, address, addresses, &handle); });
        return status == TENT_OK ? finish_import(e, handle, timeout_ns, segment) : status;
    });
}

int32_t tent_segment_import(tent_engine *engine, const void *bytes, uint64_t size,
                            uint64_t timeout_ns, uint64_t *segment) {
    return with_engine(engine, [&](Engine &e) {
        if (!bytes || !segment)
            return fail(TENT_E_INVALID, "%s is NULL", bytes ? "segment" : "bytes");
        if (e.closing.load()) return fail(TENT_E_CLOSED, "the engine is closing");
        Descriptor descriptor;
        int32_t status = decode_descriptor(
            {static_cast<const uint8_t *>(bytes), static_cast<size_t>(size)}, &descriptor);
        if (status != TENT_OK) return status;
        if (descriptor_expired(descriptor, realtime_ms()))
            return fail(TENT_E_DENIED, "the grant of '%s' has expired", descriptor.name.c_str());
        std::vector<SocketAddress> addresses;
        if (memcmp(descriptor.engine_id, e.id, sizeof e.id) != 0)
            status = addresses_of(descriptor, &addresses);
        if (status != TENT_OK) return status;
        uint64_t handle = 0;
        status = with_driver(e, [&] {
            if (e.closing.load()) return fail(TENT_E_CLOSED, "the engine is closing");
            return segment_begin_descriptor(e, std::move(descriptor), addresses, &handle);
        });
        return status == TENT_OK ? finish_import(e, handle, timeout_ns, segment) : status;
    });
}

int32_t tent_segment_wait(tent_engine *engine, uint64_t segment, uint64_t timeout_ns) {
    return with_engine(engine, [&](Engine &e) {
        int32_t status = TENT_IN_PROGRESS;
        drive_until(e, timeout_ns,
                    [&] { return (status = import_status(e, segment)) != TENT_IN_PROGRESS; });
        return status;
    });
}

int32_t tent_segment_refresh(tent_engine *engine, uint64_t segment, uint64_t timeout_ns) {
    return with_engine(engine, [&](Engine &e) {
        uint64_t before = 0;
        int32_t status = with_driver(e, [&] {
            Segment *found = segment_find(e, segment);
            if (!found) return not_open(e, segment);
            int32_t state = segment_status(*found);
            if (state != TENT_OK)
                return state == TENT_IN_PROGRESS
                           ? fail(TENT_E_AGAIN, "the segment is still being imported")
                           : state;
            before = found->describe_count;
            segment_describe(e, *found);
            return TENT_OK;
        });
        if (status != TENT_OK) return status;
        bool done = drive_until(e, timeout_ns, [&] {
            status = import_status(e, segment);
            Segment *found = segment_find(e, segment);
            return status != TENT_OK || !found || found->describe_count > before;
        });
        return done ? status
                    : fail(TENT_E_TIMEOUT, "the peer did not answer within the time given");
    });
}

int32_t tent_segment_close(tent_engine *engine, uint64_t segment) {
    return with_engine(engine, [&](Engine &e) {
        if (with_driver(e, [&] { return segment_find(e, segment) == nullptr; }))
            return not_open(e, segment);
        if (close_segment(e, segment)) return TENT_OK;
        if (e.manual)
            return fail(TENT_E_BUSY,
                        "the segment is closing; call tent_engine_step until requests ended");
        return fail(TENT_E_UNFENCED_LOCAL,
                    "a transport has not let go of the segment's endpoints within fence_timeout; "
                    "close it again later, or the engine");
    });
}

int32_t tent_segment_regions(tent_engine *engine, uint64_t segment, tent_region_info *regions,
                             uint32_t stride, uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        if (!count || (*count > 0 && !regions))
            return fail(TENT_E_INVALID, "%s is NULL", count ? "regions" : "count");
        return with_driver(e, [&] {
            std::vector<DescriptorRegion> all;
            if (segment == 0) {
                for (const Range &range : e.local_ranges.load()->ranges())
                    all.push_back(region_describe(*e.regions[range.slot], range.access));
            } else {
                Segment *found = segment_find(e, segment);
                if (!found) return not_open(e, segment);
                const SegmentTable *table = found->table.load();
                for (const Range &range : table->ranges.ranges())
                    all.push_back(table->regions[range.slot]->about);
            }
            for (uint32_t i = 0; i < *count && i < all.size(); i++) {
                tent_region_info info{};
                info.region = all[i].region;
                info.address = all[i].address;
                info.length = all[i].length;
                info.access = all[i].access;
                snprintf(info.location, sizeof info.location, "%s", all[i].location.c_str());
                snprintf(info.label, sizeof info.label, "%s", all[i].label.c_str());
                memcpy(reinterpret_cast<char *>(regions) + static_cast<size_t>(stride) * i, &info,
                       std::min<size_t>(stride, sizeof info));
            }
            *count = static_cast<uint32_t>(all.size());
            return TENT_OK;
        });
    });
}

int32_t tent_descriptor_print(const void *bytes, uint64_t bytes_size, char *out, uint64_t *size) {
    if (!bytes || !size) return fail(TENT_E_INVALID, "%s is NULL", bytes ? "size" : "bytes");
    return guarded([&] {
        Descriptor descriptor;
        int32_t status = decode_descriptor(
            {static_cast<const uint8_t *>(bytes), static_cast<size_t>(bytes_size)}, &descriptor);
        if (status != TENT_OK) return status;
        std::string text = describe(descriptor);
        uint64_t room = out ? *size : 0;
        *size = text.size() + 1;
        if (room < *size) return fail(TENT_E_AGAIN, "the text needs %zu bytes", text.size() + 1);
        memcpy(out, text.c_str(), *size);
        return TENT_OK;
    });
}

}  // extern "C"
