"""The tables of pruning: run what is missing, collect what was run, and write the section of docs/results.md.

    python tools/pruning_results.py FOLDER --data DATA [--models MODELS] [--runs RUNS] [--only NAME] [--write]

FOLDER/<group>/<row>.json holds each row; what is there is not run again, so a run can be interrupted. DATA holds
CIFAR-10 and CamVid (models/cifar10.py, models/camvid.py), MODELS the published ones of tools/published_models.py, RUNS
the trained networks of tools/training_results.py.

- resnet20: accuracy of the gated ResNet-20 of this repository on the CIFAR-10 test images, for every method and budget
  of MACs, with and without repair;
- resnet20-curve: size against error of each method, from one scoring run;
- a model's name: one of ten dense published models at 75 % of its MACs and of its latency (one thread), beside
  onnxsim's structured Wanda pruning with ridge repair at the least sparsity that keeps to it; on images that neither
  saw;
- cascade: the dense ResNet-20 of RUNS, pruned and retrained in two rounds (models/cascade.py);
- resnet50-scoring: seconds and peak memory of scoring a ResNet-50 on 256 images of 224x224, in a process of its own.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools, from wherever this is started

from tools.page import write_section
from tools.pruning_rows import all_rows
from tools.pruning_tables import section

COMMAND = "python tools/pruning_results.py FOLDER --data DATA --models MODELS --runs RUNS --write"
PICTURE = Path(__file__).resolve().parent.parent / "docs" / "pruning.png"


def main() -> None:
    """Run, collect, print or write."""
    parser = argparse.ArgumentParser(description="The tables of pruning.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--models", type=Path, help="published models; without them their rows are left out")
    parser.add_argument("--runs", type=Path, help="trained networks; without them the cascade is left out")
    parser.add_argument("--only", action="append", help="this group, or group/row; may be given more than once")
    parser.add_argument("--write", action="store_true", help="write docs/results.md instead of printing")
    arguments = parser.parse_args()
    rows = [*all_rows(arguments.folder, arguments.data, arguments.models, arguments.runs)]
    names = {name for row in rows for name in (row.group, f"{row.group}/{row.name}")}
    for wanted in arguments.only or ():
        if wanted not in names:
            raise SystemExit(f"there is no row {wanted}; groups: {', '.join(dict.fromkeys(r.group for r in rows))}")
    for row in rows:
        if arguments.only is None or {row.group, f"{row.group}/{row.name}"} & set(arguments.only):
            row.run(arguments.folder)
    text = section(arguments.folder, rows, PICTURE if arguments.write else None)
    if arguments.write:
        write_section("pruning", "Pruning with known loss", COMMAND, text)
    else:
        print(text)


if __name__ == "__main__":
    main()
