"""The yardstick itself: T*, the slice bound and capacities against closed forms and brute force."""

from __future__ import annotations

import itertools
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tent.errors import InvalidArgument
from tent.scheduler.bound import Bandwidth, Cut, Flapping, Fluid, Piecewise, Rail, work

GB = 1_000_000_000
KIB = 1024

# Small numbers, so that a request ends within some thousand nanoseconds and kinks are met.
RATES = st.integers(1, 40).map(lambda gb: gb * GB / 4)
SOME_RATES = st.integers(0, 40).map(lambda gb: gb * GB / 4)


@st.composite
def bandwidths(draw: st.DrawFn) -> Bandwidth:
    """Any schedule that does not stand still for ever."""
    kind = draw(st.sampled_from(["constant", "piecewise", "flapping"]))
    if kind == "constant":
        return draw(RATES)
    if kind == "piecewise":
        times = sorted(draw(st.sets(st.integers(0, 5000), min_size=1, max_size=4)))
        rates = [draw(SOME_RATES) for _ in times[1:]]
        return Piecewise([*zip(times, [*rates, draw(RATES)], strict=True)])
    return Flapping(
        high=draw(RATES),
        low=draw(SOME_RATES),
        period_ns=2 * draw(st.integers(1, 1000)),
        phase_ns=draw(st.integers(0, 3000)),
    )


@st.composite
def rails(draw: st.DrawFn) -> Rail:
    latency_ns = draw(st.integers(0, 3000))
    return Rail(
        draw(bandwidths()),
        latency_ns,
        draw(st.integers(0, 4000)),
        draw(st.integers(0, latency_ns)),
    )


@st.composite
def fluids(draw: st.DrawFn, *, rails_max: int = 4) -> Fluid:
    """Rails with nested or disjoint cuts: each cut is a range within, or apart from, the others."""
    chosen = draw(st.lists(rails(), min_size=1, max_size=rails_max))
    count = len(chosen)
    split = draw(st.integers(0, count))
    sets = [frozenset(range(split)), frozenset(range(split, count)), frozenset(range(count))]
    cuts = [Cut(s, draw(bandwidths())) for s in sets if s and draw(st.booleans())]
    return Fluid(tuple(chosen), tuple(draw(st.permutations(cuts))))


