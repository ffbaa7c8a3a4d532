"""Operators between tensors and shapes: Shape, Size, ConstantOfShape, Expand, Tile, Range, EyeLike.

Integers computed from dimensions are facts like any others, element by element. `Shape` of a cut tensor must still
answer with the old number wherever somebody listens; operands that hard-code a channel count follow the cut.
"""

from __future__ import annotations

import numpy as np

from ..graph.view import Node, Shape, count
from .broadcast import Broadcast, open_axes
from .evaluate import evaluate
from .fact import CAP, Fact, collapse
from .grid import target_shape
from .rule import Context, Cut, Demand, Rewrite, Rule, State, register, unknown_elements
from .tie import Same, Tie

WORTH = 1024
"""Elements from which a constant that is only measured is worth cutting."""


class ShapeOf(Rule):
    """Shape: known where dimensions are; reads no value of its input."""

    family = "shape"

    def span(self, node: Node, context: Context) -> range:
        """Axes that the output lists."""
        rank = context.rank(node.inputs[0]) or 0
        start, end = int(node.attr("start", 0)), int(node.attr("end", rank))
        start, end = (max(0, min(rank, v + rank if v < 0 else v)) for v in (start, end))
        return range(start, end)

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        shape = context.shape(node.inputs[0])
        if shape is None:
            return [None]
        dims = [shape[a] for a in self.span(node, context)]
        if not dims:
            return [None]
        known = np.array([isinstance(d, int) for d in dims])
        value = np.array([d if isinstance(d, int) else 0 for d in dims], np.int64)
        return [Fact(value, known)] if known.any() else [None]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x = node.inputs[0]
        shape = context.shape(x) or ()
        if x in context.graph.constant_only and (count(shape) or 0) < WORTH:
            return []
        return [Same((x, a), (x, a)) for a in range(context.rank(x) or 0) if context.size(x, a) is not None]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        return {}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        x, y = node.inputs[0], node.outputs[0]
        span = self.span(node, cut.context)
        cuts = np.array([cut.indices(x, a) is not None for a in span], bool)
        if not (cuts & cut.live(y)[0]).any():
            return Rewrite()
        old = cut.context.shape(x) or ()
        return Rewrite(answer=(cuts, np.array([old[a] if c else 0 for a, c in zip(span, cuts, strict=True)], np.int64)))


