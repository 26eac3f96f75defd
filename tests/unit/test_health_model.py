"""The native health machine and its executable specification act alike, number for number.

`TENT_TEST_EXAMPLES` multiplies the examples for a longer hunt (make test takes 1).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, note
from support import NativeBuild
from tests_health import HOUR, Life, ModelSide, NativeSide, Probe, Seen, Step, live, lives
from tests_scheduler import MS, SECOND
from tests_support import examples

from tent.resilience import health
from tent.resilience.health import (
    FLAP_Q8,
    NO_JITTER,
    U32_MAX,
    Action,
    Health,
    Parameters,
    State,
    View,
)

# The first one may pay for the native build.
pytestmark = pytest.mark.timeout(900)

LIVES = 300


@pytest.fixture(scope="module")
def probe(native_build: NativeBuild) -> Probe:
    return Probe.load(native_build)


CONNECTED = Step("connected")
BROKEN = Step("broken", MS)
FAILED_PROBE = (Step("idle", 2 * HOUR), Step("broken", MS))
HEALED = (Step("idle", HOUR), CONNECTED, Step("canary", MS))
SILENT = (Step("late", MS, others=True), *[Step("late", MS, others=True, alive=True)] * 4)

# What chance leads to too rarely.
STORIES = (
    # Probes fail until no wait grows any more, with the longest first wait there is.
    Life(
        Parameters(probe_first=60 * SECOND, probe_max=600 * SECOND, probe_idle=HOUR),
        (CONNECTED, BROKEN, *FAILED_PROBE * 40, *HEALED),
    ),
    Life(
        Parameters(probe_first=MS, probe_max=600 * SECOND, probe_idle=HOUR),
        (CONNECTED, BROKEN, *FAILED_PROBE * 40, *HEALED),
    ),
    # Fails as often as is remembered and more, then is forgotten.
    Life(
        Parameters(),
        (CONNECTED, *(BROKEN, Step("idle", 9 * SECOND), CONNECTED, Step("canary")) * 30)
        + (Step("error", others=False, after=SECOND),) * 90
        + (Step("error", others=False, after=100 * SECOND),) * 9,
    ),
    # The last path is made anew with ever more patience.
    Life(
        Parameters(last_path_patience=MS),
        (CONNECTED, *[*[Step("late", MS, alive=True)] * 200, Step("success")] * 2),
    ),
    # The peer was away; then it answers on another path first.
    Life(Parameters(), (CONNECTED, *[Step("late", MS, others=True)] * 9, *SILENT)),
    # Slow, then silent as well; drained before its time.
    Life(
        Parameters(),
        (
            *(CONNECTED, Step("slow", MS, others=True), Step("success", MS), *SILENT),
            *(BROKEN, *HEALED, Step("slow", MS, others=True), Step("drained", MS)),
        ),
    ),
    # The first set-ups fail; what fails after one that did not is a first failure again.
    Life(
        Parameters(),
        (BROKEN, *FAILED_PROBE * 3, Step("idle", 2 * HOUR), CONNECTED, BROKEN)
        + (Step("idle", 5 * MS),) * 20,
    ),
    # Slow and moving is slow all the same.
    Life(
        Parameters(),
        (CONNECTED, Step("slow", MS, others=True), Step("progress", MS), Step("drained", MS)),
    ),
    # What is gone stays gone.
    Life(Parameters(), (CONNECTED, Step("gone", MS), BROKEN, *HEALED)),
    # Jitter that is wilder than any deadline, and the slow start after it.
    Life(
        Parameters(deadline_deviations=1000),
        (CONNECTED, *[Step("sample", actual_ns=(1 << 64) - 1)] * 70, *SILENT, BROKEN, *HEALED)
        + (Step("success", MS),) * 9,
    ),
)


def agree(probe: Probe, life: Life) -> None:
    sides = NativeSide(probe, life.parameters), ModelSide(life.parameters)
    for number, (native, modelled) in enumerate(
        zip(live(sides[0], life), live(sides[1], life), strict=True)
    ):
        if native != modelled:
            note(f"step {number}: {life.steps[number]}")
        assert native == modelled


def test_the_model_has_the_plans_names_and_defaults(probe: Probe) -> None:
    table = {name: row[0] for name, row in probe.table.items()}
    model = vars(Parameters())
    assert model == {name: table.get(name) for name in model}


def test_native_and_model_act_alike(probe: Probe) -> None:
    @examples(LIVES)
    @given(lives())
    def check(life: Life) -> None:
        agree(probe, life)

    check()


@pytest.mark.parametrize("number", range(len(STORIES)))
def test_native_and_model_act_alike_in_rare_lives(number: int, probe: Probe) -> None:
    agree(probe, STORIES[number])


# ---- the test's own test ------------------------------------------------------------------------


@dataclass(frozen=True)
class Recording:
    life: Life
    native: list[Seen]

    def differs(self, **changes: int) -> bool:
        """Whether a model that is changed somehow, or given other parameters, shows it."""
        side = ModelSide(replace(self.life.parameters, **changes))
        return any(
            native != modelled
            for native, modelled in zip(self.native, live(side, self.life), strict=True)
        )


@pytest.fixture(scope="module")
def recordings(probe: Probe) -> list[Recording]:
    """What the native side did in the lives of the tests above."""
    kept: list[Recording] = []

    def record(life: Life) -> None:
        kept.append(Recording(life, list(live(NativeSide(probe, life.parameters), life))))

    @examples(LIVES)
    @given(lives())
    def keep(life: Life) -> None:
        record(life)

    keep()
    for story in STORIES:
        record(story)
    assert not any(recording.differs() for recording in kept)
    return kept


Method = Callable[..., Any]


def before(name: str, **fields: Any) -> tuple[object, str, Method]:
    """The event finds other values."""
    original: Method = getattr(Health, name)
    return Health, name, lambda self, *rest: original(replace(self, **fields), *rest)


def after(name: str, **fields: Any) -> tuple[object, str, Method]:
    """The event leaves other values behind."""
    original: Method = getattr(Health, name)

    def put(self: Health, *rest: Any) -> tuple[Action, Health]:
        action, health = original(self, *rest)
        return action, replace(health, **fields)

    return Health, name, put


def kept(name: str, *fields: str) -> tuple[object, str, Method]:
    """The event leaves these as they were."""
    original: Method = getattr(Health, name)

    def put(self: Health, *rest: Any) -> tuple[Action, Health]:
        action, health = original(self, *rest)
        return action, replace(health, **{field: getattr(self, field) for field in fields})

    return Health, name, put


def seeing(name: str, **sight: bool) -> tuple[object, str, Method]:
    """The event is told with another view."""
    original: Method = getattr(Health, name)

    def put(self: Health, now_ns: int, view: View, p: Parameters) -> tuple[Action, Health]:
        return original(self, now_ns, replace(view, **sight), p)

    return Health, name, put


def ignored(name: str) -> tuple[object, str, Method]:
    return Health, name, lambda self, *_: (Action.NONE, self)


on_error, on_late, on_broken, sample = (
    Health.on_error,
    Health.on_late,
    Health.on_broken,
    Health.sample,
)


def error_counted_at_closing(
    self: Health, now_ns: int, view: View, p: Parameters
) -> tuple[Action, Health]:
    action, health = on_error(self, now_ns, view, p)
    return action, health.count(now_ns, p) if action == Action.CLOSE else health


def margin_from_the_suspicion(
    self: Health, now_ns: int, view: View, p: Parameters
) -> tuple[Action, Health]:
    action, health = on_late(self, now_ns, view, p)
    return action, replace(health, until_ns=self.until_ns) if self.silent_ns else health


def broken_twice(
    self: Health, now_ns: int, counts: bool, random: int, p: Parameters
) -> tuple[Action, Health]:
    again = self.state == State.QUARANTINED and counts
    return on_broken(self.count(now_ns, p) if again else self, now_ns, counts, random, p)


def news_lost(
    self: Health, now_ns: int, counts: bool, random: int, p: Parameters
) -> tuple[Action, Health]:
    probing = self.state == State.PROBING
    health = replace(self, encouraged=False) if probing else self
    return on_broken(health, now_ns, counts, random, p)


def undecayed(self: Health, _now_ns: int, _p: Parameters) -> Health:
    return self


def first_deviation_whole(self: Health, predicted_ns: int, actual_ns: int) -> Health:
    health = sample(self, predicted_ns, actual_ns)
    return health if self.samples else replace(health, deviation_ns=health.deviation_ns * 2)


def late_only(self: Health, predicted_ns: int, actual_ns: int) -> Health:
    return sample(self, predicted_ns, max(predicted_ns, actual_ns))


def margin_without_floor(self: Health, p: Parameters) -> int:
    return self.deviation_ns * p.deadline_deviations


# What is put in place of what.
CHANGED_CODE: dict[str, tuple[object, str, object]] = {
    "a success clears slowness": before("on_success", slow=False),
    "a success forgets no rebuilds": kept("on_success", "rebuilds"),
    "a success forgets flaps": after("on_success", flaps_q8=0),
    "a success does not start faster": kept("on_success", "slices_max"),
    "a success proves nothing": ignored("on_success"),
    "moving bytes are not looked at": ignored("on_progress"),
    "moving bytes clear slowness": before("on_progress", slow=False),
    "all late, all paused": seeing("on_late", others=True),
    "never late": ignored("on_late"),
    "closed without a sign of life": seeing("on_late", peer_alive=True),
    "never closed for lateness": seeing("on_late", peer_alive=False),
    "the margin begins with the suspicion": (Health, "on_late", margin_from_the_suspicion),
    "an error pauses the last path": seeing("on_error", others=True),
    "an error closes nothing": before("on_error", flaps_q8=0),
    "an error is counted twice": (Health, "on_error", error_counted_at_closing),
    "a slow last path is paused": seeing("on_slow", others=True),
    "what is alone stays suspect": ignored("on_alone"),
    "what was slow comes back once drained": before("on_drained", slow=False),
    "what is drained stays suspect": ignored("on_drained"),
    "one breakage counts twice": (Health, "on_broken", broken_twice),
    "news during a probe are lost": (Health, "on_broken", news_lost),
    "jitter ignored": after("on_broken", jitter=NO_JITTER),
    "failed probes not counted": kept("on_broken", "attempts"),
    "a canary forgets flaps": after("on_canary", flaps_q8=0),
    "a canary forgets no failed probes": kept("on_canary", "attempts"),
    "no slow start": after("resume", slices_max=U32_MAX),
    "no canary": before("on_connected", proven=False),
    "a first set-up forgets no failed ones": kept("on_connected", "attempts"),
    "encouragement ignored": ignored("on_encouraged"),
    "encouragement is for ever": kept("on_idle", "encouraged"),
    "the end is none": ignored("on_gone"),
    "flaps for ever": (Health, "decay", undecayed),
    "first deviation whole": (Health, "sample", first_deviation_whole),
    "only lateness is deviation": (Health, "sample", late_only),
    "no floor of the margin": (Health, "margin_ns", margin_without_floor),
    "deviations beyond every bound": (health, "DEVIATION_NS_MAX", 1 << 52),
    "retries double without bound": (health, "DOUBLINGS_MAX", 20),
    "slow start ends early": (health, "SLOW_START_END", 32),
    "fewer flaps remembered": (health, "FLAPS_Q8_MAX", 15 * FLAP_Q8),
    "decay a little faster": (health, "DECAY_Q16", 5439),
    "patience doubles once less": (health, "REBUILDS_MAX", 4),
    "waits double once less": (health, "EXPONENT_MAX", 23),
}
CHANGED_PARAMETERS: dict[str, dict[str, int]] = {
    "floor a little higher": {"deadline_floor": 2 * MS + 1},
    "a deviation more": {"deadline_deviations": 5},
    "less generous at first": {"deadline_initial": 249 * MS},
    "generous once less": {"deadline_samples": 7},
    "first probe later": {"probe_first": 11 * MS},
    "probes farther apart": {"probe_max": 251 * MS},
    "probes closer when idle": {"probe_idle": 4 * SECOND},
    "flaps forgotten sooner": {"flap_half_life": 9 * SECOND},
    "less patience": {"last_path_patience": 299 * MS},
}


@pytest.mark.parametrize("name", CHANGED_CODE)
def test_a_changed_model_is_found(
    name: str, recordings: list[Recording], monkeypatch: pytest.MonkeyPatch
) -> None:
    owner, attribute, put = CHANGED_CODE[name]
    monkeypatch.setattr(owner, attribute, put)
    assert any(recording.differs() for recording in recordings)


@pytest.mark.parametrize("name", CHANGED_PARAMETERS)
def test_a_model_with_another_parameter_is_found(name: str, recordings: list[Recording]) -> None:
    changes = CHANGED_PARAMETERS[name]
    assert any(recording.differs(**changes) for recording in recordings)


def test_every_parameter_has_a_changed_model() -> None:
    changed = [name for changes in CHANGED_PARAMETERS.values() for name in changes]
    assert sorted(changed) == sorted(vars(Parameters()))
