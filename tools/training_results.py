"""The table of trained networks: run what is missing, collect what was run, and write the section of docs/results.md.

    python tools/training_results.py RUNS --data FOLDER [--only resnet20] [--seeds 0,1,2] [--run] [--write]

RUNS/<recipe>/<seed>/<row> holds each run. Without --run nothing is trained: rows that were not run say so, with the
command that runs them. A run that was killed goes on from its last epoch. Scores are those of ONNX Runtime on the file
that `onnxshrink optimize --align 1` wrote, on the whole test split (of ImageNet and Cityscapes, the validation split);
latency is a ratio from interleaved runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools and models, from wherever this is started
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

import catalogue
from evaluate import score

import onnxshrink
from onnxshrink.gates.training import read_log
from tools.page import write_section
from tools.table import table

Found = Mapping[int, dict[str, Any]]
"""Figures of a row by seed."""

ROOT = Path(__file__).resolve().parent.parent
COMMAND = "python tools/training_results.py RUNS --data FOLDER --run --write"
RUN = "python tools/training_results.py RUNS --data FOLDER --only NAME --seeds SEEDS --run"
PICTURE = ROOT / "docs" / "convergence.png"
SEARCHES = {"none": "dense", "uniform": "uniform L1", "importance": "gates, importance", "relaxation": "gates, relaxed"}


@dataclass(frozen=True)
class Row:
    """Runs that differ in their seed only: a recipe, a search and a target."""

    recipe: str
    search: str
    target: float
    published: str = ""
    multiple: int = 1

    @property
    def name(self) -> str:
        if self.search == "none":
            return self.search
        return f"{self.search}-{self.target:g}" + (f"-x{self.multiple}" if self.multiple > 1 else "")

    @property
    def label(self) -> str:
        return SEARCHES[self.search] + (f", multiples of {self.multiple}" if self.multiple > 1 else "")

    def folder(self, runs: Path, seed: int) -> Path:
        return runs / self.recipe / str(seed) / self.name

    def command(self, runs: Path, data: Path, seed: int, device: Sequence[str] = ()) -> list[str]:
        """What trains one seed; all but the dense row begin with the dense row's network after its first cycle."""
        out = self.folder(runs, seed)
        fields = [f"seed={seed}", f"search={self.search}", f"target={self.target:g}", f"multiple={self.multiple}"]
        if self.search == "relaxation":
            fields.append("form=step")
        command = [sys.executable, "models/train.py", self.recipe, "--data", str(data), "--out", str(out), *device]
        if self.search != "none":
            command += ["--dense", str(out.parent / "none" / "dense.pt")]
        return [*command, *(part for field in fields for part in ("--set", field)), "--resume"]


def uniform_row(row: Row) -> Row:
    """The baseline that a search has to beat: as many multiply-adds, the same epochs."""
    return Row(row.recipe, "uniform", row.target)


def dense_row(recipe: str) -> Row:
    """What the other rows of a recipe are compared with, and begin from."""
    return Row(recipe, "none", 1.0)


def rows_of(recipe: str, *targets: float, relaxed: bool = False, published: str = "") -> list[Row]:
    """The dense row; at each target the uniform baseline and the gates; and the gates with counts that run fast."""
    searches = ("uniform", "importance", *(["relaxation"] if relaxed else []))
    rows = [Row(recipe, search, target, published) for target in targets for search in searches]
    return [dense_row(recipe), *rows, *(Row(recipe, "importance", target, published, 4) for target in targets)]


