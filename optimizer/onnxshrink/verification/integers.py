"""Values of the small tensors that compute shapes, known in part: elements are numbers, symbols or None.

NumPy's object arrays carry them, so that Gather, Concat and Slice are what they are on any tensor.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from .facts import Facts, attribute

#: Tensors up to this many elements have their values followed (shape operands, Gather indices); weights never do.
VALUE_LIMIT = 4096
FLOATS = (TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16)


def _get(node: onnx.NodeProto, facts: Facts, i: int) -> np.ndarray:
    return facts.values[node.input[i]]


def _axes(node: onnx.NodeProto, facts: Facts) -> list[int] | None:
    if len(node.input) > 1 and node.input[1]:
        return [int(v) for v in _get(node, facts, 1).reshape(-1)]
    return attribute(node, "axes")


def _pairwise(
    op: Callable[[Any, Any], Any], neutral: int | None, absorbing: int | None = None
) -> Callable[[onnx.NodeProto, Facts], np.ndarray]:
    """An operator on two tensors: what is not known stays so, except beside its neutral (right) or absorbing number."""

    def one(a: Any, b: Any) -> Any:
        if isinstance(a, int) and isinstance(b, int):
            return op(a, b)
        if isinstance(a, (int, float)) and isinstance(b, (int, float)):
            # In single precision as the runtime does: 10 * float32(0.7) floors to 7 there and to 6 in double.
            return float(op(np.float32(a), np.float32(b)))
        if absorbing is not None and any(type(v) is int and v == absorbing for v in (a, b)):
            return absorbing
        return a if neutral is not None and b == neutral else None

    def rule(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
        a, b = np.broadcast_arrays(_get(node, facts, 0), _get(node, facts, 1))
        return _array([one(x, y) for x, y in zip(a.reshape(-1), b.reshape(-1), strict=True)], a.shape)

    return rule


def _where_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
    condition, x, y = np.broadcast_arrays(*(_get(node, facts, i) for i in range(3)))

    def one(c: Any, a: Any, b: Any) -> Any:
        if isinstance(c, int):
            return a if c else b
        return a if a == b else None

    sides = zip(condition.reshape(-1), x.reshape(-1), y.reshape(-1), strict=True)
    return _array((one(*side) for side in sides), condition.shape)


def _array(elements: Iterable[Any], shape: tuple[int, ...]) -> np.ndarray:
    flat = list(elements)
    result = np.empty(len(flat), dtype=object)
    for i, v in enumerate(flat):
        result[i] = v
    return result.reshape(shape)


def _shape_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray | None:
    shape = facts.shape(node.input[0])
    if shape is None:
        return None
    part = shape[slice(attribute(node, "start", 0), attribute(node, "end"))]
    return _array(part, (len(part),))


def _slice_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray | None:
    x = _get(node, facts, 0)
    if len(node.input) > 1:
        rows = [[int(v) for v in _get(node, facts, i).reshape(-1)] for i in range(1, len(node.input)) if node.input[i]]
    else:
        rows = [list(attribute(node, "starts")), list(attribute(node, "ends")), list(attribute(node, "axes") or [0])]
    if x.ndim != 1 or any(len(r) != 1 for r in rows):
        return None
    step = rows[3][0] if len(rows) > 3 else 1
    return None if step < 0 else x[rows[0][0] : rows[1][0] : step]


def _cast_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
    x = _get(node, facts, 0)
    kind = float if attribute(node, "to") in FLOATS else int
    return _array((kind(v) if isinstance(v, (int, float)) else v for v in x.reshape(-1)), x.shape)


def _unsqueeze_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
    return np.expand_dims(_get(node, facts, 0), tuple(_axes(node, facts) or ()))


def _squeeze_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
    axes = _axes(node, facts)
    return np.squeeze(_get(node, facts, 0), tuple(axes) if axes else None)


def _gather_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
    picked = np.take(_get(node, facts, 0), _get(node, facts, 1).astype(np.int64), axis=attribute(node, "axis", 0))
    return picked if isinstance(picked, np.ndarray) else _array([picked], ())


def _fill_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray:
    value = attribute(node, "value")
    shape = tuple(int(v) for v in _get(node, facts, 0))
    if math.prod(shape) > VALUE_LIMIT:
        raise ValueError
    return _array([numpy_helper.to_array(value).item() if value is not None else 0.0] * math.prod(shape), shape)


def _product_value(node: onnx.NodeProto, facts: Facts) -> np.ndarray | None:
    x = _get(node, facts, 0)
    return _array([math.prod(x)], (1,) * attribute(node, "keepdims", 1)) if x.ndim == 1 else None


def _divide(a: Any, b: Any) -> Any:
    # ONNX Div truncates integers towards zero.
    return math.trunc(a / b) if isinstance(a, int) and isinstance(b, int) else a / b


VALUE_RULES: dict[str, Callable[[onnx.NodeProto, Facts], np.ndarray | None]] = {
    "Shape": _shape_value,
    "Gather": _gather_value,
    "Slice": _slice_value,
    "Cast": _cast_value,
    "Unsqueeze": _unsqueeze_value,
    "Squeeze": _squeeze_value,
    "ConstantOfShape": _fill_value,
    "Identity": lambda n, f: _get(n, f, 0),
    "Concat": lambda n, f: np.concatenate([_get(n, f, i) for i in range(len(n.input))], attribute(n, "axis", 0)),
    "Reshape": lambda n, f: _get(n, f, 0).reshape([int(v) for v in _get(n, f, 1)]),
    "Floor": lambda n, f: _array((float(math.floor(v)) for v in _get(n, f, 0).reshape(-1)), _get(n, f, 0).shape),
    "Ceil": lambda n, f: _array((float(math.ceil(v)) for v in _get(n, f, 0).reshape(-1)), _get(n, f, 0).shape),
    "Range": lambda n, f: np.arange(*(int(_get(n, f, i).item()) for i in range(3))).astype(object),
    "ReduceProd": _product_value,
    "Add": _pairwise(lambda a, b: a + b, 0),
    "Sub": _pairwise(lambda a, b: a - b, 0),
    "Mul": _pairwise(lambda a, b: a * b, 1, 0),
    "Div": _pairwise(_divide, 1),
    "Equal": _pairwise(lambda a, b: a == b, None),
    "Where": _where_value,
}
