"""Normalizations. BatchNormalization at inference and InstanceNormalization act on each channel alone; the others
mix the axes that they normalize, which are pinned.
"""

from __future__ import annotations

import numpy as np
import onnx
from onnx import helper

from ..graph.view import Node, Shape
from .broadcast import broadcast_dims
from .fact import Fact, collapse, fits, unknown
from .interval import rounding
from .movement import axis_of, parallel
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, free_slices, register
from .tie import Growth, Kept, Picks, Same, Tie


class BatchNormalization(Rule):
    """y = scale (x - mean) / sqrt(var + epsilon) + B, channel by channel; scale 0 leaves B."""

    family = "normalization"

    def _inference(self, node: Node) -> bool:
        return not node.attr("training_mode", 0) and len([o for o in node.outputs if o]) == 1

    def _affine(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray] | None:
        """(factor, offset) of y = factor x + offset, float64 [C]."""

        def compute() -> tuple[np.ndarray, np.ndarray] | None:
            parts = [context.array(name) for name in node.inputs[1:5]]
            if any(p is None for p in parts) or not self._inference(node):
                return None
            scale, offset, mean, var = (np.asarray(p, np.float64) for p in parts)
            factor = scale / np.sqrt(var + node.attr("epsilon", 1e-5))
            return factor, offset - factor * mean

        return context.cached((node.index, "affine"), compute)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        none: list[Fact | None] = [None] * len(node.outputs)
        with np.errstate(all="ignore"):
            affine = self._affine(node, context)
        rank = context.rank(node.outputs[0])
        if affine is None or rank is None or rank < 2 or not np.isfinite(affine).all():
            return none
        column = (1, affine[0].size) + (1,) * (rank - 2)
        factor, offset = (part.reshape(column) for part in affine)
        exact = context.array(node.inputs[2])
        assert exact is not None
        dtype = context.graph.dtypes.get(node.outputs[0], exact.dtype)
        source = context.fact(node.inputs[0]) or unknown(rank, dtype)
        if not fits(np.prod(np.broadcast_shapes(source.value.shape, column), dtype=np.int64), source):
            source = unknown(rank, dtype)
        with np.errstate(all="ignore"):
            result = np.where(factor == 0, exact.reshape(column), factor * source.value.astype(np.float64) + offset)
            ends = [np.where(factor == 0, 0.0, factor * bound) + offset for bound in source.bounds()]
            slack = rounding(exact.dtype) * (np.maximum(*(np.abs(e) for e in ends)) + np.abs(offset))
        slack = np.where(np.isfinite(slack), slack, 0.0)
        result = result.astype(dtype)
        known = ((factor == 0) | source.known) & np.isfinite(result)
        low, high = np.minimum(*ends) - slack, np.maximum(*ends) + slack
        return [collapse(Fact(result, known, low, high)), *none[1:]]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        if not self._inference(node):
            return []
        x, y = node.inputs[0], node.outputs[0]
        return [*parallel(x, y, context), *(Same((name, 0), (y, 1)) for name in node.inputs[1:5])]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live = state.live(node.outputs[0])
        affine = self._affine(node, context)
        if not self._inference(node) or context.rank(node.inputs[0]) != len(live):
            return super().reads(node, context, state)
        if not all(mask.any() for mask in live):
            return {}
        demand = [m.copy() for m in live]
        if affine is not None and len(demand) > 1 and demand[1].size == affine[0].size:
            demand[1] &= affine[0] != 0
        return {0: demand, 1: None, 2: None, 3: None, 4: None}


