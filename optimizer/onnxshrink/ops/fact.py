"""What is known of a tensor's values: a mask, the values under it, and bounds for floats.

All arrays have the tensor's rank and are broadcastable to its shape: along an axis of unknown size, or along
which nothing varies, they have length one. So facts stay small, and an operator's fact is the operator itself,
evaluated on the fact arrays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..graph.view import Shape, is_float

CAP = 1 << 24
"""Largest number of elements that a fact may hold, but for constants and what is made of them without growing."""


@dataclass(frozen=True)
class Fact:
    """Values where `known`, and bounds `low` <= x <= `high` (float64, infinite where unbounded) for floats.

    `low` and `high` are None when nothing is known beyond `value`.
    """

    value: np.ndarray
    known: np.ndarray
    low: np.ndarray | None = None
    high: np.ndarray | None = None

    def __post_init__(self) -> None:
        assert self.value.ndim == self.known.ndim, "fact arrays have the rank of their tensor"

    @property
    def rank(self) -> int:
        return self.value.ndim

    @property
    def all_known(self) -> bool:
        return bool(self.known.all())

    def zero(self) -> np.ndarray:
        """Mask of the elements known to be zero."""
        return self.known & (self.value == 0)

    def bounds(self) -> tuple[np.ndarray, np.ndarray]:
        """Bounds of every element in float64; known values bound themselves."""
        low = self.low if self.low is not None else np.full((1,) * self.rank, -np.inf)
        high = self.high if self.high is not None else np.full((1,) * self.rank, np.inf)
        if self.known.any():
            value = self.value.astype(np.float64)
            low, high = np.where(self.known, value, low), np.where(self.known, value, high)
        return low, high

    def map(self, function) -> Fact:  # type: ignore[no-untyped-def]
        """The fact of a tensor whose elements are this one's, moved by `function` on arrays."""
        return Fact(
            function(self.value),
            function(self.known),
            None if self.low is None else function(self.low),
            None if self.high is None else function(self.high),
        )

    def but(self, doubtful: np.ndarray) -> Fact:
        """The same fact, with the values where `doubtful` (broadcastable) not known any more; bounds stay."""
        return replace(self, known=self.known & ~doubtful)

    def expand(self, shape: Shape, axes: list[int] | None = None) -> Fact | None:
        """The same fact with `axes` (default: all) at their full length; None if a size is unknown or too large."""
        wanted = range(self.rank) if axes is None else axes
        target = [1] * self.rank
        for axis in wanted:
            size = shape[axis]
            if not isinstance(size, int):
                return None
            target[axis] = size

        def stretch(array: np.ndarray) -> np.ndarray:
            return np.broadcast_to(array, np.broadcast_shapes(array.shape, tuple(target)))

        grown = np.prod(np.broadcast_shapes(self.value.shape, tuple(target)), dtype=np.int64)
        return self.map(stretch) if fits(grown, self) else None


def fits(size: int | np.integer, *sources: Fact) -> bool:
    """Whether a fact of so many elements may be made of these."""
    return int(size) <= max(CAP, *(fact.value.size for fact in sources))


def constant(array: np.ndarray) -> Fact:
    """The fact of a tensor whose values are all known."""
    return Fact(array, np.ones((1,) * array.ndim, bool))


def unknown(rank: int, dtype: np.dtype) -> Fact:
    """The fact that says nothing."""
    return Fact(np.zeros((1,) * rank, dtype), np.zeros((1,) * rank, bool))


def denormal(value: np.ndarray) -> np.ndarray:
    """Where values are so small that a runtime's approximation of an operator may give another one, such as zero; those
    for float64 are made for the range of float32. 16-bit floats are computed in wider ones.
    """
    if value.dtype not in (np.float32, np.float64):
        return np.zeros(value.shape, bool)
    return np.asarray((value != 0) & (np.abs(value) < np.finfo(np.float32).tiny))


CANCELLED = 1e-5
"""A sum that is smaller than its terms by this much is their rounding."""


def cancelled(value: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Where a sum of known terms is not known: they cancel, and what is left is rounding, another one for each order of
    summation and for each implementation of what made the terms.

    Args:
        value: the sum.
        size: the sum of the terms' absolute values; 0 where the terms are exact.
    """
    return np.asarray((np.abs(value.astype(np.float64)) <= CANCELLED * size) & (size > 0))


def collapse(fact: Fact | None) -> Fact | None:
    """The same fact with axes of length one where nothing varies; None if it says nothing at all."""
    if fact is None:
        return None
    low, high = fact.low, fact.high
    if low is not None and high is not None and not np.isfinite(low).any() and not np.isfinite(high).any():
        low = high = None
    if low is None and not fact.known.any():
        return None
    fact = Fact(np.where(fact.known, fact.value, np.zeros((), fact.value.dtype)), fact.known, low, high)

    def shrink(array: np.ndarray) -> np.ndarray:
        for axis, size in enumerate(array.shape):
            if size > 1:
                first = array.take([0], axis)
                if array.dtype.kind == "f":
                    equal = bool(((array == first) | (np.isnan(array) & np.isnan(first))).all())
                else:
                    equal = bool((array == first).all())
                if equal:
                    array = first
        return array

    return fact.map(shrink)


def _lengths(fact: Fact, axis: int) -> tuple[int, int]:
    return fact.value.shape[axis], fact.known.shape[axis]


def slices(fact: Fact | None, axis: int, size: int) -> tuple[np.ndarray, np.ndarray]:
    """What is known slice by slice along one axis.

    Returns:
        uniform [size]: all elements of the slice are known and have one value;
        value [size] float64: that value where uniform, else 0.
    """
    if fact is None or fact.rank == 0 or fact.value.size == 0 or not {*_lengths(fact, axis)} <= {1, size}:
        no = np.zeros(size, bool)  # of an axis whose length nobody inferred there are no slices to speak of
        return no, np.zeros(size)
    others = tuple(a for a in range(fact.rank) if a != axis)
    known = np.broadcast_to(fact.known.all(axis=others), (size,)).copy()
    values = fact.value
    if values.dtype.kind not in "iub" and not is_float(values.dtype):
        return np.zeros(size, bool), np.zeros(size)
    first = values[tuple(slice(None) if a == axis else slice(0, 1) for a in range(fact.rank))]
    uniform = known & np.broadcast_to((values == first).all(axis=others), (size,))
    value = np.broadcast_to(first.reshape(-1).astype(np.float64), (size,))
    uniform &= np.isfinite(value)
    return uniform, np.where(uniform, value, 0.0)
