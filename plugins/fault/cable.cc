// A rail's cable: cut after bytes, by schedule or in a rhythm, healed, slowed; and what a cut does
// to endpoints.
//
// Leans on state.h. Must never hand a slice back while the decorated transport may still touch its
// memory: a failing endpoint is closed there first, and its slices come back as they are let go.
#include <algorithm>
#include <cstdio>

#include "state.h"

namespace tent::fault {
namespace {

bool active(const Window &window, uint64_t since_ns) {
    return since_ns >= window.begin_ns && since_ns < window.end_ns;
}

bool flapped(const Options &options, uint64_t since_ns) {
    if (options.flap_period_ns == 0) return false;
    return since_ns % options.flap_period_ns >= options.flap_period_ns - options.flap_down_ns;
}

// Is the cable to be cut now, and how?
bool to_be_cut(Rail &rail, uint64_t now_ns, Cut *kind) {
    const Options &options = rail.options;
    if (rail.used && !rail.cut_spent && rail.posted_size >= options.cut_after_size) {
        rail.cut_spent = true;
        rail.heal_ns = options.cut_for_ns != 0 ? now_ns + options.cut_for_ns : UINT64_MAX;
    }
    *kind = options.cut;
    bool cut = rail.cut_spent && now_ns < rail.heal_ns;
    cut |= flapped(options, now_ns - rail.start_ns);
    for (uint32_t i = 0; i < options.window_count && !cut; ++i) {
        const Window &window = options.windows[i];
        if (window.what != Window::What::CUT || !active(window, now_ns - rail.start_ns)) continue;
        *kind = window.cut;
        cut = true;
    }
    return cut;
}

void cable_update(Rail &rail, uint64_t now_ns) {
    rail.cable = rail.options.cable;
    for (uint32_t i = 0; i < rail.options.window_count; ++i) {
        const Window &window = rail.options.windows[i];
        if (!active(window, now_ns - rail.start_ns)) continue;
        if (window.what == Window::What::THROTTLE) {
            rail.cable.throttle_bytes_per_s = window.cable.throttle_bytes_per_s;
        } else if (window.what == Window::What::DELAY) {
            rail.cable.delay_ns_min = window.cable.delay_ns_min;
            rail.cable.delay_ns_max = window.cable.delay_ns_max;
        }
    }
}

void rail_tell(const Rail &rail, int32_t status, const char *sentence) {
    const tent_host &host = *rail.instance->host;
    if (host.size > offsetof(tent_host, rail_state) && host.rail_state != nullptr)
        host.rail_state(host.ctx, rail.index, status, sentence);
}

}  // namespace

int32_t endpoint_close_inner(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    int32_t status = TENT_OK;
    if (endpoint.inner != nullptr)
        status = instance.inner->endpoint_close(instance.inner_instance, endpoint.inner);
    if (status == TENT_IN_PROGRESS) return status;
    endpoint.inner = nullptr;
    if (endpoint.closing) {
        endpoint.closing = false;
        --instance.closing_count;
    }
    return status;
}

void endpoints_close_on(Instance &instance) {
    for (Endpoint *endpoint = instance.endpoints; endpoint != nullptr && instance.closing_count > 0;
         endpoint = endpoint->next) {
        if (endpoint->closing) endpoint_close_inner(*endpoint);
    }
}

void endpoint_fail(Endpoint &endpoint) {
    Instance &instance = *endpoint.instance;
    if (endpoint.broken) return;
    endpoint.broken = true;
    endpoint.news = true;
    ++instance.news_count;
    if (endpoint_close_inner(endpoint) == TENT_IN_PROGRESS) {
        endpoint.closing = true;
        ++instance.closing_count;
    }
    endpoint_flush_held(endpoint, TENT_E_TRANSPORT);
}

void endpoint_cut(Endpoint &endpoint) {
    if (endpoint.broken) return;
    const Rail &rail = *endpoint.rail;
    if (rail.cut_kind == Cut::HANG) {
        endpoint.broken = endpoint.hangs = true;
        return;
    }
    snprintf(endpoint.sentence, sizeof endpoint.sentence,
             "rail %u was cut by fault after %llu posted bytes", rail.index,
             static_cast<unsigned long long>(rail.posted_size));
    endpoint_fail(endpoint);
}

void rail_update(Rail &rail, uint64_t now_ns) {
    cable_update(rail, now_ns);
    Cut kind = Cut::ERROR;
    const bool cut = to_be_cut(rail, now_ns, &kind);
    if (cut == rail.cut) return;
    rail.cut = cut;
    if (!cut) {
        if (rail.cut_kind == Cut::DOWN) rail_tell(rail, TENT_OK, "healed by fault");
        return;
    }
    rail.cut_kind = kind;
    if (kind == Cut::DOWN) rail_tell(rail, TENT_E_TRANSPORT, "cut by fault");
    for (Endpoint *endpoint = rail.instance->endpoints; endpoint != nullptr;
         endpoint = endpoint->next) {
        if (endpoint->rail == &rail && endpoint->initiator && !endpoint->closed)
            endpoint_cut(*endpoint);
    }
}

uint64_t rail_next_ns(const Rail &rail, uint64_t now_ns) {
    const Options &options = rail.options;
    const uint64_t since_ns = now_ns - rail.start_ns;
    uint64_t next_ns = UINT64_MAX;  // since the start
    for (uint32_t i = 0; i < options.window_count; ++i) {
        for (uint64_t edge_ns : {options.windows[i].begin_ns, options.windows[i].end_ns})
            if (edge_ns > since_ns) next_ns = std::min(next_ns, edge_ns);
    }
    if (options.flap_period_ns != 0) {
        const uint64_t begin_ns = since_ns - since_ns % options.flap_period_ns;
        const uint64_t down_ns = begin_ns + options.flap_period_ns - options.flap_down_ns;
        next_ns =
            std::min(next_ns, down_ns > since_ns ? down_ns : begin_ns + options.flap_period_ns);
    }
    if (next_ns != UINT64_MAX) next_ns += rail.start_ns;
    return rail.cut_spent && rail.heal_ns > now_ns ? std::min(next_ns, rail.heal_ns) : next_ns;
}

void news_clear(Endpoint &endpoint) {
    endpoint.instance->news_count -= endpoint.news ? 1 : 0;
    endpoint.news = false;
}

void endpoints_report(Instance &instance) {
    while (instance.news_count > 0) {
        // From the start each time: the core may close endpoints from within the call.
        Endpoint *endpoint = instance.endpoints;
        while (!endpoint->news)
            endpoint = endpoint->next;
        news_clear(*endpoint);
        instance.host->endpoint_state(instance.host->ctx, endpoint->number, TENT_E_TRANSPORT,
                                      endpoint->sentence);
    }
}

void endpoint_free(Endpoint &endpoint) {
    Endpoint **link = &endpoint.instance->endpoints;
    while (*link != &endpoint)
        link = &(*link)->next;
    *link = endpoint.next;
    delete &endpoint;
}

}  // namespace tent::fault
