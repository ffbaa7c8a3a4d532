"""Where branches disagree: channels that one operand of a sum, or one reader of a tensor, holds alone.

A sum keeps the union of its operands' live channels. What each of them holds alone is what to feed back into
training: with that branch's mask changed, these channels go from the whole stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from ..graph.view import Node
from ..ops.broadcast import Broadcast
from ..ops.contraction import Contraction
from ..ops.rule import free_slices
from ..ops.tie import Port, Same
from .analysis import Analysis
from .solve import OUTPUT, PIN

ADDENDS = {"Add", "Sum", "Sub"}


@dataclass(frozen=True)
class Branch:
    """One operand of a sum, or one reader of a tensor.

    Attributes:
        name: the operand's tensor, or the reader's label.
        layers: the layers that make the operand live, nearest first; none for a reader.
        free: slices that stay although this branch does without them.
        alone: slices that stay for this branch only.
    """

    name: str
    layers: tuple[str, ...]
    free: int
    alone: int


@dataclass(frozen=True)
class Disagreement:
    """Slices that some branches do without and others hold.

    Attributes:
        kind: "sum": the branches are operands of the node `where`; "readers": they read the tensor `where`.
        slices: length of the axis.
        stay: how many of them stay.
        branches: in the order of the operands, or of the graph.
    """

    kind: Literal["sum", "readers"]
    where: str
    axis: int
    slices: int
    stay: int
    branches: tuple[Branch, ...]

    @property
    def alone(self) -> int:
        """Slices that would go if whoever holds them alone gave them up."""
        return sum(branch.alone for branch in self.branches)


def find_disagreements(analysis: Analysis) -> list[Disagreement]:
    """All sums and all tensors with several readers where a branch holds slices alone."""
    graph, solution = analysis.context.graph, analysis.solution
    found = [d for node in graph.nodes if solution.active(node) for d in _of_sum(node, analysis)]
    for tensor in graph.consumers:
        if tensor not in graph.constant_only and solution.needed(tensor):
            found += _of_readers(tensor, analysis)
    return [d for d in found if d.alone]


def _of_sum(node: Node, analysis: Analysis) -> list[Disagreement]:
    context, solution = analysis.context, analysis.solution
    rule = context.rule(node)
    if node.op not in ADDENDS or not isinstance(rule, Broadcast):
        return []
    out = node.outputs[0]
    rank = context.rank(out) or 0
    found = []
    for axis in range(1, rank):
        size = context.size(out, axis)
        operands = [
            name
            for name in node.inputs
            if name and name not in context.graph.constant_only and context.size(name, axis - rank) == size
        ]
        if size is None or size < 2 or len(operands) < 2:
            continue
        holdable = solution.kept((out, axis)) & ~_pinned((out, axis), analysis)
        ports = [(name, axis - rank + (context.rank(name) or 0)) for name in operands]
        needs = [~free_slices(*port, context)[0] & holdable for port in ports]
        alone = _alone(needs)
        branches = tuple(
            Branch(port[0], _layers(port, own, analysis), int((holdable & ~mask).sum()), int(own.sum()))
            for port, mask, own in zip(ports, needs, alone, strict=True)
        )
        found.append(Disagreement("sum", node.label, axis, size, int(solution.kept((out, axis)).sum()), branches))
    return found


def _of_readers(tensor: str, analysis: Analysis) -> list[Disagreement]:
    context, solution = analysis.context, analysis.solution
    readers = [node for node, _ in context.graph.consumers[tensor] if solution.active(node)]
    ports = [
        rule.absorbing_port(node, context) for node in readers if isinstance(rule := context.rule(node), Contraction)
    ]
    found = []
    for axis in range(1, context.rank(tensor) or 0):
        size, port = context.size(tensor, axis), (tensor, axis)
        if size is None or size < 2 or len(readers) < 2 or port not in ports:
            continue
        holdable = solution.kept(port) & ~_pinned(port, analysis)
        needs = [_demanded(node, port, analysis) & holdable for node in readers]
        branches = tuple(
            Branch(node.label, (), int((holdable & ~mask).sum()), int(own.sum()))
            for node, mask, own in zip(readers, needs, _alone(needs), strict=True)
        )
        found.append(Disagreement("readers", tensor, axis, size, int(solution.kept(port).sum()), branches))
    return found


def _demanded(node: Node, port: Port, analysis: Analysis) -> np.ndarray:
    """Slices of a tensor that a reader needs, or that it passes on to somebody who does."""
    context, solution = analysis.context, analysis.solution
    tensor, axis = port
    size = context.size(tensor, axis) or 1
    total = np.zeros(size, bool)
    demands = context.rule(node).reads(node, context, solution)
    for index, name in enumerate(node.inputs):
        if name == tensor and index in demands:
            demand = demands[index]
            total |= np.ones(size, bool) if demand is None else demand[axis]
    for tie in solution.ties[node.index]:
        if isinstance(tie, Same) and port in tie.ports:  # passed on: what the other side keeps
            other = tie.b if tie.a == port else tie.a
            if other[0] in node.outputs:
                kept = solution.kept(other)
                if tie.index is None:
                    total |= kept
                elif tie.a == port:
                    total[tie.index[kept]] = True
                else:
                    total |= kept[tie.index]
    if node.captured and tensor in node.captured:
        total[:] = True
    return total


def _alone(needs: list[np.ndarray]) -> list[np.ndarray]:
    """For each branch the slices that it alone needs."""
    once = np.sum(needs, axis=0) == 1
    return [mask & once for mask in needs]


def _pinned(port: Port, analysis: Analysis) -> np.ndarray:
    """Slices that an operator or the graph's interface holds wherever the same channels go: no agreement frees them."""
    solution = analysis.solution
    size = analysis.context.size(*port) or 1
    pinned = np.zeros(size, bool)
    for other, place in _stream(port, analysis):
        cause = solution.cause.get(other)
        if cause is not None:
            there = place >= 0
            pinned[there] |= np.isin(cause[place[there], 0], (PIN, OUTPUT))
    return pinned