ROWS = [
    *rows_of("resnet20", 0.5, 0.3, relaxed=True),
    *rows_of("unet-small", 0.2, 0.05, relaxed=True),
    *rows_of("resnet20-long", 0.46, published="FPGM 92.20 → 90.44 at 54 % removed"),
    *rows_of("resnet56", 0.39, 0.29, published="DAIS 93.53 at 70.9 %, DepGraph 93.64 at 2.57x"),
    *rows_of("resnet110", 0.28, published="CHIP 93.23 at 72 %"),
    *rows_of("vgg16", 0.21, published="OCSPruner 93.76 at 78.8 %, OTOv2 93.27 at 95 % of parameters"),
    *rows_of("resnet18", 0.2, published="OTOv2 93.02 → 92.86 at 79.7 %"),
    *rows_of("resnet50", 0.1, published="OTOv2 93.62 → 94.39 at 90.0 %"),
    *rows_of("mobilenetv2", 0.5),
    *rows_of("unet", 0.2, 0.05),
    *rows_of("resnet18-imagenet", 0.55, published="SCOP 69.18 at 38.8 %"),
    *rows_of("resnet50-imagenet", 0.39, published="OTOv2 75.2 at 61.5 %, OCSPruner 75.49 at 57 %"),
    *rows_of("unet-cityscapes", 0.05),
]


def exported(row: Row, runs: Path, seed: int) -> Path:
    """The file that a run ends with."""
    entry = catalogue.entry(row.recipe)
    return row.folder(runs, seed) / f"{entry.recipe.network}_{entry.data}.onnx"


def smallest(row: Row, runs: Path, seed: int) -> Path:
    """The file that is measured: optimized, or as exported where nothing went."""
    source = exported(row, runs, seed)
    optimized = source.with_name("optimized.onnx")
    return optimized if optimized.exists() else source


def figures(row: Row, runs: Path, data: Path, seed: int) -> dict[str, Any] | None:
    """The figures of one run, measured once and kept beside it; None if it has not ended."""
    folder, entry, source = row.folder(runs, seed), catalogue.entry(row.recipe), exported(row, runs, seed)
    kept = folder / "figures.json"
    if not source.exists():
        return None
    if kept.exists() and kept.stat().st_mtime > source.stat().st_mtime:
        return json.loads(kept.read_text(encoding="utf-8"))
    optimized, report = folder / "optimized.onnx", folder / "optimize.json"
    command = [sys.executable, "-m", "onnxshrink.cli", "optimize", str(source), str(optimized), "--align", "1"]
    subprocess.run([*command, "--json", str(report)], check=True, stdout=subprocess.DEVNULL)
    said = json.loads(report.read_text(encoding="utf-8"))
    images = catalogue.read_final(entry.data, data)
    found = {
        "score": score(smallest(row, runs, seed), images.batches(), entry.data_set.task),
        "parameters": said["parameters"]["after"],
        "macs": said["macs"]["after"],
    }
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


def latency(row: Row, runs: Path, seed: int, seconds: float) -> float | None:
    """Latency of one run's file against the dense network's, measured once; None for the dense network, and without."""
    dense, kept = exported(dense_row(row.recipe), runs, seed), row.folder(runs, seed) / "latency.json"
    if row.search == "none" or not dense.exists():
        return None
    if not kept.exists():
        measured = onnxshrink.bench(dense, smallest(row, runs, seed), threads=1, seconds=seconds).batches[0].ratio
        kept.write_text(json.dumps(None if measured is None else measured.ratio), encoding="utf-8")
    found: float | None = json.loads(kept.read_text(encoding="utf-8"))
    return found


def spread(values: Sequence[float], factor: float = 1.0, digits: int = 2) -> str:
    """Mean and standard deviation over the seeds."""
    mean = f"{factor * statistics.fmean(values):.{digits}f}"
    return mean if len(values) < 2 else f"{mean} ± {factor * statistics.stdev(values):.{digits}f}"


