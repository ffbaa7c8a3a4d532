"""What is left of activations after a cut, and what the sizes that operators name become."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor
from torch.fx import Node

from .coupling import HANDLERS, Trace
from .labels import Labels
from .movement import movement, reduced_axes, reduction
from .nodes import argument
from .parts import largest, mean, smallest

aten = torch.ops.aten
EXTREMES = {
    **dict.fromkeys((aten.amax.default, aten.max.default), (largest, aten.clamp_min.default)),
    **dict.fromkeys((aten.amin.default, aten.min.default), (smallest, aten.clamp_max.default)),
}
"""What an extreme becomes where zeros are not there any more, and what says the same of them already."""


class Left:
    """The slices of each activation that stay.

    Args:
        trace: of the network, after its walk.
        gone: the units that go, int64.
    """

    def __init__(self, trace: Trace, gone: Tensor) -> None:
        self.trace = trace
        self._stays = ~torch.isin(trace.roots, gone)

    def kept(self, units: Tensor) -> Tensor:
        """Which elements of an array of units stay."""
        return self._stays[units]

    def widths(self, node: Node) -> dict[int, Tensor]:
        """For each axis of an activation along which something goes: which slices stay."""
        labels = self.trace.labels.get(node)
        if not isinstance(labels, Labels):
            return {}
        kept, found = self.kept(labels.units), {}
        for axis in range(kept.dim()):
            if kept.shape[axis] > 1 or not bool(kept.any()):
                others = [a for a in range(kept.dim()) if a != axis]
                mask = kept.any(dim=others) if others else kept
                if not mask.all():
                    found[axis] = mask.expand(int(node.meta["val"].shape[axis]))
        return found

    def width(self, node: Any, axis: int) -> int:
        """Length of an axis of an activation after the cut."""
        widths = self.widths(node)
        return int(widths[axis].sum()) if axis in widths else int(node.meta["val"].shape[axis])

    def resized(self, node: Any, widths: dict[int, Tensor]) -> tuple[Any, Any, Any]:
        """Operator and arguments of a node whose sizes follow the cut."""
        x: Any = node.args[0] if node.args else None
        rest: list[Any] = list(node.args[1:])
        if node.target in (aten.view.default, aten.reshape.default, aten._unsafe_view.default, aten.expand.default):
            shape = list(rest[0])
            lead = node.meta["val"].dim() - len(shape)
            for axis, mask in widths.items():
                if shape[axis - lead] != -1:
                    shape[axis - lead] = -1 if isinstance(shape[axis - lead], Node) else int(mask.sum())
            return node.target, (x, shape, *rest[1:]), node.kwargs
        if node.target is aten.unflatten.int:
            axis = int(rest[0]) % x.meta["val"].dim()
            shape = [int(widths[axis + k].sum()) if axis + k in widths else size for k, size in enumerate(rest[1])]
            return node.target, (x, axis, shape), node.kwargs
        if node.target in (aten.slice.Tensor, aten.select.int, aten.narrow.default):
            return self._picked(node)
        if node.target in (aten.pad.default, aten.constant_pad_nd.default):
            return node.target, (x, self._cropped(x, rest[0]), *rest[1:]), node.kwargs
        if node.target is aten.squeeze.default:  # of the axes that had length one, not of those that have now
            return aten.squeeze.dims, (x, [a for a, size in enumerate(x.meta["val"].shape) if size == 1]), {}
        if node.target is operator.getitem and x.target is aten.unbind.int:
            source, axis = x.args[0], int(argument(x, 1, "dim", 0))
            return node.target, (x, self._moved(source, axis, node.args[1])), {}
        if HANDLERS.get(node.target) is reduction:
            return self._completed(node)
        if isinstance(self.trace.labels[node], list) and HANDLERS.get(node.target) is movement:
            axis = int(rest[-1] if len(rest) > 1 else node.kwargs.get("dim", 0)) % x.meta["val"].dim()
            if axis in self.widths(x) and node.target is not aten.unbind.int:
                sizes = [self._along(part.units, axis, size) for part, size in self._parts(node, axis)]
                return aten.split_with_sizes.default, (x, sizes, axis), {}
        return node.target, node.args, node.kwargs

    def _completed(self, node: Any) -> tuple[Any, Any, Any]:
        """Means and extremes of what stays and of the zeros that do not."""
        x, axes, before = node.args[0], reduced_axes(node), self.widths(node.args[0])
        counts = {axis: before[axis].numel() for axis in axes if axis in before}
        keeps = node.meta["val"].dim() == x.meta["val"].dim()
        if counts and node.target in (aten.mean.dim, aten.mean.default):
            return mean, (x, axes, counts, keeps, node.kwargs.get("dtype")), {}
        completed, clamp = EXTREMES.get(node.target, (None, None))
        if counts and completed and not all(user.target is clamp and user.args[1] == 0 for user in node.users):
            return completed, (x, axes, keeps), {}
        return node.target, node.args, node.kwargs

    def _picked(self, node: Any) -> tuple[Any, Any, Any]:
        """Slice, select and narrow count among what stays."""
        x: Any = node.args[0]
        axis = int(node.args[1]) % x.meta["val"].dim() if len(node.args) > 1 else 0
        before = self.widths(x)
        if axis not in before:
            return node.target, node.args, node.kwargs
        if node.target is aten.select.int:
            return node.target, (x, axis, self._moved(x, axis, node.args[2])), {}
        if node.target is aten.narrow.default:
            start, end = (self._moved(x, axis, place) for place in (node.args[2], node.args[2] + node.args[3]))
            return node.target, (x, axis, start, end - start), {}
        start, end = argument(node, 2, "start"), argument(node, 3, "end")
        size = before[axis].numel()
        places = (self._moved(x, axis, place) for place in (start or 0, size if end is None else end))
        return node.target, (x, axis, *places), {}

    def _cropped(self, x: Any, amounts: list[Any]) -> list[Any]:
        """What a padding adds or, where it is negative, takes away at both ends of each axis, the last axis first."""
        found, before = list(amounts), self.widths(x)
        for place, amount in enumerate(amounts):
            mask = before.get(x.meta["val"].dim() - 1 - place // 2)
            if mask is not None and isinstance(amount, int) and amount < 0:
                found[place] = -int((mask[amount:] if place % 2 else mask[:-amount]).sum())
        return found

    def _moved(self, node: Any, axis: int, index: Any) -> int:
        """Where a place along an axis of an activation is after the cut: how many slices before it stay."""
        size = int(node.meta["val"].shape[axis])
        place = min(max(int(index) + (size if index < 0 else 0), 0), size)
        before = self.widths(node).get(axis % node.meta["val"].dim())
        return place if before is None else int(before[:place].sum())

    def _parts(self, node: Any, axis: int) -> list[tuple[Labels, int]]:
        sizes = [int(value.shape[axis]) for value in node.meta["val"]]
        return list(zip(self.trace.labels[node], sizes, strict=True))

    def _along(self, units: Tensor, axis: int, size: int) -> int:
        """How many slices along an axis stay."""
        others = [a for a in range(units.dim()) if a != axis]
        return int(self.kept(units).any(dim=others).expand(size).sum())
