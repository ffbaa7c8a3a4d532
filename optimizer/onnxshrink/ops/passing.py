"""Operators that work along some axes and let the others pass: cumulative sums, TopK, gathers and scatters, transforms.

Each says which axes of its inputs and outputs run side by side (`Way`); everything else is pinned. Indices are kept
right even where nobody needs what they fetch: a wrong one may lie outside of what it points into.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from ..graph.shapes import same
from ..graph.view import Node, Shape
from .fact import Fact, collapse
from .movement import axis_of
from .rule import Context, Demand, Rule, State, everything, register
from .tie import Same, Tie


@dataclass(frozen=True)
class Way:
    """Output `output` at index i of axis `onto` depends on input `input` at index i of axis `axis` only."""

    input: int
    axis: int
    output: int
    onto: int


Ways = Callable[[Node, Context], list[Way] | None]
"""The ways of a node; None where it is not understood."""

NOTHING, ZERO, CONSTANT, VALUES = range(4)
"""What a slice keeps: nothing; its value if it is zero; any one value; and no output value is new, so bounds hold."""


class Passing(Rule):
    """Operators that let some axes pass.

    Args:
        ways: which axes run side by side; an output axis where any of its inputs has another size is pinned.
        family: one of FAMILIES.
        about: what the table of operators says.
        keeps: what is known of the first output where all of `data` are known along the axes that pass.
        data: inputs that the first output's values come from.
        strict: inputs that are read wherever they are kept.
    """

    def __init__(
        self,
        ways: Ways,
        family: str,
        about: str,
        *,
        keeps: int = NOTHING,
        data: tuple[int, ...] = (0,),
        strict: tuple[int, ...] = (),
    ):
        super().__init__()
        self._ways, self.family, self.about = ways, family, about
        self.keeps, self.data, self.strict = keeps, data, strict

    def ways(self, node: Node, context: Context) -> list[Way]:
        """The ways whose axes have provably equal sizes."""

        def compute() -> list[Way]:
            said = self._ways(node, context)
            there = [w for w in said or () if node.input(w.input) and w.output < len(node.outputs)]
            there = [w for w in there if context.shape(node.outputs[w.output]) is not None]
            uneven = {w.onto for w in there if not self._even(node, w, context)}
            return [w for w in there if w.onto not in uneven]

        return context.cached((node.index, "ways"), compute)

    @staticmethod
    def _even(node: Node, way: Way, context: Context) -> bool:
        source, target = context.shape(node.inputs[way.input]), context.shape(node.outputs[way.output])
        if source is None or target is None or way.axis >= len(source) or way.onto >= len(target):
            return False
        return same(source[way.axis], target[way.onto])

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        none: list[Fact | None] = [None] * len(node.outputs)
        rank, dtype = context.rank(node.outputs[0]), context.graph.dtypes.get(node.outputs[0])
        if self.keeps == NOTHING or rank is None or dtype is None:
            return none
        parts = []
        for index in self.data:
            if node.input(index):
                fact = context.fact(node.inputs[index])
                if fact is None:
                    return none
                ways = [w for w in self.ways(node, context) if w.input == index and w.output == 0]
                parts.append(_moved(fact, ways, rank, context.shape(node.inputs[index]) or ()))
        known, value = parts[0].known, parts[0].value
        if self.keeps == ZERO or len(parts) > 1:
            known = np.ones((1,) * rank, bool)
            for part in parts:
                known = known & part.zero()
            value = np.zeros((1,) * rank, dtype)
        bounds = parts[0].bounds() if self.keeps == VALUES else (None, None)
        return [collapse(Fact(value, known, *bounds)), *none[1:]]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        return [
            Same((node.inputs[w.input], w.axis), (node.outputs[w.output], w.onto))
            for w in self.ways(node, context)
            if context.size(node.inputs[w.input], w.axis) is not None
        ]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live = {k: state.live(o) for k, o in enumerate(node.outputs) if o and state.needed(o)}
        live = {k: masks for k, masks in live.items() if all(mask.any() for mask in masks)}
        if not live:
            return self.steering(node, context)
        demands: dict[int, Demand | None] = {i: None for i, name in enumerate(node.inputs) if name}
        ways = self.ways(node, context)
        for index in {w.input for w in ways}:
            name = node.inputs[index]
            demand = everything(name, context)
            for axis in {w.axis for w in ways if w.input == index}:
                onto = {w.output: w.onto for w in ways if (w.input, w.axis) == (index, axis)}
                if not live.keys() <= onto.keys():
                    continue
                masks = [live[k][onto[k]] for k in live]
                if index in self.strict:
                    masks.append(state.kept((name, axis)))
                if all(mask.size == demand[axis].size for mask in masks):
                    demand[axis] = np.logical_or.reduce(masks)
            demands[index] = demand
        return demands


def _moved(fact: Fact, ways: list[Way], rank: int, shape: tuple[object, ...]) -> Fact:
    """What is known of whole slices along the axes that pass, at their place in an output of `rank` axes."""
    ways = sorted(ways, key=lambda w: w.onto)
    others = tuple(a for a in range(len(shape)) if a not in [w.axis for w in ways])
    first = fact.value
    for axis in others:
        first = first.take([0], axis)
    known = fact.known.all(axis=others, keepdims=True) & (fact.value == first).all(axis=others, keepdims=True)
    low, high = fact.bounds()
    low, high = low.min(axis=others, keepdims=True), high.max(axis=others, keepdims=True)

    def place(array: np.ndarray) -> np.ndarray:
        target = [1] * rank
        for way in ways:
            target[way.onto] = array.shape[way.axis]
        return array.transpose([w.axis for w in ways] + list(others)).reshape(target)

    return Fact(place(first), place(known), place(low), place(high))


# --- which axes pass


def besides(*mixed: int, outputs: int = 1, batch: tuple[tuple[int, int], ...] = ()) -> Ways:
    """All axes pass but the `mixed` ones; `batch`: (input, axis) of other inputs that run beside axis 0."""

    def ways(node: Node, context: Context) -> list[Way] | None:
        rank = context.rank(node.inputs[0])
        if rank is None:
            return None
        pinned = {axis % rank for axis in mixed}
        found = [Way(0, a, k, a) for a in range(rank) if a not in pinned for k in range(outputs)]
        return found + [Way(i, a, k, 0) for i, a in batch for k in range(outputs)]

    return ways


def _but_axis(default: int, outputs: int = 1) -> Ways:
    def ways(node: Node, context: Context) -> list[Way] | None:
        axis = axis_of(node, context, default)
        return None if axis is None else besides(axis, outputs=outputs)(node, context)

    return ways


def _but_operand(node: Node, context: Context) -> list[Way] | None:
    """CumSum, CumProd: the axis is an operand."""
    axis = context.ints(node.inputs[1])
    return None if axis is None else besides(axis[0])(node, context)


def _but_signal(node: Node, context: Context) -> list[Way] | None:
    """DFT: the axis is an operand since opset 20; the last one holds real and imaginary parts."""
    given = [int(node.attr("axis", 1))] if context.opset < 20 else [-2]
    if node.input(2):
        given = context.ints(node.inputs[2]) or []
    return besides(given[0], -1)(node, context) if given else None


def _but_statistics(node: Node, context: Context) -> list[Way] | None:
    return besides(*node.attr("axes", (0, 2, 3)))(node, context)


def _but_sequence(node: Node, context: Context) -> list[Way] | None:
    """ReverseSequence: every row of the batch has a length of its own."""
    time, batch = int(node.attr("time_axis", 0)), int(node.attr("batch_axis", 1))
    return [*(besides(time)(node, context) or []), Way(1, 0, 0, batch % (context.rank(node.inputs[0]) or 1))]


def _elements(inputs: int) -> Ways:
    """GatherElements, ScatterElements: all operands run side by side, but for one axis."""

    def ways(node: Node, context: Context) -> list[Way] | None:
        axis, rank = axis_of(node, context), context.rank(node.inputs[0])
        if axis is None or rank is None:
            return None
        return [Way(i, a, 0, a) for a in range(rank) if a != axis for i in range(inputs)]

    return ways


def _gather_nd(node: Node, context: Context) -> list[Way] | None:
    """From data [*batch, *indexed, *tail], indices [*batch, *places, indexed] -> [*batch, *places, *tail]."""
    data, places = context.rank(node.inputs[0]), context.rank(node.inputs[1])
    indexed, batch = context.size(node.inputs[1], -1), int(node.attr("batch_dims", 0))
    if data is None or places is None or indexed is None:
        return None
    ways = [Way(0, a, 0, a) for a in range(batch)] + [Way(1, a, 0, a) for a in range(places - 1)]
    return ways + [Way(0, a, 0, places - 1 + a - batch - indexed) for a in range(batch + indexed, data)]


def _scatter_nd(node: Node, context: Context) -> list[Way] | None:
    """From data [*indexed, *tail], indices [*places, indexed], updates [*places, *tail]."""
    data, places = context.rank(node.inputs[0]), context.rank(node.inputs[1])
    indexed = context.size(node.inputs[1], -1)
    if data is None or places is None or indexed is None:
        return None
    ways = [Way(0, a, 0, a) for a in range(indexed, data)]
    return ways + [Way(2, places - 1 + a - indexed, 0, a) for a in range(indexed, data)]


def _cache(node: Node, context: Context) -> list[Way] | None:
    """TensorScatter: all axes but the sequence; each sample has an index of its own."""
    rank, axis = context.rank(node.inputs[0]), int(node.attr("axis", -2))
    if rank is None:
        return None
    found = [Way(i, a, 0, a) for a in range(rank) if a != axis % rank for i in (0, 1)]
    return [*found, Way(2, 0, 0, 0)]


def _one_hot(node: Node, context: Context) -> list[Way] | None:
    rank = context.rank(node.outputs[0])
    axis = int(node.attr("axis", -1)) % (rank or 1)
    return None if rank is None else [Way(0, a, 0, a + (a >= axis)) for a in range(rank - 1)]


# --- operators with rules of their own


class ShortTimeTransform(Passing):
    """STFT: signals of a batch pass. onnx's inference takes `onesided` as 0 where it is not said, its default is 1."""

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        length = context.ints(node.input(3)) if node.input(3) else None
        size = length[0] if length else context.size(node.input(2), 0) if node.input(2) else None
        old = context.shape(node.outputs[0])
        if size is None or old is None or len(old) != 4 or not node.attr("onesided", 1):
            return {}
        new = (*old[:2], size // 2 + 1, old[3])
        return {node.outputs[0]: new} if new != old else {}


class CumulativeProduct(Passing):
    """CumProd keeps zeros, unless it starts with a one of its own."""

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        return [None] if node.attr("exclusive", 0) else super().facts(node, context)


register(
    Passing(_but_operand, "reduction", "The axis that is summed along stays whole, the others pass", keeps=ZERO),
    "CumSum",
)
register(
    CumulativeProduct(
        _but_operand,
        "reduction",
        "The axis that is multiplied along stays whole, the others pass; zeros stay zeros where it begins with no one",
        keeps=ZERO,
    ),
    "CumProd",
)
register(
    Passing(
        _but_axis(-1, outputs=2), "reduction", "The axis that is sorted stays whole, the others pass", keeps=VALUES
    ),
    "TopK",
)
register(Passing(besides(-1, -2), "reduction", "The last two axes are one matrix, the others pass", keeps=ZERO), "Det")
register(Passing(besides(-1, -2), "movement", "The last two axes are one matrix, the others pass", keeps=ZERO), "Trilu")
register(
    Passing(_but_sequence, "movement", "Batch and time stay whole, the other axes pass", keeps=VALUES, strict=(1,)),
    "ReverseSequence",
)
register(
    Passing(
        _but_signal,
        "reduction",
        "The axis of the signal and that of real and imaginary parts stay whole, the others pass",
        keeps=ZERO,
    ),
    "DFT",
)
register(
    ShortTimeTransform(lambda node, context: [Way(0, 0, 0, 0)], "reduction", "Signals of a batch pass", keeps=ZERO),
    "STFT",
)
# ONNX Runtime divides by the deviation alone: what is constant becomes NaN, not zero as the specification says
register(
    Passing(_but_statistics, "normalization", "The axes of the statistics stay whole, the others pass"),
    "MeanVarianceNormalization",
)
register(
    Passing(
        _elements(2),
        "movement",
        "The axis that is gathered along stays whole, the others pass in data and indices together",
        keeps=VALUES,
        strict=(1,),
    ),
    "GatherElements",
)
register(
    Passing(
        _elements(3),
        "movement",
        "The axis that is scattered along stays whole, the others pass in data, indices and updates together",
        keeps=ZERO,
        data=(0, 2),
        strict=(1,),
    ),
    "ScatterElements",
    "Scatter",
)
register(
    Passing(
        _gather_nd,
        "movement",
        "Axes that indices address stay whole, what they fetch passes",
        keeps=VALUES,
        strict=(1,),
    ),
    "GatherND",
)
register(
    Passing(
        _scatter_nd,
        "movement",
        "Axes that indices address stay whole, what they place passes",
        keeps=ZERO,
        data=(0, 2),
        strict=(1,),
    ),
    "ScatterND",
)
register(
    Passing(
        _cache,
        "movement",
        "The axis that is written along stays whole, the others pass in cache and update together",
        keeps=ZERO,
        data=(0, 1),
        strict=(2,),
    ),
    "TensorScatter",
)
register(Passing(_one_hot, "movement", "The new axis stays whole, those of the indices pass"), "OneHot")
