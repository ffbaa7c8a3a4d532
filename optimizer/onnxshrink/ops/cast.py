"""Cast: known where every implementation gives the same."""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .broadcast import Broadcast
from .fact import Fact, collapse, constant, unknown
from .jumps import decided_by_rounding, to_whole
from .rule import Context, Demand, State, register
from .tie import Same, Tie


class Cast(Broadcast):
    """Cast: elementwise; bounds pass to floats, with room for the rounding of the narrowest."""

    def evaluable(self, node: Node, context: Context) -> bool:
        return not context.graph.is_float(node.inputs[0])

    def operand(self, node: Node, index: int, rank: int, context: Context) -> Fact | None:
        if index == 0:
            return super().operand(node, index, rank, context)
        dtype = context.graph.dtypes.get(node.inputs[index])  # all that CastLike takes from its second input
        return None if dtype is None else constant(np.zeros((1,) * rank, dtype))

    def ties(self, node: Node, context: Context) -> list[Tie]:
        like = node.input(1)
        axes = range(context.rank(like) or 0) if like else ()
        return [*super().ties(node, context), *(Same((like, a), (like, a)) for a in axes)]  # it may lose any slice

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        demands = super().reads(node, context, state)
        demands.pop(1, None)
        return demands

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        facts = super().facts(node, context)
        source, fact = context.fact(node.inputs[0]), facts[0]
        if source is None:
            return facts
        if fact is not None and source.rank == fact.rank:
            facts = [fact := collapse(fact.but(~_agreed(source.value, fact.value)))]
        dtype = context.graph.dtypes.get(node.outputs[0])
        if source.low is None or source.high is None or dtype is None or dtype.name not in WIDE:
            return facts
        low, high = source.low - 1e-2 * np.abs(source.low), source.high + 1e-2 * np.abs(source.high)
        base = fact or unknown(source.rank, dtype)
        return [collapse(Fact(base.value, base.known, low, high))]


WIDE = ("float16", "bfloat16", "float32", "float64")
"""Floats that every implementation rounds to in the same way, to one part in a hundred at least."""


def _agreed(source: np.ndarray, result: np.ndarray) -> np.ndarray:
    """Where all implementations of Cast agree: floats out of an integer's range, and fractions cast to integers of
    four bits or floats of eight, are left to each of them, and so is what rounding before the Cast decides.
    """
    if result.dtype.name in WIDE or (source.dtype.kind in "iub" and result.dtype.kind in "iub"):
        return np.ones((1,) * result.ndim, bool)
    with np.errstate(all="ignore"):
        before, after = source.astype(np.float64), result.astype(np.float64)
        if result.dtype.kind == "b":
            return ~decided_by_rounding(np.abs(before), source)
        if result.dtype.kind in "iu":
            return (after == np.trunc(before)) & ~decided_by_rounding(to_whole(before), source)
    return np.asarray(after == before)


register(Cast(operands=1), "Cast", "CastLike")
