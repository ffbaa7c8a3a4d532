"""What is finite, and the tests for it: IsNaN and IsInf.

Exporters guard an attention's Softmax with Where(IsNaN(p), 0, p): a row whose mask is minus infinity throughout is all
NaN. Where no mask reaches the scores the test is known to fail, and the guard does nothing.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node, is_float
from .broadcast import Broadcast
from .contraction import Contraction
from .fact import Fact, constant
from .rule import Context, register, rule_for

BOUNDED = {"Sigmoid", "Tanh", "Erf", "Sin", "Cos", "Softsign", "HardSigmoid"}
ATTENTIONS = {"Attention", "MultiHeadAttention", "GroupQueryAttention"}
EXACT = {"Add", "Sub", "Mul", "Neg", "Relu", "Abs", "Softmax", "LayerNormalization"}
MOVEMENTS = {
    "Reshape",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Flatten",
    "Identity",
    "Slice",
    "Split",
    "Expand",
    "Gather",
}


def finite(tensor: str, context: Context) -> bool:
    """Whether a tensor is finite wherever activations are (docs/exactness.md).

    An activation is what a contraction or an attention writes. Constants are looked at, and what is computed from
    finite tensors by operators without poles is finite; a graph's input may be a mask that holds minus infinity, and
    so may a Where.
    """
    known: set[str] = context.cached("finite", set)
    seen, waiting = {tensor}, [tensor]
    while waiting:
        needed = _finite_if(waiting.pop(), context)
        if needed is None:
            return False
        new = {name for name in needed if name not in seen and name not in known}
        seen |= new
        waiting += new
    known |= seen
    return True


def _finite_if(tensor: str, context: Context) -> list[str] | None:
    """The tensors that must be finite for this one to be; None where it may be anything."""
    fact = context.fact(tensor)
    if fact is not None and fact.all_known:
        sound = not is_float(fact.value.dtype) or bool(np.isfinite(fact.value.astype(np.float64)).all())
        return [] if sound else None
    node = context.graph.producer.get(tensor)
    if node is None or node.movement is not None:
        return None
    if isinstance(rule_for(node), Contraction) or node.op in ATTENTIONS:
        return []
    if node.domain:
        return None
    if node.op in BOUNDED:
        return []
    if node.op == "Div":
        divisor = context.array(node.inputs[1])
        return [node.inputs[0]] if divisor is not None and bool((divisor != 0).all()) else None
    if node.op in MOVEMENTS:
        return [node.inputs[0]]
    return [name for name in node.inputs if name] if node.op in EXACT else None


class FiniteTest(Broadcast):
    """IsNaN and IsInf: false where the operand is finite."""

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        rank = context.rank(node.inputs[0])
        if rank is not None and finite(node.inputs[0], context):
            return [constant(np.zeros((1,) * rank, bool))]
        return super().facts(node, context)


register(FiniteTest(), "IsNaN", "IsInf")


def sums_to_one(tensor: str, context: Context) -> bool:
    """Whether every row along the last axis has the sum one: what Softmax writes, behind a guard or not."""
    node, rank = context.graph.producer.get(tensor), context.rank(tensor)
    if node is None or node.domain or rank is None or node.movement is not None:
        return False
    if node.op in ("Softmax", "Hardmax"):
        return int(node.attr("axis", 1 if context.opset < 13 else -1)) % rank == rank - 1
    if node.op == "Identity" or (node.op == "Dropout" and not node.input(2) and not node.attr("training_mode", 0)):
        return sums_to_one(node.inputs[0], context)
    if node.op == "Cast":
        return context.graph.is_float(tensor) and sums_to_one(node.inputs[0], context)
    if node.op == "Where":
        condition = context.fact(node.inputs[0])
        if (
            condition is None
            or not condition.all_known
            or condition.value.any()
            or context.rank(node.inputs[2]) != rank
        ):
            return False
        return sums_to_one(node.inputs[2], context)
    return False
