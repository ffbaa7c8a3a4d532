"""Chains of Reshape and Transpose that amount to one movement: of slices along one axis, of whole axes, or of parts.

Cut one by one, the grids of such a chain cut nothing. A channel shuffle picks slices along one axis: the map from
input to output is the chain itself, applied to an arange, and is `take(index, axis)`. Where sizes are not known every
axis is a product of factors that the chain regroups and moves but never mixes: a shuffle moves those of one axis, an
exporter that swaps the last two axes of an attention's keys by flattening the others reorders axes, and one that
counts the heads of an attention together with an open batch splits an axis. The chain's last node is planned as that
movement: it reads the chain's input directly, and becomes other nodes if something of it goes (ops/chains.py). If
nothing does, the file keeps the chain.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import replace

import numpy as np

from ..graph.shapes import same
from ..graph.view import Dim, Movement, Node, Reordered, Selected, Shape, Split
from ..ops.rule import Context

MOVES = {"Reshape", "Transpose", "Flatten", "Squeeze", "Unsqueeze", "Gather", "Slice", "Identity"}
RESHAPES = {"Reshape", "Flatten", "Squeeze", "Unsqueeze"}
LAST = {*RESHAPES, "Gather", "Slice", "Transpose"}
DEPTH = 8
MAX_ELEMENTS = 1 << 23


Found = tuple[list[Node], Movement]
"""A chain, first node to last, and what it amounts to."""


def find_chains(context: Context) -> bool:
    """Plan chains as the movements they amount to, in place in `context.graph`.

    Returns:
        Whether facts may say more of what is planned than of the chains: what is known of a part of an axis is lost
        where that is counted together with a size that is not known.
    """
    graph = context.graph
    found: dict[int, Found] = {}
    for node in graph.nodes:
        if node.op in LAST and not node.domain and node.outputs[0] not in graph.constant_only:
            moved = _longest(_behind(node, context), context)
            if moved is not None:
                found[node.index] = moved
    while (shorter := _passing_over(found, context)) is not None:
        index, chain_left = shorter
        del found[index]
        again = _longest(chain_left, context)
        if again is not None:
            found[index] = again
    for index, (nodes, movement) in found.items():
        graph.nodes[index] = _planned(nodes, movement, context)
    if found:
        graph.forget_wiring()
    return any(isinstance(movement, Split) for _, movement in found.values())


def _passing_over(found: dict[int, Found], context: Context) -> tuple[int, list[Node]] | None:
    """A chain that passes over a tensor whose values something else needs, and what is left of it behind that tensor.

    Planned as one movement it would go on reading, in the file, a tensor that is cut for others.
    """

    def read(node: Node) -> tuple[str, ...]:
        if node.op in ("Shape", "Size"):  # no values
            return ()
        return found[node.index][0][0].inputs[:1] if node.index in found else node.inputs

    needed = context.graph.leading_to_outputs(read) if found else set()
    for index, (chain, _) in found.items():
        if chain[-1].outputs[0] not in needed:
            continue
        over = [k for k, node in enumerate(chain[:-1]) if node.outputs[0] in needed]
        if over:
            return index, chain[over[-1] + 1 :]
    return None


def _behind(last: Node, context: Context) -> list[Node]:
    """The nodes that only move what leads to `last`, first to last."""
    chain = [last]
    while len(chain) < DEPTH:
        producer = context.graph.producer.get(chain[0].inputs[0])
        if producer is None or producer.op not in MOVES or producer.domain:
            break
        chain.insert(0, producer)
    return chain


def _longest(chain: list[Node], context: Context) -> Found | None:
    """The longest end of a chain that is a selection, or else a permutation, or else a split."""
    for amounts_to in (_as_selection, _as_permutation, _as_split):
        for first in range(len(chain) - 1):
            movement = amounts_to(chain[first:], context)
            if movement is not None:
                return chain[first:], movement
    return None


def _planned(chain: list[Node], movement: Movement, context: Context) -> Node:
    """The node that stands for a chain."""
    operands = dict.fromkeys(name for node in chain for name in node.inputs[1:] if name)
    computed = [name for name in operands if context.array(name) is None]
    return replace(chain[-1], inputs=(chain[0].inputs[0], *computed), movement=movement, chain=tuple(chain))


def _as_selection(chain: list[Node], context: Context) -> Selected | None:
    """The selection that a chain with a Transpose amounts to."""
    if not any(node.op == "Transpose" for node in chain):
        return None
    start = chain[0].inputs[0]
    source, target = _sizes(start, context), _sizes(chain[-1].outputs[0], context)
    if source is None or target is None or len(source) != len(target) or np.prod(source, dtype=object) > MAX_ELEMENTS:
        return None
    axes = [a for a in range(len(source)) if source[a] != target[a]] or [a for a in range(len(source)) if source[a] > 1]
    if len(axes) > 1 and source != target:
        return None
    numbers = np.arange(int(np.prod(source))).reshape(source)
    moved = _applied(chain, numbers, context)
    if moved is None or list(moved.shape) != target:
        return None
    for axis in axes:
        line = moved[tuple(slice(None) if a == axis else 0 for a in range(moved.ndim))]
        index = np.unravel_index(line, source)[axis]
        if np.array_equal(numbers.take(index, axis), moved):
            identity = index.size == source[axis] and bool((np.diff(index) == 1).all())
            return None if identity else Selected(axis, index)
    return None


def _sizes(tensor: str, context: Context) -> list[int] | None:
    """The tensor's sizes, with one element standing for a dynamic leading batch; None if others are not known."""
    shape = context.shape(tensor)
    if not shape or not all(isinstance(d, int) for d in shape[1:]):
        return None
    return [d if isinstance(d, int) else 1 for d in shape]


