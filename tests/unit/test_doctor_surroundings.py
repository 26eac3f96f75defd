"""What the doctor reads beyond the topology: from a tree of files, whole, absent and garbled."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from tests_pictures import hgx

from tent.topology.model import NetDevice, Topology
from tent.transports.doctor import Surroundings, look

NIC = "0000:15:00.0"


def tree(root: Path, **files: str) -> Path:
    """Files by their path, "/" as "__"."""
    for name, text in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def seen(root: Path, **variables: str) -> Surroundings:
    return look(hgx(), variables=variables, root=root)


def test_an_empty_tree_is_not_known(tmp_path: Path) -> None:
    found = seen(tmp_path)
    assert (found.capabilities, found.numa_balancing) == (None, None)
    assert (found.uverbs, found.gpu_files) == (False, False)
    assert (found.sysctls, found.translated, found.live) == ({}, frozenset(), True)
    assert (found.own_namespaces, found.shm_trouble) == (frozenset(), "there is no /dev/shm")


@pytest.mark.parametrize(
    ("bits", "uids", "expected"),
    [
        ("0000000000004000", "0 0 4294967295", {"CAP_IPC_LOCK"}),
        ("000001ffffffffff", "0 0 4294967295", {"CAP_IPC_LOCK", "CAP_SYS_PTRACE"}),
        ("0000000000000000", "0 0 4294967295", set()),
        ("000001ffffffffff", "0 1000 1", set()),
    ],
)
def test_capabilities_count_in_the_first_user_namespace(
    tmp_path: Path, bits: str, uids: str, expected: set[str]
) -> None:
    root = tree(tmp_path, proc__self__status=f"Name:\tx\nCapEff:\t{bits}\n",
                proc__self__uid_map=f"   {uids}\n")  # fmt: skip
    assert seen(root).capabilities == expected


def test_garbled_files_are_not_known(tmp_path: Path) -> None:
    root = tree(tmp_path, proc__self__status="CapEff:\tzz\n", proc__sys__kernel__numa_balancing="?")
    assert (seen(root).capabilities, seen(root).numa_balancing) == (None, None)


def test_device_files(tmp_path: Path) -> None:
    root = tree(tmp_path, dev__infiniband__uverbs3="", dev__nvidia7="")
    assert (seen(root).uverbs, seen(root).gpu_files) == (True, True)
    other = tree(tmp_path / "other", dev__infiniband__rdma_cm="", dev__nvidiactl="")
    assert (seen(other).uverbs, seen(other).gpu_files) == (False, False)


def test_device_files_that_this_user_may_not_open(tmp_path: Path) -> None:
    root = tree(tmp_path, dev__infiniband__uverbs0="")
    assert not seen(root).uverbs_denied
    (root / "dev/infiniband/uverbs0").chmod(0)
    # Root may open everything.
    assert seen(root).uverbs_denied == (os.geteuid() != 0)
    assert not seen(tmp_path / "nothing").uverbs_denied


def test_a_library_of_verbs_that_is_none_knows_no_devices(tmp_path: Path) -> None:
    (tmp_path / "libx.so").write_text("no library")
    for name in ("libx.so", "missing.so"):
        found = seen(tmp_path, TENT_LIBIBVERBS=str(tmp_path / name))
        assert (found.libibverbs, found.verbs_devices) == (False, None)


def test_the_greater_of_all_and_the_device_counts(tmp_path: Path) -> None:
    base = "proc__sys__net__ipv4__conf__"
    root = tree(tmp_path, **{f"{base}all__rp_filter": "1", f"{base}eth0__rp_filter": "0",
                             f"{base}eth1__rp_filter": "2"})  # fmt: skip
    assert seen(root).sysctls == {"eth0/rp_filter": 1, "eth1/rp_filter": 2}


@pytest.mark.parametrize(
    ("common", "of_2m", "off"),
    [
        ("always [advise] never", None, ""),
        ("always within_size advise [never] deny force", None, "shmem_enabled"),
        ("advise never [deny]", None, "shmem_enabled"),
        ("advise [never]", "always [inherit] advise never", "shmem_enabled"),
        ("advise [never]", "inherit [advise] never", ""),
        ("[advise] never", "inherit advise [never]", "hugepages-2048kB/shmem_enabled"),
        ("garbled", None, ""),
        (None, None, ""),
    ],
)
def test_the_setting_that_forbids_huge_pages_of_memory_files_is_named(
    tmp_path: Path, common: str | None, of_2m: str | None, off: str
) -> None:
    base = "sys__kernel__mm__transparent_hugepage__"
    files = {"shmem_enabled": common, "hugepages-2048kB__shmem_enabled": of_2m}
    root = tree(tmp_path, **{base + name: text for name, text in files.items() if text})
    folder = "/sys/kernel/mm/transparent_hugepage/"
    assert seen(root).shmem_huge_off == (folder + off if off else "")


def test_memory_files_are_tried() -> None:
    trouble = look(Topology(), variables={}).memfd_trouble
    try:
        os.close(os.memfd_create("tent:test"))
    except OSError as error:
        assert trouble == error.strerror
    else:
        assert trouble == ""


def test_names_lead_to_no_other_file(tmp_path: Path) -> None:
    tree(tmp_path, proc__sys__net__ipv4__rp_filter="7")
    names = ("..", "../..", "a/b", "x\0y")
    machine = Topology(nets=tuple(NetDevice(name) for name in names))
    assert look(machine, variables={}, root=tmp_path).sysctls == {}


def test_translated_devices(tmp_path: Path) -> None:
    base = f"sys__bus__pci__devices__{NIC}__iommu_group__type"
    assert seen(tree(tmp_path / "a", **{base: "DMA-FQ\n"})).translated == {NIC}
    assert seen(tree(tmp_path / "b", **{base: "identity\n"})).translated == frozenset()


@pytest.mark.parametrize(
    ("mode", "size", "words"),
    [
        (0o600, 45, ""),
        (0o644, 45, "0644"),
        (0o600, 15, "15 bytes"),
        (0o600, 5000, "5000 bytes"),
        (None, 0, "No such file"),
    ],
)
def test_key_files_are_judged_as_engines_do(
    tmp_path: Path, mode: int | None, size: int, words: str
) -> None:
    key = tmp_path / "key"
    if mode is not None:
        key.write_bytes(b"k" * size)
        key.chmod(mode)
    trouble = seen(tmp_path, TENT_KEY_FILE=str(key)).key_trouble
    assert words in trouble
    assert bool(trouble) == bool(words)


@pytest.mark.parametrize(
    ("links", "expected"),
    [
        ({"pid": "pid:[4026531836]", "ipc": "ipc:[4026531839]", "user": "user:[4026531837]"}, ""),
        ({"pid": "pid:[4026532191]", "ipc": "ipc:[4026531839]"}, "pid"),
        (
            {"pid": "pid:[4026532191]", "ipc": "ipc:[4026532190]", "user": "user:[1]"},
            "ipc pid user",
        ),
        ({"pid": "pid:[]", "ipc": "elsewhere"}, ""),
    ],
)
def test_namespaces_beside_the_first_ones_are_own(
    tmp_path: Path, links: dict[str, str], expected: str
) -> None:
    folder = tmp_path / "proc/self/ns"
    folder.mkdir(parents=True)
    for name, target in links.items():
        (folder / name).symlink_to(target)
    assert seen(tmp_path).own_namespaces == set(expected.split())


def test_a_place_for_sockets_can_be_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "dev/shm"
    folder.parent.mkdir()
    folder.write_text("no folder")
    assert seen(tmp_path).shm_trouble == "there is no /dev/shm"
    folder.unlink()
    folder.mkdir()
    assert seen(tmp_path).shm_trouble == ""


def test_this_machine_can_be_looked_at() -> None:
    assert look(Topology(), variables=os.environ).live
