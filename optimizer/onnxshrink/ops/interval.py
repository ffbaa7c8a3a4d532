"""Interval arithmetic: how elementwise operators map bounds. Sums and products are widened by their rounding."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..graph.view import Node

Bounds = tuple[np.ndarray, np.ndarray]
"""Lower and upper bounds in float64, infinite where there are none."""

Limits = Callable[[Node, list[Bounds]], Bounds]
"""Bounds of an operator's output from those of its present inputs."""


def monotone(function: Callable[[np.ndarray, Node], np.ndarray]) -> Limits:
    """Limits of a rising or falling function of the first input that rounds no bound away (Relu, HardSigmoid)."""

    def limits(node: Node, bounds: list[Bounds]) -> Bounds:
        one, other = (function(bound, node) for bound in bounds[0])
        return np.minimum(one, other), np.maximum(one, other)

    return limits


def leaky(node: Node, bounds: list[Bounds]) -> Bounds:
    """LeakyRelu: increasing for slopes that are not negative."""
    alpha, (low, high) = node.attr("alpha", 0.01), bounds[0]
    if alpha < 0:
        return np.full_like(low, -np.inf), np.full_like(high, np.inf)
    return widen(np.where(low < 0, alpha * low, low), np.where(high < 0, alpha * high, high))


def clip(node: Node, bounds: list[Bounds]) -> Bounds:
    """Clip: both ends moved into the range, whose ends may be operands."""
    low, high = bounds[0]
    present = [i for i, name in enumerate(node.inputs) if name]
    said = (np.asarray(node.attr("min", -np.inf)), np.asarray(node.attr("max", np.inf)))
    at_least, at_most = (said[0], said[0]), (said[1], said[1])
    for position, index in enumerate(present[1:], 1):
        if index == 1:
            at_least = bounds[position]
        if index == 2:
            at_most = bounds[position]
    return (
        np.minimum(np.maximum(low, at_least[0]), at_most[0]),
        np.minimum(np.maximum(high, at_least[1]), at_most[1]),
    )


def fixed(least: float, most: float) -> Limits:
    """Limits that hold whatever the input."""

    def limits(node: Node, bounds: list[Bounds]) -> Bounds:
        shape = (1,) * bounds[0][0].ndim
        return np.full(shape, least), np.full(shape, most)

    return limits


ROUNDING = 1e-6
"""Relative slack for the rounding of one operation. Rounding is monotone, so a single one never changes a sign."""


def rounding(dtype: np.dtype) -> float:
    """Slack for a sum of many terms, relative to the sum of their sizes."""
    return 2e-2 if dtype.itemsize == 2 else ROUNDING


def widen(low: np.ndarray, high: np.ndarray) -> Bounds:
    """Room for the rounding of a sum or product."""
    return low - ROUNDING * np.abs(low), high + ROUNDING * np.abs(high)


def add(node: Node, bounds: list[Bounds]) -> Bounds:
    """Add and Sum."""
    return widen(sum(b[0] for b in bounds), sum(b[1] for b in bounds))  # type: ignore[arg-type]


def sub(node: Node, bounds: list[Bounds]) -> Bounds:
    """Sub."""
    (a, b), (c, d) = bounds
    return widen(a - d, b - c)


def mul(node: Node, bounds: list[Bounds]) -> Bounds:
    """Mul: the extremes are products of ends; 0 times anything is 0."""
    (a, b), (c, d) = bounds
    corners = [np.where((p == 0) | (q == 0), 0.0, p * q) for p in (a, b) for q in (c, d)]
    return widen(np.minimum.reduce(np.broadcast_arrays(*corners)), np.maximum.reduce(np.broadcast_arrays(*corners)))


def maximum(node: Node, bounds: list[Bounds]) -> Bounds:
    """Max."""
    lows, highs = [b[0] for b in bounds], [b[1] for b in bounds]
    return (
        np.maximum.reduce(np.broadcast_arrays(*lows)),
        np.maximum.reduce(np.broadcast_arrays(*highs)),
    )


def minimum(node: Node, bounds: list[Bounds]) -> Bounds:
    """Min."""
    lows, highs = [b[0] for b in bounds], [b[1] for b in bounds]
    return (
        np.minimum.reduce(np.broadcast_arrays(*lows)),
        np.minimum.reduce(np.broadcast_arrays(*highs)),
    )


def hard_sigmoid(x: np.ndarray, node: Node) -> np.ndarray:
    """HardSigmoid on an array."""
    return np.clip(node.attr("alpha", 0.2) * x + node.attr("beta", 0.5), 0.0, 1.0)
