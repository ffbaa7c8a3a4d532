"""What layers with weights, and normalizations, do to units (coupling.py has the idea)."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .coupling import Cost, Trace, handles, unknown
from .labels import Labels, along, shape_of
from .nodes import argument

aten = torch.ops.aten

COMPUTED = " with a computed weight"
"""As weight normalization and standardization have."""


@handles(
    aten.conv1d.default,
    aten.conv2d.default,
    aten.conv3d.default,
    aten.conv1d.padding,
    aten.conv2d.padding,
    aten.conv3d.padding,
)
def convolution(trace: Trace, node: Any) -> Any:
    """Reads units along the channels of its input and makes new ones; depthwise layers make none."""
    return _convolved(trace, node, int(argument(node, 6, "groups", 1)), transposed=False)


@handles(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed(trace: Trace, node: Any) -> Any:
    """As a convolution, with the weight the other way round."""
    return _convolved(trace, node, int(argument(node, 6, "groups", 1)), transposed=True)


def _convolved(trace: Trace, node: Any, groups: int, *, transposed: bool) -> Any:
    x, w = node.args[0], node.args[1]
    name = trace.named(w)
    if name is None or not isinstance(x, Node) or not isinstance(w, Node):
        return unknown(trace, node, COMPUTED)
    weight, out_shape, in_shape = shape_of(w), shape_of(node), shape_of(x)
    axis = len(in_shape) - len(weight) + 1  # an input without a batch has the channels first
    width = out_shape[axis]
    into, zero = trace.channel(x, axis), trace.of(x).zero
    depthwise = groups == in_shape[axis] > 1
    if groups == 1:
        out = trace.units.new(width)
    elif depthwise:
        out = into.repeat_interleave(width // groups)  # each output is its input's own
    else:
        per_group = into.reshape(groups, -1)
        trace.units.join(per_group, per_group[:1])  # every group keeps the same channels
        into = per_group[0]
        out = trace.units.new(width // groups).repeat(groups)
    out_axis = 1 if transposed and not depthwise else 0
    if depthwise:
        trace.parameter(name, 0, into if transposed else out)
    else:
        trace.read(name, 1 - out_axis, into.repeat(groups) if transposed else into, zero)
        trace.parameter(name, out_axis, out[: width // groups] if transposed else out)
    closed = _produces(trace, node, name, out_axis, argument(node, 2, "bias"), out, passes=depthwise and zero)
    positions = math.prod((in_shape if transposed else out_shape)[axis + 1 :]) * math.prod(in_shape[:axis])
    depth = into[:1] * 0 if depthwise else into
    trace.macs.append(Cost(name, float(positions * math.prod(weight[2:])), (depth, out)))
    return along(out, axis, len(out_shape), zero=closed)


@handles(aten.linear.default)
def linear(trace: Trace, node: Any) -> Any:
    """Reads the units of the last axis and makes new ones."""
    x, w = node.args[0], node.args[1]
    if trace.named(w) is None or not isinstance(x, Node):
        return unknown(trace, node, COMPUTED)
    return weighted(trace, node, x, w, argument(node, 2, "bias"), out_axis=0)


@handles(aten.addmm.default)
def _addmm(trace: Trace, node: Any) -> Any:
    """A bias and a product with a weight, as the Conv1D of GPT-2 has it."""
    bias, x, weight = node.args[:3]
    if trace.named(bias) is None or trace.named(weight) not in trace.trainable or node.kwargs:
        return unknown(trace, node)
    return weighted(trace, node, x, weight, bias)


def weighted(trace: Trace, node: Node, x: Node, weight: Node, bias: Any = None, *, out_axis: int = 1) -> Labels:
    """A product of the last axis with a weight [in, out] or, with `out_axis=0`, [out, in]."""
    name, shape = str(trace.named(weight)), shape_of(node)
    into, out = trace.channel(x, -1), trace.units.new(shape[-1])
    trace.parameter(name, out_axis, out)
    trace.read(name, 1 - out_axis, into, trace.of(x).zero)
    closed = _produces(trace, node, name, out_axis, bias, out)
    trace.macs.append(Cost(name, float(math.prod(shape[:-1])), (into, out)))
    return along(out, len(shape) - 1, len(shape), zero=closed)


@handles(aten.embedding.default)
def _embedding(trace: Trace, node: Any) -> Any:
    name = trace.named(node.args[0])
    if name is None:
        return unknown(trace, node)
    shape = shape_of(node)
    out = trace.units.new(shape[-1])
    trace.parameter(name, 1, out)
    closed = _produces(trace, node, name, 1, None, out)
    return along(out, len(shape) - 1, len(shape), zero=closed)


def _produces(trace: Trace, node: Any, weight: str, axis: int, bias: Any, out: Tensor, *, passes: bool = False) -> bool:
    """A layer makes units: its weight and bias are what a gate multiplies, along one axis. Whether that makes zeros.

    Filters and biases that are no parameters take no gate; `passes`: zeros that are read stay zeros. A weight that
    makes units along the other axis too, as the head that shares the embedding's, keeps those.
    """
    own, closes = [(weight, axis)], weight in trace.trainable or passes
    name = trace.named(bias)
    if name is not None:
        trace.parameter(name, 0, out)
        own.append((name, 0))
        closes = closes and name in trace.trainable
    elif isinstance(bias, Node):  # computed, and no gate closes it
        trace.units.keep(out)
        trace.units.keep(trace.of(bias).units)
    if weight not in trace.constants:
        trace.layers.append((weight, axis))
    elif not passes:
        trace.units.keep(out)
    trace.producers[node] = [name for name, _ in own if name in trace.trainable]
    for name, along_axis in own:
        if name in trace.trainable and trace.gated.setdefault(name, along_axis) != along_axis:
            trace.units.keep(out)
    return closes


@handles(aten.batch_norm.default, aten.instance_norm.default)
def _batch_norm(trace: Trace, node: Any) -> Any:
    """Scale and shift take the gate; a layer in front that nobody else reads needs none of its own then."""
    x, *statistics = node.args[:5]
    units, rank = trace.channel(x, 1), len(shape_of(node))
    names = [trace.named(statistic) for statistic in statistics]
    if any(isinstance(one, Node) and name is None for one, name in zip(statistics, names, strict=True)):
        return unknown(trace, node)
    for name in names:
        if name is not None:
            trace.parameter(name, 0, units)
    gated = [name for name in names[:2] if name is not None and name in trace.trainable]
    if len(gated) < 2:
        zero = trace.of(x).zero and statistics == [None] * 4  # the statistics of a zero input leave it zero
        return along(units, 1, rank, zero=zero)
    trace.gated.update(dict.fromkeys(gated, 0))
    if _covered(trace, x) and names[2] is not None:
        trace.normalized[str(trace.named(x.args[1]))] = names[2]
    return along(units, 1, rank)


def _covered(trace: Trace, node: Any) -> bool:
    """Whether a layer is read by one normalization only, which takes its gate; notes it."""
    found = node in trace.producers and sum(reader in trace.live for reader in node.users) == 1
    if found:
        trace.covered.add(node)
    return found


@handles(aten.group_norm.default)
def _group_norm(trace: Trace, node: Any) -> Any:
    """Each group is a unit, because its channels are normalized together; if there is but one, all stay."""
    x, groups = node.args[:2]
    found = (trace.named(argument(node, place, name)) for place, name in ((2, "weight"), (3, "bias")))
    names = [name for name in found if name is not None and name in trace.trainable]
    if groups == 1 or len(names) < 2:
        return unknown(trace, node)
    units = trace.channel(x, 1)
    grouped = units.reshape(groups, -1)
    trace.units.join(grouped, grouped[:, :1])
    for name in names:
        trace.parameter(name, 0, units)
    trace.gated.update(dict.fromkeys(names, 0))
    _covered(trace, x)
    return along(units, 1, len(shape_of(node)))


@handles(aten.layer_norm.default, aten.rms_norm.default)
def _layer_norm(trace: Trace, node: Any) -> Any:
    x, normalized = node.args[0], node.args[1]
    rank = len(shape_of(node))
    for source in node.all_input_nodes[1:]:
        trace.units.keep(trace.of(source).units)
    return replace(
        trace.drop(trace.of(x), range(rank - len(normalized), rank), keep=True),
        zero=False,
    )
