// See transports.h.
#include "core/transports.h"

#include <algorithm>
#include <cstring>
#include <deque>

#include "base/crc32c.h"
#include "base/status.h"
#include "core/catalog.h"
#include "core/control.h"
#include "core/endpoints.h"
#include "core/links.h"
#include "core/memory.h"
#include "core/reports.h"
#include "core/routes.h"
#include "core/segments.h"
#include "core/unreachable.h"
#include "core/watch.h"

namespace tent {

namespace {

Transport &self(void *ctx) {
    return *static_cast<Transport *>(ctx);
}

uint64_t host_now_ns(void *ctx) {
    return engine_now(*self(ctx).engine);
}
uint64_t host_random_u64(void *ctx) {
    return self(ctx).engine->random.u64();
}
void host_log(void *ctx, int32_t status, const char *sentence) {
    if (memory_aside_log(self(ctx), status, sentence)) return;
    report(*self(ctx).engine, TENT_EVENT_LOG, {.status = status}, "%s: %s", self(ctx).name.c_str(),
           sentence);
}
void host_fail(void *ctx, const char *sentence) {
    self(ctx).failure = sentence;
}
int32_t host_grant_check(void *ctx, uint64_t grant, uint32_t op, uint64_t remote, uint64_t length) {
    return grant_check(*self(ctx).engine, grant, op, remote, length);
}
void host_endpoint_state(void *ctx, uint64_t endpoint, int32_t status, const char *sentence) {
    endpoints_news(*self(ctx).engine, endpoint, status, sentence ? sentence : "");
}
void host_served(void *ctx, uint64_t endpoint, uint32_t op, uint64_t bytes) {
    endpoints_served(*self(ctx).engine, endpoint, op, bytes);
}
int32_t host_opening_make(void *ctx, uint64_t endpoint, uint32_t connection, void *opening) {
    return control_opening_make(*self(ctx).engine, endpoint, connection,
                                static_cast<uint8_t *>(opening));
}
int32_t host_opening_check(void *ctx, uint64_t endpoint, uint32_t connection, const void *reply) {
    return control_opening_check(*self(ctx).engine, endpoint, connection,
                                 static_cast<const uint8_t *>(reply));
}
uint32_t host_crc32c(uint32_t crc, const void *data, uint64_t size) {
    return crc32c(crc, data, size);
}
int32_t host_control_send(void *ctx, uint64_t endpoint, const void *bytes, uint32_t size) {
    return control_plugin_message(*self(ctx).engine, endpoint, static_cast<const uint8_t *>(bytes),
                                  size);
}

uint32_t host_grant_access(void *ctx, uint64_t grant, uint64_t remote, uint64_t length) {
    return grant_access(*self(ctx).engine, grant, remote, length);
}

void host_errand(void *ctx, void (*run)(void *), void *argument) {
    self(ctx).engine->errands.run(run, argument);
}

void host_work_ready(void *ctx, uint32_t count) {
    self(ctx).engine->crew.ready(count);
}

void host_rail_state(void *ctx, uint32_t rail, int32_t status, const char *sentence) {
    rail_news(*self(ctx).engine, self(ctx), rail, status, sentence ? sentence : "");
}

void fill_host(Transport &transport, const tent_plugin *inner) {
    tent_host &host = transport.host;
    host.size = sizeof host;
    host.abi = TENT_PLUGIN_ABI;
    host.ctx = &transport;
    host.inner = inner;
    host.now_ns = host_now_ns;
    host.random_u64 = host_random_u64;
    host.log = host_log;
    host.fail = host_fail;
    host.grant_check = host_grant_check;
    host.endpoint_state = host_endpoint_state;
    host.served = host_served;
    host.opening_make = host_opening_make;
    host.opening_check = host_opening_check;
    host.crc32c = host_crc32c;
    host.control_send = host_control_send;
    host.rail_state = host_rail_state;
    host.work_ready = host_work_ready;
    host.grant_access = host_grant_access;
    host.errand = host_errand;
}

int32_t load_table(const Engine &engine, const std::string &name, const tent_plugin **table,
                   std::string *library) {
    Plugin plugin;
    int32_t status = plugin_load(engine.plugin_path, name, &plugin);
    if (status == TENT_OK) status = plugin_available(plugin);
    if (status != TENT_OK) return status;
    *table = plugin.table;
    *library = plugin.library;
    return TENT_OK;
}

// The plan's options for one transport and its decorator, as the plugin wants them; key names them
// all.
// The decorator's own carry its name as prefix, as on rails. names owns what the options point to.
std::vector<tent_option> options_of(const Plan &plan, const std::string &name,
                                    std::deque<std::string> *names, std::string *key) {
    std::vector<tent_option> options;
    const PlanDecoration *decoration = plan_decoration(plan, name);
    if (decoration) *key += "decorate " + decoration->plugin + "\n";
    for (const PlanOption &option : plan.transport_options) {
        bool own = option.transport == name;
        if (!own && !(decoration && option.transport == decoration->plugin)) continue;
        names->push_back(own ? option.name : option.transport + "." + option.name);
        options.push_back({names->back().c_str(), option.value.c_str()});
        *key += names->back() + "=" + option.value + "\n";
    }
    return options;
}

int32_t open_transport(Engine &engine, const Plan &plan, const std::string &name,
                       std::unique_ptr<Transport> *out) {
    auto transport = std::make_unique<Transport>();
    transport->engine = &engine;
    transport->name = name;
    std::deque<std::string> names;
    std::vector<tent_option> options = options_of(plan, name, &names, &transport->options_key);
    int32_t status = load_table(engine, name, &transport->table, &transport->library);
    if (status != TENT_OK) return status;
    transport->memory = plugin_memory(*transport->table);
    transport->works = TENT_OFFERS(transport->table, work);
    transport->registers_aside = plugin_flags(*transport->table) & TENT_PLUGIN_REGISTERS_ASIDE;
    const tent_plugin *inner = nullptr;
    if (const PlanDecoration *decoration = plan_decoration(plan, name)) {
        inner = transport->table;
        transport->decorated = true;
        transport->registers_aside = false;
        status = load_table(engine, decoration->plugin, &transport->table, &transport->library);
        if (status != TENT_OK) return status;
    }
    fill_host(*transport, inner);
    tent_plugin_options about{};
    about.size = sizeof about;
    about.options = options.data();
    about.option_count = static_cast<uint32_t>(options.size());
    about.rails_max = RAILS_MAX;
    about.endpoints_max = ENDPOINTS_MAX;
    about.slices_max = engine.limits.slices + CANARIES_MAX;
    about.helpers = transport->works ? engine.crew.count() : 0;
    transport->failure.clear();
    status = transport->table->open(&transport->host, &about, &transport->instance);
    if (status != TENT_OK)
        return fail(status, "transport %s does not open: %s", name.c_str(),
                    transport->failure.empty() ? status_text(status) : transport->failure.c_str());
    transport->event_fd =
        transport->table->event_fd ? transport->table->event_fd(transport->instance) : -1;
    *out = std::move(transport);
    return TENT_OK;
}

int32_t open_rail(Engine &engine, const PlanRail &plan, Transport &transport,
                  std::unique_ptr<Rail> *out) {
    auto rail = std::make_unique<Rail>();
    rail->transport = &transport;
    rail->plan = plan;
    std::vector<tent_option> options;
    std::vector<std::string> names;  // a decorator's options keep their prefix: fault.throttle
    names.reserve(plan.options.size());
    for (const PlanOption &option : plan.options) {
        bool own = option.transport == plan.transport;
        names.push_back(own ? option.name : option.transport + "." + option.name);
        options.push_back({names.back().c_str(), option.value.c_str()});
    }
    tent_rail_params params{};
    params.size = sizeof params;
    params.index = plan.index;
    params.device = plan.device.c_str();
    params.options = options.data();
    params.option_count = static_cast<uint32_t>(options.size());
    rail->info.size = sizeof rail->info;
    transport.failure.clear();
    int32_t status =
        transport.table->rail_open(transport.instance, &params, &rail->handle, &rail->info);
    if (status != TENT_OK)
        return fail(status, "rail %u (%s %s) does not open: %s", plan.index, plan.transport.c_str(),
                    plan.device.c_str(),
                    transport.failure.empty() ? status_text(status) : transport.failure.c_str());
    rail->info.address[sizeof rail->info.address - 1] = 0;
    if (rail->plan.numa < 0) rail->plan.numa = rail->info.numa;
    rail->title = plan.transport + " " + plan.device;
    // An IP address says more than its device; what other transports tell peers is for them alone.
    if ((rail->info.flags & TENT_RAIL_LISTENS) && plan.device != rail->info.address)
        rail->title += std::string(" ") + rail->info.address;
    if (rail->info.flags & TENT_RAIL_LISTENS) {
        status = control_listen(engine, rail->info.address);
        if (status != TENT_OK) {
            transport.table->rail_close(transport.instance, rail->handle);
            return status;
        }
    }
    *out = std::move(rail);
    return TENT_OK;
}

Rail *rail_reusable(Engine &engine, const PlanRail &plan, const Transport &transport) {
    for (auto &rail : engine.rails) {
        PlanRail had = rail->plan;
        if (plan.numa < 0) had.numa = plan.numa;
        had.tier1 = plan.tier1;  // what it is near to is told to peers, and opens nothing
        had.tier2 = plan.tier2;
        // One that is leaving, and is wanted again, stays.
        if (rail->transport == &transport && had == plan) return rail.get();
    }
    return nullptr;
}

// Opened for a plan that is not installed yet; undone as a whole when a later step fails.
struct Preparation {
    Engine &engine;
    std::vector<std::unique_ptr<Transport>> transports;
    std::vector<std::unique_ptr<Rail>> rails;

