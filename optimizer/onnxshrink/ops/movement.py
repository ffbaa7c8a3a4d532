"""Operators that move elements along an axis by an index map: Transpose, Concat, Split, Slice, Gather, Pad, Expand...

Facts move as tensors do. Ties are index maps. Concat and Split stay what they are with fewer channels; a Slice
whose range stays contiguous too, otherwise it becomes a Gather; a Gather's indices are renumbered.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .fact import CAP, Fact, collapse, unknown
from .rule import SELECTION, Context, Cut, Demand, Rewrite, Rule, State, everything, register
from .tie import Picks, Same, Tie


def axis_of(node: Node, context: Context, default: int = 0) -> int | None:
    """The attribute `axis`, counted from the front."""
    rank = context.rank(node.inputs[0])
    axis = int(node.attr("axis", default))
    if rank is None or not -rank <= axis < rank:
        return None
    return axis % rank


def parallel(a: str, b: str, context: Context, skip: tuple[int, ...] = ()) -> list[Tie]:
    """Ties of equal axes of two tensors of one rank."""
    ranks = context.rank(a), context.rank(b)
    if ranks[0] is None or ranks[0] != ranks[1]:
        return []
    sizes = [(context.size(a, axis), context.size(b, axis), axis) for axis in range(ranks[0]) if axis not in skip]
    return [Same((a, axis), (b, axis)) for one, other, axis in sizes if one is not None and one == other]


class Transpose(Rule):
    """Transpose: axes change places."""

    barrier = False

    def _order(self, node: Node, context: Context) -> list[int] | None:
        rank = context.rank(node.inputs[0])
        return None if rank is None else [int(p) for p in node.attr("perm", range(rank)[::-1])]

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, order = context.fact(node.inputs[0]), self._order(node, context)
        return [None if fact is None or order is None else fact.map(lambda a: a.transpose(order))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        order = self._order(node, context) or []
        x, y = node.inputs[0], node.outputs[0]
        return [
            Same((x, a), (y, b))
            for b, a in enumerate(order)
            if context.size(x, a) is not None and context.size(y, b) == context.size(x, a)
        ]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        order, live = self._order(node, context), state.live(node.outputs[0])
        if order is None or len(order) != len(live):
            return super().reads(node, context, state)
        demand = everything(node.inputs[0], context)
        for b, a in enumerate(order):
            if demand[a].size == live[b].size:
                demand[a] = live[b]
        return {0: demand} if all(mask.any() for mask in live) else {}


class Concat(Rule):
    """Concat: each input is a run of the output; an input with nothing kept leaves."""

    barrier = False

    def _runs(self, node: Node, context: Context) -> tuple[int, list[tuple[int, str, np.ndarray]]] | None:
        """(axis, [(input index, name, its positions in the output)])."""
        axis = axis_of(node, context)
        if axis is None:
            return None
        runs, start = [], 0
        for index, name in enumerate(node.inputs):
            size = context.size(name, axis)
            if size is None:
                return None
            runs.append((index, name, np.arange(start, start + size)))
            start += size
        return (axis, runs) if context.size(node.outputs[0], axis) == start else None

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        runs = self._runs(node, context)
        rank, dtype = context.rank(node.outputs[0]), context.graph.dtypes.get(node.outputs[0])
        if runs is None or rank is None or dtype is None:
            return [None]
        axis, parts = runs
        pieces: list[Fact] = []
        for _, name, positions in parts:
            fact = context.fact(name) or unknown(rank, dtype)
            full = fact.expand(tuple(positions.size if a == axis else 1 for a in range(rank)), [axis])
            if full is None or full.rank != rank:
                return [None]
            pieces.append(full)
        if not any(context.fact(name) for _, name, _ in parts):
            return [None]

        def join(arrays: list[np.ndarray]) -> np.ndarray:
            lead = np.broadcast_shapes(*[(*a.shape[:axis], 1, *a.shape[axis + 1 :]) for a in arrays])
            return np.concatenate(
                [
                    np.broadcast_to(a, (*lead[:axis], p[2].size, *lead[axis + 1 :]))
                    for a, p in zip(arrays, parts, strict=True)
                ],
                axis,
            )

        low = high = None
        if context.graph.is_float(node.outputs[0]):
            bounds = [p.bounds() for p in pieces]
            low, high = join([b[0] for b in bounds]), join([b[1] for b in bounds])
        return [collapse(Fact(join([p.value for p in pieces]), join([p.known for p in pieces]), low, high))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        runs = self._runs(node, context)
        ties: list[Tie] = []
        for name in node.inputs:
            ties += parallel(name, node.outputs[0], context, (runs[0],) if runs else (axis_of(node, context) or 0,))
        if runs is not None:
            ties += [Same((node.outputs[0], runs[0]), (name, runs[0]), where) for _, name, where in runs[1]]
        return ties

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        runs = self._runs(node, context)
        if runs is None:
            return super().operands(node, context, state)
        kept = state.kept((node.outputs[0], runs[0]))
        there = [index for index, _, where in runs[1] if kept[where].any()]
        return there or [index for index, _, where in runs[1] if where.size][:1]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        runs, live = self._runs(node, context), state.live(node.outputs[0])
        if runs is None:
            return super().reads(node, context, state)
        demands: dict[int, Demand | None] = {}
        for index, name, where in runs[1]:
            demand = everything(name, context)
            for axis in range(len(demand)):
                if axis == runs[0]:
                    demand[axis] = live[axis][where]
                elif demand[axis].size == live[axis].size:
                    demand[axis] = live[axis]
            if all(mask.any() for mask in demand):
                demands[index] = demand
        return demands

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        runs = self._runs(node, cut.context)
        if runs is None:
            return Rewrite()
        indices = cut.indices(node.outputs[0], runs[0])
        if indices is None:
            return Rewrite()
        kept = np.zeros(cut.context.size(node.outputs[0], runs[0]) or 0, bool)
        kept[indices] = True
        there = [index for index, _, where in runs[1] if kept[where].any()]
        if len(there) == 1:
            return Rewrite(bypass=there[0])
        return Rewrite(inputs={index: None for index, _, _ in runs[1] if index not in there})


class Split(Rule):
    """Split: each output is a run of the input; an output with nothing kept leaves."""

    barrier = False

    def _runs(self, node: Node, context: Context) -> tuple[int, list[tuple[str, np.ndarray]]] | None:
        axis = axis_of(node, context)
        if axis is None:
            return None
        runs, start = [], 0
        for name in node.outputs:
            size = context.size(name, axis) if name else None
            if size is None:
                return None
            runs.append((name, np.arange(start, start + size)))
            start += size
        return (axis, runs) if context.size(node.inputs[0], axis) == start else None

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        runs, fact = self._runs(node, context), context.fact(node.inputs[0])
        if runs is None or fact is None:
            return [None] * len(node.outputs)
        full = fact.expand(context.shape(node.inputs[0]) or (), [runs[0]])
        if full is None:
            return [None] * len(node.outputs)
        size = context.size(node.inputs[0], runs[0]) or 0
        return [
            collapse(full.map(lambda a, w=where: _along(a, runs[0], size).take(w, runs[0]))) for _, where in runs[1]
        ]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        runs = self._runs(node, context)
        if runs is None:
            return []
        ties: list[Tie] = []
        for name, where in runs[1]:
            ties.append(Same((node.inputs[0], runs[0]), (name, runs[0]), where))
            ties += parallel(node.inputs[0], name, context, (runs[0],))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        runs = self._runs(node, context)
        if runs is None:
            return super().reads(node, context, state)
        demand = [np.zeros_like(mask) for mask in everything(node.inputs[0], context)]
        for name, where in runs[1]:
            live = state.live(name)
            if not all(mask.any() for mask in live):
                continue
            for axis, mask in enumerate(live):
                if axis == runs[0]:
                    demand[axis][where] |= mask
                else:
                    demand[axis] |= mask if mask.size == demand[axis].size else True
        return {0: demand, **({1: None} if node.input(1) else {})}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        runs = self._runs(node, cut.context)
        if runs is None or cut.indices(node.inputs[0], runs[0]) is None:
            return Rewrite()
        kept = np.zeros(cut.context.size(node.inputs[0], runs[0]) or 0, bool)
        kept[cut.indices(node.inputs[0], runs[0])] = True
        sizes = [int(kept[where].sum()) for _, where in runs[1]]
        there = [k for k, size in enumerate(sizes) if size]
        if len(there) == 1:
            return Rewrite(outputs=there, bypass=0)
        result = Rewrite(outputs=there if len(there) < len(sizes) else None)
        left = np.array([s for s in sizes if s], np.int64)
        if cut.context.opset >= 13:
            result.inputs[1] = left
            result.attributes["num_outputs"] = None
        else:
            result.attributes["split"] = [int(s) for s in left]
        return result


def _along(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The array with its axis at full length."""
    shape = list(array.shape)
    shape[axis] = size
    return np.broadcast_to(array, shape)


