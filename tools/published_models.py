"""Run `onnxshrink optimize` on every model of a folder, and print what went, whether it is proven, and what it took.

    python tools/published_models.py FOLDER [--markdown] [--align 1] [--json FILE]

Each model runs in a process of its own, through the command line: the exit code in the table is the one that a user
would get, and one model's failure is a row, not the end.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools, from wherever this is started

from tools.table import table

CONVOLUTIONS = ("Conv", "ConvTranspose")


@dataclass(frozen=True)
class Row:
    """One model's result.

    Attributes:
        name: the file's name without its ending.
        code: the exit code; 124 where the time ran out.
        error: what was printed on standard error, where the code is not 0.
        convolutions: output channels of all Conv and ConvTranspose layers, before and after.
        removed: channels of all layers that went, by kind.
        parameters, macs: before and after; None where dynamic shapes leave them open.
        state: "passed", "failed" or "unverified"; "unchanged" where there was nothing to verify.
        max_rel: largest difference relative to max|y|.
        noise_floor: the original's own difference, graph optimizations on against off.
        notes: of the verification, then of the run.
        seconds: of the whole command.
    """

    name: str
    code: int
    error: str = ""
    convolutions: tuple[int, int] = (0, 0)
    removed: dict[str, int] = field(default_factory=dict)
    parameters: tuple[int | None, int | None] = (None, None)
    macs: tuple[int | None, int | None] = (None, None)
    state: str = ""
    max_rel: float | str = 0.0
    noise_floor: float | str = 0.0
    notes: tuple[str, ...] = ()
    seconds: float = 0.0


def measure(model: Path, *, align: int = 1, options: Sequence[str] = (), limit: float = 600.0) -> Row:
    """Optimize one model through the command line.

    Args:
        model: the file.
        align: multiple to which channel counts are rounded.
        options: more options of `onnxshrink optimize`.
        limit: seconds after which the run is given up.
    """
    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "onnxshrink", "optimize", str(model), str(Path(folder) / "result.onnx")]
        command += ["--align", str(align), "--json", "-", *options]
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=limit, check=False)
        except subprocess.TimeoutExpired:
            return Row(model.stem, 124, f"no result after {limit:.0f} s", seconds=time.perf_counter() - started)
    seconds = time.perf_counter() - started
    if done.returncode:
        return Row(model.stem, done.returncode, done.stderr.strip(), seconds=seconds)
    return row_of(model.stem, json.loads(done.stdout), seconds)


def row_of(name: str, report: dict[str, Any], seconds: float) -> Row:
    """The row of a report as `--json` writes it."""
    layers = [layer for layer in report["layers"] if layer["op"] in CONVOLUTIONS]
    verification = report["verification"] or {"state": "unchanged", "max_rel": 0.0, "noise_floor": 0.0, "notes": []}
    return Row(
        name,
        0,
        convolutions=(sum(layer["before"] for layer in layers), sum(layer["after"] for layer in layers)),
        removed={kind: count for kind, count in report["channels"]["removed"].items() if count},
        parameters=(report["parameters"]["before"], report["parameters"]["after"]),
        macs=(report["macs"]["before"], report["macs"]["after"]),
        state=verification["state"],
        max_rel=verification["max_rel"],
        noise_floor=verification["noise_floor"],
        notes=(*verification["notes"], *report["notes"]),
        seconds=seconds,
    )


HEADER = (
    "model", "exit", "Conv channels", "removed", "parameters", "MACs", "verification", "max rel", "noise floor", "s",
)  # fmt: skip


def cells(row: Row) -> list[str]:
    """The row as text, a cell for each column of HEADER."""
    if row.code:
        return [row.name, str(row.code), *[""] * 4, row.error[:100], "", "", f"{row.seconds:.1f}"]
    before, after = row.convolutions
    return [
        row.name,
        str(row.code),
        f"{before} → {after}" if after != before else str(before),
        ", ".join(f"{count} {kind}" for kind, count in row.removed.items()) or "–",
        change(row.parameters),
        change(row.macs),
        row.state,
        "" if row.state == "unchanged" else number(row.max_rel),
        "" if row.state == "unchanged" else number(row.noise_floor),
        f"{row.seconds:.1f}",
    ]


def change(pair: tuple[int | None, int | None]) -> str:
    """Before and after with what went in percent; "?" where a count is not known."""
    before, after = pair
    if before is None or after is None:
        return "?"
    return f"{before:,}" if before == after else f"{before:,} → {after:,} ({100 * (after - before) / before:+.1f} %)"


def number(value: float | str) -> str:
    """A relative difference; infinite ones arrive as text."""
    return value if isinstance(value, str) else "0" if value == 0 else f"{value:.1e}"


def main() -> None:
    """Measure, print, and answer 1 if any model failed."""
    parser = argparse.ArgumentParser(description="Optimize every model of a folder and print a table.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--align", type=int, default=1, help="round channel counts up to a multiple (default 1)")
    parser.add_argument("--only", help="models whose name contains this")
    parser.add_argument("--markdown", action="store_true", help="print the table as Markdown")
    parser.add_argument("--json", type=Path, help="write all rows here")
    arguments = parser.parse_args()
    models = sorted(p for p in arguments.folder.glob("*.onnx") if (arguments.only or "") in p.name)
    if not models:
        parser.error(f"no .onnx file in {arguments.folder}")
    rows = []
    for model in models:
        rows.append(measure(model, align=arguments.align))
        state = rows[-1].state or rows[-1].error
        print(f"{len(rows)}/{len(models)} {model.stem}: {state}", file=sys.stderr, flush=True)
    print(table([HEADER, *map(cells, rows)], markdown=arguments.markdown))
    for row in rows:
        for note in row.notes if row.state == "unverified" else ():
            print(f"\n{row.name}: {note}")
    if arguments.json is not None:
        arguments.json.write_text(json.dumps([asdict(row) for row in rows], indent=1), encoding="utf-8")
    sys.exit(any(row.code for row in rows))


if __name__ == "__main__":
    main()
