"""Reshape, Flatten, Squeeze, Unsqueeze, DepthToSpace, SpaceToDepth: the same elements, counted on another grid.

Input and output axes split into aligned blocks of equal size. Within a block the kept elements must be a product
of index sets on both sides: the smallest enclosing grid. A block with a dimension that is not known is pinned, save its
leading axes where one is a multiple of the other: groups of channels before dynamic space.
"""

from __future__ import annotations

import numpy as np

from ..graph.shapes import same
from ..graph.view import Dim, Node, Shape, count
from .fact import CAP, Fact, collapse, fits
from .rule import Context, Cut, Demand, Rewrite, Rule, State, register, unknown_elements
from .tie import Grid, Same, Tie

Block = tuple[list[int], list[int]]


def blocks(a: Shape, b: Shape) -> list[Block]:
    """Aligned blocks of axes of two shapes with equal element counts, in order.

    From both ends as far as dimensions are known or provably equal; the middle that remains is one block.
    """
    front: list[Block] = []
    back: list[Block] = []
    i, j, m, n = 0, 0, len(a), len(b)
    while i < m and j < n:
        found = _leading(a[i:m], b[j:n])
        if found is None:
            break
        front.append(([*range(i, i + found[0])], [*range(j, j + found[1])]))
        i, j = i + found[0], j + found[1]
    while i < m and j < n:
        found = _leading(a[i:m][::-1], b[j:n][::-1])
        if found is None:
            break
        back.append(([*range(m - found[0], m)], [*range(n - found[1], n)]))
        m, n = m - found[0], n - found[1]
    middle: list[Block] = [([*range(i, m)], [*range(j, n)])] if i < m or j < n else []
    return [*front, *middle, *reversed(back)]


def _leading(a: Shape, b: Shape) -> tuple[int, int] | None:
    """Lengths of the shortest prefixes with equal products."""
    if same(a[0], b[0]):
        return 1, 1
    i = j = 0
    left = right = 1
    while True:
        if left <= right:
            dim = a[i] if i < len(a) else None
            if not isinstance(dim, int):
                return None
            left *= dim
            i += 1
        else:
            dim = b[j] if j < len(b) else None
            if not isinstance(dim, int):
                return None
            right *= dim
            j += 1
        if j and left == right:
            return i, j


