"""Pools, global pools, Resize and Upsample: space is mixed within each channel, channels pass through.

A channel that is one value everywhere keeps it, except where padding counts as zeros, or outside values are made up.
"""

from __future__ import annotations

import numpy as np

from ..graph.shapes import same
from ..graph.view import Node, Shape
from .fact import Fact, collapse
from .grid import target_shape
from .movement import parallel
from .rule import Context, Cut, Demand, Rewrite, Rule, State, everything, register, unknown_elements
from .tie import Tie


class Spatial(Rule):
    """Batch and channel axes pass; what happens in space stays within one channel."""

    family = "pool"
    bounded = True

    def passing(self, node: Node, context: Context) -> set[int]:
        """Axes along which the output at i depends on the input at i only."""
        return {0, 1}

    def keeps(self, node: Node, context: Context) -> bool:
        """Whether a channel of one value keeps that value (a channel of zeros always stays zero)."""
        return True

    def touches(self, node: Node, context: Context) -> bool:
        """Whether every window has an element of the input: what is made of padding alone is no value of a channel.

        A dilated window may have its elements on both sides of a small input.
        """
        steps, pads = node.attr("dilations"), node.attr("pads")
        if steps is None or (node.attr("auto_pad", "NOTSET") in ("NOTSET", "VALID") and not any(pads or ())):
            return True
        shape = context.shape(node.inputs[0]) or ()
        axes = [axis for axis in range(len(shape)) if axis not in self.passing(node, context)]
        for place, (axis, step) in enumerate(zip(axes, steps, strict=True)):
            size, reach = shape[axis], step * (node.attr("kernel_shape")[place] - 1)
            inside = isinstance(size, int) and size >= step
            if step > 1 and not (inside and all(pad <= reach for pad in (pads or ())[place :: len(axes)])):
                return False
        return True

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        none: list[Fact | None] = [None] * len(node.outputs)
        fact, rank = context.fact(node.inputs[0]), context.rank(node.outputs[0])
        if fact is None or rank != fact.rank or not self.touches(node, context):
            return none
        passing = self.passing(node, context)
        known, value, (low, high) = fact.known, fact.value, fact.bounds()
        for axis in set(range(fact.rank)) - passing:
            if value.shape[axis] > 1 or known.shape[axis] > 1:
                known = known.all(axis=axis, keepdims=True) & (
                    (value == value.take([0], axis)).all(axis=axis, keepdims=True)
                )
                value = value.take([0], axis)
            low, high = low.min(axis=axis, keepdims=True), high.max(axis=axis, keepdims=True)
        if not self.keeps(node, context):
            known = known & (value == 0)
            low, high = np.minimum(low, 0), np.maximum(high, 0)
        bounds = (low, high) if self.bounded else (None, None)
        return [collapse(Fact(value, known, *bounds)), *none[1:]]

    def ties(self, node: Node, context: Context) -> list[Tie]:
        passing = self.passing(node, context)
        rank = context.rank(node.inputs[0]) or 0
        skip = tuple(a for a in range(rank) if a not in passing)
        return [t for out in node.outputs if out for t in parallel(node.inputs[0], out, context, skip)]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        if any(state.needed(o) for o in node.outputs[1:] if o):  # indices count positions in the whole tensor
            return super().reads(node, context, state)
        live, demand = state.live(node.outputs[0]), everything(node.inputs[0], context)
        others: dict[int, Demand | None] = {i: None for i in range(1, len(node.inputs)) if node.inputs[i]}
        if not all(mask.any() for mask in live):
            return others  # sizes and scales
        for axis in self.passing(node, context):
            if axis < len(demand) and live[axis].size == demand[axis].size:
                demand[axis] = live[axis]
        return {0: demand, **others}


class MaxPool(Spatial):
    """MaxPool; its optional indices count positions in the whole tensor, so if they are read everything is pinned."""

    def ties(self, node: Node, context: Context) -> list[Tie]:
        return super().ties(node, context) if len(context.read_outputs(node)) == 1 else []


