// The pool of posted slices and its lists. Leans on state.h; must never allocate.
#include "state.h"

namespace tent::tcp {

void list_push(Instance &instance, RecordList &list, uint32_t index) {
    instance.records[index].next = NONE;
    if (list.tail == NONE) {
        list.head = index;
    } else {
        instance.records[list.tail].next = index;
    }
    list.tail = index;
}

uint32_t list_pop(Instance &instance, RecordList &list) {
    const uint32_t index = list.head;
    list.head = instance.records[index].next;
    if (list.head == NONE) {
        list.tail = NONE;
    }
    return index;
}

void record_finish(Instance &instance, Record &record, int32_t status) {
    record.connection->outstanding_bytes -= record.length;
    record.state = RecordState::DONE;
    record.status = status;
    list_push(instance, instance.done, static_cast<uint32_t>(&record - instance.records.get()));
}

uint32_t records_collect(Instance &instance, tent_slice_result *results, uint32_t room) {
    uint32_t count = 0;
    while (count < room && instance.done.head != NONE) {
        const uint32_t index = list_pop(instance, instance.done);
        Record &record = instance.records[index];
        results[count++] = tent_slice_result{record.id, record.status, 0};
        record.state = RecordState::FREE;
        record.next = instance.free_head;
        instance.free_head = index;
        Endpoint &endpoint = *record.endpoint;
        if (--endpoint.record_count == 0 && endpoint.state == EndpointState::CLOSED) {
            endpoint_free(endpoint);
        }
    }
    return count;
}

}  // namespace tent::tcp
