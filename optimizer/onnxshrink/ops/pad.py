"""Pad with known amounts, on any axis, crops (negative amounts) included; of other axes nothing is said."""

from __future__ import annotations

import numpy as np

from ..graph.view import Node, Shape
from .fact import CAP, Fact, collapse, unknown
from .movement import along, parallel
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, register
from .tie import Same, Tie

Amounts = list[tuple[int, int] | None]
"""For each axis how much is added in front and behind; None where that is computed of what is not known."""


class Pad(Rule):
    """Pad with known amounts. On the spatial axes of a feature map the border has the pad's value; along an
    axis that is cut (channels padded with zeros) the pad shrinks like any other slice.
    """

    family = "movement"

    def _amounts(self, node: Node, context: Context) -> Amounts | None:
        rank = context.rank(node.inputs[0])
        pads = list(node.attr("pads", ())) if context.opset < 11 else self._pads(node, context)
        if rank is None or pads is None or context.rank(node.outputs[0]) != rank:
            return None
        axes = [a % rank for a in context.ints(node.input(3)) or []] if node.input(3) else list(range(rank))
        if len(pads) != 2 * len(axes):
            return None
        amounts: Amounts = [(0, 0)] * rank
        for k, axis in enumerate(axes):
            before, after = pads[k], pads[k + len(axes)]
            amounts[axis] = None if before is None or after is None else (before, after)
        return None if None in amounts and node.input(3) else amounts

    @staticmethod
    def _pads(node: Node, context: Context) -> list[int | None] | None:
        """The elements of the operand; sizes of what comes in may be among them."""
        fact, length = context.fact(node.inputs[1]), context.size(node.inputs[1], 0)
        full = None if fact is None or length is None else fact.expand((length,))
        if full is None:
            return None
        return [int(v) if known else None for v, known in zip(full.value, full.known, strict=True)]

    def _value(self, node: Node, context: Context) -> float | None:
        if node.attr("mode", "constant") != "constant":
            return None
        if context.opset < 11:
            return float(node.attr("value", 0.0))
        if not node.input(2):
            return 0.0
        array = context.array(node.inputs[2])
        return None if array is None else float(array.reshape(-1)[0])

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        y, source, shape = node.outputs[0], context.shape(node.inputs[0]), context.shape(node.outputs[0])
        amounts = self._amounts(node, context)
        if amounts is None or source is None or shape is None:
            return {}
        new = list(shape)
        for axis, pair in _known(amounts):
            size = source[axis]
            if not isinstance(shape[axis], int) and (isinstance(size, int) or pair == (0, 0)):
                new[axis] = size + sum(pair) if isinstance(size, int) else size
        return {y: tuple(new)} if tuple(new) != shape else {}

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        amounts, fill = self._amounts(node, context), self._value(node, context)
        fact, source = context.fact(node.inputs[0]), context.shape(node.inputs[0])
        dtype = context.graph.dtypes.get(node.outputs[0])
        if amounts is None or source is None or dtype is None:
            return [None]
        if fill is None and (node.attr("mode", "constant") == "constant" or fact is None):
            return [None]
        fact = fact or unknown(len(source), dtype)
        if node.attr("mode", "constant") != "constant":
            padded = [axis for axis, pair in enumerate(amounts) if pair != (0, 0)]
            whole = not any(a.shape[axis] > 1 for a in (fact.value, fact.known) for axis in padded)
            return [Fact(fact.value, fact.known) if whole else None]
        assert fill is not None, "else nothing is known of a padded axis, and that has been said above"
        result = Fact(fact.value, fact.known, *fact.bounds())
        for axis, pair in enumerate(amounts):
            if pair == (0, 0):
                continue
            size = source[axis]
            varies = any(a is not None and a.shape[axis] > 1 for a in (result.value, result.known, *result.bounds()))
            if pair is None:
                result = _bordered(result, axis, fill)
                continue
            before, after = pair
            if not isinstance(size, int):
                if varies and (before < 0 or after < 0):
                    return [None]
                result = _bordered(result, axis, fill) if before > 0 or after > 0 else result
                continue
            start, end = max(-before, 0), size + min(after, 0)
            if end <= start:
                return [None]
            if varies and (start or end < size):
                where = np.arange(start, end)
                result = result.map(lambda a, x=axis, n=size, w=where: along(a, x, n).take(w, x))
            if before <= 0 and after <= 0:
                continue
            if axis >= 2 and not varies:
                result = _bordered(result, axis, fill)
                continue
            full = result.expand((*source[:axis], end - start, *source[axis + 1 :]), [axis])
            if full is None or np.prod(full.value.shape, dtype=np.int64) > CAP:
                return [None]
            result = _padded(full, axis, end - start, max(before, 0), max(after, 0), fill)
        return [collapse(result)]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        amounts = self._amounts(node, context)
        if amounts is None:
            return []
        x, y = node.inputs[0], node.outputs[0]
        ties: list[Tie] = parallel(x, y, context, tuple(a for a, p in enumerate(amounts) if p != (0, 0)))
        if node.attr("mode", "constant") == "constant":
            for axis, (before, after) in _known(amounts):
                size = context.size(x, axis)
                if (before or after) and before >= 0 and after >= 0 and size is not None:
                    ties.append(Same((y, axis), (x, axis), np.arange(before, before + size)))
                elif (before or after) and before <= 0 and after <= 0 and size is not None:
                    ties.append(Same((x, axis), (y, axis), np.arange(-before, size + after)))
        return ties

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        amounts, live = self._amounts(node, context), state.live(node.outputs[0])
        if amounts is None:
            return super().reads(node, context, state)
        demand = everything(node.inputs[0], context)
        for axis, (before, after) in _known(amounts):
            if (before, after) == (0, 0) and live[axis].size == demand[axis].size:
                demand[axis] = live[axis]
            elif (
                node.attr("mode", "constant") == "constant"
                and before >= 0
                and after >= 0
                and isinstance(context.size(node.inputs[0], axis), int)
            ):
                demand[axis] = live[axis][before : before + demand[axis].size]
            elif (
                node.attr("mode", "constant") == "constant"
                and before <= 0
                and after <= 0
                and isinstance(context.size(node.inputs[0], axis), int)
            ):
                demand[axis] = np.zeros_like(demand[axis])
                demand[axis][-before : demand[axis].size + after] = live[axis]
        rest: dict[int, Demand | None] = {i: None for i in range(1, len(node.inputs)) if node.inputs[i]}
        return {**({0: demand} if all(mask.any() for mask in demand) else {}), **rest}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        amounts = self._amounts(node, cut.context)
        if amounts is None:
            return Rewrite()
        x, y = node.inputs[0], node.outputs[0]
        new = list(amounts)
        for axis, (before, after) in _known(amounts):
            out, into = cut.indices(y, axis), cut.indices(x, axis)
            size = cut.context.size(x, axis) or 0
            if into is not None and (before < 0 or after < 0):
                new[axis] = (-int((into < -before).sum()), -int((into >= size + after).sum()))
            elif out is not None and (before or after):
                new[axis] = (int((out < before).sum()), int((out >= before + size).sum()))
        if new == amounts:
            return Rewrite()
        if all(pair == (0, 0) for pair in new):
            return Rewrite(bypass=0)
        pads = [end for k in (0, 1) for end in (0 if pair is None else pair[k] for pair in new)]
        if cut.context.opset < 11:
            return Rewrite({"pads": pads})
        if None in new:
            fixed = np.array([pair is not None for pair in new] * 2)
            return Rewrite(patches={1: (fixed, np.array(pads, np.int64))})
        return Rewrite(inputs={1: np.array(pads, np.int64), **({3: None} if node.input(3) else {})})