def _stream(port: Port, analysis: Analysis) -> list[tuple[Port, np.ndarray]]:
    """The ports that stand or fall with a port, with the position of each of its slices in them (-1: none)."""
    return analysis.context.cached((port, "stream"), lambda: _walk(port, analysis))


def _walk(port: Port, analysis: Analysis) -> list[tuple[Port, np.ndarray]]:
    graph, solution = analysis.context.graph, analysis.solution
    seen = {port: np.arange(analysis.context.size(*port) or 1)}
    queue = [port]
    for current in queue:
        place = seen[current]
        nodes = {node.index for node, _ in graph.consumers.get(current[0], ())}
        producer = graph.producer.get(current[0])
        nodes |= {producer.index} if producer is not None else set()
        for index in sorted(nodes):
            if not solution.active(graph.nodes[index]):
                continue
            for tie in solution.ties[index]:
                if not isinstance(tie, Same) or current not in tie.ports or tie.a == tie.b:
                    continue
                other = tie.b if tie.a == current else tie.a
                if other in seen:
                    continue
                seen[other] = _moved(tie, current, place, solution.kept(other).size)
                queue.append(other)
    return list(seen.items())


def _moved(tie: Same, source: Port, place: np.ndarray, size: int) -> np.ndarray:
    """Positions on the other side of a tie."""
    if tie.index is None:
        return place
    if source == tie.b:
        return np.where(place >= 0, tie.index[np.maximum(place, 0)], -1)
    back = np.full(int(max(tie.index.max(initial=-1), place.max(initial=-1))) + 1, -1)
    back[tie.index] = np.arange(size)
    return np.where(place >= 0, back[np.maximum(place, 0)], -1)


def _layers(port: Port, mask: np.ndarray, analysis: Analysis) -> tuple[str, ...]:
    """Layers behind an operand whose channels under `mask` depend on the input, nearest first."""
    context, solution = analysis.context, analysis.solution
    graph = context.graph
    seen, queue, found = {port[0]}, [(port, mask)], []
    while queue:
        (tensor, axis), wanted = queue.pop(0)
        node = graph.producer.get(tensor)
        if node is None:
            continue
        if context.channels(node) is not None:
            found.append(node.label)
            continue
        for tie in solution.ties[node.index]:
            if not isinstance(tie, Same) or tie.index is not None or (tensor, axis) not in tie.ports:
                continue
            other = tie.b if tie.a == (tensor, axis) else tie.a
            if other[0] not in node.inputs or other[0] in seen or other[0] in graph.constant_only:
                continue
            live = wanted & ~free_slices(*other, context)[0]
            if live.any():
                seen.add(other[0])
                queue.append((other, live))
    return tuple(found)
