"""Operators that move whole axes or runs of an axis: Transpose, Concat, Split.

Facts move as tensors do, ties are index maps, and each operator stays what it is with fewer channels.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .fact import Fact, collapse, unknown
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, register
from .tie import Same, Tie


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

    family = "movement"

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

    family = "movement"

    def data(self, node: Node) -> range:
        """Indices of the inputs that are joined."""
        return range(len(node.inputs))

    def piece(self, node: Node, index: int, context: Context) -> Fact | None:
        """What is known of the run that an input becomes."""
        return context.fact(node.inputs[index])

    def axis(self, node: Node, context: Context) -> int | None:
        """The axis along which inputs are joined, counted from the front."""
        rank, axis = context.rank(node.outputs[0]), int(node.attr("axis", 0))
        return axis % rank if rank is not None and -rank <= axis < rank else None

    def _runs(self, node: Node, context: Context) -> tuple[int, list[tuple[int, str, np.ndarray]]] | None:
        """(axis, [(input index, name, its positions in the output)])."""
        axis = self.axis(node, context)
        if axis is None:
            return None
        runs, start = [], 0
        for index in self.data(node):
            name = node.inputs[index]
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
        found = [self.piece(node, index, context) for index, _, _ in parts]
        for fact, (_, _, positions) in zip(found, parts, strict=True):
            fact = fact or unknown(rank, dtype)
            full = fact.expand(tuple(positions.size if a == axis else 1 for a in range(rank)), [axis])
            if full is None or full.rank != rank:
                return [None]
            pieces.append(full)
        if not any(found):
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
        if any(p.low is not None for p in pieces):
            bounds = [p.bounds() for p in pieces]
            low, high = join([b[0] for b in bounds]), join([b[1] for b in bounds])
        return [collapse(Fact(join([p.value for p in pieces]), join([p.known for p in pieces]), low, high))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        runs, axis = self._runs(node, context), self.axis(node, context) or 0
        names = [node.inputs[index] for index in self.data(node)]
        # where one operand's length is not known it is as long as the others, and nothing would cut it along
        skip = {axis, *(a for name in names for a in range(context.rank(name) or 0) if context.size(name, a) is None)}
        ties: list[Tie] = []
        for name in names:
            ties += parallel(name, node.outputs[0], context, tuple(skip))
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

    family = "movement"

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
        return [collapse(full.map(lambda a, w=where: along(a, runs[0], size).take(w, runs[0]))) for _, where in runs[1]]

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


def along(array: np.ndarray, axis: int, size: int) -> np.ndarray:
    """The array with its axis at full length."""
    shape = list(array.shape)
    shape[axis] = size
    return np.broadcast_to(array, shape)


register(Transpose(), "Transpose")
register(Concat(), "Concat")
register(Split(), "Split")
