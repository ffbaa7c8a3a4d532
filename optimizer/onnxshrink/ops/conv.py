"""Conv and ConvTranspose, plain, grouped and depthwise, in any number of dimensions.

Y[o] = b[o] + sum_i W[o,i] * X[i]. A filter whose taps are zero, or read only channels of known value, gives a known
channel. A known input channel need not stay: zero contributes nothing; a constant v into a convolution without
zero padding adds v * sum(W[o,i]) to the bias; with padding the border differs, and exact for every input size is
one carrier channel k0 with W'[:,k0] = sum_k (v_k/v_k0) W[:,k]. ConvTranspose spreads a constant unevenly over its
output, so it takes carriers, never a bias.
"""

from __future__ import annotations

import math

import numpy as np

from ..graph.view import Node
from .contraction import Contraction, bearers, candidates, largest
from .fact import Fact, collapse
from .interval import rounding
from .rule import Carrying, Channels, Context, Cut, Demand, Rewrite, State, free_slices, register
from .tie import EqualPerGroup, Port, Same, SharedColumns, Tie, merges


class Convolution(Contraction):
    """Both convolutions; `transposed` decides how the weight is laid out."""

    def __init__(self, transposed: bool):
        self.transposed = transposed

    def channels(self, node: Node, context: Context) -> Channels | None:
        return Channels(1, (1, 2))

    def readable(self, node: Node, context: Context) -> bool:
        """Whether weight, bias and channel counts are constants that the rule understands."""
        weight = self.weight(node, context)
        channels = context.size(node.inputs[0], 1)
        return (
            weight is not None
            and channels is not None
            and context.size(node.outputs[0], 1) is not None
            and weight.ndim >= 3
            and (not node.input(2) or context.rank(node.input(2)) == 1)
            and self._channels(weight, self.groups(node)) == channels
        )

    def _channels(self, weight: np.ndarray, groups: int) -> int:
        return weight.shape[0] if self.transposed else weight.shape[1] * groups

    @staticmethod
    def groups(node: Node) -> int:
        return int(node.attr("group", 1))

    @staticmethod
    def weight(node: Node, context: Context) -> np.ndarray | None:
        return context.array(node.inputs[1])

    def grouped(self, array: np.ndarray, groups: int) -> np.ndarray:
        """The weight as [group, outputs of the group, inputs of the group, *kernel]."""
        if self.transposed:
            split = array.reshape(groups, array.shape[0] // groups, *array.shape[1:])
            return np.swapaxes(split, 1, 2)
        return array.reshape(groups, array.shape[0] // groups, *array.shape[1:])

    def _split(self, node: Node, context: Context) -> np.ndarray:
        """The weight as `grouped` gives it."""
        weight = self.weight(node, context)
        assert weight is not None
        return self.grouped(weight, self.groups(node))

    def key(self, node: Node, what: str) -> str:
        """The key of what is derived from a weight; a computed one may feed convolutions of different layout."""
        return f"{what}, {self.groups(node)} groups, {self.transposed}"

    def pattern(self, node: Node, context: Context) -> np.ndarray:
        """Whether any tap is non-zero, [group, out, in], cached."""

        def compute() -> np.ndarray:
            split = self._split(node, context)
            return np.asarray((split != 0).any(axis=tuple(range(3, split.ndim))))

        return context.derived(node.inputs[1], self.key(node, "pattern"), compute)

    def _response(self, node: Node, context: Context, plane: np.ndarray) -> np.ndarray:
        """What constant input planes [C] add to each output [O] away from the border, in float64."""
        split, groups = self._split(node, context), self.groups(node)
        response = np.zeros(split.shape[:2])
        for group, values in enumerate(plane.reshape(groups, -1)):
            inputs = np.flatnonzero(values)
            if inputs.size:
                taps = split[group][:, inputs].reshape(split.shape[1], inputs.size, -1).sum(axis=2, dtype=np.float64)
                response[group] = taps @ values[inputs]
        return response.reshape(-1)

    def padded(self, node: Node, context: Context) -> bool:
        """Whether a constant input plane becomes an uneven output plane at the border."""
        if self.transposed:
            return True
        weight = self.weight(node, context)
        kernel = node.attr("kernel_shape", weight.shape[2:] if weight is not None else (0,))
        if node.attr("auto_pad", "NOTSET") in ("SAME_UPPER", "SAME_LOWER"):
            return any(k != 1 for k in kernel)
        return any(node.attr("pads", ()))

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        if not self.readable(node, context):
            return [None]
        groups = self.groups(node)
        nonzero = self.pattern(node, context)
        size = context.size(node.inputs[0], 1) or 0
        uniform, value = free_slices(node.inputs[0], 1, context)
        bias_fact = context.fact(node.input(2))
        if node.input(2) and bias_fact is None:
            return [None]
        outputs = nonzero.shape[0] * nonzero.shape[1]
        bias = np.zeros(outputs) if bias_fact is None else np.broadcast_to(bias_fact.value, (outputs,)).astype(float)
        bias_known = bias_fact is None or bias_fact.all_known
        silent = uniform & ((value == 0) | (not self.padded(node, context)))
        loud = (~silent).reshape(groups, 1, size // groups)
        known = ~(nonzero & loud).any(axis=2)
        result = bias + self._response(node, context, np.where(silent, value, 0.0)) if bias_known else bias
        rank = context.rank(node.outputs[0]) or 0
        column = (1, outputs) + (1,) * (rank - 2)
        mask = (known.reshape(-1) & bias_known).reshape(column)
        dtype = context.graph.dtypes.get(node.outputs[0], np.dtype(np.float32))
        low, high = self._limits(node, context, bias if bias_known else None)
        with np.errstate(all="ignore"):
            values = result.astype(dtype).reshape(column)
        mask = mask & np.isfinite(values.astype(np.float64))
        return [
            collapse(
                Fact(
                    values,
                    mask,
                    None if low is None else low.reshape(column),
                    None if high is None else high.reshape(column),
                )
            )
        ]

    def _limits(
        self, node: Node, context: Context, bias: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray] | tuple[None, None]:
        """Interval of each output channel; padding and strides may leave any tap out, so 0 counts as an input."""
        fact = context.fact(node.inputs[0])
        if fact is None or bias is None:
            return None, None
        size, groups = context.size(node.inputs[0], 1) or 0, self.groups(node)
        others = tuple(a for a in range(fact.rank) if a != 1)
        low, high = fact.bounds()
        low = np.broadcast_to(low.min(axis=others), (size,))
        high = np.broadcast_to(high.max(axis=others), (size,))
        if not (np.isfinite(low).any() or np.isfinite(high).any()):
            return None, None
        if self.padded(node, context):
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        split = self._split(node, context)
        taps = tuple(range(3, split.ndim))

        def signs() -> tuple[np.ndarray, np.ndarray]:
            return (
                np.maximum(split, 0).sum(axis=taps, dtype=np.float32),
                np.minimum(split, 0).sum(axis=taps, dtype=np.float32),
            )

        positive, negative = context.derived(node.inputs[1], self.key(node, "signs"), signs)
        low_g, high_g = low.reshape(groups, -1), high.reshape(groups, -1)

        def bound(for_positive: np.ndarray, for_negative: np.ndarray, worst: float) -> np.ndarray:
            finite_p, finite_n = np.isfinite(for_positive), np.isfinite(for_negative)
            sum_p = np.einsum("goi,gi->go", positive, np.where(finite_p, for_positive, 0.0))
            sum_n = np.einsum("goi,gi->go", negative, np.where(finite_n, for_negative, 0.0))
            endless = ((positive > 0) & ~finite_p[:, None]).any(2) | ((negative < 0) & ~finite_n[:, None]).any(2)
            slack = rounding(split.dtype) * (
                np.einsum("goi,gi->go", positive, np.abs(np.where(finite_p, for_positive, 0.0)))
                - np.einsum("goi,gi->go", negative, np.abs(np.where(finite_n, for_negative, 0.0)))
                + np.abs(bias.reshape(groups, -1))
            )
            result = sum_p + sum_n + bias.reshape(groups, -1) + np.copysign(slack, worst)
            return np.where(endless, worst, result).reshape(-1)

        return bound(low_g, high_g, -np.inf), bound(high_g, low_g, np.inf)

    def ties(self, node: Node, context: Context) -> list[Tie]:
        if not self.readable(node, context):
            return []
        x, w, y = node.inputs[0], node.inputs[1], node.outputs[0]
        groups = self.groups(node)
        ties: list[Tie] = []
        if context.size(x, 0) is not None and context.size(x, 0) == context.size(y, 0):
            ties.append(Same((x, 0), (y, 0)))
        if node.input(2):
            ties.append(Same((node.input(2), 0), (y, 1)))
        if groups == 1:
            out, into = (1, 0) if self.transposed else (0, 1)
            return [*ties, Same((w, out), (y, 1)), Same((w, into), (x, 1))]
        if w in context.graph.constants:
            return [*ties, EqualPerGroup((x, 1), (y, 1), groups)]
        rows, columns = ((x, 1), (y, 1)) if self.transposed else ((y, 1), (x, 1))
        ties += [Same((w, 0), rows), SharedColumns(columns, rows, (w, 1), groups)]
        return [*ties, EqualPerGroup((x, 1), (y, 1), groups, computed=True)]

    def _wanted(self, node: Node, context: Context, state: State) -> np.ndarray:
        """Input channels that a live output channel has a non-zero tap for, [C]."""
        nonzero = self.pattern(node, context)
        live = state.live(node.outputs[0])[1].reshape(nonzero.shape[:2])
        return (nonzero & live[:, :, None]).any(axis=1).reshape(-1)

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        return (node.inputs[0], 1) if self.readable(node, context) else None

    def read(self, node: Node, context: Context) -> np.ndarray:
        return self.pattern(node, context).any(axis=1).reshape(-1)

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        x, bias = node.inputs[0], node.input(2)
        uniform, value = free_slices(x, 1, context)
        zero = uniform & (value == 0)
        rest = uniform & ~zero
        whole = dequantized(node.inputs[1], context)
        if not rest.any():
            return zero, rest
        if not whole and not self.padded(node, context) and (not bias or bias in context.graph.constants):
            split = self._split(node, context)
            moved = float((np.abs(value) * self._strength(node, context))[rest].sum()) * math.prod(split.shape[3:])
            held = float(np.abs(context.graph.constants[bias]).max(initial=0)) if bias else 0.0
            return (zero | rest if moved + held <= largest(split.dtype) else zero), np.zeros_like(zero)
        if node.inputs[1] not in context.graph.constants:
            return zero, np.zeros_like(zero)
        groups = self.groups(node)
        served = self._bearers(node, context).reshape(groups, -1).any(axis=1)
        return zero, rest & np.repeat(served, rest.size // groups)

    def _bearers(self, node: Node, context: Context) -> np.ndarray:
        """Input channels that can carry what the others of their group contribute, [C], cached."""
        uniform, value = free_slices(node.inputs[0], 1, context)
        if node.inputs[1] not in context.graph.constants:
            return np.zeros_like(uniform)

        def compute() -> np.ndarray:
            strength, dtype = self._strength(node, context), self._split(node, context).dtype
            return bearers(uniform & (value != 0), value, strength, dtype, self.groups(node))

        found: np.ndarray = context.cached((node.index, "bearers"), compute)
        return found

    def _strength(self, node: Node, context: Context) -> np.ndarray:
        """Largest absolute weight that reads each input channel, [C], cached."""

        def compute() -> np.ndarray:
            split = np.abs(self._split(node, context).astype(np.float64))
            return np.asarray(split.max(axis=(1, *range(3, split.ndim)), initial=0).reshape(-1))

        return context.derived(node.inputs[1], self.key(node, "strength"), compute)

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        if not self.readable(node, context):
            return super().reads(node, context, state)
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        x = node.inputs[0]
        kept = state.kept((x, 1))
        wanted = self._wanted(node, context, state)
        free, carried = self.absorbs(node, context)
        demand = wanted & ~((free | carried) & ~kept)
        carriers = self.carriers(node, context, kept)
        lacking = (wanted & carried & ~kept).reshape(carriers.size, -1).any(axis=1)
        demand[carriers[lacking & (carriers >= 0)]] = True
        whole = [np.ones(context.size(x, a) or 1, bool) for a in range(context.rank(x) or 0)]
        whole[1] = demand
        if whole[0].size == live[0].size:
            whole[0] = live[0]
        return {0: whole, **{i: None for i in (1, 2) if node.input(i)}}

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        _, value = free_slices(node.inputs[0], 1, context)
        size = np.where(self._bearers(node, context) & kept, np.abs(value), 0.0).reshape(self.groups(node), -1)
        best = size.argmax(axis=1) + np.arange(size.shape[0]) * size.shape[1]
        return np.where(size.any(axis=1), best, -1)

    def carrying(self, node: Node, context: Context, state: State) -> Carrying | None:
        if not self.readable(node, context):
            return None
        port = (node.inputs[0], 1)
        kept = state.kept(port)
        _, carried = self.absorbs(node, context)
        missing = self._wanted(node, context, state) & carried & ~kept
        carriers = self.carriers(node, context, kept)
        missing &= np.repeat(carriers < 0, missing.size // carriers.size)
        if not missing.any():
            return None
        which = candidates(missing, self._bearers(node, context), carriers.size)
        return Carrying(port, which, np.abs(free_slices(*port, context)[1]))

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        context = cut.context
        if not self.readable(node, context):
            return Rewrite()
        x, y, groups = node.inputs[0], node.outputs[0], self.groups(node)
        into, out = cut.indices(x, 1), cut.indices(y, 1)
        result = Rewrite()
        if into is not None:
            self._absorb(node, cut, into, out, result)
        if groups > 1 and (into is not None or out is not None):
            self._repack(node, cut, into, out, result)
        return result

    def _absorb(self, node: Node, cut: Cut, into: np.ndarray, out: np.ndarray | None, result: Rewrite) -> None:
        """Put what the cut channels contributed into the bias or the carrier."""
        context = cut.context
        kept = np.zeros(context.size(node.inputs[0], 1) or 0, bool)
        kept[into] = True
        uniform, value = free_slices(node.inputs[0], 1, context)
        free, carried = self.absorbs(node, context)
        gone = uniform & (value != 0) & ~kept & self.read(node, context) & (free | carried)
        if not gone.any():  # or only rows that may hold garbage read them
            return
        rows = slice(None) if out is None else out
        if not self.padded(node, context):
            added = self._response(node, context, np.where(gone, value, 0.0))
            weight = context.array(node.inputs[1])
            assert weight is not None
            dtype = weight.dtype
            bias = context.array(node.input(2)) if node.input(2) else None
            before = np.zeros(added.size) if bias is None else bias.astype(np.float64)
            result.inputs[2] = (before + added)[rows].astype(dtype)
            return
        weight = context.graph.constants[node.inputs[1]].astype(np.float64)
        split = self.grouped(weight, self.groups(node))  # a view: [group, out, in, *kernel]
        width = split.shape[2]
        for group, carrier in enumerate(self.carriers(node, context, kept)):
            moved = np.flatnonzero(gone[group * width : (group + 1) * width])
            if carrier >= 0 and moved.size:  # without one, only rows that may hold garbage read these channels
                ratio = value[group * width + moved] / value[carrier]
                split[group][:, carrier - group * width] += np.tensordot(split[group][:, moved], ratio, axes=([1], [0]))
        weight = weight.astype(context.graph.constants[node.inputs[1]].dtype)
        if self.groups(node) == 1:
            axis = 0 if self.transposed else 1
            weight = weight.take(into, axis)
            weight = weight if out is None else weight.take(out, 1 - axis)
        result.inputs[1] = weight

    def _repack(self, node: Node, cut: Cut, into: np.ndarray | None, out: np.ndarray | None, result: Rewrite) -> None:
        """The filters that stay, on the inputs that stay, in as many equal groups as can be."""
        context, groups = cut.context, self.groups(node)
        if node.inputs[1] not in context.graph.constants:  # its rows and columns go where it is computed
            left = into if out is None else out
            assert left is not None
            width = (context.size(node.inputs[0] if out is None else node.outputs[0], 1) or 0) // groups
            result.attributes["group"] = np.unique(left // width).size
            return
        weight = result.inputs.get(1, context.graph.constants[node.inputs[1]])
        assert isinstance(weight, np.ndarray)
        split = self.grouped(weight, groups)
        per_in, per_out = split.shape[2], split.shape[1]
        into = np.arange(groups * per_in) if into is None else into
        out = np.arange(groups * per_out) if out is None else out
        packed = regroup(split, into, out)
        if self.transposed:
            packed = np.swapaxes(packed, 1, 2)
        result.inputs[1] = np.ascontiguousarray(packed.reshape(-1, *packed.shape[2:]))
        result.attributes["group"] = packed.shape[0]


def dequantized(weight: str, context: Context) -> bool:
    """Whether a weight is made of integers. A bias of floats beside it would keep a runtime from integer arithmetic."""
    maker = context.graph.producer.get(weight)
    return maker is not None and maker.op == "DequantizeLinear"


def regroup(split: np.ndarray, into: np.ndarray, out: np.ndarray) -> np.ndarray:
    """The weight of a grouped convolution for the channels that stay.

    Args:
        split: [group, outputs of a group, inputs of a group, *kernel].
        into, out: input and output channels that stay, ascending, counted through all groups.

    Returns:
        The same layout with equal groups, the most for which all groups have the same size; groups of which nothing
        stays are gone, and merged ones hold zeros between their parts.
    """
    groups, per_out, per_in = split.shape[:3]
    places = [(into[into // per_in == g] % per_in, out[out // per_out == g] % per_out) for g in range(groups)]
    blocks = [split[g][np.ix_(o, i)] for g, (i, o) in enumerate(places) if i.size or o.size]
    sizes = np.array([block.shape[:2] for block in blocks])
    merged, width, height = next(
        m
        for m in merges(sizes[:, 1], sizes[:, 0])
        if (len(blocks) // m[0] * m[1], len(blocks) // m[0] * m[2]) == (into.size, out.size)
    )
    packed = np.zeros((len(blocks) // merged, height, width, *split.shape[3:]), split.dtype)
    for group in range(packed.shape[0]):
        row = column = 0
        for block in blocks[group * merged : (group + 1) * merged]:
            packed[group, row : row + block.shape[0], column : column + block.shape[1]] = block
            row, column = row + block.shape[0], column + block.shape[1]
    return packed


register(Convolution(False), "Conv")
register(Convolution(True), "ConvTranspose")
