"""The least time that any scheduler needs on given rails: the yardstick of the real one.

Leans on the error types only; integers throughout, so results are exact. Must never look at
what an engine did: a bound knows the rails, the bytes and the moment of submission.

T*, the fluid bound
    A request of M bytes is submitted at time t0. Its bytes may be cut as finely as one likes and
    every rail's present and future rate is known. Rail i with bandwidth B_i(t), base latency l_i
    and Q_i bytes queued ahead has carried at most

        a_i(T) = max(0, integral of B_i(t) from t0 + d_i to t0 + T - (l_i - d_i)  -  Q_i)

    bytes of it when T has passed: no byte leaves before the lead d_i, and a byte counts when it
    was confirmed, l_i - d_i after it left. d_i = 0 is a write (the latency follows the data),
    d_i = l_i / 2 a read (the request travels first), d_i = l_i puts the whole latency before the
    data. With a constant rate all three are B_i * (T - l_i) - Q_i.

    A cut c stands for a part that several rails R_c pass (a PCIe switch, a link between sockets,
    the ports of a receiver): together they carry at most

        b_c(T) = max(0, integral of C_c(t) from t0 + d to t0 + T - e  -  Q_c)

    with d the least lead and e the least l_i - d_i in R_c, as if it were passed without delay.
    Cuts are nested or disjoint. F(T) is the largest sum of x_i with 0 <= x_i <= a_i(T) and, for
    each cut, the sum of its rails' x_i <= b_c(T); it is a maximal flow in a tree.

    T* is the smallest whole number of nanoseconds with F(T*) >= M. No schedule is faster: it would
    have to move more bytes through a rail or a cut than that has room for.

The slice bound
    The same for a scheduler that posts whole slices of s bytes (the last one may be shorter) and
    knows all rates: the smallest T at which the slices can be dealt out to the rails so that every
    rail and every cut has room for the slices it got. Without cuts this is what the greedy choice
    of the earliest finish reaches. It is never below T*.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tent.errors import InvalidArgument

NS_PER_S = 1_000_000_000
HORIZON_NS = 1 << 62
"""A request that is not done by then is called endless: 146 years."""


@dataclass(frozen=True)
class Piecewise:
    """A rate that changes at given times: (time_ns, bytes_per_s), ascending.

    Before the first time the first rate holds, after the last the last.
    """

    points: Sequence[tuple[int, float]]

    def __post_init__(self) -> None:
        times = [time_ns for time_ns, _ in self.points]
        if not times:
            raise InvalidArgument(
                "a piecewise bandwidth without points says nothing; give one at least"
            )
        if times != sorted(set(times)) or times[0] < 0:
            raise InvalidArgument(
                f"the times {times} of a piecewise bandwidth do not ascend from 0 on"
            )
        for _, rate in self.points:
            _bytes_per_s(rate)


@dataclass(frozen=True)
class Flapping:
    """A rate that is `high` in the first half of each period and `low` in the second.

    At time t it stands at (t + phase_ns) modulo period_ns of its period, which is even.
    """

    high: float
    low: float
    period_ns: int
    phase_ns: int = 0

    def __post_init__(self) -> None:
        _bytes_per_s(self.high)
        _bytes_per_s(self.low)
        if self.period_ns < 2 or self.period_ns % 2 or self.phase_ns < 0:
            raise InvalidArgument(
                f"a flapping bandwidth has period_ns={self.period_ns}, phase_ns={self.phase_ns}; "
                "expected an even number from 2 on, and 0 or more"
            )


Bandwidth = float | Piecewise | Flapping
"""Bytes per second, whole numbers; 0 stands still."""


@dataclass(frozen=True)
class Rail:
    """A path of its own; see the module for what lead_ns means."""

    bandwidth: Bandwidth
    latency_ns: int = 0
    queued_bytes: int = 0
    lead_ns: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.lead_ns <= self.latency_ns or self.queued_bytes < 0:
            raise InvalidArgument(
                f"a rail has latency_ns={self.latency_ns}, lead_ns={self.lead_ns}, "
                f"queued_bytes={self.queued_bytes}; expected 0 <= lead <= latency, queued >= 0"
            )
        check_bandwidth(self.bandwidth)

    @property
    def tail_ns(self) -> int:
        """From a byte's leaving to its confirmation."""
        return self.latency_ns - self.lead_ns


