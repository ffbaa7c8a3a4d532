"""Rows of the tables of pruning: what each runs, and where it is kept (pruning_results.py says what they are)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tools and tests/zoo, from wherever this is started

import onnxshrink
from onnxshrink import benchmark
from onnxshrink.errors import OnnxshrinkError
from tools import pruning_rivals
from tools.pruning_inputs import answers, difference, feeds, pixels
from tools.rows import Figures, keep, read

ROOT = Path(__file__).resolve().parent.parent
NETWORK = ROOT / "models" / "resnet20_cifar10_gated.onnx"

SHARES = (0.45, 0.35, 0.25)
METHODS: dict[str, dict[str, Any]] = {
    "wanda utilization": {},
    "wanda uniform": {"allocation": "uniform"},
    "wanda global": {"allocation": "global"},
    "wanda knapsack": {"allocation": "knapsack"},
    "pfp": {"method": "pfp"},
    "pfp mixed": {"method": "pfp", "variant": "mixed"},
    "magnitude uniform": {"method": "magnitude", "allocation": "uniform"},
    "magnitude global": {"method": "magnitude", "allocation": "global"},
    "random": {"method": "random"},
}

TARGET, CALIBRATION, HELD_OUT = 0.75, 256, 128
PUBLISHED: dict[str, tuple[str, str]] = {
    "blazeface_front_128": ("camvid", "-1,1"),
    "bodypix_mbv1_050_s16": ("camvid", "-1,1"),
    "cifar_resnet_sri_a": ("cifar10", "0,1"),
    "face_landmark_192": ("camvid", "0,1"),
    "fastestdet_coco": ("camvid", "0,1"),
    "rn56_c100_dense": ("cifar10", "imagenet"),
    "selfie_seg_landscape": ("camvid", "0,1"),
    "ultraface_rfb_320": ("camvid", "-1,1"),
    "vit_pgd_2_3_16": ("cifar10", "0,1"),
    "yolox_nano_coco": ("camvid", "0,255"),
}
"""Images and scaling, as far as their authors say; what is measured is the distance to the original, not accuracy."""

CURVES = ("wanda", "pfp", "magnitude", "random")
POINTS = 24

CASCADES = {
    "pfp-0.7-x1-trained": ("pfp", 0.7, 1, "trained"),
    "pfp-0.7-x2": ("pfp", 0.7, 2, "dense"),
    "wanda-0.3-x2": ("wanda", 0.3, 2, "dense"),
}
"""Prune and retrain a ResNet-20: method, share of its MACs that stays, rounds, and the file of the network that they
begin with: after its first learning rate cycle, or trained to the end.
"""

DEFAULT = "wanda utilization"
OURS = {f"wanda {name}": {"allocation": name} for name in ("uniform", "knapsack", "utilization")}
BUDGETS = {"macs": tuple(OURS), "latency": (DEFAULT,)}
"""Of published models, and what of ours is held against the rival at each."""

SCORE = """
import json, sys, time
from pathlib import Path
from onnxshrink.candidates import Candidates
from onnxshrink.graph.inline import inlined
from onnxshrink.graph.model import read
from onnxshrink.pruning.budget import Budget
model, images, method = sys.argv[1:]
start = time.perf_counter()
found = Candidates(inlined(read(model)), images, None, "imagenet", None, 256, None, "cpu", 0, lambda text: None)
ready = time.perf_counter()
found.rank(method, "top", "uniform", "sum", Budget(macs=0.75))
print(json.dumps({"prepare": ready - start, "score": time.perf_counter() - ready, "samples": len(found.calibration)}))
"""
WIDE, KEPT = 2048, 0.97
"""Channels of the layer whose repair is measured, and the share of its network's MACs that stays."""
REPAIR = f"""
import json, sys
import onnxshrink
done = onnxshrink.prune(sys.argv[1], data=sys.argv[2], keep_macs={KEPT}, allocation="uniform", align=1, points=0)
errors = dict(error=done.error, error_before_repair=done.error_before_repair)
print(json.dumps(errors | dict(inputs=len(done.masks[0].kept))))
"""
# A child's peak begins at the size of the process that starts it, so a small one stands between.
LAUNCHER = """
import os, subprocess, sys
child = subprocess.Popen(sys.argv[1:])
_, status, usage = os.wait4(child.pid, 0)
print(usage.ru_maxrss)
sys.exit(os.waitstatus_to_exitcode(status))
"""


@dataclass(frozen=True)
class Row:
    """One row: where it is kept, and what makes it."""

    group: str
    name: str
    make: Callable[[], Figures]

    def path(self, folder: Path) -> Path:
        return folder / self.group / self.name

    def run(self, folder: Path) -> None:
        """Make it, unless it is there."""
        path = self.path(folder)
        if read(path) is not None:
            return
        start = time.perf_counter()
        try:
            found = self.make()
        except OnnxshrinkError as error:
            found = {"failed": str(error)}
        found["seconds"] = round(time.perf_counter() - start, 1)
        keep(path, found)
        print(f"{self.group}/{self.name}: {json.dumps(found)}", file=sys.stderr)


