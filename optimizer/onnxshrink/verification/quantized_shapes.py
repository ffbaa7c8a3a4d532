"""Shapes behind quantized operators of com.microsoft: each has a twin of ONNX's own, for which ONNX infers them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from .facts import attribute

_POOL = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
_CONV = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_GEMM = ("transA", "transB")


@dataclass(frozen=True)
class Twin:
    """A node of ONNX's own that makes the same shape from floats.

    The element type of the output is that of the tensor `like`, or else `kind`.
    """

    node: onnx.NodeProto
    like: str
    kind: int


def _twin(
    op: str, *inputs: int, like: int = -1, kind: int = TensorProto.UINT8, keep: tuple[str, ...] = ()
) -> Callable[[onnx.NodeProto], Twin | None]:
    """A twin that reads some of the inputs; `like` is another input, the zero point of the output."""

    def make(node: onnx.NodeProto) -> Twin | None:
        if attribute(node, "channels_last", 0):
            return None
        twin = helper.make_node(op, [node.input[i] for i in inputs], node.output[:1])
        twin.attribute.extend(a for a in node.attribute if a.name in keep)
        return Twin(twin, node.input[like] if 0 <= like < len(node.input) else "", kind)

    return make


def _concat(node: onnx.NodeProto) -> Twin:
    twin = helper.make_node("Concat", node.input[2::3], node.output[:1], axis=attribute(node, "axis", 0))
    return Twin(twin, node.input[1], TensorProto.UINT8)


_FLOAT = TensorProto.FLOAT

TWINS: dict[str, Callable[[onnx.NodeProto], Twin | None]] = {
    "QuantizeLinear": _twin("Identity", 0, like=2),
    "DequantizeLinear": _twin("Identity", 0, kind=_FLOAT),
    "QLinearAdd": _twin("Add", 0, 3, like=0),
    "QLinearMul": _twin("Mul", 0, 3, like=0),
    "QLinearWhere": _twin("Where", 0, 1, 4, like=1),
    "QLinearConcat": _concat,
    "QLinearConv": _twin("Conv", 0, 3, like=7, keep=_CONV),
    "QLinearAveragePool": _twin("AveragePool", 0, like=0, keep=_POOL),
    "QLinearGlobalAveragePool": _twin("GlobalAveragePool", 0, like=0),
    "QGemm": _twin("Gemm", 0, 3, like=8, kind=_FLOAT, keep=_GEMM),
    "MatMulIntegerToFloat": _twin("MatMul", 0, 1, kind=_FLOAT),
    "DynamicQuantizeMatMul": _twin("MatMul", 0, 1, kind=_FLOAT),
    **dict.fromkeys(("QLinearLeakyRelu", "QLinearSigmoid", "QLinearSoftmax"), _twin("Identity", 0, like=0)),
}


def twin_of(node: onnx.NodeProto) -> Twin | None:
    """The twin of a node of com.microsoft; None if it has none here."""
    make = TWINS.get(node.op_type)
    return None if make is None else make(node)
