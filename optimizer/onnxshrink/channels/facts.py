"""Facts, forward: what is known of every tensor, with shapes and integer facts brought to a fixpoint first."""

from __future__ import annotations

import numpy as np

from ..graph.shapes import StandIns, infer
from ..graph.view import Graph, Node, Shape
from ..ops import rule_for
from ..ops.evaluate import evaluate
from ..ops.fact import Fact, collapse, constant, denormal
from ..ops.rule import OLDER, Context
from .symbols import elements

FOLD = 1 << 16
"""Largest number of elements of operands on which an operator without facts of its own is simply evaluated."""

RANDOM = {
    "Dropout",
    "RandomNormal",
    "RandomNormalLike",
    "RandomUniform",
    "RandomUniformLike",
    "Bernoulli",
    "Multinomial",
}
MISJUDGED = {
    "AveragePool",
    "BatchNormalization",
    "Conv",
    "ConvTranspose",
    "DynamicQuantizeLinear",
    "GRU",
    "GlobalMaxPool",
    "GridSample",
    "GroupNormalization",
    "InstanceNormalization",
    "LRN",
    "LSTM",
    "LpPool",
    "MaxPool",
    "QLinearConv",
    "QLinearMatMul",
    "QuantizeLinear",
    "RNN",
    "Resize",
}
"""Operators that onnx's reference implementation (1.23) computes otherwise than runtimes do, for some attributes or
inputs (what normalization leaves of a constant is its rounding, amplified).
"""

FLATTENING = {"Hardmax", "LogSoftmax", "Softmax"}
"""Operators that took their input for a matrix before operator set 13, which the reference implementation forgets."""

INT_RANGES = {"uint8": (0.0, 255.0), "int8": (-128.0, 127.0), "bool": (0.0, 1.0)}


def understand(graph: Graph, *, bounds: bool = True) -> Context:
    """Shapes and facts of a graph, until neither learns more; `graph.shapes` and `graph.dtypes` are filled in.

    Args:
        graph: the view, as `graph.view.build` made it.
        bounds: propagate intervals too; without them only exact values are known.
    """
    known: dict[str, np.ndarray] = {}
    dims: dict[str, Shape] = {}
    stand_ins = _stand_ins(graph)
    for _ in range(8):
        infer(graph, known, dims, stand_ins)
        context = propagate(graph, integers_only=True)
        integers = {n: a for n, a in graph.constants.items() if a.dtype.kind in "iu"}
        values = {**integers, **_computed_integers(context)}
        dimensions = elements(graph.nodes, values, lambda node: graph.shapes.get(node.inputs[0]), graph.model.opset)
        context.elements.update(dimensions)
        learnt = {name: array for name, array in _computed_integers(context).items() if name not in known}
        refined: dict[str, Shape] = {}
        for node in graph.nodes:
            learned = rule_for(node).refine(node, context)
            refined |= {name: shape for name, shape in learned.items() if dims.get(name) != shape}
        before, stand_ins = stand_ins, _stand_ins(graph)
        if not learnt and not refined and len(stand_ins) == len(before):
            break
        known.update(learnt)
        dims.update(refined)
        graph.shapes.update(refined)
    return propagate(graph, bounds=bounds)


def _stand_ins(graph: Graph) -> StandIns:
    """What inference sees instead of operators that it does not know."""
    context = Context(graph, {})
    found = ((node.position, rule_for(node).stand_in(node, context)) for node in graph.nodes)
    return {position: nodes for position, nodes in found if nodes is not None}


def _computed_integers(context: Context) -> dict[str, np.ndarray]:
    """Integer tensors that are computed, small and completely known."""
    found = {}
    for node in context.graph.nodes:
        for name in node.outputs:
            dtype = context.graph.dtypes.get(name)
            if name and dtype is not None and dtype.kind in "iu" and name in context.facts:
                array = context.array(name)
                if array is not None and array.size <= 4096:
                    found[name] = np.array(array)
    return found


def propagate(graph: Graph, *, integers_only: bool = False, bounds: bool = True) -> Context:
    """One forward pass over all nodes.

    Args:
        integers_only: only what shapes are computed from; floats stay unknown.
        bounds: keep intervals.
    """
    facts: dict[str, Fact] = {}
    context = Context(graph, facts)
    for name, array in graph.constants.items():
        if array.size and (not integers_only or array.dtype.kind in "iub"):
            facts[name] = constant(array)
    for name in graph.inputs:
        dtype, rank = graph.dtypes.get(name), graph.rank(name)
        given = graph.ranges.get(name) or (INT_RANGES.get(dtype.name) if dtype is not None else None)
        if dtype is not None and given is not None and rank and bounds and not integers_only:
            low, high = given
            shape = (1,) * rank
            facts[name] = Fact(np.zeros(shape, dtype), np.zeros(shape, bool), np.full(shape, low), np.full(shape, high))
    for name, fact in graph.outside.items():
        kept = fact if bounds else collapse(Fact(fact.value, fact.known))
        if kept is not None and (not integers_only or kept.value.dtype.kind in "iub"):
            facts[name] = kept
    for node in graph.nodes:
        if integers_only and not _integer(node, graph):
            continue
        for name, fact in zip(node.outputs, facts_of(node, context), strict=False):
            rank = graph.rank(name)
            if not name or fact is None or rank is None or fact.rank != rank:
                continue
            if not bounds:
                plain = collapse(Fact(fact.value, fact.known))
                if plain is None:
                    continue
                fact = plain
            facts[name] = fact
    return context


def _integer(node: Node, graph: Graph) -> bool:
    return any((d := graph.dtypes.get(o)) is not None and d.kind in "iub" for o in node.outputs if o)


def facts_of(node: Node, context: Context) -> list[Fact | None]:
    """A node's facts by its rule; where that leaves something open and all operands are small and known, by
    evaluating it.
    """
    rule = rule_for(node)
    found = rule.facts(node, context)
    if all(fact is not None and fact.all_known for fact in found) or node.op in RANDOM | MISJUDGED:
        return found
    if node.domain or node.captured or node.movement is not None or not rule.evaluable(node, context):
        return found
    if rule is OLDER or (node.op in FLATTENING and context.opset < 13):
        return found
    if any(a.type in (5, 10) for a in node.proto.attribute):  # a body
        return found
    arrays: list[np.ndarray | None] = []
    for name in node.inputs:
        array = context.array(name) if name else None
        if name and (array is None or array.size > FOLD):
            return found
        arrays.append(array)
    if not any(a is not None for a in arrays):
        return found
    results = evaluate(node.proto, arrays, context.opset)
    if results is None:
        return found
    return [
        collapse(Fact(r, ~denormal(r)))
        if isinstance(r, np.ndarray) and r.dtype.kind in "fiub" and r.size <= FOLD
        else None
        for r in results
    ]
