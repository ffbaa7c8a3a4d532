"""Branches of one known value leave the graph: an operand that is known everywhere becomes a constant of its own.

This is a lowering between facts and planning: the edge is pointed at a new constant, and what computed it dies by
itself if nobody else reads it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..graph.view import edge
from ..ops.broadcast import collapsible
from ..ops.rule import Context

MAX_ELEMENTS = 1 << 16


def collapse_branches(context: Context) -> dict[str, str]:
    """Replace operands of broadcasting nodes that are known everywhere, in place in `context.graph`.

    Returns:
        For each new constant's tensor id, the tensor that it replaces.
    """
    graph = context.graph
    constant_only = graph.constant_only
    replaced: dict[str, str] = {}
    for node in graph.nodes:
        inputs = list(node.inputs)
        for index in collapsible(node, context):
            name = node.inputs[index]
            fact = context.fact(name)
            if fact is None or name in constant_only or fact.value.size > MAX_ELEMENTS:
                continue
            new = edge(f"{name}@known", node.index, index)
            value = np.array(fact.value)
            graph.constants[new] = value
            graph.source[new] = f"{name}@known"
            graph.shapes[new] = tuple(int(d) for d in value.shape)
            graph.dtypes[new] = value.dtype
            context.facts[new] = fact
            inputs[index] = new
            replaced[new] = name
        if tuple(inputs) != node.inputs:
            graph.nodes[node.index] = replace(node, inputs=tuple(inputs))
    if replaced:
        graph.forget_wiring()
    return replaced
