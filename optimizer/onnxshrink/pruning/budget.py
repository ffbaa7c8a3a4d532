"""Budgets: what the caller allows, and the selection that just keeps to it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError


@dataclass(frozen=True)
class Budget:
    """Exactly one of these.

    Attributes:
        macs, parameters, latency: share of the original's that may stay, above 0 and below 1.
        error: largest error on held-out data.
        drop: largest drop of the caller's metric.
        evaluate: the caller's metric of a model file; more is better.
    """

    macs: float | None = None
    parameters: float | None = None
    latency: float | None = None
    error: float | None = None
    drop: float | None = None
    evaluate: Callable[[Path], float] | None = None

    def check(self) -> None:
        """Raise InputError unless exactly one budget is given and makes sense."""
        given = [self.macs, self.parameters, self.latency, self.error, self.drop]
        if sum(value is not None for value in given) != 1 or (self.evaluate is None) != (self.drop is None):
            raise InputError(
                "give exactly one budget",
                cure="--keep-macs, --keep-parameters, --keep-latency, --max-error, or --evaluate with --max-drop",
            )
        shares = ("--keep-macs", self.macs), ("--keep-parameters", self.parameters), ("--keep-latency", self.latency)
        for name, share in shares:
            if share is not None and not 0 < share < 1:
                raise InputError(f"{name} {share:.4g} is no share between 0 and 1", cure=f"{name} 50%")
        for name, limit in (("--max-error", self.error), ("--max-drop", self.drop)):
            if limit is not None and not 0 <= limit < float("inf"):
                raise InputError(f"{name} {limit:g} is no number from 0 up")


def metric(evaluate: Callable[[Path], float], name: str, model: Path) -> float:
    """The caller's metric of a model file.

    Raises:
        InputError: it raises, or gives no finite number.
    """
    try:
        value = float(evaluate(model))
    except Exception as error:  # whatever the caller's function raises
        raise InputError(f"raised {type(error).__name__}: {error}", file=name) from error
    if value != value or abs(value) == float("inf"):
        raise InputError(f"gave {value}, which is no metric", file=name)
    return value


def longest(count: int, allowed: Callable[[int], bool]) -> int:
    """The longest prefix of `count` that is allowed, found by halving; 0 where not even one unit is."""
    low, high = 0, count + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle)
    return low
