// Releasing memory while peers still use it: what is being received is diverted, what is being sent
// can not be replaced, so such a connection is given up. Leans on state.h; must leave nothing that
// points into the region.
#include "state.h"

namespace tent::tcp {
namespace {

bool overlaps(const Region &region, const void *data, uint64_t length) {
    const auto begin = reinterpret_cast<uintptr_t>(data);
    return data != nullptr && begin < region.begin + region.length && region.begin < begin + length;
}

bool sending_overlaps(const Region &region, const Sending &send) {
    for (uint32_t i = send.iov_next; i < send.iov_count; ++i) {
        if (overlaps(region, send.iov[i].iov_base, send.iov[i].iov_len)) {
            return true;
        }
    }
    return false;
}

void target_abandon(Connection &connection, const Region &region) {
    Receiving &receive = connection.receive;
    for (uint32_t i = receive.item_next; i < receive.item_count; ++i) {
        Incoming &item = receive.items[i];
        if (overlaps(region, item.destination, item.length)) {
            item.destination = nullptr;
            item.status = TENT_E_DENIED;
        }
    }
    Ring<Serve> &serves = connection.replies->serves;
    for (uint32_t i = 0; i < serves.count; ++i) {
        Serve &serve = serves.at(i);
        if (overlaps(region, serve.source, serve.length)) {
            serve = Serve{nullptr, serve.tag, 0, TENT_E_DENIED, 0};
        }
    }
    if (sending_overlaps(region, connection.send)) {
        endpoint_fail(*connection.endpoint, TENT_E_TRANSPORT,
                      "connection %u was sending from memory that is being released",
                      connection.index);
    }
}

}  // namespace

void region_abandon(Instance &instance, const Region &region) {
    for (Endpoint *endpoint = instance.endpoints; endpoint != nullptr; endpoint = endpoint->next) {
        for (uint32_t i = 0; !endpoint->initiator && i < endpoint->connection_count; ++i) {
            target_abandon(endpoint->connections[i], region);
        }
    }
    // The core refuses to release a region that own requests use; should it ever happen, nothing of
    // them goes on.
    for (uint32_t i = 0; i < instance.record_count; ++i) {
        const Record &record = instance.records[i];
        if (record.state != RecordState::FREE && record.state != RecordState::DONE &&
            overlaps(region, record.local, record.length)) {
            endpoint_fail(*record.endpoint, TENT_E_TRANSPORT,
                          "the local memory of a posted slice was released");
        }
    }
}

}  // namespace tent::tcp
