"""Which transports there are: plugins in folders and packages, and what they say of themselves.

Leans on the native library, which finds and loads them as it would for an engine, and on
importlib.metadata. Nothing here fails because a plugin does: what cannot be used says why.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace

from tent import _abi
from tent._rows import Values
from tent.errors import PluginError
from tent.topology.model import Remark
from tent.transports.entry_points import Found, find_entry_points
from tent.transports.known import known_transports, rank, without_plugin
from tent.transports.model import Catalog, Memory, Option, OptionKind, RailOffer, Transport

PATH_VARIABLE = "TENT_PLUGIN_PATH"

_DECORATES = 1
_TEST = 2
_OF_RAIL = 1
_OF_TRANSPORT = 2


def load_catalog(
    plugin_path: str | None = None, *, environment: Mapping[str, str] | None = None
) -> Catalog:
    """All transports that an engine with this plugin path could open, and those it lacks.

    environment: whose TENT_PLUGIN_PATH counts (os.environ); the process's own is searched after
    it in any case, as the native library does. Loads the plugins, and runs the code of packages
    with entry points. Blocks for the file system. Any thread may call.
    """
    points = find_entry_points()
    path = _joined(plugin_path, points, environment)
    rows = _abi.transports_find(path)
    found = {row["name"]: _transport(path, row) for row in rows if row["name"]}
    remarks = tuple(Remark(row["library"], row["reason"]) for row in rows if not row["name"])
    for point in points:
        if point.name not in found:
            found[point.name] = _of_entry_point(point)
    for known in known_transports():
        if known.name in found:
            if not found[known.name].library:
                continue
            found[known.name] = _completed(found[known.name], known.memory, known.summary)
            continue
        found[known.name] = Transport(
            name=known.name,
            summary=known.summary,
            available=False,
            reason=without_plugin(known, _missing(path, known.name)),
            memory=known.memory,
        )
    ordered = sorted(found.values(), key=lambda t: rank(t.name, auto=t.auto and not t.decorates))
    return Catalog(transports=tuple(ordered), remarks=remarks)


def plugin_path_with_entry_points(
    plugin_path: str | None = None, *, environment: Mapping[str, str] | None = None
) -> str:
    """The folders to give to an engine so that it finds all that `load_catalog` finds.

    In order: plugin_path, TENT_PLUGIN_PATH, the entry points of installed packages; the library
    adds its own folder. What a user says goes before what a package brings along.
    """
    return _joined(plugin_path, find_entry_points(), environment)


def _joined(
    plugin_path: str | None, points: Sequence[Found], environment: Mapping[str, str] | None
) -> str:
    wanted = os.environ if environment is None else environment
    folders = [*(plugin_path or "").split(":"), *wanted.get(PATH_VARIABLE, "").split(":")]
    folders += [point.folder for point in points]
    return ":".join(dict.fromkeys(folder for folder in folders if folder))


def _transport(path: str, row: Values) -> Transport:
    name, flags = row["name"], row["flags"]
    available = row["status"] == 0
    reason = row["reason"]
    options: tuple[Option, ...] = ()
    devices: tuple[RailOffer, ...] = ()
    # Between two looks a file may change or a device go: then what is left of it is told.
    try:
        if row["option_count"]:
            options = _options(_abi.transport_options(path, name))
        if row["rail_count"]:
            devices = tuple(_offer(name, rail) for rail in _abi.transport_rails(path, name))
    except PluginError as error:
        available, reason = False, str(error)
    return Transport(
        name=name,
        version=row["version"],
        summary=row["summary"],
        library=row["library"],
        available=available,
        reason=reason,
        memory=Memory(row["memory"]),
        options=options,
        decorates=bool(flags & _DECORATES),
        auto=not flags & (_DECORATES | _TEST),
        devices=devices,
    )


def _completed(transport: Transport, memory: Memory, summary: str) -> Transport:
    """A plugin that did not load says nothing: what it would be is known all the same."""
    if transport.memory:
        return transport
    return replace(transport, memory=memory, summary=transport.summary or summary)


def _of_entry_point(point: Found) -> Transport:
    reason = point.reason or (
        f"the entry point {point.origin} names the folder {point.folder}, which holds no "
        f"libtent_plugin_{point.name}.so"
    )
    return Transport(name=point.name, available=False, reason=reason, memory=Memory(0))


def _missing(path: str, name: str) -> str:
    """The sentence with which an engine would refuse a plan that names it."""
    try:
        _abi.transport_options(path, name)
    except PluginError as error:
        return str(error)
    return f"the plugin of {name} has just been installed; look again"


def _options(rows: list[Values]) -> tuple[Option, ...]:
    """One for each place where it may stand."""
    return tuple(
        Option(
            name=row["name"],
            kind=OptionKind(row["kind"]) if row["kind"] in set(OptionKind) else OptionKind.TEXT,
            default=row["preset"],
            least=row["least"],
            most=row["most"],
            choices=tuple(word for word in row["choices"].split(",") if word),
            rail=place == _OF_RAIL,
            meaning=row["meaning"],
        )
        for row in rows
        for place in (_OF_RAIL, _OF_TRANSPORT)
        if row["scope"] & place
    )


def _offer(transport: str, row: Values) -> RailOffer:
    rate = row["bandwidth_bytes_per_s"]
    return RailOffer(
        transport=transport,
        device=row["device"],
        numa=row["numa"] if row["numa"] >= 0 else None,
        gbps=rate * 8 / 1e9 if rate else None,
    )
