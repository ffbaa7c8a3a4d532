"""Coupling classes: which slices stand or fall together, read off the ties that the solver uses.

Two slices are coupled when a tie of an active node keeps one with the other: the channels of all producers of a
residual sum, the channels in front of and behind a depthwise convolution, the rows and columns of an attention head.
A *unit* is one connected component of coupled slices; units that touch the same axes in the same way are a *class*.
What the graph's interface, an unknown operator or a reader of everything holds is in no class.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ..channels.solve import Solution
from ..graph.view import Node, is_float
from ..ops.contraction import Contraction
from ..ops.conv import Convolution
from ..ops.matmul import Multiplication
from ..ops.rule import Context, Demand
from ..ops.tie import EqualPerGroup, Grid, Port, Same, Tie

MAX_WORK = 1 << 28
"""Elements to look at for one tie; what a larger one ties is held rather than understood."""


@dataclass(frozen=True, eq=False)
class CouplingClass:
    """Units that touch the same axes in the same way.

    Attributes:
        name: the label of the first layer that produces the class.
        slices: for each port the slices of each unit, [units, slices of a unit].
        producers: layers whose outputs are the class, in graph order.
        consumers: layers that read it, with the port that they sum over.
    """

    name: str
    slices: dict[Port, np.ndarray]
    producers: tuple[Node, ...]
    consumers: tuple[tuple[Node, Port], ...]

    @property
    def units(self) -> int:
        return len(next(iter(self.slices.values())))


def find_classes(solution: Solution) -> list[CouplingClass]:
    """The coupling classes of what a solution keeps, in graph order.

    A class has a producer and a consumer that are convolutions or products with a constant floating-point weight.
    """
    coupling = _Coupling(solution)
    return [found for slices in coupling.classes() if (found := _class(slices, solution)) is not None]


def layer(node: Node, context: Context) -> Convolution | Multiplication | None:
    """The rule of a layer that pruning understands: a constant floating-point weight with one axis for each role."""
    rule = context.rule(node)
    if not isinstance(rule, Convolution | Multiplication) or len(node.inputs) < 2:
        return None
    weight = context.graph.constants.get(node.inputs[1])
    if weight is None or not is_float(weight.dtype) or rule.absorbing_port(node, context) is None:
        return None
    return rule if isinstance(rule, Convolution) or weight.ndim == 2 else None


def depthwise(node: Node, context: Context) -> bool:
    """Whether a layer is a convolution whose groups have one channel on a side, so that a group goes whole."""
    groups = int(node.attr("group", 1)) if isinstance(context.rule(node), Convolution) else 1
    sizes = [context.size(name, 1) for name in (node.inputs[0], node.outputs[0])]
    return groups > 1 and groups in sizes


def output_port(node: Node, context: Context) -> Port:
    """The port of a layer's output channels."""
    channels = context.channels(node)
    assert channels is not None
    return (node.outputs[0], channels.axis)


def _class(slices: dict[Port, np.ndarray], solution: Solution) -> CouplingClass | None:
    context = solution.context
    producers, consumers = [], []
    for node in context.graph.nodes:
        rule = layer(node, context) if solution.active(node) else None
        if rule is None:
            continue
        read = rule.absorbing_port(node, context)
        if output_port(node, context) in slices and not depthwise(node, context):
            producers.append(node)
        if read in slices and not depthwise(node, context):
            consumers.append((node, read))
    if not producers or not consumers:
        return None
    return CouplingClass(producers[0].label, slices, tuple(producers), tuple(consumers))


