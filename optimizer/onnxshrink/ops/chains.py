"""Chains of movements that are planned as one: a selection, a transposition, or axes that are split and transposed.

Such a node stands for several of the file (channels/chains.py finds them). It stays a chain unless something of it
goes; then it becomes a Gather, a Transpose, or a Reshape with a Transpose behind it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..graph.view import Node, Reordered, Selected, Split, count
from .fact import CAP, Fact, collapse
from .movement import Transpose, parallel
from .rule import PLANNED, Context, Cut, Demand, Rewrite, Rule, State, everything, register
from .selection import Select, renumbered
from .tie import Grid, Picks, Same, Tie


def _stays(node: Node, cut: Cut) -> bool:
    """Whether nothing of a chain goes, and the shapes that it reads are still its own."""
    between = [inner.outputs[0] for inner in node.chain if cut.needed(inner.outputs[0])]
    touched = (
        cut.indices(tensor, axis) is not None
        for tensor in (node.inputs[0], *between)
        for axis in range(cut.context.rank(tensor) or 0)
    )
    return not any(touched) and not any(cut.stale(name) for inner in node.chain for name in inner.inputs[1:])


def _dropped(node: Node) -> tuple[dict[str, Any], dict[int, np.ndarray | str | None]]:
    """Attributes and operands of a chain that gives way to other nodes."""
    return {a.name: None for a in node.proto.attribute}, dict.fromkeys(range(1, max(len(node.inputs), 2)))


def _shapes(node: Node, context: Context, state: State) -> list[int]:
    """The operands that a chain reads as long as it stays one, its shapes."""
    ports = [(t, a) for t in (node.inputs[0], node.outputs[0]) for a in range(context.rank(t) or 0)]
    return list(range(1, len(node.inputs))) if all(state.kept(port).all() for port in ports) else []


class Planned(Rule):
    """A chain: it needs the shapes that it reads as long as it stays one."""

    def operands(self, node: Node, context: Context, state: State) -> list[int]:
        return [0, *_shapes(node, context, state)]


class Selection(Planned, Select):
    """A chain that is planned as one selection."""

    def index(self, node: Node, context: Context) -> dict[int, np.ndarray] | None:
        movement = self._movement(node)
        return {movement.axis: movement.index}

    @staticmethod
    def _movement(node: Node) -> Selected:
        assert isinstance(node.movement, Selected)
        return node.movement

    def ties(self, node: Node, context: Context) -> list[Tie]:
        axis, index = self._movement(node).axis, self._movement(node).index
        x, y = node.inputs[0], node.outputs[0]
        return [*parallel(x, y, context, (axis,)), Picks((x, axis), (y, axis), index)]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        demands = super().reads(node, context, state)
        return {i: demands[i] for i in self.operands(node, context, state) if i in demands}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        axis, index = self._movement(node).axis, self._movement(node).index
        if _stays(node, cut):
            return Rewrite()
        out = cut.indices(node.outputs[0], axis)
        where = renumbered(index if out is None else index[out], cut.indices(node.inputs[0], axis)).astype(np.int64)
        if where.size == (cut.shape(node.inputs[0]) or ())[axis] and (np.diff(where) == 1).all():
            return Rewrite(bypass=0)
        attributes, operands = _dropped(node)
        return Rewrite({**attributes, "axis": axis}, {**operands, 1: where}, op="Gather")


class Reordering(Planned, Transpose):
    """A chain that is planned as one transposition."""

    def _order(self, node: Node, context: Context) -> list[int] | None:
        assert isinstance(node.movement, Reordered)
        return list(node.movement.order)

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        order = self._order(node, cut.context) or []
        if _stays(node, cut):
            return Rewrite()
        if order == sorted(order):
            return Rewrite(bypass=0)
        attributes, operands = _dropped(node)
        return Rewrite({**attributes, "perm": order}, operands, op="Transpose")

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        demands = super().reads(node, context, state)
        return {**dict.fromkeys(_shapes(node, context, state)), **demands} if demands else {}


class Splitting(Planned):
    """A chain that is planned as axes that are split, and then change places."""

    family = "movement"

    @staticmethod
    def _movement(node: Node) -> Split:
        assert isinstance(node.movement, Split)
        return node.movement

    def facts(self, node: Node, context: Context) -> list[Fact | None]:
        split, fact = self._movement(node), context.fact(node.inputs[0])
        if fact is None:
            return [None]
        arrays = [a for a in (fact.value, fact.known, fact.low, fact.high) if a is not None]
        uneven = [axis for axis in range(fact.rank) if any(a.shape[axis] > 1 for a in arrays)]
        sizes = [split.sizes[g] for axis in uneven for g in split.axes[axis]]
        full = fact.expand(context.shape(node.inputs[0]) or (), uneven) if count(tuple(sizes)) is not None else None
        if full is None:
            return [None]
        divided = {g for axis in uneven for g in split.axes[axis]}
        grid = [size if g in divided and isinstance(size, int) else 1 for g, size in enumerate(split.sizes)]

        def move(array: np.ndarray) -> np.ndarray:
            spread = [full.value.shape[axis] if axis in uneven else 1 for axis in range(array.ndim)]
            return np.broadcast_to(array, spread).reshape(grid).transpose(split.order)

        return [collapse(full.map(move))]

    def _groups(self, node: Node, context: Context) -> list[tuple[int, list[int]]]:
        """Axes of the input that can be cut, each with those of the output that it is split in."""
        split, groups = self._movement(node), []
        for axis, parts in enumerate(split.axes):
            total = count(tuple(split.sizes[g] for g in parts))
            if parts and total is not None and total <= CAP:
                groups.append((axis, [split.order.index(g) for g in parts]))
        return groups

    def ties(self, node: Node, context: Context) -> list[Tie]:
        x, y = node.inputs[0], node.outputs[0]
        return [
            Same((x, axis), (y, parts[0])) if len(parts) == 1 else Grid(((x, axis),), tuple((y, b) for b in parts))
            for axis, parts in self._groups(node, context)
        ]

    def reads(self, node: Node, context: Context, state: State) -> dict[int, Demand | None]:
        live = state.live(node.outputs[0])
        if not all(mask.any() for mask in live):
            return {}
        demand = everything(node.inputs[0], context)
        for axis, parts in self._groups(node, context):
            grid: np.ndarray = np.ones((), bool)
            for b in parts:
                grid = grid[..., None] & live[b]
            demand[axis] = grid.reshape(-1)
        return {**dict.fromkeys(_shapes(node, context, state)), 0: demand}

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        split, y = self._movement(node), node.outputs[0]
        if _stays(node, cut):
            return Rewrite()
        target = []
        for g, size in enumerate(split.sizes):
            left = cut.indices(y, split.order.index(g))
            copied = g < len(split.axes) and split.axes[g] == (g,)
            target.append(left.size if left is not None else size if isinstance(size, int) else 0 if copied else -1)
        attributes, operands = _dropped(node)
        moved = None if list(split.order) == sorted(split.order) else ("Transpose", None, {"perm": list(split.order)})
        return Rewrite(attributes, {**operands, 1: np.array(target, np.int64)}, op="Reshape", behind=moved)


for _planned, _movement in ((Selection(), Selected), (Reordering(), Reordered), (Splitting(), Split)):
    register(_planned, _movement.__name__, domain=PLANNED)