def _quotient(whole: Shape, part: Shape) -> Dim:
    """The one dimension that is missing for two shapes to count the same elements."""
    symbols = [d for d in whole if not isinstance(d, int)]
    for dim in part:
        if not isinstance(dim, int):
            if dim not in symbols:
                return None
            symbols.remove(dim)
    numbers = [np.prod([d for d in dims if isinstance(d, int)], dtype=object) for dims in (whole, part)]
    if symbols or not numbers[1] or numbers[0] % numbers[1]:
        return symbols[0] if len(symbols) == 1 and numbers[0] == numbers[1] else None
    return int(numbers[0] // numbers[1])


def _runs(source: Shape, target: Shape, left: list[int], right: list[int]) -> np.ndarray | None:
    """For a block that holds a dimension which is not known: the run of each slice of the longer leading axis.

    Where one leading axis is a multiple of the other, its runs of equal length are the slices of the shorter one,
    whatever the dimensions behind them are: [C, h, w] as [G, C / G h w]. None where the block is no such thing.
    """
    if (
        not left
        or not right
        or all(isinstance(d, int) for d in [*(source[a] for a in left), *(target[b] for b in right)])
    ):
        return None
    a, b = source[left[0]], target[right[0]]
    if not isinstance(a, int) or not isinstance(b, int) or max(a, b) % min(a, b):
        return None
    return np.arange(max(a, b)) // (max(a, b) // min(a, b))


def _varies(fact: Fact, axes: list[int]) -> bool:
    arrays = [array for array in (fact.value, fact.known, fact.low, fact.high) if array is not None]
    return any(array.shape[axis] > 1 for array in arrays for axis in axes)


def _common(fact: Fact, axes: list[int]) -> Fact:
    """What all slices along some axes have in common."""
    for axis in axes:
        first = fact.value.take([0], axis)
        fact = Fact(
            first,
            fact.known.all(axis, keepdims=True) & (fact.value == first).all(axis, keepdims=True),
            None if fact.low is None else fact.low.min(axis, keepdims=True),
            None if fact.high is None else fact.high.max(axis, keepdims=True),
        )
    return fact


def _regrouped(fact: Fact, axis: int, index: np.ndarray) -> Fact:
    """The fact with the slices of an axis merged into the runs `index`, or repeated, whichever changes its length."""
    groups = int(index[-1]) + 1

    def along(array: np.ndarray, size: int) -> np.ndarray:
        return np.broadcast_to(array, (*array.shape[:axis], size, *array.shape[axis + 1 :]))

    if (
        max(a.shape[axis] for a in (fact.value, fact.known, fact.low, fact.high) if a is not None)
        <= groups
        < index.size
    ):
        return fact.map(lambda a: along(a, groups).take(index, axis))

    def runs(array: np.ndarray) -> np.ndarray:
        full = along(array, index.size)
        return full.reshape(*full.shape[:axis], groups, -1, *full.shape[axis + 1 :])

    value, known = runs(fact.value), runs(fact.known)
    first = value.take([0], axis + 1)
    return Fact(
        first.squeeze(axis + 1),
        known.all(axis=axis + 1) & (value == first).all(axis=axis + 1),
        None if fact.low is None else runs(fact.low).min(axis=axis + 1),
        None if fact.high is None else runs(fact.high).max(axis=axis + 1),
    )


class Reshape(Rule):
    """All operators that keep the elements in row-major order."""

    family = "movement"

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, source, target = (
            context.fact(node.inputs[0]),
            context.shape(node.inputs[0]),
            context.shape(node.outputs[0]),
        )
        if fact is None or source is None or target is None:
            return [None]
        aligned = blocks(source, target)
        shape: list[int] = []
        stretch: list[int] = []
        for left, right in aligned:
            if not _varies(fact, left):
                shape += [1] * len(right)
            elif all(isinstance(target[axis], int) for axis in right):
                stretch += left
                shape += [target[axis] for axis in right]  # type: ignore[misc]
            elif (index := _runs(source, target, left, right)) is not None and not _varies(fact, left[1:]):
                fact = _regrouped(fact, left[0], index)
                source = (*source[: left[0]], target[right[0]], *source[left[0] + 1 :])
                stretch += left[:1]
                shape += [target[right[0]], *[1] * (len(right) - 1)]  # type: ignore[list-item]
            else:
                fact = _common(fact, left)
                shape += [1] * len(right)
        full = fact.expand(source, stretch) if stretch else fact
        if full is None or not fits(np.prod(shape, dtype=np.int64), fact):
            return [None]
        kept = [1 if axis not in stretch else source[axis] for axis in range(len(source))]
        return [collapse(full.map(lambda x: np.broadcast_to(x, kept).reshape(shape)))]  # type: ignore[arg-type]

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        if node.op != "Reshape" or not node.input(1):
            return {}
        shape, source = context.shape(node.outputs[0]), context.shape(node.inputs[0])
        said = context.elements.get(node.inputs[1])
        if said is None or source is None:
            return {}
        old = shape if shape is not None and len(shape) == len(said) else (None,) * len(said)
        new: list[Dim] = []
        for axis, (dim, before) in enumerate(zip(said, old, strict=True)):
            if isinstance(before, int) or dim == -1 or dim is None:
                new.append(before)
            elif dim == 0 and not node.attr("allowzero", 0):
                new.append(source[axis] if axis < len(source) else before)
            else:
                new.append(dim)
        missing = [axis for axis, dim in enumerate(new) if dim is None] or [
            a for a, dim in enumerate(said) if dim == -1
        ]
        if len(missing) == 1:  # inference gives what it does not compute a name of its own
            (axis,) = missing
            found = _quotient(source, (*new[:axis], *new[axis + 1 :]))
            new[axis] = new[axis] if found is None else found
        return {node.outputs[0]: tuple(new)} if tuple(new) != shape else {}

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, y = node.inputs[0], node.outputs[0]
        source, target = context.shape(x), context.shape(y)
        ties: list[Tie] = []
        if source is None or target is None:
            return ties
        for left, right in blocks(source, target):
            sizes = [context.size(x, a) for a in left], [context.size(y, b) for b in right]
            total = count(tuple(sizes[0]))
            if total is None or None in sizes[1]:
                index = _runs(source, target, left, right)
                if index is not None:
                    ends = ((x, left[0]), (y, right[0]))
                    a, b = ends if index.size == sizes[1][0] else ends[::-1]
                    ties.append(Same(a, b, index))
                continue
            if len(left) == len(right) == 1:
                ties.append(Same((x, left[0]), (y, right[0])))
            elif left and right and total <= CAP:
                ties.append(Grid(tuple((x, a) for a in left), tuple((y, b) for b in right)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        x, y = node.inputs[0], node.outputs[0]
        source, target = context.shape(x), context.shape(y)
        live = state.live(y)
        if source is None or target is None:
            return super().reads(node, context, state)
        rest: dict[int, Demand | None] = {i: None for i in range(1, len(node.inputs)) if node.inputs[i]}
        if node.op == "Reshape" and 1 in rest:
            rest[1] = unknown_elements(node.inputs[1], context)
        if not all(mask.any() for mask in live):
            return rest
        demand = [np.ones(d if isinstance(d, int) else 1, bool) for d in source]
        for left, right in blocks(source, target):
            sizes = [demand[a].size for a in left]
            grid: np.ndarray = np.ones((), bool)
            for b in right:
                grid = grid[..., None] & live[b]
            index = _runs(source, target, left, right)
            if index is not None and index.size == live[right[0]].size:
                demand[left[0]] = np.isin(np.arange(sizes[0]), index[live[right[0]]])
            elif index is not None:
                demand[left[0]] = live[right[0]][index]
            elif left and grid.size == np.prod(sizes) and grid.size <= CAP:
                grid = grid.reshape(sizes)
                for position, a in enumerate(left):
                    demand[a] = np.asarray(grid.any(axis=tuple(p for p in range(len(left)) if p != position)))
        return {0: demand, **rest}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        if node.op == "Squeeze" and not node.input(1) and node.attr("axes") is None:
            return self._squeezed(node, cut)
        if node.op != "Reshape" or not node.input(1):
            return Rewrite()
        return target_shape(node, 1, node.outputs[0], cut, source=node.inputs[0])

    @staticmethod
    def _squeezed(node: Node, cut: Cut) -> Rewrite:
        """A Squeeze of all axes of length one says which, so that it leaves one that a cut made as short."""
        before, after = cut.context.shape(node.inputs[0]) or (), cut.shape(node.inputs[0]) or ()
        if all(old == 1 or new != 1 for old, new in zip(before, after, strict=True)):
            return Rewrite()
        axes = [a for a, size in enumerate(before) if size == 1]
        return Rewrite({"axes": axes}) if cut.context.opset < 13 else Rewrite(inputs={1: np.array(axes, np.int64)})


def target_shape(node: Node, index: int, output: str, cut: Cut, source: str | None = None) -> Rewrite:
    """A shape operand that follows the cut of `output`.

    Known dimensions become numbers, 0 and -1 stay where they still say the right thing; elements that are only
    known at run time are left to run time, and so are all if they come from shapes that follow the same cut.
    """
    context = cut.context
    operand = node.inputs[index]
    old, new = context.shape(output), cut.shape(output)
    changed = [a for a in range(len(old or ())) if cut.indices(output, a) is not None]
    if old is None or new is None or (not changed and not cut.stale(operand)):
        return Rewrite()
    fact = context.fact(operand)
    full = fact.expand((len(old),)) if fact is not None else None
    before = context.shape(source) if source else None
    values = np.zeros(len(old), np.int64)
    fixed = np.zeros(len(old), bool)
    for axis, dim in enumerate(new):
        known = full is not None and bool(full.known[axis])
        said = int(full.value[axis]) if full is not None and known else None
        if said == -1:
            values[axis], fixed[axis] = -1, True
        elif (
            said == 0
            and source
            and not node.attr("allowzero", 0)
            and before is not None
            and axis < len(before)
            and (cut.indices(source, axis) is None and cut.indices(output, axis) is None)
        ):
            values[axis], fixed[axis] = 0, True
        elif isinstance(dim, int) and (known or axis in changed):
            values[axis], fixed[axis] = dim, True
        elif said is not None and (said != 0 or not source):  # facts may know a size that shape inference does not
            values[axis], fixed[axis] = said, True
    if not fixed.all() and source and before is not None:
        for axis in (int(a) for a in np.flatnonzero(~fixed)):
            if axis < len(before) and same(before[axis], old[axis]) and not node.attr("allowzero", 0):
                values[axis], fixed[axis] = 0, True
        if (~fixed).sum() == 1 and not (values[fixed] == -1).any():
            values[~fixed], fixed[:] = -1, True
    if fixed.all():
        return Rewrite(inputs={index: values})
    follows = cut.said(operand)
    if follows is not None and all(follows[a] in {values[a], new[a]} - {None} for a in np.flatnonzero(fixed)):
        return Rewrite()
    return Rewrite(patches={index: (fixed, values)})


class BlockShuffle(Rule):
    """DepthToSpace and SpaceToDepth: channels times block x block positions; space is pinned."""

    family = "movement"

    def _layout(self, node: Node, context: Context) -> tuple[str, str, np.ndarray] | None:
        """(deep tensor, flat tensor, deep channel of [flat channel, position])."""
        deep, flat = (0, 1) if node.op == "DepthToSpace" else (1, 0)
        names = (node.inputs[0], node.outputs[0])
        channels, small = context.size(names[deep], 1), context.size(names[flat], 1)
        area = int(node.attr("blocksize", 1)) ** 2
        if channels is None or small is None or channels != small * area:
            return None
        order = np.arange(channels)
        crd = node.attr("mode", "DCR") == "CRD"
        return names[deep], names[flat], order.reshape(small, area) if crd else order.reshape(area, small).T

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        layout, fact = self._layout(node, context), context.fact(node.inputs[0])
        if layout is None or fact is None or fact.rank != 4:
            return [None]
        if any(array.shape[axis] > 1 for array in (fact.value, fact.known) for axis in (0, 2, 3)):
            return [None]
        fact = Fact(fact.value, fact.known)
        full = fact.expand(context.shape(node.inputs[0]) or (), [1])
        assert full is not None
        index = layout[2]
        if node.op == "SpaceToDepth":
            source = np.empty(index.size, np.int64)
            source[index] = np.arange(index.shape[0])[:, None]
            return [collapse(full.map(lambda a: np.broadcast_to(a, full.value.shape)[:, source]))]
        values = np.broadcast_to(full.value, full.value.shape)[0, :, 0, 0][index]
        known = np.broadcast_to(full.known, full.value.shape)[0, :, 0, 0][index]
        same_value = known.all(axis=1) & (values == values[:, :1]).all(axis=1)
        return [collapse(Fact(values[:, 0].reshape(1, -1, 1, 1), same_value.reshape(1, -1, 1, 1)))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        layout = self._layout(node, context)
        if layout is None:
            return []
        deep, flat, index = layout
        ties: list[Tie] = [Same((deep, 1), (flat, 1), index[:, p]) for p in range(index.shape[1])]
        if context.size(deep, 0) is not None:
            ties.append(Same((deep, 0), (flat, 0)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        layout = self._layout(node, context)
        live = state.live(node.outputs[0])
        if layout is None:
            return super().reads(node, context, state)
        if not all(mask.any() for mask in live):
            return {}
        index = layout[2]
        demand = [np.ones(context.size(node.inputs[0], a) or 1, bool) for a in range(4)]
        demand[0] = live[0]
        if node.op == "SpaceToDepth":
            demand[1] = live[1][index].any(axis=1)
        else:
            demand[1] = np.zeros(index.size, bool)
            demand[1][index[live[1]].reshape(-1)] = True
        return {0: demand}


register(Reshape(), "Reshape", "Flatten", "Squeeze", "Unsqueeze")
register(BlockShuffle(), "DepthToSpace", "SpaceToDepth")
