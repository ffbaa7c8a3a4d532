"""Surgery on the graph: the only importer of onnx-graphsurgeon.

onnx-graphsurgeon is a view; the protobuf stays the truth. The view is made of a skeleton without weights, edited,
cleaned of what no output needs, and exported; then every node that was not edited is taken from the source as it
was, so that nothing the view cannot hold (metadata, documentation, overloads, odd attributes) is lost.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from onnx import AttributeProto, helper, numpy_helper

from ..errors import ModelError
from .model import Model
from .order import captured
from .shapes import skeleton
from .view import Shape

MARK = "@"
"""Prefix of a node's name in the view: its position in the file follows, so that it is found again."""

gs.logger.G_LOGGER.severity = gs.logger.G_LOGGER.CRITICAL  # its warnings are for interactive use


@dataclass
class NodeEdit:
    """What a node becomes: names of inputs and outputs, attributes to set (None: to remove), another operator."""

    inputs: list[str]
    outputs: list[str]
    attributes: dict[str, Any] = field(default_factory=dict)
    op: str | None = None


@dataclass
class Edits:
    """Everything that changes in a graph.

    Attributes:
        nodes: by position in the file.
        added: (position before which it goes, operator, inputs, outputs, attributes).
        constants: new constants and new values of old ones, by name.
        dims: new shapes, by tensor name; None where the declared shape is to be dropped.
        inputs: names of graph inputs that leave the list (defaults that became constants).
    """

    nodes: dict[int, NodeEdit] = field(default_factory=dict)
    added: list[tuple[int, str, list[str], list[str], dict[str, Any]]] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    dims: dict[str, Shape | None] = field(default_factory=dict)
    inputs: set[str] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.nodes or self.added or self.constants)


def operate(model: Model, edits: Edits) -> onnx.ModelProto:
    """The model after the edits, without nodes and constants that no output needs. The source is not changed.

    Raises:
        ModelError: onnx-graphsurgeon cannot hold the graph.
    """
    source = model.proto
    try:
        graph = gs.import_onnx(_importable(model))
        _edit(graph, edits)
        graph.cleanup(remove_unused_graph_inputs=False)
        exported = gs.export_onnx(graph, do_type_check=False)
    except (
        KeyError,
        ValueError,
        TypeError,
        UnboundLocalError,
        UnicodeDecodeError,
        gs.util.exception.OnnxGraphSurgeonException,
    ) as error:
        raise ModelError(f"onnx-graphsurgeon cannot edit this graph: {error}", file=model.name) from error
    return _graft(source, exported, edits)


def _importable(model: Model) -> onnx.ModelProto:
    """The skeleton without types that onnx-graphsurgeon cannot hold: of optionals, maps and sparse tensors."""
    bare = skeleton(model)
    for value in [*bare.graph.input, *bare.graph.output, *bare.graph.value_info]:
        if value.type.WhichOneof("value") not in ("tensor_type", "sequence_type"):
            value.ClearField("type")
    return bare


def _edit(graph: gs.Graph, edits: Edits) -> None:
    tensors = graph.tensors()
    nodes = list(graph.nodes)
    originals = {id(node): position for position, node in enumerate(nodes)}
    for position, node in enumerate(nodes):
        node.name = f"{MARK}{position}"

    def tensor(name: str) -> gs.Tensor:
        if not name:
            return gs.Variable.empty()
        if name in edits.constants and name not in fresh:
            fresh[name] = gs.Constant(name, np.zeros(1, np.float32))
        if name in fresh:
            return fresh[name]
        if name not in tensors:
            tensors[name] = gs.Variable(name)
        return tensors[name]

    fresh: dict[str, gs.Constant] = {}
    replaced = {id(n) for n in nodes if n.op == "Constant" and n.outputs and n.outputs[0].name in edits.constants}
    for position, edit in edits.nodes.items():
        node = nodes[position]
        node.inputs = [tensor(name) for name in edit.inputs]
        node.outputs = [tensor(name) for name in edit.outputs]
        if edit.op:
            node.op = edit.op
        for name, value in edit.attributes.items():
            if value is None:
                node.attrs.pop(name, None)
            else:
                node.attrs[name] = value
    before: dict[int, list[gs.Node]] = {}
    for position, op, inputs, outputs, attributes in edits.added:
        made = gs.Node(op, f"{outputs[0]}_{op}", attributes)
        made.inputs, made.outputs = [tensor(n) for n in inputs], [tensor(n) for n in outputs]
        before.setdefault(position, []).append(made)
    # lists are rebuilt: removing nodes one by one compares them all
    order: list[gs.Node] = []
    for node in nodes:
        order += before.get(originals[id(node)], [])
        if id(node) not in replaced:
            order.append(node)
    graph.nodes = [*order, *before.get(len(nodes), ())]


