// What every exported function does first and last: refuse NULL and forked engines, count blocking
// callers, turn exceptions (memory) into a status. Leans on core; must never let an exception cross
// the C interface.
#pragma once

#include <new>

#include "base/status.h"
#include "core/engine.h"

struct tent_engine : tent::Engine {};

namespace tent {

inline Engine &core(tent_engine *engine) {
    return *reinterpret_cast<Engine *>(engine);
}

template <class Body>
int32_t guarded(Body body) {
    try {
        return body();
    } catch (const std::bad_alloc &) {
        return fail(TENT_E_NO_MEMORY, "the system refused memory");
    } catch (...) {
        return fail(TENT_E_INTERNAL, "an unexpected exception; please report it");
    }
}

// For functions of an open engine.
template <class Body>
int32_t with_engine(tent_engine *handle, Body body) {
    if (!handle) return fail(TENT_E_INVALID, "engine is NULL");
    Engine &engine = core(handle);
    if (engine_forked(engine))
        return fail(TENT_E_FORKED,
                    "the engine was opened before fork(); open a new one in the child");
    struct Caller {
        Engine &engine;
        explicit Caller(Engine &e) : engine(e) {
            engine.callers.fetch_add(1, std::memory_order_acq_rel);
        }
        ~Caller() { engine.callers.fetch_sub(1, std::memory_order_acq_rel); }
    };
    return guarded([&]() -> int32_t {
        Caller caller(engine);
        return body(engine);
    });
}

}  // namespace tent
