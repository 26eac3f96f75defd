"""Who may reach whom over shm: users, namespaces, rights, and what the kernel itself enforces.

Needs root for users and namespaces of its own; traffic stays on this machine.
"""

from __future__ import annotations

import os
import shutil
import socket
import stat
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
from peers import KEY
from shm_peer import descriptors
from shm_peers import MIB, Actor, ActorFailed, actor, plan

from tent import Denied, Engine
from tent.testing import eventually

# Numbers that no account of the machine has to have.
ALICE, BOB = 54321, 54322


def as_user(uid: int) -> list[str]:
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]


def in_mounts_of_its_own(script: str) -> list[str]:
    """The command runs after the script, whose mounts nobody else sees."""
    return [
        "unshare",
        "--mount",
        "--propagation=private",
        "sh",
        "-ec",
        script + ' ; exec "$@"',
        "-",
    ]


@pytest.fixture
def needs_root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: other users and namespaces")
    for tool in ("setpriv", "unshare"):
        if shutil.which(tool) is None:
            pytest.skip(f"needs {tool} (util-linux)")
    tried = subprocess.run(["unshare", "--mount", "--pid", "--fork", "true"], check=False)
    if tried.returncode != 0:
        pytest.skip("needs namespaces, which this machine does not let us make")
    run = [*as_user(ALICE), sys.executable, "-c", "import tent"]
    if subprocess.run(run, check=False, cwd="/", stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip(f"needs an interpreter that other users can run; {sys.executable} is not one")


def moved(user: Actor, peer: Actor, value: int) -> dict[str, int]:
    """Writes and reads, checked at both ends; bytes by transport."""
    user.ask("open", peer=peer.address)
    user.ask("fill", value=value)
    user.ask("move")
    assert peer.ask("count", value=value)["count"] == MIB
    user.ask("fill", value=0)
    rails: dict[str, int] = user.ask("move", op="read")["rails"]
    assert user.ask("count", value=value)["count"] == MIB
    return rails


def ways(user: Actor) -> list[str]:
    """First word of each candidate's way."""
    return [via.split()[0] for via in user.ask("via")["via"]]


# ---- users --------------------------------------------------------------------------------------


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(("memory", "way"), [("shared", "mapped"), ("private", "process_vm")])
def test_one_unprivileged_user_is_served_like_root(memory: str, way: str) -> None:
    text = plan()
    with (
        actor(text, memory=memory, prefix=as_user(ALICE)) as peer,
        actor(text, memory=memory, prefix=as_user(ALICE)) as user,
    ):
        assert moved(user, peer, 3) == {"shm": 2 * MIB}
        assert ways(user) == [way]


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(("memory", "way"), [("shared", "mapped"), ("private", "ring")])
def test_another_user_who_is_let_in_maps_or_takes_the_ring(memory: str, way: str) -> None:
    text = plan(users=f"{ALICE},{BOB}")
    with (
        actor(text, memory=memory, prefix=as_user(ALICE)) as peer,
        actor(text, memory=memory, prefix=as_user(BOB)) as user,
    ):
        assert moved(user, peer, 3) == {"shm": 2 * MIB}
        assert ways(user) == [way]


@pytest.mark.usefixtures("needs_root")
def test_another_user_is_not_let_in_by_default() -> None:
    text = plan(tcp=True)
    with (
        actor(text, prefix=as_user(ALICE)) as peer,
        actor(text, prefix=as_user(BOB)) as user,
    ):
        assert moved(user, peer, 3) == {"shm": 0, "tcp": 2 * MIB}


@pytest.mark.usefixtures("needs_root")
def test_one_side_alone_cannot_let_itself_in() -> None:
    with (
        actor(plan(tcp=True), prefix=as_user(ALICE)) as peer,
        actor(plan(tcp=True, users=f"{ALICE},{BOB}"), prefix=as_user(BOB)) as user,
    ):
        assert moved(user, peer, 3) == {"shm": 0, "tcp": 2 * MIB}


# ---- namespaces ---------------------------------------------------------------------------------

NEW_PIDS = ["unshare", "--pid", "--fork", "--kill-child"]


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize(("memory", "way"), [("shared", "mapped"), ("private", "ring")])
def test_who_cannot_see_the_peers_process_does_not_reach_into_it(memory: str, way: str) -> None:
    with (
        actor(plan(), memory=memory) as peer,
        actor(plan(), memory=memory, prefix=NEW_PIDS) as user,
    ):
        assert moved(user, peer, 3) == {"shm": 2 * MIB}
        assert ways(user) == [way]
        # Without its number the socket alone tells that it is gone.
        user.kill()
        eventually(
            lambda: not [name for name in peer.ask("held")["descriptors"] if "pidfd" in name],
            what="the target has let go of the dead",
        )
        with actor(plan(), memory=memory, prefix=NEW_PIDS) as next_one:
            assert moved(next_one, peer, 4) == {"shm": 2 * MIB}


@pytest.mark.usefixtures("needs_root")
def test_two_processes_with_the_same_number_in_namespaces_of_their_own() -> None:
    """The number the peer has there may be another process here, or oneself."""
    with (
        actor(plan(), memory="private", prefix=NEW_PIDS) as peer,
        actor(plan(), memory="private", prefix=NEW_PIDS) as user,
    ):
        assert peer.pid == user.pid == 1
        assert moved(user, peer, 3) == {"shm": 2 * MIB}
        assert ways(user) == ["ring"]


@pytest.mark.usefixtures("needs_root")
@pytest.mark.parametrize("memory", ["shared", "private"])
def test_another_ipc_namespace_bars_nothing(memory: str) -> None:
    with (
        actor(plan(), memory=memory) as peer,
        actor(plan(), memory=memory, prefix=["unshare", "--ipc"]) as user,
    ):
        assert moved(user, peer, 3) == {"shm": 2 * MIB}


@pytest.mark.usefixtures("needs_root")
def test_where_the_peers_socket_cannot_be_seen_tcp_serves(tmp_path: Path) -> None:
    text = plan(tcp=True, directory=str(tmp_path))
    hidden = in_mounts_of_its_own(f"mount -t tmpfs none '{tmp_path}'")
    with actor(text) as peer, actor(text, prefix=hidden) as user:
        assert moved(user, peer, 3) == {"shm": 0, "tcp": 2 * MIB}
        # The other way round likewise: neither sees the other's.
        assert moved(peer, user, 4)["shm"] == 0


@pytest.mark.usefixtures("needs_root")
def test_a_peer_of_another_machine_is_not_even_tried(tmp_path: Path) -> None:
    boot = tmp_path / "boot_id"
    boot.write_text(f"{uuid.UUID(int=7)}\n", encoding="ascii")
    elsewhere = in_mounts_of_its_own(f"mount --bind '{boot}' /proc/sys/kernel/random/boot_id")
    text = plan(tcp=True)
    with actor(text) as peer, actor(text, prefix=elsewhere) as user:
        assert moved(user, peer, 3) == {"shm": 0, "tcp": 2 * MIB}
        assert user.ask("via")["via"] == [""], "shm is a candidate"


# ---- rights -------------------------------------------------------------------------------------


def test_a_grant_to_read_gives_a_mapping_that_cannot_be_written() -> None:
    with actor(plan()) as peer, actor(plan()) as user:
        user.ask("open", peer=peer.ask("grant", access="r")["descriptor"])
        peer.ask("fill", value=6)
        user.ask("move", op="read")
        assert user.ask("count", value=6)["count"] == MIB
        with pytest.raises(ActorFailed, match="Denied"):
            user.ask("move")
        errors = user.ask("make_writable")["errors"]
        # Of the region, and of the table of the target's regions.
        assert len(errors) >= 2, errors
        assert set(errors) == {"EACCES"}, errors


def test_read_only_memory_cannot_be_written_by_any_trick_of_a_peer() -> None:
    with actor(plan(), memory="read only", access="r") as peer, actor(plan()) as user:
        user.ask("open", peer=peer.address)
        peer.ask("fill", value=6)
        user.ask("move", op="read")
        assert user.ask("count", value=6)["count"] == MIB
        assert set(user.ask("make_writable")["errors"]) == {"EACCES"}
        errors = user.ask("map_again")["errors"]
        if set(errors) == {"EPERM"} and os.geteuid() != 0:
            pytest.skip("needs a privilege to open what another descriptor has mapped")
        assert errors
        assert set(errors) <= {"EPERM", "EACCES"}, errors
        assert peer.ask("count", value=6)["count"] == MIB


def test_more_rights_of_another_grant_do_not_leak_into_the_first() -> None:
    """The same region twice, once to read and once to write: two mappings, each with its own."""
    with actor(plan()) as peer, Engine(plan=plan(), key=KEY) as engine:
        local = engine.register(bytearray(MIB))
        grants = [bytes.fromhex(peer.ask("grant", access=a)["descriptor"]) for a in ("rw", "r")]
        wide, narrow = (engine.open_segment(each, timeout=20.0) for each in grants)
        engine.write(wide, local=local, remote="peer")
        engine.read(narrow, local=local, remote="peer")
        with pytest.raises(Denied):
            engine.write(narrow, local=local, remote="peer")
        wide.close()
        engine.read(narrow, local=local, remote="peer")


# ---- the socket ---------------------------------------------------------------------------------


def sockets(directory: Path) -> list[Path]:
    return [path for path in directory.rglob("*") if stat.S_ISSOCK(path.lstat().st_mode)]


def test_sockets_are_for_their_user_alone_and_go_with_their_engine(tmp_path: Path) -> None:
    with Engine(plan=plan(directory=str(tmp_path)), key=KEY):
        (path,) = sockets(tmp_path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) & 0o077 == 0 or path.parent == tmp_path
    assert not list(tmp_path.iterdir()), "something is left of an engine that was closed"


def test_what_killed_engines_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    text = plan(directory=str(tmp_path))
    with actor(text) as alive:
        (kept,) = sockets(tmp_path)
        for _ in range(3):
            with actor(text) as killed:
                killed.kill()
        left = sockets(tmp_path)
        assert kept in left
        assert len(left) >= 2, "a killed engine left nothing: this test tests nothing"
        with Engine(plan=text, key=KEY) as engine:
            now = sockets(tmp_path)
            assert len(now) == 2
            assert kept in now
            segment = engine.open_segment(alive.address, timeout=20.0)
            engine.write(segment, local=engine.register(bytearray(MIB)), remote="peer")
        assert sockets(tmp_path) == [kept]
    assert not list(tmp_path.iterdir())


def test_strangers_at_the_socket_disturb_no_transfer(tmp_path: Path) -> None:
    text = plan(directory=str(tmp_path), connect_timeout="200ms")
    with Engine(plan=text, key=KEY) as target:
        target.register(target.alloc(MIB), label="peer")
        (path,) = sockets(tmp_path)
        before = len(descriptors())
        strangers: list[socket.socket] = []
        for number in range(200):
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_NONBLOCK)
            strangers.append(stranger)
            try:
                stranger.connect(str(path))
                if number % 3:
                    stranger.send(os.urandom(number))
                    socket.send_fds(stranger, [os.urandom(40)], [0, 1, 2])
            except OSError:
                continue  # full, or thrown out already
        with Engine(plan=text, key=KEY) as engine:
            local = engine.register(bytearray(b"x" * MIB))
            segment = engine.open_segment(target.address, timeout=20.0)
            engine.write(segment, local=local, remote="peer")
        for stranger in strangers:
            stranger.close()
        eventually(lambda: len(descriptors()) <= before, what="strangers' descriptors are gone")


