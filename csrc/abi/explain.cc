// tent.h: tent_explain. Checks the query and hands it to core; must hold no logic of its own.
#include "core/explain.h"

#include <algorithm>
#include <cstring>

#include "abi/guard.h"
#include "abi/structs.h"
#include "core/segments.h"

using namespace tent;

namespace {

// The caller's query with its defaults, or what is wrong with it.
int32_t read_query(const tent_explain_query *given, tent_explain_query *full) {
    if (!given) return fail(TENT_E_INVALID, "query is NULL");
    int32_t status = copy_struct(given, "tent_explain_query", full);
    if (status != TENT_OK) return status;
    if (full->op != TENT_OP_READ && full->op != TENT_OP_WRITE)
        return fail(TENT_E_INVALID, "op %u does not exist; TENT_OP_READ and TENT_OP_WRITE do",
                    full->op);
    if (full->length == 0) return fail(TENT_E_INVALID, "length is 0; a request has bytes");
    if (full->class_ > TENT_CLASS_LOW)
        return fail(TENT_E_INVALID, "class %u does not exist; 0..2 do", full->class_);
    if (full->flags != 0)
        return fail(TENT_E_INVALID, "flags 0x%x are unknown; set them to 0", full->flags);
    if (!full->local || !*full->local) full->local = "cpu:0";
    if (!full->remote || !*full->remote) full->remote = "cpu:0";
    if (!full->label) full->label = "";
    status = check_text(full->local, "local location", PLAN_NAME_SIZE_MAX);
    if (status == TENT_OK) status = check_text(full->remote, "remote location", PLAN_NAME_SIZE_MAX);
    return status == TENT_OK ? check_text(full->label, "label", PLAN_NAME_SIZE_MAX) : status;
}

// What the caller offers to be filled.
int32_t check_room(const tent_explanation *explanation, const tent_candidate *candidates,
                   uint32_t stride, const uint32_t *count) {
    if (!explanation || !count)
        return fail(TENT_E_INVALID, "%s is NULL", count ? "explanation" : "count");
    if (explanation->size < SIZE_MIN)
        return fail(TENT_E_INVALID,
                    "tent_explanation.size is %u; set it to sizeof(tent_explanation)",
                    explanation->size);
    if (*count == 0) return TENT_OK;
    if (!candidates) return fail(TENT_E_INVALID, "candidates is NULL, but *count is %u", *count);
    if (candidates->size < SIZE_MIN)
        return fail(TENT_E_INVALID,
                    "the first tent_candidate.size is %u; set it to sizeof(tent_candidate)",
                    candidates->size);
    if (stride < candidates->size)
        return fail(TENT_E_INVALID, "stride is %u, less than the first tent_candidate.size, %u",
                    stride, candidates->size);
    return TENT_OK;
}

int32_t usable_segment(const Engine &engine, uint64_t handle, const Segment **found) {
    if (engine.closing.load()) return fail(TENT_E_CLOSED, "the engine is closing");
    *found = segment_find(engine, handle);
    if (!*found)
        return fail(TENT_E_NOT_FOUND, "segment %llu is not open (closed already?)",
                    static_cast<unsigned long long>(handle));
    int32_t status = segment_status(**found);
    return status == TENT_IN_PROGRESS ? fail(TENT_E_AGAIN,
                                             "the segment is still being imported; call "
                                             "tent_segment_wait before")
                                      : status;
}

}  // namespace

extern "C" int32_t tent_explain(tent_engine *engine, const tent_explain_query *query,
                                tent_explanation *explanation, tent_candidate *candidates,
                                uint32_t stride, uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        tent_explain_query full{};
        int32_t status = read_query(query, &full);
        if (status == TENT_OK) status = check_room(explanation, candidates, stride, count);
        if (status != TENT_OK) return status;
        tent_explanation answer{};
        std::vector<tent_candidate> found;
        status = with_driver(e, [&] {
            const Segment *segment = nullptr;
            int32_t usable = usable_segment(e, full.segment, &segment);
            if (usable == TENT_OK) explain(e, *segment, full, &answer, &found);
            return usable;
        });
        if (status != TENT_OK) return status;
        put_struct(answer, explanation->size, explanation);
        uint32_t size = *count > 0 ? candidates->size : 0;
        for (uint32_t i = 0; i < *count && i < found.size(); i++)
            put_struct(found[i], size,
                       reinterpret_cast<char *>(candidates) + static_cast<size_t>(stride) * i);
        *count = static_cast<uint32_t>(found.size());
        return TENT_OK;
    });
}
