"""Rows of the table of trained networks: what each runs, and how it is measured (training_results.py shows them)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools and models, from wherever this is started
sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "models"))

import catalogue
import onnx
from evaluate import score

import onnxshrink
from onnxshrink import benchmark, gates
from onnxshrink.gates.training import Recipe, read_log
from onnxshrink.gates.training.recipe import OF_RELAXATION, OF_SEARCHES
from tools.rows import Figures, keep, read

ROOT = Path(__file__).resolve().parent.parent
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

    def changes(self, seed: int) -> dict[str, Any]:
        """What a run changes in its recipe."""
        found = {"seed": seed, "search": self.search, "target": self.target, "multiple": self.multiple}
        return found | {"form": "hard-concrete"} if self.search == "relaxation" else found

    def entry(self, seed: int) -> catalogue.Entry:
        """The recipe of a run."""
        return catalogue.entry(self.recipe, **self.changes(seed))

    def folder(self, runs: Path, seed: int) -> Path:
        """Where a run keeps its checkpoint and its files."""
        return runs / self.recipe / str(seed) / self.name

    def exported(self, runs: Path, seed: int) -> Path:
        """The file that a run ends with."""
        entry = self.entry(seed)
        return self.folder(runs, seed) / f"{entry.recipe.network}_{entry.data}.onnx"

    def command(self, runs: Path, data: Path, seed: int, options: Sequence[str] = ()) -> list[str]:
        """What trains one seed; all but the dense row begin with the dense row's network after its first cycle."""
        out = self.folder(runs, seed)
        command = [sys.executable, "models/train.py", self.recipe, "--data", str(data), "--out", str(out), *options]
        if self.search != "none":
            command += ["--dense", str(first_cycle(self.recipe, runs, seed))]
        fields = (f"{name}={value}" for name, value in self.changes(seed).items())
        return [*command, *(part for field in fields for part in ("--set", field)), "--resume"]

    def read(self, rows: Path, seed: int) -> Figures | None:
        """The figures of one run; None if it was not made, or made by another recipe than today's."""
        found = read(self.path(rows, seed))
        same = found is not None and decisive(found["recipe"]) == decisive(as_json(self.entry(seed).recipe))
        return found if same else None

    def path(self, rows: Path, seed: int) -> Path:
        """Where the figures of one run are kept."""
        return rows / self.recipe / str(seed) / self.name

    def make(self, rows: Path, runs: Path, data: Path, seed: int, threads: str, seconds: float) -> None:
        """Train one seed, measure and keep it, unless it is there; a run that was killed goes on."""
        if self.read(rows, seed) is not None:
            return
        options = ["--threads", threads]
        if self.search != "none" and not first_cycle(self.recipe, runs, seed).exists():
            dense, epochs = dense_row(self.recipe), self.entry(seed).recipe.dense_epochs
            command = dense.command(runs, data, seed, [*options, "--stop-after", str(epochs)])
            subprocess.run(command, check=True, cwd=ROOT)
        subprocess.run(self.command(runs, data, seed, options), check=True, cwd=ROOT)
        keep(self.path(rows, seed), measured(self, runs, data, seed, seconds))


def dense_row(recipe: str) -> Row:
    """What the other rows of a recipe are compared with, and begin from."""
    return Row(recipe, "none", 1.0)


def uniform_row(row: Row) -> Row:
    """The baseline that a search has to beat: as many multiply-adds, the same epochs."""
    return Row(row.recipe, "uniform", row.target)


def first_cycle(recipe: str, runs: Path, seed: int) -> Path:
    """The dense network after its first cycle."""
    return dense_row(recipe).folder(runs, seed) / "dense.pt"


def rows_of(recipe: str, *targets: float, relaxed: bool = False, published: str = "") -> list[Row]:
    """The dense row; at each target the uniform baseline and the gates; at the first also gates with counts that run
    fast, and trained gates if they are asked for.
    """
    rows = [Row(recipe, search, target, published) for target in targets for search in ("uniform", "importance")]
    others = [Row(recipe, "importance", targets[0], published, multiple=4)]
    if relaxed:
        others.append(Row(recipe, "relaxation", targets[0], published))
    return [dense_row(recipe), *rows, *others]


ROWS = [
    *rows_of("resnet20", 0.5, 0.3, relaxed=True),
    *rows_of("unet-small", 0.2, 0.05, relaxed=True),
    dense_row("resnet20-twice"),
    *(Row("resnet20-twice", search, 0.5) for search in ("uniform", "importance")),
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


def as_json(recipe: Recipe) -> Figures:
    """A recipe as JSON has it."""
    found: Figures = json.loads(json.dumps(asdict(recipe)))
    return found


def decisive(recipe: Figures) -> Figures:
    """The fields of a recipe that decide what its run comes to.

    A field that the recipe does not have yet has its default, which is what there was before. The fields of another
    search decide nothing, and without a search, of the epochs of the second cycle only their sum.
    """
    found = as_json(Recipe()) | recipe
    idle: set[str] = set()
    if found["search"] == "importance":
        idle = OF_RELAXATION
    elif found["search"] in ("none", "uniform"):
        idle = OF_SEARCHES
        found["finetune_epochs"] += found.pop("search_epochs")
    return {name: value for name, value in found.items() if name not in idle}


def measured(row: Row, runs: Path, data: Path, seed: int, seconds: float) -> Figures:
    """The figures of a run that has ended.

    Returns:
        the recipe; the score of ONNX Runtime on the file that `optimize --align 1` makes of the exported one; its
        parameters and multiply-adds; share and latency ratio to the dense network of these widths; the score of each
        epoch.
    """
    source, entry = row.exported(runs, seed), row.entry(seed)
    images = catalogue.read_final(entry.data, data)
    with tempfile.TemporaryDirectory() as folder:
        small, dense = Path(folder) / "small.onnx", Path(folder) / "dense.onnx"
        onnx.save(onnxshrink.optimize(source, align=1).model, small)
        gates.export(entry.network(), dense, entry.data_set.example())
        model = onnx.load(small)
        macs, whole = benchmark.macs(model), benchmark.macs(onnx.load(dense))
        ratio = onnxshrink.bench(dense, small, threads=1, seconds=seconds).batches[0].ratio
        return {
            "recipe": as_json(entry.recipe),
            "score": score(small, images.batches(), entry.data_set.task),
            "parameters": benchmark.parameters(model),
            "macs": macs,
            "share": macs / whole if macs and whole else None,
            "latency": None if ratio is None else ratio.ratio,
            "epochs": [[line["epoch"], line["score"]] for line in read_log(row.folder(runs, seed))],
        }
