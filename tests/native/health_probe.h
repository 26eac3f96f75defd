/* The native health machine as plain C calls, for the differential test against
 * tent/resilience/health.py (tests/unit/tests_health.py reads the part between the marks).
 *
 * Leans on csrc/health, which it calls without adding a rule of its own. Test only: never
 * installed.
 */
#ifndef TENT_TESTS_HEALTH_PROBE_H
#define TENT_TESTS_HEALTH_PROBE_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* cdef: begin */
typedef struct health_probe health_probe;

/* values: one for each row of the parameter table (sched_probe names them). */
health_probe *health_open(const uint64_t *values);
void health_close(health_probe *h);

void health_sample(health_probe *h, uint64_t predicted_ns, uint64_t actual_ns);
uint64_t health_allowance_ns(const health_probe *h, uint64_t predicted_ns, uint32_t retries);
uint64_t health_probe_due_ns(const health_probe *h, uint32_t waiting);

/* What happened; each returns the action, counted from 0 as HealthAction. */
uint32_t health_success(health_probe *h);
uint32_t health_progress(health_probe *h);
uint32_t health_late(health_probe *h, uint64_t now_ns, uint32_t others, uint32_t peer_alive);
uint32_t health_error(health_probe *h, uint64_t now_ns, uint32_t others, uint32_t peer_alive);
uint32_t health_alone(health_probe *h);
uint32_t health_slow(health_probe *h, uint64_t now_ns, uint32_t others, uint32_t peer_alive);
uint32_t health_drained(health_probe *h, uint64_t now_ns);
uint32_t health_broken(health_probe *h, uint64_t now_ns, uint32_t counts, uint64_t random);
uint32_t health_idle(health_probe *h, uint64_t now_ns, uint32_t waiting);
uint32_t health_connected(health_probe *h);
uint32_t health_canary(health_probe *h);
uint32_t health_encouraged(health_probe *h);
uint32_t health_gone(health_probe *h);

typedef struct health_seen {
    uint64_t silent_ns, deviation_ns, margin_ns;
    uint32_t state, usable, slices_max, flaps_q8, attempts; /* state: from 0 as HealthState */
} health_seen;
void health_look(const health_probe *h, health_seen *seen);
/* cdef: end */

#ifdef __cplusplus
}
#endif
#endif
