"""The health machine's specification, executable: one endpoint's states, deadlines, probes, flaps.

To be read beside docs/faults.md. csrc/health does the same in place; a differential test holds both
equal, step by step. A `Health` is a value: each event is a method that returns what the core shall
do now and the endpoint's health after it. Leans on nothing. Must never read a clock, use floating
point, or say Pause or Close because of lateness, an error or slowness while no other endpoint to
the peer is open, but for the last path's connection being made anew.

Every division rounds down. Times are nanoseconds of any one clock.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum

TIME_NS_MAX = 1 << 60  # "never": 36 years
U32_MAX = (1 << 32) - 1
DOUBLINGS_MAX = 16  # of a slice's allowance, by retries
DEVIATION_NS_MAX = 1 << 50
SLOW_START_END = 64  # slices: from here on without limit
FLAP_Q8 = 256  # one event
FLAPS_Q8_MAX = 16 * FLAP_Q8  # more teach nothing
DECAY_Q16, DECAY_STEPS_MAX = 5438, 256  # (1 - 2^(-1/8)) * 2^16; 32 half-lives
REBUILDS_MAX = 5  # doublings of the last path's patience
EXPONENT_MAX = 24  # doublings of the time between probes
NO_JITTER = 64


class State(IntEnum):
    HEALTHY = 0
    SUSPECT = 1  # no new slices; those in flight may finish
    QUARANTINED = 2  # torn down, fenced; waits for its next probe
    PROBING = 3  # a fresh connection attempt, then one canary
    TERMINATED = 4


class Action(IntEnum):
    NONE = 0
    PAUSE = 1  # no new slices
    RESUME = 2  # slices again, slices_max at a time
    CLOSE = 3  # tear it down: unfinished slices come back, the fence begins
    PROBE = 4  # connect anew; once connected: send the canary
    TERMINATE = 5


@dataclass(frozen=True)
class Parameters:
    """The plan's parameters that the machine reads, in ns and counts."""

    deadline_floor: int = 2_000_000
    deadline_deviations: int = 4
    deadline_initial: int = 250_000_000
    deadline_samples: int = 8
    probe_first: int = 10_000_000
    probe_max: int = 250_000_000
    probe_idle: int = 5_000_000_000
    flap_half_life: int = 10_000_000_000
    last_path_patience: int = 300_000_000


@dataclass(frozen=True)
class View:
    """What only the core knows when it looks."""

    others: bool  # another endpoint to the peer is open, and not late (or late, but its bytes move)
    peer_alive: bool  # any sign of life of the peer, on any path, since `silent_ns`


