// See engine.h. Opening, the duty cycle, the worker, closing.
#include "core/engine.h"

#include <pthread.h>
#include <sched.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/clock.h"
#include "base/status.h"
#include "core/batches.h"
#include "core/control.h"
#include "core/deadlines.h"
#include "core/endpoints.h"
#include "core/hedge.h"
#include "core/links.h"
#include "core/memory.h"
#include "core/reports.h"
#include "core/routes.h"
#include "core/segments.h"
#include "core/spray.h"
#include "core/transports.h"
#include "core/watch.h"
#include "wire/key.h"

namespace tent {

namespace {

constexpr uint32_t SETTLE_FINE_TURNS = 20;
constexpr int PORT_TRIES = 32;  // "any free port" must be free on every rail's address

std::atomic<uint32_t> fork_count{0};

void count_forks() {
    static const int once = pthread_atfork(
        nullptr, nullptr, [] { fork_count.fetch_add(1, std::memory_order_relaxed); });
    (void)once;
}

uint32_t or_default(uint32_t value, uint32_t fallback) {
    return value ? value : fallback;
}

// Cores that this process may use, at most those that a default takes; at least 1.
uint32_t cores_usable() {
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) != 0) return 1;
    return std::clamp(static_cast<uint32_t>(CPU_COUNT(&cores)), 1u, WORKERS_UNASKED_MAX);
}

std::string read_line(const char *path) {
    char line[128] = "";
    if (FILE *file = fopen(path, "re")) {
        if (fgets(line, sizeof line, file)) line[strcspn(line, "\n")] = 0;
        fclose(file);
    }
    return line;
}

int32_t load_options(Engine &engine, const tent_engine_options &options) {
    engine.manual = options.flags & TENT_ENGINE_MANUAL;
    if (options.flags & ~static_cast<uint32_t>(TENT_ENGINE_MANUAL))
        return fail(TENT_E_INVALID, "engine flags 0x%x are unknown", options.flags);
    if (options.workers > WORKERS_MAX)
        return fail(TENT_E_INVALID, "%u workers: at most %u, or 0 for as many as there are cores",
                    options.workers, WORKERS_MAX);
    // A stepped engine has no threads.
    engine.errands.init(!engine.manual);
    engine.crew.init(engine.manual ? 0 : or_default(options.workers, cores_usable()) - 1);
    engine.name = options.name && *options.name ? options.name : "pid-" + std::to_string(getpid());
    if (engine.name.size() > ENGINE_NAME_SIZE_MAX)
        return fail(TENT_E_INVALID, "the engine's name has %zu bytes, at most %zu fit",
                    engine.name.size(), ENGINE_NAME_SIZE_MAX);
    engine.plugin_path = options.plugin_path ? options.plugin_path : "";
    engine.advertise = options.advertise ? options.advertise : "";
    engine.spin_ns = options.spin_ns ? options.spin_ns : SPIN_NS_DEFAULT;
    engine.limits = {
        or_default(options.requests_max, 65536), or_default(options.slices_max, 4096),
        or_default(options.batches_max, 4096),   or_default(options.completions_max, 65536),
        or_default(options.events_max, 4096),    or_default(options.notices_max, 4096)};
    for (uint32_t limit : {engine.limits.requests, engine.limits.slices, engine.limits.batches,
                           engine.limits.completions})
        if (limit > 1u << 24)
            return fail(TENT_E_INVALID, "a limit of %u is over the maximum 16777216", limit);
    if (engine.manual && options.seed)
        engine.random.seed(options.seed);
    else
        engine.random.seed_from_system();
    engine.random.fill(engine.id, sizeof engine.id);
    engine.random.fill(&engine.epoch, sizeof engine.epoch);
    engine.epoch |= 1;  // never 0
    engine.host_id = read_line("/proc/sys/kernel/random/boot_id");
    return TENT_OK;
}

int32_t load_engine_key(Engine &engine, const tent_engine_options &options) {
    int32_t status = crypto_available();
    if (status != TENT_OK) return status;
    KeySources sources;
    sources.bytes = options.key;
    sources.size = options.key_size;
    sources.file = options.key_file;
    sources.allow_user_file = true;
    bool from_user_file = false;
    status = load_key(sources, &from_user_file, &engine.key);
    // A key that merely keeps this machine's other users out is none for a network.
    engine.control->loopback_only = from_user_file;
    return status;
}

