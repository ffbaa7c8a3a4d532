"""Quantizers, and elementwise operators between quantized tensors (steps.py has what their integers stand for)."""

from __future__ import annotations

import numpy as np
import onnx

from ..graph.view import Node
from . import interval
from .broadcast import Broadcast, Product, lifted
from .evaluate import evaluate
from .fact import Fact, collapse, constant
from .rule import Context, Demand, State, everything, free_slices, register
from .steps import MICROSOFT, Operand, dequantized, quantized, requantized, slack_of, span, stand_in, steps, wide
from .tie import Same, Tie

ONCE = {
    *("Abs", "Add", "Cast", "Clip", "Concat", "DequantizeLinear", "Div", "Expand", "Flatten", "Identity", "Max", "Min"),
    *("Mul", "Neg", "Relu", "Reshape", "Slice", "Split", "Squeeze", "Sub", "Transpose", "Unsqueeze", "Where"),
}
"""Operators whose result is exact or rounded once: every runtime gives the same bits."""


def certain(tensor: str, context: Context) -> bool:
    """Whether every runtime computes the same bits, so that a quantizer behind rounds them to the same integers."""
    maker = context.graph.producer.get(tensor)
    if maker is None:
        return tensor in context.graph.constants
    return maker.op in ONCE and all(certain(name, context) for name in maker.inputs if name)


class Quantizer(Broadcast):
    """QuantizeLinear and DequantizeLinear: elementwise; a scale and zero point for each slice of an axis go with it.

    In blocks, the axis along which several elements share a scale stays whole.
    """

    family = "quantization"

    def __init__(self) -> None:
        super().__init__(operands=1)

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        if not node.domain:
            return None
        axis = {"axis": int(node.attr("axis", 1))} if context.rank(node.inputs[1]) else {}
        return stand_in(node, node.op, node.proto.input, **axis)

    def axis(self, node: Node, context: Context) -> int:
        """The axis of scale and zero point, counted from the front."""
        rank = context.rank(node.inputs[0]) or 1
        return int(node.attr("axis", 1)) % rank

    def blocked(self, node: Node, context: Context) -> bool:
        """Whether the scale has an entry for each block of an axis."""
        return bool(node.attr("block_size", 0)) or (context.rank(node.inputs[1]) or 0) > 1

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        known = all(name in context.graph.constants for name in node.inputs if name)
        if not known or node.outputs[0] not in context.graph.dtypes:
            return [self._fact(node, context)]
        key = f"{node.op} {node.index}"  # of constants: once for all analyses
        return [context.derived(node.inputs[0], key, lambda: self._fact(node, context))]

    def _fact(self, node: Node, context: Context) -> Fact | None:
        x, y = node.inputs[0], node.outputs[0]
        into, dtype, rank = context.graph.dtypes.get(y), context.graph.dtypes.get(x), context.rank(x)
        if into is None or dtype is None or rank is None:
            return None
        if self.blocked(node, context):
            return self._blocks(node, context)
        axis = self.axis(node, context)
        grid = steps(node.inputs[1], node.input(2), rank, axis, context)
        values = context.graph.constants.get(x)
        fact = lifted(context.fact(x), x, rank, context) if values is None else constant(values)
        if grid is not None and not {grid.scale.size, grid.zero.size} <= {1, context.size(x, axis)}:
            return None
        if node.op == "QuantizeLinear":
            if grid is None or fact is None:
                return None
            limits = span(into)
            if fact.all_known and limits and certain(x, context):
                with np.errstate(all="ignore"):
                    exact = np.clip(np.rint(wide(fact.value) / wide(grid.scale)) + grid.zero, *limits)
                return None if np.isnan(exact).any() else collapse(constant(exact.astype(into)))
            return quantized(*fact.bounds(), grid, into, slack_of(x, context))
        if grid is not None:
            return collapse(dequantized(fact, dtype, grid, None, into))
        middle = context.array(node.input(2)) if node.input(2) else np.zeros((), np.int64)
        if fact is None or middle is None or middle.size != 1:
            return None
        return collapse(dequantized(fact, dtype, None, middle.astype(np.int64).reshape((1,) * rank), into))

    def _blocks(self, node: Node, context: Context) -> Fact | None:
        """The operator itself on values that are all known, such as weights."""
        arrays = [context.array(name) if name else None for name in node.inputs]
        if any(a is None for a, name in zip(arrays, node.inputs, strict=True) if name):
            return None
        results = evaluate(node.proto, arrays, context.opset)
        return None if results is None else constant(results[0])

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, y = node.inputs[0], node.outputs[0]
        axis = self.axis(node, context)
        if not self.blocked(node, context):
            ties = super().ties(node, context)
            for name in node.inputs[1:3]:
                if name and context.rank(name) == 1 and context.size(name, 0) == context.size(y, axis) != 1:
                    ties.append(Same((name, 0), (y, axis)))
            return ties
        ties = []
        for other in range(context.rank(y) or 0):
            for name in (x, *node.inputs[1:3]):
                size = context.size(name, other) if name and context.rank(name) == context.rank(y) else None
                if other != axis and size is not None and size == context.size(y, other):
                    ties.append(Same((name, other), (y, other)))
        return ties


