"""Fused operators of com.microsoft: a convolution, a product or a sum with what ONNX Runtime put behind it.

Y = activation(convolution(X) + Z), activation(alpha A B + C), Gelu(A + bias), ...: the linear part is the family's own
rule; facts then pass through the addend and the activation as through nodes of their own.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from ..graph.view import Node
from . import interval
from .broadcast import Broadcast
from .conv import Convolution
from .fact import Fact, unknown
from .grid import Reshape
from .matmul import Multiplication
from .movement import parallel
from .pad import Amounts, Pad
from .pool import Spatial
from .rule import Carrying, Channels, Context, Cut, Demand, Rewrite, Rule, State, everything, register, rule_for
from .tie import Port, Tie

DOMAIN = "com.microsoft"

ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (),
    "Sigmoid": (),
    "Tanh": (),
    "LeakyRelu": ("alpha",),
    "HardSigmoid": ("alpha", "beta"),
    "Clip": ("min", "max"),
    "Elu": ("alpha",),
    "Selu": ("alpha", "gamma"),
    "Softplus": (),
    "Softsign": (),
    "ThresholdedRelu": ("alpha",),
}
"""Activations that fused nodes name, with the order of their parameters in `activation_params`."""

ACTIVATION_OPSET = 10
"""In which all of them have attributes only."""


def alike(node: Node, op: str, inputs: list[str] | None = None, **attributes: Any) -> onnx.NodeProto:
    """A stand-in for a node's first output: an operator of the default domain on (some of) the node's inputs."""
    return helper.make_node(op, inputs or node.proto.input[:1], [node.proto.output[0]], **attributes)


def _virtual(op: str, count: int = 1, domain: str = "", **attributes: Any) -> Node:
    """A node that stands in no graph, to ask its rule about facts."""
    names = tuple(f"x{k}" for k in range(count))
    proto = helper.make_node(op, names, ["y"], domain=domain, **attributes)
    return Node(-1, -1, op, domain, "", names, ("y",), (), proto)


def _applied(virtual: Node, facts: list[Fact], dtype: np.dtype, opset: int) -> Fact | None:
    rule = rule_for(virtual)
    assert isinstance(rule, Broadcast)
    return rule.combined(virtual, list(facts), dtype, opset)


def activation(node: Node) -> Node | None:
    """The activation of a fused node as a node of its own.

    Raises:
        KeyError: an activation that is not known.
    """
    if node.op == "GemmFastGelu":
        return _virtual("FastGelu", domain=DOMAIN)
    name = node.attr("activation", "")
    if not name:
        return None
    given = list(node.attr("activation_params", ()))
    attributes = dict(zip(ACTIVATIONS[name], given, strict=False))
    for key in ACTIVATIONS[name]:
        if node.attr(f"activation_{key}") is not None:
            attributes[key] = node.attr(f"activation_{key}")
    return _virtual(name, **attributes)


def understood(node: Node) -> bool:
    """Whether the activation is one that facts know how to pass."""
    return node.attr("activation", "") in ("", *ACTIVATIONS)


def _finished(node: Node, linear: Fact | None, context: Context, addend: str = "") -> Fact | None:
    """The fact of activation(linear + addend)."""
    rank, dtype = context.rank(node.outputs[0]), context.graph.dtypes.get(node.outputs[0])
    if rank is None or dtype is None:
        return None
    fact: Fact | None = linear or unknown(rank, dtype)
    if addend:
        other = context.fact(addend)
        if other is not None and other.rank != rank:
            return None
        fact = _applied(_virtual("Add", 2), [fact or unknown(rank, dtype), other or unknown(rank, dtype)], dtype, 14)
    behind = activation(node)
    if behind is None:
        return fact
    return _applied(behind, [fact or unknown(rank, dtype)], dtype, ACTIVATION_OPSET)


class FusedConvolution(Convolution):
    """FusedConv: activation(Conv(X) + Z). An addend of zeros is dropped, and so is a convolution of zeros."""

    def readable(self, node: Node, context: Context) -> bool:
        return understood(node) and super().readable(node, context)

    def channels(self, node: Node, context: Context) -> Channels | None:
        return None if self._alone(node, context) else super().channels(node, context)

    def _addend(self, node: Node, context: Context) -> str:
        """The addend Z, "" where there is none or it is zero everywhere."""
        fact = context.fact(node.input(3))
        return "" if fact is not None and bool(fact.zero().all()) else node.input(3)

    def _alone(self, node: Node, context: Context) -> bool:
        """Whether the convolution gives zeros throughout and nothing but the addend is left."""
        if not self._addend(node, context) or not self.readable(node, context):
            return False
        fact = context.cached(
            (node.index, "convolution"), lambda: super(FusedConvolution, self).facts(node, context)[0]
        )
        return fact is not None and bool(fact.zero().all())

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        if not self.readable(node, context):
            return [None]
        return [_finished(node, super().facts(node, context)[0], context, self._addend(node, context))]

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        shaping = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
        attributes = {name: node.attr(name) for name in shaping if node.attr(name) is not None}
        return [alike(node, "Conv", list(node.proto.input[:2]), **attributes)]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        ties = [] if self._alone(node, context) else super().ties(node, context)
        z = self._addend(node, context)
        return [*ties, *parallel(z, node.outputs[0], context)] if z and self.readable(node, context) else ties

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        if self._alone(node, context):
            return [3]
        dropped = node.input(3) and self.readable(node, context) and not self._addend(node, context)
        return [i for i in super().operands(node, context, state) if i != 3 or not dropped]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        if not self.readable(node, context):
            return super().reads(node, context, state)
        live, alone = state.live(node.outputs[0]), self._alone(node, context)
        demands = {} if alone else super().reads(node, context, state)
        if self._addend(node, context) and all(mask.any() for mask in live):
            demands[3] = live
        return demands

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        return None if self._alone(node, context) else super().absorbing_port(node, context)

    def carrying(self, node: Node, context: Context, state: State) -> Carrying | None:
        return None if self._alone(node, context) else super().carrying(node, context, state)

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        if self._alone(node, cut.context):
            return self._without_convolution(node, cut.context)
        result = super().rewrite(node, cut)
        if node.input(3) and self.readable(node, cut.context) and not self._addend(node, cut.context):
            result.inputs[3] = None
        return result

    @staticmethod
    def _without_convolution(node: Node, context: Context) -> Rewrite:
        """The activation of the addend, or the addend itself."""
        behind = activation(node)
        if behind is None:
            return Rewrite(bypass=3)
        gone: dict[str, Any] = {a.name: None for a in node.proto.attribute}
        inputs: dict[int, np.ndarray | str | None] = {0: node.inputs[3], 1: None, 2: None, 3: None}
        given = {a.name: helper.get_attribute_value(a) for a in behind.proto.attribute}
        if behind.op == "Clip" and context.opset >= 11:
            dtype = context.graph.dtypes[node.inputs[3]]
            limits = enumerate(("min", "max"), 1)
            inputs |= {index: np.array(given[name], dtype) for index, name in limits if name in given}
            given = {}
        return Rewrite({**gone, **given}, inputs, op=behind.op)


class FusedMultiplication(Multiplication):
    """FusedMatMul, TransposeMatMul, FusedGemm, GemmFastGelu, FusedMatMulActivation: activation(alpha A B + C).

    transBatchA and transBatchB move an axis between rows and batches: such nodes are left alone.
    """

    def axes(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        if node.attr("transBatchA", 0) or node.attr("transBatchB", 0) or not understood(node):
            return None
        return super().axes(node, context)

    def takes_bias(self, node: Node) -> bool:
        return node.op in ("FusedGemm", "GemmFastGelu")

    def bias(self, node: Node, context: Context) -> str | None:
        if not self.takes_bias(node) and activation(node) is not None:
            return None  # a constant that is added behind the activation is no bias
        return super().bias(node, context)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        if self.axes(node, context) is None:
            return [None]
        return [_finished(node, super().facts(node, context)[0], context)]

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        a, b = node.proto.input[:2]
        if node.attr("transBatchA", 0) or node.attr("transBatchB", 0):
            return None
        if node.op == "FusedGemm":
            attributes = {name: node.attr(name, 0) for name in ("transA", "transB")}
            return [alike(node, "Gemm", [a, b], **attributes)]
        nodes: list[onnx.NodeProto] = []
        operands: list[str] = []
        for name, transposed in ((a, node.attr("transA", 0)), (b, node.attr("transB", 0))):
            operands.append(f"{node.proto.output[0]}@{len(operands)}" if transposed else name)
            if transposed:  # of any rank
                nodes.append(helper.make_node("Einsum", [name], operands[-1:], equation="...ij->...ji"))
        return [*nodes, alike(node, "MatMul", operands)]


class Fused(Broadcast):
    """An elementwise operator that onnx does not know: a sum of its inputs with an activation behind it."""

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        return [alike(node, "Identity")]


class ExpandDims(Reshape):
    """ExpandDims: Unsqueeze with its axis as a scalar operand."""

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        axis = context.array(node.inputs[1])
        if axis is None or axis.size != 1:
            return None
        axes = [int(axis.reshape(-1)[0])]
        if context.opset and context.opset < 13:
            return [alike(node, "Unsqueeze", axes=axes)]
        name = f"{node.proto.output[0]}@shape"
        constant = helper.make_node("Constant", [], [name], value_ints=axes)
        return [constant, alike(node, "Unsqueeze", [node.proto.input[0], name])]


class NhwcMaxPool(Spatial):
    """NhwcMaxPool: MaxPool with the channels last."""

    def passing(self, node: Node, context: Context) -> set[int]:
        return {0, (context.rank(node.inputs[0]) or 1) - 1}

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        rank = context.rank(node.inputs[0])
        if rank is None:
            return None
        attributes = {a.name: helper.get_attribute_value(a) for a in node.proto.attribute}
        first, second = (f"{node.proto.output[0]}@shape{k}" for k in range(2))
        inward, outward = [0, rank - 1, *range(1, rank - 1)], [0, *range(2, rank), 1]
        return [
            helper.make_node("Transpose", node.proto.input[:1], [first], perm=inward),
            helper.make_node("MaxPool", [first], [second], **attributes),
            helper.make_node("Transpose", [second], [node.proto.output[0]], perm=outward),
        ]


class SkipNormalization(Rule):
    """SkipLayerNormalization and its like: a sum, normalized over its last axis, and on request the sum itself."""

    family = "normalization"
    summed = 3
    """Index of the output that is the sum."""

    def _operands(self, node: Node, context: Context) -> list[str]:
        """The terms of the sum that have all its axes."""
        return [name for name in node.inputs[:2] if context.rank(name) == context.rank(node.outputs[0])]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        last = (context.rank(node.outputs[0]) or 1) - 1
        outputs = context.read_outputs(node)
        if any(node.outputs.index(out) not in (0, self.summed) for out in outputs):
            return []
        return [
            tie
            for name in self._operands(node, context)
            for out in outputs
            for tie in parallel(name, out, context, (last,))
        ]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        needed = [state.live(out) for out in node.outputs if out and state.needed(out)]
        if any(state.needed(out) for k, out in enumerate(node.outputs) if out and k not in (0, self.summed)):
            return super().reads(node, context, state)
        demands: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name}
        for index in (0, 1):
            if node.inputs[index] not in self._operands(node, context):
                continue
            demand = everything(node.inputs[index], context)
            for axis in range(len(demand) - 1):
                if all(live[axis].size == demand[axis].size for live in needed):
                    demand[axis] = np.logical_or.reduce([live[axis] for live in needed])
            demands[index] = demand
        return demands

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        sums = [out for k, out in enumerate(node.proto.output) if out and k in (0, self.summed)]
        return [helper.make_node("Identity", node.proto.input[:1], [out]) for out in sums]


class EmbedNormalization(Rule):
    """EmbedLayerNormalization: pinned, but its shapes are known."""

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        ids, table = node.proto.input[0], node.proto.input[2]
        outputs = [*node.proto.output, "", ""][:3]
        found = [helper.make_node("Gather", [table, ids], [out]) for out in (outputs[0], outputs[2]) if out]
        if outputs[1]:
            first, column = (f"{outputs[1]}@{what}" for what in ("first", "column"))
            zero = numpy_helper.from_array(np.array(0, np.int64))
            found += [
                helper.make_node("Constant", [], [first], value=zero),
                helper.make_node("Gather", [ids, first], [column], axis=1),
                helper.make_node("Cast", [column], [outputs[1]], to=onnx.TensorProto.INT32),
            ]
        return found


class GridSample(Spatial):
    """GridSample: positions are made up, channels pass; outside of the image there may be zeros."""

    bounded = False

    def keeps(self, node: Node, context: Context) -> bool:
        return False

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        return [alike(node, "GridSample", list(node.proto.input))] if context.opset >= 16 else None


class CropAndResize(GridSample):
    """CropAndResize: boxes of images, each channel for itself; what lies outside has a value of its own."""

    def passing(self, node: Node, context: Context) -> set[int]:
        return {1}

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        return [None] if node.attr("extrapolation_value", 0.0) else super().facts(node, context)

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        sizes = context.ints(node.inputs[3])
        if sizes is None or len(sizes) != 2 or context.opset < 10:
            return None
        inputs = list(node.proto.input[:3])
        return [alike(node, "RoiAlign", inputs, output_height=sizes[0], output_width=sizes[1])]


class ContribPad(Pad):
    """Pad of com.microsoft: that of opset 13."""

    def _amounts(self, node: Node, context: Context) -> Amounts | None:
        return super()._amounts(node, context) if context.opset >= 11 else None

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        mode = {"mode": node.attr("mode")} if node.attr("mode") else {}
        return [alike(node, "Pad", list(node.proto.input), **mode)] if context.opset >= 11 else None


register(FusedConvolution(False), "FusedConv", domain=DOMAIN)
register(
    FusedMultiplication(),
    "FusedMatMul",
    "TransposeMatMul",
    "FusedGemm",
    "GemmFastGelu",
    "FusedMatMulActivation",
    domain=DOMAIN,
)
register(Fused(limits=interval.fixed(-0.4, np.inf), operands=2), "Gelu", "FastGelu", "BiasGelu", domain=DOMAIN)
register(Fused(operands=3), "QuickGelu", "BiasAdd", "GatedAdd", domain=DOMAIN)
register(ExpandDims(), "ExpandDims", domain=DOMAIN)
register(NhwcMaxPool(), "NhwcMaxPool", domain=DOMAIN)
register(SkipNormalization(), "SkipLayerNormalization", "SkipSimplifiedLayerNormalization", domain=DOMAIN)
register(
    EmbedNormalization("embeddings are normalized over all their features"), "EmbedLayerNormalization", domain=DOMAIN
)
register(GridSample(), "GridSample", domain=DOMAIN)
register(CropAndResize(), "CropAndResize", domain=DOMAIN)
register(ContribPad(), "Pad", domain=DOMAIN)