def section(
    rows: Sequence[Row], runs: Path, data: Path, seeds: Sequence[int], seconds: float, picture: Path | None = None
) -> str:
    """The text between the markers; the curves are drawn where a picture is asked for."""
    heads = ["network", "search", "MACs", "seeds", "score, %", "to dense", "to uniform", "parameters", "latency ratio"]
    lines = [[*heads, "published"]]
    missing: dict[Row, list[int]] = {}
    shown: list[Row] = []

    def beside(row: Row, found: Found) -> list[tuple[dict[str, Any], dict[str, Any]]]:
        """Figures in pairs with those of a row of the same seed."""
        return [(f, b) for seed, f in found.items() if (b := figures(row, runs, data, seed)) is not None]

    for row in rows:
        found = {seed: f for seed in seeds if (f := figures(row, runs, data, seed)) is not None}
        if len(found) < len(seeds):
            missing[row] = [seed for seed in seeds if seed not in found]
        if not found:
            continue
        shown.append(row)
        dense = beside(dense_row(row.recipe), found)
        uniform = beside(uniform_row(row), found) if row.search not in ("none", "uniform") else []
        shares = [f["macs"] / b["macs"] for f, b in dense if f["macs"] and b["macs"]]
        latencies = [r for seed in found if (r := latency(row, runs, seed, seconds)) is not None]
        lines.append(
            [
                row.recipe,
                row.label,
                spread(shares, 100, 1) + " %" if shares else "",
                str(len(found)),
                spread([f["score"] for f in found.values()], 100),
                spread([f["score"] - b["score"] for f, b in dense], 100) if dense and row.search != "none" else "",
                spread([f["score"] - b["score"] for f, b in uniform], 100) if uniform else "",
                f"{statistics.fmean(f['parameters'] for f in found.values()):,.0f}",
                spread(latencies) if latencies else "",
                row.published,
            ]
        )
    parts = [table(lines, markdown=True)] if shown else []
    if shown and picture is not None:
        parts.append(f"![Score by epoch]({picture.name})")
        curves(shown, runs, seeds, picture)
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


def curves(rows: Sequence[Row], runs: Path, seeds: Sequence[int], picture: Path) -> None:
    """Draw the score by epoch of every row that was run: one panel for each recipe, a thin line for each seed."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    recipes = list(dict.fromkeys(row.recipe for row in rows))
    figure = Figure(figsize=(9, 3.4 * len(recipes)), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, recipe in zip(figure.subplots(len(recipes), 1, squeeze=False)[:, 0], recipes, strict=True):
        for number, row in enumerate(row for row in rows if row.recipe == recipe):
            label = row.label + ("" if row.search == "none" else f", {100 * row.target:g} %")
            for seed in seeds:
                if (row.folder(runs, seed) / "log.jsonl").exists():
                    lines = read_log(row.folder(runs, seed))
                    points = [line["epoch"] for line in lines], [100 * line["score"] for line in lines]
                    axes.plot(*points, color=f"C{number}", linewidth=1.2, label=label)
                    label = None
        axes.set_title(recipe, loc="left")
        axes.set_ylabel(f"{catalogue.entry(recipe).data_set.task.metric}, %")
        axes.grid(color="#e3e3e3", linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8, loc="lower right")
    figure.axes[-1].set_xlabel("epoch")
    figure.savefig(picture, dpi=100)


def main() -> None:
    """Run, collect, print or write."""
    parser = argparse.ArgumentParser(description="The table of trained networks.")
    parser.add_argument("runs", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", action="append", help="this recipe, or recipe/row; may be given more than once")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--run", action="store_true", help="train what is missing")
    parser.add_argument("--threads", default="2")
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring latency for each row (default 1)")
    parser.add_argument("--write", action="store_true", help="write docs/results.md instead of printing")
    arguments = parser.parse_args()
    only, seeds = arguments.only, [int(seed) for seed in arguments.seeds.split(",")]
    rows = [row for row in ROWS if only is None or {row.recipe, f"{row.recipe}/{row.name}"} & set(only)]
    for seed in seeds if arguments.run else []:
        for row in rows:
            if figures(row, arguments.runs, arguments.data, seed) is None:
                command = row.command(arguments.runs, arguments.data, seed, ["--threads", arguments.threads])
                subprocess.run(command, check=True, cwd=ROOT)
    picture = PICTURE if arguments.write else None
    text = section(rows, arguments.runs.resolve(), arguments.data, seeds, arguments.seconds, picture)
    if arguments.write:
        write_section("training", "Networks trained with gates", COMMAND, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
