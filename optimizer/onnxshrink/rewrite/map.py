"""The map from the original's slices to the result's, as versioned JSON: what other tools carry along with a cut.

Schema (version 2), all indices into the original:

    version, source {sha256, opset}, options
    tensors   {tensor: {axis: [kept indices, in their new order]}}           computed tensors that were cut
    weights   [{node, op, input, source, result, axes {axis: [kept]}, group?, transposed?, dtype?, value?}]
              constants that were cut, edge by edge; with `value` {shape, base64} or {shape, strings}, what they
              are now where that is no slice; `source` is null for an operand that the node did not have
    absorbed  [{node, tensor, axis, slices, values, into, carrier}]          "bias", "carrier" or "nothing"
    negligible[{node, constant, axis, slices, ...}]                          set to zero before everything else
    removed   [node labels]
    gone      [constants that only nodes read which are removed]

`rebuild` makes the result's weights from the original's and the map alone; a test holds that it does.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any, Protocol

import numpy as np
from onnx import numpy_helper

from ..channels.plan import Plan
from ..channels.solve import Solution
from ..graph.view import Graph, Node
from ..ops.conv import Convolution, regroup
from ..ops.matmul import Multiplication
from ..ops.rule import Rewrite, rule_for
from .cut import PlannedCut
from .execute import Execution

VERSION = 2


class Step(Protocol):
    """One pass: what was found and what was made of it."""

    @property
    def solution(self) -> Solution: ...

    @property
    def plan(self) -> Plan: ...

    @property
    def execution(self) -> Execution: ...


def make_map(steps: Sequence[Step], plan: Plan, options: Mapping[str, Any]) -> dict[str, Any]:
    """The map of a result, ready for JSON.

    Args:
        steps: at least one.
        plan: of all of them.
    """
    graph = steps[0].solution.context.graph
    weights = _weights(steps[0])
    for step in steps[1:]:
        weights = _joined(weights, _weights(step), step)
    return {
        "version": VERSION,
        "source": {"sha256": graph.model.digest(), "opset": graph.model.opset},
        "options": dict(options),
        "tensors": {
            tensor: {str(a): kept for a, kept in axes.items()}
            for tensor, axes in plan.kept.items()
            if tensor not in graph.constants
        },
        "weights": weights,
        "absorbed": [asdict(item) for item in plan.absorbed],
        "negligible": plan.negligible,
        "removed": plan.removed_nodes,
        "gone": _gone(graph, set(plan.removed_nodes)),
    }


def _gone(graph: Graph, removed: set[str]) -> list[str]:
    """The constants of the original that no node reads any more."""
    readers: dict[str, list[bool]] = {}
    for node in graph.nodes:
        for part in node.chain or (node,):
            for tensor in part.inputs:
                if tensor in graph.source:
                    readers.setdefault(graph.source[tensor], []).append(node.label in removed)
    return [name for name, lost in readers.items() if all(lost) and not name.endswith("@known")]


def _joined(before: list[dict[str, Any]], after: list[dict[str, Any]], step: Step) -> list[dict[str, Any]]:
    """The entries of two steps as one: what both of them changed is written down."""
    model = step.execution.model
    arrays = {t.name: t for t in model.graph.initializer}
    later = {(entry["node"], entry["input"]): entry for entry in after}
    joined = []
    for entry in before:
        further = later.pop((entry["node"], entry["input"]), None)
        if entry["node"] in step.plan.removed_nodes or (further or entry)["result"] not in arrays:
            continue
        if further is not None:
            value = numpy_helper.to_array(arrays[further["result"]])
            axes = dict(entry["axes"])
            for axis, kept in further["axes"].items():
                axes[axis] = [axes[axis][i] for i in kept] if axis in axes else kept
            entry = {k: v for k, v in entry.items() if k != "group"} | {"result": further["result"], "axes": axes}
            entry |= written(value)
        joined.append(entry)
    return [*joined, *later.values()]


def _weights(step: Step) -> list[dict[str, Any]]:
    """What became of the constant operands of each node."""
    solution, execution = step.solution, step.execution
    graph, cut = solution.context.graph, PlannedCut(solution)
    weights = []
    for node in graph.nodes:
        rewrite = execution.rewrites.get(node.index)
        for index, tensor in enumerate(node.inputs):
            if rewrite is None or tensor not in execution.constants:
                continue
            source, result = execution.constants[tensor]
            axes = {}
            for axis in range(solution.context.rank(tensor) or 0):
                kept = cut.indices(tensor, axis)
                if kept is not None:
                    axes[str(axis)] = [int(i) for i in kept]
            entry: dict[str, Any] = {
                "node": node.label,
                "op": node.op,
                "input": index,
                "source": source,
                "result": result,
                "axes": axes,
            }
            if index == 1 and node.attr("transB", 0):
                entry["transposed"] = True
            rule = rule_for(node)
            if isinstance(rule, Convolution) and index == 1 and rule.groups(node) > 1:
                entry["group"] = {
                    "before": rule.groups(node),
                    "after": int(rewrite.attributes.get("group", rule.groups(node))),
                    "inputs": _all(cut.indices(node.inputs[0], 1), solution.context.size(node.inputs[0], 1)),
                    "outputs": _all(cut.indices(node.outputs[0], 1), solution.context.size(node.outputs[0], 1)),
                }
            value = execution.computed.get(tensor)
            if value is None and source.endswith("@known"):
                value = cut.weight(tensor)
            # what a carrier took over follows from `absorbed`; other new values are written down
            if value is not None and not (index == 1 and isinstance(rule, Convolution | Multiplication)):
                entry |= {"axes": {}, **written(value)}
            weights.append(entry)
        if rewrite is not None:
            weights += _added(node, rewrite, execution)
    return weights


def _added(node: Node, rewrite: Rewrite, execution: Execution) -> list[dict[str, Any]]:
    """Operands that no constant of the node gave before, such as the bias of a Conv that took known values over."""
    entries: list[dict[str, Any]] = []
    for index, value in rewrite.inputs.items():
        name = node.input(index)
        if isinstance(value, np.ndarray) and (
            not name or (value.dtype.kind == "f" and name not in execution.constants)
        ):
            outputs = {name for name in node.outputs if name}
            made = next((n for n in execution.model.graph.node if outputs & set(n.output)), None)
            if made is not None and index < len(made.input):
                entries.append(
                    {
                        "node": node.label,
                        "op": node.op,
                        "input": index,
                        "source": None,
                        "result": made.input[index],
                        "axes": {},
                        **written(value),
                    }
                )
    return entries


def _all(indices: np.ndarray | None, size: int | None) -> list[int]:
    return [int(i) for i in (np.arange(size or 0) if indices is None else indices)]


def written(array: np.ndarray) -> dict[str, Any]:
    """An array as an entry holds it: its type, its shape, and its elements' bytes in C order, little-endian."""
    value: dict[str, Any] = {"shape": list(array.shape)}
    if array.dtype.kind == "O":
        value["strings"] = array.reshape(-1).tolist()
    else:
        value["base64"] = base64.b64encode(array.tobytes()).decode("ascii")
    return {"dtype": str(array.dtype), "value": value}