def _known(amounts: Amounts) -> list[tuple[int, tuple[int, int]]]:
    """The axes of which amounts are known, with these."""
    return [(axis, pair) for axis, pair in enumerate(amounts) if pair is not None]


def _bordered(fact: Fact, axis: int, fill: float) -> Fact:
    """A padded spatial axis: what is said holds for every index, so only what equals the fill stays known."""
    low, high = fact.bounds()
    low, high = low.min(axis=axis, keepdims=True), high.max(axis=axis, keepdims=True)
    known = (fact.known & (fact.value == fill)).all(axis=axis, keepdims=True)
    value = fact.value.take([0], axis) if fact.value.shape[axis] else fact.value
    return Fact(value, known, np.minimum(low, fill), np.maximum(high, fill))


def _padded(fact: Fact, axis: int, size: int, before: int, after: int, fill: float) -> Fact:
    """The fact with `before` and `after` known slices of value `fill` along an axis."""
    width = [(0, 0)] * fact.rank
    width[axis] = (before, after)

    def grow(array: np.ndarray, value: float | bool) -> np.ndarray:
        return np.pad(along(array, axis, size), width, constant_values=value)

    return Fact(
        grow(fact.value, fill),
        grow(fact.known, True),
        None if fact.low is None else grow(fact.low, fill),
        None if fact.high is None else grow(fact.high, fill),
    )


register(Pad(), "Pad")
