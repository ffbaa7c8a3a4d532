"""What elementwise operators do to units (coupling.py has the idea)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product as product_of
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from .coupling import POINTWISE, Trace, handles, unknown
from .labels import Labels, along, compress, shape_of

aten = torch.ops.aten


@handles(
    *(aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default, aten.contiguous.default),
    *(aten.clone.default, aten.detach.default, aten.detach_.default, aten.alias.default, aten._to_copy.default),
    *(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.type_as.default, aten.lift_fresh.default),
    aten.lift_fresh_copy.default,
)
def unchanged(trace: Trace, node: Any) -> Any:
    """Elements stay what they are, or become zero."""
    return trace.of(node.args[0])


@handles(
    POINTWISE,  # and what torch has not marked as such
    *(aten.hardswish.default, aten.hardswish_.default, aten.log_sigmoid.default, aten.nan_to_num.default),
    *(aten.fill.Scalar, aten.zero.default, aten.zeros_like.default, aten.ones_like.default, aten.full_like.default),
)
def pointwise(trace: Trace, node: Any) -> Any:
    """Elementwise of one tensor: what becomes of zero, the operator says; where that is infinite, the units stay."""
    operands = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    if len(operands) != 1 or not isinstance(node.meta.get("val"), Tensor):
        return unknown(trace, node)
    labels, found = trace.of(operands[0]), _at(node, {operands[0]: 0})
    if not bool(torch.isfinite(found)):
        return _without_zeros(trace, labels)
    if bool(found):
        return replace(labels, zero=False, parameter=None)
    return labels


@handles(
    *(aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf, aten.where.Scalar, aten.masked_fill.Scalar),
    *(aten.masked_fill.Tensor, aten.addcmul.default, aten.lerp.Scalar, aten.lerp.Tensor, aten.atan2.default),
    *(aten.eq.Tensor, aten.ne.Tensor, aten.lt.Tensor, aten.le.Tensor, aten.gt.Tensor, aten.ge.Tensor),
    *(aten.logical_and.default, aten.logical_or.default, aten.logical_xor.default, aten.bitwise_and.Tensor),
    *(aten.bitwise_or.Tensor, aten.bitwise_xor.Tensor, aten.clamp.Tensor, aten.fmax.default, aten.fmin.default),
    *(aten.maximum.default, aten.minimum.default, aten.hypot.default, aten.logaddexp.default, aten.fill.Tensor),
)
def of_several(trace: Trace, node: Any) -> Any:
    """Elementwise of several tensors, finite wherever they are: their units are joined."""
    operands = [n for n in node.all_input_nodes if isinstance(n.meta.get("val"), Tensor)]
    units, zeros = _joined(trace, node, operands, [trace.of(n) for n in operands])
    values = []
    for operand, zero in zip(operands, zeros, strict=True):
        values.append((0,) if zero else (0, 1) if operand.meta["val"].dtype == torch.bool else ())
    found = [_at(node, dict(zip(operands, each, strict=True))) for each in product_of(*values)]
    return Labels(units, bool(found) and not any(map(bool, found)))


def _at(node: Any, values: dict[Node, int]) -> Tensor:
    """What an elementwise operator makes of these values."""

    def value(n: Node) -> Any:
        val = n.meta["val"]
        return torch.full((), values[n], dtype=val.dtype) if n in values else int(val)

    found = node.target(*fx.map_arg(node.args, value), **fx.map_arg(node.kwargs, value))
    assert isinstance(found, Tensor)
    return found


def _without_zeros(trace: Trace, labels: Labels) -> Labels:
    """What is infinite at zero keeps the units that are zero where they are closed."""
    if labels.zero:
        trace.units.keep(labels.units)
    return replace(labels, zero=False, parameter=None)


@handles(aten.prelu.default)
def _prelu(trace: Trace, node: Any) -> Any:
    labels, name = trace.of(node.args[0]), trace.named(node.args[1])
    if name is None:
        return unknown(trace, node)
    if trace.shapes[name][0] > 1:
        assert isinstance(node.args[0], Node)
        trace.parameter(name, 0, trace.channel(node.args[0], 1))
    return labels


@handles(
    *(aten.add.Tensor, aten.add_.Tensor, aten.sub.Tensor, aten.sub_.Tensor, aten.add.Scalar, aten.sub.Scalar),
)
def addition(trace: Trace, node: Any) -> Any:
    """A sum joins the units of its operands."""
    return _binary(trace, node, "sum")


@handles(aten.mul.Tensor, aten.mul_.Tensor, aten.mul.Scalar)
def product(trace: Trace, node: Any) -> Any:
    """A product joins the units of its operands, and is zero where one of them is."""
    return _binary(trace, node, "product")


@handles(aten.div.Tensor, aten.div_.Tensor, aten.div.Scalar)
def _quotient(trace: Trace, node: Any) -> Any:
    return _binary(trace, node, "quotient")


def _binary(trace: Trace, node: Any, kind: str) -> Any:
    if not isinstance(node.meta.get("val"), Tensor):
        return None  # arithmetic of sizes
    a, b = node.args[0], node.args[1]
    if not isinstance(b, Node):
        same = kind in ("product", "quotient") or b == 0
        own = trace.of(a)
        return replace(own, zero=own.zero and bool(same), parameter=None)
    labels = [trace.of(a), trace.of(b)]
    labels = [_turned(trace, a, *labels), _turned(trace, b, *labels[::-1])]
    if kind == "sum":
        labels = [_gated(trace, own, other) for own, other in (labels, labels[::-1])]
    if kind == "quotient":
        _without_zeros(trace, labels[1])
    units, zeros = _joined(trace, node, [a, b], labels)
    return Labels(units, {"sum": all(zeros), "product": any(zeros), "quotient": zeros[0]}[kind])


def _joined(trace: Trace, node: Any, operands: Sequence[Node], labels: Sequence[Labels]) -> tuple[Tensor, list[bool]]:
    """The units of what is computed of several tensors, elementwise, and which of these are zero where they are closed.

    A tensor that is spread over all of another one's units has to keep its own; one that is spread along some of the
    axes along which they vary, as what scales whole heads, goes with all of them together.
    """
    rank = len(shape_of(node))
    shapes = [(1,) * (rank - len(shape_of(n))) + shape_of(n) for n in operands]
    units = [found.units.reshape((1,) * (rank - found.units.dim()) + tuple(found.units.shape)) for found in labels]
    units = [compress(trace.units.resolve(own)) for own in units]
    zeros = [found.zero for found in labels]
    varying = {axis for u in units for axis in range(rank) if u.shape[axis] > 1}
    has = [{axis for axis in varying if shape[axis] > 1} for shape in shapes]
    whole = [own for own, axes in zip(units, has, strict=True) if axes == varying]
    for other in whole[1:]:
        trace.units.join(whole[0], other)
    wide = _spread(trace, whole) if whole else None
    for place, axes in enumerate(has):
        own = units[place]
        if axes == varying:
            continue
        shared = set() if wide is None else {axis for axis in axes if wide.shape[axis] > 1}
        if wide is not None and shared and own.any():
            trace.units.join(trace.drop(Labels(wide), varying - axes, keep=False).units, own)
        else:
            if wide is not None:
                trace.drop(Labels(wide), shared, keep=False)
            trace.units.keep(own)
            units[place], zeros[place] = torch.zeros((1,) * rank, dtype=torch.long), False
    return _spread(trace, units), zeros


def _spread(trace: Trace, units: Sequence[Tensor]) -> Tensor:
    """The units of several tensors together, where each has its own or none."""
    found = units[0]
    for other in units[1:]:
        found = torch.maximum(*torch.broadcast_tensors(found, other))
    return compress(trace.units.resolve(found))


def _turned(trace: Trace, node: Any, own: Labels, other: Labels) -> Labels:
    """The units of a parameter of several wide axes lie along the axis of what it is added to or multiplied with.

    Such is a position that is learnt for each channel and place of a map.
    """
    name, rank, varying = own.parameter, own.units.dim(), [a for a, size in enumerate(other.units.shape) if size > 1]
    if node.op != "placeholder" or name is None or trace.uses[name] != 1 or len(varying) != 1:
        return own
    size, axis = other.units.shape[varying[0]], varying[0] - other.units.dim() + rank
    if axis < 0 or trace.shapes[name][axis] != size:
        return own
    trace.loose[name] = axis, trace.units.new(size)
    return replace(along(trace.loose[name][1], axis, rank, zero=False), parameter=name)


def _gated(trace: Trace, own: Labels, other: Labels) -> Labels:
    """An addend that is a parameter takes the gate too, so that it adds nothing to a closed unit."""
    if own.parameter is None or own.parameter not in trace.trainable or not bool(other.units.any()):
        return own
    axis, units = trace.loose[own.parameter]
    trace.gated[own.parameter] = axis
    trace.parameter(own.parameter, axis, units)
    return replace(own, zero=True)


ELEMENTWISE = {unchanged, pointwise, of_several, addition, product, _quotient}
"""Handlers of what is computed element by element."""
