"""What operators that move elements, reduce axes or multiply activations do to units (coupling.py has the idea)."""

from __future__ import annotations

import math
import operator
import re
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx

from .coupling import Cost, Trace, handles, picked_axes, unknown
from .labels import Labels, along, compress, nothing, shape_of
from .layers import weighted
from .nodes import argument

aten = torch.ops.aten

LIKE: dict[Any, Any] = {
    aten.reshape_as.default: aten.reshape.default,
    aten.view_as.default: aten.reshape.default,
    aten.expand_as.default: aten.expand.default,
}
"""Operators that take the shape of another tensor, and what they do with it."""


@handles(
    *(aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.flatten.using_ints),
    *(aten.unflatten.int, aten.transpose.int, aten.permute.default, aten.t.default, aten.unsqueeze.default),
    *(aten.squeeze.dim, aten.squeeze.dims, aten.squeeze.default, aten.expand.default, aten.repeat.default),
    *(aten.select.int, aten.split.Tensor, aten.split_with_sizes.default, aten.chunk.default),
    *(aten.unbind.int, aten.narrow.default, aten.movedim.int, aten.movedim.intlist, aten.flip.default),
    *(aten.mT.default, aten.swapaxes.default, aten.split.sizes, aten.channel_shuffle.default, aten.tile.default),
    *(aten.repeat_interleave.self_int, aten.squeeze_.dim, aten.unsqueeze_.default),
)
def movement(trace: Trace, node: Any) -> Any:
    """Elements move, and units with them."""
    x, *rest = node.args
    labels = trace.of(x)
    if any(isinstance(n.meta.get("val"), Tensor) for n in node.all_input_nodes[1:]):
        return unknown(trace, node)
    sizes = fx.map_arg((rest, dict(node.kwargs)), lambda n: int(n.meta["val"]))
    moved = node.target(labels.units.expand(shape_of(x)).contiguous(), *sizes[0], **sizes[1])
    if isinstance(moved, Tensor):
        return replace(labels, units=compress(moved))
    return [replace(labels, units=compress(part)) for part in moved]


@handles(*LIKE)
def _like_another(trace: Trace, node: Any) -> Any:
    """Elements move as the shape of another tensor says, of which nothing but the shape counts.

    What is spread over its units becomes as many as are left of them.
    """
    labels, other = trace.of(node.args[0]), trace.of(node.args[1])
    if node.target is aten.expand_as.default:
        sizes = (1,) * (len(shape_of(node)) - len(shape_of(node.args[0]))) + shape_of(node.args[0])
        if all(size == 1 or units == 1 for size, units in zip(sizes, other.units.shape, strict=True)):
            trace.units.keep(labels.units)
            return Labels(other.units)
    whole = labels.units.expand(shape_of(node.args[0]))
    return replace(labels, units=compress(LIKE[node.target](whole.contiguous(), shape_of(node))))


@handles(aten.slice.Tensor)
def _slice(trace: Trace, node: Any) -> Any:
    """A slice with steps would pick others among what is left: it keeps all that it picks from."""
    axis = int(argument(node, 1, "dim", 0))
    stepped = argument(node, 4, "step", 1) != 1 and trace.of(node.args[0]).units.shape[axis] > 1
    return (unknown if stepped else movement)(trace, node)


@handles(aten.roll.default)
def _roll(trace: Trace, node: Any) -> Any:
    """What was rolled by so many places would be others among what is left."""
    units, axes = trace.of(node.args[0]).units, argument(node, 2, "dims", ())
    return (movement if axes and all(units.shape[axis] == 1 for axis in axes) else unknown)(trace, node)


@handles(aten.index.Tensor)
def _index(trace: Trace, node: Any) -> Any:
    """Rows picked by a table, as a bias by relative position is: units that lie along other axes stay as they are."""
    labels, picks, axes = trace.of(node.args[0]), node.args[1], picked_axes(node)
    if len(axes) != 1 or labels.units.shape[axes[0]] > 1:
        return unknown(trace, node)
    trace.units.keep(trace.of(picks[axes[0]]).units)
    shape = list(labels.units.shape)
    shape[axes[0] : axes[0] + 1] = [1] * len(shape_of(picks[axes[0]]))
    return replace(labels, units=labels.units.reshape(shape), parameter=None)


