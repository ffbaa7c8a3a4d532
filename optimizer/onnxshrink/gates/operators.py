"""What each ATen operator does to units (coupling.py has the idea)."""

from __future__ import annotations

import math
import operator
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx import Node

from .coupling import Cost, Labels, Trace, along, compress, handles, nothing, unknown

aten = torch.ops.aten


def _shape(node: Node) -> tuple[int, ...]:
    return tuple(int(d) for d in node.meta["val"].shape)


def _argument(node: Node, index: int, name: str, default: Any = None) -> Any:
    return node.args[index] if len(node.args) > index else node.kwargs.get(name, default)


# layers


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
    return _convolved(trace, node, int(_argument(node, 6, "groups", 1)), transposed=False)


@handles(aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
def transposed(trace: Trace, node: Any) -> Any:
    """As a convolution, with the weight the other way round."""
    return _convolved(trace, node, int(_argument(node, 6, "groups", 1)), transposed=True)


def _convolved(trace: Trace, node: Any, groups: int, *, transposed: bool) -> Any:
    x, w = node.args[0], node.args[1]
    name = trace.named(w)
    if name is None or not isinstance(x, Node) or not isinstance(w, Node):
        return unknown(trace, node)
    weight, out_shape, in_shape = _shape(w), _shape(node), _shape(x)
    axis = len(in_shape) - len(weight) + 1  # an input without a batch has the channels first
    width = out_shape[axis]
    into = trace.read(x, axis)
    if groups == 1:
        out = trace.units.new(width)
    elif groups == in_shape[axis]:
        out = into.repeat_interleave(width // groups)  # depthwise: each output is its input's own
    else:
        per_group = into.reshape(groups, -1)
        trace.units.join(per_group, per_group[:1])  # every group keeps the same channels
        into = per_group[0]
        out = trace.units.new(width // groups).repeat(groups)
    if transposed:
        rows = into if groups == 1 else into.repeat(groups) if groups != in_shape[axis] else into
        columns = out if groups == 1 else out[: width // groups]
        trace.parameter(name, 0, rows)
        out_axis = 1
        if groups == in_shape[axis]:
            out_axis = 0
        else:
            trace.parameter(name, 1, columns)
    else:
        trace.parameter(name, 0, out)
        out_axis = 0
        if groups != in_shape[axis]:
            trace.parameter(name, 1, into)
    _produces(trace, node, name, out_axis, _argument(node, 2, "bias"), out)
    positions = math.prod((in_shape if transposed else out_shape)[axis + 1 :]) * math.prod(in_shape[:axis])
    depth = into[:1] * 0 if groups == in_shape[axis] and groups > 1 else into
    trace.macs.append(Cost(name, float(positions * math.prod(weight[2:])), (depth, out)))
    return along(out, axis, len(out_shape))


@handles(aten.linear.default)
def linear(trace: Trace, node: Any) -> Any:
    """Reads the units of the last axis and makes new ones."""
    x, w = node.args[0], node.args[1]
    name = trace.named(w)
    if name is None or not isinstance(x, Node):
        return unknown(trace, node)
    shape = _shape(node)
    into, out = trace.read(x, -1), trace.units.new(shape[-1])
    trace.parameter(name, 0, out)
    trace.parameter(name, 1, into)
    _produces(trace, node, name, 0, _argument(node, 2, "bias"), out)
    trace.macs.append(Cost(name, float(math.prod(shape[:-1])), (into, out)))
    return along(out, len(shape) - 1, len(shape))


@handles(aten.embedding.default)
def _embedding(trace: Trace, node: Any) -> Any:
    name = trace.named(node.args[0])
    if name is None:
        return unknown(trace, node)
    shape = _shape(node)
    out = trace.units.new(shape[-1])
    trace.parameter(name, 1, out)
    _produces(trace, node, name, 1, None, out)
    return along(out, len(shape) - 1, len(shape))


def _produces(trace: Trace, node: Any, weight: str, axis: int, bias: Any, out: Tensor) -> None:
    """A layer makes units: its weight and bias are what a gate multiplies."""
    trace.gated[weight] = axis
    trace.layers.append((weight, axis))
    trace.producers[node] = [weight]
    name = trace.named(bias)
    if name is not None:
        trace.parameter(name, 0, out)
        trace.gated[name] = 0
        trace.producers[node].append(name)


# normalizations


@handles(aten.batch_norm.default, aten.instance_norm.default)
def _batch_norm(trace: Trace, node: Any) -> Any:
    """Scale and shift take the gate; a layer in front that nobody else reads needs none of its own then."""
    x, *statistics = node.args[:5]
    units, rank = trace.channel(x, 1), len(_shape(node))
    if trace.named(statistics[0]) is None or trace.named(statistics[1]) is None:
        return unknown(trace, node)
    for place, argument in enumerate(statistics):
        name = trace.named(argument)
        if name is not None:
            trace.parameter(name, 0, units)
            if place < 2:
                trace.gated[name] = 0
    if x in trace.producers and len(x.users) == 1:
        for name in trace.producers[x]:
            trace.gated.pop(name, None)
        mean = trace.named(statistics[2])
        if mean is not None:
            trace.normalized[trace.producers[x][0]] = mean
    return along(units, 1, rank)


@handles(aten.layer_norm.default)
def _layer_norm(trace: Trace, node: Any) -> Any:
    x, normalized = node.args[0], node.args[1]
    rank = len(_shape(node))
    for source in node.all_input_nodes[1:]:
        trace.units.keep(trace.of(source).units)
    return replace(
        trace.drop(trace.of(x), range(rank - len(normalized), rank), keep=True),
        zero=False,
    )


# elementwise


@handles(
    *(aten.relu.default, aten.relu_.default, aten.relu6.default, aten.gelu.default, aten.silu.default),
    *(aten.silu_.default, aten.tanh.default, aten.leaky_relu.default, aten.leaky_relu_.default, aten.elu.default),
    *(aten.elu_.default, aten.hardswish.default, aten.hardswish_.default, aten.hardtanh.default),
    *(aten.hardtanh_.default, aten.mish.default, aten.selu.default, aten.celu.default, aten.neg.default),
    *(aten.abs.default, aten.sqrt.default, aten.dropout.default, aten.dropout_.default, aten.feature_dropout.default),
    *(aten.contiguous.default, aten.clone.default, aten.detach.default, aten.alias.default, aten._to_copy.default),
    *(aten.to.dtype, aten.to.device, aten.to.dtype_layout, aten.type_as.default, aten.square.default),
    *(aten.softshrink.default, aten.hardshrink.default),
)
def keeps_zero(trace: Trace, node: Any) -> Any:
    """Elementwise, and zero stays zero."""
    return trace.of(node.args[0])


@handles(
    *(aten.sigmoid.default, aten.sigmoid_.default, aten.hardsigmoid.default, aten.hardsigmoid_.default),
    *(aten.softplus.default, aten.exp.default, aten.log.default, aten.cos.default, aten.log_sigmoid.default),
    *(aten.reciprocal.default, aten.rsqrt.default, aten.rsub.Scalar),
)
def loses_zero(trace: Trace, node: Any) -> Any:
    """Elementwise, but zero becomes something else."""
    return replace(trace.of(node.args[0]), zero=False, parameter=None)


@handles(aten.pow.Tensor_Scalar)
def _power(trace: Trace, node: Any) -> Any:
    labels, exponent = trace.of(node.args[0]), node.args[1]
    return replace(labels, zero=labels.zero and isinstance(exponent, int | float) and exponent > 0, parameter=None)


@handles(aten.clamp.default, aten.clamp_.default)
def _clamp(trace: Trace, node: Any) -> Any:
    labels, low, high = trace.of(node.args[0]), _argument(node, 1, "min"), _argument(node, 2, "max")
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
    rank = len(_shape(node))
    shapes = [(1,) * (rank - len(_shape(n))) + _shape(n) for n in (a, b)]
    labels = [trace.of(n) for n in (a, b)]
    units = [found.units.reshape((1,) * (rank - found.units.dim()) + tuple(found.units.shape)) for found in labels]
    if kind == "sum":
        labels = [_gated(trace, own, other) for own, other in (labels, labels[::-1])]
    varies = [[axis for axis in range(rank) if u.shape[axis] > 1] for u in units]
    spans = [all(shapes[p][axis] > 1 for axis in varies[1 - p]) for p in range(2)]
    empty = [not bool(u.any()) for u in units]
    if all(spans):
        trace.units.join(units[0], units[1])
        joined = torch.maximum(*torch.broadcast_tensors(*units))
    elif not spans[0] and empty[0]:
        joined = units[1]
    elif not spans[1] and empty[1]:
        joined = units[0]
    else:
        trace.units.keep(units[0])
        trace.units.keep(units[1])
        joined = torch.zeros((1,) * rank, dtype=torch.long)
    zeros = [found.zero for found in labels]
    zero = {"sum": all(zeros), "extreme": all(zeros), "product": any(zeros), "quotient": zeros[0]}[kind]
    return Labels(compress(joined), zero)


def _gated(trace: Trace, own: Labels, other: Labels) -> Labels:
    """An addend that is a parameter takes the gate too, so that it adds nothing to a closed unit."""
    if own.parameter is None or own.parameter[0] not in trace.trainable or not bool(other.units.any()):
        return own
    trace.gated[own.parameter[0]] = own.parameter[1]
    trace.parameter(*own.parameter, own.units.reshape(-1))
    return replace(own, zero=True)


# movement


@handles(
    *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
    *(aten.unflatten.int, aten.transpose.int, aten.permute.default, aten.t.default, aten.unsqueeze.default),
    *(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.expand.default, aten.repeat.default),
    *(aten.slice.Tensor, aten.select.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default),
    *(aten.unbind.int, aten.narrow.default, aten.movedim.int, aten.movedim.intlist, aten.roll.default),
    *(aten.flip.default, aten.pixel_shuffle.default, aten.pixel_unshuffle.default, aten.channel_shuffle.default),
    *(aten.swapaxes.default, aten.split.sizes),
)
def movement(trace: Trace, node: Any) -> Any:
    """Elements move, and units with them."""
    x, *rest = node.args
    labels = trace.of(x)
    if any(isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes[1:]):
        return unknown(trace, node)
    sizes = fx.map_arg((rest, dict(node.kwargs)), lambda n: int(n.meta["val"]))
    moved = node.target(labels.units.expand(_shape(x)).contiguous(), *sizes[0], **sizes[1])
    if isinstance(moved, Tensor):
        return replace(labels, units=compress(moved))
    return [replace(labels, units=compress(part), parameter=None) for part in moved]


@handles(operator.getitem)
def _item(trace: Trace, node: Any) -> Any:
    found = trace.labels[node.args[0]]
    return found[node.args[1]] if isinstance(found, list) else nothing(node.meta.get("val"))


@handles(aten.cat.default, aten.concat.default, aten.concatenate.default)
def concat(trace: Trace, node: Any) -> Any:
    """Units in a row."""
    parts: Any = node.args[0]
    rank = len(_shape(node))
    axis = int(_argument(node, 1, "dim", 0)) % rank
    found = [trace.of(part) for part in parts]
    wide = [
        labels.units.expand(
            [s if a == axis else u for a, (s, u) in enumerate(zip(_shape(p), labels.units.shape, strict=True))]
        )
        for p, labels in zip(parts, found, strict=True)
    ]
    sizes = [max(units.shape[a] for units in wide) for a in range(rank)]
    joined = torch.cat([u.expand([u.shape[a] if a == axis else sizes[a] for a in range(rank)]) for u in wide], axis)
    return Labels(compress(joined), all(labels.zero or not labels.units.any() for labels in found))


@handles(aten.pad.default, aten.constant_pad_nd.default)
def _pad(trace: Trace, node: Any) -> Any:
    x: Any = node.args[0]
    amounts: Any = node.args[1]
    labels = trace.of(x)
    mode, value = _argument(node, 2, "mode", "constant"), _argument(node, 3, "value")
    if node.target is aten.constant_pad_nd.default:
        mode, value = "constant", _argument(node, 2, "value", 0)
    rank = len(_shape(node))
    axes = [rank - 1 - k // 2 for k, amount in enumerate(amounts) if amount]
    if any(labels.units.shape[axis] > 1 for axis in axes):
        if mode != "constant":
            return unknown(trace, node)
        sizes = [s if a in axes else u for a, (s, u) in enumerate(zip(_shape(x), labels.units.shape, strict=True))]
        padded = torch.nn.functional.pad(labels.units.expand(sizes), list(amounts))
        labels = replace(labels, units=padded)
    return replace(labels, zero=labels.zero and not (mode == "constant" and value), parameter=None)


# space and reductions


@handles(
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.avg_pool1d.default),
    *(aten.avg_pool2d.default, aten.avg_pool3d.default, aten.adaptive_avg_pool1d.default),
    *(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, aten.adaptive_max_pool2d.default),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec),
    *(aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_linear1d.vec),
    *(aten.upsample_trilinear3d.vec, aten.max_pool2d_with_indices.default),
)
def spatial(trace: Trace, node: Any) -> Any:
    """What happens in space stays within one channel."""
    x = node.args[0]
    labels = trace.of(x)
    found = trace.drop(labels, range(2, len(_shape(x))), keep=False)
    value = node.meta.get("val")
    return found if isinstance(value, Tensor) else [found, *nothing(value)[1:]]


@handles(aten.mean.dim, aten.mean.default, aten.sum.dim_IntList, aten.sum.default, aten.amax.default, aten.amin.default)
def _reduction(trace: Trace, node: Any) -> Any:
    x = node.args[0]
    labels, rank = trace.of(x), len(_shape(x))
    chosen: Any = _argument(node, 1, "dim") if node.target not in (aten.mean.default, aten.sum.default) else None
    axes = sorted({int(a) % rank for a in (chosen if chosen else range(rank))})
    summed = node.target in (aten.sum.dim_IntList, aten.sum.default)
    reduced = trace.drop(labels, axes, keep=not (summed and labels.zero))
    if len(_shape(node)) == rank:
        return reduced
    return replace(reduced, units=reduced.units.squeeze(axes) if axes else reduced.units)


@handles(aten.softmax.int, aten.log_softmax.int, aten._softmax.default)
def _softmax(trace: Trace, node: Any) -> Any:
    x = node.args[0]
    axis = int(node.args[1]) % len(_shape(x))
    return replace(trace.drop(trace.of(x), [axis], keep=True), zero=False)


# products of activations


@handles(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(trace: Trace, node: Any) -> Any:
    a, b = node.args[0], node.args[1]
    if min(len(_shape(a)), len(_shape(b))) < 2:
        return unknown(trace, node)
    rank = len(_shape(node))
    left, right = ((u := trace.of(n).units).reshape((1,) * (rank - u.dim()) + tuple(u.shape)) for n in (a, b))
    zeros = trace.of(a).zero, trace.of(b).zero
    inner = _shape(a)[-1]
    terms = left.expand(*left.shape[:-2], left.shape[-2], inner)
    right_rows = right.transpose(-1, -2)
    if left.shape[-1] > 1 or right_rows.shape[-1] > 1:
        if right_rows.shape[-2] == left.shape[-2] == 1:
            trace.units.join(left, right_rows)
        else:
            trace.units.keep(left)
            trace.units.keep(right)
        if not any(zeros):
            trace.units.keep(left)
    trace.macs.append(Cost(node.name, float(math.prod(_shape(node)) * inner / terms.numel()), (terms.reshape(-1),)))
    left = trace.drop(Labels(left), [rank - 1], keep=False).units
    right = trace.drop(Labels(right), [rank - 2], keep=False).units
    if left.any() and right.any():
        trace.units.join(left, right)
    for own, other, against in ((left, right, b), (right, left, a)):
        sizes = (1,) * (rank - len(_shape(against))) + _shape(against)
        if not other.any() and any(own.shape[axis] > 1 and sizes[axis] > 1 for axis in range(rank - 2)):
            trace.units.keep(own)
    needs = [zeros[0]] if left.shape[-2] > 1 else []
    needs += [zeros[1]] if right.shape[-1] > 1 else []
    needs += [any(zeros)]
    return Labels(compress(torch.maximum(*torch.broadcast_tensors(left, right))), all(needs))


@handles(aten.scaled_dot_product_attention.default)
def _attention(trace: Trace, node: Any) -> Any:
    """Heads: query, key and value of a head go together."""
    q, k, v = node.args[:3]
    for extra in node.all_input_nodes:
        if extra not in (q, k, v):
            trace.units.keep(trace.of(extra).units)
    rank = len(_shape(node))
    heads = [trace.drop(trace.of(n), [rank - 1, rank - 2], keep=False).units for n in (q, k, v)]
    trace.units.join(heads[0], heads[1])
    trace.units.join(heads[0], heads[2])
    pairs = math.prod(_shape(q)[:-1]) * _shape(k)[-2]
    for n in (q, v):
        units = trace.of(n).units
        wide = units.expand(*units.shape[:-1], _shape(n)[-1])
        trace.macs.append(Cost(node.name, float(pairs * _shape(n)[-1] / wide.numel()), (wide.reshape(-1),)))
    return Labels(trace.of(v).units, trace.of(v).zero)
