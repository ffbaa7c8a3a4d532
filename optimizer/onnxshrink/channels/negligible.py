"""Negligible weights: what weight decay leaves of a channel that training gave up.

In published models dead channels are rarely exact zeros but 1e-15 to 1e-40. One definition, for every layer: a
filter (after folding the BatchNormalization behind it), a column of weights that reads one input channel, or the
scale of a BatchNormalization is negligible when its largest entry is below `ratio` times the layer's largest, or
denormal. Setting it to zero is the only change to the function that the tool ever makes, so it is a kind of its own:
proven where the change stays under rounding whatever the input (`proven`), tested by verification otherwise.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.view import Graph, Node, is_plain_float
from ..ops import rule_for
from ..ops.contraction import Contraction
from ..ops.conv import Convolution
from ..ops.einsum import Einsum
from ..ops.fact import constant
from ..ops.matmul import Multiplication
from ..ops.packed_attention import PackedAttention
from ..ops.recurrent import Recurrent
from ..ops.rule import Context, free_slices
from ..ops.spatial import DeformConv

DEFAULT_RATIO = 1e-8


@dataclass(frozen=True)
class Negligible:
    """Slices of one constant that count as zero.

    Attributes:
        node: index of the node that reads it.
        tensor: the constant edge.
        axis: axis of the constant.
        slices: indices along it, ascending.
        size: largest absolute entry among them.
    """

    node: int
    tensor: str
    axis: int
    slices: tuple[int, ...]
    size: float


def find(context: Context, ratio: float) -> list[Negligible]:
    """Negligible slices of all layers; none for `ratio` 0."""
    if not ratio:
        return []
    found: list[Negligible] = []
    for node in context.graph.nodes:
        rule = rule_for(node)
        if isinstance(rule, Convolution):
            found += _of_convolution(node, rule, context, ratio)
        elif isinstance(rule, (Multiplication, PackedAttention)):
            found += _of_product(node, rule, context, ratio)
        elif isinstance(rule, Recurrent):
            found += _of_recurrent(node, rule, context, ratio)
        elif isinstance(rule, Einsum | DeformConv):
            channels = rule.channels(node, context)
            tensor = node.input(channels.parameters[0]) if channels is not None else ""
            for axis in (0, 1) if isinstance(rule, DeformConv) else range(context.rank(tensor) or 0):
                found += _of_axis(node, tensor, axis, context, ratio)
        elif node.op == "BatchNormalization":
            found += _of_scale(node, context, ratio)
    return found


def find_values(context: Context, ratio: float) -> list[Negligible]:
    """Biases of channels that are known to be constant and hold next to nothing, beside their layer's largest.

    Without this, a channel that weight decay left at 1e-20 would be a constant to carry along.
    """
    found: list[Negligible] = []
    for node in context.graph.nodes if ratio else ():
        constants = context.graph.constants
        if isinstance(rule_for(node), Convolution) and node.input(2) in constants:
            bias, weight = constants[node.inputs[2]], context.array(node.inputs[1])
            scale = 0.0 if weight is None else float(np.abs(weight).max(initial=0))
            targets = [node.inputs[2]]
        elif node.op == "BatchNormalization" and all(node.inputs[i] in constants for i in (1, 2)):
            bias, scale = constants[node.inputs[2]], 0.0
            targets = [node.inputs[1], node.inputs[2]]
        else:
            continue
        uniform, value = free_slices(node.outputs[0], 1, context)
        if not is_plain_float(bias.dtype) or uniform.size != bias.size:
            continue
        limit = ratio * max(scale, float(np.abs(bias.astype(np.float64)).max(initial=0)))
        # behind an activation, or with inputs of known value, the channel may hold less than its bias
        small = (np.abs(value) < limit) & (np.abs(bias.astype(np.float64)) < limit)
        where = np.flatnonzero(uniform & (value != 0) & small)
        for tensor in targets:
            found += _slices(node, tensor, 0, where, np.abs(constants[tensor].astype(np.float64)))
    return found


def apply(context: Context, found: list[Negligible]) -> set[str]:
    """Set negligible slices to zero, in place in the view's constants.

    Returns:
        The constant edges that changed.
    """
    values: dict[str, np.ndarray] = {}
    for item in found:
        array = np.array(values.get(item.tensor, context.graph.constants[item.tensor]))
        index: list[slice | list[int]] = [slice(None)] * array.ndim
        index[item.axis] = list(item.slices)
        array[tuple(index)] = 0
        values[item.tensor] = array
        context.facts[item.tensor] = constant(array)
    context.graph.change(values)
    return set(values)


def proven(before: Context, item: Negligible) -> bool:
    """Whether setting the slices to zero changes no bit of the layer's output, for any input.

    A filter w with |w| . |x| <= ulp(b) / 2 disappears when the bias b is added: the sum rounds to b. That needs a
    bound of the inputs x, and a bias that is not zero.
    """
    node = before.graph.nodes[item.node]
    rule = rule_for(node)
    if not isinstance(rule, Convolution) or item.tensor != node.inputs[1] or rule.transposed or item.axis != 0:
        return False
    if node.input(3):  # an addend is rounded together with the filter
        return False
    fact, bias = before.fact(node.inputs[0]), before.array(node.input(2)) if node.input(2) else None
    size = before.size(node.inputs[0], 1)
    weight = before.graph.constants[item.tensor]
    if fact is None or bias is None or size is None or not is_plain_float(weight.dtype):
        return False
    others = tuple(a for a in range(fact.rank) if a != 1)
    low, high = fact.bounds()
    reach = np.maximum(np.abs(low), np.abs(high)).max(axis=others)
    reach = np.broadcast_to(reach, (size,)).reshape(rule.groups(node), -1)
    taps = np.abs(weight.astype(np.float64)).reshape(*weight.shape[:2], -1).sum(axis=2)
    rows = np.array(item.slices)
    group = rows // (weight.shape[0] // reach.shape[0])
    with np.errstate(invalid="ignore"):
        change = np.where(taps[rows] > 0, taps[rows] * reach[group], 0.0).sum(axis=1)
    return bool((change <= np.finfo(weight.dtype).eps / 8 * np.abs(bias[rows].astype(np.float64))).all())


def _below(size: np.ndarray, ratio: float, dtype: np.dtype) -> np.ndarray:
    """Indices of sizes that are negligible beside the largest, zeros not counted."""
    largest = float(size.max(initial=0.0))
    tiny = float(np.finfo(dtype).tiny) if is_plain_float(dtype) else 0.0
    limit = max(ratio * largest, tiny) if largest > tiny else 0.0
    return np.flatnonzero((size > 0) & (size < limit))


def _slices(node: Node, tensor: str, axis: int, where: np.ndarray, size: np.ndarray) -> list[Negligible]:
    if not where.size:
        return []
    return [Negligible(node.index, tensor, axis, tuple(int(i) for i in where), float(size[where].max()))]


def _largest(array: np.ndarray, axis: int) -> np.ndarray:
    """Largest absolute entry of each slice along an axis."""
    others = tuple(a for a in range(array.ndim) if a != axis)
    return np.abs(array).max(axis=others, initial=0).astype(np.float64)


def _of_convolution(node: Node, rule: Convolution, context: Context, ratio: float) -> list[Negligible]:
    tensor = node.inputs[1]
    if tensor not in context.graph.constants or not rule.readable(node, context):
        return []
    array, groups = context.graph.constants[tensor], rule.groups(node)
    if not is_plain_float(array.dtype):
        return []
    factor = _behind(node, context.graph, context)
    found: list[Negligible] = []
    if groups == 1 or not rule.transposed:
        axis = 1 if rule.transposed else 0
        rows = _largest(array, axis)
        scaled = rows if factor is None else rows * np.abs(factor)
        both = np.union1d(_below(scaled, ratio, array.dtype), _below(rows, 0.0, array.dtype))
        found += _slices(node, tensor, axis, both[rows[both] > 0], rows)
    if groups == 1:
        axis = 0 if rule.transposed else 1
        columns = _largest(array, axis)
        found += _slices(node, tensor, axis, _below(columns, ratio, array.dtype), columns)
    return found


def _behind(node: Node, graph: Graph, context: Context) -> np.ndarray | None:
    """Factor of the BatchNormalization that alone reads the node's output, [C]."""
    readers = graph.consumers.get(node.outputs[0], [])
    if len(readers) != 1 or readers[0][0].op != "BatchNormalization" or node.outputs[0] in graph.outputs:
        return None
    reader = readers[0][0]
    scale, var = context.array(reader.inputs[1]), context.array(reader.inputs[4])
    if scale is None or var is None:
        return None
    with np.errstate(all="ignore"):
        return scale.astype(np.float64) / np.sqrt(var.astype(np.float64) + reader.attr("epsilon", 1e-5))


