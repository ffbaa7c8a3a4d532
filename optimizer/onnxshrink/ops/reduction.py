"""Reductions: reduced axes are mixed, the others pass.

A sum does without slices that are zero. So does a mean of k of n slices, times k / n; and what is largest or smallest
of those that stay and 0, where the slices that stay are not known to say so themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..graph.view import Node, is_float
from .fact import Fact, cancelled, collapse
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, free_slices, register
from .tie import Picks, Same, Tie

FUNCTIONS: dict[str, Callable[[np.ndarray, tuple[int, ...]], np.ndarray]] = {
    "ReduceSum": lambda x, axes: x.sum(axis=axes, keepdims=True),
    "ReduceMean": lambda x, axes: x.mean(axis=axes, keepdims=True),
    "ReduceMax": lambda x, axes: x.max(axis=axes, keepdims=True),
    "ReduceMin": lambda x, axes: x.min(axis=axes, keepdims=True),
    "ReduceProd": lambda x, axes: x.prod(axis=axes, keepdims=True),
    "ReduceL1": lambda x, axes: np.abs(x).sum(axis=axes, keepdims=True),
    "ReduceL2": lambda x, axes: np.sqrt((x * x).sum(axis=axes, keepdims=True)),
    "ReduceLogSum": lambda x, axes: np.log(x.sum(axis=axes, keepdims=True)),
    "ReduceLogSumExp": lambda x, axes: np.logaddexp.reduce(x, axis=axes, keepdims=True),
    "ReduceSumSquare": lambda x, axes: (x * x).sum(axis=axes, keepdims=True),
}
"""What each operator computes, in float64."""

CANCELLING = {"ReduceSum", "ReduceMean"}
SUMS = {"ReduceSum", "ReduceL1", "ReduceL2", "ReduceSumSquare"}
COMPLETED = {"ReduceMean": ("Mul", 7), "ReduceMax": ("Max", 8), "ReduceMin": ("Min", 8)}
"""What makes their answer of the slices that stay the answer of all, and the first opset in which that broadcasts."""


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
        if not is_float(fact.value.dtype):
            return [None]
        axes, shape = tuple(sorted(reduced)), context.shape(node.inputs[0]) or ()
        full = fact.expand(shape, [a for a in axes if isinstance(shape[a], int)])
        if full is None:
            return [None]
        known, low, high = full.known, None, None
        if node.op in ("ReduceMean", "ReduceMax", "ReduceMin"):
            low, high = full.bounds()
            low, high = low.min(axis=axes, keepdims=True), high.max(axis=axes, keepdims=True)
        elif not all(isinstance(shape[a], int) for a in axes):  # a sum of nobody knows how many
            if node.op in ("ReduceProd", "ReduceLogSum", "ReduceLogSumExp"):
                return [None]
            known = known & (full.value == 0)
        known = np.asarray(known.all(axis=axes, keepdims=True))
        with np.errstate(all="ignore"):
            wide = np.where(full.known, full.value, 0).astype(np.float64)
            value = FUNCTIONS[node.op](wide, axes).astype(fact.value.dtype)
            if node.op in CANCELLING:
                known = known & ~cancelled(value, FUNCTIONS[node.op](np.abs(wide), axes))
        result = Fact(value, known & np.isfinite(value.astype(np.float64)), low, high)
        if not node.attr("keepdims", 1):
            result = result.map(lambda a: a.reshape([s for i, s in enumerate(a.shape) if i not in reduced]))
        return [collapse(result)]

    def evaluable(self, node: Node, context: Context) -> bool:
        return node.op not in CANCELLING or not context.graph.is_float(node.inputs[0])

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
        if self._skips_zeros(node, context):  # free: mentioned, tied to nothing
            ties += [
                Picks((x, a), (x, a), np.arange(context.size(x, a) or 1))
                for a in reduced
                if context.size(x, a) is not None
            ]
        return ties

    @staticmethod
    def _skips_zeros(node: Node, context: Context) -> bool:
        if node.op in COMPLETED:
            return context.opset >= COMPLETED[node.op][1] and context.graph.is_float(node.inputs[0])
        return node.op in SUMS

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        out = node.outputs[0]
        reduced, live = self.axes(node, context), state.live(out)
        if reduced is None:
            return super().reads(node, context, state)
        if node.op in ("ReduceLogSum", "ReduceLogSumExp"):  # of garbage NaN or infinity, which no zero removes
            live = [mask | state.kept((out, axis)) for axis, mask in enumerate(live)]
        if live and not all(mask.any() for mask in live):
            return {}
        x = node.inputs[0]
        demand = everything(x, context)
        for a, b in self._pairs(node, context, reduced):
            if b < len(live) and live[b].size == demand[a].size:
                demand[a] = live[b]
        if self._skips_zeros(node, context):
            for axis in reduced:
                uniform, value = free_slices(x, axis, context)
                kept = state.kept((x, axis))
                if uniform.size == demand[axis].size == kept.size:
                    demand[axis] = demand[axis] & ~(uniform & (value == 0) & ~kept)
        return {0: demand, **({1: None} if node.input(1) else {})}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        x, context = node.inputs[0], cut.context
        kept = {axis: cut.indices(x, axis) for axis in sorted(self.axes(node, context) or ())}
        left = {axis: indices for axis, indices in kept.items() if indices is not None}
        if node.op not in COMPLETED or not left:
            return Rewrite()
        if node.op == "ReduceMean":
            operand = math.prod(indices.size / (context.size(x, axis) or 1) for axis, indices in left.items())
        elif self._reaches_zero(node, context, left):
            return Rewrite()
        else:
            operand = 0.0
        return Rewrite(behind=(COMPLETED[node.op][0], np.asarray(operand, context.graph.dtypes[x]), {}))

    @staticmethod
    def _reaches_zero(node: Node, context: Context, left: dict[int, np.ndarray]) -> bool:
        """Whether one of the slices that stay is known to be no smaller (ReduceMax) or no larger than zero."""
        fact = context.fact(node.inputs[0])
        if fact is None:
            return False
        low, high = fact.bounds()
        reached = low >= 0 if node.op == "ReduceMax" else high <= 0
        for axis, indices in left.items():
            reached = reached if reached.shape[axis] == 1 else reached.take(indices, axis)
        others = tuple(axis for axis in range(reached.ndim) if axis not in left)
        return bool(reached.all(axis=others).any())


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
