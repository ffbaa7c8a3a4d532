"""Why channels that carry nothing stay: the node that holds them, and which operand disagrees.

The knowledge about a channel is followed forward, to the node where it ends.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.view import Node
from ..ops.broadcast import Broadcast
from ..ops.contraction import Contraction
from ..ops.rule import free_slices, rule_for
from ..ops.tie import Port, Same
from .analysis import Analysis
from .solve import CHOICE, READ


@dataclass(frozen=True)
class Stay:
    """Channels of a layer that carry nothing themselves but stay, and what holds them."""

    layer: str
    holder: str
    axis: int
    slices: tuple[int, ...]
    reason: str


def find_stays(analysis: Analysis) -> list[Stay]:
    """Slices that carry nothing but stay, grouped by the node that holds them."""
    solution, context = analysis.solution, analysis.context
    stays: list[Stay] = []
    for node in context.graph.nodes:
        channels = context.channels(node) if solution.active(node) else None
        if channels is None:
            continue
        port = (node.outputs[0], channels.axis)
        kept = solution.kept(port)
        uniform, _ = free_slices(*port, context)
        idle = kept & (uniform | ~solution.live(node.outputs[0])[channels.axis])
        held = context.rule(node).held(node, context, solution)
        groups: dict[tuple[str, int, str], list[int]] = {}
        for index in sorted({*(int(i) for i in np.flatnonzero(idle)), *held}):
            found = (node.label, port[1], held[index]) if index in held else _holder(port, index, analysis)
            groups.setdefault(found, []).append(index)
        for (holder, where, reason), slices in groups.items():
            stays.append(Stay(node.label, holder, where, tuple(slices), reason))
    return stays


def _holder(port: Port, index: int, analysis: Analysis) -> tuple[str, int, str]:
    """Where the knowledge about a slice ends, followed forward: (node, axis, reason)."""
    solution, context = analysis.solution, analysis.context
    graph = context.graph
    aligned = analysis.aligned.get(port)
    if aligned is not None and aligned[index]:
        return "alignment", port[1], f"kept so that the channel count is a multiple of {analysis.options.align}"
    seen = {(port, index)}
    queue = [(port, index)]
    fallback: tuple[str, int, str] | None = None
    while queue:
        (tensor, axis), place = queue.pop(0)
        if tensor in graph.outputs:
            return f"output `{tensor}`", axis, "the graph's output keeps its shape"
        for node, where in graph.consumers.get(tensor, ()):
            if where < 0:
                return node.label, axis, "read inside a body"
            if not solution.active(node):
                continue
            onward = _onward(node, (tensor, axis), place, analysis)
            if not onward:
                rule = context.rule(node)
                if rule.barrier:
                    fallback = fallback or (node.label, axis, f"axis {axis} is pinned: {rule.reason}")
                elif not isinstance(rule, Contraction) and not any(
                    (tensor, axis) in t.ports for t in solution.ties[node.index]
                ):
                    fallback = fallback or (node.label, axis, f"axis {axis} is pinned by {node.op}")
                elif solution.cause.get((tensor, axis)) is not None:
                    fallback = fallback or (node.label, axis, _choice((tensor, axis), place, analysis))
                continue
            for other, there in onward:
                known = free_slices(*other, context)[0][there]
                live = solution.live(other[0])[other[1]][there]
                if live and not known:
                    return node.label, other[1], _agreement(node, tensor, other, there, analysis)
                if (other, there) not in seen:
                    seen.add((other, there))
                    queue.append((other, there))
    return fallback or ("-", port[1], _choice(port, index, analysis))


def _choice(port: Port, index: int, analysis: Analysis) -> str:
    cause = analysis.solution.cause.get(port)
    why = int(cause[index, 0]) if cause is not None else -1
    if why == CHOICE:
        return "one channel must stay (carrier of a known value, a group's fill, or an operator needs one)"
    if why == READ and cause is not None and cause[index, 1] >= 0:
        reader = analysis.context.graph.nodes[int(cause[index, 1])]
        if isinstance(rule_for(reader), Contraction) and free_slices(*port, analysis.context)[0][index]:
            return f"known but not zero, and the weight of {reader.label}, of integers or computed, takes up nothing"
        return f"read by {reader.label}"
    return "tied to channels that are needed"


def _onward(node: Node, port: Port, index: int, analysis: Analysis) -> list[tuple[Port, int]]:
    """The output slices of a node that are the given input slice's own."""
    found = []
    for tie in analysis.solution.ties[node.index]:
        if not isinstance(tie, Same):
            continue
        if tie.a == port and tie.b[0] in node.outputs:
            where = [index] if tie.index is None else np.flatnonzero(tie.index == index)
            found += [(tie.b, int(i)) for i in where]
        elif tie.b == port and tie.a[0] in node.outputs:
            found.append((tie.a, index if tie.index is None else int(tie.index[index])))
    return found


def _agreement(node: Node, tensor: str, out: Port, index: int, analysis: Analysis) -> str:
    """Which other operand keeps the slice from going."""
    context = analysis.context
    if not isinstance(rule_for(node), Broadcast):
        return f"{node.op} makes it depend on the input"
    rank = context.rank(out[0]) or 0
    others = []
    for name in node.inputs:
        if not name or name == tensor:
            continue
        own = context.rank(name) or 0
        axis = out[1] - (rank - own)
        if axis < 0:
            continue
        known = free_slices(name, axis, context)[0]
        if not (known[index] if known.size > index else known.all()):
            others.append(name)
    if others:
        return "live in " + ", ".join(f"`{name}`" for name in others)
    return f"{node.op} gives a value that is not known"
