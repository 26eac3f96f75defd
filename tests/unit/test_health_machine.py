"""What docs/faults.md promises of one endpoint's health, claim by claim, of machine and model."""

from __future__ import annotations

import pytest
from support import NativeBuild
from tests_health import ModelSide, NativeSide, Probe, Side, Step
from tests_scheduler import MS, SECOND, US

from tent.resilience.health import FLAP_Q8, U32_MAX, Action, Parameters, State

# The first one may pay for the native build.
pytestmark = pytest.mark.timeout(900)

P = Parameters()


class Endpoint:
    """One side's machine, connected a second ago, with a clock of its own."""

    def __init__(self, side: Side) -> None:
        self.side, self.now_ns = side, SECOND
        assert self.tell("connected") == Action.RESUME

    def tell(
        self,
        kind: str,
        after: int = 0,
        *,
        others: bool = False,
        alive: bool = False,
        counts: bool = True,
        waiting: bool = True,
        random: int = 64,
    ) -> Action:
        self.now_ns += after
        step = Step(kind, 0, others, alive, counts, waiting, random)
        return self.side.tell(step, self.now_ns)

    def sample(self, predicted_ns: int, actual_ns: int, times: int = 1) -> None:
        step = Step("sample", predicted_ns=predicted_ns, actual_ns=actual_ns)
        for _ in range(times):
            self.side.tell(step, self.now_ns)

    def allowance_ns(self, predicted_ns: int) -> list[int]:
        """Of first attempts, first and third retries."""
        return list(self.side.look(predicted_ns)[10:13])

    @property
    def state(self) -> State:
        state = self.side.look(0)[0]
        assert isinstance(state, State)
        return state

    @property
    def slices_max(self) -> int:
        return int(self.side.look(0)[2])

    @property
    def flaps_q8(self) -> int:
        return int(self.side.look(0)[6])

    def probe_after_ns(self, *, waiting: bool = True) -> int:
        """From now until its next probe."""
        return int(self.side.look(0)[8 if waiting else 9]) - self.now_ns

    def heal(self) -> None:
        self.now_ns += max(0, self.probe_after_ns())
        steps = [self.tell("idle"), self.tell("connected"), self.tell("canary")]
        assert steps == [Action.PROBE, Action.PROBE, Action.RESUME]


@pytest.fixture(scope="module")
def probe(native_build: NativeBuild) -> Probe:
    return Probe.load(native_build)


@pytest.fixture(params=["native", "model"])
def endpoint(request: pytest.FixtureRequest, probe: Probe) -> Endpoint:
    return Endpoint(ModelSide(P) if request.param == "model" else NativeSide(probe, P))


# ---- lateness -----------------------------------------------------------------------------------


def test_a_silent_path_beside_another_is_paused_at_once_and_closed_a_margin_later(
    endpoint: Endpoint,
) -> None:
    assert endpoint.tell("late", others=True) == Action.PAUSE
    assert endpoint.tell("late", 2 * MS - 1, others=True, alive=True) == Action.NONE
    assert endpoint.tell("late", 1, others=True, alive=True) == Action.CLOSE
    assert endpoint.tell("broken") == Action.CLOSE
    assert endpoint.state == State.QUARANTINED


def test_the_last_path_is_never_paused(endpoint: Endpoint) -> None:
    for _ in range(1000):
        assert endpoint.tell("late", MS) == Action.NONE
        assert endpoint.tell("error") == Action.NONE
        assert endpoint.tell("slow") == Action.NONE
    assert endpoint.state == State.HEALTHY


def test_of_paths_that_are_late_together_one_stays_open(endpoint: Endpoint) -> None:
    assert endpoint.tell("late", others=True) == Action.PAUSE
    assert endpoint.tell("late", MS, others=False) == Action.RESUME
    assert endpoint.state == State.HEALTHY


@pytest.mark.parametrize("why", ["late", "error", "slow"])
def test_a_suspect_that_is_left_alone_carries_slices_again(endpoint: Endpoint, why: str) -> None:
    assert endpoint.tell(why, others=True) == Action.PAUSE
    assert endpoint.tell("alone") == Action.RESUME
    assert endpoint.state == State.HEALTHY and endpoint.slices_max == 1


def test_nothing_is_closed_for_silence_while_the_peer_gives_no_sign_of_life(
    endpoint: Endpoint,
) -> None:
    assert endpoint.tell("late", others=True) == Action.PAUSE
    for _ in range(10_000):
        assert endpoint.tell("late", MS, others=True) == Action.NONE
    # It answers, at first elsewhere: this path gets its margin before it is judged.
    assert endpoint.tell("late", MS, others=True, alive=True) == Action.NONE
    assert endpoint.tell("late", MS, others=True, alive=True) == Action.CLOSE


