"""Sizes, rates and times as people write and read them."""

from __future__ import annotations

import pytest

from tent.units import format_rate, format_size, format_time, parse_size


@pytest.mark.parametrize(
    ("text", "size"), [("1", 1), ("4k", 4096), ("256M", 256 << 20), ("2g", 2 << 30)]
)
def test_sizes_are_binary(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "0", "-1", "1.5m", "m", "1x", "²"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="256m"):
        parse_size(text)


def test_formats() -> None:
    assert format_size(256 << 20) == "256 MiB"
    assert format_size(100) == "100 B"
    assert format_rate(500e6 / 8) == "0.50 Gbit/s"
    assert format_time(999) == "999 ns"
    assert format_time(12_345) == "12.35 us"
    assert format_time(1_000_000) == "1 ms"
    assert format_time(65_000_000_000) == "65 s"
