"""Convolutions and products of integers: QLinearConv, ConvInteger, QLinearMatMul, MatMulInteger and their kin.

Each sums (x - x_zero) (w - w_zero) exactly. A slice of either side that equals its zero point adds nothing, not even at
a border, which is padded with the zero point; it need not stay. Any other known slice stays: integers of a weight take
up no factor of another channel.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..graph.view import Node
from .contraction import Contraction
from .fact import Fact, collapse
from .rule import Context
from .steps import neutral, requantized


@dataclass(frozen=True)
class Ports:
    """Input indices of a layer of integers; -1 for what the operator does not have.

    `per_output` are scales and zero points that may have an entry for each output channel.
    """

    x: int
    x_zero: int
    w: int
    w_zero: int
    bias: int = -1
    x_scale: int = -1
    w_scale: int = -1
    y_scale: int = -1
    y_zero: int = -1

    @property
    def per_output(self) -> tuple[int, ...]:
        return (self.w_scale, self.w_zero, self.y_scale, self.y_zero)


class IntegerLayer(Contraction):
    """A convolution or product of integers: a sum, then a rounding to the output's own steps where it has some."""

    def __init__(self, ports: Ports):
        self.ports = ports

    def name(self, node: Node, index: int) -> str:
        """Tensor id of an input by its index in `ports`, "" where there is none."""
        return node.input(index) if index >= 0 else ""

    def centred(self, node: Node, context: Context, outputs: int) -> np.ndarray | None:
        """The weight without its zero point; None where either is not known.

        Args:
            outputs: axis of the weight that counts outputs, which a zero point with several entries goes along.
        """
        name, zero_name = node.inputs[self.ports.w], self.name(node, self.ports.w_zero)

        def compute() -> np.ndarray | None:
            weight = context.array(name)
            zero = context.array(zero_name) if zero_name else np.zeros((), np.int16)
            if weight is None or zero is None or zero.ndim > 1:
                return None
            if zero.size not in (1, weight.shape[outputs]):
                return None
            shape = [zero.size if a == outputs else 1 for a in range(weight.ndim)]
            wide = np.dtype(np.int16 if weight.dtype.itemsize == 1 else np.int64)
            return np.asarray(weight.astype(wide) - zero.astype(wide).reshape(shape))

        found: np.ndarray | None = context.derived(name, f"centred {node.index}", compute)
        return found

    def neutral(self, node: Node, context: Context, axis: int) -> np.ndarray:
        """Slices of the input that equal its zero point, bool [n]."""
        return neutral(node.inputs[self.ports.x], self.name(node, self.ports.x_zero), axis, context)

    def contributions(self, node: Node, context: Context) -> np.ndarray:
        port = self.absorbing_port(node, context)
        value = super().contributions(node, context)
        return value if port is None else np.where(self.neutral(node, context, port[1]), 0.0, value)

    def carriers(self, node: Node, context: Context, kept: np.ndarray) -> np.ndarray:
        return np.full(self.groups(node), -1)

    @staticmethod
    def groups(node: Node) -> int:
        """Groups of a convolution; a product has one."""
        return int(node.attr("group", 1))

    def scaled(self, node: Node, total: Fact, axis: int, context: Context) -> Fact | None:
        """The fact of the output from that of its sum of products, bias included.

        Args:
            total: of the sum as int64, with bounds.
            axis: the output's channel axis, which scales of the weight go along.
        """
        low, high = total.bounds()
        if self.ports.y_scale < 0:
            dtype = np.dtype(np.int32)
            inside = (np.abs(low) < 2**31) & (np.abs(high) < 2**31)
            low, high = np.where(inside, low, -np.inf), np.where(inside, high, np.inf)
            known = inside & (low == high)
            return collapse(Fact(np.where(known, low, 0).astype(dtype), known, low, high))
        factor = np.ones(())
        for index in (self.ports.x_scale, self.ports.w_scale):
            scale = context.array(self.name(node, index))
            if scale is None or not (scale > 0).all() or scale.ndim > 1:
                return None
            if index == self.ports.x_scale and scale.size > 1:  # one for each row
                return None
            shape = [-1 if a == axis % total.rank else 1 for a in range(total.rank)]
            factor = factor * scale.astype(np.float64).reshape(shape)
        return requantized(node, (low * factor, high * factor), self.ports.y_scale, self.ports.y_zero, context)


def between(low: np.ndarray, high: np.ndarray) -> Fact:
    """The fact of a sum between two bounds."""
    known = low == high
    return Fact(np.where(known, low, 0).astype(np.int64), known, low, high)
