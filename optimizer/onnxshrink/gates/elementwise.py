"""What elementwise operators do to units (coupling.py has the idea)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .coupling import Labels, Trace, compress, handles, shape_of, unknown
from .nodes import argument

aten = torch.ops.aten


@handles(
    *(aten.relu.default, aten.relu_.default, aten.relu6.default, aten.gelu.default, aten.silu.default),
    *(aten.silu_.default, aten.tanh.default, aten.leaky_relu.default, aten.leaky_relu_.default, aten.elu.default),
    *(aten.elu_.default, aten.hardswish.default, aten.hardswish_.default, aten.hardtanh.default),
    *(aten.hardtanh_.default, aten.mish.default, aten.selu.default, aten.celu.default, aten.neg.default),
    *(aten.abs.default, aten.sqrt.default, aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default),
    *(aten.contiguous.default, aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default),
    *(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.type_as.default, aten.square.default),
    *(aten.lift_fresh_copy.default, aten.lift_fresh.default, aten.detach_.default),
    *(aten.softshrink.default, aten.hardshrink.default, aten.zero.default),
)
def keeps_zero(trace: Trace, node: Any) -> Any:
    """Elementwise, and zero stays zero."""
    return trace.of(node.args[0])


@handles(
    *(aten.sigmoid.default, aten.sigmoid_.default, aten.hardsigmoid.default, aten.hardsigmoid_.default),
    *(aten.softplus.default, aten.exp.default, aten.cos.default, aten.log_sigmoid.default, aten.rsub.Scalar),
    *(aten.fill.Scalar, aten.fill.Tensor),
)
def loses_zero(trace: Trace, node: Any) -> Any:
    """Elementwise, but zero becomes something else."""
    return replace(trace.of(node.args[0]), zero=False, parameter=None)


@handles(aten.log.default, aten.reciprocal.default, aten.rsqrt.default)
def _pole(trace: Trace, node: Any) -> Any:
    return _without_zeros(trace, trace.of(node.args[0]))


def _without_zeros(trace: Trace, labels: Labels) -> Labels:
    """What is infinite at zero keeps the units that are zero where they are closed."""
    if labels.zero:
        trace.units.keep(labels.units)
    return replace(labels, zero=False, parameter=None)


@handles(aten.pow.Tensor_Scalar)
def _power(trace: Trace, node: Any) -> Any:
    labels, exponent = trace.of(node.args[0]), node.args[1]
    if isinstance(exponent, int | float) and exponent > 0:
        return replace(labels, parameter=None)
    return _without_zeros(trace, labels)


@handles(aten.clamp.default, aten.clamp_.default)
def _clamp(trace: Trace, node: Any) -> Any:
    labels, low, high = trace.of(node.args[0]), argument(node, 1, "min"), argument(node, 2, "max")
    around = (low is None or low <= 0) and (high is None or high >= 0)
    return replace(labels, zero=labels.zero and around, parameter=None)


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


@handles(aten.maximum.default, aten.minimum.default)
def _extreme(trace: Trace, node: Any) -> Any:
    return _binary(trace, node, "extreme")


def _binary(trace: Trace, node: Any, kind: str) -> Any:
    if not isinstance(node.meta.get("val"), Tensor):
        return None  # arithmetic of sizes
    a, b = node.args[0], node.args[1]
    if not isinstance(b, Node):
        same = kind in ("product", "quotient") or b == 0
        own = trace.of(a)
        return replace(own, zero=own.zero and bool(same), parameter=None)
    rank = len(shape_of(node))
    shapes = [(1,) * (rank - len(shape_of(n))) + shape_of(n) for n in (a, b)]
    labels = [trace.of(n) for n in (a, b)]
    if kind == "quotient":
        labels[1] = _without_zeros(trace, labels[1])
    units = [found.units.reshape((1,) * (rank - found.units.dim()) + tuple(found.units.shape)) for found in labels]
    if kind == "sum":
        labels = [_gated(trace, own, other) for own, other in (labels, labels[::-1])]
    varies = [[axis for axis in range(rank) if u.shape[axis] > 1] for u in units]
    spans = [all(shapes[p][axis] > 1 for axis in varies[1 - p]) for p in range(2)]
    zeros = [found.zero for found in labels]
    if all(spans):
        trace.units.join(units[0], units[1])
        joined = torch.maximum(*torch.broadcast_tensors(*units))
    else:  # what is spread over the other's units stays, and is beside them what it is
        for p in range(2):
            if not spans[p]:
                trace.units.keep(units[p])
                units[p], zeros[p] = torch.zeros((1,) * rank, dtype=torch.long), False
        joined = torch.maximum(*torch.broadcast_tensors(*units))
    zero = {"sum": all(zeros), "extreme": all(zeros), "product": any(zeros), "quotient": zeros[0]}[kind]
    return Labels(compress(joined), zero)


def _gated(trace: Trace, own: Labels, other: Labels) -> Labels:
    """An addend that is a parameter takes the gate too, so that it adds nothing to a closed unit."""
    if own.parameter is None or own.parameter not in trace.trainable or not bool(other.units.any()):
        return own
    axis, units = trace.loose[own.parameter]
    trace.gated[own.parameter] = axis
    trace.parameter(own.parameter, axis, units)
    return replace(own, zero=True)
