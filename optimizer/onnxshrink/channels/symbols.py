"""Symbolic dimensions inside shape arithmetic: which element of an integer tensor is which dimension.

`Shape` of a tensor with a dynamic batch gives ("batch", 64, ...); Gather, Concat and their like only move such
elements, so they are evaluated with a sentinel integer in each symbol's place. Arithmetic forgets symbols: of what it
makes of them only its place among the others is known.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..graph.view import Dim, Node, Shape
from ..ops.evaluate import evaluate

MOVES = {
    *("Gather", "Concat", "Unsqueeze", "Squeeze", "Slice", "Cast", "Identity", "Reshape", "Split", "Flatten", "Where")
}
ARITHMETIC = {"Add", "Div", "Mul"}
"""Of numbers that are not negative they make such numbers again: a size that nobody knows, but no -1."""

FIRST = -(1 << 40)
UNKNOWN = -(1 << 50)


def elements(
    nodes: Iterable[Node], integers: dict[str, np.ndarray], shape_of: Callable[[Node], Shape | None], opset: int
) -> dict[str, list[Dim]]:
    """Elements of integer vectors and scalars: an int, a dimension's name, or None.

    Args:
        nodes: to follow, in order.
        integers: tensors whose values are all known.
        shape_of: the dimensions that a Shape node lists its part of.
        opset: of the default domain.
    """
    names: list[str] = []
    codes: dict[str, int] = {}
    arrays: dict[str, np.ndarray] = {n: a for n, a in integers.items() if a.ndim <= 1 and a.size <= 64}

    def code(dim: Dim) -> int:
        if isinstance(dim, int):
            return dim
        if dim is None:
            return UNKNOWN
        if dim not in codes:
            codes[dim] = FIRST - len(names)
            names.append(dim)
        return codes[dim]

    for node in nodes:
        if node.outputs[0] in arrays or node.domain:
            continue
        if node.op == "Shape":
            shape = shape_of(node)
            if shape is not None:
                start, end = node.attr("start", 0), node.attr("end", len(shape))
                arrays[node.outputs[0]] = np.array([code(d) for d in shape][start:end], np.int64)
        elif node.op in MOVES and node.inputs[0] in arrays and all(n in arrays for n in node.inputs if n):
            if node.op == "Cast" and node.attr("to") != 7:  # only int64 holds a sentinel
                continue
            results = evaluate(node.proto, [arrays[n] if n else None for n in node.inputs], opset)
            pairs = zip(node.outputs, results or [], strict=False)
            arrays |= {name: result for name, result in pairs if result.ndim <= 1 and result.size <= 64}
        elif node.op in ARITHMETIC and all(n in arrays and not _negative(arrays[n]).any() for n in node.inputs):
            pair = [arrays[n] for n in node.inputs]
            if all(a.dtype == np.int64 for a in pair):
                arrays[node.outputs[0]] = np.full(np.broadcast_shapes(*(a.shape for a in pair)), UNKNOWN)
        elif node.op == "Equal" and all(n in arrays for n in node.inputs):
            a, b = np.broadcast_arrays(*(arrays[n] for n in node.inputs))
            symbol = [v <= FIRST + 1 for v in (a, b)]
            decided = ~(symbol[0] | symbol[1]) | _negative(a) | _negative(b)
            if a.ndim <= 1 and decided.all():
                arrays[node.outputs[0]] = a == b
    back: dict[int, Dim] = {FIRST - k: name for k, name in enumerate(names)}

    def decode(value: int) -> Dim:
        return value if value > FIRST + 1 else back.get(value)

    return {n: [decode(int(v)) for v in np.atleast_1d(a)] for n, a in arrays.items() if a.dtype == np.int64}


def _negative(array: np.ndarray) -> np.ndarray:
    """Where elements are negative numbers: sentinels stand for sizes, which are not."""
    return (array < 0) & (array > FIRST + 1)
