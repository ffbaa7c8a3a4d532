"""The other cases of the onnx wheel: pytorch-converted, pytorch-operator, simple, and the light networks.

The small ones run like the node cases, planted as well; as they are mostly of opset 6, which is refused, each also runs
converted to a newer opset. The light networks have random weights and planted channels (tests/zoo/light.py), and an
independent count of what can go; what else holds of them is in tests/test_light_networks.py.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from onnx import version_converter

import onnxshrink
from tests.zoo import light, oracle
from tests.zoo.net import conv_outputs

from . import engine
from .outcome import Outcome
from .planted import Case, run_case

NAME = "wheel cases"

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data"
FOLDERS = ("pytorch-converted", "pytorch-operator", "simple")
NEWER = 17
"""The opset that the small cases are converted to."""


def names() -> Sequence[str]:
    return [*small(), *(f"light/{name}" for name in light.NAMES)]


def small() -> Sequence[str]:
    """The names of the small cases; those that can be converted appear a second time."""
    found = []
    for folder in FOLDERS:
        for path in sorted((FOLDER / folder).iterdir()):
            name = f"{folder}/{path.name}"
            found += [name, f"{name}@{NEWER}"] if load(f"{name}@{NEWER}") is not None else [name]
    return found


def run(name: str) -> Outcome:
    folder, _, case = name.partition("/")
    if folder == "light":
        return run_light(name, case)
    loaded = load(name)
    assert loaded is not None
    return run_case(name, loaded)


@cache
def load(name: str) -> Case | None:
    """A small case with its first data set.

    None where a conversion is asked for and the converter has no adapter, or writes a model that does not run.
    """
    path, _, newer = name.partition("@")
    folder = FOLDER / path
    model = onnx.load(folder / "model.onnx")
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    feeds = {v.name: value(folder / "test_data_set_0" / f"input_{k}.pb", v) for k, v in enumerate(inputs)}
    if newer:
        try:
            model = version_converter.convert_version(model, NEWER)
            engine.run(model, feeds, "runtime")
        except Exception:  # the converter raises whatever its adapters raise
            return None
    return Case(model, feeds, model.graph.node[0].op_type)


def value(file: Path, info: onnx.ValueInfoProto) -> Any:
    """A stored tensor or sequence."""
    data = file.read_bytes()
    if info.type.HasField("sequence_type"):
        return onnx.numpy_helper.to_list(onnx.SequenceProto.FromString(data))
    return onnx.numpy_helper.to_array(onnx.TensorProto.FromString(data))


def run_light(name: str, network: str) -> Outcome:
    """A light network with planted channels: equal, and at least as much gone as the independent count says."""
    planted = light.build(network)
    model = planted.model
    started = time.perf_counter()
    result = onnxshrink.optimize(model, align=1, negligible=0, verify=False)
    seconds = time.perf_counter() - started
    answers = engine.engines_for(model, feeds := oracle.feeds(model, 0))
    text = engine.same_answers(result.model, answers, feeds)
    assert not text, text
    removable = planted.channels.removable()
    removed = conv_outputs(model) - conv_outputs(result.model)
    assert removed >= removable, f"{removed} Conv channels are gone, {removable} can go"
    count = sum(planted.planted.values())
    return Outcome(name, "equal", count, removable, removed, seconds, size=model.ByteSize())
