"""Checks of the memory that `engine.alloc()` makes: that peers can map it, and its pages."""

from __future__ import annotations

from collections.abc import Iterator

from tent.transports.doctor.finding import Case, Finding, in_container, quoted

_2M = 2 << 20


def memory_files(case: Case) -> Iterator[Finding]:
    """What peers map is a sealed memory file."""
    trouble = case.surroundings.memfd_trouble
    if not trouble or case.catalog.find("shm") is None:
        return
    yield Finding(
        "advice",
        "shm",
        "memory files",
        f"memfd_create fails: {trouble}",
        "memory of engine.alloc() is private then, and no peer can map it: it is copied like any "
        "other, with two system calls or two copies for each",
        in_container(
            case,
            run="--security-opt seccomp=with-memfd-create.json",
            pod="allow memfd_create and fcntl in the seccomp profile of the container",
        )
        or ("allow memfd_create in the filter that this process runs under (seccomp, LSM)",),
    )


def huge_pages(case: Case) -> Iterator[Finding]:
    """Of memory files: reserved ones, or transparent ones where a setting lets them be."""
    setting = case.surroundings.shmem_huge_off
    shm = case.catalog.find("shm")
    if not setting or shm is None or not shm.available:
        return
    reserved = [pages for pages in case.topology.limits.huge_pages if pages.node is None]
    if any(pages.free for pages in reserved if pages.page_bytes >= _2M):
        return
    host = "on the host: " if case.container else ""
    keep = quoted(f"w {setting} - - - - advise")
    yield Finding(
        "note",
        "shm",
        "huge pages",
        "memory of engine.alloc() gets normal pages: none are set aside, and transparent ones are "
        "off for memory files",
        "making it, and mapping a peer's, takes a page fault for each 4 KiB",
        (
            f"{host}echo advise > {quoted(setting)}",
            f"{host}printf '%s\\n' {keep} > /etc/tmpfiles.d/90-tent.conf   # to keep it",
        ),
    )


CHECKS = (memory_files, huge_pages)
