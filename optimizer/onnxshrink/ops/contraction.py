"""What convolutions and products have in common: layers with weights, which can do without inputs of known value."""

from __future__ import annotations

import numpy as np

from ..graph.view import Node
from .rule import Context, Rule
from .tie import Port


class Contraction(Rule):
    """Y = sum over input channels of weight times input. A known input channel is a known addend."""

    family = "contraction"

    def absorbing_port(self, node: Node, context: Context) -> Port | None:
        """The port whose slices of known value this node can do without; None where the node is not understood."""
        raise NotImplementedError

    def read(self, node: Node, context: Context) -> np.ndarray:
        """Slices of the absorbing port that any output has a non-zero weight for, bool [C]."""
        raise NotImplementedError

    def absorbs(self, node: Node, context: Context) -> tuple[np.ndarray, np.ndarray]:
        """Slices of the absorbing port that the node can do without: (zero or by bias [C], by carrier [C])."""
        raise NotImplementedError

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        """For each group the kept slice of largest known value, -1 where there is none."""
        raise NotImplementedError
