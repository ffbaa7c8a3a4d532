"""Two arrays held against each other: how far apart, where, and whether that is rounding.

All of it is relative to max|y| of the original: element-wise relative errors are meaningless next to zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..graph.view import is_plain_float

LEAST = 1.2e-38
"""The smallest normal bfloat16 and float32: a runtime may flush to zero what is smaller."""


@dataclass(frozen=True)
class Difference:
    """`absolute`: the largest |a - b|, at `index`; `scale`: max|a|, but no less than the type's smallest normal number;
    `mismatch`: why no number says it, or None.
    """

    absolute: float = 0.0
    scale: float = 0.0
    index: tuple[int, ...] = ()
    mismatch: str | None = None

    @property
    def relative(self) -> float:
        """Largest difference relative to max|a|: 0 where both are 0, infinite where they cannot be compared."""
        if self.mismatch is not None:
            return float("inf")
        if self.absolute == 0:
            return 0.0
        return self.absolute / self.scale if self.scale else float("inf")


def difference(a: np.ndarray, b: np.ndarray) -> Difference:
    """How far `b` is from `a`; shapes, dtypes and the places of NaN and infinities must agree."""
    if a.dtype != b.dtype:
        return Difference(mismatch=f"dtype {b.dtype} instead of {a.dtype}")
    if a.shape != b.shape:
        return Difference(mismatch=f"shape {list(b.shape)} instead of {list(a.shape)}")
    if a.size == 0:
        return Difference()
    if not is_float(a):
        return _discrete(a, b)
    least = float(np.finfo(a.dtype).tiny) if is_plain_float(a.dtype) else LEAST
    a, b = _wide(a), _wide(b)
    with np.errstate(all="ignore"):
        apart = np.abs(a - b)
        finite = np.isfinite(apart)
        if not finite.all():
            agrees = (a == b) | (np.isnan(a) & np.isnan(b))
            wrong = ~finite & ~agrees
            if wrong.any():
                index = _place(wrong.argmax(), a.shape)
                return Difference(index=index, mismatch=f"{b[index]} instead of {a[index]}")
            apart = np.where(finite, apart, 0)
            scale = float(np.max(np.abs(a), initial=0.0, where=np.isfinite(a)))
        else:
            scale = float(np.abs(a).max())
    where = int(apart.argmax())
    return Difference(float(apart.reshape(-1)[where]), max(scale, least), _place(where, a.shape))


def is_float(a: np.ndarray) -> bool:
    """Any float dtype, those of ml_dtypes (bfloat16, float8) included."""
    return a.dtype.kind == "f" or (a.dtype.kind == "V" and "float" in a.dtype.name)


def _wide(a: np.ndarray) -> np.ndarray:
    return a if a.dtype in (np.float32, np.float64) else a.astype(np.float32)


def _discrete(a: np.ndarray, b: np.ndarray) -> Difference:
    wrong = a != b
    if not wrong.any():
        return Difference()
    if a.dtype.kind not in "iu":
        index = _place(wrong.argmax(), a.shape)
        return Difference(index=index, mismatch=f"{b[index]} instead of {a[index]}")
    apart = np.abs(a.astype(np.float64) - b.astype(np.float64))
    where = int(apart.argmax())
    return Difference(
        float(apart.reshape(-1)[where]), float(np.abs(a.astype(np.float64)).max()), _place(where, a.shape)
    )


def _place(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(int(flat), shape))


def permuted(a: np.ndarray, b: np.ndarray, tolerance: float) -> bool:
    """Whether `b` is `a` with the slices along one axis in another order, within `tolerance` of max|a|."""
    if a.shape != b.shape or a.dtype != b.dtype or not is_float(a) or not np.isfinite(_wide(a)).all():
        return False
    for axis in range(a.ndim):
        orders = [_wide(x).sum(tuple(i for i in range(a.ndim) if i != axis), np.float64).argsort() for x in (a, b)]
        moved = [x.take(order, axis) for x, order in zip((a, b), orders, strict=True)]
        if a.shape[axis] > 1 and difference(moved[0], moved[1]).relative <= tolerance:
            return True
    return False


def spread(a: np.ndarray) -> float:
    """Max - min over max|y|: 0 where an output is the same everywhere and so proves little."""
    if a.size < 2 or (a.dtype.kind not in "fiub" and not is_float(a)):
        return 0.0
    wide = a.astype(np.float64)
    wide = wide[np.isfinite(wide)]
    largest = float(np.abs(wide).max(initial=0.0))
    return float(wide.max() - wide.min()) / largest if largest else 0.0


def flatten(names: Sequence[str], values: Sequence[Any]) -> dict[str, np.ndarray]:
    """Outputs by name; the parts of a sequence or map get names of their own."""
    result: dict[str, np.ndarray] = {}
    for name, value in zip(names, values, strict=True):
        if isinstance(value, np.ndarray):
            result[name] = value
        elif isinstance(value, dict):
            result |= flatten([f"{name}[{k}]" for k in value], list(value.values()))
        elif isinstance(value, (list, tuple)):
            result[f"{name}.length"] = np.array(len(value))
            result |= flatten([f"{name}[{i}]" for i in range(len(value))], value)
        else:
            result[name] = np.array(value)
    return result