def _of_product(node: Node, rule: Contraction, context: Context, ratio: float) -> list[Negligible]:
    tensor = node.inputs[1]
    array, port = context.graph.constants.get(tensor), rule.absorbing_port(node, context)
    if array is None or port is None or array.ndim != 2 or not is_plain_float(array.dtype):
        return []
    found: list[Negligible] = []
    for axis in (0, 1):
        size = _largest(array, axis)
        found += _slices(node, tensor, axis, _below(size, ratio, array.dtype), size)
    return found


def _of_axis(node: Node, tensor: str, axis: int, context: Context, ratio: float) -> list[Negligible]:
    array = context.graph.constants.get(tensor)
    if array is None or not is_plain_float(array.dtype):
        return []
    size = _largest(array, axis)
    return _slices(node, tensor, axis, _below(size, ratio, array.dtype), size)


def _of_recurrent(node: Node, rule: Recurrent, context: Context, ratio: float) -> list[Negligible]:
    """Rows of a gate and columns that read one feature or unit, in all directions; and the biases that rows leave."""
    constants, weights = context.graph.constants, node.inputs[1:3]
    if rule.layout(node, context) is None or any(name not in constants for name in weights):
        return []
    found = [item for name in weights for axis in (1, 2) for item in _of_axis(node, name, axis, context, ratio)]
    bias, rows = constants.get(node.input(3)), [_largest(constants[name], 1) for name in weights]
    limit = ratio * max(float(size.max(initial=0)) for size in rows)
    if bias is not None and is_plain_float(bias.dtype):
        quiet = np.tile((rows[0] < limit) & (rows[1] < limit), 2)
        size = _largest(bias, 1)
        found += _slices(node, node.inputs[3], 1, np.flatnonzero(quiet & (size > 0) & (size < limit)), size)
    return found


def _of_scale(node: Node, context: Context, ratio: float) -> list[Negligible]:
    """Scales of a BatchNormalization that no convolution alone feeds (there the filter carries them)."""
    tensor = node.inputs[1]
    producer = context.graph.producer.get(node.inputs[0])
    if tensor not in context.graph.constants or not is_plain_float(context.graph.constants[tensor].dtype):
        return []
    alone = len(context.graph.consumers.get(node.inputs[0], [])) == 1
    if producer is not None and isinstance(rule_for(producer), Convolution) and alone:
        return []
    scale, var = context.graph.constants[tensor], context.array(node.inputs[4])
    if var is None:
        return []
    with np.errstate(all="ignore"):
        size = np.abs(scale.astype(np.float64)) / np.sqrt(var.astype(np.float64) + node.attr("epsilon", 1e-5))
    size = np.where(np.isfinite(size), size, np.inf)
    return _slices(node, tensor, 0, _below(size, ratio, scale.dtype), np.abs(scale.astype(np.float64)))
