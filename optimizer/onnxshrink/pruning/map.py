"""The map of a pruned model: against the original, not against the model with zeros that the shrink started from.

Names are the original's, and what the repair or a reweighing changed is written down: an entry whose result is no
slice of the original's constant has its `value` beside its `axes`, and operands that the original did not have, or that
changed without being cut, have entries of their own.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph.view import Graph, Node, is_float
from ..rewrite.map import rebuild, written


def against_original(mapping: Mapping[str, Any], graph: Graph, result: onnx.ModelProto) -> dict[str, Any]:
    """The map of a whole pruning, ready for JSON (docs/map.md).

    Args:
        mapping: what the shrink wrote about the model with zeros.
        graph: the original, with the same nodes.
        result: the shrunk model.
    """
    entries = {(entry["node"], entry["input"]): dict(entry) for entry in mapping["weights"]}
    arrays = _arrays(result)
    nodes = {output: node for node in result.graph.node for output in node.output if output}
    for node, index in _operands(graph):
        made = next((nodes[output] for output in node.outputs if output in nodes), None)
        name = made.input[index] if made is not None and index < len(made.input) else ""
        if name not in arrays or not is_float(arrays[name].dtype):
            continue
        now, edge, key = arrays[name], node.input(index), (node.label, index)
        source = graph.source.get(edge)
        entry = entries.get(key, {"node": node.label, "op": node.op, "input": index, "result": name, "axes": {}})
        entry["source"] = source
        if index == 1 and node.attr("transB", 0):
            entry["transposed"] = True
        if source is None or not _equal(mapping, entry, graph.constants[edge], now):
            entries[key] = entry | written(now)
        elif key in entries:
            entries[key] = entry
    norms = [graph.source.get(node.input(1)) for node in graph.nodes if node.op == "BatchNormalization"]
    return {**mapping, "weights": [*entries.values()], "normalizations": [name for name in norms if name]}


def _operands(graph: Graph) -> Iterator[tuple[Node, int]]:
    """Constant operands of all nodes, and the place of a bias that a layer may have got."""
    for node in graph.nodes:
        places = {index for index, name in enumerate(node.inputs) if name in graph.constants}
        if node.op in ("Conv", "ConvTranspose", "Gemm") and not node.input(2):
            places.add(2)
        for index in sorted(places):
            yield node, index


def _equal(mapping: Mapping[str, Any], entry: dict[str, Any], original: np.ndarray, now: np.ndarray) -> bool:
    """Whether the map alone makes an operand from the original's."""
    alone = {**mapping, "weights": [entry]}
    made = rebuild(alone, {entry["source"]: original})[entry["result"]]
    return made.shape == now.shape and np.array_equal(made, now)


def _arrays(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    found = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in model.graph.node:
        tensor = next((a.t for a in node.attribute if a.name == "value"), None)
        if node.op_type == "Constant" and tensor is not None:
            found[node.output[0]] = numpy_helper.to_array(tensor)
    return found