@dataclass(frozen=True)
class Health:
    state: State = State.HEALTHY
    slow: bool = False  # suspect for its rate: no success clears it
    proven: bool = False  # was connected once: from then on a new connection needs a canary
    encouraged: bool = False  # the next probe does not wait
    slices_max: int = U32_MAX  # slow start: most slices in flight
    samples: int = 0
    deviation_ns: int = 0
    silent_ns: int = 0  # since when it is suspect, or late as the last path; 0: neither
    until_ns: int = 0  # suspect: decided then
    flaps_q8: int = 0  # remembered failures, decaying
    decayed_ns: int = 0
    broken_ns: int = 0  # last failure
    attempts: int = 0  # failed probes since it was last healthy or encouraged
    jitter: int = NO_JITTER  # of the next probe
    rebuilds: int = 0  # as the last path, since the last success

    # ---- deadlines of slices ----

    def sample(self, predicted_ns: int, actual_ns: int) -> Health:
        """A slice has completed: the mean deviation, with weight 1/4 (RFC 6298)."""
        off_ns = min(abs(actual_ns - predicted_ns), DEVIATION_NS_MAX)
        mean_ns = self.deviation_ns - self.deviation_ns // 4 + off_ns // 4
        deviation_ns = mean_ns if self.samples else off_ns // 2
        return replace(self, samples=min(self.samples + 1, U32_MAX), deviation_ns=deviation_ns)

    def margin_ns(self, p: Parameters) -> int:
        """What jitter may take beyond a prediction."""
        return max(p.deadline_floor, self.deviation_ns * p.deadline_deviations)

    def allowance_ns(self, predicted_ns: int, retries: int, p: Parameters) -> int:
        """From its post until a slice is late."""
        ns = min(predicted_ns, TIME_NS_MAX) + self.deviation_ns * p.deadline_deviations
        ns = max(ns, p.deadline_floor)
        if self.samples < p.deadline_samples:
            ns = max(ns, p.deadline_initial)
        doublings = min(retries, DOUBLINGS_MAX)
        return min(ns, TIME_NS_MAX >> doublings) << doublings

    # ---- while it carries slices ----

    def on_success(self) -> tuple[Action, Health]:
        """A slice has completed."""
        heard = replace(self, silent_ns=0, rebuilds=0)
        if self.state == State.SUSPECT:
            return (Action.NONE, heard) if self.slow else heard.resume()
        doubled = self.slices_max * 2
        return Action.NONE, replace(
            heard, slices_max=doubled if doubled < SLOW_START_END else U32_MAX
        )

    def on_progress(self) -> tuple[Action, Health]:
        """Its oldest slice is late, but bytes have moved: slow, not silent."""
        heard = replace(self, silent_ns=0)
        if self.state == State.SUSPECT and not self.slow:
            return heard.resume()
        return Action.NONE, heard

    def on_late(self, now_ns: int, view: View, p: Parameters) -> tuple[Action, Health]:
        """Its oldest slice is late and nothing moves; told at every look."""
        since_ns = self.silent_ns or max(now_ns, 1)
        if self.state == State.SUSPECT:
            if not view.others:  # all expired together: one path stays open
                return self.resume()
            if not view.peer_alive or self.silent_ns == 0:
                # It may be the peer: the margin begins with its first sign of life.
                until_ns = now_ns + self.margin_ns(p)
                return Action.NONE, replace(self, silent_ns=since_ns, until_ns=until_ns)
            return Action.NONE if now_ns < self.until_ns else Action.CLOSE, self
        if self.state != State.HEALTHY:
            return Action.NONE, self
        if view.others:
            return self.suspect(now_ns, p)
        patience_ns = p.last_path_patience << min(self.rebuilds, REBUILDS_MAX)
        if self.silent_ns and view.peer_alive and now_ns - self.silent_ns >= patience_ns:
            return Action.CLOSE, replace(self, rebuilds=self.rebuilds + 1)
        return Action.NONE, replace(self, silent_ns=since_ns)

    def on_error(self, now_ns: int, view: View, p: Parameters) -> tuple[Action, Health]:
        """The receiver refused a slice. One is a reason to look, two are one to close."""
        if self.state not in (State.HEALTHY, State.SUSPECT):
            return Action.NONE, self
        suspected = self.state == State.SUSPECT
        heard = replace(self, silent_ns=0).decay(now_ns, p)
        if view.others and (suspected or heard.flaps_q8 >= FLAP_Q8 // 2):
            return Action.CLOSE, heard  # counted by on_broken
        counted = heard.count(now_ns, p)
        if view.others:
            return counted.suspect(now_ns, p)
        return counted.resume() if suspected else (Action.NONE, counted)

    def on_slow(self, now_ns: int, view: View, p: Parameters) -> tuple[Action, Health]:
        """Far below its siblings' rate: to be drained, then closed."""
        if self.state != State.HEALTHY or not view.others:
            return Action.NONE, self
        return replace(self, slow=True).suspect(now_ns, p)

    def on_alone(self) -> tuple[Action, Health]:
        """No other endpoint to the peer is open any more (told while suspect)."""
        return self.resume() if self.state == State.SUSPECT else (Action.NONE, self)

    def on_drained(self, now_ns: int, _p: Parameters) -> tuple[Action, Health]:
        """Nothing of it is in flight (told while suspect)."""
        if self.state != State.SUSPECT:
            return Action.NONE, self
        if self.slow:
            return Action.CLOSE, self
        return (Action.NONE, self) if now_ns < self.until_ns else self.resume()

    # ---- broken, and back ----

    def on_broken(
        self, now_ns: int, counts: bool, random: int, p: Parameters
    ) -> tuple[Action, Health]:
        """Connection lost, link down, probe failed, closed. counts: a fault of the path; without,
        it was closed on purpose and may come back at once."""
        if self.state == State.TERMINATED:
            return Action.NONE, self
        health, encouraged = self, not counts
        if self.state == State.QUARANTINED and not counts:
            return Action.CLOSE, self
        if self.state == State.PROBING:
            encouraged |= self.encouraged  # news since the probe began
            health = replace(self, attempts=min(self.attempts + counts, EXPONENT_MAX))
        elif self.state != State.QUARANTINED and counts:
            health = self.count(now_ns, p)
        return Action.CLOSE, replace(
            health,
            state=State.QUARANTINED,
            encouraged=encouraged,
            slow=False,
            silent_ns=0,
            broken_ns=now_ns,
            jitter=random % 128,
        )

    def probe_due_ns(self, waiting: bool, p: Parameters) -> int:
        """The first after probe_first; each failed one and each remembered flap doubles it."""
        if self.encouraged:
            return self.broken_ns
        times = self.attempts + (self.flaps_q8 + FLAP_Q8 // 2) // FLAP_Q8
        most_ns = p.probe_max if waiting else p.probe_idle
        ns = min(p.probe_first << min(max(times - 1, 0), EXPONENT_MAX), most_ns)
        return self.broken_ns + ns * (192 + self.jitter) // 256  # 0.75 .. 1.25

    def on_idle(self, now_ns: int, waiting: bool, p: Parameters) -> tuple[Action, Health]:
        """Quarantined and fenced. waiting: work waits for the peer."""
        if self.state != State.QUARANTINED:
            return Action.NONE, self
        health = self.decay(now_ns, p)
        if now_ns < health.probe_due_ns(waiting, p):
            return Action.NONE, health
        return Action.PROBE, replace(health, state=State.PROBING, encouraged=False)

    def on_connected(self) -> tuple[Action, Health]:
        """A first set-up needs no canary."""
        if self.state == State.TERMINATED:
            return Action.NONE, self
        if self.proven:
            return Action.PROBE, replace(self, state=State.PROBING)
        _, health = replace(self, proven=True, attempts=0).resume()
        return Action.RESUME, replace(health, slices_max=U32_MAX)

    def on_canary(self) -> tuple[Action, Health]:
        """It has come back. What is remembered of flaps stays."""
        if self.state != State.PROBING:
            return Action.NONE, self
        return replace(self, attempts=0).resume()

    def on_encouraged(self) -> tuple[Action, Health]:
        """Its link came up, or its peer came back."""
        return Action.NONE, replace(self, encouraged=True, attempts=0)

    def on_gone(self) -> tuple[Action, Health]:
        return Action.TERMINATE, replace(self, state=State.TERMINATED)

    # ---- parts of the above ----

    def resume(self) -> tuple[Action, Health]:
        return Action.RESUME, replace(
            self, state=State.HEALTHY, slices_max=1, slow=False, silent_ns=0
        )

    def suspect(self, now_ns: int, p: Parameters) -> tuple[Action, Health]:
        until_ns = now_ns + self.margin_ns(p)
        return Action.PAUSE, replace(
            self, state=State.SUSPECT, silent_ns=max(now_ns, 1), until_ns=until_ns
        )

    def count(self, now_ns: int, p: Parameters) -> Health:
        """One failure more to remember."""
        health = self.decay(now_ns, p)
        decayed_ns = health.decayed_ns if health.flaps_q8 else now_ns
        flaps_q8 = min(health.flaps_q8 + FLAP_Q8, FLAPS_Q8_MAX)
        return replace(health, flaps_q8=flaps_q8, decayed_ns=decayed_ns)

    def decay(self, now_ns: int, p: Parameters) -> Health:
        """Failures are forgotten by halves, an eighth of a half-life at a time."""
        step_ns = p.flap_half_life // 8
        if step_ns == 0 or self.flaps_q8 == 0 or now_ns < self.decayed_ns + step_ns:
            return self
        steps = (now_ns - self.decayed_ns) // step_ns
        flaps_q8 = self.flaps_q8
        for _ in range(min(steps, DECAY_STEPS_MAX)):
            flaps_q8 -= -(-flaps_q8 * DECAY_Q16 // 65536)  # rounded up, so that it ends
        return replace(self, flaps_q8=flaps_q8, decayed_ns=self.decayed_ns + steps * step_ns)
