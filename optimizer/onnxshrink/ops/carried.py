"""Contractions of one computed operand and one weight that have no bias of their own to take known features: a kept
feature k0 of known value carries the others, W'[k0] = sum_k (v_k / v_k0) W[k], along any axis of the weight.
"""

from __future__ import annotations

from abc import abstractmethod

import numpy as np

from ..graph.view import Node, is_float
from .contraction import Contraction, bearers, candidates
from .rule import Carrying, Context, Cut, Rewrite, State, free_slices
from .tie import Port


class Carried(Contraction):
    """What Einsum and DeformConv have in common; a subclass says which axes meet and what is wanted."""

    @abstractmethod
    def meeting(self, node: Node, context: Context) -> tuple[int, int, int, int] | None:
        """(computed operand, its axis of features, weight, its axis of features); None where nothing is carried."""

    @abstractmethod
    def wanted(self, node: Node, context: Context, state: State) -> np.ndarray:
        """Features that a live output has a non-zero weight for, [K]."""

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        axes = self.meeting(node, context)
        return None if axes is None else (node.inputs[axes[0]], axes[1])

    def _features(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Features of one value: (mask [K], value [K])."""
        port = self.absorbing_port(node, context)
        assert port is not None
        return free_slices(*port, context)

    def _bearers(self, node: Node, context: Context) -> np.ndarray:
        """Features that can carry what the others contribute, [K], cached."""
        axes = self.meeting(node, context)
        assert axes is not None
        uniform, value = self._features(node, context)
        weight = context.graph.constants.get(node.inputs[axes[2]])
        if weight is None or not is_float(weight.dtype):
            return np.zeros_like(uniform)

        def compute() -> np.ndarray:
            others = tuple(a for a in range(weight.ndim) if a != axes[3])
            strength = np.abs(weight.astype(np.float64)).max(axis=others, initial=0)
            return bearers(uniform & (value != 0), value, strength, weight.dtype)

        found: np.ndarray = context.cached((node.index, "bearers"), compute)
        return found

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        uniform, value = self._features(node, context)
        carries = bool(self._bearers(node, context).any())
        return uniform & (value == 0), uniform & (value != 0) & carries

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        _, value = self._features(node, context)
        size = np.where(self._bearers(node, context) & kept, np.abs(value), 0.0)
        return np.array([size.argmax() if size.any() else -1])

    def demanded(self, node: Node, wanted: np.ndarray, context: Context, state: State) -> np.ndarray:
        """The wanted features without those that the node can do without, and the carrier that stands for them."""
        port = self.absorbing_port(node, context)
        assert port is not None
        kept, (free, carried) = state.kept(port), self.absorbs(node, context)
        demand = wanted & ~((free | carried) & ~kept)
        carrier = self.carriers(node, context, kept)[0]
        if carrier >= 0 and (wanted & carried & ~kept).any():
            demand[carrier] = True
        return demand

    def carrying(self, node: Node, context: Context, state: State) -> Carrying | None:
        port = self.absorbing_port(node, context)
        if port is None:
            return None
        kept = state.kept(port)
        missing = self.wanted(node, context, state) & self.absorbs(node, context)[1] & ~kept
        if not missing.any() or self.carriers(node, context, kept)[0] >= 0:
            return None
        return Carrying(port, candidates(missing, self._bearers(node, context)), np.abs(free_slices(*port, context)[1]))

    def rewrite(self, node: Node, cut: Cut) -> Rewrite:
        context, axes = cut.context, self.meeting(node, cut.context)
        port = self.absorbing_port(node, context)
        into = None if port is None else cut.indices(*port)
        if axes is None or port is None or into is None or node.inputs[axes[2]] not in context.graph.constants:
            return Rewrite()
        _, _, weight, axis = axes
        kept = np.zeros(context.size(*port) or 0, bool)
        kept[into] = True
        _, value = free_slices(*port, context)
        gone = np.flatnonzero((value != 0) & ~kept & self.read(node, context))
        carrier = self.carriers(node, context, kept)[0]
        if not gone.size or carrier < 0:
            return Rewrite()
        stored = context.graph.constants[node.inputs[weight]]
        moved = np.moveaxis(stored.astype(np.float64), axis, 0)
        moved[carrier] += np.tensordot(value[gone] / value[carrier], moved[gone], axes=1)
        packed = np.moveaxis(moved, 0, axis)
        for other in range(packed.ndim):
            where = cut.indices(node.inputs[weight], other)
            packed = packed if where is None else packed.take(where, other)
        return Rewrite(inputs={weight: np.ascontiguousarray(packed.astype(stored.dtype))})