int32_t make_pools(Engine &engine) {
    engine.requests_bytes = sizeof(Request) * engine.limits.requests;
    void *requests = mmap(nullptr, engine.requests_bytes, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (requests == MAP_FAILED)
        return fail(TENT_E_NO_MEMORY, "no memory for %u requests", engine.limits.requests);
    engine.requests = static_cast<Request *>(requests);
    engine.batches = std::make_unique<Batch[]>(engine.limits.batches);
    engine.slices = std::make_unique<Slice[]>(engine.limits.slices);
    for (uint32_t i = 0; i < engine.limits.slices; i++)
        engine.slices[i].endpoint = NIL;
    hedge_init(engine);
    deadlines_init(engine);
    if (!engine.request_pool.init(engine.limits.requests) ||
        !engine.batch_pool.init(engine.limits.batches) ||
        !engine.submissions.init(SUBMIT_RING_SIZE) ||
        !engine.completions.init(engine.limits.completions))
        return fail(TENT_E_NO_MEMORY, "no memory for the engine's pools");
    return TENT_OK;
}

int32_t make_descriptors(Engine &engine) {
    engine.epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    engine.wake_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    engine.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    engine.driver.wake_fd = engine.wake_fd;
    if (engine.epoll_fd < 0 || engine.wake_fd < 0 || engine.event_fd < 0)
        return fail(TENT_E_SYSTEM, "no file descriptors for the engine: %s", strerror(errno));
    return TENT_OK;
}

// What a first run gets: one rail on the address listened on.
std::string default_plan(const Engine &engine) {
    const Control &control = *engine.control;
    std::string ip = "127.0.0.1";
    if (!control.listeners.empty() && !control.listeners.front().address.is_any())
        ip = control.listeners.front().address.ip();
    return "plan 1\nrail 0 tcp " + ip + "\nroute * : tcp[0]\n";
}

int32_t open_once(const tent_engine_options &options, std::unique_ptr<Engine> *out) {
    auto engine = std::make_unique<Engine>();
    engine->fork_generation = fork_generation_now();
    engine->control = std::make_unique<Control>();
    engine->control->self->state = PeerState::Ready;
    int32_t status = load_options(*engine, options);
    engine->now_ns = engine_now(*engine);
    if (status == TENT_OK) status = load_engine_key(*engine, options);
    if (status == TENT_OK) status = make_pools(*engine);
    if (status == TENT_OK) status = make_descriptors(*engine);
    if (status == TENT_OK) status = memory_init(*engine);
    if (status == TENT_OK) status = segments_init(*engine);
    if (status == TENT_OK)
        status = control_open(*engine, options.listen ? options.listen : "127.0.0.1:0");
    if (status != TENT_OK) return status;
    Plan plan;
    status = plan_parse(options.plan ? std::string(options.plan) : default_plan(*engine), &plan);
    if (status == TENT_OK) status = plan_install(*engine, std::move(plan), nullptr);
    if (status == TENT_OK) status = control_begin(*engine);
    if (status == TENT_OK) *out = std::move(engine);
    return status;
}

bool wants_any_port(const tent_engine_options &options) {
    if (!options.listen) return true;
    size_t length = strlen(options.listen);
    return length >= 2 && strcmp(options.listen + length - 2, ":0") == 0;
}

void housekeeping(Engine &engine) {
    control_housekeeping(engine);
    endpoints_housekeeping(engine);
    batches_housekeeping(engine);
    segments_housekeeping(engine);
    grants_expire(engine);
    routes_step(engine);
    plans_collect(engine);
    // Flows that wait for a full endpoint look again: it may have stalled meanwhile.
    for (uint32_t flows : engine.active_count)
        engine.schedule_due |= flows > 0;
    engine.housekeeping_due_ns = engine.now_ns + HOUSEKEEPING_NS;
}

}  // namespace

bool engine_watches_time(const Engine &engine) {
    const Control &control = *engine.control;
    if (engine.endpoints_unsettled > 0 || !engine.cancels.empty() || control.segments_pending > 0)
        return true;
    if (!control.unproven.empty() || engine.plans.size() > 1) return true;
    if (peers_watch_time(engine)) return true;
    for (const auto &client : control.clients)
        if (client->lost_ns) return true;
    return engine.open_requests > 0 || engine.notices_due || control.listeners_paused;
}

uint32_t fork_generation_now() {
    return fork_count.load(std::memory_order_relaxed);
}

uint64_t engine_now(const Engine &engine) {
    return engine.manual ? engine.manual_ns : monotonic_ns();
}

void engine_poison(Engine &engine, const char *what) {
    if (engine.poisoned.exchange(true)) return;
    broken_invariant("engine", 0, what);
    report(engine, TENT_EVENT_LOG, {.status = TENT_E_INTERNAL}, "broken invariant: %s", what);
    spray_stop_segment(engine, nullptr, TENT_E_INTERNAL);
}

