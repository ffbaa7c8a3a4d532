"""Bodies of If, Loop, Scan and SequenceMap, each cut for itself.

A body becomes a model of its own: what it is given and what it reads from around it are inputs, weights around it
that it reads are its initializers. Inputs and outputs stay whole, as those of any model, so the node around it need
not change. What is known of an outer tensor holds inside as well, in every iteration of a loop; of what an iteration
hands on to the next nothing is known. Bodies inside bodies follow by themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import onnx
from onnx import AttributeProto, helper, numpy_helper

from .channels.facts import understand
from .graph.order import captured, read_outside
from .graph.shapes import inferred_types, skeleton
from .graph.view import Graph, Node, build, constant_value, names_in
from .ops.rule import Context

HOLDERS = ("If", "Loop", "Scan", "SequenceMap")


def cut_bodies(graph: Graph, cut: Callable[[Node, str, Graph], onnx.GraphProto | None]) -> Graph:
    """The view with every body replaced by a smaller one; the view itself where nothing can go.

    Args:
        graph: as `graph.view.build` made it; it gains shapes.
        cut: given a node, the name of the attribute that holds a body, and the body's view: the body after the cut,
            None where nothing can go.
    """
    holders = [n for n in graph.nodes if n.op in HOLDERS and not n.domain]
    if not holders:
        return graph
    around = _Around(graph, understand(graph))
    proto: onnx.ModelProto | None = None
    nodes = list(graph.nodes)
    for node in holders:
        for index, attribute in enumerate(node.proto.attribute):
            if attribute.type != AttributeProto.GRAPH:
                continue
            found = cut(node, attribute.name, around.view(node, index))
            if found is None:
                continue
            if proto is None:
                proto = onnx.ModelProto()
                proto.CopyFrom(graph.model.proto)
            holder = proto.graph.node[node.position]
            holder.attribute[index].g.CopyFrom(around.body(attribute.g, found))
            outer = tuple(name for name in node.captured if name in captured(holder))
            nodes[node.index] = replace(node, proto=holder, captured=outer)
    if proto is None:
        return graph
    model = replace(graph.model, proto=proto, given=graph.model.original)
    return replace(graph, model=model, nodes=nodes)


class _Around:
    """What the bodies of a graph see of it."""

    def __init__(self, graph: Graph, context: Context):
        self._graph, self._context = graph, context
        source = graph.model.proto
        inferred = inferred_types(skeleton(graph.model), graph.model.name).graph
        self._inferred = inferred.node
        self._types = {v.name: v for v in [*inferred.input, *inferred.value_info, *inferred.output]}
        self._weights = {t.name: t for t in source.graph.initializer if t.name not in graph.inputs}
        self._sparse = {t.values.name: t for t in source.graph.sparse_initializer}
        for node in source.graph.node:
            array = constant_value(graph.model, node)
            if array is not None:
                self._weights[node.output[0]] = numpy_helper.from_array(array, node.output[0])
        self._names = frozenset(names_in(source.graph, inside=False)) | graph.model.outer

    def view(self, node: Node, index: int) -> Graph:
        """The view of a body: attribute number `index` of a node."""
        body = node.proto.attribute[index].g
        model = onnx.ModelProto()
        source = self._graph.model.proto
        model.ir_version = source.ir_version
        model.opset_import.extend(source.opset_import)
        model.functions.extend(source.functions)
        model.graph.CopyFrom(body)
        for value, typed in zip(model.graph.input, self._inferred[node.position].attribute[index].g.input, strict=True):
            if not value.type.tensor_type.HasField("shape"):
                value.CopyFrom(_apart(typed))
        outside = sorted(read_outside(body))
        for name in outside:
            if name in self._weights:
                model.graph.initializer.add().CopyFrom(self._weights[name])
            elif name in self._sparse:
                model.graph.sparse_initializer.add().CopyFrom(self._sparse[name])
            else:
                model.graph.input.add().CopyFrom(_apart(self._value(name)))
        view = build(replace(self._graph.model, proto=model, given=None, outer=self._names))
        view.outside = {n: self._context.facts[n] for n in outside if n in self._context.facts and n in view.inputs}
        return view

    def _value(self, name: str) -> onnx.ValueInfoProto:
        """Name and type of a tensor."""
        shape, dtype = self._graph.shapes.get(name), self._graph.dtypes.get(name)
        if shape is None or dtype is None:
            return self._types.get(name, onnx.ValueInfoProto(name=name))
        return helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(dtype), shape)

    def body(self, before: onnx.GraphProto, after: onnx.GraphProto) -> onnx.GraphProto:
        """A body that was cut as a model, without what was lent to that."""
        lent = read_outside(before)
        result = onnx.GraphProto()
        result.CopyFrom(after)
        del result.input[:], result.initializer[:], result.sparse_initializer[:]
        result.input.extend(before.input)
        result.initializer.extend(t for t in after.initializer if t.name not in lent)
        result.sparse_initializer.extend(t for t in after.sparse_initializer if t.values.name not in lent)
        return result


def _apart(value: onnx.ValueInfoProto) -> onnx.ValueInfoProto:
    """A copy whose symbolic dimensions cannot be mistaken for those that the body declares."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    for dim in copy.type.tensor_type.shape.dim if copy.type.tensor_type.HasField("shape") else ():
        if dim.dim_param:
            dim.dim_param = f"outer {dim.dim_param}"
    return copy
