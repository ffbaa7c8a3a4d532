"""ResNet-50 and MobileNetV2 with half of their inner channels dead: what `optimize` takes, and what it gives.

    python tools/resnet50.py [--only resnet50] [--seconds 1] [--markdown]

Each inner channel (one that no residual sum sees) is dead with probability one half, so that the counts are as odd as
training leaves them. "zero" has gamma = beta = 0; "constant" has gamma = 0 and keeps its beta. BatchNormalization is
folded, as exporters do. `optimize` runs in a process of its own, whose peak memory is the operating system's figure
(not available on Windows). Latency is measured in turns at one thread: dense against the result, and the result against
the same network built dense at these widths, which is as good as a cut can get.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/zoo and tools, from wherever this is started

import onnxshrink
from tests.zoo import calibrate, networks
from tools.table import table

ARCHITECTURES = ("resnet50", "mobilenet_v2")
ALIGNMENTS = (1, 4)
MEASURES_MEMORY = hasattr(os, "wait4")

# A child's peak begins at the size of the process that starts it, so a small one stands between.
LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:], stdout=subprocess.DEVNULL)
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Case:
    """An architecture at its published widths with dead inner channels, and the widths of what is alive."""

    model: ModelProto
    alive: dict[str, int]


@dataclass(frozen=True)
class Run:
    """What one run of the command line took and reported; `peak_mb` is None where the system does not say."""

    report: dict[str, Any]
    seconds: float
    peak_mb: float | None


def planted(architecture: str, kind: str, seed: int = 0) -> Case:
    """The folded network; `kind` is "zero" or "constant"."""
    network, rng = networks.published(architecture), np.random.default_rng(seed)
    dead = {key: rng.random(width) < 0.5 for key, width in network.widths.items() if networks.is_inner(key)}
    model = ModelProto()
    model.CopyFrom(network.model)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer if ".norm." in t.name}
    changed = {}
    for norm, key in network.norms.items():
        for part in ("gamma", "beta")[: 2 if kind == "zero" else 1] if key in dead else ():
            changed[f"{norm}.{part}"] = np.where(dead[key], 0, arrays[f"{norm}.{part}"])
    calibrate.set_initializers(model, changed)
    alive = {**network.widths, **{key: int((~mask).sum()) for key, mask in dead.items()}}
    return Case(networks.fold(model), alive)


def optimize(source: Path, output: Path, align: int) -> Run:
    """`onnxshrink optimize` in a process of its own.

    Raises:
        SystemExit: it failed; its message.
    """
    report = output.with_suffix(".json")
    command = [sys.executable, "-m", "onnxshrink", "optimize", str(source), str(output), "--align", str(align)]
    command += ["--json", str(report)]
    if MEASURES_MEMORY:
        command = [sys.executable, "-c", LAUNCHER, *command]
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    seconds = time.perf_counter() - started
    peak = int(done.stdout) / (1024**2 if sys.platform == "darwin" else 1024) if MEASURES_MEMORY else None
    if done.returncode:
        raise SystemExit(f"optimize of {source.stem} failed with exit code {done.returncode}")
    return Run(json.loads(report.read_text(encoding="utf-8")), seconds, peak)


def ratio(a: Path, b: Path, seconds: float) -> str:
    """Time of B over time of A at one thread, with its 95 % interval."""
    measured = onnxshrink.bench(a, b, threads=1, seconds=seconds).batches[0]
    assert measured.ratio is not None
    assert measured.b is not None
    found = measured.ratio
    times = f"{measured.a.median_ms:.1f} → {measured.b.median_ms:.1f} ms"
    return f"{found.ratio:.3f} ({found.low:.3f}..{found.high:.3f}), {times}"


def main() -> None:
    """Build, optimize, measure, print."""
    parser = argparse.ArgumentParser(description="Optimize networks with half of their inner channels dead.")
    parser.add_argument("--only", choices=ARCHITECTURES)
    parser.add_argument("--seconds", type=float, default=1.0, help="of measuring for each pair (default 1)")
    parser.add_argument("--markdown", action="store_true")
    arguments = parser.parse_args()
    taken = [
        ["network", "dead", "align", "parameters", "max error", "noise floor", "plan s", "verify s", "all s", "MB"]
    ]
    timed = [["network", "dead", "comparison", "B / A (95 % interval), medians"]]
    for architecture in [arguments.only] if arguments.only else ARCHITECTURES:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            for kind in ("zero", "constant"):
                case = planted(architecture, kind)
                source = folder / f"{kind}.onnx"
                onnx.save(case.model, source)
                for align in ALIGNMENTS:
                    result = folder / f"{kind}{align}.onnx"
                    run = optimize(source, result, align)
                    taken.append([architecture, kind, str(align), *figures(run)])
                    # the planted model itself is what a user has: its zeros cost what any weights cost
                    if kind == "zero" or align == ALIGNMENTS[-1]:
                        comparison = ratio(source, result, arguments.seconds)
                        timed.append([architecture, kind, f"planted → align {align}", comparison])
                if kind == "zero":
                    ideal = folder / "ideal.onnx"
                    onnx.save(networks.dense_at(architecture, case.alive).model, ideal)
                    comparison = ratio(ideal, folder / "zero1.onnx", arguments.seconds)
                    timed.append([architecture, kind, "built dense at these widths → align 1", comparison])
    print(table(taken, markdown=arguments.markdown), end="\n\n")
    print(table(timed, markdown=arguments.markdown))
    if not MEASURES_MEMORY:
        print("\nPeak memory is not measured on this system.")


def figures(run: Run) -> list[str]:
    """The cells of a run."""
    parameters, seconds = run.report["parameters"], run.report["seconds"]
    verification = run.report["verification"]
    return [
        f"{parameters['before']:,} → {parameters['after']:,}",
        f"{verification['max_rel']:.1e} ({verification['state']})",
        f"{verification['noise_floor']:.1e}",
        f"{seconds['plan']:.1f}",
        f"{seconds['verify']:.1f}",
        f"{run.seconds:.1f}",
        "–" if run.peak_mb is None else f"{run.peak_mb:.0f}",
    ]


if __name__ == "__main__":
    main()