class DynamicQuantizer(Broadcast):
    """DynamicQuantizeLinear: the range comes from the least and largest element, and always includes zero.

    So slices of zeros may go, and every other one that stays is read, whoever reads the output.
    """

    family = "quantization"

    def __init__(self) -> None:
        super().__init__(operands=1)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, rank = context.fact(node.inputs[0]), context.rank(node.inputs[0])
        if rank is None:
            return [None] * 3
        dtype, whole = np.dtype(np.uint8), np.zeros((1,) * rank)
        if fact is None or not (fact.bounds()[0] >= 0).all():  # runtimes differ in the scale of zeros: never evaluated
            return [Fact(whole.astype(dtype), whole > 0, whole, whole + 255), None, None]
        zero = constant(np.zeros((), dtype))  # nothing is negative, so the range begins at zero
        return [collapse(Fact(np.zeros(fact.value.shape, dtype), fact.zero(), whole, whole + 255)), None, zero]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        # nobody demands slices of constants, so nothing would hold those that make the range
        return [] if node.inputs[0] in context.graph.constant_only else super().ties(node, context)

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        return {0: self.ranged(node.inputs[0], context, state)}

    @staticmethod
    def ranged(tensor: str, context: Context, state: State) -> Demand:
        """All that may decide a range: what is not zero, and what stays."""
        demand = everything(tensor, context)
        for axis, mask in enumerate(demand):
            uniform, value = free_slices(tensor, axis, context)
            if uniform.size == mask.size:
                demand[axis] = ~(uniform & (value == 0)) | state.kept((tensor, axis))
        return demand


class QLinear(Product):
    """Elementwise operators between quantized tensors, each with its own scale and zero point.

    A factor of zero decides a product, as it does between floats.
    """

    family = "quantization"

    def __init__(self, limits: interval.Limits, *operands: Operand, result: tuple[int, int], product: bool = False):
        super().__init__(limits=limits)
        self.quantized, self.result, self.product = operands, result, product

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        inputs = [node.proto.input[o.data] for o in self.quantized]
        op = {1: "Identity", 2: "Add", 3: "Where"}[len(inputs)]
        return stand_in(node, op, inputs)

    def _data(self, node: Node) -> list[int]:
        return [operand.data for operand in self.quantized]

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        rank = context.rank(node.outputs[0])
        if rank is None:
            return [None]
        reals = [operand.real(node, rank, context) for operand in self.quantized]
        bounds = [r.bounds() for r in reals if r is not None]
        if len(bounds) < len(reals) or self.limits is None:
            return [None]
        with np.errstate(all="ignore"):
            low, high = self.limits(node, bounds)
        return [requantized(node, (low, high), *self.result, context)]

    def zero(self, node: Node, index: int, rank: int, context: Context) -> np.ndarray | None:
        operand = next(o for o in self.quantized if o.data == index)
        real = operand.real(node, rank, context) if self.product else None
        if real is None:
            return None
        low, high = real.bounds()
        return np.asarray((low == 0) & (high == 0))


def _add(node: Node, bounds: list[interval.Bounds]) -> interval.Bounds:
    """A sum, with room for the rounding of either term."""
    noise = interval.ROUNDING * sum(np.minimum(np.maximum(np.abs(low), np.abs(high)), 1e300) for low, high in bounds)
    return sum(b[0] for b in bounds) - noise, sum(b[1] for b in bounds) + noise  # type: ignore[return-value]


def _sigmoid(node: Node, bounds: list[interval.Bounds]) -> interval.Bounds:
    """1 / (1 + exp(-x)), which rises."""
    low, high = bounds[0]
    return interval.widen(1 / (1 + np.exp(-low)), 1 / (1 + np.exp(-high)))


def _where(node: Node, bounds: list[interval.Bounds]) -> interval.Bounds:
    """What a known condition chooses, else what lies between both sides."""
    (never, always), (a, b), (c, d) = bounds
    yes, no = never >= 1, always <= 0
    low = np.where(yes, a, np.where(no, c, np.minimum(a, c)))
    return low, np.where(yes, b, np.where(no, d, np.maximum(b, d)))


_FIRST, _SECOND = Operand(0, 1, 2), Operand(3, 4, 5)

register(Quantizer(), "QuantizeLinear", "DequantizeLinear")
register(Quantizer(), "QuantizeLinear", "DequantizeLinear", domain=MICROSOFT)
register(DynamicQuantizer(), "DynamicQuantizeLinear")
register(QLinear(_add, _FIRST, _SECOND, result=(6, 7)), "QLinearAdd", domain=MICROSOFT)
register(QLinear(interval.mul, _FIRST, _SECOND, result=(6, 7), product=True), "QLinearMul", domain=MICROSOFT)
register(QLinear(interval.leaky, _FIRST, result=(3, 4)), "QLinearLeakyRelu", domain=MICROSOFT)
register(QLinear(_sigmoid, _FIRST, result=(3, 4)), "QLinearSigmoid", domain=MICROSOFT)
register(
    QLinear(_where, Operand(0), Operand(1, 2, 3), Operand(4, 5, 6), result=(7, 8)), "QLinearWhere", domain=MICROSOFT
)