def all_rows(work: Path, data: Path, models: Path, runs: Path) -> Iterator[Row]:
    """Every row of every group; layer tables and retrained networks go to the folder `work`."""
    yield Row("resnet20", "dense", lambda: {"accuracy": accuracy(NETWORK, data), "macs": 1.0})
    for name, options in METHODS.items():
        for share in SHARES:
            for repair in (False, True):
                row = f"{name.replace(' ', '-')}-{share:g}-{'repaired' if repair else 'plain'}"
                yield Row("resnet20", row, lambda o=options, s=share, r=repair: resnet20(data, o, s, r))
    for share in SHARES:
        yield Row("resnet20", f"onnxsim-{share:g}", lambda s=share: resnet20_rival(data, s))
    for method in CURVES:
        yield Row("resnet20-curve", method, lambda m=method: resnet20_curve(data, m))
    for name, (images, scaling) in PUBLISHED.items():
        source = models / f"{name}.onnx"
        for budget, methods in BUDGETS.items():
            for ours in methods:
                yield Row(
                    name,
                    f"{budget}-{ours.replace(' ', '-')}",
                    lambda a=(source, data, images, scaling, budget, OURS[ours], work / name): published(*a),
                )
            yield Row(name, f"{budget}-onnxsim", lambda a=(source, data, images, scaling, budget): rival(*a))
    for name, how in CASCADES.items():
        where = (runs / "resnet20" / "0" / "none", work / "cascade" / name)
        yield Row("cascade", name, lambda a=(*where, data, *how): cascade(*a))
    for method in ("wanda", "pfp"):
        yield Row("resnet50-scoring", method, lambda m=method: scoring(data, m))
    yield Row("large-layer", "repaired", large_layer)


# --- resnet20 --------------------------------------------------------------------------------------------------------


def accuracy(model: Path | onnx.ModelProto, data: Path) -> float:
    """Share of right answers on the 10,000 test images."""
    images, labels = pixels(data, "cifar10", "test")
    name = onnx.load(NETWORK).graph.input[0].name
    batches = [
        {name: images[k : k + 250].transpose(0, 3, 1, 2).astype(np.float32) / 255} for k in range(0, len(images), 250)
    ]
    return float((answers(model, batches)[0].argmax(1) == labels).mean())


def resnet20(data: Path, options: dict[str, Any], share: float, repair: bool) -> Figures:
    """Accuracy of one method at one budget."""
    images, _ = pixels(data, "cifar10", "train")
    samples = feeds(onnx.load(NETWORK), images[:512], "0,1")
    result = onnxshrink.prune(
        NETWORK, data=samples, keep_macs=share, align=1, repair_weights=repair, points=0, **options
    )
    return {"accuracy": accuracy(result.model, data), "macs": result.point.macs, "error": result.error}


def resnet20_curve(data: Path, method: str) -> Figures:
    """All budgets of one method: (share of the MACs, error on held-out samples), without repair."""
    images, _ = pixels(data, "cifar10", "train")
    samples = feeds(onnx.load(NETWORK), images[:512], "0,1")
    result = onnxshrink.prune(
        NETWORK, data=samples, keep_macs=SHARES[0], align=1, repair_weights=False, points=POINTS, method=method
    )
    return {"points": [(point.macs, point.error) for point in result.curve]}


def resnet20_rival(data: Path, share: float) -> Figures:
    """Their tool on the network without its dead channels: it knows of none."""
    images, _ = pixels(data, "cifar10", "train")
    whole = onnx.load(NETWORK)
    model = onnxshrink.optimize(NETWORK, align=1).model
    full = benchmark.macs(whole) or 1
    found = pruning_rivals.wanda(
        model, feeds(whole, images[:512], "0,1"), lambda proto: (benchmark.macs(proto) or full) / full, share
    )
    if found is None:
        return {"failed": "no sparsity keeps to the budget"}
    return {
        "accuracy": accuracy(found.plain, data),
        "accuracy_repaired": accuracy(found.repaired, data),
        "macs": found.share,
    }


# --- cascade ----------------------------------------------------------------------------------------------------------


def cascade(dense: Path, out: Path, data: Path, method: str, share: float, rounds: int, begin: str) -> Figures:
    """Prune and retrain, beside the dense network of the run that it began with, trained to the end."""
    name, begin = "resnet20_cifar10.onnx", str(dense / f"{begin}.pt")
    command = [sys.executable, "models/cascade.py", "resnet20", "--data", str(data), "--dense", begin]
    command += ["--out", str(out), "--keep-macs", str(share), "--rounds", str(rounds), "--method", method]
    subprocess.run([*command, "--threads", os.environ.get("OMP_NUM_THREADS", "2")], check=True, cwd=ROOT)
    whole = benchmark.macs(onnx.load(dense / name)) or 1
    return {
        "accuracy": accuracy(out / name, data),
        "dense": accuracy(dense / name, data),
        "macs": (benchmark.macs(onnx.load(out / name)) or 0) / whole,
    }