def value_of(entry: Mapping[str, Any]) -> np.ndarray:
    """The array that an entry holds, read-only; the inverse of `written`."""
    value, dtype = entry["value"], np.dtype(entry["dtype"])
    if "strings" in value:
        return np.array(value["strings"], dtype).reshape(value["shape"])
    return np.frombuffer(base64.b64decode(value["base64"]), dtype).reshape(value["shape"])


def rebuild(mapping: Mapping[str, Any], original: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The result's cut weights, by their name in the result, from the original's and the map alone.

    Args:
        mapping: a map of this version.
        original: the original's constants by name.

    Raises:
        ValueError: the map has another version.
    """
    if mapping["version"] != VERSION:
        raise ValueError(f"this is a map of version {mapping['version']}, expected {VERSION}")
    result: dict[str, np.ndarray] = {}
    for entry in mapping["weights"]:
        if "value" in entry:
            result[entry["result"]] = value_of(entry)
            continue
        array = np.array(original[entry["source"]])
        for item in mapping["negligible"]:
            if item["node"] == entry["node"] and item["constant"] == entry["source"]:
                array[(slice(None),) * item["axis"] + (item["slices"],)] = 0
        array = _carry(array, entry, mapping["absorbed"])
        if "group" in entry:
            array = _regroup(array, entry["group"], entry["op"] == "ConvTranspose")
        else:
            for axis, kept in entry["axes"].items():
                array = array.take(kept, int(axis))
        result[entry["result"]] = array
    return result


def _carry(array: np.ndarray, entry: Mapping[str, Any], absorbed: list[dict[str, Any]]) -> np.ndarray:
    """Add what a carrier took over to its column of the weight."""
    for item in absorbed:
        if item["node"] != entry["node"] or item["into"] != "carrier" or entry["input"] != 1:
            continue
        wide = array.astype(np.float64)
        weight = wide if entry["op"] in ("Conv", "ConvTranspose") else _features_first(wide, entry)
        ratio = np.array(item["values"]) / item["carried_value"]
        group = entry.get("group")
        count = group["before"] if group else 1
        # the weight as [groups, inputs of a group, outputs of a group, ...], a view
        if entry["op"] == "Conv":
            view = np.swapaxes(weight.reshape(count, weight.shape[0] // count, *weight.shape[1:]), 1, 2)
        else:
            view = weight.reshape(count, weight.shape[0] // count, *weight.shape[1:])
        place, carrier = divmod(item["carrier"], view.shape[1])
        slices = [s % view.shape[1] for s in item["slices"]]
        view[place, carrier] += np.tensordot(ratio, view[place, slices], axes=(0, 0))
        array = wide.astype(array.dtype)
    return array


def _features_first(array: np.ndarray, entry: Mapping[str, Any]) -> np.ndarray:
    """The weight of a Gemm or MatMul as [features, outputs], a view."""
    return array.T if entry.get("transposed") else array


def _regroup(array: np.ndarray, group: Mapping[str, Any], transposed: bool) -> np.ndarray:
    """The weight of a grouped convolution for the inputs and outputs that stay."""
    count = group["before"]
    split = array.reshape(count, array.shape[0] // count, *array.shape[1:])
    split = np.swapaxes(split, 1, 2) if transposed else split
    packed = regroup(split, np.array(group["inputs"]), np.array(group["outputs"]))
    packed = np.swapaxes(packed, 1, 2) if transposed else packed
    return packed.reshape(-1, *packed.shape[2:])