@dataclass(frozen=True)
class Cut:
    """What the rails with these indices pass together."""

    rails: frozenset[int]
    bandwidth: Bandwidth
    queued_bytes: int = 0

    def __post_init__(self) -> None:
        if not self.rails or self.queued_bytes < 0:
            raise InvalidArgument("a cut has at least one rail and no negative queue")
        check_bandwidth(self.bandwidth)


@dataclass(frozen=True)
class Fluid:
    """Rails and cuts as a scheduler could know them at best. InvalidArgument when cuts cross."""

    rails: tuple[Rail, ...]
    cuts: tuple[Cut, ...] = ()
    _order: tuple[int, ...] = field(init=False, repr=False)
    _rail_parent: tuple[int, ...] = field(init=False, repr=False)
    _cut_parent: tuple[int, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        # Inner cuts first; a node's parent is the first larger cut around it, -1 the whole.
        order = sorted(range(len(self.cuts)), key=lambda c: len(self.cuts[c].rails))
        for at, inner in enumerate(order):
            for outer in order[at + 1 :]:
                shared = self.cuts[inner].rails & self.cuts[outer].rails
                if shared and shared != self.cuts[inner].rails:
                    raise InvalidArgument(
                        f"cuts {inner} and {outer} cross: they share rails {sorted(shared)}, but "
                        "neither holds the other; make them nested or disjoint"
                    )
        known = frozenset(range(len(self.rails)))
        for number, cut in enumerate(self.cuts):
            if not cut.rails <= known:
                raise InvalidArgument(
                    f"cut {number} names rails {sorted(cut.rails - known)}; there are rails 0 to "
                    f"{len(self.rails) - 1}"
                )
        parents = [
            next((c for c in order[at + 1 :] if self.cuts[inner].rails <= self.cuts[c].rails), -1)
            for at, inner in enumerate(order)
        ]
        by_cut = dict(zip(order, parents, strict=True))
        object.__setattr__(self, "_order", tuple(order))
        object.__setattr__(self, "_cut_parent", tuple(by_cut[c] for c in range(len(self.cuts))))
        object.__setattr__(
            self,
            "_rail_parent",
            tuple(
                next((c for c in order if r in self.cuts[c].rails), -1)
                for r in range(len(self.rails))
            ),
        )

    def with_queued(self, queued_bytes: dict[int, int]) -> Fluid:
        """The same rails with these bytes queued ahead, by rail index."""
        rails = tuple(
            replace(rail, queued_bytes=queued_bytes.get(index, rail.queued_bytes))
            for index, rail in enumerate(self.rails)
        )
        return Fluid(rails, self.cuts)

    def bound_ns(self, nbytes: int, *, begin_ns: int = 0) -> int:
        """T* of a request submitted at begin_ns. Raises InvalidArgument if it never ends."""
        _check_bytes(nbytes)
        wanted = nbytes * NS_PER_S
        return self._smallest(lambda t: self._flow(*self._rooms(begin_ns, t)) >= wanted, nbytes)

    def slice_bound_ns(self, nbytes: int, *, slice_bytes: int, begin_ns: int = 0) -> int:
        """The slice bound of the same request, cut into slices of slice_bytes and a rest."""
        _check_bytes(nbytes)
        _check_bytes(slice_bytes)
        whole, rest = divmod(nbytes, slice_bytes)

        def fits(time_ns: int) -> bool:
            rooms = self._rooms(begin_ns, time_ns)
            each = slice_bytes * NS_PER_S
            if rest == 0:
                return self._slices(rooms, each) >= whole
            return any(
                self._slices(left, each) >= whole
                for rail in range(len(self.rails))
                if (left := self._without(rooms, rail, rest * NS_PER_S)) is not None
            )

        return self._smallest(fits, nbytes)

    def capacity(self, begin_ns: int, end_ns: int) -> int:
        """Bytes that can leave between two times, cuts included, rounded down."""
        rails = [work(rail.bandwidth, begin_ns, end_ns) for rail in self.rails]
        cuts = [work(cut.bandwidth, begin_ns, end_ns) for cut in self.cuts]
        return self._flow(rails, cuts) // NS_PER_S

    # Rooms are in bytes times NS_PER_S: rate times nanoseconds, without a division.

    def _rooms(self, begin_ns: int, time_ns: int) -> tuple[list[int], list[int]]:
        end_ns = begin_ns + time_ns
        rails = [
            _room(rail.bandwidth, begin_ns + rail.lead_ns, end_ns - rail.tail_ns, rail.queued_bytes)
            for rail in self.rails
        ]
        cuts = []
        for cut in self.cuts:
            lead_ns = min(self.rails[r].lead_ns for r in cut.rails)
            tail_ns = min(self.rails[r].tail_ns for r in cut.rails)
            cuts.append(
                _room(cut.bandwidth, begin_ns + lead_ns, end_ns - tail_ns, cut.queued_bytes)
            )
        return rails, cuts

    def _flow(self, rails: list[int], cuts: list[int]) -> int:
        inside = [0] * (len(self.cuts) + 1)  # the last, which -1 means, is the whole
        for room, parent in zip(rails, self._rail_parent, strict=True):
            inside[parent] += room
        for cut in self._order:
            inside[self._cut_parent[cut]] += min(cuts[cut], inside[cut])
        return inside[-1]

    def _slices(self, rooms: tuple[list[int], list[int]], each: int) -> int:
        return self._flow([room // each for room in rooms[0]], [room // each for room in rooms[1]])

    def _without(
        self, rooms: tuple[list[int], list[int]], rail: int, used: int
    ) -> tuple[list[int], list[int]] | None:
        """The rooms left when a rail carries `used`, None when that does not fit."""
        rails, cuts = list(rooms[0]), list(rooms[1])
        rails[rail] -= used
        left = [rails[rail]]
        for number, cut in enumerate(self.cuts):
            if rail in cut.rails:
                cuts[number] -= used
                left.append(cuts[number])
        return (rails, cuts) if min(left) >= 0 else None

    def _smallest(self, fits: Callable[[int], bool], nbytes: int) -> int:
        """The smallest time that fits; fits must stay true once it is."""
        high = 1024
        while not fits(high):
            high *= 2
            if high > HORIZON_NS:
                raise InvalidArgument(
                    f"these rails never move {nbytes} bytes: their bandwidth is 0 from some time on"
                )
        low = high // 2 if high > 1024 else 0
        while low < high:
            middle = (low + high) // 2
            if fits(middle):
                high = middle
            else:
                low = middle + 1
        return high


def work(bandwidth: Bandwidth, begin_ns: int, end_ns: int) -> int:
    """Integral of a bandwidth between two times (none if end <= begin), in bytes times 10^9."""
    if end_ns <= begin_ns:
        return 0
    if isinstance(bandwidth, Flapping):
        return _flapped(bandwidth, end_ns) - _flapped(bandwidth, begin_ns)
    if isinstance(bandwidth, Piecewise):
        points = bandwidth.points
        total = 0
        for index, (time_ns, rate) in enumerate(points):
            since_ns = begin_ns if index == 0 else max(begin_ns, time_ns)
            until_ns = end_ns if index + 1 == len(points) else min(end_ns, points[index + 1][0])
            total += int(rate) * max(0, until_ns - since_ns)
        return total
    return int(bandwidth) * (end_ns - begin_ns)


def check_bandwidth(bandwidth: Bandwidth) -> None:
    """Raises InvalidArgument for a rate that is negative or no whole number of bytes per second."""
    if not isinstance(bandwidth, Piecewise | Flapping):
        _bytes_per_s(bandwidth)


def _flapped(bandwidth: Flapping, time_ns: int) -> int:
    """Served since the beginning of the period that holds time 0."""
    high, low = int(bandwidth.high), int(bandwidth.low)
    half_ns = bandwidth.period_ns // 2
    periods, at_ns = divmod(time_ns + bandwidth.phase_ns, bandwidth.period_ns)
    whole = (high + low) * half_ns
    return periods * whole + high * min(at_ns, half_ns) + low * max(0, at_ns - half_ns)


def _room(bandwidth: Bandwidth, begin_ns: int, end_ns: int, queued_bytes: int) -> int:
    return max(0, work(bandwidth, begin_ns, end_ns) - queued_bytes * NS_PER_S)


def _bytes_per_s(rate: float) -> int:
    if rate < 0 or rate != int(rate):
        raise InvalidArgument(f"a bandwidth of {rate} is no whole number of bytes per second")
    return int(rate)


def _check_bytes(nbytes: int) -> None:
    if nbytes <= 0:
        raise InvalidArgument(f"{nbytes} bytes take no time; expected at least 1")
