"""Reductions: reduced axes are mixed, the others pass. A sum does without slices that are zero."""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .fact import Fact, collapse
from .rule import Context, Demand, Rule, State, everything, free_slices, register
from .tie import Picks, Same, Tie


class Reduce(Rule):
    """All Reduce operators, ArgMax and ArgMin."""

    family = "reduction"

    def axes(self, node: Node, context: Context) -> set[int] | None:
        """Reduced axes, counted from the front."""
        rank = context.rank(node.inputs[0])
        if rank is None:
            return None
        if node.op in ("ArgMax", "ArgMin"):
            return {int(node.attr("axis", 0)) % rank} if rank else set()
        axes = node.attr("axes")
        if axes is None and node.input(1):
            axes = context.ints(node.inputs[1])
            if axes is None:
                return None
        if not axes:
            return set() if node.attr("noop_with_empty_axes", 0) else set(range(rank))
        return {int(a) % rank for a in axes}

    def _pairs(self, node: Node, context: Context, reduced: set[int]) -> list[tuple[int, int]]:
        """(input axis, output axis) of axes that pass."""
        rank = context.rank(node.inputs[0]) or 0
        passing = [a for a in range(rank) if a not in reduced]
        return [(a, a if node.attr("keepdims", 1) else k) for k, a in enumerate(passing)]

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        reduced, fact = self.axes(node, context), context.fact(node.inputs[0])
        if reduced is None or fact is None or node.op in ("ArgMax", "ArgMin"):
            return [None]
        axes = tuple(sorted(reduced))
        mean = node.op in ("ReduceMean", "ReduceMax", "ReduceMin")
        # a sum multiplies a constant by sizes that may be unknown, a mean does not
        keepable = fact.value.dtype.kind == "f"
        if not keepable:
            return [None]
        known, value, (low, high) = fact.known, fact.value, fact.bounds()
        if axes:
            first = value
            for axis in axes:
                first = first.take([0], axis)
            known = known.all(axis=axes, keepdims=True) & (value == first).all(axis=axes, keepdims=True)
            value = first
            low, high = low.min(axis=axes, keepdims=True), high.max(axis=axes, keepdims=True)
        if not mean:
            known = known & (value == 0)
            if node.op not in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"):
                return [None]
        result = Fact(value, known, low, high) if mean else Fact(value, known)
        if not node.attr("keepdims", 1):
            result = result.map(lambda a: a.reshape([s for i, s in enumerate(a.shape) if i not in reduced]))
        return [collapse(result)]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        reduced = self.axes(node, context)
        if reduced is None:
            return []
        x, y = node.inputs[0], node.outputs[0]
        ties: list[Tie] = [
            Same((x, a), (y, b))
            for a, b in self._pairs(node, context, reduced)
            if context.size(x, a) is not None and context.size(x, a) == context.size(y, b)
        ]
        if self._skips_zeros(node):  # free: mentioned, tied to nothing
            ties += [
                Picks((x, a), (x, a), np.arange(context.size(x, a) or 1))
                for a in reduced
                if context.size(x, a) is not None
            ]
        return ties

    @staticmethod
    def _skips_zeros(node: Node) -> bool:
        return node.op in ("ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare")

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        reduced, live = self.axes(node, context), state.live(node.outputs[0])
        if reduced is None:
            return super().reads(node, context, state)
        if live and not all(mask.any() for mask in live):
            return {}
        x = node.inputs[0]
        demand = everything(x, context)
        for a, b in self._pairs(node, context, reduced):
            if b < len(live) and live[b].size == demand[a].size:
                demand[a] = live[b]
        if self._skips_zeros(node):
            for axis in reduced:
                uniform, value = free_slices(x, axis, context)
                kept = state.kept((x, axis))
                if uniform.size == demand[axis].size == kept.size:
                    demand[axis] = demand[axis] & ~(uniform & (value == 0) & ~kept)
        return {0: demand, **({1: None} if node.input(1) else {})}


register(
    Reduce(),
    "ReduceSum",
    "ReduceMean",
    "ReduceMax",
    "ReduceMin",
    "ReduceProd",
    "ReduceL1",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
    "ArgMax",
    "ArgMin",
)