namespace {

bool cycle(Engine &engine, uint64_t now_ns) {
    engine.now_ns = now_ns;
    watch_stall(engine);
    uint32_t busy = 0;
    if (spray_take(engine) > 0) busy = 1;
    spray_schedule(engine);
    for (auto &transport : engine.transports)
        if (TENT_OFFERS(transport->table, flush)) transport->table->flush(transport->instance);
    if (spray_poll(engine, &busy) > 0) {
        busy = 1;
        spray_schedule(engine);  // refill the windows before the next look
    }
    if (!engine.control->news.empty() && endpoints_process_news(engine)) busy = 1;
    if (links_step(engine)) busy = 1;
    // After results were taken: what has come back is not late.
    watch_step(engine);
    deadlines_step(engine);
    // What a carrier has delivered is seen in this very step: simulated time is exact.
    if (busy == 0 || now_ns >= engine.control_due_ns || engine.control->carrier.transport) {
        if (control_poll(engine)) busy = 1;
        engine.control_due_ns = now_ns + CONTROL_INTERVAL_NS;
    }
    if (segments_step(engine))
        engine.housekeeping_due_ns = std::min(engine.housekeeping_due_ns, now_ns + MS);
    if (engine.notices_due) peers_pump_notices(engine);
    if (now_ns >= engine.housekeeping_due_ns) housekeeping(engine);
    return busy != 0 || engine.schedule_due;
}

}  // namespace

bool engine_cycle(Engine &engine, uint64_t now_ns) {
    try {
        return cycle(engine, now_ns);
    } catch (...) {
        // Memory ran out in the control plane; the data plane allocates nothing. No caller's frame
        // may unwind with the token held, and the host process must live.
        engine_poison(engine, "no memory inside the duty cycle");
        return false;
    }
}

int engine_sleep_ms(const Engine &engine) {
    // Not before housekeeping may act upon it.
    uint64_t until_ns =
        std::max(std::min({peers_due_ns(engine), engine.routes_due_ns, engine.grants_due_ns}),
                 engine.housekeeping_due_ns);
    if (engine_watches_time(engine)) until_ns = engine.now_ns + HOUSEKEEPING_NS;
    until_ns = std::min({until_ns, engine.watch_due_ns, deadlines_due_ns(engine)});
    if (!engine.hedge_watched.empty() || !engine.hedge_losers.empty())
        until_ns = engine.now_ns + MS;
    for (const auto &transport : engine.transports) {
        const tent_plugin *table = transport->table;
        if (transport->event_fd < 0) until_ns = std::min(until_ns, engine.now_ns + MS);
        if (TENT_OFFERS(table, next_ns))
            until_ns = std::min(until_ns, table->next_ns(transport->instance));
    }
    if (until_ns == UINT64_MAX) return -1;
    if (until_ns <= engine.now_ns) return 0;
    return static_cast<int>(std::min<uint64_t>((until_ns - engine.now_ns + MS - 1) / MS, 1000));
}

void engine_worker(Engine &engine) {
    while (!engine.stop.load(std::memory_order_acquire)) {
        if (!engine.driver.worker_try_acquire()) {
            engine.driver.worker_park(
                engine.inbound.load(std::memory_order_relaxed) ? LINGER_INBOUND_NS : LINGER_NS);
            continue;
        }
        uint64_t moved_ns = engine_now(engine);
        bool handed_over = false;
        for (;;) {
            uint64_t now_ns = engine_now(engine);
            if (engine_cycle(engine, now_ns)) moved_ns = now_ns;
            if (engine.stop.load(std::memory_order_relaxed)) break;
            if ((handed_over = engine.driver.wanted())) break;
            if (now_ns - moved_ns > engine.spin_ns) break;
            if (now_ns - moved_ns > SPIN_YIELD_NS) sched_yield();
        }
        int sleep_ms = engine_sleep_ms(engine);
        engine.planned_ns = sleep_ms < 0 ? UINT64_MAX / 2 : static_cast<uint64_t>(sleep_ms) * MS;
        if (!handed_over) bump(engine.tally.wakeups);
        engine.driver.worker_release();
        if (handed_over) {
            engine.driver.worker_park(
                engine.inbound.load(std::memory_order_relaxed) ? LINGER_INBOUND_NS : LINGER_NS);
            continue;
        }
        engine.driver.worker_sleep_begin();
        // Pairs with the releases of calling threads: they see us asleep or we see their work.
        std::atomic_thread_fence(std::memory_order_seq_cst);
        if (engine.submissions.size() == 0 && !engine.driver.work_left() &&
            !engine.stop.load(std::memory_order_seq_cst)) {
            epoll_event events[8];
            // Level-triggered: handled by the next cycle.
            epoll_wait(engine.epoll_fd, events, 8, sleep_ms);
            uint64_t wakes = 0;  // drained by the sleeper alone, or a wake-up could be lost
            [[maybe_unused]] ssize_t got = read(engine.wake_fd, &wakes, sizeof wakes);
        }
        engine.driver.worker_sleep_end();
    }
}