def _applied(chain: list[Node], array: np.ndarray, context: Context) -> np.ndarray | None:
    """The chain on an array; None where it does something that depends on the batch."""
    batch = context.shape(chain[0].inputs[0])
    for node in chain:
        target, shape = _sizes(node.outputs[0], context), context.shape(node.outputs[0])
        if target is None or shape is None or batch is None:
            return None
        if not isinstance(batch[0], int) and shape[0] != batch[0]:
            return None  # a dynamic batch must stay the leading axis
        if node.op == "Transpose":
            order = node.attr("perm", list(range(array.ndim))[::-1])
            if not isinstance(batch[0], int) and order[0] != 0:
                return None
            array = array.transpose(order)
        elif node.op == "Gather":
            indices, axis = context.array(node.inputs[1]), int(node.attr("axis", 0))
            if indices is None or indices.ndim > 1:
                return None
            array = array.take(indices, axis)
        elif node.op == "Slice":
            index = context.rule(node).index(node, context)  # type: ignore[attr-defined]
            if index is None or any(not isinstance(d, int) for d in shape[1:]):
                return None
            for axis, where in index.items():
                array = array.take(where, axis)
        elif array.size != np.prod(target):
            return None
        else:
            array = array.reshape(target)
        if list(array.shape) != target:
            return None
    return array


def _as_permutation(chain: list[Node], context: Context) -> Movement | None:
    """The permutation of axes, or of slices along one axis, that reshapes and transpositions of any sizes amount to."""
    factors = _factored(chain, context)
    if factors is None:
        return None
    order = factors.order()
    return factors.shuffle() if order is None else Reordered(tuple(order))


def _as_split(chain: list[Node], context: Context) -> Split | None:
    """The split that a chain amounts to which counts parts of an axis together with a size that is not known."""
    factors = _factored(chain, context)
    return None if factors is None or not factors.mixed() else factors.split()