class Size(Rule):
    """Size: counts all elements; of a tensor with known dimensions it goes on saying the old number."""

    family = "shape"

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        shape = context.shape(node.inputs[0])
        total = None if shape is None else count(shape)
        return [None if total is None else Fact(np.asarray(total, np.int64), np.asarray(True))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, shape = node.inputs[0], context.shape(node.inputs[0]) or ()
        if not all(isinstance(d, int) for d in shape):
            return []
        return [Same((x, a), (x, a)) for a in range(len(shape))]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        return {}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        fact = cut.context.fact(node.outputs[0])
        if fact is None or not any(
            cut.indices(node.inputs[0], a) is not None for a in range(cut.context.rank(node.inputs[0]) or 0)
        ):
            return Rewrite()
        return Rewrite(answer=(np.asarray(True), fact.value.astype(np.int64)))


class Filled(Rule):
    """ConstantOfShape: one value everywhere, at whatever size its operand says."""

    family = "shape"

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        rank = context.rank(node.outputs[0])
        sample = evaluate(node.proto, [np.ones(1, np.int64)], context.opset)
        if rank is None or sample is None:
            return [None]
        return [Fact(sample[0].reshape((1,) * rank), np.ones((1,) * rank, bool))]

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        return _refined(node, 0, context)

    def ties(self, node: Node, context: Context) -> list[Tie]:
        y = node.outputs[0]
        return [Same((y, a), (y, a)) for a in range(context.rank(y) or 0) if context.size(y, a) is not None]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        return {0: unknown_elements(node.inputs[0], context)}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        return target_shape(node, 0, node.outputs[0], cut)


def _refined(node: Node, index: int, context: Context) -> dict[str, Shape]:
    """Output dimensions that a partly known shape operand says (1 may still broadcast, so it says nothing)."""
    fact, size = context.fact(node.inputs[index]), context.size(node.inputs[index], 0)
    full = fact.expand((size,)) if fact is not None and size is not None else None
    if full is None:
        return {}
    old = context.shape(node.outputs[0])
    if old is None or len(old) != size:
        old = (None,) * full.value.size
    new = tuple(
        int(v) if k and (v > 1 or node.op == "ConstantOfShape") and not isinstance(d, int) else d
        for v, k, d in zip(full.value, full.known, old, strict=True)
    )
    return {node.outputs[0]: new} if new != context.shape(node.outputs[0]) else {}


class Expand(Broadcast):
    """Expand: broadcasting against a shape operand."""

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, rank = context.fact(node.inputs[0]), context.rank(node.outputs[0])
        if fact is None or rank is None or fact.rank > rank:
            return [None]
        return [fact.map(lambda a: a.reshape((1,) * (rank - a.ndim) + a.shape))]

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        if (context.size(node.inputs[1], 0) or 0) < (context.rank(node.inputs[0]) or 0):
            return {}  # the input has more axes than the operand says
        refined = _refined(node, 1, context)
        said, own = context.elements.get(node.inputs[1]), context.shape(node.inputs[0])
        shape = refined.get(node.outputs[0], context.shape(node.outputs[0]))
        if said is None or own is None or shape is None or len(shape) != len(said):
            return refined
        lead = len(said) - len(own)
        given = [1] * lead + list(own)
        new = tuple(
            dim if not isinstance(after, int) and (isinstance(dim, str) or dim == 1) and mine in (1, dim) else after
            for dim, mine, after in zip(said, given, shape, strict=True)
        )
        return {node.outputs[0]: new} if new != context.shape(node.outputs[0]) else {}

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        demands = super().reads(node, context, state)
        if self.stand_by(node, context, state.live(node.outputs[0])) is None:
            demands[1] = unknown_elements(node.inputs[1], context)
        return demands

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        gone = super().rewrite(node, cut)
        if gone.bypass is not None:
            return gone
        result = target_shape(node, 1, node.outputs[0], cut)
        operand = cut.context.ints(node.inputs[1])
        values = result.inputs.get(1)
        if operand is not None and isinstance(values, np.ndarray) and len(operand) == values.size:
            # 1 in the operand means "as the input", which follows by itself
            result.inputs[1] = np.where(np.array(operand) == 1, 1, values)
        return result if operand is None or len(operand) == len(cut.shape(node.outputs[0]) or ()) else Rewrite()

    def ties(self, node: Node, context: Context) -> list[Tie]:
        rank = context.rank(node.outputs[0]) or 0
        if context.size(node.inputs[1], 0) != rank:
            return []  # an operand shorter than the output: its axes cannot be told apart when they change
        y = node.outputs[0]
        pinned = open_axes(y, [node.inputs[0]], context)
        free = [Same((y, a), (y, a)) for a in range(rank) if context.size(y, a) is not None and a not in pinned]
        return [*super().ties(node, context), *free]


class Tile(Rule):
    """Tile with constant repeats: every copy of a slice stands or falls with it."""

    family = "shape"

    def _repeats(self, node: Node, context: Context) -> list[int] | None:
        repeats = context.ints(node.inputs[1]) if context.opset >= 6 else None
        return repeats if repeats is not None and min(repeats, default=1) > 0 else None

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        said, own = context.elements.get(node.input(1)), context.shape(node.inputs[0])
        if said is None or own is None or len(said) != len(own):
            return {}
        old = context.shape(node.outputs[0]) or (None,) * len(own)
        pairs = zip(own, said, old, strict=True)
        new = tuple(d if r == 1 else r if d == 1 and isinstance(r, str) else dim for d, r, dim in pairs)
        return {node.outputs[0]: new} if new != old else {}

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        fact, repeats = context.fact(node.inputs[0]), self._repeats(node, context)
        if fact is None or repeats is None or len(repeats) != fact.rank:
            return [None]
        arrays = (fact.value, fact.known, fact.low, fact.high)
        varying = [
            a
            for a in range(fact.rank)
            if repeats[a] > 1 and any(array is not None and array.shape[a] > 1 for array in arrays)
        ]
        full = fact.expand(context.shape(node.inputs[0]) or (), varying)
        if full is None:
            return [None]
        times = [r if a in varying else 1 for a, r in enumerate(repeats)]
        sizes = [context.size(node.inputs[0], a) or 1 if a in varying else 1 for a in range(fact.rank)]
        target = tuple(sizes)
        return [collapse(full.map(lambda x: np.tile(np.broadcast_to(x, np.broadcast_shapes(x.shape, target)), times)))]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, y = node.inputs[0], node.outputs[0]
        ties: list[Tie] = []
        for a, r in enumerate(self._repeats(node, context) or []):
            size = context.size(x, a)
            if size is not None and context.size(y, a) == size * r:
                ties.append(Same((x, a), (y, a), None if r == 1 else np.tile(np.arange(size), r)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live, repeats = state.live(node.outputs[0]), self._repeats(node, context)
        if not all(mask.any() for mask in live):
            return self.steering(node, context)
        demand = [np.ones(context.size(node.inputs[0], a) or 1, bool) for a in range(len(live))]
        for a, r in enumerate(repeats or []):
            if live[a].size == demand[a].size * r:
                demand[a] = np.asarray(live[a].reshape(r, -1).any(axis=0))
        return {0: demand, 1: None}


class Range(Rule):
    """Range of known bounds is a known tensor."""

    family = "shape"

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        start, limit, step = (context.elements.get(name) for name in node.inputs)
        if start != [0] or step != [1] or not limit or not isinstance(limit[0], str):
            return {}
        return {node.outputs[0]: (limit[0],)} if context.shape(node.outputs[0]) != (limit[0],) else {}

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        arrays = [context.array(name) for name in node.inputs]
        if any(a is None for a in arrays):
            return [None]
        result = evaluate(node.proto, arrays, context.opset)
        if result is None or result[0].size > CAP:
            return [None]
        return [collapse(Fact(result[0], np.ones((1,) * result[0].ndim, bool)))]


class EyeLike(Rule):
    """EyeLike looks at the shape of its input only; on a diagonal every position counts."""

    family = "shape"

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        return {}


register(ShapeOf(), "Shape")
register(Size(), "Size")
register(Filled(), "ConstantOfShape")
register(Expand(operands=1), "Expand")
register(Tile(), "Tile")
register(Range(), "Range")
register(EyeLike(), "EyeLike")
