"""Sizes, rates and times as people write and read them. Leans on nothing."""

from __future__ import annotations

_SIZES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}


def parse_size(text: str) -> int:
    """ "256m" -> bytes; binary units k, m, g, t."""
    word = text.strip().lower()
    unit = word[-1:] if word[-1:] in ("k", "m", "g", "t") else ""
    digits = word[: len(word) - len(unit)]
    if not digits.isascii() or not digits.isdigit() or int(digits) == 0:
        raise ValueError(f"size is {text!r}; write a positive number with k, m, g or t, as 256m")
    return int(digits) * _SIZES[unit]


def format_size(count: float) -> str:
    """Bytes with a binary unit, three significant places at most."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= factor:
            return f"{count / factor:.4g} {unit}"
    return f"{count:g} B"


def format_rate(bytes_per_s: float) -> str:
    """Bytes per second as Gbit/s."""
    return f"{bytes_per_s * 8 / 1e9:.2f} Gbit/s"


def format_time(ns: int) -> str:
    """Nanoseconds with the unit that fits, four significant places at most."""
    for unit, factor in (("s", 10**9), ("ms", 10**6), ("us", 10**3)):
        if ns >= factor:
            return f"{ns / factor:.4g} {unit}"
    return f"{ns} ns"
