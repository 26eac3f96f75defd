"""The conformance suite: what every transport must do, whatever it is made of.

For transport authors: subclass `TransportConformance` in a test module, give it a `quirks`, run
pytest. Leans on the public package, numpy and pytest. It knows no transport by name and looks
into none.
"""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from tent import (
    Batch,
    Cancelled,
    Denied,
    Engine,
    InvalidArgument,
    NotFound,
    OutOfRange,
    Overlap,
    PeerLost,
    StaleSegment,
    Status,
    TentError,
    TransportFailed,
    Unfenced,
)
from tent.testing.conformance_memory import MemoryConformance
from tent.testing.fixtures import KEY, Pair, pattern
from tent.testing.quirks import MIB, ROOM, SLOW_ROOM
from tent.testing.waiting import eventually


def started(batch: Batch, engine: Engine) -> None:
    """Waits until bytes of the batch have moved, and asserts that it is not done yet."""
    eventually(
        lambda: engine.counters().engine.slices > 0, what="the first slice of a slow transfer"
    )
    assert not batch.done, "the slow plan is too fast: the transfer ended before the test acted"


def final(batch: Batch) -> np.ndarray[tuple[int], np.dtype[np.int32]]:
    """Waits for the end and gives the statuses, of which none may be unfinished."""
    eventually(lambda: batch.done, what="the end of the batch", timeout=30)
    statuses = np.asarray(batch.status()["status"])
    assert not (statuses == Status.IN_PROGRESS).any()
    return statuses


