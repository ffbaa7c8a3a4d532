"""The order of tools: simplifiers before and after, and conversions to float16 and to int8 after the cut.

What a simplifier writes is cut and verified as well, and what it makes of the result is still the original's function.
A converted result loads and runs without a word about shapes, and is no further from the original than twice what the
conversion does to the original itself.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime.quantization as quantization
from onnx import ModelProto

import onnxshrink
from tests.zoo import networks, oracle
from tests.zoo.channels import ChannelGraph
from tests.zoo.net import conv_outputs

from . import engine
from .outcome import Outcome

NAME = "tool order"

GATED = Path(__file__).resolve().parent.parent.parent / "models" / "resnet20_cifar10_gated.onnx"
PLANTED = {"mobilenet_v2": "inner", "resnet50": "const", "unet": "const"}
NETWORKS = ("resnet20_gated", *PLANTED)
ORDERS = (
    "onnxsim, shrink",
    "shrink, onnxsim",
    "onnxslim, shrink",
    "shrink, onnxslim",
    "shrink, float16",
    "shrink, QDQ",
    "shrink, QOperator",
)

RUNNER = """
import sys
import numpy as np, onnxruntime
model, feeds, answers = sys.argv[1:]
options = onnxruntime.SessionOptions()
options.log_severity_level = 2
session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
names = [output.name for output in session.get_outputs()]
np.savez(answers, **dict(zip(names, session.run(names, dict(np.load(feeds))))))
"""


def names() -> Sequence[str]:
    return [f"{network}: {order}" for network in NETWORKS for order in ORDERS]


def run(name: str) -> Outcome:
    network, _, order = name.partition(": ")
    first, second = order.split(", ")
    model, removable = original(network)
    feeds = oracle.feeds(model, 0, {"batch": 2})
    answers = engine.engines_for(model, feeds)
    before = model if first == "shrink" else TOOLS[first](model)
    started = time.perf_counter()
    result = onnxshrink.optimize(before, align=1)
    seconds = time.perf_counter() - started
    assert result.verification is not None
    assert result.verification.passed, result.verification.notes
    removed = conv_outputs(before) - conv_outputs(result.model)
    assert removed >= removable, f"{removed} Conv channels are gone, {removable} can go"
    if first != "shrink":
        text = engine.same_answers(result.model, answers, feeds)
    elif second in TOOLS:
        text = engine.same_answers(TOOLS[second](result.model), answers, feeds)
    else:
        text = _converted(second, model, result.model, answers["runtime"], feeds)
    assert not text, text
    return Outcome(name, "equal", removable, removable, removed, seconds, size=model.ByteSize())


@cache
def original(network: str) -> tuple[ModelProto, int]:
    """A network with dead channels, and how many a consistent cut removes."""
    if network == "resnet20_gated":
        model = onnx.load(GATED)
        return model, gated(model)
    model = networks.planted(network, PLANTED[network]).model
    return model, ChannelGraph(model).removable()


def gated(model: ModelProto) -> int:
    """Channels of the gate-trained model whose filters are zero; each feeds one reader that can do without it."""
    tensors = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    sums = {name for node in model.graph.node if node.op_type in ("Add", "Sum") for name in node.input}
    makers = {output: node for node in model.graph.node for output in node.output}
    held = {makers[name].name for name in sums if name in makers}
    return sum(
        int((tensors[node.input[1]] == 0).all(axis=(1, 2, 3)).sum())
        for node in model.graph.node
        if node.op_type == "Conv" and node.name not in held
    )


def onnxsim(model: ModelProto) -> ModelProto:
    import onnxsim as tool

    simplified, checked = tool.simplify(model)
    assert checked, "onnxsim does not trust its own result"
    return simplified


def onnxslim(model: ModelProto) -> ModelProto:
    import onnxslim as tool

    copy = ModelProto()
    copy.CopyFrom(model)
    slim = tool.slim(copy)
    assert isinstance(slim, ModelProto)
    return slim


TOOLS: dict[str, Callable[[ModelProto], ModelProto]] = {"onnxsim": onnxsim, "onnxslim": onnxslim}


def float16(model: ModelProto, feeds: Mapping[str, np.ndarray], folder: Path) -> Path:
    """The model with weights and activations in float16, inputs and outputs as they were."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    copy = ModelProto()
    copy.CopyFrom(model)
    path = folder / "float16.onnx"
    onnx.save(convert_float_to_float16(copy, keep_io_types=True), path)
    return path


class Reader(quantization.CalibrationDataReader):
    """Calibration on a few random inputs."""

    def __init__(self, batches: Sequence[Mapping[str, np.ndarray]]):
        self.batches = iter(batches)

    def get_next(self) -> Mapping[str, np.ndarray] | None:
        return next(self.batches, None)


def quantized(model: ModelProto, feeds: Mapping[str, np.ndarray], folder: Path, form: str) -> Path:
    """The model in int8, statically quantized by ONNX Runtime, in one of its two forms."""
    source, path = folder / "float.onnx", folder / f"{form}.onnx"
    onnx.save(model, source)
    quantization.quantize_static(
        source,
        path,
        Reader([feeds, oracle.feeds(model, 1, {"batch": 2})]),
        quant_format=getattr(quantization.QuantFormat, form),
        per_channel=form == "QDQ",
    )
    return path


def _converted(
    tool: str, model: ModelProto, result: ModelProto, answers: Sequence[Any], feeds: Mapping[str, np.ndarray]
) -> str:
    """What is wrong with the conversion of the result; empty where nothing is."""
    errors = []
    for which in (model, result):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            converted = float16(which, feeds, folder) if tool == "float16" else quantized(which, feeds, folder, tool)
            actual, said = _run_apart(converted, feeds, folder)
            if which is result and said:
                return said
            wanted = dict(zip([output.name for output in model.graph.output], answers, strict=True))
            errors.append(max(_distance(wanted[name], actual[name]) for name in wanted))
    if errors[1] > max(2 * errors[0], 1e-3):
        return f"converted, the result is off by {errors[1]:.1e} of max |y|, the original by {errors[0]:.1e}"
    return ""


def _run_apart(path: Path, feeds: Mapping[str, np.ndarray], folder: Path) -> tuple[Mapping[str, np.ndarray], str]:
    """The outputs in a process of its own, and what ONNX Runtime says of shapes while it loads and runs."""
    np.savez(folder / "feeds.npz", **feeds)
    command = [sys.executable, "-c", RUNNER, str(path), str(folder / "feeds.npz"), str(folder / "answers.npz")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    said = [line for line in done.stderr.splitlines() if "[W:" in line and "shape" in line.lower()]
    with np.load(folder / "answers.npz") as answers:
        return dict(answers), "\n".join(said)


def _distance(expected: np.ndarray, actual: np.ndarray) -> float:
    """max |difference| relative to max |y|."""
    return float(np.abs(expected - actual).max() / np.abs(expected).max())
