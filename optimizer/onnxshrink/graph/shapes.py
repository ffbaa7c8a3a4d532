"""Shapes: onnx's inference on a skeleton without weights, refined by what is known of integer tensors.

With weights inside, inference serializes them (hundreds of MB for a small model), so the skeleton keeps only the
dimensions of large initializers. Inference loses dimensions behind computed shapes; whoever learns the values of
integer tensors passes them as `known`, and both repeat until neither learns more.
"""

from __future__ import annotations

import re

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, helper, numpy_helper, shape_inference

from ..errors import ModelError
from .model import Model
from .view import Dim, Graph, Shape

SMALL = 4096
STAND_IN_OPSET = 17
"""Opset of stand-ins in a model that imports no default one."""


def strip(tensor: TensorProto) -> None:
    """Drop the values of a large tensor in place, leaving its type and dimensions."""
    if np.prod([*tensor.dims], dtype=object) > SMALL or tensor.data_location == TensorProto.EXTERNAL:
        dims, dtype, name = list(tensor.dims), tensor.data_type, tensor.name
        tensor.Clear()
        tensor.dims.extend(dims)
        tensor.data_type, tensor.name = dtype, name


def skeleton(model: Model) -> onnx.ModelProto:
    """A copy of the model whose large constants have dimensions but no values."""
    copy = onnx.ModelProto()
    source = model.proto
    copy.ir_version = max(source.ir_version, 4)  # below, inference believes no initializer that is not an input
    copy.opset_import.extend(source.opset_import)
    copy.functions.extend(source.functions)
    graph = copy.graph
    graph.name = source.graph.name or "graph"
    graph.input.extend(source.graph.input)
    graph.output.extend(source.graph.output)
    if any(not dim.dim_value for value in graph.input for dim in value.type.tensor_type.shape.dim):
        for value in graph.output:  # numbers declared there may be those of one example
            for dim in value.type.tensor_type.shape.dim:
                dim.Clear()
    graph.value_info.extend(source.graph.value_info)
    _forget_numbered(graph)
    for tensor in source.graph.initializer:
        if np.prod([*tensor.dims], dtype=object) > SMALL or tensor.data_location == TensorProto.EXTERNAL:
            graph.initializer.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims)
        else:
            graph.initializer.add().CopyFrom(tensor)
    for sparse in source.graph.sparse_initializer:
        values = sparse.values
        graph.initializer.add(name=values.name, data_type=values.data_type, dims=sparse.dims)
    for node in source.graph.node:
        added = graph.node.add()
        added.CopyFrom(node)
        added.ClearField("metadata_props")
        if added.op_type == "Constant":
            for attribute in added.attribute:
                if attribute.type == AttributeProto.TENSOR:
                    strip(attribute.t)
    if not _declarations_hold(copy, model.name):
        del graph.value_info[:]
    return copy


def _forget_numbered(graph: onnx.GraphProto) -> None:
    """Take away the names that inference gave, in an earlier run, to what it did not know; in place.

    They say that two dimensions are equal, and of all others that they may differ: of an input's, too.
    """
    inputs = {dim.dim_param for value in graph.input for dim in value.type.tensor_type.shape.dim}
    for value in graph.value_info:
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_param.startswith("unk__") and dim.dim_param not in inputs:
                dim.Clear()


def _declarations_hold(model: onnx.ModelProto, name: str) -> bool:
    """Whether no tensor within is declared to have a number where the name of an input's dimension arrives.

    Such a number is that of one example, in a file whose inputs were made dynamic later; so may then be all the others.
    """
    dynamic = any(not dim.dim_value for value in model.graph.input for dim in value.type.tensor_type.shape.dim)
    if not dynamic or not model.graph.value_info:
        return True
    bare = onnx.ModelProto()
    bare.CopyFrom(model)
    del bare.graph.value_info[:]
    inferred = inferred_types(bare, name).graph
    names = {dim.dim_param for value in inferred.input for dim in value.type.tensor_type.shape.dim} - {""}
    found = {value.name: value.type.tensor_type.shape.dim for value in inferred.value_info}
    return not any(
        told.dim_value and dim.dim_param in names
        for value in model.graph.value_info
        for told, dim in zip(value.type.tensor_type.shape.dim, found.get(value.name, ()), strict=False)
    )


StandIns = dict[int, list[onnx.NodeProto]]
"""By a node's position in the file: the nodes that inference sees instead of it."""