# ---- forks --------------------------------------------------------------------------------------


@pytest.mark.parametrize("memory", ["shared", "private"])
def test_a_forked_child_does_not_keep_a_killed_initiator_alive(memory: str) -> None:
    with actor(plan(), size=8 * MIB, memory=memory) as peer:
        with actor(plan(faults="fault.throttle=64mbit"), size=8 * MIB, memory=memory) as user:
            user.ask("open", peer=peer.address)
            user.ask("submit", part=64 << 10)
            child = user.ask("fork")["pid"]
            try:
                user.kill()
                assert Path(f"/proc/{child}").exists()
                peer_release(peer)
            finally:
                os.kill(child, 9)
        assert peer.ask("count", value=0x5A)["count"] == 8 * MIB


def peer_release(peer: Actor) -> None:
    def released() -> bool:
        try:
            peer.ask("release")
        except ActorFailed as error:
            assert error.name == "Busy", error
            return False
        return True

    eventually(released, what="the release")


@pytest.mark.parametrize("memory", ["shared", "private"])
def test_a_forked_child_does_not_pass_for_its_killed_target(memory: str) -> None:
    with actor(plan(), memory=memory) as user, actor(plan(), memory=memory) as peer:
        assert moved(user, peer, 3) == {"shm": 2 * MIB}
        child = peer.ask("fork")["pid"]
        try:
            peer.kill()

            def lost() -> bool:
                try:
                    user.ask("move", seconds=5.0)
                except ActorFailed as error:
                    return error.name in ("PeerLost", "Unfenced", "TransportFailed", "StaleSegment")
                return False

            eventually(lost, what="the initiator sees that its peer is gone")
        finally:
            os.kill(child, 9)


