"""One node with what is known of its operands, and the questions that predicates ask of it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from .shapes import Dim, Facts, Shape, attribute


@dataclass(frozen=True)
class Op:
    """One node with what is known of its operands."""

    node: onnx.NodeProto
    facts: Facts
    version: int

    def has(self, i: int) -> bool:
        return i < len(self.node.input) and bool(self.node.input[i])

    def shape(self, i: int) -> Shape:
        return self.facts.shape(self.node.input[i]) if self.has(i) else None

    def dim(self, i: int, axis: int) -> Dim:
        shape = self.shape(i)
        return shape[axis] if shape is not None and -len(shape) <= axis < len(shape) else None

    def integers(self, i: int) -> list[Any] | None:
        return self.facts.integers(self.node.input[i]) if self.has(i) else None

    def attr(self, name: str, default: Any = None) -> Any:
        return attribute(self.node, name, default)


Findings = Iterator[str]


def differ(a: Dim, b: Dim) -> bool:
    """Both are numbers, and not the same."""
    return isinstance(a, int) and isinstance(b, int) and a != b


def text(shape: Shape) -> str:
    """A shape as people write it; `?` for what is not known."""
    return "[" + ", ".join("?" if d is None else str(d) for d in shape) + "]" if shape is not None else "[unknown]"


def outside(axis: int, shape: Shape, extra: int = 0) -> str | None:
    """A sentence if `axis` is certainly none of the shape's, of which there are `extra` more."""
    size = len(shape) + extra if shape is not None else None
    return f"axis {axis} is outside of rank {size}" if size is not None and not -size <= axis < size else None


def vector(op: Op, i: int, what: str, size: Dim, source: str) -> Findings:
    """Operand i, where it is a vector, must have `size` elements."""
    shape = op.shape(i)
    if shape is not None and len(shape) == 1 and differ(shape[0], size):
        yield f"{what} has {shape[0]} elements, {source} {size}"


def broadcast_to(small: Shape, large: Shape, what: str, target: str) -> Findings:
    """`small` must be broadcastable to `large` without growing it."""
    if small is None or large is None:
        return
    short = len(small) - len(large)
    if any(isinstance(d, int) and d != 1 for d in small[: max(short, 0)]):
        yield f"{what} {text(small)} has more axes than the {target} {text(large)}"
        return
    for a, b in zip(reversed(small), reversed(large), strict=False):
        if a != 1 and differ(a, b):
            yield f"{what} {text(small)} does not broadcast to the {target} {text(large)}"
            return


def clash(shapes: Sequence[Shape]) -> bool:
    """Whether shapes certainly do not broadcast against each other (multidirectional, NumPy's rule)."""
    known = [s for s in shapes if s is not None]
    for back in range(1, max((len(s) for s in known), default=0) + 1):
        sizes = {s[-back] for s in known if len(s) >= back}
        if len({d for d in sizes if isinstance(d, int) and d != 1}) > 1:
            return True
    return False


def count(shape: Shape) -> int | None:
    """The number of elements, if it is known."""
    numbers = [d for d in shape or () if isinstance(d, int)]
    return math.prod(numbers) if shape is not None and len(numbers) == len(shape) else None