def infer(graph: Graph, known: dict[str, np.ndarray], dims: dict[str, Shape], stand_ins: StandIns) -> None:
    """Set `graph.shapes` and `graph.dtypes` of computed tensors, in place.

    Args:
        known: values of integer tensors that were computed from shapes; given to inference as constants.
        dims: dimensions of tensors learnt elsewhere, given to inference as declared shapes; where inference has a name
            of its own for a dimension, it is added, so that the next inference knows it.
        stand_ins: for operators that inference does not know, nodes that give the same shapes.
    """
    bare = skeleton(graph.model)
    _stand_in(bare, stand_ins)
    _substitute(bare, known)
    _rename(dims)
    _declare(bare, dims, graph.dtypes)
    inferred = inferred_types(bare, graph.model.name).graph
    taken = {d.dim_param for value in inferred.input for d in value.type.tensor_type.shape.dim}
    names: dict[str, str] = {}
    for value in [*inferred.input, *inferred.value_info, *inferred.output]:
        if not value.type.HasField("tensor_type"):
            continue
        tensor = value.type.tensor_type
        if tensor.elem_type and tensor.elem_type != TensorProto.STRING:
            graph.dtypes[value.name] = np.dtype(helper.tensor_dtype_to_np_dtype(tensor.elem_type))
        if tensor.HasField("shape"):
            told = dims.get(value.name, ())
            for axis, dim in enumerate(tensor.shape.dim):
                # inference numbers what it does not know afresh each time; the place of the first is a name that lasts
                if dim.dim_param.startswith("unk__") and dim.dim_param not in taken:
                    name = told[axis] if len(told) == len(tensor.shape.dim) else None
                    place = f"{value.name}[{axis}]"
                    dim.dim_param = names.setdefault(dim.dim_param, name if isinstance(name, str) else place)
            graph.shapes[value.name] = tuple(_dim(d) for d in tensor.shape.dim)
            if any(d.dim_param.startswith(f"{value.name}[") for d in tensor.shape.dim):
                dims.setdefault(value.name, graph.shapes[value.name])


def inferred_types(bare: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """A model with onnx's inference of its types, those of the inputs of bodies included.

    Raises:
        ModelError: inference refuses the model, which is named `name`.
    """
    try:
        return shape_inference.infer_shapes(bare, data_prop=True)
    except Exception as error:  # C++ InferenceError, or a decode error of a malformed proto
        raise ModelError(f"shape inference fails: {error}", file=name) from error


def _dim(dim: onnx.TensorShapeProto.Dimension) -> int | str | None:
    if dim.HasField("dim_value"):
        return int(dim.dim_value) if dim.dim_value > 0 else None  # of nothing, nothing can be cut
    return dim.dim_param or None


def _stand_in(bare: onnx.ModelProto, stand_ins: StandIns) -> None:
    if not stand_ins:
        return
    nodes = [n for position, node in enumerate(bare.graph.node) for n in stand_ins.get(position, [node])]
    kept = [onnx.NodeProto.FromString(n.SerializeToString()) for n in nodes]
    del bare.graph.node[:]
    bare.graph.node.extend(kept)
    if not any(o.domain in ("", "ai.onnx") for o in bare.opset_import):
        bare.opset_import.append(helper.make_opsetid("", STAND_IN_OPSET))


def _substitute(bare: onnx.ModelProto, known: dict[str, np.ndarray]) -> None:
    for name, value in known.items():
        bare.graph.initializer.append(numpy_helper.from_array(value, f"{name}@known"))
    for node in bare.graph.node:
        for index, name in enumerate(node.input):
            if name in known:
                node.input[index] = f"{name}@known"


def _rename(dims: dict[str, Shape]) -> None:
    """Put what is known by now where names stood for it, in place: "t[0]" is the length of the axis 0 of t."""
    better = {
        f"{name}[{axis}]": dim
        for name, shape in dims.items()
        for axis, dim in enumerate(shape)
        if dim is not None and dim != f"{name}[{axis}]"
    }

    def resolved(dim: Dim) -> Dim:
        seen: set[Dim] = set()
        while isinstance(dim, str) and dim in better and dim not in seen:
            seen.add(dim)
            dim = better[dim]
        return dim

    for name, shape in dims.items():
        dims[name] = tuple(resolved(dim) for dim in shape)


def _declare(bare: onnx.ModelProto, dims: dict[str, Shape], dtypes: dict[str, np.dtype]) -> None:
    declared = {v.name: v for v in [*bare.graph.value_info, *bare.graph.output]}
    for name, shape in dims.items():
        value = declared.get(name)
        if value is None and name in dtypes:
            value = bare.graph.value_info.add(name=name)
            value.type.tensor_type.elem_type = helper.np_dtype_to_tensor_dtype(dtypes[name])
        if value is None or not value.type.HasField("tensor_type"):
            continue
        target = value.type.tensor_type.shape
        del target.dim[:]
        for dim in shape:
            entry = target.dim.add()
            if isinstance(dim, int):
                entry.dim_value = dim
            elif dim:
                entry.dim_param = dim


def same(a: int | str | None, b: int | str | None) -> bool:
    """Whether two dimensions are provably equal (symbols invented by inference count, unknown ones do not)."""
    return a is not None and a == b and not (isinstance(a, str) and re.fullmatch(r"\?|-1|None", a))
