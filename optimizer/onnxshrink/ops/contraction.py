"""What convolutions and products have in common: layers with weights, which can do without inputs of known value."""

from __future__ import annotations

from abc import ABC, abstractmethod

import numpy as np

from ..graph.view import Node, is_plain_float
from .rule import Context, Rule, free_slices
from .tie import Port


class Contraction(Rule, ABC):
    """Y = sum over input channels of weight times input. A known input channel is a known addend."""

    family = "contraction"

    @abstractmethod
    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        """The port whose slices of known value this node can do without; None where the node is not understood."""

    @abstractmethod
    def read(self, node: Node, context: Context) -> np.ndarray:
        """Slices of the absorbing port that any output has a non-zero weight for, bool [C]."""

    @abstractmethod
    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Slices of the absorbing port that the node can do without: (zero or by bias [C], by carrier [C])."""

    def contributions(self, node: Node, context: Context) -> np.ndarray:
        """What slices of the absorbing port are worth where that is known, float64 [C]; 0 adds nothing."""
        port = self.absorbing_port(node, context)
        return np.zeros(0) if port is None else free_slices(*port, context)[1]

    @abstractmethod
    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        """For each group the kept slice of largest known value, -1 where there is none."""


def largest(dtype: np.dtype) -> float:
    """The largest number of a float type, with room for rounding; bfloat16 reaches as far as float32."""
    return float(np.finfo(dtype if is_plain_float(dtype) else np.float32).max) / 2


def bearers(known: np.ndarray, value: np.ndarray, strength: np.ndarray, dtype: np.dtype, groups: int = 1) -> np.ndarray:
    """Slices that can carry all the others of their group: what their weights become does not overflow.

    With v the values and k0 the carrier, |W'| <= sum over k of |v_k / v_k0| |W_k|.

    Args:
        known: slices of one value that is not zero, bool [C].
        value: those values [C].
        strength: largest absolute weight that reads each slice [C].
        dtype: type of the weights.
        groups: carriers serve their own group only.
    """
    moved = np.where(known, np.abs(value) * strength, 0.0).reshape(groups, -1).sum(axis=1)
    moved = np.repeat(moved, known.size // groups)
    return known & (moved <= np.abs(value) * largest(dtype))


def candidates(missing: np.ndarray, bearing: np.ndarray, groups: int = 1) -> np.ndarray:
    """Slices of which one must stay: those that are missing and can carry, else any of the group that can, [C]."""
    apt = (missing & bearing).reshape(groups, -1)
    none = missing.reshape(groups, -1).any(axis=1) & ~apt.any(axis=1)
    return np.where(none[:, None], bearing.reshape(groups, -1), apt).reshape(-1)
