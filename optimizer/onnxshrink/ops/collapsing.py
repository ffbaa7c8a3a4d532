"""Elementwise nodes that lose an operand: one that is known everywhere can leave the graph, and a node whose constant
became neutral repeats its other operand.
"""

from __future__ import annotations

from ..graph.view import Node
from .broadcast import Broadcast, PRelu, alike
from .rule import Context, Cut, Rewrite, rule_for


def collapsible(node: Node, context: Context) -> dict[int, bool]:
    """Operands of a broadcasting node that are known everywhere and computed from the graph's inputs.

    Such a branch is a constant addend, factor or the like: it can leave the graph where another operand provably
    has the output's full shape, or where it takes that shape itself because all operands are known.

    Returns:
        For each of them, whether it has to have the output's full shape.
    """
    rule = rule_for(node)
    if not isinstance(rule, Broadcast) or rule.count is not None or len(node.inputs) < 2:
        return {}
    if not context.graph.is_float(node.outputs[0]):
        return {}
    shape = context.shape(node.outputs[0])
    if shape is None:
        return {}

    data = [i for i, name in enumerate(node.inputs) if name]
    sizes = [context.shape(name) for name in node.inputs]
    found: dict[int, bool] = {}
    facts = [context.fact(name) for name in node.inputs]
    known = [i for i in data if (fact := facts[i]) is not None and fact.all_known]
    rest = [i for i in known if node.inputs[i] not in context.graph.constants]
    for index in rest:
        fact = facts[index]
        if isinstance(rule, PRelu) and index == 0:
            continue
        if fact is not None and any(alike(sizes[i], shape) for i in data if i != index):
            found[index] = False
            sizes[index] = fact.value.shape
    left_over = [i for i in rest if i not in found]
    if known == data and left_over:
        found |= {index: index == left_over[0] for index in left_over}
    return found


def identity_operand(node: Node, cut: Cut) -> int | None:
    """The input that the node merely repeats, because the other one is a neutral constant and adds no shape."""
    neutral = {"Add": 0.0, "Sum": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0}.get(node.op)
    present = [i for i, name in enumerate(node.inputs) if name]
    if neutral is None or len(present) != 2:
        return None
    shape = cut.context.shape(node.outputs[0])
    constants = cut.context.graph.constants
    for index, other in (present, present[::-1]):
        if node.op in ("Sub", "Div") and other == 0:
            continue
        name = node.inputs[other]
        own = cut.context.shape(node.inputs[index])
        if name in constants and alike(own, shape) and bool((cut.weight(name) == neutral).all()):
            return index
    return None


def rewrite_collapsed(node: Node, cut: Cut) -> Rewrite:
    """A node whose constant operand became neutral is bypassed."""
    operand = identity_operand(node, cut)
    return Rewrite() if operand is None else Rewrite(bypass=operand)