class PerChannel(Rule):
    """InstanceNormalization: statistics over the spatial axes of each channel.

    A channel of zeros gives its bias. Any other constant does too, but only up to its rounding over sqrt(epsilon),
    which is more than verification lets pass: unknown.
    """

    family = "normalization"

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        bias, rank = context.array(node.inputs[2]), context.rank(node.outputs[0])
        scale = context.array(node.inputs[1])
        if bias is None or scale is None or rank is None:
            return [None]
        uniform, value = free_slices(node.inputs[0], 1, context)
        known = (np.broadcast_to(uniform & (value == 0), bias.shape) | (scale == 0)).reshape(
            (1, -1) + (1,) * (rank - 2)
        )
        return [collapse(Fact(bias.reshape(known.shape), known))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, y = node.inputs[0], node.outputs[0]
        rank = context.rank(x) or 0
        spatial = tuple(range(2, rank))
        return [*parallel(x, y, context, spatial), Same((node.inputs[1], 0), (y, 1)), Same((node.inputs[2], 0), (y, 1))]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live, demand = state.live(node.outputs[0]), everything(node.inputs[0], context)
        if not all(mask.any() for mask in live):
            return {}
        for axis in (0, 1):
            if live[axis].size == demand[axis].size:
                demand[axis] = live[axis]
        return {0: demand, 1: None, 2: None}


class WholeGroups(Picks):
    """Slices of one axis in groups, `index` being the group of each: a group stays whole or goes whole."""

    def close(self, kept: Kept) -> Growth:
        mask = kept(self.a)
        full = np.isin(self.index, self.index[mask])
        return [(self.a, full)] if (full & ~mask).any() else []


class GroupNormalization(Rule):
    """GroupNormalization: statistics over the channels and positions of each group; whole groups can go.

    A group of zeros gives its bias, and so does a channel whose scale is zero. Another constant does so only up to
    rounding over sqrt(epsilon), as in InstanceNormalization: unknown. Up to opset 20 scale and bias have one element
    for each group, from 21 on one for each channel.
    """

    family = "normalization"

    def _groups(self, node: Node, context: Context) -> tuple[int, int] | None:
        """(groups, channels in each)."""
        groups, channels = int(node.attr("num_groups", 0)), context.size(node.inputs[0], 1)
        if not groups or channels is None or channels % groups or (context.rank(node.inputs[0]) or 0) < 3:
            return None
        sizes = {context.size(name, 0) for name in node.inputs[1:3]}
        return (groups, channels // groups) if sizes in ({groups}, {channels}) else None

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        """Inference knows it as a function only, and gives its output no shape."""
        return [helper.make_node("Identity", node.proto.input[:1], node.proto.output[:1])]

    def _of_channels(self, node: Node, index: int, context: Context) -> np.ndarray | None:
        """Scale (1) or bias (2), one element for each channel."""
        array, channels = context.array(node.inputs[index]), context.size(node.inputs[0], 1)
        return None if array is None or channels is None else np.repeat(array, channels // array.size)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        layout, rank = self._groups(node, context), context.rank(node.outputs[0])
        bias = self._of_channels(node, 2, context)
        if layout is None or bias is None or rank is None:
            return [None]
        uniform, value = free_slices(node.inputs[0], 1, context)
        known = np.repeat((uniform & (value == 0)).reshape(layout).all(axis=1), layout[1])
        scale = self._of_channels(node, 1, context)
        known = known if scale is None else known | (scale == 0)
        column = (1, -1) + (1,) * (rank - 2)
        return [collapse(Fact(bias.reshape(column), known.reshape(column)))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        layout, x, y = self._groups(node, context), node.inputs[0], node.outputs[0]
        if layout is None:
            return []
        spatial = tuple(range(2, context.rank(x) or 0))
        group = np.arange(layout[0] * layout[1]) // layout[1]
        of_group = {name: context.size(name, 0) == layout[0] for name in node.inputs[1:3]}
        affine = [Same((name, 0), (y, 1), group if grouped else None) for name, grouped in of_group.items()]
        return [*parallel(x, y, context, spatial), WholeGroups((y, 1), (y, 1), group), *affine]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        layout, live = self._groups(node, context), state.live(node.outputs[0])
        if layout is None:
            return super().reads(node, context, state)
        if not all(mask.any() for mask in live):
            return {}
        scale, wanted = self._of_channels(node, 1, context), live[1]
        wanted = wanted if scale is None else wanted & (scale != 0)
        demand = everything(node.inputs[0], context)
        demand[1] = np.repeat(wanted.reshape(layout).any(axis=1), layout[1])
        if live[0].size == demand[0].size:
            demand[0] = live[0]
        return {0: demand, 1: None, 2: None}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        layout, indices = self._groups(node, cut.context), cut.indices(node.outputs[0], 1)
        if layout is None or indices is None:
            return Rewrite()
        return Rewrite({"num_groups": int(indices.size) // layout[1]})


class Mixing(Rule):
    """Operators that mix whole axes and leave the others alone: Softmax, LayerNormalization, LRN, LpNormalization."""

    family = "normalization"

    def mixed(self, node: Node, context: Context) -> set[int] | None:
        """Axes whose elements depend on each other; None if that is not known."""
        rank = context.rank(node.inputs[0])
        if rank is None:
            return None
        if node.op == "LRN":
            return {1}
        if node.op in ("Softmax", "LogSoftmax", "Hardmax"):
            legacy = context.opset < 13
            axis = axis_of(node, context, 1 if legacy else -1)
            if axis is None:
                return None
            return set(range(axis, rank)) if legacy else {axis}
        axis = axis_of(node, context, -1)
        if axis is None:
            return None
        return set(range(axis, rank)) if node.op.endswith("Normalization") and node.op[:2] != "Lp" else {axis}

    def stand_in(self, node: Node, context: Context) -> list[onnx.NodeProto] | None:
        """ONNX Runtime writes these two into models of any opset."""
        older = node.op == "LayerNormalization" and 0 < context.opset < 17
        if not older and node.op != "SimplifiedLayerNormalization":
            return None
        return [helper.make_node("Identity", node.proto.input[:1], node.proto.output[:1])]

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        source, old = context.shape(node.inputs[0]), context.shape(node.outputs[0])
        if source is None or old is None:
            return {}
        new = broadcast_dims(old, [source])  # exporters give the dimensions of a graph's outputs names of their own
        return {node.outputs[0]: new} if new != old else {}

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        none: list[Fact | None] = [None] * len(node.outputs)
        rank = context.rank(node.outputs[0])
        if rank is not None and node.op == "Softmax":
            dtype = context.graph.dtypes.get(node.outputs[0], np.dtype(np.float32))
            shape = (1,) * rank
            none[0] = Fact(np.zeros(shape, dtype), np.zeros(shape, bool), np.zeros(shape), np.full(shape, 1 + 1e-6))
        if node.op == "LRN":
            fact = context.fact(node.inputs[0])
            # zero divided by something positive stays zero
            none[0] = None if fact is None else collapse(Fact(fact.value, fact.zero()))
        return none

    def ties(self, node: Node, context: Context) -> list[Tie]:
        mixed = self.mixed(node, context)
        if mixed is None:
            return []
        return [t for out in node.outputs if out for t in parallel(node.inputs[0], out, context, tuple(mixed))]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        mixed, live = self.mixed(node, context), state.live(node.outputs[0])
        others = [o for o in node.outputs[1:] if o and state.needed(o)]
        if mixed is None or others or len(live) != context.rank(node.inputs[0]):
            return super().reads(node, context, state)
        if not all(mask.any() for mask in live):
            return {}
        demand = everything(node.inputs[0], context)
        for axis in range(len(demand)):
            if axis not in mixed and live[axis].size == demand[axis].size:
                demand[axis] = live[axis]
        return {0: demand, **{i: None for i in range(1, len(node.inputs)) if node.inputs[i]}}


register(BatchNormalization(), "BatchNormalization")
register(PerChannel(), "InstanceNormalization")
register(GroupNormalization(), "GroupNormalization")
register(
    Mixing(),
    *("Softmax", "LogSoftmax", "Hardmax", "LRN", "LpNormalization"),
    *("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization"),
)
