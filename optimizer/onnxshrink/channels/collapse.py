"""Branches of one known value leave the graph: an operand that is known everywhere becomes a constant of its own, and
so does an output of the graph.

This is a lowering between facts and planning: the edge is pointed at a new constant, and what computed it dies by
itself if nobody else reads it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph.view import Shape
from ..ops.collapsing import collapsible
from ..ops.fact import Fact, constant
from ..ops.rule import Context

MAX_ELEMENTS = 1 << 16


def collapse_branches(context: Context) -> set[str]:
    """Replace operands of broadcasting nodes that are known everywhere, and nodes that give a known output of the
    graph, in place in `context.graph`.

    Returns:
        Tensor ids of the new constants.
    """
    graph = context.graph
    constant_only = graph.constant_only
    replaced: set[str] = set()
    for node in graph.nodes:
        inputs = list(node.inputs)
        for index, full in collapsible(node, context).items():
            name = node.inputs[index]
            fact = _stretched(context.fact(name), context.shape(node.outputs[0])) if full else context.fact(name)
            if fact is None or name in constant_only or fact.value.size > MAX_ELEMENTS:
                if full:  # then no operand gives the output its shape
                    break
                continue
            inputs[index] = _constant(context, name, node.index, index, fact)
            replaced.add(inputs[index])
        if tuple(inputs) != node.inputs:
            graph.nodes[node.index] = replace(node, inputs=tuple(inputs))
    for name in graph.outputs:
        if name not in constant_only and (fact := _known_output(name, context)) is not None:
            replaced |= _collapse_output(name, fact, context)
    if replaced:
        graph.forget_wiring()
    return replaced


def _collapse_output(name: str, fact: Fact, context: Context) -> set[str]:
    """Let a known output of the graph be a constant; the new constants."""
    graph = context.graph
    giver = graph.producer[name]
    whole = _stretched(fact, context.shape(name))
    spread = whole is not None and whole.value.size > fact.value.size + fact.rank
    inputs = [_constant(context, name, giver.index, 0, fact if spread or whole is None else whole)]
    if spread and whole is not None:  # smaller than the value at its full shape
        times = np.array(whole.value.shape, np.int64) // np.array(fact.value.shape, np.int64)
        inputs.append(_constant(context, name, giver.index, 1, constant(times)))
    op = "Tile" if spread else "Identity"
    graph.nodes[giver.index] = replace(
        giver, op=op, domain="", inputs=tuple(inputs), outputs=(name,), captured=(), movement=None, chain=()
    )
    return set(inputs)


def _stretched(fact: Fact | None, shape: Shape | None) -> Fact | None:
    """The fact of a tensor that is broadcast to a shape, at that shape; None where it is not known."""
    if fact is None or shape is None or fact.rank > len(shape):
        return None
    return fact.map(lambda a: a.reshape((1,) * (len(shape) - a.ndim) + a.shape)).expand(shape)


def _constant(context: Context, name: str, node: int, index: int, fact: Fact) -> str:
    """A new constant that holds what is known of a tensor, and zeros elsewhere, for one reader."""
    graph, value = context.graph, np.array(fact.value)
    new = graph.edge(f"{name}@known", node, index)
    graph.constants[new] = value
    graph.source[new] = f"{name}@known"
    graph.shapes[new] = tuple(int(d) for d in value.shape)
    graph.dtypes[new] = value.dtype
    context.facts[new] = constant(value)
    return new


def _known_output(name: str, context: Context) -> Fact | None:
    """What is known of an output of the graph, where that can stand for the node that gives it."""
    node, fact, shape = context.graph.producer.get(name), context.fact(name), context.shape(name)
    if node is None or fact is None or shape is None or not fact.all_known or not context.graph.is_float(name):
        return None
    if context.rule(node).family == "shape" and any(
        not context.graph.is_float(n) and context.array(n) is None for n in node.inputs if n
    ):
        return None  # an input's values say how long its axes are; the declaration is one example
    others = {o for o in node.outputs if o and o != name}
    if others and not others.isdisjoint(context.graph.leading_to_outputs()):
        return None
    full = fact.expand(shape)
    return fact if full is not None and full.value.size <= MAX_ELEMENTS else None
