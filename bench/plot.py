"""Draws the scheduler benchmark: efficiency by fabric and strategy.

Leans on matplotlib, an optional extra, and on the rows' own names. Must never compute a figure
that the rows do not hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib

matplotlib.use("Agg")  # before pyplot: no display is needed

from fabrics import BY_NAME
from matplotlib import pyplot
from report import size_text

if TYPE_CHECKING:
    from scene import Row

# Told apart by lightness too, so that it reads in grey.
COLOURS = ("#1b4f72", "#d68910", "#7dab94", "#c9ced6", "#884ea0")


def plot_rows(rows: Sequence[Row], path: Path, *, size: int) -> None:
    """One panel per number of outstanding requests, one group of bars per fabric.

    rows: of the comparison of strategies; only those of `size` are drawn.
    """
    rows = [row for row in rows if row.request_bytes == size]
    if not rows:
        raise ValueError(f"no row has requests of {size_text(size)}; there is nothing to draw")
    outstanding = sorted({row.outstanding for row in rows})
    figure, panels = pyplot.subplots(
        len(outstanding), 1, figsize=(11, 3.2 * len(outstanding)), squeeze=False
    )
    for panel, count in zip(panels[:, 0], outstanding, strict=True):
        _panel(panel, [row for row in rows if row.outstanding == count])
        what = "mean of T*/T" if count == 1 else "bytes landed / capacity"
        panel.set_title(f"{size_text(size)} writes, {count} outstanding", fontsize=10, loc="left")
        panel.set_ylabel(what, fontsize=9)
    panels[0, 0].legend(
        ncols=5, fontsize=9, frameon=False, loc="lower right", bbox_to_anchor=(1, 1)
    )
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _panel(panel, rows: Sequence[Row]) -> None:
    fabrics = list(dict.fromkeys(row.fabric for row in rows))
    strategies = list(dict.fromkeys(row.strategy for row in rows))
    width = 0.8 / len(strategies)
    for number, strategy in enumerate(strategies):
        mine = {row.fabric: row.efficiency for row in rows if row.strategy == strategy}
        at = [i + (number - (len(strategies) - 1) / 2) * width for i in range(len(fabrics))]
        heights = [mine.get(fabric, 0.0) for fabric in fabrics]
        bars = panel.bar(
            at, heights, width * 0.94, label=strategy, color=COLOURS[number % len(COLOURS)]
        )
        panel.bar_label(bars, fmt="%.2f", fontsize=6, padding=1)
    for index, fabric in enumerate(fabrics):
        goal = BY_NAME[fabric].goal
        if goal is not None:
            least = goal.one if rows[0].outstanding == 1 else goal.four
            panel.hlines(least, index - 0.45, index + 0.45, colors="#922b21", linewidth=1)
    panel.set_xticks(range(len(fabrics)), fabrics, fontsize=9)
    panel.set_ylim(0, 1.12)
    panel.spines[["top", "right"]].set_visible(False)