class Select(Rule):
    """Operators whose output is the input, indexed along some axes: Slice, Gather with constant indices, Crop-like.

    Subclasses say the index map of each axis.
    """

    barrier = False

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        """Positions in the input of each output position, for every axis that changes; None: not understood."""
        raise AssertionError("a Select says its index map")

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, index = context.fact(node.inputs[0]), self.index(node, context)
        if fact is None or index is None:
            return [None]
        full = fact.expand(context.shape(node.inputs[0]) or (), list(index))
        if full is None:
            return [None]

        def move(array: np.ndarray) -> np.ndarray:
            for axis, where in index.items():
                array = _along(array, axis, context.size(node.inputs[0], axis) or 0).take(where.reshape(-1), axis)
            return array

        return [collapse(full.map(move))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        index = self.index(node, context)
        if index is None:
            return []
        x, y = node.inputs[0], node.outputs[0]
        ties = parallel(x, y, context, tuple(index))
        for axis, where in index.items():
            contiguous = bool((np.diff(where) == 1).all())
            ties.append(Same((x, axis), (y, axis), where) if contiguous else Picks((x, axis), (y, axis), where))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        index, live = self.index(node, context), state.live(node.outputs[0])
        if index is None:
            return super().reads(node, context, state)
        if not all(mask.any() for mask in live):
            return {}
        demand = everything(node.inputs[0], context)
        for axis in range(len(demand)):
            if axis in index:
                demand[axis] = np.zeros_like(demand[axis])
                demand[axis][index[axis][live[axis]]] = True
            elif live[axis].size == demand[axis].size:
                demand[axis] = live[axis]
        return {0: demand, **{i: None for i in range(1, len(node.inputs)) if node.inputs[i]}}


def renumbered(where: np.ndarray, kept: np.ndarray | None) -> np.ndarray:
    """Positions among the kept indices instead of among all."""
    if kept is None:
        return where
    return np.searchsorted(kept, where)


def _pace(where: np.ndarray) -> int:
    """The constant step of index positions; 0 if they have none, or there are none."""
    if where.size < 2:
        return where.size
    steps = np.diff(where)
    return int(steps[0]) if (steps == steps[0]).all() else 0


class Slice(Select):
    """Slice with constant bounds."""

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        def compute() -> dict[int, np.ndarray] | None:
            rank = context.rank(node.inputs[0])
            bounds = self._bounds(node, context)
            if bounds is None or rank is None or context.rank(node.outputs[0]) != rank:
                return None
            index = {}
            for start, end, axis, step in zip(*bounds, strict=True):
                size = context.size(node.inputs[0], axis % rank)
                if size is None:
                    continue
                index[axis % rank] = np.arange(size)[slice(start, None if step < 0 and end < -size else end, step)]
            return index

        return context.cached((node.index, "index"), compute)

    def _bounds(self, node: Node, context: Context) -> tuple[list[int], ...] | None:
        if context.opset < 10:
            starts, ends = node.attr("starts"), node.attr("ends")
            axes = node.attr("axes", range(len(starts)))
            return list(starts), list(ends), list(axes), [1] * len(starts)
        values = [context.ints(node.input(i)) if node.input(i) else None for i in range(1, 5)]
        starts, ends, axes, steps = values
        if starts is None or ends is None or (node.input(3) and axes is None) or (node.input(4) and steps is None):
            return None
        return starts, ends, axes or list(range(len(starts))), steps or [1] * len(starts)

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        index = self.index(node, cut.context)
        if index is None:
            return Rewrite()
        x, y = node.inputs[0], node.outputs[0]
        if all(cut.indices(x, a) is None and cut.indices(y, a) is None for a in index):
            return Rewrite()
        moved: dict[int, np.ndarray] = {}
        for axis, where in index.items():
            out = cut.indices(y, axis)
            moved[axis] = renumbered(where if out is None else where[out], cut.indices(x, axis))
        new_shape = cut.shape(x) or ()
        bounds = self._bounds(node, cut.context)
        assert bounds is not None
        paces = {axis: _pace(where) for axis, where in moved.items()}
        if all(paces.values()):
            if len(moved) == len(bounds[0]) and all(paces[a] == 1 and moved[a].size == new_shape[a] for a in moved):
                return Rewrite(bypass=0)
            starts, ends, axes, steps = (list(b) for b in bounds)
            for k, axis in enumerate(a % len(new_shape) for a in axes):
                if axis in moved:
                    first, end = int(moved[axis][0]), int(moved[axis][-1]) + paces[axis]
                    starts[k], ends[k], steps[k] = first, end if end >= 0 else -(2**31), paces[axis]
            if cut.context.opset < 10:
                return Rewrite({"starts": starts, "ends": ends, "axes": axes})
            return Rewrite(inputs={k: np.array(v, np.int64) for k, v in enumerate((starts, ends, axes, steps), 1)})
        if len(bounds[0]) == 1:
            ((axis, where),) = moved.items()
            drop = dict.fromkeys(range(2, len(node.inputs)))
            attributes = {"axis": axis, "starts": None, "ends": None, "axes": None}
            return Rewrite(attributes, {1: where.astype(np.int64), **drop}, op="Gather")
        raise AssertionError("a strided slice of several axes is pinned")

    def ties(self, node: Node, context: Context) -> list[Tie]:
        index = self.index(node, context)
        bounds = self._bounds(node, context)
        if index is None or bounds is None:
            return []
        if len(bounds[0]) > 1 and not all((np.diff(w) == 1).all() for w in index.values()):
            return parallel(node.inputs[0], node.outputs[0], context, tuple(index))
        return super().ties(node, context)


class Selection(Select):
    """A chain of movements planned as one selection; it stays a chain unless something of it goes."""

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        assert node.select is not None
        return {node.select[0]: node.select[1]}

    def ties(self, node: Node, context: Context) -> list[Tie]:
        assert node.select is not None
        axis, index = node.select
        x, y = node.inputs[0], node.outputs[0]
        return [*parallel(x, y, context, (axis,)), Picks((x, axis), (y, axis), index)]

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        assert node.select is not None
        axis, index = node.select
        axes = range(cut.context.rank(node.inputs[0]) or 0)
        if all(cut.indices(t, a) is None for t in (node.inputs[0], node.outputs[0]) for a in axes):
            return Rewrite()
        out = cut.indices(node.outputs[0], axis)
        where = renumbered(index if out is None else index[out], cut.indices(node.inputs[0], axis)).astype(np.int64)
        if where.size == (cut.shape(node.inputs[0]) or ())[axis] and (np.diff(where) == 1).all():
            return Rewrite(bypass=0)
        attributes = {a.name: None for a in node.proto.attribute}
        return Rewrite({**attributes, "axis": axis}, {1: where}, op="Gather")


class Gather(Select):
    """Gather with constant indices; with computed ones the axis is pinned and the others pass."""

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        axis, indices = axis_of(node, context), context.array(node.inputs[1])
        size = context.size(node.inputs[0], axis) if axis is not None else None
        if axis is None or indices is None or size is None or indices.ndim > 1:
            return None
        return {axis: np.where(indices < 0, indices + size, indices).reshape(-1)}

    def _scalar(self, node: Node, context: Context) -> bool:
        return context.rank(node.inputs[1]) == 0

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        facts, axis = super().facts(node, context), axis_of(node, context)
        if facts[0] is not None and self._scalar(node, context) and axis is not None:
            return [facts[0].map(lambda a: a.reshape(a.shape[:axis] + a.shape[axis + 1 :]))]
        return facts

    def _pairs(self, node: Node, context: Context) -> list[tuple[int, int]]:
        """(input axis, output axis) of axes that pass through."""
        axis, rank = axis_of(node, context), context.rank(node.inputs[0])
        added = context.rank(node.inputs[1])
        if axis is None or rank is None or added is None:
            return []
        return [(a, a if a < axis else a + added - 1) for a in range(rank) if a != axis]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        index = self.index(node, context)
        x, y = node.inputs[0], node.outputs[0]
        ties: list[Tie] = [
            Same((x, a), (y, b))
            for a, b in self._pairs(node, context)
            if context.size(x, a) is not None and context.size(x, a) == context.size(y, b)
        ]
        if index is not None:
            ((axis, where),) = index.items()
            if self._scalar(node, context):
                # the one slice that is read stays as long as the node does; the others are free
                ties.append(Fixed((x, axis), where))
            else:
                ties.append(Picks((x, axis), (y, axis), where))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live, index = state.live(node.outputs[0]), self.index(node, context)
        pairs = self._pairs(node, context)
        if not all(mask.any() for mask in live):
            return {}
        if context.rank(node.inputs[0]) is None or (not pairs and index is None):
            return {0: None, 1: None}
        demand = everything(node.inputs[0], context)
        for a, b in pairs:
            if b < len(live) and live[b].size == demand[a].size:
                demand[a] = live[b]
        if index is not None:
            ((axis, where),) = index.items()
            demand[axis] = np.zeros_like(demand[axis])
            demand[axis][where if self._scalar(node, context) else where[live[axis]]] = True
        return {0: demand, 1: None}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        index = self.index(node, cut.context)
        if index is None:
            return Rewrite()
        ((axis, where),) = index.items()
        into = cut.indices(node.inputs[0], axis)
        out = None if self._scalar(node, cut.context) else cut.indices(node.outputs[0], axis)
        if into is None and out is None and not cut.stale(node.inputs[1]):
            return Rewrite()
        moved = renumbered(where if out is None else where[out], into).astype(np.int64)
        if self._scalar(node, cut.context):
            return Rewrite(inputs={1: moved.reshape(())})
        size = (cut.shape(node.inputs[0]) or ())[axis]
        if moved.size == size and (moved == np.arange(moved.size)).all():
            return Rewrite(bypass=0)
        return Rewrite(inputs={1: moved})


class Fixed(Picks):
    """Slices that stay as long as the node does, with no counterpart in the output."""

    def __init__(self, port: tuple[str, int], index: np.ndarray):
        super().__init__(port, port, index)

    def close(self, kept):  # type: ignore[no-untyped-def]
        mask = kept(self.a).copy()
        mask[self.index] = True
        return [(self.a, mask)] if (mask & ~kept(self.a)).any() else []


class Pad(Rule):
    """Pad with constant amounts. On the spatial axes of a feature map the border has the pad's value; along an
    axis that is cut (channels padded with zeros) the pad shrinks like any other slice.
    """

    barrier = False

    def _amounts(self, node: Node, context: Context) -> list[tuple[int, int]] | None:
        rank = context.rank(node.inputs[0])
        pads = list(node.attr("pads", ())) if context.opset < 11 else context.ints(node.inputs[1])
        if rank is None or pads is None or context.rank(node.outputs[0]) != rank:
            return None
        axes = [a % rank for a in context.ints(node.input(3)) or []] if node.input(3) else list(range(rank))
        if len(pads) != 2 * len(axes):
            return None
        amounts = [(0, 0)] * rank
        for k, axis in enumerate(axes):
            amounts[axis] = (pads[k], pads[k + len(axes)])
        return amounts

    def _value(self, node: Node, context: Context) -> float | None:
        if node.attr("mode", "constant") != "constant":
            return None
        if context.opset < 11:
            return float(node.attr("value", 0.0))
        if not node.input(2):
            return 0.0
        array = context.array(node.inputs[2])
        return None if array is None else float(array.reshape(-1)[0])

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        amounts, fill = self._amounts(node, context), self._value(node, context)
        fact, source = context.fact(node.inputs[0]), context.shape(node.inputs[0])
        dtype = context.graph.dtypes.get(node.outputs[0])
        if amounts is None or source is None or dtype is None:
            return [None]
        if fill is None and (node.attr("mode", "constant") == "constant" or fact is None):
            return [None]
        fact = fact or unknown(len(source), dtype)
        if node.attr("mode", "constant") != "constant":
            whole = not any(a.shape[i] > 1 for a in (fact.value, fact.known) for i, p in enumerate(amounts) if any(p))
            return [Fact(fact.value, fact.known) if whole else None]
        low, high = fact.bounds()
        low, high = np.minimum(low, fill), np.maximum(high, fill)  # type: ignore[arg-type]
        result = Fact(fact.value, fact.known, low, high)
        for axis, (before, after) in enumerate(amounts):
            if (before, after) == (0, 0):
                continue
            size = source[axis]
            if before <= 0 and after <= 0:
                if axis < 2 and isinstance(size, int):
                    full = result.expand(source, [axis])
                    if full is None:
                        return [None]
                    where = np.arange(-before, size + after)
                    result = full.map(lambda a, x=axis, n=size, w=where: _along(a, x, n).take(w, x))
                elif any(a is not None and a.shape[axis] > 1 for a in (result.value, result.known, low, high)):
                    return [None]
                continue
            if before < 0 or after < 0:
                return [None]
            if not isinstance(size, int) or axis >= 2:
                # beside the border only what equals the fill stays known
                result = Fact(result.value, result.known & (result.value == fill), result.low, result.high)
                continue
            full = result.expand(source, [axis])
            if full is None or np.prod(full.value.shape, dtype=np.int64) > CAP:
                return [None]
            result = _padded(full, axis, size, before, after, float(fill or 0.0))
        return [collapse(result)]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        amounts = self._amounts(node, context)
        if amounts is None:
            return []
        x, y = node.inputs[0], node.outputs[0]
        ties: list[Tie] = parallel(x, y, context, tuple(a for a, p in enumerate(amounts) if any(p)))
        if node.attr("mode", "constant") == "constant":
            for axis, (before, after) in enumerate(amounts):
                size = context.size(x, axis)
                if (before or after) and before >= 0 and after >= 0 and size is not None:
                    ties.append(Same((y, axis), (x, axis), np.arange(before, before + size)))
                elif (before or after) and before <= 0 and after <= 0 and size is not None:
                    ties.append(Same((x, axis), (y, axis), np.arange(-before, size + after)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        amounts, live = self._amounts(node, context), state.live(node.outputs[0])
        if amounts is None:
            return super().reads(node, context, state)
        demand = everything(node.inputs[0], context)
        for axis, (before, after) in enumerate(amounts):
            if (before, after) == (0, 0) and live[axis].size == demand[axis].size:
                demand[axis] = live[axis]
            elif (
                node.attr("mode", "constant") == "constant"
                and before >= 0
                and after >= 0
                and isinstance(context.size(node.inputs[0], axis), int)
            ):
                demand[axis] = live[axis][before : before + demand[axis].size]
            elif (
                node.attr("mode", "constant") == "constant"
                and before <= 0
                and after <= 0
                and isinstance(context.size(node.inputs[0], axis), int)
            ):
                demand[axis] = np.zeros_like(demand[axis])
                demand[axis][-before : demand[axis].size + after] = live[axis]
        rest: dict[int, Demand | None] = {i: None for i in range(1, len(node.inputs)) if node.inputs[i]}
        return {**({0: demand} if all(mask.any() for mask in demand) else {}), **rest}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        amounts = self._amounts(node, cut.context)
        if amounts is None:
            return Rewrite()
        x, y = node.inputs[0], node.outputs[0]
        new = list(amounts)
        for axis, (before, after) in enumerate(amounts):
            out, into = cut.indices(y, axis), cut.indices(x, axis)
            size = cut.context.size(x, axis) or 0
            if into is not None and (before < 0 or after < 0):
                new[axis] = (-int((into < -before).sum()), -int((into >= size + after).sum()))
            elif out is not None and (before or after):
                new[axis] = (int((out < before).sum()), int((out >= before + size).sum()))
        if new == amounts and not (node.input(1) and cut.stale(node.input(1))):
            return Rewrite()
        if not any(any(pair) for pair in new):
            return Rewrite(bypass=0)
        pads = [p[0] for p in new] + [p[1] for p in new]
        if cut.context.opset < 11:
            return Rewrite({"pads": pads})
        return Rewrite(inputs={1: np.array(pads, np.int64), **({3: None} if node.input(3) else {})})


def _padded(fact: Fact, axis: int, size: int, before: int, after: int, fill: float) -> Fact:
    """The fact with `before` and `after` known slices of value `fill` along an axis."""
    width = [(0, 0)] * fact.rank
    width[axis] = (before, after)

    def grow(array: np.ndarray, value: float | bool) -> np.ndarray:
        return np.pad(_along(array, axis, size), width, constant_values=value)

    return Fact(
        grow(fact.value, fill),
        grow(fact.known, True),
        None if fact.low is None else grow(fact.low, fill),
        None if fact.high is None else grow(fact.high, fill),
    )


register(Selection(), SELECTION[1], domain=SELECTION[0])
register(Transpose(), "Transpose")
register(Concat(), "Concat")
register(Split(), "Split")
register(Slice(), "Slice")
register(Gather(), "Gather")
register(Pad(), "Pad")
