"""Operators whose output is the input, indexed along some axes: Slice, Gather and Compress.

A Slice whose positions keep a constant pace stays a Slice, otherwise it becomes a Gather; indices are renumbered.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node, Shape, is_float
from .fact import Fact, collapse
from .movement import along, axis_of, parallel
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, register
from .tie import Picks, Same, Tie


class Select(Rule):
    """Operators whose output is the input, indexed along some axes: Slice, Gather with constant indices, Crop-like.

    Subclasses say the index map of each axis.
    """

    family = "movement"

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
                array = along(array, axis, context.size(node.inputs[0], axis) or 0).take(where.reshape(-1), axis)
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
            return index if all(where.size for where in index.values()) else None

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


class Gather(Select):
    """Gather with constant indices; with computed ones the axis is pinned and the others pass."""

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        axis, indices = axis_of(node, context), context.array(node.inputs[1])
        size = context.size(node.inputs[0], axis) if axis is not None else None
        if axis is None or indices is None or size is None or indices.ndim > 1 or not indices.size:
            return None
        return {axis: np.where(indices < 0, indices + size, indices).reshape(-1)}

    def _scalar(self, node: Node, context: Context) -> bool:
        return context.rank(node.inputs[1]) == 0

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        facts, axis = super().facts(node, context), axis_of(node, context)
        if facts[0] is not None and self._scalar(node, context) and axis is not None:
            return [facts[0].map(lambda a: a.reshape(a.shape[:axis] + a.shape[axis + 1 :]))]
        return facts if facts[0] is not None else [self._of_any(node, context)]

    def _of_any(self, node: Node, context: Context) -> Fact | None:
        """What all slices along the axis have in common: computed indices pick any of them."""
        fact, axis, added = context.fact(node.inputs[0]), axis_of(node, context), context.rank(node.inputs[1])
        if fact is None or axis is None or added is None:
            return None
        alike = (fact.value == fact.value.take([0], axis)).all(axis, keepdims=True)
        low = high = None
        if is_float(fact.value.dtype):
            low, high = (fact.value, fact.value) if fact.all_known else fact.bounds()
            low = low.min(axis, keepdims=True).astype(np.float64)
            high = high.max(axis, keepdims=True).astype(np.float64)
        common = Fact(fact.value.take([0], axis), fact.known.all(axis, keepdims=True) & alike, low, high)
        return collapse(common.map(lambda a: a.reshape(a.shape[:axis] + (1,) * added + a.shape[axis + 1 :])))

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
            return self.steering(node, context)
        if not pairs and index is None:
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


class Compress(Select):
    """Compress along an axis with a constant condition; it becomes a Gather."""

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        taken = self._taken(node, context)
        return None if taken is None or context.size(node.outputs[0], taken[0]) != taken[1].size else dict([taken])

    @staticmethod
    def _taken(node: Node, context: Context) -> tuple[int, np.ndarray] | None:
        condition = context.array(node.inputs[1])
        axis = None if node.attr("axis") is None else axis_of(node, context)
        if condition is None or axis is None or context.size(node.inputs[0], axis) is None or not condition.any():
            return None
        return axis, np.flatnonzero(condition)

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        taken, shape = self._taken(node, context), context.shape(node.inputs[0])
        if taken is None or shape is None:
            return {}
        new = (*shape[: taken[0]], taken[1].size, *shape[taken[0] + 1 :])
        return {node.outputs[0]: new} if new != context.shape(node.outputs[0]) else {}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        index = self.index(node, cut.context)
        if index is None:
            return Rewrite()
        ((axis, where),) = index.items()
        into, out = cut.indices(node.inputs[0], axis), cut.indices(node.outputs[0], axis)
        if into is None and out is None:
            return Rewrite()
        moved = renumbered(where if out is None else where[out], into).astype(np.int64)
        return Rewrite({"axis": axis}, {1: moved}, op="Gather")


register(Slice(), "Slice")
register(Gather(), "Gather")
register(Compress(), "Compress")