# --- published models ------------------------------------------------------------------------------------------------


def inputs_for(source: Path, data: Path, images: str, scaling: str) -> tuple[list[Any], list[Any]]:
    """Samples to calibrate on, and samples that nothing sees."""
    model = onnx.load(source)
    parts = ((pixels(data, images, split)[0], count) for split, count in (("train", CALIBRATION), ("test", HELD_OUT)))
    calibration, held = (
        feeds(model, found[np.linspace(0, len(found) - 1, n).astype(int)], scaling) for found, n in parts
    )
    return calibration, held


def judged(source: Path, result: onnx.ModelProto, held: Sequence[Any], share: float) -> Figures:
    """What a row of a published model holds."""
    error, agreement = difference(answers(source, held), answers(result, held))
    return {"share": share, "error": error, "agreement": agreement}


def published(
    source: Path, data: Path, images: str, scaling: str, budget: str, options: dict[str, Any], folder: Path
) -> Figures:
    """Our pruning at 75 % of the MACs, or of the latency at one thread by a table that is kept beside the rows."""
    calibration, held = inputs_for(source, data, images, scaling)
    if budget == "macs":
        result = onnxshrink.prune(source, data=calibration, keep_macs=TARGET, align=1, points=0, **options)
        before, after = result.sizes["macs"]
        return judged(source, result.model, held, (after or 0) / (before or 1))
    folder.mkdir(parents=True, exist_ok=True)
    latencies = benchmark.measure_layers(source, folder / "layers.table", threads=1, seconds=1.0)
    result = onnxshrink.prune(source, data=calibration, keep_latency=TARGET, table=latencies, points=0, **options)
    assert result.latency is not None
    measured = result.latency.measured
    assert measured is not None
    return {**judged(source, result.model, held, measured.ratio), "predicted": result.latency.predicted}


def rival(source: Path, data: Path, images: str, scaling: str, budget: str) -> Figures:
    """Their tool at the same budget, repaired."""
    calibration, held = inputs_for(source, data, images, scaling)
    model = onnx.load(source)
    full = benchmark.macs(model) or 1
    with tempfile.TemporaryDirectory() as name:

        def latency(proto: onnx.ModelProto) -> float:
            other = Path(name) / "pruned.onnx"
            onnx.save(proto, other)
            measured = onnxshrink.bench(source, other, threads=1, seconds=1.5).batches[0].ratio
            assert measured is not None
            return measured.ratio

        cost = latency if budget == "latency" else lambda proto: (benchmark.macs(proto) or full) / full
        found = pruning_rivals.wanda(model, calibration, cost, TARGET)
    if found is None:
        return {"failed": "no sparsity keeps to the budget"}
    plain = judged(source, found.plain, held, found.share)
    return {
        **judged(source, found.repaired, held, found.share),
        "error_before_repair": plain["error"],
        "sparsity": found.sparsity,
    }


# --- time and memory --------------------------------------------------------------------------------------------------


def scoring(data: Path, method: str) -> Figures:
    """Seconds and peak memory of scoring alone, images read and resized from files."""
    from PIL import Image

    from tests.zoo import networks

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "images").mkdir()
        for number, image in enumerate(pixels(data, "camvid", "train")[0][:256]):
            Image.fromarray(image).resize((224, 224)).save(folder / "images" / f"{number:04}.png")
        onnx.save(networks.fold(networks.published("resnet50").model), folder / "model.onnx")
        return alone(SCORE, str(folder / "model.onnx"), str(folder / "images"), method)


def large_layer() -> Figures:
    """Pruning and repair of a network whose middle layer has 2,048 inputs and outputs of 3x3 and loses a few of them,
    so that nearly all of its weights are fitted.
    """
    from tests.pruning.nets import Maker

    m = Maker(["n", 3, 8, 8])
    x = m.op("Relu", m.conv(m.op("Relu", m.conv("x", 3, WIDE)), WIDE, WIDE))
    model = m.model(m.conv(m.op("GlobalAveragePool", x), WIDE, 10, k=1))
    with tempfile.TemporaryDirectory() as name:
        source, samples = Path(name) / "model.onnx", Path(name) / "samples.npz"
        onnx.save(model, source)
        np.savez(samples, x=np.random.default_rng(0).standard_normal((160, 3, 8, 8)).astype(np.float32))
        return alone(REPAIR, str(source), str(samples))


def alone(script: str, *arguments: str) -> Figures:
    """What a script prints as JSON in a process of its own, and that process's peak memory in MB."""
    child = [sys.executable, "-c", script, *arguments]
    done = subprocess.run([sys.executable, "-c", LAUNCHER, *child], capture_output=True, text=True, check=True)
    figures, peak = done.stdout.splitlines()
    return {**json.loads(figures), "peak_mb": int(peak) / (1024**2 if sys.platform == "darwin" else 1024)}