@pytest.mark.parametrize("role", ["initiator", "target"])
def test_a_forked_child_that_ends_disturbs_nobody(role: str, tmp_path: Path) -> None:
    text = plan(directory=str(tmp_path))
    with actor(text) as peer, actor(text) as user:
        assert moved(user, peer, 3) == {"shm": 2 * MIB}
        forked = user if role == "initiator" else peer
        assert forked.ask("fork_and_end")["status"] in (3, 4)
        assert len(sockets(tmp_path)) == 2
        user.ask("fill", value=4)
        user.ask("move")
        assert peer.ask("count", value=4)["count"] == MIB
        with actor(text) as late:
            assert moved(late, peer, 5) == {"shm": 2 * MIB}


def test_a_child_cannot_write_into_peers_through_what_it_inherited() -> None:
    """Peers' memory is not mapped in a child at all."""
    with actor(plan()) as peer, Engine(plan=plan(), key=KEY) as engine:
        local = engine.register(bytearray(MIB))
        segment = engine.open_segment(peer.address, timeout=20.0)
        engine.write(segment, local=local, remote="peer")
        there = segment.region("peer")

        def mapped_now() -> bool:
            told = engine.explain(segment, op="write", length=4096, remote=there)
            return told.candidates[0].via.startswith("mapped")

        # The kernel is told of a mapping's fork right after it was made, not with it.
        eventually(mapped_now, what="the peer's memory is mapped")
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            lines = Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace")
            found = [line for line in lines.splitlines() if "/memfd:tent" in line]
            os.write(writing, "\n".join(["", *found]).encode())
            os._exit(0)
        os.close(writing)
        mapped = os.read(reading, 4096).decode()
        os.close(reading)
        os.waitpid(child, 0)
        assert not mapped.strip(), mapped
