"""What is still there that carries nothing: the result of `optimize` seen as a black box.

Of every layer of the result (Conv, ConvTranspose, Gemm, MatMul by a constant) each output channel is looked at on data:
it is *idle* when it has one value on all inputs and at all places, or when noise in its place moves no output. Nothing
is known here of rules. Each idle channel gets the reason that the plan has for it (`Plan.stays`); where it has none,
one that the data show: weights that are small but not negligible, or inputs that are constant on these data, although
nobody can prove it for others (an activation that is off). A channel without any reason is one that was missed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxshrink.result import Result
from onnxshrink.runtime import session
from tests.zoo.oracle import Arrays

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")

STILL = 1e-7
"""A channel that varies by less, relative to its layer's largest value, has one value."""

SMALL = 1e-5
"""Weights below this share of their layer's largest explain a channel that does not vary."""

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
    """A layer of the result.

    Attributes:
        node: the node.
        weight: its constant.
        tensor: what it gives.
        axis: the axis of that which counts channels.
        rank: of that.
    """

    node: onnx.NodeProto
    weight: TensorProto
    axis: int
    rank: int

    @property
    def tensor(self) -> str:
        return self.node.output[0]


def layers(model: ModelProto) -> list[Layer]:
    """The layers with constant weights whose channels are not an output of the graph; none below opset 9 (Where)."""
    if any(o.domain == "" and o.version < 9 for o in model.opset_import):
        return []
    constants = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute[0].name == "value":
            constants[node.output[0]] = node.attribute[0].t
    inferred = onnx.shape_inference.infer_shapes(model)
    declared = {v.name: v.type.tensor_type for v in inferred.graph.value_info}
    outputs = {o.name for o in model.graph.output}
    found = []
    for node in model.graph.node:
        if node.op_type not in LAYERS or node.domain or node.input[1] not in constants or node.output[0] in outputs:
            continue
        weight = constants[node.input[1]]
        if "Conv" in node.op_type:
            found.append(Layer(node, weight, 1, len(weight.dims)))
        elif node.op_type == "Gemm":
            found.append(Layer(node, weight, -1, 2))
        elif node.output[0] in declared and declared[node.output[0]].HasField("shape"):
            found.append(Layer(node, weight, -1, len(declared[node.output[0]].shape.dim)))
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
    switches = {layer.tensor: layer for layer in layers(model)}
    probe = session(_probe(model, list(switches.values())).SerializeToString(), optimize=False, threads=2)
    names = list(switches)
    found: list[Idle] = []
    shown = [*outputs, *(f"{n}@{end}" for n in names for end in ("here", "read"))]
    values = [_run(probe, shown, feed, {}) for feed in feeds]
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
            reason = reasons.get((name, int(channel))) or _shown(switches[name], int(channel), values)
            found.append(Idle(name, int(channel), "constant", reason))
    shapes = {n: values[0][f"{n}@here"].shape for n in names}
    rest = [(n, c) for n in names for c in range(shapes[n][switches[n].axis]) if (n, c) not in constant]
    rng = np.random.default_rng(0)
    if len(rest) > limit:
        rest = [rest[i] for i in sorted(rng.choice(len(rest), limit, replace=False))]
    for name, channel in rest:
        if all(
            _unmoved(probe, outputs, feed, clean, switches[name], channel, rng)
            for feed, clean in zip(feeds, values, strict=True)
        ):
            found.append(Idle(name, channel, "unread", reasons.get((name, channel), "")))
    return found


def _unmoved(
    probe: Any, outputs: list[str], feed: Arrays, clean: Arrays, layer: Layer, channel: int, rng: np.random.Generator
) -> bool:
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


def _run(probe: Any, names: list[str], feed: Arrays, given: Arrays) -> Arrays:
    """A run with noise where `given` says so, and nothing anywhere else."""
    kinds = {"tensor(bool)": np.bool_, "tensor(float16)": np.float16, "tensor(double)": np.float64}
    missing = {i.name: i for i in probe.get_inputs() if "@mask" in i.name or "@noise" in i.name}
    blank = {
        n: np.zeros([1] * len(i.shape), kinds.get(i.type, np.float32)) for n, i in missing.items() if n not in given
    }
    return dict(zip(names, probe.run(names, {**feed, **blank, **given}), strict=True))


def _probe(model: ModelProto, switched: Sequence[Layer]) -> ModelProto:
    """The model with a switch behind every layer: where `<tensor>@mask` is set, the value is `<tensor>@noise`.

    What a layer gives and what it reads are outputs too, as `<tensor>@here` and `<tensor>@read`.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.value_info[:]
    by_name = {layer.tensor: layer for layer in switched}
    nodes: list[onnx.NodeProto] = []
    for node in copy.graph.node:
        layer = by_name.get(node.output[0]) if node.output else None
        nodes.append(node)
        if layer is not None:
            own = layer.tensor
            names = [f"{own}@{end}" for end in ("mask", "noise", "here", "read")]
            node.output[0] = names[2]
            nodes.append(helper.make_node("Where", names[:3], [own]))
            nodes.append(helper.make_node("Identity", [node.input[0]], [names[3]]))
            shape = [None] * layer.rank
            for name, kind in zip(names[:2], (TensorProto.BOOL, layer.weight.data_type), strict=True):
                copy.graph.input.append(helper.make_tensor_value_info(name, kind, shape))
            copy.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names[2:])
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del copy.graph.node[:]
    copy.graph.node.extend(kept)
    return copy


def _shown(layer: Layer, channel: int, values: Sequence[Arrays]) -> str:
    """Why a channel is constant on these data, seen on its weights and on what it reads; "" if they do not show it."""
    weight = numpy_helper.to_array(layer.weight).astype(np.float64)
    groups = next((a.i for a in layer.node.attribute if a.name == "group"), 1)
    if layer.node.op_type == "ConvTranspose" or (groups > 1 and weight.shape[1] != 1):
        return ""
    if layer.node.op_type == "MatMul" or not any(a.name == "transB" and a.i for a in layer.node.attribute):
        weight = weight if layer.node.op_type == "Conv" else np.moveaxis(weight, -1, 0)
    row = np.abs(weight[channel]).reshape(weight.shape[1], -1).max(axis=1)
    share = float(row.max() / np.abs(weight).max())
    if share < SMALL:
        return f"weights of {share:.0e} of the layer's largest, which is more than negligible" if share else ""
    axis = 1 if layer.node.op_type == "Conv" else -1
    arrays = [np.moveaxis(v[f"{layer.tensor}@read"], axis, 0) for v in values]
    read = np.concatenate([a.reshape(a.shape[0], -1) for a in arrays], axis=1)
    inputs = [channel // (weight.shape[0] // groups)] if groups > 1 else np.flatnonzero(row > SMALL * row.max())
    if (np.ptp(read[inputs], axis=1) == 0).all():
        return "all that it reads is constant on these data"
    return ""


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