@pytest.mark.parametrize("sign", ["success", "progress"])
def test_a_suspect_that_moves_carries_slices_again(endpoint: Endpoint, sign: str) -> None:
    endpoint.tell("late", others=True)
    assert endpoint.tell(sign, MS) == Action.RESUME
    assert endpoint.flaps_q8 == 0


def test_the_last_path_to_a_living_peer_is_made_anew_with_growing_patience(
    endpoint: Endpoint,
) -> None:
    waits = []
    for _ in range(8):
        endpoint.tell("late")
        begin_ns = endpoint.now_ns
        while endpoint.tell("late", MS, alive=True) == Action.NONE:
            pass
        waits.append((endpoint.now_ns - begin_ns) // MS)
        endpoint.tell("broken")
        endpoint.heal()
    assert waits == [300, 600, 1200, 2400, 4800, 9600, 9600, 9600]


def test_the_last_path_is_not_made_anew_while_the_peer_is_silent_too(endpoint: Endpoint) -> None:
    for _ in range(1000):
        assert endpoint.tell("late", SECOND) == Action.NONE


def test_patience_with_the_last_path_begins_anew_when_it_has_carried_something(
    endpoint: Endpoint,
) -> None:
    for sign in ("success", "progress", "error"):
        assert endpoint.tell("late", 299 * MS) == Action.NONE
        endpoint.tell(sign)
        assert endpoint.tell("late", 299 * MS) == Action.NONE
        assert endpoint.tell("late", 299 * MS, alive=True) == Action.NONE
        endpoint.tell("success")


# ---- errors and slowness ------------------------------------------------------------------------


def test_one_refused_slice_pauses_and_a_second_one_closes(endpoint: Endpoint) -> None:
    assert endpoint.tell("error", others=True) == Action.PAUSE
    assert endpoint.tell("drained", MS) == Action.NONE
    assert endpoint.tell("drained", MS) == Action.RESUME
    assert endpoint.tell("error", SECOND, others=True) == Action.CLOSE
    endpoint.tell("broken")
    # Two events, not three.
    assert FLAP_Q8 < endpoint.flaps_q8 <= 2 * FLAP_Q8


def test_errors_far_apart_close_nothing(endpoint: Endpoint) -> None:
    for _ in range(5):
        assert endpoint.tell("error", 30 * SECOND, others=True) == Action.PAUSE
        assert endpoint.tell("success", MS) == Action.RESUME


def test_a_slow_path_is_drained_and_closed_whatever_still_completes(endpoint: Endpoint) -> None:
    assert endpoint.tell("slow", others=True) == Action.PAUSE
    assert endpoint.tell("success", MS) == Action.NONE
    assert endpoint.tell("progress", MS) == Action.NONE
    assert endpoint.tell("drained", MS) == Action.CLOSE


def test_a_slow_path_that_falls_silent_is_closed(endpoint: Endpoint) -> None:
    endpoint.tell("slow", others=True)
    endpoint.tell("success", MS)  # and nothing since
    actions = [endpoint.tell("late", MS, others=True, alive=True) for _ in range(4)]
    assert actions == [Action.NONE, Action.NONE, Action.CLOSE, Action.CLOSE]


# ---- probes -------------------------------------------------------------------------------------


def test_probes_come_after_10_ms_doubling_to_250_while_work_waits(endpoint: Endpoint) -> None:
    endpoint.tell("broken")
    waits = []
    for _ in range(8):
        waits.append(endpoint.probe_after_ns() // MS)
        assert endpoint.tell("idle", endpoint.probe_after_ns() - 1) == Action.NONE
        assert endpoint.tell("idle", 1) == Action.PROBE
        assert endpoint.tell("broken", 250 * MS) == Action.CLOSE
    assert waits == [10, 20, 40, 80, 160, 250, 250, 250]


def test_probes_double_to_five_seconds_while_no_work_waits(endpoint: Endpoint) -> None:
    endpoint.tell("broken")
    waits = []
    for _ in range(12):
        wait_ns = endpoint.probe_after_ns(waiting=False)
        waits.append(wait_ns // MS)
        assert endpoint.tell("idle", wait_ns, waiting=False) == Action.PROBE
        endpoint.tell("broken")
    assert waits == [10, 20, 40, 80, 160, 320, 640, 1280, 2560, 5000, 5000, 5000]
    assert endpoint.probe_after_ns() == 250 * MS  # work comes


@pytest.mark.parametrize(("random", "quarters"), [(0, 3.0), (64, 4.0), (127, 4.98), (1 << 63, 3.0)])
def test_waits_jitter_by_a_quarter_either_way(
    endpoint: Endpoint, random: int, quarters: float
) -> None:
    endpoint.tell("broken", random=random)
    assert endpoint.probe_after_ns() / (10 * MS / 4) == pytest.approx(quarters, abs=0.01)


def test_what_is_encouraged_or_was_closed_on_purpose_is_probed_at_once(endpoint: Endpoint) -> None:
    endpoint.tell("broken", counts=False)
    assert endpoint.tell("idle") == Action.PROBE
    endpoint.tell("broken")
    assert endpoint.tell("idle") == Action.NONE
    endpoint.tell("encouraged")
    assert endpoint.tell("idle") == Action.PROBE
    endpoint.tell("broken")
    assert endpoint.tell("idle") == Action.NONE, "one encouragement is one probe"


def test_news_that_come_during_a_probe_are_not_lost_with_it(endpoint: Endpoint) -> None:
    endpoint.tell("broken")
    endpoint.tell("idle", SECOND)
    endpoint.tell("encouraged")
    endpoint.tell("broken", MS)
    assert endpoint.tell("idle") == Action.PROBE


def test_a_connection_alone_does_not_bring_an_endpoint_back(endpoint: Endpoint) -> None:
    endpoint.tell("broken")
    assert endpoint.tell("idle", SECOND) == Action.PROBE
    assert endpoint.tell("connected") == Action.PROBE
    assert endpoint.state == State.PROBING
    assert endpoint.tell("canary") == Action.RESUME


def test_news_of_one_breakage_count_once(endpoint: Endpoint) -> None:
    for _ in range(5):
        endpoint.tell("broken", MS)
    assert endpoint.flaps_q8 == FLAP_Q8 and endpoint.probe_after_ns() == 10 * MS


def test_what_is_gone_stays_gone(endpoint: Endpoint) -> None:
    assert endpoint.tell("gone") == Action.TERMINATE
    for kind in ("broken", "idle", "connected", "canary", "success", "late", "encouraged"):
        assert endpoint.tell(kind, SECOND) == Action.NONE
    assert endpoint.state == State.TERMINATED


# ---- flap memory and slow start -----------------------------------------------------------------


def test_flaps_make_waits_longer_and_no_success_forgets_them(endpoint: Endpoint) -> None:
    waits = []
    for _ in range(6):
        endpoint.tell("broken", MS)
        waits.append(endpoint.probe_after_ns() // MS)
        endpoint.heal()
        for _ in range(100):
            endpoint.tell("success")
    assert waits == [10, 20, 40, 80, 160, 250]


def test_flaps_are_forgotten_by_halves(endpoint: Endpoint) -> None:
    for _ in range(4):
        endpoint.tell("broken")
        endpoint.heal()
    counted = []
    for _ in range(6):
        endpoint.tell("broken", 10 * SECOND)
        counted.append(endpoint.flaps_q8 / FLAP_Q8)
        endpoint.heal()
    # Each half-life leaves half of what was, and one more comes: 4 -> 3 -> 2.5 -> ... -> 2.
    assert counted == pytest.approx([3, 2.5, 2.25, 2.125, 2.06, 2.03], abs=0.1)
    endpoint.tell("broken", 200 * SECOND)
    assert endpoint.flaps_q8 == FLAP_Q8


def test_what_comes_back_starts_slowly(endpoint: Endpoint) -> None:
    assert endpoint.slices_max == U32_MAX, "a first set-up need not"
    endpoint.tell("broken")
    endpoint.heal()
    seen = [endpoint.slices_max]
    for _ in range(7):
        endpoint.tell("success")
        seen.append(endpoint.slices_max)
    assert seen == [1, 2, 4, 8, 16, 32, U32_MAX, U32_MAX]


# ---- deadlines of slices ------------------------------------------------------------------------


def test_a_slice_may_take_its_prediction_and_four_deviations(endpoint: Endpoint) -> None:
    endpoint.sample(10 * MS, 11 * MS, times=100)
    deviation_ns = MS - 4  # what rounding leaves
    allowance_ns = 10 * MS + 4 * deviation_ns
    allowed = endpoint.allowance_ns(10 * MS)
    assert allowed[0] == pytest.approx(allowance_ns, abs=20)
    assert allowed[1:] == [2 * allowed[0], 8 * allowed[0]], "doubled with each retry"


def test_no_slice_is_late_before_the_floor(endpoint: Endpoint) -> None:
    endpoint.sample(20 * US, 20 * US, times=100)
    assert endpoint.allowance_ns(20 * US)[0] == 2 * MS


def test_deadlines_are_generous_until_enough_was_measured(endpoint: Endpoint) -> None:
    assert endpoint.allowance_ns(MS)[0] == 250 * MS
    endpoint.sample(MS, MS, times=7)
    assert endpoint.allowance_ns(MS)[0] == 250 * MS
    endpoint.sample(MS, MS)
    assert endpoint.allowance_ns(MS)[0] == 2 * MS


def test_a_deadline_never_overflows(endpoint: Endpoint) -> None:
    endpoint.sample(0, (1 << 64) - 1, times=100)
    assert all(MS < ns <= 1 << 60 for ns in endpoint.allowance_ns((1 << 64) - 1))