class _Factors:
    """The elements of a tensor as a product of factors, in row-major order; axes of length one have none.

    `sizes` has the length of each factor, `axes` the factors of each axis of each tensor that was looked at: when a
    factor is split, it is split in all of them.
    """

    def __init__(self, shape: Shape):
        self.sizes: list[Dim] = [d for d in shape if d != 1]
        numbers = iter(range(len(self.sizes)))
        self.axes: list[list[list[int]]] = [[[next(numbers)] if d != 1 else [] for d in shape]]

    def transpose(self, order: list[int]) -> None:
        self.axes.append([list(self.axes[-1][a]) for a in order])

    def reshape(self, shape: Shape) -> bool:
        """Regroup the factors into axes of `shape`, of which one may be unknown; whether that is possible."""
        left = [f for axis in self.axes[-1] for f in axis]
        self.axes.append([left])
        front: list[list[int]] = []
        back: list[list[int]] = []
        dims = list(shape)
        while dims:
            taken = self._take(dims[0], True)
            if taken is None:
                break
            front.append(taken)
            dims.pop(0)
        while len(dims) > 1:
            taken = self._take(dims[-1], False)
            if taken is None:
                return False
            back.insert(0, taken)
            dims.pop()
        (rest,) = self.axes.pop()
        if len(dims) != (1 if rest else 0):
            return False
        self.axes.append([*front, *([rest] if dims else []), *back])
        return True

    def _take(self, dim: Dim, first: bool) -> list[int] | None:
        """Remove factors of product `dim` from one end of what is left; None, and nothing removed, if none are."""
        (left,) = self.axes[-1]
        taken: list[int] = []
        while dim != 1:
            factor = left[0 if first else -1] if left else None
            size = None if factor is None else self.sizes[factor]
            if (
                factor is not None
                and isinstance(size, int)
                and isinstance(dim, int)
                and size % dim == 0
                and size != dim
            ):
                self._split(factor, dim if first else size // dim)
                continue
            if same(size, dim):
                dim = 1
            elif isinstance(size, int) and isinstance(dim, int) and dim % size == 0:
                dim //= size
            else:
                left[:] = [*taken, *left] if first else [*left, *taken]
                return None
            assert factor is not None
            left.remove(factor)
            taken = [*taken, factor] if first else [factor, *taken]
        return taken

    def _split(self, factor: int, outer: int) -> None:
        """Replace a factor by two, the outer one of length `outer`."""
        size = self.sizes[factor]
        assert isinstance(size, int)
        self.sizes[factor] = outer
        self.sizes.append(size // outer)
        for axes in self.axes:
            for axis in axes:
                if factor in axis:
                    axis.insert(axis.index(factor) + 1, len(self.sizes) - 1)

    def order(self) -> list[int] | None:
        """The order of the first tensor's axes in the last one; None if that is not all that happened to it."""
        before, after = self.axes[0], self.axes[-1]
        order: list[int] = []
        for axis in after:
            found = [a for a, own in enumerate(before) if own == axis and a not in order]
            if not found:
                return None
            order.append(found[0])
        return order if len(order) == len(before) else None

    def shuffle(self) -> Selected | None:
        """The selection along the one axis whose slices changed places; None if that is not all that happened."""
        before, after = self.axes[0], self.axes[-1]
        if len(before) != len(after):
            return None
        moved = [a for a, (own, now) in enumerate(zip(before, after, strict=True)) if own != now]
        if len(moved) != 1 or sorted(before[moved[0]]) != sorted(after[moved[0]]):
            return None
        own, now = before[moved[0]], after[moved[0]]
        sizes = [size for f in own if isinstance(size := self.sizes[f], int)]
        if len(sizes) < len(own):
            return None
        numbers = np.arange(math.prod(sizes)).reshape(sizes)
        return Selected(moved[0], numbers.transpose([own.index(f) for f in now]).reshape(-1))

    def mixed(self) -> bool:
        """Whether a tensor on the way has an axis of several factors, some known and some not."""
        return any(
            {isinstance(self.sizes[f], int) for f in axis} == {True, False} for axes in self.axes[1:-1] for axis in axes
        )

    def split(self) -> Split | None:
        """Every axis of the last tensor as one factor of the first one's; None where it has more.

        None also where a Reshape cannot say the factors: of those whose size is not known one may be new.
        """
        before, after = self.axes[0], self.axes[-1]
        if any(len(axis) > 1 for axis in after):
            return None
        grid = [f for axis in before for f in axis]
        place = {f: g for g, f in enumerate(grid)}
        axes = tuple(tuple(place[f] for f in axis) for axis in before)
        sizes = [self.sizes[f] for f in grid]
        new = [g for g, size in enumerate(sizes) if not isinstance(size, int) and (g >= len(axes) or axes[g] != (g,))]
        ones = itertools.count(len(grid))
        order = tuple(place[axis[0]] if axis else next(ones) for axis in after)
        sizes += [1] * (len(order) - len(grid))
        return Split(tuple(sizes), axes, order) if len(new) <= 1 else None


def _factored(chain: list[Node], context: Context) -> _Factors | None:
    """The factors of a chain of reshapes and transpositions; None where one of them mixes factors, or none reshapes."""
    if any(node.op not in {*RESHAPES, "Transpose", "Identity"} for node in chain):
        return None
    shape = context.shape(chain[0].inputs[0])
    if shape is None or any(d is None for d in shape) or not any(node.op in RESHAPES for node in chain):
        return None
    factors = _Factors(shape)
    for node in chain:
        target = context.shape(node.outputs[0])
        if node.op == "Transpose":
            factors.transpose([int(a) for a in node.attr("perm", range(len(factors.axes[-1]))[::-1])])
        elif node.op != "Identity" and (target is None or not factors.reshape(target)):
            return None
    return factors
