"""Memory for transfers: mappable by peers, of the pages and node asked for, safe in a fork."""

from __future__ import annotations

import gc
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests_support import KEY

from tent import Access, Busy, Engine, InvalidArgument, Memory, NoMemory, Unsupported

MIB = 1 << 20


def maps() -> str:
    return Path("/proc/self/maps").read_text(encoding="utf-8")


def in_child(body: Any) -> int:
    """Runs it in a forked child; 0 when it gave True."""
    child = os.fork()
    if child == 0:
        code = 3
        try:
            code = 0 if body() else 1
        finally:
            os._exit(code)
    _, status = os.waitpid(child, 0)
    return os.waitstatus_to_exitcode(status)


def test_memory_is_a_sealed_file_that_bears_its_label() -> None:
    memory = Memory(5 * MIB + 1, label="pages of a cache")
    info = memory.info
    assert (info.mappable, info.why, info.label) == (True, "", "pages of a cache")
    assert info.access == Access.READ | Access.WRITE
    assert (len(memory), info.length % info.page_size, info.node) == (5 * MIB + 1, 0, -1)
    assert "/memfd:tent:pages of a cache" in maps()
    assert len(memory.view()) == memory.numpy().nbytes == 5 * MIB + 1
    assert not memory.numpy().any()


def test_views_keep_it_alive_and_the_last_one_frees_it() -> None:
    memory = Memory(MIB, label="kept by a view")
    half = memory.numpy()[MIB // 2 :].view(np.uint64)
    del memory
    gc.collect()
    half[:] = 7
    assert "kept by a view" in maps()
    del half
    gc.collect()
    assert "kept by a view" not in maps()


def test_close_frees_it_at_once_and_is_refused_while_anything_refers_to_it() -> None:
    memory = Memory(MIB, label="closed soon")
    for make in (memory.view, memory.numpy, lambda: memoryview(memory.view())[5:]):
        held = make()
        with pytest.raises(Busy, match="1048576 bytes"):
            memory.close()
        assert not memory.closed
        del held
    memory.close()
    assert memory.closed
    assert "closed soon" not in maps()


def test_private_memory_is_none_that_peers_map() -> None:
    info = Memory(MIB, shared=False, label="alone").info
    assert not info.mappable
    assert "private" in info.why
    assert "tent:alone" not in maps()


def test_memory_for_reading_is_written_here_and_registered_for_reading_only() -> None:
    memory = Memory(4096, access="r")
    memory.numpy()[0] = 1
    assert memory.info.access == Access.READ
    with Engine(key=KEY) as engine:
        for piece in (memory, memory.numpy()[100:200]):
            with pytest.raises(InvalidArgument, match="for peers to read only"):
                engine.register(piece, access="rw")
            with pytest.raises(InvalidArgument, match="for peers to read only"):
                engine.register(piece, access="w")
        engine.register(memory, access="r")
        engine.register(memory, access="")
        assert [info.access for info in engine.regions] == [Access.READ, Access.NONE]


def test_it_is_bound_to_the_node_asked_for() -> None:
    assert Memory(MIB, numa=0).info.node == 0
    with pytest.raises(InvalidArgument, match=r"NUMA node 1000.*it may use"):
        Memory(MIB, numa=1000)


@pytest.mark.parametrize("size", ["2m", "1g"])
def test_huge_pages_are_there_or_counted(size: str) -> None:
    page = {"2m": 2 * MIB, "1g": 1024 * MIB}[size]
    try:
        info = Memory(3, huge=size).info
    except NoMemory as error:
        assert "1 needed, 0 free" in str(error)
    except Unsupported as error:
        assert "no huge pages" in str(error)
    else:
        assert (info.page_size, info.length) == (page, page)


def test_normal_pages_on_request() -> None:
    info = Memory(4 * MIB, huge="none").info
    assert info.page_size == os.sysconf("SC_PAGESIZE")
    assert not info.transparent


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"length": 1 << 63}, "positive number"),
        ({"huge": "4k"}, "auto, none, 2m, 1g"),
        ({"numa": -1}, "numa is -1"),
        ({"numa": 1 << 32}, "number of a NUMA node"),
        ({"access": "w"}, "'r' or 'rw'"),
        ({"access": ""}, "'r' or 'rw'"),
        ({"label": "x" * 32}, "at most 31 fit"),
    ],
)
def test_options_that_mean_nothing_are_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidArgument, match=words):
        Memory(**{"length": 4096, **options})


def test_more_than_there_is_says_how_much_there_is() -> None:
    with pytest.raises(NoMemory, match=r"1125899906842624 bytes are needed, .* has \d+ left"):
        Memory(1 << 50)


def test_engines_make_it_with_the_same_options() -> None:
    with Engine(key=KEY) as engine:
        memory = engine.alloc(
            np.uint64(4096), numa=np.uint32(0), huge="none", access="r", label="of an engine"
        )
        info = memory.info
        assert (info.node, info.access, info.label) == (0, Access.READ, "of an engine")
        assert not engine.alloc(4096, shared=False).info.mappable
    assert memory.numpy()[0] == 0


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
@pytest.mark.parametrize("shared", [True, False])
def test_what_a_forked_child_writes_stays_its_own(shared: bool) -> None:
    memory = Memory(3 * MIB, shared=shared)
    array = memory.numpy()
    array[:] = 5

    def child() -> bool:
        seen = bool((array == 5).all())
        array[:] = 6
        return seen and not memory.info.mappable and bool((memory.numpy() == 6).all())

    assert in_child(child) == 0
    assert (array == 5).all()
    assert memory.info.mappable == shared


@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_forked_child_may_let_go_of_it() -> None:
    memory = Memory(MIB)
    memory.numpy()[:] = 8

    def child() -> bool:
        memory.close()
        own = Memory(MIB)
        return own.info.mappable and not own.numpy().any()

    assert in_child(child) == 0
    assert (memory.numpy() == 8).all()
