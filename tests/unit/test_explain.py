"""Explaining a request: the facts from the engine, the text for people, and the command."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests_support import KEY, LENGTH, closed_port

from tent import (
    Candidate,
    Engine,
    Explanation,
    InvalidArgument,
    NotFound,
    State,
    Strategy,
    Verdict,
)
from tent.cli import main
from tent.scheduler.explain import render
from tent.testing import Pair, engine_pair

PLAN = """plan 1
set peer_rails_max=1
rail 0 null a gbps=4
rail 1 null b gbps=8
rail 2 null c gbps=16
route op=read : null[0]
route local=cuda : null[0]
route remote=cuda : null[1]
route class=high label=kv : null[1 0] strategy=round_robin
route * : null[0 1 | 2] ; null[2] slice=64k
"""


@pytest.fixture
def three() -> Iterator[Pair]:
    with engine_pair(plan=PLAN, length=LENGTH) as made:
        yield made


# ---- the facts ----------------------------------------------------------------------------------


def test_the_facts_are_the_engines(three: Pair) -> None:
    told = three.initiator.explain(three.segment, length=16 << 20)
    assert told.row == "route * : null[0 1 | 2] ; null[2] slice=64k"
    assert (told.route, told.rung, told.winner, told.generation) == (4, 0, 1, 1)
    assert told.strategy is Strategy.PREDICTIVE
    assert (told.slice_bytes, told.backlog_bytes) == (1 << 20, 16 << 20)
    slow, fast, far, later = told.candidates
    assert [c.verdict for c in told.candidates] == [
        Verdict.SLOWER,
        Verdict.CHOSEN,
        Verdict.SLOWER,
        Verdict.LATER_RUNG,
    ]
    assert fast == Candidate(
        rung=0,
        tier=1,
        penalty=1,
        rail=1,
        remote_rail=1,
        state=State.HEALTHY,
        verdict=Verdict.CHOSEN,
        inflight_bytes=0,
        inflight_local_bytes=0,
        inflight_remote_bytes=0,
        rate_bytes_per_s=10**9,
        nominal_bytes_per_s=10**9,
        latency_ns_base=0,
        window_bytes=2 << 20,
        predicted_ns=1 << 20,
        score_ns=1 << 20,
        transport="null",
        name="target: rail 1 -> 1",
    )
    assert slow.score_ns == 2 << 20
    assert (far.tier, far.penalty, far.predicted_ns, far.score_ns) == (2, 3, 1 << 19, 3 << 19)
    assert (later.rung, later.predicted_ns) == (1, 32 << 10)


def test_every_word_of_the_question_counts(three: Pair) -> None:
    def route(**words: Any) -> int:
        return three.initiator.explain(three.segment, length=4096, **words).route

    assert route() == 4
    assert route(op="read") == 0
    assert route(local="cuda:7") == 1
    assert route(remote="cuda:7") == 2
    assert route(class_="high") == 4
    assert route(class_="high", label="kv") == 3


def test_regions_stand_for_their_locations(three: Pair) -> None:
    engine = three.initiator
    here = engine.register(bytearray(8), location="cuda:1")
    three.target.register(bytearray(8), location="cuda:2", label="there")
    three.segment.refresh()
    assert engine.explain(three.segment, length=8, local=here).route == 1
    assert engine.explain(three.segment, length=8, remote="there").route == 2
    info = three.segment.region("there")
    assert engine.explain(three.segment, length=8, remote=info).route == 2
    assert engine.explain(three.segment, length=8, local=three.local, remote="target").route == 4


def test_a_mistyped_label_is_no_location(three: Pair) -> None:
    with pytest.raises(NotFound, match=r"'targte'.*'target'"):
        three.initiator.explain(three.segment, length=8, remote="targte")


def test_wrong_questions_are_refused(three: Pair) -> None:
    engine, segment = three.initiator, three.segment
    with pytest.raises(InvalidArgument, match="length"):
        engine.explain(segment, length=0)
    with pytest.raises(InvalidArgument, match="length"):
        engine.explain(segment, length=-1)
    with pytest.raises(ValueError, match="class is 'urgent'"):
        engine.explain(segment, length=1, class_="urgent")
    with pytest.raises(ValueError, match="op is 'copy'"):
        engine.explain(segment, length=1, op="copy")
    with pytest.raises(InvalidArgument, match="local location"):
        engine.explain(segment, length=1, local="x" * 32)
    with pytest.raises(InvalidArgument, match="opened by another engine"):
        three.target.explain(segment, length=1)


def test_all_of_many_candidates_are_told() -> None:
    rails = range(40)
    plan = "plan 1\n" + "".join(f"rail {n} null r{n}\n" for n in rails)
    plan += f"route * : null[{' '.join(map(str, rails))}]\n"
    with engine_pair(plan=plan, length=4096) as pair:
        told = pair.initiator.explain(pair.segment, length=4096)
    assert [c.rail for c in told.candidates] == list(rails)


def test_what_was_measured_is_counted_too(three: Pair) -> None:
    three.initiator.write(three.segment, local=three.local, remote="target")
    told = three.initiator.explain(three.segment, length=LENGTH)
    rows = {row.rail: row for row in three.initiator.counters().endpoints if row.window_bytes}
    for candidate in told.candidates[:3]:
        assert rows[candidate.rail].window_bytes == candidate.window_bytes
        assert rows[candidate.rail].latency_ns_base == candidate.latency_ns_base
    assert three.initiator.counters().engine.slices_hedged == 0


def test_an_event_loop_gets_the_same(three: Pair) -> None:
    async def ask() -> Explanation:
        return three.initiator.aio.explain(three.segment, length=1 << 20)

    assert asyncio.run(ask()) == three.initiator.explain(three.segment, length=1 << 20)


# ---- the text -----------------------------------------------------------------------------------

ONE = Candidate(
    rung=0,
    tier=1,
    penalty=1,
    rail=0,
    remote_rail=2,
    state=State.HEALTHY,
    verdict=Verdict.CHOSEN,
    inflight_bytes=64 << 10,
    inflight_local_bytes=128 << 10,
    inflight_remote_bytes=0,
    rate_bytes_per_s=125_000_000,
    nominal_bytes_per_s=0,
    latency_ns_base=12_300,
    window_bytes=1 << 20,
    predicted_ns=1_500_000,
    score_ns=1_500_000,
    transport="tcp",
    name="peer: rail 0 -> 2",
)
TWO = dataclasses.replace(
    ONE, rail=1, verdict=Verdict.SLOWER, predicted_ns=2_500_000, score_ns=2_500_000
)
TOLD = Explanation(
    row="route * : tcp[0 1]",
    route=0,
    rung=0,
    strategy=Strategy.PREDICTIVE,
    winner=0,
    slice_bytes=64 << 10,
    backlog_bytes=1 << 20,
    generation=3,
    candidates=(ONE, TWO),
)


def told(*candidates: Candidate, **changes: Any) -> str:
    return render(dataclasses.replace(TOLD, candidates=candidates or (ONE, TWO), **changes))


def closing(text: str) -> str:
    return text.splitlines()[-1]


def test_the_whole_text() -> None:
    columns = (
        "  tier  rail        state    in flight  on rail  at peer         rate     base  window"
        "  done in  penalty   score  verdict"
    )
    assert told().splitlines() == [
        "row 0 of plan generation 3",
        "  route * : tcp[0 1]",
        "rung 0, strategy predictive; first slice 64 KiB, waiting with this request 1 MiB",
        "",
        columns,
        "     1  tcp 0 -> 2  healthy     64 KiB  128 KiB      0 B  1.00 Gbit/s  12.3 us   1 MiB"
        "   1.5 ms       x1  1.5 ms  chosen",
        "     1  tcp 1 -> 2  healthy     64 KiB  128 KiB      0 B  1.00 Gbit/s  12.3 us   1 MiB"
        "   2.5 ms       x1  2.5 ms  slower",
        "",
        "tcp 0 -> 2 is chosen: done in 1.5 ms; the next best, tcp 1 -> 2, would take 2.5 ms.",
    ]


def test_the_way_that_a_transport_would_take_stands_behind_its_verdict() -> None:
    by_ring = "ring (two copies): kernel.yama.ptrace_scope is 1"
    ways = [dataclasses.replace(ONE, transport="shm", via=by_ring), TWO]
    header, first, second = told(*ways).splitlines()[4:7]
    assert header.endswith("  verdict  by")
    assert first[header.index("by") :] == by_ring
    assert second.endswith("  slower")


def test_ways_are_told_only_where_there_are_several() -> None:
    assert told().splitlines()[4].endswith("  verdict")
    mapped = dataclasses.replace(ONE, verdict=Verdict.LATER_RUNG, rung=1, via="mapped")
    lines = told(TWO, mapped).splitlines()
    assert lines[4].split()[-2:] == ["verdict", "by"]
    by = lines[4].index(" by")
    assert (lines[6][by:], lines[8][by:]) == ("", " mapped")


@pytest.mark.parametrize(
    ("verdict", "words"),
    [
        (Verdict.SLOWER, "slower"),
        (Verdict.FULL, "takes no more now"),
        (Verdict.AWAITED, "full, awaited"),
        (Verdict.PASSED_OVER, "open, passed over"),
        (Verdict.FARTHER, "farther tier, not earlier"),
        (Verdict.NOT_READY, "not ready"),
        (Verdict.LATER_RUNG, "later rung"),
        (Verdict.UNREACHABLE, "never came up, left out"),
    ],
)
def test_each_verdict_has_its_words(verdict: Verdict, words: str) -> None:
    lines = told(ONE, dataclasses.replace(TWO, verdict=verdict)).splitlines()
    header, first, second = lines[4:7]
    at = header.index("verdict")
    assert (first[at:], second[at:]) == ("chosen", words)


def test_full_says_whether_its_window_is() -> None:
    full = dataclasses.replace(TWO, verdict=Verdict.FULL, window_bytes=64 << 10)
    assert told(ONE, full).splitlines()[6].endswith("  full")


def test_what_is_not_ready_has_no_figures() -> None:
    lost = dataclasses.replace(
        TWO, verdict=Verdict.NOT_READY, state=State.QUARANTINED, predicted_ns=0, score_ns=0
    )
    line = told(ONE, lost).splitlines()[6]
    assert "quarantined" in line
    assert line.split().count("-") == 3
    assert "0 ns" not in line


def test_rungs_stand_apart() -> None:
    later = dataclasses.replace(TWO, rung=1, verdict=Verdict.LATER_RUNG)
    lines = told(ONE, later).splitlines()
    assert [lines.index(word) for word in ("rung 0", "rung 1")] == [5, 7]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (told(ONE), "done in 1.5 ms; there is no other."),
        (
            told(ONE, dataclasses.replace(TWO, verdict=Verdict.NOT_READY)),
            "done in 1.5 ms; no other takes it now.",
        ),
        (
            told(ONE, dataclasses.replace(TWO, score_ns=ONE.score_ns)),
            "done in 1.5 ms, as on tcp 1 -> 2, which stands later in the plan.",
        ),
        (
            told(ONE, dataclasses.replace(TWO, tier=2, penalty=3, predicted_ns=9 * 10**5)),
            "the next best, tcp 1 -> 2, would take 900 us (with the penalty of tier 2 2.5 ms).",
        ),
        (
            told(ONE, dataclasses.replace(TWO, verdict=Verdict.FULL, predicted_ns=10**6)),
            "no other takes it now; tcp 1 -> 2 would be quicker, but is not waited for.",
        ),
        (told(strategy=Strategy.ROUND_ROBIN), "is chosen: it is its turn."),
        (told(strategy=Strategy.STATIC), "by nominal speeds its share is due next."),
        (told(strategy=Strategy.TENT_PAPER), "the next best, tcp 1 -> 2, would take 2.5 ms."),
        (
            told(
                dataclasses.replace(ONE, verdict=Verdict.AWAITED),
                dataclasses.replace(TWO, verdict=Verdict.PASSED_OVER),
                winner=-2,
            ),
            "The slice waits for tcp 0 -> 2: full, but sooner done with all that waits than "
            "tcp 1 -> 2, the best open one, with this slice alone (2.5 ms).",
        ),
        (
            told(dataclasses.replace(ONE, verdict=Verdict.FULL), winner=-2),
            "The slice waits: no endpoint that is ready takes more now.",
        ),
        (
            told(dataclasses.replace(ONE, verdict=Verdict.NOT_READY), winner=-1, rung=-1),
            "No endpoint is ready",
        ),
    ],
)
def test_the_last_sentence_says_why(text: str, sentence: str) -> None:
    assert sentence in closing(text)


def test_without_candidates_it_says_why() -> None:
    nobody = dataclasses.replace(TOLD, candidates=(), route=-1, rung=-1, winner=-1)
    none = render(dataclasses.replace(nobody, row="(no row of the plan matches)"))
    assert none.splitlines()[:2] == [
        "no row of plan generation 3",
        "  (no row of the plan matches)",
    ]
    assert "TENT_E_NO_PATH" in closing(none)
    with Engine(key=KEY) as engine:
        engine.register(bytearray(8))
        own = engine.explain(engine.open_segment(engine.export()), length=8)
    assert "own: no rail is needed" in closing(render(own))


def test_a_time_that_never_comes() -> None:
    never = dataclasses.replace(TWO, predicted_ns=1 << 62, score_ns=1 << 62)
    assert told(ONE, never).splitlines()[6].split().count("never") == 2


# ---- the command --------------------------------------------------------------------------------


@pytest.fixture
def plan_file(tmp_path: Path) -> str:
    path = tmp_path / "plan"
    path.write_text(PLAN)
    return str(path)


def test_the_command_works_out_of_the_box(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain"]) == 0
    text = capsys.readouterr().out
    assert "route * : shm[0] ; tcp[1]" in text
    assert " is chosen: done in " in closing(text)


def test_the_command_takes_a_plan_and_words(
    plan_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--op", "write", "--size", "1k", "--class", "high", "--label", "kv"]
    assert main(["explain", "--plan", plan_file, *words]) == 0
    text = capsys.readouterr().out
    assert text.startswith("row 3 of plan generation 1\n")
    assert "first slice 1 KiB" in text
    assert main(["explain", "--plan", plan_file, "--local", "cuda:0"]) == 0
    assert capsys.readouterr().out.startswith("row 1 ")
    assert main(["explain", "--plan", plan_file, "--remote", "cuda:0"]) == 0
    assert capsys.readouterr().out.startswith("row 2 ")


def test_the_command_as_json(plan_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["explain", "--plan", plan_file, "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert set(facts) == {field.name for field in dataclasses.fields(Explanation)}
    assert facts["strategy"] == "predictive"
    assert facts["winner"] == 1
    winner = facts["candidates"][1]
    assert set(winner) == {field.name for field in dataclasses.fields(Candidate)}
    assert (winner["verdict"], winner["state"], winner["rail"]) == ("chosen", "healthy", 1)


def test_the_command_asks_about_another_engine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    key_file = tmp_path / "key"
    key_file.write_bytes(KEY)
    key_file.chmod(0o600)
    monkeypatch.setenv("TENT_KEY_FILE", str(key_file))
    with Engine(key=KEY, name="other") as other:
        other.register(bytearray(8), label="weights")
        arguments = ["explain", "--peer", other.address]
        assert main([*arguments, "--remote", "weights", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["candidates"][0]["name"].startswith("other: ")
        assert main([*arguments, "--remote", "wieghts"]) == 1
        assert "'wieghts'" in capsys.readouterr().err


@pytest.mark.parametrize(
    "words", [["--op", "copy"], ["--class", "urgent"], ["--size", "0"], ["--size", "big"], ["x"]]
)
def test_a_wrong_word_is_the_command_lines(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["explain", *words])
    assert caught.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_what_cannot_be_explained_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    monkeypatch.delenv("TENT_KEY_FILE", raising=False)
    bad = tmp_path / "plan"
    bad.write_text(PLAN.replace("route *", "rute *"))
    for words, expected in (
        (["--plan", str(tmp_path / "none")], "none: No such file"),
        (["--plan", str(bad)], "line 10, column 1"),
        (["--peer", f"127.0.0.1:{closed_port()}"], "refuses connections"),
        (["--local", "x" * 32], "local location"),
    ):
        assert main(["explain", *words]) == 1
        captured = capsys.readouterr()
        assert captured.out == ""
        assert captured.err.startswith("tent: ")
        assert expected in captured.err
