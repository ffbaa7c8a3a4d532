"""Operators that jump: comparisons, roundings to whole numbers, the sign.

A known value is what the reference implementation computes; another one rounds elsewhere. A result that this may
decide, of operands closer to the jump than rounding, is not known. Operands on the jump itself are taken as exact: a
zero is zero everywhere.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph.view import Node, is_float
from .broadcast import Broadcast
from .fact import Fact, collapse
from .rule import Context, register

NEAR, NEAR_HALF = 1e-5, 2e-2
"""How near, relative to the operands and at least to one, because terms of a sum may cancel: a hundred times the
rounding of float32; ten times that of types of 16 bits."""


def decided_by_rounding(distance: np.ndarray, *operands: np.ndarray) -> np.ndarray:
    """Where operands are beside a jump, not on it, and as near as rounding.

    Args:
        distance: to the jump, at least 0.
        operands: floats of any type, broadcastable to it.
    """
    size = np.ones(())
    for operand in operands:
        size = np.maximum(size, np.abs(operand.astype(np.float64)))
    near = NEAR_HALF if any(operand.dtype.itemsize <= 2 for operand in operands) else NEAR
    return np.asarray((distance > 0) & (distance <= near * size))


def to_whole(value: np.ndarray) -> np.ndarray:
    """The distance to the nearest whole number."""
    return np.asarray(np.abs(value - np.rint(value)))


class Jump(Broadcast):
    """Elementwise; what rounding may decide is not known.

    `distance`: of operands in float64 to the jump.
    """

    def __init__(self, distance: Callable[..., np.ndarray]):
        super().__init__()
        self.distance = distance

    def evaluable(self, node: Node, context: Context) -> bool:
        return not context.graph.is_float(node.inputs[0])

    def combined(self, node: Node, inputs: list[Fact | None], dtype: np.dtype | None, opset: int) -> Fact | None:
        fact = super().combined(node, inputs, dtype, opset)
        operands = [f.value for f in inputs if f is not None and is_float(f.value.dtype)]
        if fact is None or len(operands) < len(inputs):
            return fact
        with np.errstate(all="ignore"):
            distance = self.distance(*(operand.astype(np.float64) for operand in operands))
            return collapse(fact.but(decided_by_rounding(distance, *operands)))


register(Jump(lambda one, other: np.abs(one - other)), "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual")
register(Jump(to_whole), "Floor", "Ceil")
register(Jump(lambda value: np.abs(value - np.floor(value) - 0.5)), "Round")
register(Jump(np.abs), "Sign")
