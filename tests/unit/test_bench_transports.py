"""The transport benchmark itself: what is measured, against what, and that yardsticks move bytes.

The yardsticks' programs are compiled and run for some milliseconds; nothing here judges speed.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from argparse import Namespace
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.append(str(BENCH))  # bench/ is a folder of scripts, not a package

import rows  # noqa: E402
from harness import BenchError, Sample  # noqa: E402
from references import (  # noqa: E402
    PIPE_CHUNKS,
    CopyReference,
    fastest,
    form_text,
    rounds_of,
)
from report import KIB, MIB  # noqa: E402
from shapes import (  # noqa: E402
    CACHE_BLOCK,
    CACHE_BLOCKS,
    FOOTPRINT_MIN,
    LATENCY,
    Shape,
    arena_size,
    shapes,
)
from toolchain import Job, compile_all  # noqa: E402
from ways import TRANSPORTS, choose_plan, choose_ways  # noqa: E402

ARENA = arena_size()
SLICE_NS = 1_000_000
FORMS = {
    "mapped": ("1", "2"),
    "attach": ("1", "2", "1-vector", "2-vector"),
    "pipe": ("32768x16", "4096x1"),
}


def sample(moved: int, *, elapsed_ns: int = 1000, p50_ns: int = 0) -> Sample:
    return Sample(moved, 1, elapsed_ns, 0, p50_ns, p50_ns)


def arguments(**given: object) -> Namespace:
    return Namespace(
        **{"transport": "shm", "way": None, "plan": None, "connections": None, **given}
    )


# ---- shapes ----


def test_the_cache_is_a_prompt_of_4096_tokens() -> None:
    caches = [shape for shape in shapes(cache=True) if shape.cache]
    assert [shape.op for shape in caches] == ["write", "read"]
    for shape in caches:
        assert (shape.batch, shape.block) == (1952, 147456)
        assert shape.size == shape.footprint == CACHE_BLOCK * CACHE_BLOCKS
    assert not [shape for shape in shapes(cache=False) if shape.cache]


def test_every_shape_fits_the_arena_and_divides_its_footprint() -> None:
    for shape in [LATENCY, *shapes(cache=True)]:
        assert shape.size <= shape.footprint <= ARENA
        assert shape.footprint % shape.block == 0
        assert shape.footprint >= FOOTPRINT_MIN


# ---- ways ----


def test_each_way_of_shm_leaves_no_other() -> None:
    names = [way.name for way in choose_ways("shm", None)]
    assert names == ["mapped", "attach", "ring"]
    for way in choose_ways("shm", None):
        plan, _ = choose_plan(arguments(), TRANSPORTS["shm"], way)
        closed = {name for name in names if f"set shm.{name}=no\n" in plan}
        assert closed == set(names) - {way.name}


def test_only_mapped_memory_is_the_engines_own() -> None:
    memory = {way.name: way.memory for way in choose_ways("shm", None)}
    assert memory == {"mapped": "engine", "attach": "private", "ring": "private"}


def test_a_way_that_does_not_exist_is_refused_by_name() -> None:
    assert [way.name for way in choose_ways("shm", "ring")] == ["ring"]
    with pytest.raises(BenchError, match="no way called 'rdma': mapped attach ring"):
        choose_ways("shm", "rdma")
    with pytest.raises(BenchError, match="it has only one"):
        choose_ways("tcp", "mapped")


def test_a_plan_of_ones_own_needs_its_way(tmp_path: Path) -> None:
    plan = tmp_path / "plan"
    plan.write_text("plan 1\nrail 0 shm host\nroute * : shm[0]\n", encoding="utf-8")
    way = TRANSPORTS["shm"].ways[0]
    with pytest.raises(BenchError, match="--way"):
        choose_plan(arguments(plan=plan), TRANSPORTS["shm"], way)
    text, _ = choose_plan(arguments(plan=plan, way="mapped"), TRANSPORTS["shm"], way)
    assert text == plan.read_text(encoding="utf-8")


def test_connections_are_for_transports_that_have_some() -> None:
    with pytest.raises(BenchError, match="no connections"):
        choose_plan(arguments(connections=2), TRANSPORTS["shm"], TRANSPORTS["shm"].ways[0])
    tcp = TRANSPORTS["tcp"]
    text, connections = choose_plan(arguments(transport="tcp", connections=2), tcp, tcp.ways[0])
    assert connections == 2
    assert "tcp.connections=2" in text


def test_small_blocks_have_no_goal() -> None:
    mapped = TRANSPORTS["shm"].ways[0].goals
    wanted = {shape: rows.wanted_of(mapped, shape) for shape in [LATENCY, *shapes(cache=True)]}
    for shape, ratio in wanted.items():
        expected = 0.9 if shape.cache else 0.95 if shape.block >= MIB else None
        assert ratio == expected


def test_latency_is_judged_by_the_difference() -> None:
    pairs = [(sample(1, p50_ns=900 + above), sample(1, p50_ns=200)) for above in (0, 50, 900)]
    check = rows.latency_check(pairs, "memcpy", 1000)
    assert check.value == 750
    assert check.ok is True
    assert rows.latency_check(pairs, "memcpy", 700).ok is False
    assert rows.latency_check(pairs, "memcpy", None).ok is None


# ---- yardsticks ----


def test_the_fastest_form_is_by_rate_over_all_rounds() -> None:
    rates = {"a": iter([10, 10]), "b": iter([25, 1]), "c": iter([1, 20])}
    assert fastest(("a", "b", "c"), lambda form: sample(next(rates[form]))) == "b"


def test_a_single_form_is_not_measured_to_choose_it() -> None:
    def never(form: str) -> Sample:
        raise AssertionError(form)

    assert fastest(("a",), never) == "a"


def test_large_batches_are_tried_once() -> None:
    assert rounds_of(Shape("write", 16 * MIB, 32)) == 1
    assert rounds_of(Shape("write", MIB, 32)) == 2


def test_forms_have_words_of_their_own() -> None:
    words = {
        form_text(mode, op, form)
        for mode, forms in FORMS.items()
        for form in forms
        for op in ("write", "read")
    }
    assert "process_vm_readv, vectors, 2 threads" in words
    assert "memcpy, 1 thread" in words
    assert "two-copy pipe, 32 KiB x16" in words
    with pytest.raises(BenchError, match="rdma"):
        form_text("rdma", "write", "1")


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("cc") is None:
        pytest.skip("no C compiler called cc")
    job = CopyReference.job(tmp_path_factory.mktemp("copies"))
    compile_all([job])
    return job.output


@pytest.fixture(params=sorted(FORMS))
def reference(request: pytest.FixtureRequest, program: Path) -> Iterator[CopyReference]:
    found = CopyReference(program, mode=request.param, arena=ARENA, page_kib=4, cores=2)
    yield found
    found.close()


def test_every_form_of_a_yardstick_moves_what_it_says(reference: CopyReference) -> None:
    """The program itself looks at its stamps, and ends when they are wrong."""
    for form in FORMS[reference.mode]:
        for op in ("write", "read"):
            for block, batch in ((4 * KIB, 1), (4 * KIB, 31), (256 * KIB, 1), (64 * KIB, 32)):
                shape = Shape(op, block, batch)
                command = f"stream {op} {block} {batch} {shape.size} {SLICE_NS} {form}"
                found = reference._process.sample(command)
                assert found.bytes == found.batches * shape.size
                assert 0 < found.p50_ns <= found.p99_ns


def test_the_cache_moves_whole(reference: CopyReference) -> None:
    for op in ("write", "read"):
        shape = Shape(op, CACHE_BLOCK, CACHE_BLOCKS, cache=True)
        form = FORMS[reference.mode][0]
        found = reference._process.sample(f"{shape.command(1)} {form}")
        assert found.bytes == shape.size


def test_a_yardstick_refuses_what_it_cannot_check(program: Path) -> None:
    reference = CopyReference(program, mode="mapped", arena=ARENA, page_kib=4, cores=2)
    with pytest.raises(BenchError, match="64 bytes"):
        reference._process.sample(f"stream write 32 1 4096 {SLICE_NS} 1")
    reference.close()


# Moves all copies of a batch but one, in both directions, and prints how many stamps are wrong.
LOSER = """
#include "work.h"
static uint64_t wrong(work w, uint64_t lost) {
    static uint8_t *arena[2];
    for (int i = 0; i < 2; i++) {
        if (arena[i] == NULL) arena[i] = bench_map(CACHE_SIZE);
        stamps_do(arena[i], i, &w, 7, stamps_before(&w, i));
    }
    for (; w.next < w.batch; w.next++) {
        work_copy c = work_copy_at(&w, w.next);
        uint8_t *local = arena[0] + c.local, *remote = arena[1] + c.remote;
        if (w.next == lost) continue;
        if (w.op == WORK_WRITE) memcpy(remote, local, c.length);
        else memcpy(local, remote, c.length);
    }
    return stamps_do(arena[w.op == WORK_WRITE], w.op == WORK_WRITE, &w, 7, STAMP_CHECK);
}
int main(void) {
    for (uint64_t op = WORK_READ; op <= WORK_WRITE; op++) {
        work stream = {.op = op, .block = 4096, .batch = 64, .footprint = 64 * 4096};
        work cache = work_of_cache(op);
        printf("%d %d %d %d\\n", (int)wrong(stream, 64), (int)wrong(stream, 63),
               (int)wrong(cache, CACHE_COPIES), (int)wrong(cache, 17));
    }
    return 0;
}
"""


def test_stamps_tell_a_single_copy_that_did_not_move(tmp_path: Path) -> None:
    source = tmp_path / "loser.c"
    source.write_text(LOSER, encoding="utf-8")
    job = Job(tmp_path / "loser", (str(source),), (f"-I{BENCH}",))
    compile_all([job])
    done = subprocess.run([job.output], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0 3 0 3\n" * 2


def test_candidates_are_forms_that_can_differ(reference: CopyReference) -> None:
    single = reference.candidates(LATENCY)
    many = reference.candidates(Shape("write", MIB, 32))
    assert len(many) == reference.calibration_samples() / 2
    if reference.mode == "pipe":
        assert len(single) == len(many) == len(PIPE_CHUNKS)
    else:
        assert single == ("1",)
        assert set(many) == set(FORMS[reference.mode])
