"""The tables of pruning: run what is missing, collect what was run, and write the section of docs/results.md.

    python tools/pruning_results.py [--only NAME] [--run WORK --data DATA --models MODELS --runs RUNS] [--write]

A line of docs/rows/pruning/<group>.json holds each row. What is there is not made again, so a run can be interrupted;
without --run nothing is. WORK takes the layer tables and retrained networks that rows leave behind, DATA holds CIFAR-10
and CamVid (models/cifar10.py, models/camvid.py), MODELS the published ones of tools/published_models.py, RUNS the
trained networks of tools/training_results.py.

- resnet20: accuracy of the gated ResNet-20 of this repository on the CIFAR-10 test images, for every method and budget
  of MACs, with and without repair;
- resnet20-curve: size against error of each method, from one scoring run;
- a model's name: one of ten dense published models at 75 % of its MACs and of its latency (one thread), beside
  onnxsim's structured Wanda pruning with ridge repair at the least sparsity that keeps to it; on images that neither
  saw;
- cascade: the dense ResNet-20 of RUNS, pruned and retrained (models/cascade.py);
- resnet50-scoring: seconds and peak memory of scoring a ResNet-50 on 256 images of 224x224, in a process of its own;
- large-layer: the same of pruning and repairing a network with a layer of 2,048 inputs and outputs of 3x3.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools, from wherever this is started

from tools.page import write_section
from tools.pruning_rows import all_rows
from tools.pruning_tables import section
from tools.rows import ROWS

COMMAND = "python tools/pruning_results.py --run WORK --data DATA --models MODELS --runs RUNS --write"
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pruning.png"


def main() -> None:
    """Run, collect, print or write."""
    parser = argparse.ArgumentParser(description="The tables of pruning.")
    parser.add_argument("--run", type=Path, metavar="WORK", help="make what is missing, in this folder")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--models", type=Path, help="published models")
    parser.add_argument("--runs", type=Path, help="trained networks")
    parser.add_argument("--rows", type=Path, default=ROWS / "pruning", help="where rows are kept")
    parser.add_argument("--only", action="append", help="this group, or group/row; may be given more than once")
    parser.add_argument("--write", action="store_true", help="write docs/results.md instead of printing")
    arguments = parser.parse_args()
    where = [arguments.run, arguments.data, arguments.models, arguments.runs]
    if arguments.run is not None and None in where:
        parser.error("--run needs --data, --models and --runs")
    rows = [*all_rows(*(path or Path() for path in where))]
    names = {name for row in rows for name in (row.group, f"{row.group}/{row.name}")}
    for wanted in arguments.only or ():
        if wanted not in names:
            raise SystemExit(f"there is no row {wanted}; groups: {', '.join(dict.fromkeys(r.group for r in rows))}")
    for row in rows if arguments.run is not None else ():
        if arguments.only is None or {row.group, f"{row.group}/{row.name}"} & set(arguments.only):
            row.run(arguments.rows)
    text = section(arguments.rows, rows, PICTURE if arguments.write else None)
    if arguments.write:
        write_section("pruning", "Pruning with known loss", COMMAND, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
