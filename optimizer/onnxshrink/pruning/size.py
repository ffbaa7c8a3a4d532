"""The class-size function: parameters and multiply-adds of what is left, from the units that each class keeps.

Every constant and every layer is a product of axis lengths. An axis of length `fixed + sum over classes of
slices per unit * units kept` makes each of them a polynomial in the numbers of units, exact for the shrunk model up to
what the shrink itself decides (carriers, alignment).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import benchmark
from ..channels.solve import Solution
from ..graph.view import Node, is_float
from ..ops.conv import Convolution
from ..ops.matmul import Multiplication
from ..ops.tie import Port
from .coupling import CouplingClass, depthwise


@dataclass
class SizeFunction:
    """A sum of products of axis lengths, each linear in the numbers of units that classes keep.

    Attributes:
        scale: [terms], what a term is worth when all its axes have length one.
        fixed: [terms, axes], slices of each axis that are in no class.
        slices: [terms, axes, classes], slices that one unit of each class adds.
        constant: what no class changes.
    """

    scale: np.ndarray
    fixed: np.ndarray
    slices: np.ndarray
    constant: float

    def __call__(self, kept: Sequence[int] | np.ndarray) -> Any:
        """The size for `kept` units of each class: a float, or [...] for many selections [..., classes]."""
        units = np.asarray(kept, np.float64)
        lengths = self.fixed + np.tensordot(units, self.slices, axes=(-1, 2))
        total = self.constant + lengths.prod(axis=-1) @ self.scale
        return float(total) if units.ndim == 1 else total


class Terms:
    """Collects terms; axes that no class touches go into the scale."""

    def __init__(self, solution: Solution, classes: Sequence[CouplingClass]):
        self.solution, self.classes = solution, classes
        self.scales: list[float] = []
        self.axes: list[list[tuple[float, np.ndarray]]] = []
        self.constant = 0.0

    def length(self, port: Port) -> tuple[float, np.ndarray]:
        """(slices in no class, slices for each unit of each class)."""
        slices = np.array([c.slices[port].shape[1] if port in c.slices else 0 for c in self.classes], float)
        units = np.array([c.units for c in self.classes], float)
        return float(self.solution.kept(port).sum() - slices @ units), slices

    def add(self, scale: float, axes: Sequence[tuple[float, np.ndarray]]) -> None:
        moving = []
        for fixed, slices in axes:
            if slices.any():
                moving.append((fixed, slices))
            else:
                scale *= fixed
        if moving:
            self.scales.append(scale)
            self.axes.append(moving)
        else:
            self.constant += scale

    def function(self) -> SizeFunction:
        width = max([1, *(len(axes) for axes in self.axes)])
        shape = (len(self.scales), width)
        fixed, slices = np.ones(shape), np.zeros((*shape, len(self.classes)))
        for term, axes in enumerate(self.axes):
            for place, (left, per_unit) in enumerate(axes):
                fixed[term, place], slices[term, place] = left, per_unit
        return SizeFunction(np.array(self.scales), fixed, slices, self.constant)


def parameter_function(solution: Solution, classes: Sequence[CouplingClass]) -> SizeFunction:
    """Stored float values as a function of the units kept. A constant that several nodes share counts once, unless
    classes may cut it differently for them.
    """
    graph = solution.context.graph
    terms = Terms(solution, classes)
    seen: set[tuple[str, bytes]] = set()
    for node in graph.nodes:
        if not solution.active(node):
            continue
        for index, name in enumerate(node.inputs):
            array, source = graph.constants.get(name), graph.source.get(name, name)
            if array is None or not is_float(array.dtype):
                continue
            axes = _weight_axes(node, index, terms)
            cut = np.array([[fixed, *slices] for fixed, slices in axes]).tobytes()
            if (source, cut) not in seen:
                seen.add((source, cut))
                terms.add(1.0, axes)
    return terms.function()


def mac_function(
    solution: Solution,
    classes: Sequence[CouplingClass],
    input_shapes: dict[str, tuple[int, ...]] | None = None,
) -> SizeFunction | None:
    """Multiply-adds as a function of the units kept; None where those of a node are not known.

    Raises:
        InputError: an entry of `input_shapes` names no input or contradicts the model.
    """
    graph = solution.context.graph
    counted = benchmark.count_macs(graph.model.proto, input_shapes)
    if counted.total is None:
        return None
    by_output = {item.output: float(item.macs or 0) for item in counted.nodes}
    terms = Terms(solution, classes)
    for node in graph.nodes:
        macs = by_output.get(node.outputs[0])
        if macs and solution.active(node):
            axes = _factors(node, terms)
            full = math.prod(size for size, _ in axes)
            terms.add(macs / full, [length for _, length in axes])
    return terms.function()


def _weight_axes(node: Node, index: int, terms: Terms) -> list[tuple[float, np.ndarray]]:
    """Lengths of the axes of a constant operand; a grouped convolution's weight has no ports of its own."""
    context = terms.solution.context
    name, rule = node.inputs[index], context.rule(node)
    axes = [terms.length((name, axis)) for axis in range(context.rank(name) or 0)]
    groups = rule.groups(node) if isinstance(rule, Convolution) else 1
    if isinstance(rule, Convolution) and groups > 1 and index == 1 and rule.absorbing_port(node, context) is not None:
        rows, columns = (node.outputs[0], 1), (node.inputs[0], 1)
        if rule.transposed:
            rows, columns = columns, rows
        axes[0] = terms.length(rows)
        if not depthwise(node, context):
            fixed, slices = terms.length(columns)
            axes[1] = (fixed / groups, slices / groups)
    return axes


def _factors(node: Node, terms: Terms) -> list[tuple[float, tuple[float, np.ndarray]]]:
    """(length in the file, length now) of the axes that a layer's multiply-adds are proportional to."""
    context = terms.solution.context
    rule = context.rule(node)
    ports: list[Port] = []
    if isinstance(rule, Convolution):
        ports = [(node.outputs[0], 1)]
        if not depthwise(node, context):
            ports.append((node.inputs[0], 1))
    elif isinstance(rule, Multiplication):
        ports = [(node.outputs[0], axis) for axis in range(context.rank(node.outputs[0]) or 0)]
        read = rule.absorbing_port(node, context)
        ports += [read] if read is not None else []
    sizes = [(port, context.size(*port)) for port in ports]
    return [(float(size), terms.length(port)) for port, size in sizes if size]
