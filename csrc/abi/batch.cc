// tent.h: batches, completions, notices, events, counters. Leans on core; must hold no logic of its
// own.
#include "abi/guard.h"
#include "abi/structs.h"
#include "core/batches.h"
#include "core/reports.h"

#include <cstring>

using namespace tent;

namespace {

int32_t check_batch_options(const tent_batch_options *given, tent_batch_options *full) {
    int32_t status = copy_struct(given, "tent_batch_options", full);
    if (status != TENT_OK) return status;
    if (full->flags & ~static_cast<uint32_t>(TENT_BATCH_CHECK_OVERLAP | TENT_BATCH_INTEGRITY))
        return fail(TENT_E_INVALID, "batch flags 0x%x are unknown", full->flags);
    if (full->class_ > TENT_CLASS_LOW)
        return fail(TENT_E_INVALID, "class %u does not exist; 0..2 do", full->class_);
    if (full->completions > TENT_COMPLETIONS_BATCH)
        return fail(TENT_E_INVALID, "completions mode %u does not exist; 0..2 do",
                    full->completions);
    if (full->label && strlen(full->label) > 31)
        return fail(TENT_E_INVALID, "label '%.31s...' is longer than 31 bytes", full->label);
    return TENT_OK;
}

// Arrays that the caller wants filled: NULL only when there is no room.
int32_t check_room(const void *out, const uint32_t *count) {
    if (!count || (*count > 0 && !out))
        return fail(TENT_E_INVALID, "%s is NULL", count ? "out" : "count");
    return TENT_OK;
}

}  // namespace

extern "C" {

int32_t tent_batch_open(tent_engine *engine, const tent_batch_options *options, uint64_t *batch) {
    return with_engine(engine, [&](Engine &e) {
        if (!batch) return fail(TENT_E_INVALID, "batch is NULL");
        tent_batch_options full{};
        int32_t status = check_batch_options(options, &full);
        return status == TENT_OK ? batch_open(e, &full, batch) : status;
    });
}

int32_t tent_batch_submit(tent_engine *engine, uint64_t batch, const tent_request *requests,
                          uint32_t stride, uint32_t count, uint32_t flags, uint32_t *index) {
    return with_engine(engine, [&](Engine &e) {
        if (!index || (count > 0 && !requests))
            return fail(TENT_E_INVALID, "%s is NULL", index ? "requests" : "index");
        return batch_submit(e, batch, requests, stride, count, flags, index);
    });
}

int32_t tent_batch_submit_columns(tent_engine *engine, uint64_t batch, const tent_columns *columns,
                                  uint32_t flags, uint32_t *index) {
    return with_engine(engine, [&](Engine &e) {
        if (!index || !columns)
            return fail(TENT_E_INVALID, "%s is NULL", index ? "columns" : "index");
        tent_columns full{};
        int32_t status = copy_struct(columns, "tent_columns", &full);
        if (status != TENT_OK) return status;
        if (full.count > 0 && (!full.local || !full.remote))
            return fail(TENT_E_INVALID, "column %s is NULL", full.local ? "remote" : "local");
        return batch_submit_columns(e, batch, full, flags, index);
    });
}

int32_t tent_batch_seal(tent_engine *engine, uint64_t batch, uint64_t segment, const void *notice,
                        uint32_t notice_size) {
    return with_engine(engine, [&](Engine &e) {
        if (notice_size > 0 && !notice)
            return fail(TENT_E_INVALID, "notice is NULL but notice_size is %u", notice_size);
        return batch_seal(e, batch, segment, notice, notice_size);
    });
}

int32_t tent_batch_poll(tent_engine *engine, uint64_t batch) {
    return with_engine(engine, [&](Engine &e) { return batch_poll(e, batch); });
}

int32_t tent_batch_wait(tent_engine *engine, uint64_t batch, uint64_t timeout_ns) {
    return with_engine(engine, [&](Engine &e) { return batch_wait(e, batch, timeout_ns); });
}

int32_t tent_batch_cancel(tent_engine *engine, uint64_t batch) {
    return with_engine(engine, [&](Engine &e) { return batch_cancel(e, batch); });
}

int32_t tent_batch_close(tent_engine *engine, uint64_t batch) {
    return with_engine(engine, [&](Engine &e) { return batch_close(e, batch); });
}

int32_t tent_batch_status(tent_engine *engine, uint64_t batch, uint32_t first,
                          tent_request_status *out, uint32_t stride, uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        int32_t status = check_room(out, count);
        return status == TENT_OK ? batch_status(e, batch, first, out, stride, count) : status;
    });
}

int32_t tent_transfer(tent_engine *engine, const tent_batch_options *options,
                      const tent_request *requests, uint32_t stride, uint32_t count,
                      uint64_t timeout_ns, uint32_t *index) {
    return with_engine(engine, [&](Engine &e) {
        if (!index || (count > 0 && !requests))
            return fail(TENT_E_INVALID, "%s is NULL", index ? "requests" : "index");
        tent_batch_options full{};
        int32_t status = check_batch_options(options, &full);
        if (status != TENT_OK) return status;
        full.completions = TENT_COMPLETIONS_NONE;  // the call itself is the completion
        return batch_transfer(e, &full, requests, stride, count, timeout_ns, index);
    });
}

int32_t tent_completions_poll(tent_engine *engine, tent_completion *out, uint32_t stride,
                              uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        int32_t status = check_room(out, count);
        if (status == TENT_OK) *count = completions_take(e, out, stride, *count);
        return status;
    });
}

int32_t tent_notice_poll(tent_engine *engine, void *bytes, uint32_t *size, char *from) {
    return with_engine(engine, [&](Engine &e) {
        int32_t status = check_room(bytes, size);
        return status == TENT_OK ? notice_take(e, bytes, size, from) : status;
    });
}

int32_t tent_events_poll(tent_engine *engine, tent_event *out, uint32_t stride, uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        int32_t status = check_room(out, count);
        if (status == TENT_OK) *count = events_take(e, out, stride, *count);
        return status;
    });
}

int32_t tent_counters_read(tent_engine *engine, uint32_t kind, tent_counters *out, uint32_t stride,
                           uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        int32_t status = check_room(out, count);
        if (status != TENT_OK) return status;
        return with_driver(e, [&] { return counters_read(e, kind, out, stride, count); });
    });
}

}  // extern "C"