class TransportConformance(MemoryConformance):
    """Subclass it as Test..., with `quirks` set."""

    # ---- bytes

    @pytest.mark.parametrize(
        "length", [1, 2, 7, 63, 64, 4095, 4096, 4097, 65537, MIB - 1, MIB, 9 * MIB + 13]
    )
    @pytest.mark.parametrize(("local_at", "remote_at"), [(0, 0), (1, 4093), (63, 7)])
    def test_write_then_read_keeps_every_byte(
        self, pair: Pair, length: int, local_at: int, remote_at: int
    ) -> None:
        source = pattern(length, seed=length)
        pair.local_bytes[local_at : local_at + length] = source
        info = pair.segment.region("target")
        span = pair.local[local_at : local_at + length]
        pair.initiator.write(pair.segment, local=span, remote=(info, remote_at))
        assert np.array_equal(pair.remote_bytes[remote_at : remote_at + length], source)
        assert not pair.remote_bytes[:remote_at].any(), "bytes before the range were written"
        assert not pair.remote_bytes[remote_at + length :].any(), "bytes behind it were written"

        pair.local_bytes[:] = 0
        pair.initiator.read(pair.segment, local=span, remote=(info, remote_at))
        assert np.array_equal(pair.local_bytes[local_at : local_at + length], source)
        assert not pair.local_bytes[:local_at].any()
        assert not pair.local_bytes[local_at + length :].any()

    @pytest.mark.parametrize("op", ["write", "read"])
    def test_scatter_of_thousands_of_requests_in_one_call(self, pair: Pair, op: str) -> None:
        count, random = 5000, np.random.default_rng(7)
        lengths = random.integers(1, 3000, count, dtype=np.uint64)
        starts = np.cumsum(lengths) - lengths  # disjoint
        order = random.permutation(count)
        source, target = pair.local_bytes, pair.remote_bytes
        if op == "read":
            source, target = target, source
        source[:] = pattern(ROOM, seed=1)
        shuffled = np.empty(count, dtype=np.uint64)
        shuffled[order] = np.cumsum(lengths[order]) - lengths[order]
        columns = {"source": starts, "target": shuffled}
        local, remote = ("source", "target") if op == "write" else ("target", "source")
        with pair.initiator.submit(
            pair.segment,
            op=op,
            local=(pair.local, columns[local]),
            remote=("target", columns[remote]),
            length=lengths,
            user_data=np.arange(count, dtype=np.uint64) * np.uint64(3),
        ) as batch:
            batch.wait(60)
            rows = batch.status()
        expected = np.zeros(ROOM, dtype=np.uint8)
        for begin, to, length in zip(starts, shuffled, lengths, strict=True):
            expected[int(to) : int(to + length)] = source[int(begin) : int(begin + length)]
        assert np.array_equal(target, expected)
        assert np.array_equal(rows["bytes"], lengths)
        assert np.array_equal(rows["user_data"], np.arange(count) * 3)
        assert (rows["status"] == Status.OK).all()

    def test_every_rail_carries_bytes(self, pair: Pair) -> None:
        # Which rail a slice takes depends on the moment; over many, none may stay idle.
        rounds, rails = 0, pair.initiator.counters().rails
        while rounds < 30 and not all(row.bytes_written > 0 for row in rails):
            pair.initiator.write(pair.segment, local=pair.local, remote="target")
            rounds, rails = rounds + 1, pair.initiator.counters().rails
        assert len(rails) == self.quirks.rails
        assert all(row.bytes_written > 0 for row in rails), rails
        assert sum(row.bytes_written for row in rails) == rounds * ROOM

    def test_both_directions_at_once(self, pair: Pair) -> None:
        half = ROOM // 2
        pair.local_bytes[:half] = pattern(half, seed=2)
        pair.remote_bytes[half:] = pattern(half, seed=3)
        info = pair.segment.region("target")
        back = pair.target.open_segment(pair.initiator.address, timeout=20.0)
        own = back.region("local")
        jobs = [
            pair.initiator.submit(
                pair.segment, op="write", local=pair.local[:half], remote=info, length=half
            ),
            pair.initiator.submit(
                pair.segment, op="read", local=pair.local[half:], remote=(info, half), length=half
            ),
        ]
        for job in jobs:
            job.wait(60)
        assert np.array_equal(pair.local_bytes, pair.remote_bytes)
        # And the same pair of engines the other way round, both initiators at the same time.
        pair.local_bytes[:] = pattern(ROOM, seed=4)
        pair.remote_bytes[:] = pattern(ROOM, seed=5)
        there, here = pair.local_bytes[:half].copy(), pair.remote_bytes[half:].copy()
        out = pair.initiator.submit(
            pair.segment, op="write", local=pair.local[:half], remote=info, length=half
        )
        into = pair.target.submit(
            back, op="write", local=pair.remote[half:], remote=(own, half), length=half
        )
        out.wait(60)
        into.wait(60)
        assert np.array_equal(pair.remote_bytes[:half], there)
        assert np.array_equal(pair.local_bytes[half:], here)

    def test_threads_share_an_engine(self, pair: Pair) -> None:
        pair.local_bytes[:] = pattern(ROOM, seed=6)
        info, part = pair.segment.region("target"), ROOM // 8

        def work(number: int) -> None:
            begin = number * part
            for _ in range(20):
                pair.initiator.write(
                    pair.segment,
                    local=pair.local[begin : begin + part // 8],
                    remote=(info, begin),
                )

        with ThreadPoolExecutor(8) as pool:
            for job in [pool.submit(work, number) for number in range(8)]:
                job.result(60)
        for number in range(8):
            piece = slice(number * part, number * part + part // 8)
            assert np.array_equal(pair.remote_bytes[piece], pair.local_bytes[piece])

    def test_a_segment_of_oneself(self, pair: Pair) -> None:
        own = pair.initiator.open_segment(pair.initiator.export(), timeout=20.0)
        pair.local_bytes[:1000] = pattern(1000, seed=8)
        pair.initiator.write(own, local=pair.local[:1000], remote=("local", 2000))
        assert np.array_equal(pair.local_bytes[2000:3000], pair.local_bytes[:1000])
        pair.initiator.read(own, local=pair.local[5000:6000], remote=("local", 2000))
        assert np.array_equal(pair.local_bytes[5000:6000], pair.local_bytes[:1000])

    def test_integrity_checked_transfers_keep_every_byte(self, pair: Pair) -> None:
        pair.local_bytes[:] = pattern(ROOM, seed=9)
        if not self.quirks.integrity:
            # Refused rather than done without.
            with pytest.raises(TransportFailed):
                pair.initiator.write(
                    pair.segment, local=pair.local, remote="target", integrity=True
                )
            assert not pair.remote_bytes.any()
            pair.initiator.write(pair.segment, local=pair.local, remote="target")
            assert np.array_equal(pair.local_bytes, pair.remote_bytes)
            return
        pair.initiator.write(pair.segment, local=pair.local, remote="target", integrity=True)
        assert np.array_equal(pair.local_bytes, pair.remote_bytes)
        pair.local_bytes[:] = 0
        pair.initiator.read(pair.segment, local=pair.local, remote="target", integrity=True)
        assert np.array_equal(pair.local_bytes, pair.remote_bytes)

    # ---- refusals: each leaves the engine usable and both sides untouched

    @pytest.mark.parametrize("op", ["write", "read"])
    @pytest.mark.parametrize("case", ["behind", "across", "before", "wrap", "zero", "local"])
    def test_bad_ranges_are_refused_whole(self, pair: Pair, op: str, case: str) -> None:
        info = pair.segment.region("target")
        local, remote, length = pair.local.address, info.address, 100
        expected: type[TentError] = OutOfRange
        if case == "behind":
            remote = info.end
        elif case == "across":
            remote = info.end - 99
        elif case == "before":
            remote = info.address - 1
        elif case == "wrap":
            remote = 2**64 - 50
            expected = InvalidArgument
        elif case == "zero":
            length, expected = 0, InvalidArgument
        else:
            local = pair.local.address + ROOM - 1
        good = np.array([pair.local.address, local], dtype=np.uint64)
        pair.local_bytes[:] = 1
        with pytest.raises(expected) as caught:
            pair.initiator.submit(
                pair.segment,
                op=op,
                local=good,
                remote=np.array([info.address, remote], dtype=np.uint64),
                length=np.array([100, length], dtype=np.uint64),
            )
        assert caught.value.index == 1
        assert "request 1" in str(caught.value)
        assert not pair.remote_bytes.any(), "a refused call moved bytes"
        assert (pair.local_bytes == 1).all()
        pair.initiator.write(pair.segment, local=pair.local[:10], remote=info)
        assert pair.remote_bytes[:10].all()

    @pytest.mark.parametrize(("access", "op"), [("r", "write"), ("w", "read")])
    def test_the_direction_not_granted_is_denied(self, access: str, op: str) -> None:
        with self.engines(MIB, access=access) as pair:
            with pytest.raises(Denied):
                pair.initiator.submit(
                    pair.segment, op=op, local=pair.local[:8], remote="target", length=8
                )
            other = "read" if op == "write" else "write"
            pair.initiator.submit(
                pair.segment, op=other, local=pair.local[:8], remote="target", length=8
            ).wait(20)

    def test_overlapping_destinations_are_refused_on_demand(self, pair: Pair) -> None:
        info = pair.segment.region("target")
        remote = np.array([0, 50, 200], dtype=np.uint64)
        local = np.array([0, 1000, 2000], dtype=np.uint64)
        with pytest.raises(Overlap):
            pair.initiator.submit(
                pair.segment,
                op="write",
                local=(pair.local, local),
                remote=(info, remote),
                length=100,
                check_overlap=True,
            )
        # The same sources are fine to overlap: only destinations count.
        pair.initiator.submit(
            pair.segment,
            op="read",
            local=(pair.local, local),
            remote=(info, remote),
            length=100,
            check_overlap=True,
        ).wait(20)

    def test_a_released_region_is_gone_for_peers(self, pair: Pair) -> None:
        info = pair.segment.region("target")
        pair.remote.release()
        pair.local_bytes[:] = 1
        with pytest.raises((OutOfRange, Denied, StaleSegment, NotFound)):
            pair.initiator.write(pair.segment, local=pair.local[:100], remote=info)
        assert not pair.remote_bytes.any()
        pair.segment.refresh()
        assert not pair.segment.regions

    def test_a_region_registered_later_is_found(self, pair: Pair) -> None:
        late = self.memory(pair.target, 4096)
        pair.target.register(late, label="late")
        pair.segment.refresh()
        pair.local_bytes[:4096] = 5
        pair.initiator.write(pair.segment, local=pair.local[:4096], remote="late")
        assert (late == 5).all()

    def test_a_revoked_grant_opens_nothing(self, pair: Pair) -> None:
        if not self.quirks.enforces_grants:
            pytest.skip("the target of this transport does not see single accesses")
        grant = pair.target.grant(access="w")
        descriptor = grant.export()
        segment = pair.initiator.open_segment(descriptor, timeout=20.0)
        pair.initiator.write(segment, local=pair.local[:10], remote="target")
        with pytest.raises(Denied):
            pair.initiator.read(segment, local=pair.local[:10], remote="target")
        grant.revoke()
        pair.local_bytes[:] = 1
        with pytest.raises((Denied, StaleSegment, OutOfRange)):
            pair.initiator.write(segment, local=pair.local[:10], remote=pair.remote.address)
        assert not pair.remote_bytes.any()
        with pytest.raises((Denied, StaleSegment)):
            pair.initiator.open_segment(descriptor, timeout=20.0)

    def test_an_expired_grant_opens_nothing(self, pair: Pair) -> None:
        if not self.quirks.enforces_grants:
            pytest.skip("the target of this transport does not see single accesses")
        end = time.time() + 1.0
        descriptor = pair.target.export(expires=end)
        segment = pair.initiator.open_segment(descriptor, timeout=20.0)
        address = pair.remote.address
        pair.initiator.write(segment, local=pair.local[:10], remote=address)
        eventually(lambda: time.time() > end, what="the end of the grant")
        pair.local_bytes[:] = 1
        with pytest.raises((Denied, StaleSegment)):
            pair.initiator.write(segment, local=pair.local[:10], remote=address)
        assert not pair.remote_bytes.any()
        with pytest.raises((Denied, StaleSegment)):
            pair.initiator.open_segment(descriptor, timeout=20.0)

    def test_a_grant_of_one_region_hides_the_others(self, pair: Pair) -> None:
        secret = self.memory(pair.target, 4096)
        hidden = pair.target.register(secret, label="secret")
        segment = pair.initiator.open_segment(
            pair.target.export(regions=[pair.remote]), timeout=20.0
        )
        assert [info.label for info in segment.regions] == ["target"]
        with pytest.raises(OutOfRange):
            pair.initiator.read(segment, local=pair.local[:10], remote=hidden.address)

    # ---- ends in mid-transfer

    def test_a_region_released_in_mid_transfer_is_left_alone(self, slow: Pair) -> None:
        slow.local_bytes[:] = 1
        batch = slow.initiator.submit(
            slow.segment, op="write", local=slow.local, remote="target", length=SLOW_ROOM
        )
        started(batch, slow.initiator)
        slow.remote.release()
        slow.remote_bytes[:] = 0x5A
        statuses = final(batch)
        assert statuses[0] < 0
        assert (slow.remote_bytes == 0x5A).all(), "bytes were written after the release"
        batch.close()

    @pytest.mark.parametrize("op", ["write", "read"])
    def test_a_cancelled_transfer_leaves_the_buffers_free(self, slow: Pair, op: str) -> None:
        source, target = slow.local_bytes, slow.remote_bytes
        if op == "read":
            source, target = target, source
        source[:] = 1
        parts = np.arange(8, dtype=np.uint64) * np.uint64(SLOW_ROOM // 8)
        batch = slow.initiator.submit(
            slow.segment,
            op=op,
            local=(slow.local, parts),
            remote=("target", parts),
            length=SLOW_ROOM // 8,
        )
        started(batch, slow.initiator)
        batch.cancel()
        statuses = final(batch)
        assert set(statuses.tolist()) <= {int(Status.OK), int(Status.CANCELLED)}
        assert (statuses == Status.CANCELLED).any()
        # Terminal means quiescent: from here on both buffers are the application's again.
        source[:] = 2
        target[:] = 0x5A
        with pytest.raises(Cancelled):
            batch.wait(1)
        # A later transfer over the same rails pushes anything late out of every queue.
        slow.initiator.submit(
            slow.segment, op=op, local=slow.local[:4096], remote="target", length=4096
        ).wait(30)
        assert (target[:4096] == 2).all()
        assert (target[4096:] == 0x5A).all(), "bytes were written after the terminal status"

    @pytest.mark.parametrize("op", ["write", "read"])
    def test_a_cancel_at_any_moment_is_clean(self, pair: Pair, op: str) -> None:
        source, target = pair.local_bytes, pair.remote_bytes
        if op == "read":
            source, target = target, source
        parts = np.arange(16, dtype=np.uint64) * np.uint64(MIB)
        cut_short = 0
        for moment in range(24):
            source[:] = 1
            target[:] = 0
            before = pair.initiator.counters().engine.slices
            batch = pair.initiator.submit(
                pair.segment,
                op=op,
                local=(pair.local, parts),
                remote=("target", parts),
                length=MIB,
            )
            while pair.initiator.counters().engine.slices - before < moment % 16:
                if batch.done:
                    break
            batch.close()
            statuses = np.asarray(batch.status()["status"])
            cut_short += int((statuses == Status.CANCELLED).any())
            assert set(statuses.tolist()) <= {int(Status.OK), int(Status.CANCELLED)}
            for part in np.flatnonzero(statuses == Status.OK):
                assert target[part * MIB : (part + 1) * MIB].all(), f"part {part} is not complete"
            source[:] = 2
            target[:] = 0x5A
            pair.initiator.submit(
                pair.segment, op=op, local=pair.local[:1], remote="target", length=1
            ).wait(20)
            assert target[0] == 2
            assert (target[1:] == 0x5A).all(), f"late bytes after a cancel at slice {moment % 16}"
        assert cut_short > 0, "no transfer was caught in its middle"

    def test_closing_a_batch_in_mid_transfer_is_quiet(self, slow: Pair) -> None:
        slow.local_bytes[:] = 1
        batch = slow.initiator.submit(
            slow.segment, op="write", local=slow.local, remote="target", length=SLOW_ROOM
        )
        started(batch, slow.initiator)
        batch.close()
        slow.remote_bytes[:] = 0x5A
        slow.local_bytes[:] = 2
        slow.initiator.write(slow.segment, local=slow.local[:4096], remote="target")
        assert (slow.remote_bytes[4096:] == 0x5A).all()
        assert batch.request(0).status == Status.CANCELLED

    def test_closing_the_segment_ends_each_request_once(self, slow: Pair) -> None:
        batch = slow.initiator.submit(
            slow.segment, op="write", local=slow.local, remote="target", length=SLOW_ROOM
        )
        started(batch, slow.initiator)
        slow.segment.close()
        assert final(batch).tolist() == [Status.CANCELLED]
        with pytest.raises(Cancelled):
            batch.wait(1)

    def test_closing_the_engine_ends_everything(self, slow: Pair) -> None:
        slow.local_bytes[:] = 1
        batch = slow.initiator.submit(
            slow.segment, op="write", local=slow.local, remote="target", length=SLOW_ROOM
        )
        started(batch, slow.initiator)
        with ThreadPoolExecutor(1) as pool:
            waiting = threading.Event()

            def wait() -> None:
                waiting.set()
                batch.wait(30)

            job = pool.submit(wait)
            assert waiting.wait(10)
            slow.initiator.close()
            assert isinstance(job.exception(30), TentError)
        slow.remote_bytes[:] = 0x5A
        other = Engine(plan=self.quirks.plan, key=KEY)
        with other:
            segment = other.open_segment(slow.target.address, timeout=20.0)
            scratch = self.memory(other, 4096)
            other.write(segment, local=other.register(scratch), remote="target")
        assert (slow.remote_bytes[4096:] == 0x5A).all()

    def test_closing_the_target_ends_each_request_once(self, slow: Pair) -> None:
        parts = np.arange(8, dtype=np.uint64) * np.uint64(SLOW_ROOM // 8)
        batch = slow.initiator.submit(
            slow.segment,
            op="write",
            local=(slow.local, parts),
            remote=("target", parts),
            length=SLOW_ROOM // 8,
        )
        started(batch, slow.initiator)
        slow.target.close()
        statuses = final(batch)
        assert (statuses < 0).any()
        with pytest.raises((PeerLost, TransportFailed, Unfenced, StaleSegment, Denied)):
            batch.wait(1)

    def test_a_restarted_peer_is_another_one(self, pair: Pair) -> None:
        descriptor, address = pair.target.export(), pair.target.address
        pair.initiator.write(pair.segment, local=pair.local[:10], remote="target")
        pair.target.close()
        plan = self.quirks.target_plan or self.quirks.plan
        with Engine(plan=plan, key=KEY, listen=address, name="again") as again:
            again.register(pair.remote_bytes, label="target")
            pair.remote_bytes[:] = 0
            pair.local_bytes[:] = 1
            with pytest.raises((StaleSegment, PeerLost)):
                pair.initiator.write(
                    pair.segment, local=pair.local[:10], remote=pair.remote.address
                )
            with pytest.raises(StaleSegment):
                pair.initiator.open_segment(descriptor, timeout=20.0)
            assert not pair.remote_bytes.any(), "the old segment reached the new engine"
            fresh = pair.initiator.open_segment(address, timeout=20.0)
            pair.initiator.write(fresh, local=pair.local[:10], remote="target")
            assert pair.remote_bytes[:10].all()

    # ---- notices

    def test_notices_follow_their_data_in_order(self, pair: Pair) -> None:
        for number in range(50):
            begin = number * 100_000
            pair.local_bytes[begin : begin + 100_000] = number + 1
            pair.initiator.write(
                pair.segment,
                local=pair.local[begin : begin + 100_000],
                remote=("target", begin),
                notice=b"part %d" % number,
            )
        for number in range(50):
            notice = pair.target.next_notice(timeout=20.0)
            assert notice is not None
            assert notice.data == b"part %d" % number
            assert notice.sender == "initiator"
            begin = number * 100_000
            assert (pair.remote_bytes[begin : begin + 100_000] == number + 1).all()
        assert pair.target.next_notice(timeout=0) is None

    def test_the_notice_of_a_failed_batch_is_dropped(self, slow: Pair) -> None:
        batch = slow.initiator.submit(
            slow.segment,
            op="write",
            local=slow.local,
            remote="target",
            length=SLOW_ROOM,
            notice=b"never",
        )
        started(batch, slow.initiator)
        batch.close()
        slow.initiator.write(
            slow.segment, local=slow.local[:10], remote="target", notice=b"after it"
        )
        notice = slow.target.next_notice(timeout=20.0)
        assert notice is not None
        assert notice.data == b"after it"