def rate_at(bandwidth: Bandwidth, time_ns: int) -> int:
    """The definition of a schedule, one nanosecond at a time."""
    if isinstance(bandwidth, Flapping):
        at_ns = (time_ns + bandwidth.phase_ns) % bandwidth.period_ns
        return int(bandwidth.high if at_ns < bandwidth.period_ns // 2 else bandwidth.low)
    if isinstance(bandwidth, Piecewise):
        past = [rate for at_ns, rate in bandwidth.points if at_ns <= time_ns]
        return int(past[-1] if past else bandwidth.points[0][1])
    return int(bandwidth)


@given(bandwidths(), st.integers(0, 7000), st.integers(0, 900))
def test_work_is_the_sum_over_every_nanosecond(
    bandwidth: Bandwidth, begin_ns: int, length_ns: int
) -> None:
    end_ns = begin_ns + length_ns
    assert work(bandwidth, begin_ns, end_ns) == sum(
        rate_at(bandwidth, t) for t in range(begin_ns, end_ns)
    )


@given(st.integers(1, 1 << 40), RATES, st.integers(0, 100_000), st.integers(0, 1 << 30))
def test_one_rail_takes_latency_queue_and_bytes_over_rate(
    nbytes: int, rate: float, latency_ns: int, queued: int
) -> None:
    fluid = Fluid((Rail(rate, latency_ns, queued),))
    exact = latency_ns + Fraction((nbytes + queued) * GB, int(rate))
    assert fluid.bound_ns(nbytes) == -(-exact.numerator // exact.denominator)


@given(st.integers(1, 1 << 40), st.integers(1, 16), RATES, st.integers(0, 100_000))
def test_equal_rails_divide_the_bytes(
    nbytes: int, count: int, rate: float, latency_ns: int
) -> None:
    fluid = Fluid((Rail(rate, latency_ns),) * count)
    assert fluid.bound_ns(nbytes) == latency_ns + -(-nbytes * GB // (int(rate) * count))


def test_a_rail_far_away_does_not_help_before_its_latency() -> None:
    near, far = Rail(25e9, 5000), Rail(25e9, 50_000)
    both = Fluid((near, far))
    assert both.bound_ns(1_000_000) == Fluid((near,)).bound_ns(1_000_000) == 45_000
    assert both.bound_ns(2_500_000) == 77_500  # 72.5 us of the one and 27.5 us of the other


def test_a_queue_ahead_delays_its_rail_only() -> None:
    fluid = Fluid((Rail(25e9, 5000), Rail(25e9, 5000))).with_queued({0: 500_000})
    assert fluid.bound_ns(400_000) == 5000 + 16_000
    assert fluid.bound_ns(1_500_000) == 5000 + 40_000


def test_the_times_of_a_flapping_rail_are_those_of_the_submission() -> None:
    fluid = Fluid((Rail(Flapping(high=10e9, low=1e9, period_ns=2000)),))
    assert fluid.bound_ns(10_000, begin_ns=0) == 1000
    assert fluid.bound_ns(10_000, begin_ns=500) == 500 + 1000 + 400
    assert fluid.bound_ns(1000, begin_ns=1000) == 1000


def test_the_lead_moves_the_window_in_which_bytes_leave() -> None:
    rate = Piecewise([(0, 10e9), (1000, 1e9)])
    write, read = Rail(rate, 1000), Rail(rate, 1000, lead_ns=500)
    assert Fluid((write,)).bound_ns(10_000) == 2000
    assert Fluid((read,)).bound_ns(10_000) == 500 + 500 + 5000 + 500


def test_a_cut_limits_its_rails_together() -> None:
    lanes = (Rail(10e9, 1000),) * 4
    assert Fluid(lanes, (Cut(frozenset({0, 1, 2, 3}), 10e9),)).bound_ns(10_000) == 2000
    nested = (Cut(frozenset({2, 3}), 5e9), Cut(frozenset({1, 2, 3}), 10e9))
    assert Fluid(lanes, nested).bound_ns(20_000) == 2000
    assert Fluid(lanes, nested).capacity(500, 1500) == 20_000
    assert Fluid(lanes, (nested[0],)).capacity(0, 1000) == 25_000


def test_crossing_cuts_are_refused() -> None:
    crossing = (Cut(frozenset({0, 1}), 1e9), Cut(frozenset({1, 2}), 1e9))
    with pytest.raises(InvalidArgument, match="cross"):
        Fluid((Rail(1e9),) * 3, crossing)


def test_a_cut_names_rails_that_exist() -> None:
    with pytest.raises(InvalidArgument, match=r"rails \[1\]"):
        Fluid((Rail(1e9),), (Cut(frozenset({1}), 1e9),))


def test_rails_that_stand_still_never_end() -> None:
    with pytest.raises(InvalidArgument, match="never move 2 bytes"):
        Fluid((Rail(Piecewise([(0, 1e9), (1, 0)])),)).bound_ns(2)


@pytest.mark.parametrize(
    "make",
    [
        lambda: Rail(-1.0),
        lambda: Rail(0.5),
        lambda: Rail(1e9, 10, lead_ns=11),
        lambda: Rail(1e9, queued_bytes=-1),
        lambda: Piecewise([]),
        lambda: Piecewise([(5, 1e9), (5, 2e9)]),
        lambda: Flapping(high=1e9, low=-1, period_ns=10),
        lambda: Flapping(high=1e9, low=0, period_ns=3),
        lambda: Cut(frozenset(), 1e9),
    ],
)
def test_senseless_facts_are_refused(make) -> None:
    with pytest.raises(InvalidArgument):
        make()


@given(fluids(), st.integers(1, 30_000), st.integers(0, 5000))
def test_the_bound_is_the_first_time_with_room_for_all(
    fluid: Fluid, nbytes: int, begin_ns: int
) -> None:
    bound_ns = fluid.bound_ns(nbytes, begin_ns=begin_ns)
    assert most_bytes(fluid, begin_ns, bound_ns) >= nbytes
    assert most_bytes(fluid, begin_ns, bound_ns - 1) < nbytes


def most_bytes(fluid: Fluid, begin_ns: int, time_ns: int) -> Fraction:
    """F(T) by duality: the least way to cover every rail by itself or by a cut that holds it."""
    end_ns = begin_ns + time_ns
    rooms = [
        max(0, work(r.bandwidth, begin_ns + r.lead_ns, end_ns - r.tail_ns) - r.queued_bytes * GB)
        for r in fluid.rails
    ]
    least = sum(rooms)
    for count in range(1, len(fluid.cuts) + 1):
        for chosen in itertools.combinations(fluid.cuts, count):
            covered = frozenset().union(*(cut.rails for cut in chosen))
            cover = sum(rooms[r] for r in range(len(rooms)) if r not in covered)
            for cut in chosen:
                lead_ns = min(fluid.rails[r].lead_ns for r in cut.rails)
                tail_ns = min(fluid.rails[r].tail_ns for r in cut.rails)
                cover += work(cut.bandwidth, begin_ns + lead_ns, end_ns - tail_ns)
            least = min(least, cover)
    return Fraction(least, GB)


@given(fluids(), st.integers(1, 30_000), st.integers(0, 5000), st.integers(0, 5000))
def test_more_bytes_take_no_less_time(fluid: Fluid, nbytes: int, more: int, begin_ns: int) -> None:
    bound_ns = fluid.bound_ns(nbytes, begin_ns=begin_ns)
    assert bound_ns <= fluid.bound_ns(nbytes + more, begin_ns=begin_ns)


@given(fluids(), rails(), st.integers(1, 30_000))
def test_another_rail_costs_no_time(fluid: Fluid, rail: Rail, nbytes: int) -> None:
    assert Fluid((*fluid.rails, rail), fluid.cuts).bound_ns(nbytes) <= fluid.bound_ns(nbytes)


@given(st.lists(st.tuples(RATES, SOME_RATES), min_size=1, max_size=5), st.integers(1, 100_000))
def test_faster_rails_take_no_more_time(pairs: list[tuple[float, float]], nbytes: int) -> None:
    slow = Fluid(tuple(Rail(rate, 500) for rate, _ in pairs))
    fast = Fluid(tuple(Rail(rate + more, 500) for rate, more in pairs))
    assert fast.bound_ns(nbytes) <= slow.bound_ns(nbytes)


@given(fluids(), st.integers(1, 30_000), st.integers(1, 8000))
def test_whole_slices_are_never_faster(fluid: Fluid, nbytes: int, slice_bytes: int) -> None:
    whole = fluid.slice_bound_ns(nbytes, slice_bytes=slice_bytes)
    assert whole >= fluid.bound_ns(nbytes)
    if nbytes <= slice_bytes and not fluid.cuts:
        assert whole == min(Fluid((rail,)).bound_ns(nbytes) for rail in fluid.rails)


@given(
    st.lists(rails(), min_size=1, max_size=3),
    st.integers(1, 5),
    st.integers(1, 3000),
    st.integers(0, 2999),
)
def test_the_slice_bound_equals_trying_every_assignment(
    lanes: list[Rail], count: int, slice_bytes: int, rest: int
) -> None:
    sizes = [slice_bytes] * count + [rest % slice_bytes] * (rest % slice_bytes > 0)
    best = min(
        max(
            Fluid((lanes[rail],)).bound_ns(
                sum(s for s, r in zip(sizes, to, strict=True) if r == rail)
            )
            for rail in set(to)
        )
        for to in itertools.product(range(len(lanes)), repeat=len(sizes))
    )
    assert Fluid(tuple(lanes)).slice_bound_ns(sum(sizes), slice_bytes=slice_bytes) == best


@given(st.lists(rails(), min_size=1, max_size=5), st.integers(1, 12), st.integers(1, 3000))
def test_the_slice_bound_is_what_greedy_earliest_finish_reaches(
    lanes: list[Rail], count: int, slice_bytes: int
) -> None:
    dealt = [0] * len(lanes)
    end_ns = 0
    for _ in range(count):
        ends = [
            Fluid((r,)).bound_ns((n + 1) * slice_bytes) for r, n in zip(lanes, dealt, strict=True)
        ]
        best = ends.index(min(ends))
        dealt[best] += 1
        end_ns = max(end_ns, ends[best])
    fluid = Fluid(tuple(lanes))
    assert fluid.slice_bound_ns(count * slice_bytes, slice_bytes=slice_bytes) == end_ns


def test_slices_that_do_not_divide_evenly_cost_a_turn() -> None:
    fluid = Fluid((Rail(8e9, 1000),) * 8)
    assert fluid.slice_bound_ns(9 * KIB, slice_bytes=KIB) == 1000 + 2 * 128
    assert fluid.slice_bound_ns(8 * KIB + 1, slice_bytes=KIB) == 1000 + 129
    assert fluid.bound_ns(9 * KIB) == 1000 + 144


@given(fluids(), st.integers(0, 5000), st.integers(0, 5000), st.integers(0, 5000))
def test_capacity_adds_up_no_higher_than_its_parts(
    fluid: Fluid, begin_ns: int, first_ns: int, second_ns: int
) -> None:
    middle_ns, end_ns = begin_ns + first_ns, begin_ns + first_ns + second_ns
    parts = fluid.capacity(begin_ns, middle_ns) + fluid.capacity(middle_ns, end_ns)
    whole = fluid.capacity(begin_ns, end_ns)
    assert whole >= parts
    if not fluid.cuts:
        assert whole <= parts + 1
