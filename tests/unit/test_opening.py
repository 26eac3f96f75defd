"""By what an engine runs: its own plan, the native default, or a policy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import tent
from tent.orchestration.opening import VARIABLES, is_address, is_loopback
from tent.orchestration.policy.environment import POLICY_FILE
from tent.orchestration.policy.environment import VARIABLES as READ

KEY = b"0123456789abcdef"


def policy_file(folder: Path, text: str) -> Path:
    path = folder / "policy.yaml"
    path.write_text(f"version: 1\n{text}")
    return path


def test_variables_that_steer_are_those_that_are_read() -> None:
    assert set(VARIABLES) == {POLICY_FILE, *(variable.name for variable in READ)}


@pytest.mark.parametrize(
    ("listen", "address"),
    [
        (None, "127.0.0.1"),
        ("127.0.0.3:0", "127.0.0.3"),
        ("localhost:0", "127.0.0.1"),
        ("none", "127.0.0.1"),
        ("[::1]:0", "::1"),
    ],
)
def test_engine_on_loopback_without_a_plan_shares_memory_and_has_a_socket_behind_it(
    listen: str | None, address: str
) -> None:
    with tent.Engine(key=KEY, listen=listen) as engine:
        rails = f"rail 0 shm host\nrail 1 tcp {address}\n"
        assert engine.plan == f"plan 1\n{rails}route * : shm[0] ; tcp[1]\n"


def test_engine_on_loopback_without_a_plan_does_without_a_shm_plugin_that_is_torn(
    tmp_path: Path,
) -> None:
    (tmp_path / "libtent_plugin_shm.so").write_text("torn")
    with tent.Engine(key=KEY, plugin_path=tmp_path) as engine:
        assert engine.plan == "plan 1\nrail 0 tcp 127.0.0.1\nroute * : tcp[0]\n"


def test_engine_on_loopback_without_a_plan_looks_at_nothing() -> None:
    with (
        tent.Engine(key=KEY) as engine,
        pytest.raises(tent.InvalidArgument, match="open it with policy="),
    ):
        engine.reload_policy()


def test_engine_with_a_policy_is_opened_as_it_says(tmp_path: Path) -> None:
    text = "engine: {name: from-policy, limits: {batches_max: 1}}\nrails: {include: lo}\n"
    with tent.Engine(policy=policy_file(tmp_path, text), key=KEY) as engine:
        assert "\nname from-policy\n" in tent.descriptor_print(engine.export())
        assert "rail 0 tcp lo" in engine.plan
        with engine.batch(), pytest.raises(tent.Again):
            engine.batch().__enter__()


def threads_of(**options: Any) -> int:
    """Native threads that an engine with these options has started."""
    tasks = Path("/proc/self/task")
    before = {task.name for task in tasks.iterdir()}
    with tent.Engine(key=KEY, **options):
        return len({task.name for task in tasks.iterdir()} - before)


def test_workers_are_one_that_drives_and_helpers(tmp_path: Path) -> None:
    alone = threads_of(workers=1)
    assert threads_of(workers=3) == alone + 2
    # The policy's engine looks after the machine, by threads of its own.
    two, four = (
        threads_of(policy=policy_file(tmp_path, f"engine: {{workers: {count}}}\n"))
        for count in (2, 4)
    )
    assert four == two + 2
    wide = policy_file(tmp_path, "engine: {workers: 4}\n")
    assert threads_of(policy=wide, workers=2) == two
    with pytest.raises(tent.InvalidArgument, match="17 workers: at most 16"):
        tent.Engine(key=KEY, workers=17)


def test_arguments_win_over_the_policy(tmp_path: Path) -> None:
    policy = policy_file(tmp_path, "engine: {name: from-policy}\n")
    with tent.Engine(policy=policy, name="from-argument", key=KEY) as engine:
        assert "\nname from-argument\n" in tent.descriptor_print(engine.export())


def test_environment_steers_an_engine_without_a_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = policy_file(tmp_path, "rules: [{match: {label: kv}, use: {class: high}}]\n")
    monkeypatch.setenv("TENT_POLICY", str(policy))
    with tent.Engine(key=KEY) as engine:
        assert "route label=kv use class=high : shm[0] ; tcp[1]" in engine.plan
    plan = "plan 1\nrail 0 tcp 127.0.0.2\nroute * : tcp[0]\n"
    with tent.Engine(key=KEY, plan=plan) as engine:
        assert engine.plan == plan


def test_policy_that_cannot_be_read_is_named_with_who_named_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "missing.yaml"
    with pytest.raises(tent.PolicyError, match=f"^{missing}: .*No such file"):
        tent.Engine(key=KEY, policy=missing)
    monkeypatch.setenv("TENT_POLICY", str(missing))
    with pytest.raises(tent.PolicyError, match=f"^TENT_POLICY={missing}: .*No such file"):
        tent.Engine(key=KEY)


def test_plan_and_policy_together_are_refused(tmp_path: Path) -> None:
    plan = "plan 1\nrail 0 tcp lo\nroute * : tcp[0]\n"
    with pytest.raises(tent.InvalidArgument, match="both given"):
        tent.Engine(plan=plan, policy=policy_file(tmp_path, ""))


def test_steered_engine_takes_no_plan_of_another_hand(tmp_path: Path) -> None:
    with (
        tent.Engine(policy=policy_file(tmp_path, ""), key=KEY) as engine,
        pytest.raises(tent.InvalidArgument, match="made by its policy"),
    ):
        engine.install_plan("plan 1\nrail 0 tcp lo\nroute * : tcp[0]\n")


def test_wrong_policy_opens_no_engine(tmp_path: Path) -> None:
    with pytest.raises(tent.PolicyError, match=r"policy\.yaml:2: rules\[0\]\.uze"):
        tent.Engine(policy=policy_file(tmp_path, "rules: [{uze: {}}]\n"))


@pytest.mark.parametrize(
    ("listen", "loopback"),
    [
        (None, True),
        ("127.0.0.1:0", True),
        ("127.3.2.1:7000", True),
        ("[::1]:0", True),
        ("localhost:1", True),
        ("0.0.0.0:0", False),
        ("[::]:0", False),
        ("10.0.0.1:7000", False),
        ("node7:7000", False),
        ("none", False),
    ],
)
def test_loopback_is_what_only_this_machine_reaches(listen: str | None, loopback: bool) -> None:
    assert is_loopback(listen) == loopback


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:7000", True),
        ("node-7.rack:7000", True),
        ("[fd00::1]:7000", True),
        ("[fe80::1%eth0]:7000", True),
        ("sim://host:1", True),
        ("decode-0", False),
        ("decode/0", False),
        ("team:decode", False),
    ],
)
def test_names_are_told_from_addresses(text: str, address: bool) -> None:
    assert is_address(text) == address