int32_t engine_open(const tent_engine_options &options, Engine **out) {
    count_forks();
    std::unique_ptr<Engine> engine;
    int32_t status = TENT_E_BUSY;
    for (int attempt = 0; attempt < PORT_TRIES && status == TENT_E_BUSY; attempt++) {
        status = open_once(options, &engine);
        if (!wants_any_port(options)) break;
    }
    if (status != TENT_OK) return status;
    if (!engine->manual) {
        try {
            engine->worker = std::thread(engine_worker, std::ref(*engine));
        } catch (...) {
            return fail(TENT_E_SYSTEM, "the system refuses a worker thread");
        }
        pthread_setname_np(engine->worker.native_handle(), "tent-worker");
    }
    *out = engine.release();
    return TENT_OK;
}

namespace {

// Manual engines are driven by their closer, in time of their own: nobody steps their peers
// meanwhile, so the limits are the engine's time, not the caller's.
bool settle_until(Engine &engine, uint64_t timeout_ns, auto done) {
    if (!engine.manual) return drive_until(engine, timeout_ns, done);
    uint64_t begin_ns = engine.manual_ns;
    for (uint32_t turn = 0; !done(); turn++) {
        if (engine.manual_ns - begin_ns > timeout_ns) return false;
        // What can end at once does so in the first turns; then only timers are left.
        engine.manual_ns += turn < SETTLE_FINE_TURNS ? MS : HOUSEKEEPING_NS;
        engine_cycle(engine, engine.manual_ns);
    }
    return true;
}

}  // namespace

int32_t engine_close(Engine *engine) {
    if (engine_forked(*engine)) {
        // The parent's: nothing may be closed or sent. The memory goes with the child.
        return fail(TENT_E_FORKED, "the engine belongs to the process that opened it");
    }
    engine->closing.store(true, std::memory_order_seq_cst);
    uint64_t fence_ns = engine->plans.back()->plan.parameters.fence_timeout_ns;
    uint64_t grace_ns = engine->plans.back()->plan.parameters.cancel_grace_ns;
    settle_until(*engine, fence_ns, [&] { return !peers_notices_left(*engine); });
    with_driver(*engine, [&] {
        spray_stop_segment(*engine, nullptr, TENT_E_CANCELLED);
        return 0;
    });
    settle_until(*engine, grace_ns,
                 [&] { return engine->open_requests == 0 && engine->submissions.size() == 0; });
    // Segments: what is still posted is fenced now, each fence bounded by its own timeout.
    settle_until(*engine, 2 * fence_ns + SECOND, [&] {
        bool left = false;
        for (uint32_t slot = 0; slot < engine->segment_count; slot++)
            if (Segment *segment = engine->segments[slot].load())
                left |= !segment_close_step(*engine, *segment);
        if (left) endpoints_housekeeping(*engine);
        return !left && engine->open_requests == 0;
    });
    with_driver(*engine, [&] {
        clients_bye(*engine);
        return 0;
    });
    // Peers of this machine may copy by themselves, and be in the middle of it.
    const bool quiet =
        settle_until(*engine, fence_ns, [&] { return endpoints_retire_all(*engine); });
    engine->peers_linger = !quiet;
    engine->stop.store(true, std::memory_order_seq_cst);
    uint64_t one = 1;
    [[maybe_unused]] ssize_t written = ::write(engine->wake_fd, &one, sizeof one);
    if (engine->worker.joinable()) {
        engine->driver.wake_worker();
        engine->worker.join();
    }
    // Blocked callers see their batches terminal and leave.
    while (engine->callers.load(std::memory_order_acquire) > 0)
        usleep(50);
    delete engine;
    if (quiet) return TENT_OK;
    return fail(TENT_E_UNFENCED_LOCAL,
                "the engine is closed, but a transport has not retired its endpoints: a peer may "
                "still access what was registered, so do not use that memory for anything else");
}

Engine::~Engine() {
    crew.stop();
    errands.stop();
    if (control) control_close(*this);
    segments_free(*this);
    memory_free(*this);
    transports_close(*this);
    for (int fd : {epoll_fd, wake_fd, event_fd})
        if (fd >= 0) close(fd);
    if (requests) munmap(requests, requests_bytes);
}

}  // namespace tent
