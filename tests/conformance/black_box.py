"""What is still there that carries nothing: the result of `optimize` seen as a black box.

Of every layer of the result (Conv, ConvTranspose, Gemm, MatMul by a constant), each output channel is looked at on data:
it is *idle* when it has one value on all inputs and at all places, or when noise in its place moves no output. Nothing
is known here of rules; what the plan says of a channel that stayed (`Plan.stays`) is held against it afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxshrink.result import Result
from onnxshrink.runtime import session
from tests.zoo.oracle import Arrays

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

STILL = 1e-7
"""A channel that varies by less, relative to its layer's largest value, has one value."""

MOVED = 1e-6
"""Noise that moves the outputs by less, relative to their largest value, moves nothing."""


@dataclass(frozen=True)
class Idle:
    """A channel of a layer of the result that carries nothing.

    Attributes:
        layer: the node's output.
        channel: its index in the result.
        why: "constant" or "unread".
        reason: what the plan says of it, "" for nothing.
    """

    layer: str
    channel: int
    why: str
    reason: str


@dataclass(frozen=True)
class Layer:
    """A layer of the result: the tensor that it gives, and the axis that counts channels."""

    tensor: str
    axis: int


def layers(model: ModelProto) -> list[Layer]:
    """The layers with constant weights."""
    constants = {t.name: len(t.dims) for t in model.graph.initializer}
    constants |= {n.output[0]: 2 for n in model.graph.node if n.op_type == "Constant"}
    found = []
    for node in model.graph.node:
        if node.op_type in LAYERS and not node.domain and len(node.input) > 1 and node.input[1] in constants:
            found.append(Layer(node.output[0], 1 if "Conv" in node.op_type else -1))
    return found


def idle_channels(result: Result, feeds: Sequence[Arrays], limit: int = 400) -> list[Idle]:
    """Channels of the result that carry nothing on these inputs.

    Args:
        result: what `optimize` gave.
        feeds: at least two inputs that differ.
        limit: how many channels noise is tried on; where there are more, a random choice.
    """
    model = result.model
    outputs = [o.name for o in model.graph.output]
    probe = session(_probe(model).SerializeToString(), optimize=False, threads=2)
    switches = {layer.tensor: layer for layer in layers(model) if layer.tensor not in outputs}
    names = list(switches)
    found: list[Idle] = []
    values = [_run(probe, [*outputs, *(f"{n}@here" for n in names)], feed, {}) for feed in feeds]
    reasons = _reasons(result)
    constant: set[tuple[str, int]] = set()
    for name in names:
        arrays = [v[f"{name}@here"] for v in values]
        channels = [np.moveaxis(a, switches[name].axis, 0).reshape(a.shape[switches[name].axis], -1) for a in arrays]
        rows = np.concatenate(channels, axis=1).astype(np.float64)
        if rows.shape[1] < 2:
            continue
        still = np.ptp(rows, axis=1) <= STILL * max(float(np.abs(rows).max()), 1e-30)
        for channel in np.flatnonzero(still):
            constant.add((name, int(channel)))
            found.append(Idle(name, int(channel), "constant", reasons.get((name, int(channel)), "")))
    shapes = {n: values[0][f"{n}@here"].shape for n in names}
    rest = [(n, c) for n in names for c in range(shapes[n][switches[n].axis]) if (n, c) not in constant]
    rng = np.random.default_rng(0)
    if len(rest) > limit:
        rest = [rest[i] for i in sorted(rng.choice(len(rest), limit, replace=False))]
    for name, channel in rest:
        if _unmoved(probe, outputs, feeds[0], values[0], switches[name], channel, rng):
            found.append(Idle(name, channel, "unread", reasons.get((name, channel), "")))
    return found


def _unmoved(
    probe, outputs: list[str], feed: Arrays, clean: Arrays, layer: Layer, channel: int, rng: np.random.Generator
) -> bool:  # type: ignore[no-untyped-def]
    """Whether noise in a channel, as large as the layer's values, moves no output."""
    array = clean[f"{layer.tensor}@here"]
    mask = np.zeros(array.shape[layer.axis], bool)
    mask[channel] = True
    column = [1] * array.ndim
    column[layer.axis] = -1
    scale = float(np.abs(array).max()) + 1.0
    for sign in (1.0, -1.0):
        noise = (sign * scale * rng.uniform(0.5, 2.0, array.shape)).astype(array.dtype)
        given = {f"{layer.tensor}@mask": mask.reshape(column), f"{layer.tensor}@noise": noise}
        noisy = _run(probe, outputs, feed, given)
        for name in outputs:
            before, after = clean[name], noisy[name]
            if before.shape != after.shape:
                return False
            if before.dtype.kind != "f":
                if not np.array_equal(before, after):
                    return False
            elif float(np.abs(after - before).max(initial=0.0)) > MOVED * float(np.abs(before).max(initial=1e-30)):
                return False
    return True


