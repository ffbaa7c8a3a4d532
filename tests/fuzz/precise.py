"""The same model in double precision, for onnx's reference implementation: what is left then is no rounding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, TensorProto, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.zoo.oracle import Arrays

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def in_double(model: ModelProto, scale: Mapping[str, np.ndarray] | None = None) -> ModelProto:
    """A copy in which every float is a double; initializers are multiplied by `scale` where that names them."""
    copy = ModelProto()
    copy.CopyFrom(model)
    _graph(copy.graph, scale or {})
    return copy


def _graph(graph: GraphProto, scale: Mapping[str, np.ndarray]) -> None:
    for value in [*graph.input, *graph.output, *graph.value_info]:
        if value.type.tensor_type.elem_type in FLOATS:
            value.type.tensor_type.elem_type = TensorProto.DOUBLE
    for tensor in graph.initializer:
        _tensor(tensor, scale.get(tensor.name))
    for sparse in graph.sparse_initializer:
        _tensor(sparse.values, None)
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                _tensor(attribute.t, None)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                _graph(attribute.g, scale)
            elif attribute.name == "to" and node.op_type == "Cast" and attribute.i in FLOATS:
                attribute.i = TensorProto.DOUBLE


def _tensor(tensor: TensorProto, scale: np.ndarray | None) -> None:
    if tensor.data_type in FLOATS:
        array = numpy_helper.to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(array if scale is None else array * scale, tensor.name))


def run_double(model: ModelProto, arrays: Arrays) -> Arrays | None:
    """Outputs of a model of doubles (`in_double`) by the reference, None where it does not implement it."""
    feeds = {n: a.astype(np.float64) if a.dtype.kind == "f" else a for n, a in arrays.items()}
    try:
        evaluator = ReferenceEvaluator(model)
        with np.errstate(all="ignore"):
            results = evaluator.run(None, feeds)
    except Exception:  # it raises many types for what it does not know
        return None
    return {n: np.asarray(r) for n, r in zip(evaluator.output_names, results, strict=True)}