@handles(aten.pixel_shuffle.default)
def _pixel_shuffle(trace: Trace, node: Any) -> Any:
    """The channels that make the pixels of one channel go together."""
    square = int(node.args[1]) ** 2
    axis = len(shape_of(node)) - 3
    units = trace.channel(node.args[0], axis).reshape(-1, square)
    trace.units.join(units, units[:, :1])
    return replace(along(units[:, 0], axis, axis + 3), zero=trace.of(node.args[0]).zero)


@handles(aten.pixel_unshuffle.default)
def _pixel_unshuffle(trace: Trace, node: Any) -> Any:
    """Each channel becomes several, which go together."""
    axis = len(shape_of(node)) - 3
    units = trace.channel(node.args[0], axis).repeat_interleave(int(node.args[1]) ** 2)
    return replace(along(units, axis, axis + 3), zero=trace.of(node.args[0]).zero)


@handles(operator.getitem)
def _item(trace: Trace, node: Any) -> Any:
    found = trace.labels[node.args[0]]
    return found[node.args[1]] if isinstance(found, list) else nothing(node.meta.get("val"))


@handles(aten.glu.default)
def _gated_unit(trace: Trace, node: Any) -> Any:
    """One half, times the sigmoid of the other: a unit goes with its gate."""
    x, axis = node.args[0], int(argument(node, 1, "dim", -1)) % len(shape_of(node))
    labels = trace.of(x)
    sizes = [s if a == axis else u for a, (s, u) in enumerate(zip(shape_of(x), labels.units.shape, strict=True))]
    half, gate = labels.units.expand(sizes).chunk(2, axis)
    trace.units.join(half, gate)
    return Labels(compress(half), labels.zero)


@handles(aten.stack.default)
def stack(trace: Trace, node: Any) -> Any:
    """Tensors side by side along a new axis."""
    parts: Any = node.args[0]
    axis = int(argument(node, 1, "dim", 0)) % len(shape_of(node))
    found = [_beside(trace, trace.of(part), None) for part in parts]
    units = torch.stack(torch.broadcast_tensors(*(labels.units for labels in found)), axis)
    return Labels(compress(units), all(labels.zero or not labels.units.any() for labels in found))


@handles(aten.cat.default, aten.concat.default, aten.concatenate.default)
def concat(trace: Trace, node: Any) -> Any:
    """Units in a row."""
    parts: Any = node.args[0]
    rank = len(shape_of(node))
    axis = int(argument(node, 1, "dim", 0)) % rank
    found = [_beside(trace, trace.of(part), axis) for part in parts]
    wide = [
        labels.units.expand(
            [s if a == axis else u for a, (s, u) in enumerate(zip(shape_of(p), labels.units.shape, strict=True))]
        )
        for p, labels in zip(parts, found, strict=True)
    ]
    sizes = [max(units.shape[a] for units in wide) for a in range(rank)]
    joined = torch.cat([u.expand([u.shape[a] if a == axis else sizes[a] for a in range(rank)]) for u in wide], axis)
    return Labels(compress(joined), all(labels.zero or not labels.units.any() for labels in found))


def _beside(trace: Trace, labels: Labels, axis: int | None) -> Labels:
    """A parameter in a row with activations, along an axis or a new one, stays, and keeps none of them."""
    if labels.parameter is None or (axis is not None and labels.units.shape[axis] == 1):
        return labels
    trace.units.keep(labels.units)
    return Labels(torch.zeros_like(labels.units), zero=True)


