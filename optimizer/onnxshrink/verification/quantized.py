"""What quantized operators demand of their operands: scales and zero points, columns, blocks, runs.

`TABLE` is for ONNX's own domain, `CONTRIB` for com.microsoft. Sources: Operators.md (onnx 1.23), ONNX Runtime's
docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable

from .arithmetic import convolution, matmul
from .operand import Findings, Op, broadcast_to, clash, count, differ, text, vector


def _steps(op: Op) -> Findings:
    """QuantizeLinear, DequantizeLinear: one scale and zero point, one for each slice of an axis, or one for a block."""
    scale, data, block = op.shape(1), op.shape(0), op.attr("block_size", 0)
    axis = op.attr("axis", 1)
    if block:
        if scale is None or data is None or len(scale) != len(data) or not -len(data) <= axis < len(data):
            return
        for i, (a, b) in enumerate(zip(data, scale, strict=True)):
            want = -(-a // block) if isinstance(a, int) and i == axis % len(data) else a
            if differ(want, b):
                yield f"scale {text(scale)} should have {want} on axis {i} for input {text(data)} in blocks of {block}"
    elif scale is not None and len(scale) == 1 and scale[0] != 1 and data is not None:
        yield from vector(op, 1, "scale", op.dim(0, axis), "its axis has")
    if op.has(2) and scale is not None and op.shape(2) is not None and differ(count(scale), count(op.shape(2))):
        yield f"zero point {text(op.shape(2))} for scale {text(scale)}"


def _columns(check: Callable[[Op], Findings], weight: int, *operands: int) -> Callable[[Op], Findings]:
    """The product's own check, and operands that have an entry for each column of the weight."""

    def both(op: Op) -> Findings:
        yield from check(op)
        shape = op.shape(weight)
        columns = None if not shape else shape[0] if op.attr("transB", 0) else shape[-1]
        for i in operands:
            if op.dim(i, 0) != 1:
                yield from vector(op, i, f"operand {i}", columns, "the weight has columns:")

    return both


def _gemm(op: Op) -> Findings:
    a, b = op.shape(0), op.shape(3)
    if a is None or b is None or len(a) != 2 or len(b) != 2:
        return
    a, b = a[::-1] if op.attr("transA", 0) else a, b[::-1] if op.attr("transB", 0) else b
    if differ(a[1], b[0]):
        yield f"inner sizes differ: {a[1]} in the input, {b[0]} in the weight"
    yield from broadcast_to(op.shape(6), (a[0], b[1]), "bias", "result")


def _elementwise(*operands: int) -> Callable[[Op], Findings]:
    def check(op: Op) -> Findings:
        shapes = [op.shape(i) for i in operands]
        if clash(shapes):
            yield f"operands {' and '.join(text(s) for s in shapes)} do not broadcast"

    return check


def _joined(op: Op) -> Findings:
    if len(op.node.input) % 3 != 2:
        yield f"{len(op.node.input)} inputs are no scale, zero point and triples"
        return
    shapes = [s for i in range(2, len(op.node.input), 3) if (s := op.shape(i)) is not None]
    if len({len(s) for s in shapes}) > 1:
        yield f"operands have different ranks: {', '.join(text(s) for s in shapes)}"
        return
    for i in range(len(shapes[0]) if shapes else 0):
        if i != op.attr("axis", 0) % len(shapes[0]) and len({s[i] for s in shapes if isinstance(s[i], int)}) > 1:
            yield f"operands differ on axis {i}: {', '.join(text(s) for s in shapes)}"


def _packed(op: Op) -> Findings:
    """MatMulNBits: N and K, which its packed weight does not show, against every operand."""
    columns, rows, block = op.attr("N", 0), op.attr("K", 0), op.attr("block_size", 0)
    data = op.shape(0)
    if data and differ(data[-1], rows):
        yield f"input {text(data)} for K = {rows}"
    if differ(op.dim(1, 0), columns):
        yield f"weight {text(op.shape(1))} for N = {columns}"
    blocks = -(-rows // block) if block else 0
    if block and op.shape(2) is not None and differ(count(op.shape(2)), columns * blocks):
        yield f"scales {text(op.shape(2))} for {columns} columns of {blocks} blocks"
    yield from vector(op, 5, "bias", columns, "the weight has columns:")


TABLE: dict[str, Callable[[Op], Findings]] = {
    "ConvInteger": convolution(0, 1, None, (3,)),
    "QLinearConv": convolution(0, 3, 8, (4, 5)),
    "MatMulInteger": _columns(matmul(0, 1), 1, 3),
    "QLinearMatMul": _columns(matmul(0, 3), 3, 4, 5),
    "QuantizeLinear": _steps,
    "DequantizeLinear": _steps,
}

CONTRIB: dict[str, Callable[[Op], Findings]] = {
    "QLinearConv": lambda op: iter(()) if op.attr("channels_last", 0) else TABLE["QLinearConv"](op),
    "QuantizeLinear": _steps,
    "DequantizeLinear": _steps,
    "QLinearAdd": _elementwise(0, 3),
    "QLinearMul": _elementwise(0, 3),
    "QLinearWhere": _elementwise(0, 1, 4),
    "QLinearConcat": _joined,
    "QGemm": _columns(_gemm, 3, 4, 5),
    "MatMulIntegerToFloat": _columns(matmul(0, 1), 1, 3, 5, 6),
    "DynamicQuantizeMatMul": _columns(matmul(0, 1), 1, 2, 3, 4),
    "MatMulNBits": _packed,
}
