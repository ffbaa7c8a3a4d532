"""A picture of a run: score, relative size, undecided gates and the width of every gate, epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError

INK, QUIET, BLUE, ORANGE, GRID = "#222222", "#8a8a8a", "#2a6f97", "#d1603d", "#e3e3e3"

LABELS = 24
"""About as many gates are named, where there are more."""

Lines = Sequence[Mapping[str, Any]]


def draw(lines: Lines, path: Path, *, title: str = "", metric: str = "score") -> None:
    """Draw the epochs of a log (`read_log`) as a PNG file.

    Raises:
        InputError: matplotlib is not installed, or the log is empty.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ModuleNotFoundError as missing:
        raise InputError("a picture needs matplotlib", cure="pip install 'onnxshrink[train]'") from missing
    if not lines:
        raise InputError("there is no epoch to draw")
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
    _score(top, lines, metric)
    _size(middle, lines)
    _widths(bottom, lines)
    _phases((top, middle, bottom), lines)
    if title:
        figure.suptitle(title, color=INK)
    figure.savefig(path, dpi=110)


def _score(axes: Any, lines: Lines, metric: str) -> None:
    """The score of each epoch, and what it was right after gates were closed."""
    axes.plot(*_percents(lines, "score"), color=INK, marker="o", markersize=3)
    closings = [line for line in lines if "score_after_closing" in line]
    if closings:
        points = _percents(closings, "score_after_closing")
        axes.plot(*points, "v", color=ORANGE, markersize=5, label="right after closing")
        axes.legend(frameon=False, loc="best")
    axes.set_ylabel(f"{metric}, %")
    _plain(axes)


def _size(axes: Any, lines: Lines) -> None:
    """What is kept, and where gates are trained what is open, with the number of those that are undecided."""
    axes.plot(*_percents(lines, "kept"), color=BLUE, label="kept")
    relaxed = [line for line in lines if "relaxed" in line]
    if relaxed:
        axes.plot(*_percents(relaxed, "relaxed"), "--", color=BLUE, label="relaxed")
        axes.legend(frameon=False, loc="lower left")
        _undecided(axes.twinx(), relaxed)
    axes.set_ylim(0, 105)
    axes.set_ylabel("size, %")
    _plain(axes)


def _undecided(axes: Any, lines: Lines) -> None:
    counts = [line["undecided"] for line in lines]
    axes.bar([line["epoch"] for line in lines], counts, color=ORANGE, alpha=0.35)
    axes.set_ylabel("undecided gates", color=ORANGE)
    axes.set_ylim(0, 1.3 * max(1, *counts))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.spines["top"].set_visible(False)


def _widths(axes: Any, lines: Lines) -> None:
    """The share of each gate's units that is kept: a row for each gate, a column for each epoch."""
    first, last = lines[0], lines[-1]
    units, gates = first["units"], list(first["units"])
    image = axes.imshow(
        [[line["widths"].get(gate, 0) / units[gate] for line in lines] for gate in gates],
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(first["epoch"] - 0.5, last["epoch"] + 0.5, len(gates) - 0.5, -0.5),
    )
    step = max(1, len(gates) // LABELS)
    labels = [f"{gate.replace('/', '.')}  {units[gate]} → {last['widths'].get(gate, 0)}" for gate in gates[::step]]
    axes.set_yticks(range(0, len(gates), step), labels, fontsize=7)
    axes.set_xlabel("epoch")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.figure.colorbar(image, ax=axes, label="share of units kept")


def _phases(panels: Sequence[Any], lines: Lines) -> None:
    """The name of each phase above the first panel, and a line between two in all of them."""
    top = panels[0]
    for number, line in enumerate(lines):
        if number == 0 or line["phase"] != lines[number - 1]["phase"]:
            top.text(line["epoch"], 1.02, line["phase"], transform=top.get_xaxis_transform(), color=QUIET, fontsize=9)
    for axes, (before, after) in itertools.product(panels, itertools.pairwise(lines)):
        if before["phase"] != after["phase"]:
            axes.axvline(before["epoch"] + 0.5, color=QUIET, linewidth=0.8, linestyle=":")


def _percents(lines: Lines, name: str) -> tuple[list[int], list[float]]:
    """The epochs, and a share in percent in each."""
    return [line["epoch"] for line in lines], [100 * line[name] for line in lines]


def _plain(axes: Any) -> None:
    axes.grid(axis="y", color=GRID, linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)