@handles(aten.pad.default, aten.constant_pad_nd.default)
def _pad(trace: Trace, node: Any) -> Any:
    x: Any = node.args[0]
    amounts: Any = node.args[1]
    labels = trace.of(x)
    mode, value = argument(node, 2, "mode", "constant"), argument(node, 3, "value")
    if node.target is aten.constant_pad_nd.default:
        mode, value = "constant", argument(node, 2, "value", 0)
    rank = len(shape_of(node))
    axes = [rank - 1 - k // 2 for k, amount in enumerate(amounts) if amount]
    if any(labels.units.shape[axis] > 1 for axis in axes):
        if mode != "constant":
            return unknown(trace, node)
        sizes = [s if a in axes else u for a, (s, u) in enumerate(zip(shape_of(x), labels.units.shape, strict=True))]
        padded = torch.nn.functional.pad(labels.units.expand(sizes), list(amounts))
        labels = replace(labels, units=padded)
    return replace(labels, zero=labels.zero and not (mode == "constant" and value), parameter=None)


@handles(
    *(aten.max_pool1d.default, aten.max_pool2d.default, aten.max_pool3d.default, aten.avg_pool1d.default),
    *(aten.avg_pool2d.default, aten.avg_pool3d.default, aten.adaptive_avg_pool1d.default),
    *(aten.adaptive_avg_pool2d.default, aten.adaptive_avg_pool3d.default, aten.adaptive_max_pool2d.default),
    *(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, aten.upsample_nearest3d.vec),
    *(aten.upsample_bilinear2d.vec, aten.upsample_bicubic2d.vec, aten.upsample_linear1d.vec),
    *(aten.upsample_trilinear3d.vec, aten.max_pool2d_with_indices.default, aten.adaptive_max_pool1d.default),
    *(aten.adaptive_max_pool3d.default, aten.upsample_nearest1d.default, aten.upsample_nearest2d.default),
    *(aten.upsample_nearest3d.default, aten.upsample_bilinear2d.default, aten.upsample_bicubic2d.default),
    *(aten.upsample_linear1d.default, aten.upsample_trilinear3d.default, aten.reflection_pad1d.default),
    *(aten._upsample_nearest_exact1d.vec, aten._upsample_nearest_exact2d.vec, aten._upsample_nearest_exact3d.vec),
    *(aten._upsample_bilinear2d_aa.vec, aten._upsample_bicubic2d_aa.vec),
    *(aten.reflection_pad2d.default, aten.replication_pad1d.default, aten.replication_pad2d.default),
)
def spatial(trace: Trace, node: Any) -> Any:
    """What happens in space, in the last axes, stays within one channel; the places of the largest belong to it."""
    x = node.args[0]
    rank = len(shape_of(x))
    found = trace.drop(trace.of(x), range(rank - spatial_dims(node), rank), keep=False)
    return found if isinstance(node.meta.get("val"), Tensor) else [found, replace(found, zero=False)]


@handles(aten.max_unpool2d.default, aten.max_unpool3d.default)
def _unpool(trace: Trace, node: Any) -> Any:
    """Values go back to the places that a pooling found: a channel goes with its places."""
    x, places = (trace.of(n) for n in node.args[:2])
    trace.units.join(x.units, places.units)
    rank = len(shape_of(node))
    return trace.drop(x, range(rank - spatial_dims(node), rank), keep=False)


def spatial_dims(node: Any) -> int:
    """How many of the last axes an operator takes for space, by its name."""
    return int(re.findall(r"(\d)d", str(node.target))[0])


OF_ALL = {aten.mean.default, aten.sum.default, aten.max.default, aten.min.default}
SKIPPING = {*OF_ALL, aten.mean.dim, aten.sum.dim_IntList, aten.amax.default, aten.amin.default}
"""Reductions of which one knows the value from the elements that are not zero and the number of those that are."""


@handles(
    *SKIPPING,
    *(aten.std.correction, aten.var.correction, aten.std.dim, aten.var.dim, aten.linalg_vector_norm.default),
)
def reduction(trace: Trace, node: Any) -> Any:
    """Of zeros all of these make zero, and all but deviations can do without zeros that they know the number of."""
    labels, rank, axes = trace.of(node.args[0]), len(shape_of(node.args[0])), reduced_axes(node)
    skips = node.target in SKIPPING
    if node.target is aten.linalg_vector_norm.default:
        skips = float(argument(node, 1, "ord", 2)) > 0
    reduced, skips = labels, skips and labels.zero
    if skips and any(labels.units.shape[axis] > 1 for axis in axes):
        trace.sums.append(labels.units)
        if all(size == 1 or axis in axes for axis, size in enumerate(labels.units.shape)):
            reduced = replace(labels, units=torch.zeros([1] * rank, dtype=torch.long))  # whatever is left of them
    reduced = trace.drop(reduced, axes, keep=not skips)
    if len(shape_of(node)) == rank:
        return reduced
    return replace(reduced, units=reduced.units.squeeze(axes) if axes else reduced.units)


def reduced_axes(node: Any) -> list[int]:
    """The axes that a reduction takes together, ascending."""
    rank = len(shape_of(node.args[0]))
    chosen: Any = None
    if node.target not in OF_ALL:
        place = 2 if node.target is aten.linalg_vector_norm.default else 1
        chosen = argument(node, place, "dim")
    return sorted({int(a) % rank for a in (range(rank) if chosen is None or chosen == [] else chosen)})


@handles(aten.cumsum.default)
def _running(trace: Trace, node: Any) -> Any:
    """Sums of what comes before along an axis, of which nothing can go."""
    labels = trace.of(node.args[0])
    return replace(labels, parameter=None) if labels.units.shape[int(node.args[1])] == 1 else unknown(trace, node)


@handles(aten.new_zeros.default, aten.new_ones.default, aten.new_full.default, aten.new_empty.default)
def _new(trace: Trace, node: Any) -> Any:
    """Of what it reads only the type counts."""
    return nothing(node.meta.get("val"))


@handles(aten.softmax.int, aten.log_softmax.int, aten._softmax.default)
def _softmax(trace: Trace, node: Any) -> Any:
    """What lies along its axis goes together or, where nothing varies along another one, stays."""
    labels = trace.of(node.args[0])
    axis = int(node.args[1]) % len(shape_of(node))
    alone = labels.units.numel() == labels.units.shape[axis]
    return replace(trace.drop(labels, [axis], keep=alone), zero=False)


@dataclass(frozen=True)
class Factor:
    """One side of a matrix product: units and shape, with as many axes as the product, and whether units are zero."""

    units: Tensor
    shape: tuple[int, ...]
    zero: bool


@handles(aten.matmul.default, aten.bmm.default, aten.mm.default)
def _matmul(trace: Trace, node: Any) -> Any:
    a, b = node.args[0], node.args[1]
    if min(len(shape_of(a)), len(shape_of(b))) < 2:
        return unknown(trace, node)
    if trace.named(b) in trace.trainable and len(shape_of(b)) == 2:
        return weighted(trace, node, a, b)
    factors = []
    for n in (a, b):
        labels, lead = trace.of(n), (1,) * (len(shape_of(node)) - len(shape_of(n)))
        factors.append(Factor(labels.units.reshape(*lead, *labels.units.shape), lead + shape_of(n), labels.zero))
    return _multiplied(trace, node.name, factors[0], factors[1], shape_of(node))


@handles(aten.einsum.default)
def _einsum(trace: Trace, node: Any) -> Any:
    """A sum of products that is one matrix product, but for the order of its axes."""
    terms, _, out = str(node.args[0]).replace(" ", "").partition("->")
    operands: Any = node.args[1]
    a, _, b = terms.partition(",")
    letters = [a, b, out]
    plain = len(operands) == 2 and all(term.isalpha() and len(set(term)) == len(term) for term in letters)
    if not plain or (set(a) ^ set(b)) - set(out) or set(out) - set(a) - set(b):
        return unknown(trace, node)
    sizes: dict[str, int] = {}
    for term, operand in zip((a, b), operands, strict=True):
        sizes |= zip(term, shape_of(operand), strict=True)
    batch, inner = [x for x in out if x in a and x in b], [x for x in a if x in b and x not in out]
    rows, columns = [x for x in a if x not in b], [x for x in b if x not in a]
    factors = []
    for term, operand, first, second in ((a, operands[0], rows, inner), (b, operands[1], inner, columns)):
        order = [term.index(x) for x in (*batch, *first, *second)]
        whole = trace.of(operand).units.expand(shape_of(operand)).permute(order)
        shape = (*(sizes[x] for x in batch), *(math.prod(sizes[x] for x in part) for part in (first, second)))
        factors.append(Factor(compress(whole.reshape(shape)), shape, trace.of(operand).zero))
    shape = (*factors[0].shape[:-1], factors[1].shape[-1])
    found = _multiplied(trace, node.name, factors[0], factors[1], shape)
    made = [*batch, *rows, *columns]
    units = found.units.expand(shape).reshape([sizes[x] for x in made]).permute([made.index(x) for x in out])
    return replace(found, units=compress(units))


def _multiplied(trace: Trace, name: str, a: Factor, b: Factor, shape: tuple[int, ...]) -> Labels:
    """What a matrix product [..., n, k] x [..., k, m] does to units."""
    rank, inner, left, right, zeros = len(shape), a.shape[-1], a.units, b.units, (a.zero, b.zero)
    terms = left.expand(*left.shape[:-2], left.shape[-2], inner)
    right_rows = right.transpose(-1, -2)
    if left.shape[-1] > 1 or right_rows.shape[-1] > 1:
        if right_rows.shape[-2] == left.shape[-2] == 1:
            trace.units.join(left, right_rows)
        else:
            trace.units.keep(left)
            trace.units.keep(right)
        if any(zeros):
            trace.sums.append(left)
        else:
            trace.units.keep(left)
    trace.macs.append(Cost(name, float(math.prod(shape) * inner / terms.numel()), (terms.reshape(-1),)))
    left = trace.drop(Labels(left), [rank - 1], keep=False).units
    right = trace.drop(Labels(right), [rank - 2], keep=False).units
    if left.any() and right.any():
        trace.units.join(left, right)
    for own, other, sizes in ((left, right, b.shape), (right, left, a.shape)):
        if not other.any() and any(own.shape[axis] > 1 and sizes[axis] > 1 for axis in range(rank - 2)):
            trace.units.keep(own)
    needs = [zeros[0]] if left.shape[-2] > 1 else []
    needs += [zeros[1]] if right.shape[-1] > 1 else []
    needs += [any(zeros)]
    return Labels(compress(torch.maximum(*torch.broadcast_tensors(left, right))), all(needs))


@handles(aten.scaled_dot_product_attention.default)
def _attention(trace: Trace, node: Any) -> Any:
    """Heads: query, key and value of a head go together, and what a mask has for this head, if that is a unit."""
    q, k, v = node.args[:3]
    rank = len(shape_of(node))
    shared = shape_of(q)[-3] // shape_of(k)[-3] if rank > 2 and node.kwargs.get("enable_gqa") else 1
    heads = [trace.drop(trace.of(n), [rank - 1, rank - 2], keep=False).units for n in (q, k, v)]
    heads[1:] = [_repeated(units, shared) for units in heads[1:]]
    trace.units.join(heads[0], heads[1])
    trace.units.join(heads[0], heads[2])
    for mask in node.all_input_nodes:
        if mask not in (q, k, v):
            labels = trace.drop(trace.of(mask), [-1, -2], keep=True)
            units = labels.units.reshape((1,) * (rank - labels.units.dim()) + tuple(labels.units.shape))
            sizes = (*[1] * rank, *shape_of(mask))[-rank:-2]
            if any(size > 1 and heads[0].shape[axis] > 1 for axis, size in enumerate(sizes)) or units.any():
                trace.units.join(units, heads[0])
    pairs = math.prod(shape_of(q)[:-1]) * shape_of(k)[-2]
    for n in (q, v):
        units = trace.of(n).units
        wide = units.expand(*units.shape[:-1], shape_of(n)[-1])
        trace.macs.append(Cost(node.name, float(pairs * shape_of(n)[-1] / wide.numel()), (wide.reshape(-1),)))
    return Labels(compress(_repeated(trace.of(v).units, shared)), trace.of(v).zero)


def _repeated(heads: Tensor, times: int) -> Tensor:
    """Units of heads, each of which several heads of the query share."""
    return heads.repeat_interleave(times, -3) if times > 1 and heads.shape[-3] > 1 else heads
