"""Zeros: what makes units dead. Everything else about a cut is the shrink's business."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import onnx
from onnx import numpy_helper

from ..graph.model import Model
from ..graph.view import Graph, Node, names_in
from ..ops.conv import Convolution
from ..ops.rule import Context
from ..ops.tie import Port
from .coupling import CouplingClass, layer, output_port

Masks = Sequence[np.ndarray]
"""For each class which units stay, bool [units]."""


def dead_slices(classes: Sequence[CouplingClass], masks: Masks) -> dict[Port, np.ndarray]:
    """For each port that loses something, the slices that it loses, ascending."""
    dead: dict[Port, list[np.ndarray]] = {}
    for found, mask in zip(classes, masks, strict=True):
        if not mask.all():
            for port, where in found.slices.items():
                dead.setdefault(port, []).append(where[~mask].reshape(-1))
    return {port: np.unique(np.concatenate(parts)) for port, parts in dead.items()}


def zeroed(context: Context, dead: Mapping[Port, np.ndarray]) -> dict[str, np.ndarray]:
    """New values of constant edges: filters of dead channels, their biases and normalizations, and what reads them.

    Zeroing what reads a channel too makes it unread, so that it goes even where an activation gives a zero another
    value (Sigmoid of zero is a half).
    """
    changed: dict[str, np.ndarray] = {}

    def array(name: str) -> np.ndarray:
        if name not in changed:
            changed[name] = np.array(context.graph.constants[name])
        return changed[name]

    for node in context.graph.nodes:
        rule = layer(node, context)
        if rule is not None:
            rows, read = dead.get(output_port(node, context)), rule.absorbing_port(node, context)
            columns = dead.get(read) if read is not None else None
            if rows is not None:
                clear(node, context, array(node.inputs[1]), rows, out=True)
                if node.input(2) in context.graph.constants:
                    _clear(array(node.inputs[2]), -1, rows)
            if columns is not None:
                clear(node, context, array(node.inputs[1]), columns, out=False)
        for index, name in enumerate(node.inputs):
            if name in context.graph.constants and _additive(node, index):
                for axis in range(context.rank(name) or 0):
                    if (name, axis) in dead:
                        _clear(array(name), axis, dead[name, axis])
    return changed


def reweigh(
    context: Context,
    classes: Sequence[CouplingClass],
    factors: Sequence[np.ndarray],
    changed: Mapping[str, np.ndarray],
) -> dict[str, np.ndarray]:
    """New values of constants in which consumers read each unit with its factor ([units] of each class)."""
    result = dict(changed)
    for found, factor in zip(classes, factors, strict=True):
        for node, port in found.consumers:
            name = node.inputs[1]
            weight = np.array(result.get(name, context.graph.constants[name]))
            column = np.ones(context.size(*port) or 1)
            column[found.slices[port]] = factor[:, None]
            rule = layer(node, context)
            if isinstance(rule, Convolution):
                split = rule.grouped(weight, rule.groups(node))  # a view: [group, out, in, *kernel]
                split *= column.reshape(len(split), 1, -1, *[1] * (split.ndim - 3)).astype(weight.dtype)
            else:
                weight *= (column if node.attr("transB", 0) else column[:, None]).astype(weight.dtype)
            result[name] = weight
    return result


def clear(node: Node, context: Context, weight: np.ndarray, channels: np.ndarray, *, out: bool) -> None:
    """Set the weights of output (or input) channels of a layer to zero, in place."""
    rule = layer(node, context)
    if isinstance(rule, Convolution):
        split = rule.grouped(weight, rule.groups(node))  # a view: [group, out, in, *kernel]
        width = split.shape[1 if out else 2]
        if out:
            split[channels // width, channels % width] = 0
        else:
            split[channels // width, :, channels % width] = 0
    else:
        along_rows = bool(node.attr("transB", 0)) == out
        _clear(weight, 0 if along_rows else 1, channels)


def _additive(node: Node, index: int) -> bool:
    """Whether a constant operand alone can make a dead channel something else than zero."""
    if node.op == "BatchNormalization":
        return index in (1, 2)
    return node.op in ("Add", "Sub", "Sum") and not node.domain


def _clear(array: np.ndarray, axis: int, where: np.ndarray) -> None:
    if array.ndim and array.shape[axis] > int(where.max(initial=-1)):
        index: list[slice | np.ndarray] = [slice(None)] * array.ndim
        index[axis] = where
        array[tuple(index)] = 0


def write(graph: Graph, changed: Mapping[str, np.ndarray], biases: Mapping[int, np.ndarray]) -> onnx.ModelProto:
    """The model with new values of constant edges; its graph stays as it is.

    Weights that are listed as inputs, defaults that a caller could override, are constants from here on: what is pruned
    by its value has one. An initializer that several nodes read gets a copy for those that want other values. Below
    IR 4 every initializer is listed as an input, new ones too.

    Args:
        graph: the view.
        changed: by constant edge.
        biases: by node index: a bias for a layer that has none.
    """
    model = graph.model
    proto = onnx.ModelProto()
    proto.CopyFrom(model.proto)
    for value in [value for value in proto.graph.input if value.name in graph.default_inputs]:
        proto.graph.input.remove(value)
    taken = names_in(proto.graph)
    wanted: dict[str, list[tuple[Node, int]]] = {}
    for node in graph.nodes:
        for index, name in enumerate(node.inputs):
            if name in graph.constants:
                wanted.setdefault(graph.source[name], []).append((node, index))
    pinned = {graph.source[name] for name in graph.outputs if name in graph.source}
    pinned |= {name for node in graph.nodes for name in node.captured}
    for source, edges in wanted.items():
        if not any(node.inputs[index] in changed for node, index in edges):
            continue
        values = [changed.get(node.inputs[i], graph.constants[node.inputs[i]]) for node, i in edges]
        if source not in pinned and all(np.array_equal(value, values[0]) for value in values[1:]):
            _store(proto, model, source, values[0])
            continue
        for (node, index), value in zip(edges, values, strict=True):
            if node.inputs[index] in changed:
                name = _fresh(f"{source}_pruned", taken)
                _add(proto, name, value)
                proto.graph.node[node.position].input[index] = name
    for number, bias in biases.items():
        node = graph.nodes[number]
        name = _fresh(f"{node.name or node.outputs[0]}_bias", taken)
        _add(proto, name, bias)
        target = proto.graph.node[node.position].input
        if len(target) > 2:
            target[2] = name
        else:
            target.append(name)
    return proto


def _fresh(base: str, taken: set[str]) -> str:
    name, number = base, 1
    while name in taken:
        name, number = f"{base}{number}", number + 1
    taken.add(name)
    return name


def _add(proto: onnx.ModelProto, name: str, value: np.ndarray) -> None:
    """A new initializer."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    proto.graph.initializer.append(tensor)
    if proto.ir_version < 4:
        proto.graph.input.append(onnx.helper.make_tensor_value_info(name, tensor.data_type, tensor.dims))


def _store(proto: onnx.ModelProto, model: Model, name: str, value: np.ndarray) -> None:
    """Replace an initializer, or the value of a Constant node."""
    tensor = numpy_helper.from_array(np.ascontiguousarray(value), name)
    for initializer in proto.graph.initializer:
        if initializer.name == name:
            initializer.CopyFrom(tensor)
            return
    for node in proto.graph.node:
        if node.op_type == "Constant" and node.output[0] == name:
            attribute = onnx.helper.make_attribute("value", tensor)
            node.ClearField("attribute")
            node.attribute.append(attribute)
            return
    for number, sparse in enumerate(proto.graph.sparse_initializer):
        if sparse.values.name == name:
            del proto.graph.sparse_initializer[number]
            proto.graph.initializer.append(tensor)
            return