def _run(probe, names: list[str], feed: Arrays, given: Arrays) -> Arrays:  # type: ignore[no-untyped-def]
    """A run with noise where `given` says so, and nothing anywhere else."""
    kinds = {"tensor(bool)": np.bool_, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    missing = {i.name: i for i in probe.get_inputs() if "@mask" in i.name or "@noise" in i.name}
    blank = {
        n: np.zeros([1] * len(i.shape), kinds.get(i.type, np.float32)) for n, i in missing.items() if n not in given
    }
    return dict(zip(names, probe.run(names, {**feed, **blank, **given}), strict=True))


def _probe(model: ModelProto) -> ModelProto:
    """The model with a switch behind every layer: where `<tensor>@mask` is set, the value is `<tensor>@noise`."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    outputs = {o.name for o in model.graph.output}
    switched = {layer.tensor for layer in layers(model)} - outputs
    kinds, ranks = _types(model, switched)
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        own = node.output[0] if node.output else ""
        if own in switched and own in ranks:
            node.output[0] = f"{own}@here"
            operands = [f"{own}@mask", f"{own}@noise", f"{own}@here"]
            nodes += [node, helper.make_node("Where", operands, [own])]
            shape = [None] * ranks[own]
            copy.graph.input.append(helper.make_tensor_value_info(operands[0], TensorProto.BOOL, shape))
            copy.graph.input.append(helper.make_tensor_value_info(operands[1], kinds[own], shape))
            copy.graph.output.append(helper.make_empty_tensor_value_info(operands[2]))
        else:
            nodes.append(node)
    nodes = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def _types(model: ModelProto, tensors: set[str]) -> tuple[dict[str, int], dict[str, int]]:
    """Element type and rank of the layers' outputs."""
    weights = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            weights[node.output[0]] = node.attribute[0].t
    inferred = onnx.shape_inference.infer_shapes(model)
    declared = {v.name: v.type.tensor_type for v in [*inferred.graph.value_info, *inferred.graph.output]}
    kinds, ranks = {}, {}
    for node in model.graph.node:
        name = node.output[0] if node.output else ""
        if name in tensors:
            kinds[name] = weights[node.input[1]].data_type
            if "Conv" in node.op_type:
                ranks[name] = len(weights[node.input[1]].dims)
            elif node.op_type == "Gemm":
                ranks[name] = 2
            elif name in declared and declared[name].HasField("shape"):
                ranks[name] = len(declared[name].shape.dim)
    return kinds, ranks


def _reasons(result: Result) -> dict[tuple[str, int], str]:
    """What the plan says of channels that carry nothing but stay, by their index in the result."""
    found = {}
    tensors = {n.output[0]: f"{n.op_type} `{n.name or n.output[0]}`" for n in result.model.graph.node if n.output}
    for tensor, label in tensors.items():
        for stay in result.plan.stays:
            if stay.layer != label:
                continue
            axes = result.plan.kept.get(tensor, {})
            kept = next(iter(axes.values()), None) if len(axes) == 1 else None
            for axis in (1, max(axes, default=1)):
                kept = axes.get(axis, kept)
            for old in stay.slices:
                place = kept.index(old) if kept is not None and old in kept else old
                found[tensor, place] = f"{stay.holder}: {stay.reason}"
    return found


def summary(found: Sequence[Idle]) -> Iterator[str]:
    """One line for each layer, kind and reason."""
    counts = Counter((item.layer, item.why, item.reason) for item in found)
    for (layer, why, reason), count in counts.items():
        yield f"{layer}: {count} {why}: {reason or 'NO REASON'}"


def constants(model: ModelProto) -> int:
    """Float elements of all initializers."""
    return sum(int(numpy_helper.to_array(t).size) for t in model.graph.initializer)
