// tent.h: status, engine and plan functions. Leans on core; must hold no logic of its own.
#include <algorithm>
#include <cstring>

#include "abi/guard.h"
#include "abi/structs.h"
#include "base/clock.h"
#include "core/control.h"
#include "core/transports.h"
#include "core/unfenced.h"

#ifndef TENT_VERSION
#define TENT_VERSION "0.0.0"
#endif

using namespace tent;

namespace {

// Writes text with its NUL; *size in: room, out: needed.
int32_t put_text(const std::string &text, char *out, uint64_t *size) {
    if (!size) return fail(TENT_E_INVALID, "size is NULL");
    uint64_t room = out ? *size : 0;
    *size = text.size() + 1;
    if (room < *size)
        return fail(TENT_E_AGAIN, "the text needs %llu bytes, the buffer has %llu",
                    static_cast<unsigned long long>(*size), static_cast<unsigned long long>(room));
    memcpy(out, text.c_str(), *size);
    return TENT_OK;
}

}  // namespace

extern "C" {

const char *tent_version(void) {
    return TENT_VERSION;
}
const char *tent_status_name(int32_t status) {
    return status_name(status);
}
const char *tent_status_text(int32_t status) {
    return status_text(status);
}
const char *tent_last_error(void) {
    return last_error();
}
uint64_t tent_now_ns(void) {
    return monotonic_ns();
}

int32_t tent_engine_open(const tent_engine_options *options, tent_engine **engine) {
    if (!engine) return fail(TENT_E_INVALID, "engine is NULL");
    *engine = nullptr;
    return guarded([&] {
        tent_engine_options full{};
        int32_t status = copy_struct(options, "tent_engine_options", &full);
        if (status != TENT_OK) return status;
        Engine *opened = nullptr;
        status = engine_open(full, &opened);
        if (status == TENT_OK) *engine = reinterpret_cast<tent_engine *>(opened);
        return status;
    });
}

int32_t tent_engine_close(tent_engine *engine) {
    if (!engine) return TENT_OK;
    return guarded([&] { return engine_close(&core(engine)); });
}

int32_t tent_engine_step(tent_engine *engine, uint64_t now_ns) {
    return with_engine(engine, [&](Engine &e) {
        if (!e.manual)
            return fail(TENT_E_INVALID,
                        "the engine has a worker; open it with TENT_ENGINE_MANUAL to step it");
        if (now_ns < e.manual_ns)
            return fail(TENT_E_INVALID, "time runs back: %llu after %llu",
                        static_cast<unsigned long long>(now_ns),
                        static_cast<unsigned long long>(e.manual_ns));
        e.manual_ns = now_ns;
        return engine_cycle(e, now_ns) ? TENT_IN_PROGRESS : TENT_OK;
    });
}

int32_t tent_engine_address(tent_engine *engine, char *text, uint64_t text_size) {
    return with_engine(engine, [&](Engine &e) {
        std::string address;
        int32_t status = with_driver(e, [&] { return control_address(e, &address); });
        if (status != TENT_OK) return status;
        if (!text || address.size() >= text_size)
            return fail(TENT_E_INVALID, "the address needs %zu bytes", address.size() + 1);
        memcpy(text, address.c_str(), address.size() + 1);
        return TENT_OK;
    });
}

int32_t tent_engine_event_fd(tent_engine *engine, int32_t *fd) {
    return with_engine(engine, [&](Engine &e) {
        if (!fd) return fail(TENT_E_INVALID, "fd is NULL");
        *fd = e.event_fd;
        return TENT_OK;
    });
}

int32_t tent_unfenced_read(tent_engine *engine, uint32_t flags, tent_unfenced_range *out,
                           uint32_t stride, uint32_t *count) {
    return with_engine(engine, [&](Engine &e) {
        if (!count) return fail(TENT_E_INVALID, "count is NULL");
        if (flags & ~TENT_UNFENCED_FORGET_PROVEN)
            return fail(TENT_E_INVALID, "flags 0x%x are unknown", flags);
        if (*count > 0 && !out)
            return fail(TENT_E_INVALID, "out is NULL, but *count is %u", *count);
        if (*count > 0 && stride == 0) return fail(TENT_E_INVALID, "stride is 0");
        unfenced_read(e, flags & TENT_UNFENCED_FORGET_PROVEN, out, stride, count);
        return TENT_OK;
    });
}

int32_t tent_plan_check(const char *text, uint64_t text_size) {
    if (!text) return fail(TENT_E_INVALID, "text is NULL");
    return guarded([&] {
        Plan plan;
        return plan_parse({text, static_cast<size_t>(text_size)}, &plan);
    });
}

int32_t tent_plan_render(const char *text, uint64_t text_size, char *out, uint64_t *size) {
    if (!text) return fail(TENT_E_INVALID, "text is NULL");
    return guarded([&] {
        Plan plan;
        int32_t status = plan_parse({text, static_cast<size_t>(text_size)}, &plan);
        return status == TENT_OK ? put_text(plan_render(plan), out, size) : status;
    });
}

int32_t tent_plan_install(tent_engine *engine, const char *text, uint64_t text_size,
                          uint32_t *generation) {
    return with_engine(engine, [&](Engine &e) {
        if (!text) return fail(TENT_E_INVALID, "text is NULL");
        Plan plan;
        int32_t status = plan_parse({text, static_cast<size_t>(text_size)}, &plan);
        if (status != TENT_OK) return status;
        return with_driver(e, [&] { return plan_install(e, std::move(plan), generation); });
    });
}

int32_t tent_plan_installed(tent_engine *engine, char *out, uint64_t *size) {
    return with_engine(engine, [&](Engine &e) {
        std::string text = with_driver(e, [&] { return plan_render(e.plans.back()->plan); });
        return put_text(text, out, size);
    });
}

}  // extern "C"