class AveragePool(Spatial):
    """AveragePool, LpPool: padding counts as zeros in some forms, and then a constant changes at the border."""

    def keeps(self, node: Node, context: Context) -> bool:
        padded = any(node.attr("pads", ())) or node.attr("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
        padded = padded or bool(node.attr("ceil_mode", 0))
        return node.op == "AveragePool" and not (padded and node.attr("count_include_pad", 0))


class LpPool(AveragePool):
    """LpPool, GlobalLpPool: zero stays zero, any other constant does not keep its value."""

    bounded = False

    def keeps(self, node: Node, context: Context) -> bool:
        return False


class Resize(Spatial):
    """Resize and Upsample: axes of factor 1 pass; made-up outside values break constants."""

    def passing(self, node: Node, context: Context) -> set[int]:
        shape, out = context.shape(node.inputs[0]), context.shape(node.outputs[0])
        if shape is None or out is None:
            return set()
        scales, size = self._scales(node, context), context.array(node.input(3)) if node.input(3) else None
        axes = self._axes(node, context)
        passing = set()
        for axis, (a, b) in enumerate(zip(shape, out, strict=True)):
            if axes is not None and axis not in axes:
                passing.add(axis)
                continue
            if node.attr("keep_aspect_ratio_policy", "stretch") != "stretch":
                continue  # what one axis becomes depends on the others
            place = axis if axes is None else axes.index(axis)
            if not self._whole(node, place, context):
                continue
            if scales is not None and scales.size > place:
                if scales[place] == 1:
                    passing.add(axis)
            elif same(a, b) or (size is not None and size[place] == a):
                passing.add(axis)
        return passing

    def _whole(self, node: Node, place: int, context: Context) -> bool:
        """Whether the region that is resized spans the axis; only one transformation has a region."""
        if node.attr("coordinate_transformation_mode", "") != "tf_crop_and_resize":
            return True
        region = context.array(node.input(1)) if node.input(1) else None
        if region is None or region.size % 2:
            return False
        return bool(region[place] == 0 and region[place + region.size // 2] == 1)

    def _axes(self, node: Node, context: Context) -> list[int] | None:
        axes = node.attr("axes")
        return None if axes is None else [a % (context.rank(node.inputs[0]) or 1) for a in axes]

    def _scales(self, node: Node, context: Context) -> np.ndarray | None:
        if node.attr("scales") is not None:
            return np.asarray(node.attr("scales"))
        index = 1 if node.op == "Upsample" or context.opset < 11 else 2
        array = context.array(node.input(index)) if node.input(index) else None
        return array if array is not None and array.size else None

    def _sized(self, node: Node) -> bool:
        """Whether an operand says the size of every axis."""
        sized = bool(node.input(3)) and node.attr("axes") is None
        return sized and node.attr("keep_aspect_ratio_policy", "stretch") == "stretch"

    bounded = False

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        outside = node.attr("coordinate_transformation_mode", "") == "tf_crop_and_resize"
        if outside and node.attr("extrapolation_value", 0.0) != 0:
            return [None] * len(node.outputs)
        return super().facts(node, context)

    def keeps(self, node: Node, context: Context) -> bool:
        return node.attr("coordinate_transformation_mode", "") != "tf_crop_and_resize"

    def refine(self, node: Node, context: Context) -> dict[str, Shape]:
        if not self._sized(node):
            return {}
        fact, size = context.fact(node.inputs[3]), context.size(node.inputs[3], 0)
        full = fact.expand((size,)) if fact is not None and size is not None else None
        known = [] if full is None else [int(v) if k else None for v, k in zip(full.value, full.known, strict=True)]
        said = context.elements.get(node.inputs[3]) or known
        old = context.shape(node.outputs[0]) or (None,) * len(said)
        if len(said) != len(old):
            return {}
        new = tuple(d if isinstance(d, int) or dim is None else dim for dim, d in zip(said, old, strict=True))
        return {node.outputs[0]: new} if new != old else {}

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        demands = super().reads(node, context, state)
        if 3 in demands and self._sized(node):
            demands[3] = unknown_elements(node.inputs[3], context)
        return demands

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        return target_shape(node, 3, node.outputs[0], cut) if self._sized(node) else Rewrite()


register(MaxPool(), "MaxPool")
register(AveragePool(), "AveragePool")
register(LpPool(), "LpPool", "GlobalLpPool")
register(Spatial(), "GlobalAveragePool", "GlobalMaxPool")
register(Resize(), "Resize", "Upsample")
