"""The table of trained networks: run what is missing, collect what was run, and write the section of docs/results.md.

    python tools/training_results.py [--only NAME] [--seeds 0,1,2] [--run RUNS --data FOLDER] [--write]

A line of docs/rows/training/<recipe>/<seed>.json holds what each run came to. What is there is not run again; without
--run nothing is. RUNS/<recipe>/<seed>/<row> takes its checkpoint, from which a run that was killed goes on, and its
files.
Scores are those of ONNX Runtime on the file that `onnxshrink optimize --align 1` makes, on the whole test split (of
ImageNet and Cityscapes, the validation split); latency is a ratio to the dense network from interleaved runs.
"""

from __future__ import annotations

import argparse
import io
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools, from wherever this is started

from tools import rows as kept
from tools.page import write_section
from tools.rows import Figures
from tools.table import table
from tools.training_rows import ROWS, Row, dense_row, uniform_row

Found = Mapping[int, Figures]
"""Figures of a row by seed."""

COMMAND = "python tools/training_results.py --run RUNS --data FOLDER --write"
RUN = "python tools/training_results.py --run RUNS --data FOLDER --only NAME --seeds SEEDS"
LEGEND = (
    "Score: accuracy on CIFAR-10, mean IoU on CamVid, by ONNX Runtime on the whole test split; mean ± standard "
    "deviation over the seeds. To dense, to uniform: points against the row of the same seed, which had the same "
    "epochs. Latency: ratio to the dense network at one thread; counts are not multiples of anything unless a row says "
    "so."
)
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "convergence.png"


def spread(values: Sequence[float], digits: int = 2, unit: str = "") -> str:
    """Mean and standard deviation over the seeds; nothing where there is no value."""
    if not values:
        return ""
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean + (f" ± {statistics.stdev(values):.{digits}f}" if len(values) > 1 else "") + unit


def section(rows: Sequence[Row], folder: Path, seeds: Sequence[int], picture: Path | None = None) -> str:
    """The text between the markers; the curves are drawn where a picture is asked for."""
    heads = ["network", "search", "MACs", "seeds", "score, %", "to dense", "to uniform", "parameters", "latency ratio"]
    lines = [[*heads, "published"]]
    missing: dict[Row, list[int]] = {}
    shown: dict[Row, Found] = {}

    def read(row: Row) -> Found:
        return {seed: figures for seed in seeds if (figures := row.read(folder, seed)) is not None}

    def beside(found: Found, other: Row) -> str:
        """How much better than another row, of the seeds that both have."""
        others = read(other)
        return spread([100 * (found[seed]["score"] - others[seed]["score"]) for seed in found if seed in others])

    for row in rows:
        found = read(row)
        if len(found) < len(seeds):
            missing[row] = [seed for seed in seeds if seed not in found]
        if not found:
            continue
        shown[row] = found
        gated = row.search not in ("none", "uniform")
        lines.append(
            [
                row.recipe,
                row.label,
                spread([100 * one["share"] for one in found.values() if one["share"]], 1, " %"),
                str(len(found)),
                spread([100 * one["score"] for one in found.values()]),
                beside(found, dense_row(row.recipe)) if row.search != "none" else "",
                beside(found, uniform_row(row)) if gated else "",
                f"{statistics.fmean(one['parameters'] for one in found.values()):,.0f}",
                spread([one["latency"] for one in found.values() if one["latency"]]) if row.search != "none" else "",
                row.published,
            ]
        )
    parts = [LEGEND, table(lines, markdown=True)] if shown else []
    if shown and picture is not None:
        parts.append(f"![Score by epoch]({picture.name})")
        curves(shown, picture)
    if missing:
        parts.append(f"Not run, or not with all seeds; `{RUN}` runs them:")
        parts.append(table([["NAME", "SEEDS", "published"], *left(missing, rows)], markdown=True))
    return "\n\n".join(parts)


def left(missing: Mapping[Row, Sequence[int]], rows: Sequence[Row]) -> list[list[str]]:
    """The rows and seeds that are missing; one line for a recipe that lacks the same in all of its rows."""
    lines: dict[tuple[str, str], str] = {}
    for row, seeds in missing.items():
        alike = all(missing.get(other) == seeds for other in rows if other.recipe == row.recipe)
        name = row.recipe if alike else f"{row.recipe}/{row.name}"
        lines[name, ",".join(map(str, seeds))] = row.published
    return [[*key, published] for key, published in lines.items()]


def curves(shown: Mapping[Row, Found], picture: Path) -> None:
    """Draw the score by epoch of every row that was run, a line for the mean and a band for the seeds: for each recipe
    the whole training, and the last fifth of it.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator
    from PIL import Image

    recipes = list(dict.fromkeys(row.recipe for row in shown))
    figure = Figure(figsize=(12, 3.6 * len(recipes)), layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(recipes), 2, squeeze=False, width_ratios=[3, 2])
    for (whole, end), recipe in zip(panels, recipes, strict=True):
        last = 0
        for number, row in enumerate(row for row in shown if row.recipe == recipe):
            label = row.label + ("" if row.search == "none" else f", {100 * row.target:g} %")
            scores: dict[int, list[float]] = {}
            for one in shown[row].values():
                for epoch, score in one["epochs"]:
                    scores.setdefault(epoch, []).append(100 * score)
            last = max(last, *scores)
            for axes in (whole, end):
                shown_from = 0 if axes is whole else 0.8 * last
                part = {epoch: found for epoch, found in scores.items() if epoch >= shown_from}
                mean = [sum(found) / len(found) for found in part.values()]
                axes.plot([*part], mean, color=f"C{number}", linewidth=1.3, label=label)
                low, high = [min(found) for found in part.values()], [max(found) for found in part.values()]
                axes.fill_between([*part], low, high, color=f"C{number}", alpha=0.2, linewidth=0)
        whole.set_title(recipe, loc="left")
        whole.set_ylabel(f"{dense_row(recipe).entry(0).data_set.task.metric}, %")
        end.set_title("the last fifth", loc="left", fontsize=10)
        end.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
        for axes in (whole, end):
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.grid(color="#e3e3e3", linewidth=0.6)
            axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[-1]:
        axes.set_xlabel("epoch")
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    Image.open(buffer).convert("RGB").quantize().save(picture, optimize=True)  # a third of the bytes


def main() -> None:
    """Run, collect, print or write."""
    parser = argparse.ArgumentParser(description="The table of trained networks.")
    parser.add_argument("--run", type=Path, metavar="RUNS", help="train what is missing, in this folder")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--rows", type=Path, default=kept.ROWS / "training", help="where rows are kept")
    parser.add_argument("--only", action="append", help="this recipe, or recipe/row; may be given more than once")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring latency for each row (default 1)")
    parser.add_argument("--write", action="store_true", help="write docs/results.md instead of printing")
    arguments = parser.parse_args()
    if arguments.run is not None and arguments.data is None:
        parser.error("--run needs --data")
    only, seeds = arguments.only, [int(seed) for seed in arguments.seeds.split(",")]
    rows = [row for row in ROWS if only is None or {row.recipe, f"{row.recipe}/{row.name}"} & set(only)]
    for seed in seeds if arguments.run is not None else ():
        for row in rows:
            row.make(arguments.rows, arguments.run, arguments.data, seed, arguments.threads, arguments.seconds)
    if arguments.write:
        text = section(ROWS, arguments.rows, seeds, PICTURE)
        write_section("training", "Networks trained with gates", COMMAND, text)
    else:
        print(section(rows, arguments.rows, seeds))


if __name__ == "__main__":
    main()
