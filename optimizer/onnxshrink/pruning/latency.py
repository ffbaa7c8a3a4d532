"""Latency as a size: what a table of layer latencies says of the units that classes keep.

Convolutions and products are looked up by the channels that are left of them. All other operators together take what
the whole model takes beyond the sum of its layers, and are taken to grow with the elements that they write.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..benchmark import LatencyTable, LayerLatency
from ..channels.solve import Solution
from ..errors import InputError
from ..graph.view import Node
from ..ops.conv import Convolution
from .coupling import CouplingClass, depthwise, layer, output_port
from .size import SizeFunction, Terms


@dataclass(frozen=True)
class _Lookup:
    """One layer: its latencies, and its channels as (slices in no class, slices for each unit of each class)."""

    latency: LayerLatency
    inputs: tuple[float, np.ndarray]
    outputs: tuple[float, np.ndarray]

    def __call__(self, kept: np.ndarray) -> np.ndarray:
        (fixed, slices), (own, units) = self.inputs, self.outputs
        return self.latency.at(fixed + kept @ slices, own + kept @ units)


@dataclass
class LatencyFunction:
    """Milliseconds by the units that each class keeps.

    Attributes:
        layers: of the model.
        others: elements that all other operators write.
        rest: milliseconds of one such element.
        whole: milliseconds of the model as it was measured.
    """

    layers: list[_Lookup]
    others: SizeFunction
    rest: float
    whole: float

    def __call__(self, kept: Sequence[int] | np.ndarray) -> Any:
        """Milliseconds for `kept` units of each class: a float, or [...] for many selections [..., classes]."""
        units = np.asarray(kept, np.float64)
        total = sum((one(units) for one in self.layers), np.zeros(units.shape[:-1])) + self.rest * self.others(units)
        return float(total) if units.ndim == 1 else total


def latency_function(solution: Solution, classes: Sequence[CouplingClass], table: LatencyTable) -> LatencyFunction:
    """The latency of what is left, by the units that each class keeps.

    Raises:
        InputError: the table is not complete, or is not of this model.
    """
    context = solution.context
    if not table.whole:
        raise InputError(
            "the table is not complete", cure="run the command that writes it again: it goes on from there"
        )
    terms, others = Terms(solution, classes), Terms(solution, classes)
    lookups, own, written = [], 0.0, 0.0
    for node in context.graph.nodes:
        weight = table.nodes.get(node.outputs[0])
        if weight is not None:
            latency = table.layers[weight]
            full = float(latency.at(latency.counts(0)[-1], latency.counts(1)[-1]))
            own += full
            lookups += [_lookup(node, latency, terms)] if solution.active(node) else []
        elif layer(node, context) is not None and solution.active(node):
            raise InputError(
                f"the table has no latency of {node.op} `{node.label}`",
                cure="measure this model: onnxshrink bench MODEL --layers -o FILE",
            )
        elif node.outputs[0] not in context.graph.constant_only:
            shape = context.shape(node.outputs[0]) or ()
            elements = math.prod(dim for dim in shape if isinstance(dim, int))
            written += elements
            if solution.active(node):
                known = [axis for axis, dim in enumerate(shape) if isinstance(dim, int) and dim]
                others.add(1.0, [others.length((node.outputs[0], axis)) for axis in known])
    rest = max(0.0, table.whole - own) / max(written, 1.0)
    return LatencyFunction(lookups, others.function(), rest, own + rest * written)


def _lookup(node: Node, latency: LayerLatency, terms: Terms) -> _Lookup:
    context = terms.solution.context
    none = np.zeros(len(terms.classes))
    inputs, outputs = ((float(latency.counts(axis)[-1]), none) for axis in (0, 1))
    rule = layer(node, context)
    if rule is not None:
        outputs = terms.length(output_port(node, context))
        read = rule.absorbing_port(node, context)
        if read is not None and not depthwise(node, context):
            groups = rule.groups(node) if isinstance(rule, Convolution) else 1
            fixed, slices = terms.length(read)
            inputs = fixed / groups, slices / groups
    return _Lookup(latency, inputs, outputs)
