"""Integers that are joined or pooled and rounded to other steps, and what of com.microsoft stays whole.

Each does with the numbers that its integers stand for what the operator of floats does, so facts are those numbers'
bounds, rounded (steps.py).
"""

from __future__ import annotations

import numpy as np
import onnx

from ..graph.view import Node
from .fact import Fact
from .movement import Concat
from .normalization import Mixing
from .pool import Spatial
from .rule import Context, Cut, Demand, Rewrite, Rule, State, register
from .steps import MICROSOFT, Operand, requantized, stand_in


class QLinearConcat(Concat):
    """QLinearConcat: each input is a run of the output, with steps of its own that leave with it."""

    family = "quantization"

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        return stand_in(node, "Concat", node.proto.input[2::3], axis=int(node.attr("axis", 0)))

    def data(self, node: Node) -> range:
        return range(2, len(node.inputs), 3)

    def piece(self, node: Node, index: int, context: Context) -> Fact | None:
        rank = context.rank(node.outputs[0])
        real = None if rank is None else Operand(index, index + 1, index + 2).real(node, rank, context)
        return None if real is None else requantized(node, real.bounds(), 0, 1, context)

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        runs = super().operands(node, context, state)
        if self._runs(node, context) is None:
            return runs
        return [0, 1, *(i for index in runs for i in (index, index + 1, index + 2))]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        demands = super().reads(node, context, state)
        if self._runs(node, context) is None:
            return demands
        steps: dict[int, Demand | None] = {i: None for index in demands for i in (index + 1, index + 2)}
        return {0: None, 1: None, **demands, **steps} if demands else {}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        plain = super().rewrite(node, cut)
        gone = set(self.data(node)) - {plain.bypass} if plain.bypass is not None else set(plain.inputs)
        return Rewrite(inputs={i: None for index in gone for i in (index, index + 1, index + 2)})


class QLinearPool(Spatial):
    """QLinearAveragePool and QLinearGlobalAveragePool: a mean lies between the bounds of what it is taken of."""

    family = "quantization"

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        if node.attr("channels_last", 0):
            return None
        names = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
        attributes = {name: node.attr(name) for name in names if node.attr(name) is not None}
        return stand_in(node, node.op.removeprefix("QLinear"), node.proto.input[:1], **attributes)

    def passing(self, node: Node, context: Context) -> set[int]:
        last = (context.rank(node.inputs[0]) or 2) - 1
        return {0, last} if node.attr("channels_last", 0) else {0, 1}

    def keeps(self, node: Node, context: Context) -> bool:
        """Whether no zeros from beside the border are counted."""
        padded = any(node.attr("pads", ())) or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        return not (padded or node.attr("ceil_mode", 0)) or not node.attr("count_include_pad", 0)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        rank = context.rank(node.outputs[0])
        real = None if rank is None else Operand(0, 1, 2).real(node, rank, context)
        if real is None or rank is None or rank != context.rank(node.inputs[0]):
            return [None]
        mixed = tuple(a for a in range(rank) if a not in self.passing(node, context))
        low, high = (end(axis=mixed, keepdims=True) for end in (real.bounds()[0].min, real.bounds()[1].max))
        if not self.keeps(node, context):
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        return [requantized(node, (low, high), 3, 4, context)]


class QLinearSoftmax(Mixing):
    """QLinearSoftmax: the axis that it normalizes stays whole, the others pass."""

    family = "quantization"

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        return stand_in(node, "Identity", node.proto.input[:1])

    def mixed(self, node: Node, context: Context) -> set[int] | None:
        rank = context.rank(node.inputs[0])
        legacy = int(node.attr("opset", 13)) < 13
        axis = int(node.attr("axis", 1 if legacy else -1))
        if rank is None or not -rank <= axis < rank:
            return None
        return set(range(axis % rank, rank)) if legacy else {axis % rank}


register(QLinearConcat(), "QLinearConcat", domain=MICROSOFT)
register(QLinearPool(), "QLinearAveragePool", "QLinearGlobalAveragePool", domain=MICROSOFT)
register(QLinearSoftmax(), "QLinearSoftmax", domain=MICROSOFT)

register(
    Rule("its weights are packed with an order of their own for one kind of accelerator, which no test can run"),
    *("QOrderedAttention", "QOrderedGelu", "QOrderedLayerNormalization", "QOrderedLongformerAttention"),
    *("QOrderedMatMul", "QuantizeWithOrder", "DequantizeWithOrder"),
    domain=MICROSOFT,
)
register(
    Rule("blocks of elements share an exponent, and the bytes of a block are packed together"),
    *("QuantizeBFP", "DequantizeBFP"),
    domain=MICROSOFT,
)
register(
    Rule("weights of few bits are packed across rows in blocks that no slice of an axis matches"),
    *("MatMulBnb4", "MatMulFpQ4", "GatherBlockQuantized", "MatMulBlockQuantizedFp8Weight"),
    *("MatMulBlockQuantizedFp4Weight", "MatMulNBitsQkv", "MatMulNBitsMlp"),
    domain=MICROSOFT,
)
register(
    Rule("every row of every expert may be chosen at run time, and the weights are packed"), "QMoE", domain=MICROSOFT
)
register(
    Rule("it sums and normalizes over all features, as LayerNormalization does, in one integer operator"),
    "QEmbedLayerNormalization",
    domain=MICROSOFT,
)
register(
    Rule("it is a whole attention in one integer operator, whose packed weight is not taken apart into heads"),
    "QAttention",
    domain=MICROSOFT,
)
register(
    Rule("ONNX Runtime has no kernel for it on a CPU"),
    *("MulInteger", "QLinearReduceMean", "ReduceSumInteger"),
    domain=MICROSOFT,
)
