"""The budget curve as a figure: size against error on held-out samples."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import InputError
from .pruned import OnCurve

INK, QUIET, BLUE, ORANGE = "#222222", "#8a8a8a", "#2a6f97", "#d1603d"
SUFFIXES = (".pdf", ".png", ".svg")


def check_figure(path: Path) -> None:
    """Say before anything is done that a figure cannot be drawn.

    Raises:
        InputError: matplotlib is not installed, or the file's ending says no format that it writes.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise InputError("is no figure", file=str(path), cure=f"give a name that ends in {', '.join(SUFFIXES)}")
    try:
        import matplotlib as _  # noqa: F401
    except ModuleNotFoundError as missing:
        raise InputError("a figure needs matplotlib", cure="pip install 'onnxshrink[figures]'") from missing


def draw_curve(curve: Sequence[OnCurve], result: OnCurve, path: Path, *, title: str, repaired: bool) -> None:
    """Draw a curve and the point that was chosen as PNG, SVG or PDF, by the ending of the file's name.

    Sizes are shares of the original's: latency by the table where it was the budget, else MACs, else parameters.

    Args:
        curve: points before repair.
        result: what was chosen, with its error after repair if there was one.
        path: the figure.
        title: what it is of.
        repaired: whether the result was repaired.

    Raises:
        InputError: see `check_figure`; or the file cannot be written.
    """
    check_figure(path)
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    name, sizes = _axis([*curve, result])
    points = sorted(zip(sizes[:-1], (point.error for point in curve), strict=True))
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.plot(*zip(*points, strict=True), color=BLUE, marker="o", markersize=3.5, label="before repair")
    label = "result, repaired" if repaired else "result"
    axes.plot([sizes[-1]], [result.error], "D", color=ORANGE, markersize=8, label=label)
    axes.axhline(0, color=QUIET, linewidth=0.8)
    axes.set_xlim(0, 102)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel(f"{name} kept, % of the original")
    axes.set_ylabel("error on held-out samples, |y' − y| / |y|")
    axes.grid(color="#e3e3e3", linewidth=0.6)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    axes.legend(frameon=False, loc="upper right")
    axes.set_title(title, color=INK, fontsize=11)
    try:
        figure.savefig(path, dpi=120, metadata={"Date": None} if path.suffix.lower() == ".svg" else None)
    except OSError as error:
        raise InputError(f"cannot write: {error.strerror}", file=str(path)) from error


def _axis(points: Sequence[OnCurve]) -> tuple[str, list[float]]:
    """What the horizontal axis is, and each point's percentage."""
    for name, shares in (
        ("latency by the table", [point.latency for point in points]),
        ("MACs", [point.macs for point in points]),
    ):
        known = [100 * share for share in shares if share is not None]
        if len(known) == len(points):
            return name, known
    return "parameters", [100 * point.parameters for point in points]