def _graft(source: onnx.ModelProto, exported: onnx.ModelProto, edits: Edits) -> onnx.ModelProto:
    """The exported graph with everything that was not edited taken from the source."""
    result = onnx.ModelProto()
    result.CopyFrom(_without_body(source))
    weights = {t.name: t for t in source.graph.initializer}
    sparse = {t.values.name: t for t in source.graph.sparse_initializer}
    constants = dict(edits.constants)
    listed_only = source.ir_version < 4
    used: set[str] = {o.name for o in source.graph.output}
    for node in exported.graph.node:
        position = _position(node)
        if position is None or position in edits.nodes:
            used |= set(node.input) if position is None else set(node.input) | captured(source.graph.node[position])
        else:
            used |= _mentioned(source.graph.node[position])
    # before IR 4 an initializer must be listed as an input, so a constant without an old name becomes a node
    for name in [c for c in constants if listed_only and c not in weights]:
        if name in used:
            result.graph.node.append(
                helper.make_node("Constant", [], [name], value=numpy_helper.from_array(constants[name], name))
            )
        del constants[name]
    made = {o for n in result.graph.node for o in n.output}
    names = {node.name for node in source.graph.node}
    for node in exported.graph.node:
        position = _position(node)
        if position is None:
            node.name = _unused(node.name, names)
            result.graph.node.append(node)
            continue
        original = source.graph.node[position]
        if original.op_type == "Constant" and original.output[0] in made | set(edits.constants):
            continue
        if position not in edits.nodes:
            result.graph.node.append(original)
        else:
            node.name, node.doc_string = original.name, original.doc_string
            moved = edits.nodes[position].op is not None  # to an operator of the default domain
            node.domain, node.overload = ("", "") if moved else (original.domain, original.overload)
            for attribute in node.attribute:  # a body reads what it read
                for before in original.attribute:
                    if attribute.type == AttributeProto.GRAPH and before.name == attribute.name:
                        attribute.CopyFrom(before)
            del node.metadata_props[:]
            node.metadata_props.extend(original.metadata_props)
            result.graph.node.append(node)
    written: set[str] = set()
    for tensor in source.graph.initializer:
        if tensor.name in constants:
            if tensor.name in used:
                added = numpy_helper.from_array(constants[tensor.name], tensor.name)
                added.doc_string = tensor.doc_string
                result.graph.initializer.append(added)
                written.add(tensor.name)
        elif tensor.name in used:
            result.graph.initializer.append(tensor)
            written.add(tensor.name)
    for name, array in constants.items():
        if name in used and name not in written:
            result.graph.initializer.append(numpy_helper.from_array(array, name))
    result.graph.sparse_initializer.extend(t for n, t in sparse.items() if n in used and n not in constants)
    _interface(source, result, edits, used, weights)
    return result


def _position(node: onnx.NodeProto) -> int | None:
    """Where an exported node was in the file; None for a new one."""
    return int(node.name[len(MARK) :]) if node.name.startswith(MARK) else None


def _unused(name: str, names: set[str]) -> str:
    """`name`, or the first numbered form of it that no node has; noted in `names`."""
    candidate, number = name, 1
    while candidate in names:
        candidate, number = f"{name}_{number}", number + 1
    names.add(candidate)
    return candidate


def _without_body(source: onnx.ModelProto) -> onnx.ModelProto:
    """A copy of the model's frame: everything but nodes, weights and declared shapes."""
    bare = onnx.ModelProto()
    for descriptor, value in source.ListFields():
        if descriptor.name != "graph":
            if descriptor.is_repeated:
                getattr(bare, descriptor.name).extend(value)
            else:
                setattr(bare, descriptor.name, value)
    for descriptor, value in source.graph.ListFields():
        if descriptor.name in ("node", "initializer", "sparse_initializer", "value_info", "input", "output"):
            continue
        if descriptor.is_repeated:
            getattr(bare.graph, descriptor.name).extend(value)
        else:
            setattr(bare.graph, descriptor.name, value)
    return bare


def _mentioned(node: onnx.NodeProto) -> set[str]:
    """Names that a node or its bodies read."""
    return set(node.input) | captured(node)


def _interface(
    source: onnx.ModelProto,
    result: onnx.ModelProto,
    edits: Edits,
    used: set[str],
    weights: dict[str, onnx.TensorProto],
) -> None:
    """Inputs, outputs and declared shapes: as they were, with new dimensions where something was cut."""
    kept = {t.name for t in result.graph.initializer}
    for value in source.graph.input:
        if value.name in edits.inputs or (value.name in weights and value.name not in kept):
            continue  # a default that became a constant, or whose weight is gone: never leave it required
        added = result.graph.input.add()
        added.CopyFrom(value)
        if value.name in edits.constants:
            _resize(added, tuple(edits.constants[value.name].shape))
    result.graph.output.extend(source.graph.output)
    produced = {o for n in result.graph.node for o in n.output} | kept
    for value in source.graph.value_info:
        if value.name not in produced or (value.name in edits.dims and edits.dims[value.name] is None):
            continue
        added = result.graph.value_info.add()
        added.CopyFrom(value)
        dims = edits.dims.get(value.name) or (
            tuple(edits.constants[value.name].shape) if value.name in edits.constants else None
        )
        if dims is not None:
            _resize(added, dims)


def _resize(value: onnx.ValueInfoProto, dims: Shape) -> None:
    """Write new known dimensions into a declared shape; symbolic ones stay."""
    shape = value.type.tensor_type.shape
    if len(shape.dim) != len(dims):
        return
    for entry, dim in zip(shape.dim, dims, strict=True):
        if isinstance(dim, int) and not entry.dim_param:
            entry.dim_value = dim
