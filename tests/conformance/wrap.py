"""Puts a model between gates and readers, so that an operator that nobody here wrote stands in the middle of a network.

A gate is a MatMul by a diagonal matrix in front of an input, along one axis: some of its columns are zero, so these
slices of the input are dead (or constant, with a bias Add behind). A reader is a chain of MatMuls behind an output, one
for each axis, so that no axis is seen by the graph's output; some rows are zero, so these slices are not read.
Numbers that are no floats are cast on the way, which is exact here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

FLOATS = (TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.DOUBLE)
OUTPUTS = 3
"""Columns of a reader's matrix."""


NEWER = 13
"""Models of older opsets are brought to this one, where their operators did not change in between."""


class Wrapped:
    """A model under construction around another one, whose inputs have the values `feeds`.

    Attributes:
        unread: output of a reader's MatMul -> how many slices it does not read.
    """

    def __init__(self, model: ModelProto, feeds: Mapping[str, Any], seed: int):
        self.model = ModelProto()
        self.model.CopyFrom(model)
        self.feeds = dict(feeds)
        self.rng = np.random.default_rng(seed)
        self.unread: dict[str, int] = {}
        self._before: list[NodeProto] = []
        self._after: list[NodeProto] = []
        self._weights: list[TensorProto] = []
        self._dtypes = {v.name: v.type.tensor_type.elem_type for v in model.graph.input}
        own = next((opset for opset in self.model.opset_import if not opset.domain), None)
        if own is None:
            self.model.opset_import.append(helper.make_opsetid("", 21))
        elif own.version < NEWER and all(_unchanged(node, own.version) for node in model.graph.node):
            own.version = NEWER

    def constant(self, name: str, array: np.ndarray) -> None:
        """Make an input an initializer, or give an initializer this value."""
        if self.feeds.pop(name, None) is not None:
            inputs = self.model.graph.input
            del inputs[[v.name for v in inputs].index(name)]
            self._weights.append(numpy_helper.from_array(array, name))
            return
        tensor = next(t for t in self.model.graph.initializer if t.name == name)
        tensor.CopyFrom(numpy_helper.from_array(array, name))

    def gate(self, name: str, axis: int, dead: Sequence[int], value: float = 0.0) -> None:
        """Slices `dead` of an input hold `value`, whatever is fed; the MatMul's output is `<name>:gate`."""
        array = np.asarray(self.feeds[name])
        kind = self._dtypes[name]
        width = array.shape[axis]
        matrix = np.eye(width)
        matrix[:, list(dead)] = 0
        offset = np.zeros(width)
        offset[list(dead)] = value
        self._rename_input(name, f"{name}:in")
        floating = kind if kind in FLOATS else TensorProto.FLOAT
        nodes = self._before
        last = f"{name}:in"
        if kind != floating:
            last = self._node(nodes, "Cast", [last], f"{name}:float", to=floating)
        if array.ndim == 1:
            last = self._node(nodes, "Reshape", [last, self._weight(np.array([1, width]))], f"{name}:row")
        perm = [a for a in range(array.ndim) if a != axis] + [axis]
        moved = perm != list(range(array.ndim))
        if moved:
            last = self._node(nodes, "Transpose", [last], f"{name}:last", perm=perm)
        last = self._node(nodes, "MatMul", [last, self._weight(matrix, floating)], f"{name}:gate")
        if value:
            last = self._node(nodes, "Add", [last, self._weight(offset, floating)], f"{name}:offset")
        if moved:
            last = self._node(nodes, "Transpose", [last], f"{name}:back", perm=[int(i) for i in np.argsort(perm)])
        if array.ndim == 1:
            last = self._node(nodes, "Reshape", [last, self._weight(np.array([width]))], f"{name}:flat")
        if kind != floating:
            self._node(nodes, "Cast", [last], name, to=kind)
        else:
            self._node(nodes, "Identity", [last], name)

    def read(self, name: str, array: np.ndarray, unread: Mapping[int, Sequence[int]], first: int | None = None) -> None:
        """Contract every axis of an output, of which `array` is an example.

        Args:
            unread: slices of each axis that are not read.
            first: the axis that is contracted first, where there is such an axis.
        """
        graph = self.model.graph
        value = next(v for v in graph.output if v.name == name)
        kind = value.type.tensor_type.elem_type
        floating = kind if kind in FLOATS else TensorProto.FLOAT
        last = name
        if kind != floating:
            last = self._node(self._after, "Cast", [last], f"{name}:float", to=floating)
        shape = list(array.shape)
        if array.ndim == 1:
            last = self._node(self._after, "Reshape", [last, self._weight(np.array([1, shape[0]]))], f"{name}:row")
        for axis in sorted(range(array.ndim), key=lambda a: a != first):
            perm = list(range(array.ndim))
            perm[axis], perm[-1] = perm[-1], perm[axis]
            swapped = perm[axis] != axis
            matrix = self.rng.standard_normal((shape[axis], OUTPUTS))
            matrix[list(unread.get(axis, ()))] = 0
            if swapped:
                last = self._node(self._after, "Transpose", [last], f"{name}:last{axis}", perm=perm)
            last = self._node(self._after, "MatMul", [last, self._weight(matrix, floating)], f"{name}:read{axis}")
            self.unread[last] = len(unread.get(axis, ()))
            if swapped:
                last = self._node(self._after, "Transpose", [last], f"{name}:back{axis}", perm=perm)
        inner = onnx.ValueInfoProto()
        inner.CopyFrom(value)
        graph.value_info.append(inner)
        value.name = last
        value.type.CopyFrom(helper.make_tensor_type_proto(floating, [1] * (array.ndim == 1) + [OUTPUTS] * array.ndim))

    def build(self) -> ModelProto:
        """The model."""
        graph = self.model.graph
        middle = [NodeProto.FromString(node.SerializeToString()) for node in graph.node]
        del graph.node[:]
        graph.node.extend([*self._before, *middle, *self._after])
        graph.initializer.extend(self._weights)
        return self.model

    def _node(self, nodes: list[NodeProto], op: str, inputs: list[str], output: str, **attributes: Any) -> str:
        nodes.append(helper.make_node(op, inputs, [output], name=f"node {output}", **attributes))
        return output

    def _weight(self, array: np.ndarray, kind: int = TensorProto.INT64) -> str:
        name = f"planted:{len(self._weights)}"
        self._weights.append(numpy_helper.from_array(array.astype(helper.tensor_dtype_to_np_dtype(kind)), name))
        return name

    def _rename_input(self, name: str, new: str) -> None:
        graph = self.model.graph
        value = next(v for v in graph.input if v.name == name)
        inner = onnx.ValueInfoProto()
        inner.CopyFrom(value)
        graph.value_info.append(inner)
        value.name = new
        self.feeds[new] = self.feeds.pop(name)


def zeros_left(model: ModelProto, output: str, axis: int) -> int:
    """How many columns (axis 0 is summed) or rows (axis 1) of the matrix of a gate or reader are zero.

    None are where the MatMul is gone.
    """
    node = next((n for n in model.graph.node if output in n.output), None)
    tensors = {t.name: t for t in model.graph.initializer}
    if node is None or node.op_type != "MatMul" or node.input[1] not in tensors:
        return 0
    return int((numpy_helper.to_array(tensors[node.input[1]]) == 0).all(axis=axis).sum())


def _unchanged(node: NodeProto, opset: int) -> bool:
    """Whether an operator means the same in an older opset and in `NEWER`."""
    try:
        now, then = (onnx.defs.get_schema(node.op_type, version, node.domain) for version in (NEWER, opset))
    except onnx.defs.SchemaError:
        return False
    return bool(now.since_version == then.since_version)
