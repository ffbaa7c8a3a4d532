"""Operators that sample feature maps at computed places, or fold patches into them; each channel is on its own.

GridSample, RoiAlign, MaxRoiPool, Col2Im, CenterCropPad, the stateful causal convolution, and DeformConv, which is a
convolution whose taps are sampled.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .carried import Carried
from .fact import Fact, collapse
from .passing import CONSTANT, NOTHING, ZERO, Passing, Way
from .rule import Channels, Context, Cut, Demand, Rewrite, Rule, State, everything, free_slices, register
from .tie import Same, Tie


class GridSample(Passing):
    """GridSample: the grid is one for all channels. Places outside count as zeros, or as the border."""

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        border = node.attr("padding_mode", "zeros") != "zeros"
        return (_AT_BORDER if border else _IN_ZEROS).facts(node, context)


def _sampled(node: Node, context: Context) -> list[Way]:
    return [Way(0, 1, 0, 1), Way(0, 0, 0, 0), Way(1, 0, 0, 0)]


_AT_BORDER, _IN_ZEROS = (Passing(_sampled, "pool", "", keeps=keeps) for keeps in (CONSTANT, ZERO))


def _regions(node: Node, context: Context) -> list[Way]:
    return [Way(0, 1, 0, 1), Way(1, 0, 0, 0), Way(2, 0, 0, 0)]


def _causal(node: Node, context: Context) -> list[Way]:
    """Channels of input, weight, bias and state; the batch of input and state; both outputs alike."""
    channels = [Way(i, axis, k, 1) for i, axis in ((0, 1), (1, 0), (2, 0), (3, 1)) for k in (0, 1)]
    return channels + [Way(i, 0, k, 0) for i in (0, 3) for k in (0, 1)]


class CenterCropPad(Passing):
    """CenterCropPad: axes that it does not name, or that have the size that it asks for, pass."""

    def __init__(self) -> None:
        super().__init__(
            self._passing,
            "movement",
            "Axes that it does not name, or that have the size that it asks for, pass",
            keeps=ZERO,
        )

    @staticmethod
    def _named(node: Node, context: Context) -> list[int]:
        rank = context.rank(node.inputs[0]) or 0
        axes = node.attr("axes")
        return list(range(rank)) if axes is None else [a % rank for a in axes]

    @classmethod
    def _passing(cls, node: Node, context: Context) -> list[Way] | None:
        named, target = cls._named(node, context), context.ints(node.inputs[1])
        rank = context.rank(node.inputs[0])
        if rank is None or (target is not None and len(target) != len(named)):
            return None
        same = [a for k, a in enumerate(named) if target is not None and context.size(node.inputs[0], a) == target[k]]
        return [Way(0, a, 0, a) for a in range(rank) if a not in named or a in same]

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        named, target = self._named(node, cut.context), cut.context.ints(node.inputs[1])
        new = cut.shape(node.outputs[0]) or ()
        if target is None or all(cut.indices(node.outputs[0], a) is None for a in named):
            return Rewrite()
        sizes = [
            new[a] if cut.indices(node.outputs[0], a) is not None else t for a, t in zip(named, target, strict=True)
        ]
        dtype = cut.context.graph.dtypes.get(node.inputs[1], np.dtype(np.int64))
        return Rewrite(inputs={1: np.array(sizes, dtype)})


class Col2Im(Rule):
    """Col2Im: columns [N, C * block, L] are summed into images [N, C, ...]; a channel has one row for each place of
    the block.
    """

    family = "pool"

    def _rows(self, node: Node, context: Context) -> np.ndarray | None:
        """The channel of each row of the columns."""
        block = context.ints(node.inputs[2])
        rows, channels = context.size(node.inputs[0], 1), context.size(node.outputs[0], 1)
        if block is None or rows is None or channels is None or rows != channels * int(np.prod(block)):
            return None
        return np.arange(rows) // int(np.prod(block))

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        rows, rank = self._rows(node, context), context.rank(node.outputs[0])
        dtype = context.graph.dtypes.get(node.outputs[0])
        if rows is None or rank is None or dtype is None:
            return [None]
        uniform, value = free_slices(node.inputs[0], 1, context)
        zero = (uniform & (value == 0)).reshape(rows[-1] + 1, -1).all(axis=1)
        return [collapse(Fact(np.zeros((1,) * rank, dtype), zero.reshape(1, -1, *(1,) * (rank - 2))))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        rows, x, y = self._rows(node, context), node.inputs[0], node.outputs[0]
        ties: list[Tie] = [] if rows is None else [Same((y, 1), (x, 1), rows)]
        if context.size(x, 0) is not None and context.size(x, 0) == context.size(y, 0):
            ties.append(Same((x, 0), (y, 0)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        rows, live = self._rows(node, context), state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        demand = everything(node.inputs[0], context)
        if rows is not None:
            demand[1] = live[1][rows]
        if demand[0].size == live[0].size:
            demand[0] = live[0]
        return {0: demand, 1: None, 2: None}


class DeformConv(Carried):
    """DeformConv: a convolution whose taps are sampled where the offsets say; outside of the input is zero.

    A zero input channel contributes nothing, any other known one becomes uneven at the border and takes a carrier.
    With several groups the channels are pinned, with several groups of offsets the input channels.
    """

    def _weight(self, node: Node, context: Context) -> np.ndarray | None:
        weight = context.array(node.inputs[1])
        fits = weight is not None and weight.ndim == 4 and int(node.attr("group", 1)) == 1
        return weight if fits and weight is not None and context.size(node.inputs[0], 1) == weight.shape[1] else None

    def channels(self, node: Node, context: Context) -> Channels | None:
        return Channels(1, (1, 3))

    def _pattern(self, node: Node, context: Context) -> np.ndarray:
        """Whether any tap is not zero, [out, in]."""
        weight = self._weight(node, context)
        assert weight is not None
        return context.derived(node.inputs[1], "pattern of taps", lambda: (weight != 0).any(axis=(2, 3)))

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        bias, dtype = context.fact(node.input(3)), context.graph.dtypes.get(node.outputs[0])
        if self._weight(node, context) is None or dtype is None or (node.input(3) and bias is None):
            return [None]
        uniform, value = free_slices(node.inputs[0], 1, context)
        nonzero = self._pattern(node, context)
        known = ~(nonzero & ~(uniform & (value == 0))).any(axis=1)
        result = np.zeros(known.size, dtype)
        if bias is not None:
            known, result = known & bias.known, np.broadcast_to(bias.value, known.shape)
        return [collapse(Fact(result.reshape(1, -1, 1, 1).astype(dtype), known.reshape(1, -1, 1, 1)))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        if self._weight(node, context) is None:
            return []
        x, y = node.inputs[0], node.outputs[0]
        ties: list[Tie] = [Same((node.inputs[1], 0), (y, 1))]
        if node.input(3):
            ties.append(Same((node.input(3), 0), (y, 1)))
        if int(node.attr("offset_group", 1)) == 1:
            ties.append(Same((node.inputs[1], 1), (x, 1)))
        batch = [(name, 0) for name in (x, node.inputs[2], node.input(4)) if name]
        if len({context.size(*port) for port in (*batch, (y, 0))}) == 1 and context.size(y, 0) is not None:
            ties += [Same(port, (y, 0)) for port in batch]
        return ties

    def meeting(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        alone = int(node.attr("offset_group", 1)) == 1
        return (0, 1, 1, 1) if alone and self._weight(node, context) is not None else None

    def read(self, node: Node, context: Context) -> np.ndarray:
        return np.asarray(self._pattern(node, context).any(axis=0))

    def wanted(self, node: Node, context: Context, state: State) -> np.ndarray:
        return np.asarray(self._pattern(node, context)[state.live(node.outputs[0])[1]].any(axis=0))

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live = state.live(node.outputs[0])
        if self._weight(node, context) is None:
            return super().reads(node, context, state)
        if not all(mask.any() for mask in live):
            return {}
        demand, wanted = everything(node.inputs[0], context), self.wanted(node, context, state)
        alone = self.meeting(node, context) is not None
        demand[1] = self.demanded(node, wanted, context, state) if alone else wanted
        if demand[0].size == live[0].size:
            demand[0] = live[0]
        rest: dict[int, Demand | None] = {i: None for i in range(1, len(node.inputs)) if node.inputs[i]}
        return {0: demand, **rest}


register(GridSample(_sampled, "pool", "The grid is one for all channels, which pass", keeps=NOTHING), "GridSample")
register(
    Passing(_regions, "pool", "Channels pass; regions are the same for all", keeps=ZERO, strict=(1, 2)), "RoiAlign"
)
register(
    Passing(_regions, "pool", "Channels pass; regions are the same for all", keeps=ZERO, strict=(1,)), "MaxRoiPool"
)
register(
    Passing(_causal, "contraction", "Channels pass with their taps and their state", keeps=ZERO, data=(0, 2, 3)),
    "CausalConvWithState",
)
register(CenterCropPad(), "CenterCropPad")
register(Col2Im(), "Col2Im")
register(DeformConv(), "DeformConv")
