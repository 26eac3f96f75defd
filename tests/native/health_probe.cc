// See health_probe.h. Leans on csrc/health; must never decide anything itself.
#include "health_probe.h"

#include "health/health.h"

using namespace tent;

struct health_probe {
    Parameters parameters;
    EndpointHealth health;
};

namespace {

uint32_t number(HealthAction action) {
    return static_cast<uint32_t>(action);
}

}  // namespace

extern "C" {

health_probe *health_open(const uint64_t *values) {
    health_probe *h = new health_probe;
    for (const ParameterInfo &info : parameter_table())
        h->parameters.*info.field = *values++;
    return h;
}

void health_close(health_probe *h) {
    delete h;
}

void health_sample(health_probe *h, uint64_t predicted_ns, uint64_t actual_ns) {
    h->health.sample(predicted_ns, actual_ns);
}

uint64_t health_allowance_ns(const health_probe *h, uint64_t predicted_ns, uint32_t retries) {
    return h->health.allowance_ns(predicted_ns, retries, h->parameters);
}

uint64_t health_probe_due_ns(const health_probe *h, uint32_t waiting) {
    return h->health.probe_due_ns(waiting != 0, h->parameters);
}

uint32_t health_success(health_probe *h) {
    return number(h->health.on_success());
}

uint32_t health_progress(health_probe *h) {
    return number(h->health.on_progress());
}

uint32_t health_late(health_probe *h, uint64_t now_ns, uint32_t others, uint32_t peer_alive) {
    return number(h->health.on_late(now_ns, {others != 0, peer_alive != 0}, h->parameters));
}

uint32_t health_error(health_probe *h, uint64_t now_ns, uint32_t others, uint32_t peer_alive) {
    return number(h->health.on_error(now_ns, {others != 0, peer_alive != 0}, h->parameters));
}

uint32_t health_alone(health_probe *h) {
    return number(h->health.on_alone());
}

uint32_t health_slow(health_probe *h, uint64_t now_ns, uint32_t others, uint32_t peer_alive) {
    return number(h->health.on_slow(now_ns, {others != 0, peer_alive != 0}, h->parameters));
}

uint32_t health_drained(health_probe *h, uint64_t now_ns) {
    return number(h->health.on_drained(now_ns, h->parameters));
}

uint32_t health_broken(health_probe *h, uint64_t now_ns, uint32_t counts, uint64_t random) {
    return number(h->health.on_broken(now_ns, counts != 0, random, h->parameters));
}

uint32_t health_idle(health_probe *h, uint64_t now_ns, uint32_t waiting) {
    return number(h->health.on_idle(now_ns, waiting != 0, h->parameters));
}

uint32_t health_connected(health_probe *h) {
    return number(h->health.on_connected());
}

uint32_t health_canary(health_probe *h) {
    return number(h->health.on_canary());
}

uint32_t health_encouraged(health_probe *h) {
    h->health.on_encouraged();
    return number(HealthAction::None);
}

uint32_t health_gone(health_probe *h) {
    return number(h->health.on_gone());
}

void health_look(const health_probe *h, health_seen *seen) {
    const EndpointHealth &health = h->health;
    *seen = {health.silent_ns(),
             health.deviation_ns(),
             health.margin_ns(h->parameters),
             static_cast<uint32_t>(health.state()),
             health.usable(),
             health.slices_max(),
             health.flaps_q8(),
             health.attempts()};
}

}  // extern "C"
