"""Products of integer matrices: QLinearMatMul, MatMulInteger, QGemm and their kin."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper

from ..graph.view import Node
from .fact import CAP, Fact, collapse, unknown
from .integers import IntegerLayer, Ports, between
from .movement import parallel
from .product import of_operand
from .quantized import DynamicQuantizer
from .rule import Channels, Context, Cut, Demand, Rewrite, Rule, State, free_slices, register
from .steps import MICROSOFT, neutral, span, stand_in, zeros
from .tie import Port, Same, Tie


class IntegerProduct(IntegerLayer):
    """Products of integer matrices: features that equal their zero point on either side go.

    `floats` says that the output is a float; then it is known only where the sum is zero. `dynamic` says that the
    input is one too, and is quantized on the way, by the range of all of it.
    """

    def __init__(self, ports: Ports, *, floats: bool = False, dynamic: bool = False):
        super().__init__(ports)
        self.floats, self.dynamic = floats, dynamic

    def channels(self, node: Node, context: Context) -> Channels | None:
        rank = context.rank(node.outputs[0])
        return Channels(rank - 1, tuple(i for i in (self.ports.w, self.ports.bias) if i >= 0)) if rank else None

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        if not node.domain:
            return None
        operands = [node.proto.input[self.ports.x], node.proto.input[self.ports.w]]
        kind = None
        if self.floats or (self.ports.y_scale >= 0 and not node.input(self.ports.y_scale)):
            kind = int(TensorProto.FLOAT)
        elif self.ports.y_scale < 0:
            kind = int(TensorProto.INT32)
        if node.op == "QGemm":
            return stand_in(
                node, "Gemm", operands, kind, transA=int(node.attr("transA", 0)), transB=int(node.attr("transB", 0))
            )
        return stand_in(node, "MatMul", operands, kind)

    def axes(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        """Axes (m of A, k of A, k of B, n of B); None where an operand has fewer than two axes."""
        a_name, b_name = node.inputs[self.ports.x], node.inputs[self.ports.w]
        a, b = context.rank(a_name), context.rank(b_name)
        if a is None or b is None or a < 2 or b < 2 or context.rank(node.outputs[0]) is None:
            return None
        m, k, k2, n = a - 2, a - 1, b - 2, b - 1
        if node.attr("transA", 0):
            m, k = k, m
        if node.attr("transB", 0):
            k2, n = n, k2
        size = context.size(a_name, k)
        return (m, k, k2, n) if size is not None and size == context.size(b_name, k2) else None

    def weight(self, node: Node, context: Context) -> np.ndarray | None:
        """The centred right operand as [k, n] where it is known and has two axes."""
        axes = self.axes(node, context)
        if axes is None or context.rank(node.inputs[self.ports.w]) != 2:
            return None
        found = self.centred(node, context, axes[3])
        return found.T if found is not None and axes[2] == 1 else found

    def pattern(self, node: Node, context: Context) -> np.ndarray | None:
        """Whether the right operand differs from its zero point, [k, n]."""
        right = self.weight(node, context)
        if right is None:
            return None
        found: np.ndarray = context.derived(node.inputs[self.ports.w], f"pattern {node.index}", lambda: right != 0)
        return found

    def idle(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Features that add nothing, by the left and by the right operand, bool [k] each."""
        axes = self.axes(node, context)
        assert axes is not None
        pattern = self.pattern(node, context)
        if pattern is not None:
            silent = ~pattern.any(axis=1)
        else:
            silent = neutral(node.inputs[self.ports.w], self.name(node, self.ports.w_zero), axes[2], context)
        return self.neutral(node, context, axes[1]), np.asarray(silent)

    def neutral(self, node: Node, context: Context, axis: int) -> np.ndarray:
        if not self.dynamic:
            return super().neutral(node, context, axis)
        uniform, value = free_slices(node.inputs[self.ports.x], axis, context)
        return uniform & (value == 0)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        axes, right, rank = self.axes(node, context), self.weight(node, context), context.rank(node.outputs[0])
        if axes is None or rank is None or node.attr("alpha", 1.0) != 1.0:
            return [None]
        if right is None:
            return [self._of_two(node, context, axes, rank)]
        rows = self._rows(node, context, axes, right.shape[1])
        if rows is None:
            return [None]
        low, high = rows
        positive, negative = np.maximum(right, 0).astype(np.float64), np.minimum(right, 0).astype(np.float64)
        least, most = low @ positive + high @ negative, high @ positive + low @ negative
        least, most = (end.reshape((1,) * (rank - end.ndim) + end.shape) for end in (least, most))
        if self.floats or (self.ports.y_scale >= 0 and not node.input(self.ports.y_scale)):
            return [self._float(node, context, (least == 0) & (most == 0))]
        name = self.name(node, self.ports.bias)
        bias = context.array(name) if name else np.zeros((), np.int64)
        return [None if bias is None else self.scaled(node, between(least + bias, most + bias), rank - 1, context)]

    def _rows(
        self, node: Node, context: Context, axes: tuple[int, int, int, int], columns: int
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Least and largest value of the left operand without its zero point, [..., rows or 1, k]; of a float, -1 and 1
        where it is not zero.
        """
        name, zero_name = node.inputs[self.ports.x], self.name(node, self.ports.x_zero)
        dtype, rank, size = context.graph.dtypes.get(name), context.rank(name), context.size(name, axes[1])
        limits = (-1, 1) if self.dynamic else None if dtype is None else span(dtype)
        if dtype is None or limits is None or rank is None or size is None:
            return None
        fact = context.fact(name) or unknown(rank, dtype)
        silent = fact.zero() if self.dynamic else zeros(name, zero_name, context)
        if self.dynamic:
            low, high = np.full((1,) * rank, -1.0), np.full((1,) * rank, 1.0)
        else:
            zero = context.array(zero_name) if zero_name else np.zeros((), np.int64)
            least, most = limits if zero is None else (int(zero.min()), int(zero.max()))
            low, high = (np.clip(bound, *limits) for bound in fact.bounds())
            low, high = low - most, high - least
        if silent is not None:
            low, high = np.where(silent, 0.0, low), np.where(silent, 0.0, high)
        low, high = (np.moveaxis(end, axes[1], -1) for end in (low, high))
        if max(low[..., 0].size, high[..., 0].size) * size * columns > 8 * CAP:
            others = tuple(range(rank - 1))
            low, high = low.min(axis=others, keepdims=True), high.max(axis=others, keepdims=True)
        return tuple(np.broadcast_to(end, (*end.shape[:-1], size)) for end in (low, high))  # type: ignore[return-value]

    def _of_two(self, node: Node, context: Context, axes: tuple[int, int, int, int], rank: int) -> Fact | None:
        """Rows of A and columns of B that equal their zero point throughout make zeros, whatever the other operand."""
        if self.floats or self.name(node, self.ports.bias):
            return None
        zero = np.zeros((1,) * rank, bool)
        for index, point, inner, swap in (
            (self.ports.x, self.ports.x_zero, axes[1], axes[1] < axes[0]),
            (self.ports.w, self.ports.w_zero, axes[2], axes[2] > axes[3]),
        ):
            known = zeros(node.inputs[index], self.name(node, point), context)
            if known is not None:
                rows = known.all(axis=inner, keepdims=True)
                rows = np.swapaxes(rows, -1, -2) if swap else rows
                zero = zero | rows.reshape((1,) * (rank - rows.ndim) + rows.shape)
        ends = np.where(zero, 0.0, np.inf)
        return self.scaled(node, Fact(np.zeros(zero.shape, np.int64), zero, -ends, ends), rank - 1, context)

    def _float(self, node: Node, context: Context, zero: np.ndarray) -> Fact | None:
        """Where the sum is zero, a float output is the bias; a quantized one that is written as float is left alone."""
        dtype, name, size = context.graph.dtypes.get(node.outputs[0]), self.name(node, self.ports.bias), zero.shape[-1]
        bias = context.array(name) if name else np.zeros(size)
        if dtype is None or bias is None or bias.size != size or bias.dtype.kind != "f":
            return None
        return collapse(Fact(bias.astype(dtype).reshape((1,) * (zero.ndim - 1) + (size,)), zero))

    def ties(self, node: Node, context: Context) -> list[Tie]:
        axes = self.axes(node, context)
        a, b, y = node.inputs[self.ports.x], node.inputs[self.ports.w], node.outputs[0]
        if axes is None or (self.dynamic and a in context.graph.constant_only):  # see DynamicQuantizer.ties
            return []
        m, k, k2, n = axes
        rank = context.rank(y) or 0
        ties: list[Tie] = [Same((a, k), (b, k2))]
        pairs = [((a, m), rank - 2), ((b, n), rank - 1)]
        for name in (a, b):
            own = context.rank(name) or 0
            pairs += [((name, axis), axis + rank - own) for axis in range(own - 2)]
        for index in self.ports.per_output:
            name = self.name(node, index)
            if name and context.rank(name) == 1 and context.size(name, 0) != 1:
                pairs.append(((name, 0), rank - 1))
        bias = self.name(node, self.ports.bias)
        own = context.rank(bias) or 0 if bias else 0
        pairs += [((bias, axis), axis + rank - own) for axis in range(own) if context.size(bias, axis) != 1]
        for port, axis in pairs:
            size = context.size(*port)
            if size is not None and size == context.size(y, axis):
                ties.append(Same(port, (y, axis)))
        return ties

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        axes = self.axes(node, context)
        return None if axes is None else (node.inputs[self.ports.x], axes[1])

    def read(self, node: Node, context: Context) -> np.ndarray:
        return ~self.idle(node, context)[1]

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        left, _ = self.idle(node, context)
        return left, np.zeros_like(left)

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        axes = self.axes(node, context)
        if axes is None:
            return super().reads(node, context, state)
        m, k, k2, n = axes
        a, b = node.inputs[self.ports.x], node.inputs[self.ports.w]
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        left, silent = self.idle(node, context)
        pattern = self.pattern(node, context)
        wanted = ~silent if pattern is None else (pattern & live[-1]).any(axis=1)
        kept = state.kept((a, k))
        of_a = wanted & ~(left & ~kept)
        # where B's row is zero A is not read, so B must really be zero; elsewhere a right zero of A excuses B
        of_b = np.where(wanted, ~left, kept)
        demands: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name}
        demands[self.ports.x] = of_operand(a, k, of_a, m, -2, live, context)
        demands[self.ports.w] = of_operand(b, k2, of_b, n, -1, live, context)
        if self.dynamic:
            demands[self.ports.x] = DynamicQuantizer.ranged(a, context, state)
        return demands


register(IntegerProduct(Ports(0, 2, 3, 5, x_scale=1, w_scale=4, y_scale=6, y_zero=7)), "QLinearMatMul")
register(IntegerProduct(Ports(0, 2, 1, 3)), "MatMulInteger")
register(IntegerProduct(Ports(0, 2, 3, 5, 6, x_scale=1, w_scale=4, y_scale=7, y_zero=8)), "QGemm", domain=MICROSOFT)
register(
    IntegerProduct(Ports(0, 4, 1, 5, 6, x_scale=2, w_scale=3), floats=True), "MatMulIntegerToFloat", domain=MICROSOFT
)
register(
    IntegerProduct(Ports(0, -1, 1, 3, 4, w_scale=2), floats=True, dynamic=True),
    "DynamicQuantizeMatMul",
    domain=MICROSOFT,
)


class MatMulNBits(Rule):
    """MatMulNBits: columns of its packed weight go where nobody reads them; rows are packed in blocks and stay."""

    family = "contraction"

    def channels(self, node: Node, context: Context) -> Channels | None:
        rank = context.rank(node.outputs[0])
        return Channels(rank - 1, (1, 5)) if rank else None

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        name = f"{node.proto.output[0]}@weight"
        shape = helper.make_node("Constant", [], [f"{name}:shape"], value_ints=[node.attr("K", 0), node.attr("N", 0)])
        weight = helper.make_node("ConstantOfShape", [f"{name}:shape"], [name])
        return [shape, weight, *stand_in(node, "MatMul", [node.proto.input[0], name])]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        y, columns = node.outputs[0], int(node.attr("N", 0))
        rank = context.rank(y)
        if not rank or context.size(y, rank - 1) != columns or node.input(4):
            return []
        ties: list[Tie] = []
        for name in node.inputs[1:]:
            size = context.size(name, 0) if name else None
            if size is not None and size % columns == 0:  # a column's blocks follow each other
                ties.append(Same((y, rank - 1), (name, 0), np.repeat(np.arange(columns), size // columns)))
        own = context.rank(node.inputs[0]) or 0
        if own == rank:
            ties += parallel(node.inputs[0], y, context, (rank - 1,))
        return ties

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        rank = cut.context.rank(node.outputs[0]) or 1
        out = cut.indices(node.outputs[0], rank - 1)
        return Rewrite() if out is None else Rewrite({"N": int(out.size)})


register(IntegerProduct(Ports(0, -1, 1, -1)), "MatMulInteger16", domain=MICROSOFT)
register(MatMulNBits(), "MatMulNBits", domain=MICROSOFT)
