"""Plausible scales for random networks: BatchNormalization statistics and logits measured on a random batch."""

from __future__ import annotations

import numpy as np
from onnx import ModelProto, TensorProto, helper, numpy_helper

from . import oracle


def batch_statistics(model: ModelProto, arrays: oracle.Arrays) -> dict[str, np.ndarray]:
    """The mean and variance that each BatchNormalization would see in training mode, by initializer name.

    Every node's stored statistics are replaced in a copy by statistics of its own input, so one run settles all layers.
    Works up to opset 17, where ReduceMean has its axes in an attribute.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    nodes, measured = [], {}
    for node in copy.graph.node:
        if node.op_type == "BatchNormalization":
            x, stem = node.input[0], node.output[0]
            mean, var = f"{stem}:mean", f"{stem}:var"
            nodes += [
                helper.make_node("ReduceMean", [x], [f"{mean}:kept"], axes=[0, 2, 3], keepdims=1),
                helper.make_node("Sub", [x, f"{mean}:kept"], [f"{stem}:centered"]),
                helper.make_node("Mul", [f"{stem}:centered", f"{stem}:centered"], [f"{stem}:square"]),
                helper.make_node("ReduceMean", [f"{stem}:square"], [var], axes=[0, 2, 3], keepdims=0),
                helper.make_node("ReduceMean", [x], [mean], axes=[0, 2, 3], keepdims=0),
            ]
            measured[mean], measured[var] = node.input[3], node.input[4]
            node.input[3], node.input[4] = mean, var
        nodes.append(node)
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    copy.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in measured)
    answer = oracle.run(copy, arrays)
    return {initializer: answer[name] for name, initializer in measured.items()}


def set_initializers(model: ModelProto, arrays: dict[str, np.ndarray]) -> None:
    """Replaces the values of initializers in place; their types stay."""
    for tensor in model.graph.initializer:
        if tensor.name in arrays:
            dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type)
            tensor.CopyFrom(numpy_helper.from_array(arrays[tensor.name].astype(dtype), tensor.name))
