"""A picture of a run: score, relative size, undecided gates and the width of every gate, epoch by epoch."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import InputError

INK, QUIET, BLUE, ORANGE, GREEN = "#222222", "#8a8a8a", "#2a6f97", "#d1603d", "#5b8e4d"


def draw(lines: Sequence[Mapping[str, Any]], path: Path, *, title: str = "", metric: str = "score") -> None:
    """Draw the epochs of a log (`read_log`) as a PNG file.

    Raises:
        InputError: matplotlib is not installed, or the log is empty.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ModuleNotFoundError as missing:
        raise InputError("a picture needs matplotlib", cure="pip install 'onnxshrink[train]'") from missing
    if not lines:
        raise InputError("there is no epoch to draw")
    figure = Figure(figsize=(9, 8), layout="constrained")
    FigureCanvasAgg(figure)
    top, middle, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(3, 2, 3))
    epochs = [line["epoch"] for line in lines]

    top.plot(epochs, [100 * line["score"] for line in lines], color=INK, marker="o", markersize=3)
    top.set_ylabel(f"{metric}, %")
    closings = [line for line in lines if "score_after_closing" in line]
    top.plot(
        [line["epoch"] for line in closings],
        [100 * line["score_after_closing"] for line in closings],
        "v",
        color=ORANGE,
        markersize=5,
        label="right after closing",
    )
    if closings:
        top.legend(frameon=False, loc="best")

    middle.plot(epochs, [100 * line["kept"] for line in lines], color=BLUE, label="kept")
    relaxed = [line for line in lines if "relaxed" in line]
    if relaxed:
        middle.plot(
            [line["epoch"] for line in relaxed],
            [100 * line["relaxed"] for line in relaxed],
            "--",
            color=BLUE,
            label="relaxed",
        )
        undecided = middle.twinx()
        undecided.bar(
            [line["epoch"] for line in relaxed], [line["undecided"] for line in relaxed], color=ORANGE, alpha=0.35
        )
        undecided.set_ylabel("undecided gates", color=ORANGE)
        undecided.set_ylim(0, 1.3 * max(1, *(line["undecided"] for line in relaxed)))
        undecided.yaxis.set_major_locator(MaxNLocator(integer=True))
        undecided.spines["top"].set_visible(False)
        middle.legend(frameon=False, loc="lower left")
    middle.set_ylim(0, 105)
    middle.set_ylabel("size, %")

    first = lines[0]["units"]
    gates = list(first)
    shares = [[line["widths"].get(gate, 0) / first[gate] for line in lines] for gate in gates]
    image = bottom.imshow(
        shares,
        aspect="auto",
        cmap="viridis",
        vmin=0,
        vmax=1,
        interpolation="nearest",
        extent=(epochs[0] - 0.5, epochs[-1] + 0.5, len(gates) - 0.5, -0.5),
    )
    step = max(1, len(gates) // 24)
    last = lines[-1]["widths"]
    bottom.set_yticks(range(0, len(gates), step))
    bottom.set_yticklabels([f"{g.replace('/', '.')}  {first[g]} → {last.get(g, 0)}" for g in gates[::step]], fontsize=7)
    bottom.set_xlabel("epoch")
    bottom.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.colorbar(image, ax=bottom, label="share of units kept")

    for axes in (top, middle, bottom):
        for before, after in itertools.pairwise(lines):
            if before["phase"] != after["phase"]:
                axes.axvline(before["epoch"] + 0.5, color=QUIET, linewidth=0.8, linestyle=":")
    for axes in (top, middle):
        axes.grid(axis="y", color="#e3e3e3", linewidth=0.6)
        axes.spines["top"].set_visible(False)
        axes.spines["right"].set_visible(False)
    for number, line in enumerate(lines):
        if number == 0 or line["phase"] != lines[number - 1]["phase"]:
            top.text(line["epoch"], 1.02, line["phase"], transform=top.get_xaxis_transform(), color=QUIET, fontsize=9)
    if title:
        figure.suptitle(title, color=INK)
    figure.savefig(path, dpi=110)