class _Coupling:
    """Labels of slices: equal for slices that are coupled, 0 for what is held."""

    def __init__(self, solution: Solution):
        self.solution, self.context = solution, solution.context
        graph = self.context.graph
        self.nodes = [node for node in graph.nodes if solution.active(node)]
        self.ties: list[Tie] = [tie for node in self.nodes for tie in solution.ties[node.index]]
        self.start: dict[Port, int] = {}
        total = 1  # number 0 stands for what is held
        for port in dict.fromkeys(port for tie in self.ties for port in tie.ports):
            self.start[port] = total
            total += solution.kept(port).size
        self.label = np.arange(total)
        same = [edge for tie in self.ties if isinstance(tie, Same) for edge in self._of_tie(tie)]
        self._connect([*self._pins(), *same])
        for tie in self.ties:
            if isinstance(tie, Grid):
                self._choose(tie)
        self._connect([edge for tie in self.ties if not isinstance(tie, Same) for edge in self._of_tie(tie)])
        while self._hold_reads():
            pass

    def numbers(self, port: Port) -> np.ndarray:
        return self.start[port] + np.arange(self.solution.kept(port).size)

    def held(self, port: Port) -> np.ndarray:
        """Slices that stay whatever is zeroed."""
        if port not in self.start:
            return np.ones(self.solution.kept(port).size, bool)
        return self.label[self.numbers(port)] == self.label[0]

    def classes(self) -> Iterator[dict[Port, np.ndarray]]:
        """For each class the slices of its units, [units, slices of a unit] for each port."""
        members: dict[int, dict[Port, list[int]]] = {}
        for port in self.start:
            kept = self.solution.kept(port)
            for index in np.flatnonzero(kept & ~self.held(port)):
                unit = int(self.label[self.start[port] + index])
                members.setdefault(unit, {}).setdefault(port, []).append(int(index))
        classes: dict[tuple[tuple[Port, int], ...], list[dict[Port, list[int]]]] = {}
        for touched in members.values():
            classes.setdefault(tuple((port, len(where)) for port, where in touched.items()), []).append(touched)
        for shape, units in classes.items():
            yield {port: np.array([one[port] for one in units]) for port, _ in shape}

    # what couples

    def _connect(self, edges: list[tuple[np.ndarray, np.ndarray]]) -> None:
        """Give both ends of every edge the smaller label, until nothing changes."""
        if not edges:
            return
        one, other = (np.concatenate([edge[k] for edge in edges]) for k in (0, 1))
        label = self.label
        while True:
            a, b = label[one], label[other]
            if (a == b).all():
                break
            np.minimum.at(label, np.maximum(a, b), np.minimum(a, b))
            while (label[label] != label).any():
                label = label[label]
        self.label = label

    def _hold(self, port: Port, mask: np.ndarray) -> None:
        self._connect([(np.zeros(int(mask.sum()), int), self.numbers(port)[mask])])

    def _pins(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Interface, axes of unknown length, axes that an active node does not mention in its ties."""
        graph = self.context.graph
        outside = set(graph.inputs) | set(graph.outputs)
        outside |= {name for node in self.nodes for name in node.captured}
        pinned = {port for port in self.start if port[0] in outside or not self.context.size(*port)}
        for node in self.nodes:
            mentioned = self.solution.mentioned(node)
            names = {name for name in (*node.inputs, *node.outputs) if name}
            pinned |= {port for port in self.start if port[0] in names and port not in mentioned}
        for port in pinned:
            numbers = self.numbers(port)
            yield np.zeros_like(numbers), numbers

    def _of_tie(self, tie: Tie) -> list[tuple[np.ndarray, np.ndarray]]:
        if isinstance(tie, Same):
            a, b = self.numbers(tie.a), self.numbers(tie.b)
            return [(a if tie.index is None else a[tie.index], b)]
        found = []
        if isinstance(tie, EqualPerGroup):
            single = 1 in (self.numbers(tie.x).size // tie.groups, self.numbers(tie.y).size // tie.groups)
            if not single:  # every group gives up the channel at the same place, or counts would differ
                for port in tie.ports:
                    grouped = self.numbers(port).reshape(tie.groups, -1)
                    found.append((np.broadcast_to(grouped[:1], grouped.shape).reshape(-1), grouped.reshape(-1)))
                return found
        held = {port: self.held(port) for port in tie.ports}
        sizes = [mask.size for mask in held.values()]
        if sum(int((~mask).sum()) for mask in held.values()) * math.prod(sizes) > MAX_WORK:
            return [(np.zeros_like(numbers), numbers) for numbers in map(self.numbers, held)]
        for port in dict.fromkeys(tie.ports):
            for index in np.flatnonzero(~held[port]):
                kept = {**held, port: held[port].copy()}
                kept[port][index] = True
                for other, grown in tie.close(kept.__getitem__):
                    new = self.numbers(other)[grown & ~kept[other]]
                    found.append((np.full(new.size, self.start[port] + index), new))
        return found

    def _choose(self, tie: Grid) -> None:
        """Of several axes on one side of a Reshape only the first is cut: of an attention the heads, not what is
        inside of them.
        """
        for side in (tie.a, tie.b):
            for port in [port for port in side if not self.held(port).all()][1:]:
                self._hold(port, np.ones(self.numbers(port).size, bool))

    def _hold_reads(self) -> bool:
        """Hold what an operator reads beyond what is coupled to its output, such as all that a mean is taken of."""
        changed = False
        for node in self.nodes:
            rule = self.context.rule(node)
            if isinstance(rule, Contraction) and layer(node, self.context) is not None:
                continue
            for out in node.outputs[:1]:
                for axis in range(self.context.rank(out) or 0):
                    if self.held((out, axis)).all():
                        continue
                    for place in {0, self.held((out, axis)).size - 1}:
                        changed |= self._probe(node, (out, axis), place)
        return changed

    def _probe(self, node: Node, port: Port, place: int) -> bool:
        demands = self.context.rule(node).reads(node, self.context, _One(self.solution, port, place))
        own = int(self.label[self.start[port] + place])
        changed = False
        product = isinstance(self.context.rule(node), Contraction)
        for index, demand in demands.items():
            name = node.inputs[index]
            if name in self.context.graph.constant_only:
                continue
            for axis in range(self.context.rank(name) or 0):
                other = (name, axis)
                if other not in self.start or (product and self._summed(node, other)):
                    continue
                read = np.ones(self.numbers(other).size, bool) if demand is None else demand[axis]
                beyond = read & ~self.held(other) & (self.label[self.numbers(other)] != own)
                if beyond.any():
                    self._hold(other, beyond)
                    changed = True
        return changed

    def _summed(self, node: Node, port: Port) -> bool:
        """Whether a product sums over an axis: what is zero there need not be read."""
        ties = [tie for tie in self.solution.ties[node.index] if port in tie.ports]
        return not any(other[0] in node.outputs for tie in ties for other in tie.ports)


class _One:
    """The state in which one slice of one tensor is live, with all that is held along its other axes."""

    def __init__(self, solution: Solution, port: Port, place: int):
        self._solution, self._port, self._place = solution, port, place

    def kept(self, port: Port) -> np.ndarray:
        return np.ones(self._solution.kept(port).size, bool)

    def live(self, tensor: str) -> Demand:
        masks = [self.kept((tensor, axis)) for axis in range(self._solution.context.rank(tensor) or 0)]
        if tensor == self._port[0]:
            masks[self._port[1]][:] = False
            masks[self._port[1]][self._place] = True
        return masks

    def needed(self, tensor: str) -> bool:
        return self._solution.needed(tensor)
