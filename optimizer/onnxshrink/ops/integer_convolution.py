"""Convolutions of integers: QLinearConv and ConvInteger."""

from __future__ import annotations

import numpy as np
import onnx

from ..graph.view import Node
from .conv import regroup
from .fact import Fact, unknown
from .integers import IntegerLayer, Ports, between
from .rule import Channels, Context, Cut, Demand, Rewrite, State, register
from .steps import MICROSOFT, span, stand_in
from .tie import EqualPerGroup, Port, Same, SharedColumns, Tie


class IntegerConvolution(IntegerLayer):
    """QLinearConv and ConvInteger, plain, grouped and depthwise: channels that equal their zero point go."""

    def channels(self, node: Node, context: Context) -> Channels | None:
        return Channels(1, tuple(i for i in (self.ports.w, self.ports.bias) if i >= 0))

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        if not node.domain or node.attr("channels_last", 0):
            return None
        attributes = {k: node.attr(k) for k in ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")}
        return stand_in(node, "QLinearConv", node.proto.input, **{k: v for k, v in attributes.items() if v is not None})

    def split(self, node: Node, context: Context) -> np.ndarray | None:
        """The centred weight as [group, outputs of the group, inputs of the group, *kernel]; None if not understood."""
        weight, groups = self.centred(node, context, 0), self.groups(node)
        if weight is None or weight.ndim < 3 or weight.shape[0] % groups or node.attr("channels_last", 0):
            return None
        if weight.shape[1] * groups != context.size(node.inputs[self.ports.x], 1):
            return None
        return weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])

    def pattern(self, node: Node, context: Context) -> np.ndarray | None:
        """Whether any tap differs from the zero point, [group, out, in]."""
        split = self.split(node, context)
        if split is None:
            return None
        taps = tuple(range(3, split.ndim))
        found: np.ndarray = context.derived(
            node.inputs[self.ports.w], f"pattern {node.index}", lambda: (split != 0).any(axis=taps)
        )
        return found

    def padded(self, node: Node) -> bool:
        """Whether zeros stand beside the border."""
        return any(node.attr("pads", ())) or node.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER")

    def bias(self, node: Node, context: Context, outputs: int) -> np.ndarray | None:
        """The bias as int64 [outputs]; None where it is not known."""
        name = self.name(node, self.ports.bias)
        if not name:
            return np.zeros(outputs, np.int64)
        array = context.array(name)
        return None if array is None or array.size != outputs else array.astype(np.int64).reshape(-1)

    def reach(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray] | None:
        """Least and largest x - x_zero of each input channel, or of what stands beside the border, [C] each."""
        name = node.inputs[self.ports.x]
        dtype, size, rank = context.graph.dtypes.get(name), context.size(name, 1), context.rank(name)
        limits = None if dtype is None else span(dtype)
        if dtype is None or limits is None or size is None or rank is None:
            return None
        fact = context.fact(name) or unknown(rank, dtype)
        others = tuple(a for a in range(rank) if a != 1)
        low, high = (np.clip(bound, *limits) for bound in fact.bounds())
        zero_name = self.name(node, self.ports.x_zero)
        zero = context.array(zero_name) if zero_name else np.zeros((), np.int64)
        least, most = limits if zero is None else (int(zero.min()), int(zero.max()))
        low = np.broadcast_to(low.min(axis=others), (size,)) - most
        high = np.broadcast_to(high.max(axis=others), (size,)) - least
        return (np.minimum(low, 0), np.maximum(high, 0)) if self.padded(node) else (low, high)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        split = self.split(node, context)
        rank = context.rank(node.outputs[0])
        if split is None or rank is None:
            return [None]
        groups, outputs = split.shape[0], split.shape[0] * split.shape[1]
        bias = self.bias(node, context, outputs)
        reach = self.reach(node, context)
        if bias is None or reach is None:
            return [None]
        idle = self.neutral(node, context, 1)
        low, high = (np.where(idle, 0.0, ends).reshape(groups, -1) for ends in reach)
        taps = tuple(range(3, split.ndim))

        def signs() -> list[np.ndarray]:
            return [part.sum(axis=taps, dtype=np.float64) for part in (np.maximum(split, 0), np.minimum(split, 0))]

        positive, negative = context.derived(node.inputs[self.ports.w], f"signs {node.index}", signs)

        def total(of_positive: np.ndarray, of_negative: np.ndarray) -> np.ndarray:
            one = np.einsum("goi,gi->go", positive, of_positive) + np.einsum("goi,gi->go", negative, of_negative)
            return np.asarray((one.reshape(-1) + bias).reshape((1, outputs) + (1,) * (rank - 2)))

        return [self.scaled(node, between(total(low, high), total(high, low)), 1, context)]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        if self.pattern(node, context) is None:
            return []
        x, w, y = node.inputs[self.ports.x], node.inputs[self.ports.w], node.outputs[0]
        groups, ties = self.groups(node), list[Tie]()
        if context.size(x, 0) is not None and context.size(x, 0) == context.size(y, 0):
            ties.append(Same((x, 0), (y, 0)))
        for index in (*self.ports.per_output, self.ports.bias):
            name = self.name(node, index)
            if name and context.rank(name) == 1 and context.size(name, 0) == context.size(y, 1) != 1:
                ties.append(Same((name, 0), (y, 1)))
        if groups == 1:
            return [*ties, Same((w, 0), (y, 1)), Same((w, 1), (x, 1))]
        if w in context.graph.constants:
            return [*ties, EqualPerGroup((x, 1), (y, 1), groups)]
        ties += [Same((w, 0), (y, 1)), SharedColumns((x, 1), (y, 1), (w, 1), groups)]
        return [*ties, EqualPerGroup((x, 1), (y, 1), groups, computed=True)]

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        return (node.inputs[self.ports.x], 1) if self.pattern(node, context) is not None else None

    def read(self, node: Node, context: Context) -> np.ndarray:
        pattern = self.pattern(node, context)
        assert pattern is not None
        return np.asarray(pattern.any(axis=1).reshape(-1))

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        idle = self.neutral(node, context, 1)
        return idle, np.zeros_like(idle)

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        pattern = self.pattern(node, context)
        if pattern is None:
            return super().reads(node, context, state)
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        x = node.inputs[self.ports.x]
        wanted = (pattern & live[1].reshape(pattern.shape[:2])[:, :, None]).any(axis=1).reshape(-1)
        demand = [np.ones(context.size(x, a) or 1, bool) for a in range(context.rank(x) or 0)]
        demand[1] = wanted & ~(self.neutral(node, context, 1) & ~state.kept((x, 1)))
        if demand[0].size == live[0].size:
            demand[0] = live[0]
        rest: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name}
        return {**rest, self.ports.x: demand}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        context, groups = cut.context, self.groups(node)
        x, w, y = node.inputs[self.ports.x], node.inputs[self.ports.w], node.outputs[0]
        into, out = cut.indices(x, 1), cut.indices(y, 1)
        split = self.split(node, context)
        if groups == 1 or split is None or (into is None and out is None):
            return Rewrite()
        into = np.arange(groups * split.shape[2]) if into is None else into
        out = np.arange(groups * split.shape[1]) if out is None else out
        if w not in context.graph.constants:
            return Rewrite({"group": np.unique(out // split.shape[1]).size})
        packed = regroup(split, into, out)
        weight = packed.reshape(-1, *packed.shape[2:])
        zero = context.array(node.input(self.ports.w_zero)) if node.input(self.ports.w_zero) else None
        if zero is not None:
            zero = zero.astype(np.int16).reshape(-1)
            weight = weight + (zero[out] if zero.size > 1 else zero).reshape([-1] + [1] * (weight.ndim - 1))
        dtype = context.graph.constants[w].dtype
        return Rewrite({"group": packed.shape[0]}, {self.ports.w: np.ascontiguousarray(weight.astype(dtype))})


register(IntegerConvolution(Ports(0, 2, 3, 5, 8, x_scale=1, w_scale=4, y_scale=6, y_zero=7)), "QLinearConv")
register(
    IntegerConvolution(Ports(0, 2, 3, 5, 8, x_scale=1, w_scale=4, y_scale=6, y_zero=7)),
    "QLinearConv",
    domain=MICROSOFT,
)
register(IntegerConvolution(Ports(0, 2, 1, 3)), "ConvInteger")
