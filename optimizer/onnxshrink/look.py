"""`inspect`: what could go from one model, or how two models differ. Nothing is run and nothing is written."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

from . import benchmark
from .channels.analysis import Options
from .channels.plan import Plan
from .choices import check_align, check_negligible
from .draft import draft, promise
from .graph.inline import inlined
from .graph.model import read
from .graph.view import build, labels


@dataclass
class Inspection:
    """The plan for one model.

    Attributes:
        plan: what would go, what would stay and why.
        sizes: parameters and MACs (None where dynamic), before and after.
    """

    plan: Plan
    sizes: dict[str, tuple[int | None, int | None]]

    def to_json(self) -> dict[str, Any]:
        """The inspection for machines."""
        sizes = {name: {"before": before, "after": after} for name, (before, after) in self.sizes.items()}
        return {**sizes, **self.plan.to_json()}


@dataclass
class Difference:
    """How two models differ.

    Attributes:
        sizes: parameters, MACs and nodes, of A and of B.
        layers: (node, shape of its weight in A, in B) of layers that differ; None where a model lacks the layer, which
            is the node that gives the same tensor.
        nodes: operators and how many of them each model has, where that differs.
    """

    sizes: dict[str, tuple[int | None, int | None]]
    layers: list[tuple[str, tuple[int, ...] | None, tuple[int, ...] | None]]
    nodes: dict[str, tuple[int, int]]

    def to_json(self) -> dict[str, Any]:
        """The difference for machines."""
        return {
            "sizes": {name: {"a": a, "b": b} for name, (a, b) in self.sizes.items()},
            "layers": [{"node": n, "a": a, "b": b} for n, a, b in self.layers],
            "operators": {op: {"a": a, "b": b} for op, (a, b) in self.nodes.items()},
        }


def inspect(
    source: str | Path | onnx.ModelProto,
    other: str | Path | onnx.ModelProto | None = None,
    *,
    align: int = 1,
    negligible: float = 1e-8,
    input_shapes: Mapping[str, tuple[int, ...]] | None = None,
    input_ranges: Mapping[str, tuple[float, float]] | None = None,
    keep_default_inputs: bool = False,
) -> Inspection | Difference:
    """What `optimize` would do with a model; or, given two models, how they differ.

    Raises:
        ModelError: a model cannot be read.
        InputError: `align` or `negligible` cannot be, or `input_ranges` do not fit the model.
    """
    check_align(align)
    check_negligible(negligible)
    model = inlined(read(source))
    if other is not None:
        return _compare(model.original, read(other).proto, input_shapes)
    graph = build(model, keep_default_inputs=keep_default_inputs)
    promise(graph, input_ranges)
    made = draft(graph, Options(negligible, align), input_shapes)
    after = made.model
    return Inspection(
        made.plan,
        {
            "parameters": (benchmark.parameters(model.original), benchmark.parameters(after)),
            "macs": made.macs,
        },
    )


def _compare(a: onnx.ModelProto, b: onnx.ModelProto, input_shapes: Mapping[str, tuple[int, ...]] | None) -> Difference:
    counts: dict[str, tuple[int, int]] = {}
    for side, proto in enumerate((a, b)):
        for node in proto.graph.node:
            one = list(counts.get(node.op_type, (0, 0)))
            one[side] += 1
            counts[node.op_type] = (one[0], one[1])
    ours, theirs = _weights(a), _weights(b)
    named = _labels(b) | _labels(a)
    return Difference(
        {
            "parameters": (benchmark.parameters(a), benchmark.parameters(b)),
            "macs": (benchmark.macs(a, input_shapes), benchmark.macs(b, input_shapes)),
            "nodes": (len(a.graph.node), len(b.graph.node)),
        },
        [(named[o], ours.get(o), theirs.get(o)) for o in {**ours, **theirs} if ours.get(o) != theirs.get(o)],
        {op: pair for op, pair in sorted(counts.items()) if pair[0] != pair[1]},
    )


def _weights(proto: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Shape of the weight of each node that has one, by the node's first output."""
    shapes = {t.name: tuple(t.dims) for t in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].name == "value":
            shapes[node.output[0]] = tuple(node.attribute[0].t.dims)
    return {
        _first(node): shapes[node.input[1]]
        for node in proto.graph.node
        if len(node.input) > 1 and node.input[1] in shapes and len(shapes[node.input[1]]) >= 2
    }


def _labels(proto: onnx.ModelProto) -> dict[str, str]:
    """How each node is named to people, by its first output."""
    return dict(zip(map(_first, proto.graph.node), labels(proto.graph.node), strict=True))


def _first(node: onnx.NodeProto) -> str:
    return next(filter(None, node.output), "")