    ~Preparation() {
        for (auto &rail : rails)
            rail->transport->table->rail_close(rail->transport->instance, rail->handle);
        if (!transports.empty()) engine.errands.drain();
        for (auto &transport : transports) {
            regions_part(engine, *transport);
            transport->table->close(transport->instance);
        }
        control_unlisten(engine);
    }
    Transport *find(const std::string &name) {
        for (auto &transport : transports)
            if (transport->name == name) return transport.get();
        return transport_find(engine, name);
    }
};

int32_t prepare(Engine &engine, const Plan &plan, Preparation *preparation,
                PlanGeneration *generation) {
    int32_t carried = carrier_check_plan(engine.control->carrier, plan);
    if (carried != TENT_OK) return carried;
    generation->rails.resize(RAILS_MAX);
    for (const PlanRail &wanted : plan.rails) {
        Transport *transport = preparation->find(wanted.transport);
        if (transport) {
            std::deque<std::string> names;
            std::string key;
            options_of(plan, wanted.transport, &names, &key);
            if (key != transport->options_key)
                return fail(TENT_E_PLAN,
                            "transport %s is open with other options or another decorator; these "
                            "cannot change while the engine is open",
                            wanted.transport.c_str());
        } else {
            std::unique_ptr<Transport> opened;
            int32_t status = open_transport(engine, plan, wanted.transport, &opened);
            if (status != TENT_OK) return status;
            transport = opened.get();
            preparation->transports.push_back(std::move(opened));
        }
        Rail *rail = rail_reusable(engine, wanted, *transport);
        if (!rail) {
            std::unique_ptr<Rail> opened;
            int32_t status = open_rail(engine, wanted, *transport, &opened);
            if (status != TENT_OK) return status;
            rail = opened.get();
            rail->lane.rate.init(rail_nominal(*rail), plan.parameters.rate_prior_bytes_per_s);
            preparation->rails.push_back(std::move(opened));
        }
        generation->rails[wanted.index] = rail;
    }
    for (auto &transport : preparation->transports) {
        int32_t status = regions_join(engine, *transport);
        if (status != TENT_OK) return status;
    }
    return TENT_OK;
}

// By a plan that has requests under way.
bool is_named(const Engine &engine, const Rail &rail) {
    return std::any_of(engine.plans.begin(), engine.plans.end(), [&](const auto &generation) {
        const auto &rails = generation->rails;
        return std::find(rails.begin(), rails.end(), &rail) != rails.end();
    });
}

}  // namespace

Transport *transport_find(Engine &engine, const std::string &name) {
    for (auto &transport : engine.transports)
        if (transport->name == name) return transport.get();
    return nullptr;
}

std::string transports_list(const Engine &engine) {
    std::string names;
    for (const auto &transport : engine.transports)
        names += (names.empty() ? "" : ", ") + transport->name;
    return names.empty() ? "none" : names;
}

int32_t plan_install(Engine &engine, Plan plan, uint32_t *number) {
    auto generation = std::make_unique<PlanGeneration>();
    Descriptor before;  // of its rails
    if (!engine.plans.empty()) control_describe(engine, &before);
    {
        Preparation preparation{engine, {}, {}};
        int32_t status = prepare(engine, plan, &preparation, generation.get());
        if (status != TENT_OK) return status;
        for (auto &transport : preparation.transports) {
            control_watch(engine, transport->event_fd);
            if (transport->works && TENT_OFFERS(transport->table, work))
                engine.crew.join(*transport->table, transport->instance);
            segments_import(engine, *transport);
            engine.transports.push_back(std::move(transport));
        }
        preparation.transports.clear();
        for (auto &rail : preparation.rails)
            engine.rails.push_back(std::move(rail));
        preparation.rails.clear();
    }
    generation->plan = std::move(plan);
    generation->number = engine.plans.empty() ? 1 : engine.plans.back()->number + 1;
    if (number) *number = generation->number;
    engine.plans.push_back(std::move(generation));
    PlanGeneration &current = *engine.plans.back();
    for (const PlanRail &wanted : current.plan.rails) {
        current.rails[wanted.index]->plan.tier1 = wanted.tier1;
        current.rails[wanted.index]->plan.tier2 = wanted.tier2;
    }
    for (auto &rail : engine.rails)
        rail->retired = std::find(current.rails.begin(), current.rails.end(), rail.get()) ==
                        current.rails.end();
    for (auto &endpoint : engine.endpoints)  // windows follow the new parameters at once
        if (endpoint->initiator && endpoint->state != EndpointState::Gone)
            endpoint->path.measure(current.plan.parameters);
    if (current.number > 1) {
        Descriptor after;
        control_describe(engine, &after);
        if (before.rails != after.rails) control_rails_changed(engine);
    }
    links_rails_changed(engine);
    routes_rebind_all(engine);
    report(engine, TENT_EVENT_PLAN_INSTALLED, {},
           "plan generation %u installed: %zu rails, %zu routes", current.number,
           current.plan.rails.size(), current.plan.routes.size());
    plans_collect(engine);
    return TENT_OK;
}

void plans_collect(Engine &engine) {
    if (engine.plans.size() > 1)
        for (size_t i = engine.plans.size() - 1; i-- > 0;) {
            if (engine.plans[i]->requests > 0) continue;
            routes_forget(engine, *engine.plans[i]);
            engine.plans.erase(engine.plans.begin() + static_cast<ptrdiff_t>(i));
        }
    for (size_t i = engine.rails.size(); i-- > 0;) {
        Rail &rail = *engine.rails[i];
        if (!rail.retired || is_named(engine, rail)) continue;
        endpoints_abandon_rail(engine, rail);
        if (rail.endpoints > 0) continue;
        unreachable_forget_rail(engine, rail);
        rail.transport->table->rail_close(rail.transport->instance, rail.handle);
        engine.rails.erase(engine.rails.begin() + static_cast<ptrdiff_t>(i));
        control_unlisten(engine);
    }
}

void transports_close(Engine &engine) {
    for (auto &rail : engine.rails)
        rail->transport->table->rail_close(rail->transport->instance, rail->handle);
    engine.rails.clear();
    for (auto &transport : engine.transports)
        transport->table->close(transport->instance);
    engine.transports.clear();
}

}  // namespace tent
